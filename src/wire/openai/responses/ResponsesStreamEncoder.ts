/**
 * Writes a streamed answer as typed events (https://platform.openai.com/docs/api-reference/responses-streaming). Every item
 * is opened and closed once, at the next free place of the output; `sequence_number` counts the events without a gap; the
 * last event tells the whole answer again, and is the only one that says how it ended. There is no `[DONE]`.
 *
 * Messages and thinking are closed where something else begins. A call stays open until its arguments are whole, since
 * some providers mix the pieces of parallel calls; whatever is open when the answer ends is closed then.
 *
 * A stream that came in this form is handed on as it came, where its first event has an original. The closing events repeat
 * the text of those before them, so that is all of it or nothing: a change within it would be undone by them, and ends it.
 */
import type { ChatChunk, ChatRequest, FinishReason, PartDelta } from "../../../sdk/Chat.ts"
import type { Part, ReasoningPart } from "../../../sdk/Content.ts"
import { GatewayError, InternalError } from "../../../sdk/GatewayError.ts"
import type { Usage } from "../../../sdk/Usage.ts"
import { sourceOf } from "../../../sdk/Wire.ts"
import type { ChatStreamEncoder, Json } from "../../Codec.ts"
import { type Draft, filled, isJson, object } from "../../Json.ts"
import { errorObject } from "../OpenAiError.ts"
import { encodeCitations } from "./ResponsesCitations.ts"
import {
  argumentsOf,
  callItem,
  idBase,
  imageItem,
  isCut,
  isWhole,
  itemId,
  type ItemStatus,
  messageItem,
  outputText,
  refusal,
  saysReasoning,
  wordsOf
} from "./ResponsesOutput.ts"
import { wire } from "./ResponsesExtensions.ts"
import { detailOf, reasoningItem } from "./ResponsesReasoning.ts"
import { ended, failed, inProgress, logprobsOf, settingsOf, type Snapshot } from "./ResponsesResponse.ts"

/** The part of a message that is under way. */
interface OpenPart {
  readonly kind: "text" | "refusal"
  /** The part's position in the answer's content. */
  readonly part: number
  /** Its position in the message. */
  readonly at: number
  text: string
  citations: Array<unknown> | undefined
  annotations: number
  logprobs: Array<unknown> | undefined
  /** A delta event up to its sequence number, which is the same for every delta of the part. */
  readonly head: string
}

interface OpenMessage {
  readonly kind: "message"
  readonly id: string
  readonly index: number
  readonly content: Array<Json>
  part: OpenPart | undefined
}

interface OpenReasoning {
  readonly kind: "reasoning"
  readonly id: string
  readonly index: number
  readonly part: number
  /** What of the part stands in this item; a part that went on after other content has several. */
  text: string
  readonly head: string
}

interface OpenCall {
  readonly id: string
  readonly index: number
  readonly callId: string
  readonly name: string
  text: string
  readonly head: string
}

const noLogprobs: ReadonlyArray<unknown> = []

const changed = new InternalError({ message: "the answer was changed while it was handed on as it came" })

