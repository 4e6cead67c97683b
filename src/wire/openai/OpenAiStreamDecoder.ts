/**
 * Reads a streamed chat answer. Runs for every chunk of every stream, so it is `JSON.parse` and guarded reads and nothing
 * else. Parts get their position when they begin: text, reasoning and refusals as runs (text after a tool call is a new
 * part), a tool call for as long as its `index` is spoken of.
 *
 * The stream is complete with `[DONE]` and with nothing less. A finish reason is not enough: usage comes after it, and an
 * error may come in its place; servers that leave `[DONE]` out cannot be told apart from connections that broke.
 */
import { Result } from "effect"
import type { ChatChunk, PartDelta } from "../../sdk/Chat.ts"
import type { ChatCall, Failure } from "../../sdk/Provider.ts"
import { sourcedChunk } from "../../sdk/Wire.ts"
import { shown } from "../Classify.ts"
import type { ChatStreamDecoder, Json } from "../Codec.ts"
import { errorWithin, inbandFailure, protocolFailure } from "./OpenAiError.ts"
import { array, count, type Draft, filled, finite, isJson, object, string } from "../Json.ts"
import { wire } from "./OpenAiExtensions.ts"
import { detailWire } from "./OpenAiReasoning.ts"
import { argumentsText, decodeImage, finishReasonOf, madeCallId, spokenMediaType } from "./OpenAiResponse.ts"
import { decodeUsage } from "./OpenAiUsage.ts"

type ReasoningDelta = Draft<Extract<PartDelta, { type: "reasoning" }>>
type ToolCallDelta = Draft<Extract<PartDelta, { type: "tool_call" }>>
type AudioDelta = Draft<Extract<PartDelta, { type: "audio" }>>

/** A tool call that is under way. */
interface OpenCall {
  readonly index: number
  id: string
  /** Empty until the server has told it; deltas wait for it. */
  name: string
  /** Argument text that came before the name. */
  waiting: string
}

/** One choice of the answer. */
interface Choice {
  readonly number: number
  /** The position that the next part gets. */
  next: number
  /** The run that is open, and its position. */
  open: "text" | "reasoning" | "refusal" | "audio" | undefined
  at: number
  /** What the open run of reasoning holds so far. */
  thought: string
  /** Tool calls by the server's own index, which some servers omit and some repeat. */
  readonly calls: Map<number, OpenCall>
  last: OpenCall | undefined
  called: number
}

const newChoice = (number: number): Choice => ({
  number,
  next: 0,
  open: undefined,
  at: 0,
  thought: "",
  calls: new Map(),
  last: undefined,
  called: 0
})

/** The position of a run: the open one, or a new part. */
const run = (choice: Choice, kind: NonNullable<Choice["open"]>): number => {
  if (choice.open !== kind) {
    choice.open = kind
    choice.at = choice.next++
    choice.thought = ""
  }
  return choice.at
}

/** The position of a part that comes whole. */
const whole = (choice: Choice): number => {
  choice.open = undefined
  return choice.next++
}

// ---------------------------------------------------------------------------------------------------------------------
// Reasoning
// ---------------------------------------------------------------------------------------------------------------------

const thought = (choice: Choice, text: string, deltas: Array<PartDelta>): void => {
  const index = run(choice, "reasoning")
  choice.thought += text
  deltas.push({ type: "reasoning", index, text, wire })
}

/**
 * A piece of thinking with a signature. Some servers repeat the whole text beside the signature, which closes the part.
 */
const signed = (
  choice: Choice,
  text: string,
  signature: string | undefined,
  reader: string,
  deltas: Array<PartDelta>
) => {
  const index = run(choice, "reasoning")
  const fresh = text === choice.thought ? "" : text
  choice.thought += fresh
  const delta: ReasoningDelta = { type: "reasoning", index }
  if (fresh !== "") delta.text = fresh
  if (signature !== undefined) {
    delta.signature = signature
    choice.open = undefined
  }
  delta.wire = signature === undefined ? wire : reader
  if (fresh !== "" || signature !== undefined) deltas.push(delta)
}

const readReasoning = (choice: Choice, delta: Json, deltas: Array<PartDelta>): void => {
  const details = delta["reasoning_details"]
  const blocks = delta["thinking_blocks"]
  if (Array.isArray(blocks) && blocks.length > 0) {
    for (const block of blocks) {
      if (!isJson(block)) continue
      const data = filled(block["data"])
      if (data !== undefined) deltas.push({ type: "reasoning", index: whole(choice), data, wire: "anthropic" })
      else signed(choice, string(block["thinking"]) ?? "", filled(block["signature"]), "anthropic", deltas)
    }
    return
  }
  if (Array.isArray(details) && details.length > 0) {
    for (const detail of details) {
      if (!isJson(detail)) continue
      const data = filled(detail["data"])
      if (data !== undefined) deltas.push({ type: "reasoning", index: whole(choice), data, wire: detailWire(detail) })
      else {
        const text = string(detail["text"]) ?? string(detail["summary"]) ?? ""
        signed(choice, text, filled(detail["signature"]), detailWire(detail), deltas)
      }
    }
    return
  }
  const text = filled(delta["reasoning_content"]) ?? filled(delta["reasoning"])
  if (text !== undefined) thought(choice, text, deltas)
}

