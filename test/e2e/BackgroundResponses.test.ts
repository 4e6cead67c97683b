/** Responses that run in the background, with OpenAI's own SDK: jobs of the gateway behind its Responses API. */
import { afterAll, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { hash } from "node:crypto"
import OpenAI, { BadRequestError, NotFoundError } from "openai"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

let upstream: FakeUpstream
let gateway: RunningGateway
beforeAll(async () => {
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
`)
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())

const client = (key = "key-a") => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: key, maxRetries: 0 })

/** Asks until the response is in a state that stays. */
const ended = async (id: string): Promise<OpenAI.Responses.Response> => {
  for (;;) {
    const response = await client().responses.retrieve(id)
    if (response.status !== "queued" && response.status !== "in_progress") return response
    await new Promise((resolve) => setImmediate(resolve))
  }
}

const model = "openai::model-1"

describe("a response in the background", () => {
  it("is queued, runs, and can be fetched", async () => {
    upstream.reply(openAi.chat({ text: "Hello there" }))
    const created = await client().responses.create({ model, input: "Hi", background: true, store: true })
    assert.strictEqual(created.status, "queued")
    assert.isTrue(created.background)
    assert.match(created.id, /^resp_/)
    const response = await ended(created.id)
    assert.deepInclude(response, { id: created.id, status: "completed", background: true })
    assert.strictEqual(response.output.flatMap((item) => item.type === "message" ? item.content : []).length, 1)
    assert.isAbove(response.usage?.total_tokens ?? 0, 0)
    assert.strictEqual(response.created_at, created.created_at)
  })

  it("is cancelled, and its upstream is left", async () => {
    upstream.reply(withFault(openAi.chat({ text: "late" }), fault.holdHeaders(new Promise<never>(() => {}))))
    const created = await client().responses.create({ model, input: "Hi", background: true })
    await upstream.waitForRequest(0)
    const cancelled = await client().responses.cancel(created.id)
    assert.strictEqual(cancelled.status, "cancelled")
    assert.isTrue((await upstream.waitForClose(0)).aborted)
    assert.strictEqual((await ended(created.id)).status, "cancelled")
  })

  it("tells why it failed", async () => {
    upstream.reply(openAi.error(400, { message: "no such thing", code: "bad_thing" }))
    const created = await client().responses.create({ model, input: "Hi", background: true })
    const response = await ended(created.id)
    assert.strictEqual(response.status, "failed")
    assert.include(response.error?.message, "no such thing")
  })

  it("is made once for one idempotency key", async () => {
    upstream.always(openAi.chat({ text: "once" }))
    const ids = await Promise.all([1, 2].map(async () =>
      (await client().responses.create(
        { model, input: "Hi", background: true },
        { headers: { "idempotency-key": "k-1" } }
      )).id
    ))
    assert.strictEqual(ids[0], ids[1])
    await ended(ids[0] ?? "")
    assert.lengthOf(upstream.requests, 1)
  })

  it("is its tenant's alone, and nothing else is a response", async () => {
    upstream.reply(openAi.chat({ text: "mine" }))
    const { id } = await client().responses.create({ model, input: "Hi", background: true })
    await ended(id)
    for (const [key, asked] of [["key-b", id], ["key-a", "resp_1"], ["key-a", `resp_${"0".repeat(32)}`]] as const) {
      const error = await client(key).responses.retrieve(asked).catch((error: unknown) => error)
      assert.instanceOf(error, NotFoundError)
      assert.instanceOf(await client(key).responses.cancel(asked).catch((error: unknown) => error), NotFoundError)
    }
  })

  it("does not stream", async () => {
    const error = await client().responses.create({ model, input: "Hi", background: true, stream: true }).catch((
      error: unknown
    ) => error)
    assert.instanceOf(error, BadRequestError)
    assert.include(String(error), "leave stream out")
  })

  it("is refused at once where it cannot work", async () => {
    const error = await client().responses.create({ model: "nobody::m", input: "Hi", background: true }).catch((
      error: unknown
    ) => error)
    assert.instanceOf(error, NotFoundError)
  })
})
