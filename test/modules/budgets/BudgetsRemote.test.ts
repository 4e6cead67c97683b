/** The ledgers on another machine, PostgreSQL and Redis: one round trip, and what happens when they do not answer. */
import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { SqlClient } from "effect/sql"
import * as BudgetsPostgres from "../../../src/modules/budgets/BudgetsPostgres.ts"
import * as BudgetsRedis from "../../../src/modules/budgets/BudgetsRedis.ts"
import type { RemoteLedgerOptions } from "../../../src/modules/budgets/RemoteLedger.ts"
import { Budgets } from "../../../src/sdk/Budgets.ts"
import { fail, StoreUnavailable } from "../../../src/sdk/GatewayError.ts"
import { UsageLog } from "../../../src/sdk/UsageLog.ts"
import { postgresUrl, redisUrl } from "../../fixtures/Stores.ts"
import { type TcpProxy, tcpProxy } from "../../fixtures/TcpProxy.ts"
import { account, database, eventually, figures, postgresSchema, redisClient, redisPrefix } from "./Ledgers.ts"

interface Reached {
  readonly proxy: TcpProxy
  /** The ledger as the gateway reaches it: through a network that can fail. */
  readonly layer: Layer.Layer<Budgets>
}

interface Remote {
  readonly name: string
  readonly available: boolean
  readonly reach: (options: RemoteLedgerOptions) => Effect.Effect<Reached, never, Scope.Scope>
}

const remotes: ReadonlyArray<Remote> = [
  {
    name: "PostgreSQL",
    available: postgresUrl !== undefined,
    reach: Effect.fnUntraced(function*(options) {
      const url = yield* postgresSchema
      const proxy = yield* tcpProxy(url, 5432)
      return { proxy, layer: Layer.provide(BudgetsPostgres.layer(options), database(proxy.url)) }
    })
  },
  {
    name: "Redis",
    available: redisUrl !== undefined,
    reach: Effect.fnUntraced(function*(options) {
      const prefix = yield* redisPrefix
      const url = redisUrl ?? ""
      const proxy = yield* tcpProxy(url, 6379)
      const layer = BudgetsRedis.layer({ ...options, prefix })
      return { proxy, layer: Layer.provide(layer, redisClient(proxy.url)) }
    })
  }
]

const now = () => Date.now()
const later = 8e15
const a = account("a", 1000)
const b = account("b", 1000)
const reserve = (id: string, amountNanoUsd = 100, expiresAt = later) =>
  Effect.flatMap(Budgets, (budgets) => budgets.reserve({ id, accounts: [a, b], amountNanoUsd, expiresAt }))
const settle = (id: string, actualNanoUsd: number) =>
  Effect.flatMap(Budgets, (budgets) => budgets.settle([{ id, accounts: [a, b], actualNanoUsd }]))
const standing = (spent: number, reserved: number) =>
  Effect.map(
    eventually(
      Effect.exit(figures([a, b])),
      (exit) => Exit.isSuccess(exit) && exit.value.every(([one, two]) => one === spent && two === reserved)
    ),
    (exit) => assert.deepStrictEqual(exit, Exit.succeed([[spent, reserved], [spent, reserved]]))
  )
const took = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const before = performance.now()
    return Effect.map(effect, (value) => [value, performance.now() - before] as const)
  })
/** When the first reservation has been taken back; by then its reserving has ended. */
const takenBack = (proxy: TcpProxy) =>
  Effect.map(
    // The statement's text, or the script's, goes over the wire when it is first used.
    eventually(Effect.sync(() => proxy.sent.some((text) => /budget_undo|'-' \.\. ARGV/.test(text))), (seen) => seen),
    (seen) => assert.isTrue(seen)
  )
const works = eventually(Effect.exit(Effect.asVoid(reserve("works", 0))), Exit.isSuccess)

