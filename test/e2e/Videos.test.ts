/**
 * Videos through the gateway in a process of its own: submitted once, asked after by the id that was kept, stored, charged by the
 * second and the size, and gone on with where the process is killed.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema, Scope } from "effect"
import { hash } from "node:crypto"
import path from "node:path"
import { BudgetList } from "../../src/sdk/GatewayApi.ts"
import { Job } from "../../src/sdk/Job.ts"
import { VideoResponse } from "../../src/sdk/Video.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { type Asked, json, raw } from "../fixtures/Script.ts"
import { serve, type ServedGateway, temporaryFolder } from "../fixtures/ServedGateway.ts"
import { isolated, postgresUrl } from "../fixtures/Stores.ts"

const yamlOf = (upstream: FakeUpstream, sql: string): string => `
server: { port: 0, drain_timeout: 1s }
auth: { mode: keys, keys: [{ id: k1, sha256: ${hash("sha256", "secret", "hex")}, tenant: acme }] }
tenants: { acme: { budgets: [{ per: tenant, usd: 1000, window: total }] } }
providers:
  p: { type: openai, base_url: "${upstream.url}/v1", api_keys: [key-number-one, key-number-two], unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "p::sora-2", prices: { output_video_second: { base: 0.1, variants: { "1280x720": 0.3 } } } }
usage: { sinks: [{ type: sql }] }
storage: { sql: "${sql}" }
jobs: { lease: 1s }
`

const decodeJob = Schema.decodeUnknownSync(Job)
const decodeVideo = Schema.decodeUnknownSync(VideoResponse)
const decodeBudgets = Schema.decodeUnknownSync(BudgetList)

const call = async (gateway: ServedGateway, method: string, where: string, body?: unknown): Promise<unknown> => {
  const response = await fetch(`${gateway.url}/llm-gateway/v1${where}`, {
    method,
    headers: { authorization: "Bearer secret", "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) })
  })
  const answer: unknown = await response.json()
  assert.isTrue(response.ok, `${JSON.stringify(answer)} ${gateway.said()}`)
  return answer
}

const create = async (gateway: ServedGateway, more: Readonly<Record<string, unknown>> = {}) =>
  decodeJob(
    await call(gateway, "POST", "/jobs", {
      operation: "video",
      request: { model: "p::sora-2", prompt: "a cat on a roof", seconds: 8, size: "1280x720" },
      ...more
    })
  ).id

const ended = async (gateway: ServedGateway, id: string) =>
  decodeJob(await call(gateway, "GET", `/jobs/${id}?wait=40s`))

/** What the tenant has spent, nano-USD, once it is that or a while has passed. */
const spent = async (gateway: ServedGateway, nanoUsd: number) => {
  for (let look = 0;; look++) {
    const { budgets } = decodeBudgets(await call(gateway, "GET", "/budgets"))
    const now = Math.round((budgets[0]?.spentUsd ?? 0) * 1e9)
    if (now === nanoUsd || look === 100) return now
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

const video = { id: "video_1", object: "video", seconds: "8", size: "1280x720" }

/** OpenAI's side of it: a video that is finished as soon as the test says so. */
const studio = () => {
  let isDone = false
  let isFailed = false
  const script = ({ method, path: where }: Asked) => {
    if (where.includes("/content")) {
      return where.endsWith("variant=video")
        ? raw(
          200,
          { "content-type": "video/mp4" },
          new Uint8Array([0, 0, 0, 12, 102, 116, 121, 112, 105, 115, 111, 109])
        )
        : json({ error: { message: "there is none" } }, { status: 404 })
    }
    if (method === "DELETE") return json({ ...video, object: "video.deleted", deleted: true })
    if (isFailed) {
      return json({ ...video, status: "failed", error: { code: "moderation_blocked", message: "not this" } })
    }
    if (method === "GET") return json({ ...video, status: isDone ? "completed" : "in_progress", progress: 50 })
    return json({ ...video, status: "queued", progress: 0 })
  }
  return {
    script,
    finish: () => {
      isDone = true
    },
    fail: () => {
      isFailed = true
    }
  }
}

const submissions = ({ requests }: FakeUpstream): number => requests.filter(({ method }) => method === "POST").length

/** 8 seconds at 0.3 USD. */
const price = 2_400_000_000

const upstreamOf = Effect.acquireRelease(
  Effect.promise(() => startFakeUpstream()),
  ({ close }) => Effect.promise(close)
)

/** Starts the service, as often as it is called, in one folder. */
const starter = (yaml: string, folder: string, scope: Scope.Scope) => (): Promise<ServedGateway> =>
  Effect.runPromise(Scope.provide(serve(yaml, { folder }), scope))

const databases = [{ name: "SQLite", isMissing: false }, { name: "PostgreSQL", isMissing: postgresUrl === undefined }]

describe.each(databases)("a video, with its job in $name", (database) => {
  const test = (
    what: string,
    body: (upstream: FakeUpstream, start: () => Promise<ServedGateway>) => Promise<void>
  ) =>
    it.live.skipIf(database.isMissing)(what, () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const url = database.name === "SQLite"
          ? `sqlite:${path.join(folder, "gateway.db")}`
          : yield* isolated(postgresUrl ?? "")
        const upstream = yield* upstreamOf
        const scope = yield* Effect.scope
        yield* Effect.promise(() => body(upstream, starter(yamlOf(upstream, url), folder, scope)))
      }), 90_000)

  test("is made once, stored, and charged by the second and the size", async (upstream, start) => {
    const { finish, script } = studio()
    upstream.always(script)
    const gateway = await start()
    const id = await create(gateway)
    await upstream.waitForRequest(1)
    finish()
    const job = await ended(gateway, id)
    assert.strictEqual(job.status, "completed", JSON.stringify(job.error))
    const made = decodeVideo(job.result)
    assert.deepStrictEqual(made.files.map(({ bytes, contentType, variant }) => [variant, contentType, bytes]), [
      ["video", "video/mp4", 12]
    ])
    assert.strictEqual(made.modelUsed, "p::sora-2")
    assert.strictEqual(submissions(upstream), 1)
    assert.deepInclude(upstream.request(0).json, { model: "sora-2", seconds: "8", size: "1280x720" })
    // What was submitted with one of the keys is not there for the other.
    assert.strictEqual(new Set(upstream.requests.map(({ headers }) => headers["authorization"])).size, 1)
    assert.strictEqual(await spent(gateway, price), price)
  })

  test("goes on by its id where the process is killed while it is made", async (upstream, start) => {
    const { finish, script } = studio()
    upstream.always(script)
    const first = await start()
    const id = await create(first, { on_interruption: "fail" })
    await upstream.waitForRequest(1)
    await first.end("SIGKILL")
    const next = await start()
    const before = upstream.requests.length
    await upstream.waitForRequest(before, 20_000)
    finish()
    assert.strictEqual((await ended(next, id)).status, "completed")
    assert.strictEqual(submissions(upstream), 1)
    assert.strictEqual(await spent(next, price), price)
  })

  test("goes on by its id where the process is told to stop", async (upstream, start) => {
    const { finish, script } = studio()
    upstream.always(script)
    const first = await start()
    const id = await create(first)
    await upstream.waitForRequest(1)
    await first.end("SIGTERM")
    assert.isEmpty(upstream.requests.filter(({ method }) => method === "DELETE"))
    finish()
    const next = await start()
    assert.strictEqual((await ended(next, id)).status, "completed")
    assert.strictEqual(submissions(upstream), 1)
    assert.strictEqual(await spent(next, price), price)
  })

  test("is not submitted twice where nobody knows whether it was", async (upstream, start) => {
    upstream.reply(withFault(json(video), fault.hang))
    upstream.always(studio().script)
    const first = await start()
    const id = await create(first)
    await upstream.waitForRequest(0)
    await first.end("SIGKILL")
    const next = await start()
    assert.strictEqual((await ended(next, id)).error?.code, "job_interrupted")
    assert.strictEqual(submissions(upstream), 1)
    assert.strictEqual(await spent(next, 0), 0)
  })

  test("is cancelled at its provider with its job, and not made anew when that says no", async (upstream, start) => {
    const first = studio()
    upstream.always(first.script)
    const gateway = await start()
    const id = await create(gateway)
    await upstream.waitForRequest(1)
    await call(gateway, "DELETE", `/jobs/${id}`)
    for (let look = 0; look < 100 && !upstream.requests.some(({ method }) => method === "DELETE"); look++) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    assert.strictEqual(upstream.requests.find(({ method }) => method === "DELETE")?.path, "/v1/videos/video_1")

    upstream.reset()
    const second = studio()
    upstream.always(second.script)
    const refused = await create(gateway)
    await upstream.waitForRequest(1)
    second.fail()
    const job = await ended(gateway, refused)
    assert.strictEqual(job.status, "failed")
    assert.include(job.error?.message, "not this")
    assert.strictEqual(submissions(upstream), 1)
  })
})

describe("the sandbox", () => {
  it.live("makes a small film, whose answer can be waited for", () =>
    Effect.gen(function*() {
      const upstream = yield* upstreamOf
      const gateway = yield* serve(yamlOf(upstream, "sqlite:./gateway.db"))
      const made = decodeVideo(
        yield* Effect.promise(() =>
          call(gateway, "POST", "/videos", { model: "sandbox::video", prompt: "a dog", seconds: 2, size: "1792x1024" })
        )
      )
      assert.strictEqual(made.seconds, 2)
      assert.strictEqual(made.files[0]?.contentType, "video/mp4")
      // Two seconds at half a dollar.
      assert.strictEqual(yield* Effect.promise(() => spent(gateway, 1e9)), 1e9)
    }), 30_000)
})
