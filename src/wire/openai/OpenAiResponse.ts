/**
 * Whole chat answers of the OpenAI wire, both ways. A response that came from this wire and was not changed on its way is
 * written as it came; any other is built from its parts.
 *
 * Fields without a word in the sdk stand in `extensions.openai`: the body's own at the top, those of the choice under
 * `choice`, those of its message under `message`.
 */
import { Result } from "effect"
import type { Alternative, ChatRequest, ChatResponse, FinishReason } from "../../sdk/Chat.ts"
import type { AudioPart, ImagePart, OpaquePart, Part, TextPart, ToolCallPart } from "../../sdk/Content.ts"
import type { ChatCall, Failure } from "../../sdk/Provider.ts"
import { sourcedResponse, sourceOf } from "../../sdk/Wire.ts"
import type { Json } from "../Codec.ts"
import { errorWithin, inbandFailure, protocolFailure } from "./OpenAiError.ts"
import { array, type Draft, filled, finite, isJson, object, string, unknownFields } from "../Json.ts"
import { extended, merge, ownExtensions, unknownWithin, wire } from "./OpenAiExtensions.ts"
import { audioMediaType, dataUrl, isDataUrl, parseDataUrl } from "./OpenAiMedia.ts"
import { decodeReasoning, encodeReasoning, reasoningFields } from "./OpenAiReasoning.ts"
import { decodeUsage, encodeUsage } from "./OpenAiUsage.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Finish reasons
// ---------------------------------------------------------------------------------------------------------------------

const finishReasons: ReadonlyMap<string, FinishReason> = new Map([
  ["stop", "stop"],
  ["length", "length"],
  ["tool_calls", "tool_calls"],
  ["content_filter", "content_filter"],
  ["function_call", "tool_calls"],
  // Compatible servers' own words.
  ["eos", "stop"],
  ["end_turn", "stop"],
  ["stop_sequence", "stop"],
  ["max_tokens", "length"],
  ["model_length", "length"],
  ["tool_use", "tool_calls"],
  ["safety", "content_filter"]
])

/** The sdk's word for a finish reason. Some servers say `stop` after tool calls: the calls are to be believed. */
export const finishReasonOf = (native: string, calls: boolean): FinishReason => {
  const reason = finishReasons.get(native.toLowerCase()) ?? "other"
  return reason === "stop" && calls ? "tool_calls" : reason
}

/** OpenAI's word for a finish reason; it has none for `other`. */
export const nativeReasonOf = (reason: FinishReason): string => reason === "other" ? "stop" : reason

/** `native_finish_reason`, where the provider's own word says more than OpenAI's. */
export const nativeField = (choice: Pick<Alternative, "finishReason" | "nativeFinishReason">): Json =>
  choice.nativeFinishReason === undefined || choice.nativeFinishReason === nativeReasonOf(choice.finishReason)
    ? {}
    : { native_finish_reason: choice.nativeFinishReason }

// ---------------------------------------------------------------------------------------------------------------------
// Parts of an answer
// ---------------------------------------------------------------------------------------------------------------------

/** The media type of audio in the answer to a request: the caller chose the format (`audio.format`). */
export const spokenMediaType = (request: Pick<ChatRequest, "extensions">): string =>
  audioMediaType(filled(object(request.extensions?.[wire]?.["audio"])?.["format"]) ?? "wav")

/** An image that a model made, as OpenRouter answers it; `undefined` for anything else. */
export const decodeImage = (value: unknown): ImagePart | undefined => {
  const url = filled(object(object(value)?.["image_url"])?.["url"])
  if (url === undefined) return undefined
  if (!isDataUrl(url)) return { type: "image", source: { type: "url", url } }
  const parsed = parseDataUrl(url)
  return typeof parsed === "string" ? undefined : { type: "image", source: { type: "base64", ...parsed } }
}

