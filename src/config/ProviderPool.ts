/**
 * Providers that outlive the configuration which named them first: one that says the same of a provider as the one before
 * goes on with the same record, and so with its open connections, the rest of its keys, and what it told of its models.
 */
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { type Provider, ProviderRegistry } from "../sdk/Provider.ts"

interface Kept {
  readonly provider: Provider
  readonly scope: Scope.Closeable
  users: number
}

/** The providers that are in use. */
export class ProviderPool extends Context.Service<ProviderPool, {
  /** The provider that is in use under this key, or else the one that the Layer registers; for as long as the scope lives. */
  readonly take: <E, R>(
    key: string,
    layer: Layer.Layer<never, E, R | ProviderRegistry>
  ) => Effect.Effect<Provider, E, Exclude<R, ProviderRegistry> | Scope.Scope>
}>()("llm-gateway/config/ProviderPool") {
  static readonly layer: Layer.Layer<ProviderPool> = Layer.effect(
    ProviderPool,
    Effect.map(Effect.scope, (parent) => {
      const kept = new Map<string, Kept>()

      const opened = <E, R>(key: string, layer: Layer.Layer<never, E, R | ProviderRegistry>) =>
        Effect.suspend(() => {
          const scope = Scope.forkUnsafe(parent)
          const registered: Array<Provider> = []
          const catching = Layer.succeed(ProviderRegistry, {
            register: (provider: Provider) => Effect.sync(() => void registered.push(provider)),
            get: () => undefined,
            all: () => registered
          })
          return Layer.buildWithMemoMap(Layer.provide(layer, catching), Layer.makeMemoMapUnsafe(), scope).pipe(
            Effect.flatMap(() => {
              const [provider] = registered
              if (provider === undefined) return Effect.die(new Error("a provider's Layer registers none"))
              const entry: Kept = { provider, scope, users: 0 }
              kept.set(key, entry)
              return Effect.succeed(entry)
            }),
            Effect.onError(() => Scope.close(scope, Exit.void))
          )
        })

      const release = (key: string, entry: Kept) =>
        Effect.suspend(() => {
          entry.users--
          if (entry.users > 0) return Effect.void
          if (kept.get(key) === entry) kept.delete(key)
          return Scope.close(entry.scope, Exit.void)
        })

      return ProviderPool.of({
        take: (key, layer) =>
          Effect.acquireRelease(
            Effect.suspend(() => {
              const known = kept.get(key)
              return known === undefined ? opened(key, layer) : Effect.succeed(known)
            }).pipe(Effect.tap((entry) =>
              Effect.sync(() => {
                entry.users++
              })
            )),
            (entry) => release(key, entry)
          ).pipe(Effect.map(({ provider }) => provider))
      })
    })
  )
}
