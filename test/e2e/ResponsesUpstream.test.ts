/**
 * OpenAI's Responses API as a provider's own: what it recorded is replayed behind the gateway. Callers of the same protocol
 * get it as it came and send it as they wrote it; callers of every other one get what it says in their own words.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { hash } from "node:crypto"
import OpenAI, { APIError } from "openai"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import {
  eventsOfRecording,
  hasRecordings,
  isStream,
  type Recording,
  recordings,
  replay
} from "../fixtures/Recordings.ts"
import { eventsOf } from "../fixtures/ResponsesEvents.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, json, parsed, raw, type Script, sseEvent, stream } from "../fixtures/Script.ts"

const object = (value: unknown): Json => isJson(value) ? value : {}
const list = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []
const at = (value: unknown, ...path: ReadonlyArray<string | number>): unknown =>
  path.reduce((found, key) => typeof key === "number" ? list(found)[key] : object(found)[key], value)

const textIn = (value: unknown, ...path: ReadonlyArray<string | number>): string => {
  const text = at(value, ...path)
  return typeof text === "string" ? text : ""
}

let upstream: FakeUpstream
let gateway: RunningGateway
beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
defaults: { attempts: 2 }
providers:
  same: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow, responses_api: same_wire }
  all: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow, responses_api: always }
  other: { type: openai, base_url: "${upstream.url}/v1", api_key: other-key, unlisted_models: allow, responses_api: same_wire }
  chat: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
models:
  - { id: "same::thinker", capabilities: [text_input, text_output, reasoning, tools, streaming] }
routes:
  both: { models: ["same::thinker", "other::thinker"] }
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

// ---------------------------------------------------------------------------------------------------------------------
// Recordings
// ---------------------------------------------------------------------------------------------------------------------

const responses = recordings("openai", { path: "/v1/responses" })
const failed = (recording: Recording): boolean => recording.expect["error"] !== undefined
const terminal = /^response\.(?:completed|incomplete|failed)$/

/** The events of a recorded stream up to its first end. */
const eventsIn = (recording: Recording): ReadonlyArray<readonly [type: string, data: string]> => {
  const events: Array<readonly [string, string]> = []
  for (const text of eventsOfRecording(recording)) {
    const lines = text.split(/\r?\n/)
    const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n")
    if (data === "") continue
    const type = String(object(parsed(data))["type"])
    events.push([type, data])
    if (terminal.test(type)) break
  }
  return events
}

/** What a recorded answer says, by its last event or its body. */
const said = (response: unknown) => {
  const output = list(at(response, "output")).map(object)
  const parts = output.filter((item) => item["type"] === "message").flatMap((item) => list(item["content"]).map(object))
  return {
    text: parts.map((part) => textIn(part, "text")).join(""),
    calls: output.filter((item) => item["type"] === "function_call").map((item) => ({
      id: item["call_id"],
      name: item["name"],
      arguments: item["arguments"]
    })),
    summary: output.filter((item) => item["type"] === "reasoning").flatMap((item) =>
      list(item["summary"]).map((part) => String(at(part, "text")))
    ).join("\n\n"),
    usage: object(at(response, "usage")),
    isCut: at(response, "status") === "incomplete",
    id: at(response, "id"),
    model: at(response, "model")
  }
}

const endOf = (recording: Recording): unknown =>
  isStream(recording) ? at(parsed(eventsIn(recording).at(-1)?.[1] ?? ""), "response") : recording.response.body

/** An item as the gateway writes it: a message says that it is one, and a plain text is a string. */
const written = (item: unknown): unknown => {
  const message = object(item)
  if (message["role"] === undefined) {
    const { id: _, status: __, ...others } = message
    return message["type"] === "reasoning" ? message : others
  }
  const { id: _, status: __, content, ...others } = message
  const [only, second] = list(content)
  const isPlain = second === undefined && at(only, "type") === "input_text"
  return { ...others, type: "message", content: isPlain ? at(only, "text") : content }
}

