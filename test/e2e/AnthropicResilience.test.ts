/**
 * The fault scripts of `Resilience.test.ts` as an Anthropic caller sees them: until the first content the fallback answers,
 * whatever wire it speaks; from then on the stream ends in an `error` event, without `message_stop`, and nothing is asked
 * again.
 */
import { assert, describe, it } from "@effect/vitest"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { type Fault, fault, withFault } from "../fixtures/Fault.ts"
import { startGateway } from "../fixtures/RunningGateway.ts"
import { answerOf, isJson, type Json, parsed, type Script } from "../fixtures/Script.ts"
import { at, list, type Speaker, speakers } from "../fixtures/Speakers.ts"

const words = ["One ", "two ", "three"]
const healthy = "The backup answers."

interface Answered {
  readonly status: number
  readonly headers: Headers
  readonly body: string
  /** The type of each event; of a whole answer none. */
  readonly types: ReadonlyArray<unknown>
  readonly text: string
  readonly stop: unknown
  /** The last event, or the body. */
  readonly last: unknown
}

const read = async (response: Response): Promise<Answered> => {
  const body = await response.text()
  const events = body.split("\n").flatMap((line) => line.startsWith("data: ") ? [parsed(line.slice(6))] : [])
  const whole = events.length === 0 ? parsed(body) : undefined
  const pieces = whole === undefined
    ? events.map((event) => at(event, "delta", "text"))
    : list(at(whole, "content")).map((block) => at(block, "text"))
  return {
    status: response.status,
    headers: response.headers,
    body,
    types: events.map((event) => at(event, "type")),
    text: pieces.filter((piece) => typeof piece === "string").join(""),
    stop: whole === undefined
      ? events.map((event) => at(event, "delta", "stop_reason")).find((reason) => reason !== undefined)
      : at(whole, "stop_reason"),
    last: whole ?? events.at(-1)
  }
}

interface Setting {
  readonly sick: FakeUpstream
  readonly backup: FakeUpstream
  readonly ask: (stream: boolean) => Promise<Answered>
}

const bases: Readonly<Record<string, string>> = { openai: "/v1", anthropic: "", ollama: "" }

/** Runs a test with a sick upstream of one wire, a healthy one of Anthropic's, and a gateway of its own. */
const within = async (
  type: string,
  test: (setting: Setting) => Promise<void>,
  timeouts = "total: 10s"
): Promise<void> => {
  const [sick, backup] = await Promise.all([startFakeUpstream(), startFakeUpstream()])
  backup.always(anthropic.answer({ text: [healthy] }))
  const gateway = await startGateway(`
providers:
  it: { type: ${type}, base_url: "${sick.url}${bases[type] ?? ""}", api_key: secret, unlisted_models: allow }
  backup: { type: anthropic, base_url: "${backup.url}", api_key: secret, unlisted_models: allow }
defaults:
  attempts: 4
  retry: { base: 5ms, max: 100ms }
  timeouts: { connect: 300ms, first_token: 300ms, idle: 300ms, ${timeouts} }
`)
  const body = (stream: boolean): Json => ({
    model: "it::m:1b",
    max_tokens: 100,
    stream,
    messages: [{ role: "user", content: "Say something." }]
  })
  const ask = async (stream: boolean) =>
    read(await gateway.post("/v1/messages", body(stream), { "x-gateway-fallback": "backup::claude-m" }))
  try {
    await test({ sick, backup, ask })
    await gateway.close()
    await Promise.all([sick.waitForSockets(0, 1_000), backup.waitForSockets(0, 1_000)])
  } finally {
    await gateway.close()
    await Promise.all([sick.close(), backup.close()])
  }
}

type Scripted = (speaker: Speaker) => Script

const answer = (...faults: ReadonlyArray<Fault>): Scripted => (speaker) =>
  withFault(speaker.say({ text: words }), ...faults)

const inItsPlace = (content: string): Scripted => (speaker) => ({
  ...answerOf(speaker.error(503)),
  status: 200,
  body: { type: "whole", content }
})

