/**
 * The native, provider-neutral HTTP API: content parts in, content parts out, snake_case JSON. This is its contract, from
 * which the server's documentation and typed clients come.
 *
 * A streamed answer is server-sent events: `data: {id, model, delta, finish_reason?, usage?}` for each `ChatChunk`, then
 * `data: [DONE]`; one that fails ends in `event: error` with a `Problem` as its data, and without `[DONE]`.
 */
import { Schema } from "effect"
import { HttpApi, HttpApiEndpoint, HttpApiGroup, HttpApiSchema, OpenApi } from "effect/http-api"
import { ChatAnswer, ChatRequest, RoutedRequest } from "./Chat.ts"
import { ConfigurationStatus } from "./Configuration.ts"
import { EmbeddingRequest, EmbeddingResponse } from "./Embedding.ts"
import { Issue } from "./GatewayError.ts"
import { IssuedKeyJson, KeyJson, KeyListJson, NewKeyJson, RotationJson } from "./KeyJson.ts"
import { ImageRequest, ImageResponse } from "./Image.ts"
import { SpeechRequest, SpeechResponse } from "./Speech.ts"
import { TranscriptionRequest, TranscriptionResponse } from "./Transcription.ts"
import { Job, JobList, JobOperation, JobStatus, NewJob } from "./Job.ts"
import { ModelInfo } from "./Model.ts"
import { Operation as OperationName } from "./Operation.ts"
import { RoutePolicy } from "./Routes.ts"
import { UsageGroup } from "./UsageLog.ts"
import { VideoRequest, VideoResponse } from "./Video.ts"

/** A failure as RFC 9457 problem details; `code` is stable, `field` and `issues` are in the request's own spelling. */
export const Problem = Schema.Struct({
  type: Schema.String,
  title: Schema.String,
  status: Schema.Int,
  detail: Schema.String,
  code: Schema.String,
  request_id: Schema.String,
  field: Schema.optionalKey(Schema.String),
  issues: Schema.optionalKey(Schema.Array(Issue)),
  /** Members of the particular problem, such as `capability`, `models`, `candidates`, `phase` or `provider`. */
  context: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown))
})
export interface Problem extends Schema.Schema.Type<typeof Problem> {}

const problem = (status: number, description: string) =>
  Problem.annotate({ description, identifier: `Problem${status}`, httpApiStatus: status }).pipe(
    HttpApiSchema.asJson({ contentType: "application/problem+json" })
  )

const invalid = problem(400, "validation_error, invalid_schema_id: the request is wrong; `field` says where")
const unauthorized = problem(401, "unauthorized: no key, or one that the gateway does not know")
const failures = [
  invalid,
  unauthorized,
  problem(402, "budget_exceeded: `context.budget` names the budget, `context.resets_at` when it starts anew"),
  problem(403, "forbidden, model_not_approved, request_blocked, response_blocked"),
  problem(404, "model_not_found, schema_not_found"),
  problem(410, "model_deprecated"),
  problem(413, "payload_too_large"),
  problem(422, "capability_not_supported: `context.models` names some that can"),
  problem(429, "rate_limited, or the provider's quota is used up; `retry-after` says when to come back"),
  problem(500, "internal_error: the cause is in the gateway's log under `request_id`"),
  problem(502, "provider_error: the provider failed, or refused the gateway's own key"),
  problem(503, "provider_error of an overloaded provider, store_unavailable, overloaded"),
  problem(504, "provider_timeout: `context.phase` is connect, first_token, idle, answer or total")
] as const

/** Requests that work as they are on a gateway that has the sandbox, in the JSON's own spelling. */
const chatExamples = {
  whole: {
    summary: "A question",
    value: { model: "sandbox::echo", messages: [{ role: "user", content: "Hello, gateway!" }] }
  },
  streamed: {
    summary: "The same, streamed",
    value: {
      model: "sandbox::echo",
      messages: [{ role: "user", content: [{ type: "text", text: "Hello, gateway!" }] }],
      stream: true
    }
  },
  tools: {
    summary: "With a tool",
    value: {
      model: "sandbox::tools",
      messages: [{ role: "user", content: "How is the weather in Paris?" }],
      tools: [{
        type: "unified",
        name: "get_weather",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
      }]
    }
  }
}

