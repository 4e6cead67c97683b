/**
 * The Anthropic dialect request by request: what of Anthropic's own words reaches Anthropic untouched, what the other
 * providers make of it, how tokens are counted, and how errors are told.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, json, parsed, type Script, sseEvent, stream } from "../fixtures/Script.ts"
import { at, list } from "../fixtures/Speakers.ts"

let upstream: FakeUpstream
let gateway: RunningGateway

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex")

beforeAll(async () => {
  upstream = await startFakeUpstream()
  upstream.models(["claude-sonnet-4-5"])
  gateway = await startGateway(`
auth:
  mode: keys
  keys:
    - { id: plain, sha256: "${sha256("plain")}", tenant: plain }
    - { id: narrow, sha256: "${sha256("narrow")}", tenant: narrow }
    - { id: limited, sha256: "${sha256("limited")}", tenant: limited }
tenants:
  plain: {}
  narrow: { models: ["ollama::*"] }
  limited: { rate_limits: [{ requests: 2, per: tenant, window: 1h }] }
defaults: { attempts: 1 }
providers:
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key }
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "ollama::no-thinker", capabilities: [text_input, text_output, tools, streaming] }
routes:
  claude-haiku-4-5: { models: ["ollama::llama3.2:3b"] }
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

const path = "/v1/messages"
const claude = "anthropic::claude-sonnet-4-5"
const gpt = "openai::gpt-test"
const llama = "ollama::llama3.2:3b"
const user = (content: unknown) => ({ role: "user", content })
const ask = (model: string, more: Json = {}): Json => ({ model, max_tokens: 2000, messages: [user("Hi")], ...more })
const scripts: Readonly<Record<string, Script>> = {
  [claude]: anthropic.answer({ text: "ok" }),
  [gpt]: openAi.answer({ text: "ok" }),
  [llama]: ollama.answer({ text: "ok" })
}

interface Answered {
  readonly status: number
  readonly headers: Headers
  readonly body: unknown
}

const post = async (to: string, body: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Answered> => {
  const response = await gateway.post(to, body, { "x-api-key": "plain", ...headers })
  return { status: response.status, headers: response.headers, body: parsed(await response.text()) }
}

/** One call that succeeds, and what its upstream received. */
const send = async (
  model: string,
  more: Json = {},
  headers: Readonly<Record<string, string>> = {},
  script: Script | undefined = scripts[model]
) => {
  if (script !== undefined) upstream.reply(script)
  const answered = await post(`${path}?beta=true`, ask(model, more), headers)
  assert.strictEqual(answered.status, 200, JSON.stringify(answered.body))
  return { ...answered, sent: upstream.request(upstream.requests.length - 1) }
}

/** One call that the gateway refuses before it asks anybody. */
const refused = async (model: string, more: Json): Promise<string> => {
  const { body, status } = await post(path, ask(model, more))
  assert.strictEqual(status, 400, JSON.stringify(body))
  assert.strictEqual(at(body, "type"), "error")
  assert.strictEqual(at(body, "error", "type"), "invalid_request_error")
  assert.lengthOf(upstream.requests, 0)
  return String(at(body, "error", "message"))
}

const eventsIn = (text: string): ReadonlyArray<Json> =>
  text.split("\n").flatMap((line) => line.startsWith("data: ") ? [parsed(line.slice(6))] : []).filter(isJson)

const streamed = async (model: string, script: Script): Promise<ReadonlyArray<Json>> => {
  upstream.reply(script)
  const response = await gateway.post(path, ask(model, { stream: true }), { "x-api-key": "plain" })
  return eventsIn(await response.text())
}

// ---------------------------------------------------------------------------------------------------------------------
// What is Anthropic's own
// ---------------------------------------------------------------------------------------------------------------------

