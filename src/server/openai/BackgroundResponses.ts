/**
 * Responses that run in the background (https://platform.openai.com/docs/guides/background): jobs of the gateway, seen as
 * responses. What a job keeps is its answer, so such a response does not repeat the request's settings.
 */
import { Effect, Schema } from "effect"
import { type HttpServerRequest, HttpServerResponse } from "effect/http"
import { Jobs } from "../../gateway/Jobs.ts"
import { ChatAnswer, ChatRequest } from "../../sdk/Chat.ts"
import { fail, type GatewayError, invalid, NotFound } from "../../sdk/GatewayError.ts"
import type { Job } from "../../sdk/Job.ts"
import type { Json } from "../../wire/Codec.ts"
import { isJson } from "../../wire/Json.ts"
import { openAiResponses } from "../../wire/openai/responses/OpenAiResponses.ts"
import { inProgress, settingsOf } from "../../wire/openai/responses/ResponsesResponse.ts"

const jobs: Effect.Effect<Jobs["Service"], GatewayError> = Effect.flatMap(
  Effect.serviceOption(Jobs),
  Effect.fromOption(() => fail(invalid("background", "this gateway runs no jobs; leave it out, and stream instead")))
)

/** A request's body as it is asked now, where it is to run in the background; `undefined` where it is not. */
export const askedInBackground = (body: unknown): Json | undefined => {
  if (!isJson(body) || body["background"] !== true) return undefined
  // OpenAI wants `store` with it, since it could not be asked for otherwise; here the job keeps the answer.
  const { background: _, store: __, ...asked } = body
  return asked
}

const encodeChat = Schema.encodeSync(ChatRequest)
const decodeAnswer = Schema.decodeUnknownEffect(ChatAnswer)

const responseIdOf = (jobId: string): string => jobId.replace(/^job_/, "resp_")
const jobIdOf = (responseId: string): string => responseId.replace(/^resp_/, "job_")

const secondsOf = (moment: string | undefined): number | null =>
  moment === undefined ? null : Math.floor(Date.parse(moment) / 1000)

const statuses = { pending: "queued", running: "in_progress", failed: "failed", cancelled: "cancelled" } as const

/** A job as a response. Its result was written by this gateway, so what cannot be read is a defect. */
const responseOf = Effect.fnUntraced(function*(job: Job): Effect.fn.Return<Json> {
  const request: ChatRequest = { model: job.model, messages: [{ role: "user", content: [] }] }
  const created = secondsOf(job.createdAt) ?? 0
  const head = { id: responseIdOf(job.id), background: true, created_at: created }
  if (job.status === "completed") {
    const { toolCalls: _, ...answer } = yield* Effect.orDie(decodeAnswer(job.result))
    return { ...openAiResponses.encodeResponse(answer, request), ...head, completed_at: secondsOf(job.finishedAt) }
  }
  return {
    ...inProgress({ base: "", model: job.model, created, output: [] }, settingsOf(request)),
    ...head,
    status: statuses[job.status],
    error: job.error === undefined ? null : { code: job.error.code, message: job.error.message }
  }
})

/** Makes the job of a request that was decoded. */
export const create = Effect.fnUntraced(
  function*(request: HttpServerRequest.HttpServerRequest, requestId: string, chat: ChatRequest) {
    if (chat.stream === true) {
      return yield* fail(invalid("stream", "a response in the background is fetched as a whole; leave stream out"))
    }
    const key = request.headers["idempotency-key"]
    const job = yield* (yield* jobs).create(
      { operation: "chat", request: { ...encodeChat(chat) } },
      key === undefined ? {} : { idempotencyKey: key }
    )
    return HttpServerResponse.text(JSON.stringify(yield* responseOf(job)), {
      contentType: "application/json",
      headers: { "x-request-id": requestId }
    })
  }
)

const notKept = (id: string): GatewayError =>
  fail(
    new NotFound({
      message:
        `there is no response "${
          id.slice(0, 100)
        }": the gateway keeps no responses but those that ran in the background, ` +
        "each for its tenant and until it expires; the answer to any other request was all of it"
    })
  )

/** The id in `/v1/responses/ID` and what is below it. */
const idIn = (url: string): string => /\/responses\/([^/?#]+)/.exec(url)?.[1] ?? ""

const found = (id: string, self: Effect.Effect<Job, GatewayError>): Effect.Effect<Job, GatewayError> =>
  self.pipe(
    Effect.mapError((error) => error.code === "job_not_found" ? notKept(id) : error),
    Effect.filterOrFail((job) => job.operation === "chat", () => notKept(id))
  )

const isJobs = /^resp_[0-9a-f]{32}$/

const withJobs = Effect.fnUntraced(function*(
  url: string,
  use: (jobs: Jobs["Service"], id: string) => Effect.Effect<Job, GatewayError>
): Effect.fn.Return<Json, GatewayError> {
  const id = idIn(url)
  if (!isJobs.test(id)) return yield* notKept(id)
  return yield* responseOf(yield* found(id, use(yield* jobs, jobIdOf(id))))
})

/** The response at an address. Fails with `not_found` where no job of the tenant's is behind it. */
export const get = (url: string): Effect.Effect<Json, GatewayError> => {
  const query = new URLSearchParams(url.split("?", 2)[1] ?? "")
  return query.get("stream") === "true"
    ? Effect.fail(
      fail(invalid("stream", "a response in the background is fetched as a whole; ask again until it has ended"))
    )
    : withJobs(url, (service, id) => service.get(id))
}

/** Cancels the response at an address, wherever it runs; one that has ended stays as it is. */
export const cancel = (url: string): Effect.Effect<Json, GatewayError> =>
  withJobs(url, (service, id) =>
    // Cancelling asks first whether there is one: another kind of job is none of this API's.
    Effect.andThen(found(id, service.get(id)), service.cancel(id)))
