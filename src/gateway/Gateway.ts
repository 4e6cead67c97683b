/**
 * The gateway itself: one Effect program for each operation, composed of the stages beside this file.
 *
 * ```
 * validate -> interceptors (pre) -> resolve model, tools, schema -> plan -> attempts (retry, fallback, hedge) under timers
 *   -> check -> interceptors (post)
 * ```
 *
 * with accounting around all of it, on every exit. It knows no plugin, no store and no protocol; those are Layers that
 * register themselves. In process it is called as it is; the HTTP and RPC servers are callers like any other.
 */
import { Array as Arr, Cause, Context, Effect, Exit, Layer, Option, Result, Scope, Stream } from "effect"
import { AuditTrail } from "../sdk/AuditSink.ts"
import { Breakers } from "../sdk/Breakers.ts"
import { type Balance, Budgets } from "../sdk/Budgets.ts"
import { Windows } from "../sdk/BudgetWindow.ts"
import { CurrentCaller, CurrentRequest, type Timeouts } from "../sdk/Caller.ts"
import type { ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import { fail, type GatewayError, InternalError } from "../sdk/GatewayError.ts"
import { type Interceptor, type InterceptorContext, InterceptorRegistry } from "../sdk/Interceptor.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { ModelRegistry } from "../sdk/ModelRegistry.ts"
import type { ChatCall, ProviderError, ProviderRegistry } from "../sdk/Provider.ts"
import { RateLimits } from "../sdk/RateLimits.ts"
import type { RetryOptions, Routes } from "../sdk/Routes.ts"
import { Tenants } from "../sdk/Tenant.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"
import { totalInput, totalOutput } from "../sdk/Usage.ts"
import type { UsageSinkRegistry } from "../sdk/UsageSink.ts"
import { accountResponse, recordsOf, StreamAccount } from "./Accounting.ts"
import * as Admission from "./Admission.ts"
import { AttemptCounts } from "./AttemptCounts.ts"
import { attemptChat, attemptStream, type AttemptWatch } from "./Attempt.ts"
import { runAttempts, type Turn } from "./Attempts.ts"
import { tellEnd, tellStart } from "./AuditEvents.ts"
import type { ChunkPull } from "./ChunkPull.ts"
import { describeDefect } from "./Defect.ts"
import { type Exchange, start } from "./Exchange.ts"
import * as Explain from "./Explain.ts"
import { type AttemptError, type FailedAttempt, gatewayError } from "./Failure.ts"
import { failureKind } from "./FailurePolicy.ts"
import * as Ledger from "./Ledger.ts"
import {
  interceptorsOf,
  interceptRequest,
  interceptResponse,
  interceptStream,
  noHeaders,
  untilPassed,
  withoutCredentials
} from "./Interception.ts"
import { Health } from "./Health.ts"
import type { Candidate, Plan } from "./Plan.ts"
import * as Resolution from "./Resolution.ts"
import { checkResponse, compile, streamChecker } from "./StructuredOutput.ts"
import * as TokenCounting from "./TokenCount.ts"
import { chunkToCallerNames, toCallerNames, type ToolNames, toProviderNames } from "./ToolNames.ts"
import { type ResolvedTools, resolveTools } from "./ToolResolution.ts"
import { validateChat } from "./Validation.ts"

/** Takes note of the time that the providers took. */
const waited = <A, E, R>(exchange: Exchange, self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const since = exchange.elapsed()
    return Effect.onExit(self, () =>
      Effect.sync(() => {
        exchange.upstreamMs += exchange.elapsed() - since
      }))
  })

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

/** Characters of a tag that an interceptor adds, as many as callers' own may have. */
const maxTag = 128

const defaultWarnAt = [0.8, 0.95]
const defaultGrace = 60_000

/** How hard is tried where neither configuration nor route says otherwise. */
export const defaultAttempts = 4
export const defaultRetry: RetryOptions = { baseMs: 250, maxMs: 8_000 }

