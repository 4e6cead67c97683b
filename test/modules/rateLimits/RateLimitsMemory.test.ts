/** Limits in memory: refills by the clock, clocks that jump back, and memory that callers' names cannot fill. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Layer, Schema } from "effect"
import { RateLimiter } from "effect/persistence"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as RateLimiterStoreMemory from "../../../src/modules/rateLimits/RateLimiterStoreMemory.ts"
import * as RateLimitsMemory from "../../../src/modules/rateLimits/RateLimitsMemory.ts"
import { type RateDemand, RateLimits } from "../../../src/sdk/RateLimits.ts"

const demand: RateDemand = {
  key: "bucket",
  name: "requests per user",
  kind: "requests",
  limit: 60,
  windowMs: 60_000,
  amount: 1
}
const of = (key: string, options: Partial<RateDemand> = {}): RateDemand => ({ ...demand, key, ...options })

const withLimits = <A, E>(
  use: (limits: RateLimits["Service"]) => Effect.Effect<A, E>,
  options?: RateLimitsMemory.Options
) => Effect.provide(Effect.flatMap(RateLimits, use), RateLimitsMemory.layer(options))

const Step = Schema.Struct({
  waitMs: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 700 })),
  amount: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 30 }))
})
const Steps = Schema.Array(Step).check(Schema.isMaxLength(60))

describe("refills", () => {
  it.effect("come one at a time, evenly over the window", () =>
    withLimits((limits) =>
      Effect.gen(function*() {
        yield* limits.take([of("a", { amount: 60 })])
        yield* TestClock.adjust("999 millis")
        const error = yield* Effect.flip(limits.take([of("a")]))
        assert.strictEqual(error.retryAfterMs, 1)
        assert.strictEqual(error.message, "60 requests per minute per user: try again in 1 ms")
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(yield* limits.take([of("a")]), [
          { name: "requests per user", kind: "requests", limit: 60, remaining: 0, resetMs: 60_000 }
        ])
        yield* TestClock.adjust("11500 millis")
        const wait = yield* Effect.flip(limits.take([of("a", { amount: 24 })]))
        assert.strictEqual(wait.retryAfterMs, 12_500)
        assert.strictEqual(wait.message, "60 requests per minute per user: try again in 13 s")
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual((yield* limits.take([of("a", { amount: 60 })]))[0]?.remaining, 0)
        assert.strictEqual((yield* Effect.flip(limits.take([of("a")]))).retryAfterMs, 1000)
      })
    ))

  // Limits that do not divide their window, and those that refill many times in a millisecond.
  for (const [limit, windowMs] of [[30, 1000], [7, 1000], [49, 60_000], [70, 333], [1_000_003, 60_000]] as const) {
    it.effect.prop(
      `between any two moments no more passes than ${limit} and what came back at ${limit} in ${windowMs} ms`,
      [Steps],
      ([steps]) =>
        withLimits((limits) =>
          Effect.gen(function*() {
            const scale = Math.max(1, Math.floor(limit / 40))
            const granted: Array<readonly [at: number, amount: number]> = []
            let at = 0
            for (const { amount, waitMs } of steps) {
              yield* TestClock.adjust(waitMs)
              at += waitMs
              const size = Math.min(limit, amount * scale)
              const exit = yield* Effect.exit(limits.take([of("a", { limit, windowMs, amount: size })]))
              if (Exit.isSuccess(exit)) granted.push([at, size])
            }
            for (const [first, [from]] of granted.entries()) {
              let sum = 0
              for (const [until, amount] of granted.slice(first)) {
                sum += amount
                assert.isAtMost(sum, limit + (until - from) * limit / windowMs + 1e-6)
              }
            }
          })
        )
    )
    it.effect.prop(
      `who waits as long as the refusal says gets in, and no sooner, at ${limit} in ${windowMs} ms`,
      [Steps],
      ([steps]) =>
        withLimits((limits) =>
          Effect.gen(function*() {
            for (const { amount, waitMs } of steps) {
              yield* TestClock.adjust(waitMs)
              const asked = of("a", {
                limit,
                windowMs,
                amount: Math.min(limit, amount * Math.max(1, Math.floor(limit / 40)))
              })
              const exit = yield* Effect.exit(limits.take([asked]))
              if (Exit.isSuccess(exit)) continue
              const { retryAfterMs: wait = 0 } = yield* Effect.flip(limits.take([asked]))
              if (amount % 2 === 0) yield* TestClock.adjust(wait)
              else {
                yield* TestClock.adjust(wait - 1)
                const { retryAfterMs: rest = 0 } = yield* Effect.flip(limits.take([asked]))
                // Borders between refills are rounded up, for nobody to get in too early.
                assert.isAtMost(rest, 2)
                yield* TestClock.adjust(rest)
              }
              yield* limits.take([asked])
            }
          })
        )
    )
  }

  it.effect("a clock that jumps back neither refills nor locks out", () =>
    withLimits((limits) =>
      Effect.gen(function*() {
        yield* TestClock.setTime(10_000_000)
        yield* limits.take([of("a", { amount: 60 })])
        yield* TestClock.setTime(6_400_000)
        for (let i = 0; i < 3; i++) {
          assert.strictEqual((yield* Effect.flip(limits.take([of("a")]))).retryAfterMs, 1000)
        }
        yield* TestClock.adjust("2 seconds")
        yield* limits.take([of("a"), of("a")])
        yield* Effect.flip(limits.take([of("a")]))
      })
    ))
})

describe("memory", () => {
  const hold = (limits: RateLimits["Service"], from: number, to: number, options: Partial<RateDemand>) =>
    Effect.gen(function*() {
      let passed = 0
      for (let i = from; i < to; i++) {
        if (Exit.isSuccess(yield* Effect.exit(limits.take([of(`user ${i}`, options)])))) passed++
      }
      return passed
    })

  it.effect("holds so many keys and no more; those that are there go on, and new ones are told", () =>
    withLimits((limits) =>
      Effect.gen(function*() {
        const spent = of("victim", { amount: 60 })
        yield* limits.take([spent])
        assert.strictEqual(yield* hold(limits, 0, 20_000, {}), 999)
        const error = yield* Effect.flip(limits.take([of("new")]))
        assert.strictEqual(error.code, "overloaded")
        assert.strictEqual(error.retryAfterMs, 1000)
        // The flood did not make anybody's bucket full again.
        assert.strictEqual((yield* Effect.flip(limits.take([of("victim")]))).code, "rate_limited")
        assert.strictEqual((yield* limits.take([of("user 5")]))[0]?.remaining, 58)
        // All or nothing: what the known key gave is given back when there is no room for the other.
        yield* Effect.flip(limits.take([of("user 5"), of("new")]))
        assert.strictEqual((yield* limits.take([of("user 5", { amount: 0 })]))[0]?.remaining, 58)
        // Who has more to answer for than was thought does so, room or not.
        yield* limits.correct([of("debtor", { amount: 61 })])
        assert.strictEqual((yield* Effect.flip(limits.take([of("debtor")]))).code, "rate_limited")
        // Buckets that are full again make room.
        yield* TestClock.adjust("1 second")
        assert.isAbove(yield* hold(limits, 30_000, 32_000, {}), 900)
        assert.strictEqual((yield* limits.take([of("victim", { amount: 0 })]))[0]?.remaining, 1)
        assert.strictEqual((yield* limits.take([of("debtor", { amount: 0 })]))[0]?.remaining, 0)
      }), { capacity: 1000 }))

  it.effect("is free again after a clock has jumped back", () =>
    withLimits((limits) =>
      Effect.gen(function*() {
        yield* TestClock.setTime(10_000_000)
        assert.strictEqual(yield* hold(limits, 0, 2000, {}), 1000)
        yield* TestClock.setTime(0)
        assert.strictEqual(yield* hold(limits, 2000, 2010, {}), 0)
        // Each bucket that is looked at goes by the new time from then on.
        yield* TestClock.adjust("1 second")
        yield* hold(limits, 2010, 2020, {})
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* hold(limits, 2020, 2030, {}), 10)
      }), { capacity: 1000 }))

  it.effect("stays the same under 200,000 keys that are full again after a moment, without anybody being refused", () =>
    withLimits((limits) =>
      Effect.gen(function*() {
        setFlagsFromString("--expose-gc")
        const collect: () => void = runInNewContext("gc")
        const name = "n".repeat(200)
        const flood = Effect.fnUntraced(function*(round: number) {
          for (let i = 0; i < 100_000; i++) {
            if (i % 100 === 0) yield* TestClock.adjust(1)
            yield* limits.take([of(`${name}${round}.${i}`, { limit: 1000, windowMs: 1000 })])
          }
          collect()
          return process.memoryUsage().heapUsed
        })
        const before = yield* flood(0)
        const after = yield* flood(1)
        assert.isBelow(after - before, 2_000_000)
      }), { capacity: 10_000 }))

  it.effect(
    "has room for its default number of keys of the longest names in 200 MB",
    () =>
      withLimits((limits) =>
        Effect.gen(function*() {
          setFlagsFromString("--expose-gc")
          const collect: () => void = runInNewContext("gc")
          collect()
          const before = process.memoryUsage().heapUsed
          const name = "n".repeat(20_000)
          assert.strictEqual(yield* hold(limits, 0, 10, { key: name }), 10)
          let passed = 0
          for (let i = 0; i < 210_000; i++) {
            // Flattened, as text from a request is; else V8 keeps the parts.
            const key = Buffer.from(`${i} ${"n".repeat(240)}`).toString()
            if (Exit.isSuccess(yield* Effect.exit(limits.take([of(key)])))) passed++
          }
          collect()
          const used = process.memoryUsage().heapUsed - before
          assert.strictEqual(passed, 199_999)
          assert.isBelow(used, 200_000_000)
        })
      ),
    60_000
  )
})

describe("the store behind RateLimiter", () => {
  const stores = Effect.all([
    Effect.map(Layer.build(RateLimiterStoreMemory.layer()), Context.get(RateLimiter.RateLimiterStore)),
    Effect.map(Layer.build(RateLimiter.layerStoreMemory), Context.get(RateLimiter.RateLimiterStore))
  ])

  const Command = Schema.Struct({
    waitMs: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3000 })),
    tokens: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 12 })),
    key: Schema.Literals(["a", "b"]),
    allowOverflow: Schema.Boolean,
    hasLimit: Schema.Boolean
  })

  for (const intervalMs of [1, 2.5, 250, 1000]) {
    it.effect.prop(
      `does what the library's own does, at one in ${intervalMs} ms`,
      [Schema.Array(Command).check(Schema.isMaxLength(80))],
      ([commands]) =>
        Effect.gen(function*() {
          const [ours, theirs] = yield* stores
          const refillRate = Duration.millis(intervalMs)
          for (const { allowOverflow, hasLimit, key, tokens, waitMs } of commands) {
            yield* TestClock.adjust(Math.floor(waitMs * Math.min(1, intervalMs / 250)))
            const taking = { key, tokens, limit: 10, refillRate, allowOverflow }
            assert.deepStrictEqual(yield* ours.tokenBucket(taking), yield* theirs.tokenBucket(taking))
            const counting = { key, tokens, refillRate, limit: hasLimit ? 10 : undefined }
            assert.deepStrictEqual(yield* ours.fixedWindow(counting), yield* theirs.fixedWindow(counting))
          }
        })
    )
  }

  it.effect("never gives back more than the limit, which the library's does", () =>
    Effect.gen(function*() {
      const [ours, theirs] = yield* stores
      const givingBack = { key: "a", tokens: -5, limit: 10, refillRate: Duration.seconds(1), allowOverflow: true }
      assert.deepStrictEqual(yield* ours.tokenBucket(givingBack), [10, 0])
      assert.deepStrictEqual(yield* theirs.tokenBucket(givingBack), [15, 0])
    }))

  it.effect("fails keys that are new while all are in use, and serves RateLimiter", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.RateLimiter
      for (const algorithm of ["token-bucket", "fixed-window"] as const) {
        const consume = (key: string) => limiter.consume({ algorithm, key, limit: 2, window: "1 minute" })
        for (const key of ["a", "b"]) assert.strictEqual((yield* consume(key)).remaining, 1)
        const { reason } = yield* Effect.flip(consume("c"))
        assert.strictEqual(reason._tag, "RateLimitStoreError")
        assert.strictEqual((yield* consume("a")).remaining, 0)
        assert.strictEqual((yield* Effect.flip(consume("a"))).reason._tag, "RateLimitExceeded")
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* consume("c")).remaining, 1)
      }
    }).pipe(
      Effect.provide(RateLimiter.layer.pipe(Layer.provide(RateLimiterStoreMemory.layer({ capacity: 2 }))))
    ))
})
