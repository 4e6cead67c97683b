/**
 * One request on its way through the gateway: who asked for what, and what the stages have learned so far. Each stage
 * writes the fields that are its own; the accounting stage and the server's headers read them at the end, on every exit.
 */
import { Clock, Effect } from "effect"
import { type Caller, CurrentCaller, CurrentRequest, type Timeouts } from "../sdk/Caller.ts"
import type { FinishReason } from "../sdk/Chat.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import type { FailureKind } from "../sdk/Routes.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { Skipped } from "./Plan.ts"

/** How one call to one provider went. */
export interface AttemptReport {
  /** Canonical id of the model. */
  readonly model: string
  /** `breaker_open`: no call was made, because the provider's breaker did not let it through. */
  readonly outcome: "ok" | FailureKind | "breaker_open" | "cancelled"
  readonly durationMs: number
}

/** The running state of one request. Mutable, and private to its request. */
export class Exchange {
  readonly requestId: string
  readonly caller: Caller
  readonly modelAsked: string
  readonly streamed: boolean
  /** Limits asked for by the caller. */
  readonly timeouts: Partial<Timeouts>
  /** Unix ms. */
  readonly startedAt: number
  readonly #clock: Clock.Clock
  readonly #startedNanos: bigint

  /** The model that serves, or was tried last. */
  model: ModelInfo | undefined
  readonly attempts: Array<AttemptReport> = []
  /** Models that were named but could not serve the request. */
  skipped: ReadonlyArray<Skipped> = []
  /** The candidate that would have served if all had gone well. */
  preferred: ModelInfo | undefined
  /** Native names of the parameters that the provider did not get. */
  dropped: ReadonlyArray<string> = []
  usage: Usage | undefined
  costNanoUsd: number | undefined
  finishReason: FinishReason | undefined
  /** From the start of the request to its first content, ms. */
  firstTokenMs: number | undefined
  /** Time spent waiting for providers until the answer (or, for a stream, its first content) was there, ms. */
  upstreamMs = 0

  constructor(options: {
    readonly requestId: string
    readonly caller: Caller
    readonly modelAsked: string
    readonly streamed: boolean
    readonly timeouts: Partial<Timeouts>
    readonly clock: Clock.Clock
  }) {
    this.requestId = options.requestId
    this.caller = options.caller
    this.modelAsked = options.modelAsked
    this.streamed = options.streamed
    this.timeouts = options.timeouts
    this.#clock = options.clock
    this.startedAt = options.clock.currentTimeMillisUnsafe()
    this.#startedNanos = options.clock.monotonicTimeNanosUnsafe()
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

/** Makes a request id. */
export const newRequestId = (): string => `req_${crypto.randomUUID().replaceAll("-", "")}`

/** Starts the exchange of one request for the current caller. */
export const start = Effect.fnUntraced(function*(modelAsked: string, streamed: boolean): Effect.fn.Return<Exchange> {
  const options = yield* CurrentRequest
  return new Exchange({
    requestId: options.requestId ?? newRequestId(),
    caller: yield* CurrentCaller,
    modelAsked,
    streamed,
    timeouts: options.timeouts ?? {},
    clock: yield* Clock.Clock
  })
})
