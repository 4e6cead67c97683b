/**
 * The conformance table: each scenario is defined once, and each provider says for every one of them whether it supports
 * it, or why not. The types leave no way to skip one silently. Requests go through the real service over HTTP, in the
 * OpenAI dialect; behind it stand fake upstreams that speak the provider's own wire.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import OpenAI, { APIError } from "openai"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import type { Script } from "../fixtures/Script.ts"

/** What the fake upstream is to say; each provider's wire says it in its own way. */
interface Saying {
  readonly text?: ReadonlyArray<string>
  readonly reasoning?: ReadonlyArray<string>
  readonly toolCalls?: ReadonlyArray<
    { readonly id: string; readonly name: string; readonly input: Record<string, unknown> }
  >
  readonly cutByLength?: boolean
}

/** How a provider under test is made to behave. Each method prepares the next answer and gives the prompt to send. */
interface ProviderUnderTest {
  /** The configuration of the provider, under the slug `it`. */
  readonly configuration: (url: string) => string
  readonly model: string
  readonly say: (upstream: FakeUpstream, saying: Saying) => string
  readonly fail: (upstream: FakeUpstream, failure: Failure) => string
  /** A streamed "One two three" that goes wrong after its first word. */
  readonly breakOff: (upstream: FakeUpstream, how: "cut" | "end" | "malformed" | "error") => string
  /** A streamed answer whose connection stays open and silent after its first word. */
  readonly stall: (upstream: FakeUpstream) => string
}

type Failure = "overloaded" | "rate limited" | "bad key" | "bad request"

const tool = {
  type: "function" as const,
  function: {
    name: "get_weather",
    description: "Tells the weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
  }
}

const words = ["One ", "two ", "three"]
const prompt = "Say something."

/** A provider behind a fake upstream: `answers` speaks its wire, `lead` counts the events before its first word is over. */
const overHttp = (
  type: string,
  path: string,
  answers: (saying: Saying) => Script,
  failures: Readonly<Record<Failure, Script>>,
  lead: number
): ProviderUnderTest => ({
  configuration: (url) => `{ type: ${type}, base_url: "${url}${path}", api_key: secret, unlisted_models: allow }`,
  model: "it::model-1",
  say: (upstream, saying) => {
    upstream.reply(answers(saying))
    return prompt
  },
  fail: (upstream, failure) => {
    upstream.reply(failures[failure])
    return prompt
  },
  breakOff: (upstream, how) => {
    const faults = {
      cut: fault.cut(lead),
      end: fault.end(lead),
      malformed: fault.malformed(lead),
      error: fault.errorAfter(lead)
    }
    upstream.reply(withFault(answers({ text: words }), faults[how]))
    return prompt
  },
  stall: (upstream) => {
    upstream.reply(withFault(answers({ text: words }), fault.stall(lead)))
    return prompt
  }
})

const retryAfter = { "retry-after": "7" }

