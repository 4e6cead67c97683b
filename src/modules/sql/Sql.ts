/**
 * The database: one SQLite file, or PostgreSQL for many replicas, behind the same `SqlClient`. Statements that differ
 * between the two are chosen by `sql.onDialectOrElse`.
 */
import { PgClient } from "@effect/sql-pg"
import { type Effect, Layer, Redacted } from "effect"
import { Migrator, type SqlClient, type SqlError } from "effect/sql"
import * as SqliteNode from "./SqliteNode.ts"

/** Forward-only steps by name, such as `0001_keys`; each runs once, in the order of its number. */
export type Migrations = Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>>

/** The database at `sqlite:PATH` (`sqlite::memory:` keeps nothing) or `postgres://…`. */
export const layer = (url: Redacted.Redacted): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> => {
  const address = Redacted.value(url)
  return address.startsWith("sqlite:")
    ? SqliteNode.layer({ filename: address.slice("sqlite:".length) })
    : PgClient.layer({ url, maxConnections: 8, multiplex: true, applicationName: "llm-gateway" })
}

/** Brings the database's tables up to date, once, whichever of several replicas comes first. */
export const migrate = (migrations: Migrations) =>
  Layer.effectDiscard(Migrator.make({})({ loader: Migrator.fromRecord({ ...migrations }) }))
