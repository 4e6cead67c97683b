/** From a configuration to the Layers that it describes: providers, registries, the gateway, the callers it knows. */
import { Effect, type FileSystem, Layer, type Path } from "effect"
import { FetchHttpClient } from "effect/http"
import type { UnknownPrice } from "../gateway/Admission.ts"
import { AttemptCounts } from "../gateway/AttemptCounts.ts"
import { Gateway } from "../gateway/Gateway.ts"
import { Health } from "../gateway/Health.ts"
import { Jobs } from "../gateway/Jobs.ts"
import { Places } from "../gateway/Places.ts"
import { compilePatterns } from "../modules/modelRegistry/ModelPattern.ts"
import { Memory } from "../modules/modelRegistry/Discovery.ts"
import * as Registry from "../modules/modelRegistry/Registry.ts"
import * as OutboundUndici from "../modules/outbound/OutboundUndici.ts"
import * as PublicFetchUndici from "../modules/publicFetch/PublicFetchUndici.ts"
import * as ToldHeaders from "../modules/outbound/ToldHeaders.ts"
import * as TypeRegistryFolder from "../modules/typeRegistry/TypeRegistryFolder.ts"
import * as TypeRegistryHttp from "../modules/typeRegistry/TypeRegistryHttp.ts"
import * as Anthropic from "../plugins/providers/anthropic/Anthropic.ts"
import * as Ollama from "../plugins/providers/ollama/Ollama.ts"
import * as OpenAi from "../plugins/providers/openai/OpenAi.ts"
import * as Sandbox from "../plugins/providers/sandbox/Sandbox.ts"
import type { Caller } from "../sdk/Caller.ts"
import * as Provider from "../sdk/Provider.ts"
import {
  type EmbedBatching,
  type FailureAction,
  type FailureKind,
  type RetryOptions,
  type Route,
  Routes
} from "../sdk/Routes.ts"
import { Tenants, tenantsOf } from "../sdk/Tenant.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"
import { UsageSinkRegistry } from "../sdk/UsageSink.ts"
import { fingerprint } from "./Fingerprint.ts"
import type { GatewayConfig, ProviderConfig, RouteConfig } from "./GatewayConfig.ts"
import * as Interceptors from "./Interceptors.ts"
import * as Overlay from "./Overlay.ts"
import { nanoUsd, policiesOf } from "./Policies.ts"
import { ProviderPool } from "./ProviderPool.ts"
import * as RealtimeSettings from "./RealtimeSettings.ts"
import * as Reloading from "./Reloading.ts"
import * as Stores from "./Stores.ts"
import * as Telemetry from "./Telemetry.ts"

/** The plugin of one configured provider. A new kind of provider is one more case. */
const providerLayer = (slug: string, config: ProviderConfig) => {
  const options = {
    slug,
    headers: config.headers,
    ...(config.baseUrl === undefined ? {} : { baseUrl: config.baseUrl }),
    ...(config.apiKey === undefined ? {} : { apiKey: config.apiKey }),
    ...(config.apiKeys.length === 0 ? {} : { apiKeys: config.apiKeys }),
    ...(config.unlistedModels === undefined ? {} : { unlistedModels: config.unlistedModels }),
    ...(config.discovery === undefined ? {} : { discoveryInterval: config.discovery.interval })
  }
  switch (config.type) {
    case "openai":
      return OpenAi.layer({
        ...options,
        ...(config.responsesApi === undefined ? {} : { responses: config.responsesApi })
      })
    case "anthropic":
      return Anthropic.layer(options)
    case "ollama":
      return Ollama.layer(options)
    case "sandbox":
      return Sandbox.layer({ slug })
  }
}

/** The provider, taken over from the configuration before where that said the same of it. */
const pooledProvider = (slug: string, config: ProviderConfig) =>
  Provider.layer(
    Effect.flatMap(ProviderPool, (pool) => pool.take(fingerprint([slug, config]), providerLayer(slug, config)))
  )

/** Patterns are compiled once: those of a key live as long as what is known of the key. */
const compiled = new WeakMap<ReadonlyArray<string>, (id: string) => boolean>()

const allows = (patterns: ReadonlyArray<string>): (id: string) => boolean => {
  const known = compiled.get(patterns)
  if (known !== undefined) return known
  const made = compilePatterns(patterns)
  compiled.set(patterns, made)
  return made
}

