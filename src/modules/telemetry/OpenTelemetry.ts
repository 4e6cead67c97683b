/**
 * OpenTelemetry by its official SDK and exporters, through `@effect/opentelemetry`: an Effect `Tracer` whose spans go to a
 * collector over OTLP, and the metrics of a registry with them.
 *
 * What waits to be sent is bounded, and what finds no room is dropped, so that a collector that is slow or gone slows no
 * request. `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` name the process as they do elsewhere.
 */
import { Context, Effect, Layer, type Redacted, Tracer } from "effect"
import type { TraceParent } from "../../sdk/Caller.ts"

/** Where to, and how much of it. */
export interface OpenTelemetryOptions {
  /** The collector's address; `/v1/traces` and `/v1/metrics` are below it. */
  readonly url: string
  /** Sent with each export, such as an `authorization`. */
  readonly headers?: Readonly<Record<string, Redacted.Redacted>>
  /** The share of requests that are traced where the caller does not say, 0 to 1. */
  readonly sampling: number
  /** Time between two exports of metrics, ms; default 60,000. */
  readonly metricsIntervalMs?: number
  readonly version?: string
}

/** The bridge to OpenTelemetry. */
export class OpenTelemetry extends Context.Service<OpenTelemetry, {
  readonly tracer: Tracer.Tracer
  /** The span of a caller, with its `tracestate`. */
  readonly foreign: (parent: TraceParent) => Tracer.AnySpan
}>()("llm-gateway/modules/telemetry/OpenTelemetry") {
  /** Sends until the scope ends, and then what is left, for three seconds at most. `metrics` holds what is sent beside spans. */
  static readonly layer = (
    options: OpenTelemetryOptions,
    metrics: Context.Context<never>
  ): Layer.Layer<OpenTelemetry> =>
    // The SDK is some hundred modules, which nobody loads who has no collector.
    Layer.unwrap(Effect.map(
      Effect.promise(() => import("./OpenTelemetrySdk.ts")),
      (sdk) =>
        Layer.effect(OpenTelemetry, Effect.map(Tracer.Tracer, (tracer) => ({ tracer, foreign: sdk.foreign }))).pipe(
          Layer.provide(sdk.layer(options)),
          Layer.provide(Layer.succeedContext(metrics))
        )
    ))
}
