/**
 * What ledgers on another machine have in common: nobody waits for them longer than agreed, what nobody waits for any more
 * is taken back, and reservations whose replica has died are swept.
 *
 * A call that its caller has given up goes on by itself, so that its outcome is known where there is one: then its
 * reservation is taken back. Where the connection broke, whether it succeeded is unknown, and taking it back is tried as
 * well; what cannot be taken back expires in the end.
 */
import { Cause, Clock, Effect, Exit, Fiber, Queue, type Schema, type Scope } from "effect"
import type { SqlError } from "effect/sql"
import type { Balance, Reservation } from "../../sdk/Budgets.ts"
import { fail, type GatewayError } from "../../sdk/GatewayError.ts"
import { logOf } from "../../sdk/Log.ts"
import { distinctAccounts, reservationProblem, unavailable } from "./Ledger.ts"

const log = logOf("budgets")

/** How long others wait for a ledger, ms. */
export interface RemoteLedgerOptions {
  /** What a request waits at most until its money is reserved; then it fails with `store_unavailable`. Default: 500. */
  readonly timeoutMs?: number
  /** Between two looks for reservations of replicas that have died. Default: 5,000. */
  readonly sweepIntervalMs?: number
  /**
   * After the store did not answer, no reservation is swept for so long: settlements that had to wait for it go first.
   * Default: 30,000.
   */
  readonly settleFirstMs?: number
}

/** How a ledger does what all of them do; fails with `store_unavailable` where it cannot be asked. */
export interface RemoteLedger {
  /** Sets money aside in one round trip, or fails with `budget_exceeded`; `operation` names this very call. */
  readonly reserve: (
    reservation: Reservation,
    operation: string
  ) => Effect.Effect<ReadonlyArray<Balance>, GatewayError>
  /** Takes back what one call to `reserve` added, if it did; doing so twice does no harm. */
  readonly undo: (reservation: Reservation, operation: string) => Effect.Effect<unknown, GatewayError>
  /** Settles reservations that have expired, at most some hundred, and gives how many. */
  readonly sweep: Effect.Effect<number, GatewayError>
}

/** How long an abandoned call may go on before its outcome counts as unknown, ms. */
const giveUpAfter = 10_000
/** Abandoned calls at the same time; where there are more, the store does not answer and the next caller is told so at once. */
const maxAbandoned = 64
/** Reservations that wait to be taken back; more of them are left to expire. */
const maxUndos = 10_000
/** How long to wait before an undo that failed is tried again, ms. */
const undoAgainAfter = 1_000
/** How long settling and reporting may take, ms. */
const slowCallMs = 5_000

const defaultTimeout = 500

/** What the operator reads about a database's error. */
export const detail = (error: SqlError.SqlError | Schema.SchemaError): string => {
  if (error._tag === "SchemaError") return error.message
  const { _tag, cause } = error.reason
  return `${_tag}: ${cause instanceof Error ? cause.message : error.message}`
}

/** Time between two reports that a store does not answer, ms. */
const reportEvery = 10_000

/**
 * Makes the way to fail where a store does not answer: the operator is told why, from time to time, and the caller only
 * that it is so.
 */
export const outages = (store: string, clock: Clock.Clock): (detail: string) => Effect.Effect<never, GatewayError> => {
  let reported = -Infinity
  const error = Effect.fail(unavailable(`the budget store (${store}) does not answer`))
  return (detail) =>
    Effect.suspend(() => {
      const now = clock.currentTimeMillisUnsafe()
      if (Math.abs(now - reported) < reportEvery) return error
      reported = now
      return Effect.andThen(
        log.warning(`the budget store (${store}) does not answer: ${detail.slice(0, 300)}`),
        error
      )
    })
}

interface Undo {
  readonly reservation: Reservation
  readonly operation: string
}

const noAnswer = unavailable("the budget store does not answer")

