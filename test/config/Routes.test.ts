/** Configured routes: what the file may say, and what the pipeline gets of it. */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { parse } from "../../src/config/ConfigFile.ts"
import { routesOf } from "../../src/config/GatewayLayer.ts"
import { keyReference } from "../../src/config/KeyReference.ts"
import { failurePolicy } from "../../src/gateway/FailurePolicy.ts"

const routes = (text: string) => routesOf(Result.getOrThrow(parse(text, "g.yaml", {})))
const problems = (text: string) => {
  const result = parse(text, "g.yaml", {})
  return Result.isFailure(result) ? result.failure.message : ""
}

describe("routes", () => {
  it("a short one: the policy is priority, weights are 1, and nothing else is said", () => {
    assert.deepStrictEqual(routes("routes: { r: { models: [sandbox::a, { model: b }] } }"), [{
      name: "r",
      policy: "priority",
      models: [{ model: "sandbox::a", weight: 1 }, { model: "b", weight: 1 }]
    }])
  })

  it("everything that a route can say arrives", () => {
    const text = `
routes:
  r:
    policy: weighted
    models: [{ model: sandbox::a, weight: 0.5 }, sandbox::b]
    hedge_after: 800ms
    timeouts: { first_token: 2s, answer: 20s, total: 1m }
    attempts: 3
    retry: { base: 1s }
    on_failure: { content_policy: next, timeout_first_token: retry, quota: final }
    min_tokens_per_second: 2.5
`
    assert.deepStrictEqual(routes(text), [{
      name: "r",
      policy: "weighted",
      models: [{ model: "sandbox::a", weight: 0.5 }, { model: "sandbox::b", weight: 1 }],
      hedgeAfterMs: 800,
      timeouts: { firstToken: 2000, answer: 20_000, total: 60_000 },
      attempts: 3,
      retry: { baseMs: 1000, maxMs: 8000 },
      onFailure: { contentPolicy: "next", timeout_first_token: "retry", quota: "final" },
      minTokensPerSecond: 2.5
    }])
  })

  it("every line of the table of failures can be set, and is documented as it is", () => {
    const file = (kind: string) => kind.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
    for (const [kind, action] of Object.entries(failurePolicy)) {
      const entry = keyReference.find(({ path }) => path === `routes.<name>.on_failure.${file(kind)}`)
      assert.strictEqual(entry?.default, action, kind)
      const [route] = routes(`routes: { r: { models: [sandbox::a], on_failure: { ${file(kind)}: final } } }`)
      assert.deepStrictEqual<unknown>(route?.onFailure, { [kind]: "final" })
    }
  })

  it.each([
    ["on_failure: { caller: again }", "routes.r.on_failure.caller: expected one of retry, next, final"],
    ["on_failure: { timeout: next }", "routes.r.on_failure.timeout: unknown key"],
    ["min_tokens_per_second: 0", "routes.r.min_tokens_per_second: expected a number above 0"],
    ["min_tokens_per_second: fast", "routes.r.min_tokens_per_second: expected a number from 0 to 1e12"],
    ["retry: { base: 9s }", "routes.r.retry: base must not be longer than max"],
    ["attempts: 21", "routes.r.attempts: expected a whole number from 1 to 20"]
  ])("%s is refused", (line, problem) => {
    assert.include(problems(`routes: { r: { models: [sandbox::a], ${line} } }`), problem)
  })
})
