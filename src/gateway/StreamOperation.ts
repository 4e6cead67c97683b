/**
 * Operations that answer in a stream of their own chunks (bytes of speech, pieces of a transcript, partial images): the way of
 * their requests through the stages, which is the same for all of them.
 *
 * ```
 * validate -> interceptors (pre) -> resolve -> admission -> attempts until the first content -> chunks -> account
 * ```
 *
 * As with chat, what fails before the first content fails over, and what fails after it fails the stream. Interruption, or a
 * reader who leaves, closes the upstream; what was consumed is written down on every exit.
 */
import { Array as Arr, Cause, Effect, Exit, type Scope, Stream } from "effect"
import type { ChatResponse } from "../sdk/Chat.ts"
import { chunksOf, collect } from "../sdk/ChatStream.ts"
import { text } from "../sdk/Content.ts"
import { fail, type GatewayError, ResponseBlocked } from "../sdk/GatewayError.ts"
import type { Interceptor, InterceptorContext } from "../sdk/Interceptor.ts"
import type { ProviderError } from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"
import { accountConsumed } from "./Accounting.ts"
import { attemptOpen } from "./Attempt.ts"
import { runAttempts, type Turn } from "./Attempts.ts"
import type { ChunkKind, ChunkPull } from "./ChunkPull.ts"
import { type Exchange, start } from "./Exchange.ts"
import { type AttemptError, gatewayError } from "./Failure.ts"
import { finishing, once } from "./Finishing.ts"
import { interceptStream } from "./Interception.ts"
import type { Asked } from "./Operation.ts"
import { after, failed, failedAttempt, type Pipeline, settled, waited } from "./Pipeline.ts"
import type { Candidate } from "./Plan.ts"
import * as Preparation from "./Preparation.ts"
import { miscounted, type PreparedOperation, shownOrNothing, textsOf } from "./Preparation.ts"

/** Counts what a stream consumes, for the case that its provider does not tell. */
export interface Meter<Chunk> {
  /** Takes note of a chunk that has come, the held-back ones included. */
  readonly observe: (chunk: Chunk) => void
  /** What has been consumed so far; marked `estimated` where that is a guess. */
  readonly usage: () => Usage
}

/** An operation that answers in a stream. */
export interface StreamOperation<Request extends Asked, Chunk> extends PreparedOperation<Request> {
  readonly chunks: ChunkKind<Chunk>
  /** The stream of one call. Its upstream is open for exactly as long as it runs. */
  readonly stream: (
    request: Request,
    candidate: Candidate,
    turn: Turn & { readonly connectTimeout: number }
  ) => Stream.Stream<Chunk, ProviderError>
  readonly meter: (request: Request) => Meter<Chunk>
  /** A chunk with the usage that it tells, the cost added; absent: callers are not told. */
  readonly accounted?: (chunk: Chunk, usage: Usage) => Chunk
  /**
   * The texts of a whole answer, where it has any, and its chunks with others in their place. Where an interceptor looks at
   * answers, the stream is held back until it has passed as a whole.
   */
  readonly answered?: {
    readonly texts: (chunks: ReadonlyArray<Chunk>) => ReadonlyArray<string>
    readonly changed: (chunks: ReadonlyArray<Chunk>, texts: ReadonlyArray<string>) => ReadonlyArray<Chunk>
  }
}

/**
 * Opens the answer to a request: what fails before its first content fails here, what fails later fails the stream. The scope
 * is the stream's life. The exchange is made where the caller brings none.
 */
export type Open<Request, Chunk> = (
  request: Request,
  exchange?: Exchange
) => Effect.Effect<Stream.Stream<Chunk, GatewayError>, GatewayError, Scope.Scope>

/** The figures of a stream: the provider's, or the meter's where it told none. */
class StreamFigures<Chunk> {
  readonly #exchange: Exchange
  readonly #kind: ChunkKind<Chunk>
  readonly #meter: Meter<Chunk>
  readonly #accounted: ((chunk: Chunk, usage: Usage) => Chunk) | undefined

  constructor(
    exchange: Exchange,
    kind: ChunkKind<Chunk>,
    meter: Meter<Chunk>,
    accounted: ((chunk: Chunk, usage: Usage) => Chunk) | undefined
  ) {
    this.#exchange = exchange
    this.#kind = kind
    this.#meter = meter
    this.#accounted = accounted
  }

