/**
 * Accounts and reservations of one process, in memory. Every method runs to its end without waiting, so that nothing comes
 * between a check and what it allows.
 *
 * Bounded: with each new account a few others are looked at, and those are forgotten that nobody can miss.
 */
import type { Balance, BudgetAccount, Reservation } from "../../sdk/Budgets.ts"
import { addSpent, covers } from "./Ledger.ts"

/** An account. */
export interface Entry {
  readonly key: string
  /** When its window ends, Unix ms; `undefined` for one that never does. */
  resetsAt: number | undefined
  spent: number
  reserved: number
  /** Reservations that draw from it, those of nothing included. */
  holds: number
  /** Whether it was used since it was last looked at. */
  used: boolean
}

/** A reservation. */
export interface Held {
  readonly id: string
  readonly parts: Array<{ readonly entry: Entry; amount: number }>
  /** Unix ms. */
  expiresAt: number
  /** The settlement that was last tried and whose outcome is not known. */
  claim?: number
}

/** What an account book holds at most, and what it may forget. */
export interface AccountBookOptions {
  readonly maxAccounts: number
  /** Whether an account that nothing is reserved in can be forgotten at any time, because it can be read again. */
  readonly readAgain: boolean
}

/** Expired reservations that are remembered, in case that they are settled after all. */
const maxLate = 10_000

/** Reservations at the same time. More than any node serves; one that is never settled stays only until it expires. */
const maxReservations = 500_000

/**
 * How long an account is kept after its window has ended, ms: a clock that jumps back by less finds what was spent.
 */
const keepFor = 3_600_000

/** Accounts that are looked at for each one that comes. */
const looks = 4
/** Accounts that are looked at for one that comes when the book is full. */
const looksWhenFull = 64

/** An account book. */
export class AccountBook {
  readonly #options: AccountBookOptions
  readonly #entries = new Map<string, Entry>()
  readonly #held = new Map<string, Held>()
  /** Reservations that have expired: they hold nothing, but their accounts stay, and they can be settled. */
  readonly #late = new Map<string, Held>()
  /** Goes through the accounts again and again; a map's iterator lives with what is added and removed. */
  #cursor: Iterator<Entry> = [][Symbol.iterator]()
  /** No reservation expires before, Unix ms. */
  #earliest = Infinity

  constructor(options: AccountBookOptions) {
    this.#options = options
  }

  /** The account with this key. */
  get(key: string): Entry | undefined {
    return this.#entries.get(key)
  }

  /** The accounts that a reservation is going to draw from; `undefined` where one of them is not in the book. */
  find(accounts: ReadonlyArray<BudgetAccount>): ReadonlyArray<Entry> | undefined {
    const entries: Array<Entry> = []
    for (const account of accounts) {
      const entry = this.#entries.get(account.key)
      if (entry === undefined) return undefined
      entry.used = true
      entry.resetsAt = account.resetsAt
      entries.push(entry)
    }
    return entries
  }

  /** As `find`, but opens those that are not there; `undefined` where the book is full of what cannot be forgotten. */
  findOrOpen(accounts: ReadonlyArray<BudgetAccount>, now: number): ReadonlyArray<Entry> | undefined {
    const found = this.find(accounts)
    if (found !== undefined) return found
    const entries: Array<Entry> = []
    for (const account of accounts) {
      const entry = this.#entries.get(account.key) ?? this.open(account, 0, now)
      if (entry === undefined) break
      // Held, lest opening the next one forgets it.
      entry.holds++
      entries.push(entry)
    }
    for (const entry of entries) entry.holds--
    return entries.length === accounts.length ? entries : undefined
  }

  /** The reservation with this id, also one that has expired. */
  held(id: string): Held | undefined {
    return this.#held.get(id) ?? this.#late.get(id)
  }

