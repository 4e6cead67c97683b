/** What a caller may say in headers: each form that is taken, and that nothing else is. */
import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import type { RequestOptions } from "../../src/sdk/Caller.ts"
import { requestOptions } from "../../src/server/RequestHeaders.ts"

const read = (headers: Readonly<Record<string, string>>): RequestOptions => {
  const options = requestOptions(headers, "req_1")
  return Result.isSuccess(options) ? options.success : assert.fail(options.failure.message)
}

/** The field that a refusal names. */
const refusedField = (headers: Readonly<Record<string, string>>): string | undefined => {
  const options = requestOptions(headers, "req_1")
  return Result.isFailure(options) ? options.failure.field : assert.fail("it was taken")
}

describe("request headers", () => {
  it("none are needed", () => assert.deepStrictEqual(read({}), { requestId: "req_1" }))

  it("other headers are not the gateway's business", () =>
    assert.deepStrictEqual(read({ "x-gateway-else": "1", accept: "*/*" }), { requestId: "req_1" }))
})

describe("x-gateway-timeout-*", () => {
  it("are durations in ms, or with their unit", () =>
    assert.deepStrictEqual(
      read({
        "x-gateway-timeout-connect": "1500",
        "x-gateway-timeout-first-token": " 250ms ",
        "x-gateway-timeout-idle": "1.5s",
        "x-gateway-timeout-answer": "1m",
        "x-gateway-timeout-total": "2m"
      }).timeouts,
      { connect: 1500, firstToken: 250, idle: 1500, answer: 60_000, total: 120_000 }
    ))

  it.each(["", "0", "0s", "-1", "1h", "1e3", "1,5s", "NaN", "Infinity", "1s, 2s", "10000000000", "1 s x"])(
    "refuse %j",
    (value) => assert.strictEqual(refusedField({ "x-gateway-timeout-idle": value }), "x-gateway-timeout-idle")
  )

  it.prop("any whole number of ms is read as it is", [
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 999_999_999 }))
  ], ([ms]) => {
    assert.deepStrictEqual(read({ "x-gateway-timeout-total": `${ms}` }).timeouts, { total: ms })
  })
})

describe("x-gateway-fallback", () => {
  it("is a list of models", () =>
    assert.deepStrictEqual(read({ "x-gateway-fallback": "openai::gpt-4o, llama3.2:1b ,x" }).fallback, {
      models: ["openai::gpt-4o", "llama3.2:1b", "x"]
    }))

  it.each(["sequential", "parallel"] as const)("with a strategy: %s", (strategy) => {
    for (const written of [`a,b;strategy=${strategy}`, `a, b ; strategy = ${strategy} `]) {
      assert.deepStrictEqual(read({ "x-gateway-fallback": written }).fallback, { models: ["a", "b"], strategy })
    }
  })

  it.each([
    "",
    ",",
    "a,",
    "a,,b",
    "a;strategy",
    "a;strategy=",
    "a;strategy=both",
    "a;other=1",
    "a;",
    // Two headers of the name, as Node joins them.
    "a;strategy=parallel, b",
    Array.from({ length: 17 }, (_, index) => `m${index}`).join(",")
  ])("refuses %j", (value) => assert.strictEqual(refusedField({ "x-gateway-fallback": value }), "x-gateway-fallback"))

  it("takes sixteen models", () => {
    const models = Array.from({ length: 16 }, (_, index) => `m${index}`)
    assert.deepStrictEqual(read({ "x-gateway-fallback": models.join(",") }).fallback, { models })
  })
})

describe("x-gateway-route-policy", () => {
  it.each(["priority", "cheapest", "fastest", "weighted", "least_busy"] as const)(
    "takes %s",
    (policy) => assert.strictEqual(read({ "x-gateway-route-policy": policy }).routePolicy, policy)
  )

  it.each(["", "Priority", "random", "__proto__"])(
    "refuses %j",
    (value) => assert.strictEqual(refusedField({ "x-gateway-route-policy": value }), "x-gateway-route-policy")
  )
})

describe("x-gateway-sticky-key", () => {
  it("is any text, cut at 256 characters", () => {
    assert.strictEqual(read({ "x-gateway-sticky-key": "user 7" }).stickyKey, "user 7")
    assert.strictEqual(read({ "x-gateway-sticky-key": "k".repeat(1000) }).stickyKey?.length, 256)
  })
})
