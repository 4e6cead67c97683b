/** What is asked of the kept records: sums by group, and what single requests cost. */
import { Effect } from "effect"
import type { SqlClient, SqlError, Statement } from "effect/sql"
import type { UsageGroup, UsageQuery, UsageRow } from "../../../sdk/UsageLog.ts"
import { storedText } from "./UsageTable.ts"

/** Rows that a query gives at most, whatever it asks for. */
export const maxRows = 50_000

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

/** PostgreSQL gives a BIGINT as `bigint`, SQLite as `number`. Every sum is a safe integer: the query saturates it. */
type Sum = number | bigint

/** A row as the query below makes it. Not checked by a schema: for ten thousand rows that takes a tenth of a second. */
type SumRow =
  & { readonly [Group in UsageGroup as `group_${Group}`]?: string | null }
  & {
    readonly requests: Sum
    readonly input_tokens: Sum
    readonly output_tokens: Sum
    readonly cache_read_tokens: Sum
    readonly cache_write_tokens: Sum
    readonly input_audio_tokens: Sum
    readonly input_image_tokens: Sum
    readonly output_audio_tokens: Sum
    readonly output_image_tokens: Sum
    readonly reasoning_tokens: Sum
    readonly images: Sum
    readonly characters: Sum
    readonly input_audio_ms: Sum
    readonly output_audio_ms: Sum
    readonly input_video_ms: Sum
    readonly output_video_ms: Sum
    readonly cost_nano_usd: Sum
    readonly unpriced: Sum
    readonly estimated: Sum
  }

const usageRow = (groupBy: ReadonlyArray<UsageGroup>, row: SumRow): UsageRow => {
  const group: { [Group in UsageGroup]?: string | null } = {}
  for (const name of groupBy) group[name] = row[`group_${name}`] ?? null
  return {
    group,
    requests: Number(row.requests),
    inputTokens: Number(row.input_tokens),
    outputTokens: Number(row.output_tokens),
    cacheReadTokens: Number(row.cache_read_tokens),
    cacheWriteTokens: Number(row.cache_write_tokens),
    inputAudioTokens: Number(row.input_audio_tokens),
    inputImageTokens: Number(row.input_image_tokens),
    outputAudioTokens: Number(row.output_audio_tokens),
    outputImageTokens: Number(row.output_image_tokens),
    reasoningTokens: Number(row.reasoning_tokens),
    images: Number(row.images),
    characters: Number(row.characters),
    inputAudioMs: Number(row.input_audio_ms),
    outputAudioMs: Number(row.output_audio_ms),
    inputVideoMs: Number(row.input_video_ms),
    outputVideoMs: Number(row.output_video_ms),
    costNanoUsd: Number(row.cost_nano_usd),
    unpriced: Number(row.unpriced),
    estimated: Number(row.estimated)
  }
}

/** Rows that are read in one go; other requests have their turn in between. */
const slice = 1000

// ---------------------------------------------------------------------------------------------------------------------
// Queries
// ---------------------------------------------------------------------------------------------------------------------

const isTime = (group: UsageGroup): boolean => group === "hour" || group === "day" || group === "month"

/** Asks one database. */
export interface UsageQueries {
  /** See `UsageLog.aggregate`. */
  readonly aggregate: (query: UsageQuery) => Effect.Effect<ReadonlyArray<UsageRow>, SqlError.SqlError>
  /** See `UsageLog.costs`. */
  readonly costs: (ids: ReadonlyArray<string>) => Effect.Effect<ReadonlyMap<string, number>, SqlError.SqlError>
  /** Deletes some of the records that started before `before`, Unix ms, and tells how many; 0 where none is left. */
  readonly sweep: (before: number) => Effect.Effect<number, SqlError.SqlError>
}

/** Records that one statement of a sweep deletes: the database is free for others in between. */
const sweepSize = 500

