/** What holds within a realtime session: limits and budgets for each response, records, interceptors, the end of the service. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { callRealtime, type RealtimeCaller } from "../fixtures/RealtimeCaller.ts"
import { type Connection, type RealtimeUpstream, startRealtimeUpstream } from "../fixtures/RealtimeUpstream.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"

let upstream: RealtimeUpstream

const model = "openai::gpt-realtime"
const usage = (input: number, output: number) => ({
  total_tokens: input + output,
  input_tokens: input,
  output_tokens: output,
  input_token_details: { text_tokens: 0, audio_tokens: input, cached_tokens: 0 },
  output_token_details: { text_tokens: 0, audio_tokens: output }
})

const configuration = (tenant: string, more = ""): string => `
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
models:
  - { id: "${model}", capabilities: [audio_input, audio_output, realtime_audio], prices: { input_mtok: 4, output_mtok: 16, input_audio_mtok: 32, output_audio_mtok: 64 } }
  - { id: "openai::whisper-1", prices: { input_mtok: 0, output_mtok: 0, input_audio_second: 0.0001 } }
tenants: { default: ${tenant} }
usage: { durability: strict, sinks: [{ type: sql }] }
${more}`

beforeAll(async () => {
  upstream = await startRealtimeUpstream()
})
afterAll(async () => {
  await upstream.close()
})

interface Session {
  readonly caller: RealtimeCaller
  readonly provider: Connection
}

const connect = async (at: RunningGateway): Promise<Session> => {
  const index = upstream.connections.length
  const caller = await callRealtime(`${at.url}/v1/realtime?model=${encodeURIComponent(model)}`)
  return { caller, provider: await upstream.connection(index) }
}

/** A gateway with one configuration, for as long as `use` runs. */
const using = async (tenant: string, more: string, use: (gateway: RunningGateway) => Promise<void>): Promise<void> => {
  const running = await startGateway(configuration(tenant, more))
  try {
    await use(running)
  } finally {
    await running.close()
  }
}

const respond = ({ provider }: Session, id: string, tokens = usage(10, 20)): void => {
  provider.say({ type: "response.created", response: { id } })
  provider.say({ type: "response.done", response: { id, status: "completed", usage: tokens } })
}

const read = async (at: RunningGateway, path: string): Promise<unknown> => (await fetch(at.url + path)).json()

describe("limits", () => {
  it("end the session at the response that is beyond them, with the code for that", () =>
    using("{ rate_limits: [{ requests: 2, per: tenant, window: 1h }] }", "", async (running) => {
      const session = await connect(running)
      const { caller, provider } = session
      caller.say({ type: "response.create", event_id: "one" })
      await provider.heard("response.create")
      respond(session, "resp_1")
      await caller.heard("response.done")
      caller.say({ type: "response.create", event_id: "two" })
      const { error } = await caller.heard("error")
      assert.deepInclude(error, { code: "rate_limited", event_id: "two" })
      const closed = await caller.closed
      assert.strictEqual(closed.code, 1008)
      assert.include(closed.reason, "2 requests per hour")
      assert.strictEqual((await provider.closed).code, 1000)
      // The one that was refused never went on.
      assert.lengthOf(provider.received, 1)
      assert.deepInclude(caller.events.at(-1), { type: "gateway.usage", responses: 1 })
    }))

  it("cancel a response that the provider has begun by itself", () =>
    using("{ rate_limits: [{ requests: 1, per: tenant, window: 1h }] }", "", async (running) => {
      const session = await connect(running)
      const { caller, provider } = session
      provider.say({ type: "response.created", response: { id: "resp_1" } })
      const cancel = await provider.heard("response.cancel")
      assert.strictEqual(cancel["response_id"], "resp_1")
      provider.say({
        type: "response.done",
        response: { id: "resp_1", status: "cancelled", usage: usage(7, 3) }
      })
      assert.deepInclude((await caller.heard("error"))["error"], { code: "rate_limited" })
      assert.strictEqual((await caller.closed).code, 1008)
      // What it had made by then is paid for.
      const summary = await caller.heard("gateway.usage")
      assert.deepInclude(summary["usage"], { input_audio_tokens: 7, output_audio_tokens: 3 })
    }))

  it("of concurrent requests hold for the session, and not for its responses beside it", () =>
    using("{ rate_limits: [{ concurrent: 1, per: tenant }] }", "", async (running) => {
      const session = await connect(running)
      session.caller.say({ type: "response.create" })
      await session.provider.heard("response.create")
      respond(session, "resp_1")
      await session.caller.heard("response.done")
      const refused: unknown = await connect(running).catch((refusal: unknown) => refusal)
      assert.deepInclude(refused, { status: 429 })
      session.caller.socket.close()
      await session.provider.closed
    }))

  it("of money are drawn from by each response, and end the session when it is used up", () =>
    using("{ budgets: [{ per: tenant, usd: 0.4, window: total }] }", "", async (running) => {
      const session = await connect(running)
      const { caller, provider } = session
      caller.say({ type: "response.create" })
      await provider.heard("response.create")
      // 1,000 × 32 + 2,000 × 64 millionths of a dollar.
      respond(session, "resp_1", usage(1_000, 2_000))
      await caller.heard("response.done")
      caller.say({ type: "response.create" })
      assert.deepInclude((await caller.heard("error"))["error"], { code: "budget_exceeded" })
      assert.strictEqual((await caller.closed).code, 1008)
      const budgets = JSON.stringify(await read(running, "/llm-gateway/v1/budgets"))
      assert.include(budgets, "\"spent_usd\":0.16,")
      assert.include(budgets, "\"remaining_usd\":0.24")
    }))
})

