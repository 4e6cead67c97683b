/**
 * Embeddings through the running gateway, with the SDKs that people have: OpenAI's (which asks for base64 and reads it as 32-bit
 * floats), Vercel's, Ollama's, and plain HTTP.
 */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { embed, embedMany } from "ai"
import { Ollama } from "ollama"
import OpenAI, { APIError } from "openai"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { hasRecordings, recordings } from "../fixtures/Recordings.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { type Asked, isJson, json, type Script } from "../fixtures/Script.ts"

let upstream: FakeUpstream
let gateway: RunningGateway

const inputsOf = ({ json: { input } }: Asked): ReadonlyArray<unknown> =>
  Array.isArray(input) && !input.every((one) => typeof one === "number") ? input : [input]

/** Three numbers that a 32-bit float holds exactly, different for every input. */
const vectorOf = (input: unknown): ReadonlyArray<number> => {
  const size = typeof input === "string" ? input.length : Array.isArray(input) ? input.length * 100 : 0
  return [size, size / 2, -0.25]
}

const base64Of = (vector: ReadonlyArray<number>): string => {
  const bytes = Buffer.alloc(vector.length * 4)
  vector.forEach((number, at) => bytes.writeFloatLE(number, at * 4))
  return bytes.toString("base64")
}

/** As OpenAI answers: in the encoding that was asked for, here in reversed order. */
const openAiVectors: Script = (asked) =>
  json({
    object: "list",
    data: inputsOf(asked).map((input, index) => ({
      object: "embedding",
      index,
      embedding: asked.json["encoding_format"] === "base64" ? base64Of(vectorOf(input)) : vectorOf(input)
    })).toReversed(),
    model: "text-embedding-3-small",
    usage: { prompt_tokens: inputsOf(asked).length * 10, total_tokens: inputsOf(asked).length * 10 }
  })

const ollamaVectors: Script = (asked) =>
  json({
    model: asked.json["model"],
    embeddings: inputsOf(asked).map(vectorOf),
    total_duration: 14_143_917,
    load_duration: 1_019_500,
    prompt_eval_count: inputsOf(asked).length * 10
  })

const post = async (path: string, body: unknown) => {
  const response = await gateway.post(path, body)
  const text = await response.text()
  const parsed: unknown = JSON.parse(text)
  if (!isJson(parsed)) throw new Error(`no object: ${text}`)
  return { status: response.status, headers: response.headers, body: parsed }
}

const codeOf = (body: unknown): unknown => {
  const error = isJson(body) && isJson(body["error"]) ? body["error"] : body
  return isJson(error) ? error["code"] : undefined
}

const models = {
  openai: "openai::text-embedding-3-small",
  ollama: "ollama::nomic-embed-text:latest"
} as const

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: secret }
  ollama: { type: ollama, base_url: "${upstream.url}" }
  sandbox: { type: sandbox }
models:
  - { id: "${models.openai}", capabilities: [text_input, embeddings] }
  - { id: "${models.ollama}", capabilities: [text_input, embeddings] }
  - { id: "openai::chatty", capabilities: [text_input, text_output] }
routes:
  vectors: { models: ["${models.openai}", "${models.ollama}"] }
  together: { models: ["${models.openai}"], embed_batching: { window: 500ms, max_inputs: 3 } }
defaults:
  attempts: 2
  retry: { base: 1ms, max: 5ms }
