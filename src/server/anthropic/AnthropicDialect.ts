/**
 * The Anthropic dialect: Messages and the counting of tokens, over Anthropic's codec. People change their SDK's base URL,
 * or Claude Code's `ANTHROPIC_BASE_URL`, and nothing else.
 */
import { Effect, Layer, Result } from "effect"
import { HttpRouter, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { type Exchange, start } from "../../gateway/Exchange.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import { estimateInput } from "../../gateway/TokenEstimate.ts"
import type { ChatRequest } from "../../sdk/Chat.ts"
import { fail } from "../../sdk/GatewayError.ts"
import { sourceOf } from "../../sdk/Wire.ts"
import {
  anthropicMessages,
  decodeCountRequest,
  encodeTokenCount,
  ping,
  withVersion
} from "../../wire/anthropic/AnthropicMessages.ts"
import { type Door, json, otherwise, readJson, type RouteOptions, type ServedPaths, visit } from "../Door.ts"
import { anthropicRateHeaders, exchangeHeaders } from "../ResponseHeaders.ts"
import { streamReply, type StreamWriter } from "../StreamReply.ts"

/** The gateway's headers, and Anthropic's own names for what its SDKs read: the request's id and the caller's limits. */
const answerHeaders = (exchange: Exchange): Record<string, string> => ({
  ...exchangeHeaders(exchange),
  ...anthropicRateHeaders(exchange),
  "request-id": exchange.requestId
})

/** How this dialect tells its callers what went wrong. */
export const door: Door = {
  encodeError: anthropicMessages.encodeError,
  headers: (requestId, exchange) =>
    exchange === undefined ? { "x-request-id": requestId, "request-id": requestId } : answerHeaders(exchange)
}

const writer = (request: ChatRequest, exchange: Exchange): StreamWriter => {
  const encoder = anthropicMessages.streamEncoder(request, {
    estimateInput: () => estimateInput(request),
    requestId: exchange.requestId
  })
  return {
    push: encoder.push,
    // By the end accounting has figures also for a stream that told none.
    end: () => {
      const { usage } = exchange
      const last = usage === undefined ? "" : encoder.push({ id: "", model: "", delta: [], usage })
      return last + encoder.end()
    },
    error: encoder.error,
    keepAlive: ping,
    contentType: "text/event-stream; charset=utf-8",
    headers: answerHeaders
  }
}

/** The request with what its headers say of it. */
const versioned = (chat: ChatRequest, { headers }: HttpServerRequest.HttpServerRequest): ChatRequest =>
  withVersion(chat, { version: headers["anthropic-version"], beta: headers["anthropic-beta"] })

const messages = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const decoded = yield* Effect.fromResult(Result.mapError(anthropicMessages.decodeRequest(body), fail))
      const chat = versioned(decoded, request)
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(chat.model, chat.stream === true, chat.user))
      if (chat.stream === true) {
        return yield* streamReply(gateway.openChat(chat, exchange), exchange, writer(chat, exchange))
      }
      const response = yield* gateway.chat(chat, exchange)
      const source = sourceOf(response, "anthropic")
      const headers = answerHeaders(exchange)
      return source === undefined
        ? json(anthropicMessages.encodeResponse(response, chat), headers)
        : HttpServerResponse.text(source.text, { contentType: "application/json", headers })
    })
  )

/** Marks a count that no provider made. */
const estimatedHeader = { "x-gateway-estimated": "true" }

const countTokens = (options: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      const body = yield* readJson(request, options.maxBodyBytes)
      const decoded = yield* Effect.fromResult(Result.mapError(decodeCountRequest(body), fail))
      const chat = versioned(decoded, request)
      const gateway = yield* Gateway
      const exchange: Exchange = began(yield* start(chat.model, false, chat.user))
      const { inputTokens, isEstimated } = yield* gateway.countTokens(chat, exchange)
      return json(encodeTokenCount(inputTokens), {
        ...answerHeaders(exchange),
        ...(isEstimated ? estimatedHeader : {})
      })
    })
  )

const served: ServedPaths = { "/v1/messages": "POST", "/v1/messages/count_tokens": "POST" }

/** Whether a path belongs to this dialect, of those that no route takes. */
export const owns = (url: string): boolean => /^\/v1\/messages(?:[/?]|$)/.test(url)

/** Mounts the dialect on the router. */
export const layer = (options: RouteOptions) =>
  Layer.mergeAll(
    HttpRouter.add("POST", "/v1/messages", messages(options)),
    HttpRouter.add("POST", "/v1/messages/count_tokens", countTokens(options)),
    otherwise(door, "/v1/messages", served),
    // A wildcard right behind the path would stand for the path itself, too.
    otherwise(door, "/v1/messages/:below/*", served)
  )
