/**
 * Environment references in the texts of a configuration file: `${NAME}`, `${NAME:-default}`, several in one text, and
 * `$${` for a literal `${`. A default is taken as it stands, without references in it, and ends at the first `}`.
 * A variable that is set but empty counts as set for `${NAME}`, and as unset for `${NAME:-default}`, as in a POSIX shell.
 *
 * No failure ever holds the value of a variable: most of them are secrets.
 */
import { Result } from "effect"

/** The environment: what `process.env` looks like. */
export type EnvironmentRecord = Readonly<Record<string, string | undefined>>

/** What became of a text. */
export interface Interpolated {
  readonly text: string
  /** Whether a variable or a default was put in, so that the text must not be repeated in messages. */
  readonly replaced: boolean
}

const name = /^[A-Za-z_][A-Za-z0-9_]*$/
const maxName = 100

const shown = (text: string): string => text.length > maxName ? `${text.slice(0, maxName)}…` : text

/** Puts the environment's values into a text. Fails with every problem of the text, each naming its variable. */
export const interpolate = (
  text: string,
  env: EnvironmentRecord
): Result.Result<Interpolated, ReadonlyArray<string>> => {
  if (!text.includes("${")) return Result.succeed({ text, replaced: false })
  const problems: Array<string> = []
  let written = ""
  let replaced = false
  let at = 0
  while (at < text.length) {
    const start = text.indexOf("${", at)
    if (start < 0) {
      written += text.slice(at)
      break
    }
    if (start > at && text[start - 1] === "$") {
      written += `${text.slice(at, start - 1)}\${`
      at = start + 2
      continue
    }
    written += text.slice(at, start)
    const end = text.indexOf("}", start + 2)
    if (end < 0) {
      problems.push("a ${ without its }; write $${ for a literal ${")
      break
    }
    at = end + 1
    const inside = text.slice(start + 2, end)
    const split = inside.indexOf(":-")
    const variable = split < 0 ? inside : inside.slice(0, split)
    if (!name.test(variable)) {
      problems.push(
        `"${shown(variable)}" cannot be the name of an environment variable; write \${NAME} or \${NAME:-default}`
      )
      continue
    }
    replaced = true
    const value = Object.hasOwn(env, variable) ? env[variable] : undefined
    if (split >= 0) written += value === undefined || value === "" ? inside.slice(split + 2) : value
    else if (value === undefined) {
      problems.push(
        `the environment variable ${shown(variable)} is not set; set it, or give a default as in \${${
          shown(variable)
        }:-default}`
      )
    } else written += value
  }
  return problems.length > 0 ? Result.fail(problems) : Result.succeed({ text: written, replaced })
}
