/**
 * Whole gateways in processes of their own, which share limits and budgets: what they hold together is exact, also when one
 * of them is killed in the middle of its work.
 */
import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, Schema, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { hash, randomBytes } from "node:crypto"
import { setTimeout as delay } from "node:timers/promises"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { BudgetList } from "../../src/sdk/GatewayApi.ts"
import { ask, codeOf, native, type Told } from "../fixtures/ChatClient.ts"
import * as FakeUpstream from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import type { Json, Script } from "../fixtures/Script.ts"
import { serve, type ServedGateway } from "../fixtures/ServedGateway.ts"
import { isolated, postgresUrl, redisUrl } from "../fixtures/Stores.ts"
import { tcpProxy } from "../fixtures/TcpProxy.ts"
import { randomFrom } from "../modules/budgets/Ledgers.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Callers, models, limits
// ---------------------------------------------------------------------------------------------------------------------

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

/** Three keys of two users; `one` and `two` cost 1 and 2 USD for a million tokens of prompt and of answer. */
const callers = `
server: { port: 0 }
auth:
  mode: keys
  keys:
    - { id: k1, sha256: ${sha256("one")}, tenant: acme, user: ann, tags: [red] }
    - { id: k2, sha256: ${sha256("two")}, tenant: acme, user: ben }
    - { id: k3, sha256: ${sha256("three")}, tenant: acme, user: ann }
`
const secrets = ["one", "two", "three"]

const models = (upstream: string): string => `
providers:
  p: { type: openai, base_url: "${upstream}/v1", api_key: secret, unlisted_models: allow }
  q: { type: openai, base_url: "${upstream}/v1", api_key: secret, unlisted_models: allow }
models:
  - { id: "p::one", max_output_tokens: 1000, prices: { input_mtok: 1, output_mtok: 2 } }
  - { id: "q::two", max_output_tokens: 1000, prices: { input_mtok: 1, output_mtok: 2 } }
`

/** Nano-USD, by what a budget is per. */
const limits: Readonly<Record<string, number>> = {
  tenant: 60_000_000,
  user: 40_000_000,
  key: 30_000_000,
  model: 50_000_000,
  tag: 25_000_000
}

const budgets = `
tenants:
  acme:
    budgets:${
  Object.entries(limits).map(([per, nano]) => `\n      - { per: ${per}, usd: ${nano / 1e9}, window: total }`).join("")
}
routes:
  race: { models: ["p::one", "q::two"], hedge_after: 30ms }
  safe: { models: ["p::one", "q::two"] }
defaults:
  attempts: 3
  retry: { base: 5ms, max: 20ms }
  breaker: { failures: 1000 }
  timeouts: { first_token: 600ms, idle: 600ms, total: 4s }
`
/** With the four seconds that a request may take, those of a dead replica are given up after six. */
const graceMs = 2_000

const storage = (sql: string, redis?: { readonly url: string; readonly prefix: string }): string =>
  `storage: { sql: "${sql}"${redis === undefined ? "" : `, redis: "${redis.url}", redis_prefix: "${redis.prefix}"`} }\n`

// ---------------------------------------------------------------------------------------------------------------------
// Upstream and requests
// ---------------------------------------------------------------------------------------------------------------------

const say = "one two three four five six"

/** An upstream that does what upstreams do. It bills no more than it was allowed to. */
const moody = (random: (bound: number) => number): Script => (request) => {
  const asked = JSON.stringify(request.json["messages"]).length
  const most = Number(request.json["max_tokens"] ?? request.json["max_completion_tokens"])
  const usage = { prompt_tokens: 1 + random(Math.floor(asked / 5)), completion_tokens: random(most + 1) }
  const good = openAi.answer({ text: say, usage })
  const streamed = request.json["stream"] === true
  const script = ((): Script => {
    switch (random(12)) {
      case 0:
        return openAi.error(500)
      case 1:
        return openAi.error(400)
      case 2:
        return withFault(good, fault.slowHeaders(20 + random(80)))
      case 3:
        return withFault(good, fault.reset)
      case 4:
        return streamed ? withFault(good, fault.cut(4)) : withFault(good, fault.truncate())
      case 5:
        return streamed ? withFault(good, fault.trickle(5 + random(20))) : good
      case 6:
        return random(4) === 0 ? withFault(good, fault.hang) : good
      case 7:
        return openAi.answer({ text: say, usage: null })
      default:
        return withFault(good, fault.slowHeaders(random(10)))
    }
  })()
  return typeof script === "function" ? script(request) : script
}

