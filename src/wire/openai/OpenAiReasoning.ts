/**
 * Reasoning on the OpenAI chat wire. OpenAI itself has no field for it; compatible servers and gateways use four:
 *
 * - `reasoning_content` (DeepSeek) and `reasoning` (OpenRouter, Ollama): plain text,
 * - `thinking_blocks` (LiteLLM): Anthropic's blocks verbatim, with their signatures,
 * - `reasoning_details` (OpenRouter): typed details, each with a `format` that names whose they are.
 *
 * They say the same thing several times over, so one of them is read: the blocks, else the details, else the text.
 * Fields of a reasoning part that only this wire needs stand in its extensions: `detail` is an OpenRouter detail as it
 * came, `field` the name of the text field where it was not `reasoning_content`.
 */
import type { Part, ReasoningPart } from "../../sdk/Content.ts"
import type { Json } from "../Codec.ts"
import { array, type Draft, filled, isJson, string } from "../Json.ts"
import { extended, ownExtensions, wire } from "./OpenAiExtensions.ts"

/** OpenRouter's name for details in Anthropic's form, and what an absent `format` stands for. */
const anthropicFormat = "anthropic-claude-v1"

/** The fields of a message or delta that reasoning may stand in. */
export const reasoningFields = ["reasoning_content", "reasoning", "thinking_blocks", "reasoning_details"] as const

/** OpenRouter's names for the forms of details, by the wire that can read them. */
const formats: ReadonlyMap<string, string> = new Map([
  ["anthropic", anthropicFormat],
  ["openai-responses", "openai-responses-v1"]
])
const wires: ReadonlyMap<unknown, string> = new Map(Array.from(formats, ([name, format]) => [format, name]))

/** Which wire can read a detail's signature or data. */
export const detailWire = (detail: Json): string => wires.get(detail["format"] ?? anthropicFormat) ?? wire

const ofBlock = (block: Json): ReasoningPart | undefined => {
  if (block["type"] === "redacted_thinking") {
    const data = filled(block["data"])
    return data === undefined ? undefined : { type: "reasoning", data, wire: "anthropic" }
  }
  const text = string(block["thinking"])
  const signature = filled(block["signature"])
  if (text === undefined && signature === undefined) return undefined
  const part: Draft<ReasoningPart> = { type: "reasoning" }
  if (text !== undefined) part.text = text
  if (signature !== undefined) {
    part.signature = signature
    part.wire = "anthropic"
  }
  return part
}

const ofDetail = (detail: Json): ReasoningPart => {
  const part: Draft<ReasoningPart> = { type: "reasoning", ...extended({ detail }) }
  const text = string(detail["text"]) ?? string(detail["summary"])
  const signature = filled(detail["signature"])
  const data = filled(detail["data"])
  if (text !== undefined) part.text = text
  if (signature !== undefined) part.signature = signature
  if (data !== undefined) part.data = data
  part.wire = signature !== undefined || data !== undefined ? detailWire(detail) : wire
  return part
}

/** The reasoning of a message, in the order in which it was thought. Malformed blocks are passed over. */
export const decodeReasoning = (message: Json): ReadonlyArray<ReasoningPart> => {
  const blocks = array(message["thinking_blocks"]).filter(isJson)
  if (blocks.length > 0) return blocks.map(ofBlock).filter((part) => part !== undefined)
  const details = array(message["reasoning_details"]).filter(isJson)
  if (details.length > 0) return details.map(ofDetail)
  const content = filled(message["reasoning_content"])
  if (content !== undefined) return [{ type: "reasoning", text: content, wire }]
  const text = filled(message["reasoning"])
  return text === undefined ? [] : [{ type: "reasoning", text, wire, ...extended({ field: "reasoning" }) }]
}

/** A signed or redacted block in Anthropic's own form; `undefined` for reasoning that Anthropic could not read. */
export const thinkingBlock = (part: ReasoningPart): Json | undefined => {
  if (part.wire !== "anthropic") return undefined
  if (part.data !== undefined) return { type: "redacted_thinking", data: part.data }
  return part.signature === undefined
    ? undefined
    : { type: "thinking", thinking: part.text ?? "", signature: part.signature }
}

/** A part in OpenRouter's form; `index` counts the answer's reasoning parts. */
export const reasoningDetail = (part: ReasoningPart, index: number): Json => {
  const detail = ownExtensions(part)?.["detail"]
  if (isJson(detail)) return detail
  const format = formats.get(part.wire ?? "") ?? "unknown"
  if (part.data !== undefined) return { type: "reasoning.encrypted", data: part.data, format, index }
  return {
    type: "reasoning.text",
    text: part.text ?? "",
    ...(part.signature === undefined ? {} : { signature: part.signature }),
    format,
    index
  }
}

/**
 * The reasoning fields of an answer's message: the readable text under both of its names, and, where any part is signed
 * or opaque, the blocks and details that a client must bring back unchanged.
 */
export const encodeReasoning = (content: ReadonlyArray<Part>): Json => {
  const parts = content.filter((part): part is ReasoningPart => part.type === "reasoning")
  if (parts.length === 0) return {}
  let text = ""
  for (const part of parts) text += part.text ?? ""
  const readable = text === "" ? {} : { reasoning_content: text, reasoning: text }
  const opaque = parts.some((part) =>
    part.signature !== undefined || part.data !== undefined || ownExtensions(part)?.["detail"] !== undefined
  )
  if (!opaque) return readable
  const blocks = parts.map(thinkingBlock).filter((block) => block !== undefined)
  return {
    ...readable,
    ...(blocks.length === 0 ? {} : { thinking_blocks: blocks }),
    reasoning_details: parts.map(reasoningDetail)
  }
}

/**
 * The effort that comes nearest to a budget of thinking tokens: none for 0, low up to 2,048, medium up to 8,192, high
 * above. OpenAI publishes no numbers for its efforts; these follow the budgets that callers of Anthropic's API use.
 */
export const effortOf = (budget: number): string =>
  budget === 0 ? "none" : budget <= 2048 ? "low" : budget <= 8192 ? "medium" : "high"
