/**
 * Registries of plugins for one configuration, over those that an app fills: what the configuration names comes and goes
 * with it, what the app has registered stays.
 */
import { Context, Effect, Layer } from "effect"
import { DuplicateInterceptor, type Interceptor, InterceptorRegistry } from "../sdk/Interceptor.ts"
import { DuplicateProvider, ProviderRegistry } from "../sdk/Provider.ts"

/** The app's registries. */
export class Base extends Context.Service<Base, {
  readonly providers: ProviderRegistry["Service"]
  readonly interceptors: InterceptorRegistry["Service"]
}>()("llm-gateway/config/Base") {
  static readonly layer: Layer.Layer<Base> = Layer.effect(
    Base,
    Effect.gen(function*() {
      return { providers: yield* ProviderRegistry, interceptors: yield* InterceptorRegistry }
    })
  ).pipe(Layer.provide(Layer.mergeAll(Layer.fresh(ProviderRegistry.layer), Layer.fresh(InterceptorRegistry.layer))))
}

const providersOver = (own: ProviderRegistry["Service"], base: ProviderRegistry["Service"]) =>
  ProviderRegistry.of({
    register: (provider) =>
      base.get(provider.slug) === undefined
        ? own.register(provider)
        : Effect.fail(new DuplicateProvider({ slug: provider.slug })),
    get: (slug) => own.get(slug) ?? base.get(slug),
    all: () => {
      const others = base.all()
      return others.length === 0 ? own.all() : [...own.all(), ...others]
    }
  })

const interceptorsOver = (own: InterceptorRegistry["Service"], base: InterceptorRegistry["Service"]) => {
  let merged: ReadonlyArray<Interceptor> = []
  let [mergedOwn, mergedBase] = [own.ordered(), base.ordered()]
  return InterceptorRegistry.of({
    register: (interceptor) =>
      base.ordered().some(({ name }) => name === interceptor.name)
        ? Effect.fail(new DuplicateInterceptor({ name: interceptor.name }))
        : own.register(interceptor),
    ordered: () => {
      const [ours, others] = [own.ordered(), base.ordered()]
      if (others.length === 0) return ours
      if (ours !== mergedOwn || others !== mergedBase) {
        mergedOwn = ours
        mergedBase = others
        merged = [...ours, ...others].sort((a, b) => a.order - b.order || (a.name < b.name ? -1 : 1))
      }
      return merged
    }
  })
}

/** Registries of one configuration over the app's. */
export const layer: Layer.Layer<ProviderRegistry | InterceptorRegistry, never, Base> = Layer.effectContext(
  Effect.gen(function*() {
    const base = yield* Base
    return Context.make(ProviderRegistry, providersOver(yield* ProviderRegistry, base.providers)).pipe(
      Context.add(InterceptorRegistry, interceptorsOver(yield* InterceptorRegistry, base.interceptors))
    )
  })
).pipe(Layer.provide(Layer.mergeAll(Layer.fresh(ProviderRegistry.layer), Layer.fresh(InterceptorRegistry.layer))))
