/**
 * Whole answers, both ways, and the words for why an answer ended.
 */
import { Result } from "effect"
import type { ChatRequest, ChatResponse, FinishReason } from "../../sdk/Chat.ts"
import type { Part, RefusalPart } from "../../sdk/Content.ts"
import type { ChatCall, Failure } from "../../sdk/Provider.ts"
import { sourcedResponse, sourceOf } from "../../sdk/Wire.ts"
import type { Json } from "../Codec.ts"
import { decodeAnswerBlock, extended } from "./AnthropicBlocks.ts"
import { brokenProtocol, failureOf } from "./AnthropicError.ts"
import { decodeUsage, encodeUsage, usageExtras } from "./AnthropicUsage.ts"
import { extensions, wire } from "./AnthropicExtensions.ts"
import { argumentsObject, filled, isJson, isList, unknownFields } from "../Json.ts"
import { answerTool } from "./StructuredOutput.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Why an answer ended
// ---------------------------------------------------------------------------------------------------------------------

const finishReasons: ReadonlyMap<unknown, FinishReason> = new Map([
  ["end_turn", "stop"],
  ["stop_sequence", "stop"],
  // Not final in Anthropic's sense: the turn may be continued by sending it back. The native word tells so.
  ["pause_turn", "stop"],
  ["max_tokens", "length"],
  ["model_context_window_exceeded", "length"],
  ["tool_use", "tool_calls"],
  ["refusal", "content_filter"]
])

/**
 * The canonical finish reason. `calls` tells whether the answer holds tool calls, which win over `stop`; `unwrapped`
 * whether its only call was the answer itself.
 */
export const finishReasonOf = (stopReason: unknown, calls: boolean, unwrapped: boolean): FinishReason => {
  const reason = finishReasons.get(stopReason) ?? "other"
  if (reason === "tool_calls" && unwrapped && !calls) return "stop"
  return calls && (reason === "stop" || reason === "other") ? "tool_calls" : reason
}

/** Anthropic's stop reason. The native word stays where it is one of Anthropic's and says the same. */
export const stopReasonOf = (
  finish: FinishReason | undefined,
  native: string | undefined,
  stopSequence: string | undefined,
  calls: boolean
): string => {
  if (calls && (finish === undefined || finish === "stop" || finish === "other")) return "tool_use"
  if (native !== undefined && finishReasons.get(native) === finish) return native
  switch (finish) {
    case "length":
      return "max_tokens"
    case "tool_calls":
      return "tool_use"
    case "content_filter":
      return "refusal"
    default:
      return stopSequence === undefined ? "end_turn" : "stop_sequence"
  }
}

/** The refusal that `stop_details` explains. */
export const refusalOf = (details: unknown): RefusalPart | undefined => {
  const explanation = isJson(details) ? filled(details["explanation"]) : undefined
  return explanation === undefined ? undefined : { type: "refusal", text: explanation }
}

/** `stop_details` for a refusal in words. What Anthropic itself said before stays. */
export const stopDetails = (refusal: string, known: unknown): Json | undefined => {
  const before = isJson(known) ? known : undefined
  if (refusal === "") return before
  return { type: "refusal", category: null, ...before, explanation: refusal }
}

// ---------------------------------------------------------------------------------------------------------------------
// Upstream
// ---------------------------------------------------------------------------------------------------------------------

const knownKeys = new Set([
  "id",
  "type",
  "role",
  "model",
  "content",
  "stop_reason",
  "stop_sequence",
  "stop_details",
  "usage"
])

/** What an answer tells beyond the sdk's words; `null` says nothing. */
const extrasOf = (json: Json): Json | undefined => {
  const fields = Object.entries(unknownFields(json, knownKeys) ?? {}).filter(([, value]) => value !== null)
  const details = isJson(json["stop_details"]) ? json["stop_details"] : undefined
  const usage = usageExtras(json["usage"])
  if (fields.length === 0 && details === undefined && usage === undefined) return undefined
  return {
    ...Object.fromEntries(fields),
    ...(details === undefined ? {} : { stop_details: details }),
    ...(usage === undefined ? {} : { usage })
  }
}

