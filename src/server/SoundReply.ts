/**
 * Answers that are sound itself. They have no place for an error: what fails before the first piece is an ordinary HTTP error, and
 * what fails after it ends the connection before the answer's end, so that nobody takes what came for the whole.
 */
import { Cause, Effect, type Scope, Stream } from "effect"
import { NodeHttpServerRequest } from "@effect/platform-node"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import type { Exchange } from "../gateway/Exchange.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import type { SpeechChunk } from "../sdk/Speech.ts"
import { Draining } from "./Draining.ts"
import { exchangeHeaders } from "./ResponseHeaders.ts"

type Bytes = readonly [Uint8Array, ...Array<Uint8Array>]

const streamHeaders = {
  "cache-control": "no-cache",
  // nginx buffers answers unless told otherwise.
  "x-accel-buffering": "no"
}

/** Ends the connection in the middle of the answer, which is how HTTP tells that an answer is not whole (RFC 9112 section 8). */
const broken = (request: HttpServerRequest.HttpServerRequest) => (): void => {
  const response = NodeHttpServerRequest.toServerResponse(request)
  if (!response.writableEnded) response.destroy()
}

/** Answers with sound as it comes. The request's scope, which lasts until the body is sent, owns the upstream. */
export const soundReply = Effect.fnUntraced(
  function*(
    open: Effect.Effect<Stream.Stream<SpeechChunk, GatewayError>, GatewayError, Scope.Scope>,
    exchange: Exchange
  ): Effect.fn.Return<
    HttpServerResponse.HttpServerResponse,
    GatewayError,
    Scope.Scope | HttpServerRequest.HttpServerRequest
  > {
    const cut = broken(yield* HttpServerRequest.HttpServerRequest)
    const pull = yield* Stream.toPull(yield* open)
    // The stream is open because its first piece is there, which tells what the sound is.
    const first = yield* Effect.catchIf(pull, Cause.isDone, () => Effect.succeed([]))
    const contentType = first.find((chunk) => chunk.contentType !== undefined)?.contentType
    const { onCut } = yield* Draining
    const over = onCut(cut)
    yield* Effect.addFinalizer(() => Effect.sync(over))

    const bytesOf = (chunks: ReadonlyArray<SpeechChunk>): Bytes | undefined => {
      const [one, ...more] = chunks.flatMap(({ audio }) => audio === undefined || audio.length === 0 ? [] : [audio])
      return one === undefined ? undefined : [one, ...more]
    }
    const next: Effect.Effect<Bytes, Cause.Done> = Effect.matchEffect(pull, {
      onSuccess: (chunks): Effect.Effect<Bytes, Cause.Done> => {
        const bytes = bytesOf(chunks)
        return bytes === undefined ? next : Effect.succeed(bytes)
      },
      onFailure: (error) => {
        if (!Cause.isDone(error)) cut()
        return Cause.done()
      }
    })
    const before = bytesOf(first)
    const rest = Stream.fromPull(Effect.succeed(next))
    return HttpServerResponse.stream(before === undefined ? rest : Stream.concat(Stream.fromArray(before), rest), {
      contentType: contentType ?? "application/octet-stream",
      headers: { ...streamHeaders, ...exchangeHeaders(exchange) }
    })
  }
)
