/**
 * What the responses and transcripts of one session cost: each is admitted and accounted for like a request of its own, under
 * the session's request id, with a record of its own. The session adds them up.
 */
import { Clock, Effect, Exit } from "effect"
import { fail, type GatewayError, ProviderFailed } from "../../sdk/GatewayError.ts"
import type { ModelInfo } from "../../sdk/Model.ts"
import type { ProviderEvent, RealtimeSummary } from "../../sdk/Realtime.ts"
import { usd } from "../../sdk/Pricing.ts"
import { type Usage, zero } from "../../sdk/Usage.ts"
import { accountConsumed } from "../Accounting.ts"
import { Exchange } from "../Exchange.ts"
import type { Bindings } from "../Limits.ts"
import type { Operation } from "../Operation.ts"
import type { Pipeline } from "../Pipeline.ts"
import type { Candidate, Plan } from "../Plan.ts"
import {
  type ResponseAsked,
  responseOperation,
  type TranscriptAsked,
  transcriptOperation
} from "./RealtimeOperation.ts"

/** What a session is charged by. */
export interface ChargedSession {
  readonly exchange: Exchange
  readonly bindings: Bindings
  readonly plan: Plan
  readonly candidate: Candidate
}

/** A response that has been admitted and is not over. */
export interface Charge {
  readonly exchange: Exchange
  readonly asked: ResponseAsked
}

/** How a response ended. */
export type Ended = Extract<ProviderEvent, { readonly type: "ended" }>

type Figures = { -readonly [Name in keyof Usage]?: Usage[Name] }

const counted = [
  "inputTokens",
  "outputTokens",
  "cacheReadTokens",
  "inputAudioTokens",
  "inputImageTokens",
  "outputAudioTokens",
  "inputAudioMs"
] as const

const failedResponse = (provider: string, problem: string | undefined): GatewayError =>
  fail(
    new ProviderFailed({
      message: `the provider's response failed${problem === undefined ? "" : `: ${problem.slice(0, 200)}`}`,
      kind: "transient",
      provider,
      ...(problem === undefined ? {} : { upstreamCode: problem.slice(0, 200) })
    })
  )

/** The charges of one session. */
export class RealtimeCharges {
  readonly #pipeline: Pipeline
  readonly #session: ChargedSession
  #responses = 0
  #transcriptions = 0
  #costNanoUsd: number | undefined
  readonly #figures: Figures = {}
  #isEstimated = false

  constructor(pipeline: Pipeline, session: ChargedSession) {
    this.#pipeline = pipeline
    this.#session = session
  }