/** Calls models. Runs as the `CurrentCaller`, under the `CurrentRequest`'s options. */
export class Gateway extends Context.Service<Gateway, {
  /** Asks for a whole answer. Interrupting it closes the upstream's connection. */
  readonly chat: (request: ChatRequest, exchange?: Exchange) => Effect.Effect<ChatResponse, GatewayError>
  /** Asks for a streamed answer. Leaving the stream early closes the upstream's connection. */
  readonly streamChat: (request: ChatRequest) => Stream.Stream<ChatChunk, GatewayError>
  /**
   * As `streamChat`, but waits for the first content: what fails until then fails here, and what fails later fails the
   * stream. For servers, which have to choose a status before they send anything. The scope is the stream's life.
   */
  readonly openChat: (
    request: ChatRequest,
    exchange: Exchange
  ) => Effect.Effect<Stream.Stream<ChatChunk, GatewayError>, GatewayError, Scope.Scope>
  /** How many tokens a request's prompt has; nothing is answered, and nothing is charged. */
  readonly countTokens: (
    request: ChatRequest,
    exchange?: Exchange
  ) => Effect.Effect<TokenCounting.TokenCount, GatewayError>
  /** The models that the current caller may use. */
  readonly models: Effect.Effect<ReadonlyArray<ModelInfo>>
  /** One of them, by canonical or bare id. */
  readonly model: (id: string) => Effect.Effect<ModelInfo, GatewayError>
  /** How a request would be served if it came now; nothing is sent to a provider. */
  readonly explain: Explain.Explain["explain"]
  /** The routes of which the current caller may use a model. */
  readonly routes: Explain.Explain["routes"]
  /** How the budgets stand that pay for the current caller's requests, those of single models apart. */
  readonly budgets: Effect.Effect<ReadonlyArray<Balance>, GatewayError>
}>()("llm-gateway/gateway/Gateway") {
  static readonly layer = (options: GatewayOptions = {}): Layer.Layer<Gateway, never, Dependencies> =>
    Layer.effect(Gateway, make(options))
}

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

/** A request that is ready for its attempts. */
interface Prepared {
  /** As the interceptors left it. */
  readonly request: ChatRequest
  /** The interceptors that see it. */
  readonly active: ReadonlyArray<Interceptor>
  readonly context: InterceptorContext
  readonly plan: Plan
  /** Asks the limits of a candidate's own model. */
  readonly admit: (candidate: Candidate) => Effect.Effect<void, ProviderError>
  /** The call to one of the plan's candidates. */
  readonly callFor: (candidate: Candidate, turn: Turn) => ChatCall
  readonly toolNames: ToolNames
}

