/** What the gateway reads out of realtime events: the type without parsing, usage in buckets that do not overlap, texts. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { eventType } from "../../../src/wire/openai/realtime/EventType.ts"
import { openAiRealtime } from "../../../src/wire/openai/realtime/OpenAiRealtime.ts"
import { responseUsage, transcriptUsage } from "../../../src/wire/openai/realtime/RealtimeUsage.ts"
import { totalInput, totalOutput } from "../../../src/sdk/Usage.ts"

const bytes = (text: string): Buffer => Buffer.from(text)
const frame = (event: unknown) => ({
  data: bytes(typeof event === "string" ? event : JSON.stringify(event)),
  isText: true
})

const Name = Schema.Literals(["type", "audio", "item", "ty\\pe", "\"", "a{b", "é", ""])
const Wild = Schema.Record(Name, Schema.Union([Schema.String, Schema.Finite, Schema.Null, Schema.Json]))

describe("eventType", () => {
  it.prop("finds the type wherever it stands, or leaves it to the parser", [Wild, Schema.String], ([wild, type]) => {
    for (const [spaces, event] of [[0, { ...wild, type }], [2, Object.assign({ type }, wild)], [1, wild]] as const) {
      const text = JSON.stringify(event, null, spaces)
      const { type: parsed }: { readonly type?: unknown } = JSON.parse(text)
      for (const exact of [true, false]) {
        const found = eventType(bytes(text), exact)
        if (found !== undefined) assert.strictEqual(found, parsed)
      }
      const isPlain = typeof parsed === "string" && !text.includes("\\")
      if (isPlain) assert.strictEqual(eventType(bytes(text), true), parsed)
    }
  })

  it("tells none where parsers could find another one", () => {
    for (
      const text of [
        "{\"type\":\"a\",\"type\":\"b\"}",
        "{\"type\":\"a\",\"t\\u0079pe\":\"b\"}",
        "{\"t\\u0079pe\":\"b\",\"type\":\"a\"}",
        "{\"type\":\"a\\u0062\"}",
        "{\"x\":{\"type\":\"a\"}}",
        "{\"type\":1}",
        "[{\"type\":\"a\"}]",
        "{\"type\":\"a\"",
        "{\"type\":\"a",
        "{\"x\":\"\\\"",
        "{",
        ""
      ]
    ) assert.isUndefined(eventType(bytes(text), true), text)
  })

  it("takes time in proportion to the length of what it reads", () => {
    const nested = bytes(`{"a":${"[{\"b\":\"".repeat(200_000)}`)
    const escaped = bytes(`{"a":"${"\\".repeat(1_000_000)}"`)
    const quoted = bytes(`{"a":"${"\\\"".repeat(500_000)}","type":"x"}`)
    const since = performance.now()
    for (const one of [nested, escaped, quoted]) eventType(one, true)
    assert.isBelow(performance.now() - since, 2_000)
  })
})

const Count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 }))
const Counts = Schema.Struct({
  text: Count,
  audio: Count,
  image: Count,
  cachedText: Count,
  cachedAudio: Count,
  textOut: Count,
  audioOut: Count
})

describe("usage", () => {
  it.prop("adds up to the provider's totals, whatever of it came from the cache", [Counts], ([drawn]) => {
    const cachedText = Math.min(drawn.cachedText, drawn.text)
    const cachedAudio = Math.min(drawn.cachedAudio, drawn.audio)
    const input = drawn.text + drawn.audio + drawn.image
    const usage = responseUsage({
      input_tokens: input,
      output_tokens: drawn.textOut + drawn.audioOut,
      input_token_details: {
        text_tokens: drawn.text,
        audio_tokens: drawn.audio,
        image_tokens: drawn.image,
        cached_tokens: cachedText + cachedAudio,
        cached_tokens_details: { text_tokens: cachedText, audio_tokens: cachedAudio }
      },
      output_token_details: { text_tokens: drawn.textOut, audio_tokens: drawn.audioOut }
    })
    assert.isDefined(usage)
    if (usage === undefined) return
    assert.strictEqual(totalInput(usage), input)
    assert.strictEqual(totalOutput(usage), drawn.textOut + drawn.audioOut)
    assert.strictEqual(usage.inputTokens, drawn.text - cachedText)
    assert.strictEqual(usage.inputAudioTokens ?? 0, drawn.audio - cachedAudio)
  })

  it.prop("of anything at all is nothing, or counts that are not negative", [Schema.Json], ([wild]) => {
    for (
      const usage of [responseUsage(wild), transcriptUsage(wild), responseUsage({ input_tokens: 5, ...Object(wild) })]
    ) {
      for (const value of Object.values(usage ?? {})) assert.isAtLeast(Number(value), 0)
    }
  })

  it("of a transcript is tokens, or the length of the sound", () => {
    assert.deepStrictEqual(transcriptUsage({ type: "duration", seconds: 1.25 }), {
      inputTokens: 0,
      outputTokens: 0,
      inputAudioMs: 1250
    })
    assert.deepStrictEqual(
      transcriptUsage({
        type: "tokens",
        input_tokens: 14,
        output_tokens: 5,
        input_token_details: { text_tokens: 4, audio_tokens: 10 }
      }),
      { inputTokens: 4, outputTokens: 5, inputAudioTokens: 10 }
    )
  })
})

describe("events", () => {
  it("of sound are nobody's business", () => {
    assert.isUndefined(openAiRealtime.callerEvent(frame({ type: "input_audio_buffer.append", audio: "AAAA" })))
    assert.isUndefined(
      openAiRealtime.providerEvent(frame({ type: "response.output_audio.delta", delta: "AAAA" }), true)
    )
  })

  it("keep all but their texts when these are changed", () => {
    const event = {
      type: "conversation.item.create",
      unknown: { kept: [1, null, "text"] },
      item: { role: "user", content: [{ type: "input_text", text: "one" }, { type: "input_audio", audio: "AAAA" }] }
    }
    const read = openAiRealtime.callerEvent(frame(event))
    assert.deepStrictEqual(read?.texts, ["one"])
    const changed: unknown = JSON.parse(Buffer.from(read?.changed(["two"]).data ?? []).toString())
    assert.deepStrictEqual(changed, {
      ...event,
      item: { ...event.item, content: [{ type: "input_text", text: "two" }, { type: "input_audio", audio: "AAAA" }] }
    })
  })
})
