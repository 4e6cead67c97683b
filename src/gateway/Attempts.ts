/**
 * The attempts of one request over the candidates of its plan, for every operation alike: whole answers and streams, as
 * long as an attempt succeeds when there is something to give to the caller. Retries and further candidates draw from one
 * budget of attempts and one deadline; `FailurePolicy.ts` says what follows on which failure.
 *
 * What never left the gateway (an open circuit, a request that the target has no form for) is reported like an attempt,
 * but draws nothing from the budget: it always goes on to the next candidate, so the plan's length bounds it.
 */
import { Cause, Clock, Duration, Effect, Exit, Option, Queue, Schedule, Scope } from "effect"
import { isHeldBack } from "../sdk/Provider.ts"
import type { RetryOptions } from "../sdk/Routes.ts"
import type { Exchange } from "./Exchange.ts"
import type { AttemptError } from "./Failure.ts"
import { actionFor, failureKind } from "./FailurePolicy.ts"
import type { ModelHealth } from "./Health.ts"
import type { Candidate, Plan } from "./Plan.ts"

/** Where in its plan an attempt stands. */
export interface Turn {
  /** Nothing comes after it: what it has to give is better than nothing. */
  readonly last: boolean
  /** Beyond that, no provider has been called yet, so that an open circuit is no reason not to try. */
  readonly force: boolean
}

/**
 * Makes one attempt. One whose value lives on, such as a stream, keeps it in the `Scope` that it finds in its context.
 */
export type Attempt<A, R> = (candidate: Candidate, turn: Turn) => Effect.Effect<A, AttemptError, R>

/** `Schedule.jittered` makes a pause longer by a fifth at most. */
const jitter = 1.2

/** Pauses between retries: exponential, jittered, capped. The provider's own hint is looked at beside it. */
const pauses = ({ baseMs, maxMs }: RetryOptions) =>
  Schedule.min([Schedule.exponential(baseMs), Schedule.spaced(maxMs / jitter)]).pipe(Schedule.jittered)

/**
 * Runs the attempts of a plan. Fails with the last attempt's error; where that one never left the gateway, with the last
 * error of a provider instead. `recent` gives a model's latest figures, by its canonical id; hedging learns its pause from
 * them.
 */
export const runAttempts = <A, R>(
  exchange: Exchange,
  plan: Plan,
  attempt: Attempt<A, R>,
  recent?: (modelId: string) => ModelHealth
): Effect.Effect<A, AttemptError, R> => {
  const { candidates } = plan
  if (plan.strategy === "parallel" && candidates.length > 1) return hedged(exchange, plan, attempt, recent)
  const [first] = candidates
  // Nearly every request ends here, so nothing is prepared for a second attempt before the first has failed.
  return Effect.catchCause(
    attempt(first, firstTurn(plan)),
    (cause) => sequential(exchange, plan, attempt, cause)
  )
}

const firstTurn = ({ attempts, candidates }: Plan): Turn => ({
  last: candidates.length === 1 || attempts === 1,
  force: candidates.length === 1
})

const errorOf = (cause: Cause.Cause<AttemptError>): AttemptError | undefined =>
  cause.reasons.find(Cause.isFailReason)?.error

// ---------------------------------------------------------------------------------------------------------------------
// What both strategies keep count of
// ---------------------------------------------------------------------------------------------------------------------

/** How much an error says of why the request failed. */
const weight = (error: AttemptError): number => {
  if (error._tag === "ProviderTimeout") return 2
  if (error.refused === true) return 0
  return isHeldBack(error) ? 1 : 2
}

/** The candidates that are left, the attempts that are left, and the error to fail with when either is used up. */
class Remaining {
  readonly #exchange: Exchange
  readonly #plan: Plan
  /** Candidates that are still to be tried, best first. */
  candidates: ReadonlyArray<Candidate>
  /** Attempts that have gone out to a provider, or are about to. */
  #calls = 0
  #told: { readonly cause: Cause.Cause<AttemptError>; readonly weight: number } | undefined

  constructor(exchange: Exchange, plan: Plan) {
    this.#exchange = exchange
    this.#plan = plan
    this.candidates = plan.candidates
  }

  /** Attempts that may still be made. */
  get attempts(): number {
    return this.#plan.attempts - this.#calls
  }

