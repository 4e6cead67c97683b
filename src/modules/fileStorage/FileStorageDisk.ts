/**
 * Files on a local disk, with what is known of them in the database.
 *
 * `uploads/` has what is coming in, `files/{tenant}/{id}` the contents, and `objects/{tenant}/{sha256}` one more hard link to
 * each distinct content, by which a file that a tenant has twice takes its room once. The file system itself counts the links,
 * so that nothing here can be left with a wrong count, whoever dies or runs beside.
 */
import { NodeStream } from "@effect/platform-node"
import { Cause, Effect, type Layer, Stream } from "effect"
import type { SqlClient } from "effect/sql"
import { randomUUID } from "node:crypto"
import { createReadStream } from "node:fs"
import * as FS from "node:fs/promises"
import path from "node:path"
import { type FileStorage, isFileId } from "../../sdk/FileStorage.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import { type BlobKey, type Blobs, codeOf, failedBecause, unavailable } from "./Blobs.ts"
import * as FileIndexSql from "./FileIndexSql.ts"
import * as StoredFiles from "./StoredFiles.ts"

/** Options of the Layer. */
export interface Options extends StoredFiles.FileStorageOptions {
  /** The folder, made where there is none. Several gateways that share it must share the database, too. */
  readonly dir: string
}

const attempt = <A>(operation: string, run: () => Promise<A>): Effect.Effect<A, GatewayError> =>
  Effect.catch(Effect.tryPromise(run), ({ cause }) => failedBecause(operation, cause))

/** What a lookup that may find nothing finds. */
const orMissing = async <A>(run: Promise<A>): Promise<A | undefined> => {
  try {
    return await run
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined
    throw error
  }
}

/** Puts a name to a file once more; false where the name is taken, the file is not there, or the file system has no links. */
const link = async (existing: string, name: string): Promise<boolean> => {
  try {
    await FS.link(existing, name)
    return true
  } catch (error) {
    if (["EEXIST", "ENOENT", "EPERM", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(codeOf(error))) return false
    throw error
  }
}

/** A name is only safe from a loss of power once its folder has been written. */
const syncFolder = async (folder: string): Promise<void> => {
  const handle = await FS.open(folder, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const writeAll = async (handle: FS.FileHandle, chunk: Uint8Array): Promise<void> => {
  for (let written = 0; written < chunk.length;) {
    const { bytesWritten } = await handle.write(chunk, written)
    written += bytesWritten
  }
}

const pageSize = 200

const make = (dir: string): Blobs => {
  const uploads = path.join(dir, "uploads")
  const files = path.join(dir, "files")
  const objects = path.join(dir, "objects")
  const fileOf = ({ file, tenant }: BlobKey): string => path.join(files, tenant, file)

  const publish = async (upload: string, { file, tenant }: BlobKey, sha256: string): Promise<void> => {
    const name = path.join(files, tenant, file)
    const object = path.join(objects, tenant, sha256)
    await FS.mkdir(path.join(files, tenant), { recursive: true })
    await FS.mkdir(path.join(objects, tenant), { recursive: true })
    if (await link(object, name)) await FS.rm(upload, { force: true })
    else {
      await FS.rename(upload, name)
      await link(name, object)
    }
    await syncFolder(path.join(files, tenant))
  }

  const removeOld = async (before: number): Promise<void> => {
    for (const name of await orMissing(FS.readdir(uploads)) ?? []) {
      const at = path.join(uploads, name)
      const found = await orMissing(FS.stat(at))
      if (found !== undefined && found.mtimeMs < before) await FS.rm(at, { force: true })
    }
    for (const tenant of await orMissing(FS.readdir(objects)) ?? []) {
      for (const name of await FS.readdir(path.join(objects, tenant))) {
        const at = path.join(objects, tenant, name)
        const found = await orMissing(FS.stat(at))
        // Whoever links to it in this very moment keeps the content all the same.
        if (found?.nlink === 1) await FS.rm(at, { force: true })
      }
    }
  }

  async function* keys(): AsyncGenerator<ReadonlyArray<BlobKey>> {
    for (const tenant of await orMissing(FS.readdir(files)) ?? []) {
      let page: Array<BlobKey> = []
      for await (const { name } of await FS.opendir(path.join(files, tenant))) {
        if (!isFileId(name)) continue
        page.push({ tenant, file: name })
        if (page.length < pageSize) continue
        yield page
        page = []
      }
      if (page.length > 0) yield page
    }
  }

  return {
    stage: (key, content) =>
      Effect.gen(function*() {
        const upload = path.join(uploads, randomUUID())
        const handle = yield* Effect.acquireRelease(
          attempt("make a file", async () => {
            await FS.mkdir(uploads, { recursive: true, mode: 0o700 })
            return FS.open(upload, "wx", 0o600)
          }),
          (handle) =>
            Effect.promise(async () => {
              await handle.close()
              await FS.rm(upload, { force: true })
            }).pipe(Effect.ignoreCause)
        )
        yield* Stream.runForEach(content, (chunk) => attempt("write a file", () => writeAll(handle, chunk)))
        yield* attempt("write a file", () => handle.sync())
        return { publish: (sha256) => attempt("keep a file", () => publish(upload, key, sha256)) }
      }),
    read: (key, range) => {
      const name = fileOf(key)
      return Effect.map(
        attempt("read a file", () => orMissing(FS.stat(name))),
        (found) =>
          found === undefined ? undefined : NodeStream.fromReadable({
            evaluate: () => createReadStream(name, range),
            onError: () => unavailable,
            // A few reads of 64 KiB at a time, however slow the reader is.
            chunkSize: 4
          })
      )
    },
    remove: (key) => attempt("delete a file", () => FS.rm(fileOf(key), { force: true })),
    pages: Stream.suspend(() => Stream.fromAsyncIterable(keys(), (cause) => new Cause.UnknownError(cause))).pipe(
      Stream.catch(({ cause }) => Stream.fromEffect(failedBecause("walk through its files", cause)))
    ),
    removeLeftovers: (before) => attempt("sweep", () => removeOld(before))
  }
}

/** Files below a folder; the database needs the tables of `FileIndexSql.migrations`. Fails where it cannot be used. */
export const layer = (options: Options): Layer.Layer<FileStorage, GatewayError, SqlClient.SqlClient> =>
  StoredFiles.layer(Effect.sync(() => make(path.resolve(options.dir))), FileIndexSql.make, options)

export { migrations } from "./FileIndexSql.ts"
