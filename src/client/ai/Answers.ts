/** The gateway's answers, whole and streamed, as the parts that `effect/ai` programs read. */
import { Stream } from "effect"
import { type Response, Tool } from "effect/ai"
import type { ChatChunk, ChatResponse, FinishReason, PartDelta } from "../../sdk/Chat.ts"
import type { Part, ReasoningPart } from "../../sdk/Content.ts"
import { totalCacheWrite, totalInput, totalOutput, type Usage } from "../../sdk/Usage.ts"
import { metadataKey } from "./Prompts.ts"

const finishReasons: { readonly [Reason in FinishReason]: Response.FinishReason } = {
  stop: "stop",
  length: "length",
  tool_calls: "tool-calls",
  content_filter: "content-filter",
  other: "other"
}

/** Tokens with their split between the cache and the rest, and between thinking and text. */
const usageOf = (usage: Usage | undefined): typeof Response.Usage.Encoded => {
  if (usage === undefined) return { inputTokens: {}, outputTokens: {} }
  const input = totalInput(usage)
  const cacheRead = usage.cacheReadTokens ?? 0
  const cacheWrite = totalCacheWrite(usage)
  const output = totalOutput(usage)
  const reasoning = usage.reasoningTokens ?? 0
  return {
    inputTokens: { total: input, uncached: input - cacheRead - cacheWrite, cacheRead, cacheWrite },
    outputTokens: { total: output, reasoning, text: Math.max(0, usage.outputTokens - reasoning) }
  }
}

/** What the gateway alone knows of an answer. */
interface Findings {
  readonly modelUsed?: string
  readonly usage?: Usage
}

const finish = (reason: FinishReason, { modelUsed, usage }: Findings): Response.FinishPartEncoded => ({
  type: "finish",
  reason: finishReasons[reason],
  usage: usageOf(usage),
  metadata: {
    [metadataKey]: {
      ...(modelUsed === undefined ? {} : { model_used: modelUsed }),
      ...(usage?.costEstimate === undefined ? {} : { cost_estimate: usage.costEstimate })
    }
  }
})

const started = (
  { created, id, model }: Pick<ChatChunk, "id" | "model" | "created">
): Response.ResponseMetadataPartEncoded => ({
  type: "response-metadata",
  id,
  modelId: model,
  ...(created === undefined ? {} : { timestamp: new Date(created * 1000).toISOString() })
})

type Signed = Pick<ReasoningPart, "signature" | "data" | "wire">

const signatures = ({ data, signature, wire }: Signed): Response.ReasoningPartMetadata => ({
  [metadataKey]: {
    ...(signature === undefined ? {} : { signature }),
    ...(data === undefined ? {} : { data }),
    ...(wire === undefined ? {} : { wire })
  }
})

/** A call's arguments; text that was cut off stays text, which the tool's own schema then refuses. */
const params = (json: string): unknown => {
  if (json.trim() === "") return {}
  try {
    return Tool.unsafeSecureJsonParse(json)
  } catch {
    return json
  }
}

const isInline = (part: Part): part is Extract<Part, { readonly type: "image" | "audio" }> =>
  (part.type === "image" || part.type === "audio") && part.source.type === "base64"

const filePart = (part: Part): ReadonlyArray<Response.FilePartEncoded> =>
  isInline(part) && part.source.type === "base64"
    ? [{ type: "file", mediaType: part.source.mediaType, data: part.source.data }]
    : []

const partsOf = (part: Part): ReadonlyArray<Response.PartEncoded> => {
  switch (part.type) {
    case "text":
    case "refusal":
      return [{ type: "text", text: part.text }]
    case "reasoning":
      return [{ type: "reasoning", text: part.text ?? "", metadata: signatures(part) }]
    case "tool_call":
      return [{ type: "tool-call", id: part.id, name: part.name, params: params(part.arguments) }]
    default:
      return filePart(part)
  }
}

/** A whole answer. */
export const answerParts = (response: ChatResponse): Array<Response.PartEncoded> => [
  started(response),
  ...response.content.flatMap(partsOf),
  finish(response.finishReason, response)
]

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/** A part that is on its way. */
type Open =
  | { readonly type: "text"; readonly id: string }
  | { readonly type: "reasoning"; readonly id: string; signed: Signed }
  | { readonly type: "tool_call"; readonly id: string; readonly name: string; json: string }

