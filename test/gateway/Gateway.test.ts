/** The pipeline as an app of its own sees it: plain providers, interceptors and sinks, no HTTP in between. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Logger, Stream } from "effect"
import { TestClock } from "effect/testing"
import { start } from "../../src/gateway/Exchange.ts"
import { Gateway } from "../../src/gateway/Gateway.ts"
import { CurrentCaller, CurrentRequest } from "../../src/sdk/Caller.ts"
import type { ChatChunk, ChatRequest, ChatResponse } from "../../src/sdk/Chat.ts"
import { collect } from "../../src/sdk/ChatStream.ts"
import { text, textOf } from "../../src/sdk/Content.ts"
import { allow, block, type Interceptor, modify } from "../../src/sdk/Interceptor.ts"
import { type ChatCall, ProviderError } from "../../src/sdk/Provider.ts"
import type { UsageRecord, UsageSink } from "../../src/sdk/UsageSink.ts"
import { answers, compose, type Composition, finish, plain, request, says, silence, usage } from "./PlainProvider.ts"

const over = (composition: Composition) => Effect.provide(compose(composition))
const answering = (response: ChatResponse, chunks: Stream.Stream<ChatChunk, ProviderError>) =>
  plain({ chat: () => Effect.succeed(response), streamChat: () => chunks })
const streaming = (chunks: Stream.Stream<ChatChunk, ProviderError>) => plain({ streamChat: () => chunks })
const hello = Stream.make(silence, says("Hello"), says(" there"), finish, usage)

const chat = (asked: ChatRequest = request) => Effect.flatMap(Gateway, (gateway) => gateway.chat(asked))
const streamed = (asked: ChatRequest = request) =>
  Stream.unwrap(Effect.map(Gateway, (gateway) => gateway.streamChat(asked)))
const read = (asked: ChatRequest = request) => Stream.runCollect(streamed(asked))

/** What a stream gives until it ends or fails. */
const readUntilEnd = (asked: ChatRequest = request) =>
  Effect.gen(function*() {
    const seen: Array<ChatChunk> = []
    const exit = yield* Effect.exit(Stream.runForEach(streamed(asked), (chunk) => Effect.sync(() => seen.push(chunk))))
    const failure = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined
    return { seen, failure, ended: Exit.isSuccess(exit) }
  })

const recorder = () => {
  const records: Array<UsageRecord> = []
  const sink: UsageSink = {
    name: "recorder",
    durable: true,
    write: (batch) => Effect.sync(() => void records.push(...batch))
  }
  return { records, sink }
}

const prices = [{ id: "plain::m", prices: { inputMtok: 1, outputMtok: 2 } }]

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

describe("whole answers", () => {
  it.effect("say which model served and what it cost", () =>
    Effect.gen(function*() {
      const response = yield* chat()
      assert.strictEqual(textOf(response.content), "Hello")
      assert.strictEqual(response.modelUsed, "plain::m")
      assert.isFalse(response.fallbackUsed)
      assert.deepStrictEqual(response.usage, { inputTokens: 10, outputTokens: 5, costEstimate: 0.00002 })
    }).pipe(over({ providers: [plain({ chat: () => Effect.succeed(answers("Hello")) })], models: prices })))

  it.effect("the provider gets the model's own id and the connect limit", () => {
    let got: ChatCall | undefined
    const provider = plain({
      chat: (call) =>
        Effect.sync(() => {
          got = call
          return answers("Hello")
        })
    })
    return Effect.gen(function*() {
      yield* chat()
      assert.strictEqual(got?.model.model, "m")
      assert.strictEqual(got?.connectTimeout, 77)
      assert.deepStrictEqual(got?.request.messages, request.messages)
    }).pipe(over({ providers: [provider], timeouts: { connect: 77 } }))
  })

  it.effect("a value that the provider keeps for itself is not changed, streamed or not", () => {
    const response = Object.freeze(answers("Hello"))
    const chunks = [says("Hello"), finish, usage].map((chunk) => Object.freeze(chunk))
    return Effect.gen(function*() {
      assert.isAbove((yield* chat()).usage?.costEstimate ?? 0, 0)
      assert.isAbove((yield* collect(streamed())).usage?.costEstimate ?? 0, 0)
      assert.deepStrictEqual(response, answers("Hello"))
      assert.isUndefined(usage.usage?.costEstimate)
    }).pipe(over({ providers: [answering(response, Stream.fromIterable(chunks))], models: prices }))
  })

  it.effect("usage that the provider does not tell is estimated and says so", () => {
    const { usage: _, ...untold } = answers("Hello there, this is an answer of some length")
    return Effect.gen(function*() {
      const response = yield* chat()
      assert.isTrue(response.usage?.estimated)
      assert.isAbove(response.usage?.outputTokens ?? 0, 4)
    }).pipe(over({ providers: [plain({ chat: () => Effect.succeed(untold) })] }))
  })

  it.effect("parameters that were dropped are told, streamed or not", () => {
    const dropped = ["top_k", "seed"]
    const provider = answering(
      { ...answers("Hello"), droppedParams: dropped },
      Stream.concat(Stream.succeed<ChatChunk>({ id: "", model: "m", delta: [], droppedParams: dropped }), hello)
    )
    return Effect.gen(function*() {
      const gateway = yield* Gateway
      const whole = yield* start("plain::m", false)
      assert.deepStrictEqual((yield* gateway.chat(request, whole)).droppedParams, dropped)
      assert.deepStrictEqual(whole.dropped, dropped)
      const exchange = yield* start("plain::m", true)
      const chunks = yield* gateway.openChat(request, exchange)
      assert.deepStrictEqual(exchange.dropped, dropped)
      assert.isTrue((yield* Stream.runCollect(chunks)).every((chunk) => chunk.id === "answer-1"))
    }).pipe(over({ providers: [provider] }))
  })
})

