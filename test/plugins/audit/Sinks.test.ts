/** What every audit sink does alike: it writes all events of a batch, in order, whatever their strings hold. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Effect, Layer, Redacted, Schema, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as AuditTrailLayer from "../../../src/gateway/Audit.ts"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import * as AuditJsonl from "../../../src/plugins/audit/jsonl/AuditJsonl.ts"
import * as AuditNoop from "../../../src/plugins/audit/noop/AuditNoop.ts"
import * as AuditSql from "../../../src/plugins/audit/sql/AuditSql.ts"
import { type AuditEvent, AuditSinkRegistry, AuditTrail } from "../../../src/sdk/AuditSink.ts"
import { isJson, parsed } from "../../fixtures/Script.ts"
import { isolated, postgresUrl } from "../../fixtures/Stores.ts"
import { event } from "./AuditFile.ts"

/** A sink with a way to read what it has written: the events' fields in snake_case, in their order. */
interface Kind {
  readonly name: string
  readonly skip?: boolean
  readonly open: (retentionMs?: number) => Effect.Effect<
    {
      readonly sinks: Layer.Layer<AuditSinkRegistry>
      readonly read: Effect.Effect<ReadonlyArray<Readonly<Record<string, unknown>>>>
      /** The database, where it is one. */
      readonly sql?: SqlClient.SqlClient
    },
    never,
    Scope.Scope
  >
}

const folder = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "audit-sinks-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true }))
)

/** PostgreSQL gives BIGINT as bigint, SQLite as number. */
const Rows = Schema.Array(Schema.Struct({
  at: Schema.Union([Schema.BigInt, Schema.Finite]),
  type: Schema.String,
  request_id: Schema.NullOr(Schema.String),
  tenant: Schema.NullOr(Schema.String),
  user_id: Schema.NullOr(Schema.String),
  key_id: Schema.NullOr(Schema.String),
  details: Schema.String
}))

const openSql = (url: string, retentionMs?: number) =>
  Effect.gen(function*() {
    const database = yield* Layer.build(
      Sql.migrate(AuditSql.migrations).pipe(Layer.provideMerge(Layer.fresh(Sql.layer(Redacted.make(url)))))
    )
    const sql = Context.get(database, SqlClient.SqlClient)
    return {
      sql,
      sinks: AuditSql.layer(retentionMs === undefined ? {} : { retentionMs }).pipe(
        Layer.provideMerge(Layer.fresh(AuditSinkRegistry.layer)),
        Layer.provide(Layer.succeed(SqlClient.SqlClient, sql))
      ),
      read: sql`SELECT at, type, request_id, tenant, user_id, key_id, details FROM audit_events ORDER BY seq`.pipe(
        Effect.flatMap(Schema.decodeUnknownEffect(Rows)),
        Effect.map((rows) =>
          rows.map(({ at, details, user_id, ...row }) => ({
            ...row,
            user: user_id,
            at: Number(at),
            details: parsed(details)
          }))
        ),
        Effect.orDie
      )
    }
  }).pipe(Effect.orDie)

const kinds: ReadonlyArray<Kind> = [
  {
    name: "jsonl",
    open: () =>
      Effect.map(folder, (path) => {
        const file = join(path, "audit.jsonl")
        return {
          sinks: Layer.orDie(AuditJsonl.layer({ path: file })).pipe(
            Layer.provideMerge(Layer.fresh(AuditSinkRegistry.layer))
          ),
          read: Effect.promise(async () => {
            const lines = (await readFile(file, "utf8")).split("\n").slice(0, -1)
            return lines.map((line) => {
              const value = parsed(line)
              const { prev: _, seq: __, ...fields } = isJson(value) ? value : {}
              return Object.assign({ request_id: null, tenant: null, user: null, key_id: null }, fields)
            })
          })
        }
      })
  },
  {
    name: "SQLite",
    open: (retentionMs) => Effect.flatMap(folder, (path) => openSql(`sqlite:${join(path, "audit.db")}`, retentionMs))
  },
  {
    name: "PostgreSQL",
    skip: postgresUrl === undefined,
    open: (retentionMs) => Effect.flatMap(Effect.orDie(isolated(postgresUrl ?? "")), (url) => openSql(url, retentionMs))
  }
]

const sinkOf = (sinks: Layer.Layer<AuditSinkRegistry>) =>
  Effect.map(Layer.build(sinks), (context) => {
    const [sink] = Context.get(context, AuditSinkRegistry).all()
    if (sink === undefined) throw new Error("no sink was registered")
    return sink
  })

