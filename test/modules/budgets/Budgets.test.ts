/** What holds for every ledger of budgets: nothing is spent beyond a limit, and nothing is lost or counted twice. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber } from "effect"
import { type BudgetAccount, Budgets } from "../../../src/sdk/Budgets.ts"
import { account, eventually, figures, type Ledger, ledgers, randomFrom } from "./Ledgers.ts"

const minute = 60_000
const fromNow = (ms: number) => Date.now() + ms
const soon = () => fromNow(10 * minute)
/** Nothing waits for long in these tests, but the machine may be busy. */
const patient = { timeoutMs: 15_000, sweepIntervalMs: 20 }

const withLedger = <A, E>(
  ledger: Ledger,
  use: Effect.Effect<A, E, Budgets>
) => Effect.flatMap(ledger.make(patient), (layer) => Effect.provide(use, layer))

/** Keys that would do harm if they were ever read as SQL, Lua, a pattern or a format. */
const nastyKeys = [
  "a'); DROP TABLE budget_accounts; --",
  "\" ]] redis.call('FLUSHALL') --[[ {x}:* %d %s \\0 $1 ${a}",
  "ключ\n\r\t:{}",
  "*?[a-z]\\"
]

/** The plainest ledger that there can be, to compare with. */
class Plain {
  readonly accounts = new Map<string, { spent: number; reserved: number }>()
  readonly held = new Map<string, Map<string, number>>()

  at(key: string) {
    const known = this.accounts.get(key) ?? { spent: 0, reserved: 0 }
    this.accounts.set(key, known)
    return known
  }
  /** The first account that cannot pay. */
  reserve(id: string, accounts: ReadonlyArray<BudgetAccount>, amount: number): BudgetAccount | undefined {
    const short = accounts.find(({ key, limitNanoUsd }) => {
      const { reserved, spent } = this.at(key)
      return amount > 0 && spent + reserved + amount > limitNanoUsd
    })
    if (short !== undefined) return short
    const parts = this.held.get(id) ?? new Map<string, number>()
    this.held.set(id, parts)
    for (const { key } of accounts) {
      this.at(key).reserved += amount
      parts.set(key, (parts.get(key) ?? 0) + amount)
    }
    return undefined
  }
  expire(id: string) {
    const parts = this.held.get(id) ?? new Map<string, number>()
    for (const [key, amount] of parts) {
      this.at(key).reserved -= amount
      parts.set(key, 0)
    }
  }
  settle(id: string, actual: number) {
    for (const [key, amount] of this.held.get(id) ?? []) {
      this.at(key).reserved -= amount
      this.at(key).spent += actual
    }
    this.held.delete(id)
  }
}

const randomSteps = Effect.fn(function*(seed: number, steps: number) {
  const budgets = yield* Budgets
  const random = randomFrom(seed)
  const plain = new Plain()
  const pick = <A>(values: ReadonlyArray<A>): A | undefined => values[random(values.length)]
  const all = nastyKeys.map((key) => account(key, 0))
  const expected = () => nastyKeys.map((key) => [plain.at(key).spent, plain.at(key).reserved] as const)
  let ids = 0
  for (let step = 0; step < steps; step++) {
    const told = `seed ${seed}, step ${step}`
    const accounts = nastyKeys.filter(() => random(2) === 0).map((key) => account(key, 500 + random(1500)))
    switch (random(6)) {
      case 0:
      case 1:
      case 2: {
        const again = random(4) === 0 ? pick(Array.from(plain.held.keys())) : undefined
        const doomed = again === undefined && random(5) === 0
        const id = again ?? `${told} '${ids++}`
        const amount = random(8) === 0 ? 0 : random(600)
        const short = plain.reserve(id, accounts, amount)
        const exit = yield* Effect.exit(budgets.reserve({
          id,
          accounts,
          amountNanoUsd: amount,
          expiresAt: doomed ? fromNow(-1) : soon()
        }))
        if (short === undefined) {
          assert.isTrue(Exit.isSuccess(exit), told)
          if (Exit.isSuccess(exit)) {
            assert.deepStrictEqual(
              exit.value.map(({ account, reservedNanoUsd, spentNanoUsd }) => [account, spentNanoUsd, reservedNanoUsd]),
              accounts.map((account) => [account, plain.at(account.key).spent, plain.at(account.key).reserved]),
              told
            )
          }
        } else {
          const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
          assert.deepStrictEqual(
            error?._tag === "Some" && error.value.reason._tag === "BudgetExceeded" ? error.value.reason.budget : exit,
            short.name,
            told
          )
        }
        if (doomed && short === undefined) plain.expire(id)
        if (doomed) {
          yield* eventually(figures(all), (now) => JSON.stringify(now) === JSON.stringify(expected()))
        }
        break
      }
      case 3:
      case 4: {
        const batch = Array.from({ length: random(5) }, () => ({
          id: pick([...plain.held.keys(), "unknown"]) ?? "unknown",
          accounts,
          // Sometimes more than was reserved: then that is the truth.
          actualNanoUsd: random(3) === 0 ? 0 : random(900)
        }))
        yield* budgets.settle(batch)
        for (const { actualNanoUsd, id } of batch) plain.settle(id, actualNanoUsd)
        if (random(3) === 0) yield* budgets.settle(batch)
        break
      }
      default:
    }
    assert.deepStrictEqual(yield* figures(all), expected(), told)
  }
})

