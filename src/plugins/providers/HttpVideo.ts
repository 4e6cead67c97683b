/**
 * Videos over HTTP: submitted, asked after, fetched and cancelled through Outbound, with the key that they were submitted with.
 * Errors are read by the chat codec of the same wire.
 */
import { Effect, Stream } from "effect"
import type { UpstreamRequest } from "../../sdk/Outbound.ts"
import type { Provider, ProviderError, SubmittedVideo, VideoReference } from "../../sdk/Provider.ts"
import * as OpenAiVideos from "../../wire/openai/OpenAiVideos.ts"
import { answerError, type HttpChatEndpoint, refused } from "./HttpChat.ts"
import { decodeJson, requestJson } from "./HttpProvider.ts"

const maxErrorBody = 64 * 1024

type Videos = Required<
  Pick<Provider, "submitVideo" | "pollVideo" | "fetchVideo" | "cancelVideo" | "videoVariants">
>

const at = (path: string, { id }: VideoReference): string => `${path}/${encodeURIComponent(id)}`

const about = (
  { connectTimeout, key }: VideoReference
): Pick<UpstreamRequest, "endpoint" | "connectTimeout" | "key"> => ({
  endpoint: "video",
  connectTimeout,
  ...(key === undefined ? {} : { key })
})

/** The provider's calls for videos, by what is known of its chat endpoint. */
export const videos = (endpoint: HttpChatEndpoint, path: string): Videos => ({
  videoVariants: ["video", "thumbnail", "spritesheet"],

  submitVideo: Effect.fnUntraced(function*(call): Effect.fn.Return<SubmittedVideo, ProviderError> {
    const encoded = OpenAiVideos.encodeRequest(call)
    if (encoded._tag === "Failure") return yield* refused(endpoint.provider, encoded.failure)
    const { body, dropped } = encoded.success
    const answer = yield* endpoint.upstream.request({
      method: "POST",
      path,
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify(body),
      endpoint: "video",
      connectTimeout: call.connectTimeout,
      ...(call.force === true ? { force: true } : {})
    })
    const submitted = yield* decodeJson(endpoint, answer, OpenAiVideos.decodeSubmitted)
    return { ...submitted, dropped, ...(answer.key === undefined ? {} : { key: answer.key }) }
  }),

  pollVideo: (reference) =>
    requestJson(
      endpoint,
      { method: "GET", path: at(path, reference), ...about(reference) },
      OpenAiVideos.decodeProgress
    ),

  fetchVideo: (reference, variant) =>
    Stream.unwrap(Effect.gen(function*() {
      const answer = yield* endpoint.upstream.stream({
        method: "GET",
        path: `${at(path, reference)}/content?variant=${variant}`,
        ...about(reference)
      })
      if (answer.status >= 200 && answer.status < 300) return answer.body
      return yield* answerError(endpoint, answer, yield* answer.text(maxErrorBody))
    })),

  cancelVideo: Effect.fnUntraced(function*(reference): Effect.fn.Return<void, ProviderError> {
    const answer = yield* endpoint.upstream.request({
      method: "DELETE",
      path: at(path, reference),
      ...about(reference)
    })
    if (answer.status >= 300 && answer.status !== 404) return yield* answerError(endpoint, answer, answer.body)
  })
})
