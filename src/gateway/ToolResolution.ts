/**
 * Turns the tools of a request into what providers take: schemas by GTS identifier are fetched, all in one look-up, and
 * schemas with references are made self-contained. A request whose tools are all in the unified form passes untouched.
 *
 * Names: a unified tool keeps its own; a tool with a GTS schema gets one derived from its identifier (`Gts.toolName`),
 * with `_2`, `_3`, … where that is taken. Which name stands for which identifier is handed back for the answer.
 */
import { Effect, Result } from "effect"
import { fail, type GatewayError, invalid, InvalidSchemaId } from "../sdk/GatewayError.ts"
import { type GtsId, maxToolName, parseReference, toolName } from "../sdk/Gts.ts"
import { isJsonObject } from "../sdk/SchemaPosition.ts"
import type { InlineGtsTool, JsonSchema, ReferenceTool, ResolvedTool, Tool, UnifiedTool } from "../sdk/Tool.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"

/** Tools as providers take them. */
export interface ResolvedTools {
  /** In the order of the request. */
  readonly tools: ReadonlyArray<ResolvedTool>
  /** The GTS identifier, without `gts://`, behind each name that was derived from one. */
  readonly nameToId: ReadonlyMap<string, string>
}

const noNames: ReadonlyMap<string, string> = new Map()

/** Up to so many tools are compared pair by pair, which is cheaper than a set. */
const fewTools = 8

const isResolved = (tool: Tool): tool is ResolvedTool => tool.type === "unified" || tool.type === "opaque"
const allResolved = (tools: ReadonlyArray<Tool>): tools is ReadonlyArray<ResolvedTool> => tools.every(isResolved)

/** The index of the first unified tool whose name an earlier one has; -1 where there is none. */
const duplicateName = (tools: ReadonlyArray<Tool>): number => {
  if (tools.length > fewTools) {
    const names = new Set<string>()
    return tools.findIndex((tool) => {
      if (tool.type !== "unified") return false
      if (names.has(tool.name)) return true
      names.add(tool.name)
      return false
    })
  }
  for (let i = 1; i < tools.length; i++) {
    const tool = tools[i]
    if (tool?.type !== "unified") continue
    for (let j = 0; j < i; j++) {
      const other = tools[j]
      if (other?.type === "unified" && other.name === tool.name) return i
    }
  }
  return -1
}

/** The name of an opaque tool, where its wire puts it: beside the type, or inside `function` or `custom`. */
const opaqueName = (value: Readonly<Record<string, unknown>>): string | undefined => {
  for (const holder of [value, value["function"], value["custom"]]) {
    if (isJsonObject(holder) && typeof holder["name"] === "string") return holder["name"]
  }
  return undefined
}

const unique = (wanted: string, taken: ReadonlySet<string>): string => {
  if (!taken.has(wanted)) return wanted
  for (let n = 2;; n++) {
    const suffix = `_${n}`
    const candidate = `${wanted.slice(0, maxToolName - suffix.length)}${suffix}`
    if (!taken.has(candidate)) return candidate
  }
}

const textOf = (schema: JsonSchema, key: string): string | undefined => {
  const value = schema[key]
  return typeof value === "string" && value !== "" ? value : undefined
}

/** Which identifier a tool means, or why that cannot be told; `i` is its place in the request. */
const idOf = (tool: ReferenceTool | InlineGtsTool, i: number): Result.Result<GtsId, InvalidSchemaId> => {
  const field = tool.type === "reference" ? `tools[${i}].schema_id` : `tools[${i}].schema.$id`
  const written = tool.type === "reference" ? tool.schemaId : tool.schema["$id"]
  if (typeof written !== "string") {
    return Result.fail(
      new InvalidSchemaId({ id: "", message: `${field}: the schema needs a GTS identifier as its $id` })
    )
  }
  return Result.mapError(
    parseReference(written),
    (error) => new InvalidSchemaId({ id: error.id, message: `${field}: ${error.message}` })
  )
}

const unified = (name: string, tool: ReferenceTool | InlineGtsTool, schema: JsonSchema): UnifiedTool => {
  const description = tool.description ?? textOf(schema, "description") ?? textOf(schema, "title")
  return {
    type: "unified",
    name,
    ...(description === undefined ? {} : { description }),
    // A tool's arguments always are an object, and several providers refuse parameters that do not say so at the top.
    parameters: "type" in schema ? schema : { type: "object", ...schema },
    ...(tool.strict === undefined ? {} : { strict: tool.strict })
  }
}

/**
 * Resolves the tools of one request. Fails with `validation_error` for two unified tools of one name, with
 * `invalid_schema_id` for an identifier that is missing or breaks the grammar, and with what the registry says:
 * `schema_not_found` names every identifier that is missing.
 */
export const resolveTools = (
  tools: ReadonlyArray<Tool>
): Effect.Effect<ResolvedTools, GatewayError, TypeRegistry> => {
  const duplicate = duplicateName(tools)
  if (duplicate >= 0) {
    return Effect.fail(fail(invalid(`tools[${duplicate}].name`, "another tool has the same name")))
  }
  return allResolved(tools) ? Effect.succeed({ tools, nameToId: noNames }) : resolve(tools)
}

const resolve = Effect.fnUntraced(function*(
  tools: ReadonlyArray<Tool>
): Effect.fn.Return<ResolvedTools, GatewayError, TypeRegistry> {
  const registry = yield* TypeRegistry
  const ids: Array<GtsId | undefined> = []
  const wanted = new Set<string>()
  const taken = new Set<string>()
  for (const [i, tool] of tools.entries()) {
    if (isResolved(tool)) {
      ids.push(undefined)
      const name = tool.type === "unified" ? tool.name : opaqueName(tool.value)
      if (name !== undefined) taken.add(name)
      continue
    }
    const id = idOf(tool, i)
    if (Result.isFailure(id)) return yield* fail(id.failure)
    ids.push(id.success)
    if (tool.type === "reference") wanted.add(id.success.id)
  }

  const order = Array.from(wanted)
  const schemas = order.length === 0 ? [] : yield* registry.resolve(order)
  const byId = new Map<string, JsonSchema>()
  for (const [i, id] of order.entries()) {
    const schema = schemas[i]
    if (schema !== undefined) byId.set(id, schema)
  }

  const resolved: Array<ResolvedTool> = []
  const nameToId = new Map<string, string>()
  for (const [i, tool] of tools.entries()) {
    const id = ids[i]
    if (isResolved(tool) || id === undefined) {
      if (isResolved(tool)) resolved.push(tool)
      continue
    }
    const schema = tool.type === "reference" ? byId.get(id.id) ?? {} : yield* registry.inline(tool.schema)
    const name = unique(toolName(id), taken)
    taken.add(name)
    nameToId.set(name, id.id)
    resolved.push(unified(name, tool, schema))
  }
  return { tools: resolved, nameToId }
})
