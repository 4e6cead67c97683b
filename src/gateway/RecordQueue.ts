/**
 * The bounded queue in front of a sink of records. Requests put their records in and go on at once; a fiber of the queue's
 * own writes them in batches, in their order, and tries again for as long as it takes. Nothing is lost silently: a record
 * that finds the queue full, and one that could not be written before the end, is counted and told of in the log.
 *
 * While one batch is being written the next one gathers, so batches grow with the load by themselves.
 */
import { type Array as Arr, Cause, Clock, Effect, Exit, Fiber, Latch, Random, type Scope } from "effect"
import { logOf } from "../sdk/Log.ts"
import type { RetryOptions } from "../sdk/Routes.ts"
import type { SinkError } from "../sdk/UsageSink.ts"
import { describeDefect } from "./Defect.ts"

const log = logOf("records")

/** Options of a queue. */
export interface RecordQueueOptions<A> {
  /** What the log calls it, such as `usage sink "sql"`. */
  readonly name: string
  /** Records that may wait, the batch that is being written included; default 50,000. */
  readonly capacity?: number
  /** How long the first record of a batch waits for others, ms; default 0: as long as the batch before it takes. */
  readonly lingerMs?: number
  /** Records in a batch at most; default 500. */
  readonly maxBatch?: number
  /** Writes all records of a batch or fails; one that dies has failed. It gets the same batch again until it succeeds. */
  readonly write: (batch: Arr.NonEmptyReadonlyArray<A>) => Effect.Effect<void, SinkError>
  /** Pauses between retries; default 100 ms, doubled up to 5 s. They are shortened by up to a half at random. */
  readonly retry?: RetryOptions
  /** At the end of the scope: how long to go on writing what is left, ms; default 10 s. */
  readonly closeWithinMs?: number
}

/** The running figures of a queue. */
export interface RecordQueueStats {
  /** Records that were taken and are not yet written. */
  readonly queued: number
  readonly written: number
  /** Records that found the queue full or closed, and those that could not be written before the end. */
  readonly dropped: number
  /** Writes that failed and were tried again. */
  readonly retries: number
}

/** A queue. */
export interface RecordQueue<A> {
  /** Puts a record in, without ever waiting; `false` means that it was dropped. */
  readonly offer: (record: A) => boolean
  /**
   * Waits until all that was taken before is written. It is also over when the queue is closed with records that could not
   * be written, which `stats.dropped` then counts.
   */
  readonly flush: Effect.Effect<void>
  /** The figures as they are now; reading them costs nothing. */
  readonly stats: RecordQueueStats
}

const defaultRetry: RetryOptions = { baseMs: 100, maxMs: 5_000 }
/** The same trouble is told of once in so many ms. */
const quietMs = 10_000

/** Someone who waits until so many records are dealt with. */
interface Waiter {
  readonly target: number
  readonly resume: () => void
}

/**
 * Waits for a latch, and then for the next turn of the event loop: opening a latch runs whoever waits for it within the
 * call, and the rest is not the offering request's work. What else arrives in the same turn goes into the same batch.
 */
const opened = (latch: Latch.Latch): Effect.Effect<void> => Effect.andThen(latch.await, Effect.yieldNow)

const reason = (cause: Cause.Cause<SinkError>): Readonly<Record<string, unknown>> => {
  const failure = cause.reasons.find(Cause.isFailReason)
  if (failure !== undefined) return { error: failure.error.message }
  const defect = cause.reasons.find(Cause.isDieReason)
  return defect === undefined ? { error: "interrupted" } : describeDefect(defect.defect)
}

class Queue<A> implements RecordQueue<A>, RecordQueueStats {
  readonly #options: RecordQueueOptions<A>
  readonly #capacity: number
  readonly #maxBatch: number
  readonly #lingerMs: number
  #waiting: Array<A> = []
  readonly #waiters = new Set<Waiter>()
  /** There is something to write, or nothing more to come. */
  readonly #arrived = Latch.makeUnsafe(false)
  /** The next batch should not wait for more records. */
  readonly #hurry = Latch.makeUnsafe(false)
  readonly #closes = Latch.makeUnsafe(false)
  readonly #drops = Latch.makeUnsafe(false)
  #closing = false
  #closed = false
  #taken = 0
  /** How many of the dropped ones the log knows of. */
  #told = 0
  written = 0
  dropped = 0
  retries = 0

  constructor(options: RecordQueueOptions<A>) {
    this.#options = options
    this.#capacity = Math.max(1, options.capacity ?? 50_000)
    this.#maxBatch = Math.max(1, options.maxBatch ?? 500)
    this.#lingerMs = Math.max(0, options.lingerMs ?? 0)
  }

  get stats(): RecordQueueStats {
    return this
  }

  get queued(): number {
    return this.#closed ? 0 : this.#taken - this.written
  }

