/**
 * One request to an upstream on its way through undici. An abstract class whose methods undici calls, rather than a record
 * of callbacks: V8 allocates function literals in object literals straight in its old space, where four of them a request
 * kept everything that they refer to alive until a full garbage collection.
 */
import type { Readable } from "node:stream"
import type { Dispatcher } from "undici"
import type { UpstreamHead } from "../../sdk/Outbound.ts"
import { ProviderError } from "../../sdk/Provider.ts"

/** How long an upstream may take to end a body whose content is complete, ms. */
const completionGrace = 1000

const aborted = new Error("the gateway closed the connection")

/** Error codes that mean a broken protocol rather than a broken connection. */
const isProtocolCode = (code: string) =>
  code.startsWith("HPE_") || code.startsWith("UND_ERR_RES") || code === "UND_ERR_HEADERS_OVERFLOW"

const codeOf = (error: unknown): string => {
  if (typeof error !== "object" || error === null) return "ERROR"
  if ("code" in error && typeof error.code === "string") return error.code
  // undici's parser errors name themselves, and do not always have a code.
  return "name" in error && error.name === "HTTPParserError" ? "HPE_INVALID" : "ERROR"
}

/** The transport's error as the provider's. It names the code alone: messages can hold addresses and header values. */
export const transportError = (provider: string, error: unknown, phase: "connecting" | "answering"): ProviderError => {
  const code = codeOf(error)
  return new ProviderError({
    provider,
    kind: isProtocolCode(code) ? "protocol" : "transient",
    code,
    message: phase === "connecting"
      ? `cannot reach the provider (${code})`
      : isProtocolCode(code)
      ? `the provider's answer is not valid HTTP (${code})`
      : `the connection to the provider broke (${code})`
  })
}

/** Errors of bodies that were being sent: they say nothing of the upstream. */
const bodyFailures = new WeakSet<ProviderError>()

/** Whether the request's own body broke it. */
export const isBodyFailure = (error: ProviderError): boolean => bodyFailures.has(error)

/** The failure of a connection that took too long; `limit` in ms. */
export const connectTimeoutError = (provider: string, limit: number): ProviderError =>
  new ProviderError({
    provider,
    kind: "transient",
    timeout: { phase: "connect", limitMs: limit },
    message: `no connection to the provider within ${limit} ms`
  })

/** An answer's headers, those that are repeated joined. */
export const headersOf = (
  raw: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
): Record<string, string> => {
  const headers: Record<string, string> = Object.create(null)
  for (const name in raw) {
    const value = raw[name]
    if (value !== undefined) headers[name] = typeof value === "string" ? value : value.join(", ")
  }
  return headers
}

/** One request on its way. Tells what comes of it until the end, an error or `close`, whatever comes first. */
export abstract class Exchange implements Dispatcher.DispatchHandler {
  #controller: Dispatcher.DispatchController | undefined
  #phase: "connecting" | "answering" = "connecting"
  #closed = false
  #completing = false
  #paused = false
  #timer: NodeJS.Timeout | undefined
  #body: Readable | undefined
  /** The provider's slug; errors carry it. */
  readonly provider: string

  constructor(provider: string) {
    this.provider = provider
  }

  /** The head of the answer is there. */
  protected abstract head(head: UpstreamHead): void
  /** Some of the body is there. */
  protected abstract data(bytes: Buffer): void
  /** The whole answer has come. */
  protected abstract end(): void
  /** There is no more to come. */
  protected abstract failed(error: ProviderError): void

  /**
   * Starts the connect timer, after the dispatch: on a kept-alive connection the request has started by then, and needs
   * none. A timer of Node's own, since what it watches is a socket.
   */
  limitConnect(limit: number): void {
    if (this.#closed || this.#phase !== "connecting") return
    this.#timer = setTimeout(() => {
      if (this.#closed || this.#phase !== "connecting") return
      this.close()
      this.failed(connectTimeoutError(this.provider, limit))
    }, limit)
  }

  /** Has the request's streamed body end with the exchange, also where it never came to be sent. */
  owns(body: Readable): void {
    this.#body = body
  }

  /** Ends the exchange: destroys its socket if the answer is not complete. A request still queued is never written. */
  close(): void {
    if (!this.#completing) this.#abort()
  }

  #abort(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    this.#controller?.abort(aborted)
    this.#body?.destroy()
  }

  /** Lets the answer run out unread, so that its connection can be used again; ends it if that takes long. */
  complete(): void {
    if (this.#closed || this.#completing) return
    this.#completing = true
    this.pause(false)
    this.#timer = setTimeout(() => this.#abort(), completionGrace)
    this.#timer.unref()
  }

  /** Stops or resumes reading from the socket. */
  pause(paused: boolean): void {
    if (this.#paused === paused || this.#closed) return
    this.#paused = paused
    if (paused) this.#controller?.pause()
    // undici must not be told to go on from within its parser, and who reads may be woken there, by any answer's bytes.
    else {
      queueMicrotask(() => {
        if (!this.#paused && !this.#closed) this.#controller?.resume()
      })
    }
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#closed) {
      controller.abort(aborted)
      return
    }
    this.#controller = controller
    this.#phase = "answering"
    clearTimeout(this.#timer)
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
  ): void {
    // 1xx heads announce another one (RFC 9110 section 15.2).
    if (!this.#closed && status >= 200) this.head({ status, headers: headersOf(headers) })
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#closed && !this.#completing) this.data(chunk)
  }

  onResponseEnd(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    this.end()
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    this.#body?.destroy()
    // undici hands on what broke a body that it was sending.
    if (error instanceof ProviderError) bodyFailures.add(error)
    this.failed(error instanceof ProviderError ? error : transportError(this.provider, error, this.#phase))
  }
}
