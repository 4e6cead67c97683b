/** Between a whole answer and its stream: joins chunks into the response that they are, and cuts a response into chunks. */
import { Effect, Stream } from "effect"
import type { Alternative, ChatChunk, ChatResponse, FinishReason, PartDelta } from "./Chat.ts"
import type { Part } from "./Content.ts"
import type { Usage } from "./Usage.ts"

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

interface Choice {
  readonly parts: Map<number, Part>
  finishReason: FinishReason
  nativeFinishReason: string | undefined
  stopSequence: string | undefined
}

interface Collected {
  id: string
  model: string
  created: number | undefined
  usage: Usage | undefined
  droppedParams: ReadonlyArray<string> | undefined
  readonly choices: Map<number, Choice>
}

/** Joins a delta with what its part held before. */
const grow = (part: Part | undefined, delta: PartDelta): Part => {
  switch (delta.type) {
    case "text": {
      const before = part?.type === "text" ? part : { type: "text" as const, text: "" }
      const citations = delta.citations === undefined
        ? before.citations
        : [...(before.citations ?? []), ...delta.citations]
      return { ...before, text: before.text + delta.text, ...(citations === undefined ? {} : { citations }) }
    }
    case "refusal":
      return { type: "refusal", text: (part?.type === "refusal" ? part.text : "") + delta.text }
    case "reasoning": {
      const grown: Mutable<Extract<Part, { type: "reasoning" }>> = part?.type === "reasoning"
        ? { ...part }
        : { type: "reasoning" }
      if (delta.text !== undefined) grown.text = (grown.text ?? "") + delta.text
      if (delta.signature !== undefined) grown.signature = (grown.signature ?? "") + delta.signature
      if (delta.data !== undefined) grown.data = (grown.data ?? "") + delta.data
      if (delta.wire !== undefined) grown.wire = delta.wire
      return grown
    }
    case "tool_call": {
      const before = part?.type === "tool_call" ? part : { type: "tool_call" as const, id: "", name: "", arguments: "" }
      return {
        ...before,
        id: delta.id ?? before.id,
        name: delta.name ?? before.name,
        arguments: before.arguments + (delta.arguments ?? "")
      }
    }
    case "audio": {
      const before = part?.type === "audio" ? part : undefined
      const data = (before?.source.type === "base64" ? before.source.data : "") + (delta.data ?? "")
      const mediaType = delta.mediaType ?? (before?.source.type === "base64" ? before.source.mediaType : "audio/pcm")
      const grown: Mutable<Extract<Part, { type: "audio" }>> = {
        ...before,
        type: "audio",
        source: { type: "base64", mediaType, data }
      }
      if (delta.id !== undefined) grown.id = delta.id
      if (delta.expiresAt !== undefined) grown.expiresAt = delta.expiresAt
      if (delta.transcript !== undefined) grown.transcript = (grown.transcript ?? "") + delta.transcript
      return grown
    }
    case "part":
      return delta.part
  }
}

const take = (collected: Collected, chunk: ChatChunk): Collected => {
  collected.id ||= chunk.id
  collected.model ||= chunk.model
  collected.created ??= chunk.created
  if (chunk.usage !== undefined) collected.usage = chunk.usage
  if (chunk.droppedParams !== undefined) collected.droppedParams = chunk.droppedParams
  const index = chunk.choice ?? 0
  let choice = collected.choices.get(index)
  if (choice === undefined) {
    choice = { parts: new Map(), finishReason: "other", nativeFinishReason: undefined, stopSequence: undefined }
    collected.choices.set(index, choice)
  }
  for (const delta of chunk.delta) choice.parts.set(delta.index, grow(choice.parts.get(delta.index), delta))
  if (chunk.finishReason !== undefined) choice.finishReason = chunk.finishReason
  choice.nativeFinishReason = chunk.nativeFinishReason ?? choice.nativeFinishReason
  choice.stopSequence = chunk.stopSequence ?? choice.stopSequence
  return collected
}

const answer = (choice: Choice | undefined): Alternative => ({
  content: choice === undefined
    ? []
    : Array.from(choice.parts.entries()).sort(([a], [b]) => a - b).map(([, part]) => part),
  finishReason: choice?.finishReason ?? "other",
  ...(choice?.nativeFinishReason === undefined ? {} : { nativeFinishReason: choice.nativeFinishReason }),
  ...(choice?.stopSequence === undefined ? {} : { stopSequence: choice.stopSequence })
})

/** Reads a stream to its end and joins it into the response that it is. Fails as the stream fails. */
export const collect = <E, R>(chunks: Stream.Stream<ChatChunk, E, R>): Effect.Effect<ChatResponse, E, R> =>
  Stream.runFold(
    chunks,
    (): Collected => ({
      id: "",
      model: "",
      created: undefined,
      usage: undefined,
      droppedParams: undefined,
      choices: new Map()
    }),
    take
  ).pipe(Effect.map(response))

const response = (collected: Collected): ChatResponse => {
  const others = Array.from(collected.choices.entries()).filter(([index]) => index !== 0).sort(([a], [b]) => a - b)
  return {
    id: collected.id,
    model: collected.model,
    ...(collected.created === undefined ? {} : { created: collected.created }),
    ...answer(collected.choices.get(0)),
    ...(others.length === 0 ? {} : { alternatives: others.map(([, choice]) => answer(choice)) }),
    ...(collected.usage === undefined ? {} : { usage: collected.usage }),
    ...(collected.droppedParams === undefined ? {} : { droppedParams: collected.droppedParams })
  }
}

const wholeDelta = (part: Part, index: number): PartDelta => {
  switch (part.type) {
    case "text":
      return {
        type: "text",
        index,
        text: part.text,
        ...(part.citations === undefined ? {} : { citations: part.citations })
      }
    case "refusal":
      return { type: "refusal", index, text: part.text }
    case "reasoning": {
      const { extensions: _, ...rest } = part
      return { ...rest, index }
    }
    case "tool_call":
      return { type: "tool_call", index, id: part.id, name: part.name, arguments: part.arguments }
    default:
      return { type: "part", index, part }
  }
}

/** A whole answer as the chunks of a stream: its parts, its finish reasons, its usage. */
export const chunksOf = (response: ChatResponse): ReadonlyArray<ChatChunk> => {
  const head = {
    id: response.id,
    model: response.model,
    ...(response.created === undefined ? {} : { created: response.created })
  }
  const chunks: Array<ChatChunk> = []
  for (const [choice, answered] of [response, ...(response.alternatives ?? [])].entries()) {
    const at = choice === 0 ? {} : { choice }
    for (const [index, part] of answered.content.entries()) {
      chunks.push({ ...head, ...at, delta: [wholeDelta(part, index)] })
    }
    chunks.push({
      ...head,
      ...at,
      delta: [],
      finishReason: answered.finishReason,
      ...(answered.nativeFinishReason === undefined ? {} : { nativeFinishReason: answered.nativeFinishReason }),
      ...(answered.stopSequence === undefined ? {} : { stopSequence: answered.stopSequence })
    })
  }
  if (response.usage !== undefined) chunks.push({ ...head, delta: [], usage: response.usage })
  return chunks
}
