/** What authentication answers, in one wording for keys and tokens. The effects are made once and given out many times. */
import { Effect, Option } from "effect"
import type { Caller } from "../../sdk/Caller.ts"
import { fail, Forbidden, type GatewayError, Unauthorized } from "../../sdk/GatewayError.ts"
import { Tenants } from "../../sdk/Tenant.ts"
import * as KeySecret from "./KeySecret.ts"

/** A caller, or why there is none. */
export type Answer = Effect.Effect<Caller, GatewayError>

/** Refuses whoever shows this. */
export const refuse = (message: string): Answer => Effect.fail(fail(new Unauthorized({ message })))

export const noKey = refuse("no API key; send it as \"authorization: Bearer KEY\" (or x-api-key)")
export const unknownKey = refuse("this API key is not known to the gateway")
export const expiredKey = refuse("this API key has expired; ask for a new one")
export const revokedKey = refuse("this API key has been revoked")
export const replacedSecret = refuse("this API key has been rotated; use its new secret")

/** The configured tenants, where the app has them. */
export const configuredTenants: Effect.Effect<Tenants["Service"] | undefined> = Effect.map(
  Effect.serviceOption(Tenants),
  Option.getOrUndefined
)

const maxShown = 128

/** Lets a caller in whose tenant is among those that are configured, if any are; else it is `forbidden`. */
export const admit = (caller: Caller, tenants: Tenants["Service"] | undefined): Answer =>
  tenants === undefined || tenants.lineage(caller.tenant) !== undefined
    ? Effect.succeed(caller)
    : Effect.fail(fail(
      new Forbidden({ message: `the tenant "${caller.tenant.slice(0, maxShown)}" is not one of this gateway's` })
    ))

/** What a secret is good for, and until when. */
export class Admission {
  readonly #digest: Buffer
  readonly #answer: Answer
  readonly #keyUntil: number
  readonly #secretUntil: number
  /** `until` are Unix ms: of the key, and of this one of its secrets. */
  constructor(digest: string, answer: Answer, keyUntil: number, secretUntil: number) {
    this.#digest = KeySecret.bytesOf(digest)
    this.#answer = answer
    this.#keyUntil = keyUntil
    this.#secretUntil = secretUntil
  }
  /** What who shows the secret of this digest is answered at a moment. */
  answer(digest: string, now: number): Answer {
    if (!KeySecret.areEqual(digest, this.#digest)) return unknownKey
    if (this.#keyUntil <= now) return expiredKey
    if (this.#secretUntil <= now) return replacedSecret
    return this.#answer
  }
}