  /** Admits a response. Fails with `rate_limited`, `budget_exceeded` and `store_unavailable`; it is accounted for then. */
  readonly open = (asked: ResponseAsked): Effect.Effect<Charge, GatewayError> =>
    Effect.flatMap(this.#begin(this.#session.candidate.model), (exchange) =>
      Effect.onExit(
        Effect.as(this.#admitted(exchange, responseOperation, asked), { exchange, asked }),
        (exit) => Exit.isSuccess(exit) ? Effect.void : this.#finish(exchange, responseOperation, asked, exit)
      ))

  /** A response is over. The sums have it as soon as this is called; what it gives back writes it down. */
  readonly settle = ({ asked, exchange }: Charge, { finishReason, problem, status, usage }: Ended): Effect.Effect<
    void,
    GatewayError
  > => {
    exchange.isAnswered = status === "completed" || status === "incomplete"
    exchange.finishReason = finishReason
    this.#responses++
    this.#add(exchange, usage ?? responseOperation.givenUp(asked))
    const exit = status === "failed"
      ? Exit.fail(failedResponse(this.#session.candidate.provider.slug, problem))
      : Exit.void
    return this.#finish(exchange, responseOperation, asked, exit)
  }

  /** A response is over that was not admitted: it has consumed what it has consumed. */
  readonly unasked = (asked: ResponseAsked, ended: Ended): Effect.Effect<void, GatewayError> =>
    Effect.flatMap(this.#begin(this.#session.candidate.model), (exchange) => this.settle({ exchange, asked }, ended))

  /** A response was asked for, and never began. */
  readonly giveBack = ({ asked, exchange }: Charge): Effect.Effect<void, GatewayError> =>
    this.#finish(exchange, responseOperation, asked, Exit.interrupt())

  /** The session has ended while a response was under way: what was made of it is counted. */
  readonly cutOff = (charge: Charge): Effect.Effect<void, GatewayError> => {
    const { asked, exchange } = charge
    this.#responses++
    this.#add(exchange, responseOperation.givenUp(asked))
    return this.#finish(exchange, responseOperation, asked, Exit.interrupt())
  }

  /** A transcript has been made. Fails where no budget is left to pay for more of them. */
  readonly transcribed = (usage: Usage, model: ModelInfo): Effect.Effect<void, GatewayError> => {
    const asked: TranscriptAsked = { model: model.id, usage }
    return Effect.flatMap(this.#begin(model), (exchange) => {
      exchange.isAnswered = true
      // It belongs to a session whose requests are counted.
      exchange.taken.isCounted = true
      this.#transcriptions++
      this.#add(exchange, usage)
      const admitted = model.prices === undefined
        ? Effect.void
        : this.#admitted(exchange, transcriptOperation, asked)
      return Effect.andThen(
        // What is made is paid for, whatever the limits say of the next one.
        Effect.exit(admitted),
        (exit) => Effect.andThen(this.#finish(exchange, transcriptOperation, asked, Exit.void), exit)
      )
    })
  }

  /** What has been consumed until now. */
  summary(durationMs: number): RealtimeSummary {
    const { recordId } = this.#session.exchange
    return {
      sessionId: recordId,
      responses: this.#responses,
      transcriptions: this.#transcriptions,
      usage: {
        ...zero,
        ...this.#figures,
        ...(this.#isEstimated ? { estimated: true } : {}),
        ...(this.#costNanoUsd === undefined ? {} : { costEstimate: usd(this.#costNanoUsd) })
      },
      durationMs
    }
  }

  #begin(model: ModelInfo): Effect.Effect<Exchange> {
    const { caller, modelAsked, recordId, requestId, streamed, tags, timeouts, conversationId } = this.#session.exchange
    return Effect.map(Clock.Clock, (clock) => {
      const exchange = new Exchange({
        requestId,
        caller: { ...caller, tags },
        operation: "realtime",
        modelAsked,
        streamed,
        timeouts,
        // All that belongs to a session is found by this.
        conversationId: conversationId ?? recordId,
        clock
      })
      exchange.model = model
      exchange.preferred = model
      exchange.attempts.push({ model: model.id, info: model, outcome: "ok", durationMs: 0 })
      this.#pipeline.began(exchange)
      return exchange
    })
  }

  #admitted<Asked extends ResponseAsked | TranscriptAsked>(
    exchange: Exchange,
    operation: Operation<Asked>,
    asked: Asked
  ): Effect.Effect<void, GatewayError> {
    const { admission, ledger } = this.#pipeline
    const { bindings, candidate, plan } = this.#session
    const { model = candidate.model } = exchange
    const alone: Plan = {
      ...plan,
      candidates: [{ ...candidate, model }],
      skipped: [],
      attempts: 1,
      strategy: "sequential"
    }
    return Effect.andThen(ledger.open, Effect.asVoid(admission.admit(exchange, operation, bindings, alone, asked)))
  }

  #add(exchange: Exchange, usage: Usage): void {
    const { estimated } = accountConsumed(exchange, usage)
    if (estimated === true) this.#isEstimated = true
    for (const name of counted) {
      const more = usage[name]
      if (more !== undefined) this.#figures[name] = (this.#figures[name] ?? 0) + more
    }
    if (exchange.costNanoUsd !== undefined) this.#costNanoUsd = (this.#costNanoUsd ?? 0) + exchange.costNanoUsd
  }

  #finish<Asked extends ResponseAsked | TranscriptAsked>(
    exchange: Exchange,
    operation: Operation<Asked>,
    asked: Asked,
    exit: Exit.Exit<unknown, GatewayError>
  ): Effect.Effect<void, GatewayError> {
    const durationMs = exchange.elapsed()
    exchange.upstreamMs = durationMs
    const [attempt] = exchange.attempts
    if (attempt !== undefined) exchange.attempts[0] = { ...attempt, durationMs }
    return Effect.uninterruptible(this.#pipeline.finish(exchange, operation, asked, exit))
  }
}