`)
  upstream.route("POST", "/embeddings", openAiVectors)
  upstream.route("POST", "/api/embed", ollamaVectors)
})
afterEach(() => {
  upstream.reset()
  upstream.route("POST", "/embeddings", openAiVectors)
  upstream.route("POST", "/api/embed", ollamaVectors)
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})

const openai = (): OpenAI => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 })

describe.each(Object.entries(models))("%s", (slug, model) => {
  it("OpenAI's SDK reads whole vectors, with the encoding that it asks for by default", async () => {
    const answer = await openai().embeddings.create({ model, input: ["one", "three"] })
    assert.deepStrictEqual(answer.data.map(({ embedding, index }) => [index, embedding]), [
      [0, vectorOf("one")],
      [1, vectorOf("three")]
    ])
    assert.deepStrictEqual(answer.usage, { prompt_tokens: 20, total_tokens: 20 })
    assert.strictEqual(upstream.request(0).json["encoding_format"], slug === "openai" ? "base64" : undefined)
  })

  it("numbers come as numbers, for one text", async () => {
    const answer = await openai().embeddings.create({ model, input: "four", encoding_format: "float" })
    assert.deepStrictEqual(answer.data[0]?.embedding, vectorOf("four"))
    assert.strictEqual(upstream.request(0).json["input"], "four")
  })

  it("Vercel's SDK embeds one and many", async () => {
    const provider = createOpenAICompatible({ name: "gateway", baseURL: `${gateway.url}/v1`, apiKey: "none" })
    const one = await embed({ model: provider.embeddingModel(model), value: "four" })
    assert.deepStrictEqual(one.embedding, vectorOf("four"))
    const many = await embedMany({ model: provider.embeddingModel(model), values: ["one", "three", "five5"] })
    assert.deepStrictEqual(many.embeddings, [vectorOf("one"), vectorOf("three"), vectorOf("five5")])
  })

  it("Ollama's client embeds, by the new and the old call", async () => {
    const client = new Ollama({ host: gateway.url })
    const answer = await client.embed({ model, input: ["one", "three"] })
    assert.deepStrictEqual(answer.embeddings, [vectorOf("one"), vectorOf("three")])
    assert.deepStrictEqual([answer.model, answer.prompt_eval_count], [model, 20])
    assert.isAbove(answer.total_duration, 0)
    const old = await client.embeddings({ model, prompt: "four" })
    assert.deepStrictEqual(old.embedding, vectorOf("four"))
  })

  it("the native API answers in the gateway's words", async () => {
    const { body, headers, status } = await post("/llm-gateway/v1/embeddings", { model, input: ["one", "three"] })
    assert.strictEqual(status, 200)
    assert.deepStrictEqual(body["embeddings"], [vectorOf("one"), vectorOf("three")])
    assert.deepStrictEqual([body["model_used"], body["fallback_used"]], [model, false])
    assert.strictEqual(headers.get("x-gateway-model"), model)
    const { body: encoded } = await post("/llm-gateway/v1/embeddings", {
      model,
      input: "one",
      encoding_format: "base64"
    })
    assert.deepStrictEqual(encoded["embeddings"], [base64Of(vectorOf("one"))])
  })

  it("a large request goes out in several calls, and comes back in order, with its usage once", async () => {
    const input = Array.from({ length: 600 }, (_, at) => "x".repeat(at + 1))
    const answer = await openai().embeddings.create({ model, input, encoding_format: "float" })
    assert.deepStrictEqual(answer.data.map(({ embedding }) => embedding), input.map(vectorOf))
    assert.deepStrictEqual(answer.usage.prompt_tokens, 6000)
    assert.strictEqual(upstream.requests.length, 3)
  })

  it("what broke of a large request is asked for again, and nothing else", async () => {
    let calls = 0
    const flaky: Script = (asked) => {
      calls++
      if (calls === 2) return openAi.error(503, {})
      const answer = slug === "openai" ? openAiVectors : ollamaVectors
      return typeof answer === "function" ? answer(asked) : answer
    }
    upstream.reset()
    upstream.route("POST", slug === "openai" ? "/embeddings" : "/api/embed", flaky)
    const input = Array.from({ length: 600 }, (_, at) => `${at}`)
    const { body, headers, status } = await post("/v1/embeddings", { model, input, encoding_format: "float" })
    assert.strictEqual(status, 200, JSON.stringify(body))
    assert.strictEqual(calls, 4)
    assert.include(headers.get("x-gateway-attempts"), "transient")
  })

  it("a caller that leaves ends every call upstream", async () => {
    upstream.reset()
    upstream.route(
      "POST",
      slug === "openai" ? "/embeddings" : "/api/embed",
      withFault(slug === "openai" ? openAiVectors : ollamaVectors, fault.hang)
    )
    const controller = new AbortController()
    const input = Array.from({ length: 600 }, (_, at) => `${at}`)
    const asked = fetch(`${gateway.url}/v1/embeddings`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, input }),
      signal: controller.signal
    }).then(() => "answered", () => "left")
    await upstream.waitForRequest(2)
    const left = performance.now()
    controller.abort()
    assert.strictEqual(await asked, "left")
    for (const index of [0, 1, 2]) {
      const { aborted, closedAt = Infinity } = await upstream.waitForClose(index)
      assert.isTrue(aborted)
      assert.isBelow(closedAt - left, 100)
    }
  })

  it.each<readonly [string, Script]>([
    ["too few vectors", () => json({ data: [], embeddings: [], model: "m" })],
    ["no numbers", () => json({ data: [{ index: 0, embedding: ["a"] }], embeddings: [["a"]], model: "m" })],
    ["an empty vector", () => json({ data: [{ index: 0, embedding: [] }], embeddings: [[]], model: "m" })],
    [
      "another length than was asked for",
      () => json({ data: [{ index: 0, embedding: [1, 2] }], embeddings: [[1, 2]], model: "m" })
    ]
  ])("an answer with %s is the provider's failure", async (_, script) => {
    upstream.reset()
    upstream.route("POST", slug === "openai" ? "/embeddings" : "/api/embed", script)
    const { body, status } = await post("/v1/embeddings", { model, input: "a", dimensions: 3 })
    assert.deepStrictEqual([status, codeOf(body)], [502, "provider_error"])
  })

  it("a provider's refusal has its words", async () => {
    upstream.reset()
    upstream.route(
      "POST",
      slug === "openai" ? "/embeddings" : "/api/embed",
      slug === "openai"
        ? openAi.error(400, { message: "input is too long" })
        : json({ error: "input is too long" }, { status: 400 })
    )
    const failed = await openai().embeddings.create({ model, input: "a" }).then(
      () => undefined,
      (error: unknown) => error
    )
    assert.instanceOf(failed, APIError)
    assert.include(String(failed), "input is too long")
  })
})

describe("tokens", () => {
  it.each([[[1, 2, 3]], [[[1, 2, 3], [4]]]])("go to OpenAI as they are: %j", async (input) => {
    const { status } = await post("/v1/embeddings", { model: models.openai, input })
    assert.strictEqual(status, 200)
    assert.deepStrictEqual(upstream.request(0).json["input"], input)
  })

  it("are refused by name where the provider has no form for them", async () => {
    const { body, status } = await post("/v1/embeddings", { model: models.ollama, input: [1, 2, 3] })
    assert.deepStrictEqual([status, codeOf(body)], [400, "validation_error"])
    assert.include(JSON.stringify(body), "Ollama takes no tokens")
  })
})

describe("a route of several models", () => {
  it("never answers with the vectors of another model", async () => {
    upstream.reset()
    upstream.route("POST", "/embeddings", openAi.error(503, {}))
    upstream.route("POST", "/api/embed", ollamaVectors)
    const { headers, status } = await post("/v1/embeddings", { model: "vectors", input: "a" })
    assert.strictEqual(status, 503)
    assert.include(headers.get("x-gateway-attempts"), `${models.ollama};skipped;another model than the first one`)
  })

  it("but with those of a model that the caller named", async () => {
    upstream.reset()
    upstream.route("POST", "/embeddings", openAi.error(503, {}))
    upstream.route("POST", "/api/embed", ollamaVectors)
    const fallback = { models: [models.ollama], strategy: "sequential" }
    const { body, status } = await post("/llm-gateway/v1/embeddings", { model: models.openai, input: "a", fallback })
    assert.deepStrictEqual([status, body["model_used"], body["fallback_used"]], [200, models.ollama, true])
  })
})

describe("requests that share a call", () => {
  it("get their own vectors and their share of the tokens", async () => {
    const texts = ["a", "bb", "ccc"]
    const answers = await Promise.all(texts.map((input) => post("/v1/embeddings", { model: "together", input })))
    assert.strictEqual(upstream.requests.length, 1)
    let tokens = 0
    for (const [at, { body }] of answers.entries()) {
      const [entry] = Array.isArray(body["data"]) ? body["data"] : []
      assert.deepStrictEqual(isJson(entry) && entry["embedding"], vectorOf(texts[at]))
      const usage = isJson(body["usage"]) ? body["usage"] : {}
      tokens += Number(usage["prompt_tokens"])
    }
    assert.strictEqual(tokens, 30)
  })

  it("a wrong one fails by itself", async () => {
    upstream.reset()
    upstream.route("POST", "/embeddings", (asked) =>
      inputsOf(asked).includes("bad")
        ? openAi.error(400, { message: "bad input" })
        : typeof openAiVectors === "function"
        ? openAiVectors(asked)
        : openAiVectors)
    const answers = await Promise.all(
      ["a", "bad", "ccc"].map((input) => post("/v1/embeddings", { model: "together", input }))
    )
    assert.deepStrictEqual(answers.map(({ status }) => status), [200, 400, 200])
    assert.strictEqual(upstream.requests.length, 4)
  })
})

describe("bad input", () => {
  it.each<readonly [string, unknown, string]>([
    ["nothing", undefined, "input"],
    ["an empty text", "", "input"],
    ["an empty list", [], "input"],
    ["an empty text in a list", ["a", ""], "input[1]"],
    ["texts and tokens", ["a", 1], "input[1]"],
    ["tokens and texts", [1, "a"], "input"],
    ["a fraction of a token", [1.5], "input[0]"],
    ["a negative token", [-1], "input[0]"],
    ["an empty list of tokens", [[1], []], "input[1]"],
    ["an object", { text: "a" }, "input"]
  ])("%s is refused with its place", async (_, input, field) => {
    const { body, status } = await post("/v1/embeddings", { model: models.openai, input })
    assert.strictEqual(status, 400)
    assert.deepStrictEqual(isJson(body["error"]) && body["error"]["param"], field)
    assert.strictEqual(upstream.requests.length, 0)
    const native = await post("/llm-gateway/v1/embeddings", { model: models.openai, input })
    assert.deepStrictEqual([native.status, codeOf(native.body)], [400, "validation_error"])
  })

  it.each([[{ dimensions: 0 }], [{ dimensions: 1.5 }], [{ dimensions: 1e9 }], [{ encoding_format: "int8" }]])(
    "%j is refused",
    async (more) => {
      const { body, status } = await post("/v1/embeddings", { model: models.openai, input: "a", ...more })
      assert.deepStrictEqual([status, codeOf(body)], [400, "validation_error"])
    }
  )

  it("an answer that would not fit into memory is refused before anything is asked", async () => {
    const input = Array.from({ length: 5_000 }, () => "a")
    const { body, status } = await post("/v1/embeddings", { model: models.openai, input, dimensions: 10_000 })
    assert.deepStrictEqual([status, codeOf(body)], [400, "validation_error"])
    assert.strictEqual(upstream.requests.length, 0)
    const long = await post("/v1/embeddings", { model: "sandbox::embed", input: "a", dimensions: 5_000 })
    assert.strictEqual(long.status, 400)
    assert.include(JSON.stringify(long.body), "at most 4096 dimensions")
  })

  it("more inputs than one request may have are refused", async () => {
    const input = Array.from({ length: 10_001 }, () => "a")
    const { body, status } = await post("/v1/embeddings", { model: models.openai, input })
    assert.deepStrictEqual([status, codeOf(body)], [400, "validation_error"])
  })

  it("a model that makes no vectors is named, with one that does", async () => {
    const { body, status } = await post("/v1/embeddings", { model: "openai::chatty", input: "a" })
    assert.deepStrictEqual([status, codeOf(body)], [422, "capability_not_supported"])
    assert.include(JSON.stringify(body), models.openai)
  })

  it("a request of Ollama's without input gets no vectors", async () => {
    const { body, status } = await post("/api/embed", { model: models.ollama, input: "" })
    assert.deepStrictEqual([status, body["embeddings"]], [200, []])
    assert.strictEqual(upstream.requests.length, 0)
  })
})

describe("the sandbox", () => {
  it("has vectors of length one, near to each other where texts share words", async () => {
    const input = ["the cat sat on the mat", "a cat on a mat", "stock markets fell"]
    const answer = await openai().embeddings.create({ model: "sandbox::embed", input, dimensions: 128 })
    const vectors = answer.data.map(({ embedding }) => embedding)
    const product = (a: ReadonlyArray<number> = [], b: ReadonlyArray<number> = []) =>
      a.reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0)
    for (const vector of vectors) assert.approximately(product(vector, vector), 1, 1e-6)
    assert.isAbove(product(vectors[0], vectors[1]), product(vectors[0], vectors[2]))
    assert.deepStrictEqual(vectors.map(({ length }) => length), [128, 128, 128])
  })
})

describe.skipIf(!hasRecordings)("recorded answers", () => {
  const recorded = [...recordings("openai"), ...recordings("ollama")].filter(({ request, response }) =>
    response.status === 200 && /\/(?:embeddings|embed)$/.test(request.path)
  )

  it("are there", () => assert.isAbove(recorded.length, 2))

  it.each(recorded)("$provider $name comes out as it went in", async ({ provider, request, response }) => {
    const [path, own] = provider === "ollama" ? ["/api/embed", "ollama"] : ["/embeddings", "openai"]
    upstream.reset()
    upstream.route("POST", path, json(response.body))
    const { body, status } = await post(provider === "ollama" ? "/api/embed" : "/v1/embeddings", {
      ...request.body,
      model: models[own === "ollama" ? "ollama" : "openai"]
    })
    assert.strictEqual(status, 200, JSON.stringify(body))
    const { model: _, ...sent } = body
    const { model: __, ...came } = isJson(response.body) ? response.body : {}
    assert.deepStrictEqual(sent, came)
    const { model: ___, ...asked } = request.body ?? {}
    const { model: ____, ...forwarded } = upstream.request(0).json
    assert.deepStrictEqual(forwarded, asked)
  })
})
