/** Turns what a schema found wrong into the gateway's own validation error, located in the caller's spelling. */
import { type Schema, SchemaIssue } from "effect"
import { type Issue, ValidationError } from "./GatewayError.ts"

const format = SchemaIssue.makeFormatterStandardSchemaV1()

/** So many problems are told at once; a broken request of 10,000 messages gets a bounded answer. */
const maxIssues = 16
const maxMessage = 300
/** A path's keys are the caller's own text, and may be of any length. */
const maxKey = 100

const shownKey = (key: PropertyKey): string => {
  const text = String(key)
  return text.length > maxKey ? `${text.slice(0, maxKey)}…` : text
}

/** Writes a path as callers know it: `messages[2].content`. Long keys are cut. */
export const formatPath = (path: ReadonlyArray<PropertyKey>): string => {
  let written = ""
  for (const key of path) {
    if (typeof key === "number") written += `[${key}]`
    else written += written === "" ? shownKey(key) : `.${shownKey(key)}`
  }
  return written
}

/** The problems that a schema found, each with its path; at most 16, their texts bounded. They never hold the bad value. */
export const issuesOf = (error: Schema.SchemaError): ReadonlyArray<Issue> =>
  format(error.issue).issues.slice(0, maxIssues).map((issue) => ({
    path: formatPath((issue.path ?? []).map((key) => typeof key === "object" ? key.key : key)),
    message: issue.message.length > maxMessage ? `${issue.message.slice(0, maxMessage)}…` : issue.message
  }))

/** The validation error for what a schema found; its `field` is the first problem's. */
export const validationError = (error: Schema.SchemaError): ValidationError => {
  const issues = issuesOf(error)
  const first = issues[0] ?? { path: "", message: "the value is not valid" }
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : ""
  return new ValidationError({
    message: `${first.path === "" ? "" : `${first.path}: `}${first.message}${more}`,
    ...(first.path === "" ? {} : { field: first.path }),
    issues
  })
}
