/** Keys over HTTP: administrators make, list, revoke and rotate them, and requests come in with them. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Redacted, Schema, Scope } from "effect"
import { createHash, randomBytes } from "node:crypto"
import * as IdentityKeys from "../../src/modules/identity/IdentityKeys.ts"
import * as KeysSql from "../../src/modules/identity/KeysSql.ts"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { Problem } from "../../src/sdk/GatewayApi.ts"
import { IssuedKeyJson, KeyJson, KeyListJson } from "../../src/sdk/KeyJson.ts"
import { type KeyGateway, startKeyGateway } from "../fixtures/KeyGateway.ts"
import { isJson, type Json } from "../fixtures/Script.ts"
import { isolated, postgresUrl } from "../fixtures/Stores.ts"
import { type TcpProxy, tcpProxy } from "../fixtures/TcpProxy.ts"

const strictly = { onExcessProperty: "error" } as const
const decodeIssued = Schema.decodeUnknownSync(IssuedKeyJson, strictly)
const decodeKey = Schema.decodeUnknownSync(KeyJson, strictly)
const decodeList = Schema.decodeUnknownSync(KeyListJson, strictly)
const decodeProblem = Schema.decodeUnknownSync(Problem, strictly)

const sha256 = (secret: string) => createHash("sha256").update(secret).digest("hex")
const adminOf = (tenant: string): IdentityKeys.ApiKey => ({
  id: `admin-of-${tenant}`,
  sha256: sha256(`admin ${tenant}`),
  tenant,
  user: "root",
  admin: true
})
const plain: IdentityKeys.ApiKey = { id: "plain", sha256: sha256("plain"), tenant: "acme" }

const keysPath = "/llm-gateway/v1/admin/keys"
const chatPath = "/llm-gateway/v1/chat/completions"
const question = { model: "sandbox::echo", messages: [{ role: "user", content: "hello" }] }

const keysIn = (url: string, options: KeysSql.KeysSqlOptions) =>
  KeysSql.layer(options).pipe(
    Layer.provide(Sql.migrate(KeysSql.migrations)),
    Layer.provide(Sql.layer(Redacted.make(url)))
  )

const randomSecret = () => `lg_${randomBytes(32).toString("base64url")}`

const problemOf = async (answer: ReturnType<KeyGateway["send"]>) => {
  const { body, headers, status } = await answer
  assert.strictEqual(headers.get("content-type"), "application/problem+json")
  const problem = decodeProblem(body)
  assert.strictEqual(problem.status, status)
  return problem
}

const refused = async (answer: ReturnType<KeyGateway["send"]>) => {
  const { code, field, status } = await problemOf(answer)
  return `${status} ${code}${field === undefined ? "" : ` ${field}`}`
}

describe("a gateway without configured tenants", () => {
  let gateway: KeyGateway
  const admin = "admin acme"
  const create = async (body: Json) => {
    const answer = await gateway.send("POST", keysPath, admin, body)
    assert.strictEqual(answer.status, 201, JSON.stringify(answer.body))
    return decodeIssued(answer.body)
  }
  const chat = (secret?: string) => gateway.send("POST", chatPath, secret, question)

  beforeAll(async () => {
    gateway = await startKeyGateway(keysIn("sqlite::memory:", { keys: [adminOf("acme"), plain] }))
  })
  afterAll(() => gateway.close())

  it("gives a key whose secret works at once, in every dialect, and is shown once", async () => {
    const answer = await gateway.send("POST", keysPath, admin, {
      name: "backend",
      tenant: "anyone",
      user: "ada",
      tags: ["a"],
      models: ["sandbox::*"],
      rate_limits: [{ per: "user", requests: 60, window: "1m" }, { per: "key", concurrent: 5 }],
      budgets: [{ per: "key", usd: 12.5, window: "month" }],
      expires_at: "2099-12-31"
    })
    assert.strictEqual(answer.status, 201)
    assert.strictEqual(answer.headers.get("cache-control"), "no-store")
    const { key, secret } = decodeIssued(answer.body)
    assert.match(secret, /^lg_[A-Za-z0-9_-]{43}$/)
    const shown = isJson(answer.body["key"]) ? answer.body["key"] : {}
    assert.deepStrictEqual({ ...shown, created_at: "" }, {
      id: key.id,
      name: "backend",
      tenant: "anyone",
      user: "ada",
      tags: ["a"],
      admin: false,
      models: ["sandbox::*"],
      rate_limits: [{ per: "user", requests: 60, window: "1m" }, { per: "key", concurrent: 5 }],
      budgets: [{ per: "key", usd: 12.5, window: "month" }],
      source: "store",
      created_at: "",
      expires_at: "2099-12-31T00:00:00.000Z"
    })
    assert.strictEqual((await chat(secret)).status, 200)
    assert.strictEqual((await gateway.send("POST", "/v1/chat/completions", secret, question)).status, 200)
    const byHeader = await fetch(`${gateway.url}/v1/models`, { headers: { "x-api-key": secret } })
    assert.strictEqual(byHeader.status, 200, await byHeader.text())
    const list = await gateway.send("GET", keysPath, admin)
    assert.include(JSON.stringify(list.body), key.id)
    assert.notInclude(JSON.stringify(list.body), secret)
  })

  it("refuses a key from its revocation on, which can be told twice", async () => {
    const { key, secret } = await create({ tenant: "acme" })
    assert.strictEqual((await chat(secret)).status, 200)
    const first = await gateway.send("DELETE", `${keysPath}/${key.id}`, admin)
    assert.strictEqual(first.status, 200)
    assert.isDefined(decodeKey(first.body).revokedAt)
    const { detail, status } = await problemOf(chat(secret))
    assert.deepStrictEqual([status, detail], [401, "this API key has been revoked"])
    assert.deepStrictEqual((await gateway.send("DELETE", `${keysPath}/${key.id}`, admin)).body, first.body)
    assert.strictEqual(
      await refused(gateway.send("POST", `${keysPath}/${key.id}/rotate`, admin)),
      "400 validation_error id"
    )
  })

  it("rotates a key, with a time in which both secrets work", async () => {
    const { key, secret } = await create({ tenant: "acme", id: "rotating:key.1" })
    const path = `${keysPath}/${encodeURIComponent(key.id)}/rotate`
    const answer = await gateway.send("POST", path, admin, { grace: "1h" })
    assert.strictEqual(answer.status, 200)
    assert.strictEqual(answer.headers.get("cache-control"), "no-store")
    const second = decodeIssued(answer.body)
    assert.strictEqual(second.key.id, key.id)
    for (const good of [secret, second.secret]) assert.strictEqual((await chat(good)).status, 200)
    const third = decodeIssued((await gateway.send("POST", path, admin)).body)
    for (const old of [secret, second.secret]) assert.strictEqual(await refused(chat(old)), "401 unauthorized")
    assert.strictEqual((await chat(third.secret)).status, 200)
    for (const body of [{ grace: "1y" }, { grace: -1 }, { grace: "31d" }, { grace: {} }, "{\"grace\":1e999}"]) {
      assert.strictEqual(await refused(gateway.send("POST", path, admin, body)), "400 validation_error grace")
    }
    assert.strictEqual(await refused(gateway.send("POST", path, admin, { grac: 1 })), "400 validation_error grac")
  })

  it("lists keys page by page", async () => {
    for (let i = 0; i < 5; i++) await create({ tenant: "paged", id: `page-${i}` })
    const ids: Array<string> = []
    let next: string | undefined = ""
    let pages = 0
    while (next !== undefined) {
      const query: string = next === "" ? "" : `&after=${encodeURIComponent(next)}`
      const page = decodeList((await gateway.send("GET", `${keysPath}?limit=2&tenant=paged${query}`, admin)).body)
      ids.push(...page.keys.map(({ id }) => id))
      next = page.next
      pages++
    }
    assert.deepStrictEqual([pages, ids], [3, [0, 1, 2, 3, 4].map((i) => `page-${i}`)])
    const all = decodeList((await gateway.send("GET", `${keysPath}?limit=1000`, admin)).body)
    assert.include(all.keys.map(({ id, source }) => `${source} ${id}`), "configuration admin-of-acme")
    for (
      const [query, field] of [
        ["limit=0", "limit"],
        ["limit=1001", "limit"],
        ["limit=-1", "limit"],
        ["limit=1e3", "limit"],
        ["limit=1&limit=2", "limit"],
        ["tennant=acme", "tennant"],
        ["after=%00", "after"],
        ["tenant=%00", "tenant"],
        ["tenant=", "tenant"]
      ]
    ) {
      assert.strictEqual(
        await refused(gateway.send("GET", `${keysPath}?${query}`, admin)),
        `400 validation_error ${field}`
      )
    }
    const evil = encodeURIComponent("' OR 1=1; DROP TABLE api_keys; --")
    assert.deepStrictEqual(
      decodeList((await gateway.send("GET", `${keysPath}?tenant=${evil}&after=${evil}`, admin)).body),
      { keys: [] }
    )
  })

  it("names the field that is wrong with a new key", async () => {
    const wrong: ReadonlyArray<readonly [body: unknown, field: string]> = [
      [{}, "tenant"],
      [{ tenant: 7 }, "tenant"],
      [{ tenant: "" }, "tenant"],
      [{ tenant: "a\u0000" }, "tenant"],
      [{ tenant: "a", tenat: "b" }, "tenat"],
      [{ tenant: "a", id: "../../etc" }, "id"],
      [{ tenant: "a", admin: "yes" }, "admin"],
      [{ tenant: "a", expires_at: "soon" }, "expires_at"],
      [{ tenant: "a", expires_at: "2099-02-30" }, "expires_at"],
      [{ tenant: "a", expires_at: 1 }, "expires_at"],
      [{ tenant: "a", rate_limits: [{ per: "user", requests: -1, window: "1m" }] }, "rate_limits[0].requests"],
      ["{\"tenant\":\"a\",\"rate_limits\":[{\"per\":\"key\",\"tokens\":1e999,\"window\":1}]}", "rate_limits[0].tokens"],
      [{ tenant: "a", rate_limits: [{ per: "user", requests: 1, window: "-1m" }] }, "rate_limits[0].window"],
      [{ tenant: "a", rate_limits: [{ per: "user", concurrent: 1, window: "1m" }] }, "rate_limits[0]"],
      [{ tenant: "a", rate_limits: [{ per: "planet", concurrent: 1 }] }, "rate_limits[0].per"],
      [{ tenant: "a", budgets: [{ per: "key", usd: -0.01, window: "day" }] }, "budgets[0].usd"],
      [{ tenant: "a", budgets: [{ per: "key", usd: 1e300, window: "day" }] }, "budgets[0].usd"],
      [{ tenant: "a", budgets: [{ per: "key", usd: 1, window: "year" }] }, "budgets[0].window"],
      [{ tenant: "a", id: "plain" }, "id"]
    ]
    for (const [body, field] of wrong) {
      assert.strictEqual(
        await refused(gateway.send("POST", keysPath, admin, body)),
        `400 validation_error ${field}`,
        JSON.stringify(body)
      )
    }
    assert.strictEqual(
      await refused(gateway.send("POST", keysPath, admin, "x".repeat(300_000))),
      "413 payload_too_large"
    )
  })

  it("leaves administration to administrators", async () => {
    const tries: ReadonlyArray<readonly [string, string, unknown?]> = [
      ["POST", keysPath, { tenant: "acme", admin: true }],
      ["GET", keysPath],
      ["DELETE", `${keysPath}/plain`],
      ["POST", `${keysPath}/plain/rotate`]
    ]
    for (const [method, path, body] of tries) {
      assert.strictEqual(await refused(gateway.send(method, path, undefined, body)), "401 unauthorized")
      assert.strictEqual(await refused(gateway.send(method, path, randomSecret(), body)), "401 unauthorized")
      assert.strictEqual(await refused(gateway.send(method, path, "plain", body)), "403 forbidden")
    }
    const { secret } = await create({ tenant: "acme", admin: true })
    assert.strictEqual((await gateway.send("GET", keysPath, secret)).status, 200)
  })

  it("tells wrong methods which ones are right, and what is not there", async () => {
    for (
      const [method, path, allow] of [
        ["PUT", keysPath, "GET, HEAD, POST"],
        ["GET", `${keysPath}/plain`, "DELETE"],
        ["GET", `${keysPath}/plain/rotate`, "POST"],
        ["GET", "/llm-gateway/v1/routes/fast/explain", "POST"]
      ] as const
    ) {
      const { headers, status } = await gateway.send(method, path, admin)
      assert.deepStrictEqual([status, headers.get("allow")], [405, allow], path)
    }
    for (const id of ["none", "%00", "%E0%A4%A", "a%27%20OR%201=1", "x".repeat(5000)]) {
      assert.strictEqual(await refused(gateway.send("DELETE", `${keysPath}/${id}`, admin)), "404 not_found", id)
    }
    assert.strictEqual(await refused(gateway.send("GET", `${keysPath}/a/b/c`, admin)), "404 not_found")
    assert.strictEqual(await refused(gateway.send("DELETE", `${keysPath}/plain`, admin)), "400 validation_error id")
  })

  it("documents the endpoints", async () => {
    const { body } = await gateway.send("GET", "/openapi.json", admin)
    const paths = isJson(body["paths"]) ? body["paths"] : {}
    assert.deepStrictEqual(
      Object.entries(paths).flatMap(([path, item]) =>
        path.includes("/admin/keys") && isJson(item) ? Object.keys(item).map((method) => `${method} ${path}`) : []
      ).sort(),
      [
        `delete ${keysPath}/{id}`,
        `get ${keysPath}`,
        `post ${keysPath}`,
        `post ${keysPath}/{id}/rotate`
      ]
    )
  })

  it("writes to the audit trail who did what, by ids alone", async () => {
    const before = gateway.audited.length
    const { key, secret } = await create({ tenant: "acme", name: "a name", user: "a user", tags: ["a tag"] })
    const rotated = decodeIssued((await gateway.send("POST", `${keysPath}/${key.id}/rotate`, admin)).body)
    await gateway.send("DELETE", `${keysPath}/${key.id}`, admin)
    await gateway.send("DELETE", `${keysPath}/${key.id}`, admin)
    await gateway.send("DELETE", `${keysPath}/none`, admin)
    const events = gateway.audited.slice(before)
    assert.deepStrictEqual(
      events,
      (["key_created", "key_rotated", "key_revoked"] as const).map((type, index) => ({
        type,
        at: events[index]?.at ?? 0,
        requestId: events[index]?.requestId ?? "",
        tenant: "acme",
        user: "root",
        keyId: "admin-of-acme",
        details: { key: key.id, key_tenant: "acme" }
      }))
    )
    for (const hidden of [secret, rotated.secret, "a name", "a user", "a tag"]) {
      assert.notInclude(JSON.stringify([events, gateway.logged]), hidden)
    }
  })

  it("answers bad secrets alike, and logs none of them", async () => {
    const before = gateway.logged.length
    const secrets = [
      "x",
      randomSecret(),
      `lg_${"'".repeat(43)}`,
      "lg_",
      `${randomSecret()}x`,
      "x".repeat(8000),
      ...Array.from({ length: 1000 }, randomSecret)
    ]
    const told = new Set<string>()
    for (let at = 0; at < secrets.length; at += 50) {
      const problems = await Promise.all(secrets.slice(at, at + 50).map((secret) => problemOf(chat(secret))))
      for (const { request_id: _, ...problem } of problems) told.add(JSON.stringify(problem))
    }
    assert.strictEqual(told.size, 1, Array.from(told).join("\n"))
    assert.include(Array.from(told)[0], "\"code\":\"unauthorized\"")
    assert.strictEqual((await chat("x".repeat(20_000))).status, 431)
    assert.strictEqual(gateway.logged.length, before)
  })
})

describe("a gateway with a family of tenants", () => {
  let gateway: KeyGateway
  beforeAll(async () => {
    gateway = await startKeyGateway(
      keysIn("sqlite::memory:", { keys: ["acme", "acme-eu", "other", "gone"].map(adminOf) }),
      { acme: undefined, "acme-eu": "acme", "acme-eu-1": "acme-eu", other: undefined }
    )
  })
  afterAll(() => gateway.close())

  const create = async (as: string, tenant: string) =>
    decodeIssued((await gateway.send("POST", keysPath, `admin ${as}`, { tenant })).body).key.id

  it("lets administrators make keys for their own tenant and those below it", async () => {
    const may = async (as: string, tenant: string) =>
      (await gateway.send("POST", keysPath, `admin ${as}`, { tenant })).status
    for (const tenant of ["acme", "acme-eu", "acme-eu-1"]) assert.strictEqual(await may("acme", tenant), 201)
    for (const tenant of ["other", "nobody"]) assert.strictEqual(await may("acme", tenant), 403)
    assert.strictEqual(await may("acme-eu", "acme-eu-1"), 201)
    assert.strictEqual(await may("acme-eu", "acme"), 403)
  })

  it("hides the keys of others", async () => {
    const mine = await create("acme", "acme-eu")
    const theirs = await create("other", "other")
    const ids = async (as: string, query = "") =>
      decodeList((await gateway.send("GET", `${keysPath}?limit=1000${query}`, `admin ${as}`)).body).keys
    const seen = await ids("acme-eu")
    assert.include(seen.map(({ id }) => id), mine)
    assert.deepStrictEqual(Array.from(new Set(seen.map(({ tenant }) => tenant))).sort(), ["acme-eu", "acme-eu-1"])
    assert.strictEqual(await refused(gateway.send("GET", `${keysPath}?tenant=other`, "admin acme")), "403 forbidden")
    const unknown = await problemOf(gateway.send("DELETE", `${keysPath}/none`, "admin acme"))
    const hidden = await problemOf(gateway.send("DELETE", `${keysPath}/${theirs}`, "admin acme"))
    assert.strictEqual(hidden.detail.replace(theirs, "none"), unknown.detail)
    assert.strictEqual(hidden.status, 404)
    assert.strictEqual(
      await refused(gateway.send("POST", `${keysPath}/${theirs}/rotate`, "admin acme")),
      "404 not_found"
    )
    assert.strictEqual((await gateway.send("DELETE", `${keysPath}/${mine}`, "admin acme")).status, 200)
    assert.strictEqual((await gateway.send("DELETE", `${keysPath}/${theirs}`, "admin other")).status, 200)
  })

  it("forbids callers whose tenant it does not have", async () => {
    const { code, detail } = await problemOf(gateway.send("POST", chatPath, "admin gone", question))
    assert.deepStrictEqual([code, detail], ["forbidden", "the tenant \"gone\" is not one of this gateway's"])
  })
})

describe("a gateway that keeps no keys", () => {
  it("says how to have some", async () => {
    const gateway = await startKeyGateway(IdentityKeys.layerNone())
    try {
      const { code, detail } = await problemOf(gateway.send("GET", keysPath))
      assert.strictEqual(code, "not_found")
      assert.include(detail, "storage.sql")
    } finally {
      await gateway.close()
    }
  })
})

describe.skipIf(postgresUrl === undefined)("a gateway whose PostgreSQL goes away", () => {
  const scope = Scope.makeUnsafe()
  let gateway: KeyGateway
  let proxy: TcpProxy
  beforeAll(() =>
    Effect.gen(function*() {
      proxy = yield* tcpProxy(yield* isolated(postgresUrl ?? ""), 5432)
      gateway = yield* Effect.promise(() =>
        startKeyGateway(keysIn(proxy.url, { keys: [adminOf("acme")], freshMs: 100, patienceMs: 300 }))
      )
    }).pipe(Scope.provide(scope), Effect.runPromise)
  )
  afterAll(async () => {
    await gateway.close()
    await Effect.runPromise(Scope.close(scope, Exit.void))
  })

  const create = async () => decodeIssued((await gateway.send("POST", keysPath, "admin acme", { tenant: "acme" })).body)
  const chat = (secret: string) => gateway.send("POST", chatPath, secret, question)

  it.each(["cut", "silent"] as const)("goes on with the keys that it knows while the line is %s", async (line) => {
    const used = await create()
    const unused = await create()
    assert.strictEqual((await chat(used.secret)).status, 200)
    if (line === "cut") await proxy.cut()
    else proxy.silence()
    const until = performance.now() + 1500
    let served = 0
    while (performance.now() < until) {
      assert.strictEqual((await chat(used.secret)).status, 200)
      served++
    }
    assert.isAbove(served, 20)
    for (const secret of [unused.secret, randomSecret()]) {
      const { body, headers, status } = await chat(secret)
      assert.deepStrictEqual([status, body["code"], headers.get("retry-after")], [503, "store_unavailable", "1"])
      const openAi = await gateway.send("POST", "/v1/chat/completions", secret, question)
      assert.deepStrictEqual([openAi.status, openAi.headers.get("retry-after")], [503, "1"])
    }
    assert.strictEqual(await refused(chat("no key at all")), "401 unauthorized")
    if (line === "cut") await proxy.mend()
    else proxy.speak()
    let back = await chat(unused.secret)
    const patience = performance.now() + 10_000
    while (back.status === 503 && performance.now() < patience) back = await chat(unused.secret)
    assert.strictEqual(back.status, 200, JSON.stringify(back.body))
    const told = gateway.logged.filter((entry) => entry.includes("key store"))
    assert.isAtMost(told.length, 4, told.join("\n"))
  })
})
