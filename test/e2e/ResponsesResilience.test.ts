/**
 * The fault scripts of the resilience tests, seen by a caller of OpenAI's Responses API: until the first content the
 * fallback answers; from then on the stream ends in `response.failed` and an error, and nothing is asked again.
 */
import { assert, describe, it } from "@effect/vitest"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { type Fault, fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { eventsOf } from "../fixtures/ResponsesEvents.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed, type Script } from "../fixtures/Script.ts"

interface Wire {
  readonly type: string
  readonly path: string
  readonly answer: (text: ReadonlyArray<string>) => Script
  readonly error: (status: number, headers?: Readonly<Record<string, string>>) => Script
  /** Events of a stream before its first word is over. */
  readonly lead: number
}

const wires: Readonly<Record<string, Wire>> = {
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

const words = ["One ", "two ", "three"]
const healthy = "The backup answers."

interface Setting {
  readonly gateway: RunningGateway
  /** The upstream of `it`, which speaks the wire under test. */
  readonly sick: FakeUpstream
  /** The upstream of `backup`, which speaks OpenAI's wire and is well. */
  readonly backup: FakeUpstream
}

/** Runs a test with two upstreams and a gateway of its own, so that no breaker remembers another test. */
const within = async (
  wire: Wire,
  test: (setting: Setting) => Promise<void>,
  timeouts = "total: 10s"
): Promise<void> => {
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

const object = (value: unknown): Json => isJson(value) ? value : {}

const ask = async (gateway: RunningGateway, stream: boolean, fallback = "backup::m") => {
  const response = await gateway.post("/v1/responses", { model: "it::m:1b", input: "Say something.", stream }, {
    "x-gateway-fallback": fallback
  })
  const text = await response.text()
  const streamed = response.headers.get("content-type") === "text/event-stream"
  const events = streamed ? eventsOf(text) : []
  return {
    headers: response.headers,
    status: response.status,
    events,
    answer: streamed ? object(events.at(-1)?.json["response"]) : object(parsed(text))
  }
}

const textOf = (answer: Json): unknown => {
  const output = answer["output"]
  const content = object(Array.isArray(output) ? output[0] : undefined)["content"]
  return object(Array.isArray(content) ? content[0] : undefined)["text"]
}

describe.each(Object.entries(wires))("%s", (_, wire) => {
  const said = (...faults: ReadonlyArray<Fault>): Script => withFault(wire.answer(words), ...faults)

  const before: ReadonlyArray<readonly [says: string, script: Script, stream: boolean | undefined, timeouts?: string]> =
    [
      ["429 with too long a retry-after", wire.error(429, { "retry-after": "60" }), undefined],
      ["500", wire.error(500), undefined],
      ["401", wire.error(401), undefined],
      ["a connection reset", said(fault.reset), undefined],
      ["no answer at all", said(fault.hang), false, "answer: 200ms"],
      ["half of an answer", said(fault.truncate()), false],
      ["no answer at all", said(fault.hang), true],
      ["a cut", said(fault.cut(wire.lead - 1)), true],
      ["an end", said(fault.end(wire.lead - 1)), true],
      ["a malformed line", said(fault.malformed(wire.lead - 1)), true],
      ["an error in-band", said(fault.errorAfter(wire.lead - 1)), true],
      ["a stall", said(fault.stall(wire.lead - 1)), true]
    ]
  for (const [says, script, only, timeouts] of before) {
    for (const stream of only === undefined ? [false, true] : [only]) {
      it(`${stream ? "streamed" : "whole"}: ${says} before the first content: the fallback answers`, () =>
        within(wire, async ({ backup, gateway, sick }) => {
          sick.always(script)
          const { answer, events, headers, status } = await ask(gateway, stream)
          assert.deepStrictEqual([status, answer["status"], textOf(answer)], [200, "completed", healthy])
          assert.strictEqual(answer["model"], "m", "the one that served")
          assert.strictEqual(headers.get("x-gateway-fallback-used"), "true")
          assert.strictEqual(headers.get("x-gateway-model"), "backup::m")
          assert.strictEqual(backup.requests.length, 1)
          // Nothing of the answer that was given up is seen, its beginning included.
          assert.lengthOf(events.filter(({ type }) => type === "response.created"), stream ? 1 : 0)
        }, timeouts))
    }
  }

  const after: ReadonlyArray<readonly [says: string, fault: Fault, code: string]> = [
    ["a cut", fault.cut(wire.lead), "provider_error"],
    ["an end", fault.end(wire.lead), "provider_error"],
    ["a malformed line", fault.malformed(wire.lead), "provider_error"],
    ["an error in-band", fault.errorAfter(wire.lead), "provider_error"],
    ["a stall", fault.stall(wire.lead), "provider_timeout"]
  ]
  for (const [says, broken, code] of after) {
    it.each(["backup::m", "backup::m; strategy=parallel"])(
      `${says} after the first content: an explicit error, and nothing is asked again (%s)`,
      (fallback) =>
        within(wire, async ({ backup, gateway, sick }) => {
          sick.always(said(broken))
          const { events, status } = await ask(gateway, true, fallback)
          assert.strictEqual(status, 200)
          const deltas = events.filter(({ type }) => type === "response.output_text.delta")
          assert.deepStrictEqual(deltas.map(({ json }) => json["delta"]), ["One "])
          assert.strictEqual(events.at(-2)?.type, "response.failed")
          assert.strictEqual(events.at(-1)?.json["code"], code)
          assert.strictEqual(sick.requests.length, 1)
          assert.strictEqual(backup.requests.length, 0)
        })
    )
  }

  it.each(
    [
      ["in single bytes", fault.split(1)],
      ["in one write", fault.coalesce],
      ["with CRLF", fault.crlf],
      ["without its last line end", fault.noTrailing]
    ] as const
  )("a stream that comes %s is read as it is", (_, oddity) =>
    within(wire, async ({ gateway, sick }) => {
      sick.always(said(oddity))
      const { answer, status } = await ask(gateway, true)
      assert.deepStrictEqual([status, answer["status"], textOf(answer)], [200, "completed", words.join("")])
    }))
})
