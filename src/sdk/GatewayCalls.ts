/**
 * What a caller can ask of a gateway, as methods. The typed client has them over HTTP and WebSocket, and an app that holds the
 * gateway itself has them without anything in between; whoever calls need not know which.
 *
 * Calls run under the options of `CurrentRequest`, wherever the gateway is:
 *
 * ```ts
 * client.chat(request).pipe(Effect.provideService(CurrentRequest, { tags: ["nightly"], timeouts: { total: 30_000 } }))
 * ```
 */
import { Context, type Effect, Schema, type Stream } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse } from "./Chat.ts"
import type { EmbeddingRequest, EmbeddingResponse } from "./Embedding.ts"
import type { BudgetInfo, Explanation, RouteInfo, UsageReport } from "./GatewayApi.ts"
import type { GatewayError } from "./GatewayError.ts"
import type { ImageChunk, ImageRequest, ImageResponse } from "./Image.ts"
import type { Job, JobList, JobQuestion, NewJob } from "./Job.ts"
import type { ModelInfo } from "./Model.ts"
import type { SpeechChunk, SpeechRequest, SpeechResponse } from "./Speech.ts"
import type { TranscriptionChunk, TranscriptionRequest, TranscriptionResponse } from "./Transcription.ts"
import { UsageGroup } from "./UsageLog.ts"
import type { VideoRequest, VideoResponse } from "./Video.ts"

/** How many tokens a prompt has. */
export const TokenCount = Schema.Struct({
  inputTokens: Schema.Int,
  /** Whether the gateway estimated the figure: its provider counts for nobody, or could not be asked. */
  isEstimated: Schema.Boolean
}).pipe(Schema.encodeKeys({ inputTokens: "input_tokens", isEstimated: "is_estimated" }))
export interface TokenCount extends Schema.Schema.Type<typeof TokenCount> {}

const limit = Schema.Int.check(Schema.isGreaterThan(0), Schema.isLessThanOrEqualTo(10_000))

/** A question for usage. */
export const UsageQuestion = Schema.Struct({
  /** Unix ms, inclusive; default: 30 days before `to`. */
  from: Schema.optionalKey(Schema.Finite),
  /** Unix ms, exclusive; default: now. */
  to: Schema.optionalKey(Schema.Finite),
  /** Default: one row for everything. */
  groupBy: Schema.optionalKey(Schema.Array(UsageGroup)),
  /** This tenant and those below it; default: all that the caller may see. */
  tenant: Schema.optionalKey(Schema.String),
  user: Schema.optionalKey(Schema.String),
  /** A key's id. */
  key: Schema.optionalKey(Schema.String),
  tag: Schema.optionalKey(Schema.String),
  /** A model's canonical id. */
  model: Schema.optionalKey(Schema.String),
  /** Rows at most; default 1,000. */
  limit: Schema.optionalKey(limit)
}).pipe(Schema.encodeKeys({ groupBy: "group_by" }))
export interface UsageQuestion extends Schema.Schema.Type<typeof UsageQuestion> {}

/** How a job is made. */
export interface NewJobOptions {
  /** What is asked twice with the same key of one tenant makes one job. */
  readonly idempotencyKey?: string
}

/** How a job is looked at. */
export interface JobOptions {
  /** How long its end is waited for, ms; default 0, at most 60,000. */
  readonly waitMs?: number
}

