/**
 * A gateway whose configuration can change while it runs. What one configuration describes is a generation: it is built whole
 * beside the one that runs, over the same stores, breakers and figures, and then put in its place. Requests that run
 * finish on their own generation, which is taken down after the last of them.
 *
 * Whoever asks for the gateway's services gets ones that hand each call to the generation of the moment: a field read.
 */
import { Cause, Context, DateTime, Effect, Exit, Layer, Option, Scope, Semaphore, Stream } from "effect"
import { hash } from "node:crypto"
import { AttemptCounts } from "../gateway/AttemptCounts.ts"
import { Gateway } from "../gateway/Gateway.ts"
import { RequestMetrics } from "../gateway/RequestMetrics.ts"
import { ConfiguredKeys } from "../modules/identity/KeysSql.ts"
import { AuditTrail } from "../sdk/AuditSink.ts"
import { Configuration, type ConfigurationStatus } from "../sdk/Configuration.ts"
import { fail, type GatewayError, invalid, NotFound } from "../sdk/GatewayError.ts"
import { DuplicateInterceptor, InterceptorRegistry } from "../sdk/Interceptor.ts"
import { ModelRegistry } from "../sdk/ModelRegistry.ts"
import { DuplicateProvider, ProviderRegistry } from "../sdk/Provider.ts"
import { Routes } from "../sdk/Routes.ts"
import * as Tenant from "../sdk/Tenant.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"
import type { GatewayConfig } from "./GatewayConfig.ts"
import { Base } from "./Overlay.ts"
import { policiesOf } from "./Policies.ts"
import { restartOnly } from "./RestartOnly.ts"
import { inactiveSections } from "./StartupNotices.ts"
import * as Stores from "./Stores.ts"

/** What is built anew for each configuration. */
export type Generated = Gateway | ModelRegistry | ProviderRegistry | InterceptorRegistry | Routes | TypeRegistry

/** Reads the configuration again. */
export type LoadConfig = Effect.Effect<GatewayConfig, { readonly message: string }>

/** How often it is looked whether the requests of a generation that was replaced are over, ms. */
const look = 1000
/** How long its connections stay open after that, ms: counts of tokens and lists of models are not among its requests. */
const linger = 60_000
/** How long a new configuration waits for what its providers say of their models, before it is put in place, ms. */
const discoveryPatience = 3000

// ---------------------------------------------------------------------------------------------------------------------
// Tenants
// ---------------------------------------------------------------------------------------------------------------------

/** The tenants of the moment. They are apart, since the stores that are built before the first generation ask for them. */
export class LiveTenants extends Context.Service<LiveTenants, { current: Tenant.Tenants["Service"] }>()(
  "llm-gateway/config/LiveTenants"
) {}

/** `Tenants` that can be replaced. */
export const tenants = (config: GatewayConfig): Layer.Layer<LiveTenants | Tenant.Tenants> =>
  Layer.effectContext(Effect.sync(() => {
    const live = { current: Tenant.tenantsOf(policiesOf(config)) }
    return Context.make(LiveTenants, live).pipe(Context.add(Tenant.Tenants, {
      lineage: (tenant) => live.current.lineage(tenant),
      isWithin: (tenant, ancestor) => live.current.isWithin(tenant, ancestor),
      family: (tenant) => live.current.family(tenant),
      all: () => live.current.all()
    }))
  }))

// ---------------------------------------------------------------------------------------------------------------------
// Generations
// ---------------------------------------------------------------------------------------------------------------------

interface Generation {
  readonly config: GatewayConfig
  readonly scope: Scope.Closeable
  readonly gateway: Gateway["Service"]
  readonly models: ModelRegistry["Service"]
  readonly providers: ProviderRegistry["Service"]
  readonly interceptors: InterceptorRegistry["Service"]
  readonly routes: Routes["Service"]
  readonly types: TypeRegistry["Service"]
}

