/**
 * A caller of the OpenAI dialect in front of Anthropic and Ollama: what the other protocol really receives, through the whole
 * service, and what the caller makes of its answers in the next turn.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { htmlPage, isJson, type Json, json, parsed, type Script } from "../fixtures/Script.ts"

const path = "/v1/chat/completions"

let upstream: FakeUpstream
let gateway: RunningGateway

beforeAll(async () => {
  upstream = await startFakeUpstream()
  upstream.models([{ id: "listed", maxOutput: 4321 }])
  gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
models:
  - { id: "anthropic::limited", max_output_tokens: 1234 }
`)
  await gateway.discover()
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

const at = (value: unknown, ...keys: ReadonlyArray<string | number>): unknown => {
  let found = value
  for (const key of keys) {
    if (Array.isArray(found)) found = found.at(Number(key))
    else found = isJson(found) ? found[key] : undefined
  }
  return found
}

interface Exchange {
  readonly sent: Json
  readonly answer: unknown
  readonly dropped: string | null
}

/** One call, and what the upstream received of it. */
const ask = async (body: Json, script: Script): Promise<Exchange> => {
  upstream.reply(script)
  const index = upstream.requests.length
  const response = await gateway.post(path, body)
  const text = await response.text()
  assert.strictEqual(response.status, 200, text)
  return {
    sent: upstream.request(index).json,
    answer: parsed(text),
    dropped: response.headers.get("x-gateway-dropped-params")
  }
}

/** The chunks of a streamed call. */
const streamed = async (body: Json, script: Script): Promise<ReadonlyArray<unknown>> => {
  upstream.reply(script)
  const response = await gateway.post(path, { ...body, stream: true, stream_options: { include_usage: true } })
  const lines = (await response.text()).split("\n").flatMap((line) => line.startsWith("data: ") ? [line.slice(6)] : [])
  assert.strictEqual(lines.at(-1), "[DONE]")
  return lines.slice(0, -1).map((line) => JSON.parse(line) as unknown)
}

const claude = "anthropic::claude-sonnet-4-20250514"
const llama = "ollama::llama3.2:3b"
const user = (content: string) => ({ role: "user", content })
const weather = {
  type: "function",
  function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } }, $defs: {} } }
}

describe("max_tokens, which Anthropic requires", () => {
  it.each([
    ["the caller's", { model: "anthropic::limited", max_tokens: 7 }, 7],
    ["the caller's newer spelling before the older", { model: claude, max_tokens: 7, max_completion_tokens: 9 }, 9],
    ["else the configured limit of the model", { model: "anthropic::limited" }, 1234],
    ["else what the provider's own list of models tells", { model: "anthropic::listed" }, 4321],
    ["else one that every model can do", { model: "anthropic::nobody-knows" }, 8192]
  ])("is %s", async (_, fields, expected) => {
    const { sent } = await ask({ ...fields, messages: [user("Hi")] }, anthropic.answer({ text: "ok" }))
    assert.strictEqual(sent["max_tokens"], expected)
  })
})