interface Operation {
  readonly requestBody?: { readonly content?: Readonly<Record<string, object>> }
}

/** Schema annotations do not reach the document of a schema that is encoded under other keys, so the examples go here. */
const withExamples = (operation: Operation): Operation => ({
  ...operation,
  requestBody: {
    ...operation.requestBody,
    content: Object.fromEntries(
      Object.entries(operation.requestBody?.content ?? {}).map((
        [type, media]
      ) => [type, { ...media, examples: chatExamples }])
    )
  }
})

/** A gateway that listens on loopback alone may ask for no key. */
const security = [{ bearer: [] }, {}]

/** One event of a streamed answer. */
export const ChatEvent = Schema.Struct({ event: Schema.Literal("message"), data: Schema.String })

const chat = HttpApiEndpoint.post("chat", "/chat/completions", {
  payload: ChatRequest.annotate({ identifier: "ChatRequest" }),
  success: [ChatAnswer.annotate({ identifier: "ChatAnswer" }), HttpApiSchema.StreamSse({ events: ChatEvent })],
  error: failures
}).annotateMerge(OpenApi.annotations({
  summary: "Chat",
  description: "Asks a model for an answer, whole or (with `stream: true`) as server-sent events ending in `[DONE]`.",
  override: { security },
  transform: withExamples
}))

const embed = HttpApiEndpoint.post("embed", "/embeddings", {
  payload: EmbeddingRequest.annotate({ identifier: "EmbeddingRequest" }),
  success: EmbeddingResponse.annotate({ identifier: "EmbeddingResponse" }),
  error: failures
}).annotateMerge(OpenApi.annotations({
  summary: "Embeddings",
  description:
    "Asks a model for vectors, one for each input and in their order, as numbers or (with `encoding_format: base64`) as " +
    "base64 of little-endian 32-bit floats. A large request goes to its provider in several calls.",
  override: { security }
}))

const image = HttpApiEndpoint.post("image", "/images", {
  payload: ImageRequest.annotate({ identifier: "ImageRequest" }),
  success: [
    ImageResponse.annotate({ identifier: "ImageResponse" }),
    HttpApiSchema.StreamSse({ events: ChatEvent })
  ],
  error: failures
}).annotateMerge(OpenApi.annotations({
  summary: "Images",
  description:
    "Asks a model for pictures, all of them at once or (with `stream: true`) as server-sent events ending in `[DONE]`, with pictures " +
    "that are not finished yet before each finished one where `partial_images` asks for them.",
  override: { security }
}))

const video = HttpApiEndpoint.post("video", "/videos", {
  payload: VideoRequest.annotate({ identifier: "VideoRequest" }),
  success: VideoResponse.annotate({ identifier: "VideoResponse" }),
  error: failures
}).annotateMerge(OpenApi.annotations({
  summary: "Videos",
  description:
    "Asks a model for a video, which takes minutes: the answer comes when it is made and among the gateway's files. With " +
    "`async: true` it is a job.",
  override: { security }
}))

const speak = HttpApiEndpoint.post("speak", "/speech", {
  payload: SpeechRequest.annotate({ identifier: "SpeechRequest" }),
  success: [
    SpeechResponse.annotate({ identifier: "SpeechResponse" }),
    Schema.Uint8Array.pipe(HttpApiSchema.asUint8Array({ contentType: "audio/*" })),
    HttpApiSchema.StreamSse({ events: ChatEvent })
  ],
  error: failures
}).annotateMerge(OpenApi.annotations({
  summary: "Speech",
  description:
    "Has a text said. The sound is kept as a file, whose address is the answer; with `stream: true` it is the answer itself, as it " +
    "comes, and with `stream_format: sse` beside it server-sent events ending in `[DONE]`, with the sound in base64.",
  override: { security }
}))

