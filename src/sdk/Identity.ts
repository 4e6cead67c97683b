/** Who is calling: from the secret that a request shows to the caller on whose account it runs. */
import { Context, type Effect, Inspectable, type Redacted } from "effect"
import type { Caller } from "./Caller.ts"
import type { GatewayError } from "./GatewayError.ts"
import type { Restrictions } from "./Tenant.ts"

/**
 * A secret as a request shows it. Like `Redacted` it never prints, logs or encodes as itself. Unlike it, it holds its value
 * in a private field and not in a WeakMap: an entry for every request in that map kept several KB of each request alive
 * until a full garbage collection, which cost more CPU than the rest of authentication.
 */
export class PresentedSecret {
  readonly #value: string
  constructor(value: string) {
    this.#value = value
  }
  /** The secret itself, for comparing only. */
  reveal(): string {
    return this.#value
  }
  toString(): string {
    return "<redacted>"
  }
  toJSON(): string {
    return "<redacted>"
  }
  [Inspectable.NodeInspectSymbol](): string {
    return "<redacted>"
  }
}

/** Knows the callers. */
export class Identity extends Context.Service<Identity, {
  /**
   * The caller that a secret belongs to; `undefined` where the request shows none. Fails with `unauthorized`, and with
   * `store_unavailable` where the keys cannot be read.
   */
  readonly authenticate: (secret: PresentedSecret | undefined) => Effect.Effect<Caller, GatewayError>
}>()("llm-gateway/sdk/Identity") {}

/** What is known of a key. Its secret is not: only a hash of that is kept. */
export interface KeyInfo {
  readonly id: string
  /** What its owner calls it. */
  readonly name?: string
  readonly tenant: string
  readonly user?: string
  readonly tags: ReadonlyArray<string>
  readonly admin: boolean
  readonly restrictions: Restrictions
  /** Where it is kept: keys of the configuration cannot be changed here. */
  readonly source: "configuration" | "store"
  /** Unix ms. */
  readonly createdAt?: number
  /** Unix ms after which it is no longer good. */
  readonly expiresAt?: number
  /** Unix ms since which it is no longer good. */
  readonly revokedAt?: number
}

/** What a new key is made of. */
export interface NewKey extends Omit<KeyInfo, "id" | "source" | "createdAt" | "revokedAt"> {
  /** Made up where absent. */
  readonly id?: string
}

/** A key that was just made, with its secret, which is shown this once. */
export interface IssuedKey {
  readonly key: KeyInfo
  readonly secret: Redacted.Redacted
}

/** The keys that are kept in the database, and those of the configuration, for those who administrate them. */
export class Keys extends Context.Service<Keys, {
  /**
   * Fails with `validation_error` for an id that is taken, a tenant that does not exist, and anything that a key cannot be
   * made of; with `store_unavailable`.
   */
  readonly create: (key: NewKey) => Effect.Effect<IssuedKey, GatewayError>
  /** One key. Fails with `not_found` and `store_unavailable`. */
  readonly get: (id: string) => Effect.Effect<KeyInfo, GatewayError>
  /** By their ids, those after `after` only, of some tenants only where they are given. Fails with `store_unavailable`. */
  readonly list: (query: {
    readonly tenants?: ReadonlyArray<string>
    readonly after?: string
    readonly limit: number
  }) => Effect.Effect<ReadonlyArray<KeyInfo>, GatewayError>
  /**
   * From now on the key is refused, on every replica within seconds; once more changes nothing. Fails with `not_found` and
   * `store_unavailable`, and with `validation_error` for a key of the configuration.
   */
  readonly revoke: (id: string) => Effect.Effect<KeyInfo, GatewayError>
  /**
   * A new secret for the key; those before it stay good for `graceMs`. Fails as `revoke`, and with `validation_error` for
   * a key that is revoked or has expired.
   */
  readonly rotate: (id: string, graceMs: number) => Effect.Effect<IssuedKey, GatewayError>
}>()("llm-gateway/sdk/Keys") {}
