/** What the tests of this wire share: calls, unwrapped results, recordings, and a reader of whole streams. */
import { assert } from "@effect/vitest"
import { Result } from "effect"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import type { ChatChunk, ChatRequest } from "../../../src/sdk/Chat.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import type { ModelInfo } from "../../../src/sdk/Model.ts"
import type { ChatCall, Failure } from "../../../src/sdk/Provider.ts"
import type { ResolvedTool } from "../../../src/sdk/Tool.ts"
import type { Usage } from "../../../src/sdk/Usage.ts"
import { anthropicMessages } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import { isJson, isList } from "../../../src/wire/Json.ts"
import type { EncodedRequest, Json } from "../../../src/wire/Codec.ts"
import { type Framing, sse, type WireEvent } from "../../../src/wire/Framing.ts"

export const user = (text: string) => ({ role: "user", content: [{ type: "text", text }] }) as const
export const assistant = (text: string) => ({ role: "assistant", content: [{ type: "text", text }] }) as const

/** Takes manual thinking, structured output and sampling parameters. */
export const manual = "claude-sonnet-4-5"
/** Takes adaptive thinking only, and no sampling parameters. */
export const adaptive = "claude-opus-4-8"
/** Has no structured output of its own. */
export const early = "claude-sonnet-4-20250514"

export const request = (fields: Partial<ChatCall["request"]> = {}): ChatCall["request"] => ({
  model: "anthropic::claude",
  messages: [user("Hello")],
  ...fields
})

export const callOf = (
  fields: Partial<ChatCall["request"]> = {},
  model: string = manual,
  info: Partial<ModelInfo> = {}
): ChatCall => ({
  request: request(fields),
  model: { id: `anthropic::${model}`, provider: "anthropic", model, status: "active", ...info },
  connectTimeout: 1000
})

export const success = <A, E>(result: Result.Result<A, E>): A => {
  if (Result.isSuccess(result)) return result.success
  return assert.fail(`expected success, got ${JSON.stringify(result.failure)}`)
}

export const failure = <A, E>(result: Result.Result<A, E>): E => {
  if (Result.isFailure(result)) return result.failure
  return assert.fail(`expected a failure, got ${JSON.stringify(result.success)}`)
}

export const encode = (
  fields: Partial<ChatCall["request"]> = {},
  model: string = manual,
  info: Partial<ModelInfo> = {}
): EncodedRequest => success(anthropicMessages.encodeRequest(callOf(fields, model, info), false))

/** A copy with some fields changed. As with any copy, its source is gone. */
export const change = <A extends object>(value: A, fields: Partial<A> = {}): A => ({ ...value, ...fields })

/** The field that a request is refused for. */
export const refusedField = (fields: Partial<ChatCall["request"]>, model: string = manual): string | undefined =>
  failure(anthropicMessages.encodeRequest(callOf(fields, model), false)).field

const isResolved = (tool: { readonly type: string }): tool is ResolvedTool =>
  tool.type === "unified" || tool.type === "opaque"

/** The call that a decoded request becomes when its tools need no resolving. */
export const callFor = (decoded: ChatRequest): ChatCall => {
  const { tools, ...rest } = decoded
  const resolved = tools === undefined ? {} : { tools: tools.filter(isResolved) }
  return { ...callOf({}, decoded.model), request: { ...rest, ...resolved } }
}

export const chatRequest: ChatRequest = { model: "claude", messages: [user("Hello")] }

// ---------------------------------------------------------------------------------------------------------------------
// Reading JSON
// ---------------------------------------------------------------------------------------------------------------------

/** Walks into a JSON value; `undefined` where the way ends. */
export const at = (json: unknown, ...path: ReadonlyArray<string | number>): unknown => {
  let value = json
  for (const key of path) {
    if (typeof key === "number") value = isList(value) ? value[key] : undefined
    else value = isJson(value) ? value[key] : undefined
  }
  return value
}

export const list = (json: unknown): ReadonlyArray<unknown> => isList(json) ? json : []

export const object = (json: unknown): Json => isJson(json) ? json : assert.fail("expected an object")

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/** A streamed answer put together. */
export interface Whole {
  readonly content: ReadonlyArray<Part>
  readonly finishReason: string | undefined
  readonly nativeFinishReason: string | undefined
  readonly stopSequence: string | undefined
  readonly usage: Usage | undefined
  readonly id: string
  readonly model: string
}

const append = (before: string | undefined, more: string | undefined) =>
  more === undefined ? before : (before ?? "") + more
const text = (value: string | undefined) => value === undefined ? {} : { text: value }

const joinPart = (before: Part | undefined, delta: ChatChunk["delta"][number]): Part => {
  switch (delta.type) {
    case "text": {
      const earlier = before?.type === "text" ? before : undefined
      const citations = [...(earlier?.citations ?? []), ...(delta.citations ?? [])]
      return {
        type: "text",
        text: (earlier?.text ?? "") + delta.text,
        ...(citations.length === 0 ? {} : { citations })
      }
    }
    case "reasoning": {
      const earlier = before?.type === "reasoning" ? before : undefined
      const signature = append(earlier?.signature, delta.signature)
      const data = append(earlier?.data, delta.data)
      const wire = delta.wire ?? earlier?.wire
      return {
        type: "reasoning",
        ...text(append(earlier?.text, delta.text)),
        ...(signature === undefined ? {} : { signature }),
        ...(data === undefined ? {} : { data }),
        ...(wire === undefined ? {} : { wire })
      }
    }
    case "refusal":
      return { type: "refusal", text: (before?.type === "refusal" ? before.text : "") + delta.text }
    case "tool_call": {
      const earlier = before?.type === "tool_call" ? before : undefined
      return {
        type: "tool_call",
        id: earlier?.id ?? delta.id ?? "",
        name: earlier?.name ?? delta.name ?? "",
        arguments: (earlier?.arguments ?? "") + (delta.arguments ?? "")
      }
    }
    case "part":
      return delta.part
    default:
      return assert.fail("no audio in these streams")
  }
}

