/**
 * Videos in OpenAI's form (https://platform.openai.com/docs/api-reference/videos): jobs of the gateway, seen as videos, and their
 * content out of the file storage, whole or in ranges. A video that was deleted is not there any more, whatever became of its
 * job; the job itself is kept for as long as every other one.
 */
import { Effect, Layer, Option, Result, Schema } from "effect"
import { HttpRouter, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { jobs } from "../../gateway/Jobs.ts"
import { CurrentCaller } from "../../sdk/Caller.ts"
import { type ByteRange, fileStorage } from "../../sdk/FileStorage.ts"
import { fail, type GatewayError, invalid, NotFound, ValidationError } from "../../sdk/GatewayError.ts"
import type { Job } from "../../sdk/Job.ts"
import { VideoResponse, VideoVariant } from "../../sdk/Video.ts"
import type { Json } from "../../wire/Codec.ts"
import { isJson } from "../../wire/Json.ts"
import { type Door, json, readJson, type RouteOptions, type ServedPaths, visit } from "../Door.ts"
import { readBody } from "../RequestBody.ts"

const videoIdOf = (jobId: string): string => jobId.replace(/^job_/, "video_")
const idPattern = /^video_[0-9a-f]{32}$/

/** The id in `/v1/videos/ID` and what is below it. */
const idIn = (url: string): string => /\/videos\/([^/?#]+)/.exec(url)?.[1] ?? ""

const queryOf = (url: string): URLSearchParams => new URLSearchParams(url.split("?", 2)[1] ?? "")

const noVideo = (id: string): GatewayError => fail(new NotFound({ message: `there is no video "${id.slice(0, 100)}"` }))

const decodeResult = Schema.decodeUnknownOption(VideoResponse)
const isVariant = Schema.is(VideoVariant)

/** What became of a job that has completed. */
const madeOf = ({ result }: Job): VideoResponse | undefined => Option.getOrUndefined(decodeResult(result))

// ---------------------------------------------------------------------------------------------------------------------
// Videos
// ---------------------------------------------------------------------------------------------------------------------

const secondsOf = (moment: string | undefined): number | null =>
  moment === undefined ? null : Math.floor(Date.parse(moment) / 1000)

const statuses = { pending: "queued", running: "in_progress", completed: "completed", failed: "failed" } as const

/** What a request says of a video, which a job keeps no longer than it runs. */
interface Said {
  readonly prompt?: string
  readonly seconds?: number
  readonly size?: string
}

const videoOf = (job: Job, said: Said = {}): Json => {
  const made = madeOf(job)
  const seconds = made?.seconds ?? said.seconds
  return {
    id: videoIdOf(job.id),
    object: "video",
    model: made?.modelUsed ?? job.model,
    status: job.status === "cancelled" ? "failed" : statuses[job.status],
    progress: job.status === "completed" ? 100 : 0,
    created_at: secondsOf(job.createdAt),
    completed_at: job.status === "completed" ? secondsOf(job.finishedAt) : null,
    expires_at: job.status === "completed" ? secondsOf(job.expiresAt) : null,
    error: job.error === undefined ? null : { code: job.error.code, message: job.error.message },
    prompt: said.prompt ?? null,
    remixed_from_video_id: null,
    seconds: seconds === undefined ? null : String(seconds),
    size: made?.size ?? said.size ?? null
  }
}

/** Whether a video was deleted: its job was cancelled, or its file is gone. */
const isDeleted = Effect.fnUntraced(function*(job: Job): Effect.fn.Return<boolean, GatewayError> {
  if (job.status === "cancelled") return true
  const fileId = madeOf(job)?.files[0]?.fileId
  if (fileId === undefined) return false
  const { tenant } = yield* CurrentCaller
  const head = yield* Effect.result((yield* fileStorage).head(tenant, fileId))
  if (Result.isSuccess(head)) return false
  return head.failure.code === "file_not_found" ? true : yield* head.failure
})

/** The job of a video at an address. */
const jobAt = Effect.fnUntraced(function*(url: string): Effect.fn.Return<Job, GatewayError> {
  const id = idIn(url)
  if (!idPattern.test(id)) return yield* noVideo(id)
  const job = yield* Effect.mapError(
    (yield* jobs).get(id.replace(/^video_/, "job_")),
    (error) => error.code === "job_not_found" ? noVideo(id) : error
  )
  return job.operation !== "video" || (yield* isDeleted(job)) ? yield* noVideo(id) : job
})

// ---------------------------------------------------------------------------------------------------------------------
// Making one
// ---------------------------------------------------------------------------------------------------------------------

const unreadableForm = fail(new ValidationError({ message: "the form could not be read" }))

/** The fields of a form; OpenAI's SDKs send one. It is held: what it may hold is short. */
const readForm = Effect.fnUntraced(function*(
  request: HttpServerRequest.HttpServerRequest,
  contentType: string,
  maxBytes: number
): Effect.fn.Return<Json, GatewayError> {
  const bytes = yield* readBody(request, maxBytes)
  const form = yield* Effect.tryPromise({
    try: () => new Response(new Uint8Array(bytes), { headers: { "content-type": contentType } }).formData(),
    catch: () => unreadableForm
  })
  const fields: Record<string, unknown> = Object.create(null)
  for (const [name, value] of form) {
    if (typeof value !== "string") {
      return yield* fail(
        invalid(name.slice(0, 100), "the gateway takes no files for videos yet; describe it in the prompt")
      )
    }
    fields[name] = value
  }
  return fields
})

const known = new Set(["model", "prompt", "seconds", "size", "user"])

/** What stands in the body, in the native spelling; the native schema judges the values. */
const asked = (body: unknown): Result.Result<Readonly<Record<string, unknown>>, ValidationError> => {
  if (!isJson(body)) return Result.fail(new ValidationError({ message: "the body must be a JSON object or a form" }))
  const { model = "sora-2", seconds, ...rest } = body
  const isNumber = typeof seconds === "number" || (typeof seconds === "string" && /^\d{1,4}$/.test(seconds))
  if (seconds !== undefined && !isNumber) {
    return Result.fail(invalid("seconds", "expected a whole number of seconds"))
  }
  const others = Object.entries(rest).filter(([name]) => !known.has(name))
  const stands = Object.entries(rest).filter(([name]) => known.has(name))
  return Result.succeed({
    model,
    ...(seconds === undefined ? {} : { seconds: Number(seconds) }),
    ...Object.fromEntries(stands),
    ...(others.length === 0 ? {} : { extensions: { openai: Object.fromEntries(others) } })
  })
}

const saidOf = ({ prompt, seconds, size }: Readonly<Record<string, unknown>>): Said => ({
  ...(typeof prompt === "string" ? { prompt } : {}),
  ...(typeof seconds === "number" ? { seconds } : {}),
  ...(typeof size === "string" ? { size } : {})
})

const create = (door: Door, { maxBodyBytes }: RouteOptions) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const contentType = request.headers["content-type"] ?? ""
      const body = contentType.startsWith("multipart/form-data")
        ? yield* readForm(request, contentType, maxBodyBytes)
        : yield* readJson(request, maxBodyBytes)
      const video = yield* Effect.fromResult(Result.mapError(asked(body), fail))
      const key = request.headers["idempotency-key"]
      const job = yield* (yield* jobs).create(
        { operation: "video", request: video },
        key === undefined ? {} : { idempotencyKey: key }
      )
      return json(videoOf(job, saidOf(video)), { "x-request-id": requestId })
    })
  )