describe.skipIf(!hasRecordings)("recorded answers", () => {
  const good = responses.filter((recording) => recording.response.status === 200 && !failed(recording))

  it("are there", () => {
    assert.isAtLeast(good.length, 12)
  })

  describe("come to callers of the same protocol as they were", () => {
    for (const recording of good) {
      it(recording.name, async () => {
        upstream.reply(replay(recording))
        const body = object(recording.request.body)
        const response = await gateway.post("/v1/responses", {
          ...body,
          model: `same::${String(body["model"])}`,
          stream: isStream(recording)
        })
        const text = await response.text()
        assert.strictEqual(response.status, 200, text)
        if (isStream(recording)) {
          assert.strictEqual(
            text,
            eventsIn(recording).map(([type, data]) => `event: ${type}\ndata: ${data}\n\n`).join("")
          )
        } else assert.deepStrictEqual(parsed(text), recording.response.body)
        const { input, model, store: _, stream: __, tools, ...settings } = body
        const sent = upstream.request(0).json
        assert.strictEqual(upstream.request(0).path, "/v1/responses")
        assert.deepInclude(sent, { model, store: false, stream: isStream(recording) })
        if (list(tools).length > 0) assert.deepStrictEqual(sent["tools"], tools)
        for (const [key, value] of Object.entries(settings)) {
          if (list(value).length > 0 || !Array.isArray(value)) assert.deepStrictEqual(sent[key], value, key)
        }
        assert.deepStrictEqual(
          sent["input"],
          typeof input === "string"
            ? [{ type: "message", role: "user", content: input }]
            : list(input).map(written)
        )
      })
    }
  })

  describe("come to callers of OpenAI's chat and of the native API in their words", () => {
    for (const recording of good) {
      it(recording.name, async () => {
        const expected = said(endOf(recording))
        upstream.reply(replay(recording), replay(recording))
        const streamed = isStream(recording)
        const model = `all::${String(at(recording.request.body, "model"))}`
        const messages = [{ role: "user", content: "Hello" }]
        const native = await gateway.post("/llm-gateway/v1/chat/completions", { model, messages, stream: streamed })
        const nativeText = await native.text()
        assert.strictEqual(native.status, 200, nativeText)
        const finish = expected.isCut ? "length" : expected.calls.length > 0 ? "tool_calls" : "stop"
        const tokens = [expected.usage["input_tokens"], expected.usage["output_tokens"]]
        if (!streamed) {
          const answer = object(parsed(nativeText))
          assert.strictEqual(answer["finish_reason"], finish)
          assert.deepStrictEqual(answer["tool_calls"], expected.calls)
          const parts = list(answer["content"]).map(object)
          const joined = (type: string) =>
            parts.filter((part) => part["type"] === type).map((part) => textIn(part, "text")).join("\n\n")
          assert.strictEqual(joined("text").replaceAll("\n\n", ""), expected.text.replaceAll("\n\n", ""))
          assert.strictEqual(joined("reasoning"), expected.summary)
          assert.strictEqual(
            Number(at(answer, "usage", "input_tokens")) + Number(at(answer, "usage", "cache_read_tokens") ?? 0),
            tokens[0]
          )
        } else assert.include(nativeText, `"finish_reason":"${finish}"`)

        const chat = await gateway.post("/v1/chat/completions", {
          model,
          messages,
          stream: streamed,
          ...(streamed ? { stream_options: { include_usage: true } } : {})
        })
        const text = await chat.text()
        assert.strictEqual(chat.status, 200, text)
        assert.strictEqual(upstream.request(1).path, "/v1/responses")
        if (streamed) {
          const chunks = text.split("\n\n").filter((event) => event.startsWith("data: {")).map((event) =>
            object(parsed(event.slice(6)))
          )
          const deltas = chunks.map((chunk) => object(at(chunk, "choices", 0, "delta")))
          assert.strictEqual(deltas.map((delta) => textIn(delta, "content")).join(""), expected.text)
          assert.strictEqual(
            deltas.map((delta) => textIn(delta, "reasoning_content")).join(""),
            expected.summary
          )
          const calls = deltas.flatMap((delta) => list(delta["tool_calls"]).map(object))
          assert.deepStrictEqual(calls.flatMap((call) => call["id"] ?? []), expected.calls.map(({ id }) => id))
          assert.strictEqual(
            calls.map((call) => textIn(call, "function", "arguments")).join(""),
            expected.calls.map((call) => call.arguments).join("")
          )
          assert.strictEqual(chunks.flatMap((chunk) => at(chunk, "choices", 0, "finish_reason") ?? []).at(-1), finish)
          const usage = chunks.map((chunk) => chunk["usage"]).find(isJson)
          assert.deepStrictEqual([usage?.["prompt_tokens"], usage?.["completion_tokens"]], tokens)
        } else {
          const answer = parsed(text)
          assert.strictEqual(at(answer, "choices", 0, "message", "content") ?? "", expected.text)
          assert.strictEqual(at(answer, "choices", 0, "finish_reason"), finish)
          assert.deepStrictEqual(
            [at(answer, "usage", "prompt_tokens"), at(answer, "usage", "completion_tokens")],
            tokens
          )
        }
      })
    }
  })

  describe("cut before their end are failures", () => {
    for (const recording of good.filter(isStream)) {
      it(recording.name, async () => {
        const events = eventsOfRecording(recording)
        const last = events.findIndex((event) => /"type": ?"response\.(?:completed|incomplete)"/.test(event))
        assert.isAbove(last, 0)
        const cut = withFault(replay(recording), fault.end(last))
        upstream.reply(cut, cut)
        const response = await gateway.post("/v1/responses", { model: "same::m", input: "Hello", stream: true })
        const text = await response.text()
        if (response.status !== 200) return assert.strictEqual(response.status, 502, text)
        assert.notMatch(text, /event: response\.(?:completed|incomplete)/)
        assert.match(text, /event: response\.failed[^]+event: error[^]+provider_error/)
      })
    }
  })

  describe("that failed are failures", () => {
    for (const recording of responses.filter(failed)) {
      it(recording.name, async () => {
        upstream.always(replay(recording))
        const streamed = isStream(recording)
        const response = await gateway.post("/v1/responses", { model: "same::m", input: "Hello", stream: streamed })
        const text = await response.text()
        assert.isAtLeast(response.status, 400, text)
        const message = String(
          at(recording.expect, "error", "message") ?? at(recording.expect, "error", "error", "message")
        )
        assert.include(String(at(parsed(text), "error", "message")), message.slice(0, 40))
      })
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// What only this protocol has
// ---------------------------------------------------------------------------------------------------------------------

const answer = (output: ReadonlyArray<unknown>, more: Json = {}): Json => ({
  id: "resp_1",
  object: "response",
  created_at: 7,
  status: "completed",
  error: null,
  incomplete_details: null,
  model: "m",
  output,
  usage: { input_tokens: 3, input_tokens_details: { cached_tokens: 1 }, output_tokens: 2, total_tokens: 5 },
  ...more
})
const message = (text: string): Json => ({
  id: "msg_1",
  type: "message",
  status: "completed",
  role: "assistant",
  content: [{ type: "output_text", text, annotations: [], logprobs: [] }]
})
const reply = (body: Json): Script => json(body)

const streamOf = (text: ReadonlyArray<string>): Script => {
  const whole = message(text.join(""))
  const where = { item_id: "msg_1", output_index: 0, content_index: 0 }
  return stream(
    "sse",
    [
      { type: "response.created", response: { ...answer([]), status: "in_progress", usage: null } },
      { type: "response.output_item.added", output_index: 0, item: { ...whole, content: [] } },
      { type: "response.content_part.added", ...where, part: { type: "output_text", text: "", annotations: [] } },
      ...text.map((delta) => ({ type: "response.output_text.delta", ...where, delta, logprobs: [] })),
      { type: "response.output_text.done", ...where, text: text.join(""), logprobs: [] },
      { type: "response.content_part.done", ...where, part: list(whole["content"])[0] },
      { type: "response.output_item.done", output_index: 0, item: whole },
      { type: "response.completed", response: answer([whole]) }
    ].map((event, index) => sseEvent({ ...event, sequence_number: index }, event.type))
  )
}

const client = () => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "k", maxRetries: 0 })

describe("a caller of the same protocol", () => {
  it("has OpenAI's own tools, and gets back what they did", async () => {
    const call = { id: "ws_1", type: "web_search_call", status: "completed", action: { type: "search", query: "q" } }
    const custom = { id: "ctc_1", type: "custom_tool_call", call_id: "c1", name: "run", input: "ls" }
    upstream.reply(reply(answer([call, custom, message("found")])), reply(answer([message("done")])))
    const tools: Array<OpenAI.Responses.Tool> = [{ type: "web_search" }, { type: "custom", name: "run" }]
    const first = await client().responses.create({
      model: "same::m",
      input: "Look",
      tools,
      tool_choice: { type: "web_search_preview" },
      include: ["web_search_call.action.sources"]
    })
    assert.deepStrictEqual(first.output.map(({ type }) => type), ["web_search_call", "custom_tool_call", "message"])
    assert.deepInclude(upstream.request(0).json, {
      tools,
      tool_choice: { type: "web_search_preview" },
      include: ["web_search_call.action.sources"]
    })
    await gateway.post("/v1/responses", {
      model: "same::m",
      tools,
      input: [
        { role: "user", content: "Look" },
        ...first.output,
        { type: "custom_tool_call_output", call_id: "c1", output: "a.txt" }
      ]
    })
    assert.deepStrictEqual(
      list(upstream.request(1).json["input"]).slice(1).map((item) => at(item, "type")),
      ["web_search_call", "custom_tool_call", "message", "custom_tool_call_output"]
    )
  })

  it("gets encrypted thinking, which goes back to its provider and to no other", async () => {
    const thought = { id: "rs_1", type: "reasoning", summary: [], encrypted_content: "gAAAAABsecret" }
    const script = reply(answer([thought, message("42")]))
    upstream.reply(script)
    const first = await client().responses.create({ model: "same::thinker", input: "Think" })
    assert.deepInclude(upstream.request(0).json, { include: ["reasoning.encrypted_content"], store: false })
    const input = [
      { role: "user", content: "Think" },
      ...first.output,
      { role: "user", content: "More" }
    ]
    upstream.always(json({ error: { message: "busy", type: "server_error" } }, { status: 503 }))
    const response = await gateway.post("/v1/responses", { model: "both", input })
    assert.strictEqual(response.status, 503, await response.text())
    for (const request of upstream.requests.slice(1)) {
      assert.strictEqual(request.headers["authorization"], "Bearer upstream-key")
      assert.deepInclude(list(request.json["input"])[1], { type: "reasoning", encrypted_content: "gAAAAABsecret" })
    }
    assert.include(response.headers.get("x-gateway-attempts") ?? "", "other::thinker")

    upstream.reset()
    upstream.reply(json({
      id: "c",
      object: "chat.completion",
      model: "m",
      choices: [{ index: 0, message: { role: "assistant", content: "ok" }, finish_reason: "stop" }]
    }))
    const elsewhere = await gateway.post("/v1/responses", { model: "chat::m", input })
    assert.strictEqual(elsewhere.status, 200)
    assert.include(elsewhere.headers.get("x-gateway-dropped-params") ?? "", "reasoning")
    assert.notInclude(JSON.stringify(upstream.request(0).json), "gAAAAABsecret")
  })

  it("reads an answer that an interceptor changed, whole and streamed, and nothing of what it was", async () => {
    const changing = await startGateway(`
providers:
  same: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow, responses_api: same_wire }
interceptors:
  hide: { type: pii, redact: [email], on: [response] }
`)
    try {
      upstream.reply(reply(answer([message("write to a@example.org now")])))
      const whole = await (await changing.post("/v1/responses", { model: "same::m", input: "Hi" })).text()
      assert.notInclude(whole, "a@example.org")
      assert.include(whole, "write to ")
      upstream.reply(streamOf(["write to a@exam", "ple.org", " now"]))
      const text = await (await changing.post("/v1/responses", { model: "same::m", input: "Hi", stream: true })).text()
      assert.notInclude(text, "example.org")
      assert.strictEqual(eventsOf(text).at(-1)?.type, "response.completed")
    } finally {
      await changing.close()
    }
  })

  it("has its answers kept by OpenAI, for its tenant alone", async () => {
    const keyed = await startGateway(`
auth:
  mode: keys
  keys:
    - { id: a, sha256: ${hash("sha256", "key-a", "hex")}, tenant: a }
    - { id: b, sha256: ${hash("sha256", "key-b", "hex")}, tenant: b }
    - { id: c, sha256: ${hash("sha256", "key-c", "hex")}, tenant: c }
tenants: { a: {}, b: {}, c: { budgets: [{ per: tenant, usd: 1, window: day }] } }
providers:
  same: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow, responses_api: same_wire }
  none: { type: openai, base_url: "${upstream.url}/v1", unlisted_models: allow, responses_api: same_wire }
models:
  - { id: "same::m", context_window: 400000, prices: { input_mtok: 3, output_mtok: 3 } }
`)
    const as = (key: string) => new OpenAI({ baseURL: `${keyed.url}/v1`, apiKey: key, maxRetries: 0 }).responses
    const kept = { store: true, previous_response_id: null }
    try {
      upstream.reply(
        reply(answer([message("one")], kept)),
        reply(answer([message("two")], { ...kept, id: "resp_2", previous_response_id: "resp_1" })),
        streamOf(["three"])
      )
      const first = await as("key-a").create({ model: "same::m", input: "1", store: true })
      assert.match(first.id, /^resp_1\.[\w-]{27}$/)
      assert.isTrue(upstream.request(0).json["store"])
      const second = await as("key-a").create({
        model: "same::m",
        input: "2",
        store: true,
        previous_response_id: first.id
      })
      assert.strictEqual(upstream.request(1).json["previous_response_id"], "resp_1")
      assert.strictEqual(second.previous_response_id, first.id)
      assert.match(second.id, /^resp_2\./)
      const third = await as("key-a").stream({ model: "same::m", input: "3", previous_response_id: second.id })
        .finalResponse()
      assert.strictEqual(third.output_text, "three")
      assert.strictEqual(upstream.request(2).json["previous_response_id"], "resp_2")
      assert.strictEqual(third.previous_response_id, second.id)

      const refused = (asked: Promise<unknown>) =>
        asked.then(
          () => assert.fail("it was taken"),
          (error: unknown) => error instanceof APIError ? error : assert.fail(String(error))
        )
      const ask = (key: string, id: string) =>
        refused(as(key).create({ model: "same::m", input: "2", max_output_tokens: 10, previous_response_id: id }))
      for (const id of [first.id, "resp_1", `${first.id}x`, "resp_1.", "."]) {
        const error = await ask("key-b", id)
        assert.deepInclude(error, { status: 400, param: "previous_response_id" })
      }
      // A budget has to reach for as long a conversation as the model takes: 400,000 tokens are 1.20 USD.
      assert.strictEqual((await ask("key-c", first.id)).status, 402)
      const keyless = await refused(as("key-a").create({ model: "none::m", input: "1", store: true }))
      assert.deepInclude(keyless, { status: 400, param: "store" })
      assert.lengthOf(upstream.requests, 3)
    } finally {
      await keyed.close()
    }
  })

  it("streams with OpenAI's SDK to the end", async () => {
    upstream.reply(streamOf(["Hel", "lo"]))
    const streamed = client().responses.stream({ model: "same::m", input: "Hi" })
    assert.strictEqual((await streamed.finalResponse()).output_text, "Hello")
  })

  it("is told by name what a provider of another protocol cannot do", async () => {
    const response = await gateway.post("/v1/responses", {
      model: "chat::m",
      input: "Look",
      tools: [{ type: "web_search" }]
    })
    assert.strictEqual(response.status, 400)
    assert.match(await response.text(), /web_search.*openai-responses/)
    assert.lengthOf(upstream.requests, 0)
  })
})

describe("a caller of OpenAI's chat, at a provider of this protocol", () => {
  it("has its tools, pictures, schema and limits written in the other form", async () => {
    upstream.reply(reply(answer([{
      id: "fc_1",
      type: "function_call",
      status: "completed",
      call_id: "call_1",
      name: "get",
      arguments: "{\"a\":1}"
    }])))
    const completion = await client().chat.completions.create({
      model: "all::thinker",
      messages: [
        { role: "system", content: "Be brief" },
        {
          role: "user",
          content: [{ type: "text", text: "See" }, { type: "image_url", image_url: { url: "https://x.org/a.png" } }]
        },
        {
          role: "assistant",
          content: null,
          tool_calls: [{ id: "call_0", type: "function", function: { name: "get", arguments: "{}" } }]
        },
        { role: "tool", tool_call_id: "call_0", content: "none" }
      ],
      tools: [{ type: "function", function: { name: "get", parameters: { type: "object" } } }],
      tool_choice: { type: "function", function: { name: "get" } },
      response_format: { type: "json_schema", json_schema: { name: "s", schema: { type: "object" }, strict: true } },
      max_completion_tokens: 100,
      reasoning_effort: "low",
      prompt_cache_key: "k",
      seed: 1
    })
    assert.deepInclude(at(completion, "choices", 0, "message", "tool_calls", 0), {
      id: "call_1",
      function: { name: "get", arguments: "{\"a\":1}" }
    })
    assert.strictEqual(completion.choices[0]?.finish_reason, "tool_calls")
    assert.strictEqual(completion.usage?.prompt_tokens_details?.cached_tokens, 1)
    const { input, ...sent } = upstream.request(0).json
    assert.deepStrictEqual(input, [
      { type: "message", role: "system", content: "Be brief" },
      {
        type: "message",
        role: "user",
        content: [{ type: "input_text", text: "See" }, { type: "input_image", image_url: "https://x.org/a.png" }]
      },
      { type: "function_call", call_id: "call_0", name: "get", arguments: "{}" },
      { type: "function_call_output", call_id: "call_0", output: "none" }
    ])
    assert.deepInclude(sent, {
      tools: [{ type: "function", name: "get", parameters: { type: "object" }, strict: false }],
      tool_choice: { type: "function", name: "get" },
      text: { format: { type: "json_schema", name: "s", schema: { type: "object" }, strict: true } },
      max_output_tokens: 100,
      reasoning: { effort: "low" },
      prompt_cache_key: "k",
      store: false
    })
  })

  it("brings encrypted thinking back in OpenRouter's form", async () => {
    const thought = {
      id: "rs_1",
      type: "reasoning",
      summary: [{ type: "summary_text", text: "hm" }],
      encrypted_content: "gA"
    }
    upstream.reply(reply(answer([thought, message("42")])), reply(answer([message("43")])))
    const first = await gateway.post("/v1/chat/completions", {
      model: "all::m",
      messages: [{ role: "user", content: "Think" }]
    })
    const said = object(at(parsed(await first.text()), "choices", 0, "message"))
    assert.strictEqual(said["reasoning_content"], "hm")
    await gateway.post("/v1/chat/completions", {
      model: "all::m",
      messages: [{ role: "user", content: "Think" }, said, { role: "user", content: "More" }]
    })
    assert.deepInclude(list(upstream.request(1).json["input"])[1], { type: "reasoning", encrypted_content: "gA" })
  })

  it.each([
    ["stop", { stop: ["a"] }],
    ["n", { n: 2 }]
  ])("is refused %s, which the protocol cannot say", async (field, more) => {
    const response = await gateway.post("/v1/chat/completions", {
      model: "all::m",
      messages: [{ role: "user", content: "Hi" }],
      ...more
    })
    assert.strictEqual(response.status, 400)
    assert.strictEqual(at(parsed(await response.text()), "error", "param"), field)
    assert.lengthOf(upstream.requests, 0)
  })

  it("gets an error for an answer that is none", async () => {
    upstream.always(
      raw(200, { "content-type": "application/json" }, "{\"object\":\"response\",\"status\":\"in_progress\"}")
    )
    const response = await gateway.post("/v1/chat/completions", {
      model: "all::m",
      messages: [{ role: "user", content: "Hi" }]
    })
    assert.strictEqual(response.status, 502)
  })
})
