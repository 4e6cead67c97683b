/**
 * Gives a file's content out: whole, one range of it (RFC 9110 section 14), or that it is still what the caller has. What a
 * browser might run comes as an attachment, sandboxed, and never as another type than its content shows.
 */
import { Effect } from "effect"
import { type HttpServerRequest, HttpServerResponse } from "effect/http"
import type { ByteRange, FileInfo, FileStorage } from "../../sdk/FileStorage.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"

/** The range that a header asks for; `undefined` for all of it, which several ranges and what is none come to. */
const rangeIn = (header: string | undefined, bytes: number): ByteRange | "unsatisfiable" | undefined => {
  const [, first = "", last = ""] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? "") ?? []
  if (first === "" && last === "") return undefined
  if (first === "") {
    const length = Math.min(Number(last), bytes)
    return length === 0 ? "unsatisfiable" : { start: bytes - length, end: bytes - 1 }
  }
  const start = Number(first)
  const end = last === "" ? bytes - 1 : Math.min(Number(last), bytes - 1)
  if (last !== "" && Number(last) < start) return undefined
  return start >= bytes ? "unsatisfiable" : { start, end }
}

const shownInPlace = /^(?:image\/(?:png|jpeg|gif|webp|avif|bmp)|audio\/[\w.+-]+|video\/[\w.+-]+|text\/plain)$/

/** RFC 6266, with the name in UTF-8 (RFC 8187) beside one that every client reads. */
const dispositionOf = ({ contentType, filename }: FileInfo): string => {
  const plain = filename.replaceAll(/[^\x20-\x7e]|["\\%]/g, "_")
  const whole = encodeURIComponent(filename).replaceAll(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`
  )
  return `${shownInPlace.test(contentType) ? "inline" : "attachment"}; filename="${plain}"; filename*=UTF-8''${whole}`
}

const textTypes = /^text\//

const headersOf = (file: FileInfo): Record<string, string> => ({
  "content-type": textTypes.test(file.contentType) ? `${file.contentType}; charset=utf-8` : file.contentType,
  "content-disposition": dispositionOf(file),
  "x-content-type-options": "nosniff",
  "content-security-policy": "default-src 'none'; sandbox",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "private, no-transform",
  "accept-ranges": "bytes",
  etag: `"${file.sha256}"`,
  "last-modified": new Date(file.createdAt).toUTCString()
})

const matches = (header: string | undefined, etag: string): boolean =>
  header !== undefined && header.split(",").some((one) => one.trim().replace(/^W\//, "") === etag || one.trim() === "*")

/** Answers a request for the content of a file that its caller may read. */
export const download = Effect.fnUntraced(function*(
  storage: FileStorage["Service"],
  file: FileInfo,
  { headers: asked, method }: HttpServerRequest.HttpServerRequest,
  requestId: string
): Effect.fn.Return<HttpServerResponse.HttpServerResponse, GatewayError> {
  const headers = { ...headersOf(file), "x-request-id": requestId }
  const etag = `"${file.sha256}"`
  if (matches(asked["if-none-match"], etag)) return HttpServerResponse.empty({ status: 304, headers })
  const conditional = asked["if-range"]
  const range = conditional === undefined || conditional === etag ? rangeIn(asked["range"], file.bytes) : undefined
  if (range === "unsatisfiable") {
    return HttpServerResponse.empty({ status: 416, headers: { ...headers, "content-range": `bytes */${file.bytes}` } })
  }
  const length = range === undefined ? file.bytes : range.end - range.start + 1
  const status = range === undefined ? 200 : 206
  const told: Record<string, string> = {
    ...headers,
    "content-length": String(length),
    ...(range === undefined ? {} : { "content-range": `bytes ${range.start}-${range.end}/${file.bytes}` })
  }
  if (method === "HEAD" || length === 0) return HttpServerResponse.empty({ status, headers: told })
  const { content } = yield* storage.get(file.tenant, file.id, range)
  return HttpServerResponse.stream(content, {
    status,
    headers: told,
    contentType: told["content-type"] ?? "application/octet-stream",
    contentLength: length
  })
})