/** Joins chunks, and checks what every canonical stream keeps: dense places, one finish reason. */
export const join = (chunks: ReadonlyArray<ChatChunk>): Whole => {
  const content: Array<Part> = []
  const finishes = chunks.filter((chunk) => chunk.finishReason !== undefined)
  for (const chunk of chunks) {
    for (const delta of chunk.delta) {
      assert.isAtMost(delta.index, content.length, "the places of parts are dense")
      content[delta.index] = joinPart(content[delta.index], delta)
    }
  }
  assert.isAtMost(finishes.length, 1, "one chunk has the finish reason")
  const finish = finishes[0]
  return {
    content,
    finishReason: finish?.finishReason,
    nativeFinishReason: finish?.nativeFinishReason,
    stopSequence: finish?.stopSequence,
    usage: chunks.findLast((chunk) => chunk.usage !== undefined)?.usage,
    id: chunks.at(-1)?.id ?? "",
    model: chunks.at(-1)?.model ?? ""
  }
}

/** What came out of a stream before it ended or failed. */
export interface Streamed {
  readonly chunks: ReadonlyArray<ChatChunk>
  readonly failure: Failure | undefined
}

/** Feeds a body to framing and decoder in pieces of `size` bytes, and then its end. */
export const readStream = (body: string, call: ChatCall, size = Number.MAX_SAFE_INTEGER): Streamed => {
  const framing: Framing = sse()
  const decoder = anthropicMessages.streamDecoder(call)
  const bytes = new TextEncoder().encode(body)
  const chunks: Array<ChatChunk> = []
  const feed = (events: ReadonlyArray<WireEvent>): Failure | undefined => {
    for (const event of events) {
      const got = decoder.push(event.data, event.event)
      if (Result.isFailure(got)) return got.failure
      chunks.push(...got.success)
    }
    return undefined
  }
  for (let from = 0; from < bytes.length; from += size) {
    const failed = feed(success(framing.push(bytes.subarray(from, from + size))))
    if (failed !== undefined) return { chunks, failure: failed }
  }
  const failed = feed(success(framing.end()))
  if (failed !== undefined) return { chunks, failure: failed }
  const end = decoder.end()
  if (Result.isFailure(end)) return { chunks, failure: end.failure }
  return { chunks: [...chunks, ...end.success], failure: undefined }
}

/** Events as a server sends them. */
export const frames = (events: ReadonlyArray<Json>): string =>
  events.map((event) => `event: ${String(event["type"])}\ndata: ${JSON.stringify(event)}\n\n`).join("")

/** The events of an encoded stream, parsed. */
export const eventsOf = (body: string): ReadonlyArray<Json> => {
  const framing = sse()
  const events = [...success(framing.push(new TextEncoder().encode(body))), ...success(framing.end())]
  return events.map(({ data, event }) => {
    const json = object(JSON.parse(data))
    assert.strictEqual(json["type"], event, "the event's name is its data's type")
    return json
  })
}

/** Writes chunks as a complete stream. */
export const writeStream = (chunks: ReadonlyArray<ChatChunk>): string => {
  const encoder = anthropicMessages.streamEncoder(chatRequest)
  return chunks.map((chunk) => encoder.push(chunk)).join("") + encoder.end()
}

// ---------------------------------------------------------------------------------------------------------------------
// Recordings
// ---------------------------------------------------------------------------------------------------------------------

export interface Recording {
  readonly name: string
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly requestBody: unknown
  /** The body of a whole answer, as it came and parsed. */
  readonly body: { readonly text: string; readonly json: unknown } | undefined
  /** The body of a stream. */
  readonly stream: string | undefined
  readonly expect: Json
}

// @effect-diagnostics-next-line processEnv:off
const elsewhere = process.env["LLM_GATEWAY_RECORDINGS"]
const root = elsewhere ?? fileURLToPath(new URL("../../../../shared/recordings", import.meta.url))
const folder = `${root}/anthropic`

export const hasRecordings = existsSync(folder)

const read = (file: string): Recording => {
  const json: unknown = JSON.parse(readFileSync(`${folder}/${file}`, "utf8"))
  const response = object(at(json, "response"))
  const text = response["body_text"]
  const lines = response["sse"]
  const headers: Record<string, string> = {}
  for (const [key, value] of Object.entries(object(response["headers"]))) headers[key] = String(value)
  return {
    name: file.replace(/\.json$/, ""),
    status: Number(response["status"]),
    headers,
    requestBody: at(json, "request", "body"),
    body: response["body"] === undefined
      ? undefined
      : { text: typeof text === "string" ? text : JSON.stringify(response["body"]), json: response["body"] },
    stream: isList(lines) ? lines.join("\n") : undefined,
    expect: object(at(json, "expect") ?? {})
  }
}

/** The recordings of chats; batches are another endpoint. */
export const chatRecordings = (): ReadonlyArray<Recording> =>
  hasRecordings
    ? readdirSync(folder).filter((file) => !file.startsWith("batch") && !file.startsWith("models")).map(read)
    : []

export const modelsRecording = (): Recording => read("models-list.json")
