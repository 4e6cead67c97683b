/**
 * A usage sink of one's own in one file: it adds up what each tenant spends with each model. The gateway queues for it, gives it
 * records in batches, and tries again what failed. Run it with `npx node scratchpad/07-own-usage-sink.ts`.
 */
import { Console, Effect, Layer } from "effect"
import {
  Content,
  CurrentCaller,
  Gateway,
  ModelRegistryLayer,
  OutboundUndici,
  Registries,
  Sandbox,
  TypeRegistry,
  UsageSink
} from "../src/index.ts"

const nanoUsdBy = new Map<string, number>()

const Spending = UsageSink.layer({
  name: "spending",
  // A record may come twice, with the same id, where a write failed half way: whoever adds up has to look at it.
  write: (records) =>
    Effect.sync(() => {
      for (const { costNanoUsd = 0, modelUsed, tenant } of records) {
        const of = `${tenant} ${modelUsed ?? "?"}`
        nanoUsdBy.set(of, (nanoUsdBy.get(of) ?? 0) + costNanoUsd)
      }
    })
})

const AppGateway = Gateway.layer().pipe(
  Layer.provideMerge(
    ModelRegistryLayer.layer({ models: [{ id: "sandbox::echo", prices: { inputMtok: 1, outputMtok: 2 } }] })
  ),
  Layer.provideMerge(Layer.mergeAll(Sandbox.layer(), Spending)),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

const ask = (tenant: string, text: string) =>
  Effect.gen(function*() {
    const gateway = yield* Gateway
    yield* gateway.chat({ model: "sandbox::echo", messages: [{ role: "user", content: [Content.text(text)] }] })
  }).pipe(Effect.provideService(CurrentCaller, { tenant, tags: [] }))

// Building the gateway for the requests alone: its end flushes the queues, and then the sums are whole.
await Effect.runPromise(
  Effect.gen(function*() {
    yield* ask("acme", "Hello!")
    yield* ask("acme", "Hello again!")
    yield* ask("umbrella", "Good morning to you!")
  }).pipe(
    Effect.provide(AppGateway),
    Effect.andThen(
      Effect.suspend(() =>
        Effect.forEach(nanoUsdBy, ([of, nanoUsd]) => Console.log(`${of}: ${nanoUsd} nano-USD`), { discard: true })
      )
    )
  )
)
