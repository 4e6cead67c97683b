/** Speech to text: sound in, a transcript out, whole or in a stream. */
import { Schema, type Stream } from "effect"
import { Fallback } from "./Chat.ts"
import { Extensions } from "./Content.ts"
import type { GatewayError } from "./GatewayError.ts"
import { Usage } from "./Usage.ts"

const word = Schema.NonEmptyString.check(Schema.isMaxLength(64))

/** Forms that a transcript can have. */
export const TranscriptFormat = Schema.Literals(["json", "text", "srt", "verbose_json", "vtt", "diarized_json"])
export type TranscriptFormat = typeof TranscriptFormat.Type

const Fields = Schema.Struct({
  /** A model or a route. */
  model: Schema.NonEmptyString,
  /** `translate` gives English, whatever was spoken. Default `transcribe`. */
  task: Schema.optionalKey(Schema.Literals(["transcribe", "translate"])),
  /** What is spoken, such as `en`. */
  language: Schema.optionalKey(word),
  /** Words that help the model with names and style. */
  prompt: Schema.optionalKey(Schema.String),
  /** Default `json`. */
  responseFormat: Schema.optionalKey(TranscriptFormat),
  temperature: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 2 }))),
  timestampGranularities: Schema.optionalKey(Schema.Array(Schema.Literals(["word", "segment"]))),
  /** Default false. */
  stream: Schema.optionalKey(Schema.Boolean),
  user: Schema.optionalKey(Schema.String),
  /** Other models to try. */
  fallback: Schema.optionalKey(Fallback),
  extensions: Schema.optionalKey(Extensions)
})

const encodedKeys = { responseFormat: "response_format", timestampGranularities: "timestamp_granularities" } as const

/** A request for a transcript, in JSON. */
export const TranscriptionRequest = Schema.Struct({
  ...Fields.fields,
  /** A file of the gateway's (its id or address), a `data:` URL, or base64. */
  audio: Schema.NonEmptyString,
  /** The name that the provider sees; its ending tells many servers what the sound is. */
  filename: Schema.optionalKey(Schema.NonEmptyString.check(Schema.isMaxLength(255)))
}).pipe(Schema.encodeKeys(encodedKeys))
export interface TranscriptionRequest extends Schema.Schema.Type<typeof TranscriptionRequest> {}

/** Sound that is there, to be sent as often as it takes. */
export interface Recording {
  readonly filename: string
  readonly contentType: string
  readonly bytes: number
  /** Its length where its head tells it, ms. */
  readonly durationMs?: number
  /** Each run reads anew. */
  readonly content: Stream.Stream<Uint8Array, GatewayError>
}

/** A request for a transcript, with its sound. */
export interface Transcription extends Schema.Schema.Type<typeof Fields> {
  readonly audio: Recording
}

const Passage = Schema.Record(Schema.String, Schema.Unknown)

/** A transcript. */
export const TranscriptionResponse = Schema.Struct({
  /** The model as the provider names the one that served. */
  model: Schema.String,
  /** What was said; subtitles where `srt` or `vtt` was asked for. */
  text: Schema.String,
  /** What is spoken, in the provider's words. */
  language: Schema.optionalKey(Schema.String),
  /** Seconds of sound. */
  duration: Schema.optionalKey(Schema.Finite),
  /** Pieces with `text`, `start` and `end` (seconds), and what the provider says beside it, such as the `speaker`. */
  segments: Schema.optionalKey(Schema.Array(Passage)),
  /** Words with `word`, `start` and `end`. */
  words: Schema.optionalKey(Schema.Array(Passage)),
  usage: Schema.optionalKey(Usage),
  /** Parameters of the request that the provider had no form for and did not get, in the native spelling. */
  droppedParams: Schema.optionalKey(Schema.Array(Schema.String)),
  /** The canonical id (`slug::model`) of the model that served; set by the pipeline. */
  modelUsed: Schema.optionalKey(Schema.String),
  /** Whether a candidate other than the first one served; set by the pipeline. */
  fallbackUsed: Schema.optionalKey(Schema.Boolean),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({
  droppedParams: "dropped_params",
  modelUsed: "model_used",
  fallbackUsed: "fallback_used"
}))
export interface TranscriptionResponse extends Schema.Schema.Type<typeof TranscriptionResponse> {}

/** One event of a streamed transcript. The last one is `done`, with the whole text. */
export const TranscriptionChunk = Schema.Struct({
  type: Schema.Literals(["delta", "segment", "done"]),
  text: Schema.String,
  /** Of the last one. */
  usage: Schema.optionalKey(Usage),
  extensions: Schema.optionalKey(Extensions)
})
export interface TranscriptionChunk extends Schema.Schema.Type<typeof TranscriptionChunk> {}

/** Bytes of a recording's beginning that tell how long it is, where any do. */
export const headBytes = 44

/**
 * How long a WAV file is by its head, ms; undefined for what is none. No longer than its bytes allow: what a head says may be
 * wrong, and a file that was streamed says that it is endless.
 */
export const wavDuration = (head: Uint8Array, bytes: number): number | undefined => {
  if (head.length < headBytes) return undefined
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
  // "RIFF", and "WAVE"
  if (view.getUint32(0) !== 0x52494646 || view.getUint32(8) !== 0x57415645) return undefined
  const bytesPerSecond = view.getUint32(28, true)
  return bytesPerSecond === 0 ? undefined : Math.round((bytes - headBytes) * 1000 / bytesPerSecond)
}
