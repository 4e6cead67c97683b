/** Tokens: which ones open the door, and what happens when the issuer changes its keys or does not answer. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Logger, type Scope } from "effect"
import { FetchHttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import { exportSPKI } from "jose"
import { createHash, createHmac, generateKeyPairSync, sign as signBytes } from "node:crypto"
import * as IdentityJwt from "../../../src/modules/identity/IdentityJwt.ts"
import * as IdentityKeys from "../../../src/modules/identity/IdentityKeys.ts"
import type { GatewayError } from "../../../src/sdk/GatewayError.ts"
import { Identity, PresentedSecret } from "../../../src/sdk/Identity.ts"
import { Tenants } from "../../../src/sdk/Tenant.ts"
import { type Issuer, sign, signingKey, startIssuer } from "../../fixtures/Issuer.ts"

const rsa = await signingKey("rsa-1")
const other = await signingKey("rsa-2")
const ec = await signingKey("ec-1", "ES256")
const ed = await signingKey("ed-1", "EdDSA")

/** Seconds since 1970 at the start of each test. */
const start = 1_800_000_000
const claims = {
  iss: "https://issuer.example",
  aud: "gateway",
  sub: "ada",
  tenant: "acme",
  exp: start + 3600
}

interface World {
  readonly issuer: Issuer
  readonly authenticate: (token: string) => ReturnType<Identity["Service"]["authenticate"]>
  readonly logged: ReadonlyArray<string>
}

interface Setting extends Partial<IdentityJwt.JwtOptions> {
  readonly tenants?: ReadonlyArray<string>
  readonly keys?: ReadonlyArray<IdentityKeys.ApiKey>
}

const withTokens = <A, E>(
  use: (world: World) => Effect.Effect<A, E, Scope.Scope>,
  { keys, tenants, ...options }: Setting = {}
) =>
  Effect.gen(function*() {
    yield* TestClock.setTime(start * 1000)
    const issuer = yield* startIssuer
    yield* Effect.promise(() => issuer.publish(rsa, ec, ed))
    const logged: Array<string> = []
    const logger = Logger.layer([Logger.make(({ message }) => logged.push(JSON.stringify(message)))])
    const all = { jwksUrl: issuer.url, issuer: "https://issuer.example", audience: "gateway", ...options }
    yield* Effect.gen(function*() {
      const services = yield* Layer.build(
        (keys === undefined
          ? IdentityJwt.layer(all)
          : Layer.provide(IdentityJwt.layerWithKeys(all), IdentityKeys.layerKeys(keys))).pipe(
            Layer.provide(FetchHttpClient.layer),
            Layer.provide(
              tenants === undefined ? Layer.empty : Tenants.layer(
                tenants.map((name) => ({ name, rateLimits: [], budgets: [], interceptors: [] }))
              )
            )
          )
      )
      const identity = Context.get(services, Identity)
      yield* use({ issuer, logged, authenticate: (token) => identity.authenticate(new PresentedSecret(token)) })
    }).pipe(Effect.provide(logger))
  })

const signed = (more: Readonly<Record<string, unknown>> = {}, key = rsa, header?: Readonly<Record<string, string>>) =>
  Effect.promise(() => sign(key, { ...claims, ...more }, header))

const refusal = (effect: Effect.Effect<unknown, GatewayError>) =>
  Effect.map(Effect.flip(effect), ({ code, message }) => `${code}: ${message}`)

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url")

