/** What a request can cost at most: the sum that budgets set aside before a provider is called. Pure. */
import type { ChatRequest } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"
import type { ModelInfo, Prices } from "../sdk/Model.ts"
import { costNanoUsd } from "../sdk/Pricing.ts"
import { type Usage, zero } from "../sdk/Usage.ts"
import type { Candidate, Plan } from "./Plan.ts"

/** Length of the longest answer where neither request nor model says any, tokens. */
const longAnswer = 32_768
/** A model's window is what somebody says of it: a prompt that is estimated at more than half of it is not cut to it. */
const margin = 2

/** How long a prompt is, in tokens. */
export interface Prompt {
  /** By a rule of thumb. */
  readonly estimated: number
  /** At most. */
  readonly most: number
}

/** The longest answer that a model may give to a request, all of its choices together, tokens. */
export const longestAnswer = (request: ChatRequest, model: ModelInfo): number => {
  const known = model.maxOutputTokens ?? model.contextWindow
  const { maxOutputTokens: asked } = request
  // What nobody knows of the model is no reason to set aside less than the caller asks for.
  const longest = known === undefined ? asked ?? longAnswer : Math.min(asked ?? known, known)
  return longest * Math.max(1, request.n ?? 1)
}

/** The longest prompt that a model takes out of this one. */
const longestPrompt = ({ estimated, most }: Prompt, { contextWindow }: ModelInfo): number =>
  contextWindow === undefined ? most : Math.min(most, Math.max(contextWindow, estimated * margin))

const isOrHolds = (part: Part, type: Part["type"]): boolean =>
  part.type === type || (part.type === "tool_result" && part.content.some((inner) => inner.type === type))

const hasPart = (request: ChatRequest, type: Part["type"]): boolean =>
  request.messages.some(({ content }) => content.some((part) => isOrHolds(part, type)))

const dearest = (usages: ReadonlyArray<Usage>, prices: Prices): Usage => {
  let found: Usage = zero
  let most = -1
  for (const usage of usages) {
    const cost = costNanoUsd(usage, prices)
    if (cost > most) [found, most] = [usage, cost]
  }
  return found
}

/** A prompt of so many tokens, as whichever kind of input is dearest. */
const dearestInput = (request: ChatRequest, prices: Prices, tokens: number): Usage => {
  const kinds: Array<Usage> = [{ inputTokens: tokens, outputTokens: 0 }]
  if (prices.cacheWriteMtok !== undefined) kinds.push({ inputTokens: 0, outputTokens: 0, cacheWrite5mTokens: tokens })
  if (prices.cacheWrite1hMtok !== undefined) {
    kinds.push({ inputTokens: 0, outputTokens: 0, cacheWrite1hTokens: tokens })
  }
  if (prices.inputAudioMtok !== undefined && hasPart(request, "audio")) {
    kinds.push({ inputTokens: 0, outputTokens: 0, inputAudioTokens: tokens })
  }
  if (prices.inputImageMtok !== undefined && hasPart(request, "image")) {
    kinds.push({ inputTokens: 0, outputTokens: 0, inputImageTokens: tokens })
  }
  return dearest(kinds, prices)
}

/** The prompt with an answer of so many tokens: the price of an answer, too, may depend on how long the prompt is. */
const dearestOutput = (input: Usage, prices: Prices, tokens: number): Usage => {
  const kinds: Array<Usage> = [{ ...input, outputTokens: tokens }]
  if (prices.outputAudioMtok !== undefined) kinds.push({ ...input, outputAudioTokens: tokens })
  if (prices.outputImageMtok !== undefined) kinds.push({ ...input, outputImageTokens: tokens })
  return dearest(kinds, prices)
}

/**
 * The most that a request can cost with some of a plan's candidates, nano-USD. One after another, each attempt that is
 * given up may have cost its prompt, and one an answer; hedged, all of them may.
 */
export const worstCase = (
  request: ChatRequest,
  plan: Plan,
  candidates: ReadonlyArray<Candidate>,
  prompt: Prompt
): number => {
  let input = 0
  let whole = 0
  for (const { model } of candidates) {
    const { prices } = model
    if (prices === undefined) continue
    const read = dearestInput(request, prices, longestPrompt(prompt, model))
    input = Math.max(input, costNanoUsd(read, prices))
    whole = Math.max(whole, costNanoUsd(dearestOutput(read, prices, longestAnswer(request, model)), prices))
  }
  const more = plan.attempts - 1
  const total = plan.strategy === "parallel"
    ? whole * Math.min(plan.attempts, candidates.length)
    : whole + more * input
  return Math.min(total, Number.MAX_SAFE_INTEGER)
}
