/** Text to speech: a text in, sound out, in a stream or as a file of the gateway's. */
import { Schema } from "effect"
import { Fallback } from "./Chat.ts"
import { Extensions } from "./Content.ts"
import { Usage } from "./Usage.ts"

const word = Schema.NonEmptyString.check(Schema.isMaxLength(64))

/** A voice by its name, or one of the provider's account by its id. */
export const Voice = Schema.Union([word, Schema.Struct({ id: Schema.NonEmptyString })])
export type Voice = typeof Voice.Type

/** A request for speech. Voices and formats are the provider's own words, since each model has others. */
export const SpeechRequest = Schema.Struct({
  /** A model or a route. */
  model: Schema.NonEmptyString,
  /** What is to be said. */
  input: Schema.NonEmptyString,
  voice: Voice,
  /** How it is to be said, for models that take that. */
  instructions: Schema.optionalKey(Schema.String),
  /** Such as `mp3` (usually the default), `opus`, `aac`, `flac`, `wav`, `pcm`. */
  responseFormat: Schema.optionalKey(word),
  /** Default 1. */
  speed: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0.25, maximum: 4 }))),
  /** Over HTTP: whether the answer is the sound itself as it comes, instead of where it is kept. Default false. */
  stream: Schema.optionalKey(Schema.Boolean),
  /** Of a streamed answer: the bytes of the sound (`audio`, the default), or events that hold them. */
  streamFormat: Schema.optionalKey(Schema.Literals(["audio", "sse"])),
  user: Schema.optionalKey(Schema.String),
  /** Other models to try. */
  fallback: Schema.optionalKey(Fallback),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ responseFormat: "response_format", streamFormat: "stream_format" }))
export interface SpeechRequest extends Schema.Schema.Type<typeof SpeechRequest> {}

/** A piece of a streamed answer. The last one is `done`. */
export const SpeechChunk = Schema.Struct({
  type: Schema.Literals(["audio", "done"]),
  /** Of `audio`: some bytes of the sound, which is all of them joined. Base64 in JSON. */
  audio: Schema.optionalKey(Schema.Uint8ArrayFromBase64),
  /** Of the first piece: what the sound is, such as `audio/mpeg`. */
  contentType: Schema.optionalKey(Schema.String),
  /** Of the last piece. */
  usage: Schema.optionalKey(Usage),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ contentType: "content_type" }))
export interface SpeechChunk extends Schema.Schema.Type<typeof SpeechChunk> {}

/** Speech that the gateway keeps as a file of the caller's tenant. */
export const SpeechResponse = Schema.Struct({
  /** The address of the file below the gateway's own. */
  url: Schema.String,
  fileId: Schema.String,
  contentType: Schema.String,
  bytes: Schema.Int,
  usage: Schema.optionalKey(Usage),
  /** The canonical id (`slug::model`) of the model that served. */
  modelUsed: Schema.optionalKey(Schema.String),
  /** Whether a candidate other than the first one served. */
  fallbackUsed: Schema.optionalKey(Schema.Boolean)
}).pipe(Schema.encodeKeys({
  fileId: "file_id",
  contentType: "content_type",
  modelUsed: "model_used",
  fallbackUsed: "fallback_used"
}))
export interface SpeechResponse extends Schema.Schema.Type<typeof SpeechResponse> {}

const contentTypes: ReadonlyMap<string, string> = new Map([
  ["mp3", "audio/mpeg"],
  ["opus", "audio/opus"],
  ["aac", "audio/aac"],
  ["flac", "audio/flac"],
  ["wav", "audio/wav"],
  ["pcm", "audio/pcm"]
])

/** What sound of a format is, where its provider does not say; `mp3` is what comes where none was asked for. */
export const speechType = (format = "mp3"): string => contentTypes.get(format) ?? "application/octet-stream"
