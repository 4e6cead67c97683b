/**
 * OpenAI's own SDK against the running gateway: what a user has who changed nothing but the base URL. Behind the gateway
 * stand fake upstreams that speak each provider's own wire, so every test here also says what that provider was asked.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import OpenAI, {
  APIError,
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  PermissionDeniedError,
  RateLimitError,
  UnprocessableEntityError
} from "openai"
import { zodResponseFormat } from "openai/helpers/zod"
import { z } from "zod"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, json, type Script } from "../fixtures/Script.ts"

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
  readonly toolCalls?: ReadonlyArray<Call>
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
  /** The tool's result, as the upstream got it in the second turn. */
  readonly resultSent: (body: unknown) => unknown
  /** All instructions that the upstream got, in order. */
  readonly instructionsSent: (body: unknown) => unknown
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

const providers = {
  openai: {
    model: "openai::model-1",
    say: ({ text, toolCalls }) =>
      openAi.answer({
        ...(text === undefined ? {} : { text }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: JSON.stringify(input) })) })
      }),
    error: (status, message, headers) => openAi.error(status, message === undefined ? {} : { message }, headers),
    lead: 2,
    schemaSent: (body) => at(body, "response_format", "json_schema", "schema"),
    resultSent: (body) => at(body, "messages", -1, "content"),
    instructionsSent: (body) =>
      list(at(body, "messages")).filter((message) => ["system", "developer"].includes(String(at(message, "role"))))
        .map((message) => at(message, "content"))
  },
  anthropic: {
    // A model whose API takes a schema by itself.
    model: "anthropic::claude-sonnet-4-5",
    say: ({ text, toolCalls }) =>
      anthropic.answer({
        ...(text === undefined ? {} : { text }),
        ...(toolCalls === undefined ? {} : { toolCalls }),
        usage: { input_tokens: 9, output_tokens: 12 }
      }),
    error: (status, message, headers) => anthropic.error(status, message === undefined ? {} : { message }, headers),
    lead: 4,
    schemaSent: (body) => at(body, "output_config", "format", "schema"),
    resultSent: (body) => at(body, "messages", -1, "content", 0, "content", 0, "text"),
    instructionsSent: (body) => list(at(body, "system")).map((block) => at(block, "text"))
  },
  ollama: {
    model: "ollama::llama3.2:3b",
    say: ({ text, toolCalls }) =>
      ollama.answer({
        ...(text === undefined ? {} : { text }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: input })) }),
        usage: { prompt_eval_count: 9, eval_count: 12 }
      }),
    error: (status, message, headers) => ollama.error(status, message, headers),
    lead: 1,
    schemaSent: (body) => at(body, "format"),
    resultSent: (body) => at(body, "messages", -1, "content"),
    instructionsSent: (body) =>
      list(at(body, "messages")).filter((message) => at(message, "role") === "system")
        .map((message) => at(message, "content"))
  }
} satisfies Record<string, Provider>

// ---------------------------------------------------------------------------------------------------------------------
// Setting
// ---------------------------------------------------------------------------------------------------------------------

const user = (content: string) => ({ role: "user" as const, content })

/** Of "secret". */
const sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"

const configuration = (url: string): string => `
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${url}", unlisted_models: allow }
  router: { type: openai, base_url: "${url}/router/v1", unlisted_models: deny }
models:
  - { id: "openai::text-only", capabilities: [text_input, text_output, streaming] }
  - { id: "openai::retired", status: deprecated }
`

const weather = {
  type: "function" as const,
  function: {
    name: "get_weather",
    description: "Tells the weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
  }
}

let upstream: FakeUpstream
let gateway: RunningGateway
let client: OpenAI

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(configuration(upstream.url))
  client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "any", maxRetries: 0 })
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

const failureOf = async (promise: PromiseLike<unknown>): Promise<APIError> => {
  const error: unknown = await Promise.resolve(promise).then(() => undefined, (error: unknown) => error)
  return error instanceof APIError ? error : assert.fail(`expected an API error, got ${String(error)}`)
}

const usage = (prompt: number, completion: number) => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion
})

// ---------------------------------------------------------------------------------------------------------------------
// What every provider has to do
// ---------------------------------------------------------------------------------------------------------------------