// ---------------------------------------------------------------------------------------------------------------------
// Tool calls
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The call that a delta belongs to. Servers without `index` tell calls apart by id; servers that put every call at index 0
 * send a new id with each.
 */
const callOf = (
  choice: Choice,
  told: number | undefined,
  id: string | undefined,
  named: boolean
): OpenCall | undefined => {
  let known: OpenCall | undefined
  if (told !== undefined) known = choice.calls.get(told)
  else if (id === undefined) known = named ? undefined : choice.last
  else for (const call of choice.calls.values()) if (call.id === id) known = call
  return known !== undefined && named && id !== undefined && known.name !== "" && known.id !== id ? undefined : known
}

const readToolCall = (choice: Choice, json: Json, answerId: string, deltas: Array<PartDelta>): void => {
  const custom = object(json["custom"])
  const called = object(json["function"]) ?? custom
  const told = finite(json["index"])
  const id = filled(json["id"])
  const name = filled(called?.["name"])
  const fragment = argumentsText(called?.["arguments"]) ?? string(custom?.["input"]) ?? ""
  let call = callOf(choice, told, id, name !== undefined)
  if (call === undefined) {
    call = {
      index: whole(choice),
      id: id ?? madeCallId(answerId, choice.number, choice.called),
      name: "",
      waiting: ""
    }
    choice.called++
    choice.calls.set(told ?? choice.calls.size, call)
  }
  choice.last = call
  if (call.name === "") {
    if (name === undefined) {
      if (id !== undefined) call.id = id
      call.waiting += fragment
      return
    }
    call.name = name
    const begun: ToolCallDelta = { type: "tool_call", index: call.index, id: id ?? call.id, name }
    const text = call.waiting + fragment
    call.id = begun.id ?? call.id
    call.waiting = ""
    if (text !== "") begun.arguments = text
    choice.open = undefined
    deltas.push(begun)
  } else if (fragment !== "") {
    choice.open = undefined
    deltas.push({ type: "tool_call", index: call.index, arguments: fragment })
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Chunks
// ---------------------------------------------------------------------------------------------------------------------

const readAudio = (choice: Choice, audio: Json, mediaType: string): AudioDelta => {
  const delta: AudioDelta = { type: "audio", index: run(choice, "audio"), mediaType }
  const id = filled(audio["id"])
  if (id !== undefined) delta.id = id
  const data = string(audio["data"])
  if (data !== undefined) delta.data = data
  const transcript = string(audio["transcript"])
  if (transcript !== undefined) delta.transcript = transcript
  const expiresAt = finite(audio["expires_at"])
  if (expiresAt !== undefined) delta.expiresAt = expiresAt
  return delta
}

const readDelta = (choice: Choice, delta: Json, answerId: string, mediaType: string): Array<PartDelta> => {
  const deltas: Array<PartDelta> = []
  readReasoning(choice, delta, deltas)
  const content = delta["content"]
  if (typeof content === "string") {
    if (content !== "") deltas.push({ type: "text", index: run(choice, "text"), text: content })
  } else if (Array.isArray(content)) {
    // Mistral streams parts once it thinks.
    for (const item of content) {
      if (!isJson(item)) continue
      const text = filled(item["text"])
      if (text !== undefined) deltas.push({ type: "text", index: run(choice, "text"), text })
      for (const piece of array(item["thinking"])) {
        const words = filled(object(piece)?.["text"])
        if (words !== undefined) thought(choice, words, deltas)
      }
    }
  }
  const annotations = delta["annotations"]
  if (Array.isArray(annotations) && annotations.length > 0) {
    deltas.push({ type: "text", index: run(choice, "text"), text: "", citations: annotations })
  }
  const refusal = filled(delta["refusal"])
  if (refusal !== undefined) deltas.push({ type: "refusal", index: run(choice, "refusal"), text: refusal })
  const audio = delta["audio"]
  if (isJson(audio)) deltas.push(readAudio(choice, audio, mediaType))
  const images = delta["images"]
  if (Array.isArray(images)) {
    for (const value of images) {
      const part = decodeImage(value)
      if (part !== undefined) deltas.push({ type: "part", index: whole(choice), part })
    }
  }
  const calls = delta["tool_calls"]
  if (Array.isArray(calls)) { for (const call of calls) if (isJson(call)) readToolCall(choice, call, answerId, deltas) }
  return deltas
}

/** Puts `tool_calls` where a server says `stop` after tool calls, so that the event can be handed on. */
const believed = (json: Json, choices: ReadonlyMap<number, Choice>): Json => {
  const corrected: Array<unknown> = []
  for (const value of array(json["choices"])) {
    const wrong = isJson(value) && value["finish_reason"] === "stop" &&
      (choices.get(count(value["index"]) ?? 0)?.called ?? 0) > 0
    corrected.push(wrong ? { ...value, finish_reason: "tool_calls" } : value)
  }
  return { ...json, choices: corrected }
}

const parse = (data: string): Json | undefined => {
  try {
    return object(JSON.parse(data))
  } catch {
    return undefined
  }
}

/** A decoder for one streamed answer. */
export const streamDecoder = (call: ChatCall): ChatStreamDecoder => {
  const choices = new Map<number, Choice>()
  const mediaType = spokenMediaType(call.request)
  let done = false
  let failed: Failure | undefined
  let id = ""
  let model = ""
  let created: number | undefined

  const chunkOf = (choice: number, delta: ReadonlyArray<PartDelta>): Draft<ChatChunk> => {
    const chunk: Draft<ChatChunk> = { id, model, delta }
    if (created !== undefined) chunk.created = created
    if (choice !== 0) chunk.choice = choice
    return chunk
  }

  const fail = (failure: Failure) => {
    failed = failure
    return Result.fail(failure)
  }

  const read = (json: Json, data: string): Result.Result<ReadonlyArray<ChatChunk>, Failure> => {
    const error = errorWithin(json)
    if (error !== undefined) return fail(inbandFailure(error))
    // Azure's first chunk has an empty id and model.
    id = filled(json["id"]) ?? id
    model = filled(json["model"]) ?? model
    const time = finite(json["created"])
    if (time !== undefined && time > 0) created = time
    const chunks: Array<Draft<ChatChunk>> = []
    let corrected = false
    let usage = decodeUsage(json["usage"])
    for (const value of array(json["choices"])) {
      if (!isJson(value)) continue
      const inside = errorWithin(value)
      if (inside !== undefined) return fail(inbandFailure(inside))
      const number = count(value["index"]) ?? 0
      let choice = choices.get(number)
      if (choice === undefined) {
        choice = newChoice(number)
        choices.set(number, choice)
      }
      const delta = object(value["delta"])
      const chunk = chunkOf(number, delta === undefined ? [] : readDelta(choice, delta, id, mediaType))
      const reason = filled(value["finish_reason"])
      if (reason !== undefined) {
        if (reason === "error") return fail(inbandFailure(undefined))
        chunk.finishReason = finishReasonOf(reason, choice.called > 0)
        chunk.nativeFinishReason = filled(value["native_finish_reason"]) ?? reason
        const stopSequence = filled(value["stop_reason"])
        if (stopSequence !== undefined) chunk.stopSequence = stopSequence
        corrected ||= reason === "stop" && chunk.finishReason === "tool_calls"
      }
      if (isJson(value["logprobs"])) chunk.extensions = { [wire]: { choice: { logprobs: value["logprobs"] } } }
      // Moonshot streams usage inside the choice.
      usage ??= decodeUsage(value["usage"])
      chunks.push(chunk)
    }
    if (chunks.length === 0) chunks.push(chunkOf(0, []))
    const last = chunks[chunks.length - 1]
    if (usage !== undefined && last !== undefined) last.usage = usage
    const original = corrected ? believed(json, choices) : json
    // One source for all choices of an event: the encoder writes it once.
    const source = { wire, text: corrected ? JSON.stringify(original) : data, json: original }
    return Result.succeed(chunks.map((chunk) => sourcedChunk(chunk, source)))
  }

  return {
    push: (data, event) => {
      if (failed !== undefined) return Result.fail(failed)
      if (done) return Result.succeed([])
      if (data.trim() === "[DONE]") {
        done = true
        return Result.succeed([])
      }
      const json = parse(data)
      if (event === "error") {
        return fail(inbandFailure(json === undefined ? shown(data) : errorWithin(json) ?? json))
      }
      return json === undefined
        ? fail(protocolFailure("the provider sent a stream event that is not a JSON object"))
        : read(json, data)
    },
    isDone: () => done,
    end: () => {
      if (failed !== undefined) return Result.fail(failed)
      return done ? Result.succeed([]) : fail(protocolFailure("the provider's stream ended without [DONE]"))
    }
  }
}
