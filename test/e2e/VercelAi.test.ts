/**
 * Vercel's AI SDK with its OpenAI-compatible provider against the running gateway. It reads streams by itself and more
 * strictly than OpenAI's SDK, knows `reasoning_content`, and runs tools in a loop, so it stands for many frameworks.
 */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import {
  APICallError,
  generateObject,
  generateText,
  jsonSchema,
  Output,
  RetryError,
  stepCountIs,
  streamObject,
  streamText,
  type TextStreamPart,
  tool,
  type ToolSet
} from "ai"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Script } from "../fixtures/Script.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Providers
// ---------------------------------------------------------------------------------------------------------------------

interface Saying {
  readonly text?: ReadonlyArray<string>
  readonly reasoning?: ReadonlyArray<string>
  readonly toolCalls?: ReadonlyArray<
    { readonly id: string; readonly name: string; readonly input: Record<string, unknown> }
  >
}

interface Provider {
  readonly model: string
  /** Nine tokens in, twelve out. */
  readonly say: (saying: Saying) => Script
  readonly error: (status: number, message: string) => Script
  /** Events until the first word of a streamed text has come. */
  readonly lead: number
}

const providers: Record<string, Provider> = {
  openai: {
    model: "openai::model-1",
    say: ({ reasoning, text, toolCalls }) =>
      openAi.answer({
        ...(text === undefined ? {} : { text }),
        ...(reasoning === undefined ? {} : { reasoning }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: JSON.stringify(input) })) })
      }),
    error: (status, message) => openAi.error(status, { message }),
    lead: 2
  },
  anthropic: {
    model: "anthropic::claude-sonnet-4-5",
    say: ({ reasoning, text, toolCalls }) =>
      anthropic.answer({
        ...(text === undefined ? {} : { text }),
        ...(reasoning === undefined ? {} : { thinking: reasoning, signature: "c2lnbmVk" }),
        ...(toolCalls === undefined ? {} : { toolCalls }),
        usage: { input_tokens: 9, output_tokens: 12 }
      }),
    error: (status, message) => anthropic.error(status, { message }),
    lead: 4
  },
  ollama: {
    model: "ollama::llama3.2:3b",
    say: ({ reasoning, text, toolCalls }) =>
      ollama.answer({
        ...(text === undefined ? {} : { text }),
        ...(reasoning === undefined ? {} : { thinking: reasoning }),
        ...(toolCalls === undefined
          ? {}
          : { toolCalls: toolCalls.map(({ id, input, name }) => ({ id, name, arguments: input })) }),
        usage: { prompt_eval_count: 9, eval_count: 12 }
      }),
    error: (status, message) => ollama.error(status, message),
    lead: 1
  }
}