/** Makes the queries in the database's own SQL. Everything that callers say is a parameter. */
export const make = (sql: SqlClient.SqlClient): UsageQueries => {
  const isPg = sql.onDialectOrElse({ pg: () => true, orElse: () => false })

  /**
   * A sum of non-negative integers that stops at 2^53 - 1. PostgreSQL adds BIGINT up as NUMERIC, without bounds. SQLite
   * fails beyond 2^63, so there the upper and the lower bits are added up by themselves; too large a product of the two
   * becomes a floating one there, which the minimum drops.
   */
  const total = (expression: Statement.Fragment): Statement.Fragment =>
    isPg
      ? sql`CAST(LEAST(9007199254740991, COALESCE(SUM(${expression}), 0)) AS BIGINT)`
      : sql`COALESCE(MIN(9007199254740991,
          SUM((${expression}) >> 20) * 1048576 + SUM((${expression}) & 1048575)), 0)`

  /** Times as text, in UTC. The formats are part of the statement, since a grouped expression must hold no parameter. */
  const time = (sqlite: string, pg: string): Statement.Fragment =>
    isPg
      ? sql`to_char(to_timestamp(r.started_at / 1000) AT TIME ZONE 'UTC', ${sql.literal(pg)})`
      : sql`strftime(${sql.literal(sqlite)}, r.started_at / 1000, 'unixepoch')`

  const groups: Readonly<Record<UsageGroup, Statement.Fragment>> = {
    tenant: sql`r.tenant`,
    user: sql`r.user_id`,
    key: sql`r.key_id`,
    tag: sql`tag.value`,
    model: sql`r.model_used`,
    provider: sql`r.provider`,
    operation: sql`r.operation`,
    outcome: sql`r.outcome`,
    conversation: sql`r.conversation_id`,
    hour: time("'%Y-%m-%dT%H:00:00Z'", "'YYYY-MM-DD\"T\"HH24:00:00\"Z\"'"),
    day: time("'%Y-%m-%d'", "'YYYY-MM-DD'"),
    month: time("'%Y-%m'", "'YYYY-MM'")
  }

  const sums: ReadonlyArray<Statement.Fragment> = [
    sql`${total(sql`CASE WHEN r.kind = 'request' THEN 1 ELSE 0 END`)} AS requests`,
    sql`${total(sql`r.input_tokens`)} AS input_tokens`,
    sql`${total(sql`r.output_tokens`)} AS output_tokens`,
    sql`${total(sql`r.cache_read_tokens`)} AS cache_read_tokens`,
    sql`${total(sql`r.cache_write_5m_tokens + r.cache_write_1h_tokens`)} AS cache_write_tokens`,
    sql`${total(sql`r.input_audio_tokens`)} AS input_audio_tokens`,
    sql`${total(sql`r.input_image_tokens`)} AS input_image_tokens`,
    sql`${total(sql`r.output_audio_tokens`)} AS output_audio_tokens`,
    sql`${total(sql`r.output_image_tokens`)} AS output_image_tokens`,
    sql`${total(sql`r.reasoning_tokens`)} AS reasoning_tokens`,
    sql`${total(sql`r.images`)} AS images`,
    sql`${total(sql`r.characters`)} AS characters`,
    sql`${total(sql`r.input_audio_ms`)} AS input_audio_ms`,
    sql`${total(sql`r.output_audio_ms`)} AS output_audio_ms`,
    sql`${total(sql`r.input_video_ms`)} AS input_video_ms`,
    sql`${total(sql`r.output_video_ms`)} AS output_video_ms`,
    sql`${total(sql`r.cost_nano_usd`)} AS cost_nano_usd`,
    sql`${
      total(sql`CASE WHEN r.cost_nano_usd IS NULL AND r.input_tokens + r.output_tokens + r.cache_read_tokens
        + r.cache_write_5m_tokens + r.cache_write_1h_tokens + r.input_audio_tokens + r.input_image_tokens
        + r.output_audio_tokens + r.output_image_tokens + r.images + r.characters + r.input_audio_ms + r.output_audio_ms
        + r.input_video_ms + r.output_video_ms > 0 THEN 1 ELSE 0 END`)
    } AS unpriced`,
    sql`${total(sql`r.estimated`)} AS estimated`
  ]

  const eachTag = isPg
    ? sql`LEFT JOIN LATERAL jsonb_array_elements_text(r.tags) AS tag (value) ON TRUE`
    : sql`LEFT JOIN json_each(r.tags) AS tag ON TRUE`

  const hasTag = (tag: string): Statement.Fragment =>
    isPg
      ? sql`r.tags @> jsonb_build_array(${tag}::text)`
      : sql`EXISTS (SELECT 1 FROM json_each(r.tags) AS wanted WHERE wanted.value = ${tag})`

  /** Texts as a list in one parameter: a tenant may have more children than a statement may have parameters. */
  const listed = (texts: ReadonlyArray<string>): Statement.Fragment => {
    const list = JSON.stringify(texts.map(storedText))
    return isPg
      ? sql`= ANY (ARRAY(SELECT jsonb_array_elements_text(${list}::jsonb)))`
      : sql`IN (SELECT value FROM json_each(${list}))`
  }

  const wanted = (query: UsageQuery): Statement.Fragment => {
    const conditions: Array<Statement.Fragment> = [
      sql`r.started_at >= ${Math.ceil(query.from)}`,
      sql`r.started_at < ${Math.ceil(query.to)}`
    ]
    if (query.tenants !== undefined) conditions.push(sql`r.tenant ${listed(query.tenants)}`)
    if (query.user !== undefined) conditions.push(sql`r.user_id = ${storedText(query.user)}`)
    if (query.keyId !== undefined) conditions.push(sql`r.key_id = ${storedText(query.keyId)}`)
    if (query.model !== undefined) conditions.push(sql`r.model_used = ${storedText(query.model)}`)
    if (query.operation !== undefined) conditions.push(sql`r.operation = ${query.operation}`)
    if (query.tag !== undefined) conditions.push(hasTag(storedText(query.tag)))
    return sql.and(conditions)
  }

  /** What happened first comes first; within that, what cost most. */
  const order = (groupBy: ReadonlyArray<UsageGroup>): Statement.Fragment =>
    sql.csv("ORDER BY", [
      ...groupBy.filter(isTime).map((group) => sql`${sql(`group_${group}`)} NULLS LAST`),
      sql`cost_nano_usd DESC`,
      ...groupBy.filter((group) => !isTime(group)).map((group) => sql`${sql(`group_${group}`)} NULLS LAST`)
    ])

  const aggregate = Effect.fn("UsageSql.aggregate")(function*(query: UsageQuery) {
    const groupBy = Array.from(new Set(query.groupBy))
    const limit = Math.min(maxRows, Math.max(1, Math.floor(query.limit)))
    const rows = yield* sql<SumRow>`
      SELECT ${sql.csv([...groupBy.map((group) => sql`${groups[group]} AS ${sql(`group_${group}`)}`), ...sums])}
      FROM usage_records AS r ${groupBy.includes("tag") ? eachTag : sql.literal("")}
      WHERE ${wanted(query)}
      ${groupBy.length === 0 ? sql.literal("") : sql.csv("GROUP BY", groupBy.map((group) => groups[group]))}
      ${order(groupBy)}
      LIMIT ${limit}`
    const read: Array<UsageRow> = []
    for (let from = 0; from < rows.length; from += slice) {
      if (from > 0) yield* Effect.yieldNow
      for (const row of rows.slice(from, from + slice)) read.push(usageRow(groupBy, row))
    }
    return read
  })

  const asked = isPg
    ? (list: string) =>
      sql`SELECT (value ->> 0)::INTEGER, (value ->> 1) COLLATE "C", (value ->> 2) COLLATE "C"
        FROM jsonb_array_elements(${list}::jsonb) AS list (value)`
    : (list: string) => sql`SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(${list})`
  const costs = Effect.fn("UsageSql.costs")(function*(ids: ReadonlyArray<string>) {
    // An id comes back as it was asked for, however it is kept.
    const distinct = Array.from(new Set(ids))
    if (distinct.length === 0) return new Map<string, number>()
    const list = distinct.map((id, place) => {
      const at = id.indexOf("#")
      return at < 0 ? [place, storedText(id), null] : [place, storedText(id.slice(0, at)), storedText(id.slice(at + 1))]
    })
    const rows = yield* sql<{ readonly place: number; readonly cost: Sum }>`
      WITH asked (place, record, model) AS (${asked(JSON.stringify(list))}),
      found (place, cost_nano_usd) AS (
        SELECT asked.place, r.cost_nano_usd FROM asked JOIN usage_records AS r ON r.id = asked.record
          WHERE asked.model IS NULL OR r.model_used = asked.model
        UNION ALL
        SELECT asked.place, r.cost_nano_usd FROM asked JOIN usage_records AS r ON r.request_record = asked.record
          WHERE asked.model IS NULL OR r.model_used = asked.model
      )
      SELECT place, ${total(sql`cost_nano_usd`)} AS cost FROM found GROUP BY place`
    return new Map(rows.map(({ cost, place }) => [distinct[place] ?? "", Number(cost)]))
  })

  const sweep = Effect.fn("UsageSql.sweep")(function*(before: number) {
    const deleted = yield* sql`DELETE FROM usage_records WHERE id IN (
        SELECT id FROM usage_records WHERE started_at < ${Math.floor(before)} ORDER BY started_at LIMIT ${sweepSize}
      ) RETURNING id`
    return deleted.length
  })

  return { aggregate, costs, sweep }
}
