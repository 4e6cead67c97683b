/**
 * Chunks written as Anthropic's stream. Events that came from Anthropic and that nobody changed are handed on as they
 * came; everything else is built. Both kinds may alternate within one stream (an interceptor that changes text leaves the
 * other events alone), so one state keeps the rules for both: blocks open one at a time and close before the next, their
 * indices are dense, `message_delta` comes once the final usage is known, `message_stop` only when the stream is complete.
 */
import type { ChatChunk, ChatRequest, FinishReason, PartDelta } from "../../sdk/Chat.ts"
import type { Part } from "../../sdk/Content.ts"
import type { Usage } from "../../sdk/Usage.ts"
import { type Source, sourceOf } from "../../sdk/Wire.ts"
import type { ChatStreamEncoder, Json } from "../Codec.ts"
import { errorBody } from "./AnthropicError.ts"
import { answerBlock, stopDetails, stopReasonOf } from "./AnthropicResponse.ts"
import { encodeUsage } from "./AnthropicUsage.ts"
import { wire } from "./AnthropicExtensions.ts"
import { isJson, parseJson } from "../Json.ts"

type Kind = "text" | "thinking" | "tool" | "other"

interface OpenBlock {
  readonly index: number
  readonly kind: Kind
  /** The part that the block holds; not known yet for a block whose start was handed on. */
  part: number | undefined
}

/** A tool call that waits because another block is open: OpenAI's parallel calls may interleave. */
interface WaitingCall {
  id: string | undefined
  name: string | undefined
  json: string
}

const frame = (type: string, data: string): string => `event: ${type}\ndata: ${data}\n\n`
const event = (json: Json & { readonly type: string }): string => frame(json.type, JSON.stringify(json))

/** The event with which Anthropic keeps a silent stream open. It may come anywhere, even before `message_start`. */
export const ping: string = event({ type: "ping" })

const kindOfBlock = (block: unknown): Kind => {
  switch (isJson(block) ? block["type"] : undefined) {
    case "text":
      return "text"
    case "thinking":
      return "thinking"
    case "tool_use":
      return "tool"
    default:
      return "other"
  }
}

/** What is known of an answer beside its chunks. */
export interface StreamOptions {
  /** Estimates the prompt's tokens. Asked for at most once, where the upstream has told none when the answer begins. */
  readonly estimateInput?: () => number
  /** The request's id, for error events, and for messages that the upstream gave no id. */
  readonly requestId?: string
}

