/** Keys of the configuration, without a database. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { createHash } from "node:crypto"
import * as IdentityKeys from "../../../src/modules/identity/IdentityKeys.ts"
import { Identity, PresentedSecret } from "../../../src/sdk/Identity.ts"
import { Tenants } from "../../../src/sdk/Tenant.ts"

const sha256 = (secret: string) => createHash("sha256").update(secret).digest("hex")
const key = (secret: string, more: Partial<IdentityKeys.ApiKey> = {}): IdentityKeys.ApiKey => ({
  id: `id of ${secret}`,
  sha256: sha256(secret),
  tenant: "acme",
  ...more
})
const authenticate = (secret?: string) =>
  Effect.flatMap(
    Identity,
    (identity) => identity.authenticate(secret === undefined ? undefined : new PresentedSecret(secret))
  )
const refusal = (secret?: string) =>
  Effect.map(Effect.flip(authenticate(secret)), ({ code, message }) => [code, message])

describe("keys of the configuration", () => {
  const budgets = [{ per: "key", limitNanoUsd: 1, window: "day" }] as const
  const rateLimits = [{ kind: "concurrent", per: "key", limit: 1 }] as const
  const long = "x".repeat(2000)

  it.effect("open the door with what they carry", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* authenticate("plain"), { tenant: "acme", keyId: "id of plain", tags: [] })
      assert.deepStrictEqual(yield* authenticate("rich"), {
        tenant: "acme",
        keyId: "id of rich",
        user: "ada",
        tags: ["a"],
        admin: true,
        restrictions: { models: ["a::*"], rateLimits, budgets }
      })
      for (const wrong of ["Plain", "plain ", "", sha256("plain"), long, long.slice(0, 1024)]) {
        assert.deepStrictEqual(yield* refusal(wrong), ["unauthorized", "this API key is not known to the gateway"])
      }
      assert.include(String(yield* refusal()), "no API key; send it as")
    }).pipe(Effect.provide(IdentityKeys.layerKeys([
      key("plain", { sha256: sha256("plain").toUpperCase() }),
      key("rich", { user: "ada", tags: ["a"], admin: true, models: ["a::*"], rateLimits, budgets }),
      // Too long to be looked at to its end, and so nobody's.
      key(long)
    ]))))

  it.effect("expire, and stay so when the clock is set back", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("999 millis")
      yield* authenticate("short")
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* refusal("short"))[0], "unauthorized")
      yield* TestClock.setTime(0)
      assert.strictEqual((yield* refusal("short"))[0], "unauthorized")
    }).pipe(Effect.provide(IdentityKeys.layerKeys([key("short", { expiresAt: 1000 })]))))

  it.effect("of a tenant that is not configured are forbidden", () =>
    Effect.gen(function*() {
      yield* authenticate("mine")
      assert.deepStrictEqual(yield* refusal("lost"), ["forbidden", "the tenant \"lost\" is not one of this gateway's"])
    }).pipe(Effect.provide(
      IdentityKeys.layerKeys([key("mine"), key("lost", { tenant: "lost" })]).pipe(
        Layer.provide(Tenants.layer([{ name: "acme", rateLimits: [], budgets: [], interceptors: [] }]))
      )
    )))

  it.effect("without tenants in the configuration may be of any", () =>
    Effect.map(authenticate("mine"), ({ tenant }) => assert.strictEqual(tenant, "acme")).pipe(
      Effect.provide(IdentityKeys.layerKeys([key("mine")]).pipe(Layer.provide(Tenants.layer())))
    ))

  it.effect("are not needed where everybody is an administrator", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* authenticate(), { tenant: "default", tags: [], admin: true })
      assert.deepStrictEqual(yield* authenticate("anything"), { tenant: "default", tags: [], admin: true })
    }).pipe(Effect.provide(IdentityKeys.layerNone())))
})
