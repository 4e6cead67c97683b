/** An interceptor that lets everything pass: a place in the order, for trying out and for tests. */
import { Effect, type Layer } from "effect"
import { allow, type Interceptor, type InterceptorRegistry } from "../../../sdk/Interceptor.ts"
import { assemble, type InterceptorOptions, type LayerError, layerOf, looksAt } from "../InterceptorOptions.ts"

const passing = Effect.succeed(allow)

/** Makes the interceptor, without registering it. */
export const make = (options: InterceptorOptions = {}): Interceptor =>
  assemble("noop", options, {
    ...(looksAt(options, "request") ? { pre: () => passing } : {}),
    ...(looksAt(options, "response") ? { post: () => passing, stream: (chunks) => chunks } : {})
  })

/** Registers the interceptor. */
export const layer = (options?: InterceptorOptions): Layer.Layer<never, LayerError, InterceptorRegistry> =>
  layerOf(Effect.succeed(make(options)))
