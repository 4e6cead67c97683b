/**
 * Outbound over undici, called directly: `Agent.dispatch` with a handler of our own, because the fetch-like layers above
 * it cost several times more CPU a request than the transport itself.
 *
 * One agent (one pool of connections an origin) for each upstream. The transport's own header and body timers are off:
 * the pipeline has the timers. The connect timer lives here, because only the transport knows when a connection stands.
 */
import { Cause, Effect, Exit, Layer, Redacted, type Scope, Stream } from "effect"
import { Agent, type Dispatcher } from "undici"
import {
  Outbound,
  type Upstream,
  type UpstreamHead,
  type UpstreamOptions,
  type UpstreamRequest,
  type UpstreamResponse,
  type UpstreamStream
} from "../../sdk/Outbound.ts"
import { ProviderError } from "../../sdk/Provider.ts"

/** Connections to one origin at most; a request beyond them waits, under its connect timer. */
const maxConnections = 1024
/** Bytes of a streamed answer that may wait unread before the upstream is told to pause. */
const highWaterMark = 64 * 1024
const defaultMaxBytes = 64 * 1024 * 1024
const defaultConnectTimeout = 10_000
/** How long an upstream may take to end a body whose content is complete, ms. */
const completionGrace = 1000

const aborted = new Error("the gateway closed the connection")

/** Error codes that mean a broken protocol rather than a broken connection. */
const isProtocolCode = (code: string) => code.startsWith("HPE_") || code.startsWith("UND_ERR_RES")

const codeOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "code" in error && typeof error.code === "string"
    ? error.code
    : "ERROR"

