/**
 * A `FileStorage` made of contents (`Blobs`) and what is known of them (`FileIndex`).
 *
 * A file comes to be in this order: its content is taken in where nobody sees it, is published whole, and is entered in the
 * index, which makes it a file. It goes the other way round. So whatever dies in between leaves contents without an entry and
 * never an entry without its content; a sweep removes what has been left.
 */
import { Clock, Duration, Effect, Layer, Redacted, Schedule, Stream } from "effect"
import { createHash, createHmac, type Hash, randomBytes, timingSafeEqual } from "node:crypto"
import {
  type ByteRange,
  type FileInfo,
  fileNotFound,
  FileStorage,
  isFileId,
  type NewFile
} from "../../sdk/FileStorage.ts"
import { fail, type GatewayError, PayloadTooLarge } from "../../sdk/GatewayError.ts"
import { logOf } from "../../sdk/Log.ts"
import { type BlobKey, type Blobs, tenantName } from "./Blobs.ts"
import type { FileIndex } from "./FileIndex.ts"
import { safeName, sampleBytes, typeOf } from "./FileType.ts"

const log = logOf("files")

/** Limits of a storage. */
export interface FileStorageOptions {
  /** The largest file, bytes; default 200 MB. */
  readonly maxBytes?: number
  /** How long files are kept, ms; default 7 days. */
  readonly ttlMs?: number
  /** Bytes of all files of one tenant; default 10 GB. */
  readonly quotaBytes?: number
  /** What signed URLs are signed with; default: a secret that the storage makes and keeps. */
  readonly urlSecret?: Redacted.Redacted
}

const defaultMaxBytes = 200_000_000
const defaultTtl = Duration.toMillis("7 days")
const defaultQuota = 10_000_000_000
/** How often expired files are removed. */
const sweepEvery = "1 minute"
/** How often contents without an entry are looked for: it takes a walk through all of them. */
const walkEvery = Duration.toMillis("1 hour")
/** Contents that are younger than this may belong to a file that is about to be entered, ms. */
const entryGrace = Duration.toMillis("1 hour")
/** Uploads that have not grown for this long have no process any more, ms. */
const uploadGrace = Duration.toMillis("6 hours")
/** Expired files that one step of a sweep removes. */
const sweepAtOnce = 200

const newId = (now: number): string =>
  `file-${Math.floor(now).toString(16).padStart(12, "0")}${randomBytes(10).toString("hex")}`

/** When a file was made, by its id; Unix ms. */
const madeAt = (id: string): number => Number.parseInt(id.slice(5, 17), 16)

const keyOf = ({ id, tenant }: FileInfo): BlobKey => ({ tenant: tenantName(tenant), file: id })

/** Looks at a content as it goes by. */
class Inspection {
  readonly #hash: Hash = createHash("sha256")
  readonly #sample: Array<Uint8Array> = []
  #sampled = 0
  bytes = 0

