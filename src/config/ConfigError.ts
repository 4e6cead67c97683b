/**
 * What is wrong with a configuration: every problem at once, each with its line and its path in the file's spelling.
 * Texts never hold values of the file, only names that the schema or the file's own keys give.
 */
import { Schema } from "effect"
import { formatPath } from "../sdk/Issues.ts"

/** One problem. Lines and columns count from 1; a `path` of `""` means the file as a whole. */
export const Problem = Schema.Struct({
  line: Schema.Int,
  column: Schema.optionalKey(Schema.Int),
  /** Where, in the file's spelling: `providers.openai.base_url`, `auth.keys[0].sha256`. */
  path: Schema.String,
  message: Schema.String
})
export interface Problem extends Schema.Schema.Type<typeof Problem> {}

/** So many problems are told at once. */
const maxProblems = 50
const maxText = 500

/** Makes a text fit for a terminal: bounded, and without control characters. */
export const bounded = (text: string): string => {
  // oxlint-disable-next-line no-control-regex -- control characters are what is taken out
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, "?")
  return clean.length > maxText ? `${clean.slice(0, maxText)}…` : clean
}

/** The configuration cannot be used. Its message has one line a problem: `gateway.yaml:14: providers.x: …`. */
export class ConfigError extends Schema.TaggedError<ConfigError>()("ConfigError", {
  file: Schema.String,
  /** Sorted by line; at most 50. */
  problems: Schema.Array(Problem),
  /** How many more there are. */
  more: Schema.optionalKey(Schema.Int)
}) {
  override get message(): string {
    const lines = this.problems.map(({ line, path, message }) =>
      path === "" ? `${this.file}:${line}: ${message}` : `${this.file}:${line}: ${path}: ${message}`
    )
    if (this.more !== undefined) lines.push(`${this.file}: and ${this.more} more`)
    return lines.join("\n")
  }
}

/** Sorts, bounds and wraps problems. */
export const configError = (file: string, problems: ReadonlyArray<Problem>): ConfigError => {
  const sorted = problems
    .map(({ column, line, message, path }) => ({
      line,
      ...(column === undefined ? {} : { column }),
      path: bounded(path),
      message: bounded(message)
    }))
    .sort((a, b) => a.line - b.line || (a.column ?? 0) - (b.column ?? 0))
  const more = sorted.length - maxProblems
  return new ConfigError({
    file: bounded(file),
    problems: sorted.slice(0, maxProblems),
    ...(more > 0 ? { more } : {})
  })
}

/** Where a value is inside a file: keys and list positions. */
export type Path = ReadonlyArray<string | number>

/** A problem before its line is known. */
export interface Finding {
  readonly path: Path
  readonly message: string
  /** Set where the key itself is the problem, rather than its value. */
  readonly atKey?: true
}

/** Writes a path in the file's spelling. */
export const writePath = (path: Path): string => formatPath(path)

// ------------------------------------------------------------------------------------------------------------------
// Suggestions
// ------------------------------------------------------------------------------------------------------------------

const distance = (a: string, b: string): number => {
  let before: Array<number> = []
  let previous: Array<number> = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const current = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let best = Math.min((previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1, (previous[j - 1] ?? 0) + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, (before[j - 2] ?? 0) + 1)
      }
      current.push(best)
    }
    before = previous
    previous = current
  }
  return previous[b.length] ?? 0
}

const plain = (text: string): string => text.toLowerCase().replace(/[_\-. ]/g, "")

/** The known name that somebody who wrote `given` most likely meant, if one is near enough. */
export const nearest = (given: string, known: ReadonlyArray<string>): string | undefined => {
  if (given.length > 64) return undefined
  let found: string | undefined
  let least = Math.max(1, Math.floor(given.length / 3)) + 1
  for (const candidate of known) {
    if (candidate.length > 64) continue
    const begins = given.length > 2 && (candidate.startsWith(given) || given.startsWith(candidate))
    const away = plain(candidate) === plain(given) ? 0 : begins ? 1 : distance(given, candidate)
    if (away < least) {
      least = away
      found = candidate
    }
  }
  return found
}

/** `; did you mean x?`, or nothing. */
export const didYouMean = (given: unknown, known: ReadonlyArray<string>): string => {
  const guess = typeof given === "string" ? nearest(given, known) : undefined
  return guess === undefined ? "" : `; did you mean ${guess}?`
}
