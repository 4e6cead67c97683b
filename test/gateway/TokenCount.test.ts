/** Counting a prompt's tokens as an app of its own sees it: who is asked, what of, and what happens when nobody answers. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { Gateway } from "../../src/gateway/Gateway.ts"
import { text, textOf } from "../../src/sdk/Content.ts"
import { block, type Interceptor, modify } from "../../src/sdk/Interceptor.ts"
import { type ChatCall, ProviderError } from "../../src/sdk/Provider.ts"
import type { UsageRecord, UsageSink } from "../../src/sdk/UsageSink.ts"
import { answers, compose, type Composition, plain, request } from "./PlainProvider.ts"

const over = (composition: Composition) => Effect.provide(compose(composition))
const chat = () => Effect.succeed(answers("Hello"))
const count = Effect.flatMap(Gateway, (gateway) => gateway.countTokens(request))

/** By the estimate: four for the message, two for its text. */
const estimate = { inputTokens: 6, isEstimated: true }

const failing = (failure: Partial<ConstructorParameters<typeof ProviderError>[0]>) =>
  plain({
    chat,
    countTokens: () => Effect.fail(new ProviderError({ provider: "plain", kind: "caller", message: "no", ...failure }))
  })

describe("counting tokens", () => {
  it.effect("is the provider's own, and leaves no record of consumption", () => {
    const records: Array<UsageRecord> = []
    const sink: UsageSink = {
      name: "recorder",
      durable: true,
      write: (batch) => Effect.sync(() => void records.push(...batch))
    }
    let got: ChatCall | undefined
    const provider = plain({
      chat,
      countTokens: (call) =>
        Effect.sync(() => {
          got = call
          return 42
        })
    })
    return Effect.gen(function*() {
      assert.deepStrictEqual(yield* count, { inputTokens: 42, isEstimated: false })
      assert.strictEqual(got?.model.model, "m")
      assert.deepStrictEqual(got?.request.messages, request.messages)
      assert.deepStrictEqual(records, [])
    }).pipe(over({ providers: [provider], sinks: [sink] }))
  })

  it.effect("is an estimate where the provider counts for nobody", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* count, estimate)
    }).pipe(over({ providers: [plain({ chat })] })))

  it.effect("is an estimate where the provider keeps silent", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(count, { startImmediately: true })
      yield* TestClock.adjust(99)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Fiber.join(fiber), estimate)
    }).pipe(over({ providers: [plain({ chat, countTokens: () => Effect.never })], timeouts: { firstToken: 100 } })))

  it.effect("fails with what the caller did wrong, and with nothing else", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(count)).status, 400)
    }).pipe(
      over({ providers: [failing({ status: 400 })] }),
      Effect.andThen(count.pipe(over({ providers: [failing({ kind: "credential", status: 401 })] }))),
      Effect.tap((counted) => Effect.sync(() => assert.deepStrictEqual(counted, estimate)))
    ))

  const redacting: Interceptor = {
    name: "redacting",
    order: 1,
    pre: (asked) => Effect.succeed(modify({ ...asked, messages: [{ role: "user", content: [text("[hidden]")] }] }))
  }

  it.effect("shows the prompt to nobody before the interceptors have seen it", () => {
    const seen: Array<string> = []
    const provider = plain({
      chat,
      countTokens: ({ request: { messages } }) =>
        Effect.sync(() => seen.push(...messages.map(({ content }) => textOf(content))))
    })
    return Effect.gen(function*() {
      yield* count
      assert.deepStrictEqual(seen, ["[hidden]"])
    }).pipe(over({ providers: [provider], interceptors: [redacting] }))
  })

  it.effect("is refused where an interceptor refuses the request", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(count)).code, "request_blocked")
    }).pipe(over({
      providers: [plain({ chat, countTokens: () => Effect.die("called") })],
      interceptors: [{ name: "guard", order: 1, pre: () => Effect.succeed(block("not on Sundays")) }]
    })))
})