const providers = {
  openai: overHttp("openai", "/v1", (saying) =>
    openAi.answer({
      ...(saying.text === undefined ? {} : { text: saying.text }),
      ...(saying.reasoning === undefined ? {} : { reasoning: saying.reasoning }),
      ...(saying.toolCalls === undefined
        ? {}
        : {
          toolCalls: saying.toolCalls.map(({ id, input, name }) => ({ id, name, arguments: JSON.stringify(input) }))
        }),
      ...(saying.cutByLength === true ? { finishReason: "length" } : {}),
      usage: { prompt_tokens: 9, completion_tokens: 12 }
    }), {
    overloaded: openAi.error(503),
    "rate limited": openAi.error(429, {}, retryAfter),
    "bad key": openAi.error(401),
    "bad request": openAi.error(400)
  }, 2),
  anthropic: overHttp("anthropic", "", (saying) =>
    anthropic.answer({
      ...(saying.text === undefined ? {} : { text: saying.text }),
      ...(saying.reasoning === undefined ? {} : { thinking: saying.reasoning, signature: "c2ln" }),
      ...(saying.toolCalls === undefined ? {} : { toolCalls: saying.toolCalls }),
      ...(saying.cutByLength === true ? { stopReason: "max_tokens" } : {}),
      usage: { input_tokens: 9, output_tokens: 12 }
    }), {
    overloaded: anthropic.error(529),
    "rate limited": anthropic.error(429, {}, retryAfter),
    "bad key": anthropic.error(401),
    "bad request": anthropic.error(400)
  }, 4),
  ollama: overHttp("ollama", "", (saying) =>
    ollama.answer({
      ...(saying.text === undefined ? {} : { text: saying.text }),
      ...(saying.reasoning === undefined ? {} : { thinking: saying.reasoning }),
      ...(saying.toolCalls === undefined
        ? {}
        : { toolCalls: saying.toolCalls.map(({ id, input, name }) => ({ id, name, arguments: input })) }),
      ...(saying.cutByLength === true ? { doneReason: "length" } : {}),
      usage: { prompt_eval_count: 9, eval_count: 12 }
    }), {
    overloaded: ollama.error(503),
    "rate limited": ollama.error(429, "slow down", retryAfter),
    "bad key": ollama.error(401),
    "bad request": ollama.error(400)
  }, 1),
  sandbox: {
    configuration: () => "{ type: sandbox }",
    model: "it::echo",
    say: (_, saying) =>
      [
        ...(saying.reasoning === undefined ? [] : [`[[reason ${saying.reasoning.join("")}]]`]),
        ...(saying.toolCalls ?? []).map(({ input, name }) => `[[tool ${name} ${JSON.stringify(input)}]]`),
        ...(saying.cutByLength === true ? ["[[finish length]]"] : []),
        (saying.text ?? []).join("")
      ].join(" "),
    fail: (_, failure) =>
      `[[fail ${{ overloaded: 503, "rate limited": 429, "bad key": 401, "bad request": 400 }[failure]}]]`,
    breakOff: () => "[[cut 1]] One two three",
    stall: () => "[[stall 1]] One two three"
  }
} satisfies Record<string, ProviderUnderTest>

type ProviderName = keyof typeof providers

interface Setting {
  readonly client: OpenAI
  readonly gateway: RunningGateway
  readonly upstream: FakeUpstream
  readonly provider: ProviderUnderTest
}

const ask = (provider: ProviderUnderTest, content: string) => ({
  model: provider.model,
  messages: [{ role: "user" as const, content }]
})

const errorOf = async (promise: Promise<unknown>) => {
  const error = await promise.then(() => undefined, (error: unknown) => error)
  if (!(error instanceof APIError)) return assert.fail(`expected an API error, got ${String(error)}`)
  return error
}

/** Reads a raw stream, and gives its events and whether it ended in the success marker. */
const readStream = async (response: Response) => {
  const text = await response.text()
  const data = text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6))
  return {
    done: data.includes("[DONE]"),
    events: data.filter((line) => line !== "[DONE]").map((line): Record<string, unknown> => JSON.parse(line))
  }
}

const breaksOff = (how: "cut" | "end" | "malformed" | "error") => async ({ gateway, provider, upstream }: Setting) => {
  const content = provider.breakOff(upstream, how)
  const response = await gateway.post("/v1/chat/completions", { ...ask(provider, content), stream: true })
  assert.strictEqual(response.status, 200)
  const { done, events } = await readStream(response)
  const last = events.at(-1)
  assert.isDefined(last?.["error"], "the stream ends in an explicit error")
  assert.isFalse(done, "and without the success marker")
  assert.isFalse(JSON.stringify(events).includes("\"finish_reason\":\"stop\""), "and without a finish reason")
}

