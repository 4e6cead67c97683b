/**
 * Resilience over real connections: upstreams that fail in every way there is, through every provider wire, whole and
 * streamed, with a healthy upstream behind them. Until the first content the fallback answers; from then on the stream
 * ends in an explicit error and nothing is asked again. Every upstream's connection is closed in the end.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Net from "node:net"
import OpenAI, { APIError } from "openai"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { type Fault, fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { endlessHeaders, type RawServer, selfSigned } from "../fixtures/RawServer.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { answerOf, isJson, type Json, parsed, type Script } from "../fixtures/Script.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The setting
// ---------------------------------------------------------------------------------------------------------------------

interface Wire {
  readonly type: string
  readonly path: string
  readonly answer: (text: ReadonlyArray<string>) => Script
  readonly error: (status: number, headers?: Readonly<Record<string, string>>) => Script
  /** Events of a stream before its first word is over. */
  readonly lead: number
}

const wires = {
  openai: {
    type: "openai",
    path: "/v1",
    answer: (text) => openAi.answer({ text }),
    error: (status, headers) => openAi.error(status, {}, headers),
    lead: 2
  },
  anthropic: {
    type: "anthropic",
    path: "",
    answer: (text) => anthropic.answer({ text }),
    error: (status, headers) => anthropic.error(status, {}, headers),
    lead: 4
  },
  ollama: {
    type: "ollama",
    path: "",
    answer: (text) => ollama.answer({ text }),
    error: (status, headers) => ollama.error(status, "it failed", headers),
    lead: 1
  }
} satisfies Record<string, Wire>

const wireNames = ["openai", "anthropic", "ollama"] as const
type WireName = typeof wireNames[number]

const words = ["One ", "two ", "three"]
const healthy = "The backup answers."

interface Setting {
  readonly gateway: RunningGateway
  /** The upstream of `it`, which speaks the wire under test. */
  readonly sick: FakeUpstream
  /** The upstream of `backup`, which speaks OpenAI's wire and is well. */
  readonly backup: FakeUpstream
  readonly wire: Wire
}

/** Runs a test with two upstreams and a gateway of its own, so that no breaker remembers another test. */
const within = async (
  name: WireName,
  test: (setting: Setting) => Promise<void>,
  more = "",
  { address = (url: string) => url, attempts = 4, timeouts = "total: 10s" } = {}
): Promise<void> => {
  const wire: Wire = wires[name]
  const [sick, backup] = await Promise.all([startFakeUpstream(), startFakeUpstream()])
  backup.always(openAi.answer({ text: [healthy] }))
  const gateway = await startGateway(`
providers:
  it: { type: ${wire.type}, base_url: "${address(sick.url)}${wire.path}", api_key: secret, unlisted_models: allow }
  backup: { type: openai, base_url: "${backup.url}/v1", api_key: secret, unlisted_models: allow }
  sandbox: { type: sandbox }
defaults:
  attempts: ${attempts}
  retry: { base: 5ms, max: 100ms }
  timeouts: { connect: 300ms, first_token: 300ms, idle: 300ms, ${timeouts} }
${more}`)
  try {
    await test({ gateway, sick, backup, wire })
    await gateway.close()
    await Promise.all([sick.waitForSockets(0, 1_000), backup.waitForSockets(0, 1_000)])
  } finally {
    await gateway.close()
    await Promise.all([sick.close(), backup.close()])
  }
}

const path = "/v1/chat/completions"
const ask = (more: Json = {}): Json => ({
  model: "it::m:1b",
  messages: [{ role: "user", content: "Say something." }],
  ...more
})
const withFallback = { "x-gateway-fallback": "backup::m" }

/** What came of a request in OpenAI's dialect, whole or streamed. */
const read = async (response: Response) => {
  const body = await response.text()
  const lines = body.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6))
  const values = (lines.length === 0 ? [body] : lines.filter((line) => line !== "[DONE]")).map(parsed).filter(isJson)
  let text = ""
  let finished = false
  for (const value of values) {
    const [choice] = Array.isArray(value["choices"]) ? value["choices"].filter(isJson) : []
    const message = choice?.["message"] ?? choice?.["delta"]
    const content = isJson(message) ? message["content"] : undefined
    if (typeof content === "string") text += content
    if (typeof choice?.["finish_reason"] === "string") finished = true
  }
  return {
    status: response.status,
    headers: response.headers,
    text,
    finished,
    done: lines.includes("[DONE]"),
    error: values.at(-1)?.["error"],
    /** Each attempt, or model left out, without its time. */
    attempts: (response.headers.get("x-gateway-attempts") ?? "").split(", ").map((attempt) =>
      attempt.replace(/;[0-9]+ms$/, "")
    )
  }
}

