/** The access log: one line for each request, with names and figures and never content. */
import { Context, type Effect, Layer } from "effect"
import { logOf } from "../sdk/Log.ts"
import { totalInput, totalOutput } from "../sdk/Usage.ts"
import type { UsageRecord } from "../sdk/UsageSink.ts"
import type { Exchange } from "./Exchange.ts"

const log = logOf("access")

/** Writes the lines. */
export class AccessLog extends Context.Service<AccessLog, {
  /** A request is over. */
  readonly write: (exchange: Exchange, record: UsageRecord) => Effect.Effect<void>
}>()("llm-gateway/gateway/AccessLog") {
  /** Into the log, at the level `info`. */
  static readonly layer: Layer.Layer<AccessLog> = Layer.succeed(AccessLog, {
    write: (exchange, record) => log.info("request", lineOf(exchange, record))
  })
}

/** Hundredths of a ms are as fine as anyone reads. */
const rounded = (ms: number): number => Math.round(ms * 100) / 100

const lineOf = ({ trace }: Exchange, record: UsageRecord): Readonly<Record<string, unknown>> => {
  const { costNanoUsd, errorCode, finishReason, firstTokenMs, keyId, modelUsed, usage, user } = record
  return {
    request_id: record.requestId,
    ...(trace === undefined ? {} : { trace_id: trace.traceId }),
    operation: record.operation,
    tenant: record.tenant,
    ...(user === undefined ? {} : { user }),
    ...(keyId === undefined ? {} : { key: keyId }),
    model_asked: record.modelAsked,
    ...(modelUsed === undefined ? {} : { model_used: modelUsed }),
    streamed: record.streamed,
    attempts: record.attempts,
    outcome: record.outcome,
    ...(errorCode === undefined ? {} : { code: errorCode }),
    ...(finishReason === undefined ? {} : { finish_reason: finishReason }),
    input_tokens: totalInput(usage),
    output_tokens: totalOutput(usage),
    ...(costNanoUsd === undefined ? {} : { cost_usd: costNanoUsd / 1e9 }),
    duration_ms: rounded(record.durationMs),
    ...(firstTokenMs === undefined ? {} : { first_token_ms: rounded(firstTokenMs) }),
    overhead_ms: rounded(record.overheadMs)
  }
}
