/** The laws of the Responses protocol's codec: what comes back from its own words, and what a stream joins to. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema, Stream } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse, FinishReason, Message, PartDelta } from "../../../src/sdk/Chat.ts"
import { chunksOf, collect } from "../../../src/sdk/ChatStream.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import { GatewayError, InternalError } from "../../../src/sdk/GatewayError.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { makeOpenAiResponses } from "../../../src/wire/openai/responses/OpenAiResponses.ts"
import { eventsOf } from "../../fixtures/ResponsesEvents.ts"
import { at, callOf, json, now, ok, plain } from "./Support.ts"

const codec = makeOpenAiResponses(() => now)

const throughJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const Words = Schema.String.check(Schema.isMaxLength(12))
const Small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 }))
const Citation = Schema.Struct({
  type: Schema.Literal("url_citation"),
  url_citation: Schema.Struct({ url: Words, title: Words, start_index: Small, end_index: Small })
})
const AnswerPart = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("text"),
    text: Words,
    citations: Schema.optionalKey(Schema.NonEmptyArray(Citation))
  }),
  Schema.Struct({ type: Schema.Literal("refusal"), text: Words }),
  Schema.Struct({
    type: Schema.Literal("reasoning"),
    text: Schema.optionalKey(Words),
    signature: Schema.optionalKey(Words),
    data: Schema.optionalKey(Words),
    wire: Schema.optionalKey(Schema.Literals(["anthropic", "openai", "ollama"]))
  }),
  Schema.Struct({
    type: Schema.Literal("tool_call"),
    id: Schema.NonEmptyString,
    name: Schema.NonEmptyString,
    arguments: Schema.Literals(["", "{}", "{\"a\":{\"b\":1}}", "{\"a\":", "no JSON"])
  }),
  Schema.Struct({
    type: Schema.Literal("image"),
    source: Schema.Struct({
      type: Schema.Literal("base64"),
      mediaType: Schema.Literals(["image/png", "image/webp"]),
      data: Schema.Literals(["AAAA", "iVBORw0KGgo="])
    })
  })
])
const Answer = Schema.Struct({
  id: Words,
  content: Schema.Array(AnswerPart).check(Schema.isMaxLength(8)),
  finishReason: Schema.Literals(["stop", "length", "tool_calls", "content_filter", "other"]),
  input: Small,
  output: Small,
  read: Small,
  write: Small
})

const responseOf = (drawn: typeof Answer.Type): ChatResponse => ({
  // A provider's id has letters; only then can it be told twice.
  id: `x${drawn.id}`,
  model: "m",
  created: 7,
  content: drawn.content,
  finishReason: drawn.finishReason,
  usage: {
    inputTokens: drawn.input,
    outputTokens: drawn.output,
    cacheReadTokens: drawn.read,
    cacheWrite5mTokens: drawn.write,
    reasoningTokens: drawn.output
  }
})

/** What is left of a part: what says nothing is no item, and no arguments are the empty object. */
const told = (part: Part): ReadonlyArray<Part> => {
  switch (part.type) {
    case "text":
      return part.text === "" && part.citations === undefined ? [] : [part]
    case "refusal":
      return part.text === "" ? [] : [part]
    case "reasoning":
      return (part.text ?? "") === "" && part.signature === undefined && part.data === undefined ? [] : [part]
    case "tool_call":
      return [{ ...part, arguments: part.arguments === "" ? "{}" : part.arguments }]
    default:
      return [part]
  }
}

/** The answer of a request that brings an answer's items back. */
const broughtBack = (response: unknown): ReadonlyArray<Message> =>
  ok(codec.decodeRequest(throughJson({ model: "m", input: [{ role: "user", content: "Hi" }, ...items(response)] })))
    .messages.slice(1).map(withoutItems)

const withoutItems = (message: Message): Message => ({ ...message, content: message.content.map(withoutItem) })

/** An image of the model's remembers the item that it was. */
const withoutItem = (part: Part): Part => {
  if (part.type !== "image") return part
  const { extensions, ...image } = part
  assert.hasAllKeys(extensions?.["openai-responses"], ["item"])
  return image
}

