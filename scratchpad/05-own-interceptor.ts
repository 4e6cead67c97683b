/**
 * An interceptor of one's own in one file, between a shipped one and the caller: it refuses what it does not like, tags what
 * it lets pass, and puts a line below each answer, whole or streamed. Run it with
 * `npx node scratchpad/05-own-interceptor.ts`.
 */
import { Console, Effect, Layer, Stream } from "effect"
import {
  type ChatChunk,
  ChatStream,
  Content,
  Gateway,
  Interceptor,
  ModelRegistryLayer,
  OutboundUndici,
  Pii,
  Registries,
  Sandbox,
  TypeRegistry
} from "../src/index.ts"

const note = Content.text(" (made by a model)")

/** The note as a part of its own, behind those that a choice has. */
const noteAfter = (chunk: ChatChunk, parts: number): ChatChunk => ({
  id: chunk.id,
  model: chunk.model,
  ...(chunk.choice === undefined ? {} : { choice: chunk.choice }),
  delta: [{ type: "text", index: parts, text: note.text }]
})

const Polite = Interceptor.layer({
  name: "polite",
  order: 10,
  // When it is too slow or dies, requests go on without it.
  failure: "open",
  timeoutMs: 1_000,
  pre: (request, context) =>
    Effect.sync(() => {
      const said = request.messages.map(({ content }) => Content.textOf(content)).join("\n")
      if (!/please/i.test(said)) return Interceptor.block("say please")
      context.tag("polite=yes")
      return Interceptor.allow
    }),
  post: (response) => Effect.succeed(Interceptor.modify({ ...response, content: [...response.content, note] })),
  // Without this, the gateway would hold streamed answers back until they are complete, and ask `post`.
  stream: (chunks) =>
    Stream.mapAccum(chunks, () => 0, (parts, chunk) => {
      const seen = chunk.delta.reduce((most, { index }) => Math.max(most, index + 1), parts)
      return [seen, chunk.finishReason === undefined ? [chunk] : [noteAfter(chunk, seen), chunk]]
    })
})

const AppGateway = Gateway.layer().pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Layer.mergeAll(Sandbox.layer(), Polite, Pii.layer({ order: 20, action: "pseudonymise" }))),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

const asking = (text: string) => ({
  model: "sandbox::echo",
  messages: [{ role: "user" as const, content: [Content.text(text)] }] as const
})

const program = Effect.gen(function*() {
  const gateway = yield* Gateway
  const error = yield* Effect.flip(gateway.chat(asking("Write to jane@example.com")))
  yield* Console.log(`${error.status} ${error.code}: ${error.message}`)
  const answer = yield* gateway.chat(asking("Please write to jane@example.com"))
  yield* Console.log(Content.textOf(answer.content))
  const streamed = yield* ChatStream.collect(gateway.streamChat(asking("Please write to jane@example.com")))
  yield* Console.log(Content.textOf(streamed.content))
})

await Effect.runPromise(Effect.provide(program, AppGateway))
