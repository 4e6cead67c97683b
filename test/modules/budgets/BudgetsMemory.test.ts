/** The ledger in memory: what it forgets, and when. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as BudgetsMemory from "../../../src/modules/budgets/BudgetsMemory.ts"
import { Budgets } from "../../../src/sdk/Budgets.ts"
import { account, figures } from "./Ledgers.ts"

const minute = 60_000
const hour = 60 * minute

const spend = Effect.fn(function*(id: string, key: string, amount: number, resetsAt?: number) {
  const budgets = yield* Budgets
  const accounts = [account(key, 1000, resetsAt)]
  yield* budgets.reserve({ id, accounts, amountNanoUsd: amount, expiresAt: 100 * hour })
  yield* budgets.settle([{ id, accounts, actualNanoUsd: amount }])
})

describe("budgets in memory", () => {
  it.effect("a reservation that expires gives its money back, and an extended one keeps it longer", () =>
    Effect.gen(function*() {
      const budgets = yield* Budgets
      const a = account("a", 100)
      yield* budgets.reserve({ id: "1", accounts: [a], amountNanoUsd: 40, expiresAt: 10 * minute })
      yield* budgets.reserve({ id: "2", accounts: [a], amountNanoUsd: 40, expiresAt: 10 * minute })
      yield* budgets.reserve({ id: "2", accounts: [a], amountNanoUsd: 5, expiresAt: 20 * minute })
      yield* TestClock.adjust(10 * minute - 1)
      assert.deepStrictEqual(yield* figures([a]), [[0, 85]])
      const refused = budgets.reserve({ id: "3", accounts: [a], amountNanoUsd: 50, expiresAt: hour })
      assert.strictEqual((yield* Effect.flip(refused)).code, "budget_exceeded")
      yield* TestClock.adjust(1)
      // Nobody has to ask for the balances first.
      yield* refused
      assert.deepStrictEqual(yield* figures([a]), [[0, 95]])
      yield* TestClock.adjust(10 * minute)
      assert.deepStrictEqual(yield* figures([a]), [[0, 50]])
      // A request that was only slow counts when it is settled, and once.
      yield* budgets.settle([{ id: "1", accounts: [a], actualNanoUsd: 30 }])
      yield* budgets.settle([{ id: "1", accounts: [a], actualNanoUsd: 30 }])
      assert.deepStrictEqual(yield* figures([a]), [[30, 50]])
    }).pipe(Effect.provide(BudgetsMemory.layer())))

  it.effect("a full memory forgets windows that are over, and refuses rather than forget what counts", () =>
    Effect.gen(function*() {
      for (let index = 0; index < 50; index++) yield* spend(`h${index}`, `hour ${index}`, 1, hour)
      for (let index = 0; index < 50; index++) yield* spend(`t${index}`, `total ${index}`, 1)
      const error = yield* Effect.flip(spend("x", "one more", 1))
      assert.strictEqual(error.code, "store_unavailable")
      assert.include(error.message, "memory is full")
      // Those that are there go on.
      yield* spend("again", "total 0", 1)
      yield* TestClock.adjust(2 * hour)
      for (let index = 0; index < 50; index++) yield* spend(`n${index}`, `new ${index}`, 1)
      assert.strictEqual((yield* Effect.flip(spend("y", "yet one more", 1))).code, "store_unavailable")
      const totals = yield* figures(Array.from({ length: 50 }, (_, index) => account(`total ${index}`, 1)))
      assert.deepStrictEqual(totals, totals.map((_, index) => [index === 0 ? 2 : 1, 0] as const))
    }).pipe(Effect.provide(BudgetsMemory.layer({ maxAccounts: 100 }))))

  it.effect("accounts in which nothing was ever spent make room", () =>
    Effect.gen(function*() {
      const budgets = yield* Budgets
      for (let index = 0; index < 1000; index++) {
        const accounts = [account("kept", 1000), account(`user ${index}`, 0)]
        const refused = budgets.reserve({ id: `${index}`, accounts, amountNanoUsd: 1, expiresAt: hour })
        assert.strictEqual((yield* Effect.flip(refused)).code, "budget_exceeded")
      }
      yield* spend("x", "kept", 7)
      assert.deepStrictEqual(yield* figures([account("kept", 1)]), [[7, 0]])
    }).pipe(Effect.provide(BudgetsMemory.layer({ maxAccounts: 10 }))))

  it.effect("a clock that jumps back into the last window finds what was spent in it", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(hour - 1)
      yield* spend("1", "hour 0", 600, hour)
      yield* TestClock.setTime(hour + 30 * minute)
      for (let index = 0; index < 100; index++) yield* spend(`n${index}`, `hour 1 of user ${index}`, 1, 2 * hour)
      yield* TestClock.setTime(hour - 2)
      assert.deepStrictEqual(yield* figures([account("hour 0", 1)]), [[600, 0]])
      assert.strictEqual((yield* Effect.flip(spend("2", "hour 0", 600, hour))).code, "budget_exceeded")
      const budgets = yield* Budgets
      yield* budgets.reserve({ id: "3", accounts: [account("a", 10)], amountNanoUsd: 5, expiresAt: hour })
      yield* TestClock.setTime(0)
      assert.deepStrictEqual(yield* figures([account("a", 10)]), [[0, 5]])
      yield* TestClock.setTime(hour)
      assert.deepStrictEqual(yield* figures([account("a", 10)]), [[0, 0]])
    }).pipe(Effect.provide(BudgetsMemory.layer())))
})
