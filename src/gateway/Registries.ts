/** The state that a gateway is built on, for an app that composes the Layers by hand. */
import { Layer } from "effect"
import { InterceptorRegistry } from "../sdk/Interceptor.ts"
import { ProviderRegistry } from "../sdk/Provider.ts"
import { type Route, Routes } from "../sdk/Routes.ts"
import { UsageSinkRegistry } from "../sdk/UsageSink.ts"
import { AttemptCounts } from "./AttemptCounts.ts"
import { Health } from "./Health.ts"

/** What `layer` builds. */
export type Registries = ProviderRegistry | InterceptorRegistry | UsageSinkRegistry | Routes | Health | AttemptCounts

/**
 * The registries into which plugins put themselves, the given routes, and the models' health, unknown at first. `models` are
 * configured beside the routes' own; metrics tell them apart.
 */
export const layerWith = (
  routes: ReadonlyArray<Route>,
  models: ReadonlyArray<string> = []
): Layer.Layer<Registries> =>
  Layer.mergeAll(
    ProviderRegistry.layer,
    InterceptorRegistry.layer,
    UsageSinkRegistry.layer,
    AttemptCounts.layer(models).pipe(Layer.provideMerge(Routes.layer(routes))),
    Health.layer
  )

/** As `layerWith`, without routes. */
export const layer: Layer.Layer<Registries> = layerWith([])