  /** Opens an account; `undefined` where the book is full of accounts that cannot be forgotten. */
  open(account: { readonly key: string; readonly resetsAt?: number }, spent: number, now: number): Entry | undefined {
    this.#look(looks, now)
    if (this.#entries.size >= this.#options.maxAccounts) this.#look(looksWhenFull, now)
    if (this.#entries.size >= this.#options.maxAccounts) return undefined
    const entry: Entry = { key: account.key, resetsAt: account.resetsAt, spent, reserved: 0, holds: 0, used: true }
    this.#entries.set(account.key, entry)
    return entry
  }

  /** Whether one more reservation has room. */
  hasRoom(): boolean {
    return this.#held.size < maxReservations
  }

  #look(times: number, now: number): void {
    const full = this.#entries.size >= this.#options.maxAccounts
    for (let look = 0; look < times; look++) {
      let next = this.#cursor.next()
      if (next.done === true) {
        this.#cursor = this.#entries.values()
        next = this.#cursor.next()
        if (next.done === true) return
      }
      const entry = next.value
      if (entry.holds > 0) continue
      const past = entry.resetsAt !== undefined && entry.resetsAt + keepFor <= now
      if (past || (full && (this.#options.readAgain ? !entry.used : entry.spent === 0))) {
        this.#entries.delete(entry.key)
      } else {
        entry.used = false
      }
    }
  }

  /** Gives back what expired reservations hold. */
  expire(now: number): void {
    if (now < this.#earliest) return
    let earliest = Infinity
    for (const held of this.#held.values()) {
      if (held.expiresAt <= now) this.#release(held)
      else earliest = Math.min(earliest, held.expiresAt)
    }
    this.#earliest = earliest
  }

  #release(held: Held): void {
    this.#held.delete(held.id)
    this.#late.set(held.id, held)
    for (const part of held.parts) {
      part.entry.reserved -= part.amount
      part.amount = 0
    }
    if (this.#late.size <= maxLate) return
    for (const [id, { parts }] of this.#late) {
      this.#late.delete(id)
      for (const { entry } of parts) entry.holds--
      return
    }
  }

  /** Which of the accounts cannot pay, by its place; -1 where all can. */
  short(accounts: ReadonlyArray<BudgetAccount>, entries: ReadonlyArray<Entry>, amount: number): number {
    for (let index = 0; index < accounts.length; index++) {
      const account = accounts[index]
      const entry = entries[index]
      if (account === undefined || entry === undefined) continue
      if (!covers(account.limitNanoUsd, entry.spent, entry.reserved, amount)) return index
    }
    return -1
  }

  /** Sets money aside, or more of it under the same id. */
  reserve(reservation: Reservation, entries: ReadonlyArray<Entry>): void {
    const { amountNanoUsd, expiresAt, id } = reservation
    const known = this.held(id)
    const held: Held = known ?? { id, parts: [], expiresAt }
    this.#late.delete(id)
    this.#held.set(id, held)
    held.expiresAt = Math.max(held.expiresAt, expiresAt)
    this.#earliest = Math.min(this.#earliest, expiresAt)
    for (const entry of entries) {
      entry.reserved += amountNanoUsd
      const part = known?.parts.find((part) => part.entry === entry)
      if (part === undefined) {
        entry.holds++
        held.parts.push({ entry, amount: amountNanoUsd })
      } else {
        part.amount += amountNanoUsd
      }
    }
  }

  /** Replaces a reservation by what was spent. */
  settle(held: Held, actual: number): void {
    const known = this.held(held.id) === held
    this.#held.delete(held.id)
    this.#late.delete(held.id)
    for (const { amount, entry } of held.parts) {
      if (known) {
        entry.reserved -= amount
        entry.holds--
      }
      entry.spent = addSpent(entry.spent, actual)
    }
  }
}

/** How an account stands; one without an entry was never used. */
export const balance = (account: BudgetAccount, entry: Entry | undefined): Balance => ({
  account,
  spentNanoUsd: entry?.spent ?? 0,
  reservedNanoUsd: entry?.reserved ?? 0
})
