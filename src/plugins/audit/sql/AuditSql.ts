/**
 * Audit events in the database, in a table that only grows: its rows cannot be changed, and are deleted by the configured
 * retention alone. Who must be able to prove that nothing was removed writes a chained file (`AuditJsonl`), too.
 */
import { Array as Arr, Clock, Effect, Layer } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import * as AuditSink from "../../../sdk/AuditSink.ts"
import { logOf } from "../../../sdk/Log.ts"
import { SinkError } from "../../../sdk/UsageSink.ts"
import { encodeDetails } from "../AuditRecord.ts"

const log = logOf("records")

/** The table and its indices. */
export const migrations: Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>> = {
  "0003_audit": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql.onDialectOrElse({
      pg: () =>
        sql`CREATE TABLE audit_events (
          seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT NOT NULL UNIQUE, at BIGINT NOT NULL, type TEXT NOT NULL,
          request_id TEXT, tenant TEXT, user_id TEXT, key_id TEXT, details TEXT NOT NULL
        )`,
      orElse: () =>
        sql`CREATE TABLE audit_events (
          seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, type TEXT NOT NULL,
          request_id TEXT, tenant TEXT, user_id TEXT, key_id TEXT, details TEXT NOT NULL
        )`
    })
    yield* sql`CREATE INDEX audit_events_at ON audit_events (at)`
    yield* sql`CREATE INDEX audit_events_tenant_at ON audit_events (tenant, at)`
    yield* sql.onDialectOrElse({
      pg: () =>
        Effect.andThen(
          sql`CREATE FUNCTION audit_events_unchanged() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION ''audit events cannot be changed''; END'`,
          sql`CREATE TRIGGER audit_events_unchanged BEFORE UPDATE OR TRUNCATE ON audit_events
            EXECUTE FUNCTION audit_events_unchanged()`
        ),
      orElse: () =>
        sql`CREATE TRIGGER audit_events_unchanged BEFORE UPDATE ON audit_events
          BEGIN SELECT RAISE(ABORT, 'audit events cannot be changed'); END`
    })
  })
}

/** Options of the table. */
export interface AuditSqlOptions {
  /** Events older than this are deleted, ms; default: none are. */
  readonly retentionMs?: number
}

/** Rows of a statement at most: databases have a limit, and a long statement holds up what else is written. */
const maxInserted = 1000
const maxDeleted = 1000
/** Events may stay longer than they have to by this much, ms. */
const pruneEvery = 10 * 60_000

/** PostgreSQL has no text with NUL. */
const textOf = (value: string | undefined): string | null =>
  value === undefined ? null : value.replaceAll("\0", "\uFFFD")

/** The class of a database's error. Its message may quote values. */
const problemOf = ({ reason }: SqlError.SqlError): string => `the database failed: ${reason._tag}`

const rowOf = (event: AuditSink.AuditEvent) => ({
  id: crypto.randomUUID(),
  at: Math.round(event.at),
  type: event.type,
  request_id: textOf(event.requestId),
  tenant: textOf(event.tenant),
  user_id: textOf(event.user),
  key_id: textOf(event.keyId),
  details: JSON.stringify(encodeDetails(event.details))
})
type Row = ReturnType<typeof rowOf>

/** Deletes the events before a time, Unix ms, a few at a time. */
export const deleteBefore = Effect.fn("AuditSql.deleteBefore")(
  function*(at: number): Effect.fn.Return<void, SqlError.SqlError, SqlClient.SqlClient> {
    const sql = yield* SqlClient.SqlClient
    for (;;) {
      const deleted = yield* sql`DELETE FROM audit_events WHERE seq IN (
        SELECT seq FROM audit_events WHERE at < ${Math.floor(at)} ORDER BY at LIMIT ${maxDeleted}
      ) RETURNING seq`
      if (deleted.length < maxDeleted) return
    }
  }
)

const keep = (retentionMs: number) =>
  Clock.currentTimeMillis.pipe(
    Effect.flatMap((now) => deleteBefore(now - retentionMs)),
    Effect.catch((error) => log.error("old audit events could not be deleted", { error: problemOf(error) })),
    Effect.andThen(Effect.sleep(pruneEvery)),
    Effect.forever,
    Effect.forkScoped
  )

const make = Effect.fnUntraced(function*(options: AuditSqlOptions) {
  const sql = yield* SqlClient.SqlClient
  if (options.retentionMs !== undefined) yield* keep(options.retentionMs)
  /** A batch that fails comes again, and may have been written all the same: its rows keep their ids. */
  let latest: { readonly events: unknown; readonly rows: ReadonlyArray<Row> } = { events: undefined, rows: [] }
  const rowsOf = (events: ReadonlyArray<AuditSink.AuditEvent>): ReadonlyArray<Row> => {
    if (latest.events !== events) latest = { events, rows: events.map(rowOf) }
    return latest.rows
  }
  const sink: AuditSink.AuditSink = {
    name: "sql",
    write: Effect.fnUntraced(
      function*(events: Arr.NonEmptyReadonlyArray<AuditSink.AuditEvent>) {
        for (const rows of Arr.chunksOf(rowsOf(events), maxInserted)) {
          yield* sql`INSERT INTO audit_events ${sql.insert(rows)} ON CONFLICT (id) DO NOTHING`
        }
      },
      Effect.mapError((error) => new SinkError({ sink: "sql", message: problemOf(error) }))
    )
  }
  return sink
})

/** Writes audit events to the table that `migrations` makes. */
export const layer = (
  options: AuditSqlOptions = {}
): Layer.Layer<never, never, AuditSink.AuditSinkRegistry | SqlClient.SqlClient> =>
  Layer.unwrap(Effect.map(make(options), AuditSink.layer))
