/**
 * Every recorded chat, re-served through the Anthropic dialect. Those of Anthropic itself come out byte for byte, whole and
 * streamed, and their requests arrive as they were recorded, but for what is documented; those of the other providers are
 * read by Anthropic's SDK, and must tell what an independent reader of the recording found.
 */
import Anthropic from "@anthropic-ai/sdk"
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import {
  eventsOfRecording,
  type ExpectedChat,
  expectedChat,
  hasRecordings,
  isStream,
  type Recording,
  recordings,
  replay,
  wireOf
} from "../fixtures/Recordings.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed, type Wire } from "../fixtures/Script.ts"
import { at, list } from "../fixtures/Speakers.ts"

const path = "/v1/messages"
const chatPaths: Readonly<Record<Wire, string>> = {
  openai: "/v1/chat/completions",
  anthropic: path,
  ollama: "/api/chat"
}

const isChat = (recording: Recording): boolean =>
  recording.request.method === "POST" && recording.request.path.split("?", 1)[0] === chatPaths[wireOf(recording)]

const chats = (["openai", "anthropic", "ollama"] as const).flatMap((provider) => recordings(provider)).filter(isChat)
const own = chats.filter((recording) => wireOf(recording) === "anthropic")
const others = chats.filter((recording) => wireOf(recording) !== "anthropic" && recording.response.status === 200)

const nameOf = (recording: Recording): string => `${recording.provider}/${recording.name}`

const modelOf = (recording: Recording): string => {
  const model = recording.request.body?.["model"]
  return `${wireOf(recording)}::${typeof model === "string" ? model : "model-1"}`
}

/** The events of a stream as they stand in it, pings apart: the gateway sends its own. */
const events = (text: string): ReadonlyArray<string> =>
  text.split(/\r?\n\r?\n/).map((event) => event.trim()).filter((event) =>
    event !== "" && !event.startsWith("event: ping")
  )

const blocks = (content: unknown): unknown => typeof content === "string" ? [{ type: "text", text: content }] : content

/** What docs/API.md says that the gateway changes in a request to Anthropic. */
const documented = (body: Json): Json =>
  Object.fromEntries(
    Object.entries(body).flatMap(([key, value]): ReadonlyArray<readonly [string, unknown]> => {
      // Texts are sent as blocks, and `-1`, which some clients send for "unset", is left out.
      if (value === -1 || (key === "stream" && value === false)) return []
      if (key === "system") return [[key, blocks(value)]]
      if (key === "metadata") {
        const user = at(value, "user_id")
        return [[key, typeof user === "string" ? { user_id: createHash("sha256").update(user).digest("hex") } : value]]
      }
      if (key !== "messages") return [[key, value]]
      return [[
        key,
        list(value).map((message) => ({ role: at(message, "role"), content: blocks(at(message, "content")) }))
      ]]
    })
  )

