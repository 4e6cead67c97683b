/** What is PostgreSQL's own: addresses, passwords that stay secret, and a server that goes away and comes back. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Redacted } from "effect"
import { createServer } from "node:net"
import { SqlClient } from "effect/sql"
import { inspect } from "node:util"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { isolated, postgresUrl } from "../../fixtures/Stores.ts"
import { tcpProxy } from "../../fixtures/TcpProxy.ts"

const open = (url: string) =>
  Effect.map(
    Layer.build(Layer.fresh(Sql.layer(Redacted.make(url)))),
    (context) => Context.get(context, SqlClient.SqlClient)
  )

/** A database that cannot be opened; nothing that anybody may print of the error holds a secret. */
const refusal = Effect.fnUntraced(function*(url: string, ...secrets: ReadonlyArray<string>) {
  const exit = yield* Effect.exit(Effect.scoped(open(url)))
  if (Exit.isSuccess(exit)) return assert.fail("it was opened")
  const printed = [inspect(exit, { depth: null }), JSON.stringify(exit), Cause.pretty(exit.cause), String(exit.cause)]
    .join()
  for (const secret of secrets) assert.notInclude(printed, secret)
  return yield* Effect.flip(exit)
})

describe("an address that cannot be used", () => {
  it.live("is refused at the start, and its password is in no error", () =>
    Effect.gen(function*() {
      const unreadable = [
        "postgres://app:hunter2/x@127.0.0.1:5432/db",
        "postgres://app:12#hunter2@127.0.0.1/db",
        "postgres://app:12?hunter2@127.0.0.1/db",
        "postgres://app:hunter2@127.0.0.1:port/db",
        "postgres://app:hunter2@:5432:5432/db"
      ]
      for (const url of unreadable) {
        const error = yield* refusal(url, "hunter2", "app:12")
        assert.strictEqual(error.reason._tag, "ConnectionError")
        assert.include(error.message, "postgres://user:password@host:5432/database")
      }
    }))

  it.live("because nobody listens there is named by host, port, database and user", () =>
    Effect.gen(function*() {
      for (const host of ["127.0.0.1:1", "localhost:1"]) {
        const error = yield* refusal(`postgres://app:hunter2@${host}/db?password=hunter3`, "hunter2", "hunter3")
        assert.strictEqual(error.reason._tag, "ConnectionError")
        for (const part of [host, "\"db\"", "\"app\"", "ECONNREFUSED", "storage.sql"]) {
          assert.include(error.message, part)
        }
      }
    }))

  it.live("because what listens there is silent is given up after the connect timeout", () =>
    Effect.gen(function*() {
      const port = yield* Effect.acquireRelease(
        Effect.callback<readonly [number, () => void]>((resume) => {
          const server = createServer()
          server.listen(0, "127.0.0.1", () => {
            const address = server.address()
            if (address === null || typeof address === "string") return
            resume(Effect.succeed([address.port, () => server.close()]))
          })
        }),
        ([, close]) => Effect.sync(close)
      )
      const error = yield* refusal(`postgres://app:hunter2@127.0.0.1:${port[0]}/db?connect_timeout=600`, "hunter2")
      assert.strictEqual(error.reason._tag, "ConnectionError")
      assert.include(error.message, "timed out")
    }))

  it.live.skipIf(postgresUrl === undefined)(
    "because the server does not know the database says so",
    () =>
      Effect.gen(function*() {
        const url = new URL(postgresUrl ?? "")
        url.pathname = "/no_such_database"
        url.password = "hunter2"
        const error = yield* refusal(url.href, "hunter2")
        assert.include(error.message, "no_such_database")
        assert.include(error.message, "does not exist")
      })
  )
})

