/** Speech over HTTP: encode, send through Outbound, hand the sound on as it comes. Errors are read by the chat codec of the same wire. */
import { Cause, Effect, Result, type Scope, Stream } from "effect"
import { type Provider, ProviderError, type SpeechCall } from "../../sdk/Provider.ts"
import { type SpeechChunk, speechType } from "../../sdk/Speech.ts"
import type { SpeechUpstreamCodec } from "../../wire/Codec.ts"
import { answerError, decodeChunks, type HttpChatEndpoint, refused } from "./HttpChat.ts"

const maxErrorBody = 64 * 1024

type Pieces = readonly [SpeechChunk, ...Array<SpeechChunk>]

/** Sound as it comes, and its end once the transport has seen that it is whole. */
const soundOf = (
  body: Stream.Stream<Uint8Array, ProviderError>,
  contentType: string
): Stream.Stream<SpeechChunk, ProviderError> =>
  Stream.transformPull(body, (pull) => {
    let isFirst = true
    let isOver = false
    const pieceOf = (audio: Uint8Array): SpeechChunk => {
      if (!isFirst) return { type: "audio", audio }
      isFirst = false
      return { type: "audio", audio, contentType }
    }
    const next: Effect.Effect<Pieces, ProviderError | Cause.Done> = Effect.matchEffect(pull, {
      onSuccess: ([first, ...rest]): Effect.Effect<Pieces> => Effect.succeed([pieceOf(first), ...rest.map(pieceOf)]),
      onFailure: (error) => {
        if (!Cause.isDone(error)) return Effect.fail(error)
        isOver = true
        return Effect.succeed<Pieces>([{ type: "done" }])
      }
    })
    return Effect.succeed(Effect.suspend(() => isOver ? Cause.done() : next))
  })

/** The provider's `speak`, by what is known of its chat endpoint. */
export const speak = (
  endpoint: HttpChatEndpoint,
  codec: SpeechUpstreamCodec,
  path: string
): NonNullable<Provider["speak"]> => {
  const { provider } = endpoint
  const open = Effect.fnUntraced(function*(
    call: SpeechCall
  ): Effect.fn.Return<Stream.Stream<SpeechChunk, ProviderError>, ProviderError, Scope.Scope> {
    const { body } = yield* Effect.fromResult(
      Result.mapError(codec.encodeRequest(call), (error) => refused(provider, error))
    )
    const answer = yield* endpoint.upstream.stream({
      method: "POST",
      path,
      headers: { "content-type": "application/json", accept: "*/*" },
      body: JSON.stringify(body),
      endpoint: "audio",
      connectTimeout: call.connectTimeout,
      ...(call.force === true ? { force: true } : {})
    })
    if (answer.status < 200 || answer.status >= 300) {
      return yield* answerError(endpoint, answer, yield* answer.text(maxErrorBody))
    }
    // What a server takes of `stream_format` is told by its answer alone: many know no events.
    const type = answer.headers["content-type"] ?? ""
    if (type.startsWith("text/event-stream")) {
      return decodeChunks(answer.body, endpoint.framing(), codec.streamDecoder(call), endpoint.errorOf, answer.complete)
    }
    if (type.startsWith("application/json") || type.startsWith("text/")) {
      return yield* new ProviderError({
        provider,
        kind: "protocol",
        message: "the provider answered a request for speech with a text"
      })
    }
    return soundOf(
      answer.body,
      type.startsWith("audio/") ? type : speechType(call.request.responseFormat)
    )
  })
  return (call) => Stream.unwrap(open(call))
}
