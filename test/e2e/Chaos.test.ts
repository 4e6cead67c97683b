/** Whole gateways under load whose process is told to stop, whose disk fills up, and whose clock is moved. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { hash } from "node:crypto"
import { readFileSync, writeFileSync } from "node:fs"
import path from "node:path"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { ask, codeOf, native, type Told } from "../fixtures/ChatClient.ts"
import * as FakeUpstream from "../fixtures/FakeUpstream.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { serve, type ServedGateway, temporaryFolder } from "../fixtures/ServedGateway.ts"
import { canMount, smallDisk } from "../fixtures/SmallDisk.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

const base = (upstream: string): string => `
server: { port: 0, drain_timeout: 20s }
auth:
  mode: keys
  keys:
    - { id: admin, sha256: ${sha256("admin")}, tenant: free, admin: true }
    - { id: thrifty, sha256: ${sha256("thrifty")}, tenant: thrifty }
tenants:
  free: {}
  thrifty:
    budgets: [{ per: tenant, usd: 1, window: day }]
    rate_limits: [{ per: tenant, requests: 3, window: 1m }]
providers:
  p: { type: openai, base_url: "${upstream}/v1", api_key: secret, unlisted_models: allow }
models:
  - { id: "p::m", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
`

let questions = 0
const chat = (gateway: ServedGateway, secret = "admin", stream = false): Promise<Told> =>
  ask({
    url: gateway.url,
    secret,
    id: `q${questions++}`,
    body: { model: "p::m", messages: [{ role: "user", content: "hello" }], ...(stream ? { stream: true } : {}) }
  })

const outcome = (told: Told): string => told.isComplete ? "200" : `${told.status} ${codeOf(told)}`

const recordsIn = (file: string) =>
  Effect.flatMap(
    SqlClient.SqlClient,
    (sql) => sql<{ id: string; outcome: string }>`SELECT request_id AS id, outcome FROM usage_records`
  ).pipe(
    Effect.orDie,
    Effect.provide(Layer.orDie(Sql.layer(Redacted.make(`sqlite:${file}`))), { local: true })
  )

/** Looks until something holds; after twenty seconds, gives up. */
const eventually = <E, R>(holds: Effect.Effect<boolean, E, R>): Effect.Effect<boolean, E, R> =>
  Effect.suspend(() => {
    const deadline = performance.now() + 20_000
    const again: Effect.Effect<boolean, E, R> = Effect.filterOrElse(
      holds,
      (found) => found || performance.now() > deadline,
      () => Effect.delay(again, 50)
    )
    return again
  })

const outcomeOf = (gateway: ServedGateway, secret?: string): Effect.Effect<string> =>
  Effect.map(Effect.promise(() => chat(gateway, secret)), outcome)

/** Whether the gateway comes to answer so. */
const comesTo = (gateway: ServedGateway, wanted: string, secret?: string): Effect.Effect<boolean> =>
  eventually(Effect.map(outcomeOf(gateway, secret), (found) => found === wanted))

// ---------------------------------------------------------------------------------------------------------------------
// Told to stop
// ---------------------------------------------------------------------------------------------------------------------

/** Asks one question after the other until nobody listens any more. */
const askOnAndOn = async (gateway: ServedGateway, told: Array<Told>, stream: boolean): Promise<void> => {
  for (;;) {
    const answer = await chat(gateway, "admin", stream)
    told.push(answer)
    if (answer.status === undefined) return
  }
}

describe("a gateway that is told to stop under load", () => {
  it.live("ends every answer that it has begun, has a record of each, and exits with 0", () =>
    Effect.gen(function*() {
      const upstream = yield* FakeUpstream.make
      upstream.always(openAi.answer({ text: Array.from({ length: 200 }, (_, index) => `word ${index} `) }))
      const gateway = yield* serve(`${base(upstream.url)}storage: { sql: "sqlite:./gateway.db" }\n`)
      const told: Array<Told> = []
      const callers = Array.from({ length: 30 }, (_, index) => askOnAndOn(gateway, told, index < 20))
      yield* eventually(Effect.sync(() => told.filter(({ isComplete }) => isComplete).length > 200))
      const code = yield* Effect.promise(() => gateway.end("SIGTERM"))
      yield* Effect.promise(() => Promise.all(callers))
      assert.strictEqual(code, 0, gateway.said())
      const broken = told.filter(({ isComplete, status }) => !isComplete && status !== undefined)
      assert.deepStrictEqual(broken.map(outcome).filter((found) => found !== "503 overloaded"), [])
      const records = yield* recordsIn(path.join(gateway.folder, "gateway.db"))
      const recorded = new Set(records.map(({ id }) => id))
      const complete = told.filter(({ isComplete }) => isComplete)
      assert.isAbove(complete.length, 200)
      assert.deepStrictEqual(complete.filter(({ id }) => !recorded.has(id)).map(({ id }) => id), [])
      assert.strictEqual(recorded.size, records.length, "and none twice")
    }), 60_000)
})

// ---------------------------------------------------------------------------------------------------------------------
// A full disk
// ---------------------------------------------------------------------------------------------------------------------

