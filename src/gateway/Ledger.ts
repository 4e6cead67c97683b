/**
 * Where finished requests are written down: their usage records go to the sinks, and their budgets are settled once the
 * records are safe. So what was spent is never ahead of the records, and where a process dies in between, the reservation
 * is still there to be settled by them.
 *
 * Under `batched` durability answers do not wait for that. Under `strict` the end of each answer does, and all that wait
 * at the same time wait for one write.
 */
import { Effect, Exit, Option, Scope } from "effect"
import { Budgets, type Settlement } from "../sdk/Budgets.ts"
import { fail, type GatewayError, StoreUnavailable } from "../sdk/GatewayError.ts"
import { logOf } from "../sdk/Log.ts"
import { LedgerTransaction, SinkError, type UsageRecord, type UsageSink, UsageSinkRegistry } from "../sdk/UsageSink.ts"
import * as RecordQueue from "./RecordQueue.ts"

const log = logOf("records")

/** What is left of a finished request. */
export interface LedgerEntry {
  readonly records: ReadonlyArray<UsageRecord>
  readonly settlements: ReadonlyArray<Settlement>
}

/** How sure an answer is of its record. */
export interface LedgerOptions {
  /** `strict`: an answer ends only after its record is in every durable sink. Default `batched`. */
  readonly durability?: "batched" | "strict"
  /** How long records gather before they are written, ms, under `batched`; default 0. */
  readonly lingerMs?: number
  /** How long an answer waits for its record under `strict`, ms; default 5,000. */
  readonly commitTimeoutMs?: number
  /** Is told of each queue, for as long as the queue is there. */
  readonly watched?: (name: string, stats: RecordQueue.RecordQueueStats) => Effect.Effect<void, never, Scope.Scope>
}

/** The ledger of one gateway. */
export interface Ledger {
  /**
   * Writes an entry down. Under `strict`, and where `isRepeatable`, it is waited for; where it is not safe in time, that fails with
   * `store_unavailable`, unless there is no answer to hold back. It is tried further all the same.
   */
  readonly post: (entry: LedgerEntry, isAnswered: boolean, isRepeatable?: boolean) => Effect.Effect<void, GatewayError>
  /** Fails with `store_unavailable` while `strict` could not keep its word: records wait that cannot be written. */
  readonly open: Effect.Effect<void, GatewayError>
  /** Entries that wait, are written and are lost. */
  readonly stats: RecordQueue.RecordQueueStats
}

/** Entries that may wait, some KB each: minutes of an outage under load. */
const capacity = 50_000
const defaultCommitTimeout = 5_000
/** Characters of a reservation's id in the log. */
const maxShown = 100

const unavailable = (message: string) => fail(new StoreUnavailable({ message, store: "usage" }))
const notSafe = unavailable(
  "the usage record of this request could not be written in time, and the gateway may not answer without it"
)
/** What no store ever takes, however often it is tried. */
const isUnacceptable = (error: GatewayError): boolean => error.code === "validation_error"
const stalled = unavailable(
  "usage records cannot be written at the moment, and the gateway may not answer without them"
)

