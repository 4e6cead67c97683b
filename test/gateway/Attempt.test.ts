/** One attempt: what it tells of its model's health, and when, and a stream that has to prove how fast it comes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { attemptChat, attemptStream, type AttemptWatch } from "../../src/gateway/Attempt.ts"
import { start } from "../../src/gateway/Exchange.ts"
import { Health, type ModelHealth } from "../../src/gateway/Health.ts"
import type { Candidate } from "../../src/gateway/Plan.ts"
import type { Timeouts } from "../../src/sdk/Caller.ts"
import type { ChatChunk } from "../../src/sdk/Chat.ts"
import { type ChatCall, type Provider, ProviderError } from "../../src/sdk/Provider.ts"
import { answers, finish, plain, request, says, silence, usage } from "./PlainProvider.ts"

const timeouts: Timeouts = { connect: 1_000, firstToken: 10_000, idle: 20_000, total: 100_000 }

const failure = (more: Partial<ConstructorParameters<typeof ProviderError>[0]> = {}) =>
  new ProviderError({ provider: "plain", kind: "transient", message: "it failed", ...more })

const after = (ms: number, ...chunks: ReadonlyArray<ChatChunk>) =>
  Stream.fromArray(chunks).pipe(Stream.onStart(Effect.sleep(ms)))

const prepared = Effect.fnUntraced(function*(operations: Partial<Provider>, streamed = true) {
  const health = yield* Health
  const watched: AttemptWatch = { health, silent: () => Effect.void }
  const exchange = yield* start("plain::m", streamed)
  const candidate: Candidate = {
    model: { id: "plain::m", provider: "plain", model: "m", status: "active" },
    provider: plain(operations)
  }
  const { tools: _, ...asked } = request
  const call: ChatCall = { request: asked, model: candidate.model, connectTimeout: 1_000 }
  return { health: (): ModelHealth => health.of("plain::m"), watched, exchange, candidate, call }
})

/** A stream's attempt, in a scope of its own that the test closes. */
const opened = Effect.fnUntraced(function*(
  chunks: Stream.Stream<ChatChunk, ProviderError>,
  options: { readonly floor?: number } = {}
) {
  const { call, candidate, exchange, health, watched } = yield* prepared({ streamChat: () => chunks })
  const scope = yield* Scope.make()
  const fiber = yield* attemptStream(
    exchange,
    candidate,
    call,
    timeouts,
    watched,
    options.floor
  ).pipe(Scope.provide(scope), Effect.exit, Effect.forkChild({ startImmediately: true }))
  return { exchange, fiber, health, scope }
})

describe("a stream's health", () => {
  it.effect("is told at its end, and it counts as running until then", () =>
    Effect.gen(function*() {
      const { fiber, health, scope } = yield* opened(
        Stream.concat(after(300, silence, says("One")), after(700, finish, usage))
      )
      yield* TestClock.adjust(300)
      const committed = yield* Effect.flatten(Fiber.join(fiber))
      assert.deepStrictEqual([health().inFlight, health().samples], [1, 0])
      yield* committed.pull
      yield* TestClock.adjust(700)
      assert.deepStrictEqual([health().inFlight, health().samples, health().errorRate], [0, 1, 0])
      assert.deepStrictEqual([health().firstTokenMs, health().durationMs, health().msPerToken], [300, 1_000, 140])
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(health().samples, 1)
    }).pipe(Effect.provide(Health.layer)))

  it.effect("a failure after the first content is the provider's", () =>
    Effect.gen(function*() {
      const { fiber, health } = yield* opened(Stream.concat(after(10, says("One")), Stream.fail(failure())))
      yield* TestClock.adjust(10)
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
      assert.deepStrictEqual([health().inFlight, health().samples, health().errorRate], [0, 1, 1])
    }).pipe(Effect.provide(Health.layer)))

  it.effect("silence after the first content is the provider's", () =>
    Effect.gen(function*() {
      const { health } = yield* opened(Stream.concat(after(10, says("One")), Stream.never))
      yield* TestClock.adjust(20_010)
      assert.deepStrictEqual([health().inFlight, health().samples, health().errorRate], [0, 1, 1])
    }).pipe(Effect.provide(Health.layer)))

  it.effect("a reader that leaves after the first content has seen a good stream", () =>
    Effect.gen(function*() {
      const { fiber, health, scope } = yield* opened(Stream.concat(after(10, says("One")), Stream.never))
      yield* TestClock.adjust(10)
      yield* Fiber.join(fiber)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([health().inFlight, health().samples, health().errorRate], [0, 1, 0])
    }).pipe(Effect.provide(Health.layer)))

  it.effect("one that is interrupted before its first content tells nothing", () =>
    Effect.gen(function*() {
      const { exchange, fiber, health } = yield* opened(Stream.never)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([health().inFlight, health().samples], [0, 0])
      assert.deepStrictEqual(exchange.attempts.map(({ outcome }) => outcome), ["cancelled"])
    }).pipe(Effect.provide(Health.layer)))

  it.effect("a call that an open circuit refused tells nothing", () =>
    Effect.gen(function*() {
      const { fiber, health } = yield* opened(Stream.fail(failure({ breaker: "open" })))
      assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      assert.deepStrictEqual([health().inFlight, health().samples], [0, 0])
    }).pipe(Effect.provide(Health.layer)))
})

