/** Audit sinks: one of the four kinds of plugin. Who did what, and what the gateway did about it; metadata alone, never content. */
import { type Array as Arr, Context, Effect, Layer, type Scope } from "effect"
import type { SinkError } from "./UsageSink.ts"

/** What happened. */
export type AuditEventType =
  | "request_started"
  | "request_completed"
  | "request_failed"
  | "request_blocked"
  | "request_cancelled"
  | "fallback_triggered"
  | "limit_hit"
  | "budget_warning"
  | "key_created"
  | "key_revoked"
  | "key_rotated"
  | "configuration_changed"

/** One event. */
export interface AuditEvent {
  readonly type: AuditEventType
  /** Unix ms. */
  readonly at: number
  readonly requestId?: string
  readonly tenant?: string
  readonly user?: string
  readonly keyId?: string
  /** Names, codes and figures; no text of a prompt or an answer, and no secret. Long values are cut. */
  readonly details: Readonly<Record<string, string | number | boolean>>
}

/** Receives events in batches, in the order in which they happened. */
export interface AuditSink {
  readonly name: string
  /** Writes all of the events or fails; a failed batch comes again. */
  readonly write: (events: Arr.NonEmptyReadonlyArray<AuditEvent>) => Effect.Effect<void, SinkError>
}

/** The registered audit sinks. */
export class AuditSinkRegistry extends Context.Service<AuditSinkRegistry, {
  /** Adds a sink for as long as the scope lives. */
  readonly register: (sink: AuditSink) => Effect.Effect<void, never, Scope.Scope>
  readonly all: () => ReadonlyArray<AuditSink>
}>()("llm-gateway/sdk/AuditSinkRegistry") {
  static readonly layer: Layer.Layer<AuditSinkRegistry> = Layer.sync(AuditSinkRegistry, () => {
    let sinks: ReadonlyArray<AuditSink> = []
    return AuditSinkRegistry.of({
      register: (sink) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            sinks = [...sinks, sink]
          }),
          () =>
            Effect.sync(() => {
              sinks = sinks.filter((other) => other !== sink)
            })
        ),
      all: () => sinks
    })
  })
}

/** Makes the Layer that registers an audit sink. */
export const layer = (sink: AuditSink): Layer.Layer<never, never, AuditSinkRegistry> =>
  Layer.effectDiscard(Effect.flatMap(AuditSinkRegistry, (registry) => registry.register(sink)))

/** Where events go in: it never fails and never waits, and keeps nobody's request. */
export class AuditTrail extends Context.Service<AuditTrail, {
  /** Whether anybody listens; what an event needs is not worth collecting otherwise. */
  readonly isActive: () => boolean
  readonly emit: (event: AuditEvent) => void
}>()("llm-gateway/sdk/AuditTrail") {}