/** What the file says of a model; one that is not sold by the token has tokens for nothing. */
const overrideOf = ({ prices, ...model }: GatewayConfig["models"][number]): Registry.ModelOverride =>
  prices === undefined ? model : { ...model, prices: { inputMtok: 0, outputMtok: 0, ...prices } }

/** Which models a caller may use: what its tenant, each of the tenant's ancestors and its key all allow. */
const approvals = (config: GatewayConfig) => {
  const tenants = new Map<string, ReadonlyArray<(id: string) => boolean>>()
  for (const name of Object.keys(config.tenants)) {
    const rules: Array<(id: string) => boolean> = []
    for (let at: string | undefined = name; at !== undefined; at = config.tenants[at]?.parent) {
      const models = config.tenants[at]?.models
      if (models !== undefined) rules.push(compilePatterns(models))
    }
    tenants.set(name, rules)
  }
  return (caller: Caller) => {
    const rules = tenants.get(caller.tenant) ?? []
    const own = caller.restrictions?.models === undefined ? undefined : allows(caller.restrictions.models)
    if (rules.length === 0 && own === undefined) return undefined
    return (id: string) => rules.every((allowed) => allowed(id)) && (own === undefined || own(id))
  }
}

/** Where tool schemas come from; fails where the configured folder cannot be used. */
export const typeRegistry = (
  config: GatewayConfig
): Layer.Layer<TypeRegistry, TypeRegistryFolder.SchemaFolderError, FileSystem.FileSystem | Path.Path> => {
  const registry = config.typeRegistry
  if (registry?.folder !== undefined) return TypeRegistryFolder.layerFolder({ dir: registry.folder })
  if (registry?.url !== undefined) {
    return TypeRegistryHttp.layerHttp({ url: registry.url, ttl: registry.ttl }).pipe(
      Layer.provide(FetchHttpClient.layer)
    )
  }
  return TypeRegistry.layerEmpty
}

const retryOptions = (retry: GatewayConfig["defaults"]["retry"]): RetryOptions => ({
  baseMs: retry.base,
  maxMs: retry.max
})

/** The configured lines of the table of failures, under the names that the pipeline has for them. */
const failureActions = (
  config: NonNullable<RouteConfig["onFailure"]>
): Readonly<Partial<Record<FailureKind, FailureAction>>> => {
  const lines: ReadonlyArray<readonly [FailureKind, FailureAction | undefined]> = [
    ["caller", config.caller],
    ["credential", config.credential],
    ["quota", config.quota],
    ["transient", config.transient],
    ["protocol", config.protocol],
    ["contentPolicy", config.contentPolicy],
    ["contextLength", config.contextLength],
    ["timeout_connect", config.timeoutConnect],
    ["timeout_first_token", config.timeoutFirstToken],
    ["timeout_idle", config.timeoutIdle],
    ["timeout_answer", config.timeoutAnswer],
    ["timeout_total", config.timeoutTotal]
  ]
  const actions: Partial<Record<FailureKind, FailureAction>> = {}
  for (const [kind, action] of lines) if (action !== undefined) actions[kind] = action
  return actions
}

const batchingOf = ({ maxInputs, window }: NonNullable<RouteConfig["embedBatching"]>): EmbedBatching => ({
  windowMs: window,
  maxInputs
})

const routeOf = (name: string, config: RouteConfig): Route => ({
  name,
  policy: config.policy,
  models: config.models.map((model) => typeof model === "string" ? { model, weight: 1 } : model),
  ...(config.hedgeAfter === undefined ? {} : { hedgeAfterMs: config.hedgeAfter }),
  ...(config.timeouts === undefined ? {} : { timeouts: config.timeouts }),
  ...(config.attempts === undefined ? {} : { attempts: config.attempts }),
  ...(config.retry === undefined ? {} : { retry: retryOptions(config.retry) }),
  ...(config.onFailure === undefined ? {} : { onFailure: failureActions(config.onFailure) }),
  ...(config.minTokensPerSecond === undefined ? {} : { minTokensPerSecond: config.minTokensPerSecond }),
  ...(config.embedBatching === undefined ? {} : { embedBatching: batchingOf(config.embedBatching) })
})

/** The configured routes as the pipeline takes them. */
export const routesOf = (config: GatewayConfig): ReadonlyArray<Route> =>
  Object.entries(config.routes).map(([name, route]) => routeOf(name, route))

/** How long records gather before they are written, ms: what a process that is killed may lose, unless durability is strict. */
const recordsGather = 50