describe("records", () => {
  it("add up to what the provider told, transcripts by their own price", () =>
    using("{}", "", async (running) => {
      const session = await connect(running)
      const { caller, provider } = session
      provider.say({
        type: "session.created",
        session: { audio: { input: { transcription: { model: "whisper-1" } } } }
      })
      provider.say({
        type: "conversation.item.input_audio_transcription.completed",
        item_id: "item_1",
        content_index: 0,
        transcript: "Good morning.",
        usage: { type: "duration", seconds: 2.5 }
      })
      for (const [at, [input, output]] of [[11, 13], [17, 19], [23, 29]].entries()) {
        respond(session, `resp_${at}`, usage(input ?? 0, output ?? 0))
        await caller.heard("response.done")
      }
      const report = JSON.stringify(await read(running, "/llm-gateway/v1/usage?group_by=model"))
      assert.match(
        report,
        /gpt-realtime"[^}]*\},"requests":3[^}]*"input_audio_tokens":51,[^}]*"output_audio_tokens":61/
      )
      assert.match(report, /whisper-1"[^}]*\},"requests":1[^}]*"input_audio_ms":2500[^}]*"cost_usd":0.00025/)
      caller.socket.close(1000)
      await provider.closed
    }))
})

const guards = `
interceptors:
  hide: { type: pii, redact: [email] }
  guard: { type: prompt-guard, deny: [{ name: secrets, pattern: "open sesame" }] }`

const item = (text: string) => ({
  type: "conversation.item.create",
  event_id: "mine",
  item: { type: "message", role: "user", content: [{ type: "input_text", text }] }
})

describe("interceptors", () => {
  it("change and block what the caller writes, and touch nothing else", () =>
    using("{ interceptors: [hide, guard] }", guards, async (running) => {
      const { caller, provider } = await connect(running)
      caller.say(item("Please open sesame."))
      const { error } = await caller.heard("error")
      assert.deepInclude(error, { code: "request_blocked", event_id: "mine" })
      caller.say(item("I am ann@example.com"))
      const changed = JSON.stringify(await provider.heard("conversation.item.create"))
      assert.notInclude(changed, "ann@example.com")
      // A second type does not hide an item from them.
      caller.socket.send(`{"type":"input_audio_buffer.append",${JSON.stringify(item("open sesame")).slice(1)}`)
      assert.deepInclude((await caller.heard("error"))["error"], { code: "request_blocked" })
      caller.say({ type: "session.update", session: { instructions: "open sesame" } })
      assert.deepInclude((await caller.heard("error"))["error"], { code: "request_blocked" })
      caller.say({ type: "last" })
      await provider.heard("last")
      assert.lengthOf(provider.received, 2)
      caller.socket.close()
      await provider.closed
    }))

  it("look at what the model says as soon as it is whole, wherever it is told", () =>
    using("{ interceptors: [hide] }", guards, async (running) => {
      const { caller, provider } = await connect(running)
      const place = { response_id: "resp_1", item_id: "item_1", output_index: 0, content_index: 0 }
      const transcript = "Write to bob@example.com."
      provider.say({ type: "response.created", response: { id: "resp_1" } })
      provider.say({ type: "response.output_audio.delta", ...place, delta: "AAAA" })
      for (const delta of ["Write to bob@", "example.com."]) {
        provider.say({ type: "response.output_audio_transcript.delta", ...place, delta })
      }
      provider.say({ type: "response.output_audio_transcript.done", ...place, transcript })
      const message = { id: "item_1", role: "assistant", content: [{ type: "output_audio", transcript }] }
      provider.say({ type: "response.output_item.done", response_id: "resp_1", item: message })
      provider.say({
        type: "response.done",
        response: { id: "resp_1", status: "completed", output: [message], usage: usage(1, 1) }
      })
      await caller.heard("response.done")
      const heard = JSON.stringify(caller.events)
      assert.notInclude(heard, "bob@")
      assert.include(heard, "\"delta\":\"AAAA\"")
      assert.lengthOf(caller.events.filter(({ type }) => type === "response.output_audio_transcript.done"), 1)
      // Who looks at nothing in particular gets what came.
      provider.say({ type: "response.output_text.delta", ...place, item_id: "item_2", delta: "Fine." })
      provider.say({ type: "response.output_text.done", ...place, item_id: "item_2", text: "Fine." })
      await caller.heard("response.output_text.done")
      assert.deepInclude(await caller.heard("response.output_text.delta"), { delta: "Fine." })
      caller.socket.close()
      await provider.closed
    }))
})

describe("an interceptor that blocks what the model says", () => {
  it("has the response cancelled, and its text told nowhere", () =>
    using("{ interceptors: [stop] }", "interceptors: { stop: { type: pii, action: block } }", async (running) => {
      const { caller, provider } = await connect(running)
      const place = { response_id: "resp_1", item_id: "item_1", output_index: 0, content_index: 0 }
      const text = "Write to bob@example.com."
      provider.say({ type: "response.created", response: { id: "resp_1" } })
      provider.say({ type: "response.output_text.delta", ...place, delta: text })
      provider.say({ type: "response.output_text.done", ...place, text })
      assert.deepInclude((await caller.heard("error"))["error"], { code: "response_blocked" })
      assert.deepInclude(await provider.heard("response.cancel"), { response_id: "resp_1" })
      const message = { id: "item_1", role: "assistant", content: [{ type: "output_text", text }] }
      provider.say({
        type: "response.done",
        response: { id: "resp_1", status: "cancelled", output: [message], usage: usage(2, 2) }
      })
      await caller.heard("response.done")
      assert.notInclude(JSON.stringify(caller.events), "bob@")
      // The session goes on.
      provider.say({ type: "response.created", response: { id: "resp_2" } })
      await caller.heard("response.created")
      caller.socket.close()
      await provider.closed
    }))
})

describe("the audit trail", () => {
  it("tells of the session's start and end, and of each response's, by the session's request id", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "realtime-audit-"))
    const file = path.join(folder, "audit.jsonl")
    await using("{}", `audit: { sinks: [{ type: jsonl, path: "${file}" }] }`, async (running) => {
      const index = upstream.connections.length
      const caller = await callRealtime(`${running.url}/v1/realtime?model=${encodeURIComponent(model)}`, {
        headers: { "x-request-id": "the-session" }
      })
      const provider = await upstream.connection(index)
      respond({ caller, provider }, "resp_1")
      await caller.heard("response.done")
      caller.socket.close(1000)
      await provider.closed
    })
    const lines = readFileSync(file, "utf8")
    rmSync(folder, { recursive: true })
    const told = Array.from(lines.matchAll(/"type":"(request_\w+)"/g), ([, type]) => type)
    assert.deepStrictEqual(told, ["request_started", "request_started", "request_completed", "request_completed"])
    assert.lengthOf(Array.from(lines.matchAll(/the-session/g)), 4)
  })
})