const transcribe = HttpApiEndpoint.post("transcribe", "/transcriptions", {
  payload: TranscriptionRequest.annotate({ identifier: "TranscriptionRequest" }),
  success: [
    TranscriptionResponse.annotate({ identifier: "TranscriptionResponse" }),
    HttpApiSchema.StreamSse({ events: ChatEvent })
  ],
  error: failures
}).annotateMerge(OpenApi.annotations({
  summary: "Transcripts",
  description:
    "Has sound written down, or (with `task: translate`) said in English. The sound is a file of the gateway's, a `data:` URL or base64; " +
    "or the request comes as `multipart/form-data` with the same fields and the sound in the part `file`. With `stream: true` the answer is " +
    "server-sent events ending in `[DONE]`.",
  override: { security }
}))

/** The models that the caller may use. */
export const ModelList = Schema.Struct({ models: Schema.Array(ModelInfo) })

const models = HttpApiEndpoint.get("models", "/models", { success: ModelList, error: [unauthorized] }).annotateMerge(
  OpenApi.annotations({
    summary: "Models",
    description: "The models that the caller may use, with capabilities, limits, prices and status.",
    override: { security }
  })
)

// ---------------------------------------------------------------------------------------------------------------------
// Routes
// ---------------------------------------------------------------------------------------------------------------------

/** A route as its callers see it. */
export const RouteInfo = Schema.Struct({
  name: Schema.String,
  policy: RoutePolicy,
  /** Those of its models that the caller may use, by canonical id. */
  models: Schema.Array(Schema.Struct({ model: Schema.String, weight: Schema.Finite })),
  hedgeAfterMs: Schema.optionalKey(Schema.Finite),
  /** Attempts in all, where the route has a limit of its own. */
  attempts: Schema.optionalKey(Schema.Int)
}).pipe(Schema.encodeKeys({ hedgeAfterMs: "hedge_after_ms" }))
export interface RouteInfo extends Schema.Schema.Type<typeof RouteInfo> {}

/** The routes that have a model that the caller may use. */
export const RouteList = Schema.Struct({ routes: Schema.Array(RouteInfo) })

/** What is known of a model's last five minutes. */
export const HealthInfo = Schema.Struct({
  /** Calls that count; what callers caused does not. */
  samples: Schema.Int,
  /** 0 to 1. */
  errorRate: Schema.Finite,
  firstTokenMs: Schema.optionalKey(Schema.Finite),
  msPerToken: Schema.optionalKey(Schema.Finite),
  /** Calls that run now. */
  inFlight: Schema.Int,
  /** Whether it failed so much that other models are tried before it. */
  failing: Schema.Boolean
}).pipe(Schema.encodeKeys({
  errorRate: "error_rate",
  firstTokenMs: "first_token_ms",
  msPerToken: "ms_per_token",
  inFlight: "in_flight"
}))
export interface HealthInfo extends Schema.Schema.Type<typeof HealthInfo> {}

/** A model that would be tried. */
export const CandidateInfo = Schema.Struct({
  /** Canonical id. */
  model: Schema.String,
  /** The provider's slug. */
  provider: Schema.String,
  /** What the request would cost with it, USD, by its estimated size; absent where no price is known. */
  estimatedCost: Schema.optionalKey(Schema.Finite),
  health: HealthInfo,
  /** State of the circuit breaker in front of its provider, where there is one. */
  breaker: Schema.optionalKey(Schema.String)
}).pipe(Schema.encodeKeys({ estimatedCost: "estimated_cost" }))
export interface CandidateInfo extends Schema.Schema.Type<typeof CandidateInfo> {}