/** One after the other; the first is nearly always nothing. */
const after = <A, E, R, E2>(
  first: Effect.Effect<void, E2>,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | E2, R> => first === Effect.void ? self : Effect.andThen(first, self)

const noTools: ResolvedTools = { tools: [], nameToId: new Map() }

const withTools = ({ tools, ...request }: ChatRequest, resolved: ResolvedTools): ChatCall["request"] =>
  tools === undefined ? request : { ...request, tools: resolved.tools }

const make = Effect.fnUntraced(function*(
  options: GatewayOptions
): Effect.fn.Return<Gateway["Service"], never, Dependencies | Scope.Scope> {
  const health = yield* Health
  const models = yield* ModelRegistry
  const interceptors = yield* InterceptorRegistry
  const audit = Option.getOrUndefined(yield* Effect.serviceOption(AuditTrail))
  const ledger = yield* Ledger.make(options.ledger ?? {})
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
  const types = yield* TypeRegistry
  const resolve = yield* Resolution.make({
    timeouts: { ...defaultTimeouts, ...options.timeouts },
    attempts: options.attempts ?? defaultAttempts,
    retry: options.retry ?? defaultRetry
  })

  const count = TokenCounting.make({ admission, interceptors, resolve, types })

  const breakers = yield* Effect.serviceOption(Breakers)
  const explain = yield* Explain.make(resolve, Option.isSome(breakers) ? { breakers: breakers.value.states } : {})
  const watched: AttemptWatch = {
    health,
    counts: yield* AttemptCounts,
    silent: (provider) => Option.isNone(breakers) ? Effect.void : breakers.value.report(provider, "chat", "failure")
  }

  const admitted = Effect.fnUntraced(
    function*(
      exchange: Exchange,
      asked: ChatRequest
    ): Effect.fn.Return<Prepared, GatewayError> {
      yield* Effect.fromResult(Result.mapError(validateChat(asked), fail))
      const active = interceptorsOf(interceptors.ordered(), exchange.caller)
      const context: InterceptorContext = {
        requestId: exchange.requestId,
        caller: exchange.caller,
        operation: "chat",
        headers: active.length === 0 ? noHeaders : withoutCredentials((yield* CurrentRequest).headers ?? noHeaders),
        tag: (tag) => {
          // Not all plugins are type-checked, and what is no text would stop the sinks that write it down.
          if (typeof tag === "string" && tag !== "") exchange.tags.push(tag.slice(0, maxTag))
        }
      }
      const owners = admission.owners(exchange)
      // Interceptors may cost more than the request itself, so they get no request beyond the limits.
      const looked = active.some(({ pre }) => pre !== undefined)
      if (looked) yield* admission.countRequest(exchange, owners)
      const request = looked ? yield* interceptRequest(active, asked, context) : asked
      if (request.responseSchema !== undefined) {
        yield* Effect.fromResult(Result.mapError(compile(request.responseSchema), fail))
      }
      const planned = yield* resolve(exchange, request, yield* CurrentRequest)
      exchange.preferred = planned.candidates[0].model
      const resolved = request.tools === undefined
        ? noTools
        : yield* Effect.provideService(resolveTools(request.tools), TypeRegistry, types)
      yield* ledger.open
      const whole = request.tools === undefined ? request : withTools(request, resolved)
      const plan = yield* admission.admit(exchange, owners, planned, whole)
      exchange.skipped = plan.skipped
      const called = withTools(toProviderNames(request, resolved.nameToId), resolved)
      return {
        request,
        active,
        context,
        plan,
        admit: (candidate) => admission.admitCandidate(exchange, owners, plan, whole, candidate),
        callFor: (candidate, { force }) => ({
          request: called,
          model: candidate.model,
          connectTimeout: plan.timeouts.connect,
          force
        }),
        toolNames: resolved.nameToId
      }
    }
  )

  /** A request that is wrong is a request all the same, and beyond the limits it is refused for that. */
  const prepare = (exchange: Exchange, asked: ChatRequest): Effect.Effect<Prepared, GatewayError> =>
    Effect.catch(admitted(exchange, asked), (error) =>
      exchange.taken.isCounted
        ? Effect.fail(error)
        : Effect.andThen(admission.countRequest(exchange, admission.owners(exchange)), Effect.fail(error)))

  const answer = Effect.fnUntraced(function*(
    asked: ChatRequest,
    exchange: Exchange
  ): Effect.fn.Return<ChatResponse, GatewayError | AttemptError> {
    const { active, admit, callFor, context, plan, request, toolNames } = yield* prepare(exchange, asked)
    const answered = yield* waited(
      exchange,
      runAttempts(
        exchange,
        plan,
        (candidate, turn) =>
          after(
            admit(candidate),
            attemptChat(
              exchange,
              candidate,
              callFor(candidate, turn),
              plan.timeouts,
              watched,
              !turn.last && plan.route?.onFailure?.timeout_answer !== "final"
            )
          ),
        health.of
      )
    )
    const response = accountResponse(exchange, request, toCallerNames(answered, toolNames))
    if (request.responseSchema !== undefined) {
      yield* Effect.fromResult(Result.mapError(checkResponse(response, request.responseSchema), fail))
    }
    return yield* interceptResponse(active, response, request, context)
  })

  const open = Effect.fnUntraced(function*(
    asked: ChatRequest,
    exchange: Exchange
  ): Effect.fn.Return<Stream.Stream<ChatChunk, GatewayError>, GatewayError | AttemptError, Scope.Scope> {
    const { active, admit, callFor, context, plan, request, toolNames } = yield* prepare(exchange, asked)
    const committed = yield* waited(
      exchange,
      runAttempts(exchange, plan, (candidate, turn) =>
        after(
          admit(candidate),
          attemptStream(
            exchange,
            candidate,
            callFor(candidate, turn),
            plan.timeouts,
            watched,
            // Where nothing comes after it, a slow answer is better than none.
            turn.last ? undefined : plan.route?.minTokensPerSecond
          )
        ), health.of)
    )
    exchange.model = committed.model
    exchange.dropped = committed.dropped
    exchange.firstTokenMs = exchange.elapsed()
    exchange.heldBackFor = active.flatMap(({ name, post, stream }) =>
      post !== undefined && stream === undefined ? [name] : []
    )
    const account = new StreamAccount(exchange)
    const chunks = Stream.fromPull(Effect.succeed(followed(exchange, committed.pull, request, account)))
    const named = toolNames.size === 0
      ? chunks
      : Stream.map(chunks, (chunk) => chunkToCallerNames(chunk, toolNames))
    const whole = Stream.catchDefect(named, (defect) => Stream.fromEffect(failed(exchange, defect)))
    // The interceptors see to their own defects: what a provider breaks is not to be told as theirs.
    const passed = yield* Effect.onError(
      untilPassed(active, interceptStream(active, whole, request, context)),
      () => Effect.sync(() => account.settle(request))
    )
    const finishOnce = once((exit) => {
      account.settle(request)
      return finish(exchange, asked, exit)
    })
    // A server whose caller has gone by now never reads the stream; the request has to be accounted for all the same.
    yield* Effect.addFinalizer(() => Effect.ignore(finishOnce(Exit.interrupt())))
    return finishing(finishOnce, passed)
  })

  /** Writes down what a request was, on every exit. Fails where the answer may not go out without its record. */
  const finish = Effect.fnUntraced(function*(
    exchange: Exchange,
    asked: ChatRequest,
    exit: Exit.Exit<unknown, GatewayError>
  ): Effect.fn.Return<void, GatewayError> {
    const records = recordsOf(exchange, asked, exit)
    let tokens = 0
    const costs: Array<Admission.ModelCost> = []
    for (const { costNanoUsd, modelUsed, usage } of records) {
      tokens += totalInput(usage) + totalOutput(usage)
      if (costNanoUsd !== undefined && modelUsed !== undefined) costs.push({ model: modelUsed, costNanoUsd })
    }
    const settlements = yield* admission.finish(exchange, tokens, costs)
    if (audit?.isActive() === true) tellEnd(audit, exchange, records[0], interceptorOf(exit))
    yield* ledger.post({ records, settlements }, Exit.isSuccess(exit))
  })

  const began = (exchange: Exchange): void => {
    if (typeof unknownPrice === "object") exchange.flatNanoUsd = unknownPrice.flatNanoUsd
    if (audit?.isActive() === true) tellStart(audit, exchange)
  }

  const complete = (asked: ChatRequest, exchange: Exchange): Effect.Effect<ChatResponse, GatewayError> =>
    Effect.suspend(() => {
      began(exchange)
      return Effect.exit(answer(asked, exchange))
    }).pipe(
      Effect.flatMap((exit) => settled(exchange, exit)),
      Effect.onExit((exit) => finish(exchange, asked, exit))
    )

  const openChat = (
    asked: ChatRequest,
    exchange: Exchange
  ): Effect.Effect<Stream.Stream<ChatChunk, GatewayError>, GatewayError, Scope.Scope> =>
    Effect.suspend(() => {
      began(exchange)
      return Effect.exit(open(asked, exchange))
    }).pipe(
      Effect.flatMap((exit) => settled(exchange, exit)),
      Effect.onExit((exit) => Exit.isSuccess(exit) ? Effect.void : finish(exchange, asked, exit))
    )

  return {
    chat: (request, exchange) =>
      exchange === undefined
        ? Effect.flatMap(start(request.model, false, request.user), (started) => complete(request, started))
        : complete(request, exchange),
    streamChat: (request) =>
      Stream.unwrap(
        Effect.flatMap(start(request.model, true, request.user), (exchange) => openChat(request, exchange))
      ),
    openChat,
    countTokens: (request, exchange) =>
      Effect.flatMap(
        exchange === undefined ? start(request.model, false, request.user) : Effect.succeed(exchange),
        (started) => count(request, started)
      ),
    models: Effect.flatMap(CurrentCaller, models.list),
    model: (id) => Effect.flatMap(CurrentCaller, (caller) => models.resolve(id, caller)),
    explain: explain.explain,
    routes: explain.routes,
    budgets: Effect.flatMap(start("", false), admission.balances)
  }
})

/** Whose block ended a request. */
const interceptorOf = (exit: Exit.Exit<unknown, GatewayError>): string | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  const reason = exit.cause.reasons.find(Cause.isFailReason)?.error.reason
  return reason?._tag === "RequestBlocked" || reason?._tag === "ResponseBlocked" ? reason.interceptor : undefined
}

