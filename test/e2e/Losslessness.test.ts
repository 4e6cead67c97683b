/**
 * What the gateway has no word for passes through it unharmed, where both of its sides speak OpenAI's wire: the fields of
 * tomorrow's API, and those that compatible servers add. Objects are compared whole, so a field lost or made up shows.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, json, parsed, sseEvent, stream } from "../fixtures/Script.ts"

const path = "/v1/chat/completions"

let upstream: FakeUpstream
let gateway: RunningGateway

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", unlisted_models: allow }
`)
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

/** Values of every kind that JSON has, to be put where the wire has no field. */
const odd = {
  text: "ü\u2028\"\\",
  nested: { list: [1, null, { deep: true }], none: null, empty: {} },
  zero: 0,
  no: false
}

const isRecord = (value: unknown): value is Record<string, unknown> => isJson(value)

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

/** Sends a request, and gives what the upstream received. */
const sent = async (body: Json): Promise<Json> => {
  upstream.reply(openAi.answer({ text: "ok" }))
  const response = await gateway.post(path, body)
  const text = await response.text()
  assert.strictEqual(response.status, 200, text)
  return upstream.request(upstream.requests.length - 1).json
}

const user = { role: "user", content: "Hi" }
const ask = (extra: Json): Json => ({ model: "openai::model-1", messages: [user], ...extra })

/** A request with something unknown at every level. */
const request: Json = {
  model: "openai::model-1",
  x_top: odd,
  provider: { order: ["a", "b"], allow_fallbacks: false },
  transforms: [],
  chat_template_kwargs: { enable_thinking: false },
  guided_json: { type: "object" },
  messages: [
    { role: "system", content: "Be brief.", x_system: odd },
    { role: "developer", content: [{ type: "text", text: "Be kind.", x_part: odd }], name: "boss" },
    {
      role: "user",
      name: "ann",
      x_user: odd,
      content: [
        { type: "text", text: "What is this?", cache_control: { type: "ephemeral" }, x_part: odd },
        {
          type: "image_url",
          image_url: { url: "https://example.com/a.png", detail: "high", x_inner: odd },
          x_part: odd
        },
        { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } },
        { type: "input_audio", input_audio: { data: "UklGRg==", format: "wav", x_inner: odd }, x_part: odd },
        { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,JVBERi0=", x_inner: odd } },
        { type: "file", file: { file_id: "file-1" }, x_part: odd },
        { type: "video_url", video_url: { url: "https://example.com/a.mp4", fps: 2 } },
        { type: "hologram", hologram: odd }
      ]
    },
    {
      role: "assistant",
      content: "I look.",
      reasoning_content: "Let me look.",
      x_assistant: odd,
      tool_calls: [
        {
          id: "call_a",
          type: "function",
          function: { name: "look", arguments: "{\"at\": 1}", x_inner: odd },
          x_call: odd
        },
        { id: "call_b", type: "custom", custom: { name: "free", input: "text" }, x_call: odd }
      ]
    },
    { role: "tool", tool_call_id: "call_a", content: "a cat", x_tool: odd },
    { role: "tool", tool_call_id: "call_b", content: [{ type: "text", text: "a dog", x_part: odd }] },
    { role: "assistant", content: [{ type: "text", text: "A cat.", x_part: odd }], annotations: [odd] },
    { role: "assistant", content: null, refusal: "No." },
    { role: "assistant", content: null, audio: { id: "audio_1" } },
    { role: "user", content: "Why?" }
  ],
  tools: [
    {
      type: "function",
      x_tool: odd,
      function: {
        name: "look",
        description: "Looks",
        strict: false,
        x_inner: odd,
        parameters: { type: "object", properties: { at: { type: "integer", "x-unit": "m" } }, "x-schema": odd }
      }
    },
    { type: "function", function: { name: "bare" } },
    { type: "custom", custom: { name: "free", format: { type: "text" } }, x_tool: odd },
    { type: "web_search", filters: odd }
  ],
  tool_choice: {
    type: "allowed_tools",
    allowed_tools: { mode: "auto", tools: [{ type: "function", function: { name: "look" } }] }
  },
  parallel_tool_calls: false,
  response_format: {
    type: "json_schema",
    x_format: odd,
    json_schema: { name: "place", schema: { type: "object" }, strict: false, description: "A place", x_inner: odd }
  },
  max_completion_tokens: 50,
  temperature: 0.5,
  top_p: 0.9,
  top_k: 40,
  min_p: 0.05,
  repetition_penalty: 1.1,
  frequency_penalty: 0.1,
  presence_penalty: -0.1,
  seed: 7,
  stop: "END",
  n: 1,
  logprobs: true,
  top_logprobs: 2,
  logit_bias: { "50256": -100 },
  reasoning_effort: "low",
  verbosity: "low",
  modalities: ["text", "audio"],
  audio: { voice: "alloy", format: "mp3" },
  prediction: { type: "content", content: "A cat." },
  web_search_options: { search_context_size: "low" },
  prompt_cache_key: "k",
  safety_identifier: "s",
  store: true,
  metadata: { a: "b" },
  user: "u",
  service_tier: "flex"
}

