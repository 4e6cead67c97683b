/** Speech to text through the running gateway, with the SDKs that people have, plain HTTP and RPC. */
import { createOpenAI } from "@ai-sdk/openai"
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { transcribe } from "ai"
import { Effect, Stream } from "effect"
import { mkdtemp, readdir, readlink, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import OpenAI, { APIError } from "openai"
import { GatewayClient } from "../../src/client/index.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { hasRecordings, recordings } from "../fixtures/Recordings.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, json, raw, sseEvent, stream } from "../fixtures/Script.ts"

let upstream: FakeUpstream
let gateway: RunningGateway
let folder: string

const model = "openai::gpt-4o-transcribe"
const usage = {
  type: "tokens",
  input_tokens: 30,
  input_token_details: { text_tokens: 10, audio_tokens: 20 },
  output_tokens: 5,
  total_tokens: 35
}
const answer = json({ text: "Hello there.", usage })
const events = stream("sse", [
  sseEvent({ type: "transcript.text.delta", delta: "Hello" }),
  sseEvent({ type: "transcript.text.delta", delta: " there.", logprobs: [] }),
  sseEvent({ type: "transcript.text.done", text: "Hello there.", usage })
])

const openai = () => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 })

/** A WAV file of so many ms of silence, 8 kHz, 8 bits. */
const wav = (ms: number): Buffer => {
  const head = Buffer.alloc(44)
  head.write("RIFF", 0, "latin1")
  head.writeUInt32LE(36 + ms * 8, 4)
  head.write("WAVEfmt ", 8, "latin1")
  head.writeUInt32LE(16, 16)
  head.writeUInt16LE(1, 20)
  head.writeUInt16LE(1, 22)
  head.writeUInt32LE(8_000, 24)
  head.writeUInt32LE(8_000, 28)
  head.writeUInt16LE(1, 32)
  head.writeUInt16LE(8, 34)
  head.write("data", 36, "latin1")
  head.writeUInt32LE(ms * 8, 40)
  return Buffer.concat([head, Buffer.alloc(ms * 8, 128)])
}

const sound = wav(2_000)
const file = (content: Uint8Array = sound, name = "speech.wav") =>
  new File([Buffer.from(content)], name, { type: "audio/wav" })

/** A form in the order given. */
const form = (...parts: ReadonlyArray<readonly [string, string | File]>): FormData => {
  const made = new FormData()
  for (const [name, value] of parts) made.append(name, value)
  return made
}

const send = (body: FormData, path = "/v1/audio/transcriptions", init: RequestInit = {}) =>
  fetch(gateway.url + path, { method: "POST", body, ...init })

const bodyOf = async (response: Response): Promise<Readonly<Record<string, unknown>>> => {
  const body: unknown = await response.json()
  if (!isJson(body)) return assert.fail(JSON.stringify(body))
  return body
}

/** The form that the upstream got. */
const formAt = async (index: number) => {
  const { bytes, headers } = upstream.request(index)
  const got = await new Response(Buffer.from(bytes), { headers: { "content-type": headers["content-type"] ?? "" } })
    .formData()
  const upload = got.get("file")
  if (!(upload instanceof File)) return assert.fail("no file")
  const fields = Array.from(got.entries()).flatMap(([name, value]) => typeof value === "string" ? [[name, value]] : [])
  return { fields, upload, bytes: Buffer.from(await upload.arrayBuffer()) }
}

/** Files without a name that this process has open, which a request's upload is. */
const spooled = async (): Promise<number> => {
  const links = await Promise.all(
    (await readdir("/proc/self/fd")).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => ""))
  )
  return links.filter((link) => link.includes("llm-gateway-")).length
}

const named = async (): Promise<number> =>
  (await readdir(tmpdir())).filter((name) => /^llm-gateway-[0-9a-f]{8}-/.test(name)).length

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "transcription-"))
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
  spare: { type: openai, base_url: "${upstream.url}/spare/v1", unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: secret, unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "openai::gpt-4o-transcribe", capabilities: [audio_input, transcription], prices: { input_mtok: 2, input_audio_mtok: 6, output_mtok: 10 } }
  - { id: "openai::whisper-1", capabilities: [audio_input, transcription], prices: { input_mtok: 0, output_mtok: 0, input_audio_second: 0.0001 } }
  - { id: "spare::whisper-1", capabilities: [audio_input, transcription], prices: { input_mtok: 0, output_mtok: 0, input_audio_second: 0.0001 } }