for (const { name, open, skip } of kinds) {
  describe.skipIf(skip)(name, () => {
    it.live("writes each event once, in order", () =>
      Effect.gen(function*() {
        const { read, sinks } = yield* open()
        const sink = yield* sinkOf(sinks)
        yield* sink.write([event(0)])
        const batch = Array.from({ length: 2_500 }, (_, index) => event(index + 2))
        yield* sink.write([event(1), ...batch])
        const rows = yield* read
        assert.lengthOf(rows, 2_502)
        assert.deepStrictEqual(rows[1], {
          at: 1_700_000_000_001,
          type: "request_completed",
          request_id: "req_1",
          tenant: "acme",
          user: "ann",
          key_id: "key-1",
          details: { model_used: "openai::gpt-4o", number: 1, streamed: true, filling: "" }
        })
        assert.deepStrictEqual(rows.map(({ at }) => Number(at) - 1_700_000_000_000), rows.map((_, index) => index))
      }))

    it.live("keeps what an event lacks apart from what is empty", () =>
      Effect.gen(function*() {
        const { read, sinks } = yield* open()
        const sink = yield* sinkOf(sinks)
        yield* sink.write([{ type: "key_created", at: 5, tenant: "", details: {} }])
        assert.deepStrictEqual(yield* read, [
          { type: "key_created", at: 5, request_id: null, tenant: "", user: null, key_id: null, details: {} }
        ])
      }))

    it.live("takes strings that would break a line or a statement", () =>
      Effect.gen(function*() {
        const { read, sinks } = yield* open()
        const sink = yield* sinkOf(sinks)
        const nasty = [
          "'; DROP TABLE audit_events; --",
          "a\nb\r\u2028c",
          "\"}\\",
          "$1 ? :x %s",
          "😀\uD83D",
          "nul\0nul",
          "\u0007"
        ]
        const events = nasty.map((text): AuditEvent => ({
          type: "key_revoked",
          at: 1.5,
          requestId: text,
          tenant: text,
          details: { text, [text]: text, bytes: 1e21, ratio: -0.25 }
        }))
        for (const one of events) yield* sink.write([one])
        const rows = yield* read
        assert.lengthOf(rows, nasty.length)
        for (const [index, row] of rows.entries()) {
          const text = nasty[index] ?? ""
          // No sink has to keep what no text can hold.
          const kept = text.toWellFormed()
          assert.include([text, kept, text.replaceAll("\0", "\uFFFD")], row["tenant"])
          assert.isTrue(isJson(row["details"]) && row["details"]["bytes"] === 1e21)
        }
      }))

    it.live("gets what is emitted, and has all of it when the trail ends", () =>
      Effect.gen(function*() {
        const { read, sinks } = yield* open()
        yield* Effect.gen(function*() {
          const trail = yield* AuditTrail
          assert.isTrue(trail.isActive())
          for (let index = 0; index < 3_000; index++) trail.emit(event(index))
        }).pipe(Effect.provide(AuditTrailLayer.layer.pipe(Layer.provide(sinks)), { local: true }))
        const rows = yield* read
        assert.deepStrictEqual(rows.map(({ at }) => Number(at) - 1_700_000_000_000), rows.map((_, index) => index))
        assert.lengthOf(rows, 3_000)
      }))
  })
}

for (const { name, open, skip } of kinds.slice(1)) {
  describe.skipIf(skip)(`the table in ${name}`, () => {
    it.live("does not take a batch twice that comes again", () =>
      Effect.gen(function*() {
        const { read, sinks } = yield* open()
        const sink = yield* sinkOf(sinks)
        const batch = [event(0), event(1)] as const
        yield* sink.write(batch)
        yield* sink.write(batch)
        yield* sink.write([event(0)])
        assert.lengthOf(yield* read, 3)
      }))

    it.live("does not let its rows be changed", () =>
      Effect.gen(function*() {
        const { read, sinks, sql } = yield* open()
        if (sql === undefined) return yield* Effect.die(new Error("no database"))
        const sink = yield* sinkOf(sinks)
        yield* sink.write([event(0)])
        const before = yield* read
        const exit = yield* Effect.exit(sql`UPDATE audit_events SET tenant = 'other'`)
        assert.strictEqual(exit._tag, "Failure")
        assert.deepStrictEqual(yield* read, before)
      }))

    it.live("forgets what is older than the retention, and nothing else", () =>
      Effect.gen(function*() {
        const { read, sinks, sql } = yield* open(60_000)
        if (sql === undefined) return yield* Effect.die(new Error("no database"))
        yield* Effect.scoped(Effect.gen(function*() {
          const sink = yield* sinkOf(sinks)
          yield* sink.write([event(0), { ...event(1), at: yield* Clock.currentTimeMillis }])
          // More of them than one statement deletes.
          const [first = event(2), ...rest] = Array.from({ length: 2_345 }, (_, index) => event(index + 2))
          yield* sink.write([first, ...rest])
        }))
        yield* Effect.scoped(Effect.gen(function*() {
          yield* sinkOf(sinks)
          yield* Effect.repeat(read, { until: (rows) => rows.length <= 1 }).pipe(Effect.timeout("10 seconds"))
        }))
        const rows = yield* read
        assert.deepStrictEqual(rows.map(({ request_id }) => request_id), ["req_1"])
      }))

    it.live("that is gone fails the write without the words of the database", () =>
      Effect.gen(function*() {
        const { sinks, sql } = yield* open()
        if (sql === undefined) return yield* Effect.die(new Error("no database"))
        const sink = yield* sinkOf(sinks)
        yield* sql`DROP TABLE audit_events`
        const error = yield* Effect.flip(sink.write([event(0, "canary")]))
        assert.strictEqual(error._tag, "SinkError")
        assert.notInclude(JSON.stringify(error), "canary")
        assert.include(error.message, "the database failed")
      }))
  })
}

describe("noop", () => {
  it.effect("is no sink at all, so nothing is collected", () =>
    Effect.gen(function*() {
      assert.isFalse((yield* AuditTrail).isActive())
    }).pipe(Effect.provide(AuditTrailLayer.layer.pipe(
      Layer.provide(AuditNoop.layer),
      Layer.provide(AuditSinkRegistry.layer)
    ))))
})