describe("a request", () => {
  it("reaches an upstream of the same wire as it was, at every level", async () => {
    upstream.reply(openAi.answer({ text: "{}" }))
    const response = await gateway.post(path, request)
    assert.strictEqual(response.status, 200, await response.text())
    assert.deepStrictEqual(upstream.request(0).json, { ...request, model: "model-1" })
    assert.isNull(response.headers.get("x-gateway-dropped-params"))
  })

  it("reaches it so streamed, with usage asked for beside the caller's own stream options", async () => {
    upstream.reply(openAi.answer({ text: "{}" }))
    const options = { include_obfuscation: false, x_option: odd }
    const response = await gateway.post(path, { ...request, stream: true, stream_options: options })
    assert.strictEqual(response.status, 200, await response.text())
    assert.deepStrictEqual(upstream.request(0).json, {
      ...request,
      model: "model-1",
      stream: true,
      stream_options: { ...options, include_usage: true }
    })
  })

  it.each([
    ["max_tokens stays the older spelling", { max_tokens: 5 }],
    ["a stop list stays a list", { stop: ["END"] }],
    ["several stops stay in order", { stop: ["b", "a"] }],
    ["a choice of one tool", {
      tools: [{ type: "function", function: { name: "look" } }],
      tool_choice: { type: "function", function: { name: "look" } }
    }],
    ["a choice of a custom tool", {
      tools: [{ type: "custom", custom: { name: "free" } }],
      tool_choice: { type: "custom", custom: { name: "free" } }
    }],
    ["the deprecated functions", { functions: [{ name: "f" }], function_call: "auto" }],
    ["the deprecated functions' calls and results", {
      messages: [
        user,
        { role: "assistant", content: null, function_call: { name: "f", arguments: "{}" } },
        { role: "function", name: "f", content: "7" }
      ]
    }],
    ["an answer format of another server", { response_format: { type: "grammar", value: "root ::= x" } }],
    ["an effort of tomorrow", { reasoning_effort: "extreme" }],
    ["an OpenRouter reasoning object", { reasoning: { effort: "high", exclude: true } }],
    ["stream said to be off", { stream: false }],
    ["numbers at the edges", { seed: -1, temperature: 0, presence_penalty: -2, x: 1e-7, y: 9007199254740991 }]
  ])("%s", async (_, extra) => {
    assert.deepStrictEqual(await sent(ask(extra)), { ...ask(extra), model: "model-1" })
  })

  it("null for a documented field counts as absent", async () => {
    const body = await sent(ask({ temperature: null, tools: null, stop: null, seed: null, tool_choice: null }))
    assert.deepStrictEqual(body, { model: "model-1", messages: [user] })
  })
})