/** Makes the ledger over the registered sinks. Its scope's end waits until what is in it is written. */
export const make = Effect.fnUntraced(function*(
  { commitTimeoutMs = defaultCommitTimeout, durability = "batched", lingerMs = 0, watched }: LedgerOptions
): Effect.fn.Return<Ledger, never, UsageSinkRegistry | Scope.Scope> {
  const sinks = yield* UsageSinkRegistry
  const budgets = Option.getOrUndefined(yield* Effect.serviceOption(Budgets))
  const transaction = yield* LedgerTransaction
  // Made before the ledger's own queue, and so closed after it: what that one still holds at the end is handed on.
  const scope = yield* Effect.acquireRelease(Scope.make(), (own, exit) => Scope.close(own, exit))
  const isStrict = durability === "strict"

  /** Sinks that keep nobody waiting have queues of their own, for as long as they are registered. */
  const others = new Map<
    UsageSink,
    { readonly queue: RecordQueue.RecordQueue<UsageRecord>; readonly scope: Scope.Closeable }
  >()

  const queueOf = Effect.fnUntraced(function*(sink: UsageSink) {
    const known = others.get(sink)
    if (known !== undefined) return known.queue
    const own = Scope.forkUnsafe(scope)
    const queue = yield* RecordQueue.make<UsageRecord>({
      name: `usage sink "${sink.name}"`,
      capacity,
      lingerMs,
      write: (records) => sink.write(records)
    }).pipe(Effect.provideService(Scope.Scope, own))
    if (watched !== undefined) {
      yield* Effect.provideService(watched(`usage_${sink.name}`, queue.stats), Scope.Scope, own)
    }
    others.set(sink, { queue, scope: own })
    return queue
  })

  const handOn = Effect.fnUntraced(
    function*(registered: ReadonlyArray<UsageSink>, records: ReadonlyArray<UsageRecord>) {
      for (const sink of registered) {
        if (sink.durable === true) continue
        const queue = yield* queueOf(sink)
        for (const record of records) queue.offer(record)
      }
      for (const [sink, { scope: own }] of others) {
        if (registered.includes(sink)) continue
        others.delete(sink)
        yield* Scope.close(own, Exit.void)
      }
    }
  )

  /** One settlement that no store ever takes must not hold up the others, nor all records behind them. */
  const settleEach = (store: Budgets["Service"], settlements: ReadonlyArray<Settlement>) =>
    Effect.forEach(
      settlements,
      (settlement) =>
        Effect.catchIf(store.settle([settlement]), isUnacceptable, (error) =>
          log.error("a budget cannot be settled; its reservation is left to expire", {
            reservation: settlement.id.slice(0, maxShown),
            actualNanoUsd: settlement.actualNanoUsd,
            error: error.message
          })),
      { discard: true }
    )

  const settle = (settlements: ReadonlyArray<Settlement>): Effect.Effect<void, SinkError> =>
    budgets === undefined || settlements.length === 0
      ? Effect.void
      : budgets.settle(settlements).pipe(
        Effect.catchIf(isUnacceptable, () => settleEach(budgets, settlements)),
        Effect.mapError(({ message }) => new SinkError({ sink: "budgets", message }))
      )

  const commit = Effect.fnUntraced(function*(entries: ReadonlyArray<LedgerEntry>): Effect.fn.Return<void, SinkError> {
    const records = entries.flatMap((entry) => entry.records)
    const settlements = entries.flatMap((entry) => entry.settlements)
    const [first, ...rest] = records
    const registered = sinks.all()
    const durable = first === undefined ? [] : registered.filter((sink) => sink.durable === true)
    yield* transaction(
      Effect.andThen(
        Effect.forEach(
          durable,
          (sink) => first === undefined ? Effect.void : sink.write([first, ...rest]),
          { discard: true }
        ),
        settle(settlements)
      )
    )
    yield* handOn(registered, records)
  })

  const queue = yield* RecordQueue.make<LedgerEntry>({
    name: "usage ledger",
    capacity,
    lingerMs: isStrict ? 0 : lingerMs,
    write: commit
  })
  if (watched !== undefined) yield* watched("ledger", queue.stats)

  /** What was written when the last answer gave up waiting: as long as that is all, so would the next one. */
  let inVain = -1
  // Requests are accounted for where they cannot be interrupted any more; waiting for longer than this is not accounting.
  const committed = Effect.timeoutOrElse(Effect.interruptible(queue.flush), {
    duration: commitTimeoutMs,
    orElse: () => {
      inVain = queue.stats.written
      return Effect.fail(notSafe)
    }
  })

  /** The queue's retries at the time when the last commit is known to have come through. */
  let retried = 0
  let written = 0
  const isStalled = (): boolean => {
    const { stats } = queue
    if (stats.written > written || stats.queued === 0) {
      written = stats.written
      retried = stats.retries
    }
    return stats.retries > retried || (stats.queued > 0 && stats.written === inVain)
  }
  return {
    post: (entry, isAnswered, isRepeatable = false) => {
      if (entry.records.length === 0 && entry.settlements.length === 0) return Effect.void
      const waits = (isStrict || isRepeatable) && isAnswered
      if (queue.offer(entry)) {
        if (waits) return committed
        // A refusal need not wait for what it is about.
        return isStrict && !isStalled() ? Effect.ignore(committed) : Effect.void
      }
      // The queue has told of the record that is lost; the money must not be held for ever all the same.
      const released = Effect.ignore(settle(entry.settlements))
      return waits ? Effect.andThen(released, Effect.fail(notSafe)) : released
    },
    open: Effect.suspend(() => isStrict && isStalled() ? Effect.fail(stalled) : Effect.void),
    stats: queue.stats
  }
})