for (const { available, name, reach } of remotes) {
  describe.skipIf(!available)(`budgets in ${name}`, () => {
    const withLedger = <A, E>(
      use: (proxy: TcpProxy) => Effect.Effect<A, E, Budgets>,
      options: RemoteLedgerOptions = {}
    ) =>
      Effect.flatMap(
        reach({ timeoutMs: 300, sweepIntervalMs: 3_600_000, ...options }),
        ({ layer, proxy }) => Effect.provide(use(proxy), layer)
      )

    it.live("reserving is one round trip, and so is settling", () =>
      withLedger((proxy) =>
        Effect.gen(function*() {
          yield* reserve("1")
          yield* settle("1", 1)
          const calls = [reserve("2"), reserve("2"), settle("2", 5), Effect.flip(reserve("3", 999))]
          for (const call of calls.map((call) => Effect.exit<unknown, unknown, Budgets>(call))) {
            const before = proxy.sent.length
            assert.isTrue(Exit.isSuccess(yield* call))
            assert.strictEqual(proxy.sent.length - before, 1)
          }
        }), { timeoutMs: 5_000 }))

    it.live(
      "with the store gone a request is told so at once, and all goes on when it is back",
      () =>
        withLedger((proxy) =>
          Effect.gen(function*() {
            yield* reserve("1")
            yield* Effect.promise(() => proxy.cut())
            for (let turn = 0; turn < 5; turn++) {
              const [error, ms] = yield* took(Effect.flip(reserve(`gone ${turn}`)))
              assert.strictEqual(error.code, "store_unavailable")
              assert.isBelow(ms, 1_000)
            }
            assert.strictEqual((yield* Effect.flip(settle("1", 60))).code, "store_unavailable")
            assert.strictEqual((yield* Effect.flip(figures([a]))).code, "store_unavailable")
            yield* Effect.promise(() => proxy.mend())
            yield* works
            yield* settle("1", 60)
            yield* settle("1", 60)
            yield* standing(60, 0)
          })
        ),
      30_000
    )

    it.live(
      "a store that goes silent keeps nobody waiting, and what it did unseen is taken back",
      () =>
        withLedger((proxy) =>
          Effect.gen(function*() {
            yield* reserve("1")
            proxy.silence()
            const [errors, ms] = yield* took(
              Effect.forEach([1, 2, 3, 4, 5], (index) => Effect.flip(reserve(`late ${index}`)), {
                concurrency: "unbounded"
              })
            )
            for (const error of errors) assert.strictEqual(error.code, "store_unavailable")
            assert.isAtLeast(ms, 290)
            assert.isBelow(ms, 1_500)
            proxy.speak()
            yield* takenBack(proxy)
            // They do not expire for years: that they are gone again is the taking back.
            yield* standing(0, 100)
            yield* settle("1", 10)
            yield* standing(10, 0)
          })
        ),
      30_000
    )

    it.live("what waits for a silent store does not pile up", () =>
      withLedger((proxy) =>
        Effect.gen(function*() {
          yield* reserve("1")
          proxy.silence()
          yield* Effect.forEach(Array.from({ length: 100 }), (_, index) => Effect.flip(reserve(`late ${index}`, 1)), {
            concurrency: "unbounded"
          })
          const [, ms] = yield* took(
            Effect.forEach(Array.from({ length: 1000 }), (_, index) => Effect.flip(reserve(`more ${index}`, 1)))
          )
          assert.isBelow(ms, 1_000, "a thousand more, one after the other")
          proxy.speak()
          yield* standing(0, 100)
          yield* works
        })
      ), 30_000)

    it.live(
      "a request that is cancelled while the store thinks leaves nothing reserved",
      () =>
        withLedger((proxy) =>
          Effect.gen(function*() {
            yield* works
            proxy.silence()
            const fibers = yield* Effect.forEach(
              [1, 2, 3],
              (index) => Effect.forkChild(reserve(`cancelled ${index}`), { startImmediately: true })
            )
            const [, ms] = yield* took(Effect.forEach(fibers, Fiber.interrupt))
            assert.isBelow(ms, 200)
            proxy.speak()
            yield* takenBack(proxy)
            yield* standing(0, 0)
          })
        ),
      30_000
    )

    it.live(
      "a reservation that could not be extended is still there",
      () =>
        withLedger((proxy) =>
          Effect.gen(function*() {
            yield* reserve("1", 100)
            yield* reserve("1", 0)
            proxy.silence()
            assert.strictEqual((yield* Effect.flip(reserve("1", 50))).code, "store_unavailable")
            proxy.speak()
            yield* takenBack(proxy)
            yield* standing(0, 100)
            yield* reserve("1", 20)
            yield* settle("1", 120)
            yield* standing(120, 0)
          })
        ),
      30_000
    )

    it.live(
      "a connection that breaks while the store thinks leaves nothing reserved",
      () =>
        withLedger((proxy) =>
          Effect.gen(function*() {
            yield* works
            proxy.silence()
            const fiber = yield* Effect.forkChild(Effect.flip(reserve("broken")), { startImmediately: true })
            yield* Effect.sleep(20)
            yield* Effect.promise(() => proxy.cut())
            proxy.speak()
            assert.strictEqual((yield* Fiber.join(fiber)).code, "store_unavailable")
            yield* Effect.promise(() => proxy.mend())
            yield* works
            yield* settle("works", 0)
            yield* standing(0, 0)
          })
        ),
      30_000
    )

    it.live(
      "expired reservations are swept, also by two sweepers at once; one that was only slow counts, and once",
      () =>
        Effect.flatMap(reach({ timeoutMs: 5_000, sweepIntervalMs: 20 }), ({ layer }) =>
          Effect.gen(function*() {
            yield* reserve("1", 100, now() + 200)
            yield* reserve("2", 100)
            yield* Effect.forEach(Array.from({ length: 300 }), (_, index) => reserve(`many ${index}`, 1, now() + 100))
            yield* standing(0, 100)
            yield* settle("2", 30)
            yield* standing(30, 0)
            yield* settle("1", 70)
            yield* settle("1", 70)
            yield* standing(100, 0)
          }).pipe(
            // Another replica, which does nothing but sweep.
            Effect.provide(Layer.mergeAll(layer, Layer.effectDiscard(Layer.build(Layer.fresh(layer)))))
          )),
      30_000
    )
  })
}

