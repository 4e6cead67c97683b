/** What a request can cost at most: the sum that budgets set aside before a provider is called. Pure. */
import type { ChatRequest } from "../sdk/Chat.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { costNanoUsd } from "../sdk/Pricing.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { Candidate, Plan } from "./Plan.ts"

/** Length of the longest answer where neither request nor model says any, tokens. */
const longAnswer = 32_768
/** Estimates of a prompt are doubled where they have to be an upper bound: they are a rule of thumb. */
const margin = 2

/** The longest answer that a model may give to a request, all of its choices together, tokens. */
export const longestAnswer = (request: ChatRequest, model: ModelInfo): number =>
  Math.min(request.maxOutputTokens ?? Infinity, model.maxOutputTokens ?? model.contextWindow ?? longAnswer) *
  Math.max(1, request.n ?? 1)

const hasPart = (request: ChatRequest, type: string): boolean =>
  request.messages.some(({ content }) => content.some((part) => part.type === type))

/** The most that a prompt of so many tokens can cost, nano-USD: as whichever kind of input is dearest. */
const dearestInput = (request: ChatRequest, model: ModelInfo, tokens: number): number => {
  const { prices } = model
  if (prices === undefined) return 0
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
  return Math.max(...kinds.map((usage) => costNanoUsd(usage, prices)))
}

const dearestOutput = (model: ModelInfo, tokens: number): number => {
  const { prices } = model
  if (prices === undefined) return 0
  // The price of a request is in the input's figure already.
  const { requestsKcount: _, ...perToken } = prices
  return Math.max(
    costNanoUsd({ inputTokens: 0, outputTokens: tokens }, perToken),
    prices.outputAudioMtok === undefined
      ? 0
      : costNanoUsd({ inputTokens: 0, outputTokens: 0, outputAudioTokens: tokens }, perToken)
  )
}

/**
 * The most that a request can cost with some of a plan's candidates, nano-USD; `estimatedInput` is the prompt in tokens. One after another, each attempt that is given up may have cost
 * its prompt, and one an answer; hedged, all of them may.
 */
export const worstCase = (
  request: ChatRequest,
  plan: Plan,
  candidates: ReadonlyArray<Candidate>,
  estimatedInput: number
): number => {
  const inputTokens = estimatedInput * margin
  let input = 0
  let whole = 0
  for (const { model } of candidates) {
    const read = dearestInput(request, model, inputTokens)
    input = Math.max(input, read)
    whole = Math.max(whole, read + dearestOutput(model, longestAnswer(request, model)))
  }
  const more = plan.attempts - 1
  const total = plan.strategy === "parallel"
    ? whole * Math.min(plan.attempts, candidates.length)
    : whole + more * input
  return Math.min(total, Number.MAX_SAFE_INTEGER)
}
