/** Whether the stores that a gateway was configured with answer, for those who look after it. */
import { Context, type Effect } from "effect"

/** One store, as it answered just now. */
export interface StoreState {
  readonly store: "sql" | "redis"
  /** Whether it answered within a second. */
  readonly answers: boolean
  /** How long that took, ms. */
  readonly ms: number
}

/** The stores. Each look asks them anew. */
export class StoreStates extends Context.Service<StoreStates, {
  readonly states: Effect.Effect<ReadonlyArray<StoreState>>
}>()("llm-gateway/sdk/StoreStates") {}