describe("a conversation on its way to Anthropic", () => {
  const call = (id: string, args: string) => ({
    id,
    type: "function",
    function: { name: "get_weather", arguments: args }
  })

  it("is hoisted, merged and rewritten, and no result goes astray", async () => {
    const { sent } = await ask({
      model: claude,
      tools: [weather],
      stop: ["END", " ", ""],
      messages: [
        { role: "system", content: "One." },
        user("a"),
        user("b"),
        { role: "assistant", content: "", tool_calls: [call("call:1/ä", "{\"city\":\"Oslo\"}"), call("call_2", "")] },
        { role: "tool", tool_call_id: "call_2", content: "sun" },
        {
          role: "tool",
          tool_call_id: "call:1/ä",
          content: [{ type: "text", text: "rain" }, { type: "text", text: "wind" }]
        },
        { role: "developer", content: "Two." },
        user("c")
      ]
    }, anthropic.answer({ text: "ok" }))
    assert.deepStrictEqual(sent["system"], [{ type: "text", text: "One." }, { type: "text", text: "Two." }])
    const rewritten = String(at(sent, "messages", 1, "content", 0, "id"))
    assert.match(rewritten, /^[a-zA-Z0-9_-]+$/)
    assert.deepStrictEqual(sent["messages"], [
      { role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] },
      {
        role: "assistant",
        content: [
          { type: "tool_use", id: rewritten, name: "get_weather", input: { city: "Oslo" } },
          { type: "tool_use", id: "call_2", name: "get_weather", input: {} }
        ]
      },
      {
        role: "user",
        content: [
          { type: "tool_result", tool_use_id: "call_2", content: [{ type: "text", text: "sun" }] },
          {
            type: "tool_result",
            tool_use_id: rewritten,
            content: [{ type: "text", text: "rain" }, { type: "text", text: "wind" }]
          },
          { type: "text", text: "c" }
        ]
      }
    ])
    assert.deepStrictEqual(sent["stop_sequences"], ["END"])
    assert.deepStrictEqual(at(sent, "tools", 0, "input_schema"), weather.function.parameters)
  })

  it("brings thinking back unchanged and first, and an answer's call ids as they were", async () => {
    const thinking = { model: claude, reasoning_effort: "low", tools: [weather] }
    const first = await ask(
      { ...thinking, messages: [user("Weather?")] },
      anthropic.answer({
        thinking: "Let me look.",
        signature: "c2ln",
        text: "I look.",
        toolCalls: [{ id: "toolu_9", name: "get_weather", input: { city: "Oslo" } }]
      })
    )
    assert.strictEqual(at(first.sent, "thinking", "type"), "enabled")
    const message = at(first.answer, "choices", 0, "message")
    assert.strictEqual(at(message, "reasoning_content"), "Let me look.")
    assert.strictEqual(at(message, "tool_calls", 0, "id"), "toolu_9")
    const second = await ask({
      ...thinking,
      messages: [user("Weather?"), message, { role: "tool", tool_call_id: "toolu_9", content: "rain" }]
    }, anthropic.answer({ text: "Rain." }))
    assert.deepStrictEqual(at(second.sent, "messages", 1, "content"), [
      { type: "thinking", thinking: "Let me look.", signature: "c2ln" },
      { type: "text", text: "I look." },
      { type: "tool_use", id: "toolu_9", name: "get_weather", input: { city: "Oslo" } }
    ])
    assert.strictEqual(at(second.sent, "thinking", "type"), "enabled")
    assert.isNull(second.dropped)
  })

  it("goes out without thinking where a tool turn came back without its own, and says so", async () => {
    const { dropped, sent } = await ask({
      model: claude,
      reasoning_effort: "low",
      temperature: 0.5,
      tools: [weather],
      messages: [
        user("Weather?"),
        { role: "assistant", content: null, tool_calls: [call("toolu_9", "{}")] },
        { role: "tool", tool_call_id: "toolu_9", content: "rain" }
      ]
    }, anthropic.answer({ text: "Rain." }))
    assert.isUndefined(sent["thinking"])
    assert.strictEqual(sent["temperature"], 0.5, "sampling is free again")
    assert.strictEqual(dropped, "reasoning")
  })

  it("keeps cache breakpoints with their lifetimes, and refuses a fifth by its place", async () => {
    const hour = { cache_control: { type: "ephemeral", ttl: "1h" } }
    const short = { cache_control: { type: "ephemeral" } }
    const text = (value: string, more: Json) => ({ type: "text", text: value, ...more })
    const body = {
      model: claude,
      tools: [{ ...weather, ...hour }],
      messages: [
        { role: "system", content: [text("s", hour)] },
        { role: "user", content: [text("a", short), text("b", short)] }
      ]
    }
    const { dropped, sent } = await ask(body, anthropic.answer({ text: "ok" }))
    assert.deepStrictEqual(at(sent, "tools", 0, "cache_control"), hour.cache_control)
    assert.deepStrictEqual(at(sent, "system", 0, "cache_control"), hour.cache_control)
    assert.deepStrictEqual(at(sent, "messages", 0, "content", 1, "cache_control"), short.cache_control)
    assert.isNull(dropped)
    const refused = await gateway.post(path, { ...body, messages: [...body.messages, { ...user("c"), ...short }] })
    assert.strictEqual(refused.status, 400)
    assert.strictEqual(at(parsed(await refused.text()), "error", "param"), "messages[2].content[0].cache_control")
  })

  it("is refused where a call's arguments are no JSON, by their place, and nothing is sent", async () => {
    const response = await gateway.post(path, {
      model: claude,
      messages: [
        user("a"),
        { role: "assistant", tool_calls: [call("call_1", "{\"city\":")] },
        { role: "tool", tool_call_id: "call_1", content: "?" }
      ]
    })
    assert.strictEqual(response.status, 400)
    assert.strictEqual(at(parsed(await response.text()), "error", "param"), "messages[1].tool_calls[0].arguments")
    assert.isEmpty(upstream.requests)
  })
})