/** The gateway's calls; `E` is what the way there adds to its errors. */
export interface GatewayCalls<E = never> {
  /** Asks for a whole answer. Interrupting it closes the upstream's connection. */
  readonly chat: (request: ChatRequest) => Effect.Effect<ChatResponse, GatewayError | E>
  /** Asks for a streamed answer. Leaving the stream early closes the upstream's connection. */
  readonly streamChat: (request: ChatRequest) => Stream.Stream<ChatChunk, GatewayError | E>
  /** How many tokens a request's prompt has; nothing is answered, and nothing is charged. */
  readonly countTokens: (request: ChatRequest) => Effect.Effect<TokenCount, GatewayError | E>
  /** Asks for vectors. Interrupting it closes the upstream's connections. */
  readonly embed: (request: EmbeddingRequest) => Effect.Effect<EmbeddingResponse, GatewayError | E>
  /** Asks for pictures. Interrupting it closes the upstream's connection. */
  readonly image: (request: ImageRequest) => Effect.Effect<ImageResponse, GatewayError | E>
  /** Asks for pictures in a stream, which may hold unfinished ones. Leaving it early closes the upstream's connection. */
  readonly streamImage: (request: ImageRequest) => Stream.Stream<ImageChunk, GatewayError | E>
  /** Asks for speech, which is kept in the gateway's files. Interrupting it closes the upstream's connection. */
  readonly speak: (request: SpeechRequest) => Effect.Effect<SpeechResponse, GatewayError | E>
  /** Asks for speech in pieces as they come. Leaving the stream early closes the upstream's connection. */
  readonly streamSpeech: (request: SpeechRequest) => Stream.Stream<SpeechChunk, GatewayError | E>
  /** Asks for a video, and waits until it is made and stored, which takes minutes. Interrupting it cancels the video. */
  readonly video: (request: VideoRequest) => Effect.Effect<VideoResponse, GatewayError | E>
  /** Asks for a transcript. Interrupting it closes the upstream's connection. */
  readonly transcribe: (request: TranscriptionRequest) => Effect.Effect<TranscriptionResponse, GatewayError | E>
  /** Asks for a transcript in pieces as they come. Leaving the stream early closes the upstream's connection. */
  readonly streamTranscribe: (request: TranscriptionRequest) => Stream.Stream<TranscriptionChunk, GatewayError | E>
  /** The models that the caller may use. */
  readonly models: Effect.Effect<ReadonlyArray<ModelInfo>, GatewayError | E>
  /** One of them, by canonical or bare id. */
  readonly model: (id: string) => Effect.Effect<ModelInfo, GatewayError | E>
  /** The routes of which the caller may use a model. */
  readonly routes: Effect.Effect<ReadonlyArray<RouteInfo>, GatewayError | E>
  /** How a request would be served if it came now; nothing is sent to a provider. */
  readonly explain: (request: ChatRequest) => Effect.Effect<Explanation, GatewayError | E>
  /** What the usage adds up to that the caller may see. */
  readonly usage: (question: UsageQuestion) => Effect.Effect<UsageReport, GatewayError | E>
  /** The budgets that hold for the caller. */
  readonly budgets: Effect.Effect<ReadonlyArray<BudgetInfo>, GatewayError | E>
  /** Makes a job: a request whose answer is fetched later. It goes on whatever becomes of this call. */
  readonly createJob: (job: NewJob, options?: NewJobOptions) => Effect.Effect<Job, GatewayError | E>
  /** A job of the caller's tenant, with its result once it has completed. */
  readonly job: (id: string, options?: JobOptions) => Effect.Effect<Job, GatewayError | E>
  /** A job now, then as it changes, until it has ended. Leaving the stream changes nothing of the job. */
  readonly watchJob: (id: string) => Stream.Stream<Job, GatewayError | E>
  /** A page of the tenant's jobs, the newest first and without their results. */
  readonly jobs: (question?: JobQuestion) => Effect.Effect<JobList, GatewayError | E>
  /** Cancels a job, wherever it runs; one that has ended stays as it is. */
  readonly cancelJob: (id: string) => Effect.Effect<Job, GatewayError | E>
  /** Calls the webhook of a job that has ended once more. */
  readonly redeliverWebhook: (id: string) => Effect.Effect<Job, GatewayError | E>
}

/** The calls of the gateway in this process. Runs as the `CurrentCaller`. `InProcess.layer` has it for a `Gateway`. */
export class GatewayInProcess
  extends Context.Service<GatewayInProcess, GatewayCalls>()("llm-gateway/sdk/GatewayInProcess")
{}
