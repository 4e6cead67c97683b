/** The headers in which a caller of any dialect says what its body has no field for. */
import { Result, Schema } from "effect"
import type { RequestOptions, Timeouts, TraceParent } from "../sdk/Caller.ts"
import type { Fallback } from "../sdk/Chat.ts"
import { invalid, type ValidationError } from "../sdk/GatewayError.ts"
import { RoutePolicy } from "../sdk/Routes.ts"

type Headers = Readonly<Record<string, string | undefined>>
type Mutable<A> = { -readonly [K in keyof A]: A[K] }

const timeoutHeaders: ReadonlyArray<readonly [string, keyof Timeouts]> = [
  ["x-gateway-timeout-connect", "connect"],
  ["x-gateway-timeout-first-token", "firstToken"],
  ["x-gateway-timeout-idle", "idle"],
  ["x-gateway-timeout-answer", "answer"],
  ["x-gateway-timeout-total", "total"]
]

const durationPattern = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m)?$/
const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 }

/** A number of ms, or one with its unit: `1500`, `1500ms`, `1.5s`, `2m`. */
const durationOf = (value: string): number => {
  const match = durationPattern.exec(value.trim())
  return match === null ? NaN : Number(match[1]) * (unitMs[match[2] ?? "ms"] ?? 1)
}

/** Models that a caller may name. */
const maxFallbacks = 16
const maxStickyKey = 256

/** `model-a, model-b`, and behind a semicolon how: `; strategy=parallel`. */
const fallbackOf = (value: string): Fallback | undefined => {
  const [list = "", ...parameters] = value.split(";")
  const models = list.split(",").map((model) => model.trim())
  if (models.length > maxFallbacks || models.some((model) => model === "")) return undefined
  let strategy: Fallback["strategy"]
  for (const parameter of parameters) {
    const match = /^\s*strategy\s*=\s*(sequential|parallel)\s*$/.exec(parameter)
    if (match === null) return undefined
    strategy = match[1] === "parallel" ? "parallel" : "sequential"
  }
  return strategy === undefined ? { models } : { models, strategy }
}

const nameHeaders: ReadonlyArray<readonly [string, "user" | "conversationId"]> = [
  ["x-gateway-user", "user"],
  ["x-gateway-conversation", "conversationId"]
]

const isRoutePolicy = Schema.is(RoutePolicy)

/** Tags that a caller may add to its key's own. */
const maxTags = 16
const tagPattern = /^[\x21-\x2b\x2d-\x7e](?:[\x20-\x2b\x2d-\x7e]{0,126}[\x21-\x2b\x2d-\x7e])?$/
/** Of users and conversations: anything that fits a header, within reason. */
const maxName = 256

/** `team-a, experiment=7`: names of printable ASCII without commas. */
const tagsOf = (value: string): ReadonlyArray<string> | undefined => {
  const tags = value.split(",").map((tag) => tag.trim()).filter((tag) => tag !== "")
  return tags.length > maxTags || tags.some((tag) => !tagPattern.test(tag)) ? undefined : tags
}

const traceParentPattern = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$/
const zeros = /^0+$/
/** What the standard asks everyone to pass on at least. */
const maxTraceState = 512

/** The caller's span. A header that is broken is as good as none: https://www.w3.org/TR/trace-context/#traceparent-header. */
const traceParentOf = (headers: Headers): TraceParent | undefined => {
  const match = traceParentPattern.exec(headers["traceparent"] ?? "")
  if (match === null) return undefined
  const [, version = "", traceId = "", spanId = "", flags = ""] = match
  if (version === "ff" || zeros.test(traceId) || zeros.test(spanId)) return undefined
  const state = headers["tracestate"]
  return {
    traceId,
    spanId,
    sampled: (Number.parseInt(flags, 16) & 1) === 1,
    ...(state === undefined || state.length > maxTraceState ? {} : { state })
  }
}

/**
 * Reads `traceparent` and `x-gateway-timeout-*`, `x-gateway-fallback`, `x-gateway-route-policy`, `x-gateway-sticky-key`, `x-gateway-user`,
 * `x-gateway-tags` and `x-gateway-conversation`.
 */
export const requestOptions = (headers: Headers, requestId: string): Result.Result<RequestOptions, ValidationError> => {
  const options: Mutable<RequestOptions> = { requestId }
  let timeouts: { -readonly [Key in keyof Timeouts]?: Timeouts[Key] } | undefined
  for (const [header, key] of timeoutHeaders) {
    const value = headers[header]
    if (value === undefined) continue
    const ms = durationOf(value)
    if (!(ms > 0)) return Result.fail(invalid(header, "expected a duration such as 500, 500ms, 30s or 2m"))
    timeouts ??= {}
    timeouts[key] = ms
  }
  if (timeouts !== undefined) options.timeouts = timeouts
  const fallback = headers["x-gateway-fallback"]
  if (fallback !== undefined) {
    const read = fallbackOf(fallback)
    if (read === undefined) {
      return Result.fail(
        invalid(
          "x-gateway-fallback",
          "expected model ids, such as \"openai::gpt-4o, ollama::llama3.2; strategy=parallel\""
        )
      )
    }
    options.fallback = read
  }
  const policy = headers["x-gateway-route-policy"]
  if (policy !== undefined) {
    if (!isRoutePolicy(policy)) {
      return Result.fail(
        invalid("x-gateway-route-policy", `expected one of ${RoutePolicy.literals.join(", ")}`)
      )
    }
    options.routePolicy = policy
  }
  const sticky = headers["x-gateway-sticky-key"]
  if (sticky !== undefined) options.stickyKey = sticky.slice(0, maxStickyKey)
  for (const [header, key] of nameHeaders) {
    const name = headers[header]?.trim()
    if (name === undefined || name === "") continue
    if (name.length > maxName) {
      return Result.fail(invalid(header, `expected at most ${maxName} characters`))
    }
    options[key] = name
  }
  const tags = headers["x-gateway-tags"]
  if (tags !== undefined) {
    const read = tagsOf(tags)
    if (read === undefined) {
      return Result.fail(
        invalid("x-gateway-tags", `expected up to ${maxTags} names of printable ASCII, such as "team-a, experiment=7"`)
      )
    }
    options.tags = read
  }
  if (headers["traceparent"] !== undefined) {
    const parent = traceParentOf(headers)
    if (parent !== undefined) options.traceParent = parent
  }
  return Result.succeed(options)
}
