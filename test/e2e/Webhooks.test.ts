/**
 * Webhooks of jobs, called by a gateway in a process of its own: signed so that the scheme's own library takes them, repeated
 * until they are received, sent anew when asked, and made all the same by the next process where one is killed.
 */
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit, Schema, Scope } from "effect"
import { hash } from "node:crypto"
import path from "node:path"
import { Webhook } from "standardwebhooks"
import { Problem } from "../../src/sdk/GatewayApi.ts"
import { Job } from "../../src/sdk/Job.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { json } from "../fixtures/Script.ts"
import { serve, type ServedGateway, temporaryFolder } from "../fixtures/ServedGateway.ts"
import { isolated, postgresUrl } from "../fixtures/Stores.ts"

const secretOf = (text: string): string => `whsec_${Buffer.from(text.padEnd(24, ".")).toString("base64")}`
const [current, former] = [secretOf("current"), secretOf("former")]

const keyOf = (id: string, tenant: string) => `{ id: ${id}, sha256: ${hash("sha256", id, "hex")}, tenant: ${tenant} }`

const yamlOf = (provider: FakeUpstream, sql: string): string => `
server: { port: 0, drain_timeout: 1s }
auth: { mode: keys, keys: [${keyOf("ann", "team")}, ${keyOf("bob", "other")}] }
tenants:
  acme: { webhook_secrets: ["${current}", "${former}"] }
  team: { parent: acme }
  other: {}
providers:
  p: { type: openai, base_url: "${provider.url}/v1", api_key: secret, unlisted_models: allow }
usage: { sinks: [{ type: sql }] }
storage: { sql: "${sql}", fetch: { allow: ["127.0.0.1"] } }
jobs: { lease: 1s }
`

const decodeJob = Schema.decodeUnknownSync(Job)
const decodeProblem = Schema.decodeUnknownSync(Problem)
const decodeEvent = Schema.decodeUnknownSync(Schema.Struct({
  type: Schema.String,
  timestamp: Schema.String,
  data: Schema.Struct({ id: Schema.String, status: Schema.String, result: Schema.optionalKey(Schema.Unknown) })
}))

const send = (gateway: ServedGateway, method: string, where: string, body?: unknown, key = "ann") =>
  fetch(`${gateway.url}/llm-gateway/v1${where}`, {
    method,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) })
  })

const jobIn = async (response: Response) => {
  const text: unknown = await response.json()
  assert.isTrue(response.ok, JSON.stringify(text))
  return decodeJob(text)
}

const chat = { model: "p::m", messages: [{ role: "user", content: "hello" }] }
const received = json({})

