/**
 * Ollama's errors. Every one of them is `{"error": "…"}`, with a status of 400, 401, 403, 404, 429, 500 or 502, or as a
 * line of a stream whose status was 200 (https://docs.ollama.com/api/errors). There are no error codes, so the text
 * decides what the status leaves open.
 */
import type { GatewayError, ProviderErrorKind } from "../../sdk/GatewayError.ts"
import type { Failure } from "../../sdk/Provider.ts"
import { classify, shown, shownBody } from "../Classify.ts"
import type { EncodedError } from "../Codec.ts"
import { retryAfterMs } from "../RetryAfter.ts"
import { bounded, isJson, parseJson } from "../Json.ts"

/**
 * `llm/llama_server.go`: "the prompt is longer than the context length …", "the input length exceeds the context length".
 * Runners report it with a 500 as well as with a 400.
 */
const contextText = /(?:longer than|exceed\w*) (?:the )?(?:available |maximum |max )?context (?:length|window|size)/i
const missingModel = /\bmodel\b.*\bnot found\b|try pulling it/i
/** `server/routes.go`: `"llama3" does not support tools`. */
const missingAbility = /does not support (tools|thinking|insert|chat|generate|vision|images)/i

const fieldOf: ReadonlyMap<string, string> = new Map([
  ["tools", "tools"],
  ["thinking", "reasoning"],
  ["vision", "messages"],
  ["images", "messages"]
])

/** The text of an error value: a string as Ollama has it, or the object that proxies in front of it answer with. */
export const errorText = (error: unknown): string | undefined => {
  if (typeof error === "string") return error
  return isJson(error) && typeof error["message"] === "string" ? error["message"] : undefined
}

const kindOf = (status: number | undefined, message: string): ProviderErrorKind => {
  const said = status === undefined || status === 400 || status >= 500
  if (said && contextText.test(message)) return "contextLength"
  if (said && missingAbility.test(message)) return "caller"
  return classify(status === undefined ? { message } : { status, message })
}

/** Reads an error by its text, and by its status where one came with it. */
export const failureOf = (text: string, status?: number): Failure => {
  const kind = kindOf(status, text)
  const field = kind === "caller" ? fieldOf.get(missingAbility.exec(text)?.[1]?.toLowerCase() ?? "") : undefined
  const noModel = kind === "caller" && (status === undefined || status === 404) && missingModel.test(text)
  return {
    kind,
    message: shown(text) || "the provider reported an error without a message",
    ...(status === undefined ? {} : { status }),
    ...(noModel ? { code: "model_not_found" } : {}),
    ...(field === undefined ? {} : { field })
  }
}

/** Something that is not Ollama's protocol. */
export const protocolFailure = (message: string): Failure => ({ kind: "protocol", message })

/**
 * Reads an error answer: 401 and 403 are the gateway's credential, 429 its quota, 404 an unknown model (code
 * `model_not_found`), a text about the context length is `contextLength` with 400 and 5xx alike, 5xx is transient.
 * Anything but Ollama's own body, an HTML page say, is told by its status. Header names are lower-case.
 */
export const decodeError = (status: number, headers: Readonly<Record<string, string>>, body: string): Failure => {
  const json = parseJson(body)
  const told = isJson(json) ? errorText(json["error"]) ?? errorText(json) : undefined
  const wait = retryAfterMs(headers)
  const requestId = headers["x-request-id"]
  return {
    ...failureOf(told ?? (json === undefined ? shownBody(status, body) : `the provider answered ${status}`), status),
    ...(wait === undefined ? {} : { retryAfterMs: wait }),
    ...(requestId === undefined ? {} : { upstreamRequestId: bounded(requestId, 200) })
  }
}

/** The body of an error, which is also the line that ends a broken stream. */
export const errorBody = (error: GatewayError): { readonly error: string } => ({ error: bounded(error.message, 2000) })

/** Writes an error as Ollama does: the message alone; code and request id ride in the gateway's headers. */
export const encodeError = (error: GatewayError, _requestId: string): EncodedError => ({
  status: error.status,
  body: { ...errorBody(error) }
})
