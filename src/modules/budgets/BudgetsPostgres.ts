/**
 * Budgets of many replicas, in PostgreSQL: exact, and as durable as the usage records beside them. Reserving is one
 * statement; settling is one, and joins the transaction that it is called in, so that a record and what it cost are
 * committed together. So a reservation that has expired has no record, and its sweeping costs nothing; should its request
 * be settled all the same, because its replica was only slow, it counts then.
 *
 * A statement here never holds the locks of two calls, and all take them in the same order (see `Migrations.ts`). An
 * account serves one transaction after the other: what limits a busy one is how fast the database commits.
 */
import { Clock, Effect, Layer, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { type Balance, type BudgetAccount, Budgets, type Reservation } from "../../sdk/Budgets.ts"
import { fail, type GatewayError } from "../../sdk/GatewayError.ts"
import {
  accountsProblem,
  distinctSettlements,
  firstExceeded,
  maxSpentNanoUsd,
  settlementsProblem,
  unavailable
} from "./Ledger.ts"
import * as RemoteLedger from "./RemoteLedger.ts"

/** How long others wait for the ledger. */
export interface BudgetsPostgresOptions extends RemoteLedger.RemoteLedgerOptions {}

/** Reservations that one sweep settles. */
const sweepAtOnce = 500
/** How long an account is kept after its window has ended, and a reservation after it has expired, ms: a week. */
const keepFor = 7 * 86_400_000
/** Accounts that are removed at once. */
const removeAtOnce = 1_000
/** Time between two removals of accounts of past windows, ms. */
const removeEvery = 3_600_000

/** Stands for a time that never comes: arrays of parameters have no nulls. */
const never = -1n

const ReserveRows = Schema.Tuple([
  Schema.Struct({
    applied: Schema.Boolean,
    spent: Schema.Array(Schema.Finite),
    reserved: Schema.Array(Schema.Finite)
  })
])
const BalanceRows = Schema.Array(
  Schema.Struct({ account_key: Schema.String, spent: Schema.Finite, reserved: Schema.Finite })
)
const CountRows = Schema.Tuple([Schema.Struct({ count: Schema.Int })])
const decodeReserve = Schema.decodeUnknownEffect(ReserveRows)
const decodeBalances = Schema.decodeUnknownEffect(BalanceRows)
const decodeCount = Schema.decodeUnknownEffect(CountRows)

/** The ledger in PostgreSQL; its tables come from `migrations`. */
export const layer = (
  options: BudgetsPostgresOptions = {}
): Layer.Layer<Budgets, never, SqlClient.SqlClient> =>
  Layer.effect(
    Budgets,
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const report = RemoteLedger.outages("PostgreSQL", yield* Clock.Clock)
      const down = (error: SqlError.SqlError | Schema.SchemaError) => report(RemoteLedger.detail(error))
      const patience = BigInt(options.timeoutMs ?? 500)

      const remote = yield* RemoteLedger.make("PostgreSQL", {
        reserve: ({ accounts, amountNanoUsd, expiresAt, id }: Reservation, operation) =>
          sql`SELECT applied, spent, reserved FROM budget_reserve(
            ${id}, ${operation}, ${accounts.map(({ key }) => key)},
            ${accounts.map(({ limitNanoUsd }) => BigInt(limitNanoUsd))},
            ${accounts.map(({ resetsAt }) => resetsAt === undefined ? never : BigInt(Math.ceil(resetsAt)))},
            ${BigInt(amountNanoUsd)}, ${BigInt(Math.ceil(expiresAt))}, ${patience}
          )`.pipe(
            Effect.flatMap(decodeReserve),
            Effect.catch(down),
            Effect.flatMap(([{ applied, reserved, spent }]) => {
              const balances = accounts.map((account, index): Balance => ({
                account,
                spentNanoUsd: spent[index] ?? 0,
                reservedNanoUsd: reserved[index] ?? 0
              }))
              if (applied) return Effect.succeed(balances)
              return Effect.fail(
                firstExceeded(balances, amountNanoUsd) ?? unavailable("the budget store contradicts itself")
              )
            })
          ),
        undo: ({ accounts, amountNanoUsd, id }, operation) =>
          sql`SELECT budget_undo(${id}, ${operation}, ${accounts.map(({ key }) => key)}, ${BigInt(amountNanoUsd)})`
            .pipe(
              Effect.catch(down)
            ),
        sweep: sql`SELECT budget_sweep(${sweepAtOnce}) AS count`.pipe(
          Effect.flatMap(decodeCount),
          Effect.map(([{ count }]) => count),
          Effect.catch(down)
        )
      }, options)

      const removeAccounts = sql`WITH gone AS (
        DELETE FROM budget_accounts WHERE account_key IN (
          SELECT account_key FROM budget_accounts
          WHERE resets_at < extract(epoch FROM clock_timestamp()) * 1000 - ${BigInt(keepFor)} AND reserved = 0
          ORDER BY account_key LIMIT ${removeAtOnce} FOR UPDATE SKIP LOCKED
        ) RETURNING 1
      ) SELECT count(*)::INTEGER AS count FROM gone`
      const removeReservations = sql`WITH gone AS (
        DELETE FROM budget_reservations WHERE id IN (
          SELECT id FROM budget_reservations
          WHERE released AND expires_at < extract(epoch FROM clock_timestamp()) * 1000 - ${BigInt(keepFor)}
          ORDER BY id LIMIT ${removeAtOnce} FOR UPDATE SKIP LOCKED
        ) RETURNING 1
      ) SELECT count(*)::INTEGER AS count FROM gone`
      const removeAll = (some: typeof removeAccounts): Effect.Effect<void, SqlError.SqlError | Schema.SchemaError> =>
        Effect.flatMap(
          Effect.flatMap(some, decodeCount),
          ([{ count }]) => count < removeAtOnce ? Effect.void : Effect.suspend(() => removeAll(some))
        )
      yield* Effect.forEach([removeReservations, removeAccounts], (some) => Effect.ignore(removeAll(some)), {
        discard: true
      }).pipe(Effect.andThen(Effect.sleep(removeEvery)), Effect.forever, Effect.forkScoped)

      const balances = Effect.fn("Budgets.balances")(
        function*(accounts: ReadonlyArray<BudgetAccount>): Effect.fn.Return<ReadonlyArray<Balance>, GatewayError> {
          const problem = accountsProblem(accounts)
          if (problem !== undefined) return yield* fail(problem)
          if (accounts.length === 0) return []
          const rows = yield* sql`SELECT account_key, spent::DOUBLE PRECISION AS spent,
            reserved::DOUBLE PRECISION AS reserved
            FROM budget_accounts WHERE account_key = ANY(${accounts.map(({ key }) => key)})`.pipe(
            Effect.flatMap(decodeBalances),
            Effect.catch(down),
            remote.within
          )
          const byKey = new Map(rows.map((row) => [row.account_key, row]))
          return accounts.map((account): Balance => {
            const row = byKey.get(account.key)
            return { account, spentNanoUsd: row?.spent ?? 0, reservedNanoUsd: row?.reserved ?? 0 }
          })
        }
      )

      return Budgets.of({
        reserve: remote.reserve,
        balances,
        settle: (settlements) =>
          Effect.suspend(() => {
            const problem = settlementsProblem(settlements)
            if (problem !== undefined) return Effect.fail(fail(problem))
            if (settlements.length === 0) return Effect.void
            const distinct = distinctSettlements(settlements)
            return sql`SELECT budget_settle(
              ${distinct.map(({ id }) => id)},
              ${distinct.map(({ actualNanoUsd }) => BigInt(Math.min(maxSpentNanoUsd, actualNanoUsd)))}
            )`.pipe(Effect.catch(down), Effect.asVoid, remote.within)
          })
      })
    })
  )
