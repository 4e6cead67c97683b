/**
 * One attempt: one call to one provider, under the timers, reported in the exchange. A streamed attempt is over, for the
 * stages before it, when it commits: with the first content, or with the end of an empty answer. Until then nothing has
 * reached the caller, and a failure is an ordinary failed attempt; after it, a failure is the end of the stream.
 */
import { Cause, Clock, Effect, Exit, Option, type Scope, type Stream } from "effect"
import type { EndpointClass } from "../sdk/Breakers.ts"
import type { Timeouts } from "../sdk/Caller.ts"
import type { ChatChunk, ChatResponse } from "../sdk/Chat.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { OutboundHeaders } from "../sdk/Outbound.ts"
import { type ChatCall, isHeldBack, ProviderError } from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { EstimateReason } from "../sdk/UsageSink.ts"
import type { AttemptCounts } from "./AttemptCounts.ts"
import { chatChunks } from "./ChatOperation.ts"
import type { ChunkKind, ChunkPull, Chunks } from "./ChunkPull.ts"
import type { AttemptReport, Exchange } from "./Exchange.ts"
import type { AttemptError } from "./Failure.ts"
import { failureKind, slowStream } from "./FailurePolicy.ts"
import type { Finished, Health } from "./Health.ts"
import { endpointOf } from "./Operation.ts"
import type { Candidate } from "./Plan.ts"
import { type StreamObserver, watch, type WatchedStream } from "./StreamWatch.ts"
import { isOwnAnswerLimit, limitAnswer } from "./Timers.ts"
import { estimateText } from "./TokenEstimate.ts"

/** Chunks held back before the commit at most; they carry no content, so more of them mean a broken provider. */
const maxHeldBack = 4096

const outcomeOf = (exit: Exit.Exit<unknown, AttemptError>): AttemptReport["outcome"] => {
  if (Exit.isSuccess(exit)) return "ok"
  const failure = exit.cause.reasons.find(Cause.isFailReason)
  if (failure === undefined) return "cancelled"
  const { error } = failure
  return error._tag === "ProviderError" && isHeldBack(error) ? "breaker_open" : failureKind(error)
}

/** Whether the provider was left while it worked: because another was faster, or because it took too long. */
const givenUpIn = (exit: Exit.Exit<unknown, AttemptError>): EstimateReason | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  const failure = exit.cause.reasons.find(Cause.isFailReason)
  if (failure === undefined) return "hedge_lost"
  const { error } = failure
  if (error._tag === "ProviderError") return error.code === slowStream ? "timeout" : undefined
  return error.phase === "connect" ? undefined : "timeout"
}

/** Failures that are the provider's, whoever asked. A timer that only this caller set so short proves nothing. */
const isUpstreams = (error: AttemptError, exchange: Exchange, timeouts: Timeouts): boolean => {
  // Nothing was asked of the provider, so nothing is learned of it.
  if (error._tag === "ProviderError" && (isHeldBack(error) || error.refused === true)) return false
  switch (failureKind(error)) {
    case "transient":
    case "protocol":
    case "quota":
    case "credential":
      return true
    case "timeout_connect":
    case "timeout_first_token":
    case "timeout_idle":
      return !exchange.hasOwnTimeouts
    case "timeout_answer":
      return !isOwnAnswerLimit(timeouts, exchange.timeouts)
    default:
      return false
  }
}

/** Who is told how attempts go. */
export interface AttemptWatch {
  readonly health: Health["Service"]
  readonly counts: AttemptCounts["Service"]
  /** A provider kept silent for longer than the operator allows, which its transport cannot know. */
  readonly silent: (provider: string, endpoint: EndpointClass) => Effect.Effect<void>
}

/** What one call tells of its model's health: once, when the call is over, which for a stream is long after its commit. */
class Call implements StreamObserver {
  readonly #exchange: Exchange
  readonly #modelId: string
  readonly #timeouts: Timeouts
  readonly #health: Health["Service"]
  readonly #startedAt: number
  #firstTokenMs: number | undefined
  #committed = false
  #over = false

  constructor(exchange: Exchange, modelId: string, timeouts: Timeouts, health: Health["Service"]) {
    this.#exchange = exchange
    this.#modelId = modelId
    this.#timeouts = timeouts
    this.#health = health
    this.#startedAt = exchange.elapsed()
    health.started(modelId)
  }

