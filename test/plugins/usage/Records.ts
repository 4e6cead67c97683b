/** Usage records for tests, and what they add up to, worked out without a database. */
import { Schema } from "effect"
import { UsageGroup, type UsageQuery, type UsageRow } from "../../../src/sdk/UsageLog.ts"
import type { UsageRecord } from "../../../src/sdk/UsageSink.ts"

/** Monday, 4 May 2026, 00:00 UTC. */
export const monday = Date.UTC(2026, 4, 4)

/** A record with some fields of its own. */
export const record = (fields: Partial<UsageRecord> & Pick<UsageRecord, "id">): UsageRecord => ({
  requestId: `req_${fields.id}`,
  kind: "request",
  tenant: "acme",
  tags: [],
  operation: "chat",
  streamed: false,
  modelAsked: "openai::gpt-4o",
  modelUsed: "openai::gpt-4o",
  provider: "openai",
  attempts: 1,
  usage: { inputTokens: 10, outputTokens: 5 },
  costNanoUsd: 75_000,
  priceId: "catalogue:openai/gpt-4o",
  startedAt: monday,
  durationMs: 12.5,
  firstTokenMs: 3.25,
  overheadMs: 0.5,
  outcome: "completed",
  finishReason: "stop",
  ...fields
})

/** Text that breaks what is put together carelessly. */
export const hostile = [
  "'; DROP TABLE usage_records; --",
  "\") OR 1=1 --",
  "x' UNION SELECT * FROM usage_records --",
  "%_\\",
  "$1 ? :name @name",
  "{\"a\":[1]}",
  "null",
  "",
  " \t\r\n",
  "a\0b",
  "half \ud83d of a pair",
  "ﬁ é 🚀 \u2028",
  "=1+1",
  "x".repeat(5000),
  `${"x".repeat(4999)}y`
]

const Small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 }))
const Large = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5_000_000_000_000 }))
const optional = Schema.optionalKey
const Tag = Schema.Literals(["blue", "red", "it's", "=cmd"])

/** What a random record is made of. */
export const Random = Schema.Struct({
  kind: Schema.Literals(["request", "request", "attempt"]),
  operation: Schema.Literals(["chat", "embed", "image"]),
  tenant: Schema.Literals(["acme", "acme-labs", "globex", "'; --"]),
  user: optional(Schema.Literals(["ann", "bob"])),
  keyId: optional(Schema.Literals(["k1", "k2", "k3"])),
  tags: Schema.Array(Tag).check(Schema.isMaxLength(3)),
  conversationId: optional(Schema.Literals(["c1", "c2"])),
  modelUsed: optional(Schema.Literals(["openai::gpt-4o", "anthropic::claude", "ollama::llama3"])),
  provider: optional(Schema.Literals(["openai", "anthropic"])),
  usage: Schema.Struct({
    inputTokens: Small,
    outputTokens: Small,
    cacheReadTokens: optional(Small),
    cacheWrite5mTokens: optional(Small),
    cacheWrite1hTokens: optional(Small),
    inputAudioTokens: optional(Small),
    inputImageTokens: optional(Small),
    outputAudioTokens: optional(Small),
    outputImageTokens: optional(Small),
    reasoningTokens: optional(Small),
    images: optional(Small),
    characters: optional(Small),
    inputAudioMs: optional(Small),
    outputAudioMs: optional(Small),
    inputVideoMs: optional(Small),
    outputVideoMs: optional(Small),
    estimated: optional(Schema.Boolean)
  }),
  estimatedBecause: optional(Schema.Literals(["not_reported", "hedge_lost"])),
  costNanoUsd: optional(Large),
  /** Minutes after `monday`, over some ten weeks. */
  minute: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 })),
  outcome: Schema.Literals(["completed", "failed", "cancelled", "blocked"])
})
export type Random = typeof Random.Type

