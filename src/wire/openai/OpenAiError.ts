/**
 * Errors of the OpenAI wire, both ways. Compatible servers vary the body a good deal: OpenAI's own object, Azure's with an
 * `innererror`, OpenRouter's with a numeric code and the upstream's words in `metadata.raw`, vLLM's flat one, FastAPI's
 * `detail`, Gemini's array, a bare string, an HTML page of some proxy, or nothing. All are read into one `Failure`.
 */
import type { GatewayError } from "../../sdk/GatewayError.ts"
import type { Failure } from "../../sdk/Provider.ts"
import { classify, type ErrorFacts, isExhausted, shown, shownBody } from "../Classify.ts"
import type { EncodedError, Json } from "../Codec.ts"
import { retryAfterMs } from "../RetryAfter.ts"
import { type Draft, filled, isJson, object } from "../Json.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Upstream errors
// ---------------------------------------------------------------------------------------------------------------------

const maxWord = 100
const word = (value: unknown): string | undefined => filled(value)?.slice(0, maxWord)

const httpStatus = (value: unknown): number | undefined => {
  const status = typeof value === "string" && /^[1-5]\d\d$/.test(value) ? Number(value) : value
  return typeof status === "number" && Number.isInteger(status) && status >= 300 && status < 600 ? status : undefined
}

/** The words of an error object: its message, and what an aggregator quotes of the provider behind it. */
const messageOf = (error: Json): string | undefined => {
  const said = filled(error["message"]) ?? filled(object(error["message"])?.["detail"]) ?? filled(error["detail"])
  const raw = filled(object(error["metadata"])?.["raw"])
  if (raw === undefined || raw === said) return said
  return said === undefined ? raw.slice(0, 600) : `${said}: ${raw.slice(0, 600)}`
}

/** The failure that an error object, or what stands in its place, tells of. */
const failureOf = (error: unknown, status: number | undefined, fallback: string, wait: number | undefined): Failure => {
  const json = object(error) ?? {}
  const told = httpStatus(json["code"]) ?? httpStatus(json["status"]) ?? httpStatus(json["status_code"])
  const inner = object(json["innererror"])
  const type = word(json["type"]) ?? (typeof json["status"] === "string" ? word(json["status"]) : undefined)
  const ownCode = httpStatus(json["code"]) === undefined ? word(json["code"]) : undefined
  const code = ownCode ?? word(inner?.["code"])
  const message = filled(error) ?? messageOf(json) ?? fallback
  const known = status ?? told
  const facts: Draft<ErrorFacts> = { message }
  if (known !== undefined) facts.status = known
  if (code !== undefined) facts.code = code
  if (type !== undefined) facts.type = type
  const kind = classify(facts)
  const failure: Draft<Failure> = { kind, message: shown(message) || shown(fallback) }
  if (known !== undefined) failure.status = known
  if (code !== undefined) failure.code = code
  if (type !== undefined) failure.type = type
  const field = word(json["param"])
  if (field !== undefined) failure.field = field
  if (wait !== undefined && (kind === "quota" || kind === "transient") && !isExhausted(facts)) {
    failure.retryAfterMs = wait
  }
  return failure
}

/**
 * The error inside a JSON body or a stream event, or `undefined` where it holds none: an `error` member (an object or
 * text), or vLLM's flat `{ object: "error", message, code }`.
 */
export const errorWithin = (json: Json): unknown => {
  const error = json["error"]
  if (isJson(error) || (typeof error === "string" && error !== "")) return error
  return json["object"] === "error" ? json : undefined
}

/**
 * The failure for an error that came inside an answer of status 200, as a whole body, in a choice, or in a stream event.
 * A numeric code is read as the status that the answer should have had.
 */
export const inbandFailure = (error: unknown): Failure =>
  failureOf(error, undefined, "the provider reported an error inside its answer", undefined)

/** The failure for an answer or event that is not what the wire promises. */
export const protocolFailure = (message: string): Failure => ({ kind: "protocol", message })

const requestIdHeaders = ["x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "cf-ray"] as const

/**
 * Reads an error answer; `body` may be anything. Used-up quota (`insufficient_quota`, billing limits) is of kind `quota`
 * without `retryAfterMs`, since no wait mends it; other quota and transient failures carry the wait that the headers ask
 * for.
 */
export const decodeError = (status: number, headers: Readonly<Record<string, string>>, body: string): Failure => {
  let parsed: unknown
  try {
    parsed = JSON.parse(body)
  } catch {
    parsed = undefined
  }
  // Gemini's compatible endpoint wraps the object in an array.
  const json = object(Array.isArray(parsed) ? parsed[0] : parsed)
  const error = json === undefined ? undefined : errorWithin(json) ?? json
  const fallback = json === undefined ? shownBody(status, body) : `the provider answered ${status}`
  const failure = failureOf(error, status, fallback, retryAfterMs(headers))
  for (const name of requestIdHeaders) {
    const id = word(headers[name])
    if (id !== undefined) return { ...failure, upstreamRequestId: id }
  }
  return failure
}

// ---------------------------------------------------------------------------------------------------------------------
// The gateway's own errors
// ---------------------------------------------------------------------------------------------------------------------

/** OpenAI's error types, by the family of the status. */
const typeOf = (status: number): string => {
  if (status === 402) return "insufficient_quota"
  if (status === 429) return "rate_limit_error"
  return status >= 500 ? "server_error" : "invalid_request_error"
}

/** The members of OpenAI's error object. */
interface ErrorObject {
  readonly message: string
  readonly type: string
  readonly param: string | null
  readonly code: string
}

/**
 * The error object for a gateway error. `code` is the gateway's stable code; where a provider refused the caller's own
 * request, its code and type are handed on, so that SDK users see what they know from the provider
 * (`context_length_exceeded`, `content_filter`).
 */
export const errorObject = (error: GatewayError): ErrorObject => {
  const { reason, status } = error
  let code: string = error.code
  let type = typeOf(status)
  if (reason._tag === "ProviderFailed") {
    switch (reason.kind) {
      case "contextLength":
        code = reason.upstreamCode ?? "context_length_exceeded"
        type = reason.upstreamType ?? type
        break
      case "contentPolicy":
        code = reason.upstreamCode ?? "content_filter"
        type = reason.upstreamType ?? type
        break
      case "caller":
        code = reason.upstreamCode ?? code
        type = reason.upstreamType ?? type
        break
      default:
    }
  }
  return { message: error.message, type, param: error.field ?? null, code }
}

/** OpenAI's error body. The request's id travels in the `x-request-id` header, as it does at OpenAI. */
export const encodeError = (error: GatewayError): EncodedError => ({
  status: error.status,
  body: { error: errorObject(error) }
})
