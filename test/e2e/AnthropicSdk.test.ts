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
  NotFoundError,
  RateLimitError
} from "@anthropic-ai/sdk"
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, type Script } from "../fixtures/Script.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Providers
// ---------------------------------------------------------------------------------------------------------------------

/** What the fake model says, in no wire's words. */
interface Saying {
  readonly text?: ReadonlyArray<string>
  readonly thinking?: ReadonlyArray<string>
  readonly toolCalls?: ReadonlyArray<{ readonly id: string; readonly name: string; readonly input: Json }>
}

/** One provider under test: how its upstream says something, and where its wire keeps what the tests look for. */
interface Provider {
  readonly model: string
  readonly say: (saying: Saying) => Script
  readonly error: (status: number, headers?: Readonly<Record<string, string>>) => Script
  /** Events of a stream before its first word is over. */
  readonly lead: number
  /** All instructions that the upstream got, in order. */
  readonly instructions: (body: unknown) => unknown
  /** Each tool's name and schema, as the upstream got them. */
  readonly tools: (body: unknown) => ReadonlyArray<unknown>
  /** Each tool's result, as the upstream got it: the call's id, or the tool's name where the wire has it, and the text. */
  readonly results: (body: unknown) => ReadonlyArray<unknown>
  /** Base64 of every image that the upstream got. */
  readonly images: (body: unknown) => ReadonlyArray<unknown>
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

const withRole = (body: unknown, role: string) =>
  list(at(body, "messages")).filter((message) => at(message, "role") === role)

const ofType = (blocks: unknown, type: string) => list(blocks).filter((block) => at(block, "type") === type)

const blocks = (body: unknown) => list(at(body, "messages")).flatMap((message) => list(at(message, "content")))

const dataUrl = "data:image/png;base64,"

const functions = (body: unknown) =>
  list(at(body, "tools")).map((tool) => [at(tool, "function", "name"), at(tool, "function", "parameters")])

const providers = {
  anthropic: {
    model: "anthropic::claude-sonnet-4-5",
    say: ({ text, thinking, toolCalls }) =>
      anthropic.answer({
        ...(text === undefined ? {} : { text }),
        ...(thinking === undefined ? {} : { thinking, signature: "c2ln" }),
        ...(toolCalls === undefined ? {} : { toolCalls }),
        usage: { input_tokens: 9, output_tokens: 12 }
      }),
    error: (status, headers) => anthropic.error(status, {}, headers),
    lead: 4,
    instructions: (body) => list(at(body, "system")).map((block) => at(block, "text")),
    tools: (body) => list(at(body, "tools")).map((tool) => [at(tool, "name"), at(tool, "input_schema")]),
    results: (body) =>
      ofType(blocks(body), "tool_result").map((block) => [
        at(block, "tool_use_id"),
        ofType(at(block, "content"), "text").map((part) => at(part, "text")).join("")
      ]),
    images: (body) =>
      [...blocks(body), ...blocks(body).flatMap((block) => list(at(block, "content")))]
        .flatMap((block) => at(block, "type") === "image" ? [at(block, "source", "data")] : [])
  },
  openai: {
    model: "openai::gpt-test",
    say: ({ text, thinking, toolCalls }) =>
      openAi.answer({
        ...(text === undefined ? {} : { text }),
        ...(thinking === undefined ? {} : { reasoning: thinking }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: JSON.stringify(input) })) }),
        usage: { prompt_tokens: 9, completion_tokens: 12 }
      }),
    error: (status, headers) => openAi.error(status, {}, headers),
    lead: 2,
    instructions: (body) =>
      withRole(body, "system").flatMap((message) => {
        const content = at(message, "content")
        return typeof content === "string" ? [content] : list(content).map((part) => at(part, "text"))
      }),
    tools: functions,
    results: (body) =>
      withRole(body, "tool").map((message) => [at(message, "tool_call_id"), at(message, "content")]),
    images: (body) =>
      blocks(body).flatMap((part) => {
        const url = at(part, "image_url", "url")
        return typeof url === "string" ? [url.slice(dataUrl.length)] : []
      })
  },
  ollama: {
    model: "ollama::llama3.2:3b",
    say: ({ text, thinking, toolCalls }) =>
      ollama.answer({
        ...(text === undefined ? {} : { text }),
        ...(thinking === undefined ? {} : { thinking }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: input })) }),
        usage: { prompt_eval_count: 9, eval_count: 12 }
      }),
    error: (status, headers) => ollama.error(status, "it failed", headers),
    lead: 1,
    instructions: (body) =>
      withRole(body, "system").flatMap((message) => String(at(message, "content")).split("\n")),
    tools: functions,
    results: (body) =>
      withRole(body, "tool").map((message) => [at(message, "tool_call_id"), at(message, "content")]),
    images: (body) => list(at(body, "messages")).flatMap((message) => list(at(message, "images")))
  }
} satisfies Record<string, Provider>