/** The record that is made of it. */
export const recordOf = ({ minute, ...fields }: Random, id: string): UsageRecord => ({
  id,
  requestId: "req",
  streamed: true,
  modelAsked: "fast",
  attempts: 1,
  startedAt: monday + minute * 60_000 + 0.5,
  durationMs: 1,
  overheadMs: 0.25,
  ...fields
})

/** What a random query is made of. */
export const RandomQuery = Schema.Struct({
  fromMinute: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 })),
  minutes: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 })),
  tenants: optional(Schema.Array(Schema.Literals(["acme", "acme-labs", "globex", "'; --", "nobody"]))),
  user: optional(Schema.Literals(["ann", "bob", "nobody"])),
  keyId: optional(Schema.Literals(["k1", "k2"])),
  tag: optional(Tag),
  model: optional(Schema.Literals(["openai::gpt-4o", "ollama::llama3"])),
  operation: optional(Schema.Literals(["chat", "image"])),
  groupBy: Schema.Array(UsageGroup).check(Schema.isMaxLength(3))
})
export type RandomQuery = typeof RandomQuery.Type

/** The query that is made of it. */
export const queryOf = ({ fromMinute, minutes, ...fields }: RandomQuery): UsageQuery => ({
  from: monday + fromMinute * 60_000,
  to: monday + (fromMinute + minutes) * 60_000,
  limit: 50_000,
  ...fields
})

// ---------------------------------------------------------------------------------------------------------------------
// Adding up
// ---------------------------------------------------------------------------------------------------------------------

const valuesOf = (record: UsageRecord, group: UsageGroup): ReadonlyArray<string | null> => {
  const at = new Date(record.startedAt).toISOString()
  switch (group) {
    case "tag":
      return record.tags.length === 0 ? [null] : Array.from(new Set(record.tags))
    case "user":
      return [record.user ?? null]
    case "key":
      return [record.keyId ?? null]
    case "model":
      return [record.modelUsed ?? null]
    case "provider":
      return [record.provider ?? null]
    case "conversation":
      return [record.conversationId ?? null]
    case "hour":
      return [`${at.slice(0, 13)}:00:00Z`]
    case "day":
      return [at.slice(0, 10)]
    case "month":
      return [at.slice(0, 7)]
    default:
      return [record[group]]
  }
}

const counts = [
  "requests",
  "inputTokens",
  "outputTokens",
  "cacheReadTokens",
  "cacheWriteTokens",
  "inputAudioTokens",
  "inputImageTokens",
  "outputAudioTokens",
  "outputImageTokens",
  "reasoningTokens",
  "costNanoUsd",
  "unpriced",
  "estimated",
  "images",
  "characters",
  "inputAudioMs",
  "outputAudioMs",
  "inputVideoMs",
  "outputVideoMs"
] as const
type Counts = Record<(typeof counts)[number], bigint>

const countsOf = ({ costNanoUsd, estimatedBecause, kind, usage }: UsageRecord): Counts => {
  const buckets = {
    inputTokens: usage.inputTokens,
    outputTokens: usage.outputTokens,
    cacheReadTokens: usage.cacheReadTokens ?? 0,
    cacheWriteTokens: (usage.cacheWrite5mTokens ?? 0) + (usage.cacheWrite1hTokens ?? 0),
    inputAudioTokens: usage.inputAudioTokens ?? 0,
    inputImageTokens: usage.inputImageTokens ?? 0,
    outputAudioTokens: usage.outputAudioTokens ?? 0,
    outputImageTokens: usage.outputImageTokens ?? 0,
    images: usage.images ?? 0,
    characters: usage.characters ?? 0,
    inputAudioMs: usage.inputAudioMs ?? 0,
    outputAudioMs: usage.outputAudioMs ?? 0,
    inputVideoMs: usage.inputVideoMs ?? 0,
    outputVideoMs: usage.outputVideoMs ?? 0
  }
  const consumed = Object.values(buckets).some((count) => count > 0)
  const numbers = {
    requests: kind === "request" ? 1 : 0,
    ...buckets,
    reasoningTokens: usage.reasoningTokens ?? 0,
    costNanoUsd: costNanoUsd ?? 0,
    unpriced: costNanoUsd === undefined && consumed ? 1 : 0,
    estimated: usage.estimated === true || estimatedBecause !== undefined ? 1 : 0
  }
  return mapCounts((count) => BigInt(numbers[count]))
}

