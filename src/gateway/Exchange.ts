/**
 * One request on its way through the gateway: who asked for what, and what the stages have learned so far. Each stage
 * writes the fields that are its own; the accounting stage and the server's headers read them at the end, on every exit.
 */
import { Clock, Effect } from "effect"
import {
  type Caller,
  CurrentCaller,
  CurrentRequest,
  type Repeatable,
  type RequestOptions,
  type Timeouts,
  type TraceParent
} from "../sdk/Caller.ts"
import type { FinishReason } from "../sdk/Chat.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import type { Operation } from "../sdk/Operation.ts"
import type { FailureKind } from "../sdk/Routes.ts"
import type { RateLevel } from "../sdk/RateLimits.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { EstimateReason } from "../sdk/UsageSink.ts"
import type { Skipped } from "./Plan.ts"
import type { RequestTrace } from "./RequestTraces.ts"
import { Taken } from "./Taken.ts"

/** How one call to one provider went. */
export interface AttemptReport {
  /** Canonical id of the model. */
  readonly model: string
  /** The model, with its prices as they were when it was called. */
  readonly info: ModelInfo
  /** Why the gateway gave the call up while the provider was working on it, and will charge for it. */
  readonly givenUp?: EstimateReason
  /** `breaker_open`: no call was made, because the provider's breaker did not let it through. */
  readonly outcome: "ok" | FailureKind | "breaker_open" | "cancelled"
  readonly durationMs: number
}

/** The running state of one request. Mutable, and private to its request. */
export class Exchange {
  readonly requestId: string
  /** Unique among all requests: the caller may have chosen `requestId`. */
  readonly recordId: string
  /** Set where the request may have to be made again. */
  readonly repeatable: Repeatable | undefined
  readonly caller: Caller
  readonly operation: Operation
  readonly modelAsked: string
  readonly streamed: boolean
  /** Limits asked for by the caller. */
  readonly timeouts: Partial<Timeouts>
  /** The conversation that the caller says the request belongs to. */
  readonly conversationId: string | undefined
  /** The caller's span, where requests are traced. */
  readonly traceParent: TraceParent | undefined
  /** Unix ms. */
  readonly startedAt: number
  readonly #clock: Clock.Clock
  readonly #startedNanos: bigint

  /** The model that serves, or was tried last. */
  model: ModelInfo | undefined
  readonly attempts: Array<AttemptReport> = []
  /** The caller's tags, and those that interceptors added. */
  readonly tags: Array<string>
  /** Models that were named but could not serve the request. */
  skipped: ReadonlyArray<Skipped> = []
  /** The candidate that would have served if all had gone well. */
  preferred: ModelInfo | undefined
  /** Interceptors for which the stream was held back as a whole. */
  heldBackFor: ReadonlyArray<string> = []
  /** Native names of the parameters that the provider did not get. */
  dropped: ReadonlyArray<string> = []
  /** What models that did not serve have answered to a part of the request, and were paid for. */
  wasted: ReadonlyArray<{ readonly model: ModelInfo; readonly usage: Usage }> = []
  usage: Usage | undefined
  costNanoUsd: number | undefined
  finishReason: FinishReason | undefined
  /** Whether the provider has said all that it had to say. */
  isAnswered = false
  /** From the start of the request to its first content, ms. */
  firstTokenMs: number | undefined
  /** What was taken from limits and budgets, to be put right at the end. */
  readonly taken = new Taken()
  /** How full the limits are that the request was counted by. */
  rateLevels: ReadonlyArray<RateLevel> = []
  /** What a request to a model without a known price costs, nano-USD; absent: nothing is known. */
  flatNanoUsd: number | undefined
  /** The request's span, where it is traced. */
  trace: RequestTrace | undefined
  /** Time spent waiting for providers until the answer (or, for a stream, its first content) was there, ms. */
  upstreamMs = 0

  constructor(options: {
    readonly requestId: string
    readonly repeatable?: Repeatable
    readonly caller: Caller
    readonly operation: Operation
    readonly modelAsked: string
    readonly streamed: boolean
    readonly timeouts: Partial<Timeouts>
    readonly conversationId?: string
    readonly traceParent?: TraceParent
    readonly clock: Clock.Clock
  }) {
    this.requestId = options.requestId
    this.repeatable = options.repeatable
    this.recordId = options.repeatable?.recordId ?? newRecordId()
    this.caller = options.caller
    this.tags = Array.from(options.caller.tags)
    this.operation = options.operation
    this.modelAsked = options.modelAsked
    this.streamed = options.streamed
    this.timeouts = options.timeouts
    this.conversationId = options.conversationId
    this.traceParent = options.traceParent
    this.#clock = options.clock
    this.startedAt = options.clock.currentTimeMillisUnsafe()
    this.#startedNanos = options.clock.monotonicTimeNanosUnsafe()
  }

  /** Unix ms now. */
  now(): number {
    return this.#clock.currentTimeMillisUnsafe()
  }

  /** Ms since the request started, by the monotonic clock. */
  elapsed(): number {
    return Number(this.#clock.monotonicTimeNanosUnsafe() - this.#startedNanos) / 1e6
  }

  /** Whether a candidate other than the first one served. */
  get fallbackUsed(): boolean {
    return this.preferred !== undefined && this.model !== undefined && this.preferred.id !== this.model.id
  }

  /** Whether the caller set timers of its own: what runs out under them says little about the provider. */
  get hasOwnTimeouts(): boolean {
    return this.timeouts.connect !== undefined || this.timeouts.firstToken !== undefined ||
      this.timeouts.idle !== undefined
  }
}

/** Makes the id of a usage record and of its budgets' reservation. */
export const newRecordId = (): string => crypto.randomUUID()

/** Makes a request id. */
export const newRequestId = (): string => `req_${crypto.randomUUID().replaceAll("-", "")}`

/** The caller, with what the request says of its user and tags: the key's word comes first, then the header's, then the body's. */
const callerOf = (caller: Caller, options: RequestOptions, user: string | undefined): Caller => {
  const named = caller.user ?? options.user ?? user
  if (named === caller.user && options.tags === undefined) return caller
  return {
    ...caller,
    ...(named === undefined ? {} : { user: named.slice(0, maxUser) }),
    tags: options.tags === undefined ? caller.tags : Array.from(new Set([...caller.tags, ...options.tags]))
  }
}

/** Characters of a user's name that count. */
const maxUser = 256

/** Starts the exchange of one request for the current caller. `user` is whom the request's body names. */
export const start = Effect.fnUntraced(function*(
  modelAsked: string,
  streamed: boolean,
  user?: string,
  operation: Operation = "chat"
): Effect.fn.Return<Exchange> {
  const options = yield* CurrentRequest
  return new Exchange({
    requestId: options.requestId ?? newRequestId(),
    ...(options.repeatable === undefined ? {} : { repeatable: options.repeatable }),
    caller: callerOf(yield* CurrentCaller, options, user),
    operation,
    modelAsked,
    streamed,
    timeouts: options.timeouts ?? {},
    ...(options.conversationId === undefined ? {} : { conversationId: options.conversationId }),
    ...(options.traceParent === undefined ? {} : { traceParent: options.traceParent }),
    clock: yield* Clock.Clock
  })
})