/** Services that hand each call on. An app's own plugins register at the base, and so stay through all generations. */
const handingOn = (live: { readonly current: Generation }, base: Base["Service"]): Context.Context<Generated> =>
  Context.make(Gateway, {
    chat: (request, exchange) => Effect.suspend(() => live.current.gateway.chat(request, exchange)),
    streamChat: (request) => Stream.suspend(() => live.current.gateway.streamChat(request)),
    openChat: (request, exchange) => Effect.suspend(() => live.current.gateway.openChat(request, exchange)),
    embed: (request, exchange) => Effect.suspend(() => live.current.gateway.embed(request, exchange)),
    image: (request, exchange) => Effect.suspend(() => live.current.gateway.image(request, exchange)),
    video: (request, exchange) => Effect.suspend(() => live.current.gateway.video(request, exchange)),
    openImage: (request, exchange) => Effect.suspend(() => live.current.gateway.openImage(request, exchange)),
    speak: (request, exchange) => Effect.suspend(() => live.current.gateway.speak(request, exchange)),
    openSpeech: (request, exchange) => Effect.suspend(() => live.current.gateway.openSpeech(request, exchange)),
    transcribe: (request, exchange) => Effect.suspend(() => live.current.gateway.transcribe(request, exchange)),
    openTranscription: (request, exchange) =>
      Effect.suspend(() => live.current.gateway.openTranscription(request, exchange)),
    realtime: (request) => Effect.suspend(() => live.current.gateway.realtime(request)),
    openRealtime: (request, exchange) => Effect.suspend(() => live.current.gateway.openRealtime(request, exchange)),
    countTokens: (request, exchange) => Effect.suspend(() => live.current.gateway.countTokens(request, exchange)),
    models: Effect.suspend(() => live.current.gateway.models),
    model: (id) => Effect.suspend(() => live.current.gateway.model(id)),
    explain: (request) => Effect.suspend(() => live.current.gateway.explain(request)),
    routes: Effect.suspend(() => live.current.gateway.routes),
    budgets: Effect.suspend(() => live.current.gateway.budgets),
    running: () => live.current.gateway.running()
  }).pipe(
    Context.add(ModelRegistry, {
      resolve: (id, caller) => Effect.suspend(() => live.current.models.resolve(id, caller)),
      list: (caller) => Effect.suspend(() => live.current.models.list(caller)),
      refresh: Effect.suspend(() => live.current.models.refresh)
    }),
    Context.add(ProviderRegistry, {
      register: (provider) =>
        Effect.suspend(() =>
          live.current.providers.get(provider.slug) === undefined
            ? base.providers.register(provider)
            : Effect.fail(new DuplicateProvider({ slug: provider.slug }))
        ),
      get: (slug) => live.current.providers.get(slug),
      all: () => live.current.providers.all()
    }),
    Context.add(InterceptorRegistry, {
      register: (interceptor) =>
        Effect.suspend(() =>
          live.current.interceptors.ordered().some(({ name }) => name === interceptor.name)
            ? Effect.fail(new DuplicateInterceptor({ name: interceptor.name }))
            : base.interceptors.register(interceptor)
        ),
      ordered: () => live.current.interceptors.ordered()
    }),
    Context.add(Routes, { get: (name) => live.current.routes.get(name), all: () => live.current.routes.all() }),
    Context.add(TypeRegistry, {
      resolve: (ids) => Effect.suspend(() => live.current.types.resolve(ids)),
      inline: (schema) => Effect.suspend(() => live.current.types.inline(schema))
    })
  )

/** The models that a configuration names, which metrics tell apart. */
const namedModels = ({ models, routes }: GatewayConfig): ReadonlyArray<string> => [
  ...models.map(({ id }) => id),
  ...Object.values(routes).flatMap((route) =>
    route.models.map((model) => typeof model === "string" ? model : model.model)
  )
]

/** Which configuration this is; secrets are no part of it. */
export const identified = (
  { source, ...config }: GatewayConfig
): { readonly file: string; readonly sha256: string } => ({
  file: source?.file ?? "environment",
  sha256: hash("sha256", JSON.stringify(config), "hex")
})

const located = (config: GatewayConfig, path: string): string => {
  const { source } = config
  if (source === undefined) return path
  const line = source.lines.get(path) ?? source.lines.get(path.split(".", 1)[0] ?? "")
  return `${source.file}:${line ?? 1}: ${path}`
}

/** Why a running gateway cannot take a configuration over. */
const refusal = (running: GatewayConfig, next: GatewayConfig): string | undefined => {
  const paths = [...restartOnly(running, next), ...Stores.unkept(running, next)]
  if (paths.length > 0) {
    return paths.map((path) => `${located(next, path)}: a change of this needs a restart`).join("\n")
  }
  return Object.keys(next.providers).length === 0 && Object.keys(running.providers).length > 0
    ? `${next.source?.file ?? "environment"}: names no provider any more; a restart would take it over`
    : undefined
}

const messageOf = (cause: Cause.Cause<{ readonly message: string }>): string => {
  const failure = cause.reasons.find(Cause.isFailReason)
  return failure === undefined ? "it could not be built; the log says why" : failure.error.message
}

const notReloadable = fail(
  new NotFound({ message: "this gateway was not built from a file or an environment that can be read again" })
)

/** How a gateway is built, and where its configuration comes from. */
export interface ReloadingOptions<E, R> {
  readonly config: GatewayConfig
  /** Builds one generation. */
  readonly build: (config: GatewayConfig) => Layer.Layer<Generated, E, R>
  readonly load?: LoadConfig
  /** Called with each configuration that is put in the place of another. */
  readonly replaced: (config: GatewayConfig) => void
}

