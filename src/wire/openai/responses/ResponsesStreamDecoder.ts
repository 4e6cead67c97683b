/**
 * Reads a streamed answer of a Responses API (https://platform.openai.com/docs/api-reference/responses-streaming). Parts
 * get their position when they first say something. Text, refusals, thinking and a call's arguments come in deltas; a
 * server that sends none is believed by the event that repeats the whole. Everything else counts when its item is done.
 *
 * The stream is complete with `response.completed` or `response.incomplete`, and with nothing less.
 */
import { Result } from "effect"
import type { ChatChunk, PartDelta } from "../../../sdk/Chat.ts"
import type { Part } from "../../../sdk/Content.ts"
import type { ChatCall, Failure } from "../../../sdk/Provider.ts"
import { sourcedChunk } from "../../../sdk/Wire.ts"
import { shown } from "../../Classify.ts"
import type { ChatStreamDecoder, Json } from "../../Codec.ts"
import { array, count, type Draft, filled, finite, isJson, object, parseJson, string } from "../../Json.ts"
import { errorWithin, inbandFailure, protocolFailure } from "../OpenAiError.ts"
import { extended as chatExtended } from "../OpenAiExtensions.ts"
import { readCitations } from "./ResponsesCitations.ts"
import { failureWithin } from "./ResponsesDecodeResponse.ts"
import { wire } from "./ResponsesExtensions.ts"
import { decodeEnd, decodeItem, decodeUsage, isCallersTurn } from "./ResponsesItems.ts"

/** An item that is under way. */
interface OpenItem {
  /** The position of its thinking, or of its call; a message has one for each of its parts. */
  index: number | undefined
  /** Which of a thinking item's two texts was told first, and the part of it that was told last. */
  thought: "content" | "summary" | undefined
  thoughtPart: number
  /** Whether deltas have told anything of it. */
  told: boolean
}