/** Starts writing one streamed answer. Choices after the first are passed over: the wire has one answer to a request. */
export const streamEncoder = (_request: ChatRequest, options: StreamOptions = {}): ChatStreamEncoder => {
  let id = ""
  let model = ""
  let started = false
  let nextIndex = 0
  let open: OpenBlock | undefined
  const waiting = new Map<number, WaitingCall>()
  /** The argument text of the calls that are under way, to know whether they are whole. */
  const argumentsSoFar = new Map<number, string>()
  /** Whether one of them is not; absent where that has to be looked at anew. */
  let underWay: boolean | undefined
  /** What came between the pieces of a call: a block that has been closed cannot be opened again. */
  let held: Array<PartDelta> = []
  let calls = false
  let refusal = ""
  let finish: FinishReason | undefined
  let native: string | undefined
  let stopSequence: string | undefined
  let usage: Usage | undefined
  let estimate: Usage | undefined
  let extras: Json = {}
  let deltaWritten = false
  let stopText = "{\"type\":\"message_stop\"}"
  let lastSource: Source | undefined

  // ---- blocks

  const begin = (): string => {
    if (started) return ""
    started = true
    const { estimateInput, requestId } = options
    // Clients show how full the context is from this figure, so an estimate is better than the 0 of a late report.
    if (usage === undefined && estimate === undefined && estimateInput !== undefined) {
      estimate = { inputTokens: estimateInput(), outputTokens: 0, estimated: true }
    }
    return event({
      type: "message_start",
      message: {
        id: id === "" && requestId !== undefined ? `msg_${requestId}` : id,
        type: "message",
        role: "assistant",
        model,
        content: [],
        stop_reason: null,
        stop_sequence: null,
        usage: encodeUsage(usage ?? estimate)
      }
    })
  }

  const close = (): string => {
    if (open === undefined) return ""
    const { index } = open
    open = undefined
    return event({ type: "content_block_stop", index })
  }

  const start = (kind: Kind, part: number | undefined, block: Json): string => {
    const written = close()
    const index = nextIndex
    nextIndex += 1
    open = { index, kind, part }
    return written + event({ type: "content_block_start", index, content_block: block })
  }

  const delta = (index: number, body: Json): string => event({ type: "content_block_delta", index, delta: body })

  const startCall = (part: number, waited: WaitingCall): string =>
    start("tool", part, {
      type: "tool_use",
      id: waited.id ?? `toolu_${nextIndex}`,
      name: waited.name ?? "",
      input: {}
    }) + (waited.json === "" ? "" : delta(nextIndex - 1, { type: "input_json_delta", partial_json: waited.json }))

  /** Closes what is open and writes the calls that waited for it. */
  const settle = (): string => {
    let written = close()
    for (const [part, waited] of waiting) if (waited.name !== undefined) written += startCall(part, waited)
    waiting.clear()
    argumentsSoFar.clear()
    underWay = undefined
    return written + close()
  }

  const isCallUnderWay = (): boolean =>
    underWay ??= Array.from(argumentsSoFar.values()).some((json) => parseJson(json) === undefined)

  /** Writes what was held back, once the calls before it are whole or nothing more can come. */
  const release = (): string => {
    if (held.length === 0) return ""
    const pieces = held
    held = []
    let written = settle()
    for (const piece of pieces) written += write(piece)
    return written
  }

  /** Makes sure that the block of a part is open. */
  const opened = (kind: Kind, part: number, block: Json): readonly [written: string, index: number] => {
    if (open?.kind === kind && (open.part === undefined || open.part === part)) {
      open.part = part
      return ["", open.index]
    }
    const written = settle() + start(kind, part, block)
    return [written, nextIndex - 1]
  }

  // ---- deltas

  const writeText = (part: number, text: string, citations: ReadonlyArray<unknown> | undefined): string => {
    if (text === "" && (citations === undefined || citations.length === 0)) return ""
    const [before, index] = opened("text", part, { type: "text", text: "" })
    let written = before
    if (text !== "") written += delta(index, { type: "text_delta", text })
    for (const citation of citations ?? []) written += delta(index, { type: "citations_delta", citation })
    return written
  }

  const writeReasoning = (piece: PartDelta & { readonly type: "reasoning" }): string => {
    const ours = piece.wire === undefined || piece.wire === wire
    if (piece.data !== undefined) {
      if (!ours) return ""
      return settle() + start("other", piece.index, { type: "redacted_thinking", data: piece.data }) + close()
    }
    // Another wire's signature means nothing to an Anthropic client, and must not come back as Anthropic's.
    const signature = ours ? piece.signature : undefined
    if ((piece.text === undefined || piece.text === "") && signature === undefined) return ""
    const [before, index] = opened("thinking", piece.index, { type: "thinking", thinking: "", signature: "" })
    let written = before
    if (piece.text !== undefined && piece.text !== "") {
      written += delta(index, { type: "thinking_delta", thinking: piece.text })
    }
    if (signature !== undefined) written += delta(index, { type: "signature_delta", signature })
    return written
  }

  const writeCall = (piece: PartDelta & { readonly type: "tool_call" }): string => {
    calls = true
    underWay = undefined
    argumentsSoFar.set(piece.index, (argumentsSoFar.get(piece.index) ?? "") + (piece.arguments ?? ""))
    if (open?.kind === "tool" && (open.part === undefined || open.part === piece.index)) {
      open.part = piece.index
      const json = piece.arguments ?? ""
      return json === "" ? "" : delta(open.index, { type: "input_json_delta", partial_json: json })
    }
    let waited = waiting.get(piece.index)
    if (waited === undefined) {
      waited = { id: undefined, name: undefined, json: "" }
      waiting.set(piece.index, waited)
    }
    waited.id ??= piece.id
    waited.name ??= piece.name
    waited.json += piece.arguments ?? ""
    if (open?.kind === "tool" || waiting.size > 1 || waited.id === undefined || waited.name === undefined) return ""
    waiting.clear()
    return startCall(piece.index, waited)
  }

  const write = (piece: PartDelta): string => {
    switch (piece.type) {
      case "text":
        return writeText(piece.index, piece.text, piece.citations)
      case "reasoning":
        return writeReasoning(piece)
      case "tool_call":
        return writeCall(piece)
      case "refusal":
        // Anthropic tells a refusal's words with the end of the message.
        refusal += piece.text
        return ""
      case "audio":
        return writeText(piece.index, piece.transcript ?? "", undefined)
      default:
        return writePart(piece.index, piece.part)
    }
  }

  /** A part that comes whole is written as its deltas would be; only blocks without deltas start complete. */
  const writePart = (index: number, part: Part): string => {
    switch (part.type) {
      case "text":
        return writeText(index, part.text, part.citations)
      case "reasoning":
        return writeReasoning({ ...part, index })
      case "tool_call":
        return writeCall({ type: "tool_call", index, id: part.id, name: part.name, arguments: part.arguments })
      default: {
        const block = answerBlock(part)
        return block === undefined ? "" : settle() + start("other", index, block) + close()
      }
    }
  }

  // ---- the end

  const writeMessageDelta = (): string => {
    deltaWritten = true
    const declined = refusal !== "" && (finish === undefined || finish === "stop") ? "content_filter" : finish
    const last = release() + settle()
    const details = stopDetails(refusal, extras["stop_details"])
    return last + event({
      type: "message_delta",
      delta: {
        stop_reason: stopReasonOf(declined, native, stopSequence, calls),
        stop_sequence: stopSequence ?? null,
        ...(details === undefined ? {} : { stop_details: details })
      },
      usage: encodeUsage(usage ?? estimate, extras["usage"])
    })
  }

  const note = (chunk: ChatChunk): void => {
    if (chunk.id !== "") id = chunk.id
    if (chunk.model !== "") model = chunk.model
    if (chunk.usage?.estimated === true && chunk.finishReason === undefined && finish === undefined) {
      estimate = chunk.usage
    } else if (chunk.usage !== undefined) usage = chunk.usage
    if (chunk.finishReason !== undefined) finish = chunk.finishReason
    if (chunk.nativeFinishReason !== undefined) native = chunk.nativeFinishReason
    if (chunk.stopSequence !== undefined) stopSequence = chunk.stopSequence
    const own = chunk.extensions?.[wire]
    if (own !== undefined) extras = { ...extras, ...own }
  }

  const build = (chunk: ChatChunk): string => {
    // Some servers tell their ids and names with the first content only (Azure's first chunk has neither).
    if (id === "" && chunk.delta.length === 0 && finish === undefined) return ""
    let written = begin()
    if (deltaWritten) return written
    for (const piece of chunk.delta) {
      if (piece.type === "tool_call") written += writeCall(piece)
      else if (isCallUnderWay()) held.push(piece)
      else written += release() + write(piece)
    }
    if (finish !== undefined && usage !== undefined && !deltaWritten) written += writeMessageDelta()
    return written
  }

  // ---- events handed on

  const relay = (source: Source, json: Json, chunk: ChatChunk): string => {
    const type = json["type"]
    if (typeof type !== "string") return build(chunk)
    const raw = (index: number): string =>
      json["index"] === index ? frame(type, source.text) : frame(type, JSON.stringify({ ...json, index }))
    const part = chunk.delta[0]?.index
    switch (type) {
      case "message_start":
        if (started) return ""
        started = true
        return frame(type, source.text)
      case "content_block_start": {
        const before = begin() + release() + settle()
        const kind = kindOfBlock(json["content_block"])
        const index = nextIndex
        nextIndex += 1
        open = { index, kind, part }
        if (kind === "tool") calls = true
        return before + raw(index)
      }
      case "content_block_delta":
        if (open === undefined || (part !== undefined && open.part !== undefined && open.part !== part)) {
          return build(chunk)
        }
        open.part ??= part
        return raw(open.index)
      case "content_block_stop": {
        if (open === undefined) return build(chunk)
        const { index } = open
        open = undefined
        return raw(index)
      }
      case "message_delta": {
        const before = begin() + release() + settle()
        deltaWritten = true
        return before + frame(type, source.text)
      }
      case "message_stop":
        stopText = source.text
        return begin()
      default:
        return frame(type, source.text)
    }
  }

  return {
    push: (chunk) => {
      if ((chunk.choice ?? 0) !== 0) {
        // The figures are of the whole answer, whichever choice they come with.
        if (chunk.usage !== undefined) usage = chunk.usage
        return ""
      }
      note(chunk)
      const source = sourceOf(chunk, wire)
      if (source === undefined || !isJson(source.json)) return build(chunk)
      // One event may have given several chunks.
      if (source === lastSource) return ""
      lastSource = source
      return relay(source, source.json, chunk)
    },
    end: () => begin() + (deltaWritten ? release() + settle() : writeMessageDelta()) + frame("message_stop", stopText),
    error: (error) =>
      event({
        ...errorBody(error),
        type: "error",
        ...(options.requestId === undefined ? {} : { request_id: options.requestId })
      })
  }
}
