/** What a gateway under test writes down: its usage records and audit events, kept in memory. */
import { Effect, type Layer } from "effect"
import * as AuditSink from "../sdk/AuditSink.ts"
import * as UsageSink from "../sdk/UsageSink.ts"

/** The usage records of a gateway. */
export interface UsageRecorder {
  readonly layer: Layer.Layer<never, never, UsageSink.UsageSinkRegistry>
  readonly records: ReadonlyArray<UsageSink.UsageRecord>
}

/**
 * Makes a recorder of usage. It is a durable sink: with `ledger: { durability: "strict" }` an answer's record is here before its
 * answer.
 */
export const usage = (): UsageRecorder => {
  const records: Array<UsageSink.UsageRecord> = []
  return {
    records,
    layer: UsageSink.layer({
      name: "recorder",
      durable: true,
      write: (batch) => Effect.sync(() => void records.push(...batch))
    })
  }
}

/** The audit events of a gateway. */
export interface AuditRecorder {
  readonly layer: Layer.Layer<never, never, AuditSink.AuditSinkRegistry>
  readonly events: ReadonlyArray<AuditSink.AuditEvent>
}

/** Makes a recorder of audit events. They come in the background: `AuditQueues.flush` waits for them. */
export const audit = (): AuditRecorder => {
  const events: Array<AuditSink.AuditEvent> = []
  return {
    events,
    layer: AuditSink.layer({ name: "recorder", write: (batch) => Effect.sync(() => void events.push(...batch)) })
  }
}
