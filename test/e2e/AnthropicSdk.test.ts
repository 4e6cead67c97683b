/**
 * Anthropic's own SDK against the running gateway: what a user has who changed nothing but the base URL. Behind the gateway
 * stand fake upstreams that speak each provider's own wire, so every test here also says what that provider was asked.
 */
import Anthropic, {
  APIError,
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  RateLimitError
} from "@anthropic-ai/sdk"
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod"
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod"
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import { z } from "zod"
import { ping } from "../../src/wire/anthropic/AnthropicMessages.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { at, type Speaker, speakers } from "../fixtures/Speakers.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Setting
// ---------------------------------------------------------------------------------------------------------------------

let upstream: FakeUpstream
let gateway: RunningGateway
let client: Anthropic

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
  sandbox: { type: sandbox }
`)
  await gateway.discover()
  client = new Anthropic({ baseURL: gateway.url, apiKey: "any", maxRetries: 0 })
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

const user = (content: string) => ({ role: "user" as const, content })

const failureOf = async (promise: PromiseLike<unknown>): Promise<APIError> => {
  const error: unknown = await Promise.resolve(promise).then(() => undefined, (error: unknown) => error)
  return error instanceof APIError ? error : assert.fail(`expected an API error, got ${String(error)}`)
}

const weather: Anthropic.Tool = {
  name: "get_weather",
  description: "Tells the weather of a city",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
}

const calls = [
  { id: "toolu_a", name: "get_weather", input: { city: "Paris" } },
  { id: "toolu_b", name: "get_weather", input: { city: "Oslo", near: ["a", { b: "ü \"quoted\"" }] } }
]

const words = ["One ", "two ", "three"]
const png = "iVBORw0KGgo="

/** Fails where a stream breaks Anthropic's grammar. */
const followsGrammar = (events: ReadonlyArray<Anthropic.RawMessageStreamEvent>): void => {
  let open: number | undefined
  let blocks = 0
  const outside: Array<string> = []
  for (const event of events) {
    switch (event.type) {
      case "content_block_start":
        assert.isUndefined(open, "a block closes before the next one opens")
        assert.strictEqual(event.index, blocks, "indices are dense")
        open = event.index
        blocks++
        break
      case "content_block_delta":
        assert.strictEqual(event.index, open)
        break
      case "content_block_stop":
        assert.strictEqual(event.index, open)
        open = undefined
        break
      default:
        assert.isUndefined(open, `no block is open at ${event.type}`)
        outside.push(event.type)
    }
  }
  assert.deepStrictEqual(outside, ["message_start", "message_delta", "message_stop"])
}

// ---------------------------------------------------------------------------------------------------------------------
// What every provider has to do
// ---------------------------------------------------------------------------------------------------------------------

describe.each(Object.entries<Speaker>(speakers))("%s", (slug, speaker) => {
  const { model } = speaker
  const upstreamModel = model.slice(slug.length + 2)
  const ask = (text: string) => ({ model, max_tokens: 100, messages: [user(text)] })

  it("answers", async () => {
    upstream.reply(speaker.say({ text: words }))
    const { data, request_id: id, response } = await client.messages.create({ ...ask("Count."), system: "Be brief." })
      .withResponse()
    assert.strictEqual(data.type, "message")
    assert.strictEqual(data.role, "assistant")
    assert.isNotEmpty(data.id)
    assert.strictEqual(data.model, upstreamModel)
    assert.deepStrictEqual(data.content.map((block) => block.type === "text" ? block.text : block), ["One two three"])
    assert.strictEqual(data.stop_reason, "end_turn")
    assert.isNull(data.stop_sequence)
    assert.deepInclude(data.usage, { input_tokens: 9, output_tokens: 12 })
    assert.match(id ?? "", /^req_/)
    assert.strictEqual(response.headers.get("x-request-id"), id)
    assert.strictEqual(response.headers.get("x-gateway-model"), model)
    const sent = upstream.request(0).json
    assert.strictEqual(at(sent, "model"), upstreamModel)
    assert.deepStrictEqual(speaker.instructions(sent), ["Be brief."])
  })

  it("streams, event by event", async () => {
    upstream.reply(speaker.say({ text: words }))
    const stream = await client.messages.create({ ...ask("Count."), stream: true })
    const events: Array<Anthropic.RawMessageStreamEvent> = []
    for await (const event of stream) events.push(event)
    assert.deepStrictEqual(events.map(({ type }) => type), [
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_delta",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop"
    ])
    followsGrammar(events)
    const [first] = events
    const start = first?.type === "message_start" ? first.message : assert.fail("the first event starts the message")
    assert.isNotEmpty(start.id)
    assert.strictEqual(start.model, upstreamModel)
    assert.deepStrictEqual(start.content, [])
    assert.isAbove(start.usage.input_tokens, 0, "known or estimated, the size of the prompt is told at once")
    const end = events.at(-2)
    assert.deepInclude(at(end, "usage"), { input_tokens: 9, output_tokens: 12 })
    assert.deepInclude(at(end, "delta"), { stop_reason: "end_turn", stop_sequence: null })
  })

  it("feeds the streaming helper: thinking, text, parallel tool calls", async () => {
    upstream.reply(speaker.say({ thinking: ["Let me ", "see."], text: words, toolCalls: calls }))
    const texts: Array<string> = []
    const thoughts: Array<string> = []
    const inputs: Array<unknown> = []
    const ended: Array<string> = []
    const events: Array<Anthropic.RawMessageStreamEvent> = []
    const stream = client.messages.stream({ ...ask("Weather?"), tools: [weather] })
      .on("text", (text) => texts.push(text))
      .on("thinking", (text) => thoughts.push(text))
      .on("inputJson", (_, snapshot) => inputs.push(snapshot))
      .on("contentBlock", ({ type }) => ended.push(type))
      .on("streamEvent", (event) => events.push(event))
    const message = await stream.finalMessage()
    followsGrammar(events)
    assert.strictEqual(thoughts.join(""), "Let me see.")
    assert.strictEqual(texts.join(""), "One two three")
    assert.isAtLeast(texts.length, 1)
    assert.deepStrictEqual(inputs.at(-1), calls[1]?.input)
    assert.deepStrictEqual(ended, ["thinking", "text", "tool_use", "tool_use"])
    assert.deepStrictEqual(
      message.content.flatMap((block) => block.type === "tool_use" ? [[block.id, block.name, block.input]] : []),
      calls.map(({ id, input, name }) => [id, name, input])
    )
    assert.strictEqual(message.stop_reason, "tool_use")
    assert.deepInclude(message.usage, { input_tokens: 9, output_tokens: 12 })
  })

  it("tells the same in one piece", async () => {
    upstream.reply(speaker.say({ thinking: ["Let me ", "see."], text: words, toolCalls: calls }))
    const message = await client.messages.create({ ...ask("Weather?"), tools: [weather] })
    const [thinking, text, ...rest] = message.content
    assert.deepInclude(thinking, { type: "thinking", thinking: "Let me see." })
    assert.deepInclude(text, { type: "text", text: "One two three" })
    assert.deepStrictEqual(
      rest.map((block) => block.type === "tool_use" ? [block.id, block.input] : block),
      calls.map(({ id, input }) => [id, input])
    )
    assert.strictEqual(message.stop_reason, "tool_use")
  })

  it("takes parallel results, an image among them, back to their calls", async () => {
    upstream.reply(speaker.say({ text: ["I look."], toolCalls: calls }), speaker.say({ text: ["Sunny."] }))
    const question = { model, max_tokens: 100, tools: [weather], tool_choice: { type: "auto" as const } }
    const first = await client.messages.create({ ...question, messages: [user("Weather?")] })
    const second = await client.messages.create({
      ...question,
      messages: [
        user("Weather?"),
        { role: "assistant", content: first.content },
        {
          role: "user",
          content: [
            {
              type: "tool_result",
              tool_use_id: "toolu_a",
              content: [
                { type: "text", text: "a picture:" },
                { type: "image", source: { type: "base64", media_type: "image/png", data: png } }
              ]
            },
            { type: "tool_result", tool_use_id: "toolu_b", content: "rain" },
            { type: "text", text: "And now?" }
          ]
        }
      ]
    })
    assert.deepStrictEqual(second.content.map((block) => block.type === "text" ? block.text : block), ["Sunny."])
    const sent = upstream.request(1).json
    assert.deepStrictEqual(speaker.tools(sent), [["get_weather", weather.input_schema]])
    assert.deepStrictEqual(speaker.results(sent), [["toolu_a", "a picture:"], ["toolu_b", "rain"]])
    assert.deepStrictEqual(speaker.images(sent), [png])
    assert.include(JSON.stringify(sent), "And now?")
  })

  it("lets the SDK run tools, which would have a server hold the conversation, but goes on without", async () => {
    upstream.reply(
      speaker.say({ toolCalls: [{ id: "toolu_a", name: "get_weather", input: { city: "Paris" } }] }),
      speaker.say({ text: ["It is ", "sunny."] })
    )
    const asked: Array<unknown> = []
    const message = await client.beta.messages.toolRunner({
      ...ask("Weather?"),
      stream: false,
      tools: [betaZodTool({
        name: "get_weather",
        description: "Tells the weather of a city",
        inputSchema: z.object({ city: z.string() }),
        run: (input) => {
          asked.push(input)
          return "sunny, 21 °C"
        }
      })]
    })
    assert.deepStrictEqual(asked, [{ city: "Paris" }])
    assert.deepStrictEqual(message.content.map((block) => block.type === "text" ? block.text : block), [
      "It is sunny."
    ])
    assert.deepStrictEqual(speaker.results(upstream.request(1).json), [["toolu_a", "sunny, 21 °C"]])
  })

  it("answers what the SDK parses by a schema", async () => {
    upstream.reply(speaker.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] }))
    const message = await client.messages.parse({
      ...ask("Where?"),
      output_config: { format: zodOutputFormat(z.object({ city: z.string(), population: z.number() })) }
    })
    assert.deepStrictEqual(message.parsed_output, { city: "Paris", population: 2_100_000 })
  })

  it("shows images", async () => {
    upstream.reply(speaker.say({ text: ["A cat."] }))
    await client.messages.create({
      model,
      max_tokens: 100,
      messages: [{
        role: "user",
        content: [
          { type: "image", source: { type: "base64", media_type: "image/png", data: png } },
          { type: "text", text: "What is it?" }
        ]
      }]
    })
    assert.deepStrictEqual(speaker.images(upstream.request(0).json), [png])
  })

  // -------------------------------------------------------------------------------------------------------------------
  // Errors
  // -------------------------------------------------------------------------------------------------------------------

  it.each([
    ["a bad request", 400, BadRequestError, 400, "invalid_request_error"],
    ["too many requests", 429, RateLimitError, 429, "rate_limit_error"],
    ["an overloaded provider", 503, InternalServerError, 529, "overloaded_error"],
    ["a provider that failed", 500, InternalServerError, 502, "api_error"],
    ["a key of the gateway's that is refused", 401, InternalServerError, 502, "api_error"]
  ])("tells %s apart", async (_, given, kind, status, type) => {
    for (const stream of [false, true]) {
      upstream.reply(speaker.error(given, { "retry-after": "7" }))
      const error = await failureOf(client.messages.create({ ...ask("Hi"), stream }))
      assert.instanceOf(error, kind)
      assert.strictEqual(error.status, status)
      assert.strictEqual(error.type, type)
      assert.match(error.requestID ?? "", /^req_/)
      assert.strictEqual(at(error.error, "type"), "error")
      assert.strictEqual(at(error.error, "request_id"), error.requestID)
      assert.strictEqual(error.headers?.get("x-request-id"), error.requestID)
      assert.strictEqual(error.headers?.get("x-should-retry"), "false", "the gateway has made its own attempts")
      if (given === 429) assert.strictEqual(error.headers?.get("retry-after"), "7")
      assert.notInclude(JSON.stringify(error.error), "upstream-key")
    }
  })

  it.each([
    ["an error of the provider's", (lead: number) => fault.errorAfter(lead)],
    ["a cut connection", (lead: number) => fault.cut(lead)],
    ["an end without the terminal marker", (lead: number) => fault.end(lead)],
    ["a malformed event", (lead: number) => fault.malformed(lead)]
  ])("ends a stream after its first word in an error event: %s", async (_, faultAt) => {
    upstream.reply(withFault(speaker.say({ text: words }), faultAt(speaker.lead)))
    const texts: Array<string> = []
    const types: Array<string> = []
    const stream = client.messages.stream(ask("Count."))
      .on("text", (text) => texts.push(text))
      .on("streamEvent", ({ type }) => types.push(type))
    const error = await failureOf(stream.finalMessage())
    assert.strictEqual(texts.join(""), "One ")
    assert.oneOf(error.type, ["overloaded_error", "api_error"])
    assert.strictEqual(at(error.error, "request_id"), error.requestID)
    assert.notInclude(types, "message_delta")
    assert.notInclude(types, "message_stop")
  })

  it.each([["whole", false], ["streamed", true]])(
    "closes the upstream when its caller leaves: %s",
    async (_, streamed) => {
      upstream.reply(withFault(speaker.say({ text: words }), streamed ? fault.stall(speaker.lead) : fault.hang))
      const controller = new AbortController()
      const { signal } = controller
      const left = Promise.withResolvers<number>()
      const leave = () => {
        left.resolve(performance.now())
        controller.abort()
      }
      if (streamed) {
        const stream = client.messages.stream(ask("Count."), { signal }).on("text", leave)
        assert.instanceOf(await failureOf(stream.done()), APIUserAbortError)
      } else {
        const answer = failureOf(client.messages.create(ask("Count."), { signal }))
        await upstream.waitForRequest(0)
        leave()
        assert.instanceOf(await answer, APIUserAbortError)
      }
      const closed = await upstream.waitForClose(0, 1_000)
      assert.isTrue(closed.aborted)
      assert.isBelow((closed.closedAt ?? Infinity) - await left.promise, 100)
      assert.strictEqual(upstream.inFlight(), 0)
    }
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// What is the gateway's own
// ---------------------------------------------------------------------------------------------------------------------

describe("the sandbox", () => {
  const ask = (text: string) => ({ model: "sandbox::echo", max_tokens: 100, messages: [user(text)] })

  it("answers and streams", async () => {
    const message = await client.messages.create(ask("Hello, gateway!"))
    assert.deepStrictEqual(message.content.map((block) => block.type === "text" ? block.text : block), [
      "Hello, gateway!"
    ])
    const events: Array<Anthropic.RawMessageStreamEvent> = []
    const stream = client.messages.stream(ask("[[reason Hm.]] [[tool f {\"a\":1}]] Hello, gateway!"))
      .on("streamEvent", (event) => events.push(event))
    const streamed = await stream.finalMessage()
    followsGrammar(events)
    assert.deepStrictEqual(streamed.content.map(({ type }) => type), ["thinking", "tool_use"])
    assert.strictEqual(streamed.stop_reason, "tool_use")
    assert.isAbove(streamed.usage.output_tokens, 0)
  })

  it("reports max_tokens, and tool calls that it cut off", async () => {
    const message = await client.messages.create(ask("[[finish length]] Hello"))
    assert.strictEqual(message.stop_reason, "max_tokens")
  })

  it("fails before and after its first word", async () => {
    assert.instanceOf(await failureOf(client.messages.create(ask("[[fail 429]]"))), RateLimitError)
    const error = await failureOf(client.messages.stream(ask("[[cut 2]] one two three four")).finalMessage())
    assert.strictEqual(error.type, "api_error")
  })
})

describe("a stream", () => {
  it("may begin with pings, which the gateway sends while it waits for the first content", async () => {
    const patient = new Anthropic({
      baseURL: gateway.url,
      apiKey: "any",
      maxRetries: 0,
      fetch: async (url, init) => {
        const response = await fetch(url, init)
        return new Response(ping + ping + await response.text(), response)
      }
    })
    const stream = patient.messages.stream({ model: "sandbox::echo", max_tokens: 9, messages: [user("Hello")] })
    assert.strictEqual(await stream.finalText(), "Hello")
  })
})

describe("the caller", () => {
  const secret = "a caller's key"
  let locked: RunningGateway

  beforeAll(async () => {
    locked = await startGateway(`
