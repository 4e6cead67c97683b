/**
 * The table of usage records: its columns, how it comes to be, and how records get in.
 *
 * A batch goes over as one parameter, a JSON array of arrays that the database itself takes apart. One statement thus
 * serves batches of every size, stays prepared, and meets no limit on the number of parameters (32,766 in SQLite, 65,535
 * in PostgreSQL); and a driver that runs the database in another thread has one string to hand over.
 */
import { Effect } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { createHash } from "node:crypto"
import type { UsageRecord } from "../../../sdk/UsageSink.ts"

/** What a column holds: text, an integer up to 2^53, ms with fractions, or a list of texts as JSON. */
type ColumnType = "text" | "integer" | "real" | "texts"

interface Column {
  readonly name: string
  readonly type: ColumnType
  readonly nullable?: true
  readonly of: (record: UsageRecord) => string | number | null | ReadonlyArray<string>
}

// ---------------------------------------------------------------------------------------------------------------------
// Values
// ---------------------------------------------------------------------------------------------------------------------

/** Longer texts are shortened: PostgreSQL's B-trees take no entry beyond some 2,700 bytes, and models are named by callers. */
const maxText = 512
const digestLength = 64

/**
 * A text as it is kept, and as it has to be asked for. PostgreSQL can store neither NUL nor half of a surrogate pair, and
 * one text that the database refuses would hold up its whole batch for ever. What has to be changed has a hash of the
 * original at its end, so that different texts stay different.
 */
export const storedText = (text: string): string => {
  const clean = text.toWellFormed().replaceAll("\0", "\ufffd")
  if (clean === text && text.length <= maxText) return text
  const digest = createHash("sha256").update(text, "utf16le").digest("hex")
  return `${clean.slice(0, maxText - digestLength - 1).toWellFormed()}~${digest}`
}

const optionalText = (text: string | undefined): string | null => text === undefined ? null : storedText(text)

/** A count as an integer column takes it, whatever comes in. */
const whole = (value: number): number => value > 0 ? Math.min(Math.floor(value), Number.MAX_SAFE_INTEGER) : 0

const ms = (value: number): number => Number.isFinite(value) ? value : 0

/** The record of the request to which the record of an attempt belongs: attempts of `ID` are called `ID#2` and so on. */
const requestRecord = (id: string): string | null => {
  const at = id.indexOf("#")
  return at < 0 ? null : storedText(id.slice(0, at))
}

const storedTags = (tags: ReadonlyArray<string>): ReadonlyArray<string> =>
  tags.length === 0 ? tags : Array.from(new Set(tags.map(storedText)))

// ---------------------------------------------------------------------------------------------------------------------
// Columns
// ---------------------------------------------------------------------------------------------------------------------

