/**
 * The calls that Open WebUI makes to an Ollama server, as its backend writes them (`backend/open_webui/routers/ollama.py` and
 * `utils/payload.py` of github.com/open-webui/open-webui): the headers that it sends along, the names that it puts together,
 * and the fields that it reads.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed } from "../fixtures/Script.ts"

/** Of "secret". */
const sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

const headers = {
  "content-type": "application/json",
  authorization: "Bearer secret",
  "x-openwebui-user-name": "Ann%20Example",
  "x-openwebui-user-id": "8d967e73-99b8-40ff-ac3b-c71ac19f97ef",
  "x-openwebui-user-email": "ann@example.com",
  "x-openwebui-user-role": "user",
  "x-openwebui-chat-id": "c0d1c2a6-2d5f-4f50-8b0a-3f0d4f1f2f60",
  "user-agent": "Python/3.11 aiohttp/3.12.15"
}

let upstream: FakeUpstream
let gateway: RunningGateway

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
auth:
  mode: keys
  keys: [{ id: k1, sha256: ${sha256}, tenant: acme }]
tenants: { acme: {} }
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "openai::gpt-x", capabilities: [text_input, image_input, text_output, tools, streaming], context_window: 128000 }
routes:
  fast: { models: ["openai::gpt-x"] }
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

const objects = (value: unknown): ReadonlyArray<Json> => Array.isArray(value) ? value.filter(isJson) : []

const get = async (path: string, sent: Readonly<Record<string, string>> = headers) => {
  const response = await fetch(gateway.url + path, { headers: sent })
  const body = parsed(await response.text())
  return { status: response.status, body: isJson(body) ? body : {} }
}

const post = async (path: string, body: Json) => {
  const response = await gateway.post(path, body, headers)
  return { response, text: await response.text() }
}

const tags = async (): Promise<ReadonlyArray<Json>> => objects((await get("/api/tags")).body["models"])

/** The name under which it asks for a model; it looks that up in the list by `model` and refuses what is not there. */
const nameOf = async (chosen: string): Promise<string> => {
  const name = chosen.includes(":") ? chosen : `${chosen}:latest`
  assert.include((await tags()).map(({ model }) => model), name)
  return name
}

const linesOf = (text: string): ReadonlyArray<Json> => text.trim().split("\n").map(parsed).filter(isJson)

describe("the connection", () => {
  it("is verified by the version, with and without a key", async () => {
    const verified = await get("/api/version")
    assert.strictEqual(verified.status, 200)
    // `tuple(map(int, re.sub(r"^v|-.*", "", version).split(".")))`
    const numbers = String(verified.body["version"]).replace(/^v|-.*/g, "").split(".").map(Number)
    assert.isTrue(numbers.length === 3 && numbers.every(Number.isInteger))
    const stranger = await get("/api/version", {})
    assert.strictEqual(stranger.status, 401)
    assert.isString(stranger.body["error"], "what it shows to its administrator")
  })

  it("is probed at its root, without a key", async () => {
    for (const method of ["GET", "HEAD"]) {
      const response = await fetch(`${gateway.url}/`, { method })
      assert.strictEqual(response.status, 200)
      assert.strictEqual(await response.text(), method === "GET" ? "Ollama is running" : "")
    }
  })

  it("tells the loaded models, of which it reads name, model and expires_at", async () => {
    const { body, status } = await get("/api/ps")
    assert.strictEqual(status, 200)
    assert.deepStrictEqual(body, { models: [] })
  })
})

describe("the models", () => {
  it("are listed by the names that are asked for later", async () => {
    const listed = await tags()
    for (const model of listed) {
      for (const key of ["name", "model", "modified_at", "digest"]) assert.isString(model[key], key)
      assert.isNumber(model["size"])
      assert.isTrue(isJson(model["details"]))
      assert.strictEqual(await nameOf(String(model["model"])), model["model"])
    }
    assert.include(listed.map(({ model }) => model), "openai::gpt-x")
    assert.strictEqual(await nameOf("fast"), "fast:latest")
  })

  it("are shown by either name of the field", async () => {
    for (const body of [{ model: "openai::gpt-x" }, { name: "fast:latest", model: "fast:latest" }]) {
      const { response, text } = await post("/api/show", body)
      assert.strictEqual(response.status, 200, text)
      assert.deepInclude(parsed(text), { capabilities: ["completion", "tools", "vision"] })
    }
  })

  it("are unloaded by a request without a prompt", async () => {
    const { response, text } = await post("/api/generate", {
      model: await nameOf("fast"),
      keep_alive: 0,
      prompt: ""
    })
    assert.strictEqual(response.status, 200)
    assert.deepInclude(parsed(text), { done: true, done_reason: "unload" })
  })
})

