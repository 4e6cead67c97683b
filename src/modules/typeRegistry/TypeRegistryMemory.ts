/** A TypeRegistry over schemas given as values: for apps that have theirs in code, and for tests. */
import { Effect, Layer, Result, Schema } from "effect"
import type { JsonSchema } from "../../sdk/Tool.ts"
import { TypeRegistry } from "../../sdk/TypeRegistry.ts"
import { parseOwnId } from "./References.ts"
import * as SchemaIndex from "./SchemaIndex.ts"

/** Schemas that cannot be held, each with its place in the list and the reason. */
export class InvalidSchemas extends Schema.TaggedError<InvalidSchemas>()("InvalidSchemas", {
  problems: Schema.Array(Schema.Struct({ index: Schema.Int, problem: Schema.String }))
}) {
  override get message() {
    return this.problems.map(({ index, problem }) => `schema ${index}: ${problem}`).join("\n")
  }
}

/**
 * Holds `schemas`, each under the GTS identifier in its `$id` (`gts://gts.…` or `gts.…`). Fails where one has none, or
 * two have the same. References among them are resolved when they are asked for.
 */
export const layerMemory = (schemas: ReadonlyArray<JsonSchema>): Layer.Layer<TypeRegistry, InvalidSchemas> =>
  Layer.effect(
    TypeRegistry,
    Effect.suspend(() => {
      const index = SchemaIndex.make()
      const problems: Array<{ readonly index: number; readonly problem: string }> = []
      for (const [i, schema] of schemas.entries()) {
        const id = parseOwnId(schema)
        if (Result.isFailure(id)) problems.push({ index: i, problem: id.failure })
        else if (Result.isFailure(index.add(id.success, schema))) {
          problems.push({ index: i, problem: `${id.success.id} is there already` })
        }
      }
      return problems.length > 0
        ? Effect.fail(new InvalidSchemas({ problems }))
        : Effect.succeed(SchemaIndex.registry(index))
    })
  )
