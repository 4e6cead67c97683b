/**
 * An upstream's stream of Messages events read as chunks. Every event but `ping` gives a chunk, if only one without
 * content, so that a dialect of the same wire can hand the events on as they came. Unknown events and unknown deltas are
 * passed over, as Anthropic asks of its clients; an `error` event, malformed JSON, or an end without `message_stop` fails.
 */
import { Result } from "effect"
import type { ChatChunk, PartDelta } from "../../sdk/Chat.ts"
import type { ChatCall, Failure } from "../../sdk/Provider.ts"
import { sourcedChunk } from "../../sdk/Wire.ts"
import type { ChatStreamDecoder, Json } from "../Codec.ts"
import { brokenProtocol, failureOf } from "./AnthropicError.ts"
import { finishReasonOf, refusalOf } from "./AnthropicResponse.ts"
import { usageExtras, usageReader } from "./AnthropicUsage.ts"
import { extensions, wire } from "./AnthropicExtensions.ts"
import { filled, isJson, isList, parseJson } from "../Json.ts"
import { answerTool } from "./StructuredOutput.ts"

/** What is known of a block that has started. */
interface Block {
  readonly kind: "text" | "thinking" | "tool" | "answer" | "other"
  /** The part's place in the answer, given with its first content, so that places are dense. */
  part: number | undefined
  /** Whether any of the input has come as JSON text. */
  fed: boolean
  /** The block as it started: whole where no deltas follow. */
  readonly start: Json
  /** The input of a server tool as it grows. */
  input: string
}

type Deltas = ReadonlyArray<PartDelta>

const none: Deltas = []

/** The `type` member of an event's data wins over the event's name: some servers send no names. */
const typeOf = (json: Json, event: string): unknown => json["type"] ?? event

const malformed = brokenProtocol("the provider sent a stream event that is not a JSON object")
const nameless = brokenProtocol("the provider sent a tool_use block without an id or a name")
const cut = brokenProtocol("the provider's stream ended before message_stop")