  readonly offer = (record: A): boolean => {
    if (this.#closing || this.#taken - this.written >= this.#capacity) {
      this.dropped++
      this.#drops.openUnsafe()
      return false
    }
    this.#taken++
    const length = this.#waiting.push(record)
    if (length === 1) this.#arrived.openUnsafe()
    if (length === this.#maxBatch) this.#hurry.openUnsafe()
    return true
  }

  readonly flush: Effect.Effect<void> = Effect.callback<void>((resume) => {
    if (this.#closed || this.written >= this.#taken) return resume(Effect.void)
    const waiter: Waiter = { target: this.#taken, resume: () => resume(Effect.void) }
    this.#waiters.add(waiter)
    this.#hurry.openUnsafe()
    return Effect.sync(() => this.#waiters.delete(waiter))
  })

  /** Writes what comes, until the queue closes and all is written. */
  readonly work: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    for (;;) {
      if (this.#waiting.length === 0) {
        if (this.#closing) return
        this.#arrived.closeUnsafe()
        yield* opened(this.#arrived)
        continue
      }
      if (this.#lingerMs > 0 && !this.#closing && this.#waiters.size === 0 && this.#waiting.length < this.#maxBatch) {
        this.#hurry.closeUnsafe()
        yield* Effect.timeoutOption(this.#hurry.await, this.#lingerMs)
      }
      const batch = this.#take()
      if (isNonEmpty(batch)) yield* this.#deliver(batch)
    }
  })

  /** Tells of dropped records: at once, and then of those that were dropped since, no oftener than every ten seconds. */
  readonly report: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    for (;;) {
      this.#drops.closeUnsafe()
      if (this.#told === this.dropped) yield* opened(this.#drops)
      yield* this.#tellDrops()
      yield* Effect.sleep(quietMs)
    }
  })

  /** Ends the queue: what is left is written until the time is up, and what is left then is lost. */
  readonly close = Effect.fnUntraced(
    function*(this: Queue<A>, worker: Fiber.Fiber<void>, reporter: Fiber.Fiber<void>): Effect.fn.Return<void> {
      this.#closing = true
      this.#arrived.openUnsafe()
      this.#hurry.openUnsafe()
      this.#closes.openUnsafe()
      yield* Effect.timeoutOption(Fiber.await(worker), this.#options.closeWithinMs ?? 10_000)
      const lost = this.#taken - this.written
      this.#closed = true
      this.dropped += lost
      // A write that does not let itself be interrupted must not hold up the end beyond its time.
      worker.interruptUnsafe()
      reporter.interruptUnsafe()
      this.#waiting = []
      this.#wakeWaiters()
      yield* this.#tellDrops()
    }
  )

  #tellDrops(): Effect.Effect<void> {
    const records = this.dropped - this.#told
    this.#told = this.dropped
    return records === 0 ? Effect.void : log.error(`${this.#options.name}: records were lost`, {
      records,
      because: this.#closed ? "they could not be written before the end" : "the queue is full",
      lostInAll: this.dropped,
      queued: this.queued
    })
  }

  #take(): ReadonlyArray<A> {
    if (this.#waiting.length > this.#maxBatch) return this.#waiting.splice(0, this.#maxBatch)
    const batch = this.#waiting
    this.#waiting = []
    return batch
  }

  readonly #deliver = Effect.fnUntraced(
    function*(this: Queue<A>, batch: Arr.NonEmptyReadonlyArray<A>): Effect.fn.Return<void> {
      const clock = yield* Clock.Clock
      const { name, retry = defaultRetry, write } = this.#options
      // What was written counts as written even where the fiber is interrupted at that very moment.
      const attempt = Effect.suspend(() => write(batch)).pipe(
        Effect.onExit((exit) =>
          Exit.isSuccess(exit)
            ? Effect.sync(() => {
              this.written += batch.length
              this.#wakeWaiters()
            })
            : Effect.void
        ),
        Effect.exit
      )
      let pause = retry.baseMs
      let toldAt = -Infinity
      let failures = 0
      let endKnown = this.#closing
      for (;;) {
        const exit = yield* attempt
        if (Exit.isSuccess(exit)) break
        failures++
        this.retries++
        const now = clock.currentTimeMillisUnsafe()
        if (now - toldAt >= quietMs || now < toldAt) {
          toldAt = now
          yield* log.error(`${name}: a batch could not be written and is tried again`, {
            records: batch.length,
            queued: this.queued,
            failures,
            ...reason(exit.cause)
          })
        }
        const wait = Math.min(pause, retry.maxMs) * (0.5 + 0.5 * (yield* Random.next))
        pause = Math.min(pause * 2, retry.maxMs)
        if (endKnown) yield* Effect.sleep(wait)
        else {
          yield* Effect.timeoutOption(this.#closes.await, wait)
          if (this.#closing) {
            endKnown = true
            pause = retry.baseMs
          }
        }
      }
      if (failures > 0) yield* log.info(`${name}: batches are written again`, { failures, queued: this.queued })
    }
  )

  /** Waiters stand in the order of their targets. */
  #wakeWaiters(): void {
    for (const waiter of this.#waiters) {
      if (!this.#closed && waiter.target > this.written) break
      this.#waiters.delete(waiter)
      waiter.resume()
    }
  }
}

const isNonEmpty = <A>(batch: ReadonlyArray<A>): batch is Arr.NonEmptyReadonlyArray<A> => batch.length > 0

/** Makes a queue that lives as long as the scope, and is flushed at its end. */
export const make = Effect.fnUntraced(function*<A>(
  options: RecordQueueOptions<A>
): Effect.fn.Return<RecordQueue<A>, never, Scope.Scope> {
  const queue = new Queue(options)
  // Neither fiber is the scope's child: `close` gives them their time, and does not wait any longer than that.
  yield* Effect.acquireRelease(
    Effect.all([Effect.forkDetach(queue.work), Effect.forkDetach(queue.report)]),
    ([worker, reporter]) => queue.close(worker, reporter)
  )
  return queue
})
