/**
 * Files that callers upload and that the gateway makes: images, speech, documents. Each belongs to a tenant, and to every
 * other one it is `file_not_found`. Contents go in and out as streams and are never held whole; what a file is comes from
 * its content, never from the word of who sends it.
 *
 * Other parts of the gateway take files by address (`fileIdOf`, `openFile`) and give them out by address (`fileUrl`, or
 * `signedUrl` for who has no key).
 *
 * Moments are Unix ms.
 */
import { Context, Effect, Option, type Stream } from "effect"
import { CurrentCaller } from "./Caller.ts"
import { fail, FileNotFound, type GatewayError, NotFound } from "./GatewayError.ts"

/** What is known of a file. */
export interface FileInfo {
  /** `file-…`; no other file has it, of whatever tenant, and later ones sort after earlier ones. */
  readonly id: string
  readonly tenant: string
  /** What it is for, in its maker's words: `user_data`, `vision`, `assistants`, `batch`, `output`, … */
  readonly purpose: string
  /** Without folders and control characters; made up from the content type where nobody gave one. */
  readonly filename: string
  /** What the content shows itself to be, such as `image/png`; `application/octet-stream` where it shows nothing. */
  readonly contentType: string
  readonly bytes: number
  /** Of the content, in hexadecimal. */
  readonly sha256: string
  readonly createdAt: number
  /** Absent for a file that stays until it is deleted. */
  readonly expiresAt?: number
}

/** A file to be kept. */
export interface NewFile {
  readonly tenant: string
  readonly purpose: string
  readonly filename?: string
  /** Read once. Its failure becomes that of `put`, and nothing is kept. */
  readonly content: Stream.Stream<Uint8Array, GatewayError>
  /** The largest content, bytes, where that is less than the storage's own `maxBytes`. */
  readonly maxBytes?: number
  /** How long it is kept, ms; default and longest: the storage's own. */
  readonly ttlMs?: number
  /**
   * What comes to be known only behind the content, such as later fields of a form; asked once the content has been read. Its
   * failure becomes that of `put`, and nothing is kept.
   */
  readonly described?: Effect.Effect<Pick<NewFile, "purpose" | "ttlMs">, GatewayError>
}

/** Bytes of a content from `start` to `end`, both included and counted from 0. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

/** A file, to be read. */
export interface OpenFile {
  readonly info: FileInfo
  /** Each run reads anew, as fast as it is pulled. */
  readonly content: Stream.Stream<Uint8Array, GatewayError>
}

/** Which files a page of the list has. */
export interface FileQuery {
  readonly tenant: string
  readonly purpose?: string
  /** The id of the last file of the page before. */
  readonly after?: string
  readonly limit: number
  /** By age; default: the newest first. */
  readonly order?: "asc" | "desc"
}

/** One page of a list. */
export interface FilePage {
  readonly files: ReadonlyArray<FileInfo>
  readonly hasMore: boolean
}

/** What allows whoever has it to read one file for a while. */
export interface FileSignature {
  readonly token: string
  readonly expiresAt: number
}

/** The files. What the storage cannot do at the moment fails with `store_unavailable`. */
export class FileStorage extends Context.Service<FileStorage, {
  /**
   * Keeps a file; it is there, whole, as soon as this succeeds, and nothing of it is seen otherwise. Fails with
   * `payload_too_large` where the content is larger than it may be, or than what is left of the tenant's quota.
   */
  readonly put: (file: NewFile) => Effect.Effect<FileInfo, GatewayError>
  /** Fails with `file_not_found`, also for another tenant's and for one that has expired. */
  readonly head: (tenant: string, id: string) => Effect.Effect<FileInfo, GatewayError>
  /** A file, or some of it: a range that begins within the content and ends where that does at the latest. Fails as `head`. */
  readonly get: (tenant: string, id: string, range?: ByteRange) => Effect.Effect<OpenFile, GatewayError>
  /** Fails as `head`. */
  readonly delete: (tenant: string, id: string) => Effect.Effect<void, GatewayError>
  readonly list: (query: FileQuery) => Effect.Effect<FilePage, GatewayError>
  /** Allows whoever has the signature to read a file, for so many ms or until the file expires. Fails as `head`. */
  readonly sign: (tenant: string, id: string, ttlMs: number) => Effect.Effect<FileSignature, GatewayError>
  /** The file that a signature is for, whosever it is. Fails with `file_not_found` where it is for another one, forged or over. */
  readonly verify: (id: string, token: string) => Effect.Effect<FileInfo, GatewayError>
  /** The largest content, bytes. */
  readonly maxBytes: number
}>()("llm-gateway/sdk/FileStorage") {}

/** Where the native API has its files. */
export const filesPath = "/llm-gateway/v1/files"

const idPattern = /^file-[0-9a-f]{32}$/

/** Whether a text has the form of a file's id. */
export const isFileId = (text: string): boolean => idPattern.test(text)

/** A file's address below this gateway's own; asking for it takes its tenant's key. */
export const fileUrl = (id: string): string => `${filesPath}/${id}`

/** A file's address that needs no key, with the token of a `FileSignature`. */
export const signedUrl = (id: string, token: string): string => `${fileUrl(id)}?token=${token}`

/**
 * The id of the file that a text addresses: an id, or the path that `fileUrl` and `signedUrl` give. A whole URL is no file of
 * this gateway's, whatever its path, since its host may be anybody's.
 */
export const fileIdOf = (address: string): string | undefined => {
  if (isFileId(address)) return address
  if (!address.startsWith(`${filesPath}/`)) return undefined
  const id = address.slice(filesPath.length + 1).split("?", 1)[0] ?? ""
  return isFileId(id) ? id : undefined
}

/** The failure of a gateway that has no `FileStorage`. */
export const noFiles = fail(new NotFound({ message: "this gateway keeps no files" }))

/** No such file; of an id that is none, only as much is shown as an id has. */
export const fileNotFound = (id: string): GatewayError => {
  const shown = id.slice(0, 100)
  return fail(new FileNotFound({ message: `there is no file "${shown}"`, id: shown }))
}

/** The storage, where the gateway has one; otherwise `not_found`. */
export const fileStorage: Effect.Effect<FileStorage["Service"], GatewayError> = Effect.flatMap(
  Effect.serviceOption(FileStorage),
  Option.match({ onNone: () => Effect.fail(noFiles), onSome: (storage) => Effect.succeed(storage) })
)

/**
 * Opens the file that a text addresses (see `fileIdOf`), for the `CurrentCaller`'s tenant. Fails with `file_not_found`, also
 * where the text addresses none, and with `not_found` where the gateway keeps no files.
 */
export const openFile: (address: string) => Effect.Effect<OpenFile, GatewayError> = Effect.fnUntraced(
  function*(address: string) {
    const storage = yield* fileStorage
    const id = fileIdOf(address)
    if (id === undefined) return yield* fileNotFound(address)
    const { tenant } = yield* CurrentCaller
    return yield* storage.get(tenant, id)
  }
)
