/** Whole gateways whose PostgreSQL or Redis goes away and comes back, as their callers see it. */
import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, Schema, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { hash, randomBytes } from "node:crypto"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { BudgetList } from "../../src/sdk/GatewayApi.ts"
import { IssuedKeyJson } from "../../src/sdk/KeyJson.ts"
import { ask, codeOf, native, type Told } from "../fixtures/ChatClient.ts"
import * as FakeUpstream from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { isJson } from "../fixtures/Script.ts"
import { serve, type ServedGateway } from "../fixtures/ServedGateway.ts"
import { isolated, postgresUrl, redisUrl } from "../fixtures/Stores.ts"
import { type TcpProxy, tcpProxy } from "../fixtures/TcpProxy.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

/** Tenant `thrifty` has a budget, `quick` a limit, `free` neither. Configured keys are called as their tenants. */
const base = (upstream: string): string => `
server: { port: 0 }
auth:
  mode: keys
  cache: { fresh: 100ms }
  keys:
    - { id: admin, sha256: ${sha256("admin")}, tenant: free, admin: true }
    - { id: thrifty, sha256: ${sha256("thrifty")}, tenant: thrifty }
    - { id: quick, sha256: ${sha256("quick")}, tenant: quick }
tenants:
  free: {}
  thrifty: { budgets: [{ per: tenant, usd: 1, window: total }] }
  quick: { rate_limits: [{ per: tenant, requests: 3, window: 1d }] }
providers:
  p: { type: openai, base_url: "${upstream}/v1", api_key: secret, unlisted_models: allow }
models:
  - { id: "p::m", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
`

let questions = 0
const chat = (gateway: ServedGateway, secret: string, id = `q${questions++}`): Promise<Told> =>
  ask({ url: gateway.url, secret, id, body: { model: "p::m", messages: [{ role: "user", content: "hello" }] } })

/** `200`, or the status and code of a refusal. */
const outcome = (told: Told): string => told.isComplete ? "200" : `${told.status} ${codeOf(told)}`

const outcomeOf = (gateway: ServedGateway, secret: string) =>
  Effect.map(Effect.promise(() => chat(gateway, secret)), outcome)

/** Asks until the outcome is as it should be; after twenty seconds, gives the last one. */
const eventually = <E, R>(ask: Effect.Effect<string, E, R>, wanted: string): Effect.Effect<string, E, R> =>
  Effect.suspend(() => {
    const deadline = performance.now() + 20_000
    const again: Effect.Effect<string, E, R> = Effect.filterOrElse(
      ask,
      (found) => found === wanted || performance.now() > deadline,
      () => Effect.delay(again, 50)
    )
    return again
  })

const decodeIssued = Schema.decodeUnknownSync(IssuedKeyJson)
const decodeBudgets = Schema.decodeUnknownSync(BudgetList)

const createKey = (gateway: ServedGateway): Effect.Effect<string> =>
  Effect.promise(async () => {
    const response = await native(gateway, "/admin/keys", "admin", { tenant: "free" })
    return decodeIssued(await response.json()).secret
  })

const budget = (gateway: ServedGateway) =>
  Effect.promise(async () => {
    const response = await native(gateway, "/budgets", "thrifty")
    if (response.status !== 200) return `${response.status}`
    const [only] = decodeBudgets(await response.json()).budgets
    return `spent ${Math.round((only?.spentUsd ?? 0) * 1e9)} reserved ${Math.round((only?.reservedUsd ?? 0) * 1e9)}`
  })

const unknownSecret = () => `lg_${randomBytes(32).toString("base64url")}`

/** What the records say was spent by the tenant with the budget. */
const recorded = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ request_id: string; tenant: string; cost: bigint | number | null }>`
    SELECT request_id, tenant, cost_nano_usd AS cost FROM usage_records`
  return {
    ids: rows.map(({ request_id }) => request_id),
    thrifty: rows.reduce((sum, { cost, tenant }) => tenant === "thrifty" ? sum + Number(cost ?? 0) : sum, 0)
  }
})

/** How the budget differs from what the records add up to, with nothing running; nothing where it does not. */
const difference = Effect.fnUntraced(function*(gateway: ServedGateway) {
  const shown = yield* budget(gateway)
  const wanted = `spent ${(yield* recorded).thrifty} reserved 0`
  return shown === wanted ? "" : `${shown} instead of ${wanted}`
})

const hasRecord = (id: string) => Effect.map(recorded, ({ ids }) => ids.includes(id) ? "yes" : "no")

