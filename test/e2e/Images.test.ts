/** Image generation through the running gateway, with the SDKs that people have, plain HTTP and RPC. */
import { createOpenAI } from "@ai-sdk/openai"
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { generateImage } from "ai"
import { Effect, Stream } from "effect"
import { inflateSync } from "node:zlib"
import OpenAI, { APIError } from "openai"
import { GatewayClient } from "../../src/client/index.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { hasRecordings, recordings } from "../fixtures/Recordings.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, json, type Script, sseEvent, stream } from "../fixtures/Script.ts"

let upstream: FakeUpstream
let gateway: RunningGateway

const model = "openai::gpt-image-1"
const base64 = Buffer.from("a picture").toString("base64")
const usage = {
  input_tokens: 12,
  output_tokens: 272,
  total_tokens: 284,
  input_tokens_details: { text_tokens: 12, image_tokens: 0 }
}

const answer: Script = ({ json: { n } }) =>
  json({
    created: 1_790_000_123,
    background: "opaque",
    output_format: "png",
    quality: "low",
    size: "1024x1024",
    data: Array.from({ length: typeof n === "number" ? n : 1 }, () => ({ b64_json: base64 })),
    usage
  })

const event = (type: string, more: object) =>
  sseEvent({
    type: `image_generation.${type}`,
    b64_json: base64,
    created_at: 1_790_000_123,
    size: "1024x1024",
    ...more
  }, `image_generation.${type}`)
const partial = (index: number) => event("partial_image", { partial_image_index: index })
const completed = event("completed", { usage })
const streamed = stream("sse", [partial(0), partial(1), completed])

const openai = () => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 })

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
  spare: { type: openai, base_url: "${upstream.url}/spare/v1", unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: secret, unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "openai::gpt-image-1", capabilities: [text_input, image_output], prices: { input_mtok: 5, output_mtok: 40 } }
  - { id: "openai::dall-e-3", capabilities: [text_input, image_output], prices: { image: { base: 0.04, variants: { hd: 0.08 } } } }
  - { id: "spare::gpt-image-1", capabilities: [text_input, image_output], prices: { input_mtok: 5, output_mtok: 40 } }
