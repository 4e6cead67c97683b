/** The SDK of OpenTelemetry, set up; loaded only where there is a collector to send to. */
import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import * as OtelTracer from "@effect/opentelemetry/OtelTracer"
import { OTLPMetricExporter } from "@opentelemetry/exporter-metrics-otlp-proto"
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto"
import { PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics"
import { BatchSpanProcessor, ParentBasedSampler, TraceIdRatioBasedSampler } from "@opentelemetry/sdk-trace-base"
import { type Layer, Redacted, type Tracer } from "effect"
import type { TraceParent } from "../../sdk/Caller.ts"
import type { OpenTelemetryOptions } from "./OpenTelemetry.ts"

const serviceName = "llm-gateway"
/** Spans that may wait, some KB each. */
const maxQueued = 4096
const exportTimeout = 10_000
const metricsInterval = 60_000
/** How long the end of the process may take for what is left, ms. */
const shutdownTimeout = 3_000

/** The caller's span as the SDK's sampler knows it. */
export const foreign = ({ sampled, spanId, state, traceId }: TraceParent): Tracer.AnySpan =>
  OtelTracer.makeExternalSpan({
    traceId,
    spanId,
    traceFlags: sampled ? 1 : 0,
    ...(state === undefined ? {} : { traceState: state })
  })

/** The tracer, and the export of the metrics whose registry is in the context. */
export const layer = (options: OpenTelemetryOptions): Layer.Layer<NodeSdkServices> =>
  NodeSdk.layer(() => {
    const base = options.url.replace(/\/+$/, "")
    const headers = Object.fromEntries(
      Object.entries(options.headers ?? {}).map(([name, value]) => [name, Redacted.value(value)])
    )
    return {
      resource: {
        serviceName,
        ...(options.version === undefined ? {} : { serviceVersion: options.version })
      },
      spanProcessor: new BatchSpanProcessor(
        new OTLPTraceExporter({ url: `${base}/v1/traces`, headers, timeoutMillis: exportTimeout }),
        { maxQueueSize: maxQueued, exportTimeoutMillis: exportTimeout }
      ),
      tracerConfig: {
        sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(options.sampling) })
      },
      metricReader: new PeriodicExportingMetricReader({
        exporter: new OTLPMetricExporter({ url: `${base}/v1/metrics`, headers, timeoutMillis: exportTimeout }),
        exportIntervalMillis: options.metricsIntervalMs ?? metricsInterval,
        exportTimeoutMillis: Math.min(exportTimeout, options.metricsIntervalMs ?? exportTimeout)
      }),
      shutdownTimeout
    }
  })

type NodeSdkServices = Layer.Success<ReturnType<typeof NodeSdk.layer>>