/** An image in an answer; one that only the gateway or another provider could fetch has no address to give. */
export const encodeImage = (part: ImagePart, index: number): Json | undefined => {
  const { source } = part
  if (source.type === "url") return { type: "image_url", image_url: { url: source.url }, index }
  if (source.type !== "base64") return undefined
  return { type: "image_url", image_url: { url: dataUrl(source.mediaType, source.data) }, index }
}

/** Citations in an answer: OpenAI's own as `annotations`, other providers' as they are, under `citations`. */
export const encodeCitations = (citations: ReadonlyArray<unknown>): Json => {
  const own = citations.filter((citation) => isJson(citation) && citation["type"] === "url_citation")
  const foreign = citations.filter((citation) => !isJson(citation) || citation["type"] !== "url_citation")
  return {
    ...(own.length === 0 ? {} : { annotations: own }),
    ...(foreign.length === 0 ? {} : { citations: foreign })
  }
}

/** Ids that a server left out are made from the answer's own, so that they differ from turn to turn. */
export const madeCallId = (responseId: string, choice: number, call: number): string =>
  `call_${responseId.replaceAll(/[^\w-]/g, "").slice(-40)}_${choice}_${call}`

/** Some servers send the arguments as an object. */
export const argumentsText = (value: unknown): string | undefined =>
  typeof value === "string" ? value : isJson(value) ? JSON.stringify(value) : undefined

// ---------------------------------------------------------------------------------------------------------------------
// Decoding
// ---------------------------------------------------------------------------------------------------------------------

const responseKeys: ReadonlySet<string> = new Set(["id", "object", "created", "model", "choices", "usage"])
const choiceKeys: ReadonlySet<string> = new Set([
  "index",
  "message",
  "finish_reason",
  "native_finish_reason",
  "stop_reason"
])
const messageKeys: ReadonlySet<string> = new Set([
  "role",
  "content",
  "refusal",
  "tool_calls",
  "audio",
  "images",
  "annotations",
  ...reasoningFields
])
const callKeys: ReadonlySet<string> = new Set(["id", "type", "function", "index"])
const callInside: ReadonlySet<string> = new Set(["name", "arguments"])

const decodeText = (message: Json): Array<Part> => {
  const content = message["content"]
  const parts: Array<Part> = []
  if (typeof content === "string") {
    if (content !== "") parts.push({ type: "text", text: content })
  } else {
    // Mistral answers with a list of parts once it thinks.
    for (const item of array(content)) {
      if (!isJson(item)) continue
      const text = string(item["text"])
      if (item["type"] === "text" && text !== undefined) parts.push({ type: "text", text })
      else if (item["type"] === "thinking") {
        const thought = typeof item["thinking"] === "string"
          ? item["thinking"]
          : array(item["thinking"]).map((piece) => string(object(piece)?.["text"]) ?? "").join("")
        parts.push({ type: "reasoning", text: thought, wire })
      } else parts.push({ type: "opaque", wire, value: item })
    }
  }
  const citations = array(message["annotations"])
  const cited = parts.findLastIndex((part) => part.type === "text")
  const text = parts[cited]
  if (citations.length > 0 && text?.type === "text") parts[cited] = { ...text, citations }
  return parts
}

const decodeAudio = (value: unknown, mediaType: string): AudioPart | undefined => {
  const audio = object(value)
  const data = string(audio?.["data"])
  if (audio === undefined || data === undefined) return undefined
  const part: Draft<AudioPart> = { type: "audio", source: { type: "base64", mediaType, data } }
  const id = filled(audio["id"])
  if (id !== undefined) part.id = id
  const transcript = string(audio["transcript"])
  if (transcript !== undefined) part.transcript = transcript
  const expiresAt = finite(audio["expires_at"])
  if (expiresAt !== undefined) part.expiresAt = expiresAt
  return part
}