const questionOf = (random: (bound: number) => number): Json => ({
  model: ["p::one", "q::two", "race", "safe"][random(4)],
  stream: random(2) === 0,
  max_tokens: 20 + random(180),
  messages: [{ role: "user", content: "word ".repeat(1 + random(40)) }]
})

// ---------------------------------------------------------------------------------------------------------------------
// What the stores hold
// ---------------------------------------------------------------------------------------------------------------------

/** How an account stands, nano-USD. */
interface Figures {
  readonly key: string
  readonly spent: number
  readonly reserved: number
}

/** What a budget is per, by the key of its account, and whose account it is. */
const partsOf = (key: string): { readonly per: string; readonly subject: string } => {
  const [, per = "", , , subject = ""] = key.split("|")
  return { per, subject }
}

const inPostgres = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ account_key: string; spent: bigint; reserved: bigint }>`
    SELECT account_key, spent, reserved FROM budget_accounts`
  return rows.map((row): Figures => ({
    key: row.account_key,
    spent: Number(row.spent),
    reserved: Number(row.reserved)
  }))
})

const inRedis = (prefix: string) =>
  Effect.gen(function*() {
    const redis = yield* Redis.Redis
    const found = `{${prefix}budgets}:a:`
    const keys = yield* redis.send<ReadonlyArray<string>>("KEYS", `${found}*`)
    return yield* Effect.forEach(keys, (key) =>
      Effect.map(redis.send<ReadonlyArray<string | null>>("HMGET", key, "s", "r"), ([spent, reserved]): Figures => ({
        key: key.slice(found.length),
        spent: Number(spent ?? 0),
        reserved: Number(reserved ?? 0)
      })))
  })

const named = (...names: ReadonlyArray<string>): string => names.map((name) => `${name.length}:${name}`).join("")

/** What the usage records add up to, by account: `<per> <subject>`. */
const recorded = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<
    { user_id: string; key_id: string; model_used: string | null; tags: ReadonlyArray<string>; cost: bigint }
  >`SELECT user_id, key_id, model_used, tags, cost_nano_usd AS cost FROM usage_records WHERE cost_nano_usd > 0`
  const sums: Record<string, number> = {}
  for (const { cost, key_id, model_used, tags, user_id } of rows) {
    for (
      const account of [
        "tenant ",
        `user ${named("acme", user_id)}`,
        `key ${named("acme", key_id)}`,
        `model ${named(model_used ?? "")}`,
        ...tags.map((tag) => `tag ${named(tag)}`)
      ]
    ) sums[account] = (sums[account] ?? 0) + Number(cost)
  }
  return sums
})

const recordedIds = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ request_id: string }>`SELECT request_id FROM usage_records WHERE kind = 'request'`
  return new Set(rows.map((row) => row.request_id))
})

const decodeBudgets = Schema.decodeUnknownSync(BudgetList)

/** The budgets as their owner sees them; undefined where the gateway does not answer. */
const shown = async (gateway: ServedGateway, secret: string): Promise<typeof BudgetList.Type | undefined> => {
  const response = await native(gateway, "/budgets", secret).catch(() => undefined)
  if (response === undefined) return undefined
  const text = await response.text()
  return response.status === 200 ? decodeBudgets(JSON.parse(text)) : undefined
}

const redisClient = Layer.orDie(NodeRedis.layer({ url: redisUrl ?? "", disableOfflineQueue: true }))
const database = (url: string) => Layer.orDie(Sql.layer(Redacted.make(url)))

