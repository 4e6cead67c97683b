/** Images over HTTP: encode, send through Outbound, decode. Errors are read by the chat codec of the same wire. */
import { Effect, Result, type Scope, Stream } from "effect"
import type { ImageChunk, ImageResponse } from "../../sdk/Image.ts"
import type { UpstreamRequest } from "../../sdk/Outbound.ts"
import type { ImageCall, Provider, ProviderError } from "../../sdk/Provider.ts"
import type { ImageUpstreamCodec } from "../../wire/Codec.ts"
import { answerError, decodeChunks, type HttpChatEndpoint, refused } from "./HttpChat.ts"
import { requestJson } from "./HttpProvider.ts"

/** The largest answer, bytes: ten pictures of 4,096 pixels square as PNG are some 200 MB in base64 at the very most. */
const maxBytes = 256 * 1024 * 1024
const maxErrorBody = 64 * 1024

interface Encoded {
  readonly request: UpstreamRequest
  readonly dropped: ReadonlyArray<string>
}

const encode = (
  { provider }: HttpChatEndpoint,
  codec: ImageUpstreamCodec,
  path: string,
  call: ImageCall,
  accept: string
): Result.Result<Encoded, ProviderError> =>
  Result.map(
    Result.mapError(codec.encodeRequest(call), (error) => refused(provider, error)),
    ({ body, dropped }): Encoded => ({
      dropped,
      request: {
        method: "POST",
        path,
        headers: { "content-type": "application/json", accept },
        body: JSON.stringify(body),
        endpoint: "images",
        connectTimeout: call.connectTimeout,
        maxBytes,
        ...(call.force === true ? { force: true } : {})
      }
    })
  )

/** The provider's `generateImage`, by what is known of its chat endpoint. */
export const generateImage = (
  endpoint: HttpChatEndpoint,
  codec: ImageUpstreamCodec,
  path: string
): NonNullable<Provider["generateImage"]> =>
  Effect.fnUntraced(function*(call): Effect.fn.Return<ImageResponse, ProviderError> {
    const { dropped, request } = yield* Effect.fromResult(encode(endpoint, codec, path, call, "application/json"))
    const response = yield* requestJson(endpoint, request, (json) => codec.decodeResponse(json, call))
    return dropped.length === 0 ? response : { ...response, droppedParams: dropped }
  })

/** The provider's `streamImage`. */
export const streamImage = (
  endpoint: HttpChatEndpoint,
  codec: ImageUpstreamCodec,
  path: string
): NonNullable<Provider["streamImage"]> => {
  const open = Effect.fnUntraced(function*(
    call: ImageCall
  ): Effect.fn.Return<Stream.Stream<ImageChunk, ProviderError>, ProviderError, Scope.Scope> {
    const { request } = yield* Effect.fromResult(encode(endpoint, codec, path, call, endpoint.streamType))
    const answer = yield* endpoint.upstream.stream(request)
    if (answer.status < 200 || answer.status >= 300) {
      return yield* answerError(endpoint, answer, yield* answer.text(maxErrorBody))
    }
    return decodeChunks(answer.body, endpoint.framing(), codec.streamDecoder(call), endpoint.errorOf, answer.complete)
  })
  return (call) => Stream.unwrap(open(call))
}