// ---------------------------------------------------------------------------------------------------------------------
// Setting
// ---------------------------------------------------------------------------------------------------------------------

const configuration = (url: string): string => `
defaults: { attempts: 1 }
providers:
  anthropic: { type: anthropic, base_url: "${url}", api_key: upstream-key, unlisted_models: allow }
  openai: { type: openai, base_url: "${url}/v1", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${url}", unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "openai::retired", status: deprecated }
routes:
  claude-haiku-4-5: { models: ["ollama::llama3.2:3b"] }
`

let upstream: FakeUpstream
let gateway: RunningGateway
let client: Anthropic

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(configuration(upstream.url))
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

const words = ["One ", "two ", "three"]
const png = "iVBORw0KGgo="

// ---------------------------------------------------------------------------------------------------------------------
// What every provider has to do
// ---------------------------------------------------------------------------------------------------------------------

describe.each(Object.entries<Provider>(providers))("%s", (slug, provider) => {
  const { model } = provider
  const upstreamModel = model.slice(slug.length + 2)

  it("answers", async () => {
    upstream.reply(provider.say({ text: words }))
    const { data, request_id: id, response } = await client.messages.create({
      model,
      max_tokens: 100,
      system: "Be brief.",
      messages: [user("Count.")]
    }).withResponse()
    assert.strictEqual(data.type, "message")
    assert.strictEqual(data.role, "assistant")
    assert.isNotEmpty(data.id)
    assert.strictEqual(data.model, upstreamModel)
    assert.deepStrictEqual(data.content.map((block) => block.type === "text" ? block.text : block), ["One two three"])
    assert.strictEqual(data.stop_reason, "end_turn")
    assert.isNull(data.stop_sequence)
    assert.strictEqual(data.usage.input_tokens, 9)
    assert.strictEqual(data.usage.output_tokens, 12)
    assert.match(id ?? "", /^req_/)
    assert.strictEqual(response.headers.get("x-request-id"), id)
    assert.strictEqual(response.headers.get("x-gateway-model"), model)
    const sent = upstream.request(0).json
    assert.strictEqual(at(sent, "model"), upstreamModel)
    assert.deepStrictEqual(provider.instructions(sent), ["Be brief."])
  })

  it("streams, event by event", async () => {
    upstream.reply(provider.say({ text: words }))
    const stream = await client.messages.create({ model, max_tokens: 100, messages: [user("Count.")], stream: true })
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
    const [first] = events
    const start = first?.type === "message_start" ? first.message : assert.fail("the first event starts the message")
    assert.isNotEmpty(start.id)
    assert.strictEqual(start.model, upstreamModel)
    assert.isAbove(start.usage.input_tokens, 0, "known or estimated, the size of the prompt is told at once")
    const end = events.at(-2)
    assert.deepInclude(at(end, "usage"), { input_tokens: 9, output_tokens: 12 })
    assert.deepInclude(at(end, "delta"), { stop_reason: "end_turn", stop_sequence: null })
  })
})
