/** From a configuration to the Layers that it describes: providers, registries, the gateway, the callers it knows. */
import { type FileSystem, Layer, type Path } from "effect"
import { FetchHttpClient } from "effect/http"
import { Gateway } from "../gateway/Gateway.ts"
import * as Registries from "../gateway/Registries.ts"
import * as IdentityKeys from "../modules/identity/IdentityKeys.ts"
import { compilePatterns } from "../modules/modelRegistry/ModelPattern.ts"
import * as Registry from "../modules/modelRegistry/Registry.ts"
import * as OutboundUndici from "../modules/outbound/OutboundUndici.ts"
import * as TypeRegistryFolder from "../modules/typeRegistry/TypeRegistryFolder.ts"
import * as TypeRegistryHttp from "../modules/typeRegistry/TypeRegistryHttp.ts"
import * as Anthropic from "../plugins/providers/anthropic/Anthropic.ts"
import * as Ollama from "../plugins/providers/ollama/Ollama.ts"
import * as OpenAi from "../plugins/providers/openai/OpenAi.ts"
import * as Sandbox from "../plugins/providers/sandbox/Sandbox.ts"
import type { Caller } from "../sdk/Caller.ts"
import { type FailureAction, type FailureKind, type RetryOptions, type Route } from "../sdk/Routes.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"
import type { GatewayConfig, ProviderConfig, RouteConfig } from "./GatewayConfig.ts"

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
      return OpenAi.layer(options)
    case "anthropic":
      return Anthropic.layer(options)
    case "ollama":
      return Ollama.layer(options)
    case "sandbox":
      return Sandbox.layer({ slug })
  }
}

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
  const keys = new Map<string, (id: string) => boolean>()
  for (const key of config.auth.keys) if (key.models !== undefined) keys.set(key.id, compilePatterns(key.models))
  return (caller: Caller) => {
    const rules = tenants.get(caller.tenant) ?? []
    const own = caller.keyId === undefined ? undefined : keys.get(caller.keyId)
    if (rules.length === 0 && own === undefined) return undefined
    return (id: string) => rules.every((allows) => allows(id)) && (own === undefined || own(id))
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

const identity = (config: GatewayConfig) =>
  config.auth.mode === "keys"
    ? IdentityKeys.layerKeys(config.auth.keys.map((key) => ({
      id: key.id,
      sha256: key.sha256,
      tenant: key.tenant,
      tags: key.tags,
      admin: key.admin,
      ...(key.user === undefined ? {} : { user: key.user }),
      ...(key.expires === undefined ? {} : { expiresAt: key.expires })
    })))
    : IdentityKeys.layerNone()

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

const routeOf = (name: string, config: RouteConfig): Route => ({
  name,
  policy: config.policy,
  models: config.models.map((model) => typeof model === "string" ? { model, weight: 1 } : model),
  ...(config.hedgeAfter === undefined ? {} : { hedgeAfterMs: config.hedgeAfter }),
  ...(config.timeouts === undefined ? {} : { timeouts: config.timeouts }),
  ...(config.attempts === undefined ? {} : { attempts: config.attempts }),
  ...(config.retry === undefined ? {} : { retry: retryOptions(config.retry) }),
  ...(config.onFailure === undefined ? {} : { onFailure: failureActions(config.onFailure) }),
  ...(config.minTokensPerSecond === undefined ? {} : { minTokensPerSecond: config.minTokensPerSecond })
})

/** The configured routes as the pipeline takes them. */
export const routesOf = (config: GatewayConfig): ReadonlyArray<Route> =>
  Object.entries(config.routes).map(([name, route]) => routeOf(name, route))

/** Everything that the configuration describes, short of the listening socket. */
export const layer = (config: GatewayConfig) => {
  const providers = Object.entries(config.providers).map(([slug, provider]) => providerLayer(slug, provider))
  const { attempts, retry, timeouts } = config.defaults
  return Gateway.layer({ timeouts, attempts, retry: retryOptions(retry) }).pipe(
    Layer.provideMerge(Registry.layer({ models: config.models, approvals: approvals(config) })),
    Layer.provideMerge(Layer.mergeAll(Layer.empty, ...providers)),
    Layer.provideMerge(Layer.mergeAll(
      Registries.layerWith(routesOf(config), config.models.map(({ id }) => id)),
      OutboundUndici.layerWith({
        breaker: config.defaults.breaker,
        connectTimeout: config.defaults.timeouts.connect
      }),
      typeRegistry(config),
      identity(config)
    ))
  )
}
