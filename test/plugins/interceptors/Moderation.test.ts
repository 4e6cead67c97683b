/** Moderation by an endpoint, by a model behind a real gateway, and what counts as flagged. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import { Gateway } from "../../../src/gateway/Gateway.ts"
import * as Moderation from "../../../src/plugins/interceptors/moderation/Moderation.ts"
import type { ChatRequest } from "../../../src/sdk/Chat.ts"
import { textOf } from "../../../src/sdk/Content.ts"
import { fail, type GatewayError, InternalError } from "../../../src/sdk/GatewayError.ts"
import { InterceptorError } from "../../../src/sdk/Interceptor.ts"
import { answers, compose, plain, request as plainRequest } from "../../gateway/PlainProvider.ts"
import { answered, answering, asking, contextOf, intercepted } from "./Answers.ts"
import { type Reply, service } from "./Service.ts"

const make = (options: Moderation.ModerationOptions) =>
  Moderation.make(options).pipe(Effect.provide(FetchHttpClient.layer))

const result = (flagged: boolean, categories: object = {}, scores?: object): Reply => ({
  json: {
    id: "m",
    model: "omni",
    results: [{ flagged, categories, ...(scores === undefined ? {} : { category_scores: scores }) }]
  }
})

const asks = (reply: Reply, options: Moderation.ModerationOptions = {}) =>
  Effect.gen(function*() {
    const endpoint = yield* service(() => reply)
    return { endpoint, moderation: yield* make({ url: endpoint.url, ...options }) }
  })

describe("an endpoint", () => {
  it.live("is asked in OpenAI's form for all the text", () =>
    Effect.gen(function*() {
      const { endpoint, moderation } = yield* asks(result(false), {
        apiKey: Redacted.make("sk-1"),
        model: "omni-moderation-latest"
      })
      const request: ChatRequest = {
        ...asking("Hello", { type: "tool_call", id: "c", name: "f", arguments: "{\"a\":1}" }),
        messages: [
          { role: "system", content: [{ type: "text", text: "Be kind." }] },
          ...asking("Hello", { type: "tool_call", id: "c", name: "f", arguments: "{\"a\":1}" }).messages
        ]
      }
      assert.strictEqual(yield* intercepted(moderation, request), request)
      const response = {
        ...answering("Hi"),
        alternatives: [{ content: answering("Ho").content, finishReason: "stop" as const }]
      }
      assert.strictEqual(yield* answered(moderation, response), response)
      assert.deepStrictEqual(endpoint.asked.map(({ body }): unknown => JSON.parse(body)), [
        { input: "Be kind.\nHello\n{\"a\":1}", model: "omni-moderation-latest" },
        { input: "Hi\nHo", model: "omni-moderation-latest" }
      ])
      assert.strictEqual(endpoint.asked[0]?.headers.authorization, "Bearer sk-1")
    }))

  it.live.each(
    [
      ["what it flags", result(true, { hate: true, violence: false }), {}, "it was flagged as hate"],
      ["what it flags without saying why", result(true), {}, "it was flagged"],
      ["what it does not flag", result(false, { hate: false }, { hate: 0.9 }), {}, undefined],
      [
        "a category that counts",
        result(true, { hate: true, violence: true }),
        { categories: ["violence"] },
        "it was flagged as violence"
      ],
      ["a category that does not", result(true, { hate: true }), { categories: ["violence"] }, undefined],
      [
        "a score over the threshold",
        result(false, { hate: false }, { hate: 0.4, violence: 0.1 }),
        { threshold: 0.3 },
        "it was flagged as hate"
      ],
      ["one that does not count", result(true, { hate: true }, { hate: 0.4 }), {
        threshold: 0.3,
        categories: ["violence"]
      }, undefined],
      ["a score under the threshold", result(true, { hate: true }, { hate: 0.4 }), { threshold: 0.5 }, undefined],
      ["names that are none", result(true, { "<script>x": true, hate: true }), {}, "it was flagged as hate"]
    ] as const
  )("decides by %s", ([, reply, options, reason]) =>
    Effect.gen(function*() {
      const { moderation } = yield* asks(reply, options)
      const outcomes = [
        yield* Effect.flip(intercepted(moderation, asking("x"))).pipe(Effect.orElseSucceed(() => undefined)),
        yield* Effect.flip(answered(moderation, answering("x"))).pipe(Effect.orElseSucceed(() => undefined))
      ]
      assert.deepStrictEqual(outcomes, [reason, reason])
    }))

  it.live.each(
    [
      ["no JSON", { status: 200, body: "flagged: me" }],
      ["no results", { json: { results: [] } }],
      ["something else", { json: { results: [{ flagged: "yes" }] } }],
      ["an error", { status: 429, body: "later" }]
    ] as const
  )("that answers %s has failed", ([, reply]) =>
    Effect.gen(function*() {
      const { moderation } = yield* asks(reply)
      const failure = yield* Effect.flip(moderation.pre?.(asking("x"), contextOf().context) ?? Effect.die("no pre"))
      assert.strictEqual(failure._tag, "InterceptorError")
    }))

  it.live("has to give scores where there is a threshold", () =>
    Effect.gen(function*() {
      const { moderation } = yield* asks(result(false), { threshold: 0.5 })
      const failure = yield* Effect.flip(moderation.pre?.(asking("x"), contextOf().context) ?? Effect.die("no pre"))
      assert.strictEqual(failure.message, "its answer has no scores, and a threshold needs them")
    }))

  it.live("is asked about long texts in pieces that overlap, so that nothing hides behind a limit", () =>
    Effect.gen(function*() {
      const endpoint = yield* service(({ body }) => result(body.includes("forbidden words"), { hate: true }))
      const moderation = yield* make({ url: endpoint.url })
      // Where pieces of 20,000 would meet.
      const long = `${"a".repeat(19_995)} forbidden words ${"b".repeat(30_000)}`
      assert.strictEqual(yield* Effect.flip(intercepted(moderation, asking(long))), "it was flagged as hate")
      assert.lengthOf(endpoint.asked, 3)
      assert.strictEqual(yield* Effect.flip(make({})).pipe(Effect.map(({ option }) => option)), "url")
    }))

  it.live("is not asked about nothing", () =>
    Effect.gen(function*() {
      const { endpoint, moderation } = yield* asks(result(true))
      yield* answered(moderation, answering())
      assert.lengthOf(endpoint.asked, 0)
    }))
})

describe("a model", () => {
  /** A judge that flags what holds "bad", behind the gateway that it moderates for. */
  const judge = (asked: Array<ChatRequest>) =>
    plain({
      chat: ({ model, request }) =>
        Effect.sync(() => {
          if (model.model !== "judge") return answers(textOf(request.messages[0].content).replace("?", " is good"))
          asked.push({ ...request, model: model.id, tools: [] })
          const bad = textOf(request.messages[1]?.content ?? []).includes("bad")
          return answers(JSON.stringify({ flagged: bad, categories: bad ? ["hate"] : [] }))
        }),
      streamChat: () => Stream.die("the judge is not streamed")
    })

  const moderated = (asked: Array<ChatRequest>) => {
    // The interceptor asks the gateway that it is part of: config ties this knot, and so does this test.
    let chat: ((request: ChatRequest) => Effect.Effect<ReturnType<typeof answers>, GatewayError>) | undefined
    const unready = fail(new InternalError({ message: "not yet" }))
    const classify = Moderation.askModel({
      chat: (request) => chat?.(request) ?? Effect.fail(unready),
      model: "plain::judge"
    })
    return Effect.gen(function*() {
      const moderation = yield* make({ classify })
      return yield* Effect.gen(function*() {
        const gateway = yield* Gateway
        chat = (request) => gateway.chat(request)
        return {
          fine: textOf((yield* gateway.chat(plainRequest)).content),
          refused: yield* Effect.flip(gateway.chat({ ...plainRequest, messages: asking("bad things").messages }))
        }
      }).pipe(Effect.provide(compose({ providers: [judge(asked)], interceptors: [moderation] })))
    })
  }

  it.live("behind the same gateway judges, and its own question is not moderated", () =>
    Effect.gen(function*() {
      const asked: Array<ChatRequest> = []
      const { fine, refused } = yield* moderated(asked)
      assert.strictEqual(fine, "Hello is good")
      assert.strictEqual(refused.code, "request_blocked")
      assert.strictEqual(refused.message, "the request was blocked by moderation: it was flagged as hate")
      // Question, answer, and the question that was refused.
      assert.deepStrictEqual(asked.map(({ messages }) => textOf(messages[1]?.content ?? [])), [
        "\"Hello?\"",
        "\"Hello is good\"",
        "\"bad things\""
      ])
      assert.strictEqual(asked[0]?.responseSchema?.type, "json_schema")
    }))

  it.live.each(
    [
      ["prose", "I think it is fine."],
      ["categories of its own", "{\"flagged\":true,\"categories\":[\"the user said secret things\"]}"]
    ] as const
  )("that answers %s has failed", ([, answer]) =>
    Effect.gen(function*() {
      const classify = Moderation.askModel({ chat: () => Effect.succeed(answers(answer)), model: "m" })
      const failure = yield* Effect.flip(classify("x"))
      assert.strictEqual(failure.message, "the model's answer is not a classification")
    }))

  it.live("that cannot be asked has failed, and says with which code", () =>
    Effect.gen(function*() {
      const error = fail(new InternalError({ message: "secret details" }))
      const classify = Moderation.askModel({ chat: () => Effect.fail(error), model: "m" })
      assert.deepStrictEqual(
        yield* Effect.flip(classify("x")),
        new InterceptorError({ message: "the model could not be asked (internal_error)" })
      )
    }))
})
