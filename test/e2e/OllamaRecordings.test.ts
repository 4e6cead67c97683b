/**
 * Recorded traffic through the Ollama dialect. What Ollama answered comes out as it was, but for the model's name, which is
 * the one that was asked for; what the other providers answered keeps its content, calls, counts and reasons.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import {
  eventsOfRecording,
  expectedChat,
  hasRecordings,
  isStream,
  type Recording,
  recordings,
  replay,
  wireOf
} from "../fixtures/Recordings.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed } from "../fixtures/Script.ts"

const list = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []
const objects = (value: unknown): ReadonlyArray<Json> => list(value).filter(isJson)
const objectAt = (json: Json, key: string): Json => {
  const value = json[key]
  return isJson(value) ? value : {}
}
const textAt = (json: Json, key: string): string => {
  const value = json[key]
  return typeof value === "string" ? value : ""
}

const own = [
  ...recordings("ollama", { path: "/api/chat" }),
  ...recordings("ollama", { path: "/api/generate" })
]

const foreign = [
  ...recordings("openai", { path: "/v1/chat/completions", ok: true }),
  ...recordings("anthropic", { path: "/v1/messages", ok: true }),
  ...recordings("ollama", { path: "/v1/chat/completions", ok: true })
]

const linesOf = (text: string): ReadonlyArray<Json> => {
  assert.isTrue(text.endsWith("\n"))
  return text.slice(0, -1).split("\n").map((line) => {
    const json = parsed(line)
    return isJson(json) ? json : assert.fail(`no JSON object: ${line}`)
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// What a caller reads
// ---------------------------------------------------------------------------------------------------------------------

interface Read {
  readonly text: string
  readonly thinking: string
  readonly calls: ReadonlyArray<{ readonly id: unknown; readonly name: unknown; readonly arguments: unknown }>
  readonly last: Json
}

/** A whole answer is read as a stream of one line. */
const read = (lines: ReadonlyArray<Json>): Read => {
  let text = ""
  let thinking = ""
  const calls: Array<Read["calls"][number]> = []
  for (const line of lines) {
    const message = objectAt(line, "message")
    text += textAt(message, "content")
    thinking += textAt(message, "thinking")
    for (const call of objects(message["tool_calls"])) {
      const named = objectAt(call, "function")
      calls.push({ id: call["id"], name: named["name"], arguments: named["arguments"] })
    }
  }
  return { text, thinking, calls, last: lines.at(-1) ?? {} }
}

// ---------------------------------------------------------------------------------------------------------------------
// What the upstream got
// ---------------------------------------------------------------------------------------------------------------------

const isNothing = (value: unknown): boolean =>
  value === null || value === undefined || value === "" || value === false ||
  (Array.isArray(value) && value.length === 0)

const bareMessage = (message: Json): Json => {
  const { tool_call_id: _, tool_calls: calls, ...rest } = message
  if (calls === undefined) return rest
  return { ...rest, tool_calls: objects(calls).map((call) => ({ function: call["function"] })) }
}

/** Without ids and types of calls, which clients leave out, and without empty fields, which say nothing to Ollama. */
const bare = (request: Json): Json => {
  const { messages, model: _, options, stream, ...fields } = request
  const { num_ctx: __, ...sampling } = isJson(options) ? options : {}
  return {
    ...Object.fromEntries(Object.entries(fields).filter(([key, value]) => key === "think" || !isNothing(value))),
    stream: stream ?? true,
    options: sampling,
    messages: objects(messages).map(bareMessage)
  }
}

const finishes: Readonly<Record<string, string>> = {
  tool_calls: "stop",
  tool_use: "stop",
  end_turn: "stop",
  stop_sequence: "stop",
  max_tokens: "length",
  refusal: "content_filter"
}

const modelOf = ({ request }: Recording): string => {
  const model = request.body?.["model"]
  return typeof model === "string" ? model : "m"
}

const number = (json: Json | undefined, key: string): number => typeof json?.[key] === "number" ? json[key] : 0

/** The counts that Ollama has for the recorded ones: the cache counts as prompt. */
const countsOf = (recording: Recording, usage: Json): readonly [number, number] =>
  wireOf(recording) === "openai"
    ? [number(usage, "prompt_tokens"), number(usage, "completion_tokens")]
    : [
      number(usage, "input_tokens") + number(usage, "cache_read_input_tokens") +
      number(usage, "cache_creation_input_tokens"),
      number(usage, "output_tokens")
    ]

