/** What one request has taken from limits and budgets. Admission writes it down, accounting puts it right. */
import type { Effect } from "effect"
import type { BudgetAccount } from "../sdk/Budgets.ts"
import type { RateDemand } from "../sdk/RateLimits.ts"

/** Money set aside for a request: one reservation in the store. */
export interface Hold {
  readonly id: string
  readonly accounts: ReadonlyArray<BudgetAccount>
  /** The model that it is for, where only what that model costs is drawn from it. */
  readonly model?: string
}

/** What a request has taken from limits and budgets. */
export class Taken {
  /** Buckets of tokens, with the estimate that was taken from each. */
  tokens: ReadonlyArray<RateDemand> = []
  holds: ReadonlyArray<Hold> = []
  /** What gives up each of the request's places among concurrent ones. */
  readonly places: Array<Effect.Effect<void>> = []
  /** Models whose own limits were asked, by canonical id. */
  readonly models = new Set<string>()
  /** Whether the limits of requests were asked. */
  isCounted = false
}