/** A delta event up to its sequence number; what follows is `N,"delta":…}`. */
const headOf = (type: string, fields: Json): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields }).slice(0, -1)},"sequence_number":`

/** Starts writing one streamed answer. `now` is Unix seconds, for providers that tell no time. */
export const streamEncoder = (request: ChatRequest, now: () => number): ChatStreamEncoder => {
  const settings = settingsOf(request)
  let sequence = 0
  let started = false
  let base = ""
  let id = ""
  let model = request.model
  let created: number | undefined
  let usage: Usage | undefined
  let finish: FinishReason | undefined
  /** Closed items by their place; a place is empty while its item is open. */
  const output: Array<Json | undefined> = []
  let current: OpenMessage | OpenReasoning | undefined
  const calls = new Map<number, OpenCall>()
  /** Parts whose call has been closed. */
  const called = new Set<number>()
  const thoughts = new Map<number, Draft<ReasoningPart>>()
  /** Whether events are handed on as they came; decided by the first one. */
  let relays: boolean | undefined
  /** Set where a stream that is handed on has an event without an original after all. */
  let broken = false
  /** The last event of a stream that is handed on. It says how all of it went, and so waits until that is known. */
  let ending: string | undefined

  // ---- events

  const event = (type: string, fields: Json): string =>
    `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequence++, ...fields })}\n\n`

  const delta = (head: string, text: string): string => `${head}${sequence++},"delta":${JSON.stringify(text)}}\n\n`

  const snapshot = (items: ReadonlyArray<Json>): Snapshot => ({
    base,
    model,
    created: created ??= now(),
    output: items,
    usage
  })

  const closedItems = (): ReadonlyArray<Json> => output.filter((item) => item !== undefined)

  const begin = (): string => {
    if (started) return ""
    started = true
    base = idBase(id)
    const response = inProgress(snapshot([]), settings)
    return event("response.created", { response }) + event("response.in_progress", { response })
  }

  const opened = (index: number, item: Json): string =>
    event("response.output_item.added", { output_index: index, item })

  const closed = (index: number, item: Json): string => {
    output[index] = item
    return event("response.output_item.done", { output_index: index, item })
  }

  /** Takes the next free place of the output. */
  const place = (): number => output.push(undefined) - 1

  // ---- messages

  const closePart = (message: OpenMessage): string => {
    const { part } = message
    if (part === undefined) return ""
    message.part = undefined
    const where = { item_id: message.id, output_index: message.index, content_index: part.at }
    let done: string
    let item: Json
    if (part.kind === "text") {
      item = outputText(part.text, part.citations, part.logprobs ?? noLogprobs)
      done = event("response.output_text.done", { ...where, text: part.text, logprobs: item["logprobs"] })
    } else {
      item = refusal(part.text)
      done = event("response.refusal.done", { ...where, refusal: part.text })
    }
    message.content.push(item)
    return done + event("response.content_part.done", { ...where, part: item })
  }

  const closeMessage = (message: OpenMessage, status: ItemStatus): string =>
    closePart(message) + closed(message.index, messageItem(message.id, status, message.content))

  /** Makes sure that a part of a message is open, and gives it with what had to be written for that. */
  const openPart = (kind: OpenPart["kind"], part: number): readonly [written: string, open: OpenPart] => {
    let written = ""
    let message = current
    if (message?.kind !== "message") {
      written += settle()
      const index = place()
      message = { kind: "message", id: itemId("msg", base, index), index, content: [], part: undefined }
      current = message
      written += opened(index, messageItem(message.id, "in_progress", []))
    }
    if (message.part?.part === part && message.part.kind === kind) return [written, message.part]
    written += closePart(message)
    const at = message.content.length
    const where = { item_id: message.id, output_index: message.index, content_index: at }
    const open: OpenPart = {
      kind,
      part,
      at,
      text: "",
      citations: undefined,
      annotations: 0,
      logprobs: undefined,
      head: headOf(kind === "text" ? "response.output_text.delta" : "response.refusal.delta", where)
    }
    message.part = open
    const empty = kind === "text" ? outputText("", undefined, noLogprobs) : refusal("")
    return [written + event("response.content_part.added", { ...where, part: empty }), open]
  }

  const writeText = (
    part: number,
    text: string,
    citations: ReadonlyArray<unknown> | undefined,
    logprobs: ReadonlyArray<unknown>
  ): string => {
    const cited = citations !== undefined && citations.length > 0
    if (text === "" && !cited) return ""
    const [before, open] = openPart("text", part)
    let written = before
    if (text !== "") {
      open.text += text
      if (logprobs.length > 0) (open.logprobs ??= []).push(...logprobs)
      // SDKs' types have log probabilities in every delta.
      const told = logprobs.length === 0 ? "[]" : JSON.stringify(logprobs)
      written += `${open.head}${sequence++},"delta":${JSON.stringify(text)},"logprobs":${told}}\n\n`
    }
    if (cited && current?.kind === "message") {
      ;(open.citations ??= []).push(...citations)
      for (const annotation of encodeCitations(citations).annotations) {
        written += event("response.output_text.annotation.added", {
          item_id: current.id,
          output_index: current.index,
          content_index: open.at,
          annotation_index: open.annotations++,
          annotation
        })
      }
    }
    return written
  }

  const writeRefusal = (part: number, text: string): string => {
    if (text === "") return ""
    const [before, open] = openPart("refusal", part)
    open.text += text
    return before + delta(open.head, text)
  }

  // ---- thinking

  const closeReasoning = (open: OpenReasoning): string => {
    const where = { item_id: open.id, output_index: open.index, summary_index: 0 }
    const { text } = open
    const part = { type: "summary_text", text }
    const summary = text === "" ? "" : event("response.reasoning_summary_text.done", { ...where, text }) +
      event("response.reasoning_summary_part.done", { ...where, part })
    const whole = reasoningItem(thoughts.get(open.part) ?? { type: "reasoning" }, open.id)
    return summary + closed(open.index, { ...whole, summary: text === "" ? [] : [part] })
  }

  const writeReasoning = (piece: Omit<ReasoningPart, "type">, part: number, chunk?: ChatChunk): string => {
    const thought: Draft<ReasoningPart> = thoughts.get(part) ?? { type: "reasoning" }
    thoughts.set(part, thought)
    if (piece.text !== undefined) thought.text = (thought.text ?? "") + piece.text
    if (piece.signature !== undefined) thought.signature = (thought.signature ?? "") + piece.signature
    if (piece.data !== undefined) thought.data = (thought.data ?? "") + piece.data
    if (piece.wire !== undefined) thought.wire = piece.wire
    const extensions = piece.extensions ?? (chunk === undefined ? undefined : detailOf(chunk, piece, thought.text))
    if (extensions !== undefined) thought.extensions = extensions
    if (!saysReasoning({ type: "reasoning", ...piece })) return ""
    let written = ""
    let open = current
    if (open?.kind !== "reasoning" || open.part !== part) {
      written += settle()
      const index = place()
      const item = itemId("rs", base, index)
      const where = { item_id: item, output_index: index, summary_index: 0 }
      open = {
        kind: "reasoning",
        id: item,
        index,
        part,
        text: "",
        head: headOf("response.reasoning_summary_text.delta", where)
      }
      current = open
      written += opened(index, { id: item, type: "reasoning", summary: [] })
    }
    if (piece.text === undefined || piece.text === "") return written
    if (open.text === "") {
      written += event("response.reasoning_summary_part.added", {
        item_id: open.id,
        output_index: open.index,
        summary_index: 0,
        part: { type: "summary_text", text: "" }
      })
    }
    open.text += piece.text
    return written + delta(open.head, piece.text)
  }

  // ---- calls

  const closeCall = (part: number, call: OpenCall, cut: boolean): string => {
    calls.delete(part)
    called.add(part)
    const text = argumentsOf(call.text)
    const where = { item_id: call.id, output_index: call.index }
    // Anthropic streams nothing for a call without arguments; SDKs parse what they are given.
    return (text === call.text ? "" : delta(call.head, text)) +
      event("response.function_call_arguments.done", { ...where, name: call.name, arguments: text }) +
      closed(call.index, callItem(call.id, cut ? "incomplete" : "completed", call.callId, call.name, text))
  }

  const writeCall = (piece: Omit<Extract<PartDelta, { type: "tool_call" }>, "type">): string => {
    // What comes after whole arguments can be white space alone.
    if (called.has(piece.index)) return ""
    let written = ""
    let call = calls.get(piece.index)
    if (call === undefined) {
      written += settle()
      const index = place()
      const item = itemId("fc", base, index)
      call = {
        id: item,
        index,
        callId: piece.id ?? itemId("fc", `call_${base}`, index),
        name: piece.name ?? "",
        text: "",
        head: headOf("response.function_call_arguments.delta", { item_id: item, output_index: index })
      }
      calls.set(piece.index, call)
      written += opened(index, callItem(item, "in_progress", call.callId, call.name, ""))
    }
    const text = piece.arguments ?? ""
    if (text === "") return written
    call.text += text
    return written + delta(call.head, text)
  }

  // ---- what closes

  const closeCurrent = (cut: boolean): string => {
    const open = current
    current = undefined
    if (open === undefined) return ""
    return open.kind === "message" ? closeMessage(open, cut ? "incomplete" : "completed") : closeReasoning(open)
  }

  /** Closes what a new item ends: the message or thinking before it, and the calls that are whole. */
  const settle = (): string => {
    let written = closeCurrent(false)
    for (const [part, call] of calls) if (isWhole(call.text)) written += closeCall(part, call, false)
    return written
  }

  const closeAll = (): string => {
    const cut = isCut(finish)
    const last = output.length - 1
    let written = closeCurrent(cut && current?.index === last)
    for (const [part, call] of calls) {
      written += closeCall(part, call, cut && (call.index === last || !isWhole(argumentsOf(call.text))))
    }
    return written
  }

  // ---- parts

  const writePart = (index: number, part: Part, logprobs: ReadonlyArray<unknown>): string => {
    switch (part.type) {
      case "text":
        return writeText(index, part.text, part.citations, logprobs)
      case "refusal":
        return writeRefusal(index, part.text)
      case "reasoning":
        return writeReasoning(part, index)
      case "tool_call":
        return writeCall({ index, id: part.id, name: part.name, arguments: part.arguments })
      case "audio":
        return writeText(index, wordsOf(part), undefined, logprobs)
      case "image": {
        if (part.source.type !== "base64") return writeText(index, wordsOf(part), undefined, logprobs)
        const before = settle()
        const at = place()
        const item = imageItem(itemId("ig", base, at), part.source.data, part.source.mediaType)
        return before + opened(at, { ...item, status: "in_progress", result: null }) + closed(at, item)
      }
      case "opaque": {
        if (part.wire !== wire) return ""
        const before = settle()
        const at = place()
        return before + opened(at, part.value) + closed(at, part.value)
      }
      default:
        return ""
    }
  }

  const write = (piece: PartDelta, logprobs: ReadonlyArray<unknown>, chunk: ChatChunk): string => {
    switch (piece.type) {
      case "text":
        return writeText(piece.index, piece.text, piece.citations, logprobs)
      case "reasoning":
        return writeReasoning(piece, piece.index, chunk)
      case "refusal":
        return writeRefusal(piece.index, piece.text)
      case "tool_call":
        return writeCall(piece)
      case "audio":
        return writeText(piece.index, piece.transcript ?? "", undefined, logprobs)
      default:
        return writePart(piece.index, piece.part, logprobs)
    }
  }

  // ---- events handed on

  /** The event that a chunk was read from, in its framing; `undefined` where it has none. */
  const original = (chunk: ChatChunk): string | undefined => {
    const source = sourceOf(chunk, wire)
    if (source === undefined || !isJson(source.json)) return undefined
    const type = filled(source.json["type"])
    const data = source.text.includes("\n") ? JSON.stringify(source.json) : source.text
    return type === undefined ? undefined : `event: ${type}\ndata: ${data}\n\n`
  }

  const relay = (chunk: ChatChunk): string => {
    if (broken) return ""
    const written = original(chunk)
    if (written === undefined) {
      broken = chunk.delta.length > 0 || chunk.finishReason !== undefined
      return ""
    }
    const json = object(sourceOf(chunk, wire)?.json)
    if (json?.["type"] === "response.output_item.done") output.push(object(json["item"]))
    if (!started) {
      started = true
      base = idBase(id)
    }
    sequence += 1
    if (chunk.finishReason === undefined) return written
    ending = written
    return ""
  }

  const build = (chunk: ChatChunk): string => {
    // Azure's first chunk has no id yet, and a response's id cannot change later.
    if (!started && id === "" && chunk.delta.length === 0 && chunk.finishReason === undefined) return ""
    let written = begin()
    if (finish !== undefined) return written
    const logprobs = chunk.extensions === undefined ? noLogprobs : logprobsOf(chunk)
    for (const piece of chunk.delta) written += write(piece, logprobs, chunk)
    if (chunk.finishReason === undefined) return written
    finish = chunk.finishReason
    return written + closeAll()
  }

  const fails = (error: GatewayError): string => {
    const before = begin() + event("response.failed", { response: failed(snapshot(closedItems()), settings, error) })
    const told = errorObject(error)
    // The members stand at the top by OpenAI's reference, and under `error` in what its servers send: clients read either.
    return before +
      event("error", { code: told.code, message: told.message, param: told.param, error: told })
  }

  return {
    push: (chunk: ChatChunk) => {
      // The figures are of the whole answer, whichever choice they come with.
      if (chunk.usage !== undefined) usage = chunk.usage
      if (chunk.choice !== undefined && chunk.choice !== 0) return ""
      if (!started && chunk.id !== "") id = chunk.id
      if (chunk.model !== "") model = chunk.model
      if (chunk.created !== undefined) created ??= chunk.created
      // What says nothing, such as which parameters the provider did not get, decides nothing.
      if (relays === undefined && (chunk.id !== "" || chunk.delta.length > 0)) relays = original(chunk) !== undefined
      if (relays === true) return relay(chunk)
      return build(chunk)
    },
    end: () => {
      if (broken) return fails(new GatewayError({ reason: changed }))
      if (ending !== undefined) return ending
      const before = begin() + closeAll()
      const response = ended(snapshot(closedItems()), settings, finish ?? "stop")
      return before + event(`response.${response.status}`, { response })
    },
    error: fails
  }
}
