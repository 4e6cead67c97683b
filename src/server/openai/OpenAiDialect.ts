/** The OpenAI dialect: the paths, over the OpenAI codec. People change their SDK's base URL and nothing else. */
import { Effect, Layer, Result } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { type Exchange, start } from "../../gateway/Exchange.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import type { ChatRequest } from "../../sdk/Chat.ts"
import type { RouteInfo } from "../../sdk/GatewayApi.ts"
import { fail, NotFound } from "../../sdk/GatewayError.ts"
import type { ImageChunk } from "../../sdk/Image.ts"
import type { ModelInfo } from "../../sdk/Model.ts"
import type { SpeechChunk } from "../../sdk/Speech.ts"
import type { TranscriptionChunk } from "../../sdk/Transcription.ts"
import { openAiEmbeddings } from "../../wire/openai/OpenAiEmbeddings.ts"
import { openAiImages } from "../../wire/openai/OpenAiImages.ts"
import { openAiSpeech } from "../../wire/openai/OpenAiSpeech.ts"
import { openAiTranscription } from "../../wire/openai/OpenAiTranscription.ts"
import { encodeModel, encodeModels, openAiChat } from "../../wire/openai/OpenAiChat.ts"
import {
  type Door,
  json,
  jsonPieces,
  otherwise,
  readJson,
  type RouteOptions,
  type ServedPaths,
  visit
} from "../Door.ts"
import * as RealtimeRoutes from "../realtime/RealtimeRoutes.ts"
import { exchangeHeaders } from "../ResponseHeaders.ts"
import { soundReply } from "../SoundReply.ts"
import { readTranscription } from "../Transcriptions.ts"
import { streamReply, type StreamWriter } from "../StreamReply.ts"
import * as FileRoutes from "../files/FileRoutes.ts"
import * as ResponsesDialect from "./ResponsesDialect.ts"
import * as VideosDialect from "./VideosDialect.ts"

/** How this dialect tells its callers what went wrong. */
export const door: Door = { encodeError: openAiChat.encodeError }

const writer = (request: ChatRequest): StreamWriter => ({
  ...openAiChat.streamEncoder(request),
  keepAlive: ": keep-alive\n\n",
  contentType: "text/event-stream"
})

const completions = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const chat = yield* Effect.fromResult(Result.mapError(openAiChat.decodeRequest(body), fail))
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(chat.model, chat.stream === true, chat.user))
      if (chat.stream === true) return yield* streamReply(gateway.openChat(chat, exchange), exchange, writer(chat))
      const response = yield* gateway.chat(chat, exchange)
      return json(openAiChat.encodeResponse(response, chat), exchangeHeaders(exchange))
    })
  )

const embeddings = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const asked = yield* Effect.fromResult(Result.mapError(openAiEmbeddings.decodeRequest(body), fail))
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(asked.model, false, asked.user, "embed"))
      const response = yield* gateway.embed(asked, exchange)
      return jsonPieces(openAiEmbeddings.encodeResponse(response), exchangeHeaders(exchange))
    })
  )

/** The end of a stream of pictures is its last picture. */
const imageWriter: StreamWriter<ImageChunk> = {
  push: openAiImages.encodeEvent,
  end: () => "",
  error: (error) => `event: error\ndata: ${JSON.stringify({ type: "error", ...door.encodeError(error, "").body })}\n\n`,
  keepAlive: ": keep-alive\n\n",
  contentType: "text/event-stream"
}

const images = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const asked = yield* Effect.fromResult(Result.mapError(openAiImages.decodeRequest(body), fail))
      const gateway = yield* Gateway
      const isStreamed = asked.stream === true
      const exchange: Exchange = began(yield* start(asked.model, isStreamed, asked.user, "image"))
      if (isStreamed) return yield* streamReply(gateway.openImage(asked, exchange), exchange, imageWriter)
      const response = yield* gateway.image(asked, exchange)
      return jsonPieces(openAiImages.encodeResponse(response), exchangeHeaders(exchange))
    })
  )

const speechWriter: StreamWriter<SpeechChunk> = { ...imageWriter, push: openAiSpeech.encodeEvent }

