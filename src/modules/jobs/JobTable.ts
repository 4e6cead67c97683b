/** The table of jobs: how it comes to be, and what its rows say. */
import { Effect, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { JobOperation, JobStatus, type JobWebhookState, OnInterruption, WebhookStatus } from "../../sdk/Job.ts"
import type { DueWebhook, StoredJob, TakenJob } from "../../sdk/JobStore.ts"

/** The steps that make the table. */
export const migrations: Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>> = {
  "0020_jobs": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    // Ids are listed in the order of their bytes, which is SQLite's own and in PostgreSQL that of the collation "C".
    const id = sql.literal(sql.onDialectOrElse({ pg: () => `TEXT COLLATE "C"`, orElse: () => "TEXT" }))
    yield* sql`
      CREATE TABLE jobs (
        id ${id} PRIMARY KEY,
        tenant TEXT NOT NULL,
        operation TEXT NOT NULL,
        model TEXT NOT NULL,
        status TEXT NOT NULL,
        on_interruption TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        idempotency_key TEXT,
        request TEXT,
        context TEXT,
        result TEXT,
        error TEXT,
        fence BIGINT NOT NULL,
        interruptions BIGINT NOT NULL,
        lease_owner TEXT,
        lease_until BIGINT,
        created_at BIGINT NOT NULL,
        started_at BIGINT,
        finished_at BIGINT,
        expires_at BIGINT NOT NULL
      )`
    yield* sql`CREATE UNIQUE INDEX jobs_idempotency_key ON jobs (tenant, idempotency_key)
      WHERE idempotency_key IS NOT NULL`
    yield* sql`CREATE INDEX jobs_tenant ON jobs (tenant, id)`
    yield* sql`CREATE INDEX jobs_pending ON jobs (id) WHERE status = 'pending'`
    yield* sql`CREATE INDEX jobs_running ON jobs (lease_until) WHERE status = 'running'`
    yield* sql`CREATE INDEX jobs_unfinished ON jobs (tenant) WHERE status IN ('pending', 'running')`
    yield* sql`CREATE INDEX jobs_expires_at ON jobs (expires_at)`
  }),
  "0021_job_webhooks": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`ALTER TABLE jobs ADD COLUMN webhook_url TEXT`
    yield* sql`ALTER TABLE jobs ADD COLUMN webhook_status TEXT`
    yield* sql`ALTER TABLE jobs ADD COLUMN webhook_attempts BIGINT NOT NULL DEFAULT 0`
    yield* sql`ALTER TABLE jobs ADD COLUMN webhook_tries BIGINT NOT NULL DEFAULT 0`
    yield* sql`ALTER TABLE jobs ADD COLUMN webhook_due_at BIGINT`
    yield* sql`ALTER TABLE jobs ADD COLUMN webhook_failure TEXT`
    yield* sql`CREATE INDEX jobs_webhook_due_at ON jobs (webhook_due_at) WHERE webhook_due_at IS NOT NULL`
  }),
  "0022_job_handles": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`ALTER TABLE jobs ADD COLUMN handle TEXT`
  })
}

/** A job's own columns, without what came of it. */
export const listed =
  "id, tenant, operation, model, status, on_interruption, fingerprint, created_at, started_at, finished_at, expires_at, " +
  "webhook_url, webhook_status, webhook_attempts, webhook_failure"
/** All that `storedJob` reads. */
export const whole = `${listed}, result, error`
/** All that `dueWebhook` reads. */
export const due = `${listed}, error, webhook_tries`
/** All that `takenJob` reads. */
export const taken = "id, operation, on_interruption, request, context, fence, interruptions, handle"

/** PostgreSQL's driver gives a bigint. */
const Count = Schema.Union([Schema.Finite, Schema.BigInt])
const CountOrNull = Schema.NullOr(Count)

