/** Tools that a model may ask for. The gateway hands their schemas on and never runs them. */
import { Schema } from "effect"
import { CacheControl, Extensions } from "./Content.ts"

/** A JSON Schema document, handed on unchanged. */
export const JsonSchema = Schema.Record(Schema.String, Schema.Unknown)
export type JsonSchema = typeof JsonSchema.Type

/** A tool with its schema in the request; what every other form is resolved to before a provider sees it. */
export const UnifiedTool = Schema.Struct({
  type: Schema.Literal("unified"),
  name: Schema.NonEmptyString,
  description: Schema.optionalKey(Schema.String),
  parameters: Schema.optionalKey(JsonSchema),
  strict: Schema.optionalKey(Schema.Boolean),
  cacheControl: Schema.optionalKey(CacheControl),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ cacheControl: "cache_control" }))
export interface UnifiedTool extends Schema.Schema.Type<typeof UnifiedTool> {}

/** A tool whose schema the TypeRegistry holds under a GTS identifier (see `gts.md`). */
export const ReferenceTool = Schema.Struct({
  type: Schema.Literal("reference"),
  schemaId: Schema.NonEmptyString,
  description: Schema.optionalKey(Schema.String),
  strict: Schema.optionalKey(Schema.Boolean)
}).pipe(Schema.encodeKeys({ schemaId: "schema_id" }))
export interface ReferenceTool extends Schema.Schema.Type<typeof ReferenceTool> {}

/** A GTS schema given in the request itself; its `$id` names the tool. */
export const InlineGtsTool = Schema.Struct({
  type: Schema.Literal("inline_gts"),
  schema: JsonSchema,
  description: Schema.optionalKey(Schema.String),
  strict: Schema.optionalKey(Schema.Boolean)
})
export interface InlineGtsTool extends Schema.Schema.Type<typeof InlineGtsTool> {}

/** A tool of one wire alone (a hosted web search, a custom tool): handed through to that wire, refused by name elsewhere. */
export const OpaqueTool = Schema.Struct({
  type: Schema.Literal("opaque"),
  wire: Schema.NonEmptyString,
  value: Schema.Record(Schema.String, Schema.Unknown)
})
export interface OpaqueTool extends Schema.Schema.Type<typeof OpaqueTool> {}

/** Any form in which a request can name a tool. */
export const Tool = Schema.Union([UnifiedTool, ReferenceTool, InlineGtsTool, OpaqueTool])
export type Tool = typeof Tool.Type

/** The forms that reach a provider. */
export type ResolvedTool = UnifiedTool | OpaqueTool

/** Which tools the model may or must call. `allowed` narrows the list for this turn without changing it. */
export const ToolChoice = Schema.Union([
  Schema.Struct({ type: Schema.Literals(["auto", "none", "required"]) }),
  Schema.Struct({ type: Schema.Literal("tool"), name: Schema.NonEmptyString }),
  Schema.Struct({
    type: Schema.Literal("allowed"),
    mode: Schema.Literals(["auto", "required"]),
    names: Schema.Array(Schema.NonEmptyString)
  })
])
export type ToolChoice = typeof ToolChoice.Type