const lines = ["cut", "silent"] as const
const stop = (proxy: TcpProxy, line: typeof lines[number]) =>
  Effect.promise(async () => line === "cut" ? proxy.cut() : proxy.silence())
const mend = (proxy: TcpProxy, line: typeof lines[number]) =>
  Effect.promise(async () => line === "cut" ? proxy.mend() : proxy.speak())

/** An upstream that answers at once, but for the first request, which waits to be released. */
const holding = Effect.gen(function*() {
  const upstream = yield* FakeUpstream.make
  let release = (): void => {}
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  upstream.reply(withFault(openAi.answer(), fault.holdHeaders(released)))
  upstream.always(openAi.answer())
  return { upstream, release: () => release() }
})

// ---------------------------------------------------------------------------------------------------------------------
// PostgreSQL
// ---------------------------------------------------------------------------------------------------------------------

const askStores = async (gateway: ServedGateway): Promise<ReadonlyArray<string>> => {
  const response = await fetch(`${gateway.url}/health/ready`, { headers: { authorization: "Bearer admin" } })
  assert.strictEqual(response.status, 200)
  const body: unknown = await response.json()
  const stores = isJson(body) && Array.isArray(body["stores"]) ? body["stores"].filter(isJson) : []
  return stores.map(({ answers, store }) => `${String(store)} ${answers === true ? "answers" : "does not"}`)
}

/** What the gateway tells of its stores; it is ready whatever they do. */
const storesOf = (gateway: ServedGateway): Effect.Effect<ReadonlyArray<string>> =>
  Effect.promise(() => askStores(gateway))

