/** Routes over HTTP: requests to them, their list, and explanations of what they would do. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { createHash } from "node:crypto"
import { ChatAnswer } from "../../src/sdk/Chat.ts"
import { Explanation, Problem, RouteList } from "../../src/sdk/GatewayApi.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { type Json, parsed } from "../fixtures/Script.ts"

const strictly = { onExcessProperty: "error" } as const
const decodeAnswer = Schema.decodeUnknownSync(ChatAnswer, strictly)
const decodeExplanation = Schema.decodeUnknownSync(Explanation, strictly)
const decodeProblem = Schema.decodeUnknownSync(Problem, strictly)
const decodeRoutes = Schema.decodeUnknownSync(RouteList, strictly)

const sha256 = (key: string) => createHash("sha256").update(key).digest("hex")

let gateway: RunningGateway

beforeAll(async () => {
  gateway = await startGateway(`
auth:
  mode: keys
  keys:
    - { id: wide, sha256: ${sha256("wide")}, tenant: wide }
    - { id: narrow, sha256: ${sha256("narrow")}, tenant: narrow }
tenants:
  wide: {}
  narrow: { models: ["b::*"] }
providers:
  a: { type: sandbox }
  b: { type: sandbox }
models:
  - { id: a::echo, prices: { input_mtok: 100, output_mtok: 100 } }
  - { id: b::echo, prices: { input_mtok: 1, output_mtok: 1 } }
  - { id: a::small, capabilities: [text_input, text_output, streaming], context_window: 20 }
routes:
  cheap: { policy: cheapest, models: [a::echo, b::echo, a::small] }
  "the best": { models: [a::echo], attempts: 2, hedge_after: 1s }
`)
  await gateway.discover()
})
afterAll(() => gateway.close())

const as = (key: string) => ({ authorization: `Bearer ${key}` })
const ask = (more: Json = {}): Json => ({ messages: [{ role: "user", content: "Hello there" }], ...more })
const get = async (path: string, key = "wide") => {
  const response = await fetch(gateway.url + path, { headers: as(key) })
  return parsed(await response.text())
}

const explained = async (name: string, body: unknown, headers: Readonly<Record<string, string>> = {}) => {
  const response = await gateway.post(
    `/llm-gateway/v1/routes/${encodeURIComponent(name)}/explain`,
    body,
    { ...as("wide"), ...headers }
  )
  return { status: response.status, body: parsed(await response.text()) }
}
const explanationOf = async (...asked: Parameters<typeof explained>) => {
  const { body, status } = await explained(...asked)
  assert.strictEqual(status, 200, JSON.stringify(body))
  return decodeExplanation(body)
}

describe("requests to a route", () => {
  it("are served by the model that its policy puts first", async () => {
    const response = await gateway.post("/llm-gateway/v1/chat/completions", ask({ model: "cheap" }), as("wide"))
    const answer = decodeAnswer(parsed(await response.text()))
    assert.strictEqual(answer.modelUsed, "b::echo")
    assert.isFalse(answer.fallbackUsed)
  })

  it("tell a caller nothing of the models that it may not use", async () => {
    const served = await gateway.post("/v1/chat/completions", ask({ model: "cheap" }), as("narrow"))
    assert.strictEqual(served.status, 200, await served.text())
    assert.match(served.headers.get("x-gateway-attempts") ?? "", /^b::echo;ok;\d+ms$/)
    const refused = await gateway.post("/v1/chat/completions", ask({ model: "the best" }), as("narrow"))
    assert.strictEqual(refused.status, 403)
    const told = `${JSON.stringify([...refused.headers])} ${await refused.text()}`
    assert.include(told, "the best")
    assert.notInclude(told, "a::")
    const named = { ...as("narrow"), "x-gateway-fallback": "a::echo" }
    const own = await gateway.post("/v1/chat/completions", ask({ model: "cheap" }), named)
    assert.match(
      own.headers.get("x-gateway-attempts") ?? "",
      /^b::echo;ok;\d+ms, a::echo;skipped;model_not_approved$/
    )
    await own.text()
    const explained = await gateway.post("/llm-gateway/v1/routes/cheap/explain", ask(), as("narrow"))
    assert.notInclude(await explained.text(), "a::")
  })

  it("in the OpenAI dialect too, under the policy that a header names", async () => {
    const headers = { ...as("wide"), "x-gateway-route-policy": "priority" }
    const response = await gateway.post("/v1/chat/completions", ask({ model: "cheap" }), headers)
    assert.strictEqual(response.status, 200, await response.text())
    assert.strictEqual(response.headers.get("x-gateway-model"), "a::echo")
  })
})

describe("the list of routes", () => {
  it("has each with its models", async () => {
    assert.deepStrictEqual(decodeRoutes(await get("/llm-gateway/v1/routes")).routes, [
      {
        name: "cheap",
        policy: "cheapest",
        models: ["a::echo", "b::echo", "a::small"].map((model) => ({ model, weight: 1 }))
      },
      {
        name: "the best",
        policy: "priority",
        models: [{ model: "a::echo", weight: 1 }],
        hedgeAfterMs: 1000,
        attempts: 2
      }
    ])
  })

  it("has what the caller may use, and no more", async () => {
    assert.deepStrictEqual(decodeRoutes(await get("/llm-gateway/v1/routes", "narrow")).routes, [
      { name: "cheap", policy: "cheapest", models: [{ model: "b::echo", weight: 1 }] }
    ])
  })

  it("is part of the models of the OpenAI dialect", async () => {
    const ids = JSON.stringify(await get("/v1/models"))
    assert.include(ids, "\"id\":\"cheap\"")
    assert.include(ids, "\"owned_by\":\"llm-gateway\"")
    assert.notInclude(JSON.stringify(await get("/v1/models", "narrow")), "the best")
    assert.include(JSON.stringify(await get("/v1/models/the%20best")), "\"id\":\"the best\"")
    assert.notInclude(JSON.stringify(await get("/llm-gateway/v1/models")), "\"id\":\"cheap\"")
  })
})

describe("an explanation", () => {
  it("tells candidates in their order, with prices, and why the others are left out", async () => {
    const explanation = await explanationOf("cheap", ask({ max_output_tokens: 100 }))
    assert.deepStrictEqual(explanation.candidates.map(({ model, provider }) => `${provider} ${model}`), [
      "b b::echo",
      "a a::echo"
    ])
    assert.isBelow(explanation.candidates[0]?.estimatedCost ?? 1, explanation.candidates[1]?.estimatedCost ?? 0)
    assert.deepStrictEqual(explanation.skipped, [{ model: "a::small", reason: "context window" }])
    assert.strictEqual(explanation.route, "cheap")
    assert.strictEqual(explanation.policy, "cheapest")
    assert.strictEqual(explanation.attempts, 4)
  })

  it("depends on the request and its headers; a model in the body counts for nothing", async () => {
    const tools = [{ type: "unified", name: "f", parameters: { type: "object" } }]
    const explanation = await explanationOf("cheap", ask({ model: "b::echo", tools }), {
      "x-gateway-route-policy": "priority"
    })
    assert.deepStrictEqual(explanation.candidates.map(({ model }) => model), ["a::echo", "b::echo"])
    assert.deepStrictEqual(explanation.skipped.map(({ reason }) => reason), ["capability_not_supported: tools"])
  })

  it("takes percent-encoded names", async () => {
    const explanation = await explanationOf("the best", ask())
    assert.strictEqual(explanation.route, "the best")
    assert.strictEqual(explanation.attempts, 2)
  })

  it.each<readonly [string, string, unknown, number, string]>([
    ["a route that is not there", "nope", ask(), 404, "model_not_found"],
    ["a model is no route", "b::echo", ask(), 404, "not_found"],
    ["a body without messages", "cheap", {}, 400, "validation_error"],
    ["a body that is a list", "cheap", [], 400, "validation_error"],
    ["an unknown field", "cheap", ask({ mesages: 1 }), 400, "validation_error"]
  ])("%s is refused", async (_, name, body, status, code) => {
    const answer = await explained(name, body)
    assert.strictEqual(answer.status, status)
    assert.strictEqual(decodeProblem(answer.body).code, code)
  })

  it("nobody without a key gets one", async () => {
    const { body, status } = await explained("cheap", ask(), { authorization: "Bearer nobody" })
    assert.strictEqual(status, 401)
    assert.strictEqual(decodeProblem(body).code, "unauthorized")
  })

  it("of a route whose models the caller may not use is that refusal", async () => {
    const { body, status } = await explained("the best", ask(), as("narrow"))
    assert.strictEqual(status, 403)
    assert.strictEqual(decodeProblem(body).code, "model_not_approved")
  })

  it("is documented", async () => {
    const spec = JSON.stringify(await get("/openapi.json"))
    assert.include(spec, "\"/llm-gateway/v1/routes/{name}/explain\":{\"post\"")
    assert.include(spec, "\"/llm-gateway/v1/routes\":{\"get\"")
  })
})
