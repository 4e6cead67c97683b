/** The four ledgers of budgets, each in a place of its own that is removed at the end, for tests that hold for all. */
import { NodeRedis } from "@effect/platform-node"
import { Effect, Layer, Redacted, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { type SqlClient } from "effect/sql"
import { randomBytes } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import * as BudgetsMemory from "../../../src/modules/budgets/BudgetsMemory.ts"
import * as BudgetsPostgres from "../../../src/modules/budgets/BudgetsPostgres.ts"
import * as BudgetsRedis from "../../../src/modules/budgets/BudgetsRedis.ts"
import * as BudgetsSqlite from "../../../src/modules/budgets/BudgetsSqlite.ts"
import { migrations } from "../../../src/modules/budgets/Migrations.ts"
import type { RemoteLedgerOptions } from "../../../src/modules/budgets/RemoteLedger.ts"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { type BudgetAccount, Budgets } from "../../../src/sdk/Budgets.ts"
import { isolated, postgresUrl, redisUrl } from "../../fixtures/Stores.ts"

/** A ledger and where it is. */
export interface Ledger {
  readonly name: string
  readonly available: boolean
  /** Whether expired reservations are swept in the background, and so a moment later. */
  readonly remote: boolean
  /** Makes an empty ledger's Layer. */
  readonly make: (options: RemoteLedgerOptions) => Effect.Effect<Layer.Layer<Budgets>, never, Scope.Scope>
}

const temporaryFolder: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(path.join(tmpdir(), "budgets-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

/** The URL of a SQLite file that does not exist yet. */
export const sqliteFile: Effect.Effect<string, never, Scope.Scope> = Effect.map(
  temporaryFolder,
  (folder) => `sqlite:${path.join(folder, "gateway.db")}`
)

/** The database at the URL, with the tables of budgets. */
export const database = (url: string): Layer.Layer<SqlClient.SqlClient> =>
  Sql.migrate(migrations).pipe(Layer.provideMerge(Sql.layer(Redacted.make(url))), Layer.orDie)

/** A schema of its own in PostgreSQL. */
export const postgresSchema: Effect.Effect<string, never, Scope.Scope> = Effect.orDie(
  isolated(postgresUrl ?? "postgres://127.0.0.1:1")
)

/** A Redis client as the gateway should have it. */
export const redisClient = (url: string): Layer.Layer<Redis.Redis> =>
  Layer.orDie(NodeRedis.layer({ url, disableOfflineQueue: true }))

const removeKeys = Effect.fn(function*(prefix: string) {
  const redis = yield* Redis.Redis
  const keys = yield* redis.send<ReadonlyArray<string>>("KEYS", `{${prefix}}:*`)
  if (keys.length > 0) yield* redis.send("DEL", ...keys)
}, Effect.orDie)

/** A prefix of its own in Redis. */
export const redisPrefix: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => `test-${randomBytes(8).toString("hex")}`),
  (prefix) => Effect.provide(removeKeys(prefix), redisClient(redisUrl ?? ""), { local: true })
)

/** All of them. */
export const ledgers: ReadonlyArray<Ledger> = [
  { name: "memory", available: true, remote: false, make: () => Effect.succeed(BudgetsMemory.layer()) },
  {
    name: "SQLite",
    available: true,
    remote: false,
    make: ({ timeoutMs = 500 }) =>
      Effect.map(sqliteFile, (url) => Layer.provide(BudgetsSqlite.layer({ timeoutMs }), database(url)))
  },
  {
    name: "PostgreSQL",
    available: postgresUrl !== undefined,
    remote: true,
    make: (options) => Effect.map(postgresSchema, (url) => Layer.provide(BudgetsPostgres.layer(options), database(url)))
  },
  {
    name: "Redis",
    available: redisUrl !== undefined,
    remote: true,
    make: (options) =>
      Effect.map(
        redisPrefix,
        (prefix) => Layer.provide(BudgetsRedis.layer({ ...options, prefix }), redisClient(redisUrl ?? ""))
      )
  }
]

/** An account as tests name it. */
export const account = (key: string, limitNanoUsd: number, resetsAt?: number): BudgetAccount => ({
  key,
  name: `budget ${key}`,
  limitNanoUsd,
  ...(resetsAt === undefined ? {} : { resetsAt })
})

/** What is spent and reserved in accounts, by their keys. */
export const figures = (accounts: ReadonlyArray<BudgetAccount>) =>
  Effect.flatMap(
    Budgets,
    (budgets) =>
      Effect.map(budgets.balances(accounts), (balances) =>
        balances.map(({ reservedNanoUsd, spentNanoUsd }) => [spentNanoUsd, reservedNanoUsd] as const))
  )

/** Asks again until the answer is as it should be; after ten seconds, gives the last one. */
export const eventually = <A, E, R>(
  ask: Effect.Effect<A, E, R>,
  accepted: (answer: A) => boolean
): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const deadline = performance.now() + 10_000
    const again: Effect.Effect<A, E, R> = Effect.filterOrElse(
      ask,
      (answer) => accepted(answer) || performance.now() > deadline,
      () => Effect.delay(again, 10)
    )
    return again
  })

/** Numbers that come out the same for the same seed (mulberry32): integers from 0 to below `bound`. */
export const randomFrom = (seed: number): (bound: number) => number => {
  let state = seed
  return (bound) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296 * bound)
  }
}