describe("a token", () => {
  it.effect("opens the door for its tenant and user, whichever of the issuer's algorithms signed it", () =>
    withTokens(({ authenticate, issuer }) =>
      Effect.gen(function*() {
        for (const key of [rsa, ec, ed]) {
          assert.deepStrictEqual(yield* authenticate(yield* signed({}, key)), { tenant: "acme", user: "ada", tags: [] })
        }
        assert.strictEqual(issuer.asked(), 1)
      })
    ))

  it.effect("has its claims where the options say, under names with dots, or deep inside, and no rights otherwise", () =>
    Effect.gen(function*() {
      const token = yield* signed({
        org: { id: "deep", "__proto__": "x" },
        "https://acme.example/user": "grace",
        groups: ["a", "b"],
        tags: ["no"],
        admin: true,
        roles: { admin: true }
      })
      yield* withTokens(({ authenticate }) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* authenticate(token), { tenant: "acme", user: "ada", tags: [] })
        })
      )
      yield* withTokens(
        ({ authenticate }) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* authenticate(token), {
              tenant: "deep",
              user: "grace",
              tags: ["a", "b"],
              admin: true
            })
            const claimed = { org: { id: "deep" }, roles: { admin: "true" } }
            assert.deepStrictEqual(yield* authenticate(yield* signed(claimed)), { tenant: "deep", tags: [] })
          }),
        {
          tenantClaim: "org.id",
          userClaim: "https://acme.example/user",
          tagsClaim: "groups",
          adminClaim: "roles.admin"
        }
      )
    }))

  it.effect("is for one of several audiences", () =>
    withTokens(({ authenticate }) =>
      Effect.gen(function*() {
        yield* authenticate(yield* signed({ aud: ["x", "second"] }))
        assert.include(yield* refusal(authenticate(yield* signed({ aud: ["x", "y"] }))), "another audience")
      }), { audience: ["first", "second"] }))

  it.effect("that is wrong is refused with what to do about it, and never echoed", () =>
    withTokens(({ authenticate, logged }) =>
      Effect.gen(function*() {
        const good = yield* signed()
        const [head = "", body = "", tail = ""] = good.split(".")
        const publicPem = yield* Effect.promise(() => exportSPKI(rsa.publicKey))
        const hmac = (header: object) => {
          const input = `${part(header)}.${body}`
          return `${input}.${createHmac("sha256", publicPem).update(input).digest("base64url")}`
        }
        const small = generateKeyPairSync("rsa", { modulusLength: 1024 })
        const bySmall = `${part({ alg: "RS256", kid: "rsa-1" })}.${body}`
        const wrong: ReadonlyArray<readonly [what: string, token: string, message: string]> = [
          ["expired", yield* signed({ exp: start - 31 }), "this token has expired; get a new one"],
          ["not yet valid", yield* signed({ nbf: start + 31 }), "is not valid yet"],
          ["for ever", yield* signed({ exp: undefined }), "no valid exp claim"],
          ["exp as text", yield* signed({ exp: "2099" }), "no valid exp claim"],
          ["of another audience", yield* signed({ aud: "somebody-else" }), "is for another audience"],
          ["of no audience", yield* signed({ aud: undefined }), "is for another audience"],
          ["of another issuer", yield* signed({ iss: "https://evil.example" }), "is from another issuer"],
          ["of no issuer", yield* signed({ iss: undefined }), "is from another issuer"],
          ["alg none", `${part({ alg: "none", kid: "rsa-1" })}.${body}.`, "an algorithm that is not accepted"],
          ["alg None", `${part({ alg: "None", kid: "rsa-1" })}.${body}.${tail}`, "an algorithm that is not accepted"],
          ["HS256 by the public key", hmac({ alg: "HS256", kid: "rsa-1" }), "an algorithm that is not accepted"],
          ["of a key of its own", yield* signed({}, other, { kid: "rsa-1" }), "signature is not valid"],
          [
            "of a small key",
            `${bySmall}.${signBytes("sha256", Buffer.from(bySmall), small.privateKey).toString("base64url")}`,
            "signature is not valid"
          ],
          ["of an unknown key", yield* signed({}, other), "a key that its issuer does not publish"],
          [
            "of a key of another kind",
            yield* signed({}, rsa, { kid: "ec-1" }),
            "a key that its issuer does not publish"
          ],
          ["changed", `${head}.${part({ ...claims, tenant: "evil" })}.${tail}`, "signature is not valid"],
          ["cut", good.slice(0, -3), "signature is not valid"],
          ["with its key in it", yield* signed({}, other, { jku: "http://127.0.0.1:1/", kid: "rsa-1" }), "not valid"],
          [
            "critical",
            `${part({ alg: "RS256", kid: "rsa-1", crit: ["x"], x: 1 })}.${body}.${tail}`,
            "not a valid JSON"
          ],
          ["no JSON", `${Buffer.from("{").toString("base64url")}.${body}.${tail}`, "not a valid JSON Web Token"],
          ["a list", `${part([])}.${body}.${tail}`, "not a valid JSON Web Token"],
          ["dots alone", "..", "not a valid JSON Web Token"],
          ["no base64", "\u0000.ä.'; DROP TABLE keys", "not a valid JSON Web Token"],
          ["too long", `${good.slice(0, -10)}${"A".repeat(20_000)}`, "longer than 12288 characters"],
          ["encrypted", `${good}.a.b`, "not a JSON Web Token"],
          ["one word", "sesame", "not a JSON Web Token"],
          ["a key of the gateway's", `lg_${"A".repeat(43)}`, "not a JSON Web Token"]
        ]
        for (const [what, token, message] of wrong) {
          const told = yield* refusal(authenticate(token))
          assert.include(told, "unauthorized: ", what)
          assert.include(told, message, what)
          assert.notInclude(told, "evil")
          for (const piece of token.split(".")) if (piece.length > 8) assert.notInclude(told, piece)
        }
        assert.deepStrictEqual(logged, [])
      })
    ))

  it.effect("has to name its tenant and user as texts that are fit for records", () =>
    withTokens(({ authenticate }) =>
      Effect.gen(function*() {
        const evil = "x'; DROP TABLE api_keys; --"
        assert.deepStrictEqual(yield* authenticate(yield* signed({ tenant: evil, sub: evil, tags: [evil] })), {
          tenant: evil,
          user: evil,
          tags: [evil]
        })
        yield* authenticate(yield* signed({ tenant: "ä".repeat(128) }))
        for (
          const tenant of [
            undefined,
            null,
            "",
            7,
            true,
            ["acme"],
            { id: "acme" },
            "x".repeat(129),
            "a\u0000b",
            "\ud800"
          ]
        ) {
          assert.include(
            yield* refusal(authenticate(yield* signed({ tenant }))),
            "unauthorized: this token's claim \"tenant\" must name a tenant"
          )
        }
        for (const sub of ["", "x".repeat(257), "a\nb", 7, {}]) {
          assert.include(
            yield* refusal(authenticate(yield* signed({ sub: sub }))),
            "unauthorized: this token's claim \"sub\""
          )
        }
        for (const tags of ["a", [7], [""], Array.from({ length: 33 }, String)]) {
          assert.include(
            yield* refusal(authenticate(yield* signed({ tags }))),
            "unauthorized: this token's claim \"tags\""
          )
        }
      }), { tagsClaim: "tags" }))

  it.effect("is good for as long as clocks may differ beyond its time, and not again when the clock is set back", () =>
    withTokens(({ authenticate }) =>
      Effect.gen(function*() {
        const token = yield* signed({ exp: start + 60, nbf: start + 30 })
        yield* authenticate(token)
        yield* TestClock.adjust("89 seconds")
        yield* authenticate(token)
        yield* TestClock.adjust("1 second")
        assert.include(yield* refusal(authenticate(token)), "has expired")
        yield* TestClock.setTime(start * 1000)
        assert.include(yield* refusal(authenticate(token)), "has expired")
      })
    ))

  it.effect("is known for a minute, in which it is not checked again", () =>
    withTokens(({ authenticate, issuer }) =>
      Effect.gen(function*() {
        const token = yield* signed()
        yield* authenticate(token)
        yield* Effect.promise(() => issuer.publish(other))
        yield* TestClock.adjust("59 seconds")
        // An unknown key has the issuer asked again; from then on the first key is none of its own any more.
        yield* authenticate(yield* signed({}, other))
        yield* authenticate(token)
        yield* TestClock.adjust("1 second")
        assert.include(yield* refusal(authenticate(token)), "a key that its issuer does not publish")
      })
    ))

  it.effect("of a tenant that the gateway does not have is forbidden", () =>
    withTokens(({ authenticate }) =>
      Effect.gen(function*() {
        const token = yield* signed({ tenant: "nobody" })
        for (let i = 0; i < 2; i++) {
          assert.strictEqual(
            yield* refusal(authenticate(token)),
            "forbidden: the tenant \"nobody\" is not one of this gateway's"
          )
        }
        yield* authenticate(yield* signed())
      }), { tenants: ["acme"] }))

  it.effect("stands beside keys where there are some", () =>
    withTokens(({ authenticate }) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* authenticate("sesame")).keyId, "plain")
        assert.strictEqual((yield* authenticate(yield* signed())).user, "ada")
        assert.include(yield* refusal(authenticate("other")), "unauthorized: this API key is not known")
        assert.include(yield* refusal(authenticate("a.b.c")), "not a valid JSON Web Token")
      }), {
      keys: [{ id: "plain", sha256: createHash("sha256").update("sesame").digest("hex"), tenant: "acme" }]
    }))

  it.effect("is known beside so many others, and no more", () =>
    withTokens(({ authenticate, issuer }) =>
      Effect.gen(function*() {
        const [first = "", second = "", third = ""] = yield* Effect.forEach(["a", "b", "c"], (sub) => signed({ sub }))
        for (const token of [first, second, third]) yield* authenticate(token)
        yield* Effect.promise(() => issuer.publish(other))
        yield* TestClock.adjust("30 seconds")
        yield* authenticate(yield* signed({}, other))
        // Of the first key's tokens none is good now but one that is known.
        yield* authenticate(third)
        assert.include(yield* refusal(authenticate(first)), "does not publish")
        assert.include(yield* refusal(authenticate(second)), "does not publish")
      }), { maxCached: 2 }))
})

