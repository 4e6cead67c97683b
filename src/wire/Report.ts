/**
 * What a codec finds while it reads or writes a request: what it refuses, and what it leaves out. Problems are gathered
 * instead of returned one by one, so that a caller is told all of them at once and the readers stay plain functions. They
 * name a path in the caller's spelling and never hold the value that was bad.
 */
import { type Issue, ValidationError } from "../sdk/GatewayError.ts"
import { bounded } from "./Json.ts"

/** So many problems are told at once; a broken request of 10,000 messages gets a bounded answer. */
const maxIssues = 16

/** The findings of one encoding or decoding. */
export interface Report {
  /** Notes a problem. Always `undefined`, so that a reader can return it. */
  readonly refuse: (path: string, problem: string) => undefined
  /** Notes something of the request that the wire has no form for, in the native spelling. Told once, however often. */
  readonly drop: (name: string) => void
  readonly dropped: () => ReadonlyArray<string>
  /** Whether so many problems are known that a reader may stop. */
  readonly isFull: () => boolean
  /** All problems as one error; `undefined` where nothing is wrong. */
  readonly error: () => ValidationError | undefined
}

/** An empty report. */
export const makeReport = (): Report => {
  const issues: Array<Issue> = []
  const dropped = new Set<string>()
  let problems = 0
  return {
    refuse: (path, problem) => {
      problems += 1
      if (issues.length < maxIssues) issues.push({ path: bounded(path, 200), message: bounded(problem) })
      return undefined
    },
    drop: (name) => {
      dropped.add(name)
    },
    dropped: () => Array.from(dropped),
    isFull: () => issues.length >= maxIssues,
    error: () => {
      const first = issues[0]
      if (first === undefined) return undefined
      const more = problems > 1 ? ` (and ${problems - 1} more)` : ""
      return new ValidationError({
        message: `${first.path === "" ? "" : `${first.path}: `}${first.message}${more}`,
        ...(first.path === "" ? {} : { field: first.path }),
        issues
      })
    }
  }
}
