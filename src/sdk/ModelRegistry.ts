/** What models there are, what they can do and cost, and who may call them. */
import { Context, type Effect } from "effect"
import type { Caller } from "./Caller.ts"
import type { GatewayError } from "./GatewayError.ts"
import type { ModelInfo } from "./Model.ts"

/** The models of all registered providers: catalogue, then discovery, then configuration, each over the one before. */
export class ModelRegistry extends Context.Service<ModelRegistry, {
  /**
   * The model that `id` (canonical or bare) means. Fails with `model_not_found` (a bare id that several providers have
   * lists them), `model_not_approved` or `model_deprecated`.
   */
  readonly resolve: (id: string, caller: Caller) => Effect.Effect<ModelInfo, GatewayError>
  /** The models that the caller may use, sorted by id. */
  readonly list: (caller: Caller) => Effect.Effect<ReadonlyArray<ModelInfo>>
  /** Asks every provider for its models now, and waits for the answers. */
  readonly refresh: Effect.Effect<void>
}>()("llm-gateway/sdk/ModelRegistry") {}
