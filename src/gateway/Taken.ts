/** What one request has taken from limits and budgets. Admission writes it down, accounting puts it right. */
import type { Scope } from "effect"
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
  /** Lives as long as the request has its places among concurrent ones. */
  places: Scope.Closeable | undefined
  /** Models whose own limits were asked, by canonical id. */
  readonly models = new Set<string>()
  /** Whether the limits of requests were asked. */
  isCounted = false
}
