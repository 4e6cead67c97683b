/**
 * Chat over HTTP, for every provider whose protocol has a codec under `wire/`: encode, send through Outbound, decode.
 * What differs between such providers is a codec, a framing and a path, and nothing else.
 */
import { Cause, Effect, Result, type Scope, Stream } from "effect"
import type { ChatChunk, ChatResponse } from "../../sdk/Chat.ts"
import { ValidationError } from "../../sdk/GatewayError.ts"
import { credentialsExhausted, type Upstream, type UpstreamHead, type UpstreamRequest } from "../../sdk/Outbound.ts"
import { type ChatCall, type Failure, type Provider, ProviderError } from "../../sdk/Provider.ts"
import { annotate } from "../../sdk/Wire.ts"
import type { ChatUpstreamCodec, Json, StreamDecoder } from "../../wire/Codec.ts"
import type { Framing } from "../../wire/Framing.ts"

/** What makes one provider's chat endpoint. */
export interface HttpChatEndpoint {
  /** The provider's slug. */
  readonly provider: string
  /** What the upstream told of a failure, as this provider's error; `HttpProvider.errorOf` makes it. */
  readonly errorOf: (failure: Failure) => ProviderError
  readonly upstream: Upstream
  readonly codec: ChatUpstreamCodec
  readonly framing: () => Framing
  /** Below the base URL. */
  readonly path: string
  /** What a streamed answer's content type starts with; a JSON answer in its place is read as an error or refused. */
  readonly streamType: string
}

/** Bytes of an error answer that are read. */
const maxErrorBody = 64 * 1024

/** The error that an answer of a status other than 2xx tells. */
export const answerError = (
  { codec, errorOf }: Pick<HttpChatEndpoint, "codec" | "errorOf">,
  { breaker, headers, keysRefused, status }: UpstreamHead,
  body: string
): ProviderError => {
  const failure = codec.decodeError(status, headers, body)
  const exhausted = keysRefused === true && failure.kind === "credential"
  return errorOf({
    ...failure,
    ...(exhausted ? { code: credentialsExhausted } : {}),
    ...(breaker === undefined ? {} : { breaker })
  })
}

/** A request that the wire has no form for: the caller's error, found before anything was sent. */
export const refused = (provider: string, error: ValidationError): ProviderError =>
  new ProviderError({
    provider,
    kind: "caller",
    refused: true,
    message: error.message,
    ...(error.field === undefined ? {} : { field: error.field })
  })

const malformed = (provider: string): ProviderError =>
  new ProviderError({ provider, kind: "protocol", message: "the provider answered with malformed JSON" })

/** Parses JSON from an upstream; a failure never holds the text. */
export const parseJson = (text: string): Result.Result<unknown, "malformed"> => {
  try {
    return Result.succeed(JSON.parse(text))
  } catch {
    return Result.fail("malformed")
  }
}

const isSuccess = (status: number) => status >= 200 && status < 300

/** A request that is ready to go out, and what it leaves out. */
export interface Prepared {
  readonly request: UpstreamRequest
  readonly dropped: ReadonlyArray<string>
}

/** A chat call as the request that goes out. Fails with a refusal where the wire has no form for it. */
export const prepare = (
  endpoint: HttpChatEndpoint,
  call: ChatCall,
  stream: boolean
): Result.Result<Prepared, ProviderError> => {
  const encoded = endpoint.codec.encodeRequest(call, stream)
  if (Result.isFailure(encoded)) return Result.fail(refused(endpoint.provider, encoded.failure))
  const body = written(encoded.success.body)
  if (body === undefined) return Result.fail(refused(endpoint.provider, unwritable))
  const request: UpstreamRequest = {
    method: "POST",
    path: encoded.success.path ?? endpoint.path,
    headers: {
      "content-type": "application/json",
      accept: stream ? endpoint.streamType : "application/json",
      ...encoded.success.headers
    },
    body,
    endpoint: "chat",
    connectTimeout: call.connectTimeout,
    ...(call.force === true ? { force: true } : {})
  }
  return Result.succeed({ request, dropped: encoded.success.dropped })
}

const unwritable = new ValidationError({ message: "the request cannot be written as JSON" })

/** JSON text. A caller in the same process can pass what has none: a value that holds itself, or nests without end. */
const written = (body: Json): string | undefined => {
  try {
    return JSON.stringify(body)
  } catch {
    return undefined
  }
}

