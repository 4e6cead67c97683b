/**
 * Every recorded chat of every provider, seen through OpenAI's Responses API: the fake upstream answers as the real one
 * did, byte for byte, and the caller must read from typed events and items what an independent reader of the recording
 * found. Conversations that were recorded in OpenAI's chat are put into items by hand, and must reach the provider as they
 * were.
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
import { eventsOf } from "../fixtures/ResponsesEvents.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed, type Script, type Wire } from "../fixtures/Script.ts"

const path = "/v1/responses"

const chatPaths: Readonly<Record<Wire, string>> = {
  openai: "/v1/chat/completions",
  anthropic: "/v1/messages",
  ollama: "/api/chat"
}

const chats = (["openai", "anthropic", "ollama"] as const).flatMap((provider) => recordings(provider)).filter(
  (recording) =>
    recording.request.method === "POST" && recording.request.path.split("?", 1)[0] === chatPaths[wireOf(recording)]
)

const nameOf = (recording: Recording): string => `${recording.provider}/${recording.name}`

const list = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []
const objects = (value: unknown): ReadonlyArray<Json> => list(value).filter(isJson)
const isText = (value: unknown): value is string => typeof value === "string"
const object = (value: unknown): Json => isJson(value) ? value : {}

// ---------------------------------------------------------------------------------------------------------------------
// What a caller reads
// ---------------------------------------------------------------------------------------------------------------------

/** An answer as a caller of this dialect reads it. */
const read = (response: Json) => {
  const output = objects(response["output"])
  const parts = output.filter((item) => item["type"] === "message").flatMap((item) => objects(item["content"]))
  const texts = (type: string, key: string) =>
    parts.filter((part) => part["type"] === type).map((part) => part[key]).filter(isText).join("")
  return {
    text: texts("output_text", "text"),
    refusal: texts("refusal", "refusal"),
    reasoning: output.flatMap((item) => objects(item["summary"])).map((part) => part["text"]).filter(isText).join(""),
    calls: output.filter((item) => item["type"] === "function_call").map((item) => ({
      id: item["call_id"],
      name: item["name"],
      arguments: isText(item["arguments"]) ? parsed(item["arguments"]) : undefined
    })),
    status: response["status"],
    reason: object(response["incomplete_details"])["reason"],
    model: response["model"],
    usage: response["usage"]
  }
}

const number = (json: unknown, key: string): number => isJson(json) && typeof json[key] === "number" ? json[key] : 0

const cuts: Readonly<Record<string, string>> = {
  length: "max_output_tokens",
  max_tokens: "max_output_tokens",
  content_filter: "content_filter",
  refusal: "content_filter"
}

/** Total input, cached input, total output and reasoning, as the recorded wire counts them. */
const figures = (recording: Recording, usage: Json): ReadonlyArray<number> => {
  switch (wireOf(recording)) {
    case "openai":
      return [
        number(usage, "prompt_tokens"),
        number(usage["prompt_tokens_details"], "cached_tokens"),
        number(usage, "completion_tokens"),
        number(usage["completion_tokens_details"], "reasoning_tokens")
      ]
    case "anthropic": {
      const cached = number(usage, "cache_read_input_tokens")
      const all = number(usage, "input_tokens") + cached + number(usage, "cache_creation_input_tokens")
      return [all, cached, number(usage, "output_tokens")]
    }
    default:
      return [number(usage, "prompt_eval_count"), 0, number(usage, "eval_count")]
  }
}

