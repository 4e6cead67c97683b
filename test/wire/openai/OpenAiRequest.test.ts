import { assert, describe, it } from "@effect/vitest"
import type { ChatRequest } from "../../../src/sdk/Chat.ts"
import { type Part, text } from "../../../src/sdk/Content.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { at, callOf, codec, err, ok, plain } from "./Support.ts"

const user = { role: "user", content: "Hi" }
const body = (fields: Json = {}): Json => ({ model: "gpt-x", messages: [user], ...fields })
const decode = (fields: Json = {}): ChatRequest => ok(codec.decodeRequest(body(fields)))
const encode = (request: ChatRequest, stream = false) => ok(codec.encodeRequest(callOf(request), stream))
const problem = (fields: Json) => {
  const { field, issues, message } = err(codec.decodeRequest(body(fields)))
  return { field, message, count: issues?.length }
}
const refused = (request: ChatRequest) => err(codec.encodeRequest(callOf(request), false))

/** Decodes a body and encodes it again for the same wire. */
const roundTrip = (fields: Json): Json => encode(decode(fields)).body

const call = { id: "call_1", type: "function", function: { name: "f", arguments: "{}" } }
const toolTurn: ReadonlyArray<Json> = [user, { role: "assistant", content: null, tool_calls: [call] }]

const png = "iVBORw0KGgo="
const withParts = (content: ReadonlyArray<Part>, role: "user" | "assistant" = "user"): ChatRequest =>
  plain({ messages: [{ role, content }] })

