/** What a start-up says about sections that do not act yet, and when it must not listen. */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { parse } from "../../src/config/ConfigFile.ts"
import { fromEnvironment } from "../../src/config/Environment.ts"
import { inactiveSections, isLoopback, listenProblem } from "../../src/config/StartupNotices.ts"

const config = (text: string) => Result.getOrThrow(parse(text, "g.yaml", {}))

describe("inactiveSections", () => {
  it("zero configuration and an active file have none", () => {
    assert.deepStrictEqual(inactiveSections(fromEnvironment({}, { ollama: false })), [])
    const active = "server: { port: 1 }\nauth: { mode: none }\ntenants: { a: { models: [\"*\"] } }\n" +
      "providers: { s: { type: sandbox } }\nmodels: [{ id: s::m }]\nroutes: { r: { models: [s::m] } }\n" +
      "defaults: { timeouts: { idle: 1s }, attempts: 2, retry: { base: 1s } }\ntype_registry: { folder: x }"
    assert.deepStrictEqual(inactiveSections(config(active)), [])
  })

  it("names what the file writes out, with its line", () => {
    const text = [
      "interceptors: { p: { type: pii } }",
      "tenants:",
      "  a:",
      "    rate_limits: [{ per: user, requests: 1, window: 1s }]",
      "    budgets: [{ per: user, usd: 1, window: day }]",
      "    interceptors: [p]",
      "routes: { r: { models: [sandbox::x] } }",
      "defaults:",
      "  attempts: 4",
      "  retry: { base: 1s }",
      "  unknown_price: free",
      "usage: { durability: strict }",
      "audit: {}",
      "storage: { files: { ttl: 1d } }",
      "observability: { metrics: true, log_level: warn }",
      "auth:",
      "  mode: keys",
      "  jwt: { jwks_url: https://x, issuer: i, audience: a }"
    ].join("\n")
    assert.deepStrictEqual(inactiveSections(config(text)).map(({ line, section }) => `${line} ${section}`), [
      "1 interceptors",
      "4 tenants.a.rate_limits",
      "5 tenants.a.budgets",
      "6 tenants.a.interceptors",
      "11 defaults.unknown_price",
      "12 usage",
      "13 audit",
      "14 storage",
      "15 observability.log_level",
      "18 auth.jwt"
    ])
    for (const { reason } of inactiveSections(config(text))) assert.include(reason, "not active yet")
  })
})

describe("listenProblem", () => {
  it.each(["127.0.0.1", "127.1.2.3", "localhost", "LOCALHOST", "::1", "[::1]", "::ffff:127.0.0.1"])(
    "%s is loopback",
    (host) => {
      assert.isTrue(isLoopback(host))
    }
  )
  it.each([
    "0.0.0.0",
    "::",
    "10.0.0.1",
    "127.evil.com",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "127.0.0.256",
    "example.com",
    ""
  ])(
    "%s is not loopback",
    (host) => assert.isFalse(isLoopback(host))
  )

  it("without authentication the gateway listens on loopback only", () => {
    assert.isUndefined(listenProblem(config("server: { host: localhost }")))
    const problem = listenProblem(config("server: { host: 0.0.0.0 }"))
    assert.include(problem ?? "", "0.0.0.0")
    assert.include(problem ?? "", "auth.mode")
    assert.isUndefined(listenProblem(config("server: { host: 0.0.0.0 }\nauth: { mode: keys }")))
  })

  it("does not listen with an authentication that does not act yet", () => {
    const text = "auth: { mode: jwt, jwt: { jwks_url: https://x, issuer: i, audience: a } }"
    assert.include(listenProblem(config(text)) ?? "", "not active yet")
  })
})
