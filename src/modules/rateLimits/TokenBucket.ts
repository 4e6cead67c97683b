/**
 * The token bucket of `effect/persistence`'s RateLimiter, one at a time: it starts full, and gets one token each refill
 * interval. The scripts in RedisScripts.ts do the same to the state in Redis.
 *
 * It differs from the library's in four points, each to the side of holding the limit or of letting go again:
 * - A clock that jumps back starts the interval anew. The library's buckets get nothing until the clock is where it was.
 * - What is given back never makes a bucket fuller than full.
 * - A lower limit holds at once, and not only after what was there has been used up.
 * - Interval borders are rounded up to 1/1024 ms. Unix times in ms as floating point are no finer than 1/4096, so that
 *   rounding to the nearest would hand out tokens for nothing where they come faster than that.
 */
import type { RateLimiterStore } from "effect/persistence/RateLimiter"

/** Part of a token that a quotient may lack through rounding alone. */
const rounding = 1e-9

/** A bucket. Times are Unix ms, and every method but `give` asks that `refill` was called for its `now`. */
export class TokenBucket {
  #tokens: number
  #limit: number
  #intervalMs: number
  /** When the refill interval that runs now began. */
  #since: number

  /** A full bucket of `limit` tokens that gets one each `intervalMs`. */
  constructor(limit: number, intervalMs: number, now: number) {
    this.#tokens = limit
    this.#limit = limit
    this.#intervalMs = intervalMs
    this.#since = now
  }

  /** What there is to take; below zero after corrections. */
  get tokens(): number {
    return this.#tokens
  }

  /** Brings the bucket to `now`, under the limit that holds now. */
  refill(limit: number, intervalMs: number, now: number): void {
    this.#limit = limit
    this.#intervalMs = intervalMs
    if (this.#tokens > limit) this.#tokens = limit
    if (now < this.#since) this.#since = now
    const due = Math.floor((now - this.#since) / intervalMs + rounding)
    if (due > 0) {
      this.#tokens = Math.min(limit, this.#tokens + due)
      this.#since = Math.ceil((this.#since + due * intervalMs) * 1024) / 1024
    }
    if (this.#tokens >= limit) this.#since = now
  }

  /** For how long the next token has been on its way, ms. */
  elapsedMs(now: number): number {
    return Math.max(0, now - this.#since)
  }

  /** Takes tokens, also those that are not there; a negative amount gives back, as far as there is room. */
  take(amount: number): void {
    this.#tokens = Math.min(this.#limit, this.#tokens - amount)
  }

  /** Whether nothing would be lost with the bucket. */
  isIdle(now: number): boolean {
    this.refill(this.#limit, this.#intervalMs, now)
    return this.#tokens >= this.#limit
  }
}

/**
 * The counter of RateLimiter's other algorithm. A window begins with its first request and is over when all that was
 * counted would have been refilled.
 */
export class FixedWindow {
  #count = 0
  #startedAt: number
  #lengthMs = 0

  constructor(now: number) {
    this.#startedAt = now
  }

  /** Counts, as far as the limit allows. Gives the count, the refused one included, and the rest of the window, ms. */
  count(
    { limit, tokens }: Parameters<RateLimiterStore["Service"]["fixedWindow"]>[0],
    intervalMs: number,
    now: number
  ): readonly [count: number, ttl: number] {
    if (this.isIdle(now)) {
      this.#count = 0
      this.#startedAt = now
      this.#lengthMs = 0
    }
    const count = this.#count + tokens
    if (limit === undefined || count <= limit) {
      this.#count = count
      this.#lengthMs += intervalMs * tokens
    }
    return [count, this.#startedAt + this.#lengthMs - now]
  }

  /** Whether the window is over. */
  isIdle(now: number): boolean {
    if (now < this.#startedAt) this.#startedAt = now
    return this.#startedAt + this.#lengthMs <= now
  }
}
