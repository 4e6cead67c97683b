/** What is known of stored files, apart from their contents. Moments are Unix ms. */
import type { Effect } from "effect"
import type { FileInfo, FileQuery } from "../../sdk/FileStorage.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"

/** The index. What it cannot do at the moment fails with `store_unavailable`. */
export interface FileIndex {
  /**
   * Enters a file, and counts it for its tenant; false, and neither, where the tenant's files would be larger than the quota
   * with it, whatever else is entered at the same time.
   */
  readonly add: (file: FileInfo, quota: number) => Effect.Effect<boolean, GatewayError>
  /** The file, if it has not expired; of one tenant, or of any. */
  readonly find: (
    tenant: string | undefined,
    id: string,
    now: number
  ) => Effect.Effect<FileInfo | undefined, GatewayError>
  /** Takes a file out; false where there is none. Expired ones count as there. */
  readonly remove: (tenant: string, id: string) => Effect.Effect<boolean, GatewayError>
  /** Up to one file more than the query's limit, without the expired ones. */
  readonly list: (query: FileQuery, now: number) => Effect.Effect<ReadonlyArray<FileInfo>, GatewayError>
  /** Some of the files that have expired. */
  readonly expired: (now: number, limit: number) => Effect.Effect<ReadonlyArray<FileInfo>, GatewayError>
  /** Which of these ids are entered. */
  readonly known: (ids: ReadonlyArray<string>) => Effect.Effect<ReadonlySet<string>, GatewayError>
  /** Bytes of all of a tenant's files. */
  readonly used: (tenant: string) => Effect.Effect<number, GatewayError>
  /** A secret of this index's own, the same for all that use it: `made` where it has none yet. */
  readonly secret: (made: string) => Effect.Effect<string, GatewayError>
}
