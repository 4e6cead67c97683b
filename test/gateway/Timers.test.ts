/** The timers and the keep-alive comments, in virtual time. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Queue, Scope, Stream } from "effect"
import { HttpServerRequest } from "effect/http"
import { TestClock } from "effect/testing"
import { start } from "../../src/gateway/Exchange.ts"
import { Gateway } from "../../src/gateway/Gateway.ts"
import { effectiveTimeouts } from "../../src/gateway/Timers.ts"
import { CurrentRequest, type Timeouts } from "../../src/sdk/Caller.ts"
import type { ChatChunk } from "../../src/sdk/Chat.ts"
import { fail, type GatewayError, ProviderFailed } from "../../src/sdk/GatewayError.ts"
import { ProviderError } from "../../src/sdk/Provider.ts"
import { streamReply, type StreamWriter } from "../../src/server/StreamReply.ts"
import { answers, compose, finish, plain, request, says, silence } from "./PlainProvider.ts"

const timeouts: Timeouts = { connect: 1_000, firstToken: 10_000, idle: 20_000, total: 100_000 }

const after = (ms: number, chunk: ChatChunk) => Stream.fromEffect(Effect.delay(Effect.succeed(chunk), ms))

/** Emits a chunk every so many ms, for ever. */
const every = (ms: number, chunk: ChatChunk) => Stream.forever(after(ms, chunk))

const streaming = (chunks: Stream.Stream<ChatChunk, ProviderError>, limits: Partial<Timeouts> = timeouts) =>
  Effect.provide(compose({ providers: [plain({ streamChat: () => chunks })], timeouts: limits }))

const answering = (chat: Effect.Effect<ReturnType<typeof answers>, ProviderError>) =>
  Effect.provide(compose({ providers: [plain({ chat: () => chat })], timeouts }))

const phaseOf = (error: GatewayError): string =>
  error.reason._tag === "ProviderTimeout" ? `${error.reason.phase} ${error.reason.limitMs}` : error.code

/** Reads the whole stream while time passes; gives what was read, and the phase in which it timed out. */
const readFor = (ms: number) =>
  Effect.gen(function*() {
    const gateway = yield* Gateway
    const read: Array<ChatChunk> = []
    const fiber = yield* Effect.forkChild(
      Effect.flip(Stream.runForEach(gateway.streamChat(request), (chunk) => Effect.sync(() => read.push(chunk))))
    )
    yield* TestClock.adjust(ms - 1)
    assert.isUndefined(fiber.pollUnsafe(), "it did not time out too early")
    yield* TestClock.adjust(1)
    return { read: read.length, phase: phaseOf(yield* Fiber.join(fiber)) }
  })