describe("streams", () => {
  it.effect("joined, they are the whole answer, with the same usage and cost", () =>
    Effect.gen(function*() {
      const whole = yield* chat()
      const { modelUsed: _, fallbackUsed: __, ...expected } = whole
      assert.deepStrictEqual(yield* collect(streamed()), expected)
      assert.isAbove(whole.usage?.costEstimate ?? 0, 0)
    }).pipe(over({ providers: [answering(answers("Hello there"), hello)], models: prices })))

  it.effect("nothing reaches the caller before the first content", () =>
    Effect.gen(function*() {
      const content = yield* Deferred.make<void>()
      const chunks = Stream.make(silence, silence).pipe(
        Stream.concat(Stream.fromEffect(Effect.as(Deferred.await(content), says("One")))),
        Stream.concat(Stream.make(finish, usage))
      )
      yield* Effect.gen(function*() {
        const seen: Array<ChatChunk> = []
        const fiber = yield* Effect.forkChild(
          Stream.runForEach(streamed(), (chunk) => Effect.sync(() => seen.push(chunk)))
        )
        yield* TestClock.adjust(1_000)
        assert.deepStrictEqual(seen, [])
        yield* Deferred.succeed(content, undefined)
        yield* Fiber.join(fiber)
        assert.lengthOf(seen, 5)
      }).pipe(over({ providers: [streaming(chunks)] }))
    }))

  it.effect("what fails before the first content fails the opening, and what was held back is gone", () =>
    Effect.gen(function*() {
      const failed = new ProviderError({ provider: "plain", kind: "quota", message: "slow down", retryAfterMs: 3_000 })
      yield* Effect.gen(function*() {
        const gateway = yield* Gateway
        const exchange = yield* start("plain::m", true)
        const error = yield* Effect.flip(gateway.openChat(request, exchange))
        assert.strictEqual(error.code, "provider_error")
        assert.strictEqual(error.status, 429)
        assert.strictEqual(error.retryAfterMs, 3_000)
        assert.deepStrictEqual(exchange.attempts.map(({ outcome }) => outcome), ["quota"])
        assert.deepStrictEqual((yield* readUntilEnd()).seen, [])
      }).pipe(over({ providers: [streaming(Stream.concat(Stream.make(silence), Stream.fail(failed)))] }))
    }))

  it.effect("what fails after it fails the stream", () =>
    Effect.gen(function*() {
      const failed = new ProviderError({ provider: "plain", kind: "transient", message: "gone", status: 503 })
      yield* Effect.gen(function*() {
        const { failure, seen } = yield* readUntilEnd()
        assert.deepStrictEqual(seen, [silence, says("One")])
        assert.strictEqual(failure?.code, "provider_error")
        assert.strictEqual(failure?.status, 503)
      }).pipe(over({ providers: [streaming(Stream.concat(Stream.make(silence, says("One")), Stream.fail(failed)))] }))
    }))

  for (
    const [what, chunks] of Object.entries({
      "without anything": Stream.empty,
      "without content": Stream.make(silence, silence),
      "without a finish reason": Stream.make(says("One")),
      "with usage and without a finish reason": Stream.make(says("One"), usage)
    })
  ) {
    it.effect(`a stream that ends ${what} has failed`, () =>
      Effect.gen(function*() {
        const { ended, failure } = yield* readUntilEnd()
        assert.isFalse(ended)
        assert.strictEqual(failure?.code, "provider_error")
        if (failure?.reason._tag !== "ProviderFailed") assert.fail("not the provider's failure")
        assert.strictEqual(failure.reason.kind, "protocol")
      }).pipe(over({ providers: [streaming(chunks)] })))
  }

  it.effect("an answer without content is an answer", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* read(), [finish, usage])
    }).pipe(over({ providers: [streaming(Stream.make(finish, usage))] })))

  it.effect("an upstream that only ever pings is given up", () =>
    Effect.gen(function*() {
      const { failure } = yield* readUntilEnd()
      assert.include(failure?.message, "without content")
    }).pipe(over({ providers: [streaming(Stream.forever(Stream.succeed(silence)))] })))
})

