import { assert, describe, it } from "@effect/vitest"
import {
  BudgetExceeded,
  fail,
  type GatewayErrorReason,
  InternalError,
  invalid,
  ProviderFailed,
  RateLimited,
  Unauthorized
} from "../../../src/sdk/GatewayError.ts"
import { codec } from "./Support.ts"

const decode = (status: number, body: unknown, headers: Record<string, string> = {}) =>
  codec.decodeError(status, headers, typeof body === "string" ? body : JSON.stringify(body))

describe("decodeError", () => {
  it("keeps the upstream's code, type and field", () => {
    const body = {
      error: { message: "Unknown parameter", type: "invalid_request_error", param: "foo", code: "unknown" }
    }
    assert.deepStrictEqual(decode(400, body, { "x-request-id": "req_1" }), {
      kind: "caller",
      message: "Unknown parameter",
      status: 400,
      code: "unknown",
      type: "invalid_request_error",
      field: "foo",
      upstreamRequestId: "req_1"
    })
  })
  it("reads the bodies of compatible servers", () => {
    const messages = [
      decode(400, { object: "error", message: "vLLM says no", type: "BadRequestError", code: 400 }),
      decode(422, { detail: "FastAPI says no" }),
      decode(400, [{ error: { code: 400, message: "Gemini says no", status: "INVALID_ARGUMENT" } }]),
      decode(404, { error: "model 'x' not found" }),
      decode(502, { error: { message: "Provider returned error", code: 502, metadata: { raw: "no capacity" } } })
    ].map(({ kind, message }) => [kind, message])
    assert.deepStrictEqual(messages, [
      ["caller", "vLLM says no"],
      ["caller", "FastAPI says no"],
      ["caller", "Gemini says no"],
      ["caller", "model 'x' not found"],
      ["transient", "Provider returned error: no capacity"]
    ])
  })
  it("reads Azure's content filter", () => {
    const body = {
      error: { message: "filtered", code: "content_filter", innererror: { code: "ResponsibleAIPolicyViolation" } }
    }
    assert.strictEqual(decode(400, body).kind, "contentPolicy")
  })
  it("survives bodies that are no JSON, empty or hostile", () => {
    for (
      const body of [
        "",
        "null",
        "5",
        "[]",
        "{}",
        "{\"error\":null}",
        "<html>",
        "\u0000",
        "{\"error\":{\"message\":{}}}"
      ]
    ) {
      const failure = decode(503, body)
      assert.strictEqual(failure.kind, "transient", body)
      assert.isNotEmpty(failure.message, body)
    }
    const long = decode(400, {
      error: { message: "x".repeat(100_000), code: "y".repeat(5000), type: "z".repeat(5000) }
    })
    assert.isAtMost(JSON.stringify(long).length, 1000)
  })
  it("tells no wait for quota that no wait mends, nor for the caller's own errors", () => {
    const headers = { "retry-after": "5" }
    assert.isUndefined(decode(429, { error: { message: "", code: "insufficient_quota" } }, headers).retryAfterMs)
    assert.isUndefined(decode(400, { error: { message: "" } }, headers).retryAfterMs)
    assert.strictEqual(decode(429, { error: { message: "" } }, headers).retryAfterMs, 5000)
    assert.strictEqual(decode(503, "", headers).retryAfterMs, 5000)
  })
})

describe("encodeError", () => {
  const bodyOf = (reason: GatewayErrorReason) => codec.encodeError(fail(reason), "req_1")

  it("writes OpenAI's body with the gateway's stable code", () => {
    assert.deepStrictEqual(bodyOf(invalid("messages[2].content", "must be a string")), {
      status: 400,
      body: {
        error: {
          message: "messages[2].content: must be a string",
          type: "invalid_request_error",
          param: "messages[2].content",
          code: "validation_error"
        }
      }
    })
    const types = [
      new Unauthorized({ message: "" }),
      new BudgetExceeded({ message: "", budget: "b" }),
      new RateLimited({ message: "", retryAfterMs: 1 }),
      new InternalError({ message: "" })
    ].map((reason) => [bodyOf(reason).status, bodyOf(reason).body])
    const error = (type: string, code: string) => ({ error: { message: "", type, param: null, code } })
    assert.deepStrictEqual(types, [
      [401, error("invalid_request_error", "unauthorized")],
      [402, error("insufficient_quota", "budget_exceeded")],
      [429, error("rate_limit_error", "rate_limited")],
      [500, error("server_error", "internal_error")]
    ])
  })
  it("hands the provider's code on where it refused the caller's own request", () => {
    const refused = bodyOf(
      new ProviderFailed({
        message: "too long",
        kind: "contextLength",
        provider: "openai",
        upstreamStatus: 400,
        upstreamCode: "context_length_exceeded",
        upstreamType: "invalid_request_error",
        field: "messages"
      })
    )
    assert.deepStrictEqual(refused, {
      status: 400,
      body: {
        error: {
          message: "too long",
          type: "invalid_request_error",
          param: "messages",
          code: "context_length_exceeded"
        }
      }
    })
  })
  it("never shows a bad upstream key as the caller's", () => {
    const broken = bodyOf(
      new ProviderFailed({
        message: "the provider refused the gateway's key",
        kind: "credential",
        provider: "openai",
        upstreamStatus: 401,
        upstreamCode: "invalid_api_key"
      })
    )
    assert.strictEqual(broken.status, 502)
    assert.include(JSON.stringify(broken.body), "provider_error")
    assert.notInclude(JSON.stringify(broken.body), "invalid_api_key")
  })
})
