/** Who makes a request, and what travels beside it. Both are Context references, so that no signature carries them. */
import { Context, type Effect } from "effect"
import type { Fallback } from "./Chat.ts"
import type { GatewayError, TimeoutPhase } from "./GatewayError.ts"
import type { RoutePolicy } from "./Routes.ts"
import type { Restrictions } from "./Tenant.ts"

/** The one on whose account a request runs. The server sets it from the key, an embedding app sets it itself. */
export interface Caller {
  readonly tenant: string
  readonly user?: string
  readonly keyId?: string
  readonly tags: ReadonlyArray<string>
  /** Whether the key may administrate the gateway. */
  readonly admin?: boolean
  /** What the key itself allows, on top of what its tenant does. */
  readonly restrictions?: Restrictions
}

/** The caller of the running request; without one, the tenant `default`. */
export const CurrentCaller: Context.Reference<Caller> = Context.Reference<Caller>("llm-gateway/sdk/CurrentCaller", {
  defaultValue: () => ({ tenant: "default", tags: [] })
})

/** Limits of the five timers, in ms. */
export interface Timeouts {
  /** Until the request is on its way over an open connection. */
  readonly connect: number
  /** From there until the first content. */
  readonly firstToken: number
  /** Between two pieces of content; comments and pings do not count as content. */
  readonly idle: number
  /**
   * From the start of one attempt at a whole answer until the answer is there. Where it is absent, an attempt after which
   * another one could follow has half of what is left of the total, and the last one all of it.
   */
  readonly answer?: number
  /** From the start of the request until its end, over all attempts. */
  readonly total: number
}

/** The key in `Timeouts` for each phase that an error can name. */
export const timeoutOf: { readonly [Phase in TimeoutPhase]: keyof Timeouts } = {
  connect: "connect",
  first_token: "firstToken",
  idle: "idle",
  answer: "answer",
  total: "total"
}

/**
 * A request that is made again after what was cut off, and charged once all the same. Its answer waits until its record is
 * in the durable sinks.
 */
export interface Repeatable {
  /** The id of the usage record and of the budgets' reservation, the same every time. */
  readonly recordId: string
  /** Asked at the end of the request: false leaves no record, and gives all of its reservation back. */
  readonly isCharged: () => boolean
  /** Whether its caller wants it no more, so that what a provider works on is to be cancelled. */
  readonly isCancelled?: () => boolean
  /** What was kept of the work at a provider when the request was made before; empty: it was about to be begun. */
  readonly handle?: string
  /** Keeps that for whoever makes the request again. Done before the work goes on. */
  readonly keep?: (handle: string) => Effect.Effect<void, GatewayError>
}

/** The caller's span, as the `traceparent` and `tracestate` headers tell it (https://www.w3.org/TR/trace-context/). */
export interface TraceParent {
  /** 32 hex digits. */
  readonly traceId: string
  /** 16 hex digits. */
  readonly spanId: string
  readonly sampled: boolean
  /** The value of `tracestate`. */
  readonly state?: string
}

/** What a caller may say about one request beside its content. */
export interface RequestOptions {
  /** The id that answers, records and logs share; made up where absent. */
  readonly requestId?: string
  /** Set where the request may have to be made again. Only for callers in this process. */
  readonly repeatable?: Repeatable
  /** Narrower timers for this request; configuration clamps them. */
  readonly timeouts?: Partial<Timeouts>
  /** Other models to try, where the request itself names none. */
  readonly fallback?: Fallback
  /** The order of a route's models, over the route's own policy. */
  readonly routePolicy?: RoutePolicy
  /** Requests with the same key get the same model of a weighted route. */
  readonly stickyKey?: string
  /** When the request arrived, Unix ms with fractions, for the gateway's own overhead. */
  readonly receivedAt?: number
  /** The tenant's end user, where neither key nor token names one (`x-gateway-user`). */
  readonly user?: string
  /** Tags beside the key's own (`x-gateway-tags`). */
  readonly tags?: ReadonlyArray<string>
  /** The conversation that the request belongs to, for usage records (`x-gateway-conversation`). */
  readonly conversationId?: string
  /** The caller's span; the request's own becomes its child. */
  readonly traceParent?: TraceParent
  /** The protocol in which the caller speaks and reads, of those under `wire/`; absent for callers of none. */
  readonly wire?: string
  /** The HTTP request's headers in lower case; absent in process. Interceptors get them without the credentials. */
  readonly headers?: Readonly<Record<string, string | undefined>>
}

/** The options of the running request. */
export const CurrentRequest: Context.Reference<RequestOptions> = Context.Reference<RequestOptions>(
  "llm-gateway/sdk/CurrentRequest",
  { defaultValue: () => ({}) }
)
