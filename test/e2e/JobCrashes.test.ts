/**
 * Jobs whose process is killed: the fake provider decides the moment. Each job ends once and is charged once, on one node
 * that starts again and on a second replica; a job that must not run twice reaches its provider once.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Schema, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import { hash } from "node:crypto"
import path from "node:path"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { BudgetList } from "../../src/sdk/GatewayApi.ts"
import { Job } from "../../src/sdk/Job.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { serve, type ServedGateway, temporaryFolder } from "../fixtures/ServedGateway.ts"
import { isolated, postgresUrl } from "../fixtures/Stores.ts"

const yamlOf = (upstream: FakeUpstream, sql: string, concurrency = 4): string => `
server: { port: 0, drain_timeout: 1s }
auth: { mode: keys, keys: [{ id: k1, sha256: ${hash("sha256", "secret", "hex")}, tenant: acme }] }
tenants: { acme: { budgets: [{ per: tenant, usd: 1000, window: total }] } }
providers:
  p: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
models:
  - { id: "p::m", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
usage: { sinks: [{ type: sql }] }
storage: { sql: "${sql}" }
jobs: { concurrency: ${concurrency}, lease: 1s }
`

const decodeJob = Schema.decodeUnknownSync(Job)
const decodeBudgets = Schema.decodeUnknownSync(BudgetList)

const call = async (gateway: ServedGateway, method: string, where: string, body?: unknown): Promise<unknown> => {
  const response = await fetch(`${gateway.url}/llm-gateway/v1${where}`, {
    method,
    headers: { authorization: "Bearer secret", "content-type": "application/json", "idempotency-key": "one" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) })
  })
  const answer: unknown = await response.json()
  assert.isTrue(response.ok, `${JSON.stringify(answer)} ${gateway.said()}`)
  return answer
}

const create = async (gateway: ServedGateway, more: Readonly<Record<string, unknown>> = {}) =>
  decodeJob(
    await call(gateway, "POST", "/jobs", {
      operation: "chat",
      request: { model: "p::m", messages: [{ role: "user", content: "hello" }] },
      ...more
    })
  ).id

const ended = async (gateway: ServedGateway, id: string) =>
  decodeJob(await call(gateway, "GET", `/jobs/${id}?wait=30s`))

/** What the records say that the job has cost, and how many of them are its own, once they agree with the budget. */
const charged = Effect.fn(function*(gateway: ServedGateway, id: string, records: number) {
  const sql = yield* SqlClient.SqlClient
  for (let look = 0;; look++) {
    const rows = yield* sql<{ cost: bigint | number }>`SELECT cost_nano_usd AS cost FROM usage_records WHERE id = ${id}`
    const cost = rows.reduce((sum, row) => sum + Number(row.cost), 0)
    const budgets = decodeBudgets(yield* Effect.promise(() => call(gateway, "GET", "/budgets"))).budgets
    const spent = Math.round((budgets[0]?.spentUsd ?? 0) * 1e9)
    // Records and settlements follow the answer within a moment.
    if ((rows.length === records && spent === cost) || look === 200) {
      assert.strictEqual(rows.length, records)
      assert.strictEqual(spent, cost)
      return cost
    }
    yield* Effect.sleep(50)
  }
})

const upstreamOf: Effect.Effect<FakeUpstream, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => startFakeUpstream()),
  ({ close }) => Effect.promise(close)
)

const hanging = withFault(openAi.chat({ text: "never" }), fault.hang)
const done = openAi.chat({ text: "done" })
/** 9 tokens in at 1 USD for a million, 12 out at 2. */
const price = 9 * 1_000 + 12 * 2_000

const databases = [
  { name: "SQLite", isMissing: false, replicas: 1 },
  { name: "PostgreSQL", isMissing: postgresUrl === undefined, replicas: 2 }
]

