/** `serve --workers`: several processes behind one address, as their callers and operators see them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { hash, randomBytes } from "node:crypto"
import { readFileSync, renameSync, writeFileSync } from "node:fs"
import { Agent, request } from "node:http"
import path from "node:path"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { merged } from "../../src/server/ops/MetricsPeers.ts"
import { serve, type ServedGateway, temporaryFolder } from "../fixtures/ServedGateway.ts"
import { redisUrl } from "../fixtures/Stores.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")
const count = 3

const yamlOf = (more: string): string => `
server: { port: 0 }
auth:
  mode: keys
  keys:
    - { id: admin, sha256: ${sha256("admin")}, tenant: free, admin: true }
    - { id: limited, sha256: ${sha256("limited")}, tenant: limited }
tenants:
  free: {}
  limited: { rate_limits: [{ per: tenant, requests: 20, window: 1d }] }
providers:
  s: { type: sandbox }
${more}
`

const shared = () =>
  `storage: { redis: "${redisUrl}", redis_prefix: "test-workers-${randomBytes(6).toString("hex")}:" }\n`

/** Each request comes over a connection of its own, and so to the next worker. */
const send = (
  gateway: ServedGateway,
  method: string,
  at: string,
  secret: string,
  body?: unknown
): Promise<{ readonly status: number; readonly text: string }> =>
  new Promise((resolve) => {
    const lost = () => resolve({ status: 0, text: "" })
    const sent = request(`${gateway.url}${at}`, {
      method,
      agent: new Agent({ keepAlive: false }),
      headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" }
    }, (response) => {
      let text = ""
      response.setEncoding("utf8")
      response.on("data", (piece: string) => {
        text += piece
      })
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }))
      response.on("error", lost)
    })
    sent.on("error", lost)
    sent.end(body === undefined ? undefined : JSON.stringify(body))
  })

const chat = (gateway: ServedGateway, secret: string, model = "s::echo") =>
  send(gateway, "POST", "/v1/chat/completions", secret, { model, messages: [{ role: "user", content: "hello" }] })

const childrenOf = (pid: number): ReadonlyArray<number> => {
  try {
    const listed = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim()
    return listed === "" ? [] : listed.split(" ").map(Number)
  } catch {
    return []
  }
}

const isAlive = (pid: number): boolean => {
  try {
    // One that nobody has waited for is dead all the same.
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"))
  } catch {
    return false
  }
}

const until = async (holds: () => boolean | Promise<boolean>): Promise<void> => {
  const deadline = performance.now() + 40_000
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error("it did not come to be in forty seconds")
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

const allUp = (gateway: ServedGateway) => until(() => gateway.said().split("listens on").length > count)

describe("what several workers could not keep together", () => {
  it.live.each([
    { what: "limits in memory", more: "", problem: /storage\.redis: each worker would count/ },
    {
      what: "a database in memory",
      more: "storage: { sql: \"sqlite::memory:\" }\n",
      problem: /storage\.sql: each worker would have a database of its own/
    },
    {
      what: "audit files",
      more: "audit: { sinks: [{ type: jsonl, path: ./audit.jsonl }] }\n",
      problem: /audit\.sinks: a jsonl file has one writer/
    }
  ])("$what: refused, and told", ({ more, problem }) =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Effect.scoped(serve(yamlOf(more), { workers: 2 })))
      assert.isTrue(Exit.isFailure(exit))
      const error = String(exit)
      assert.match(error, /ended with 1/)
      assert.match(error, problem)
    }))
})

describe("figures of several processes", () => {
  it("each family is told once, and each series with its worker", () => {
    const text = (value: number) =>
      `# HELP a_total What.\n# TYPE a_total counter\na_total ${value}\na_total{b="c, {d} 1"} 2\n# TYPE e gauge\ne 3\n`
    assert.strictEqual(
      merged([{ worker: "1", text: text(1) }, { worker: "2", text: text(5) }]),
      "# HELP a_total What.\n# TYPE a_total counter\n" +
        "a_total{worker=\"1\"} 1\na_total{b=\"c, {d} 1\",worker=\"1\"} 2\n" +
        "a_total{worker=\"2\"} 5\na_total{b=\"c, {d} 1\",worker=\"2\"} 2\n" +
        "# TYPE e gauge\ne{worker=\"1\"} 3\ne{worker=\"2\"} 3\n"
    )
  })
})

describe.skipIf(redisUrl === undefined)("several workers with Redis", () => {
  it.live(
    "count limits together, write every record, tell all figures, take a new configuration, and drain",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const more = shared()
        const gateway = yield* serve(yamlOf(more), { folder, workers: count })
        yield* Effect.promise(async () => {
          await allUp(gateway)
          const outcomes = await Promise.all(Array.from({ length: 50 }, () => chat(gateway, "limited")))
          assert.strictEqual(outcomes.filter(({ status }) => status === 200).length, 20)
          assert.strictEqual(outcomes.filter(({ status }) => status === 429).length, 30)
          await Promise.all(Array.from({ length: 40 }, () => chat(gateway, "admin")))

          const { text } = await send(gateway, "GET", "/metrics", "admin")
          const totals = text.split("\n").filter((line) => line.startsWith("llm_gateway_requests_total{"))
          const served = new Set(totals.map((line) => /worker="(\d)"/.exec(line)?.[1]))
          assert.sameMembers(Array.from(served), ["1", "2", "3"])
          const ok = totals.filter((line) => line.includes("code=\"ok\""))
          assert.strictEqual(ok.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0), 60)
          const families = text.split("\n").filter((line) => line.startsWith("# TYPE"))
          assert.strictEqual(new Set(families).size, families.length)

          writeFileSync(`${gateway.file}.new`, yamlOf(`${more}routes:\n  fast: { models: ["s::echo"] }\n`))
          renameSync(`${gateway.file}.new`, gateway.file)
          await until(async () => {
            const asked = await Promise.all(Array.from({ length: 3 * count }, () => chat(gateway, "admin", "fast")))
            return asked.every(({ status }) => status === 200)
          })
          assert.strictEqual(await gateway.end("SIGTERM"), 0, gateway.said())
        })
        const [row] = yield* Effect.flatMap(SqlClient.SqlClient, (sql) =>
          sql<
            { count: number }
          >`SELECT count(*) AS count FROM usage_records WHERE model_asked = 's::echo' AND outcome = 'completed'`).pipe(
            Effect.provide(Layer.orDie(Sql.layer(Redacted.make(`sqlite:${path.join(folder, "data", "gateway.db")}`))))
          )
        assert.strictEqual(Number(row?.count), 60)
      }),
    90_000
  )

  it.live(
    "one that dies is started anew while the others serve, and none outlives the first process",
    () =>
      Effect.gen(function*() {
        const gateway = yield* serve(yamlOf(shared()), { workers: count })
        yield* Effect.promise(async () => {
          await allUp(gateway)
          const before = childrenOf(gateway.pid)
          assert.strictEqual(before.length, count)
          process.kill(before[0] ?? 0, "SIGKILL")
          // A connection that the first process gives to one that is dead, before it knows, is lost.
          await until(() => /worker \d has ended \(SIGKILL\)/.test(gateway.said()))
          for (let asked = 0; asked < 20; asked++) assert.strictEqual((await chat(gateway, "admin")).status, 200)
          await until(() => gateway.said().split("listens on").length > count + 1)
          const now = childrenOf(gateway.pid)
          assert.strictEqual(now.length, count)
          process.kill(gateway.pid, "SIGKILL")
          await until(() => !now.some(isAlive))
        })
      }),
    90_000
  )
})