describe("the version and the betas", () => {
  const headers = {
    "anthropic-version": "2026-10-21",
    "anthropic-beta": "context-1m-2025-08-07, interleaved-thinking-2025-05-14"
  }

  it("reach Anthropic, with those of the body", async () => {
    const { sent } = await send(claude, { anthropic_beta: ["files-api-2025-04-14"] }, headers)
    assert.strictEqual(sent.headers["anthropic-version"], "2026-10-21")
    assert.strictEqual(
      sent.headers["anthropic-beta"],
      "files-api-2025-04-14,context-1m-2025-08-07,interleaved-thinking-2025-05-14"
    )
    assert.notProperty(sent.json, "anthropic_beta")
    assert.strictEqual(sent.path, "/v1/messages", "the query is the SDK's own business")
  })

  it("are optional", async () => {
    const { sent } = await send(claude)
    assert.strictEqual(sent.headers["anthropic-version"], "2023-06-01")
    assert.notProperty(sent.headers, "anthropic-beta")
  })

  it.each([gpt, llama])("are nobody else's business: %s", async (model) => {
    const { headers: told, sent } = await send(model, {}, headers)
    assert.notInclude(JSON.stringify(sent.headers) + JSON.stringify(sent.json), "2025")
    assert.notInclude(JSON.stringify(sent.headers), "anthropic-")
    assert.isNull(told.get("x-gateway-dropped-params"))
  })

  it("are refused where they are no names", async () => {
    const { body, status } = await post(path, ask(claude), { "anthropic-beta": "a b" })
    assert.strictEqual(status, 400)
    assert.include(String(at(body, "error", "message")), "anthropic_beta")
  })
})

describe("Anthropic's own tools", () => {
  const webSearch = { type: "web_search_20250305", name: "web_search", max_uses: 5, allowed_domains: ["example.com"] }
  const turn = [
    user("Search."),
    {
      role: "assistant",
      content: [
        { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: { query: "x" } },
        {
          type: "web_search_tool_result",
          tool_use_id: "srvtoolu_1",
          content: [{ type: "web_search_result", url: "https://example.com", title: "X", encrypted_content: "e" }]
        },
        { type: "text", text: "Found." }
      ]
    },
    user([{ type: "text", text: "More.", cache_control: { type: "ephemeral", ttl: "1h" } }])
  ]

  it("reach it untouched, in the list and in the conversation", async () => {
    const tools = [
      { ...webSearch, cache_control: { type: "ephemeral" } },
      { type: "code_execution_20250825", name: "code_execution" },
      { type: "text_editor_20250728", name: "str_replace_based_edit_tool", max_characters: 10_000 }
    ]
    const container = { id: "container_1" }
    const { headers, sent } = await send(claude, { tools, messages: turn, container, mcp_servers: [{ url: "u" }] })
    assert.deepStrictEqual(sent.json["tools"], tools)
    assert.deepStrictEqual(at(sent.json, "messages", 1), turn[1])
    assert.deepStrictEqual(at(sent.json, "messages", 2), turn[2])
    assert.deepStrictEqual(sent.json["container"], container)
    assert.deepStrictEqual(sent.json["mcp_servers"], [{ url: "u" }])
    assert.isNull(headers.get("x-gateway-dropped-params"))
  })

  it("come back from it untouched, whole and streamed", async () => {
    const use = { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: { query: "x" } }
    const result = {
      type: "web_search_tool_result",
      tool_use_id: "srvtoolu_1",
      content: [{ type: "web_search_result" }]
    }
    const script = anthropic.answer({
      blocks: [{ type: "other", block: use }, { type: "other", block: result }, { type: "text", text: "Found." }],
      stopReason: "pause_turn"
    })
    const { body } = await send(claude, {}, {}, script)
    assert.deepStrictEqual(at(body, "content"), [use, result, { type: "text", text: "Found." }])
    assert.strictEqual(at(body, "stop_reason"), "pause_turn")
    const events = await streamed(claude, script)
    const starts = events.filter((event) => event["type"] === "content_block_start")
    assert.deepStrictEqual(starts.slice(0, 2).map((event) => event["content_block"]), [use, result])
  })

  it.each([gpt, llama])("are refused by name elsewhere: %s", async (model) => {
    assert.match(await refused(model, { tools: [webSearch] }), /tools\[0\].*"web_search" of type "web_search_20250305"/)
    const told = await refused(model, { messages: turn })
    assert.match(told, /"server_tool_use" \(for the tool "web_search"\)/)
  })
})

