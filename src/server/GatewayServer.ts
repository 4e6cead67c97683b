/**
 * The HTTP service: every dialect on one router, on one listening socket. An app with a router of its own mounts `routes`
 * on it; the service as a whole is `layer`.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { ByteSize, Effect, Latch, Layer } from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServerError, HttpServerRequest, UrlParams } from "effect/http"
import * as AnthropicDialect from "./anthropic/AnthropicDialect.ts"
import { type Door, type RouteOptions, unroutable } from "./Door.ts"
import { Draining } from "./Draining.ts"
import * as NativeApi from "./native/NativeApi.ts"
import * as NodeListener from "./NodeListener.ts"
import * as OllamaDialect from "./ollama/OllamaDialect.ts"
import * as OpenAiDialect from "./openai/OpenAiDialect.ts"
import * as ResponsesDialect from "./openai/ResponsesDialect.ts"
import * as RpcServer from "./rpc/RpcServer.ts"
import * as Health from "./ops/Health.ts"
import * as Metrics from "./ops/Metrics.ts"

export type { RouteOptions } from "./Door.ts"

/** Where the service listens, and how it stops. */
export interface ServerOptions extends RouteOptions {
  readonly host: string
  /** 0 takes a free port. */
  readonly port: number
  /** How long running requests may go on after the service was told to stop, ms. */
  readonly drainTimeout: number
}

/** The router itself turns down what it cannot take apart, without a body; callers get their dialect's error all the same. */
const withoutEmptyErrors = HttpRouter.middleware((handled) =>
  // `catchIf` would take the error of the other handlers, which the router knows by a mark alone, for caught.
  // @effect-diagnostics-next-line catchConditionalRefailToCatchIf:off
  Effect.catch(handled, (error) =>
    isRouteNotFound(error)
      ? Effect.map(
        HttpServerRequest.HttpServerRequest,
        (request) => unroutable(doorOf(request.url), request)
      )
      : Effect.fail(error)), { global: true })

/** Whose error an address that no route takes gets. */
const doorOf = (url: string): Door => {
  if (AnthropicDialect.owns(url)) return AnthropicDialect.door
  if (url.startsWith("/v1/")) return OpenAiDialect.door
  return url.startsWith("/api/") ? OllamaDialect.door : NativeApi.door
}

const isRouteNotFound = (error: unknown): boolean =>
  HttpServerError.isHttpServerError(error) && error.reason._tag === "RouteNotFound"

/** All routes: the dialects, the native API with its documentation, health, and metrics unless they are off. */
export const routes = (options: RouteOptions) =>
  Layer.mergeAll(
    OpenAiDialect.layer(options),
    ResponsesDialect.layer(options),
    OllamaDialect.layer(options),
    AnthropicDialect.layer(options),
    NativeApi.layer(options),
    Health.layer,
    RpcServer.layer(NativeApi.door, options),
    withoutEmptyErrors
  ).pipe((all) => options.metrics === false ? all : Layer.mergeAll(all, Metrics.layer(NativeApi.door)))

/** What stands in an address's query is in no trace: some clients send their keys there, whatever the gateway asks for. */
const noQueryInTraces = Layer.succeed(UrlParams.CurrentRedactedNames, [/^/])

/** The listening service. */
export const layer = (options: ServerOptions) =>
  Layer.unwrap(Effect.sync(() => {
    const draining = Latch.makeUnsafe(false)
    return HttpRouter.serve(routes(options), { disableLogger: true, disableListenLog: true }).pipe(
      Layer.provide(Layer.succeed(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(options.maxBodyBytes))),
      Layer.provide(noQueryInTraces),
      Layer.provide(Layer.succeed(Draining, { begun: draining.await })),
      Layer.provideMerge(
        NodeHttpServer.layer(() => NodeListener.make(OpenAiDialect.door.encodeError, () => draining.openUnsafe()), {
          host: options.host,
          port: options.port,
          gracefulShutdownTimeout: options.drainTimeout,
          websocket: { maxPayload: options.maxBodyBytes }
        })
      )
    )
  }))
