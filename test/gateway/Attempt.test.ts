/** One attempt: what it tells of its model's health, and when, and a stream that has to prove how fast it comes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { attemptChat, attemptStream, type AttemptWatch } from "../../src/gateway/Attempt.ts"
import { start } from "../../src/gateway/Exchange.ts"
import { effectiveTimeouts } from "../../src/gateway/Timers.ts"
import { Health, type ModelHealth } from "../../src/gateway/Health.ts"
import type { Candidate } from "../../src/gateway/Plan.ts"
import { CurrentRequest, type Timeouts } from "../../src/sdk/Caller.ts"
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
  const watched: AttemptWatch = {
    health,
    counts: { add: () => undefined, tellApart: () => undefined, all: () => [] },
    silent: () => Effect.void
  }
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
      const { exchange, fiber, health } = yield* opened(Stream.fail(failure({ breaker: "open" })))
      assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      assert.deepStrictEqual([health().inFlight, health().samples], [0, 0])
      assert.deepStrictEqual(exchange.attempts.map(({ outcome }) => outcome), ["breaker_open"])
    }).pipe(Effect.provide(Health.layer)))

  it.effect("a failure that opened the circuit is a failure of the provider's", () =>
    Effect.gen(function*() {
      const { exchange, fiber, health } = yield* opened(Stream.fail(failure({ breaker: "opened" })))
      assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      assert.deepStrictEqual([health().samples, health().errorRate], [1, 1])
      assert.deepStrictEqual(exchange.attempts.map(({ outcome }) => outcome), ["transient"])
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

describe("a whole answer that does not come", () => {
  /** What a silent provider's health and breaker are told, once the limits of the configuration and the caller have run out. */
  const silentUnder = Effect.fnUntraced(function*(
    configured: Partial<Timeouts>,
    asked: Partial<Timeouts>,
    followed = true
  ) {
    const prepare = prepared({ chat: () => Effect.never }, false)
    const { call, candidate, exchange, health, watched } = yield* prepare.pipe(
      Effect.provideService(CurrentRequest, { timeouts: asked })
    )
    const reported: Array<string> = []
    const silent = (provider: string) => Effect.sync(() => reported.push(provider))
    const limits = effectiveTimeouts({ ...timeouts, ...configured }, asked)
    const fiber = yield* Effect.forkChild(
      Effect.flip(attemptChat(exchange, candidate, call, limits, { ...watched, silent }, followed)),
      { startImmediately: true }
    )
    yield* TestClock.adjust(timeouts.total)
    const error = yield* Fiber.join(fiber)
    if (error._tag !== "ProviderTimeout") return assert.fail("it did not time out")
    assert.deepStrictEqual(exchange.attempts.map(({ outcome }) => outcome), [`timeout_${error.phase}`])
    return {
      ranOut: `${error.phase} ${error.limitMs}`,
      errorRate: health().errorRate,
      reported: reported.length
    }
  })
  const counted = { errorRate: 1, reported: 1 }
  const ignored = { errorRate: 0, reported: 0 }

  it.effect.each<
    readonly [string, Partial<Timeouts>, Partial<Timeouts>, boolean, string, typeof counted]
  >([
    ["the operator's limit counts", { answer: 30_000 }, {}, true, "answer 30000", counted],
    ["also for the last attempt", { answer: 30_000 }, {}, false, "answer 30000", counted],
    ["a caller's wider limit changes nothing", { answer: 30_000 }, { answer: 40_000 }, true, "answer 30000", counted],
    ["nor its narrower total", { answer: 30_000 }, { total: 50_000 }, true, "answer 30000", counted],
    ["a caller's own limit tells nothing", { answer: 30_000 }, { answer: 200 }, true, "answer 200", ignored],
    ["nor where there is none configured", {}, { answer: 200 }, true, "answer 200", ignored],
    ["half of the operator's total counts", {}, {}, true, "answer 50000", counted],
    ["half of a total that the caller narrowed does not", {}, { total: 500 }, true, "answer 250", ignored],
    ["the total is nobody's in particular", {}, {}, false, "total 100000", ignored],
    ["a caller's timers for streams have no say", {}, { idle: 1, firstToken: 1 }, true, "answer 50000", counted]
  ])("%s", ([, configured, asked, followed, ranOut, told]) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* silentUnder(configured, asked, followed), { ranOut, ...told })
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
