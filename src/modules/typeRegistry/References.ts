/**
 * Makes schemas self-contained: every `gts://` reference is replaced by the schema that it names, and that schema's own
 * local references are rewritten to where it now stands. Providers know nothing of GTS, and most of them refuse a
 * reference out of the document.
 *
 * The look-up is a parameter, so that all registries share the rules: level by level, each level in one look-up, with
 * bounds on depth, on the number of schemas and on the size of the result, and without cycles.
 */
import { Effect, Result } from "effect"
import {
  fail,
  type GatewayError,
  type InvalidSchemaId,
  SchemaNotFound,
  ValidationError
} from "../../sdk/GatewayError.ts"
import { type GtsId, isReference, parse, parseReference } from "../../sdk/Gts.ts"
import { isJsonArray, isJsonObject, pointerToken, positionOf, type SchemaPosition } from "../../sdk/SchemaPosition.ts"
import type { JsonSchema } from "../../sdk/Tool.ts"
import type { TypeRegistry } from "../../sdk/TypeRegistry.ts"

/** How deep references may lead from one schema to the next. */
export const maxDepth = 32
/** How many schemas one resolution may touch. */
const maxSchemas = 512
/** How many values one self-contained schema may hold; shared references multiply. */
const maxValues = 50_000
/** How deep a document may nest; recursion over it must not exhaust the stack. */
const maxNesting = 256

/** A schema as a registry holds it, under the identifier that it bears there. */
export interface StoredSchema {
  readonly id: string
  readonly schema: JsonSchema
}

/** Finds schemas, all in one look-up; the answer has no entry for an identifier that is missing. Keyed by `GtsId.id`. */
export type Lookup = (ids: ReadonlyArray<GtsId>) => Effect.Effect<ReadonlyMap<string, StoredSchema>, GatewayError>

/** Why a schema cannot be made self-contained. */
export type ReferenceProblem = ValidationError | InvalidSchemaId

const problem = (message: string): ValidationError => new ValidationError({ message })

// ---------------------------------------------------------------------------------------------------------------------
// Collecting
// ---------------------------------------------------------------------------------------------------------------------

/** Adds to `found` every GTS identifier that a document refers to. */
const collect = (
  value: unknown,
  position: SchemaPosition,
  owner: string,
  found: Map<string, GtsId>,
  nesting = 0
): ReferenceProblem | undefined => {
  if (nesting > maxNesting) return problem(`${owner} nests deeper than ${maxNesting} levels`)
  if (position === "literal") return undefined
  if (isJsonArray(value)) {
    for (const element of value) {
      const failure = collect(element, position, owner, found, nesting + 1)
      if (failure !== undefined) return failure
    }
    return undefined
  }
  if (!isJsonObject(value)) return undefined
  for (const key of Object.keys(value)) {
    const child = value[key]
    if (key === "$ref" && position === "schema" && typeof child === "string" && isReference(child)) {
      if (child.includes("#")) {
        return problem(`${owner}: "${child.slice(0, 200)}" points into a schema; only whole schemas can be referred to`)
      }
      const id = parseReference(child)
      if (Result.isFailure(id)) return id.failure
      found.set(id.success.id, id.success)
    } else {
      const failure = collect(child, positionOf(position, key), owner, found, nesting + 1)
      if (failure !== undefined) return failure
    }
  }
  return undefined
}

/** Finds all schemas that `wanted` and `roots` lead to. Fails with every identifier that is missing, at any depth. */
const gather = Effect.fnUntraced(function*(
  lookup: Lookup,
  wanted: ReadonlyMap<string, GtsId>,
  roots: ReadonlyArray<StoredSchema>
): Effect.fn.Return<ReadonlyMap<string, StoredSchema>, GatewayError> {
  const stored = new Map<string, StoredSchema>()
  const missing: Array<string> = []
  let next = new Map(wanted)
  for (const root of roots) {
    const failure = collect(root.schema, "schema", root.id, next)
    if (failure !== undefined) return yield* fail(failure)
  }
  const seen = new Set(next.keys())
  for (let depth = 0; next.size > 0; depth++) {
    if (depth > maxDepth) return yield* fail(problem(`schema references lead deeper than ${maxDepth} levels`))
    if (seen.size > maxSchemas) {
      return yield* fail(problem(`the references lead to more than ${maxSchemas} schemas`))
    }
    const found = yield* lookup(Array.from(next.values()))
    const deeper = new Map<string, GtsId>()
    for (const id of next.keys()) {
      const entry = found.get(id)
      if (entry === undefined) {
        missing.push(id)
        continue
      }
      stored.set(id, entry)
      const failure = collect(entry.schema, "schema", entry.id, deeper)
      if (failure !== undefined) return yield* fail(failure)
    }
    for (const id of deeper.keys()) {
      if (seen.has(id)) deeper.delete(id)
      else seen.add(id)
    }
    next = deeper
  }
  if (missing.length > 0) {
    const shown = missing.slice(0, 16).join(", ")
    const more = missing.length > 16 ? ` and ${missing.length - 16} more` : ""
    return yield* fail(
      new SchemaNotFound({ message: `the type registry does not hold ${shown}${more}`, ids: missing })
    )
  }
  return stored
})

