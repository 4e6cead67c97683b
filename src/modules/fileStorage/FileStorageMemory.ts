/** Files in this process's memory, for tests, development, and apps that keep none for long. */
import { Effect, type Layer, Stream } from "effect"
import type { FileStorage } from "../../sdk/FileStorage.ts"
import { fail, type GatewayError, StoreUnavailable } from "../../sdk/GatewayError.ts"
import type { BlobKey, Blobs } from "./Blobs.ts"
import * as FileIndexMemory from "./FileIndexMemory.ts"
import * as StoredFiles from "./StoredFiles.ts"

/** Options of the Layer. */
export interface Options extends StoredFiles.FileStorageOptions {
  /** Bytes of all files of all tenants, those that are on their way included; default 256 MB. */
  readonly memoryBytes?: number
}

const full = fail(
  new StoreUnavailable({ store: "files", message: "the file storage is full; delete files, or wait until some expire" })
)

const piece = 64 * 1024

const make = (capacity: number): Blobs => {
  const contents = new Map<string, { readonly key: BlobKey; readonly bytes: Uint8Array }>()
  let held = 0
  return {
    stage: ({ file, tenant }, content) =>
      Effect.gen(function*() {
        const chunks: Array<Uint8Array> = []
        let size = 0
        let published = false
        yield* Effect.addFinalizer(() =>
          Effect.sync(() => {
            if (!published) held -= size
          })
        )
        yield* Stream.runForEach(content, (chunk): Effect.Effect<void, GatewayError> => {
          if (held + chunk.length > capacity) return Effect.fail(full)
          held += chunk.length
          size += chunk.length
          chunks.push(Uint8Array.from(chunk))
          return Effect.void
        })
        return {
          publish: () =>
            Effect.sync(() => {
              published = true
              contents.set(file, { key: { file, tenant }, bytes: Buffer.concat(chunks) })
            })
        }
      }),
    read: ({ file, tenant }, range) =>
      Effect.sync(() => {
        const found = contents.get(file)
        if (found === undefined || found.key.tenant !== tenant) return undefined
        const end = range === undefined ? found.bytes.length : range.end + 1
        return Stream.unfold(range?.start ?? 0, (at) =>
          Effect.sync(() => {
            const next = Math.min(end, at + piece)
            return at < end ? [found.bytes.subarray(at, next), next] as const : undefined
          }))
      }),
    remove: ({ file }) =>
      Effect.sync(() => {
        const found = contents.get(file)
        if (found === undefined) return
        held -= found.bytes.length
        contents.delete(file)
      }),
    pages: Stream.suspend(() => Stream.succeed(Array.from(contents.values(), ({ key }) => key))),
    removeLeftovers: () => Effect.void
  }
}

const defaultCapacity = 256_000_000

/** Files that go with the process. */
export const layer = (options: Options = {}): Layer.Layer<FileStorage, GatewayError> =>
  StoredFiles.layer(
    Effect.sync(() => make(options.memoryBytes ?? defaultCapacity)),
    Effect.sync(FileIndexMemory.make),
    options
  )
