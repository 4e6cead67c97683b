/**
 * The OpenAI dialect as it stands on the wire: status, every header, and the bytes of streams. SDKs are forgiving about
 * these; proxies, hand-written clients and other languages' SDKs are not.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { type Fault, fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { eventsOf, isJson, type Json, json, type Script } from "../fixtures/Script.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Setting
// ---------------------------------------------------------------------------------------------------------------------

const path = "/v1/chat/completions"

let upstream: FakeUpstream
let gateway: RunningGateway

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
server: { max_body: 100KB }
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
models:
  - id: openai::priced
    prices: { input_mtok: 3, output_mtok: 15, cache_read_mtok: 0.3 }
  - id: anthropic::priced
    prices: { input_mtok: 3, output_mtok: 15, cache_read_mtok: 0.3, cache_write_mtok: 3.75, cache_write_1h_mtok: 6 }
  - id: ollama::priced
    prices: { input_mtok: 0.1, output_mtok: 0.000001 }
`)
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

const ask = (model: string, extra: Json = {}): Json => ({
  model,
  messages: [{ role: "user", content: "Hi" }],
  ...extra
})

const bodyOf = async (response: Response): Promise<Json> => {
  const value: unknown = JSON.parse(await response.text())
  return isJson(value) ? value : assert.fail("the body is no JSON object")
}

const at = (value: unknown, ...keys: ReadonlyArray<string | number>): unknown => {
  let found = value
  for (const key of keys) {
    if (typeof key === "number") found = Array.isArray(found) ? found.at(key) : undefined
    else found = isJson(found) ? found[key] : undefined
  }
  return found
}

/** The providers, and how each says "One two three" from nine tokens in twelve. */
const says: Readonly<Record<string, { readonly model: string; readonly script: Script; readonly lead: number }>> = {
  openai: { model: "openai::model-1", script: openAi.answer({ text: "One two three" }), lead: 2 },
  anthropic: {
    model: "anthropic::claude-sonnet-4-5",
    script: anthropic.answer({ text: "One two three", usage: { input_tokens: 9, output_tokens: 12 } }),
    lead: 4
  },
  ollama: {
    model: "ollama::llama3.2:3b",
    script: ollama.answer({ text: "One two three", usage: { prompt_eval_count: 9, eval_count: 12 } }),
    lead: 1
  }
}

/** The JSON events of a stream; fails where its text is anything but `data:` lines each with a blank line after it. */
const eventsIn = (text: string): ReadonlyArray<Json> => {
  assert.match(text, /^(?:data: [^\r\n]+\n\n)+$/)
  const events: Array<Json> = []
  for (const line of text.split("\n\n")) {
    const data = line.slice("data: ".length)
    if (line === "" || data === "[DONE]") continue
    const value: unknown = JSON.parse(data)
    events.push(isJson(value) ? value : assert.fail(`no object: ${data}`))
  }
  return events
}

/** Headers that belong to the connection, and may come or not. */
const ofTheConnection = new Set(["connection", "content-length", "date", "keep-alive", "transfer-encoding"])

const namesOf = (response: Response): ReadonlyArray<string> =>
  [...response.headers.keys()].filter((name) => !ofTheConnection.has(name)).sort()

// ---------------------------------------------------------------------------------------------------------------------
// Headers
// ---------------------------------------------------------------------------------------------------------------------

/** What upstreams send beside the answer, and no caller shall see. */
const chatter = {
  "openai-organization": "org-secret",
  "openai-processing-ms": "42",
  "openai-version": "2020-10-01",
  "set-cookie": "__cf_bm=secret; path=/",
  "x-request-id": "req_of_the_upstream",
  "request-id": "req_of_the_upstream",
  "x-ratelimit-limit-requests": "10000",
  "x-ratelimit-remaining-tokens": "1",
  "anthropic-ratelimit-tokens-remaining": "1",
  "anthropic-organization-id": "secret",
  "cf-ray": "abc-FRA",
  server: "cloudflare",
  via: "1.1 somewhere",
  "access-control-allow-origin": "*",
  "strict-transport-security": "max-age=1",
  "x-should-retry": "true"
}

const withHeaders = (script: Script, headers: Readonly<Record<string, string>>): Script => (request) => {
  const answer = typeof script === "function" ? script(request) : script
  return { ...answer, headers: { ...answer.headers, ...headers } }
}

