/** From the model that was asked for to the candidates that could serve: provider, capabilities, operation. */
import { Effect } from "effect"
import type { ChatRequest } from "../sdk/Chat.ts"
import { CapabilityNotSupported, fail, type GatewayError, ModelNotFound } from "../sdk/GatewayError.ts"
import { can, type Capability, type ModelInfo } from "../sdk/Model.ts"
import { ModelRegistry } from "../sdk/ModelRegistry.ts"
import { type Provider, ProviderRegistry } from "../sdk/Provider.ts"
import type { Exchange } from "./Exchange.ts"
import { requirements, satisfies } from "./Requirements.ts"

/** A model, and the provider that has it. */
export interface Candidate {
  readonly model: ModelInfo
  readonly provider: Provider
}

/** Models named in an error at most. */
const maxSuggestions = 10

/** Finds who could serve a request; fails with what the model registry says, or with `capability_not_supported`. */
export type Resolve = (exchange: Exchange, request: ChatRequest) => Effect.Effect<Candidate, GatewayError>

/**
 * Makes the resolution over the registered models and providers. The services are taken once, when the gateway is built:
 * handing them to every request in its context would copy that context.
 */
export const make: Effect.Effect<Resolve, never, ModelRegistry | ProviderRegistry> = Effect.gen(function*() {
  const models = yield* ModelRegistry
  const providers = yield* ProviderRegistry
  return Effect.fnUntraced(function*(exchange, request) {
    const model = yield* models.resolve(request.model, exchange.caller)
    exchange.model = model
    const provider = providers.get(model.provider)
    if (provider === undefined) {
      return yield* fail(
        new ModelNotFound({ message: `the provider "${model.provider}" is not registered`, model: request.model })
      )
    }
    for (const capability of requirements(request)) {
      if (!satisfies(model, capability)) return yield* unsupported(exchange, models, model, capability)
    }
    if ((exchange.streamed ? provider.streamChat : provider.chat) === undefined) {
      return yield* unsupported(exchange, models, model, exchange.streamed ? "streaming" : "text_output")
    }
    return { model, provider }
  })
})

const unsupported = Effect.fnUntraced(function*(
  exchange: Exchange,
  models: ModelRegistry["Service"],
  model: ModelInfo,
  capability: Capability
): Effect.fn.Return<never, GatewayError> {
  const able = (yield* models.list(exchange.caller))
    .filter((other) => other.id !== model.id && other.capabilities !== undefined && can(other, capability))
    .slice(0, maxSuggestions)
    .map((other) => other.id)
  const hint = able.length === 0 ? "" : `; models that can: ${able.join(", ")}`
  return yield* fail(
    new CapabilityNotSupported({
      message: `${model.id} does not support ${capability}${hint}`,
      capability,
      model: model.id,
      models: able
    })
  )
})
