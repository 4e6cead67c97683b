/**
 * A small search over documents with answers that name their sources (retrieval-augmented generation): documents become vectors
 * in one batch, a question finds the nearest, and the model answers from those alone. Run it with
 * `npx node scratchpad/10-rag.ts`; it composes a gateway with the sandbox in its own process.
 */
import { Console, Effect, Layer } from "effect"
import { EmbeddingModel, LanguageModel } from "effect/ai"
import { GatewayClient, GatewayEmbeddingModel, GatewayLanguageModel } from "../src/client/index.ts"
import {
  Gateway,
  InProcess,
  ModelRegistryLayer,
  OutboundUndici,
  Registries,
  Sandbox,
  TypeRegistry
} from "../src/index.ts"

const documents = [
  "Budgets are set aside before a provider is called, for the worst case of the request.",
  "A circuit breaker opens after five failures in a row, and lets one call through after a second.",
  "Cats sleep for most of the day, and hunt at dawn and dusk.",
  "A stream that breaks off ends in an explicit error, and never in a marker of success."
]

interface Indexed {
  readonly text: string
  readonly vector: ReadonlyArray<number>
}

/** For vectors of length one, as they come, the cosine is the product. */
const similarity = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): number =>
  one.reduce((sum, value, at) => sum + value * (other[at] ?? 0), 0)

const nearest = (index: ReadonlyArray<Indexed>, vector: ReadonlyArray<number>, count: number) =>
  index
    .map(({ text, vector: own }) => ({ text, score: similarity(own, vector) }))
    .toSorted((a, b) => b.score - a.score)
    .slice(0, count)

const answer = Effect.fn("answer")(function*(index: ReadonlyArray<Indexed>, question: string) {
  const embeddings = yield* EmbeddingModel.EmbeddingModel
  const { vector } = yield* embeddings.embed(question)
  const sources = nearest(index, vector, 2)
  const context = sources.map(({ text }, at) => `[${at + 1}] ${text}`).join("\n")
  const { text } = yield* LanguageModel.generateText({
    prompt: [
      { role: "system", content: "Answer from these sources alone, and name them by their numbers." },
      { role: "user", content: `${context}\n\nQuestion: ${question}` }
    ]
  })
  const cited = sources.filter((_, at) => text.includes(`[${at + 1}]`))
  return { text, cited }
})

const AppGateway = InProcess.layer.pipe(
  Layer.provideMerge(Gateway.layer()),
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Sandbox.layer()),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

const Models = Layer.mergeAll(
  GatewayLanguageModel.model("sandbox::echo"),
  GatewayEmbeddingModel.model("sandbox::embed")
).pipe(Layer.provide(GatewayClient.layerInProcess), Layer.provide(AppGateway))

await Effect.runPromise(
  Effect.gen(function*() {
    const { embeddings } = yield* (yield* EmbeddingModel.EmbeddingModel).embedMany(documents)
    const index = documents.map((text, at): Indexed => ({ text, vector: embeddings[at]?.vector ?? [] }))
    for (const question of ["When does a circuit breaker open?", "What is set aside for a request?"]) {
      const { cited, text } = yield* answer(index, question)
      yield* Console.log(`Q: ${question}`)
      yield* Console.log(`A: ${text.split("\n", 1)[0] ?? ""}`)
      for (const { text } of cited) yield* Console.log(`   source: ${text}`)
    }
  }).pipe(Effect.provide(Models))
)
