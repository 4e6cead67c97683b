/** The native API's handlers, its documentation at `/openapi.json` and `/docs`, and its errors as problem details. */
import { Effect, Layer, Option, Result, Schema, Stream } from "effect"
import type { HttpServerRequest } from "effect/http"
import { HttpApiBuilder, HttpApiScalar } from "effect/http-api"
import { type Exchange, start } from "../../gateway/Exchange.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import * as MediaChat from "../../gateway/MediaChat.ts"
import { Breakers, type BreakerState } from "../../sdk/Breakers.ts"
import { ChatAnswer, ChatChunk, ChatRequest, toAnswer } from "../../sdk/Chat.ts"
import { chunksOf } from "../../sdk/ChatStream.ts"
import { EmbeddingRequest, EmbeddingResponse } from "../../sdk/Embedding.ts"
import { GatewayApi, ModelList } from "../../sdk/GatewayApi.ts"
import { fail, type GatewayError } from "../../sdk/GatewayError.ts"
import { GeneratedImage, ImageChunk, ImageRequest, ImageResponse } from "../../sdk/Image.ts"
import { validationError } from "../../sdk/Issues.ts"
import type { ModelInfo } from "../../sdk/Model.ts"
import { SpeechChunk, SpeechRequest, SpeechResponse } from "../../sdk/Speech.ts"
import {
  type Transcription,
  TranscriptionChunk,
  TranscriptionRequest,
  TranscriptionResponse
} from "../../sdk/Transcription.ts"
import { Usage } from "../../sdk/Usage.ts"
import { inPieces } from "../../wire/Vectors.ts"
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
import * as FileRoutes from "../files/FileRoutes.ts"
import * as RealtimeRoutes from "../realtime/RealtimeRoutes.ts"
import { exchangeHeaders } from "../ResponseHeaders.ts"
import { soundReply } from "../SoundReply.ts"
import { readTranscription } from "../Transcriptions.ts"
import { streamReply, type StreamWriter } from "../StreamReply.ts"
import * as BudgetsApi from "./BudgetsApi.ts"
import * as AdminApi from "./AdminApi.ts"
import * as ConfigurationApi from "./ConfigurationApi.ts"
import { VideoRequest, VideoResponse } from "../../sdk/Video.ts"
import * as JobsApi from "./JobsApi.ts"
import { problemOf } from "./Problem.ts"
import * as RoutesApi from "./RoutesApi.ts"
import * as UsageApi from "./UsageApi.ts"

/** How the native API tells its callers what went wrong. */
export const door: Door = {
  encodeError: (error, requestId) => ({ status: error.status, body: problemOf(error, requestId) }),
  errorType: "application/problem+json"
}

const decodeRequest = Schema.decodeUnknownResult(ChatRequest, { errors: "all", onExcessProperty: "error" })
const encodeAnswer = Schema.encodeSync(ChatAnswer)
const encodeChunk = Schema.encodeSync(ChatChunk)
const encodeEmbeddingHead = Schema.encodeSync(EmbeddingResponse)
const encodeModels = Schema.encodeSync(ModelList)

const writer = (requestId: string): StreamWriter => ({
  push: (chunk) => `data: ${JSON.stringify(encodeChunk(chunk))}\n\n`,
  end: () => "data: [DONE]\n\n",
  error: (error: GatewayError) => `event: error\ndata: ${JSON.stringify(problemOf(error, requestId))}\n\n`,
  keepAlive: ": keep-alive\n\n",
  contentType: "text/event-stream"
})

const chat = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const later = JobsApi.askedAsync(body)
      if (later !== undefined) return yield* JobsApi.createFor("chat", later, request, requestId)
      const asked = yield* Effect.fromResult(
        Result.mapError(decodeRequest(body), (error) => fail(validationError(error)))
      )
      const gateway = yield* Gateway
      const media = yield* MediaChat.operationFor(gateway, asked.model)
      const exchange: Exchange = began(yield* start(asked.model, asked.stream === true, asked.user, media))
      if (media !== undefined) {
        const made = MediaChat.answer(gateway, media, asked, exchange)
        if (asked.stream !== true) return json(encodeAnswer(toAnswer(yield* made)), exchangeHeaders(exchange))
        const open = Effect.map(made, (response) => Stream.fromIterable(chunksOf(response)))
        return yield* streamReply(open, exchange, writer(requestId))
      }
      if (asked.stream === true) {
        return yield* streamReply(gateway.openChat(asked, exchange), exchange, writer(requestId))
      }
      const response = yield* gateway.chat(asked, exchange)
      return json(encodeAnswer(toAnswer(response)), exchangeHeaders(exchange))
    })
  )

