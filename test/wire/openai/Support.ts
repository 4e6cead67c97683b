/** What the tests of the OpenAI wire share: calls to a model, recordings, and streams fed and gathered. */
import { assert } from "@effect/vitest"
import { Result } from "effect"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import type { ChatChunk, ChatRequest, PartDelta } from "../../../src/sdk/Chat.ts"
import type { ModelInfo } from "../../../src/sdk/Model.ts"
import type { ChatCall, Failure } from "../../../src/sdk/Provider.ts"
import type { ResolvedTool } from "../../../src/sdk/Tool.ts"
import type { Usage } from "../../../src/sdk/Usage.ts"
import { type ChatStreamDecoder, type ChatStreamEncoder, type Json } from "../../../src/wire/Codec.ts"
import { sse } from "../../../src/wire/Framing.ts"
import { makeOpenAiChat } from "../../../src/wire/openai/OpenAiChat.ts"
import { isJson } from "../../../src/wire/Json.ts"

/** The time that the codec under test believes in, Unix seconds. */
export const now = 1_790_000_000

/** The codec under test. */
export const codec = makeOpenAiChat(() => now)

const model: ModelInfo = { id: "openai::gpt-x", provider: "openai", model: "gpt-x", status: "active" }

/** A call of a request; the model is called `gpt-x` upstream unless it is given. */
export const callOf = (request: ChatRequest, info: Partial<ModelInfo> = {}): ChatCall => {
  const { tools, ...others } = request
  const resolved = tools?.filter((tool): tool is ResolvedTool => tool.type === "unified" || tool.type === "opaque")
  return {
    request: { ...others, ...(resolved === undefined ? {} : { tools: resolved }) },
    model: copyOf(model, info),
    connectTimeout: 1000
  }
}

/** A request of one user message. */
export const plain = (fields: Partial<ChatRequest> = {}): ChatRequest => ({
  model: "gpt-x",
  messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
  ...fields
})

/** A copy of a value with some fields changed. A copy forgets the original that the value was read from. */
export const copyOf = <A extends object>(value: A, fields: Partial<A> = {}): A => Object.assign({}, value, fields)

/** The value of a result that must be a success. */
export const ok = <A, E>(result: Result.Result<A, E>): A => {
  if (Result.isFailure(result)) assert.fail(`unexpected failure: ${JSON.stringify(result.failure)}`)
  return result.success
}

/** The error of a result that must be a failure. */
export const err = <A, E>(result: Result.Result<A, E>): E => {
  if (Result.isSuccess(result)) assert.fail("unexpected success")
  return result.failure
}

/** Reads an object out of JSON. */
export const json = (value: unknown): Json => {
  assert.isTrue(isJson(value), "expected a JSON object")
  return isJson(value) ? value : {}
}

