/**
 * Requests, answers and streams that somebody has tampered with. Well-formed ones are changed in a few random places, so
 * that the changes reach deep into the decoders; whatever comes of it is a value that fits the sdk, or a typed failure
 * with bounded words. LLM_GATEWAY_FUZZ_RUNS sets how many are tried.
 */
// @effect-diagnostics processEnv:off
import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import { ChatChunk, type ChatRequest, ChatRequest as Request, ChatResponse } from "../../src/sdk/Chat.ts"
import { isJson, isList } from "../../src/wire/Json.ts"
import { makeOpenAiResponses } from "../../src/wire/openai/responses/OpenAiResponses.ts"
import { GatewayError, InternalError } from "../../src/sdk/GatewayError.ts"
import { eventsOf as responseEventsOf } from "../fixtures/ResponsesEvents.ts"
import {
  callOf,
  checkGrammar,
  codecs,
  eventsOf,
  looksComplete,
  plain,
  type WireName,
  wires,
  withUsage
} from "./Wires.ts"

const runs = Number(process.env["LLM_GATEWAY_FUZZ_RUNS"] ?? 400)

// ---------------------------------------------------------------------------------------------------------------------
// Tampering
// ---------------------------------------------------------------------------------------------------------------------

type Random = (below: number) => number

/** Mulberry32: small, and the same everywhere. */
const random = (seed: number): Random => {
  let state = seed
  return (below) => {
    state = Math.trunc(state + 0x6d2b79f5)
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

const deep = (levels: number): unknown => levels === 0 ? [] : [deep(levels - 1)]

const odd: ReadonlyArray<unknown> = [
  null,
  true,
  false,
  0,
  -1,
  1.5,
  1e300,
  -1e300,
  Number.MAX_SAFE_INTEGER,
  "",
  " ",
  "x".repeat(3000),
  "\ud800",
  "\u0000\r\n\u2028",
  "data:image/png;base64,!!!",
  "__proto__",
  "constructor",
  [],
  [null],
  [[]],
  {},
  { type: null },
  { type: "text" },
  { type: "toString" },
  { type: "constructor", text: 1 },
  JSON.parse("{\"__proto__\": {\"polluted\": true}, \"hasOwnProperty\": 1, \"toString\": null}") as unknown,
  deep(100)
]

/** A copy of a value with one place of it changed. */
const tampered = (value: unknown, chance: Random): unknown => {
  const dive = chance(6) !== 0
  if (isList(value) && value.length > 0 && dive) {
    const at = chance(value.length)
    switch (chance(8)) {
      case 0:
        return [...value.slice(0, at), ...value.slice(at + 1)]
      case 1:
        return [...value, value[at]]
      case 2:
        return value.toReversed()
      default:
        return value.map((item, index) => index === at ? tampered(item, chance) : item)
    }
  }
  const keys = isJson(value) ? Object.keys(value) : []
  if (isJson(value) && keys.length > 0 && dive) {
    const key = keys[chance(keys.length)] ?? ""
    switch (chance(10)) {
      case 0:
        return Object.fromEntries(Object.entries(value).filter(([name]) => name !== key))
      case 1:
        return { ...value, [keys[chance(keys.length)] ?? ""]: value[key] }
      default:
        return { ...value, [key]: tampered(value[key], chance) }
    }
  }
  return odd[chance(odd.length)]
}

const times = (count: number, value: unknown, chance: Random): unknown =>
  count === 0 ? value : times(count - 1, tampered(value, chance), chance)

// ---------------------------------------------------------------------------------------------------------------------
// What is well formed
// ---------------------------------------------------------------------------------------------------------------------

const png = "iVBORw0KGgo="
const schema = { type: "object", properties: { a: { type: "string" } } }

const requests: Readonly<Record<WireName, unknown>> = {
  openai: {
    model: "m",
    messages: [
      { role: "system", content: "Be brief.", name: "s" },
      {
        role: "user",
        content: [
          { type: "text", text: "Hi", cache_control: { type: "ephemeral", ttl: "1h" } },
          { type: "image_url", image_url: { url: `data:image/png;base64,${png}`, detail: "low" } },
          { type: "input_audio", input_audio: { data: png, format: "wav" } },
          { type: "file", file: { filename: "a.pdf", file_data: `data:application/pdf;base64,${png}` } }
        ]
      },
      {
        role: "assistant",
        content: null,
        reasoning_content: "Hm.",
        thinking_blocks: [{ type: "thinking", thinking: "Hm.", signature: "s" }],
        reasoning_details: [{ type: "reasoning.text", text: "Hm.", signature: "s", format: "anthropic-claude-v1" }],
        tool_calls: [{ id: "call_1", type: "function", function: { name: "f", arguments: "{\"a\":1}" } }],
        audio: { id: "a" },
        refusal: "No."
      },
      { role: "tool", tool_call_id: "call_1", content: [{ type: "text", text: "ok" }], is_error: true }
    ],
    tools: [{ type: "function", function: { name: "f", description: "d", parameters: schema, strict: true } }],
    tool_choice: {
      type: "allowed_tools",
      allowed_tools: { mode: "auto", tools: [{ type: "function", function: { name: "f" } }] }
    },
    response_format: { type: "json_schema", json_schema: { name: "n", schema } },
    stop: ["a"],
    logit_bias: { "1": 1 },
    metadata: { a: "b" },
    reasoning_effort: "low",
    max_tokens: 5,
    temperature: 1,
    top_k: 1,
    stream: true,
    stream_options: { include_usage: true }
  },
  anthropic: {
    model: "m",
    max_tokens: 4096,
    system: [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }],
    messages: [
      {
        role: "user",
        content: [
          { type: "text", text: "Hi" },
          { type: "image", source: { type: "base64", media_type: "image/png", data: png } },
          { type: "document", source: { type: "text", data: "t" }, title: "t", citations: { enabled: true } }
        ]
      },
      {
        role: "assistant",
        content: [
          { type: "thinking", thinking: "Hm.", signature: "s" },
          { type: "redacted_thinking", data: "d" },
          { type: "tool_use", id: "t", name: "f", input: { a: 1 } }
        ]
      },
      { role: "user", content: [{ type: "tool_result", tool_use_id: "t", content: [{ type: "text", text: "ok" }] }] }
    ],
    tools: [{ name: "f", input_schema: schema }, { type: "web_search_20250305", name: "web_search" }],
    tool_choice: { type: "auto", disable_parallel_tool_use: true },
    thinking: { type: "enabled", budget_tokens: 2048 },
    output_config: { effort: "low", format: { type: "json_schema", schema } },
    metadata: { user_id: "u" },
    stop_sequences: ["a"],
    service_tier: "auto",
    stream: true
  },
  ollama: {
    model: "m",
    messages: [
      { role: "user", content: "Hi", images: [png] },
      {
        role: "assistant",
        content: "",
        thinking: "Hm.",
        tool_calls: [{ function: { name: "f", arguments: { a: 1 } } }]
      },
      { role: "tool", tool_name: "f", content: "ok" }
    ],
    tools: [{ type: "function", function: { name: "f", parameters: schema } }],
    format: schema,
    think: "low",
    options: { temperature: 1, top_k: 1, num_ctx: 8192, stop: ["a"], num_predict: 5 },
    keep_alive: "5m",
    logprobs: true,
    top_logprobs: 1
  }
}

const responses: Readonly<Record<WireName, unknown>> = {
  openai: {
    id: "x",
    object: "chat.completion",
    created: 1,
    model: "m",
    choices: [
      {
        index: 0,
        finish_reason: "tool_calls",
        logprobs: { content: [] },
        message: {
          role: "assistant",
          content: "Hi",
          refusal: "No.",
          reasoning_details: [{ type: "reasoning.encrypted", data: "d", format: "openai-responses-v1" }],
          annotations: [{ type: "url_citation", url_citation: { url: "https://x.org" } }],
          images: [{ type: "image_url", image_url: { url: `data:image/png;base64,${png}` } }],
          audio: { id: "a", data: png, transcript: "t", expires_at: 1 },
          tool_calls: [{ id: "call_1", type: "function", function: { name: "f", arguments: "{}" } }]
        }
      },
      { index: 1, finish_reason: "stop", message: { content: [{ type: "text", text: "Hi" }] } }
    ],
    usage: {
      prompt_tokens: 9,
      completion_tokens: 8,
      total_tokens: 17,
      prompt_tokens_details: { cached_tokens: 4, audio_tokens: 1 },
      completion_tokens_details: { reasoning_tokens: 3, audio_tokens: 1 }
    }
  },
  anthropic: {
    id: "x",
    type: "message",
    role: "assistant",
    model: "m",
    content: [
      { type: "thinking", thinking: "Hm.", signature: "s" },
      { type: "redacted_thinking", data: "d" },
      { type: "text", text: "Hi", citations: [{ type: "char_location", cited_text: "c" }] },
      { type: "server_tool_use", id: "s", name: "web_search", input: {} },
      { type: "tool_use", id: "t", name: "f", input: { a: 1 } }
    ],
    stop_reason: "refusal",
    stop_sequence: "END",
    stop_details: { type: "refusal", category: null, explanation: "No." },
    usage: {
      input_tokens: 3,
      output_tokens: 4,
      cache_creation_input_tokens: 5,
      cache_read_input_tokens: 6,
      cache_creation: { ephemeral_5m_input_tokens: 2, ephemeral_1h_input_tokens: 3 },
      output_tokens_details: { thinking_tokens: 2 }
    }
  },
  ollama: {
    model: "m",
    created_at: "2026-01-01T00:00:00Z",
    message: {
      role: "assistant",
      content: "Hi",
      thinking: "Hm.",
      images: [png],
      tool_calls: [{ id: "c", function: { index: 0, name: "f", arguments: { a: 1 } } }]
    },
    done: true,
    done_reason: "stop",
    prompt_eval_count: 3,
    eval_count: 4,
    total_duration: 5,
    logprobs: [{ token: "H", logprob: -1 }]
  }
}

const chunk = (choices: unknown, more = {}) => ({ id: "x", created: 1, model: "m", choices, ...more })
const piece = (delta: unknown, finish: unknown = null, index = 0) => ({ index, delta, finish_reason: finish })
const call = (more: unknown) => ({ tool_calls: [more] })

/** Events with their names; a string is data that is not JSON. */
const streams: Readonly<Record<WireName, ReadonlyArray<readonly [event: string, data: unknown]>>> = {
  openai: [
    ["", chunk([], { id: "", model: "", prompt_filter_results: [] })],
    ["", chunk([piece({ role: "assistant", content: "" })])],
    ["", chunk([piece({ reasoning_content: "Hm." }), piece({ content: "second" }, null, 1)])],
    ["", chunk([piece({ thinking_blocks: [{ type: "thinking", thinking: "Hm.", signature: "s" }] })])],
    ["", chunk([piece({ content: "Hi", annotations: [{ type: "url_citation" }] })])],
    ["", chunk([piece(call({ index: 0, id: "call_1", type: "function", function: { name: "f", arguments: "" } }))])],
    ["", chunk([piece(call({ index: 1, id: "call_2", type: "function", function: { name: "g", arguments: "{}" } }))])],
    ["", chunk([piece(call({ index: 0, function: { arguments: "{\"a\":" } }))])],
    ["", chunk([piece(call({ index: 0, function: { arguments: "1}" } }))])],
    ["", chunk([piece({ images: [{ image_url: { url: "https://x.org/a.png" } }] }), piece({ refusal: "No." })])],
    ["", chunk([piece({ audio: { id: "a", data: "AAAA", transcript: "t" } })])],
    ["", chunk([piece({}, "tool_calls"), piece({}, "stop", 1)])],
    ["", chunk([], { usage: { prompt_tokens: 3, completion_tokens: 4 } })],
    ["", "[DONE]"]
  ],
  anthropic: ([
    { type: "message_start", message: { id: "x", model: "m", usage: { input_tokens: 3, output_tokens: 1 } } },
    { type: "content_block_start", index: 0, content_block: { type: "thinking", thinking: "" } },
    { type: "ping" },
    { type: "content_block_delta", index: 0, delta: { type: "thinking_delta", thinking: "Hm." } },
    { type: "content_block_delta", index: 0, delta: { type: "signature_delta", signature: "s" } },
    { type: "content_block_stop", index: 0 },
    { type: "content_block_start", index: 1, content_block: { type: "redacted_thinking", data: "d" } },
    { type: "content_block_stop", index: 1 },
    { type: "content_block_start", index: 2, content_block: { type: "text", text: "" } },
    { type: "content_block_delta", index: 2, delta: { type: "text_delta", text: "Hi" } },
    { type: "content_block_delta", index: 2, delta: { type: "citations_delta", citation: { type: "char_location" } } },
    { type: "content_block_stop", index: 2 },
    { type: "content_block_start", index: 3, content_block: { type: "tool_use", id: "t", name: "f", input: {} } },
    { type: "content_block_delta", index: 3, delta: { type: "input_json_delta", partial_json: "{\"a\":1}" } },
    { type: "content_block_stop", index: 3 },
    {
      type: "content_block_start",
      index: 4,
      content_block: { type: "server_tool_use", id: "s", name: "w", input: {} }
    },
    { type: "content_block_delta", index: 4, delta: { type: "input_json_delta", partial_json: "{}" } },
    { type: "content_block_stop", index: 4 },
    { type: "message_delta", delta: { stop_reason: "tool_use", stop_sequence: null }, usage: { output_tokens: 4 } },
    { type: "message_stop" }
  ] as const).map((event) => [event.type, event]),
  ollama: [
    ["", { model: "m", message: { role: "assistant", content: "", thinking: "Hm." }, done: false }],
    ["", { model: "m", message: { role: "assistant", content: "Hi" }, done: false, logprobs: [{ token: "H" }] }],
    ["", {
      model: "m",
      message: {
        role: "assistant",
        content: "",
        tool_calls: [{ function: { name: "f", arguments: { a: 1 } } }, { function: { name: "g", arguments: {} } }]
      },
      done: false
    }],
    ["", { model: "m", message: { role: "assistant", content: "", images: [png] }, done: false }],
    ["", { model: "m", message: { role: "assistant", content: "" }, done: true, done_reason: "stop", eval_count: 4 }]
  ]
}

// ---------------------------------------------------------------------------------------------------------------------
// Trying
// ---------------------------------------------------------------------------------------------------------------------

const isRequest = Schema.is(Schema.toType(Request))
const isResponse = Schema.is(Schema.toType(ChatResponse))
const isChunk = Schema.is(Schema.toType(ChatChunk))

const bounded = (failure: { readonly message: string; readonly field?: string | undefined }): void => {
  assert.isAtMost(failure.message.length, 700)
  assert.isAtMost(failure.field?.length ?? 0, 300)
}

/** Runs something for many seeds; a failure names its seed. */
const tryAll = (what: (chance: Random) => void): void => {
  for (let seed = 1; seed <= runs; seed += 1) {
    try {
      what(random(seed))
    } catch (cause) {
      throw new Error(`seed ${seed}: ${String(cause)}`, { cause })
    }
  }
  assert.isUndefined(Reflect.get({}, "polluted"))
}

describe.each(wires)("%s, tampered with", (wire) => {
  const codec = codecs[wire]

  it("requests are read or refused, and what is read can be sent to anybody or is refused", () => {
    tryAll((chance) => {
      const decoded = codec.decodeRequest(times(1 + chance(4), requests[wire], chance))
      if (Result.isFailure(decoded)) {
        bounded(decoded.failure)
        assert.isAtMost(decoded.failure.issues?.length ?? 0, 16)
        return
      }
      assert.isTrue(isRequest(decoded.success), "what was read fits the sdk")
      for (const target of wires) {
        const encoded = codecs[target].encodeRequest(callOf(decoded.success, target), chance(2) === 0)
        if (Result.isFailure(encoded)) bounded(encoded.failure)
        else {
          assert.isString(JSON.stringify(encoded.success.body))
          assert.strictEqual(Object.getPrototypeOf(encoded.success.body), Object.prototype)
          for (const name of encoded.success.dropped) assert.isAtMost(name.length, 120)
        }
      }
    })
  })

  it("answers are read or are failures, and what is read can be shown to anybody", () => {
    tryAll((chance) => {
      const json = times(1 + chance(4), responses[wire], chance)
      const decoded = codec.decodeResponse(JSON.stringify(json), json, callOf(plain, wire))
      if (Result.isFailure(decoded)) {
        bounded(decoded.failure)
        return
      }
      assert.isTrue(isResponse(decoded.success), "what was read fits the sdk")
      // A copy, so that it has to be written anew.
      const copy = { ...decoded.success }
      for (const dialect of wires) assert.isString(JSON.stringify(codecs[dialect].encodeResponse(copy, plain)))
    })
  })

  it("streams are read up to a failure or the end, and every dialect's grammar holds for what was read", () => {
    tryAll((chance) => {
      const decoder = codec.streamDecoder(callOf(plain, wire))
      const request: ChatRequest = withUsage
      const shown = wires.map((dialect) => ({ dialect, encoder: codecs[dialect].streamEncoder(request), text: "" }))
      const tamperedEvents = streams[wire].map(([event, data]): readonly [string, unknown] => [
        event,
        typeof data !== "string" && chance(5) === 0 ? times(1 + chance(2), data, chance) : data
      ])
      const from = chance(tamperedEvents.length)
      const events = chance(4) === 0
        ? [...tamperedEvents.slice(0, from), ...tamperedEvents.slice(from).toReversed(), ...tamperedEvents.slice(-1)]
        : tamperedEvents
      let failed = false
      for (const [event, data] of events) {
        const pushed = decoder.push(typeof data === "string" ? data : JSON.stringify(data), event)
        if (Result.isFailure(pushed)) {
          bounded(pushed.failure)
          failed = true
          break
        }
        for (const one of pushed.success) {
          assert.isTrue(isChunk(one), "what was read fits the sdk")
          for (const to of shown) to.text += to.encoder.push({ ...one })
        }
      }
      const ended = decoder.end()
      assert.isTrue(!failed || Result.isFailure(ended), "a failure is final")
      assert.strictEqual(Result.isSuccess(ended), decoder.isDone() && !failed)
      for (const to of shown) {
        if (Result.isFailure(ended)) assert.isFalse(looksComplete[to.dialect](to.text), to.dialect)
        else checkGrammar[to.dialect](to.text + to.encoder.end())
      }
    })
  })

  it("errors are read whatever they are", () => {
    const body = {
      type: "error",
      error: { type: "t", message: "m", code: 500, param: "p", details: { error_code: "c" } }
    }
    tryAll((chance) => {
      const text = JSON.stringify(times(chance(4), body, chance))
      const failure = codec.decodeError(
        400 + chance(200),
        { "retry-after": "x" },
        text.slice(0, chance(text.length + 1))
      )
      bounded(failure)
      assert.notStrictEqual(failure.message, "")
    })
  })

  it("bytes that are no protocol at all are a failure", () => {
    tryAll((chance) => {
      const text = Array.from(
        { length: chance(40) },
        () => String.fromCharCode(chance(2) === 0 ? 32 + chance(95) : chance(300))
      )
        .join("")
      const decoder = codec.streamDecoder(callOf(plain, wire))
      for (const { data, event } of eventsOf(wire, text, 1 + chance(7))) {
        const pushed = decoder.push(data, event)
        if (Result.isFailure(pushed)) break
      }
      assert.isTrue(Result.isFailure(decoder.end()))
    })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// OpenAI's Responses API, which is a dialect alone
// ---------------------------------------------------------------------------------------------------------------------

const callItem = (id: string): unknown => ({ type: "function_call", call_id: id, name: "f", arguments: "{\"a\":1}" })
const outputItem = (id: string): unknown => ({ type: "function_call_output", call_id: id, output: "ok" })

describe("OpenAI's Responses API", () => {
  const codec = makeOpenAiResponses(() => 1_790_000_000)
  const [thinking] = (() => {
    const answer = codec.encodeResponse({
      id: "x",
      model: "m",
      content: [{ type: "reasoning", text: "Hm.", signature: "s", wire: "anthropic" }],
      finishReason: "stop"
    }, plain)["output"]
    return isList(answer) ? answer : []
  })()
  const request: unknown = {
    model: "m",
    instructions: "Be brief.",
    input: [
      {
        role: "user",
        content: [
          { type: "input_text", text: "Hi" },
          { type: "input_image", image_url: `data:image/png;base64,${png}`, detail: "low" },
          { type: "input_audio", input_audio: { data: png, format: "wav" } },
          { type: "input_file", filename: "a.pdf", file_data: `data:application/pdf;base64,${png}` },
          { type: "input_file", file_url: "https://x.org/a.pdf" }
        ]
      },
      thinking,
      { type: "reasoning", id: "rs_1", summary: [{ type: "summary_text", text: "Hm." }] },
      {
        type: "message",
        id: "msg_1",
        role: "assistant",
        status: "completed",
        phase: "commentary",
        content: [
          {
            type: "output_text",
            text: "a",
            annotations: [{ type: "url_citation", url: "https://x.org" }],
            logprobs: []
          },
          { type: "refusal", refusal: "No." }
        ]
      },
      callItem("call_1"),
      { type: "image_generation_call", id: "ig_1", result: png },
      { type: "function_call_output", call_id: "call_1", output: [{ type: "input_text", text: "ok" }] }
    ],
    tools: [{ type: "function", name: "f", description: "d", parameters: schema, strict: true }],
    tool_choice: { type: "allowed_tools", mode: "auto", tools: [{ type: "function", name: "f" }] },
    parallel_tool_calls: true,
    text: { format: { type: "json_schema", name: "n", schema, strict: true }, verbosity: "low" },
    reasoning: { effort: "low", summary: "auto" },
    include: ["reasoning.encrypted_content"],
    max_output_tokens: 9,
    temperature: 0.5,
    top_p: 0.5,
    top_logprobs: 2,
    user: "u",
    safety_identifier: "s",
    prompt_cache_key: "k",
    metadata: { a: "b" },
    service_tier: "flex",
    truncation: "auto",
    store: false,
    stream: true,
    stream_options: { include_obfuscation: false }
  }

  it("takes the request that is tampered with as it is", () => {
    const decoded = codec.decodeRequest(request)
    assert.isTrue(Result.isSuccess(decoded) && isRequest(decoded.success))
  })

  it("reads or refuses requests, and what is read can be sent to anybody or is refused, and repeated", () => {
    tryAll((chance) => {
      const decoded = codec.decodeRequest(times(1 + chance(4), request, chance))
      if (Result.isFailure(decoded)) {
        bounded(decoded.failure)
        assert.isAtMost(decoded.failure.issues?.length ?? 0, 16)
        return
      }
      assert.isTrue(isRequest(decoded.success), "what was read fits the sdk")
      for (const target of wires) {
        const encoded = codecs[target].encodeRequest(callOf(decoded.success, target), chance(2) === 0)
        if (Result.isFailure(encoded)) bounded(encoded.failure)
        else assert.isString(JSON.stringify(encoded.success.body))
      }
      assert.isString(
        JSON.stringify(codec.encodeResponse({ id: "", model: "m", content: [], finishReason: "stop" }, decoded.success))
      )
    })
  })

  it.each(wires)("keeps its grammar for whatever is read of %s", (wire) => {
    tryAll((chance) => {
      const decoder = codecs[wire].streamDecoder(callOf(plain, wire))
      const encoder = codec.streamEncoder(plain)
      let text = ""
      for (const [event, data] of streams[wire]) {
        const sent = typeof data !== "string" && chance(5) === 0 ? times(1 + chance(2), data, chance) : data
        const pushed = decoder.push(typeof sent === "string" ? sent : JSON.stringify(sent), event)
        if (Result.isFailure(pushed)) break
        for (const one of pushed.success) text += encoder.push(one)
      }
      const failed = new GatewayError({ reason: new InternalError({ message: "it failed" }) })
      responseEventsOf(text + (Result.isFailure(decoder.end()) ? encoder.error(failed) : encoder.end()))
    })
  })

  it("takes time by a conversation's size, not by its square", () => {
    const ids = Array.from({ length: 5000 }, (_, index) => `c${index}`)
    const started = performance.now()
    const decoded = codec.decodeRequest({ model: "m", input: [...ids.map(callItem), ...ids.map(outputItem)] })
    if (Result.isFailure(decoded)) assert.fail(decoded.failure.message)
    assert.lengthOf(decoded.success.messages, 5001)
    assert.isBelow(performance.now() - started, 500)
  })
})

describe("large conversations", () => {
  const count = 5000
  const numbers = Array.from({ length: count }, (_, index) => index)
  const bodies: Readonly<Record<WireName, unknown>> = {
    openai: {
      model: "m",
      messages: [
        {
          role: "assistant",
          tool_calls: numbers.map((id) => ({ id: `c.${id}`, function: { name: "f", arguments: "{}" } }))
        },
        ...numbers.map((id) => ({ role: "tool", tool_call_id: `c.${id}`, content: "ok" }))
      ]
    },
    anthropic: {
      model: "m",
      max_tokens: 1,
      messages: [
        { role: "assistant", content: numbers.map((id) => ({ type: "tool_use", id: `c${id}`, name: "f", input: {} })) },
        { role: "user", content: numbers.map((id) => ({ type: "tool_result", tool_use_id: `c${id}`, content: "ok" })) }
      ]
    },
    ollama: {
      model: "m",
      messages: [
        { role: "assistant", tool_calls: numbers.map(() => ({ function: { name: "f", arguments: {} } })) },
        ...numbers.map((id) => ({ role: "tool", tool_call_id: `unheard.${id}`, content: "ok" }))
      ]
    }
  }
  it.each(wires)("of %s take time by their size, not by its square", (wire) => {
    const started = performance.now()
    const decoded = codecs[wire].decodeRequest(bodies[wire])
    if (Result.isFailure(decoded)) assert.fail(decoded.failure.message)
    for (const target of wires) codecs[target].encodeRequest(callOf(decoded.success, target), false)
    // Linear work takes some 50 ms; the square of 5,000 would be 25 million steps several times over.
    assert.isBelow(performance.now() - started, 1500)
  })
})
