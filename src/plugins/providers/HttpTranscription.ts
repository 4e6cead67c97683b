/**
 * Transcripts over HTTP: a form whose file goes out as it is read, never held. Errors are read by the chat codec of the same wire.
 * What a server makes of `stream` and `response_format` is told by its answer's content type: many know neither.
 */
import { Effect, Result, type Scope, Stream } from "effect"
import type { UpstreamRequest } from "../../sdk/Outbound.ts"
import { type Provider, ProviderError, type TranscriptionCall } from "../../sdk/Provider.ts"
import type { TranscriptionChunk, TranscriptionResponse } from "../../sdk/Transcription.ts"
import type { TranscriptionUpstreamCodec } from "../../wire/Codec.ts"
import * as Multipart from "../../wire/Multipart.ts"
import { answerError, decodeChunks, type HttpChatEndpoint, parseJson, refused } from "./HttpChat.ts"

const maxErrorBody = 64 * 1024
/** The largest transcript, bytes: a day of words with their times and probabilities stays below. */
const maxBytes = 64 * 1024 * 1024

/** Where the server has its two tasks. */
export interface TranscriptionPaths {
  readonly transcribe: string
  readonly translate: string
}

const encode = (
  { provider }: HttpChatEndpoint,
  codec: TranscriptionUpstreamCodec,
  paths: TranscriptionPaths,
  call: TranscriptionCall,
  stream: boolean
): Result.Result<UpstreamRequest, ProviderError> =>
  Result.map(
    Result.mapError(codec.encodeRequest(call, stream), (error) => refused(provider, error)),
    (fields): UpstreamRequest => {
      const { bytes, content, contentType, filename } = call.request.audio
      const form = Multipart.encode([
        ...fields.map(([name, value]) => ({ name, value })),
        {
          name: "file",
          filename,
          contentType,
          bytes,
          content: Stream.mapError(content, ({ message }) => new ProviderError({ provider, kind: "caller", message }))
        }
      ])
      return {
        method: "POST",
        path: paths[call.request.task ?? "transcribe"],
        headers: { "content-type": form.contentType, accept: "*/*" },
        body: form.body,
        endpoint: "audio",
        connectTimeout: call.connectTimeout,
        maxBytes,
        ...(call.force === true ? { force: true } : {})
      }
    }
  )

const decode = (
  { errorOf }: HttpChatEndpoint,
  codec: TranscriptionUpstreamCodec,
  call: TranscriptionCall,
  type: string,
  body: string
): Effect.Effect<TranscriptionResponse, ProviderError> => {
  if (!type.startsWith("application/json")) return Effect.succeed({ model: call.model.model, text: body })
  const json = parseJson(body)
  if (Result.isFailure(json)) {
    return Effect.fail(errorOf({ kind: "protocol", message: "the provider answered with malformed JSON" }))
  }
  return Effect.fromResult(Result.mapError(codec.decodeResponse(json.success, call), errorOf))
}

/** The provider's `transcribe`, by what is known of its chat endpoint. */
export const transcribe = (
  endpoint: HttpChatEndpoint,
  codec: TranscriptionUpstreamCodec,
  paths: TranscriptionPaths
): NonNullable<Provider["transcribe"]> =>
  Effect.fnUntraced(function*(call): Effect.fn.Return<TranscriptionResponse, ProviderError> {
    const request = yield* Effect.fromResult(encode(endpoint, codec, paths, call, false))
    const answer = yield* endpoint.upstream.request(request)
    if (answer.status < 200 || answer.status >= 300) return yield* answerError(endpoint, answer, answer.body)
    return yield* decode(endpoint, codec, call, answer.headers["content-type"] ?? "", answer.body)
  })

const chunksOf = ({ text, usage }: TranscriptionResponse): ReadonlyArray<TranscriptionChunk> => [
  { type: "delta", text },
  { type: "done", text, ...(usage === undefined ? {} : { usage }) }
]

/** The provider's `streamTranscribe`. */
export const streamTranscribe = (
  endpoint: HttpChatEndpoint,
  codec: TranscriptionUpstreamCodec,
  paths: TranscriptionPaths
): NonNullable<Provider["streamTranscribe"]> => {
  const open = Effect.fnUntraced(function*(
    call: TranscriptionCall
  ): Effect.fn.Return<Stream.Stream<TranscriptionChunk, ProviderError>, ProviderError, Scope.Scope> {
    const request = yield* Effect.fromResult(encode(endpoint, codec, paths, call, true))
    const answer = yield* endpoint.upstream.stream(request)
    if (answer.status < 200 || answer.status >= 300) {
      return yield* answerError(endpoint, answer, yield* answer.text(maxErrorBody))
    }
    const type = answer.headers["content-type"] ?? ""
    if (!type.startsWith("text/event-stream")) {
      return Stream.fromIterable(chunksOf(yield* decode(endpoint, codec, call, type, yield* answer.text(maxBytes))))
    }
    return decodeChunks(answer.body, endpoint.framing(), codec.streamDecoder(), endpoint.errorOf, answer.complete)
  })
  return (call) => Stream.unwrap(open(call))
}
