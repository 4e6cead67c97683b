/**
 * Accounting: what an exchange consumed and cost, on every exit. Figures come from the provider; where it told none they
 * are estimated and marked so.
 */
import { Cause, Exit } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import { text } from "../sdk/Content.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { costNanoUsd, isPriced, usd } from "../sdk/Pricing.ts"
import { totalOutput, type Usage, zero } from "../sdk/Usage.ts"
import type { EstimateReason, UsageRecord } from "../sdk/UsageSink.ts"
import { annotate } from "../sdk/Wire.ts"
import type { AttemptReport, Exchange } from "./Exchange.ts"
import type { Asked, Operation } from "./Operation.ts"
import { maxContent } from "./RequestTraces.ts"
import { estimateContent, estimateInput, estimateText } from "./TokenEstimate.ts"

/** What some usage costs with a model, nano-USD; undefined where nobody knows. */
const costOf = (exchange: Exchange, model: ModelInfo | undefined, usage: Usage): number | undefined =>
  model?.prices === undefined || !isPriced(usage, model.prices)
    ? exchange.flatNanoUsd
    : costNanoUsd(usage, model.prices)

/** Prices some usage by the exchange's model, and keeps both in the exchange. */
export const accountConsumed = (exchange: Exchange, usage: Usage): Usage => {
  const cost = costOf(exchange, exchange.model, usage)
  if (cost === undefined) {
    exchange.usage = usage
    return usage
  }
  exchange.costNanoUsd = cost
  exchange.usage = { ...usage, costEstimate: usd(cost) }
  return exchange.usage
}

/** Notes the usage and cost of a whole answer, which it has to tell its caller. */
export const accountAnswer = (exchange: Exchange, usage: Usage): Usage => {
  exchange.isAnswered = true
  return accountConsumed(exchange, usage)
}

/** Writes a whole answer's usage and cost into it and into the exchange. */
export const accountResponse = (exchange: Exchange, request: ChatRequest, response: ChatResponse): ChatResponse => {
  exchange.finishReason = response.finishReason
  exchange.dropped = response.droppedParams ?? exchange.dropped
  const usage = accountAnswer(
    exchange,
    response.usage ?? {
      inputTokens: estimateInput(request),
      outputTokens: (response.alternatives ?? []).reduce(
        (sum, { content }) => sum + estimateContent(content),
        estimateContent(response.content)
      ),
      estimated: true
    }
  )
  return annotate(response, {
    usage,
    ...(exchange.model === undefined ? {} : { modelUsed: exchange.model.id }),
    fallbackUsed: exchange.fallbackUsed
  })
}

/**
 * Follows a stream: the last usage counts, and what was streamed is counted in case none comes, or the last one came long
 * before the end. Some servers tell figures with each chunk, some with the first one.
 */
export class StreamAccount {
  readonly #exchange: Exchange
  /** The first choice's text so far, where the trace wants it. */
  #text: string | undefined
  #outputTokens = 0
  #pending = ""

  constructor(exchange: Exchange) {
    this.#exchange = exchange
    if (exchange.trace?.takesContent === true) this.#text = ""
  }