/** Fails unless every exchange with these upstreams is over, which may take a moment after the answer's last byte. */
const allClosed = async (...upstreams: ReadonlyArray<FakeUpstream>) => {
  for (const upstream of upstreams) {
    for (const { index } of upstream.requests) await upstream.waitForClose(index, 1_000)
    assert.strictEqual(upstream.inFlight(), 0)
  }
}

/** An address where nothing listens. */
const nowhere = async (): Promise<string> => {
  const server = Net.createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return `http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 1}`
}

// ---------------------------------------------------------------------------------------------------------------------
// Before the commit
// ---------------------------------------------------------------------------------------------------------------------

interface Misbehaviour {
  readonly says: string
  readonly script: (wire: Wire) => Script
  /** The outcome of its attempts; what can be retried has several. */
  readonly outcome: string
  /** The budget of attempts, where four would take too long. */
  readonly attempts?: number
  /** A timer of the gateway's in the place of the setting's own. */
  readonly timeouts?: string
}

const answer = (...faults: ReadonlyArray<Fault>) => (wire: Wire): Script => withFault(wire.answer(words), ...faults)

/** Another body where the answer should be. */
const inItsPlace = (content: string) => (wire: Wire): Script => ({
  ...answerOf(wire.error(503)),
  status: 200,
  body: { type: "whole", content }
})

/** What goes wrong before anything of the answer has come, whichever way it was asked for. */
const always: ReadonlyArray<Misbehaviour> = [
  {
    says: "429 with a short retry-after",
    script: (wire) => wire.error(429, { "retry-after": "0.02" }),
    outcome: "quota"
  },
  {
    says: "429 with too long a retry-after",
    script: (wire) => wire.error(429, { "retry-after": "60" }),
    outcome: "quota"
  },
  { says: "500", script: (wire) => wire.error(500), outcome: "transient" },
  { says: "401", script: (wire) => wire.error(401), outcome: "credential" },
  { says: "a connection reset", script: answer(fault.reset), outcome: "transient" }
]

/** The same for whole answers alone. */
const whole: ReadonlyArray<Misbehaviour> = [
  { says: "no answer at all", script: answer(fault.hang), outcome: "timeout_answer", timeouts: "answer: 200ms" },
  { says: "a stall", script: answer(fault.stall(0)), outcome: "timeout_answer", timeouts: "answer: 200ms" },
  {
    says: "a stall, and half of the total time",
    script: answer(fault.stall(0)),
    outcome: "timeout_answer",
    timeouts: "total: 600ms"
  },
  {
    says: "a slow first byte",
    script: answer(fault.slowFirstByte(5_000)),
    outcome: "timeout_answer",
    timeouts: "answer: 200ms"
  },
  { says: "half of an answer", script: answer(fault.truncate()), outcome: "protocol" },
  { says: "an answer that is no JSON", script: inItsPlace("{\"broken\": "), outcome: "protocol" },
  { says: "an error in-band", script: (wire) => ({ ...answerOf(wire.error(503)), status: 200 }), outcome: "transient" },
  { says: "less of an answer than it promised", script: answer(fault.contentLength()), outcome: "transient|protocol" }
]

/** And for streams alone, each before its first word. */
const streamed: ReadonlyArray<Misbehaviour> = [
  { says: "a cut", script: (wire) => answer(fault.cut(wire.lead - 1))(wire), outcome: "transient|protocol" },
  { says: "an end", script: (wire) => answer(fault.end(wire.lead - 1))(wire), outcome: "protocol" },
  { says: "a malformed line", script: (wire) => answer(fault.malformed(wire.lead - 1))(wire), outcome: "protocol" },
  { says: "an error in-band", script: (wire) => answer(fault.errorAfter(wire.lead - 1))(wire), outcome: "transient" },
  { says: "a stall", script: (wire) => answer(fault.stall(wire.lead - 1))(wire), outcome: "timeout_first_token" },
  { says: "a slow first byte", script: answer(fault.slowFirstByte(5_000)), outcome: "timeout_first_token" },
  { says: "no answer at all", script: answer(fault.hang), outcome: "timeout_first_token" }
]

