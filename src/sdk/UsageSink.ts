/** Usage sinks: one of the four kinds of plugin. Each finished request leaves one record; no record holds content. */
import { type Array as Arr, Context, Effect, Layer, Schema, type Scope } from "effect"
import type { FinishReason } from "./Chat.ts"
import type { GatewayErrorCode } from "./GatewayError.ts"
import type { Operation } from "./Operation.ts"
import type { Usage } from "./Usage.ts"

/** Why figures are the gateway's own count and not the provider's. */
export type EstimateReason =
  /** The provider finished, and told nothing. */
  | "not_reported"
  /** The caller left before the provider told. */
  | "client_disconnect"
  /** The provider broke off. */
  | "upstream_failure"
  /** Another model was faster. */
  | "hedge_lost"
  /** The gateway's patience with the provider ran out. */
  | "timeout"

/** What one request consumed, from whom, for whom. Times in Unix ms, durations in ms, money in nano-USD. */
export interface UsageRecord {
  /** Unique among all records. The request's id is not: callers may choose their own. */
  readonly id: string
  readonly requestId: string
  /** `attempt`: what a call cost that did not serve the request, because it lost a race or was given up. */
  readonly kind: "request" | "attempt"
  readonly tenant: string
  readonly user?: string
  readonly keyId?: string
  readonly tags: ReadonlyArray<string>
  readonly conversationId?: string
  readonly operation: Operation
  readonly streamed: boolean
  readonly modelAsked: string
  /** Canonical id of the model that served, or was last tried. */
  readonly modelUsed?: string
  readonly provider?: string
  /** Calls that were made for the request. */
  readonly attempts: number
  readonly usage: Usage
  /** Set where the figures are an estimate. */
  readonly estimatedBecause?: EstimateReason
  /** Integer nano-USD; absent where no price is known. */
  readonly costNanoUsd?: number
  /** Which price was applied: where it comes from, and of which model. */
  readonly priceId?: string
  readonly startedAt: number
  readonly durationMs: number
  readonly firstTokenMs?: number
  /** The gateway's own share of the duration. */
  readonly overheadMs: number
  readonly outcome: "completed" | "failed" | "cancelled" | "blocked"
  readonly errorCode?: GatewayErrorCode
  readonly finishReason?: FinishReason
}

/** A sink could not write a batch. It is tried again. */
export class SinkError extends Schema.TaggedError<SinkError>()("SinkError", {
  sink: Schema.String,
  /** What went wrong, without content, secrets or connection strings. */
  message: Schema.String
}) {}

/** Receives records in batches. The gateway queues for it, tries again what failed, and flushes at the end. */
export interface UsageSink {
  readonly name: string
  /**
   * Whether what `write` has taken outlives the process. Under `strict` durability an answer ends only after its record
   * is in every durable sink, and budgets are settled only then.
   */
  readonly durable?: boolean
  /** Writes all of the records or fails. A record may come twice, with the same id, after a failure. */
  readonly write: (records: Arr.NonEmptyReadonlyArray<UsageRecord>) => Effect.Effect<void, SinkError>
}

/** Makes writing records and settling budgets one transaction, where both are in the same database. */
export const LedgerTransaction: Context.Reference<
  <A>(self: Effect.Effect<A, SinkError>) => Effect.Effect<A, SinkError>
> = Context.Reference<<A>(self: Effect.Effect<A, SinkError>) => Effect.Effect<A, SinkError>>(
  "llm-gateway/sdk/LedgerTransaction",
  { defaultValue: () => (self) => self }
)

/** The registered usage sinks. */
export class UsageSinkRegistry extends Context.Service<UsageSinkRegistry, {
  /** Adds a sink for as long as the scope lives. */
  readonly register: (sink: UsageSink) => Effect.Effect<void, never, Scope.Scope>
  readonly all: () => ReadonlyArray<UsageSink>
}>()("llm-gateway/sdk/UsageSinkRegistry") {
  static readonly layer: Layer.Layer<UsageSinkRegistry> = Layer.sync(UsageSinkRegistry, () => {
    let sinks: ReadonlyArray<UsageSink> = []
    return UsageSinkRegistry.of({
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

/** Makes the Layer that registers a usage sink. */
export const layer = (sink: UsageSink): Layer.Layer<never, never, UsageSinkRegistry> =>
  Layer.effectDiscard(Effect.flatMap(UsageSinkRegistry, (registry) => registry.register(sink)))