type Finish = (exit: Exit.Exit<void, GatewayError>) => Effect.Effect<void, GatewayError>

/** Runs `finish` the first time that it is asked to, and not again. */
const once = (finish: Finish): Finish => {
  let isOver = false
  return (exit) =>
    Effect.suspend(() => {
      if (isOver) return Effect.void
      isOver = true
      return Effect.uninterruptible(finish(exit))
    })
}

/**
 * Runs `finish` with a stream's end or its failure before the reader is told of it, so that the reader may rely on what was
 * written down; or when the reader leaves.
 */
const finishing = (
  finish: Finish,
  chunks: Stream.Stream<ChatChunk, GatewayError>
): Stream.Stream<ChatChunk, GatewayError> =>
  Stream.transformPull(chunks, (pull, scope) => {
    const watched: ChunkPull<GatewayError> = Effect.catch(
      pull,
      (error) =>
        Cause.isDone(error)
          ? Effect.andThen(finish(Exit.void), Cause.done())
          : Effect.andThen(finish(Exit.fail(error)), Effect.fail(error))
    )
    return Effect.as(
      Scope.addFinalizerExit(
        scope,
        (exit) => Effect.ignore(finish(Exit.isSuccess(exit) ? Exit.void : Exit.interrupt()))
      ),
      watched
    )
  })

