/**
 * The server's side of a WebSocket handshake. Effect's own upgrade hides how much waits to be sent and knows no pings, which a
 * session cannot do without, so it is done here, over the same package.
 */
import { NodeHttpServerRequest } from "@effect/platform-node"
import { Effect, Exit, Result, type Scope } from "effect"
import type { HttpServerRequest } from "effect/http"
import { IncomingMessage } from "node:http"
import { WebSocket, WebSocketServer } from "ws"
import { fail, type GatewayError, invalid, type ValidationError } from "../../sdk/GatewayError.ts"
import type { RealtimeChannel } from "../../sdk/Realtime.ts"
import { RealtimeSocket } from "../../sdk/RealtimeSocket.ts"

/** How long the other side may take to answer a close frame, ms. */
const lastWords = 2_000

/** The library takes this one, although its types do not know it. */
const closing: { readonly closeTimeout: number } = { closeTimeout: lastWords }

/** What browsers, which can set no headers, offer as a subprotocol in their place. */
const keyPrefix = "openai-insecure-api-key."
const betaPrefix = "openai-beta."

/** The subprotocols that a request offers, in their order. */
const offered = (headers: Readonly<Record<string, string | undefined>>): ReadonlyArray<string> =>
  (headers["sec-websocket-protocol"] ?? "").split(",").map((name) => name.trim()).filter((name) => name !== "")

const after = (headers: Readonly<Record<string, string | undefined>>, prefix: string): string | undefined =>
  offered(headers).find((name) => name.startsWith(prefix))?.slice(prefix.length)

/** The key among the subprotocols that a request offers. */
export const keyInProtocols = (headers: Readonly<Record<string, string | undefined>>): string | undefined =>
  after(headers, keyPrefix)

/** The version of the protocol that a request asks for, as the `openai-beta` header has it: `realtime=v1`. */
export const betaOf = (headers: Readonly<Record<string, string | undefined>>): string | undefined =>
  headers["openai-beta"] ?? after(headers, betaPrefix)?.replace("-", "=")

const handshakeKey = /^[+/0-9A-Za-z]{22}==$/

/** Refuses what is no handshake (RFC 6455, section 4.2.1), before anything is done for it. */
export const checkHandshake = (
  { headers }: HttpServerRequest.HttpServerRequest
): Result.Result<void, ValidationError> => {
  if (headers["upgrade"]?.toLowerCase() !== "websocket") {
    return Result.fail(invalid("", "this address takes WebSockets alone: send upgrade: websocket"))
  }
  const version = headers["sec-websocket-version"]
  return version !== "13" || !handshakeKey.test(headers["sec-websocket-key"] ?? "")
    ? Result.fail(invalid("", "this is no WebSocket handshake of version 13"))
    : Result.void
}

/** Does the handshakes of one service. `maxFrameBytes` is the largest message that a caller may send. */
export class Upgrades {
  readonly #server: WebSocketServer
  readonly #watched = new WeakMap<IncomingMessage, () => void>()
  readonly #headers = new WeakMap<IncomingMessage, Readonly<Record<string, string>>>()

  constructor(maxFrameBytes: number) {
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: maxFrameBytes,
      // The key is never said back; without a name that both know the connection has none.
      handleProtocols: (names) => names.has("realtime") ? "realtime" : false,
      ...closing
    })
    this.#server.on("headers", (lines, request) => {
      for (const [name, value] of Object.entries(this.#headers.get(request) ?? {})) lines.push(`${name}: ${value}`)
    })
    this.#server.on("wsClientError", (_error, socket) => void socket.destroy())
  }

  /**
   * Has a caller noticed that leaves before its handshake is complete: Node reads nothing from a connection that asks for an
   * upgrade, and so does not see it close. Then its request is interrupted as any other's.
   */
  readonly watch = (request: HttpServerRequest.HttpServerRequest): Effect.Effect<void> =>
    Effect.sync(() => {
      const incoming = NodeHttpServerRequest.toIncomingMessage(request)
      if (!(incoming instanceof IncomingMessage)) return
      const { socket } = incoming
      const left = (): void => void socket.destroy()
      socket.once("end", left)
      socket.resume()
      this.#watched.set(incoming, left)
    })

  /**
   * Completes the handshake of a request. At the end of the scope the connection is closed, at the latest when its other side
   * has had its time to answer. Fails where the connection is lost before.
   */
  readonly accept = (
    request: HttpServerRequest.HttpServerRequest,
    headers: Readonly<Record<string, string>>
  ): Effect.Effect<RealtimeChannel, GatewayError, Scope.Scope> =>
    Effect.map(Effect.acquireRelease(this.#upgraded(request, headers), closed), (socket) => new RealtimeSocket(socket))

  #upgraded(
    request: HttpServerRequest.HttpServerRequest,
    headers: Readonly<Record<string, string>>
  ): Effect.Effect<WebSocket, GatewayError> {
    const incoming = NodeHttpServerRequest.toIncomingMessage(request)
    if (!(incoming instanceof IncomingMessage)) {
      return Effect.fail(fail(invalid("", "WebSockets need HTTP/1.1")))
    }
    return Effect.callback((resume) => {
      const { socket } = incoming
      const lost = (): void => resume(Effect.interrupt)
      if (socket.destroyed) {
        lost()
        return
      }
      socket.once("close", lost)
      this.#headers.set(incoming, headers)
      const left = this.#watched.get(incoming)
      if (left !== undefined) socket.off("end", left)
      socket.pause()
      // A caller may send nothing before it has the answer (RFC 6455, section 4.1).
      this.#server.handleUpgrade(incoming, socket, Buffer.alloc(0), (upgraded) => {
        socket.off("close", lost)
        // Nothing more may be lost or thrown until somebody listens.
        upgraded.on("error", () => undefined)
        upgraded.pause()
        resume(Effect.succeed(upgraded))
      })
    })
  }
}

/** Waits until a connection is over. What nobody has closed by now was interrupted. */
const closed = (socket: WebSocket, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    if (socket.readyState === WebSocket.CLOSED) {
      resume(Effect.void)
      return
    }
    socket.once("close", () => resume(Effect.void))
    if (Exit.isFailure(exit)) socket.terminate()
    else if (socket.readyState === WebSocket.OPEN) socket.close(1011)
  })
