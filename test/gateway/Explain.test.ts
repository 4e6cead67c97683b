/** Explanations of routes, in process. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Explain from "../../src/gateway/Explain.ts"
import { Health } from "../../src/gateway/Health.ts"
import * as Resolution from "../../src/gateway/Resolution.ts"
import { CurrentCaller, CurrentRequest } from "../../src/sdk/Caller.ts"
import { request } from "./PlainProvider.ts"
import { limits, narrow, route, world } from "./Planning.ts"

const breakers = Effect.succeed(
  [
    { provider: "plain", endpoint: "models", state: "open" },
    { provider: "mute", endpoint: "chat", state: "half_open" }
  ] as const
)
const explain = Effect.flatMap(Resolution.make(limits), (resolve) => Explain.make(resolve, { breakers }))

const among = world({
  models: [
    { id: "plain::a", prices: { inputMtok: 1000, outputMtok: 2000 } },
    { id: "plain::small", contextWindow: 1 }
  ],
  routes: [
    route("r", ["plain::a", "mute::b", "plain::small"], { hedgeAfterMs: 50, attempts: 2 }),
    route("hidden", ["plain::secret"])
  ],
  approved: (id) => id === "mute::b"
})

describe("explain", () => {
  it.effect("tells candidates with their price, health and breaker, and what is left out", () =>
    Effect.gen(function*() {
      const health = yield* Health
      health.started("plain::a")
      for (let n = 0; n < 4; n++) health.finished("mute::b", { outcome: "upstream", durationMs: 1 })
      health.finished("mute::b", { outcome: "ok", durationMs: 30, firstTokenMs: 10, outputTokens: 10 })
      const { explain: ask } = yield* explain
      // 4 tokens for the message and 2 for "Hello?", and an answer of 10.
      const explanation = yield* ask({ ...request, model: "r", maxOutputTokens: 10 })
      assert.deepStrictEqual(explanation, {
        route: "r",
        policy: "priority",
        strategy: "parallel",
        hedgeAfterMs: 50,
        attempts: 2,
        candidates: [
          {
            model: "plain::a",
            provider: "plain",
            estimatedCost: 0.026,
            health: { samples: 0, errorRate: 0, inFlight: 1, failing: false }
          },
          {
            model: "mute::b",
            provider: "mute",
            health: { samples: 5, errorRate: 0.8, firstTokenMs: 10, msPerToken: 2, inFlight: 0, failing: true },
            breaker: "half_open"
          }
        ],
        skipped: [{ model: "plain::small", reason: "context window" }]
      })
    }).pipe(Effect.provide(among)))

  it.effect("takes the options of the current request, and the caller's approvals", () =>
    Effect.gen(function*() {
      const { explain: ask } = yield* explain
      const explanation = yield* ask({ ...request, model: "r" }).pipe(
        Effect.provideService(CurrentCaller, narrow),
        Effect.provideService(CurrentRequest, { routePolicy: "fastest" })
      )
      assert.strictEqual(explanation.policy, "fastest")
      assert.deepStrictEqual(explanation.candidates.map(({ model }) => model), ["mute::b"])
      assert.deepStrictEqual(explanation.skipped, [])
    }).pipe(Effect.provide(among)))

  it.effect("fails as the request would", () =>
    Effect.gen(function*() {
      const { explain: ask } = yield* explain
      assert.strictEqual((yield* Effect.flip(ask({ ...request, model: "nowhere::m" }))).code, "model_not_found")
    }).pipe(Effect.provide(among)))
})

describe("routes", () => {
  it.effect("are listed with the models that the caller may use, and not without any", () =>
    Effect.gen(function*() {
      const { routes } = yield* explain
      assert.deepStrictEqual((yield* routes).map(({ name }) => name), ["r", "hidden"])
      assert.deepStrictEqual(yield* Effect.provideService(routes, CurrentCaller, narrow), [{
        name: "r",
        policy: "priority",
        models: [{ model: "mute::b", weight: 1 }],
        hedgeAfterMs: 50,
        attempts: 2
      }])
    }).pipe(Effect.provide(among)))
})