describe.skipIf(!hasRecordings)("recorded answers in the Ollama dialect", () => {
  let upstream: FakeUpstream
  let gateway: RunningGateway
  beforeAll(async () => {
    upstream = await startFakeUpstream()
    gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
`)
  })
  afterAll(async () => {
    await gateway.close()
    await upstream.close()
  })
  beforeEach(() => upstream.reset())
  afterEach(() => {
    assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [])
  })

  it("are there", () => {
    assert.isAtLeast(own.length, 15)
    assert.isAtLeast(foreign.length, 50)
  })

  describe("Ollama's own", () => {
    for (const recording of own) {
      const body = recording.request.body ?? {}
      const model = `ollama::${String(body["model"])}`
      const ask = async () => {
        const response = await gateway.post(recording.request.path, { ...body, model })
        const text = await response.text()
        return { response, text }
      }

      it(`${recording.name} comes out as it was, from where it was`, async () => {
        upstream.reply(replay(recording))
        const { response, text } = await ask()
        assert.strictEqual(response.status, 200, text)
        const recorded = isStream(recording)
          ? eventsOfRecording(recording).filter((line) => line.trim() !== "").map(parsed)
          : [recording.response.body]
        assert.deepStrictEqual<unknown>(
          isStream(recording) ? linesOf(text) : [parsed(text)],
          recorded.filter(isJson).map((line) => Object.assign({}, line, { model }))
        )
        const sent = upstream.request(0)
        assert.strictEqual(sent.path, recording.request.path)
        assert.deepStrictEqual(bare(sent.json), bare(body))
        assert.isNull(response.headers.get("x-gateway-dropped-params"))
      })

      if (!isStream(recording)) continue
      it(`${recording.name}, cut before its end, ends in an error and is not done`, async () => {
        const last = eventsOfRecording(recording).findLastIndex((event) => event.trim() !== "")
        upstream.reply(withFault(replay(recording), fault.end(last)))
        const { text } = await ask()
        const lines = linesOf(text)
        assert.deepStrictEqual(Object.keys(lines.at(-1) ?? {}), ["error"])
        assert.isFalse(lines.some(({ done }) => done === true))
        assert.lengthOf(lines, last + 1)
      })
    }
  })

  describe("those of others", () => {
    for (const recording of foreign.filter(({ expect }) => expect["error"] === undefined)) {
      it(`${recording.provider}/${recording.name}`, async () => {
        upstream.reply(replay(recording))
        const stream = isStream(recording)
        const model = `${wireOf(recording)}::${modelOf(recording)}`
        const response = await gateway.post("/api/chat", { model, stream, messages: [{ role: "user", content: "Hi" }] })
        const text = await response.text()
        assert.strictEqual(response.status, 200, text)
        const lines = linesOf(stream ? text : `${text}\n`)
        assert.isTrue(lines.every((line) => line["model"] === model))
        assert.deepStrictEqual(lines.map(({ done }) => done), lines.map((_, index) => index === lines.length - 1))
        const got = read(lines)
        const expected = expectedChat(recording)
        // Ollama has no field for a refusal, so its words stand in the content; of those that `expect` does not hold, the finish tells.
        if (expected.finish !== "refusal") assert.strictEqual(got.text, expected.text + (expected.refusal ?? ""))
        assert.strictEqual(got.thinking, expected.reasoning ?? "")
        assert.deepStrictEqual(
          got.calls.map(({ id, name, arguments: value }) => ({ id, name, arguments: value })),
          expected.toolCalls.map((call) => ({
            id: call.id,
            name: call.name,
            // What was cut off is no object, and is handed on as text.
            arguments: typeof call.arguments === "string" ? { _raw: call.arguments } : call.arguments
          }))
        )
        assert.strictEqual(got.last["done_reason"], finishes[expected.finish ?? ""] ?? expected.finish)
        if (expected.usage !== undefined) {
          assert.deepStrictEqual(
            [number(got.last, "prompt_eval_count"), number(got.last, "eval_count")],
            countsOf(recording, expected.usage)
          )
        }
        for (const key of ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"]) {
          assert.isTrue(Number.isSafeInteger(got.last[key]), key)
        }
      })
    }
  })
})
