/**
 * Ollama's own client against the running gateway: what a user has who changed the host and nothing else. Behind the gateway
 * stand fake upstreams that speak each provider's own wire, and the sandbox.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { Ollama, type Tool } from "ollama"
import type { ChatChunk, ChatRequest } from "../../src/sdk/Chat.ts"
import { fail, InternalError } from "../../src/sdk/GatewayError.ts"
import { ollamaChat, ollamaGenerate } from "../../src/wire/ollama/OllamaChat.ts"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed, type Script } from "../fixtures/Script.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Providers
// ---------------------------------------------------------------------------------------------------------------------

/** A call that the fake model makes. */
interface Call {
  readonly id: string
  readonly name: string
  readonly input: Record<string, unknown>
}

/** What the fake model says, in no wire's words. */
interface Saying {
  readonly text?: ReadonlyArray<string>
  readonly thinking?: ReadonlyArray<string>
  readonly toolCalls?: ReadonlyArray<Call>
  readonly cutByLength?: boolean
}

/** One provider under test: how its upstream says something, and where its wire keeps what the tests look for. */
interface Provider {
  readonly model: string
  readonly say: (saying: Saying) => Script
  readonly error: (status: number, message?: string, headers?: Readonly<Record<string, string>>) => Script
  /** Index of the event in which the first word of a streamed text comes, plus one. */
  readonly lead: number
  /** The JSON schema for the answer, as the upstream got it. */
  readonly schemaSent: (body: unknown) => unknown
  /** The results of the tools, as the upstream got them in the second turn. */
  readonly resultsSent: (body: unknown) => unknown
  /** The ids of the calls that they answer. */
  readonly answeredCalls: (body: unknown) => unknown
  /** The image of the first message, as the upstream got it. */
  readonly imageSent: (body: unknown) => unknown
  /** How the upstream was told to think hard, and not to. */
  readonly thinkSent: (body: unknown) => unknown
  readonly thinkHard: unknown
  readonly lengthSent: (body: unknown) => unknown
}

/** What stands at a path inside JSON. A negative index counts from the end. */
const at = (value: unknown, ...path: ReadonlyArray<string | number>): unknown => {
  let found = value
  for (const key of path) {
    if (typeof key === "number") found = Array.isArray(found) ? found.at(key) : undefined
    else found = isJson(found) ? found[key] : undefined
  }
  return found
}

const list = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []

const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

const toolMessages = (body: unknown, key: string): unknown =>
  list(at(body, "messages")).filter((message) => at(message, "role") === "tool").map((message) => at(message, key))

const providers = {
  openai: {
    model: "openai::model-1",
    say: ({ cutByLength, text, thinking, toolCalls }) =>
      openAi.answer({
        ...(text === undefined ? {} : { text }),
        ...(thinking === undefined ? {} : { reasoning: thinking }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: JSON.stringify(input) })) }),
        ...(cutByLength === true ? { finishReason: "length" } : {}),
        usage: { prompt_tokens: 9, completion_tokens: 12 }
      }),
    error: (status, message, headers) => openAi.error(status, message === undefined ? {} : { message }, headers),
    lead: 2,
    schemaSent: (body) => at(body, "response_format", "json_schema", "schema"),
    resultsSent: (body) => toolMessages(body, "content"),
    answeredCalls: (body) => toolMessages(body, "tool_call_id"),
    imageSent: (body) => at(body, "messages", 0, "content", 1, "image_url", "url"),
    thinkSent: (body) => at(body, "reasoning_effort"),
    thinkHard: "high",
    lengthSent: (body) => at(body, "max_completion_tokens")
  },
  anthropic: {
    // A model whose API takes a schema by itself.
    model: "anthropic::claude-sonnet-4-5",
    say: ({ cutByLength, text, thinking, toolCalls }) =>
      anthropic.answer({
        ...(text === undefined ? {} : { text }),
        ...(thinking === undefined ? {} : { thinking, signature: "c2ln" }),
        ...(toolCalls === undefined ? {} : { toolCalls }),
        ...(cutByLength === true ? { stopReason: "max_tokens" } : {}),
        usage: { input_tokens: 9, output_tokens: 12 }
      }),
    error: (status, message, headers) => anthropic.error(status, message === undefined ? {} : { message }, headers),
    lead: 4,
    schemaSent: (body) => at(body, "output_config", "format", "schema"),
    resultsSent: (body) => list(at(body, "messages", -1, "content")).map((block) => at(block, "content", 0, "text")),
    answeredCalls: (body) => list(at(body, "messages", -1, "content")).map((block) => at(block, "tool_use_id")),
    imageSent: (body) =>
      `data:${String(at(body, "messages", 0, "content", 1, "source", "media_type"))};base64,${
        String(at(body, "messages", 0, "content", 1, "source", "data"))
      }`,
    thinkSent: (body) => at(body, "thinking", "type"),
    thinkHard: "enabled",
    lengthSent: (body) => at(body, "max_tokens")
  },
  ollama: {
    model: "ollama::llama3.2:3b",
    say: ({ cutByLength, text, thinking, toolCalls }) =>
      ollama.answer({
        ...(text === undefined ? {} : { text }),
        ...(thinking === undefined ? {} : { thinking }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: input })) }),
        ...(cutByLength === true ? { doneReason: "length" } : {}),
        usage: { prompt_eval_count: 9, eval_count: 12 }
      }),
    error: (status, message, headers) => ollama.error(status, message, headers),
    lead: 1,
    schemaSent: (body) => at(body, "format"),
    resultsSent: (body) => toolMessages(body, "content"),
    answeredCalls: (body) => toolMessages(body, "tool_call_id"),
    imageSent: (body) =>
      `data:image/png;base64,${String(at(body, "messages", 0, "images", 0) ?? at(body, "images", 0))}`,
    thinkSent: (body) => at(body, "think"),
    thinkHard: "high",
    lengthSent: (body) => at(body, "options", "num_predict")
  }
} satisfies Record<string, Provider>

