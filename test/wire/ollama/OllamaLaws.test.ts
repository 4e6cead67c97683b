/** The codec's laws as properties: what Ollama's wire can say survives being written and read. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse, FinishReason, Message } from "../../../src/sdk/Chat.ts"
import type { ImagePart, Part } from "../../../src/sdk/Content.ts"
import { ollamaChat } from "../../../src/wire/ollama/OllamaChat.ts"
import { asking, callOf, decodeBytes, joinChunks, success } from "./answers.ts"

const images: ReadonlyArray<ImagePart> = [
  { type: "image", source: { type: "base64", mediaType: "image/png", data: "iVBORw0KGgoAAAANSUhEUg==" } },
  { type: "image", source: { type: "base64", mediaType: "image/jpeg", data: "/9j/4AAQSkZJRgABAQAAAQ==" } }
]

const Text = Schema.NonEmptyString
const Image = Schema.Literals([0, 1])
const Count = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 }))
/** JSON has no negative zero. */
const Share = Schema.Literals([0, 0.1, 0.25, 0.5, 1])
/**
 * Keys without backslashes: after `JSON.parse('{"q":1,"\\\\":1}')`, Node 24 reads `JSON.parse('{"q":1,"\\n":1}')` as having
 * the key `\` once more, and so every key of such an object that begins with an escape.
 */
const Key = Schema.String.check(Schema.makeFilter((key) => !key.includes("\\")))
const Call = Schema.Struct({
  name: Text,
  arguments: Schema.Record(Key, Schema.Union([Schema.String, Count]))
})
const Answer = Schema.Struct({
  thinking: Schema.optionalKey(Text),
  text: Schema.optionalKey(Text),
  images: Schema.Array(Image),
  calls: Schema.Array(Call)
})

const imageOf = (index: 0 | 1): ReadonlyArray<ImagePart> => images.slice(index, index + 1)

const partsOf = (answer: typeof Answer.Type, turn: number): ReadonlyArray<Part> => [
  ...(answer.thinking === undefined ? [] : [{ type: "reasoning", text: answer.thinking, wire: "ollama" } as const]),
  ...(answer.text === undefined ? [] : [{ type: "text", text: answer.text } as const]),
  ...answer.images.flatMap(imageOf),
  ...answer.calls.map((call, index) => ({
    type: "tool_call" as const,
    id: `id_${turn}_${index}`,
    name: call.name,
    arguments: JSON.stringify(call.arguments)
  }))
]

const Turn = Schema.Struct({
  role: Schema.Literals(["system", "user"]),
  text: Schema.optionalKey(Text),
  images: Schema.Array(Image),
  answer: Answer,
  results: Schema.Array(Schema.Struct({ text: Schema.optionalKey(Text), images: Schema.Array(Image) }))
})

const messagesOf = (turn: typeof Turn.Type, index: number): ReadonlyArray<Message> => {
  const results = turn.answer.calls.length === 0 ? [] : turn.results
  return [
    {
      role: turn.role,
      content: [
        ...(turn.text === undefined ? [] : [{ type: "text", text: turn.text } as const]),
        ...turn.images.flatMap(imageOf)
      ]
    },
    { role: "assistant", content: partsOf(turn.answer, index) },
    ...results.map((result, at): Message => ({
      role: "tool",
      content: [{
        type: "tool_result",
        toolCallId: `id_${index}_${at % turn.answer.calls.length}`,
        content: [
          ...(result.text === undefined ? [] : [{ type: "text", text: result.text } as const]),
          ...result.images.flatMap(imageOf)
        ]
      }]
    }))
  ]
}

/** What Ollama can say beside messages. */
const Parameters = Schema.Struct({
  model: Text,
  stream: Schema.Boolean,
  tools: Schema.optionalKey(Schema.NonEmptyArray(Schema.Struct({
    type: Schema.Literal("unified"),
    name: Text,
    description: Schema.optionalKey(Schema.String),
    parameters: Schema.Record(Key, Schema.String)
  }))),
  responseSchema: Schema.optionalKey(Schema.Union([
    Schema.Struct({ type: Schema.Literal("json_object") }),
    Schema.Struct({ type: Schema.Literal("json_schema"), schema: Schema.Record(Key, Schema.String) })
  ])),
  reasoning: Schema.optionalKey(Schema.Union([
    Schema.Struct({ enabled: Schema.Boolean }),
    Schema.Struct({ effort: Schema.Literals(["low", "medium", "high", "max"]) })
  ])),
  temperature: Schema.optionalKey(Share),
  topP: Schema.optionalKey(Share),
  topK: Schema.optionalKey(Count),
  minP: Schema.optionalKey(Share),
  seed: Schema.optionalKey(Count),
  stop: Schema.optionalKey(Schema.Array(Schema.String)),
  repeatPenalty: Schema.optionalKey(Share),
  presencePenalty: Schema.optionalKey(Share),
  frequencyPenalty: Schema.optionalKey(Share),
  maxOutputTokens: Schema.optionalKey(Count),
  logprobs: Schema.optionalKey(Schema.Boolean),
  topLogprobs: Schema.optionalKey(Count),
  extensions: Schema.optionalKey(Schema.Struct({
    ollama: Schema.Struct({
      keep_alive: Schema.Union([Text, Count]),
      truncate: Schema.Boolean
    })
  }))
})

