/**
 * Where the contents of files are: on a disk, in memory, in an object store. What is known of files besides is in a
 * `FileIndex`; `StoredFiles.ts` makes a storage of the two.
 */
import { Effect, type Scope, type Stream } from "effect"
import { createHash } from "node:crypto"
import { fail, type GatewayError, StoreUnavailable } from "../../sdk/GatewayError.ts"
import { logOf } from "../../sdk/Log.ts"
import type { ByteRange } from "../../sdk/FileStorage.ts"

const log = logOf("files")

/** Which content: `file` is the file's id, `tenant` stands for its tenant in names of folders and objects. */
export interface BlobKey {
  readonly tenant: string
  readonly file: string
}

/** A content that has come in whole and is not there yet. */
export interface StagedBlob {
  /** Makes it be there, at once and whole; takes the SHA-256 of the content, in hexadecimal. */
  readonly publish: (sha256: string) => Effect.Effect<void, GatewayError>
}

/** Contents. What they cannot do at the moment fails with `store_unavailable`. */
export interface Blobs {
  /** Takes a content in. What has not been published when the scope closes is gone, and nobody has seen it. */
  readonly stage: (
    key: BlobKey,
    content: Stream.Stream<Uint8Array, GatewayError>
  ) => Effect.Effect<StagedBlob, GatewayError, Scope.Scope>
  /** A content of so many bytes, or a range of it; `undefined` where it is not there. */
  readonly read: (
    key: BlobKey,
    range: ByteRange | undefined
  ) => Effect.Effect<Stream.Stream<Uint8Array, GatewayError> | undefined, GatewayError>
  /** Removes a content, or finds none. */
  readonly remove: (key: BlobKey) => Effect.Effect<void, GatewayError>
  /** All contents, in pages. */
  readonly pages: Stream.Stream<ReadonlyArray<BlobKey>, GatewayError>
  /** Removes what was taken in before a moment (Unix ms), was never published, and whose process has died. */
  readonly removeLeftovers: (before: number) => Effect.Effect<void, GatewayError>
}

/** The name that a tenant has in folders and objects: whatever characters it has itself, it leads nowhere else. */
export const tenantName = (tenant: string): string => createHash("sha256").update(tenant).digest("hex").slice(0, 32)

/** What anything that goes wrong in a store is told as. */
export const unavailable: GatewayError = fail(
  new StoreUnavailable({ store: "files", message: "the file storage does not answer at the moment; try again later" })
)

/** Why a store failed: a code such as `ENOSPC`, and never a message, which can hold paths. */
export const codeOf = (error: unknown): string => {
  if (typeof error !== "object" || error === null) return "unknown"
  if ("code" in error && typeof error.code === "string") return error.code
  return "name" in error && typeof error.name === "string" ? error.name : "unknown"
}

/** Logs what went wrong, for the operator, and fails with `store_unavailable`. */
export const failedBecause = (operation: string, error: unknown): Effect.Effect<never, GatewayError> =>
  Effect.andThen(
    log.warning(`the file storage could not ${operation}: ${codeOf(error)}`),
    Effect.fail(unavailable)
  )
