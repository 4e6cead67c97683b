/**
 * What a request's wish for reasoning becomes on this wire, given the model and the rest of the request. Thinking has
 * conditions: a budget of at least 1024 tokens and below `max_tokens`, no forced tool choice, no changed temperature, and
 * on models that think by budget an unbroken chain of thinking blocks in an open tool turn. Where a condition does not
 * hold, the call goes out without thinking and says so, instead of failing upstream.
 */
import type { Reasoning } from "../../sdk/Chat.ts"
import type { Json } from "../Codec.ts"
import { isJson } from "../Json.ts"
import type { Report } from "../Report.ts"
import type { Effort, ModelTraits } from "./ModelTraits.ts"

/** The smallest budget that Anthropic takes, in tokens. */
const minBudget = 1024

/**
 * Budgets for an effort told in words, in tokens, on models that think by budget. Effort leaves at least a fifth of
 * `max_tokens` for the answer, since thinking counts towards it.
 */
const budgets = { minimal: 1024, low: 2048, medium: 8192, high: 16_384, xhigh: 32_768, max: 65_536 } as const

const ranks: ReadonlyArray<Effort> = ["low", "medium", "high", "xhigh", "max"]

/** The word that the model takes for an effort: the same one, or the next weaker. */
const effortFor = (wanted: keyof typeof budgets, taken: ReadonlyArray<Effort>): Effort | undefined => {
  if (wanted === "minimal") return taken[0]
  let best: Effort | undefined
  for (const effort of taken) if (ranks.indexOf(effort) <= ranks.indexOf(wanted)) best = effort
  return best
}

/** What has been decided. */
export interface Thinking {
  readonly thinking?: Json
  readonly effort?: string
  /** Whether the model will think, so that sampling has to follow thinking's rules. */
  readonly on: boolean
}

/** What the decision depends on beside the wish itself. */
export interface ThinkingContext {
  readonly traits: ModelTraits
  readonly maxTokens: number
  /** Whether a tool call is forced, by the caller or for structured output. */
  readonly forced: boolean
  /** Whether the conversation ends in a tool turn whose calls came back without thinking blocks. */
  readonly brokenChain: boolean
  /** The caller's own `thinking` object for this wire; null where it set an effort and left `thinking` out. */
  readonly native: unknown
}

const off = (traits: ModelTraits): Thinking =>
  traits.thinksByDefault && !traits.alwaysThinks ? { thinking: { type: "disabled" }, on: false } : { on: false }

const effortKey = (effort: string | undefined): { readonly effort?: string } => effort === undefined ? {} : { effort }

const manual = (wish: Reasoning, context: ThinkingContext, report: Report): Thinking => {
  const { maxTokens, native, traits } = context
  if (maxTokens <= minBudget || context.brokenChain) {
    report.drop("reasoning")
    return off(traits)
  }
  const words = wish.effort === undefined || wish.effort === "none" ? "medium" : wish.effort
  const wanted = wish.budgetTokens ?? Math.min(budgets[words], Math.floor(maxTokens * 0.8))
  const budget = Math.min(Math.max(wanted, minBudget), maxTokens - 1)
  if (wish.budgetTokens !== undefined && budget !== wish.budgetTokens) {
    report.drop(`reasoning.budget_tokens (clamped to ${budget})`)
  }
  return {
    thinking: { ...(isJson(native) ? native : {}), type: "enabled", budget_tokens: budget },
    // Only beside a budget of the caller's own: alone, the effort has become the budget.
    ...(wish.budgetTokens === undefined || wish.effort === undefined
      ? {}
      : effortKey(effortFor(words, traits.efforts))),
    on: true
  }
}

const adaptive = (wish: Reasoning, context: ThinkingContext, report: Report): Thinking => {
  const thinking = { ...(isJson(context.native) ? context.native : {}), type: "adaptive" }
  if (wish.effort !== undefined && wish.effort !== "none") {
    if (wish.budgetTokens !== undefined) report.drop("reasoning.budget_tokens")
    return { thinking, ...effortKey(effortFor(wish.effort, context.traits.efforts)), on: true }
  }
  if (wish.budgetTokens === undefined) return { thinking, on: true }
  const effort = wish.budgetTokens <= budgets.low ? "low" : wish.budgetTokens <= budgets.medium ? "medium" : "high"
  report.drop(`reasoning.budget_tokens (as effort ${effort})`)
  return { thinking, ...effortKey(effortFor(effort, context.traits.efforts)), on: true }
}

/** Decides how the model shall think. */
export const decideThinking = (wish: Reasoning | undefined, context: ThinkingContext, report: Report): Thinking => {
  const { native, traits } = context
  if (wish === undefined) {
    // A form of thinking that the sdk has no words for (`between_tools`) is the caller's own business.
    if (!isJson(native) || typeof native["type"] !== "string") return { on: false }
    return { thinking: native, on: native["type"] !== "disabled" }
  }
  if (wish.enabled === false || wish.effort === "none" || wish.budgetTokens === 0) {
    const effort = wish.effort === undefined || wish.effort === "none"
      ? undefined
      : effortFor(wish.effort, traits.efforts)
    if (!traits.alwaysThinks) return { thinking: { type: "disabled" }, ...effortKey(effort), on: false }
    report.drop("reasoning")
    return { ...effortKey(effort), on: true }
  }
  if (native === null && wish.effort !== undefined) return { effort: wish.effort, on: traits.thinksByDefault }
  if (wish.enabled === undefined && wish.effort === undefined && wish.budgetTokens === undefined) return { on: false }
  if (context.forced) {
    report.drop("reasoning")
    return off(traits)
  }
  // Adaptive thinking does not ask for thinking blocks in earlier turns, thinking by budget does.
  return traits.adaptiveThinking && !(traits.manualThinking && wish.budgetTokens !== undefined)
    ? adaptive(wish, context, report)
    : manual(wish, context, report)
}
