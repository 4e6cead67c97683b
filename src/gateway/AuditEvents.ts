/** What the audit trail is told of a request: names, codes and figures, never content. */
import type { AuditEvent, AuditEventType, AuditTrail } from "../sdk/AuditSink.ts"
import { usd } from "../sdk/Pricing.ts"
import type { UsageRecord } from "../sdk/UsageSink.ts"
import type { Exchange } from "./Exchange.ts"

/** An event of an exchange's. */
export const eventOf = (exchange: Exchange, type: AuditEventType, details: AuditEvent["details"]): AuditEvent => {
  const { caller, requestId } = exchange
  return {
    type,
    at: exchange.now(),
    requestId,
    tenant: caller.tenant,
    ...(caller.user === undefined ? {} : { user: caller.user }),
    ...(caller.keyId === undefined ? {} : { keyId: caller.keyId }),
    details
  }
}

const ended: { readonly [Outcome in UsageRecord["outcome"]]: AuditEventType } = {
  completed: "request_completed",
  failed: "request_failed",
  blocked: "request_blocked",
  cancelled: "request_cancelled"
}

/** Tells that a request has started. */
export const tellStart = (audit: AuditTrail["Service"], exchange: Exchange): void =>
  audit.emit(
    eventOf(exchange, "request_started", {
      operation: exchange.operation,
      model: exchange.modelAsked,
      streamed: exchange.streamed
    })
  )

/** What was consumed beside tokens, under the names that usage records have for it. */
const mediaFigures = ({ usage }: UsageRecord): AuditEvent["details"] => ({
  ...(usage.images === undefined ? {} : { images: usage.images }),
  ...(usage.characters === undefined ? {} : { characters: usage.characters }),
  ...(usage.inputAudioMs === undefined ? {} : { input_audio_ms: usage.inputAudioMs }),
  ...(usage.outputAudioMs === undefined ? {} : { output_audio_ms: usage.outputAudioMs }),
  ...(usage.inputVideoMs === undefined ? {} : { input_video_ms: usage.inputVideoMs }),
  ...(usage.outputVideoMs === undefined ? {} : { output_video_ms: usage.outputVideoMs })
})

/** Tells how a request ended, and whether another model than the first one served it. */
export const tellEnd = (
  audit: AuditTrail["Service"],
  exchange: Exchange,
  record: UsageRecord,
  interceptor: string | undefined
): void => {
  if (exchange.fallbackUsed && exchange.preferred !== undefined && exchange.model !== undefined) {
    audit.emit(eventOf(exchange, "fallback_triggered", { from: exchange.preferred.id, to: exchange.model.id }))
  }
  audit.emit(eventOf(exchange, ended[record.outcome], {
    model: record.modelUsed ?? record.modelAsked,
    attempts: record.attempts,
    duration_ms: Math.round(record.durationMs),
    input_tokens: record.usage.inputTokens,
    output_tokens: record.usage.outputTokens,
    ...(record.operation === "chat" ? {} : mediaFigures(record)),
    ...(record.costNanoUsd === undefined ? {} : { cost_usd: usd(record.costNanoUsd) }),
    ...(record.errorCode === undefined ? {} : { code: record.errorCode }),
    ...(record.finishReason === undefined ? {} : { finish_reason: record.finishReason }),
    ...(interceptor === undefined ? {} : { interceptor })
  }))
}
