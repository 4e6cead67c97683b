/**
 * Client secrets: keys for browsers, which open realtime sessions with one model for some minutes and are good for nothing else.
 *
 * A secret holds what it is good for, sealed by AES-256-GCM under the service's own secret: nothing is kept of it, so every
 * replica that has the same secret takes it, and who holds it can read nothing of the caller on whose account it runs. It cannot
 * be revoked, which is why it does not last.
 */
import { Option, Redacted, Result, Schema } from "effect"
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto"
import type { Caller } from "../../sdk/Caller.ts"
import { fail, type GatewayError, invalid, Unauthorized } from "../../sdk/GatewayError.ts"
import { RestrictionsJson } from "../../sdk/KeyJson.ts"

const prefix = "ek_"
const ivLength = 12
const tagLength = 16
/** The longest secret that is looked at: with more, a browser's request has no room for its other headers. */
const maxLength = 6_000

/** What a secret is good for. */
export interface Grant {
  readonly caller: Caller
  /** The only model, as it was named when the secret was made. */
  readonly model: string
  /** How the session is to be set up, as JSON of `session.update`'s `session`; absent: as the provider does. */
  readonly session?: string
  /** Unix ms. */
  readonly expiresAt: number
}

const Sealed = Schema.Struct({
  caller: Schema.Struct({
    tenant: Schema.String,
    user: Schema.optionalKey(Schema.String),
    keyId: Schema.optionalKey(Schema.String),
    tags: Schema.Array(Schema.String),
    restrictions: Schema.optionalKey(RestrictionsJson)
  }),
  model: Schema.String,
  session: Schema.optionalKey(Schema.String),
  expiresAt: Schema.Finite
})
const SealedText = Schema.fromJsonString(Sealed)
const decodeSealed = Schema.decodeUnknownOption(SealedText)
const encodeSealed = Schema.encodeResult(SealedText)

/** What the secrets of this process are sealed with where none is configured. */
const ownKey = randomBytes(32)

const tooManyLimits = fail(
  invalid("", "this key has too many limits of its own for client secrets; use one with fewer")
)
const unknownSecret = fail(new Unauthorized({ message: "this client secret is not known to the gateway" }))
const expiredSecret = fail(new Unauthorized({ message: "this client secret has expired; ask for a new one" }))

/** Whether a key looks like a client secret. */
export const isClientSecret = (key: string): boolean => key.startsWith(prefix)

/** Makes and reads the client secrets of one service. */
export class ClientSecrets {
  readonly #key: Buffer

  /** Without a secret there is one of this process's own, and other processes do not know what it makes. */
  constructor(secret: Redacted.Redacted | undefined) {
    this.#key = secret === undefined
      ? ownKey
      : createHash("sha256").update("llm-gateway client secrets\n").update(Redacted.value(secret)).digest()
  }

  /** Seals a grant. An administrator's secret makes no administrators. Fails where it would be too long for a header. */
  seal({ caller: { keyId, restrictions, tags, tenant, user }, ...grant }: Grant): Result.Result<string, GatewayError> {
    const text = encodeSealed({
      ...grant,
      caller: {
        tenant,
        tags,
        ...(user === undefined ? {} : { user }),
        ...(keyId === undefined ? {} : { keyId }),
        ...(restrictions === undefined ? {} : { restrictions })
      }
    })
    if (Result.isFailure(text)) return Result.fail(tooManyLimits)
    const iv = randomBytes(ivLength)
    const cipher = createCipheriv("aes-256-gcm", this.#key, iv)
    const sealed = Buffer.concat([
      iv,
      cipher.update(text.success, "utf8"),
      cipher.final(),
      cipher.getAuthTag()
    ])
    const secret = prefix + sealed.toString("base64url")
    return secret.length > maxLength
      ? Result.fail(fail(invalid("session", "is too large for a client secret; send it in session.update instead")))
      : Result.succeed(secret)
  }

  /** What a secret is good for at a moment, Unix ms. Fails with `unauthorized`. */
  open(secret: string, now: number): Result.Result<Grant, GatewayError> {
    const grant = Option.getOrUndefined(this.#decode(secret))
    if (grant === undefined) return Result.fail(unknownSecret)
    return grant.expiresAt <= now ? Result.fail(expiredSecret) : Result.succeed(grant)
  }

  #decode(secret: string): Option.Option<Grant> {
    if (secret.length > maxLength) return Option.none()
    const sealed = Buffer.from(secret.slice(prefix.length), "base64url")
    if (sealed.length <= ivLength + tagLength) return Option.none()
    const decipher = createDecipheriv("aes-256-gcm", this.#key, sealed.subarray(0, ivLength))
    decipher.setAuthTag(sealed.subarray(-tagLength))
    try {
      const text = Buffer.concat([decipher.update(sealed.subarray(ivLength, -tagLength)), decipher.final()])
      return decodeSealed(text.toString("utf8"))
    } catch {
      // Somebody else's, or changed.
      return Option.none()
    }
  }
}
