/** Rolling figures: what counts, for how long, and how much of it is kept. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { TestClock } from "effect/testing"
import { type Finished, Health, type ModelHealth } from "../../src/gateway/Health.ts"

const call = (outcome: Finished["outcome"], more: Partial<Finished> = {}): Finished => ({
  outcome,
  durationMs: 100,
  ...more
})

const fresh: ModelHealth = { samples: 0, errorRate: 0, inFlight: 0 }

/** A test over an empty Health, with the test's clock. */
const over = <A, E>(test: (health: Health["Service"]) => Effect.Effect<A, E>) =>
  Effect.flatMap(Health, test).pipe(Effect.provide(Health.layer))

describe("what counts", () => {
  it.effect("a model that was never called has no figures", () =>
    over((health) => Effect.sync(() => assert.deepStrictEqual(health.of("a::m"), fresh))))

  it.effect("running calls are counted by model, and never below zero", () =>
    over((health) =>
      Effect.sync(() => {
        health.started("a::m")
        health.started("a::m")
        health.started("a::n")
        assert.strictEqual(health.of("a::m").inFlight, 2)
        health.finished("a::m", call("ok"))
        health.finished("a::m", call("other"))
        health.finished("a::m", call("upstream"))
        assert.strictEqual(health.of("a::m").inFlight, 0)
        assert.strictEqual(health.of("a::n").inFlight, 1)
      })
    ))

  it.effect("the error rate is the provider's share of the blame; what callers caused does not count", () =>
    over((health) =>
      Effect.sync(() => {
        health.finished("a::m", call("ok"))
        for (let n = 0; n < 3; n++) health.finished("a::m", call("upstream"))
        for (let n = 0; n < 50; n++) health.finished("a::m", call("other", { firstTokenMs: 9000, outputTokens: 1 }))
        const { errorRate, firstTokenMs, msPerToken, samples } = health.of("a::m")
        assert.deepStrictEqual({ errorRate, samples }, { errorRate: 0.75, samples: 4 })
        assert.isUndefined(firstTokenMs)
        assert.isUndefined(msPerToken)
      })
    ))

  it.effect("first tokens, tokens and durations are averaged over the calls that went well and tell them", () =>
    over((health) =>
      Effect.sync(() => {
        health.finished("a::m", call("ok", { durationMs: 1100, firstTokenMs: 100, outputTokens: 100 }))
        health.finished("a::m", call("ok", { durationMs: 2300, firstTokenMs: 300, outputTokens: 100 }))
        health.finished("a::m", call("upstream", { durationMs: 60_000, firstTokenMs: 50_000, outputTokens: 5 }))
        health.finished("a::m", call("ok", { durationMs: 200 }))
        const { durationMs, firstTokenMs, msPerToken } = health.of("a::m")
        assert.deepStrictEqual({ durationMs, firstTokenMs, msPerToken }, {
          durationMs: 1200,
          firstTokenMs: 200,
          msPerToken: 15
        })
      })
    ))

  it.effect("times that are none leave the figures whole", () =>
    over((health) =>
      Effect.sync(() => {
        health.finished(
          "a::m",
          call("ok", { durationMs: Number.NaN, firstTokenMs: Number.NaN, outputTokens: Infinity })
        )
        health.finished("a::m", call("ok", { durationMs: -1, firstTokenMs: -1, outputTokens: 0 }))
        assert.deepStrictEqual(health.of("a::m"), { samples: 2, errorRate: 0, durationMs: 0, inFlight: 0 })
      })
    ))
})