const mapCounts = <A>(f: (count: (typeof counts)[number]) => A): Record<(typeof counts)[number], A> => ({
  requests: f("requests"),
  inputTokens: f("inputTokens"),
  outputTokens: f("outputTokens"),
  cacheReadTokens: f("cacheReadTokens"),
  cacheWriteTokens: f("cacheWriteTokens"),
  inputAudioTokens: f("inputAudioTokens"),
  inputImageTokens: f("inputImageTokens"),
  outputAudioTokens: f("outputAudioTokens"),
  outputImageTokens: f("outputImageTokens"),
  reasoningTokens: f("reasoningTokens"),
  costNanoUsd: f("costNanoUsd"),
  unpriced: f("unpriced"),
  estimated: f("estimated"),
  images: f("images"),
  characters: f("characters"),
  inputAudioMs: f("inputAudioMs"),
  outputAudioMs: f("outputAudioMs"),
  inputVideoMs: f("inputVideoMs"),
  outputVideoMs: f("outputVideoMs")
})

const isAskedFor = (record: UsageRecord, query: UsageQuery): boolean =>
  record.startedAt >= query.from && record.startedAt < query.to &&
  (query.tenants === undefined || query.tenants.includes(record.tenant)) &&
  (query.user === undefined || record.user === query.user) &&
  (query.keyId === undefined || record.keyId === query.keyId) &&
  (query.tag === undefined || record.tags.includes(query.tag)) &&
  (query.model === undefined || record.modelUsed === query.model) &&
  (query.operation === undefined || record.operation === query.operation)

/** All ways to take one value of each list. */
const combinations = <A>(lists: ReadonlyArray<ReadonlyArray<A>>): ReadonlyArray<ReadonlyArray<A>> =>
  lists.reduce<ReadonlyArray<ReadonlyArray<A>>>(
    (taken, list) => taken.flatMap((begun) => list.map((value) => [...begun, value])),
    [[]]
  )

/** Rows by the text of their group, for comparing where the order does not matter. */
export const byGroup = (rows: ReadonlyArray<UsageRow>): Readonly<Record<string, UsageRow>> =>
  Object.fromEntries(
    rows.map((row) => [JSON.stringify(Object.entries(row.group).sort(([a], [b]) => a < b ? -1 : 1)), row])
  )

/** What `UsageLog.aggregate` has to give, in no particular order. */
export const summed = (records: ReadonlyArray<UsageRecord>, query: UsageQuery): ReadonlyArray<UsageRow> => {
  const groupBy = Array.from(new Set(query.groupBy))
  const sums = new Map<string, { readonly group: UsageRow["group"]; sum: Counts }>()
  if (groupBy.length === 0) sums.set("[]", { group: {}, sum: mapCounts(() => 0n) })
  for (const one of records) {
    if (!isAskedFor(one, query)) continue
    const counted = countsOf(one)
    for (const values of combinations(groupBy.map((group) => valuesOf(one, group)))) {
      const key = JSON.stringify(values)
      const known = sums.get(key)
      const sum = known?.sum
      const next = sum === undefined ? counted : mapCounts((count) => sum[count] + counted[count])
      sums.set(key, {
        group: known?.group ?? Object.fromEntries(groupBy.map((group, index) => [group, values[index] ?? null])),
        sum: next
      })
    }
  }
  return Array.from(sums.values(), ({ group, sum }) => ({ group, ...mapCounts((count) => Number(sum[count])) }))
}
