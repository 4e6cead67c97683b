/**
 * Reading unknown JSON: the guards that the Ollama codec shares, and how it collects what is wrong with a request.
 *
 * Problems are gathered instead of returned one by one, so that a caller is told all of them at once and the readers
 * stay plain functions. They name a path in the caller's spelling and never hold the value that was bad.
 */
import { type Issue, ValidationError } from "../../sdk/GatewayError.ts"
import type { Json } from "../Codec.ts"

/** The wire's name, as in `extensions.ollama`. */
export const wire = "ollama"

/** Whether a value is a JSON object. */
export const isJson = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Whether a value is a JSON array. `Array.isArray` alone would make its items `any`. */
export const isList = (value: unknown): value is ReadonlyArray<unknown> => Array.isArray(value)

/** Parses JSON text; what is not JSON gives `undefined`, which JSON itself cannot say. */
export const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** The fields that `known` does not name, or `undefined` where there are none. */
export const rest = (json: Json, known: ReadonlySet<string>): Json | undefined => {
  let entries: Array<[string, unknown]> | undefined
  for (const key of Object.keys(json)) {
    if (!known.has(key)) (entries ??= []).push([key, json[key]])
  }
  // fromEntries defines own properties, so a key such as `__proto__` stays a plain field.
  return entries === undefined ? undefined : Object.fromEntries(entries)
}

/** So many problems are told at once; a broken request of 10,000 messages gets a bounded answer. */
const maxIssues = 16

/** What is wrong with a request so far. */
export interface Problems {
  readonly add: (path: string, message: string) => void
  /** The validation error for all of them, or `undefined` where nothing is wrong. */
  readonly error: () => ValidationError | undefined
}

/** Starts an empty list of problems. */
export const problems = (): Problems => {
  const issues: Array<Issue> = []
  let count = 0
  return {
    add: (path, message) => {
      count++
      if (issues.length < maxIssues) issues.push({ path, message })
    },
    error: () => {
      const first = issues[0]
      if (first === undefined) return undefined
      const more = count > 1 ? ` (and ${count - 1} more)` : ""
      return new ValidationError({
        message: `${first.path === "" ? "" : `${first.path}: `}${first.message}${more}`,
        ...(first.path === "" ? {} : { field: first.path }),
        issues
      })
    }
  }
}

/** Shortens a text that goes into an error. */
export const bounded = (text: string, limit: number): string => text.length > limit ? `${text.slice(0, limit)}…` : text
