/**
 * Ollama's streams, both ways: newline-delimited JSON, each line a piece of the message, the last one with
 * `done: true`, the reason and the counts. A line `{"error": "…"}` ends a stream that failed.
 *
 * Each line becomes one chunk that remembers the line, so that an Ollama dialect relays it as it stands. The decoder
 * runs for every token: it parses a line once and reads fields by guards.
 */
import { Result } from "effect"
import type { ChatChunk, ChatRequest, FinishReason, PartDelta } from "../../sdk/Chat.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import type { ChatCall, Failure } from "../../sdk/Provider.ts"
import type { Usage } from "../../sdk/Usage.ts"
import { type Source, sourcedChunk, sourceOf } from "../../sdk/Wire.ts"
import type { ChatStreamDecoder, ChatStreamEncoder, Json } from "../Codec.ts"
import { errorBody, protocolFailure } from "./OllamaError.ts"
import { imagePart } from "./OllamaImage.ts"
import { argumentsObject, isJson, parseJson } from "../Json.ts"
import { wire } from "./OllamaExtensions.ts"
import type { AnswerForm, Said } from "./OllamaForm.ts"
import {
  contentText,
  doneReasonOf,
  finishReasonOf,
  makeId,
  openAiLogprobs,
  readCreated,
  readError,
  readExtensions,
  readMessage,
  readUsage,
  type Timing,
  writeCreated,
  writeDurations,
  writeUsage
} from "./OllamaResponse.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Decoding
// ---------------------------------------------------------------------------------------------------------------------

const nothing: Result.Result<ReadonlyArray<ChatChunk>> = Result.succeed([])

/**
 * Reads the lines of one streamed answer. Thinking, text, images and tool calls become parts in the order in which
 * they come; each tool call is a part of its own, whatever `index` says, because older servers count none of them.
 * Fails with the upstream's error where a line holds one, with `protocol` for a line that is not Ollama's, and at the
 * end if no line said `done: true`.
 */
