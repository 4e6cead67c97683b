/**
 * The Ollama dialect: the paths, over the Ollama codec. A client of a local Ollama gets a base URL, a key and nothing else,
 * and every provider's models. What concerns model files is refused; it belongs to the server that holds them.
 */
import { Effect, Layer, Result } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { type Exchange, start } from "../../gateway/Exchange.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import { fail, Forbidden } from "../../sdk/GatewayError.ts"
import {
  encodeShow,
  encodeTags,
  ollamaChat,
  type OllamaDialectCodec,
  ollamaGenerate,
  type Timing
} from "../../wire/ollama/OllamaChat.ts"
import { embedDialect, embeddingsDialect, type OllamaEmbedDialect } from "../../wire/ollama/OllamaEmbed.ts"
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
import { exchangeHeaders } from "../ResponseHeaders.ts"
import { streamReply, type StreamWriter } from "../StreamReply.ts"
import { listed, modelNamed, named, nameIn } from "./OllamaNames.ts"

/** How this dialect tells its callers what went wrong. */
export const door: Door = { encodeError: ollamaChat.encodeError }

// ---------------------------------------------------------------------------------------------------------------------
// Chat and generate
// ---------------------------------------------------------------------------------------------------------------------

const timingOf = (exchange: Exchange): Timing => ({ total: exchange.elapsed(), firstContent: exchange.firstTokenMs })

/** Answers in text, each operation through its codec. */
const answers = (codec: OllamaDialectCodec, options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const gateway = yield* Gateway
      const load = codec.decodeLoad(body)
      if (load !== undefined) {
        yield* modelNamed(gateway, load.model)
        return json(codec.encodeLoaded(load), { "x-request-id": requestId })
      }
      const asked = yield* Effect.fromResult(Result.mapError(codec.decodeRequest(body), fail))
      const model = yield* named(gateway, asked.model)
      const chat = model === asked.model ? asked : { ...asked, model }
      const exchange: Exchange = began(yield* start(model, chat.stream === true, chat.user))
      // Answers name the model as it was asked for, so the writers get the caller's own request.
      if (chat.stream === true) {
        const writer: StreamWriter = {
          ...codec.streamEncoder(asked, () => timingOf(exchange)),
          keepAlive: codec.keepAlive(asked.model),
          contentType: "application/x-ndjson"
        }
        return yield* streamReply(gateway.openChat(chat, exchange), exchange, writer)
      }
      const response = yield* gateway.chat(chat, exchange)
      return json(codec.encodeResponse(response, asked, timingOf(exchange)), exchangeHeaders(exchange))
    })
  )

// ---------------------------------------------------------------------------------------------------------------------
// Models
// ---------------------------------------------------------------------------------------------------------------------

const tags = visit(
  door,
  Effect.fnUntraced(function*({ requestId }) {
    return json(encodeTags(yield* listed(yield* Gateway)), { "x-request-id": requestId })
  })
)

const show = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const name = yield* nameIn(yield* readJson(request, options.maxBodyBytes))
      return json(encodeShow(yield* modelNamed(yield* Gateway, name)), { "x-request-id": requestId })
    })
  )

/** What runs where is the providers' business, and no client needs to know it: nothing is loaded here. */
const running = visit(door, ({ requestId }) => Effect.succeed(json({ models: [] }, { "x-request-id": requestId })))

/**
 * The release of Ollama whose API this is. Clients compare it with the first one that had what they need, as numbers between
 * dots.
 */
const apiVersion = "0.13.5"

const version = visit(
  door,
  ({ requestId }) => Effect.succeed(json({ version: apiVersion }, { "x-request-id": requestId }))
)

/** What Ollama says at its root; clients ask there whether it is up, before they know of any key. */
const isRunning = Effect.succeed(HttpServerResponse.text("Ollama is running"))

// ---------------------------------------------------------------------------------------------------------------------
// Embeddings
// ---------------------------------------------------------------------------------------------------------------------

/** Answers in vectors, each operation through its codec. */
const embed = (dialect: OllamaEmbedDialect, options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const gateway = yield* Gateway
      if (dialect.isEmpty(body)) {
        const name = yield* nameIn(body)
        yield* modelNamed(gateway, name)
        const nothing = dialect.encodeResponse({ model: name, embeddings: [] }, name, { total: 0 })
        return jsonPieces(nothing, { "x-request-id": requestId })
      }
      const asked = yield* Effect.fromResult(Result.mapError(dialect.decodeRequest(body), fail))
      const model = yield* named(gateway, asked.model)
      const exchange: Exchange = began(yield* start(model, false, undefined, "embed"))
      const response = yield* gateway.embed({ ...asked, model }, exchange)
      const timing = { total: exchange.elapsed() }
      return jsonPieces(dialect.encodeResponse(response, asked.model, timing), exchangeHeaders(exchange))
    })
  )

// ---------------------------------------------------------------------------------------------------------------------
// What is not served
// ---------------------------------------------------------------------------------------------------------------------

const refused = (what: string, instead: string) =>
  visit(
    door,
    () =>
      Effect.fail(
        fail(new Forbidden({ message: `this gateway holds no model files, so it cannot ${what}; ${instead}` }))
      )
  )

const atTheServer = "do it at the Ollama server itself, where the gateway will find it"
const inTheConfiguration = "what the gateway offers is in its configuration"

/** What manages model files, as in https://docs.ollama.com/api. */
const management = [
  HttpRouter.add("POST", "/api/pull", refused("pull models", atTheServer)),
  HttpRouter.add("POST", "/api/create", refused("create models", atTheServer)),
  HttpRouter.add("POST", "/api/push", refused("push models", "do it at the Ollama server itself")),
  HttpRouter.add(
    "POST",
    "/api/copy",
    refused("copy models", "a route in its configuration gives a model another name")
  ),
  HttpRouter.add("DELETE", "/api/delete", refused("delete models", inTheConfiguration)),
  HttpRouter.add("POST", "/api/blobs/*", refused("take files", atTheServer)),
  HttpRouter.add("GET", "/api/blobs/*", refused("look for files", atTheServer))
] as const

const served: ServedPaths = {
  "/api/chat": "POST",
  "/api/generate": "POST",
  "/api/tags": "GET, HEAD",
  "/api/show": "POST",
  "/api/ps": "GET, HEAD",
  "/api/version": "GET, HEAD",
  "/api/embed": "POST",
  "/api/embeddings": "POST",
  "/api/pull": "POST",
  "/api/create": "POST",
  "/api/push": "POST",
  "/api/copy": "POST",
  "/api/delete": "DELETE",
  "/api/blobs/:digest": "GET, HEAD, POST"
}

/** Mounts the dialect on the router; `hasRoot`: with Ollama's word at the root, where nothing else has it. */
export const layer = (options: RouteOptions, hasRoot = true) =>
  Layer.mergeAll(
    hasRoot ? HttpRouter.add("GET", "/", isRunning) : Layer.empty,
    HttpRouter.add("POST", "/api/chat", answers(ollamaChat, options)),
    HttpRouter.add("POST", "/api/generate", answers(ollamaGenerate, options)),
    HttpRouter.add("GET", "/api/tags", tags),
    HttpRouter.add("POST", "/api/show", show(options)),
    HttpRouter.add("GET", "/api/ps", running),
    HttpRouter.add("GET", "/api/version", version),
    HttpRouter.add("POST", "/api/embed", embed(embedDialect, options)),
    HttpRouter.add("POST", "/api/embeddings", embed(embeddingsDialect, options)),
    ...management,
    otherwise(door, "/api/*", served)
  )
