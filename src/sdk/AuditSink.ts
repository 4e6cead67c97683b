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

/** Someone who serves the sinks as they come and go. */
export interface AuditSinkFollower {
  /** Called for the sinks that are there already, and for each that comes. */
  readonly added: (sink: AuditSink) => Effect.Effect<void>
  /** Called before a sink that goes gives up what it is made of: what is meant for it can still be written. */
  readonly removed: (sink: AuditSink) => Effect.Effect<void>
}

/** The registered audit sinks. */
export class AuditSinkRegistry extends Context.Service<AuditSinkRegistry, {
  /** Adds a sink for as long as the scope lives. */
  readonly register: (sink: AuditSink) => Effect.Effect<void, never, Scope.Scope>
  readonly all: () => ReadonlyArray<AuditSink>
  /** Tells the follower of the sinks for as long as the scope lives. */
  readonly follow: (follower: AuditSinkFollower) => Effect.Effect<void, never, Scope.Scope>
}>()("llm-gateway/sdk/AuditSinkRegistry") {
  static readonly layer: Layer.Layer<AuditSinkRegistry> = Layer.sync(AuditSinkRegistry, () => {
    let sinks: ReadonlyArray<AuditSink> = []
    const followers = new Set<AuditSinkFollower>()
    const tell = (call: (follower: AuditSinkFollower) => Effect.Effect<void>) =>
      Effect.suspend(() => Effect.forEach(Array.from(followers), call, { discard: true }))
    return AuditSinkRegistry.of({
      register: (sink) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            sinks = [...sinks, sink]
            return tell((follower) => follower.added(sink))
          }),
          () =>
            Effect.suspend(() => {
              sinks = sinks.filter((other) => other !== sink)
              return tell((follower) => follower.removed(sink))
            })
        ),
      all: () => sinks,
      follow: (follower) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            followers.add(follower)
            return Effect.forEach(sinks, follower.added, { discard: true })
          }),
          () => Effect.sync(() => followers.delete(follower))
        )
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
