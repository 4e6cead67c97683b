import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Ref, Schema } from "effect"
import { resolveTools } from "../../src/gateway/ToolResolution.ts"
import { layerMemory } from "../../src/modules/typeRegistry/TypeRegistryMemory.ts"
import type { JsonSchema, ResolvedTool, Tool } from "../../src/sdk/Tool.ts"
import { TypeRegistry } from "../../src/sdk/TypeRegistry.ts"

const base = "gts.x.core.faas.func.v1~"
const id = (name: string, vendor = "acme") => `${base}${vendor}.app._.${name}.v1~`
const reference = (schemaId: string): Tool => ({ type: "reference", schemaId })
const unified = (name: string): Tool => ({ type: "unified", name })

/** A registry that must not be asked. */
const untouched = Layer.succeed(TypeRegistry, {
  resolve: () => Effect.die("unexpected look-up"),
  inline: () => Effect.die("unexpected inlining")
})
const withSchemas = (...schemas: ReadonlyArray<JsonSchema>) => Effect.provide(Layer.orDie(layerMemory(schemas)))
const nameOf = (tool: ResolvedTool) => tool.type === "unified" ? tool.name : ""

describe("resolveTools", () => {
  it.effect("hands unified and opaque tools on as they are, without asking the registry", () =>
    Effect.gen(function*() {
      const tools: ReadonlyArray<Tool> = [unified("a"), {
        type: "opaque",
        wire: "openai",
        value: { type: "web_search" }
      }, unified("b")]
      const resolved = yield* resolveTools(tools)
      assert.strictEqual(resolved.tools, tools)
      assert.strictEqual(resolved.nameToId.size, 0)
    }).pipe(Effect.provide(untouched)))

  it.effect("refuses two unified tools of one name, however many there are", () =>
    Effect.gen(function*() {
      for (const others of [0, 3, 40]) {
        const tools = [unified("same"), ...Array.from({ length: others }, (_, i) => unified(`t${i}`)), unified("same")]
        const error = yield* Effect.flip(resolveTools(tools))
        assert.strictEqual(error.code, "validation_error")
        assert.strictEqual(error.field, `tools[${others + 1}].name`)
      }
    }).pipe(Effect.provide(untouched)))

  it.effect("makes unified tools of the others, in order, with their schemas self-contained", () =>
    Effect.gen(function*() {
      const resolved = yield* resolveTools([
        { type: "reference", schemaId: `gts://${id("find")}`, strict: true },
        unified("own"),
        {
          type: "inline_gts",
          schema: { $id: `gts://${id("mine")}`, properties: { q: { $ref: `gts://${id("query")}` } } }
        },
        { type: "reference", schemaId: id("query"), description: "told by the caller" }
      ])
      assert.deepStrictEqual(resolved.tools, [
        {
          type: "unified",
          name: "find",
          description: "Finds things",
          parameters: { type: "object", allOf: [{ type: "object", title: "Query" }], description: "Finds things" },
          strict: true
        },
        { type: "unified", name: "own" },
        {
          type: "unified",
          name: "mine",
          parameters: { type: "object", properties: { q: { type: "object", title: "Query" } } }
        },
        {
          type: "unified",
          name: "query",
          description: "told by the caller",
          parameters: { type: "object", title: "Query" }
        }
      ])
      assert.deepStrictEqual(Array.from(resolved.nameToId), [["find", id("find")], ["mine", id("mine")], [
        "query",
        id("query")
      ]])
    }).pipe(withSchemas(
      { $id: `gts://${id("find")}`, allOf: [{ $ref: `gts://${id("query")}` }], description: "Finds things" },
      { $id: `gts://${id("query")}`, type: "object", title: "Query" }
    )))

  it.effect("falls back to the schema's title for a description", () =>
    Effect.gen(function*() {
      const { tools } = yield* resolveTools([reference(id("query"))])
      assert.strictEqual(tools[0]?.type === "unified" ? tools[0].description : "", "Query")
    }).pipe(withSchemas({ $id: `gts://${id("query")}`, type: "object", title: "Query" })))

  it.effect("looks all references up in one call, each once", () =>
    Effect.gen(function*() {
      const calls = yield* Ref.make<ReadonlyArray<ReadonlyArray<string>>>([])
      const registry = Layer.succeed(TypeRegistry, {
        resolve: (ids) => Effect.as(Ref.update(calls, (seen) => [...seen, ids]), ids.map((title) => ({ title }))),
        inline: Effect.succeed
      })
      const tools = [reference(id("a")), unified("u"), reference(`gts://${id("b")}`), reference(id("a"))]
      const resolved = yield* resolveTools(tools).pipe(Effect.provide(registry))
      assert.deepStrictEqual(yield* Ref.get(calls), [[id("a"), id("b")]])
      assert.deepStrictEqual(resolved.tools.map(nameOf), ["a", "u", "b", "a_2"])
    }))

  it.effect("names every schema that is missing", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(resolveTools([reference(id("a")), reference(id("b"))]))
      assert.strictEqual(error.code, "schema_not_found")
      assert.deepStrictEqual("ids" in error.reason ? error.reason.ids : [], [id("a"), id("b")])
    }).pipe(withSchemas()))

  it.effect("tells which tool has a bad identifier, and why", () =>
    Effect.gen(function*() {
      const bad: ReadonlyArray<readonly [Tool, string]> = [
        [reference("gts.x.core.faas.func.v01~"), "tools[1].schema_id: "],
        [{ type: "inline_gts", schema: {} }, "tools[1].schema.$id: "],
        [{ type: "inline_gts", schema: { $id: 1 } }, "tools[1].schema.$id: "],
        [{ type: "inline_gts", schema: { $id: "https://example.com" } }, "tools[1].schema.$id: "]
      ]
      for (const [tool, start] of bad) {
        const error = yield* Effect.flip(resolveTools([unified("a"), tool]))
        assert.strictEqual(error.code, "invalid_schema_id")
        assert.isTrue(error.message.startsWith(start), error.message)
      }
    }).pipe(Effect.provide(untouched)))

  it.effect("leaves the names of unified and opaque tools alone and moves its own out of their way", () =>
    Effect.gen(function*() {
      const { nameToId, tools } = yield* resolveTools([
        reference(id("find")),
        unified("find"),
        { type: "opaque", wire: "openai", value: { type: "custom", custom: { name: "find_2" } } },
        reference(id("find", "other"))
      ])
      assert.deepStrictEqual(tools.map(nameOf), ["find_3", "find", "", "find_4"])
      assert.strictEqual(nameToId.get("find_3"), id("find"))
      assert.strictEqual(nameToId.get("find_4"), id("find", "other"))
    }).pipe(withSchemas({ $id: id("find") }, { $id: id("find", "other") })))

  const Names = Schema.Array(Schema.Struct({
    kind: Schema.Literals(["unified", "reference", "inline_gts"]),
    // Few names, some of them at and beyond the limit, so that many collide.
    name: Schema.Literals([
      "a",
      "a_2",
      "a_3",
      "b",
      "x".repeat(63),
      "x".repeat(64),
      `${"x".repeat(62)}_2`,
      "x".repeat(80)
    ])
  })).check(Schema.isMaxLength(40))
  it.effect.prop(
    "names are unique within the request, and such as providers take",
    [Names],
    ([wanted]) =>
      Effect.gen(function*() {
        const seen = new Set<string>()
        const tools = wanted.flatMap(({ kind, name }): ReadonlyArray<Tool> => {
          if (kind === "reference") return [reference(id(name))]
          if (kind === "inline_gts") return [{ type: "inline_gts", schema: { $id: id(name) } }]
          const short = name.slice(0, 64)
          if (seen.has(short)) return []
          seen.add(short)
          return [unified(short)]
        })
        const registry = Layer.succeed(TypeRegistry, {
          resolve: (ids) => Effect.succeed(ids.map(() => ({}))),
          inline: Effect.succeed
        })
        const resolved = yield* resolveTools(tools).pipe(Effect.provide(registry))
        const names = resolved.tools.map(nameOf)
        assert.strictEqual(new Set(names).size, tools.length)
        for (const [i, tool] of tools.entries()) {
          const name = names[i] ?? ""
          assert.match(name, /^[A-Za-z0-9_-]{1,64}$/)
          if (tool.type === "unified") assert.strictEqual(name, tool.name)
          if (tool.type === "reference") assert.strictEqual(resolved.nameToId.get(name), tool.schemaId)
        }
      })
  )
})
