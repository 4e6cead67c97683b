import { assert, describe, it } from "@effect/vitest"
import type { ChatResponse } from "../../../src/sdk/Chat.ts"
import { anthropicMessages, decodeModels } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { at, callOf, change, chatRequest, early, failure, success } from "./Fixtures.ts"

const body = (fields: Json = {}): Json => ({
  id: "msg_1",
  type: "message",
  role: "assistant",
  model: "claude-x",
  content: [{ type: "text", text: "Hi" }],
  stop_reason: "end_turn",
  stop_sequence: null,
  usage: { input_tokens: 3, output_tokens: 2 },
  ...fields
})
const decode = (fields: Json = {}, call = callOf()) => {
  const json = body(fields)
  return success(anthropicMessages.decodeResponse(JSON.stringify(json), json, call))
}
const toolUse = { type: "tool_use", id: "t", name: "f", input: { a: [1] } }

describe("decodeResponse", () => {
  it("keeps every kind of block in its order", () => {
    const search = { type: "server_tool_use", id: "s", name: "web_search", input: { query: "q" } }
    const citation = { type: "char_location", cited_text: "x" }
    const { content } = decode({
      content: [
        { type: "thinking", thinking: "hm", signature: "sig" },
        { type: "redacted_thinking", data: "d" },
        search,
        { type: "text", text: "Hi", citations: [citation] },
        toolUse
      ]
    })
    assert.deepStrictEqual(content, [
      { type: "reasoning", text: "hm", signature: "sig", wire: "anthropic" },
      { type: "reasoning", data: "d", wire: "anthropic" },
      { type: "opaque", wire: "anthropic", value: search },
      { type: "text", text: "Hi", citations: [citation] },
      { type: "tool_call", id: "t", name: "f", arguments: "{\"a\":[1]}" }
    ])
  })
  it("maps every stop reason and keeps the native word", () => {
    const finish = (stop_reason: string) => {
      const { finishReason, nativeFinishReason } = decode({ stop_reason })
      assert.strictEqual(nativeFinishReason, stop_reason)
      return finishReason
    }
    assert.strictEqual(finish("end_turn"), "stop")
    assert.strictEqual(finish("stop_sequence"), "stop")
    assert.strictEqual(finish("pause_turn"), "stop")
    assert.strictEqual(finish("max_tokens"), "length")
    assert.strictEqual(finish("model_context_window_exceeded"), "length")
    assert.strictEqual(finish("tool_use"), "tool_calls")
    assert.strictEqual(finish("refusal"), "content_filter")
    assert.strictEqual(finish("something_new"), "other")
  })
  it("tells the stop sequence, and trusts tool calls over stop", () => {
    assert.strictEqual(decode({ stop_reason: "stop_sequence", stop_sequence: "###" }).stopSequence, "###")
    assert.strictEqual(decode({ content: [toolUse] }).finishReason, "tool_calls")
    assert.strictEqual(decode({ content: [toolUse], stop_reason: "max_tokens" }).finishReason, "length")
  })
  it("reads a refusal's explanation", () => {
    const { content, extensions, finishReason } = decode({
      content: [],
      stop_reason: "refusal",
      stop_details: { type: "refusal", category: "cyber", explanation: "no" }
    })
    assert.deepStrictEqual(content, [{ type: "refusal", text: "no" }])
    assert.strictEqual(finishReason, "content_filter")
    assert.strictEqual(at(extensions, "anthropic", "stop_details", "category"), "cyber")
  })
  it("reads usage in disjoint buckets", () => {
    const usage = (fields: Json) => decode({ usage: { input_tokens: 3, output_tokens: 2, ...fields } }).usage
    assert.deepStrictEqual(
      usage({
        cache_read_input_tokens: 5,
        cache_creation_input_tokens: 11,
        cache_creation: { ephemeral_5m_input_tokens: 4, ephemeral_1h_input_tokens: 7 },
        output_tokens_details: { thinking_tokens: 1 }
      }),
      {
        inputTokens: 3,
        outputTokens: 2,
        cacheReadTokens: 5,
        cacheWrite5mTokens: 4,
        cacheWrite1hTokens: 7,
        reasoningTokens: 1
      }
    )
    assert.deepStrictEqual(usage({ cache_creation_input_tokens: 11 }), {
      inputTokens: 3,
      outputTokens: 2,
      cacheWrite5mTokens: 11
    })
    assert.isUndefined(decode({ usage: null }).usage)
  })
  it("unwraps the answer from the tool that stood for the response schema", () => {
    const call = callOf({ responseSchema: { type: "json_schema", name: "f", schema: { type: "object" } } }, early)
    const response = decode({ content: [toolUse], stop_reason: "tool_use" }, call)
    assert.deepStrictEqual(response.content, [{ type: "text", text: "{\"a\":[1]}" }])
    assert.strictEqual(response.finishReason, "stop")
    assert.strictEqual(response.nativeFinishReason, "tool_use")
    // The original shows the tool, so it is not what an Anthropic client may get.
    assert.deepStrictEqual(at(anthropicMessages.encodeResponse(response, chatRequest), "content"), response.content)
  })
  it("fails with what an error body inside a 200 says", () => {
    const json = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } }
    const failed = failure(anthropicMessages.decodeResponse("", json, callOf()))
    assert.strictEqual(failed.kind, "transient")
    assert.strictEqual(failed.status, 529)
  })
  it("fails with kind protocol for what is not a message", () => {
    for (
      const json of [
        null,
        [],
        "x",
        { id: "1" },
        body({ content: [{ type: "tool_use", id: "t" }] }),
        body({ content: [1] })
      ]
    ) {
      assert.strictEqual(failure(anthropicMessages.decodeResponse("", json, callOf())).kind, "protocol")
    }
  })
})

