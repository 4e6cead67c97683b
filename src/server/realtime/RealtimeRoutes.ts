/**
 * Realtime sessions over WebSockets, at `/v1/realtime` with errors in OpenAI's form, and at `/llm-gateway/v1/realtime` with the
 * native ones. What goes over the connection is the same at both: OpenAI's events.
 *
 * A request is answered when the provider is connected: until then a failure is an ordinary HTTP error, which WebSocket clients
 * show with its status.
 */
import { Effect, Layer, Result } from "effect"
import { HttpRouter, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { start } from "../../gateway/Exchange.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import { fail, type GatewayError, invalid } from "../../sdk/GatewayError.ts"
import { PresentedSecret } from "../../sdk/Identity.ts"
import type { RealtimeRequest } from "../../sdk/Realtime.ts"
import { type Door, secretIn, visit } from "../Door.ts"
import { Draining } from "../Draining.ts"
import { exchangeHeaders } from "../ResponseHeaders.ts"
import { betaOf, checkHandshake, keyInProtocols, Upgrades } from "./Upgrade.ts"

/** What of a service's routes concerns sessions. */
export interface RealtimeRouteOptions {
  /** The largest frame that a caller may send, bytes; default 16 MiB. */
  readonly maxFrameBytes?: number
}

const defaultMaxFrame = 16 * 1024 * 1024

type Headers = Readonly<Record<string, string | undefined>>

/** The key of a request: in a header, or in a subprotocol. */
const secretOf = (headers: Headers): PresentedSecret | undefined => {
  const inHeader = secretIn(headers)
  if (inHeader !== undefined) return inHeader
  const key = keyInProtocols(headers)
  return key === undefined ? undefined : new PresentedSecret(key)
}

/** What a request asks for, by its query. */
const requestOf = (
  { headers, url }: HttpServerRequest.HttpServerRequest
): Effect.Effect<RealtimeRequest, GatewayError> => {
  const query = new URLSearchParams(url.split("?", 2)[1] ?? "")
  const model = query.get("model")
  if (model === null || model === "") {
    return Effect.fail(fail(invalid("model", "name a model in the address, such as /v1/realtime?model=gpt-realtime")))
  }
  const beta = betaOf(headers)
  return Effect.succeed({ model, ...(beta === undefined ? {} : { headers: { "openai-beta": beta } }) })
}

const connect = (door: Door, upgrades: Upgrades) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      yield* Effect.fromResult(Result.mapError(checkHandshake(request), fail))
      const asked = yield* requestOf(request)
      const exchange = began(yield* start(asked.model, true, undefined, "realtime"))
      const gateway = yield* Gateway
      const session = yield* gateway.openRealtime(asked, exchange)
      const channel = yield* upgrades.accept(request, exchangeHeaders(exchange))
      const draining = yield* Draining
      const over = draining.onCut(session.cut)
      yield* Effect.forkScoped(Effect.andThen(draining.begun, Effect.sync(session.stop)))
      yield* Effect.ensuring(session.run(channel), Effect.sync(over))
      return HttpServerResponse.empty()
    }, Effect.scoped),
    secretOf
  )

/** Mounts `path`, with errors as `door` tells them. */
export const layer = (door: Door, path: `/${string}`, { maxFrameBytes = defaultMaxFrame }: RealtimeRouteOptions = {}) =>
  Layer.unwrap(Effect.map(Draining, (draining) =>
    HttpRouter.add(
      "GET",
      path,
      Effect.provideService(connect(door, new Upgrades(maxFrameBytes)), Draining, draining)
    )))
