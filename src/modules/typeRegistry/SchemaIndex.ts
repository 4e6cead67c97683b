/** Schemas that are all at hand, found by their identifiers, and the TypeRegistry over them. */
import { Effect, Result } from "effect"
import { compareMinor, family, type GtsId, matches } from "../../sdk/Gts.ts"
import type { JsonSchema } from "../../sdk/Tool.ts"
import type { TypeRegistry } from "../../sdk/TypeRegistry.ts"
import { fromLookup, type StoredSchema } from "./References.ts"

/** How many resolved schemas are kept; identifiers without minor versions make many names for one schema. */
const maxResolved = 1024

interface Entry extends StoredSchema {
  readonly parsed: GtsId
}

/** A set of schemas, each under the identifier in its `$id`. */
export interface SchemaIndex {
  /** Adds a schema; fails where its identifier is taken. */
  readonly add: (id: GtsId, schema: JsonSchema) => Result.Result<void, "duplicate">
  /** The schema of exactly this identifier, or of the highest minor version that it admits. */
  readonly find: (id: GtsId) => StoredSchema | undefined
}

/** Makes an empty index. */
export const make = (): SchemaIndex => {
  const exact = new Map<string, Entry>()
  const families = new Map<string, Array<Entry>>()
  return {
    add: (id, schema) => {
      if (exact.has(id.id)) return Result.fail("duplicate")
      const entry: Entry = { id: id.id, schema, parsed: id }
      exact.set(id.id, entry)
      const key = family(id)
      const siblings = families.get(key)
      if (siblings === undefined) families.set(key, [entry])
      else {
        siblings.push(entry)
        siblings.sort((a, b) => compareMinor(b.parsed, a.parsed))
      }
      return Result.succeed(undefined)
    },
    find: (id) => exact.get(id.id) ?? families.get(family(id))?.find((entry) => matches(id, entry.parsed))
  }
}

/** The TypeRegistry over an index that does not change any more; what it has resolved it remembers. */
export const registry = (index: SchemaIndex): TypeRegistry["Service"] => {
  const inner = fromLookup((ids) =>
    Effect.sync(() => {
      const found = new Map<string, StoredSchema>()
      for (const id of ids) {
        const entry = index.find(id)
        if (entry !== undefined) found.set(id.id, entry)
      }
      return found
    })
  )
  const resolved = new Map<string, JsonSchema>()
  return {
    inline: inner.inline,
    resolve: (ids) =>
      Effect.suspend(() => {
        const known: Array<JsonSchema> = []
        for (const id of ids) {
          const schema = resolved.get(id)
          if (schema === undefined) break
          known.push(schema)
        }
        if (known.length === ids.length) return Effect.succeed(known)
        return Effect.map(inner.resolve(ids), (schemas) => {
          if (resolved.size + ids.length > maxResolved) resolved.clear()
          for (let i = 0; i < ids.length; i++) {
            const id = ids[i]
            const schema = schemas[i]
            if (id !== undefined && schema !== undefined) resolved.set(id, schema)
          }
          return schemas
        })
      })
  }
}
