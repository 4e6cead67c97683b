/** The codec against recorded traffic: what it reads is what an independent reader read. */
import { assert, describe, it } from "@effect/vitest"
import type { FinishReason } from "../../../src/sdk/Chat.ts"
import { type Part, textOf } from "../../../src/sdk/Content.ts"
import type { Usage } from "../../../src/sdk/Usage.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { decodeShow, ollamaChat } from "../../../src/wire/ollama/OllamaChat.ts"
import { isJson, isList } from "../../../src/wire/Json.ts"
import { recording as recorded, recordings } from "../../fixtures/Recordings.ts"
import { callOf, decodeBytes, joinChunks, success } from "./answers.ts"

const chats = recordings("ollama", { path: "/api/chat" })

const check = (
  answer: { readonly content: ReadonlyArray<Part>; readonly finishReason?: FinishReason; readonly usage?: Usage },
  expect: Json
): void => {
  assert.strictEqual(textOf(answer.content), expect["text"])
  const thinking = answer.content.flatMap((part) => part.type === "reasoning" ? [part.text ?? ""] : []).join("")
  assert.strictEqual(thinking, expect["thinking"] ?? "")
  const calls = answer.content.flatMap((part) =>
    part.type === "tool_call"
      ? [{ id: part.id, name: part.name, arguments: JSON.parse(part.arguments) as unknown }]
      : []
  )
  assert.deepStrictEqual(calls, expect["tool_calls"])
  assert.strictEqual(answer.finishReason, calls.length > 0 ? "tool_calls" : "stop")
  const usage = isJson(expect["usage"]) ? expect["usage"] : {}
  assert.deepStrictEqual<unknown>(answer.usage, {
    inputTokens: usage["prompt_eval_count"],
    outputTokens: usage["eval_count"]
  })
}

/** The normalisations that `OllamaDecodeRequest.ts` documents, done to a body by hand. */
const normalised = (body: Json): Json => {
  const { format, keep_alive: keepAlive, messages, options, stream, ...others } = body
  return {
    ...others,
    ...(format === "" || format === undefined ? {} : { format }),
    ...(keepAlive === null || keepAlive === undefined ? {} : { keep_alive: keepAlive }),
    ...(isJson(options) && Object.keys(options).length > 0 ? { options } : {}),
    stream: stream ?? true,
    messages: isList(messages) ? messages.map(withoutIds) : []
  }
}

/** A message without what recorded clients leave out or write superfluously: ids of calls and their `type`. */
const withoutIds = (message: unknown): unknown => {
  if (!isJson(message)) return message
  const { tool_call_id: _, tool_calls: calls, ...others } = message
  return {
    ...others,
    ...(isList(calls)
      ? { tool_calls: calls.map((call) => isJson(call) ? { function: call["function"] } : call) }
      : {})
  }
}

describe.skipIf(chats.length === 0)("recorded traffic", () => {
  describe("whole answers", () => {
    for (const recording of chats.filter((recording) => recording.response.lines === undefined)) {
      it(recording.name, () => {
        const call = callOf(success(ollamaChat.decodeRequest(recording.request.body)))
        const text = JSON.stringify(recording.response.body)
        const response = success(ollamaChat.decodeResponse(text, recording.response.body, call))
        check(response, recording.expect)
        assert.strictEqual(response.model, recording.expect["model"])
        assert.deepStrictEqual<unknown>(ollamaChat.encodeResponse(response, call.request), recording.response.body)
      })
    }
  })

  describe("streams, in one piece and byte by byte", () => {
    for (const recording of chats) {
      const lines = recording.response.lines
      if (lines === undefined) continue
      it(recording.name, () => {
        const request = success(ollamaChat.decodeRequest(recording.request.body))
        const bytes = new TextEncoder().encode(lines.join("\n"))
        for (const size of [bytes.length, 1, 7]) {
          const decoder = ollamaChat.streamDecoder(callOf(request))
          const chunks = success(decodeBytes(decoder, bytes, size))
          const joined = joinChunks(chunks)
          check(joined, recording.expect)
          assert.strictEqual(joined.ids.size, 1)
          assert.isTrue(decoder.isDone())
          assert.isTrue(chunks.every((chunk) => chunk.model === recording.expect["model"]))
        }
      })

      it(`${recording.name}: relayed to an Ollama caller line by line, unchanged`, () => {
        const request = success(ollamaChat.decodeRequest(recording.request.body))
        const chunks = success(
          decodeBytes(ollamaChat.streamDecoder(callOf(request)), new TextEncoder().encode(lines.join("\n")), 100)
        )
        const encoder = ollamaChat.streamEncoder(request)
        const written = chunks.map((chunk) => encoder.push(chunk)).join("") + encoder.end()
        assert.deepStrictEqual(written.split("\n"), lines)
      })

      it(`${recording.name}: a cut at any line is a failure`, () => {
        const whole = lines.filter((line) => line !== "")
        for (let kept = 0; kept < whole.length; kept++) {
          const decoder = ollamaChat.streamDecoder(callOf(success(ollamaChat.decodeRequest(recording.request.body))))
          for (const line of whole.slice(0, kept)) success(decoder.push(line, ""))
          assert.isTrue("failure" in decoder.end())
        }
      })
    }
  })

  describe("requests are written back as they were read", () => {
    for (const recording of chats) {
      it(recording.name, () => {
        const request = success(ollamaChat.decodeRequest(recording.request.body))
        const { body, dropped } = success(ollamaChat.encodeRequest(callOf(request), request.stream === true))
        assert.deepStrictEqual(dropped, [])
        const { num_ctx: _, ...options } = isJson(body["options"]) ? body["options"] : {}
        assert.deepStrictEqual(normalised({ ...body, options }), normalised(recording.request.body ?? {}))
      })
    }

    it("tools-result-final: results answer the calls that they name", () => {
      const recording = recorded("ollama", "tools-result-final")
      const request = success(ollamaChat.decodeRequest(recording.request.body))
      const names = new Map<string, string>()
      const answered = new Set<string>()
      for (const [index, message] of request.messages.entries()) {
        for (const part of message.content) {
          if (part.type === "tool_call") names.set(part.id, part.name)
          if (part.type !== "tool_result") continue
          const messages = recording.request.body?.["messages"]
          const source = isList(messages) ? messages[index] : undefined
          assert.strictEqual(names.get(part.toolCallId), isJson(source) ? source["tool_name"] : undefined)
          answered.add(part.toolCallId)
        }
      }
      assert.strictEqual(answered.size, 10)
      assert.strictEqual(names.size, 10)
    })
  })

  it("show: the context window of the model's architecture", () => {
    const recording = recorded("ollama", "show")
    assert.deepStrictEqual(success(decodeShow(recording.response.body, "llama3.1")), {
      model: "llama3.1",
      contextWindow: 131072
    })
  })
})
