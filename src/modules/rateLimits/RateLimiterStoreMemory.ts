/**
 * A store for `effect/persistence`'s RateLimiter that never grows beyond a number of keys. The library's own remembers
 * every key for ever, and ours hold user names, which come from request headers.
 */
import { Duration, Effect, Layer } from "effect"
import { RateLimiter } from "effect/persistence"
import { States } from "./States.ts"
import { FixedWindow, TokenBucket } from "./TokenBucket.ts"

/** Options of the Layer. */
export interface Options {
  /** Keys that may be in use at the same time, of each algorithm; default 200000, which is about 40 MB. */
  readonly capacity?: number
}

/** Keys in use at the same time, unless told otherwise. */
export const defaultCapacity = 200_000

const noRoom = (capacity: number) =>
  new RateLimiter.RateLimiterError({
    reason: new RateLimiter.RateLimitStoreError({ message: `all ${capacity} places for keys are in use` })
  })

const make = Effect.fnUntraced(function*(options: Options) {
  const builtIn = yield* RateLimiter.RateLimiterStore
  const capacity = options.capacity ?? defaultCapacity
  const buckets = new States<TokenBucket>(capacity)
  const windows = new States<FixedWindow>(capacity)
  return RateLimiter.RateLimiterStore.of({
    // State of adaptive limits is about upstreams, whose names nobody but the operator chooses.
    adaptiveConsume: builtIn.adaptiveConsume,
    adaptiveFeedback: builtIn.adaptiveFeedback,
    tokenBucket: ({ allowOverflow, key, limit, refillRate, tokens }) =>
      Effect.clockWith((clock) => {
        const now = clock.currentTimeMillisUnsafe()
        const intervalMs = Duration.toMillis(refillRate)
        let bucket = buckets.get(key, now)
        if (bucket === undefined) {
          bucket = new TokenBucket(limit, intervalMs, now)
          if (!buckets.add(key, bucket, now)) return Effect.fail(noRoom(capacity))
        }
        bucket.refill(limit, intervalMs, now)
        const remaining = Math.min(limit, bucket.tokens - tokens)
        if (allowOverflow || remaining >= 0) bucket.take(tokens)
        return Effect.succeed([remaining, bucket.elapsedMs(now)] as const)
      }),
    fixedWindow: (asked) =>
      Effect.clockWith((clock) => {
        const now = clock.currentTimeMillisUnsafe()
        let window = windows.get(asked.key, now)
        if (window === undefined) {
          window = new FixedWindow(now)
          if (!windows.add(asked.key, window, now)) return Effect.fail(noRoom(capacity))
        }
        return Effect.succeed(window.count(asked, Duration.toMillis(asked.refillRate), now))
      })
  })
})

/** The store. It fails a key that is new while all places are in use, and never forgets one that is in use. */
export const layer = (options: Options = {}): Layer.Layer<RateLimiter.RateLimiterStore> =>
  Layer.effect(RateLimiter.RateLimiterStore, make(options)).pipe(Layer.provide(RateLimiter.layerStoreMemory))