/** Through text, as the network has it. */
const overTheWire = (json: unknown): unknown => JSON.parse(JSON.stringify(json))

/** A context that every generated request fits into, given by the caller, so that none is worked out. */
const withContext = (request: ChatRequest): ChatRequest =>
  Object.assign({}, request, {
    extensions: { ollama: { ...request.extensions?.["ollama"], options: { num_ctx: 4096 } } }
  })

describe("laws", () => {
  it.prop(
    "a request that Ollama can say is the same after encoding and decoding",
    [Parameters, Schema.NonEmptyArray(Turn)],
    ([parameters, turns]) => {
      const [first, ...others] = turns.flatMap(messagesOf)
      assert.isDefined(first)
      const request = withContext({ ...parameters, messages: [first, ...others] })
      const { body, dropped } = success(ollamaChat.encodeRequest(callOf(request), parameters.stream))
      assert.deepStrictEqual(dropped, [])
      assert.deepStrictEqual(success(ollamaChat.decodeRequest(overTheWire(body))), request)
    }
  )

  it.prop(
    "a response is the same after encoding and decoding, but for its id, under the name that was asked for",
    [Answer, Text, Count, Count, Count, Schema.Literals(["stop", "length", "content_filter"])],
    ([answer, model, created, input, output, reason]) => {
      const finishReason: FinishReason = reason === "stop" && answer.calls.length > 0 ? "tool_calls" : reason
      const response: ChatResponse = {
        id: "",
        model,
        created,
        content: partsOf(answer, 0),
        finishReason,
        nativeFinishReason: reason,
        usage: { inputTokens: input, outputTokens: output }
      }
      const body = overTheWire(ollamaChat.encodeResponse(response, asking("hi", { model })))
      const decoded = success(ollamaChat.decodeResponse(JSON.stringify(body), body, callOf(asking("hi"))))
      const { extensions: _, ...read } = decoded
      assert.deepEqual({ ...read, id: "" }, response)
    }
  )

  it.prop(
    "a stream is the same answer after encoding and decoding, however its bytes are cut",
    [
      Schema.Array(Schema.Union([
        Schema.Struct({ type: Schema.Literals(["text", "reasoning"]), text: Text }),
        Schema.Struct({ type: Schema.Literal("tool_call"), call: Call, cuts: Schema.Literals([1, 3, 8]) })
      ])),
      Count,
      Count,
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 40 }))
    ],
    ([pieces, input, output, size]) => {
      const chunk = (delta: ChatChunk["delta"], more: Partial<ChatChunk> = {}): ChatChunk => ({
        id: "x",
        model: "m",
        created: 1,
        delta,
        ...more
      })
      const chunks: Array<ChatChunk> = []
      const said: Array<Part> = []
      const calls: Array<Part> = []
      for (const [index, piece] of pieces.entries()) {
        if (piece.type === "tool_call") {
          const { name } = piece.call
          const text = JSON.stringify(piece.call.arguments)
          const id = `id_${index}`
          chunks.push(chunk([{ type: "tool_call", index, id, name }]))
          for (let at = 0; at < text.length; at += piece.cuts) {
            chunks.push(chunk([{ type: "tool_call", index, arguments: text.slice(at, at + piece.cuts) }]))
          }
          calls.push({ type: "tool_call", id, name, arguments: text })
        } else {
          chunks.push(chunk([{ type: piece.type, index, text: piece.text }]))
          const before = said.at(-1)
          // Ollama has no boundary between two parts of one kind.
          if (before?.type === piece.type) said.pop()
          const text = (before?.type === piece.type && "text" in before ? before.text ?? "" : "") + piece.text
          said.push(piece.type === "text" ? { type: "text", text } : { type: "reasoning", text, wire: "ollama" })
        }
      }
      const finishReason: FinishReason = calls.length > 0 ? "tool_calls" : "stop"
      const encoder = ollamaChat.streamEncoder(asking("hi"))
      const usage = { inputTokens: input, outputTokens: output }
      const written = [...chunks, chunk([], { finishReason }), chunk([], { usage })].map(encoder.push).join("") +
        encoder.end()
      const decoder = ollamaChat.streamDecoder(callOf(asking("hi")))
      const joined = joinChunks(success(decodeBytes(decoder, new TextEncoder().encode(written), size)))
      assert.deepStrictEqual(joined.content, [...said, ...calls])
      assert.strictEqual(joined.finishReason, finishReason)
      assert.deepStrictEqual(joined.usage, usage)
    }
  )

  it.prop("decoding never throws, whatever the text is", [Schema.String, Schema.Unknown], ([text, json]) => {
    const call = callOf(asking("hi"))
    ollamaChat.decodeRequest(json)
    ollamaChat.decodeResponse(text, json, call)
    ollamaChat.streamDecoder(call).push(text, "")
    assert.isString(ollamaChat.decodeError(500, {}, text).message)
  })
})
