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
    const active = "server: { port: 1 }\nauth: { mode: none }\ntenants: { default: { models: [\"*\"] } }\n" +
      "providers: { s: { type: sandbox } }\nmodels: [{ id: s::m }]\nroutes: { r: { models: [s::m] } }\n" +
      "defaults: { timeouts: { idle: 1s }, attempts: 2, retry: { base: 1s } }\ntype_registry: { folder: x }"
    assert.deepStrictEqual(inactiveSections(config(active)), [])
  })

  it("names what the file writes out, with its line", () => {
    const text = [
      "routes: { r: { models: [sandbox::x] } }",
      "storage:",
      "  sql: sqlite:x.db",
      "  files: { ttl: 1d }",
      "  fetch: { max_size: 1MB }",
      "  redis_failure: open",
      "observability: { log_level: debug, metrics: true, otlp: \"http://127.0.0.1:4318\" }"
    ].join("\n")
    assert.deepStrictEqual(inactiveSections(config(text)).map(({ line, section }) => `${line} ${section}`), [
      "6 storage.redis_failure"
    ])
  })

  it("governance that acts is told of nowhere", () => {
    const text = `
auth: { mode: jwt, keys: [], cache: { fresh: 1s }, jwt: { jwks_url: https://x, issuer: i, audience: a } }
tenants: { a: { interceptors: [guard], budgets: [{ per: user, usd: 1, window: day }] } }
interceptors: { guard: { type: prompt-guard, max_chars: 1 } }
defaults: { budget_warnings: [50], time_zone: Europe/Berlin, unknown_price: free }
usage: { sinks: [{ type: log }, { type: sql }], durability: strict }
audit: { sinks: [{ type: jsonl, path: a.jsonl }] }
storage: { redis: redis://127.0.0.1, redis_prefix: "x:", redis_failure: open }
providers: { sandbox: { type: sandbox } }`
    assert.deepStrictEqual(inactiveSections(config(text)), [])
  })

  it.each([
    ["auth: { mode: none, cache: { fresh: 1s } }", "auth.cache"],
    ["auth:\n  mode: keys\n  jwt: { jwks_url: https://x, issuer: i, audience: a }", "auth.jwt"],
    ["tenants: { acme: {} }", "tenants"],
    ["auth: { mode: keys }\ntenants: { a: {} }\ninterceptors: { p: { type: pii } }", "interceptors.p"],
    ["storage: { redis_failure: open }", "storage.redis_failure"],
    ["usage: { sinks: [{ type: log }], durability: strict }", "usage.durability"],
    ["defaults: { budget_warnings: [50] }", "defaults.budget_warnings"]
  ])("says what the rest of the file keeps from acting: %s", (text, section) => {
    const told = inactiveSections(config(text))
    assert.deepStrictEqual(told.map((notice) => notice.section), [section])
    assert.notInclude(told[0]?.reason ?? "", "in this version")
  })

  it("interceptors act on everybody where there are no tenants", () => {
    assert.deepStrictEqual(inactiveSections(config("interceptors: { p: { type: pii } }")), [])
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

  it("listens anywhere where tokens are asked for", () => {
    const text = "server: { host: 0.0.0.0 }\nauth: { mode: jwt, jwt: { jwks_url: https://x, issuer: i, audience: a } }"
    assert.isUndefined(listenProblem(config(text)))
  })
})
