/**
 * The gateway's models for `effect/ai`: programs written against its `LanguageModel` run over a `GatewayClient`, wherever the
 * gateway is.
 *
 * ```ts
 * LanguageModel.generateText({ prompt: "Hello!" }).pipe(
 *   Effect.provide(GatewayLanguageModel.model("openai::gpt-4o-mini")),
 *   Effect.provide(GatewayClient.layerHttp({ url, key }))
 * )
 * ```
 */
import { Effect, Layer, Stream } from "effect"
import { LanguageModel, Model, Telemetry } from "effect/ai"
import { answerParts, streamParts } from "./ai/Answers.ts"
import { aiError } from "./ai/Errors.ts"
import { type ChatDefaults, requestOf } from "./ai/Prompts.ts"
import { GatewayClient } from "./GatewayClient.ts"

export type { ChatDefaults } from "./ai/Prompts.ts"

const annotate = (model: string, { span }: LanguageModel.ProviderOptions): void =>
  Telemetry.addGenAIAnnotations(span, {
    provider: { name: "llm-gateway" },
    operation: { name: "chat" },
    request: { model }
  })

/**
 * A language model that asks the gateway for `model`, a model's id or a route. `defaults` hold for each request: sampling,
 * length, reasoning, fallback.
 */
export const layer = (
  model: string,
  defaults: ChatDefaults = {}
): Layer.Layer<LanguageModel.LanguageModel, never, GatewayClient> =>
  Layer.effect(
    LanguageModel.LanguageModel,
    Effect.flatMap(GatewayClient, (client) =>
      LanguageModel.make({
        generateText: (options) => {
          annotate(model, options)
          return requestOf(model, options, defaults).pipe(
            Effect.flatMap((request) =>
              Effect.mapError(client.chat(request), aiError("GatewayLanguageModel", "generateText"))
            ),
            Effect.map(answerParts)
          )
        },
        streamText: (options) => {
          annotate(model, options)
          return Stream.unwrap(
            Effect.map(requestOf(model, options, defaults), (request) =>
              streamParts(
                Stream.mapError(client.streamChat(request), aiError("GatewayLanguageModel", "streamText"))
              ))
          )
        },
        supportsSystemMessagesInHistory: Effect.succeed(true)
      }))
  )

/** The same as a `Model`, which also tells its provider and name. */
export const model = (name: string, defaults: ChatDefaults = {}) =>
  Model.make("llm-gateway", name, layer(name, defaults))
