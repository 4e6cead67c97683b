/**
 * The only door out. Outbound holds base URLs and credentials (a provider never sees the secret), connection pools, circuit
 * breakers and, later, the address policy for fetched media. Its failures are `ProviderError`s: `transient` for connections
 * that fail or break, with `timeout: "connect"` where the connection took too long to open, and with `breaker` where the
 * upstream was not called at all because it has failed too often.
 */
import { Context, type Effect, type Redacted, type Scope, type Stream } from "effect"
import type { EndpointClass } from "./Breakers.ts"
import type { ProviderError } from "./Provider.ts"
import type { RealtimeChannel } from "./Realtime.ts"

/** One key, or several that are used in turn: one that the upstream refuses or limits is passed over. */
export type Secret = Redacted.Redacted | ReadonlyArray<Redacted.Redacted>

/** How a secret is shown to an upstream: `authorization: Bearer …`, or in a header of its own. */
export type Credential =
  | { readonly type: "bearer"; readonly secret: Secret }
  | { readonly type: "header"; readonly name: string; readonly secret: Secret }

/** The code of the `ProviderError` of kind `credential` for a provider that has refused all of several keys. */
export const credentialsExhausted = "upstream_credentials_exhausted"

/** Where an upstream is, and how the gateway shows who it is. */
export interface UpstreamOptions {
  /** The provider's slug; errors carry it. */
  readonly provider: string
  /** Absolute `http:` or `https:` URL; paths are appended to its path. */
  readonly baseUrl: string
  readonly credential?: Credential
  /** Sent with every request; a request's own header of the same name wins. */
  readonly headers?: Readonly<Record<string, string>>
  /** How long an answer asks its clients to wait, ms; for how long a limited key rests, and a breaker stays open. */
  readonly retryAfter?: (headers: UpstreamHead["headers"]) => number | undefined
}

/** A request's body that goes out as it is made, for uploads that are not to be held in memory. */
export interface StreamedBody {
  /**
   * Pulled as fast as the upstream takes it, and interrupted with the request. Its failure becomes the request's, and never
   * counts against the upstream.
   */
  readonly stream: Stream.Stream<Uint8Array, ProviderError>
  /** All of its bytes, sent as `content-length`; without it the body goes out in chunks, which not every server takes. */
  readonly bytes?: number
  /**
   * Set where the stream can be run once only. Without it, the stream is run anew for each of several keys; with it, the
   * first key's answer stands, also where it refuses the key.
   */
  readonly once?: boolean
}

/** One request to an upstream. */
export interface UpstreamRequest {
  readonly method: "GET" | "POST" | "DELETE"
  /** Appended to the base URL, starting with `/`. */
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array | StreamedBody
  /** How long the connection may take to open, ms. */
  readonly connectTimeout?: number
  /** Which of the provider's breakers the request belongs to; by default what its path looks like. */
  readonly endpoint?: EndpointClass
  /** The key that an earlier answer told: only that one is used, as long as the provider has it. */
  readonly key?: string
  /** Sends the request whatever the breaker says; its outcome counts all the same. */
  readonly force?: boolean
  /** The largest answer to hold in memory, bytes; default 64 MiB. Streams are not held and have no such cap. */
  readonly maxBytes?: number
}

/** The head of an answer. Header names are lower-case; of a repeated header the values are joined by `, `. */
export interface UpstreamHead {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  /** Set where each of several keys was refused, and none merely limited; this is the last refusal. */
  readonly keysRefused?: boolean
  /** Which of several keys the answer belongs to; not the key itself. */
  readonly key?: string
  /** Set where the breaker is open after this answer; the provider's error is to carry it. */
  readonly breaker?: "opened"
}

/** A whole answer. */
export interface UpstreamResponse extends UpstreamHead {
  readonly body: string
}

/** An answer whose body is still on its way. */
export interface UpstreamStream extends UpstreamHead {
  /** Pulls only as fast as it is read. Ends the upstream's socket when it is left early. */
  readonly body: Stream.Stream<Uint8Array, ProviderError>
  /** Reads the rest as text, up to the given number of bytes; for error bodies. */
  readonly text: (maxBytes: number) => Effect.Effect<string, ProviderError>
  /**
   * Tells that all content has been read, though the upstream has not ended the body yet. The connection then gets a
   * moment to finish by itself, so that it can be used again, instead of being cut when the scope closes.
   */
  readonly complete: () => void
}

/** A request for a connection that goes both ways: a WebSocket (RFC 6455). */
export interface UpstreamConnect {
  /** Appended to the base URL, starting with `/`. */
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  /** How long it may take until the connection stands, ms. */
  readonly connectTimeout?: number
  readonly endpoint: EndpointClass
  /** Connects whatever the breaker says; the outcome counts all the same. */
  readonly force?: boolean
  /** The largest message that is taken, bytes; a larger one ends the connection with code 1009. */
  readonly maxFrameBytes: number
}

/** A connection that stands, or the answer of an upstream that refused it. */
export interface UpstreamConnection extends UpstreamHead {
  /** Set where the connection stands. */
  readonly channel?: RealtimeChannel
  /** What the upstream said in its refusal, cut where it is long. */
  readonly body: string
}

/** One upstream, ready to be called. Interrupting any of its effects closes the connection at once. */
export interface Upstream {
  /** Sends a request and reads the whole answer as UTF-8 text. */
  readonly request: (request: UpstreamRequest) => Effect.Effect<UpstreamResponse, ProviderError>
  /** Sends a request and returns as soon as the answer's head is there; the scope owns the connection. */
  readonly stream: (request: UpstreamRequest) => Effect.Effect<UpstreamStream, ProviderError, Scope.Scope>
  /** Opens a WebSocket, and returns as soon as it stands or is refused; the scope owns it. */
  readonly connect: (request: UpstreamConnect) => Effect.Effect<UpstreamConnection, ProviderError, Scope.Scope>
}

/** Opens upstreams. */
export class Outbound extends Context.Service<Outbound, {
  /** A connection pool to one upstream, for as long as the scope lives. */
  readonly upstream: (options: UpstreamOptions) => Effect.Effect<Upstream, never, Scope.Scope>
}>()("llm-gateway/sdk/Outbound") {}

/** Headers that go out with each request that the effect makes, beside the request's own; undefined: none. */
export const OutboundHeaders: Context.Reference<Readonly<Record<string, string>> | undefined> = Context.Reference<
  Readonly<Record<string, string>> | undefined
>("llm-gateway/sdk/OutboundHeaders", { defaultValue: () => undefined })

/** The connections to one provider as they stand now. */
export interface ConnectionPool {
  /** The provider's slug. */
  readonly provider: string
  readonly open: number
  /** Of those, the ones that no request uses. */
  readonly idle: number
  /** Requests that wait for a connection. */
  readonly waiting: number
}

/** The connections to all upstreams. */
export class ConnectionPools extends Context.Service<ConnectionPools, {
  readonly pools: () => ReadonlyArray<ConnectionPool>
}>()("llm-gateway/sdk/ConnectionPools") {}
