/**
 * The gateway's remote procedures at `/rpc` (one HTTP request for each call, answers as newline-delimited JSON) and `/rpc/ws` (a
 * WebSocket that carries many calls at once). The same keys, limits and records as over HTTP hold for every single call.
 */
import { ByteSize, Effect, Latch, Layer, Result } from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServerRequest, type HttpServerResponse } from "effect/http"
import { RpcSerialization, RpcServer } from "effect/rpc"
import { Socket } from "effect/socket"
import { describeDefect } from "../../gateway/Defect.ts"
import * as InProcess from "../../gateway/InProcess.ts"
import { type Caller, CurrentCaller, CurrentRequest } from "../../sdk/Caller.ts"
import { GatewayInProcess } from "../../sdk/GatewayCalls.ts"
import { fail, invalid, PayloadTooLarge } from "../../sdk/GatewayError.ts"
import { GatewayCaller, GatewayRpc } from "../../sdk/GatewayRpc.ts"
import { Identity } from "../../sdk/Identity.ts"
import { logOf } from "../../sdk/Log.ts"
import { Draining } from "../Draining.ts"
import { type Door, internal, requestIdIn, type RouteOptions, secretIn, visit } from "../Door.ts"
import { requestOptions } from "../RequestHeaders.ts"

const log = logOf("requests")

// ---------------------------------------------------------------------------------------------------------------------
// Who calls
// ---------------------------------------------------------------------------------------------------------------------

/** How many calls run, so that connections without any can be closed when the service stops. */
class Running {
  #calls = 0
  #idle = Latch.makeUnsafe(true)