/** Starts reading one streamed answer. */
export const streamDecoder = (call: ChatCall): ChatStreamDecoder => {
  const answer = answerTool(call)
  const usage = usageReader()
  const blocks = new Map<unknown, Block>()
  let id = ""
  let model = call.model.model
  let nextPart = 0
  let calls = false
  let finished = false
  let done = false
  let failed: Failure | undefined

  const fail = (failure: Failure): Result.Result<never, Failure> => {
    failed = failure
    return Result.fail(failure)
  }

  const partOf = (block: Block): number => block.part ??= nextPart++

  const textDelta = (block: Block, text: unknown): Deltas =>
    typeof text === "string" && text !== "" ? [{ type: "text", index: partOf(block), text }] : none

  const startBlock = (index: unknown, start: Json): Result.Result<Deltas, Failure> => {
    const make = (kind: Block["kind"]): Block => {
      const block: Block = { kind, part: undefined, fed: false, start, input: "" }
      blocks.set(index, block)
      return block
    }
    switch (start["type"]) {
      case "text": {
        const block = make("text")
        const citations = start["citations"]
        if (!isList(citations) || citations.length === 0) return Result.succeed(textDelta(block, start["text"]))
        const text = typeof start["text"] === "string" ? start["text"] : ""
        return Result.succeed([{ type: "text", index: partOf(block), text, citations }])
      }
      case "thinking": {
        const block = make("thinking")
        const text = filled(start["thinking"])
        const signature = filled(start["signature"])
        if (text === undefined && signature === undefined) return Result.succeed(none)
        return Result.succeed([{
          type: "reasoning",
          index: partOf(block),
          ...(text === undefined ? {} : { text }),
          ...(signature === undefined ? {} : { signature, wire })
        }])
      }
      case "redacted_thinking": {
        const data = start["data"]
        const block = make("thinking")
        return Result.succeed(
          typeof data === "string" ? [{ type: "reasoning", index: partOf(block), data, wire }] : none
        )
      }
      case "tool_use": {
        const callId = filled(start["id"])
        const name = filled(start["name"])
        if (callId === undefined || name === undefined) return Result.fail(nameless)
        if (name === answer?.name) {
          make("answer")
          return Result.succeed(none)
        }
        calls = true
        return Result.succeed([{ type: "tool_call", index: partOf(make("tool")), id: callId, name }])
      }
      default:
        make("other")
        return Result.succeed(none)
    }
  }

  const feed = (index: unknown, delta: Json): Deltas => {
    let block = blocks.get(index)
    if (block === undefined) {
      // A block that never started; some compatible servers leave the start of a text out.
      const kind = delta["type"] === "text_delta" ? "text" : delta["type"] === "thinking_delta" ? "thinking" : undefined
      if (kind === undefined) return none
      block = { kind, part: undefined, fed: false, start: {}, input: "" }
      blocks.set(index, block)
    }
    switch (delta["type"]) {
      case "text_delta":
        return block.kind === "text" ? textDelta(block, delta["text"]) : none
      case "citations_delta":
        return block.kind === "text" && delta["citation"] !== undefined
          ? [{ type: "text", index: partOf(block), text: "", citations: [delta["citation"]] }]
          : none
      case "thinking_delta": {
        const text = filled(delta["thinking"])
        return block.kind === "thinking" && text !== undefined
          ? [{ type: "reasoning", index: partOf(block), text }]
          : none
      }
      case "signature_delta": {
        const signature = filled(delta["signature"])
        return block.kind === "thinking" && signature !== undefined
          ? [{ type: "reasoning", index: partOf(block), signature, wire }]
          : none
      }
      case "input_json_delta": {
        const json = filled(delta["partial_json"])
        if (json === undefined) return none
        block.fed = true
        if (block.kind === "answer") return textDelta(block, json)
        if (block.kind === "tool") return [{ type: "tool_call", index: partOf(block), arguments: json }]
        if (block.kind === "other") block.input += json
        return none
      }
      default:
        return none
    }
  }

  const stopBlock = (index: unknown): Deltas => {
    const block = blocks.get(index)
    if (block === undefined) return none
    blocks.delete(index)
    // The input of a block's start is `{}` with Anthropic, and the deltas tell the real one. Compatible servers that
    // send no deltas put the whole input there.
    const whole = isJson(block.start["input"]) ? block.start["input"] : {}
    if (block.kind === "tool") {
      return block.fed ? none : [{ type: "tool_call", index: partOf(block), arguments: JSON.stringify(whole) }]
    }
    if (block.kind === "answer") return block.fed ? none : textDelta(block, JSON.stringify(whole))
    if (block.kind !== "other") return none
    const input = block.fed ? parseJson(block.input) : undefined
    const value = input === undefined ? block.start : { ...block.start, input }
    return [{ type: "part", index: partOf(block), part: { type: "opaque", wire, value } }]
  }

  /** The chunk that ends the answer, with the usage as known then. */
  const finish = (delta: Json, told: unknown): ChatChunk => {
    const stopReason = delta["stop_reason"]
    const stopSequence = filled(delta["stop_sequence"])
    const details = isJson(delta["stop_details"]) ? delta["stop_details"] : undefined
    const refusal = refusalOf(details)
    const extras = usageExtras(told)
    const final = usage.usage()
    finished = true
    return {
      id,
      model,
      delta: refusal === undefined ? none : [{ type: "refusal", index: nextPart++, text: refusal.text }],
      finishReason: finishReasonOf(stopReason, calls, answer !== undefined),
      ...(typeof stopReason === "string" ? { nativeFinishReason: stopReason } : {}),
      ...(stopSequence === undefined ? {} : { stopSequence }),
      ...(final === undefined ? {} : { usage: final }),
      ...extensions(
        details === undefined && extras === undefined ? undefined : {
          ...(details === undefined ? {} : { stop_details: details }),
          ...(extras === undefined ? {} : { usage: extras })
        }
      )
    }
  }

  const chunk = (delta: Deltas): ChatChunk => ({ id, model, delta })

  const read = (type: unknown, json: Json): Result.Result<ChatChunk | undefined, Failure> => {
    switch (type) {
      case "content_block_delta":
        return Result.succeed(chunk(isJson(json["delta"]) ? feed(json["index"], json["delta"]) : none))
      case "content_block_start": {
        const started = isJson(json["content_block"]) ? startBlock(json["index"], json["content_block"]) : undefined
        return started === undefined ? Result.succeed(chunk(none)) : Result.map(started, chunk)
      }
      case "content_block_stop":
        return Result.succeed(chunk(stopBlock(json["index"])))
      case "message_start": {
        const message = json["message"]
        if (isJson(message)) {
          id = filled(message["id"]) ?? id
          model = filled(message["model"]) ?? model
          usage.read(message["usage"])
        }
        return Result.succeed(chunk(none))
      }
      case "message_delta": {
        usage.read(json["usage"])
        const delta = isJson(json["delta"]) ? json["delta"] : {}
        if (!finished && typeof delta["stop_reason"] === "string") return Result.succeed(finish(delta, json["usage"]))
        const later = finished ? usage.usage() : undefined
        return Result.succeed({ id, model, delta: none, ...(later === undefined ? {} : { usage: later }) })
      }
      case "message_stop":
        done = true
        return Result.succeed(finished ? chunk(none) : finish({}, undefined))
      case "error":
        return Result.fail(failureOf(json["error"]))
      case "ping":
        return Result.succeed(undefined)
      default:
        return Result.succeed(chunk(none))
    }
  }

  return {
    push: (data, event) => {
      if (failed !== undefined) return Result.fail(failed)
      if (done || data === "") return Result.succeed([])
      const json = parseJson(data)
      if (!isJson(json)) return fail(malformed)
      const got = read(typeOf(json, event), json)
      if (Result.isFailure(got)) return fail(got.failure)
      if (got.success === undefined) return Result.succeed([])
      // An answer that is unwrapped from its tool must not be handed on with the tool around it.
      return Result.succeed([
        answer === undefined ? sourcedChunk(got.success, { wire, text: data, json }) : got.success
      ])
    },
    isDone: () => done,
    end: () => {
      if (failed !== undefined) return Result.fail(failed)
      return done ? Result.succeed([]) : fail(cut)
    }
  }
}
