/** Migrations: each once, whoever comes first, and never backwards. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { sqlDatabases } from "../../fixtures/Stores.ts"
import { startChild } from "./Children.ts"

/** A migration that writes down that it ran. */
const step = (n: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    if (n === 1) yield* sql`CREATE TABLE ran (step INTEGER NOT NULL)`
    yield* sql`INSERT INTO ran ${sql.insert({ step: n })}`
  })

const ran = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly step: number }>`SELECT step FROM ran`
  return rows.map((row) => row.step)
})

const migrated = (migrations: Sql.Migrations) => Effect.void.pipe(Effect.provide(Sql.migrate(migrations)))

for (const { fresh, isMissing, name } of sqlDatabases) {
  const within = <A, E>(use: Effect.Effect<A, E, SqlClient.SqlClient>) =>
    Effect.flatMap(fresh, (url) => Effect.provide(use, Sql.layer(Redacted.make(url))))

  describe.skipIf(isMissing)(`on ${name}`, () => {
    it.live("run in the order of their numbers, once, also those that come in late", () =>
      within(Effect.gen(function*() {
        yield* migrated({ "0010_ten": step(10), "0001_one": step(1), "0003_three": step(3) })
        assert.deepStrictEqual(yield* ran, [1, 3, 10])
        yield* migrated({ "0001_one": step(1), "0002_two": step(2), "0003_three": step(3), "0010_ten": step(10) })
        yield* migrated({ "0001_one": step(1), "0002_two": step(2), "0003_three": step(3), "0010_ten": step(10) })
        assert.deepStrictEqual(yield* ran, [1, 3, 10, 2])
      })))

    it.live("are all undone where one fails, and run again when it is mended", () =>
      within(Effect.gen(function*() {
        const broken = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`CREATE TABLE ran (twice INTEGER)`)
        const error = yield* Effect.flip(migrated({ "0001_one": step(1), "0002_two": Effect.asVoid(broken) }))
        assert.include(error.message, "0002_two")
        yield* migrated({ "0001_one": step(1), "0002_two": step(2) })
        assert.deepStrictEqual(yield* ran, [1, 2])
      })))

    it.live("a database that is ahead of the program is refused, by the name of what it has had", () =>
      within(Effect.gen(function*() {
        yield* migrated({ "0001_one": step(1), "0012_jobs": step(12) })
        const error = yield* Effect.flip(migrated({ "0001_one": step(1), "0004_four": step(4) }))
        assert.strictEqual(error._tag, "MigrationError")
        assert.include(error.message, "0012_jobs")
        assert.include(error.message, "0004_four")
        assert.deepStrictEqual(yield* ran, [1, 12])
      })))

    it.live("another program's database, doubled numbers and names without number are refused", () =>
      within(Effect.gen(function*() {
        yield* migrated({ "0001_one": step(1) })
        for (const wrong of [["0001_other"], ["0001_one", "1_again"], ["0001_one", "two"], ["0001_one", "_3"]]) {
          const error = yield* Effect.flip(migrated(Object.fromEntries(wrong.map((key) => [key, step(2)]))))
          assert.strictEqual(error._tag, "MigrationError")
          assert.include(error.message, wrong.at(-1) ?? "")
        }
        assert.deepStrictEqual(yield* ran, [1])
      })))

    it.live.skipIf(name === "SQLite in memory")(
      "clients of one process that start at once all come up",
      () =>
        Effect.gen(function*() {
          const url = Redacted.make(yield* fresh)
          const migrations = Object.fromEntries(Array.from({ length: 9 }, (_, n) => [`000${n + 1}_step`, step(n + 1)]))
          const client = Effect.provide(ran, Layer.provideMerge(Sql.migrate(migrations), Layer.fresh(Sql.layer(url))))
          const all = yield* Effect.all([client, client, client, client], { concurrency: "unbounded" })
          for (const steps of all) assert.deepStrictEqual(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9])
        })
    )

    it.live.skipIf(name === "SQLite in memory")(
      "processes that start at once all come up",
      () =>
        Effect.gen(function*() {
          const url = yield* fresh
          const children = yield* Effect.all(Array.from({ length: 3 }, () => startChild("migrate", url)))
          for (const child of children) assert.strictEqual(yield* child.line, "ready")
          for (const child of children) child.process.stdin?.write("go\n")
          const codes = yield* Effect.forEach(children, (child) => child.ended, { concurrency: "unbounded" })
          assert.deepStrictEqual(codes, [0, 0, 0])
          assert.deepStrictEqual(
            yield* Effect.provide(ran, Sql.layer(Redacted.make(url))),
            [1, 2, 3, 4, 5, 6, 7, 8]
          )
        })
    )
  })
}