describe("decodeRequest", () => {
  it("reads every documented parameter", () => {
    const request = decode({
      max_completion_tokens: 7,
      temperature: 0.5,
      top_p: 0.9,
      frequency_penalty: 0.1,
      presence_penalty: -0.2,
      seed: 42,
      stop: ["a", "b"],
      n: 2,
      logprobs: true,
      top_logprobs: 3,
      logit_bias: { "50256": -100 },
      reasoning_effort: "low",
      user: "u",
      metadata: { k: "v" },
      service_tier: "flex",
      parallel_tool_calls: false,
      stream: false
    })
    assert.deepStrictEqual(request, {
      model: "gpt-x",
      messages: [{ role: "user", content: [text("Hi")] }],
      maxOutputTokens: 7,
      temperature: 0.5,
      topP: 0.9,
      frequencyPenalty: 0.1,
      presencePenalty: -0.2,
      seed: 42,
      stop: ["a", "b"],
      n: 2,
      logprobs: true,
      topLogprobs: 3,
      logitBias: { "50256": -100 },
      reasoning: { effort: "low" },
      user: "u",
      metadata: { k: "v" },
      serviceTier: "flex",
      parallelToolCalls: false,
      stream: false
    })
  })
  it("locates what is wrong in the caller's spelling", () => {
    const cases: ReadonlyArray<readonly [string, Json]> = [
      ["model", { model: "" }],
      ["messages", { messages: [] }],
      ["messages", { messages: "Hi" }],
      ["messages[0]", { messages: ["Hi"] }],
      ["messages[0].role", { messages: [{ role: "robot", content: "x" }] }],
      ["messages[2].content", { messages: [user, user, { role: "user", content: 5 }] }],
      ["messages[0].content", { messages: [{ role: "user", content: null }] }],
      ["messages[0].content[1].text", {
        messages: [{ role: "user", content: [{ type: "text", text: "a" }, { type: "text" }] }]
      }],
      ["messages[1].tool_calls[0].function.arguments", {
        messages: [user, { role: "assistant", tool_calls: [{ id: "a", type: "function", function: { name: "f" } }] }]
      }],
      ["messages[1].tool_calls[0].id", { messages: [user, { role: "assistant", tool_calls: [{ ...call, id: "" }] }] }],
      ["tools[0].function.name", { tools: [{ type: "function", function: {} }] }],
      ["tools[0].function.parameters", { tools: [{ type: "function", function: { name: "f", parameters: "x" } }] }],
      ["tool_choice.function.name", { tool_choice: { type: "function" } }],
      ["tool_choice", { tool_choice: "any" }],
      ["response_format.json_schema.schema", {
        response_format: { type: "json_schema", json_schema: { name: "a", schema: 1 } }
      }],
      ["temperature", { temperature: 3 }],
      ["max_tokens", { max_tokens: 0 }],
      ["max_completion_tokens", { max_completion_tokens: 1.5 }],
      ["stop", { stop: [1] }],
      ["metadata.k", { metadata: { k: 1 } }],
      ["stream", { stream: "yes" }]
    ]
    for (const [field, fields] of cases) assert.strictEqual(problem(fields).field, field, field)
    assert.strictEqual(err(codec.decodeRequest([])).message, "the body must be a JSON object")
  })
  it("answers a broken request of 10,000 messages in bounded time and size", () => {
    const messages = Array.from({ length: 10_000 }, () => ({ role: "user", content: 5 }))
    const started = performance.now()
    const { count, field, message } = problem({ messages })
    assert.isBelow(performance.now() - started, 200)
    assert.deepStrictEqual({ count, field }, { count: 16, field: "messages[0].content" })
    assert.isAtMost(message.length, 300)
  })
  it("keeps __proto__ keys away from prototypes", () => {
    const hostile: unknown = JSON.parse(
      `{"model":"m","__proto__":{"polluted":1},"metadata":{"__proto__":"x"},"messages":[{"role":"user","content":"Hi","__proto__":{"polluted":1}}]}`
    )
    const request = ok(codec.decodeRequest(hostile))
    const encoded = encode(request).body
    assert.isUndefined(at(request, "polluted"))
    assert.isFalse("polluted" in encoded)
    assert.isFalse("polluted" in {})
    assert.strictEqual(Object.getPrototypeOf(encoded), Object.prototype)
  })
  it("reads data: URLs as inline media and refuses broken base64", () => {
    const image = (url: string) => ({
      messages: [{ role: "user", content: [{ type: "image_url", image_url: { url } }] }]
    })
    assert.deepStrictEqual(decode(image(`data:image/png;base64,${png}`)).messages[0].content, [
      { type: "image", source: { type: "base64", mediaType: "image/png", data: png } }
    ])
    const path = "messages[0].content[0].image_url.url"
    for (const bad of ["!!!!", "abc", "ab=c", "", "a===", "iVBOR w0KGgo"]) {
      assert.strictEqual(problem(image(`data:image/png;base64,${bad}`)).field, path, bad)
    }
    assert.strictEqual(problem(image("data:image/png,abcd")).field, path)
    assert.strictEqual(problem(image("data:;base64,abcd")).field, path)
  })
  it("checks many megabytes of base64 without stalling", () => {
    const data = "A".repeat(32 * 1024 * 1024)
    const started = performance.now()
    decode({ messages: [{ role: "user", content: [{ type: "input_audio", input_audio: { data, format: "wav" } }] }] })
    assert.isBelow(performance.now() - started, 500)
  })
  it("refuses a tool result that no call precedes", () => {
    const result = { role: "tool", tool_call_id: "call_2", content: "x" }
    assert.strictEqual(problem({ messages: [...toolTurn, result] }).field, "messages[2].tool_call_id")
  })
  it("takes is_error as the flag of a tool result and guesses nothing from its text", () => {
    const result = (fields: Json) =>
      decode({ messages: [...toolTurn, { role: "tool", tool_call_id: "call_1", content: "Error: no", ...fields }] })
        .messages[2]?.content[0]
    assert.deepStrictEqual(result({ is_error: true }), {
      type: "tool_result",
      toolCallId: "call_1",
      content: [text("Error: no")],
      isError: true
    })
    assert.isUndefined(at(result({}), "isError"))
  })
  it("reads every form of tool_choice", () => {
    const choice = (value: unknown) => decode({ tool_choice: value }).toolChoice
    assert.deepStrictEqual(choice("required"), { type: "required" })
    assert.deepStrictEqual(choice("none"), { type: "none" })
    assert.deepStrictEqual(choice({ type: "function", function: { name: "f" } }), { type: "tool", name: "f" })
    assert.deepStrictEqual(
      choice({
        type: "allowed_tools",
        allowed_tools: { mode: "required", tools: [{ type: "function", function: { name: "f" } }] }
      }),
      { type: "allowed", mode: "required", names: ["f"] }
    )
    assert.isUndefined(choice({ type: "custom", custom: { name: "c" } }))
  })
  it("reads reasoning brought back once: blocks before details before text", () => {
    const said = (fields: Json) =>
      decode({ messages: [user, { role: "assistant", content: "Yes", ...fields }] }).messages[1]?.content
    const block: Part = { type: "reasoning", text: "because", signature: "sig", wire: "anthropic" }
    const everything = {
      reasoning_content: "because",
      reasoning: "because",
      thinking_blocks: [
        { type: "thinking", thinking: "because", signature: "sig" },
        { type: "redacted_thinking", data: "xyz" }
      ],
      reasoning_details: [{ type: "reasoning.text", text: "because", signature: "sig" }]
    }
    assert.deepStrictEqual(said(everything), [
      block,
      { type: "reasoning", data: "xyz", wire: "anthropic" },
      text("Yes")
    ])
    const { thinking_blocks: _blocks, ...details } = everything
    const [ofDetail, answer] = said(details) ?? []
    assert.deepStrictEqual({ ...ofDetail, extensions: undefined }, { ...block, extensions: undefined })
    assert.deepStrictEqual(answer, text("Yes"))
    assert.deepStrictEqual(said({ reasoning_content: "because", reasoning: "because" }), [
      { type: "reasoning", text: "because", wire: "openai" },
      text("Yes")
    ])
  })
  it("reads cache_control by the convention of OpenRouter and LiteLLM, ttl included", () => {
    const cache = { type: "ephemeral", ttl: "1h" }
    const request = decode({
      messages: [{ role: "system", content: [{ type: "text", text: "s", cache_control: cache }] }, user],
      tools: [{ type: "function", function: { name: "f" }, cache_control: { type: "ephemeral" } }]
    })
    assert.deepStrictEqual(at(request, "messages", 0, "content", 0, "cacheControl"), cache)
    assert.deepStrictEqual(at(request, "tools", 0, "cacheControl"), { type: "ephemeral" })
  })
})

