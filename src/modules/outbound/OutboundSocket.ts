/**
 * WebSockets to upstreams, over the package `ws`: undici's own has no way to pause what comes, and hands on each message as an
 * event of the browser's kind.
 */
import { Effect, type Scope } from "effect"
import type { IncomingMessage } from "node:http"
import { WebSocket } from "ws"
import type { UpstreamConnection } from "../../sdk/Outbound.ts"
import { ProviderError } from "../../sdk/Provider.ts"
import { RealtimeSocket } from "../../sdk/RealtimeSocket.ts"
import { connectTimeoutError, headersOf, transportError } from "./Exchange.ts"

/** How one WebSocket is opened. */
export interface SocketOptions {
  /** The provider's slug; errors carry it. */
  readonly provider: string
  /** `ws:` or `wss:`. */
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** Ms. */
  readonly connectTimeout: number
  /** Bytes. */
  readonly maxFrameBytes: number
}

/** Bytes of a refusal's body that are read. */
const maxRefusal = 64 * 1024
/** How long a refusal's body may take, and the other side's answer to a close frame, ms. */
const lastWords = 2_000

/** The address of a WebSocket below an upstream's HTTP address. */
export const socketUrl = (origin: string, path: string): string => origin.replace(/^http/, "ws") + path

/** The library takes this one, although its types do not know it: how long a close frame waits for the other side's. */
const closing: { readonly closeTimeout: number } = { closeTimeout: lastWords }
const socketOptions = { perMessageDeflate: false, followRedirects: false, ...closing }

/** Reads the start of a refusal's body; what breaks off is as good as its end. */
const readRefusal = (answer: IncomingMessage, done: (body: string) => void): void => {
  const chunks: Array<Buffer> = []
  let size = 0
  const timer = setTimeout(() => answer.destroy(), lastWords)
  answer.on("data", (chunk: Buffer) => {
    if (size < maxRefusal) chunks.push(chunk.subarray(0, maxRefusal - size))
    size += chunk.length
    if (size > maxRefusal) answer.destroy()
  })
  answer.on("error", () => undefined)
  answer.on("close", () => {
    clearTimeout(timer)
    done(Buffer.concat(chunks).toString("utf8"))
  })
}

/** An answer that is no WebSocket although it says so. */
const isHandshake = (error: Error): boolean =>
  !("code" in error) && /Sec-WebSocket|upgrade|protocol|extension/i.test(error.message)

const brokenHandshake = (provider: string): ProviderError =>
  new ProviderError({
    provider,
    kind: "protocol",
    code: "WS_HANDSHAKE",
    message: "the provider's answer to the WebSocket handshake is not valid"
  })

type Told = (connection: Effect.Effect<UpstreamConnection, ProviderError>) => void

/** Begins to open a socket; what comes of it is told once. */
const dial = ({ connectTimeout, headers, maxFrameBytes, provider, url }: SocketOptions, told: Told): WebSocket => {
  const socket = new WebSocket(url, { ...socketOptions, headers: { ...headers }, maxPayload: maxFrameBytes })
  let isLate = false
  // The library's own timer starts anew with the TLS handshake, and its error cannot be told from others.
  const timer = setTimeout(() => {
    isLate = true
    socket.terminate()
  }, connectTimeout)
  socket.on("open", () => {
    clearTimeout(timer)
    told(Effect.succeed({ status: 101, headers: {}, body: "", channel: new RealtimeSocket(socket) }))
  })
  socket.on("unexpected-response", (_request, answer) => {
    clearTimeout(timer)
    readRefusal(answer, (body) => {
      told(Effect.succeed({ status: answer.statusCode ?? 0, headers: headersOf(answer.headers), body }))
      socket.terminate()
    })
  })
  socket.on("error", (error) => {
    clearTimeout(timer)
    told(Effect.fail(
      isLate
        ? connectTimeoutError(provider, connectTimeout)
        : isHandshake(error)
        ? brokenHandshake(provider)
        : transportError(provider, error, "connecting")
    ))
  })
  return socket
}

/**
 * Opens a WebSocket, and gives it or the upstream's refusal. Fails with kind `transient` where no connection comes to be, with
 * `timeout: "connect"` where it takes too long. The scope owns the socket, and breaks it off where nobody has closed it.
 */
export const openSocket = (
  options: SocketOptions
): Effect.Effect<UpstreamConnection, ProviderError, Scope.Scope> =>
  Effect.suspend(() => {
    let socket: WebSocket | undefined
    const end = Effect.sync(() => {
      // One that is closing gets to say so; the library's timer sees to it that it ends.
      if (socket?.readyState !== WebSocket.CLOSING) socket?.terminate()
    })
    return Effect.andThen(
      Effect.addFinalizer(() => end),
      Effect.callback<UpstreamConnection, ProviderError>((resume) => {
        socket = dial(options, resume)
        return end
      })
    )
  })