auth: { mode: keys, keys: [{ id: one, sha256: "${createHash("sha256").update(secret).digest("hex")}", tenant: all }] }
tenants: { all: {} }
providers: { sandbox: { type: sandbox } }
`)
  })
  afterAll(() => locked.close())

  it.each([
    ["x-api-key", { apiKey: secret }],
    ["authorization", { authToken: secret, apiKey: null }]
  ])("is known by %s", async (header, access) => {
    const known = new Anthropic({ baseURL: locked.url, maxRetries: 0, ...access })
    const { input_tokens: tokens } = await known.messages.countTokens({
      model: "sandbox::echo",
      messages: [user("Hi")]
    })
    assert.isAbove(tokens, 0, header)
    assert.strictEqual(
      (await known.messages.create({ model: "sandbox::echo", max_tokens: 9, messages: [user("Hi")] })).type,
      "message"
    )
  })

  it("is turned away without a key, in Anthropic's words", async () => {
    const unknown = new Anthropic({ baseURL: locked.url, maxRetries: 0, apiKey: "wrong" })
    const asked = { model: "sandbox::echo", max_tokens: 9, messages: [user("Hi")] }
    for (const answer of [unknown.messages.create(asked), unknown.messages.countTokens(asked)]) {
      const error = await failureOf(answer)
      assert.instanceOf(error, AuthenticationError)
      assert.strictEqual(error.type, "authentication_error")
      assert.match(error.requestID ?? "", /^req_/)
    }
  })
})
