/** Redacted streams in each wire: what came from the wire and what was changed make one stream that follows its grammar. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema, Stream } from "effect"
import * as Pii from "../../../src/plugins/interceptors/pii/Pii.ts"
import type { ChatChunk, PartDelta } from "../../../src/sdk/Chat.ts"
import { collect } from "../../../src/sdk/ChatStream.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import { checkGrammar, read, wires, written } from "../../wire/Wires.ts"
import { answered, streamed } from "./Answers.ts"

const mail = "jane@example.com"

const Pieces = Schema.Array(
  Schema.Literals([mail, "Hello", " ", "there, ", "+49 170 1234567", "a@", "4111 1111 1111 1111", "."])
)
  .check(Schema.isMinLength(1), Schema.isMaxLength(6))
const Sizes = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 12 }))).check(
  Schema.isMinLength(1),
  Schema.isMaxLength(8)
)

/** The deltas of a text in pieces of the given sizes, over and over. */
const cut = (text: string, sizes: ReadonlyArray<number>, delta: (piece: string) => PartDelta): Array<PartDelta> => {
  const deltas: Array<PartDelta> = []
  for (let at = 0, i = 0; at < text.length; i++) {
    const size = sizes[i % sizes.length] ?? 1
    deltas.push(delta(text.slice(at, at + size)))
    at += size
  }
  return deltas
}

/** What a whole answer says: its parts without what wires make up. */
const said = (content: ReadonlyArray<Part>) =>
  content.map((part) =>
    part.type === "tool_call"
      ? { name: part.name, arguments: JSON.parse(part.arguments === "" ? "{}" : part.arguments) as unknown }
      : { [part.type]: "text" in part ? part.text : undefined }
  )

describe.each(wires)("in the wire %s", (wire) => {
  it.effect.prop(
    "a redacted stream follows the grammar and says what the whole answer would",
    [Pieces, Pieces, Pieces, Sizes],
    ([thought, spoken, called, sizes]) =>
      Effect.gen(function*() {
        const pii = yield* Pii.make({})
        const args = JSON.stringify({ to: called.join(" ") })
        const deltas: ReadonlyArray<PartDelta> = [
          ...cut(thought.join(" "), sizes, (text) => ({ type: "reasoning", index: 0, text })),
          ...cut(spoken.join(" "), sizes, (text) => ({ type: "text", index: 1, text })),
          { type: "tool_call", index: 2, id: "call_1", name: "send" },
          ...cut(args, sizes, (piece) => ({ type: "tool_call", index: 2, arguments: piece }))
        ]
        const head = { id: "id1", model: "m1" }
        const upstream = written(wire, [
          ...deltas.map((delta): ChatChunk => ({ id: "id1", model: "m1", delta: [delta] })),
          { ...head, delta: [], finishReason: "tool_calls" },
          { ...head, delta: [], usage: { inputTokens: 3, outputTokens: 4 } }
        ])
        const came = read(wire, upstream).chunks
        const changed = yield* Stream.runCollect(streamed(pii, came))
        const text = written(wire, changed)
        checkGrammar[wire](text)
        const { chunks, failure } = read(wire, text)
        assert.isUndefined(failure)
        const seen = yield* collect(Stream.fromIterable(chunks))
        const whole = yield* collect(Stream.fromIterable(came))
        const redacted = yield* answered(pii, whole)
        assert.deepStrictEqual(said(seen.content), said(redacted.content))
        assert.strictEqual(seen.finishReason, "tool_calls")
        assert.deepInclude(seen.usage, { inputTokens: 3, outputTokens: 4 })
        // Nor does it stand anywhere else, in what the wire says beside the text.
        for (const found of [mail, "1234567", "4111 1111"]) {
          if (!JSON.stringify(redacted).includes(found)) assert.notInclude(text, found)
        }
      }),
    { arbitrary: { runs: 200 } }
  )
})
