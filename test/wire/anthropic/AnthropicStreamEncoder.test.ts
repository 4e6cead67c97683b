import { assert, describe, it } from "@effect/vitest"
import type { ChatChunk, PartDelta } from "../../../src/sdk/Chat.ts"
import * as Errors from "../../../src/sdk/GatewayError.ts"
import { anthropicMessages } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { at, callOf, change, chatRequest, eventsOf, frames, join, readStream, writeStream } from "./Fixtures.ts"

const chunk = (delta: ReadonlyArray<PartDelta>, fields: Partial<ChatChunk> = {}): ChatChunk => ({
  id: "c1",
  model: "gpt",
  delta,
  ...fields
})
const text = (index: number, value: string): PartDelta => ({ type: "text", index, text: value })
const open = (index: number, id: string, args = ""): PartDelta => ({
  type: "tool_call",
  index,
  id,
  name: `f_${id}`,
  arguments: args
})
const more = (index: number, args: string): PartDelta => ({ type: "tool_call", index, arguments: args })
const usage = { inputTokens: 10, outputTokens: 5 }
const types = (body: string) => eventsOf(body).map((event) => event["type"])

/** Checks what every Anthropic stream keeps, and gives its blocks' types. */
const blockTypes = (body: string): ReadonlyArray<unknown> => {
  const blocks: Array<unknown> = []
  let openIndex: unknown
  for (const event of eventsOf(body)) {
    if (event["type"] === "content_block_start") {
      assert.isUndefined(openIndex, "a block closes before the next one opens")
      assert.strictEqual(event["index"], blocks.length, "indices are dense")
      openIndex = event["index"]
      blocks.push(at(event, "content_block", "type"))
    }
    if (event["type"] === "content_block_delta") assert.strictEqual(event["index"], openIndex)
    if (event["type"] === "content_block_stop") {
      assert.strictEqual(event["index"], openIndex)
      openIndex = undefined
    }
    if (event["type"] === "message_delta") assert.isUndefined(openIndex, "no block is open at the end")
  }
  return blocks
}

describe("streamEncoder", () => {
  it("begins with the first chunk, with an estimate of the usage where there is one", () => {
    const encoder = anthropicMessages.streamEncoder(chatRequest)
    const [first] = eventsOf(encoder.push(chunk([], { usage: { inputTokens: 123, outputTokens: 0, estimated: true } })))
    assert.strictEqual(first?.["type"], "message_start")
    assert.strictEqual(at(first, "message", "id"), "c1")
    assert.strictEqual(at(first, "message", "usage", "input_tokens"), 123)
    assert.strictEqual(encoder.push(chunk([])), "")
  })
  it("estimates the prompt once, and only where the upstream has told no usage by then", () => {
    let asked = 0
    const options = { estimateInput: () => ++asked * 50 }
    const begun = (first: ChatChunk) => {
      const encoder = anthropicMessages.streamEncoder(chatRequest, options)
      const body = encoder.push(first) + encoder.push(chunk([text(0, "b")])) + encoder.end()
      return eventsOf(body).flatMap((event) => {
        const told = at(event, "message", "usage", "input_tokens") ?? at(event, "usage", "input_tokens")
        return told === undefined ? [] : [told]
      })
    }
    assert.deepStrictEqual(begun(chunk([text(0, "a")])), [50, 50])
    assert.strictEqual(asked, 1)
    assert.deepStrictEqual(begun(chunk([], { usage })), [10, 10])
    assert.strictEqual(asked, 1)
  })
  it("waits for an id, and where none comes with the first content makes one of the request's", () => {
    const nameless = { id: "", model: "" }
    const encoder = anthropicMessages.streamEncoder(chatRequest, { requestId: "req_7" })
    assert.strictEqual(encoder.push(chunk([], nameless)), "")
    const [first] = eventsOf(encoder.push(chunk([text(0, "a")], nameless)))
    assert.strictEqual(at(first, "message", "id"), "msg_req_7")
    const error = Errors.fail(new Errors.InternalError({ message: "x" }))
    assert.strictEqual(eventsOf(encoder.error(error))[0]?.["request_id"], "req_7")
  })
  it("opens and closes blocks in order, at dense places; text after a call is a new block", () => {
    const body = writeStream([
      chunk([{ type: "reasoning", index: 0, text: "hm" }]),
      chunk([text(1, "a")]),
      chunk([text(1, "b")]),
      chunk([open(2, "t", "{}")]),
      chunk([text(3, "c")]),
      chunk([], { finishReason: "tool_calls", usage })
    ])
    assert.deepStrictEqual(blockTypes(body), ["thinking", "text", "tool_use", "text"])
    assert.deepStrictEqual(join(readStream(body, callOf()).chunks).content, [
      { type: "reasoning", text: "hm" },
      { type: "text", text: "ab" },
      { type: "tool_call", id: "t", name: "f_t", arguments: "{}" },
      { type: "text", text: "c" }
    ])
  })
  it("buffers interleaved calls, all but the open one", () => {
    const body = writeStream([
      chunk([open(0, "a"), open(1, "b")]),
      chunk([more(1, "{\"x\":")]),
      chunk([more(0, "{\"y\":1}")]),
      chunk([more(1, "2}")]),
      chunk([], { finishReason: "stop", usage })
    ])
    assert.deepStrictEqual(blockTypes(body), ["tool_use", "tool_use"])
    const { content, nativeFinishReason } = join(readStream(body, callOf()).chunks)
    assert.deepStrictEqual(content, [
      { type: "tool_call", id: "a", name: "f_a", arguments: "{\"y\":1}" },
      { type: "tool_call", id: "b", name: "f_b", arguments: "{\"x\":2}" }
    ])
    // The server said stop; the calls know better.
    assert.strictEqual(nativeFinishReason, "tool_use")
  })
  it("waits with message_delta for usage that comes after the finish", () => {
    const encoder = anthropicMessages.streamEncoder(chatRequest)
    encoder.push(chunk([text(0, "a")]))
    assert.notInclude(types(encoder.push(chunk([], { finishReason: "stop" }))), "message_delta")
    const [, last] = eventsOf(encoder.push(chunk([], { usage })))
    assert.strictEqual(last?.["type"], "message_delta")
    assert.strictEqual(at(last, "usage", "output_tokens"), 5)
    assert.deepStrictEqual(types(encoder.end()), ["message_stop"])
  })
  it("writes message_delta at the end where no usage came", () => {
    const encoder = anthropicMessages.streamEncoder(chatRequest)
    encoder.push(chunk([text(0, "a")]))
    encoder.push(chunk([], { finishReason: "length" }))
    const [, last, stop] = eventsOf(encoder.end())
    assert.strictEqual(at(last, "delta", "stop_reason"), "max_tokens")
    assert.strictEqual(stop?.["type"], "message_stop")
  })
  it("writes a whole message for an answer without content", () => {
    assert.deepStrictEqual(types(writeStream([])), ["message_start", "message_delta", "message_stop"])
  })
  it("ends a failed stream with an error event and no success marker", () => {
    const encoder = anthropicMessages.streamEncoder(chatRequest)
    const before = encoder.push(chunk([text(0, "a")]))
    const after = encoder.error(Errors.fail(new Errors.Overloaded({ message: "too much" })))
    assert.deepStrictEqual(eventsOf(after), [{
      type: "error",
      error: { type: "overloaded_error", message: "too much" }
    }])
    assert.strictEqual(readStream(before + after, callOf()).failure?.kind, "transient")
  })
  it("passes over further choices", () => {
    const body = writeStream([
      chunk([text(0, "a")]),
      chunk([text(0, "b")], { choice: 1 }),
      chunk([], { finishReason: "stop", usage })
    ])
    assert.deepStrictEqual(join(readStream(body, callOf()).chunks).content, [{ type: "text", text: "a" }])
  })
  it("tells a refusal with the end of the message", () => {
    const body = writeStream([
      chunk([{ type: "refusal", index: 0, text: "n" }]),
      chunk([{ type: "refusal", index: 0, text: "o" }], { finishReason: "stop", usage })
    ])
    const { content, finishReason } = join(readStream(body, callOf()).chunks)
    assert.deepStrictEqual(content, [{ type: "refusal", text: "no" }])
    assert.strictEqual(finishReason, "content_filter")
  })
})

