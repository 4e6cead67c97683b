/**
 * Identity by API keys that the configuration lists by their SHA-256. A key has enough entropy for a plain hash: the
 * secret cannot be had back from it, and looking the hash up tells nothing of how close a wrong secret came.
 */
import { Effect, Layer } from "effect"
import { hash } from "node:crypto"
import type { Caller } from "../../sdk/Caller.ts"
import { fail, Unauthorized } from "../../sdk/GatewayError.ts"
import { Identity } from "../../sdk/Identity.ts"

/** One key. */
export interface ApiKey {
  /** Names the key in records and logs. */
  readonly id: string
  /** SHA-256 of the secret in hex. */
  readonly sha256: string
  readonly tenant: string
  readonly user?: string
  readonly tags?: ReadonlyArray<string>
  /** Whether the key may administrate the gateway; default false. */
  readonly admin?: boolean
  /** Unix ms after which the key is no longer good. */
  readonly expiresAt?: number
}

/** Secrets longer than this are refused unhashed. */
const maxSecretLength = 1024

const unauthorized = (message: string) => Effect.fail(fail(new Unauthorized({ message })))

/**
 * Everyone is let in as one caller, by default one who may administrate the gateway, whatever secret they show. Only for a
 * gateway that listens on loopback alone.
 */
export const layerNone = (caller: Caller = { tenant: "default", tags: [], admin: true }): Layer.Layer<Identity> =>
  Layer.succeed(Identity, { authenticate: () => Effect.succeed(caller) })

/** Only who shows the secret of one of the keys is let in. */
export const layerKeys = (keys: ReadonlyArray<ApiKey>): Layer.Layer<Identity> =>
  Layer.sync(Identity, () => {
    const callers = new Map<string, { readonly caller: Caller; readonly expiresAt: number }>()
    for (const key of keys) {
      callers.set(key.sha256.toLowerCase(), {
        caller: {
          tenant: key.tenant,
          keyId: key.id,
          tags: key.tags ?? [],
          ...(key.admin === true ? { admin: true } : {}),
          ...(key.user === undefined ? {} : { user: key.user })
        },
        expiresAt: key.expiresAt ?? Infinity
      })
    }
    return Identity.of({
      authenticate: (secret) =>
        Effect.clockWith((clock) => {
          if (secret === undefined) {
            return unauthorized("no API key; send it as \"authorization: Bearer KEY\" (or x-api-key)")
          }
          const value = secret.reveal()
          const known = value.length > maxSecretLength ? undefined : callers.get(hash("sha256", value, "hex"))
          if (known === undefined) return unauthorized("this API key is not known to the gateway")
          if (known.expiresAt <= clock.currentTimeMillisUnsafe()) return unauthorized("this API key has expired")
          return Effect.succeed(known.caller)
        })
    })
  })
