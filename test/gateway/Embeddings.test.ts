/** Embeddings of a gateway in process: how requests are cut and put together, who pays for what, what interceptors see. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { shares } from "../../src/gateway/EmbeddingBatches.ts"
import { estimateEmbedding, pieces } from "../../src/gateway/EmbeddingCalls.ts"
import { Gateway } from "../../src/gateway/Gateway.ts"
import { toBase64, toNumbers } from "../../src/gateway/VectorEncoding.ts"
import * as BudgetsMemory from "../../src/modules/budgets/BudgetsMemory.ts"
import * as RateLimitsMemory from "../../src/modules/rateLimits/RateLimitsMemory.ts"
import * as Pii from "../../src/plugins/interceptors/pii/Pii.ts"
import { CurrentCaller } from "../../src/sdk/Caller.ts"
import { type EmbeddingRequest, type EmbeddingResponse, inputsOf } from "../../src/sdk/Embedding.ts"
import { block, type Interceptor } from "../../src/sdk/Interceptor.ts"
import { type EmbedCall, ProviderError } from "../../src/sdk/Provider.ts"
import { type TenantPolicy, Tenants } from "../../src/sdk/Tenant.ts"
import type { UsageRecord, UsageSink } from "../../src/sdk/UsageSink.ts"
import { compose, composeOver, type Composition, plain } from "./PlainProvider.ts"

const vectorOf = (input: string | ReadonlyArray<number>): ReadonlyArray<number> => [input.length, 1]

const answerTo = ({ model, request }: EmbedCall): EmbeddingResponse => {
  const inputs = inputsOf(request.input)
  return {
    model: model.model,
    embeddings: inputs.map(vectorOf),
    usage: { inputTokens: inputs.length * 7, outputTokens: 0 }
  }
}

/** A provider of vectors that remembers what it was asked. */
const recorder = (answer: (call: EmbedCall) => Effect.Effect<EmbeddingResponse, ProviderError>) => {
  const calls: Array<EmbedCall> = []
  let interrupted = 0
  const provider = plain({
    embedLimits: { inputs: 3, tokens: 1_000 },
    embed: (call) =>
      Effect.suspend(() => {
        calls.push(call)
        return answer(call)
      }).pipe(Effect.onInterrupt(() => Effect.sync(() => interrupted++)))
  })
  return { calls, provider, interrupted: () => interrupted }
}

const records: Array<UsageRecord> = []
const sink: UsageSink = {
  name: "recorder",
  durable: true,
  write: (batch) => Effect.sync(() => void records.push(...batch))
}

const layerOf = (composition: Composition) => {
  records.length = 0
  return compose({
    models: [
      { id: "plain::m", prices: { inputMtok: 1_000, outputMtok: 0 } },
      { id: "plain::other", prices: { inputMtok: 1_000, outputMtok: 0 } }
    ],
    sinks: [sink],
    ...composition
  })
}

const embed = (request: Omit<EmbeddingRequest, "model"> & { readonly model?: string }) =>
  Effect.flatMap(Gateway, (gateway) => gateway.embed({ model: "plain::m", ...request }))