describe("streamEncoder: events of this wire", () => {
  const events: ReadonlyArray<Json> = [
    {
      type: "message_start",
      message: { id: "m", type: "message", model: "x", content: [], usage: { input_tokens: 1, output_tokens: 1 } },
      x: 1
    },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
    { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "secret" } },
    { type: "content_block_stop", index: 0 },
    { type: "brand_new", y: 2 },
    {
      type: "content_block_start",
      index: 1,
      content_block: { type: "tool_use", id: "t", name: "f", input: {}, caller: { type: "direct" } }
    },
    { type: "content_block_delta", index: 1, delta: { type: "input_json_delta", partial_json: "" } },
    { type: "content_block_stop", index: 1 },
    {
      type: "message_delta",
      delta: { stop_reason: "tool_use", stop_sequence: null, container: null },
      usage: { output_tokens: 3 }
    },
    { type: "message_stop", metrics: { z: 3 } }
  ]
  const decoded = () => readStream(frames(events), callOf()).chunks
  it("hands unchanged events on as they came", () => {
    assert.strictEqual(writeStream(decoded()), frames(events))
  })
  it("stays coherent where somebody changed the text", () => {
    const body = writeStream(
      decoded().map((one) =>
        one.delta.some((piece) => piece.type === "text") ? change(one, { delta: [text(0, "***")] }) : one
      )
    )
    assert.deepStrictEqual(blockTypes(body), ["text", "tool_use"])
    assert.notInclude(body, "secret")
    assert.include(body, "direct")
    assert.deepStrictEqual(join(readStream(body, callOf()).chunks).content[0], { type: "text", text: "***" })
  })
  it("stays coherent where somebody held the text back and let it go late", () => {
    const chunks = decoded()
    const late = chunks.filter((one) => !one.delta.some((piece) => piece.type === "text"))
    const body = writeStream([...late.slice(0, 4), chunk([text(0, "late")]), ...late.slice(4)])
    assert.deepStrictEqual(blockTypes(body), ["text", "text", "tool_use"])
  })
  it("stays coherent where the events without content are missing", () => {
    const body = writeStream(decoded().filter((one) => one.delta.length > 0 || one.finishReason !== undefined))
    assert.deepStrictEqual(blockTypes(body), ["text", "tool_use"])
    assert.strictEqual(types(body)[0], "message_start")
    const { content, finishReason } = join(readStream(body, callOf()).chunks)
    assert.deepStrictEqual(content, [
      { type: "text", text: "secret" },
      { type: "tool_call", id: "t", name: "f", arguments: "{}" }
    ])
    assert.strictEqual(finishReason, "tool_calls")
  })
})