describe("Anthropic's answers to an OpenAI caller", () => {
  const hi = { model: claude, messages: [user("Hi")] }

  it.each([
    ["refusal", "content_filter"],
    ["pause_turn", "stop"],
    ["model_context_window_exceeded", "length"],
    ["stop_sequence", "stop"]
  ])("%s is %s, with the native word beside it", async (native, expected) => {
    const { answer } = await ask(hi, anthropic.answer({ text: "Hm", stopReason: native }))
    assert.strictEqual(at(answer, "choices", 0, "finish_reason"), expected)
    assert.strictEqual(at(answer, "choices", 0, "native_finish_reason"), native)
    const chunks = await streamed(hi, anthropic.answer({ text: "Hm", stopReason: native }))
    const finishes = chunks.flatMap((chunk) => at(chunk, "choices", 0, "finish_reason") ?? [])
    assert.deepStrictEqual(finishes, [expected])
  })

  it("a refusal in words is the message's refusal", async () => {
    const { answer } = await ask(
      hi,
      anthropic.answer({
        text: "",
        stopReason: "refusal",
        extra: { stop_details: { type: "refusal", category: null, explanation: "I will not." } }
      })
    )
    assert.strictEqual(at(answer, "choices", 0, "message", "refusal"), "I will not.")
    assert.strictEqual(at(answer, "choices", 0, "finish_reason"), "content_filter")
  })

  it("usage counts the cache into the prompt, and message_delta replaces what message_start said", async () => {
    const usage = {
      input_tokens: 61,
      output_tokens: 20,
      cache_read_input_tokens: 100,
      cache_creation_input_tokens: 10
    }
    const expected = { prompt_tokens: 171, completion_tokens: 20, total_tokens: 191 }
    const whole = await ask(hi, anthropic.answer({ text: "Hm", usage }))
    assert.deepInclude(at(whole.answer, "usage"), expected)
    assert.deepInclude(at(whole.answer, "usage", "prompt_tokens_details"), {
      cached_tokens: 100,
      cache_write_tokens: 10
    })
    const chunks = await streamed(
      hi,
      anthropic.answer({ text: "Hm", usage, startUsage: { input_tokens: 43, output_tokens: 3 } })
    )
    assert.deepInclude(at(chunks.at(-1), "usage"), expected)
    assert.deepStrictEqual(at(chunks.at(-1), "usage"), at(whole.answer, "usage"))
  })

  it("a call without arguments, for which only \"\" streams, is {}; text before it takes no index", async () => {
    const chunks = await streamed(
      { ...hi, tools: [weather] },
      anthropic.answer({
        text: "I look.",
        toolCalls: [{ id: "toolu_1", name: "get_weather", input: [""] }, {
          id: "toolu_2",
          name: "get_weather",
          input: { city: "Oslo" }
        }]
      })
    )
    const calls = chunks.flatMap((chunk) => at(chunk, "choices", 0, "delta", "tool_calls", 0) ?? [])
    const joined = (index: number) =>
      calls.filter((call) => at(call, "index") === index).map((call) => String(at(call, "function", "arguments"))).join(
        ""
      )
    assert.deepStrictEqual(calls.flatMap((call) => at(call, "id") ?? []), ["toolu_1", "toolu_2"])
    assert.strictEqual(joined(0), "{}")
    assert.deepStrictEqual(JSON.parse(joined(1)), { city: "Oslo" })
  })

  it("arguments that the limit cut off reach the caller as they are", async () => {
    const chunks = await streamed(
      { ...hi, tools: [weather] },
      anthropic.answer({
        toolCalls: [{ id: "toolu_1", name: "get_weather", input: ["{\"city\":", "\"Os"] }],
        stopReason: "max_tokens"
      })
    )
    const pieces = chunks.flatMap((chunk) =>
      at(chunk, "choices", 0, "delta", "tool_calls", 0, "function", "arguments") ?? []
    )
    assert.strictEqual(pieces.filter((piece) => typeof piece === "string").join(""), "{\"city\":\"Os")
    assert.deepStrictEqual(chunks.flatMap((chunk) => at(chunk, "choices", 0, "finish_reason") ?? []), ["length"])
  })
})

