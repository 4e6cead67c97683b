import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { ChatResponse } from "../../../src/sdk/Chat.ts"
import { type Part, text } from "../../../src/sdk/Content.ts"
import { totalInput, totalOutput, type Usage } from "../../../src/sdk/Usage.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { decodeModels, encodeModels } from "../../../src/wire/openai/OpenAiChat.ts"
import { decodeUsage, encodeUsage } from "../../../src/wire/openai/OpenAiUsage.ts"
import { at, callOf, codec, copyOf, err, json, now, ok, plain } from "./Support.ts"

const call = callOf(plain())
const completion = (message: Json | undefined, choice: Json = {}, fields: Json = {}): Json => ({
  id: "c1",
  object: "chat.completion",
  created: 5,
  model: "m",
  choices: [{ index: 0, ...(message === undefined ? {} : { message }), finish_reason: "stop", ...choice }],
  ...fields
})
const decode = (body: Json) => ok(codec.decodeResponse(JSON.stringify(body), body, call))
const fails = (body: unknown) => err(codec.decodeResponse("", body, call))
const response = (content: ReadonlyArray<Part>, fields: Partial<ChatResponse> = {}): ChatResponse => ({
  id: "r1",
  model: "claude",
  content,
  finishReason: "stop",
  ...fields
})
const encode = (value: ChatResponse) => codec.encodeResponse(value, plain())
const messageOf = (value: ChatResponse) => json(at(encode(value), "choices", 0, "message"))
const tool = { id: "a", type: "function", function: { name: "f", arguments: "{}" } }

describe("decodeResponse", () => {
  it("keeps the order reasoning, text, refusal, tool calls", () => {
    const decoded = decode(completion({
      reasoning_content: "hm",
      content: "a",
      refusal: "no",
      tool_calls: [tool, { id: "b", type: "custom", custom: { name: "c", input: "x" } }]
    }))
    assert.deepStrictEqual(decoded.content.map(({ type }) => type), [
      "reasoning",
      "text",
      "refusal",
      "tool_call",
      "opaque"
    ])
  })
  it("believes the tool calls where a server says stop, also in what it hands on", () => {
    const body = completion({ content: null, tool_calls: [tool] })
    const decoded = decode(body)
    assert.strictEqual(decoded.finishReason, "tool_calls")
    assert.strictEqual(decoded.nativeFinishReason, "stop")
    assert.deepStrictEqual(
      encode(decoded),
      completion({ content: null, tool_calls: [tool] }, { finish_reason: "tool_calls" })
    )
  })
  it("keeps length where tool calls were cut off, with their raw text", () => {
    const cut = { ...tool, function: { name: "f", arguments: "{\"a\":\"unfin" } }
    const decoded = decode(completion({ content: null, tool_calls: [cut] }, { finish_reason: "length" }))
    assert.strictEqual(decoded.finishReason, "length")
    assert.strictEqual(at(decoded.content, 0, "arguments"), "{\"a\":\"unfin")
  })
  it("reads a refusal without inventing a content filter", () => {
    const decoded = decode(completion({ content: null, refusal: "no" }))
    assert.deepStrictEqual(decoded.content, [{ type: "refusal", text: "no" }])
    assert.strictEqual(decoded.finishReason, "stop")
  })
  it("reads an Azure choice without a message", () => {
    const decoded = decode(completion(undefined, { finish_reason: "content_filter", content_filter_results: { a: 1 } }))
    assert.deepStrictEqual(decoded.content, [])
    assert.strictEqual(decoded.finishReason, "content_filter")
    assert.deepStrictEqual(decoded.extensions, { openai: { choice: { content_filter_results: { a: 1 } } } })
  })
  it("puts annotations on the text, audio and images in parts of their own", () => {
    const decoded = decode(completion({
      content: "a",
      annotations: [{ type: "url_citation", url_citation: { url: "https://x.org" } }],
      audio: { id: "audio_1", data: "UklGRg==", expires_at: 9, transcript: "hi" },
      images: [{ type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } }]
    }))
    assert.deepStrictEqual(decoded.content, [
      { type: "text", text: "a", citations: [{ type: "url_citation", url_citation: { url: "https://x.org" } }] },
      {
        type: "audio",
        source: { type: "base64", mediaType: "audio/wav", data: "UklGRg==" },
        id: "audio_1",
        transcript: "hi",
        expiresAt: 9
      },
      { type: "image", source: { type: "base64", mediaType: "image/png", data: "iVBORw0KGgo=" } }
    ])
  })
  it("makes ids for calls without one and text of arguments that are objects", () => {
    const decoded = decode(completion({ tool_calls: [{ function: { name: "f", arguments: { a: 1 } } }] }))
    assert.deepStrictEqual(decoded.content, [{
      type: "tool_call",
      id: "call_c1_0_0",
      name: "f",
      arguments: "{\"a\":1}"
    }])
  })
  it("never mixes choices, whatever their order", () => {
    const body = {
      ...completion({}),
      choices: [
        { index: 1, message: { content: "b" }, finish_reason: "length" },
        { index: 0, message: { content: "a" }, finish_reason: "stop" }
      ]
    }
    const decoded = decode(body)
    assert.deepStrictEqual([decoded.content, decoded.finishReason], [[text("a")], "stop"])
    assert.deepStrictEqual(decoded.alternatives?.map(({ content }) => content), [[text("b")]])
  })
  it("takes an error inside an answer of status 200 for a failure", () => {
    const rated = fails({ error: { message: "Rate limit exceeded", code: 429 } })
    assert.deepStrictEqual([rated.kind, rated.status, rated.code], ["quota", 429, undefined])
    assert.strictEqual(fails(completion({}, { error: { message: "boom", code: 502 } })).kind, "transient")
    assert.strictEqual(fails(completion({}, { finish_reason: "error" })).kind, "transient")
    assert.strictEqual(fails({ error: "overloaded" }).message, "overloaded")
  })
  it("takes anything that is not a chat completion for a failure of the protocol", () => {
    for (const body of [undefined, null, [], "x", {}, { choices: null }, { choices: [] }]) {
      assert.strictEqual(fails(body).kind, "protocol", JSON.stringify(body))
    }
  })
})

