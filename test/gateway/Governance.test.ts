/** Limits, budgets and records around the requests of a gateway in process, with the real stores in memory. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Latch, Layer, Random, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Audit from "../../src/gateway/Audit.ts"
import { start } from "../../src/gateway/Exchange.ts"
import { Gateway } from "../../src/gateway/Gateway.ts"
import type { ModelOverride } from "../../src/modules/modelRegistry/Registry.ts"
import { layerMemory } from "../../src/modules/typeRegistry/TypeRegistryMemory.ts"
import { type Part, text } from "../../src/sdk/Content.ts"
import * as BudgetsMemory from "../../src/modules/budgets/BudgetsMemory.ts"
import * as RateLimitsMemory from "../../src/modules/rateLimits/RateLimitsMemory.ts"
import { type AuditEvent, AuditSinkRegistry, layer as auditSink } from "../../src/sdk/AuditSink.ts"
import { type Caller, CurrentCaller, CurrentRequest, type RequestOptions } from "../../src/sdk/Caller.ts"
import type { ChatChunk, ChatRequest } from "../../src/sdk/Chat.ts"
import type { GatewayError } from "../../src/sdk/GatewayError.ts"
import { block, type Interceptor } from "../../src/sdk/Interceptor.ts"
import type { Provider } from "../../src/sdk/Provider.ts"
import { ProviderError } from "../../src/sdk/Provider.ts"
import { type Restrictions, type TenantPolicy, Tenants } from "../../src/sdk/Tenant.ts"
import { SinkError, type UsageRecord, type UsageSink } from "../../src/sdk/UsageSink.ts"
import { answers, composeOver, type Composition, finish, plain, request, says, usage } from "./PlainProvider.ts"

const nano = 1e9
const acme: Caller = { tenant: "acme", user: "ann", keyId: "k1", tags: ["red"] }

const policy = (name: string, restrictions: Partial<Restrictions>, parent?: string): TenantPolicy => ({
  name,
  rateLimits: [],
  budgets: [],
  interceptors: [],
  ...restrictions,
  ...(parent === undefined ? {} : { parent })
})

/** 10 tokens in at 1,000 USD per million, 5 out at 2,000: 0.02 USD an answer. */
const prices = [
  { id: "plain::m", maxOutputTokens: 100, prices: { inputMtok: 1000, outputMtok: 2000 } },
  { id: "plain::other", maxOutputTokens: 100, prices: { inputMtok: 1000, outputMtok: 2000 } }
]
const cost = 0.02 * nano

interface Setting extends Omit<Composition, "providers"> {
  readonly policies: ReadonlyArray<TenantPolicy>
  readonly providers?: ReadonlyArray<Provider>
}

/** A gateway for tenants with the given policies, and what it wrote down. */
const governed = ({ policies, providers = [answering], ...composition }: Setting) => {
  const records: Array<UsageRecord> = []
  const events: Array<AuditEvent> = []
  const sink: UsageSink = {
    name: "recorder",
    durable: true,
    write: (batch) => Effect.sync(() => void records.push(...batch))
  }
  const stores = Layer.mergeAll(BudgetsMemory.layer(), RateLimitsMemory.layer(), Audit.layer).pipe(
    Layer.provideMerge(auditSink({ name: "events", write: (batch) => Effect.sync(() => void events.push(...batch)) })),
    Layer.provideMerge(Layer.mergeAll(AuditSinkRegistry.layer, Tenants.layer(policies)))
  )
  const layer = composeOver(stores, { models: prices, sinks: [sink], ...composition, providers })
  return { records, events, layer }
}

const answering = plain({
  chat: () => Effect.succeed(answers("Hello")),
  streamChat: () => Stream.make(says("Hello"), finish, usage)
})

const as = (caller: Caller, options: RequestOptions = {}) => <A, E, R>(self: Effect.Effect<A, E, R>) =>
  self.pipe(Effect.provideService(CurrentCaller, caller), Effect.provideService(CurrentRequest, options))

const chat = (asked: ChatRequest = { ...request, maxOutputTokens: 5 }) =>
  Effect.flatMap(Gateway, (gateway) => gateway.chat(asked))
const codeOf = (exit: Exit.Exit<unknown, GatewayError>): string =>
  Exit.isSuccess(exit)
    ? "ok"
    : exit.cause.reasons.map((reason) => reason._tag === "Fail" ? reason.error.code : reason._tag).join(",")
/** Events go to the sinks in the background. */
const told = Effect.flatMap(Audit.AuditQueues, (queues) => queues.flush)
const balances = Effect.flatMap(Gateway, (gateway) => gateway.budgets)

// ---------------------------------------------------------------------------------------------------------------------
// Rate limits
// ---------------------------------------------------------------------------------------------------------------------

