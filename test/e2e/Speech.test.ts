/** Text to speech through the running gateway, with the SDKs that people have, plain HTTP and RPC. */
import { createOpenAI } from "@ai-sdk/openai"
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { generateSpeech } from "ai"
import { Effect, Stream } from "effect"
import { mkdtemp, readdir, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import OpenAI, { APIError } from "openai"
import { GatewayClient } from "../../src/client/index.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { hasRecordings, recordings } from "../fixtures/Recordings.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, json, raw, type Script, sseEvent, stream } from "../fixtures/Script.ts"

let upstream: FakeUpstream
let gateway: RunningGateway
let folder: string

const model = "openai::gpt-4o-mini-tts"
const pieces = ["some ", "sound ", "of a ", "voice"]
const sound = (contentType: string): Script => stream("sse", pieces, { headers: { "content-type": contentType } })
const base64 = (text: string) => Buffer.from(text).toString("base64")
const usage = { input_tokens: 10, output_tokens: 82, total_tokens: 92 }
const events = stream("sse", [
  ...pieces.map((piece) => sseEvent({ type: "speech.audio.delta", audio: base64(piece) })),
  sseEvent({ type: "speech.audio.done", usage })
])

const openai = () => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 })
const asked = { model, input: "Hello, world!", voice: "alloy" } as const

const bodyOf = async (response: Response): Promise<Readonly<Record<string, unknown>>> => {
  const body: unknown = await response.json()
  if (!isJson(body)) return assert.fail(JSON.stringify(body))
  return body
}

/** What the newest usage record adds up to. */
const usageOf = async (): Promise<Readonly<Record<string, unknown>>> => {
  const { rows } = await bodyOf(await fetch(`${gateway.url}/llm-gateway/v1/usage?operation=speak`))
  const [row]: ReadonlyArray<unknown> = Array.isArray(rows) ? rows : []
  return isJson(row) ? row : assert.fail("no records")
}

/** All files below a folder. */
const filesIn = async (path: string): Promise<number> =>
  (await readdir(path, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile()).length

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "speech-"))
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
  spare: { type: openai, base_url: "${upstream.url}/spare/v1", unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: secret, unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "openai::gpt-4o-mini-tts", capabilities: [text_input, speech], prices: { input_mtok: 1, output_mtok: 10, output_audio_mtok: 12 } }
  - { id: "openai::tts-1", capabilities: [text_input, speech], prices: { input_mtok: 0, output_mtok: 0, character_mchar: 15 } }
  - { id: "openai::by-second", capabilities: [text_input, speech], prices: { input_mtok: 0, output_mtok: 0, output_audio_second: 0.01 } }
  - { id: "spare::gpt-4o-mini-tts", capabilities: [text_input, speech], prices: { input_mtok: 1, output_mtok: 10 } }