/** Reads a whole answer. Fails with what an `error` body says, or with kind `protocol` where it is not a message. */
export const decodeResponse = (
  text: string,
  json: unknown,
  call: ChatCall
): Result.Result<ChatResponse, Failure> => {
  if (!isJson(json)) return Result.fail(brokenProtocol("the provider's answer is not a JSON object"))
  if (json["type"] === "error" || isJson(json["error"])) return Result.fail(failureOf(json["error"]))
  const blocks = json["content"]
  if (!isList(blocks)) return Result.fail(brokenProtocol("the provider's answer has no content"))
  const answer = answerTool(call)
  const content: Array<Part> = []
  let calls = false
  for (const block of blocks) {
    const part = isJson(block) ? decodeAnswerBlock(block) : undefined
    if (part === undefined) {
      return Result.fail(brokenProtocol("the provider's answer holds a block without the fields of its type"))
    }
    if (part.type === "text" && part.text === "" && part.citations === undefined) continue
    if (part.type !== "tool_call") content.push(part)
    else if (part.name === answer?.name) content.push({ type: "text", text: part.arguments })
    else {
      calls = true
      content.push(part)
    }
  }
  const refusal = refusalOf(json["stop_details"])
  if (refusal !== undefined) content.push(refusal)
  const stopReason = json["stop_reason"]
  const stopSequence = filled(json["stop_sequence"])
  const usage = decodeUsage(json["usage"])
  const response: ChatResponse = {
    id: filled(json["id"]) ?? "",
    model: filled(json["model"]) ?? call.model.model,
    content,
    finishReason: finishReasonOf(stopReason, calls, answer !== undefined),
    ...(typeof stopReason === "string" ? { nativeFinishReason: stopReason } : {}),
    ...(stopSequence === undefined ? {} : { stopSequence }),
    ...(usage === undefined ? {} : { usage }),
    ...extensions(extrasOf(json))
  }
  // An answer that was unwrapped from its tool must not be handed on with the tool around it.
  return Result.succeed(answer === undefined ? sourcedResponse(response, { wire, text, json }) : response)
}

// ---------------------------------------------------------------------------------------------------------------------
// Dialect
// ---------------------------------------------------------------------------------------------------------------------

/** An answer's part as a block; nothing for what an Anthropic answer cannot hold. */
export const answerBlock = (part: Part): Json | undefined => {
  switch (part.type) {
    case "text":
      return extended(part, {
        type: "text",
        text: part.text,
        ...(part.citations === undefined ? {} : { citations: part.citations })
      })
    case "tool_call":
      return extended(part, { type: "tool_use", id: part.id, name: part.name, input: argumentsObject(part.arguments) })
    case "reasoning":
      return reasoningBlock(part)
    case "opaque":
      return part.wire === wire ? part.value : undefined
    case "audio":
      // Anthropic's answers hold no sound; what was said in it they can tell.
      return part.transcript === undefined ? undefined : { type: "text", text: part.transcript }
    default:
      return undefined
  }
}

const reasoningBlock = (part: Part & { readonly type: "reasoning" }): Json | undefined => {
  const ours = part.wire === undefined || part.wire === wire
  const own = part.extensions?.[wire]
  if (ours && part.data !== undefined) return { ...own, type: "redacted_thinking", data: part.data }
  if (part.text === undefined && !(ours && part.signature !== undefined)) return undefined
  // Another wire's signature means nothing to an Anthropic client, and must not come back as Anthropic's.
  return { ...own, type: "thinking", thinking: part.text ?? "", signature: ours ? part.signature ?? "" : "" }
}

/** Writes a whole answer: the original where there is one that nobody changed, else built from its parts. */
export const encodeResponse = (response: ChatResponse, _request: ChatRequest): Json => {
  const source = sourceOf(response, wire)
  if (source !== undefined && isJson(source.json)) return source.json
  const content: Array<Json> = []
  let refusal = ""
  for (const part of response.content) {
    if (part.type === "refusal") refusal += part.text
    const block = answerBlock(part)
    if (block !== undefined) content.push(block)
  }
  const own: Json = response.extensions?.[wire] ?? {}
  const calls = response.content.some((part) => part.type === "tool_call")
  const details = stopDetails(refusal, own["stop_details"])
  const finish = refusal !== "" && response.finishReason === "stop" ? "content_filter" : response.finishReason
  return {
    ...own,
    id: response.id,
    type: "message",
    role: "assistant",
    model: response.model,
    content,
    stop_reason: stopReasonOf(finish, response.nativeFinishReason, response.stopSequence, calls),
    stop_sequence: response.stopSequence ?? null,
    ...(details === undefined ? {} : { stop_details: details }),
    usage: encodeUsage(response.usage, own["usage"])
  }
}