describe("thinking", () => {
  const tool = { name: "look", input_schema: { type: "object" } }
  const call = { type: "tool_use", id: "toolu_1", name: "look", input: {} }
  const back = (content: ReadonlyArray<unknown>) => [
    user("Look."),
    { role: "assistant", content },
    user([{ type: "tool_result", tool_use_id: "toolu_1", content: "a cat", is_error: false }])
  ]
  const wish = { thinking: { type: "enabled", budget_tokens: 1024 }, tools: [tool] }

  it("keeps its signature through a tool turn with Anthropic", async () => {
    const thought = { type: "thinking", thinking: "Hm.", signature: "c2lnbmVk" }
    const hidden = { type: "redacted_thinking", data: "ZGF0YQ==" }
    const { headers, sent } = await send(claude, { ...wish, messages: back([thought, hidden, call]) })
    assert.deepStrictEqual(at(sent.json, "messages", 1, "content"), [thought, hidden, call])
    assert.deepStrictEqual(sent.json["thinking"], wish.thinking)
    assert.isNull(headers.get("x-gateway-dropped-params"))
  })

  it("of another provider is read without a signature, and does not go to Anthropic as its own", async () => {
    const { body } = await send(gpt, {}, {}, openAi.answer({ reasoning: "Hm.", text: "ok" }))
    const [thought] = list(at(body, "content"))
    assert.deepStrictEqual(thought, { type: "thinking", thinking: "Hm.", signature: "" })
    const { headers, sent } = await send(claude, { ...wish, messages: back([thought, call]) })
    assert.deepStrictEqual(at(sent.json, "messages", 1, "content"), [call])
    assert.include(headers.get("x-gateway-dropped-params") ?? "", "messages[].content[].reasoning")
  })

  it("is asked of a model that can, and of no model that is known not to", async () => {
    assert.strictEqual((await send(llama, wish)).sent.json["think"], true)
    const { headers, sent } = await send("ollama::no-thinker", wish, {}, ollama.answer({ text: "ok" }))
    assert.notProperty(sent.json, "think")
    assert.include(headers.get("x-gateway-dropped-params") ?? "", "reasoning")
  })
})

describe("documents", () => {
  const pdf = { type: "base64", media_type: "application/pdf", data: "JVBERi0xLjc=" }
  const text = { type: "text", media_type: "text/plain", data: "The cat is grey." }
  const document = { type: "document", source: pdf, title: "A", context: "B", citations: { enabled: true } }

  it("reach Anthropic as they are, and its citations come back", async () => {
    const citation = {
      type: "char_location",
      cited_text: "grey",
      document_index: 0,
      start_char_index: 1,
      end_char_index: 5
    }
    const content = [document, { type: "document", source: text }, { type: "text", text: "Which colour?" }]
    const script = anthropic.answer({ blocks: [{ type: "text", text: "Grey.", citations: [citation] }] })
    const { body, sent } = await send(claude, { messages: [user(content)] }, {}, script)
    assert.deepStrictEqual(at(sent.json, "messages", 0, "content"), content)
    assert.deepStrictEqual(at(body, "content", 0, "citations"), [citation])
  })

  it("reach OpenAI as files, and Ollama as text", async () => {
    const content = [{ type: "document", source: text }, { type: "text", text: "Which colour?" }]
    const toOpenAi = await send(gpt, { messages: [user([document])] })
    assert.deepStrictEqual(at(toOpenAi.sent.json, "messages", 0, "content", 0, "file"), {
      filename: "A",
      file_data: "data:application/pdf;base64,JVBERi0xLjc="
    })
    assert.include(toOpenAi.headers.get("x-gateway-dropped-params") ?? "", "messages[].content[].citations")
    const toOllama = await send(llama, { messages: [user(content)] })
    assert.strictEqual(at(toOllama.sent.json, "messages", 0, "content"), "The cat is grey.\nWhich colour?")
    upstream.reset()
    assert.include(await refused(llama, { messages: [user([document])] }), "messages[0].content[0]")
  })
})

