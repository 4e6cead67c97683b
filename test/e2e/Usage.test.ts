/** Usage and budgets over HTTP: what callers see of what was consumed, and what they do not. */
import { NodeServices } from "@effect/platform-node"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Layer, ManagedRuntime, Redacted, Result, Schema } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import path from "node:path"
import { NodeHttpServer } from "@effect/platform-node"
import * as ConfigFile from "../../src/config/ConfigFile.ts"
import * as GatewayLayer from "../../src/config/GatewayLayer.ts"
import * as Sql from "../../src/modules/sql/Sql.ts"
import * as UsageSql from "../../src/plugins/usage/sql/UsageSql.ts"
import type { Balance } from "../../src/sdk/Budgets.ts"
import type { Caller } from "../../src/sdk/Caller.ts"
import { BudgetList, Problem, UsageReport } from "../../src/sdk/GatewayApi.ts"
import { fail, StoreUnavailable, Unauthorized } from "../../src/sdk/GatewayError.ts"
import { Identity } from "../../src/sdk/Identity.ts"
import { type TenantPolicy, Tenants } from "../../src/sdk/Tenant.ts"
import { type UsageRecord, UsageSinkRegistry } from "../../src/sdk/UsageSink.ts"
import * as GatewayServer from "../../src/server/GatewayServer.ts"
import * as BudgetsApi from "../../src/server/native/BudgetsApi.ts"
import * as NativeApi from "../../src/server/native/NativeApi.ts"
import { startGateway } from "../fixtures/RunningGateway.ts"
import { parsed } from "../fixtures/Script.ts"
import { hostile, monday, record } from "../plugins/usage/Records.ts"

const strictly = { onExcessProperty: "error" } as const
const decodeReport = Schema.decodeUnknownSync(UsageReport, strictly)
const decodeProblem = Schema.decodeUnknownSync(Problem, strictly)
const decodeBudgets = Schema.decodeUnknownSync(BudgetList, strictly)

const callers: Readonly<Record<string, Caller>> = {
  acme: { tenant: "acme", keyId: "acme-key", tags: [] },
  labs: { tenant: "acme-labs", tags: [] },
  globex: { tenant: "globex", tags: [] },
  ann: { tenant: "acme", user: "ann", tags: [] },
  root: { tenant: "acme", admin: true, tags: [] },
  labsAdmin: { tenant: "acme-labs", admin: true, tags: [] },
  stranger: { tenant: "unlisted", tags: [] },
  chat: { tenant: "globex", user: "cat", keyId: "k7", tags: ["blue"] }
}

const identity = Layer.succeed(Identity, {
  authenticate: (secret) => {
    const caller = callers[secret?.reveal() ?? ""]
    return caller === undefined ? Effect.fail(fail(new Unauthorized({ message: "no" }))) : Effect.succeed(caller)
  }
})

const policy = (name: string, parent?: string): TenantPolicy => ({
  name,
  interceptors: [],
  rateLimits: [],
  budgets: [],
  ...(parent === undefined ? {} : { parent })
})
const tree = [
  policy("acme"),
  policy("acme-labs", "acme"),
  policy("acme-labs-berlin", "acme-labs"),
  policy("globex")
]

/** Its own sinks would come beside the one under test. */
const yaml = "usage: { sinks: [] }\nproviders:\n  sandbox: { type: sandbox }"

/** A gateway over the database in a file, and what writes records into it. */
const start = async (file: string, tenants: ReadonlyArray<TenantPolicy>) => {
  const config = Result.getOrThrow(ConfigFile.parse(yaml, "gateway.yaml", {}))
  const runtime = ManagedRuntime.make(
    GatewayServer.layer({ host: "127.0.0.1", port: 0, maxBodyBytes: 1_000_000, drainTimeout: 1000 }).pipe(
      Layer.provideMerge(Layer.mergeAll(UsageSql.layer(), Tenants.layer(tenants), identity)),
      Layer.provideMerge(GatewayLayer.layer(config)),
      Layer.provide(Sql.migrate(UsageSql.migrations)),
      Layer.provide(Sql.layer(Redacted.make(`sqlite:${file}`))),
      Layer.provide(NodeServices.layer)
    )
  )
  const { address } = await runtime.runPromise(HttpServer.HttpServer)
  if (address._tag === "UnixPathAddress") throw new Error("the service does not listen on TCP")
  const url = `http://127.0.0.1:${address.port}`
  const get = (search: string, key: string, headers: Readonly<Record<string, string>> = {}) =>
    fetch(`${url}/llm-gateway/v1/usage${search}`, { headers: { authorization: `Bearer ${key}`, ...headers } })
  return {
    url,
    get,
    report: async (search: string, key = "root") => {
      const response = await get(search, key)
      const body = await response.text()
      assert.strictEqual(response.status, 200, body)
      return decodeReport(parsed(body))
    },
    problem: async (search: string, key = "root") => {
      const response = await get(search, key)
      const body = await response.text()
      assert.strictEqual(response.headers.get("content-type"), "application/problem+json", body)
      return decodeProblem(parsed(body))
    },
    write: (...records: readonly [UsageRecord, ...ReadonlyArray<UsageRecord>]) =>
      runtime.runPromise(
        Effect.flatMap(UsageSinkRegistry, (registry) => registry.all()[0]?.write(records) ?? Effect.void)
      ),
    close: () => runtime.dispose()
  }
}

