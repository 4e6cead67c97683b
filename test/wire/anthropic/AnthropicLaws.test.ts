/** The laws of the codec as properties: what is written reads back as it was, for all that the wire can say. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import type { ChatChunk, ChatResponse, Message, PartDelta } from "../../../src/sdk/Chat.ts"
import { CacheControl, type Part, type ToolResultContent } from "../../../src/sdk/Content.ts"
import type { ChatCall } from "../../../src/sdk/Provider.ts"
import { anthropicMessages } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import {
  adaptive,
  callFor,
  callOf,
  change,
  chatRequest,
  join,
  manual,
  readStream,
  success,
  writeStream
} from "./Fixtures.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Values that the wire can say
// ---------------------------------------------------------------------------------------------------------------------

// The drawn values are plain data; what they become below keeps the wire's own conditions (text that is not blank,
// results that answer calls, turns that alternate).
const Words = Schema.String.check(Schema.isMaxLength(20))
const Small = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100_000 }))
const Input = Schema.Record(Schema.String, Schema.Union([Schema.String, Schema.Boolean, Small]))

const Drawn = Schema.Struct({
  text: Words,
  cached: Schema.optionalKey(CacheControl),
  kind: Schema.Literals(["text", "image", "pdf", "note", "file"]),
  answers: Schema.Array(Schema.Struct({
    kind: Schema.Literals(["text", "thinking", "redacted", "call", "server"]),
    text: Words,
    input: Input
  })).check(Schema.isMaxLength(4)),
  failed: Schema.optionalKey(Schema.Boolean)
})

const said = (value: string) => `s${value}.`
const cachedOf = (drawn: typeof Drawn.Type) => drawn.cached === undefined ? {} : { cacheControl: drawn.cached }

const userPart = (drawn: typeof Drawn.Type, cache: boolean): Part => {
  const rest = cache ? cachedOf(drawn) : {}
  switch (drawn.kind) {
    case "text":
      return { type: "text", text: said(drawn.text), ...rest }
    case "image":
      return { type: "image", source: { type: "base64", mediaType: "image/png", data: "AAAA" }, ...rest }
    case "pdf":
      return {
        type: "document",
        source: { type: "url", url: "https://a.b/c.pdf" },
        title: drawn.text,
        citations: true,
        ...rest
      }
    case "note":
      return { type: "document", source: { type: "text", text: drawn.text }, context: drawn.text, ...rest }
    default:
      return { type: "image", source: { type: "provider_file", wire: "anthropic", id: said(drawn.text) }, ...rest }
  }
}

/** Parts of an answer: neighbouring text and thinking would be told apart by no wire, so their kinds differ by place. */
const answerParts = (answers: (typeof Drawn.Type)["answers"], turn: number): ReadonlyArray<Part> => {
  const parts = answers.map(({ input, kind, text }, place): Part => {
    switch (kind) {
      case "text":
        return { type: "text", text: said(text) }
      case "thinking":
        return { type: "reasoning", text: said(text), signature: said(text), wire: "anthropic" }
      case "redacted":
        return { type: "reasoning", data: said(text), wire: "anthropic" }
      case "call":
        return { type: "tool_call", id: `toolu_${turn}_${place}`, name: "f", arguments: JSON.stringify(input) }
      default:
        return {
          type: "opaque",
          wire: "anthropic",
          value: { type: "server_tool_use", id: `srv_${turn}_${place}`, name: "web_search", input: { query: text } }
        }
    }
  })
  return parts.length === 0 ? [{ type: "text", text: "." }] : parts
}

/** Thinking first, as it must be sent. */
const sendable = (parts: ReadonlyArray<Part>): ReadonlyArray<Part> => [
  ...parts.filter((part) => part.type === "reasoning"),
  ...parts.filter((part) => part.type !== "reasoning")
]