  see(chunk: Uint8Array): void {
    this.bytes += chunk.length
    this.#hash.update(chunk)
    if (this.#sampled < sampleBytes) {
      // A copy, since the chunk's memory may be used again.
      const part = Uint8Array.from(chunk.subarray(0, sampleBytes - this.#sampled))
      this.#sample.push(part)
      this.#sampled += part.length
    }
  }

  readonly type: Effect.Effect<string> = Effect.suspend(() =>
    typeOf(Buffer.concat(this.#sample), this.bytes === this.#sampled)
  )

  sha256(): string {
    return this.#hash.digest("hex")
  }
}

const overQuota = (quota: number, used: number): GatewayError =>
  fail(
    new PayloadTooLarge({
      message: `this tenant's files may take ${quota} bytes, of which ${
        Math.max(0, quota - used)
      } are left; delete files, or wait until some expire`,
      maxBytes: Math.max(0, quota - used)
    })
  )

const overSize = (maxBytes: number): GatewayError =>
  fail(new PayloadTooLarge({ message: `the file is larger than ${maxBytes} bytes`, maxBytes }))

/** `{expiry, Unix s}-{HMAC}`, both in characters that a URL takes as they are. */
const tokenOf = (secret: string, file: FileInfo, expiry: number): string =>
  `${expiry}-${createHmac("sha256", secret).update(JSON.stringify([file.tenant, file.id, expiry])).digest("base64url")}`

const isSame = (one: string, other: string): boolean => {
  const bytes = Buffer.from(one)
  const others = Buffer.from(other)
  return bytes.length === others.length && timingSafeEqual(bytes, others)
}

const seconds = (ms: number): number => Math.floor(ms / 1000)

/** Makes the storage, and sweeps for as long as the scope lives. */
const make = Effect.fnUntraced(function*(blobs: Blobs, index: FileIndex, options: FileStorageOptions) {
  const maxBytes = options.maxBytes ?? defaultMaxBytes
  const quota = options.quotaBytes ?? defaultQuota
  const ttl = options.ttlMs ?? defaultTtl
  const secret = options.urlSecret === undefined
    ? yield* index.secret(randomBytes(32).toString("base64url"))
    : Redacted.value(options.urlSecret)

  const putScoped = Effect.fnUntraced(function*(file: NewFile) {
    const createdAt = Math.floor(yield* Clock.currentTimeMillis)
    const id = newId(createdAt)
    const used = yield* index.used(file.tenant)
    const sizeLimit = Math.min(maxBytes, file.maxBytes ?? maxBytes)
    const limit = Math.min(sizeLimit, quota - used)
    const inspection = new Inspection()
    const content = Stream.mapEffect(file.content, (chunk) => {
      inspection.see(chunk)
      return inspection.bytes <= limit
        ? Effect.succeed(chunk)
        : Effect.fail(inspection.bytes > sizeLimit ? overSize(sizeLimit) : overQuota(quota, used))
    })
    const key: BlobKey = { tenant: tenantName(file.tenant), file: id }
    const staged = yield* blobs.stage(key, content)
    const contentType = yield* inspection.type
    const { purpose, ttlMs } = file.described === undefined ? file : yield* file.described
    const info: FileInfo = {
      id,
      tenant: file.tenant,
      purpose,
      filename: safeName(file.filename, contentType),
      contentType,
      bytes: inspection.bytes,
      sha256: inspection.sha256(),
      createdAt,
      expiresAt: createdAt + Math.min(ttl, ttlMs ?? ttl)
    }
    return yield* Effect.uninterruptible(Effect.gen(function*() {
      yield* staged.publish(info.sha256)
      // Where it is not known whether the entry was made, the content stays, for the sweep to decide.
      if (yield* index.add(info, quota)) return info
      yield* Effect.ignore(blobs.remove(key))
      return yield* overQuota(quota, yield* index.used(file.tenant))
    }))
  })

  const head = Effect.fnUntraced(function*(tenant: string | undefined, id: string) {
    // PostgreSQL takes no NUL in a text.
    if (!isFileId(id)) return yield* fileNotFound(id)
    const file = yield* index.find(tenant, id, yield* Clock.currentTimeMillis)
    return file ?? (yield* fileNotFound(id))
  })

  const get = Effect.fnUntraced(function*(tenant: string, id: string, range?: ByteRange) {
    const info = yield* head(tenant, id)
    const content = yield* blobs.read(
      keyOf(info),
      range === undefined ? undefined : { start: range.start, end: Math.min(range.end, info.bytes - 1) }
    )
    if (content === undefined) {
      yield* log.warning(`the content of ${id} is not where it was put`)
      return yield* fileNotFound(id)
    }
    return { info, content }
  })

  const remove = Effect.fnUntraced(function*(tenant: string, id: string) {
    const info = yield* head(tenant, id)
    if (!(yield* index.remove(tenant, id))) return yield* fileNotFound(id)
    // The file is gone with its entry; what is left of its content is for the sweep.
    yield* Effect.ignore(blobs.remove(keyOf(info)))
  })

  const removeExpired = Effect.gen(function*() {
    for (;;) {
      const files = yield* index.expired(yield* Clock.currentTimeMillis, sweepAtOnce)
      for (const file of files) {
        yield* index.remove(file.tenant, file.id)
        yield* blobs.remove(keyOf(file))
      }
      if (files.length < sweepAtOnce) return
    }
  })

  const removeStrays = Effect.fnUntraced(function*(keys: ReadonlyArray<BlobKey>) {
    const before = (yield* Clock.currentTimeMillis) - entryGrace
    const old = keys.filter(({ file }) => madeAt(file) < before)
    const known = yield* index.known(old.map(({ file }) => file))
    for (const key of old) if (!known.has(key.file)) yield* blobs.remove(key)
  })

  let walked = -Infinity
  const sweep = Effect.gen(function*() {
    yield* removeExpired
    const now = yield* Clock.currentTimeMillis
    if (now - walked < walkEvery) return
    walked = now
    yield* blobs.removeLeftovers(now - uploadGrace)
    yield* Stream.runForEach(blobs.pages, removeStrays)
  })
  // A store that is away is there again at some later sweep, and has logged why it was not.
  yield* Effect.ignore(sweep).pipe(Effect.repeat(Schedule.spaced(sweepEvery)), Effect.forkScoped)

  return FileStorage.of({
    put: (file) => Effect.scoped(putScoped(file)),
    head,
    get,
    delete: remove,
    list: Effect.fnUntraced(function*(query) {
      const { after, limit } = query
      // What is no id stands for none, and PostgreSQL takes no NUL in a text.
      if (after !== undefined && !isFileId(after)) return yield* fileNotFound(after)
      const found = yield* index.list(query, yield* Clock.currentTimeMillis)
      return { files: found.slice(0, limit), hasMore: found.length > limit }
    }),
    sign: Effect.fnUntraced(function*(tenant, id, ttlMs) {
      const file = yield* head(tenant, id)
      const now = yield* Clock.currentTimeMillis
      const expiry = seconds(Math.min(now + ttlMs, file.expiresAt ?? Infinity))
      return { token: tokenOf(secret, file, expiry), expiresAt: expiry * 1000 }
    }),
    verify: Effect.fnUntraced(function*(id, token) {
      const file = yield* head(undefined, id)
      const expiry = Number(/^(\d{1,12})-/.exec(token)?.[1])
      const isValid = isSame(token, tokenOf(secret, file, expiry))
      if (!isValid || expiry * 1000 <= (yield* Clock.currentTimeMillis)) return yield* fileNotFound(id)
      return file
    }),
    maxBytes
  })
})

/** The storage over these contents and this index. Fails where the index cannot be used. */
export const layer = <E, R, E2, R2>(
  blobs: Effect.Effect<Blobs, E, R>,
  index: Effect.Effect<FileIndex, E2, R2>,
  options: FileStorageOptions
) =>
  Layer.effect(
    FileStorage,
    Effect.gen(function*() {
      return yield* make(yield* blobs, yield* index, options)
    })
  )