describe("rate limits", () => {
  it.effect("count requests per user, also those that name none, and say when to come back", () => {
    const { events, layer } = governed({
      policies: [policy("acme", { rateLimits: [{ kind: "requests", per: "user", limit: 2, windowMs: 60_000 }] })]
    })
    return Effect.gen(function*() {
      const outcomes = (caller: Caller) =>
        Effect.forEach([1, 2, 3], () => Effect.map(Effect.exit(chat()), codeOf)).pipe(as(caller))
      assert.deepStrictEqual(yield* outcomes(acme), ["ok", "ok", "rate_limited"])
      assert.deepStrictEqual(yield* outcomes({ ...acme, user: "bob" }), ["ok", "ok", "rate_limited"])
      const { user: _, ...nobody } = acme
      assert.deepStrictEqual(yield* outcomes(nobody), ["ok", "ok", "rate_limited"])
      const error = yield* Effect.flip(chat()).pipe(as(acme))
      assert.isAbove(error.retryAfterMs ?? 0, 0)
      yield* TestClock.adjust(error.retryAfterMs ?? 0)
      assert.strictEqual(codeOf(yield* Effect.exit(chat()).pipe(as(acme))), "ok")
      yield* told
      assert.lengthOf(events.filter(({ type }) => type === "limit_hit"), 4)
    }).pipe(Effect.provide(layer))
  })

  it.effect("of an ancestor are shared by all below it, and a child's own come on top", () => {
    const { layer } = governed({
      policies: [
        policy("acme", { rateLimits: [{ kind: "requests", per: "tenant", limit: 3, windowMs: 60_000 }] }),
        policy("eu", { rateLimits: [{ kind: "requests", per: "tenant", limit: 2, windowMs: 60_000 }] }, "acme"),
        policy("us", {}, "acme")
      ]
    })
    return Effect.gen(function*() {
      const outcome = (tenant: string) => Effect.map(Effect.exit(chat()), codeOf).pipe(as({ ...acme, tenant }))
      assert.deepStrictEqual(yield* Effect.forEach(["eu", "eu", "eu", "us", "us", "acme"], outcome), [
        "ok",
        "ok",
        "rate_limited",
        "ok",
        "rate_limited",
        "rate_limited"
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("of tokens take an estimate first, and the truth in the end", () => {
    const { layer } = governed({
      policies: [policy("acme", { rateLimits: [{ kind: "tokens", per: "tenant", limit: 1000, windowMs: 3_600_000 }] })]
    })
    return Effect.gen(function*() {
      // Each may need 300 tokens, and needs 15: with the estimate alone the fourth would be too many.
      const outcome = Effect.map(Effect.exit(chat({ ...request, maxOutputTokens: 300 })), codeOf).pipe(as(acme))
      assert.deepStrictEqual(yield* Effect.forEach(Array.from({ length: 8 }), () => outcome), Array(8).fill("ok"))
      const tooMany = chat({ ...request, maxOutputTokens: 100, n: 10 })
      assert.strictEqual(codeOf(yield* Effect.exit(tooMany).pipe(as(acme))), "rate_limited")
    }).pipe(Effect.provide(layer))
  })

  for (
    const rule of [
      { kind: "requests", per: "model", limit: 2, windowMs: 3_600_000 },
      // Each answer has 15, and is estimated at 12.
      { kind: "tokens", per: "model", limit: 40, windowMs: 3_600_000 }
    ] as const
  ) {
    it.effect(`of ${rule.kind} of a model hold for it as a fallback, too, and then the next one has its turn`, () => {
      const isBroken = (model: string) => model.startsWith("m")
      const broken = new ProviderError({ provider: "plain", kind: "protocol", message: "broken" })
      const failing = plain({
        chat: ({ model }) => isBroken(model.model) ? Effect.fail(broken) : Effect.succeed(answers("Hello")),
        streamChat: ({ model }) =>
          isBroken(model.model) ? Stream.fail(broken) : Stream.make(says("Hello"), finish, usage)
      })
      const { layer, records } = governed({
        providers: [failing],
        attempts: 3,
        policies: [policy("acme", { rateLimits: [rule] })]
      })
      const asked = (model: string) => ({
        ...request,
        model: `plain::${model}`,
        maxOutputTokens: 5,
        fallback: { models: ["plain::other", "plain::last"] }
      })
      return Effect.gen(function*() {
        yield* chat(asked("m1")).pipe(as(acme))
        yield* Effect.flatMap(Gateway, (gateway) => Stream.runDrain(gateway.streamChat(asked("m2")))).pipe(as(acme))
        yield* chat(asked("m3")).pipe(as(acme))
        assert.strictEqual(codeOf(yield* Effect.exit(chat(asked("other"))).pipe(as(acme))), "rate_limited")
        assert.deepStrictEqual(records.map(({ modelUsed }) => modelUsed), [
          "plain::other",
          "plain::other",
          "plain::last",
          "plain::other"
        ])
      }).pipe(Effect.provide(layer))
    })
  }

  it.effect("of requests at the same time hold for a model as a fallback, too", () => {
    const slow = plain({
      chat: ({ model }) =>
        model.model.startsWith("m")
          ? Effect.fail(new ProviderError({ provider: "plain", kind: "protocol", message: "broken" }))
          : Effect.as(Effect.sleep(1000), answers("Hello"))
    })
    const { layer, records } = governed({
      providers: [slow],
      attempts: 3,
      policies: [policy("acme", { rateLimits: [{ kind: "concurrent", per: "model", limit: 1 }] })]
    })
    const asked = (model: string) => ({ ...request, model, fallback: { models: ["plain::other"] } })
    return Effect.gen(function*() {
      const first = yield* Effect.forkChild(chat(asked("plain::m1")).pipe(as(acme)))
      yield* TestClock.adjust(10)
      assert.strictEqual(codeOf(yield* Effect.exit(chat(asked("plain::m2"))).pipe(as(acme))), "provider_error")
      yield* TestClock.adjust(2000)
      yield* Fiber.join(first)
      const third = yield* Effect.forkChild(chat(asked("plain::m3")).pipe(as(acme)))
      yield* TestClock.adjust(2000)
      yield* Fiber.join(third)
      assert.deepStrictEqual(records.map(({ outcome }) => outcome), ["failed", "completed", "completed"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("that are declared twice for the same count once, by the lower figure", () => {
    const { layer } = governed({ policies: [] })
    const rules = [
      { kind: "requests", per: "key", limit: 5, windowMs: 60_000 },
      { kind: "requests", per: "key", limit: 2, windowMs: 60_000 },
      { kind: "concurrent", per: "key", limit: 1 },
      { kind: "concurrent", per: "key", limit: 3 }
    ] as const
    return Effect.gen(function*() {
      const outcome = Effect.map(Effect.exit(chat()), codeOf).pipe(
        as({ ...acme, restrictions: { rateLimits: rules, budgets: [] } })
      )
      assert.deepStrictEqual(yield* Effect.forEach([1, 2, 3], () => outcome), ["ok", "ok", "rate_limited"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("refuse also what is wrong, once they are used up", () => {
    const { layer } = governed({
      policies: [policy("acme", { rateLimits: [{ kind: "requests", per: "tenant", limit: 2, windowMs: 60_000 }] })]
    })
    const wrong = { ...request, model: "nobody::m" }
    return Effect.gen(function*() {
      const outcome = Effect.map(Effect.exit(chat(wrong)), codeOf).pipe(as(acme))
      assert.deepStrictEqual(yield* Effect.forEach([1, 2, 3], () => outcome), [
        "model_not_found",
        "model_not_found",
        "rate_limited"
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("of requests at the same time free their places on every exit", () => {
    let running = 0
    let most = 0
    const slow = plain({
      chat: () =>
        Effect.sync(() => {
          most = Math.max(most, ++running)
        }).pipe(
          Effect.andThen(Effect.sleep(1000)),
          Effect.as(answers("Hello")),
          Effect.ensuring(Effect.sync(() => running--))
        )
    })
    const { layer } = governed({
      providers: [slow],
      policies: [policy("acme", { rateLimits: [{ kind: "concurrent", per: "user", limit: 2 }] })]
    })
    return Effect.gen(function*() {
      const first = yield* Effect.forkChild(chat().pipe(as(acme)))
      const second = yield* Effect.forkChild(chat().pipe(as(acme)))
      yield* TestClock.adjust(10)
      assert.strictEqual(codeOf(yield* Effect.exit(chat()).pipe(as(acme))), "rate_limited")
      yield* Fiber.interrupt(first)
      const third = yield* Effect.forkChild(chat().pipe(as(acme)))
      yield* TestClock.adjust(2000)
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(second)))
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(third)))
      assert.strictEqual(most, 2)
    }).pipe(Effect.provide(layer))
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Budgets
// ---------------------------------------------------------------------------------------------------------------------

describe("budgets", () => {
  const budget = (usd: number, per: "tenant" | "user" | "tag" | "model" | "key" = "tenant") =>
    ({ per, limitNanoUsd: Math.round(usd * nano), window: "day" }) as const

  it.effect("are never passed by 1,000 requests at the same time that end in every way, and account for each", () => {
    const unruly = plain({
      chat: () =>
        Effect.gen(function*() {
          const fate = yield* Random.nextIntBetween(0, 5)
          yield* Effect.sleep(yield* Random.nextIntBetween(1, 50))
          if (fate === 0) return yield* new ProviderError({ provider: "plain", kind: "caller", message: "no" })
          if (fate === 1) return yield* Effect.die("broken")
          const outputTokens = yield* Random.nextIntBetween(0, 6)
          return { ...answers("Hello"), usage: { inputTokens: 10, outputTokens } }
        })
    })
    const limit = 5
    const { layer, records } = governed({
      providers: [unruly],
      policies: [policy("acme", { budgets: [budget(limit), budget(3, "user"), budget(2, "tag")] })]
    })
    return Effect.gen(function*() {
      const sampled: Array<number> = []
      const one = Effect.gen(function*() {
        const user = `u${yield* Random.nextIntBetween(0, 4)}`
        const fiber = yield* Effect.forkChild(chat().pipe(as({ ...acme, user })))
        const patience = yield* Random.nextIntBetween(1, 80)
        if (patience < 20) {
          yield* Effect.sleep(patience)
          yield* Fiber.interrupt(fiber)
        }
        return codeOf(yield* Fiber.await(fiber))
      })
      const watch = Effect.forever(Effect.gen(function*() {
        for (const { account, reservedNanoUsd, spentNanoUsd } of yield* balances.pipe(as(acme))) {
          sampled.push(spentNanoUsd + reservedNanoUsd)
          assert.isAtMost(spentNanoUsd + reservedNanoUsd, account.limitNanoUsd)
        }
        yield* Effect.sleep(5)
      }))
      const watching = yield* Effect.forkChild(watch)
      const all = yield* Effect.forkChild(Effect.all(Array.from({ length: 1000 }, () => one), { concurrency: 64 }))
      yield* TestClock.adjust("2 minutes")
      const outcomes = yield* Fiber.join(all)
      yield* Fiber.interrupt(watching)
      assert.includeMembers(outcomes, ["ok", "budget_exceeded", "Interrupt"])
      assert.isAbove(sampled.length, 10)
      const [tenant] = yield* balances.pipe(as(acme))
      assert.strictEqual(tenant?.reservedNanoUsd, 0)
      assert.strictEqual(tenant?.spentNanoUsd, records.reduce((sum, { costNanoUsd = 0 }) => sum + costNanoUsd, 0))
      assert.lengthOf(records.filter(({ kind }) => kind === "request"), 1000)
    }).pipe(Effect.provide(layer))
  })

  it.effect("refuse what could cost too much, naming budget and time, before a provider is called", () => {
    let calls = 0
    const counting = plain({
      chat: () => {
        calls++
        return Effect.succeed(answers("Hello"))
      }
    })
    const { events, layer } = governed({
      providers: [counting],
      policies: [policy("acme", { budgets: [budget(0.01)] })]
    })
    return Effect.gen(function*() {
      const error = yield* Effect.flip(chat()).pipe(as(acme))
      assert.strictEqual(error.code, "budget_exceeded")
      assert.strictEqual(error.status, 402)
      assert.include(error.message, "day budget of tenant acme")
      assert.include(error.message, "1970-01-02T00:00:00")
      assert.strictEqual(calls, 0)
      yield* told
      assert.deepStrictEqual(events.map(({ type }) => type), ["request_started", "limit_hit", "request_failed"])
    }).pipe(Effect.provide(layer))
  })

  // Prompt and answer as providers count them, beyond what a rule of thumb makes of them. 0.001 USD a token.
  const flat = { inputMtok: 1000, outputMtok: 1000 }
  const asks = (...content: ReadonlyArray<Part>): ChatRequest => ({
    model: "plain::m",
    messages: [{ role: "user", content }],
    maxOutputTokens: 1
  })
  const longSchema = { type: "object", properties: { field: { enum: Array.from({ length: 200 }, (_, i) => `e${i}`) } } }
  const dear: ReadonlyArray<{
    readonly name: string
    readonly asked: ChatRequest
    readonly model?: Partial<ModelOverride>
    /** USD. */
    readonly costs: number
  }> = [
    // cl100k and o200k make one token of most of these signs.
    { name: "text of which each sign is a token", asked: asks(text("!1?2~3^4".repeat(500))), costs: 4 },
    // Three bytes, for none of which the vocabularies have a longer token.
    {
      name: "text in a script of which each byte is a token",
      asked: asks(text("\u{16a0}\u{16a2}".repeat(500))),
      costs: 3
    },
    {
      name: "a block of one wire",
      asked: asks({ type: "opaque", wire: "plain", value: { text: "word ".repeat(1000) } }),
      costs: 1
    },
    {
      name: "fields of one wire",
      asked: { ...asks(text("Hello?")), extensions: { plain: { prefix: "word ".repeat(1000) } } },
      costs: 1
    },
    // 60 s of 16 kbit/s, at 32 tokens a second.
    {
      name: "sound",
      asked: asks({ type: "audio", source: { type: "base64", mediaType: "audio/mpeg", data: "AAAA".repeat(40_000) } }),
      costs: 1.92
    },
    // 60 pages of text at 10 KB and 600 tokens.
    {
      name: "a document",
      asked: asks({
        type: "document",
        source: { type: "base64", mediaType: "application/pdf", data: "AAAA".repeat(200_000) }
      }),
      costs: 36
    },
    {
      name: "an image of 4,784 tokens",
      asked: asks({ type: "image", source: { type: "url", url: "https://acme.example/a.png" } }),
      costs: 4.784
    },
    {
      name: "the schema of the answer",
      asked: {
        ...asks(text("Hello?")),
        responseSchema: { type: "json_schema", schema: longSchema }
      },
      costs: 0.4
    },
    {
      name: "the schema of a tool that is a reference",
      asked: { ...asks(text("Hello?")), tools: [{ type: "reference", schemaId: "gts.x.acme.tools.long.v1~" }] },
      costs: 0.4
    },
    {
      name: "an answer that is dearer behind a long prompt",
      asked: { ...asks(text("word ".repeat(1000))), maxOutputTokens: 1000 },
      model: { prices: { inputMtok: 1, outputMtok: { base: 1000, tiers: [{ start: 500, price: 2000 }] } } },
      costs: 2
    },
    {
      name: "an answer that is an image",
      asked: { ...asks(text("Draw!")), maxOutputTokens: 1000 },
      model: { prices: { ...flat, outputImageMtok: 30_000 } },
      costs: 30
    },
    {
      name: "an answer longer than one expects of a model of which nothing is known",
      asked: { ...asks(text("Hello?")), maxOutputTokens: 100_000 },
      costs: 100
    },
    {
      name: "several answers",
      asked: { ...asks(text("Hello?")), maxOutputTokens: 100, n: 50 },
      costs: 5
    }
  ]
  for (const { asked, costs, model, name } of dear) {
    it.effect(`set aside what can be consumed at most: ${name}`, () => {
      let calls = 0
      const counting = plain({
        chat: () => {
          calls++
          return Effect.succeed(answers("{\"field\":\"e1\"}"))
        }
      })
      const types = Layer.orDie(layerMemory([{ $id: "gts://gts.x.acme.tools.long.v1~", ...longSchema }]))
      const outcome = (usd: number) => {
        const { layer } = governed({
          providers: [counting],
          types,
          models: [{ id: "plain::m", prices: flat, ...model }],
          policies: [policy("acme", { budgets: [budget(usd)] })]
        })
        return Effect.map(Effect.exit(chat(asked)), codeOf).pipe(as(acme), Effect.provide(layer))
      }
      return Effect.gen(function*() {
        assert.strictEqual(yield* outcome(costs - 1e-9), "budget_exceeded")
        assert.strictEqual(calls, 0)
        assert.strictEqual(yield* outcome(costs * 30), "ok")
      })
    })
  }

  it.effect("set no more aside for a prompt than the model's window holds", () => {
    const { layer } = governed({
      models: [{ id: "plain::m", contextWindow: 2000, prices: flat }],
      policies: [policy("acme", { budgets: [budget(3)] })]
    })
    const pdf = {
      type: "document",
      source: { type: "base64", mediaType: "application/pdf", data: "AAAA".repeat(10_000) }
    } as const
    return Effect.gen(function*() {
      assert.strictEqual(codeOf(yield* Effect.exit(chat(asks(pdf))).pipe(as(acme))), "ok")
    }).pipe(Effect.provide(layer))
  })

  it.effect("pay for all answers where the provider tells no figures", () => {
    const text40 = "four words of text. ".repeat(2)
    const silent = plain({
      chat: () =>
        Effect.succeed({
          id: "answer-1",
          model: "m",
          content: [text(text40)],
          finishReason: "stop" as const,
          alternatives: [{ content: [text(text40)], finishReason: "stop" as const }]
        })
    })
    const { layer, records } = governed({ providers: [silent], policies: [] })
    return Effect.gen(function*() {
      yield* chat({ ...request, n: 2 }).pipe(as(acme))
      assert.strictEqual(records[0]?.usage.outputTokens, 20)
    }).pipe(Effect.provide(layer))
  })

  it.effect("of a model are the served one's, of a tag those of the request and of interceptors", () => {
    const failing = plain({
      chat: ({ model }) =>
        model.model === "m"
          ? Effect.fail(new ProviderError({ provider: "plain", kind: "protocol", message: "broken" }))
          : Effect.succeed(answers("Hello"))
    })
    const tagging: Interceptor = {
      name: "tagging",
      order: 1,
      pre: (_, context) =>
        Effect.sync(() => {
          context.tag("team=a")
          return { type: "allow" } as const
        })
    }
    const { layer, records } = governed({
      providers: [failing],
      interceptors: [tagging],
      attempts: 2,
      policies: [policy("acme", { budgets: [budget(100, "model"), budget(100, "tag")] })]
    })
    return Effect.gen(function*() {
      yield* chat({ ...request, maxOutputTokens: 5, fallback: { models: ["plain::other"] } }).pipe(
        as(acme, { tags: ["blue"] })
      )
      const tagged = yield* balances.pipe(as({ ...acme, tags: ["red", "blue", "team=a", "green"] }))
      assert.deepStrictEqual(tagged.map(({ spentNanoUsd }) => spentNanoUsd), [cost, cost, cost, 0])
      assert.deepStrictEqual(records.map(({ modelUsed, tags }) => ({ modelUsed, tags })), [
        { modelUsed: "plain::other", tags: ["red", "blue", "team=a"] }
      ])
    }).pipe(Effect.provide(layer))
  })

  for (
    const [unknownPrice, expected, spent] of [
      ["deny_if_budgeted", "budget_exceeded", 0],
      ["free", "ok", 0],
      [{ flatNanoUsd: 7 }, "ok", 7]
    ] as const
  ) {
    it.effect(`a model without a known price: ${JSON.stringify(unknownPrice)}`, () => {
      const { layer, records } = governed({
        models: [],
        budgets: { unknownPrice },
        policies: [policy("acme", { budgets: [budget(1)] })]
      })
      return Effect.gen(function*() {
        assert.strictEqual(codeOf(yield* Effect.exit(chat()).pipe(as(acme))), expected)
        const [balance] = yield* balances.pipe(as(acme))
        assert.strictEqual(balance?.spentNanoUsd, spent)
        assert.strictEqual(balance?.reservedNanoUsd, 0)
        assert.strictEqual(records[0]?.costNanoUsd ?? 0, spent)
      }).pipe(Effect.provide(layer))
    })
  }

  it.effect("of a model hold whatever it is called, and nobody's accounting stops at it", () => {
    const { layer, records } = governed({
      budgets: { unknownPrice: { flatNanoUsd: 1 } },
      policies: [policy("acme", { budgets: [budget(1, "model"), budget(1)] })]
    })
    return Effect.gen(function*() {
      const odd = ["a\0b", "\ud800", "x".repeat(500)]
      for (const model of odd) yield* Effect.exit(chat({ ...request, model: `plain::${model}` })).pipe(as(acme))
      assert.strictEqual(codeOf(yield* Effect.exit(chat()).pipe(as(acme))), "ok")
      const [balance] = yield* balances.pipe(as(acme))
      assert.strictEqual(balance?.reservedNanoUsd, 0)
      assert.lengthOf(records, odd.length + 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("take only texts of interceptors for tags", () => {
    const garbage: Interceptor = {
      name: "garbage",
      order: 1,
      pre: (_, context) =>
        Effect.sync(() => {
          for (const tag of [undefined, 7, {}, "", "fine"]) Reflect.apply(context.tag, context, [tag])
          return { type: "allow" } as const
        })
    }
    const { layer, records } = governed({
      interceptors: [garbage],
      policies: [policy("acme", { budgets: [budget(1, "tag")] })]
    })
    return Effect.gen(function*() {
      yield* chat().pipe(as(acme))
      assert.deepStrictEqual(records[0]?.tags, ["red", "fine"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("warn once at each share that is spent", () => {
    const { events, layer } = governed({ policies: [policy("acme", { budgets: [budget(0.3)] })] })
    return Effect.gen(function*() {
      for (let spent = 0; spent < 16; spent++) yield* Effect.exit(chat()).pipe(as(acme))
      yield* told
      const warnings = events.filter(({ type }) => type === "budget_warning")
      assert.deepStrictEqual(warnings.map(({ details }) => details["share"]), [0.8])
    }).pipe(Effect.provide(layer))
  })

  it.effect("a key's own hold for it on top of its tenant's", () => {
    const { layer } = governed({ policies: [policy("acme", { budgets: [budget(1)] })] })
    const limited: Caller = { ...acme, keyId: "k2", restrictions: { rateLimits: [], budgets: [budget(0.03, "key")] } }
    return Effect.gen(function*() {
      const outcome = (caller: Caller) => Effect.map(Effect.exit(chat()), codeOf).pipe(as(caller))
      assert.deepStrictEqual(yield* Effect.forEach([limited, limited, acme], outcome), ["ok", "budget_exceeded", "ok"])
    }).pipe(Effect.provide(layer))
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Records
// ---------------------------------------------------------------------------------------------------------------------

describe("records of calls that did not serve", () => {
  it.effect("a hedge's loser and a call that took too long cost their prompt, and are marked", () => {
    const racing = plain({
      streamChat: ({ model }) =>
        model.model === "m"
          ? Stream.fromEffect(Effect.as(Effect.sleep(60_000), says("late")))
          : Stream.make(says("Hello"), finish, usage)
    })
    const { layer, records } = governed({
      providers: [racing],
      attempts: 2,
      timeouts: { firstToken: 5_000 },
      policies: [policy("acme", { budgets: [{ per: "tenant", limitNanoUsd: nano, window: "day" }] })]
    })
    return Effect.gen(function*() {
      const streamed = (strategy: "parallel" | "sequential") =>
        Effect.flatMap(Gateway, (gateway) =>
          Stream.runDrain(
            gateway.streamChat({
              ...request,
              maxOutputTokens: 5,
              stream: true,
              fallback: { models: ["plain::other"], strategy }
            })
          )).pipe(as(acme))
      for (const strategy of ["parallel", "sequential"] as const) {
        const fiber = yield* Effect.forkChild(streamed(strategy))
        yield* TestClock.adjust(10_000)
        yield* Fiber.join(fiber)
      }
      const [balance] = yield* balances.pipe(as(acme))
      assert.strictEqual(balance?.spentNanoUsd, records.reduce((sum, { costNanoUsd = 0 }) => sum + costNanoUsd, 0))
      assert.strictEqual(balance?.reservedNanoUsd, 0)
      assert.deepStrictEqual(
        records.map(({ estimatedBecause, kind, modelUsed, outcome }) => ({
          estimatedBecause,
          kind,
          modelUsed,
          outcome
        })),
        [
          { kind: "request", modelUsed: "plain::other", outcome: "completed", estimatedBecause: undefined },
          { kind: "attempt", modelUsed: "plain::m", outcome: "cancelled", estimatedBecause: "hedge_lost" },
          { kind: "request", modelUsed: "plain::other", outcome: "completed", estimatedBecause: undefined },
          { kind: "attempt", modelUsed: "plain::m", outcome: "failed", estimatedBecause: "timeout" }
        ]
      )
      assert.strictEqual(new Set(records.map(({ id }) => id)).size, 4)
    }).pipe(Effect.provide(layer))
  })

  it.effect("a stream that is left is paid for by what came of it, whatever figures came with its first chunk", () => {
    const early: ChatChunk = { ...says("Well"), usage: { inputTokens: 10, outputTokens: 1 } }
    const { layer, records } = governed({
      providers: [plain({
        streamChat: () => Stream.concat(Stream.make(early, says("word".repeat(1000)), says("!")), Stream.never)
      })],
      policies: []
    })
    return Effect.gen(function*() {
      const gateway = yield* Gateway
      yield* Stream.runDrain(
        Stream.takeUntil(
          gateway.streamChat(request),
          ({ delta }) => delta.some((part) => part.type === "text" && part.text === "!")
        )
      ).pipe(as(acme))
      const [record] = records
      assert.strictEqual(record?.usage.inputTokens, 10)
      assert.isAtLeast(record?.usage.outputTokens ?? 0, 1000)
      assert.strictEqual(record?.estimatedBecause, "client_disconnect")
    }).pipe(Effect.provide(layer))
  })

  it.effect("a stream that nobody begins to read is accounted for like one that was left", () => {
    const { layer, records } = governed({
      providers: [plain({ streamChat: () => Stream.concat(Stream.make(says("Hello")), Stream.never) })],
      policies: [policy("acme", {
        budgets: [{ per: "tenant", limitNanoUsd: nano, window: "day" }],
        rateLimits: [{ kind: "concurrent", per: "tenant", limit: 1 }]
      })]
    })
    return Effect.gen(function*() {
      const gateway = yield* Gateway
      const open = Effect.flatMap(
        start("plain::m", true),
        (exchange) => gateway.openChat({ ...request, maxOutputTokens: 5, stream: true }, exchange)
      )
      for (const _ of [1, 2]) assert.strictEqual(codeOf(yield* Effect.exit(Effect.scoped(open)).pipe(as(acme))), "ok")
      const [balance] = yield* balances.pipe(as(acme))
      assert.strictEqual(balance?.reservedNanoUsd, 0)
      assert.deepStrictEqual(
        records.map(({ estimatedBecause, outcome }) => ({ estimatedBecause, outcome })),
        [1, 2].map(() => ({ estimatedBecause: "client_disconnect", outcome: "cancelled" } as const))
      )
      assert.isAbove(balance?.spentNanoUsd ?? 0, 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("name the user that key, header and body name, in that order", () => {
    const { layer, records } = governed({ policies: [] })
    const { user: _, ...userless } = acme
    return Effect.gen(function*() {
      yield* chat({ ...request, user: "body" }).pipe(as(userless))
      yield* chat({ ...request, user: "body" }).pipe(as(userless, { user: "header" }))
      yield* chat({ ...request, user: "body" }).pipe(as(acme, { user: "header", conversationId: "c1" }))
      assert.deepStrictEqual(records.map(({ user }) => user), ["body", "header", "ann"])
      assert.strictEqual(records[2]?.conversationId, "c1")
    }).pipe(Effect.provide(layer))
  })
})

describe("strict durability", () => {
  it.effect("no answer ends before its record is written, whole and streamed", () => {
    let open = false
    const written: Array<string> = []
    const gate: UsageSink = {
      name: "gate",
      durable: true,
      write: (batch) =>
        Effect.suspend(() => {
          if (!open) return Effect.fail(new SinkError({ sink: "gate", message: "closed" }))
          written.push(...batch.map(({ id }) => id))
          return Effect.void
        })
    }
    const { layer } = governed({
      policies: [],
      sinks: [gate],
      ledger: { durability: "strict", commitTimeoutMs: 60_000 }
    })
    return Effect.gen(function*() {
      const seen: Array<string> = []
      const whole = yield* Effect.forkChild(chat().pipe(as(acme)))
      const streamed = yield* Effect.forkChild(
        Effect.flatMap(Gateway, (gateway) =>
          Stream.runForEach(
            gateway.streamChat(request),
            (chunk) => Effect.sync(() => seen.push(chunk.finishReason ?? ""))
          )).pipe(as(acme))
      )
      yield* TestClock.adjust(1000)
      assert.isUndefined(whole.pollUnsafe())
      assert.isUndefined(streamed.pollUnsafe())
      assert.include(seen, "stop", "what the caller reads is not held back, but its end is")
      open = true
      yield* TestClock.adjust(10_000)
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(whole)))
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(streamed)))
      assert.lengthOf(written, 2)
    }).pipe(Effect.provide(layer))
  })

  it.effect("where records cannot be written answers fail, and new requests are refused until they can", () => {
    let open = false
    let calls = 0
    const gate: UsageSink = {
      name: "gate",
      durable: true,
      write: () => open ? Effect.void : Effect.fail(new SinkError({ sink: "gate", message: "closed" }))
    }
    const counting = plain({
      chat: () => {
        calls++
        return Effect.succeed(answers("Hello"))
      }
    })
    const { layer } = governed({ policies: [], providers: [counting], sinks: [gate] })
    return Effect.gen(function*() {
      const outcome = Effect.map(Effect.exit(chat()), codeOf).pipe(as(acme))
      const first = yield* Effect.forkChild(outcome)
      yield* TestClock.adjust(5_000)
      assert.strictEqual(yield* Fiber.join(first), "store_unavailable")
      const second = yield* Effect.forkChild(outcome)
      yield* TestClock.adjust(5_000)
      assert.strictEqual(yield* Fiber.join(second), "store_unavailable")
      assert.strictEqual(calls, 1, "no provider is called whose answer nobody may read")
      open = true
      yield* TestClock.adjust(20_000)
      assert.strictEqual(yield* outcome, "ok")
    }).pipe(Effect.provide(layer))
  })
})

describe("the end of the gateway", () => {
  it.effect("waits for records that a slow database holds up, and then hands them to all other sinks", () =>
    Effect.gen(function*() {
      const freed = yield* Latch.make(false)
      const lines: Array<string> = []
      const slow: UsageSink = { name: "slow", durable: true, write: () => freed.await }
      const log: UsageSink = {
        name: "log",
        write: (batch) => Effect.sync(() => void lines.push(...batch.map(({ requestId }) => requestId)))
      }
      const { layer } = governed({ policies: [], sinks: [slow, log], ledger: { durability: "batched" } })
      const scope = yield* Scope.make()
      const gateway = yield* Layer.buildWithScope(layer, scope)
      for (const requestId of ["first", "second"]) {
        yield* chat().pipe(as(acme, { requestId }), Effect.provideContext(gateway))
      }
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(lines, [])
      yield* freed.open
      yield* Fiber.join(closing)
      assert.deepStrictEqual(lines, ["first", "second"])
    }))
})

describe("the audit trail", () => {
  it.effect("tells how each request began and ended", () => {
    const guard: Interceptor = {
      name: "guard",
      order: 1,
      appliesTo: ({ user }) => user === "mallory",
      pre: () => Effect.succeed(block("not you"))
    }
    const failing = plain({
      chat: ({ model }) =>
        model.model === "m"
          ? Effect.fail(new ProviderError({ provider: "plain", kind: "protocol", message: "broken" }))
          : Effect.succeed(answers("Hello"))
    })
    const { events, layer } = governed({ providers: [failing], interceptors: [guard], attempts: 2, policies: [] })
    return Effect.gen(function*() {
      yield* Effect.exit(chat()).pipe(as(acme))
      yield* chat({ ...request, fallback: { models: ["plain::other"] } }).pipe(as(acme))
      yield* Effect.exit(chat()).pipe(as({ ...acme, user: "mallory" }))
      yield* told
      assert.deepStrictEqual(events.map(({ type }) => type), [
        "request_started",
        "request_failed",
        "request_started",
        "fallback_triggered",
        "request_completed",
        "request_started",
        "request_blocked"
      ])
      assert.strictEqual(events.at(-1)?.details["interceptor"], "guard")
      assert.notInclude(JSON.stringify(events), "Hello")
    }).pipe(Effect.provide(layer))
  })
})
