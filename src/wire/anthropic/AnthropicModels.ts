/** The models that `GET /v1/models` lists, with what it tells of each. */
import { Result } from "effect"
import type { Capability } from "../../sdk/Model.ts"
import type { DiscoveredModel, Failure } from "../../sdk/Provider.ts"
import type { Json } from "../Codec.ts"
import { brokenProtocol } from "./AnthropicError.ts"
import { count, filled, isJson, isList } from "../Json.ts"

/** What every model behind the Messages API can do. */
const common: ReadonlyArray<Capability> = [
  "text_input",
  "text_output",
  "tools",
  "parallel_tools",
  "prompt_caching",
  "streaming"
]

const told: ReadonlyArray<readonly [name: string, capability: Capability]> = [
  ["image_input", "image_input"],
  ["pdf_input", "document_input"],
  ["structured_outputs", "structured_output"],
  ["thinking", "reasoning"],
  ["batch", "batch"]
]

const capabilitiesOf = (capabilities: Json): ReadonlyArray<Capability> => {
  const all = [...common]
  for (const [name, capability] of told) {
    const entry = capabilities[name]
    if (isJson(entry) && entry["supported"] === true) all.push(capability)
  }
  return all
}

/** Reads one page of the list. Entries without an id are passed over; anything but a list fails with kind `protocol`. */
export const decodeModels = (json: unknown): Result.Result<ReadonlyArray<DiscoveredModel>, Failure> => {
  const data = isJson(json) ? json["data"] : undefined
  if (!isList(data)) return Result.fail(brokenProtocol("the provider's answer is not a list of models"))
  const models: Array<DiscoveredModel> = []
  for (const entry of data) {
    const model = isJson(entry) ? filled(entry["id"]) : undefined
    if (!isJson(entry) || model === undefined) continue
    const displayName = filled(entry["display_name"])
    const contextWindow = count(entry["max_input_tokens"])
    const maxOutputTokens = count(entry["max_tokens"])
    const created = typeof entry["created_at"] === "string" ? Date.parse(entry["created_at"]) / 1000 : Number.NaN
    models.push({
      model,
      ...(displayName === undefined ? {} : { displayName }),
      ...(isJson(entry["capabilities"]) ? { capabilities: capabilitiesOf(entry["capabilities"]) } : {}),
      ...(contextWindow === undefined || contextWindow === 0 ? {} : { contextWindow }),
      ...(maxOutputTokens === undefined || maxOutputTokens === 0 ? {} : { maxOutputTokens }),
      // Anthropic gives the epoch for a model whose date it does not tell.
      ...(Number.isNaN(created) || created <= 0 ? {} : { created })
    })
  }
  return Result.succeed(models)
}
