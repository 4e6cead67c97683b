/** Rate limits on the Redis of the tests, each under a prefix of its own that leaves nothing behind. */
import { NodeRedis } from "@effect/platform-node"
import { Effect, Layer } from "effect"
import { Redis } from "effect/persistence"
import { randomUUID } from "node:crypto"
import * as RateLimitsRedis from "../../../src/modules/rateLimits/RateLimitsRedis.ts"
import { redisUrl } from "../../fixtures/Stores.ts"

/** The Redis of the tests; tests that use it are skipped where there is none. */
export const url = redisUrl ?? "redis://127.0.0.1:6379"

/** A prefix that nobody else has. */
export const freshPrefix = (): string => `test:${randomUUID()}:`

/** All keys that begin so. */
export const keysOf = (prefix: string) =>
  Effect.gen(function*() {
    const redis = yield* Redis.Redis
    const found: Array<string> = []
    let cursor = "0"
    do {
      const [next, keys] = yield* redis.send<[string, Array<string>]>(
        "SCAN",
        cursor,
        "MATCH",
        `${prefix}*`,
        "COUNT",
        "1000"
      )
      found.push(...keys)
      cursor = next
    } while (cursor !== "0")
    return found
  })

/** Takes away what is under the prefix when the scope ends. */
export const cleaned = (prefix: string) =>
  Layer.effectDiscard(
    Effect.acquireRelease(Effect.void, () =>
      Effect.orDie(
        Effect.gen(function*() {
          const redis = yield* Redis.Redis
          const keys = yield* keysOf(prefix)
          if (keys.length > 0) yield* redis.send("DEL", ...keys)
        })
      ))
  )

/** The client as the configuration should make it. */
export const client = (address: string) => NodeRedis.layer({ url: address, disableOfflineQueue: true })

/** Rate limits, and the Redis that they are on. */
export const layer = (options: Partial<RateLimitsRedis.Options> = {}) => {
  const prefix = options.prefix ?? freshPrefix()
  return Layer.merge(
    // Loaded machines are slow; what the timeout does has tests of its own.
    RateLimitsRedis.layer({ commandTimeout: 10_000, onFailure: "closed", ...options, prefix }),
    cleaned(prefix)
  ).pipe(Layer.provideMerge(client(url)))
}