const told = [
  "x-gateway-attempts",
  "x-gateway-fallback-used",
  "x-gateway-model",
  "x-gateway-overhead-ms",
  "x-gateway-provider",
  "x-request-id"
]

describe.each(Object.entries(says))("headers, %s", (slug, { model, script }) => {
  const check = (response: Response) => {
    assert.strictEqual(response.headers.get("x-gateway-model"), model)
    assert.strictEqual(response.headers.get("x-gateway-provider"), slug)
    assert.match(response.headers.get("x-gateway-attempts") ?? "", new RegExp(`^${model};(?:ok|quota);\\d+ms$`))
    assert.strictEqual(response.headers.get("x-gateway-fallback-used"), "false")
    assert.match(response.headers.get("x-gateway-overhead-ms") ?? "", /^\d+\.\d\d$/)
    assert.match(response.headers.get("x-request-id") ?? "", /^req_[0-9a-f]{32}$/)
  }

  it("a whole answer tells what the gateway did, and nothing else", async () => {
    upstream.reply(withHeaders(script, chatter))
    const response = await gateway.post(path, ask(model))
    assert.strictEqual(response.status, 200)
    assert.deepStrictEqual(namesOf(response), ["content-type", ...told])
    assert.strictEqual(response.headers.get("content-type"), "application/json")
    check(response)
    await response.text()
  })

  it("a stream does so, and is kept from being buffered or cached", async () => {
    upstream.reply(withHeaders(script, chatter))
    const response = await gateway.post(path, ask(model, { stream: true }))
    assert.strictEqual(response.status, 200)
    assert.deepStrictEqual(namesOf(response), ["cache-control", "content-type", "x-accel-buffering", ...told].sort())
    assert.strictEqual(response.headers.get("content-type"), "text/event-stream")
    assert.strictEqual(response.headers.get("cache-control"), "no-cache")
    assert.strictEqual(response.headers.get("x-accel-buffering"), "no")
    check(response)
    await response.text()
  })

  it.each([false, true])("a failed answer hands on nothing of the upstream's (stream: %s)", async (stream) => {
    const errors: Readonly<Record<string, Script>> = {
      openai: openAi.error(429),
      anthropic: anthropic.error(429),
      ollama: ollama.error(429)
    }
    upstream.reply(withHeaders(errors[slug] ?? script, { ...chatter, "retry-after": "7" }))
    const response = await gateway.post(path, ask(model, { stream }))
    assert.strictEqual(response.status, 429)
    assert.strictEqual(response.headers.get("content-type"), "application/json")
    assert.strictEqual(response.headers.get("retry-after"), "7")
    assert.deepStrictEqual(namesOf(response), ["content-type", "retry-after", "x-should-retry", ...told].sort())
    check(response)
    const body = await bodyOf(response)
    assert.deepStrictEqual(Object.keys(body), ["error"])
    assert.deepStrictEqual(Object.keys(isJson(body["error"]) ? body["error"] : {}).sort(), [
      "code",
      "message",
      "param",
      "type"
    ])
    assert.notInclude(JSON.stringify(body), "req_of_the_upstream")
  })
})

