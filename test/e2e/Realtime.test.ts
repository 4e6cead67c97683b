/** Realtime sessions through the running gateway: with OpenAI's SDK, with `ws`, and with what is no proper caller. */
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { randomBytes } from "node:crypto"
import OpenAI from "openai"
import { OpenAIRealtimeWS } from "openai/realtime/ws"
import { type RawServer, tlsBefore } from "../fixtures/RawServer.ts"
import { callRealtime, refusedRealtime } from "../fixtures/RealtimeCaller.ts"
import { type RealtimeUpstream, startRealtimeUpstream } from "../fixtures/RealtimeUpstream.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"

let upstream: RealtimeUpstream
let spare: RealtimeUpstream
let gateway: RunningGateway
let tls: RawServer

/** Of "secret". */
const sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
const authorization = { authorization: "Bearer secret" }

beforeAll(async () => {
  upstream = await startRealtimeUpstream()
  spare = await startRealtimeUpstream()
  gateway = await startGateway(`
auth: { mode: keys, keys: [{ id: app, sha256: ${sha256}, tenant: acme, models: ["openai::*", "spare::*", "sandbox::*"] }] }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  spare: { type: openai, base_url: "${spare.url}/v1", api_key: spare-key, unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "openai::gpt-realtime", capabilities: [audio_input, audio_output, realtime_audio], prices: { input_mtok: 4, output_mtok: 16, input_audio_mtok: 32, output_audio_mtok: 64, cache_read_mtok: 0.4 } }
  - { id: "spare::gpt-realtime", capabilities: [audio_input, audio_output, realtime_audio] }
  - { id: "openai::gpt-4o", capabilities: [text_input, text_output] }
routes:
  voice: { models: ["openai::gpt-realtime", "spare::gpt-realtime"] }
realtime: { secret: 0123456789abcdef0123456789abcdef }
`)
  tls = await tlsBefore(Number(new URL(gateway.url).port))
})
afterEach(() => {
  upstream.refuse(undefined)
  upstream.onConnection(undefined)
})
afterAll(async () => {
  await tls.close()
  await gateway.close()
  await upstream.close()
  await spare.close()
})

const address = (model = "openai::gpt-realtime") => `${gateway.url}/v1/realtime?model=${encodeURIComponent(model)}`
/** A session, with the provider's end of it. */
const session = async (model?: string) => {
  const at = upstream.connections.length
  const caller = await callRealtime(address(model), { headers: authorization })
  return { caller, provider: await upstream.connection(at) }
}

const usage = {
  total_tokens: 300,
  input_tokens: 200,
  output_tokens: 100,
  input_token_details: {
    text_tokens: 80,
    audio_tokens: 120,
    cached_tokens: 64,
    cached_tokens_details: { text_tokens: 32, audio_tokens: 32 }
  },
  output_token_details: { text_tokens: 20, audio_tokens: 80 }
}