// ---------------------------------------------------------------------------------------------------------------------
// Setting
// ---------------------------------------------------------------------------------------------------------------------

const user = (content: string) => ({ role: "user", content })

/** Of "secret". */
const sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"

const configuration = (url: string): string => `
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${url}", unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "openai::text-only", capabilities: [text_input, text_output, streaming], context_window: 4000 }
  - { id: "openai::seer", capabilities: [text_input, image_input, text_output, tools, reasoning, streaming], context_window: 128000 }
  - { id: "openai::retired", status: deprecated }
routes:
  fast: { models: ["openai::seer", "openai::text-only"] }
`

const weather: Tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Tells the weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
  }
}

let upstream: FakeUpstream
let gateway: RunningGateway
let client: Ollama

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(configuration(upstream.url))
  client = new Ollama({ host: gateway.url })
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

/** What the client throws for an error answer; it does not export the class. */
const failureOf = async (
  promise: PromiseLike<unknown>
): Promise<{ readonly status: unknown; readonly error: string }> => {
  const error: unknown = await Promise.resolve(promise).then(() => undefined, (error: unknown) => error)
  if (!(error instanceof Error)) return assert.fail(`expected an error, got ${String(error)}`)
  return { status: Reflect.get(error, "status_code"), error: error.message }
}

/** The lines of a streamed answer, raw. */
const linesOf = async (response: Response): Promise<ReadonlyArray<Json>> => {
  const text = await response.text()
  assert.isTrue(text.endsWith("\n"), "every line is ended")
  return text.slice(0, -1).split("\n").map(parsed).filter(isJson)
}

const words = ["One ", "two ", "three"]

// ---------------------------------------------------------------------------------------------------------------------
// What every provider has to do
// ---------------------------------------------------------------------------------------------------------------------

