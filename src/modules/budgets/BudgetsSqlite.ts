/**
 * Budgets of one node, which survive a restart. What was spent is in the database, what is reserved in this process's
 * memory: a process that dies takes its requests with it, and after a restart nothing is reserved. The figures of an
 * account are read when it is first used, and then kept; so only one process may use the file.
 *
 * Settling writes all that was spent in one transaction, which may be part of a larger one, and the memory follows when
 * that is committed. Nobody says when it is rolled back. So each settlement leaves its number in the database, in the same
 * transaction: where a reservation is settled again whose last settlement had no known end, the number tells whether it
 * was committed. One connection writes, so by then the other transaction has ended, or encloses this one.
 */
import { Array as Arr, Clock, Deferred, Effect, Exit, Layer, Queue, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { type Balance, type BudgetAccount, Budgets, type Reservation, type Settlement } from "../../sdk/Budgets.ts"
import { fail, type GatewayError } from "../../sdk/GatewayError.ts"
import { AccountBook, balance, type Entry, type Held } from "./AccountBook.ts"
import {
  accountsProblem,
  addSpent,
  distinctAccounts,
  distinctSettlements,
  exceeded,
  maxSpentNanoUsd,
  reservationProblem,
  settlementsProblem,
  unavailable
} from "./Ledger.ts"
import { detail, outages } from "./RemoteLedger.ts"

/** What the ledger keeps in memory, and how long others wait for it. */
export interface BudgetsSqliteOptions {
  /** What a request waits at most for accounts that are not in memory yet; then `store_unavailable`. Default: 500 ms. */
  readonly timeoutMs?: number
  /** Accounts that are kept in memory; beyond it, those that are not in use are read again. Default: 100,000, about 20 MB. */
  readonly maxAccounts?: number
}

/** Keys in one statement: SQLite takes 32,766 parameters. */
const keysAtOnce = 500
/** How long a reservation that someone tries to settle does not expire: the database may be busy or full, ms. */
const settleAgainFor = 600_000
/** How long an account is kept after its window has ended, ms: a week. */
const keepFor = 7 * 86_400_000
/** Time between two removals of accounts of past windows, ms. */
const removeEvery = 3_600_000

/** Accounts that may wait to be read. */
const maxWanted = 10_000

// Drivers differ in what they give for a BIGINT.
const Integer = Schema.Union([Schema.Int, Schema.BigInt])
const decodeAccounts = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ account_key: Schema.String, spent: Integer }))
)
const decodeNumbers = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ number: Integer })))

const chunks = <A>(values: ReadonlyArray<A>): ReadonlyArray<Arr.NonEmptyReadonlyArray<A>> =>
  Arr.chunksOf(values, keysAtOnce).filter(Arr.isReadonlyArrayNonEmpty)

