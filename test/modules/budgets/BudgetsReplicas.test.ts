/** Three processes spend from the same small budgets, and one of them is killed. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { once } from "node:events"
import path from "node:path"
import { createInterface } from "node:readline"
import { expiresAfter, replicaLayer, type ReplicaSettings, shared } from "../../fixtures/BudgetReplica.ts"
import { postgresUrl, redisUrl } from "../../fixtures/Stores.ts"
import { eventually, figures, postgresSchema, redisPrefix } from "./Ledgers.ts"

const program = path.resolve(import.meta.dirname, "../../fixtures/BudgetReplica.ts")

/** Runs a replica to its end, or kills it while it leaves requests behind; gives what it said last. */
const replica = (settings: ReplicaSettings): Effect.Effect<{ readonly said: string; readonly ended: unknown }> =>
  Effect.callback((resume) => {
    const child = spawn(process.execPath, [program, JSON.stringify(settings)], { stdio: ["ignore", "pipe", "inherit"] })
    let said = ""
    createInterface({ input: child.stdout }).on("line", (line) => {
      said = line
      if (line === "dying") child.kill("SIGKILL")
    })
    void once(child, "close").then(([code, signal]) => resume(Effect.succeed({ said, ended: signal ?? code })))
    return Effect.sync(() => {
      child.kill("SIGKILL")
    })
  })

/** What the usage records add up to, for each of the budgets. */
const recorded = Effect.fn(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ cost: bigint; places: string }>`SELECT cost, places FROM test_records`
  return shared.map((_, place) =>
    rows.reduce((sum, { cost, places }) => places.includes(String(place)) ? sum + Number(cost) : sum, 0)
  )
})

const limits = shared.map(({ limitNanoUsd }) => limitNanoUsd)

for (const ledger of ["PostgreSQL", "Redis"] as const) {
  describe.skipIf(postgresUrl === undefined || redisUrl === undefined)(`three replicas on one ${ledger}`, () => {
    it.live(
      "never pass a limit, and when one is killed its money comes back and what it spent is counted",
      () =>
        Effect.gen(function*() {
          const settings: ReplicaSettings = {
            ledger,
            postgresUrl: yield* postgresSchema,
            redisUrl: redisUrl ?? "",
            prefix: yield* redisPrefix,
            name: "watcher",
            seed: 0,
            requests: 0
          }
          yield* Effect.gen(function*() {
            const sql = yield* SqlClient.SqlClient
            yield* sql`CREATE TABLE test_records (id TEXT PRIMARY KEY, cost BIGINT NOT NULL, places TEXT NOT NULL)`
            let seen = 0
            let busiest = 0
            const watch = yield* Effect.forkChild(Effect.forever(Effect.delay(
              Effect.map(figures(shared), (now) => {
                for (const [index, [spent, reserved]] of now.entries()) {
                  assert.isAtMost(spent + reserved, limits[index] ?? 0)
                  busiest = Math.max(busiest, reserved)
                }
                seen++
              }),
              2
            )))
            const [victim, ...survivors] = yield* Effect.forEach(
              [{ name: "victim", diesAfter: 150 }, { name: "second" }, { name: "third" }],
              (who, index) => replica({ ...settings, ...who, seed: index + 1, requests: 600 }),
              { concurrency: "unbounded" }
            )
            assert.deepStrictEqual(victim, { said: "dying", ended: "SIGKILL" })
            let served = 0
            let refused = 0
            for (const { ended, said } of survivors) {
              assert.strictEqual(ended, 0)
              const did = JSON.parse(said)
              served += did.served
              refused += did.refused
            }
            assert.isAtLeast(served, 100)
            assert.isAtLeast(refused, 50, "the budgets were small enough to matter")

            const before = performance.now()
            const end = yield* eventually(figures(shared), (now) => now.every(([, reserved]) => reserved === 0))
            assert.isBelow(performance.now() - before, expiresAfter + 3_000)
            yield* watch.pollUnsafe() ?? Effect.void
            yield* Fiber.interrupt(watch)
            assert.isAtLeast(seen, 20)
            assert.isAtLeast(busiest, 10_000)
            const spent = yield* recorded()
            assert.deepStrictEqual(end, spent.map((sum) => [sum, 0] as const))
            if (ledger === "Redis") {
              const left = yield* sql`SELECT id FROM test_records WHERE id LIKE 'victim:left%'`
              assert.strictEqual(left.length, 3, "requests of the killed replica that only the sweeper could settle")
            }
          }).pipe(Effect.provide(replicaLayer(settings)))
        }),
      90_000
    )
  })
}