/** The provider's `chat`. */
export const chat = (endpoint: HttpChatEndpoint): NonNullable<Provider["chat"]> =>
  Effect.fnUntraced(function*(call): Effect.fn.Return<ChatResponse, ProviderError> {
    const { request, dropped } = yield* Effect.fromResult(prepare(endpoint, call, false))
    const answer = yield* endpoint.upstream.request(request)
    if (!isSuccess(answer.status)) {
      return yield* answerError(endpoint, answer, answer.body)
    }
    const json = parseJson(answer.body)
    if (Result.isFailure(json)) return yield* malformed(endpoint.provider)
    const decoded = endpoint.codec.decodeResponse(answer.body, json.success, call)
    if (Result.isFailure(decoded)) return yield* endpoint.errorOf(decoded.failure)
    return dropped.length === 0 ? decoded.success : annotate(decoded.success, { droppedParams: dropped })
  })

/** The provider's `streamChat`. */
export const streamChat = (endpoint: HttpChatEndpoint): NonNullable<Provider["streamChat"]> => {
  const open = Effect.fnUntraced(function*(
    call: ChatCall
  ): Effect.fn.Return<Stream.Stream<ChatChunk, ProviderError>, ProviderError, Scope.Scope> {
    const { request, dropped } = yield* Effect.fromResult(prepare(endpoint, call, true))
    const answer = yield* endpoint.upstream.stream(request)
    if (!isSuccess(answer.status)) {
      return yield* answerError(endpoint, answer, yield* answer.text(maxErrorBody))
    }
    const type = answer.headers["content-type"] ?? ""
    if (type.startsWith("application/json") && endpoint.streamType !== "application/json") {
      return yield* notAStream(endpoint, call, yield* answer.text(maxErrorBody))
    }
    const chunks = decodeChunks(
      answer.body,
      endpoint.framing(),
      endpoint.codec.streamDecoder(call),
      endpoint.errorOf,
      answer.complete
    )
    return dropped.length === 0 ? chunks : Stream.concat(
      Stream.succeed<ChatChunk>({ id: "", model: call.model.model, delta: [], droppedParams: dropped }),
      chunks
    )
  })
  return (call) => Stream.unwrap(open(call))
}

/** Some servers answer a streamed request with an error in a JSON body and status 200; others ignore `stream`. */
const notAStream = (endpoint: HttpChatEndpoint, call: ChatCall, body: string): Effect.Effect<never, ProviderError> => {
  const json = parseJson(body)
  const decoded = Result.isFailure(json) ? undefined : endpoint.codec.decodeResponse(body, json.success, call)
  return Effect.fail(
    decoded !== undefined && Result.isFailure(decoded)
      ? endpoint.errorOf(decoded.failure)
      : new ProviderError({
        provider: endpoint.provider,
        kind: "protocol",
        message: "the provider answered a streamed request without a stream"
      })
  )
}

/**
 * Bytes to chunks, a network read at a time. Ends as soon as the decoder has seen the terminal marker; a body that ends
 * before it is the decoder's failure.
 */
export const decodeChunks = <Chunk>(
  body: Stream.Stream<Uint8Array, ProviderError>,
  framing: Framing,
  decoder: StreamDecoder<Chunk>,
  errorOf: HttpChatEndpoint["errorOf"],
  complete: () => void
): Stream.Stream<Chunk, ProviderError> =>
  Stream.transformPull(body, (pull) => {
    let failure: ProviderError | undefined
    let ended = false
    const decode = (events: ReturnType<Framing["push"]>, into: Array<Chunk>): void => {
      if (Result.isFailure(events)) {
        failure = errorOf(events.failure)
        return
      }
      for (const event of events.success) {
        if (decoder.isDone()) return
        const decoded = decoder.push(event.data, event.event)
        if (Result.isFailure(decoded)) {
          failure = errorOf(decoded.failure)
          return
        }
        for (const chunk of decoded.success) into.push(chunk)
      }
    }
    const readEnd = (into: Array<Chunk>): void => {
      decode(framing.end(), into)
      if (failure !== undefined || decoder.isDone()) return
      const last = decoder.end()
      if (Result.isFailure(last)) failure = errorOf(last.failure)
      else for (const chunk of last.success) into.push(chunk)
    }
    const next: Effect.Effect<readonly [Chunk, ...Array<Chunk>], ProviderError | Cause.Done> = Effect.suspend(
      () => {
        // What was decoded before a failure has been given out by now; the failure comes after it.
        if (failure !== undefined) return Effect.fail(failure)
        if (ended) return Cause.done()
        return Effect.flatMap(
          Effect.catchIf(pull, isDone, () => Effect.void),
          (bytes) => {
            const chunks: Array<Chunk> = []
            if (bytes === undefined) {
              ended = true
              readEnd(chunks)
            } else {
              for (const piece of bytes) {
                decode(framing.push(piece), chunks)
                if (failure !== undefined || decoder.isDone()) break
              }
              if (decoder.isDone()) {
                ended = true
                complete()
              }
            }
            const [first, ...rest] = chunks
            return first === undefined ? next : Effect.succeed([first, ...rest] as const)
          }
        )
      }
    )
    return Effect.succeed(next)
  })

const isDone = (error: unknown): error is Cause.Done => Cause.isDone(error)
