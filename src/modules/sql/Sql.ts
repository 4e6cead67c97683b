/**
 * The database: one SQLite file, or PostgreSQL for many replicas, behind the same `SqlClient`. Statements that differ
 * between the two are chosen by `sql.onDialectOrElse`.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, SqlError } from "effect/sql"
import * as SqliteNode from "./SqliteNode.ts"

/** Connections to PostgreSQL from one process. Statements outside transactions share them. */
const maxConnections = 8
const connectTimeout = "5 seconds"
/** TCP finds out about a server that is gone without a word after this and ten further seconds. */
const keepAlive = "30 seconds"
/** PostgreSQL ends a statement that runs, or waits for a lock, for longer than this, ms. */
const statementTimeout = 30_000
/** PostgreSQL ends a transaction whose client is silent for longer than this, so that a stuck replica frees its locks, ms. */
const idleTransactionTimeout = 60_000
/** How long `ping` waits for an answer. */
const pingTimeout = "2 seconds"

const connectionError = (message: string, cause: unknown = new Error(message)): SqlError.SqlError =>
  new SqlError.SqlError({ reason: new SqlError.ConnectionError({ cause, message, operation: "connect" }) })

const refused = (message: string): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> =>
  Layer.effect(SqlClient.SqlClient, Effect.fail(connectionError(message)))

/** What an error of the network or the server says; one about several addresses says nothing itself. */
const saying = (cause: unknown): string => {
  if (cause instanceof AggregateError) return cause.errors.map(saying).join(", ")
  return cause instanceof Error ? cause.message : "no reason given"
}

/** An address without its password, for people. */
const placeOf = ({ hostname, pathname, port, searchParams, username }: URL): string => {
  const server = `${searchParams.get("host") ?? (hostname || "localhost")}:${
    searchParams.get("port") ?? (port || "5432")
  }`
  const database = searchParams.get("dbname") ?? pathname.slice(1)
  const user = searchParams.get("user") ?? username
  return `PostgreSQL at ${server}${database && `, database "${database}"`}${user && `, user "${user}"`}`
}

const unreachable = (place: string) => ({ reason }: SqlError.SqlError): SqlError.SqlError => {
  const { cause } = reason
  const message = `${place} cannot be used: ${
    saying(cause)
  }. Check storage.sql, and that the server runs and admits this user`
  const Reason = reason._tag === "AuthenticationError" ? SqlError.AuthenticationError : SqlError.ConnectionError
  return new SqlError.SqlError({ reason: new Reason({ cause, message, operation: "connect" }) })
}

const postgres = (url: Redacted.Redacted): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> => {
  const text = Redacted.value(url)
  const address = URL.parse(text)
  // With a bare `/`, `?` or `#` in the password, the user would be taken for the host and a part of the password for the
  // port. The parser's own error is kept from everybody, because it carries the whole address.
  if (address === null || (address.username === "" && text.includes("@"))) {
    return refused(
      "the address of PostgreSQL in storage.sql cannot be read. It has the form "
        + "postgres://user:password@host:5432/database, with characters such as / ? # @ % in the password percent-encoded"
    )
  }
  const options = address.searchParams.get("options") ?? ""
  return Layer.effect(
    SqlClient.SqlClient,
    Effect.gen(function*() {
      const client = yield* PgClient.make({
        url,
        maxConnections,
        multiplex: true,
        connectTimeout,
        keepAlive,
        applicationName: "llm-gateway",
        startupParameters: {
          ...(options.includes("statement_timeout") ? {} : { statement_timeout: String(statementTimeout) }),
          idle_in_transaction_session_timeout: String(idleTransactionTimeout)
        }
      })
      // Connections are made when they are needed; a wrong address is to be known at the start.
      yield* Effect.mapError(client`SELECT 1`, unreachable(placeOf(address)))
      return client
    })
  ).pipe(Layer.provide(Reactivity.layer))
}

/**
 * The database at `sqlite:PATH` (made where there is none; `sqlite::memory:` keeps nothing) or `postgres://…`. Fails where
 * it cannot be used, with a message that says where it is and what to do, and never with a password.
 */
export const layer = (url: Redacted.Redacted): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> => {
  const [, scheme, rest = ""] = /^([a-z]+):(.*)$/s.exec(Redacted.value(url)) ?? []
  switch (scheme) {
    case "sqlite":
      // `sqlite://data/gateway.db` would be the file /data/gateway.db, which hardly anybody means by it.
      return rest === "" || /^\/\/(?!\/)/.test(rest)
        ? refused(`storage.sql: write "sqlite:" and then the path of the file, such as sqlite:./data/gateway.db`)
        : SqliteNode.layer({ filename: rest })
    case "postgres":
    case "postgresql":
      return postgres(url)
    default:
      return refused("storage.sql takes sqlite:PATH, sqlite::memory: or postgres://user:password@host:5432/database")
  }
}

/** Asks the database for a sign of life; fails where none comes within two seconds. For `/health/ready`. */
export const ping: Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient> = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`SELECT 1`
}).pipe(Effect.timeoutOrElse({
  duration: pingTimeout,
  orElse: () => Effect.fail(connectionError(`the database did not answer within ${pingTimeout}`))
}))

export { migrate, type Migrations } from "./Migrations.ts"