/** As the table was made. */
const firstColumns: ReadonlyArray<Column> = [
  { name: "id", type: "text", of: ({ id }) => storedText(id) },
  { name: "request_record", type: "text", nullable: true, of: ({ id }) => requestRecord(id) },
  { name: "request_id", type: "text", of: ({ requestId }) => storedText(requestId) },
  { name: "kind", type: "text", of: ({ kind }) => kind },
  { name: "tenant", type: "text", of: ({ tenant }) => storedText(tenant) },
  { name: "user_id", type: "text", nullable: true, of: ({ user }) => optionalText(user) },
  { name: "key_id", type: "text", nullable: true, of: ({ keyId }) => optionalText(keyId) },
  { name: "tags", type: "texts", of: ({ tags }) => storedTags(tags) },
  { name: "conversation_id", type: "text", nullable: true, of: (record) => optionalText(record.conversationId) },
  { name: "operation", type: "text", of: ({ operation }) => operation },
  { name: "streamed", type: "integer", of: ({ streamed }) => streamed ? 1 : 0 },
  { name: "model_asked", type: "text", of: ({ modelAsked }) => storedText(modelAsked) },
  { name: "model_used", type: "text", nullable: true, of: ({ modelUsed }) => optionalText(modelUsed) },
  { name: "provider", type: "text", nullable: true, of: ({ provider }) => optionalText(provider) },
  { name: "attempts", type: "integer", of: ({ attempts }) => whole(attempts) },
  { name: "input_tokens", type: "integer", of: ({ usage }) => whole(usage.inputTokens) },
  { name: "output_tokens", type: "integer", of: ({ usage }) => whole(usage.outputTokens) },
  { name: "cache_read_tokens", type: "integer", of: ({ usage }) => whole(usage.cacheReadTokens ?? 0) },
  { name: "cache_write_5m_tokens", type: "integer", of: ({ usage }) => whole(usage.cacheWrite5mTokens ?? 0) },
  { name: "cache_write_1h_tokens", type: "integer", of: ({ usage }) => whole(usage.cacheWrite1hTokens ?? 0) },
  { name: "input_audio_tokens", type: "integer", of: ({ usage }) => whole(usage.inputAudioTokens ?? 0) },
  { name: "input_image_tokens", type: "integer", of: ({ usage }) => whole(usage.inputImageTokens ?? 0) },
  { name: "output_audio_tokens", type: "integer", of: ({ usage }) => whole(usage.outputAudioTokens ?? 0) },
  { name: "output_image_tokens", type: "integer", of: ({ usage }) => whole(usage.outputImageTokens ?? 0) },
  { name: "reasoning_tokens", type: "integer", of: ({ usage }) => whole(usage.reasoningTokens ?? 0) },
  {
    name: "estimated",
    type: "integer",
    of: ({ estimatedBecause, usage }) => usage.estimated === true || estimatedBecause !== undefined ? 1 : 0
  },
  { name: "estimated_because", type: "text", nullable: true, of: ({ estimatedBecause }) => estimatedBecause ?? null },
  {
    name: "cost_nano_usd",
    type: "integer",
    nullable: true,
    of: ({ costNanoUsd }) => costNanoUsd === undefined ? null : whole(costNanoUsd)
  },
  { name: "price_id", type: "text", nullable: true, of: ({ priceId }) => optionalText(priceId) },
  { name: "started_at", type: "integer", of: ({ startedAt }) => whole(startedAt) },
  { name: "duration_ms", type: "real", of: ({ durationMs }) => ms(durationMs) },
  {
    name: "first_token_ms",
    type: "real",
    nullable: true,
    of: ({ firstTokenMs }) => firstTokenMs === undefined ? null : ms(firstTokenMs)
  },
  { name: "overhead_ms", type: "real", of: ({ overheadMs }) => ms(overheadMs) },
  { name: "outcome", type: "text", of: ({ outcome }) => outcome },
  { name: "error_code", type: "text", nullable: true, of: ({ errorCode }) => errorCode ?? null },
  { name: "finish_reason", type: "text", nullable: true, of: ({ finishReason }) => finishReason ?? null }
]

/** What came in with operations that are not sold by the token. */
const mediaColumns: ReadonlyArray<Column> = [
  { name: "images", type: "integer", of: ({ usage }) => whole(usage.images ?? 0) },
  { name: "characters", type: "integer", of: ({ usage }) => whole(usage.characters ?? 0) },
  { name: "input_audio_ms", type: "integer", of: ({ usage }) => whole(usage.inputAudioMs ?? 0) },
  { name: "output_audio_ms", type: "integer", of: ({ usage }) => whole(usage.outputAudioMs ?? 0) },
  { name: "input_video_ms", type: "integer", of: ({ usage }) => whole(usage.inputVideoMs ?? 0) },
  { name: "output_video_ms", type: "integer", of: ({ usage }) => whole(usage.outputVideoMs ?? 0) }
]

const columns: ReadonlyArray<Column> = [...firstColumns, ...mediaColumns]

const typesOf = {
  sqlite: { text: "TEXT", integer: "INTEGER", real: "REAL", texts: "TEXT" },
  // Compared byte by byte, as SQLite does: the same order on both.
  pg: { text: "TEXT COLLATE \"C\"", integer: "BIGINT", real: "DOUBLE PRECISION", texts: "JSONB" }
} as const

// ---------------------------------------------------------------------------------------------------------------------
// Making the table
// ---------------------------------------------------------------------------------------------------------------------

