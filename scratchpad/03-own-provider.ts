/**
 * A provider of one's own in one file: a record of what it can do, and a Layer that registers it. Run it with
 * `npx node scratchpad/03-own-provider.ts`.
 */
import { Console, Effect, Layer, Stream } from "effect"
import {
  type ChatResponse,
  ChatStream,
  Content,
  Gateway,
  ModelRegistryLayer,
  OutboundUndici,
  Provider,
  ProviderError,
  Registries,
  TypeRegistry
} from "../src/index.ts"

/** Says everything backwards. What it cannot do (tools, say) its capabilities leave out, and the gateway refuses it. */
const Backwards = (options: { readonly slug: string }) => {
  const chat = Effect.fnUntraced(function*(
    { model, request }: Provider.ChatCall
  ): Effect.fn.Return<ChatResponse, ProviderError> {
    const said = Content.textOf(request.messages.at(-1)?.content ?? [])
    if (said === "") {
      return yield* new ProviderError({
        provider: options.slug,
        kind: "caller",
        message: "there is nothing to reverse"
      })
    }
    const words = said.split(" ").length
    return {
      id: "backwards-1",
      model: model.model,
      content: [Content.text(Array.from(said).toReversed().join(""))],
      finishReason: "stop",
      usage: { inputTokens: words, outputTokens: words }
    }
  })
  return Provider.layer(Effect.succeed<Provider.Provider>({
    slug: options.slug,
    kind: "backwards",
    wire: "backwards",
    discover: Effect.succeed([{ model: "words", capabilities: ["text_input", "text_output", "streaming"] }]),
    chat,
    streamChat: (call) =>
      Stream.unwrap(Effect.map(chat(call), (answer) => Stream.fromIterable(ChatStream.chunksOf(answer))))
  }))
}

const AppGateway = Gateway.layer().pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Backwards({ slug: "mirror" })),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

const ask = (text: string) =>
  Effect.flatMap(
    Gateway,
    (gateway) => gateway.chat({ model: "mirror::words", messages: [{ role: "user", content: [Content.text(text)] }] })
  )

const program = Effect.gen(function*() {
  const answer = yield* ask("Hello, gateway!")
  yield* Console.log(Content.textOf(answer.content))
  const error = yield* Effect.flip(ask(""))
  yield* Console.log(`${error.status} ${error.code}: ${error.message}`)
})

await Effect.runPromise(Effect.provide(program, AppGateway))
