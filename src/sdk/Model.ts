/** Models: their ids, what they can do, their limits and their prices. */
import { Schema } from "effect"

/** What a model can take, make and do. */
export const Capability = Schema.Literals([
  "text_input",
  "image_input",
  "audio_input",
  "video_input",
  "document_input",
  "text_output",
  "image_output",
  "audio_output",
  "video_output",
  "embeddings",
  "transcription",
  "speech",
  "realtime_audio",
  "tools",
  "parallel_tools",
  "structured_output",
  "reasoning",
  "prompt_caching",
  "streaming",
  "batch"
])
export type Capability = typeof Capability.Type

/** A price that rises with the size of the prompt: a tier holds for a request with more than `start` input tokens. USD per million tokens. */
export const TieredPrice = Schema.Struct({
  base: Schema.Finite,
  tiers: Schema.Array(Schema.Struct({ start: Schema.Finite, price: Schema.Finite }))
})
export interface TieredPrice extends Schema.Schema.Type<typeof TieredPrice> {}

/** USD per million tokens. */
export const Price = Schema.Union([Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)), TieredPrice])
export type Price = typeof Price.Type

const Amount = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))

/**
 * USD a piece, or a second. Sizes and qualities may have prices of their own, under `size/quality`, the size or the quality
 * alone: `1024x1024/high`, `1792x1024`, `hd`. The first of these that is there holds, else `base`.
 */
export const VariantPrice = Schema.Union([
  Amount,
  Schema.Struct({ base: Amount, variants: Schema.Record(Schema.String, Amount) })
])
export type VariantPrice = typeof VariantPrice.Type

/**
 * Prices of a model. Tokens: USD per million of each kind; a kind without a price of its own is charged at the price of
 * plain input or output, never at zero. What is not sold by the token is charged where it has a price.
 */
export const Prices = Schema.Struct({
  inputMtok: Price,
  outputMtok: Price,
  cacheReadMtok: Schema.optionalKey(Price),
  cacheWriteMtok: Schema.optionalKey(Price),
  cacheWrite1hMtok: Schema.optionalKey(Price),
  inputAudioMtok: Schema.optionalKey(Price),
  inputImageMtok: Schema.optionalKey(Price),
  outputAudioMtok: Schema.optionalKey(Price),
  outputImageMtok: Schema.optionalKey(Price),
  /** USD an image that is made. */
  image: Schema.optionalKey(VariantPrice),
  /** USD per million characters that are spoken. */
  characterMchar: Schema.optionalKey(Amount),
  /** USD a second of sound or video, heard or seen, and made. */
  inputAudioSecond: Schema.optionalKey(Amount),
  outputAudioSecond: Schema.optionalKey(Amount),
  inputVideoSecond: Schema.optionalKey(Amount),
  outputVideoSecond: Schema.optionalKey(VariantPrice),
  /** USD per thousand requests, on top. */
  requestsKcount: Schema.optionalKey(Schema.Finite)
}).pipe(Schema.encodeKeys({
  inputMtok: "input_mtok",
  outputMtok: "output_mtok",
  cacheReadMtok: "cache_read_mtok",
  cacheWriteMtok: "cache_write_mtok",
  cacheWrite1hMtok: "cache_write_1h_mtok",
  inputAudioMtok: "input_audio_mtok",
  inputImageMtok: "input_image_mtok",
  outputAudioMtok: "output_audio_mtok",
  outputImageMtok: "output_image_mtok",
  characterMchar: "character_mchar",
  inputAudioSecond: "input_audio_second",
  outputAudioSecond: "output_audio_second",
  inputVideoSecond: "input_video_second",
  outputVideoSecond: "output_video_second",
  requestsKcount: "requests_kcount"
}))
export interface Prices extends Schema.Schema.Type<typeof Prices> {}

/** Whether a model may be called. */
export const ModelStatus = Schema.Literals(["active", "deprecated"])
export type ModelStatus = typeof ModelStatus.Type

/** A model as the gateway knows it. An absent field is not known, which is not the same as "none". */
export const ModelInfo = Schema.Struct({
  /** `slug::model`. */
  id: Schema.String,
  /** The provider's slug. */
  provider: Schema.String,
  /** The provider's own id of the model. */
  model: Schema.String,
  displayName: Schema.optionalKey(Schema.String),
  capabilities: Schema.optionalKey(Schema.Array(Capability)),
  /** Tokens, prompt and answer together. */
  contextWindow: Schema.optionalKey(Schema.Int),
  /** Tokens. */
  maxOutputTokens: Schema.optionalKey(Schema.Int),
  prices: Schema.optionalKey(Prices),
  /** Where the prices come from, and of which model they are: `configuration:…`, `discovery:…` or `catalogue:…`. */
  priceId: Schema.optionalKey(Schema.String),
  status: ModelStatus,
  /** The breaker in front of the provider, in listings: whether calls go through (`closed`) at the moment. */
  breaker: Schema.optionalKey(Schema.Literals(["closed", "open", "half_open"])),
  /** Unix seconds. */
  created: Schema.optionalKey(Schema.Finite)
}).pipe(Schema.encodeKeys({
  displayName: "display_name",
  contextWindow: "context_window",
  maxOutputTokens: "max_output_tokens",
  priceId: "price_id"
}))
export interface ModelInfo extends Schema.Schema.Type<typeof ModelInfo> {}

/** What stands between a provider's slug and its model's id. */
export const separator = "::"

/** Writes a canonical model id. */
export const modelId = (slug: string, model: string): string => `${slug}${separator}${model}`

/** Splits a canonical id at the first `::`; a bare id gives `undefined`. */
export const splitModelId = (id: string): { readonly slug: string; readonly model: string } | undefined => {
  const at = id.indexOf(separator)
  return at < 0 ? undefined : { slug: id.slice(0, at), model: id.slice(at + separator.length) }
}

/** Whether a model can do something; one whose capabilities are not known is given the benefit of the doubt. */
export const can = (model: ModelInfo, capability: Capability): boolean =>
  model.capabilities === undefined || model.capabilities.includes(capability)
