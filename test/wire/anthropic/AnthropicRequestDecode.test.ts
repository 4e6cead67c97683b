import { assert, describe, it } from "@effect/vitest"
import { anthropicMessages, decodeCountRequest } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { failure, success, user } from "./Fixtures.ts"

const body = (fields: Json = {}): Json => ({
  model: "claude",
  max_tokens: 100,
  messages: [{ role: "user", content: "Hi" }],
  ...fields
})
const decode = (fields: Json = {}) => success(anthropicMessages.decodeRequest(body(fields)))
const refused = (fields: Json) => failure(anthropicMessages.decodeRequest(body(fields)))
const hi = user("Hi")

describe("decodeRequest", () => {
  it("reads the smallest request", () => {
    assert.deepStrictEqual(decode(), { model: "claude", messages: [hi], maxOutputTokens: 100 })
  })
  it("reads system as text or as blocks", () => {
    assert.deepStrictEqual(decode({ system: "Be kind" }).messages[0], {
      role: "system",
      content: [{ type: "text", text: "Be kind" }]
    })
    assert.deepStrictEqual(
      decode({ system: [{ type: "text", text: "a", cache_control: { type: "ephemeral", ttl: "1h" } }] }).messages[0]
        .content,
      [{ type: "text", text: "a", cacheControl: { type: "ephemeral", ttl: "1h" } }]
    )
  })
  it("splits tool results off into a tool message before the rest", () => {
    const { messages } = decode({
      messages: [
        { role: "user", content: "a" },
        { role: "assistant", content: [{ type: "tool_use", id: "t", name: "f", input: { x: 1 } }] },
        {
          role: "user",
          content: [
            { type: "text", text: "b" },
            { type: "tool_result", tool_use_id: "t", content: "42", is_error: true },
            { type: "image", source: { type: "url", url: "https://a.b/c.png" } }
          ]
        }
      ]
    })
    assert.deepStrictEqual(messages.slice(1), [
      { role: "assistant", content: [{ type: "tool_call", id: "t", name: "f", arguments: "{\"x\":1}" }] },
      {
        role: "tool",
        content: [{ type: "tool_result", toolCallId: "t", content: [{ type: "text", text: "42" }], isError: true }]
      },
      {
        role: "user",
        content: [{ type: "text", text: "b" }, { type: "image", source: { type: "url", url: "https://a.b/c.png" } }]
      }
    ])
  })
  it("keeps a tool result with blocks that only Anthropic reads as it is", () => {
    const block = {
      type: "tool_result",
      tool_use_id: "t",
      content: [{ type: "tool_reference", tool_name: "x" }]
    }
    const { messages } = decode({
      messages: [
        { role: "assistant", content: [{ type: "tool_use", id: "t", name: "f", input: {} }] },
        { role: "user", content: [block] }
      ]
    })
    assert.deepStrictEqual(messages[1], {
      role: "tool",
      content: [{ type: "opaque", wire: "anthropic", value: block }]
    })
  })
  it("reads thinking, signed, redacted and unsigned", () => {
    const { messages } = decode({
      messages: [{
        role: "assistant",
        content: [
          { type: "thinking", thinking: "hm", signature: "s" },
          { type: "redacted_thinking", data: "d" },
          { type: "thinking", thinking: "hm", signature: "" }
        ]
      }]
    })
    assert.deepStrictEqual(messages[0].content, [
      { type: "reasoning", text: "hm", signature: "s", wire: "anthropic" },
      { type: "reasoning", data: "d", wire: "anthropic" },
      { type: "reasoning", text: "hm" }
    ])
  })
  it("reads tools of the caller's own, and keeps server tools opaque", () => {
    const search = { type: "web_search_20250305", name: "web_search", max_uses: 2 }
    assert.deepStrictEqual(
      decode({ tools: [{ type: "custom", name: "f", input_schema: {}, defer_loading: true }, search] }).tools,
      [
        { type: "unified", name: "f", parameters: {}, extensions: { anthropic: { defer_loading: true } } },
        { type: "opaque", wire: "anthropic", value: search }
      ]
    )
  })
  it("reads every tool choice", () => {
    const choice = (tool_choice: Json) => {
      const { parallelToolCalls, toolChoice } = decode({ tool_choice })
      return [toolChoice, parallelToolCalls]
    }
    assert.deepStrictEqual(choice({ type: "auto", disable_parallel_tool_use: true }), [{ type: "auto" }, false])
    assert.deepStrictEqual(choice({ type: "any" }), [{ type: "required" }, undefined])
    assert.deepStrictEqual(choice({ type: "tool", name: "f" }), [{ type: "tool", name: "f" }, undefined])
    assert.deepStrictEqual(choice({ type: "none" }), [{ type: "none" }, undefined])
  })
  it("reads the parameters, with -1 for unset", () => {
    const request = decode({
      stop_sequences: ["x"],
      metadata: { user_id: "u" },
      service_tier: "standard_only",
      stream: true,
      temperature: 0.5,
      top_p: -1,
      top_k: -1
    })
    assert.deepStrictEqual(request.stop, ["x"])
    assert.strictEqual(request.user, "u")
    assert.strictEqual(request.serviceTier, "default")
    assert.strictEqual(request.stream, true)
    assert.strictEqual(request.temperature, 0.5)
    assert.isUndefined(request.topP)
    assert.isUndefined(request.topK)
  })
  it("reads thinking and output_config", () => {
    const schema = { type: "object" }
    const request = decode({
      thinking: { type: "enabled", budget_tokens: 2048, display: "omitted" },
      output_config: { effort: "high", format: { type: "json_schema", schema } }
    })
    assert.deepStrictEqual(request.reasoning, { enabled: true, budgetTokens: 2048, effort: "high" })
    assert.deepStrictEqual(request.responseSchema, { type: "json_schema", schema })
    assert.deepStrictEqual(request.extensions, { anthropic: { thinking: { display: "omitted" } } })
    assert.deepStrictEqual(decode({ thinking: { type: "adaptive" } }).reasoning, { enabled: true })
    assert.deepStrictEqual(decode({ thinking: { type: "disabled" } }).reasoning, { enabled: false })
  })
  it("keeps unknown fields of every level for this wire", () => {
    const request = decode({
      container: "c",
      messages: [{ role: "user", content: [{ type: "text", text: "Hi", x: 1 }], y: 2 }]
    })
    assert.deepStrictEqual(request.extensions, { anthropic: { container: "c" } })
    assert.deepStrictEqual(request.messages, [{
      role: "user",
      content: [{ type: "text", text: "Hi", extensions: { anthropic: { x: 1 } } }],
      extensions: { anthropic: { y: 2 } }
    }])
  })
  it("locates what is wrong in the caller's spelling", () => {
    const field = (fields: Json) => refused(fields).field
    const content = (...blocks: ReadonlyArray<unknown>) => ({ messages: [{ role: "user", content: blocks }] })
    assert.strictEqual(field({ model: "" }), "model")
    assert.strictEqual(field({ max_tokens: 0 }), "max_tokens")
    assert.strictEqual(field({ messages: [] }), "messages")
    assert.strictEqual(field({ messages: [{ role: "tool", content: "" }] }), "messages[0].role")
    assert.strictEqual(field({ messages: [{ role: "user" }] }), "messages[0].content")
    assert.strictEqual(
      field(content({ type: "text", text: "a" }, { type: "image", source: { type: "blob" } })),
      "messages[0].content[1].source"
    )
    assert.strictEqual(field(content("a")), "messages[0].content[0]")
    assert.strictEqual(
      field(content({ type: "tool_result", tool_use_id: "nobody" })),
      "messages[0].content[0].tool_use_id"
    )
    assert.strictEqual(field({ tools: [{ name: "f" }] }), "tools[0].input_schema")
    assert.strictEqual(field({ tool_choice: { type: "some" } }), "tool_choice.type")
    assert.strictEqual(field({ temperature: 1.5 }), "temperature")
    assert.strictEqual(field({ stop_sequences: [1] }), "stop_sequences[0]")
    assert.strictEqual(field({ thinking: { type: "enabled", budget_tokens: 5 } }), "thinking.budget_tokens")
    assert.strictEqual(field({ output_config: { format: { type: "xml" } } }), "output_config.format")
    assert.strictEqual(field({ service_tier: 1 }), "service_tier")
    assert.strictEqual(field({ metadata: { user_id: 7 } }), "metadata.user_id")
    assert.strictEqual(field({ tools: [{ name: "f", input_schema: {}, description: 1 }] }), "tools[0].description")
    assert.strictEqual(
      field({ tool_choice: { type: "auto", disable_parallel_tool_use: "yes" } }),
      "tool_choice.disable_parallel_tool_use"
    )
    assert.strictEqual(failure(anthropicMessages.decodeRequest(null)).message, "the body must be a JSON object")
  })
  it("tells several problems at once, and no more than sixteen", () => {
    assert.strictEqual(refused({ model: 1, max_tokens: "x" }).issues?.length, 2)
    const messages = Array.from({ length: 1000 }, () => ({ role: "nobody" }))
    assert.strictEqual(refused({ messages }).issues?.length, 16)
  })
})

describe("decodeCountRequest", () => {
  it("needs no max_tokens, and checks one that is there", () => {
    const asked = { model: "m", messages: [{ role: "user", content: "Hi" }] }
    assert.isUndefined(success(decodeCountRequest(asked)).maxOutputTokens)
    assert.strictEqual(failure(decodeCountRequest({ ...asked, max_tokens: "many" })).field, "max_tokens")
    assert.strictEqual(failure(anthropicMessages.decodeRequest(asked)).field, "max_tokens")
  })
})
