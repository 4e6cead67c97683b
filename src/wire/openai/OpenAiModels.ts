/**
 * The model list of the OpenAI wire, both ways. OpenAI tells ids and dates; compatible servers add context windows
 * (vLLM, Groq, Together, Mistral), and OpenRouter modalities, parameters and prices as well.
 */
import { Result } from "effect"
import type { Capability, ModelInfo, Prices } from "../../sdk/Model.ts"
import type { DiscoveredModel, Failure } from "../../sdk/Provider.ts"
import type { Json } from "../Codec.ts"
import { errorWithin, inbandFailure, protocolFailure } from "./OpenAiError.ts"
import { array, count, type Draft, filled, isJson, object } from "../Json.ts"

const inputs: ReadonlyMap<unknown, Capability> = new Map([
  ["text", "text_input"],
  ["image", "image_input"],
  ["audio", "audio_input"],
  ["video", "video_input"],
  ["file", "document_input"]
])
const outputs: ReadonlyMap<unknown, Capability> = new Map([
  ["text", "text_output"],
  ["image", "image_output"],
  ["audio", "audio_output"],
  ["video", "video_output"]
])
const parameters: ReadonlyMap<unknown, Capability> = new Map([
  ["tools", "tools"],
  ["parallel_tool_calls", "parallel_tools"],
  ["structured_outputs", "structured_output"],
  ["reasoning", "reasoning"]
])

/** Capabilities, where the server tells all of them; a part of them would read as "and nothing else". */
const capabilitiesOf = (model: Json): ReadonlyArray<Capability> | undefined => {
  const architecture = object(model["architecture"])
  const supported = model["supported_parameters"]
  if (architecture === undefined || !Array.isArray(supported)) return undefined
  const found = new Set<Capability>(["streaming"])
  const collect = (values: unknown, names: ReadonlyMap<unknown, Capability>) => {
    for (const value of array(values)) {
      const capability = names.get(value)
      if (capability !== undefined) found.add(capability)
    }
  }
  collect(architecture["input_modalities"], inputs)
  collect(architecture["output_modalities"], outputs)
  collect(supported, parameters)
  return Array.from(found)
}

/** OpenRouter's prices are USD a token, written as text; a negative one means "it depends". Per million, rounded off. */
const perMillion = (value: unknown): number | undefined => {
  if (typeof value !== "string" || value === "") return undefined
  const price = Number(value) * 1e6
  return Number.isFinite(price) && price >= 0 ? Number(price.toPrecision(12)) : undefined
}

const pricesOf = (model: Json): Prices | undefined => {
  const pricing = object(model["pricing"])
  const inputMtok = perMillion(pricing?.["prompt"])
  const outputMtok = perMillion(pricing?.["completion"])
  if (inputMtok === undefined || outputMtok === undefined) return undefined
  const prices: Draft<Prices> = { inputMtok, outputMtok }
  const read = perMillion(pricing?.["input_cache_read"])
  if (read !== undefined) prices.cacheReadMtok = read
  const write = perMillion(pricing?.["input_cache_write"])
  if (write !== undefined) prices.cacheWriteMtok = write
  const request = perMillion(pricing?.["request"])
  if (request !== undefined && request > 0) prices.requestsKcount = request / 1000
  return prices
}

const positive = (value: unknown): number | undefined => {
  const number = count(value)
  return number !== undefined && number > 0 ? number : undefined
}

const decodeModel = (model: Json, id: string): DiscoveredModel => {
  const found: Draft<DiscoveredModel> = { model: id }
  const top = object(model["top_provider"])
  const displayName = filled(model["display_name"]) ?? filled(model["name"])
  if (displayName !== undefined) found.displayName = displayName
  const contextWindow = positive(model["context_length"]) ?? positive(model["max_model_len"]) ??
    positive(model["context_window"]) ?? positive(model["max_context_length"]) ?? positive(top?.["context_length"])
  if (contextWindow !== undefined) found.contextWindow = contextWindow
  const maxOutputTokens = positive(top?.["max_completion_tokens"]) ?? positive(model["max_completion_tokens"]) ??
    positive(model["max_output_tokens"])
  if (maxOutputTokens !== undefined) found.maxOutputTokens = maxOutputTokens
  const capabilities = capabilitiesOf(model)
  if (capabilities !== undefined) found.capabilities = capabilities
  const prices = pricesOf(model)
  if (prices !== undefined) found.prices = prices
  const created = positive(model["created"])
  if (created !== undefined) found.created = created
  return found
}

/** Reads the answer of `GET /v1/models`, a bare array (Together) included. Entries without an id are passed over. */
export const decodeModels = (json: unknown): Result.Result<ReadonlyArray<DiscoveredModel>, Failure> => {
  const error = isJson(json) ? errorWithin(json) : undefined
  if (error !== undefined) return Result.fail(inbandFailure(error))
  const list = Array.isArray(json) ? json : object(json)?.["data"]
  if (!Array.isArray(list)) return Result.fail(protocolFailure("the provider's model list holds no data array"))
  const models: Array<DiscoveredModel> = []
  for (const entry of array(list)) {
    const id = isJson(entry) ? filled(entry["id"]) : undefined
    if (isJson(entry) && id !== undefined) models.push(decodeModel(entry, id))
  }
  return Result.succeed(models)
}

/** One model as OpenAI writes it, under its canonical id. `created` is 0 where nobody knows it: SDKs require a number. */
export const encodeModel = (model: ModelInfo): Json => ({
  id: model.id,
  object: "model",
  created: model.created ?? 0,
  owned_by: model.provider
})

/** The answer of `GET /v1/models`. */
export const encodeModels = (models: ReadonlyArray<ModelInfo>): Json => ({
  object: "list",
  data: models.map(encodeModel)
})