const unknownPrice = (configured: GatewayConfig["defaults"]["unknownPrice"]): UnknownPrice =>
  typeof configured === "string" ? configured : { flatNanoUsd: nanoUsd(configured.flatUsd) }

/** What no configuration says. */
export interface GatewayLayerOptions {
  /** As `BudgetOptions.graceMs`. */
  readonly graceMs?: number
  /** Where a reload gets the configuration from; absent: there is none. */
  readonly load?: Reloading.LoadConfig
}

/** How providers are reached. */
const outbound = ({ defaults, observability }: GatewayConfig, connectTimeout: () => number) => {
  const undici = OutboundUndici.layerWith({ breaker: defaults.breaker, connectTimeout })
  return observability.otlp !== undefined && observability.traces.tellProviders
    ? Layer.provideMerge(ToldHeaders.layer, undici)
    : undici
}

/** What a reload builds anew, over what it leaves as it is. */
const generation = (options: GatewayLayerOptions, memory: Memory) => (config: GatewayConfig) => {
  const providers = Object.entries(config.providers).map(([slug, provider]) => pooledProvider(slug, provider))
  const { attempts, budgetWarnings, embedBatching, retry, timeZone, timeouts } = config.defaults
  const gateway = Gateway.layer({
    timeouts,
    attempts,
    retry: retryOptions(retry),
    ...(embedBatching === undefined ? {} : { embedBatching: batchingOf(embedBatching) }),
    realtime: RealtimeSettings.sessions(config),
    ledger: { durability: config.usage.durability, lingerMs: recordsGather },
    budgets: {
      timeZone,
      unknownPrice: unknownPrice(config.defaults.unknownPrice),
      warnAt: budgetWarnings.map((percent) => percent / 100),
      isRemote: Stores.areRemote(config),
      ...(options.graceMs === undefined ? {} : { graceMs: options.graceMs })
    }
  })
  // Moderation asks the gateway's own models, so interceptors come last.
  return Interceptors.layer(config).pipe(
    Layer.provideMerge(gateway),
    Layer.provideMerge(Registry.layer({
      models: config.models.map(overrideOf),
      approvals: approvals(config),
      discovery: { memory }
    })),
    Layer.provideMerge(Layer.mergeAll(Layer.empty, ...providers)),
    Layer.provideMerge(Layer.mergeAll(
      Overlay.layer,
      Routes.layer(routesOf(config)),
      Layer.succeed(Tenants, tenantsOf(policiesOf(config))),
      typeRegistry(config)
    ))
  )
}

/** How many requests run at the same time, where the configuration bounds that. */
const places = ({ server: { concurrency } }: GatewayConfig) =>
  concurrency.max === undefined && concurrency.perTenant === undefined ? Layer.empty : Places.layer({
    ...(concurrency.max === undefined ? {} : { all: concurrency.max }),
    ...(concurrency.perTenant === undefined ? {} : { perTenant: concurrency.perTenant }),
    queue: concurrency.queue,
    patienceMs: concurrency.wait
  })

/** Everything that the configuration describes, short of the listening socket. */
export const layer = (config: GatewayConfig, options: GatewayLayerOptions = {}) => {
  const { concurrency, lease, maxUnfinished, ttl } = config.jobs
  // What a reload changes in what it does not build anew.
  let connectTimeout = config.defaults.timeouts.connect
  let takesContent = Telemetry.takesContentOf(config)
  return Jobs.layer({ concurrency, leaseMs: lease, maxUnfinished, ttlMs: ttl }).pipe(
    Layer.provideMerge(Reloading.layer({
      config,
      build: generation(options, new Memory()),
      replaced: (next) => {
        connectTimeout = next.defaults.timeouts.connect
        takesContent = Telemetry.takesContentOf(next)
      },
      ...(options.load === undefined ? {} : { load: options.load })
    })),
    Layer.provide(Layer.mergeAll(Overlay.Base.layer, ProviderPool.layer)),
    Layer.provideMerge(Telemetry.layer(config, (tenant) => takesContent(tenant)).pipe(Layer.provide(Routes.layer()))),
    Layer.provideMerge(Stores.layer(config)),
    Layer.provideMerge(Layer.mergeAll(
      Reloading.tenants(config),
      UsageSinkRegistry.layer,
      places(config),
      Health.layer,
      AttemptCounts.layer().pipe(Layer.provide(Routes.layer())),
      outbound(config, () => connectTimeout),
      PublicFetchUndici.layer({ allow: config.storage.fetch.allow, maxBytes: config.storage.fetch.maxSize })
    ))
  )
}
