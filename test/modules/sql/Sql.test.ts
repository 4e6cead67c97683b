/** What holds for every database: values come back as they went in, and transactions are what they are. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Redacted, Stream } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { randomBytes } from "node:crypto"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { sqlDatabases } from "../../fixtures/Stores.ts"

type Client = SqlClient.SqlClient

for (const { fresh, isMissing, name } of sqlDatabases) {
  /** Runs `use` against an empty database that has the table `things`. */
  const withThings = <A, E>(use: (sql: Client) => Effect.Effect<A, E, SqlClient.SqlClient>) =>
    Effect.gen(function*() {
      const url = yield* fresh
      return yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const bytes = sql.onDialectOrElse({ pg: () => sql.literal("BYTEA"), orElse: () => sql.literal("BLOB") })
        yield* sql`CREATE TABLE things (
          id INTEGER PRIMARY KEY, name TEXT UNIQUE, amount BIGINT, share DOUBLE PRECISION, bytes ${bytes}
        )`
        return yield* use(sql)
      }).pipe(Effect.provide(Sql.layer(Redacted.make(url))))
    })

  const names = (sql: Client) =>
    Effect.map(
      sql<{ readonly name: string }>`SELECT name FROM things ORDER BY id`,
      (rows) => rows.map(({ name }) => name)
    )

  const add = (sql: Client, id: number, name: string) => sql`INSERT INTO things ${sql.insert({ id, name })}`

  const tagOf = (effect: Effect.Effect<unknown, SqlError.SqlError>) =>
    Effect.map(Effect.flip(effect), ({ reason }) => reason._tag)

  describe.skipIf(isMissing)(`on ${name}`, () => {
    it.live("values come back as they went in", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const texts = [
            "",
            "it's \"quoted\"",
            "'); DROP TABLE things; --",
            "${x} $1 ? :a @b",
            "日本語 🙂\r\n\t",
            "a".repeat(200_000)
          ]
          const pool = Buffer.from([9, 9, 0, 255, 39, 9])
          const blobs = [new Uint8Array(), pool.subarray(2, 5), new Uint8Array(randomBytes(300_000))]
          const shares = [0, -0.1, 1e300, Number.MAX_SAFE_INTEGER]
          let id = 0
          for (const text of texts) yield* sql`INSERT INTO things ${sql.insert({ id: id++, name: text })}`
          for (const blob of blobs) yield* sql`INSERT INTO things ${sql.insert({ id: id++, bytes: blob })}`
          for (const share of shares) yield* sql`INSERT INTO things ${sql.insert({ id: id++, share })}`
          yield* sql`INSERT INTO things ${sql.insert({ id: id++, name: null, bytes: null, share: null })}`

          const rows = yield* sql<Record<"name" | "bytes" | "share", unknown>>`
            SELECT name, bytes, share FROM things ORDER BY id
          `
          assert.deepStrictEqual(rows.slice(0, texts.length).map((row) => row.name), texts)
          const gotten = rows.slice(texts.length, texts.length + blobs.length).map((row) => row.bytes)
          assert.deepStrictEqual(
            gotten.map((bytes) => bytes instanceof Uint8Array ? Buffer.from(bytes).toString("hex") : bytes),
            blobs.map((bytes) => Buffer.from(bytes).toString("hex"))
          )
          assert.deepStrictEqual(rows.slice(texts.length + blobs.length, -1).map((row) => row.share), shares)
          assert.deepStrictEqual({ ...rows.at(-1) }, { name: null, bytes: null, share: null })
        })
      ))

    it.live("text with a NUL comes back whole or is refused, and is never cut", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const text = "before\0after"
          const exit = yield* Effect.exit(add(sql, 1, text))
          assert.deepStrictEqual(yield* names(sql), Exit.isSuccess(exit) ? [text] : [])
          assert.strictEqual(Exit.isSuccess(exit), name !== "PostgreSQL")
        })
      ))

    it.live("integers beyond 2^53 are exact with SafeIntegers, and never wrong without", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const amounts = [2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n + 1n, 0n]
          for (const [id, amount] of amounts.entries()) yield* sql`INSERT INTO things ${sql.insert({ id, amount })}`
          const read = sql<{ readonly amount: unknown }>`SELECT amount FROM things ORDER BY id`
          const exact = yield* Effect.provideService(read, SqlClient.SafeIntegers, true)
          assert.deepStrictEqual(exact.map(({ amount }) => amount), amounts)
          const plain = yield* Effect.exit(read)
          if (Exit.isSuccess(plain)) assert.deepStrictEqual(plain.value.map(({ amount }) => amount), amounts)
        })
      ))

    it.live("an integer that no column holds is refused", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          assert.isString(yield* tagOf(sql`INSERT INTO things ${sql.insert({ id: 1, amount: 2n ** 63n })}`))
          assert.deepStrictEqual(yield* names(sql), [])
        })
      ))

    it.live("a second row with the same key is a UniqueViolation, and the database goes on", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          yield* add(sql, 1, "one")
          assert.strictEqual(yield* tagOf(add(sql, 2, "one")), "UniqueViolation")
          assert.strictEqual(yield* tagOf(add(sql, 1, "other")), "UniqueViolation")
          yield* sql`CREATE TABLE strict (n INTEGER NOT NULL)`
          assert.strictEqual(yield* tagOf(sql`INSERT INTO strict ${sql.insert({ n: null })}`), "ConstraintError")
          assert.isString(yield* tagOf(sql`SELECT nothing FROM nowhere`))
          assert.isString(yield* tagOf(sql`SELECT 1; SELECT 2`))
          yield* add(sql, 2, "two")
          assert.deepStrictEqual(yield* names(sql), ["one", "two"])
        })
      ))

    it.live("what cannot be a value is refused, and not stored as something else", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const odd: ReadonlyArray<unknown> = [{ a: 1 }, Redacted.make("secret-name")]
          for (const [id, value] of odd.entries()) {
            const exit = yield* Effect.exit(sql.unsafe("INSERT INTO things (id, name) VALUES (1, 'x')", [id, value]))
            assert.isTrue(Exit.isFailure(exit))
            assert.notInclude(JSON.stringify(exit), "secret-name")
          }
          assert.deepStrictEqual(yield* names(sql), [])
        })
      ))

    it.live("the other ways of asking", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          yield* add(sql, 1, "one")
          yield* add(sql, 2, "two")
          const both = sql`SELECT id, name FROM things ORDER BY id`
          assert.deepStrictEqual(yield* both.values, [[1, "one"], [2, "two"]])
          assert.deepStrictEqual(yield* both.unprepared, [{ id: 1, name: "one" }, { id: 2, name: "two" }])
          assert.deepStrictEqual(yield* sql`DELETE FROM things WHERE id = 1 RETURNING name`, [{ name: "one" }])
          yield* sql`UPDATE things SET name = 'second' WHERE id = 2`.raw
          assert.deepStrictEqual(yield* names(sql), ["second"])
          yield* Sql.ping
        })
      ))

    it.live("a statement keeps working after its table has changed", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          yield* add(sql, 1, "one")
          const all = sql`SELECT * FROM things`
          assert.lengthOf(Object.keys((yield* all)[0] ?? {}), 5)
          yield* sql`ALTER TABLE things ADD COLUMN colour TEXT DEFAULT 'red'`
          assert.strictEqual((yield* all)[0]?.["colour"], "red")
        })
      ))

    it.live("a thousand statements at once each get their own answer", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const numbers = Array.from({ length: 1000 }, (_, n) => n)
          yield* Effect.forEach(numbers, (n) => add(sql, n, `n${n}`), { concurrency: "unbounded", discard: true })
          const answers = yield* Effect.forEach(
            numbers,
            (n) =>
              n % 10 === 0
                ? Effect.as(Effect.exit(add(sql, n, "again")), n)
                : Effect.map(
                  sql<{ readonly id: number }>`SELECT id FROM things WHERE name = ${`n${n}`}`,
                  ([row]) => row?.id
                ),
            { concurrency: "unbounded" }
          )
          assert.deepStrictEqual(answers, numbers)
        })
      ))

    it.live("a large result arrives whole and in order", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const rows = yield* sql<{ readonly n: number; readonly s: string }>`
            WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 50000)
            SELECT n, 'row ' || CAST(n AS TEXT) AS s FROM c ORDER BY n
          `
          assert.lengthOf(rows, 50_000)
          for (const [index, { n, s }] of rows.entries()) {
            if (n !== index + 1 || s !== `row ${n}`) assert.fail(`row ${index} is ${n}, ${s}`)
          }
        })
      ))

    it.live("a stream gives all rows, and one that is left early holds nothing up", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const many = sql<{ readonly n: number }>`
            WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000) SELECT n FROM c ORDER BY n
          `.stream
          assert.strictEqual(yield* Stream.runFold(many, () => 0, (sum, { n }) => sum + n), 20_000 * 20_001 / 2)
          for (let i = 0; i < 20; i++) {
            assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(many, 2)), [{ n: 1 }, { n: 2 }])
          }
          assert.isString(yield* tagOf(Stream.runDrain(sql`SELECT nothing FROM nowhere`.stream)))
          const within = yield* sql.withTransaction(Effect.gen(function*() {
            yield* add(sql, 1, "one")
            return yield* Stream.runCollect(sql`SELECT name FROM things`.stream)
          }))
          assert.deepStrictEqual(within, [{ name: "one" }])
        })
      ))

    it.live.skipIf(name === "SQLite in memory")(
      "whoever reads a stream slowly keeps nobody waiting",
      () =>
        withThings((sql) =>
          Effect.gen(function*() {
            yield* add(sql, 0, "zero")
            const reading = yield* Deferred.make<void>()
            const goOn = yield* Deferred.make<void>()
            const fiber = yield* sql<{ readonly name: string }>`SELECT name FROM things`.stream.pipe(
              Stream.mapEffect(({ name }) =>
                Effect.as(Effect.andThen(Deferred.succeed(reading, undefined), Deferred.await(goOn)), name)
              ),
              Stream.runCollect,
              Effect.forkChild
            )
            yield* Deferred.await(reading)
            yield* add(sql, 1, "one")
            yield* sql.withTransaction(add(sql, 2, "two"))
            yield* Deferred.succeed(goOn, undefined)
            assert.deepStrictEqual(yield* Fiber.join(fiber), ["zero"])
            assert.deepStrictEqual(yield* names(sql), ["zero", "one", "two"])
          })
        )
    )

    it.live("a transaction is kept whole, or undone where it fails, dies or is interrupted", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          yield* sql.withTransaction(Effect.andThen(add(sql, 1, "one"), add(sql, 2, "two")))
          yield* Effect.exit(sql.withTransaction(Effect.andThen(add(sql, 3, "three"), Effect.fail("no"))))
          yield* Effect.exit(sql.withTransaction(Effect.andThen(add(sql, 3, "three"), Effect.die("no"))))
          yield* Effect.exit(sql.withTransaction(Effect.andThen(add(sql, 3, "three"), add(sql, 1, "again"))))
          const added = yield* Deferred.make<void>()
          const fiber = yield* Effect.forkChild(sql.withTransaction(
            Effect.andThen(Effect.andThen(add(sql, 3, "three"), Deferred.succeed(added, undefined)), Effect.never)
          ))
          yield* Deferred.await(added)
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(yield* names(sql), ["one", "two"])
          yield* sql.withTransaction(add(sql, 3, "three"))
          assert.deepStrictEqual(yield* names(sql), ["one", "two", "three"])
        })
      ))

    it.live("interrupted at any moment, a transaction is there whole or not at all", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          for (let round = 0; round < 60; round++) {
            const fiber = yield* Effect.forkChild(sql.withTransaction(
              Effect.andThen(add(sql, round * 2, `a${round}`), add(sql, round * 2 + 1, `b${round}`))
            ))
            for (let turn = 0; turn < round % 12; turn++) yield* Effect.promise(() => new Promise(setImmediate))
            yield* Fiber.interrupt(fiber)
          }
          const all = yield* names(sql)
          assert.deepStrictEqual(
            all.filter((name) => name.startsWith("a")).map((name) => name.slice(1)),
            all.filter((name) => name.startsWith("b")).map((name) => name.slice(1))
          )
          yield* sql.withTransaction(add(sql, 1000, "at last"))
          assert.strictEqual((yield* names(sql)).at(-1), "at last")
        })
      ))

    it.live("what fails within a transaction can be undone alone", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          yield* sql.withTransaction(Effect.gen(function*() {
            yield* add(sql, 1, "outer")
            yield* sql.withTransaction(add(sql, 2, "inner"))
            yield* Effect.exit(sql.withTransaction(Effect.andThen(add(sql, 3, "undone"), add(sql, 1, "again"))))
            yield* Effect.exit(sql.withTransaction(Effect.gen(function*() {
              yield* sql.withTransaction(add(sql, 4, "undone with its outer one"))
              return yield* Effect.fail("no")
            })))
            yield* add(sql, 5, "after")
          }))
          assert.deepStrictEqual(yield* names(sql), ["outer", "inner", "after"])
        })
      ))

    it.live("transactions at once come one after the other", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          yield* sql`INSERT INTO things ${sql.insert({ id: 1, share: 0 })}`
          const read = sql.onDialectOrElse({
            pg: () => sql<{ readonly share: number }>`SELECT share FROM things WHERE id = 1 FOR UPDATE`,
            orElse: () => sql<{ readonly share: number }>`SELECT share FROM things WHERE id = 1`
          })
          const increment = sql.withTransaction(Effect.gen(function*() {
            const [row] = yield* read
            yield* Effect.yieldNow
            yield* sql`UPDATE things SET share = ${(row?.share ?? 0) + 1} WHERE id = 1`
          }))
          yield* Effect.all(Array.from({ length: 100 }, () => increment), { concurrency: "unbounded", discard: true })
          assert.deepStrictEqual(yield* sql`SELECT share FROM things`, [{ share: 100 }])
        })
      ))

    it.live("a statement outside an open transaction is not undone with it", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const outside = (from: number) =>
            Effect.forEach([0, 1, 2, 3], (n) => add(sql, from + n, `outside ${from + n}`), { concurrency: "unbounded" })
          yield* Effect.all(
            Array.from({ length: 25 }, (_, round) => [
              Effect.exit(sql.withTransaction(Effect.gen(function*() {
                yield* add(sql, round * 10, `undone ${round}`)
                yield* Effect.yieldNow
                yield* add(sql, round * 10 + 1, `undone ${round} too`)
                return yield* Effect.fail("no")
              }))),
              outside(round * 10 + 2)
            ]).flat(),
            { concurrency: "unbounded", discard: true }
          )
          const all = yield* names(sql)
          assert.lengthOf(all, 100)
          assert.isTrue(all.every((name) => name.startsWith("outside")))
        })
      ))

    it.live("afterCommit waits for the commit, and is forgotten where there is none", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const seen: Array<unknown> = []
          const note = (what: string) =>
            sql.afterCommit(Effect.map(Effect.orDie(names(sql)), (all) => {
              seen.push([what, ...all])
            }))
          yield* sql.withTransaction(Effect.gen(function*() {
            yield* note("first")
            yield* add(sql, 1, "one")
            yield* Effect.exit(sql.withTransaction(Effect.andThen(note("undone"), Effect.fail("no"))))
            yield* sql.withTransaction(note("second"))
            assert.lengthOf(seen, 0)
          }))
          yield* Effect.exit(sql.withTransaction(Effect.andThen(note("never"), Effect.fail("no"))))
          yield* note("outside")
          assert.deepStrictEqual(seen, [["first", "one"], ["second", "one"], ["outside", "one"]])
        })
      ))

    it.live("statements that nobody waits for any more do no harm", () =>
      withThings((sql) =>
        Effect.gen(function*() {
          const fibers = yield* Effect.forEach(
            Array.from({ length: 500 }, (_, n) => n),
            (n) => Effect.forkChild(add(sql, n, `n${n}`), { startImmediately: true })
          )
          yield* Fiber.interruptAll(fibers.filter((_, n) => n % 2 === 0))
          const exits = yield* Effect.forEach(fibers, Fiber.await)
          const all = new Set(yield* names(sql))
          for (const [n, exit] of exits.entries()) {
            if (n % 2 === 1) assert.isTrue(Exit.isSuccess(exit) && all.has(`n${n}`), `n${n}`)
          }
        })
      ))
  })
}