  /** Takes note of a chunk, and gives it back; the one with the usage has the cost added. */
  observe(chunk: ChatChunk): ChatChunk {
    if (chunk.finishReason !== undefined && (chunk.choice ?? 0) === 0) {
      this.#exchange.finishReason = chunk.finishReason
      this.#exchange.isAnswered = true
    }
    for (const delta of chunk.delta) {
      if (this.#text !== undefined && delta.type === "text" && (chunk.choice ?? 0) === 0) this.#keep(delta.text)
      if (delta.type === "text" || delta.type === "refusal") this.#count(delta.text)
      else if (delta.type === "reasoning") this.#count(delta.text ?? "")
      else if (delta.type === "tool_call") this.#count(delta.arguments ?? "")
    }
    return chunk.usage === undefined ? chunk : annotate(chunk, { usage: accountConsumed(this.#exchange, chunk.usage) })
  }

  /** Estimates what the provider did not tell, at the end of the stream. */
  settle(request: ChatRequest): void {
    const { isAnswered, trace, usage } = this.#exchange
    if (this.#text !== undefined) trace?.content("output", [text(this.#text)])
    // The figures of an answer that has ended are the provider's to tell.
    if (usage !== undefined && isAnswered) return
    const outputTokens = this.#outputTokens + estimateText(this.#pending)
    if (usage === undefined) {
      accountConsumed(this.#exchange, { inputTokens: estimateInput(request), outputTokens, estimated: true })
    } else if (outputTokens > totalOutput(usage)) {
      accountConsumed(this.#exchange, { ...usage, outputTokens, estimated: true })
    }
  }

  /** What is longer than a span takes is not kept. */
  #keep(said: string): void {
    if (this.#text !== undefined && this.#text.length <= maxContent) this.#text += said
  }

  /** Deltas are often shorter than a token: they are counted joined. */
  #count(said: string): void {
    this.#pending += said
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
  return exchange.isAnswered ? "completed" : "cancelled"
}

/** Why the figures of the request's own record are an estimate. */
const reasonOf = (exchange: Exchange, outcome: UsageRecord["outcome"]): EstimateReason => {
  if (outcome === "cancelled") return "client_disconnect"
  return outcome === "completed" || exchange.isAnswered ? "not_reported" : "upstream_failure"
}

/** What is known of the price that was applied. */
const priceIdOf = (exchange: Exchange, model: ModelInfo | undefined, usage: Usage): string | undefined => {
  if (model?.prices !== undefined && isPriced(usage, model.prices)) return model.priceId
  return exchange.flatNanoUsd === undefined ? undefined : "flat"
}

/** What the records of one request have in common. */
const commonOf = (exchange: Exchange, outcome: UsageRecord["outcome"]) => {
  const { caller, conversationId } = exchange
  return {
    requestId: exchange.requestId,
    tenant: caller.tenant,
    ...(caller.user === undefined ? {} : { user: caller.user }),
    ...(caller.keyId === undefined ? {} : { keyId: caller.keyId }),
    tags: exchange.tags,
    ...(conversationId === undefined ? {} : { conversationId }),
    operation: exchange.operation,
    streamed: exchange.streamed,
    modelAsked: exchange.modelAsked,
    startedAt: exchange.startedAt,
    outcome
  } as const
}

/** A call, or several to the same model, that did not serve. */
interface Unserved {
  readonly model: ModelInfo
  readonly usage: Usage
  readonly durationMs: number
  readonly outcome: UsageRecord["outcome"]
  readonly because?: EstimateReason
}

/** The record of what was made and thrown away. */
const unservedRecord = (
  exchange: Exchange,
  { because, durationMs, model, outcome, usage }: Unserved,
  ordinal: number
): UsageRecord => {
  const cost = costOf(exchange, model, usage)
  const priceId = priceIdOf(exchange, model, usage)
  return {
    ...commonOf(exchange, outcome),
    id: `${exchange.recordId}#${ordinal}`,
    kind: "attempt",
    modelUsed: model.id,
    provider: model.provider,
    attempts: 1,
    usage: cost === undefined ? usage : { ...usage, costEstimate: usd(cost) },
    ...(because === undefined ? {} : { estimatedBecause: because }),
    ...(cost === undefined ? {} : { costNanoUsd: cost }),
    ...(priceId === undefined ? {} : { priceId }),
    durationMs,
    overheadMs: 0
  }
}

/** A call that was given up while its provider was at work. */
const givenUpCall = (
  { durationMs, givenUp = "timeout", info }: AttemptReport,
  usage: Usage,
  outcome: UsageRecord["outcome"]
): Unserved => {
  const because = outcome === "cancelled" && givenUp === "hedge_lost" ? "client_disconnect" : givenUp
  return { model: info, usage, durationMs, outcome: because === "timeout" ? "failed" : "cancelled", because }
}

/** What was answered to a part of a request that then went to another model. */
const wastedCall = ({ model, usage }: Exchange["wasted"][number]): Unserved => ({
  model,
  usage,
  durationMs: 0,
  outcome: "failed",
  ...(usage.estimated === true ? { because: "not_reported" } : {})
})

/**
 * The records of a finished request: its own first, then one for each call that was given up while its provider was at
 * work, or whose answer was thrown away. Where nothing served the request, the last of those is the request's own.
 */
export const recordsOf = <Request extends Asked>(
  exchange: Exchange,
  operation: Operation<Request>,
  request: Request,
  exit: Exit.Exit<unknown, GatewayError>
): readonly [UsageRecord, ...Array<UsageRecord>] => {
  const outcome = outcomeOf(exchange, exit)
  const failure = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason) : undefined
  const givenUp = exchange.attempts.filter((report) => report.givenUp !== undefined)
  const own = exchange.usage === undefined ? givenUp.pop() : undefined
  if (own !== undefined) {
    exchange.model = own.info
    accountConsumed(exchange, operation.givenUp(request))
  }
  const usage = exchange.usage ?? zero
  const priceId = exchange.usage === undefined ? undefined : priceIdOf(exchange, exchange.model, usage)
  const durationMs = exchange.elapsed()
  return [
    {
      ...commonOf(exchange, outcome),
      id: exchange.recordId,
      kind: "request",
      ...(exchange.model === undefined ? {} : { modelUsed: exchange.model.id, provider: exchange.model.provider }),
      attempts: exchange.attempts.length,
      usage,
      ...(usage.estimated === true
        ? { estimatedBecause: own?.givenUp === "timeout" ? "timeout" : reasonOf(exchange, outcome) }
        : {}),
      ...(exchange.costNanoUsd === undefined ? {} : { costNanoUsd: exchange.costNanoUsd }),
      ...(priceId === undefined ? {} : { priceId }),
      durationMs,
      ...(exchange.firstTokenMs === undefined ? {} : { firstTokenMs: exchange.firstTokenMs }),
      overheadMs: Math.max(0, durationMs - exchange.upstreamMs),
      ...(failure === undefined ? {} : { errorCode: failure.error.code }),
      ...(exchange.finishReason === undefined ? {} : { finishReason: exchange.finishReason })
    },
    ...[
      ...givenUp.map((report) => givenUpCall(report, operation.givenUp(request), outcome)),
      ...exchange.wasted.map(wastedCall)
    ].map((unserved, index) => unservedRecord(exchange, unserved, index + 2))
  ]
}
