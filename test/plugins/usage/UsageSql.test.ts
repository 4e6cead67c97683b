/** Usage records in a database, SQLite and PostgreSQL alike: written in batches, added up again. */
import { assert, describe, layer } from "@effect/vitest"
import { Arbitrary, Effect, Layer, Redacted, type Scope } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import * as UsageSql from "../../../src/plugins/usage/sql/UsageSql.ts"
import { UsageLog, type UsageQuery } from "../../../src/sdk/UsageLog.ts"
import { LedgerTransaction, SinkError, type UsageRecord, UsageSinkRegistry } from "../../../src/sdk/UsageSink.ts"
import { isolated, postgresUrl } from "../../fixtures/Stores.ts"
import { byGroup, hostile, monday, queryOf, Random, RandomQuery, record, recordOf, summed } from "./Records.ts"

const day = 86_400_000
const hour = 3_600_000
const always: UsageQuery = { from: 0, to: monday + 10_000 * day, groupBy: [], limit: 1000 }

const write = (records: ReadonlyArray<UsageRecord>) =>
  Effect.flatMap(UsageSinkRegistry, (registry) => {
    const sink = registry.all()[0]
    const [first, ...rest] = records
    if (sink === undefined || first === undefined) return assert.fail("there is no sink, or nothing to write")
    return sink.write([first, ...rest])
  })
const aggregate = (query: Partial<UsageQuery> = {}) =>
  Effect.flatMap(UsageLog, (log) => log.aggregate({ ...always, ...query }))
const costs = (ids: ReadonlyArray<string>) => Effect.flatMap(UsageLog, (log) => log.costs(ids))
const empty = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`DELETE FROM usage_records`)

const database = (url: Effect.Effect<string, SqlError.SqlError, Scope.Scope>) =>
  Layer.unwrap(Effect.map(url, (url) => Sql.layer(Redacted.make(url))))

/** The sink over a database, which it leaves visible. */
const over = (url: Effect.Effect<string, SqlError.SqlError, Scope.Scope>, options?: UsageSql.UsageSqlOptions) =>
  UsageSql.layer(options).pipe(
    Layer.merge(UsageSql.ledgerTransaction),
    Layer.provide(Sql.migrate(UsageSql.migrations)),
    Layer.provideMerge(UsageSinkRegistry.layer),
    Layer.provideMerge(database(url))
  )

const stores = [
  { name: "SQLite", url: Effect.succeed("sqlite::memory:"), there: true },
  { name: "PostgreSQL", url: isolated(postgresUrl ?? ""), there: postgresUrl !== undefined }
]

