/**
 * Discovery: what `GET /api/tags` and `POST /api/show` tell about the models on a server
 * (https://docs.ollama.com/api/tags, https://docs.ollama.com/api-reference/show-model-details).
 *
 * Names carry their tag: `llama3` in a request means `llama3:latest`.
 */
import { Result } from "effect"
import type { Capability } from "../../sdk/Model.ts"
import type { DiscoveredModel, Failure } from "../../sdk/Provider.ts"
import { protocolFailure } from "./OllamaError.ts"
import type { Json } from "../Codec.ts"
import { isJson, isList } from "../Json.ts"

/** Ollama's words for what a model can do (`types/model/capability.go`), and ours. `insert` (fill-in-the-middle) has none. */
const capabilities: ReadonlyMap<string, ReadonlyArray<Capability>> = new Map<string, ReadonlyArray<Capability>>([
  // Sampling by a grammar works with every model that completes text, and every answer can be streamed.
  ["completion", ["text_input", "text_output", "streaming", "structured_output"]],
  ["tools", ["tools", "parallel_tools"]],
  ["vision", ["image_input"]],
  ["audio", ["audio_input"]],
  ["thinking", ["reasoning"]],
  ["embedding", ["text_input", "embeddings"]],
  ["image", ["image_output"]]
])

/** Reads `GET /api/tags`: the names of the models, in the server's order. Fails with `protocol` for another shape. */
export const decodeTags = (json: unknown): Result.Result<ReadonlyArray<string>, Failure> => {
  const models = isJson(json) ? json["models"] : undefined
  // Go writes an empty slice as null.
  if (isJson(json) && models === null) return Result.succeed([])
  if (!isList(models)) return Result.fail(protocolFailure("the provider's list of models is not Ollama's"))
  const names: Array<string> = []
  for (const model of models) {
    const name = isJson(model) ? model["model"] ?? model["name"] : undefined
    if (typeof name === "string" && name !== "") names.push(name)
  }
  return Result.succeed(names)
}

/** The window that the model was trained with: `model_info["<architecture>.context_length"]`. */
const contextWindow = (info: Json): number | undefined => {
  const architecture = info["general.architecture"]
  const named = typeof architecture === "string" ? info[`${architecture}.context_length`] : undefined
  const key = named === undefined ? Object.keys(info).find((key) => key.endsWith(".context_length")) : undefined
  const value = key === undefined ? named : info[key]
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : undefined
}

/**
 * Reads `POST /api/show` for the model of that name: its capabilities and its context window, each left out where the
 * server does not tell it (older servers tell no capabilities). Fails with `protocol` for another shape.
 */
export const decodeShow = (json: unknown, model: string): Result.Result<DiscoveredModel, Failure> => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's description of a model is not Ollama's"))
  const told = json["capabilities"]
  const known = new Set<Capability>()
  if (isList(told)) {
    for (const word of told) {
      for (const capability of typeof word === "string" ? capabilities.get(word) ?? [] : []) known.add(capability)
    }
  }
  const info = json["model_info"]
  const window = isJson(info) ? contextWindow(info) : undefined
  return Result.succeed({
    model,
    ...(isList(told) ? { capabilities: Array.from(known) } : {}),
    ...(window === undefined ? {} : { contextWindow: window })
  })
}