interface Progress {
  started: boolean
  readonly open: Map<number, Open>
  finished: FinishReason | undefined
  usage: Usage | undefined
}

type Emit = (part: Response.StreamPartEncoded) => void

const close = (part: Open, emit: Emit): void => {
  switch (part.type) {
    case "text":
      return emit({ type: "text-end", id: part.id })
    case "reasoning":
      return emit({ type: "reasoning-end", id: part.id, metadata: signatures(part.signed) })
    case "tool_call":
      emit({ type: "tool-params-end", id: part.id })
      return emit({ type: "tool-call", id: part.id, name: part.name, params: params(part.json) })
  }
}

/** Ends the parts before `index`: parts follow each other, and programs wait for a call's end to run it. */
const closeOthers = (progress: Progress, index: number, emit: Emit): void => {
  for (const [at, part] of progress.open) {
    // Calls may come interleaved.
    if (at === index || part.type === "tool_call") continue
    progress.open.delete(at)
    close(part, emit)
  }
}

const textDelta = (progress: Progress, index: number, delta: string, emit: Emit): void => {
  const id = String(index)
  if (!progress.open.has(index)) {
    progress.open.set(index, { type: "text", id })
    emit({ type: "text-start", id })
  }
  if (delta !== "") emit({ type: "text-delta", id, delta })
}

const readDelta = (progress: Progress, delta: PartDelta, emit: Emit): void => {
  const { index } = delta
  closeOthers(progress, index, emit)
  switch (delta.type) {
    case "text":
    case "refusal":
      return textDelta(progress, index, delta.text, emit)
    case "reasoning": {
      const id = String(index)
      const known = progress.open.get(index)
      const open = known?.type === "reasoning" ? known : { type: "reasoning" as const, id, signed: {} }
      if (known === undefined) {
        progress.open.set(index, open)
        emit({ type: "reasoning-start", id })
      }
      const { data, signature, wire } = delta
      open.signed = {
        ...open.signed,
        ...(signature === undefined ? {} : { signature: (open.signed.signature ?? "") + signature }),
        ...(data === undefined ? {} : { data: (open.signed.data ?? "") + data }),
        ...(wire === undefined ? {} : { wire })
      }
      if (delta.text !== undefined && delta.text !== "") emit({ type: "reasoning-delta", id, delta: delta.text })
      return
    }
    case "tool_call": {
      const known = progress.open.get(index)
      if (known === undefined) {
        const open = { type: "tool_call" as const, id: delta.id ?? String(index), name: delta.name ?? "", json: "" }
        progress.open.set(index, open)
        emit({ type: "tool-params-start", id: open.id, name: open.name })
      }
      const open = progress.open.get(index)
      if (open?.type !== "tool_call" || delta.arguments === undefined || delta.arguments === "") return
      open.json += delta.arguments
      emit({ type: "tool-params-delta", id: open.id, delta: delta.arguments })
      return
    }
    case "part":
      for (const file of filePart(delta.part)) emit(file)
      return
    default:
      return
  }
}

const read = (progress: Progress, chunk: ChatChunk): ReadonlyArray<Response.StreamPartEncoded> => {
  // Programs read one answer; others come only where `n` asks for them.
  if ((chunk.choice ?? 0) !== 0) return []
  const parts: Array<Response.StreamPartEncoded> = []
  const emit: Emit = (part) => void parts.push(part)
  if (!progress.started && chunk.id !== "") {
    progress.started = true
    emit(started(chunk))
  }
  for (const delta of chunk.delta) readDelta(progress, delta, emit)
  if (chunk.finishReason !== undefined) {
    progress.finished = chunk.finishReason
    for (const [at, part] of progress.open) {
      progress.open.delete(at)
      close(part, emit)
    }
  }
  if (chunk.usage !== undefined) progress.usage = chunk.usage
  return parts
}

/** A streamed answer. Its end is told with the last figures of usage. */
export const streamParts = <E, R>(
  chunks: Stream.Stream<ChatChunk, E, R>
): Stream.Stream<Response.StreamPartEncoded, E, R> =>
  Stream.mapAccum(
    chunks,
    (): Progress => ({ started: false, open: new Map(), finished: undefined, usage: undefined }),
    (progress, chunk) => [progress, read(progress, chunk)] as const,
    {
      onHalt: ({ finished, usage }) =>
        finished === undefined ? [] : [finish(finished, usage === undefined ? {} : { usage })]
    }
  )
