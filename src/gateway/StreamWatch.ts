/**
 * A provider's stream under watch. A fiber of its own reads it into a slot that holds one network read, from which the
 * pipeline pulls; another looks at the clock. So a timer that runs out interrupts the provider whatever it is doing, and
 * a chunk costs two callbacks instead of a race.
 *
 * The slot is the only buffer: while it is full nothing is read, so a slow reader slows the upstream, and the time that
 * it takes does not count as the provider's silence.
 */
import { Cause, type Clock, Effect, Exit, Fiber, type Scope, Stream } from "effect"
import type { Timeouts } from "../sdk/Caller.ts"
import { ProviderError } from "../sdk/Provider.ts"
import type { ChunkKind, ChunkPull, Chunks } from "./ChunkPull.ts"
import type { AttemptError } from "./Failure.ts"
import { isLive, startTimer } from "./TimeLimit.ts"
import { timedOut } from "./Timers.ts"

type Pulled<Chunk> = Exit.Exit<Chunks<Chunk>, AttemptError | Cause.Done>

/** Where the reading fiber leaves what it read, until the pipeline takes it. */
class Slot<Chunk> {
  readonly #onEnd: (exit: Exit.Exit<never, AttemptError | Cause.Done>) => void
  #chunks: Chunks<Chunk> | undefined
  #end: Exit.Exit<never, AttemptError | Cause.Done> | undefined
  #reader: ((pulled: Pulled<Chunk>) => void) | undefined
  #writer: (() => void) | undefined

  constructor(onEnd: (exit: Exit.Exit<never, AttemptError | Cause.Done>) => void) {
    this.#onEnd = onEnd
  }

  /** Leaves chunks in the slot; waits only where it is full. */
  put(chunks: Chunks<Chunk>): Effect.Effect<void> {
    const reader = this.#reader
    if (reader !== undefined) {
      this.#reader = undefined
      reader(Exit.succeed(chunks))
      return Effect.void
    }
    if (this.#chunks === undefined) {
      this.#chunks = chunks
      return Effect.void
    }
    return Effect.callback<void>((resume) => {
      this.#writer = () => {
        this.#chunks = chunks
        resume(Effect.void)
      }
      return Effect.sync(() => {
        this.#writer = undefined
      })
    })
  }

  /** Whether a `put` would have to wait. */
  get isFull(): boolean {
    return this.#chunks !== undefined
  }

  /** Ends the slot; what is in it can still be taken. The first end counts. */
  end(exit: Exit.Exit<never, AttemptError | Cause.Done>): void {
    if (this.#end !== undefined) return
    this.#end = exit
    this.#onEnd(exit)
    const reader = this.#reader
    this.#reader = undefined
    reader?.(exit)
  }

  #poll(): Pulled<Chunk> | undefined {
    const chunks = this.#chunks
    if (chunks === undefined) return this.#end
    this.#chunks = undefined
    const writer = this.#writer
    this.#writer = undefined
    writer?.()
    return Exit.succeed(chunks)
  }

  readonly take: ChunkPull<AttemptError, Chunk> = Effect.suspend(() =>
    this.#poll() ?? Effect.callback<Chunks<Chunk>, AttemptError | Cause.Done>((resume) => {
      this.#reader = resume
      return Effect.sync(() => {
        this.#reader = undefined
      })
    })
  )
}

const cutShort = (provider: string) =>
  new ProviderError({ provider, kind: "protocol", message: "the provider's stream ended before the answer did" })

/** What the timers know of a slot. */
type Ending = Pick<Slot<unknown>, "end">

/** The timers' state: what the reading fiber writes and the watching one reads. Times in ms of the monotonic clock. */
class Deadlines {
  readonly #clock: Clock.Clock
  readonly #timeouts: Timeouts
  readonly #totalAt: number
  #phase: "first_token" | "idle" = "first_token"
  /** What is left of the phase's limit at `#since`; content fills it up. */
  #left: number
  /** Since when the provider has been waited for; absent while it waits for the reader. */
  #since: number | undefined

  constructor(clock: Clock.Clock, timeouts: Timeouts, elapsed: number) {
    this.#clock = clock
    this.#timeouts = timeouts
    this.#left = timeouts.firstToken
    this.#since = this.#now()
    this.#totalAt = this.#since + timeouts.total - elapsed
  }

  #now(): number {
    return Number(this.#clock.monotonicTimeNanosUnsafe()) / 1e6
  }

  /** Content has come. */
  progressed(): void {
    this.#phase = "idle"
    this.#left = this.#timeouts.idle
    this.#since = this.#now()
  }

