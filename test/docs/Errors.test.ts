/** The tables of errors in docs/API.md and docs/ARCHITECTURE.md have every code and kind, with the statuses that the code gives. */
import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import path from "node:path"
import {
  type GatewayErrorCode,
  GatewayErrorReason,
  ProviderErrorKind,
  ProviderFailed
} from "../../src/sdk/GatewayError.ts"
import { root } from "./Examples.ts"

/** By code, the statuses that the page tells. */
const documented = new Map<string, string>()
for (const line of readFileSync(path.join(root, "docs/API.md"), "utf8").split("\n")) {
  const [, codes = "", statuses = ""] = /^\| ((?:`[a-z_]+`(?:, )?)+) \| ((?:\dxx|\d{3})(?:, \d{3})*) \|/.exec(line) ??
    []
  for (const [, code = ""] of codes.matchAll(/`([a-z_]+)`/g)) documented.set(code, statuses)
}

/** All codes: the compiler asks for every one of them, and for no other. */
const all: { readonly [Code in GatewayErrorCode]: true } = {
  validation_error: true,
  invalid_schema_id: true,
  unauthorized: true,
  budget_exceeded: true,
  forbidden: true,
  model_not_approved: true,
  request_blocked: true,
  response_blocked: true,
  model_not_found: true,
  schema_not_found: true,
  job_not_found: true,
  file_not_found: true,
  not_found: true,
  method_not_allowed: true,
  model_deprecated: true,
  job_expired: true,
  payload_too_large: true,
  capability_not_supported: true,
  rate_limited: true,
  internal_error: true,
  provider_error: true,
  store_unavailable: true,
  overloaded: true,
  provider_timeout: true
}

describe("docs/API.md", () => {
  it("names every error code, and no other", () => {
    assert.deepStrictEqual([...documented.keys()].sort(), Object.keys(all).sort())
  })

  it.prop("tells the status of every error", [GatewayErrorReason], ([reason]) => {
    const statuses = documented.get(reason.code) ?? ""
    const fits = statuses.split(", ").some((told) =>
      told === String(reason.status) || (told === "4xx" && reason.status >= 400 && reason.status < 500)
    )
    assert.isTrue(fits, `${reason.code} has status ${reason.status}, and the page says ${statuses}`)
  }, { arbitrary: { runs: 500 } })
})

describe("docs/ARCHITECTURE.md", () => {
  const page = readFileSync(path.join(root, "docs/ARCHITECTURE.md"), "utf8")
  it.each(ProviderErrorKind.literals)("tells the status of a provider's failure of kind %s", (kind) => {
    const row = page.split("\n").find((line) => line.startsWith(`| \`${kind}\` |`)) ?? ""
    const told = Array.from(
      row.matchAll(/(\d{3}) → (\d{3})/g),
      ([, upstream, ours]) => [Number(upstream), Number(ours)]
    )
    assert.isNotEmpty(told)
    for (const [upstreamStatus = 0, ours] of told) {
      assert.strictEqual(new ProviderFailed({ message: "", kind, provider: "p", upstreamStatus }).status, ours)
    }
  })
})
