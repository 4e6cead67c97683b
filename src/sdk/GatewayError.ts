/**
 * The one error that the gateway fails with. `GatewayError` is the stable outer tag; its `reason` says what happened and
 * knows its public `code`, its HTTP `status` and its message. Dialects render it in their provider's own error body,
 * the native API as RFC 9457 problem details, RPC as it is.
 *
 * ```ts
 * gateway.chat(request).pipe(Effect.catchReason("GatewayError", "RateLimited", (reason) => wait(reason.retryAfterMs)))
 * ```
 */
import { Schema } from "effect"

/** One thing that is wrong with a request: where, as a path in the caller's own spelling (`messages[2].content`), and what. */
export const Issue = Schema.Struct({ path: Schema.String, message: Schema.String })
export interface Issue extends Schema.Schema.Type<typeof Issue> {}

const message = { message: Schema.String }

/** The request cannot be understood, or the model's answer does not fit the response schema. */
export class ValidationError extends Schema.TaggedError<ValidationError>()("ValidationError", {
  ...message,
  /** The field that is wrong, in the caller's spelling. */
  field: Schema.optionalKey(Schema.String),
  issues: Schema.optionalKey(Schema.Array(Issue))
}) {
  readonly code = "validation_error"
  readonly status = 400
}

/** A GTS identifier breaks the grammar. */
export class InvalidSchemaId extends Schema.TaggedError<InvalidSchemaId>()("InvalidSchemaId", {
  ...message,
  id: Schema.String
}) {
  readonly code = "invalid_schema_id"
  readonly status = 400
}

/** No key, or one that the gateway does not know. */
export class Unauthorized extends Schema.TaggedError<Unauthorized>()("Unauthorized", message) {
  readonly code = "unauthorized"
  readonly status = 401
}

/** A budget cannot pay for the request. */
export class BudgetExceeded extends Schema.TaggedError<BudgetExceeded>()("BudgetExceeded", {
  ...message,
  budget: Schema.String,
  /** When the budget starts anew, Unix ms; absent for one that never does. */
  resetsAt: Schema.optionalKey(Schema.Finite)
}) {
  readonly code = "budget_exceeded"
  readonly status = 402
}

/** The caller may not do this. */
export class Forbidden extends Schema.TaggedError<Forbidden>()("Forbidden", message) {
  readonly code = "forbidden"
  readonly status = 403
}

/** The model exists, but not for this tenant. */
export class ModelNotApproved extends Schema.TaggedError<ModelNotApproved>()("ModelNotApproved", {
  ...message,
  model: Schema.String
}) {
  readonly code = "model_not_approved"
  readonly status = 403
}

/** An interceptor refused the request. */
export class RequestBlocked extends Schema.TaggedError<RequestBlocked>()("RequestBlocked", {
  ...message,
  interceptor: Schema.String
}) {
  readonly code = "request_blocked"
  readonly status = 403
}

/** An interceptor refused the answer. */
export class ResponseBlocked extends Schema.TaggedError<ResponseBlocked>()("ResponseBlocked", {
  ...message,
  interceptor: Schema.String
}) {
  readonly code = "response_blocked"
  readonly status = 403
}

/** Neither configuration, catalogue nor discovery knows the model; `candidates` are what an ambiguous name could mean. */
export class ModelNotFound extends Schema.TaggedError<ModelNotFound>()("ModelNotFound", {
  ...message,
  model: Schema.String,
  candidates: Schema.optionalKey(Schema.Array(Schema.String))
}) {
  readonly code = "model_not_found"
  readonly status = 404
}

/** No such job for this tenant. */
export class JobNotFound extends Schema.TaggedError<JobNotFound>()("JobNotFound", { ...message, id: Schema.String }) {
  readonly code = "job_not_found"
  readonly status = 404
}

/** No such file for this tenant. */
export class FileNotFound
  extends Schema.TaggedError<FileNotFound>()("FileNotFound", { ...message, id: Schema.String })
{
  readonly code = "file_not_found"
  readonly status = 404
}

/** The TypeRegistry holds none of these schemas. */
export class SchemaNotFound extends Schema.TaggedError<SchemaNotFound>()("SchemaNotFound", {
  ...message,
  ids: Schema.Array(Schema.String)
}) {
  readonly code = "schema_not_found"
  readonly status = 404
}

