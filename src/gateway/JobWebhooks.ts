/**
 * Tells callers' own services that their jobs have ended, as Standard Webhooks says (https://www.standardwebhooks.com): a
 * signed `POST` whose `webhook-id` stays the same however often it is sent, so that receivers know what they have seen.
 *
 * ```
 * POST url
 * webhook-id: msg_…    webhook-timestamp: 1767225600    webhook-signature: v1,base64(HMAC-SHA256(id.timestamp.body))
 * {"type": "job.completed", "timestamp": "2026-01-01T00:00:00.000Z", "data": {"id": "job_…", "status": "completed", …}}
 * ```
 *
 * That a call is due is written with the end of the job, and that it was taken is written before it is made; a process that dies
 * leaves it due again. So each is made at least once. Results are not sent: whoever is told fetches them with a key.
 */
import { Clock, Effect, FiberSet, PubSub, Queue, Random, Redacted, type Scope } from "effect"
import { createHmac } from "node:crypto"
import { fail, type GatewayError, invalid } from "../sdk/GatewayError.ts"
import { isFinal, type Job } from "../sdk/Job.ts"
import type { DueWebhook, JobStore, StoredJob, WebhookOutcome } from "../sdk/JobStore.ts"
import { logOf } from "../sdk/Log.ts"
import type { FetchError, PublicFetch } from "../sdk/PublicFetch.ts"
import type { Tenants } from "../sdk/Tenant.ts"

const log = logOf("jobs")

/** How webhooks are called. */
export interface JobWebhooksOptions {
  /** Calls at the same time in this process; 0: it makes none. */
  readonly concurrency: number
  /** How often calls are looked for that are due, ms. */
  readonly pollMs: number
  /** Before the first repetition, ms; each further one waits three times as long, up to four hours. */
  readonly retryMs: number
  /** How a job is shown. */
  readonly shown: (job: StoredJob) => Job
  /** The native API's form of it. */
  readonly encode: (job: Job) => unknown
}

/** A receiver has this long to answer, ms. */
const patience = 15_000
/** A call that was taken and not ended by then was that of a process that has died, ms. */
const claim = 20_000
/** Calls for one end of a job, before it is given up: about nine hours of them. */
const maxTries = 10
const maxPause = 4 * 3_600_000
/** The answer is not read. */
const maxAnswer = 64 * 1024
const maxUrl = 2_048

/** The secrets that a tenant's calls are signed with: its own, or those of the nearest tenant above that has some. */
export const secretsOf = (tenants: Tenants["Service"] | undefined, tenant: string): ReadonlyArray<Redacted.Redacted> =>
  tenants?.lineage(tenant)?.find(({ webhookSecrets = [] }) => webhookSecrets.length > 0)?.webhookSecrets ?? []

const noSecret = fail(
  invalid(
    "webhook",
    "this tenant has no secret to sign webhooks with; its operator sets tenants.<name>.webhook_secrets"
  )
)
const noWay = fail(invalid("webhook", "this gateway calls no webhooks"))
const longUrl = fail(invalid("webhook.url", `expected a URL of at most ${maxUrl} characters`))

/** Refuses what could not be called when the job has ended. */
export const check = (
  url: string,
  tenant: string,
  tenants: Tenants["Service"] | undefined,
  out: PublicFetch["Service"] | undefined
): Effect.Effect<void, GatewayError> => {
  if (out === undefined) return Effect.fail(noWay)
  if (secretsOf(tenants, tenant).length === 0) return Effect.fail(noSecret)
  if (url.length > maxUrl || !url.isWellFormed() || url.includes("\0")) return Effect.fail(longUrl)
  return Effect.mapError(out.check(url), ({ message }) => fail(invalid("webhook.url", message)))
}

/** `whsec_` and base64, as the configuration takes them. */
const keyOf = (secret: Redacted.Redacted): Buffer =>
  Buffer.from(Redacted.value(secret).replace(/^whsec_/, ""), "base64")

const signatureOf = (signed: string) => (secret: Redacted.Redacted): string =>
  `v1,${createHmac("sha256", keyOf(secret)).update(signed).digest("base64")}`

