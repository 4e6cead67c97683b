/**
 * Brings a database's tables up to date. Effect's `Migrator` is not used, because it runs only what has a higher number
 * than the last that ran: a part of the gateway that comes in later than one with a higher number would never get its
 * tables. Nor does it notice a database that is ahead of the program.
 */
import { Clock, Effect, Layer } from "effect"
import { Migrator, SqlClient, type SqlError } from "effect/sql"
import { logOf } from "../../sdk/Log.ts"

const log = logOf("sql")

/** How often SQLite's own wait for another process's lock (5 s) is begun again. */
const lockAttempts = 24

/** Forward-only steps by name, such as `0001_keys`; each runs once, in the order of its number. */
export type Migrations = Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>>

interface Step {
  readonly id: number
  readonly name: string
  readonly run: Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>
}

const failed = (kind: Migrator.MigrationError["kind"], message: string, cause?: unknown) =>
  new Migrator.MigrationError({ kind, message, cause })

const stepsOf = Effect.fnUntraced(function*(
  migrations: Migrations
): Effect.fn.Return<ReadonlyArray<Step>, Migrator.MigrationError> {
  const steps = new Map<number, Step>()
  for (const [name, run] of Object.entries(migrations)) {
    const id = Number(/^(\d+)_./.exec(name)?.[1])
    if (!Number.isSafeInteger(id)) return yield* failed("BadState", `the migration ${name} has no number`)
    const other = steps.get(id)
    if (other !== undefined) {
      return yield* failed("Duplicates", `the migrations ${other.name} and ${name} have the same number`)
    }
    steps.set(id, { id, name, run })
  }
  return [...steps.values()].sort((one, other) => one.id - other.id)
})

/**
 * Both databases undo changes of tables with the rest of a transaction, so that all steps are done or none. SQLite's
 * transactions begin with the lock on writing; PostgreSQL's get one that is theirs, for this schema.
 */
const lock = Effect.fnUntraced(function*(sql: SqlClient.SqlClient) {
  yield* sql.onDialectOrElse({
    pg: () =>
      Effect.andThen(
        sql`SET LOCAL statement_timeout = '10min'`,
        sql`SELECT pg_advisory_xact_lock(hashtextextended('llm-gateway migrations ' || current_schema(), 0))`
      ),
    orElse: () => Effect.void
  })
})

const applyMissing = Effect.fnUntraced(function*(steps: ReadonlyArray<Step>) {
  const sql = yield* SqlClient.SqlClient
  yield* lock(sql)
  // PostgreSQL refuses even `IF NOT EXISTS` to a user who may not create tables.
  const tables = yield* sql.onDialectOrElse({
    pg: () => sql`SELECT 1 WHERE to_regclass('gateway_migrations') IS NOT NULL`,
    orElse: () => sql`SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'gateway_migrations'`
  })
  if (tables.length === 0) {
    yield* sql`CREATE TABLE gateway_migrations (id INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)`
  }
  const applied = yield* sql<{ readonly id: number; readonly name: string }>`
    SELECT id, name FROM gateway_migrations ORDER BY id
  `
  const newest = applied.at(-1)
  const last = steps.at(-1)
  if (newest !== undefined && (last === undefined || newest.id > last.id)) {
    return yield* failed(
      "BadState",
      `the database is ahead of this program: it has had the migration ${newest.name}, and this version knows none after `
        + `${last === undefined ? "the start" : last.name}. Run a version of the gateway that has ${newest.name}, `
        + "or restore a copy of the database from before it"
    )
  }
  const names = new Map(applied.map(({ id, name }) => [id, name]))
  const done: Array<string> = []
  for (const { id, name, run } of steps) {
    const had = names.get(id)
    if (had === name) continue
    if (had !== undefined) {
      return yield* failed(
        "BadState",
        `the database has had the migration ${had}, and this version has ${name} in its place: it is another program's`
      )
    }
    yield* Effect.mapError(run, (cause) => failed("Failed", `the migration ${name} failed: ${cause.message}`, cause))
    const now = yield* Clock.currentTimeMillis
    yield* sql`INSERT INTO gateway_migrations ${sql.insert({ id, name, applied_at: now })}`
    done.push(name)
  }
  return done
})

/**
 * Brings the database's tables up to date, once, whichever of several replicas comes first; the others wait. All
 * migrations that the program has go in one record, whatever of it is switched on. Fails with a `MigrationError` where a
 * step fails, which undoes all steps, and where the database has had steps that come after the last one here.
 */
export const migrate = (
  migrations: Migrations
): Layer.Layer<never, Migrator.MigrationError | SqlError.SqlError, SqlClient.SqlClient> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const steps = yield* stepsOf(migrations)
    const done = yield* Effect.retry(sql.withTransaction(applyMissing(steps)), {
      while: (error) => error._tag === "SqlError" && error.reason._tag === "LockTimeoutError",
      times: lockAttempts
    })
    if (done.length > 0) yield* log.debug(`the database has had the migrations ${done.join(", ")}`)
  }))