describe("encodeResponse", () => {
  it("writes what OpenAI's SDK expects of an answer from elsewhere", () => {
    assert.deepStrictEqual(
      encode(
        response([text("Hel"), text("lo")], {
          nativeFinishReason: "end_turn",
          usage: { inputTokens: 3, outputTokens: 2, cacheReadTokens: 4, cacheWrite5mTokens: 5, cacheWrite1hTokens: 6 }
        })
      ),
      {
        id: "r1",
        object: "chat.completion",
        created: now,
        model: "claude",
        choices: [{
          index: 0,
          message: { role: "assistant", content: "Hello", refusal: null },
          logprobs: null,
          finish_reason: "stop",
          native_finish_reason: "end_turn"
        }],
        usage: {
          prompt_tokens: 18,
          completion_tokens: 2,
          total_tokens: 20,
          prompt_tokens_details: { cached_tokens: 4, cache_write_tokens: 11, audio_tokens: 0 },
          completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
        }
      }
    )
  })
  it("has null content where there are only tool calls, and {} for a call without arguments", () => {
    const call: Part = { type: "tool_call", id: "a", name: "f", arguments: "" }
    const message = messageOf(response([call], { finishReason: "tool_calls" }))
    assert.isNull(message["content"])
    assert.deepStrictEqual(message["tool_calls"], [tool])
    assert.strictEqual(messageOf(response([]))["content"], "")
  })
  it("maps other to stop and keeps the provider's word", () => {
    const choice = at(encode(response([], { finishReason: "other", nativeFinishReason: "pause_turn" })), "choices", 0)
    assert.strictEqual(at(choice, "finish_reason"), "stop")
    assert.strictEqual(at(choice, "native_finish_reason"), "pause_turn")
  })
  it("writes thinking readably and so that it can come back unchanged", () => {
    const parts: ReadonlyArray<Part> = [
      { type: "reasoning", text: "because", signature: "sig", wire: "anthropic" },
      { type: "reasoning", data: "xyz", wire: "anthropic" },
      text("Yes")
    ]
    const message = messageOf(response(parts))
    assert.strictEqual(message["reasoning_content"], "because")
    assert.strictEqual(message["reasoning"], "because")
    const returned = ok(codec.decodeRequest({ model: "m", messages: [{ role: "user", content: "Hi" }, message] }))
    assert.deepStrictEqual(returned.messages[1]?.content, parts)
    const { thinking_blocks: _blocks, ...withoutBlocks } = message
    const fromDetails = ok(codec.decodeRequest({ model: "m", messages: [withoutBlocks] })).messages[0].content
    assert.deepStrictEqual(
      fromDetails.map((part) => part.type === "reasoning" ? copyOf(part, { extensions: {} }) : part),
      parts.map((part) => part.type === "reasoning" ? copyOf(part, { extensions: {} }) : part)
    )
  })
  it("writes made images as OpenRouter does", () => {
    const image: Part = { type: "image", source: { type: "base64", mediaType: "image/png", data: "iVBORw0KGgo=" } }
    assert.deepStrictEqual(messageOf(response([text("See"), image]))["images"], [
      { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" }, index: 0 }
    ])
  })
  it("writes a changed answer anew, with its unknown fields", () => {
    const body = completion({ content: "secret", refusal: null, role: "assistant" }, { logprobs: { content: [] } }, {
      service_tier: "flex",
      system_fingerprint: "fp"
    })
    const changed = copyOf(decode(body), { content: [text("[redacted]")] })
    assert.deepStrictEqual(encode(changed), {
      ...body,
      choices: [{
        index: 0,
        message: { content: "[redacted]", refusal: null, role: "assistant" },
        logprobs: { content: [] },
        finish_reason: "stop"
      }]
    })
  })
})

describe("usage", () => {
  const Count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 }))
  const Wild = Schema.Struct({
    prompt: Count,
    completion: Count,
    cached: Count,
    written: Count,
    audio: Count,
    reasoning: Count,
    spoken: Count
  })

  it.prop("splits totals into buckets that add up and are never negative", [Wild], ([wild]) => {
    const usage = decodeUsage({
      prompt_tokens: wild.prompt,
      completion_tokens: wild.completion,
      prompt_tokens_details: { cached_tokens: wild.cached, cache_write_tokens: wild.written, audio_tokens: wild.audio },
      completion_tokens_details: { reasoning_tokens: wild.reasoning, audio_tokens: wild.spoken }
    })
    assert.isDefined(usage)
    if (usage === undefined) return
    assert.strictEqual(totalInput(usage), wild.prompt + 0)
    assert.strictEqual(totalOutput(usage), wild.completion + 0)
    for (const amount of Object.values(usage)) assert.isAtLeast(Number(amount), 0)
    assert.isAtMost(usage.reasoningTokens ?? 0, usage.outputTokens)
    assert.deepStrictEqual(decodeUsage(encodeUsage(usage)), usage)
  })
  it("reads the cache where DeepSeek and Moonshot tell it", () => {
    const expected: Usage = { inputTokens: 60, outputTokens: 5, cacheReadTokens: 40 }
    assert.deepStrictEqual(
      decodeUsage({ prompt_tokens: 100, completion_tokens: 5, prompt_cache_hit_tokens: 40 }),
      expected
    )
    assert.deepStrictEqual(decodeUsage({ prompt_tokens: 100, completion_tokens: 5, cached_tokens: 40 }), expected)
  })
  it("adds reasoning that xAI counts beside the completion", () => {
    const usage = decodeUsage({
      prompt_tokens: 10,
      completion_tokens: 5,
      total_tokens: 115,
      completion_tokens_details: { reasoning_tokens: 100 }
    })
    assert.deepStrictEqual(usage, { inputTokens: 10, outputTokens: 105, reasoningTokens: 100 })
  })
  it("is absent where nothing is told", () => {
    for (const value of [null, undefined, {}, { prompt_tokens: "5" }, { prompt_tokens: -1 }]) {
      assert.isUndefined(decodeUsage(value))
    }
  })
})

