import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { parseDurationMs, retryAfterMs } from "../../src/wire/RetryAfter.ts"

const date = "Wed, 19 Aug 2026 14:34:22 GMT"

describe("retryAfterMs", () => {
  it("reads seconds, fractions of them, and milliseconds", () => {
    assert.strictEqual(retryAfterMs({ "retry-after": "2" }), 2000)
    assert.strictEqual(retryAfterMs({ "retry-after": "0.25" }), 250)
    assert.strictEqual(retryAfterMs({ "retry-after": "1", "retry-after-ms": "1200" }), 1200)
  })
  it("does not spin on a zero beside a real wait, nor on a zero alone", () => {
    assert.strictEqual(retryAfterMs({ "retry-after": "1", "retry-after-ms": "0" }), 1000)
    assert.isUndefined(retryAfterMs({ "retry-after": "0" }))
    assert.isUndefined(retryAfterMs({ "retry-after-ms": "0" }))
  })
  it("measures an HTTP date against the answer's own date, or against now", () => {
    const later = "Wed, 19 Aug 2026 14:34:52 GMT"
    assert.strictEqual(retryAfterMs({ "retry-after": later, date }), 30_000)
    assert.strictEqual(retryAfterMs({ "retry-after": later, date }, Date.parse(later) - 5000), 5000)
    assert.isUndefined(retryAfterMs({ "retry-after": later }))
    assert.isUndefined(retryAfterMs({ "retry-after": date, date: later }), "a moment in the past is no wait")
  })
  it("reads the longest reset of the limits that are used up, and no other", () => {
    assert.strictEqual(
      retryAfterMs({
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6m0s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "12ms"
      }),
      360_000
    )
    assert.isUndefined(
      retryAfterMs({ "x-ratelimit-remaining-requests": "499", "x-ratelimit-reset-requests": "120ms" })
    )
    assert.isUndefined(retryAfterMs({ "x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "6m0s" }))
    assert.strictEqual(
      retryAfterMs({
        date,
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "2026-08-19T14:35:22Z"
      }),
      60_000
    )
  })
  it("takes nonsense for nothing said", () => {
    for (const value of ["", "soon", "-5", "NaN", "1e9", "Infinity", "9".repeat(400)]) {
      assert.isUndefined(retryAfterMs({ "retry-after": value, date }), value)
    }
  })
})

describe("parseDurationMs", () => {
  it("reads durations as OpenAI writes them", () => {
    const read = ["12ms", "6m0s", "1m0.198s", "18.642s", "7", "1h2m3s"].map(parseDurationMs)
    assert.deepStrictEqual(read, [12, 360_000, 60_198, 18_642, 7000, 3_723_000])
    assert.isUndefined(parseDurationMs("6 minutes"))
  })
  const Parts = Schema.Struct({
    hours: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 99 })),
    minutes: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 59 })),
    seconds: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 59 }))
  })
  it.prop("adds the pieces up", [Parts], ([{ hours, minutes, seconds }]) => {
    // Plain integers may be generated as -0, which no duration is written with.
    const text = `${hours + 0}h${minutes + 0}m${seconds + 0}s`
    assert.strictEqual(parseDurationMs(text), ((hours * 60 + minutes) * 60 + seconds) * 1000 + 0)
  })
})
