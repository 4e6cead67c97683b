import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { hasContent } from "../../../src/sdk/Chat.ts"
import { sourceOf } from "../../../src/sdk/Wire.ts"
import { anthropicMessages } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { callOf, early, failure, frames, join, readStream, success } from "./Fixtures.ts"

const startMessage = (usage: Json = { input_tokens: 10, output_tokens: 1 }): Json => ({
  type: "message_start",
  message: { id: "msg_1", type: "message", role: "assistant", model: "claude-x", content: [], usage }
})
const begin = (index: number, content_block: Json): Json => ({ type: "content_block_start", index, content_block })
const delta = (index: number, body: Json): Json => ({ type: "content_block_delta", index, delta: body })
const stop = (index: number): Json => ({ type: "content_block_stop", index })
const finish = (stop_reason: string, usage: Json = { output_tokens: 7 }): Json => ({
  type: "message_delta",
  delta: { stop_reason, stop_sequence: null },
  usage
})
const done: Json = { type: "message_stop" }
const tool = { type: "tool_use", id: "t", name: "f", input: {} }
const whole = (events: ReadonlyArray<Json>, call = callOf()) => {
  const { chunks, failure: failed } = readStream(frames(events), call)
  assert.isUndefined(failed)
  return join(chunks)
}

