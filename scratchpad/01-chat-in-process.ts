/**
 * One answer, in this process and without HTTP: the gateway is a Layer. Run it with
 * `npx node scratchpad/01-chat-in-process.ts`.
 */
import { Console, Effect, Layer } from "effect"
import {
  Content,
  Gateway,
  ModelRegistryLayer,
  OutboundUndici,
  Registries,
  Sandbox,
  TypeRegistry
} from "../src/index.ts"

// Beside the sandbox, or in its place: OpenAi.layer({ apiKey }), Anthropic.layer({ apiKey }), Ollama.layer().
const Providers = Sandbox.layer()

const AppGateway = Gateway.layer().pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Providers),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

const program = Effect.gen(function*() {
  const gateway = yield* Gateway
  const answer = yield* gateway.chat({
    model: "sandbox::echo",
    messages: [{ role: "user", content: [Content.text("Hello, gateway!")] }]
  })
  yield* Console.log(Content.textOf(answer.content))
  yield* Console.log(`${answer.modelUsed} used ${answer.usage?.inputTokens} + ${answer.usage?.outputTokens} tokens`)
}).pipe(
  // Errors are values with a reason: this program knows what to do about one of them.
  Effect.catchReason("GatewayError", "ModelNotFound", (reason) => Console.error(`no such model: ${reason.model}`))
)

await Effect.runPromise(Effect.provide(program, AppGateway))