  /** Whether there is leave for another attempt, whoever makes it. */
  get allowed(): boolean {
    return this.attempts > 0 && this.#exchange.elapsed() < this.#plan.timeouts.total
  }

  /** Takes the next candidate off the list. */
  next(): Candidate | undefined {
    const [next, ...others] = this.candidates
    this.candidates = others
    return next
  }

  /** An attempt goes out. */
  spend(): Turn {
    const isFirst = this.#calls++ === 0
    const isOnly = this.candidates.length === 0
    return { last: isOnly || this.attempts === 0, force: isOnly && isFirst }
  }

  /** An attempt has failed. */
  failed(candidate: Candidate, error: AttemptError, cause: Cause.Cause<AttemptError>): void {
    const told = weight(error)
    if (told < 2) this.#calls--
    if (this.#told === undefined || (told > 0 && told >= this.#told.weight)) this.#told = { cause, weight: told }
    if (failureKind(error) !== "contextLength") return
    const had = candidate.model.contextWindow
    if (had === undefined) return
    // What was too long for this window is too long for every other one of its size, also after other failures.
    this.candidates = this.candidates.filter(({ model }) =>
      model.contextWindow === undefined || model.contextWindow > had
    )
  }

  /** The cause to fail with when nothing is left. */
  cause(otherwise: Cause.Cause<AttemptError>): Cause.Cause<AttemptError> {
    return this.#told?.cause ?? otherwise
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// One after another
// ---------------------------------------------------------------------------------------------------------------------

/** The first attempt has failed: go on by the table, as long as budget and deadline allow. */
const sequential = Effect.fnUntraced(function*<A, R>(
  exchange: Exchange,
  plan: Plan,
  attempt: Attempt<A, R>,
  firstCause: Cause.Cause<AttemptError>
): Effect.fn.Return<A, AttemptError, R> {
  const clock = yield* Clock.Clock
  const remaining = new Remaining(exchange, plan)
  remaining.next()
  remaining.spend()
  let candidate: Candidate = plan.candidates[0]
  let cause = firstCause
  let step = yield* Schedule.toStep(pauses(plan.retry))
  for (;;) {
    const error = errorOf(cause)
    if (error === undefined) return yield* Effect.failCause(cause)
    remaining.failed(candidate, error, cause)
    const action = actionFor(error, plan.route?.onFailure)
    if (action === "final") return yield* Effect.failCause(cause)
    if (!remaining.allowed) return yield* Effect.failCause(remaining.cause(cause))
    // A retry may not take the attempt that an untried candidate needs.
    const pause = action === "retry" && remaining.attempts > remaining.candidates.length
      ? yield* pauseBefore(step(clock.currentTimeMillisUnsafe(), error), error, plan, exchange)
      : undefined
    if (pause !== undefined) yield* Effect.sleep(pause)
    else {
      const next = remaining.next()
      if (next === undefined) return yield* Effect.failCause(remaining.cause(cause))
      candidate = next
      step = yield* Schedule.toStep(pauses(plan.retry))
    }
    const exit = yield* Effect.exit(attempt(candidate, remaining.spend()))
    if (Exit.isSuccess(exit)) return exit.value
    cause = exit.cause
  }
})

/** How long to wait before a retry, ms; none where the provider asks for too long a pause, or the deadline is too near. */
const pauseBefore = Effect.fnUntraced(function*<E, R>(
  stepped: Effect.Effect<readonly [unknown, Duration.Duration], E, R>,
  error: AttemptError,
  plan: Plan,
  exchange: Exchange
): Effect.fn.Return<number | undefined, never, R> {
  const taken = yield* Effect.option(stepped)
  if (Option.isNone(taken)) return undefined
  const hint = error._tag === "ProviderError" ? error.retryAfterMs ?? 0 : 0
  if (hint > plan.retry.maxMs) return undefined
  const pause = Math.max(Duration.toMillis(taken.value[1]), hint)
  return exchange.elapsed() + pause < plan.timeouts.total ? pause : undefined
})

// ---------------------------------------------------------------------------------------------------------------------
// Hedging
// ---------------------------------------------------------------------------------------------------------------------

/** The pause before the next candidate starts where nothing is known of the model, ms. */
const defaultHedge = 2_000
/** Fewer calls than these make no percentile. */
const enoughSamples = 20

/** How long to wait for a candidate before the next one starts, ms. */
const hedgeAfter = (
  exchange: Exchange,
  plan: Plan,
  candidate: Candidate,
  recent: ((modelId: string) => ModelHealth) | undefined
): number => {
  if (plan.hedgeAfterMs !== undefined) return plan.hedgeAfterMs
  const figures = recent?.(candidate.model.id)
  if (figures === undefined || figures.samples < enoughSamples) return defaultHedge
  if (exchange.streamed) return figures.p95FirstTokenMs ?? defaultHedge
  // A whole answer has no first token; twice the usual time is late for it.
  return figures.durationMs === undefined ? defaultHedge : Math.max(defaultHedge, 2 * figures.durationMs)
}

type HedgeEvent<A> =
  | { readonly type: "late"; readonly launched: number }
  | {
    readonly type: "ended"
    readonly candidate: Candidate
    readonly scope: Scope.Closeable
    readonly exit: Exit.Exit<A, AttemptError>
  }

/**
 * Hedging: the next candidate starts when the ones before it have been silent for a while, or have failed. The first one
 * with something to give wins, and the others are interrupted at once. Each has a scope of its own, so that also one that
 * had something to give a moment too late is closed before the winner's value is out.
 */
const hedged = Effect.fnUntraced(function*<A, R>(
  exchange: Exchange,
  plan: Plan,
  attempt: Attempt<A, R>,
  recent: ((modelId: string) => ModelHealth) | undefined
): Effect.fn.Return<A, AttemptError, R> {
  const outer = Option.getOrUndefined(yield* Effect.serviceOption(Scope.Scope))
  const running = Scope.makeUnsafe("parallel")
  const events = yield* Queue.unbounded<HedgeEvent<A>>()
  const scopes: Array<Scope.Closeable> = []
  let winner: Scope.Closeable | undefined
  const remaining = new Remaining(exchange, plan)
  let launched = 0
  let open = 0

  const launch = Effect.fnUntraced(function*(candidate: Candidate): Effect.fn.Return<void, never, R> {
    const turn = remaining.spend()
    open++
    const order = ++launched
    const scope = outer === undefined ? Scope.makeUnsafe() : Scope.forkUnsafe(outer)
    scopes.push(scope)
    yield* Effect.exit(Effect.provideService(attempt(candidate, turn), Scope.Scope, scope)).pipe(
      Effect.flatMap((exit) => Queue.offer(events, { type: "ended", candidate, scope, exit })),
      Effect.forkIn(running, { startImmediately: true })
    )
    if (remaining.candidates.length === 0) return
    yield* Effect.sleep(hedgeAfter(exchange, plan, candidate, recent)).pipe(
      Effect.andThen(Queue.offer(events, { type: "late", launched: order })),
      Effect.forkIn(running, { startImmediately: true })
    )
  })

  const race = Effect.fnUntraced(function*(): Effect.fn.Return<A, AttemptError, R> {
    let next = remaining.next()
    for (;;) {
      if (next !== undefined) yield* launch(next)
      next = undefined
      const event: HedgeEvent<A> = yield* Queue.take(events)
      if (event.type === "late") {
        if (event.launched === launched && remaining.allowed) next = remaining.next()
        continue
      }
      open--
      const { candidate, exit, scope } = event
      if (Exit.isSuccess(exit)) {
        exchange.model = candidate.model
        winner = scope
        return exit.value
      }
      const error = errorOf(exit.cause)
      if (error === undefined) return yield* Effect.failCause(exit.cause)
      remaining.failed(candidate, error, exit.cause)
      if (actionFor(error, plan.route?.onFailure) === "final") return yield* Effect.failCause(exit.cause)
      if (remaining.allowed) next = remaining.next()
      if (next === undefined && open === 0) return yield* Effect.failCause(remaining.cause(exit.cause))
    }
  })

  const settle = (): Effect.Effect<void> =>
    Effect.flatMap(
      Scope.close(running, Exit.void),
      () =>
        Effect.forEach(scopes, (scope) => scope === winner ? Effect.void : Scope.close(scope, Exit.void), {
          discard: true
        })
    )
  return yield* Effect.onExit(race(), settle)
})