const conversation = (turns: ReadonlyArray<typeof Drawn.Type>): readonly [Message, ...Array<Message>] => {
  const messages: Array<Message> = []
  for (const [at, drawn] of turns.entries()) {
    messages.push({ role: "user", content: [userPart(drawn, at < 2)] })
    const parts = sendable(answerParts(drawn.answers, at))
    messages.push({ role: "assistant", content: parts })
    const results = parts.flatMap((part): ReadonlyArray<Part> =>
      part.type !== "tool_call" ? [] : [{
        type: "tool_result",
        toolCallId: part.id,
        content: [{ type: "text", text: said(drawn.text) }] satisfies ReadonlyArray<ToolResultContent>,
        ...(drawn.failed === undefined ? {} : { isError: drawn.failed })
      }]
    )
    if (results.length > 0) messages.push({ role: "tool", content: results })
  }
  return [{ role: "user", content: [{ type: "text", text: "first" }] }, {
    role: "assistant",
    content: [{ type: "text", text: "ok" }]
  }, ...messages]
}

/** Tool results and the user's next words are one turn in this wire, and two messages in the sdk: both ways the same. */
const Turns = Schema.Array(Drawn).check(Schema.isMaxLength(4))

const Parameters = Schema.Struct({
  maxOutputTokens: Small,
  temperature: Schema.optionalKey(Schema.Literals([0, 0.25, 1])),
  topK: Schema.optionalKey(Small),
  stop: Schema.optionalKey(Schema.NonEmptyArray(Schema.Literals(["a", "END", "###"]))),
  choice: Schema.optionalKey(Schema.Union([
    Schema.Struct({ type: Schema.Literals(["auto", "none", "required"]) }),
    Schema.Struct({ type: Schema.Literal("tool"), name: Schema.Literal("f") })
  ])),
  parallel: Schema.optionalKey(Schema.Boolean),
  strict: Schema.optionalKey(Schema.Boolean),
  tier: Schema.optionalKey(Schema.Literals(["auto", "default"])),
  schema: Schema.optionalKey(Input),
  extra: Schema.optionalKey(Words)
})

const requestOf = (turns: typeof Turns.Type, drawn: typeof Parameters.Type): ChatCall["request"] => {
  const parallel = drawn.choice === undefined || drawn.choice.type === "none" ? undefined : drawn.parallel
  return {
    model: manual,
    messages: conversation(turns),
    maxOutputTokens: drawn.maxOutputTokens,
    tools: [
      {
        type: "unified",
        name: "f",
        parameters: { type: "object" },
        ...(drawn.strict === undefined ? {} : { strict: drawn.strict })
      },
      { type: "opaque", wire: "anthropic", value: { type: "web_search_20250305", name: "web_search" } }
    ],
    ...(drawn.temperature === undefined ? {} : { temperature: drawn.temperature }),
    ...(drawn.topK === undefined ? {} : { topK: drawn.topK }),
    ...(drawn.stop === undefined ? {} : { stop: drawn.stop }),
    ...(drawn.choice === undefined ? {} : { toolChoice: drawn.choice }),
    ...(parallel === undefined ? {} : { parallelToolCalls: parallel }),
    ...(drawn.tier === undefined ? {} : { serviceTier: drawn.tier }),
    ...(drawn.schema === undefined ? {} : { responseSchema: { type: "json_schema", schema: drawn.schema } }),
    ...(drawn.extra === undefined ? {} : { extensions: { anthropic: { container: drawn.extra } } })
  }
}

const Answer = Schema.Struct({
  parts: Drawn,
  finish: Schema.Literals(["stop", "length"]),
  input: Small,
  output: Small,
  read: Small,
  short: Small,
  long: Small
})

const responseOf = (drawn: typeof Answer.Type): ChatResponse => {
  const content = answerParts(drawn.parts.answers, 0)
  const calls = content.some((part) => part.type === "tool_call")
  return {
    id: "msg_1",
    model: "claude",
    content,
    finishReason: drawn.finish === "stop" && calls ? "tool_calls" : drawn.finish,
    nativeFinishReason: drawn.finish === "length" ? "max_tokens" : calls ? "tool_use" : "end_turn",
    usage: {
      inputTokens: drawn.input,
      outputTokens: drawn.output,
      cacheReadTokens: drawn.read,
      cacheWrite5mTokens: drawn.short,
      cacheWrite1hTokens: drawn.long
    }
  }
}

