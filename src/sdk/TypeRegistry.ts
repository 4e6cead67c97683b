/** Tool schemas by GTS identifier. The identifiers' grammar is the Global Type System's (gts-spec 0.7 and later). */
import { Context, Effect, Layer } from "effect"
import { fail, type GatewayError, SchemaNotFound } from "./GatewayError.ts"
import type { JsonSchema } from "./Tool.ts"

/** Holds schemas; what implements it keeps them in a folder, behind HTTP, or in memory. */
export class TypeRegistry extends Context.Service<TypeRegistry, {
  /**
   * The schemas of all `ids`, in one look-up, in the ids' order: self-contained, without any `gts://` reference left.
   * Fails with `invalid_schema_id` for an id that breaks the grammar, and with `schema_not_found` naming every id that
   * is missing.
   */
  readonly resolve: (ids: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<JsonSchema>, GatewayError>
  /** Replaces the `gts://` references inside a schema given by the caller. */
  readonly inline: (schema: JsonSchema) => Effect.Effect<JsonSchema, GatewayError>
}>()("llm-gateway/sdk/TypeRegistry") {
  /** A registry without schemas. */
  static readonly layerEmpty: Layer.Layer<TypeRegistry> = Layer.succeed(TypeRegistry, {
    resolve: (ids) =>
      ids.length === 0 ? Effect.succeed([]) : Effect.fail(fail(
        new SchemaNotFound({ message: `no type registry is configured; cannot find ${ids.join(", ")}`, ids })
      )),
    inline: Effect.succeed
  })
}
