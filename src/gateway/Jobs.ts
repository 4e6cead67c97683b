/**
 * Jobs of the current caller: made, looked at, waited for, cancelled. They are kept by the `JobStore` and run by this
 * process's runner and those of other replicas.
 */
import { Clock, Context, Effect, Layer, Option, PubSub, Schema, Stream } from "effect"
import { createHash, randomBytes } from "node:crypto"
import { CurrentCaller, CurrentRequest } from "../sdk/Caller.ts"
import type { NewJobOptions } from "../sdk/GatewayCalls.ts"
import { fail, type GatewayError, invalid, NotFound } from "../sdk/GatewayError.ts"
import { isFinal, Job, JobFailure, type JobList, type JobQuestion, type NewJob } from "../sdk/Job.ts"
import { type JobChange, JobStore, type StoredJob } from "../sdk/JobStore.ts"
import { PublicFetch } from "../sdk/PublicFetch.ts"
import { Tenants } from "../sdk/Tenant.ts"
import { UsageLog } from "../sdk/UsageLog.ts"
import { Gateway } from "./Gateway.ts"
import * as JobOperations from "./JobOperations.ts"
import * as JobRunner from "./JobRunner.ts"
import * as JobWebhooks from "./JobWebhooks.ts"

/** How jobs are run and kept. */
export interface JobsOptions {
  /** Jobs that run at the same time in this process; default 16. */
  readonly concurrency?: number
  /** How long results are kept, ms; default a day. */
  readonly ttlMs?: number
  /** How long the job of a replica that has died waits for another one, ms; default 30,000. */
  readonly leaseMs?: number
  /** Jobs of one tenant that have not ended; default 10,000. */
  readonly maxUnfinished?: number
  /** How often this process looks for what nobody has told it of, ms; default 1,000. */
  readonly pollMs?: number
  /** Before the first repetition of a webhook's call, ms; default 5,000. Further ones wait longer and longer. */
  readonly webhookRetryMs?: number
}

/** Jobs in one process. */
export interface JobCounts {
  readonly running: number
  readonly ended: ReadonlyMap<string, number>
}

/** Jobs of the `CurrentCaller`'s tenant; those of others are `job_not_found`. */
export class Jobs extends Context.Service<Jobs, {
  /**
   * Makes a job. It runs on the account of the current caller under the current request's options. Fails at once where
   * the request cannot work, with `validation_error` where an idempotency key was used for another request, and with
   * `overloaded` where the tenant has too many jobs.
   */
  readonly create: (job: NewJob, options?: NewJobOptions) => Effect.Effect<Job, GatewayError>
  /** Fails with `job_not_found` and `job_expired`. */
  readonly get: (id: string) => Effect.Effect<Job, GatewayError>
  /** As `get`, but waits up to `ms` for the job to end. */
  readonly wait: (id: string, ms: number) => Effect.Effect<Job, GatewayError>
  /** The job now, then as it changes, until it has ended. */
  readonly changes: (id: string) => Stream.Stream<Job, GatewayError>
  readonly list: (question: JobQuestion) => Effect.Effect<JobList, GatewayError>
  /** Cancels a job, wherever it runs: its provider's connection closes. One that has ended stays as it is. */
  readonly cancel: (id: string) => Effect.Effect<Job, GatewayError>
  /**
   * Calls the webhook of a job that has ended once more. Fails with `validation_error` where the job has none, or has not ended.
   */
  readonly redeliver: (id: string) => Effect.Effect<Job, GatewayError>
  /** What this process has to do with jobs. */
  readonly counts: () => JobCounts
}>()("llm-gateway/gateway/Jobs") {
  static readonly layer = (options: JobsOptions = {}): Layer.Layer<Jobs, never, Gateway | JobStore> =>
    Layer.effect(Jobs, make(options))
}

/** The jobs, where the gateway runs any; otherwise `not_found`. */
export const jobs: Effect.Effect<Jobs["Service"], GatewayError> = Effect.flatMap(
  Effect.serviceOption(Jobs),
  Effect.fromOption(() => fail(new NotFound({ message: "this gateway runs no jobs" })))
)

const defaultTtl = 86_400_000
const defaultLease = 30_000
/** Jobs on a page, unless told otherwise, and at most. */
const defaultLimit = 100
const maxLimit = 1_000
const maxKey = 256
/** Hints may get lost, so who waits looks after the job as often as this, ms. */
const lookEvery = 2_000

/** Sorts by the time it was made, and cannot be guessed. */
const newId = (now: number): string =>
  `job_${Math.floor(now).toString(16).padStart(12, "0")}${randomBytes(10).toString("hex")}`

/** Characters of a model's name that a job shows. */
const maxModel = 512

/** A model's name as it is kept: PostgreSQL can store neither NUL nor half of a surrogate pair. */
const shownModel = (model: string): string => model.slice(0, maxModel).toWellFormed().replaceAll("\0", "\ufffd")

const isoOf = (unixMs: number): string => new Date(unixMs).toISOString()

const parseResult = Schema.decodeSync(Schema.fromJsonString(Schema.Unknown))
const parseFailure = Schema.decodeSync(Schema.fromJsonString(JobFailure))

const seen = (job: StoredJob): Job => ({
  id: job.id,
  operation: job.operation,
  model: job.model,
  status: job.status,
  createdAt: isoOf(job.createdAt),
  ...(job.startedAt === undefined ? {} : { startedAt: isoOf(job.startedAt) }),
  ...(job.finishedAt === undefined ? {} : { finishedAt: isoOf(job.finishedAt) }),
  expiresAt: isoOf(job.expiresAt),
  ...(job.result === undefined ? {} : { result: parseResult(job.result) }),
  ...(job.error === undefined ? {} : { error: parseFailure(job.error) }),
  ...(job.webhook === undefined ? {} : { webhook: job.webhook })
})

