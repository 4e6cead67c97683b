/**
 * Vercel's AI SDK with the provider packages of OpenAI (Chat Completions and Responses), Anthropic and Ollama, each in front of the
 * dialect that it was written for, and behind that every provider. A base URL is all that is changed.
 */
import { createAnthropic } from "@ai-sdk/anthropic"
import { createOpenAI } from "@ai-sdk/openai"
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import {
  APICallError,
  embedMany,
  generateText,
  jsonSchema,
  type LanguageModel,
  Output,
  stepCountIs,
  streamText,
  tool,
  type ToolSet
} from "ai"
import { createOllama } from "ollama-ai-provider-v2"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { type Speaker, speakers } from "../fixtures/Speakers.ts"

let upstream: FakeUpstream
let gateway: RunningGateway

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
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

/** The packages, each as its users set it up. */
const packages: Readonly<Record<string, (model: string) => LanguageModel>> = {
  "@ai-sdk/openai, Chat Completions": (model) =>
    createOpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "any" }).chat(model),
  "@ai-sdk/openai, Responses": (model) =>
    createOpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "any" }).responses(model),
  "@ai-sdk/anthropic": (model) => createAnthropic({ baseURL: `${gateway.url}/v1`, apiKey: "any" })(model),
  "ollama-ai-provider-v2": (model) => createOllama({ baseURL: `${gateway.url}/api` })(model)
}

const placeSchema = {
  type: "object" as const,
  properties: { city: { type: "string" as const }, population: { type: "number" as const } },
  required: ["city", "population"],
  additionalProperties: false
}
const Place = jsonSchema<{ city: string; population: number }>(placeSchema)

const words = ["One ", "two ", "three"]
const usage = { inputTokens: 9, outputTokens: 12 }

describe.each(Object.entries(packages))("%s", (name, languageModel) => {
  describe.each(Object.entries<Speaker>(speakers))("to %s", (_, speaker) => {
    const options = () => ({ model: languageModel(speaker.model), maxRetries: 0 })

    it("text, whole, with instructions and usage", async () => {
      upstream.reply(speaker.say({ text: words }))
      const answer = await generateText({ ...options(), system: "Be brief.", prompt: "Count." })
      assert.strictEqual(answer.text, "One two three")
      assert.strictEqual(answer.finishReason, "stop")
      assert.deepInclude(answer.usage, usage)
      assert.deepStrictEqual(speaker.instructions(upstream.request(0).body), ["Be brief."])
    })

    it("text, streamed piece by piece", async () => {
      upstream.reply(speaker.say({ text: words }))
      const answer = streamText({ ...options(), prompt: "Count." })
      const pieces: Array<string> = []
      for await (const piece of answer.textStream) pieces.push(piece)
      assert.deepStrictEqual(pieces.filter((piece) => piece !== ""), words)
      assert.strictEqual(await answer.finishReason, "stop")
      assert.deepInclude(await answer.usage, usage)
    })

    it.each(["whole", "streamed"] as const)("tools in parallel, with their results back: %s", async (kind) => {
      upstream.reply(
        speaker.say({
          toolCalls: [
            { id: "call_a", name: "get_weather", input: { city: "Paris" } },
            { id: "call_b", name: "get_weather", input: { city: "Oslo" } }
          ]
        }),
        speaker.say({ text: ["It is ", "sunny."] })
      )
      const asked: Array<string> = []
      const tools: ToolSet = {
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
      }
      const asking = { ...options(), prompt: "Weather?", tools, stopWhen: stepCountIs(3) }
      const text = kind === "whole" ? (await generateText(asking)).text : await streamText(asking).text
      assert.strictEqual(text, "It is sunny.")
      assert.deepStrictEqual(asked, ["Paris", "Oslo"])
      const sent = JSON.stringify(upstream.request(1).json)
      assert.include(sent, "sunny in Paris")
      assert.include(sent, "sunny in Oslo")
    })

    it("an object of a schema", async () => {
      upstream.reply(speaker.say({ text: ["{\"city\":\"Paris\",", "\"population\":2100000}"] }))
      const answer = await generateText({ ...options(), prompt: "Where?", output: Output.object({ schema: Place }) })
      assert.deepStrictEqual(answer.output, { city: "Paris", population: 2_100_000 })
    })

    it("an image", async () => {
      upstream.reply(speaker.say({ text: words }))
      const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
      await generateText({
        ...options(),
        messages: [{
          role: "user",
          content: [{ type: "text", text: "Look" }, { type: "file", data: png, mediaType: "image/png" }]
        }]
      })
      assert.deepStrictEqual(speaker.images(upstream.request(0).body), [png])
    })

    it("an error before the answer, with its status", async () => {
      upstream.reply(speaker.error(429, { "retry-after": "7" }))
      const failed = await generateText({ ...options(), prompt: "Count." }).then(
        () => undefined,
        (error: unknown) => error
      )
      assert.isTrue(APICallError.isInstance(failed), String(failed))
      assert.strictEqual(APICallError.isInstance(failed) ? failed.statusCode : 0, 429)
    })

    it("a stream that breaks off is an error, and no end", async () => {
      upstream.reply(withFault(speaker.say({ text: words }), fault.cut(speaker.lead)))
      const answer = streamText({ ...options(), prompt: "Count.", onError: () => undefined })
      const types: Array<string> = []
      let reason: string | undefined
      for await (const part of answer.fullStream) {
        types.push(part.type)
        if (part.type === "finish") reason = part.finishReason
      }
      // The package for Ollama does not read the line in which Ollama tells an error, but it misses the end.
      if (name.startsWith("ollama")) assert.notInclude(["stop", "length", "tool-calls"], reason)
      else assert.include(types, "error")
    })
  })

  it("the sandbox answers", async () => {
    const answer = await generateText({
      model: languageModel("sandbox::echo"),
      prompt: "Hello, gateway!",
      maxRetries: 0
    })
    assert.strictEqual(answer.text, "Hello, gateway!")
  })
})

describe("vectors", () => {
  it("come through @ai-sdk/openai and ollama-ai-provider-v2", async () => {
    const values = ["a cat", "a dog"]
    const openai = createOpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "any" }).embedding("sandbox::embed")
    const ollama = createOllama({ baseURL: `${gateway.url}/api` }).embedding("sandbox::embed")
    for (const model of [openai, ollama]) {
      const { embeddings } = await embedMany({ model, values })
      assert.deepStrictEqual(embeddings.map(({ length }) => length), [256, 256])
    }
  })
})
