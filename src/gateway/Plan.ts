/** What the attempts of one request are made by: who could serve it, in which order, and how hard to try. */
import type { Timeouts } from "../sdk/Caller.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import type { Provider } from "../sdk/Provider.ts"
import type { RetryOptions, Route, RoutePolicy } from "../sdk/Routes.ts"

/** A model, and the provider that has it. */
export interface Candidate {
  readonly model: ModelInfo
  readonly provider: Provider
}

/** A model that was named but cannot serve this request. */
export interface Skipped {
  /** As it was named, or its canonical id where it is known. */
  readonly model: string
  /** Such as `capability_not_supported: tools`, `model_not_approved`, `context window`. */
  readonly reason: string
}

/** The plan of one request. */
export interface Plan {
  /** Best first; never none. */
  readonly candidates: readonly [Candidate, ...Array<Candidate>]
  readonly skipped: ReadonlyArray<Skipped>
  /** One after another, or hedged. */
  readonly strategy: "sequential" | "parallel"
  /** Hedging's pause before the next candidate starts, ms; absent: what is learned of the model's first tokens. */
  readonly hedgeAfterMs?: number
  /** Attempts in all. */
  readonly attempts: number
  readonly retry: RetryOptions
  readonly timeouts: Timeouts
  /** The route that the request named, and the policy that ordered its models. */
  readonly route?: Route
  readonly policy?: RoutePolicy
}