const decodeToolCall = (call: Json, madeId: string): ToolCallPart | OpaquePart | undefined => {
  if (call["type"] === "custom") return { type: "opaque", wire, value: call }
  const named = object(call["function"])
  const name = filled(named?.["name"])
  if (named === undefined || name === undefined) return undefined
  return {
    type: "tool_call",
    id: filled(call["id"]) ?? madeId,
    name,
    arguments: argumentsText(named["arguments"]) ?? "",
    ...extended(unknownWithin(call, callKeys, "function", callInside))
  }
}

const decodeChoice = (choice: Json, index: number, responseId: string, call: ChatCall): Draft<Alternative> => {
  // Azure leaves the message out where its filter took the answer.
  const message = object(choice["message"]) ?? {}
  const content: Array<Part> = [...decodeReasoning(message), ...decodeText(message)]
  const refusal = filled(message["refusal"])
  if (refusal !== undefined) content.push({ type: "refusal", text: refusal })
  const audio = decodeAudio(message["audio"], spokenMediaType(call.request))
  if (audio !== undefined) content.push(audio)
  for (const value of array(message["images"])) {
    const image = decodeImage(value)
    if (image !== undefined) content.push(image)
  }
  const calls = array(message["tool_calls"]).filter(isJson)
  for (const [position, value] of calls.entries()) {
    const part = decodeToolCall(value, madeCallId(responseId, index, position))
    if (part !== undefined) content.push(part)
  }
  const reason = filled(choice["finish_reason"])
  const decoded: Draft<Alternative> = {
    content,
    finishReason: reason === undefined
      ? (calls.length > 0 ? "tool_calls" : "other")
      : finishReasonOf(reason, calls.length > 0)
  }
  const native = filled(choice["native_finish_reason"]) ?? reason
  if (native !== undefined) decoded.nativeFinishReason = native
  // vLLM tells which stop sequence it met.
  const stopSequence = filled(choice["stop_reason"])
  if (stopSequence !== undefined) decoded.stopSequence = stopSequence
  const ofChoice = unknownFields(choice, choiceKeys)
  const ofMessage = unknownFields(message, messageKeys)
  if (ofChoice !== undefined || ofMessage !== undefined) {
    decoded.extensions = {
      [wire]: {
        ...(ofChoice === undefined ? {} : { choice: ofChoice }),
        ...(ofMessage === undefined ? {} : { message: ofMessage })
      }
    }
  }
  return decoded
}

const byIndex = (a: Json, b: Json): number => (finite(a["index"]) ?? 0) - (finite(b["index"]) ?? 0)

/** Puts `tool_calls` where a server said `stop` after tool calls, so that the original can be handed on. */
const believed = (body: Json, choices: ReadonlyArray<Json>): Json | undefined => {
  const wrong = (choice: Json): boolean =>
    choice["finish_reason"] === "stop" && array(object(choice["message"])?.["tool_calls"]).length > 0
  if (!choices.some(wrong)) return undefined
  return {
    ...body,
    choices: choices.map((choice) => wrong(choice) ? { ...choice, finish_reason: "tool_calls" } : choice)
  }
}

/**
 * Reads a whole answer. An error inside it (the body's, or a choice's) is a failure like any other; a body that is not a
 * chat completion is one of the protocol.
 */