// ---------------------------------------------------------------------------------------------------------------------
// Looking after them
// ---------------------------------------------------------------------------------------------------------------------

const told = { "cache-control": "no-store" }

const get = (door: Door) =>
  visit(
    door,
    ({ request, requestId }) =>
      Effect.map(jobAt(request.url), (job) => json(videoOf(job), { ...told, "x-request-id": requestId }))
  )

const list = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const query = queryOf(request.url)
      const limit = query.get("limit") ?? "20"
      if (!/^(?:[1-9]\d?|100)$/.test(limit)) {
        return yield* fail(invalid("limit", "expected a whole number from 1 to 100"))
      }
      if (query.get("order") === "asc") return yield* fail(invalid("order", "the newest come first; leave order out"))
      const after = query.get("after")
      const service = yield* jobs
      const page = yield* service.list({
        operation: "video",
        limit: Number(limit),
        ...(after === null ? {} : { after: after.replace(/^video_/, "job_") })
      })
      // Pages of the list have no results, which tell how long a video is and where.
      const whole = yield* Effect.forEach(page.jobs, ({ id }) => Effect.option(service.get(id)), { concurrency: 8 })
      const seen = yield* Effect.filter(
        whole.flatMap(Option.toArray),
        (job) => Effect.map(isDeleted(job), (gone) => !gone),
        { concurrency: 8 }
      )
      const data = seen.map((job) => videoOf(job))
      return json({
        object: "list",
        data,
        first_id: data[0]?.["id"] ?? null,
        last_id: page.next === undefined ? data.at(-1)?.["id"] ?? null : videoIdOf(page.next),
        has_more: page.next !== undefined
      }, { ...told, "x-request-id": requestId })
    })
  )

