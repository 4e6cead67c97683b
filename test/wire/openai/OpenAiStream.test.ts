import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { type ChatChunk, hasContent } from "../../../src/sdk/Chat.ts"
import { fail, ProviderFailed } from "../../../src/sdk/GatewayError.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import {
  at,
  callOf,
  codec,
  copyOf,
  dataOf,
  decodeStream,
  err,
  event,
  eventsOf,
  gather,
  now,
  ok,
  plain,
  usageOf,
  written
} from "./Support.ts"

const done = "[DONE]"
const decode = (events: ReadonlyArray<unknown>) => ok(decodeStream(events))
const failure = (events: ReadonlyArray<unknown>) => err(decodeStream(events))
const tool = (fields: Json, called: Json = {}): Json => ({ tool_calls: [{ ...fields, function: called }] })
const finish = (reason: string) => event({}, { finish_reason: reason })
const usage = { prompt_tokens: 10, completion_tokens: 2, total_tokens: 12, prompt_tokens_details: { cached_tokens: 4 } }

describe("streamDecoder", () => {
  it("gives parts their positions in the order in which they begin", () => {
    const said = gather(decode([
      event({ role: "assistant", content: "" }),
      event({ content: "", reasoning_content: "th" }),
      event({ reasoning_content: "ink" }),
      event({ content: "Hel" }),
      event({ content: "lo" }),
      event(tool({ index: 0, id: "a" }, { name: "f", arguments: "" })),
      event(tool({ index: 1, id: "b" }, { name: "g", arguments: "{" })),
      event(tool({ index: 0 }, { arguments: "{}" })),
      event(tool({ index: 1 }, { arguments: "}" })),
      event({ content: "!" }),
      finish("tool_calls"),
      done
    ]))
    assert.deepStrictEqual(said, {
      text: "Hello!",
      reasoning: "think",
      refusal: "",
      calls: [{ id: "a", name: "f", arguments: "{}" }, { id: "b", name: "g", arguments: "{}" }],
      finishReason: "tool_calls",
      kinds: ["reasoning", "text", "tool_call", "tool_call", "text"]
    })
  })
  it("sends a call's id and name once, however often the server repeats them", () => {
    const chunks = decode([
      event(tool({ index: 0, id: "a" }, { name: "f", arguments: "{" })),
      event(tool({ index: 0, id: "a" }, { name: "f", arguments: "}" })),
      finish("tool_calls"),
      done
    ])
    const deltas = chunks.flatMap(({ delta }) => delta)
    assert.deepStrictEqual(deltas, [
      { type: "tool_call", index: 0, id: "a", name: "f", arguments: "{" },
      { type: "tool_call", index: 0, arguments: "}" }
    ])
  })
  it("tells calls apart without an index, and where every call has index 0", () => {
    const calls = [{ id: "a", name: "f", arguments: "{}" }, { id: "b", name: "g", arguments: "{\"x\":1}" }]
    const without = calls.map(({ id, ...called }) => event(tool({ id }, called)))
    const zero = calls.map(({ id, ...called }) => event(tool({ index: 0, id }, called)))
    const together = [event({ tool_calls: calls.map(({ id, ...called }) => ({ index: 0, id, function: called })) })]
    for (const events of [without, zero, together]) {
      const said = gather(decode([...events, finish("stop"), done]))
      assert.deepStrictEqual(said.calls, calls)
      assert.strictEqual(said.finishReason, "tool_calls")
    }
  })
  it("continues the last call where fragments have neither index nor id, and waits for a late name", () => {
    const fragments = gather(decode([
      event(tool({ id: "a" }, { name: "f", arguments: "{" })),
      event(tool({}, { arguments: "}" })),
      finish("tool_calls"),
      done
    ]))
    assert.deepStrictEqual(fragments.calls, [{ id: "a", name: "f", arguments: "{}" }])
    const late = gather(decode([
      event(tool({ index: 0, id: "a" }, { arguments: "{" })),
      event(tool({ index: 0 }, { name: "f", arguments: "}" })),
      finish("tool_calls"),
      done
    ]))
    assert.deepStrictEqual(late.calls, [{ id: "a", name: "f", arguments: "{}" }])
  })
  it("makes an id for a call without one", () => {
    const said = gather(decode([event(tool({ index: 0 }, { name: "f", arguments: "{}" })), finish("stop"), done]))
    assert.deepStrictEqual(said.calls, [{ id: "call_c1_0_0", name: "f", arguments: "{}" }])
  })
  it("keeps the choices of one event apart, with one source for all of them", () => {
    const chunks = decode([
      { id: "c", model: "m", choices: [{ index: 1, delta: { content: "b" } }, { index: 0, delta: { content: "a" } }] },
      done
    ])
    assert.deepStrictEqual([gather(chunks, 0).text, gather(chunks, 1).text], ["a", "b"])
    const encoder = codec.streamEncoder(plain())
    assert.strictEqual(dataOf(written(encoder, chunks)).length, 1)
  })
  it("commits nothing with roles, empty text and Azure's filter results", () => {
    const chunks = decode([
      { id: "", model: "", choices: [], prompt_filter_results: [{}] },
      event({ role: "assistant", content: "" }),
      event({ content: null, refusal: "" }),
      done
    ])
    assert.strictEqual(chunks.length, 3)
    assert.isFalse(chunks.some(hasContent))
  })
  it("reads usage after the finish, on the choice (Moonshot), and not from null", () => {
    const expected = { inputTokens: 6, outputTokens: 2, cacheReadTokens: 4 }
    const after = decode([event({ content: "a" }, {}, { usage: null }), finish("stop"), {
      id: "c1",
      choices: [],
      usage
    }, done])
    assert.deepStrictEqual(usageOf(after), expected)
    assert.deepStrictEqual(usageOf(decode([event({}, { finish_reason: "stop", usage }), done])), expected)
    assert.isUndefined(usageOf(decode([event({ content: "a" }, {}, { usage: null }), done])))
  })
  it("fails on an error inside the stream, by its code, type or status", () => {
    const kinds = [
      { error: { message: "overloaded", type: "overloaded_error" } },
      { error: { message: "slow down", code: 429 } },
      { error: { message: "too long", code: "context_length_exceeded" } },
      { error: "broken" },
      { object: "error", message: "no such thing", code: 404 },
      event({}, { finish_reason: "error", error: { code: 502, message: "gone" } }),
      event({}, { finish_reason: "error" })
    ].map((bad) => failure([event({ content: "a" }), bad]).kind)
    assert.deepStrictEqual(kinds, [
      "transient",
      "quota",
      "contextLength",
      "transient",
      "caller",
      "transient",
      "transient"
    ])
    const decoder = codec.streamDecoder(callOf(plain()))
    const named = err(decoder.push("{\"message\":\"The server is overloaded\",\"code\":503}", "error"))
    assert.deepStrictEqual([named.kind, named.status, named.message], ["transient", 503, "The server is overloaded"])
    assert.strictEqual(err(decoder.push(JSON.stringify(event({ content: "late" })), "message")).kind, "transient")
  })
  it("fails on malformed JSON", () => {
    assert.strictEqual(failure([event({ content: "a" }), "{\"id\":"]).kind, "protocol")
    assert.strictEqual(failure(["5"]).kind, "protocol")
  })
  it("fails where the stream ends without [DONE], a finish reason or not", () => {
    assert.deepStrictEqual(failure([event({ content: "a" })]), {
      kind: "protocol",
      message: "the provider's stream ended without [DONE]"
    })
    assert.strictEqual(failure([event({ content: "a" }), finish("stop")]).kind, "protocol")
    assert.strictEqual(failure([]).kind, "protocol")
  })
  it("counts nothing after [DONE]", () => {
    assert.strictEqual(gather(decode([event({ content: "a" }), done, event({ content: "b" }), "junk"])).text, "a")
  })
  it("reads signed thinking once, whether or not the text is repeated beside the signature", () => {
    const block = (thinking: string) => ({ thinking_blocks: [{ type: "thinking", thinking, signature: "sig" }] })
    const detail = { reasoning_details: [{ type: "reasoning.text", text: "", signature: "sig" }] }
    for (const last of [block("hm"), block(""), detail]) {
      const chunks = decode([
        event({ reasoning_content: "h" }),
        event({ reasoning: "m" }),
        event(last),
        event({ content: "a" }),
        done
      ])
      assert.strictEqual(gather(chunks).reasoning, "hm")
      const signed = chunks.flatMap(({ delta }) => delta).filter((delta) => at(delta, "signature") === "sig")
      assert.deepStrictEqual(signed, [{ type: "reasoning", index: 0, signature: "sig", wire: "anthropic" }])
    }
  })
})