describe.skipIf(postgresUrl === undefined)("PostgreSQL", () => {
  /** A database and a second client, which ends the connections of the first. */
  const withTerminator = Effect.gen(function*() {
    const url = yield* isolated(postgresUrl ?? "")
    const sql = yield* open(url)
    const other = yield* open(url)
    const schema = yield* sql<{ readonly name: string }>`SELECT current_schema() AS name`
    const terminate = Effect.gen(function*() {
      const ended = yield* other<{ readonly pid: number }>`
        SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = ${lock})
      `
      return ended.length
    })
    /** Marks the connection that runs it, so that only this test's connections are ended. */
    const lock = Number.parseInt(schema[0]?.name.slice(5, 12) ?? "0", 16)
    return { sql, other, terminate, mark: sql`SELECT pg_advisory_lock_shared(${lock})` }
  })

  it.live("statements and idle transactions are timed, and the address may say otherwise", () =>
    Effect.gen(function*() {
      const sql = yield* open(postgresUrl ?? "")
      assert.deepStrictEqual(yield* sql`SHOW statement_timeout`, [{ statement_timeout: "30s" }])
      assert.deepStrictEqual(yield* sql`SHOW idle_in_transaction_session_timeout`, [
        { idle_in_transaction_session_timeout: "1min" }
      ])
      const url = new URL(postgresUrl ?? "")
      url.searchParams.set("options", "-c statement_timeout=50")
      const hasty = yield* open(url.href)
      const error = yield* Effect.flip(hasty`SELECT pg_sleep(10)`)
      assert.strictEqual(error.reason._tag, "StatementTimeoutError")
      yield* Effect.provideService(Sql.ping, SqlClient.SqlClient, hasty)
    }))

  it.live("connections that the server ended are replaced", () =>
    Effect.gen(function*() {
      const { mark, sql, terminate } = yield* withTerminator
      yield* sql`CREATE TABLE numbers (n INTEGER)`
      for (let round = 0; round < 3; round++) {
        // Idle connections, and with them every connection that the pool has: marked by transactions that run at once.
        yield* Effect.all(Array.from({ length: 4 }, () => sql.withTransaction(mark)), { concurrency: "unbounded" })
        yield* mark
        assert.isAbove(yield* terminate, 0)
        // What was on its way may fail; after that everything works again, without anybody doing anything.
        yield* Effect.retry(sql`INSERT INTO numbers VALUES (${round})`, { times: 10 })
        yield* Effect.all(
          Array.from({ length: 100 }, () => sql`SELECT 1`),
          { concurrency: "unbounded", discard: true }
        )
        yield* sql.withTransaction(sql`SELECT 1`)
      }
      assert.deepStrictEqual(yield* sql`SELECT n FROM numbers ORDER BY n`, [{ n: 0 }, { n: 1 }, { n: 2 }])
    }))

  it.live("a transaction whose connection is ended fails and leaves nothing", () =>
    Effect.gen(function*() {
      const { mark, other, sql, terminate } = yield* withTerminator
      yield* sql`CREATE TABLE numbers (n INTEGER)`
      const inside = yield* Deferred.make<void>()
      const ended = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(sql.withTransaction(Effect.gen(function*() {
        yield* mark
        yield* sql`INSERT INTO numbers VALUES (1)`
        yield* Deferred.succeed(inside, undefined)
        yield* Deferred.await(ended)
        yield* sql`INSERT INTO numbers VALUES (2)`
      })))
      yield* Deferred.await(inside)
      assert.strictEqual(yield* terminate, 1)
      yield* Deferred.succeed(ended, undefined)
      assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
      assert.deepStrictEqual(yield* other`SELECT n FROM numbers`, [])
      yield* sql.withTransaction(sql`INSERT INTO numbers VALUES (3)`)
      assert.deepStrictEqual(yield* other`SELECT n FROM numbers`, [{ n: 3 }])
    }))

  it.live("a server that is down for a while fails what is asked meanwhile, and is found again", () =>
    Effect.gen(function*() {
      const way = yield* tcpProxy(yield* isolated(postgresUrl ?? ""), 5432)
      const sql = yield* open(way.url)
      const ping = Effect.provideService(Sql.ping, SqlClient.SqlClient, sql)
      for (let round = 0; round < 2; round++) {
        yield* ping
        yield* Effect.promise(() => way.cut())
        for (const use of [ping, sql`SELECT 1`, sql.withTransaction(sql`SELECT 1`)]) {
          assert.strictEqual((yield* Effect.flip(use)).reason._tag, "ConnectionError")
        }
        yield* Effect.promise(() => way.mend())
        yield* ping
        assert.deepStrictEqual(yield* sql.withTransaction(sql`SELECT 1 AS one`), [{ one: 1 }])
      }
    }))

  it.live("a server that says nothing any more fails the health check", () =>
    Effect.gen(function*() {
      const way = yield* tcpProxy(yield* isolated(postgresUrl ?? ""), 5432)
      const sql = yield* open(way.url)
      way.silence()
      const error = yield* Effect.flip(Effect.provideService(Sql.ping, SqlClient.SqlClient, sql))
      assert.include(error.message, "2 seconds")
      yield* Effect.promise(() => way.cut())
      yield* Effect.promise(() => way.mend())
      // The first may still find the connection that is just being cut.
      yield* Effect.retry(Effect.provideService(Sql.ping, SqlClient.SqlClient, sql), { times: 3 })
    }))
})
