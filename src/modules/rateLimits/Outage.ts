/**
 * Whether the store answers. While it does not, it is asked once in a second, and everybody else is spared the wait. Says so
 * at once, again every 30 seconds, and when it is over.
 */
import { Effect } from "effect"
import { logOf } from "../../sdk/Log.ts"

const log = logOf("limits")

/** How long the store is left alone after a failure, ms. */
const pauseMs = 1000
/** How often an outage is told of, ms. */
const reminderMs = 30_000

/** What is told of an outage. */
export interface Words {
  /** What becomes of requests: `requests pass without being counted`. */
  readonly consequence: string
}

/** Keeps the state of one store. Times are Unix ms. */
export class Outage {
  readonly #words: Words
  /** When the first failure was; absent while the store answers. */
  #since: number | undefined
  #era = 0
  #askedAt = -Infinity
  #toldAt = -Infinity
  /** Requests that went without an answer. */
  #requests = 0
  /** Corrections that were lost. */
  #corrections = 0

  constructor(words: Words) {
    this.#words = words
  }

  /** Whether the store is thought not to answer. */
  get isOn(): boolean {
    return this.#since !== undefined
  }

  /**
   * Changes whenever an outage begins or ends. What comes of a command counts only in the era in which it was sent: else a
   * store that answers every other command would be on and off again many times in a second.
   */
  get era(): number {
    return this.#era
  }

  /** Whether the store may be asked now. During an outage that is true for one in a second. */
  mayAsk(now: number): boolean {
    if (this.#since === undefined) return true
    // Also where the clock has jumped back.
    if (Math.abs(now - this.#askedAt) < pauseMs) return false
    this.#askedAt = now
    return true
  }

  /** A command that was sent in that era was answered in time. */
  answered(now: number, era: number): Effect.Effect<void> {
    if (this.#since === undefined || era !== this.#era) return Effect.void
    const lasted = Math.max(0, now - this.#since)
    const told = log.info("rate limits: Redis answers again, and requests are counted").pipe(
      Effect.annotateLogs({ outage_ms: lasted, requests: this.#requests, lost_corrections: this.#corrections })
    )
    this.#since = undefined
    this.#era++
    this.#requests = 0
    this.#corrections = 0
    return told
  }

  /** A command that was sent in that era has failed. */
  failed(now: number, era: number, problem: string): Effect.Effect<void> {
    if (era !== this.#era) return Effect.void
    this.#askedAt = now
    if (this.#since !== undefined) return this.#remind(now, problem)
    this.#since = now
    this.#era++
    this.#toldAt = now
    return log.error(`rate limits: Redis does not answer, ${this.#words.consequence}`).pipe(
      Effect.annotateLogs({ problem })
    )
  }

  /** A request goes without an answer. */
  requestMissed(now: number): Effect.Effect<void> {
    this.#requests++
    return this.isOn ? this.#remind(now, "it is tried again every second") : Effect.void
  }

  /** A correction is lost: in an outage, or because too many are on their way. */
  correctionMissed(now: number): Effect.Effect<void> {
    this.#corrections++
    return this.#remind(now, this.isOn ? "it is tried again every second" : "too many are on their way")
  }

  #remind(now: number, problem: string): Effect.Effect<void> {
    if (Math.abs(now - this.#toldAt) < reminderMs) return Effect.void
    this.#toldAt = now
    const told = this.#since === undefined
      ? log.warning("rate limits: more corrections than Redis takes, some are lost")
      : log.error(`rate limits: Redis still does not answer, ${this.#words.consequence}`)
    return told.pipe(
      Effect.annotateLogs({
        problem,
        outage_ms: this.#since === undefined ? 0 : Math.max(0, now - this.#since),
        requests: this.#requests,
        lost_corrections: this.#corrections
      })
    )
  }
}
