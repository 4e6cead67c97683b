/**
 * The gateway itself: one Effect program for each operation, composed of the stages beside this file.
 *
 * ```
 * validate -> interceptors (pre) -> resolve model, tools, schema -> attempt under timers -> check -> interceptors (post)
 * ```
 *
 * with accounting around all of it, on every exit. It knows no plugin, no store and no protocol; those are Layers that
 * register themselves. In process it is called as it is; the HTTP and RPC servers are callers like any other.
 */
import { Cause, Context, Effect, Exit, Layer, Result, type Scope, Stream } from "effect"
import { CurrentCaller, type Timeouts } from "../sdk/Caller.ts"
import type { ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import { fail, type GatewayError, InternalError } from "../sdk/GatewayError.ts"
import { InterceptorRegistry } from "../sdk/Interceptor.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { ModelRegistry } from "../sdk/ModelRegistry.ts"
import { type ChatCall, ProviderRegistry } from "../sdk/Provider.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"
import { UsageSinkRegistry } from "../sdk/UsageSink.ts"
import { accountResponse, record, StreamAccount } from "./Accounting.ts"
import { attemptChat, attemptStream } from "./Attempt.ts"
import type { ChunkPull } from "./ChunkPull.ts"
import { describeDefect } from "./Defect.ts"
import { type Exchange, start } from "./Exchange.ts"
import { type AttemptError, gatewayError } from "./Failure.ts"
import { interceptRequest, interceptResponse, interceptStream } from "./Interception.ts"
import { type Candidate, resolveChat } from "./Resolution.ts"
import { checkResponse, compile, streamChecker } from "./StructuredOutput.ts"
import { effectiveTimeouts } from "./Timers.ts"
import { resolveTools } from "./ToolResolution.ts"
import { validateChat } from "./Validation.ts"

/** Limits that hold where neither configuration nor request says otherwise, ms. */
export const defaultTimeouts: Timeouts = { connect: 5_000, firstToken: 30_000, idle: 30_000, total: 600_000 }

/** Options of the gateway. */
export interface GatewayOptions {
  /** Limits of the four timers, ms. */
  readonly timeouts?: Partial<Timeouts>
}

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
  /** The models that the current caller may use. */
  readonly models: Effect.Effect<ReadonlyArray<ModelInfo>>
  /** One of them, by canonical or bare id. */
  readonly model: (id: string) => Effect.Effect<ModelInfo, GatewayError>
}>()("llm-gateway/gateway/Gateway") {
  static readonly layer = (options: GatewayOptions = {}): Layer.Layer<Gateway, never, Dependencies> =>
    Layer.effect(Gateway, make(options))
}

/** What the gateway is built on. */
export type Dependencies = ModelRegistry | ProviderRegistry | TypeRegistry | InterceptorRegistry | UsageSinkRegistry

/** A call that is ready for its attempts. */
interface Prepared {
  readonly request: ChatRequest
  readonly candidate: Candidate
  readonly call: ChatCall
  readonly timeouts: Timeouts
}

