/** Reads whole answers of a Responses API (https://platform.openai.com/docs/api-reference/responses/object). */
import { Result } from "effect"
import type { ChatResponse } from "../../../sdk/Chat.ts"
import type { Part } from "../../../sdk/Content.ts"
import type { ChatCall, Failure } from "../../../sdk/Provider.ts"
import { sourcedResponse } from "../../../sdk/Wire.ts"
import type { Json } from "../../Codec.ts"
import { array, type Draft, filled, finite, isJson } from "../../Json.ts"
import { errorWithin, inbandFailure, protocolFailure } from "../OpenAiError.ts"
import { extended as chatExtended } from "../OpenAiExtensions.ts"
import { wire } from "./ResponsesExtensions.ts"
import { decodeEnd, decodeItem, decodeUsage, isCallersTurn } from "./ResponsesItems.ts"

/** The failure that a response tells of itself; `undefined` where it has ended well, or was cut. */
export const failureWithin = (response: Json): Failure | undefined => {
  const error = errorWithin(response)
  if (error !== undefined) return inbandFailure(error)
  switch (response["status"]) {
    case "failed":
      return inbandFailure(undefined)
    case "cancelled":
      return { kind: "transient", message: "the provider cancelled its answer" }
    case "queued":
    case "in_progress":
      return protocolFailure("the provider answered with a response that is still under way")
    default:
      return undefined
  }
}

const logprobsOf = (items: ReadonlyArray<Json>): ReadonlyArray<unknown> =>
  items.flatMap((item) =>
    item["type"] === "message"
      ? array(item["content"]).flatMap((part) => isJson(part) ? array(part["logprobs"]) : [])
      : []
  )

/** Reads a whole answer. One that failed, or that is none, is a failure like any other. */
export const decodeResponse = (
  text: string,
  json: unknown,
  call: ChatCall
): Result.Result<ChatResponse, Failure> => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's answer is not a JSON object"))
  const failure = failureWithin(json)
  if (failure !== undefined) return Result.fail(failure)
  const { output } = json
  if (!Array.isArray(output)) return Result.fail(protocolFailure("the provider's answer has no output"))
  const items = output.filter(isJson)
  const content: Array<Part> = items.flatMap(decodeItem)
  const [finishReason, nativeFinishReason] = decodeEnd(json, items.some(isCallersTurn))
  const response: Draft<ChatResponse> = {
    id: filled(json["id"]) ?? "",
    model: filled(json["model"]) ?? call.model.model,
    content,
    finishReason,
    nativeFinishReason
  }
  const created = finite(json["created_at"])
  if (created !== undefined) response.created = created
  const usage = decodeUsage(json["usage"])
  if (usage !== undefined) response.usage = usage
  const logprobs = logprobsOf(items)
  if (logprobs.length > 0) Object.assign(response, chatExtended({ choice: { logprobs: { content: logprobs } } }))
  return Result.succeed(sourcedResponse(response, { wire, text, json }))
}
