/** What a configured gateway tells of itself beside its log: metrics, traces, a line for each request. */
import { Layer, Tracer } from "effect"
import { AccessLog } from "../gateway/AccessLog.ts"
import { RequestMetrics } from "../gateway/RequestMetrics.ts"
import { RequestTraces } from "../gateway/RequestTraces.ts"
import { OpenTelemetry } from "../modules/telemetry/OpenTelemetry.ts"
import type { Routes } from "../sdk/Routes.ts"
import type { GatewayConfig } from "./GatewayConfig.ts"

/** Whether a tenant, or one that it belongs to, has said that its content may be seen in traces. */
export const takesContentOf = ({ tenants }: GatewayConfig): (tenant: string) => boolean => {
  const captured = new Set<string>()
  for (const name of Object.keys(tenants)) {
    // A cycle among parents is refused before, so that this comes to an end.
    for (let at: string | undefined = name; at !== undefined; at = tenants[at]?.parent) {
      if (tenants[at]?.captureContent === true) captured.add(name)
    }
  }
  return (tenant) => captured.has(tenant)
}

const traces = (
  config: GatewayConfig,
  url: string,
  takesContent: (tenant: string) => boolean
): Layer.Layer<RequestTraces, never, RequestMetrics> => {
  const { otlpHeaders, traces: { sampling, tellProviders } } = config.observability
  // A request that is not traced need not be seen by the SDK, unless its provider is to know just that.
  const chosen = tellProviders ? {} : { sampling }
  return Layer.unwrap(
    RequestMetrics.useSync(({ registry }) =>
      Layer.unwrap(
        OpenTelemetry.useSync(({ foreign, tracer }) =>
          RequestTraces.layer({
            ...chosen,
            foreign,
            tellsProviders: tellProviders,
            takesContentOf: takesContent
          }).pipe(
            Layer.provide(Layer.succeed(Tracer.Tracer, tracer))
          )
        )
      ).pipe(
        Layer.provide(
          OpenTelemetry.layer({ url, headers: otlpHeaders, sampling: tellProviders ? sampling : 1 }, registry)
        )
      )
    )
  )
}

/** Only what is configured is there at all, and costs anything. `takesContent` is asked for each request that is traced. */
export const layer = (
  config: GatewayConfig,
  takesContent: (tenant: string) => boolean
): Layer.Layer<never, never, Routes> => {
  const { accessLog, metrics, otlp } = config.observability
  const figures = RequestMetrics.layer(config.models.map(({ id }) => id))
  const all = Layer.mergeAll(
    Layer.empty,
    ...(metrics || otlp !== undefined ? [figures] : []),
    ...(accessLog ? [AccessLog.layer] : [])
  )
  return otlp === undefined
    ? all
    : Layer.provideMerge(traces(config, otlp, takesContent), Layer.merge(all, figures))
}
