/**
 * What a wire codec is. A codec is pure: it turns JSON values into the sdk's values and back, and holds no connection,
 * clock or configuration. Each wire has one folder with the same parts in it:
 *
 * - `decodeRequest` / `encodeResponse` / `streamEncoder` / `encodeError` for the dialect that speaks the wire to callers,
 * - `encodeRequest` / `decodeResponse` / `streamDecoder` / `decodeError` for the provider that speaks it upstream.
 *
 * The laws, tested as properties: encoding then decoding gives the same value for all that the wire can say; what it
 * cannot say is refused with the field's name, or named in `dropped`.
 */
import type { Result } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import type { GatewayError, ValidationError } from "../sdk/GatewayError.ts"
import type { EmbeddingRequest, EmbeddingResponse } from "../sdk/Embedding.ts"
import type { ImageChunk, ImageRequest, ImageResponse } from "../sdk/Image.ts"
import type { ChatCall, EmbedCall, Failure, ImageCall, SpeechCall, TranscriptionCall } from "../sdk/Provider.ts"
import type { SpeechChunk, SpeechRequest } from "../sdk/Speech.ts"
import type { Transcription, TranscriptionChunk, TranscriptionResponse } from "../sdk/Transcription.ts"

/** A JSON object as it stands in a wire. */
export type Json = Readonly<Record<string, unknown>>

/** A request in the wire's form, and the native names of the parameters that the wire has no form for. */
export interface EncodedRequest {
  readonly body: Json
  readonly dropped: ReadonlyArray<string>
  /** Where the request goes, below the base URL, where that is not the wire's usual place for it. */
  readonly path?: string
  /** Headers that the request needs on this wire. */
  readonly headers?: Readonly<Record<string, string>>
}

/** Reads a stream's events one by one. Holds the state of one answer. */
export interface StreamDecoder<Chunk> {
  /** Reads one event: its data, and its name where the framing has names. A failure is final. */
  readonly push: (data: string, event: string) => Result.Result<ReadonlyArray<Chunk>, Failure>
  /** Whether the wire's terminal marker has been read; nothing after it counts. */
  readonly isDone: () => boolean
  /** Tells that the upstream closed the stream. Without the terminal marker before it, that is a failure. */
  readonly end: () => Result.Result<ReadonlyArray<Chunk>, Failure>
}

/** Reads a chat's stream. */
export type ChatStreamDecoder = StreamDecoder<ChatChunk>

/** Writes a stream in the wire's framing. Holds the state of one answer. */
export interface ChatStreamEncoder {
  /** The text to send for a chunk; empty where the wire has nothing to say yet. */
  readonly push: (chunk: ChatChunk) => string
  /** What ends a stream that is complete. */
  readonly end: () => string
  /** What ends a stream that failed after it had begun: the wire's own error, and no success marker. */
  readonly error: (error: GatewayError) => string
}

/** An error body in the wire's form. */
export interface EncodedError {
  readonly status: number
  readonly body: Json
}

/** The provider's side of a chat codec. */
export interface ChatUpstreamCodec {
  readonly encodeRequest: (call: ChatCall, stream: boolean) => Result.Result<EncodedRequest, ValidationError>
  /** `text` is the body as it came, `json` the same parsed. */
  readonly decodeResponse: (text: string, json: unknown, call: ChatCall) => Result.Result<ChatResponse, Failure>
  readonly streamDecoder: (call: ChatCall) => ChatStreamDecoder
  /** Reads an error answer. `body` may be anything: JSON, an HTML page, nothing. */
  readonly decodeError: (status: number, headers: Readonly<Record<string, string>>, body: string) => Failure
}

/** The dialect's side of a chat codec. */
export interface ChatDialectCodec {
  readonly decodeRequest: (json: unknown) => Result.Result<ChatRequest, ValidationError>
  readonly encodeResponse: (response: ChatResponse, request: ChatRequest) => Json
  readonly streamEncoder: (request: ChatRequest) => ChatStreamEncoder
  readonly encodeError: (error: GatewayError, requestId: string) => EncodedError
}

/** The provider's side of a codec for embeddings; errors are read by the chat codec of the same wire. */
export interface EmbedUpstreamCodec {
  readonly encodeRequest: (call: EmbedCall) => Result.Result<EncodedRequest, ValidationError>
  /** Gives one vector for each input of the call, or fails. */
  readonly decodeResponse: (json: unknown, call: EmbedCall) => Result.Result<EmbeddingResponse, Failure>
}

/** The dialect's side of a codec for embeddings. */
export interface EmbedDialectCodec {
  readonly decodeRequest: (json: unknown) => Result.Result<EmbeddingRequest, ValidationError>
  /**
   * The answer as JSON text in pieces, which joined are one object. Each holds some vectors: an answer of thousands is too
   * much to write at once.
   */
  readonly encodeResponse: (response: EmbeddingResponse) => Iterable<string>
}

/** The provider's side of a codec for images; errors are read by the chat codec of the same wire. */
export interface ImageUpstreamCodec {
  readonly encodeRequest: (call: ImageCall) => Result.Result<EncodedRequest, ValidationError>
  readonly decodeResponse: (json: unknown, call: ImageCall) => Result.Result<ImageResponse, Failure>
  readonly streamDecoder: (call: ImageCall) => StreamDecoder<ImageChunk>
}

/** The dialect's side of a codec for images. */
export interface ImageDialectCodec {
  readonly decodeRequest: (json: unknown) => Result.Result<ImageRequest, ValidationError>
  /** The answer as JSON text in pieces, which joined are one object. Each holds a picture: several are too much to write at once. */
  readonly encodeResponse: (response: ImageResponse) => Iterable<string>
  /** An event of a stream, in the wire's framing. */
  readonly encodeEvent: (chunk: ImageChunk) => string
}

/** The provider's side of a codec for speech that comes in events; errors are read by the chat codec of the same wire. */
export interface SpeechUpstreamCodec {
  readonly encodeRequest: (call: SpeechCall) => Result.Result<EncodedRequest, ValidationError>
  readonly streamDecoder: (call: SpeechCall) => StreamDecoder<SpeechChunk>
}

/** The dialect's side of a codec for speech. */
export interface SpeechDialectCodec {
  readonly decodeRequest: (json: unknown) => Result.Result<SpeechRequest, ValidationError>
  /** An event of a stream, in the wire's framing. */
  readonly encodeEvent: (chunk: SpeechChunk) => string
}

/** A field of a form; a name may come several times. */
export type FormField = readonly [name: string, value: string]

/** The provider's side of a codec for transcripts; errors are read by the chat codec of the same wire. */
export interface TranscriptionUpstreamCodec {
  /** The fields of the form, to which the file is added as `file`. */
  readonly encodeRequest: (
    call: TranscriptionCall,
    stream: boolean
  ) => Result.Result<ReadonlyArray<FormField>, ValidationError>
  readonly decodeResponse: (json: unknown, call: TranscriptionCall) => Result.Result<TranscriptionResponse, Failure>
  readonly streamDecoder: () => StreamDecoder<TranscriptionChunk>
}

/** The dialect's side of a codec for transcripts. */
export interface TranscriptionDialectCodec {
  readonly decodeFields: (
    fields: ReadonlyArray<FormField>,
    task: NonNullable<Transcription["task"]>
  ) => Result.Result<Omit<Transcription, "audio">, ValidationError>
  readonly encodeResponse: (
    response: TranscriptionResponse,
    format: Transcription["responseFormat"]
  ) => { readonly contentType: string; readonly body: string }
  /** An event of a stream, in the wire's framing. */
  readonly encodeEvent: (chunk: TranscriptionChunk) => string
}
