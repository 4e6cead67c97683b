/**
 * Rate limits of one process. On the token buckets of RateLimiterStoreMemory rather than on that store or on
 * `RateLimiter.consume`: an Effect for each bucket gives other fibers a turn between two buckets of one request, and then
 * a request that is refused in the end could for a moment keep out another one.
 */
import { Effect, Layer } from "effect"
import { fail, type GatewayError, Overloaded } from "../../sdk/GatewayError.ts"
import { type ConcurrencyDemand, type RateDemand, type RateLevel, RateLimits } from "../../sdk/RateLimits.ts"
import { correction, keptKey, level, noPlace, refillMs, refusedAtOnce, Shortage } from "./Demands.ts"
import { defaultCapacity, type Options } from "./RateLimiterStoreMemory.ts"
import { States } from "./States.ts"
import { TokenBucket } from "./TokenBucket.ts"

export type { Options }

/** When who found no room for a new key may try again, ms. */
const retryRoomMs = 1000

const noRoom = (): GatewayError =>
  fail(
    new Overloaded({
      message:
        "more users and keys have used up a part of their limits than the gateway can keep in mind; those that " +
        "are new to it have to try again later (rate limits in memory)",
      retryAfterMs: retryRoomMs
    })
  )

type Buckets = States<TokenBucket>

/** Undoes what was taken for the first of the demands. */
const giveBack = (taken: ReadonlyArray<TokenBucket>, demands: ReadonlyArray<RateDemand>): void => {
  for (const [index, bucket] of taken.entries()) bucket.take(-(demands[index]?.amount ?? 0))
}

const takeAll = (
  buckets: Buckets,
  demands: ReadonlyArray<RateDemand>,
  now: number
): Effect.Effect<ReadonlyArray<RateLevel>, GatewayError> => {
  const refusal = refusedAtOnce(demands)
  if (refusal !== undefined) return refusal instanceof RangeError ? Effect.die(refusal) : Effect.fail(refusal)
  const taken: Array<TokenBucket> = []
  const levels: Array<RateLevel> = []
  let shortage: Shortage | undefined
  for (const demand of demands) {
    const key = keptKey(demand.key)
    const interval = refillMs(demand)
    let bucket = buckets.get(key, now)
    if (bucket === undefined) {
      bucket = new TokenBucket(demand.limit, interval, now)
      if (!buckets.add(key, bucket, now)) {
        giveBack(taken, demands)
        return Effect.fail(shortage?.error ?? noRoom())
      }
    }
    bucket.refill(demand.limit, interval, now)
    if (bucket.tokens < demand.amount) {
      shortage ??= new Shortage()
      shortage.note(demand, bucket.tokens, bucket.elapsedMs(now))
    } else if (shortage === undefined) {
      bucket.take(demand.amount)
      taken.push(bucket)
      levels.push(level(demand, bucket.tokens, bucket.elapsedMs(now)))
    }
  }
  const error = shortage?.error
  if (error === undefined) return Effect.succeed(levels)
  giveBack(taken, demands)
  return Effect.fail(error)
}

const correctAll = (buckets: Buckets, demands: ReadonlyArray<RateDemand>, now: number): void => {
  for (const demand of demands) {
    const amount = correction(demand)
    if (amount === 0) continue
    const key = keptKey(demand.key)
    const interval = refillMs(demand)
    let bucket = buckets.get(key, now)
    if (bucket === undefined) {
      // A bucket that was forgotten was full.
      if (amount < 0) continue
      bucket = new TokenBucket(demand.limit, interval, now)
      // Room or not, since otherwise flooding would be the way to have one's debts forgotten. There are never more of
      // these than requests that were let in.
      buckets.force(key, bucket)
    }
    bucket.refill(demand.limit, interval, now)
    bucket.take(amount)
  }
}

/** How many run in each group. Groups without any are not there, so that there are no more than requests that run. */
type Groups = Map<string, number>

const leave = (groups: Groups, keys: ReadonlyArray<string>): void => {
  for (const key of keys) {
    const left = (groups.get(key) ?? 0) - 1
    if (left > 0) groups.set(key, left)
    else groups.delete(key)
  }
}

const enterAll = (
  groups: Groups,
  demands: ReadonlyArray<ConcurrencyDemand>,
  told: (leave: Effect.Effect<void>) => void
): Effect.Effect<void, GatewayError> => {
  const entered: Array<string> = []
  for (const demand of demands) {
    const key = keptKey(demand.key)
    const running = groups.get(key) ?? 0
    if (!(running < demand.limit)) {
      leave(groups, entered)
      return Effect.fail(noPlace(demand))
    }
    groups.set(key, running + 1)
    entered.push(key)
  }
  told(Effect.sync(() => leave(groups, entered)))
  return Effect.void
}

/**
 * Rate limits of this process. Memory is bounded: `take` fails with `overloaded` for a key that is new while
 * `capacity` others are in use, until one of these is full again. Places are this process's own, so that no lease is
 * needed to have them back.
 */
export const layer = (options: Options = {}): Layer.Layer<RateLimits> =>
  Layer.sync(RateLimits, () => {
    const buckets: Buckets = new States(options.capacity ?? defaultCapacity)
    const groups: Groups = new Map()
    return RateLimits.of({
      take: (demands) => Effect.clockWith((clock) => takeAll(buckets, demands, clock.currentTimeMillisUnsafe())),
      correct: (demands) =>
        Effect.clockWith((clock) => {
          correctAll(buckets, demands, clock.currentTimeMillisUnsafe())
          return Effect.void
        }),
      occupy: (demands, _, entered) => Effect.suspend(() => enterAll(groups, demands, entered))
    })
  })
