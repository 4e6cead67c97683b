/**
 * Accounting: what an exchange consumed and cost, on every exit. Figures come from the provider; where it told none they
 * are estimated and marked so. One usage record goes to every sink, which must not fail or delay the request.
 */
import { Cause, Effect, Exit } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import { costNanoUsd, usd } from "../sdk/Pricing.ts"
import { type Usage, zero } from "../sdk/Usage.ts"
import type { UsageRecord, UsageSink } from "../sdk/UsageSink.ts"
import { annotate } from "../sdk/Wire.ts"
import type { Exchange } from "./Exchange.ts"
import { estimateContent, estimateInput, estimateText } from "./TokenEstimate.ts"

/** Prices some usage by the exchange's model, and keeps both in the exchange. */
const price = (exchange: Exchange, usage: Usage): Usage => {
  const prices = exchange.model?.prices
  if (prices === undefined) {
    exchange.usage = usage
    return usage
  }
  exchange.costNanoUsd = costNanoUsd(usage, prices)
  exchange.usage = { ...usage, costEstimate: usd(exchange.costNanoUsd) }
  return exchange.usage
}

/** Writes a whole answer's usage and cost into it and into the exchange. */
export const accountResponse = (exchange: Exchange, request: ChatRequest, response: ChatResponse): ChatResponse => {
  exchange.finishReason = response.finishReason
  exchange.dropped = response.droppedParams ?? exchange.dropped
  const usage = price(
    exchange,
    response.usage ?? {
      inputTokens: estimateInput(request),
      outputTokens: estimateContent(response.content),
      estimated: true
    }
  )
  return annotate(response, {
    usage,
    ...(exchange.model === undefined ? {} : { modelUsed: exchange.model.id }),
    fallbackUsed: exchange.fallbackUsed
  })
}

/** Follows a stream: the last usage counts, and what was streamed is counted in case none comes. */
export class StreamAccount {
  readonly #exchange: Exchange
  #outputTokens = 0
  #pending = ""

  constructor(exchange: Exchange) {
    this.#exchange = exchange
  }

  /** Takes note of a chunk, and gives it back; the one with the usage has the cost added. */
  observe(chunk: ChatChunk): ChatChunk {
    if (chunk.finishReason !== undefined && (chunk.choice ?? 0) === 0) this.#exchange.finishReason = chunk.finishReason
    if (chunk.usage !== undefined) return annotate(chunk, { usage: price(this.#exchange, chunk.usage) })
    if (this.#exchange.usage !== undefined) return chunk
    for (const delta of chunk.delta) {
      if (delta.type === "text" || delta.type === "refusal") this.#count(delta.text)
      else if (delta.type === "reasoning") this.#count(delta.text ?? "")
      else if (delta.type === "tool_call") this.#count(delta.arguments ?? "")
    }
    return chunk
  }

  /** Estimates what the provider did not tell, at the end of the stream. */
  settle(request: ChatRequest): void {
    if (this.#exchange.usage !== undefined) return
    price(this.#exchange, {
      inputTokens: estimateInput(request),
      outputTokens: this.#outputTokens + estimateText(this.#pending),
      estimated: true
    })
  }

  /** Deltas are often shorter than a token: they are counted joined. */
  #count(text: string): void {
    this.#pending += text
    if (this.#pending.length < 1024) return
    this.#outputTokens += estimateText(this.#pending)
    this.#pending = ""
  }
}

const outcomeOf = (exchange: Exchange, exit: Exit.Exit<unknown, GatewayError>): UsageRecord["outcome"] => {
  if (Exit.isFailure(exit)) {
    if (Cause.hasInterruptsOnly(exit.cause)) return "cancelled"
    const code = exit.cause.reasons.find(Cause.isFailReason)?.error.code
    return code === "request_blocked" || code === "response_blocked" ? "blocked" : "failed"
  }
  return exchange.finishReason === undefined ? "cancelled" : "completed"
}

/** Sends the exchange's record to every sink. A request that ended before a provider was reached has consumed nothing. */
export const record = (
  exchange: Exchange,
  request: ChatRequest,
  sinks: ReadonlyArray<UsageSink>,
  exit: Exit.Exit<unknown, GatewayError>
): Effect.Effect<void> => {
  if (sinks.length === 0) return Effect.void
  const outcome = outcomeOf(exchange, exit)
  const failure = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason) : undefined
  const usage = exchange.usage ??
    // A provider that was still working when the caller left has read the prompt, and will charge for it.
    (outcome === "cancelled" && exchange.attempts.length > 0
      ? price(exchange, { inputTokens: estimateInput(request), outputTokens: 0, estimated: true })
      : zero)
  const { caller } = exchange
  const written: UsageRecord = {
    id: exchange.recordId,
    requestId: exchange.requestId,
    kind: "request",
    tenant: caller.tenant,
    ...(caller.user === undefined ? {} : { user: caller.user }),
    ...(caller.keyId === undefined ? {} : { keyId: caller.keyId }),
    tags: exchange.tags,
    operation: "chat",
    streamed: exchange.streamed,
    modelAsked: exchange.modelAsked,
    ...(exchange.model === undefined ? {} : { modelUsed: exchange.model.id, provider: exchange.model.provider }),
    attempts: exchange.attempts.length,
    usage,
    ...(exchange.costNanoUsd === undefined ? {} : { costNanoUsd: exchange.costNanoUsd }),
    startedAt: exchange.startedAt,
    durationMs: exchange.elapsed(),
    ...(exchange.firstTokenMs === undefined ? {} : { firstTokenMs: exchange.firstTokenMs }),
    overheadMs: Math.max(0, exchange.elapsed() - exchange.upstreamMs),
    outcome,
    ...(failure === undefined ? {} : { errorCode: failure.error.code }),
    ...(exchange.finishReason === undefined ? {} : { finishReason: exchange.finishReason })
  }
  return Effect.forEach(
    sinks,
    (sink) =>
      Effect.catchCause(
        sink.write([written]),
        (cause) => Effect.logError("a usage sink failed", { sink: sink.name, requestId: exchange.requestId, cause })
      ),
    { discard: true }
  )
}
