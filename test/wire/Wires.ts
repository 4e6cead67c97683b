/** What the tests of all wires together share: the codecs, calls to them, streams fed and checked against each wire's grammar. */
import { assert } from "@effect/vitest"
import { Result } from "effect"
import type { ChatChunk, ChatRequest } from "../../src/sdk/Chat.ts"
import type { ModelInfo } from "../../src/sdk/Model.ts"
import type { ChatCall, Failure } from "../../src/sdk/Provider.ts"
import type { ResolvedTool } from "../../src/sdk/Tool.ts"
import { anthropicMessages } from "../../src/wire/anthropic/AnthropicMessages.ts"
import type { ChatDialectCodec, ChatUpstreamCodec, EncodedRequest, Json } from "../../src/wire/Codec.ts"
import { ndjson, sse, type WireEvent } from "../../src/wire/Framing.ts"
import { isJson, isList, parseJson } from "../../src/wire/Json.ts"
import { ollamaChat } from "../../src/wire/ollama/OllamaChat.ts"
import { makeOpenAiChat } from "../../src/wire/openai/OpenAiChat.ts"

/** The wires by their names. */
export const wires = ["openai", "anthropic", "ollama"] as const
export type WireName = (typeof wires)[number]

/** The codecs under test. */
export const codecs: Readonly<Record<WireName, ChatUpstreamCodec & ChatDialectCodec>> = {
  openai: makeOpenAiChat(() => 1_790_000_000),
  anthropic: anthropicMessages,
  ollama: ollamaChat
}

const models: Readonly<Record<WireName, string>> = {
  openai: "gpt-x",
  anthropic: "claude-sonnet-4-20250514",
  ollama: "llama3"
}

/** A call of a request to the model that stands for a wire. */
export const callOf = (request: ChatRequest, wire: WireName, info: Partial<ModelInfo> = {}): ChatCall => {
  const { tools, ...others } = request
  const resolved = tools?.filter((tool): tool is ResolvedTool => tool.type === "unified" || tool.type === "opaque")
  return {
    request: { ...others, ...(resolved === undefined ? {} : { tools: resolved }) },
    model: { id: `p::${models[wire]}`, provider: "p", model: models[wire], status: "active", ...info },
    connectTimeout: 1000
  }
}

/** A request of one user message. */
export const plain: ChatRequest = { model: "m", messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] }

/** The same, by a caller who wants to see usage in OpenAI's stream. */
export const withUsage: ChatRequest = {
  ...plain,
  extensions: { openai: { stream_options: { include_usage: true } } }
}

/** The value of a result that must be a success. */
export const ok = <A, E>(result: Result.Result<A, E>): A => {
  if (Result.isFailure(result)) assert.fail(`unexpected failure: ${JSON.stringify(result.failure)}`)
  return result.success
}

/** What a caller of one dialect sends, as another wire's upstream gets it. */
export const sent = (from: WireName, to: WireName, body: Json, info: Partial<ModelInfo> = {}): EncodedRequest =>
  ok(codecs[to].encodeRequest(callOf(ok(codecs[from].decodeRequest(body)), to, info), body["stream"] === true))

