/** Image generation: a text in, pictures out. */
import { Schema } from "effect"
import { Fallback } from "./Chat.ts"
import { Extensions } from "./Content.ts"
import { Usage } from "./Usage.ts"

/** Pictures that one request may ask for. */
export const maxImages = 10

const word = Schema.NonEmptyString.check(Schema.isMaxLength(64))

/**
 * A request for pictures. Sizes, qualities and the like are the provider's own words (`1024x1024`, `high`), since each model
 * has others.
 */
export const ImageRequest = Schema.Struct({
  /** A model or a route. */
  model: Schema.NonEmptyString,
  prompt: Schema.NonEmptyString,
  /** Default 1. */
  n: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: maxImages }))),
  /** Width and height, such as `1024x1536`, or `auto`. */
  size: Schema.optionalKey(word),
  /** Such as `low`, `high`, `hd`. */
  quality: Schema.optionalKey(word),
  /** Such as `transparent`. */
  background: Schema.optionalKey(word),
  /** Such as `png`, `jpeg`, `webp`. */
  outputFormat: Schema.optionalKey(word),
  /** Percent, for formats that are compressed with loss. */
  outputCompression: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100 }))),
  /** Such as `vivid`. */
  style: Schema.optionalKey(word),
  /** Such as `low`. */
  moderation: Schema.optionalKey(word),
  /** Whether the provider shall answer with the pictures themselves or with addresses of its own, where it leaves a choice. */
  responseFormat: Schema.optionalKey(Schema.Literals(["b64_json", "url"])),
  /** Default false; in a stream come pictures that are not finished yet, if asked for, and then the finished ones. */
  stream: Schema.optionalKey(Schema.Boolean),
  /** How many unfinished pictures to send before each finished one. */
  partialImages: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 }))),
  user: Schema.optionalKey(Schema.String),
  /** Other models to try. */
  fallback: Schema.optionalKey(Fallback),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({
  outputFormat: "output_format",
  outputCompression: "output_compression",
  responseFormat: "response_format",
  partialImages: "partial_images"
}))
export interface ImageRequest extends Schema.Schema.Type<typeof ImageRequest> {}

/** One picture: itself, or where it is. */
export const GeneratedImage = Schema.Struct({
  /** Standard base64. */
  data: Schema.optionalKey(Schema.String),
  /** An address of the provider's, which usually works for an hour. */
  url: Schema.optionalKey(Schema.String),
  /** The prompt as the model changed it. */
  revisedPrompt: Schema.optionalKey(Schema.String),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ revisedPrompt: "revised_prompt" }))
export interface GeneratedImage extends Schema.Schema.Type<typeof GeneratedImage> {}

const described = {
  size: Schema.optionalKey(Schema.String),
  quality: Schema.optionalKey(Schema.String),
  background: Schema.optionalKey(Schema.String),
  outputFormat: Schema.optionalKey(Schema.String)
}

/** Pictures, and what they are. */
export const ImageResponse = Schema.Struct({
  /** The model as the provider names the one that served. */
  model: Schema.String,
  /** Unix seconds. */
  created: Schema.optionalKey(Schema.Finite),
  images: Schema.Array(GeneratedImage),
  ...described,
  usage: Schema.optionalKey(Usage),
  /** Parameters of the request that the provider had no form for and did not get, in the native spelling. */
  droppedParams: Schema.optionalKey(Schema.Array(Schema.String)),
  /** The canonical id (`slug::model`) of the model that served; set by the pipeline. */
  modelUsed: Schema.optionalKey(Schema.String),
  /** Whether a candidate other than the first one served; set by the pipeline. */
  fallbackUsed: Schema.optionalKey(Schema.Boolean),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({
  outputFormat: "output_format",
  droppedParams: "dropped_params",
  modelUsed: "model_used",
  fallbackUsed: "fallback_used"
}))
export interface ImageResponse extends Schema.Schema.Type<typeof ImageResponse> {}

/** One event of a streamed answer. The stream ends after as many finished pictures as were asked for. */
export const ImageChunk = Schema.Struct({
  type: Schema.Literals(["partial_image", "completed"]),
  /** Standard base64. */
  data: Schema.String,
  /** Which of the unfinished pictures it is, from 0. */
  partialIndex: Schema.optionalKey(Schema.Finite),
  /** Unix seconds. */
  created: Schema.optionalKey(Schema.Finite),
  ...described,
  /** On a finished picture. */
  usage: Schema.optionalKey(Usage),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ partialIndex: "partial_index", outputFormat: "output_format" }))
export interface ImageChunk extends Schema.Schema.Type<typeof ImageChunk> {}
