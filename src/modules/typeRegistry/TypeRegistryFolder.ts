/**
 * A TypeRegistry over a folder of JSON files, read once at start. Whatever is wrong with the folder is told then, all of
 * it at once and by file: a schema that cannot be resolved would otherwise fail the first request that needs it.
 */
import { Effect, FileSystem, Layer, Path, Result, Schema } from "effect"
import type { GtsId } from "../../sdk/Gts.ts"
import { isJsonObject } from "../../sdk/SchemaPosition.ts"
import { TypeRegistry } from "../../sdk/TypeRegistry.ts"
import { parseOwnId } from "./References.ts"
import * as SchemaIndex from "./SchemaIndex.ts"

/** The largest schema file, in bytes. */
const maxFileSize = 1024 * 1024

/** The folder cannot serve as a TypeRegistry: files with what is wrong in each. */
export class SchemaFolderError extends Schema.TaggedError<SchemaFolderError>()("SchemaFolderError", {
  dir: Schema.String,
  /** `file` is relative to `dir`; empty where the folder itself cannot be read. */
  problems: Schema.Array(Schema.Struct({ file: Schema.String, problem: Schema.String }))
}) {
  override get message() {
    return `the schemas in ${this.dir} cannot be used:\n${
      this.problems.map(({ file, problem }) => file === "" ? `  ${problem}` : `  ${file}: ${problem}`).join("\n")
    }`
  }
}

const parseJson = (text: string): Result.Result<unknown, string> =>
  Result.try({ try: () => JSON.parse(text), catch: () => "it is not JSON" })

/**
 * Holds every `*.json` file under `dir`, at any depth, under the GTS identifier in its `$id` (`gts://gts.…` or `gts.…`).
 * Fails at start, naming the files, where one is not a JSON object of at most 1 MiB with a valid `$id`, where two have
 * the same `$id`, and where a reference leads nowhere or in a circle.
 */
export const layerFolder = (
  options: { readonly dir: string }
): Layer.Layer<TypeRegistry, SchemaFolderError, FileSystem.FileSystem | Path.Path> =>
  Layer.effect(TypeRegistry, load(options.dir))

const load = Effect.fn("TypeRegistryFolder.load")(
  function*(dir: string): Effect.fn.Return<
    TypeRegistry["Service"],
    SchemaFolderError,
    FileSystem.FileSystem | Path.Path
  > {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const names = yield* fs.readDirectory(dir, { recursive: true }).pipe(
      Effect.mapError((error) =>
        new SchemaFolderError({
          dir,
          problems: [{ file: "", problem: `the folder cannot be read (${error.reason._tag})` }]
        })
      )
    )
    const index = SchemaIndex.make()
    const problems: Array<{ readonly file: string; readonly problem: string }> = []
    const loaded: Array<{ readonly file: string; readonly id: GtsId }> = []

    // In a fixed order, so that of two files with one identifier always the same is told.
    for (const file of names.filter((name) => name.endsWith(".json")).sort()) {
      const read = yield* Effect.result(readSchema(fs, path.join(dir, file)))
      if (Result.isFailure(read)) {
        problems.push({ file, problem: read.failure })
        continue
      }
      if (read.success === undefined) continue
      const { id, schema } = read.success
      if (Result.isFailure(index.add(id, schema))) {
        const first = loaded.find((entry) => entry.id.id === id.id)?.file ?? "another file"
        problems.push({ file, problem: `${id.id} is in ${first} already` })
      } else loaded.push({ file, id })
    }

    const registry = SchemaIndex.registry(index)
    for (const { file, id } of loaded) {
      const resolved = yield* Effect.result(registry.resolve([id.id]))
      if (Result.isFailure(resolved)) problems.push({ file, problem: resolved.failure.message })
    }
    return problems.length > 0 ? yield* new SchemaFolderError({ dir, problems }) : registry
  }
)

/** Reads one file; `undefined` for a folder that is called like one. */
const readSchema = Effect.fnUntraced(function*(fs: FileSystem.FileSystem, file: string) {
  const info = yield* Effect.mapError(fs.stat(file), (error) => `it cannot be read (${error.reason._tag})`)
  if (info.type === "Directory") return undefined
  if (Number(info.size) > maxFileSize) return yield* Effect.fail(`it is larger than ${maxFileSize} bytes`)
  const text = yield* Effect.mapError(fs.readFileString(file), (error) => `it cannot be read (${error.reason._tag})`)
  const schema = yield* Effect.fromResult(parseJson(text))
  const id = yield* Effect.fromResult(parseOwnId(schema))
  return isJsonObject(schema) ? { id, schema } : yield* Effect.fail("it is not a JSON object")
})