describe("the issuer's keys", () => {
  it.effect("are fetched anew for an unknown one, but not for each", () =>
    withTokens(({ authenticate, issuer }) =>
      Effect.gen(function*() {
        yield* authenticate(yield* signed())
        yield* Effect.promise(() => issuer.publish(rsa, other))
        const token = yield* signed({}, other)
        // Right after a fetch none is repeated.
        assert.include(yield* refusal(authenticate(token)), "does not publish")
        assert.strictEqual(issuer.asked(), 1)
        yield* TestClock.adjust("30 seconds")
        yield* Effect.all(Array.from({ length: 50 }, () => authenticate(token)), { concurrency: "unbounded" })
        assert.strictEqual(issuer.asked(), 2)
        const stranger = yield* Effect.promise(() => signingKey("stranger"))
        for (let i = 0; i < 50; i++) {
          const told = yield* refusal(authenticate(yield* signed({ jti: String(i) }, stranger)))
          assert.include(told, "does not publish")
        }
        assert.strictEqual(issuer.asked(), 2)
      })
    ))

  it.effect("are tried one after the other for a token that names none", () =>
    withTokens(({ authenticate, issuer }) =>
      Effect.gen(function*() {
        yield* Effect.promise(() => issuer.publish(rsa, other))
        yield* authenticate(yield* signed({}, rsa, {}))
        yield* authenticate(yield* signed({}, other, {}))
        const stranger = yield* Effect.promise(() => signingKey("stranger"))
        assert.include(yield* refusal(authenticate(yield* signed({}, stranger, {}))), "signature is not valid")
      })
    ))

  it.effect("that were never fetched make tokens uncheckable, not wrong, until the issuer is back", () =>
    withTokens(({ authenticate, issuer, logged }) =>
      Effect.gen(function*() {
        const token = yield* signed()
        const bad: ReadonlyArray<Parameters<Issuer["answerWith"]>[0]> = [
          "cut",
          { status: 500, body: "{}" },
          { status: 200, body: "<html>" },
          { status: 200, body: "{\"keys\":7}" },
          { status: 200, body: `{"keys":[${" ".repeat(2_000_000)}]}` },
          { status: 302, body: "", headers: { location: "http://127.0.0.1:1/" } }
        ]
        for (const answering of bad) {
          issuer.answerWith(answering)
          const error = yield* Effect.flip(authenticate(token))
          assert.deepStrictEqual([error.code, error.status, error.retryAfterMs], ["store_unavailable", 503, 1000])
          const asked = issuer.asked()
          assert.strictEqual((yield* Effect.flip(authenticate(token))).code, "store_unavailable")
          assert.strictEqual(issuer.asked(), asked, "it is left alone for a second")
          yield* TestClock.adjust("1 second")
        }
        yield* Effect.promise(() => issuer.publish(rsa))
        yield* authenticate(token)
        assert.strictEqual(logged.length, 2, logged.join("\n"))
      })
    ))

  it.effect("are waited for no longer than five seconds", () =>
    withTokens(({ authenticate, issuer }) =>
      Effect.gen(function*() {
        issuer.answerWith("silence")
        const token = yield* signed()
        const fiber = yield* Effect.forkChild(Effect.flip(authenticate(token)))
        yield* TestClock.withLive(Effect.gen(function*() {
          while (issuer.asked() === 0) yield* Effect.sleep(5)
        }))
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual((yield* Fiber.join(fiber)).code, "store_unavailable")
      })
    ))

  it.effect("stay good for a day without the issuer", () =>
    withTokens(({ authenticate, issuer, logged }) =>
      Effect.gen(function*() {
        const at = (hours: number) => signed({ exp: start + hours * 3600 + 3600 })
        yield* authenticate(yield* at(0))
        issuer.answerWith("cut")
        for (const hours of [1, 2, 23]) {
          yield* TestClock.setTime((start + hours * 3600) * 1000)
          assert.strictEqual((yield* authenticate(yield* at(hours))).user, "ada")
          // What the issuer would say of an unknown key is not known now.
          assert.include(yield* refusal(authenticate(yield* signed({}, other))), "store_unavailable")
        }
        yield* TestClock.setTime((start + 24 * 3600) * 1000)
        assert.include(yield* refusal(authenticate(yield* at(24))), "store_unavailable")
        yield* Effect.promise(() => issuer.publish(rsa))
        yield* TestClock.adjust("1 second")
        yield* authenticate(yield* at(24))
        assert.strictEqual(logged.length, 2, logged.join("\n"))
      })
    ))

  it.effect("that the issuer has withdrawn are no longer good ten minutes later", () =>
    withTokens(({ authenticate, issuer }) =>
      Effect.gen(function*() {
        yield* authenticate(yield* signed())
        yield* Effect.promise(() => issuer.publish(ec))
        yield* TestClock.adjust("10 minutes")
        assert.include(yield* refusal(authenticate(yield* signed({ jti: "new" }))), "does not publish")
        yield* authenticate(yield* signed({}, ec))
      })
    ))
})
