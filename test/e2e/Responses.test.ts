/**
 * OpenAI's own SDK on its Responses API against the running gateway. Behind the gateway stand fake upstreams that speak
 * each provider's own wire, so the tests also say what that provider was asked; and the sandbox.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import OpenAI, {
  APIError,
  APIUserAbortError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError
} from "openai"
import { zodTextFormat } from "openai/helpers/zod"
import { z } from "zod"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { eventsOf, type ReadEvent } from "../fixtures/ResponsesEvents.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, json, parsed, type Script, sseEvent, stream } from "../fixtures/Script.ts"

type Response = OpenAI.Responses.Response
type InputItem = OpenAI.Responses.ResponseInputItem

// ---------------------------------------------------------------------------------------------------------------------
// Providers
// ---------------------------------------------------------------------------------------------------------------------

interface Call {
  readonly id: string
  readonly name: string
  readonly input: Record<string, unknown>
}

/** What the fake model says, in no wire's words. */
interface Saying {
  readonly reasoning?: ReadonlyArray<string>
  readonly text?: ReadonlyArray<string>
  readonly toolCalls?: ReadonlyArray<Call>
  readonly cut?: boolean
}

/** One provider under test: how it is made to say something, and where its wire keeps what the tests look for. */
interface Provider {
  readonly model: string
  readonly say: (saying: Saying) => Script
  readonly error: (status: number, message?: string, headers?: Readonly<Record<string, string>>) => Script
  /** Index of the event in which the first word of a streamed text comes, plus one. */
  readonly lead: number
  readonly schemaSent: (body: unknown) => unknown
  /** The results of tools, as the upstream got them in the second turn. */
  readonly resultsSent: (body: unknown) => unknown
  readonly instructionsSent: (body: unknown) => unknown
  /** The picture of the first message, as the upstream got it. */
  readonly imageSent: (body: unknown) => unknown
  /** The thinking of the turn before, as the upstream got it back. */
  readonly thinkingSent: (body: unknown) => unknown
  readonly thinking: unknown
}

const at = (value: unknown, ...path: ReadonlyArray<string | number>): unknown => {
  let found = value
  for (const key of path) {
    if (typeof key === "number") found = Array.isArray(found) ? found.at(key) : undefined
    else found = isJson(found) ? found[key] : undefined
  }
  return found
}

const list = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []

const ofRole = (body: unknown, role: string): ReadonlyArray<unknown> =>
  list(at(body, "messages")).filter((message) => at(message, "role") === role)

const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

const providers = {
  openai: {
    model: "openai::model-1",
    say: ({ cut, reasoning, text, toolCalls }) =>
      openAi.answer({
        ...(reasoning === undefined ? {} : { reasoning }),
        ...(text === undefined ? {} : { text }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: JSON.stringify(input) })) }),
        ...(cut === true ? { finishReason: "length" } : {})
      }),
    error: (status, message, headers) => openAi.error(status, message === undefined ? {} : { message }, headers),
    lead: 2,
    schemaSent: (body) => at(body, "response_format", "json_schema", "schema"),
    resultsSent: (body) => ofRole(body, "tool").map((message) => at(message, "content")),
    instructionsSent: (body) =>
      list(at(body, "messages")).filter((message) => ["system", "developer"].includes(String(at(message, "role"))))
        .map((message) => at(message, "content")),
    imageSent: (body) => at(body, "messages", 0, "content", 1, "image_url", "url"),
    thinkingSent: (body) => at(ofRole(body, "assistant"), 0, "reasoning_content"),
    thinking: "Let me think."
  },
  anthropic: {
    // A model whose API takes a schema by itself.
    model: "anthropic::claude-sonnet-4-5",
    say: ({ cut, reasoning, text, toolCalls }) =>
      anthropic.answer({
        ...(reasoning === undefined ? {} : { thinking: reasoning, signature: "c2lnbmVk" }),
        ...(text === undefined ? {} : { text }),
        ...(toolCalls === undefined ? {} : { toolCalls }),
        ...(cut === true ? { stopReason: "max_tokens" } : {}),
        usage: { input_tokens: 5, cache_read_input_tokens: 4, output_tokens: 12 }
      }),
    error: (status, message, headers) => anthropic.error(status, message === undefined ? {} : { message }, headers),
    lead: 4,
    schemaSent: (body) => at(body, "output_config", "format", "schema"),
    resultsSent: (body) => list(at(body, "messages", -1, "content")).map((block) => at(block, "content", 0, "text")),
    instructionsSent: (body) => list(at(body, "system")).map((block) => at(block, "text")),
    imageSent: (body) => {
      const source = at(body, "messages", 0, "content", 1, "source")
      return `data:${String(at(source, "media_type"))};base64,${String(at(source, "data"))}`
    },
    thinkingSent: (body) => at(ofRole(body, "assistant"), 0, "content", 0),
    thinking: { type: "thinking", thinking: "Let me think.", signature: "c2lnbmVk" }
  },
  ollama: {
    model: "ollama::llama3.2:3b",
    say: ({ cut, reasoning, text, toolCalls }) =>
      ollama.answer({
        ...(reasoning === undefined ? {} : { thinking: reasoning }),
        ...(text === undefined ? {} : { text }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: input })) }),
        ...(cut === true ? { doneReason: "length" } : {}),
        usage: { prompt_eval_count: 9, eval_count: 12 }
      }),
    error: (status, message, headers) => ollama.error(status, message, headers),
    lead: 1,
    schemaSent: (body) => at(body, "format"),
    resultsSent: (body) => ofRole(body, "tool").map((message) => at(message, "content")),
    instructionsSent: (body) => ofRole(body, "system").map((message) => at(message, "content")),
    imageSent: (body) => `data:image/png;base64,${String(at(body, "messages", 0, "images", 0))}`,
    thinkingSent: (body) => at(ofRole(body, "assistant"), 0, "thinking"),
    thinking: "Let me think."
  }
} satisfies Record<string, Provider>

