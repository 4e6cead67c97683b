/**
 * The ledger of what tenants spend, in memory or shared by many replicas. Before a provider is called, the worst case is
 * reserved; after it, the truth is settled. In each account, at every instant, spent + reserved <= limit holds for all
 * that was reserved, whatever runs in parallel. What was spent has nothing to do with configuration: changing a limit does not touch it.
 *
 * Money is an integer of nano-USD.
 */
import { Context, type Effect } from "effect"
import type { GatewayError } from "./GatewayError.ts"

/** One pot of money: a budget of someone, in one of its windows. */
export interface BudgetAccount {
  /** Names the account: whose it is, what it is per, and the window with its start. The limit is no part of it. */
  readonly key: string
  /** What it is to callers, such as `month budget of tenant acme`. */
  readonly name: string
  /** Limit that holds now; it may have changed since money was spent. */
  readonly limitNanoUsd: number
  /** When the next window starts, Unix ms; absent for one that never does. */
  readonly resetsAt?: number
}

/** Money that is set aside for one request, in each of its accounts. */
export interface Reservation {
  /** Unique among all requests of all replicas. */
  readonly id: string
  readonly accounts: ReadonlyArray<BudgetAccount>
  readonly amountNanoUsd: number
  /** Unix ms after which the request cannot be running any more, so that its replica must have died. */
  readonly expiresAt: number
}

/** What a request really cost; 0 gives all of its reservation back. */
export interface Settlement {
  readonly id: string
  /** For the reader: what counts are the accounts that the reservation drew from. */
  readonly accounts: ReadonlyArray<BudgetAccount>
  readonly actualNanoUsd: number
}

/** How an account stands. */
export interface Balance {
  readonly account: BudgetAccount
  readonly spentNanoUsd: number
  readonly reservedNanoUsd: number
}

/** The accounts. */
export class Budgets extends Context.Service<Budgets, {
  /**
   * Sets money aside in all of the accounts, or in none; a second reservation with the same id adds to the first. Gives
   * the balances after it. Fails with `budget_exceeded`, which names the first account that has too little left, with
   * `store_unavailable`, after which nothing stays reserved by this call, and with `validation_error` for figures that are
   * no money and keys that no store holds. What costs nothing passes, also where a budget is overdrawn.
   */
  readonly reserve: (reservation: Reservation) => Effect.Effect<ReadonlyArray<Balance>, GatewayError>
  /**
   * Replaces reservations by what was spent, be it more than was reserved. Each counts once, however often it is settled,
   * and also when it has expired meanwhile; an id that was never reserved counts nothing. Fails with `store_unavailable`:
   * settle all of them again, for some may have been settled. Fails with `validation_error` for a figure that is no money,
   * and then none of them is settled, nor ever will be.
   */
  readonly settle: (settlements: ReadonlyArray<Settlement>) => Effect.Effect<void, GatewayError>
  /** How the accounts stand. Fails with `store_unavailable`. */
  readonly balances: (
    accounts: ReadonlyArray<BudgetAccount>
  ) => Effect.Effect<ReadonlyArray<Balance>, GatewayError>
}>()("llm-gateway/sdk/Budgets") {}
