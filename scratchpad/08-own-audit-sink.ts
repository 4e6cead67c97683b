/**
 * An audit sink of one's own in one file: who did what and when, in words. Events hold names, codes and figures, and never what was
 * asked or answered. Run it with `npx node scratchpad/08-own-audit-sink.ts`.
 */
import { Console, Effect, Layer } from "effect"
import {
  Audit,
  AuditSink,
  AuditSinkRegistry,
  Content,
  CurrentCaller,
  Gateway,
  ModelRegistryLayer,
  OutboundUndici,
  Registries,
  Sandbox,
  TypeRegistry
} from "../src/index.ts"

const InWords = AuditSink.layer({
  name: "in words",
  write: (events) =>
    Effect.forEach(
      events,
      ({ details, tenant, type }) =>
        Console.log(`${tenant}: ${type.replaceAll("_", " ")} ${details["model"] ?? ""}`.trim()),
      { discard: true }
    )
})

const AppGateway = Gateway.layer().pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Sandbox.layer()),
  // The trail is built on its sinks, so that it ends before them, with everything written.
  Layer.provideMerge(Audit.layer.pipe(Layer.provideMerge(InWords), Layer.provideMerge(AuditSinkRegistry.layer))),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

const ask = (model: string) =>
  Effect.gen(function*() {
    const gateway = yield* Gateway
    yield* gateway.chat({ model, messages: [{ role: "user", content: [Content.text("Hello!")] }] })
  }).pipe(Effect.provideService(CurrentCaller, { tenant: "acme", tags: [] }))

await Effect.runPromise(
  Effect.andThen(ask("sandbox::echo"), Effect.ignore(ask("sandbox::fail-503"))).pipe(Effect.provide(AppGateway))
)