defaults: { retry: { base: 1ms, max: 2ms }, attempts: 2, unknown_price: free }
storage: { files: { dir: "${folder}" } }
usage: { sinks: [{ type: sql }], durability: strict }`)
})
afterEach(() => upstream.reset())
afterAll(async () => {
  await gateway.close()
  await upstream.close()
  await rm(folder, { recursive: true, force: true })
})

describe("POST /v1/audio/speech", () => {
  it.each(
    [
      ["mp3", "audio/mpeg"],
      ["opus", "audio/opus"],
      ["aac", "audio/aac"],
      ["flac", "audio/flac"],
      ["wav", "audio/wav"],
      ["pcm", "audio/pcm"]
    ] as const
  )("answers OpenAI's SDK with the sound as %s", async (format, contentType) => {
    upstream.always(sound(format === "opus" ? "application/octet-stream" : contentType))
    const request = { ...asked, response_format: format, instructions: "whisper", speed: 1.5 }
    const response = await openai().audio.speech.create(request)
    assert.strictEqual(await response.text(), pieces.join(""))
    assert.strictEqual(response.headers.get("content-type"), contentType)
    assert.strictEqual(response.headers.get("x-gateway-model"), model)
    const got = upstream.request(0)
    assert.strictEqual(got.path, "/v1/audio/speech")
    assert.deepStrictEqual(got.json, { ...request, model: "gpt-4o-mini-tts" })
    assert.strictEqual(got.headers["authorization"], "Bearer secret")
  })

  it("answers Vercel's SDK", async () => {
    upstream.always(sound("audio/mpeg"))
    const provider = createOpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none" })
    const { audio } = await generateSpeech({ model: provider.speech(model), text: "Hello", voice: "alloy" })
    assert.strictEqual(Buffer.from(audio.uint8Array).toString(), pieces.join(""))
  })

  it("hands each piece on as it comes", async () => {
    let go: () => void = () => undefined
    const held = new Promise<void>((resolve) => go = resolve)
    upstream.always(withFault(sound("audio/mpeg"), fault.hold(1, held)))
    const response = await gateway.post("/v1/audio/speech", asked)
    const reader = response.body?.getReader()
    const first = await reader?.read()
    assert.strictEqual(Buffer.from(first?.value ?? []).toString(), "some ")
    go()
    let rest = ""
    for (let next = await reader?.read(); next?.done === false; next = await reader?.read()) {
      rest += Buffer.from(next.value).toString()
    }
    assert.strictEqual(rest, "sound of a voice")
  })

  it("hands events on with stream_format sse, and with what they cost", async () => {
    upstream.always(events)
    const response = await gateway.post("/v1/audio/speech", { ...asked, stream_format: "sse" })
    assert.include(response.headers.get("content-type") ?? "", "text/event-stream")
    const seen: Array<unknown> = (await response.text()).split("\n\n").filter((event) => event !== "")
      .map((event) => JSON.parse(event.replace(/^data: /, "")))
    assert.deepStrictEqual(seen, [
      ...pieces.map((piece) => ({ type: "speech.audio.delta", audio: base64(piece) })),
      { type: "speech.audio.done", usage }
    ])
    assert.strictEqual(upstream.request(0).json["stream_format"], "sse")
  })

  it("makes events of sound where the server knows none", async () => {
    upstream.always(sound("audio/mpeg"))
    const response = await gateway.post("/v1/audio/speech", { ...asked, stream_format: "sse" })
    const text = await response.text()
    const audio = Array.from(text.matchAll(/"audio":"([^"]*)"/g), ([, part = ""]) => Buffer.from(part, "base64"))
    assert.strictEqual(Buffer.concat(audio).toString(), pieces.join(""))
    assert.isTrue(text.endsWith("data: {\"type\":\"speech.audio.done\"}\n\n"))
  })

  it("ends the connection where the sound is cut, so that nobody takes it for whole, and accounts for it", async () => {
    const before = await usageOf()
    upstream.always(withFault(sound("audio/mpeg"), fault.cut(2)))
    const response = await gateway.post("/v1/audio/speech", asked)
    assert.strictEqual(response.status, 200)
    const read = await response.arrayBuffer().then(() => "whole", () => "cut")
    assert.strictEqual(read, "cut")
    const after = await usageOf()
    assert.strictEqual(Number(after["requests"]) - Number(before["requests"]), 1)
    assert.strictEqual(Number(after["characters"]) - Number(before["characters"]), asked.input.length)
  })

  it.each([["cut", fault.cut(1)], ["ended too early", fault.end(1)]] as const)(
    "tells of events that were %s",
    async (_, broken) => {
      upstream.always(withFault(events, broken))
      const response = await gateway.post("/v1/audio/speech", { ...asked, stream_format: "sse" })
      const text = await response.text()
      assert.match(text, /event: error\ndata: \{"type":"error","error":\{/)
      assert.notInclude(text, "speech.audio.done")
    }
  )

  it("closes the upstream when the caller leaves", async () => {
    for (const broken of [fault.stall(1), fault.hang]) {
      const at = upstream.requests.length
      upstream.always(withFault(sound("audio/mpeg"), broken))
      const controller = new AbortController()
      const going = fetch(`${gateway.url}/v1/audio/speech`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(asked),
        signal: controller.signal
      })
      await upstream.waitForRequest(at)
      if (broken === fault.hang) going.catch(() => undefined)
      else await going
      const left = performance.now()
      controller.abort()
      const { closedAt } = await upstream.waitForClose(at)
      assert.isBelow((closedAt ?? Infinity) - left, 100)
    }
  })

  it("falls back until the first sound, and passes over what does not speak", async () => {
    upstream.route("POST", "/spare/v1/audio/speech", sound("audio/mpeg"))
    for (const broken of [openAi.error(503), withFault(sound("audio/mpeg"), fault.cut(0)), json({ text: "no" })]) {
      upstream.always(broken)
      const response = await gateway.post("/v1/audio/speech", asked, {
        "x-gateway-fallback": "anthropic::claude-sonnet-4-5, spare::gpt-4o-mini-tts"
      })
      assert.strictEqual(await response.text(), pieces.join(""))
      assert.strictEqual(response.headers.get("x-gateway-model"), "spare::gpt-4o-mini-tts")
      assert.include(response.headers.get("x-gateway-attempts") ?? "", "anthropic::claude-sonnet-4-5;skipped")
    }
  })

  it("refuses a model that does not speak, and hands on what the provider refuses, in JSON", async () => {
    const refused = await openai().audio.speech.create({ ...asked, model: "anthropic::claude-sonnet-4-5" }).catch((
      error: unknown
    ) => error)
    if (!(refused instanceof APIError)) return assert.fail("no error")
    assert.strictEqual(refused.code, "capability_not_supported")
    upstream.always(openAi.error(400, { message: "there is no such voice", code: "invalid_voice" }))
    const blocked = await openai().audio.speech.create(asked).catch((error: unknown) => error)
    if (!(blocked instanceof APIError)) return assert.fail("no error")
    assert.strictEqual(blocked.status, 400)
    assert.include(blocked.message, "no such voice")
  })

  it.each([
    [{ input: "" }, "input"],
    [{ voice: undefined }, "voice"],
    [{ voice: { name: "x" } }, "voice"],
    [{ speed: 5 }, "speed"],
    [{ speed: "fast" }, "speed"],
    [{ response_format: "x".repeat(100) }, "response_format"],
    [{ stream_format: "bytes" }, "stream_format"]
  ])("names what is wrong with %j", async (wrong, field) => {
    const response = await gateway.post("/v1/audio/speech", { ...asked, ...wrong })
    assert.strictEqual(response.status, 400)
    const { error } = await bodyOf(response)
    assert.strictEqual(isJson(error) ? error["param"] : undefined, field)
    assert.lengthOf(upstream.requests, 0)
  })
})

describe("the native API", () => {
  it("keeps the sound, and answers with its address and what it cost", async () => {
    upstream.always(events)
    const response = await gateway.post("/llm-gateway/v1/speech", { ...asked, stream_format: "sse" })
    const body = await bodyOf(response)
    assert.strictEqual(response.status, 200, JSON.stringify(body))
    assert.include(body, { model_used: model, fallback_used: false, content_type: "audio/mpeg", bytes: 21 })
    assert.strictEqual(body["url"], `/llm-gateway/v1/files/${String(body["file_id"])}`)
    if (!isJson(body["usage"])) return assert.fail("no usage")
    assert.include(body["usage"], { input_tokens: 10, output_audio_tokens: 82, characters: 13 })
    assert.closeTo(Number(body["usage"]["cost_estimate"]), (10 * 1 + 82 * 12) / 1e6, 1e-12)
    assert.isAbove(await filesIn(folder), 0)
  })

  it("keeps nothing of a sound that is cut", async () => {
    const before = await filesIn(folder)
    upstream.always(withFault(sound("audio/mpeg"), fault.cut(2)))
    const response = await gateway.post("/llm-gateway/v1/speech", asked)
    assert.strictEqual(response.status, 502)
    await response.text()
    assert.strictEqual(await filesIn(folder), before)
  })

  it("charges by characters, and by seconds that it measures", async () => {
    upstream.always(raw(200, { "content-type": "audio/pcm" }, new Uint8Array(48_000 * 2)))
    const costOf = async (request: object) => {
      const { usage: told } = await bodyOf(await gateway.post("/llm-gateway/v1/speech", { ...asked, ...request }))
      return isJson(told) ? told["cost_estimate"] : undefined
    }
    assert.strictEqual(await costOf({ model: "openai::tts-1", input: "ab🙂cd" }), 5 * 15 / 1e6)
    assert.strictEqual(await costOf({ model: "openai::by-second", response_format: "pcm" }), 0.02)
  })

  it("answers with the sound itself when asked to stream, or with events", async () => {
    upstream.always(sound("audio/mpeg"))
    const bytes = await gateway.post("/llm-gateway/v1/speech", { ...asked, stream: true })
    assert.strictEqual(bytes.headers.get("content-type"), "audio/mpeg")
    assert.strictEqual(await bytes.text(), pieces.join(""))
    const streamed = await gateway.post("/llm-gateway/v1/speech", { ...asked, stream: true, stream_format: "sse" })
    const text = await streamed.text()
    assert.include(text, `data: {"type":"audio","audio":"${base64("some ")}"`)
    assert.isTrue(text.endsWith("data: [DONE]\n\n"))
  })

  it("makes a job of it", async () => {
    const request = { model: "sandbox::speak", input: "Hello", voice: "any", async: true }
    const job = await bodyOf(await gateway.post("/llm-gateway/v1/speech", request))
    const done = await bodyOf(await fetch(`${gateway.url}/llm-gateway/v1/jobs/${String(job["id"])}?wait=10s`))
    if (!isJson(done["result"])) return assert.fail(JSON.stringify(done))
    assert.match(String(done["result"]["url"]), /^\/llm-gateway\/v1\/files\/file-/)
  })
})

describe("budgets", () => {
  it("set the characters aside, and refuse what may cost more", async () => {
    const poor = await startGateway(`
providers: { sandbox: { type: sandbox } }
models: [{ id: "sandbox::speak", prices: { input_mtok: 0, output_mtok: 0, character_mchar: 100000 } }]
tenants: { default: { budgets: [{ per: tenant, usd: 2, window: total }] } }`)
    try {
      const ask = async (characters: number) => {
        const response = await poor.post("/v1/audio/speech", {
          model: "sandbox::speak",
          input: "x".repeat(characters),
          voice: "any"
        })
        await response.arrayBuffer()
        return response.status
      }
      assert.strictEqual(await ask(21), 402)
      assert.strictEqual(await ask(15), 200)
      assert.strictEqual(await ask(6), 402)
    } finally {
      await poor.close()
    }
  })
})

describe("the sandbox", () => {
  const speak = async (format: string, input = "Hello") =>
    Buffer.from(
      await (await gateway.post("/v1/audio/speech", {
        model: "sandbox::speak",
        input,
        voice: "any",
        response_format: format
      })).arrayBuffer()
    )

  it("speaks WAV files that are valid, and the same for the same text", async () => {
    const wav = await speak("wav")
    assert.strictEqual(wav.subarray(0, 4).toString("latin1"), "RIFF")
    assert.strictEqual(wav.subarray(8, 16).toString("latin1"), "WAVEfmt ")
    assert.strictEqual(wav.readUInt32LE(4), wav.length - 8)
    assert.strictEqual(wav.readUInt32LE(40), wav.length - 44)
    assert.isTrue(wav.equals(await speak("wav")))
    assert.isFalse(wav.equals(await speak("wav", "Byebye")))
    assert.isTrue(wav.subarray(44).equals(await speak("pcm")))
  })

  it("speaks MP3 in whole frames, and refuses what it does not speak", async () => {
    const mp3 = await speak("mp3")
    assert.strictEqual(mp3.length % 417, 0)
    for (let at = 0; at < mp3.length; at += 417) assert.strictEqual(mp3.readUInt16BE(at), 0xfffb)
    const refused = await gateway.post("/v1/audio/speech", {
      model: "sandbox::speak",
      input: "x",
      voice: "any",
      response_format: "flac"
    })
    assert.strictEqual(refused.status, 400)
    await refused.text()
  })
})

describe("over RPC", () => {
  it.live("speech comes kept and streamed", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      const request = { model: "sandbox::speak", input: "Hello", voice: "any", responseFormat: "wav" }
      const kept = yield* client.speak(request)
      const chunks = yield* Stream.runCollect(client.streamSpeech(request))
      const bytes = chunks.reduce((sum, { audio }) => sum + (audio?.length ?? 0), 0)
      assert.strictEqual(kept.bytes, bytes)
      assert.strictEqual(chunks[0]?.contentType, "audio/wav")
      assert.strictEqual(chunks.at(-1)?.usage?.characters, 5)
    }).pipe(Effect.provide(GatewayClient.layerHttp({ url: gateway.url }))))
})

describe.skipIf(!hasRecordings)("recordings", () => {
  const recorded = recordings("openai").filter(({ request }) => request.path === "/v1/audio/speech")

  it("are there", () => assert.isAbove(recorded.length, 3))

  it.each(recorded.map((recording) => [recording.name, recording] as const))(
    "%s passes through",
    async (_, { request, response }) => {
      const content = response.bytes ?? `${(response.lines ?? []).join("\n")}\n`
      upstream.always(raw(response.status, { "content-type": response.headers["content-type"] ?? "" }, content))
      const answered = await gateway.post("/v1/audio/speech", { ...request.body, model: "openai::recorded" })
      assert.strictEqual(answered.status, response.status)
      assert.strictEqual(
        answered.headers.get("content-type")?.split(";")[0],
        response.headers["content-type"]?.split(";")[0]
      )
      const bytes = Buffer.from(await answered.arrayBuffer())
      if (response.bytes === undefined) {
        assert.strictEqual(
          bytes.toString(),
          (response.lines ?? []).filter((line) => line.startsWith("data: {")).map((line) => `${line.trim()}\n\n`).join(
            ""
          )
        )
      } else assert.isTrue(bytes.equals(response.bytes))
      assert.deepStrictEqual(upstream.request(0).json, { ...request.body, model: "recorded" })
    }
  )
})