describe("streamEncoder", () => {
  const chunk = (fields: Partial<ChatChunk>): ChatChunk => ({ id: "m1", model: "claude", delta: [], ...fields })
  const asked = plain({ extensions: { openai: { stream_options: { include_usage: true } } } })
  const counted = { inputTokens: 6, outputTokens: 2, cacheReadTokens: 4 }

  it("translates an answer from elsewhere event by event", () => {
    const encoder = codec.streamEncoder(asked)
    const sent = written(encoder, [
      chunk({}),
      chunk({ delta: [{ type: "text", index: 0, text: "Hi" }] }),
      chunk({ delta: [{ type: "tool_call", index: 1, id: "a", name: "f" }] }),
      chunk({
        delta: [{ type: "tool_call", index: 1, arguments: "{\"x\":" }, { type: "tool_call", index: 1, arguments: "1}" }]
      }),
      chunk({ delta: [{ type: "tool_call", index: 2, id: "b", name: "g" }] }),
      chunk({ finishReason: "tool_calls", nativeFinishReason: "tool_use", usage: counted })
    ]) + encoder.end()
    const head = { id: "m1", object: "chat.completion.chunk", created: now, model: "claude" }
    const piece = (delta: Json, fields: Json = { finish_reason: null }) => ({
      ...head,
      choices: [{ index: 0, delta, ...fields }],
      usage: null
    })
    assert.deepStrictEqual(eventsOf(sent), [
      piece({ role: "assistant", content: "" }),
      piece({ content: "Hi" }),
      piece({ tool_calls: [{ index: 0, id: "a", type: "function", function: { name: "f", arguments: "" } }] }),
      piece({ tool_calls: [{ index: 0, function: { arguments: "{\"x\":" } }] }),
      piece({ tool_calls: [{ index: 0, function: { arguments: "1}" } }] }),
      piece({ tool_calls: [{ index: 1, id: "b", type: "function", function: { name: "g", arguments: "" } }] }),
      piece({ tool_calls: [{ index: 1, function: { arguments: "{}" } }] }),
      piece({}, { finish_reason: "tool_calls", native_finish_reason: "tool_use" }),
      {
        ...head,
        choices: [],
        usage: {
          prompt_tokens: 10,
          completion_tokens: 2,
          total_tokens: 12,
          prompt_tokens_details: { cached_tokens: 4, audio_tokens: 0 },
          completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
        }
      }
    ])
    assert.strictEqual(dataOf(sent).at(-1), done)
  })
  it("shows no usage to a caller who did not ask", () => {
    const encoder = codec.streamEncoder(plain())
    const sent = written(encoder, [
      chunk({ delta: [{ type: "text", index: 0, text: "Hi" }] }),
      chunk({ finishReason: "stop" }),
      chunk({ usage: counted })
    ]) + encoder.end()
    for (const one of eventsOf(sent)) assert.notProperty(one, "usage")
  })
  it("writes thinking as text, and as a whole block once it is signed", () => {
    const encoder = codec.streamEncoder(plain())
    const sent = eventsOf(written(encoder, [
      chunk({ delta: [{ type: "reasoning", index: 0, text: "be", wire: "anthropic" }] }),
      chunk({ delta: [{ type: "reasoning", index: 0, text: "cause", wire: "anthropic" }] }),
      chunk({ delta: [{ type: "reasoning", index: 0, signature: "sig", wire: "anthropic" }] }),
      chunk({ delta: [{ type: "reasoning", index: 1, data: "xyz", wire: "anthropic" }] })
    ])).slice(1).map((one) => at(one, "choices", 0, "delta"))
    const format = "anthropic-claude-v1"
    assert.deepStrictEqual(sent, [
      { reasoning_content: "be", reasoning: "be" },
      { reasoning_content: "cause", reasoning: "cause" },
      {
        thinking_blocks: [{ type: "thinking", thinking: "because", signature: "sig" }],
        reasoning_details: [{ type: "reasoning.text", text: "because", signature: "sig", format, index: 0 }]
      },
      {
        thinking_blocks: [{ type: "redacted_thinking", data: "xyz" }],
        reasoning_details: [{ type: "reasoning.encrypted", data: "xyz", format, index: 1 }]
      }
    ])
  })
  it("hands an event of its own wire on with every byte", () => {
    const data =
      "{\"id\" : \"c1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"x\":1.0}],\"obfuscation\":\"zz\"}"
    assert.strictEqual(written(codec.streamEncoder(plain()), decode([data, done])), `data: ${data}\n\n`)
  })
  it("takes only the usage member out, never the same words in the answer", () => {
    const content = ",\"usage\":null"
    for (const value of [null, usage]) {
      const chunks = decode([event({ content }, {}, { usage: value }), done])
      const [sent] = eventsOf(written(codec.streamEncoder(plain()), chunks))
      assert.deepStrictEqual(sent, event({ content }))
    }
  })
  it("writes the usage that a server told on the choice to a caller who asked", () => {
    const encoder = codec.streamEncoder(asked)
    const sent = written(encoder, decode([event({}, { finish_reason: "stop", usage }), done])) + encoder.end()
    assert.strictEqual(at(eventsOf(sent).at(-1), "usage", "prompt_tokens"), 10)
  })
  it("goes on in the same stream where an interceptor changes some chunks", () => {
    const encoder = codec.streamEncoder(plain())
    const chunks = decode([
      event({ role: "assistant", content: "" }),
      event({ content: "secret" }),
      event(tool({ index: 0, id: "a" }, { name: "f", arguments: "{}" })),
      finish("tool_calls"),
      done
    ])
    const changed = chunks.map((one, index) =>
      index === 1 ? copyOf(one, { delta: [{ type: "text", index: 0, text: "***" }] }) : one
    )
    const sent = written(encoder, changed)
    assert.notInclude(sent, "secret")
    const said = gather(decode([...eventsOf(sent), done]))
    assert.deepStrictEqual([said.text, said.calls], ["***", [{ id: "a", name: "f", arguments: "{}" }]])
    assert.strictEqual(eventsOf(sent).filter((one) => at(one, "choices", 0, "delta", "role") === "assistant").length, 1)
  })
  it("corrects stop after tool calls in what it hands on", () => {
    const chunks = decode([event(tool({ index: 0, id: "a" }, { name: "f", arguments: "{}" })), finish("stop"), done])
    const sent = eventsOf(written(codec.streamEncoder(plain()), chunks))
    assert.strictEqual(at(sent.at(-1), "choices", 0, "finish_reason"), "tool_calls")
  })
  it("lets no line break of the content or of an upstream's formatting break an event", () => {
    const encoder = codec.streamEncoder(plain())
    const text = "a\r\n\r\ndata: [DONE]\n\nb\u2028"
    const sent = written(encoder, [chunk({ delta: [{ type: "text", index: 0, text }] })])
    assert.strictEqual(at(eventsOf(sent).at(-1), "choices", 0, "delta", "content"), text)
    const pretty = decode([JSON.stringify(event({ content: text }), null, 2), done])
    assert.deepStrictEqual(eventsOf(written(codec.streamEncoder(plain()), pretty)), [event({ content: text })])
  })
  it("ends a failed stream with an error and with no success marker", () => {
    const encoder = codec.streamEncoder(plain())
    encoder.push(chunk({ delta: [{ type: "text", index: 0, text: "Hi" }] }))
    const sent = encoder.error(fail(
      new ProviderFailed({ message: "it broke", kind: "transient", provider: "openai", upstreamStatus: 529 })
    ))
    assert.deepStrictEqual(dataOf(sent), [
      JSON.stringify({ error: { message: "it broke", type: "server_error", param: null, code: "provider_error" } })
    ])
  })
  it("writes streams that a decoder of the wire reads back", () => {
    const parts: ReadonlyArray<ChatChunk> = [
      chunk({ delta: [{ type: "reasoning", index: 0, text: "because", wire: "anthropic" }] }),
      chunk({ delta: [{ type: "reasoning", index: 0, signature: "sig", wire: "anthropic" }] }),
      chunk({ delta: [{ type: "text", index: 1, text: "Hi" }] }),
      chunk({ delta: [{ type: "tool_call", index: 2, id: "a", name: "f", arguments: "{}" }] }),
      chunk({ finishReason: "tool_calls" }),
      chunk({ usage: counted })
    ]
    const encoder = codec.streamEncoder(asked)
    const again = decodeStream(dataOf(written(encoder, parts) + encoder.end()))
    assert.isTrue(Result.isSuccess(again))
    const read = ok(again)
    assert.deepStrictEqual(gather(read), gather(parts))
    assert.deepStrictEqual(usageOf(read), counted)
    assert.strictEqual(read.flatMap(({ delta }) => delta).filter((delta) => at(delta, "signature") === "sig").length, 1)
  })
})
