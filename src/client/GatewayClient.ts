/**
 * The typed client of a gateway: over HTTP, over a WebSocket that carries many calls at once, or in the same process. The same
 * calls, errors and streams in all three; interrupting a call, or leaving its stream, closes the upstream's connection.
 *
 * ```ts
 * const program = Effect.gen(function*() {
 *   const client = yield* GatewayClient
 *   yield* client.streamChat({ model: "sandbox::echo", messages: [{ role: "user", content: [text("Hello!")] }] }).pipe(
 *     Stream.runForEach((chunk) => Console.log(chunk.delta))
 *   )
 * })
 * program.pipe(Effect.provide(GatewayClient.layerHttp({ url: "http://127.0.0.1:8080", key: Redacted.make("…") })))
 * ```
 */
import { Context, Effect, Layer, Redacted, Schedule, Schema, type Scope, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import { RpcClient, type RpcClientError, RpcSerialization } from "effect/rpc"
import { Socket } from "effect/socket"
import { CurrentRequest } from "../sdk/Caller.ts"
import { type GatewayCalls, GatewayInProcess } from "../sdk/GatewayCalls.ts"
import { type GatewayError } from "../sdk/GatewayError.ts"
import { GatewayRpc } from "../sdk/GatewayRpc.ts"
import { headersOf } from "./RequestHeaders.ts"

/** The call did not come through: no gateway there, a connection that broke, or an answer that is none of the gateway's. */
export class ConnectionFailed extends Schema.TaggedError<ConnectionFailed>()("ConnectionFailed", {
  message: Schema.String
}) {}

/** Where a gateway is, and how it knows its caller. */
export interface GatewayClientOptions {
  /** Such as `https://gateway.example.com`; a path before the gateway's own is kept. */
  readonly url: string
  /** A key or a token; absent for a gateway that asks for none. */
  readonly key?: Redacted.Redacted
}

/** Answers that are longer than this without an end, characters, are no answers of the gateway's. */
const maxMessage = 256 * 1024 * 1024

/** How a connection that was lost is made anew: at once, then at longer and longer intervals, up to 5 s. */
const reconnect = Schedule.min([Schedule.exponential(100, 1.5), Schedule.spaced(5_000)])

const withoutSlash = (url: string): string => url.replace(/\/+$/, "")

/** What went wrong, by its kind alone: the cause may quote the request. */
const failed = (error: RpcClientError.RpcClientError): ConnectionFailed =>
  new ConnectionFailed({ message: `the gateway could not be reached, or its answer broke off (${error.reason._tag})` })

type Reached<A> = Effect.Effect<A, GatewayError | RpcClientError.RpcClientError>

/** The calls over whichever protocol is there. */
const overRpc = Effect.fnUntraced(function*(
  key: Redacted.Redacted | undefined
): Effect.fn.Return<GatewayCalls<ConnectionFailed>, never, RpcClient.Protocol | Scope.Scope> {
  const client = yield* RpcClient.make(GatewayRpc, { disableTracing: true })
  const authorization = key === undefined ? undefined : `Bearer ${Redacted.value(key)}`

  const called = <A>(call: (headers: ReturnType<typeof headersOf>) => Reached<A>) =>
    Effect.flatMap(CurrentRequest, (options) => call(headersOf(options, authorization))).pipe(
      Effect.catchTag("RpcClientError", (error) => Effect.fail(failed(error)))
    )

  const streamed = <A>(
    call: (
      headers: ReturnType<typeof headersOf>
    ) => Stream.Stream<A, GatewayError | RpcClientError.RpcClientError>
  ): Stream.Stream<A, GatewayError | ConnectionFailed> =>
    Stream.unwrap(Effect.map(CurrentRequest, (options) => call(headersOf(options, authorization)))).pipe(
      Stream.catchTag("RpcClientError", (error) => Stream.fail(failed(error)))
    )

  return {
    chat: (request) => called((headers) => client.chat(request, { headers })),
    streamChat: (request) => streamed((headers) => client.streamChat(request, { headers })),
    countTokens: (request) => called((headers) => client.countTokens(request, { headers })),
    embed: (request) => called((headers) => client.embed(request, { headers })),
    image: (request) => called((headers) => client.image(request, { headers })),
    streamImage: (request) => streamed((headers) => client.streamImage(request, { headers })),
    speak: (request) => called((headers) => client.speak(request, { headers })),
    streamSpeech: (request) => streamed((headers) => client.streamSpeech(request, { headers })),
    video: (request) => called((headers) => client.video(request, { headers })),
    transcribe: (request) => called((headers) => client.transcribe(request, { headers })),
    streamTranscribe: (request) => streamed((headers) => client.streamTranscribe(request, { headers })),
    models: called((headers) => client.models(undefined, { headers })),
    model: (id) => called((headers) => client.model({ id }, { headers })),
    routes: called((headers) => client.routes(undefined, { headers })),
    explain: (request) => called((headers) => client.explain(request, { headers })),
    usage: (question) => called((headers) => client.usage(question, { headers })),
    budgets: called((headers) => client.budgets(undefined, { headers })),
    createJob: (job, options) => called((headers) => client.createJob({ job, ...options }, { headers })),
    job: (id, options) => called((headers) => client.job({ id, ...options }, { headers })),
    watchJob: (id) => streamed((headers) => client.watchJob({ id }, { headers })),
    jobs: (question = {}) => called((headers) => client.jobs(question, { headers })),
    cancelJob: (id) => called((headers) => client.cancelJob({ id }, { headers })),
    redeliverWebhook: (id) => called((headers) => client.redeliverWebhook({ id }, { headers }))
  }
})

const serialization = RpcSerialization.layerNdjsonWith({ maxBufferSize: maxMessage })

/** A gateway's calls, wherever it is. */
export class GatewayClient
  extends Context.Service<GatewayClient, GatewayCalls<ConnectionFailed>>()("llm-gateway/client/GatewayClient")
{
  /** Over HTTP, one request for each call. */
  static readonly layerHttp = ({ key, url }: GatewayClientOptions): Layer.Layer<GatewayClient> =>
    Layer.effect(GatewayClient, overRpc(key)).pipe(
      Layer.provide(RpcClient.layerProtocolHttp({ url: `${withoutSlash(url)}/rpc` })),
      Layer.provide([FetchHttpClient.layer, serialization])
    )

  /**
   * Over one WebSocket for all calls. When it is lost the calls that are under way fail with `ConnectionFailed`, and it is
   * made anew by itself.
   */
  static readonly layerWebSocket = ({ key, url }: GatewayClientOptions): Layer.Layer<GatewayClient> =>
    Layer.effect(GatewayClient, overRpc(key)).pipe(
      Layer.provide(RpcClient.layerProtocolSocket({ retryPolicy: reconnect })),
      Layer.provide(Socket.layerWebSocket(`${withoutSlash(url).replace(/^http/, "ws")}/rpc/ws`)),
      Layer.provide([Socket.layerWebSocketConstructorGlobal, serialization])
    )

  /** Of the gateway in this process, with nothing in between: over `InProcess.layer` of its `Gateway`. */
  static readonly layerInProcess: Layer.Layer<GatewayClient, never, GatewayInProcess> = Layer.effect(
    GatewayClient,
    Effect.map(GatewayInProcess, (calls) => GatewayClient.of(calls))
  )
}