describe("GET /v1/realtime", () => {
  it("carries a conversation of OpenAI's SDK with the sandbox", async () => {
    const client = new OpenAI({ baseURL: `https://127.0.0.1:${tls.port}/v1`, apiKey: "secret" })
    const realtime = new OpenAIRealtimeWS(
      { model: "sandbox::realtime", options: { rejectUnauthorized: false } },
      client
    )
    const sound = Array.from({ length: 5 }, () => randomBytes(960).toString("base64"))
    const said: Array<string> = []
    realtime.on("error", (error) => assert.fail(error.message))
    realtime.on("response.output_audio.delta", ({ delta }) => said.push(delta))
    const heard = new Promise<string>((resolve) => {
      realtime.on("conversation.item.input_audio_transcription.completed", ({ transcript }) => resolve(transcript))
    })
    const done = new Promise<number | undefined>((resolve) => {
      realtime.on("response.done", ({ response }) => resolve(response.usage?.total_tokens))
    })
    realtime.socket.on("open", () => {
      for (const audio of sound) realtime.send({ type: "input_audio_buffer.append", audio })
      realtime.send({ type: "input_audio_buffer.commit" })
      realtime.send({ type: "response.create" })
    })
    assert.strictEqual(await heard, "Hello, sandbox.")
    assert.isAbove((await done) ?? 0, 0)
    assert.deepStrictEqual(said, sound)
    const closed = new Promise<number>((resolve) => {
      realtime.socket.on("close", resolve)
    })
    realtime.close()
    assert.strictEqual(await closed, 1000)
  })

  it("hands on every frame in both directions byte for byte and in order", async () => {
    const { caller, provider } = await session()
    const odd = [
      "{\"type\":\"something.new\", \"x\": 1e400 , \"é\":\"\\u00e9\"}",
      " { \"audio\" : \"AAAA\\\\\\\"\" , \"type\" : \"input_audio_buffer.append\" } ",
      "no JSON at all",
      "",
      "[1,2,3]"
    ]
    for (const text of odd) caller.socket.send(text)
    const bytes = randomBytes(100_000)
    caller.socket.send(bytes)
    caller.say({ type: "last" })
    await provider.heard("last")
    assert.deepStrictEqual(provider.received.slice(0, odd.length).map(({ data }) => data.toString()), odd)
    assert.isTrue(provider.received[odd.length]?.isBinary)
    assert.isTrue(provider.received[odd.length]?.data.equals(bytes))
    for (const text of odd) provider.say(text)
    provider.socket.send(bytes)
    provider.say({ type: "last" })
    await caller.heard("last")
    const binary = caller.events.find(({ type }) => type === "binary")
    assert.isTrue(binary?.["data"] instanceof Buffer && binary["data"].equals(bytes))
    caller.socket.close(1000)
    await provider.closed
  })

  it("calls the provider with its own key and model, never with the caller's", async () => {
    const at = upstream.connections.length
    const caller = await callRealtime(address(), {
      protocols: ["realtime", "openai-insecure-api-key.secret", "openai-beta.realtime-v1"]
    })
    assert.strictEqual(caller.socket.protocol, "realtime")
    const provider = await upstream.connection(at)
    assert.strictEqual(provider.url, "/v1/realtime?model=gpt-realtime")
    assert.strictEqual(provider.headers.authorization, "Bearer upstream-key")
    assert.strictEqual(provider.headers["openai-beta"], "realtime=v1")
    assert.notInclude(JSON.stringify(provider.headers), "secret")
    caller.socket.close()
    await provider.closed
  })

  it("refuses before the upgrade with an ordinary error", async () => {
    const unauthorized = await refusedRealtime(address())
    assert.strictEqual(unauthorized.status, 401)
    assert.strictEqual(JSON.parse(unauthorized.body).error.code, "unauthorized")
    const unnamed = await refusedRealtime(`${gateway.url}/v1/realtime`, { headers: authorization })
    assert.strictEqual(unnamed.status, 400)
    const unfit = await refusedRealtime(address("openai::gpt-4o"), { headers: authorization })
    assert.strictEqual(unfit.status, 422)
    assert.strictEqual(JSON.parse(unfit.body).error.code, "capability_not_supported")
    const plain = await fetch(address(), { headers: authorization })
    assert.strictEqual(plain.status, 400)
    upstream.refuse({ status: 429, body: "{\"error\":{\"message\":\"too many\",\"code\":\"rate_limit_exceeded\"}}" })
    const limited = await refusedRealtime(address(), { headers: authorization })
    assert.strictEqual(limited.status, 429)
  })

  it("connects the next candidate where the first one refuses", async () => {
    upstream.refuse({ status: 503, body: "{}" })
    const caller = await callRealtime(address("voice"), { headers: authorization })
    const provider = await spare.connection(0)
    provider.say({ type: "session.created", session: {} })
    await caller.heard("session.created")
    caller.socket.close(1000)
    await provider.closed
  })

  it("mirrors how either side ends", async () => {
    const first = await session()
    first.provider.socket.close(4001, "enough")
    const byProvider = await first.caller.closed
    assert.deepStrictEqual([byProvider.code, byProvider.reason], [4001, "enough"])
    const second = await session()
    second.caller.socket.close(3000, "bye")
    const byCaller = await second.provider.closed
    assert.deepStrictEqual([byCaller.code, byCaller.reason], [3000, "bye"])
  })

  it("closes the other side within 100 ms where one is killed", async () => {
    const first = await session()
    const killedProvider = performance.now()
    first.provider.socket.terminate()
    const caller = await first.caller.closed
    assert.strictEqual(caller.code, 1011)
    assert.isBelow(caller.at - killedProvider, 100)
    const second = await session()
    const killedCaller = performance.now()
    second.caller.socket.terminate()
    const provider = await second.provider.closed
    assert.strictEqual(provider.code, 1001)
    assert.isBelow(provider.at - killedCaller, 100)
  })

  it("tells at the end what the session consumed", async () => {
    const { caller, provider } = await session()
    caller.say({ type: "response.create" })
    await provider.heard("response.create")
    provider.say({ type: "response.created", response: { id: "resp_1" } })
    provider.say({ type: "response.done", response: { id: "resp_1", status: "completed", usage } })
    // Server VAD: nobody has asked for this one.
    provider.say({ type: "response.created", response: { id: "resp_2" } })
    provider.say({ type: "response.done", response: { id: "resp_2", status: "cancelled", usage } })
    provider.socket.close(1000)
    const { duration_ms: _, event_id: _id, session_id: _session, ...told } = await caller.heard("gateway.usage")
    assert.deepStrictEqual(told, {
      type: "gateway.usage",
      responses: 2,
      transcriptions: 0,
      usage: {
        input_tokens: 96,
        output_tokens: 40,
        cache_read_tokens: 128,
        input_audio_tokens: 176,
        output_audio_tokens: 160,
        // (48 × 4 + 20 × 16 + 64 × 0.4 + 88 × 32 + 80 × 64) millionths, twice.
        cost_estimate: 0.0169472
      }
    })
    await caller.closed
  })
})