describe("models", () => {
  it("reads OpenAI's list and what compatible servers add", () => {
    const models = ok(decodeModels({
      object: "list",
      data: [
        { id: "gpt-x", object: "model", created: 7, owned_by: "openai" },
        { id: "llama", max_model_len: 8192 },
        { no: "id" },
        {
          id: "a/b",
          name: "A: B",
          context_length: 1000,
          top_provider: { max_completion_tokens: 100 },
          architecture: { input_modalities: ["text", "image", "file"], output_modalities: ["text"] },
          supported_parameters: ["tools", "reasoning"],
          pricing: { prompt: "0.000003", completion: "0.000015", input_cache_read: "0.0000003", request: "0" }
        },
        { id: "auto", pricing: { prompt: "-1", completion: "-1" } }
      ]
    }))
    assert.deepStrictEqual(models, [
      { model: "gpt-x", created: 7 },
      { model: "llama", contextWindow: 8192 },
      {
        model: "a/b",
        displayName: "A: B",
        contextWindow: 1000,
        maxOutputTokens: 100,
        capabilities: ["streaming", "text_input", "image_input", "document_input", "text_output", "tools", "reasoning"],
        prices: { inputMtok: 3, outputMtok: 15, cacheReadMtok: 0.3 }
      },
      { model: "auto" }
    ])
    assert.deepStrictEqual(ok(decodeModels([{ id: "x" }])), [{ model: "x" }])
    assert.strictEqual(err(decodeModels({ data: "none" })).kind, "protocol")
    assert.strictEqual(err(decodeModels({ error: { message: "no", code: 401 } })).kind, "credential")
  })
  it("writes canonical ids", () => {
    const info = { id: "openai::gpt-x", provider: "openai", model: "gpt-x", status: "active" } as const
    assert.deepStrictEqual(encodeModels([info]), {
      object: "list",
      data: [{ id: "openai::gpt-x", object: "model", created: 0, owned_by: "openai" }]
    })
  })
})
