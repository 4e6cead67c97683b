/** A session for callers in the same process: frames in a stream one way, and one after the other the other way. */
import { Deferred, Effect, Latch, Queue, type Scope, Stream } from "effect"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import type {
  RealtimeChannel,
  RealtimeClose,
  RealtimeFrame,
  RealtimeListener,
  RealtimeRequest
} from "../../sdk/Realtime.ts"
import { start } from "../Exchange.ts"
import type { OpenSession } from "./Realtime.ts"

/** A session as its caller in this process has it. */
export interface RealtimeConversation {
  /**
   * What the provider says, and the gateway, until the session is over. To be run once; while nobody pulls, the provider is made
   * to wait.
   */
  readonly frames: Stream.Stream<RealtimeFrame>
  /** Sends a frame, as soon as the provider has room for it. What comes after the end is dropped. */
  readonly send: (frame: RealtimeFrame) => Effect.Effect<void>
  /** Ends the session; 1000 says that all is well. */
  readonly close: (close: RealtimeClose) => Effect.Effect<void>
  /** How the session ended. */
  readonly closed: Effect.Effect<RealtimeClose>
}

/** Frames that wait for a caller before the provider is made to wait, and as few must be left before it goes on. */
const highWaterMark = 256
const lowWaterMark = 64

type Heard = RealtimeFrame | "end"

/** The caller's end, as the session sees it. */
class CallerChannel implements RealtimeChannel {
  readonly #heard: Queue.Queue<Heard>
  readonly #room = Latch.makeUnsafe(true)
  readonly #ended = Deferred.makeUnsafe<RealtimeClose>()
  #listener: RealtimeListener | undefined
  #isFull = false
  #isOver = false

  constructor(heard: Queue.Queue<Heard>) {
    this.#heard = heard
  }

  listen(listener: RealtimeListener): void {
    this.#listener = listener
  }

  send(frame: RealtimeFrame): boolean {
    if (this.#isOver) return true
    Queue.offerUnsafe(this.#heard, frame)
    if (Queue.sizeUnsafe(this.#heard) >= highWaterMark) this.#isFull = true
    return !this.#isFull
  }

  pause(): void {
    this.#room.closeUnsafe()
  }

  resume(): void {
    this.#room.openUnsafe()
  }

  ping(): boolean {
    return true
  }

  close(close: RealtimeClose): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#room.openUnsafe()
    Deferred.doneUnsafe(this.#ended, Effect.succeed(close))
    Queue.offerUnsafe(this.#heard, "end")
  }

  /** What comes, until the end. */
  readonly frames: Stream.Stream<RealtimeFrame> = Stream.suspend(() =>
    Stream.fromEffectRepeat(Queue.take(this.#heard)).pipe(
      Stream.takeWhile((heard): heard is RealtimeFrame => heard !== "end"),
      Stream.tap(() => Effect.sync(() => this.#taken()))
    )
  )

  readonly say = (frame: RealtimeFrame): Effect.Effect<void> =>
    Effect.andThen(
      this.#room.await,
      Effect.sync(() => {
        if (!this.#isOver) this.#listener?.frame(frame)
      })
    )

  readonly leave = (close: RealtimeClose): Effect.Effect<void> =>
    Effect.sync(() => {
      if (this.#isOver) return
      this.#listener?.closed(close)
      this.close(close)
    })

  readonly ended: Effect.Effect<RealtimeClose> = Deferred.await(this.#ended)

  #taken(): void {
    if (!this.#isFull || Queue.sizeUnsafe(this.#heard) > lowWaterMark) return
    this.#isFull = false
    this.#listener?.drained()
  }
}

/** Opens a session for a caller in this process. The scope is the session's life: at its end the session is over. */
export type Converse = (request: RealtimeRequest) => Effect.Effect<RealtimeConversation, GatewayError, Scope.Scope>

/** Makes the way to sessions for callers in this process. */
export const make = (open: OpenSession): Converse =>
  Effect.fnUntraced(
    function*(request): Effect.fn.Return<RealtimeConversation, GatewayError, Scope.Scope> {
      const exchange = yield* start(request.model, true, request.user, "realtime")
      const session = yield* open(request, exchange)
      const channel = new CallerChannel(yield* Queue.unbounded<Heard>())
      yield* Effect.forkScoped(session.run(channel), { startImmediately: true })
      return { frames: channel.frames, send: channel.say, close: channel.leave, closed: channel.ended }
    }
  )
