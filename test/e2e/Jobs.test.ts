/**
 * Jobs through the running gateway: made by `async: true` and by `POST /jobs`, looked at, waited for, streamed, listed and
 * cancelled, by their own tenant alone.
 */
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { hash } from "node:crypto"
import { ChatAnswer } from "../../src/sdk/Chat.ts"
import { Problem } from "../../src/sdk/GatewayApi.ts"
import { Job, JobList } from "../../src/sdk/Job.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { type Json, json } from "../fixtures/Script.ts"

let upstream: FakeUpstream
let gateway: RunningGateway

const keyOf = (id: string, tenant: string) =>
  `{ id: ${id}, sha256: ${hash("sha256", id, "hex")}, tenant: ${tenant}, user: ${id}, admin: ${id === "ann"} }`

beforeAll(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(`
auth: { mode: keys, keys: [${keyOf("ann", "acme")}, ${keyOf("bob", "other")}] }
tenants:
  acme: { budgets: [{ per: tenant, usd: 1000, window: total }] }
  other: { models: ["p::allowed"] }
providers:
  p: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
models:
  - { id: "p::m", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
  - { id: "p::e", prices: { input_mtok: 1, output_mtok: 0 } }
usage: { sinks: [{ type: sql }] }
jobs: { concurrency: 4, max_unfinished: 8 }
`)
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
afterEach(() => upstream.reset())

const strictly = { onExcessProperty: "error" } as const
const decodeJob = Schema.decodeUnknownSync(Job, strictly)
const decodeList = Schema.decodeUnknownSync(JobList, strictly)
const decodeProblem = Schema.decodeUnknownSync(Problem)
const decodeAnswer = Schema.decodeUnknownSync(ChatAnswer)

const chat = (more: Json = {}): Json => ({ model: "p::m", messages: [{ role: "user", content: "hello" }], ...more })

const send = (method: string, path: string, body?: unknown, headers: Readonly<Record<string, string>> = {}) =>
  fetch(`${gateway.url}/llm-gateway/v1${path}`, {
    method,
    headers: { authorization: "Bearer ann", "content-type": "application/json", ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) })
  })

const make = async (body: Json = chat({ async: true }), headers: Readonly<Record<string, string>> = {}) => {
  const response = await send("POST", "/chat/completions", body, headers)
  const text: unknown = await response.json()
  assert.strictEqual(response.status, 202, JSON.stringify(text))
  return decodeJob(text)
}

const look = async (id: string, query = "", headers: Readonly<Record<string, string>> = {}) =>
  decodeJob(await (await send("GET", `/jobs/${id}${query}`, undefined, headers)).json())

const problem = async (response: Response) => decodeProblem(await response.json())

/** An answer that comes when the test says so. */
const held = () => {
  let release: () => void = () => {}
  const until = new Promise<void>((resolve) => {
    release = resolve
  })
  return { script: withFault(openAi.chat({ text: "done" }), fault.holdHeaders(until)), release }
}

const bob = { authorization: "Bearer bob" }