describe("parameters", () => {
  const all = {
    stop_sequences: ["END"],
    top_k: 40,
    metadata: { user_id: "u-1" },
    service_tier: "standard_only",
    tool_choice: { type: "any", disable_parallel_tool_use: true },
    tools: [{ name: "look", description: "Looks", input_schema: { type: "object", $defs: { a: {} } } }]
  }

  it("reach Anthropic, the user's id as a hash", async () => {
    const { sent } = await send(claude, all)
    assert.deepStrictEqual(sent.json, {
      ...all,
      metadata: { user_id: sha256("u-1") },
      model: "claude-sonnet-4-5",
      max_tokens: 2000,
      messages: [user([{ type: "text", text: "Hi" }])]
    })
  })

  it("reach OpenAI in its words, and what it has none for is named", async () => {
    const { headers, sent } = await send(gpt, all)
    assert.deepInclude(sent.json, {
      stop: ["END"],
      user: "u-1",
      service_tier: "default",
      tool_choice: "required",
      parallel_tool_calls: false,
      max_completion_tokens: 2000
    })
    assert.strictEqual(headers.get("x-gateway-dropped-params"), "top_k")
  })

  it("reach Ollama in its words, and what it has none for is named", async () => {
    const { headers, sent } = await send(llama, all)
    assert.deepInclude(sent.json["options"], { stop: ["END"], top_k: 40, num_predict: 2000 })
    assert.strictEqual(
      headers.get("x-gateway-dropped-params"),
      "tool_choice, parallel_tool_calls, user, service_tier"
    )
  })

  it("cache breakpoints reach Anthropic, and are named elsewhere", async () => {
    const cached = { cache_control: { type: "ephemeral" } }
    const system = [{ type: "text", text: "Long.", ...cached }]
    const kept = await send(claude, { system, cache_control: { type: "ephemeral", ttl: "1h" } })
    assert.deepStrictEqual(kept.sent.json["system"], system)
    assert.deepStrictEqual(kept.sent.json["cache_control"], { type: "ephemeral", ttl: "1h" })
    const named = await send(gpt, { system })
    assert.strictEqual(named.headers.get("x-gateway-dropped-params"), "messages[].content[].cache_control")
  })
})

