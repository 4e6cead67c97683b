/**
 * One direction of a session. Frames go through in their order, and as the bytes that came; one that has to be looked at, or
 * paid for, holds up those behind it until that is done. Whoever sends faster than the other side reads is made to wait.
 */
import { Effect, Queue } from "effect"
import type { RealtimeChannel, RealtimeFrame } from "../../sdk/Realtime.ts"

/** What has to be done before the next frame may pass; it sends its own frame itself. */
export type Work = Effect.Effect<void>

/** What has to be done about a frame; undefined: it passes. */
export type Look = (frame: RealtimeFrame) => Work | undefined

/** One direction. */
export class RealtimeLane {
  readonly #from: RealtimeChannel
  readonly #to: RealtimeChannel
  readonly #look: Look
  readonly #work: Queue.Queue<Work>
  /** Frames behind the one that is worked on: what was under way when its sender was paused. */
  #waiting: Array<RealtimeFrame> = []
  /** How many of these have passed. */
  #passed = 0
  #last: (() => void) | undefined
  #isHeld = false
  #isFull = false
  #frames = 0

  constructor(from: RealtimeChannel, to: RealtimeChannel, look: Look, work: Queue.Queue<Work>) {
    this.#from = from
    this.#to = to
    this.#look = look
    this.#work = work
  }

  /** Frames that have come since this was last asked. */
  takeFrames(): number {
    const frames = this.#frames
    this.#frames = 0
    return frames
  }

  /** Whether the reading side is behind. */
  get isFull(): boolean {
    return this.#isFull
  }

  /** A frame has come. */
  offer(frame: RealtimeFrame): void {
    this.#frames++
    if (this.#isHeld) this.#waiting.push(frame)
    else this.#pass(frame)
  }

  /** Sends a frame on. */
  send(frame: RealtimeFrame): void {
    if (this.#to.send(frame) || this.#isFull) return
    this.#isFull = true
    this.#from.pause()
  }

  /** The reading side has caught up. */
  drained(): void {
    if (!this.#isFull) return
    this.#isFull = false
    if (!this.#isHeld) this.#from.resume()
  }

  /** Has something done when all that has come is through. */
  atEnd(last: () => void): void {
    if (this.#isHeld) this.#last = last
    else last()
  }

  /** Does the work that frames ask for, one after the other, for as long as it runs. */
  readonly worker: Effect.Effect<never> = Effect.suspend(() =>
    Effect.forever(
      Effect.flatMap(
        Queue.take(this.#work),
        (work) => Effect.andThen(work, Effect.sync(() => this.#release()))
      )
    )
  )

  #pass(frame: RealtimeFrame): void {
    const work = this.#look(frame)
    if (work === undefined) {
      this.send(frame)
      return
    }
    this.#isHeld = true
    this.#from.pause()
    Queue.offerUnsafe(this.#work, work)
  }

  #release(): void {
    this.#isHeld = false
    while (!this.#isHeld) {
      const frame = this.#waiting[this.#passed]
      if (frame === undefined) break
      this.#passed++
      this.#pass(frame)
    }
    if (this.#isHeld) return
    this.#waiting = []
    this.#passed = 0
    if (!this.#isFull) this.#from.resume()
    this.#last?.()
  }
}