  readonly begin = (): void => {
    if (this.#calls++ === 0) this.#idle.closeUnsafe()
  }

  readonly end = (): void => {
    if (--this.#calls === 0) this.#idle.openUnsafe()
  }

  /** Waits until no call runs. */
  readonly idle: Effect.Effect<void> = this.#idle.await
}

const asked = Effect.fnUntraced(function*<A, E, R>(
  handled: Effect.Effect<A, E, R>,
  headers: Readonly<Record<string, string | undefined>>,
  identity: Identity["Service"],
  running: Running
) {
  const caller: Caller = yield* identity.authenticate(secretIn(headers))
  const requestId = requestIdIn(headers)
  const options = yield* Effect.fromResult(Result.mapError(requestOptions(headers, requestId), fail))
  running.begin()
  return yield* handled.pipe(
    Effect.provideService(CurrentCaller, caller),
    Effect.provideService(CurrentRequest, { ...options, headers }),
    // One call's defect is its own: the others on its connection go on, and what broke is in the log alone.
    Effect.catchDefect((defect) =>
      Effect.andThen(
        log.error("a request failed with a defect", { requestId, ...describeDefect(defect) }),
        Effect.fail(internal(requestId))
      )
    ),
    Effect.ensuring(Effect.sync(running.end))
  )
})

const caller = (running: Running) =>
  Layer.effect(
    GatewayCaller,
    Effect.map(
      Identity,
      (identity) => GatewayCaller.of((handled, { headers }) => asked(handled, headers, identity, running))
    )
  )

const handlers = GatewayRpc.toLayer(Effect.map(GatewayInProcess, (gateway) =>
  GatewayRpc.of({
    chat: gateway.chat,
    streamChat: gateway.streamChat,
    countTokens: gateway.countTokens,
    embed: gateway.embed,
    image: gateway.image,
    streamImage: gateway.streamImage,
    speak: gateway.speak,
    streamSpeech: gateway.streamSpeech,
    video: gateway.video,
    transcribe: gateway.transcribe,
    streamTranscribe: gateway.streamTranscribe,
    models: () => gateway.models,
    model: ({ id }) => gateway.model(id),
    routes: () => gateway.routes,
    explain: gateway.explain,
    usage: gateway.usage,
    budgets: () => gateway.budgets,
    createJob: ({ job, ...options }) => gateway.createJob(job, options),
    job: ({ id, ...options }) => gateway.job(id, options),
    watchJob: ({ id }) => gateway.watchJob(id),
    jobs: gateway.jobs,
    cancelJob: ({ id }) => gateway.cancelJob(id),
    redeliverWebhook: ({ id }) => gateway.redeliverWebhook(id)
  })))

// ---------------------------------------------------------------------------------------------------------------------
// The two ways
// ---------------------------------------------------------------------------------------------------------------------

/** Calls that are under way are the caller's to bound, by its limits of concurrent requests. */
const options = { disableTracing: true, disableFatalDefects: true } as const

/** Messages of one body, or of one frame, at most: each is a call of its own, and a short body could hold a hundred thousand. */
const maxMessages = 1_000

/** Newline-delimited JSON, no line of which is longer than a body may be, and not too many of them at once. */
const bounded = (maxBytes: number): RpcSerialization.RpcSerialization["Service"] => {
  const ndjson = RpcSerialization.makeNdjson({ maxBufferSize: maxBytes })
  return {
    ...ndjson,
    makeUnsafe: () => {
      const parser = ndjson.makeUnsafe()
      return {
        ...parser,
        decode: (bytes) => {
          const messages = parser.decode(bytes)
          if (messages.length > maxMessages) throw new Error(`more than ${maxMessages} messages at once`)
          return messages
        }
      }
    }
  }
}

/** Chunks of a streamed answer that wait for a caller that is slow to read; each holds what came together. */
const streamBufferSize = 4

/**
 * A body that is too large, or none of these messages, is refused as over HTTP. What the protocol itself does not take dies, and
 * a client would read an error without a word.
 */
const guarded = <E, R>(
  handled: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>,
  door: Door,
  maxBodyBytes: number
) =>
  Effect.catchDefect(handled, () =>
    visit(door, () =>
      Effect.fail(fail(
        new PayloadTooLarge({
          message: `the body could not be read, or is larger than ${maxBodyBytes} bytes`,
          maxBytes: maxBodyBytes
        })
      ))))

const overHttp = (door: Door, { maxBodyBytes }: RouteOptions) =>
  Layer.effectDiscard(Effect.gen(function*() {
    const router = yield* HttpRouter.HttpRouter
    const answered = yield* RpcServer.toHttpEffect(GatewayRpc, { ...options, streamBufferSize })
    // Also on the router of an app, whose server has a bound of its own, or none.
    const capped = Effect.provideService(answered, HttpIncomingMessage.MaxBodySize, ByteSize.bytes(maxBodyBytes))
    yield* router.add("POST", "/rpc", guarded(capped, door, maxBodyBytes))
  }))

const noUpgrade = Effect.fail(fail(invalid("", "this address takes WebSockets alone; calls over HTTP go to /rpc")))

/** RFC 6455, section 7.4.1, and the IANA registry: the service restarts, and it is worth connecting again. */
const restarts = new Socket.CloseEvent(1012, "the gateway stops; connect again")

/** How long the end of the last call may take to be on its way, ms. */
const lastWords = 50

/** Closes a socket when the service stops, as soon as no call runs. */
const untilDrained = (socket: Socket.Socket, running: Running) =>
  Effect.gen(function*() {
    const { begun } = yield* Draining
    yield* begun
    yield* running.idle
    // A call is over before its end is written.
    yield* Effect.sleep(lastWords)
    yield* running.idle
    const writer = yield* socket.writer
    yield* Effect.ignore(writer.write(restarts))
  })

const overWebSocket = (door: Door, running: Running) =>
  Layer.effectDiscard(Effect.gen(function*() {
    const router = yield* HttpRouter.HttpRouter
    const draining = yield* Draining
    const upgraded = yield* RpcServer.toHttpEffectWebsocket(GatewayRpc, options)
    const refused = visit(door, () => noUpgrade)
    const connected = Effect.fnUntraced(function*() {
      const request = yield* HttpServerRequest.HttpServerRequest
      if (request.headers["upgrade"]?.toLowerCase() !== "websocket") return yield* refused
      const socket = yield* Effect.orDie(request.upgrade)
      yield* Effect.forkScoped(untilDrained(socket, running))
      // The protocol upgrades the request by itself, and is to get the socket that is watched here.
      const watched: HttpServerRequest.HttpServerRequest = Object.create(request, {
        upgrade: { value: Effect.succeed(socket) }
      })
      return yield* Effect.provideService(upgraded, HttpServerRequest.HttpServerRequest, watched)
    })
    yield* router.add("GET", "/rpc/ws", Effect.provideService(connected(), Draining, draining))
  }))

/** Mounts both ways on the router; `door` is how they refuse what is no call. */
export const layer = (door: Door, routes: RouteOptions) => {
  const running = new Running()
  return Layer.mergeAll(overHttp(door, routes), overWebSocket(door, running)).pipe(
    Layer.provide(Layer.succeed(RpcSerialization.RpcSerialization, bounded(routes.maxBodyBytes))),
    Layer.provide(Layer.mergeAll(caller(running), handlers.pipe(Layer.provide(InProcess.layer))))
  )
}