describe("the 95th percentile of first tokens", () => {
  it.effect("is not moved by the slowest twentieth", () =>
    over((health) =>
      Effect.sync(() => {
        for (let n = 0; n < 96; n++) health.finished("a::m", call("ok", { firstTokenMs: 100 }))
        for (let n = 0; n < 4; n++) health.finished("a::m", call("ok", { firstTokenMs: 30_000 }))
        const p95 = health.of("a::m").p95FirstTokenMs ?? 0
        assert.isTrue(p95 >= 100 && p95 < 120, String(p95))
        for (let n = 0; n < 4; n++) health.finished("a::m", call("ok", { firstTokenMs: 30_000 }))
        assert.isAtLeast(health.of("a::m").p95FirstTokenMs ?? 0, 30_000)
      })
    ))

  const Times = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 800_000 })))
    .check(Schema.isMinLength(1), Schema.isMaxLength(60))
  it.effect.prop(
    "is the exact one, rounded up by at most a fifth",
    [Times],
    ([times]) =>
      over((health) =>
        Effect.sync(() => {
          for (const firstTokenMs of times) health.finished("a::m", call("ok", { firstTokenMs }))
          const sorted = times.toSorted((a, b) => a - b)
          const exact = Math.max(1, sorted[sorted.length - 1 - Math.floor(sorted.length * 0.05)] ?? 0)
          const p95 = health.of("a::m").p95FirstTokenMs ?? 0
          assert.isTrue(p95 >= exact * 0.999_999 && p95 <= exact * 1.2, `${p95} for ${exact}`)
        })
      )
  )
})

describe("the window", () => {
  it.effect("holds five minutes, and lets one go after the other", () =>
    over((health) =>
      Effect.gen(function*() {
        for (let minute = 0; minute < 5; minute++) {
          health.finished("a::m", call("ok", { durationMs: 100 * (minute + 1) }))
          yield* TestClock.adjust("1 minute")
        }
        const seen = [health.of("a::m").samples]
        for (let minute = 0; minute < 4; minute++) {
          yield* TestClock.adjust("1 minute")
          seen.push(health.of("a::m").samples)
        }
        assert.deepStrictEqual(seen, [4, 3, 2, 1, 0])
        assert.deepStrictEqual(health.of("a::m"), fresh)
      })
    ))

  it.effect("a slow hour is forgotten, whatever came before", () =>
    over((health) =>
      Effect.gen(function*() {
        for (let n = 0; n < 20; n++) health.finished("a::m", call("upstream"))
        yield* TestClock.adjust("1 hour")
        health.finished("a::m", call("ok", { durationMs: 7 }))
        assert.deepStrictEqual(health.of("a::m"), { samples: 1, errorRate: 0, durationMs: 7, inFlight: 0 })
      })
    ))

  it.effect("a clock that is set back loses nothing for a little, and starts afresh for a lot", () =>
    over((health) =>
      Effect.gen(function*() {
        yield* TestClock.setTime(3_600_000)
        health.finished("a::m", call("ok"))
        yield* TestClock.setTime(3_600_000 - 90_000)
        health.finished("a::m", call("ok"))
        assert.strictEqual(health.of("a::m").samples, 2)
        yield* TestClock.setTime(60_000)
        assert.strictEqual(health.of("a::m").samples, 0)
        health.finished("a::m", call("ok"))
        assert.strictEqual(health.of("a::m").samples, 1)
      })
    ))

  it.effect("calls that run on are counted beyond it", () =>
    over((health) =>
      Effect.gen(function*() {
        health.started("a::m")
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(health.of("a::m").inFlight, 1)
      })
    ))
})

describe("the number of models", () => {
  it.effect("is bounded; those in use stay", () =>
    over((health) =>
      Effect.sync(() => {
        health.started("busy::m")
        for (let n = 0; n < 5000; n++) {
          health.finished(`made-up::${n}`, call("ok"))
          health.finished("often::m", call("ok"))
        }
        assert.strictEqual(health.of("busy::m").inFlight, 1)
        assert.strictEqual(health.of("often::m").samples, 5000)
        assert.strictEqual(health.of("made-up::0").samples, 0)
        assert.strictEqual(health.of("made-up::4999").samples, 1)
      })
    ))
})
