/**
 * Identity by JSON Web Tokens (RFC 7519): an issuer that the operator trusts signs who the caller is. The signature is
 * checked against the issuer's published keys, with asymmetric algorithms alone: `none`, and secrets that somebody else
 * could hold (HS256), are never accepted. A token that was checked is known for a minute at most, so that a request costs
 * one hash.
 */
import { DateTime, Effect, Layer, Result, Schema, type Scope } from "effect"
import type { HttpClient } from "effect/http"
import { errors, type JWTPayload, jwtVerify, type JWTVerifyOptions } from "jose"
import { hash } from "node:crypto"
import type { Caller } from "../../sdk/Caller.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import { Identity } from "../../sdk/Identity.ts"
import { maxTags, Tag, TenantName, UserName } from "../../sdk/KeyJson.ts"
import { admit, type Answer, configuredTenants, refuse } from "./Admission.ts"
import { put } from "./BoundedMap.ts"
import * as Jwks from "./Jwks.ts"
import * as SteadyTime from "./SteadyTime.ts"

const algorithms = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
  "EdDSA",
  "Ed25519"
] as const

/** An algorithm of a signature that only the issuer can make. */
export type Algorithm = (typeof algorithms)[number]

/**
 * Whose tokens are good. A claim is named as it is (`https://acme.example/org`), or by a path through objects (`org.id`).
 */
export interface JwtOptions extends Jwks.JwksOptions {
  /** What the `iss` claim must be. */
  readonly issuer: string
  /** What the `aud` claim must be, or be one of. */
  readonly audience: string | ReadonlyArray<string>
  /** Names the tenant; default `tenant`. */
  readonly tenantClaim?: string
  /** Names the user; default `sub`. A token without it has none. */
  readonly userClaim?: string
  /** Holds the tags, a list of texts; without this option tokens have none. */
  readonly tagsClaim?: string
  /** Is `true` for administrators; without this option no token is one. */
  readonly adminClaim?: string
  /** By how much clocks may differ, ms; default 30 s. */
  readonly clockSkewMs?: number
  /** The algorithms that are accepted; default all that are known. */
  readonly algorithms?: ReadonlyArray<Algorithm>
  /** The longest token that is read, characters; default 12,288. */
  readonly maxTokenLength?: number
  /** How many tokens are known at the same time; default 10,000. */
  readonly maxCached?: number
}

/** How long a token that was checked is known without being checked again, ms. */
const knownMs = 60_000
/** Keys that are tried for a token that does not say which one it was signed with. */
const maxTried = 8

const noToken = refuse("no token; send it as \"authorization: Bearer TOKEN\"")
const noJwt = refuse("this is not a JSON Web Token, which the gateway expects: three parts with dots between them")
const malformed = refuse("this token is not a valid JSON Web Token")
const unknownKey = refuse("this token is signed with a key that its issuer does not publish; get a new one")
const badSignature = refuse("this token's signature is not valid")
const badAlgorithm = refuse("this token is signed with an algorithm that is not accepted here")
const expired = refuse("this token has expired; get a new one")
const notYet = refuse("this token is not valid yet; its nbf claim is in the future")
const otherAudience = refuse("this token is for another audience; ask its issuer for one for this gateway")
const otherIssuer = refuse("this token is from another issuer than the one that this gateway trusts")

/** What is wrong with the token. jose's own messages stay here: they may hold parts of it. */
const refusalOf = (error: unknown): Answer => {
  if (error instanceof errors.JWTExpired) return expired
  if (error instanceof errors.JWTClaimValidationFailed) {
    switch (error.claim) {
      case "aud":
        return otherAudience
      case "iss":
        return otherIssuer
      case "nbf":
        return error.reason === "check_failed" ? notYet : malformed
      case "exp":
        return refuse("this token has no valid exp claim, without which none is accepted")
      default:
        return malformed
    }
  }
  if (error instanceof errors.JWKSNoMatchingKey) return unknownKey
  if (error instanceof errors.JOSEAlgNotAllowed) return badAlgorithm
  if (error instanceof errors.JWSSignatureVerificationFailed) return badSignature
  return malformed
}

const verifyOnce = async (token: string, keys: Jwks.KeySet["keys"], options: JWTVerifyOptions): Promise<JWTPayload> => {
  try {
    return (await jwtVerify(token, keys, options)).payload
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error
    let tried = 0
    for await (const key of error) {
      if (tried++ === maxTried) break
      try {
        return (await jwtVerify(token, key, options)).payload
      } catch (wrong) {
        if (!(wrong instanceof errors.JWSSignatureVerificationFailed)) throw wrong
      }
    }
    throw new errors.JWSSignatureVerificationFailed()
  }
}

/** Whether a text can be a JSON Web Token: it has three parts. Keys have no dots. */
const hasThreeParts = (value: string): boolean => {
  const first = value.indexOf(".")
  const second = first < 0 ? -1 : value.indexOf(".", first + 1)
  return second >= 0 && !value.includes(".", second + 1)
}

