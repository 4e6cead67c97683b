/** Chats that name files of the gateway's own: every provider gets them inline. */
import { afterAll, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { hash } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import OpenAI, { toFile } from "openai"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson } from "../fixtures/Script.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

let folder: string
let upstream: FakeUpstream
let gateway: RunningGateway
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "llm-gateway-media-"))
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
auth:
  mode: keys
  keys:
    - { id: a, sha256: ${sha256("key-a")}, tenant: a }
    - { id: b, sha256: ${sha256("key-b")}, tenant: b }
tenants: { a: {}, b: {} }
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
storage: { sql: "sqlite::memory:", files: { dir: "${folder}", max_size: 40MB } }
`)
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
  rmSync(folder, { recursive: true })
})
beforeEach(() => upstream.reset())

const client = (key = "key-a") => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: key, maxRetries: 0 })
const png = Buffer.from("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489", "hex")
const pdf = Buffer.from("%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n")

const uploaded = async (content: Uint8Array, name: string, key = "key-a"): Promise<string> =>
  (await client(key).files.create({ file: await toFile(content, name), purpose: "user_data" })).id

const native = (model: string, content: ReadonlyArray<unknown>, key = "key-a") =>
  gateway.post(
    "/llm-gateway/v1/chat/completions",
    { model, messages: [{ role: "user", content }] },
    { authorization: `Bearer ${key}` }
  )

const sentParts = (): ReadonlyArray<unknown> => {
  const { messages } = upstream.request(0).json
  const message: unknown = Array.isArray(messages) ? messages[0] : undefined
  return isJson(message) && Array.isArray(message["content"]) ? message["content"] : []
}

describe("a file of the gateway's", () => {
  it("is a document to OpenAI and to Anthropic, by the id in OpenAI's place", async () => {
    const id = await uploaded(pdf, "paper.pdf")
    upstream.reply(openAi.chat({ text: "read" }), anthropic.message({ text: "read" }))
    const ask = (model: string) =>
      client().chat.completions.create({
        model,
        messages: [{ role: "user", content: [{ type: "text", text: "Read" }, { type: "file", file: { file_id: id } }] }]
      })
    await ask("openai::gpt-x")
    const file = sentParts()[1]
    assert.deepInclude(isJson(file) ? file["file"] : undefined, {
      file_data: `data:application/pdf;base64,${pdf.toString("base64")}`
    })
    upstream.reset()
    upstream.reply(anthropic.message({ text: "read" }))
    await ask("anthropic::claude-sonnet-4-5")
    assert.deepInclude(sentParts()[1], {
      type: "document",
      source: { type: "base64", media_type: "application/pdf", data: pdf.toString("base64") }
    })
  })

  it("is a picture by its id and by its address, whatever it was called, and read once", async () => {
    const id = await uploaded(png, "picture.pdf")
    upstream.reply(openAi.chat({ text: "seen" }))
    const response = await native("openai::gpt-x", [
      { type: "image", source: { type: "file", id } },
      { type: "image", source: { type: "url", url: `/llm-gateway/v1/files/${id}` }, detail: "low" }
    ])
    assert.strictEqual(response.status, 200, await response.text())
    const url = `data:image/png;base64,${png.toString("base64")}`
    assert.deepStrictEqual(sentParts(), [
      { type: "image_url", image_url: { url } },
      { type: "image_url", image_url: { url, detail: "low" } }
    ])
  })

  it("of megabytes arrives to the letter", async () => {
    const large = Buffer.concat([png, Buffer.from(Uint8Array.from({ length: 5_000_001 }, (_, index) => index % 253))])
    const id = await uploaded(large, "large.png")
    upstream.reply(openAi.chat({ text: "seen" }))
    const response = await native("openai::gpt-x", [{ type: "image", source: { type: "file", id } }])
    assert.strictEqual(response.status, 200)
    assert.isTrue(JSON.stringify(sentParts()).includes(large.toString("base64")))
  })

  it("that is another tenant's, or nobody's, is not there, and nothing is sent", async () => {
    const foreign = await uploaded(png, "p.png", "key-b")
    for (const id of [foreign, `file-${"0".repeat(32)}`, "file-x"]) {
      const response = await native("openai::gpt-x", [
        { type: "text", text: "See" },
        { type: "image", source: { type: "file", id } }
      ])
      const text = await response.text()
      assert.strictEqual(response.status, 404, text)
      assert.include(text, "file_not_found")
      assert.include(text, "messages[0].content[1]")
    }
    assert.lengthOf(upstream.requests, 0)
  })

  it("is refused where all of them are too much", async () => {
    const half = Buffer.concat([png, Buffer.alloc(30_000_000)])
    const [one, two] = [await uploaded(half, "1.png"), await uploaded(half, "2.png")]
    const response = await native(
      "openai::gpt-x",
      [one, two].map((id) => ({ type: "image", source: { type: "file", id } }))
    )
    assert.strictEqual(response.status, 413)
    const many = Array.from({ length: 101 }, (_, index) => ({
      type: "image",
      source: { type: "file", id: `file-${String(index).padStart(32, "0")}` }
    }))
    assert.strictEqual((await native("openai::gpt-x", many)).status, 400)
    assert.lengthOf(upstream.requests, 0)
  })
})