const check = (recording: Recording, response: Json): void => {
  const expected = expectedChat(recording)
  const got = read(response)
  assert.strictEqual(got.text, expected.text)
  if (expected.finish === "refusal") assert.isNotEmpty(got.refusal)
  else assert.strictEqual(got.refusal, expected.refusal ?? "")
  assert.strictEqual(got.reasoning, expected.reasoning ?? "")
  assert.deepStrictEqual(
    got.calls.map(({ arguments: input, name }) => ({ name, input })),
    expected.toolCalls.map(({ arguments: input, name }) => ({ name, input }))
  )
  for (const [at, { id }] of expected.toolCalls.entries()) {
    if (id === undefined) assert.isNotEmpty(got.calls[at]?.id)
    else assert.strictEqual(got.calls[at]?.id, id)
  }
  assert.strictEqual(new Set(got.calls.map(({ id }) => id)).size, got.calls.length)
  const cut = cuts[expected.finish ?? ""]
  assert.deepStrictEqual([got.status, got.reason], cut === undefined ? ["completed", undefined] : ["incomplete", cut])
  assert.strictEqual(got.model, expected.model)
  if (expected.usage === undefined) {
    assert.isNull(got.usage, "the provider told no usage, and none is made up in its name")
    return
  }
  const told = object(got.usage)
  const seen = [
    number(told, "input_tokens"),
    number(told["input_tokens_details"], "cached_tokens"),
    number(told, "output_tokens"),
    number(told["output_tokens_details"], "reasoning_tokens")
  ]
  const wanted = figures(recording, expected.usage)
  assert.deepStrictEqual(seen.slice(0, wanted.length), wanted)
  assert.strictEqual(number(told, "total_tokens"), (seen[0] ?? 0) + (seen[2] ?? 0))
}

// ---------------------------------------------------------------------------------------------------------------------
// Recorded conversations as items
// ---------------------------------------------------------------------------------------------------------------------

/** What has no form in items. */
class Untranslatable extends Error {}

const partOf = (part: Json): Json => {
  switch (part["type"]) {
    case "text":
      return { type: "input_text", text: part["text"] }
    case "image_url":
      return {
        type: "input_image",
        ...object(part["image_url"]),
        image_url: object(part["image_url"])["url"],
        url: undefined
      }
    case "file":
      return { type: "input_file", ...object(part["file"]) }
    case "input_audio":
      return part
    default:
      throw new Untranslatable(String(part["type"]))
  }
}

const contentOf = (content: unknown): unknown => isText(content) ? content : objects(content).map(partOf)

const knownKeys = new Set(["role", "content", "tool_calls", "tool_call_id", "refusal"])

const itemsOf = (message: Json): ReadonlyArray<Json> => {
  const { content, role, tool_call_id: callId, tool_calls: calls } = message
  if (Object.entries(message).some(([key, value]) => !knownKeys.has(key) && value !== null)) throw new Untranslatable()
  if (role === "tool") return [{ type: "function_call_output", call_id: callId, output: contentOf(content) }]
  if (role !== "assistant") return [{ role, content: contentOf(content) }]
  return [
    ...(isText(content) && content !== "" ? [{ role, content: [{ type: "output_text", text: content }] }] : []),
    ...objects(calls).map((call) => ({
      type: "function_call",
      call_id: call["id"],
      name: object(call["function"])["name"],
      arguments: object(call["function"])["arguments"]
    }))
  ]
}

const toolsOf = (tools: unknown): unknown =>
  tools === undefined ? undefined : objects(tools).map((tool) => {
    if (tool["type"] !== "function") throw new Untranslatable()
    return Object.assign({ type: "function" }, tool["function"])
  })

