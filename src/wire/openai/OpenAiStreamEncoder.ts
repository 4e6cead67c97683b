/**
 * Writes a streamed chat answer as server-sent events. A chunk that came from this wire is written as it came, once for
 * all the chunks of one event; others are translated. Both may occur in one stream, so the state is kept for both.
 *
 * Usage is always asked of the upstream and shown to the caller only who asked (`stream_options.include_usage`).
 * JSON text holds no line breaks of its own, so an event's data is always one line.
 */
import type { ChatChunk, ChatRequest, FinishReason, PartDelta } from "../../sdk/Chat.ts"
import type { Usage } from "../../sdk/Usage.ts"
import { type Source, sourceOf } from "../../sdk/Wire.ts"
import type { ChatStreamEncoder, Json } from "../Codec.ts"
import { errorObject } from "./OpenAiError.ts"
import { array, isJson, object } from "../Json.ts"
import { merge, ownExtensions, wire } from "./OpenAiExtensions.ts"
import { reasoningDetail, thinkingBlock } from "./OpenAiReasoning.ts"
import { encodeCitations, encodeImage, nativeField, nativeReasonOf } from "./OpenAiResponse.ts"
import { encodeUsage } from "./OpenAiUsage.ts"

/** A choice as the caller has seen it so far. */
interface Choice {
  begun: boolean
  finished: boolean
  /** Tool calls by their part's position: OpenAI counts the calls alone, from 0. */
  readonly calls: Map<number, { readonly index: number; begun: boolean; written: boolean }>
  /** Thinking by its part's position, until its signature has come. */
  readonly thoughts: Map<number, string>
  reasonings: number
  images: number
}

const event = (json: unknown): string => `data: ${JSON.stringify(json)}\n\n`

const nullUsage = ",\"usage\":null"

/**
 * An event without its `usage` member. Upstreams put `"usage":null` into every chunk, so that case is cut out of the text:
 * inside a JSON string the quotes would be escaped, so an only occurrence is the member itself.
 */
const withoutUsage = (source: Source, json: Json): string => {
  const at = json["usage"] === null ? source.text.indexOf(nullUsage) : -1
  if (at >= 0 && at === source.text.lastIndexOf(nullUsage)) {
    return source.text.slice(0, at) + source.text.slice(at + nullUsage.length)
  }
  const { usage: _usage, ...kept } = json
  return JSON.stringify(kept)
}

const lineBreak = /[\r\n]/
const lineBreaks = /[\r\n]+/g

/**
 * An encoder for one streamed answer. `now` is Unix seconds, for providers that tell no time: every chunk of an answer
 * carries the same.
 */