const encodeJob = Schema.encodeSync(Job)

const noWebhook = fail(invalid("id", "the job has no webhook"))
const notEnded = fail(invalid("id", "the job has not ended; its webhook is called when it has"))

const keyReused = fail(
  invalid("idempotency-key", "was used for another request before; take a new key for a new request")
)

const make = Effect.fnUntraced(function*(
  {
    concurrency = 16,
    leaseMs = defaultLease,
    maxUnfinished = 10_000,
    pollMs = 1_000,
    ttlMs = defaultTtl,
    webhookRetryMs = 5_000
  }: JobsOptions
) {
  const store = yield* JobStore
  const kinds = JobOperations.make(yield* Gateway)
  const log = Option.getOrUndefined(yield* Effect.serviceOption(UsageLog))
  const runner = yield* JobRunner.make(store, kinds, log, { concurrency, leaseMs, pollMs, ttlMs })
  const tenants = Option.getOrUndefined(yield* Effect.serviceOption(Tenants))
  const out = Option.getOrUndefined(yield* Effect.serviceOption(PublicFetch))
  if (out !== undefined) {
    yield* JobWebhooks.run(store, tenants, out, {
      concurrency,
      pollMs,
      retryMs: webhookRetryMs,
      shown: seen,
      encode: encodeJob
    })
  }

  const get = Effect.fnUntraced(function*(id: string) {
    const { tenant } = yield* CurrentCaller
    return yield* store.get(tenant, id)
  })

  /** Until the job changes, or it is time to look after it. */
  const hint = Effect.fnUntraced(function*(changes: PubSub.Subscription<JobChange>, id: string) {
    while (true) {
      const change = yield* PubSub.take(changes)
      if (change.status === undefined || change.id === id) return
    }
  })

  const changes = (id: string): Stream.Stream<Job, GatewayError> =>
    Stream.unwrap(Effect.map(store.changes, (told) => {
      const look = Effect.fnUntraced(function*(last: StoredJob | undefined) {
        if (last !== undefined && isFinal(last.status)) return undefined
        let job = yield* get(id)
        if (last === undefined) return [seen(job), job] as const
        for (; job.status === last.status; job = yield* get(id)) {
          yield* Effect.timeoutOption(hint(told, id), lookEvery)
        }
        return [seen(job), job] as const
      })
      return Stream.unfold<StoredJob | undefined, Job, GatewayError, never>(undefined, look)
    }))

  return Jobs.of({
    create: Effect.fn("Jobs.create")(function*(
      { onInterruption = "run_again", operation, request, webhook },
      options = {}
    ) {
      const { idempotencyKey } = options
      if (idempotencyKey !== undefined && !/^[\x21-\x7e]{1,256}$/.test(idempotencyKey)) {
        return yield* fail(invalid("idempotency-key", `expected 1 to ${maxKey} characters of printable ASCII`))
      }
      const caller = yield* CurrentCaller
      const text = JSON.stringify(request)
      const model = yield* kinds[operation].check(request)
      if (webhook !== undefined) yield* JobWebhooks.check(webhook.url, caller.tenant, tenants, out)
      const asked = [operation, onInterruption, text, ...(webhook === undefined ? [] : [webhook.url])]
      const fingerprint = createHash("sha256").update(JSON.stringify(asked)).digest("hex")
      const job = yield* store.create({
        id: newId(yield* Clock.currentTimeMillis),
        tenant: caller.tenant,
        operation,
        model: shownModel(model),
        onInterruption,
        fingerprint,
        ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
        request: text,
        context: JobOperations.contextOf(caller, yield* CurrentRequest),
        ttlMs,
        maxUnfinished,
        ...(webhook === undefined ? {} : { webhookUrl: webhook.url })
      })
      return job.fingerprint === fingerprint ? seen(job) : yield* keyReused
    }),

    get: (id) => Effect.map(get(id), seen),

    wait: Effect.fn("Jobs.wait")(function*(id, ms) {
      const told = yield* store.changes
      const until = (yield* Clock.currentTimeMillis) + ms
      while (true) {
        const job = yield* get(id)
        const left = until - (yield* Clock.currentTimeMillis)
        if (isFinal(job.status) || left <= 0) return seen(job)
        yield* Effect.timeoutOption(hint(told, id), Math.min(left, lookEvery))
      }
    }, Effect.scoped),

    changes,

    list: Effect.fn("Jobs.list")(function*({ limit = defaultLimit, ...question }) {
      const { tenant } = yield* CurrentCaller
      const most = Math.min(maxLimit, Math.max(1, Math.trunc(limit)))
      const found = yield* store.list({ ...question, tenant, limit: most + 1 })
      const jobs = found.slice(0, most).map(seen)
      const last = jobs.at(-1)
      return { jobs, ...(found.length > most && last !== undefined ? { next: last.id } : {}) }
    }),

    cancel: Effect.fn("Jobs.cancel")(function*(id) {
      const { tenant } = yield* CurrentCaller
      const job = yield* store.cancel(tenant, id, ttlMs)
      if (job.status === "cancelled") yield* runner.cancel(id)
      return seen(job)
    }),

    redeliver: Effect.fn("Jobs.redeliver")(function*(id) {
      const { tenant } = yield* CurrentCaller
      const job = yield* store.redeliver(tenant, id)
      if (job.webhook === undefined) return yield* noWebhook
      return isFinal(job.status) ? seen(job) : yield* notEnded
    }),

    counts: () => ({ running: runner.running(), ended: runner.ended })
  })
})
