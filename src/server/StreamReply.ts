/**
 * Streamed answers over HTTP. The status waits for the first content, so that a failure until then is an ordinary HTTP
 * error; but not for ever: proxies cut connections that stay silent, so after a while the answer is opened with a
 * comment, and what fails later is told in the stream.
 */
import { Cause, Effect, Exit, Fiber, type Scope, Stream } from "effect"
import { NodeHttpServerRequest } from "@effect/platform-node"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import { describeDefect } from "../gateway/Defect.ts"
import type { Exchange } from "../gateway/Exchange.ts"
import type { ChatChunk } from "../sdk/Chat.ts"
import { fail, type GatewayError, Overloaded } from "../sdk/GatewayError.ts"
import { logOf } from "../sdk/Log.ts"
import { internal } from "./Door.ts"
import { Draining } from "./Draining.ts"
import { exchangeHeaders } from "./ResponseHeaders.ts"

const log = logOf("requests")

/** Writes one stream in a dialect's framing. */
export interface StreamWriter<Chunk = ChatChunk> {
  readonly push: (chunk: Chunk) => string
  readonly end: () => string
  readonly error: (error: GatewayError) => string
  /** What keeps a silent line open. */
  readonly keepAlive: string
  readonly contentType: string
  /** The answer's headers, where the dialect has more than `exchangeHeaders`. */
  readonly headers?: (exchange: Exchange) => Record<string, string>
}

/** Silence before a comment is sent. Common proxies cut at 60 s; load balancers are set as low as 30 s. */
const keepAliveInterval = "15 seconds"

const streamHeaders = {
  "cache-control": "no-cache",
  // nginx buffers answers unless told otherwise.
  "x-accel-buffering": "no"
}

const utf8 = new TextEncoder()

/**
 * The dialect's bytes for a stream: its chunks, then its end or its error. Never fails. One step from pull to bytes, since
 * each of the combinators that it stands for would run for every chunk.
 */
const written = <Chunk>(
  chunks: Stream.Stream<Chunk, GatewayError>,
  writer: StreamWriter<Chunk>,
  requestId: string
): Stream.Stream<Uint8Array> =>
  Stream.transformPull(chunks, (pull) => {
    let over = false
    const last = (text: string): Bytes => {
      over = true
      return [utf8.encode(text)]
    }
    const next: Effect.Effect<Bytes, Cause.Done> = Effect.suspend(() => over ? Cause.done() : step)
    const step = pull.pipe(
      Effect.flatMap((together): Effect.Effect<Bytes, Cause.Done> => {
        let text = ""
        for (const chunk of together) text += writer.push(chunk)
        return text === "" ? next : Effect.succeed([utf8.encode(text)])
      }),
      Effect.catch((error) => Effect.sync(() => last(Cause.isDone(error) ? writer.end() : writer.error(error)))),
      // A defect here is the writer's own, on a value that it cannot write; the pipeline lets none of its own through.
      Effect.catchDefect((defect) =>
        Effect.as(
          log.error("a stream could not be written", { requestId, ...describeDefect(defect) }),
          last(writer.error(internal(requestId)))
        )
      )
    )
    return Effect.succeed(next)
  })

type Bytes = readonly [Uint8Array, ...Array<Uint8Array>]

/** What a stream's writer says beside the chunks. */
type Words = Pick<StreamWriter, "error" | "contentType" | "headers">

const stops = fail(new Overloaded({ message: "the gateway stops and could not wait for the end of this answer" }))

/** At the end of a drain the stream ends in its dialect's error; whoever reads it would otherwise see a line that is dead. */
const cutWithWords = (request: HttpServerRequest.HttpServerRequest, writer: Words) => (): void => {
  const response = NodeHttpServerRequest.toServerResponse(request)
  if (response.headersSent && !response.writableEnded) response.end(writer.error(stops))
}

const respond = Effect.fnUntraced(
  function*(
    bytes: Stream.Stream<Uint8Array>,
    writer: Words,
    exchange: Exchange
  ): Effect.fn.Return<HttpServerResponse.HttpServerResponse, never, Scope.Scope | HttpServerRequest.HttpServerRequest> {
    const { onCut } = yield* Draining
    const over = onCut(cutWithWords(yield* HttpServerRequest.HttpServerRequest, writer))
    yield* Effect.addFinalizer(() => Effect.sync(over))
    return HttpServerResponse.stream(bytes, {
      contentType: writer.contentType,
      headers: { ...streamHeaders, ...(writer.headers ?? exchangeHeaders)(exchange) }
    })
  }
)

/**
 * Answers with a stream; `open` gives it as soon as its first content is there. The request's scope, which lasts until the body is
 * sent, owns the upstream.
 */
export const streamReply = Effect.fnUntraced(
  function*<Chunk>(
    open: Effect.Effect<Stream.Stream<Chunk, GatewayError>, GatewayError, Scope.Scope>,
    exchange: Exchange,
    writer: StreamWriter<Chunk>
  ): Effect.fn.Return<
    HttpServerResponse.HttpServerResponse,
    GatewayError,
    Scope.Scope | HttpServerRequest.HttpServerRequest
  > {
    const opening = yield* Effect.forkScoped(open, { startImmediately: true })
    const opened = yield* Effect.timeoutOption(Fiber.await(opening), keepAliveInterval)
    if (opened._tag === "Some") {
      const chunks = yield* opened.value
      return yield* respond(written(chunks, writer, exchange.requestId), writer, exchange)
    }
    const waiting = Stream.tick(keepAliveInterval).pipe(
      Stream.map(() => utf8.encode(writer.keepAlive)),
      Stream.interruptWhen(Fiber.await(opening))
    )
    const answer = Stream.unwrap(
      Effect.map(Fiber.await(opening), (exit) => Exit.isSuccess(exit) ? exit.value : Stream.failCause(exit.cause))
    )
    return yield* respond(
      Stream.concat(waiting, written(answer, writer, exchange.requestId)),
      writer,
      exchange
    )
  }
)