/** A ledger that nobody waits for too long. */
export const make = Effect.fnUntraced(function*(
  store: string,
  ledger: RemoteLedger,
  options: RemoteLedgerOptions
): Effect.fn.Return<
  {
    readonly reserve: (reservation: Reservation) => Effect.Effect<ReadonlyArray<Balance>, GatewayError>
    /** Gives up a call that takes too long. */
    readonly within: <A>(call: Effect.Effect<A, GatewayError>) => Effect.Effect<A, GatewayError>
  },
  never,
  Scope.Scope
> {
  const scope = yield* Effect.scope
  const clock = yield* Clock.Clock
  const timeoutMs = options.timeoutMs ?? defaultTimeout
  const sweepIntervalMs = options.sweepIntervalMs ?? 5_000
  const settleFirstMs = options.settleFirstMs ?? 30_000
  const undos = yield* Queue.dropping<Undo>(maxUndos)
  const replica = crypto.randomUUID()
  let operations = 0
  let abandoned = 0

  const undo = ({ operation, reservation }: Undo): Effect.Effect<void> =>
    ledger.undo(reservation, operation).pipe(
      Effect.timeoutOrElse({ duration: slowCallMs, orElse: () => Effect.fail(noAnswer) }),
      Effect.asVoid,
      Effect.catchCause((cause) => {
        if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
        if (reservation.expiresAt <= clock.currentTimeMillisUnsafe()) return Effect.void
        return Effect.delay(Effect.suspend(() => undo({ operation, reservation })), undoAgainAfter)
      })
    )
  yield* Effect.forkScoped(Effect.forever(Effect.flatMap(Queue.take(undos), undo)))
  // What is waiting at the end gets one more chance; the rest expires.
  yield* Effect.addFinalizer(() =>
    Effect.flatMap(
      Queue.clear(undos),
      Effect.forEach(({ operation, reservation }) => ledger.undo(reservation, operation), { discard: true })
    ).pipe(Effect.timeout(timeoutMs), Effect.ignore)
  )

  const sweepOnce: Effect.Effect<void, GatewayError> = Effect.flatMap(
    ledger.sweep,
    (swept) => swept === 0 ? Effect.void : Effect.andThen(Effect.yieldNow, Effect.suspend(() => sweepOnce))
  )
  let silent = false
  const sweeping = Effect.sleep(sweepIntervalMs).pipe(
    Effect.andThen(sweepOnce.pipe(
      Effect.timeoutOrElse({ duration: Math.max(slowCallMs, settleFirstMs), orElse: () => Effect.fail(noAnswer) })
    )),
    Effect.matchCauseEffect({
      onSuccess: () => {
        const back = silent
        silent = false
        return back ? log.info(`expired reservations of budgets are swept again (${store})`) : Effect.void
      },
      onFailure: (cause) => {
        if (Cause.hasInterruptsOnly(cause)) return Effect.failCause(cause)
        const known = silent
        silent = true
        return Effect.andThen(
          known ? Effect.void : log.warning(`expired reservations of budgets cannot be swept (${store})`, cause),
          Effect.sleep(settleFirstMs)
        )
      }
    })
  )
  yield* Effect.forkScoped(Effect.forever(Effect.ignore(sweeping)))

  const reserve = (reservation: Reservation): Effect.Effect<ReadonlyArray<Balance>, GatewayError> =>
    Effect.uninterruptibleMask((restore) => {
      const problem = reservationProblem(reservation)
      if (problem !== undefined) return Effect.fail(fail(problem))
      if (reservation.accounts.length === 0) return Effect.succeed([])
      if (abandoned >= maxAbandoned) return Effect.fail(noAnswer)
      const accounts = distinctAccounts(reservation.accounts)
      const distinct = accounts === reservation.accounts ? reservation : { ...reservation, accounts }
      const operation = `${replica}:${++operations}`
      const takeBack = () => Queue.offerUnsafe(undos, { operation, reservation: distinct })
      let waiting = true
      let ended: Exit.Exit<ReadonlyArray<Balance>, GatewayError> | undefined
      const call = ledger.reserve(distinct, operation).pipe(
        Effect.timeoutOrElse({ duration: giveUpAfter, orElse: () => Effect.fail(noAnswer) }),
        Effect.onExit((exit) =>
          Effect.sync(() => {
            ended = exit
            const refused = Exit.isFailure(exit) && isRefusal(exit.cause)
            if (!waiting) abandoned--
            if (!refused && (!waiting || Exit.isFailure(exit))) takeBack()
          })
        )
      )
      return Effect.flatMap(Effect.forkIn(call, scope, { startImmediately: true }), (fiber) =>
        restore(
          Effect.timeoutOrElse(Fiber.join(fiber), { duration: timeoutMs, orElse: () => Effect.fail(noAnswer) })
        ).pipe(
          Effect.onExit((exit) =>
            Effect.sync(() => {
              waiting = false
              if (ended === undefined) abandoned++
              else if (Exit.isFailure(exit) && Exit.isSuccess(ended)) takeBack()
            })
          )
        ))
    })

  return {
    reserve,
    within: (call) => Effect.timeoutOrElse(call, { duration: slowCallMs, orElse: () => Effect.fail(noAnswer) })
  }
})

/** Whether the store has answered that it did nothing. */
const isRefusal = (cause: Cause.Cause<GatewayError>): boolean =>
  cause.reasons.some((reason) => Cause.isFailReason(reason) && reason.error.code === "budget_exceeded")
