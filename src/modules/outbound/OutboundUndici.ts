/**
 * Outbound over undici, called directly: `Agent.dispatch` with a handler of our own, because the fetch-like layers above
 * it cost several times more CPU a request than the transport itself.
 *
 * One agent (one pool of connections an origin) for each upstream. The transport's own header and body timers are off:
 * the pipeline has the timers. The connect timer lives here, because only the transport knows when a connection stands.
 *
 * A request passes its breaker once, and then goes out with one key after the other until one is accepted. The breaker is
 * told how the last of these calls ended.
 */
import { NodeStream } from "@effect/platform-node"
import { Cause, Context, Effect, Exit, identity, Layer, Redacted, Scope, Stream } from "effect"
import { CircuitBreaker } from "effect/persistence"
import { Readable } from "node:stream"
import { Agent } from "undici"
import { Breakers, type EndpointClass } from "../../sdk/Breakers.ts"
import {
  type ConnectionPool,
  ConnectionPools,
  Outbound,
  type Secret,
  type StreamedBody,
  type Upstream,
  type UpstreamConnect,
  type UpstreamConnection,
  type UpstreamHead,
  type UpstreamOptions,
  type UpstreamRequest,
  type UpstreamResponse,
  type UpstreamStream
} from "../../sdk/Outbound.ts"
import { ProviderError } from "../../sdk/Provider.ts"
import * as Circuits from "./Circuits.ts"
import { Exchange, isBodyFailure } from "./Exchange.ts"
import * as KeyPool from "./KeyPool.ts"
import { openSocket, socketUrl } from "./OutboundSocket.ts"

/** Connections to one origin at most; a request beyond them waits, under its connect timer. */
const maxConnections = 1024
/** Bytes of a streamed answer that may wait unread before the upstream is told to pause. */
const highWaterMark = 64 * 1024
const defaultMaxBytes = 64 * 1024 * 1024
const defaultConnectTimeout = 10_000

