/**
 * Budgets of one process, forgotten when it ends: for tests, for an embedding app, and where limits need not outlive a
 * restart.
 */
import { Clock, Effect, Layer } from "effect"
import { type Balance, type BudgetAccount, Budgets, type Reservation, type Settlement } from "../../sdk/Budgets.ts"
import { fail, type GatewayError } from "../../sdk/GatewayError.ts"
import { AccountBook, balance } from "./AccountBook.ts"
import {
  accountsProblem,
  distinctAccounts,
  exceeded,
  reservationProblem,
  settlementsProblem,
  unavailable
} from "./Ledger.ts"

/** What the ledger holds at most. */
export interface BudgetsMemoryOptions {
  /**
   * Accounts; an account of a past window is forgotten an hour after it. Where there are more, a request that needs
   * another one fails with `store_unavailable`, because forgetting what was spent would let it be spent again.
   * Default: 200,000, about 40 MB.
   */
  readonly maxAccounts?: number
}

/** The ledger in memory. */
export const layer = (options: BudgetsMemoryOptions = {}): Layer.Layer<Budgets> =>
  Layer.effect(
    Budgets,
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const book = new AccountBook({ maxAccounts: options.maxAccounts ?? 200_000, readAgain: false })

      const reserve = (reservation: Reservation): ReadonlyArray<Balance> | GatewayError => {
        const problem = reservationProblem(reservation)
        if (problem !== undefined) return fail(problem)
        const now = clock.currentTimeMillisUnsafe()
        book.expire(now)
        const accounts = distinctAccounts(reservation.accounts)
        const entries = book.findOrOpen(accounts, now)
        if (entries === undefined || !book.hasRoom()) {
          return unavailable("the budgets' memory is full; configure a database for them")
        }
        const short = book.short(accounts, entries, reservation.amountNanoUsd)
        const account = accounts[short]
        const entry = entries[short]
        if (account !== undefined && entry !== undefined) {
          return exceeded(account, entry.spent, entry.reserved, reservation.amountNanoUsd)
        }
        book.reserve(reservation, entries)
        return accounts.map((account, index) => balance(account, entries[index]))
      }

      const settle = (settlements: ReadonlyArray<Settlement>): GatewayError | undefined => {
        const problem = settlementsProblem(settlements)
        if (problem !== undefined) return fail(problem)
        for (const { actualNanoUsd, id } of settlements) {
          const held = book.held(id)
          if (held !== undefined) book.settle(held, actualNanoUsd)
        }
        return undefined
      }

      return Budgets.of({
        reserve: (reservation) =>
          Effect.suspend(() => {
            const result = reserve(reservation)
            return "reason" in result ? Effect.fail(result) : Effect.succeed(result)
          }),
        settle: (settlements) =>
          Effect.suspend(() => {
            const error = settle(settlements)
            return error === undefined ? Effect.void : Effect.fail(error)
          }),
        balances: (accounts: ReadonlyArray<BudgetAccount>) =>
          Effect.suspend(() => {
            const problem = accountsProblem(accounts)
            if (problem !== undefined) return Effect.fail(fail(problem))
            book.expire(clock.currentTimeMillisUnsafe())
            return Effect.succeed(accounts.map((account) => balance(account, book.get(account.key))))
          })
      })
    })
  )