for (const { isMissing, name, replicas } of databases) {
  const urlOf = name === "SQLite"
    ? Effect.map(temporaryFolder, (folder) => `sqlite:${path.join(folder, "gateway.db")}`)
    : Effect.suspend(() => isolated(postgresUrl ?? ""))

  const test = (
    what: string,
    body: (
      upstream: FakeUpstream,
      start: (concurrency?: number) => Effect.Effect<ServedGateway, never, Scope.Scope>
    ) => Effect.Effect<void, unknown, Scope.Scope | SqlClient.SqlClient>
  ) =>
    it.live(what, () =>
      Effect.gen(function*() {
        const url = yield* urlOf
        const upstream = yield* upstreamOf
        const start = (concurrency?: number) => serve(yamlOf(upstream, url, concurrency))
        yield* Effect.provide(body(upstream, start), Layer.orDie(Sql.layer(Redacted.make(url))), { local: true })
      }), 60_000)

  /** The next process that takes over: the second replica where there are two, or one that starts after the first is gone. */
  const killed = Effect.fn(function*(
    first: ServedGateway,
    start: (concurrency?: number) => Effect.Effect<ServedGateway, never, Scope.Scope>
  ) {
    const second = replicas > 1 ? yield* start() : undefined
    yield* Effect.promise(() => first.end("SIGKILL"))
    return second ?? (yield* start())
  })

  describe.skipIf(isMissing)(`a process that is killed, with its jobs in ${name}`, () => {
    test("after a job was made: it runs once", (upstream, start) =>
      Effect.gen(function*() {
        upstream.always(done)
        const first = yield* start(0)
        const id = yield* Effect.promise(() => create(first))
        const next = yield* killed(first, start)
        assert.strictEqual((yield* Effect.promise(() => ended(next, id))).status, "completed")
        assert.strictEqual(upstream.requests.length, 1)
        assert.strictEqual(yield* charged(next, id, 1), price)
        // Whoever did not get the answer to making it asks again.
        assert.strictEqual(yield* Effect.promise(() => create(next)), id)
      }))

    test(
      "while its provider works on a job: it runs once more, and is charged once",
      (upstream, start) =>
        Effect.gen(function*() {
          upstream.reply(hanging)
          upstream.always(done)
          const first = yield* start()
          const id = yield* Effect.promise(() => create(first))
          yield* Effect.promise(() => upstream.waitForRequest(0))
          const next = yield* killed(first, start)
          assert.strictEqual((yield* Effect.promise(() => ended(next, id))).status, "completed")
          assert.strictEqual(upstream.requests.length, 2)
          assert.strictEqual(yield* charged(next, id, 1), price)
        })
    )

    test(
      "while its provider works on a job that must not run twice: it fails, and says why",
      (upstream, start) =>
        Effect.gen(function*() {
          upstream.reply(hanging)
          upstream.always(done)
          const first = yield* start()
          const id = yield* Effect.promise(() => create(first, { on_interruption: "fail" }))
          yield* Effect.promise(() => upstream.waitForRequest(0))
          const next = yield* killed(first, start)
          const job = yield* Effect.promise(() => ended(next, id))
          assert.strictEqual(job.error?.code, "job_interrupted")
          assert.strictEqual(upstream.requests.length, 1)
          assert.strictEqual(yield* charged(next, id, 0), 0)
        })
    )

    test("again and again with the same job: it is given up", (upstream, start) =>
      Effect.gen(function*() {
        upstream.always(hanging)
        const first = yield* start()
        const id = yield* Effect.promise(() => create(first))
        yield* Effect.promise(() => upstream.waitForRequest(0))
        const second = yield* killed(first, start)
        yield* Effect.promise(() => upstream.waitForRequest(1, 20_000))
        const third = yield* killed(second, start)
        assert.strictEqual((yield* Effect.promise(() => ended(third, id))).error?.code, "job_interrupted")
        assert.strictEqual(upstream.requests.length, 2)
      }))

    for (const ms of [0, 3, 10, 30, 60]) {
      test(
        `${ms} ms after the provider's answer: it ends once, and is charged once`,
        (upstream, start) =>
          Effect.gen(function*() {
            upstream.always(done)
            const first = yield* start()
            const id = yield* Effect.promise(() => create(first))
            yield* Effect.promise(() => upstream.waitForClose(0))
            yield* Effect.sleep(ms)
            const next = yield* Effect.andThen(Effect.promise(() => first.end("SIGKILL")), start())
            const job = yield* Effect.promise(() => ended(next, id))
            assert.strictEqual(job.status, "completed")
            assert.isAtMost(upstream.requests.length, 2)
            assert.strictEqual(yield* charged(next, id, 1), price)
          })
      )
    }

    test(
      "or is told to stop: the job is given back at once, and runs elsewhere",
      (upstream, start) =>
        Effect.gen(function*() {
          upstream.reply(hanging)
          upstream.always(done)
          const first = yield* start()
          const id = yield* Effect.promise(() => create(first))
          yield* Effect.promise(() => upstream.waitForRequest(0))
          yield* Effect.promise(() => first.end("SIGTERM"))
          const next = yield* start()
          assert.strictEqual((yield* Effect.promise(() => ended(next, id))).status, "completed")
          assert.strictEqual(yield* charged(next, id, 1), price)
        })
    )
  })
}

describe.skipIf(postgresUrl === undefined)("two replicas", () => {
  it.live("cancel each other's jobs at once", (context) =>
    Effect.gen(function*() {
      const url = yield* isolated(postgresUrl ?? "")
      const upstream = yield* upstreamOf
      upstream.always(hanging)
      const runs = yield* serve(yamlOf(upstream, url))
      const other = yield* serve(yamlOf(upstream, url, 0))
      const id = yield* Effect.promise(() => create(other))
      yield* Effect.promise(() => upstream.waitForRequest(0, 20_000))
      const asked = performance.now()
      yield* Effect.promise(() => call(other, "DELETE", `/jobs/${id}`))
      const { aborted, closedAt = Infinity } = yield* Effect.promise(() => upstream.waitForClose(0))
      assert.isTrue(aborted)
      yield* Effect.promise(() => context.annotate(`closed after ${Math.round(closedAt - asked)} ms`))
      assert.strictEqual((yield* Effect.promise(() => ended(runs, id))).status, "cancelled")
    }), 60_000)
})
