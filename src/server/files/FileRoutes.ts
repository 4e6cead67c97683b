/** Files over HTTP: the native API's, with contents at their addresses, and OpenAI's (https://platform.openai.com/docs/api-reference/files). */
import { Effect, Layer, Result } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { CurrentCaller } from "../../sdk/Caller.ts"
import { type FileInfo, type FileQuery, filesPath, fileStorage, fileUrl, signedUrl } from "../../sdk/FileStorage.ts"
import { fail, type GatewayError, invalid, type ValidationError } from "../../sdk/GatewayError.ts"
import { type Door, json, readJson, type ServedPaths, visit } from "../Door.ts"
import { download } from "./FileDownload.ts"
import { purposePattern, upload } from "./FileUpload.ts"

type Json = Readonly<Record<string, unknown>>

const iso = (unixMs: number): string => new Date(unixMs).toISOString()
const seconds = (unixMs: number): number => Math.floor(unixMs / 1000)

/** The native form. */
const native = (file: FileInfo): Json => ({
  id: file.id,
  url: fileUrl(file.id),
  filename: file.filename,
  purpose: file.purpose,
  content_type: file.contentType,
  bytes: file.bytes,
  sha256: file.sha256,
  created_at: iso(file.createdAt),
  ...(file.expiresAt === undefined ? {} : { expires_at: iso(file.expiresAt) })
})

/** OpenAI's. */
const openAi = (file: FileInfo): Json => ({
  id: file.id,
  object: "file",
  bytes: file.bytes,
  created_at: seconds(file.createdAt),
  ...(file.expiresAt === undefined ? {} : { expires_at: seconds(file.expiresAt) }),
  filename: file.filename,
  purpose: file.purpose,
  status: "processed"
})

const queryOf = (url: string): URLSearchParams => new URLSearchParams(url.split("?", 2)[1] ?? "")

/** The id in `…/files/ID` and what is below it. */
const idIn = (url: string): string => /\/files\/([^/?#]+)/.exec(url)?.[1] ?? ""

const known = ["purpose", "after", "limit", "order"]
const longestPage = 1_000

const questionIn = (url: string, tenant: string): Result.Result<FileQuery, ValidationError> => {
  const query = queryOf(url)
  const unknown = Array.from(query.keys()).find((name) => !known.includes(name))
  if (unknown !== undefined) return Result.fail(invalid(unknown.slice(0, 100), `expected one of ${known.join(", ")}`))
  const order = query.get("order")
  if (order !== null && order !== "asc" && order !== "desc") return Result.fail(invalid("order", "must be asc or desc"))
  const limit = query.get("limit")
  if (limit !== null && !/^(?:[1-9]\d{0,2}|1000)$/.test(limit)) {
    return Result.fail(invalid("limit", `expected a whole number from 1 to ${longestPage}`))
  }
  const purpose = query.get("purpose")
  // No file is for what is no word, and PostgreSQL takes no NUL in a text.
  if (purpose !== null && !purposePattern.test(purpose)) {
    return Result.fail(invalid("purpose", "expected a word such as user_data, vision or batch"))
  }
  const after = query.get("after")
  return Result.succeed({
    tenant,
    limit: Math.min(longestPage, Number(limit ?? 100)),
    ...(purpose === null ? {} : { purpose }),
    ...(after === null ? {} : { after }),
    ...(order === null ? {} : { order })
  })
}

const pageOf = Effect.fnUntraced(function*(url: string) {
  const { tenant } = yield* CurrentCaller
  const storage = yield* fileStorage
  return yield* storage.list(yield* Effect.fromResult(Result.mapError(questionIn(url, tenant), fail)))
})

const headed = Effect.fnUntraced(function*(url: string) {
  const { tenant } = yield* CurrentCaller
  const storage = yield* fileStorage
  return { storage, file: yield* storage.head(tenant, idIn(url)) }
})

const answered = (body: unknown, requestId: string, status = 200): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.setStatus(json(body, { "x-request-id": requestId, "cache-control": "no-store" }), status)

const content = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const { file, storage } = yield* headed(request.url)
      return yield* download(storage, file, request, requestId)
    })
  )

const removed = (door: Door, form: (id: string) => Json) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const { file, storage } = yield* headed(request.url)
      yield* storage.delete(file.tenant, file.id)
      return answered(form(file.id), requestId)
    })
  )

// ---------------------------------------------------------------------------------------------------------------------
// Native
// ---------------------------------------------------------------------------------------------------------------------