export const streamDecoder = (call: ChatCall, form: AnswerForm): ChatStreamDecoder => {
  const id = makeId()
  let model = call.model.model
  let created: number | undefined
  /** The next free part index, and the part that text of its kind goes on in. */
  let parts = 0
  let open: "text" | "reasoning" | undefined
  let called = false
  let outputChars = 0
  let done = false
  let failed: Result.Result<never, Failure> | undefined

  const fail = (failure: Failure): Result.Result<never, Failure> => (failed = Result.fail(failure))

  const index = (kind: "text" | "reasoning"): number => {
    if (open !== kind) {
      open = kind
      parts++
    }
    return parts - 1
  }

  const readDelta = (json: unknown): Result.Result<ReadonlyArray<PartDelta>, Failure> => {
    const read = readMessage(json)
    if (Result.isFailure(read)) return Result.fail(read.failure)
    const message = read.success
    const delta: Array<PartDelta> = []
    if (message.thinking !== "") {
      delta.push({ type: "reasoning", index: index("reasoning"), text: message.thinking, wire })
    }
    if (message.content !== "") delta.push({ type: "text", index: index("text"), text: message.content })
    outputChars += message.thinking.length + message.content.length
    for (const image of message.images) {
      delta.push({ type: "part", index: parts++, part: imagePart(image) })
      open = undefined
    }
    for (const toolCall of message.calls) {
      delta.push({ type: "tool_call", index: parts++, ...toolCall })
      open = undefined
      called = true
      outputChars += toolCall.name.length + toolCall.arguments.length
    }
    return Result.succeed(delta)
  }

  const finish = (json: Json): Partial<ChatChunk> => {
    const reason = json["done_reason"]
    const native = typeof reason === "string" && reason !== "" ? reason : undefined
    return {
      finishReason: finishReasonOf(native, called),
      ...(native === undefined ? {} : { nativeFinishReason: native }),
      usage: readUsage(json, outputChars, call)
    }
  }

  return {
    push: (data) => {
      if (failed !== undefined) return failed
      if (done) return nothing
      const json = parseJson(data)
      if (!isJson(json)) return fail(protocolFailure("the provider sent a line that is not a JSON object"))
      const error = readError(json)
      if (error !== undefined) return fail(error)
      const last = json["done"] === true
      // The last line has to tell the counts, not a message.
      const said = form.read(json)
      const delta = last && said === undefined ? Result.succeed([]) : readDelta(said)
      if (Result.isFailure(delta)) return fail(delta.failure)
      done = last
      if (typeof json["model"] === "string" && json["model"] !== "") model = json["model"]
      created ??= readCreated(json["created_at"])
      const chunk: ChatChunk = {
        id,
        model,
        ...(created === undefined ? {} : { created }),
        delta: delta.success,
        ...(done ? finish(json) : {}),
        ...(done || json["logprobs"] !== undefined ? readExtensions(json, form) : {})
      }
      return Result.succeed([sourcedChunk(chunk, { wire: form.source, text: data, json })])
    },
    isDone: () => done,
    end: () => {
      if (failed !== undefined) return failed
      return done ? nothing : fail(protocolFailure("the provider's stream ended before it was done"))
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Encoding
// ---------------------------------------------------------------------------------------------------------------------

interface PendingCall {
  id: string
  name: string
  arguments: string
}

/**
 * Writes one streamed answer. Text and thinking go out as they come. Ollama has no form for a piece of a tool call, so
 * calls are gathered and sent whole, all in one line, when the answer finishes. The line with `done: true` is held
 * back until `end`: usage may come after the finish reason, and a stream that fails in between must not look complete.
 * Ollama has one answer to a request, so chunks of further choices are passed over.
 *
 * `model` is what was asked for, in lines of Ollama's own, too. `timing` is asked when the answer is over.
 */
export const streamEncoder = (request: ChatRequest, form: AnswerForm, timing?: () => Timing): ChatStreamEncoder => {
  const { model } = request
  let created: number | undefined
  let head: string | undefined
  const calls = new Map<number, PendingCall>()
  let sent = 0
  let finishReason: FinishReason = "stop"
  let native: string | undefined
  let usage: Usage | undefined
  let extra: Json | undefined
  /** Ollama's own last line, where the answer comes from Ollama unchanged. */
  let last: string | undefined
  const relayed = relay(model)
  /** More members of the next line. */
  let beside = ""

  /** The beginning of every line; the model and the moment of an answer do not change. */
  const begin = (): string => head ??= `{"model":${JSON.stringify(model)},"created_at":"${writeCreated(created)}",`

  const line = <Key extends keyof Said>(key: Key, value: Said[Key]): string => {
    const written = `${begin()}${form.line(key, value)}${beside},"done":false}\n`
    beside = ""
    return written
  }

  const flushCalls = (): string => {
    if (calls.size === 0) return ""
    const whole: Array<Json> = []
    for (const call of calls.values()) {
      whole.push({
        ...(call.id === "" ? {} : { id: call.id }),
        function: { index: sent++, name: call.name, arguments: argumentsObject(call.arguments) }
      })
    }
    calls.clear()
    return line("tool_calls", whole)
  }

  const addCall = (delta: Extract<PartDelta, { readonly type: "tool_call" }>): void => {
    let call = calls.get(delta.index)
    if (call === undefined) {
      call = { id: "", name: "", arguments: "" }
      calls.set(delta.index, call)
    }
    if (delta.id !== undefined) call.id = delta.id
    if (delta.name !== undefined) call.name = delta.name
    if (delta.arguments !== undefined) call.arguments += delta.arguments
  }

  const write = (delta: PartDelta): string => {
    switch (delta.type) {
      case "text":
      case "refusal":
        return delta.text === "" ? "" : line("content", delta.text)
      case "reasoning":
        return delta.text === undefined || delta.text === "" ? "" : line("thinking", delta.text)
      case "audio":
        return delta.transcript === undefined ? "" : line("content", delta.transcript)
      case "tool_call":
        addCall(delta)
        return ""
      case "part": {
        const { part } = delta
        if (part.type === "image" && part.source.type === "base64") return line("images", [part.source.data])
        if (part.type === "tool_call") {
          addCall({ type: "tool_call", index: delta.index, id: part.id, name: part.name, arguments: part.arguments })
          return ""
        }
        if (part.type === "reasoning") return part.text === undefined ? "" : line("thinking", part.text)
        const text = contentText(part)
        return text === "" ? "" : line("content", text)
      }
      default:
        return ""
    }
  }

  return {
    push: (chunk) => {
      // The figures are of the whole answer, whichever choice they come with.
      if (chunk.usage !== undefined) usage = chunk.usage
      if (chunk.choice !== undefined && chunk.choice !== 0) return ""
      created ??= chunk.created
      const own = chunk.extensions?.[wire]
      if (own !== undefined) extra = own
      if (chunk.finishReason !== undefined) {
        finishReason = chunk.finishReason
        native = chunk.nativeFinishReason
      }
      const source = sourceOf(chunk, form.source)
      if (source !== undefined) {
        const before = flushCalls()
        if (chunk.finishReason === undefined) return before + relayed(source)
        last = relayed(source)
        return before
      }
      let written = ""
      const logprobs = chunk.extensions === undefined ? undefined : openAiLogprobs(chunk.extensions)
      if (logprobs !== undefined) beside = `,"logprobs":${JSON.stringify(logprobs)}`
      for (const delta of chunk.delta) written += write(delta)
      return chunk.finishReason === undefined ? written : written + flushCalls()
    },
    end: () => {
      const before = flushCalls()
      if (last !== undefined) return before + last
      const done: Json = {
        ...form.write({ content: "" }),
        done: true,
        done_reason: doneReasonOf(finishReason, native),
        ...writeDurations(timing?.()),
        ...writeUsage(usage),
        ...extra
      }
      return `${before}${begin()}${JSON.stringify(done).slice(1)}\n`
    },
    error: (error: GatewayError) => `${JSON.stringify(errorBody(error))}\n`
  }
}

/**
 * Hands lines of Ollama's on under the model's name that was asked for. Ollama writes the name first and the same in every line
 * of an answer, so that mostly a line's beginning is exchanged and the rest not touched.
 */
const relay = (model: string): (source: Source) => string => {
  const asked = `{"model":${JSON.stringify(model)}`
  let theirName: unknown
  let theirs = ""
  return ({ json, text }) => {
    const name = isJson(json) ? json["model"] : undefined
    if (name === model) return `${text}\n`
    if (name !== theirName || theirs === "") {
      theirName = name
      theirs = `{"model":${JSON.stringify(name) ?? ""}`
    }
    if (name !== undefined && text.startsWith(theirs)) return `${asked}${text.slice(theirs.length)}\n`
    return isJson(json) ? `${JSON.stringify({ ...json, model })}\n` : `${text}\n`
  }
}

/**
 * A line that says nothing and is not the last: what keeps a silent connection open. An empty line would end Python's client,
 * which parses every line (ollama-python, `Client._request`).
 */
export const keepAliveLine = (model: string, form: AnswerForm): string =>
  `{"model":${JSON.stringify(model)},"created_at":"${writeCreated(undefined)}",${
    form.line("content", "")
  },"done":false}\n`