describe.skipIf(postgresUrl === undefined)("a gateway whose PostgreSQL goes away", () => {
  const withDatabase = <A, E>(use: (url: string) => Effect.Effect<A, E, SqlClient.SqlClient | Scope.Scope>) =>
    Effect.gen(function*() {
      const url = yield* isolated(postgresUrl ?? "")
      return yield* Effect.provide(use(url), Layer.orDie(Sql.layer(Redacted.make(url))))
    })

  it.live.each(lines)(
    "knows the keys that it knew, spends nothing unseen, and finds its records again: %s",
    (line) =>
      withDatabase((url) =>
        Effect.gen(function*() {
          const proxy = yield* tcpProxy(url, 5432)
          const { release, upstream } = yield* holding
          const gateway = yield* serve(`${base(upstream.url)}storage: { sql: "${proxy.url}" }\n`)
          const [used, unused] = [yield* createKey(gateway), yield* createKey(gateway)]
          const held = yield* Effect.forkChild(Effect.promise(() => chat(gateway, "thrifty", "held")))
          yield* Effect.promise(() => upstream.waitForRequest(0))
          assert.strictEqual(yield* outcomeOf(gateway, used), "200")
          assert.strictEqual(yield* outcomeOf(gateway, "thrifty"), "200")

          assert.deepStrictEqual(yield* storesOf(gateway), ["sql answers"])
          yield* stop(proxy, line)
          const meanwhile: Array<Told> = []
          const until = performance.now() + 2_000
          while (performance.now() < until) meanwhile.push(yield* Effect.promise(() => chat(gateway, used)))
          assert.deepStrictEqual(Array.from(new Set(meanwhile.map(outcome))), ["200"])
          for (const secret of [unused, unknownSecret(), unknownSecret()]) {
            assert.strictEqual(yield* outcomeOf(gateway, secret), "503 store_unavailable")
          }
          for (let time = 0; time < 2; time++) {
            assert.strictEqual(yield* outcomeOf(gateway, "thrifty"), "503 store_unavailable")
          }
          assert.deepStrictEqual(yield* storesOf(gateway), ["sql does not"])
          // A configured key and no money: nothing that the database would be needed for.
          assert.strictEqual(yield* outcomeOf(gateway, "admin"), "200")
          release()
          assert.strictEqual(outcome(yield* Fiber.join(held)), "200")
          const before = yield* recorded
          assert.notInclude(before.ids, "held")

          yield* mend(proxy, line)
          assert.strictEqual(yield* eventually(outcomeOf(gateway, "thrifty"), "200"), "200")
          assert.deepStrictEqual(yield* storesOf(gateway), ["sql answers"])
          assert.strictEqual(yield* eventually(outcomeOf(gateway, unused), "200"), "200")
          assert.strictEqual(
            yield* eventually(outcomeOf(gateway, unknownSecret()), "401 unauthorized"),
            "401 unauthorized"
          )
          assert.strictEqual(yield* eventually(hasRecord("held"), "yes"), "yes")
          const last = meanwhile.at(-1)?.id ?? ""
          assert.strictEqual(yield* eventually(hasRecord(last), "yes"), "yes")
          const { ids } = yield* recorded
          assert.deepStrictEqual(meanwhile.filter(({ id }) => !ids.includes(id)), [])
          assert.strictEqual(yield* eventually(difference(gateway), ""), "")
        })
      ),
    90_000
  )

  it.live.each(lines)(
    "gives no answer without its record where that is asked for: %s",
    (line) =>
      withDatabase((url) =>
        Effect.gen(function*() {
          const proxy = yield* tcpProxy(url, 5432)
          const upstream = yield* FakeUpstream.make
          upstream.always(openAi.answer())
          const gateway = yield* serve(
            `${
              base(upstream.url)
            }usage: { sinks: [{ type: sql }], durability: strict }\nstorage: { sql: "${proxy.url}" }\n`
          )
          assert.strictEqual(yield* outcomeOf(gateway, "admin"), "200")
          yield* stop(proxy, line)
          const first = yield* Effect.promise(() => chat(gateway, "admin", "first"))
          assert.strictEqual(outcome(first), "503 store_unavailable")
          const calls = upstream.requests.length
          const since = performance.now()
          assert.strictEqual(yield* outcomeOf(gateway, "admin"), "503 store_unavailable")
          assert.isBelow(performance.now() - since, 2_000, "nobody waits for what is known not to come")
          assert.strictEqual(upstream.requests.length, calls, "and no provider is paid for it")
          yield* mend(proxy, line)
          assert.strictEqual(yield* eventually(outcomeOf(gateway, "admin"), "200"), "200")
          assert.strictEqual(yield* eventually(hasRecord("first"), "yes"), "yes")
        })
      ),
    60_000
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Redis
// ---------------------------------------------------------------------------------------------------------------------

describe.skipIf(redisUrl === undefined)("a gateway whose Redis goes away", () => {
  const redisPrefix: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
    Effect.sync(() => `test-${randomBytes(8).toString("hex")}:`),
    (prefix) =>
      Effect.gen(function*() {
        const redis = yield* Redis.Redis
        const keys = yield* redis.send<ReadonlyArray<string>>("KEYS", `*${prefix}*`)
        if (keys.length > 0) yield* redis.send("DEL", ...keys)
      }).pipe(
        Effect.orDie,
        Effect.provide(Layer.orDie(NodeRedis.layer({ url: redisUrl ?? "" })), { local: true })
      )
  )

  for (const failure of ["open", "closed"] as const) {
    it.live.each(lines)(
      `${failure}: limits do as they are told, budgets refuse, and both come back: %s`,
      (line) =>
        Effect.gen(function*() {
          const proxy = yield* tcpProxy(redisUrl ?? "", 6379)
          const { release, upstream } = yield* holding
          const gateway = yield* serve(
            `${base(upstream.url)}storage: { sql: "sqlite:./gateway.db", redis: "${proxy.url}", ` +
              `redis_prefix: "${yield* redisPrefix}", redis_failure: ${failure} }\n`
          )
          const held = yield* Effect.forkChild(Effect.promise(() => chat(gateway, "thrifty", "held")))
          yield* Effect.promise(() => upstream.waitForRequest(0))
          assert.strictEqual(yield* outcomeOf(gateway, "quick"), "200")

          yield* stop(proxy, line)
          const wanted = failure === "open" ? "200" : "503 store_unavailable"
          for (let time = 0; time < 10; time++) assert.strictEqual(yield* outcomeOf(gateway, "quick"), wanted)
          for (let time = 0; time < 2; time++) {
            assert.strictEqual(yield* outcomeOf(gateway, "thrifty"), "503 store_unavailable")
          }
          assert.strictEqual(yield* outcomeOf(gateway, "admin"), "200", "who has no limits needs no Redis")
          release()
          assert.strictEqual(outcome(yield* Fiber.join(held)), "200")
          assert.match(gateway.said(), /Redis/, "it is told loudly")

          yield* mend(proxy, line)
          assert.strictEqual(yield* eventually(outcomeOf(gateway, "thrifty"), "200"), "200")
          assert.strictEqual(yield* eventually(outcomeOf(gateway, "quick"), "429 rate_limited"), "429 rate_limited")
          yield* Effect.gen(function*() {
            assert.strictEqual(yield* eventually(hasRecord("held"), "yes"), "yes")
            assert.strictEqual(yield* eventually(difference(gateway), ""), "")
          }).pipe(Effect.provide(Layer.orDie(Sql.layer(Redacted.make(`sqlite:${gateway.folder}/gateway.db`)))))
        }),
      60_000
    )
  }
})