describe("streamDecoder", () => {
  it("reads text, thinking, redacted thinking, citations and calls, at dense places", () => {
    const citation = { type: "char_location", cited_text: "x" }
    const { content, finishReason, id, model } = whole([
      startMessage(),
      begin(0, { type: "text", text: "" }),
      stop(0),
      begin(1, { type: "thinking", thinking: "", signature: "" }),
      delta(1, { type: "thinking_delta", thinking: "h" }),
      delta(1, { type: "thinking_delta", thinking: "m" }),
      delta(1, { type: "signature_delta", signature: "sig" }),
      stop(1),
      begin(2, { type: "redacted_thinking", data: "d" }),
      stop(2),
      begin(3, { type: "text", text: "" }),
      delta(3, { type: "citations_delta", citation }),
      delta(3, { type: "text_delta", text: "Hi" }),
      stop(3),
      begin(4, tool),
      delta(4, { type: "input_json_delta", partial_json: "" }),
      delta(4, { type: "input_json_delta", partial_json: "{\"a\"" }),
      delta(4, { type: "input_json_delta", partial_json: ":1}" }),
      stop(4),
      finish("tool_use"),
      done
    ])
    assert.deepStrictEqual(content, [
      { type: "reasoning", text: "hm", signature: "sig", wire: "anthropic" },
      { type: "reasoning", data: "d", wire: "anthropic" },
      { type: "text", text: "Hi", citations: [citation] },
      { type: "tool_call", id: "t", name: "f", arguments: "{\"a\":1}" }
    ])
    assert.strictEqual(finishReason, "tool_calls")
    assert.strictEqual(id, "msg_1")
    assert.strictEqual(model, "claude-x")
  })
  it("gives a call without any input the empty object, and takes a whole input from the start", () => {
    const input = (block: Json) => {
      const part = whole([startMessage(), begin(0, block), stop(0), finish("tool_use"), done]).content[0]
      return part?.type === "tool_call" ? part.arguments : undefined
    }
    assert.strictEqual(input(tool), "{}")
    assert.strictEqual(input({ ...tool, input: { a: 1 } }), "{\"a\":1}")
  })
  it("assembles the input of a server tool into its opaque part", () => {
    const use = { type: "server_tool_use", id: "s", name: "web_search", input: {} }
    const { content } = whole([
      startMessage(),
      begin(0, use),
      delta(0, { type: "input_json_delta", partial_json: "{\"query\":" }),
      delta(0, { type: "input_json_delta", partial_json: "\"q\"}" }),
      stop(0),
      finish("pause_turn"),
      done
    ])
    assert.deepStrictEqual(content, [{ type: "opaque", wire: "anthropic", value: { ...use, input: { query: "q" } } }])
  })
  it("ignores pings, unknown events, unknown deltas and what follows the end", () => {
    const { content, finishReason } = whole([
      { type: "ping" },
      startMessage(),
      { type: "brand_new", x: 1 },
      begin(0, { type: "text", text: "" }),
      delta(0, { type: "new_delta", y: 2 }),
      delta(0, { type: "text_delta", text: "a" }),
      { type: "ping" },
      stop(0),
      finish("end_turn"),
      done,
      { type: "error", error: { type: "api_error", message: "late" } }
    ])
    assert.deepStrictEqual(content, [{ type: "text", text: "a" }])
    assert.strictEqual(finishReason, "stop")
  })
  it("replaces usage field by field and never adds", () => {
    const usage = (start: Json, end: Json) => whole([startMessage(start), finish("end_turn", end), done]).usage
    assert.deepStrictEqual(usage({ input_tokens: 43, output_tokens: 1 }, { input_tokens: 61, output_tokens: 9 }), {
      inputTokens: 61,
      outputTokens: 9
    })
    assert.deepStrictEqual(
      usage(
        {
          input_tokens: 3,
          cache_read_input_tokens: 8,
          cache_creation_input_tokens: 6,
          cache_creation: { ephemeral_5m_input_tokens: 2, ephemeral_1h_input_tokens: 4 },
          output_tokens: 1
        },
        { input_tokens: null, cache_creation_input_tokens: 6, output_tokens: 9 }
      ),
      { inputTokens: 3, outputTokens: 9, cacheReadTokens: 8, cacheWrite5mTokens: 2, cacheWrite1hTokens: 4 }
    )
    assert.deepStrictEqual(usage({}, { input_tokens: 5, cache_read_input_tokens: 2, output_tokens: 9 }), {
      inputTokens: 5,
      outputTokens: 9,
      cacheReadTokens: 2
    })
  })
  it("keeps usage back until the end", () => {
    const { chunks } = readStream(
      frames([startMessage(), begin(0, { type: "text", text: "" }), finish("end_turn"), done]),
      callOf()
    )
    assert.lengthOf(chunks.filter((chunk) => chunk.usage !== undefined), 1)
    assert.isUndefined(chunks[0]?.usage)
    assert.strictEqual(chunks[0]?.id, "msg_1")
  })
  it("commits nobody before the first content", () => {
    const { chunks } = readStream(
      frames([startMessage(), begin(0, { type: "text", text: "" }), delta(0, { type: "text_delta", text: "" })]),
      callOf()
    )
    assert.isFalse(chunks.some(hasContent))
  })
  it("keeps the original of every event but pings", () => {
    const events = [
      startMessage(),
      { type: "ping" },
      begin(0, { type: "text", text: "" }),
      stop(0),
      finish("end_turn"),
      done
    ]
    const { chunks } = readStream(frames(events), callOf())
    assert.deepStrictEqual(
      chunks.map((chunk) => sourceOf(chunk, "anthropic")?.json),
      events.filter((event) => event["type"] !== "ping")
    )
  })
  it("streams the answer out of the tool that stood for the response schema", () => {
    const call = callOf({ responseSchema: { type: "json_schema", name: "f", schema: { type: "object" } } }, early)
    const events = [
      startMessage(),
      begin(0, tool),
      delta(0, { type: "input_json_delta", partial_json: "{\"a\"" }),
      delta(0, { type: "input_json_delta", partial_json: ":1}" }),
      stop(0),
      finish("tool_use"),
      done
    ]
    const { chunks } = readStream(frames(events), call)
    const { content, finishReason } = join(chunks)
    assert.deepStrictEqual(content, [{ type: "text", text: "{\"a\":1}" }])
    assert.strictEqual(finishReason, "stop")
    assert.isTrue(chunks.every((chunk) => sourceOf(chunk, "anthropic") === undefined))
  })
  it("classifies an error event, and gives no finish reason", () => {
    const failed = (type: string, message = "x") => {
      const { chunks, failure } = readStream(
        frames([startMessage(), { type: "error", error: { type, message } }]),
        callOf()
      )
      assert.isUndefined(join(chunks).finishReason)
      return [failure?.kind, failure?.status]
    }
    assert.deepStrictEqual(failed("overloaded_error"), ["transient", 529])
    assert.deepStrictEqual(failed("rate_limit_error"), ["quota", 429])
    assert.deepStrictEqual(failed("api_error"), ["transient", 500])
    assert.deepStrictEqual(failed("invalid_request_error"), ["caller", 400])
    assert.deepStrictEqual(failed("invalid_request_error", "prompt is too long"), ["contextLength", 400])
    assert.deepStrictEqual(failed("authentication_error"), ["credential", 401])
    assert.deepStrictEqual(failed("billing_error"), ["quota", 402])
    assert.deepStrictEqual(failed("never_seen"), ["transient", 500])
  })
  it("fails with kind protocol for malformed JSON, a nameless call and an end without message_stop", () => {
    const nameless = JSON.stringify(begin(0, { type: "tool_use", id: "t" }))
    for (const data of ["{\"type\":", "[]", nameless]) {
      assert.strictEqual(failure(anthropicMessages.streamDecoder(callOf()).push(data, "")).kind, "protocol")
    }
    assert.strictEqual(failure(anthropicMessages.streamDecoder(callOf()).end()).kind, "protocol")
    const decoder = anthropicMessages.streamDecoder(callOf())
    assert.isTrue(Result.isSuccess(decoder.push(JSON.stringify(done), "")))
    assert.isTrue(decoder.isDone())
    assert.deepStrictEqual(success(decoder.end()), [])
  })
  it("stays failed, whatever comes afterwards", () => {
    const decoder = anthropicMessages.streamDecoder(callOf())
    const overloaded = JSON.stringify({ type: "error", error: { type: "overloaded_error", message: "Overloaded" } })
    const first = failure(decoder.push(overloaded, "error"))
    assert.strictEqual(first.kind, "transient")
    assert.deepStrictEqual(failure(decoder.push(JSON.stringify(done), "")), first)
    assert.isFalse(decoder.isDone())
    assert.deepStrictEqual(failure(decoder.end()), first)
  })
})