/** A message without the differences that say nothing: text alone is a string, and an empty one is none. */
const plainly = (message: Json): Json => {
  const { content, refusal: _refusal, ...others } = message
  const [only, second] = objects(content)
  const text = only !== undefined && second === undefined && only["type"] === "text" ? only["text"] : content
  return { ...others, content: text === "" || text === undefined ? null : text }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tests
// ---------------------------------------------------------------------------------------------------------------------

describe.skipIf(!hasRecordings)("recorded chats as responses", () => {
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

  const ask = async (recording: Recording, script: Script = replay(recording), stream = isStream(recording)) => {
    upstream.reply(script)
    const { model } = object(recording.request.body)
    const response = await gateway.post(path, {
      model: `${wireOf(recording)}::${isText(model) ? model : "model-1"}`,
      input: "Hello",
      stream
    })
    return { status: response.status, text: await response.text() }
  }

  it("are there", () => {
    assert.isAbove(chats.length, 60)
  })

  describe("whole answers", () => {
    for (const recording of chats.filter((chat) => chat.response.status === 200 && !isStream(chat))) {
      it(nameOf(recording), async () => {
        const { status, text } = await ask(recording)
        assert.strictEqual(status, 200, text)
        check(recording, object(parsed(text)))
      })
    }
  })

  describe("streams", () => {
    for (const recording of chats.filter((chat) => isStream(chat) && chat.expect["error"] === undefined)) {
      it(nameOf(recording), async () => {
        const { status, text } = await ask(recording)
        assert.strictEqual(status, 200, text)
        check(recording, object(eventsOf(text).at(-1)?.json["response"]))
      })

      it(`${nameOf(recording)}, cut before its end`, async () => {
        const last = eventsOfRecording(recording).findLastIndex((event) => event.trim() !== "")
        const { status, text } = await ask(recording, withFault(replay(recording), fault.end(last)))
        if (status === 200) {
          const [failed, error] = eventsOf(text).slice(-2)
          assert.strictEqual(failed?.type, "response.failed")
          assert.strictEqual(error?.json["code"], "provider_error")
        } else {
          // Nothing of the answer had come before the cut.
          assert.strictEqual(status, 502, text)
          assert.include(text, "provider_error")
        }
      })
    }
  })

  describe("streams that fail after their status was told", () => {
    for (const recording of chats.filter((chat) => isStream(chat) && chat.expect["error"] !== undefined)) {
      it(nameOf(recording), async () => {
        const { status, text } = await ask(recording)
        assert.strictEqual(status, 200)
        const [failed, error] = eventsOf(text).slice(-2)
        assert.strictEqual(failed?.type, "response.failed")
        assert.strictEqual(error?.json["code"], "provider_error")
        const message = object(recording.expect["error"])["message"]
        assert.include(String(error?.json["message"]), isText(message) ? message : "")
        const deltas = eventsOf(text).filter(({ type }) => type === "response.output_text.delta")
        assert.strictEqual(
          deltas.map(({ json }) => json["delta"]).join(""),
          expectedChat(recording).text,
          "what had come before is kept"
        )
      })
    }
  })

  describe("errors", () => {
    for (const recording of chats.filter((chat) => chat.response.status >= 400)) {
      it.each([false, true])(`${nameOf(recording)} (stream: %s)`, async (stream) => {
        const { status, text } = await ask(recording, replay(recording), stream)
        assert.isAtLeast(status, 400)
        const error = object(object(parsed(text))["error"])
        assert.isNotEmpty(error["message"])
        assert.isString(error["type"])
        assert.isString(error["code"])
        assert.notInclude(text, "<html")
      })
    }
  })

  describe("conversations reach the provider as they were recorded", () => {
    let translated = 0
    for (const recording of chats.filter((chat) => wireOf(chat) === "openai" && chat.response.status === 200)) {
      const body = object(recording.request.body)
      let input: ReadonlyArray<Json>
      let tools: unknown
      try {
        input = objects(body["messages"]).flatMap(itemsOf)
        tools = toolsOf(body["tools"])
      } catch (error) {
        if (!(error instanceof Untranslatable)) throw error
        continue
      }
      translated += 1
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        const response = await gateway.post(path, {
          model: `openai::${String(body["model"])}`,
          input,
          tools,
          stream: isStream(recording)
        })
        const text = await response.text()
        assert.strictEqual(response.status, 200, text)
        const sent = upstream.request(0).json
        assert.deepStrictEqual(
          objects(sent["messages"]).map(plainly),
          objects(body["messages"]).map(plainly)
        )
        if (list(body["tools"]).length > 0) assert.deepStrictEqual(sent["tools"], body["tools"])
      })
    }
    it("are most of them", () => {
      assert.isAbove(translated, 20)
    })
  })
})
