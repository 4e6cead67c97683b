/**
 * Where jobs are kept, in memory or shared by many replicas. A replica takes a job for the time of a lease and renews it;
 * the job of a replica that has died is taken over by another one after that. Each taking has a number of its own, its
 * fence, and only the last one can end the job: a replica that was merely slow changes nothing any more.
 *
 * Moments are Unix ms.
 */
import { Context, type Effect, type PubSub, type Scope } from "effect"
import type { GatewayError } from "./GatewayError.ts"
import type { JobOperation, JobStatus, JobWebhookState, OnInterruption } from "./Job.ts"

/** A job as it is kept. */
export interface StoredJob {
  readonly id: string
  readonly tenant: string
  readonly operation: JobOperation
  readonly model: string
  readonly status: JobStatus
  readonly onInterruption: OnInterruption
  readonly createdAt: number
  readonly startedAt?: number
  readonly finishedAt?: number
  readonly expiresAt: number
  /** What the request's caller and body came to, to tell the repetition of a request from another one. */
  readonly fingerprint: string
  /** JSON, of a completed job; absent in lists. */
  readonly result?: string
  /** JSON, of a failed job. */
  readonly error?: string
  readonly webhook?: JobWebhookState
}

/** A job to be kept. */
export interface JobToStore {
  /** Sorts by time; no other job has it. */
  readonly id: string
  readonly tenant: string
  readonly operation: JobOperation
  readonly model: string
  readonly onInterruption: OnInterruption
  readonly fingerprint: string
  readonly idempotencyKey?: string
  /** JSON; dropped when the job ends. */
  readonly request: string
  /** JSON: on whose account it runs, and how. */
  readonly context: string
  readonly ttlMs: number
  /** Unfinished jobs that its tenant may have, this one included. */
  readonly maxUnfinished: number
  /** Called when the job has ended. */
  readonly webhookUrl?: string
}

/** A job that was taken, with all that running it needs. */
export interface TakenJob {
  readonly id: string
  readonly operation: JobOperation
  readonly onInterruption: OnInterruption
  readonly request: string
  readonly context: string
  /** The number of this taking. */
  readonly fence: number
  /** How often a replica has died with it. */
  readonly interruptions: number
  /** What was kept of its work at a provider; empty: that was about to begin. */
  readonly handle?: string
}

/** How a job ended; the texts are JSON. */
export type JobEnd =
  | { readonly status: "completed"; readonly result: string }
  | { readonly status: "failed"; readonly error: string }

/** A webhook that was taken, to be called. */
export interface DueWebhook {
  /** Without its result. */
  readonly job: StoredJob
  readonly url: string
  /** The number of this call; only the latest can say how it went. */
  readonly attempt: number
  /** Calls since it was last asked for, this one included. */
  readonly tries: number
}

/** How a call went: received, given up, or to be made again after so many ms. */
export type WebhookOutcome =
  | { readonly status: "delivered" }
  | { readonly status: "failed"; readonly failure: string }
  | { readonly status: "sending"; readonly failure: string; readonly inMs: number }

/** Which jobs a page of the list has. */
export interface JobQuery {
  readonly tenant: string
  readonly status?: JobStatus
  readonly operation?: JobOperation
  /** The id of the last job of the page before. */
  readonly after?: string
  readonly limit: number
}

/** What has become of a job. */
export interface JobChange {
  readonly id: string
  /** Absent where changes may have been missed: any job may have changed, in any way. */
  readonly status?: JobStatus
}

/** The jobs. What the store cannot do at the moment fails with `store_unavailable`. */
export class JobStore extends Context.Service<JobStore, {
  /**
   * Keeps a job; gives the one that is there where the tenant has used its idempotency key before. Fails with `overloaded`
   * where the tenant has too many jobs that have not ended.
   */
  readonly create: (job: JobToStore) => Effect.Effect<StoredJob, GatewayError>
  /** Fails with `job_not_found`, also for another tenant's, and with `job_expired`. */
  readonly get: (tenant: string, id: string) => Effect.Effect<StoredJob, GatewayError>
  /** The newest first. */
  readonly list: (query: JobQuery) => Effect.Effect<ReadonlyArray<StoredJob>, GatewayError>
  /** Takes jobs that wait, and before them those whose lease has ended; the oldest first. */
  readonly take: (owner: string, limit: number, leaseMs: number) => Effect.Effect<ReadonlyArray<TakenJob>, GatewayError>
  /** Renews the leases that the owner still has on these jobs, and gives the fences of those, by id. */
  readonly renew: (
    owner: string,
    ids: ReadonlyArray<string>,
    leaseMs: number
  ) => Effect.Effect<ReadonlyMap<string, number>, GatewayError>
  /** Keeps what a provider calls its work on a job that was taken. Fails where the job is another replica's by now, or has ended. */
  readonly keepHandle: (id: string, fence: number, handle: string) => Effect.Effect<void, GatewayError>
  /** Ends a job that was taken; false where it has been cancelled or taken over meanwhile, which changes nothing. */
  readonly finish: (id: string, fence: number, end: JobEnd, ttlMs: number) => Effect.Effect<boolean, GatewayError>
  /** Gives a job that was taken back, to wait for whoever takes it next. */
  readonly giveBack: (id: string, fence: number) => Effect.Effect<void, GatewayError>
  /** Cancels a job; one that has ended stays as it is. Fails as `get` does. */
  readonly cancel: (tenant: string, id: string, ttlMs: number) => Effect.Effect<StoredJob, GatewayError>
  /** Takes webhooks that are due; what becomes of them is to be told within `claimMs`, after which they are due again. */
  readonly takeWebhooks: (limit: number, claimMs: number) => Effect.Effect<ReadonlyArray<DueWebhook>, GatewayError>
  /** Tells how a call went; of one that was taken again meanwhile nothing is changed. */
  readonly webhookCalled: (id: string, attempt: number, outcome: WebhookOutcome) => Effect.Effect<void, GatewayError>
  /** Makes the webhook of a job that has ended due once more. Fails as `get`; changes nothing of a job without one, or that runs. */
  readonly redeliver: (tenant: string, id: string) => Effect.Effect<StoredJob, GatewayError>
  /** Drops results whose time is over, and some time after that the jobs. */
  readonly sweep: Effect.Effect<void, GatewayError>
  /**
   * Jobs that change, on whichever replica. A hint and no more: some may get lost, so whoever waits for a job looks after it
   * now and then.
   */
  readonly changes: Effect.Effect<PubSub.Subscription<JobChange>, never, Scope.Scope>
}>()("llm-gateway/sdk/JobStore") {}