/** The same for every call that tells of a job's end. */
const messageId = (job: string): string => job.replace(/^job_/, "msg_")

const isoOf = (unixMs: number): string => new Date(unixMs).toISOString()

/** What no repetition would change. */
const isHopeless = ({ failure }: FetchError): boolean => failure === "invalid_url" || failure === "not_allowed"

/** Calls webhooks, for as long as the scope lives. */
export const run = Effect.fnUntraced(function*(
  store: JobStore["Service"],
  tenants: Tenants["Service"] | undefined,
  out: PublicFetch["Service"],
  { concurrency, encode, pollMs, retryMs, shown }: JobWebhooksOptions
): Effect.fn.Return<void, never, Scope.Scope> {
  const wake = yield* Queue.sliding<void>(1)
  const calls = yield* FiberSet.make<void>()

  const again = Effect.fnUntraced(function*(tries: number, failure: string): Effect.fn.Return<WebhookOutcome> {
    if (tries >= maxTries) return { status: "failed", failure }
    const pause = Math.min(maxPause, retryMs * 3 ** (tries - 1))
    return { status: "sending", failure, inMs: Math.round(pause * (0.8 + 0.4 * (yield* Random.next))) }
  })

  const send = Effect.fnUntraced(function*({ job, tries, url }: DueWebhook): Effect.fn.Return<WebhookOutcome> {
    const secrets = secretsOf(tenants, job.tenant)
    if (secrets.length === 0) return { status: "failed", failure: "the tenant has no secret any more" }
    const { id, status } = job
    const body = JSON.stringify({
      type: `job.${status}`,
      timestamp: isoOf(job.finishedAt ?? job.createdAt),
      data: encode(shown(job))
    })
    const timestamp = String(Math.floor((yield* Clock.currentTimeMillis) / 1_000))
    const signature = signatureOf(`${messageId(id)}.${timestamp}.${body}`)
    const answer = yield* Effect.result(Effect.scoped(Effect.map(
      out.request({
        url,
        method: "POST",
        headers: {
          "content-type": "application/json",
          "user-agent": "llm-gateway",
          "webhook-id": messageId(id),
          "webhook-timestamp": timestamp,
          "webhook-signature": secrets.map(signature).join(" ")
        },
        body,
        maxBytes: Math.min(maxAnswer, out.maxBytes),
        timeoutMs: patience,
        maxRedirects: 0
      }),
      (answer) => answer.status
    )))
    if (answer._tag === "Failure") {
      const { message } = answer.failure
      return isHopeless(answer.failure) ? { status: "failed", failure: message } : yield* again(tries, message)
    }
    const code = answer.success
    if (code >= 200 && code < 300) return { status: "delivered" }
    const failure = `it answered with status ${code}`
    // 410: whoever is there wants no more of them.
    return code === 410 ? { status: "failed", failure } : yield* again(tries, failure)
  })

  const call = Effect.fnUntraced(function*(due: DueWebhook) {
    const outcome = yield* send(due)
    yield* store.webhookCalled(due.job.id, due.attempt, outcome)
    if (outcome.status === "failed") {
      yield* log.warning("a job's webhook could not be called, and is given up", {
        job: due.job.id,
        reason: outcome.failure
      })
    }
  })

  let running = 0
  const takeMore = Effect.gen(function*() {
    const free = concurrency - running
    if (free <= 0) return
    const due = yield* store.takeWebhooks(free, claim)
    for (const webhook of due) {
      running++
      yield* FiberSet.run(
        calls,
        Effect.ensuring(
          Effect.ignore(call(webhook)),
          Effect.sync(() => {
            running--
            Queue.offerUnsafe(wake, undefined)
          })
        )
      )
    }
  })

  const watching = Effect.gen(function*() {
    const changes = yield* store.changes
    while (true) {
      const { status } = yield* PubSub.take(changes)
      if (status === undefined || isFinal(status)) Queue.offerUnsafe(wake, undefined)
    }
  })

  if (concurrency === 0) return
  yield* Effect.forkScoped(Effect.scoped(watching))
  yield* Effect.forkScoped(
    Effect.forever(Effect.andThen(Effect.ignore(takeMore), Effect.timeoutOption(Queue.take(wake), pollMs)))
  )
})