const ownOf = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? Object.getOwnPropertyDescriptor(value, name)?.value : undefined

/** A claim by its name or path; `undefined` where it is not there. */
const claimOf = (payload: JWTPayload, name: string): unknown => {
  const whole = ownOf(payload, name)
  if (whole !== undefined || !name.includes(".")) return whole
  let at: unknown = payload
  for (const part of name.split(".")) at = ownOf(at, part)
  return at
}

const isTenant = Schema.is(TenantName)
const isUser = Schema.is(UserName)
const areTags = Schema.is(Schema.Array(Tag).check(Schema.isMaxLength(maxTags)))

interface Known {
  readonly answer: Answer
  /** Steady ms. */
  readonly until: number
}

/** Checks tokens; what is none goes to `keys`, where there are any. */
const make = Effect.fnUntraced(function*(
  options: JwtOptions,
  keys: Identity["Service"] | undefined
): Effect.fn.Return<Identity["Service"], never, HttpClient.HttpClient | Scope.Scope> {
  const {
    adminClaim,
    maxCached = 10_000,
    maxTokenLength = 12_288,
    tagsClaim,
    tenantClaim = "tenant",
    userClaim = "sub"
  } = options
  const tenants = yield* configuredTenants
  const time = yield* SteadyTime.make
  const jwks = yield* Jwks.make(time, options)
  const known = new Map<string, Known>()

  const noTenant = refuse(`this token's claim "${tenantClaim}" must name a tenant, in 1 to 128 characters`)
  const noUser = refuse(`this token's claim "${userClaim}" must name a user, in 1 to 256 characters`)
  const noTags = refuse(`this token's claim "${tagsClaim}" must be a list of at most ${maxTags} tags`)
  const tooLong = refuse(`this token is longer than ${maxTokenLength} characters`)

  const checks = {
    algorithms: Array.from(options.algorithms ?? algorithms),
    issuer: options.issuer,
    audience: typeof options.audience === "string" ? options.audience : Array.from(options.audience),
    clockTolerance: (options.clockSkewMs ?? 30_000) / 1000,
    requiredClaims: ["exp"]
  }

  const verified = (token: string, { keys }: Jwks.KeySet) =>
    Effect.promise(() =>
      verifyOnce(token, keys, { ...checks, currentDate: DateTime.toDateUtc(DateTime.makeUnsafe(time())) }).then(
        Result.succeed,
        (error: unknown) => Result.fail(error)
      )
    )

  const answerOf = (payload: JWTPayload): Answer => {
    const tenant = claimOf(payload, tenantClaim)
    if (!isTenant(tenant)) return noTenant
    const user = claimOf(payload, userClaim) ?? undefined
    if (user !== undefined && !isUser(user)) return noUser
    const tags = (tagsClaim === undefined ? undefined : claimOf(payload, tagsClaim)) ?? []
    if (!areTags(tags)) return noTags
    const admin = adminClaim !== undefined && claimOf(payload, adminClaim) === true
    const caller: Caller = {
      tenant,
      tags,
      ...(user === undefined ? {} : { user }),
      ...(admin ? { admin } : {})
    }
    return admit(caller, tenants)
  }

  const check = Effect.fnUntraced(function*(token: string, digest: string): Effect.fn.Return<Caller, GatewayError> {
    const present = yield* jwks.present
    let outcome = yield* verified(token, present)
    if (Result.isFailure(outcome) && outcome.failure instanceof errors.JWKSNoMatchingKey) {
      const later = yield* jwks.after(present)
      if (later !== present) outcome = yield* verified(token, later)
    }
    if (Result.isFailure(outcome)) return yield* refusalOf(outcome.failure)
    const answer = answerOf(outcome.success)
    const until = Math.min((outcome.success.exp ?? 0) * 1000, time() + knownMs)
    put(known, digest, { answer, until }, maxCached)
    return yield* answer
  })

  return Identity.of({
    authenticate: (secret) =>
      Effect.suspend(() => {
        if (secret === undefined) return noToken
        const token = secret.reveal()
        if (!hasThreeParts(token)) return keys === undefined ? noJwt : keys.authenticate(secret)
        if (token.length > maxTokenLength) return tooLong
        const digest = hash("sha256", token, "hex")
        const hit = known.get(digest)
        return hit !== undefined && time() < hit.until ? hit.answer : check(token, digest)
      })
  })
})

/** Only who shows a valid token is let in. Where the context of this Layer has `Tenants`, its tenant must be one of them. */
export const layer = (options: JwtOptions): Layer.Layer<Identity, never, HttpClient.HttpClient> =>
  Layer.effect(Identity, make(options, undefined))

/** Like `layer`; whatever is not a token is a key, which the `Identity` beneath this Layer knows or refuses. */
export const layerWithKeys = (options: JwtOptions): Layer.Layer<Identity, never, HttpClient.HttpClient | Identity> =>
  Layer.effect(Identity, Effect.flatMap(Identity, (keys) => make(options, keys)))