/** Builds the first generation, and those after it when asked to. */
export const layer = <E extends { readonly message: string }, R>(
  { build, config, load, replaced }: ReloadingOptions<E, R>
): Layer.Layer<Generated | Configuration, E, R | AttemptCounts | LiveTenants | Base> =>
  Layer.effectContext(Effect.gen(function*() {
    const parent = yield* Effect.scope
    const services = yield* Effect.context<R>()
    const base = yield* Base
    const counts = yield* AttemptCounts
    const liveTenants = yield* LiveTenants
    const keys = Option.getOrUndefined(yield* Effect.serviceOption(ConfiguredKeys))
    const audit = Option.getOrUndefined(yield* Effect.serviceOption(AuditTrail))

    const open = Effect.fnUntraced(function*(config: GatewayConfig): Effect.fn.Return<Generation, E> {
      const scope = Scope.forkUnsafe(parent)
      const built = yield* Layer.buildWithMemoMap(build(config), Layer.makeMemoMapUnsafe(), scope).pipe(
        Effect.provideContext(services),
        Effect.onError(() => Scope.close(scope, Exit.void))
      )
      return {
        config,
        scope,
        gateway: Context.get(built, Gateway),
        models: Context.get(built, ModelRegistry),
        providers: Context.get(built, ProviderRegistry),
        interceptors: Context.get(built, InterceptorRegistry),
        routes: Context.get(built, Routes),
        types: Context.get(built, TypeRegistry)
      }
    })

    const statusOf = Effect.fnUntraced(function*(config: GatewayConfig): Effect.fn.Return<ConfigurationStatus> {
      const { file, sha256 } = identified(config)
      return { source: file, sha256, loadedAt: DateTime.formatIso(yield* DateTime.now) }
    })

    const live = { current: yield* open(config) }
    const metrics = Option.getOrUndefined(yield* Effect.serviceOption(RequestMetrics))
    const tellApart = (config: GatewayConfig): void => {
      const models = namedModels(config)
      counts.tellApart(models)
      metrics?.tellApart(models)
    }
    tellApart(config)
    let status = yield* statusOf(config)

    const retired = ({ gateway, scope }: Generation) =>
      Effect.sleep(look).pipe(
        Effect.repeat({ until: () => gateway.running() <= 0 }),
        Effect.andThen(Effect.sleep(linger)),
        Effect.andThen(Scope.close(scope, Exit.void))
      )

    const putInPlace = Effect.fnUntraced(function*(next: Generation) {
      const loaded = yield* statusOf(next.config)
      const before = live.current
      live.current = next
      liveTenants.current = Tenant.tenantsOf(policiesOf(next.config))
      keys?.replace(next.config.auth.keys.map(Stores.apiKey))
      tellApart(next.config)
      replaced(next.config)
      status = loaded
      yield* Effect.forkIn(retired(before), parent)
      for (const { line, reason, section } of inactiveSections(next.config)) {
        yield* Effect.logWarning(`${loaded.source}:${line ?? 1}: ${section}: ${reason}`)
      }
      yield* Effect.logInfo("the configuration was read anew and is in force", {
        configuration: loaded.source,
        sha256: loaded.sha256,
        providers: Object.keys(next.config.providers)
      })
      audit?.emit({
        type: "configuration_changed",
        at: Date.parse(loaded.loadedAt),
        details: { file: loaded.source, sha256: loaded.sha256 }
      })
    })

    const refused = Effect.fnUntraced(function*(message: string): Effect.fn.Return<never, GatewayError> {
      status = { ...status, refused: { at: DateTime.formatIso(yield* DateTime.now), message } }
      yield* Effect.logError(`the configuration is not taken over, and the one before stays in force:\n${message}`)
      return yield* fail(invalid("configuration", message))
    })

    const reload = Effect.fnUntraced(function*(load: LoadConfig): Effect.fn.Return<ConfigurationStatus, GatewayError> {
      const read = yield* Effect.exit(load)
      if (Exit.isFailure(read)) return yield* refused(messageOf(read.cause))
      const problem = refusal(live.current.config, read.value)
      if (problem !== undefined) return yield* refused(problem)
      const built = yield* Effect.exit(open(read.value))
      if (Exit.isFailure(built)) {
        if (!built.cause.reasons.some(Cause.isFailReason)) yield* Effect.logError(built.cause)
        return yield* refused(messageOf(built.cause))
      }
      const next = built.value
      const known = new Set(live.current.providers.all())
      if (next.providers.all().some((provider) => provider.discover !== undefined && !known.has(provider))) {
        yield* Effect.timeoutOption(next.models.refresh, discoveryPatience)
      }
      yield* putInPlace(next)
      return status
    })

    const oneAtATime = yield* Semaphore.make(1)
    return Context.add(handingOn(live, base), Configuration, {
      status: () => status,
      // Whoever asked may go away; half a change must not be left behind.
      reload: load === undefined
        ? Effect.fail(notReloadable)
        : oneAtATime.withPermits(1)(Effect.uninterruptible(reload(load)))
    })
  }))