/** Whoever has a signed address may read the file, whoever that is. */
const signedContent = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const storage = yield* fileStorage
      const id = idIn(request.url)
      const file = yield* storage.verify(id, queryOf(request.url).get("token") ?? "")
      return yield* download(storage, file, request, requestId)
    }),
    () => Effect.succeed({ tenant: "", tags: [] })
  )

const shortestSignature = 1
const longestSignature = 7 * 86_400

const lifetimeIn = (body: unknown): Result.Result<number, GatewayError> => {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    return Result.fail(fail(invalid("", "expected an object")))
  }
  // A misspelt field would otherwise make an address that lasts longer than was meant.
  const unknown = Object.keys(body).find((name) => name !== "expires_in")
  if (unknown !== undefined) return Result.fail(fail(invalid(unknown.slice(0, 100), "expected expires_in")))
  const given = "expires_in" in body ? body.expires_in : 3_600
  return typeof given === "number" && Number.isInteger(given) && given >= shortestSignature && given <= longestSignature
    ? Result.succeed(given * 1000)
    : Result.fail(
      fail(invalid("expires_in", `expected whole seconds from ${shortestSignature} to ${longestSignature}`))
    )
}

const sign = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      // A body of no told length comes in chunks.
      const hasBody = Number(request.headers["content-length"] ?? 0) > 0 ||
        request.headers["transfer-encoding"] !== undefined
      const body = hasBody ? yield* readJson(request, 1_024) : {}
      const lifetime = yield* Effect.fromResult(lifetimeIn(body))
      const { file, storage } = yield* headed(request.url)
      const { expiresAt, token } = yield* storage.sign(file.tenant, file.id, lifetime)
      return answered({ url: signedUrl(file.id, token), expires_at: iso(expiresAt) }, requestId)
    })
  )

/** The native API's paths. */
export const nativePaths: ServedPaths = {
  [filesPath]: "GET, HEAD, POST",
  [`${filesPath}/:id`]: "GET, HEAD, DELETE",
  [`${filesPath}/:id/sign`]: "POST"
}

/** Mounts them. */
export const nativeLayer = (door: Door) => {
  const [signed, own] = [signedContent(door), content(door)]
  const found = Effect.flatMap(
    HttpServerRequest.HttpServerRequest,
    (request) => queryOf(request.url).has("token") ? signed : own
  )
  return Layer.mergeAll(
    HttpRouter.add(
      "POST",
      filesPath,
      visit(
        door,
        ({ request, requestId }) => Effect.map(upload(request), (file) => answered(native(file), requestId, 201))
      )
    ),
    HttpRouter.add(
      "GET",
      filesPath,
      visit(door, ({ request, requestId }) =>
        Effect.map(pageOf(request.url), ({ files, hasMore }) => {
          const last = files.at(-1)
          return answered({
            files: files.map(native),
            ...(hasMore && last !== undefined ? { next: last.id } : {})
          }, requestId)
        }))
    ),
    HttpRouter.add("GET", `${filesPath}/:id`, found),
    HttpRouter.add("DELETE", `${filesPath}/:id`, removed(door, (id) => ({ id, deleted: true }))),
    HttpRouter.add("POST", `${filesPath}/:id/sign`, sign(door))
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// OpenAI's
// ---------------------------------------------------------------------------------------------------------------------

/** The OpenAI dialect's paths. */
export const openAiPaths: ServedPaths = {
  "/v1/files": "GET, HEAD, POST",
  "/v1/files/:id": "GET, HEAD, DELETE",
  "/v1/files/:id/content": "GET, HEAD"
}

/** Mounts them. */
export const openAiLayer = (door: Door) =>
  Layer.mergeAll(
    HttpRouter.add(
      "POST",
      "/v1/files",
      visit(door, ({ request, requestId }) => Effect.map(upload(request), (file) => answered(openAi(file), requestId)))
    ),
    HttpRouter.add(
      "GET",
      "/v1/files",
      visit(door, ({ request, requestId }) =>
        Effect.map(pageOf(request.url), ({ files, hasMore }) =>
          answered({
            object: "list",
            data: files.map(openAi),
            first_id: files[0]?.id ?? null,
            last_id: files.at(-1)?.id ?? null,
            has_more: hasMore
          }, requestId)))
    ),
    HttpRouter.add(
      "GET",
      "/v1/files/:id",
      visit(door, ({ request, requestId }) =>
        Effect.map(headed(request.url), ({ file }) => answered(openAi(file), requestId)))
    ),
    HttpRouter.add("GET", "/v1/files/:id/content", content(door)),
    HttpRouter.add("DELETE", "/v1/files/:id", removed(door, (id) => ({ id, object: "file", deleted: true })))
  )
