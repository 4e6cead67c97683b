/**
 * From the model or route that was asked for to the plan of the request: who could serve it, in which order, within which
 * limits.
 *
 * A request names one model, or a route, and perhaps fallback models. Of all those, the ones stay that exist, that the
 * caller may use, and that can do what the request needs; the others are left out, each with its reason. A route's models
 * are ranked by its policy, fallback models keep their order behind them.
 */
import { Effect, Random } from "effect"
import type { Caller, RequestOptions, Timeouts } from "../sdk/Caller.ts"
import type { Fallback } from "../sdk/Chat.ts"
import {
  CapabilityNotSupported,
  fail,
  type GatewayError,
  invalid,
  ModelNotApproved,
  ModelNotFound
} from "../sdk/GatewayError.ts"
import { can, type Capability, type ModelInfo } from "../sdk/Model.ts"
import { ModelRegistry } from "../sdk/ModelRegistry.ts"
import { ProviderRegistry } from "../sdk/Provider.ts"
import { type RetryOptions, type Route, Routes } from "../sdk/Routes.ts"
import type { Exchange } from "./Exchange.ts"
import { Health } from "./Health.ts"
import type { Asked, Operation } from "./Operation.ts"
import type { Candidate, Plan, Skipped } from "./Plan.ts"
import { expectedOutput, rank, type RankInput } from "./Ranking.ts"
import { satisfies } from "./Requirements.ts"
import { effectiveTimeouts } from "./Timers.ts"

export type { Candidate } from "./Plan.ts"

/** The gateway's own limits, which hold where a route has none. */
export interface ResolutionOptions {
  readonly timeouts: Timeouts
  /** Attempts in all. */
  readonly attempts: number
  readonly retry: RetryOptions
}

/**
 * Plans a request. Fails with what the model registry says of the model, with `capability_not_supported`, or, where none
 * of a route's models can serve, with the error that fits their reasons.
 */
export type Resolve = <Request extends Asked>(
  exchange: Exchange,
  operation: Operation<Request>,
  request: Request,
  options: RequestOptions
) => Effect.Effect<Plan, GatewayError>

/** Models named in an error at most. */
const maxSuggestions = 10
/** Reasons listed in an error at most. */
const maxReasons = 20
/** Fallback models of one request at most; no budget of attempts reaches further. */
const maxFallback = 16
const maxShownId = 100

const shown = (id: string): string => id.length > maxShownId ? `${id.slice(0, maxShownId)}…` : id

// ---------------------------------------------------------------------------------------------------------------------
// One model
// ---------------------------------------------------------------------------------------------------------------------

/** The first thing that the request needs and this model cannot do. */
const missingCapability = (
  model: ModelInfo,
  missingCall: Capability | undefined,
  needed: ReadonlyArray<Capability>
): Capability | undefined => {
  for (const capability of needed) if (!satisfies(model, capability)) return capability
  return missingCall
}

const notRegistered = (model: ModelInfo): GatewayError =>
  fail(new ModelNotFound({ message: `the provider "${model.provider}" is not registered`, model: model.id }))