describe.skipIf(postgresUrl === undefined)("budgets in PostgreSQL", () => {
  const withDatabase = <A, E>(use: Effect.Effect<A, E, Budgets | SqlClient.SqlClient>) =>
    Effect.flatMap(postgresSchema, (url) =>
      Effect.provide(
        use,
        Layer.provideMerge(BudgetsPostgres.layer({ timeoutMs: 10_000, sweepIntervalMs: 3_600_000 }), database(url))
      ))

  it.live("settling joins the transaction that it is called in", () =>
    withDatabase(Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE test_records (id TEXT PRIMARY KEY)`
      yield* reserve("1")
      yield* reserve("2")
      const both = Effect.andThen(sql`INSERT INTO test_records (id) VALUES ('1')`, settle("1", 60))
      yield* Effect.flip(sql.withTransaction(Effect.andThen(both, Effect.fail("rolled back" as const))))
      assert.deepStrictEqual(yield* figures([a]), [[0, 200]])
      yield* sql.withTransaction(Effect.gen(function*() {
        yield* Effect.flip(sql.withTransaction(Effect.andThen(settle("2", 5), Effect.fail("savepoint" as const))))
        yield* both
        yield* settle("1", 60)
      }))
      assert.deepStrictEqual(yield* figures([a]), [[60, 100]])
      const rows = yield* sql`SELECT id FROM test_records`
      assert.deepStrictEqual(rows, [{ id: "1" }])
    })))

  it.live("a request waits for its account, and not longer than agreed", () =>
    Effect.flatMap(postgresSchema, (url) =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* reserve("1")
        const locked = yield* Deferred.make<void>()
        const done = yield* Deferred.make<void>()
        const holder = yield* Effect.forkChild(sql.withTransaction(
          Effect.all([settle("1", 60), Deferred.succeed(locked, undefined), Deferred.await(done)])
        ))
        yield* Deferred.await(locked)
        const [error, ms] = yield* took(Effect.flip(reserve("2")))
        assert.strictEqual(error.code, "store_unavailable")
        assert.isBelow(ms, 1_000)
        yield* Deferred.succeed(done, undefined)
        yield* Fiber.join(holder)
        yield* standing(60, 0)
      }).pipe(Effect.provide(
        Layer.provideMerge(BudgetsPostgres.layer({ timeoutMs: 200, sweepIntervalMs: 3_600_000 }), database(url))
      ))))

  it.live(
    "batches that meet in many accounts and ids in any order never lock each other",
    () =>
      withDatabase(Effect.gen(function*() {
        const budgets = yield* Budgets
        const accounts = Array.from({ length: 12 }, (_, index) => account(`shared ${index}`, 9e15))
        const turned = (by: number) => [...accounts.slice(by % 12), ...accounts.slice(0, by % 12)]
        for (let index = 0; index < 60; index++) {
          const order = index % 2 === 0 ? turned(index) : turned(index).toReversed()
          yield* budgets.reserve({ id: `${index}`, accounts: order, amountNanoUsd: 5, expiresAt: later })
        }
        const ids = Array.from({ length: 60 }, (_, index) => `${index}`)
        yield* Effect.forEach(ids, (_, index) =>
          Effect.all([
            budgets.settle([...ids.slice(index), ...ids.slice(0, index)].map((id) => ({
              id,
              accounts: [],
              actualNanoUsd: 3
            }))),
            budgets.reserve({
              id: ids[59 - index] ?? "",
              accounts: turned(7 * index).toReversed(),
              amountNanoUsd: 1,
              expiresAt: later
            })
          ], { concurrency: "unbounded" }), { concurrency: "unbounded" })
        yield* budgets.settle(ids.map((id) => ({ id, accounts: [], actualNanoUsd: 0 })))
        for (const [spent, reserved] of yield* figures(accounts)) {
          assert.strictEqual(reserved, 0)
          assert.isAtLeast(spent, 180)
        }
      })),
    30_000
  )

  it.live("what is left in the tables is bounded: no settled reservation, no account of a window long past", () =>
    Effect.gen(function*() {
      const url = yield* postgresSchema
      const weeks = 8 * 86_400_000
      const past = account("past", 100, now() - weeks)
      const recent = account("recent", 100, now() - 86_400_000)
      const total = account("total", 100)
      const live = Layer.provideMerge(BudgetsPostgres.layer(), database(url))
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const budgets = yield* Budgets
        yield* budgets.reserve({ id: "1", accounts: [past, recent, total], amountNanoUsd: 9, expiresAt: later })
        yield* budgets.settle([{ id: "1", accounts: [], actualNanoUsd: 9 }])
        assert.deepStrictEqual(yield* sql`SELECT id FROM budget_reservations`, [])
      }).pipe(Effect.provide(live))
      yield* Effect.gen(function*() {
        const left = yield* eventually(figures([past, recent, total]), ([first]) => first?.[0] === 0)
        assert.deepStrictEqual(left, [[0, 0], [9, 0], [9, 0]])
      }).pipe(Effect.provide(live, { local: true }))
    }))
})

describe.skipIf(redisUrl === undefined)("budgets in Redis", () => {
  /** A usage log that answers as it is told. */
  const log = (costs: (ids: ReadonlyArray<string>) => ReadonlyMap<string, number> | undefined) =>
    Layer.succeed(UsageLog, {
      aggregate: () => Effect.die("nobody aggregates here"),
      costs: (ids) => {
        const found = costs(ids)
        return found === undefined
          ? Effect.fail(fail(new StoreUnavailable({ message: "gone", store: "usage" })))
          : Effect.succeed(found)
      }
    })

  it.live("an expired reservation costs what its usage record says, and stays reserved while nobody can tell", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      let answers = false
      let asked = 0
      const usage = log((ids) => {
        asked++
        return answers ? new Map(ids.flatMap((id) => id === "recorded" ? [[id, 70] as const] : [])) : undefined
      })
      yield* Effect.gen(function*() {
        yield* reserve("recorded", 100, now() + 50)
        yield* reserve("not recorded", 100, now() + 50)
        yield* eventually(Effect.sync(() => asked), (times) => times >= 3)
        assert.deepStrictEqual(yield* figures([a, b]), [[0, 200], [0, 200]])
        answers = true
        yield* standing(70, 0)
        yield* settle("recorded", 70)
        yield* settle("recorded", 70)
        yield* standing(70, 0)
        // Its record came late.
        yield* settle("not recorded", 5)
        yield* settle("not recorded", 5)
        yield* standing(75, 0)
      }).pipe(Effect.provide(
        BudgetsRedis.layer({ prefix, sweepIntervalMs: 10, settleFirstMs: 10 }).pipe(
          Layer.provide([usage, redisClient(redisUrl ?? "")])
        )
      ))
    }))

  it.live("after the log was gone, settlements that had to wait go first", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      let asked = 0
      const usage = log(() => ++asked === 1 ? undefined : new Map())
      yield* Effect.gen(function*() {
        yield* reserve("1", 100, now() + 20)
        yield* eventually(Effect.sync(() => asked), (times) => times === 1)
        yield* settle("1", 60)
        yield* standing(60, 0)
      }).pipe(Effect.provide(
        BudgetsRedis.layer({ prefix, sweepIntervalMs: 10, settleFirstMs: 60_000 }).pipe(
          Layer.provide([usage, redisClient(redisUrl ?? "")])
        )
      ))
    }))

  it.live(
    "a client that keeps commands until it is connected again sends no reservation that stays",
    () =>
      Effect.gen(function*() {
        const prefix = yield* redisPrefix
        const proxy = yield* tcpProxy(redisUrl ?? "", 6379)
        yield* Effect.gen(function*() {
          yield* reserve("1")
          yield* Effect.promise(() => proxy.cut())
          const [errors, ms] = yield* took(
            Effect.forEach([1, 2, 3], (index) => Effect.flip(reserve(`kept ${index}`)), { concurrency: "unbounded" })
          )
          for (const error of errors) assert.strictEqual(error.code, "store_unavailable")
          assert.isBelow(ms, 1_500)
          yield* Effect.promise(() => proxy.mend())
          yield* takenBack(proxy)
          yield* standing(0, 100)
        }).pipe(Effect.provide(
          BudgetsRedis.layer({ prefix, timeoutMs: 300, sweepIntervalMs: 3_600_000 }).pipe(
            Layer.provide(Layer.orDie(NodeRedis.layer({ url: proxy.url })))
          )
        ))
      }),
    30_000
  )

  it.live("what is left in Redis is bounded: no settled reservation, and windows go after they have ended", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      yield* Effect.gen(function*() {
        const redis = yield* Redis.Redis
        const budgets = yield* Budgets
        const ends = now() + 3_600_000
        const day = 86_400_000
        const accounts = [account("hour", 100, ends), account("total", 100)]
        yield* budgets.reserve({ id: "1", accounts, amountNanoUsd: 9, expiresAt: now() + 60_000 })
        yield* budgets.reserve({ id: "2", accounts, amountNanoUsd: 9, expiresAt: ends + 3 * day })
        yield* budgets.settle([1, 2, 3].map((id) => ({ id: String(id), accounts, actualNanoUsd: 9 })))
        const keys = yield* redis.send<Array<string>>("KEYS", `{${prefix}}:*`)
        assert.deepStrictEqual(keys.sort(), [`{${prefix}}:a:hour`, `{${prefix}}:a:total`])
        // As long as the longest request may take, and then some.
        const left = yield* redis.send<number>("PTTL", `{${prefix}}:a:hour`)
        assert.isAtLeast(left, 4 * day)
        assert.isBelow(left, 6 * day)
        assert.strictEqual(yield* redis.send<number>("PTTL", `{${prefix}}:a:total`), -1)
      }).pipe(Effect.provide(Layer.provideMerge(BudgetsRedis.layer({ prefix }), redisClient(redisUrl ?? ""))))
    }))
})
