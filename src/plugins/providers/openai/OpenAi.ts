/**
 * OpenAI, and every server that speaks its protocol: Azure, vLLM, LM Studio, Groq, Mistral, OpenRouter, and so on. Such a
 * server is this plugin with another slug and base URL.
 */
import { Effect, type Redacted, Stream } from "effect"
import { CurrentCaller, CurrentRequest } from "../../../sdk/Caller.ts"
import { Outbound, type UpstreamOptions } from "../../../sdk/Outbound.ts"
import * as Provider from "../../../sdk/Provider.ts"
import { sse } from "../../../wire/Framing.ts"
import { decodeModels, openAiChat } from "../../../wire/openai/OpenAiChat.ts"
import { openAiEmbeddings } from "../../../wire/openai/OpenAiEmbeddings.ts"
import { openAiImages } from "../../../wire/openai/OpenAiImages.ts"
import { openAiSpeech } from "../../../wire/openai/OpenAiSpeech.ts"
import { openAiTranscription } from "../../../wire/openai/OpenAiTranscription.ts"
import { openAiRealtime } from "../../../wire/openai/realtime/OpenAiRealtime.ts"
import { openAiResponses, wire as responsesWire } from "../../../wire/openai/responses/OpenAiResponses.ts"
import { access, errorOf, type HttpProviderOptions, registration, requestJson } from "../HttpProvider.ts"
import * as HttpChat from "../HttpChat.ts"
import * as HttpEmbed from "../HttpEmbed.ts"
import * as HttpImage from "../HttpImage.ts"
import * as HttpVideo from "../HttpVideo.ts"
import * as HttpSpeech from "../HttpSpeech.ts"
import * as HttpTranscription from "../HttpTranscription.ts"
import * as HttpRealtime from "../HttpRealtime.ts"
import * as KeptResponses from "./KeptResponses.ts"

/** Options of the OpenAI plugin; `baseUrl` includes the version, as in the OpenAI SDKs. */
export interface Options extends HttpProviderOptions {
  /** Default `https://api.openai.com/v1`. */
  readonly baseUrl?: string
  /**
   * Which chats go to the server's Responses API instead of its chat completions: none, those whose callers speak that
   * protocol themselves, or all. Default: `same_wire` at OpenAI itself, `never` elsewhere.
   */
  readonly responses?: "never" | "same_wire" | "always"
}

const transcriptionPaths = { transcribe: "/audio/transcriptions", translate: "/audio/translations" }

const openAiUrl = "https://api.openai.com/v1"

type Chat = Required<Pick<Provider.Provider, "chat" | "streamChat">>

const chatAt = (endpoint: HttpChat.HttpChatEndpoint): Chat => ({
  chat: HttpChat.chat(endpoint),
  streamChat: HttpChat.streamChat(endpoint)
})

/** Chat over the Responses API, where answers may be kept. */
const chatAtResponses = (endpoint: HttpChat.HttpChatEndpoint, key: Redacted.Redacted | undefined): Chat => {
  const passing = chatAt(endpoint)
  const keeping = Effect.map(
    CurrentCaller,
    ({ tenant }) =>
      chatAt({ ...endpoint, codec: KeptResponses.codecFor(endpoint.codec, endpoint.provider, key, tenant) })
  )
  return {
    chat: (call) => KeptResponses.isKept(call) ? Effect.flatMap(keeping, ({ chat }) => chat(call)) : passing.chat(call),
    streamChat: (call) =>
      KeptResponses.isKept(call)
        ? Stream.unwrap(Effect.map(keeping, ({ streamChat }) => streamChat(call)))
        : passing.streamChat(call)
  }
}

const chatOver = (byChat: Chat, byResponses: Chat, mode: NonNullable<Options["responses"]>): Chat => {
  if (mode !== "same_wire") return mode === "always" ? byResponses : byChat
  const chosen = (wire: string | undefined): Chat => wire === responsesWire ? byResponses : byChat
  return {
    chat: (call) => Effect.flatMap(CurrentRequest, ({ wire }) => chosen(wire).chat(call)),
    streamChat: (call) => Stream.unwrap(Effect.map(CurrentRequest, ({ wire }) => chosen(wire).streamChat(call)))
  }
}

/** Registers an OpenAI-type provider for as long as the Layer lives. */
export const layer = (options: Options = {}) =>
  Provider.layer(Effect.gen(function*() {
    const outbound = yield* Outbound
    const slug = options.slug ?? "openai"
    const upstreamOptions: UpstreamOptions = {
      provider: slug,
      baseUrl: options.baseUrl ?? openAiUrl,
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
    const responses: HttpChat.HttpChatEndpoint = { ...endpoint, codec: openAiResponses, path: "/responses" }
    const mode = options.responses ?? (upstreamOptions.baseUrl === openAiUrl ? "same_wire" : "never")
    return {
      slug,
      kind: "openai",
      wire: "openai",
      baseUrl: upstreamOptions.baseUrl,
      ...registration(options),
      discover: requestJson(endpoint, { method: "GET", path: "/models" }, decodeModels),
      ...chatOver(chatAt(endpoint), chatAtResponses(responses, options.apiKey ?? options.apiKeys?.[0]), mode),
      embed: HttpEmbed.embed(endpoint, openAiEmbeddings, "/embeddings"),
      generateImage: HttpImage.generateImage(endpoint, openAiImages, "/images/generations"),
      streamImage: HttpImage.streamImage(endpoint, openAiImages, "/images/generations"),
      ...HttpVideo.videos(endpoint, "/videos"),
      speak: HttpSpeech.speak(endpoint, openAiSpeech, "/audio/speech"),
      transcribe: HttpTranscription.transcribe(endpoint, openAiTranscription, transcriptionPaths),
      streamTranscribe: HttpTranscription.streamTranscribe(endpoint, openAiTranscription, transcriptionPaths),
      realtime: HttpRealtime.realtime(endpoint, openAiRealtime, "/realtime")
    }
  }))
