/** The registries into which plugins put themselves, for an app that composes the Layers by hand. */
import { Layer } from "effect"
import { InterceptorRegistry } from "../sdk/Interceptor.ts"
import { ProviderRegistry } from "../sdk/Provider.ts"
import { UsageSinkRegistry } from "../sdk/UsageSink.ts"

/** Empty registries of providers, interceptors and usage sinks. */
export const layer: Layer.Layer<ProviderRegistry | InterceptorRegistry | UsageSinkRegistry> = Layer.mergeAll(
  ProviderRegistry.layer,
  InterceptorRegistry.layer,
  UsageSinkRegistry.layer
)