const remove = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const found = yield* jobAt(request.url)
      // One that is being made is cancelled at its provider.
      const job = yield* (yield* jobs).cancel(found.id)
      const { tenant } = yield* CurrentCaller
      const files = madeOf(job)?.files ?? []
      if (files.length > 0) {
        const storage = yield* fileStorage
        yield* Effect.forEach(files, ({ fileId }) => storage.delete(tenant, fileId), { discard: true })
      }
      return json({ id: videoIdOf(job.id), object: "video.deleted", deleted: true }, { "x-request-id": requestId })
    })
  )

// ---------------------------------------------------------------------------------------------------------------------
// Content
// ---------------------------------------------------------------------------------------------------------------------

/** The one range that a header asks for (RFC 9110 section 14); undefined for all of it, also where the header says nothing that is known. */
const rangeOf = (header: string | undefined, bytes: number): ByteRange | undefined | "unsatisfiable" => {
  const [, first = "", last = ""] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? "") ?? []
  if (first === "" && last === "") return undefined
  if (first === "") {
    const length = Number(last)
    return length === 0 ? "unsatisfiable" : { start: Math.max(0, bytes - length), end: bytes - 1 }
  }
  const start = Number(first)
  const end = last === "" ? bytes - 1 : Math.min(Number(last), bytes - 1)
  if (start >= bytes) return "unsatisfiable"
  return end < start ? undefined : { start, end }
}

const content = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const variant = queryOf(request.url).get("variant") ?? "video"
      if (!isVariant(variant)) {
        return yield* fail(invalid("variant", `expected one of ${VideoVariant.literals.join(", ")}`))
      }
      const job = yield* jobAt(request.url)
      if (job.status !== "completed") return yield* fail(invalid("id", "the video is not finished; ask again later"))
      const file = madeOf(job)?.files.find((file) => file.variant === variant)
      if (file === undefined) return yield* fail(new NotFound({ message: `there is no ${variant} of this video` }))
      const { tenant } = yield* CurrentCaller
      const range = rangeOf(request.headers["range"], file.bytes)
      const headers = { ...told, "x-request-id": requestId, "accept-ranges": "bytes" }
      if (range === "unsatisfiable") {
        return HttpServerResponse.empty({
          status: 416,
          headers: { ...headers, "content-range": `bytes */${file.bytes}` }
        })
      }
      const opened = yield* (yield* fileStorage).get(tenant, file.fileId, range)
      return HttpServerResponse.stream(opened.content, {
        status: range === undefined ? 200 : 206,
        contentType: opened.info.contentType,
        contentLength: range === undefined ? file.bytes : range.end - range.start + 1,
        headers: range === undefined
          ? headers
          : { ...headers, "content-range": `bytes ${range.start}-${range.end}/${file.bytes}` }
      })
    })
  )

/** The paths of videos, and the methods that each one takes. */
export const served: ServedPaths = {
  "/v1/videos": "GET, HEAD, POST",
  "/v1/videos/:id": "DELETE, GET, HEAD",
  "/v1/videos/:id/content": "GET, HEAD"
}

/** Mounts them on the router. What their paths do not take is answered by the OpenAI dialect, which has all of `/v1`. */
export const layer = (door: Door, options: RouteOptions) =>
  Layer.mergeAll(
    HttpRouter.add("POST", "/v1/videos", create(door, options)),
    HttpRouter.add("GET", "/v1/videos", list(door)),
    HttpRouter.add("GET", "/v1/videos/:id", get(door)),
    HttpRouter.add("DELETE", "/v1/videos/:id", remove(door)),
    HttpRouter.add("GET", "/v1/videos/:id/content", content(door))
  )