describe("a job", () => {
  it("answers what its request would have been answered with, and is charged for it", async () => {
    upstream.always(openAi.chat({ text: "done" }))
    const { id, status } = await make()
    assert.strictEqual(status, "pending")
    const job = await look(id, "?wait=30s")
    assert.strictEqual(job.status, "completed")
    const answer = decodeAnswer(job.result)
    assert.deepStrictEqual(answer.content, [{ type: "text", text: "done" }])
    assert.strictEqual(answer.modelUsed, "p::m")
    assert.isDefined(job.startedAt)
    assert.isTrue(Date.parse(job.expiresAt) > Date.parse(job.finishedAt ?? ""))
    assert.strictEqual(upstream.requests.length, 1)
  })

  it("is made by POST /jobs, too, also of vectors", async () => {
    upstream.always(json({ object: "list", data: [{ object: "embedding", index: 0, embedding: [1, 2] }], model: "e" }))
    const request = { model: "p::e", input: "hello" }
    const made = decodeJob(await (await send("POST", "/jobs", { operation: "embed", request })).json())
    const job = await look(made.id, "?wait=30s")
    assert.strictEqual(job.operation, "embed")
    assert.deepInclude(job.result, { embeddings: [[1, 2]] })
    const other = await send("POST", "/embeddings", { ...request, async: true })
    assert.strictEqual(other.status, 202)
    assert.strictEqual((await look(decodeJob(await other.json()).id, "?wait=30s")).status, "completed")
  })

  it("fails with what its request would have failed with", async () => {
    upstream.always(json({ error: { message: "no such thing", type: "invalid_request_error" } }, { status: 422 }))
    const { id } = await make()
    const { error, status } = await look(id, "?wait=30s")
    assert.strictEqual(status, "failed")
    assert.deepInclude(error, { code: "provider_error", status: 422 })
  })

  it("tells of its states as events", async () => {
    const { release, script } = held()
    upstream.always(script)
    const { id } = await make()
    const response = await send("GET", `/jobs/${id}`, undefined, { accept: "text/event-stream" })
    await upstream.waitForRequest(0)
    release()
    const text = await response.text()
    const events = Array.from(text.matchAll(/^event: (.+)\ndata: (.+)$/gm), ([, event, data]) => ({
      event,
      job: decodeJob(JSON.parse(data ?? ""))
    }))
    for (const { event, job } of events) assert.strictEqual(event, job.status)
    assert.strictEqual(events.at(-1)?.event, "completed")
    assert.isDefined(events.at(-1)?.job.result)
  })

  it("that is cancelled closes its provider's connection, ends so, and cancelling it again changes nothing", async () => {
    upstream.always(withFault(openAi.chat({ text: "never" }), fault.hang))
    const { id } = await make()
    await upstream.waitForRequest(0)
    const waiting = look(id, "?wait=30s")
    const response = await send("DELETE", `/jobs/${id}`)
    assert.strictEqual(decodeJob(await response.json()).status, "cancelled")
    assert.isTrue((await upstream.waitForClose(0)).aborted)
    assert.strictEqual((await waiting).status, "cancelled")
    const again = await send("DELETE", `/jobs/${id}`)
    assert.strictEqual(again.status, 200)
    assert.strictEqual(decodeJob(await again.json()).status, "cancelled")
  })

  it("that has ended is not cancelled any more", async () => {
    upstream.always(openAi.chat({ text: "done" }))
    const { id } = await make()
    await look(id, "?wait=30s")
    assert.strictEqual(decodeJob(await (await send("DELETE", `/jobs/${id}`)).json()).status, "completed")
  })

  it("waits while others run, and is cancelled while it waits without ever reaching a provider", async () => {
    const { release, script } = held()
    upstream.always(script)
    const running = await Promise.all(Array.from({ length: 4 }, () => make()))
    await upstream.waitForRequest(3)
    const waiting = await make()
    const next = await make()
    assert.strictEqual((await look(next.id)).status, "pending")
    await send("DELETE", `/jobs/${waiting.id}`)
    release()
    for (const { id } of [...running, next]) assert.strictEqual((await look(id, "?wait=30s")).status, "completed")
    assert.strictEqual((await look(waiting.id)).status, "cancelled")
    assert.strictEqual(upstream.requests.length, 5)
  })

  it("is asked for once, however often it is sent with one idempotency key", async () => {
    upstream.always(openAi.chat({ text: "done" }))
    const key = { "idempotency-key": "same" }
    const made = await Promise.all(Array.from({ length: 5 }, () => make(chat({ async: true }), key)))
    assert.strictEqual(new Set(made.map(({ id }) => id)).size, 1)
    await look(made[0]?.id ?? "", "?wait=30s")
    assert.strictEqual(upstream.requests.length, 1)
    const other = await send("POST", "/chat/completions", chat({ async: true, temperature: 1 }), key)
    assert.strictEqual(other.status, 400)
    assert.strictEqual((await problem(other)).field, "idempotency-key")
  })

  it("is its tenant's alone", async () => {
    upstream.always(openAi.chat({ text: "done" }))
    const { id } = await make()
    for (const method of ["GET", "DELETE"]) {
      for (const headers of [bob, { ...bob, accept: "text/event-stream" }]) {
        const response = await send(method, `/jobs/${id}`, undefined, headers)
        assert.strictEqual((await problem(response)).code, "job_not_found")
      }
    }
    const list = decodeList(await (await send("GET", "/jobs", undefined, bob)).json())
    assert.deepStrictEqual(list.jobs, [])
    assert.strictEqual((await look(id, "?wait=30s")).status, "completed")
  })

  it("runs on its own caller's account: what the tenant may not use is refused at once", async () => {
    const response = await send("POST", "/chat/completions", chat({ async: true }), bob)
    assert.strictEqual((await problem(response)).code, "model_not_approved")
  })
})