describe.each(Object.entries<Provider>(providers))("%s", (slug, provider) => {
  const { model } = provider
  const upstreamModel = model.slice(slug.length + 2)
  const words = ["One ", "two ", "three"]

  it("answers", async () => {
    upstream.reply(provider.say({ text: words }))
    const completion = await client.chat.completions.create({ model, messages: [user("Count.")] })
    assert.strictEqual(completion.object, "chat.completion")
    assert.isNotEmpty(completion.id)
    assert.isAbove(completion.created, 1_700_000_000)
    assert.strictEqual(completion.model, upstreamModel)
    assert.lengthOf(completion.choices, 1)
    assert.strictEqual(completion.choices[0]?.index, 0)
    assert.strictEqual(completion.choices[0]?.message.role, "assistant")
    assert.strictEqual(completion.choices[0]?.message.content, "One two three")
    assert.strictEqual(completion.choices[0]?.message.tool_calls, undefined)
    assert.strictEqual(completion.choices[0]?.finish_reason, "stop")
    assert.deepInclude(completion.usage, usage(9, 12))
    assert.match(completion._request_id ?? "", /^req_/)
    assert.strictEqual(at(upstream.request(0).json, "model"), upstreamModel)
    assert.lengthOf(upstream.requests, 1)
  })

  it("streams, chunk by chunk", async () => {
    upstream.reply(provider.say({ text: words }))
    const stream = await client.chat.completions.create({ model, messages: [user("Count.")], stream: true })
    const pieces: Array<string> = []
    const ids = new Set<string>()
    const created = new Set<number>()
    const finishes: Array<string> = []
    let first: string | undefined
    for await (const chunk of stream) {
      assert.strictEqual(chunk.object, "chat.completion.chunk")
      assert.strictEqual(chunk.model, upstreamModel)
      ids.add(chunk.id)
      created.add(chunk.created)
      const choice = chunk.choices[0]
      first ??= choice?.delta.role
      if ((choice?.delta.content ?? "") !== "") pieces.push(choice?.delta.content ?? "")
      if (choice?.finish_reason) finishes.push(choice.finish_reason)
    }
    assert.deepStrictEqual(pieces, words)
    assert.strictEqual(first, "assistant")
    assert.deepStrictEqual(finishes, ["stop"])
    assert.strictEqual(ids.size, 1, "all chunks belong to one answer")
    assert.strictEqual(created.size, 1)
  })

  it("streams usage in a last chunk of its own where it is asked for", async () => {
    upstream.reply(provider.say({ text: words }))
    const stream = await client.chat.completions.create({
      model,
      messages: [user("Count.")],
      stream: true,
      stream_options: { include_usage: true }
    })
    const told: Array<OpenAI.CompletionUsage | null | undefined> = []
    let last: OpenAI.ChatCompletionChunk | undefined
    for await (const chunk of stream) {
      told.push(chunk.usage)
      last = chunk
    }
    assert.isTrue(told.slice(0, -1).every((usage) => usage === null), "until then it is null")
    assert.deepStrictEqual(last?.choices, [])
    assert.deepInclude(last?.usage, usage(9, 12))
  })

  it("feeds the streaming helper", async () => {
    upstream.reply(provider.say({
      text: words,
      toolCalls: [{ id: "call_a", name: "get_weather", input: { city: "Paris" } }]
    }))
    const deltas: Array<string> = []
    const toolDeltas: Array<string> = []
    const stream = client.chat.completions.stream({
      model,
      messages: [user("Count.")],
      tools: [weather],
      stream_options: { include_usage: true }
    })
    stream.on("content.delta", ({ delta }) => deltas.push(delta))
    stream.on("tool_calls.function.arguments.done", ({ arguments: text, name }) => toolDeltas.push(name, text))
    const completion = await stream.finalChatCompletion()
    assert.deepStrictEqual(deltas, words)
    assert.strictEqual(toolDeltas[0], "get_weather")
    assert.deepStrictEqual(JSON.parse(toolDeltas[1] ?? ""), { city: "Paris" })
    const choice = completion.choices[0]
    assert.strictEqual(choice?.message.content, "One two three")
    assert.strictEqual(choice?.finish_reason, "tool_calls")
    const call = choice?.message.tool_calls?.[0]
    assert.deepStrictEqual(
      call?.type === "function" ? [call.id, call.function.name, JSON.parse(call.function.arguments)] : call,
      ["call_a", "get_weather", { city: "Paris" }]
    )
    assert.deepInclude(completion.usage, usage(9, 12))
  })

  const runs = async (stream: boolean) => {
    upstream.reply(
      provider.say({ toolCalls: [{ id: "call_a", name: "get_weather", input: { city: "Paris" } }] }),
      provider.say({ text: ["It is ", "sunny."] })
    )
    const asked: Array<unknown> = []
    const params = {
      model,
      messages: [user("How is the weather in Paris?")],
      tools: [{
        type: "function" as const,
        function: {
          ...weather.function,
          // The SDK's type for a schema is narrower than what is written above.
          parameters: { type: "object" as const, properties: { city: { type: "string" as const } } },
          parse: (text: string): { city: string } => ({ city: String(at(JSON.parse(text), "city")) }),
          function: (input: { city: string }) => {
            asked.push(input)
            return "sunny, 21 °C"
          }
        }
      }]
    }
    const runner = stream
      ? client.chat.completions.runTools({ ...params, stream: true })
      : client.chat.completions.runTools(params)
    assert.strictEqual(await runner.finalContent(), "It is sunny.")
    assert.deepStrictEqual(asked, [{ city: "Paris" }])
    assert.lengthOf(upstream.requests, 2)
    assert.strictEqual(provider.resultSent(upstream.request(1).json), "sunny, 21 °C")
  }
  it("lets the SDK run tools", () => runs(false))
  it("lets the SDK run tools over streams", () => runs(true))

  const Place = z.object({ city: z.string(), population: z.number() })
  const format = zodResponseFormat(Place, "place")

  it("answers what the SDK parses by a schema", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] }))
    const completion = await client.chat.completions.parse({
      model,
      messages: [user("Where?")],
      response_format: format
    })
    assert.deepStrictEqual(completion.choices[0]?.message.parsed, { city: "Paris", population: 2_100_000 })
    const sent = provider.schemaSent(upstream.request(0).json)
    assert.deepStrictEqual(sent, format.json_schema.schema)
  })

  it("streams what the SDK parses by a schema", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] }))
    const stream = client.chat.completions.stream({ model, messages: [user("Where?")], response_format: format })
    const completion = await stream.finalChatCompletion()
    assert.deepStrictEqual(completion.choices[0]?.message.parsed, { city: "Paris", population: 2_100_000 })
  })

  it("ends a stream that does not fit its schema in an error", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":", "7}"] }))
    const stream = client.chat.completions.stream({ model, messages: [user("Where?")], response_format: format })
    const error = await failureOf(stream.finalChatCompletion())
    assert.strictEqual(error.code, "validation_error")
  })

  it("keeps instructions of both roles, in order", async () => {
    upstream.reply(provider.say({ text: words }))
    await client.chat.completions.create({
      model,
      messages: [
        { role: "system", content: "Be brief." },
        { role: "developer", content: [{ type: "text", text: "Be kind." }] },
        user("Hello")
      ]
    })
    const body = upstream.request(0).json
    assert.deepStrictEqual(provider.instructionsSent(body), ["Be brief.", "Be kind."])
    assert.strictEqual(at(body, "messages", -1, "role"), "user")
  })

  it("leaves the upstream when the caller aborts before the answer", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.hang))
    const controller = new AbortController()
    const answer = client.chat.completions.create(
      { model, messages: [user("Count.")] },
      { signal: controller.signal }
    ).then(() => undefined, (error: unknown) => error)
    await upstream.waitForRequest(0)
    controller.abort()
    assert.instanceOf(await answer, APIUserAbortError)
    assert.isTrue((await upstream.waitForClose(0)).aborted)
  })

  it("leaves the upstream when the caller stops reading a stream", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.stall(provider.lead)))
    const stream = await client.chat.completions.create({ model, messages: [user("Count.")], stream: true })
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break
    assert.isTrue((await upstream.waitForClose(0)).aborted)
  })

  it("throws in the middle of a stream that breaks off", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.cut(provider.lead)))
    const stream = await client.chat.completions.create({ model, messages: [user("Count.")], stream: true })
    let text = ""
    const error = await failureOf((async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ""
    })())
    assert.strictEqual(text, "One ")
    assert.strictEqual(error.code, "provider_error")
  })

  describe("errors", () => {
    it("a request that the provider refuses is a BadRequestError with its words", async () => {
      upstream.reply(provider.error(400, "the request is odd"))
      const error = await failureOf(client.chat.completions.create({ model, messages: [user("Hi")] }))
      assert.instanceOf(error, BadRequestError)
      assert.include(error.message, "the request is odd")
      assert.match(error.requestID ?? "", /^req_/)
    })
    it("a rate limit is a RateLimitError that says how long to wait", async () => {
      upstream.reply(provider.error(429, "slow down", { "retry-after": "7" }))
      const error = await failureOf(client.chat.completions.create({ model, messages: [user("Hi")] }))
      assert.instanceOf(error, RateLimitError)
      assert.strictEqual(error.headers?.get("retry-after"), "7")
    })
    it("a rate limit on a stream is a RateLimitError, too", async () => {
      upstream.reply(provider.error(429, "slow down", { "retry-after": "7" }))
      const error = await failureOf(
        client.chat.completions.create({ model, messages: [user("Hi")], stream: true })
      )
      assert.instanceOf(error, RateLimitError)
    })
    it("the gateway's own bad key is never the caller's AuthenticationError", async () => {
      upstream.reply(provider.error(401, "Incorrect API key provided: upstream-key"))
      const error = await failureOf(client.chat.completions.create({ model, messages: [user("Hi")] }))
      assert.instanceOf(error, InternalServerError)
      assert.strictEqual(error.status, 502)
      assert.strictEqual(error.code, "provider_error")
      assert.notInclude(error.message, "upstream-key")
    })
    it("a page of some proxy is an error without the page", async () => {
      const page = "<html><head><title>502 Bad Gateway</title></head><body>secret host</body></html>"
      upstream.reply({
        status: 502,
        headers: { "content-type": "text/html" },
        body: { type: "whole", content: page },
        faults: []
      })
      const error = await failureOf(client.chat.completions.create({ model, messages: [user("Hi")] }))
      assert.strictEqual(error.status, 502)
      assert.notInclude(error.message, "secret host")
    })
    it("the gateway has spent its own attempts, so the SDK makes no more", async () => {
      upstream.reply(provider.error(503), provider.say({ text: words }))
      const error = await failureOf(
        client.chat.completions.create({ model, messages: [user("Hi")] }, { maxRetries: 2 })
      )
      assert.strictEqual(error.status, 503)
      assert.strictEqual(error.headers?.get("x-should-retry"), "false")
      assert.lengthOf(upstream.requests, 1)
    })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Media
// ---------------------------------------------------------------------------------------------------------------------

describe("media", () => {
  const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
  const pdf = "JVBERi0xLjQKJSVFT0YK"
  const ask = async (provider: Provider, part: OpenAI.ChatCompletionContentPart) => {
    upstream.reply(provider.say({ text: ["ok"] }))
    await client.chat.completions.create({
      model: provider.model,
      messages: [{ role: "user", content: [{ type: "text", text: "What is this?" }, part] }]
    })
    return at(upstream.request(0).json, "messages", 0)
  }
  const image = { type: "image_url" as const, image_url: { url: `data:image/png;base64,${png}` } }
  const file = {
    type: "file" as const,
    file: { filename: "a.pdf", file_data: `data:application/pdf;base64,${pdf}` }
  }
  const audio = { type: "input_audio" as const, input_audio: { data: "UklGRg==", format: "wav" as const } }

  it("an inline image reaches an OpenAI upstream as it is", async () => {
    assert.deepStrictEqual(at(await ask(providers.openai, image), "content", 1), image)
  })
  it("an inline image becomes an Anthropic image block", async () => {
    assert.deepStrictEqual(at(await ask(providers.anthropic, image), "content", 1), {
      type: "image",
      source: { type: "base64", media_type: "image/png", data: png }
    })
  })
  it("an inline image becomes bare base64 beside Ollama's content", async () => {
    assert.deepStrictEqual(await ask(providers.ollama, image), {
      role: "user",
      content: "What is this?",
      images: [png]
    })
  })
  it("an image by its address reaches OpenAI and Anthropic as an address", async () => {
    const url = "https://example.com/a.png"
    const part = { type: "image_url" as const, image_url: { url, detail: "low" as const } }
    assert.deepStrictEqual(at(await ask(providers.openai, part), "content", 1), part)
    upstream.reset()
    assert.deepStrictEqual(at(await ask(providers.anthropic, part), "content", 1), {
      type: "image",
      source: { type: "url", url }
    })
  })
  it("an inline file reaches an OpenAI upstream as it is", async () => {
    assert.deepStrictEqual(at(await ask(providers.openai, file), "content", 1), file)
  })
  it("an inline file becomes an Anthropic document block", async () => {
    assert.deepInclude(at(await ask(providers.anthropic, file), "content", 1), {
      type: "document",
      source: { type: "base64", media_type: "application/pdf", data: pdf }
    })
  })
  it("sound reaches an OpenAI upstream as it is", async () => {
    assert.deepStrictEqual(at(await ask(providers.openai, audio), "content", 1), audio)
  })
  it("what a wire has no form for is refused, naming the part, and nothing is sent", async () => {
    for (
      const [provider, part] of [
        [providers.anthropic, audio],
        [providers.ollama, audio],
        [providers.ollama, file],
        [providers.ollama, { type: "image_url" as const, image_url: { url: "https://example.com/a.png" } }]
      ] as const
    ) {
      const error = await failureOf(ask(provider, part))
      assert.instanceOf(error, BadRequestError)
      assert.strictEqual(error.code, "validation_error")
      assert.match(error.param ?? "", /^messages\[0\]\.content\[1\]/)
      upstream.reset()
    }
    assert.lengthOf(upstream.requests, 0)
  })
  it("an image that is no base64 is refused before anything is sent", async () => {
    const error = await failureOf(
      ask(providers.openai, { type: "image_url", image_url: { url: "data:image/png;base64,***" } })
    )
    assert.instanceOf(error, BadRequestError)
    assert.strictEqual(error.param, "messages[0].content[1].image_url.url")
    assert.lengthOf(upstream.requests, 0)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Several answers
// ---------------------------------------------------------------------------------------------------------------------

describe("n", () => {
  const two = openAi.answer({ text: ["a", "b"], alternatives: [{ text: ["c"], finishReason: "length" }] })
  const params = { model: "openai::model-1", messages: [user("Hi")], n: 2 }

  it("several answers come back whole", async () => {
    upstream.reply(two)
    const completion = await client.chat.completions.create(params)
    assert.deepStrictEqual(
      completion.choices.map((choice) => [choice.index, choice.message.content, choice.finish_reason]),
      [[0, "ab", "stop"], [1, "c", "length"]]
    )
    assert.strictEqual(at(upstream.request(0).json, "n"), 2)
  })

  it("several answers come back streamed, each with its own finish", async () => {
    upstream.reply(two)
    const completion = await client.chat.completions.stream(params).finalChatCompletion()
    assert.deepStrictEqual(
      completion.choices.map((choice) => [choice.index, choice.message.content, choice.finish_reason]),
      [[0, "ab", "stop"], [1, "c", "length"]]
    )
    upstream.reply(two)
    const texts = ["", ""]
    const finishes: Array<readonly [number, string]> = []
    for await (const chunk of await client.chat.completions.create({ ...params, stream: true })) {
      for (const choice of chunk.choices) {
        texts[choice.index] += choice.delta.content ?? ""
        if (choice.finish_reason) finishes.push([choice.index, choice.finish_reason])
      }
    }
    assert.deepStrictEqual(texts, ["ab", "c"])
    assert.deepStrictEqual(finishes, [[0, "stop"], [1, "length"]])
  })

  it.each([providers.anthropic, providers.ollama])("$model: one answer at a time", async ({ model }) => {
    const error = await failureOf(client.chat.completions.create({ ...params, model }))
    assert.instanceOf(error, BadRequestError)
    assert.strictEqual(error.param, "n")
    assert.lengthOf(upstream.requests, 0)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// A schema through a tool
// ---------------------------------------------------------------------------------------------------------------------

describe("a schema on an Anthropic model that has no structured output of its own", () => {
  const Place = z.object({ city: z.string() })
  const params = {
    model: "anthropic::claude-3-5-haiku-20241022",
    messages: [user("Where?")],
    response_format: zodResponseFormat(Place, "place")
  }
  const call: Script = (request) => {
    const name = String(at(request.json, "tools", 0, "name"))
    const script = anthropic.answer({ toolCalls: [{ name, input: { city: "Paris" } }] })
    return typeof script === "function" ? script(request) : script
  }

  it("goes by a tool that the model must call, whose input is the answer", async () => {
    upstream.reply(call)
    const completion = await client.chat.completions.parse(params)
    assert.deepStrictEqual(completion.choices[0]?.message.parsed, { city: "Paris" })
    assert.strictEqual(completion.choices[0]?.finish_reason, "stop")
    assert.strictEqual(completion.choices[0]?.message.tool_calls, undefined)
    const sent = upstream.request(0).json
    assert.strictEqual(at(sent, "tool_choice", "type"), "tool")
    assert.deepStrictEqual(at(sent, "tools", 0, "input_schema"), params.response_format.json_schema.schema)
  })

  it("does so streamed", async () => {
    upstream.reply(call)
    const completion = await client.chat.completions.stream(params).finalChatCompletion()
    assert.deepStrictEqual(completion.choices[0]?.message.parsed, { city: "Paris" })
    assert.strictEqual(completion.choices[0]?.finish_reason, "stop")
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Models
// ---------------------------------------------------------------------------------------------------------------------

describe("models", () => {
  it("lists what the providers have, under canonical ids", async () => {
    upstream.route("GET", "/router/v1/models", openAi.models([{ id: "meta-llama/llama-3.3-70b:free" }]))
    upstream.models(["model-1", "model-2"])
    await gateway.discover()
    const ids: Array<string> = []
    for await (const model of client.models.list()) {
      assert.strictEqual(model.object, "model")
      assert.strictEqual(model.owned_by, model.id.split("::", 1)[0])
      ids.push(model.id)
    }
    for (
      const id of [
        "openai::model-1",
        "openai::model-2",
        "anthropic::model-1",
        "ollama::model-1:latest",
        "router::meta-llama/llama-3.3-70b:free",
        "openai::text-only"
      ]
    ) assert.include(ids, id)
    assert.strictEqual(new Set(ids).size, ids.length, "each once")
  })

  it("retrieves one by its id, slashes, colons and all", async () => {
    upstream.route("GET", "/router/v1/models", openAi.models([{ id: "meta-llama/llama-3.3-70b:free" }]))
    await gateway.discover()
    for (const id of ["router::meta-llama/llama-3.3-70b:free", "openai::fake-model", "openai::text-only"]) {
      const model = await client.models.retrieve(id)
      assert.strictEqual(model.id, id)
      assert.strictEqual(model.object, "model")
      assert.isNumber(model.created)
    }
    // As people write it by hand, without percent-encoding.
    const response = await fetch(`${gateway.url}/v1/models/router::meta-llama/llama-3.3-70b:free`)
    assert.strictEqual(response.status, 200)
    assert.strictEqual(at(JSON.parse(await response.text()), "id"), "router::meta-llama/llama-3.3-70b:free")
  })

  it("does not retrieve what is not there", async () => {
    upstream.route("GET", "/router/v1/models", openAi.models([{ id: "a/b" }]))
    await gateway.discover()
    const error = await failureOf(client.models.retrieve("router::a/c"))
    assert.instanceOf(error, NotFoundError)
    assert.strictEqual(error.code, "model_not_found")
  })

  it("a chat with an id full of slashes reaches its provider under that id", async () => {
    upstream.route("GET", "/router/v1/models", openAi.models([{ id: "meta-llama/llama-3.3-70b:free" }]))
    await gateway.discover()
    upstream.reply(openAi.answer({ text: "ok" }))
    await client.chat.completions.create({
      model: "router::meta-llama/llama-3.3-70b:free",
      messages: [user("Hi")]
    })
    assert.strictEqual(at(upstream.request(0).json, "model"), "meta-llama/llama-3.3-70b:free")
    assert.strictEqual(upstream.request(0).path, "/router/v1/chat/completions")
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Errors of the gateway's own
// ---------------------------------------------------------------------------------------------------------------------

describe("the gateway's own errors", () => {
  it("an unknown model is a NotFoundError, before anything is sent", async () => {
    upstream.route("GET", "/router/v1/models", openAi.models([{ id: "a/b" }]))
    await gateway.discover()
    for (const model of ["router::no-such-model", "nowhere::model-1"]) {
      for (const stream of [false, true]) {
        const error = await failureOf(client.chat.completions.create({ model, messages: [user("Hi")], stream }))
        assert.instanceOf(error, NotFoundError)
        assert.strictEqual(error.code, "model_not_found")
      }
    }
    assert.lengthOf(upstream.requests, 0)
  })

  it("a model that was taken out of service is gone (410)", async () => {
    const error = await failureOf(
      client.chat.completions.create({ model: "openai::retired", messages: [user("Hi")] })
    )
    assert.strictEqual(error.status, 410)
    assert.strictEqual(error.code, "model_deprecated")
  })

  it("what a model cannot do is an UnprocessableEntityError", async () => {
    const error = await failureOf(
      client.chat.completions.create({ model: "openai::text-only", messages: [user("Hi")], tools: [weather] })
    )
    assert.instanceOf(error, UnprocessableEntityError)
    assert.strictEqual(error.code, "capability_not_supported")
    assert.lengthOf(upstream.requests, 0)
  })

  it("a malformed request is a BadRequestError that names the field as the caller wrote it", async () => {
    const error = await failureOf(
      client.chat.completions.create({
        model: "openai::model-1",
        messages: [user("Hi"), { role: "tool", tool_call_id: "nobody", content: "x" }]
      })
    )
    assert.instanceOf(error, BadRequestError)
    assert.strictEqual(error.type, "invalid_request_error")
    assert.strictEqual(error.param, "messages[1].tool_call_id")
    assert.lengthOf(upstream.requests, 0)
  })

  it("an endpoint that is not served is a NotFoundError and no hang", async () => {
    const error = await failureOf(client.fineTuning.jobs.create({ model: "openai::model-1", training_file: "file-1" }))
    assert.instanceOf(error, NotFoundError)
    assert.strictEqual(error.code, "not_found")
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
  const withKey = (apiKey: string) => new OpenAI({ baseURL: `${locked.url}/v1`, apiKey, maxRetries: 0 })
  const params = { model: "openai::model-1", messages: [user("Hi")] }

  it("the right key is let in, and never travels upstream", async () => {
    upstream.reply(openAi.answer({ text: "ok" }))
    const completion = await withKey("secret").chat.completions.create(params)
    assert.strictEqual(completion.choices[0]?.message.content, "ok")
    assert.strictEqual(upstream.request(0).headers["authorization"], "Bearer upstream-key")
    assert.notInclude(JSON.stringify(upstream.request(0).headers), "secret")
  })

  it("a wrong key is an AuthenticationError on every path", async () => {
    const stranger = withKey("wrong-key")
    for (
      const attempt of [
        () => stranger.chat.completions.create(params),
        () => stranger.chat.completions.create({ ...params, stream: true }),
        () => stranger.models.list(),
        () => stranger.models.retrieve("openai::model-1"),
        () => stranger.embeddings.create({ model: "openai::model-1", input: "a" })
      ]
    ) {
      const error = await failureOf(attempt())
      assert.instanceOf(error, AuthenticationError)
      assert.strictEqual(error.code, "unauthorized")
      assert.notInclude(error.message, "wrong-key")
    }
    assert.lengthOf(upstream.requests, 0)
  })

  it("a model that the key may not use is a PermissionDeniedError", async () => {
    const error = await failureOf(
      withKey("secret").chat.completions.create({ ...params, model: "anthropic::claude-sonnet-4-5" })
    )
    assert.instanceOf(error, PermissionDeniedError)
    assert.strictEqual(error.code, "model_not_approved")
    assert.lengthOf(upstream.requests, 0)
  })
})

describe("what upstreams say that is no chat completion", () => {
  it("is the provider's error, not the SDK's crash", async () => {
    for (const answer of [json({ hello: "world" }), json([]), json({ choices: [] })]) {
      upstream.reply(answer)
      const error = await failureOf(
        client.chat.completions.create({ model: "openai::model-1", messages: [user("Hi")] })
      )
      assert.strictEqual(error.status, 502)
      assert.strictEqual(error.code, "provider_error")
    }
  })
})
