/** Who is calling: from the secret that a request shows to the caller on whose account it runs. */
import { Context, type Effect, type Redacted } from "effect"
import type { Caller } from "./Caller.ts"
import type { GatewayError } from "./GatewayError.ts"

/** Knows the callers. */
export class Identity extends Context.Service<Identity, {
  /**
   * The caller that a secret belongs to; `undefined` where the request shows none. Fails with `unauthorized`, and with
   * `store_unavailable` where the keys cannot be read.
   */
  readonly authenticate: (secret: Redacted.Redacted | undefined) => Effect.Effect<Caller, GatewayError>
}>()("llm-gateway/sdk/Identity") {}