/** There is nothing at the address. */
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", message) {
  readonly code = "not_found"
  readonly status = 404
}

/** The address is served, but not with this method. */
export class MethodNotAllowed extends Schema.TaggedError<MethodNotAllowed>()("MethodNotAllowed", {
  ...message,
  /** The methods that the address takes, as the `allow` header lists them. */
  allow: Schema.optionalKey(Schema.String)
}) {
  readonly code = "method_not_allowed"
  readonly status = 405
}

/** The model has been taken out of service. */
export class ModelDeprecated extends Schema.TaggedError<ModelDeprecated>()("ModelDeprecated", {
  ...message,
  model: Schema.String
}) {
  readonly code = "model_deprecated"
  readonly status = 410
}

/** The job's result has been swept. */
export class JobExpired extends Schema.TaggedError<JobExpired>()("JobExpired", { ...message, id: Schema.String }) {
  readonly code = "job_expired"
  readonly status = 410
}

/** The body is larger than the gateway takes. */
export class PayloadTooLarge extends Schema.TaggedError<PayloadTooLarge>()("PayloadTooLarge", {
  ...message,
  maxBytes: Schema.optionalKey(Schema.Finite)
}) {
  readonly code = "payload_too_large"
  readonly status = 413
}

/** The model cannot do what the request needs; `models` are some that can. */
export class CapabilityNotSupported extends Schema.TaggedError<CapabilityNotSupported>()("CapabilityNotSupported", {
  ...message,
  capability: Schema.String,
  model: Schema.String,
  models: Schema.Array(Schema.String)
}) {
  readonly code = "capability_not_supported"
  readonly status = 422
}

/** The caller has used up a limit of the gateway's own. */
export class RateLimited extends Schema.TaggedError<RateLimited>()("RateLimited", {
  ...message,
  retryAfterMs: Schema.Finite,
  /** The limit that is used up, where it is one of requests or tokens; `resetMs` is until all of it is there again. */
  limit: Schema.optionalKey(Schema.Struct({
    name: Schema.String,
    kind: Schema.Literals(["requests", "tokens"]),
    limit: Schema.Finite,
    remaining: Schema.Finite,
    resetMs: Schema.Finite
  }))
}) {
  readonly code = "rate_limited"
  readonly status = 429
}

/** What kind of thing went wrong upstream. One table decides from it what happens next. */
export const ProviderErrorKind = Schema.Literals([
  /** The request itself is wrong; another try would fail the same way. */
  "caller",
  /** The gateway's own key is bad, or may not do this. */
  "credential",
  /** A limit of the gateway's account is used up. */
  "quota",
  /** Overload, a broken connection, a server error: another try may work. */
  "transient",
  /** The provider's safety system refused the content. */
  "contentPolicy",
  /** The conversation does not fit the model's context window. */
  "contextLength",
  /** The provider broke its own protocol: malformed JSON, a stream without its terminal marker. */
  "protocol"
])
export type ProviderErrorKind = typeof ProviderErrorKind.Type

/** A provider failed. `kind` is the gateway's reading of it; the upstream's own words are bounded and free of secrets. */
export class ProviderFailed extends Schema.TaggedError<ProviderFailed>()("ProviderFailed", {
  ...message,
  kind: ProviderErrorKind,
  provider: Schema.String,
  /** The upstream's HTTP status, where it answered with one. */
  upstreamStatus: Schema.optionalKey(Schema.Int),
  /** The upstream's own error code and type. */
  upstreamCode: Schema.optionalKey(Schema.String),
  upstreamType: Schema.optionalKey(Schema.String),
  /** The request field that the upstream complained about. */
  field: Schema.optionalKey(Schema.String),
  retryAfterMs: Schema.optionalKey(Schema.Finite)
}) {
  readonly code = "provider_error"
  /**
   * Caller errors keep the upstream's status. Quota answers 429, overload 503, and everything else is the gateway's
   * fault towards its caller: a bad upstream key is never the caller's 401.
   */
  get status(): number {
    switch (this.kind) {
      case "caller":
      case "contentPolicy":
      case "contextLength":
        return this.upstreamStatus !== undefined && this.upstreamStatus >= 400 && this.upstreamStatus < 500
          ? this.upstreamStatus
          : 400
      case "quota":
        return 429
      case "transient":
        return this.upstreamStatus === 529 || this.upstreamStatus === 503 ? 503 : 502
      default:
        return 502
    }
  }
}

