/** What jobs can run, and on whose account: from what a caller asks for to JSON that a store keeps, and back. */
import { Effect, Result, Schema } from "effect"
import { type Caller, CurrentCaller, CurrentRequest, type Repeatable, type RequestOptions } from "../sdk/Caller.ts"
import { ChatAnswer, ChatRequest, toAnswer } from "../sdk/Chat.ts"
import { EmbeddingRequest, EmbeddingResponse } from "../sdk/Embedding.ts"
import { fail, type GatewayError, invalid } from "../sdk/GatewayError.ts"
import { ImageRequest, ImageResponse } from "../sdk/Image.ts"
import { validationError } from "../sdk/Issues.ts"
import type { JobOperation } from "../sdk/Job.ts"
import { RestrictionsJson, restrictionsOf } from "../sdk/KeyJson.ts"
import { RoutePolicy } from "../sdk/Routes.ts"
import { VideoRequest, VideoResponse } from "../sdk/Video.ts"
import { SpeechRequest, SpeechResponse } from "../sdk/Speech.ts"
import { TranscriptionRequest, TranscriptionResponse } from "../sdk/Transcription.ts"
import type { Gateway } from "./Gateway.ts"

/** One kind of job. */
export interface JobKind {
  /** Refuses at once what cannot work; gives the model that is asked for. */
  readonly check: (request: unknown) => Effect.Effect<string, GatewayError>
  /** Runs a request that was checked, and gives the answer as JSON. */
  readonly run: (request: unknown) => Effect.Effect<string, GatewayError>
}

const strictly = { errors: "all", onExcessProperty: "error" } as const

const decoded = <A>(result: Result.Result<A, Schema.SchemaError>): Effect.Effect<A, GatewayError> =>
  Effect.fromResult(Result.mapError(result, (error) => fail(validationError(error))))

const decodeChat = Schema.decodeUnknownResult(ChatRequest, strictly)
const encodeChat = Schema.encodeSync(ChatAnswer)
const decodeImage = Schema.decodeUnknownResult(ImageRequest, strictly)
const encodeImage = Schema.encodeSync(ImageResponse)
const decodeVideo = Schema.decodeUnknownResult(VideoRequest, strictly)
const encodeVideo = Schema.encodeSync(VideoResponse)
const decodeSpeech = Schema.decodeUnknownResult(SpeechRequest, strictly)
const encodeSpeech = Schema.encodeSync(SpeechResponse)
const decodeTranscription = Schema.decodeUnknownResult(TranscriptionRequest, strictly)
const encodeTranscription = Schema.encodeSync(TranscriptionResponse)
const decodeEmbedding = Schema.decodeUnknownResult(EmbeddingRequest, strictly)
const encodeEmbedding = Schema.encodeSync(EmbeddingResponse)

const wholeOnly = invalid("stream", "the answer of a job comes as a whole; leave stream out")