  /** Ms since the call began. */
  elapsed(): number {
    return this.#exchange.elapsed() - this.#startedAt
  }

  firstContent(): void {
    this.#firstTokenMs = this.elapsed()
  }

  /** The stream is on its way to the caller. */
  commit(): void {
    this.#committed = true
  }

  succeeded(outputTokens: number | undefined): void {
    this.#finish("ok", outputTokens)
  }

  failed(error: AttemptError): void {
    this.#finish(isUpstreams(error, this.#exchange, this.#timeouts) ? "upstream" : "other")
  }

  left(): void {
    // A stream whose reader has left was good until then. Before the commit the attempt knows better why it is left.
    if (this.#committed) this.#finish("ok")
  }

  /** The attempt is over, and there is no stream that goes on. */
  gone(): void {
    this.#finish("other")
  }

  #finish(outcome: Finished["outcome"], outputTokens?: number): void {
    if (this.#over) return
    this.#over = true
    this.#health.finished(this.#modelId, {
      outcome,
      durationMs: this.elapsed(),
      ...(this.#firstTokenMs === undefined ? {} : { firstTokenMs: this.#firstTokenMs }),
      ...(outputTokens === undefined ? {} : { outputTokens })
    })
  }
}

/** Writes the attempt into the exchange, however it ends. */
const reported = <A, R>(
  exchange: Exchange,
  candidate: Candidate,
  timeouts: Timeouts,
  { counts, health, silent }: AttemptWatch,
  attempt: (call: Call) => Effect.Effect<A, AttemptError, R>
): Effect.Effect<A, AttemptError, R> =>
  Effect.suspend(() => {
    const { id } = candidate.model
    exchange.model = candidate.model
    const call = new Call(exchange, id, timeouts, health)
    const trace = exchange.trace?.attempt(candidate.model)
    const made = trace?.traceparent === undefined
      ? attempt(call)
      : Effect.provideService(attempt(call), OutboundHeaders, { traceparent: trace.traceparent })
    return Effect.onExit(made, (exit) => {
      const outcome = outcomeOf(exit)
      const givenUp = givenUpIn(exit)
      const report: AttemptReport = {
        model: id,
        info: candidate.model,
        outcome,
        durationMs: call.elapsed(),
        ...(givenUp === undefined ? {} : { givenUp })
      }
      exchange.attempts.push(report)
      trace?.end(report)
      counts.add(candidate.model, outcome, exchange.preferred !== undefined && exchange.preferred.id !== id)
      if (Exit.isSuccess(exit)) return Effect.void
      const failure = exit.cause.reasons.find(Cause.isFailReason)
      if (failure === undefined) {
        call.gone()
        return Effect.void
      }
      call.failed(failure.error)
      // A connection that does not open is the transport's to count.
      return failure.error._tag === "ProviderTimeout" && isUpstreams(failure.error, exchange, timeouts)
        ? silent(candidate.provider.slug, endpointOf[exchange.operation])
        : Effect.void
    })
  })

/**
 * Opens a connection to a provider, whatever goes over it afterwards. The attempt is over when the connection stands; the scope
 * owns it.
 */
export const attemptConnect = <A>(
  exchange: Exchange,
  candidate: Candidate,
  connection: Effect.Effect<A, ProviderError, Scope.Scope>,
  timeouts: Timeouts,
  watched: AttemptWatch
): Effect.Effect<A, AttemptError, Scope.Scope> =>
  reported(exchange, candidate, timeouts, watched, (made) =>
    connection.pipe(
      limitAnswer(candidate.provider.slug, timeouts, { elapsed: exchange.elapsed(), followed: true }),
      Effect.map((connected) => {
        made.succeeded(undefined)
        return connected
      })
    ))

/** The failure of an attempt at a provider that has no call for the operation. */
export const unsupported = (candidate: Candidate, what: string) =>
  new ProviderError({ provider: candidate.provider.slug, kind: "caller", message: `this provider has no ${what}` })

/** A whole answer, as far as an attempt looks at it. */
interface Answer {
  readonly usage?: Usage
}

/**
 * Waits for a whole answer of a provider, whatever it was asked for. `followed` says whether another attempt could follow
 * if this one took too long.
 */
