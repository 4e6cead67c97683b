/** Programs of `effect/ai` over the gateway: text, streams, objects, tools, vectors and errors, in process and over HTTP. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema, Stream } from "effect"
import { AiError, EmbeddingModel, LanguageModel, Prompt, Tool, Toolkit } from "effect/ai"
import { GatewayClient, GatewayEmbeddingModel, GatewayLanguageModel } from "../../src/client/index.ts"
import * as InProcess from "../../src/gateway/InProcess.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { BudgetExceeded, fail, RateLimited, RequestBlocked } from "../../src/sdk/GatewayError.ts"
import { block, type Interceptor } from "../../src/sdk/Interceptor.ts"
import { ProviderError } from "../../src/sdk/Provider.ts"
import * as Sandbox from "../../src/plugins/providers/sandbox/Sandbox.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { compose, plain } from "../gateway/PlainProvider.ts"

let gateway: RunningGateway
beforeAll(async () => {
  gateway = await startGateway("providers: { sandbox: { type: sandbox } }")
})
afterAll(() => gateway.close())

const ways = {
  "in process": () =>
    GatewayClient.layerInProcess.pipe(
      Layer.provide(InProcess.layer),
      Layer.provide(compose({ providers: [Sandbox.make("sandbox")] }))
    ),
  "over HTTP": () => GatewayClient.layerHttp({ url: gateway.url }),
  "over a WebSocket": () => GatewayClient.layerWebSocket({ url: gateway.url })
}

const GetWeather = Tool.make("get_weather", {
  description: "The weather in a city",
  parameters: Schema.Struct({ city: Schema.String }),
  success: Schema.String
})
const toolkit = Toolkit.make(GetWeather)
const handlers = toolkit.toLayer({ get_weather: ({ city }) => Effect.succeed(`sunny in ${city}`) })

describe.each(Object.entries(ways))("%s", (_, client) => {
  const live = (name: string, test: Effect.Effect<void, unknown, GatewayClient>) =>
    it.live(name, () => test.pipe(Effect.provide(client())))

  live(
    "text, with usage and the reason of its end",
    Effect.gen(function*() {
      const response = yield* LanguageModel.generateText({ prompt: "Hello, gateway!" })
      assert.strictEqual(response.text, "Hello, gateway!")
      assert.strictEqual(response.finishReason, "stop")
      assert.deepStrictEqual(
        [response.usage.inputTokens.total, response.usage.inputTokens.uncached, response.usage.outputTokens.total],
        [2, 2, 2]
      )
    }).pipe(Effect.provide(GatewayLanguageModel.model("sandbox::echo")))
  )

  live(
    "a stream of the same",
    Effect.gen(function*() {
      const parts = yield* Stream.runCollect(LanguageModel.streamText({ prompt: "Hello, gateway!" }))
      const text = parts.map((part) => part.type === "text-delta" ? part.delta : "").join("")
      assert.strictEqual(text, "Hello, gateway!")
      const kinds = new Set(parts.map(({ type }) => type))
      assert.deepStrictEqual([...kinds], ["response-metadata", "text-start", "text-delta", "text-end", "finish"])
    }).pipe(Effect.provide(GatewayLanguageModel.model("sandbox::echo")))
  )

  live(
    "an object of a schema",
    Effect.gen(function*() {
      const response = yield* LanguageModel.generateObject({
        prompt: "A person",
        schema: Schema.Struct({ name: Schema.String, age: Schema.Int })
      })
      assert.isString(response.value.name)
      assert.isNumber(response.value.age)
    }).pipe(Effect.provide(GatewayLanguageModel.model("sandbox::json")))
  )

  live(
    "tools, which the program runs itself",
    Effect.gen(function*() {
      const whole = yield* LanguageModel.generateText({ prompt: "How is the weather in Paris?", toolkit })
      assert.strictEqual(whole.finishReason, "tool-calls")
      assert.deepStrictEqual(whole.toolResults.map(({ name }) => name), ["get_weather"])
      assert.include(JSON.stringify(whole.toolResults[0]?.result), "sunny in ")
      const parts = yield* Stream.runCollect(
        LanguageModel.streamText({ prompt: "How is the weather in Paris?", toolkit })
      )
      const results = parts.filter(({ type }) => type === "tool-result")
      assert.lengthOf(results, 1)
      // What came back goes into the next turn.
      const next = Prompt.concat(Prompt.make("How is the weather in Paris?"), Prompt.fromResponseParts(whole.content))
      const answer = yield* LanguageModel.generateText({ prompt: next })
      assert.isAbove(answer.usage.inputTokens.total ?? 0, 0)
    }).pipe(Effect.provide([GatewayLanguageModel.model("sandbox::tools"), handlers]))
  )

  live(
    "vectors",
    Effect.gen(function*() {
      const embeddings = yield* EmbeddingModel.EmbeddingModel
      const { embeddings: vectors } = yield* embeddings.embedMany(["a cat", "a dog"])
      assert.deepStrictEqual(vectors.map(({ vector }) => vector.length), [16, 16])
    }).pipe(Effect.provide(GatewayEmbeddingModel.model("sandbox::embed", { dimensions: 16 })))
  )

  live(
    "a model that is not there is the request's fault",
    Effect.gen(function*() {
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "Hello" }))
      assert.instanceOf(error, AiError.AiError)
      assert.strictEqual(error.reason._tag, "InvalidRequestError")
      const streamed = yield* Effect.flip(Stream.runDrain(LanguageModel.streamText({ prompt: "Hello" })))
      assert.strictEqual(streamed.reason._tag, "InvalidRequestError")
    }).pipe(Effect.provide(GatewayLanguageModel.model("nowhere::m")))
  )
})

describe("what a provider says", () => {
  const answering = (
    chat: NonNullable<Parameters<typeof plain>[0]["chat"]>,
    interceptors: ReadonlyArray<Interceptor> = []
  ) =>
    GatewayLanguageModel.layer("plain::m").pipe(
      Layer.provide(GatewayClient.layerInProcess),
      Layer.provide(InProcess.layer),
      Layer.provide(compose({ providers: [plain({ chat })], interceptors }))
    )

  it.effect("thinking comes with its signature, goes back with it, and is told apart in the usage", () => {
    const asked: Array<ChatRequest["messages"]> = []
    return Effect.gen(function*() {
      const first = yield* LanguageModel.generateText({ prompt: "Think" })
      assert.strictEqual(first.reasoningText, "hm")
      const { inputTokens, outputTokens } = first.usage
      assert.deepStrictEqual({ ...inputTokens }, { total: 100, uncached: 60, cacheRead: 30, cacheWrite: 10 })
      assert.deepStrictEqual({ ...outputTokens }, { total: 20, reasoning: 15, text: 5 })
      yield* LanguageModel.generateText({
        prompt: Prompt.concat(Prompt.concat(Prompt.make("Think"), Prompt.fromResponseParts(first.content)), "More")
      })
      assert.deepStrictEqual(asked[1]?.[1]?.content, [
        { type: "reasoning", text: "hm", signature: "signed", wire: "anthropic" },
        { type: "text", text: "done" }
      ])
    }).pipe(Effect.provide(answering(({ request }) => {
      asked.push(request.messages)
      return Effect.succeed({
        id: "1",
        model: "m",
        content: [
          { type: "reasoning", text: "hm", signature: "signed", wire: "anthropic" },
          { type: "text", text: "done" }
        ],
        finishReason: "stop",
        usage: {
          inputTokens: 60,
          cacheReadTokens: 30,
          cacheWrite5mTokens: 10,
          outputTokens: 20,
          reasoningTokens: 15
        }
      })
    })))
  })

  it.effect("files go along: images by address and inline, documents by name", () => {
    const asked: Array<ChatRequest["messages"]> = []
    return Effect.gen(function*() {
      yield* LanguageModel.generateText({
        prompt: Prompt.make([{
          role: "user",
          content: [
            { type: "text", text: "Look" },
            { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
            { type: "file", mediaType: "image/png", data: new URL("https://example.com/a.png") },
            { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: "data:application/pdf;base64,AAAA" }
          ]
        }])
      })
      assert.deepStrictEqual(asked[0]?.[0]?.content, [
        { type: "text", text: "Look" },
        { type: "image", source: { type: "base64", mediaType: "image/png", data: "AQID" } },
        { type: "image", source: { type: "url", url: "https://example.com/a.png" } },
        {
          type: "document",
          source: { type: "base64", mediaType: "application/pdf", data: "AAAA" },
          filename: "a.pdf"
        }
      ])
    }).pipe(Effect.provide(answering(({ request }) => {
      asked.push(request.messages)
      return Effect.succeed({ id: "1", model: "m", content: [{ type: "text", text: "ok" }], finishReason: "stop" })
    })))
  })

  it.effect.each(
    [
      ["quota", "RateLimitError", true],
      ["caller", "InvalidRequestError", false],
      ["contentPolicy", "ContentPolicyError", false],
      ["transient", "InternalProviderError", true]
    ] as const
  )("an error of kind %s is a %s", ([kind, tag, isRetryable]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "Hello" }))
      assert.deepStrictEqual([error.reason._tag, error.isRetryable], [tag, isRetryable])
    }).pipe(
      Effect.provide(answering(() => Effect.fail(new ProviderError({ provider: "plain", kind, message: "no" }))))
    ))

  it.effect("a block is the policy's", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "Hello" }))
      assert.strictEqual(error.reason._tag, "ContentPolicyError")
    }).pipe(
      Effect.provide(
        answering(() => Effect.never, [{ name: "guard", order: 1, pre: () => Effect.succeed(block("not this")) }])
      )
    ))
})

describe("errors of the gateway's own", () => {
  it.effect.each(
    [
      [new RateLimited({ message: "slow down", retryAfterMs: 1_500 }), "RateLimitError"],
      [new BudgetExceeded({ message: "spent", budget: "b", resetsAt: 1_800_000_000_000 }), "QuotaExhaustedError"],
      [new RequestBlocked({ message: "no", interceptor: "guard" }), "ContentPolicyError"]
    ] as const
  )("%s", ([reason, tag]) =>
    Effect.gen(function*() {
      const refused = Effect.fail(fail(reason))
      const calls = {
        chat: () => refused,
        streamChat: () => Stream.fromEffect(refused),
        countTokens: () => refused,
        embed: () => refused,
        image: () => refused,
        streamImage: () => Stream.fromEffect(refused),
        speak: () => refused,
        streamSpeech: () => Stream.fromEffect(refused),
        video: () => refused,
        transcribe: () => refused,
        streamTranscribe: () => Stream.fromEffect(refused),
        models: refused,
        model: () => refused,
        routes: refused,
        explain: () => refused,
        usage: () => refused,
        budgets: refused,
        createJob: () => refused,
        job: () => refused,
        watchJob: () => Stream.fromEffect(refused),
        jobs: () => refused,
        cancelJob: () => refused,
        redeliverWebhook: () => refused
      }
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "Hello" })).pipe(
        Effect.provide(GatewayLanguageModel.layer("m").pipe(Layer.provide(Layer.succeed(GatewayClient, calls))))
      )
      assert.strictEqual(error.reason._tag, tag)
    }))
})