/** How a request would be served if it came now. */
export const Explanation = Schema.Struct({
  route: Schema.optionalKey(Schema.String),
  policy: Schema.optionalKey(RoutePolicy),
  strategy: Schema.Literals(["sequential", "parallel"]),
  hedgeAfterMs: Schema.optionalKey(Schema.Finite),
  /** Attempts in all. */
  attempts: Schema.Int,
  /** In the order in which they would be tried. */
  candidates: Schema.Array(CandidateInfo),
  /** Models that are left out, and why. */
  skipped: Schema.Array(Schema.Struct({ model: Schema.String, reason: Schema.String }))
}).pipe(Schema.encodeKeys({ hedgeAfterMs: "hedge_after_ms" }))
export interface Explanation extends Schema.Schema.Type<typeof Explanation> {}

const routes = HttpApiEndpoint.get("routes", "/routes", { success: RouteList, error: [unauthorized] }).annotateMerge(
  OpenApi.annotations({
    summary: "Routes",
    description:
      "The configured routes that have a model which the caller may use. A route's name goes where a model's would.",
    override: { security }
  })
)

const explain = HttpApiEndpoint.post("explain", "/routes/:name/explain", {
  params: { name: Schema.String },
  payload: RoutedRequest.annotate({ identifier: "RoutedRequest" }),
  success: Explanation.annotate({ identifier: "Explanation" }),
  error: [
    invalid,
    unauthorized,
    problem(403, "model_not_approved: the caller may use none of the route's models"),
    problem(404, "not_found, model_not_found: there is no such route, or none of its models can serve the request"),
    problem(413, "payload_too_large"),
    problem(422, "capability_not_supported: none of the route's models can do what the request needs")
  ]
}).annotateMerge(OpenApi.annotations({
  summary: "Explain a route",
  description:
    "Tells which of a route's models would be tried for this request, in which order, and why the others would " +
    "not. Nothing is sent to a provider. The body is a chat request; the route stands for its `model`.",
  override: { security }
}))

// ---------------------------------------------------------------------------------------------------------------------
// Usage and budgets
// ---------------------------------------------------------------------------------------------------------------------

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** What one group of records adds up to. Tokens are in the disjoint buckets of `Usage`. */
export const UsageReportRow = Schema.Struct({
  /** The group's value under each of `group_by`; `null` where the records have none. */
  group: Schema.Record(Schema.String, Schema.NullOr(Schema.String)),
  requests: Count,
  inputTokens: Count,
  outputTokens: Count,
  cacheReadTokens: Count,
  cacheWriteTokens: Count,
  inputAudioTokens: Count,
  inputImageTokens: Count,
  outputAudioTokens: Count,
  outputImageTokens: Count,
  /** A part of the output tokens. */
  reasoningTokens: Count,
  /** Images that were made. */
  images: Count,
  /** Characters that were spoken. */
  characters: Count,
  /** How long sound and video are, ms. */
  inputAudioMs: Count,
  outputAudioMs: Count,
  inputVideoMs: Count,
  outputVideoMs: Count,
  costUsd: Schema.Finite,
  /** The same to the last digit. */
  costNanoUsd: Count,
  /** Records that consumed something whose price is not known, so that the cost lacks them. */
  unpriced: Count,
  /** Records whose figures are the gateway's own estimate. */
  estimated: Count
}).pipe(Schema.encodeKeys({
  inputTokens: "input_tokens",
  outputTokens: "output_tokens",
  cacheReadTokens: "cache_read_tokens",
  cacheWriteTokens: "cache_write_tokens",
  inputAudioTokens: "input_audio_tokens",
  inputImageTokens: "input_image_tokens",
  outputAudioTokens: "output_audio_tokens",
  outputImageTokens: "output_image_tokens",
  reasoningTokens: "reasoning_tokens",
  inputAudioMs: "input_audio_ms",
  outputAudioMs: "output_audio_ms",
  inputVideoMs: "input_video_ms",
  outputVideoMs: "output_video_ms",
  costUsd: "cost_usd",
  costNanoUsd: "cost_nano_usd"
}))
export interface UsageReportRow extends Schema.Schema.Type<typeof UsageReportRow> {}

