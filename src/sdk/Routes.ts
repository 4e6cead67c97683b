/** Routes: configured names that stand for several models and a policy for choosing among them. */
import { Context, Layer, Schema } from "effect"
import type { Timeouts } from "./Caller.ts"
import type { ProviderErrorKind, TimeoutPhase } from "./GatewayError.ts"

/** How a route's models are ordered. */
export const RoutePolicy = Schema.Literals(["priority", "cheapest", "fastest", "weighted", "least_busy"])
export type RoutePolicy = typeof RoutePolicy.Type

/** What an attempt can fail with, as far as deciding what comes next: the kind of error, or the timer that ran out. */
export type FailureKind = ProviderErrorKind | `timeout_${TimeoutPhase}`

/** What comes after a failed attempt: the same candidate again, the next one, or the error. */
export type FailureAction = "retry" | "next" | "final"

/** One of a route's models. */
export interface RouteModel {
  /** Canonical or bare model id. */
  readonly model: string
  /** Share of the traffic under the policy `weighted`; default 1. */
  readonly weight: number
}

/** How often and how fast to try again. */
export interface RetryOptions {
  /** The first pause, ms; each one after it is about twice as long. */
  readonly baseMs: number
  /** The longest pause, ms. A provider that asks for a longer one is left for the next candidate. */
  readonly maxMs: number
}

/** How small requests for vectors share one call to their provider. */
export interface EmbedBatching {
  /** How long the first request waits for others, ms; 0: not at all. */
  readonly windowMs: number
  /** Inputs of one call at most. */
  readonly maxInputs: number
}

/** A route. */
export interface Route {
  readonly name: string
  readonly policy: RoutePolicy
  readonly models: ReadonlyArray<RouteModel>
  /** Hedging: after so many ms without content the next model is asked, too. */
  readonly hedgeAfterMs?: number
  /** Over the gateway's own limits. */
  readonly timeouts?: Partial<Timeouts>
  /** Attempts in all, retries and fallbacks together. */
  readonly attempts?: number
  readonly retry?: RetryOptions
  /** Over the gateway's table of what follows on which failure. */
  readonly onFailure?: Readonly<Partial<Record<FailureKind, FailureAction>>>
  /** A stream that comes slower than this while it can still fail over does; tokens per second. */
  readonly minTokensPerSecond?: number
  /** Over the gateway's own batching of small requests for vectors. */
  readonly embedBatching?: EmbedBatching
}

/** The configured routes. */
export class Routes extends Context.Service<Routes, {
  readonly get: (name: string) => Route | undefined
  readonly all: () => ReadonlyArray<Route>
}>()("llm-gateway/sdk/Routes") {
  /** The given routes; none by default. */
  static readonly layer = (routes: ReadonlyArray<Route> = []): Layer.Layer<Routes> =>
    Layer.sync(Routes, () => {
      const byName = new Map(routes.map((route) => [route.name, route]))
      return Routes.of({ get: (name) => byName.get(name), all: () => routes })
    })
}
