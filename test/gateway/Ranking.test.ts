/** The order of a route's models under each policy, and what health does to it. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { ModelHealth } from "../../src/gateway/Health.ts"
import { expectedOutput, rank, type RankContext, type RankInput } from "../../src/gateway/Ranking.ts"
import type { Prices } from "../../src/sdk/Model.ts"
import { RoutePolicy } from "../../src/sdk/Routes.ts"
import { plain } from "./PlainProvider.ts"

interface Model {
  readonly weight?: number
  readonly prices?: Prices
  readonly health?: Partial<ModelHealth>
}

const order = (policy: RoutePolicy, models: Readonly<Record<string, Model>>, more: Partial<RankContext> = {}) => {
  const inputs: ReadonlyArray<RankInput> = Object.entries(models).map(([name, { prices, weight = 1 }]) => ({
    weight,
    candidate: {
      provider: plain({}),
      model: {
        id: `plain::${name}`,
        provider: "plain",
        model: name,
        status: "active",
        ...(prices === undefined ? {} : { prices })
      }
    }
  }))
  const ranked = rank(policy, inputs, {
    health: (id) => ({ samples: 0, errorRate: 0, inFlight: 0, ...models[id.slice("plain::".length)]?.health }),
    inputTokens: 1000,
    outputTokens: 500,
    random: 0.5,
    ...more
  })
  return ranked.map(({ model }) => model.model).join(" ")
}

const price = (inputMtok: number, outputMtok: number): Model => ({ prices: { inputMtok, outputMtok } })
const busy = (inFlight: number): Model => ({ health: { inFlight } })
const timed = (firstTokenMs: number, msPerToken: number): Model => ({
  health: { samples: 9, firstTokenMs, msPerToken }
})
const weighing = (weight: number): Model => ({ weight })

describe("policies", () => {
  it("priority: as listed", () => {
    assert.strictEqual(order("priority", { c: busy(9), a: price(9, 9), b: {} }), "c a b")
  })

  it.each<readonly [string, number, number, string]>([
    ["a long prompt makes input dear", 100_000, 100, "out in unknown"],
    ["a long answer makes output dear", 100, 500, "in out unknown"]
  ])("cheapest: %s", (_, inputTokens, outputTokens, expected) => {
    const models = { unknown: {}, in: price(10, 1), out: price(1, 10) }
    assert.strictEqual(order("cheapest", models, { inputTokens, outputTokens }), expected)
  })

  it("cheapest: equal prices stay as listed, free comes before all, and tiers are the request's own", () => {
    assert.strictEqual(order("cheapest", { b: price(1, 1), a: price(1, 1), free: price(0, 0) }), "free b a")
    const tiered: Model = {
      prices: { inputMtok: { base: 1, tiers: [{ start: 50_000, price: 20 }] }, outputMtok: 1 }
    }
    assert.strictEqual(order("cheapest", { flat: price(5, 1), tiered }, { inputTokens: 10_000 }), "tiered flat")
    assert.strictEqual(order("cheapest", { flat: price(5, 1), tiered }, { inputTokens: 60_000 }), "flat tiered")
  })

  it("least_busy: by running calls, then as listed", () => {
    assert.strictEqual(order("least_busy", { c: busy(2), a: busy(1), b: busy(0), d: busy(1) }), "b a d c")
  })

  it("fastest: by the time that this answer would take", () => {
    const models = { steady: timed(100, 10), eager: timed(50, 30), slow: timed(9000, 100) }
    assert.strictEqual(order("fastest", models, { outputTokens: 500 }), "steady eager slow")
    assert.strictEqual(order("fastest", models, { outputTokens: 1 }), "eager steady slow")
  })

  it("fastest: what never answered is last; answers without token counts count by their length", () => {
    const models = {
      failing: { health: { samples: 2, errorRate: 1 } },
      whole: { health: { samples: 2, durationMs: 700 } },
      streamed: { health: { samples: 2, firstTokenMs: 300, durationMs: 5000 } }
    }
    assert.strictEqual(order("fastest", models), "streamed whole failing")
  })

  it("fastest: a model of which nothing is known any more is tried by one request at a time", () => {
    const known = timed(100, 1)
    assert.strictEqual(order("fastest", { known, unknown: busy(0) }), "unknown known")
    assert.strictEqual(order("fastest", { known, unknown: busy(1) }), "known unknown")
  })

  it("fastest: one request in twenty looks at another model, each in its turn", () => {
    const models = { a: timed(1, 1), b: timed(2, 2), c: timed(3, 3) }
    const firsts = Array.from({ length: 1000 }, (_, n) => order("fastest", models, { random: n / 1000 })[0])
    const count = (name: string) => firsts.filter((first) => first === name).length
    assert.deepStrictEqual([count("a"), count("b"), count("c")], [950, 25, 25])
  })
})

describe("weighted", () => {
  const models = { canary: weighing(1), main: weighing(9), spare: weighing(0) }

  it("random numbers fall on models by their weights; the others follow, heaviest first", () => {
    const seen = new Map<string, number>()
    for (let n = 0; n < 1000; n++) {
      const ranked = order("weighted", models, { random: n / 1000 })
      seen.set(ranked, (seen.get(ranked) ?? 0) + 1)
    }
    assert.deepStrictEqual(Object.fromEntries(seen), { "main canary spare": 900, "canary main spare": 100 })
  })

  it("a sticky key always gets the same model, and keys share out by the weights", () => {
    let canary = 0
    for (let n = 0; n < 10_000; n++) {
      const stickyKey = `user-${n}`
      const ranked = order("weighted", models, { stickyKey, random: 0 })
      assert.strictEqual(order("weighted", models, { stickyKey, random: 0.999 }), ranked)
      assert.notStrictEqual(ranked.split(" ")[0], "spare")
      if (ranked.startsWith("canary")) canary++
    }
    assert.isTrue(canary > 850 && canary < 1150, String(canary))
  })

  it("a model that is missing moves only its own keys", () => {
    const three = { a: weighing(1), b: weighing(1), c: weighing(1) }
    const two = { a: weighing(1), b: weighing(1) }
    for (let n = 0; n < 500; n++) {
      const before = order("weighted", three, { stickyKey: `k${n}` })[0]
      if (before !== "c") assert.strictEqual(order("weighted", two, { stickyKey: `k${n}` })[0], before)
    }
  })

  it("weights of zero alone leave the order as listed", () => {
    assert.strictEqual(order("weighted", { b: weighing(0), a: weighing(0) }, { stickyKey: "k" }), "b a")
  })
})

describe("health", () => {
  const ill: Model = { health: { samples: 5, errorRate: 0.5 } }

  it("a model that fails half of its calls goes behind the others under every policy", () => {
    for (const policy of RoutePolicy.literals) {
      assert.strictEqual(order(policy, { ill, well: { health: { samples: 5, errorRate: 0.4 } } }), "well ill", policy)
    }
  })

  it("four calls say nothing yet", () => {
    assert.strictEqual(order("priority", { ill: { health: { samples: 4, errorRate: 1 } }, well: {} }), "ill well")
  })

  it("among the sick ones the order stays", () => {
    assert.strictEqual(order("priority", { b: ill, w: {}, a: ill }), "w b a")
  })
})

const Count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20 }))
const Fraction = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 0.999 }))
const Models = Schema.Array(
  Schema.Struct({
    weight: Count,
    prices: Schema.optionalKey(Schema.Struct({ inputMtok: Count, outputMtok: Count })),
    health: Schema.Struct({
      samples: Count,
      errorRate: Fraction,
      inFlight: Count,
      firstTokenMs: Schema.optionalKey(Count),
      msPerToken: Schema.optionalKey(Count)
    })
  })
).check(Schema.isMaxLength(12))

describe("any ranking", () => {
  it.prop(
    "is a permutation, and the same for the same figures",
    [RoutePolicy, Models, Fraction, Schema.optional(Schema.String)],
    ([policy, list, random, stickyKey]) => {
      const models = Object.fromEntries(list.map((model, at) => [`m${at}`, model]))
      const more = { random, ...(stickyKey === undefined ? {} : { stickyKey }) }
      const ranked = order(policy, models, more)
      assert.deepStrictEqual(ranked.split(" ").sort(), Object.keys(models).join(" ").split(" ").sort())
      assert.strictEqual(order(policy, models, more), ranked)
    }
  )
})

describe("the expected answer", () => {
  it.each<readonly [number | undefined, number]>([[undefined, 500], [20, 20], [64_000, 500]])(
    "a limit of %s gives %s",
    (limit, expected) => {
      assert.strictEqual(expectedOutput(limit), expected)
    }
  )
})
