/** The ledger in SQLite: what is spent is as durable as the transaction it was spent in, and reserving needs no database. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { spawn } from "node:child_process"
import { once } from "node:events"
import path from "node:path"
import { createInterface } from "node:readline"
import * as BudgetsSqlite from "../../../src/modules/budgets/BudgetsSqlite.ts"
import { Budgets } from "../../../src/sdk/Budgets.ts"
import { account, database, figures, sqliteFile } from "./Ledgers.ts"

const later = 8e15

const open = (url: string, options: BudgetsSqlite.BudgetsSqliteOptions = {}) =>
  Layer.provideMerge(BudgetsSqlite.layer(options), database(url))

const withLedger = <A, E>(
  use: Effect.Effect<A, E, Budgets | SqlClient.SqlClient>,
  options: BudgetsSqlite.BudgetsSqliteOptions = {}
) => Effect.flatMap(sqliteFile, (url) => Effect.provide(use, open(url, options)))

const a = account("a", 1000)
const b = account("b", 1000)
const reserve = (id: string, amountNanoUsd = 100, expiresAt = later) =>
  Effect.flatMap(Budgets, (budgets) => budgets.reserve({ id, accounts: [a, b], amountNanoUsd, expiresAt }))
const settle = (id: string, actualNanoUsd: number) =>
  Effect.flatMap(Budgets, (budgets) => budgets.settle([{ id, accounts: [a, b], actualNanoUsd }]))
const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql.withTransaction(effect))
/** Runs in a transaction that is rolled back. */
const rolledBack = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flip(transaction(Effect.andThen(effect, Effect.fail("rolled back" as const))))