/** Text in pieces of one character, whole parts where nothing streams. */
const deltasOf = (part: Part, index: number): ReadonlyArray<PartDelta> => {
  switch (part.type) {
    case "text":
      return Array.from(part.text, (text): PartDelta => ({ type: "text", index, text }))
    case "reasoning":
      return part.data === undefined
        ? [
          ...Array.from(part.text ?? "", (text): PartDelta => ({ type: "reasoning", index, text })),
          { type: "reasoning", index, signature: part.signature ?? "", wire: "anthropic" }
        ]
        : [{ type: "reasoning", index, data: part.data, wire: "anthropic" }]
    case "tool_call":
      return [
        { type: "tool_call", index, id: part.id, name: part.name },
        ...Array.from(part.arguments, (json): PartDelta => ({ type: "tool_call", index, arguments: json }))
      ]
    default:
      return [{ type: "part", index, part }]
  }
}

const chunksOf = (response: ChatResponse): ReadonlyArray<ChatChunk> => {
  const head = { id: response.id, model: response.model }
  const chunk = (delta: ReadonlyArray<PartDelta>): ChatChunk => ({ id: response.id, model: response.model, delta })
  return [
    { ...head, delta: [] },
    ...response.content.flatMap((part, index) => deltasOf(part, index).map((delta) => chunk([delta]))),
    { ...head, delta: [], finishReason: response.finishReason },
    { ...head, delta: [], ...(response.usage === undefined ? {} : { usage: response.usage }) }
  ]
}

const throughJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

// ---------------------------------------------------------------------------------------------------------------------
// Laws
// ---------------------------------------------------------------------------------------------------------------------

describe("the laws of the codec", () => {
  it.effect.prop(
    "a request reads back as it was written, and nothing is dropped",
    [Turns, Parameters],
    ([turns, drawn]) =>
      Effect.sync(() => {
        const request = requestOf(turns, drawn)
        const { body, dropped } = success(anthropicMessages.encodeRequest({ ...callOf(), request }, false))
        assert.deepStrictEqual(dropped, [])
        assert.deepStrictEqual(success(anthropicMessages.decodeRequest(throughJson(body))), request)
      })
  )
  it.effect.prop(
    "a request's body comes out as it went in",
    [Turns, Parameters],
    ([turns, drawn]) =>
      Effect.sync(() => {
        const request = requestOf(turns, drawn)
        const { body } = success(anthropicMessages.encodeRequest({ ...callOf(), request }, false))
        const decoded = success(anthropicMessages.decodeRequest(throughJson(body)))
        assert.deepStrictEqual(success(anthropicMessages.encodeRequest(callFor(decoded), false)).body, body)
      })
  )
  it.effect.prop("an answer reads back as it was written", [Answer], ([drawn]) =>
    Effect.sync(() => {
      const response = responseOf(drawn)
      const json = throughJson(anthropicMessages.encodeResponse(response, chatRequest))
      assert.deepStrictEqual(change(success(anthropicMessages.decodeResponse("", json, callOf()))), response)
    }))
  it.effect.prop(
    "a streamed answer reads back as it was written, however the network cuts it",
    [Answer, Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 }))],
    ([drawn, size]) =>
      Effect.sync(() => {
        const response = responseOf(drawn)
        const read = readStream(writeStream(chunksOf(response)), callOf(), size)
        assert.isUndefined(read.failure)
        const { content, finishReason, usage } = join(read.chunks)
        assert.deepStrictEqual(content, response.content)
        assert.strictEqual(finishReason, response.finishReason)
        assert.deepStrictEqual(usage, response.usage)
      })
  )
  it.effect.prop("no JSON makes a decoder throw", [Schema.Json], ([json]) =>
    Effect.sync(() => {
      const data = JSON.stringify(json)
      const fields = {
        model: "m",
        max_tokens: 1,
        messages: [{ role: "user", content: json }],
        system: json,
        tools: [json]
      }
      anthropicMessages.decodeRequest(json)
      anthropicMessages.decodeRequest(fields)
      anthropicMessages.decodeResponse(data, json, callOf())
      anthropicMessages.decodeResponse(data, { content: [json], usage: json, stop_details: json }, callOf())
      anthropicMessages.decodeError(400, {}, data)
      const decoder = anthropicMessages.streamDecoder(callOf({}, adaptive))
      for (const type of ["message_start", "content_block_start", "content_block_delta", "message_delta", "error"]) {
        decoder.push(
          JSON.stringify({ type, message: json, content_block: json, delta: json, usage: json, error: json }),
          ""
        )
      }
      assert.isFalse(decoder.isDone())
    }))
})