describe("a whole answer's health", () => {
  it.effect("has no first token, but tokens", () =>
    Effect.gen(function*() {
      const chat = () => Effect.delay(Effect.succeed(answers("Hello")), 500)
      const { call, candidate, exchange, health, watched } = yield* prepared({ chat }, false)
      const fiber = yield* Effect.forkChild(attemptChat(exchange, candidate, call, timeouts, watched), {
        startImmediately: true
      })
      assert.strictEqual(health().inFlight, 1)
      yield* TestClock.adjust(500)
      yield* Fiber.join(fiber)
      const { durationMs, inFlight, msPerToken, samples } = health()
      assert.deepStrictEqual([inFlight, samples, durationMs, msPerToken], [0, 1, 500, 100])
      assert.notProperty(health(), "firstTokenMs")
    }).pipe(Effect.provide(Health.layer)))
})

describe("a floor of tokens a second", () => {
  const slow = Stream.concat(after(10, says("One ")), Stream.never)

  it.effect("a stream that stays under it fails, and is closed", () =>
    Effect.gen(function*() {
      let open = 0
      const { exchange, fiber, health } = yield* opened(
        slow.pipe(
          Stream.onStart(Effect.sync(() => open++)),
          Stream.ensuring(Effect.sync(() => open--))
        ),
        { floor: 50 }
      )
      yield* TestClock.adjust(2_009)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      assert.strictEqual(open, 0)
      assert.deepStrictEqual(exchange.attempts.map(({ outcome }) => outcome), ["transient"])
      assert.deepStrictEqual([health().inFlight, health().errorRate], [0, 1])
    }).pipe(Effect.provide(Health.layer)))

  it.effect("thinking counts, and what is held back is given in order", () =>
    Effect.gen(function*() {
      const thinks: ChatChunk = {
        ...silence,
        delta: [{ type: "reasoning", index: 0, text: "thinking hard ".repeat(40) }]
      }
      const { fiber } = yield* opened(Stream.concat(after(10, says("One ")), after(100, thinks, says("two"))), {
        floor: 50
      })
      yield* TestClock.adjust(110)
      const { pull } = yield* Effect.flatten(Fiber.join(fiber))
      assert.deepStrictEqual(yield* pull, [says("One "), thinks, says("two")])
    }).pipe(Effect.provide(Health.layer)))

  it.effect("a short answer need not be fast", () =>
    Effect.gen(function*() {
      const { fiber } = yield* opened(after(10, says("One"), finish), { floor: 50 })
      yield* TestClock.adjust(10)
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
    }).pipe(Effect.provide(Health.layer)))
})
