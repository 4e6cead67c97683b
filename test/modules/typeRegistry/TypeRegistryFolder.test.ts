import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path } from "effect"
import { layerFolder } from "../../../src/modules/typeRegistry/TypeRegistryFolder.ts"
import { TypeRegistry } from "../../../src/sdk/TypeRegistry.ts"

const base = "gts.x.core.faas.func.v1~"
const id = (name: string) => `${base}acme.app._.${name}.v1~`

/** A folder with these files, gone after the test. */
const folder = Effect.fnUntraced(function*(files: Readonly<Record<string, string>>) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const dir = yield* fs.makeTempDirectoryScoped()
  for (const [name, text] of Object.entries(files)) {
    yield* fs.makeDirectory(path.dirname(path.join(dir, name)), { recursive: true })
    yield* fs.writeFileString(path.join(dir, name), text)
  }
  return dir
})
const failure = (dir: string) => Effect.flip(Layer.build(layerFolder({ dir })))

layer(NodeServices.layer)("the registry over a folder", (it) => {
  it.effect("holds every JSON file, at any depth, and nothing else", () =>
    Effect.gen(function*() {
      const dir = yield* folder({
        "find.json": JSON.stringify({ $id: `gts://${id("find")}`, allOf: [{ $ref: `gts://${id("query")}` }] }),
        "shared/deep/query.json": JSON.stringify({ $id: id("query"), type: "object" }),
        "README.md": "not a schema",
        "folder.json/inner.json": JSON.stringify({ $id: id("inner") })
      })
      const schemas = yield* TypeRegistry.use((registry) => registry.resolve([id("find"), id("inner")])).pipe(
        Effect.provide(layerFolder({ dir }))
      )
      assert.deepStrictEqual(schemas, [{ allOf: [{ type: "object" }] }, {}])
    }))

  it.effect("tells at start all that is wrong, file by file", () =>
    Effect.gen(function*() {
      const dir = yield* folder({
        "a.json": JSON.stringify({ $id: id("a") }),
        "b/again.json": JSON.stringify({ $id: `gts://${id("a")}` }),
        "broken.json": "{",
        "circle.json": JSON.stringify({ $id: id("circle"), items: { $ref: `gts://${id("circle")}` } }),
        "dangling.json": JSON.stringify({ $id: id("dangling"), items: { $ref: `gts://${id("nowhere")}` } }),
        "huge.json": JSON.stringify({ $id: id("huge"), description: "x".repeat(1024 * 1024) }),
        "list.json": "[]",
        "nameless.json": "{}",
        "wrong.json": JSON.stringify({ $id: "gts://gts.x.core.faas.func.v1" })
      })
      const error = yield* failure(dir)
      assert.strictEqual(error._tag, "SchemaFolderError")
      const told = Object.fromEntries(error.problems.map(({ file, problem }) => [file, problem]))
      assert.sameMembers(Object.keys(told), [
        "b/again.json",
        "broken.json",
        "circle.json",
        "dangling.json",
        "huge.json",
        "list.json",
        "nameless.json",
        "wrong.json"
      ])
      assert.include(told["b/again.json"], "is in a.json already")
      assert.include(told["circle.json"], "cycle")
      assert.include(told["dangling.json"], id("nowhere"))
      assert.include(told["wrong.json"], "must end in \"~\"")
      for (const file of Object.keys(told)) assert.include(error.message, file)
    }))

  it.effect("fails where the folder is not there", () =>
    Effect.gen(function*() {
      const error = yield* failure("/nowhere/at/all")
      assert.include(error.message, "cannot be read (NotFound)")
    }))
})
