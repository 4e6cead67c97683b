/** The store of jobs, the same tests on every database. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, PubSub, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { randomBytes } from "node:crypto"
import * as JobStoreSql from "../../../src/modules/jobs/JobStoreSql.ts"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { JobStore, type JobToStore } from "../../../src/sdk/JobStore.ts"
import { sqlDatabases } from "../../fixtures/Stores.ts"

let made = 0
const aJob = (more: Partial<JobToStore> = {}): JobToStore => ({
  id: `job_${(++made).toString(16).padStart(12, "0")}${randomBytes(10).toString("hex")}`,
  tenant: "acme",
  operation: "chat",
  model: "m",
  onInterruption: "run_again",
  fingerprint: "f",
  request: "{\"a\":1}",
  context: "{}",
  ttlMs: 60_000,
  maxUnfinished: 100,
  ...more
})

const answered = { status: "completed", result: "{\"b\":2}" } as const
const ttl = 60_000

for (const { fresh, isMissing, name } of sqlDatabases) {
  describe.skipIf(isMissing)(`jobs in ${name}`, () => {
    const test = (what: string, body: Effect.Effect<void, unknown, JobStore | SqlClient.SqlClient>) =>
      it.live(what, () =>
        Effect.flatMap(fresh, (url) =>
          Effect.provide(
            body,
            JobStoreSql.layer.pipe(
              Layer.provideMerge(Sql.migrate(JobStoreSql.migrations)),
              Layer.provideMerge(Sql.layer(Redacted.make(url)))
            ),
            { local: true }
          )), 30_000)

    test(
      "a job is taken once, ends once, and its request is dropped then",
      Effect.gen(function*() {
        const store = yield* JobStore
        const sql = yield* SqlClient.SqlClient
        const { id } = yield* store.create(aJob())
        const takings = yield* Effect.all([store.take("a", 5, 60_000), store.take("b", 5, 60_000)], {
          concurrency: "unbounded"
        })
        const [job, ...more] = takings.flat()
        if (job === undefined) return assert.fail("nobody took the job")
        assert.deepStrictEqual(more, [])
        assert.strictEqual(job.request, "{\"a\":1}")
        assert.strictEqual((yield* store.get("acme", id)).status, "running")
        assert.isTrue(yield* store.finish(id, job.fence, answered, ttl))
        assert.isFalse(yield* store.finish(id, job.fence, { status: "failed", error: "{}" }, ttl))
        const ended = yield* store.get("acme", id)
        assert.strictEqual(ended.status, "completed")
        assert.strictEqual(ended.result, "{\"b\":2}")
        const [row] = yield* sql`SELECT request, context FROM jobs WHERE id = ${id}`
        assert.deepStrictEqual({ ...row }, { request: null, context: null })
      })
    )

    test(
      "many takers at once share the jobs, none beyond its limit",
      Effect.gen(function*() {
        const store = yield* JobStore
        const jobs = yield* Effect.forEach(Array.from({ length: 30 }), () => store.create(aJob()))
        const takings = yield* Effect.forEach(Array.from({ length: 8 }), (_, at) => store.take(`o${at}`, 3, 60_000), {
          concurrency: "unbounded"
        })
        for (const taking of takings) assert.isAtMost(taking.length, 3)
        const ids = takings.flat().map(({ id }) => id)
        assert.strictEqual(new Set(ids).size, ids.length)
        while ((yield* store.take("last", 7, 60_000)).length > 0);
        const waiting = yield* store.list({ tenant: "acme", status: "pending", limit: 100 })
        assert.deepStrictEqual(waiting, [])
        assert.strictEqual(jobs.length, 30)
      })
    )

    test(
      "a job whose lease has ended is taken over, and its first replica changes nothing any more",
      Effect.gen(function*() {
        const store = yield* JobStore
        const { id } = yield* store.create(aJob())
        const [first] = yield* store.take("slow", 1, 1)
        yield* Effect.sleep(20)
        const [second] = yield* store.take("other", 1, 60_000)
        assert.strictEqual(second?.id, id)
        assert.strictEqual(second?.interruptions, 1)
        assert.deepStrictEqual(Array.from((yield* store.renew("slow", [id], 60_000)).keys()), [])
        assert.isFalse(yield* store.finish(id, first?.fence ?? 0, answered, ttl))
        yield* store.giveBack(id, first?.fence ?? 0)
        assert.strictEqual((yield* store.get("acme", id)).status, "running")
        assert.isTrue(yield* store.finish(id, second?.fence ?? 0, answered, ttl))
      })
    )

    test(
      "a renewed lease does not end, and a job that was given back is no interrupted one",
      Effect.gen(function*() {
        const store = yield* JobStore
        const { id } = yield* store.create(aJob())
        const [job] = yield* store.take("a", 1, 1)
        assert.strictEqual((yield* store.renew("a", [id], 60_000)).get(id), job?.fence)
        yield* Effect.sleep(20)
        assert.deepStrictEqual(yield* store.take("b", 1, 60_000), [])
        yield* store.giveBack(id, job?.fence ?? 0)
        const [again] = yield* store.take("b", 1, 60_000)
        assert.strictEqual(again?.interruptions, 0)
      })
    )

    test(
      "cancelling ends what runs or waits, and leaves what has ended",
      Effect.gen(function*() {
        const store = yield* JobStore
        const { id } = yield* store.create(aJob())
        const [job] = yield* store.take("a", 1, 60_000)
        assert.strictEqual((yield* store.cancel("acme", id, ttl)).status, "cancelled")
        assert.isFalse(yield* store.finish(id, job?.fence ?? 0, answered, ttl))
        const other = yield* store.create(aJob())
        const [taken] = yield* store.take("a", 1, 60_000)
        assert.isTrue(yield* store.finish(other.id, taken?.fence ?? 0, answered, ttl))
        assert.strictEqual((yield* store.cancel("acme", other.id, ttl)).status, "completed")
      })
    )

    test(
      "another tenant's job is not there, nor is one whose id is no id",
      Effect.gen(function*() {
        const store = yield* JobStore
        const { id } = yield* store.create(aJob())
        for (const [tenant, asked] of [["other", id], ["acme", "job_\0"], ["acme", "' OR 1=1"]] as const) {
          assert.strictEqual((yield* Effect.flip(store.get(tenant, asked))).code, "job_not_found")
          assert.strictEqual((yield* Effect.flip(store.cancel(tenant, asked, ttl))).code, "job_not_found")
        }
        assert.strictEqual((yield* store.get("acme", id)).status, "pending")
        assert.deepStrictEqual(yield* store.list({ tenant: "other", limit: 10 }), [])
      })
    )

    test(
      "an idempotency key makes one job of a tenant, however many ask at once",
      Effect.gen(function*() {
        const store = yield* JobStore
        const jobs = yield* Effect.forEach(
          Array.from({ length: 8 }),
          () => store.create(aJob({ idempotencyKey: "k" })),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(new Set(jobs.map(({ id }) => id)).size, 1)
        const other = yield* store.create(aJob({ tenant: "other", idempotencyKey: "k" }))
        assert.notStrictEqual(other.id, jobs[0]?.id)
      })
    )

    test(
      "a tenant has no more jobs that wait than it may, but may repeat what it has asked for",
      Effect.gen(function*() {
        const store = yield* JobStore
        const first = yield* store.create(aJob({ maxUnfinished: 2, idempotencyKey: "k" }))
        yield* store.create(aJob({ maxUnfinished: 2 }))
        assert.strictEqual((yield* Effect.flip(store.create(aJob({ maxUnfinished: 2 })))).code, "overloaded")
        assert.strictEqual((yield* store.create(aJob({ maxUnfinished: 2, idempotencyKey: "k" }))).id, first.id)
        yield* store.create(aJob({ maxUnfinished: 2, tenant: "other" }))
        yield* store.cancel("acme", first.id, ttl)
        yield* store.create(aJob({ maxUnfinished: 2 }))
      })
    )

    test(
      "results go when their time is over; the job is expired then, and its key is free",
      Effect.gen(function*() {
        const store = yield* JobStore
        const sql = yield* SqlClient.SqlClient
        const { id } = yield* store.create(aJob({ idempotencyKey: "k" }))
        const [job] = yield* store.take("a", 1, 60_000)
        yield* store.finish(id, job?.fence ?? 0, answered, 1)
        yield* Effect.sleep(20)
        assert.strictEqual((yield* Effect.flip(store.get("acme", id))).code, "job_expired")
        yield* store.sweep
        assert.strictEqual((yield* Effect.flip(store.get("acme", id))).code, "job_expired")
        const [row] = yield* sql`SELECT result FROM jobs WHERE id = ${id}`
        assert.strictEqual(row?.["result"], null)
        assert.deepStrictEqual(yield* store.list({ tenant: "acme", limit: 10 }), [])
        assert.notStrictEqual((yield* store.create(aJob({ idempotencyKey: "k" }))).id, id)
        yield* sql`UPDATE jobs SET expires_at = 1 WHERE id = ${id}`
        yield* store.sweep
        assert.strictEqual((yield* Effect.flip(store.get("acme", id))).code, "job_not_found")
      })
    )

    test(
      "a job that waits is not swept, however long it waits",
      Effect.gen(function*() {
        const store = yield* JobStore
        const { id } = yield* store.create(aJob({ ttlMs: 1 }))
        yield* Effect.sleep(20)
        yield* store.sweep
        assert.strictEqual((yield* store.get("acme", id)).status, "pending")
        assert.strictEqual((yield* store.take("a", 1, 60_000)).length, 1)
      })
    )

    test(
      "the list has the newest first, page by page",
      Effect.gen(function*() {
        const store = yield* JobStore
        const ids = (yield* Effect.forEach(Array.from({ length: 5 }), () => store.create(aJob()))).map(({ id }) => id)
        const first = yield* store.list({ tenant: "acme", limit: 3 })
        const after = first.at(-1)?.id ?? ""
        const second = yield* store.list({ tenant: "acme", limit: 3, after })
        assert.deepStrictEqual([...first, ...second].map(({ id }) => id), ids.toReversed())
      })
    )

    test(
      "whoever listens is told of changes",
      Effect.scoped(Effect.gen(function*() {
        const store = yield* JobStore
        const changes = yield* store.changes
        const { id } = yield* store.create(aJob())
        yield* store.cancel("acme", id, ttl)
        const seen: Array<string | undefined> = []
        while (seen.at(-1) !== "cancelled") {
          const change = yield* PubSub.take(changes)
          if (change.id === id) seen.push(change.status)
        }
        assert.strictEqual(seen[0], "pending")
      }))
    )
  })
}