/** Upstreams that no request gets an answer's first byte from. */
interface Unreachable {
  readonly says: string
  readonly start: () => Promise<RawServer>
  readonly scheme: "http" | "https"
  readonly outcome: { readonly whole: string; readonly streamed: string }
}

const unreachable: ReadonlyArray<Unreachable> = [
  {
    says: "a certificate that nobody vouches for",
    start: selfSigned,
    scheme: "https",
    outcome: { whole: "transient", streamed: "transient" }
  },
  {
    says: "headers beyond every limit",
    start: () => endlessHeaders(1_000, 1),
    scheme: "http",
    outcome: { whole: "protocol", streamed: "protocol" }
  },
  {
    says: "headers that drip for ever",
    start: () => endlessHeaders(1, 10),
    scheme: "http",
    outcome: { whole: "timeout_answer", streamed: "timeout_first_token" }
  }
]

const fallsBack = (misbehaviour: Misbehaviour, stream: boolean) => async ({ backup, gateway, sick, wire }: Setting) => {
  sick.always(misbehaviour.script(wire))
  const answered = await read(await gateway.post(path, ask({ stream }), withFallback))
  assert.strictEqual(answered.status, 200)
  assert.strictEqual(answered.text, healthy)
  assert.isTrue(answered.finished)
  assert.isUndefined(answered.error)
  assert.strictEqual(answered.headers.get("x-gateway-fallback-used"), "true")
  assert.strictEqual(answered.headers.get("x-gateway-model"), "backup::m")
  assert.strictEqual(answered.headers.get("x-gateway-provider"), "backup")
  assert.isNull(answered.headers.get("x-should-retry"))
  const tried = answered.attempts.slice(0, -1)
  for (const attempt of tried) assert.match(attempt, new RegExp(`^it::m:1b;(${misbehaviour.outcome})$`))
  assert.strictEqual(answered.attempts.at(-1), "backup::m;ok")
  assert.strictEqual(tried.length, sick.requests.length)
  assert.isAtMost(answered.attempts.length, 4)
  assert.strictEqual(backup.requests.length, 1)
  await allClosed(sick, backup)
}

