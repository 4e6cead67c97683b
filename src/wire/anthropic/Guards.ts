/**
 * Guarded reads of JSON that somebody else wrote, and the book that an encoder or decoder keeps while it works: what it
 * refuses, what it drops. Nothing here throws, and objects are only ever built by spreading or `fromEntries`, which
 * define keys such as `__proto__` instead of setting them.
 */
import { type Issue, ValidationError } from "../../sdk/GatewayError.ts"
import type { Json } from "../Codec.ts"

/** This wire's name: of the folder, of extensions, of opaque parts and of sources. */
export const wire = "anthropic"

/** Whether a value is a JSON object. */
export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Whether a value is an array; its members stay unknown. */
export const isArray = (value: unknown): value is ReadonlyArray<unknown> => Array.isArray(value)

/** A string that is not empty, or nothing. */
export const nonEmpty = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "" ? value : undefined

/** A count of tokens, or nothing: whole and not negative. */
export const count = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined

/** Cuts a text that goes into an error to `limit` UTF-16 units. */
export const bound = (text: string, limit = 300): string => text.length > limit ? `${text.slice(0, limit)}…` : text

/** The fields of an object that are not in `known`, or nothing where there are none. */
export const others = (object: Json, known: ReadonlySet<string>): Json | undefined => {
  let rest: Array<[string, unknown]> | undefined
  for (const key of Object.keys(object)) {
    if (!known.has(key)) (rest ??= []).push([key, object[key]])
  }
  return rest === undefined ? undefined : Object.fromEntries(rest)
}

/** The `extensions` key for a canonical value, or no key where there is nothing to keep. */
export const extensions = (rest: Json | undefined): { readonly extensions?: { readonly anthropic: Json } } =>
  rest === undefined ? {} : { extensions: { anthropic: rest } }

/** So many problems are told at once. */
const maxIssues = 16

/** What an encoder or decoder finds wrong or leaves out. */
export interface Book {
  /** Notes a problem. Always `undefined`, so that a reader can return it. */
  readonly refuse: (field: string, problem: string) => undefined
  /** Notes something of the request that the wire has no form for, in the native spelling. */
  readonly drop: (name: string) => void
  readonly dropped: () => ReadonlyArray<string>
  readonly hasProblems: () => boolean
  /** All problems so far as one error. */
  readonly error: () => ValidationError
}

/** An empty book. */
export const book = (): Book => {
  const issues: Array<Issue> = []
  const dropped = new Set<string>()
  return {
    refuse: (path, message) => {
      if (issues.length < maxIssues) issues.push({ path: bound(path, 200), message: bound(message) })
      return undefined
    },
    drop: (name) => {
      dropped.add(name)
    },
    dropped: () => Array.from(dropped),
    hasProblems: () => issues.length > 0,
    error: () => {
      const first = issues[0] ?? { path: "", message: "the request is not valid" }
      const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : ""
      return new ValidationError({
        message: `${first.path === "" ? "" : `${first.path}: `}${first.message}${more}`,
        ...(first.path === "" ? {} : { field: first.path }),
        issues
      })
    }
  }
}
