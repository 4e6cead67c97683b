/**
 * Operations that are not sold by the token, whole and streamed, described as the gateway's own are: who may pay for them,
 * what they cost, what interceptors see of them, and that their upstreams do not outlive their callers.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Result, type Scope, Stream } from "effect"
import * as Audit from "../../src/gateway/Audit.ts"
import type { GatewayOptions } from "../../src/gateway/Gateway.ts"
import * as Pipeline from "../../src/gateway/Pipeline.ts"
import type { Meter, StreamOperation } from "../../src/gateway/StreamOperation.ts"
import * as Streamed from "../../src/gateway/StreamOperation.ts"
import type { WholeOperation } from "../../src/gateway/WholeOperation.ts"
import * as Whole from "../../src/gateway/WholeOperation.ts"
import * as BudgetsMemory from "../../src/modules/budgets/BudgetsMemory.ts"
import type { Asked } from "../../src/gateway/Operation.ts"
import { type AuditEvent, AuditSinkRegistry, layer as auditSink } from "../../src/sdk/AuditSink.ts"
import { CurrentCaller } from "../../src/sdk/Caller.ts"
import { text } from "../../src/sdk/Content.ts"
import type { GatewayError } from "../../src/sdk/GatewayError.ts"
import { block, type Interceptor, modify } from "../../src/sdk/Interceptor.ts"
import type { Prices } from "../../src/sdk/Model.ts"
import { dearestVariant } from "../../src/sdk/Pricing.ts"
import { type Provider, ProviderError } from "../../src/sdk/Provider.ts"
import { Tenants } from "../../src/sdk/Tenant.ts"
import type { Usage } from "../../src/sdk/Usage.ts"
import type { UsageRecord } from "../../src/sdk/UsageSink.ts"
import { composeOver, type Composition, plain } from "./PlainProvider.ts"

const nano = 1e9

// ---------------------------------------------------------------------------------------------------------------------
// Two operations
// ---------------------------------------------------------------------------------------------------------------------

interface Drawing extends Asked {
  readonly prompt: string
  readonly images: number
  readonly size?: string
}

interface Drawn {
  readonly made: ReadonlyArray<string>
  readonly usage?: Usage
}

const drawn = ({ images, size }: Drawing, prices?: Prices): Usage => {
  const variant = size ?? dearestVariant(prices?.image)
  return { inputTokens: 0, outputTokens: 0, images, ...(variant === undefined ? {} : { variant }) }
}

const common = {
  lacks: () => undefined,
  inputTokens: () => 0,
  mostInputTokens: () => 0,
  outputTokens: () => 0,
  longestAnswer: () => 0,
  validate: () => Result.void,
  userOf: () => undefined
} as const

const drawing = (
  answer: (request: Drawing) => Effect.Effect<Drawn, ProviderError>
): WholeOperation<Drawing, Drawn> => ({
  ...common,
  name: "image",
  requirements: () => ["image_output"],
  expected: (request, prices) => drawn(request, prices),
  dearest: (request, prices) => ({ read: { inputTokens: 0, outputTokens: 0 }, whole: drawn(request, prices) }),
  givenUp: (request) => ({ ...drawn(request), estimated: true }),
  shown: ({ model, prompt }) => ({ model, messages: [{ role: "user", content: [text(prompt)] }] }),
  changed: (request, [prompt = ""]) => ({ ...request, prompt }),
  calls: (request) => ({ call: () => answer(request), wasted: () => [] }),
  accounted: (response, { usage }) => ({ ...response, usage }),
  droppedOf: () => undefined
})

type Sound =
  | { readonly type: "start" }
  | { readonly type: "bytes"; readonly length: number }
  | { readonly type: "words"; readonly text: string }
  | { readonly type: "end"; readonly usage?: Usage }

/** Ten milliseconds a byte. */
class Clockwork implements Meter<Sound> {
  #ms = 0
  observe(sound: Sound): void {
    if (sound.type === "bytes") this.#ms += sound.length * 10
  }
  usage(): Usage {
    return { inputTokens: 0, outputTokens: 0, outputAudioMs: this.#ms, estimated: true }
  }
}

interface Saying extends Asked {
  readonly words: string
}

const saying = (
  stream: (model: string) => Stream.Stream<Sound, ProviderError>
): StreamOperation<Saying, Sound> => ({
  ...common,
  name: "speak",
  requirements: () => ["speech"],
  expected: () => ({ inputTokens: 0, outputTokens: 0, outputAudioMs: 1000 }),
  dearest: () => ({
    read: { inputTokens: 0, outputTokens: 0 },
    whole: { inputTokens: 0, outputTokens: 0, outputAudioMs: 1000 }
  }),
  givenUp: () => ({ inputTokens: 0, outputTokens: 0, estimated: true }),
  shown: ({ model, words }) => ({ model, messages: [{ role: "user", content: [text(words)] }] }),
  changed: (request, [words = ""]) => ({ ...request, words }),
  chunks: {
    hasContent: ({ type }) => type === "bytes" || type === "words",
    ends: ({ type }) => type === "end",
    usage: (sound) => sound.type === "end" ? sound.usage : undefined
  },
  stream: (_, { model }) => stream(model.model),
  meter: () => new Clockwork(),
  accounted: (sound, usage) => sound.type === "end" ? { ...sound, usage } : sound,
  answered: {
    texts: (sounds) => sounds.flatMap((sound) => sound.type === "words" ? [sound.text] : []),
    changed: (sounds, texts) => {
      const left = [...texts]
      return sounds.map((sound) => sound.type === "words" ? { ...sound, text: left.shift() ?? "" } : sound)
    }
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// A gateway
// ---------------------------------------------------------------------------------------------------------------------

const models = [
  {
    id: "plain::painter",
    prices: { inputMtok: 0, outputMtok: 0, image: { base: 0.04, variants: { "1024x1024/hd": 0.08, "2048x2048": 0.2 } } }
  },
  { id: "plain::cheap-painter", prices: { inputMtok: 0, outputMtok: 0, image: 0.01 } },
  { id: "plain::writer", prices: { inputMtok: 1, outputMtok: 2 } },
  { id: "plain::speaker", prices: { inputMtok: 0, outputMtok: 0, outputAudioSecond: 0.1 } },
  { id: "plain::spare", prices: { inputMtok: 0, outputMtok: 0, outputAudioSecond: 0.1 } }
]

interface Setting extends Omit<Composition, "providers"> {
  readonly budgetUsd?: number
  readonly providers?: ReadonlyArray<Provider>
}

const setting = ({ budgetUsd, providers = [plain({})], ...composition }: Setting = {}) => {
  const records: Array<UsageRecord> = []
  const events: Array<AuditEvent> = []
  const budgets = budgetUsd === undefined
    ? []
    : [{ per: "tenant", window: "month", limitNanoUsd: budgetUsd * nano } as const]
  const stores = Layer.mergeAll(
    BudgetsMemory.layer(),
    Audit.layer.pipe(
      Layer.provideMerge(
        auditSink({ name: "events", write: (batch) => Effect.sync(() => void events.push(...batch)) })
      ),
      Layer.provideMerge(AuditSinkRegistry.layer)
    ),
    Tenants.layer([{ name: "acme", rateLimits: [], budgets, interceptors: [] }])
  )
  const layer = composeOver(stores, {
    models,
    sinks: [{
      name: "recorder",
      durable: true,
      write: (batch) => Effect.sync(() => void records.push(...batch))
    }],
    ...composition,
    providers
  })
  return { records, events, layer }
}

const options: GatewayOptions = { ledger: { durability: "strict" }, attempts: 2, retry: { baseMs: 0, maxMs: 0 } }

const acme = Effect.provideService(CurrentCaller, { tenant: "acme", tags: [] })

const codeOf = <A>(exit: Exit.Exit<A, GatewayError>): string =>
  Exit.isSuccess(exit)
    ? "ok"
    : exit.cause.reasons.map((reason) => reason._tag === "Fail" ? reason.error.code : "").join()

const draw = (
  request: Omit<Drawing, "model"> & { readonly model?: string },
  answer: (request: Drawing) => Effect.Effect<Drawn, ProviderError> = () => Effect.succeed({ made: ["png"] })
) =>
  Effect.flatMap(
    Pipeline.make(options),
    (pipeline) => Whole.make(pipeline, drawing(answer))({ model: "plain::painter", ...request })
  ).pipe(acme, Effect.scoped)

describe("a whole answer that is sold by the piece", () => {
  it.effect("costs what its size and quality do", () => {
    const { events, layer, records } = setting()
    return Effect.gen(function*() {
      for (const size of ["1024x1024/hd", "2048x2048/standard", "512x512", "__proto__", "constructor"]) {
        const usage: Usage = { inputTokens: 0, outputTokens: 0, images: 2, variant: size }
        yield* draw({ prompt: "a cat", images: 2 }, () => Effect.succeed({ made: ["png", "png"], usage }))
      }
      assert.deepStrictEqual(records.map(({ costNanoUsd, operation }) => [operation, costNanoUsd]), [
        ["image", 0.16 * nano],
        ["image", 0.4 * nano],
        ["image", 0.08 * nano],
        ["image", 0.08 * nano],
        ["image", 0.08 * nano]
      ])
      yield* Effect.flatMap(Audit.AuditQueues, (queues) => queues.flush)
      const last = events.findLast(({ type }) => type === "request_completed")
      assert.deepInclude(last?.details, { images: 2, input_tokens: 0, cost_usd: 0.08 })
    }).pipe(Effect.provide(layer))
  })

  it.effect("is reserved at its dearest, and settled at what it was", () => {
    const { layer, records } = setting({ budgetUsd: 0.5 })
    return Effect.gen(function*() {
      // Three at 0.20 would be more than there is, two are not; after two answers at 0.08, they are again.
      assert.strictEqual(codeOf(yield* Effect.exit(draw({ prompt: "a cat", images: 3 }))), "budget_exceeded")
      const usage: Usage = { inputTokens: 0, outputTokens: 0, images: 2, variant: "512x512" }
      const two = draw({ prompt: "a cat", images: 2 }, () => Effect.succeed({ made: ["png"], usage }))
      const codes = yield* Effect.forEach([two, two, two], (asked) => Effect.map(Effect.exit(asked), codeOf))
      assert.deepStrictEqual(codes, ["ok", "ok", "budget_exceeded"])
      assert.deepStrictEqual(records.map(({ costNanoUsd }) => costNanoUsd), [
        undefined,
        0.08 * nano,
        0.08 * nano,
        undefined
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("is paid by no budget where its model has prices of tokens alone, and its record says that nobody knows", () => {
    const budgeted = setting({ budgetUsd: 1 })
    const free = setting()
    const usage: Usage = { inputTokens: 0, outputTokens: 0, images: 1 }
    const asked = draw(
      { model: "plain::writer", prompt: "a cat", images: 1 },
      () => Effect.succeed({ made: [], usage })
    )
    return Effect.gen(function*() {
      const refused = yield* Effect.exit(Effect.provide(asked, budgeted.layer))
      assert.strictEqual(codeOf(refused), "budget_exceeded")
      yield* Effect.provide(asked, free.layer)
      assert.deepStrictEqual(
        free.records.map(({ costNanoUsd, priceId, usage }) => [costNanoUsd, priceId, usage.images]),
        [[undefined, undefined, 1]]
      )
    })
  })

  it.effect("goes to the model that is cheapest for it, and never to one whose price is not known before", () => {
    const { layer, records } = setting({
      routes: [{
        name: "paint",
        policy: "cheapest",
        models: ["plain::writer", "plain::painter", "plain::cheap-painter"].map((model) => ({ model, weight: 1 }))
      }]
    })
    return Effect.gen(function*() {
      yield* draw({ model: "paint", prompt: "a cat", images: 1 })
      assert.deepStrictEqual(records.map(({ modelUsed }) => modelUsed), ["plain::cheap-painter"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("is shown to interceptors as its texts, and takes them back", () => {
    const loud: Interceptor = {
      name: "loud",
      order: 1,
      pre: (request) => Effect.succeed(modify({ ...request, messages: [{ role: "user", content: [text("A CAT")] }] }))
    }
    const { layer } = setting({ interceptors: [loud] })
    const prompts: Array<string> = []
    return Effect.gen(function*() {
      yield* draw({ prompt: "a cat", images: 1 }, ({ prompt }) => {
        prompts.push(prompt)
        return Effect.succeed({ made: [] })
      })
      assert.deepStrictEqual(prompts, ["A CAT"])
    }).pipe(Effect.provide(layer))
  })
})

const say = (
  stream: (model: string) => Stream.Stream<Sound, ProviderError>,
  request: Partial<Saying> = {}
) =>
  Stream.unwrap(
    Effect.flatMap(Pipeline.make(options), (pipeline) =>
      Streamed.make(pipeline, saying(stream))({ model: "plain::speaker", words: "hello", ...request }))
  )

const start: Sound = { type: "start" }
const bytes = (length: number): Sound => ({ type: "bytes", length })
const words = (said: string): Sound => ({ type: "words", text: said })
const end: Sound = { type: "end" }
const broken = new ProviderError({ provider: "plain", kind: "transient", message: "broken" })

const heard = (stream: Stream.Stream<Sound, GatewayError, Pipeline.Dependencies | Scope.Scope>) =>
  Stream.runCollect(stream).pipe(acme, Effect.scoped)

const briefly = (records: ReadonlyArray<UsageRecord>) =>
  records.map(({ costNanoUsd, modelUsed, operation, outcome, streamed, usage }) => [
    modelUsed,
    operation,
    streamed,
    outcome,
    usage.outputAudioMs,
    usage.estimated,
    costNanoUsd
  ])

describe("a streamed answer of another kind than chat", () => {
  it.effect("comes as it is, with the provider's figures priced", () => {
    const { layer, records } = setting()
    const usage: Usage = { inputTokens: 0, outputTokens: 0, outputAudioMs: 2500 }
    return Effect.gen(function*() {
      const got = yield* heard(say(() => Stream.make(start, bytes(10), bytes(20), { type: "end", usage })))
      assert.deepStrictEqual(got, [start, bytes(10), bytes(20), {
        type: "end",
        usage: { ...usage, costEstimate: 0.25 }
      }])
      assert.deepStrictEqual(briefly(records), [
        ["plain::speaker", "speak", true, "completed", 2500, undefined, 0.25 * nano]
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("is metered where the provider tells nothing", () => {
    const { layer, records } = setting()
    return Effect.gen(function*() {
      yield* heard(say(() => Stream.make(start, bytes(10), bytes(20), end)))
      assert.deepStrictEqual(briefly(records), [["plain::speaker", "speak", true, "completed", 300, true, 0.03 * nano]])
    }).pipe(Effect.provide(layer))
  })

  it.effect("fails over until its first content, and not after it", () => {
    const { layer, records } = setting()
    const fallback = { models: ["plain::spare"], strategy: "sequential" } as const
    return Effect.gen(function*() {
      const early = (model: string): Stream.Stream<Sound, ProviderError> =>
        model === "speaker" ? Stream.concat(Stream.make(start), Stream.fail(broken)) : Stream.make(start, bytes(1), end)
      assert.deepStrictEqual(yield* heard(say(early, { fallback })), [start, bytes(1), end])
      const late = Stream.concat(Stream.make(start, bytes(5)), Stream.fail(broken))
      assert.strictEqual(codeOf(yield* Effect.exit(heard(say(() => late, { fallback })))), "provider_error")
      assert.deepStrictEqual(briefly(records), [
        ["plain::spare", "speak", true, "completed", 10, true, 0.001 * nano],
        ["plain::speaker", "speak", true, "failed", 50, true, 0.005 * nano]
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("that ends before its end is a failure", () => {
    const { layer } = setting()
    return Effect.gen(function*() {
      const cut = yield* Effect.exit(heard(say(() => Stream.make(start, bytes(5)))))
      assert.strictEqual(codeOf(cut), "provider_error")
      const empty = yield* Effect.exit(heard(say(() => Stream.make(start))))
      assert.strictEqual(codeOf(empty), "provider_error")
    }).pipe(Effect.provide(layer))
  })

  it.effect("ends its upstream when its reader leaves, and is accounted for", () => {
    const { layer, records } = setting()
    let open = 0
    const endless = Stream.unwrap(
      Effect.acquireRelease(Effect.sync(() => void open++), () => Effect.sync(() => void open--)).pipe(
        Effect.as(Stream.concat(Stream.make(start, bytes(7)), Stream.never))
      )
    )
    return Effect.gen(function*() {
      const left = yield* heard(Stream.take(say(() => endless), 2))
      assert.deepStrictEqual([left, open], [[start, bytes(7)], 0])
      const reading = yield* Effect.forkChild(heard(say(() => endless)))
      yield* Effect.yieldNow
      assert.strictEqual(open, 1)
      yield* Fiber.interrupt(reading)
      assert.strictEqual(open, 0)
      assert.deepStrictEqual(briefly(records), [
        ["plain::speaker", "speak", true, "cancelled", 70, true, 0.007 * nano],
        ["plain::speaker", "speak", true, "cancelled", 70, true, 0.007 * nano]
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("is held back for interceptors, which may change or block its texts", () => {
    const names: Interceptor = {
      name: "names",
      order: 1,
      post: (response) =>
        Effect.succeed(
          response.content.some((part) => part.type === "text" && part.text.includes("secret"))
            ? block("it tells secrets")
            : modify({
              ...response,
              content: response.content.map((part) => part.type === "text" ? text("***") : part)
            })
        )
    }
    const { layer, records } = setting({ interceptors: [names] })
    return Effect.gen(function*() {
      const changed = yield* heard(say(() => Stream.make(start, words("Ann"), bytes(1), words("Bob"), end)))
      assert.deepStrictEqual(changed, [start, words("***"), bytes(1), words("***"), end])
      const blocked = yield* Effect.exit(heard(say(() => Stream.make(start, words("a secret"), end))))
      assert.strictEqual(codeOf(blocked), "response_blocked")
      assert.deepStrictEqual(records.map(({ outcome }) => outcome), ["completed", "blocked"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("a defect of its provider is the gateway's failure, once it is on its way too", () => {
    const { layer, records } = setting()
    return Effect.gen(function*() {
      const late = Stream.concat(Stream.make(start, bytes(1)), Stream.die(new Error("boom")))
      assert.strictEqual(codeOf(yield* Effect.exit(heard(say(() => late)))), "internal_error")
      assert.deepStrictEqual(records.map(({ outcome }) => outcome), ["failed"])
    }).pipe(Effect.provide(layer))
  })
})