describe("a large request", () => {
  it.effect.prop(
    "is cut into pieces that keep its order and hold no more than they may",
    [Schema.Array(Schema.NonEmptyString), Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5 }))],
    ([inputs, maxInputs]) =>
      Effect.sync(() => {
        const cut = pieces(inputs, { inputs: maxInputs, tokens: 12 })
        assert.deepStrictEqual(cut.flat(), [...inputs])
        for (const piece of cut) {
          assert.isAtLeast(piece.length, 1)
          assert.isAtMost(piece.length, maxInputs)
          const tokens = piece.reduce<number>((sum, input) => sum + estimateEmbedding(input), 0)
          if (piece.length > 1) assert.isAtMost(tokens, 12)
        }
      })
  )

  it.effect("is answered in order, with one record for all of its calls", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    return Effect.gen(function*() {
      const input = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg"]
      const response = yield* embed({ input })
      assert.deepStrictEqual(response.embeddings, input.map(vectorOf))
      assert.deepStrictEqual(calls.map(({ request }) => inputsOf(request.input).length), [3, 3, 1])
      assert.deepStrictEqual(
        records.map((
          { costNanoUsd, kind, operation, outcome, usage }
        ) => [kind, operation, outcome, usage.inputTokens, costNanoUsd]),
        [["request", "embed", "completed", 49, 49_000_000]]
      )
    }).pipe(Effect.provide(layerOf({ providers: [provider] })))
  })

  it.effect("what a model answered before another one took over is paid for, and told apart", () => {
    let calls = 0
    const { provider } = recorder((call) => {
      calls++
      return call.model.model === "m" && calls === 2
        ? Effect.fail(new ProviderError({ provider: "plain", kind: "transient", message: "broken" }))
        : Effect.succeed(answerTo(call))
    })
    return Effect.gen(function*() {
      const response = yield* embed({
        input: ["a", "b", "c", "d"],
        fallback: { models: ["plain::other"], strategy: "sequential" }
      })
      assert.strictEqual(response.modelUsed, "plain::other")
      assert.deepStrictEqual(
        records.map(({ kind, modelUsed, usage }) => [kind, modelUsed, usage.inputTokens]),
        [["request", "plain::other", 28], ["attempt", "plain::m", 21]]
      )
    }).pipe(Effect.provide(layerOf({ providers: [provider], attempts: 2 })))
  })
})

describe("a request for vectors", () => {
  it.effect("has no answer from a provider that makes none", () =>
    Effect.gen(function*() {
      const refused = yield* Effect.flip(embed({ input: "a" }))
      assert.strictEqual(refused.code, "capability_not_supported")
    }).pipe(Effect.provide(layerOf({ providers: [plain({})] }))))

  it.effect("is paid by its caller's budget and counted by its limits, also where it shared a call", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    const policy = (name: string, limitNanoUsd: number): TenantPolicy => ({
      name,
      rateLimits: [{ per: "tenant", kind: "tokens", limit: 100, windowMs: 60_000 }],
      budgets: [{ per: "tenant", window: "total", limitNanoUsd }],
      interceptors: []
    })
    // A token costs 1,000,000 nano-USD, and each input came to 7 of them.
    const stores = Layer.mergeAll(
      BudgetsMemory.layer(),
      RateLimitsMemory.layer(),
      Tenants.layer([policy("rich", 1e9), policy("poor", 7_000_000)])
    )
    records.length = 0
    const layer = composeOver(stores, {
      models: [{ id: "plain::m", prices: { inputMtok: 1_000, outputMtok: 0 } }],
      sinks: [sink],
      providers: [provider],
      embedBatching: { windowMs: 10, maxInputs: 50 }
    })
    const as = (tenant: string) => Effect.provideService(CurrentCaller, { tenant, tags: [] })
    const spent = (tenant: string) =>
      Effect.flatMap(Gateway, ({ budgets }) => budgets).pipe(
        as(tenant),
        Effect.map((balances) => balances.map(({ reservedNanoUsd, spentNanoUsd }) => [spentNanoUsd, reservedNanoUsd]))
      )
    return Effect.gen(function*() {
      const running = yield* Effect.forkChild(Effect.forEach(
        ["rich", "poor", "poor"],
        (tenant) => as(tenant)(Effect.exit(embed({ input: "abcd" }))),
        { concurrency: "unbounded" }
      ))
      yield* TestClock.adjust(100)
      const exits = yield* Fiber.join(running)
      // Four bytes are four tokens at most, and the poor one has not the money for two such.
      assert.deepStrictEqual(exits.map(Exit.isSuccess), [true, true, false])
      assert.lengthOf(calls, 1)
      assert.deepStrictEqual(yield* spent("rich"), [[7_000_000, 0]])
      assert.deepStrictEqual(yield* spent("poor"), [[7_000_000, 0]])
      assert.deepStrictEqual(
        records.map(({ errorCode, tenant, usage }) => [tenant, usage.inputTokens, errorCode]),
        [["poor", 0, "budget_exceeded"], ["rich", 7, undefined], ["poor", 7, undefined]]
      )
      const long = yield* Effect.flip(as("rich")(embed({ input: Array.from({ length: 101 }, () => "abcd") })))
      assert.strictEqual(long.code, "rate_limited")
    }).pipe(Effect.provide(layer))
  })
})