describe.each(Object.entries<Provider>(providers))("chat: %s", (slug, provider) => {
  const { model } = provider

  it("answers", async () => {
    upstream.reply(provider.say({ text: words }))
    const answer = await client.chat({ model, messages: [user("Count.")] })
    assert.strictEqual(answer.model, model, "the model as it was asked for")
    assert.deepStrictEqual(answer.message, { role: "assistant", content: "One two three" })
    assert.isTrue(answer.done)
    assert.strictEqual(answer.done_reason, "stop")
    assert.isAbove(Date.parse(String(answer.created_at)), Date.UTC(2020, 0))
    assert.strictEqual(answer.prompt_eval_count, 9)
    assert.strictEqual(answer.eval_count, 12)
    assert.isAbove(answer.total_duration, 0)
    assert.isAbove(answer.eval_duration, 0)
    assert.isAtLeast(answer.total_duration, answer.eval_duration)
    assert.isNumber(answer.load_duration)
    assert.isNumber(answer.prompt_eval_duration)
    assert.strictEqual(at(upstream.request(0).json, "model"), model.slice(slug.length + 2))
  })

  it("streams, line by line, with the figures in the last", async () => {
    upstream.reply(provider.say({ text: words }))
    const pieces: Array<string> = []
    const done: Array<boolean> = []
    let figures: Record<string, unknown> = {}
    for await (const part of await client.chat({ model, messages: [user("Count.")], stream: true })) {
      assert.strictEqual(part.model, model)
      assert.strictEqual(part.message.role, "assistant")
      if (part.message.content !== "") pieces.push(part.message.content)
      done.push(part.done)
      if (part.done) figures = { ...part }
    }
    assert.deepStrictEqual(pieces, words)
    assert.deepStrictEqual(done, [false, false, false, true])
    assert.deepInclude(figures, { done_reason: "stop", prompt_eval_count: 9, eval_count: 12 })
    assert.isAbove(Number(figures["total_duration"]), 0)
    assert.isAbove(Number(figures["eval_duration"]), 0)
  })

  it("streams unless it is told not to", async () => {
    upstream.reply(provider.say({ text: words }))
    const response = await gateway.post("/api/chat", { model, messages: [user("Count.")] })
    assert.strictEqual(response.headers.get("content-type"), "application/x-ndjson")
    const lines = await linesOf(response)
    assert.deepStrictEqual(lines.map(({ done }) => done), [false, false, false, true])
    assert.strictEqual(response.headers.get("x-gateway-model"), model)
  })

  it.each([false, true])("calls tools in parallel, and takes their results (stream: %s)", async (stream) => {
    const toolCalls = [
      { id: "call_a", name: "get_weather", input: { city: "Paris" } },
      { id: "call_b", name: "get_weather", input: { city: "Oslo" } }
    ]
    upstream.reply(provider.say({ toolCalls }), provider.say({ text: ["It is ", "sunny."] }))
    const question = user("How is the weather?")
    const calls: Array<{ readonly function: { readonly name: string; readonly arguments: Record<string, unknown> } }> =
      []
    if (stream) {
      for await (const part of await client.chat({ model, messages: [question], tools: [weather], stream })) {
        calls.push(...part.message.tool_calls ?? [])
        if (part.done) assert.strictEqual(part.done_reason, "stop", "as Ollama ends turns with calls")
      }
    } else {
      const answer = await client.chat({ model, messages: [question], tools: [weather] })
      calls.push(...answer.message.tool_calls ?? [])
      assert.strictEqual(answer.done_reason, "stop")
    }
    assert.deepStrictEqual(calls.map((call) => call.function.arguments), [{ city: "Paris" }, { city: "Oslo" }])
    assert.deepStrictEqual(calls.map((call) => call.function.name), ["get_weather", "get_weather"])
    assert.deepStrictEqual(calls.map((call) => at(call, "id")), ["call_a", "call_b"])
    assert.deepStrictEqual(calls.map((call) => at(call, "function", "index")), [0, 1])
    const answer = await client.chat({
      model,
      tools: [weather],
      messages: [
        question,
        { role: "assistant", content: "", tool_calls: [...calls] },
        // As the client's own examples have it: the tool's name, no id, in order.
        { role: "tool", tool_name: "get_weather", content: "sunny" },
        { role: "tool", tool_name: "get_weather", content: "rainy" }
      ]
    })
    assert.strictEqual(answer.message.content, "It is sunny.")
    assert.deepStrictEqual(provider.resultsSent(upstream.request(1).json), ["sunny", "rainy"])
    assert.deepStrictEqual(provider.answeredCalls(upstream.request(1).json), ["call_a", "call_b"])
  })

  it("takes calls that come back without ids, as older clients send them", async () => {
    upstream.reply(provider.say({ text: words }))
    const call = (city: string) => ({ function: { name: "get_weather", arguments: { city } } })
    await client.chat({
      model,
      tools: [weather],
      messages: [
        user("How is the weather?"),
        { role: "assistant", content: "", tool_calls: [call("Paris"), call("Oslo")] },
        { role: "tool", content: "sunny" },
        { role: "tool", content: "rainy" }
      ]
    })
    const answered = list(provider.answeredCalls(upstream.request(0).json))
    assert.strictEqual(new Set(answered).size, 2)
    assert.deepStrictEqual(provider.resultsSent(upstream.request(0).json), ["sunny", "rainy"])
  })

  it("looks at images, as bytes and as base64", async () => {
    const bytes = new Uint8Array(Buffer.from(png, "base64"))
    for (
      const message of [{ ...user("What is this?"), images: [bytes] }, { ...user("What is this?"), images: [png] }]
    ) {
      upstream.reset()
      upstream.reply(provider.say({ text: words }))
      await client.chat({ model, messages: [message] })
      assert.strictEqual(provider.imageSent(upstream.request(0).json), `data:image/png;base64,${png}`)
    }
  })

  const schema = {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false
  }

  it.each([false, true])("answers what a schema asks for (stream: %s)", async (stream) => {
    upstream.reply(provider.say({ text: ["{\"city\":", "\"Paris\"}"] }))
    let text = ""
    const request = { model, messages: [user("Where?")], format: schema }
    if (stream) { for await (const part of await client.chat({ ...request, stream })) text += part.message.content }
    else text = (await client.chat(request)).message.content
    assert.deepStrictEqual(parsed(text), { city: "Paris" })
    assert.deepStrictEqual(provider.schemaSent(upstream.request(0).json), schema)
  })

  it("ends a stream that does not fit its schema in an error", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":", "7}"] }))
    const stream = await client.chat({ model, messages: [user("Where?")], format: schema, stream: true })
    const { error } = await failureOf((async () => {
      for await (const part of stream) assert.isFalse(part.done)
    })())
    assert.include(error, "city")
  })

  it("answers JSON where it is asked for that alone", async () => {
    upstream.reply(provider.say({ text: ["{\"a\":1}"] }))
    const answer = await client.chat({ model, messages: [user("JSON!")], format: "json" })
    assert.strictEqual(answer.message.content, "{\"a\":1}")
  })

  it.each([false, true])("thinks aloud, apart from the answer (stream: %s)", async (stream) => {
    upstream.reply(provider.say({ thinking: ["Let me ", "see."], text: words }))
    const request = { model, messages: [user("Count.")], think: "high" as const }
    let thinking = ""
    let text = ""
    if (stream) {
      for await (const { message } of await client.chat({ ...request, stream })) {
        thinking += message.thinking ?? ""
        text += message.content
      }
    } else ({ content: text, thinking = "" } = (await client.chat(request)).message)
    assert.strictEqual(thinking, "Let me see.")
    assert.strictEqual(text, "One two three")
    assert.strictEqual(provider.thinkSent(upstream.request(0).json), provider.thinkHard)
  })

  it("keeps to the length that is allowed, and says where it was too short", async () => {
    upstream.reply(provider.say({ text: words, cutByLength: true }))
    const answer = await client.chat({ model, messages: [user("Count.")], options: { num_predict: 50 } })
    assert.strictEqual(answer.done_reason, "length")
    assert.strictEqual(provider.lengthSent(upstream.request(0).json), 50)
  })

  it("leaves the upstream within 100 ms when the caller aborts a stream", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.stall(provider.lead)))
    const stream = await client.chat({ model, messages: [user("Count.")], stream: true })
    let left = Infinity
    const error = await failureOf((async () => {
      for await (const part of stream) {
        if (part.message.content === "") continue
        left = performance.now()
        stream.abort()
      }
    })())
    assert.match(error.error, /abort/i)
    const closed = await upstream.waitForClose(0)
    assert.isTrue(closed.aborted)
    assert.isBelow((closed.closedAt ?? Infinity) - left, 100)
  })

  it("leaves the upstream within 100 ms when the caller leaves before the answer", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.hang))
    const controller = new AbortController()
    const asked = fetch(`${gateway.url}/api/chat`, {
      method: "POST",
      body: JSON.stringify({ model, messages: [user("Count.")], stream: false }),
      signal: controller.signal
    }).catch(() => undefined)
    await upstream.waitForRequest(0)
    const left = performance.now()
    controller.abort()
    await asked
    const closed = await upstream.waitForClose(0)
    assert.isTrue(closed.aborted)
    assert.isBelow((closed.closedAt ?? Infinity) - left, 100)
  })

  it("throws in the middle of a stream that breaks off", async () => {
    for (const how of [fault.cut(provider.lead), fault.end(provider.lead), fault.errorAfter(provider.lead)]) {
      upstream.reset()
      upstream.reply(withFault(provider.say({ text: words }), how))
      let text = ""
      const { error } = await failureOf((async () => {
        for await (const part of await client.chat({ model, messages: [user("Count.")], stream: true })) {
          text += part.message.content
          assert.isFalse(part.done)
        }
      })())
      assert.strictEqual(text, "One ")
      assert.isNotEmpty(error)
      assert.notInclude(error, "Did not receive done")
    }
  })

  it("ends a broken stream in one line with the error, and none that is done", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.cut(provider.lead)))
    const lines = await linesOf(await gateway.post("/api/chat", { model, messages: [user("Count.")] }))
    assert.deepStrictEqual(lines.map((line) => Object.keys(line).includes("error")), [false, true])
    assert.deepStrictEqual(Object.keys(lines.at(-1) ?? {}), ["error"])
    assert.isString(lines.at(-1)?.["error"])
    assert.isFalse(lines.some(({ done }) => done === true))
  })

  describe("errors", () => {
    const ask = (stream: boolean): Promise<unknown> => {
      const request = { model, messages: [user("Hi")] }
      return stream ? client.chat({ ...request, stream }) : client.chat(request)
    }
    it.each([false, true])("a request that the provider refuses has its words (stream: %s)", async (stream) => {
      upstream.reply(provider.error(400, "the request is odd"))
      const { error, status } = await failureOf(ask(stream))
      assert.strictEqual(status, 400)
      assert.include(error, "the request is odd")
    })
    it("a rate limit says how long to wait", async () => {
      upstream.reply(provider.error(429, "slow down", { "retry-after": "7" }))
      const response = await gateway.post("/api/chat", { model, messages: [user("Hi")] })
      assert.strictEqual(response.status, 429)
      assert.strictEqual(response.headers.get("retry-after"), "7")
      assert.deepStrictEqual(Object.keys(JSON.parse(await response.text())), ["error"])
    })
    it("the gateway's own bad key is never the caller's", async () => {
      upstream.reply(provider.error(401, "Incorrect API key provided: upstream-key"))
      const { error, status } = await failureOf(ask(false))
      assert.strictEqual(status, 502)
      assert.notInclude(error, "upstream-key")
    })
    it("overload is 503", async () => {
      upstream.reply(provider.error(503))
      assert.strictEqual((await failureOf(ask(true))).status, 503)
    })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Generate
// ---------------------------------------------------------------------------------------------------------------------

describe.each(Object.entries<Provider>(providers))("generate: %s", (slug, provider) => {
  const { model } = provider

  it("answers a prompt", async () => {
    upstream.reply(provider.say({ text: words, thinking: ["Hm."] }))
    const answer = await client.generate({ model, prompt: "Count.", system: "Be brief.", options: { num_predict: 50 } })
    assert.strictEqual(answer.model, model)
    assert.strictEqual(answer.response, "One two three")
    assert.strictEqual(answer.thinking, "Hm.")
    assert.strictEqual(answer.done_reason, "stop")
    assert.isTrue(answer.done)
    assert.strictEqual(answer.prompt_eval_count, 9)
    assert.strictEqual(answer.eval_count, 12)
    assert.isAbove(answer.total_duration, 0)
    assert.isFalse("message" in answer)
    const sent = upstream.request(0)
    assert.strictEqual(provider.lengthSent(sent.json), 50)
    assert.include(JSON.stringify(sent.json), "Be brief.")
    assert.include(JSON.stringify(sent.json), "Count.")
    if (slug === "ollama") {
      assert.strictEqual(sent.path, "/api/generate")
      assert.deepStrictEqual(sent.json, {
        model: "llama3.2:3b",
        prompt: "Count.",
        system: "Be brief.",
        stream: false,
        options: { num_predict: 50 }
      })
    }
  })

  it("streams, line by line, with the figures in the last", async () => {
    upstream.reply(provider.say({ text: words, thinking: ["Hm."] }))
    const pieces: Array<string> = []
    let thinking = ""
    let figures: Record<string, unknown> = {}
    for await (const part of await client.generate({ model, prompt: "Count.", stream: true })) {
      assert.strictEqual(part.model, model)
      assert.isString(part.response)
      if (part.response !== "") pieces.push(part.response ?? "")
      thinking += part.thinking ?? ""
      if (part.done) figures = { ...part }
    }
    assert.deepStrictEqual(pieces, words)
    assert.strictEqual(thinking, "Hm.")
    assert.deepInclude(figures, { done_reason: "stop", prompt_eval_count: 9, eval_count: 12 })
    assert.isAbove(Number(figures["total_duration"]), 0)
  })

  it("takes images, a schema and thinking as a chat does", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":\"Paris\"}"] }))
    const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
    const answer = await client.generate({ model, prompt: "Where?", images: [png], format: schema, think: "high" })
    assert.deepStrictEqual(parsed(answer.response ?? ""), { city: "Paris" })
    const sent = upstream.request(0).json
    assert.strictEqual(provider.imageSent(sent), `data:image/png;base64,${png}`)
    assert.strictEqual(provider.thinkSent(sent), provider.thinkHard)
    assert.deepInclude(provider.schemaSent(sent), { properties: { city: { type: "string" } } })
  })

  it("leaves the upstream within 100 ms when the caller aborts a stream", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.stall(provider.lead)))
    const stream = await client.generate({ model, prompt: "Count.", stream: true })
    let left = Infinity
    await failureOf((async () => {
      for await (const part of stream) {
        if (part.response === "") continue
        left = performance.now()
        stream.abort()
      }
    })())
    const closed = await upstream.waitForClose(0)
    assert.isTrue(closed.aborted)
    assert.isBelow((closed.closedAt ?? Infinity) - left, 100)
  })

  it("ends a broken stream in the error, and none that is done", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.cut(provider.lead)))
    const lines = await linesOf(await gateway.post("/api/generate", { model, prompt: "Count." }))
    assert.strictEqual(lines[0]?.["response"], "One ")
    assert.deepStrictEqual(Object.keys(lines.at(-1) ?? {}), ["error"])
    assert.isFalse(lines.some(({ done }) => done === true))
  })

  it.each([{ raw: true }, { template: "{{ .Prompt }}" }, { context: [1, 2, 3] }])(
    "%o goes to Ollama as it is, and is refused by name elsewhere",
    async (field) => {
      const [name = ""] = Object.keys(field)
      upstream.reply(provider.say({ text: words }))
      const asked = client.generate({ model, prompt: "Count.", ...field })
      if (slug === "ollama") {
        assert.strictEqual((await asked).response, "One two three")
        assert.deepInclude(upstream.request(0).json, { prompt: "Count.", ...field })
      } else {
        const { error, status } = await failureOf(asked)
        assert.strictEqual(status, 400)
        assert.match(error, new RegExp(`^${name}: `))
        assert.lengthOf(upstream.requests, 0)
      }
    }
  )

  it("says the same where raw, template and context are given without meaning anything", async () => {
    upstream.reply(provider.say({ text: words }))
    const answer = await client.generate({ model, prompt: "Count.", raw: false, template: "", context: [], system: "" })
    assert.strictEqual(answer.response, "One two three")
  })

  it("a suffix is refused by name", async () => {
    const { error, status } = await failureOf(client.generate({ model, prompt: "def f(", suffix: "return x" }))
    assert.strictEqual(status, 400)
    assert.match(error, /^suffix: /)
    assert.lengthOf(upstream.requests, 0)
  })
})

