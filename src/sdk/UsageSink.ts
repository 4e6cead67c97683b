/** Usage sinks: one of the four kinds of plugin. Each finished request leaves one record; no record holds content. */
import { Context, Effect, Layer, type Scope } from "effect"
import type { Caller } from "./Caller.ts"
import type { FinishReason } from "./Chat.ts"
import type { GatewayErrorCode } from "./GatewayError.ts"
import type { Usage } from "./Usage.ts"

/** What one request consumed, from whom, for whom. Times in Unix ms, durations in ms, money in nano-USD. */
export interface UsageRecord {
  readonly requestId: string
  readonly caller: Caller
  readonly operation: "chat"
  readonly streamed: boolean
  readonly modelAsked: string
  /** Canonical id of the model that served, or was last tried. */
  readonly modelUsed?: string
  readonly provider?: string
  readonly attempts: number
  readonly usage: Usage
  /** Integer nano-USD; absent where no price is known. */
  readonly costNanoUsd?: number
  readonly startedAt: number
  readonly durationMs: number
  readonly firstTokenMs?: number
  readonly outcome: "completed" | "failed" | "cancelled"
  readonly errorCode?: GatewayErrorCode
  readonly finishReason?: FinishReason
}

/** Receives records. It must not fail a request: what it cannot write, it retries or counts. */
export interface UsageSink {
  readonly name: string
  readonly record: (record: UsageRecord) => Effect.Effect<void>
}

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
