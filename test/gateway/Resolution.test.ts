/** Plans: which models a request's names lead to, what is left out and why, and the limits of it all. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { Health } from "../../src/gateway/Health.ts"
import type { Plan } from "../../src/gateway/Plan.ts"
import { text } from "../../src/sdk/Content.ts"
import type { Capability } from "../../src/sdk/Model.ts"
import { type Asked, limits, narrow, resolved, route, type World, world } from "./Planning.ts"

const models = (plan: Plan) => plan.candidates.map(({ model }) => model.id)
const reasons = (plan: Plan) => plan.skipped.map(({ model, reason }) => `${model}: ${reason}`)

const planned = (asked: Asked, among: World = {}) => resolved(asked).pipe(Effect.provide(world(among)))
const refused = (asked: Asked, among: World = {}) => Effect.flip(planned(asked, among))

const textOnly: ReadonlyArray<Capability> = ["text_input", "text_output"]
const tools = { tools: [{ type: "unified", name: "f", parameters: { type: "object" } } as const] }
const long = (tokens: number) => ({
  messages: [{ role: "user", content: [text("a".repeat(4 * tokens))] }] as const
})

describe("one model", () => {
  it.effect("is its only candidate, under the gateway's limits", () =>
    Effect.gen(function*() {
      const { exchange, plan } = yield* planned({})
      assert.deepStrictEqual(models(plan), ["plain::m"])
      assert.strictEqual(exchange.model?.id, "plain::m")
      const { candidates: _, ...rest } = plan
      assert.deepStrictEqual<unknown>(rest, { skipped: [], strategy: "sequential", ...limits })
    }))

  it.effect("an empty list of fallback models is none", () =>
    Effect.gen(function*() {
      const { plan } = yield* planned({ request: { fallback: { models: [], strategy: "parallel" } } })
      assert.deepStrictEqual(models(plan), ["plain::m"])
      assert.strictEqual(plan.strategy, "sequential")
    }))

  it.effect("its size is the provider's business", () =>
    Effect.gen(function*() {
      const { plan } = yield* planned({ request: long(5000) }, { models: [{ id: "plain::m", contextWindow: 10 }] })
      assert.deepStrictEqual(models(plan), ["plain::m"])
    }))

  it.effect("fails with its own error: unknown, not approved, unable", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* refused({ request: { model: "nowhere::m" } })).code, "model_not_found")
      assert.strictEqual((yield* refused({ caller: narrow })).code, "model_not_approved")
      const unable = yield* refused({ request: tools }, {
        models: [{ id: "plain::m", capabilities: textOnly }, { id: "plain::able", capabilities: ["tools"] }]
      })
      assert.strictEqual(unable.code, "capability_not_supported")
      assert.include(unable.message, "plain::m does not support tools; models that can: plain::able")
      const silent = yield* refused({ request: { model: "mute::m", stream: true } })
      assert.include(silent.message, "mute::m does not support streaming")
    }))
})

describe("fallback models", () => {
  it.effect("follow the model in their order, each once", () =>
    Effect.gen(function*() {
      const { exchange, plan } = yield* planned({
        request: { fallback: { models: ["plain::b", "plain::m", "plain::a", "plain::b"] } },
        options: { routePolicy: "cheapest" }
      }, { models: [{ id: "plain::a", prices: { inputMtok: 0, outputMtok: 0 } }] })
      assert.deepStrictEqual(models(plan), ["plain::m", "plain::b", "plain::a"])
      assert.deepStrictEqual(plan.skipped, [])
      assert.isUndefined(plan.policy)
      assert.strictEqual(plan.strategy, "sequential")
      assert.strictEqual(exchange.model?.id, "plain::m")
    }))

  it.effect("come from the request, else from beside it", () =>
    Effect.gen(function*() {
      const options = { fallback: { models: ["plain::beside"], strategy: "parallel" } } as const
      const beside = yield* planned({ options })
      assert.deepStrictEqual(models(beside.plan), ["plain::m", "plain::beside"])
      assert.strictEqual(beside.plan.strategy, "parallel")
      const { plan } = yield* planned({ options, request: { fallback: { models: ["plain::own"] } } })
      assert.deepStrictEqual(models(plan), ["plain::m", "plain::own"])
      assert.strictEqual(plan.strategy, "sequential")
    }))

  it.effect("may name a route, which stands for its models as listed", () =>
    Effect.gen(function*() {
      const { plan } = yield* planned({ request: { fallback: { models: ["r", "plain::z"] } } }, {
        routes: [route("r", ["plain::b", "plain::a"], { policy: "least_busy" })]
      })
      assert.deepStrictEqual(models(plan), ["plain::m", "plain::b", "plain::a", "plain::z"])
      assert.isUndefined(plan.route)
    }))

  it.effect("serve when the model itself cannot, which is told", () =>
    Effect.gen(function*() {
      const { exchange, plan } = yield* planned({
        request: { ...tools, fallback: { models: ["plain::b", "mute::c", "nowhere::d"] }, stream: true }
      }, { models: [{ id: "plain::m", capabilities: textOnly }] })
      assert.deepStrictEqual(models(plan), ["plain::b"])
      assert.deepStrictEqual(reasons(plan), [
        "plain::m: capability_not_supported: tools",
        "mute::c: capability_not_supported: streaming",
        "nowhere::d: model_not_found"
      ])
      assert.strictEqual(exchange.model?.id, "plain::b")
    }))

  it.effect("none left: the error is the first model's own", () =>
    Effect.gen(function*() {
      const fallback = { models: ["nowhere::a"] }
      const unable = yield* refused({ request: { ...tools, fallback } }, {
        models: [{ id: "plain::m", capabilities: textOnly }]
      })
      assert.strictEqual(unable.code, "capability_not_supported")
      assert.include(unable.message, "plain::m does not support tools")
      const unapproved = yield* refused({ caller: narrow, request: { fallback } })
      assert.strictEqual(unapproved.code, "model_not_approved")
      assert.include(unapproved.message, "plain::m")
    }))

  it.effect("more than sixteen are refused", () =>
    Effect.gen(function*() {
      const names = (count: number) => ({
        fallback: { models: Array.from({ length: count }, (_, n) => `plain::${n}`) }
      })
      assert.lengthOf((yield* planned({ request: names(16) })).plan.candidates, 17)
      const error = yield* refused({ request: names(17) })
      assert.strictEqual(error.code, "validation_error")
      assert.strictEqual(error.field, "fallback.models")
    }))
})

describe("routes", () => {
  const dear = { id: "plain::dear", prices: { inputMtok: 9, outputMtok: 9 } }
  const cheap = { id: "plain::cheap", prices: { inputMtok: 1, outputMtok: 1 } }
  const both = ["plain::dear", "plain::cheap"]

  it.effect("are ranked by their policy, or by the caller's; fallback models stay behind", () =>
    Effect.gen(function*() {
      const among = { models: [dear, cheap], routes: [route("r", both, { policy: "cheapest" })] }
      const request = { model: "r", fallback: { models: ["plain::free", "plain::dear"] } }
      const { exchange, plan } = yield* planned({ request }, among)
      assert.deepStrictEqual(models(plan), ["plain::cheap", "plain::dear", "plain::free"])
      assert.strictEqual(plan.policy, "cheapest")
      assert.strictEqual(plan.route?.name, "r")
      assert.strictEqual(exchange.model?.id, "plain::cheap")
      const own = yield* planned({ request, options: { routePolicy: "priority" } }, among)
      assert.deepStrictEqual(models(own.plan), ["plain::dear", "plain::cheap", "plain::free"])
      assert.strictEqual(own.plan.policy, "priority")
    }))

  it.effect("cheapest: the price is that of this request's size", () =>
    Effect.gen(function*() {
      const among = {
        models: [
          { id: "plain::in", prices: { inputMtok: 10, outputMtok: 1 } },
          { id: "plain::out", prices: { inputMtok: 1, outputMtok: 10 } }
        ],
        routes: [route("r", ["plain::in", "plain::out"], { policy: "cheapest" })]
      }
      assert.deepStrictEqual(models((yield* planned({ request: { model: "r" } }, among)).plan)[0], "plain::in")
      const large = yield* planned({ request: { model: "r", ...long(10_000) } }, among)
      assert.deepStrictEqual(models(large.plan)[0], "plain::out")
    }))

  it.effect("weighted: sticky keys and random numbers share out", () =>
    Effect.gen(function*() {
      const firsts = new Set<string>()
      for (let n = 0; n < 40; n++) {
        const first = (yield* resolved({ request: { model: "r" }, options: { stickyKey: "me" } })).plan.candidates[0]
        firsts.add(first.model.id)
      }
      assert.strictEqual(firsts.size, 1)
      for (let n = 0; n < 40; n++) {
        firsts.add((yield* resolved({ request: { model: "r" } })).plan.candidates[0].model.id)
      }
      assert.strictEqual(firsts.size, 2)
    }).pipe(
      Random.withSeed("routes"),
      Effect.provide(world({ routes: [route("r", both, { policy: "weighted" })] }))
    ))

  it.effect("a model that failed lately goes behind the others", () =>
    Effect.gen(function*() {
      const health = yield* Health
      for (let n = 0; n < 5; n++) health.finished("plain::dear", { outcome: "upstream", durationMs: 1 })
      assert.deepStrictEqual(models((yield* resolved({ request: { model: "r" } })).plan), both.toReversed())
    }).pipe(Effect.provide(world({ routes: [route("r", both)] }))))

  it.effect("a name wins over a bare model id", () =>
    Effect.gen(function*() {
      const among = { models: [{ id: "plain::fast" }], routes: [route("fast", ["plain::other"])] }
      assert.deepStrictEqual(models((yield* planned({ request: { model: "fast" } }, among)).plan), ["plain::other"])
      const { plan } = yield* planned({ request: { model: "fast" } }, { models: [{ id: "plain::fast" }] })
      assert.deepStrictEqual(models(plan), ["plain::fast"])
    }))

  it.effect("bare and canonical names of one model are one candidate", () =>
    Effect.gen(function*() {
      const { plan } = yield* planned({ request: { model: "r" } }, {
        models: [{ id: "plain::a" }],
        routes: [route("r", ["a", "plain::a", "plain::b"])]
      })
      assert.deepStrictEqual(models(plan), ["plain::a", "plain::b"])
      assert.deepStrictEqual(plan.skipped, [])
    }))

  it.effect("what cannot serve is left out, each with its reason", () =>
    Effect.gen(function*() {
      const { plan } = yield* planned({
        caller: narrow,
        request: { model: "r", ...tools, ...long(1000), maxOutputTokens: 100, stream: true }
      }, {
        approved: (id) => id !== "plain::forbidden",
        models: [
          { id: "plain::plain", capabilities: textOnly },
          { id: "plain::small", contextWindow: 1050 },
          { id: "plain::fits", contextWindow: 1200 },
          { id: "plain::old", status: "deprecated" }
        ],
        routes: [
          route("r", [
            "plain::plain",
            "plain::forbidden",
            "plain::small",
            "plain::old",
            "mute::a",
            "nowhere::b",
            "plain::fits"
          ])
        ]
      })
      assert.deepStrictEqual(models(plan), ["plain::fits"])
      assert.deepStrictEqual(reasons(plan), [
        "plain::plain: capability_not_supported: tools",
        "plain::small: context window",
        "plain::old: model_deprecated",
        "mute::a: capability_not_supported: streaming",
        "nowhere::b: model_not_found"
      ])
    }))

  it.effect("a route does not betray what the caller may not use; what the caller named itself is told", () =>
    Effect.gen(function*() {
      const among: World = {
        approved: (id) => id === "plain::fits",
        routes: [route("r", ["plain::a", "plain::b", "plain::fits"]), route("s", ["plain::c", "plain::b"])]
      }
      const ask = (models: ReadonlyArray<string>) =>
        planned({ caller: narrow, request: { model: "r", fallback: { models } } }, among)
      assert.deepStrictEqual(reasons((yield* ask(["s"])).plan), [])
      assert.deepStrictEqual(reasons((yield* ask(["s", "plain::d"])).plan), ["plain::d: model_not_approved"])
      assert.deepStrictEqual(reasons((yield* ask(["plain::b"])).plan), ["plain::b: model_not_approved"])
      const refusal = yield* refused({
        caller: narrow,
        request: { model: "s", fallback: { models: ["plain::d"] } }
      }, among)
      assert.strictEqual(
        refusal.message,
        "no model of the route \"s\" can serve this request: plain::d (model_not_approved)"
      )
    }))

  it.effect("too small by estimate alone: the largest one is tried all the same", () =>
    Effect.gen(function*() {
      const { plan } = yield* planned({ request: { model: "r", ...long(1000) } }, {
        models: [
          { id: "plain::s", contextWindow: 100 },
          { id: "plain::l", contextWindow: 500 },
          { id: "plain::m", contextWindow: 400 }
        ],
        routes: [route("r", ["plain::s", "plain::l", "plain::m"])]
      })
      assert.deepStrictEqual(models(plan), ["plain::l"])
      assert.deepStrictEqual(reasons(plan), ["plain::s: context window", "plain::m: context window"])
    }))

  const none = (among: World, more: Asked = {}) => refused({ ...more, request: { model: "r", ...more.request } }, among)
  it.effect("none left: the error fits the reasons, and lists them", () =>
    Effect.gen(function*() {
      const routes = [route("r", ["plain::a", "plain::b"])]
      const unapproved = yield* none({ routes }, { caller: narrow })
      assert.strictEqual(unapproved.code, "model_not_approved")
      assert.strictEqual(
        unapproved.message,
        "no model of the route \"r\" can serve this request"
      )
      const unable = yield* none({
        routes,
        approved: (id) => id === "plain::b",
        models: [{ id: "plain::b", capabilities: textOnly }]
      }, { caller: narrow, request: tools })
      assert.strictEqual(unable.code, "capability_not_supported")
      assert.include(unable.message, "plain::b (capability_not_supported: tools)")
      assert.notInclude(unable.message, "plain::a")
      const unknown = yield* none({ routes: [route("r", ["nowhere::a"])] })
      assert.strictEqual(unknown.code, "model_not_found")
      assert.include(unknown.message, "nowhere::a (model_not_found)")
    }))

  it.effect("have limits of their own, longer or shorter; the caller's only narrow them", () =>
    Effect.gen(function*() {
      const among = {
        routes: [
          route("r", both, {
            attempts: 7,
            retry: { baseMs: 5, maxMs: 6 },
            timeouts: { firstToken: 500, idle: 3 },
            minTokensPerSecond: 2
          })
        ]
      }
      const asked = { request: { model: "r" }, options: { timeouts: { firstToken: 100, idle: 900, total: 15 } } }
      const { plan } = yield* planned(asked, among)
      assert.deepStrictEqual(plan.timeouts, { connect: 10, firstToken: 100, idle: 3, total: 15 })
      assert.deepStrictEqual({ attempts: plan.attempts, retry: plan.retry }, {
        attempts: 7,
        retry: { baseMs: 5, maxMs: 6 }
      })
      assert.strictEqual(plan.route?.minTokensPerSecond, 2)
      const ordinary = yield* planned({ request: { model: "r" } }, { routes: [route("r", both)] })
      assert.deepStrictEqual(ordinary.plan.timeouts, limits.timeouts)
      assert.strictEqual(ordinary.plan.attempts, limits.attempts)
    }))

  it.effect("with a hedge are parallel, unless the caller says otherwise or one model is left", () =>
    Effect.gen(function*() {
      const among = {
        routes: [route("r", both, { hedgeAfterMs: 80 }), route("one", ["plain::a"], { hedgeAfterMs: 80 })]
      }
      const { plan } = yield* planned({ request: { model: "r" } }, among)
      assert.deepStrictEqual({ after: plan.hedgeAfterMs, strategy: plan.strategy }, { after: 80, strategy: "parallel" })
      const own = yield* planned({
        request: { model: "r", fallback: { models: ["plain::z"], strategy: "sequential" } }
      }, among)
      assert.strictEqual(own.plan.strategy, "sequential")
      assert.strictEqual((yield* planned({ request: { model: "one" } }, among)).plan.strategy, "sequential")
    }))
})
