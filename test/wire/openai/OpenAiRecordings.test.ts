import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import type { Alternative, ChatChunk } from "../../../src/sdk/Chat.ts"
import { textOf } from "../../../src/sdk/Content.ts"
import { sse } from "../../../src/wire/Framing.ts"
import type { Json } from "../../../src/wire/Codec.ts"
import { isJson } from "../../../src/wire/Json.ts"
import { decodeUsage, encodeUsage } from "../../../src/wire/openai/OpenAiUsage.ts"
import {
  at,
  callOf,
  chatRecordings,
  codec,
  copyOf,
  dataOf,
  eventsOf,
  gather,
  json,
  ok,
  type Recording,
  usageOf
} from "./Support.ts"

const requests = chatRecordings
const answers = chatRecordings.filter(({ body, status }) => status === 200 && isJson(body))
const streams = chatRecordings.filter(({ sse, status }) => status === 200 && sse !== undefined)
const errors = chatRecordings.filter(({ status }) => status >= 400)

const callFor = (recording: Recording) =>
  callOf(ok(codec.decodeRequest(recording.request)), { model: String(recording.request["model"]) })

const choicesOf = (expect: Json): ReadonlyArray<Json> => {
  const choices = expect["choices"]
  return Array.isArray(choices) ? choices.map(json) : []
}

interface Said {
  readonly text: string
  readonly reasoning: string
  readonly refusal: string
  readonly finishReason: string | undefined
  readonly calls: ReadonlyArray<Json>
}

const matches = (said: Said, expected: Json, name: string) => {
  assert.strictEqual(said.text, expected["text"] ?? "", `${name}: text`)
  assert.strictEqual(said.finishReason, expected["finish_reason"], `${name}: finish reason`)
  assert.strictEqual(said.refusal, expected["refusal"] ?? "", `${name}: refusal`)
  assert.strictEqual(said.reasoning, expected["reasoning"] ?? "", `${name}: reasoning`)
  assert.deepStrictEqual(said.calls, expected["tool_calls"] ?? [], `${name}: tool calls`)
}

const saidBy = (choice: Alternative): Said => ({
  text: textOf(choice.content),
  reasoning: choice.content.map((part) => part.type === "reasoning" ? part.text ?? "" : "").join(""),
  refusal: choice.content.map((part) => part.type === "refusal" ? part.text : "").join(""),
  finishReason: choice.finishReason,
  calls: choice.content.filter((part) => part.type === "tool_call").map(({ arguments: text, id, name }) => ({
    id,
    name,
    arguments: text
  }))
})

/** The counts that the sdk keeps of a usage; predicted outputs are not among them. */
const counts = (usage: unknown) => ({
  prompt: at(usage, "prompt_tokens"),
  completion: at(usage, "completion_tokens"),
  total: at(usage, "total_tokens"),
  cached: at(usage, "prompt_tokens_details", "cached_tokens") ?? 0,
  inputAudio: at(usage, "prompt_tokens_details", "audio_tokens") ?? 0,
  reasoning: at(usage, "completion_tokens_details", "reasoning_tokens") ?? 0,
  outputAudio: at(usage, "completion_tokens_details", "audio_tokens") ?? 0
})

/** The documented normalisations of a request that went through the sdk and back. */
const normalised = (body: Json): Json => ({
  ...body,
  ...(body["stream"] === true
    ? { stream_options: { ...json(body["stream_options"] ?? {}), include_usage: true } }
    : {}),
  messages: (Array.isArray(body["messages"]) ? body["messages"] : []).map((message: unknown) => {
    const content = at(message, "content")
    const only: unknown = Array.isArray(content) && content.length === 1 ? content[0] : undefined
    const single = at(only, "type") === "text" && Object.keys(json(only)).length === 2
    return single ? copyOf(json(message), { content: at(only, "text") }) : message
  })
})