const unsupported = Effect.fnUntraced(function*(
  exchange: Exchange,
  models: ModelRegistry["Service"],
  model: ModelInfo,
  capability: Capability
): Effect.fn.Return<never, GatewayError> {
  const able = (yield* models.list(exchange.caller))
    .filter((other) => other.id !== model.id && other.capabilities !== undefined && can(other, capability))
    .slice(0, maxSuggestions)
    .map((other) => other.id)
  const hint = able.length === 0 ? "" : `; models that can: ${able.join(", ")}`
  return yield* fail(
    new CapabilityNotSupported({
      message: `${model.id} does not support ${capability}${hint}`,
      capability,
      model: model.id,
      models: able
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Several models
// ---------------------------------------------------------------------------------------------------------------------

/** A model that a request names, by itself or through a route. */
interface Named {
  readonly id: string
  readonly weight: number
  /** Whether it is the route's, and so takes part in the ranking. */
  readonly ranked: boolean
  /** Whether the caller named it, rather than a route. */
  readonly isOwn: boolean
}

/** What became of the named models. */
interface Sifted {
  readonly ranked: Array<RankInput>
  /** The others, in the order in which they were named. */
  readonly listed: Array<Candidate>
  /** Those that the caller may be told of: which models its tenant may not use, a route does not betray. */
  readonly skipped: Array<Skipped>
  /** The candidate with the largest context window among those that are only too small by estimate. */
  tooSmall: Candidate | undefined
  /** The error of the model that was named first, had it been named alone. */
  error: Effect.Effect<never, GatewayError> | undefined
  /** The first capability for which a model was left out. */
  capability: Capability | undefined
  /** Whether every model that was left out is one that the caller may not use. */
  allUnapproved: boolean
}

const tooLarge = "context window"

/** What is answered where a route, or a list of models, has no candidate left. */
const noneLeft = (what: string, name: string, sifted: Sifted): GatewayError => {
  const reasons = sifted.skipped.slice(0, maxReasons).map(({ model, reason }) => `${shown(model)} (${reason})`)
  const more = sifted.skipped.length > maxReasons ? ` and ${sifted.skipped.length - maxReasons} more` : ""
  const why = reasons.length === 0 ? "" : `: ${reasons.join(", ")}${more}`
  const message = `no model of ${what} can serve this request${why}`
  if (sifted.capability !== undefined) {
    return fail(
      new CapabilityNotSupported({ message, capability: sifted.capability, model: name, models: [] })
    )
  }
  return fail(
    sifted.allUnapproved
      ? new ModelNotApproved({ message, model: name })
      : new ModelNotFound({ message, model: name })
  )
}

/** The candidates that are the first one's model, wherever they are served; the others are left out. */
const sameModel = (ranked: ReadonlyArray<Candidate>, skipped: Array<Skipped>): ReadonlyArray<Candidate> => {
  const [first] = ranked
  return ranked.filter(({ model }) => {
    if (model.model === first?.model.model) return true
    skipped.push({ model: model.id, reason: "another model than the first one" })
    return false
  })
}

/** The candidates of the first one's provider; the others are left out. */
const sameProvider = (candidates: ReadonlyArray<Candidate>, skipped: Array<Skipped>): ReadonlyArray<Candidate> => {
  const [first] = candidates
  return candidates.filter(({ model }) => {
    if (model.provider === first?.model.provider) return true
    skipped.push({ model: model.id, reason: "another account than the one that encrypted the reasoning" })
    return false
  })
}

/** The fallback models of a request: what its body says, else what came beside it. */
const fallbackOf = (request: Asked, options: RequestOptions): Fallback | undefined =>
  request.fallback ?? options.fallback

/** All that a request names, best first as far as the naming says. */
const namesOf = (
  routes: Routes["Service"],
  request: Asked,
  route: Route | undefined,
  fallback: Fallback | undefined
): ReadonlyArray<Named> => {
  const named: Array<Named> = route === undefined
    ? [{ id: request.model, weight: 1, ranked: false, isOwn: true }]
    : route.models.map(({ model, weight }) => ({ id: model, weight, ranked: true, isOwn: false }))
  for (const id of fallback?.models ?? []) {
    const other = routes.get(id)
    if (other === undefined) named.push({ id, weight: 1, ranked: false, isOwn: true })
    else for (const { model } of other.models) named.push({ id: model, weight: 1, ranked: false, isOwn: false })
  }
  return named
}

// ---------------------------------------------------------------------------------------------------------------------
// Resolution
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Makes the resolution over the registered models and providers. The services are taken once, when the gateway is built:
 * handing them to every request in its context would copy that context.
 */
export const make = Effect.fnUntraced(function*(
  configured: ResolutionOptions
): Effect.fn.Return<Resolve, never, ModelRegistry | ProviderRegistry | Routes | Health> {
  const models = yield* ModelRegistry
  const providers = yield* ProviderRegistry
  const routes = yield* Routes
  const health = yield* Health

  const single = Effect.fnUntraced(function*<Request extends Asked>(
    exchange: Exchange,
    operation: Operation<Request>,
    request: Request
  ): Effect.fn.Return<Plan, GatewayError> {
    const model = yield* models.resolve(request.model, exchange.caller)
    exchange.model = model
    const provider = providers.get(model.provider)
    if (provider === undefined) return yield* notRegistered(model)
    const missing = missingCapability(
      model,
      operation.lacks(provider, exchange.streamed),
      operation.requirements(request)
    )
    if (missing !== undefined) return yield* unsupported(exchange, models, model, missing)
    return {
      candidates: [{ model, provider }],
      skipped: [],
      strategy: "sequential",
      attempts: configured.attempts,
      retry: configured.retry,
      timeouts: effectiveTimeouts(configured.timeouts, exchange.timeouts)
    }
  })

  /** Tells the models that can serve from those that cannot. */
  const sift = Effect.fnUntraced(function*<Request extends Asked>(
    exchange: Exchange,
    caller: Caller,
    operation: Operation<Request>,
    request: Request,
    named: ReadonlyArray<Named>,
    inputTokens: number
  ): Effect.fn.Return<Sifted> {
    const needed = operation.requirements(request)
    const size = inputTokens + (operation.outputTokens(request) ?? 0)
    const sifted: Sifted = {
      ranked: [],
      listed: [],
      skipped: [],
      tooSmall: undefined,
      error: undefined,
      capability: undefined,
      allUnapproved: true
    }
    const seen = new Set<string>()
    const own = new Set(named.filter(({ isOwn }) => isOwn).map(({ id }) => id))
    for (const { id, ranked, weight } of named) {
      const found = yield* Effect.result(models.resolve(id, caller))
      if (found._tag === "Failure") {
        const error = found.failure
        if (seen.has(id)) continue
        seen.add(id)
        if (seen.size === 1) sifted.error = Effect.fail(error)
        if (error.code !== "model_not_approved") sifted.allUnapproved = false
        else if (!own.has(id)) continue
        sifted.skipped.push({ model: id, reason: error.code })
        continue
      }
      const model = found.success
      if (seen.has(model.id)) continue
      seen.add(model.id)
      const provider = providers.get(model.provider)
      if (provider === undefined) {
        if (seen.size === 1) sifted.error = Effect.fail(notRegistered(model))
        sifted.allUnapproved = false
        sifted.skipped.push({ model: model.id, reason: "model_not_found" })
        continue
      }
      const missing = missingCapability(model, operation.lacks(provider, exchange.streamed), needed)
      if (missing !== undefined) {
        if (seen.size === 1) sifted.error = unsupported(exchange, models, model, missing)
        sifted.allUnapproved = false
        sifted.capability ??= missing
        sifted.skipped.push({ model: model.id, reason: `capability_not_supported: ${missing}` })
        continue
      }
      const candidate: Candidate = { model, provider }
      if (model.contextWindow !== undefined && size > model.contextWindow) {
        if (model.contextWindow > (sifted.tooSmall?.model.contextWindow ?? 0)) sifted.tooSmall = candidate
        sifted.skipped.push({ model: model.id, reason: tooLarge })
      } else if (ranked) sifted.ranked.push({ candidate, weight })
      else sifted.listed.push(candidate)
    }
    return sifted
  })

  const several = Effect.fnUntraced(function*<Request extends Asked>(
    exchange: Exchange,
    operation: Operation<Request>,
    request: Request,
    options: RequestOptions,
    route: Route | undefined,
    fallback: Fallback | undefined
  ): Effect.fn.Return<Plan, GatewayError> {
    if (fallback !== undefined && fallback.models.length > maxFallback) {
      return yield* fail(invalid("fallback.models", `names more than ${maxFallback} models`))
    }
    const inputTokens = operation.inputTokens(request)
    const named = namesOf(routes, request, route, fallback)
    const sifted = yield* sift(exchange, exchange.caller, operation, request, named, inputTokens)
    const outputTokens = expectedOutput(operation.outputTokens(request))
    const { expected } = operation
    const policy = route === undefined ? undefined : options.routePolicy ?? route.policy
    const ranked = policy === undefined || sifted.ranked.length < 2
      ? sifted.ranked.map(({ candidate }) => candidate)
      : rank(policy, sifted.ranked, {
        health: health.of,
        inputTokens,
        outputTokens,
        ...(expected === undefined
          ? {}
          : { expected: (prices) => expected(request, prices, inputTokens, outputTokens) }),
        random: yield* Random.next,
        ...(options.stickyKey === undefined ? {} : { stickyKey: options.stickyKey })
      })
    const kept = operation.keepsModel === true ? sameModel(ranked, sifted.skipped) : ranked
    const able = [...kept, ...sifted.listed]
    const candidates = operation.bindsAccount?.(request) === true ? sameProvider(able, sifted.skipped) : able
    // The size is an estimate, and no reason to refuse what a provider might take: the largest one may say so itself.
    const { tooSmall } = sifted
    const [first = tooSmall, ...others] = candidates
    if (first === undefined) {
      if (route === undefined && sifted.error !== undefined) return yield* sifted.error
      const what = route === undefined ? "those named" : `the route "${route.name}"`
      return yield* noneLeft(what, shown(request.model), sifted)
    }
    exchange.model = first.model
    const limits = route?.timeouts === undefined
      ? configured.timeouts
      : { ...configured.timeouts, ...route.timeouts }
    const strategy = fallback?.strategy ?? (route?.hedgeAfterMs === undefined ? "sequential" : "parallel")
    return {
      candidates: [first, ...others],
      skipped: candidates.length === 0
        ? sifted.skipped.filter(({ model }) => model !== first.model.id)
        : sifted.skipped,
      strategy: others.length === 0 ? "sequential" : strategy,
      attempts: route?.attempts ?? configured.attempts,
      retry: route?.retry ?? configured.retry,
      timeouts: effectiveTimeouts(limits, exchange.timeouts),
      ...(route?.hedgeAfterMs === undefined ? {} : { hedgeAfterMs: route.hedgeAfterMs }),
      ...(route === undefined ? {} : { route }),
      ...(policy === undefined ? {} : { policy })
    }
  })

  return (exchange, operation, request, options) => {
    const route = routes.get(request.model)
    const fallback = fallbackOf(request, options)
    return route === undefined && (fallback === undefined || fallback.models.length === 0)
      ? single(exchange, operation, request)
      : several(exchange, operation, request, options, route, fallback)
  }
})