/** The steps that make the table. */
export const migrations: Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>> = {
  "0002_usage": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const types = sql.onDialectOrElse({ pg: () => typesOf.pg, orElse: () => typesOf.sqlite })
    const definitions = firstColumns.map(({ name, nullable, type }) => {
      const constraint = name === "id" ? " PRIMARY KEY" : ""
      return sql.literal(`${name} ${types[type]}${nullable === true ? "" : " NOT NULL"}${constraint}`)
    })
    yield* sql`CREATE TABLE usage_records (${sql.csv(definitions)})`
    yield* sql`CREATE INDEX usage_records_tenant_started_at ON usage_records (tenant, started_at)`
    yield* sql`CREATE INDEX usage_records_started_at ON usage_records (started_at)`
    yield* sql`CREATE INDEX usage_records_request_record ON usage_records (request_record)
      WHERE request_record IS NOT NULL`
  }),
  "0005_usage_media": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const types = sql.onDialectOrElse({ pg: () => typesOf.pg, orElse: () => typesOf.sqlite })
    // SQLite adds one column a statement.
    for (const { name, type } of mediaColumns) {
      yield* sql`ALTER TABLE usage_records ADD COLUMN ${sql.literal(`${name} ${types[type]} NOT NULL DEFAULT 0`)}`
    }
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

const names = columns.map(({ name }) => name).join(", ")

// ---- PostgreSQL: a batch is one parameter, whatever its size, and one round trip

/** Records in one statement; it bounds how long the database is busy with one, and the size of its parameter. */
const maxBatch = 1000

const encoded = (records: ReadonlyArray<UsageRecord>): string =>
  JSON.stringify(records.map((record) => columns.map((column) => column.of(record))))

const pgCasts = { text: "", integer: "::BIGINT", real: "::DOUBLE PRECISION", texts: "" } as const
const pgValues = columns.map(({ type }, index) =>
  type === "texts" ? `batch.record -> ${index}` : `(batch.record ->> ${index})${pgCasts[type]}`
).join(", ")

// ---- SQLite: rows of parameters, since taking JSON apart costs it several times what writing the row does

/** Rows of the statements that the connection keeps prepared; a batch is written with as few of them as will do. */
const rowCounts = [64, 8, 1] as const

const row = `(${columns.map(() => "?").join(", ")})`
const insertOf = (rows: number): string =>
  `INSERT INTO usage_records (${names}) VALUES ${Array.from({ length: rows }, () => row).join(", ")} ` +
  "ON CONFLICT (id) DO NOTHING"
const inserts = rowCounts.map((rows) => ({ rows, text: insertOf(rows) }))

const parametersOf = (records: ReadonlyArray<UsageRecord>): ReadonlyArray<unknown> => {
  const parameters: Array<unknown> = []
  for (const record of records) {
    for (const { of } of columns) {
      const value = of(record)
      parameters.push(Array.isArray(value) ? JSON.stringify(value) : value)
    }
  }
  return parameters
}

/** A batch in pieces, each with the statement for its number of records. */
const pieces = (records: ReadonlyArray<UsageRecord>) => {
  const found: Array<{ readonly text: string; readonly records: ReadonlyArray<UsageRecord> }> = []
  let at = 0
  for (const { rows, text } of inserts) {
    for (; records.length - at >= rows; at += rows) found.push({ text, records: records.slice(at, at + rows) })
  }
  return found
}

/**
 * Makes what writes records: all of them or, where it fails, perhaps some. A record whose id is there already is left as
 * it is, so the same batch may be written again.
 */
export const writer = (
  sql: SqlClient.SqlClient
): (records: ReadonlyArray<UsageRecord>) => Effect.Effect<void, SqlError.SqlError> =>
  sql.onDialectOrElse({
    pg: () => (records: ReadonlyArray<UsageRecord>) => {
      const insert = (batch: ReadonlyArray<UsageRecord>) =>
        sql`INSERT INTO usage_records (${sql.literal(names)})
          SELECT ${sql.literal(pgValues)} FROM jsonb_array_elements(${encoded(batch)}::jsonb) AS batch (record)
          ON CONFLICT (id) DO NOTHING`
      if (records.length <= maxBatch) return Effect.asVoid(insert(records))
      const starts = Array.from({ length: Math.ceil(records.length / maxBatch) }, (_, index) => index * maxBatch)
      return Effect.forEach(starts, (start) => insert(records.slice(start, start + maxBatch)), { discard: true })
    },
    orElse: () => (records: ReadonlyArray<UsageRecord>) =>
      Effect.forEach(
        pieces(records),
        (piece) => sql.unsafe(piece.text, parametersOf(piece.records)).raw,
        { discard: true }
      )
  })
