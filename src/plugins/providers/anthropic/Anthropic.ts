/** Anthropic's Messages API. */
import { Effect } from "effect"
import { Outbound } from "../../../sdk/Outbound.ts"
import * as Provider from "../../../sdk/Provider.ts"
import {
  anthropicMessages,
  decodeModels,
  decodeTokenCount,
  encodeCountRequest
} from "../../../wire/anthropic/AnthropicMessages.ts"
import { sse } from "../../../wire/Framing.ts"
import * as HttpChat from "../HttpChat.ts"
import { access, errorOf, type HttpProviderOptions, registration, requestJson } from "../HttpProvider.ts"

/** Options of the Anthropic plugin; `baseUrl` is without the version, as in Anthropic's SDKs. */
export interface Options extends HttpProviderOptions {
  /** Default `https://api.anthropic.com`. */
  readonly baseUrl?: string
}

/** The version of the protocol for requests that no codec writes (https://docs.claude.com/en/api/versioning). */
const version = "2023-06-01"

/** The provider's `countTokens`. It is an endpoint of its own, which may be down or limited while chat is not. */
const countTokens = (chat: HttpChat.HttpChatEndpoint): NonNullable<Provider.Provider["countTokens"]> => {
  const endpoint: HttpChat.HttpChatEndpoint = {
    ...chat,
    codec: { ...anthropicMessages, encodeRequest: encodeCountRequest },
    path: "/v1/messages/count_tokens"
  }
  return Effect.fnUntraced(function*(call): Effect.fn.Return<number, Provider.ProviderError> {
    const { request } = yield* Effect.fromResult(HttpChat.prepare(endpoint, call, false))
    return yield* requestJson(endpoint, { ...request, endpoint: "other" }, decodeTokenCount)
  })
}

/** Registers an Anthropic provider for as long as the Layer lives. */
export const layer = (options: Options = {}) =>
  Provider.layer(Effect.gen(function*() {
    const outbound = yield* Outbound
    const slug = options.slug ?? "anthropic"
    const baseUrl = options.baseUrl ?? "https://api.anthropic.com"
    const upstream = yield* outbound.upstream({
      provider: slug,
      baseUrl,
      ...access(options, "x-api-key"),
      headers: { "anthropic-version": version, ...options.headers }
    })
    const endpoint: HttpChat.HttpChatEndpoint = {
      provider: slug,
      errorOf: errorOf(slug, options),
      upstream,
      codec: anthropicMessages,
      framing: sse,
      path: "/v1/messages",
      streamType: "text/event-stream"
    }
    return {
      slug,
      kind: "anthropic",
      wire: "anthropic",
      baseUrl,
      ...registration(options),
      discover: requestJson(endpoint, { method: "GET", path: "/v1/models?limit=1000" }, decodeModels),
      chat: HttpChat.chat(endpoint),
      streamChat: HttpChat.streamChat(endpoint),
      countTokens: countTokens(endpoint)
    }
  }))
