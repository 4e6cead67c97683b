/**
 * Runs the registered interceptors: requests through `pre` in order, answers through `post` in reverse order, streams
 * through `stream`. One with `post` and without `stream` has a streamed answer held back until it has passed as a whole.
 *
 * An interceptor that fails, dies, is too slow or gives back nonsense follows its own failure mode: `closed` blocks, `open`
 * goes on as if it had allowed. Either way the log says so.
 */
import { Cause, Effect, Exit, Schema, Scope, Stream } from "effect"
import type { Caller } from "../sdk/Caller.ts"
import { type ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import { chunksOf, collect } from "../sdk/ChatStream.ts"
import { fail, type GatewayError, RequestBlocked } from "../sdk/GatewayError.ts"
import {
  allow,
  blocked,
  type Interceptor,
  type InterceptorContext,
  type InterceptorError,
  type Verdict
} from "../sdk/Interceptor.ts"
import { logOf } from "../sdk/Log.ts"
import { withoutRepeated } from "../sdk/Wire.ts"
import { describeDefect } from "./Defect.ts"
import { tellVerdict } from "./RequestTraces.ts"

const log = logOf("interceptors")

/** Those of the interceptors that see this caller's requests, in their order. */
export const interceptorsOf = (
  interceptors: ReadonlyArray<Interceptor>,
  caller: Caller
): ReadonlyArray<Interceptor> => {
  for (const interceptor of interceptors) {
    if (applies(interceptor, caller)) continue
    return interceptors.filter((other) => applies(other, caller))
  }
  return interceptors
}

type Headers = Readonly<Record<string, string | undefined>>

/** The headers of a request that came over no HTTP. */
export const noHeaders: Headers = {}

const credentials: ReadonlySet<string> = new Set([
  "authorization",
  "proxy-authorization",
  "x-api-key",
  "api-key",
  "cookie",
  "sec-websocket-protocol"
])

/** A request's headers as plugins may see them. */
export const withoutCredentials = (headers: Headers): Headers =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !credentials.has(name)))
/** Whether an interceptor sees a caller's requests; one that cannot say sees them, unless it fails open. */
const applies = ({ appliesTo, failure }: Interceptor, caller: Caller): boolean => {
  if (appliesTo === undefined) return true
  try {
    return appliesTo(caller)
  } catch {
    return failure !== "open"
  }
}

const isRequest = Schema.is(ChatRequest)
const isResponse = Schema.is(ChatResponse)

/** What a caller reads of an interceptor that did not work; what went wrong is in the log. */
const outOfOrder = "it could not check the content"

const describe = (cause: Cause.Cause<InterceptorError>): Readonly<Record<string, unknown>> => {
  const failure = cause.reasons.find(Cause.isFailReason)
  if (failure !== undefined) return { error: failure.error.message }
  const defect = cause.reasons.find(Cause.isDieReason)
  return defect === undefined ? { error: "it interrupted itself" } : describeDefect(defect.defect)
}

/** Asks an interceptor for its verdict, under its own time limit and failure mode. */
const judge = <A>(
  { failure = "closed", name, timeoutMs }: Interceptor,
  context: InterceptorContext,
  asked: Effect.Effect<Verdict<A>, InterceptorError>,
  isValue: (value: unknown) => boolean
): Effect.Effect<Verdict<A>> => {
  const otherwise = (details: Readonly<Record<string, unknown>>) =>
    Effect.as(
      log.error("an interceptor failed", {
        interceptor: name,
        requestId: context.requestId,
        failure,
        ...details
      }),
      failure === "open" ? allow : { type: "block", reason: outOfOrder } as const
    )
  const limited = timeoutMs === undefined
    ? asked
    : Effect.timeoutOrElse(asked, {
      duration: timeoutMs,
      orElse: () => Effect.die(new Error(`no verdict within ${timeoutMs} ms`))
    })
  return Effect.exit(limited).pipe(Effect.flatMap((exit): Effect.Effect<Verdict<A>> => {
    // Where the request itself is interrupted, nothing comes here: an interruption in the exit is the interceptor's own.
    if (Exit.isFailure(exit)) return otherwise(describe(exit.cause))
    const verdict: unknown = exit.value
    if (isVerdict(verdict, isValue)) {
      if (exit.value.type !== "allow") tellVerdict(context, name, exit.value.type)
      return Effect.succeed(exit.value)
    }
    return otherwise({ error: "the verdict is none of allow, block and modify, or its value has the wrong shape" })
  }))
}

/** Plugins are other people's code, and not all of it is type-checked. */
const isVerdict = (verdict: unknown, isValue: (value: unknown) => boolean): boolean => {
  if (typeof verdict !== "object" || verdict === null || !("type" in verdict)) return false
  switch (verdict.type) {
    case "allow":
      return true
    case "block":
      return "reason" in verdict && typeof verdict.reason === "string"
    case "modify":
      return "value" in verdict && isValue(verdict.value)
    default:
      return false
  }
}