/** What usage records add up to. */
export const UsageReport = Schema.Struct({
  /** ISO 8601, inclusive. */
  from: Schema.String,
  /** ISO 8601, exclusive. */
  to: Schema.String,
  groupBy: Schema.Array(UsageGroup),
  /** By time first, then by cost, the highest first. */
  rows: Schema.Array(UsageReportRow),
  /** Whether there are more rows than the limit let through. */
  truncated: Schema.Boolean
}).pipe(Schema.encodeKeys({ groupBy: "group_by" }))
export interface UsageReport extends Schema.Schema.Type<typeof UsageReport> {}

const parameter = (name: string, description: string, schema: object = { type: "string" }) => ({
  name,
  in: "query",
  required: false,
  description,
  schema
})

/**
 * The parameters of the question for usage. They are described here and read by the handler itself: a query that does not
 * fit its schema is answered by the router, without a word about what is wrong.
 */
const usageParameters = [
  parameter("from", "ISO 8601 (UTC where it names no offset) or Unix ms, inclusive; default: 30 days before `to`"),
  parameter("to", "ISO 8601 or Unix ms, exclusive; default: now"),
  {
    ...parameter("group_by", "What to group by, with commas in between; default: one row for everything", {
      type: "array",
      items: { type: "string", enum: UsageGroup.literals }
    }),
    style: "form",
    explode: false
  },
  parameter("tenant", "This tenant and those below it; default: all that the caller may see"),
  parameter("user", "Records of this user"),
  parameter("key", "Records of the key with this id"),
  parameter("tag", "Records that have this tag"),
  parameter("model", "Records of this model, by its canonical id"),
  parameter("operation", "Records of this operation", { type: "string", enum: OperationName.literals }),
  parameter("limit", "Rows at most", { type: "integer", minimum: 1, maximum: 10_000, default: 1000 })
]

const usage = HttpApiEndpoint.get("usage", "/usage", {
  success: [
    UsageReport.annotate({ identifier: "UsageReport" }),
    Schema.String.pipe(HttpApiSchema.asText({ contentType: "text/csv" }))
  ],
  error: [
    invalid,
    unauthorized,
    problem(403, "forbidden: the caller may not see this tenant's or user's usage"),
    problem(404, "not_found: the gateway keeps no usage records"),
    problem(503, "store_unavailable")
  ]
}).annotateMerge(OpenApi.annotations({
  summary: "Usage",
  description:
    "Adds up usage records. Callers see their own tenant and those below it, one whose key belongs to a user that user's " +
    "records, administrators everything. With `accept: text/csv` the answer is a CSV file: one column for each of " +
    "`group_by`, then the counts under the names that they have in JSON.",
  override: { security, parameters: usageParameters }
}))

/** A budget that holds for the caller, and how it stands. */
export const BudgetInfo = Schema.Struct({
  /** Such as `month budget of tenant acme`. */
  name: Schema.String,
  /** Names the account in the gateway's own records: whose it is, what it is per, its window with the start. */
  key: Schema.optionalKey(Schema.String),
  limitUsd: Schema.Finite,
  spentUsd: Schema.Finite,
  /** Set aside for requests that run now. */
  reservedUsd: Schema.Finite,
  /** What a request that came now could spend; never below 0. */
  remainingUsd: Schema.Finite,
  /** When it starts anew, ISO 8601; absent for one that never does. */
  resetsAt: Schema.optionalKey(Schema.String)
}).pipe(Schema.encodeKeys({
  limitUsd: "limit_usd",
  spentUsd: "spent_usd",
  reservedUsd: "reserved_usd",
  remainingUsd: "remaining_usd",
  resetsAt: "resets_at"
}))
export interface BudgetInfo extends Schema.Schema.Type<typeof BudgetInfo> {}

/** The budgets that hold for the caller. */
export const BudgetList = Schema.Struct({ budgets: Schema.Array(BudgetInfo) })

const budgets = HttpApiEndpoint.get("budgets", "/budgets", {
  success: BudgetList.annotate({ identifier: "BudgetList" }),
  error: [unauthorized, problem(503, "store_unavailable")]
}).annotateMerge(OpenApi.annotations({
  summary: "Budgets",
  description:
    "The budgets that hold for the caller: limit, spent, reserved for running requests, and when each resets.",
  override: { security }
}))