/** What every provider has to do, each with its own test. */
const scenarios = {
  "answers in text": async ({ client, provider, upstream }: Setting) => {
    const content = provider.say(upstream, { text: words })
    const completion = await client.chat.completions.create(ask(provider, content))
    assert.strictEqual(completion.choices[0]?.message.content, "One two three")
    assert.strictEqual(completion.choices[0]?.finish_reason, "stop")
    assert.isAbove(completion.usage?.prompt_tokens ?? 0, 0)
  },
  "streams text": async ({ client, provider, upstream }: Setting) => {
    const content = provider.say(upstream, { text: words })
    const stream = await client.chat.completions.create({ ...ask(provider, content), stream: true })
    let text = ""
    let finish: string | null = null
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ""
      finish = chunk.choices[0]?.finish_reason ?? finish
      assert.isTrue(chunk.usage === undefined || chunk.usage === null, "no usage was asked for")
    }
    assert.strictEqual(text, "One two three")
    assert.strictEqual(finish, "stop")
  },
  "tells the same usage streamed as whole": async ({ client, provider, upstream }: Setting) => {
    const whole = await client.chat.completions.create(ask(provider, provider.say(upstream, { text: words })))
    const stream = await client.chat.completions.create({
      ...ask(provider, provider.say(upstream, { text: words })),
      stream: true,
      stream_options: { include_usage: true }
    })
    let usage: OpenAI.CompletionUsage | null | undefined
    for await (const chunk of stream) usage = chunk.usage ?? usage
    assert.isDefined(usage)
    assert.strictEqual(usage?.prompt_tokens, whole.usage?.prompt_tokens)
    assert.strictEqual(usage?.completion_tokens, whole.usage?.completion_tokens)
    assert.strictEqual(usage?.total_tokens, whole.usage?.total_tokens)
  },
  "calls tools in parallel": async ({ client, provider, upstream }: Setting) => {
    const toolCalls = [
      { id: "call_a", name: "get_weather", input: { city: "Paris" } },
      { id: "call_b", name: "get_weather", input: { city: "Oslo" } }
    ]
    const content = provider.say(upstream, { toolCalls })
    const completion = await client.chat.completions.create({ ...ask(provider, content), tools: [tool] })
    const choice = completion.choices[0]
    assert.strictEqual(choice?.finish_reason, "tool_calls")
    const calls = (choice?.message.tool_calls ?? []).flatMap((call) => call.type === "function" ? [call.function] : [])
    assert.deepStrictEqual(calls.map(({ arguments: json }): unknown => JSON.parse(json)), [{ city: "Paris" }, {
      city: "Oslo"
    }])
    assert.strictEqual(new Set(choice?.message.tool_calls?.map((call) => call.id)).size, 2)
  },
  "streams tool calls with their own indexes": async ({ client, provider, upstream }: Setting) => {
    const toolCalls = [
      { id: "call_a", name: "get_weather", input: { city: "Paris" } },
      { id: "call_b", name: "get_weather", input: {} }
    ]
    const content = provider.say(upstream, { toolCalls })
    const stream = await client.chat.completions.create({ ...ask(provider, content), tools: [tool], stream: true })
    const calls = new Map<number, { id: string; name: string; arguments: string }>()
    let finish: string | null = null
    for await (const chunk of stream) {
      for (const delta of chunk.choices[0]?.delta.tool_calls ?? []) {
        const call = calls.get(delta.index) ?? { id: "", name: "", arguments: "" }
        call.id += delta.id ?? ""
        call.name += delta.function?.name ?? ""
        call.arguments += delta.function?.arguments ?? ""
        calls.set(delta.index, call)
      }
      finish = chunk.choices[0]?.finish_reason ?? finish
    }
    assert.deepStrictEqual([...calls.keys()], [0, 1])
    assert.deepStrictEqual([...calls.values()].map((call): unknown => JSON.parse(call.arguments)), [
      { city: "Paris" },
      {}
    ])
    assert.strictEqual(finish, "tool_calls")
  },
  "takes a tool's result": async ({ client, provider, upstream }: Setting) => {
    provider.say(upstream, { text: ["It is sunny."] })
    const completion = await client.chat.completions.create({
      model: provider.model,
      tools: [tool],
      messages: [
        { role: "user", content: "How is the weather in Paris?" },
        {
          role: "assistant",
          content: null,
          tool_calls: [{
            id: "call_a",
            type: "function",
            function: { name: "get_weather", arguments: "{\"city\":\"Paris\"}" }
          }]
        },
        { role: "tool", tool_call_id: "call_a", content: "sunny" }
      ]
    })
    assert.include(completion.choices[0]?.message.content ?? "", "sunny")
  },
  "shows its reasoning apart from its text": async ({ gateway, provider, upstream }: Setting) => {
    const content = provider.say(upstream, { reasoning: ["Let me ", "think."], text: words })
    const response = await gateway.post("/v1/chat/completions", ask(provider, content))
    const body = JSON.parse(await response.text())
    assert.strictEqual(body.choices[0].message.content.trim(), "One two three")
    assert.strictEqual(body.choices[0].message.reasoning_content, "Let me think.")
  },
  "says when the answer was cut by its length": async ({ client, provider, upstream }: Setting) => {
    const content = provider.say(upstream, { text: words, cutByLength: true })
    const completion = await client.chat.completions.create({ ...ask(provider, content), max_tokens: 5 })
    assert.strictEqual(completion.choices[0]?.finish_reason, "length")
  },
  "answers JSON that fits a schema": async ({ client, provider, upstream }: Setting) => {
    provider.say(upstream, { text: ["{\"city\":", "\"Paris\"}"] })
    const completion = await client.chat.completions.create({
      ...ask(provider, "Where?"),
      response_format: {
        type: "json_schema",
        json_schema: {
          name: "place",
          schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
        }
      }
    })
    assert.isString(JSON.parse(completion.choices[0]?.message.content ?? "").city)
  },
  "refuses an answer that does not fit the schema": async ({ gateway, provider, upstream }: Setting) => {
    const response = await gateway.post("/v1/chat/completions", {
      ...ask(provider, provider.say(upstream, { text: ["{\"town\": 1}"] })),
      response_format: {
        type: "json_schema",
        json_schema: { name: "place", schema: { type: "object", required: ["city"] } }
      }
    })
    assert.strictEqual(response.status, 400)
    const body = JSON.parse(await response.text())
    assert.strictEqual(body.error.code, "validation_error")
    assert.include(body.error.message, "city")
  },
  "an overloaded provider is 503": async ({ client, provider, upstream }: Setting) => {
    const error = await errorOf(client.chat.completions.create(ask(provider, provider.fail(upstream, "overloaded"))))
    assert.strictEqual(error.status, 503)
  },
  "a provider's rate limit is 429 with its retry-after": async ({ client, provider, upstream }: Setting) => {
    const error = await errorOf(client.chat.completions.create(ask(provider, provider.fail(upstream, "rate limited"))))
    assert.strictEqual(error.status, 429)
    assert.match(error.headers?.get("retry-after") ?? "", /^[0-9]+$/)
  },
  "a bad upstream key is the gateway's fault": async ({ client, provider, upstream }: Setting) => {
    const error = await errorOf(client.chat.completions.create(ask(provider, provider.fail(upstream, "bad key"))))
    assert.strictEqual(error.status, 502)
    assert.strictEqual(error.code, "provider_error")
  },
  "a request that the provider refuses is the caller's": async ({ client, provider, upstream }: Setting) => {
    const error = await errorOf(client.chat.completions.create(ask(provider, provider.fail(upstream, "bad request"))))
    assert.strictEqual(error.status, 400)
  },
  "a connection lost mid-stream ends in an explicit error": breaksOff("cut"),
  "a stream without its terminal marker ends in an explicit error": breaksOff("end"),
  "a malformed event ends in an explicit error": breaksOff("malformed"),
  "an in-band error after 200 ends in an explicit error": breaksOff("error"),
  "a stream that goes silent times out in the idle phase": async ({ gateway, provider, upstream }: Setting) => {
    const response = await gateway.post(
      "/v1/chat/completions",
      { ...ask(provider, provider.stall(upstream)), stream: true },
      { "x-gateway-timeout-idle": "150ms" }
    )
    const { done, events } = await readStream(response)
    assert.strictEqual(response.status, 200)
    assert.isFalse(done)
    const error = events.at(-1)?.["error"]
    assert.include(JSON.stringify(error), "provider_timeout")
    assert.include(JSON.stringify(error), "idle")
  },
  "the upstream is left as soon as the caller leaves mid-stream": async ({ gateway, provider, upstream }: Setting) => {
    const before = upstream.requests.length
    const content = provider.stall(upstream)
    const controller = new AbortController()
    const response = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...ask(provider, content), stream: true }),
      signal: controller.signal
    })
    const reader = response.body?.getReader()
    await reader?.read()
    const left = performance.now()
    controller.abort()
    await reader?.read().catch(() => undefined)
    const closed = await upstream.waitForClose(before, 1000)
    assert.isTrue(closed.aborted)
    assert.isBelow((closed.closedAt ?? Infinity) - left, 100)
  }
}

