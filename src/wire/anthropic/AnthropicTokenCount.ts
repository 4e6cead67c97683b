/** Counting a prompt's tokens without an answer, both ways: https://docs.claude.com/en/api/messages-count-tokens. */
import { Result } from "effect"
import type { ValidationError } from "../../sdk/GatewayError.ts"
import type { ChatCall, Failure } from "../../sdk/Provider.ts"
import type { EncodedRequest, Json } from "../Codec.ts"
import { count, isJson } from "../Json.ts"
import { brokenProtocol } from "./AnthropicError.ts"
import { encodeRequest } from "./AnthropicRequest.ts"

/** Fields of a Messages request that say how to answer; the API refuses them where nothing is answered. */
const ofTheAnswer = new Set([
  "max_tokens",
  "metadata",
  "service_tier",
  "stop_sequences",
  "stream",
  "temperature",
  "top_k",
  "top_p"
])

/** No budget of thinking reaches this; a limit that the caller did not set must not narrow the one that is counted. */
const noLimit = 1_000_000

/** Writes a call as a request to count its tokens. Fails as `encodeRequest` does. */
export const encodeCountRequest = (call: ChatCall): Result.Result<EncodedRequest, ValidationError> => {
  const { request } = call
  const asked: ChatCall = { ...call, request: { ...request, maxOutputTokens: request.maxOutputTokens ?? noLimit } }
  return Result.map(encodeRequest(asked, false), (encoded) => ({
    ...encoded,
    body: Object.fromEntries(Object.entries(encoded.body).filter(([key]) => !ofTheAnswer.has(key)))
  }))
}

/** Reads the count. */
export const decodeTokenCount = (json: unknown): Result.Result<number, Failure> => {
  const tokens = isJson(json) ? count(json["input_tokens"]) : undefined
  return tokens === undefined
    ? Result.fail(brokenProtocol("the provider's answer has no count of tokens"))
    : Result.succeed(tokens)
}

/** Writes the count. */
export const encodeTokenCount = (inputTokens: number): Json => ({ input_tokens: inputTokens })