const always: Readonly<Record<string, Scripted>> = {
  "429 with too long a retry-after": (speaker) => speaker.error(429, { "retry-after": "60" }),
  "500": (speaker) => speaker.error(500),
  "401": (speaker) => speaker.error(401),
  "a connection reset": answer(fault.reset)
}

const whole: Readonly<Record<string, Scripted>> = {
  "no answer at all": answer(fault.hang),
  "half of an answer": answer(fault.truncate()),
  "an answer that is no JSON": inItsPlace("{\"broken\": "),
  "an error in-band": (speaker) => ({ ...answerOf(speaker.error(503)), status: 200 })
}

const streamed: Readonly<Record<string, Scripted>> = {
  "a cut": (speaker) => answer(fault.cut(speaker.lead - 1))(speaker),
  "an end": (speaker) => answer(fault.end(speaker.lead - 1))(speaker),
  "a malformed line": (speaker) => answer(fault.malformed(speaker.lead - 1))(speaker),
  "an error in-band": (speaker) => answer(fault.errorAfter(speaker.lead - 1))(speaker),
  "a stall": (speaker) => answer(fault.stall(speaker.lead - 1))(speaker),
  "no answer at all": answer(fault.hang)
}

const committed: Readonly<Record<string, Scripted>> = {
  "a cut": (speaker) => answer(fault.cut(speaker.lead))(speaker),
  "an end": (speaker) => answer(fault.end(speaker.lead))(speaker),
  "a malformed line": (speaker) => answer(fault.malformed(speaker.lead))(speaker),
  "an error in-band": (speaker) => answer(fault.errorAfter(speaker.lead))(speaker),
  "a stall": (speaker) => answer(fault.stall(speaker.lead))(speaker)
}

const errorTypes: Readonly<Record<string, ReadonlyArray<string>>> = {
  "an error in-band": ["overloaded_error", "api_error"],
  "a stall": ["timeout_error"]
}

describe.each(Object.entries<Speaker>(speakers))("%s", (type, speaker) => {
  for (const stream of [false, true]) {
    const how = stream ? "streamed" : "whole"
    for (const [says, script] of Object.entries({ ...always, ...(stream ? streamed : whole) })) {
      it(`${how}, before the first content: ${says}: the fallback answers`, () =>
        within(type, async ({ ask, backup, sick }) => {
          sick.always(script(speaker))
          const { body, headers, status, stop, text, types } = await ask(stream)
          assert.deepStrictEqual([status, text, stop], [200, healthy, "end_turn"], body)
          assert.strictEqual(types.filter((type) => type === "message_start").length, stream ? 1 : 0)
          assert.strictEqual(types.at(-1), stream ? "message_stop" : undefined)
          assert.strictEqual(headers.get("x-gateway-fallback-used"), "true")
          assert.strictEqual(headers.get("x-gateway-model"), "backup::claude-m")
          assert.strictEqual(backup.requests.length, 1)
        }, stream ? "total: 10s" : "total: 10s, answer: 200ms"))
    }
  }

  for (const [says, script] of Object.entries(committed)) {
    it(`after the first content: ${says}: an error event, and nothing is asked again`, () =>
      within(type, async ({ ask, backup, sick }) => {
        sick.always(script(speaker))
        const { body, headers, last, status, stop, text, types } = await ask(true)
        assert.deepStrictEqual([status, text, stop], [200, "One ", undefined], body)
        assert.strictEqual(types.at(-1), "error")
        assert.strictEqual(types.filter((type) => type === "error").length, 1)
        assert.notInclude(types, "message_delta")
        assert.notInclude(types, "message_stop")
        assert.deepStrictEqual(Object.keys(isJson(last) ? last : {}), ["type", "error", "request_id"])
        assert.include(errorTypes[says] ?? ["api_error", "overloaded_error"], at(last, "error", "type"))
        assert.strictEqual(at(last, "request_id"), headers.get("request-id"))
        assert.deepStrictEqual([sick.requests.length, backup.requests.length], [1, 0])
      }))
  }
})