type Scenario = keyof typeof scenarios

/** Whether a provider supports a scenario, or why it does not. */
type Support = true | { readonly unsupported: string }

const all = (except: Partial<Record<Scenario, Support>> = {}): Record<Scenario, Support> => ({
  "answers in text": true,
  "streams text": true,
  "tells the same usage streamed as whole": true,
  "calls tools in parallel": true,
  "streams tool calls with their own indexes": true,
  "takes a tool's result": true,
  "shows its reasoning apart from its text": true,
  "says when the answer was cut by its length": true,
  "answers JSON that fits a schema": true,
  "refuses an answer that does not fit the schema": true,
  "an overloaded provider is 503": true,
  "a provider's rate limit is 429 with its retry-after": true,
  "a bad upstream key is the gateway's fault": true,
  "a request that the provider refuses is the caller's": true,
  "a connection lost mid-stream ends in an explicit error": true,
  "a stream without its terminal marker ends in an explicit error": true,
  "a malformed event ends in an explicit error": true,
  "an in-band error after 200 ends in an explicit error": true,
  "a stream that goes silent times out in the idle phase": true,
  "the upstream is left as soon as the caller leaves mid-stream": true,
  ...except
})

const offline = { unsupported: "the sandbox has no connection that could do this" }

const table: Readonly<Record<ProviderName, Record<Scenario, Support>>> = {
  openai: all(),
  anthropic: all(),
  ollama: all(),
  sandbox: all({
    "refuses an answer that does not fit the schema": { unsupported: "the sandbox always answers what fits" },
    "a stream without its terminal marker ends in an explicit error": offline,
    "a malformed event ends in an explicit error": offline,
    "an in-band error after 200 ends in an explicit error": offline,
    "the upstream is left as soon as the caller leaves mid-stream": offline
  })
}

const isScenario = (name: string): name is Scenario => Object.hasOwn(scenarios, name)
const isProvider = (name: string): name is ProviderName => Object.hasOwn(providers, name)

describe.each(Object.keys(providers).filter(isProvider))("%s", (name) => {
  const provider: ProviderUnderTest = providers[name]
  let setting: Setting
  beforeAll(async () => {
    const upstream = await startFakeUpstream()
    // One attempt: what a provider does is looked at here, not what the gateway makes of it.
    const gateway = await startGateway(
      `defaults: { attempts: 1 }\nproviders:\n  it: ${provider.configuration(upstream.url)}\n`
    )
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 })
    setting = { client, gateway, upstream, provider }
  })
  afterAll(async () => {
    await setting.gateway.close()
    await setting.upstream.close()
  })

  for (const scenario of Object.keys(scenarios).filter(isScenario)) {
    const support = table[name][scenario]
    if (support === true) it(scenario, () => scenarios[scenario](setting))
    else it.skip(`${scenario} (${support.unsupported})`, () => undefined)
  }
})