  /** The provider waits for the reader. */
  paused(): void {
    const now = this.#now()
    if (this.#since !== undefined) this.#left -= now - this.#since
    this.#since = undefined
  }

  /** The provider is waited for again. */
  resumed(): void {
    this.#since ??= this.#now()
  }

  /** The error of the timer that has run out, or how long to sleep until one may have. */
  check(provider: string): ReturnType<typeof timedOut> | number {
    const now = this.#now()
    if (this.#totalAt <= now) return timedOut(provider, "total", this.#timeouts.total)
    // A limit can come nearer while it is slept on (from first token to idle), but never nearer than a whole idle time.
    const phaseIn = this.#since === undefined ? this.#timeouts.idle : this.#left - (now - this.#since)
    if (phaseIn <= 0) {
      return timedOut(provider, this.#phase, this.#phase === "idle" ? this.#timeouts.idle : this.#timeouts.firstToken)
    }
    return Math.min(this.#totalAt - now, phaseIn, this.#timeouts.idle)
  }
}

/** A stream that is being read. */
export interface WatchedStream<Chunk> {
  /** Gives what has been read, as soon as anything has. */
  readonly pull: ChunkPull<AttemptError, Chunk>
}

/** A stream whose reading can be ended before its scope does. */
export interface Reading<Chunk> extends WatchedStream<Chunk> {
  /** Stops reading; the provider's connection is closed by the time that it returns. */
  readonly stop: Effect.Effect<void>
}

/** Is told how a stream fares while it is read, at the provider's pace; each at most once, and one of the last three. */
export interface StreamObserver {
  readonly firstContent: () => void
  /** The stream is complete. The tokens are the provider's own figure, absent where it told none. */
  readonly succeeded: (outputTokens: number | undefined) => void
  readonly failed: (error: AttemptError) => void
  /** Nobody reads it any more. */
  readonly left: () => void
}

const tell = (
  observer: StreamObserver,
  exit: Exit.Exit<never, AttemptError | Cause.Done>,
  outputTokens: number | undefined
): void => {
  const failure = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason) : undefined
  if (failure === undefined) observer.left()
  else if (Cause.isDone(failure.error)) observer.succeeded(outputTokens)
  else observer.failed(failure.error)
}

/**
 * Starts to read a stream and gives the pull of what it reads. The scope is the reading's life. Beside the stream's own
 * errors it fails with a timer's, and where the stream ends before it is complete: an answer cut short is no answer.
 * `elapsed` is the request's age, ms.
 */
export const watch = <Chunk>(
  provider: string,
  kind: ChunkKind<Chunk>,
  chunks: Stream.Stream<Chunk, ProviderError>,
  timeouts: Timeouts,
  elapsed: number,
  scope: Scope.Scope,
  observer: StreamObserver
): Effect.Effect<Reading<Chunk>> =>
  Effect.clockWith((clock) => {
    let outputTokens: number | undefined
    const slot = new Slot<Chunk>((exit) => tell(observer, exit, outputTokens))
    const deadlines = new Deadlines(clock, timeouts, elapsed)
    let finished = kind.ends === undefined
    let begun = false
    const read = Stream.runForEachArray(chunks, (together) => {
      for (const chunk of together) {
        const ends = kind.ends?.(chunk) === true
        finished ||= ends
        outputTokens = kind.usage(chunk)?.outputTokens ?? outputTokens
        if (!ends && !kind.hasContent(chunk)) continue
        deadlines.progressed()
        if (!begun) observer.firstContent()
        begun = true
      }
      if (!slot.isFull) return slot.put(together)
      deadlines.paused()
      return Effect.map(slot.put(together), () => deadlines.resumed())
    })
    const ended = (exit: Exit.Exit<void, ProviderError>): void =>
      slot.end(
        Exit.isFailure(exit) ? Exit.failCause(exit.cause) : Exit.fail(finished ? Cause.Done() : cutShort(provider))
      )
    return Effect.flatMap(Effect.forkIn(read, scope, { startImmediately: true }), (reading) => {
      const over = reading.pollUnsafe()
      if (over !== undefined) {
        ended(over)
        return Effect.succeed({ pull: slot.take, stop: Effect.void })
      }
      const watched: Reading<Chunk> = { pull: slot.take, stop: Fiber.interrupt(reading) }
      if (isLive(clock)) {
        const alarm = new Alarm(provider, slot, deadlines, reading)
        reading.addObserver((exit) => {
          alarm.stop()
          ended(exit)
        })
        return Effect.succeed(watched)
      }
      reading.addObserver(ended)
      return Effect.map(
        Effect.forkIn(expire(provider, slot, deadlines, reading), scope, { startImmediately: true }),
        (watching) => {
          reading.addObserver(() => watching.interruptUnsafe())
          return watched
        }
      )
    })
  })

/** As `expire`, by Node's own timers: a fiber that sleeps cost a third of all that a stream's attempt does. */
class Alarm {
  readonly #provider: string
  readonly #slot: Ending
  readonly #deadlines: Deadlines
  readonly #reading: Fiber.Fiber<void, ProviderError>
  #timer: NodeJS.Timeout | undefined

  constructor(provider: string, slot: Ending, deadlines: Deadlines, reading: Fiber.Fiber<void, ProviderError>) {
    this.#provider = provider
    this.#slot = slot
    this.#deadlines = deadlines
    this.#reading = reading
    this.#check()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  #check(): void {
    const next = this.#deadlines.check(this.#provider)
    if (typeof next === "number") {
      this.#timer = startTimer(next, () => this.#check())
      return
    }
    this.#slot.end(Exit.fail(next))
    this.#reading.interruptUnsafe()
  }
}

/** Sleeps until a timer runs out, and then ends the slot with its error and the reading with an interruption. */
const expire = Effect.fnUntraced(function*(
  provider: string,
  slot: Ending,
  deadlines: Deadlines,
  reading: Fiber.Fiber<void, ProviderError>
): Effect.fn.Return<void> {
  let next = deadlines.check(provider)
  while (typeof next === "number") {
    yield* Effect.sleep(next)
    next = deadlines.check(provider)
  }
  slot.end(Exit.fail(next))
  yield* Fiber.interrupt(reading)
})
