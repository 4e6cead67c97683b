/** A streamed answer, in this process and without HTTP. Run it with `npx node scratchpad/02-stream-in-process.ts`. */
import { Console, Effect, Layer, Stream } from "effect"
import {
  Content,
  Gateway,
  ModelRegistryLayer,
  OutboundUndici,
  Registries,
  Sandbox,
  TypeRegistry
} from "../src/index.ts"

const AppGateway = Gateway.layer({ timeouts: { firstToken: 5_000 } }).pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Sandbox.layer()),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

const program = Effect.gen(function*() {
  const gateway = yield* Gateway
  const chunks = gateway.streamChat({
    model: "sandbox::echo",
    messages: [{ role: "user", content: [Content.text("[[reason Let me think.]] One word after the other.")] }]
  })
  // Leaving the stream early, with `Stream.take` say, closes the connection to the provider.
  yield* Stream.runForEach(chunks, (chunk) => {
    if (chunk.finishReason !== undefined) return Console.log(`the end: ${chunk.finishReason}`)
    if (chunk.usage !== undefined) return Console.log(`${chunk.usage.outputTokens} tokens`)
    return Effect.forEach(
      chunk.delta,
      (delta) =>
        delta.type === "text" || delta.type === "reasoning" ? Console.log(`${delta.type}: ${delta.text}`) : Effect.void,
      {
        discard: true
      }
    )
  })
})

await Effect.runPromise(Effect.provide(program, AppGateway))
