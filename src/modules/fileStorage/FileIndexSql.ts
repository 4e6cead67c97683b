/** The index of files in the database, on SQLite and PostgreSQL. */
import { Effect, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import type { FileInfo } from "../../sdk/FileStorage.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import { failedBecause } from "./Blobs.ts"
import type { FileIndex } from "./FileIndex.ts"

/** How long a request waits for the database, ms. */
const operationTimeout = 5_000

/** The steps that make the tables. */
export const migrations: Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>> = {
  "0030_files": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    // Ids are listed in the order of their bytes, which is SQLite's own and in PostgreSQL that of the collation "C".
    const id = sql.literal(sql.onDialectOrElse({ pg: () => `TEXT COLLATE "C"`, orElse: () => "TEXT" }))
    yield* sql`
      CREATE TABLE files (
        id ${id} PRIMARY KEY,
        tenant TEXT NOT NULL,
        purpose TEXT NOT NULL,
        filename TEXT NOT NULL,
        content_type TEXT NOT NULL,
        bytes BIGINT NOT NULL,
        sha256 TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        expires_at BIGINT
      )`
    yield* sql`CREATE INDEX files_tenant ON files (tenant, id)`
    yield* sql`CREATE INDEX files_expires_at ON files (expires_at) WHERE expires_at IS NOT NULL`
    yield* sql`CREATE TABLE file_usage (tenant TEXT PRIMARY KEY, bytes BIGINT NOT NULL)`
    yield* sql`CREATE TABLE file_secrets (name TEXT PRIMARY KEY, secret TEXT NOT NULL)`
  })
}

/** PostgreSQL's driver gives a bigint. */
const Count = Schema.Union([Schema.Finite, Schema.BigInt])

const Row = Schema.Struct({
  id: Schema.String,
  tenant: Schema.String,
  purpose: Schema.String,
  filename: Schema.String,
  content_type: Schema.String,
  bytes: Count,
  sha256: Schema.String,
  created_at: Count,
  expires_at: Schema.NullOr(Count)
})

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(Row))
const decodeBytes = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ bytes: Count })))
const decodeIds = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ id: Schema.String })))
const decodeSecrets = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ secret: Schema.String })))

const infoOf = (row: typeof Row.Type): FileInfo => ({
  id: row.id,
  tenant: row.tenant,
  purpose: row.purpose,
  filename: row.filename,
  contentType: row.content_type,
  bytes: Number(row.bytes),
  sha256: row.sha256,
  createdAt: Number(row.created_at),
  ...(row.expires_at === null ? {} : { expiresAt: Number(row.expires_at) })
})

/** A row that cannot be read was not written by this program: a defect, whose cause is for the operator alone. */
const read = (rows: ReadonlyArray<unknown>): Effect.Effect<ReadonlyArray<FileInfo>> =>
  Effect.orDie(Effect.map(decodeRows(rows), (decoded) => decoded.map(infoOf)))

/** What the database could not do is told without its reason, which goes to the log, there without any values. */
const orUnavailable = <A>(operation: Effect.Effect<A, SqlError.SqlError>): Effect.Effect<A, GatewayError> =>
  operation.pipe(
    Effect.timeout(operationTimeout),
    Effect.catchTags({
      SqlError: ({ reason }) => failedBecause("use its database", { code: reason._tag }),
      TimeoutError: () => failedBecause("use its database", { code: `no answer within ${operationTimeout} ms` })
    })
  )

