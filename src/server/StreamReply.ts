/**
 * Streamed answers over HTTP. The status waits for the first content, so that a failure until then is an ordinary HTTP
 * error; but not for ever: proxies cut connections that stay silent, so after a while the answer is opened with a
 * comment, and what fails later is told in the stream.
 */
import { Effect, Exit, Fiber, type Scope, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { describeDefect } from "../gateway/Defect.ts"
import type { Exchange } from "../gateway/Exchange.ts"
import type { Gateway } from "../gateway/Gateway.ts"
import type { ChatChunk, ChatRequest } from "../sdk/Chat.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import { internal } from "./Door.ts"
import { exchangeHeaders } from "./ResponseHeaders.ts"

/** Writes one stream in a dialect's framing. */
export interface StreamWriter {
  readonly push: (chunk: ChatChunk) => string
  readonly end: () => string
  readonly error: (error: GatewayError) => string
  /** What keeps a silent line open. */
  readonly keepAlive: string
  readonly contentType: string
}

/** Silence before a comment is sent. Common proxies cut at 60 s; load balancers are set as low as 30 s. */
const keepAliveInterval = "15 seconds"

const streamHeaders = {
  "cache-control": "no-cache",
  // nginx buffers answers unless told otherwise.
  "x-accel-buffering": "no"
}

const utf8 = new TextEncoder()

/** The dialect's text for a stream: its chunks, then its end or its error. Never fails. */
const written = (
  chunks: Stream.Stream<ChatChunk, GatewayError>,
  writer: StreamWriter,
  requestId: string
): Stream.Stream<string> =>
  chunks.pipe(
    Stream.mapArray((together): readonly [string, ...Array<string>] => {
      let text = ""
      for (const chunk of together) text += writer.push(chunk)
      return [text]
    }),
    Stream.concat(Stream.suspend(() => Stream.succeed(writer.end()))),
    Stream.catch((error) => Stream.succeed(writer.error(error))),
    // A defect here is the writer's own, on a value that it cannot write; the pipeline lets none of its own through.
    Stream.catchDefect((defect) =>
      Stream.fromEffect(Effect.as(
        Effect.logError("a stream could not be written", { requestId, ...describeDefect(defect) }),
        writer.error(internal(requestId))
      ))
    )
  )

const respond = (text: Stream.Stream<string>, writer: StreamWriter, headers: Record<string, string>) =>
  HttpServerResponse.stream(
    Stream.map(Stream.filter(text, (piece) => piece !== ""), (piece) => utf8.encode(piece)),
    { contentType: writer.contentType, headers: { ...streamHeaders, ...headers } }
  )

/** Answers a chat request with a stream. The request's scope, which lasts until the body is sent, owns the upstream. */
export const streamReply = (
  gateway: Gateway["Service"],
  request: ChatRequest,
  exchange: Exchange,
  writer: StreamWriter
): Effect.Effect<HttpServerResponse.HttpServerResponse, GatewayError, Scope.Scope> =>
  Effect.gen(function*() {
    const opening = yield* Effect.forkScoped(gateway.openChat(request, exchange), { startImmediately: true })
    const opened = yield* Effect.timeoutOption(Fiber.await(opening), keepAliveInterval)
    if (opened._tag === "Some") {
      const chunks = yield* opened.value
      return respond(written(chunks, writer, exchange.requestId), writer, exchangeHeaders(exchange))
    }
    const waiting = Stream.tick(keepAliveInterval).pipe(
      Stream.map(() => writer.keepAlive),
      Stream.interruptWhen(Fiber.await(opening))
    )
    const answer = Stream.unwrap(
      Effect.map(Fiber.await(opening), (exit) => Exit.isSuccess(exit) ? exit.value : Stream.failCause(exit.cause))
    )
    return respond(
      Stream.concat(waiting, written(answer, writer, exchange.requestId)),
      writer,
      exchangeHeaders(exchange)
    )
  })
