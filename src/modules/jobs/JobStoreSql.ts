/**
 * Jobs in the database: SQLite for one node, PostgreSQL for many replicas, and SQLite in memory for what need not survive.
 * Leases are of the database's own time in PostgreSQL, so that the clocks of replicas need not agree. There, replicas tell
 * each other of changes by NOTIFY.
 */
import { PgClient } from "@effect/sql-pg"
import { Clock, Effect, Layer, PubSub, Queue, Redacted, Schedule, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import {
  fail,
  type GatewayError,
  JobExpired,
  JobNotFound,
  Overloaded,
  StoreUnavailable
} from "../../sdk/GatewayError.ts"
import { isFinal, JobStatus } from "../../sdk/Job.ts"
import { type JobChange, JobStore } from "../../sdk/JobStore.ts"
import { logOf } from "../../sdk/Log.ts"
import * as Sql from "../sql/Sql.ts"
import * as JobTable from "./JobTable.ts"

const log = logOf("jobs")

/** The steps that make the table of jobs. */
export const migrations = JobTable.migrations

/** How long an operation on the database may take, ms. */
const operationTimeout = 10_000
/** How long a job is remembered after its result has gone, to be called expired and not unknown, ms: a week. */
const rememberedFor = 7 * 86_400_000
/** Rows that one statement of a sweep changes. */
const sweepAtOnce = 1_000
/** Where replicas tell of jobs that have changed. */
const channel = "llm_gateway_jobs"
/** Changes that wait for a slow reader; beyond that the oldest are lost. */
const maxChanges = 4_096
/** Characters of an unknown id that an error shows. */
const maxShown = 100

/** No job has another form of id, and PostgreSQL takes no NUL in a text. */
const idPattern = /^job_[0-9a-f]{32}$/

const notFound = (id: string): GatewayError =>
  fail(new JobNotFound({ message: `there is no job "${id.slice(0, maxShown)}"`, id: id.slice(0, maxShown) }))

const expired = (id: string): GatewayError =>
  fail(new JobExpired({ message: `the result of job "${id}" was kept until its expiry, which is over`, id }))

const tooMany = (limit: number): GatewayError =>
  fail(
    new Overloaded({
      message: `${limit} jobs of this tenant have not ended yet; wait for some of them, or cancel them`,
      retryAfterMs: 10_000
    })
  )

const unavailable = fail(
  new StoreUnavailable({ store: "jobs", message: "the job store does not answer at the moment; try again later" })
)

const failedBecause = (reason: string) =>
  Effect.andThen(log.warning(`an operation on the job store failed: ${reason}`), Effect.fail(unavailable))

/** What the database could not do is told without its reason, which goes to the log, there without any values. */
const orUnavailable = <A>(
  operation: Effect.Effect<A, GatewayError | SqlError.SqlError>
): Effect.Effect<A, GatewayError> =>
  operation.pipe(
    Effect.timeout(operationTimeout),
    Effect.catchTags({
      SqlError: ({ reason }) => failedBecause(reason._tag),
      TimeoutError: () => failedBecause(`no answer within ${operationTimeout} ms`)
    })
  )

const isPostgres = (sql: SqlClient.SqlClient): sql is PgClient.PgClient => PgClient.TypeId in sql

const isStatus = Schema.is(JobStatus)

/** What a replica tells, such as `cancelled job_…`. */
const changeOf = (payload: string): JobChange => {
  const [status = "", id = ""] = payload.split(" ", 2)
  return isStatus(status) ? { id, status } : { id }
}

/** Hands on what other replicas tell, for as long as the scope lives; after an outage nobody knows what has changed. */
const listening = (sql: PgClient.PgClient, hub: PubSub.PubSub<JobChange>) =>
  Effect.scoped(Effect.gen(function*() {
    const told = yield* sql.listen(channel)
    PubSub.publishUnsafe(hub, { id: "" })
    while (true) PubSub.publishUnsafe(hub, changeOf((yield* Queue.take(told)).payload))
  })).pipe(
    Effect.tapError((error) => log.debug("listening to other replicas' jobs has ended", error)),
    Effect.retry(Schedule.spaced("1 second")),
    Effect.forkScoped
  )

/** The store in the database beneath, whose tables come from `migrations`. */
export const layer: Layer.Layer<JobStore, never, SqlClient.SqlClient> = Layer.effect(
  JobStore,
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const hub = yield* PubSub.sliding<JobChange>(maxChanges)
    if (isPostgres(sql)) yield* listening(sql, hub)

    const now = sql.onDialectOrElse({
      pg: () => Effect.succeed(sql.literal("(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT")),
      orElse: () => Effect.map(Clock.currentTimeMillis, (ms) => sql.literal(String(Math.floor(ms))))
    })
    const listed = sql.literal(JobTable.listed)
    const whole = sql.literal(JobTable.whole)
    const due = sql.literal(JobTable.due)
    const taken = sql.literal(JobTable.taken)
    const skipLocked = sql.literal(sql.onDialectOrElse({ pg: () => "FOR UPDATE SKIP LOCKED", orElse: () => "" }))
    const unfinished = sql.literal("status IN ('pending', 'running')")

    /** Written together with a job's end, so that neither is there without the other. */
    const webhookDue = (at: ReturnType<typeof sql.literal>) =>
      sql`webhook_status = CASE WHEN webhook_url IS NULL THEN NULL ELSE 'sending' END,
        webhook_due_at = CASE WHEN webhook_url IS NULL THEN NULL ELSE ${at} END`

    const tell = sql.onDialectOrElse({
      pg: () => (change: string) => Effect.ignore(sql`SELECT pg_notify(${channel}, ${change})`),
      orElse: () => () => Effect.void
    })
    const changed = (id: string, status: JobStatus): Effect.Effect<void> =>
      Effect.suspend(() => {
        PubSub.publishUnsafe(hub, { id, status })
        return tell(`${status} ${id}`)
      })

    const find = Effect.fnUntraced(function*(tenant: string, id: string) {
      if (!idPattern.test(id)) return yield* notFound(id)
      const at = yield* now
      const rows = yield* sql<{ is_past: unknown }>`
        SELECT ${whole}, CASE WHEN expires_at <= ${at} THEN 1 ELSE 0 END AS is_past FROM jobs
        WHERE id = ${id} AND tenant = ${tenant}`
      const [job] = yield* JobTable.readStored(rows)
      if (job === undefined) return yield* notFound(id)
      if (isFinal(job.status) && Number(rows[0]?.is_past) === 1) return yield* expired(id)
      return job
    })

    /** Takes up to `limit` of the jobs that a condition is true of. */
    const takeWhere = Effect.fnUntraced(
      function*(condition: ReturnType<typeof sql.literal>, owner: string, limit: number, leaseMs: number) {
        const at = yield* now
        const ids = sql`SELECT id FROM jobs WHERE ${condition} ORDER BY id LIMIT ${limit} ${skipLocked}`
        // PostgreSQL may run a subquery behind IN more than once, and then take more than the limit.
        const chosen = sql.onDialectOrElse({ pg: () => sql`= ANY(ARRAY(${ids}))`, orElse: () => sql`IN (${ids})` })
        return yield* Effect.flatMap(
          sql`UPDATE jobs SET fence = fence + 1, lease_owner = ${owner},
              interruptions = interruptions + CASE WHEN status = 'running' THEN 1 ELSE 0 END,
              lease_until = ${at} + ${sql.literal(String(Math.ceil(leaseMs)))},
              started_at = COALESCE(started_at, ${at}), status = 'running'
            WHERE id ${chosen} RETURNING ${taken}`,
          JobTable.readTaken
        )
      }
    )

    return JobStore.of({
      create: Effect.fn("JobStore.create")(function*(job) {
        const insert = Effect.fnUntraced(function*() {
          const at = yield* now
          const [count] = yield* sql<{ unfinished: unknown }>`SELECT COUNT(*) AS unfinished FROM (
            SELECT 1 FROM jobs WHERE tenant = ${job.tenant} AND ${unfinished} LIMIT ${job.maxUnfinished}) AS counted`
          const isFull = Number(count?.unfinished) >= job.maxUnfinished
          const key = job.idempotencyKey ?? null
          if (!isFull) {
            const rows = yield* sql`
              INSERT INTO jobs (id, tenant, operation, model, status, on_interruption, fingerprint, idempotency_key,
                request, context, fence, interruptions, created_at, webhook_url, expires_at)
              VALUES (${job.id}, ${job.tenant}, ${job.operation}, ${job.model}, 'pending', ${job.onInterruption},
                ${job.fingerprint}, ${key}, ${job.request}, ${job.context}, 0, 0, ${at}, ${job.webhookUrl ?? null},
                ${at} + ${sql.literal(String(Math.ceil(job.ttlMs)))})
              ON CONFLICT DO NOTHING RETURNING ${whole}`
            const [made] = yield* JobTable.readStored(rows)
            if (made !== undefined) {
              yield* changed(job.id, "pending")
              return made
            }
          }
          const [known] = key === null ? [] : yield* Effect.flatMap(
            sql`SELECT ${whole} FROM jobs WHERE tenant = ${job.tenant} AND idempotency_key = ${key}`,
            JobTable.readStored
          )
          if (known !== undefined) return known
          // The job with this key has been swept between the two statements, or there is no room.
          return yield* isFull ? tooMany(job.maxUnfinished) : unavailable
        })
        return yield* orUnavailable(insert())
      }),

      get: (tenant, id) => orUnavailable(find(tenant, id)),

      list: Effect.fn("JobStore.list")(function*({ after, limit, operation, status, tenant }) {
        if (after !== undefined && !idPattern.test(after)) return []
        const query = Effect.fnUntraced(function*() {
          const at = yield* now
          const conditions = [
            sql`tenant = ${tenant}`,
            sql`(${unfinished} OR expires_at > ${at})`,
            ...(status === undefined ? [] : [sql`status = ${status}`]),
            ...(operation === undefined ? [] : [sql`operation = ${operation}`]),
            ...(after === undefined ? [] : [sql`id < ${after}`])
          ]
          return yield* Effect.flatMap(
            sql`SELECT ${listed} FROM jobs WHERE ${sql.and(conditions)} ORDER BY id DESC LIMIT ${limit}`,
            JobTable.readStored
          )
        })
        return yield* orUnavailable(query())
      }),

      take: (owner, limit, leaseMs) =>
        orUnavailable(Effect.gen(function*() {
          const at = yield* now
          const abandoned = sql`status = 'running' AND lease_until <= ${at}`
          const left = yield* takeWhere(abandoned, owner, limit, leaseMs)
          if (left.length >= limit) return left
          return [...left, ...(yield* takeWhere(sql`status = 'pending'`, owner, limit - left.length, leaseMs))]
        })).pipe(Effect.tap((jobs) => Effect.forEach(jobs, ({ id }) => changed(id, "running"), { discard: true }))),

      renew: (owner, ids, leaseMs) =>
        ids.length === 0 ? Effect.succeed(new Map()) : orUnavailable(Effect.gen(function*() {
          const at = yield* now
          return yield* Effect.flatMap(
            sql`UPDATE jobs SET lease_until = ${at} + ${sql.literal(String(Math.ceil(leaseMs)))}
              WHERE status = 'running' AND lease_owner = ${owner} AND ${sql.in("id", ids)} RETURNING id, fence`,
            JobTable.readFences
          )
        })),

      keepHandle: (id, fence, handle) =>
        orUnavailable(Effect.gen(function*() {
          const rows = yield* sql`UPDATE jobs SET handle = ${handle}
            WHERE id = ${id} AND fence = ${fence} AND status = 'running' RETURNING id`
          if (rows.length === 0) return yield* notFound(id)
        })),

      finish: (id, fence, end, ttlMs) =>
        orUnavailable(Effect.gen(function*() {
          const at = yield* now
          const rows = yield* sql`UPDATE jobs SET status = ${end.status},
              result = ${end.status === "completed" ? end.result : null},
              error = ${end.status === "failed" ? end.error : null},
              request = NULL, context = NULL, lease_owner = NULL, lease_until = NULL, finished_at = ${at},
              ${webhookDue(at)}, expires_at = ${at} + ${sql.literal(String(Math.ceil(ttlMs)))}
            WHERE id = ${id} AND fence = ${fence} AND status = 'running' RETURNING id`
          if (rows.length > 0) yield* changed(id, end.status)
          return rows.length > 0
        })),

      giveBack: (id, fence) =>
        orUnavailable(Effect.gen(function*() {
          yield* sql`UPDATE jobs SET status = 'pending', lease_owner = NULL, lease_until = NULL
            WHERE id = ${id} AND fence = ${fence} AND status = 'running'`
          yield* changed(id, "pending")
        })),

      cancel: (tenant, id, ttlMs) =>
        orUnavailable(Effect.gen(function*() {
          if (!idPattern.test(id)) return yield* notFound(id)
          const at = yield* now
          const rows = yield* sql`UPDATE jobs SET status = 'cancelled', request = NULL, context = NULL,
              lease_owner = NULL, lease_until = NULL, finished_at = ${at},
              ${webhookDue(at)}, expires_at = ${at} + ${sql.literal(String(Math.ceil(ttlMs)))}
            WHERE id = ${id} AND tenant = ${tenant} AND ${unfinished} RETURNING id`
          if (rows.length > 0) yield* changed(id, "cancelled")
          return yield* find(tenant, id)
        })),

      takeWebhooks: (limit, claimMs) =>
        orUnavailable(Effect.gen(function*() {
          const at = yield* now
          const ids = sql`SELECT id FROM jobs WHERE webhook_due_at <= ${at} ORDER BY webhook_due_at LIMIT ${limit}
            ${skipLocked}`
          const chosen = sql.onDialectOrElse({ pg: () => sql`= ANY(ARRAY(${ids}))`, orElse: () => sql`IN (${ids})` })
          return yield* Effect.flatMap(
            sql`UPDATE jobs SET webhook_attempts = webhook_attempts + 1, webhook_tries = webhook_tries + 1,
                webhook_due_at = ${at} + ${sql.literal(String(Math.ceil(claimMs)))}
              WHERE id ${chosen} RETURNING ${due}`,
            JobTable.readDue
          )
        })),

      webhookCalled: (id, attempt, outcome) =>
        orUnavailable(Effect.gen(function*() {
          const at = yield* now
          const dueAt = outcome.status === "sending"
            ? sql`${at} + ${sql.literal(String(Math.ceil(outcome.inMs)))}`
            : sql`NULL`
          yield* sql`UPDATE jobs SET webhook_status = ${outcome.status}, webhook_due_at = ${dueAt},
              webhook_failure = ${outcome.status === "delivered" ? null : outcome.failure}
            WHERE id = ${id} AND webhook_attempts = ${attempt} AND webhook_status = 'sending'`
        })),

      redeliver: (tenant, id) =>
        orUnavailable(Effect.gen(function*() {
          const job = yield* find(tenant, id)
          const at = yield* now
          const rows = yield* sql`UPDATE jobs SET webhook_status = 'sending', webhook_due_at = ${at}, webhook_tries = 0
            WHERE id = ${id} AND tenant = ${tenant} AND webhook_url IS NOT NULL AND NOT (${unfinished})
            RETURNING id`
          if (rows.length === 0) return job
          yield* changed(id, job.status)
          return yield* find(tenant, id)
        })),

      sweep: orUnavailable(Effect.gen(function*() {
        const at = yield* now
        const past = sql`status IN ('completed', 'failed', 'cancelled') AND expires_at <= ${at}`
        let rows: ReadonlyArray<unknown>
        do {
          rows = yield* sql`UPDATE jobs SET result = NULL, error = NULL, idempotency_key = NULL, fingerprint = ''
            WHERE id IN (SELECT id FROM jobs WHERE ${past} AND fingerprint <> '' LIMIT ${sweepAtOnce}) RETURNING id`
        } while (rows.length === sweepAtOnce)
        do {
          rows = yield* sql`DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE ${past}
            AND expires_at <= ${at} - ${sql.literal(String(rememberedFor))} LIMIT ${sweepAtOnce}) RETURNING id`
        } while (rows.length === sweepAtOnce)
      })),

      changes: PubSub.subscribe(hub)
    })
  })
)

/** The store in memory, of this process alone: jobs end with it. */
export const layerMemory: Layer.Layer<JobStore> = layer.pipe(
  Layer.provide(Sql.migrate(migrations).pipe(Layer.provideMerge(Sql.layer(Redacted.make("sqlite::memory:"))))),
  Layer.orDie
)