/** The attempt whose failure is told: the last one that ended so, or the one whose stream was on its way to the caller. */
const failedAttempt = ({ attempts }: Exchange, error: AttemptError): FailedAttempt | undefined => {
  const kind = failureKind(error)
  const at = attempts.findLastIndex(({ outcome }) => outcome === kind)
  const ordinal = at < 0 ? attempts.findLastIndex(({ outcome }) => outcome === "ok") : at
  const report = attempts[ordinal]
  return report === undefined ? undefined : { ordinal: ordinal + 1, model: report.model }
}

/** The stream with its figures counted and, where a schema was asked for, its text checked before the end is told. */
const followed = (
  exchange: Exchange,
  pull: ChunkPull<AttemptError>,
  request: ChatRequest,
  account: StreamAccount
): ChunkPull<GatewayError> => {
  const checker = request.responseSchema === undefined ? undefined : streamChecker(request.responseSchema)
  return pull.pipe(
    Effect.mapError((error) => Cause.isDone(error) ? error : gatewayError(error, failedAttempt(exchange, error))),
    Effect.flatMap((chunks) => {
      const observed = Arr.map(chunks, (chunk) => account.observe(chunk))
      if (checker === undefined) return Effect.succeed(observed)
      for (const chunk of observed) {
        checker.push(chunk)
        if (chunk.finishReason === undefined) continue
        // The caller must not read that the answer is complete before it is known to fit.
        const checked = checker.end()
        if (Result.isFailure(checked)) return Effect.fail(fail(checked.failure))
      }
      return Effect.succeed(observed)
    })
  )
}

/** A defect in a plugin or in the gateway is logged under the request's id and answered without details. */
const failed = (exchange: Exchange, defect: unknown): Effect.Effect<never, GatewayError> =>
  Effect.logError("a request failed with a defect", { requestId: exchange.requestId, ...describeDefect(defect) }).pipe(
    Effect.andThen(Effect.fail(
      fail(new InternalError({ message: `the gateway failed; ask its operator about request ${exchange.requestId}` }))
    ))
  )

/** What the caller is told of how a request went: a failed attempt becomes the gateway's error, a defect an internal one. */
const settled = <A>(
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
