// A small `effect/sql` driver over node:sqlite (no @effect/sql-sqlite-node release matches effect 4.1 on this registry).
// One connection, serialized; node:sqlite is synchronous, so every statement blocks the event loop.
import { Context, Effect, Layer, Predicate, Semaphore, Stream } from "effect"
import { Reactivity } from "effect/reactivity"
import { Migrator, SqlClient, SqlError, Statement } from "effect/sql"
import type { SqlConnection } from "effect/sql"
import { DatabaseSync, type SQLInputValue } from "node:sqlite"

interface SqliteConnection extends SqlConnection.Connection {
  readonly db: DatabaseSync
}

// node:sqlite reports the numeric code as `errcode`; the classifier looks for `errno`.
const withErrno = (cause: unknown) =>
  Predicate.hasProperty(cause, "errcode") && Predicate.isNumber(cause.errcode)
    ? Object.assign(cause, { errno: cause.errcode })
    : cause

const makeConnection = (filename: string) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const db = new DatabaseSync(filename)
        db.exec("PRAGMA busy_timeout = 5000")
        if (filename !== ":memory:") db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        return db
      }),
      (db) => Effect.sync(() => db.close())
    ),
    (db): SqliteConnection => {
      const cache = new Map<string, ReturnType<DatabaseSync["prepare"]>>()
      const prepare = (sql: string) => {
        let statement = cache.get(sql)
        if (statement === undefined) {
          statement = db.prepare(sql)
          if (cache.size >= 256) cache.clear()
          cache.set(sql, statement)
        }
        return statement
      }
      const attempt = <A>(operation: string, f: (safeIntegers: boolean) => A) =>
        Effect.withFiber<A, SqlError.SqlError>((fiber) => {
          const safeIntegers = Context.get(fiber.context, SqlClient.SafeIntegers)
          return Effect.try({
            try: () => f(safeIntegers),
            catch: (cause) =>
              new SqlError.SqlError({
                reason: SqlError.classifySqliteError(withErrno(cause), {
                  message: `sqlite ${operation} failed`,
                  operation
                })
              })
          })
        })
      const rows = (
        sql: string,
        params: ReadonlyArray<unknown>,
        statement: (sql: string) => ReturnType<DatabaseSync["prepare"]>
      ) =>
        attempt("execute", (safeIntegers) => {
          const s = statement(sql)
          s.setReadBigInts(safeIntegers)
          if (s.columns().length > 0) return s.all(...params as Array<SQLInputValue>) as ReadonlyArray<any>
          s.run(...params as Array<SQLInputValue>)
          return []
        })
      const values = (
        sql: string,
        params: ReadonlyArray<unknown>,
        statement: (sql: string) => ReturnType<DatabaseSync["prepare"]>
      ) =>
        attempt("execute", (safeIntegers) => {
          const s = statement(sql)
          s.setReadBigInts(safeIntegers)
          s.setReturnArrays(true)
          try {
            return s.all(...params as Array<SQLInputValue>) as unknown as ReadonlyArray<ReadonlyArray<unknown>>
          } finally {
            s.setReturnArrays(false)
          }
        })
      const fresh = (sql: string) => db.prepare(sql)
      const transformed = (
        effect: Effect.Effect<ReadonlyArray<any>, SqlError.SqlError>,
        f: undefined | ((rows: ReadonlyArray<any>) => ReadonlyArray<any>)
      ) => f === undefined ? effect : Effect.map(effect, f)
      return {
        db,
        execute: (sql, params, f) => transformed(rows(sql, params, prepare), f),
        executeRaw: (sql, params) => attempt("execute", () => prepare(sql).run(...params as Array<SQLInputValue>)),
        executeValues: (sql, params) => values(sql, params, prepare),
        executeValuesUnprepared: (sql, params) => values(sql, params, fresh),
        executeUnprepared: (sql, params, f) => transformed(rows(sql, params, fresh), f),
        executeStream: (sql, params, f) =>
          Stream.unwrap(Effect.map(transformed(rows(sql, params, prepare), f), Stream.fromIterable))
      }
    }
  )

export const layer = (options: { readonly filename: string }): Layer.Layer<SqlClient.SqlClient> =>
  Layer.effect(
    SqlClient.SqlClient,
    Effect.gen(function*() {
      const connection = yield* makeConnection(options.filename)
      const semaphore = yield* Semaphore.make(1)
      const acquirers = SqlClient.makeSqliteAcquirers({
        connection: Effect.succeed(connection),
        semaphore,
        isTransaction: (c) => c.db.isTransaction
      })
      return yield* SqlClient.make({
        ...acquirers,
        driver: "sqlite-node",
        compiler: Statement.makeCompilerSqlite(),
        beginTransaction: "BEGIN IMMEDIATE",
        releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
        spanAttributes: [["db.system.name", "sqlite"]]
      })
    })
  ).pipe(Layer.provide(Reactivity.layer))

export const migrate = (migrations: Record<string, Effect.Effect<void, unknown, SqlClient.SqlClient>>) =>
  Layer.effectDiscard(Migrator.make({})({ loader: Migrator.fromRecord(migrations) }))
