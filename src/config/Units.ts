/**
 * Durations and sizes as people write them: `250ms`, `30s`, `10m`, `1h`, `7d`; `25MB` (decimal, SI), `1GiB` (binary, IEC).
 * A unit is always needed, because a bare `30` means seconds to one reader and milliseconds to the next.
 * In TypeScript a duration is a number of ms and a size a number of bytes, both whole.
 */
import { Result, Schema, SchemaTransformation } from "effect"

// Only patterns with the flag `u` are exported to JSON Schema.
const durationPattern = /^(?:\d{1,12}ms|\d{1,6}(?:\.\d{1,3})?[smhd])$/u
const sizePattern = /^(?:\d{1,15}B|\d{1,6}(?:\.\d{1,3})?(?:[kKMG]B|[KMG]iB)|\d{1,3}(?:\.\d{1,3})?(?:TB|TiB))$/u

const durationUnits: ReadonlyArray<readonly [string, number]> = [
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
  ["d", 86_400_000]
]

// The longest suffix comes first, since `B` ends them all.
const sizeUnits: ReadonlyArray<readonly [string, number]> = [
  ["KiB", 1024],
  ["MiB", 1024 ** 2],
  ["GiB", 1024 ** 3],
  ["TiB", 1024 ** 4],
  ["kB", 1000],
  ["KB", 1000],
  ["MB", 1000 ** 2],
  ["GB", 1000 ** 3],
  ["TB", 1000 ** 4],
  ["B", 1]
]

const durationProblem = "expected a duration with its unit, such as 250ms, 30s, 10m, 1h or 7d"
const sizeProblem = "expected a size with its unit, such as 64KB, 25MB or 1GiB"

const scale = (text: string, units: ReadonlyArray<readonly [string, number]>): number => {
  for (const [unit, factor] of units) {
    if (text.endsWith(unit)) return Math.round(Number(text.slice(0, -unit.length)) * factor)
  }
  return Number.NaN
}

/** Reads a duration; ms. Fails with a text that says what was expected and never repeats the input. */
export const parseDuration = (text: string): Result.Result<number, string> =>
  durationPattern.test(text) ? Result.succeed(scale(text, durationUnits)) : Result.fail(durationProblem)

/** Reads a size; bytes, rounded to whole ones. Fails like `parseDuration`. */
export const parseSize = (text: string): Result.Result<number, string> =>
  sizePattern.test(text) ? Result.succeed(scale(text, sizeUnits)) : Result.fail(sizeProblem)

const largestFitting = (
  value: number,
  units: ReadonlyArray<readonly [string, number]>,
  base: string
): string => {
  let written = `${value}${base}`
  let used = 1
  for (const [unit, factor] of units) {
    if (factor > used && value !== 0 && value % factor === 0 && value / factor < 1000) {
      written = `${value / factor}${unit}`
      used = factor
    }
  }
  return written
}

/** Writes whole ms in the largest unit that keeps it exact: `30000` is `30s`. */
export const formatDuration = (ms: number): string => largestFitting(ms, durationUnits, "ms")

/** Writes whole bytes in the largest unit that keeps it exact: `25000000` is `25MB`. */
export const formatSize = (bytes: number): string => largestFitting(bytes, sizeUnits, "B")

/** A duration in a configuration file, ms in TypeScript. */
export const Duration = Schema.String.annotate({ message: durationProblem }).check(
  Schema.isPattern(durationPattern, { message: durationProblem })
).pipe(Schema.decodeTo(
  Schema.Finite,
  SchemaTransformation.transform({ decode: (text) => scale(text, durationUnits), encode: formatDuration })
))

/** A duration that is longer than nothing: a timer of 0 would end everything at once. */
export const PositiveDuration = Schema.String.annotate({ message: durationProblem }).check(
  Schema.isPattern(durationPattern, { message: durationProblem }),
  Schema.makeFilter((text: string) => !durationPattern.test(text) || scale(text, durationUnits) > 0, {
    message: "must be longer than 0"
  })
).pipe(Schema.decodeTo(
  Schema.Finite,
  SchemaTransformation.transform({ decode: (text) => scale(text, durationUnits), encode: formatDuration })
))

/** A size in a configuration file, bytes in TypeScript; at least one byte. */
export const Size = Schema.String.annotate({ message: sizeProblem }).check(
  Schema.isPattern(sizePattern, { message: sizeProblem }),
  Schema.makeFilter((text: string) => !sizePattern.test(text) || scale(text, sizeUnits) > 0, {
    message: "must be more than 0 bytes"
  })
).pipe(Schema.decodeTo(
  Schema.Finite,
  SchemaTransformation.transform({ decode: (text) => scale(text, sizeUnits), encode: formatSize })
))