describe.each(wireNames)("%s, before the first content", (name) => {
  for (const stream of [false, true]) {
    for (const misbehaviour of [...always, ...(stream ? streamed : whole)]) {
      it(`${stream ? "streamed" : "whole"}: ${misbehaviour.says}: the fallback answers`, () =>
        within(name, fallsBack(misbehaviour, stream), "", misbehaviour))
    }

    for (const { outcome, says, scheme, start } of unreachable) {
      it(`${stream ? "streamed" : "whole"}: ${says}: the fallback answers`, async () => {
        const server = await start()
        try {
          await within(
            name,
            async ({ backup, gateway }) => {
              const answered = await read(await gateway.post(path, ask({ stream }), withFallback))
              assert.deepStrictEqual([answered.status, answered.text, answered.finished], [200, healthy, true])
              const expected = `it::m:1b;${stream ? outcome.streamed : outcome.whole}`
              for (const attempt of answered.attempts.slice(0, -1)) assert.strictEqual(attempt, expected)
              assert.strictEqual(answered.attempts.at(-1), "backup::m;ok")
              // Discovery may have come, too.
              assert.isAtLeast(server.connections(), answered.attempts.length - 1)
              await server.waitForNone()
              await allClosed(backup)
            },
            "",
            { address: () => `${scheme}://127.0.0.1:${server.port}`, timeouts: "answer: 300ms" }
          )
        } finally {
          await server.close()
        }
      })
    }

    it(`${stream ? "streamed" : "whole"}: a port that speaks no TLS: the fallback answers`, () =>
      within(
        name,
        async ({ backup, gateway, sick }) => {
          const answered = await read(await gateway.post(path, ask({ stream }), withFallback))
          assert.deepStrictEqual([answered.status, answered.text], [200, healthy])
          for (const attempt of answered.attempts.slice(0, -1)) assert.strictEqual(attempt, "it::m:1b;transient")
          assert.strictEqual(answered.attempts.at(-1), "backup::m;ok")
          assert.strictEqual(sick.requests.length, 0)
          assert.isAtLeast(sick.connections(), answered.attempts.length - 1)
          await sick.waitForSockets(0, 1_000)
          await allClosed(backup)
        },
        "",
        { address: (url) => url.replace("http:", "https:") }
      ))

    it(`${stream ? "streamed" : "whole"}: a refused connection: the fallback answers`, async () => {
      const away = await nowhere()
      await within(
        name,
        async ({ backup, gateway }) => {
          const answered = await read(await gateway.post(path, ask({ stream }), withFallback))
          assert.deepStrictEqual([answered.status, answered.text], [200, healthy])
          assert.match(answered.attempts[0] ?? "", /^it::m:1b;transient$/)
          assert.strictEqual(answered.attempts.at(-1), "backup::m;ok")
          await allClosed(backup)
        },
        "",
        { address: () => away }
      )
    })

    it(`${stream ? "streamed" : "whole"}: what passes is retried, and the fallback is not needed`, () =>
      within(name, async ({ backup, gateway, sick, wire }) => {
        sick.reply(wire.error(429, { "retry-after": "0.02" }), wire.error(503), wire.answer(words))
        const answered = await read(await gateway.post(path, ask({ stream }), withFallback))
        assert.deepStrictEqual([answered.status, answered.text], [200, words.join("")])
        assert.deepStrictEqual(answered.attempts, ["it::m:1b;quota", "it::m:1b;transient", "it::m:1b;ok"])
        assert.strictEqual(answered.headers.get("x-gateway-fallback-used"), "false")
        assert.strictEqual(backup.requests.length, 0)
        await allClosed(sick)
      }))

    it(`${stream ? "streamed" : "whole"}: what the caller did wrong goes nowhere else`, () =>
      within(name, async ({ backup, gateway, sick, wire }) => {
        sick.always(wire.error(400))
        const answered = await read(await gateway.post(path, ask({ stream }), withFallback))
        assert.strictEqual(answered.status, 400)
        assert.deepStrictEqual(answered.attempts, ["it::m:1b;caller"])
        assert.strictEqual(answered.headers.get("x-should-retry"), "false")
        assert.strictEqual(backup.requests.length, 0)
        await allClosed(sick)
      }))
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// After the commit
// ---------------------------------------------------------------------------------------------------------------------

describe.each(wireNames)("%s, after the first content: an explicit error, and nothing is asked again", (name) => {
  const faults: Readonly<Record<string, (wire: Wire) => Script>> = {
    "a cut": (wire) => answer(fault.cut(wire.lead))(wire),
    "an end": (wire) => answer(fault.end(wire.lead))(wire),
    "a malformed line": (wire) => answer(fault.malformed(wire.lead))(wire),
    "an error in-band": (wire) => answer(fault.errorAfter(wire.lead))(wire),
    "a stall": (wire) => answer(fault.stall(wire.lead))(wire)
  }
  const strategies = { "one after another": "backup::m", "hedged": "backup::m; strategy=parallel" }
  for (const [says, script] of Object.entries(faults)) {
    for (const [how, fallback] of Object.entries(strategies)) {
      it(`${says}, ${how}`, () =>
        within(name, async ({ backup, gateway, sick, wire }) => {
          sick.always(script(wire))
          const answered = await read(
            await gateway.post(path, ask({ stream: true }), { "x-gateway-fallback": fallback })
          )
          assert.strictEqual(answered.status, 200)
          assert.strictEqual(answered.text, "One ")
          assert.isDefined(answered.error)
          assert.isFalse(answered.done)
          assert.isFalse(answered.finished)
          assert.deepStrictEqual(answered.attempts, ["it::m:1b;ok"])
          assert.strictEqual(sick.requests.length, 1)
          assert.strictEqual(backup.requests.length, 0)
          await allClosed(sick)
        }))
    }

    it(`${says}, in the native API`, () =>
      within(name, async ({ backup, gateway, sick, wire }) => {
        sick.always(script(wire))
        const fallback = { models: ["backup::m"] }
        const response = await gateway.post("/llm-gateway/v1/chat/completions", ask({ stream: true, fallback }))
        const body = await response.text()
        assert.strictEqual(response.status, 200)
        assert.include(body, "\"One \"")
        assert.match(body, /\n\nevent: error\ndata: \{[^\n]*"code":"provider_(?:error|timeout)"[^\n]*\}\n\n$/)
        assert.notInclude(body, "data: [DONE]")
        assert.notInclude(body, "finish_reason")
        assert.strictEqual(sick.requests.length, 1)
        assert.strictEqual(backup.requests.length, 0)
        await allClosed(sick)
      }))
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// What the caller is told, and may say
// ---------------------------------------------------------------------------------------------------------------------

describe("the caller", () => {
  it("names fallbacks in the native API, and is told which model served", () =>
    within("openai", async ({ gateway, sick, wire }) => {
      sick.always(wire.error(500))
      const response = await gateway.post(
        "/llm-gateway/v1/chat/completions",
        ask({ fallback: { models: ["sandbox::echo"], strategy: "sequential" } })
      )
      const body = parsed(await response.text())
      if (!isJson(body)) assert.fail("no object")
      assert.strictEqual(body["model_used"], "sandbox::echo")
      assert.isTrue(body["fallback_used"])
      assert.strictEqual(response.headers.get("x-gateway-fallback-used"), "true")
    }))

  it("learns which fallbacks were left out, and why", () =>
    within(
      "openai",
      async ({ gateway, sick, wire }) => {
        sick.always(wire.error(500))
        const tools = [{ type: "function", function: { name: "f", parameters: { type: "object" } } }]
        const answered = await read(
          await gateway.post(path, ask({ tools }), {
            "x-gateway-fallback": "backup::plain, backup::unknown-to-all::x, backup::m"
          })
        )
        assert.strictEqual(answered.status, 200)
        assert.strictEqual(answered.headers.get("x-gateway-model"), "backup::unknown-to-all::x")
        assert.include(answered.attempts, "backup::plain;skipped;capability_not_supported: tools")
      },
      "models:\n  - { id: \"backup::plain\", capabilities: [text_input, text_output, streaming] }\n"
    ))

  it("cannot write into the list of attempts by the name of a model", () =>
    within("openai", async ({ gateway, sick, wire }) => {
      sick.always(wire.answer(words))
      const models = ["x;ok;1ms, it::y;ok;1ms\r\nx-forged: 1"]
      const response = await gateway.post("/llm-gateway/v1/chat/completions", ask({ fallback: { models } }))
      const { attempts, headers } = await read(response)
      assert.isNull(headers.get("x-forged"))
      assert.strictEqual(attempts.length, 2)
      assert.match(attempts[1] ?? "", /^xok1ms it::yok1ms[?]+x-forged: 1;skipped;model_not_found$/)
    }))

  it("is told what all attempts came to, and not to try again", () =>
    within("openai", async ({ backup, gateway, sick, wire }) => {
      sick.always(wire.error(503))
      backup.always(openAi.error(503))
      const answered = await read(await gateway.post(path, ask(), withFallback))
      assert.strictEqual(answered.status, 503)
      assert.strictEqual(answered.headers.get("x-should-retry"), "false")
      assert.deepStrictEqual(answered.attempts, [
        "it::m:1b;transient",
        "it::m:1b;transient",
        "it::m:1b;transient",
        "backup::m;transient"
      ])
    }))

  it("hears nothing of retries when its request was wrong", () =>
    within("openai", async ({ gateway }) => {
      for (
        const [body, headers] of [
          [ask({ messages: [] }), {}],
          [ask({ model: "nobody::m" }), {}],
          [ask(), { "x-gateway-fallback": "a,,b" }]
        ] as const
      ) {
        const response = await gateway.post(path, body, headers)
        await response.text()
        assert.isAtLeast(response.status, 400)
        assert.isNull(response.headers.get("x-should-retry"))
      }
    }))

  it("as OpenAI's SDK with retries of its own calls the gateway once", () =>
    within("openai", async ({ gateway, sick, wire }) => {
      sick.always(wire.error(503))
      let calls = 0
      const client = new OpenAI({
        baseURL: `${gateway.url}/v1`,
        apiKey: "none",
        maxRetries: 2,
        fetch: (...request) => {
          calls++
          return fetch(...request)
        }
      })
      const error: unknown = await client.chat.completions
        .create({ model: "it::m:1b", messages: [{ role: "user", content: "Hello" }] })
        .then(() => undefined, (error: unknown) => error)
      assert.strictEqual(error instanceof APIError ? error.status : undefined, 503)
      assert.strictEqual(calls, 1)
      assert.strictEqual(sick.requests.length, 4)
    }))

  it("that leaves during the attempts leaves no upstream behind", () =>
    within("openai", async ({ backup, gateway, sick }) => {
      sick.always(answer(fault.hang)(wires.openai))
      backup.always(answer(fault.hang)(wires.openai))
      const controller = new AbortController()
      const asked = fetch(gateway.url + path, {
        method: "POST",
        headers: { "content-type": "application/json", "x-gateway-fallback": "backup::m; strategy=parallel" },
        body: JSON.stringify(ask({ model: "hedged", stream: true })),
        signal: controller.signal
      }).catch(() => undefined)
      await Promise.all([sick.waitForRequest(0, 2_000), backup.waitForRequest(0, 2_000)])
      controller.abort()
      await asked
      await allClosed(sick, backup)
    }, "routes:\n  hedged: { models: [\"it::m:1b\", \"backup::m\"], hedge_after: 20ms }\n"))
})

// ---------------------------------------------------------------------------------------------------------------------
// Hedging
// ---------------------------------------------------------------------------------------------------------------------

describe("hedging", () => {
  const hedged = "routes:\n  hedged: { models: [\"it::m:1b\", \"backup::m\"], hedge_after: 30ms }\n"

  it.each(wireNames)(
    "%s: the slower one's connection is closed as soon as the quicker one has content",
    (name) =>
      within(name, async ({ backup, gateway, sick, wire }) => {
        sick.always(withFault(wire.answer(words), fault.stall(wire.lead - 1)))
        let goOn: () => void = () => undefined
        const gate = new Promise<void>((resolve) => goOn = resolve)
        backup.always(withFault(openAi.answer({ text: words }), fault.hold(2, gate)))
        const response = await gateway.post(path, ask({ model: "hedged", stream: true }))
        const left = await sick.waitForClose(0, 1_000)
        const content = backup.request(0)
        assert.isUndefined(content.closedAt, "the winner still streams")
        assert.isTrue(left.aborted)
        assert.isBelow((left.closedAt ?? Infinity) - content.receivedAt, 100 + 30)
        goOn()
        const answered = await read(response)
        assert.deepStrictEqual([answered.text, answered.done], ["One two three", true])
        assert.deepStrictEqual(answered.attempts.toSorted(), ["backup::m;ok", "it::m:1b;cancelled"])
        assert.strictEqual(answered.headers.get("x-gateway-model"), "backup::m")
        await allClosed(sick, backup)
      }, hedged)
  )

  it("whole answers race, too", () =>
    within("openai", async ({ backup, gateway, sick, wire }) => {
      sick.always(withFault(wire.answer(words), fault.hang))
      const answered = await read(await gateway.post(path, ask({ model: "hedged" })))
      assert.strictEqual(answered.text, healthy)
      assert.isTrue((await sick.waitForClose(0, 1_000)).aborted)
      await allClosed(sick, backup)
    }, hedged))

  it("a quick first candidate is the only one asked", () =>
    within("openai", async ({ backup, gateway, sick, wire }) => {
      sick.always(wire.answer(words))
      const answered = await read(await gateway.post(path, ask({ model: "hedged", stream: true })))
      assert.strictEqual(answered.text, words.join(""))
      assert.strictEqual(backup.requests.length, 0)
    }, "routes:\n  hedged: { models: [\"it::m:1b\", \"backup::m\"], hedge_after: 5s }\n"))
})

// ---------------------------------------------------------------------------------------------------------------------
// Routes
// ---------------------------------------------------------------------------------------------------------------------

const price = (id: string, usd: number) => `  - { id: "${id}", prices: { input_mtok: ${usd}, output_mtok: ${usd} } }\n`

describe("routes", () => {
  it("priority: the first that is well", () =>
    within("openai", async ({ gateway, sick, wire }) => {
      sick.reply(wire.answer(words))
      sick.always(wire.error(401))
      const first = await read(await gateway.post(path, ask({ model: "r" })))
      assert.strictEqual(first.headers.get("x-gateway-model"), "it::m:1b")
      const second = await read(await gateway.post(path, ask({ model: "r" })))
      assert.deepStrictEqual(second.attempts, ["it::m:1b;credential", "backup::m;ok"])
    }, "routes:\n  r: { models: [\"it::m:1b\", \"backup::m\"] }\n"))

  it("weighted: a weight of nothing gets nothing, and a sticky key stays where it is", () =>
    within(
      "openai",
      async ({ gateway, sick, wire }) => {
        sick.always(wire.answer(words))
        for (let turn = 0; turn < 5; turn++) {
          const { headers } = await read(await gateway.post(path, ask({ model: "none" })))
          assert.strictEqual(headers.get("x-gateway-model"), "backup::m")
        }
        for (const key of ["anna", "bert", "carl", "dora"]) {
          const models = new Set<string | null>()
          for (let turn = 0; turn < 4; turn++) {
            const sticky = { "x-gateway-sticky-key": key }
            models.add(
              (await read(await gateway.post(path, ask({ model: "half" }), sticky))).headers.get("x-gateway-model")
            )
          }
          assert.strictEqual(models.size, 1)
        }
      },
      `routes:
  none: { policy: weighted, models: [{ model: "it::m:1b", weight: 0 }, { model: "backup::m", weight: 1 }] }
  half: { policy: weighted, models: [{ model: "it::m:1b", weight: 1 }, { model: "backup::m", weight: 1 }] }
`
    ))

  it("cheapest: the lowest price first, unless the caller asks for another order", () =>
    within(
      "openai",
      async ({ gateway, sick, wire }) => {
        sick.always(wire.answer(words))
        const cheapest = await read(await gateway.post(path, ask({ model: "r" })))
        assert.strictEqual(cheapest.headers.get("x-gateway-model"), "backup::m")
        const priority = await read(
          await gateway.post(path, ask({ model: "r" }), { "x-gateway-route-policy": "priority" })
        )
        assert.strictEqual(priority.headers.get("x-gateway-model"), "it::m:1b")
      },
      `routes:\n  r: { policy: cheapest, models: ["it::m:1b", "backup::m"] }\nmodels:\n${price("it::m:1b", 5)}${
        price("backup::m", 1)
      }`
    ))

  it.each([["whole", false], ["streamed", true]] as const)(
    "fastest, %s: each is tried once, and from then on the one that was quick",
    (_, stream) =>
      within("openai", async ({ backup, gateway, sick, wire }) => {
        sick.always(withFault(wire.answer(words), fault.slowHeaders(150)))
        const next = async () => {
          const { headers, status } = await read(await gateway.post(path, ask({ model: "r", stream })))
          assert.strictEqual(status, 200)
          return headers.get("x-gateway-model")
        }
        assert.strictEqual(await next(), "it::m:1b")
        assert.strictEqual(await next(), "backup::m")
        const before = backup.requests.length
        for (let turn = 0; turn < 16; turn++) await next()
        // One request in twenty explores: that eight of sixteen do happens once in two million runs.
        assert.isAtLeast(backup.requests.length - before, 9)
      }, "routes:\n  r: { policy: fastest, models: [\"it::m:1b\", \"backup::m\"] }\n")
  )

  it("fastest: what was quick and fails is left, what was slow and is alone left serves", () =>
    within("openai", async ({ backup, gateway, sick, wire }) => {
      sick.always(withFault(wire.answer(words), fault.slowHeaders(100)))
      for (let turn = 0; turn < 2; turn++) await read(await gateway.post(path, ask({ model: "r" })))
      backup.always(openAi.error(401))
      const { headers, status } = await read(await gateway.post(path, ask({ model: "r" })))
      assert.deepStrictEqual([status, headers.get("x-gateway-model")], [200, "it::m:1b"])
    }, "routes:\n  r: { policy: fastest, models: [\"it::m:1b\", \"backup::m\"] }\n"))

  it("least_busy: while a stream runs, others go elsewhere, and back when it is over", () =>
    within("openai", async ({ gateway, sick, wire }) => {
      const goOn = Promise.withResolvers<void>()
      sick.reply(withFault(wire.answer(words), fault.hold(wire.lead, goOn.promise)))
      sick.always(wire.answer(words))
      const next = async () => {
        const { headers } = await read(await gateway.post(path, ask({ model: "r" })))
        return headers.get("x-gateway-model")
      }
      const long = await gateway.post(path, ask({ model: "r", stream: true }))
      assert.strictEqual(long.headers.get("x-gateway-model"), "it::m:1b")
      for (let turn = 0; turn < 3; turn++) assert.strictEqual(await next(), "backup::m")
      goOn.resolve()
      const { done, text } = await read(long)
      assert.deepStrictEqual([done, text], [true, words.join("")])
      assert.strictEqual(await next(), "it::m:1b")
      await allClosed(sick)
    }, "routes:\n  r: { policy: least_busy, models: [\"it::m:1b\", \"backup::m\"] }\n"))

  it("least_busy: a caller that leaves its stream makes room again", () =>
    within("openai", async ({ gateway, sick, wire }) => {
      sick.reply(withFault(wire.answer(words), fault.stall(wire.lead)))
      sick.always(wire.answer(words))
      const leave = new AbortController()
      const long = await fetch(gateway.url + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(ask({ model: "r", stream: true })),
        signal: leave.signal
      })
      assert.strictEqual(long.headers.get("x-gateway-model"), "it::m:1b")
      leave.abort()
      assert.isTrue((await sick.waitForClose(0, 250)).aborted)
      const { headers } = await read(await gateway.post(path, ask({ model: "r" })))
      assert.strictEqual(headers.get("x-gateway-model"), "it::m:1b")
    }, "routes:\n  r: { policy: least_busy, models: [\"it::m:1b\", \"backup::m\"] }\n"))

  const floor = (models: string) =>
    `routes:
  r: { models: [${models}], min_tokens_per_second: 100, timeouts: { first_token: 3s, idle: 2500ms } }
`

  it("a stream that is slower than the route's floor fails over", () =>
    within("openai", async ({ backup, gateway, sick, wire }) => {
      sick.always(withFault(wire.answer(words), fault.stall(wire.lead)))
      const answered = await read(await gateway.post(path, ask({ model: "r", stream: true })))
      assert.deepStrictEqual([answered.text, answered.attempts], [healthy, ["it::m:1b;transient", "backup::m;ok"]])
      await allClosed(sick, backup)
    }, floor("\"it::m:1b\", \"backup::m\"")))

  it("where no other candidate is left, a slow stream is taken as it is", () =>
    within("openai", async ({ backup, gateway, sick, wire }) => {
      backup.always(openAi.error(401))
      sick.always(withFault(wire.answer(words), fault.trickle(700)))
      const answered = await read(await gateway.post(path, ask({ model: "r", stream: true })))
      assert.deepStrictEqual([answered.text, answered.done], [words.join(""), true])
      assert.deepStrictEqual(answered.attempts, ["backup::m;credential", "it::m:1b;ok"])
      await allClosed(sick, backup)
    }, floor("\"backup::m\", \"it::m:1b\"")))
})

describe("with every upstream down", () => {
  it("a request costs one call once the breakers are open", () =>
    within("openai", async ({ backup, gateway, sick, wire }) => {
      sick.always(wire.error(503))
      backup.always(openAi.error(503))
      const request = async () => {
        const { status } = await read(await gateway.post(path, ask(), withFallback))
        assert.strictEqual(status, 503)
      }
      for (let turn = 0; turn < 10; turn++) await request()
      const before = sick.requests.length + backup.requests.length
      for (let turn = 0; turn < 30; turn++) await request()
      const calls = sick.requests.length + backup.requests.length - before
      assert.isAtMost(calls, 33)
      await allClosed(sick, backup)
    }))
})