export const decodeResponse = (
  bodyText: string,
  json: unknown,
  call: ChatCall
): Result.Result<ChatResponse, Failure> => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's answer is not a JSON object"))
  const error = errorWithin(json)
  if (error !== undefined) return Result.fail(inbandFailure(error))
  if (!Array.isArray(json["choices"])) return Result.fail(protocolFailure("the provider's answer holds no choices"))
  const choices = json["choices"].filter(isJson).toSorted(byIndex)
  for (const choice of choices) {
    const inside = errorWithin(choice)
    if (inside !== undefined) return Result.fail(inbandFailure(inside))
    if (choice["finish_reason"] === "error") return Result.fail(inbandFailure(undefined))
  }
  const id = string(json["id"]) ?? ""
  const [first, ...others] = choices.map((choice, index) => decodeChoice(choice, index, id, call))
  if (first === undefined) return Result.fail(protocolFailure("the provider's answer holds no choice"))
  const response: Draft<ChatResponse> = { id, model: filled(json["model"]) ?? call.model.model, ...first }
  const created = finite(json["created"])
  if (created !== undefined) response.created = created
  if (others.length > 0) response.alternatives = others
  const usage = decodeUsage(json["usage"]) ?? decodeUsage(choices[0]?.["usage"])
  if (usage !== undefined) response.usage = usage
  const ofBody = unknownFields(json, responseKeys)
  if (ofBody !== undefined) response.extensions = { [wire]: { ...ofBody, ...first.extensions?.[wire] } }
  const corrected = believed(json, choices)
  return Result.succeed(
    sourcedResponse(
      response,
      corrected === undefined
        ? { wire, text: bodyText, json }
        : { wire, text: JSON.stringify(corrected), json: corrected }
    )
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Encoding
// ---------------------------------------------------------------------------------------------------------------------

const encodeMessage = (content: ReadonlyArray<Part>, extra: Json | undefined): Json => {
  const message: Record<string, unknown> = { role: "assistant", content: null, refusal: null }
  const calls: Array<Json> = []
  const images: Array<Json> = []
  const citations: Array<unknown> = []
  let text: string | undefined
  let refusal: string | undefined
  const addText = (part: TextPart) => {
    text = (text ?? "") + part.text
    if (part.citations !== undefined) citations.push(...part.citations)
  }
  for (const part of content) {
    switch (part.type) {
      case "text":
        addText(part)
        break
      case "refusal":
        refusal = (refusal ?? "") + part.text
        break
      case "tool_call":
        calls.push(
          merge(
            {
              id: part.id,
              type: "function",
              function: { name: part.name, arguments: part.arguments === "" ? "{}" : part.arguments }
            },
            ownExtensions(part)
          )
        )
        break
      case "image": {
        const image = encodeImage(part, images.length)
        if (image !== undefined) images.push(image)
        break
      }
      case "audio":
        if (part.source.type === "base64") {
          message["audio"] = {
            id: part.id ?? "",
            data: part.source.data,
            expires_at: part.expiresAt ?? 0,
            transcript: part.transcript ?? ""
          }
        }
        break
      case "opaque":
        if (part.wire === wire && part.value["type"] === "custom") calls.push(part.value)
        break
      default:
    }
  }
  if (text !== undefined) message["content"] = text
  // A silent answer is "" and not null: null tells SDK users that something else stands in its place.
  else if (calls.length === 0 && refusal === undefined && message["audio"] === undefined) message["content"] = ""
  if (refusal !== undefined) message["refusal"] = refusal
  Object.assign(message, encodeReasoning(content), encodeCitations(citations))
  if (images.length > 0) message["images"] = images
  if (calls.length > 0) message["tool_calls"] = calls
  return merge(message, extra)
}

const encodeChoice = (choice: Alternative, index: number): Json => {
  const extensions = ownExtensions(choice)
  return merge({
    index,
    message: encodeMessage(choice.content, object(extensions?.["message"])),
    finish_reason: nativeReasonOf(choice.finishReason),
    ...nativeField(choice)
  }, { logprobs: null, ...object(extensions?.["choice"]) })
}

const notOfBody: ReadonlySet<string> = new Set(["choice", "message"])

/**
 * Writes a whole answer: the original where there is one, otherwise built anew. `now` is Unix seconds, for answers of
 * providers that tell no time.
 */
export const encodeResponse = (response: ChatResponse, now: number): Json => {
  const source = sourceOf(response, wire)
  if (source !== undefined && isJson(source.json)) return source.json
  const choices = [response, ...(response.alternatives ?? [])].map(encodeChoice)
  return merge(
    {
      id: response.id,
      object: "chat.completion",
      created: response.created ?? now,
      model: response.model,
      choices,
      ...(response.usage === undefined ? {} : { usage: encodeUsage(response.usage) })
    },
    ownExtensions(response),
    notOfBody
  )
}