/** Which of the five timers ran out. */
export const TimeoutPhase = Schema.Literals(["connect", "first_token", "idle", "answer", "total"])
export type TimeoutPhase = typeof TimeoutPhase.Type

/** A provider was too slow. */
export class ProviderTimeout extends Schema.TaggedError<ProviderTimeout>()("ProviderTimeout", {
  ...message,
  provider: Schema.String,
  phase: TimeoutPhase,
  /** The timer's limit in ms. */
  limitMs: Schema.Finite,
  /** Which of the request's attempts it was, from 1, and with which model. */
  attempt: Schema.optionalKey(Schema.Int),
  model: Schema.optionalKey(Schema.String)
}) {
  readonly code = "provider_timeout"
  readonly status = 504
}

/** One of the gateway's own stores does not answer. */
export class StoreUnavailable extends Schema.TaggedError<StoreUnavailable>()("StoreUnavailable", {
  ...message,
  store: Schema.String,
  /** When it is worth asking again, where that is known. */
  retryAfterMs: Schema.optionalKey(Schema.Finite)
}) {
  readonly code = "store_unavailable"
  readonly status = 503
}

/** The gateway has more to do than it can. */
export class Overloaded extends Schema.TaggedError<Overloaded>()("Overloaded", {
  ...message,
  retryAfterMs: Schema.optionalKey(Schema.Finite)
}) {
  readonly code = "overloaded"
  readonly status = 503
}

/** A fault in the gateway. The cause is in the log under the request's id, never in the answer. */
export class InternalError extends Schema.TaggedError<InternalError>()("InternalError", message) {
  readonly code = "internal_error"
  readonly status = 500
}

/** Everything that can go wrong, each with its code and status. */
export const GatewayErrorReason = Schema.Union([
  ValidationError,
  InvalidSchemaId,
  Unauthorized,
  BudgetExceeded,
  Forbidden,
  ModelNotApproved,
  RequestBlocked,
  ResponseBlocked,
  ModelNotFound,
  JobNotFound,
  FileNotFound,
  SchemaNotFound,
  NotFound,
  MethodNotAllowed,
  ModelDeprecated,
  JobExpired,
  PayloadTooLarge,
  CapabilityNotSupported,
  RateLimited,
  ProviderFailed,
  ProviderTimeout,
  StoreUnavailable,
  Overloaded,
  InternalError
])
export type GatewayErrorReason = typeof GatewayErrorReason.Type

/** A public error code, stable across releases. */
export type GatewayErrorCode = GatewayErrorReason["code"]

/** The gateway's error; match its `reason` with `Effect.catchReason`. */
export class GatewayError extends Schema.TaggedError<GatewayError>()("GatewayError", { reason: GatewayErrorReason }) {
  override get message(): string {
    return this.reason.message
  }
  /** The stable public code, such as `rate_limited`. */
  get code(): GatewayErrorCode {
    return this.reason.code
  }
  /** The HTTP status that goes with it. */
  get status(): number {
    return this.reason.status
  }
  /** How long the caller should wait before another try, in ms, where that is known. */
  get retryAfterMs(): number | undefined {
    return "retryAfterMs" in this.reason ? this.reason.retryAfterMs : undefined
  }
  /** The field that the error is about, in the caller's spelling, where there is one. */
  get field(): string | undefined {
    return "field" in this.reason ? this.reason.field : undefined
  }
}

/** Wraps a reason. */
export const fail = (reason: GatewayErrorReason): GatewayError => new GatewayError({ reason })

/** A validation error about one field, or about the whole body where `field` is empty. */
export const invalid = (field: string, problem: string): ValidationError =>
  field === ""
    ? new ValidationError({ message: problem })
    : new ValidationError({ message: `${field}: ${problem}`, field })