// ---------------------------------------------------------------------------------------------------------------------
// Jobs
// ---------------------------------------------------------------------------------------------------------------------

const noSuchJob = problem(404, "job_not_found: the caller's tenant has no such job")
const jobExpired = problem(410, "job_expired: the time is over for which the result was kept")
const JobBody = Job.annotate({ identifier: "Job" })

const createJob = HttpApiEndpoint.post("createJob", "/jobs", {
  payload: NewJob.annotate({ identifier: "NewJob" }),
  success: Job.annotate({ identifier: "NewlyMadeJob", httpApiStatus: 202 }),
  error: failures
}).annotateMerge(OpenApi.annotations({
  summary: "Make a job",
  description:
    "Runs an operation's request in the background; `async: true` in the request itself does the same. With an " +
    "`idempotency-key` header the same request makes one job, however often it is sent.",
  override: { security }
}))

const listJobs = HttpApiEndpoint.get("listJobs", "/jobs", {
  success: JobList.annotate({ identifier: "JobList" }),
  error: [invalid, unauthorized, problem(503, "store_unavailable")]
}).annotateMerge(OpenApi.annotations({
  summary: "List jobs",
  description: "The jobs of the caller's tenant, the newest first, without their results.",
  override: {
    security,
    parameters: [
      parameter("status", "Jobs in this state", { type: "string", enum: JobStatus.literals }),
      parameter("operation", "Jobs of this operation", { type: "string", enum: JobOperation.literals }),
      parameter("after", "The `next` of the page before"),
      parameter("limit", "Jobs at most", { type: "integer", minimum: 1, maximum: 1000, default: 100 })
    ]
  }
}))

const getJob = HttpApiEndpoint.get("getJob", "/jobs/:id", {
  params: { id: Schema.String },
  success: JobBody,
  error: [invalid, unauthorized, noSuchJob, jobExpired, problem(503, "store_unavailable")]
}).annotateMerge(OpenApi.annotations({
  summary: "A job",
  description:
    "The job, with its result once it has completed. `?wait=30s` waits so long for its end, 60 s at most. With " +
    "`accept: text/event-stream` the answer is an event for each state, named after it, until the job has ended.",
  override: { security }
}))

const cancelJob = HttpApiEndpoint.delete("cancelJob", "/jobs/:id", {
  params: { id: Schema.String },
  success: JobBody,
  error: [unauthorized, noSuchJob, jobExpired, problem(503, "store_unavailable")]
}).annotateMerge(OpenApi.annotations({
  summary: "Cancel a job",
  description:
    "Stops the job at once, on whichever replica it runs. A job that has ended stays as it is and is answered as such.",
  override: { security }
}))

const redeliverWebhook = HttpApiEndpoint.post("redeliverWebhook", "/jobs/:id/webhook/redeliver", {
  params: { id: Schema.String },
  success: Job.annotate({ identifier: "JobToldAgain", httpApiStatus: 202 }),
  error: [invalid, unauthorized, noSuchJob, jobExpired, problem(503, "store_unavailable")]
}).annotateMerge(OpenApi.annotations({
  summary: "Call a webhook again",
  description: "Calls the webhook of a job that has ended once more, and repeatedly where that fails.",
  override: { security }
}))

// ---------------------------------------------------------------------------------------------------------------------
// Administration
// ---------------------------------------------------------------------------------------------------------------------

const forbidden = problem(403, "forbidden: the caller may not administrate keys, or not those of this tenant")
const noSuchKey = problem(404, "not_found: there is no such key, or this gateway keeps no keys")
const keyStoreDown = problem(503, "store_unavailable: the key store does not answer")

/** What a page of the list is asked for by. What comes twice is refused by the handler, in this API's own words. */
const pageParameter = Schema.optionalKey(Schema.Union([Schema.String, Schema.Array(Schema.String)]))