describe("vectors", () => {
  it.effect.prop("survive base64 as 32-bit floats", [Schema.Array(Schema.Finite)], ([vector]) =>
    Effect.sync(() => {
      const floats = vector.map(Math.fround).filter(Number.isFinite)
      assert.deepStrictEqual(toNumbers(toBase64(floats)), floats)
    }))

  it("are little-endian", () => {
    assert.strictEqual(toBase64([1, -2]), Buffer.from([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]).toString("base64"))
  })

  it.effect("come in the encoding that was asked for, whatever the provider has", () => {
    const { provider } = recorder(({ model }) =>
      Effect.succeed({ model: model.model, embeddings: [toBase64([1, 2])], usage: { inputTokens: 1, outputTokens: 0 } })
    )
    return Effect.gen(function*() {
      assert.deepStrictEqual((yield* embed({ input: "a" })).embeddings, [[1, 2]])
      assert.deepStrictEqual((yield* embed({ input: "a", encoding: "base64" })).embeddings, [toBase64([1, 2])])
    }).pipe(Effect.provide(layerOf({ providers: [provider] })))
  })
})

const Natural = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 }))

describe("shares", () => {
  it.effect.prop(
    "add up to the whole, and none is further than one from its exact part",
    [Natural, Schema.Array(Natural).check(Schema.isMinLength(1))],
    ([whole, weights]) =>
      Effect.sync(() => {
        const found = shares(whole, weights)
        assert.strictEqual(found.reduce((sum, share) => sum + share, 0), whole)
        const all = weights.reduce((sum, weight) => sum + weight, 0)
        if (all === 0) return
        for (const [at, weight] of weights.entries()) {
          assert.isBelow(Math.abs((found[at] ?? 0) - whole * weight / all), 1.0001)
        }
      })
  )
})