const items = (response: unknown): ReadonlyArray<unknown> => {
  const output = at(response, "output")
  return Array.isArray(output) ? output : assert.fail("no output")
}

const status = (reason: FinishReason): string =>
  reason === "length" || reason === "content_filter" ? "incomplete" : "completed"

describe("a whole answer", () => {
  it.prop("brought back as the next request's input is what it was, part by part", [Answer], ([drawn]) => {
    const response = responseOf(drawn)
    const expected = response.content.flatMap(told)
    assert.deepStrictEqual(
      broughtBack(codec.encodeResponse(response, plain())),
      expected.length === 0 ? [] : [{ role: "assistant", content: expected }]
    )
  })

  it.prop("tells how it ended and what it cost, and has ids of OpenAI's kinds", [Answer], ([drawn]) => {
    const response = responseOf(drawn)
    const written = json(throughJson(codec.encodeResponse(response, plain())))
    assert.match(String(written["id"]), /^resp_[\w-]+$/)
    assert.strictEqual(written["status"], status(response.finishReason))
    const reasons = { length: "max_output_tokens", content_filter: "content_filter" }
    assert.strictEqual(
      at(written, "incomplete_details", "reason"),
      drawn.finishReason === "length" || drawn.finishReason === "content_filter"
        ? reasons[drawn.finishReason]
        : undefined
    )
    const input = drawn.input + drawn.read + drawn.write
    assert.deepStrictEqual(written["usage"], {
      input_tokens: input,
      input_tokens_details: { cached_tokens: drawn.read, cache_write_tokens: drawn.write },
      output_tokens: drawn.output,
      output_tokens_details: { reasoning_tokens: drawn.output },
      total_tokens: input + drawn.output
    })
    const prefixes: Readonly<Record<string, string>> = {
      message: "msg",
      function_call: "fc",
      reasoning: "rs",
      image_generation_call: "ig"
    }
    const ids = items(written).map((item) => String(at(item, "id")))
    for (const [index, item] of items(written).entries()) {
      assert.match(ids[index] ?? "", new RegExp(`^${prefixes[String(at(item, "type"))]}_[\\w-]+$`))
      assert.isAtMost(ids[index]?.length ?? 0, 64)
    }
    assert.strictEqual(new Set(ids).size, ids.length)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

const written = (chunks: ReadonlyArray<ChatChunk>): string => {
  const encoder = codec.streamEncoder(plain())
  return chunks.map((chunk) => encoder.push(chunk)).join("") + encoder.end()
}

const lastResponse = (text: string): unknown => eventsOf(text).at(-1)?.json["response"]

/** A part as it streams, in pieces of one character. */
const piecesOf = (part: Part, index: number): Array<PartDelta> => {
  switch (part.type) {
    case "text":
      return [
        ...Array.from(part.text, (text): PartDelta => ({ type: "text", index, text })),
        ...(part.citations ?? []).map((citation): PartDelta => ({
          type: "text",
          index,
          text: "",
          citations: [citation]
        }))
      ]
    case "refusal":
      return Array.from(part.text, (text): PartDelta => ({ type: "refusal", index, text }))
    case "reasoning": {
      const { data, signature, text, wire } = part
      return [
        ...Array.from(text ?? "", (text): PartDelta => ({ type: "reasoning", index, text })),
        {
          type: "reasoning",
          index,
          ...(text === "" ? { text } : {}),
          ...(signature === undefined ? {} : { signature }),
          ...(data === undefined ? {} : { data }),
          ...(wire === undefined ? {} : { wire })
        }
      ]
    }
    case "tool_call":
      return [
        { type: "tool_call", index, id: part.id, name: part.name },
        ...Array.from(part.arguments, (json): PartDelta => ({ type: "tool_call", index, arguments: json }))
      ]
    default:
      return [{ type: "part", index, part }]
  }
}

const cutUp = (response: ChatResponse, pieces: ReadonlyArray<PartDelta>): ReadonlyArray<ChatChunk> => {
  const head = { id: response.id, model: response.model, created: 7 }
  return [
    { ...head, delta: [] },
    ...pieces.map((piece): ChatChunk => ({ ...head, delta: [piece] })),
    { ...head, delta: [], finishReason: response.finishReason },
    ...(response.usage === undefined ? [] : [{ ...head, delta: [], usage: response.usage }])
  ]
}

/** The pieces of all parts, each part's in order, mixed as providers mix parallel calls. */
const mixed = (queues: ReadonlyArray<Array<PartDelta>>, order: ReadonlyArray<number>): ReadonlyArray<PartDelta> => {
  const pieces: Array<PartDelta> = []
  for (let turn = 0; queues.some((queue) => queue.length > 0); turn += 1) {
    const waiting = queues.filter((queue) => queue.length > 0)
    const next = waiting[(order[turn % Math.max(order.length, 1)] ?? 0) % waiting.length]?.shift()
    if (next !== undefined) pieces.push(next)
  }
  return pieces
}

describe("a stream", () => {
  it.prop("tells in its last event the whole answer, to the letter", [Answer], ([drawn]) => {
    const response = responseOf(drawn)
    const whole = throughJson(codec.encodeResponse(response, plain()))
    assert.deepStrictEqual(lastResponse(written(chunksOf(response))), whole)
  })

  it.prop("does so in pieces of any size, too", [Answer], ([drawn]) => {
    const response = responseOf(drawn)
    const whole = throughJson(codec.encodeResponse(response, plain()))
    const pieces = response.content.flatMap(piecesOf)
    assert.deepStrictEqual(lastResponse(written(cutUp(response, pieces))), whole)
  })

  it.prop("loses nothing of parts whose pieces are mixed", [Answer, Schema.Array(Small)], ([drawn, order]) => {
    const response = responseOf(drawn)
    const queues = response.content.map(piecesOf)
    const last = lastResponse(written(cutUp(response, mixed(queues, order))))
    const [message] = broughtBack(last)
    const content = message?.content ?? []
    const callsIn = (parts: ReadonlyArray<Part>) =>
      parts.flatMap((part) => part.type === "tool_call" ? [JSON.stringify([part.id, part.name, part.arguments])] : [])
        .toSorted()
    const expected = response.content.flatMap(told)
    assert.deepStrictEqual(callsIn(content), callsIn(expected))
    // By code units: halves of surrogate pairs, drawn for parts of their own, may meet where the pieces are mixed.
    const letters = (parts: ReadonlyArray<Part>, type: "text" | "refusal") =>
      parts.flatMap((part) => part.type === type ? part.text.split("") : []).toSorted()
    assert.deepStrictEqual(letters(content, "text"), letters(expected, "text"))
    assert.deepStrictEqual(letters(content, "refusal"), letters(expected, "refusal"))
    // What proves a run of thinking comes back beside all that the run said, wherever its pieces stood.
    for (const part of expected) {
      if (part.type !== "reasoning" || (part.signature ?? part.data) === undefined) continue
      assert.isTrue(content.some((other) => JSON.stringify(other) === JSON.stringify(throughJson(ordered(part)))))
    }
  })

  it.prop("that fails ends in the failure, wherever it was", [Answer, Small], ([drawn, place]) => {
    const response = responseOf(drawn)
    const chunks = cutUp(response, response.content.flatMap(piecesOf))
    const encoder = codec.streamEncoder(plain())
    const before = chunks.slice(0, place % (chunks.length + 1)).map((chunk) => encoder.push(chunk)).join("")
    const events = eventsOf(
      before + encoder.error(new GatewayError({ reason: new InternalError({ message: "it failed" }) }))
    )
    assert.deepStrictEqual(events.slice(-2).map(({ type }) => type), ["response.failed", "error"])
    assert.strictEqual(at(events.at(-2)?.json, "response", "error", "message"), "it failed")
  })

  it("waits for the id of the answer, which cannot change later", () => {
    const head = { model: "m" }
    const text = written([
      { ...head, id: "", model: "", delta: [] },
      { ...head, id: "chat-1", delta: [{ type: "text", index: 0, text: "a" }] },
      { ...head, id: "chat-1", delta: [], finishReason: "stop" }
    ])
    const events = eventsOf(text)
    assert.deepStrictEqual(
      events.flatMap(({ json }) => at(json, "response", "id") ?? []),
      ["resp_chat-1", "resp_chat-1", "resp_chat-1"]
    )
    assert.strictEqual(at(events[0]?.json, "response", "model"), "m")
  })

  it("makes an id where the provider tells none", () => {
    const ids = [1, 2].map(() =>
      at(lastResponse(written([{ id: "", model: "m", delta: [], finishReason: "stop" }])), "id")
    )
    assert.notStrictEqual(ids[0], ids[1])
    assert.match(String(ids[0]), /^resp_\w{32}$/)
  })

  it("closes a call as soon as it is whole and something else begins", () => {
    const chunk = (...delta: ReadonlyArray<PartDelta>): ChatChunk => ({ id: "c", model: "m", delta })
    const encoder = codec.streamEncoder(plain())
    encoder.push(chunk({ type: "tool_call", index: 0, id: "a", name: "f", arguments: "{\"x\":" }))
    assert.notInclude(
      encoder.push(chunk({ type: "tool_call", index: 1, id: "b", name: "g", arguments: "" })),
      "response.output_item.done"
    )
    encoder.push(chunk({ type: "tool_call", index: 0, arguments: "1}" }))
    assert.include(encoder.push(chunk({ type: "text", index: 2, text: "x" })), "\"arguments\":\"{\\\"x\\\":1}\"")
    assert.strictEqual(
      encoder.push(chunk({ type: "tool_call", index: 0, arguments: "\n" })),
      "",
      "white space after whole arguments opens nothing anew"
    )
  })
})

/** A reasoning part with its keys in the order in which the codec reads them. */
const ordered = (part: Part): unknown => {
  if (part.type !== "reasoning") return part
  const { data, signature, text, wire } = part
  return { type: "reasoning", text, signature, data, wire }
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const Base64 = Schema.Literals(["AAAA", "iVBORw0KGgo=", "/+8="])
const Inline = Schema.Struct({
  type: Schema.Literal("base64"),
  mediaType: Schema.Literals(["image/png", "a/b"]),
  data: Base64
})
const Source = Schema.Union([
  Inline,
  Schema.Struct({ type: Schema.Literal("url"), url: Schema.Literals(["https://x.org/a", "http://y.org/b?c=d"]) }),
  Schema.Struct({ type: Schema.Literal("provider_file"), wire: Schema.Literal("openai"), id: Schema.NonEmptyString })
])
const InputPart = Schema.Union([
  Schema.Struct({ type: Schema.Literal("text"), text: Schema.String }),
  Schema.Struct({
    type: Schema.Literal("image"),
    source: Source,
    detail: Schema.optionalKey(Schema.Literals(["auto", "low", "high", "original"]))
  }),
  // OpenAI wants a name with an inline document, and the codec makes one up.
  Schema.Struct({ type: Schema.Literal("document"), source: Source, filename: Schema.String }),
  Schema.Struct({
    type: Schema.Literal("audio"),
    source: Schema.Struct({
      type: Schema.Literal("base64"),
      mediaType: Schema.Literals(["audio/wav", "audio/mpeg"]),
      data: Base64
    })
  })
])
const Turn = Schema.Struct({
  role: Schema.Literals(["user", "system", "developer"]),
  content: Schema.NonEmptyArray(InputPart)
})
const Step = Schema.Struct({
  text: Schema.optionalKey(Words),
  calls: Schema.Array(Schema.Array(InputPart)).check(Schema.isMaxLength(3))
})
const Integer = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1e9 }))
const Settings = Schema.Struct({
  maxOutputTokens: Schema.optionalKey(Integer),
  temperature: Schema.optionalKey(Schema.Literals([0, 0.7, 2])),
  topP: Schema.optionalKey(Schema.Literals([0, 0.5, 1])),
  reasoning: Schema.optionalKey(Schema.Struct({ effort: Schema.Literals(["none", "low", "max"]) })),
  user: Schema.optionalKey(Schema.String),
  metadata: Schema.optionalKey(Schema.Record(Schema.Literals(["a", "b"]), Schema.String)),
  serviceTier: Schema.optionalKey(Schema.String),
  stream: Schema.optionalKey(Schema.Boolean),
  responseSchema: Schema.optionalKey(Schema.Union([
    Schema.Struct({ type: Schema.Literal("json_object") }),
    Schema.Struct({
      type: Schema.Literal("json_schema"),
      name: Schema.NonEmptyString,
      description: Schema.optionalKey(Schema.String),
      schema: Schema.Struct({ type: Schema.Literal("object") }),
      strict: Schema.optionalKey(Schema.Boolean)
    })
  ]))
})
const Tools = Schema.Struct({
  tools: Schema.NonEmptyArray(Schema.Struct({
    type: Schema.Literal("unified"),
    name: Schema.NonEmptyString,
    description: Schema.optionalKey(Schema.String),
    parameters: Schema.optionalKey(Schema.Struct({ type: Schema.Literal("object"), $defs: Schema.Struct({}) })),
    strict: Schema.optionalKey(Schema.Boolean)
  })),
  parallelToolCalls: Schema.optionalKey(Schema.Boolean),
  toolChoice: Schema.optionalKey(Schema.Union([
    Schema.Struct({ type: Schema.Literals(["auto", "none", "required"]) }),
    Schema.Struct({ type: Schema.Literal("tool"), name: Schema.NonEmptyString }),
    Schema.Struct({
      type: Schema.Literal("allowed"),
      mode: Schema.Literals(["auto", "required"]),
      names: Schema.Array(Schema.NonEmptyString)
    })
  ]))
})

/** A part in a caller's words. */
const inputPart = (part: typeof InputPart.Type): Json => {
  switch (part.type) {
    case "text":
      return { type: "input_text", text: part.text }
    case "audio":
      return {
        type: "input_audio",
        input_audio: { data: part.source.data, format: part.source.mediaType === "audio/wav" ? "wav" : "mp3" }
      }
    default: {
      const { source } = part
      const image = part.type === "image"
      const where = source.type === "provider_file"
        ? { file_id: source.id }
        : source.type === "url"
        ? { [image ? "image_url" : "file_url"]: source.url }
        : { [image ? "image_url" : "file_data"]: `data:${source.mediaType};base64,${source.data}` }
      return part.type === "image"
        ? { type: "input_image", ...where, ...(part.detail === undefined ? {} : { detail: part.detail }) }
        : { type: "input_file", ...where, ...(part.filename === undefined ? {} : { filename: part.filename }) }
    }
  }
}

/** A request in a caller's words, written from the protocol's reference and not by the codec. */
const asked = (request: ChatRequest, input: ReadonlyArray<Json>): Json => {
  const { responseSchema, toolChoice } = request
  const named = (name: string): Json => ({ type: "function", name })
  const choice = toolChoice?.type === "tool"
    ? named(toolChoice.name)
    : toolChoice?.type === "allowed"
    ? { type: "allowed_tools", mode: toolChoice.mode, tools: toolChoice.names.map(named) }
    : toolChoice?.type
  return {
    model: request.model,
    input,
    max_output_tokens: request.maxOutputTokens,
    temperature: request.temperature,
    top_p: request.topP,
    reasoning: request.reasoning,
    user: request.user,
    metadata: request.metadata,
    service_tier: request.serviceTier,
    stream: request.stream,
    text: responseSchema === undefined ? undefined : { format: responseSchema },
    tools: request.tools?.map((tool) => ({ ...tool, type: "function" })),
    parallel_tool_calls: request.parallelToolCalls,
    tool_choice: choice
  }
}

describe("a request", () => {
  it.prop(
    "is read as what its caller means, and its answer repeats it",
    [Schema.NonEmptyArray(Turn), Schema.Array(Step).check(Schema.isMaxLength(3)), Settings, Schema.NullOr(Tools)],
    ([turns, steps, settings, tools]) => {
      const messages: Array<Message> = [...turns]
      const input: Array<Json> = turns.map(({ content, role }) => ({ role, content: content.map(inputPart) }))
      for (const [step, { calls, text }] of steps.entries()) {
        const content: Array<Part> = text === undefined ? [] : [{ type: "text", text }]
        if (text !== undefined) {
          input.push({ role: "assistant", content: [{ type: "output_text", text, annotations: [] }] })
        }
        const id = (index: number) => `call_${step}_${index}`
        for (const index of calls.keys()) {
          content.push({ type: "tool_call", id: id(index), name: "f", arguments: "{}" })
          input.push({ type: "function_call", call_id: id(index), name: "f", arguments: "{}" })
        }
        const last = messages.at(-1)
        if (content.length > 0 && last?.role === "assistant") {
          messages[messages.length - 1] = { role: "assistant", content: [...last.content, ...content] }
        } else if (content.length > 0) messages.push({ role: "assistant", content })
        for (const [index, result] of calls.entries()) {
          messages.push({ role: "tool", content: [{ type: "tool_result", toolCallId: id(index), content: result }] })
          input.push({ type: "function_call_output", call_id: id(index), output: result.map(inputPart) })
        }
      }
      const [first, ...rest] = messages
      if (first === undefined) assert.fail("no message")
      const request: ChatRequest = { model: "gpt-x", messages: [first, ...rest], ...settings, ...tools }
      const body = json(throughJson(asked(request, input)))
      const { extensions, ...read } = ok(codec.decodeRequest(body))
      assert.deepStrictEqual(read, request)
      const byDefault = request.tools?.some((tool) => tool.type === "unified" && tool.strict === undefined) === true
      assert.deepStrictEqual(
        extensions,
        byDefault ? { "openai-responses": { echo: { strict_by_default: true } } } : undefined
      )
      // To a provider of the same protocol it goes as it came.
      const sent = ok(
        codec.encodeRequest(
          callOf({ ...request, ...(extensions === undefined ? {} : { extensions }) }),
          request.stream === true
        )
      )
      assert.deepStrictEqual(sent.dropped, [])
      const again = ok(codec.decodeRequest(throughJson(sent.body)))
      // A result of nothing is one empty text there.
      const filled = (message: Message): Message => ({
        ...message,
        content: message.content.map((part) =>
          part.type === "tool_result" && part.content.length === 0
            ? { ...part, content: [{ type: "text", text: "" }] }
            : part
        )
      })
      assert.deepStrictEqual(again, {
        ...request,
        messages: [filled(first), ...rest.map(filled)],
        model: "gpt-x",
        ...(extensions === undefined ? {} : { extensions })
      })
      assert.strictEqual(sent.body["store"], false)

      const response: ChatResponse = { id: "x", model: "m", content: [], finishReason: "stop" }
      const repeated = json(throughJson(codec.encodeResponse(response, request)))
      for (
        const key of ["max_output_tokens", "temperature", "top_p", "user", "metadata", "service_tier", "tool_choice"]
      ) {
        if (body[key] !== undefined) assert.deepStrictEqual(repeated[key], body[key], key)
      }
      assert.deepInclude(repeated, { store: false, previous_response_id: null, background: false })
    }
  )
})

describe("an answer without figures", () => {
  it("says so, rather than zero", () => {
    const response: ChatResponse = { id: "x", model: "m", content: [], finishReason: "stop" }
    assert.isNull(codec.encodeResponse(response, plain())["usage"])
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// The provider's side
// ---------------------------------------------------------------------------------------------------------------------

/** What a provider of this protocol can say: its thinking is its own, its calls have arguments. */
const providers = (drawn: typeof Answer.Type): ChatResponse => {
  const response = responseOf(drawn)
  return {
    ...response,
    content: response.content.flatMap(told).map((part) =>
      part.type === "reasoning" ? { type: "reasoning", text: `t${part.text ?? ""}` } : part
    )
  }
}

const pieces = (answer: ChatResponse): ReadonlyArray<PartDelta> => answer.content.flatMap(piecesOf)

/** The answer as such a provider sends it, its thinking in words and encrypted. */
const sentBy = (response: ChatResponse): Json => {
  const body = json(throughJson(codec.encodeResponse(response, plain())))
  return {
    ...body,
    output: items(body).map(encrypted)
  }
}

const encrypted = (item: unknown): unknown =>
  at(item, "type") === "reasoning" ? { ...json(item), encrypted_content: `gA${String(at(item, "id"))}` } : item

const withoutExtensions = (part: Part): Part => {
  if (part.type === "opaque" || part.extensions === undefined) return part
  const { extensions: _, ...bare } = part
  return bare
}

const readStream = (text: string): ReadonlyArray<ChatChunk> => {
  const decoder = codec.streamDecoder(callOf(plain()))
  const chunks = eventsOf(text).flatMap(({ json: event, type }) => ok(decoder.push(JSON.stringify(event), type)))
  assert.deepStrictEqual(ok(decoder.end()), [])
  return chunks
}

describe("a provider's answer", () => {
  it.prop("is read as what it says, whole and streamed", [Answer], ([drawn]) => {
    const answer = providers(drawn)
    const body = sentBy(answer)
    const read = ok(codec.decodeResponse(JSON.stringify(body), body, callOf(plain())))
    const calls = answer.content.some((part) => part.type === "tool_call")
    assert.strictEqual(
      read.finishReason,
      drawn.finishReason === "length" || drawn.finishReason === "content_filter"
        ? drawn.finishReason
        : calls
        ? "tool_calls"
        : "stop"
    )
    assert.deepStrictEqual(
      read.content.map((part) =>
        part.type === "reasoning" ? { type: "reasoning", text: part.text } : withoutExtensions(part)
      ),
      Array.from(answer.content)
    )
    assert.isTrue(read.content.every((part) => part.type !== "reasoning" || part.data?.startsWith("gArs_") === true))
    assert.deepStrictEqual(
      { ...read.usage, cacheReadTokens: read.usage?.cacheReadTokens ?? 0 },
      {
        inputTokens: drawn.input,
        outputTokens: drawn.output,
        cacheReadTokens: drawn.read,
        ...(drawn.write === 0 ? {} : { cacheWrite5mTokens: drawn.write }),
        ...(drawn.output === 0 ? {} : { reasoningTokens: drawn.output })
      }
    )
    assert.deepStrictEqual(codec.encodeResponse(read, plain()), body, "unchanged, it goes out as it came")

    const text = written(cutUp(answer, pieces(answer)))
    const streamed = Effect.runSync(collect(Stream.fromIterable(readStream(text))))
    assert.deepStrictEqual(
      streamed.content.map((part) =>
        part.type === "reasoning" ? { type: "reasoning", text: part.text } : withoutExtensions(part)
      ),
      Array.from(answer.content)
    )
    assert.strictEqual(streamed.finishReason, read.finishReason)
    assert.deepStrictEqual(streamed.usage, read.usage)
  })

  it.prop("streamed to callers of the same protocol is what the provider sent, to the letter", [Answer], ([drawn]) => {
    const answer = providers(drawn)
    const text = written(cutUp(answer, pieces(answer)))
    assert.strictEqual(written(readStream(text)), text)
  })

  it("streamed and changed by somebody who ought not to have seen its originals ends in a failure, and tells no more", () => {
    const response: ChatResponse = {
      id: "x",
      model: "m",
      content: [{ type: "text", text: "before secret after" }],
      finishReason: "stop"
    }
    const pieces = ["before ", "secret", " after"].map((text): PartDelta => ({ type: "text", index: 0, text }))
    const changed = (chunk: ChatChunk): ChatChunk =>
      chunk.delta.some((piece) => piece.type === "text" && piece.text === "secret")
        ? { ...chunk, delta: [{ type: "text", index: 0, text: "***" }] }
        : chunk
    const text = written(readStream(written(cutUp(response, pieces))).map(changed))
    assert.notInclude(text, "secret")
    assert.deepStrictEqual(eventsOf(text).slice(-2).map(({ type }) => type), ["response.failed", "error"])
  })
})