/** The kinds of jobs over a gateway. */
export const make = (gateway: Gateway["Service"]): Readonly<Record<JobOperation, JobKind>> => ({
  chat: {
    check: Effect.fnUntraced(function*(request) {
      const asked = yield* decoded(decodeChat(request))
      if (asked.stream === true) return yield* fail(wholeOnly)
      // Names a model that is not there, not approved, or lacks what the request needs.
      yield* gateway.explain(asked)
      return asked.model
    }),
    run: (request) =>
      Effect.map(
        Effect.flatMap(decoded(decodeChat(request)), (asked) => gateway.chat(asked)),
        (response) => JSON.stringify(encodeChat(toAnswer(response)))
      )
  },
  embed: {
    check: (request) => Effect.map(decoded(decodeEmbedding(request)), ({ model }) => model),
    run: (request) =>
      Effect.map(
        Effect.flatMap(decoded(decodeEmbedding(request)), (asked) => gateway.embed(asked)),
        (response) => JSON.stringify(encodeEmbedding(response))
      )
  },
  image: {
    check: Effect.fnUntraced(function*(request) {
      const asked = yield* decoded(decodeImage(request))
      return asked.stream === true ? yield* fail(wholeOnly) : asked.model
    }),
    run: (request) =>
      Effect.map(
        Effect.flatMap(decoded(decodeImage(request)), (asked) => gateway.image(asked)),
        (response) => JSON.stringify(encodeImage(response))
      )
  },
  video: {
    check: (request) => Effect.map(decoded(decodeVideo(request)), ({ model }) => model),
    run: (request) =>
      Effect.map(
        Effect.flatMap(decoded(decodeVideo(request)), (asked) => gateway.video(asked)),
        (response) => JSON.stringify(encodeVideo(response))
      )
  },
  speak: {
    check: Effect.fnUntraced(function*(request) {
      const asked = yield* decoded(decodeSpeech(request))
      return asked.stream === true ? yield* fail(wholeOnly) : asked.model
    }),
    run: (request) =>
      Effect.map(
        Effect.flatMap(decoded(decodeSpeech(request)), (asked) => gateway.speak(asked)),
        (response) => JSON.stringify(encodeSpeech(response))
      )
  },
  transcribe: {
    check: Effect.fnUntraced(function*(request) {
      const asked = yield* decoded(decodeTranscription(request))
      return asked.stream === true ? yield* fail(wholeOnly) : asked.model
    }),
    run: (request) =>
      Effect.map(
        Effect.flatMap(decoded(decodeTranscription(request)), (asked) => gateway.transcribe(asked)),
        (response) => JSON.stringify(encodeTranscription(response))
      )
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// On whose account
// ---------------------------------------------------------------------------------------------------------------------

/** A job's caller and options, as they were when it was made. The request's headers are not kept: they hold credentials. */
const JobContext = Schema.fromJsonString(Schema.Struct({
  caller: Schema.Struct({
    tenant: Schema.String,
    user: Schema.optionalKey(Schema.String),
    keyId: Schema.optionalKey(Schema.String),
    tags: Schema.Array(Schema.String),
    admin: Schema.optionalKey(Schema.Boolean),
    restrictions: Schema.optionalKey(RestrictionsJson)
  }),
  options: Schema.Struct({
    requestId: Schema.optionalKey(Schema.String),
    timeouts: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)),
    fallback: Schema.optionalKey(Schema.Struct({
      models: Schema.Array(Schema.String),
      strategy: Schema.optionalKey(Schema.Literals(["sequential", "parallel"]))
    })),
    routePolicy: Schema.optionalKey(RoutePolicy),
    stickyKey: Schema.optionalKey(Schema.String),
    user: Schema.optionalKey(Schema.String),
    tags: Schema.optionalKey(Schema.Array(Schema.String)),
    conversationId: Schema.optionalKey(Schema.String),
    wire: Schema.optionalKey(Schema.String),
    traceParent: Schema.optionalKey(Schema.Struct({
      traceId: Schema.String,
      spanId: Schema.String,
      sampled: Schema.Boolean,
      state: Schema.optionalKey(Schema.String)
    }))
  })
}))

const encodeContext = Schema.encodeSync(JobContext)
const decodeContext = Schema.decodeUnknownEffect(JobContext)

const timeoutsOf = (timeouts: RequestOptions["timeouts"]): Readonly<Record<string, number>> =>
  Object.fromEntries(Object.entries(timeouts ?? {}).filter(([, ms]) => Number.isFinite(ms)))

/** The caller and its options, as JSON to be kept. */
export const contextOf = ({ restrictions, ...caller }: Caller, options: RequestOptions): string => {
  const { headers: _, receivedAt: __, repeatable: ___, timeouts, ...kept } = options
  return encodeContext({
    caller: { ...caller, ...(restrictions === undefined ? {} : { restrictions: restrictionsOf(restrictions) }) },
    options: { ...kept, timeouts: timeoutsOf(timeouts) }
  })
}

/** Runs an effect as the caller that a job was made by. */
export const as = <A>(
  context: string,
  repeatable: Repeatable,
  self: Effect.Effect<A, GatewayError>
): Effect.Effect<A, GatewayError> =>
  Effect.flatMap(Effect.orDie(decodeContext(context)), ({ caller, options }) =>
    self.pipe(
      Effect.provideService(CurrentCaller, caller),
      Effect.provideService(CurrentRequest, { ...options, repeatable })
    ))
