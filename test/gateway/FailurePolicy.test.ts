/** The table of what follows on which failure: its lines, what a route may change of them, and what it may not. */
import { assert, describe, it } from "@effect/vitest"
import { actionFor, failureKind, failurePolicy, slowStream } from "../../src/gateway/FailurePolicy.ts"
import { timedOut } from "../../src/gateway/Timers.ts"
import type { ProviderErrorKind } from "../../src/sdk/GatewayError.ts"
import { type Failure, ProviderError } from "../../src/sdk/Provider.ts"
import type { FailureAction, FailureKind } from "../../src/sdk/Routes.ts"

const failed = (kind: ProviderErrorKind, more: Partial<Failure> = {}) =>
  new ProviderError({ provider: "p", message: "it failed", ...more, kind })

describe("the table", () => {
  const lines: Readonly<Record<FailureKind, FailureAction>> = {
    caller: "final",
    credential: "next",
    quota: "retry",
    transient: "retry",
    protocol: "next",
    contentPolicy: "final",
    contextLength: "next",
    timeout_connect: "retry",
    timeout_first_token: "next",
    timeout_idle: "next",
    timeout_answer: "next",
    timeout_total: "final"
  }

  it("is as documented", () => assert.deepStrictEqual(failurePolicy, lines))

  it("decides by the error's kind", () => {
    for (const kind of ["caller", "credential", "quota", "transient", "protocol", "contentPolicy"] as const) {
      assert.strictEqual(failureKind(failed(kind)), kind)
      assert.strictEqual(actionFor(failed(kind), undefined), lines[kind])
    }
  })

  it("decides by the timer that ran out, whoever's it was", () => {
    for (const phase of ["connect", "first_token", "idle", "answer", "total"] as const) {
      const error = timedOut("p", phase, 10)
      assert.strictEqual(failureKind(error), `timeout_${phase}`)
      assert.strictEqual(actionFor(error, undefined), lines[`timeout_${phase}`])
    }
    const transports = failed("transient", { timeout: { phase: "connect", limitMs: 10 } })
    assert.strictEqual(failureKind(transports), "timeout_connect")
    assert.strictEqual(actionFor(transports, { transient: "final" }), "retry")
  })
})

describe("a route", () => {
  it("changes single lines", () => {
    const overrides = { contentPolicy: "next", transient: "final", timeout_idle: "retry" } as const
    assert.strictEqual(actionFor(failed("contentPolicy"), overrides), "next")
    assert.strictEqual(actionFor(failed("transient"), overrides), "final")
    assert.strictEqual(actionFor(timedOut("p", "idle", 10), overrides), "retry")
    assert.strictEqual(actionFor(failed("protocol"), overrides), "next")
  })
})

describe("errors that no pause helps", () => {
  it.each([
    { code: "insufficient_quota" },
    { type: "insufficient_quota" },
    { code: "billing_hard_limit_reached" },
    { type: "billing_error" },
    { code: "credit_balance_too_low" }
  ])("a spent account goes on to the next candidate: %o", (more) => {
    assert.strictEqual(actionFor(failed("quota", more), undefined), "next")
    assert.strictEqual(actionFor(failed("quota", more), { quota: "final" }), "final")
  })

  it("a rate limit is waited for", () => {
    const error = failed("quota", { code: "rate_limit_exceeded", type: "requests" })
    assert.strictEqual(actionFor(error, undefined), "retry")
  })

  it("what this target has no form for may have one elsewhere", () => {
    const error = failed("caller", { refused: true })
    assert.strictEqual(actionFor(error, undefined), "next")
    assert.strictEqual(actionFor(error, { caller: "final" }), "final")
    assert.strictEqual(actionFor(error, { caller: "retry" }), "next", "it would be refused again")
  })

  it("an open circuit is left at once, whatever a route says of failures", () => {
    for (const breaker of ["open", "half_open"] as const) {
      const error = failed("transient", { breaker })
      assert.strictEqual(actionFor(error, undefined), "next")
      assert.strictEqual(actionFor(error, { transient: "final" }), "next")
      assert.strictEqual(actionFor(error, { transient: "retry" }), "next")
    }
  })

  it("a call that opened its circuit is left for the next candidate, unless a route ends it there", () => {
    const error = failed("transient", { breaker: "opened" })
    assert.strictEqual(actionFor(error, undefined), "next")
    assert.strictEqual(actionFor(error, { transient: "retry" }), "next")
    assert.strictEqual(actionFor(error, { transient: "final" }), "final")
    assert.strictEqual(actionFor(failed("caller", { breaker: "opened" }), undefined), "final")
  })

  it("a slow stream is left for the next candidate", () => {
    assert.strictEqual(actionFor(failed("transient", { code: slowStream }), undefined), "next")
    assert.strictEqual(actionFor(failed("transient", { code: slowStream }), { transient: "final" }), "final")
  })
})