/** The request as the interceptors leave it; fails with `request_blocked`. */
export const interceptRequest = Effect.fnUntraced(function*(
  interceptors: ReadonlyArray<Interceptor>,
  request: ChatRequest,
  context: InterceptorContext
): Effect.fn.Return<ChatRequest, GatewayError> {
  let current = request
  for (const interceptor of interceptors) {
    if (interceptor.pre === undefined) continue
    const { pre } = interceptor
    const before = current
    const verdict = yield* judge(interceptor, context, Effect.suspend(() => pre(before, context)), isRequest)
    if (verdict.type === "modify") current = verdict.value
    else if (verdict.type === "block") {
      return yield* fail(
        new RequestBlocked({
          message: `the request was blocked by ${interceptor.name}: ${verdict.reason}`,
          interceptor: interceptor.name
        })
      )
    }
  }
  return current
})

/** The answer as the interceptors leave it; fails with `response_blocked`. */
export const interceptResponse = Effect.fnUntraced(function*(
  interceptors: ReadonlyArray<Interceptor>,
  response: ChatResponse,
  request: ChatRequest,
  context: InterceptorContext
): Effect.fn.Return<ChatResponse, GatewayError> {
  let current = response
  for (const interceptor of interceptors.toReversed()) {
    if (interceptor.post === undefined) continue
    const { post } = interceptor
    const before = current
    const verdict = yield* judge(interceptor, context, Effect.suspend(() => post(before, request, context)), isResponse)
    if (verdict.type === "modify") current = verdict.value
    else if (verdict.type === "block") return yield* blocked(interceptor.name, verdict.reason)
  }
  return current
})

/** The streamed answer as the interceptors leave it. */
export const interceptStream = (
  interceptors: ReadonlyArray<Interceptor>,
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  request: ChatRequest,
  context: InterceptorContext
): Stream.Stream<ChatChunk, GatewayError> => {
  let current = chunks
  if (interceptors.some(({ stream }) => stream !== undefined)) {
    // One event of a wire holds chunks of several choices, and whoever writes the event writes all of it.
    current = Stream.map(chunks, (request.n ?? 1) > 1 ? (chunk) => ({ ...chunk }) : withoutRepeated)
  }
  for (const interceptor of interceptors.toReversed()) {
    if (interceptor.stream !== undefined) current = guarded(interceptor, interceptor.stream, current, request, context)
    else if (interceptor.post !== undefined) current = heldBack(interceptor, current, request, context)
  }
  return current
}

/**
 * A stream of which the interceptors have let the first chunk pass: one that they block before fails here, where a server
 * can still choose its status.
 */
export const untilPassed = Effect.fnUntraced(function*(
  interceptors: ReadonlyArray<Interceptor>,
  chunks: Stream.Stream<ChatChunk, GatewayError>
): Effect.fn.Return<Stream.Stream<ChatChunk, GatewayError>, GatewayError, Scope.Scope> {
  if (!interceptors.some(({ post, stream }) => post !== undefined || stream !== undefined)) return chunks
  const scope = yield* Scope.fork(yield* Effect.scope)
  const pull = yield* Scope.provide(Stream.toPull(chunks), scope)
  let first: Chunks | undefined = yield* pull.pipe(
    // What was consumed is counted when the stream closes, and that has to be before the request is recorded.
    Effect.onExit((exit) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit)),
    Effect.catchIf(Cause.isDone, () => Effect.undefined)
  )
  if (first === undefined) return Stream.empty
  const next = Effect.suspend(() => {
    if (first === undefined) return pull
    const passed = Effect.succeed(first)
    first = undefined
    return passed
  })
  return Stream.fromPull(Effect.succeed(next)).pipe(Stream.onExit((exit) => Scope.close(scope, exit)))
})

type Chunks = readonly [ChatChunk, ...Array<ChatChunk>]

/** A stream cannot go on without an interceptor that broke off within it, so one that fails always blocks. */
const guarded = (
  { name }: Interceptor,
  stream: NonNullable<Interceptor["stream"]>,
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  request: ChatRequest,
  context: InterceptorContext
): Stream.Stream<ChatChunk, GatewayError> => {
  const broken = (details: Readonly<Record<string, unknown>>) =>
    Stream.fromEffect(
      Effect.andThen(
        log.error("an interceptor failed", { interceptor: name, requestId: context.requestId, ...details }),
        Effect.fail(blocked(name, outOfOrder))
      )
    )
  return Stream.suspend(() => stream(chunks, request, context)).pipe(
    Stream.catchTag("InterceptorError", (error) => broken({ error: error.message })),
    Stream.catchDefect((defect) => broken(describeDefect(defect)))
  )
}

/** The stream once it has passed as a whole: as it came where nothing was changed. */
const onceWhole = Effect.fnUntraced(function*(
  interceptor: Interceptor,
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  request: ChatRequest,
  context: InterceptorContext
): Effect.fn.Return<Stream.Stream<ChatChunk>, GatewayError> {
  const held = yield* Stream.runCollect(chunks)
  const response = yield* collect(Stream.fromIterable(held))
  const passed = yield* interceptResponse([interceptor], response, request, context)
  return Stream.fromIterable(passed === response ? held : chunksOf(passed))
})

const heldBack = (
  interceptor: Interceptor,
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  request: ChatRequest,
  context: InterceptorContext
): Stream.Stream<ChatChunk, GatewayError> => Stream.unwrap(onceWhole(interceptor, chunks, request, context))