describe("keys that mean something to JavaScript", () => {
  /** `JSON.parse` makes an own property of `__proto__`, which object literals cannot. */
  const hostile = "{\"polluted\": true}"

  it("do no harm, wherever they stand", async () => {
    const body = `{
      "model": "openai::model-1",
      "__proto__": ${hostile},
      "constructor": {"prototype": ${hostile}},
      "metadata": {"__proto__": "x", "constructor": "y", "a": "b"},
      "logit_bias": {"__proto__": 1, "7": 1},
      "tools": [{"type": "function", "__proto__": ${hostile}, "function": {"name": "f", "__proto__": ${hostile},
        "parameters": {"type": "object", "properties": {"__proto__": {"type": "string"}, "toString": {"type": "string"}}}}}],
      "messages": [{"role": "user", "__proto__": ${hostile},
        "content": [{"type": "text", "text": "Hi", "__proto__": ${hostile}}]}]
    }`
    upstream.reply(openAi.answer({ text: "ok" }))
    const response = await gateway.post(path, body)
    assert.strictEqual(response.status, 200, await response.text())
    assert.isUndefined(Reflect.get({}, "polluted"))
    assert.isUndefined(Reflect.get(Object, "polluted"))
    const received = upstream.request(0).json
    assert.strictEqual(received["model"], "model-1")
    assert.isUndefined(Reflect.get(received, "polluted"))
    assert.deepStrictEqual(received["messages"], [user])
    assert.deepInclude(received["metadata"], { a: "b" })
    assert.deepInclude(received["logit_bias"], { "7": 1 })
    assert.deepStrictEqual(received["constructor"], { prototype: { polluted: true } }, "an ordinary key, if an odd one")
    // A schema belongs to the caller: what it says of a property named __proto__ is no business of the gateway's.
    assert.include(
      Buffer.from(upstream.request(0).bytes).toString("utf8"),
      "{\"__proto__\":{\"type\":\"string\"},\"toString\":{\"type\":\"string\"}}"
    )
  })

  it("do no harm in an answer", async () => {
    const said = `{"id":"x","object":"chat.completion","created":1,"model":"m","__proto__":${hostile},
      "choices":[{"index":0,"__proto__":${hostile},"finish_reason":"stop",
        "message":{"role":"assistant","content":"ok","__proto__":${hostile}}}],
      "usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"__proto__":${hostile}}}`
    upstream.reply({
      status: 200,
      headers: { "content-type": "application/json" },
      body: { type: "whole", content: said },
      faults: []
    })
    const response = await gateway.post(path, ask({}))
    assert.deepStrictEqual(parsed(await response.text()), JSON.parse(said))
    assert.isUndefined(Reflect.get({}, "polluted"))
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const completion = {
  id: "gen-1",
  object: "chat.completion",
  created: 1_790_000_000,
  model: "vendor/model-1:free",
  provider: "Somebody",
  system_fingerprint: null,
  x_top: odd,
  choices: [
    {
      index: 0,
      finish_reason: "stop",
      native_finish_reason: "end_turn",
      logprobs: { content: [{ token: "ü", logprob: -0.1, bytes: [195, 188], top_logprobs: [] }], refusal: null },
      x_choice: odd,
      message: {
        role: "assistant",
        content: "Grüße",
        refusal: null,
        reasoning: "Let me think.",
        reasoning_details: [{ type: "reasoning.summary", summary: "think", format: "openai-responses-v1", index: 0 }],
        annotations: [{
          type: "url_citation",
          url_citation: { url: "https://example.com", start_index: 0, end_index: 1 }
        }],
        x_message: odd
      }
    },
    {
      index: 1,
      finish_reason: "tool_calls",
      logprobs: null,
      message: {
        role: "assistant",
        content: null,
        tool_calls: [
          {
            id: "call_a",
            type: "function",
            function: { name: "f", arguments: "{ \"a\" : 1 }", x_inner: odd },
            x_call: odd
          },
          { id: "call_b", type: "custom", custom: { name: "g", input: "free" } }
        ]
      }
    }
  ],
  usage: {
    prompt_tokens: 9,
    completion_tokens: 12,
    total_tokens: 21,
    prompt_tokens_details: { cached_tokens: 4, audio_tokens: 0, x_detail: 1 },
    cost: 0.5,
    cost_details: { upstream_inference_cost: null }
  },
  service_tier: "default"
}

describe("a whole answer", () => {
  it("comes back as the upstream gave it, at every level", async () => {
    upstream.reply(json(completion))
    const response = await gateway.post(path, ask({}))
    assert.deepStrictEqual(parsed(await response.text()), completion)
  })

  it("comes back so, where it is from a filter that left the message out", async () => {
    const filtered = {
      ...completion,
      choices: [{ index: 0, finish_reason: "content_filter", content_filter_results: { hate: { filtered: true } } }],
      prompt_filter_results: [{ prompt_index: 0 }]
    }
    upstream.reply(json(filtered))
    const response = await gateway.post(path, ask({}))
    assert.deepStrictEqual(parsed(await response.text()), filtered)
  })

  it("is corrected in one thing: `stop` after tool calls, which clients would read as no call", async () => {
    const [, second] = completion.choices
    const wrong = { ...completion, choices: [{ ...second, index: 0, finish_reason: "stop" }] }
    upstream.reply(json(wrong))
    const response = await gateway.post(path, ask({}))
    assert.deepStrictEqual(parsed(await response.text()), {
      ...wrong,
      choices: [{ ...second, index: 0, finish_reason: "tool_calls" }]
    })
  })
})

describe("a stream", () => {
  const base = { id: "gen-1", object: "chat.completion.chunk", created: 1_790_000_000, model: "m", x_top: odd }
  const chunk = (choices: ReadonlyArray<Json>, extra: Json = {}): Json => ({ ...base, choices, ...extra })
  const usage = { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21, x_usage: odd, cost: 0.5 }
  const events: ReadonlyArray<Json> = [
    { id: "", object: "", created: 0, model: "", choices: [], prompt_filter_results: [{ prompt_index: 0, x: odd }] },
    chunk([{ index: 0, delta: { role: "assistant", content: "", x_delta: odd }, finish_reason: null, x_choice: odd }]),
    chunk([{ index: 0, delta: { reasoning: "hm", reasoning_details: [{ type: "reasoning.text", text: "hm" }] } }]),
    chunk([{ index: 0, delta: { content: "Grüße\u2028" }, logprobs: { content: [{ token: "G", logprob: -1 }] } }]),
    chunk([
      { index: 0, delta: { content: " a" }, finish_reason: null },
      { index: 1, delta: { role: "assistant", content: "b" }, finish_reason: null }
    ]),
    chunk([{ index: 0, delta: { hologram: odd } }]),
    chunk([{
      index: 0,
      delta: {
        tool_calls: [{ index: 0, id: "call_a", type: "function", function: { name: "f", arguments: "" }, x: odd }]
      }
    }]),
    chunk([{ index: 0, delta: { tool_calls: [{ index: 0, function: { arguments: "{}", x_inner: odd } }] } }]),
    chunk([{ index: 0, delta: {}, finish_reason: "tool_calls", native_finish_reason: "tool_use" }]),
    chunk([{ index: 1, delta: {}, finish_reason: "stop", stop_reason: null }])
  ]
  const script = (list: ReadonlyArray<Json>) =>
    stream("sse", [": OPENROUTER PROCESSING\n\n", ...list.map((event) => sseEvent(event)), sseEvent("[DONE]")])

  /** The events that a caller reads. */
  const read = async (extra: Json): Promise<ReadonlyArray<unknown>> => {
    const response = await gateway.post(path, ask({ stream: true, ...extra }))
    assert.strictEqual(response.status, 200)
    const lines = (await response.text()).split("\n\n").filter((line) => line !== "")
    assert.strictEqual(lines.at(-1), "data: [DONE]")
    return lines.slice(0, -1).map((line) => parsed(line.slice("data: ".length)))
  }
  const asked = { stream_options: { include_usage: true } }

  it("comes back event by event as the upstream gave it", async () => {
    const told = [...events.map((event): Json => ({ ...event, usage: null })), chunk([], { usage })]
    upstream.reply(script(told))
    assert.deepStrictEqual(await read(asked), told)
  })

  it("comes back so without usage, where that was not asked for", async () => {
    upstream.reply(script([...events.map((event) => ({ ...event, usage: null })), chunk([], { usage })]))
    assert.deepStrictEqual(await read({}), events)
  })

  it("loses usage alone, also where it stands in the chunk with the finish reason", async () => {
    const last = events.at(-1) ?? {}
    upstream.reply(script([...events.slice(0, -1), { ...last, usage }]))
    assert.deepStrictEqual(await read({}), events)
  })

  it("does not mistake a text about usage for usage", async () => {
    const talk = [
      chunk([{ index: 0, delta: { role: "assistant", content: "\"usage\":null and ,\"usage\":null" } }], {
        usage: null
      }),
      chunk([{ index: 0, delta: { content: "x" }, usage: null, finish_reason: "stop" }], { usage: null })
    ]
    upstream.reply(script(talk))
    assert.deepStrictEqual(
      await read({}),
      talk.map((event) => Object.fromEntries(Object.entries(event).filter(([key]) => key !== "usage")))
    )
  })

  it("is corrected in one thing: `stop` after tool calls", async () => {
    const wrong = events.map((event) => {
      const choices = event["choices"]
      const first: unknown = Array.isArray(choices) ? choices[0] : undefined
      return isRecord(first) && first["finish_reason"] === "tool_calls"
        ? { ...event, choices: [{ ...first, finish_reason: "stop" }] }
        : event
    })
    upstream.reply(script(wrong))
    assert.notDeepEqual(wrong, events)
    assert.deepStrictEqual(await read({}), events)
  })
})