let folder: string
let gateway: Awaited<ReturnType<typeof start>>
let flat: Awaited<ReturnType<typeof start>>

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "usage-"))
  gateway = await start(path.join(folder, "tree.db"), tree)
  flat = await start(path.join(folder, "flat.db"), [])
})
afterAll(async () => {
  await gateway.close()
  await flat.close()
  rmSync(folder, { recursive: true })
})

const week = `?from=${monday}&to=${monday + 7 * 86_400_000}`

describe("usage", () => {
  it("holds what a request over HTTP consumed", async () => {
    const response = await fetch(`${gateway.url}/llm-gateway/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: "Bearer chat", "content-type": "application/json" },
      body: JSON.stringify({ model: "sandbox::echo", messages: [{ role: "user", content: "Hello, gateway!" }] })
    })
    assert.strictEqual(response.status, 200, await response.text())
    const groupBy = "tenant,user,key,tag,model,provider,operation,outcome"
    // Without a range, the last 30 days. Sinks get their records in batches, a moment after the answer.
    let report = await gateway.report(`?group_by=${groupBy}`)
    while (report.rows.length === 0) report = await gateway.report(`?group_by=${groupBy}`)
    assert.deepStrictEqual(report.rows.map(({ group }) => group), [{
      tenant: "globex",
      user: "cat",
      key: "k7",
      tag: "blue",
      model: "sandbox::echo",
      provider: "sandbox",
      operation: "chat",
      outcome: "completed"
    }])
    assert.strictEqual(Date.parse(report.to) - Date.parse(report.from), 30 * 86_400_000)
    const [row] = report.rows
    assert.isAbove(row?.inputTokens ?? 0, 0)
    assert.isAbove(row?.costNanoUsd ?? 0, 0)
    assert.strictEqual(row?.costUsd, (row?.costNanoUsd ?? 0) / 1e9)
    assert.isFalse(report.truncated)
  })
})

describe("who sees what", () => {
  beforeAll(async () => {
    const one = (id: string, fields: Partial<UsageRecord>) => record({ id: `see-${id}`, ...fields })
    await gateway.write(
      one("1", { tenant: "acme", user: "ann", costNanoUsd: 1 }),
      one("2", { tenant: "acme", user: "bob", costNanoUsd: 10 }),
      one("3", { tenant: "acme-labs", user: "ann", costNanoUsd: 100 }),
      one("4", { tenant: "acme-labs-berlin", costNanoUsd: 1000 }),
      one("5", { tenant: "globex", user: "ann", costNanoUsd: 10_000 }),
      one("6", { tenant: "unlisted", costNanoUsd: 100_000 })
    )
    await flat.write(one("7", { tenant: "acme", costNanoUsd: 1 }), one("8", { tenant: "acme-labs", costNanoUsd: 10 }))
  })
  const cost = async (key: string, search = "", on = gateway) =>
    (await on.report(`${week}${search}`, key)).rows[0]?.costNanoUsd

  it("callers see their own tenant and those below it", async () => {
    assert.strictEqual(await cost("acme"), 1111)
    assert.strictEqual(await cost("labs"), 1100)
    assert.strictEqual(await cost("globex"), 10_000)
    assert.strictEqual(await cost("stranger"), 100_000)
    assert.strictEqual(await cost("acme", "&tenant=acme-labs"), 1100)
    assert.strictEqual(await cost("acme", "&tenant=acme-labs-berlin"), 1000)
    assert.strictEqual(await cost("acme", "&user=ann"), 101)
  })

  it("a user's key sees that user's records in its tenant alone", async () => {
    assert.strictEqual(await cost("ann"), 1)
    assert.strictEqual(await cost("ann", "&tenant=acme&user=ann"), 1)
  })

  it("administrators of a root tenant see everything, others what is below theirs", async () => {
    assert.strictEqual(await cost("root"), 111_111)
    assert.strictEqual(await cost("root", "&tenant=globex"), 10_000)
    assert.strictEqual(await cost("root", "&tenant=unlisted"), 100_000)
    assert.strictEqual(await cost("labsAdmin"), 1100)
  })

  it("without configured tenants there are no children, and administrators see everything", async () => {
    assert.strictEqual(await cost("acme", "", flat), 1)
    assert.strictEqual(await cost("root", "", flat), 11)
    assert.strictEqual(await cost("labsAdmin", "&tenant=acme", flat), 1)
  })

  it.each([
    ["labs", "&tenant=acme"],
    ["acme", "&tenant=globex"],
    ["acme", "&tenant=there-is-none"],
    ["globex", "&tenant=acme&user=ann"],
    ["labsAdmin", "&tenant=acme"],
    ["ann", "&user=bob"],
    ["ann", "&tenant=acme-labs"],
    ["stranger", "&tenant=acme"]
  ])("%s may not ask for %s", async (key, search) => {
    assert.deepInclude(await gateway.problem(`${week}${search}`, key), { code: "forbidden", status: 403 })
  })

  it("nobody sees anything without a key", async () => {
    assert.strictEqual((await gateway.get(week, "wrong")).status, 401)
  })

  it("no text in a filter shows more than its records", async () => {
    for (const name of ["tenant", "user", "key", "tag", "model"]) {
      for (const text of hostile.filter((text) => text !== "")) {
        const response = await gateway.get(`${week}&${name}=${encodeURIComponent(text.toWellFormed())}`, "acme")
        const body = await response.text()
        if (name === "tenant") assert.strictEqual(response.status, 403, body)
        else assert.strictEqual(decodeReport(parsed(body)).rows[0]?.requests, 0, `${name}=${text}`)
      }
    }
  })
})

describe("questions", () => {
  it("tell what is wrong with a parameter, and which", async () => {
    const wrong = [
      ["from=yesterday", "from"],
      ["from=2026-02-30", "from"],
      ["from=2026-13-01", "from"],
      ["from=-5", "from"],
      ["from=", "from"],
      ["to=2026-05-01T25:00:00Z", "to"],
      ["to=99999999999999999", "to"],
      ["from=2026-05-02&to=2026-05-01", "from"],
      ["from=2026-05-01&from=2026-05-02", "from"],
      ["group_by=tenant,colour", "group_by"],
      ["operation=paint", "operation"],
      ["limit=0", "limit"],
      ["limit=10001", "limit"],
      ["limit=ten", "limit"],
      ["tenant=", "tenant"],
      ["groupby=day", "groupby"]
    ] as const
    for (const [search, field] of wrong) {
      const problem = await gateway.problem(`?${search}`)
      assert.deepInclude(problem, { code: "validation_error", status: 400, field }, search)
      assert.include(problem.detail, field)
    }
  })

  it.each([
    ["2026-05", "2026-05-01T00:00:00.000Z"],
    ["2026-05-04", "2026-05-04T00:00:00.000Z"],
    ["2026-05-04T13:30", "2026-05-04T13:30:00.000Z"],
    ["2026-05-04T13:30:15.25Z", "2026-05-04T13:30:15.250Z"],
    ["2026-05-04T13:30:00+02:00", "2026-05-04T11:30:00.000Z"],
    ["2026-05-04T13:30:00%2B0200", "2026-05-04T11:30:00.000Z"],
    ["2026-05-04T00:30:00-05:30", "2026-05-04T06:00:00.000Z"],
    ["1777852800000", "2026-05-04T00:00:00.000Z"]
  ])("%s is %s", async (asked, read) => {
    const { from, to } = await gateway.report(`?from=${asked}&to=2026-06-01`)
    assert.deepStrictEqual([from, to], [read, "2026-06-01T00:00:00.000Z"])
  })

  it("group by several names, in any way of writing them, and say when there is more", async () => {
    const search = "?from=2025-01&to=2025-03"
    const at = (iso: string, model: string, id: string) =>
      record({ id, startedAt: Date.parse(iso), modelUsed: model, tenant: "globex" })
    await gateway.write(
      at("2025-01-02T10:00:00Z", "a::x", "q1"),
      at("2025-01-02T11:00:00Z", "a::y", "q2"),
      at("2025-02-01T11:00:00Z", "a::x", "q3")
    )
    const groupsOf = async (more: string) => (await gateway.report(search + more)).rows.map(({ group }) => group)
    const expected = [
      { day: "2025-01-02", model: "a::x" },
      { day: "2025-01-02", model: "a::y" },
      { day: "2025-02-01", model: "a::x" }
    ]
    assert.deepStrictEqual(await groupsOf("&group_by=day,model"), expected)
    assert.deepStrictEqual(await groupsOf("&group_by=day&group_by=model,day"), expected)
    assert.deepStrictEqual(await groupsOf("&group_by=month"), [{ month: "2025-01" }, { month: "2025-02" }])
    assert.deepStrictEqual(await groupsOf("&group_by="), [{}])
    const some = await gateway.report(`${search}&group_by=day,model&limit=2`)
    assert.isTrue(some.truncated)
    assert.lengthOf(some.rows, 2)
    assert.isFalse((await gateway.report(`${search}&group_by=day,model&limit=3`)).truncated)
  })

  it("about a time without records have no groups, and a total of nothing", async () => {
    const nothing = "?from=2020-01-01&to=2020-01-01"
    assert.deepStrictEqual((await gateway.report(`${nothing}&group_by=tenant`)).rows, [])
    const { rows } = await gateway.report(nothing)
    assert.deepStrictEqual(rows.map(({ costUsd, requests }) => [costUsd, requests]), [[0, 0]])
  })

  it("are described in the API's document", async () => {
    const text = await (await fetch(`${gateway.url}/openapi.json`)).text()
    for (const name of ["from", "to", "group_by", "tenant", "user", "key", "tag", "model", "limit"]) {
      assert.include(text, `{"name":"${name}","in":"query"`)
    }
    assert.include(text, "\"text/csv\"")
  })

  it("are answered with GET alone", async () => {
    const response = await fetch(`${gateway.url}/llm-gateway/v1/usage`, {
      method: "POST",
      headers: { authorization: "Bearer root" }
    })
    assert.strictEqual(response.status, 405)
    assert.strictEqual(response.headers.get("allow"), "GET, HEAD")
  })

  it("have no answer where no records are kept, and that says how to keep some", async () => {
    const without = await startGateway(yaml)
    try {
      const problem = decodeProblem(parsed(await (await fetch(`${without.url}/llm-gateway/v1/usage`)).text()))
      assert.deepInclude(problem, { code: "not_found", status: 404 })
      assert.include(problem.detail, "usage.sinks: [{ type: sql }]")
    } finally {
      await without.close()
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// CSV
// ---------------------------------------------------------------------------------------------------------------------

/** Reads RFC 4180, strictly; a cell without quotes and without text is `null`. */
const readCsv = (text: string): ReadonlyArray<ReadonlyArray<string | null>> => {
  const rows: Array<Array<string | null>> = []
  let row: Array<string | null> = []
  let at = 0
  while (at < text.length) {
    const cell = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/y
    cell.lastIndex = at
    const match = cell.exec(text)
    if (match === null) return assert.fail(`no CSV from here: ${text.slice(at, at + 100)}`)
    const [whole, quoted, plain, end] = match
    row.push(quoted === undefined ? plain === "" ? null : plain ?? null : quoted.replaceAll("\"\"", "\""))
    at += whole.length
    if (end === "\r\n") {
      rows.push(row)
      row = []
    }
  }
  assert.lengthOf(row, 0, "the last line has its end")
  return rows
}

describe("as CSV", () => {
  const search = "?from=2024-01&to=2024-02&group_by=tag,user"
  const texts = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "'quoted",
    "'=1",
    "a,b",
    "say \"hi\"",
    "two\r\nlines",
    "",
    "plain",
    "ünï 🚀",
    "1e5"
  ]
  beforeAll(async () => {
    const [first, ...rest] = texts.map((text, index) =>
      record({
        id: `csv-${index}`,
        startedAt: Date.UTC(2024, 0, 1),
        tags: [text],
        costNanoUsd: index === 0 ? 1_000_000_001 : texts.length - index,
        ...(index % 2 === 0 ? { user: text } : {})
      })
    )
    if (first !== undefined) await gateway.write(first, ...rest)
  })

  it("has a heading, and every text back, none of them a formula", async () => {
    const response = await gateway.get(search, "root", { accept: "text/csv" })
    assert.strictEqual(response.headers.get("content-type"), "text/csv; charset=utf-8; header=present")
    assert.strictEqual(response.headers.get("x-gateway-truncated"), "false")
    const [heading, ...rows] = readCsv(await response.text())
    assert.deepStrictEqual(heading?.slice(0, 5), ["tag", "user", "requests", "input_tokens", "output_tokens"])
    assert.deepStrictEqual(heading?.slice(-4), ["cost_usd", "cost_nano_usd", "unpriced", "estimated"])
    const restored = (cell: string | null | undefined) => cell?.replace(/^'(?=[=+\-@\t\r'])/, "") ?? null
    assert.deepStrictEqual(
      rows.map(([tag, user]) => [restored(tag), restored(user)]),
      texts.map((text, index) => [text, index % 2 === 0 ? text : null])
    )
    for (const cell of rows.flat()) assert.notMatch(cell ?? "", /^[=+\-@\t\r]/)
    // The same figures as in JSON, in the same order.
    const report = await gateway.report(search)
    const cost = heading?.indexOf("cost_nano_usd") ?? -1
    assert.deepStrictEqual(rows.map((row) => Number(row[cost])), report.rows.map(({ costNanoUsd }) => costNanoUsd))
    assert.deepStrictEqual(rows.map((row) => row[cost - 1]).slice(0, 2), ["1.000000001", "0.000000014"])
  })

  it("says when there is more", async () => {
    const response = await gateway.get(`${search}&limit=2`, "root", { accept: "text/csv" })
    assert.strictEqual(response.headers.get("x-gateway-truncated"), "true")
    assert.lengthOf(readCsv(await response.text()), 3)
  })

  it.each([
    ["text/csv", "text/csv"],
    ["text/csv, */*", "text/csv"],
    ["application/json;q=0.5, TEXT/CSV", "text/csv"],
    ["text/csv, application/json", "application/json"],
    ["text/csv;q=0", "application/json"],
    ["text/csv;q=0.1, application/json", "application/json"],
    ["*/*", "application/json"],
    ["text/html", "application/json"]
  ])("%s gets %s", async (accept, type) => {
    const response = await gateway.get(search, "root", { accept })
    assert.strictEqual(response.headers.get("content-type")?.split(";", 1)[0], type)
    assert.strictEqual(response.headers.get("vary"), "accept")
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Budgets
// ---------------------------------------------------------------------------------------------------------------------

describe("budgets", () => {
  it("are listed, none where none are enforced", async () => {
    const response = await fetch(`${gateway.url}/llm-gateway/v1/budgets`, { headers: { authorization: "Bearer acme" } })
    assert.deepStrictEqual(decodeBudgets(parsed(await response.text())), { budgets: [] })
  })

  it("show limit, spent, reserved, what remains and when they start anew", async () => {
    const account = {
      key: "tenant:acme:month:2026-05",
      name: "month budget of tenant acme",
      limitNanoUsd: 5_000_000_000
    }
    const balances: ReadonlyArray<Balance> = [
      {
        account: { ...account, resetsAt: Date.UTC(2026, 5, 1) },
        spentNanoUsd: 1_500_000_001,
        reservedNanoUsd: 250_000_000
      },
      { account: { ...account, key: "total", limitNanoUsd: 1 }, spentNanoUsd: 7, reservedNanoUsd: 0 }
    ]
    const unavailable = fail(new StoreUnavailable({ store: "budgets", message: "the budgets cannot be read" }))
    const handlers = Layer.mergeAll(
      HttpRouter.add("GET", "/budgets", BudgetsApi.list(NativeApi.door, Effect.succeed(balances))),
      HttpRouter.add("GET", "/down", BudgetsApi.list(NativeApi.door, Effect.fail(unavailable)))
    )
    const runtime = ManagedRuntime.make(
      HttpRouter.serve(handlers, { disableLogger: true, disableListenLog: true }).pipe(
        Layer.provide(identity),
        Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" }))
      )
    )
    try {
      const { address } = await runtime.runPromise(HttpServer.HttpServer)
      const port = address._tag === "UnixPathAddress" ? 0 : address.port
      const get = (path: string) =>
        fetch(`http://127.0.0.1:${port}${path}`, { headers: { authorization: "Bearer acme" } })
      assert.deepStrictEqual(parsed(await (await get("/budgets")).text()), {
        budgets: [
          {
            name: "month budget of tenant acme",
            key: "tenant:acme:month:2026-05",
            limit_usd: 5,
            spent_usd: 1.500000001,
            reserved_usd: 0.25,
            remaining_usd: 3.249999999,
            resets_at: "2026-06-01T00:00:00.000Z"
          },
          {
            name: "month budget of tenant acme",
            key: "total",
            limit_usd: 1e-9,
            spent_usd: 7e-9,
            reserved_usd: 0,
            remaining_usd: 0
          }
        ]
      })
      assert.strictEqual((await get("/down")).status, 503)
    } finally {
      await runtime.dispose()
    }
  })
})
