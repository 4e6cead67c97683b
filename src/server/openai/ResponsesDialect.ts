/** OpenAI's Responses API: the paths, over its codec. Answers are not kept, but for those of requests that ran in the background. */
import { Effect, Layer, Result } from "effect"
import { HttpRouter } from "effect/http"
import { type Exchange, start } from "../../gateway/Exchange.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import { CurrentRequest } from "../../sdk/Caller.ts"
import type { ChatRequest } from "../../sdk/Chat.ts"
import { fail, NotFound } from "../../sdk/GatewayError.ts"
import { openAiResponses, wire } from "../../wire/openai/responses/OpenAiResponses.ts"
import { type Door, json, readJson, type RouteOptions, type ServedPaths, visit } from "../Door.ts"
import { exchangeHeaders } from "../ResponseHeaders.ts"
import { streamReply, type StreamWriter } from "../StreamReply.ts"
import * as BackgroundResponses from "./BackgroundResponses.ts"

/** How this dialect tells its callers what went wrong. */
export const door: Door = { encodeError: openAiResponses.encodeError }

const writer = (request: ChatRequest): StreamWriter => ({
  ...openAiResponses.streamEncoder(request),
  keepAlive: ": keep-alive\n\n",
  contentType: "text/event-stream"
})

/** Tells providers that speak this protocol, too, that they need not translate. */
const byThisWire = Effect.updateService(CurrentRequest, (options) => ({ ...options, wire }))

const create = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request, requestId }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const later = BackgroundResponses.askedInBackground(body)
      const chat = yield* Effect.fromResult(Result.mapError(openAiResponses.decodeRequest(later ?? body), fail))
      if (later !== undefined) return yield* byThisWire(BackgroundResponses.create(request, requestId, chat))
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(chat.model, chat.stream === true, chat.user))
      if (chat.stream === true) {
        return yield* streamReply(byThisWire(gateway.openChat(chat, exchange)), exchange, writer(chat))
      }
      const response = yield* byThisWire(gateway.chat(chat, exchange))
      return json(openAiResponses.encodeResponse(response, chat), exchangeHeaders(exchange))
    })
  )

const told = { "cache-control": "no-store" }

const get = visit(door, ({ request, requestId }) =>
  Effect.map(
    BackgroundResponses.get(request.url),
    (response) => json(response, { ...told, "x-request-id": requestId })
  ))

const cancel = visit(door, ({ request, requestId }) =>
  Effect.map(
    BackgroundResponses.cancel(request.url),
    (response) => json(response, { ...told, "x-request-id": requestId })
  ))

const kept = visit(door, () =>
  Effect.fail(fail(
    new NotFound({
      message: "the gateway keeps no responses, so there is none to look up; the answer to the request was all of it"
    })
  )))

/** The paths of this dialect, and the methods that each one takes. */
export const served: ServedPaths = {
  "/v1/responses": "POST",
  "/v1/responses/:id": "GET, HEAD, DELETE",
  "/v1/responses/:id/cancel": "POST",
  "/v1/responses/:id/input_items": "GET, HEAD"
}

/** Mounts the dialect on the router. What its paths do not take is answered by the OpenAI dialect, which has all of `/v1`. */
export const layer = (options: RouteOptions) =>
  Layer.mergeAll(
    HttpRouter.add("POST", "/v1/responses", create(options)),
    HttpRouter.add("GET", "/v1/responses/:id", get),
    HttpRouter.add("DELETE", "/v1/responses/:id", kept),
    HttpRouter.add("POST", "/v1/responses/:id/cancel", cancel),
    HttpRouter.add("GET", "/v1/responses/:id/input_items", kept)
  )
