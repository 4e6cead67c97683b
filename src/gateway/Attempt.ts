/**
 * One attempt: one call to one provider, under the timers, reported in the exchange. A streamed attempt is over, for the
 * stages before it, when it commits: with the first content, or with the end of an empty answer. Until then nothing has
 * reached the caller, and a failure is an ordinary failed attempt; after it, a failure is the end of the stream.
 */
import { Cause, Effect, Exit, Scope, type Stream } from "effect"
import type { Timeouts } from "../sdk/Caller.ts"
import { type ChatChunk, type ChatResponse, hasContent } from "../sdk/Chat.ts"
import { type ChatCall, ProviderError } from "../sdk/Provider.ts"
import type { ChunkPull, Chunks } from "./ChunkPull.ts"
import type { AttemptReport, Exchange } from "./Exchange.ts"
import type { AttemptError } from "./Failure.ts"
import type { Candidate } from "./Resolution.ts"
import { watch, type WatchedStream } from "./StreamWatch.ts"
import { limitTotal } from "./Timers.ts"

/** Chunks held back before the commit at most; they carry no content, so more of them mean a broken provider. */
const maxHeldBack = 4096

const outcomeOf = (exit: Exit.Exit<unknown, AttemptError>): AttemptReport["outcome"] => {
  if (Exit.isSuccess(exit)) return "ok"
  const failure = exit.cause.reasons.find(Cause.isFailReason)
  if (failure === undefined) return "cancelled"
  const { error } = failure
  if (error._tag === "ProviderTimeout") return `timeout_${error.phase}`
  return error.timeout === undefined ? error.kind : `timeout_${error.timeout.phase}`
}

/** Writes the attempt into the exchange, however it ends, and how long the provider was waited for. */
const reported = (exchange: Exchange, candidate: Candidate) => <A, R>(self: Effect.Effect<A, AttemptError, R>) =>
  Effect.suspend(() => {
    const startedAt = exchange.elapsed()
    exchange.model = candidate.model
    return Effect.onExit(self, (exit) =>
      Effect.sync(() => {
        const durationMs = exchange.elapsed() - startedAt
        exchange.upstreamMs += durationMs
        exchange.attempts.push({ model: candidate.model.id, outcome: outcomeOf(exit), durationMs })
      }))
  })

const unsupported = (candidate: Candidate, what: string) =>
  new ProviderError({ provider: candidate.provider.slug, kind: "caller", message: `this provider has no ${what}` })

/** Calls a provider for a whole answer. */
export const attemptChat = (
  exchange: Exchange,
  candidate: Candidate,
  call: ChatCall,
  timeouts: Timeouts
): Effect.Effect<ChatResponse, AttemptError> => {
  const { provider } = candidate
  if (provider.chat === undefined) return Effect.fail(unsupported(candidate, "chat"))
  return provider.chat(call).pipe(
    limitTotal(provider.slug, timeouts, exchange.elapsed()),
    reported(exchange, candidate)
  )
}

/**
 * Calls a provider for a stream and waits for its commit. The scope owns the upstream's connection; a failed attempt has
 * closed it by the time that it fails.
 */
export const attemptStream = (
  exchange: Exchange,
  candidate: Candidate,
  call: ChatCall,
  timeouts: Timeouts
): Effect.Effect<WatchedStream, AttemptError, Scope.Scope> => {
  const { provider } = candidate
  if (provider.streamChat === undefined) return Effect.fail(unsupported(candidate, "streamed chat"))
  return opened(exchange, candidate, provider.streamChat(call), timeouts).pipe(reported(exchange, candidate))
}

const opened = Effect.fnUntraced(function*(
  exchange: Exchange,
  candidate: Candidate,
  chunks: Stream.Stream<ChatChunk, ProviderError>,
  timeouts: Timeouts
): Effect.fn.Return<WatchedStream, AttemptError, Scope.Scope> {
  const scope = yield* Scope.fork(yield* Effect.scope)
  return yield* Effect.onExit(
    committed(exchange, candidate, chunks, timeouts, scope),
    (exit) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit)
  )
})

const committed = Effect.fnUntraced(function*(
  exchange: Exchange,
  candidate: Candidate,
  chunks: Stream.Stream<ChatChunk, ProviderError>,
  timeouts: Timeouts,
  scope: Scope.Scope
): Effect.fn.Return<WatchedStream, AttemptError> {
  const { slug } = candidate.provider
  const { pull } = yield* watch(slug, chunks, timeouts, exchange.elapsed(), scope)
  const held = yield* holdBack(exchange, candidate, pull)
  exchange.firstTokenMs = exchange.elapsed()
  return { pull: resume(held, pull) }
})

const commits = (chunk: ChatChunk): boolean => hasContent(chunk) || chunk.finishReason !== undefined

/** Pulls until the first content, and gives what was held until then. */
const holdBack = Effect.fnUntraced(function*(
  exchange: Exchange,
  candidate: Candidate,
  pull: ChunkPull<AttemptError>
): Effect.fn.Return<ReadonlyArray<ChatChunk>, AttemptError> {
  const held: Array<ChatChunk> = []
  let committed = false
  while (!committed) {
    const chunks: Chunks = yield* Effect.catchIf(pull, isDone, () =>
      Effect.fail(
        new ProviderError({
          provider: candidate.provider.slug,
          kind: "protocol",
          message: "the provider's stream ended without an answer"
        })
      ))
    for (const chunk of chunks) {
      if (chunk.droppedParams !== undefined) exchange.dropped = chunk.droppedParams
      // A chunk that only names what was dropped has no id of the provider's, and nothing for the caller.
      if (chunk.droppedParams === undefined || chunk.id !== "") held.push(chunk)
      committed ||= commits(chunk)
    }
    if (held.length > maxHeldBack) {
      return yield* new ProviderError({
        provider: candidate.provider.slug,
        kind: "protocol",
        message: "the provider's stream goes on without content"
      })
    }
  }
  return held
})

/** The pull again, with what was held before it. */
const resume = <E>(held: ReadonlyArray<ChatChunk>, pull: ChunkPull<E>): ChunkPull<E> => {
  const [first, ...rest] = held
  let pending: Chunks | undefined = first === undefined ? undefined : [first, ...rest]
  return Effect.suspend(() => {
    if (pending === undefined) return pull
    const chunks = pending
    pending = undefined
    return Effect.succeed(chunks)
  })
}

const isDone = (error: AttemptError | Cause.Done): error is Cause.Done => Cause.isDone(error)