describe("what an Ollama upstream alone answers", () => {
  it("the context of a generation comes back, and goes there again", async () => {
    upstream.reply(ollama.answer({ text: "One", extra: { context: [7, 8] } }), ollama.answer({ text: "two" }))
    const first = await client.generate({ model: "ollama::llama3.2:3b", prompt: "Count." })
    assert.deepStrictEqual(first.context, [7, 8])
    await client.generate({ model: "ollama::llama3.2:3b", prompt: "Go on.", context: first.context })
    assert.deepStrictEqual(at(upstream.request(1).json, "context"), [7, 8])
  })

  it("its own durations come back, and not the gateway's", async () => {
    upstream.reply(ollama.answer({ text: "One", usage: { total_duration: 5_589_157_167, load_duration: 7 } }))
    const answer = await client.chat({ model: "ollama::llama3.2:3b", messages: [user("Hi")] })
    assert.strictEqual(answer.total_duration, 5_589_157_167)
    assert.strictEqual(answer.load_duration, 7)
  })

  it("fields that nobody knows go there and come back", async () => {
    upstream.reply(
      ollama.answer({ text: "One", extra: { remote_model: "x", logprobs: [{ token: "One", logprob: -1 }] } })
    )
    const response = await gateway.post("/api/chat", {
      model: "ollama::llama3.2:3b",
      messages: [{ role: "user", content: "Hi", tomorrow: 1 }],
      stream: false,
      keep_alive: "10m",
      shift: false,
      options: { num_ctx: 8192, mirostat: 1, num_predict: -1, temperature: 0 }
    })
    assert.isNull(response.headers.get("x-gateway-dropped-params"))
    assert.deepInclude(parsed(await response.text()), {
      remote_model: "x",
      logprobs: [{ token: "One", logprob: -1 }]
    })
    assert.deepStrictEqual(upstream.request(0).json, {
      model: "llama3.2:3b",
      messages: [{ role: "user", content: "Hi", tomorrow: 1 }],
      stream: false,
      keep_alive: "10m",
      shift: false,
      options: { num_ctx: 8192, mirostat: 1, num_predict: -1, temperature: 0 }
    })
  })
})

