/**
 * A gateway that is killed under load and started again: which answers that its callers have read to their ends lack their
 * usage record, and whether its budgets say what the records say.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Schema, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import { hash, randomInt } from "node:crypto"
import path from "node:path"
import { fileURLToPath } from "node:url"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { BudgetList } from "../../src/sdk/GatewayApi.ts"
import { ask, native, type Told } from "../fixtures/ChatClient.ts"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { serve, type ServedGateway, temporaryFolder } from "../fixtures/ServedGateway.ts"
import { isolated, postgresUrl } from "../fixtures/Stores.ts"

const yamlOf = (upstream: string, sql: string, durability: string): string => `
server: { port: 0 }
auth:
  mode: keys
  keys: [{ id: k1, sha256: ${hash("sha256", "secret", "hex")}, tenant: acme, user: ann }]
tenants:
  acme:
    budgets:
      - { per: tenant, usd: 1000, window: total }
      - { per: user, usd: 1000, window: total }
      - { per: key, usd: 1000, window: total }
providers:
  p: { type: openai, base_url: "${upstream}/v1", api_key: secret, unlisted_models: allow }
models:
  - { id: "p::whole", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
  - { id: "p::stream-5", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
usage: { sinks: [{ type: sql }], durability: ${durability} }
storage: { sql: "${sql}" }
`

const workers = 12

/** Asks for whole answers and streams in turn until told to end; `told` grows with the answers. */
const load = (url: string, run: string) => {
  const told: Array<Told> = []
  const stop = new AbortController()
  let next = 0
  const worker = async () => {
    while (!stop.signal.aborted) {
      const number = next++
      const stream = number % 2 === 0
      told.push(
        await ask({
          url,
          secret: "secret",
          id: `${run}-${number}`,
          body: {
            model: stream ? "p::stream-5" : "p::whole",
            stream,
            messages: [{ role: "user", content: "hello" }]
          }
        })
      )
    }
  }
  const done = Promise.all(Array.from({ length: workers }, worker))
  return {
    told,
    end: async () => {
      stop.abort()
      await done
    }
  }
}

const decodeBudgets = Schema.decodeUnknownSync(BudgetList)

/** What the budgets say is spent, nano-USD, by name. */
const spent = async (gateway: ServedGateway): Promise<Readonly<Record<string, number>>> => {
  const response = await native(gateway, "/budgets", "secret")
  const { budgets } = decodeBudgets(await response.json())
  return Object.fromEntries(budgets.map(({ name, spentUsd }) => [name, Math.round(spentUsd * 1e9)]))
}

const recorded = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ request_id: string; cost: bigint | number }>`
    SELECT request_id, cost_nano_usd AS cost FROM usage_records`
  return {
    ids: new Set(rows.map(({ request_id }) => request_id)),
    cost: rows.reduce((sum, { cost }) => sum + Number(cost), 0)
  }
})

const upstream: Effect.Effect<string, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.promise(() => startChildServer([fileURLToPath(new URL("../fixtures/BenchUpstream.ts", import.meta.url))])),
    ({ stop }) => Effect.promise(stop)
  ),
  ({ url }) => url
)

/** What became of the answers of one run. */
interface Run {
  readonly completed: number
  readonly lost: number
  /** How long before the end the oldest of the lost ones was complete, ms. */
  readonly oldest: number
}

/** The documented 250 ms, and as much again for a machine that has other things to do, ms. */
const bound = 500

const runs = 4

/** Loads the gateway and ends it, again and again. */
const rounds = Effect.fn(function*(yaml: string, signal: "SIGKILL" | "SIGTERM", times: number) {
  const folder = yield* temporaryFolder
  const figures: Array<Run> = []
  let gateway = yield* serve(yaml, { folder })
  for (let run = 0; run < times; run++) {
    const { end, told } = load(gateway.url, `${signal}-${run}`)
    while (told.filter(({ isComplete }) => isComplete).length < 30) yield* Effect.sleep(20)
    yield* Effect.sleep(randomInt(1_000))
    const endedAt = performance.now()
    const code = yield* Effect.promise(() => gateway.end(signal))
    if (signal === "SIGTERM") assert.strictEqual(code, 0, gateway.said())
    yield* Effect.promise(end)
    gateway = yield* serve(yaml, { folder })
    const { cost, ids } = yield* recorded
    for (const [name, sum] of Object.entries(yield* Effect.promise(() => spent(gateway)))) {
      assert.strictEqual(sum, cost, name)
    }
    const completed = told.filter(({ isComplete }) => isComplete)
    const lost = completed.filter(({ id }) => !ids.has(id))
    figures.push({
      completed: completed.length,
      lost: lost.length,
      oldest: Math.round(Math.max(0, ...lost.map((answer) => endedAt - answer.endedAt)))
    })
  }
  return figures
})

const databases = [
  { name: "SQLite", isMissing: false },
  { name: "PostgreSQL", isMissing: postgresUrl === undefined }
]

for (const { isMissing, name } of databases) {
  const urlOf = name === "SQLite"
    ? Effect.map(temporaryFolder, (folder) => `sqlite:${path.join(folder, "gateway.db")}`)
    : Effect.suspend(() => isolated(postgresUrl ?? ""))

  const test = Effect.fn(function*(durability: string, signal: "SIGKILL" | "SIGTERM", times: number) {
    const url = yield* urlOf
    return yield* Effect.provide(
      rounds(yamlOf(yield* upstream, url, durability), signal, times),
      Layer.orDie(Sql.layer(Redacted.make(url)))
    )
  })

  describe.skipIf(isMissing)(`a gateway with its records in ${name}`, () => {
    it.live(
      "strict, killed: no answer that was read to its end lacks its record",
      (context) =>
        Effect.gen(function*() {
          const figures = yield* test("strict", "SIGKILL", runs)
          yield* Effect.promise(() => context.annotate(JSON.stringify(figures)))
          for (const { lost } of figures) assert.strictEqual(lost, 0)
        }),
      90_000
    )

    it.live(
      "batched, killed: what lacks its record was complete less than a moment before",
      (context) =>
        Effect.gen(function*() {
          const figures = yield* test("batched", "SIGKILL", runs)
          yield* Effect.promise(() => context.annotate(JSON.stringify(figures)))
          for (const { oldest } of figures) assert.isAtMost(oldest, bound)
        }),
      90_000
    )

    it.live.each(["strict", "batched"])("%s, told to stop: no record is lost", (durability) =>
      Effect.gen(function*() {
        const [figures] = yield* test(durability, "SIGTERM", 1)
        assert.strictEqual(figures?.lost, 0)
      }), 60_000)
  })
}