const createKey = HttpApiEndpoint.post("createKey", "/admin/keys", {
  payload: NewKeyJson.annotate({ identifier: "NewKey" }),
  success: IssuedKeyJson.annotate({ identifier: "IssuedKey", httpApiStatus: 201 }),
  error: [invalid, unauthorized, forbidden, noSuchKey, problem(413, "payload_too_large"), keyStoreDown]
}).annotateMerge(OpenApi.annotations({
  summary: "Create a key",
  description: "Makes a key for a tenant. The answer holds its secret, which is shown this once and kept as a hash.",
  override: { security }
}))

const listKeys = HttpApiEndpoint.get("listKeys", "/admin/keys", {
  query: { after: pageParameter, limit: pageParameter, tenant: pageParameter },
  success: KeyListJson.annotate({ identifier: "KeyList" }),
  error: [invalid, unauthorized, forbidden, noSuchKey, keyStoreDown]
}).annotateMerge(OpenApi.annotations({
  summary: "List keys",
  description:
    "The keys that the caller may administrate, by their ids: those after `after`, at most `limit` (100 unless told, " +
    "1000 at most), of `tenant` alone where it is given. `next` is the `after` of the next page.",
  override: { security }
}))

const revokeKey = HttpApiEndpoint.delete("revokeKey", "/admin/keys/:id", {
  params: { id: Schema.String },
  success: KeyJson.annotate({ identifier: "Key" }),
  error: [invalid, unauthorized, forbidden, noSuchKey, keyStoreDown]
}).annotateMerge(OpenApi.annotations({
  summary: "Revoke a key",
  description: "From now on the key is refused, on every replica within seconds. Doing it twice changes nothing.",
  override: { security }
}))

const rotateKey = HttpApiEndpoint.post("rotateKey", "/admin/keys/:id/rotate", {
  params: { id: Schema.String },
  payload: RotationJson.annotate({ identifier: "Rotation" }),
  success: IssuedKeyJson.annotate({ identifier: "IssuedKey" }),
  error: [invalid, unauthorized, forbidden, noSuchKey, keyStoreDown]
}).annotateMerge(OpenApi.annotations({
  summary: "Rotate a key",
  description:
    "Gives the key a new secret, shown this once. Those before it stay good for `grace`, by default not at all.",
  override: { security }
}))

const reload = HttpApiEndpoint.post("reload", "/admin/reload", {
  success: ConfigurationStatus.annotate({ identifier: "ConfigurationStatus" }),
  error: [
    problem(400, "validation_error: the configuration is wrong, or changes what takes a restart; nothing has changed"),
    unauthorized,
    problem(403, "forbidden: the caller may not administrate, or only a part of the tenants"),
    problem(404, "not_found: there is nothing that could be read anew")
  ]
}).annotateMerge(OpenApi.annotations({
  summary: "Reload the configuration",
  description:
    "Reads the configuration anew and puts it in force, or says what is wrong with it and goes on with the one before. " +
    "Requests that run finish by the configuration that they began with.",
  override: { security }
}))

/** The native API. */
export class GatewayApi extends HttpApi.make("llm-gateway").add(
  HttpApiGroup.make("chat").add(chat).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("embeddings").add(embed).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("images").add(image).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("speech").add(speak, transcribe).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("videos").add(video).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("jobs").add(createJob, listJobs, getJob, cancelJob, redeliverWebhook).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("models").add(models).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("routes").add(routes, explain).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("usage").add(usage, budgets).prefix("/llm-gateway/v1"),
  HttpApiGroup.make("admin").add(createKey, listKeys, revokeKey, rotateKey, reload).prefix("/llm-gateway/v1")
).annotateMerge(OpenApi.annotations({
  title: "LLM Gateway",
  version: "1",
  description: "One interface in front of many LLM providers.",
  transform: (spec) => ({
    ...spec,
    components: { ...spec["components"], securitySchemes: { bearer: { type: "http", scheme: "bearer" } } }
  })
})) {}
