/**
 * The fault scripts of `Resilience.test.ts` as a caller of the Ollama dialect sees them: until the first content the fallback
 * answers, under the name that was asked for; from then on the stream ends in a line with the error, no line is done, and
 * nothing is asked again.
 */
import { assert, describe, it } from "@effect/vitest"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { type Fault, fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { answerOf, isJson, type Json, parsed, type Script } from "../fixtures/Script.ts"

interface Wire {
  readonly type: string
  readonly path: string
  readonly answer: (text: ReadonlyArray<string>) => Script
  readonly error: (status: number, headers?: Readonly<Record<string, string>>) => Script
  /** Events of a stream before its first word is over. */
  readonly lead: number
}

const wires: Readonly<Record<"openai" | "anthropic" | "ollama", Wire>> = {
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
}

/** The two operations: what is asked, and where the text stands in an answer or a line. */
const operations = {
  chat: {
    path: "/api/chat",
    body: { messages: [{ role: "user", content: "Say something." }] },
    textOf: (line: Json) => isJson(line["message"]) ? line["message"]["content"] : undefined
  },
  generate: {
    path: "/api/generate",
    body: { prompt: "Say something." },
    textOf: (line: Json) => line["response"]
  }
}
type Operation = typeof operations[keyof typeof operations]

const words = ["One ", "two ", "three"]
const healthy = "The backup answers."
const model = "it::m:1b"

interface Setting {
  readonly gateway: RunningGateway
  readonly sick: FakeUpstream
  readonly backup: FakeUpstream
}

/** Runs a test with two upstreams and a gateway of its own, so that no breaker remembers another test. */
const within = async (wire: Wire, timeouts: string, test: (setting: Setting) => Promise<void>): Promise<void> => {
  const [sick, backup] = await Promise.all([startFakeUpstream(), startFakeUpstream()])
  backup.always(openAi.answer({ text: [healthy] }))
  const gateway = await startGateway(`
providers:
  it: { type: ${wire.type}, base_url: "${sick.url}${wire.path}", api_key: secret, unlisted_models: allow }
  backup: { type: openai, base_url: "${backup.url}/v1", api_key: secret, unlisted_models: allow }
defaults:
  attempts: 4
  retry: { base: 5ms, max: 100ms }
  timeouts: { connect: 300ms, first_token: 300ms, idle: 300ms, ${timeouts} }
`)
  try {
    await test({ gateway, sick, backup })
    await gateway.close()
    await Promise.all([sick.waitForSockets(0, 1_000), backup.waitForSockets(0, 1_000)])
  } finally {
    await gateway.close()
    await Promise.all([sick.close(), backup.close()])
  }
}

const ask = async ({ body, path, textOf }: Operation, gateway: RunningGateway, stream: boolean, fallback?: string) => {
  const response = await gateway.post(
    path,
    { model, stream, ...body },
    fallback === undefined ? {} : { "x-gateway-fallback": fallback }
  )
  const lines = (await response.text()).split("\n").filter((line) => line !== "").map(parsed).filter(isJson)
  return {
    status: response.status,
    headers: response.headers,
    lines,
    text: lines.map(textOf).filter((text) => typeof text === "string").join(""),
    done: lines.some(({ done }) => done === true),
    last: lines.at(-1) ?? {}
  }
}

const allClosed = async (...upstreams: ReadonlyArray<FakeUpstream>) => {
  for (const upstream of upstreams) {
    for (const { index } of upstream.requests) await upstream.waitForClose(index, 1_000)
    assert.strictEqual(upstream.inFlight(), 0)
  }
}

interface Misbehaviour {
  readonly says: string
  readonly script: (wire: Wire) => Script
  readonly timeouts?: string
}

const answer = (...faults: ReadonlyArray<Fault>) => (wire: Wire): Script => withFault(wire.answer(words), ...faults)

const always: ReadonlyArray<Misbehaviour> = [
  { says: "429", script: (wire) => wire.error(429, { "retry-after": "60" }) },
  { says: "500", script: (wire) => wire.error(500) },
  { says: "401", script: (wire) => wire.error(401) },
  { says: "a connection reset", script: answer(fault.reset) }
]

const whole: ReadonlyArray<Misbehaviour> = [
  { says: "no answer at all", script: answer(fault.hang), timeouts: "answer: 200ms" },
  { says: "half of an answer", script: answer(fault.truncate()) },
  { says: "an error in-band", script: (wire) => ({ ...answerOf(wire.error(503)), status: 200 }) }
]

const streamed: ReadonlyArray<Misbehaviour> = [
  { says: "a cut", script: (wire) => answer(fault.cut(wire.lead - 1))(wire) },
  { says: "an end", script: (wire) => answer(fault.end(wire.lead - 1))(wire) },
  { says: "a malformed line", script: (wire) => answer(fault.malformed(wire.lead - 1))(wire) },
  { says: "an error in-band", script: (wire) => answer(fault.errorAfter(wire.lead - 1))(wire) },
  { says: "a stall", script: (wire) => answer(fault.stall(wire.lead - 1))(wire) },
  { says: "no answer at all", script: answer(fault.hang) }
]

const committed: ReadonlyArray<Misbehaviour> = [
  { says: "a cut", script: (wire) => answer(fault.cut(wire.lead))(wire) },
  { says: "an end", script: (wire) => answer(fault.end(wire.lead))(wire) },
  { says: "a malformed line", script: (wire) => answer(fault.malformed(wire.lead))(wire) },
  { says: "an error in-band", script: (wire) => answer(fault.errorAfter(wire.lead))(wire) },
  { says: "a stall", script: (wire) => answer(fault.stall(wire.lead))(wire) }
]

describe.each(Object.entries(wires))("%s", (_, wire) => {
  describe.each(Object.entries(operations))("%s", (_, operation) => {
    for (const stream of [false, true]) {
      for (const { says, script, timeouts = "total: 10s" } of [...always, ...(stream ? streamed : whole)]) {
        it(`${stream ? "streamed" : "whole"}: ${says} before the first content: the fallback answers`, () =>
          within(wire, timeouts, async ({ backup, gateway, sick }) => {
            sick.always(script(wire))
            const answered = await ask(operation, gateway, stream, "backup::m")
            assert.strictEqual(answered.status, 200)
            assert.strictEqual(answered.text, healthy)
            assert.isTrue(answered.last["done"])
            assert.strictEqual(answered.last["done_reason"], "stop")
            assert.isTrue(answered.lines.every((line) => line["model"] === model && !("error" in line)))
            assert.strictEqual(answered.headers.get("x-gateway-model"), "backup::m")
            assert.strictEqual(answered.headers.get("x-gateway-fallback-used"), "true")
            assert.strictEqual(backup.requests.length, 1)
            await allClosed(sick, backup)
          }))
      }
    }

    for (const { says, script } of committed) {
      it(`${says} after the first content: an explicit error, and nothing is asked again`, () =>
        within(wire, "total: 10s", async ({ backup, gateway, sick }) => {
          sick.always(script(wire))
          const answered = await ask(operation, gateway, true, "backup::m")
          assert.strictEqual(answered.status, 200)
          assert.strictEqual(answered.text, "One ")
          assert.deepStrictEqual(Object.keys(answered.last), ["error"])
          assert.isNotEmpty(answered.last["error"])
          assert.isFalse(answered.done)
          assert.strictEqual(sick.requests.length, 1)
          assert.strictEqual(backup.requests.length, 0)
          await allClosed(sick)
        }))
    }

    it("what no attempt could do is an error with its status, and no reason to try again", () =>
      within(wire, "total: 10s", async ({ gateway, sick }) => {
        sick.always(wire.error(503))
        const answered = await ask(operation, gateway, true)
        assert.strictEqual(answered.status, 503)
        assert.deepStrictEqual(Object.keys(answered.last), ["error"])
        assert.strictEqual(answered.headers.get("x-should-retry"), "false")
        assert.strictEqual(sick.requests.length, 4)
      }))
  })
})