describe("streams", () => {
  it.effect("first token: a provider that says nothing", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* readFor(10_000), { read: 0, phase: "first_token 10000" })
    }).pipe(streaming(Stream.never)))

  it.effect("first token: pings and openings do not count", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* readFor(10_000), { read: 0, phase: "first_token 10000" })
    }).pipe(streaming(every(3_000, silence))))

  it.effect("idle: a provider that goes silent after its first word", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* readFor(5_000 + 20_000), { read: 1, phase: "idle 20000" })
    }).pipe(streaming(Stream.concat(after(5_000, says("One")), Stream.never))))

  it.effect("idle: pings do not count, content does", () =>
    Effect.gen(function*() {
      const { phase } = yield* readFor(5_000 + 19_000 + 20_000)
      assert.strictEqual(phase, "idle 20000")
    }).pipe(streaming(
      after(5_000, says("One")).pipe(Stream.concat(after(19_000, says("two"))), Stream.concat(every(7_000, silence)))
    )))

  it.effect("total: an answer that goes on for too long", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* readFor(100_000), { read: 16, phase: "total 100000" })
    }).pipe(streaming(every(6_000, says("more ")))))

  it.effect("total wins where it comes before the first token", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* readFor(4_000), { read: 0, phase: "total 4000" })
    }).pipe(streaming(Stream.never, { ...timeouts, total: 4_000 })))

  it.effect("a timer that runs out closes the upstream", () => {
    let open = 0
    const chunks = Stream.concat(
      Stream.scoped(Stream.fromEffect(Effect.acquireRelease(
        Effect.sync(() => {
          open++
          return says("One")
        }),
        () =>
          Effect.sync(() => {
            open--
          })
      ))),
      Stream.never
    ).pipe(
      Stream.onStart(Effect.sync(() => {
        open++
      })),
      Stream.ensuring(Effect.sync(() => {
        open--
      }))
    )
    return Effect.gen(function*() {
      yield* readFor(20_000)
      assert.strictEqual(open, 0)
    }).pipe(streaming(chunks))
  })

  it.effect("idle: the time that the reader takes for itself does not count", () =>
    Effect.gen(function*() {
      const gateway = yield* Gateway
      const pull = yield* Stream.toPull(gateway.streamChat(request))
      assert.lengthOf(yield* pull, 1)
      yield* TestClock.adjust(60_000)
      const next = yield* Effect.forkChild(pull)
      yield* TestClock.adjust(19_000)
      assert.deepStrictEqual(yield* Fiber.join(next), [says("two")])
    }).pipe(streaming(Stream.concat(Stream.succeed(says("One")), after(19_000, says("two"))))))

  it.effect("the limits of a request narrow those of the configuration and never widen them", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* readFor(2_000), { read: 0, phase: "first_token 2000" })
    }).pipe(
      Effect.provideService(CurrentRequest, { timeouts: { firstToken: 2_000, total: 900_000 } }),
      streaming(Stream.never)
    ))
})

describe("whole answers", () => {
  it.effect("total: a provider that does not answer", () =>
    Effect.gen(function*() {
      const gateway = yield* Gateway
      const fiber = yield* Effect.forkChild(Effect.flip(gateway.chat(request)))
      yield* TestClock.adjust(99_999)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(phaseOf(error), "total 100000")
      assert.strictEqual(error.status, 504)
      assert.include(error.message, "timeout: total")
    }).pipe(answering(Effect.never)))

  it.effect("an answer just in time is an answer", () =>
    Effect.gen(function*() {
      const gateway = yield* Gateway
      const fiber = yield* Effect.forkChild(gateway.chat(request))
      yield* TestClock.adjust(99_999)
      assert.strictEqual((yield* Fiber.join(fiber)).finishReason, "stop")
    }).pipe(answering(Effect.delay(Effect.succeed(answers("late")), 99_999))))

  it.effect("connect: what the transport tells is the same to the caller as any other timer", () =>
    Effect.gen(function*() {
      const gateway = yield* Gateway
      const error = yield* Effect.flip(gateway.chat(request))
      assert.strictEqual(phaseOf(error), "connect 1000")
      assert.strictEqual(error.status, 504)
    }).pipe(answering(Effect.fail(
      new ProviderError({
        provider: "plain",
        kind: "transient",
        timeout: { phase: "connect", limitMs: 1_000 },
        message: "no connection"
      })
    ))))
})