describe("a body for the same wire", () => {
  const travels = (name: string, fields: Json) =>
    it(`keeps ${name}`, () => assert.deepStrictEqual(roundTrip(fields), body(fields)))

  travels("parameters that only OpenAI knows", {
    verbosity: "low",
    prediction: { type: "content", content: "x" },
    modalities: ["text", "audio"],
    audio: { format: "mp3", voice: "alloy" },
    store: true,
    web_search_options: { search_context_size: "low" },
    prompt_cache_key: "k",
    safety_identifier: "s",
    fallback: { models: ["a"] },
    async: true,
    something_new: { deep: [1, null] }
  })
  travels("max_tokens as max_tokens", { max_tokens: 5 })
  travels("max_completion_tokens as such", { max_completion_tokens: 5 })
  travels("a stop that is a string", { stop: "END" })
  travels("a stop that is a list of one", { stop: ["END"] })
  travels("response_format text", { response_format: { type: "text" } })
  travels("a response schema with unknown fields", {
    response_format: { type: "json_schema", json_schema: { name: "n", schema: { type: "object" }, strict: true, x: 1 } }
  })
  travels("tools of every type, their schemas unchanged", {
    tools: [
      {
        type: "function",
        function: { name: "f", description: "d", parameters: { $defs: { a: {} }, anyOf: [] }, strict: true, x: 1 },
        cache_control: { type: "ephemeral" }
      },
      { type: "custom", custom: { name: "c", format: { type: "text" } } },
      { type: "web_search", filters: {} }
    ],
    tool_choice: { type: "custom", custom: { name: "c" } }
  })
  travels("an unknown reasoning effort and sampling conventions", {
    reasoning_effort: "ultra",
    top_k: 5,
    min_p: 0.1,
    repetition_penalty: 1.1
  })
  travels("deprecated functions", {
    functions: [{ name: "f" }],
    function_call: { name: "f" },
    messages: [
      user,
      { role: "assistant", content: null, function_call: { name: "f", arguments: "{}" } },
      { role: "function", name: "f", content: "42" }
    ]
  })
  travels("every kind of part", {
    messages: [
      { role: "developer", content: "Be brief", name: "boss" },
      {
        role: "user",
        name: "ann",
        custom_field: 1,
        content: [
          { type: "text", text: "a", prompt_cache_breakpoint: { mode: "explicit" } },
          { type: "image_url", image_url: { url: "https://x.org/a.png", detail: "low", extra: 1 } },
          { type: "image_url", image_url: { url: `data:image/png;base64,${png}` } },
          { type: "input_audio", input_audio: { data: "UklGRg==", format: "wav" } },
          { type: "input_audio", input_audio: { data: "UklGRg==", format: "flac" } },
          { type: "file", file: { file_id: "file-1" } },
          { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,JVBERi0=" } },
          { type: "file", file: { file_url: "https://x.org/a.pdf" } },
          { type: "video_url", video_url: { url: "https://x.org/a.mp4" } },
          { type: "hologram", hologram: { x: 1 } }
        ]
      }
    ]
  })
  travels("assistant turns with refusals, audio, custom calls and unknown fields", {
    messages: [
      user,
      { role: "assistant", content: null, refusal: "No." },
      { role: "assistant", content: null, audio: { id: "audio_1" } },
      { role: "assistant", content: [{ type: "text", text: "a" }, { type: "refusal", refusal: "b" }] },
      {
        role: "assistant",
        content: "Calling",
        annotations: [],
        tool_calls: [
          { ...call, extra_content: { google: { thought_signature: "s" } } },
          { id: "call_2", type: "custom", custom: { name: "c", input: "raw" } }
        ]
      },
      { role: "tool", tool_call_id: "call_2", content: "done" },
      { role: "tool", tool_call_id: "call_1", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] }
    ]
  })
  travels("reasoning text in the field that it came in", {
    messages: [
      user,
      { role: "assistant", content: "a", reasoning_content: "r" },
      { role: "assistant", content: "b", reasoning: "r" },
      {
        role: "assistant",
        content: "c",
        reasoning_details: [{ type: "reasoning.encrypted", data: "d", format: "x", index: 0 }]
      }
    ]
  })
  it("asks for usage in every stream and keeps the caller's other stream options", () => {
    const request = decode({ stream: true, stream_options: { include_obfuscation: false } })
    assert.deepStrictEqual(encode(request, true).body["stream_options"], {
      include_obfuscation: false,
      include_usage: true
    })
    assert.isUndefined(encode(request, false).body["stream_options"])
    assert.strictEqual(encode(request, false).body["stream"], false)
  })
  it("never lets extensions override what the gateway decides", () => {
    const extensions = {
      openai: { model: "x", messages: [], stream: true, n: 99, max_tokens: 1, max_completion_tokens: 1 }
    }
    const encoded = encode(plain({ extensions })).body
    assert.deepStrictEqual(encoded, { model: "gpt-x", messages: [user] })
  })
})

