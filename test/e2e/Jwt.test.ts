/** Requests that come in with tokens: the gateway asks a real issuer over HTTP for its keys. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Redacted, Schema, Scope } from "effect"
import { FetchHttpClient } from "effect/http"
import { exportSPKI } from "jose"
import { createHmac } from "node:crypto"
import * as IdentityJwt from "../../src/modules/identity/IdentityJwt.ts"
import * as KeysSql from "../../src/modules/identity/KeysSql.ts"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { IssuedKeyJson } from "../../src/sdk/KeyJson.ts"
import { type Issuer, sign, signingKey, startIssuer } from "../fixtures/Issuer.ts"
import { type KeyGateway, startKeyGateway } from "../fixtures/KeyGateway.ts"

const decodeIssued = Schema.decodeUnknownSync(IssuedKeyJson)
const chatPath = "/llm-gateway/v1/chat/completions"
const keysPath = "/llm-gateway/v1/admin/keys"
const question = { model: "sandbox::echo", messages: [{ role: "user", content: "hello" }] }

const first = await signingKey("first")
const second = await signingKey("second", "ES256")

const now = Math.floor(performance.timeOrigin / 1000)
const claims = {
  iss: "https://issuer.example",
  aud: "gateway",
  sub: "ada",
  org: { id: "acme" },
  exp: now + 3600
}

const options = (url: string): IdentityJwt.JwtOptions => ({
  jwksUrl: url,
  issuer: "https://issuer.example",
  audience: ["gateway", "other-gateway"],
  tenantClaim: "org.id",
  adminClaim: "gateway_admin",
  jwksCooldownMs: 0,
  clockSkewMs: 0
})

const scope = Scope.makeUnsafe()
let issuer: Issuer
let gateway: KeyGateway

beforeAll(async () => {
  issuer = await startIssuer.pipe(Scope.provide(scope), Effect.runPromise)
  await issuer.publish(first)
  // As a configuration with both puts them together: the Identity of keys beneath that of tokens.
  const keys = KeysSql.layer().pipe(
    Layer.provide(Sql.migrate(KeysSql.migrations)),
    Layer.provide(Sql.layer(Redacted.make("sqlite::memory:")))
  )
  gateway = await startKeyGateway(
    IdentityJwt.layerWithKeys(options(issuer.url)).pipe(
      Layer.provideMerge(keys),
      Layer.provide(FetchHttpClient.layer)
    ),
    { acme: undefined }
  )
})
afterAll(async () => {
  await gateway.close()
  await Effect.runPromise(Scope.close(scope, Exit.void))
})

const chat = (token: string) => gateway.send("POST", chatPath, token, question)
const refused = async (token: string) => {
  const { body, status } = await chat(token)
  return `${status} ${String(body["code"])}: ${String(body["detail"])}`
}

describe("a gateway behind an issuer of tokens", () => {
  it("serves who has a token, in every dialect", async () => {
    const token = await sign(first, claims)
    assert.strictEqual((await chat(token)).status, 200)
    assert.strictEqual((await gateway.send("POST", "/v1/chat/completions", token, question)).status, 200)
    const byHeader = await fetch(`${gateway.url}/v1/models`, { headers: { "x-api-key": token } })
    assert.strictEqual(byHeader.status, 200, await byHeader.text())
  })

  it("refuses bad ones with 401 and the reason, without a log line", async () => {
    const before = gateway.logged.length
    const [, body = ""] = (await sign(first, claims)).split(".")
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url")
    const pem = await exportSPKI(first.publicKey)
    const byPublicKey = `${part({ alg: "HS256", kid: "first" })}.${body}`
    const expected: ReadonlyArray<readonly [string, string]> = [
      [await sign(first, { ...claims, exp: now - 1 }), "has expired"],
      [await sign(first, { ...claims, nbf: now + 3000 }), "not valid yet"],
      [await sign(first, { ...claims, aud: "nobody" }), "another audience"],
      [await sign(second, claims), "a key that its issuer does not publish"],
      [`${part({ alg: "none" })}.${body}.`, "an algorithm that is not accepted"],
      [
        `${byPublicKey}.${createHmac("sha256", pem).update(byPublicKey).digest("base64url")}`,
        "an algorithm that is not accepted"
      ],
      [await sign(first, { ...claims, org: {} }), "\"org.id\" must name a tenant"],
      [`${part({ alg: "RS256" })}.${"A".repeat(12_300)}.A`, "longer than 12288 characters"]
    ]
    for (const [token, reason] of expected) {
      const told = await refused(token)
      assert.include(told, "401 unauthorized: ")
      assert.include(told, reason)
    }
    const nobody = await refused(await sign(first, { ...claims, org: { id: "nobody" } }))
    assert.include(nobody, "403 forbidden: the tenant \"nobody\"")
    assert.strictEqual((await gateway.send("POST", chatPath, undefined, question)).status, 401)
    assert.strictEqual(gateway.logged.length, before)
  })

  it("takes keys beside tokens, and administrators by their claim", async () => {
    const user = await sign(first, claims)
    assert.strictEqual((await gateway.send("GET", keysPath, user)).status, 403)
    const admin = await sign(first, { ...claims, gateway_admin: true })
    const made = await gateway.send("POST", keysPath, admin, { tenant: "acme" })
    assert.strictEqual(made.status, 201, JSON.stringify(made.body))
    const { key, secret } = decodeIssued(made.body)
    assert.strictEqual((await chat(secret)).status, 200)
    assert.strictEqual(gateway.audited.at(-1)?.user, "ada")
    await gateway.send("DELETE", `${keysPath}/${key.id}`, admin)
    assert.include(await refused(secret), "401 unauthorized")
  })

  it("follows the issuer's keys, and answers 503 for new ones while it does not answer", async () => {
    await issuer.publish(first, second)
    assert.strictEqual((await chat(await sign(second, claims))).status, 200)
    issuer.answerWith("cut")
    assert.strictEqual((await chat(await sign(first, { ...claims, jti: "new" }))).status, 200)
    const third = await signingKey("third", "ES256")
    const { body, headers, status } = await chat(await sign(third, claims))
    assert.deepStrictEqual([status, body["code"], headers.get("retry-after")], [503, "store_unavailable", "1"])
  })
})

describe("a gateway whose issuer was never there", () => {
  it("answers 503, and 401 to what is no token", async () => {
    const gone = await startKeyGateway(
      IdentityJwt.layer(options("http://127.0.0.1:9/jwks")).pipe(Layer.provide(FetchHttpClient.layer))
    )
    try {
      const { body, headers, status } = await gone.send("POST", chatPath, await sign(first, claims), question)
      assert.deepStrictEqual([status, body["code"], headers.get("retry-after")], [503, "store_unavailable", "1"])
      assert.strictEqual((await gone.send("POST", chatPath, "sesame", question)).status, 401)
    } finally {
      await gone.close()
    }
  })
})
