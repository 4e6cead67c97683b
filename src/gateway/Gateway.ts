/**
 * The gateway itself: one Effect program for each operation, composed of the stages beside this file.
 *
 * ```
 * validate -> interceptors (pre) -> resolve model, tools, schema -> plan -> attempts (retry, fallback, hedge) under timers
 *   -> check -> interceptors (post)
 * ```
 *
 * with accounting around all of it, on every exit. It knows no plugin, no store and no protocol; those are Layers that
 * register themselves. In process it is called as it is; the HTTP and RPC servers are callers like any other.
 */
import { Array as Arr, Cause, Context, Effect, Exit, Layer, Option, Result, type Scope, Stream } from "effect"
import { Breakers } from "../sdk/Breakers.ts"
import type { Balance } from "../sdk/Budgets.ts"
import { CurrentCaller, CurrentRequest } from "../sdk/Caller.ts"
import type { ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import type { EmbeddingRequest, EmbeddingResponse } from "../sdk/Embedding.ts"
import { FileStorage } from "../sdk/FileStorage.ts"
import { fail, type GatewayError } from "../sdk/GatewayError.ts"
import type { ImageChunk, ImageRequest, ImageResponse } from "../sdk/Image.ts"
import type { Interceptor, InterceptorContext } from "../sdk/Interceptor.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { ModelRegistry } from "../sdk/ModelRegistry.ts"
import type { ChatCall, ProviderError } from "../sdk/Provider.ts"
import type { SpeechChunk, SpeechRequest } from "../sdk/Speech.ts"
import type {
  Transcription,
  TranscriptionChunk,
  TranscriptionRequest,
  TranscriptionResponse
} from "../sdk/Transcription.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"
import type { VideoRequest, VideoResponse } from "../sdk/Video.ts"
import { accountResponse, StreamAccount } from "./Accounting.ts"
import { attemptChat, attemptStream } from "./Attempt.ts"
import { runAttempts, type Turn } from "./Attempts.ts"
import { chatOperation } from "./ChatOperation.ts"
import type { ChunkPull } from "./ChunkPull.ts"
import * as EmbeddingBatches from "./EmbeddingBatches.ts"
import * as EmbeddingOperation from "./EmbeddingOperation.ts"
import { type Exchange, start } from "./Exchange.ts"
import * as Explain from "./Explain.ts"
import { type AttemptError, gatewayError } from "./Failure.ts"
import { finishing, once } from "./Finishing.ts"
import { imageOperation, streamedImages } from "./ImageOperation.ts"
import { interceptorsOf, interceptRequest, interceptResponse, interceptStream, untilPassed } from "./Interception.ts"
import * as Pipeline from "./Pipeline.ts"
import { finding } from "./Recordings.ts"
import { streamedTranscriptions, transcriptions } from "./TranscriptionOperation.ts"
import * as Realtime from "./realtime/Realtime.ts"
import * as RealtimeConversation from "./realtime/RealtimeConversation.ts"
import { after, type Dependencies, failed, failedAttempt, type GatewayOptions, settled, waited } from "./Pipeline.ts"
import type { Candidate, Plan } from "./Plan.ts"
import { type Keep, keeping, streamedSpeech } from "./SpeechOperation.ts"
import { checkResponse, compile, streamChecker } from "./StructuredOutput.ts"
import * as TokenCounting from "./TokenCount.ts"
import { chunkToCallerNames, toCallerNames, type ToolNames, toProviderNames } from "./ToolNames.ts"
import { type ResolvedTools, resolveTools } from "./ToolResolution.ts"
import { validateChat } from "./Validation.ts"
import * as StreamOperation from "./StreamOperation.ts"
import * as VideoOperation from "./VideoOperation.ts"
import * as WholeOperation from "./WholeOperation.ts"

export {
  type BudgetOptions,
  defaultAttempts,
  defaultRetry,
  defaultTimeouts,
  type Dependencies,
  type GatewayOptions
} from "./Pipeline.ts"
export type { RealtimeConversation } from "./realtime/RealtimeConversation.ts"
export type { RealtimeOptions } from "./realtime/RealtimeOptions.ts"

/** Calls models. Runs as the `CurrentCaller`, under the `CurrentRequest`'s options. */
export class Gateway extends Context.Service<Gateway, {
  /** Asks for a whole answer. Interrupting it closes the upstream's connection. */
  readonly chat: (request: ChatRequest, exchange?: Exchange) => Effect.Effect<ChatResponse, GatewayError>
  /** Asks for a streamed answer. Leaving the stream early closes the upstream's connection. */
  readonly streamChat: (request: ChatRequest) => Stream.Stream<ChatChunk, GatewayError>
  /**
   * As `streamChat`, but waits for the first content: what fails until then fails here, and what fails later fails the
   * stream. For servers, which have to choose a status before they send anything. The scope is the stream's life.
   */
  readonly openChat: (
    request: ChatRequest,
    exchange: Exchange
  ) => Effect.Effect<Stream.Stream<ChatChunk, GatewayError>, GatewayError, Scope.Scope>
  /** Asks for vectors. Interrupting it closes the upstream's connections. */
  readonly embed: (
    request: EmbeddingRequest,
    exchange?: Exchange
  ) => Effect.Effect<EmbeddingResponse, GatewayError>
  /** Asks for pictures. Interrupting it closes the upstream's connection. */
  readonly image: (request: ImageRequest, exchange?: Exchange) => Effect.Effect<ImageResponse, GatewayError>
  /**
   * Asks for a video, and waits until it is made and stored. Interrupting it cancels the video, unless the request is to be made
   * again.
   */
  readonly video: (request: VideoRequest, exchange?: Exchange) => Effect.Effect<VideoResponse, GatewayError>
  /** Asks for pictures in a stream; what fails before the first of them fails here. The scope is the stream's life. */
  readonly openImage: StreamOperation.Open<ImageRequest, ImageChunk>
  /** Asks for speech, which is kept in the gateway's files; `not_found` where it keeps none. */
  readonly speak: Keep
  /** Asks for speech in a stream; what fails before the first sound fails here. The scope is the stream's life. */
  readonly openSpeech: StreamOperation.Open<SpeechRequest, SpeechChunk>
  /** Asks for a transcript. Interrupting it closes the upstream's connection. */
  readonly transcribe: (
    request: TranscriptionRequest | Transcription,
    exchange?: Exchange
  ) => Effect.Effect<TranscriptionResponse, GatewayError>
  /** Asks for a transcript in a stream; what fails before its first piece fails here. The scope is the stream's life. */
  readonly openTranscription: StreamOperation.Open<TranscriptionRequest | Transcription, TranscriptionChunk>
  /**
   * Opens a realtime session: what fails until the provider is connected fails here. The caller is connected by `run`. The
   * scope is the session's life.
   */
  readonly openRealtime: Realtime.OpenSession
  /** A realtime session with its frames in a stream; what fails until the provider is connected fails here. */
  readonly realtime: RealtimeConversation.Converse
  /** How many tokens a request's prompt has; nothing is answered, and nothing is charged. */
  readonly countTokens: (
    request: ChatRequest,
    exchange?: Exchange
  ) => Effect.Effect<TokenCounting.TokenCount, GatewayError>
  /** The models that the current caller may use. */
  readonly models: Effect.Effect<ReadonlyArray<ModelInfo>>
  /** One of them, by canonical or bare id. */
  readonly model: (id: string) => Effect.Effect<ModelInfo, GatewayError>
  /** How a request would be served if it came now; nothing is sent to a provider. */
  readonly explain: Explain.Explain["explain"]
  /** The routes of which the current caller may use a model. */
  readonly routes: Explain.Explain["routes"]
  /** How the budgets stand that pay for the current caller's requests, those of single models apart. */
  readonly budgets: Effect.Effect<ReadonlyArray<Balance>, GatewayError>
  /** Requests that have begun and not finished: until then what the gateway is built on is in use. */
  readonly running: () => number
}>()("llm-gateway/gateway/Gateway") {
  static readonly layer = (options: GatewayOptions = {}): Layer.Layer<Gateway, never, Dependencies> =>
    Layer.effect(Gateway, make(options))
}

/** A request that is ready for its attempts. */
interface Prepared {
  /** As the interceptors left it. */
  readonly request: ChatRequest
  /** The interceptors that see it. */
  readonly active: ReadonlyArray<Interceptor>
  readonly context: InterceptorContext
  readonly plan: Plan
  /** Asks the limits of a candidate's own model. */
  readonly admit: (candidate: Candidate) => Effect.Effect<void, ProviderError>
  /** The call to one of the plan's candidates. */
  readonly callFor: (candidate: Candidate, turn: Turn) => ChatCall
  readonly toolNames: ToolNames
}

const noTools: ResolvedTools = { tools: [], nameToId: new Map() }

const withTools = ({ tools, ...request }: ChatRequest, resolved: ResolvedTools): ChatCall["request"] =>
  tools === undefined ? request : { ...request, tools: resolved.tools }

const make = Effect.fnUntraced(function*(
  options: GatewayOptions
): Effect.fn.Return<Gateway["Service"], never, Dependencies | Scope.Scope> {
  const models = yield* ModelRegistry
  const types = yield* TypeRegistry
  const pipeline = yield* Pipeline.make(options)
  const { admission, began, finish, health, interceptors, ledger, resolve, watched } = pipeline
  const count = TokenCounting.make({ pipeline, types })
  const breakers = yield* Effect.serviceOption(Breakers)
  const openSpeech = StreamOperation.make(pipeline, streamedSpeech)
  const findRecording = yield* finding
  const transcribe = WholeOperation.make(pipeline, transcriptions)
  const openTranscription = StreamOperation.make(pipeline, streamedTranscriptions)
  const explain = yield* Explain.make(resolve, Option.isSome(breakers) ? { breakers: breakers.value.states } : {})

  const admitted = Effect.fnUntraced(
    function*(
      exchange: Exchange,
      asked: ChatRequest
    ): Effect.fn.Return<Prepared, GatewayError> {
      yield* Effect.fromResult(Result.mapError(validateChat(asked), fail))
      const active = interceptorsOf(interceptors.ordered(), exchange.caller)
      const context = yield* pipeline.contextOf(exchange, active)
      const bindings = admission.bindings(exchange)
      // Interceptors may cost more than the request itself, so they get no request beyond the limits.
      const looked = active.some(({ pre }) => pre !== undefined)
      if (looked) yield* admission.countRequest(exchange, bindings)
      const request = looked ? yield* interceptRequest(active, asked, context) : asked
      if (request.responseSchema !== undefined) {
        yield* Effect.fromResult(Result.mapError(compile(request.responseSchema), fail))
      }
      const planned = yield* resolve(exchange, chatOperation, request, yield* CurrentRequest)
      exchange.preferred = planned.candidates[0].model
      const resolved = request.tools === undefined
        ? noTools
        : yield* Effect.provideService(resolveTools(request.tools), TypeRegistry, types)
      yield* ledger.open
      if (exchange.trace?.takesContent === true) exchange.trace.content("input", request.messages)
      const whole = request.tools === undefined ? request : withTools(request, resolved)
      const plan = yield* admission.admit(exchange, chatOperation, bindings, planned, whole)
      exchange.skipped = plan.skipped
      const called = withTools(toProviderNames(request, resolved.nameToId), resolved)
      return {
        request,
        active,
        context,
        plan,
        admit: (candidate) => admission.admitCandidate(exchange, chatOperation, bindings, plan, whole, candidate),
        callFor: (candidate, { force }) => ({
          request: called,
          model: candidate.model,
          connectTimeout: plan.timeouts.connect,
          force
        }),
        toolNames: resolved.nameToId
      }
    }
  )

  /** A request that is wrong is a request all the same, and beyond the limits it is refused for that. */
  const prepare = (exchange: Exchange, asked: ChatRequest): Effect.Effect<Prepared, GatewayError> =>
    pipeline.counted(exchange, admitted(exchange, asked))

  const answer = Effect.fnUntraced(function*(
    asked: ChatRequest,
    exchange: Exchange
  ): Effect.fn.Return<ChatResponse, GatewayError | AttemptError> {
    const { active, admit, callFor, context, plan, request, toolNames } = yield* prepare(exchange, asked)
    const answered = yield* waited(
      exchange,
      runAttempts(
        exchange,
        plan,
        (candidate, turn) =>
          after(
            admit(candidate),
            attemptChat(
              exchange,
              candidate,
              callFor(candidate, turn),
              plan.timeouts,
              watched,
              !turn.last && plan.route?.onFailure?.timeout_answer !== "final"
            )
          ),
        health.of
      )
    )
    const response = accountResponse(exchange, request, toCallerNames(answered, toolNames))
    if (exchange.trace?.takesContent === true) exchange.trace.content("output", response.content)
    if (request.responseSchema !== undefined) {
      yield* Effect.fromResult(Result.mapError(checkResponse(response, request.responseSchema), fail))
    }
    return yield* interceptResponse(active, response, request, context)
  })

  const open = Effect.fnUntraced(function*(
    asked: ChatRequest,
    exchange: Exchange
  ): Effect.fn.Return<Stream.Stream<ChatChunk, GatewayError>, GatewayError | AttemptError, Scope.Scope> {
    const { active, admit, callFor, context, plan, request, toolNames } = yield* prepare(exchange, asked)
    const committed = yield* waited(
      exchange,
      runAttempts(exchange, plan, (candidate, turn) =>
        after(
          admit(candidate),
          attemptStream(
            exchange,
            candidate,
            callFor(candidate, turn),
            plan.timeouts,
            watched,
            // Where nothing comes after it, a slow answer is better than none.
            turn.last ? undefined : plan.route?.minTokensPerSecond
          )
        ), health.of)
    )
    exchange.model = committed.model
    exchange.dropped = committed.dropped
    exchange.firstTokenMs = exchange.elapsed()
    exchange.heldBackFor = active.flatMap(({ name, post, stream }) =>
      post !== undefined && stream === undefined ? [name] : []
    )
    const account = new StreamAccount(exchange)
    const chunks = Stream.fromPull(Effect.succeed(followed(exchange, committed.pull, request, account)))
    const named = toolNames.size === 0
      ? chunks
      : Stream.map(chunks, (chunk) => chunkToCallerNames(chunk, toolNames))
    const whole = Stream.catchDefect(named, (defect) => Stream.fromEffect(failed(exchange, defect)))
    // The interceptors see to their own defects: what a provider breaks is not to be told as theirs.
    const passed = yield* Effect.onError(
      untilPassed(active, interceptStream(active, whole, request, context)),
      () => Effect.sync(() => account.settle(request))
    )
    const finishOnce = once((exit) => {
      account.settle(request)
      return finish(exchange, chatOperation, asked, exit)
    })
    // A server whose caller has gone by now never reads the stream; the request has to be accounted for all the same.
    yield* Effect.addFinalizer(() => Effect.ignore(finishOnce(Exit.interrupt())))
    return finishing(finishOnce, passed)
  })

  const complete = (asked: ChatRequest, exchange: Exchange): Effect.Effect<ChatResponse, GatewayError> =>
    Effect.suspend(() => {
      began(exchange)
      return Effect.exit(answer(asked, exchange))
    }).pipe(
      Effect.flatMap((exit) => settled(exchange, exit)),
      Effect.onExit((exit) => finish(exchange, chatOperation, asked, exit))
    )

  const openChat = (
    asked: ChatRequest,
    exchange: Exchange
  ): Effect.Effect<Stream.Stream<ChatChunk, GatewayError>, GatewayError, Scope.Scope> =>
    Effect.suspend(() => {
      began(exchange)
      return Effect.exit(open(asked, exchange))
    }).pipe(
      Effect.flatMap((exit) => settled(exchange, exit)),
      Effect.onExit((exit) => Exit.isSuccess(exit) ? Effect.void : finish(exchange, chatOperation, asked, exit))
    )

  const files = Option.getOrUndefined(yield* Effect.serviceOption(FileStorage))
  const video = WholeOperation.make(pipeline, VideoOperation.make(files))
  const openRealtime = Realtime.make(pipeline, models, options.realtime)

  return {
    chat: (request, exchange) =>
      exchange === undefined
        ? Effect.flatMap(start(request.model, false, request.user), (started) => complete(request, started))
        : complete(request, exchange),
    streamChat: (request) =>
      Stream.unwrap(
        Effect.flatMap(start(request.model, true, request.user), (exchange) => openChat(request, exchange))
      ),
    openChat,
    embed: WholeOperation.make(
      pipeline,
      EmbeddingOperation.make(
        EmbeddingBatches.make(yield* Effect.scope, EmbeddingOperation.sendAlone),
        options.embedBatching
      )
    ),
    image: WholeOperation.make(pipeline, imageOperation),
    video: (request, exchange) => Effect.map(video(request, exchange), ({ response }) => response),
    openImage: StreamOperation.make(pipeline, streamedImages),
    speak: yield* keeping(openSpeech),
    openSpeech,
    transcribe: (request, exchange) => Effect.flatMap(findRecording(request), (found) => transcribe(found, exchange)),
    openTranscription: (request, exchange) =>
      Effect.flatMap(findRecording(request), (found) => openTranscription(found, exchange)),
    openRealtime,
    realtime: RealtimeConversation.make(openRealtime),
    countTokens: (request, exchange) =>
      Effect.flatMap(
        exchange === undefined ? start(request.model, false, request.user) : Effect.succeed(exchange),
        (started) => count(request, started)
      ),
    models: Effect.flatMap(CurrentCaller, models.list),
    model: (id) => Effect.flatMap(CurrentCaller, (caller) => models.resolve(id, caller)),
    explain: explain.explain,
    routes: explain.routes,
    budgets: Effect.flatMap(start("", false), admission.balances),
    running: pipeline.running
  }
})

/** The stream with its figures counted and, where a schema was asked for, its text checked before the end is told. */
const followed = (
  exchange: Exchange,
  pull: ChunkPull<AttemptError>,
  request: ChatRequest,
  account: StreamAccount
): ChunkPull<GatewayError> => {
  const checker = request.responseSchema === undefined ? undefined : streamChecker(request.responseSchema)
  return pull.pipe(
    Effect.mapError((error) => Cause.isDone(error) ? error : gatewayError(error, failedAttempt(exchange, error))),
    Effect.flatMap((chunks) => {
      const observed = Arr.map(chunks, (chunk) => account.observe(chunk))
      if (checker === undefined) return Effect.succeed(observed)
      for (const chunk of observed) {
        checker.push(chunk)
        if (chunk.finishReason === undefined) continue
        // The caller must not read that the answer is complete before it is known to fit.
        const checked = checker.end()
        if (Result.isFailure(checked)) return Effect.fail(fail(checked.failure))
      }
      return Effect.succeed(observed)
    })
  )
}
