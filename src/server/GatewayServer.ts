/**
 * The HTTP service: every dialect on one router, on one listening socket. An app with a router of its own mounts what it wants
 * on it with `mount`; the service as a whole is `layer`.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { ByteSize, Effect, Layer, Tracer } from "effect"
import {
  HttpIncomingMessage,
  HttpMiddleware,
  HttpRouter,
  HttpServerError,
  HttpServerRequest,
  UrlParams
} from "effect/http"
import * as AnthropicDialect from "./anthropic/AnthropicDialect.ts"
import { type Door, type RouteOptions, unroutable } from "./Door.ts"
import * as Draining from "./Draining.ts"
import * as NativeApi from "./native/NativeApi.ts"
import * as NodeListener from "./NodeListener.ts"
import * as OllamaDialect from "./ollama/OllamaDialect.ts"
import * as OpenAiDialect from "./openai/OpenAiDialect.ts"
import * as ResponsesDialect from "./openai/ResponsesDialect.ts"
import * as RpcServer from "./rpc/RpcServer.ts"
import * as Health from "./ops/Health.ts"
import * as Shedding from "./Shedding.ts"
import * as Metrics from "./ops/Metrics.ts"

export type { RouteOptions } from "./Door.ts"

/** Where the service listens, and how it stops. */
export interface ServerOptions extends RouteOptions {
  readonly host: string
  /** 0 takes a free port. */
  readonly port: number
  /** How long running requests may go on after the service was told to stop, ms. */
  readonly drainTimeout: number
  /** When new requests are turned away because the process has too much to do; absent: never. */
  readonly shedding?: Shedding.SheddingOptions
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

/** What can be mounted by itself: the dialects, the native API with its documentation, RPC, and health with metrics. */
export type Face = "openai" | "anthropic" | "ollama" | "native" | "rpc" | "operations"

/** What of the gateway an app's own router has, and where. */
export interface MountOptions extends RouteOptions {
  /** Default: all of it. */
  readonly faces?: ReadonlyArray<Face>
  /** Such as `/ai`: `/ai/v1/chat/completions`. Without one the paths are those of the service. */
  readonly prefix?: `/${string}`
}

const operations = (options: RouteOptions) =>
  options.metrics === false ? Health.layer : Layer.mergeAll(Health.layer, Metrics.layer(NativeApi.door))

/** All routes: the dialects, the native API with its documentation, health, and metrics unless they are off. */
export const routes = (options: RouteOptions) =>
  Layer.mergeAll(
    OpenAiDialect.layer(options),
    ResponsesDialect.layer(options),
    OllamaDialect.layer(options),
    AnthropicDialect.layer(options),
    NativeApi.layer(options),
    RpcServer.layer(NativeApi.door, options),
    operations(options),
    withoutEmptyErrors
  )

/**
 * Puts all or some of the gateway's faces on the `HttpRouter` that an app serves already, beside its own routes. What is no
 * path of theirs stays the app's to answer, except below a prefix with the native API, which then answers all of it.
 */
export const mount = ({ faces, prefix, ...options }: MountOptions) => {
  const has = (face: Face): boolean => faces === undefined || faces.includes(face)
  const mounted = Layer.mergeAll(
    has("openai") ? Layer.merge(OpenAiDialect.layer(options), ResponsesDialect.layer(options)) : Layer.empty,
    has("anthropic") ? AnthropicDialect.layer(options) : Layer.empty,
    // Below a prefix the native API answers whatever no other route takes, the root included.
    has("ollama") ? OllamaDialect.layer(options, prefix === undefined || !has("native")) : Layer.empty,
    has("native") ? NativeApi.layer(options, prefix !== undefined) : Layer.empty,
    has("rpc") ? RpcServer.layer(NativeApi.door, options) : Layer.empty,
    has("operations") ? operations(options) : Layer.empty
  )
  const router = Layer.effect(
    HttpRouter.HttpRouter,
    Effect.map(HttpRouter.HttpRouter, (own) => prefix === undefined ? own : own.prefixed(prefix))
  )
  return mounted.pipe(Layer.provide(router))
}

/** What stands in an address's query is in no trace: some clients send their keys there, whatever the gateway asks for. */
const noQueryInTraces = Layer.succeed(UrlParams.CurrentRedactedNames, [/^/])

/** Where nobody has installed a tracer, spans go nowhere, and making one for each HTTP request is work for nothing. */
const noIdleSpans = Layer.effect(
  HttpMiddleware.TracerDisabledWhen,
  Tracer.Tracer.useSync((tracer) => () => tracer === Tracer.nativeTracer)
)

/** The listening service. */
export const layer = (options: ServerOptions) =>
  Layer.unwrap(Effect.sync(() => {
    const drain = Draining.make(options.drainTimeout)
    return HttpRouter.serve(routes(options), { disableLogger: true, disableListenLog: true }).pipe(
      Layer.provide(Layer.succeed(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(options.maxBodyBytes))),
      Layer.provide(noQueryInTraces),
      Layer.provide(noIdleSpans),
      Layer.provide(Layer.succeed(Draining.Draining, drain)),
      Layer.provide(options.shedding === undefined ? Layer.empty : Shedding.layer(options.shedding)),
      Layer.provideMerge(
        NodeHttpServer.layer(() => NodeListener.make((url) => doorOf(url).encodeError, drain), {
          host: options.host,
          port: options.port,
          gracefulShutdownTimeout: options.drainTimeout,
          websocket: { maxPayload: options.maxBodyBytes }
        })
      )
    )
  }))
