/**
 * Patterns that operators write, in RE2's syntax: no look-around and no back references, and in return matching takes time
 * that grows with the text alone, whatever the pattern and the text are.
 */
import { Result } from "effect"
import { RE2JS, RE2JSException } from "re2js"

/** The longest pattern, in UTF-16 units. */
const maxSource = 2_000
/** The largest program that a pattern may become, in instructions: repetitions multiply. */
const maxProgram = 5_000

/** Compiles a pattern; fails with what is wrong with it, in words that do not repeat it. */
export const compile = (source: string, caseInsensitive = false): Result.Result<RE2JS, string> => {
  if (source.length > maxSource) return Result.fail(`the pattern is longer than ${maxSource} characters`)
  return Result.flatMap(
    Result.try({
      try: () => RE2JS.compile(source, caseInsensitive ? RE2JS.CASE_INSENSITIVE : 0),
      catch: reason
    }),
    (pattern) => {
      if (pattern.programSize() > maxProgram) return Result.fail("the pattern repeats too much: it becomes too large")
      if (pattern.test("")) return Result.fail("the pattern matches the empty text, and so everything")
      return Result.succeed(pattern)
    }
  )
}

/** RE2's own words end in the part of the pattern that they are about. */
const reason = (error: unknown): string => {
  const told = error instanceof RE2JSException ? error.message.replace(/:? *`[\s\S]*$/, "") : "it does not compile"
  const words = told.replace(/^error parsing regexp: */, "")
  const hint = /Perl syntax|escape sequence|named capture/.test(words)
    ? "; RE2 has neither look-around nor back references"
    : ""
  return `RE2 does not take the pattern: ${words}${hint}`
}