const decodeEmbedding = Schema.decodeUnknownResult(EmbeddingRequest, { errors: "all", onExcessProperty: "error" })
const encodeUsage = Schema.encodeSync(Usage)

/** The answer as `EmbeddingResponse` has it, in pieces. */
const encodeEmbeddings = ({ embeddings, usage, ...response }: EmbeddingResponse): Iterable<string> => {
  const rest = JSON.stringify({
    ...encodeEmbeddingHead({ ...response, embeddings: [] }),
    embeddings: undefined,
    ...(usage === undefined ? {} : { usage: encodeUsage(usage) })
  })
  return inPieces(`${rest.slice(0, -1)},"embeddings":[`, embeddings, (vector) => JSON.stringify(vector), "]}")
}

const embeddings = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const later = JobsApi.askedAsync(body)
      if (later !== undefined) return yield* JobsApi.createFor("embed", later, request, requestId)
      const asked = yield* Effect.fromResult(
        Result.mapError(decodeEmbedding(body), (error) => fail(validationError(error)))
      )
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(asked.model, false, asked.user, "embed"))
      const response = yield* gateway.embed(asked, exchange)
      return jsonPieces(encodeEmbeddings(response), exchangeHeaders(exchange))
    })
  )

const decodeImages = Schema.decodeUnknownResult(ImageRequest, { errors: "all", onExcessProperty: "error" })
const encodeImage = Schema.encodeSync(GeneratedImage)
const encodeImageHead = Schema.encodeSync(ImageResponse)
const encodeImageChunk = Schema.encodeSync(ImageChunk)

/** The answer as `ImageResponse` has it, in pieces. */
const encodeImages = ({ images, ...response }: ImageResponse): Iterable<string> => {
  const rest = JSON.stringify({ ...encodeImageHead({ ...response, images: [] }), images: undefined })
  return inPieces(`${rest.slice(0, -1)},"images":[`, images, (image) => JSON.stringify(encodeImage(image)), "]}")
}

const imageWriter = (requestId: string): StreamWriter<ImageChunk> => ({
  ...writer(requestId),
  push: (chunk) => `data: ${JSON.stringify(encodeImageChunk(chunk))}\n\n`
})

const images = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const later = JobsApi.askedAsync(body)
      if (later !== undefined) return yield* JobsApi.createFor("image", later, request, requestId)
      const asked = yield* Effect.fromResult(
        Result.mapError(decodeImages(body), (error) => fail(validationError(error)))
      )
      const gateway = yield* Gateway
      const isStreamed = asked.stream === true
      const exchange: Exchange = began(yield* start(asked.model, isStreamed, asked.user, "image"))
      if (isStreamed) return yield* streamReply(gateway.openImage(asked, exchange), exchange, imageWriter(requestId))
      const response = yield* gateway.image(asked, exchange)
      return jsonPieces(encodeImages(response), exchangeHeaders(exchange))
    })
  )

const decodeSpeech = Schema.decodeUnknownResult(SpeechRequest, { errors: "all", onExcessProperty: "error" })
const encodeSpeech = Schema.encodeSync(SpeechResponse)
const encodeSpeechChunk = Schema.encodeSync(SpeechChunk)

const speechWriter = (requestId: string): StreamWriter<SpeechChunk> => ({
  ...writer(requestId),
  push: (chunk) => `data: ${JSON.stringify(encodeSpeechChunk(chunk))}\n\n`
})

const speech = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const later = JobsApi.askedAsync(body)
      if (later !== undefined) return yield* JobsApi.createFor("speak", later, request, requestId)
      const asked = yield* Effect.fromResult(
        Result.mapError(decodeSpeech(body), (error) => fail(validationError(error)))
      )
      const gateway = yield* Gateway
      const isStreamed = asked.stream === true
      const exchange: Exchange = began(yield* start(asked.model, isStreamed, asked.user, "speak"))
      if (!isStreamed) {
        return json(encodeSpeech(yield* gateway.speak(asked, exchange)), exchangeHeaders(exchange))
      }
      const open = gateway.openSpeech(asked, exchange)
      return asked.streamFormat === "sse"
        ? yield* streamReply(open, exchange, speechWriter(requestId))
        : yield* soundReply(open, exchange)
    })
  )

