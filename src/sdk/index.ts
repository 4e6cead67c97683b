/** What callers and plugins share: schemas, errors and the interfaces of services. Pure, and free of the rest. */
export * as AuditSink from "./AuditSink.ts"
export { AuditSinkRegistry, AuditTrail } from "./AuditSink.ts"
export * from "./Breakers.ts"
export * from "./Budgets.ts"
export { isTimeZone, windowAt, Windows } from "./BudgetWindow.ts"
export * from "./Caller.ts"
export * as Chat from "./Chat.ts"
export type {
  ChatAnswer,
  ChatChunk,
  ChatRequest,
  ChatResponse,
  FinishReason,
  Message,
  PartDelta,
  ResponseSchema
} from "./Chat.ts"
export * as ChatStream from "./ChatStream.ts"
export * from "./Configuration.ts"
export * as Content from "./Content.ts"
export * as Embedding from "./Embedding.ts"
export type { EmbeddingRequest, EmbeddingResponse } from "./Embedding.ts"
export * from "./FileStorage.ts"
export * from "./GatewayApi.ts"
export * from "./GatewayCalls.ts"
export * from "./GatewayError.ts"
export * from "./GatewayRpc.ts"
export * as Gts from "./Gts.ts"
export * from "./Identity.ts"
export * as Image from "./Image.ts"
export type { GeneratedImage, ImageChunk, ImageRequest, ImageResponse } from "./Image.ts"
export * as Interceptor from "./Interceptor.ts"
export { InterceptorRegistry } from "./Interceptor.ts"
export * as Job from "./Job.ts"
export type { JobList, JobOperation, JobQuestion, JobStatus, NewJob, OnInterruption } from "./Job.ts"
export * from "./JobStore.ts"
export * as KeyJson from "./KeyJson.ts"
export * as Model from "./Model.ts"
export type { Capability, ModelInfo, Prices } from "./Model.ts"
export { ModelRegistry } from "./ModelRegistry.ts"
export { Operation } from "./Operation.ts"
export * from "./Outbound.ts"
export * as Pricing from "./Pricing.ts"
export * as Provider from "./Provider.ts"
export { ProviderError, ProviderRegistry } from "./Provider.ts"
export * from "./PublicFetch.ts"
export { type ConcurrencyDemand, type RateDemand, type RateLevel, RateLimits } from "./RateLimits.ts"
export * as Realtime from "./Realtime.ts"
export type { RealtimeChannel, RealtimeClose, RealtimeFrame, RealtimeRequest } from "./Realtime.ts"
export { RealtimeSocket } from "./RealtimeSocket.ts"
export * from "./Routes.ts"
export * as Speech from "./Speech.ts"
export type { SpeechChunk, SpeechRequest, SpeechResponse, Voice } from "./Speech.ts"
export * from "./StoreStates.ts"
export * from "./Tenant.ts"
export * as Tool from "./Tool.ts"
export * as Transcription from "./Transcription.ts"
export type {
  Recording,
  TranscriptFormat,
  TranscriptionChunk,
  TranscriptionRequest,
  TranscriptionResponse
} from "./Transcription.ts"
export { TypeRegistry } from "./TypeRegistry.ts"
export * as Usage from "./Usage.ts"
export * from "./UsageLog.ts"
export * as UsageSink from "./UsageSink.ts"
export { UsageSinkRegistry } from "./UsageSink.ts"
export * as Video from "./Video.ts"
export type { VideoFile, VideoRequest, VideoResponse, VideoVariant } from "./Video.ts"