export const streamEncoder = (request: ChatRequest, now: () => number): ChatStreamEncoder => {
  const wanted = object(request.extensions?.[wire]?.["stream_options"])?.["include_usage"] === true
  const choices = new Map<number, Choice>()
  let previous: Source | undefined
  let id = ""
  let model = ""
  let created: number | undefined
  let usage: Usage | undefined
  let usageWritten = false

  const choiceOf = (number: number): Choice => {
    let choice = choices.get(number)
    if (choice === undefined) {
      choice = { begun: false, finished: false, calls: new Map(), thoughts: new Map(), reasonings: 0, images: 0 }
      choices.set(number, choice)
    }
    return choice
  }

  const body = (list: ReadonlyArray<Json>, last?: Usage): Json => ({
    id,
    object: "chat.completion.chunk",
    created: created ??= now(),
    model,
    choices: list,
    ...(wanted ? { usage: last === undefined ? null : encodeUsage(last) } : {})
  })

  const piece = (number: number, delta: Json, finish: Json = { finish_reason: null }, extra?: Json): string =>
    event(body([merge({ index: number, delta, ...finish }, extra)]))

  /** What is remembered of a delta, whether it is translated or handed on. */
  const note = (choice: Choice, delta: PartDelta): void => {
    if (delta.type !== "tool_call") return
    let call = choice.calls.get(delta.index)
    if (call === undefined) {
      call = { index: choice.calls.size, begun: false, written: false }
      choice.calls.set(delta.index, call)
    }
    if (delta.arguments !== undefined && delta.arguments !== "") call.written = true
  }

  const reasoning = (choice: Choice, delta: Extract<PartDelta, { type: "reasoning" }>): Json => {
    const { data, index, signature, text } = delta
    const readable = text === undefined || text === "" ? {} : { reasoning_content: text, reasoning: text }
    const known = choice.thoughts.get(index)
    if (known === undefined) choice.reasonings++
    const whole = (known ?? "") + (text ?? "")
    choice.thoughts.set(index, whole)
    if (signature === undefined && data === undefined) return readable
    const part = {
      type: "reasoning" as const,
      ...(data === undefined ? { text: whole } : { data }),
      ...(signature === undefined ? {} : { signature }),
      ...(delta.wire === undefined ? {} : { wire: delta.wire })
    }
    const block = thinkingBlock(part)
    return {
      ...readable,
      ...(block === undefined ? {} : { thinking_blocks: [block] }),
      reasoning_details: [reasoningDetail(part, choice.reasonings - 1)]
    }
  }

  /** A delta in OpenAI's form; `undefined` for what it has none for. */
  const translate = (choice: Choice, delta: PartDelta): Json | undefined => {
    switch (delta.type) {
      case "text":
        return {
          ...(delta.text === "" ? {} : { content: delta.text }),
          ...(delta.citations === undefined ? {} : encodeCitations(delta.citations))
        }
      case "refusal":
        return { refusal: delta.text }
      case "reasoning":
        return reasoning(choice, delta)
      case "tool_call": {
        const call = choice.calls.get(delta.index)
        const index = call?.index ?? 0
        const text = delta.arguments ?? ""
        // OpenAI's clients join whatever is told twice, ids and names too.
        const begins = call?.begun !== true && (delta.id !== undefined || delta.name !== undefined)
        if (call !== undefined) call.begun ||= begins
        return {
          tool_calls: [
            begins
              ? { index, id: delta.id ?? "", type: "function", function: { name: delta.name ?? "", arguments: text } }
              : { index, function: { arguments: text } }
          ]
        }
      }
      case "audio":
        return {
          audio: {
            ...(delta.id === undefined ? {} : { id: delta.id }),
            ...(delta.data === undefined ? {} : { data: delta.data }),
            ...(delta.transcript === undefined ? {} : { transcript: delta.transcript }),
            ...(delta.expiresAt === undefined ? {} : { expires_at: delta.expiresAt })
          }
        }
      default: {
        if (delta.part.type !== "image") return undefined
        const image = encodeImage(delta.part, choice.images)
        if (image === undefined) return undefined
        choice.images++
        return { images: [image] }
      }
    }
  }

  const translated = (chunk: ChatChunk): string => {
    const number = chunk.choice ?? 0
    const metadataOnly = chunk.delta.length === 0 && chunk.finishReason === undefined && chunk.usage !== undefined
    if (metadataOnly) return ""
    const choice = choiceOf(number)
    if (choice.finished) return ""
    const extra = object(ownExtensions(chunk)?.["choice"])
    let text = ""
    if (!choice.begun) {
      choice.begun = true
      text += piece(number, { role: "assistant", content: "" })
    }
    for (const delta of chunk.delta) {
      note(choice, delta)
      const json = translate(choice, delta)
      if (json !== undefined && Object.keys(json).length > 0) text += piece(number, json, undefined, extra)
    }
    if (chunk.finishReason !== undefined) text += finish(number, choice, chunk.finishReason, chunk.nativeFinishReason)
    return text
  }

  const finish = (number: number, choice: Choice, finishReason: FinishReason, native: string | undefined): string => {
    choice.finished = true
    let text = ""
    // Anthropic streams nothing for a call without arguments; OpenAI's clients parse what they are given.
    for (const call of choice.calls.values()) {
      if (call.written) continue
      call.written = true
      text += piece(number, { tool_calls: [{ index: call.index, function: { arguments: "{}" } }] })
    }
    return text + piece(number, {}, {
      finish_reason: nativeReasonOf(finishReason),
      ...nativeField({ finishReason, ...(native === undefined ? {} : { nativeFinishReason: native }) })
    })
  }

  /** Finishes the choices that a complete stream left open: some servers send no finish reason. */
  const finishAll = (): string => {
    let text = ""
    for (const [number, choice] of choices) {
      if (choice.begun && !choice.finished) {
        text += finish(number, choice, choice.calls.size > 0 ? "tool_calls" : "stop", undefined)
      }
    }
    return text
  }

  const original = (source: Source, json: Json): string => {
    const told = isJson(json["usage"])
    if (told && wanted) usageWritten = true
    if (told && !wanted && array(json["choices"]).length === 0) return ""
    const text = !wanted && "usage" in json ? withoutUsage(source, json) : source.text
    // Within JSON text, line breaks can stand only between tokens, where a space does as well.
    return `data: ${lineBreak.test(text) ? text.replaceAll(lineBreaks, " ") : text}\n\n`
  }

  return {
    push: (chunk) => {
      if (chunk.id !== "") id = chunk.id
      if (chunk.model !== "") model = chunk.model
      if (chunk.created !== undefined) created ??= chunk.created
      if (chunk.usage !== undefined) usage = chunk.usage
      const source = sourceOf(chunk, wire)
      if (source === undefined || !isJson(source.json)) return translated(chunk)
      const choice = choiceOf(chunk.choice ?? 0)
      if (array(source.json["choices"]).length > 0) choice.begun = true
      if (chunk.finishReason !== undefined) choice.finished = true
      for (const delta of chunk.delta) {
        note(choice, delta)
        const call = delta.type === "tool_call" ? choice.calls.get(delta.index) : undefined
        if (call !== undefined) call.begun = true
      }
      if (source === previous) return ""
      previous = source
      return original(source, source.json)
    },
    end: () => {
      const finished = finishAll()
      const tail = wanted && !usageWritten && usage !== undefined ? event(body([], usage)) : ""
      return `${finished}${tail}data: [DONE]\n\n`
    },
    error: (error) => event({ error: errorObject(error) })
  }
}