// ---------------------------------------------------------------------------------------------------------------------
// Inlining
// ---------------------------------------------------------------------------------------------------------------------

/** The document that a value belongs to: what its local references (`#…`) are relative to. */
interface Base {
  readonly id: string
  /** Where the document stands in the result, as a URI fragment (`#`, `#/allOf/0`). */
  readonly at: string
  readonly anchors: ReadonlyMap<string, string>
}

/** The pointers, relative to its root, of the `$anchor`s in a document. */
const anchorsOf = (document: unknown): ReadonlyMap<string, string> => {
  const anchors = new Map<string, string>()
  const walk = (value: unknown, position: SchemaPosition, at: string): void => {
    if (position === "literal") return
    if (isJsonArray(value)) {
      for (let i = 0; i < value.length; i++) walk(value[i], position, `${at}/${i}`)
    } else if (isJsonObject(value)) {
      if (at !== "" && position === "schema" && typeof value["$id"] === "string") return
      for (const key of Object.keys(value)) {
        const child = value[key]
        if (key === "$anchor" && position === "schema" && typeof child === "string") anchors.set(child, at)
        else walk(child, positionOf(position, key), `${at}/${pointerToken(key)}`)
      }
    }
  }
  walk(document, "schema", "")
  return anchors
}

/**
 * Replaces all references of a schema with what `find` gives for them. The result holds no GTS identifier as `$ref` or
 * `$id`, no `$schema`, and no two documents with the same `$id`; what stood beside a reference stays, and the schema
 * referred to joins its `allOf`. Pure.
 */
export const inlineReferences = (
  root: StoredSchema,
  find: (id: string) => StoredSchema | undefined
): Result.Result<JsonSchema, ReferenceProblem> => {
  let values = 0
  let failure: ReferenceProblem | undefined
  // The first failure wins and makes the rest of the walk do nothing.
  const stop = (problem: ReferenceProblem): Record<string, unknown> => {
    failure ??= problem
    return {}
  }

  const copyObject = (
    value: Readonly<Record<string, unknown>>,
    position: SchemaPosition,
    at: string,
    base: Base,
    chain: ReadonlyArray<string>,
    nesting: number
  ): Record<string, unknown> => {
    if (position !== "schema") {
      return Object.fromEntries(
        Object.entries(value).map(([key, child]) => [
          key,
          copy(child, positionOf(position, key), `${at}/${pointerToken(key)}`, base, chain, nesting + 1)
        ])
      )
    }
    // An embedded document has a base of its own. Its identity goes, so its local references must follow it now.
    const own = typeof value["$id"] === "string" && at !== base.at
      ? { id: base.id, at, anchors: anchorsOf(value) }
      : base
    const entries: Array<[string, unknown]> = []
    let referred: string | undefined
    let siblings: ReadonlyArray<unknown> = []
    for (const [key, child] of Object.entries(value)) {
      if (typeof child === "string") {
        if (key === "$id" || key === "$schema" || key === "$anchor") continue
        if (key === "$dynamicRef" || key === "$recursiveRef") {
          return stop(problem(`${base.id}: ${key} cannot be resolved in a schema of the type registry`))
        }
        if (key === "$ref") {
          if (isReference(child)) referred = child
          else entries.push([key, localReference(child, own)])
          continue
        }
      }
      const copied = copy(child, positionOf(position, key), `${at}/${pointerToken(key)}`, own, chain, nesting + 1)
      if (key === "allOf" && isJsonArray(copied)) siblings = copied
      entries.push([key, copied])
    }
    if (referred === undefined) return Object.fromEntries(entries)
    if (entries.length === 0) return document(referred, at, chain, nesting)
    const conjunct = document(referred, `${at}/allOf/${siblings.length}`, chain, nesting)
    return Object.fromEntries([...entries.filter(([key]) => key !== "allOf"), ["allOf", [...siblings, conjunct]]])
  }

  const localReference = (reference: string, base: Base): string => {
    if (reference === "#" || reference.startsWith("#/")) return `${base.at}${reference.slice(1)}`
    const anchor = reference.startsWith("#") ? base.anchors.get(reference.slice(1)) : undefined
    if (anchor === undefined) {
      const shown = reference.slice(0, 200)
      stop(problem(`${base.id}: "${shown}" leads out of the schema; only gts:// and local references can be resolved`))
      return reference
    }
    return `${base.at}${anchor}`
  }

  const document = (
    reference: string,
    at: string,
    chain: ReadonlyArray<string>,
    nesting: number
  ): Record<string, unknown> => {
    const id = parseReference(reference)
    if (Result.isFailure(id)) return stop(id.failure)
    const stored = find(id.success.id)
    if (stored === undefined) return stop(problem(`the schema ${id.success.id} was not looked up`))
    if (chain.includes(stored.id)) {
      const cycle = [...chain.slice(chain.indexOf(stored.id)), stored.id].slice(0, 8).join(" -> ")
      return stop(problem(`the schemas refer to each other in a cycle: ${cycle}`))
    }
    if (chain.length >= maxDepth) return stop(problem(`schema references lead deeper than ${maxDepth} levels`))
    return copyObject(
      stored.schema,
      "schema",
      at,
      { id: stored.id, at, anchors: anchorsOf(stored.schema) },
      [...chain, stored.id],
      nesting + 1
    )
  }

  const copy = (
    value: unknown,
    position: SchemaPosition,
    at: string,
    base: Base,
    chain: ReadonlyArray<string>,
    nesting: number
  ): unknown => {
    if (failure !== undefined) return undefined
    values++
    if (values > maxValues) {
      return stop(problem(`${root.id} has more than ${maxValues} values with its references resolved`))
    }
    if (nesting > maxNesting) return stop(problem(`${root.id} nests deeper than ${maxNesting} levels`))
    if (position === "literal") return value
    if (isJsonArray(value)) {
      return value.map((element, i) => copy(element, position, `${at}/${i}`, base, chain, nesting + 1))
    }
    return isJsonObject(value) ? copyObject(value, position, at, base, chain, nesting) : value
  }

  const base = { id: root.id, at: "#", anchors: anchorsOf(root.schema) }
  const schema = copyObject(root.schema, "schema", "#", base, [root.id], 0)
  return failure === undefined ? Result.succeed(schema) : Result.fail(failure)
}