let upstream: FakeUpstream
let gateway: RunningGateway
let models: ReturnType<typeof createOpenAICompatible>

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
`)
  models = createOpenAICompatible({
    name: "gateway",
    baseURL: `${gateway.url}/v1`,
    apiKey: "any",
    includeUsage: true,
    supportsStructuredOutputs: true
  })
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

// ---------------------------------------------------------------------------------------------------------------------
// Reading
// ---------------------------------------------------------------------------------------------------------------------

const allOf = async <A>(items: AsyncIterable<A>): Promise<ReadonlyArray<A>> => {
  const all: Array<A> = []
  for await (const item of items) all.push(item)
  return all
}

/** The parts of a stream by their types, each run of one type once. */
const outline = (parts: ReadonlyArray<{ readonly type: string }>): ReadonlyArray<string> =>
  parts.map((part) => part.type).filter((type, index, types) => type !== types[index - 1])

const textOf = (parts: ReadonlyArray<TextStreamPart<ToolSet>>, type: "text-delta" | "reasoning-delta"): string =>
  parts.map((part) => part.type === type ? part.text : "").join("")

const callError = (error: unknown): APICallError =>
  APICallError.isInstance(error) ? error : assert.fail(`expected an APICallError, got ${String(error)}`)

const usage = { inputTokens: 9, outputTokens: 12, totalTokens: 21 }

const messagesSent = (index: number): ReadonlyArray<unknown> => {
  const messages = upstream.request(index).json["messages"]
  return Array.isArray(messages) ? messages : []
}

const placeSchema = {
  type: "object" as const,
  properties: { city: { type: "string" as const }, population: { type: "number" as const } },
  required: ["city", "population"],
  additionalProperties: false
}
const Place = jsonSchema<{ city: string; population: number }>(placeSchema)

// ---------------------------------------------------------------------------------------------------------------------
// Tests
// ---------------------------------------------------------------------------------------------------------------------

describe.each(Object.entries(providers))("%s", (slug, provider) => {
  const words = ["One ", "two ", "three"]
  const model = () => models(provider.model)
  const options = () => ({ model: model(), maxRetries: 0 })

  it("generateText gives text, finish and usage", async () => {
    upstream.reply(provider.say({ text: words }))
    const answer = await generateText({ ...options(), system: "Be brief.", prompt: "Count." })
    assert.strictEqual(answer.text, "One two three")
    assert.strictEqual(answer.finishReason, "stop")
    assert.deepInclude(answer.usage, usage)
    assert.strictEqual(answer.response.modelId, provider.model.slice(slug.length + 2))
    assert.deepStrictEqual(answer.warnings, [])
  })

  it("streamText gives its parts in order, and the usage at the end", async () => {
    upstream.reply(provider.say({ text: words }))
    const parts = await allOf(streamText({ ...options(), prompt: "Count." }).fullStream)
    assert.deepStrictEqual(outline(parts), [
      "start",
      "start-step",
      "text-start",
      "text-delta",
      "text-end",
      "finish-step",
      "finish"
    ])
    assert.deepStrictEqual(parts.flatMap((part) => part.type === "text-delta" ? [part.text] : []), words)
    const last = parts.at(-1)
    assert.strictEqual(last?.type === "finish" ? last.finishReason : undefined, "stop")
    assert.deepInclude(last?.type === "finish" ? last.totalUsage : {}, usage)
  })

  it("reasoning comes as reasoning, whole and streamed", async () => {
    const saying = { reasoning: ["Let me ", "think."], text: words }
    upstream.reply(provider.say(saying), provider.say(saying))
    const answer = await generateText({ ...options(), prompt: "Count." })
    assert.strictEqual(answer.reasoningText, "Let me think.")
    assert.strictEqual(answer.text, "One two three")
    const parts = await allOf(streamText({ ...options(), prompt: "Count." }).fullStream)
    assert.deepStrictEqual(outline(parts).slice(2, -2), [
      "reasoning-start",
      "reasoning-delta",
      "reasoning-end",
      "text-start",
      "text-delta",
      "text-end"
    ])
    assert.strictEqual(textOf(parts, "reasoning-delta"), "Let me think.")
    assert.strictEqual(textOf(parts, "text-delta"), "One two three")
  })

  const runsTools = async (run: (tools: ToolSet) => Promise<string>) => {
    upstream.reply(
      provider.say({
        toolCalls: [
          { id: "call_a", name: "get_weather", input: { city: "Paris" } },
          { id: "call_b", name: "get_weather", input: { city: "Oslo" } }
        ]
      }),
      provider.say({ text: ["It is ", "sunny."] })
    )
    const asked: Array<string> = []
    const text = await run({
      get_weather: tool({
        description: "Tells the weather of a city",
        inputSchema: jsonSchema<{ city: string }>({
          type: "object",
          properties: { city: { type: "string" } },
          required: ["city"]
        }),
        execute: ({ city }) => {
          asked.push(city)
          return `sunny in ${city}`
        }
      })
    })
    assert.strictEqual(text, "It is sunny.")
    assert.deepStrictEqual(asked, ["Paris", "Oslo"])
    assert.lengthOf(upstream.requests, 2)
    const sent = JSON.stringify(messagesSent(1))
    assert.include(sent, "sunny in Paris")
    assert.include(sent, "sunny in Oslo")
  }

  it("generateText runs tools in parallel and sends their results back", () =>
    runsTools(async (tools) => {
      const answer = await generateText({ ...options(), prompt: "Weather?", tools, stopWhen: stepCountIs(3) })
      assert.deepStrictEqual(answer.steps.map((step) => step.finishReason), ["tool-calls", "stop"])
      assert.deepInclude(answer.totalUsage, { inputTokens: 18, outputTokens: 24 })
      return answer.text
    }))

  it("streamText runs tools in parallel and sends their results back", () =>
    runsTools(async (tools) => {
      const answer = streamText({ ...options(), prompt: "Weather?", tools, stopWhen: stepCountIs(3) })
      const parts = await allOf(answer.fullStream)
      assert.deepStrictEqual(
        parts.flatMap((part) => part.type === "tool-call" ? [[part.toolCallId, part.toolName, part.input]] : []),
        [["call_a", "get_weather", { city: "Paris" }], ["call_b", "get_weather", { city: "Oslo" }]]
      )
      return answer.text
    }))

  it("runs a tool that takes no arguments", async () => {
    upstream.reply(
      provider.say({ toolCalls: [{ id: "call_a", name: "now", input: {} }] }),
      provider.say({ text: ["Noon."] })
    )
    const inputs: Array<unknown> = []
    const answer = streamText({
      ...options(),
      prompt: "What time is it?",
      stopWhen: stepCountIs(3),
      tools: {
        now: tool({
          description: "Tells the time",
          inputSchema: jsonSchema<Record<string, never>>({ type: "object", properties: {} }),
          execute: (input) => {
            inputs.push(input)
            return "12:00"
          }
        })
      }
    })
    assert.strictEqual(await answer.text, "Noon.")
    assert.deepStrictEqual(inputs, [{}])
  })

  it("goes on after a turn with reasoning and tools", async () => {
    upstream.reply(
      provider.say({ reasoning: ["I need ", "the time."], toolCalls: [{ id: "call_a", name: "now", input: {} }] }),
      provider.say({ text: ["Noon."] })
    )
    const answer = await generateText({
      ...options(),
      prompt: "What time is it?",
      stopWhen: stepCountIs(3),
      tools: {
        now: tool({
          description: "Tells the time",
          inputSchema: jsonSchema<Record<string, never>>({ type: "object", properties: {} }),
          execute: () => "12:00"
        })
      }
    })
    assert.strictEqual(answer.text, "Noon.")
    const [, turn] = messagesSent(1)
    // The SDK brings back the text of the reasoning without its signature, which Anthropic would refuse.
    if (slug === "anthropic") assert.notInclude(JSON.stringify(turn), "the time.")
    else assert.include(JSON.stringify(turn), "I need the time.")
  })

  it("generateObject gives an object that fits its schema", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] }))
    const answer = await generateObject({ ...options(), prompt: "Where?", schema: Place })
    assert.deepStrictEqual(answer.object, { city: "Paris", population: 2_100_000 })
    assert.include(JSON.stringify(upstream.request(0).json), JSON.stringify(placeSchema))
  })

  it("Output.object gives an object that fits its schema", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] }))
    const answer = await generateText({ ...options(), prompt: "Where?", output: Output.object({ schema: Place }) })
    assert.deepStrictEqual(answer.output, { city: "Paris", population: 2_100_000 })
  })

  it("streamObject gives the object as it grows", async () => {
    upstream.reply(provider.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] }))
    const answer = streamObject({ ...options(), prompt: "Where?", schema: Place })
    const partial = await allOf(answer.partialObjectStream)
    assert.deepStrictEqual(partial[0], { city: "Paris" })
    assert.deepStrictEqual(await answer.object, { city: "Paris", population: 2_100_000 })
  })

  describe.each(["cut", "end", "errorAfter"] as const)("a stream that breaks off (%s)", (how) => {
    it("tells an error and never a good finish", async () => {
      upstream.reply(withFault(provider.say({ text: words }), fault[how](provider.lead)))
      const errors: Array<unknown> = []
      const parts = await allOf(
        streamText({ ...options(), prompt: "Count.", onError: ({ error }) => void errors.push(error) }).fullStream
      )
      assert.strictEqual(textOf(parts, "text-delta"), "One ")
      assert.lengthOf(errors, 1)
      assert.include(JSON.stringify(parts.find((part) => part.type === "error")), "provider_error")
      const finishes = parts.flatMap((part) => part.type === "finish" ? [part.finishReason] : [])
      // The SDK closes every stream with a finish of its own making.
      assert.deepStrictEqual(finishes, ["error"])
    })
  })

  it("an error before the stream is an APICallError", async () => {
    upstream.reply(provider.error(400, "the request is odd"))
    const errors: Array<unknown> = []
    await allOf(
      streamText({ ...options(), prompt: "Count.", onError: ({ error }) => void errors.push(error) }).fullStream
    )
    const error = callError(errors[0])
    assert.strictEqual(error.statusCode, 400)
    assert.include(error.message, "the request is odd")
    assert.isFalse(error.isRetryable)
  })

  it("an overloaded provider is worth a retry to the SDK", async () => {
    upstream.reply(provider.error(503, "overloaded"))
    const error: unknown = await generateText({ ...options(), prompt: "Count." }).catch((error: unknown) => error)
    const cause = callError(RetryError.isInstance(error) ? error.lastError : error)
    assert.strictEqual(cause.statusCode, 503)
    assert.isTrue(cause.isRetryable)
  })

  it("aborting leaves the upstream", async () => {
    upstream.reply(withFault(provider.say({ text: words }), fault.stall(provider.lead)))
    const controller = new AbortController()
    const answer = streamText({ ...options(), prompt: "Count.", abortSignal: controller.signal })
    const types: Array<string> = []
    for await (const part of answer.fullStream) {
      types.push(part.type)
      if (part.type === "text-delta") controller.abort()
    }
    assert.include(types, "abort")
    assert.isTrue((await upstream.waitForClose(0)).aborted)
  })
})

describe("usage", () => {
  it("tells what was read from a cache, from each provider in the same words", async () => {
    upstream.reply(
      openAi.answer({
        text: "a",
        usage: { prompt_tokens: 100, completion_tokens: 7, prompt_tokens_details: { cached_tokens: 60 } }
      }),
      anthropic.answer({ text: "a", usage: { input_tokens: 40, cache_read_input_tokens: 60, output_tokens: 7 } })
    )
    for (const id of ["openai::model-1", "anthropic::claude-sonnet-4-5"]) {
      const answer = await generateText({ model: models(id), maxRetries: 0, prompt: "Hi" })
      assert.strictEqual(answer.usage.inputTokens, 100)
      assert.strictEqual(answer.usage.inputTokenDetails.cacheReadTokens, 60)
      assert.strictEqual(answer.usage.inputTokenDetails.noCacheTokens, 40)
      assert.strictEqual(answer.usage.outputTokens, 7)
    }
  })
})

describe("media", () => {
  it("an image given as bytes reaches each upstream in its own form", async () => {
    const bytes = Buffer.from("iVBORw0KGgoAAAANSUhEUg==", "base64")
    for (const provider of Object.values(providers)) {
      upstream.reset()
      upstream.reply(provider.say({ text: ["ok"] }))
      await generateText({
        model: models(provider.model),
        maxRetries: 0,
        messages: [{
          role: "user",
          content: [{ type: "text", text: "What is this?" }, { type: "image", image: bytes, mediaType: "image/png" }]
        }]
      })
      const [message] = messagesSent(0)
      assert.isTrue(isJson(message))
      assert.include(JSON.stringify(message), bytes.toString("base64"))
    }
  })
})