export const attemptAnswer = <A extends Answer>(
  exchange: Exchange,
  candidate: Candidate,
  answer: Effect.Effect<A, ProviderError>,
  timeouts: Timeouts,
  watched: AttemptWatch,
  followed: boolean
): Effect.Effect<A, AttemptError> =>
  reported(exchange, candidate, timeouts, watched, (made) =>
    answer.pipe(
      limitAnswer(candidate.provider.slug, timeouts, { elapsed: exchange.elapsed(), followed }),
      Effect.map((response) => {
        made.succeeded(response.usage?.outputTokens)
        return response
      })
    ))

/** Calls a provider for a whole chat answer, as `attemptAnswer`. */
export const attemptChat = (
  exchange: Exchange,
  candidate: Candidate,
  call: ChatCall,
  timeouts: Timeouts,
  watched: AttemptWatch,
  followed = false
): Effect.Effect<ChatResponse, AttemptError> => {
  const { provider } = candidate
  return provider.chat === undefined
    ? Effect.fail(unsupported(candidate, "chat"))
    : attemptAnswer(exchange, candidate, provider.chat(call), timeouts, watched, followed)
}

/** A stream whose first content is there. */
export interface CommittedStream<Chunk = ChatChunk> extends WatchedStream<Chunk> {
  /** Native names of the parameters that the provider did not get. */
  readonly dropped: ReadonlyArray<string>
  readonly model: ModelInfo
}

/**
 * Opens a provider's stream, whatever it was asked for, and waits for its commit: its first content, or its end. The scope
 * owns the upstream's connection; a failed attempt has closed it by the time that it fails.
 */
export const attemptOpen = <Chunk>(
  exchange: Exchange,
  candidate: Candidate,
  kind: ChunkKind<Chunk>,
  chunks: Stream.Stream<Chunk, ProviderError>,
  timeouts: Timeouts,
  watched: AttemptWatch
): Effect.Effect<CommittedStream<Chunk>, AttemptError, Scope.Scope> =>
  reported(
    exchange,
    candidate,
    timeouts,
    watched,
    (made) => opened(exchange, candidate, kind, chunks, timeouts, made, undefined)
  )

/**
 * Calls a provider for a streamed chat answer, as `attemptOpen`. Where a floor is set, the commit waits until the stream has
 * shown that it is not slower than that.
 */
export const attemptStream = (
  exchange: Exchange,
  candidate: Candidate,
  call: ChatCall,
  timeouts: Timeouts,
  watched: AttemptWatch,
  minTokensPerSecond?: number
): Effect.Effect<CommittedStream, AttemptError, Scope.Scope> => {
  const { provider } = candidate
  if (provider.streamChat === undefined) return Effect.fail(unsupported(candidate, "streamed chat"))
  const chunks = provider.streamChat(call)
  const prove: Prove<ChatChunk> | undefined = minTokensPerSecond === undefined
    ? undefined
    : (held, pull) => proveRate(provider.slug, held, pull, minTokensPerSecond)
  return reported(
    exchange,
    candidate,
    timeouts,
    watched,
    (made) => opened(exchange, candidate, chatChunks, chunks, timeouts, made, prove)
  )
}

/** What a stream has to show beyond its first content before it commits; what it pulls for that is held, too. */
type Prove<Chunk> = (held: Array<Chunk>, pull: ChunkPull<AttemptError, Chunk>) => Effect.Effect<void, AttemptError>

const opened = <Chunk>(
  exchange: Exchange,
  candidate: Candidate,
  kind: ChunkKind<Chunk>,
  chunks: Stream.Stream<Chunk, ProviderError>,
  timeouts: Timeouts,
  made: Call,
  prove: Prove<Chunk> | undefined
): Effect.Effect<CommittedStream<Chunk>, AttemptError, Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) =>
    Effect.flatMap(
      watch(candidate.provider.slug, kind, chunks, timeouts, exchange.elapsed(), scope, made),
      (reading) =>
        Effect.onExit(
          committed(candidate, kind, reading, made, prove),
          (exit) => Exit.isSuccess(exit) ? Effect.void : reading.stop
        )
    ))

