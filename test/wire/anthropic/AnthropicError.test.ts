import { assert, describe, it } from "@effect/vitest"
import * as Errors from "../../../src/sdk/GatewayError.ts"
import { anthropicMessages } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import { at } from "./Fixtures.ts"

const decode = (status: number, type: string, message: string, headers: Readonly<Record<string, string>> = {}) =>
  anthropicMessages.decodeError(status, headers, JSON.stringify({ type: "error", error: { type, message } }))

describe("decodeError", () => {
  it("classifies Anthropic's error types", () => {
    const kind = (status: number, type: string, message = "x") => decode(status, type, message).kind
    assert.strictEqual(kind(400, "invalid_request_error"), "caller")
    assert.strictEqual(kind(401, "authentication_error"), "credential")
    assert.strictEqual(kind(402, "billing_error"), "quota")
    assert.strictEqual(kind(403, "permission_error"), "credential")
    assert.strictEqual(kind(404, "not_found_error"), "caller")
    assert.strictEqual(kind(413, "request_too_large"), "caller")
    assert.strictEqual(kind(429, "rate_limit_error"), "quota")
    assert.strictEqual(kind(500, "api_error"), "transient")
    assert.strictEqual(kind(504, "timeout_error"), "transient")
    assert.strictEqual(kind(529, "overloaded_error"), "transient")
  })
  it("tells a long prompt, a filter and an empty account from other bad requests", () => {
    const kind = (message: string) => decode(400, "invalid_request_error", message).kind
    assert.strictEqual(kind("prompt is too long: 205000 tokens > 200000 maximum"), "contextLength")
    assert.strictEqual(kind("input length and `max_tokens` exceed context limit: 1 + 2 > 2"), "contextLength")
    assert.strictEqual(kind("Output blocked by content filtering policy"), "contentPolicy")
    assert.strictEqual(kind("Your credit balance is too low to access the Anthropic API."), "quota")
  })
  it("reads how long to wait and the request's id; a spend limit tells no wait", () => {
    const limited = decode(429, "rate_limit_error", "x", { "retry-after": "7", "request-id": "req_1" })
    assert.strictEqual(limited.retryAfterMs, 7000)
    assert.strictEqual(limited.upstreamRequestId, "req_1")
    const spent = decode(429, "rate_limit_error", "You have reached your specified workspace API usage limits.")
    assert.strictEqual(spent.kind, "quota")
    assert.isUndefined(spent.retryAfterMs)
  })
  it("shows one bounded line without keys", () => {
    const { message } = decode(401, "authentication_error", `invalid x-api-key:\n sk-ant-api03-${"a1".repeat(40)}`)
    assert.strictEqual(message, "invalid x-api-key: [redacted]")
  })
  it("names the field that the upstream complains about", () => {
    assert.strictEqual(
      decode(400, "invalid_request_error", "messages.1.content.0.text: too short").field,
      "messages[1].content[0].text"
    )
  })
  it("reads pages, nothing and nonsense, with a bounded message", () => {
    const page = anthropicMessages.decodeError(503, {}, "<html>secret</html>")
    assert.strictEqual(page.kind, "transient")
    assert.notInclude(page.message, "secret")
    assert.strictEqual(anthropicMessages.decodeError(401, {}, "").kind, "credential")
    assert.strictEqual(anthropicMessages.decodeError(400, {}, "null").kind, "caller")
    assert.isAtMost(decode(400, "invalid_request_error", "x".repeat(10_000)).message.length, 501)
    assert.isAtMost(anthropicMessages.decodeError(500, {}, "x".repeat(10_000)).message.length, 501)
  })
})

describe("encodeError", () => {
  const encode = (reason: Errors.GatewayErrorReason) => {
    const { body, status } = anthropicMessages.encodeError(Errors.fail(reason), "req_1")
    assert.strictEqual(body["type"], "error")
    assert.strictEqual(body["request_id"], "req_1")
    assert.strictEqual(at(body, "error", "message"), reason.message)
    return [status, at(body, "error", "type")]
  }
  const message = "m"
  const failed = (kind: Errors.ProviderErrorKind, upstreamStatus: number) =>
    encode(new Errors.ProviderFailed({ message, kind, provider: "p", upstreamStatus }))
  it("uses Anthropic's type for each status", () => {
    assert.deepStrictEqual(encode(new Errors.ValidationError({ message })), [400, "invalid_request_error"])
    assert.deepStrictEqual(encode(new Errors.Unauthorized({ message })), [401, "authentication_error"])
    assert.deepStrictEqual(encode(new Errors.BudgetExceeded({ message, budget: "b" })), [402, "billing_error"])
    assert.deepStrictEqual(encode(new Errors.Forbidden({ message })), [403, "permission_error"])
    assert.deepStrictEqual(encode(new Errors.ModelNotFound({ message, model: "m" })), [404, "not_found_error"])
    assert.deepStrictEqual(encode(new Errors.PayloadTooLarge({ message })), [413, "request_too_large"])
    assert.deepStrictEqual(encode(new Errors.RateLimited({ message, retryAfterMs: 1 })), [429, "rate_limit_error"])
    assert.deepStrictEqual(encode(new Errors.InternalError({ message })), [500, "api_error"])
    assert.deepStrictEqual(
      encode(new Errors.ProviderTimeout({ message, provider: "p", phase: "idle", limitMs: 1 })),
      [504, "timeout_error"]
    )
  })
  it("answers overload with 529, and a bad upstream key as the gateway's own fault", () => {
    assert.deepStrictEqual(encode(new Errors.Overloaded({ message })), [529, "overloaded_error"])
    assert.deepStrictEqual(failed("transient", 529), [529, "overloaded_error"])
    assert.deepStrictEqual(encode(new Errors.StoreUnavailable({ message, store: "s" })), [503, "overloaded_error"])
    assert.deepStrictEqual(failed("credential", 401), [502, "api_error"])
  })
})