describe("a session's own model", () => {
  it("is what events may name, under any of its names, and no other", () =>
    using("{}", "", async (running) => {
      const { caller, provider } = await connect(running)
      caller.say({ type: "session.update", session: { model, voice: "x" } })
      assert.deepInclude((await provider.heard("session.update"))["session"], { model: "gpt-realtime", voice: "x" })
      caller.say({ type: "session.update", session: { model: "gpt-realtime-pro" } })
      assert.deepInclude((await caller.heard("error"))["error"], { code: "validation_error" })
      caller.socket.close()
      await provider.closed
    }))
})

describe("the end of the service", () => {
  it("lets a response finish, and then says that it is worth connecting again", async () => {
    const running = await startGateway(configuration("{}"))
    const session = await connect(running)
    const idle = await connect(running)
    session.provider.say({ type: "response.created", response: { id: "resp_1" } })
    await session.caller.heard("response.created")
    const over = running.close()
    assert.strictEqual((await idle.caller.closed).code, 1012)
    assert.strictEqual((await idle.provider.closed).code, 1001)
    session.caller.say({ type: "response.create" })
    assert.deepInclude((await session.caller.heard("error"))["error"], { code: "overloaded" })
    session.provider.say({
      type: "response.done",
      response: { id: "resp_1", status: "completed", usage: usage(1, 1) }
    })
    await session.caller.heard("response.done")
    assert.strictEqual((await session.caller.closed).code, 1012)
    await over
  })

  it("cuts off what does not finish in time", async () => {
    const running = await startGateway(configuration("{}"))
    const { caller, provider } = await connect(running)
    provider.say({ type: "response.created", response: { id: "resp_1" } })
    await caller.heard("response.created")
    const over = running.close()
    assert.strictEqual((await caller.closed).code, 1001)
    assert.strictEqual((await provider.closed).code, 1001)
    await over
  })
})
