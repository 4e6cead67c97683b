/**
 * The gateway's calls as remote procedures, with the schemas of the native API. Errors are `GatewayError`s, whole.
 *
 * Who calls, and the options of each request, ride in the headers that the HTTP API has, on the connection or on the single
 * message: `authorization`, `x-request-id`, `x-gateway-*`.
 */
import { Schema } from "effect"
import { Rpc, RpcGroup, RpcMiddleware } from "effect/rpc"
import { ChatChunk, ChatRequest, ChatResponse } from "./Chat.ts"
import { EmbeddingRequest, EmbeddingResponse } from "./Embedding.ts"
import { BudgetInfo, Explanation, RouteInfo, UsageReport } from "./GatewayApi.ts"
import { TokenCount, UsageQuestion } from "./GatewayCalls.ts"
import { GatewayError } from "./GatewayError.ts"
import { ImageChunk, ImageRequest, ImageResponse } from "./Image.ts"
import { Job, JobList, JobQuestion, NewJob } from "./Job.ts"
import { ModelInfo } from "./Model.ts"
import { VideoRequest, VideoResponse } from "./Video.ts"
import { SpeechChunk, SpeechRequest, SpeechResponse } from "./Speech.ts"
import { TranscriptionChunk, TranscriptionRequest, TranscriptionResponse } from "./Transcription.ts"

/** On the server, finds out who calls and under which options. */
export class GatewayCaller extends RpcMiddleware.Service<GatewayCaller>()("llm-gateway/sdk/GatewayCaller", {
  error: GatewayError
}) {}

const error = GatewayError

const JobToMake = Schema.Struct({ job: NewJob, idempotencyKey: Schema.optionalKey(Schema.String) }).pipe(
  Schema.encodeKeys({ idempotencyKey: "idempotency_key" })
)
const JobToLookAt = Schema.Struct({ id: Schema.String, waitMs: Schema.optionalKey(Schema.Finite) }).pipe(
  Schema.encodeKeys({ waitMs: "wait_ms" })
)

/** The procedures. */
export class GatewayRpc extends RpcGroup.make(
  Rpc.make("chat", { payload: ChatRequest, success: ChatResponse, error }),
  Rpc.make("streamChat", { payload: ChatRequest, success: ChatChunk, error, stream: true }),
  Rpc.make("countTokens", { payload: ChatRequest, success: TokenCount, error }),
  Rpc.make("embed", { payload: EmbeddingRequest, success: EmbeddingResponse, error }),
  Rpc.make("image", { payload: ImageRequest, success: ImageResponse, error }),
  Rpc.make("streamImage", { payload: ImageRequest, success: ImageChunk, error, stream: true }),
  Rpc.make("speak", { payload: SpeechRequest, success: SpeechResponse, error }),
  Rpc.make("streamSpeech", { payload: SpeechRequest, success: SpeechChunk, error, stream: true }),
  Rpc.make("video", { payload: VideoRequest, success: VideoResponse, error }),
  Rpc.make("transcribe", { payload: TranscriptionRequest, success: TranscriptionResponse, error }),
  Rpc.make("streamTranscribe", { payload: TranscriptionRequest, success: TranscriptionChunk, error, stream: true }),
  Rpc.make("models", { success: Schema.Array(ModelInfo), error }),
  Rpc.make("model", { payload: { id: Schema.String }, success: ModelInfo, error }),
  Rpc.make("routes", { success: Schema.Array(RouteInfo), error }),
  Rpc.make("explain", { payload: ChatRequest, success: Explanation, error }),
  Rpc.make("usage", { payload: UsageQuestion, success: UsageReport, error }),
  Rpc.make("budgets", { success: Schema.Array(BudgetInfo), error }),
  Rpc.make("createJob", { payload: JobToMake, success: Job, error }),
  Rpc.make("job", { payload: JobToLookAt, success: Job, error }),
  Rpc.make("watchJob", { payload: { id: Schema.String }, success: Job, error, stream: true }),
  Rpc.make("jobs", { payload: JobQuestion, success: JobList, error }),
  Rpc.make("cancelJob", { payload: { id: Schema.String }, success: Job, error }),
  Rpc.make("redeliverWebhook", { payload: { id: Schema.String }, success: Job, error })
).middleware(GatewayCaller) {}