/** Options of the Layer. */
export interface Options {
  readonly breaker?: Circuits.CircuitOptions
  /**
   * The operator's connect timer, ms; default 10000. A connection that takes longer counts against the upstream, one that a
   * caller's own shorter timer gave up does not. A function is asked each time.
   */
  readonly connectTimeout?: number | (() => number)
}

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
    // First, because who waits for the head may ask for the outcome as soon as it is resumed.
    this.#finish(Exit.fail(error))
    this.#resume(Effect.fail(error))
  }

  /** How the body ended: absent while it goes on, and where it was left early. */
  outcome(): Exit.Exit<never, ProviderError | Cause.Done> | undefined {
    return this.#outcome
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

// ---------------------------------------------------------------------------------------------------------------------
// What a call says about its upstream
// ---------------------------------------------------------------------------------------------------------------------

/** Errors of this machine or this process rather than of the upstream. */
const own: ReadonlySet<string> = new Set([
  "EADDRNOTAVAIL",
  "EMFILE",
  "ENFILE",
  "ENOBUFS",
  "UND_ERR_CLOSED",
  "UND_ERR_DESTROYED",
  "UND_ERR_INVALID_ARG",
  "UND_ERR_REQ_CONTENT_LENGTH_MISMATCH",
  "UND_ERR_NOT_SUPPORTED"
])

/** Connections that fail, broken HTTP, and connect timers that are not a caller's own shorter one. */
const outcomeOfError = (error: ProviderError, connectTimeout: number): Circuits.Outcome => {
  if (isBodyFailure(error)) return "Ignored"
  if (error.timeout !== undefined) return error.timeout.limitMs >= connectTimeout ? "Failure" : "Ignored"
  // Without a code of the transport's it is a refusal of our own: an answer too large, keys used up.
  if (error.code === undefined || (error.kind !== "transient" && error.kind !== "protocol")) return "Ignored"
  return own.has(error.code) ? "Ignored" : "Failure"
}

/** An upstream that refuses a request is well; one that says it has too many says nothing of its health. */
const outcomeOfStatus = (status: number): Circuits.Outcome =>
  status >= 500 ? "Failure" : status === 408 || status === 429 ? "Ignored" : "Success"

const chatPath = /\/(?:chat\/completions|completions|messages|responses|api\/(?:chat|generate))$/
const modelsPath = /\/(?:models|api\/(?:tags|show|version))$/

/** The breaker that a path belongs to. */
const endpointOf = (request: UpstreamRequest): EndpointClass => {
  if (request.endpoint !== undefined) return request.endpoint
  const path = request.path.split("?", 1)[0] ?? ""
  return chatPath.test(path) ? "chat" : modelsPath.test(path) ? "models" : "other"
}

// ---------------------------------------------------------------------------------------------------------------------
// Upstreams
// ---------------------------------------------------------------------------------------------------------------------

/** A request's body as undici takes it. */
type SentBody = string | Uint8Array | Readable | null

const isStreamed = (body: UpstreamRequest["body"]): body is StreamedBody => typeof body === "object" && "stream" in body

const isOnce = (body: UpstreamRequest["body"]): boolean => isStreamed(body) && body.once === true

const pinned = ({ key }: Pick<UpstreamRequest, "key">) => key === undefined ? {} : { key }

/** Opens one upstream on an agent of its own. */
const makeUpstream = (
  options: UpstreamOptions,
  circuits: Circuits.Circuits,
  agents: Map<Agent, string>,
  configuredConnectTimeout: () => number
): Effect.Effect<Upstream, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { provider } = options
    const base = new URL(options.baseUrl)
    const prefix = base.pathname.replace(/\/+$/, "")
    const agent = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const made = new Agent({
          connections: maxConnections,
          pipelining: 1,
          headersTimeout: 0,
          bodyTimeout: 0,
          keepAliveTimeout: 30_000,
          // The pipeline's connect timer is shorter; this one only frees what nobody waits for any more.
          connect: { timeout: 60_000, noDelay: true }
        })
        agents.set(made, provider)
        return made
      }),
      (agent) =>
        Effect.promise(() => {
          agents.delete(agent)
          return agent.destroy()
        })
    )

    /** The upstream's headers, and the credential's name among them; names in lower case, in which all are the same. */
    const ownHeaders: Record<string, string> = {}
    for (const [name, value] of Object.entries(options.headers ?? {})) ownHeaders[name.toLowerCase()] = value
    const { credential } = options
    const credentialName = credential?.type === "header" ? credential.name.toLowerCase() : "authorization"
    const secrets = credential === undefined ? [] : distinct(credential.secret)
    const [onlySecret] = secrets
    const retryAfter = options.retryAfter ?? (() => undefined)
    const pool = secrets.length > 1 ? KeyPool.make(provider, secrets, retryAfter) : undefined

    /** The request's headers with the credential last, so that nothing can put itself in its place. */
    const requestHeaders = (
      { body, headers: asked }: Pick<UpstreamRequest, "body" | "headers">,
      key: Redacted.Redacted | undefined
    ): Record<string, string> => {
      const headers: Record<string, string> = { ...ownHeaders }
      for (const name in asked) headers[name.toLowerCase()] = asked[name] ?? ""
      if (isStreamed(body) && body.bytes !== undefined) headers["content-length"] = String(body.bytes)
      if (key !== undefined) {
        const secret = Redacted.value(key)
        headers[credentialName] = credential?.type === "bearer" ? `Bearer ${secret}` : secret
      }
      return headers
    }

    const start = <A extends Exchange>(
      request: UpstreamRequest,
      key: Redacted.Redacted | undefined,
      body: SentBody,
      exchange: A
    ): A => {
      if (body instanceof Readable) exchange.owns(body)
      agent.dispatch({
        origin: base.origin,
        path: prefix + request.path,
        method: request.method,
        headers: requestHeaders(request, key),
        body
      }, exchange)
      exchange.limitConnect(request.connectTimeout ?? defaultConnectTimeout)
      return exchange
    }

    /** The answer, with what has become of the breaker where it counts against the upstream. */
    const settleHead = <A extends UpstreamHead>(permit: Circuits.Permit, head: A): Effect.Effect<A> => {
      const outcome = outcomeOfStatus(head.status)
      return outcome === "Failure"
        ? Effect.map(
          permit.settle(outcome, retryAfter(head.headers)),
          (open) => open ? { ...head, breaker: "opened" } : head
        )
        : Effect.as(permit.settle(outcome), head)
    }

    const settleError = (permit: Circuits.Permit, error: ProviderError): Effect.Effect<boolean> =>
      permit.settle(outcomeOfError(error, configuredConnectTimeout()))

    const failWith = (permit: Circuits.Permit) => (error: ProviderError): Effect.Effect<never, ProviderError> =>
      Effect.flatMap(
        settleError(permit, error),
        (open) => Effect.fail(open ? new ProviderError({ ...error, message: error.message, breaker: "opened" }) : error)
      )

    /** What a call has come to, once its breaker knows it. */
    const concluded = <A extends UpstreamHead>(
      permit: Circuits.Permit,
      exit: Exit.Exit<A, ProviderError>
    ): Effect.Effect<A, ProviderError> => {
      if (Exit.isSuccess(exit)) return settleHead(permit, exit.value)
      const failure = exit.cause.reasons.find(Cause.isFailReason)
      if (failure !== undefined) return failWith(permit)(failure.error)
      // The caller has left: that says nothing of the upstream.
      return Effect.andThen(permit.settle("Ignored"), Effect.failCause(exit.cause))
    }

    const sendWhole = (request: UpstreamRequest, key: Redacted.Redacted | undefined, body: SentBody) =>
      Effect.callback<UpstreamResponse, ProviderError>((resume) => {
        const answer = start(request, key, body, new WholeAnswer(provider, request.maxBytes ?? defaultMaxBytes, resume))
        return Effect.sync(() => answer.close())
      })

    const requestOnce = (request: UpstreamRequest, key: Redacted.Redacted | undefined) =>
      isStreamed(request.body)
        ? Effect.flatMap(NodeStream.toReadable(request.body.stream), (body) => sendWhole(request, key, body))
        : sendWhole(request, key, request.body ?? null)

    const request = (request: UpstreamRequest): Effect.Effect<UpstreamResponse, ProviderError> =>
      Effect.uninterruptibleMask((restore) => {
        // Only a probe puts anything into it, so only a probe's is worth closing.
        const scope = Scope.makeUnsafe()
        return Effect.flatMap(
          Scope.provide(circuits.get(provider, endpointOf(request)).admit(request.force === true), scope),
          (permit) =>
            restore(
              pool === undefined
                ? requestOnce(request, onlySecret)
                : pool.send({
                  ...pinned(request),
                  send: (key) => requestOnce(request, key),
                  discard: () => {},
                  once: isOnce(request.body)
                })
            ).pipe(
              Effect.exit,
              Effect.flatMap((exit) => concluded(permit, exit)),
              permit.probe ? Effect.ensuring(Scope.close(scope, Exit.void)) : identity
            )
        )
      })

    const stream = Effect.fnUntraced(
      function*(request: UpstreamRequest): Effect.fn.Return<UpstreamStream, ProviderError, Scope.Scope> {
        let answer: StreamedAnswer | undefined
        let completed = false
        let passed = false
        const circuit = circuits.get(provider, endpointOf(request))
        const permit = yield* Effect.acquireRelease(circuit.admit(request.force === true), (permit) =>
          Effect.suspend(() => {
            answer?.close()
            const outcome = answer?.outcome()
            if (outcome !== undefined && Exit.isFailure(outcome)) {
              const failure = outcome.cause.reasons.find(Cause.isFailReason)
              if (failure !== undefined && !Cause.isDone(failure.error)) {
                return passed ? circuit.fail : settleError(permit, failure.error)
              }
            }
            return permit.settle(completed || outcome !== undefined ? "Success" : "Ignored")
          }))
        const openWith = (key: Redacted.Redacted | undefined, requestBody: SentBody) =>
          Effect.callback<UpstreamHead & { readonly answer: StreamedAnswer }, ProviderError>((resume) => {
            const started = new StreamedAnswer(
              provider,
              (head) =>
                resume(Effect.map(head, ({ headers, status }) => ({ status, headers, answer: started })))
            )
            answer = started
            start(request, key, requestBody, started)
            return Effect.sync(() =>
              started.close()
            )
          })
        const open = (key: Redacted.Redacted | undefined) =>
          isStreamed(request.body)
            ? Effect.flatMap(NodeStream.toReadable(request.body.stream), (requestBody) => openWith(key, requestBody))
            : openWith(key, request.body ?? null)
        const sent = yield* Effect.catch(
          pool === undefined
            ? open(onlySecret)
            : pool.send({
              ...pinned(request),
              send: open,
              discard: ({ answer }) => answer.complete(),
              once: isOnce(request.body)
            }),
          failWith(permit)
        )
        const answered = sent.status >= 200 && sent.status < 300
        const { answer: read, ...head } = answered ? sent : yield* settleHead(permit, sent)
        answer = read
        // Others wait for a probe, so it does not last as long as the stream: it has passed when the body has begun.
        const pull = permit.probe && answered
          ? Effect.tap(read.pull, () => {
            passed = true
            return permit.settle("Success")
          })
          : read.pull
        const body = Stream.fromPull(Effect.succeed(pull))
        return {
          ...head,
          body,
          text: (maxBytes) =>
            Stream.runFold(body, () => ({ chunks: new Array<Uint8Array>(), size: 0 }), (read, chunk) => {
              if (read.size < maxBytes) read.chunks.push(chunk.subarray(0, maxBytes - read.size))
              read.size += chunk.length
              return read
            }).pipe(Effect.map((read) => decodeUtf8(read.chunks))),
          complete: () => {
            completed = true
            read.complete()
          }
        }
      }
    )

    const connectOnce = (request: UpstreamConnect, key: Redacted.Redacted | undefined) =>
      openSocket({
        provider,
        url: socketUrl(base.origin, prefix + request.path),
        headers: requestHeaders(request, key),
        connectTimeout: request.connectTimeout ?? defaultConnectTimeout,
        maxFrameBytes: request.maxFrameBytes
      })

    const connect = Effect.fnUntraced(
      function*(request: UpstreamConnect): Effect.fn.Return<UpstreamConnection, ProviderError, Scope.Scope> {
        // A connection that stands has passed the breaker; how long it lasts says nothing more.
        const permit = yield* Effect.acquireRelease(
          circuits.get(provider, request.endpoint).admit(request.force === true),
          (permit) => permit.settle("Ignored")
        )
        const exit = yield* Effect.exit(
          pool === undefined
            ? connectOnce(request, onlySecret)
            : pool.send({ send: (key) => connectOnce(request, key), discard: () => {} })
        )
        return yield* concluded(permit, exit)
      }
    )

    return { request, stream, connect }
  })