describe("headers of errors that no provider was asked for", () => {
  const fails = async (body: unknown, status: number, code: string) => {
    const response = await gateway.post(path, body)
    assert.strictEqual(response.status, status)
    assert.strictEqual(response.headers.get("content-type"), "application/json")
    assert.match(response.headers.get("x-request-id") ?? "", /^req_[0-9a-f]{32}$/)
    const error = at(await bodyOf(response), "error")
    assert.strictEqual(at(error, "code"), code)
    assert.lengthOf(upstream.requests, 0)
    return { error, response }
  }

  it("a body that is no JSON", async () => {
    const { error } = await fails("{\"model\": \"sk-secret", 400, "validation_error")
    assert.notInclude(JSON.stringify(error), "sk-secret", "the text is not repeated")
  })
  it("a body that is no object", () => fails("[1]", 400, "validation_error"))
  it("an empty body", () => fails("", 400, "validation_error"))
  it("a body beyond the limit", async () => {
    const { error } = await fails(ask("openai::model-1", { user: "x".repeat(150_000) }), 413, "payload_too_large")
    assert.include(String(at(error, "message")), "100000")
  })
  it("a field of the wrong type, by its path", async () => {
    const body = ask("openai::model-1", { messages: [{ role: "user", content: [{ type: "text", text: 7 }] }] })
    const { error } = await fails(body, 400, "validation_error")
    assert.strictEqual(at(error, "param"), "messages[0].content[0].text")
    assert.strictEqual(at(error, "type"), "invalid_request_error")
  })
  it("a stream that is refused before it begins is an ordinary error", async () => {
    const { response } = await fails(ask("nowhere::model-1", { stream: true }), 404, "model_not_found")
    assert.isNull(response.headers.get("x-gateway-provider"))
  })
  it("a time-out that cannot be read, by its header", async () => {
    const response = await gateway.post(path, ask("openai::model-1"), { "x-gateway-timeout-idle": "soon" })
    assert.strictEqual(response.status, 400)
    assert.strictEqual(at(await bodyOf(response), "error", "param"), "x-gateway-timeout-idle")
  })
  it("the wrong method", async () => {
    const response = await fetch(gateway.url + path)
    assert.strictEqual(response.status, 405)
    assert.strictEqual(response.headers.get("allow"), "POST")
    assert.strictEqual(at(await bodyOf(response), "error", "code"), "method_not_allowed")
  })
})

describe("x-request-id", () => {
  const { model, script } = says["openai"] ?? assert.fail("openai")
  const idFor = async (given: string, body: Json = ask(model)) => {
    upstream.reply(script)
    const response = await gateway.post(path, body, { "x-request-id": given })
    await response.text()
    return response.headers.get("x-request-id") ?? ""
  }

  it("is taken over from the caller where it is sane", async () => {
    for (const id of ["abc-123", "a", "trace:1.2_3-4", "x".repeat(128)]) {
      assert.strictEqual(await idFor(id), id)
      assert.strictEqual(await idFor(id, ask(model, { stream: true })), id)
      assert.strictEqual(await idFor(id, ask("nowhere::model")), id)
    }
  })
  it("is replaced where it is not", async () => {
    for (const id of ["with space", "x".repeat(129), "semi;colon", "<script>", "caf\u00e9", "a,b"]) {
      assert.match(await idFor(id), /^req_[0-9a-f]{32}$/)
    }
  })
  it("differs from request to request", async () => {
    assert.notStrictEqual(await idFor(""), await idFor(""))
  })
  it("is not the caller's where it goes to a provider", async () => {
    await idFor("abc-123")
    assert.isUndefined(upstream.request(0).headers["x-request-id"])
  })
})

