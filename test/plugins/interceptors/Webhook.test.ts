/** The webhook against real services: what is sent, how it is signed, and what every kind of answer does. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Effect, Layer, Redacted, Schema } from "effect"
import { FetchHttpClient } from "effect/http"
import { createHmac } from "node:crypto"
import * as Webhook from "../../../src/plugins/interceptors/webhook/Webhook.ts"
import { type ChatRequest, ChatResponse } from "../../../src/sdk/Chat.ts"
import { text, textOf } from "../../../src/sdk/Content.ts"
import { InterceptorRegistry } from "../../../src/sdk/Interceptor.ts"
import { answered, answering, asking, contextOf, intercepted } from "./Answers.ts"
import { type Reply, service } from "./Service.ts"

const make = (options: Webhook.WebhookOptions) => Webhook.make(options).pipe(Effect.provide(FetchHttpClient.layer))

const Sent = Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown))
const read = Schema.decodeUnknownEffect(Sent)

const request: ChatRequest = { ...asking("Hello?"), stream: true, maxOutputTokens: 5 }
const response: ChatResponse = {
  ...answering("Hi"),
  usage: { inputTokens: 1, outputTokens: 2 },
  modelUsed: "plain::m",
  fallbackUsed: false
}

describe("what is sent", () => {
  it.live("is the content in the native form, who asks, and what for", () =>
    Effect.gen(function*() {
      const hook = yield* service(() => ({ json: { action: "allow" } }))
      const webhook = yield* make({ url: hook.url })
      assert.strictEqual(yield* intercepted(webhook, request), request)
      assert.strictEqual(yield* answered(webhook, response, request), response)
      const about = { request_id: "req_1", tenant: "acme", user: "ann", operation: "chat" }
      assert.deepStrictEqual(yield* read(hook.asked[0]?.body), {
        phase: "request",
        ...about,
        request: {
          model: "plain::m",
          messages: [{ role: "user", content: [{ type: "text", text: "Hello?" }] }],
          stream: true,
          max_output_tokens: 5
        }
      })
      assert.deepStrictEqual(yield* read(hook.asked[1]?.body), {
        phase: "response",
        ...about,
        response: yield* Schema.encodeEffect(ChatResponse)(response)
      })
      assert.deepInclude(hook.asked[0], { method: "POST", path: "/hook" })
      assert.strictEqual(hook.asked[0]?.headers["content-type"], "application/json")
      assert.isUndefined(hook.asked[0]?.headers["webhook-signature"])
      assert.isUndefined(hook.asked[0]?.headers["traceparent"])
    }))

  it.live("goes over connections that are used again", () =>
    Effect.gen(function*() {
      const hook = yield* service(({ body }) =>
        body.includes("fail") ? { status: 500, body: "no" } : { json: { action: "allow" } }
      )
      const webhook = yield* make({ url: hook.url })
      for (let i = 0; i < 20; i++) {
        yield* Effect.exit(intercepted(webhook, asking(i % 2 === 0 ? "Hello?" : "fail")))
      }
      assert.lengthOf(hook.asked, 20)
      assert.isAtMost(hook.connections(), 3)
    }))

  it.live.each(
    [
      ["whsec_bGxtLWdhdGV3YXktdGVzdC1zZWNyZXQ=", "llm-gateway-test-secret"],
      ["any text", "any text"]
    ] as const
  )("is signed as Standard Webhooks says, with the secret %s", ([secret, key]) =>
    Effect.gen(function*() {
      const hook = yield* service(() => ({ json: { action: "allow" } }))
      const webhook = yield* make({ url: hook.url, secret: Redacted.make(secret) })
      yield* intercepted(webhook, request)
      yield* answered(webhook, response)
      const ids = new Set(hook.asked.map(({ headers }) => headers["webhook-id"]))
      assert.lengthOf(Array.from(ids), 2)
      for (const { body, headers } of hook.asked) {
        const time = Number(headers["webhook-timestamp"])
        assert.isBelow(Math.abs(time - (yield* Clock.currentTimeMillis) / 1000), 60)
        const signed = `${String(headers["webhook-id"])}.${time}.${body}`
        assert.strictEqual(
          headers["webhook-signature"],
          `v1,${createHmac("sha256", key).update(signed).digest("base64")}`
        )
      }
    }))

  it.live("is only what was asked for", () =>
    Effect.gen(function*() {
      const webhook = yield* make({ url: "http://127.0.0.1:1/", on: ["request"] })
      assert.isUndefined(webhook.post)
      assert.isUndefined((yield* make({ url: "http://127.0.0.1:1/", on: ["response"] })).pre)
    }))
})

describe("an answer", () => {
  const asks = (reply: Reply, options: Partial<Webhook.WebhookOptions> = {}) =>
    Effect.gen(function*() {
      const hook = yield* service(() => reply)
      return yield* make({ url: hook.url, ...options })
    })

  it.live("of `block` blocks with its reason, on one line and bounded", () =>
    Effect.gen(function*() {
      const webhook = yield* asks({ json: { action: "block", reason: `not\r\nhere \u202E${"x".repeat(1000)}` } })
      const reason = yield* Effect.flip(intercepted(webhook, request))
      assert.match(String(reason), /^not here x+$/)
      assert.lengthOf(String(reason), 300)
      assert.strictEqual(
        yield* Effect.flip(answered(yield* asks({ json: { action: "block" } }), response)),
        "no reason was given"
      )
    }))

  it.live("of `modify` puts another request in the place, but does not change how it is answered", () =>
    Effect.gen(function*() {
      const webhook = yield* asks({
        json: {
          action: "modify",
          request: {
            model: "other::m",
            messages: [{ role: "user", content: "Good day?" }],
            stream: false,
            max_output_tokens: 7
          }
        }
      })
      assert.deepStrictEqual(yield* intercepted(webhook, request), {
        model: "other::m",
        messages: [{ role: "user", content: [text("Good day?")] }],
        stream: true,
        maxOutputTokens: 7
      })
    }))

  it.live("of `modify` puts another answer in the place, but not other figures", () =>
    Effect.gen(function*() {
      const webhook = yield* asks({
        json: {
          action: "modify",
          response: {
            id: "a1",
            model: "m",
            content: [{ type: "text", text: "Bye" }],
            finish_reason: "stop",
            usage: { input_tokens: 0, output_tokens: 0 },
            model_used: "a::b"
          }
        }
      })
      const changed = yield* answered(webhook, response)
      assert.strictEqual(textOf(changed.content), "Bye")
      assert.deepStrictEqual(changed.usage, response.usage)
      assert.strictEqual(changed.modelUsed, "plain::m")
    }))

  const secret = "do-not-repeat-this"
  const garbage: Record<string, readonly [Reply, string]> = {
    "that is no JSON": [{ status: 200, body: secret }, "its answer is not JSON"],
    "that is empty": [{ status: 204, body: "" }, "its answer is not JSON"],
    "of an unknown action": [{ json: { action: secret } }, "its answer does not have the form that it must have"],
    "that is a list": [{ json: [secret] }, "its answer does not have the form that it must have"],
    "that modifies to nothing": [
      { json: { action: "modify" } },
      "what it put in the content's place does not have the native form"
    ],
    "that modifies to something else": [
      { json: { action: "modify", request: { model: "m", messages: [], secret }, response: { id: secret } } },
      "what it put in the content's place does not have the native form"
    ],
    "of an error status": [{ status: 500, body: secret }, "it answered with status 500"],
    "that is endless": [{ status: 200, body: "x".repeat(1_000_001) }, "its answer is larger than 1000000 bytes"]
  }
  it.live.each(Object.entries(garbage))(
    "%s is the service's failure, told without a word of it",
    ([, [reply, problem]]) =>
      Effect.gen(function*() {
        const webhook = yield* asks(reply)
        const { context } = contextOf()
        const failures = [
          yield* Effect.flip(webhook.pre?.(request, context) ?? Effect.die("no pre")),
          yield* Effect.flip(webhook.post?.(response, request, context) ?? Effect.die("no post"))
        ]
        for (const failure of failures) {
          assert.strictEqual(failure._tag, "InterceptorError")
          assert.strictEqual(failure.message, problem)
        }
      })
  )

  it.live("that redirects is not followed: the content is for this address alone", () =>
    Effect.gen(function*() {
      const other = yield* service(() => ({ json: { action: "allow" } }))
      const webhook = yield* asks({ status: 307, headers: { location: other.url }, body: "" })
      const failure = yield* Effect.flip(webhook.pre?.(request, contextOf().context) ?? Effect.die("no pre"))
      assert.strictEqual(failure.message, "it answered with status 307")
      assert.lengthOf(other.asked, 0)
    }))

  it.live("that nobody gives is a failure, too", () =>
    Effect.gen(function*() {
      const webhook = yield* make({ url: "http://127.0.0.1:1/" })
      const failure = yield* Effect.flip(webhook.pre?.(request, contextOf().context) ?? Effect.die("no pre"))
      assert.match(failure.message, /^it cannot be reached/)
    }))
})

describe("options", () => {
  it.live("that cannot be are errors when the Layer is built", () =>
    Effect.gen(function*() {
      const wrong = [
        { url: "ftp://x" },
        { url: "http://" },
        { url: "http://x", secret: Redacted.make("whsec_***") }
      ]
      for (const [index, option] of ["url", "url", "secret"].entries()) {
        const error = yield* Effect.flip(make({ name: "w", ...(wrong[index] ?? { url: "" }) }))
        assert.strictEqual(error.option, option)
        assert.notInclude(error.message, "***")
      }
    }))

  it.live("have five seconds for an answer, unless they say otherwise", () =>
    Effect.gen(function*() {
      const context = yield* Layer.build(
        Layer.mergeAll(
          Webhook.layer({ name: "b", url: "http://x" }),
          Webhook.layer({ name: "a", url: "http://x", timeoutMs: 7, failure: "open", order: -1 })
        ).pipe(Layer.provideMerge(InterceptorRegistry.layer), Layer.provide(FetchHttpClient.layer))
      )
      const registered = Context.get(context, InterceptorRegistry).ordered()
      assert.deepStrictEqual(registered.map(({ failure, name, timeoutMs }) => ({ failure, name, timeoutMs })), [
        { failure: "open", name: "a", timeoutMs: 7 },
        { failure: undefined, name: "b", timeoutMs: 5_000 }
      ])
    }))
})