defaults: { retry: { base: 1ms, max: 2ms }, attempts: 2, unknown_price: free }
storage: { files: { dir: "${folder}", max_size: 2MB } }
usage: { sinks: [{ type: sql }] }`)
})
afterEach(() => upstream.reset())
afterAll(async () => {
  await gateway.close()
  await upstream.close()
  await rm(folder, { recursive: true, force: true })
})

describe("POST /v1/audio/transcriptions", () => {
  it("answers OpenAI's SDK as the provider did, with all that was asked for", async () => {
    upstream.always(answer)
    const response = await openai().audio.transcriptions.create({
      file: file(),
      model,
      language: "en",
      prompt: "names: Ann",
      temperature: 0.5,
      response_format: "json",
      include: ["logprobs"],
      chunking_strategy: "auto",
      timestamp_granularities: ["word", "segment"]
    })
    assert.deepStrictEqual<unknown>({ ...response }, { text: "Hello there.", usage })
    const { bytes, fields, upload } = await formAt(0)
    assert.deepStrictEqual(fields.map((field) => field.join("=")).toSorted(), [
      "chunking_strategy=auto",
      "include[]=logprobs",
      "language=en",
      "model=gpt-4o-transcribe",
      "prompt=names: Ann",
      "response_format=json",
      "temperature=0.5",
      "timestamp_granularities[]=segment",
      "timestamp_granularities[]=word"
    ])
    assert.strictEqual(upload.name, "speech.wav")
    assert.strictEqual(upload.type, "audio/wav")
    assert.isTrue(bytes.equals(sound))
    const { headers, path } = upstream.request(0)
    assert.strictEqual(path, "/v1/audio/transcriptions")
    assert.strictEqual(headers["authorization"], "Bearer secret")
    assert.isDefined(headers["content-length"])
  })

  it("answers Vercel's SDK", async () => {
    upstream.always(answer)
    const provider = createOpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none" })
    const { text } = await transcribe({ model: provider.transcription(model), audio: sound })
    assert.strictEqual(text, "Hello there.")
  })

  it.each(["before", "after"])("takes the fields %s the file", async (where) => {
    upstream.always(raw(200, { "content-type": "text/plain; charset=utf-8" }, "WEBVTT\n\n"))
    const fields = [["model", "openai::whisper-1"], ["response_format", "vtt"]] as const
    const response = await send(
      where === "before" ? form(...fields, ["file", file()]) : form(["file", file()], ...fields)
    )
    assert.strictEqual(await response.text(), "WEBVTT\n\n")
    assert.strictEqual(response.headers.get("content-type"), "text/plain; charset=utf-8")
    assert.strictEqual(response.headers.get("x-gateway-cost"), "0.0002")
    assert.isTrue((await formAt(0)).bytes.equals(sound))
  })

  it("translates", async () => {
    upstream.always(answer)
    const { text } = await openai().audio.translations.create({ file: file(), model })
    assert.strictEqual(text, "Hello there.")
    assert.strictEqual(upstream.request(0).path, "/v1/audio/translations")
  })

  it("hands events on as they come", async () => {
    upstream.always(events)
    const seen = []
    for await (const event of await openai().audio.transcriptions.create({ file: file(), model, stream: true })) {
      seen.push(event)
    }
    assert.deepStrictEqual<unknown>(seen, [
      { type: "transcript.text.delta", delta: "Hello" },
      { type: "transcript.text.delta", delta: " there.", logprobs: [] },
      { type: "transcript.text.done", text: "Hello there.", usage }
    ])
    assert.include((await formAt(0)).fields.map((field) => field.join()), "stream,true")
  })

  it("makes events of an answer where the server does not stream", async () => {
    upstream.always(answer)
    const text = await (await send(form(["model", model], ["stream", "true"], ["file", file()]))).text()
    assert.include(text, "data: {\"type\":\"transcript.text.delta\",\"delta\":\"Hello there.\"}")
    assert.include(
      text,
      "data: {\"type\":\"transcript.text.done\",\"text\":\"Hello there.\",\"usage\":{\"type\":\"tokens\""
    )
  })

  it.each([["cut", fault.cut(1)], ["ended too early", fault.end(1)]] as const)(
    "tells of events that were %s",
    async (_, broken) => {
      upstream.always(withFault(events, broken))
      const text = await (await send(form(["model", model], ["stream", "true"], ["file", file()]))).text()
      assert.match(text, /event: error\ndata: \{"type":"error","error":\{/)
      assert.notInclude(text, "transcript.text.done")
    }
  )

  it("sends the same sound again to another model", async () => {
    upstream.route("POST", "/spare/v1/audio/transcriptions", answer)
    upstream.always(openAi.error(503))
    const response = await send(form(["file", file()], ["model", "openai::whisper-1"]), undefined, {
      headers: { "x-gateway-fallback": "anthropic::claude-sonnet-4-5, spare::whisper-1" }
    })
    assert.strictEqual(response.status, 200)
    await response.text()
    assert.strictEqual(response.headers.get("x-gateway-model"), "spare::whisper-1")
    assert.include(response.headers.get("x-gateway-attempts") ?? "", "anthropic::claude-sonnet-4-5;skipped")
    for (const { index } of upstream.requests) assert.isTrue((await formAt(index)).bytes.equals(sound))
  })

  it("closes the upstream when the caller leaves, and leaves nothing on the disk", async () => {
    const before = await named()
    for (const isStreamed of [false, true]) {
      const at = upstream.requests.length
      upstream.always(isStreamed ? withFault(events, fault.stall(1)) : withFault(answer, fault.hang))
      const controller = new AbortController()
      const going = send(form(["model", model], ["stream", String(isStreamed)], ["file", file()]), undefined, {
        signal: controller.signal
      })
      await upstream.waitForRequest(at)
      if (isStreamed) await going
      else going.catch(() => undefined)
      assert.strictEqual(await spooled(), 1)
      const left = performance.now()
      controller.abort()
      const { closedAt } = await upstream.waitForClose(at)
      assert.isBelow((closedAt ?? Infinity) - left, 100)
    }
    for (let tries = 0; tries < 100 && await spooled() > 0; tries++) await new Promise((again) => setImmediate(again))
    assert.deepStrictEqual([await spooled(), await named()], [0, before])
  })

  it("refuses a model that does not listen, and hands on what the provider refuses", async () => {
    const refused = await openai().audio.transcriptions.create({ file: file(), model: "anthropic::claude-sonnet-4-5" })
      .catch((error: unknown) => error)
    if (!(refused instanceof APIError)) return assert.fail("no error")
    assert.strictEqual(refused.code, "capability_not_supported")
    upstream.always(openAi.error(400, { message: "the audio could not be decoded", code: "invalid_value" }))
    const blocked = await openai().audio.transcriptions.create({ file: file(), model }).catch((error: unknown) => error)
    if (!(blocked instanceof APIError)) return assert.fail("no error")
    assert.strictEqual(blocked.status, 400)
    assert.include(blocked.message, "could not be decoded")
  })

  it.each([
    ["no model", form(["file", file()]), 400, "model"],
    ["no file", form(["model", model]), 400, "file"],
    ["no sound", form(["model", model], ["file", file(new Uint8Array())]), 400, "file"],
    ["two files", form(["model", model], ["file", file()], ["file", file()]), 400, "file"],
    ["a form of another name", form(["model", model], ["audio", file()]), 400, "audio"],
    [
      "an unknown format",
      form(["model", model], ["response_format", "docx"], ["file", file()]),
      400,
      "response_format"
    ],
    [
      "a temperature that is none",
      form(["model", model], ["temperature", "NaN"], ["file", file()]),
      400,
      "temperature"
    ],
    ["too much", form(["model", model], ["file", file(new Uint8Array(4_000_000))]), 413, null]
  ])("refuses %s", async (_, body, status, field) => {
    const response = await send(body)
    assert.strictEqual(response.status, status)
    const { error } = await bodyOf(response)
    assert.strictEqual(isJson(error) ? error["param"] : undefined, field)
    assert.lengthOf(upstream.requests, 0)
    assert.strictEqual(await spooled(), 0)
  })

  it("refuses what is no form, or none that ends", async () => {
    const wrong = await gateway.post("/v1/audio/transcriptions", { model })
    assert.strictEqual(wrong.status, 400)
    await wrong.text()
    const open = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x\r\n"
    const response = await fetch(`${gateway.url}/v1/audio/transcriptions`, {
      method: "POST",
      headers: { "content-type": "multipart/form-data; boundary=x" },
      body: open
    })
    assert.strictEqual(response.status, 400)
    await response.text()
  })

  it.each([
    ["NaN", "NaN"],
    ["a negative number", -5],
    ["more than its bytes allow", 1e9],
    ["null", null]
  ])("charges by the recording's own length where the provider tells a duration of %s", async (_, duration) => {
    upstream.always(json({ text: "Hello.", duration, usage: { type: "duration", seconds: -1 } }))
    const response = await send(form(["model", "openai::whisper-1"], ["file", file()]))
    await response.text()
    assert.strictEqual(response.headers.get("x-gateway-cost"), "0.0002")
  })

  it("charges what the provider counts, by seconds too", async () => {
    upstream.always(json({ text: "Hello.", usage: { type: "duration", seconds: 6 } }))
    const response = await send(form(["model", "openai::whisper-1"], ["file", file()]))
    assert.deepStrictEqual<unknown>(await response.json(), { text: "Hello.", usage: { type: "duration", seconds: 6 } })
    assert.strictEqual(response.headers.get("x-gateway-cost"), "0.0006")
  })
})

describe("the native API", () => {
  const ask = (request: object) => gateway.post("/llm-gateway/v1/transcriptions", { model, ...request })

  it.each([
    ["base64", sound.toString("base64")],
    ["a data: URL", `data:audio/wav;base64,${sound.toString("base64")}`]
  ])("takes %s, and tells what it cost", async (_, audio) => {
    upstream.always(answer)
    const body = await bodyOf(await ask({ audio }))
    assert.include(body, { text: "Hello there.", model_used: model, fallback_used: false })
    if (!isJson(body["usage"])) return assert.fail("no usage")
    assert.closeTo(Number(body["usage"]["cost_estimate"]), (10 * 2 + 20 * 6 + 5 * 10) / 1e6, 1e-12)
    const { bytes, upload } = await formAt(0)
    assert.isTrue(bytes.equals(sound))
    assert.deepStrictEqual([upload.name, upload.type], ["audio.wav", "audio/wav"])
  })

  it("takes a file of the gateway's, and streams", async () => {
    const spoken = await bodyOf(
      await gateway.post("/llm-gateway/v1/speech", {
        model: "sandbox::speak",
        input: "Hello",
        voice: "any",
        response_format: "wav"
      })
    )
    upstream.always(events)
    const text = await (await ask({ audio: spoken["url"], stream: true })).text()
    assert.include(text, "data: {\"type\":\"delta\",\"text\":\"Hello\"}")
    assert.isTrue(text.endsWith("data: [DONE]\n\n"))
    const { bytes, upload } = await formAt(0)
    assert.strictEqual(bytes.length, spoken["bytes"])
    assert.strictEqual(upload.name, "speech.wav")
  })

  it("takes a form", async () => {
    upstream.always(answer)
    const response = await send(
      form(["file", file()], ["task", "translate"], ["model", model]),
      "/llm-gateway/v1/transcriptions"
    )
    assert.include(await bodyOf(response), { text: "Hello there.", model_used: model })
    assert.strictEqual(upstream.request(0).path, "/v1/audio/translations")
  })

  it.each([
    ["a file that is not there", `file-${"0".repeat(32)}`, 404],
    ["what is no base64", "?!", 400],
    ["an address of somebody else", "http://169.254.169.254/latest", 400],
    ["nothing in it", "data:audio/wav;base64,", 400]
  ])("refuses %s", async (_, audio, status) => {
    const response = await ask({ audio })
    assert.strictEqual(response.status, status)
    await response.text()
    assert.lengthOf(upstream.requests, 0)
  })

  it("makes a job of it", async () => {
    const job = await bodyOf(await ask({ model: "sandbox::transcribe", audio: sound.toString("base64"), async: true }))
    const done = await bodyOf(await fetch(`${gateway.url}/llm-gateway/v1/jobs/${String(job["id"])}?wait=10s`))
    if (!isJson(done["result"])) return assert.fail(JSON.stringify(done))
    assert.strictEqual(done["result"]["text"], "The quick brown fox jumps over the lazy dog.")
  })
})

describe("budgets", () => {
  it("set the length of the sound aside, and refuse what may cost more", async () => {
    const poor = await startGateway(`
