/**
 * OpenAI, and every server that speaks its protocol: Azure, vLLM, LM Studio, Groq, Mistral, OpenRouter, and so on. Such a
 * server is this plugin with another slug and base URL.
 */
import { Effect } from "effect"
import { Outbound, type UpstreamOptions } from "../../../sdk/Outbound.ts"
import * as Provider from "../../../sdk/Provider.ts"
import { sse } from "../../../wire/Framing.ts"
import { decodeModels, openAiChat } from "../../../wire/openai/OpenAiChat.ts"
import { openAiEmbeddings } from "../../../wire/openai/OpenAiEmbeddings.ts"
import { openAiImages } from "../../../wire/openai/OpenAiImages.ts"
import { openAiRealtime } from "../../../wire/openai/realtime/OpenAiRealtime.ts"
import { access, errorOf, type HttpProviderOptions, registration, requestJson } from "../HttpProvider.ts"
import * as HttpChat from "../HttpChat.ts"
import * as HttpEmbed from "../HttpEmbed.ts"
import * as HttpImage from "../HttpImage.ts"
import * as HttpRealtime from "../HttpRealtime.ts"

/** Options of the OpenAI plugin; `baseUrl` includes the version, as in the OpenAI SDKs. */
export interface Options extends HttpProviderOptions {
  /** Default `https://api.openai.com/v1`. */
  readonly baseUrl?: string
}

/** Registers an OpenAI-type provider for as long as the Layer lives. */
export const layer = (options: Options = {}) =>
  Provider.layer(Effect.gen(function*() {
    const outbound = yield* Outbound
    const slug = options.slug ?? "openai"
    const upstreamOptions: UpstreamOptions = {
      provider: slug,
      baseUrl: options.baseUrl ?? "https://api.openai.com/v1",
      ...access(options),
      ...(options.headers === undefined ? {} : { headers: options.headers })
    }
    const upstream = yield* outbound.upstream(upstreamOptions)
    const endpoint: HttpChat.HttpChatEndpoint = {
      provider: slug,
      errorOf: errorOf(slug, options),
      upstream,
      codec: openAiChat,
      framing: sse,
      path: "/chat/completions",
      streamType: "text/event-stream"
    }
    return {
      slug,
      kind: "openai",
      wire: "openai",
      baseUrl: upstreamOptions.baseUrl,
      ...registration(options),
      discover: requestJson(endpoint, { method: "GET", path: "/models" }, decodeModels),
      chat: HttpChat.chat(endpoint),
      streamChat: HttpChat.streamChat(endpoint),
      embed: HttpEmbed.embed(endpoint, openAiEmbeddings, "/embeddings"),
      generateImage: HttpImage.generateImage(endpoint, openAiImages, "/images/generations"),
      streamImage: HttpImage.streamImage(endpoint, openAiImages, "/images/generations"),
      realtime: HttpRealtime.realtime(endpoint, openAiRealtime, "/realtime")
    }
  }))
