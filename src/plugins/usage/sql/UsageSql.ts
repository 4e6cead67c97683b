/**
 * The usage sink that keeps its records in the database, and the log that is read from it. Durable: what was written is
 * committed.
 */
import { Clock, Effect, Layer, Schedule } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { fail, StoreUnavailable } from "../../../sdk/GatewayError.ts"
import { logOf } from "../../../sdk/Log.ts"
import { UsageLog } from "../../../sdk/UsageLog.ts"
import { LedgerTransaction, SinkError, UsageSinkRegistry } from "../../../sdk/UsageSink.ts"
import * as UsageQueries from "./UsageQueries.ts"
import * as UsageTable from "./UsageTable.ts"

const log = logOf("records")

/** How records are kept. */
export interface UsageSqlOptions {
  /** Records that started longer ago are deleted, ms; absent: they are kept for ever. */
  readonly retentionMs?: number
}

/** The steps that make the tables; they have to have run before the layer is built. */
export const migrations = UsageTable.migrations

const sinkName = "sql"

const sinkError = (error: SqlError.SqlError): SinkError =>
  // The driver's own message may quote values, and a connection's may name its host.
  new SinkError({ sink: sinkName, message: `the database did not take the records (${error.reason._tag})` })

const unavailable = (error: SqlError.SqlError) =>
  Effect.andThen(
    log.error("the usage records could not be read", { reason: error.reason._tag, cause: error.reason.cause }),
    Effect.fail(fail(
      new StoreUnavailable({
        store: "usage",
        message: "the usage records cannot be read at the moment; try again later"
      })
    ))
  )

/** Records that are too old are looked for so often, ms; more often where they are kept for less than a day. */
const sweepEvery = 60 * 60_000
const minSweepEvery = 1000

const sweeping = (queries: UsageQueries.UsageQueries, retentionMs: number) => {
  const sweepAll = Effect.gen(function*() {
    const before = (yield* Clock.currentTimeMillis) - retentionMs
    while ((yield* queries.sweep(before)) > 0) yield* Effect.yieldNow
  }).pipe(
    Effect.catch((error) =>
      log.warning("old usage records could not be deleted; the next try is at the next sweep", {
        reason: error.reason._tag
      })
    )
  )
  return Effect.repeat(sweepAll, Schedule.spaced(Math.min(sweepEvery, Math.max(minSweepEvery, retentionMs / 24))))
}

/** Registers the sink for as long as its scope lives, and provides the log of what it keeps. */
export const layer = (
  options: UsageSqlOptions = {}
): Layer.Layer<UsageLog, never, SqlClient.SqlClient | UsageSinkRegistry> =>
  Layer.effect(
    UsageLog,
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const registry = yield* UsageSinkRegistry
      const write = UsageTable.writer(sql)
      const queries = UsageQueries.make(sql)
      yield* registry.register({
        name: sinkName,
        durable: true,
        write: (records) => Effect.mapError(write(records), sinkError)
      })
      if (options.retentionMs !== undefined) yield* Effect.forkScoped(sweeping(queries, options.retentionMs))
      return UsageLog.of({
        aggregate: (query) => Effect.catch(queries.aggregate(query), unavailable),
        costs: (ids) => Effect.catch(queries.costs(ids), unavailable)
      })
    })
  )

/**
 * Makes writing records and settling budgets one transaction of this layer's database. For a gateway that keeps both of
 * them there.
 */
export const ledgerTransaction: Layer.Layer<never, never, SqlClient.SqlClient> = Layer.effect(
  LedgerTransaction,
  Effect.map(
    SqlClient.SqlClient,
    (sql) => <A>(self: Effect.Effect<A, SinkError>): Effect.Effect<A, SinkError> =>
      Effect.catchTag(sql.withTransaction(self), "SqlError", (error) => Effect.fail(sinkError(error)))
  )
)
