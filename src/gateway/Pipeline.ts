/**
 * What the operations of one gateway share: the stages, each over the services that it needs, and the frame around a
 * request, which tells the audit trail of it and accounts for it on every exit.
 */
import { Cause, Effect, Exit, Option, type Scope } from "effect"
import { AuditTrail } from "../sdk/AuditSink.ts"
import { Breakers } from "../sdk/Breakers.ts"
import { Budgets } from "../sdk/Budgets.ts"
import { Windows } from "../sdk/BudgetWindow.ts"
import { CurrentRequest, type Timeouts } from "../sdk/Caller.ts"
import { fail, type GatewayError, InternalError } from "../sdk/GatewayError.ts"
import { type Interceptor, type InterceptorContext, InterceptorRegistry } from "../sdk/Interceptor.ts"
import { logOf } from "../sdk/Log.ts"
import { type ModelRegistry } from "../sdk/ModelRegistry.ts"
import type { ProviderRegistry } from "../sdk/Provider.ts"
import { RateLimits } from "../sdk/RateLimits.ts"
import type { EmbedBatching, RetryOptions, Routes } from "../sdk/Routes.ts"
import { Tenants } from "../sdk/Tenant.ts"
import type { TypeRegistry } from "../sdk/TypeRegistry.ts"
import { totalInput, totalOutput } from "../sdk/Usage.ts"
import type { UsageSinkRegistry } from "../sdk/UsageSink.ts"
import { recordsOf } from "./Accounting.ts"
import { AccessLog } from "./AccessLog.ts"
import * as Admission from "./Admission.ts"
import { AttemptCounts } from "./AttemptCounts.ts"
import type { AttemptWatch } from "./Attempt.ts"
import { tellEnd, tellStart } from "./AuditEvents.ts"
import { describeDefect } from "./Defect.ts"
import type { Exchange } from "./Exchange.ts"
import { type AttemptError, type FailedAttempt, gatewayError } from "./Failure.ts"
import { failureKind } from "./FailurePolicy.ts"
import { Health } from "./Health.ts"
import { noHeaders, withoutCredentials } from "./Interception.ts"
import * as Ledger from "./Ledger.ts"
import type { Asked, Operation } from "./Operation.ts"
import { RequestMetrics } from "./RequestMetrics.ts"
import { followVerdicts, RequestTraces } from "./RequestTraces.ts"
import { Places } from "./Places.ts"
import type { RealtimeOptions } from "./realtime/RealtimeOptions.ts"
import * as Resolution from "./Resolution.ts"

const log = logOf("requests")

/** Limits that hold where neither configuration nor request says otherwise, ms. */
export const defaultTimeouts: Timeouts = { connect: 5_000, firstToken: 30_000, idle: 30_000, total: 600_000 }

/** Options of the gateway. */
export interface GatewayOptions {
  /** Limits of the five timers, ms. */
  readonly timeouts?: Partial<Timeouts>
  /** Attempts that a request may make in all, retries and fallbacks together; default 4. */
  readonly attempts?: number
  /** Pauses between retries; default 250 ms, doubled up to 8 s. */
  readonly retry?: RetryOptions
  /** How sure an answer is of its usage record; default `batched`. */
  readonly ledger?: Ledger.LedgerOptions
  readonly budgets?: BudgetOptions
  /** How small requests for vectors share their calls, where a route does not say; absent: not at all. */
  readonly embedBatching?: EmbedBatching
  /** How long realtime sessions may last, and what they may send. */
  readonly realtime?: RealtimeOptions
}

/** How requests are charged to budgets. */
export interface BudgetOptions {
  /** IANA name of the time zone by whose calendar windows start anew; default `UTC`. */
  readonly timeZone?: string
  /** What a request without a known price counts as; default `deny_if_budgeted`. */
  readonly unknownPrice?: Admission.UnknownPrice
  /** Shares of a budget at whose spending the audit trail gets a warning, 0 to 1; default 0.8 and 0.95. */
  readonly warnAt?: ReadonlyArray<number>
  /** Whether budgets or limits are asked for over a network, and so better at the same time than one after another. */
  readonly isRemote?: boolean
  /**
   * How long after its deadline the money and the places of a request stay taken whose replica has died, ms; default
   * 60,000. A living one may be late by less than that.
   */
  readonly graceMs?: number
}

const defaultWarnAt = [0.8, 0.95]
const defaultGrace = 60_000

/** How hard is tried where neither configuration nor route says otherwise. */
export const defaultAttempts = 4
export const defaultRetry: RetryOptions = { baseMs: 250, maxMs: 8_000 }