for (const ledger of ledgers) {
  describe.skipIf(!ledger.available)(`budgets in ${ledger.name}`, () => {
    it.live("do what the plainest ledger does, whatever comes", () =>
      Effect.gen(function*() {
        const [seeds, steps] = ledger.remote ? [6, 60] : [60, 80]
        for (let seed = 1; seed <= seeds; seed++) yield* withLedger(ledger, randomSteps(seed, steps))
      }), 60_000)

    it.live("tell which budget is used up, what is left and until when", () =>
      withLedger(
        ledger,
        Effect.gen(function*() {
          const budgets = yield* Budgets
          const month: BudgetAccount = {
            key: "acme:month:2026-11",
            name: "month budget of tenant acme",
            limitNanoUsd: 500e9,
            resetsAt: Date.UTC(2026, 11, 1)
          }
          const total: BudgetAccount = { key: "acme:total", name: "total budget of tag x", limitNanoUsd: 1e18 / 1e6 }
          yield* budgets.reserve({ id: "1", accounts: [month], amountNanoUsd: 499.88e9, expiresAt: soon() })
          const error = yield* Effect.flip(
            budgets.reserve({ id: "2", accounts: [total, month], amountNanoUsd: 0.4e9, expiresAt: soon() })
          )
          const { reason } = error
          assert.deepStrictEqual(
            reason._tag === "BudgetExceeded" ? [reason.status, reason.message, reason.budget, reason.resetsAt] : reason,
            [
              402,
              "the month budget of tenant acme (500 USD) has 0.12 USD left, this request may cost up to 0.40 USD; it " +
              "resets at 2026-12-01T00:00:00Z",
              "month budget of tenant acme",
              Date.UTC(2026, 11, 1)
            ]
          )
          // None of it was drawn from the other one, which could have paid.
          assert.deepStrictEqual(yield* figures([total, month]), [[0, 0], [0, 499.88e9]])
          const never = yield* Effect.flip(
            budgets.reserve({ id: "3", accounts: [{ ...total, limitNanoUsd: 1 }], amountNanoUsd: 2, expiresAt: soon() })
          )
          assert.strictEqual(
            never.message,
            "the total budget of tag x (0.000000001 USD) has 0.000000001 USD left, this request may cost up to " +
              "0.000000002 USD; it does not start anew"
          )
        })
      ))

    it.live("a lower limit holds at once, and forgets nothing of what was spent", () =>
      withLedger(
        ledger,
        Effect.gen(function*() {
          const budgets = yield* Budgets
          yield* budgets.reserve({ id: "1", accounts: [account("a", 100)], amountNanoUsd: 100, expiresAt: soon() })
          yield* budgets.settle([{ id: "1", accounts: [], actualNanoUsd: 130 }])
          const low = yield* Effect.flip(
            budgets.reserve({ id: "2", accounts: [account("a", 50)], amountNanoUsd: 1, expiresAt: soon() })
          )
          assert.strictEqual(low.code, "budget_exceeded")
          assert.include(low.message, "has 0 USD left")
          // What costs nothing needs nothing.
          yield* budgets.reserve({ id: "3", accounts: [account("a", 50)], amountNanoUsd: 0, expiresAt: soon() })
          yield* budgets.reserve({ id: "4", accounts: [account("a", 131)], amountNanoUsd: 1, expiresAt: soon() })
          assert.deepStrictEqual(yield* figures([account("a", 1)]), [[130, 1]])
        })
      ))

    it.live("a request that settles after its window has ended is counted in that window", () =>
      withLedger(
        ledger,
        Effect.gen(function*() {
          const budgets = yield* Budgets
          const past = account("hour:1", 100, fromNow(-1))
          const next = account("hour:2", 100, fromNow(60 * minute))
          yield* budgets.reserve({ id: "1", accounts: [past], amountNanoUsd: 60, expiresAt: soon() })
          yield* budgets.reserve({ id: "2", accounts: [next], amountNanoUsd: 70, expiresAt: soon() })
          yield* budgets.settle([{ id: "1", accounts: [next], actualNanoUsd: 50 }])
          assert.deepStrictEqual(yield* figures([past, next]), [[50, 0], [0, 70]])
        })
      ))

    it.live("an account that is named twice is drawn from once, under the lower limit", () =>
      withLedger(
        ledger,
        Effect.gen(function*() {
          const budgets = yield* Budgets
          const accounts = [account("a", 100), account("b", 100), account("a", 50)]
          yield* budgets.reserve({ id: "1", accounts, amountNanoUsd: 30, expiresAt: soon() })
          assert.deepStrictEqual(yield* figures([account("a", 1), account("b", 1)]), [[0, 30], [0, 30]])
          const error = yield* Effect.flip(
            budgets.reserve({ id: "2", accounts, amountNanoUsd: 30, expiresAt: soon() })
          )
          assert.strictEqual(error.code, "budget_exceeded")
          yield* budgets.settle([{ id: "1", accounts, actualNanoUsd: 10 }, { id: "1", accounts, actualNanoUsd: 20 }])
          assert.deepStrictEqual(yield* figures([account("a", 1), account("b", 1)]), [[10, 0], [10, 0]])
        })
      ))

    it.live("figures that are no money, and keys that no store holds, are refused and change nothing", () =>
      withLedger(
        ledger,
        Effect.gen(function*() {
          const budgets = yield* Budgets
          const a = account("a", 1000)
          const good = { id: "good", accounts: [a], amountNanoUsd: 1, expiresAt: soon() }
          yield* budgets.reserve(good)
          for (const amountNanoUsd of [-1, 0.5, Number.NaN, Infinity, 2 ** 53]) {
            assert.strictEqual(
              (yield* Effect.flip(budgets.reserve({ ...good, amountNanoUsd }))).code,
              "validation_error"
            )
            const settlement = { id: "good", accounts: [a], actualNanoUsd: amountNanoUsd }
            const other = { id: "good", accounts: [a], actualNanoUsd: 1 }
            assert.strictEqual((yield* Effect.flip(budgets.settle([other, settlement]))).code, "validation_error")
          }
          for (const limit of [-1, 9e15 + 2, Number.NaN, Infinity, 1.5]) {
            const error = yield* Effect.flip(budgets.reserve({ ...good, accounts: [account("a", limit)] }))
            assert.strictEqual(error.code, "validation_error")
          }
          for (const expiresAt of [Number.NaN, Infinity, -1]) {
            assert.strictEqual((yield* Effect.flip(budgets.reserve({ ...good, expiresAt }))).code, "validation_error")
          }
          for (const key of ["", "a\0b", "\ud800", "x".repeat(513)]) {
            for (
              const call of [
                budgets.reserve({ ...good, accounts: [account(key, 1)] }),
                budgets.reserve({ ...good, id: key }),
                budgets.balances([account(key, 1)]),
                budgets.settle([{ id: key, accounts: [a], actualNanoUsd: 0 }])
              ]
            ) {
              assert.strictEqual((yield* Effect.flip(Effect.asVoid(call))).code, "validation_error")
            }
          }
          assert.deepStrictEqual(yield* figures([a]), [[0, 1]])
          // The longest key there may be, in the letters that take the most room.
          const long = account("語".repeat(512), 10)
          yield* budgets.reserve({ ...good, id: "ü".repeat(512), accounts: [long], amountNanoUsd: 7 })
          assert.deepStrictEqual(yield* figures([long]), [[0, 7]])
        })
      ))

    it.live("the largest figures are kept to the nano-dollar, and no sum passes what a number can hold", () =>
      withLedger(
        ledger,
        Effect.gen(function*() {
          const budgets = yield* Budgets
          const most = account("most", 9e15)
          yield* budgets.reserve({ id: "1", accounts: [most], amountNanoUsd: 9e15 - 1, expiresAt: soon() })
          yield* budgets.reserve({ id: "2", accounts: [most], amountNanoUsd: 1, expiresAt: soon() })
          const error = yield* Effect.flip(
            budgets.reserve({ id: "3", accounts: [most], amountNanoUsd: 1, expiresAt: soon() })
          )
          assert.strictEqual(error.code, "budget_exceeded")
          assert.deepStrictEqual(yield* figures([most]), [[0, 9e15]])
          yield* budgets.settle([{ id: "1", accounts: [most], actualNanoUsd: 9e15 - 3 }])
          assert.deepStrictEqual(yield* figures([most]), [[9e15 - 3, 1]])
          yield* budgets.settle([{ id: "2", accounts: [most], actualNanoUsd: Number.MAX_SAFE_INTEGER }])
          assert.deepStrictEqual(yield* figures([most]), [[Number.MAX_SAFE_INTEGER, 0]])
        })
      ))

    it.live("1,000 requests at once never pass a limit, and leave nothing behind but what they spent", () =>
      withLedger(
        ledger,
        Effect.gen(function*() {
          const budgets = yield* Budgets
          const random = randomFrom(7)
          const limits = [120_000, 90_000, 60_000, 1_000_000, 40_000]
          const accounts = limits.map((limit, index) => account(`shared ${index}`, limit))
          const spent = accounts.map(() => 0)
          let refused = 0
          let seen = 0
          const look = Effect.map(figures(accounts), (now) => {
            seen++
            for (const [index, [spent, reserved]] of now.entries()) {
              assert.isAtMost(spent + reserved, limits[index] ?? 0)
              assert.isAtLeast(reserved, 0)
            }
          })
          const request = Effect.fn(function*(index: number) {
            const drawn = accounts.map((_, place) => place).filter(() => random(2) === 0)
            const fate = random(5)
            const amount = 1 + random(2000)
            const actual = random(amount + 1)
            const reservation = {
              id: `request ${index}`,
              accounts: drawn.flatMap((place) => accounts[place] ?? []),
              amountNanoUsd: amount,
              expiresAt: fromNow(fate === 0 || fate === 1 ? 1_500 : 10 * minute)
            }
            const spend = Effect.suspend(() => {
              for (const place of drawn) spent[place] = (spent[place] ?? 0) + actual
              return budgets.settle([{ id: reservation.id, accounts: reservation.accounts, actualNanoUsd: actual }])
            })
            // Some are gone while the store still thinks.
            if (fate === 0) {
              const fiber = yield* Effect.forkChild(budgets.reserve(reservation))
              for (let turn = random(40); turn > 0; turn--) yield* Effect.yieldNow
              return yield* Fiber.interrupt(fiber)
            }
            const exit = yield* Effect.exit(budgets.reserve(reservation))
            if (Exit.isFailure(exit)) {
              assert.isTrue(
                Cause.findErrorOption(exit.cause).pipe((error) =>
                  error._tag === "Some" && error.value.code === "budget_exceeded"
                )
              )
              refused++
              return
            }
            for (const { account, reservedNanoUsd, spentNanoUsd } of exit.value) {
              assert.isAtMost(spentNanoUsd + reservedNanoUsd, account.limitNanoUsd)
            }
            yield* Effect.delay(Effect.void, random(20))
            // Some die with their reservation.
            if (fate === 1) return
            if (fate === 2) return yield* budgets.settle([{ id: reservation.id, accounts: [], actualNanoUsd: 0 }])
            if (fate === 3 && drawn.length > 0) {
              const more = yield* Effect.exit(budgets.reserve({ ...reservation, amountNanoUsd: 10 }))
              if (Exit.isFailure(more)) refused++
            }
            yield* spend
            if (random(3) === 0) yield* budgets.settle([{ id: reservation.id, accounts: [], actualNanoUsd: actual }])
          })
          // From here on the accounts are known, and a look at them waits for nobody.
          yield* budgets.reserve({ id: "first", accounts, amountNanoUsd: 0, expiresAt: soon() })
          yield* budgets.settle([{ id: "first", accounts, actualNanoUsd: 0 }])
          const watching = yield* Effect.forkChild(Effect.forever(Effect.delay(look, 1)))
          yield* Effect.forEach(Array.from({ length: 1000 }, (_, index) => index), request, {
            concurrency: "unbounded",
            discard: true
          })
          const end = yield* eventually(figures(accounts), (now) => now.every(([, reserved]) => reserved === 0))
          // Had a look failed, it would have ended the watch.
          yield* watching.pollUnsafe() ?? Effect.void
          yield* Fiber.interrupt(watching)
          assert.deepStrictEqual(end, spent.map((sum) => [sum, 0] as const))
          assert.isAtLeast(refused, 100, "the budgets were small enough to matter")
          assert.isAtLeast(seen, 3, "they were looked at meanwhile")
        })
      ), 60_000)
  })
}