describe("encodeRequest of what came from elsewhere", () => {
  it("writes max_completion_tokens by default", () => {
    assert.deepStrictEqual(encode(plain({ maxOutputTokens: 5 })).body["max_completion_tokens"], 5)
  })
  it("writes the upstream's name of the model", () => {
    const encoded = ok(codec.encodeRequest(callOf(plain({ model: "fast" }), { model: "gpt-4o" }), false))
    assert.strictEqual(encoded.body["model"], "gpt-4o")
  })
  it("names what it drops", () => {
    const { body: sent, dropped } = encode(plain({ topK: 5, minP: 0.1, repeatPenalty: 1.1 }))
    assert.deepStrictEqual(dropped, ["top_k", "min_p", "repeat_penalty"])
    assert.deepStrictEqual(Object.keys(sent), ["model", "messages"])
  })
  it("turns a budget of thinking into the nearest effort, for models that can think", () => {
    const effort = (budgetTokens: number) => encode(plain({ reasoning: { budgetTokens } })).body["reasoning_effort"]
    assert.deepStrictEqual([0, 1024, 2048, 4096, 8192, 32_000].map(effort), [
      "none",
      "low",
      "low",
      "medium",
      "medium",
      "high"
    ])
    const dull = ok(
      codec.encodeRequest(callOf(plain({ reasoning: { budgetTokens: 4096 } }), { capabilities: ["tools"] }), false)
    )
    assert.isUndefined(dull.body["reasoning_effort"])
    assert.deepStrictEqual(dull.dropped, ["reasoning.budget_tokens"])
  })
  it("writes one tool message for each result, and moves images behind all of them", () => {
    const image: Part = { type: "image", source: { type: "base64", mediaType: "image/png", data: png } }
    const { body: sent, dropped } = encode(plain({
      messages: [
        { role: "user", content: [text("Hi")] },
        {
          role: "assistant",
          content: ["a", "b"].map((id) => ({ type: "tool_call" as const, id, name: "f", arguments: "{}" }))
        },
        {
          role: "tool",
          content: [
            { type: "tool_result", toolCallId: "a", content: [image] },
            { type: "tool_result", toolCallId: "b", content: [text("no")], isError: true }
          ]
        },
        { role: "user", content: [text("Go on")] }
      ]
    }))
    const messages = at(sent, "messages")
    assert.deepStrictEqual(Array.isArray(messages) ? messages.slice(2) : [], [
      { role: "tool", tool_call_id: "a", content: "The output follows in the next user message." },
      { role: "tool", tool_call_id: "b", content: "no" },
      {
        role: "user",
        content: [
          { type: "text", text: "Output of tool call a:" },
          { type: "image_url", image_url: { url: `data:image/png;base64,${png}` } }
        ]
      },
      { role: "user", content: "Go on" }
    ])
    assert.deepStrictEqual(dropped, ["messages[].content[].is_error"])
  })
  it("keeps tool results before the words that share their message", () => {
    const { body: sent } = encode(plain({
      messages: [
        { role: "user", content: [text("Hi")] },
        { role: "assistant", content: [{ type: "tool_call", id: "a", name: "f", arguments: "{}" }] },
        { role: "user", content: [text("and?"), { type: "tool_result", toolCallId: "a", content: [text("42")] }] }
      ]
    }))
    assert.deepStrictEqual(at(sent, "messages", 2), { role: "tool", tool_call_id: "a", content: "42" })
    assert.deepStrictEqual(at(sent, "messages", 3), { role: "user", content: "and?" })
  })
  it("has null content where there are only tool calls", () => {
    const { body: sent } = encode(withParts([{ type: "tool_call", id: "a", name: "f", arguments: "{}" }], "assistant"))
    assert.deepStrictEqual(at(sent, "messages", 0), {
      role: "assistant",
      content: null,
      tool_calls: [{ id: "a", type: "function", function: { name: "f", arguments: "{}" } }]
    })
  })
  it("sends no other provider's thinking, and says so", () => {
    const { body: sent, dropped } = encode(
      withParts([{ type: "reasoning", text: "hm", signature: "s", wire: "anthropic" }, text("Yes")], "assistant")
    )
    assert.deepStrictEqual(at(sent, "messages", 0), { role: "assistant", content: "Yes" })
    assert.deepStrictEqual(dropped, ["messages[].content[].reasoning"])
  })
  it("sends no cache breakpoints that the caller did not put in this wire's form", () => {
    const { body: sent, dropped } = encode(
      withParts([{ type: "text", text: "Hi", cacheControl: { type: "ephemeral" } }])
    )
    assert.deepStrictEqual(at(sent, "messages", 0), user)
    assert.deepStrictEqual(dropped, ["messages[].content[].cache_control"])
  })
  it("writes documents inline, as text or by id", () => {
    const part = (content: Part) => at(encode(withParts([text("x"), content])).body, "messages", 0, "content", 1)
    assert.deepStrictEqual(part({ type: "document", source: { type: "text", text: "words" } }), {
      type: "text",
      text: "words"
    })
    assert.deepStrictEqual(
      part({ type: "document", source: { type: "base64", mediaType: "application/pdf", data: "JVBERi0=" } }),
      { type: "file", file: { filename: "document.pdf", file_data: "data:application/pdf;base64,JVBERi0=" } }
    )
    assert.deepStrictEqual(
      part({ type: "document", source: { type: "provider_file", wire: "openai", id: "file-1" } }),
      { type: "file", file: { file_id: "file-1" } }
    )
  })
  it("refuses with its path what the wire cannot say", () => {
    const cases: ReadonlyArray<readonly [RegExp, Part]> = [
      [/inline or by file id/, { type: "document", source: { type: "url", url: "https://x.org/a.pdf" } }],
      [/anthropic wire/, { type: "document", source: { type: "provider_file", wire: "anthropic", id: "f" } }],
      [/must be resolved/, { type: "image", source: { type: "file", id: "f" } }],
      [/must be resolved/, { type: "audio", source: { type: "file", id: "f" } }],
      [/wav and mp3/, { type: "audio", source: { type: "base64", mediaType: "audio/ogg", data: "T2dn" } }],
      [/inline, not by URL/, { type: "audio", source: { type: "url", url: "https://x.org/a.mp3" } }],
      [/anthropic wire/, { type: "opaque", wire: "anthropic", value: { type: "server_tool_use" } }]
    ]
    for (const [words, part] of cases) {
      const error = refused(withParts([text("x"), part]))
      assert.strictEqual(error.field, "messages[0].content[1]")
      assert.match(error.message, words)
    }
    const tool = refused(plain({ tools: [{ type: "opaque", wire: "anthropic", value: { type: "bash" } }] }))
    assert.strictEqual(tool.field, "tools[0]")
    assert.match(tool.message, /anthropic wire/)
  })
})