const speech = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const asked = yield* Effect.fromResult(Result.mapError(openAiSpeech.decodeRequest(body), fail))
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(asked.model, true, asked.user, "speak"))
      const open = gateway.openSpeech(asked, exchange)
      return asked.streamFormat === "sse"
        ? yield* streamReply(open, exchange, speechWriter)
        : yield* soundReply(open, exchange)
    })
  )

const transcriptWriter: StreamWriter<TranscriptionChunk> = {
  ...imageWriter,
  push: openAiTranscription.encodeEvent,
  end: () => "data: [DONE]\n\n"
}

const transcripts = (task: "transcribe" | "translate") =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      const asked = yield* readTranscription(request, task)
      const gateway = yield* Gateway
      const isStreamed = asked.stream === true
      const exchange: Exchange = began(yield* start(asked.model, isStreamed, asked.user, "transcribe"))
      if (isStreamed) {
        return yield* streamReply(gateway.openTranscription(asked, exchange), exchange, transcriptWriter)
      }
      const response = yield* gateway.transcribe(asked, exchange)
      const { body, contentType } = openAiTranscription.encodeResponse(response, asked.responseFormat)
      return HttpServerResponse.text(body, { contentType, headers: exchangeHeaders(exchange) })
    })
  )

const modelsPath = "/v1/models/"

/** A route is to these callers one more model, of the gateway's own. */
const asModel = ({ name }: RouteInfo): ModelInfo => ({
  id: name,
  provider: "llm-gateway",
  model: name,
  status: "active"
})

/** The list, or one model: ids hold slashes and colons, so the id is all that follows, and may come percent-encoded. */
const models = visit(
  door,
  Effect.fnUntraced(function*({ request, requestId }) {
    const gateway = yield* Gateway
    const path = request.url.split("?", 1)[0] ?? ""
    const at = path.indexOf(modelsPath)
    const encoded = at < 0 ? "" : path.slice(at + modelsPath.length)
    const routes = yield* gateway.routes
    if (encoded === "") {
      return json(encodeModels([...routes.map(asModel), ...yield* gateway.models]), { "x-request-id": requestId })
    }
    const id = yield* Effect.try({
      try: () => decodeURIComponent(encoded),
      catch: () => fail(new NotFound({ message: "the model's id in the path is not valid percent-encoding" }))
    })
    const route = routes.find(({ name }) => name === id)
    const model = route === undefined ? yield* gateway.model(id) : asModel(route)
    return json(encodeModel(model), { "x-request-id": requestId })
  })
)

const served: ServedPaths = {
  "/v1/chat/completions": "POST",
  "/v1/embeddings": "POST",
  "/v1/images/generations": "POST",
  "/v1/audio/speech": "POST",
  "/v1/audio/transcriptions": "POST",
  "/v1/audio/translations": "POST",
  "/v1/models": "GET, HEAD",
  "/v1/realtime": "GET",
  "/v1/realtime/client_secrets": "POST",
  ...VideosDialect.served,
  ...FileRoutes.openAiPaths,
  ...ResponsesDialect.served
}

/** Mounts the dialect on the router. */
export const layer = (options: RouteOptions) =>
  Layer.mergeAll(
    HttpRouter.add("POST", "/v1/chat/completions", completions(options)),
    HttpRouter.add("POST", "/v1/embeddings", embeddings(options)),
    HttpRouter.add("POST", "/v1/images/generations", images(options)),
    RealtimeRoutes.layer({ door, path: "/v1/realtime", secretsPath: "/v1/realtime/client_secrets" }, options),
    HttpRouter.add("POST", "/v1/audio/speech", speech(options)),
    VideosDialect.layer(door, options),
    FileRoutes.openAiLayer(door),
    HttpRouter.add("POST", "/v1/audio/transcriptions", transcripts("transcribe")),
    HttpRouter.add("POST", "/v1/audio/translations", transcripts("translate")),
    // The router takes a trailing wildcard for the path before it, too.
    HttpRouter.add("GET", "/v1/models/*", models),
    otherwise(door, "/v1/*", served)
  )