/** A member of JSON by its path. */
export const at = (value: unknown, ...path: ReadonlyArray<string | number>): unknown => {
  let found: unknown = value
  for (const key of path) {
    if (Array.isArray(found)) found = found[Number(key)]
    else found = isJson(found) ? found[String(key)] : undefined
  }
  return found
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/** Feeds events (objects, or raw data) to a decoder and ends it. */
export const decodeStream = (
  events: ReadonlyArray<unknown>,
  decoder: ChatStreamDecoder = codec.streamDecoder(callOf(plain()))
): Result.Result<ReadonlyArray<ChatChunk>, Failure> => {
  const chunks: Array<ChatChunk> = []
  for (const event of events) {
    const pushed = decoder.push(typeof event === "string" ? event : JSON.stringify(event), "message")
    if (Result.isFailure(pushed)) return Result.fail(pushed.failure)
    chunks.push(...pushed.success)
  }
  const ended = decoder.end()
  return Result.isFailure(ended) ? Result.fail(ended.failure) : Result.succeed([...chunks, ...ended.success])
}

/** A chunk of one choice, as OpenAI streams it. */
export const event = (delta: Json, fields: Json = {}, more: Json = {}): Json => ({
  id: "c1",
  object: "chat.completion.chunk",
  created: 1,
  model: "m",
  choices: [{ index: 0, delta, finish_reason: null, ...fields }],
  ...more
})

/** What a stream says, gathered by choice and part. */
export interface Gathered {
  readonly text: string
  readonly reasoning: string
  readonly refusal: string
  readonly calls: ReadonlyArray<{ readonly id: string; readonly name: string; readonly arguments: string }>
  readonly finishReason: string | undefined
  /** Kinds in the order of the parts. */
  readonly kinds: ReadonlyArray<string>
}

/** Joins the deltas of one choice. */
export const gather = (chunks: ReadonlyArray<ChatChunk>, choice = 0): Gathered => {
  const parts = new Map<number, { kind: string; text: string; id: string; name: string }>()
  let finishReason: string | undefined
  const add = (delta: PartDelta) => {
    const part = parts.get(delta.index) ?? { kind: delta.type, text: "", id: "", name: "" }
    assert.strictEqual(part.kind, delta.type, "a part keeps its kind")
    parts.set(delta.index, part)
    if (delta.type === "tool_call") {
      part.id ||= delta.id ?? ""
      part.name ||= delta.name ?? ""
      part.text += delta.arguments ?? ""
    } else if (delta.type === "text" || delta.type === "reasoning" || delta.type === "refusal") {
      part.text += delta.text ?? ""
    }
  }
  for (const chunk of chunks) {
    if ((chunk.choice ?? 0) !== choice) continue
    for (const delta of chunk.delta) add(delta)
    finishReason = chunk.finishReason ?? finishReason
  }
  const ordered = Array.from(parts).sort((a, b) => a[0] - b[0])
  assert.deepStrictEqual(ordered.map(([index]) => index), ordered.map((_, index) => index), "positions are dense")
  const of = (kind: string) => ordered.filter(([, part]) => part.kind === kind).map(([, part]) => part)
  const joined = (kind: string) => of(kind).map((part) => part.text).join("")
  return {
    text: joined("text"),
    reasoning: joined("reasoning"),
    refusal: joined("refusal"),
    calls: of("tool_call").map(({ id, name, text }) => ({ id, name, arguments: text })),
    finishReason,
    kinds: ordered.map(([, part]) => part.kind)
  }
}

/** The last usage of a stream. */
export const usageOf = (chunks: ReadonlyArray<ChatChunk>): Usage | undefined =>
  chunks.findLast((chunk) => chunk.usage !== undefined)?.usage

/** Everything that an encoder writes for some chunks, without its end. */
export const written = (encoder: ChatStreamEncoder, chunks: ReadonlyArray<ChatChunk>): string =>
  chunks.map((chunk) => encoder.push(chunk)).join("")

/** The data of the events in some SSE text. */
export const dataOf = (text: string): ReadonlyArray<string> => {
  const framing = sse()
  const bytes = new TextEncoder().encode(text)
  return [...ok(framing.push(bytes)), ...ok(framing.end())].map(({ data }) => data)
}

/** The same, parsed, without `[DONE]`. */
export const eventsOf = (text: string): ReadonlyArray<Json> =>
  dataOf(text).filter((data) => data !== "[DONE]").map((data) => json(JSON.parse(data)))

// ---------------------------------------------------------------------------------------------------------------------
// Recordings
// ---------------------------------------------------------------------------------------------------------------------

// Read while tests are collected, where no Effect runs yet.
// @effect-diagnostics-next-line processEnv:off
const folderOfRecordings = process.env["LLM_GATEWAY_RECORDINGS"]

/** Where the recordings are; they are not part of the repository. */
export const recordings = folderOfRecordings ?? join(import.meta.dirname, "../../../../shared/recordings")

/** One recorded exchange. */
export interface Recording {
  readonly name: string
  readonly request: Json
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
  readonly bodyText: string | undefined
  readonly sse: ReadonlyArray<string> | undefined
  readonly expect: Json
}

const load = (folder: string, file: string): Recording | undefined => {
  const recording: unknown = JSON.parse(readFileSync(join(recordings, folder, file), "utf8"))
  if (at(recording, "request", "path") !== "/v1/chat/completions") return undefined
  const request = at(recording, "request", "body")
  const lines = at(recording, "response", "sse")
  const headers = Object.entries(json(at(recording, "response", "headers"))).map(([key, value]) => [key, String(value)])
  const bodyText = at(recording, "response", "body_text")
  return {
    name: `${folder}/${file}`,
    request: json(request),
    status: Number(at(recording, "response", "status")),
    headers: Object.fromEntries(headers),
    body: at(recording, "response", "body"),
    bodyText: typeof bodyText === "string" ? bodyText : undefined,
    sse: Array.isArray(lines) ? lines.map(String) : undefined,
    expect: json(at(recording, "expect"))
  }
}

/** Every recorded chat exchange of the OpenAI wire; none where the recordings are not there. */
export const chatRecordings: ReadonlyArray<Recording> = ["openai", "ollama"].flatMap((folder) =>
  existsSync(join(recordings, folder))
    ? readdirSync(join(recordings, folder)).sort().map((file) => load(folder, file)).filter((loaded) =>
      loaded !== undefined
    )
    : []
)
