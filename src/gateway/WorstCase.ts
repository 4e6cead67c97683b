/** What a request can cost at most: the sum that budgets set aside before a provider is called. Pure. */
import type { ModelInfo } from "../sdk/Model.ts"
import { costNanoUsd } from "../sdk/Pricing.ts"
import type { Asked, Operation } from "./Operation.ts"
import type { Candidate, Plan } from "./Plan.ts"

/** A model's window is what somebody says of it: a prompt that is estimated at more than half of it is not cut to it. */
const margin = 2

/** How long a prompt is, in tokens. */
export interface Prompt {
  /** By a rule of thumb. */
  readonly estimated: number
  /** At most. */
  readonly most: number
}

/** The longest prompt that a model takes out of this one. */
const longestPrompt = ({ estimated, most }: Prompt, { contextWindow }: ModelInfo): number =>
  contextWindow === undefined ? most : Math.min(most, Math.max(contextWindow, estimated * margin))

/**
 * The most that a request can cost with some of a plan's candidates, nano-USD. One after another, each attempt that is
 * given up may have cost its prompt, and one an answer; hedged, all of them may.
 */
export const worstCase = <Request extends Asked>(
  operation: Operation<Request>,
  request: Request,
  plan: Plan,
  candidates: ReadonlyArray<Candidate>,
  prompt: Prompt
): number => {
  let input = 0
  let whole = 0
  for (const { model } of candidates) {
    const { prices } = model
    if (prices === undefined) continue
    const longest = operation.longestAnswer(request, model)
    const dearest = operation.dearest(request, prices, longestPrompt(prompt, model), longest)
    input = Math.max(input, costNanoUsd(dearest.read, prices))
    whole = Math.max(whole, costNanoUsd(dearest.whole, prices))
  }
  const more = plan.attempts - 1
  const total = plan.strategy === "parallel"
    ? whole * Math.min(plan.attempts, candidates.length)
    : whole + more * input
  return Math.min(total, Number.MAX_SAFE_INTEGER)
}