providers: { sandbox: { type: sandbox } }
models: [{ id: "sandbox::transcribe", prices: { input_mtok: 0, output_mtok: 0, input_audio_second: 1 } }]
tenants: { default: { budgets: [{ per: tenant, usd: 5, window: total }] } }`)
    try {
      const ask = async (ms: number) => {
        const response = await fetch(`${poor.url}/v1/audio/transcriptions`, {
          method: "POST",
          body: form(["model", "sandbox::transcribe"], ["file", file(wav(ms))])
        })
        await response.text()
        return response.status
      }
      assert.strictEqual(await ask(6_000), 402)
      assert.strictEqual(await ask(4_000), 200)
    } finally {
      await poor.close()
    }
  })
})

describe("the sandbox", () => {
  it.each([
    ["text", "text/plain; charset=utf-8", "The quick brown fox jumps over the lazy dog.\n"],
    [
      "srt",
      "text/plain; charset=utf-8",
      "1\n00:00:00,000 --> 00:00:02,000\nThe quick brown fox jumps over the lazy dog.\n\n"
    ],
    [
      "vtt",
      "text/plain; charset=utf-8",
      "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nThe quick brown fox jumps over the lazy dog.\n\n"
    ],
    ["json", "application/json", undefined],
    ["verbose_json", "application/json", undefined],
    ["diarized_json", "application/json", undefined]
  ])("answers as %s", async (format, contentType, text) => {
    const response = await send(form(["model", "sandbox::transcribe"], ["response_format", format], ["file", file()]))
    assert.strictEqual(response.headers.get("content-type"), contentType)
    if (text === undefined) assert.match(String((await bodyOf(response))["text"]), /^The quick/)
    else assert.strictEqual(await response.text(), text)
  })
})

describe("over RPC", () => {
  it.live("transcripts come whole and streamed", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      const request = { model: "sandbox::transcribe", audio: sound.toString("base64") }
      const whole = yield* client.transcribe({ ...request, responseFormat: "verbose_json" })
      assert.strictEqual(whole.duration, 2)
      const chunks = yield* Stream.runCollect(client.streamTranscribe(request))
      assert.strictEqual(chunks.at(-1)?.text, whole.text)
      assert.strictEqual(chunks.flatMap(({ text, type }) => type === "delta" ? [text] : []).join(""), whole.text)
    }).pipe(Effect.provide(GatewayClient.layerHttp({ url: gateway.url }))))
})

describe.skipIf(!hasRecordings)("recordings", () => {
  const recorded = recordings("openai").filter(({ request }) => request.path === "/v1/audio/transcriptions")

  it("are there", () => assert.isAbove(recorded.length, 4))

  it.each(recorded.map((recording) => [recording.name, recording] as const))(
    "%s passes through",
    async (name, { response }) => {
      const lines = response.lines?.join("\n")
      const content = lines ?? response.text ?? ""
      upstream.always(raw(response.status, { "content-type": response.headers["content-type"] ?? "" }, content))
      const format = /vtt|verbose|diarized/.exec(name)?.[0]
      const answered = await send(form(
        ["file", file()],
        ["model", "openai::recorded"],
        ...(format === undefined ? [] : [["response_format", format === "vtt" ? "vtt" : `${format}_json`] as const]),
        ...(lines === undefined ? [] : [["stream", "true"] as const])
      ))
      assert.strictEqual(answered.status, response.status)
      const text = await answered.text()
      if (lines !== undefined) assert.deepStrictEqual(eventsIn(text), eventsIn(lines))
      else if (response.body === undefined) assert.strictEqual(text, response.text)
      else if (response.status === 200) assert.deepStrictEqual(JSON.parse(text), response.body)
      else assert.include(text, "Language parameter must be specified in ISO-639-1 format.")
    }
  )
})

const eventsIn = (text: string): ReadonlyArray<unknown> =>
  text.split("\n").flatMap((line): ReadonlyArray<unknown> =>
    line.startsWith("data: {") ? [JSON.parse(line.slice("data: ".length))] : []
  )