const decodeTranscription = Schema.decodeUnknownResult(TranscriptionRequest, {
  errors: "all",
  onExcessProperty: "error"
})
const encodeTranscription = Schema.encodeSync(TranscriptionResponse)
const encodeTranscriptionChunk = Schema.encodeSync(TranscriptionChunk)

const transcriptWriter = (requestId: string): StreamWriter<TranscriptionChunk> => ({
  ...writer(requestId),
  push: (chunk) => `data: ${JSON.stringify(encodeTranscriptionChunk(chunk))}\n\n`
})

const isForm = ({ headers }: HttpServerRequest.HttpServerRequest): boolean =>
  headers["content-type"]?.toLowerCase().startsWith("multipart/") === true

const transcripts = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      let asked: Transcription | TranscriptionRequest
      if (isForm(request)) asked = yield* readTranscription(request)
      else {
        const body = yield* readJson(request, options.maxBodyBytes)
        const later = JobsApi.askedAsync(body)
        if (later !== undefined) return yield* JobsApi.createFor("transcribe", later, request, requestId)
        asked = yield* Effect.fromResult(
          Result.mapError(decodeTranscription(body), (error) => fail(validationError(error)))
        )
      }
      const gateway = yield* Gateway
      const isStreamed = asked.stream === true
      const exchange: Exchange = began(yield* start(asked.model, isStreamed, asked.user, "transcribe"))
      if (isStreamed) {
        return yield* streamReply(gateway.openTranscription(asked, exchange), exchange, transcriptWriter(requestId))
      }
      const response = yield* gateway.transcribe(asked, exchange)
      return json(encodeTranscription(response), exchangeHeaders(exchange))
    })
  )

const decodeVideo = Schema.decodeUnknownResult(VideoRequest, { errors: "all", onExcessProperty: "error" })
const encodeVideo = Schema.encodeSync(VideoResponse)

const videos = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const later = JobsApi.askedAsync(body)
      if (later !== undefined) return yield* JobsApi.createFor("video", later, request, requestId)
      const asked = yield* Effect.fromResult(
        Result.mapError(decodeVideo(body), (error) => fail(validationError(error)))
      )
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(asked.model, false, asked.user, "video"))
      const response = yield* gateway.video(asked, exchange)
      return json(encodeVideo(response), exchangeHeaders(exchange))
    })
  )

/** Each model with the state of its provider's breaker, where that has seen a call. */
const withBreakers = Effect.fnUntraced(function*(models: ReadonlyArray<ModelInfo>) {
  const breakers = yield* Effect.serviceOption(Breakers)
  if (Option.isNone(breakers)) return models
  const states = new Map<string, BreakerState["state"]>()
  for (const { endpoint, provider, state } of yield* breakers.value.states) {
    if (endpoint === "chat") states.set(provider, state)
  }
  return models.map((model): ModelInfo => {
    const breaker = states.get(model.provider)
    return breaker === undefined ? model : { ...model, breaker }
  })
})

const models = visit(
  door,
  Effect.fnUntraced(function*({ requestId }) {
    const gateway = yield* Gateway
    const models = yield* withBreakers(yield* gateway.models)
    return json(encodeModels({ models }), { "x-request-id": requestId })
  })
)

/** The budgets of the current caller. */
const balances = Effect.flatMap(Gateway, (gateway) => gateway.budgets)

