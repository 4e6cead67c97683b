/** Videos with OpenAI's own SDK against the running gateway: made, waited for, listed, fetched whole and in ranges, deleted. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { hash } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import OpenAI, { APIError } from "openai"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"

let gateway: RunningGateway
let folder: string
let client: OpenAI
let stranger: OpenAI

const keyOf = (id: string, tenant: string) => `{ id: ${id}, sha256: ${hash("sha256", id, "hex")}, tenant: ${tenant} }`

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "llm-gateway-"))
  gateway = await startGateway(`
auth: { mode: keys, keys: [${keyOf("ann", "acme")}, ${keyOf("bob", "other")}] }
tenants: { acme: {}, other: {} }
providers:
  sandbox: { type: sandbox }
storage: { sql: "sqlite::memory:", files: { dir: "${folder}" } }
`)
  const clientOf = (apiKey: string) => new OpenAI({ apiKey, baseURL: `${gateway.url}/v1`, maxRetries: 0 })
  client = clientOf("ann")
  stranger = clientOf("bob")
})
afterAll(async () => {
  await gateway.close()
  rmSync(folder, { recursive: true, force: true })
})

const model = "sandbox::video"

const make = async () => {
  const made = await client.videos.create({ model, prompt: "a cat", seconds: "4", size: "1280x720" })
  for (let look = 0; look < 200; look++) {
    const video = await client.videos.retrieve(made.id)
    if (video.status !== "queued" && video.status !== "in_progress") return video
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return assert.fail("the video does not come to an end")
}

const statusOf = async (call: Promise<unknown>) => {
  try {
    await call
  } catch (error) {
    if (error instanceof APIError) return error.status
    throw error
  }
  return assert.fail("the call did not fail")
}

describe("OpenAI's SDK", () => {
  it("makes a video, asks after it and fetches it", async () => {
    const made = await client.videos.create({ model, prompt: "a cat", seconds: "8", size: "1280x720" })
    assert.match(made.id, /^video_[0-9a-f]{32}$/)
    assert.deepInclude(made, { object: "video", status: "queued", seconds: "8", size: "1280x720", prompt: "a cat" })
    const video = await make()
    assert.deepInclude(video, { object: "video", status: "completed", progress: 100, seconds: "4", size: "1280x720" })
    const response = await client.videos.downloadContent(video.id)
    assert.strictEqual(response.headers.get("content-type"), "video/mp4")
    const whole = Buffer.from(await response.arrayBuffer())
    assert.strictEqual(whole.subarray(4, 12).toString("latin1"), "ftypisom")
    assert.strictEqual(Number(response.headers.get("content-length")), whole.length)

    const part = async (range: string) => {
      const response = await fetch(`${gateway.url}/v1/videos/${video.id}/content`, {
        headers: { authorization: "Bearer ann", range }
      })
      return { response, bytes: Buffer.from(await response.arrayBuffer()) }
    }
    const middle = await part("bytes=4-7")
    assert.strictEqual(middle.response.status, 206)
    assert.strictEqual(middle.bytes.toString("latin1"), "ftyp")
    assert.strictEqual(middle.response.headers.get("content-range"), `bytes 4-7/${whole.length}`)
    assert.deepStrictEqual((await part("bytes=-5")).bytes, whole.subarray(-5))
    assert.deepStrictEqual((await part(`bytes=${whole.length - 3}-`)).bytes, whole.subarray(-3))
    assert.strictEqual((await part(`bytes=${whole.length}-`)).response.status, 416)
    assert.strictEqual((await part("lines=1-2")).response.status, 200)
  })

  it("finds it in the list, and no more when it was deleted", async () => {
    const { id } = await make()
    const ids = async () => (await client.videos.list({ limit: 100 })).data.map((video) => video.id)
    assert.include(await ids(), id)
    const { deleted } = await client.videos.delete(id)
    assert.isTrue(deleted)
    assert.notInclude(await ids(), id)
    assert.strictEqual(await statusOf(client.videos.retrieve(id)), 404)
    assert.strictEqual(await statusOf(client.videos.downloadContent(id)), 404)
  })

  it("cancels what it deletes while it is made", async () => {
    const { id } = await client.videos.create({ model: "sandbox::video-slow-600000", prompt: "a cat" })
    assert.strictEqual(await statusOf(client.videos.downloadContent(id)), 400)
    await client.videos.delete(id)
    assert.strictEqual(await statusOf(client.videos.retrieve(id)), 404)
  })

  it("does not see another tenant's, and is told what is wrong with a request", async () => {
    const { id } = await make()
    assert.strictEqual(await statusOf(stranger.videos.retrieve(id)), 404)
    assert.strictEqual(await statusOf(stranger.videos.downloadContent(id)), 404)
    assert.strictEqual(await statusOf(stranger.videos.delete(id)), 404)
    assert.deepStrictEqual((await stranger.videos.list()).data, [])
    assert.strictEqual(await statusOf(client.videos.downloadContent(id, { variant: "thumbnail" })), 404)
    const wrong = (body: Readonly<Record<string, unknown>>) =>
      gateway.post("/v1/videos", body, { authorization: "Bearer ann" })
    assert.strictEqual((await wrong({ model })).status, 400)
    assert.strictEqual((await wrong({ model, prompt: "a", seconds: "four" })).status, 400)
    assert.strictEqual((await wrong({ model, prompt: "a", seconds: 4 })).status, 200)
    const form = new FormData()
    form.set("prompt", "a")
    form.set("input_reference", new Blob(["x"]), "x.png")
    const refused = await fetch(`${gateway.url}/v1/videos`, {
      method: "POST",
      headers: { authorization: "Bearer ann" },
      body: form
    })
    assert.strictEqual(refused.status, 400)
    assert.include(await refused.text(), "input_reference")
  })
})