describe("POST /v1/realtime/client_secrets", () => {
  const client = () => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "secret", maxRetries: 0 })
  const secretFor = async (session: object, seconds = 60) => {
    const body = { expires_after: { anchor: "created_at", seconds }, session: { type: "realtime", ...session } }
    const answer = await gateway.post("/v1/realtime/client_secrets", body, authorization)
    const text = await answer.text()
    assert.strictEqual(answer.status, 200, text)
    return String(JSON.parse(text).value)
  }
  const shown = (secret: string) => ({ protocols: ["realtime", `openai-insecure-api-key.${secret}`] })

  it("makes secrets for OpenAI's SDK, which open sessions with their model and nothing else", async () => {
    const { expires_at, value } = await client().realtime.clientSecrets.create({
      expires_after: { anchor: "created_at", seconds: 60 },
      session: { type: "realtime", model: "openai::gpt-realtime" }
    })
    assert.match(value, /^ek_/)
    assert.approximately(expires_at, Date.now() / 1000 + 60, 5)
    const at = upstream.connections.length
    const caller = await callRealtime(address(), shown(value))
    const provider = await upstream.connection(at)
    assert.notInclude(JSON.stringify(provider.headers), value)
    caller.socket.close()
    await provider.closed
    // Without a model in the address it is that of the secret.
    const unnamed = await callRealtime(`${gateway.url}/llm-gateway/v1/realtime`, shown(value))
    unnamed.socket.close()
    assert.strictEqual((await refusedRealtime(address("sandbox::realtime"), shown(value))).status, 403)
    const chat = await gateway.post("/v1/chat/completions", {}, { authorization: `Bearer ${value}` })
    assert.strictEqual(chat.status, 401)
    const more = await gateway.post("/v1/realtime/client_secrets", {}, { authorization: `Bearer ${value}` })
    assert.strictEqual(more.status, 401)
  })

  it("sets the session up as the secret says, before anything of the caller's", async () => {
    const secret = await secretFor({ model: "openai::gpt-realtime", instructions: "Be brief." })
    const at = upstream.connections.length
    const caller = await callRealtime(address(), shown(secret))
    caller.say({ type: "response.create" })
    const provider = await upstream.connection(at)
    await provider.heard("response.create")
    assert.deepStrictEqual(JSON.parse(String(provider.received[0]?.data)), {
      type: "session.update",
      session: { type: "realtime", instructions: "Be brief." }
    })
    caller.socket.close()
    await provider.closed
  })

  it("makes none for models that the caller may not use, too long a time, or too large a setup", async () => {
    const asked = (session: object, seconds = 60) =>
      gateway.post("/v1/realtime/client_secrets", { expires_after: { seconds }, session }, authorization)
        .then(({ status }) => status)
    assert.strictEqual(await asked({ model: "nobody::has-it" }), 404)
    assert.strictEqual(await asked({ model: "openai::gpt-realtime" }, 100_000), 400)
    assert.strictEqual(await asked({}), 400)
    assert.strictEqual(await asked({ model: "openai::gpt-realtime", instructions: "a".repeat(10_000) }), 400)
  })

  it("takes on one replica what another one has made, from the same tenant's key alone, and nothing that was changed", async () => {
    const secret = await secretFor({ model: "sandbox::realtime" })
    const replica = (tenant: string, own: string) =>
      startGateway(`
auth: { mode: keys, keys: [{ id: app, sha256: ${sha256}, tenant: ${tenant} }] }
tenants: { ${tenant}: {} }
providers: { sandbox: { type: sandbox } }
realtime: { secret: ${own} }
`)
    const statusAt = async (at: RunningGateway, key: string): Promise<number> => {
      const answer: unknown = await callRealtime(`${at.url}/v1/realtime?model=sandbox::realtime`, shown(key)).then(
        ({ socket }) => {
          socket.close()
          return { status: 101 }
        },
        (refusal: unknown) => refusal
      )
      return typeof answer === "object" && answer !== null && "status" in answer ? Number(answer.status) : 0
    }
    const same = await replica("acme", "0123456789abcdef0123456789abcdef")
    const foreign = await replica("globex", "0123456789abcdef0123456789abcdef")
    const other = await replica("acme", "another-secret-of-32-characters-")
    try {
      assert.strictEqual(await statusAt(same, secret), 101)
      assert.strictEqual(await statusAt(foreign, secret), 403)
      assert.strictEqual(await statusAt(other, secret), 401)
      for (const at of [3, 20, Math.floor(secret.length / 2), secret.length - 2]) {
        const changed = secret.slice(0, at) + (secret[at] === "A" ? "B" : "A") + secret.slice(at + 1)
        assert.strictEqual(await statusAt(same, changed), 401, `at ${at}`)
      }
    } finally {
      await Promise.all([same.close(), foreign.close(), other.close()])
    }
  })
})