/** What the gateway is built on. */
export type Dependencies =
  | ModelRegistry
  | ProviderRegistry
  | TypeRegistry
  | InterceptorRegistry
  | UsageSinkRegistry
  | Routes
  | Health
  | AttemptCounts

/** The stages of one gateway. */
export interface Pipeline {
  readonly admission: Admission.Admission
  readonly interceptors: InterceptorRegistry["Service"]
  readonly resolve: Resolution.Resolve
  readonly ledger: Ledger.Ledger
  readonly health: Health["Service"]
  readonly watched: AttemptWatch
  readonly metrics: RequestMetrics["Service"] | undefined
  /** The request as its interceptors know it. */
  readonly contextOf: (
    exchange: Exchange,
    active: ReadonlyArray<Interceptor>
  ) => Effect.Effect<InterceptorContext>
  /**
   * Lets a request in where there is a place for it. Counts it where it has failed, unless it was counted before: what is wrong
   * is a request all the same.
   */
  readonly counted: <A, R>(
    exchange: Exchange,
    self: Effect.Effect<A, GatewayError, R>
  ) => Effect.Effect<A, GatewayError, R>
  /** Tells that a request has begun. */
  readonly began: (exchange: Exchange) => void
  /** Requests that have begun and not finished. */
  readonly running: () => number
  /** Writes down what a request was, on every exit. Fails where the answer may not go out without its record. */
  readonly finish: <Request extends Asked>(
    exchange: Exchange,
    operation: Operation<Request>,
    asked: Request,
    exit: Exit.Exit<unknown, GatewayError>
  ) => Effect.Effect<void, GatewayError>
}

/** Builds the stages over the services that are there. */
export const make = Effect.fnUntraced(function*(
  options: GatewayOptions
): Effect.fn.Return<Pipeline, never, Dependencies | Scope.Scope> {
  const health = yield* Health
  const audit = Option.getOrUndefined(yield* Effect.serviceOption(AuditTrail))
  const metrics = Option.getOrUndefined(yield* Effect.serviceOption(RequestMetrics))
  const ledger = yield* Ledger.make({
    ...options.ledger,
    ...(metrics === undefined ? {} : { watched: metrics.queue })
  })
  const {
    graceMs = defaultGrace,
    isRemote = false,
    timeZone = "UTC",
    unknownPrice = "deny_if_budgeted",
    warnAt = defaultWarnAt
  } = options.budgets ?? {}
  const admission = Admission.make({
    tenants: Option.getOrUndefined(yield* Effect.serviceOption(Tenants)),
    limits: Option.getOrUndefined(yield* Effect.serviceOption(RateLimits)),
    budgets: Option.getOrUndefined(yield* Effect.serviceOption(Budgets)),
    audit,
    windows: new Windows(timeZone),
    unknownPrice,
    warnAt,
    isRemote,
    graceMs
  })
  const resolve = yield* Resolution.make({
    timeouts: { ...defaultTimeouts, ...options.timeouts },
    attempts: options.attempts ?? defaultAttempts,
    retry: options.retry ?? defaultRetry
  })
  const places = Option.getOrUndefined(yield* Effect.serviceOption(Places))
  const breakers = Option.getOrUndefined(yield* Effect.serviceOption(Breakers))
  const traces = Option.getOrUndefined(yield* Effect.serviceOption(RequestTraces))
  const accessLog = Option.getOrUndefined(yield* Effect.serviceOption(AccessLog))
  const watched: AttemptWatch = {
    health,
    counts: yield* AttemptCounts,
    silent: (provider, endpoint) =>
      breakers === undefined ? Effect.void : breakers.report(provider, endpoint, "failure")
  }

  let running = 0
  const finish = Effect.fnUntraced(function*<Request extends Asked>(
    exchange: Exchange,
    operation: Operation<Request>,
    asked: Request,
    exit: Exit.Exit<unknown, GatewayError>
  ): Effect.fn.Return<void, GatewayError> {
    running--
    const consumed = recordsOf(exchange, operation, asked, exit)
    const isCharged = exchange.repeatable === undefined || exchange.repeatable.isCharged()
    let tokens = 0
    const costs: Array<Admission.ModelCost> = []
    for (const { costNanoUsd, modelUsed, usage } of consumed) {
      tokens += totalInput(usage) + totalOutput(usage)
      if (isCharged && costNanoUsd !== undefined && modelUsed !== undefined) {
        costs.push({ model: modelUsed, costNanoUsd })
      }
    }
    const settlements = yield* admission.finish(exchange, tokens, costs)
    metrics?.ended(exchange, consumed)
    const [own] = consumed
    if (own !== undefined) {
      exchange.trace?.end(own)
      if (accessLog !== undefined) yield* accessLog.write(exchange, own)
    }
    if (audit?.isActive() === true) tellEnd(audit, exchange, consumed[0], interceptorOf(exit))
    yield* ledger.post(
      { records: isCharged ? consumed : [], settlements },
      Exit.isSuccess(exit),
      exchange.repeatable !== undefined
    )
  })

  return {
    admission,
    interceptors: yield* InterceptorRegistry,
    resolve,
    ledger,
    health,
    watched,
    metrics,
    contextOf,
    counted: (exchange, self) => {
      const counted = Effect.catch(self, (error) =>
        exchange.taken.isCounted
          ? Effect.fail(error)
          : Effect.andThen(admission.countRequest(exchange, admission.bindings(exchange)), Effect.fail(error)))
      return places === undefined
        ? counted
        : Effect.andThen(
          places.enter(exchange.caller.tenant, (leave) => void exchange.taken.places.push(leave)),
          counted
        )
    },
    began: (exchange) => {
      running++
      if (typeof unknownPrice === "object") exchange.flatNanoUsd = unknownPrice.flatNanoUsd
      if (traces !== undefined) exchange.trace = traces.began(exchange)
      metrics?.began(exchange)
      if (audit?.isActive() === true) tellStart(audit, exchange)
    },
    running: () => running,
    finish
  }
})

