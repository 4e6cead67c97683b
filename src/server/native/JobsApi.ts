/** The native API's jobs: made by `POST /jobs` or by `async: true` in an operation's own request, looked at, waited for, cancelled. */
import { Effect, Result, Schema, Stream } from "effect"
import { type HttpServerRequest, HttpServerResponse } from "effect/http"
import { jobs } from "../../gateway/Jobs.ts"
import { CurrentCaller } from "../../sdk/Caller.ts"
import { fail, type GatewayError, invalid, type ValidationError } from "../../sdk/GatewayError.ts"
import { validationError } from "../../sdk/Issues.ts"
import { Job, JobList, JobOperation, type JobQuestion, JobStatus, maxJobWait, NewJob } from "../../sdk/Job.ts"
import { type Door, json, readJson, visit } from "../Door.ts"
import { problemOf } from "./Problem.ts"

const decodeNew = Schema.decodeUnknownResult(NewJob, { errors: "all", onExcessProperty: "error" })
const encodeJob = Schema.encodeSync(Job)
const encodeList = Schema.encodeSync(JobList)
const isStatus = Schema.is(JobStatus)
const isOperation = Schema.is(JobOperation)

/** Silence before a comment is sent. */
const keepAliveInterval = "15 seconds"

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const accepted = (job: Job, requestId: string) =>
  HttpServerResponse.text(JSON.stringify(encodeJob(job)), {
    status: 202,
    contentType: "application/json",
    headers: { "x-request-id": requestId }
  })

const create = Effect.fnUntraced(
  function*(request: HttpServerRequest.HttpServerRequest, requestId: string, job: NewJob) {
    const key = request.headers["idempotency-key"]
    const made = yield* (yield* jobs).create(job, key === undefined ? {} : { idempotencyKey: key })
    return accepted(made, requestId)
  }
)

/** A request's body without its `async`, where it asks for a job; `undefined` where it wants its answer now. */
export const askedAsync = (body: unknown): Readonly<Record<string, unknown>> | undefined => {
  if (!isObject(body) || body["async"] !== true) return undefined
  const { async: _, ...request } = body
  return request
}

const newJob = (body: unknown): Effect.Effect<NewJob, GatewayError> =>
  Effect.fromResult(Result.mapError(decodeNew(body), (error) => fail(validationError(error))))

/** Makes a job of an operation's own request, beside which a `webhook` may stand. */
export const createFor = (
  operation: JobOperation,
  { webhook, ...body }: Readonly<Record<string, unknown>>,
  request: HttpServerRequest.HttpServerRequest,
  requestId: string
) =>
  Effect.flatMap(
    newJob({ operation, request: body, ...(webhook === undefined ? {} : { webhook }) }),
    (job) => create(request, requestId, job)
  )

/** `/llm-gateway/v1/jobs/ID` */
const idIn = (url: string): string => /\/jobs\/([^/?#]+)/.exec(url)?.[1] ?? ""

const queryOf = (url: string): URLSearchParams => new URLSearchParams(url.split("?", 2)[1] ?? "")

const waitOf = (query: URLSearchParams): Result.Result<number, ValidationError> => {
  const asked = query.get("wait")
  if (asked === null) return Result.succeed(0)
  const [, figure, unit] = /^(\d{1,6}(?:\.\d{1,3})?)(ms|s)?$/.exec(asked) ?? []
  return figure === undefined
    ? Result.fail(invalid("wait", "expected a duration such as 30s or 1500ms"))
    : Result.succeed(Math.min(maxJobWait, Number(figure) * (unit === "s" ? 1000 : 1)))
}

const known = ["status", "operation", "after", "limit"]

const questionOf = (query: URLSearchParams): Result.Result<JobQuestion, ValidationError> => {
  const unknown = Array.from(query.keys()).find((name) => !known.includes(name))
  if (unknown !== undefined) return Result.fail(invalid(unknown.slice(0, 100), `expected one of ${known.join(", ")}`))
  const status = query.get("status")
  if (status !== null && !isStatus(status)) {
    return Result.fail(invalid("status", `expected one of ${JobStatus.literals.join(", ")}`))
  }
  const operation = query.get("operation")
  if (operation !== null && !isOperation(operation)) {
    return Result.fail(invalid("operation", `expected one of ${JobOperation.literals.join(", ")}`))
  }
  const after = query.get("after")
  const limit = query.get("limit")
  if (limit !== null && !/^(?:[1-9]\d{0,2}|1000)$/.test(limit)) {
    return Result.fail(invalid("limit", "expected a whole number from 1 to 1000"))
  }
  return Result.succeed({
    ...(status === null ? {} : { status }),
    ...(operation === null ? {} : { operation }),
    ...(after === null ? {} : { after }),
    ...(limit === null ? {} : { limit: Number(limit) })
  })
}

const keepAlive = Stream.map(Stream.tick(keepAliveInterval), () => ": keep-alive\n\n")

const statusEvents = (changes: Stream.Stream<Job, GatewayError>, requestId: string) =>
  changes.pipe(
    Stream.map((job) => `event: ${job.status}\ndata: ${JSON.stringify(encodeJob(job))}\n\n`),
    Stream.catch((error) => Stream.make(`event: error\ndata: ${JSON.stringify(problemOf(error, requestId))}\n\n`)),
    Stream.merge(keepAlive, { haltStrategy: "left" }),
    Stream.encodeText
  )

/** The handlers of jobs. */
export const make = (door: Door, maxBodyBytes: number) => ({
  create: visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const body = yield* readJson(request, maxBodyBytes)
      return yield* create(request, requestId, yield* newJob(body))
    })
  ),

  list: visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const question = yield* Effect.fromResult(Result.mapError(questionOf(queryOf(request.url)), fail))
      const page = yield* (yield* jobs).list(question)
      return json(encodeList(page), { "x-request-id": requestId })
    })
  ),

  get: visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const id = idIn(request.url)
      const headers = { "x-request-id": requestId, "cache-control": "no-store" }
      const { changes, get, wait } = yield* jobs
      if (request.headers["accept"]?.includes("text/event-stream") === true) {
        // What is not there is an ordinary error, and not one in a stream.
        yield* get(id)
        const caller = yield* CurrentCaller
        const events = statusEvents(Stream.provideService(changes(id), CurrentCaller, caller), requestId)
        return HttpServerResponse.stream(events, {
          contentType: "text/event-stream",
          headers: { ...headers, "x-accel-buffering": "no" }
        })
      }
      const ms = yield* Effect.fromResult(Result.mapError(waitOf(queryOf(request.url)), fail))
      return json(encodeJob(yield* ms > 0 ? wait(id, ms) : get(id)), headers)
    })
  ),

  cancel: visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const job = yield* (yield* jobs).cancel(idIn(request.url))
      return json(encodeJob(job), { "x-request-id": requestId })
    })
  ),

  redeliver: visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      return accepted(yield* (yield* jobs).redeliver(idIn(request.url)), requestId)
    })
  )
})
