/** What a provider over HTTP lets through of an upstream's words. */
import { assert, describe, it } from "@effect/vitest"
import { Redacted } from "effect"
import { errorOf } from "../../../src/plugins/providers/HttpProvider.ts"

const apiKey = "sk-a-key-of-the-gateway"
const header = "a-secret-in-a-header"

describe("errorOf", () => {
  const error = errorOf("openai", {
    apiKey: Redacted.make(apiKey),
    headers: { "x-token": header, "api-version": "preview" }
  })

  it("an upstream that quotes the key or a configured header: neither is in the error", () => {
    const { code, field, message, type } = error({
      kind: "caller",
      message: `no such model for ${apiKey}, ${header} (${apiKey})`,
      code: apiKey,
      type: `${header}!`,
      field: `headers.${header}`
    })
    assert.strictEqual(message, "no such model for [hidden], [hidden] ([hidden])")
    assert.deepStrictEqual([code, type, field], ["[hidden]", "[hidden]!", "headers.[hidden]"])
  })

  it("short header values are no secrets: the words stay as they are, and nothing is added", () => {
    const told = error({ kind: "transient", message: "the api-version preview is overloaded", status: 503 })
    assert.strictEqual(told.message, "the api-version preview is overloaded")
    assert.strictEqual(told.provider, "openai")
    assert.strictEqual(told.status, 503)
    assert.isFalse("code" in told && told.code !== undefined)
  })
})
