/** What a decoded value remembers of its original, and when it forgets it. */
import { assert, describe, it } from "@effect/vitest"
import type { ChatChunk, ChatResponse } from "../../src/sdk/Chat.ts"
import { annotate, type Source, sourcedChunk, sourcedResponse, sourceOf } from "../../src/sdk/Wire.ts"

const source: Source = { wire: "openai", text: "{\"id\":\"1\"}", json: { id: "1" } }
const chunk: ChatChunk = { id: "1", model: "m", delta: [{ type: "text", index: 0, text: "Hello" }] }
const response: ChatResponse = { id: "1", model: "m", content: [{ type: "text", text: "Hello" }], finishReason: "stop" }

describe("a decoded value", () => {
  it("knows its original, for its own wire alone", () => {
    for (const value of [sourcedChunk(chunk, source), sourcedResponse(response, source)]) {
      assert.strictEqual(sourceOf(value, "openai"), source)
      assert.isUndefined(sourceOf(value, "anthropic"))
    }
  })

  it("is otherwise the same value, with nothing of the original to be seen", () => {
    const value = sourcedChunk(chunk, source)
    assert.deepStrictEqual({ ...value }, chunk)
    assert.deepStrictEqual(Object.keys(value), Object.keys(chunk))
    assert.strictEqual(JSON.stringify(value), JSON.stringify(chunk))
    assert.deepStrictEqual({ ...sourcedResponse(response, source) }, response)
  })

  it("forgets it in every kind of copy, so that a changed value is written anew", () => {
    const value = sourcedChunk(chunk, source)
    const changed: ChatChunk = { ...value, delta: [] }
    const assigned: ChatChunk = Object.assign({}, value)
    const cloned: ChatChunk = structuredClone(value)
    for (const copy of [changed, assigned, cloned]) assert.isUndefined(sourceOf(copy, "openai"))
  })

  it("that was never decoded has none", () => {
    assert.isUndefined(sourceOf(chunk, "openai"))
    assert.isUndefined(sourceOf(response, "openai"))
  })
})

describe("annotate", () => {
  it("keeps the original, since no wire says what the gateway found", () => {
    const value = sourcedResponse(response, source)
    const annotated = annotate(value, { modelUsed: "openai::m", fallbackUsed: false })
    assert.strictEqual(sourceOf(annotated, "openai"), source)
    assert.strictEqual(annotated.modelUsed, "openai::m")
    assert.deepStrictEqual(annotated.content, response.content)
  })

  it("copies a value that its provider may still hold", () => {
    const kept = Object.freeze({ ...response })
    const annotated = annotate(kept, { modelUsed: "plain::m" })
    assert.deepStrictEqual(kept, response)
    assert.deepStrictEqual(annotated, { ...response, modelUsed: "plain::m" })
  })
})