const StoredRow = Schema.Struct({
  id: Schema.String,
  tenant: Schema.String,
  operation: JobOperation,
  model: Schema.String,
  status: JobStatus,
  on_interruption: OnInterruption,
  fingerprint: Schema.String,
  created_at: Count,
  started_at: CountOrNull,
  finished_at: CountOrNull,
  expires_at: Count,
  webhook_url: Schema.NullOr(Schema.String),
  webhook_status: Schema.NullOr(WebhookStatus),
  webhook_attempts: Count,
  webhook_failure: Schema.NullOr(Schema.String),
  result: Schema.optionalKey(Schema.NullOr(Schema.String)),
  error: Schema.optionalKey(Schema.NullOr(Schema.String))
})

const DueRow = Schema.Struct({ ...StoredRow.fields, webhook_tries: Count })

const TakenRow = Schema.Struct({
  id: Schema.String,
  operation: JobOperation,
  on_interruption: OnInterruption,
  request: Schema.String,
  context: Schema.String,
  fence: Count,
  interruptions: Count,
  handle: Schema.NullOr(Schema.String)
})

const decodeStored = Schema.decodeUnknownEffect(Schema.Array(StoredRow))
const decodeDue = Schema.decodeUnknownEffect(Schema.Array(DueRow))
const decodeTaken = Schema.decodeUnknownEffect(Schema.Array(TakenRow))
const decodeFences = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ id: Schema.String, fence: Count })))

const webhookOf = (row: typeof StoredRow.Type): JobWebhookState | undefined =>
  row.webhook_url === null ? undefined : {
    url: row.webhook_url,
    status: row.webhook_status ?? "waiting",
    attempts: Number(row.webhook_attempts),
    ...(row.webhook_failure === null ? {} : { failure: row.webhook_failure })
  }

const withWebhook = (webhook: JobWebhookState | undefined) => webhook === undefined ? {} : { webhook }

const storedJob = (row: typeof StoredRow.Type): StoredJob => ({
  id: row.id,
  tenant: row.tenant,
  operation: row.operation,
  model: row.model,
  status: row.status,
  onInterruption: row.on_interruption,
  fingerprint: row.fingerprint,
  createdAt: Number(row.created_at),
  ...(row.started_at === null ? {} : { startedAt: Number(row.started_at) }),
  ...(row.finished_at === null ? {} : { finishedAt: Number(row.finished_at) }),
  expiresAt: Number(row.expires_at),
  ...(typeof row.result === "string" ? { result: row.result } : {}),
  ...(typeof row.error === "string" ? { error: row.error } : {}),
  ...withWebhook(webhookOf(row))
})

const dueWebhook = (row: typeof DueRow.Type): DueWebhook => ({
  job: storedJob(row),
  url: row.webhook_url ?? "",
  attempt: Number(row.webhook_attempts),
  tries: Number(row.webhook_tries)
})

const takenJob = (row: typeof TakenRow.Type): TakenJob => ({
  id: row.id,
  operation: row.operation,
  onInterruption: row.on_interruption,
  request: row.request,
  context: row.context,
  fence: Number(row.fence),
  interruptions: Number(row.interruptions),
  ...(row.handle === null ? {} : { handle: row.handle })
})

// A row that cannot be read was not written by this program: a defect, whose cause is for the operator alone.

/** Rows with the columns `listed` or `whole`. */
export const readStored = (rows: ReadonlyArray<unknown>): Effect.Effect<ReadonlyArray<StoredJob>> =>
  Effect.orDie(Effect.map(decodeStored(rows), (decoded) => decoded.map(storedJob)))

/** Rows with the columns `taken`. */
export const readTaken = (rows: ReadonlyArray<unknown>): Effect.Effect<ReadonlyArray<TakenJob>> =>
  Effect.orDie(Effect.map(decodeTaken(rows), (decoded) => decoded.map(takenJob)))

/** Rows with the columns `due`. */
export const readDue = (rows: ReadonlyArray<unknown>): Effect.Effect<ReadonlyArray<DueWebhook>> =>
  Effect.orDie(Effect.map(decodeDue(rows), (decoded) => decoded.map(dueWebhook)))

/** Rows of ids and fences. */
export const readFences = (rows: ReadonlyArray<unknown>): Effect.Effect<ReadonlyMap<string, number>> =>
  Effect.orDie(
    Effect.map(decodeFences(rows), (decoded) => new Map(decoded.map(({ fence, id }) => [id, Number(fence)])))
  )