const make = Effect.fnUntraced(function*(
  options: GatewayOptions
): Effect.fn.Return<Gateway["Service"], never, Dependencies> {
  const configured: Timeouts = { ...defaultTimeouts, ...options.timeouts }
  const models = yield* ModelRegistry
  const interceptors = yield* InterceptorRegistry
  const sinks = yield* UsageSinkRegistry
  // Only these: the context of the Layer as a whole holds the Layer's scope, which would take the request's place, and
  // keep every upstream connection open for as long as the gateway lives.
  const dependencies = Context.make(ModelRegistry, models).pipe(
    Context.add(ProviderRegistry, yield* ProviderRegistry),
    Context.add(TypeRegistry, yield* TypeRegistry)
  )

  const prepare = Effect.fnUntraced(
    function*(
      exchange: Exchange,
      asked: ChatRequest
    ): Effect.fn.Return<Prepared, GatewayError, ModelRegistry | ProviderRegistry | TypeRegistry> {
      yield* Effect.fromResult(Result.mapError(validateChat(asked), fail))
      const request = yield* interceptRequest(interceptors.ordered(), asked)
      if (request.responseSchema !== undefined) {
        yield* Effect.fromResult(Result.mapError(compile(request.responseSchema), fail))
      }
      const candidate = yield* resolveChat(exchange, request)
      const tools = request.tools === undefined ? undefined : (yield* resolveTools(request.tools)).tools
      const timeouts = effectiveTimeouts(configured, exchange.timeouts)
      const { tools: _, ...rest } = request
      return {
        request,
        candidate,
        call: {
          request: tools === undefined ? rest : { ...rest, tools },
          model: candidate.model,
          connectTimeout: timeouts.connect
        },
        timeouts
      }
    }
  )

  const complete = (asked: ChatRequest, exchange: Exchange): Effect.Effect<ChatResponse, GatewayError> =>
    Effect.gen(function*() {
      const { call, candidate, request, timeouts } = yield* prepare(exchange, asked)
      const answered = yield* Effect.mapError(attemptChat(exchange, candidate, call, timeouts), gatewayError)
      const response = accountResponse(exchange, request, answered)
      if (request.responseSchema !== undefined) {
        yield* Effect.fromResult(Result.mapError(checkResponse(response, request.responseSchema), fail))
      }
      return yield* interceptResponse(interceptors.ordered(), response, request)
    }).pipe(
      Effect.provideContext(dependencies),
      withoutDefects(exchange),
      Effect.onExit((exit) => record(exchange, asked, sinks.all(), exit))
    )

  const openChat = (
    asked: ChatRequest,
    exchange: Exchange
  ): Effect.Effect<Stream.Stream<ChatChunk, GatewayError>, GatewayError, Scope.Scope> =>
    Effect.gen(function*() {
      const { call, candidate, request, timeouts } = yield* prepare(exchange, asked)
      const committed = yield* Effect.mapError(attemptStream(exchange, candidate, call, timeouts), gatewayError)
      const account = new StreamAccount(exchange)
      const chunks = Stream.fromPull(Effect.succeed(followed(committed.pull, request, account))).pipe(
        Stream.onExit(() => Effect.sync(() => account.settle(request)))
      )
      return interceptStream(interceptors.ordered(), chunks, request).pipe(
        Stream.catchDefect((defect) => Stream.fromEffect(failed(exchange, defect))),
        Stream.onExit((exit) => record(exchange, asked, sinks.all(), exit))
      )
    }).pipe(
      Effect.provideContext(dependencies),
      withoutDefects(exchange),
      Effect.onExit((exit) => Exit.isSuccess(exit) ? Effect.void : record(exchange, asked, sinks.all(), exit))
    )

  return {
    chat: (request, exchange) =>
      exchange === undefined
        ? Effect.flatMap(start(request.model, false), (started) => complete(request, started))
        : complete(request, exchange),
    streamChat: (request) =>
      Stream.unwrap(Effect.flatMap(start(request.model, true), (exchange) => openChat(request, exchange))),
    openChat,
    models: Effect.flatMap(CurrentCaller, models.list),
    model: (id) => Effect.flatMap(CurrentCaller, (caller) => models.resolve(id, caller))
  }
})

/** The stream with its figures counted and, where a schema was asked for, its text checked before the end is told. */
const followed = (
  pull: ChunkPull<AttemptError>,
  request: ChatRequest,
  account: StreamAccount
): ChunkPull<GatewayError> => {
  const checker = request.responseSchema === undefined ? undefined : streamChecker(request.responseSchema)
  return pull.pipe(
    Effect.mapError((error) => Cause.isDone(error) ? error : gatewayError(error)),
    Effect.flatMap((chunks) => {
      for (const chunk of chunks) {
        account.observe(chunk)
        if (checker === undefined) continue
        checker.push(chunk)
        if (chunk.finishReason === undefined) continue
        // The caller must not read that the answer is complete before it is known to fit.
        const checked = checker.end()
        if (Result.isFailure(checked)) return Effect.fail(fail(checked.failure))
      }
      return Effect.succeed(chunks)
    })
  )
}

/** A defect in a plugin or in the gateway is logged under the request's id and answered without details. */
const failed = (exchange: Exchange, defect: unknown): Effect.Effect<never, GatewayError> =>
  Effect.logError("a request failed with a defect", { requestId: exchange.requestId, ...describeDefect(defect) }).pipe(
    Effect.andThen(Effect.fail(
      fail(new InternalError({ message: `the gateway failed; ask its operator about request ${exchange.requestId}` }))
    ))
  )

const withoutDefects = (exchange: Exchange) => <A, R>(self: Effect.Effect<A, GatewayError, R>) =>
  Effect.catchDefect(self, (defect) => failed(exchange, defect))
