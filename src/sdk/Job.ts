/**
 * Jobs: requests whose answers are fetched later. A job belongs to the tenant that made it, runs on whichever replica takes
 * it, ends once and is charged once. What callers see of one is here; where jobs are kept is `JobStore.ts`.
 */
import { Schema } from "effect"

/** How a job stands. The last three are final. */
export const JobStatus = Schema.Literals(["pending", "running", "completed", "failed", "cancelled"])
export type JobStatus = typeof JobStatus.Type

/** Whether a job in this state stays in it. */
export const isFinal = (status: JobStatus): boolean => status !== "pending" && status !== "running"

/** What a job can run. */
export const JobOperation = Schema.Literals(["chat", "embed", "image", "speak", "transcribe", "video"])
export type JobOperation = typeof JobOperation.Type

/**
 * What becomes of a job whose replica died, or stopped, while its provider worked on it. `run_again`: the call is made once
 * more, at most twice in all where replicas died. `fail`: the provider is called at most once, and the job fails with `job_interrupted`.
 */
export const OnInterruption = Schema.Literals(["run_again", "fail"])
export type OnInterruption = typeof OnInterruption.Type

/** Why a job failed: the code and the message that the request would have been answered with, and its status. */
export const JobFailure = Schema.Struct({ code: Schema.String, message: Schema.String, status: Schema.Int })
export interface JobFailure extends Schema.Schema.Type<typeof JobFailure> {}

/** An address that is called when the job has ended. */
export const JobWebhook = Schema.Struct({ url: Schema.String })
export interface JobWebhook extends Schema.Schema.Type<typeof JobWebhook> {}

/** `waiting`: the job has not ended; `sending`: it is called, or called again later; the others are final, until it is sent anew. */
export const WebhookStatus = Schema.Literals(["waiting", "sending", "delivered", "failed"])
export type WebhookStatus = typeof WebhookStatus.Type

/** How a job's webhook stands. */
export const JobWebhookState = Schema.Struct({
  url: Schema.String,
  status: WebhookStatus,
  /** Calls so far. */
  attempts: Schema.Int,
  /** Why the last call came to nothing. */
  failure: Schema.optionalKey(Schema.String)
})
export interface JobWebhookState extends Schema.Schema.Type<typeof JobWebhookState> {}

/** A job as its callers see it; moments are ISO 8601. */
export const Job = Schema.Struct({
  id: Schema.String,
  operation: JobOperation,
  /** As the request names it. */
  model: Schema.String,
  status: JobStatus,
  createdAt: Schema.String,
  startedAt: Schema.optionalKey(Schema.String),
  finishedAt: Schema.optionalKey(Schema.String),
  /** Until when the result can be fetched; of a job that has not ended, at the earliest. */
  expiresAt: Schema.String,
  /** The operation's own answer, of a completed job. */
  result: Schema.optionalKey(Schema.Unknown),
  /** Of a failed job. */
  error: Schema.optionalKey(JobFailure),
  webhook: Schema.optionalKey(JobWebhookState)
}).pipe(Schema.encodeKeys({
  createdAt: "created_at",
  startedAt: "started_at",
  finishedAt: "finished_at",
  expiresAt: "expires_at"
}))
export interface Job extends Schema.Schema.Type<typeof Job> {}

/** A page of jobs, the newest first and without their results. */
export const JobList = Schema.Struct({
  jobs: Schema.Array(Job),
  /** The `after` of the next page, where there is one. */
  next: Schema.optionalKey(Schema.String)
})
export interface JobList extends Schema.Schema.Type<typeof JobList> {}

/** Which page of the tenant's jobs. */
export const JobQuestion = Schema.Struct({
  status: Schema.optionalKey(JobStatus),
  operation: Schema.optionalKey(JobOperation),
  /** The id of the last job of the page before. */
  after: Schema.optionalKey(Schema.String),
  /** Jobs at most; default 100. */
  limit: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000 })))
})
export interface JobQuestion extends Schema.Schema.Type<typeof JobQuestion> {}

/** The longest wait for a job's end in one call, ms; proxies cut what is silent for longer. */
export const maxJobWait = 60_000

/** What a job is made of. */
export const NewJob = Schema.Struct({
  operation: JobOperation,
  /** The operation's own request, in the native spelling. */
  request: Schema.Record(Schema.String, Schema.Unknown),
  /** Default `run_again`. */
  onInterruption: Schema.optionalKey(OnInterruption),
  webhook: Schema.optionalKey(JobWebhook)
}).pipe(Schema.encodeKeys({ onInterruption: "on_interruption" }))
export interface NewJob extends Schema.Schema.Type<typeof NewJob> {}