// ---------------------------------------------------------------------------------------------------------------------
// What is refused
// ---------------------------------------------------------------------------------------------------------------------

describe("capabilities", () => {
  const models = [
    { id: "plain::m", capabilities: ["text_input", "text_output"] as const },
    { id: "plain::sees", capabilities: ["text_input", "text_output", "image_input", "tools"] as const }
  ]
  const image: ChatRequest = {
    ...request,
    messages: [{
      role: "user",
      content: [{ type: "image", source: { type: "url", url: "https://example.com/a.png" } }]
    }]
  }

  it.effect("what a model cannot do is refused by name, with models that can, and no provider is called", () =>
    Effect.gen(function*() {
      for (const operation of [Effect.asVoid(chat(image)), Effect.asVoid(read(image))]) {
        const error = yield* Effect.flip(operation)
        assert.strictEqual(error.code, "capability_not_supported")
        assert.strictEqual(error.status, 422)
        if (error.reason._tag !== "CapabilityNotSupported") assert.fail("not a capability")
        assert.strictEqual(error.reason.capability, "image_input")
        assert.strictEqual(error.reason.model, "plain::m")
        assert.deepStrictEqual(error.reason.models, ["plain::sees"])
        assert.include(error.message, "plain::sees")
      }
    }).pipe(over({
      providers: [plain({ chat: () => Effect.die("called"), streamChat: () => Stream.die("called") })],
      models
    })))

  it.effect("tools need a model that calls them", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(chat({ ...request, tools: [{ type: "unified", name: "f" }] }))
      assert.include(error.message, "tools")
    }).pipe(over({ providers: [plain({ chat: () => Effect.die("called") })], models })))

  it.effect("a provider without streams says so", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(read())
      assert.strictEqual(error.code, "capability_not_supported")
      assert.include(error.message, "streaming")
    }).pipe(over({ providers: [plain({ chat: () => Effect.succeed(answers("Hello")) })] })))
})

describe("structured output", () => {
  const asked: ChatRequest = {
    ...request,
    responseSchema: { type: "json_schema", schema: { type: "object", required: ["city"] } }
  }
  const ends = (json: string) => Stream.make(says(json.slice(0, 4)), says(json.slice(4)), finish, usage)

  it.effect("an answer that fits passes", () =>
    Effect.gen(function*() {
      assert.lengthOf(yield* read(asked), 4)
    }).pipe(over({ providers: [streaming(ends("{\"city\":\"Oslo\"}"))] })))

  it.effect("one that does not fit fails before the caller reads that it is complete", () =>
    Effect.gen(function*() {
      const { failure, seen } = yield* readUntilEnd(asked)
      assert.strictEqual(failure?.code, "validation_error")
      assert.include(failure?.message, "city")
      assert.isTrue(seen.every((chunk) => chunk.finishReason === undefined))
    }).pipe(over({ providers: [streaming(ends("{\"town\":\"Oslo\"}"))] })))

  it.effect("also where text and finish come in one chunk", () =>
    Effect.gen(function*() {
      const { failure, seen } = yield* readUntilEnd(asked)
      assert.strictEqual(failure?.code, "validation_error")
      assert.deepStrictEqual(seen, [])
    }).pipe(over({ providers: [streaming(Stream.make({ ...says("[1]"), finishReason: "stop" as const }))] })))

  it.effect("a schema that is none is refused before any provider is called", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(chat({
        ...request,
        responseSchema: { type: "json_schema", schema: { type: "no-such-type" } }
      }))
      assert.strictEqual(error.code, "validation_error")
      assert.include(error.field, "response_schema")
    }).pipe(over({ providers: [plain({ chat: () => Effect.die("called") })] })))
})

