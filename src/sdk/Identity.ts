/** Who is calling: from the secret that a request shows to the caller on whose account it runs. */
import { Context, type Effect, Inspectable } from "effect"
import type { Caller } from "./Caller.ts"
import type { GatewayError } from "./GatewayError.ts"

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
