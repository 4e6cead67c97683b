/** Video generation: a text in, a film out, minutes later. It is kept in the gateway's file storage. */
import { Schema } from "effect"
import { Fallback } from "./Chat.ts"
import { Extensions } from "./Content.ts"
import { Usage } from "./Usage.ts"

/** The longest video that can be asked for, seconds. */
export const maxVideoSeconds = 600

const word = Schema.NonEmptyString.check(Schema.isMaxLength(64))

/** A request for a video. Lengths and sizes are the provider's to allow, since each model has others. */
export const VideoRequest = Schema.Struct({
  /** A model or a route. */
  model: Schema.NonEmptyString,
  prompt: Schema.NonEmptyString,
  /** How long it shall be; default: the model's own, such as 4. */
  seconds: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: maxVideoSeconds }))),
  /** Width and height, such as `1280x720`. */
  size: Schema.optionalKey(word),
  user: Schema.optionalKey(Schema.String),
  /** Other models to try, as long as none has begun to work. */
  fallback: Schema.optionalKey(Fallback),
  extensions: Schema.optionalKey(Extensions)
})
export interface VideoRequest extends Schema.Schema.Type<typeof VideoRequest> {}

/** What there is of a video: itself, one picture of it, or many small ones in one. */
export const VideoVariant = Schema.Literals(["video", "thumbnail", "spritesheet"])
export type VideoVariant = typeof VideoVariant.Type

/** A file of the gateway's storage, for the tenant that asked. */
export const VideoFile = Schema.Struct({
  variant: VideoVariant,
  fileId: Schema.String,
  /** Below the gateway's own address; takes the tenant's key. */
  url: Schema.String,
  contentType: Schema.String,
  bytes: Schema.Int
}).pipe(Schema.encodeKeys({ fileId: "file_id", contentType: "content_type" }))
export interface VideoFile extends Schema.Schema.Type<typeof VideoFile> {}

/** A video that is made. */
export const VideoResponse = Schema.Struct({
  /** The model as the provider names the one that served. */
  model: Schema.String,
  seconds: Schema.Finite,
  size: Schema.optionalKey(Schema.String),
  /** The video first, and then what else there is of it. */
  files: Schema.Array(VideoFile),
  usage: Schema.optionalKey(Usage),
  /** Parameters of the request that the provider had no form for and did not get, in the native spelling. */
  droppedParams: Schema.optionalKey(Schema.Array(Schema.String)),
  /** The canonical id (`slug::model`) of the model that served; set by the pipeline. */
  modelUsed: Schema.optionalKey(Schema.String),
  /** Whether a candidate other than the first one served; set by the pipeline. */
  fallbackUsed: Schema.optionalKey(Schema.Boolean)
}).pipe(Schema.encodeKeys({ droppedParams: "dropped_params", modelUsed: "model_used", fallbackUsed: "fallback_used" }))
export interface VideoResponse extends Schema.Schema.Type<typeof VideoResponse> {}
