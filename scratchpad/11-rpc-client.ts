/**
 * The typed client: one answer, a stream that is left after two pieces, and an error that is matched by its reason. It talks to the
 * gateway at `GATEWAY_URL`, by default http://127.0.0.1:8080. Run it with `npx node scratchpad/11-rpc-client.ts`.
 */
import { Config, Console, Effect, Layer, Option, Stream } from "effect"
import { GatewayClient } from "../src/client/index.ts"
import { type ChatRequest, Content, CurrentRequest } from "../src/sdk/index.ts"

const ask = (model: string, text: string): ChatRequest => ({
  model,
  messages: [{ role: "user", content: [Content.text(text)] }]
})

const program = Effect.gen(function*() {
  const client = yield* GatewayClient
  const answer = yield* client.chat(ask("sandbox::echo", "Hello, gateway!")).pipe(
    // The options of a request are the same as in process; over HTTP they would be x-gateway-* headers.
    Effect.provideService(CurrentRequest, { tags: ["example"], timeouts: { total: 10_000 } })
  )
  yield* Console.log(Content.textOf(answer.content))

  // Leaving the stream closes the provider's connection, too.
  yield* client.streamChat(ask("sandbox::lorem", "Some prose, please.")).pipe(
    Stream.take(2),
    Stream.runForEach(({ delta }) => Console.log(JSON.stringify(delta.map((piece) => piece.type))))
  )

  yield* client.chat(ask("nowhere::model", "Hello?")).pipe(
    Effect.catchReason("GatewayError", "ModelNotFound", ({ message }) => Console.log(`no such model: ${message}`))
  )
})

const Client = Layer.unwrap(Effect.gen(function*() {
  const url = yield* Config.withDefault(Config.String("GATEWAY_URL"), "http://127.0.0.1:8080")
  const key = yield* Config.option(Config.Redacted("GATEWAY_KEY"))
  return GatewayClient.layerWebSocket({ url, ...(Option.isNone(key) ? {} : { key: key.value }) })
}))

await Effect.runPromise(program.pipe(Effect.provide(Client)))
