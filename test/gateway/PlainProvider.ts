/**
 * Providers as an app of its own would write them: plain records, registered through the sdk's public contract. What the
 * gateway's tests need of an upstream, they say here in a few chunks.
 */
import { Effect, Layer } from "effect"
import { Gateway, type GatewayOptions } from "../../src/gateway/Gateway.ts"
import * as Registries from "../../src/gateway/Registries.ts"
import * as ModelRegistry from "../../src/modules/modelRegistry/Registry.ts"
import type { ChatChunk, ChatRequest, ChatResponse } from "../../src/sdk/Chat.ts"
import { text } from "../../src/sdk/Content.ts"
import * as Interceptor from "../../src/sdk/Interceptor.ts"
import * as Provider from "../../src/sdk/Provider.ts"
import type { Route } from "../../src/sdk/Routes.ts"
import { TypeRegistry } from "../../src/sdk/TypeRegistry.ts"
import * as UsageSink from "../../src/sdk/UsageSink.ts"

/** A provider `plain` that takes any model, with the given operations. */
export const plain = (operations: Partial<Provider.Provider>): Provider.Provider => ({
  slug: "plain",
  kind: "plain",
  wire: "plain",
  unlistedModels: "allow",
  ...operations
})

/** A request to the model `plain::m`. */
export const request: ChatRequest = { model: "plain::m", messages: [{ role: "user", content: [text("Hello?")] }] }

const head = { id: "answer-1", model: "m" }

/** A chunk that says nothing: an opening, a ping. */
export const silence: ChatChunk = { ...head, delta: [] }
/** A piece of text. */
export const says = (value: string): ChatChunk => ({ ...head, delta: [{ type: "text", index: 0, text: value }] })
/** The end of the answer. */
export const finish: ChatChunk = { ...head, delta: [], finishReason: "stop" }
/** The figures after it. */
export const usage: ChatChunk = { ...head, delta: [], usage: { inputTokens: 10, outputTokens: 5 } }

/** A whole answer. */
export const answers = (value: string): ChatResponse => ({
  ...head,
  content: [text(value)],
  finishReason: "stop",
  usage: { inputTokens: 10, outputTokens: 5 }
})

/** What an app composes its gateway of. */
export interface Composition extends GatewayOptions {
  readonly providers: ReadonlyArray<Provider.Provider>
  readonly interceptors?: ReadonlyArray<Interceptor.Interceptor>
  readonly sinks?: ReadonlyArray<UsageSink.UsageSink>
  readonly models?: ReadonlyArray<ModelRegistry.ModelOverride>
  readonly types?: Layer.Layer<TypeRegistry>
  readonly routes?: ReadonlyArray<Route>
}

/**
 * The gateway over these plugins and the given stores, with a single attempt unless more are asked for; an answer's record
 * comes before its end.
 */
export const composeOver = <A>(
  stores: Layer.Layer<A>,
  { interceptors = [], models = [], providers, routes = [], sinks = [], types = TypeRegistry.layerEmpty, ...options }:
    Composition
) =>
  Gateway.layer({ attempts: 1, ledger: { durability: "strict" }, ...options }).pipe(
    Layer.provideMerge(ModelRegistry.layer({ models })),
    Layer.provideMerge(Layer.mergeAll(
      Layer.empty,
      ...providers.map((provider) => Provider.layer(Effect.succeed(provider))),
      ...interceptors.map(Interceptor.layer),
      ...sinks.map(UsageSink.layer)
    )),
    Layer.provideMerge(stores),
    Layer.provideMerge(Layer.mergeAll(Registries.layerWith(routes), types)),
    Layer.orDie
  )

/** As `composeOver`, without limits, budgets, tenants and audit trail. */
export const compose = (composition: Composition) => composeOver(Layer.empty, composition)
