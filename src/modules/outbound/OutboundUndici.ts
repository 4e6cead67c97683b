/**
 * Outbound over undici, called directly: `Agent.dispatch` with a handler of our own, because the fetch-like layers above
 * it cost several times more CPU a request than the transport itself.
 *
 * One agent (one pool of connections an origin) for each upstream. The transport's own header and body timers are off:
 * the pipeline has the timers. The connect timer lives here, because only the transport knows when a connection stands.
 */
import { Cause, Effect, Exit, Layer, Redacted, type Scope, Stream } from "effect"
import { Agent } from "undici"
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
import { Exchange } from "./Exchange.ts"

/** Connections to one origin at most; a request beyond them waits, under its connect timer. */
const maxConnections = 1024
/** Bytes of a streamed answer that may wait unread before the upstream is told to pause. */
const highWaterMark = 64 * 1024
const defaultMaxBytes = 64 * 1024 * 1024
const defaultConnectTimeout = 10_000

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

/** An answer that is read whole, up to a number of bytes. */
class WholeAnswer extends Exchange {
  #head: UpstreamHead = { status: 0, headers: {} }
  #bytes = 0
  readonly #chunks: Array<Buffer> = []
  readonly #maxBytes: number
  readonly #resume: (answer: Effect.Effect<UpstreamResponse, ProviderError>) => void

  constructor(
    provider: string,
    maxBytes: number,
    resume: (answer: Effect.Effect<UpstreamResponse, ProviderError>) => void
  ) {
    super(provider)
    this.#maxBytes = maxBytes
    this.#resume = resume
  }

  protected override head(head: UpstreamHead): void {
    this.#head = head
  }

  protected override data(bytes: Buffer): void {
    this.#bytes += bytes.length
    if (this.#bytes <= this.#maxBytes) this.#chunks.push(bytes)
    else {
      this.close()
      this.#resume(Effect.fail(tooLarge(this.provider, this.#maxBytes)))
    }
  }

  protected override end(): void {
    const { headers, status } = this.#head
    this.#resume(Effect.succeed({ status, headers, body: decodeUtf8(this.#chunks) }))
  }

  protected override failed(error: ProviderError): void {
    this.#resume(Effect.fail(error))
  }
}

type Pulled = readonly [Uint8Array, ...Array<Uint8Array>]

/** An answer that is read as it comes; it holds at most one socket read beyond the high-water mark. */
class StreamedAnswer extends Exchange {
  #chunks: Array<Uint8Array> = []
  #bytes = 0
  #outcome: Exit.Exit<never, ProviderError | Cause.Done> | undefined
  #wake: (() => void) | undefined
  readonly #resume: (head: Effect.Effect<UpstreamHead, ProviderError>) => void

  constructor(provider: string, resume: (head: Effect.Effect<UpstreamHead, ProviderError>) => void) {
    super(provider)
    this.#resume = resume
  }

  protected override head(head: UpstreamHead): void {
    this.#resume(Effect.succeed(head))
  }

  protected override data(bytes: Buffer): void {
    this.#chunks.push(bytes)
    this.#bytes += bytes.length
    if (this.#bytes >= highWaterMark) this.pause(true)
    this.#notify()
  }

  protected override end(): void {
    this.#finish(Exit.fail(Cause.Done()))
  }

  protected override failed(error: ProviderError): void {
    this.#resume(Effect.fail(error))
    this.#finish(Exit.fail(error))
  }

  #finish(outcome: Exit.Exit<never, ProviderError | Cause.Done>): void {
    this.#outcome ??= outcome
    this.#notify()
  }

  #notify(): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }

  #take(): Exit.Exit<Pulled, ProviderError | Cause.Done> | undefined {
    const [first, ...rest] = this.#chunks
    if (first === undefined) return this.#outcome
    this.#chunks = []
    this.#bytes = 0
    this.pause(false)
    return Exit.succeed([first, ...rest])
  }

  /** Everything that has arrived, as soon as anything has. */
  readonly pull: Effect.Effect<Pulled, ProviderError | Cause.Done> = Effect.suspend(() =>
    this.#take() ?? Effect.callback<Pulled, ProviderError | Cause.Done>((resume) => {
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

    /** The upstream's headers, and the credential's name among them; names in lower case, in which all are the same. */
    const ownHeaders: Record<string, string> = {}
    for (const [name, value] of Object.entries(options.headers ?? {})) ownHeaders[name.toLowerCase()] = value
    const { credential } = options
    const credentialName = credential?.type === "header" ? credential.name.toLowerCase() : "authorization"

    /** The request's headers with the credential last, so that nothing can put itself in its place. */
    const requestHeaders = (request: UpstreamRequest): Record<string, string> => {
      const headers: Record<string, string> = { ...ownHeaders }
      for (const name in request.headers) headers[name.toLowerCase()] = request.headers[name] ?? ""
      if (credential !== undefined) {
        const secret = Redacted.value(credential.secret)
        headers[credentialName] = credential.type === "bearer" ? `Bearer ${secret}` : secret
      }
      return headers
    }

    const start = <A extends Exchange>(request: UpstreamRequest, exchange: A): A => {
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
        const answer = start(request, new WholeAnswer(provider, request.maxBytes ?? defaultMaxBytes, resume))
        return Effect.sync(() => answer.close())
      })

    const stream = Effect.fnUntraced(
      function*(request: UpstreamRequest): Effect.fn.Return<UpstreamStream, ProviderError, Scope.Scope> {
        let answer: StreamedAnswer | undefined
        yield* Effect.addFinalizer(() => Effect.sync(() => answer?.close()))
        const head = yield* Effect.callback<UpstreamHead, ProviderError>((resume) => {
          const started = start(request, new StreamedAnswer(provider, resume))
          answer = started
          return Effect.sync(() => started.close())
        })
        const body = Stream.fromPull(Effect.succeed(answer === undefined ? Cause.done() : answer.pull))
        return {
          ...head,
          body,
          text: (maxBytes) =>
            Stream.runFold(body, () => ({ chunks: new Array<Uint8Array>(), size: 0 }), (read, chunk) => {
              if (read.size < maxBytes) read.chunks.push(chunk.subarray(0, maxBytes - read.size))
              read.size += chunk.length
              return read
            }).pipe(Effect.map((read) => decodeUtf8(read.chunks))),
          complete: () => answer?.complete()
        }
      }
    )

    return { request, stream }
  })

/** Outbound over undici. */
export const layer: Layer.Layer<Outbound> = Layer.succeed(Outbound, { upstream: makeUpstream })