describe.each(stores)("on $name", ({ there, url }) => {
  describe.skipIf(!there)("a database from before other things than tokens were counted", () => {
    const before = Object.fromEntries(
      Object.entries(UsageSql.migrations).filter(([name]) => name !== "0005_usage_media")
    )
    const old = Layer.effectDiscard(
      Effect.flatMap(
        SqlClient.SqlClient,
        (sql) =>
          sql`INSERT INTO usage_records (id, request_id, kind, tenant, tags, operation, streamed, model_asked, attempts,
          input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, input_audio_tokens,
          input_image_tokens, output_audio_tokens, output_image_tokens, reasoning_tokens, estimated, started_at, duration_ms,
          overhead_ms, outcome) VALUES ('old', 'req', 'request', 'acme', '[]', 'chat', 0, 'm', 1, 10, 5, 0, 0, 0, 0, 0, 0,
          0, 0, 0, ${monday}, 1, 0, 'completed')`
      )
    )
    layer(
      UsageSql.layer().pipe(
        Layer.provide(Sql.migrate(UsageSql.migrations)),
        Layer.provide(old),
        Layer.provide(Sql.migrate(before)),
        Layer.provideMerge(UsageSinkRegistry.layer),
        Layer.provideMerge(database(url))
      )
    )((it) => {
      it.effect("keeps its records, and takes new ones", () =>
        Effect.gen(function*() {
          yield* write([
            record({ id: "new", operation: "image", usage: { inputTokens: 1, outputTokens: 0, images: 3 } })
          ])
          const rows = yield* aggregate({ groupBy: ["operation"] })
          assert.deepStrictEqual(
            rows.map(({ group, images, inputTokens }) => [group.operation, inputTokens, images]).toSorted(([a], [b]) =>
              String(a) < String(b) ? -1 : 1
            ),
            [["chat", 10, 0], ["image", 1, 3]]
          )
        }))
    })
  })

  describe.skipIf(!there)("usage records", () => {
    layer(over(url))((it) => {
      it.effect("a batch that comes again, whole or in part, counts once", () =>
        Effect.gen(function*() {
          yield* empty
          const batch = [record({ id: "a" }), record({ id: "b" }), record({ id: "b", costNanoUsd: 1 })]
          yield* write(batch)
          yield* write(batch)
          yield* write([record({ id: "b", costNanoUsd: 7 }), record({ id: "c" })])
          const [total] = yield* aggregate()
          assert.strictEqual(total?.requests, 3)
          assert.strictEqual(total?.costNanoUsd, 225_000)
        }))

      it.effect("a batch of any size gets in", () =>
        Effect.gen(function*() {
          yield* empty
          // More than what would fit as single parameters into one statement of either database.
          const count = 2500
          yield* write(Array.from({ length: count }, (_, index) => record({ id: `r${index}` })))
          assert.strictEqual((yield* aggregate())[0]?.requests, count)
        }))

      it.effect(
        "10,000 random records add up as they do without a database, however they are grouped and chosen",
        () =>
          Effect.gen(function*() {
            yield* empty
            const randoms = yield* Arbitrary.sampleEffect(Arbitrary.schema(Random), { count: 10_000, seed: "records" })
            const records = randoms.map((random, index) => recordOf(random, `r${index}`))
            for (let from = 0; from < records.length; from += 500) yield* write(records.slice(from, from + 500))
            const queries = yield* Arbitrary.sampleEffect(Arbitrary.schema(RandomQuery), { count: 60 })
            for (const query of [always, ...queries.map(queryOf)]) {
              const rows = yield* aggregate({ ...query, limit: 50_000 })
              assert.deepStrictEqual(byGroup(rows), byGroup(summed(records, query)), JSON.stringify(query))
              assert.lengthOf(rows, Object.keys(byGroup(rows)).length)
            }
          }),
        60_000
      )

      it.effect("text is only ever text, however hostile, and different texts stay different", () =>
        Effect.gen(function*() {
          yield* empty
          yield* write(hostile.map((text, index) =>
            record({
              id: `${text}${index}`,
              requestId: text,
              tenant: text,
              user: text,
              keyId: text,
              tags: [text, text],
              conversationId: text,
              modelAsked: text,
              modelUsed: text,
              provider: text,
              priceId: text,
              costNanoUsd: index + 1
            })
          ))
          for (const [index, text] of hostile.entries()) {
            for (
              const query of [{ tenants: [text] }, { user: text }, { keyId: text }, { tag: text }, { model: text }]
            ) {
              const rows = yield* aggregate({ ...query, groupBy: ["tag"] })
              assert.deepStrictEqual(rows.map((row) => row.costNanoUsd), [index + 1], JSON.stringify({ query, text }))
            }
            assert.deepStrictEqual(Array.from(yield* costs([`${text}${index}`])), [[`${text}${index}`, index + 1]])
          }
          const groupBy = ["tenant", "user", "key", "tag", "model", "provider", "conversation"] as const
          const rows = yield* aggregate({ groupBy })
          assert.lengthOf(rows, hostile.length)
          for (
            const text of hostile.filter((text) => text.isWellFormed() && text.length < 100 && !text.includes("\0"))
          ) {
            assert.isTrue(rows.some(({ group }) => groupBy.every((name) => group[name] === text)), text)
          }
        }))

      it.effect("a record with several tags counts under each of them, one without tags under none", () =>
        Effect.gen(function*() {
          yield* empty
          yield* write([
            record({ id: "a", tags: ["red", "blue"], costNanoUsd: 1 }),
            record({ id: "b", tags: ["red", "red"], costNanoUsd: 10 }),
            record({ id: "c", costNanoUsd: 100 })
          ])
          const costOf = (rows: ReadonlyArray<{ group: { tag?: string | null }; costNanoUsd: number }>) =>
            rows.map(({ costNanoUsd, group }) => [group.tag, costNanoUsd])
          assert.deepStrictEqual(costOf(yield* aggregate({ groupBy: ["tag"] })), [[null, 100], ["red", 11], [
            "blue",
            1
          ]])
          // The records with one tag, by all of their tags.
          assert.deepStrictEqual(costOf(yield* aggregate({ groupBy: ["tag"], tag: "blue" })), [["blue", 1], ["red", 1]])
          assert.strictEqual((yield* aggregate({ tag: "red" }))[0]?.requests, 2)
        }))

      it.effect("hours, days and months are those of UTC, and come in their order", () =>
        Effect.gen(function*() {
          yield* empty
          const at = (iso: string) => record({ id: iso, startedAt: Date.parse(iso) })
          yield* write([
            at("2026-05-01T00:00:00.000Z"),
            at("2026-04-30T23:59:59.999Z"),
            at("2024-02-29T12:30:00Z"),
            at("2026-05-01T00:59:59.999Z")
          ])
          const values = (group: "hour" | "day" | "month") =>
            Effect.map(aggregate({ groupBy: [group] }), (rows) => rows.map((row) => [row.group[group], row.requests]))
          assert.deepStrictEqual(yield* values("hour"), [
            ["2024-02-29T12:00:00Z", 1],
            ["2026-04-30T23:00:00Z", 1],
            ["2026-05-01T00:00:00Z", 2]
          ])
          assert.deepStrictEqual(yield* values("day"), [["2024-02-29", 1], ["2026-04-30", 1], ["2026-05-01", 2]])
          assert.deepStrictEqual(yield* values("month"), [["2024-02", 1], ["2026-04", 1], ["2026-05", 2]])
          const may = { from: Date.parse("2026-05-01"), to: Date.parse("2026-05-01T00:59:59.999Z") }
          assert.strictEqual((yield* aggregate(may))[0]?.requests, 1, "from counts, to does not")
        }))

      it.effect("where nothing was found there are no groups, and a total of nothing", () =>
        Effect.gen(function*() {
          yield* empty
          yield* write([record({ id: "a" })])
          for (const none of [{ from: monday + 1 }, { to: monday }, { tenants: [] }, { tenants: ["nobody"] }]) {
            assert.deepStrictEqual(yield* aggregate({ ...none, groupBy: ["tenant", "tag"] }), [])
            const [total, ...more] = yield* aggregate(none)
            assert.lengthOf(more, 0)
            assert.isTrue(Object.values({ ...total, group: 0 }).every((sum) => sum === 0), JSON.stringify(total))
          }
        }))

      it.effect("a limit takes the groups that cost most", () =>
        Effect.gen(function*() {
          yield* empty
          yield* write(
            [3, 9, 5, 9].map((cost, index) => record({ id: `${index}`, user: `user-${index}`, costNanoUsd: cost }))
          )
          const rows = yield* aggregate({ groupBy: ["user"], limit: 3 })
          assert.deepStrictEqual(rows.map(({ group }) => group.user), ["user-1", "user-3", "user-2"])
        }))

      it.effect("sums are exact up to 2^53 - 1, and stop there", () =>
        Effect.gen(function*() {
          yield* empty
          const max = Number.MAX_SAFE_INTEGER
          const costing = (id: string, tokens: number) =>
            record({ id, costNanoUsd: tokens, usage: { inputTokens: tokens, outputTokens: 1 } })
          yield* write([costing("a", max - 2), costing("b", 1)])
          assert.strictEqual((yield* aggregate())[0]?.costNanoUsd, max - 1)
          // Together far beyond 2^63.
          yield* write(Array.from({ length: 2000 }, (_, index) => costing(`m${index}`, max)))
          const [total] = yield* aggregate()
          assert.strictEqual(total?.costNanoUsd, max)
          assert.strictEqual(total?.inputTokens, max)
          assert.strictEqual(total?.outputTokens, 2002)
          assert.strictEqual((yield* costs(["a"])).get("a"), max - 2)
        }))

      it.effect("what is no count is kept as none, rather than holding up its batch", () =>
        Effect.gen(function*() {
          yield* empty
          yield* write([record({
            id: "odd",
            usage: { inputTokens: Number.NaN, outputTokens: -5, cacheReadTokens: 1.5 },
            costNanoUsd: Infinity,
            durationMs: Number.NaN,
            overheadMs: -1,
            attempts: -1
          })])
          const [total] = yield* aggregate()
          assert.deepInclude(total, { inputTokens: 0, outputTokens: 0, cacheReadTokens: 1 })
          assert.strictEqual(total?.costNanoUsd, Number.MAX_SAFE_INTEGER)
        }))

      it.effect("the cost of a request has those of its attempts in it, and of no other", () =>
        Effect.gen(function*() {
          yield* empty
          const attempt = (id: string, costNanoUsd: number) => record({ id, kind: "attempt", costNanoUsd })
          yield* write([
            record({ id: "a", costNanoUsd: 1 }),
            attempt("a#1", 10),
            attempt("a#12", 100),
            record({ id: "ab", costNanoUsd: 1000 }),
            record({ id: "a!", costNanoUsd: 1000 }),
            record({ id: "a$", costNanoUsd: 1000 }),
            record({ id: "A", costNanoUsd: 1000 }),
            attempt("lost#1", 5),
            record({ id: "blocked", usage: { inputTokens: 0, outputTokens: 0 } }),
            record({ id: "%", costNanoUsd: 3 })
          ])
          const { costNanoUsd: _, ...free } = record({ id: "free" })
          yield* write([free])
          const found = yield* costs(["a", "a", "lost", "free", "nowhere", "%", "'--"])
          assert.deepStrictEqual(Object.fromEntries(found), { a: 111, lost: 5, free: 0, "%": 3 })
          assert.deepStrictEqual(Array.from(yield* costs([])), [])
          const [total] = yield* aggregate()
          assert.strictEqual(total?.requests, 8, "attempts are no requests")
          assert.strictEqual(total?.unpriced, 1)
        }))

      it.effect("what one model cost of a request, for the budgets by model", () =>
        Effect.gen(function*() {
          yield* empty
          const of = (id: string, modelUsed: string, costNanoUsd: number) =>
            record({ id, kind: id.includes("#") ? "attempt" : "request", modelUsed, costNanoUsd })
          yield* write([of("a", "p::m", 1), of("a#2", "q::n#1", 10), of("a#3", "p::m", 100), of("b", "p::m", 1000)])
          assert.deepStrictEqual(
            Object.fromEntries(yield* costs(["a", "a#p::m", "a#q::n#1", "a#q::n", "b#p::m", "b#q::n#1", "c#p::m"])),
            { a: 111, "a#p::m": 101, "a#q::n#1": 10, "b#p::m": 1000 }
          )
        }))

      it.effect("records and what goes with them are one transaction where the ledger wants it", () =>
        Effect.gen(function*() {
          yield* empty
          const transaction = yield* LedgerTransaction
          const written = Effect.provideService(
            write([record({ id: "a" })]),
            UsageSinkRegistry,
            yield* UsageSinkRegistry
          )
          const failed = new SinkError({ sink: "budgets", message: "no" })
          const error = yield* Effect.flip(transaction(Effect.andThen(written, Effect.fail(failed))))
          assert.strictEqual(error, failed)
          assert.strictEqual((yield* aggregate())[0]?.requests, 0)
          yield* transaction(written)
          assert.strictEqual((yield* aggregate())[0]?.requests, 1)
        }))

      it.effect("the sink is there as long as its layer", () =>
        Effect.gen(function*() {
          const registry = yield* UsageSinkRegistry
          assert.deepStrictEqual(registry.all().map(({ durable, name }) => [name, durable]), [["sql", true]])
        }))
    })

    layer(over(url, { retentionMs: hour }))("with a retention", (it) => {
      it.effect("old records go, and no others", () =>
        Effect.gen(function*() {
          const old = Array.from({ length: 1200 }, (_, index) => record({ id: `old${index}`, startedAt: index }))
          yield* write([...old, record({ id: "young" })])
          yield* TestClock.adjust(hour)
          assert.strictEqual((yield* aggregate())[0]?.requests, 1201)
          // A sweep is under way in the real database while the clock stands still.
          const later = Effect.andThen(TestClock.adjust(hour / 10), aggregate())
          yield* Effect.repeat(later, { until: ([total]) => total?.requests === 1 })
          assert.strictEqual((yield* costs(["young"])).size, 1)
        }))
    })

    layer(
      UsageSql.layer({ retentionMs: day }).pipe(
        Layer.provideMerge(UsageSinkRegistry.layer),
        Layer.provide(database(url))
      )
    )("where the database fails", (it) => {
      it.effect("the sink and the log say so, without its words", () =>
        Effect.gen(function*() {
          const refused = yield* Effect.flip(write([record({ id: "a", tenant: "secret-tenant" })]))
          assert.strictEqual(refused._tag, "SinkError")
          const unread = [yield* Effect.flip(aggregate()), yield* Effect.flip(costs(["a"]))]
          for (const error of unread) assert.strictEqual(error.code, "store_unavailable")
          for (const { message } of [refused, ...unread]) assert.notMatch(message, /usage_records|secret|INSERT|SELECT/)
        }))
    })
  })
})