const committed = <Chunk>(
  { model, provider: { slug } }: Candidate,
  kind: ChunkKind<Chunk>,
  { pull }: WatchedStream<Chunk>,
  made: Call,
  prove: Prove<Chunk> | undefined
): Effect.Effect<CommittedStream<Chunk>, AttemptError> => {
  const held: Array<Chunk> = []
  const commit = (dropped: ReadonlyArray<string>): CommittedStream<Chunk> => {
    made.commit()
    return { pull: resume(held, pull), dropped, model }
  }
  const heldBack = holdBack(slug, kind, pull, held, [])
  if (prove === undefined) return Effect.map(heldBack, commit)
  return Effect.flatMap(heldBack, (dropped) => Effect.map(prove(held, pull), () => commit(dropped)))
}

const endedEarly = (provider: string) =>
  new ProviderError({ provider, kind: "protocol", message: "the provider's stream ended without an answer" })

/** Pulls until the first content, keeps what was said until then in `held`, and gives the names of dropped parameters. */
const holdBack = <Chunk>(
  provider: string,
  kind: ChunkKind<Chunk>,
  pull: ChunkPull<AttemptError, Chunk>,
  held: Array<Chunk>,
  before: ReadonlyArray<string>
): Effect.Effect<ReadonlyArray<string>, AttemptError> =>
  Effect.matchEffect(pull, {
    onFailure: (error) => Effect.fail(Cause.isDone(error) ? endedEarly(provider) : error),
    onSuccess: (chunks) => {
      let dropped = before
      let isCommitted = false
      for (const chunk of chunks) {
        dropped = kind.dropped?.(chunk) ?? dropped
        if (kind.isOurs?.(chunk) !== true) held.push(chunk)
        isCommitted ||= kind.hasContent(chunk) || kind.ends?.(chunk) === true
      }
      if (held.length > maxHeldBack) {
        return Effect.fail(
          new ProviderError({ provider, kind: "protocol", message: "the provider's stream goes on without content" })
        )
      }
      return isCommitted ? Effect.succeed(dropped) : holdBack(provider, kind, pull, held, dropped)
    }
  })

/** How long a stream is held back beyond its first content to see how fast it comes, ms. */
const proof = 2_000

/** Goes on holding back until the stream has made the tokens that the floor asks of it, or its time for that is over. */
const proveRate = Effect.fnUntraced(function*(
  provider: string,
  held: Array<ChatChunk>,
  pull: ChunkPull<AttemptError>,
  floor: number
): Effect.fn.Return<void, AttemptError> {
  const clock = yield* Clock.Clock
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const until = now() + proof
  const wanted = floor * proof / 1000
  let tokens = 0
  const count = (chunk: ChatChunk): void => {
    // Thinking and tool calls are work, too.
    for (const delta of chunk.delta) {
      if (delta.type === "text" || delta.type === "refusal") tokens += estimateText(delta.text)
      else if (delta.type === "reasoning") tokens += estimateText(delta.text ?? "")
      else if (delta.type === "tool_call") tokens += estimateText(delta.arguments ?? "")
    }
  }
  held.forEach(count)
  const isProven = () => tokens >= wanted || held.some((chunk) => chunk.finishReason !== undefined)
  while (!isProven()) {
    const pulled = yield* Effect.timeoutOption(pull, Math.max(0, until - now())).pipe(
      Effect.catchIf(isDone, () => Effect.succeedSome<Chunks | undefined>(undefined))
    )
    if (Option.isNone(pulled)) {
      return yield* new ProviderError({
        provider,
        kind: "transient",
        code: slowStream,
        message: `the provider's stream is slower than ${floor} tokens a second`
      })
    }
    if (pulled.value === undefined) return
    for (const chunk of pulled.value) {
      held.push(chunk)
      count(chunk)
    }
  }
})

/** The pull again, with what was held before it. */
const resume = <Chunk, E>(held: ReadonlyArray<Chunk>, pull: ChunkPull<E, Chunk>): ChunkPull<E, Chunk> => {
  const [first, ...rest] = held
  let pending: Chunks<Chunk> | undefined = first === undefined ? undefined : [first, ...rest]
  return Effect.suspend(() => {
    if (pending === undefined) return pull
    const chunks = pending
    pending = undefined
    return Effect.succeed(chunks)
  })
}

const isDone = (error: AttemptError | Cause.Done): error is Cause.Done => Cause.isDone(error)