describe("models", () => {
  it("are known by their bare id, and routes by their name", async () => {
    const own = await startGateway(`
providers:
  anthropic: { type: anthropic, base_url: "${upstream.url}" }
  sandbox: { type: sandbox }
`)
    upstream.models(["claude-sonnet-4-5"])
    await own.discover()
    upstream.reply(anthropic.answer({ text: "ok" }))
    const bare = await own.post(path, ask("claude-sonnet-4-5"))
    assert.strictEqual(bare.headers.get("x-gateway-model"), claude)
    await own.close()
    const routed = await send("claude-haiku-4-5", {}, {}, ollama.answer({ text: "ok" }))
    assert.strictEqual(routed.headers.get("x-gateway-model"), llama)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Usage
// ---------------------------------------------------------------------------------------------------------------------

describe("usage", () => {
  const startOf = (events: ReadonlyArray<Json>) => at(events[0], "message")
  const deltaOf = (events: ReadonlyArray<Json>) => events.find((event) => event["type"] === "message_delta")

  it("is estimated at the start where the provider tells it at the end, and final at the end", async () => {
    const events = await streamed(
      gpt,
      openAi.stream({ text: "ok", usage: { prompt_tokens: 61, completion_tokens: 3 } })
    )
    assert.strictEqual(at(startOf(events), "usage", "input_tokens"), 5)
    assert.deepInclude(at(deltaOf(events), "usage"), { input_tokens: 61, output_tokens: 3 })
  })

  it("is estimated where the provider tells none at all, streamed as in one piece", async () => {
    const events = await streamed(gpt, openAi.stream({ text: "One two three four", usage: null }))
    const whole = await send(gpt, {}, {}, openAi.chat({ text: "One two three four", usage: null }))
    assert.deepInclude(at(whole.body, "usage"), { input_tokens: 5, output_tokens: 5 })
    assert.deepStrictEqual(at(deltaOf(events), "usage"), at(whole.body, "usage"))
  })

  it("counts what came from the cache apart", async () => {
    const usage = { prompt_tokens: 100, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 90 } }
    const { body } = await send(gpt, {}, {}, openAi.chat({ text: "ok", usage }))
    assert.deepInclude(at(body, "usage"), { input_tokens: 10, cache_read_input_tokens: 90, output_tokens: 3 })
  })

  it("comes with an id and a model, also from a server whose first chunk has neither", async () => {
    const chunk = (id: string, model: string, choices: ReadonlyArray<Json>): string =>
      sseEvent({ id, object: "chat.completion.chunk", created: 1, model, choices })
    const events = await streamed(
      gpt,
      stream("sse", [
        sseEvent({ id: "", object: "", created: 0, model: "", choices: [], prompt_filter_results: [{}] }),
        chunk("c-1", "gpt-real", [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }]),
        chunk("c-1", "gpt-real", [{ index: 0, delta: { content: "ok" }, finish_reason: null }]),
        chunk("c-1", "gpt-real", [{ index: 0, delta: {}, finish_reason: "stop" }]),
        sseEvent("[DONE]")
      ])
    )
    assert.deepInclude(startOf(events), { id: "c-1", model: "gpt-real" })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Counting tokens
// ---------------------------------------------------------------------------------------------------------------------

describe("counting tokens", () => {
  const count = `${path}/count_tokens`
  const question = (model: string, more: Json = {}): Json => ({
    model,
    system: [{ type: "text", text: "Be brief." }],
    messages: [user([{ type: "text", text: "How many tokens are these?" }])],
    ...more
  })

  it("is Anthropic's own where the model is its", async () => {
    upstream.reply(anthropic.countTokens(4711))
    const tools = [{ name: "look", input_schema: { type: "object" } }]
    const thinking = { type: "enabled", budget_tokens: 16_000 }
    const asked = question(claude, { tools, thinking, tool_choice: { type: "auto" } })
    const { body, headers } = await post(`${count}?beta=true`, asked, {
      "anthropic-beta": "token-counting-2024-11-01",
      "anthropic-version": "2026-10-21"
    })
    assert.deepStrictEqual(body, { input_tokens: 4711 })
    assert.isNull(headers.get("x-gateway-estimated"))
    assert.strictEqual(headers.get("x-gateway-model"), claude)
    assert.match(headers.get("request-id") ?? "", /^req_/)
    const sent = upstream.request(0)
    assert.strictEqual(sent.path, count)
    assert.deepStrictEqual(sent.json, { ...asked, model: "claude-sonnet-4-5" })
    assert.strictEqual(sent.headers["anthropic-beta"], "token-counting-2024-11-01")
    assert.strictEqual(sent.headers["anthropic-version"], "2026-10-21")
    assert.strictEqual(sent.headers["x-api-key"], "upstream-key")
  })

  it.each([gpt, llama, "sandbox::echo", "claude-haiku-4-5"])(
    "is an estimate, and says so, elsewhere: %s",
    async (model) => {
      const { body, headers, status } = await post(count, question(model))
      assert.strictEqual(status, 200)
      assert.strictEqual(headers.get("x-gateway-estimated"), "true")
      assert.strictEqual(at(body, "input_tokens"), 18)
      assert.lengthOf(upstream.requests, 0)
    }
  )

  it.each([
    ["has no such endpoint", anthropic.error(404)],
    ["is overloaded", anthropic.error(529)],
    ["limits the gateway", anthropic.error(429)],
    ["does not answer", withFault(anthropic.countTokens(1), fault.reset)],
    ["answers nonsense", json({ tokens: 5 }, { wire: "anthropic" })]
  ])("is an estimate where the provider %s", async (_, script) => {
    upstream.reply(script)
    const { body, headers, status } = await post(count, question(claude))
    assert.strictEqual(status, 200, JSON.stringify(body))
    assert.strictEqual(headers.get("x-gateway-estimated"), "true")
    assert.strictEqual(at(body, "input_tokens"), 18)
  })

  it("tells what the provider finds wrong with the request", async () => {
    upstream.reply(anthropic.error(400, { message: "messages.0.content: too odd" }))
    const { body, status } = await post(count, question(claude))
    assert.strictEqual(status, 400)
    assert.deepInclude(at(body, "error"), { type: "invalid_request_error", message: "messages.0.content: too odd" })
  })

  it("leaves the chat with that provider alone, however often it fails", async () => {
    upstream.always(anthropic.error(500))
    for (let time = 0; time < 10; time++) await post(count, question(claude))
    upstream.reset()
    await send(claude)
  })

  it.each([
    ["a model that nobody knows", question("nobody::m"), {}, 404, "not_found_error"],
    ["a model that the tenant may not use", question(claude), { "x-api-key": "narrow" }, 403, "permission_error"],
    ["no key", question(claude), { "x-api-key": "wrong" }, 401, "authentication_error"],
    ["no messages", { model: claude }, {}, 400, "invalid_request_error"]
  ])("is refused with %s", async (_, asked, headers, status, type) => {
    const answered = await post(count, asked, headers)
    assert.strictEqual(answered.status, status)
    assert.strictEqual(at(answered.body, "error", "type"), type)
    assert.strictEqual(at(answered.body, "request_id"), answered.headers.get("request-id"))
    assert.lengthOf(upstream.requests, 0)
  })

  it("takes from the limit of requests, as what it asks for costs a call", async () => {
    const limited = { "x-api-key": "limited" }
    const first = await post(count, question(gpt), limited)
    assert.strictEqual(first.headers.get("anthropic-ratelimit-requests-limit"), "2")
    assert.strictEqual(first.headers.get("anthropic-ratelimit-requests-remaining"), "1")
    const reset = Date.parse(first.headers.get("anthropic-ratelimit-requests-reset") ?? "")
    assert.isAbove(reset, Date.now())
    assert.strictEqual((await post(count, question(gpt), limited)).status, 200)
    const { body, headers, status } = await post(count, question(gpt), limited)
    assert.strictEqual(status, 429)
    assert.strictEqual(at(body, "error", "type"), "rate_limit_error")
    assert.isAbove(Number(headers.get("retry-after")), 0)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Errors
// ---------------------------------------------------------------------------------------------------------------------

describe("an error", () => {
  const wrong = async (response: Response) => {
    const body = parsed(await response.text())
    const id = response.headers.get("request-id")
    assert.strictEqual(response.headers.get("content-type"), "application/json")
    assert.strictEqual(response.headers.get("x-request-id"), id)
    assert.deepStrictEqual(Object.keys(isJson(body) ? body : {}), ["type", "error", "request_id"])
    assert.deepStrictEqual([at(body, "type"), at(body, "request_id")], ["error", id])
    assert.isNotEmpty(at(body, "error", "message"))
    return [response.status, at(body, "error", "type")]
  }
  const call = (method: string, to: string) => fetch(gateway.url + to, { method, headers: { "x-api-key": "plain" } })

  it.each([
    ["GET", path, 405, "invalid_request_error"],
    ["DELETE", `${path}/count_tokens`, 405, "invalid_request_error"],
    ["POST", `${path}/batches`, 404, "not_found_error"],
    ["GET", `${path}/batches/msgbatch_1/results`, 404, "not_found_error"],
    ["GET", `${path}/%zz`, 404, "not_found_error"]
  ])("of the address is in Anthropic's words: %s %s", async (method, to, status, type) => {
    assert.deepStrictEqual(await wrong(await call(method, to)), [status, type])
  })

  it.each([
    ["no JSON", "{", 400, "invalid_request_error"],
    ["an unknown model", JSON.stringify(ask("nobody::m")), 404, "not_found_error"],
    ["a thread", JSON.stringify(ask(claude, { thread: { type: "create" } })), 400, "invalid_request_error"]
  ])("of the body is in Anthropic's words: %s", async (_, body, status, type) => {
    const response = await gateway.post(path, body, { "x-api-key": "plain", "x-request-id": "order-7" })
    assert.strictEqual(response.headers.get("request-id"), "order-7")
    assert.deepStrictEqual(await wrong(response), [status, type])
  })

  it("is told with its place", async () => {
    const told = await refused(claude, { messages: [user([{ type: "image", source: {} }])], max_tokens: 0 })
    assert.include(told, "messages[0].content[0].source")
  })
})