describe("Ollama behind an OpenAI caller", () => {
  it("several calls without ids in one line get ids and indices, and finish as tool_calls", async () => {
    const chunks = await streamed(
      { model: llama, messages: [user("Hi")], tools: [weather] },
      ollama.answer({
        toolCalls: [
          { id: null, name: "get_weather", arguments: { city: "Oslo" } },
          { id: null, name: "get_weather", arguments: { city: "Rome" } }
        ],
        callsInOneLine: true,
        doneReason: "stop"
      })
    )
    const calls = chunks.flatMap((chunk) => at(chunk, "choices", 0, "delta", "tool_calls", 0) ?? [])
    assert.deepStrictEqual(calls.map((call) => at(call, "index")), [0, 1])
    assert.strictEqual(new Set(calls.map((call) => at(call, "id"))).size, 2)
    for (const call of calls) assert.match(String(at(call, "id")), /^call_[\w-]+$/)
    assert.deepStrictEqual(chunks.flatMap((chunk) => at(chunk, "choices", 0, "finish_reason") ?? []), ["tool_calls"])
  })

  it("a long prompt gets a context that it fits into; a short one sets nothing", async () => {
    const long = await ask({ model: llama, messages: [user("word ".repeat(10_000))] }, ollama.answer({ text: "ok" }))
    assert.strictEqual(at(long.sent, "options", "num_ctx"), 16_384)
    const short = await ask({ model: llama, messages: [user("Hi")] }, ollama.answer({ text: "ok" }))
    assert.isUndefined(short.sent["options"])
    assert.strictEqual(short.sent["stream"], false)
  })
})

describe("fields that only OpenAI knows", () => {
  it.each([[claude, anthropic.answer({ text: "ok" })], [llama, ollama.answer({ text: "ok" })]])(
    "are named where they cannot go: %s",
    async (model, script) => {
      const body = {
        model,
        foo: 1,
        max_tokens: 5,
        stop: "END",
        messages: [{ role: "user", bar: 1, content: [{ type: "text", text: "Hi", baz: 1 }] }],
        tools: [{ ...weather, qux: 1 }]
      }
      const names = "foo, messages[].bar, messages[].content[].baz, tools[].qux"
      assert.strictEqual((await ask(body, script)).dropped, names)
      upstream.reply(script)
      const response = await gateway.post(path, { ...body, stream: true })
      await response.text()
      assert.strictEqual(response.headers.get("x-gateway-dropped-params"), names)
    }
  )

  it("do no harm to the header, whatever they are called", async () => {
    const { dropped } = await ask(
      { model: claude, messages: [user("Hi")], "a\r\nset-cookie: x=1\u2028ü": 1 },
      anthropic.answer({ text: "ok" })
    )
    assert.match(dropped ?? "", /^[\x20-\x7e]+$/)
  })
})

describe("errors of upstreams", () => {
  const failed = async (script: Script, model = "openai::m") => {
    upstream.reply(script)
    const response = await gateway.post(path, { model, messages: [user("Hi")] })
    return { status: response.status, wait: response.headers.get("retry-after"), body: parsed(await response.text()) }
  }

  it("a wait of 0 ms beside one of a second does not make clients spin (Azure)", async () => {
    const { status, wait } = await failed(json({ error: { code: "429", message: "slow down" } }, {
      status: 429,
      headers: { "retry-after": "1", "retry-after-ms": "0" }
    }))
    assert.strictEqual(status, 429)
    assert.strictEqual(wait, "1")
  })

  it("quota that is used up tells no wait, whatever the headers say", async () => {
    const { status, wait } = await failed(
      json({ error: { type: "insufficient_quota", code: "insufficient_quota", message: "You exceeded your quota" } }, {
        status: 429,
        headers: { "retry-after": "5" }
      })
    )
    assert.strictEqual(status, 429)
    assert.isNull(wait)
  })

  it("a numeric code inside an answer of status 200 is the status that it should have had (OpenRouter)", async () => {
    const { status } = await failed(json({ error: { code: 429, message: "Rate limited" } }))
    assert.strictEqual(status, 429)
  })

  it.each([claude, llama, "openai::m"])("a 503 that is an HTML page is the provider's failure: %s", async (model) => {
    const { body, status } = await failed(htmlPage(503), model)
    assert.isAtLeast(status, 500)
    assert.notInclude(JSON.stringify(body), "<")
  })
})