// ---------------------------------------------------------------------------------------------------------------------
// Setting
// ---------------------------------------------------------------------------------------------------------------------

const path = "/v1/responses"

let upstream: FakeUpstream
let gateway: RunningGateway
let client: OpenAI

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
  sandbox: { type: sandbox }
`)
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

/** The items of an answer as an agent's next request brings them back. */
const again = (response: Response): Array<InputItem> =>
  response.output.flatMap((item): ReadonlyArray<InputItem> =>
    item.type === "message" || item.type === "function_call" || item.type === "reasoning" ? [item] : []
  )

const weather: OpenAI.Responses.FunctionTool = {
  type: "function",
  name: "get_weather",
  description: "Tells the weather of a city",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false
  },
  strict: true
}

const words = ["One ", "two ", "three"]
const calls: ReadonlyArray<Call> = [
  { id: "call_a", name: "get_weather", input: { city: "Paris" } },
  { id: "call_b", name: "get_weather", input: { city: "Oslo" } }
]

/** Asks for an answer, whole or by the streaming helper. */
const ask = (
  stream: boolean,
  params: OpenAI.Responses.ResponseCreateParamsNonStreaming
): Promise<Response> =>
  stream ? client.responses.stream({ ...params, stream: true }).finalResponse() : client.responses.create(params)

const callsOf = (response: Response) =>
  response.output.flatMap((item) =>
    item.type === "function_call" ? [[item.call_id, item.name, parsed(item.arguments)]] : []
  )

const summaryOf = (response: Response): string =>
  response.output.flatMap((item) => item.type === "reasoning" ? item.summary.map(({ text }) => text) : []).join("")

// ---------------------------------------------------------------------------------------------------------------------
// What every provider has to do
// ---------------------------------------------------------------------------------------------------------------------

describe.each(Object.entries<Provider>(providers))("%s", (slug, provider) => {
  const { model } = provider

  describe.each([false, true])("streamed: %s", (stream) => {
    it("answers in text", async () => {
      upstream.reply(provider.say({ text: words }))
      const response = await ask(stream, { model, instructions: "Be brief.", input: "Count." })
      assert.strictEqual(response.object, "response")
      assert.match(response.id, /^resp_[\w-]+$/)
      assert.strictEqual(response.status, "completed")
      assert.isNull(response.incomplete_details)
      assert.isNull(response.error)
      assert.isAbove(response.created_at, 1_700_000_000)
      assert.strictEqual(response.model, model.slice(slug.length + 2))
      assert.strictEqual(response.output_text, "One two three")
      assert.lengthOf(response.output, 1)
      assert.match(response.output[0]?.id ?? "", /^msg_[\w-]+$/)
      assert.strictEqual(at(response, "store"), false)
      assert.strictEqual(response.instructions, "Be brief.")
      assert.deepInclude(response.usage, { input_tokens: 9, output_tokens: 12, total_tokens: 21 })
      assert.strictEqual(response.usage?.input_tokens_details.cached_tokens, slug === "anthropic" ? 4 : 0)
      assert.strictEqual(response.usage?.output_tokens_details.reasoning_tokens, 0)
      assert.deepStrictEqual(provider.instructionsSent(upstream.request(0).json), ["Be brief."])
      assert.lengthOf(upstream.requests, 1)
    })

    it("calls tools in parallel and takes their results in the next turn", async () => {
      upstream.reply(provider.say({ toolCalls: calls }), provider.say({ text: ["Fine."] }))
      const input: Array<InputItem> = [{ role: "user", content: "How is the weather in Paris and Oslo?" }]
      const params = { model, tools: [weather], parallel_tool_calls: true, tool_choice: "auto" as const }
      const first = await ask(stream, { ...params, input })
      assert.deepStrictEqual(callsOf(first), calls.map(({ id, input, name }) => [id, name, input]))
      for (const item of first.output) assert.match(item.id ?? "", /^fc_[\w-]+$/)
      assert.strictEqual(first.status, "completed")
      assert.lengthOf(list(at(upstream.request(0).json, "tools")), 1)
      input.push(
        ...again(first),
        { type: "function_call_output", call_id: "call_a", output: "sunny" },
        { type: "function_call_output", call_id: "call_b", output: [{ type: "input_text", text: "snow" }] }
      )
      const second = await ask(stream, { ...params, input })
      assert.strictEqual(second.output_text, "Fine.")
      assert.deepStrictEqual(provider.resultsSent(upstream.request(1).json), ["sunny", "snow"])
    })

    it("shows its thinking and gets it back whole in the next turn", async () => {
      upstream.reply(
        provider.say({ reasoning: ["Let me ", "think."], text: ["Hm."], toolCalls: calls.slice(0, 1) }),
        provider.say({ text: ["Fine."] })
      )
      const input: Array<InputItem> = [{ role: "user", content: "How is the weather in Paris?" }]
      const params = { model, tools: [weather], reasoning: { effort: "low" as const, summary: "auto" as const } }
      const first = await ask(stream, { ...params, input })
      assert.deepStrictEqual(first.output.map(({ type }) => type), ["reasoning", "message", "function_call"])
      assert.strictEqual(summaryOf(first), "Let me think.")
      const [item] = first.output
      assert.match(item?.id ?? "", /^rs_[\w-]+$/)
      assert.deepStrictEqual(first.reasoning, { effort: "low", summary: "auto" })
      // Clients cut summaries as they like; what the provider needs is not in them.
      const shortened = again(first)
      for (const item of shortened) if (item.type === "reasoning") item.summary = []
      input.push(...shortened, { type: "function_call_output", call_id: "call_a", output: "sunny" })
      assert.strictEqual((await ask(stream, { ...params, input })).output_text, "Fine.")
      assert.deepStrictEqual(provider.thinkingSent(upstream.request(1).json), provider.thinking)
    })

    it("says when its length cut it", async () => {
      upstream.reply(provider.say({ text: words, cut: true }))
      const response = await ask(stream, { model, input: "Count.", max_output_tokens: 3 })
      assert.strictEqual(response.status, "incomplete")
      assert.deepStrictEqual(response.incomplete_details, { reason: "max_output_tokens" })
      assert.strictEqual(response.output_text, "One two three")
      assert.strictEqual(at(response.output, 0, "status"), "incomplete")
    })

    it("looks at an image", async () => {
      upstream.reply(provider.say({ text: ["A dot."] }))
      const url = `data:image/png;base64,${png}`
      const response = await ask(stream, {
        model,
        input: [{
          role: "user",
          content: [
            { type: "input_text", text: "What is this?" },
            { type: "input_image", image_url: url, detail: "auto" }
          ]
        }]
      })
      assert.strictEqual(response.output_text, "A dot.")
      assert.strictEqual(provider.imageSent(upstream.request(0).json), url)
    })

    it("refuses an answer that does not fit its schema", async () => {
      upstream.reply(provider.say({ text: ["{\"city\":", "7}"] }))
      const format = zodTextFormat(z.object({ city: z.string() }), "place")
      const error = await failureOf(ask(stream, { model, input: "Where?", text: { format } }))
      assert.strictEqual(error.code, "validation_error")
    })
  })

  it("streams words as they come, in events of OpenAI's grammar", async () => {
    upstream.reply(provider.say({ reasoning: ["Let me ", "think."], text: words, toolCalls: calls }))
    const deltas: Array<string> = []
    const stream = client.responses.stream({ model, input: "Count.", tools: [weather], stream: true })
    stream.on("response.output_text.delta", ({ delta }) => deltas.push(delta))
    const response = await stream.finalResponse()
    assert.deepStrictEqual(deltas, words)
    assert.deepStrictEqual(callsOf(response), calls.map(({ id, input, name }) => [id, name, input]))
    assert.strictEqual(summaryOf(response), "Let me think.")
  })

  const Place = z.object({ city: z.string(), population: z.number() })
  const format = zodTextFormat(Place, "place")

  it("answers what the SDK parses by a schema, whole and streamed", async () => {
    const place = provider.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] })
    upstream.reply(place, place)
    const params = { model, input: "Where?", text: { format } }
    const whole = await client.responses.parse(params)
    assert.deepStrictEqual(whole.output_parsed, { city: "Paris", population: 2_100_000 })
    assert.deepStrictEqual(provider.schemaSent(upstream.request(0).json), format.schema)
    const streamed = await client.responses.stream({ ...params, stream: true }).finalResponse()
    assert.deepStrictEqual(streamed.output_parsed, { city: "Paris", population: 2_100_000 })
  })

  it("leaves the upstream within 100 ms of the caller's leave, before the answer", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.hang))
    const controller = new AbortController()
    const answer = client.responses.create({ model, input: "Count." }, { signal: controller.signal }).then(
      () => undefined,
      (error: unknown) => error
    )
    await upstream.waitForRequest(0)
    const left = performance.now()
    controller.abort()
    assert.instanceOf(await answer, APIUserAbortError)
    const closed = await upstream.waitForClose(0)
    assert.isTrue(closed.aborted)
    assert.isBelow((closed.closedAt ?? Infinity) - left, 100)
  })

  it("leaves the upstream within 100 ms of the caller's leave, within a stream", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.stall(provider.lead)))
    const stream = await client.responses.create({ model, input: "Count.", stream: true })
    for await (const event of stream) if (event.type === "response.output_text.delta") break
    const left = performance.now()
    const closed = await upstream.waitForClose(0)
    assert.isTrue(closed.aborted)
    assert.isBelow((closed.closedAt ?? Infinity) - left, 100)
  })

  it.each(["cut", "end", "malformed", "errorAfter"] as const)(
    "throws in the middle of a stream that fails: %s",
    async (how) => {
      upstream.reply(withFault(provider.say({ text: words }), fault[how](provider.lead)))
      const stream = await client.responses.create({ model, input: "Count.", stream: true })
      const types: Array<string> = []
      let text = ""
      const error = await failureOf((async () => {
        for await (const event of stream) {
          types.push(event.type)
          if (event.type === "response.output_text.delta") text += event.delta
        }
      })())
      assert.strictEqual(text, "One ")
      assert.strictEqual(error.code, "provider_error")
      assert.strictEqual(error.type, "server_error")
      assert.strictEqual(types.at(-1), "response.failed")
      assert.notInclude(types, "response.completed")
    }
  )

  describe("errors before the answer", () => {
    it.each([false, true])("are the SDK's own classes (stream: %s)", async (stream) => {
      const cases = [
        [400, BadRequestError, 400, undefined],
        [429, RateLimitError, 429, "provider_error"],
        [401, InternalServerError, 502, "provider_error"],
        [503, InternalServerError, 503, "provider_error"]
      ] as const
      for (const [status, type, seen, code] of cases) {
        upstream.reply(provider.error(status, "it is odd: upstream-key", status === 429 ? { "retry-after": "7" } : {}))
        const error = await failureOf(ask(stream, { model, input: "Hi" }))
        assert.instanceOf(error, type)
        assert.strictEqual(error.status, seen)
        if (code !== undefined) assert.strictEqual(error.code, code)
        assert.match(error.requestID ?? "", /^req_/)
        assert.strictEqual(error.headers?.get("x-should-retry"), "false")
        if (status === 429) assert.strictEqual(error.headers?.get("retry-after"), "7")
        if (status === 401) assert.notInclude(error.message, "upstream-key")
      }
    })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// The sandbox
// ---------------------------------------------------------------------------------------------------------------------

describe("sandbox", () => {
  const model = "sandbox::echo"
  it.each([false, true])("thinks, calls and answers (stream: %s)", async (stream) => {
    const response = await ask(stream, {
      model,
      input: "[[reason Let me think.]] [[tool get_weather {\"city\":\"Paris\"}]] One two",
      tools: [weather]
    })
    assert.strictEqual(summaryOf(response), "Let me think.")
    assert.deepStrictEqual(callsOf(response).map(([, ...call]) => call), [["get_weather", { city: "Paris" }]])
  })
  it("fails in the middle of a stream", async () => {
    const stream = await client.responses.create({ model, input: "[[cut 1]] One two three", stream: true })
    const error = await failureOf((async () => {
      for await (const event of stream) assert.notStrictEqual(event.type, "response.completed")
    })())
    assert.strictEqual(error.code, "provider_error")
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Events on the wire
// ---------------------------------------------------------------------------------------------------------------------

/** The types of some events, without the repeats of one type. */
const typesOf = (events: ReadonlyArray<ReadEvent>): ReadonlyArray<string> =>
  events.map(({ type }) => type).filter((type, index, all) => type !== all[index - 1])

describe("a stream's events", () => {
  const streamed = async (script: Script, body: Json = {}): Promise<ReadonlyArray<ReadEvent>> => {
    upstream.reply(script)
    const response = await gateway.post(path, { model: "openai::model-1", input: "Hi", stream: true, ...body })
    assert.strictEqual(response.status, 200)
    assert.strictEqual(response.headers.get("content-type"), "text/event-stream")
    return eventsOf(await response.text())
  }

  it("are OpenAI's, in its order", async () => {
    const events = await streamed(openAi.answer({ reasoning: ["a"], text: ["b ", "c"], toolCalls: [{ name: "f" }] }))
    assert.deepStrictEqual(typesOf(events), [
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.reasoning_summary_part.added",
      "response.reasoning_summary_text.delta",
      "response.reasoning_summary_text.done",
      "response.reasoning_summary_part.done",
      "response.output_item.done",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.output_item.added",
      "response.function_call_arguments.delta",
      "response.function_call_arguments.done",
      "response.output_item.done",
      "response.completed"
    ])
  })

  it("tell a refusal", async () => {
    const events = await streamed(openAi.answer({ refusal: ["I ", "will not."] }))
    assert.deepStrictEqual(typesOf(events).slice(3, -2), [
      "response.content_part.added",
      "response.refusal.delta",
      "response.refusal.done",
      "response.content_part.done"
    ])
    assert.deepStrictEqual(at(events.at(-1)?.json, "response", "output", 0, "content"), [
      { type: "refusal", refusal: "I will not." }
    ])
  })

  it("end in `incomplete` where the provider's filter took the rest", async () => {
    const events = await streamed(openAi.answer({ text: ["a"], finishReason: "content_filter" }))
    assert.strictEqual(events.at(-1)?.type, "response.incomplete")
    assert.deepStrictEqual(at(events.at(-1)?.json, "response", "incomplete_details"), { reason: "content_filter" })
  })

  it("end in a failure with what had come, and then the error, where the upstream fails", async () => {
    const events = await streamed(withFault(openAi.answer({ text: words }), fault.errorAfter(2)))
    const [failed, error] = events.slice(-2)
    assert.deepStrictEqual([failed?.type, error?.type], ["response.failed", "error"])
    assert.deepInclude(at(failed?.json, "response"), { status: "failed" })
    assert.strictEqual(at(failed?.json, "response", "error", "code"), "server_error")
    assert.strictEqual(error?.json["code"], "provider_error")
    assert.deepInclude(error?.json["error"], { type: "server_error", code: "provider_error", param: null })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// What is said of the request
// ---------------------------------------------------------------------------------------------------------------------

describe("a request", () => {
  const post = async (body: Json, script: Script = openAi.answer({ text: "ok" })) => {
    upstream.reply(script)
    const response = await gateway.post(path, { model: "openai::model-1", input: "Hi", ...body })
    const answer = parsed(await response.text())
    return { status: response.status, headers: response.headers, answer }
  }

  it("reaches an OpenAI-compatible provider with every field that chat has, too", async () => {
    const { answer, headers, status } = await post({
      max_output_tokens: 50,
      temperature: 0.5,
      top_p: 0.9,
      top_logprobs: 2,
      include: ["reasoning.encrypted_content", "message.output_text.logprobs"],
      reasoning: { effort: "low", summary: "auto" },
      text: { format: { type: "json_object" }, verbosity: "low" },
      metadata: { a: "b" },
      safety_identifier: "s",
      prompt_cache_key: "k",
      service_tier: "flex",
      store: false,
      background: false,
      truncation: "disabled",
      previous_response_id: null,
      tools: [weather],
      tool_choice: { type: "allowed_tools", mode: "required", tools: [{ type: "function", name: "get_weather" }] },
      parallel_tool_calls: false
    }, openAi.answer({ text: "{}" }))
    assert.strictEqual(status, 200, JSON.stringify(answer))
    assert.isNull(headers.get("x-gateway-dropped-params"))
    const { name, parameters, description, strict } = weather
    assert.deepStrictEqual(upstream.request(0).json, {
      model: "model-1",
      messages: [{ role: "user", content: "Hi" }],
      max_completion_tokens: 50,
      temperature: 0.5,
      top_p: 0.9,
      logprobs: true,
      top_logprobs: 2,
      reasoning_effort: "low",
      response_format: { type: "json_object" },
      verbosity: "low",
      metadata: { a: "b" },
      safety_identifier: "s",
      prompt_cache_key: "k",
      service_tier: "flex",
      tools: [{ type: "function", function: { name, parameters, description, strict } }],
      tool_choice: {
        type: "allowed_tools",
        allowed_tools: { mode: "required", tools: [{ type: "function", function: { name: "get_weather" } }] }
      },
      parallel_tool_calls: false
    })
    assert.deepInclude(answer, {
      max_output_tokens: 50,
      temperature: 0.5,
      top_p: 0.9,
      top_logprobs: 2,
      metadata: { a: "b" },
      safety_identifier: "s",
      prompt_cache_key: "k",
      service_tier: "flex",
      store: false,
      background: false,
      previous_response_id: null,
      truncation: "disabled",
      parallel_tool_calls: false,
      tools: [weather],
      tool_choice: { type: "allowed_tools", mode: "required", tools: [{ type: "function", name: "get_weather" }] },
      text: { format: { type: "json_object" }, verbosity: "low" }
    })
  })

  it("names what no provider gets of it", async () => {
    const { headers } = await post({
      truncation: "auto",
      moderation: { model: "m" },
      reasoning: { summary: "detailed" },
      include: ["something.new"],
      input: [{ role: "assistant", content: "a", phase: "commentary" }, { role: "user", content: "b" }]
    })
    assert.deepStrictEqual(headers.get("x-gateway-dropped-params")?.split(", ").toSorted(), [
      "include",
      "messages[].phase",
      "moderation",
      "reasoning.summary",
      "truncation"
    ])
  })

  it("names OpenAI's own fields where the provider is another one", async () => {
    const { headers, status } = await post(
      { model: "anthropic::claude-sonnet-4-5", prompt_cache_key: "k", text: { verbosity: "low" } },
      anthropic.answer({ text: "ok" })
    )
    assert.strictEqual(status, 200)
    assert.deepStrictEqual(headers.get("x-gateway-dropped-params")?.split(", ").toSorted(), [
      "prompt_cache_key",
      "verbosity"
    ])
  })

  it("may say of tools what it has none of", async () => {
    await post({ tools: [], tool_choice: "auto", parallel_tool_calls: true })
    assert.deepStrictEqual(Object.keys(upstream.request(0).json).toSorted(), ["messages", "model"])
  })

  it("keeps the order of a conversation's items", async () => {
    await post({
      instructions: "Be brief.",
      input: [
        { role: "developer", content: "Be kind." },
        { role: "user", content: [{ type: "input_text", text: "a" }] },
        {
          type: "message",
          role: "assistant",
          id: "msg_1",
          status: "completed",
          content: [{ type: "output_text", text: "b", annotations: [] }]
        },
        { type: "function_call", id: "fc_1", call_id: "call_1", name: "f", arguments: "{}", status: "completed" },
        { type: "function_call_output", call_id: "call_1", output: "c" },
        { type: "function_call", call_id: "call_2", name: "f", arguments: "{}" },
        { type: "function_call_output", call_id: "call_2", output: "d" },
        { role: "assistant", content: [{ type: "refusal", refusal: "No." }] },
        { role: "user", content: "e" }
      ]
    })
    const call = (id: string) => [{ id, type: "function", function: { name: "f", arguments: "{}" } }]
    assert.deepStrictEqual(upstream.request(0).json["messages"], [
      { role: "system", content: "Be brief." },
      { role: "developer", content: "Be kind." },
      { role: "user", content: "a" },
      { role: "assistant", content: "b", tool_calls: call("call_1") },
      { role: "tool", tool_call_id: "call_1", content: "c" },
      { role: "assistant", content: null, tool_calls: call("call_2") },
      { role: "tool", tool_call_id: "call_2", content: "d" },
      { role: "assistant", content: null, refusal: "No." },
      { role: "user", content: "e" }
    ])
  })

  it("shows an image in a tool's result to the model", async () => {
    const url = `data:image/png;base64,${png}`
    await post({
      input: [
        { role: "user", content: "Look." },
        { type: "function_call", call_id: "call_1", name: "f", arguments: "{}" },
        { type: "function_call_output", call_id: "call_1", output: [{ type: "input_image", image_url: url }] }
      ]
    })
    assert.deepStrictEqual(at(upstream.request(0).json, "messages", -1, "content", 1), {
      type: "image_url",
      image_url: { url }
    })
  })

  it("sends a file to providers that take one", async () => {
    const data = "data:application/pdf;base64,JVBERi0xLjQKJSVFT0YK"
    const input = [{ role: "user", content: [{ type: "input_file", filename: "a.pdf", file_data: data }] }]
    await post({ input })
    assert.deepStrictEqual(at(upstream.request(0).json, "messages", 0, "content", 0), {
      type: "file",
      file: { filename: "a.pdf", file_data: data }
    })
    await post({ input, model: "anthropic::claude-sonnet-4-5" }, anthropic.answer({ text: "ok" }))
    assert.deepInclude(at(upstream.request(1).json, "messages", 0, "content", 0), { type: "document" })
  })

  it("marks what Anthropic shall keep in its prompt cache", async () => {
    const cached = { cache_control: { type: "ephemeral", ttl: "1h" } }
    await post({
      model: "anthropic::claude-sonnet-4-5",
      tools: [{ ...weather, ...cached }],
      input: [{ role: "user", content: [{ type: "input_text", text: "Hi", ...cached }] }]
    }, anthropic.answer({ text: "ok" }))
    const sent = upstream.request(0).json
    assert.deepInclude(at(sent, "tools", 0), cached)
    assert.deepInclude(at(sent, "messages", 0, "content", 0), cached)
  })

  describe("brings a compatible server's own form of thinking back as it came", () => {
    const summary = { type: "reasoning.summary", summary: "I think.", format: "openai-responses-v1", index: 0 }
    const sealed = { type: "reasoning.encrypted", data: "b3BhcXVl", format: "openai-responses-v1", index: 1, id: "r" }
    const signed = {
      type: "reasoning.text",
      text: "Let me think.",
      signature: "c2ln",
      format: "anthropic-claude-v1",
      index: 0
    }
    const base = { id: "gen-1", object: "chat.completion", created: 1, model: "m" }

    const bringBack = async (stream: boolean, script: Script): Promise<unknown> => {
      upstream.reply(script)
      const first = await ask(stream, { model: "openai::m", input: "Hi" })
      await post({ input: [{ role: "user", content: "Hi" }, ...again(first), { role: "user", content: "And?" }] })
      return at(upstream.request(1).json, "messages", 1, "reasoning_details")
    }

    it.each([[[sealed]], [[summary, sealed]], [[signed]]])("whole: %j", async (details) => {
      const message = { role: "assistant", content: "a", reasoning_details: details }
      const script = json({ ...base, choices: [{ index: 0, finish_reason: "stop", message }] })
      assert.deepStrictEqual(await bringBack(false, script), details)
    })

    const { signature: _signature, ...unsigned } = signed
    it.each([
      ["an encrypted detail", [[sealed]], [sealed]],
      [
        "a summary in pieces, and an encrypted detail",
        [[{ ...summary, summary: "I " }], [{ ...summary, summary: "think." }], [sealed]],
        [summary, sealed]
      ],
      [
        "a text in pieces, signed in the end",
        [[{ ...unsigned, text: "Let me " }], [{ ...unsigned, text: "think." }], [{ ...signed, text: "" }]],
        [signed]
      ]
    ])("streamed: %s", async (_, pieces, whole) => {
      const chunk = (delta: Json, finish: string | null = null) =>
        sseEvent({ ...base, choices: [{ index: 0, delta, finish_reason: finish }] })
      const script = stream("sse", [
        ...pieces.map((details) => chunk({ role: "assistant", content: "", reasoning_details: details })),
        chunk({ content: "a" }),
        chunk({}, "stop"),
        sseEvent("[DONE]")
      ])
      assert.deepStrictEqual(await bringBack(true, script), whole)
    })
  })

  const item = (item: Json) => ({ input: [{ role: "user", content: "Hi" }, item] })
  it.each([
    ["previous_response_id", { previous_response_id: "resp_1", input: "a" }, /whole conversation/],
    ["conversation", { conversation: "conv_1" }, /whole conversation in input/],
    ["store", { store: true, input: "a" }, /leave store out/],
    ["stream", { background: true, stream: true, input: "a" }, /leave stream out/],
    ["prompt", { prompt: { id: "pmpt_1" } }, /instructions and input/],
    ["input", {}, /text or a non-empty array/],
    ["input", { input: [] }, /non-empty array/],
    ["tools[0]", { input: "a", tools: [{ type: "web_search" }] }, /"web_search"/],
    ["tools[0]", { input: "a", tools: [{ type: "file_search" }] }, /"file_search"/],
    ["tools[0]", { input: "a", tools: [{ type: "code_interpreter" }] }, /"code_interpreter"/],
    ["tools[0]", { input: "a", tools: [{ type: "computer_use_preview" }] }, /"computer_use_preview"/],
    ["tools[0]", { input: "a", tools: [{ type: "mcp" }] }, /"mcp"/],
    ["tools[0]", { input: "a", tools: [{ type: "image_generation" }] }, /"image_generation"/],
    ["tools[1]", { input: "a", tools: [weather, { type: "custom", name: "c" }] }, /"custom"/],
    ["tool_choice", { input: "a", tools: [weather], tool_choice: { type: "web_search" } }, /Responses API/],
    ["text.format.type", { input: "a", text: { format: { type: "grammar" } } }, /json_schema/],
    ["input[1].type", item({ type: "item_reference", id: "msg_1" }), /store: false/],
    ["messages[1].content[0]", item({ type: "web_search_call", id: "ws_1" }), /"web_search_call"/],
    ["input[1].call_id", item({ type: "function_call_output", call_id: "no", output: "x" }), /precedes/],
    ["input[1].content[0].type", item({ role: "user", content: [{ type: "text", text: "a" }] }), /input_text/],
    [
      "input[1].content[0].image_url",
      item({
        role: "user",
        content: [{ type: "input_image", image_url: "data:image/png;base64,***" }]
      }),
      /base64/
    ],
    [
      "input[1].encrypted_content",
      item({ type: "reasoning", id: "rs_1", summary: [], encrypted_content: "llmgw1.0123456789ab.e30" }),
      /changed or cut/
    ],
    ["max_output_tokens", { input: "a", max_output_tokens: 0 }, /at least 1/],
    ["temperature", { input: "a", temperature: 3 }, /between 0 and 2/]
  ])("is refused for %s: %j", async (field, body: Json, message) => {
    const response = await gateway.post(path, { model: "openai::model-1", ...body })
    const answer = parsed(await response.text())
    assert.strictEqual(response.status, 400)
    assert.deepInclude(at(answer, "error"), { type: "invalid_request_error", code: "validation_error", param: field })
    assert.match(String(at(answer, "error", "message")), message)
    assert.lengthOf(upstream.requests, 0, "nothing is sent")
  })

  it("is refused where thinking was changed or cut on its way", async () => {
    upstream.reply(anthropic.answer({ thinking: "Hm.", text: "ok" }))
    const first = await client.responses.create({ model: "anthropic::claude-sonnet-4-5", input: "Hi" })
    const sealed = String(at(first.output, 0, "encrypted_content"))
    const middle = Math.floor(sealed.length / 2)
    const other = sealed[middle] === "A" ? "B" : "A"
    for (const changed of [sealed.slice(0, -4), sealed.slice(0, middle) + other + sealed.slice(middle + 1)]) {
      const error = await failureOf(client.responses.create({
        model: "anthropic::claude-sonnet-4-5",
        input: [
          { role: "user", content: "Hi" },
          { type: "reasoning", id: "rs_1", summary: [], encrypted_content: changed }
        ]
      }))
      assert.instanceOf(error, BadRequestError)
      assert.strictEqual(error.param, "input[1].encrypted_content")
      assert.include(error.message, "changed or cut")
    }
    assert.lengthOf(upstream.requests, 1)
  })

  it("gives one provider's thinking to no other, and says so", async () => {
    upstream.reply(anthropic.answer({ thinking: "Hm.", signature: "c2ln", text: "ok" }))
    const first = await client.responses.create({ model: "anthropic::claude-sonnet-4-5", input: "Hi" })
    const { headers } = await post({
      input: [{ role: "user", content: "Hi" }, ...again(first), { role: "user", content: "And?" }]
    })
    assert.notInclude(JSON.stringify(upstream.request(1).json), "c2ln")
    assert.include(headers.get("x-gateway-dropped-params") ?? "", "messages[].content[].reasoning")
  })
})

describe("log probabilities", () => {
  it("come with the text, whole and streamed", async () => {
    const token = { token: "ok", logprob: -0.1, bytes: [111, 107], top_logprobs: [] }
    const base = { id: "c", object: "chat.completion", created: 1, model: "m" }
    const logprobs = { content: [token], refusal: null }
    upstream.reply(json({
      ...base,
      choices: [{ index: 0, message: { role: "assistant", content: "ok" }, logprobs, finish_reason: "stop" }]
    }))
    const params = { model: "openai::m", input: "Hi", include: ["message.output_text.logprobs" as const] }
    const whole = await client.responses.create(params)
    assert.deepStrictEqual(at(whole.output, 0, "content", 0, "logprobs"), [token])
    const events = [
      { ...base, choices: [{ index: 0, delta: { role: "assistant", content: "ok" }, logprobs, finish_reason: null }] },
      { ...base, choices: [{ index: 0, delta: {}, finish_reason: "stop" }] }
    ]
    upstream.reply(stream("sse", [...events.map((event) => sseEvent(event)), sseEvent("[DONE]")]))
    const streamed = await client.responses.stream({ ...params, stream: true }).finalResponse()
    assert.deepStrictEqual(at(streamed.output, 0, "content", 0, "logprobs"), [token])
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// What is not kept
// ---------------------------------------------------------------------------------------------------------------------

describe("a response that somebody looks up", () => {
  it("is not there, whatever is asked of it", async () => {
    for (
      const attempt of [
        () => client.responses.retrieve("resp_1"),
        () => client.responses.delete("resp_1"),
        () => client.responses.cancel("resp_1"),
        () => client.responses.inputItems.list("resp_1")
      ]
    ) {
      const error = await failureOf(attempt())
      assert.instanceOf(error, NotFoundError)
      assert.strictEqual(error.type, "invalid_request_error")
      assert.include(error.message, "keeps no responses")
    }
  })
  it("is not listed, and takes no other method", async () => {
    const response = await fetch(`${gateway.url}${path}`)
    assert.strictEqual(response.status, 405)
    assert.strictEqual(response.headers.get("allow"), "POST")
  })
})
