/**
 * Identity by API keys that the configuration lists by their SHA-256. A key has enough entropy for a plain hash: the
 * secret cannot be had back from it, and looking the hash up tells nothing of how close a wrong secret came.
 */
import { Effect, Layer } from "effect"
import type { Caller } from "../../sdk/Caller.ts"
import { Identity, type KeyInfo } from "../../sdk/Identity.ts"
import type { Restrictions, Tenants } from "../../sdk/Tenant.ts"
import { Admission, admit, configuredTenants, noKey, unknownKey } from "./Admission.ts"
import * as KeySecret from "./KeySecret.ts"
import * as SteadyTime from "./SteadyTime.ts"

/** One key, and what it may do short of what its tenant may. */
export interface ApiKey extends Partial<Restrictions> {
  /** Names the key in records and logs. */
  readonly id: string
  /** SHA-256 of the secret in hex. */
  readonly sha256: string
  readonly tenant: string
  readonly user?: string
  readonly tags?: ReadonlyArray<string>
  /** Whether it may administrate the gateway. */
  readonly admin?: boolean
  /** Unix ms after which the key is no longer good. */
  readonly expiresAt?: number
}

/**
 * Everyone is let in as one caller, whatever secret they show; who the caller is may be chosen. Only for a gateway that
 * listens on loopback alone.
 */
export const layerNone = (
  caller: Caller = { tenant: "default", tags: [], admin: true }
): Layer.Layer<Identity> => Layer.succeed(Identity, { authenticate: () => Effect.succeed(caller) })

/** What is known of a key of the configuration. */
export const keyInfo = (key: ApiKey): KeyInfo => ({
  id: key.id,
  tenant: key.tenant,
  ...(key.user === undefined ? {} : { user: key.user }),
  tags: key.tags ?? [],
  admin: key.admin === true,
  restrictions: {
    ...(key.models === undefined ? {} : { models: key.models }),
    rateLimits: key.rateLimits ?? [],
    budgets: key.budgets ?? []
  },
  source: "configuration",
  ...(key.expiresAt === undefined ? {} : { expiresAt: key.expiresAt })
})

/** The caller that a key stands for. */
export const callerOf = ({ admin, id, restrictions, tags, tenant, user }: KeyInfo): Caller => {
  const { budgets, models, rateLimits } = restrictions
  return {
    tenant,
    keyId: id,
    tags,
    ...(user === undefined ? {} : { user }),
    ...(admin ? { admin } : {}),
    ...(models === undefined && rateLimits.length === 0 && budgets.length === 0 ? {} : { restrictions })
  }
}

/** The keys of a configuration by the digests of their secrets. */
export const admissions = (
  keys: ReadonlyArray<ApiKey>,
  tenants: Tenants["Service"] | undefined
): ReadonlyMap<string, Admission> => {
  const byDigest = new Map<string, Admission>()
  for (const key of keys) {
    const digest = key.sha256.toLowerCase()
    byDigest.set(
      digest,
      new Admission(digest, admit(callerOf(keyInfo(key)), tenants), key.expiresAt ?? Infinity, Infinity)
    )
  }
  return byDigest
}

/**
 * Only who shows the secret of one of the keys is let in. Where the context of this Layer has `Tenants`, the key's tenant
 * must be one of them.
 */
export const layerKeys = (keys: ReadonlyArray<ApiKey>): Layer.Layer<Identity> =>
  Layer.effect(
    Identity,
    Effect.gen(function*() {
      const known = admissions(keys, yield* configuredTenants)
      const time = yield* SteadyTime.make
      return Identity.of({
        authenticate: (secret) =>
          Effect.suspend(() => {
            if (secret === undefined) return noKey
            const value = secret.reveal()
            const digest = KeySecret.digest(value)
            const admission = KeySecret.isTooLong(value) ? undefined : known.get(digest)
            return admission === undefined ? unknownKey : admission.answer(digest, time())
          })
      })
    })
  )