const served = (metrics: boolean): ServedPaths => ({
  "/llm-gateway/v1/chat/completions": "POST",
  "/llm-gateway/v1/embeddings": "POST",
  "/llm-gateway/v1/images": "POST",
  "/llm-gateway/v1/speech": "POST",
  "/llm-gateway/v1/transcriptions": "POST",
  "/llm-gateway/v1/realtime": "GET",
  "/llm-gateway/v1/videos": "POST",
  "/llm-gateway/v1/jobs": "GET, HEAD, POST",
  "/llm-gateway/v1/jobs/:id": "DELETE, GET, HEAD",
  "/llm-gateway/v1/jobs/:id/webhook/redeliver": "POST",
  ...FileRoutes.nativePaths,
  "/llm-gateway/v1/models": "GET, HEAD",
  "/llm-gateway/v1/routes": "GET, HEAD",
  "/llm-gateway/v1/usage": "GET, HEAD",
  "/llm-gateway/v1/budgets": "GET, HEAD",
  "/llm-gateway/v1/routes/:name/explain": "POST",
  "/llm-gateway/v1/admin/keys": "GET, HEAD, POST",
  "/llm-gateway/v1/admin/keys/:id": "DELETE",
  "/llm-gateway/v1/admin/keys/:id/rotate": "POST",
  "/llm-gateway/v1/admin/reload": "POST",
  "/rpc": "POST",
  "/rpc/ws": "GET, HEAD",
  "/openapi.json": "GET, HEAD",
  "/docs": "GET, HEAD",
  "/health/live": "GET, HEAD",
  "/health/ready": "GET, HEAD",
  ...(metrics ? { "/metrics": "GET, HEAD" } : {})
})

/**
 * Mounts the native API. Its handlers take the raw request, so that bodies are read, refused and answered exactly as in
 * every other dialect. `ownsRest`: whether it answers what no other route takes, wherever that is.
 */
export const layer = (options: RouteOptions, ownsRest = true) =>
  Layer.mergeAll(
    HttpApiBuilder.layer(GatewayApi, { openapiPath: "/openapi.json" }).pipe(
      Layer.provide([
        HttpApiBuilder.group(GatewayApi, "chat", (handlers) => handlers.handleRaw("chat", () => chat(options))),
        HttpApiBuilder.group(GatewayApi, "embeddings", (handlers) =>
          handlers.handleRaw("embed", () =>
            embeddings(options))),
        HttpApiBuilder.group(GatewayApi, "images", (handlers) =>
          handlers.handleRaw("image", () => images(options))),
        HttpApiBuilder.group(GatewayApi, "speech", (handlers) =>
          handlers.handleRaw("speak", () =>
            speech(options)).handleRaw("transcribe", () =>
              transcripts(options))),
        HttpApiBuilder.group(GatewayApi, "videos", (handlers) =>
          handlers.handleRaw("video", () =>
            videos(options))),
        HttpApiBuilder.group(GatewayApi, "jobs", (handlers) => {
          const jobs = JobsApi.make(door, options.maxBodyBytes)
          return handlers
            .handleRaw("createJob", () => jobs.create)
            .handleRaw("listJobs", () => jobs.list)
            .handleRaw("getJob", () => jobs.get)
            .handleRaw("cancelJob", () => jobs.cancel)
            .handleRaw("redeliverWebhook", () => jobs.redeliver)
        }),
        HttpApiBuilder.group(GatewayApi, "models", (handlers) => handlers.handleRaw("models", () => models)),
        HttpApiBuilder.group(GatewayApi, "routes", (handlers) => {
          const list = RoutesApi.list(door)
          const explain = RoutesApi.explain(door, options.maxBodyBytes)
          return handlers.handleRaw("routes", () => list).handleRaw("explain", () => explain)
        }),
        HttpApiBuilder.group(GatewayApi, "usage", (handlers) => {
          const usage = UsageApi.read(door)
          const budgets = BudgetsApi.list(door, balances)
          return handlers.handleRaw("usage", () => usage).handleRaw("budgets", () => budgets)
        }),
        HttpApiBuilder.group(GatewayApi, "admin", (handlers) => {
          const admin = AdminApi.make(door, options.maxBodyBytes)
          const reload = ConfigurationApi.reload(door)
          return handlers
            .handleRaw("createKey", () => admin.createKey)
            .handleRaw("listKeys", () => admin.listKeys)
            .handleRaw("revokeKey", () => admin.revokeKey)
            .handleRaw("rotateKey", () => admin.rotateKey)
            .handleRaw("reload", () => reload)
        })
      ])
    ),
    HttpApiScalar.layer(GatewayApi, { path: "/docs" }),
    RealtimeRoutes.layer({ door, path: "/llm-gateway/v1/realtime" }, options),
    FileRoutes.nativeLayer(door),
    ownsRest ? otherwise(door, "/*", served(options.metrics !== false)) : Layer.empty
  )