/** Cuts a recorded stream into pieces of some bytes, through the real framing. */
const decodeBytes = (recording: Recording, size: number): ReadonlyArray<ChatChunk> => {
  const bytes = new TextEncoder().encode(`${(recording.sse ?? []).join("\n")}\n`)
  const framing = sse()
  const decoder = codec.streamDecoder(callFor(recording))
  const chunks: Array<ChatChunk> = []
  const feed = (events: ReadonlyArray<{ readonly data: string; readonly event: string }>) => {
    for (const { data, event } of events) chunks.push(...ok(decoder.push(data, event)))
  }
  for (let start = 0; start < bytes.length; start += size) feed(ok(framing.push(bytes.subarray(start, start + size))))
  feed(ok(framing.end()))
  chunks.push(...ok(decoder.end()))
  assert.isTrue(decoder.isDone())
  return chunks
}

describe.skipIf(chatRecordings.length === 0)("recorded chat traffic", () => {
  it("covers requests, answers, streams and errors", () => {
    assert.isAbove(answers.length, 10)
    assert.isAbove(streams.length, 8)
    assert.isAbove(errors.length, 4)
  })

  describe("requests", () => {
    it.each(requests)("$name comes back from the sdk as it went in", (recording) => {
      const { body, dropped } = ok(codec.encodeRequest(callFor(recording), recording.request["stream"] === true))
      assert.deepStrictEqual(body, normalised(recording.request))
      assert.deepStrictEqual(dropped, [])
    })
  })

  describe("answers", () => {
    it.each(answers)("$name is read as expected", (recording) => {
      const text = recording.bodyText ?? JSON.stringify(recording.body)
      const response = ok(codec.decodeResponse(text, JSON.parse(text), callFor(recording)))
      const choices = [response, ...(response.alternatives ?? [])]
      const expected = choicesOf(recording.expect)
      assert.strictEqual(choices.length, expected.length)
      for (const [index, choice] of choices.entries()) matches(saidBy(choice), expected[index] ?? {}, recording.name)
      assert.strictEqual(response.id, recording.expect["id"])
      assert.strictEqual(response.model, recording.expect["model"])
      assert.isDefined(response.usage)
      assert.deepStrictEqual(
        counts(response.usage === undefined ? undefined : encodeUsage(response.usage)),
        counts(recording.expect["usage"])
      )
    })
    it.each(answers)("$name is handed on unchanged", (recording) => {
      const call = callFor(recording)
      const response = ok(codec.decodeResponse("", recording.body, call))
      assert.deepStrictEqual(codec.encodeResponse(response, call.request), recording.body)
    })
    it.each(answers)("$name says the same when it is written anew", (recording) => {
      const call = callFor(recording)
      const response = copyOf(ok(codec.decodeResponse("", recording.body, call)))
      const encoded = codec.encodeResponse(response, call.request)
      const again = ok(codec.decodeResponse("", encoded, call))
      assert.deepStrictEqual(saidBy(again), saidBy(response))
      assert.deepStrictEqual(again.usage, response.usage)
    })
  })

  describe("streams", () => {
    it.each(streams)("$name is read as expected, byte by byte", (recording) => {
      const chunks = decodeBytes(recording, 1)
      for (const [index, expected] of choicesOf(recording.expect).entries()) {
        matches(gather(chunks, index), expected, recording.name)
      }
      assert.strictEqual(chunks.findLast(({ id }) => id !== "")?.id, recording.expect["id"])
      assert.strictEqual(chunks.findLast(({ model }) => model !== "")?.model, recording.expect["model"])
      const usage = usageOf(chunks)
      if (recording.expect["usage"] === null) assert.isUndefined(usage)
      else {
        assert.isDefined(usage)
        assert.deepStrictEqual(
          counts(usage === undefined ? undefined : encodeUsage(usage)),
          counts(recording.expect["usage"])
        )
        assert.deepStrictEqual(usage, decodeUsage(recording.expect["usage"]), "a stream counts as a whole answer does")
      }
    })
    it.each(streams)("$name is handed on event by event to callers who asked for usage", (recording) => {
      const request = ok(codec.decodeRequest({
        ...recording.request,
        stream_options: { include_usage: true }
      }))
      const encoder = codec.streamEncoder(request)
      const text = decodeBytes(recording, 4096).map((chunk) => encoder.push(chunk)).join("") + encoder.end()
      assert.deepStrictEqual(dataOf(text), dataOf((recording.sse ?? []).join("\n")))
    })
    it.each(streams)("$name shows no usage to callers who did not ask", (recording) => {
      const { stream_options: _options, ...body } = recording.request
      const encoder = codec.streamEncoder(ok(codec.decodeRequest(body)))
      const text = decodeBytes(recording, 4096).map((chunk) => encoder.push(chunk)).join("") + encoder.end()
      for (const sent of eventsOf(text)) assert.notProperty(sent, "usage")
      assert.strictEqual(dataOf(text).at(-1), "[DONE]")
      const again = codec.streamDecoder(callFor(recording))
      const chunks = dataOf(text).flatMap((data) => ok(again.push(data, "message")))
      for (const [index, expected] of choicesOf(recording.expect).entries()) {
        matches(gather(chunks, index), expected, recording.name)
      }
    })
    it.each(streams)("$name says the same when its chunks are written anew", (recording) => {
      const request = ok(codec.decodeRequest({ ...recording.request, stream_options: { include_usage: true } }))
      const encoder = codec.streamEncoder(request)
      const copies = decodeBytes(recording, 4096).map((chunk) => copyOf(chunk))
      const text = copies.map((chunk) => encoder.push(chunk)).join("") + encoder.end()
      const again = codec.streamDecoder(callFor(recording))
      const chunks = dataOf(text).flatMap((data) => ok(again.push(data, "message")))
      for (const [index, expected] of choicesOf(recording.expect).entries()) {
        matches(gather(chunks, index), expected, recording.name)
      }
      assert.deepStrictEqual(usageOf(chunks), usageOf(copies))
    })
    it.each(streams)("$name cut off before its end is a failure", (recording) => {
      const decoder = codec.streamDecoder(callFor(recording))
      for (const data of dataOf((recording.sse ?? []).join("\n"))) {
        if (data !== "[DONE]") ok(decoder.push(data, "message"))
      }
      const ended = decoder.end()
      assert.isTrue(Result.isFailure(ended) && ended.failure.kind === "protocol")
    })
  })

  describe("errors", () => {
    const kinds: Readonly<Record<string, unknown>> = {
      "openai/asm-err-429-quota.json": { kind: "quota", code: "insufficient_quota", retryAfterMs: undefined },
      "openai/asm-err-429-tokens.json": { kind: "quota", code: "rate_limit_exceeded", retryAfterMs: 1200 },
      "openai/asm-err-503-html.json": { kind: "transient", code: undefined, retryAfterMs: undefined },
      "openai/compat-azure-err-429.json": { kind: "quota", code: "RateLimitReached", retryAfterMs: 1000 },
      "openai/compat-openrouter-err-429.json": { kind: "quota", code: undefined, retryAfterMs: 26_000 },
      "openai/err-401.json": { kind: "credential", code: "invalid_api_key", retryAfterMs: undefined },
      "openai/fx-err-400-legacy-param.json": { kind: "caller", code: "unsupported_parameter", retryAfterMs: undefined }
    }
    it.each(errors)("$name is read as expected", (recording) => {
      const text = recording.bodyText ?? JSON.stringify(recording.body)
      const failure = codec.decodeError(recording.status, recording.headers, text)
      const { code, kind, retryAfterMs, status } = failure
      assert.strictEqual(status, recording.status)
      assert.deepStrictEqual({ kind, code, retryAfterMs }, kinds[recording.name])
      const message = at(recording.expect, "error", "error", "message")
      assert.strictEqual(
        failure.message,
        message ?? "the provider answered 503 with an HTML page: 503 Service Temporarily Unavailable"
      )
      assert.strictEqual(failure.upstreamRequestId, recording.headers["x-request-id"])
    })
  })
})
