/** The gateway's vectors for `effect/ai`: its `EmbeddingModel` over a `GatewayClient`. Requests that come together go together. */
import { Effect, Layer } from "effect"
import { AiError, EmbeddingModel, Model } from "effect/ai"
import type { EmbeddingResponse } from "../sdk/Embedding.ts"
import { aiError } from "./ai/Errors.ts"
import { GatewayClient } from "./GatewayClient.ts"

/** What holds for each request. */
export interface EmbeddingDefaults {
  /** The length of the vectors, for models that can shorten theirs. */
  readonly dimensions?: number
}

const notNumbers = AiError.make({
  module: "GatewayEmbeddingModel",
  method: "embedMany",
  reason: new AiError.InvalidOutputError({
    description: "the gateway answered with vectors that are not written as numbers"
  })
})

const vectorsOf = ({ embeddings }: EmbeddingResponse): Effect.Effect<Array<Array<number>>, AiError.AiError> => {
  const vectors: Array<Array<number>> = []
  for (const vector of embeddings) {
    if (typeof vector === "string") return Effect.fail(notNumbers)
    vectors.push([...vector])
  }
  return Effect.succeed(vectors)
}

/** An embedding model that asks the gateway for `model`, a model's id or a route. */
export const layer = (
  model: string,
  { dimensions }: EmbeddingDefaults = {}
): Layer.Layer<EmbeddingModel.EmbeddingModel, never, GatewayClient> =>
  Layer.effect(
    EmbeddingModel.EmbeddingModel,
    Effect.flatMap(GatewayClient, (client) =>
      EmbeddingModel.make({
        embedMany: Effect.fnUntraced(function*({ inputs }) {
          const response = yield* Effect.mapError(
            client.embed({ model, input: inputs, ...(dimensions === undefined ? {} : { dimensions }) }),
            aiError("GatewayEmbeddingModel", "embedMany")
          )
          return { results: yield* vectorsOf(response), usage: { inputTokens: response.usage?.inputTokens } }
        })
      }))
  )

/** The same as a `Model`, which also tells its provider and name. */
export const model = (name: string, defaults: EmbeddingDefaults = {}) =>
  Model.make("llm-gateway", name, layer(name, defaults))
