/** Between a whole answer and its stream. The law: an answer that is cut into chunks and joined again is the same. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema, Stream } from "effect"
import { Alternative, type ChatChunk, ChatResponse, FinishReason, hasContent } from "../../src/sdk/Chat.ts"
import { chunksOf, collect } from "../../src/sdk/ChatStream.ts"
import { ImagePart, OpaquePart, type Part, RefusalPart } from "../../src/sdk/Content.ts"
import { Usage } from "../../src/sdk/Usage.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The law
// ---------------------------------------------------------------------------------------------------------------------

const optionalText = Schema.optionalKey(Schema.String)

/** The parts as a stream can carry them: text, reasoning and calls without cache marks and extensions, others whole. */
const StreamPart = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("text"),
    text: Schema.String,
    citations: Schema.optionalKey(Schema.Array(Schema.Struct({ url: Schema.String })))
  }),
  Schema.Struct({
    type: Schema.Literal("reasoning"),
    text: optionalText,
    signature: optionalText,
    data: optionalText,
    wire: optionalText
  }),
  Schema.Struct({
    type: Schema.Literal("tool_call"),
    id: Schema.NonEmptyString,
    name: Schema.NonEmptyString,
    arguments: Schema.String
  }),
  Schema.Struct({ type: Schema.Literal("refusal"), text: RefusalPart.fields.text }),
  Schema.toType(ImagePart),
  Schema.toType(OpaquePart)
])

const StreamChoice = Schema.Struct({
  content: Schema.Array(StreamPart),
  finishReason: FinishReason,
  nativeFinishReason: optionalText,
  stopSequence: optionalText
})

const StreamResponse = Schema.Struct({
  ...StreamChoice.fields,
  id: Schema.NonEmptyString,
  model: Schema.NonEmptyString,
  created: Schema.optionalKey(Schema.Int),
  alternatives: Schema.optionalKey(Schema.NonEmptyArray(StreamChoice)),
  usage: Schema.optionalKey(Schema.toType(Usage))
})

const joined = (chunks: Iterable<ChatChunk>) => collect(Stream.fromIterable(chunks))

/** Every text and every fragment of arguments cut into single characters, as the slowest upstream would send them. */
const shredded = (chunks: ReadonlyArray<ChatChunk>): ReadonlyArray<ChatChunk> =>
  chunks.flatMap((chunk) => {
    const [delta] = chunk.delta
    if (delta?.type === "text" && delta.citations === undefined && delta.text !== "") {
      return Array.from(delta.text, (text): ChatChunk => ({ ...chunk, delta: [{ ...delta, text }] }))
    }
    if (delta?.type === "tool_call" && delta.arguments !== undefined && delta.arguments !== "") {
      const { arguments: whole, ...named } = delta
      return [
        { ...chunk, delta: [named] },
        ...Array.from(whole, (piece): ChatChunk => ({
          ...chunk,
          delta: [{ type: "tool_call", index: delta.index, arguments: piece }]
        }))
      ]
    }
    return [chunk]
  })