describe("the metrics", () => {
  it("tell how jobs have ended, and how many run", async () => {
    const { release, script } = held()
    upstream.always(script)
    const { id } = await make()
    await upstream.waitForRequest(0)
    const read = async () =>
      (await fetch(`${gateway.url}/metrics`, { headers: { authorization: "Bearer ann" } })).text()
    const completed = (text: string) =>
      Number(/^llm_gateway_jobs_ended_total\{status="completed"\} (\d+)$/m.exec(text)?.[1] ?? 0)
    const before = await read()
    assert.match(before, /^llm_gateway_jobs_running(?:\{\})? 1$/m)
    release()
    await look(id, "?wait=30s")
    // The count follows the job's end within a moment.
    let now = completed(await read())
    while (now === completed(before)) now = completed(await read())
    assert.strictEqual(now, completed(before) + 1)
  })
})

describe("what cannot work", () => {
  it.each([
    ["a stream", "/chat/completions", chat({ async: true, stream: true }), "stream"],
    ["a request without messages", "/chat/completions", { model: "p::m", async: true }, "messages"],
    ["an async that is no boolean", "/chat/completions", chat({ async: "yes" }), "async"],
    ["an operation that there is not", "/jobs", { operation: "sing", request: {} }, "operation"],
    ["a request that is none", "/jobs", { operation: "chat", request: [] }, "request"]
  ])("%s is refused before a job is made", async (_, path, body, field) => {
    const response = await send("POST", path, body)
    assert.strictEqual(response.status, 400)
    assert.strictEqual((await problem(response)).field, field)
  })

  it.each(["?wait=soon", "?wait=-1", "?wait=1h"])("%s is no wait", async (query) => {
    upstream.always(openAi.chat({ text: "done" }))
    const { id } = await make()
    const response = await send("GET", `/jobs/${id}${query}`)
    assert.strictEqual((await problem(response)).field, "wait")
    await look(id, "?wait=30s")
  })

  it("a model's name that no database can store fails its job alone", async () => {
    const response = await send("POST", "/embeddings", { model: `p::\0${"x".repeat(5_000)}`, input: "a", async: true })
    assert.strictEqual(response.status, 202)
    const { id, model } = decodeJob(await response.json())
    assert.isAtMost(model.length, 512)
    assert.notInclude(model, "\0")
    assert.strictEqual((await look(id, "?wait=30s")).status, "failed")
  })

  it("a tenant has no more jobs than it may", async () => {
    const { release, script } = held()
    upstream.always(script)
    const jobs = await Promise.all(Array.from({ length: 8 }, () => make()))
    const response = await send("POST", "/chat/completions", chat({ async: true }))
    assert.strictEqual(response.status, 503)
    assert.strictEqual((await problem(response)).code, "overloaded")
    release()
    for (const { id } of jobs) await look(id, "?wait=30s")
  })
})

describe("the list", () => {
  it("has the newest first, by state and page, without results", async () => {
    upstream.always(openAi.chat({ text: "done" }))
    const ids: Array<string> = []
    for (let count = 0; count < 3; count++) {
      const { id } = await make()
      await look(id, "?wait=30s")
      ids.unshift(id)
    }
    const first = decodeList(await (await send("GET", "/jobs?limit=2&status=completed")).json())
    assert.deepStrictEqual(first.jobs.map(({ id }) => id), ids.slice(0, 2))
    assert.isUndefined(first.jobs[0]?.result)
    const next = decodeList(await (await send("GET", `/jobs?limit=1&after=${first.next}`)).json())
    assert.strictEqual(next.jobs[0]?.id, ids[2])
    const wrong = await send("GET", "/jobs?status=lost")
    assert.strictEqual((await problem(wrong)).field, "status")
  })
})
