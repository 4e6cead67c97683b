/** Durations and sizes: what is read, what is refused, and that writing and reading agree. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result, Schema } from "effect"
import {
  Duration,
  formatDuration,
  formatSize,
  parseDuration,
  parseSize,
  PositiveDuration,
  Size
} from "../../src/config/Units.ts"

describe("Units", () => {
  const durations: ReadonlyArray<readonly [string, number]> = [
    ["0s", 0],
    ["250ms", 250],
    ["1s", 1000],
    ["1.5s", 1500],
    ["0.001s", 1],
    ["30s", 30_000],
    ["10m", 600_000],
    ["1h", 3_600_000],
    ["7d", 604_800_000]
  ]
  it.each(durations)("reads the duration %s", (text, ms) => {
    assert.deepStrictEqual(parseDuration(text), Result.succeed(ms))
  })

  it.each([
    "",
    "30",
    "s",
    "-1s",
    "1 s",
    "1S",
    "1M",
    "1w",
    "1e3s",
    "0.5ms",
    ".5s",
    "1.s",
    "1m30s",
    "٣s",
    "1s\n",
    " 1s",
    "9999999s"
  ])(
    "refuses the duration %j",
    (text) => {
      assert.isTrue(Result.isFailure(parseDuration(text)))
    }
  )

  const sizes: ReadonlyArray<readonly [string, number]> = [
    ["1B", 1],
    ["64KB", 64_000],
    ["64kB", 64_000],
    ["64KiB", 65_536],
    ["25MB", 25_000_000],
    ["1MiB", 1_048_576],
    ["1.5GB", 1_500_000_000],
    ["1GiB", 1_073_741_824],
    ["2TB", 2e12],
    ["1TiB", 1_099_511_627_776]
  ]
  it.each(sizes)("reads the size %s", (text, bytes) => {
    assert.deepStrictEqual(parseSize(text), Result.succeed(bytes))
  })

  it.each(["", "25", "MB", "-1MB", "1 MB", "1mb", "1M", "1kiB", "1.5B", "1e3MB", "1PB", "1MB\n", "1000TB"])(
    "refuses the size %j",
    (text) => {
      assert.isTrue(Result.isFailure(parseSize(text)))
    }
  )

  const Ms = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999_999_999_999 }))
  const Bytes = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999_999_999_999_999 }))

  it.effect.prop(
    "a written duration is read as the same",
    [Ms],
    ([ms]) => Effect.sync(() => assert.deepStrictEqual(parseDuration(formatDuration(ms)), Result.succeed(ms)))
  )

  it.effect.prop(
    "a written size is read as the same",
    [Bytes],
    ([bytes]) => Effect.sync(() => assert.deepStrictEqual(parseSize(formatSize(bytes)), Result.succeed(bytes)))
  )

  it.effect.prop(
    "any text gives a whole safe number or a failure that does not repeat it",
    [Schema.String],
    ([text]) =>
      Effect.sync(() => {
        for (const result of [parseDuration(text), parseSize(text)]) {
          if (Result.isSuccess(result)) assert.isTrue(Number.isSafeInteger(result.success) && result.success >= 0)
          else if (text.length > 40) assert.isFalse(result.failure.includes(text))
        }
      })
  )

  it("the schemas refuse what would end everything at once", () => {
    assert.isTrue(Result.isSuccess(Schema.decodeResult(Duration)("0s")))
    assert.isTrue(Result.isFailure(Schema.decodeResult(PositiveDuration)("0s")))
    assert.isTrue(Result.isFailure(Schema.decodeResult(Size)("0MB")))
  })
})