describe("budgets in SQLite", () => {
  it.effect("after a restart what was spent is there, and nothing is reserved", () =>
    Effect.gen(function*() {
      const url = yield* sqliteFile
      yield* Effect.gen(function*() {
        yield* reserve("1")
        yield* reserve("2")
        yield* settle("1", 70)
        assert.deepStrictEqual(yield* figures([a, b]), [[70, 100], [70, 100]])
      }).pipe(Effect.provide(open(url)))
      yield* Effect.gen(function*() {
        assert.deepStrictEqual(yield* figures([a, b]), [[70, 0], [70, 0]])
        // The request of the process that died cannot come back.
        yield* settle("2", 50)
        const [balance] = yield* reserve("3", 930)
        assert.deepStrictEqual([balance?.spentNanoUsd, balance?.reservedNanoUsd], [70, 930])
        assert.strictEqual((yield* Effect.flip(reserve("4", 1))).code, "budget_exceeded")
      }).pipe(Effect.provide(open(url)))
    }))

  it.live("a known account needs no database, and an unknown one does not wait for it for ever", () =>
    withLedger(
      Effect.gen(function*() {
        const budgets = yield* Budgets
        yield* reserve("1")
        const held = yield* Deferred.make<void>()
        const started = yield* Deferred.make<void>()
        const busy = yield* Effect.forkChild(
          transaction(Effect.andThen(Deferred.succeed(started, undefined), Deferred.await(held)))
        )
        yield* Deferred.await(started)
        yield* reserve("2")
        yield* settle("2", 0)
        const before = performance.now()
        const unknown = { id: "3", accounts: [a, account("new", 10)], amountNanoUsd: 1, expiresAt: later }
        const error = yield* Effect.flip(budgets.reserve(unknown))
        assert.strictEqual(error.code, "store_unavailable")
        assert.isBelow(performance.now() - before, 1_000)
        yield* Deferred.succeed(held, undefined)
        yield* Fiber.join(busy)
        assert.deepStrictEqual(yield* figures([a, account("new", 1)]), [[0, 100], [0, 0]])
        yield* budgets.reserve(unknown)
        assert.deepStrictEqual(yield* figures([a, account("new", 1)]), [[0, 101], [0, 1]])
      }),
      { timeoutMs: 50 }
    ))

  it.effect("what is settled in a transaction counts when that is committed", () =>
    withLedger(Effect.gen(function*() {
      yield* reserve("1")
      yield* transaction(Effect.gen(function*() {
        yield* settle("1", 60)
        assert.deepStrictEqual(yield* figures([a]), [[0, 100]], "not yet")
      }))
      assert.deepStrictEqual(yield* figures([a]), [[60, 0]])
    })))

  it.effect("what is rolled back does not count, and is settled once when it is settled again", () =>
    withLedger(Effect.gen(function*() {
      yield* reserve("1")
      yield* reserve("2")
      yield* rolledBack(Effect.andThen(settle("1", 60), settle("2", 0)))
      yield* rolledBack(settle("1", 60))
      yield* transaction(settle("1", 50))
      yield* settle("1", 50)
      yield* transaction(Effect.andThen(settle("1", 50), settle("1", 40)))
      assert.deepStrictEqual((yield* figures([a]))[0]?.[0], 50)
      yield* settle("2", 0)
      assert.deepStrictEqual(yield* figures([a, b]), [[50, 0], [50, 0]])
    })))

  it.effect("a savepoint that is rolled back leaves the rest of its transaction", () =>
    withLedger(Effect.gen(function*() {
      yield* reserve("1")
      yield* reserve("2")
      yield* transaction(Effect.gen(function*() {
        yield* rolledBack(settle("1", 60))
        yield* settle("2", 70)
        // Twice in one transaction is once.
        yield* settle("2", 70)
        yield* settle("1", 30)
      }))
      assert.deepStrictEqual(yield* figures([a, b]), [[100, 0], [100, 0]])
      yield* reserve("3")
      yield* rolledBack(Effect.andThen(settle("3", 60), settle("3", 60)))
      yield* settle("3", 5)
      assert.deepStrictEqual(yield* figures([a, b]), [[105, 0], [105, 0]])
    })))

  it.effect("a transaction whose commit fails has settled nothing", () =>
    withLedger(Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE parents (id INTEGER PRIMARY KEY)`
      yield* sql`CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)`
      yield* reserve("1")
      const orphan = sql`INSERT INTO children (parent) VALUES (7)`
      const error = yield* Effect.flip(transaction(Effect.andThen(orphan, settle("1", 60))))
      assert.strictEqual(error._tag, "SqlError")
      assert.deepStrictEqual(yield* figures([a]), [[0, 100]])
      yield* settle("1", 60)
      assert.deepStrictEqual(yield* figures([a, b]), [[60, 0], [60, 0]])
    })))

  it.effect("one reservation that many settle at once counts once", () =>
    withLedger(Effect.gen(function*() {
      for (let index = 0; index < 20; index++) {
        yield* reserve(`${index}`, 10)
        yield* Effect.forEach([1, 2, 3, 4, 5, 6, 7, 8], () => settle(`${index}`, 3), { concurrency: "unbounded" })
        const some = [rolledBack(settle(`${index}`, 4)), settle(`${index}`, 3), transaction(settle(`${index}`, 3))]
        yield* Effect.forEach(some, (one) => Effect.asVoid(one), { concurrency: "unbounded" })
      }
      assert.deepStrictEqual(yield* figures([a, b]), [[60, 0], [60, 0]])
    })))

  it.effect("a settlement that the database keeps waiting does not expire meanwhile", () =>
    withLedger(Effect.gen(function*() {
      const minute = 60_000
      yield* reserve("1", 100, 2 * minute)
      yield* reserve("2", 100, 2 * minute)
      yield* TestClock.adjust(minute)
      yield* rolledBack(settle("1", 60))
      yield* TestClock.adjust(5 * minute)
      assert.deepStrictEqual(yield* figures([a]), [[0, 100]], "the other one has expired")
      yield* settle("1", 60)
      assert.deepStrictEqual(yield* figures([a]), [[60, 0]])
    })))

  it.effect("accounts beyond what memory takes are read again, with what was spent in them", () =>
    withLedger(
      Effect.gen(function*() {
        const budgets = yield* Budgets
        const accounts = Array.from({ length: 40 }, (_, index) => account(`user ${index}`, 10))
        for (let round = 0; round < 3; round++) {
          for (const [index, one] of accounts.entries()) {
            const id = `${round}:${index}`
            yield* budgets.reserve({ id, accounts: [one], amountNanoUsd: 3, expiresAt: later })
            yield* budgets.settle([{ id, accounts: [one], actualNanoUsd: 3 }])
          }
        }
        assert.deepStrictEqual(yield* figures(accounts), accounts.map(() => [9, 0] as const))
        for (const one of accounts) {
          const refused = budgets.reserve({ id: "x", accounts: [one], amountNanoUsd: 2, expiresAt: later })
          assert.strictEqual((yield* Effect.flip(refused)).code, "budget_exceeded")
        }
      }),
      { maxAccounts: 4 }
    ))

  it.live(
    "a process that is killed while it writes has spent what it has committed, to the nano-dollar",
    () =>
      Effect.gen(function*() {
        const url = yield* sqliteFile
        const committed = yield* Effect.promise(async () => {
          const program = path.resolve(import.meta.dirname, "../../fixtures/BudgetWriter.ts")
          const child = spawn(process.execPath, [program, url], { stdio: ["ignore", "pipe", "inherit"] })
          const gone = once(child, "exit")
          let lines = 0
          for await (const _ of createInterface({ input: child.stdout })) {
            if (++lines === 40) child.kill("SIGKILL")
          }
          const [, signal] = await gone
          assert.strictEqual(signal, "SIGKILL")
          return lines
        })
        yield* Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const [row] = yield* sql<{ count: number; cost: number }>`
          SELECT count(*) AS count, sum(cost) AS cost FROM test_records`
          const cost = Number(row?.cost)
          assert.isAtLeast(Number(row?.count), 20 * committed)
          assert.deepStrictEqual(
            yield* figures([account("tenant", 1), account("user", 1), account("key", 1)]),
            [[cost, 0], [cost, 0], [cost, 0]]
          )
        }).pipe(Effect.provide(open(url)))
      }),
    30_000
  )
})