/** A prefix of its own in Redis, whose keys are removed at the end of the scope. */
const redisPrefix: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => `test-${randomBytes(8).toString("hex")}:`),
  (prefix) =>
    Effect.gen(function*() {
      const redis = yield* Redis.Redis
      const keys = yield* redis.send<ReadonlyArray<string>>("KEYS", `*${prefix}*`)
      if (keys.length > 0) yield* redis.send("DEL", ...keys)
    }).pipe(Effect.orDie, Effect.provide(redisClient, { local: true }))
)

// ---------------------------------------------------------------------------------------------------------------------
// Budgets
// ---------------------------------------------------------------------------------------------------------------------

const requests = 1_000
const atOnce = 24

const threeGateways = Effect.fn(
  function*(ledger: "PostgreSQL" | "Redis", sqlUrl: string, note: (text: string) => Promise<unknown>) {
    const seed = randomBytes(4).readUInt32LE()
    const random = randomFrom(seed)
    const prefix = ledger === "Redis" ? yield* redisPrefix : ""
    const upstream = yield* FakeUpstream.make
    upstream.always(moody(randomFrom(seed + 1)))
    const line = ledger === "Redis" ? yield* tcpProxy(redisUrl ?? "", 6379) : undefined
    const yaml = (redis: string) =>
      callers + models(upstream.url) + budgets +
      storage(sqlUrl, ledger === "Redis" ? { url: redis, prefix } : undefined)
    const victim = yield* serve(yaml(line?.url ?? ""), { graceMs })
    const survivors = yield* Effect.forEach([1, 2], () => serve(yaml(redisUrl ?? ""), { graceMs }), {
      concurrency: "unbounded"
    })
    const [second] = survivors
    if (second === undefined) return assert.fail("no survivor")
    let alive: ReadonlyArray<ServedGateway> = [victim, ...survivors]
    const accounts = ledger === "Redis"
      ? Effect.provide(inRedis(prefix), yield* Layer.build(redisClient))
      : inPostgres

    let samples = 0
    let shownSamples = 0
    let busiest = 0
    const look = Effect.gen(function*() {
      for (const { key, reserved, spent } of yield* accounts) {
        assert.isAtMost(spent + reserved, limits[partsOf(key).per] ?? 0, `${key}, seed ${seed}`)
        busiest = Math.max(busiest, reserved)
      }
      samples++
      const list = yield* Effect.promise(() => shown(second, secrets[samples % 3] ?? ""))
      if (list === undefined) return
      shownSamples++
      assert.isAtLeast(list.budgets.length, 3)
      for (const { limitUsd, name, reservedUsd, spentUsd } of list.budgets) {
        assert.isAtMost(Math.round((spentUsd + reservedUsd) * 1e9), Math.round(limitUsd * 1e9), name)
      }
    })
    const watching = yield* Effect.forkChild(Effect.forever(Effect.delay(look, 5)))

    let next = 0
    let killed: Promise<unknown> | undefined
    const told: Array<{ readonly told: Told; readonly by: ServedGateway }> = []
    const running = new Map(alive.map((gateway) => [gateway, 0]))
    const count = (by: ServedGateway, more: number) => running.set(by, (running.get(by) ?? 0) + more)
    let leftBehind = 0
    let unsettled = 0
    const kill = async (): Promise<void> => {
      if (line !== undefined) {
        // Requests that end now have their records written, but Redis is not told any more what they cost.
        line.silence()
        const from = told.length
        const served = () =>
          told.slice(from).filter(({ by, told: { isComplete } }) => by === victim && isComplete).length
        for (let turn = 0; turn < 100 && served() < 2; turn++) await delay(20)
        await delay(200)
        unsettled = served()
      }
      alive = survivors
      leftBehind = running.get(victim) ?? 0
      await victim.end("SIGKILL")
    }
    const worker = async (): Promise<void> => {
      while (next < requests) {
        const number = next++
        if (number === requests * 0.3) killed = kill()
        const by = alive[number % alive.length] ?? second
        const leaves = random(8) === 0
        const signal = leaves ? AbortSignal.timeout(5 + random(40)) : undefined
        count(by, 1)
        const answer = await ask({
          url: by.url,
          secret: secrets[random(3)] ?? "",
          id: `r${number}`,
          body: questionOf(random),
          ...(signal === undefined ? {} : { signal })
        })
        count(by, -1)
        told.push({ told: answer, by })
      }
    }
    yield* Effect.promise(() => Promise.all(Array.from({ length: atOnce }, worker)))
    yield* Effect.promise(async () => killed)

    const counts: Record<string, number> = {}
    for (const { told: answer } of told) {
      const kind = answer.isComplete ? "complete" : `${answer.status ?? "none"} ${codeOf(answer)}`.trim()
      counts[kind] = (counts[kind] ?? 0) + 1
    }
    const figures = JSON.stringify({ seed, counts })
    const overAt = performance.now()
    let end = yield* accounts
    while (end.some(({ reserved }) => reserved > 0) && performance.now() - overAt < 30_000) {
      yield* Effect.sleep(100)
      end = yield* accounts
    }
    const backAfter = performance.now() - overAt
    yield* watching.pollUnsafe() ?? Effect.void
    yield* Fiber.interrupt(watching)
    const sums = yield* recorded
    yield* Effect.promise(() =>
      note(
        `${figures} samples ${samples}, shown ${shownSamples}, most reserved ${busiest}, ` +
          `killed with ${leftBehind} running and ${unsettled} unsettled, nothing reserved after ${
            Math.round(backAfter)
          } ms, sums ${JSON.stringify(sums)}`
      )
    )

    assert.deepStrictEqual(
      Object.fromEntries(
        end.filter(({ reserved, spent }) => spent !== 0 || reserved !== 0).map(({ key, reserved, spent }) => {
          const { per, subject } = partsOf(key)
          return [`${per} ${subject}`, [spent, reserved]]
        })
      ),
      Object.fromEntries(Object.entries(sums).map(([account, sum]) => [account, [sum, 0]])),
      figures
    )
    const records = yield* recordedIds
    const lost = told.filter(({ by, told: answer }) => by !== victim && answer.isComplete && !records.has(answer.id))
    assert.deepStrictEqual(lost.map(({ told: answer }) => answer.id), [])

    // What the test is worth: the budgets were fought for, the replica had work to leave, all kinds came.
    assert.isAtLeast(counts["complete"] ?? 0, 150, figures)
    assert.isAtLeast(counts["402 budget_exceeded"] ?? 0, 50, figures)
    assert.isAtLeast(counts["none"] ?? 0, 30, figures)
    assert.isAtLeast(samples, 50)
    assert.isAtLeast(shownSamples, 30)
    assert.isAbove(busiest, 1_000_000)
    assert.isAtLeast(leftBehind, 1, "the killed replica had work")
    if (line !== undefined) assert.isAtLeast(unsettled, 1, "the killed replica left records that were not settled")
  }
)

