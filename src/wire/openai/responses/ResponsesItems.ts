/**
 * The items of an answer as parts of its content: what a whole answer and the last events of a stream are read by. What no
 * other protocol has (the searches, programs and calls of OpenAI's own tools) is kept as it stands.
 */
import type { ImagePart, Part, ReasoningPart } from "../../../sdk/Content.ts"
import type { FinishReason } from "../../../sdk/Chat.ts"
import type { Usage } from "../../../sdk/Usage.ts"
import type { Json } from "../../Codec.ts"
import { array, type Draft, filled, isJson, object, string, unknownFields } from "../../Json.ts"
import { isBase64 } from "../OpenAiMedia.ts"
import { decodeUsage as decodeChatUsage } from "../OpenAiUsage.ts"
import { readCitations } from "./ResponsesCitations.ts"
import { extended, wire } from "./ResponsesExtensions.ts"

const reasoningKeys: ReadonlySet<string> = new Set(["type", "status", "summary", "content", "encrypted_content"])

const textsOf = (value: unknown): ReadonlyArray<string> =>
  array(value).flatMap((item) => filled(isJson(item) ? item["text"] : undefined) ?? [])

/** The words of a thinking item. Open models' thinking stands in `content`, whole; a summary tells less. */
export const thoughtOf = (item: Json): string => {
  const whole = textsOf(item["content"]).join("")
  return whole === "" ? textsOf(item["summary"]).join("\n\n") : whole
}

/** Thinking: its summary, or all of it where the server shows that; and what the server wants back. */
export const decodeReasoningItem = (item: Json): ReasoningPart | undefined => {
  const text = thoughtOf(item)
  const data = filled(item["encrypted_content"])
  if (text === "" && data === undefined) return undefined
  const part: Draft<ReasoningPart> = { type: "reasoning", wire }
  if (text !== "") part.text = text
  if (data !== undefined) part.data = data
  const own: Record<string, unknown> = { ...unknownFields(item, reasoningKeys) }
  // Words of several parts are one text here, and go back as they were.
  if (textsOf(item["content"]).length === 0 && array(item["summary"]).length > 1) own["summary"] = item["summary"]
  return Object.keys(own).length === 0 ? part : { ...part, ...extended(own) }
}

/** An image that the model made; `undefined` where there is none in the item. */
export const decodeImageItem = (item: Json): ImagePart | undefined => {
  const data = item["result"]
  if (typeof data !== "string" || !isBase64(data)) return undefined
  const { result: _, ...others } = item
  return {
    type: "image",
    source: { type: "base64", mediaType: `image/${filled(item["output_format"]) ?? "png"}`, data },
    ...extended({ item: others })
  }
}

/** A part of a message; `undefined` for what says nothing. */
const decodeMessagePart = (part: unknown): Part | undefined => {
  if (!isJson(part)) return undefined
  if (part["type"] === "refusal") {
    const refusal = filled(part["refusal"])
    return refusal === undefined ? undefined : { type: "refusal", text: refusal }
  }
  const text = string(part["text"])
  if (text === undefined) return undefined
  const citations = readCitations(part)
  return text === "" && citations.length === 0
    ? undefined
    : { type: "text", text, ...(citations.length === 0 ? {} : { citations }) }
}

/** The parts of an item. */
export const decodeItem = (item: Json): ReadonlyArray<Part> => {
  switch (item["type"]) {
    case "message":
      return array(item["content"]).flatMap((part) => decodeMessagePart(part) ?? [])
    case "function_call": {
      const id = filled(item["call_id"]) ?? filled(item["id"])
      const name = filled(item["name"])
      return id === undefined || name === undefined
        ? []
        : [{ type: "tool_call", id, name, arguments: string(item["arguments"]) ?? "" }]
    }
    case "reasoning": {
      const part = decodeReasoningItem(item)
      return part === undefined ? [] : [part]
    }
    case "image_generation_call":
      return [decodeImageItem(item) ?? { type: "opaque", wire, value: item }]
    default:
      return [{ type: "opaque", wire, value: item }]
  }
}

/** Whether an item asks the caller for something: the answer then ends by its calls. */
export const isCallersTurn = (item: Json): boolean => {
  switch (item["type"]) {
    case "function_call":
    case "custom_tool_call":
    case "computer_call":
    case "local_shell_call":
    case "apply_patch_call":
    case "mcp_approval_request":
      return true
    case "shell_call":
      return object(item["environment"])?.["type"] === "local"
    default:
      return false
  }
}

/** Why an answer ended, and the server's own word for it. */
export const decodeEnd = (response: Json, calls: boolean): readonly [FinishReason, string] => {
  if (response["status"] !== "incomplete") return [calls ? "tool_calls" : "stop", "completed"]
  const reason = filled(object(response["incomplete_details"])?.["reason"]) ?? "incomplete"
  if (reason === "max_output_tokens" || reason === "max_tokens") return ["length", reason]
  return [reason === "content_filter" ? reason : "other", reason]
}

/** Token counts; they are those of OpenAI's chat under other names. */
export const decodeUsage = (value: unknown): Usage | undefined =>
  isJson(value)
    ? decodeChatUsage({
      prompt_tokens: value["input_tokens"],
      completion_tokens: value["output_tokens"],
      total_tokens: value["total_tokens"],
      prompt_tokens_details: value["input_tokens_details"],
      completion_tokens_details: value["output_tokens_details"]
    })
    : undefined
