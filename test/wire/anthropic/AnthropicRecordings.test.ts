import { assert, describe, it } from "@effect/vitest"
import type { Part } from "../../../src/sdk/Content.ts"
import type { Usage } from "../../../src/sdk/Usage.ts"
import { anthropicMessages, decodeModels } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import { finishReasonOf } from "../../../src/wire/anthropic/AnthropicResponse.ts"
import { isJson } from "../../../src/wire/Json.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import {
  at,
  callFor,
  callOf,
  change,
  chatRecordings,
  hasRecordings,
  join,
  list,
  modelsRecording,
  object,
  readStream,
  success,
  writeStream
} from "./Fixtures.ts"

const recordings = chatRecordings()
const answers = recordings.filter((recording) => recording.status === 200)

const usageExpected = (usage: unknown): unknown => {
  const n = (...path: ReadonlyArray<string>) => Number(at(usage, ...path) ?? 0)
  const written = n("cache_creation_input_tokens")
  const long = n("cache_creation", "ephemeral_1h_input_tokens")
  const counts = {
    inputTokens: n("input_tokens"),
    outputTokens: n("output_tokens"),
    cacheReadTokens: n("cache_read_input_tokens"),
    cacheWrite5mTokens: written - long,
    cacheWrite1hTokens: long
  }
  return Object.fromEntries(
    Object.entries(counts).filter(([key, value]) => value > 0 || key === "inputTokens" || key === "outputTokens")
  )
}

const pieces = (content: ReadonlyArray<Part>) => ({
  text: content.map((part) => part.type === "text" ? part.text : "").join(""),
  thinking: content.map((part) => part.type === "reasoning" ? part.text ?? "" : "").join(""),
  calls: content.flatMap((part): ReadonlyArray<unknown> =>
    part.type === "tool_call" ? [{ id: part.id, name: part.name, input: JSON.parse(part.arguments) }] : []
  ),
  redacted: content.filter((part) => part.type === "reasoning" && part.data !== undefined).length,
  citations: content.reduce((sum, part) => sum + (part.type === "text" ? part.citations?.length ?? 0 : 0), 0)
})

interface Answered {
  readonly id: string
  readonly model: string
  readonly content: ReadonlyArray<Part>
  readonly finishReason: string | undefined
  readonly nativeFinishReason?: string | undefined
  readonly stopSequence?: string | undefined
  readonly usage?: Usage | undefined
}

const check = (answer: Answered, expected: Json): void => {
  const got = pieces(answer.content)
  const calls = list(expected["tool_calls"])
  assert.strictEqual(got.text, expected["text"])
  assert.deepStrictEqual(got.calls, calls)
  if (expected["thinking"] !== undefined) assert.strictEqual(got.thinking, expected["thinking"])
  if (expected["signature"] !== undefined) {
    assert.isTrue(answer.content.some((part) => part.type === "reasoning" && part.signature === expected["signature"]))
  }
  assert.strictEqual(got.redacted, Number(expected["redacted"] ?? 0))
  assert.strictEqual(got.citations, Number(expected["citations"] ?? 0))
  assert.strictEqual(answer.nativeFinishReason, expected["stop_reason"])
  assert.strictEqual(answer.finishReason, finishReasonOf(expected["stop_reason"], calls.length > 0, false))
  assert.strictEqual(answer.stopSequence ?? null, expected["stop_sequence"])
  assert.deepStrictEqual(answer.usage, usageExpected(expected["usage"]))
  assert.strictEqual(answer.id, expected["id"])
  assert.strictEqual(answer.model, expected["model"])
}

describe.skipIf(!hasRecordings)("recorded answers", () => {
  for (const { body, expect, name } of answers) {
    if (body === undefined) continue
    it(name, () => {
      const json: unknown = JSON.parse(body.text)
      const answer = success(anthropicMessages.decodeResponse(body.text, json, callOf()))
      check(answer, expect)
      const rebuilt = anthropicMessages.encodeResponse(change(answer), {
        model: "m",
        messages: [{ role: "user", content: [] }]
      })
      const again = success(anthropicMessages.decodeResponse("", JSON.parse(JSON.stringify(rebuilt)), callOf()))
      assert.deepStrictEqual(change(again), change(answer))
    })
  }
})