// ---------------------------------------------------------------------------------------------------------------------
// Timers
// ---------------------------------------------------------------------------------------------------------------------

describe("a timer that runs out", () => {
  const silent = plain({ streamChat: () => Stream.concat(Stream.make(silence), Stream.never) })
  const breaksOff = plain({ streamChat: () => Stream.concat(Stream.make(says("One")), Stream.never) })

  for (
    const [what, composition, phase, attempt] of [
      ["before the first content", { providers: [silent], attempts: 2 }, "first_token", 2],
      ["in mid-stream", { providers: [breaksOff], attempts: 2 }, "idle", 1]
    ] as const
  ) {
    it.effect(`${what} names its phase, its attempt and the model`, () =>
      Effect.gen(function*() {
        const fallback = phase === "first_token" ? { fallback: { models: ["plain::other"] } } : {}
        const reading = yield* Effect.forkChild(readUntilEnd({ ...request, ...fallback }))
        yield* TestClock.adjust(2_000)
        const { failure } = yield* Fiber.join(reading)
        assert.propertyVal(failure?.reason, "phase", phase)
        assert.propertyVal(failure?.reason, "attempt", attempt)
        assert.propertyVal(failure?.reason, "model", attempt === 2 ? "plain::other" : "plain::m")
        assert.include(failure?.message, `attempt ${attempt}`)
      }).pipe(over({ ...composition, timeouts: { firstToken: 500, idle: 500 } })))
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// Defects
// ---------------------------------------------------------------------------------------------------------------------

describe("defects", () => {
  const secret = "sk-live-secret and the prompt"
  const broken = (): never => {
    throw new TypeError(`cannot read ${secret}`)
  }
  const die = Effect.die(new TypeError(secret))

  const whole = {
    "a provider that dies": { providers: [plain({ chat: () => die })] },
    "a provider that throws": { providers: [plain({ chat: broken })] }
  } satisfies Record<string, Composition>

  const wholeIntercepted = {
    "an interceptor that dies before": {
      providers: [plain({ chat: () => Effect.succeed(answers("Hello")) })],
      interceptors: [{ name: "bad", order: 1, pre: () => die }]
    },
    "an interceptor that dies after": {
      providers: [plain({ chat: () => Effect.succeed(answers("Hello")) })],
      interceptors: [{ name: "bad", order: 1, post: () => die }]
    }
  } satisfies Record<string, Composition>

  const streams = {
    "a provider that throws": { providers: [plain({ streamChat: broken })] },
    "a provider that dies before its first word": { providers: [streaming(Stream.die(new TypeError(secret)))] },
    "a provider that dies in mid-stream": {
      providers: [streaming(Stream.concat(Stream.make(says("One")), Stream.die(new TypeError(secret))))]
    }
  } satisfies Record<string, Composition>

  const streamsIntercepted = {
    "an interceptor that dies in mid-stream": {
      providers: [streaming(hello)],
      interceptors: [{ name: "bad", order: 1, stream: (chunks) => Stream.map(chunks, broken) }]
    },
    "an interceptor that dies after": {
      providers: [streaming(hello)],
      interceptors: [{ name: "bad", order: 1, post: () => die }]
    }
  } satisfies Record<string, Composition>

  /** Runs a request that meets a defect: what the caller is told, what is logged, what is recorded. */
  const meets = (composition: Composition, operation: Effect.Effect<unknown, unknown, Gateway>) =>
    Effect.gen(function*() {
      const logged: Array<string> = []
      const logger = Logger.make((options) => {
        logged.push(JSON.stringify(Logger.formatStructured.log(options)))
      })
      const { records, sink } = recorder()
      const exit = yield* Effect.exit(operation).pipe(
        over({ ...composition, sinks: [sink] }),
        Effect.provideService(CurrentRequest, { requestId: "req_known" }),
        Effect.provide(Logger.layer([logger]))
      )
      return { exit, log: logged.join("\n"), records }
    })

  interface Told {
    readonly exit: Exit.Exit<unknown, unknown>
    readonly log: string
    readonly records: ReadonlyArray<UsageRecord>
  }

  const failsWith = (codes: ReadonlyArray<string>, status: number, outcome: UsageRecord["outcome"]) => (told: Told) => {
    if (!Exit.isFailure(told.exit)) assert.fail("it did not fail")
    const error = Cause.squash(told.exit.cause)
    assert.propertyVal(error, "status", status)
    assert.notInclude(String(error), secret)
    assert.include(told.log, "req_known")
    assert.include(told.log, "TypeError")
    assert.notInclude(told.log, secret)
    assert.lengthOf(told.records, 1)
    assert.strictEqual(told.records[0]?.outcome, outcome)
    assert.include(codes, told.records[0]?.errorCode)
    assert.propertyVal(error, "code", told.records[0]?.errorCode)
    return String(error)
  }
  const check = (told: Told) => assert.include(failsWith(["internal_error"], 500, "failed")(told), "req_known")
  const checkBlocked = failsWith(["request_blocked", "response_blocked"], 403, "blocked")

  for (const [what, composition] of Object.entries(whole)) {
    it.effect(`${what} is an internal error without details, whole`, () =>
      Effect.map(meets(composition, chat()), check))
  }
  for (const [what, composition] of Object.entries(streams)) {
    it.effect(`${what} is an internal error without details, streamed`, () =>
      Effect.map(meets(composition, read()), check))
  }
  for (const [what, composition] of Object.entries(wholeIntercepted)) {
    it.effect(`${what} blocks, whole`, () => Effect.map(meets(composition, chat()), checkBlocked))
  }
  for (const [what, composition] of Object.entries(streamsIntercepted)) {
    it.effect(`${what} blocks, streamed`, () => Effect.map(meets(composition, read()), checkBlocked))
  }

  it.live("a usage sink that dies fails no request and keeps no other sink from its record", () =>
    Effect.gen(function*() {
      const { records, sink } = recorder()
      let calls = 0
      const bad: UsageSink = { name: "bad", write: () => calls++ === 0 ? die : Effect.void }
      yield* Effect.gen(function*() {
        assert.strictEqual(textOf((yield* chat()).content), "Hello")
        assert.lengthOf(yield* read(), 5)
      }).pipe(over({ providers: [answering(answers("Hello"), hello)], sinks: [bad, sink] }))
      assert.deepStrictEqual(records.map(({ outcome }) => outcome), ["completed", "completed"])
      assert.isAbove(calls, 1, "what it could not write came again")
    }).pipe(Effect.provide(Logger.layer([]))))
})

// ---------------------------------------------------------------------------------------------------------------------
// Interceptors
// ---------------------------------------------------------------------------------------------------------------------

describe("interceptors", () => {
  const echo = plain({
    chat: (call) => Effect.succeed(answers(textOf(call.request.messages.flatMap(({ content }) => content)))),
    streamChat: (call) =>
      Stream.make(says(textOf(call.request.messages.flatMap(({ content }) => content))), says("!"), finish, usage)
  })
  /** Puts its name behind the question and behind the answer. */
  const signing = (name: string, order: number): Interceptor => ({
    name,
    order,
    pre: (asked) =>
      Effect.succeed(
        modify({ ...asked, messages: [...asked.messages, { role: "user", content: [text(`>${name}`)] }] })
      ),
    post: (response) => Effect.succeed(modify({ ...response, content: [...response.content, text(`<${name}`)] }))
  })
  const passing: Interceptor = {
    name: "passing",
    order: 0,
    pre: () => Effect.succeed(allow),
    post: () => Effect.succeed(allow)
  }

  it.effect("run by their order, not by that of their Layers, and in reverse on the way back", () =>
    Effect.gen(function*() {
      assert.strictEqual(textOf((yield* chat()).content), "Hello?>first>second>third<third<second<first")
      assert.strictEqual(
        textOf((yield* collect(streamed())).content),
        "Hello?>first>second>third!<third<second<first"
      )
    }).pipe(over({
      providers: [echo],
      interceptors: [signing("third", 30), signing("first", 10), passing, signing("second", 20)]
    })))

  it.effect("one that blocks the request keeps it from every provider", () => {
    const { records, sink } = recorder()
    return Effect.gen(function*() {
      for (const operation of [Effect.asVoid(chat()), Effect.asVoid(read())]) {
        const error = yield* Effect.flip(operation)
        assert.strictEqual(error.code, "request_blocked")
        assert.strictEqual(error.status, 403)
        assert.include(error.message, "guard")
        assert.include(error.message, "not on Sundays")
      }
      assert.deepStrictEqual(records.map(({ attempts, errorCode, outcome }) => ({ attempts, errorCode, outcome })), [
        { attempts: 0, errorCode: "request_blocked", outcome: "blocked" },
        { attempts: 0, errorCode: "request_blocked", outcome: "blocked" }
      ])
      assert.deepStrictEqual(records[0]?.usage, { inputTokens: 0, outputTokens: 0 })
    }).pipe(over({
      providers: [plain({ chat: () => Effect.die("called"), streamChat: () => Stream.die("called") })],
      interceptors: [{ name: "guard", order: 1, pre: () => Effect.succeed(block("not on Sundays")) }],
      sinks: [sink]
    }))
  })

  it.effect("one that blocks the answer keeps all of it back, and what it cost is recorded", () => {
    const { records, sink } = recorder()
    const guard: Interceptor = {
      name: "guard",
      order: 1,
      post: (response) => Effect.succeed(textOf(response.content).startsWith("Hello?") ? block("no") : allow)
    }
    return Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(chat())).code, "response_blocked")
      const { failure, seen } = yield* readUntilEnd()
      assert.deepStrictEqual(seen, [])
      assert.strictEqual(failure?.code, "response_blocked")
      assert.deepStrictEqual(
        records.map(({ errorCode, outcome, usage }) => ({ errorCode, outcome, output: usage.outputTokens })),
        [
          { errorCode: "response_blocked", outcome: "blocked", output: 5 },
          { errorCode: "response_blocked", outcome: "blocked", output: 5 }
        ]
      )
    }).pipe(over({ providers: [echo], interceptors: [guard], sinks: [sink] }))
  })

  it.effect("one with `post` alone holds a stream back until it has seen all of it", () =>
    Effect.gen(function*() {
      const rest = yield* Deferred.make<void>()
      const chunks = Stream.concat(
        Stream.make(says("One ")),
        Stream.unwrap(Effect.as(Deferred.await(rest), Stream.make(says("two"), finish, usage)))
      )
      yield* Effect.gen(function*() {
        const seen: Array<string> = []
        const fiber = yield* Effect.forkChild(
          Stream.runForEach(streamed(), (chunk) =>
            Effect.sync(() =>
              seen.push(chunk.delta.map((delta) => delta.type === "text" ? delta.text : "").join(""))
            ))
        )
        yield* TestClock.adjust(1_000)
        assert.deepStrictEqual(seen, [])
        yield* Deferred.succeed(rest, undefined)
        yield* Fiber.join(fiber)
        assert.strictEqual(seen.join(""), "One two")
      }).pipe(over({ providers: [streaming(chunks)], interceptors: [passing] }))
    }))

  it.effect("a stream that was held back and let pass comes out as it came, to the last field", () => {
    const chunks: ReadonlyArray<ChatChunk> = [
      { ...says("One "), extensions: { openai: { choice: { logprobs: { content: [] } } } } },
      says("two"),
      finish
    ]
    return Effect.gen(function*() {
      assert.deepStrictEqual(yield* read(), chunks)
    }).pipe(over({ providers: [streaming(Stream.fromIterable(chunks))], interceptors: [passing] }))
  })

  it.effect("one with `stream` sees each chunk as it comes", () =>
    Effect.gen(function*() {
      const chunks = yield* read()
      assert.deepStrictEqual(chunks.flatMap(({ delta }) => delta), [
        { type: "text", index: 0, text: "HELLO?" },
        { type: "text", index: 0, text: "!" }
      ])
    }).pipe(over({
      providers: [echo],
      interceptors: [{
        name: "loud",
        order: 1,
        post: () => Effect.die("not for a stream"),
        stream: (chunks) =>
          Stream.map(chunks, (chunk) => ({
            ...chunk,
            delta: chunk.delta.map((delta) =>
              delta.type === "text" ? { ...delta, text: delta.text.toUpperCase() } : delta
            )
          }))
      }]
    })))

  it.effect("one that interrupts itself follows its failure mode, too", () => {
    const leaving = (failure: "open" | "closed"): Interceptor => ({
      name: "leaving",
      order: 1,
      failure,
      pre: () => Effect.interrupt,
      post: () => Effect.interrupt
    })
    return Effect.gen(function*() {
      const blocked = yield* Effect.flip(chat()).pipe(over({ providers: [echo], interceptors: [leaving("closed")] }))
      assert.strictEqual(blocked.code, "request_blocked")
      const passed = yield* chat().pipe(over({ providers: [echo], interceptors: [leaving("open")] }))
      assert.strictEqual(textOf(passed.content), "Hello?")
    }).pipe(Effect.provide(Logger.layer([])))
  })

  it.effect("a caller who leaves while one thinks is not kept", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<void>()
      const left = yield* Deferred.make<void>()
      const slow: Interceptor = {
        name: "slow",
        order: 1,
        failure: "open",
        pre: () =>
          Effect.andThen(Deferred.succeed(asked, undefined), Effect.never).pipe(
            Effect.onInterrupt(() => Deferred.succeed(left, undefined))
          )
      }
      const { records, sink } = recorder()
      const fiber = yield* Effect.forkChild(
        chat().pipe(over({ providers: [echo], interceptors: [slow], sinks: [sink] }))
      )
      yield* Deferred.await(asked)
      yield* Fiber.interrupt(fiber)
      yield* Deferred.await(left)
      assert.deepStrictEqual(records.map(({ attempts, outcome }) => ({ attempts, outcome })), [
        { attempts: 0, outcome: "cancelled" }
      ])
    }))

  it.effect("one that cannot say whom it is for sees everyone's requests, unless it fails open", () => {
    const confused = (failure: "open" | "closed"): Interceptor => ({
      name: "confused",
      order: 1,
      failure,
      appliesTo: () => {
        throw new TypeError("confused")
      },
      pre: () => Effect.succeed(block("seen"))
    })
    return Effect.gen(function*() {
      const seen = yield* Effect.flip(chat()).pipe(over({ providers: [echo], interceptors: [confused("closed")] }))
      assert.include(seen.message, "confused: seen")
      yield* chat().pipe(over({ providers: [echo], interceptors: [confused("open")] }))
    })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Usage records
// ---------------------------------------------------------------------------------------------------------------------

describe("usage records", () => {
  const caller = { tenant: "acme", user: "ann", keyId: "k1", tags: ["a"] }
  const recorded = (composition: Composition, operation: Effect.Effect<unknown, unknown, Gateway>) =>
    Effect.gen(function*() {
      const { records, sink } = recorder()
      yield* Effect.exit(operation).pipe(
        over({ models: prices, ...composition, sinks: [sink] }),
        Effect.provideService(CurrentCaller, caller),
        Effect.provideService(CurrentRequest, { requestId: "req_1" })
      )
      assert.lengthOf(records, 1, "one request, one record")
      const [record] = records
      if (record === undefined) assert.fail("no record")
      const { keyId, tags, tenant, user } = record
      assert.deepStrictEqual({ keyId, tags, tenant, user }, caller)
      assert.strictEqual(record.requestId, "req_1")
      assert.notInclude(JSON.stringify(record), "Hello", "no record holds content")
      return record
    })

  it.effect("of a whole answer", () =>
    Effect.gen(function*() {
      const record = yield* recorded({ providers: [plain({ chat: () => Effect.succeed(answers("Hello")) })] }, chat())
      assert.deepInclude(record, {
        operation: "chat",
        streamed: false,
        modelAsked: "plain::m",
        modelUsed: "plain::m",
        provider: "plain",
        attempts: 1,
        usage: { inputTokens: 10, outputTokens: 5, costEstimate: 0.00002 },
        costNanoUsd: 20_000,
        outcome: "completed",
        finishReason: "stop"
      })
    }))

  it.effect("of a stream: the same figures, and when its first content came", () =>
    Effect.gen(function*() {
      const whole = yield* recorded({ providers: [plain({ chat: () => Effect.succeed(answers("Hello")) })] }, chat())
      const stream = yield* recorded({ providers: [streaming(hello)] }, read())
      assert.isTrue(stream.streamed)
      assert.isNumber(stream.firstTokenMs)
      assert.deepStrictEqual(stream.usage, whole.usage)
      assert.strictEqual(stream.costNanoUsd, whole.costNanoUsd)
      assert.strictEqual(stream.outcome, "completed")
    }))

  it.effect("of a stream whose provider tells no usage: estimated", () =>
    Effect.gen(function*() {
      const record = yield* recorded(
        { providers: [streaming(Stream.make(says("Hello there, dear reader"), finish))] },
        read()
      )
      assert.isTrue(record.usage.estimated)
      assert.isAbove(record.usage.outputTokens, 2)
      assert.isAbove(record.costNanoUsd ?? 0, 0)
    }))

  it.effect("of a failure: its code, and nothing consumed", () =>
    Effect.gen(function*() {
      const failed = new ProviderError({ provider: "plain", kind: "transient", message: "gone" })
      for (
        const record of [
          yield* recorded({ providers: [plain({ chat: () => Effect.fail(failed) })] }, chat()),
          yield* recorded({ providers: [streaming(Stream.fail(failed))] }, read())
        ]
      ) {
        assert.deepInclude(record, { outcome: "failed", errorCode: "provider_error", attempts: 1 })
        assert.deepStrictEqual(record.usage, { inputTokens: 0, outputTokens: 0 })
      }
    }))

  it.effect("of a failure in mid-stream: what had come until then, estimated", () =>
    Effect.gen(function*() {
      const failed = new ProviderError({ provider: "plain", kind: "transient", message: "gone" })
      const record = yield* recorded(
        { providers: [streaming(Stream.concat(Stream.make(says("Hello there, dear reader")), Stream.fail(failed)))] },
        read()
      )
      assert.deepInclude(record, { outcome: "failed", errorCode: "provider_error" })
      assert.isTrue(record.usage.estimated)
      assert.isAbove(record.usage.outputTokens, 2)
    }))

  it.effect("of an unknown model: no attempt", () =>
    Effect.gen(function*() {
      const record = yield* recorded({ providers: [plain({})] }, chat({ ...request, model: "nowhere::m" }))
      assert.deepInclude(record, {
        outcome: "failed",
        errorCode: "model_not_found",
        attempts: 0,
        modelAsked: "nowhere::m"
      })
    }))

  const interrupted = (operation: Effect.Effect<unknown, unknown, Gateway>) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(operation)
      yield* TestClock.adjust(1_000)
      yield* Fiber.interrupt(fiber)
    })

  it.effect("of a request that its caller left while it was waited for: cancelled, with the prompt's cost estimated", () =>
    Effect.gen(function*() {
      const silent = plain({ chat: () => Effect.never, streamChat: () => Stream.never })
      for (const operation of [chat(), read()]) {
        const record = yield* recorded({ providers: [silent] }, interrupted(operation))
        assert.strictEqual(record.outcome, "cancelled")
        assert.isUndefined(record.errorCode)
        assert.isTrue(record.usage.estimated)
        assert.isAbove(record.usage.inputTokens, 0)
        assert.strictEqual(record.usage.outputTokens, 0)
      }
    }))

  it.effect("of a stream that was left, by interruption or by taking no more of it: cancelled, estimated", () =>
    Effect.gen(function*() {
      const chunks = Stream.concat(Stream.make(says("Hello there, dear reader")), Stream.never)
      const endless = Stream.forever(Stream.succeed(says("Hello again and again")))
      for (
        const record of [
          yield* recorded({ providers: [streaming(chunks)] }, interrupted(read())),
          yield* recorded({ providers: [streaming(endless)] }, Stream.runCollect(Stream.take(streamed(), 2)))
        ]
      ) {
        assert.strictEqual(record.outcome, "cancelled")
        assert.isTrue(record.usage.estimated)
        assert.isAbove(record.usage.outputTokens, 2)
      }
    }))

  it.effect("of a stream that was held back for an interceptor and left: cancelled", () =>
    Effect.gen(function*() {
      const record = yield* recorded({
        providers: [streaming(Stream.concat(Stream.make(says("Hello there")), Stream.never))],
        interceptors: [{ name: "whole", order: 1, post: () => Effect.succeed(allow) }]
      }, interrupted(read()))
      assert.strictEqual(record.outcome, "cancelled")
      assert.isTrue(record.usage.estimated)
    }))
})