defaults: { retry: { base: 1ms, max: 2ms }, attempts: 2, unknown_price: free }
tenants: { default: { budgets: [{ per: tenant, usd: 10, window: total }] } }
usage: { sinks: [{ type: sql }] }`)
})
afterEach(() => upstream.reset())
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})

describe("POST /v1/images/generations", () => {
  it("answers OpenAI's SDK as the provider did, with all that was asked for", async () => {
    upstream.always(answer)
    const request = {
      model,
      prompt: "a red circle",
      n: 2,
      size: "1024x1024",
      quality: "low",
      background: "opaque",
      output_format: "png",
      moderation: "low",
      output_compression: 90
    } as const
    const response = await openai().images.generate(request)
    assert.deepStrictEqual(response.data, [{ b64_json: base64 }, { b64_json: base64 }])
    assert.strictEqual(response.created, 1_790_000_123)
    assert.deepStrictEqual(response.usage, usage)
    assert.deepStrictEqual([response.size, response.quality, response.output_format], ["1024x1024", "low", "png"])
    const asked = upstream.request(0)
    assert.strictEqual(asked.path, "/v1/images/generations")
    assert.deepStrictEqual(asked.json, { ...request, model: "gpt-image-1" })
    assert.strictEqual(asked.headers["authorization"], "Bearer secret")
  })

  it("answers Vercel's SDK", async () => {
    upstream.always(answer)
    const provider = createOpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none" })
    const { images } = await generateImage({ model: provider.image(model), prompt: "a red circle", n: 1 })
    assert.strictEqual(images[0]?.base64, base64)
  })

  it("streams unfinished pictures as they come, and then the finished one", async () => {
    upstream.always(streamed)
    const events = await openai().images.generate({ model, prompt: "a red circle", stream: true, partial_images: 2 })
    const seen = []
    for await (const one of events) seen.push(one)
    assert.deepStrictEqual(seen.map(({ type }) => type), [
      "image_generation.partial_image",
      "image_generation.partial_image",
      "image_generation.completed"
    ])
    assert.isTrue(seen.every(({ b64_json }) => b64_json === base64))
    const [, second, last] = seen
    assert.strictEqual(second?.type === "image_generation.partial_image" ? second.partial_image_index : -1, 1)
    assert.deepStrictEqual(last?.type === "image_generation.completed" ? last.usage : undefined, usage)
    assert.deepStrictEqual(upstream.request(0).json, {
      model: "gpt-image-1",
      prompt: "a red circle",
      stream: true,
      partial_images: 2
    })
  })

  it.each([["cut", fault.cut(1)], ["ended without a picture", fault.end(1)]] as const)(
    "tells of a stream that was %s, as of one that failed",
    async (_, broken) => {
      upstream.always(withFault(streamed, broken))
      const response = await gateway.post("/v1/images/generations", {
        model,
        prompt: "x",
        stream: true,
        partial_images: 2
      })
      const text = await response.text()
      assert.include(text, "image_generation.partial_image")
      assert.match(text, /event: error\ndata: \{"type":"error","error":\{/)
      assert.notInclude(text, "completed")
    }
  )

  it("closes the upstream when the caller leaves, whole or streamed", async () => {
    for (const isStreamed of [false, true]) {
      upstream.always(isStreamed ? withFault(streamed, fault.stall(1)) : withFault(answer, fault.hang))
      const controller = new AbortController()
      const asked = fetch(`${gateway.url}/v1/images/generations`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model, prompt: "x", stream: isStreamed }),
        signal: controller.signal
      })
      const at = upstream.requests.length
      await upstream.waitForRequest(at)
      if (isStreamed) await asked
      else asked.catch(() => undefined)
      const left = performance.now()
      controller.abort()
      const { closedAt } = await upstream.waitForClose(at)
      assert.isBelow((closedAt ?? Infinity) - left, 100)
    }
  })

  it("falls back to what makes images, and passes over what does not", async () => {
    upstream.route("POST", "/spare/v1/images/generations", answer)
    upstream.always(openAi.error(503))
    const response = await gateway.post(
      "/v1/images/generations",
      { model, prompt: "x" },
      { "x-gateway-fallback": "anthropic::claude-sonnet-4-5, spare::gpt-image-1" }
    )
    assert.strictEqual(response.status, 200)
    await response.text()
    assert.strictEqual(response.headers.get("x-gateway-model"), "spare::gpt-image-1")
    assert.include(response.headers.get("x-gateway-attempts") ?? "", "anthropic::claude-sonnet-4-5;skipped")
  })

  it("refuses a model without images, and hands on what the provider refuses", async () => {
    const refused = await openai().images.generate({ model: "anthropic::claude-sonnet-4-5", prompt: "x" }).catch((
      error: unknown
    ) => error)
    if (!(refused instanceof APIError)) return assert.fail("no error")
    assert.strictEqual(refused.code, "capability_not_supported")
    upstream.always(
      openAi.error(400, { message: "Your request was rejected by the safety system.", code: "moderation_blocked" })
    )
    const blocked = await openai().images.generate({ model, prompt: "x" }).catch((error: unknown) => error)
    if (!(blocked instanceof APIError)) return assert.fail("no error")
    assert.strictEqual(blocked.status, 400)
    assert.include(blocked.message, "safety system")
  })

  it.each([
    [{ model }, "prompt"],
    [{ model, prompt: "" }, "prompt"],
    [{ model, prompt: "x", n: 0 }, "n"],
    [{ model, prompt: "x", n: 5_000 }, "n"],
    [{ model, prompt: "x", n: Number.NaN }, undefined],
    [{ model, prompt: "x", size: "x".repeat(100) }, "size"],
    [{ model, prompt: "x", output_compression: 101 }, "output_compression"],
    [{ model, prompt: "x", response_format: "bmp" }, "response_format"],
    [{ model, prompt: "x", partial_images: 4 }, "partial_images"]
  ])("names what is wrong with %j", async (body, field) => {
    upstream.always(answer)
    const response = await gateway.post("/v1/images/generations", body)
    const text = await response.text()
    if (field === undefined) return assert.strictEqual(response.status, 200)
    assert.strictEqual(response.status, 400)
    const told: unknown = JSON.parse(text)
    assert.strictEqual(isJson(told) && isJson(told["error"]) ? told["error"]["param"] : undefined, field)
    assert.lengthOf(upstream.requests, 0)
  })

  it.each([
    ["no list", { created: 1 }],
    ["an empty list", { created: 1, data: [] }],
    ["a picture without data", { created: 1, data: [{}] }],
    ["no object", [1]]
  ])("fails where the provider answers with %s", async (_, body) => {
    upstream.always(json(body))
    const response = await gateway.post("/v1/images/generations", { model, prompt: "x" })
    assert.strictEqual(response.status, 502)
    assert.include(await response.text(), "provider_error")
  })
})

describe("the native API", () => {
  it("answers with the pictures, what they cost, and who made them", async () => {
    upstream.always(answer)
    const response = await gateway.post("/llm-gateway/v1/images", {
      model,
      prompt: "a red circle",
      output_format: "png"
    })
    const body: unknown = await response.json()
    assert.strictEqual(response.status, 200)
    if (!isJson(body) || !isJson(body["usage"])) return assert.fail(JSON.stringify(body))
    assert.deepStrictEqual(body["images"], [{ data: base64 }])
    assert.include(body, { model_used: model, fallback_used: false, output_format: "png", size: "1024x1024" })
    assert.include(body["usage"], { input_tokens: 12, output_image_tokens: 272, images: 1 })
    assert.closeTo(Number(body["usage"]["cost_estimate"]), (12 * 5 + 272 * 40) / 1e6, 1e-12)
    assert.strictEqual(response.headers.get("x-gateway-cost"), "0.01094")
  })

  it("charges models that are sold by the picture by their number and quality", async () => {
    upstream.always(({ json: { n } }) =>
      json({
        created: 1,
        data: Array.from(
          { length: Number(n) },
          () => ({ url: "https://images.example/1.png", revised_prompt: "a circle" })
        )
      })
    )
    const response = await gateway.post("/llm-gateway/v1/images", {
      model: "openai::dall-e-3",
      prompt: "x",
      n: 2,
      quality: "hd"
    })
    const body: unknown = await response.json()
    if (!isJson(body) || !isJson(body["usage"])) return assert.fail(JSON.stringify(body))
    assert.deepStrictEqual(
      body["images"],
      Array.from({ length: 2 }, () => ({ url: "https://images.example/1.png", revised_prompt: "a circle" }))
    )
    assert.strictEqual(body["usage"]["cost_estimate"], 0.16)
  })

  it("makes a job of it", async () => {
    const response = await gateway.post("/llm-gateway/v1/images", { model: "sandbox::image", prompt: "x", async: true })
    assert.strictEqual(response.status, 202)
    const job: unknown = await response.json()
    if (!isJson(job)) return assert.fail("no job")
    const done: unknown = await (await fetch(`${gateway.url}/llm-gateway/v1/jobs/${String(job["id"])}?wait=10s`)).json()
    if (!isJson(done) || !isJson(done["result"])) return assert.fail(JSON.stringify(done))
    assert.isArray(done["result"]["images"])
  })
})

describe("budgets", () => {
  it("set the worst case aside, and refuse what may cost more", async () => {
    const poor = await startGateway(`
