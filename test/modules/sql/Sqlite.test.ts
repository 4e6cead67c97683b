/** What is SQLite's own: its file, its thread, and what becomes of both when something dies. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Redacted, Scope, Stream } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { execFile } from "node:child_process"
import { existsSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { pathToFileURL } from "node:url"
import { promisify } from "node:util"
import type { Worker } from "node:worker_threads"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { sqliteFile } from "../../fixtures/Stores.ts"
import { startChild } from "./Children.ts"

const root = path.resolve(import.meta.dirname, "../../..")

const open = (url: string) =>
  Effect.map(
    Layer.build(Layer.fresh(Sql.layer(Redacted.make(url)))),
    (context) => Context.get(context, SqlClient.SqlClient)
  )

/** Opens a database, together with the thread that was started for it. */
const openWithThread = Effect.fnUntraced(function*(url: string) {
  const threads: Array<Worker> = []
  const started = (thread: Worker) => threads.push(thread)
  process.on("worker", started)
  const sql = yield* Effect.ensuring(open(url), Effect.sync(() => process.off("worker", started)))
  const thread = threads.find(({ threadName }) => threadName === "sqlite")
  if (thread === undefined) return yield* Effect.die("no thread was started")
  return { sql, kill: Effect.promise(() => thread.terminate()) }
})

const failureOf = (effect: Effect.Effect<unknown, SqlError.SqlError>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason)

const fileOf = (url: string) => url.slice("sqlite:".length)

const numbers = (sql: SqlClient.SqlClient) =>
  Effect.map(sql<{ readonly n: number }>`SELECT n FROM numbers ORDER BY n`, (rows) => rows.map(({ n }) => n))

describe("a file", () => {
  it.live("is made together with its folders, keeps what was written, and is left tidy", () =>
    Effect.gen(function*() {
      const url = yield* sqliteFile
      const scope = yield* Scope.make()
      const sql = yield* Scope.provide(open(url), scope)
      yield* sql`CREATE TABLE numbers (n INTEGER)`
      yield* sql`INSERT INTO numbers VALUES (1)`
      // Others on this machine have no business with keys and usage.
      assert.strictEqual(statSync(path.dirname(fileOf(url))).mode & 0o077, 0)
      assert.strictEqual(statSync(fileOf(url)).mode & 0o077, 0)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(existsSync(fileOf(url)))
      assert.isFalse(existsSync(`${fileOf(url)}-wal`))
      assert.include((yield* failureOf(sql`SELECT 1`)).message, "closed")
      assert.deepStrictEqual(yield* numbers(yield* open(url)), [1])
    }))

  it.live("that cannot be opened is named, with what to do about it", () =>
    Effect.gen(function*() {
      const folder = path.dirname(path.dirname(fileOf(yield* sqliteFile)))
      const text = path.join(folder, "notes.txt")
      writeFileSync(text, "no database, but a text that is long enough to be taken for one".repeat(100))
      for (const file of [text, folder, path.join(text, "gateway.db"), "/proc/none/gateway.db"]) {
        const error = yield* Effect.flip(open(`sqlite:${file}`))
        assert.strictEqual(error.reason._tag, "ConnectionError")
        assert.include(error.message, file)
        assert.include(error.message, "storage.sql")
      }
      for (const wrong of ["sqlite:", "sqlite://data/gateway.db", "mysql://u:hunter2@host/db", "hunter2"]) {
        const error = yield* Effect.flip(open(wrong))
        assert.include(error.message, "sqlite:")
        assert.notInclude(error.message, "hunter2")
      }
    }))

  it.live("that another client writes to is waited for", () =>
    Effect.gen(function*() {
      const url = yield* sqliteFile
      const one = yield* open(url)
      const other = yield* open(url)
      yield* one`CREATE TABLE numbers (n INTEGER)`
      const locked = yield* Deferred.make<void>()
      const goOn = yield* Deferred.make<void>()
      const first = yield* Effect.forkChild(one.withTransaction(Effect.gen(function*() {
        yield* one`INSERT INTO numbers VALUES (1)`
        yield* Deferred.succeed(locked, undefined)
        yield* Deferred.await(goOn)
      })))
      yield* Deferred.await(locked)
      const second = yield* Effect.forkChild(other`INSERT INTO numbers VALUES (2)`, { startImmediately: true })
      yield* Deferred.succeed(goOn, undefined)
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      assert.deepStrictEqual(yield* numbers(other), [1, 2])
    }))
})

