/**
 * The answer's items, whole and as pieces of a stream: what both encoders build alike, so that a stream joins to exactly
 * what the whole answer would have been.
 *
 * Text and refusals that follow each other are one message; each run of thinking, each call and each image is an item of
 * its own. What says nothing (an empty text, thinking without a word) is no item.
 */
import type { FinishReason } from "../../../sdk/Chat.ts"
import type { AudioPart, ImagePart, Part, ReasoningPart, RefusalPart, TextPart } from "../../../sdk/Content.ts"
import { totalCacheWrite, totalInput, totalOutput, type Usage } from "../../../sdk/Usage.ts"
import type { Json } from "../../Codec.ts"
import { isJson, parseJson } from "../../Json.ts"
import { encodeCitations } from "./ResponsesCitations.ts"
import { wire } from "./ResponsesExtensions.ts"
import { reasoningItem } from "./ResponsesReasoning.ts"

/** Whether an item is whole, or the answer ended within it. */
export type ItemStatus = "in_progress" | "completed" | "incomplete"

// ---------------------------------------------------------------------------------------------------------------------
// Ids
// ---------------------------------------------------------------------------------------------------------------------

/**
 * What the ids of a response and its items are made from: the provider's id of the answer, so that a stream and its joined
 * form agree. One that a provider left out is made.
 */
export const idBase = (id: string): string => {
  const fit = id.replace(/^resp_/, "").replaceAll(/[^\w-]/g, "").slice(-64)
  return fit === "" ? crypto.randomUUID().replaceAll("-", "") : fit
}

/** OpenAI's prefixes: of messages, calls, thinking and images. */
export type ItemPrefix = "msg" | "fc" | "rs" | "ig"

/** The id of the item at a position of the output. */
export const itemId = (prefix: ItemPrefix, base: string, index: number): string => `${prefix}_${base}_${index}`

// ---------------------------------------------------------------------------------------------------------------------
// Items
// ---------------------------------------------------------------------------------------------------------------------

/** A text part of a message. */
export const outputText = (
  text: string,
  citations: ReadonlyArray<unknown> | undefined,
  logprobs: ReadonlyArray<unknown>
): Json => {
  const { annotations, foreign } = encodeCitations(citations)
  return { type: "output_text", text, annotations, logprobs, ...(foreign.length === 0 ? {} : { citations: foreign }) }
}

/** A message of the model's. */
export const messageItem = (id: string, status: ItemStatus, content: ReadonlyArray<Json>): Json => ({
  id,
  type: "message",
  status,
  role: "assistant",
  content
})

/** A call's arguments; SDKs parse them, so none are the empty object. */
export const argumentsOf = (text: string): string => text.trim() === "" ? "{}" : text

/** Whether a call's arguments are whole. */
export const isWhole = (text: string): boolean => text.trimEnd().endsWith("}") && isJson(parseJson(text))

/** A call of a function. */
export const callItem = (id: string, status: ItemStatus, callId: string, name: string, text: string): Json => ({
  id,
  type: "function_call",
  status,
  arguments: text,
  call_id: callId,
  name
})

/** An image that the model made. */
export const imageItem = (id: string, data: string, mediaType: string): Json => ({
  id,
  type: "image_generation_call",
  status: "completed",
  result: data,
  output_format: mediaType.replace(/^image\//, "")
})

/** Whether an answer ended before it was complete. */
export const isCut = (reason: FinishReason | undefined): boolean => reason === "length" || reason === "content_filter"

/** The words of a part that this protocol has as text alone: what was spoken, and where an image is. */
export const wordsOf = (part: AudioPart | ImagePart): string =>
  part.type === "audio" ? part.transcript ?? "" : part.source.type === "url" ? part.source.url : ""

/** A refusal, as a part of a message. */
export const refusal = (text: string): Json => ({ type: "refusal", refusal: text })

/** Whether a run of thinking is anything to show, or to hand back. */
export const saysReasoning = (part: ReasoningPart): boolean =>
  (part.text !== undefined && part.text !== "") || part.signature !== undefined || part.data !== undefined ||
  part.extensions !== undefined

const saysText = (part: TextPart): boolean => part.text !== "" || (part.citations?.length ?? 0) > 0

/** A part as one of a message; `undefined` for what is no part of one, or says nothing. */
const messagePart = (part: Part): TextPart | RefusalPart | undefined => {
  switch (part.type) {
    case "text":
      return saysText(part) ? part : undefined
    case "refusal":
      return part.text === "" ? undefined : part
    case "audio":
    case "image": {
      if (part.type === "image" && part.source.type === "base64") return undefined
      const text = wordsOf(part)
      return text === "" ? undefined : { type: "text", text }
    }
    default:
      return undefined
  }
}

/** The output of a whole answer. `logprobs` are of its text. */
export const outputOf = (
  content: ReadonlyArray<Part>,
  base: string,
  reason: FinishReason,
  logprobs: ReadonlyArray<unknown>
): ReadonlyArray<Json> => {
  const output: Array<Json> = []
  const cut = isCut(reason)
  let message: Array<Json> = []
  const close = (): void => {
    if (message.length > 0) output.push(messageItem(itemId("msg", base, output.length), "completed", message))
    message = []
  }
  for (const part of content) {
    const said = messagePart(part)
    if (said !== undefined) {
      message.push(
        said.type === "text" ? outputText(said.text, said.citations, logprobs) : refusal(said.text)
      )
    } else if (part.type === "tool_call") {
      close()
      const text = argumentsOf(part.arguments)
      const status = cut && !isWhole(text) ? "incomplete" : "completed"
      output.push(callItem(itemId("fc", base, output.length), status, part.id, part.name, text))
    } else if (part.type === "reasoning" && saysReasoning(part)) {
      close()
      output.push(reasoningItem(part, itemId("rs", base, output.length)))
    } else if (part.type === "opaque" && part.wire === wire) {
      close()
      output.push(part.value)
    } else if (part.type === "image" && part.source.type === "base64") {
      close()
      output.push(imageItem(itemId("ig", base, output.length), part.source.data, part.source.mediaType))
    }
  }
  close()
  const last = output.at(-1)
  if (cut && last !== undefined && (last["type"] === "message" || last["type"] === "function_call")) {
    output[output.length - 1] = { ...last, status: "incomplete" }
  }
  return output
}

// ---------------------------------------------------------------------------------------------------------------------
// Usage
// ---------------------------------------------------------------------------------------------------------------------

/** Token counts: all input, all output, and the subsets beside them. */
export const encodeUsage = (usage: Usage): Json => {
  const input = totalInput(usage)
  const output = totalOutput(usage)
  return {
    input_tokens: input,
    input_tokens_details: { cached_tokens: usage.cacheReadTokens ?? 0, cache_write_tokens: totalCacheWrite(usage) },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: usage.reasoningTokens ?? 0 },
    total_tokens: input + output
  }
}