/** A member of JSON by its path. */
export const at = (value: unknown, ...path: ReadonlyArray<string | number>): unknown => {
  let found = value
  for (const key of path) {
    if (isList(found)) found = found[Number(key)]
    else found = isJson(found) ? found[key] : undefined
  }
  return found
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/** Cuts a stream's text into events, the bytes in pieces of `size`. */
export const eventsOf = (wire: WireName, text: string, size = 1024): ReadonlyArray<WireEvent> => {
  const framing = wire === "ollama" ? ndjson() : sse()
  const bytes = new TextEncoder().encode(text)
  const events: Array<WireEvent> = []
  for (let from = 0; from < bytes.length; from += size) {
    events.push(...ok(framing.push(bytes.subarray(from, from + size))))
  }
  events.push(...ok(framing.end()))
  return events
}

/** Writes chunks as a caller of a dialect sees them. */
export const written = (wire: WireName, chunks: ReadonlyArray<ChatChunk>, request: ChatRequest = withUsage): string => {
  const encoder = codecs[wire].streamEncoder(request)
  let text = ""
  for (const chunk of chunks) text += encoder.push(chunk)
  return text + encoder.end()
}

/** Reads a stream's text. */
export const read = (
  wire: WireName,
  text: string,
  size = 1024
): { readonly chunks: ReadonlyArray<ChatChunk>; readonly failure: Failure | undefined } => {
  const decoder = codecs[wire].streamDecoder(callOf(plain, wire))
  const chunks: Array<ChatChunk> = []
  for (const { data, event } of eventsOf(wire, text, size)) {
    const pushed = decoder.push(data, event)
    if (Result.isFailure(pushed)) return { chunks, failure: pushed.failure }
    chunks.push(...pushed.success)
  }
  const ended = decoder.end()
  return Result.isFailure(ended) ? { chunks, failure: ended.failure } : { chunks, failure: undefined }
}

const jsonOf = (event: WireEvent): Json => {
  const json = parseJson(event.data)
  assert.isTrue(isJson(json), event.data)
  return isJson(json) ? json : {}
}

const checkOpenAi = (text: string): void => {
  const events = eventsOf("openai", text)
  assert.strictEqual(events.at(-1)?.data, "[DONE]", "[DONE] is last")
  const begun = new Set<unknown>()
  const finished = new Set<unknown>()
  const calls = new Map<unknown, Set<unknown>>()
  let usages = 0
  for (const event of events.slice(0, -1)) {
    const json = jsonOf(event)
    const choices = json["choices"]
    if (!isList(choices)) assert.fail("every chunk has choices")
    if (isJson(json["usage"])) {
      usages += 1
      assert.deepStrictEqual(choices, [])
    } else assert.strictEqual(usages, 0, "usage comes last")
    for (const choice of choices) {
      const index = at(choice, "index")
      assert.isFalse(finished.has(index), "nothing follows a finish reason")
      const role = at(choice, "delta", "role")
      assert.strictEqual(role === "assistant", !begun.has(index), "one role, in the first chunk of a choice")
      begun.add(index)
      const toolCalls = at(choice, "delta", "tool_calls")
      for (const call of isList(toolCalls) ? toolCalls : []) {
        const known = calls.get(index) ?? new Set()
        calls.set(index, known)
        const number = at(call, "index")
        if (!known.has(number)) {
          assert.strictEqual(number, known.size, "calls are counted from 0")
          assert.isString(at(call, "id"))
          assert.strictEqual(at(call, "type"), "function")
        } else assert.isUndefined(at(call, "id"), "an id is told once")
        known.add(number)
      }
      if (typeof at(choice, "finish_reason") === "string") finished.add(index)
    }
  }
  assert.deepStrictEqual([...begun].filter((index) => !finished.has(index)), [], "every choice finishes")
  assert.isAtMost(usages, 1)
}

const checkAnthropic = (text: string): void => {
  const types: Array<unknown> = []
  let open: number | undefined
  let next = 0
  for (const event of eventsOf("anthropic", text)) {
    const json = jsonOf(event)
    assert.strictEqual(json["type"], event.event)
    const { index } = json
    switch (json["type"]) {
      case "content_block_start":
        assert.isUndefined(open, "one block at a time")
        assert.strictEqual(index, next, "indices are dense")
        open = next
        next += 1
        break
      case "content_block_delta":
        assert.strictEqual(index, open, "deltas belong to the open block")
        break
      case "content_block_stop":
        assert.strictEqual(index, open)
        open = undefined
        break
      case "message_delta":
        assert.isUndefined(open, "every block is closed")
        break
      default:
    }
    types.push(json["type"])
  }
  const count = (type: string) => types.filter((item) => item === type).length
  assert.strictEqual(types[0], "message_start")
  assert.deepStrictEqual(types.slice(-2), ["message_delta", "message_stop"])
  for (const type of ["message_start", "message_delta", "message_stop"]) assert.strictEqual(count(type), 1, type)
}

const checkOllama = (text: string): void => {
  const lines = eventsOf("ollama", text).map(jsonOf)
  assert.deepStrictEqual(lines.map((line) => line["done"]), lines.map((_, index) => index === lines.length - 1))
  for (const line of lines) {
    assert.strictEqual(at(line, "message", "role"), "assistant")
    assert.isString(at(line, "message", "content"))
  }
}

/** Asserts that a complete stream follows its wire's grammar. */
export const checkGrammar: Readonly<Record<WireName, (text: string) => void>> = {
  openai: checkOpenAi,
  anthropic: checkAnthropic,
  ollama: checkOllama
}

/** Whether a stream that failed could be taken for a complete one. */
export const looksComplete: Readonly<Record<WireName, (text: string) => boolean>> = {
  openai: (text) => text.includes("[DONE]"),
  anthropic: (text) => text.includes("message_stop"),
  ollama: (text) => text.includes("\"done\":true")
}
