/**
 * The circuit breakers that Outbound has in front of its upstreams, as the rest of the gateway sees them: one for each
 * provider and class of endpoints. What an upstream causes (no connection, broken HTTP, an error of its own) is counted by
 * Outbound itself; what only the pipeline can see, such as a first token that does not come, is reported here.
 */
import { Context, type Effect } from "effect"

/** Endpoints that fail together: each kind of work has servers of its own behind it, and so has what only looks things up. */
export type EndpointClass = "chat" | "embeddings" | "images" | "audio" | "video" | "realtime" | "models" | "other"

/** One breaker as it stands now. */
export interface BreakerState {
  /** The provider's slug. */
  readonly provider: string
  readonly endpoint: EndpointClass
  /** `closed`: all calls go through. `open`: none does. `half_open`: the next one goes through, to see how it fares. */
  readonly state: "closed" | "open" | "half_open"
  /** When an open one lets a call through again, Unix ms. */
  readonly until?: number
}

/** The breakers of all upstreams. */
export class Breakers extends Context.Service<Breakers, {
  /** Every breaker that has seen a call, in the order of their first calls. */
  readonly states: Effect.Effect<ReadonlyArray<BreakerState>>
  /**
   * Counts a failure that the upstream caused and Outbound cannot see. Only for limits of the operator's own: a caller
   * that waits for a moment only must not take a healthy upstream from all others.
   */
  readonly report: (provider: string, endpoint: EndpointClass, outcome: "failure") => Effect.Effect<void>
}>()("llm-gateway/sdk/Breakers") {}
