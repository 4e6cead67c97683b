import { assert, describe, it } from "@effect/vitest"
import { classify, type ErrorFacts, isExhausted, shown, shownBody } from "../../src/wire/Classify.ts"

const kindOf = (facts: Partial<ErrorFacts>) => classify({ message: "", ...facts })

describe("classify", () => {
  it("goes by the status where nothing more is said", () => {
    const kinds = [400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529].map((status) =>
      kindOf({ status })
    )
    assert.deepStrictEqual(kinds, [
      "caller",
      "credential",
      "credential",
      "credential",
      "caller",
      "transient",
      "transient",
      "caller",
      "caller",
      "quota",
      "transient",
      "transient",
      "transient",
      "transient",
      "transient"
    ])
  })
  it("tells a full context window by code and by text", () => {
    assert.strictEqual(kindOf({ status: 400, code: "context_length_exceeded" }), "contextLength")
    const texts = [
      "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
      "prompt is too long: 210000 tokens > 200000 maximum",
      "the request exceeds the available context size",
      "Please reduce the length of the messages"
    ]
    for (const message of texts) assert.strictEqual(kindOf({ status: 400, message }), "contextLength", message)
  })
  it("does not take a rate limit on tokens for a full context window", () => {
    const message = "Request too large for gpt-4o on tokens per min (TPM). Please reduce the length of the messages"
    assert.strictEqual(kindOf({ status: 429, message }), "quota")
  })
  it("tells a content policy by code and by text", () => {
    assert.strictEqual(kindOf({ status: 400, code: "content_filter" }), "contentPolicy")
    assert.strictEqual(kindOf({ status: 400, code: "content_policy_violation" }), "contentPolicy")
    const azure = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy"
    assert.strictEqual(kindOf({ status: 400, message: azure }), "contentPolicy")
    const openRouter = "Your chosen model requires moderation and your input was flagged"
    assert.strictEqual(kindOf({ status: 403, message: openRouter }), "contentPolicy")
  })
  it("tells used-up money from a bad request", () => {
    assert.strictEqual(kindOf({ status: 400, message: "Your credit balance is too low" }), "credential")
    const billing = { status: 400, code: "billing_hard_limit_reached", message: "" }
    assert.strictEqual(classify(billing), "quota")
    assert.isTrue(isExhausted(billing))
    assert.isFalse(isExhausted({ status: 429, code: "rate_limit_exceeded", message: "" }))
  })
  it("goes by code and type where there is no status", () => {
    assert.strictEqual(kindOf({ type: "invalid_request_error" }), "caller")
    assert.strictEqual(kindOf({ type: "tokens" }), "quota")
    assert.strictEqual(kindOf({ type: "overloaded_error" }), "transient")
    assert.strictEqual(kindOf({}), "transient")
  })
})

describe("shown", () => {
  it("is one bounded line without keys", () => {
    const text = shown(`bad key sk-proj-abcdefghijklmnop,\r\nBearer abc.def.ghi123 ${"x".repeat(9000)}`)
    assert.notInclude(text, "abcdefgh")
    assert.notInclude(text, "abc.def")
    assert.notMatch(text, /[\r\n]/)
    assert.isAtMost(text.length, 401)
  })
  it("describes a body that is no JSON", () => {
    assert.strictEqual(shownBody(502, ""), "the provider answered 502 without a body")
    assert.strictEqual(shownBody(502, "<html><body>x"), "the provider answered 502 with an HTML page")
    assert.strictEqual(shownBody(502, "upstream\nbroke"), "upstream broke")
  })
})