/** The transport's error as the provider's. It names the code alone: messages can hold addresses and header values. */
const transportError = (provider: string, error: unknown, phase: "connecting" | "answering"): ProviderError => {
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

const connectTimeoutError = (provider: string, limit: number): ProviderError =>
  new ProviderError({
    provider,
    kind: "transient",
    timeout: "connect",
    message: `no connection to the provider within ${limit} ms`
  })

const headersOf = (
  raw: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
): Record<string, string> => {
  const headers: Record<string, string> = Object.create(null)
  for (const name in raw) {
    const value = raw[name]
    if (value !== undefined) headers[name] = typeof value === "string" ? value : value.join(", ")
  }
  return headers
}

/** What an exchange tells its reader. */
interface Listener {
  readonly onHead: (head: UpstreamHead) => void
  readonly onData: (bytes: Buffer) => void
  readonly onEnd: () => void
  readonly onError: (error: ProviderError) => void
}

/** One request on its way. Runs its listener until the end, an error or `close`, whatever comes first. */
class Exchange implements Dispatcher.DispatchHandler {
  #controller: Dispatcher.DispatchController | undefined
  #phase: "connecting" | "answering" = "connecting"
  #closed = false
  #completing = false
  #paused = false
  readonly #provider: string
  readonly #listener: Listener
  #timer: NodeJS.Timeout | undefined

  constructor(provider: string, listener: Listener) {
    this.#provider = provider
    this.#listener = listener
  }

  /**
   * Starts the connect timer, after the dispatch: on a kept-alive connection the request has started by then, and needs
   * none. A timer of Node's own, since what it watches is a socket.
   */
  limitConnect(limit: number): void {
    if (this.#closed || this.#phase !== "connecting") return
    this.#timer = setTimeout(() => {
      if (this.#closed || this.#phase !== "connecting") return
      this.close()
      this.#listener.onError(connectTimeoutError(this.#provider, limit))
    }, limit)
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
    else this.#controller?.resume()
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
    if (!this.#closed && status >= 200) this.#listener.onHead({ status, headers: headersOf(headers) })
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#closed && !this.#completing) this.#listener.onData(chunk)
  }

  onResponseEnd(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    this.#listener.onEnd()
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    this.#listener.onError(transportError(this.#provider, error, this.#phase))
  }
}

/** Answers in flight are read into this; it holds at most one socket read beyond the high-water mark. */
class Body {
  #chunks: Array<Uint8Array> = []
  #bytes = 0
  #outcome: Exit.Exit<never, ProviderError | Cause.Done> | undefined
  #wake: (() => void) | undefined
  #exchange: Exchange | undefined

  attach(exchange: Exchange): void {
    this.#exchange = exchange
  }

  push(bytes: Uint8Array): void {
    this.#chunks.push(bytes)
    this.#bytes += bytes.length
    if (this.#bytes >= highWaterMark) this.#exchange?.pause(true)
    this.#notify()
  }

  finish(outcome: Exit.Exit<never, ProviderError | Cause.Done>): void {
    this.#outcome ??= outcome
    this.#notify()
  }

  #notify(): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }

  #take(): Exit.Exit<readonly [Uint8Array, ...Array<Uint8Array>], ProviderError | Cause.Done> | undefined {
    const [first, ...rest] = this.#chunks
    if (first === undefined) return this.#outcome
    this.#chunks = []
    this.#bytes = 0
    this.#exchange?.pause(false)
    return Exit.succeed([first, ...rest])
  }

  /** Everything that has arrived, as soon as anything has. */
  readonly pull: Effect.Effect<readonly [Uint8Array, ...Array<Uint8Array>], ProviderError | Cause.Done> = Effect
    .suspend(
      () =>
        this.#take() ??
          Effect.callback<readonly [Uint8Array, ...Array<Uint8Array>], ProviderError | Cause.Done>((resume) => {
            this.#wake = () => {
              const taken = this.#take()
              if (taken !== undefined) resume(taken)
            }
            return Effect.sync(() => {
              this.#wake = undefined
            })
          })
    )
}

const decodeUtf8 = (chunks: ReadonlyArray<Uint8Array>): string =>
  chunks.length === 1 && chunks[0] !== undefined
    ? Buffer.from(chunks[0].buffer, chunks[0].byteOffset, chunks[0].byteLength).toString("utf8")
    : Buffer.concat(chunks).toString("utf8")

const tooLarge = (provider: string, maxBytes: number) =>
  new ProviderError({
    provider,
    kind: "protocol",
    message: `the provider's answer is larger than ${maxBytes} bytes`
  })

/** Opens one upstream on an agent of its own. */
const makeUpstream = (options: UpstreamOptions): Effect.Effect<Upstream, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { provider } = options
    const base = new URL(options.baseUrl)
    const prefix = base.pathname.replace(/\/+$/, "")
    const agent = yield* Effect.acquireRelease(
      Effect.sync(() =>
        new Agent({
          connections: maxConnections,
          pipelining: 1,
          headersTimeout: 0,
          bodyTimeout: 0,
          keepAliveTimeout: 30_000,
          // The pipeline's connect timer is shorter; this one only frees what nobody waits for any more.
          connect: { timeout: 60_000, noDelay: true }
        })
      ),
      (agent) => Effect.promise(() => agent.destroy())
    )

    /** The request's headers with the credential last, so that nothing can put itself in its place. */
    const requestHeaders = (request: UpstreamRequest): Record<string, string> => {
      const headers: Record<string, string> = { ...options.headers, ...request.headers }
      if (options.credential?.type === "bearer") {
        headers["authorization"] = `Bearer ${Redacted.value(options.credential.secret)}`
      } else if (options.credential?.type === "header") {
        headers[options.credential.name] = Redacted.value(options.credential.secret)
      }
      return headers
    }

    const start = (request: UpstreamRequest, listener: Listener): Exchange => {
      const exchange = new Exchange(provider, listener)
      agent.dispatch({
        origin: base.origin,
        path: prefix + request.path,
        method: request.method,
        headers: requestHeaders(request),
        body: request.body ?? null
      }, exchange)
      exchange.limitConnect(request.connectTimeout ?? defaultConnectTimeout)
      return exchange
    }

    const request = (request: UpstreamRequest): Effect.Effect<UpstreamResponse, ProviderError> =>
      Effect.callback<UpstreamResponse, ProviderError>((resume) => {
        const maxBytes = request.maxBytes ?? defaultMaxBytes
        const chunks: Array<Buffer> = []
        let bytes = 0
        let head: UpstreamHead = { status: 0, headers: {} }
        const exchange = start(request, {
          onHead: (value) => {
            head = value
          },
          onData: (chunk) => {
            bytes += chunk.length
            if (bytes > maxBytes) {
              exchange.close()
              resume(Effect.fail(tooLarge(provider, maxBytes)))
            } else chunks.push(chunk)
          },
          onEnd: () => resume(Effect.succeed({ ...head, body: chunks.length === 0 ? "" : decodeUtf8(chunks) })),
          onError: (error) => resume(Effect.fail(error))
        })
        return Effect.sync(() => exchange.close())
      })

    const stream = (request: UpstreamRequest): Effect.Effect<UpstreamStream, ProviderError, Scope.Scope> =>
      Effect.gen(function*() {
        const body = new Body()
        let exchange: Exchange | undefined
        yield* Effect.addFinalizer(() => Effect.sync(() => exchange?.close()))
        const head = yield* Effect.callback<UpstreamHead, ProviderError>((resume) => {
          const started = start(request, {
            onHead: (head) => resume(Effect.succeed(head)),
            onData: (chunk) => body.push(chunk),
            onEnd: () => body.finish(Exit.fail(Cause.Done())),
            onError: (error) => {
              resume(Effect.fail(error))
              body.finish(Exit.fail(error))
            }
          })
          exchange = started
          body.attach(started)
          return Effect.sync(() => started.close())
        })
        const bytes = Stream.fromPull(Effect.succeed(body.pull))
        return {
          ...head,
          body: bytes,
          text: (maxBytes) =>
            Stream.runFold(bytes, () => ({ chunks: new Array<Uint8Array>(), size: 0 }), (read, chunk) => {
              if (read.size < maxBytes) read.chunks.push(chunk.subarray(0, maxBytes - read.size))
              read.size += chunk.length
              return read
            }).pipe(Effect.map((read) => read.chunks.length === 0 ? "" : decodeUtf8(read.chunks))),
          complete: () => exchange?.complete()
        }
      })

    return { request, stream }
  })

/** Outbound over undici. */
export const layer: Layer.Layer<Outbound> = Layer.succeed(Outbound, { upstream: makeUpstream })
