/** Chat, as the stages see it: text, media and tools in, text in the main out. */
import { type ChatChunk, type ChatRequest, hasContent } from "../sdk/Chat.ts"
import { isAccountBound, type Part } from "../sdk/Content.ts"
import type { ModelInfo, Prices } from "../sdk/Model.ts"
import { costNanoUsd } from "../sdk/Pricing.ts"
import { type Usage, zero } from "../sdk/Usage.ts"
import type { ChunkKind } from "./ChunkPull.ts"
import type { Operation } from "./Operation.ts"
import { requirements } from "./Requirements.ts"
import { estimateInput, mostInput } from "./TokenEstimate.ts"

/** Length of the longest answer where neither request nor model says any, tokens. */
const longAnswer = 32_768

/** Length of a conversation that a provider keeps, at most, tokens; a model's context window cuts it. */
const longestKept = 2_000_000

/** The longest answer that a model may give to a request, all of its choices together, tokens. */
const longestAnswer = (request: ChatRequest, model: ModelInfo): number => {
  const known = model.maxOutputTokens ?? model.contextWindow
  const { maxOutputTokens: asked } = request
  // What nobody knows of the model is no reason to set aside less than the caller asks for.
  const longest = known === undefined ? asked ?? longAnswer : Math.min(asked ?? known, known)
  return longest * Math.max(1, request.n ?? 1)
}

const isOrHolds = (part: Part, type: Part["type"]): boolean =>
  part.type === type || (part.type === "tool_result" && part.content.some((inner) => inner.type === type))

const hasPart = (request: ChatRequest, type: Part["type"]): boolean =>
  request.messages.some(({ content }) => content.some((part) => isOrHolds(part, type)))

const dearestOf = (usages: ReadonlyArray<Usage>, prices: Prices): Usage => {
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
  return dearestOf(kinds, prices)
}

/** The prompt with an answer of so many tokens: the price of an answer, too, may depend on how long the prompt is. */
const dearestOutput = (input: Usage, prices: Prices, tokens: number): Usage => {
  const kinds: Array<Usage> = [{ ...input, outputTokens: tokens }]
  if (prices.outputAudioMtok !== undefined) kinds.push({ ...input, outputAudioTokens: tokens })
  if (prices.outputImageMtok !== undefined) kinds.push({ ...input, outputImageTokens: tokens })
  return dearestOf(kinds, prices)
}

/** Chat, whole and streamed. */
export const chatOperation: Operation<ChatRequest> = {
  name: "chat",
  requirements,
  lacks: (provider, streamed) => {
    if (streamed) return provider.streamChat === undefined ? "streaming" : undefined
    return provider.chat === undefined ? "text_output" : undefined
  },
  inputTokens: estimateInput,
  mostInputTokens: (request) =>
    request.previousResponseId === undefined ? mostInput(request) : mostInput(request) + longestKept,
  outputTokens: ({ maxOutputTokens }) => maxOutputTokens,
  longestAnswer,
  bindsAccount: ({ messages, previousResponseId }) =>
    previousResponseId !== undefined || messages.some(({ content }) => content.some(isAccountBound)),
  dearest: (request, prices, inputTokens, outputTokens) => {
    const read = dearestInput(request, prices, inputTokens)
    return { read, whole: dearestOutput(read, prices, outputTokens) }
  },
  // Its prompt was read, and what it made was thrown away.
  givenUp: (request) => ({ inputTokens: estimateInput(request), outputTokens: 0, estimated: true })
}

/** What chat's chunks say. */
export const chatChunks: ChunkKind<ChatChunk> = {
  hasContent,
  ends: ({ finishReason }) => finishReason !== undefined,
  usage: ({ usage }) => usage,
  dropped: ({ droppedParams }) => droppedParams,
  // A chunk that only names what was dropped has no id of the provider's, and nothing for the caller.
  isOurs: ({ droppedParams, id }) => droppedParams !== undefined && id === ""
}
