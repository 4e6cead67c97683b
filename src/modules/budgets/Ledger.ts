/**
 * What all ledgers of budgets have in common: which figures they take, how they say that a budget is used up, and that
 * they do not answer. Pure.
 *
 * Bounds: a limit of at most 9e15 nano-USD keeps what is spent and reserved below 2^53, where a double, and so a number of
 * JavaScript's and of Lua's, is exact. What was spent may pass its limit, for it is the truth: it stops counting at
 * 2^53 - 1, where every limit has long been passed.
 */
import type { Balance, BudgetAccount, Reservation, Settlement } from "../../sdk/Budgets.ts"
import {
  BudgetExceeded,
  fail,
  type GatewayError,
  invalid,
  StoreUnavailable,
  type ValidationError
} from "../../sdk/GatewayError.ts"

/** The highest limit that a budget may have, nano-USD: nine million USD. */
export const maxLimitNanoUsd = 9e15

/** What spent money adds up to at most, nano-USD. */
export const maxSpentNanoUsd = Number.MAX_SAFE_INTEGER

/** The longest key of an account or id of a reservation, UTF-16 units. PostgreSQL indexes keys of up to about 2,700 bytes. */
const maxKeyLength = 512

/** Accounts that one reservation may draw from. */
const maxAccounts = 256

/** The last moment of JavaScript's calendar, Unix ms. */
const maxTime = 8.64e15

/** Keys as every store can hold them: PostgreSQL takes no NUL, and UTF-8 no half of a surrogate pair. */
const isKey = (key: string): boolean =>
  key.length > 0 && key.length <= maxKeyLength && !key.includes("\0") && key.isWellFormed()

const isMoney = (nanoUsd: number): boolean => Number.isSafeInteger(nanoUsd) && nanoUsd >= 0

const isTime = (at: number): boolean => at >= 0 && at <= maxTime

/** What is wrong with an account. */
const accountProblem = ({ key, limitNanoUsd, resetsAt }: BudgetAccount): ValidationError | undefined => {
  if (!isKey(key)) return invalid("budget", `an account's key has 1 to ${maxKeyLength} characters, none of them NUL`)
  if (!isMoney(limitNanoUsd) || limitNanoUsd > maxLimitNanoUsd) {
    return invalid("limit_nano_usd", `must be an integer from 0 to ${maxLimitNanoUsd}`)
  }
  if (resetsAt !== undefined && !isTime(resetsAt)) return invalid("resets_at", "is not a time")
  return undefined
}

/** What is wrong with accounts that someone wants to see. */
export const accountsProblem = (accounts: ReadonlyArray<BudgetAccount>): ValidationError | undefined => {
  for (const account of accounts) {
    const problem = accountProblem(account)
    if (problem !== undefined) return problem
  }
  return undefined
}

/** What is wrong with a reservation. */
export const reservationProblem = (reservation: Reservation): ValidationError | undefined => {
  if (!isKey(reservation.id)) return invalid("id", `a reservation's id has 1 to ${maxKeyLength} characters, none NUL`)
  if (!isMoney(reservation.amountNanoUsd)) {
    return invalid("amount_nano_usd", "must be an integer of nano-USD, 0 or more")
  }
  if (!isTime(reservation.expiresAt)) return invalid("expires_at", "is not a time")
  if (reservation.accounts.length > maxAccounts) {
    return invalid("budget", `a reservation draws from at most ${maxAccounts} accounts`)
  }
  return accountsProblem(reservation.accounts)
}

/** What is wrong with settlements. Their accounts do not count: a settlement goes to those that were reserved in. */
export const settlementsProblem = (settlements: ReadonlyArray<Settlement>): ValidationError | undefined => {
  for (const { actualNanoUsd, id } of settlements) {
    if (!isKey(id)) return invalid("id", `a reservation's id has 1 to ${maxKeyLength} characters, none NUL`)
    if (!isMoney(actualNanoUsd)) return invalid("actual_nano_usd", "must be an integer of nano-USD, 0 or more")
  }
  return undefined
}

/**
 * The accounts without those that name another one's key again: a request that meets a budget twice draws from it once,
 * under the lower limit.
 */
export const distinctAccounts = (accounts: ReadonlyArray<BudgetAccount>): ReadonlyArray<BudgetAccount> => {
  let twice = false
  for (let index = 1; index < accounts.length && !twice; index++) {
    for (let earlier = 0; earlier < index && !twice; earlier++) {
      twice = accounts[earlier]?.key === accounts[index]?.key
    }
  }
  if (!twice) return accounts
  const byKey = new Map<string, BudgetAccount>()
  for (const account of accounts) {
    const known = byKey.get(account.key)
    if (known === undefined || account.limitNanoUsd < known.limitNanoUsd) byKey.set(account.key, account)
  }
  return Array.from(byKey.values())
}

/** The settlements without those that name another one's id again; the first counts. */
export const distinctSettlements = (settlements: ReadonlyArray<Settlement>): ReadonlyArray<Settlement> => {
  const ids = new Set<string>()
  return settlements.filter(({ id }) => ids.size < ids.add(id).size)
}

/** Whether an account can pay for it. What costs nothing passes, also where a budget is overdrawn. */
export const covers = (limitNanoUsd: number, spent: number, reserved: number, amount: number): boolean =>
  amount <= Math.max(0, limitNanoUsd - spent - reserved)

/** Two figures of spent money together, nano-USD. */
export const addSpent = (spent: number, more: number): number => Math.min(maxSpentNanoUsd, spent + more)

/** Nano-USD as people write USD, exactly: `500`, `0.40`, `0.000000001`. */
export const formatUsd = (nanoUsd: number): string => {
  const whole = Math.floor(nanoUsd / 1e9)
  const fraction = nanoUsd % 1e9
  if (fraction === 0) return String(whole)
  const decimals = String(fraction).padStart(9, "0").replace(/0+$/, "").padEnd(2, "0")
  return `${whole}.${decimals}`
}

/** The error that says which budget has too little left, and until when. */
export const exceeded = (account: BudgetAccount, spent: number, reserved: number, amount: number): GatewayError => {
  const left = Math.max(0, account.limitNanoUsd - spent - reserved)
  const limit = formatUsd(account.limitNanoUsd)
  const head = `the ${account.name} (${limit} USD) has ${formatUsd(left)} USD left`
  const demand = `this request may cost up to ${formatUsd(amount)} USD`
  if (account.resetsAt === undefined) {
    return fail(
      new BudgetExceeded({ message: `${head}, ${demand}; it does not start anew`, budget: account.name })
    )
  }
  const resets = new Date(account.resetsAt).toISOString().replace(".000Z", "Z")
  return fail(
    new BudgetExceeded({
      message: `${head}, ${demand}; it resets at ${resets}`,
      budget: account.name,
      resetsAt: account.resetsAt
    })
  )
}

/** The error of the first account that cannot pay, in the order of the reservation; `undefined` where all can. */
export const firstExceeded = (balances: ReadonlyArray<Balance>, amount: number): GatewayError | undefined => {
  for (const { account, reservedNanoUsd, spentNanoUsd } of balances) {
    if (!covers(account.limitNanoUsd, spentNanoUsd, reservedNanoUsd, amount)) {
      return exceeded(account, spentNanoUsd, reservedNanoUsd, amount)
    }
  }
  return undefined
}

/** The error of a ledger that cannot be asked. */
export const unavailable = (problem: string): GatewayError =>
  fail(new StoreUnavailable({ message: problem, store: "budgets" }))