describe.skipIf(!hasRecordings)("recorded streams", () => {
  for (const { expect, name, stream } of answers) {
    if (stream === undefined) continue
    const bytewise = () => readStream(stream, callOf(), 1)
    if (expect["ended"] === false) {
      it(`${name} fails as the upstream said`, () => {
        for (const { chunks, failure } of [readStream(stream, callOf()), bytewise()]) {
          assert.strictEqual(failure?.kind, "transient")
          assert.strictEqual(failure?.type, at(expect, "error", "type"))
          const { content, finishReason, usage } = join(chunks)
          assert.strictEqual(pieces(content).text, expect["text"])
          assert.isUndefined(finishReason)
          assert.isUndefined(usage)
        }
      })
      continue
    }
    it(name, () => {
      const { chunks, failure } = readStream(stream, callOf())
      assert.isUndefined(failure)
      const answer = join(chunks)
      check({ ...answer }, expect)
      const split = bytewise()
      assert.isUndefined(split.failure)
      assert.deepStrictEqual(join(split.chunks), answer)
    })
    it(`${name}, written anew, reads the same`, () => {
      const { chunks } = readStream(stream, callOf())
      const anew = readStream(writeStream(chunks.map((chunk) => change(chunk))), callOf())
      assert.isUndefined(anew.failure)
      assert.deepStrictEqual(join(anew.chunks), join(chunks))
      const handedOn = readStream(writeStream(chunks), callOf())
      assert.deepStrictEqual(join(handedOn.chunks), join(chunks))
    })
    it(`${name}, cut before its end, fails`, () => {
      const cut = readStream(stream.slice(0, stream.lastIndexOf("event: message_stop")), callOf())
      if (!stream.includes("event: message_stop")) return
      assert.strictEqual(cut.failure?.kind, "protocol")
    })
  }
})

describe.skipIf(!hasRecordings)("recorded errors", () => {
  for (const { body, expect, headers, name, status } of recordings) {
    if (status === 200 || body === undefined) continue
    it(name, () => {
      const failed = anthropicMessages.decodeError(status, headers, body.text)
      assert.strictEqual(failed.kind, "transient")
      assert.strictEqual(failed.status, expect["status"])
      assert.strictEqual(failed.message, at(expect, "error", "error", "message"))
      assert.strictEqual(failed.upstreamRequestId, headers["request-id"])
    })
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

/** Bare strings are single text blocks; -1 and `stream: false` say nothing. */
const normalised = (json: unknown): unknown => {
  const body = object(json)
  const blocks = (content: unknown) => typeof content === "string" ? [{ type: "text", text: content }] : content
  const entries = Object.entries(body).flatMap(([key, value]): ReadonlyArray<readonly [string, unknown]> => {
    if (value === -1 || (key === "stream" && value === false)) return []
    if (key === "system") return [[key, blocks(value)]]
    if (key !== "messages") return [[key, value]]
    return [[
      key,
      list(value).map((message) => ({ role: at(message, "role"), content: blocks(at(message, "content")) }))
    ]]
  })
  return Object.fromEntries(entries)
}

describe.skipIf(!hasRecordings)("recorded requests", () => {
  for (const { name, requestBody } of recordings) {
    if (!isJson(requestBody)) continue
    it(`${name} comes out as it went in`, () => {
      const decoded = success(anthropicMessages.decodeRequest(requestBody))
      const { body, dropped } = success(anthropicMessages.encodeRequest(callFor(decoded), decoded.stream === true))
      assert.deepStrictEqual(JSON.parse(JSON.stringify(body)), normalised(requestBody))
      assert.deepStrictEqual(dropped, [])
    })
  }
})

describe.skipIf(!hasRecordings)("recorded models", () => {
  it("tells names, limits, dates and capabilities", () => {
    const models = success(decodeModels(modelsRecording().body?.json))
    assert.lengthOf(models, 11)
    assert.deepStrictEqual(models[0], {
      model: "claude-opus-5",
      displayName: "Claude Opus 5",
      contextWindow: 1_000_000,
      maxOutputTokens: 128_000,
      created: Date.parse("2026-07-24T00:00:00Z") / 1000,
      capabilities: [
        "text_input",
        "text_output",
        "tools",
        "parallel_tools",
        "prompt_caching",
        "streaming",
        "image_input",
        "document_input",
        "structured_output",
        "reasoning",
        "batch"
      ]
    })
  })
})
