/**
 * What `GET /api/tags` and `POST /api/show` tell about the models on a server, both ways: discovery, and a list of the
 * gateway's own (https://docs.ollama.com/api/tags, https://docs.ollama.com/api-reference/show-model-details).
 *
 * Names carry their tag: `llama3` in a request means `llama3:latest`.
 */
import { Result } from "effect"
import { createHash } from "node:crypto"
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

// ---------------------------------------------------------------------------------------------------------------------
// Decoding
// ---------------------------------------------------------------------------------------------------------------------

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

// ---------------------------------------------------------------------------------------------------------------------
// Encoding
// ---------------------------------------------------------------------------------------------------------------------

/** A model, or a route, as a caller of this dialect sees it. */
export interface ListedModel {
  /** As it is asked for. */
  readonly name: string
  /** Slugs of the providers that serve it. */
  readonly providers: ReadonlyArray<string>
  readonly displayName?: string | undefined
  readonly capabilities?: ReadonlyArray<Capability> | undefined
  /** Tokens. */
  readonly contextWindow?: number | undefined
  /** Unix seconds. */
  readonly created?: number | undefined
}

/** The name with a tag. Clients take one without for `:latest` and look for that in the list (Open WebUI does). */
const tagged = (name: string): string => name.includes(":") ? name : `${name}:latest`

/** What is known of no model file has the empty value that Ollama has for it; all members are there, since clients read them. */
const detailsOf = ({ providers }: ListedModel): Json => ({
  parent_model: "",
  format: "",
  family: providers[0] ?? "",
  families: providers,
  parameter_size: "",
  quantization_level: ""
})

const modifiedAt = ({ created = 0 }: ListedModel): string => {
  const at = new Date(created * 1000)
  return Number.isNaN(at.getTime()) ? new Date(0).toISOString() : at.toISOString()
}

/** There is no file to take a digest of, and clients cut or compare what stands here; a name's own is as constant. */
const digestOf = (name: string): string => createHash("sha256").update(name).digest("hex")

/** Writes `GET /api/tags`. */
export const encodeTags = (models: ReadonlyArray<ListedModel>): Json => ({
  models: models.map((model) => {
    const name = tagged(model.name)
    return {
      name,
      model: name,
      modified_at: modifiedAt(model),
      size: 0,
      digest: digestOf(name),
      details: detailsOf(model)
    }
  })
})

/** Words of Ollama, each for a model that has the capability beside it. */
const words: ReadonlyArray<readonly [word: string, capability: Capability]> = [
  ["completion", "text_output"],
  ["tools", "tools"],
  ["vision", "image_input"],
  ["audio", "audio_input"],
  ["thinking", "reasoning"],
  ["embedding", "embeddings"],
  ["image", "image_output"]
]

/** Of a model of which nothing is known: clients offer tools only where they are told, and what a request needs is checked anyhow. */
const likely = ["completion", "tools"]

/**
 * Writes `POST /api/show`. The name of the architecture, which is the key to the context length, is the provider's; there is
 * no template, licence or model file to show.
 */
export const encodeShow = (model: ListedModel): Json => {
  const { capabilities: able, contextWindow: window, displayName, name, providers } = model
  const architecture = providers[0] ?? "gateway"
  return {
    license: "",
    modelfile: "",
    parameters: "",
    template: "",
    details: detailsOf(model),
    model_info: {
      "general.architecture": architecture,
      "general.basename": displayName ?? name,
      ...(window === undefined ? {} : { [`${architecture}.context_length`]: window })
    },
    capabilities: able === undefined
      ? likely
      : words.flatMap(([word, capability]) => able.includes(capability) ? [word] : []),
    modified_at: modifiedAt(model)
  }
}