describe("a chat", () => {
  /** What `convert_payload_openai_to_ollama` makes of a turn with an image and tools, with the settings of the page. */
  const payload = {
    messages: [
      { role: "system", content: "You are helpful." },
      { role: "user", content: "What is this?", images: [png] },
      {
        role: "assistant",
        content: "",
        tool_calls: [{ index: 0, id: "call_1", function: { name: "look", arguments: { at: "it" } } }]
      },
      { role: "tool", content: "a dot", tool_call_id: "call_1" },
      { role: "user", content: "Say it again." }
    ],
    stream: true,
    options: { temperature: 0.7, num_ctx: 8192, top_k: 40, stop: ["END"], num_predict: 128, num_gpu: 1 },
    keep_alive: "5m",
    template: "{{ .Prompt }}",
    tools: [{
      type: "function",
      function: { name: "look", description: "Looks", parameters: { type: "object", properties: {} } }
    }]
  }

  it("is streamed to it line by line", async () => {
    upstream.reply(openAi.answer({
      text: ["A ", "dot."],
      usage: { prompt_tokens: 9, completion_tokens: 12 }
    }))
    const model = await nameOf("fast")
    const { response, text } = await post("/api/chat", { model, ...payload })
    assert.strictEqual(response.status, 200, text)
    assert.strictEqual(response.headers.get("content-type"), "application/x-ndjson")
    const lines = linesOf(text)
    assert.deepStrictEqual(lines.map(({ done }) => done), [false, false, true])
    assert.isTrue(lines.every((line) => line["model"] === model))
    assert.deepStrictEqual(lines[0]?.["message"], { role: "assistant", content: "A " })
    const last = lines.at(-1) ?? {}
    assert.deepInclude(last, { done_reason: "stop", prompt_eval_count: 9, eval_count: 12 })
    // `convert_ollama_usage_to_openai` divides by these.
    for (const key of ["total_duration", "eval_duration"]) assert.isAbove(Number(last[key]), 0)
    for (const key of ["load_duration", "prompt_eval_duration"]) assert.isNumber(last[key])
    assert.deepStrictEqual(
      (response.headers.get("x-gateway-dropped-params") ?? "").split(", ").toSorted(),
      ["keep_alive", "options.num_ctx", "options.num_gpu", "template", "top_k"]
    )
    const sent = upstream.request(0).json
    assert.deepStrictEqual(objects(sent["messages"]).map(({ role }) => role), [
      "system",
      "user",
      "assistant",
      "tool",
      "user"
    ])
    assert.deepInclude(sent, { model: "gpt-x", temperature: 0.7, stop: ["END"], stream: true })
    assert.deepInclude(objects(sent["messages"])[3], { tool_call_id: "call_1", content: "a dot" })
    assert.strictEqual(JSON.stringify(upstream.request(0).headers).includes("ann@example.com"), false)
  })

  it("may call tools, of which it reads the function's name and arguments", async () => {
    upstream.reply(openAi.answer({ toolCalls: [{ id: "call_2", name: "look", arguments: "{\"at\":\"that\"}" }] }))
    const { text } = await post("/api/chat", { model: "openai::gpt-x", ...payload })
    const [call] = linesOf(text).flatMap((line) =>
      isJson(line["message"]) ? objects(line["message"]["tool_calls"]) : []
    )
    assert.deepStrictEqual(call, { id: "call_2", function: { index: 0, name: "look", arguments: { at: "that" } } })
  })

  it("is whole where a title is asked for", async () => {
    upstream.reply(openAi.answer({ text: "Dots" }))
    const { text } = await post("/api/chat", {
      model: "openai::gpt-x",
      messages: [{ role: "user", content: "Title?" }],
      stream: false
    })
    assert.deepInclude(parsed(text), { message: { role: "assistant", content: "Dots" }, done: true })
  })

  it("that fails before its first line tells the error with its status", async () => {
    upstream.reply(openAi.error(503))
    const { response, text } = await post("/api/chat", { model: "openai::gpt-x", ...payload })
    assert.strictEqual(response.status, 503)
    const body = parsed(text)
    assert.isString(isJson(body) ? body["error"] : undefined)
  })

  it("that fails later tells the error in a line", async () => {
    upstream.reply(withFault(openAi.answer({ text: ["A ", "dot."] }), fault.cut(2)))
    const { text } = await post("/api/chat", { model: "openai::gpt-x", ...payload })
    const lines = linesOf(text)
    assert.isString(lines.at(-1)?.["error"])
    assert.isFalse(lines.some(({ done }) => done === true))
  })
})

it("embeddings, which it asks for its knowledge base, are refused in words by a model that makes none", async () => {
  const { response, text } = await post("/api/embed", { model: "openai::gpt-x", input: ["a", "b"], truncate: true })
  assert.strictEqual(response.status, 422)
  assert.include(text, "embeddings")
})