  /** Takes note of a chunk, and gives it back. */
  observe(chunk: Chunk): Chunk {
    this.#meter.observe(chunk)
    if (this.#kind.ends?.(chunk) === true) this.#exchange.isAnswered = true
    const usage = this.#kind.usage(chunk)
    if (usage === undefined) return chunk
    const priced = accountConsumed(this.#exchange, usage)
    return this.#accounted === undefined ? chunk : this.#accounted(chunk, priced)
  }

  /** The stream's own end has come. */
  ended(): void {
    this.#exchange.isAnswered = true
  }

  /** Counts what the provider did not tell. */
  settle(): void {
    if (this.#exchange.usage === undefined) accountConsumed(this.#exchange, this.#meter.usage())
  }
}

const followed = <Chunk>(
  exchange: Exchange,
  pull: ChunkPull<AttemptError, Chunk>,
  figures: StreamFigures<Chunk>
): ChunkPull<GatewayError, Chunk> =>
  Effect.matchEffect(pull, {
    onFailure: (error): Effect.Effect<never, GatewayError | Cause.Done> => {
      if (!Cause.isDone(error)) return Effect.fail(gatewayError(error, failedAttempt(exchange, error)))
      figures.ended()
      return Cause.done()
    },
    onSuccess: (chunks) => Effect.succeed(Arr.map(chunks, (chunk) => figures.observe(chunk)))
  })

/** Chunks of an answer that is held back as a whole; more of them are no text. */
const maxHeld = 100_000

const tooLong = ({ name }: Interceptor): GatewayError =>
  fail(
    new ResponseBlocked({
      message: `the answer was blocked by ${name}: it is too long to be held back until it is checked`,
      interceptor: name
    })
  )

/** The stream as the interceptors leave it, once they have seen all of its texts. */
const passed = Effect.fnUntraced(function*<Request extends Asked, Chunk>(
  operation: StreamOperation<Request, Chunk>,
  { looking, context }: { readonly looking: ReadonlyArray<Interceptor>; readonly context: InterceptorContext },
  request: Request,
  chunks: Stream.Stream<Chunk, GatewayError>
): Effect.fn.Return<Stream.Stream<Chunk, GatewayError>, GatewayError> {
  const { answered } = operation
  const [first] = looking
  if (answered === undefined || first === undefined) return chunks
  const held: Array<Chunk> = []
  yield* Stream.runForEachArray(chunks, (together) => {
    held.push(...together)
    return held.length > maxHeld ? Effect.fail(tooLong(first)) : Effect.void
  })
  const before = answered.texts(held)
  const shown: ChatResponse = {
    id: context.requestId,
    model: request.model,
    content: before.map(text),
    finishReason: "stop"
  }
  const asked = shownOrNothing(operation, request)
  const judged = yield* collect(interceptStream(looking, Stream.fromIterable(chunksOf(shown)), asked, context))
  const texts = textsOf(judged.content)
  if (texts.length !== before.length) return yield* miscounted(first)
  return Stream.fromIterable(texts.every((now, at) => now === before[at]) ? held : answered.changed(held, texts))
})

/** Makes the way of one operation's requests through the stages of a gateway. */
export const make = <Request extends Asked, Chunk>(
  pipeline: Pipeline,
  operation: StreamOperation<Request, Chunk>
): Open<Request, Chunk> => {
  const { admission, began, finish, health, watched } = pipeline
  const prepare = Preparation.make(pipeline, operation)

  const opened = Effect.fnUntraced(function*(
    asked: Request,
    exchange: Exchange
  ): Effect.fn.Return<Stream.Stream<Chunk, GatewayError>, GatewayError | AttemptError, Scope.Scope> {
    const { active, context, bindings, plan, request } = yield* prepare(exchange, asked)
    const { connect: connectTimeout } = plan.timeouts
    const committed = yield* waited(
      exchange,
      runAttempts(exchange, plan, (candidate, turn) =>
        after(
          admission.admitCandidate(exchange, operation, bindings, plan, request, candidate),
          attemptOpen(
            exchange,
            candidate,
            operation.chunks,
            operation.stream(request, candidate, { ...turn, connectTimeout }),
            plan.timeouts,
            watched
          )
        ), health.of)
    )
    exchange.model = committed.model
    exchange.dropped = committed.dropped
    exchange.firstTokenMs = exchange.elapsed()
    const looking = active.filter(({ post, stream }) => post !== undefined || stream !== undefined)
    if (operation.answered !== undefined) exchange.heldBackFor = looking.map(({ name }) => name)
    const figures = new StreamFigures(exchange, operation.chunks, operation.meter(request), operation.accounted)
    const chunks = Stream.fromPull(Effect.succeed(followed(exchange, committed.pull, figures)))
    const whole = Stream.catchDefect(chunks, (defect) => Stream.fromEffect(failed(exchange, defect)))
    const given = yield* Effect.onError(
      passed(operation, { looking, context }, request, whole),
      () => Effect.sync(() => figures.settle())
    )
    const finishOnce = once((exit) => {
      figures.settle()
      return finish(exchange, operation, asked, exit)
    })
    // A server whose caller has gone by now never reads the stream; the request has to be accounted for all the same.
    yield* Effect.addFinalizer(() => Effect.ignore(finishOnce(Exit.interrupt())))
    return finishing(finishOnce, given)
  })

  const open = (asked: Request, exchange: Exchange) =>
    Effect.suspend(() => {
      began(exchange)
      return Effect.exit(opened(asked, exchange))
    }).pipe(
      Effect.flatMap((exit) => settled(exchange, exit)),
      Effect.onExit((exit) => Exit.isSuccess(exit) ? Effect.void : finish(exchange, operation, asked, exit))
    )

  return (asked, exchange) =>
    exchange === undefined
      ? Effect.flatMap(
        start(asked.model, true, operation.userOf(asked), operation.name),
        (started) => open(asked, started)
      )
      : open(asked, exchange)
}
