/** An Outbound whose requests carry what the context says they should, such as a `traceparent` for the provider. */
import { Effect, Layer } from "effect"
import { Outbound, OutboundHeaders, type Upstream } from "../../sdk/Outbound.ts"

const told = <Request extends { readonly headers?: Readonly<Record<string, string>> }, A, E, R>(
  request: Request,
  send: (request: Request) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.flatMap(
    OutboundHeaders,
    (headers) => send(headers === undefined ? request : { ...request, headers: { ...request.headers, ...headers } })
  )

const telling = (upstream: Upstream): Upstream => ({
  ...upstream,
  request: (request) => told(request, upstream.request),
  stream: (request) => told(request, upstream.stream),
  connect: (request) => told(request, upstream.connect)
})

/** Puts `OutboundHeaders` into all requests of the Outbound below it. */
export const layer: Layer.Layer<Outbound, never, Outbound> = Layer.effect(
  Outbound,
  Outbound.useSync((outbound) => ({
    ...outbound,
    upstream: (options) => Effect.map(outbound.upstream(options), telling)
  }))
)