/** The index in the database, whose tables come from `migrations`. */
export const make: Effect.Effect<FileIndex, never, SqlClient.SqlClient> = Effect.map(
  SqlClient.SqlClient,
  (sql): FileIndex => {
    const alive = (now: number) => sql`(expires_at IS NULL OR expires_at > ${Math.floor(now)})`

    const add = (file: FileInfo, quota: number) =>
      sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO file_usage (tenant, bytes) VALUES (${file.tenant}, 0) ON CONFLICT (tenant) DO NOTHING`
        // The row is locked until the end, so that no two files take the same room.
        const taken = yield* sql`
          UPDATE file_usage SET bytes = bytes + ${file.bytes}
          WHERE tenant = ${file.tenant} AND bytes + ${file.bytes} <= ${Math.min(quota, Number.MAX_SAFE_INTEGER)}
          RETURNING bytes`
        if (taken.length === 0) return false
        yield* sql`
          INSERT INTO files (id, tenant, purpose, filename, content_type, bytes, sha256, created_at, expires_at)
          VALUES (${file.id}, ${file.tenant}, ${file.purpose}, ${file.filename}, ${file.contentType}, ${file.bytes},
            ${file.sha256}, ${file.createdAt}, ${file.expiresAt ?? null})`
        return true
      }))

    const remove = (tenant: string, id: string) =>
      sql.withTransaction(Effect.gen(function*() {
        const rows = yield* sql`DELETE FROM files WHERE id = ${id} AND tenant = ${tenant} RETURNING bytes`
        const [gone] = yield* Effect.orDie(decodeBytes(rows))
        if (gone === undefined) return false
        yield* sql`UPDATE file_usage SET bytes = bytes - ${Number(gone.bytes)} WHERE tenant = ${tenant}`
        return true
      }))

    return {
      add: (file, quota) => orUnavailable(add(file, quota)),
      find: (tenant, id, now) =>
        sql`SELECT * FROM files WHERE id = ${id} AND ${alive(now)}
          AND ${tenant === undefined ? sql.literal("1 = 1") : sql`tenant = ${tenant}`}`.pipe(
          Effect.flatMap(read),
          Effect.map(([file]) => file),
          orUnavailable
        ),
      remove: (tenant, id) => orUnavailable(remove(tenant, id)),
      list: ({ after, limit, order, purpose, tenant }, now) => {
        const ascending = order === "asc"
        const past = after === undefined
          ? sql.literal("1 = 1")
          : ascending
          ? sql`id > ${after}`
          : sql`id < ${after}`
        return sql`SELECT * FROM files WHERE tenant = ${tenant} AND ${alive(now)} AND ${past}
          AND ${purpose === undefined ? sql.literal("1 = 1") : sql`purpose = ${purpose}`}
          ORDER BY id ${sql.literal(ascending ? "ASC" : "DESC")} LIMIT ${limit + 1}`.pipe(
          Effect.flatMap(read),
          orUnavailable
        )
      },
      expired: (now, limit) =>
        sql`SELECT * FROM files WHERE expires_at <= ${Math.floor(now)} ORDER BY expires_at LIMIT ${limit}`.pipe(
          Effect.flatMap(read),
          orUnavailable
        ),
      known: (ids) =>
        ids.length === 0
          ? Effect.succeed(new Set<string>())
          : sql`SELECT id FROM files WHERE ${sql.in("id", ids)}`.pipe(
            Effect.flatMap((rows) => Effect.orDie(decodeIds(rows))),
            Effect.map((rows): ReadonlySet<string> => new Set(rows.map(({ id }) => id))),
            orUnavailable
          ),
      used: (tenant) =>
        sql`SELECT bytes FROM file_usage WHERE tenant = ${tenant}`.pipe(
          Effect.flatMap((rows) => Effect.orDie(decodeBytes(rows))),
          Effect.map(([row]) => Number(row?.bytes ?? 0)),
          orUnavailable
        ),
      secret: (made) =>
        sql`INSERT INTO file_secrets (name, secret) VALUES ('urls', ${made}) ON CONFLICT (name) DO NOTHING`.pipe(
          Effect.andThen(sql`SELECT secret FROM file_secrets WHERE name = 'urls'`),
          Effect.flatMap((rows) => Effect.orDie(decodeSecrets(rows))),
          Effect.map(([row]) => row?.secret ?? made),
          orUnavailable
        )
    }
  }
)
