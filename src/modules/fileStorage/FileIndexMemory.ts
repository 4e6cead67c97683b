/** The index of files in this process's memory. */
import { Effect } from "effect"
import type { FileInfo } from "../../sdk/FileStorage.ts"
import type { FileIndex } from "./FileIndex.ts"

const isPast = ({ expiresAt }: FileInfo, now: number): boolean => expiresAt !== undefined && expiresAt <= now

/** An empty index. */
export const make = (): FileIndex => {
  const files = new Map<string, FileInfo>()
  const used = new Map<string, number>()
  let secret: string | undefined

  const find = (tenant: string | undefined, id: string): FileInfo | undefined => {
    const file = files.get(id)
    return tenant === undefined || file?.tenant === tenant ? file : undefined
  }

  return {
    add: (file, quota) =>
      Effect.sync(() => {
        const after = (used.get(file.tenant) ?? 0) + file.bytes
        if (after > quota) return false
        used.set(file.tenant, after)
        files.set(file.id, file)
        return true
      }),
    find: (tenant, id, now) =>
      Effect.sync(() => {
        const file = find(tenant, id)
        return file === undefined || isPast(file, now) ? undefined : file
      }),
    remove: (tenant, id) =>
      Effect.sync(() => {
        const file = find(tenant, id)
        if (file === undefined) return false
        files.delete(id)
        const left = (used.get(tenant) ?? 0) - file.bytes
        if (left > 0) used.set(tenant, left)
        else used.delete(tenant)
        return true
      }),
    list: (query, now) =>
      Effect.sync(() => {
        const { after, limit, order, purpose, tenant } = query
        const ascending = order === "asc"
        const fitting = Array.from(files.values()).filter((file) =>
          file.tenant === tenant && !isPast(file, now) && (purpose === undefined || file.purpose === purpose) &&
          (after === undefined || (ascending ? file.id > after : file.id < after))
        )
        const sign = ascending ? 1 : -1
        return fitting.sort((one, other) => one.id < other.id ? -sign : sign).slice(0, limit + 1)
      }),
    expired: (now, limit) =>
      Effect.sync(() => Array.from(files.values()).filter((file) => isPast(file, now)).slice(0, limit)),
    known: (ids) => Effect.sync(() => new Set(ids.filter((id) => files.has(id)))),
    used: (tenant) => Effect.sync(() => used.get(tenant) ?? 0),
    secret: (made) => Effect.sync(() => secret ??= made)
  }
}