/** A decoder for one streamed answer. */
export const streamDecoder = (call: ChatCall): ChatStreamDecoder => {
  /** Items by their place in the output, and the positions of messages' parts by the item's place and their own. */
  const items = new Map<number, OpenItem>()
  const parts = new Map<string, number>()
  let next = 0
  let calls = false
  let done = false
  let failed: Failure | undefined
  let id = ""
  let { model } = call.model
  let created: number | undefined

  const chunkOf = (delta: ReadonlyArray<PartDelta>): Draft<ChatChunk> => {
    const chunk: Draft<ChatChunk> = { id, model, delta }
    if (created !== undefined) chunk.created = created
    return chunk
  }

  const fail = (failure: Failure) => {
    failed = failure
    return Result.fail(failure)
  }

  const itemOf = (json: Json): OpenItem => {
    const place = count(json["output_index"]) ?? 0
    let item = items.get(place)
    if (item === undefined) {
      item = { index: undefined, thought: undefined, thoughtPart: 0, told: false }
      items.set(place, item)
    }
    return item
  }

  const partOf = (json: Json, item: OpenItem, kind: string): number => {
    item.told = true
    const key = `${kind}:${count(json["output_index"]) ?? 0}:${count(json["content_index"]) ?? 0}`
    let index = parts.get(key)
    if (index === undefined) {
      index = next++
      parts.set(key, index)
    }
    return index
  }

  // ---- deltas

  const readText = (json: Json, text: string | undefined): ReadonlyArray<PartDelta> => {
    if (text === undefined || text === "") return []
    return [{ type: "text", index: partOf(json, itemOf(json), "text"), text }]
  }

  const readAnnotation = (json: Json): ReadonlyArray<PartDelta> => {
    const citations = readCitations({ annotations: [json["annotation"]] })
    return [{ type: "text", index: partOf(json, itemOf(json), "text"), text: "", citations }]
  }

  const readThought = (json: Json, kind: "content" | "summary"): ReadonlyArray<PartDelta> => {
    const text = filled(json["delta"])
    const item = itemOf(json)
    if (text === undefined || (item.thought !== undefined && item.thought !== kind)) return []
    const part = count(json[`${kind}_index`]) ?? 0
    const apart = item.thought !== undefined && kind === "summary" && part !== item.thoughtPart
    item.thought = kind
    item.thoughtPart = part
    item.told = true
    item.index ??= next++
    return [{ type: "reasoning", index: item.index, text: apart ? `\n\n${text}` : text, wire }]
  }

  const readAdded = (json: Json): ReadonlyArray<PartDelta> => {
    const added = object(json["item"])
    if (added?.["type"] !== "function_call") return []
    const item = itemOf(json)
    const name = filled(added["name"])
    if (name === undefined) return []
    calls = true
    item.index ??= next++
    const delta: Draft<Extract<PartDelta, { type: "tool_call" }>> = {
      type: "tool_call",
      index: item.index,
      id: filled(added["call_id"]) ?? filled(added["id"]) ?? `call_${item.index}`,
      name
    }
    const text = filled(added["arguments"])
    if (text !== undefined) {
      delta.arguments = text
      item.told = true
    }
    return [delta]
  }

  const readArguments = (json: Json): ReadonlyArray<PartDelta> => {
    const item = itemOf(json)
    const text = filled(json["delta"])
    if (text === undefined || item.index === undefined) return []
    item.told = true
    return [{ type: "tool_call", index: item.index, arguments: text }]
  }

  /** What the item says that no delta has told. */
  const readDone = (json: Json): ReadonlyArray<PartDelta> => {
    const whole = object(json["item"])
    if (whole === undefined) return []
    const item = itemOf(json)
    if (isCallersTurn(whole)) calls = true
    switch (whole["type"]) {
      case "message":
        if (item.told) return []
        break
      case "function_call": {
        const text = filled(whole["arguments"])
        if (item.index === undefined) break
        return item.told || text === undefined ? [] : [{ type: "tool_call", index: item.index, arguments: text }]
      }
      case "reasoning": {
        const data = filled(whole["encrypted_content"])
        if (!item.told) break
        return data === undefined || item.index === undefined
          ? []
          : [{ type: "reasoning", index: item.index, data, wire }]
      }
      default:
    }
    return decodeItem(whole).map(wholeDelta)
  }

  const wholeDelta = (part: Part): PartDelta => {
    const index = next++
    if (part.type !== "reasoning") return { type: "part", index, part }
    const { extensions: _, ...rest } = part
    return { ...rest, index }
  }

  // ---- events

  const head = (json: Json): void => {
    const response = object(json["response"])
    id = filled(response?.["id"]) ?? id
    model = filled(response?.["model"]) ?? model
    created = finite(response?.["created_at"]) ?? created
  }

  const read = (type: string, json: Json): Result.Result<Draft<ChatChunk>, Failure> => {
    switch (type) {
      case "response.output_text.delta": {
        const chunk = chunkOf(readText(json, string(json["delta"])))
        const logprobs = array(json["logprobs"])
        if (logprobs.length > 0) {
          Object.assign(chunk, chatExtended({ choice: { logprobs: { content: logprobs } } }))
        }
        return Result.succeed(chunk)
      }
      case "response.function_call_arguments.delta":
        return Result.succeed(chunkOf(readArguments(json)))
      case "response.reasoning_summary_text.delta":
        return Result.succeed(chunkOf(readThought(json, "summary")))
      case "response.reasoning_text.delta":
        return Result.succeed(chunkOf(readThought(json, "content")))
      case "response.refusal.delta": {
        const text = filled(json["delta"])
        return Result.succeed(
          chunkOf(text === undefined ? [] : [{ type: "refusal", index: partOf(json, itemOf(json), "refusal"), text }])
        )
      }
      case "response.output_text.annotation.added":
        return Result.succeed(chunkOf(readAnnotation(json)))
      case "response.output_item.added":
        return Result.succeed(chunkOf(readAdded(json)))
      case "response.output_item.done":
        return Result.succeed(chunkOf(readDone(json)))
      case "response.completed":
      case "response.incomplete": {
        head(json)
        const response = object(json["response"]) ?? {}
        const failure = failureWithin(response)
        if (failure !== undefined) return fail(failure)
        done = true
        const chunk = chunkOf([])
        const [reason, native] = decodeEnd(response, calls)
        chunk.finishReason = reason
        chunk.nativeFinishReason = native
        const usage = decodeUsage(response["usage"])
        if (usage !== undefined) chunk.usage = usage
        return Result.succeed(chunk)
      }
      case "response.failed": {
        const response = object(json["response"])
        return fail((response === undefined ? undefined : failureWithin(response)) ?? inbandFailure(undefined))
      }
      case "error":
        return fail(inbandFailure(errorWithin(json) ?? json))
      default:
        head(json)
        return Result.succeed(chunkOf([]))
    }
  }

  return {
    push: (data, event) => {
      if (failed !== undefined) return Result.fail(failed)
      // Some compatible servers close with chat's marker.
      if (done || data.trim() === "[DONE]") return Result.succeed([])
      const parsed = parseJson(data)
      if (!isJson(parsed)) {
        return fail(
          event === "error"
            ? inbandFailure(shown(data))
            : protocolFailure("the provider sent a stream event that is not a JSON object")
        )
      }
      const type = filled(parsed["type"]) ?? (event === "message" ? "" : event)
      if (type === "" && errorWithin(parsed) !== undefined) return fail(inbandFailure(errorWithin(parsed)))
      return Result.map(
        read(type, parsed),
        (chunk) => [sourcedChunk(chunk, { wire, text: data, json: parsed, repeated: true })]
      )
    },
    isDone: () => done,
    end: () => {
      if (failed !== undefined) return Result.fail(failed)
      return done
        ? Result.succeed([])
        : fail(protocolFailure("the provider's stream ended without response.completed"))
    }
  }
}
