/**
 * Errors both ways: Anthropic's error bodies and in-stream error events read as failures, and the gateway's errors
 * written as Anthropic writes its own (https://docs.claude.com/en/api/errors).
 */
import type { GatewayError, ProviderErrorKind } from "../../sdk/GatewayError.ts"
import type { Failure } from "../../sdk/Provider.ts"
import type { EncodedError, Json } from "../Codec.ts"
import { retryAfterMs } from "../RetryAfter.ts"
import { bounded, filled, isJson, parseJson } from "../Json.ts"
import { shown } from "../Classify.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Upstream errors
// ---------------------------------------------------------------------------------------------------------------------

/** The status that goes with an error type, for error bodies and events that come inside a 200. */
const statusOfType: ReadonlyMap<string, number> = new Map([
  ["invalid_request_error", 400],
  ["authentication_error", 401],
  ["billing_error", 402],
  ["permission_error", 403],
  ["not_found_error", 404],
  ["conflict_error", 409],
  ["request_too_large", 413],
  ["rate_limit_error", 429],
  ["api_error", 500],
  ["timeout_error", 504],
  ["overloaded_error", 529]
])

const tooLong =
  /prompt is too long|exceeds? (?:the )?(?:model's )?(?:maximum )?context|input length and `?max_tokens`? exceed|context window/i
// Anthropic answers an account without credit with a 400 of type invalid_request_error.
const outOfCredit = /credit balance is too low|usage limits|spend(?:ing)? limit/i
const filtered = /content filtering policy|blocked by (?:our )?content/i

const kindOf = (type: string | undefined, status: number, message: string): ProviderErrorKind => {
  switch (type) {
    case "authentication_error":
    case "permission_error":
      return "credential"
    case "billing_error":
    case "rate_limit_error":
      return "quota"
    case "overloaded_error":
    case "api_error":
    case "timeout_error":
      return "transient"
  }
  if (status === 401 || status === 403) return "credential"
  if (status === 402 || status === 429) return "quota"
  if (status === 408 || status === 409 || status >= 500) return "transient"
  if (status < 400) return "protocol"
  if (tooLong.test(message)) return "contextLength"
  if (outOfCredit.test(message)) return "quota"
  return filtered.test(message) ? "contentPolicy" : "caller"
}

// `messages.1.content.0.text: Field required`, as Anthropic locates what it refuses.
const located = /^([a-z_]+(?:\.[a-z0-9_]+){0,12}): /

const fieldOf = (message: string): string | undefined => {
  const path = located.exec(message.slice(0, 300))?.[1]
  return path?.replaceAll(/\.(\d+)(?=\.|$)/g, "[$1]")
}

const wordless = "the provider reported an error without a message"

/** Reads the `error` object of a body or of an event. `status` is the HTTP status, where there was an answer of its own. */
export const failureOf = (error: unknown, status?: number): Failure => {
  const object: Json = isJson(error) ? error : {}
  const type = filled(object["type"])
  const message = filled(object["message"]) ?? wordless
  const details = isJson(object["details"]) ? filled(object["details"]["error_code"]) : undefined
  const known = status ?? statusOfType.get(type ?? "") ?? 500
  const field = fieldOf(message)
  return {
    kind: kindOf(type, known, message),
    message: shown(message) || wordless,
    status: known,
    ...(type === undefined ? {} : { type: bounded(type, 100) }),
    ...(details === undefined ? {} : { code: bounded(details, 100) }),
    ...(field === undefined ? {} : { field })
  }
}

/**
 * Reads an error answer. The body may be anything: proxies in front of the API answer with HTML pages. A 429 about a
 * spend limit carries no `retry-after`, and so gets no `retryAfterMs` either.
 */
export const decodeError = (status: number, headers: Readonly<Record<string, string>>, body: string): Failure => {
  const json = parseJson(body)
  const reported = isJson(json) && isJson(json["error"]) ? json["error"] : undefined
  const wait = retryAfterMs(headers)
  const id = filled(headers["request-id"]) ?? (isJson(json) ? filled(json["request_id"]) : undefined)
  const text = body.trim()
  const failure = failureOf(
    reported ?? {
      message: text === "" || text.startsWith("<") || isJson(json)
        ? `the provider answered ${status} without an error in Anthropic's form`
        : bounded(text, 200)
    },
    status
  )
  return {
    ...failure,
    ...(wait === undefined ? {} : { retryAfterMs: wait }),
    ...(id === undefined ? {} : { upstreamRequestId: bounded(id, 200) })
  }
}

/** The provider broke its protocol. */
export const brokenProtocol = (message: string): Failure => ({ kind: "protocol", message })

// ---------------------------------------------------------------------------------------------------------------------
// The gateway's errors
// ---------------------------------------------------------------------------------------------------------------------

const typeOfStatus = (status: number): string => {
  switch (status) {
    case 401:
      return "authentication_error"
    case 402:
      return "billing_error"
    case 403:
      return "permission_error"
    case 404:
    case 410:
      return "not_found_error"
    case 409:
      return "conflict_error"
    case 413:
      return "request_too_large"
    case 429:
      return "rate_limit_error"
    case 504:
      return "timeout_error"
    case 503:
    case 529:
      return "overloaded_error"
    default:
      return status >= 400 && status < 500 ? "invalid_request_error" : "api_error"
  }
}

/**
 * Writes an error as Anthropic does. Overload answers 529 as Anthropic's own does; a store of the gateway's that is away
 * keeps its 503.
 */
export const encodeError = (error: GatewayError, requestId: string): EncodedError => {
  const overload = error.status === 503 && error.code !== "store_unavailable"
  return {
    status: overload ? 529 : error.status,
    body: { ...errorBody(error), request_id: requestId }
  }
}

/**
 * What the SDK's threads and tool runners (`@anthropic-ai/sdk` 1.12, `ThreadState`) read of an error: with this code they go
 * on by sending the whole conversation with every request.
 */
const noThreads: Json = { error_code: "thread_unsupported_request", unsupported: ["thread"] }

/** The body of an error without a request id, which is also the data of a stream's error event. */
export const errorBody = (error: GatewayError): Json => {
  const { reason } = error
  const isOfThread = reason._tag === "ValidationError" && reason.field === "thread"
  return {
    type: "error",
    error: {
      type: typeOfStatus(error.status),
      message: error.message,
      ...(isOfThread ? { details: noThreads } : {})
    }
  }
}