/** The job, once its webhook stands so. */
const settled = async (gateway: ServedGateway, id: string, status: string) => {
  for (let look = 0;; look++) {
    const job = await jobIn(await send(gateway, "GET", `/jobs/${id}`))
    if (job.webhook?.status === status || look === 200) {
      assert.strictEqual(job.webhook?.status, status)
      return job
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** What the receiver was told in one of its calls, as the scheme's own library reads it. */
const told = (receiver: FakeUpstream, index: number, secret = current) => {
  const { body, headers } = receiver.request(index)
  const read = new Webhook(secret).verify(JSON.stringify(body), {
    "webhook-id": String(headers["webhook-id"]),
    "webhook-timestamp": String(headers["webhook-timestamp"]),
    "webhook-signature": String(headers["webhook-signature"])
  })
  return { id: headers["webhook-id"], event: decodeEvent(read) }
}

describe("a webhook", () => {
  const scope = Scope.makeUnsafe()
  let provider: FakeUpstream
  let receiver: FakeUpstream
  let gateway: ServedGateway

  beforeAll(async () => {
    provider = await startFakeUpstream()
    receiver = await startFakeUpstream()
    gateway = await Effect.runPromise(
      Scope.provide(serve(yamlOf(provider, "sqlite:./gateway.db"), { graceMs: 60_000 }), scope)
    )
  })
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    await provider.close()
    await receiver.close()
  })
  afterEach(() => {
    provider.reset()
    receiver.reset()
  })

  const make = async (webhook: string) =>
    jobIn(await send(gateway, "POST", "/chat/completions", { ...chat, async: true, webhook: { url: webhook } }))

  it("tells that a job has ended, signed with each of its tenant's secrets and without the result", async () => {
    provider.always(openAi.chat({ text: "done" }))
    receiver.always(received)
    const made = await make(`${receiver.url}/ended?token=1`)
    assert.deepInclude(made.webhook, { status: "waiting", attempts: 0 })
    const { webhook } = await settled(gateway, made.id, "delivered")
    assert.deepStrictEqual(webhook, { url: `${receiver.url}/ended?token=1`, status: "delivered", attempts: 1 })
    for (const secret of [current, former]) {
      const { event, id } = told(receiver, 0, secret)
      assert.strictEqual(event.type, "job.completed")
      assert.deepInclude(event.data, { id: made.id, status: "completed" })
      assert.isUndefined(event.data.result)
      assert.strictEqual(id, made.id.replace("job_", "msg_"))
    }
    assert.throws(() => told(receiver, 0, secretOf("somebody else's")))
    assert.strictEqual(receiver.requests.length, 1)
  })

  it("is sent anew when asked, as the same message", async () => {
    provider.always(json({ error: { message: "no such thing" } }, { status: 422 }))
    receiver.always(received)
    const { id } = await make(receiver.url)
    await settled(gateway, id, "delivered")
    assert.strictEqual(told(receiver, 0).event.type, "job.failed")
    const response = await send(gateway, "POST", `/jobs/${id}/webhook/redeliver`)
    assert.strictEqual(response.status, 202)
    assert.strictEqual((await jobIn(response)).webhook?.status, "sending")
    assert.strictEqual((await settled(gateway, id, "delivered")).webhook?.attempts, 2)
    assert.strictEqual(told(receiver, 1).id, told(receiver, 0).id)
    assert.strictEqual((await send(gateway, "POST", `/jobs/${id}/webhook/redeliver`, undefined, "bob")).status, 404)
  })

  it("is repeated until it is received", async () => {
    provider.always(openAi.chat({ text: "done" }))
    receiver.reply(json({}, { status: 503 }))
    receiver.always(received)
    const { id } = await make(receiver.url)
    await receiver.waitForRequest(0)
    assert.deepInclude((await settled(gateway, id, "sending")).webhook, { attempts: 1 })
    await receiver.waitForRequest(1, 10_000)
    assert.strictEqual((await settled(gateway, id, "delivered")).webhook?.attempts, 2)
    assert.strictEqual(told(receiver, 1).id, told(receiver, 0).id)
  }, 20_000)

  it("is given up where the receiver wants no more, and says why", async () => {
    provider.always(openAi.chat({ text: "done" }))
    receiver.always(json({}, { status: 410 }))
    const { id } = await make(receiver.url)
    const { webhook } = await settled(gateway, id, "failed")
    assert.deepInclude(webhook, { attempts: 1, failure: "it answered with status 410" })
  })

  it("tells of a job that was cancelled, too, and cannot be sent anew before", async () => {
    provider.always(withFault(openAi.chat({ text: "never" }), fault.hang))
    receiver.always(received)
    const { id } = await make(receiver.url)
    const early = await send(gateway, "POST", `/jobs/${id}/webhook/redeliver`)
    assert.strictEqual(early.status, 400)
    await send(gateway, "DELETE", `/jobs/${id}`)
    await settled(gateway, id, "delivered")
    assert.strictEqual(told(receiver, 0).event.type, "job.cancelled")
  })

  it("is refused at once where it could not be called, or not be signed", async () => {
    const refused = async (webhook: unknown, key = "ann") => {
      const response = await send(gateway, "POST", "/jobs", { operation: "chat", request: chat, webhook }, key)
      assert.strictEqual(response.status, 400)
      return decodeProblem(await response.json())
    }
    assert.strictEqual((await refused({ url: "https://10.0.0.1/" })).field, "webhook.url")
    assert.strictEqual((await refused({ url: "nonsense" })).field, "webhook.url")
    assert.strictEqual((await refused({ url: `${receiver.url}/${"x".repeat(3_000)}` })).field, "webhook.url")
    assert.strictEqual((await refused({})).code, "validation_error")
    assert.include((await refused({ url: receiver.url }, "bob")).detail, "webhook_secrets")
    provider.always(openAi.chat({ text: "done" }))
    const without = await jobIn(await send(gateway, "POST", "/jobs?", { operation: "chat", request: chat }))
    await send(gateway, "GET", `/jobs/${without.id}?wait=30s`)
    assert.strictEqual((await send(gateway, "POST", `/jobs/${without.id}/webhook/redeliver`)).status, 400)
    assert.strictEqual(receiver.requests.length, 0)
  })
})

const databases = [{ name: "SQLite", isMissing: false }, { name: "PostgreSQL", isMissing: postgresUrl === undefined }]

describe.each(databases)("a process that is killed while it calls a webhook, with its jobs in $name", (database) => {
  it.live.skipIf(database.isMissing)("the next one calls it, with the same message", () =>
    Effect.gen(function*() {
      const url = database.name === "SQLite"
        ? `sqlite:${path.join(yield* temporaryFolder, "gateway.db")}`
        : yield* isolated(postgresUrl ?? "")
      const started = Effect.acquireRelease(
        Effect.promise(() => startFakeUpstream()),
        ({ close }) => Effect.promise(close)
      )
      const [provider, receiver] = [yield* started, yield* started]
      provider.always(openAi.chat({ text: "done" }))
      receiver.reply(withFault(received, fault.hang))
      receiver.always(received)
      const first = yield* serve(yamlOf(provider, url), { graceMs: 60_000 })
      const body = { operation: "chat", request: chat, webhook: { url: receiver.url } }
      const { id } = yield* Effect.promise(async () => jobIn(await send(first, "POST", "/jobs", body)))
      yield* Effect.promise(() => receiver.waitForRequest(0))
      yield* Effect.promise(() => first.end("SIGKILL"))
      const next = yield* serve(yamlOf(provider, url), { graceMs: 60_000 })
      yield* Effect.promise(() => receiver.waitForRequest(1, 40_000))
      const job = yield* Effect.promise(() => settled(next, id, "delivered"))
      assert.strictEqual(job.status, "completed")
      assert.strictEqual(job.webhook?.attempts, 2)
      assert.strictEqual(told(receiver, 1).id, told(receiver, 0).id)
      assert.strictEqual(provider.requests.length, 1)
    }), 90_000)
})