describe.skipIf(!canMount)("a gateway whose disk is full", () => {
  const onSmallDisk = (durability: "batched" | "strict") =>
    Effect.gen(function*() {
      const disk = yield* smallDisk(4 * 1024 * 1024)
      const upstream = yield* FakeUpstream.make
      upstream.always(openAi.answer({ text: "yes" }))
      const gateway = yield* serve(`${base(upstream.url)}
storage: { sql: "sqlite:${disk.folder}/gateway.db", files: { dir: "${disk.folder}/files" } }
usage: { sinks: [{ type: sql }], durability: ${durability} }
audit: { sinks: [{ type: jsonl, path: "${disk.folder}/audit.jsonl" }] }
`)
      assert.strictEqual(yield* outcomeOf(gateway), "200")
      disk.fill()
      return { disk, gateway }
    })

  it.live("batched: goes on, and finds its records and events again once there is room", () =>
    Effect.gen(function*() {
      const { disk, gateway } = yield* onSmallDisk("batched")
      const told: Array<Told> = []
      const until = performance.now() + 3_000
      while (performance.now() < until) told.push(yield* Effect.promise(() => chat(gateway)))
      assert.deepStrictEqual(Array.from(new Set(told.map(outcome))), ["200"])
      assert.match(gateway.said(), /full|ENOSPC|no space/i, "it is told")
      disk.clear()
      const wanted = told.map(({ id }) => id)
      const missing = Effect.map(recordsIn(`${disk.folder}/gateway.db`), (records) => {
        const recorded = new Set(records.map(({ id }) => id))
        return wanted.filter((id) => !recorded.has(id))
      })
      yield* eventually(Effect.map(missing, (ids) => ids.length === 0))
      assert.deepStrictEqual(yield* missing, [])
      const isAudited = Effect.sync(() => {
        const audited = readFileSync(`${disk.folder}/audit.jsonl`, "utf8")
        return wanted.every((id) => audited.includes(`"${id}"`))
      })
      assert.isTrue(yield* eventually(isAudited))
      assert.strictEqual(yield* Effect.promise(() => gateway.end("SIGTERM")), 0)
    }), 60_000)

  it.live(
    "strict: gives no answer without its record, and answers again once there is room",
    () =>
      Effect.gen(function*() {
        const { disk, gateway } = yield* onSmallDisk("strict")
        assert.isTrue(yield* comesTo(gateway, "503 store_unavailable"))
        disk.clear()
        assert.isTrue(yield* comesTo(gateway, "200"))
      }),
    60_000
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// A clock that is moved
// ---------------------------------------------------------------------------------------------------------------------

describe("a gateway whose clock is moved", () => {
  const hour = 3_600_000

  it.live("goes on: limits are not stuck, budgets begin their day, jobs run", () =>
    Effect.gen(function*() {
      const upstream = yield* FakeUpstream.make
      upstream.always(openAi.answer({ text: "yes", usage: { prompt_tokens: 100_000, completion_tokens: 1 } }))
      const folder = yield* temporaryFolder
      const offset = path.join(folder, "offset")
      const gateway = yield* serve(`${base(upstream.url)}storage: { sql: "sqlite:./gateway.db" }\n`, {
        folder,
        environment: {
          MOVABLE_CLOCK: offset,
          NODE_OPTIONS: `--import ${new URL("../fixtures/MovableClock.mjs", import.meta.url).href}`
        }
      })
      const move = (ms: number) => {
        writeFileSync(offset, String(ms))
        process.kill(gateway.pid, "SIGUSR2")
        return eventually(Effect.sync(() => gateway.said().includes(`clock moved by ${ms}\n`)))
      }
      const spent = Effect.promise(async () => {
        const response = await native(gateway, "/budgets", "thrifty")
        return /"spent_usd":([\d.]+)/.exec(await response.text())?.[1]
      })
      const settled = (usd: string) => eventually(Effect.map(spent, (found) => found === usd))
      for (let time = 0; time < 3; time++) assert.strictEqual(yield* outcomeOf(gateway, "thrifty"), "200")
      assert.strictEqual(yield* outcomeOf(gateway, "thrifty"), "429 rate_limited")
      assert.isTrue(yield* settled("0.300006"))

      // A day on: budgets and limits begin anew.
      yield* move(25 * hour)
      assert.strictEqual(yield* outcomeOf(gateway, "thrifty"), "200")
      assert.isTrue(yield* settled("0.100002"))
      const made = yield* Effect.promise(() =>
        native(gateway, "/jobs", "admin", {
          operation: "chat",
          request: { model: "p::m", messages: [{ role: "user", content: "hello" }] }
        })
      )
      const job = yield* Effect.promise(() => made.text())
      assert.strictEqual(made.status, 202, job)

      // And back, to before it all began: nothing waits for a time that was.
      yield* move(-2 * hour)
      for (let time = 0; time < 5; time++) assert.strictEqual(yield* outcomeOf(gateway), "200")
      const id = /"id":"(job_\w+)"/.exec(job)?.[1] ?? ""
      const hasEnded = Effect.promise(async () =>
        (await (await native(gateway, `/jobs/${id}`, "admin")).text()).includes("\"completed\"")
      )
      assert.isTrue(yield* eventually(hasEnded))
      assert.isTrue(yield* comesTo(gateway, "200", "thrifty"), "a limit of a minute is not kept for a day")
      assert.strictEqual(yield* Effect.promise(() => gateway.end("SIGTERM")), 0, gateway.said())
      const records = yield* recordsIn(path.join(folder, "gateway.db"))
      assert.isAtLeast(records.length, 11)
    }), 90_000)
})