describe("a transaction", () => {
  it.live("that a statement ends by itself while it is interrupted leaves the database as it should be", () =>
    Effect.gen(function*() {
      const sql = yield* open(yield* sqliteFile)
      yield* sql`CREATE TABLE numbers (n INTEGER UNIQUE)`
      yield* sql`INSERT INTO numbers VALUES (-1)`
      const inside = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO numbers VALUES (0)`
        yield* Deferred.succeed(inside, undefined)
        // Takes a while, and then comes upon a number that is there.
        yield* sql`INSERT OR ROLLBACK INTO numbers
          WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300000)
          SELECT CASE n WHEN 300000 THEN -1 ELSE n END FROM c`
      })))
      yield* Deferred.await(inside)
      for (let turn = 0; turn < 3; turn++) yield* Effect.promise(() => new Promise(setImmediate))
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit) && !Cause.hasDies(exit.cause))
      yield* sql.withTransaction(sql`INSERT INTO numbers VALUES (2)`)
      assert.deepStrictEqual(yield* numbers(sql), [-1, 2])
    }))
})

describe("a result", () => {
  const large = (sql: SqlClient.SqlClient) =>
    sql`WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100)
      SELECT n, hex(zeroblob(1000000)) AS text FROM c`

  it.live("that would fill the memory is refused, and can be read as a stream", () =>
    Effect.gen(function*() {
      const sql = yield* open(yield* sqliteFile)
      assert.include((yield* failureOf(large(sql))).message, "stream")
      assert.strictEqual(yield* Stream.runCount(large(sql).stream), 100)
    }))

  it.live("that fails in the middle leaves nothing locked", () =>
    Effect.gen(function*() {
      const sql = yield* open(yield* sqliteFile)
      yield* sql`CREATE TABLE numbers (n INTEGER)`
      yield* sql`INSERT INTO numbers VALUES (1), (${2n ** 60n}), (3)`
      assert.include((yield* failureOf(sql`SELECT n FROM numbers`)).message, "too large")
      assert.include((yield* failureOf(Stream.runDrain(sql`SELECT n FROM numbers`.stream))).message, "too large")
      yield* sql`DROP TABLE numbers`
      assert.include(
        (yield* failureOf(Stream.runDrain(sql`CREATE TABLE other (n INTEGER)`.stream))).message,
        "readonly"
      )
    }))
})

describe("kill -9 of a process that writes", () => {
  it.live("loses nothing that it was told is written", () =>
    Effect.gen(function*() {
      for (const lines of [1, 400, 997]) {
        const url = yield* sqliteFile
        const child = yield* startChild("write", url)
        for (let i = 1; i < lines; i++) yield* child.line
        const told = Number(yield* child.line)
        child.process.kill("SIGKILL")
        yield* child.ended
        const sql = yield* open(url)
        const there = yield* numbers(sql)
        assert.isAtLeast(there.length, told + 1)
        assert.deepStrictEqual(there, Array.from({ length: there.length }, (_, n) => n))
        // The two rows of a transaction are both there or neither is.
        assert.notStrictEqual(there.length % 3, 2)
        assert.deepStrictEqual(yield* sql`PRAGMA integrity_check`, [{ integrity_check: "ok" }])
      }
    }), 60_000)
})

describe("the thread", () => {
  it.live("that dies fails what it was asked, undoes its transaction, and is replaced at the next use", () =>
    Effect.gen(function*() {
      const { kill, sql } = yield* openWithThread(yield* sqliteFile)
      yield* sql`CREATE TABLE numbers (n INTEGER)`
      const inside = yield* Deferred.make<void>()
      const killed = yield* Deferred.make<void>()
      const transaction = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO numbers VALUES (1)`
        yield* Deferred.succeed(inside, undefined)
        yield* Deferred.await(killed)
        yield* sql`INSERT INTO numbers VALUES (2)`
      })))
      yield* Deferred.await(inside)
      const held = yield* Effect.forkChild(sql`INSERT INTO numbers VALUES (3)`, { startImmediately: true })
      yield* kill
      yield* Deferred.succeed(killed, undefined)
      assert.strictEqual((yield* failureOf(Fiber.join(transaction)))._tag, "ConnectionError")
      yield* Fiber.join(held)
      assert.deepStrictEqual(yield* numbers(sql), [3])
      yield* sql.withTransaction(sql`INSERT INTO numbers VALUES (4)`)
      assert.deepStrictEqual(yield* numbers(sql), [3, 4])
    }))

  it.live("that dies while it works fails everybody who waits for it", () =>
    Effect.gen(function*() {
      const { kill, sql } = yield* openWithThread(yield* sqliteFile)
      const long =
        sql`WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000000) SELECT count(*) FROM c`
      const waiting = yield* Effect.forkChild(
        Effect.all(Array.from({ length: 300 }, () => Effect.result(long)), { concurrency: "unbounded" }),
        { startImmediately: true }
      )
      yield* Effect.promise(() => new Promise(setImmediate))
      yield* kill
      const results = yield* Fiber.join(waiting)
      for (const result of results) {
        if (result._tag === "Failure") assert.strictEqual(result.failure.reason._tag, "ConnectionError")
      }
      assert.isAbove(results.filter(({ _tag }) => _tag === "Failure").length, 200)
      assert.deepStrictEqual(yield* sql`SELECT 1 AS one`, [{ one: 1 }])
    }))

  it.live("that dies with a database in memory says that what was in it is lost", () =>
    Effect.gen(function*() {
      const { kill, sql } = yield* openWithThread("sqlite::memory:")
      yield* sql`CREATE TABLE numbers (n INTEGER)`
      yield* kill
      for (const use of [sql`SELECT 1`, sql.withTransaction(sql`SELECT 1`)]) {
        const reason = yield* failureOf(use)
        assert.strictEqual(reason._tag, "ConnectionError")
        assert.include(reason.message, "lost")
      }
      assert.strictEqual(
        (yield* Effect.flip(Effect.provideService(Sql.ping, SqlClient.SqlClient, sql)))._tag,
        "SqlError"
      )
    }))

  it.live("keeps a process alive while it is waited for, and not longer", () =>
    Effect.gen(function*() {
      const child = yield* startChild("leave", yield* sqliteFile)
      assert.strictEqual(yield* child.line, "1000000")
      assert.strictEqual(yield* child.ended, 0)
    }))

  it.live("runs from what a build makes", () =>
    Effect.gen(function*() {
      const built = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(path.join(tmpdir(), "llm-gateway-build-"))),
        (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
      )
      symlinkSync(path.join(root, "node_modules"), path.join(built, "node_modules"))
      writeFileSync(path.join(built, "package.json"), `{"type":"module"}`)
      const compiler = path.join(root, "node_modules/typescript/bin/tsc")
      const project = ["-p", path.join(root, "tsconfig.build.json"), "--outDir", path.join(built, "dist")]
      yield* Effect.promise(() =>
        promisify(execFile)(process.execPath, [compiler, ...project, "--declarationMap", "false"])
      )
      const module = pathToFileURL(path.join(built, "dist/modules/sql/Sql.js")).href
      const child = yield* startChild("leave", yield* sqliteFile, module)
      assert.strictEqual(yield* child.line, "1000000")
      assert.strictEqual(yield* child.ended, 0)
    }), 60_000)
})
