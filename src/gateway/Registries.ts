/** The state that a gateway is built on, for an app that composes the Layers by hand. */
import { Layer } from "effect"
import { InterceptorRegistry } from "../sdk/Interceptor.ts"
import { ProviderRegistry } from "../sdk/Provider.ts"
import { type Route, Routes } from "../sdk/Routes.ts"
import { UsageSinkRegistry } from "../sdk/UsageSink.ts"
import { Health } from "./Health.ts"

/** What `layer` builds. */
export type Registries = ProviderRegistry | InterceptorRegistry | UsageSinkRegistry | Routes | Health

/** The registries into which plugins put themselves, the given routes, and the models' health, unknown at first. */
export const layerWith = (routes: ReadonlyArray<Route>): Layer.Layer<Registries> =>
  Layer.mergeAll(
    ProviderRegistry.layer,
    InterceptorRegistry.layer,
    UsageSinkRegistry.layer,
    Routes.layer(routes),
    Health.layer
  )

/** As `layerWith`, without routes. */
export const layer: Layer.Layer<Registries> = layerWith([])