/** Characters of a tag that an interceptor adds, as many as callers' own may have. */
const maxTag = 128

const contextOf: Pipeline["contextOf"] = (exchange, active) =>
  Effect.map(CurrentRequest, ({ headers }) => {
    const context: InterceptorContext = {
      requestId: exchange.requestId,
      caller: exchange.caller,
      operation: exchange.operation,
      headers: active.length === 0 ? noHeaders : withoutCredentials(headers ?? noHeaders),
      tag: (tag) => {
        // Not all plugins are type-checked, and what is no text would stop the sinks that write it down.
        if (typeof tag === "string" && tag !== "") exchange.tags.push(tag.slice(0, maxTag))
      }
    }
    if (exchange.trace !== undefined && active.length > 0) followVerdicts(context, exchange.trace)
    return context
  })

/** Takes note of the time that the providers took. */
export const waited = <A, E, R>(exchange: Exchange, self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const since = exchange.elapsed()
    return Effect.onExit(self, () =>
      Effect.sync(() => {
        exchange.upstreamMs += exchange.elapsed() - since
      }))
  })

/** One after the other; the first is nearly always nothing. */
export const after = <A, E, R, E2>(
  first: Effect.Effect<void, E2>,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | E2, R> => first === Effect.void ? self : Effect.andThen(first, self)

/** Whose block ended a request. */
const interceptorOf = (exit: Exit.Exit<unknown, GatewayError>): string | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  const reason = exit.cause.reasons.find(Cause.isFailReason)?.error.reason
  return reason?._tag === "RequestBlocked" || reason?._tag === "ResponseBlocked" ? reason.interceptor : undefined
}

/** The attempt whose failure is told: the last one that ended so, or the one whose stream was on its way to the caller. */
export const failedAttempt = ({ attempts }: Exchange, error: AttemptError): FailedAttempt | undefined => {
  const kind = failureKind(error)
  const at = attempts.findLastIndex(({ outcome }) => outcome === kind)
  const ordinal = at < 0 ? attempts.findLastIndex(({ outcome }) => outcome === "ok") : at
  const report = attempts[ordinal]
  return report === undefined ? undefined : { ordinal: ordinal + 1, model: report.model }
}

/** A defect in a plugin or in the gateway is logged under the request's id and answered without details. */
export const failed = (exchange: Exchange, defect: unknown): Effect.Effect<never, GatewayError> =>
  log.error("a request failed with a defect", { requestId: exchange.requestId, ...describeDefect(defect) }).pipe(
    Effect.andThen(Effect.fail(
      fail(new InternalError({ message: `the gateway failed; ask its operator about request ${exchange.requestId}` }))
    ))
  )

/** What the caller is told of how a request went: a failed attempt becomes the gateway's error, a defect an internal one. */
export const settled = <A>(
  exchange: Exchange,
  exit: Exit.Exit<A, AttemptError | GatewayError>
): Effect.Effect<A, GatewayError> => {
  if (Exit.isSuccess(exit)) return Effect.succeed(exit.value)
  const { cause } = exit
  const failure = cause.reasons.find(Cause.isFailReason)
  if (failure !== undefined) {
    return Effect.fail(
      failure.error._tag === "GatewayError"
        ? failure.error
        : gatewayError(failure.error, failedAttempt(exchange, failure.error))
    )
  }
  const defect = cause.reasons.find(Cause.isDieReason)
  return defect === undefined ? Effect.interrupt : failed(exchange, defect.defect)
}