describe("effectiveTimeouts", () => {
  it("takes the narrower limit of each, and at least a millisecond", () => {
    assert.deepStrictEqual(effectiveTimeouts(timeouts, {}), timeouts)
    assert.deepStrictEqual(
      effectiveTimeouts(timeouts, { connect: 5_000, firstToken: 1, idle: 0.001, total: 99_999 }),
      { connect: 1_000, firstToken: 1, idle: 1, total: 99_999 }
    )
    assert.strictEqual(effectiveTimeouts(timeouts, { answer: 500 }).answer, 500)
    assert.strictEqual(effectiveTimeouts({ ...timeouts, answer: 400 }, { answer: 500 }).answer, 400)
    assert.strictEqual(effectiveTimeouts({ ...timeouts, answer: 400 }, { answer: 0.5 }).answer, 1)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Keep-alive
// ---------------------------------------------------------------------------------------------------------------------

const writer: StreamWriter = {
  push: (chunk) => chunk.delta.map((delta) => delta.type === "text" ? `[${delta.text}]` : "").join(""),
  end: () => "[DONE]",
  error: (error) => `[error ${error.code}]`,
  keepAlive: "[keep-alive]",
  contentType: "text/event-stream"
}

/** Answers with a stream reply, and gives what is sent while time passes: `steps` are ms. */
const replied = (
  open: Effect.Effect<Stream.Stream<ChatChunk, GatewayError>, GatewayError>,
  steps: ReadonlyArray<number>
) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const exchange = yield* start("plain::m", true)
    const sent = yield* Queue.unbounded<string>()
    const fiber = yield* Effect.forkChild(
      streamReply(open, exchange, writer).pipe(
        Effect.provideService(
          HttpServerRequest.HttpServerRequest,
          HttpServerRequest.fromWeb(new Request("http://127.0.0.1/v1/chat/completions", { method: "POST" }))
        ),
        Effect.flatMap((response) => {
          if (response.body._tag !== "Stream") return Effect.die("the answer is no stream")
          return Stream.runForEach(response.body.stream, (bytes) => Queue.offer(sent, new TextDecoder().decode(bytes)))
        }),
        Scope.provide(scope),
        Effect.result
      )
    )
    const seen: Array<string> = []
    for (const step of steps) {
      yield* TestClock.adjust(step)
      seen.push((yield* Queue.clear(sent)).join(""))
    }
    yield* Scope.close(scope, Exit.void)
    return { seen, result: fiber.pollUnsafe() }
  })

const words = Stream.make(says("One"), says("two"), finish)
const broken = fail(new ProviderFailed({ message: "overloaded", kind: "transient", provider: "plain" }))

describe("keep-alive", () => {
  it.effect("an answer that is there soon is sent as it is", () =>
    Effect.gen(function*() {
      const { seen } = yield* replied(Effect.delay(Effect.succeed(words), 14_000), [14_000])
      assert.deepStrictEqual(seen, ["[One][two][DONE]"])
    }))

  it.effect("while the first token is waited for, a comment is sent every 15 seconds", () =>
    Effect.gen(function*() {
      const { seen } = yield* replied(Effect.delay(Effect.succeed(words), 50_000), [
        14_999,
        1,
        14_999,
        1,
        15_000,
        5_000
      ])
      assert.deepStrictEqual(seen, ["", "[keep-alive]", "", "[keep-alive]", "[keep-alive]", "[One][two][DONE]"])
    }))

  it.effect("a failure after the first comment is told in the stream, without its end", () =>
    Effect.gen(function*() {
      const { seen } = yield* replied(Effect.delay(Effect.fail(broken), 20_000), [15_000, 5_000])
      assert.deepStrictEqual(seen, ["[keep-alive]", "[error provider_error]"])
    }))

  it.effect("a failure before it is an ordinary error", () =>
    Effect.gen(function*() {
      const { seen, result } = yield* replied(Effect.delay(Effect.fail(broken), 10_000), [10_000])
      assert.deepStrictEqual(seen, [""])
      if (result === undefined || !Exit.isSuccess(result) || result.value._tag !== "Failure") {
        assert.fail("the reply did not fail")
      }
      assert.strictEqual(result.value.failure, broken)
    }))

  it.effect("a failure in mid-stream is told in the stream, without its end", () =>
    Effect.gen(function*() {
      const { seen } = yield* replied(
        Effect.succeed(Stream.concat(Stream.make(says("One")), Stream.fail(broken))),
        [0]
      )
      assert.deepStrictEqual(seen, ["[One][error provider_error]"])
    }))

  it.effect("a caller that leaves while it waits stops the call", () =>
    Effect.gen(function*() {
      let stopped = false
      const open = Effect.onInterrupt(Effect.never, () =>
        Effect.sync(() => {
          stopped = true
        }))
      yield* replied(open, [15_000])
      assert.isTrue(stopped)
    }))
})
