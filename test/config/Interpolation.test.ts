/** Environment references: every form, and that no value of a variable ever shows in a problem. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result, Schema } from "effect"
import { parse } from "../../src/config/ConfigFile.ts"
import { interpolate } from "../../src/config/Interpolation.ts"

const env = { A: "1", B: "two words", EMPTY: "", TRICKY: "${A} $${B}", DOLLAR: "$" }

describe("interpolate", () => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    ["plain", "plain"],
    ["${A}", "1"],
    ["${A}${B}", "1two words"],
    ["x${A}y${A}z", "x1y1z"],
    ["${EMPTY}", ""],
    ["${EMPTY:-d}", "d"],
    ["${NOPE:-}", ""],
    ["${NOPE:-d e:f-g}", "d e:f-g"],
    ["${NOPE:-$A}", "$A"],
    ["${A:-d}", "1"],
    ["$${A}", "${A}"],
    ["$${A} ${A}", "${A} 1"],
    ["$A", "$A"],
    ["cost: 5$", "cost: 5$"],
    ["${TRICKY}", "${A} $${B}"],
    ["${DOLLAR}{A}", "${A}"]
  ]
  it.each(cases)("%s", (text, expected) => {
    const result = interpolate(text, env)
    assert.strictEqual(Result.isSuccess(result) ? result.success.text : "failed", expected)
  })

  it("names every variable of a text that is not set", () => {
    const result = interpolate("${X1} ${A} ${X2}", env)
    const problems = Result.isFailure(result) ? result.failure : []
    assert.lengthOf(problems, 2)
    assert.include(problems[0], "X1")
    assert.include(problems[1], "X2")
  })

  it.each(["${", "${A", "${}", "${1A}", "${A B}", "${:-x}", "${A-x}", "${constructor}", "${__proto__}", "${toString}"])(
    "refuses %s",
    (text) => assert.isTrue(Result.isFailure(interpolate(text, env)))
  )

  it.effect.prop("a text without references comes back as it was", [Schema.String], ([text]) =>
    Effect.sync(() => {
      if (text.includes("${")) return
      assert.deepStrictEqual(interpolate(text, env), Result.succeed({ text, replaced: false }))
    }))

  it.effect.prop("an escaped text comes back as it was", [Schema.String], ([text]) =>
    Effect.sync(() => {
      const raw = `${text.replaceAll("$", "")}\${A}`
      const result = interpolate(raw.replaceAll("${", () => "$${"), env)
      assert.strictEqual(Result.isSuccess(result) ? result.success.text : "failed", raw)
    }))

  it.effect.prop(
    "a value is put in as it is, and never read again",
    [Schema.String, Schema.String],
    ([before, value]) =>
      Effect.sync(() => {
        const prefix = before.replaceAll("$", "")
        const result = interpolate(`${prefix}\${V}`, { V: value })
        assert.strictEqual(Result.isSuccess(result) ? result.success.text : "failed", prefix + value)
      })
  )
})

describe("interpolation in a file", () => {
  it("fills numbers, switches, words, durations and sizes", () => {
    const text = [
      "server: ",
      "  port: ${PORT:-8080}",
      "  max_body: ${SIZE}",
      "auth: { mode: \"${MODE}\" }",
      "defaults:",
      "  attempts: ${ATTEMPTS}",
      "  timeouts: { idle: \"${IDLE}s\" }",
      "observability: { metrics: \"${METRICS}\" }"
    ].join("\n")
    const result = parse(text, "g.yaml", { SIZE: "1MiB", MODE: "keys", ATTEMPTS: "7", IDLE: "12", METRICS: "false" })
    assert.isTrue(Result.isSuccess(result), Result.isFailure(result) ? result.failure.message : "")
    if (Result.isFailure(result)) return
    const { auth, defaults, observability, server } = result.success
    assert.deepStrictEqual(
      [server.port, server.maxBody, auth.mode, defaults.attempts, defaults.timeouts.idle, observability.metrics],
      [8080, 1_048_576, "keys", 7, 12_000, false]
    )
  })

  it("keeps a key of digits a text", () => {
    const result = parse(
      "tenants: { t: {} }\nauth:\n  mode: keys\n  keys:\n    - id: ${ID}\n      sha256: ${HASH}\n      tenant: t",
      "g.yaml",
      { ID: "007", HASH: "0".repeat(64) }
    )
    assert.strictEqual(Result.isSuccess(result) ? result.success.auth.keys[0]?.id : "failed", "007")
  })

  it("does not read YAML in a value", () => {
    const result = parse("providers:\n  a:\n    type: openai\n    api_key: ${KEY}", "g.yaml", { KEY: "x:{y}#z" })
    assert.isTrue(Result.isSuccess(result))
  })

  it("tells of all variables that are not set, each where it stands", () => {
    const result = parse("server:\n  host: ${H}\n  port: ${P}\nstorage:\n  sql: postgres://${U}:${W}@h/d", "g.yaml", {})
    const where = Result.isFailure(result) ? result.failure.problems.map(({ line, path }) => `${line} ${path}`) : []
    assert.deepStrictEqual(where, ["2 server.host", "3 server.port", "5 storage.sql", "5 storage.sql"])
  })

  /** Every place that takes a text, filled with a secret that is wrong there. */
  const places: ReadonlyArray<string> = [
    "server: { host: \"${S}\", port: \"${S}\", max_body: \"${S}\", drain_timeout: \"${S}\" }",
    "auth: { mode: \"${S}\" }",
    "auth: { mode: keys, keys: [{ id: \"${S}\", sha256: \"${S}\", tenant: \"${S}\", expires: \"${S}\", admin: \"${S}\" }] }\ntenants: {}",
    "auth: { mode: jwt, jwt: { jwks_url: \"${S}\", issuer: \"${S}\", audience: \"${S}\" } }",
    "tenants: { a: { parent: \"${S}\", interceptors: [\"${S}\"], budgets: [{ per: \"${S}\", usd: \"${S}\", window: \"${S}\" }] } }",
    "tenants: { a: \"${S}\" }",
    "providers: { a: { type: \"${S}\", base_url: \"${S}\", api_key: \"${S} \", headers: { a: \"${S}\\n\" }, unlisted_models: \"${S}\" } }",
    "providers: { a: { type: openai, base_url: \"https://u:${S}@h/\" }, b: \"${S}\" }",
    "models: [{ id: \"${S}\", capabilities: [\"${S}\"], status: \"${S}\", prices: { input_mtok: \"${S}\", output_mtok: \"${S}\" } }]",
    "models: [{ id: \"${S}::m\" }, { id: \"${S}::m\" }]",
    "routes: { a: { policy: \"${S}\", models: [\"${S}::m\", { model: \"${S}::*\", weight: \"${S}\" }] }, b: { models: \"${S}\" } }",
    "defaults: { unknown_price: \"${S}\", retry: \"${S}\", timeouts: { idle: \"${S}\" } }",
    "interceptors: { a: { type: \"${S}\" }, b: { type: webhook, url: \"${S}\" }, c: \"${S}\" }",
    "usage: { sinks: [{ type: \"${S}\" }], durability: \"${S}\" }\naudit: { sinks: [{ type: \"${S}\" }] }",
    "storage: { sql: \"${S}\", redis: \"${S}\", fetch: { allow: [\"${S} \"] } }",
    "type_registry: { url: \"${S}\", folder: \"${S}\" }\nobservability: { otlp: \"${S}\", log_level: \"${S}\", metrics: \"${S}\" }",
    "\"${S}\"",
    "server: \"${S}\""
  ]
  it.each(places)("never shows a secret: %s", (text) => {
    for (const secret of ["hunter2-sk-live", "opnai", "nne", "sandbax"]) {
      const result = parse(text, "g.yaml", { S: secret })
      assert.isTrue(Result.isFailure(result))
      const shown = Result.isFailure(result) ? JSON.stringify(result.failure) + result.failure.message : ""
      assert.isFalse(shown.includes(secret), shown)
      assert.isFalse(shown.includes("did you mean"), shown)
    }
  })
})
