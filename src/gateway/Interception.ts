/**
 * Runs the registered interceptors: requests through `pre` in order, answers through `post` in reverse order, streams
 * through `stream`. One with `post` and without `stream` has a streamed answer held back until it has passed as a whole.
 */
import { Effect, Stream } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import { chunksOf, collect } from "../sdk/ChatStream.ts"
import { fail, type GatewayError, RequestBlocked, ResponseBlocked } from "../sdk/GatewayError.ts"
import type { Interceptor } from "../sdk/Interceptor.ts"

/** The request as the interceptors leave it; fails with `request_blocked`. */
export const interceptRequest = Effect.fnUntraced(function*(
  interceptors: ReadonlyArray<Interceptor>,
  request: ChatRequest
): Effect.fn.Return<ChatRequest, GatewayError> {
  let current = request
  for (const interceptor of interceptors) {
    if (interceptor.pre === undefined) continue
    const verdict = yield* interceptor.pre(current)
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
  request: ChatRequest
): Effect.fn.Return<ChatResponse, GatewayError> {
  let current = response
  for (const interceptor of interceptors.toReversed()) {
    if (interceptor.post === undefined) continue
    const verdict = yield* interceptor.post(current, request)
    if (verdict.type === "modify") current = verdict.value
    else if (verdict.type === "block") {
      return yield* fail(
        new ResponseBlocked({
          message: `the answer was blocked by ${interceptor.name}: ${verdict.reason}`,
          interceptor: interceptor.name
        })
      )
    }
  }
  return current
})

/** The streamed answer as the interceptors leave it. */
export const interceptStream = (
  interceptors: ReadonlyArray<Interceptor>,
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  request: ChatRequest
): Stream.Stream<ChatChunk, GatewayError> => {
  let current = chunks
  for (const interceptor of interceptors.toReversed()) {
    if (interceptor.stream !== undefined) current = interceptor.stream(current, request)
    else if (interceptor.post !== undefined) current = heldBack(interceptor, current, request)
  }
  return current
}

const heldBack = (
  interceptor: Interceptor,
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  request: ChatRequest
): Stream.Stream<ChatChunk, GatewayError> =>
  Stream.unwrap(
    collect(chunks).pipe(
      Effect.flatMap((response) => interceptResponse([interceptor], response, request)),
      Effect.map((response) => Stream.fromIterable(chunksOf(response)))
    )
  )
