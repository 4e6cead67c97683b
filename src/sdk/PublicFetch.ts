/**
 * Requests to addresses that callers give: media to be fetched, webhooks to be called. The address policy holds for each:
 * `https` to public addresses only, unless the operator allows a host or a range, checked after names are resolved and again
 * on each redirect, and the address that was checked is the one that is dialled.
 */
import { Context, type Effect, Schema, type Scope, type Stream } from "effect"

/** Why a request came to nothing. */
export const FetchFailure = Schema.Literals([
  /** The URL cannot be read. */
  "invalid_url",
  /** The address policy does not allow it. */
  "not_allowed",
  /** The name is unknown, or the server does not answer or breaks off. */
  "unreachable",
  /** More bytes than the limit, as they come or unpacked. */
  "too_large",
  /** No whole answer within the time, or one that only drips. */
  "too_slow",
  "too_many_redirects",
  /** The answer is not HTTP, or its compression is broken or unknown. */
  "bad_answer"
])
export type FetchFailure = typeof FetchFailure.Type

/** A request that came to nothing. The message is fit for whoever gave the URL: it tells no addresses inside. */
export class FetchError extends Schema.TaggedError<FetchError>()("FetchError", {
  failure: FetchFailure,
  message: Schema.String
}) {}

/** One request. */
export interface FetchRequest {
  readonly url: string
  /** Default `GET`. */
  readonly method?: "GET" | "HEAD" | "POST" | "PUT"
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array
  /** The largest answer, bytes, as it comes and unpacked; default and most: the configured one. */
  readonly maxBytes?: number
  /** For all of it, the reading included, ms; default 30000. */
  readonly timeoutMs?: number
  /** Redirects that are followed, default 3; 0 gives a redirect out as an answer. Only GET and HEAD follow any. */
  readonly maxRedirects?: number
}

/** An answer whose body is still on its way. */
export interface FetchAnswer {
  readonly status: number
  /** Names in lower case; of a repeated one the values are joined by `, `. */
  readonly headers: Readonly<Record<string, string>>
  /** Unpacked, as fast as it is read; can be read once. */
  readonly body: Stream.Stream<Uint8Array, FetchError>
}

/** The way out to addresses that are not the operator's. */
export class PublicFetch extends Context.Service<PublicFetch, {
  /** Sends a request and returns with the answer's head; the scope owns the connection. Any status is an answer. */
  readonly request: (request: FetchRequest) => Effect.Effect<FetchAnswer, FetchError, Scope.Scope>
  /** Fails as `request` would before it dials; names are not looked up. For checking what a caller wants to have called later. */
  readonly check: (url: string) => Effect.Effect<void, FetchError>
  /** The largest answer, bytes. */
  readonly maxBytes: number
}>()("llm-gateway/sdk/PublicFetch") {}