describe("chunksOf, then collect", () => {
  it.effect.prop("gives the same answer", [StreamResponse], ([response]) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* joined(chunksOf(response)), response)
    }))

  it.effect.prop(
    "also where the pieces come one character at a time",
    [StreamResponse],
    ([response]) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* joined(shredded(chunksOf(response))), response)
      })
  )

  it.effect.prop("gives chunks that the schema takes", [StreamResponse], ([response]) =>
    Effect.gen(function*() {
      for (const choice of [response, ...(response.alternatives ?? [])]) {
        yield* Schema.encodeEffect(Alternative)({ content: choice.content, finishReason: choice.finishReason })
      }
      yield* Schema.encodeEffect(ChatResponse)(yield* joined(chunksOf(response)))
    }))

  it.effect.prop(
    "tells each choice's finish once, and the usage last",
    [StreamResponse],
    ([response]) =>
      Effect.sync(() => {
        const chunks = chunksOf(response)
        const finishes = chunks.filter((chunk) => chunk.finishReason !== undefined)
        assert.deepStrictEqual(
          finishes.map((chunk) => chunk.choice ?? 0),
          [response, ...(response.alternatives ?? [])].map((_, index) => index)
        )
        assert.strictEqual(
          chunks.findIndex((chunk) => chunk.usage !== undefined),
          response.usage === undefined ? -1 : chunks.length - 1
        )
      })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Streams that no answer was cut into
// ---------------------------------------------------------------------------------------------------------------------

const head = { id: "1", model: "m" }

describe("collect", () => {
  const contentOf = (...chunks: ReadonlyArray<ChatChunk>) => Effect.map(joined(chunks), ({ content }) => content)

  it.effect("puts parts in the order of their index, whatever the order of their deltas", () =>
    Effect.gen(function*() {
      const content = yield* contentOf(
        { ...head, delta: [{ type: "tool_call", index: 2, id: "b", name: "g" }] },
        { ...head, delta: [{ type: "text", index: 0, text: "Hel" }] },
        { ...head, delta: [{ type: "tool_call", index: 1, id: "a", name: "f", arguments: "{" }] },
        { ...head, delta: [{ type: "text", index: 0, text: "lo" }, { type: "tool_call", index: 1, arguments: "}" }] }
      )
      const expected: ReadonlyArray<Part> = [
        { type: "text", text: "Hello" },
        { type: "tool_call", id: "a", name: "f", arguments: "{}" },
        { type: "tool_call", id: "b", name: "g", arguments: "" }
      ]
      assert.deepStrictEqual(content, expected)
    }))

  it.effect("joins sound, its transcript and what names it", () =>
    Effect.gen(function*() {
      const content = yield* contentOf(
        { ...head, delta: [{ type: "audio", index: 0, id: "audio_1", transcript: "Hel" }] },
        { ...head, delta: [{ type: "audio", index: 0, mediaType: "audio/wav", data: "AAAA" }] },
        { ...head, delta: [{ type: "audio", index: 0, data: "BBBB", transcript: "lo", expiresAt: 5 }] }
      )
      const expected: ReadonlyArray<Part> = [{
        type: "audio",
        source: { type: "base64", mediaType: "audio/wav", data: "AAAABBBB" },
        id: "audio_1",
        transcript: "Hello",
        expiresAt: 5
      }]
      assert.deepStrictEqual(content, expected)
    }))

  it.effect("takes the last usage, which is cumulative, and the first id", () =>
    Effect.gen(function*() {
      const response = yield* joined([
        { ...head, delta: [], usage: { inputTokens: 5, outputTokens: 1 } },
        { id: "2", model: "other", delta: [{ type: "text", index: 0, text: "x" }] },
        { ...head, delta: [], finishReason: "length", usage: { inputTokens: 5, outputTokens: 9 } }
      ])
      assert.deepStrictEqual(response, {
        ...head,
        content: [{ type: "text", text: "x" }],
        finishReason: "length",
        usage: { inputTokens: 5, outputTokens: 9 }
      })
    }))

  it.effect("an empty stream is an empty answer that nothing finished", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* joined([]), { id: "", model: "", content: [], finishReason: "other" })
    }))

  it.effect("fails as the stream fails", () =>
    Effect.gen(function*() {
      const chunks = Stream.concat(Stream.succeed<ChatChunk>({ ...head, delta: [] }), Stream.fail("broken"))
      assert.strictEqual(yield* Effect.flip(collect(chunks)), "broken")
    }))
})

describe("hasContent", () => {
  it("is false for openings, pings, finishes and empty texts, and true for all that a caller would see", () => {
    assert.isFalse(hasContent({ ...head, delta: [] }))
    assert.isFalse(hasContent({ ...head, delta: [], finishReason: "stop" }))
    assert.isFalse(hasContent({ ...head, delta: [{ type: "text", index: 0, text: "" }] }))
    assert.isTrue(hasContent({ ...head, delta: [{ type: "text", index: 0, text: " " }] }))
    assert.isTrue(hasContent({ ...head, delta: [{ type: "text", index: 0, text: "", citations: [{}] }] }))
    assert.isTrue(hasContent({ ...head, delta: [{ type: "tool_call", index: 0, id: "a", name: "f" }] }))
    assert.isTrue(hasContent({ ...head, delta: [{ type: "reasoning", index: 0, text: "Hm" }] }))
  })
})
