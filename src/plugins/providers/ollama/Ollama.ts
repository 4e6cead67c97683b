/** Ollama's native API, which knows more than its OpenAI-compatible one: context size, keep-alive, thinking, durations. */
import { Effect } from "effect"
import { Outbound } from "../../../sdk/Outbound.ts"
import * as Provider from "../../../sdk/Provider.ts"
import { ndjson } from "../../../wire/Framing.ts"
import { decodeShow, decodeTags, ollamaChat } from "../../../wire/ollama/OllamaChat.ts"
import { ollamaEmbed } from "../../../wire/ollama/OllamaEmbed.ts"
import * as HttpChat from "../HttpChat.ts"
import * as HttpEmbed from "../HttpEmbed.ts"
import { access, errorOf, type HttpProviderOptions, registration, requestJson } from "../HttpProvider.ts"

/** Options of the Ollama plugin. */
export interface Options extends HttpProviderOptions {
  /** Default `http://127.0.0.1:11434`. */
  readonly baseUrl?: string
}

/** Models asked for their details at once; a local server answers them from disk. */
const showConcurrency = 4

/** Registers an Ollama provider for as long as the Layer lives. */
export const layer = (options: Options = {}) =>
  Provider.layer(Effect.gen(function*() {
    const outbound = yield* Outbound
    const slug = options.slug ?? "ollama"
    const baseUrl = options.baseUrl ?? "http://127.0.0.1:11434"
    const upstream = yield* outbound.upstream({
      provider: slug,
      baseUrl,
      ...access(options),
      ...(options.headers === undefined ? {} : { headers: options.headers })
    })
    const endpoint: HttpChat.HttpChatEndpoint = {
      provider: slug,
      errorOf: errorOf(slug, options),
      upstream,
      codec: ollamaChat,
      framing: ndjson,
      path: "/api/chat",
      streamType: "application/x-ndjson"
    }
    const show = (model: string) =>
      requestJson(endpoint, {
        method: "POST",
        path: "/api/show",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model })
      }, (json) => decodeShow(json, model))
    return {
      slug,
      kind: "ollama",
      wire: "ollama",
      baseUrl,
      ...registration(options),
      discover: requestJson(endpoint, { method: "GET", path: "/api/tags" }, decodeTags).pipe(
        Effect.flatMap((models) =>
          Effect.forEach(
            models,
            // A model that was removed meanwhile is still listed, without details.
            (model) => Effect.orElseSucceed(show(model), () => ({ model })),
            { concurrency: showConcurrency }
          )
        )
      ),
      chat: HttpChat.chat(endpoint),
      streamChat: HttpChat.streamChat(endpoint),
      embed: HttpEmbed.embed(endpoint, ollamaEmbed, "/api/embed")
    }
  }))