/** The ledger in SQLite; its tables come from `migrations`. */
export const layer = (options: BudgetsSqliteOptions = {}): Layer.Layer<Budgets, never, SqlClient.SqlClient> =>
  Layer.effect(
    Budgets,
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const clock = yield* Clock.Clock
      const report = outages("SQLite", clock)
      const down = (error: SqlError.SqlError | Schema.SchemaError) => report(detail(error))
      const timeoutMs = options.timeoutMs ?? 500
      const book = new AccountBook({ maxAccounts: options.maxAccounts ?? 100_000, readAgain: true })
      const process = crypto.randomUUID()

      const readSpent = Effect.fnUntraced(
        function*(keys: ReadonlyArray<string>) {
          const spent = new Map<string, number>()
          for (const chunk of chunks(keys)) {
            const rows = yield* Effect.flatMap(
              sql`SELECT account_key, spent FROM budget_accounts WHERE ${sql.in("account_key", chunk)}`,
              decodeAccounts
            )
            for (const row of rows) spent.set(row.account_key, Number(row.spent))
          }
          return spent
        },
        Effect.catch(down)
      )

      // One fiber reads, so that what it reads cannot be older than what another one has put into the book; and all that
      // wait while it does are read together.
      const work = yield* Queue.sliding<void>(1)
      let wanted = new Map<string, BudgetAccount>()
      let read = Deferred.makeUnsafe<void, GatewayError>()
      const reading = Effect.gen(function*() {
        yield* Queue.take(work)
        const [accounts, done] = [wanted, read]
        wanted = new Map()
        read = Deferred.makeUnsafe()
        const keys = Array.from(accounts.keys()).filter((key) => book.get(key) === undefined)
        const exit = yield* Effect.exit(readSpent(keys))
        const now = clock.currentTimeMillisUnsafe()
        if (Exit.isSuccess(exit)) {
          for (const key of keys) {
            const account = accounts.get(key)
            if (account !== undefined) book.open(account, exit.value.get(key) ?? 0, now)
          }
        }
        Deferred.doneUnsafe(done, Exit.asVoid(exit))
      })
      yield* Effect.forkScoped(Effect.forever(reading))

      const open = (accounts: ReadonlyArray<BudgetAccount>): Effect.Effect<void, GatewayError> => {
        if (wanted.size > maxWanted) return Effect.fail(unavailable("the budget store (SQLite) does not answer"))
        for (const account of accounts) wanted.set(account.key, account)
        Queue.offerUnsafe(work, undefined)
        return Deferred.await(read)
      }

      const draw = (
        reservation: Reservation,
        accounts: ReadonlyArray<BudgetAccount>,
        entries: ReadonlyArray<Entry>
      ): Effect.Effect<ReadonlyArray<Balance>, GatewayError> => {
        if (!book.hasRoom()) return Effect.fail(unavailable("too many reservations at the same time"))
        const short = book.short(accounts, entries, reservation.amountNanoUsd)
        const account = accounts[short]
        const entry = entries[short]
        if (account !== undefined && entry !== undefined) {
          return Effect.fail(exceeded(account, entry.spent, entry.reserved, reservation.amountNanoUsd))
        }
        book.reserve(reservation, entries)
        return Effect.succeed(accounts.map((account, index) => balance(account, entries[index])))
      }

      const reserve = (reservation: Reservation): Effect.Effect<ReadonlyArray<Balance>, GatewayError> =>
        Effect.suspend(() => {
          const problem = reservationProblem(reservation)
          if (problem !== undefined) return Effect.fail(fail(problem))
          book.expire(clock.currentTimeMillisUnsafe())
          const accounts = distinctAccounts(reservation.accounts)
          const entries = book.find(accounts)
          if (entries !== undefined) return draw(reservation, accounts, entries)
          return open(accounts).pipe(
            Effect.timeoutOrElse({
              duration: timeoutMs,
              orElse: () => report("the accounts were not read in time")
            }),
            Effect.flatMap(() => {
              const entries = book.find(accounts)
              return entries === undefined
                ? Effect.fail(unavailable("the budgets' memory is full of accounts that are in use"))
                : draw(reservation, accounts, entries)
            })
          )
        })

      let settlements = 0
      /** Numbers of committed settlements that nobody can ask for any more. */
      let settled: ReadonlyArray<number> = []

      const write = Effect.fnUntraced(function*(batch: ReadonlyArray<Settlement>) {
        const open = new Set<number>()
        for (const { id } of batch) {
          const claim = book.held(id)?.claim
          if (claim !== undefined) open.add(claim)
        }
        const committed = new Set<number>()
        if (open.size > 0) {
          const rows = yield* Effect.flatMap(
            sql`SELECT number FROM budget_settlements
              WHERE process = ${process} AND ${sql.in("number", Array.from(open))}`,
            decodeNumbers
          )
          for (const { number } of rows) committed.add(Number(number))
        }

        const number = ++settlements
        const until = clock.currentTimeMillisUnsafe() + settleAgainFor
        const claimed: Array<{ readonly held: Held; readonly actual: number }> = []
        const spent = new Map<Entry, number>()
        for (const { actualNanoUsd, id } of batch) {
          const held = book.held(id)
          if (held === undefined || (held.claim !== undefined && committed.has(held.claim))) continue
          held.claim = number
          held.expiresAt = Math.max(held.expiresAt, until)
          claimed.push({ held, actual: actualNanoUsd })
          if (actualNanoUsd === 0) continue
          for (const { entry } of held.parts) spent.set(entry, addSpent(spent.get(entry) ?? 0, actualNanoUsd))
        }
        if (claimed.length === 0) return

        const rows = Array.from(spent, ([entry, more]) => ({
          account_key: entry.key,
          spent: more,
          resets_at: entry.resetsAt ?? null
        }))
        for (const chunk of chunks(rows)) {
          yield* sql`INSERT INTO budget_accounts ${sql.insert(chunk)} ON CONFLICT (account_key)
            DO UPDATE SET spent = min(spent + excluded.spent, ${maxSpentNanoUsd}), resets_at = excluded.resets_at`
        }
        const forget = settled.slice(0, keysAtOnce)
        yield* sql`DELETE FROM budget_settlements WHERE process <> ${process}`
        if (forget.length > 0) {
          yield* sql`DELETE FROM budget_settlements WHERE process = ${process} AND ${sql.in("number", forget)}`
        }
        yield* sql`INSERT INTO budget_settlements ${sql.insert({ process, number })}`

        yield* sql.afterCommit(Effect.sync(() => {
          for (const { actual, held } of claimed) if (held.claim === number) book.settle(held, actual)
          settled = [...settled.filter((other) => !forget.includes(other)), number]
        }))
      })

      const settle = (batch: ReadonlyArray<Settlement>): Effect.Effect<void, GatewayError> =>
        Effect.suspend(() => {
          const problem = settlementsProblem(batch)
          if (problem !== undefined) return Effect.fail(fail(problem))
          const live = distinctSettlements(batch).filter(({ id }) => book.held(id) !== undefined)
          if (live.some(({ actualNanoUsd, id }) => actualNanoUsd > 0 || book.held(id)?.claim !== undefined)) {
            return Effect.catch(sql.withTransaction(write(live)), down)
          }
          // To give back is nothing that the database knows of.
          for (const { id } of live) {
            const held = book.held(id)
            if (held !== undefined) book.settle(held, 0)
          }
          return Effect.void
        })

      const balances = Effect.fn("Budgets.balances")(
        function*(accounts: ReadonlyArray<BudgetAccount>): Effect.fn.Return<ReadonlyArray<Balance>, GatewayError> {
          const problem = accountsProblem(accounts)
          if (problem !== undefined) return yield* fail(problem)
          book.expire(clock.currentTimeMillisUnsafe())
          const keys = accounts.map(({ key }) => key).filter((key) => book.get(key) === undefined)
          const spent = yield* readSpent(keys)
          return accounts.map((account) => {
            const entry = book.get(account.key)
            if (entry !== undefined) return balance(account, entry)
            return { account, spentNanoUsd: spent.get(account.key) ?? 0, reservedNanoUsd: 0 }
          })
        }
      )

      const remove = Effect.suspend(() =>
        sql`DELETE FROM budget_accounts WHERE resets_at < ${clock.currentTimeMillisUnsafe() - keepFor}`
      )
      yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(removeEvery), Effect.ignore(remove))))

      return Budgets.of({ reserve, settle, balances })
    })
  )