providers: { sandbox: { type: sandbox } }
models: [{ id: "sandbox::image", prices: { image: 1 } }]
tenants: { default: { budgets: [{ per: tenant, usd: 2, window: total }] } }`)
    try {
      const ask = async (n: number) => {
        const asked = await poor.post("/v1/images/generations", { model: "sandbox::image", prompt: "x", n })
        await asked.text()
        return asked.status
      }
      assert.strictEqual(await ask(3), 402)
      assert.strictEqual(await ask(2), 200)
      assert.strictEqual(await ask(1), 402)
    } finally {
      await poor.close()
    }
  })
})

describe("the sandbox", () => {
  it("makes real pictures, the same for the same prompt", async () => {
    const make = async (prompt: string) => {
      const { data } = await openai().images.generate({ model: "sandbox::image", prompt, n: 1 })
      return Buffer.from(data?.[0]?.b64_json ?? "", "base64")
    }
    const picture = await make("a red circle")
    assert.deepStrictEqual(picture.subarray(1, 4).toString("latin1"), "PNG")
    assert.strictEqual(picture.subarray(12, 16).toString("latin1"), "IHDR")
    const [width, height] = [picture.readUInt32BE(16), picture.readUInt32BE(20)]
    const length = picture.readUInt32BE(33)
    assert.lengthOf(inflateSync(picture.subarray(41, 41 + length)), height * (1 + width * 3))
    assert.isTrue(picture.equals(await make("a red circle")))
    assert.isFalse(picture.equals(await make("a blue square")))
  })
})

describe("over RPC", () => {
  it.live("pictures come whole and streamed", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      const whole = yield* client.image({ model: "sandbox::image", prompt: "x", n: 2 })
      assert.lengthOf(whole.images, 2)
      const chunks = yield* Stream.runCollect(
        client.streamImage({ model: "sandbox::image", prompt: "x", partialImages: 1 })
      )
      assert.deepStrictEqual(chunks.map(({ type }) => type), ["partial_image", "completed"])
      assert.strictEqual(chunks[1]?.data, whole.images[0]?.data)
    }).pipe(Effect.provide(GatewayClient.layerHttp({ url: gateway.url }))))
})

describe.skipIf(!hasRecordings)("recordings", () => {
  const recorded = recordings("openai").filter(({ request }) => request.path === "/v1/images/generations")

  it("are there", () => assert.isAbove(recorded.length, 2))

  it.each(recorded.map((recording) => [recording.name, recording] as const))(
    "%s passes through",
    async (_, { request, response }) => {
      const body = response.body ?? JSON.parse(response.text ?? "")
      upstream.always(json(body, { status: response.status }))
      const answered = await gateway.post("/v1/images/generations", { ...request.body, model: "openai::recorded" })
      assert.strictEqual(answered.status, response.status)
      const told: unknown = await answered.json()
      if (response.status === 200) assert.deepStrictEqual(told, body)
      else if (isJson(told) && isJson(told["error"]) && isJson(body) && isJson(body["error"])) {
        assert.strictEqual(told["error"]["message"], body["error"]["message"])
        assert.strictEqual(told["error"]["param"], body["error"]["param"])
      } else assert.fail(JSON.stringify(told))
      assert.deepStrictEqual(upstream.request(0).json, { ...request.body, model: "recorded" })
    }
  )
})