for (const ledger of ["PostgreSQL", "Redis"] as const) {
  describe.skipIf(postgresUrl === undefined || (ledger === "Redis" && redisUrl === undefined))(
    `three gateways with their budgets in ${ledger}`,
    () => {
      it.live(
        "never pass a limit; when one is killed its money comes back; what is spent is what the records say",
        (context) =>
          Effect.gen(function*() {
            const sqlUrl = yield* isolated(postgresUrl ?? "")
            yield* Effect.provide(
              threeGateways(ledger, sqlUrl, (text) => context.annotate(text)),
              database(sqlUrl)
            )
          }),
        120_000
      )
    }
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Rate limits
// ---------------------------------------------------------------------------------------------------------------------

describe.skipIf(redisUrl === undefined)("two gateways with their limits in one Redis", () => {
  /** Both gateways with the limits given, and what asks one or the other of them. */
  const twoGateways = Effect.fn(function*(limits: string, script: Script) {
    const prefix = yield* redisPrefix
    const upstream = yield* FakeUpstream.make
    upstream.always(script)
    const yaml = `${callers}${models(upstream.url)}
tenants: { acme: { rate_limits: [${limits}] } }
usage: { sinks: [{ type: noop }] }
${storage("sqlite::memory:", { url: redisUrl ?? "", prefix })}`
    const gateways = yield* Effect.forEach([1, 2], () => serve(yaml), { concurrency: "unbounded" })
    return {
      upstream,
      /** Requests so many times, by so many workers, at both in turn; `told` grows with the answers. */
      fire: (times: number, workers: number) => {
        const told: Array<Told> = []
        let next = 0
        const worker = async () => {
          while (next < times) {
            const number = next++
            const stream = number % 3 === 0
            told.push(
              await ask({
                url: gateways[number % 2]?.url ?? "",
                secret: secrets[number % secrets.length] ?? "",
                id: `r${number}`,
                body: { model: "p::one", stream, messages: [{ role: "user", content: "hello" }] }
              })
            )
          }
        }
        return { told, done: Promise.all(Array.from({ length: workers }, worker)) }
      }
    }
  })

  const isRefused = (told: Told): void => {
    assert.deepStrictEqual([told.status, codeOf(told)], [429, "rate_limited"], JSON.stringify(told.body))
    assert.match(told.headers.get("retry-after") ?? "none", /^[1-9]\d*$/)
  }

  it.live(
    "let exactly as many requests through as the limit says",
    (context) =>
      Effect.gen(function*() {
        // One comes back in a quarter of an hour, which this does not take.
        const { fire, upstream } = yield* twoGateways("{ per: tenant, requests: 100, window: 1d }", openAi.answer())
        const { done, told } = fire(400, 20)
        yield* Effect.promise(() => done)
        const [passed, others] = [
          told.filter(({ status }) => status === 200),
          told.filter(({ status }) => status !== 200)
        ]
        yield* Effect.promise(() => context.annotate(`${told.length} requests: ${passed.length} passed`))
        assert.lengthOf(passed, 100)
        assert.isTrue(passed.every(({ isComplete }) => isComplete))
        assert.lengthOf(upstream.requests, 100)
        for (const refused of others) isRefused(refused)
        const remaining = passed.map(({ headers }) => Number(headers.get("x-ratelimit-remaining-requests")))
        assert.deepStrictEqual(remaining.toSorted((a, b) => a - b), Array.from({ length: 100 }, (_, left) => left))
        for (const { headers } of told) {
          assert.strictEqual(headers.get("x-ratelimit-limit-requests"), "100")
          assert.match(headers.get("x-ratelimit-reset-requests") ?? "", /^\d+(\.\d+)?s$/)
        }
        assert.isTrue(others.every(({ headers }) => headers.get("x-ratelimit-remaining-requests") === "0"))
      }),
    60_000
  )

  it.live(
    "let exactly as many requests run at the same time as the limit says",
    () =>
      Effect.gen(function*() {
        let release = (): void => {}
        const released = new Promise<void>((resolve) => {
          release = resolve
        })
        const { fire, upstream } = yield* twoGateways(
          "{ per: tenant, concurrent: 10 }",
          withFault(openAi.answer(), fault.holdHeaders(released))
        )
        const { done, told } = fire(60, 60)
        // What runs is held at the upstream; what is refused is answered at once.
        yield* Effect.promise(() => upstream.waitForRequest(9, 20_000))
        while (told.length < 50) yield* Effect.sleep(10)
        for (const refused of told) isRefused(refused)
        assert.strictEqual(upstream.inFlight(), 10)
        release()
        yield* Effect.promise(() => done)
        assert.isTrue(told.slice(50).every(({ isComplete }) => isComplete))
        const again = fire(10, 10)
        yield* Effect.promise(() => again.done)
        assert.isTrue(again.told.every(({ isComplete }) => isComplete), "all places are free again")
      }),
    60_000
  )
})