describe("micro-batching", () => {
  const batching = { windowMs: 10, maxInputs: 50 }

  it.effect("1,000 requests at the same time make no more calls than they need", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    const layer = layerOf({
      providers: [{ ...provider, embedLimits: { inputs: 2_048, tokens: 1e6 } }],
      embedBatching: batching
    })
    return Effect.gen(function*() {
      const inputs = Array.from({ length: 1_000 }, (_, at) => "x".repeat(at % 60 + 1))
      const running = yield* Effect.forkChild(
        Effect.forEach(inputs, (input) => embed({ input }), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust(100)
      const responses = yield* Fiber.join(running)
      assert.deepStrictEqual(responses.map(({ embeddings }) => embeddings), inputs.map((input) => [vectorOf(input)]))
      assert.strictEqual(calls.length, 20)
      // Each call told 7 tokens for each of its 50 inputs.
      assert.strictEqual(records.reduce((sum, { usage }) => sum + usage.inputTokens, 0), 7_000)
      assert.lengthOf(records, 1_000)
    }).pipe(Effect.provide(layer))
  })

  it.effect("other parameters and other kinds of input go by themselves", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    return Effect.gen(function*() {
      const running = yield* Effect.forkChild(Effect.forEach(
        [
          embed({ input: "a" }),
          embed({ input: "b", dimensions: 2 }),
          embed({ input: [1, 2] }),
          embed({ input: "c", user: "ann" }),
          embed({ input: "d" })
        ],
        (one) => one,
        { concurrency: "unbounded" }
      ))
      yield* TestClock.adjust(100)
      yield* Fiber.join(running)
      assert.deepStrictEqual(calls.map(({ request }) => request.input), [["a", "d"], "b", [1, 2], "c"])
    }).pipe(Effect.provide(layerOf({ providers: [provider], embedBatching: batching })))
  })

  it.effect("one that leaves takes nothing from the others; the call ends when all have left", () => {
    const { calls, interrupted, provider } = recorder((call) => Effect.delay(Effect.succeed(answerTo(call)), 1_000))
    return Effect.gen(function*() {
      const one = yield* Effect.forkChild(embed({ input: "a" }))
      const other = yield* Effect.forkChild(embed({ input: "bb" }))
      yield* TestClock.adjust(20)
      assert.lengthOf(calls, 1)
      yield* Fiber.interrupt(one)
      assert.strictEqual(interrupted(), 0)
      yield* TestClock.adjust(1_000)
      assert.deepStrictEqual((yield* Fiber.join(other)).embeddings, [vectorOf("bb")])

      const last = [yield* Effect.forkChild(embed({ input: "a" })), yield* Effect.forkChild(embed({ input: "b" }))]
      yield* TestClock.adjust(20)
      assert.lengthOf(calls, 2)
      yield* Fiber.interruptAll(last)
      assert.strictEqual(interrupted(), 1)
      assert.deepStrictEqual(records.map(({ outcome }) => outcome), [
        "cancelled",
        "completed",
        "cancelled",
        "cancelled"
      ])
    }).pipe(Effect.provide(layerOf({ providers: [provider], embedBatching: batching })))
  })

  it.effect("one that leaves before the call goes out is not in it", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    return Effect.gen(function*() {
      const first = yield* Effect.forkChild(embed({ input: "a" }))
      const other = yield* Effect.forkChild(embed({ input: "b" }))
      yield* TestClock.adjust(1)
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust(20)
      yield* Fiber.join(other)
      assert.deepStrictEqual(calls.map(({ request }) => request.input), ["b"])
    }).pipe(Effect.provide(layerOf({ providers: [provider], embedBatching: batching })))
  })

  it.effect("one that comes after all others have left is answered", () => {
    const { calls, provider } = recorder((call) => Effect.delay(Effect.succeed(answerTo(call)), 100))
    return Effect.gen(function*() {
      const first = yield* Effect.forkChild(embed({ input: "a" }))
      yield* TestClock.adjust(1)
      yield* Fiber.interrupt(first)
      const late = yield* Effect.forkChild(embed({ input: "b" }))
      yield* TestClock.adjust(200)
      assert.deepStrictEqual((yield* Fiber.join(late)).embeddings, [vectorOf("b")])
      assert.deepStrictEqual(calls.map(({ request }) => request.input), ["b"])
    }).pipe(Effect.provide(layerOf({ providers: [provider], embedBatching: batching })))
  })

  it.effect("one that waits when the gateway ends does not wait on", () => {
    const { calls, provider } = recorder(() => Effect.never)
    return Effect.gen(function*() {
      const scope = yield* Scope.make()
      const gateway = yield* Layer.buildWithScope(layerOf({ providers: [provider], embedBatching: batching }), scope)
      const waiting = yield* Effect.forkChild(Effect.provideContext(embed({ input: "a" }), gateway))
      yield* TestClock.adjust(50)
      assert.lengthOf(calls, 1)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.isFailure(yield* Fiber.await(waiting)))
    })
  })

  it.effect("a call never holds more tokens than its provider takes", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    const limited = { ...provider, embedLimits: { inputs: 100, tokens: 10 } }
    return Effect.gen(function*() {
      const inputs = Array.from({ length: 5 }, (_, at) => [1, 2, 3, at])
      const running = yield* Effect.forkChild(
        Effect.forEach(inputs, (input) => embed({ input }), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust(100)
      yield* Fiber.join(running)
      assert.deepStrictEqual(calls.map(({ request }) => inputsOf(request.input).length), [2, 2, 1])
    }).pipe(Effect.provide(layerOf({ providers: [limited], embedBatching: batching })))
  })

  it.effect("shares of an estimate are estimates", () => {
    const { provider } = recorder((call) =>
      Effect.succeed({ ...answerTo(call), usage: { inputTokens: 9, outputTokens: 0, estimated: true } })
    )
    return Effect.gen(function*() {
      const running = yield* Effect.forkChild(
        Effect.forEach(["a", "b", "c"], (input) => embed({ input }), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust(100)
      yield* Fiber.join(running)
      assert.deepStrictEqual(records.map(({ usage }) => [usage.inputTokens, usage.estimated]), [
        [3, true],
        [3, true],
        [3, true]
      ])
    }).pipe(Effect.provide(layerOf({ providers: [provider], embedBatching: batching })))
  })

  it.effect("a defect of the provider is told to everyone who waits for it", () => {
    const { provider } = recorder(() => Effect.die(new Error("boom")))
    return Effect.gen(function*() {
      const running = yield* Effect.forkChild(
        Effect.forEach(["a", "b"], (input) => Effect.flip(embed({ input })), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust(100)
      assert.deepStrictEqual((yield* Fiber.join(running)).map(({ code }) => code), ["internal_error", "internal_error"])
    }).pipe(Effect.provide(layerOf({ providers: [provider], embedBatching: batching })))
  })

  it.effect.each(["caller", "contextLength", "contentPolicy", "transient"] as const)(
    "an input that the provider answers with a failure (%s) fails only whoever sent it",
    (kind) => {
      const { provider } = recorder((call) =>
        inputsOf(call.request.input).includes("bad")
          ? Effect.fail(new ProviderError({ provider: "plain", kind, message: "bad" }))
          : Effect.succeed(answerTo(call))
      )
      const layer = layerOf({
        providers: [provider],
        embedBatching: batching,
        attempts: 2,
        retry: { baseMs: 1, maxMs: 1 }
      })
      return Effect.gen(function*() {
        const running = yield* Effect.forkChild(
          Effect.forEach(["a", "bad", "c"], (input) => Effect.exit(embed({ input })), { concurrency: "unbounded" })
        )
        yield* TestClock.adjust(100)
        assert.deepStrictEqual((yield* Fiber.join(running)).map(Exit.isSuccess), [true, false, true])
      }).pipe(Effect.provide(layer))
    }
  )
})

describe("interceptors", () => {
  it.effect("see the texts, and may change them", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    return Effect.gen(function*() {
      const pii = yield* Pii.make({ detect: ["email"] })
      const layer = layerOf({ providers: [provider], interceptors: [pii] })
      yield* embed({ input: ["write to ann@example.com", "nothing here"] }).pipe(Effect.provide(layer))
      assert.notInclude(JSON.stringify(calls[0]?.request.input), "ann@example.com")
      assert.strictEqual(inputsOf(calls[0]?.request.input ?? "")[1], "nothing here")
    })
  })

  const guard: Interceptor = {
    name: "guard",
    order: 1,
    pre: (request) =>
      Effect.succeed(JSON.stringify(request.messages).includes("secret") ? block("no secrets") : { type: "allow" })
  }

  it.effect("may block, also what they cannot read", () => {
    const { calls, provider } = recorder((call) => Effect.succeed(answerTo(call)))
    return Effect.gen(function*() {
      for (const input of ["my secret", [1, 2, 3]]) {
        const failed = yield* Effect.flip(embed({ input }))
        assert.strictEqual(failed.code, "request_blocked")
      }
      yield* embed({ input: "fine" })
      assert.lengthOf(calls, 1)
      assert.deepStrictEqual(records.map(({ outcome }) => outcome), ["blocked", "blocked", "completed"])
    }).pipe(Effect.provide(layerOf({ providers: [provider], interceptors: [guard] })))
  })
})