/** The keys without repetitions. */
const distinct = (secret: Secret): ReadonlyArray<Redacted.Redacted> => {
  if (Redacted.isRedacted(secret)) return [secret]
  const seen = new Map<string, Redacted.Redacted>()
  for (const key of secret) if (!seen.has(Redacted.value(key))) seen.set(Redacted.value(key), key)
  return Array.from(seen.values())
}

/** The connections by provider: one has two agents for as long as a new configuration takes the place of an old one. */
const poolsOf = (agents: ReadonlyMap<Agent, string>): ReadonlyArray<ConnectionPool> => {
  const pools = new Map<string, ConnectionPool>()
  for (const [agent, provider] of agents) {
    let { idle, open, waiting } = pools.get(provider) ?? { idle: 0, open: 0, waiting: 0 }
    for (const stats of Object.values(agent.stats)) {
      // A connection has one request at a time; what undici calls pending has none yet.
      const connected = Number(stats.connected)
      open += connected
      idle += Math.max(0, connected - stats.running)
      waiting += stats.pending
    }
    pools.set(provider, { provider, open, idle, waiting })
  }
  return Array.from(pools.values())
}

/** Outbound over undici, and the breakers of its upstreams, in this process's memory. */
export const layerWith = (options: Options): Layer.Layer<Outbound | Breakers | ConnectionPools> =>
  Layer.effectContext(
    Effect.map(Circuits.make(options.breaker ?? {}), (circuits) => {
      const { connectTimeout: configured = defaultConnectTimeout } = options
      const connectTimeout = typeof configured === "number" ? () => configured : configured
      const agents = new Map<Agent, string>()
      return Context.make(Outbound, {
        upstream: (upstream) => makeUpstream(upstream, circuits, agents, connectTimeout)
      }).pipe(
        Context.add(ConnectionPools, { pools: () => poolsOf(agents) }),
        Context.add(Breakers, {
          states: circuits.states,
          report: (provider, endpoint) => circuits.get(provider, endpoint).fail
        })
      )
    })
  ).pipe(Layer.provide(CircuitBreaker.layerStoreMemory()))

/** `layerWith` without options. */
export const layer: Layer.Layer<Outbound | Breakers | ConnectionPools> = layerWith({})
