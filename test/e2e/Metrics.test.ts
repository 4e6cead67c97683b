/** What operators see of breakers and attempts: `/metrics` and the details of `/health/ready`, and who sees them. */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, parsed } from "../fixtures/Script.ts"

const sha256 = (key: string) => createHash("sha256").update(key).digest("hex")

const keys = `
auth:
  mode: keys
  keys:
    - { id: boss, sha256: ${sha256("boss")}, tenant: ops, admin: true }
    - { id: user, sha256: ${sha256("user")}, tenant: ops }
tenants: { ops: {} }
`

let upstream: FakeUpstream
let gateway: RunningGateway

const start = async (more: string) => {
  gateway = await startGateway(`
providers:
  far: { type: openai, base_url: "${upstream.url}/v1", unlisted_models: allow }
  sandbox: { type: sandbox }
models: [{ id: "far::known" }, { id: "sandbox::echo" }]
defaults: { attempts: 2, retry: { base: 1ms, max: 2ms }, breaker: { failures: 3, open: 200ms, max_open: 200ms } }
${more}`)
}

beforeEach(async () => {
  upstream = await startFakeUpstream()
})
afterEach(async () => {
  await gateway.close()
  await upstream.close()
})

const get = async (path: string, key?: string) => {
  const response = await fetch(
    gateway.url + path,
    key === undefined ? {} : { headers: { authorization: `Bearer ${key}` } }
  )
  return { status: response.status, headers: response.headers, text: await response.text() }
}
const ask = async (model: string, headers: Readonly<Record<string, string>> = {}) => {
  const body = { model, messages: [{ role: "user", content: "Say something." }] }
  const response = await gateway.post("/v1/chat/completions", body, headers)
  await response.arrayBuffer()
  return response.status
}
/** The series of a metric, by its labels. */
const series = (text: string, name: string): Record<string, number> =>
  Object.fromEntries(
    Array.from(text.matchAll(new RegExp(`^${name}\\{(.*)\\} (.*)$`, "gm")), ([, labels = "", value]) => [
      labels,
      Number(value)
    ])
  )

describe("/metrics", () => {
  const breaker = async () => series((await get("/metrics")).text, "llm_gateway_breaker_state")
  const far = "provider=\"far\",endpoint=\"chat\""

  it("tells every breaker's state as it changes", async () => {
    await start("")
    upstream.always(openAi.answer({ text: "yes" }))
    await ask("far::known")
    assert.strictEqual((await breaker())[far], 0)
    upstream.always(openAi.error(503))
    for (let turn = 0; turn < 3; turn++) await ask("far::known")
    assert.strictEqual((await breaker())[far], 2)
    await new Promise((resolve) => setTimeout(resolve, 220))
    assert.strictEqual((await breaker())[far], 1)
    upstream.always(openAi.answer({ text: "yes" }))
    await ask("far::known")
    assert.strictEqual((await breaker())[far], 0)
  })

  it("counts attempts by outcome, and fallbacks", async () => {
    await start("")
    upstream.reply(openAi.error(401), openAi.error(503), openAi.answer({ text: "yes" }))
    assert.strictEqual(await ask("far::known", { "x-gateway-fallback": "sandbox::echo" }), 200)
    assert.strictEqual(await ask("far::known"), 200)
    const { headers, status, text } = await get("/metrics")
    assert.strictEqual(status, 200)
    assert.strictEqual(headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8")
    assert.include(text, "# TYPE llm_gateway_attempts_total counter\n")
    assert.deepStrictEqual(series(text, "llm_gateway_attempts_total"), {
      "provider=\"far\",model=\"far::known\",outcome=\"credential\"": 1,
      "provider=\"far\",model=\"far::known\",outcome=\"transient\"": 1,
      "provider=\"far\",model=\"far::known\",outcome=\"ok\"": 1,
      "provider=\"sandbox\",model=\"sandbox::echo\",outcome=\"ok\"": 1
    })
    assert.deepStrictEqual(series(text, "llm_gateway_fallbacks_total"), {
      "provider=\"sandbox\",model=\"sandbox::echo\"": 1
    })
  })

  it("does not grow with the names that callers make up", async () => {
    await start("routes: { r: { models: [\"far::routed\"] } }")
    upstream.always(openAi.answer({ text: "yes" }))
    for (const model of ["far::made-up", "far::another", "far::x\"} 1", "r"]) assert.strictEqual(await ask(model), 200)
    assert.deepStrictEqual(series((await get("/metrics")).text, "llm_gateway_attempts_total"), {
      "provider=\"far\",model=\"other\",outcome=\"ok\"": 3,
      "provider=\"far\",model=\"far::routed\",outcome=\"ok\"": 1
    })
  })

  it("is for administrators", async () => {
    await start(keys)
    assert.strictEqual((await get("/metrics", "boss")).status, 200)
    for (
      const [key, status, code] of [["user", 403, "forbidden"], ["nobody", 401, "unauthorized"], [
        undefined,
        401,
        "unauthorized"
      ]] as const
    ) {
      const refused = await get("/metrics", key)
      assert.strictEqual(refused.status, status)
      assert.include(refused.text, `"code":"${code}"`)
      assert.notInclude(refused.text, "far")
    }
    const posted = await gateway.post("/metrics", {}, { authorization: "Bearer boss" })
    assert.deepStrictEqual([posted.status, posted.headers.get("allow")], [405, "GET, HEAD"])
    await posted.text()
  })

  it("can be switched off", async () => {
    await start("observability: { metrics: false }")
    assert.strictEqual((await get("/metrics")).status, 404)
  })
})

describe("/health/ready", () => {
  const bare = "{\"status\":\"ok\"}"

  it("tells strangers nothing but that it is ready", async () => {
    await start(keys)
    for (const key of [undefined, "nobody", "user"]) {
      const { status, text } = await get("/health/ready", key)
      assert.deepStrictEqual([status, text], [200, bare])
    }
    assert.strictEqual((await get("/health/live", "boss")).text, bare)
  })

  it.each([["administrators", keys, "boss"], ["everybody where there are no keys", "", undefined]] as const)(
    "tells %s of providers and breakers",
    async (_, more, key) => {
      await start(more)
      upstream.always(openAi.error(503))
      for (let turn = 0; turn < 2; turn++) {
        await ask("far::known", key === undefined ? {} : { authorization: `Bearer ${key}` })
      }
      const body = parsed((await get("/health/ready", key)).text)
      if (!isJson(body) || !Array.isArray(body["breakers"])) return assert.fail("no object with breakers")
      assert.strictEqual(body["status"], "ok")
      assert.deepStrictEqual(body["providers"], ["far", "sandbox"])
      const breaker = body["breakers"].filter(isJson).find(({ endpoint }) => endpoint === "chat")
      assert.strictEqual(breaker?.["provider"], "far")
      assert.strictEqual(breaker?.["state"], "open")
      assert.isAbove(Number(breaker?.["until"]), Date.now() - 1_000)
    }
  )
})