describe("what the upstream is sent", () => {
  it("holds no header of the caller's", async () => {
    for (const { model, script } of Object.values(says)) {
      upstream.reset()
      upstream.reply(script)
      const response = await gateway.post(path, ask(model), {
        authorization: "Bearer callers-key",
        "x-api-key": "callers-key",
        cookie: "session=callers",
        "openai-organization": "callers-org",
        "anthropic-beta": "callers-beta",
        "x-forwarded-for": "10.0.0.1",
        "x-gateway-tags": "callers-tag"
      })
      await response.text()
      const sent = upstream.request(0).headers
      assert.notInclude(JSON.stringify(sent), "callers")
      assert.isUndefined(sent["x-forwarded-for"])
      assert.strictEqual(sent["content-type"], "application/json")
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// The bytes of a stream
// ---------------------------------------------------------------------------------------------------------------------

describe("the bytes of a stream", () => {
  const text = "Grüße, 日本 and 😀\u2028 done"
  const answer = openAi.answer({ text, toolCalls: [{ name: "f", arguments: "{\"a\":\"ü\"}" }] })

  /** What the fake upstream sends to the gateway for this request, with `usage` as the caller asked for it. */
  const expected = (usage: boolean): string =>
    eventsOf(answer, { model: "model-1", stream: true, stream_options: { include_usage: usage } }).join("")

  it("are those of an OpenAI upstream, if usage was asked for", async () => {
    upstream.reply(answer)
    const response = await gateway.post(
      path,
      ask("openai::model-1", { stream: true, stream_options: { include_usage: true } })
    )
    assert.strictEqual(await response.text(), expected(true))
  })

  it("are those of an OpenAI upstream without its usage, if usage was not asked for", async () => {
    for (const extra of [{}, { stream_options: { include_usage: false } }, { stream_options: null }]) {
      upstream.reset()
      upstream.reply(answer)
      const response = await gateway.post(path, ask("openai::model-1", { stream: true, ...extra }))
      const got = await response.text()
      assert.strictEqual(got, expected(false))
      assert.notInclude(got, "usage")
      assert.strictEqual(at(upstream.request(0).json, "stream_options", "include_usage"), true, "the gateway counts")
    }
  })

  it("lose usage also where an upstream puts it into the finish chunk", async () => {
    upstream.reply(openAi.stream({ text: "Hi", usageIn: "finish-chunk" }))
    const response = await gateway.post(path, ask("openai::model-1", { stream: true }))
    const got = await response.text()
    assert.notInclude(got, "usage")
    assert.isTrue(got.endsWith("data: [DONE]\n\n"))
    assert.strictEqual(at(eventsIn(got).at(-1), "choices", 0, "finish_reason"), "stop")
  })

  const harmless: ReadonlyArray<readonly [string, ReadonlyArray<Fault>]> = [
    ["byte by byte", [fault.split(1)]],
    ["in packets of seven bytes", [fault.split(7)]],
    ["in one packet", [fault.coalesce]],
    ["with CRLF", [fault.crlf]],
    ["with lone CR, split", [fault.cr, fault.split(3)]],
    ["with comments between", [fault.comments]],
    ["with a byte-order mark", [fault.bom]],
    ["without the last blank line", [fault.noTrailing]]
  ]
  it.each(harmless)("are the same when the upstream's come %s", async (_, faults) => {
    upstream.reply(withFault(answer, ...faults))
    const response = await gateway.post(path, ask("openai::model-1", { stream: true }))
    assert.strictEqual(await response.text(), expected(false))
  })

  describe.each(Object.entries(says))("%s", (slug, { lead, model, script }) => {
    const id = slug === "openai" ? "chatcmpl-fake" : slug === "anthropic" ? "msg_fake" : undefined

    it("one role chunk, the words, one finish, [DONE]", async () => {
      upstream.reply(script)
      const response = await gateway.post(path, ask(model, { stream: true }))
      const got = await response.text()
      const events = eventsIn(got)
      assert.isTrue(got.endsWith("}\n\ndata: [DONE]\n\n"))
      assert.strictEqual(got.split("[DONE]").length, 2, "the marker comes once")
      assert.isTrue(events.every((event) => !("usage" in event)))
      for (const event of events) {
        assert.strictEqual(event["object"], "chat.completion.chunk")
        assert.strictEqual(event["model"], model.slice(slug.length + 2))
        assert.strictEqual(event["id"], id ?? events[0]?.["id"])
        assert.isNumber(event["created"])
        assert.strictEqual(at(event, "choices", 0, "index"), 0)
      }
      const deltas = events.map((event) => at(event, "choices", 0, "delta"))
      assert.strictEqual(at(deltas[0], "role"), "assistant")
      assert.strictEqual(at(deltas[0], "content"), "")
      assert.deepStrictEqual(deltas.slice(1), [{ content: "One" }, { content: " two" }, { content: " three" }, {}])
      assert.deepStrictEqual(
        events.map((event) => at(event, "choices", 0, "finish_reason")),
        [null, null, null, null, "stop"]
      )
    })

    it("usage comes null in every chunk, and last in a chunk without choices", async () => {
      upstream.reply(script)
      const response = await gateway.post(
        path,
        ask(model, { stream: true, stream_options: { include_usage: true } })
      )
      const events = eventsIn(await response.text())
      const last = events.at(-1)
      assert.isTrue(events.slice(0, -1).every((event) => event["usage"] === null))
      assert.deepStrictEqual(last?.["choices"], [])
      assert.deepStrictEqual(last?.["usage"], {
        prompt_tokens: 9,
        completion_tokens: 12,
        total_tokens: 21,
        prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
      })
    })

    it("each word is passed on when it comes, not when the next one does", async () => {
      const rest = Promise.withResolvers<void>()
      upstream.reply(withFault(script, fault.hold(lead, rest.promise)))
      const response = await gateway.post(path, ask(model, { stream: true }))
      const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
      let got = ""
      while (!got.includes("\"One\"")) got += (await reader?.read())?.value ?? assert.fail("the stream ended")
      assert.notInclude(got, "two")
      rest.resolve()
      for (;;) {
        const next = await reader?.read()
        if (next?.value === undefined) break
        got += next.value
      }
      assert.isTrue(got.endsWith("data: [DONE]\n\n"))
    })

    it("a failure after the first word is an event of its own, and the last", async () => {
      upstream.reply(withFault(script, fault.errorAfter(lead)))
      const response = await gateway.post(path, ask(model, { stream: true }))
      assert.strictEqual(response.status, 200)
      const got = await response.text()
      const events = eventsIn(got)
      assert.notInclude(got, "[DONE]")
      assert.deepStrictEqual(Object.keys(events.at(-1) ?? {}), ["error"])
      const error = at(events.at(-1), "error")
      assert.strictEqual(at(error, "code"), "provider_error")
      assert.strictEqual(at(error, "type"), "server_error")
      assert.isNull(at(error, "param"))
      assert.isNotEmpty(at(error, "message"))
      assert.isTrue(events.slice(0, -1).every((event) => at(event, "choices", 0, "finish_reason") === null))
    })

    it("a failure before the first word is an ordinary error", async () => {
      upstream.reply(withFault(script, fault.end(lead - 1)))
      const response = await gateway.post(path, ask(model, { stream: true }))
      assert.strictEqual(response.status, 502)
      assert.strictEqual(response.headers.get("content-type"), "application/json")
      assert.strictEqual(at(await bodyOf(response), "error", "code"), "provider_error")
    })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Parameters that a provider does not get
// ---------------------------------------------------------------------------------------------------------------------

describe("x-gateway-dropped-params", () => {
  const { model, script } = says["anthropic"] ?? assert.fail("anthropic")

  it.each([false, true])("names what Anthropic has no form for (stream: %s)", async (stream) => {
    upstream.reply(script)
    const response = await gateway.post(path, ask(model, { stream, seed: 7, logit_bias: { "50256": -100 } }))
    await response.text()
    assert.strictEqual(response.status, 200)
    const dropped = response.headers.get("x-gateway-dropped-params")?.split(", ").sort()
    assert.deepStrictEqual(dropped, ["logit_bias", "seed"])
    const sent = upstream.request(0).json
    assert.isUndefined(sent["seed"])
    assert.isUndefined(sent["logit_bias"])
  })

  it("names what Ollama has no form for, and sends what it has", async () => {
    upstream.reply(says["ollama"]?.script ?? script)
    const response = await gateway.post(
      path,
      ask("ollama::llama3.2:3b", { seed: 7, logit_bias: { "50256": -100 }, temperature: 0.5, max_tokens: 5 })
    )
    await response.text()
    assert.strictEqual(response.headers.get("x-gateway-dropped-params"), "logit_bias")
    assert.deepInclude(at(upstream.request(0).json, "options"), { seed: 7, temperature: 0.5, num_predict: 5 })
  })

  it("is not there where nothing was dropped", async () => {
    upstream.reply(says["openai"]?.script ?? script)
    const response = await gateway.post(path, ask("openai::model-1", { seed: 7, logit_bias: { "50256": -100 } }))
    await response.text()
    assert.isNull(response.headers.get("x-gateway-dropped-params"))
    assert.deepInclude(upstream.request(0).json, { seed: 7, logit_bias: { "50256": -100 } })
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Usage and cost
// ---------------------------------------------------------------------------------------------------------------------

describe("usage and cost", () => {
  const cases: ReadonlyArray<{
    readonly name: string
    readonly model: string
    readonly script: Script
    readonly cost: string
    readonly usage: Json
  }> = [
    {
      // 1000 * 3 + 2000 * 0.3 + 500 * 15 = 11,100 millionths of a dollar.
      name: "OpenAI counts cached tokens within the prompt; they cost their own price, once",
      model: "openai::priced",
      script: openAi.answer({
        text: "a",
        usage: {
          prompt_tokens: 3000,
          completion_tokens: 500,
          prompt_tokens_details: { cached_tokens: 2000, audio_tokens: 0 },
          completion_tokens_details: { reasoning_tokens: 100, audio_tokens: 0 }
        }
      }),
      cost: "0.0111",
      usage: {
        prompt_tokens: 3000,
        completion_tokens: 500,
        total_tokens: 3500,
        prompt_tokens_details: { cached_tokens: 2000, audio_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 100, audio_tokens: 0 }
      }
    },
    {
      // 1000 * 3 + 2000 * 0.3 + 400 * 3.75 + 500 * 15 = 12,600 millionths.
      name: "Anthropic counts cached tokens beside the input; the prompt holds them all",
      model: "anthropic::priced",
      script: anthropic.answer({
        text: "a",
        usage: {
          input_tokens: 1000,
          cache_read_input_tokens: 2000,
          cache_creation_input_tokens: 400,
          output_tokens: 500
        }
      }),
      cost: "0.0126",
      usage: {
        prompt_tokens: 3400,
        completion_tokens: 500,
        total_tokens: 3900,
        prompt_tokens_details: { cached_tokens: 2000, cache_write_tokens: 400, audio_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
      }
    },
    {
      // 10 * 3 + 100 * 3.75 + 300 * 6 + 1 * 15 = 2,220 millionths.
      name: "Anthropic's writes for an hour cost their own price",
      model: "anthropic::priced",
      script: anthropic.answer({
        text: "a",
        usage: {
          input_tokens: 10,
          cache_creation_input_tokens: 400,
          cache_creation: { ephemeral_5m_input_tokens: 100, ephemeral_1h_input_tokens: 300 },
          output_tokens: 1
        }
      }),
      cost: "0.00222",
      usage: {
        prompt_tokens: 410,
        completion_tokens: 1,
        total_tokens: 411,
        prompt_tokens_details: { cached_tokens: 0, cache_write_tokens: 400, audio_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
      }
    },
    {
      // 11 * 0.1 millionths; the output's 18 millionths of a millionth are less than half a billionth.
      name: "small amounts are told without an exponent",
      model: "ollama::priced",
      script: ollama.answer({ text: "a", usage: { prompt_eval_count: 11, eval_count: 18 } }),
      cost: "0.0000011",
      usage: {
        prompt_tokens: 11,
        completion_tokens: 18,
        total_tokens: 29,
        prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
      }
    }
  ]

  it.each(cases)("$name", async ({ cost, model, script, usage }) => {
    upstream.reply(script, script)
    const whole = await gateway.post(path, ask(model))
    assert.strictEqual(whole.headers.get("x-gateway-cost"), cost)
    assert.deepStrictEqual((await bodyOf(whole))["usage"], usage)
    const streamed = await gateway.post(path, ask(model, { stream: true, stream_options: { include_usage: true } }))
    assert.isNull(streamed.headers.get("x-gateway-cost"), "it is not known when a stream begins")
    assert.deepStrictEqual(eventsIn(await streamed.text()).at(-1)?.["usage"], usage)
  })

  it("there is no cost where no price is known", async () => {
    upstream.reply(openAi.answer({ text: "a" }))
    const response = await gateway.post(path, ask("openai::model-1"))
    await response.text()
    assert.isNull(response.headers.get("x-gateway-cost"))
  })

  it("an older Anthropic stream that tells the input only at its start counts as much", async () => {
    upstream.reply(
      anthropic.stream({
        text: "a",
        usage: { input_tokens: 1000, cache_read_input_tokens: 2000, output_tokens: 500 },
        deltaUsage: { output_tokens: 500 }
      })
    )
    const response = await gateway.post(
      path,
      ask("anthropic::priced", { stream: true, stream_options: { include_usage: true } })
    )
    assert.deepInclude(eventsIn(await response.text()).at(-1)?.["usage"], {
      prompt_tokens: 3000,
      completion_tokens: 500,
      total_tokens: 3500
    })
  })

  it("an upstream that tells no usage is estimated, and the body stays what it said", async () => {
    const said = {
      id: "x",
      object: "chat.completion",
      created: 1,
      model: "priced",
      choices: [{
        index: 0,
        message: { role: "assistant", content: "one two three four" },
        finish_reason: "stop"
      }]
    }
    upstream.reply(json(said))
    const response = await gateway.post(path, ask("openai::priced"))
    assert.match(response.headers.get("x-gateway-cost") ?? "", /^0\.0*[1-9]\d*$/)
    assert.deepStrictEqual(await bodyOf(response), said)
  })
})