describe("encodeResponse", () => {
  const response: ChatResponse = {
    id: "chatcmpl-1",
    model: "gpt",
    content: [
      { type: "reasoning", text: "hm" },
      { type: "text", text: "Hi" },
      { type: "tool_call", id: "t", name: "f", arguments: "{\"a\":1}" }
    ],
    finishReason: "tool_calls",
    nativeFinishReason: "tool_calls",
    usage: { inputTokens: 3, outputTokens: 2, cacheReadTokens: 4, cacheWrite1hTokens: 5 }
  }
  it("hands an unchanged original on, and builds anew what was changed", () => {
    const json = body({ new_field: { deep: [1] } })
    const decoded = success(anthropicMessages.decodeResponse(JSON.stringify(json), json, callOf()))
    assert.strictEqual(anthropicMessages.encodeResponse(decoded, chatRequest), json)
    const changed = change(decoded, { content: [{ type: "text", text: "Ho" }] })
    const rebuilt = anthropicMessages.encodeResponse(changed, chatRequest)
    assert.deepStrictEqual(rebuilt["content"], [{ type: "text", text: "Ho" }])
    assert.deepStrictEqual(rebuilt["new_field"], { deep: [1] })
  })
  it("builds another wire's answer", () => {
    assert.deepStrictEqual(anthropicMessages.encodeResponse(response, chatRequest), {
      id: "chatcmpl-1",
      type: "message",
      role: "assistant",
      model: "gpt",
      content: [
        { type: "thinking", thinking: "hm", signature: "" },
        { type: "text", text: "Hi" },
        { type: "tool_use", id: "t", name: "f", input: { a: 1 } }
      ],
      stop_reason: "tool_use",
      stop_sequence: null,
      usage: {
        input_tokens: 3,
        cache_creation_input_tokens: 5,
        cache_read_input_tokens: 4,
        cache_creation: { ephemeral_5m_input_tokens: 0, ephemeral_1h_input_tokens: 5 },
        output_tokens: 2
      }
    })
  })
  it("maps every finish reason, and trusts tool calls over stop", () => {
    const reason = (fields: Partial<ChatResponse>) =>
      anthropicMessages.encodeResponse(change(response, { content: [], ...fields }), chatRequest)["stop_reason"]
    assert.strictEqual(reason({ finishReason: "stop", nativeFinishReason: "stop" }), "end_turn")
    assert.strictEqual(reason({ finishReason: "stop", stopSequence: "x" }), "stop_sequence")
    assert.strictEqual(reason({ finishReason: "length" }), "max_tokens")
    assert.strictEqual(reason({ finishReason: "content_filter" }), "refusal")
    assert.strictEqual(reason({ finishReason: "stop", nativeFinishReason: "pause_turn" }), "pause_turn")
    assert.strictEqual(reason({ finishReason: "stop", content: response.content }), "tool_use")
  })
  it("hands arguments that were cut off on as text, never as an empty call", () => {
    const cut = anthropicMessages.encodeResponse(
      change(response, {
        content: [{ type: "tool_call", id: "t", name: "f", arguments: "{\"a\":" }],
        finishReason: "length"
      }),
      chatRequest
    )
    assert.strictEqual(cut["stop_reason"], "max_tokens")
    assert.deepStrictEqual(at(cut, "content", 0, "input"), { _raw: "{\"a\":" })
  })
  it("tells a refusal as Anthropic does, and hides other wires' signatures", () => {
    const refused = anthropicMessages.encodeResponse(
      change(response, {
        content: [
          { type: "refusal", text: "no" },
          { type: "reasoning", text: "hm", signature: "enc", wire: "openai" }
        ],
        finishReason: "stop"
      }),
      chatRequest
    )
    assert.strictEqual(refused["stop_reason"], "refusal")
    assert.strictEqual(at(refused, "stop_details", "explanation"), "no")
    assert.deepStrictEqual(refused["content"], [{ type: "thinking", thinking: "hm", signature: "" }])
  })
})

describe("decodeModels", () => {
  it("passes over entries without an id, and fails for anything but a list", () => {
    assert.deepStrictEqual(
      success(decodeModels({ data: [{ id: "m", created_at: "1970-01-01T00:00:00Z" }, { x: 1 }, 7] })),
      [
        { model: "m" }
      ]
    )
    assert.strictEqual(failure(decodeModels({ models: [] })).kind, "protocol")
  })
})
