/**
 * The `node:http` server under the service: its time limits, what it does with requests that are no HTTP, which upgrades
 * it takes, and how it drains.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { Duplex } from "node:stream"
import type { BeginningDrain } from "./Draining.ts"
import { newRequestId } from "../gateway/Exchange.ts"
import { fail, type GatewayError, invalid, Overloaded, PayloadTooLarge } from "../sdk/GatewayError.ts"

/** How an error is told. */
export type EncodeError = (
  error: GatewayError,
  requestId: string
) => { readonly status: number; readonly body: Readonly<Record<string, unknown>> }

/** How errors are told at an address. What cannot be read has none, and gets those of `/v1/`. */
export type EncodeErrorAt = (url: string) => EncodeError

/** How often a draining server closes connections that have become idle, ms. */
const sweepInterval = 50

/** Makes the server; it does not listen yet. The drain begins when it stops listening. */
export const make = (encodeErrorAt: EncodeErrorAt, drain: BeginningDrain): Server => {
  const server = createServer({
    // Slow requests must not hold a connection for ever; answers may take as long as the pipeline's timers allow.
    headersTimeout: 20_000,
    requestTimeout: 120_000,
    // Node looks for connections that are too slow only twice a minute otherwise, and closes them as late as that.
    connectionsCheckingInterval: 2_000,
    keepAliveTimeout: 65_000,
    noDelay: true,
    // Java's HttpClient offers HTTP/2 (h2c) with its first request. RFC 9110 section 7.8 lets a server go on in HTTP/1.1,
    // where Node would not read such a request's body. Versions of Node that do not know the option give every upgrade
    // to the router, as they always did.
    shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === "websocket"
  })
  answerUnreadable(server, encodeErrorAt("/v1/"))
  drainQuickly(server, drain)
  answerAtLast(server, encodeErrorAt, drain)
  return server
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests that are no HTTP
// ---------------------------------------------------------------------------------------------------------------------

interface Refusal {
  readonly statusLine: string
  readonly error: GatewayError
}

const refusals: Readonly<Record<string, Refusal>> = {
  HPE_HEADER_OVERFLOW: {
    statusLine: "431 Request Header Fields Too Large",
    error: fail(new PayloadTooLarge({ message: "the request's headers are too large" }))
  },
  HPE_CHUNK_EXTENSIONS_OVERFLOW: {
    statusLine: "413 Payload Too Large",
    error: fail(new PayloadTooLarge({ message: "the body's chunk extensions are too large" }))
  },
  ERR_HTTP_REQUEST_TIMEOUT: {
    statusLine: "408 Request Timeout",
    error: fail(invalid("", "the request took too long to arrive"))
  }
}

const noHttp: Refusal = { statusLine: "400 Bad Request", error: fail(invalid("", "the request is not valid HTTP")) }

/**
 * Gives those who send no HTTP, too much of it, or too slowly, an error with a body in place of Node's bare status line.
 */
const answerUnreadable = (server: Server, encodeError: EncodeError): void => {
  /** The answers that a connection still owes, and possibly some that it has given. */
  const owed = new WeakMap<Duplex, Array<ServerResponse>>()
  const note = ({ socket }: IncomingMessage, response: ServerResponse): void => {
    const responses = owed.get(socket)
    if (responses === undefined) {
      owed.set(socket, [response])
      return
    }
    // Answers go out in the order of their requests: when the last one is out, all are.
    if (responses.at(-1)?.writableFinished === true) responses.length = 0
    responses.push(response)
  }
  server.on("request", note)
  server.on("checkContinue", note)
  server.on("clientError", (cause: NodeJS.ErrnoException, socket) => {
    const amidAnswer = owed.get(socket)?.some((response) => response.headersSent && !response.writableFinished) === true
    // Another status line within an answer would be read as a part of it.
    if (!socket.writable || amidAnswer || cause.code === "ECONNRESET") {
      socket.destroy()
      return
    }
    const { error, statusLine } = refusals[cause.code ?? ""] ?? noHttp
    const requestId = newRequestId()
    const body = JSON.stringify(encodeError(error, requestId).body)
    const head = [
      `HTTP/1.1 ${statusLine}`,
      `x-request-id: ${requestId}`,
      "content-type: application/json",
      `content-length: ${Buffer.byteLength(body)}`,
      "connection: close"
    ].join("\r\n")
    socket.end(`${head}\r\n\r\n${body}`, () => socket.destroy())
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Draining
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Node keeps a connection that was busy when the server was closed open for the keep-alive time, although no further
 * request can come over it. Sweeping them lets a drain end with its last request.
 */
const drainQuickly = (server: Server, { begin }: BeginningDrain): void => {
  const close = server.close.bind(server)
  server.close = (callback) => {
    begin()
    const sweep = setInterval(() => server.closeIdleConnections(), sweepInterval)
    return close((error) => {
      clearInterval(sweep)
      callback?.(error)
    })
  }
}

const stops = fail(new Overloaded({ message: "the gateway stops and could not wait for this answer; try again" }))

/** Requests that have no answer when the time of a drain is up get an error, instead of a connection that is cut. */
const answerAtLast = (server: Server, encodeErrorAt: EncodeErrorAt, drain: BeginningDrain): void => {
  const waiting = new Map<ServerResponse, IncomingMessage>()
  const note = (request: IncomingMessage, response: ServerResponse): void => {
    waiting.set(response, request)
    response.once("close", () => waiting.delete(response))
  }
  server.on("request", note)
  server.on("checkContinue", note)
  drain.onCut(() => {
    for (const [response, { url = "" }] of waiting) {
      if (response.headersSent) continue
      const requestId = newRequestId()
      const { body, status } = encodeErrorAt(url)(stops, requestId)
      response.writeHead(status, {
        "content-type": "application/json",
        "x-request-id": requestId,
        "x-should-retry": "true",
        connection: "close"
      })
      response.end(JSON.stringify(body))
    }
  })
}