describe.skipIf(!hasRecordings)("recorded chats", () => {
  let upstream: FakeUpstream
  let gateway: RunningGateway
  let client: Anthropic
  beforeAll(async () => {
    upstream = await startFakeUpstream()
    gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
`)
    client = new Anthropic({ baseURL: gateway.url, apiKey: "any", maxRetries: 0 })
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
    assert.isAbove(own.length, 30)
    assert.isAbove(others.length, 30)
  })

  /** Sends the recorded request as it was recorded, but for the model's provider. */
  const send = (recording: Recording): Promise<Response> => {
    const { body = {}, headers } = recording.request
    const kept = ["anthropic-version", "anthropic-beta"].flatMap((name) => {
      const value = headers[name]
      return value === undefined ? [] : [[name, value] as const]
    })
    return gateway.post(path, { ...body, model: modelOf(recording) }, Object.fromEntries(kept))
  }

  const checkSent = ({ request }: Recording): void => {
    assert.lengthOf(upstream.requests, 1)
    const sent = upstream.request(0)
    assert.deepStrictEqual(sent.json, documented(request.body ?? {}))
    for (const name of ["anthropic-version", "anthropic-beta"]) {
      const given = request.headers[name]
      if (given !== undefined) assert.strictEqual(sent.headers[name], given.replaceAll(" ", ""))
    }
  }

  describe("of Anthropic, whole", () => {
    for (const recording of own.filter((chat) => chat.response.status === 200 && !isStream(chat))) {
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        const response = await send(recording)
        const { body, text } = recording.response
        assert.strictEqual(await response.text(), text ?? JSON.stringify(body), "byte for byte")
        assert.strictEqual(response.status, 200)
        assert.isNull(response.headers.get("x-gateway-dropped-params"))
        checkSent(recording)
      })
    }
  })

  describe("of Anthropic, streamed", () => {
    for (const recording of own.filter((chat) => isStream(chat) && chat.expect["error"] === undefined)) {
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        const response = await send(recording)
        const text = await response.text()
        assert.strictEqual(response.status, 200, text)
        assert.deepStrictEqual(events(text), events(eventsOfRecording(recording).join("")), "byte for byte")
        assert.isNull(response.headers.get("x-gateway-dropped-params"))
        checkSent(recording)
      })

      it(`${nameOf(recording)}, cut before its end`, async () => {
        const last = eventsOfRecording(recording).findLastIndex((event) => event.trim() !== "")
        upstream.reply(withFault(replay(recording), fault.end(last)))
        const response = await send(recording)
        const text = await response.text()
        assert.notInclude(text, "event: message_stop")
        if (response.status === 200) {
          assert.match(events(text).at(-1) ?? "", /^event: error\ndata: \{"type":"error","error":\{"type":"api_error"/)
        } else assert.strictEqual(at(parsed(text), "error", "type"), "api_error")
      })
    }
  })

  describe("of Anthropic, failed", () => {
    /** The caller's status for the upstream's. */
    const statuses: Readonly<Record<number, number>> = { 500: 502, 529: 529 }

    for (const recording of own.filter((chat) => chat.response.status >= 400)) {
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        const response = await send(recording)
        assert.strictEqual(response.status, statuses[recording.response.status])
        const body = parsed(await response.text())
        const told = at(recording.expect, "error", "error")
        assert.deepStrictEqual(at(body, "error"), { type: at(told, "type"), message: at(told, "message") })
        assert.strictEqual(at(body, "request_id"), response.headers.get("request-id"))
      })
    }

    for (const recording of own.filter((chat) => isStream(chat) && chat.expect["error"] !== undefined)) {
      it(`${nameOf(recording)}, after its first words`, async () => {
        upstream.reply(replay(recording))
        const response = await send(recording)
        const got = events(await response.text())
        const recorded = events(eventsOfRecording(recording).join(""))
        assert.deepStrictEqual(got.slice(0, -1), recorded.slice(0, -1), "what had come before is kept")
        const error = parsed((got.at(-1) ?? "").replace(/^event: error\ndata: /, ""))
        const told = recording.expect["error"]
        assert.deepStrictEqual(at(error, "error"), { type: at(told, "type"), message: at(told, "message") })
      })
    }
  })

  // -------------------------------------------------------------------------------------------------------------------
  // Other providers
  // -------------------------------------------------------------------------------------------------------------------

  const stops: Readonly<Record<string, string>> = {
    stop: "end_turn",
    length: "max_tokens",
    tool_calls: "tool_use",
    content_filter: "refusal"
  }

  const number = (json: Json | undefined, key: string): number => {
    const value = json?.[key]
    return typeof value === "number" ? value : 0
  }

  const usageOf = (recording: Recording, { usage }: ExpectedChat): Json => {
    if (wireOf(recording) === "ollama") {
      return { input_tokens: number(usage, "prompt_eval_count"), output_tokens: number(usage, "eval_count") }
    }
    const details = usage?.["prompt_tokens_details"]
    const prompt = isJson(details) ? details : undefined
    const read = number(prompt, "cached_tokens")
    return {
      input_tokens: number(usage, "prompt_tokens") - read - number(prompt, "cache_write_tokens"),
      cache_read_input_tokens: read,
      output_tokens: number(usage, "completion_tokens")
    }
  }

  const joined = (message: Anthropic.Message, type: "text" | "thinking"): string =>
    message.content.map((block) =>
      block.type === "text" && type === "text"
        ? block.text
        : block.type === "thinking" && type === "thinking"
        ? block.thinking
        : ""
    ).join("")

  const check = (recording: Recording, message: Anthropic.Message): void => {
    const expected = expectedChat(recording)
    assert.strictEqual(joined(message, "text"), expected.text)
    assert.strictEqual(joined(message, "thinking"), expected.reasoning ?? "")
    const calls = message.content.flatMap((block) => block.type === "tool_use" ? [block] : [])
    assert.deepStrictEqual(
      calls.map(({ input, name }) => [name, input]),
      expected.toolCalls.map((call) => [
        call.name,
        // Cut off by length. A stream hands the text on as it is, and the SDK makes of it what it can.
        isJson(call.arguments) ? call.arguments : isStream(recording) ? {} : { _raw: call.arguments }
      ])
    )
    assert.strictEqual(new Set(calls.map(({ id }) => id)).size, calls.length)
    const stop = stops[expected.finish ?? ""] ?? expected.finish
    const refused = expected.refusal !== undefined && expected.refusal !== ""
    assert.strictEqual(
      message.stop_reason,
      expected.toolCalls.length > 0 && stop === "end_turn" ? "tool_use" : refused ? "refusal" : stop
    )
    assert.strictEqual(message.model, expected.model)
    if (expected.usage !== undefined) assert.deepInclude(message.usage, usageOf(recording, expected))
    else assert.isAbove(message.usage.input_tokens, 0, "an estimate")
  }

  const ask = (recording: Recording) => ({
    model: modelOf(recording),
    max_tokens: 1000,
    messages: [{ role: "user" as const, content: "Hello" }]
  })

  describe("of other providers", () => {
    for (const recording of others.filter((chat) => chat.expect["error"] === undefined)) {
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        check(
          recording,
          isStream(recording)
            ? await client.messages.stream(ask(recording)).finalMessage()
            : await client.messages.create(ask(recording))
        )
      })
    }
  })
})