describe("what other providers cannot say", () => {
  const options = {
    num_ctx: 8192,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 7,
    min_p: 0.1,
    seed: 3,
    stop: ["END"],
    repeat_penalty: 1.1
  }

  it.each([
    ["openai::model-1", ["keep_alive", "min_p", "options.num_ctx", "repeat_penalty", "top_k"]],
    ["anthropic::claude-3-5-haiku-20241022", ["keep_alive", "min_p", "options.num_ctx", "repeat_penalty", "seed"]]
  ])("%s: is named", async (model, names) => {
    const provider = model.startsWith("openai") ? providers.openai : providers.anthropic
    for (const stream of [false, true]) {
      upstream.reply(provider.say({ text: words }))
      const response = await gateway.post("/api/chat", {
        model,
        messages: [user("Hi")],
        stream,
        keep_alive: "5m",
        options
      })
      await response.text()
      assert.strictEqual(response.status, 200)
      assert.deepStrictEqual((response.headers.get("x-gateway-dropped-params") ?? "").split(", ").toSorted(), names)
    }
    const sent = upstream.request(0).json
    assert.strictEqual(at(sent, "temperature"), 0.5)
    assert.deepStrictEqual(at(sent, "stop") ?? at(sent, "stop_sequences"), ["END"])
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Loading
// ---------------------------------------------------------------------------------------------------------------------

describe("a request that asks nothing", () => {
  it.each([
    ["/api/generate", { prompt: "" }, "load"],
    ["/api/generate", { keep_alive: "5m", stream: false }, "load"],
    ["/api/generate", { prompt: "", keep_alive: 0 }, "unload"],
    ["/api/generate", { keep_alive: "0s" }, "unload"],
    ["/api/chat", { messages: [] }, "load"],
    ["/api/chat", { messages: [], keep_alive: 0 }, "unload"]
  ])("%s %o is done at once", async (path, body, reason) => {
    const response = await gateway.post(path, { model: "openai::model-1", ...body })
    assert.strictEqual(response.status, 200)
    const answer = parsed(await response.text())
    assert.deepInclude(answer, { model: "openai::model-1", done: true, done_reason: reason })
    if (path === "/api/chat") assert.deepInclude(answer, { message: { role: "assistant", content: "" } })
    else assert.deepInclude(answer, { response: "" })
    assert.lengthOf(upstream.requests, 0)
  })

  it("is how the client loads a model, streamed or not", async () => {
    assert.strictEqual((await client.generate({ model: "fast", prompt: "" })).done_reason, "load")
    const reasons: Array<string> = []
    for await (const part of await client.generate({ model: "fast", prompt: "", stream: true })) {
      reasons.push(part.done_reason)
    }
    assert.deepStrictEqual(reasons, ["load"])
  })

  it("says where there is no such model", async () => {
    const { status } = await failureOf(client.generate({ model: "nowhere::m", prompt: "" }))
    assert.strictEqual(status, 404)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Models
// ---------------------------------------------------------------------------------------------------------------------

describe("models", () => {
  it("lists the models and the routes, with all that clients read", async () => {
    upstream.models(["model-1"])
    await gateway.discover()
    const { models } = await client.list()
    const names = models.map(({ name }) => name)
    for (
      const id of ["openai::model-1", "anthropic::model-1", "ollama::model-1:latest", "sandbox::echo", "fast:latest"]
    ) {
      assert.include(names, id)
    }
    assert.strictEqual(new Set(names).size, names.length, "each once")
    assert.notInclude(names, "openai::retired", "out of service")
    const digests = new Set<string>()
    for (const model of models) {
      assert.strictEqual(model.model, model.name)
      assert.include(model.name, ":", "a name without a tag would be looked for with one")
      assert.isAtLeast(Date.parse(String(model.modified_at)), 0)
      assert.strictEqual(model.size, 0)
      assert.match(model.digest, /^[0-9a-f]{64}$/)
      digests.add(model.digest)
      assert.hasAllKeys(model.details, [
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level"
      ])
      assert.isArray(model.details.families)
    }
    assert.strictEqual(digests.size, models.length)
    assert.strictEqual(models.find(({ name }) => name === "sandbox::echo")?.details.family, "sandbox")
  })

  it("every listed name can be asked for", async () => {
    upstream.models(["model-1"])
    await gateway.discover()
    for (const { name } of (await client.list()).models) {
      const { status } = await fetch(`${gateway.url}/api/show`, {
        method: "POST",
        body: JSON.stringify({ model: name })
      })
      assert.strictEqual(status, 200, name)
    }
  })

  it("shows what a model can do, in Ollama's words", async () => {
    const shown = await client.show({ model: "openai::seer" })
    assert.deepStrictEqual(shown.capabilities, ["completion", "tools", "vision", "thinking"])
    assert.deepStrictEqual<unknown>(shown.model_info, {
      "general.architecture": "openai",
      "general.basename": "openai::seer",
      "openai.context_length": 128_000
    })
    assert.strictEqual(shown.details.family, "openai")
    for (const field of ["license", "modelfile", "template", "parameters"] as const) {
      assert.strictEqual(shown[field], "")
    }
  })

  it("shows of a route what all its models can do", async () => {
    for (const model of ["fast", "fast:latest"]) {
      const shown = await client.show({ model })
      assert.deepStrictEqual(shown.capabilities, ["completion"])
      assert.strictEqual(Reflect.get(shown.model_info, "openai.context_length"), 4000)
    }
  })

  it("shows a model under the older name of the field, too", async () => {
    const response = await gateway.post("/api/show", { name: "sandbox::echo", verbose: true })
    assert.strictEqual(response.status, 200)
    assert.include(list(at(parsed(await response.text()), "capabilities")), "tools")
  })

  it("shows nothing of what is not there", async () => {
    assert.strictEqual((await failureOf(client.show({ model: "nowhere::m" }))).status, 404)
    const nameless = await gateway.post("/api/show", {})
    assert.strictEqual(nameless.status, 400)
    assert.deepStrictEqual(parsed(await nameless.text()), { error: "model: must name a model" })
  })

  it("a name to which the client added a tag is the route or the model without it", async () => {
    for (const model of ["fast", "fast:latest"]) {
      upstream.reply(openAi.answer({ text: "ok" }))
      const answer = await client.chat({ model, messages: [user("Hi")] })
      assert.strictEqual(answer.model, model)
      assert.strictEqual(at(upstream.request(upstream.requests.length - 1).json, "model"), "seer")
    }
    const bare = await client.chat({ model: "echo:latest", messages: [user("Hi")] })
    assert.strictEqual(bare.message.content, "Hi")
    assert.strictEqual(bare.model, "echo:latest")
  })

  it("nothing is loaded, and the version is one that clients can compare", async () => {
    assert.deepStrictEqual(await client.ps(), { models: [] })
    const { version } = await client.version()
    assert.match(version, /^\d+\.\d+\.\d+$/)
  })

  it("the root says what Ollama says, to GET and HEAD, without a key", async () => {
    const said = await fetch(`${gateway.url}/`)
    assert.strictEqual(said.status, 200)
    assert.strictEqual(await said.text(), "Ollama is running")
    assert.include(said.headers.get("content-type") ?? "", "text/plain")
    const head = await fetch(`${gateway.url}/`, { method: "HEAD" })
    assert.strictEqual(head.status, 200)
    assert.strictEqual(await head.text(), "")
    for (const path of ["/api/version", "/api/tags"]) {
      assert.strictEqual((await fetch(gateway.url + path, { method: "HEAD" })).status, 200)
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Waiting
// ---------------------------------------------------------------------------------------------------------------------

describe("the lines that keep a silent connection open", () => {
  const answering = (text: string) => new Ollama({ fetch: () => Promise.resolve(new Response(text)) })
  const error = fail(new InternalError({ message: "broke" }))

  it("are read by the client as pieces without content", async () => {
    const request: ChatRequest = { model: "m", messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] }
    const chunk: ChatChunk = { id: "x", model: "m", delta: [{ type: "text", index: 0, text: "One" }] }
    for (const codec of [ollamaChat, ollamaGenerate]) {
      const silent = codec.keepAlive("m").repeat(2)
      const writer = codec.streamEncoder(request)
      const written = silent + writer.push(chunk) + writer.end()
      const texts: Array<string | undefined> = []
      if (codec === ollamaChat) {
        for await (const part of await answering(written).chat({ model: "m", stream: true })) {
          texts.push(part.message.content)
        }
      } else {
        for await (const part of await answering(written).generate({ model: "m", prompt: "Hi", stream: true })) {
          texts.push(part.response)
        }
      }
      assert.deepStrictEqual(texts, ["", "", "One", ""])
      const failing = answering(silent + codec.streamEncoder(request).error(error))
      const failed = await failureOf((async () => {
        for await (const part of await failing.chat({ model: "m", stream: true })) assert.isFalse(part.done)
      })())
      assert.strictEqual(failed.error, "broke")
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// The sandbox
// ---------------------------------------------------------------------------------------------------------------------

describe("the sandbox", () => {
  it("answers chats and prompts", async () => {
    const chat = await client.chat({ model: "sandbox::echo", messages: [user("Hello")] })
    assert.strictEqual(chat.message.content, "Hello")
    assert.isAbove(chat.eval_count, 0)
    const generated = await client.generate({ model: "sandbox::echo", prompt: "[[reason Hm.]] Hello" })
    assert.strictEqual(generated.response, "Hello")
    assert.strictEqual(generated.thinking, "Hm.")
  })

  it("calls tools", async () => {
    const answer = await client.chat({
      model: "sandbox::echo",
      messages: [user("[[tool get_weather {\"city\":\"Paris\"}]] [[tool get_weather {\"city\":\"Oslo\"}]]")],
      tools: [weather]
    })
    assert.deepStrictEqual(answer.message.tool_calls?.map((call) => call.function.arguments), [
      { city: "Paris" },
      { city: "Oslo" }
    ])
  })

  it("fails when it is told to, before and in the middle of a stream", async () => {
    assert.strictEqual(
      (await failureOf(client.chat({ model: "sandbox::fail-503", messages: [user("Hi")] }))).status,
      503
    )
    const stream = await client.chat({ model: "sandbox::cut-1", messages: [user("One two three")], stream: true })
    let text = ""
    const { error } = await failureOf((async () => {
      for await (const part of stream) text += part.message.content
    })())
    assert.strictEqual(text, "Lorem ")
    assert.notInclude(error, "Did not receive done")
  })

  it("refuses what only Ollama's own generation knows", async () => {
    const { error, status } = await failureOf(client.generate({ model: "sandbox::echo", prompt: "Hi", raw: true }))
    assert.strictEqual(status, 400)
    assert.match(error, /^raw: /)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Errors of the gateway's own
// ---------------------------------------------------------------------------------------------------------------------

describe("the gateway's own errors", () => {
  it("an unknown model is 404, before anything is sent, streamed or not", async () => {
    for (const model of ["nowhere::model-1", "no-such-model:latest"]) {
      for (const stream of [false, true]) {
        const response = await gateway.post("/api/chat", { model, messages: [user("Hi")], stream })
        assert.strictEqual(response.status, 404)
        assert.strictEqual(response.headers.get("content-type"), "application/json")
        const body = parsed(await response.text())
        assert.deepStrictEqual(Object.keys(isJson(body) ? body : {}), ["error"])
      }
    }
    assert.lengthOf(upstream.requests, 0)
  })

  it("a model that was taken out of service is gone (410)", async () => {
    const { status } = await failureOf(client.chat({ model: "openai::retired", messages: [user("Hi")] }))
    assert.strictEqual(status, 410)
  })

  it("what a model cannot do is 422", async () => {
    const { error, status } = await failureOf(
      client.chat({ model: "openai::text-only", messages: [user("Hi")], tools: [weather] })
    )
    assert.strictEqual(status, 422)
    assert.include(error, "tools")
  })

  it.each([
    ["messages[0].images[0]", { messages: [{ ...user("Hi"), images: ["data:image/png;base64,AAAA"] }] }],
    ["messages[0].content", { messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] }],
    ["options.temperature", { messages: [user("Hi")], options: { temperature: "hot" } }],
    ["format", { messages: [user("Hi")], format: "yaml" }],
    ["think", { messages: [user("Hi")], think: "a lot" }],
    ["stream", { messages: [user("Hi")], stream: "yes" }],
    ["messages", { messages: "Hi" }]
  ])("a malformed request names %s", async (field, body) => {
    const response = await gateway.post("/api/chat", { model: "openai::model-1", ...body })
    assert.strictEqual(response.status, 400)
    const { error } = JSON.parse(await response.text())
    assert.isTrue(String(error).startsWith(`${field}: `), error)
    assert.lengthOf(upstream.requests, 0)
  })

  it("a body that is no JSON is 400 on every path", async () => {
    for (const path of ["/api/chat", "/api/generate", "/api/show", "/api/embed"]) {
      const response = await gateway.post(path, "{")
      assert.strictEqual(response.status, 400, path)
      assert.deepStrictEqual(parsed(await response.text()), { error: "the body is not valid JSON" })
    }
  })

  it("a model for vectors that is not there is 404", async () => {
    assert.strictEqual((await failureOf(client.embed({ model: "nowhere::m", input: "a" }))).status, 404)
  })

  it("what manages model files is refused, with what to do instead", async () => {
    for (
      const ask of [
        () => client.pull({ model: "llama3.2" }),
        () => client.pull({ model: "llama3.2", stream: true }),
        () => client.create({ model: "mine", from: "llama3.2" }),
        () => client.push({ model: "me/mine" }),
        () => client.delete({ model: "openai::model-1" }),
        () => client.copy({ source: "openai::model-1", destination: "mine" })
      ]
    ) {
      const { error, status } = await failureOf(ask())
      assert.strictEqual(status, 403)
      assert.match(error, /^this gateway holds no model files, so it cannot .+; .+/)
    }
    const digest = `sha256:${"0".repeat(64)}`
    for (const method of ["HEAD", "POST"]) {
      const { status } = await fetch(`${gateway.url}/api/blobs/${digest}`, { method })
      assert.strictEqual(status, 403)
    }
    assert.lengthOf(upstream.requests, 0)
  })

  it("unknown paths and wrong methods answer in Ollama's form", async () => {
    for (
      const [method, path, status, allow] of [
        ["GET", "/api/nothing", 404, null],
        ["POST", "/api/nothing/here", 404, null],
        ["GET", "/api/chat", 405, "POST"],
        ["DELETE", "/api/generate", 405, "POST"],
        ["POST", "/api/tags", 405, "GET, HEAD"],
        ["GET", "/api/delete", 405, "DELETE"],
        ["PUT", "/api/blobs/x", 405, "GET, HEAD, POST"],
        ["GET", "/api/%zz", 404, null]
      ] as const
    ) {
      const response = await fetch(gateway.url + path, { method })
      assert.strictEqual(response.status, status, `${method} ${path}`)
      assert.strictEqual(response.headers.get("allow"), allow)
      const body = parsed(await response.text())
      assert.deepStrictEqual(Object.keys(isJson(body) ? body : {}), ["error"])
    }
  })
})

describe("keys", () => {
  let locked: RunningGateway
  beforeAll(async () => {
    locked = await startGateway(`
auth:
  mode: keys
  keys:
    - { id: k1, sha256: ${sha256}, tenant: acme, models: ["openai::model-*"] }
tenants: { acme: {} }
${configuration(upstream.url)}`)
  })
  afterAll(() => locked.close())
  const withKey = (key: string) => new Ollama({ host: locked.url, headers: { authorization: `Bearer ${key}` } })
  const request = { model: "openai::model-1", messages: [user("Hi")] }

  it("the right key is let in, and never travels upstream", async () => {
    upstream.reply(openAi.answer({ text: "ok" }))
    const answer = await withKey("secret").chat(request)
    assert.strictEqual(answer.message.content, "ok")
    assert.strictEqual(upstream.request(0).headers["authorization"], "Bearer upstream-key")
    assert.notInclude(JSON.stringify(upstream.request(0).headers), "secret")
  })

  it("no key and a wrong one are 401 on every path but the root", async () => {
    for (const stranger of [withKey("wrong-key"), new Ollama({ host: locked.url })]) {
      for (
        const asked of [
          () => stranger.chat(request),
          () => stranger.chat({ ...request, stream: true }),
          () => stranger.generate({ model: request.model, prompt: "Hi" }),
          () => stranger.generate({ model: request.model, prompt: "" }),
          () => stranger.list(),
          () => stranger.show({ model: request.model }),
          () => stranger.ps(),
          () => stranger.version(),
          () => stranger.embed({ model: request.model, input: "a" }),
          () => stranger.pull({ model: "llama3.2" })
        ]
      ) {
        const { error, status } = await failureOf(asked())
        assert.strictEqual(status, 401)
        assert.notInclude(error, "wrong-key")
      }
    }
    assert.strictEqual((await fetch(`${locked.url}/`)).status, 200)
    assert.lengthOf(upstream.requests, 0)
  })

  it("a model that the key may not use is 403, and neither listed nor shown", async () => {
    const mine = withKey("secret")
    assert.strictEqual((await failureOf(mine.chat({ ...request, model: "sandbox::echo" }))).status, 403)
    assert.strictEqual((await failureOf(mine.generate({ model: "sandbox::echo", prompt: "" }))).status, 403)
    assert.strictEqual((await failureOf(mine.show({ model: "sandbox::echo" }))).status, 403)
    const names = (await mine.list()).models.map(({ name }) => name)
    assert.notInclude(names, "sandbox::echo")
    assert.notInclude(names, "fast:latest")
    assert.lengthOf(upstream.requests, 0)
  })
})