// ---------------------------------------------------------------------------------------------------------------------
// The service
// ---------------------------------------------------------------------------------------------------------------------

/** The TypeRegistry over a look-up. */
export const fromLookup = (lookup: Lookup): TypeRegistry["Service"] => ({
  resolve: Effect.fnUntraced(function*(ids) {
    if (ids.length === 0) return []
    const wanted = new Map<string, GtsId>()
    const order: Array<string> = []
    for (const text of ids) {
      const id = parseReference(text)
      if (Result.isFailure(id)) return yield* fail(id.failure)
      wanted.set(id.success.id, id.success)
      order.push(id.success.id)
    }
    const stored = yield* gather(lookup, wanted, [])
    const resolved = new Map<string, JsonSchema>()
    for (const id of wanted.keys()) {
      const entry = stored.get(id)
      if (entry === undefined) continue
      const inlined = inlineReferences(entry, (id) => stored.get(id))
      if (Result.isFailure(inlined)) return yield* fail(inlined.failure)
      resolved.set(id, inlined.success)
    }
    return order.map((id) => resolved.get(id) ?? {})
  }),
  inline: Effect.fnUntraced(function*(schema) {
    const root: StoredSchema = { id: ownId(schema), schema }
    const stored = yield* gather(lookup, new Map(), [root])
    const inlined = inlineReferences(root, (id) => stored.get(id))
    return Result.isSuccess(inlined) ? inlined.success : yield* fail(inlined.failure)
  })
})

/** The identifier that a schema bears, for the detection of cycles and for messages. */
const ownId = (schema: JsonSchema): string => {
  const id = schema["$id"]
  if (typeof id !== "string") return "the schema"
  const parsed = parseReference(id)
  return Result.isSuccess(parsed) ? parsed.success.id : id.slice(0, 200)
}

/** Parses an identifier that a registry is filled with; the `$id` of a schema file, say. */
export const parseOwnId = (schema: unknown): Result.Result<GtsId, string> => {
  if (!isJsonObject(schema)) return Result.fail("it is not a JSON object")
  const id = schema["$id"]
  if (typeof id !== "string") return Result.fail("it has no $id")
  const parsed = isReference(id) ? parseReference(id) : parse(id)
  return Result.mapError(parsed, (error) => error.message)
}
