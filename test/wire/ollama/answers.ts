/** What the tests of the Ollama codec share: calls to decode for, and whole answers from chunks. */
import { assert } from "@effect/vitest"
import { Result } from "effect"
import type { ChatChunk, ChatRequest, FinishReason } from "../../../src/sdk/Chat.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import type { ModelInfo } from "../../../src/sdk/Model.ts"
import type { ChatCall, Failure } from "../../../src/sdk/Provider.ts"
import type { ResolvedTool } from "../../../src/sdk/Tool.ts"
import type { Usage } from "../../../src/sdk/Usage.ts"
import type { ChatStreamDecoder } from "../../../src/wire/Codec.ts"
import { ndjson } from "../../../src/wire/Framing.ts"

/** A call for a request, to a model that has only a name. */
export const callOf = ({ tools, ...request }: ChatRequest, model: Partial<ModelInfo> = {}): ChatCall => ({
  request: {
    ...request,
    ...(tools === undefined
      ? {}
      : { tools: tools.filter((tool): tool is ResolvedTool => tool.type === "unified" || tool.type === "opaque") })
  },
  model: { id: `ollama::${request.model}`, provider: "ollama", model: request.model, status: "active", ...model },
  connectTimeout: 1000
})

/** A request with one question. */
export const asking = (question: string, more: Partial<ChatRequest> = {}): ChatRequest => ({
  model: "llama3",
  messages: [{ role: "user", content: [{ type: "text", text: question }] }],
  ...more
})

/** The value of a result, or the test fails with what the result failed with. */
export const success = <A, E>(result: Result.Result<A, E>): A => {
  if (Result.isFailure(result)) assert.fail(`expected a value, got ${JSON.stringify(result.failure)}`)
  return result.success
}

/** The error of a result, or the test fails. */
export const failure = <A, E>(result: Result.Result<A, E>): E => {
  if (Result.isSuccess(result)) assert.fail(`expected a failure, got ${JSON.stringify(result.success)}`)
  return result.failure
}

/** A whole answer, joined from the chunks of a stream. */
export interface Joined {
  readonly ids: ReadonlySet<string>
  readonly content: ReadonlyArray<Part>
  readonly finishReason?: FinishReason
  readonly usage?: Usage
}

/** Joins chunks by part index, as `PartDelta` defines it. */
export const joinChunks = (chunks: ReadonlyArray<ChatChunk>): Joined => {
  const parts: Array<Part> = []
  const ids = new Set<string>()
  let finishReason: FinishReason | undefined
  let usage: Usage | undefined
  for (const chunk of chunks) {
    ids.add(chunk.id)
    finishReason = chunk.finishReason ?? finishReason
    usage = chunk.usage ?? usage
    for (const delta of chunk.delta) {
      assert.isAtMost(delta.index, parts.length, "indexes are dense")
      const before = parts[delta.index]
      if (delta.type === "part") parts[delta.index] = delta.part
      else if (delta.type === "text") {
        parts[delta.index] = { type: "text", text: (before?.type === "text" ? before.text : "") + delta.text }
      } else if (delta.type === "reasoning") {
        const text = (before?.type === "reasoning" ? before.text ?? "" : "") + (delta.text ?? "")
        parts[delta.index] = { type: "reasoning", text, ...(delta.wire === undefined ? {} : { wire: delta.wire }) }
      } else if (delta.type === "tool_call") {
        const call = before?.type === "tool_call"
          ? before
          : { type: "tool_call", id: "", name: "", arguments: "" } as const
        parts[delta.index] = {
          ...call,
          id: delta.id ?? call.id,
          name: delta.name ?? call.name,
          arguments: call.arguments + (delta.arguments ?? "")
        }
      } else assert.fail(`Ollama never streams ${delta.type}`)
    }
  }
  return {
    ids,
    content: parts,
    ...(finishReason === undefined ? {} : { finishReason }),
    ...(usage === undefined ? {} : { usage })
  }
}

/** Cuts bytes with the NDJSON framing, in pieces of `size`, and decodes them; stops at the first failure. */
export const decodeBytes = (
  decoder: ChatStreamDecoder,
  bytes: Uint8Array,
  size: number
): Result.Result<ReadonlyArray<ChatChunk>, Failure> => {
  const framing = ndjson()
  const chunks: Array<ChatChunk> = []
  for (let at = 0; at <= bytes.length; at += size) {
    const last = at + size > bytes.length
    const pieces = [success(framing.push(bytes.subarray(at, at + size))), last ? success(framing.end()) : []]
    for (const event of pieces.flat()) {
      const pushed = decoder.push(event.data, event.event)
      if (Result.isFailure(pushed)) return Result.fail(pushed.failure)
      chunks.push(...pushed.success)
    }
  }
  return Result.map(decoder.end(), (rest) => [...chunks, ...rest])
}
