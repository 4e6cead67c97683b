/** Embeddings over HTTP: encode, send through Outbound, decode. Errors are read by the chat codec of the same wire. */
import { Effect, Result } from "effect"
import type { EmbeddingResponse } from "../../sdk/Embedding.ts"
import type { Provider, ProviderError } from "../../sdk/Provider.ts"
import type { EmbedUpstreamCodec } from "../../wire/Codec.ts"
import { type HttpChatEndpoint, refused } from "./HttpChat.ts"
import { requestJson } from "./HttpProvider.ts"

/** The largest answer, bytes: 256 vectors of 3,072 numbers are some 17 MB of JSON. */
const maxBytes = 128 * 1024 * 1024

/** The provider's `embed`, by what is known of its chat endpoint. */
export const embed = (
  endpoint: HttpChatEndpoint,
  codec: EmbedUpstreamCodec,
  path: string
): NonNullable<Provider["embed"]> =>
  Effect.fnUntraced(function*(call): Effect.fn.Return<EmbeddingResponse, ProviderError> {
    const encoded = codec.encodeRequest(call)
    if (Result.isFailure(encoded)) return yield* refused(endpoint.provider, encoded.failure)
    const { body, dropped } = encoded.success
    const response = yield* requestJson(endpoint, {
      method: "POST",
      path,
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify(body),
      endpoint: "embeddings",
      connectTimeout: call.connectTimeout,
      maxBytes,
      ...(call.force === true ? { force: true } : {})
    }, (json) => codec.decodeResponse(json, call))
    return dropped.length === 0 ? response : { ...response, droppedParams: dropped }
  })
