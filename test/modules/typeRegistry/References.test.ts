import { assert, describe, it } from "@effect/vitest"
import { Ajv2020 } from "ajv/dist/2020.js"
import { Effect, Layer, Schema } from "effect"
import { layerMemory } from "../../../src/modules/typeRegistry/TypeRegistryMemory.ts"
import { sample } from "../../../src/plugins/providers/sandbox/JsonSample.ts"
import type { JsonSchema } from "../../../src/sdk/Tool.ts"
import { TypeRegistry } from "../../../src/sdk/TypeRegistry.ts"

const base = "gts.x.core.faas.func.v1~"
const id = (name: string, version = "v1") => `${base}acme.app._.${name}.${version}~`
const schema = (name: string, body: JsonSchema, version?: string): JsonSchema => ({
  $id: `gts://${id(name, version)}`,
  ...body
})
const ref = (name: string) => ({ $ref: `gts://${id(name)}` })

const resolve = (schemas: ReadonlyArray<JsonSchema>, ...ids: ReadonlyArray<string>) =>
  TypeRegistry.use((registry) => registry.resolve(ids)).pipe(Effect.provide(Layer.orDie(layerMemory(schemas))))
const inline = (schemas: ReadonlyArray<JsonSchema>, root: JsonSchema) =>
  TypeRegistry.use((registry) => registry.inline(root)).pipe(Effect.provide(Layer.orDie(layerMemory(schemas))))
const message = <A, E extends { readonly message: string }>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

describe("resolving", () => {
  it.effect("gives the schemas in the order asked for, without identity and dialect", () =>
    Effect.gen(function*() {
      const a = schema("a", { $schema: "https://json-schema.org/draft/2020-12/schema", type: "object", title: "A" })
      const b = schema("b", { type: "object", title: "B" })
      assert.deepStrictEqual(yield* resolve([a, b], id("b"), `gts://${id("a")}`, id("b")), [
        { type: "object", title: "B" },
        { type: "object", title: "A" },
        { type: "object", title: "B" }
      ])
    }))

  it.effect("takes the highest minor version where none is asked for", () =>
    Effect.gen(function*() {
      const schemas = ["v1.2", "v1.10", "v2.50", "v1.9"].map((version) => schema("a", { title: version }, version))
      assert.deepStrictEqual(yield* resolve(schemas, id("a"), id("a", "v1.2"), id("a", "v2")), [
        { title: "v1.10" },
        { title: "v1.2" },
        { title: "v2.50" }
      ])
    }))

  it.effect("names everything that is missing, at any depth", () =>
    Effect.gen(function*() {
      const schemas = [schema("a", { allOf: [ref("gone"), ref("b")] }), schema("b", { properties: { x: ref("lost") } })]
      const error = yield* Effect.flip(resolve(schemas, id("a"), id("absent")))
      assert.strictEqual(error.reason._tag, "SchemaNotFound")
      if (error.reason._tag === "SchemaNotFound") {
        assert.sameMembers([...error.reason.ids], [id("absent"), id("gone"), id("lost")])
        for (const missing of error.reason.ids) assert.include(error.message, missing)
      }
    }))

  it.effect("refuses an identifier that breaks the grammar", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(resolve([], "gts.x.core.faas.func.v01~"))
      assert.strictEqual(error.code, "invalid_schema_id")
    }))

  it.effect("keeps a derived schema an allOf, with its base in place", () =>
    Effect.gen(function*() {
      const schemas = [
        { $id: `gts://${base}`, type: "object", required: ["a"], properties: { a: { type: "string" } } },
        schema("derived", { allOf: [{ $ref: `gts://${base}` }, { properties: { b: { type: "integer" } } }] })
      ]
      assert.deepStrictEqual(yield* resolve(schemas, id("derived")), [{
        allOf: [
          { type: "object", required: ["a"], properties: { a: { type: "string" } } },
          { properties: { b: { type: "integer" } } }
        ]
      }])
    }))

  it.effect("keeps what stands beside a reference, and adds the schema to its allOf", () =>
    Effect.gen(function*() {
      const schemas = [
        schema("a", { type: "string", $defs: { short: { maxLength: 3 } }, allOf: [{ $ref: "#/$defs/short" }] }),
        schema("b", { properties: { x: { ...ref("a"), description: "an a", allOf: [{ minLength: 1 }] } } })
      ]
      const [b] = yield* resolve(schemas, id("b"))
      assert.deepStrictEqual(b, {
        properties: {
          x: {
            description: "an a",
            allOf: [{ minLength: 1 }, {
              type: "string",
              $defs: { short: { maxLength: 3 } },
              allOf: [{ $ref: "#/properties/x/allOf/1/$defs/short" }]
            }]
          }
        }
      })
    }))

  it.effect("rewrites the local references, anchors and embedded documents of what it puts in", () =>
    Effect.gen(function*() {
      const schemas = [
        schema("tree", {
          type: "object",
          properties: {
            "a/b": { $ref: "#" },
            leaf: { $ref: "#leaf" },
            embedded: { $id: "https://example.com/e", $defs: { n: { type: "null" } }, items: { $ref: "#/$defs/n" } }
          },
          $defs: { leaf: { $anchor: "leaf", type: "number" } }
        }),
        schema("root", { properties: { "x~y": ref("tree"), again: ref("tree") } })
      ]
      const [root] = yield* resolve(schemas, id("root"))
      const tree = (at: string) => ({
        type: "object",
        properties: {
          "a/b": { $ref: at },
          leaf: { $ref: `${at}/$defs/leaf` },
          embedded: { $defs: { n: { type: "null" } }, items: { $ref: `${at}/properties/embedded/$defs/n` } }
        },
        $defs: { leaf: { type: "number" } }
      })
      assert.deepStrictEqual(root, {
        properties: { "x~y": tree("#/properties/x~0y"), again: tree("#/properties/again") }
      })
      const validate = new Ajv2020({ strict: false }).compile(root ?? {})
      assert.isTrue(validate({ "x~y": { "a/b": { leaf: 1, embedded: [null] } } }))
      assert.isFalse(validate({ "x~y": { "a/b": { leaf: "1" } } }))
      assert.isFalse(validate({ again: { embedded: [1] } }))
    }))

  it.effect("tells a keyword from a property or a value of the same name", () =>
    Effect.gen(function*() {
      const body = {
        properties: { $ref: { type: "string" }, enum: { type: "array" }, $id: { type: "string" } },
        default: { $ref: "gts://not.looked.at" },
        enum: [{ $ref: "gts://nor.this", $id: "x" }]
      }
      assert.deepStrictEqual(yield* inline([], body), body)
    }))

  it.effect("takes property names that no URI can hold", () =>
    Effect.gen(function*() {
      const inlined = yield* inline([schema("a", { $defs: { d: {} }, items: { $ref: "#/$defs/d" } })], {
        properties: { "\ud800": ref("a") }
      })
      assert.include(JSON.stringify(inlined), "#/properties/%EF%BF%BD/$defs/d")
    }))

  it.effect("refuses a cycle and shows it", () =>
    Effect.gen(function*() {
      const schemas = [
        schema("a", { properties: { b: ref("b") } }),
        schema("b", { items: ref("c") }, "v1.4"),
        schema("c", { allOf: [ref("a")] })
      ]
      const error = yield* Effect.flip(resolve(schemas, id("a")))
      assert.strictEqual(error.code, "validation_error")
      assert.include(error.message, `cycle: ${id("a")} -> ${id("b", "v1.4")} -> ${id("c")} -> ${id("a")}`)
      // A caller's schema may not close a circle either.
      assert.include(yield* message(inline(schemas, schema("c", ref("a")))), "cycle")
    }))

  it.effect("takes 32 levels and refuses more", () =>
    Effect.gen(function*() {
      const chain = Array.from({ length: 40 }, (_, i) =>
        schema(`s${i}`, i === 39 ? { type: "null" } : { items: ref(`s${i + 1}`) }))
      yield* resolve(chain, id("s10"))
      assert.include(yield* message(resolve(chain, id("s0"))), "deeper than 32 levels")
    }))

  it.effect("bounds what shared references multiply to", () =>
    Effect.gen(function*() {
      const doubling = Array.from(
        { length: 25 },
        (_, i) => schema(`s${i}`, i === 24 ? { type: "null" } : { prefixItems: [ref(`s${i + 1}`), ref(`s${i + 1}`)] })
      )
      assert.include(yield* message(resolve(doubling, id("s0"))), "more than 50000 values")
    }))

  it.effect("refuses references that lead out of the schema, and into one", () =>
    Effect.gen(function*() {
      assert.include(
        yield* message(inline([], { $ref: "https://example.com/schema.json" })),
        "only gts:// and local references"
      )
      assert.include(
        yield* message(inline([], { items: { $ref: `gts://${id("a")}#/properties/x` } })),
        "only whole schemas"
      )
    }))

  it.effect("keeps a property called __proto__ a property", () =>
    Effect.gen(function*() {
      const body = { properties: { a: ref("a"), b: true } }
      const stored: JsonSchema = JSON.parse(`{"$id":"${id("a")}","properties":{"__proto__":{"type":"string"}}}`)
      const inlined = yield* inline([stored], body)
      assert.strictEqual(
        JSON.stringify(inlined),
        `{"properties":{"a":{"properties":{"__proto__":{"type":"string"}}},"b":true}}`
      )
    }))

  /** A random acyclic set of schemas: each refers to later ones only. */
  const Graph = Schema.Array(
    Schema.Array(
      Schema.Struct({ to: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3 })), beside: Schema.Boolean })
    )
      .check(Schema.isMaxLength(2))
  ).check(Schema.isMaxLength(8))
  it.effect.prop(
    "leaves no reference to the registry, and a schema that means the same",
    [Graph],
    ([graph]) =>
      Effect.gen(function*() {
        const schemas = [...graph, [], [], []].map((edges, i) =>
          schema(`s${i}`, {
            type: "object",
            required: ["me", ...edges.map((_, n) => `p${n}`)],
            properties: {
              me: { $ref: "#/$defs/me" },
              ...Object.fromEntries(edges.map((edge, n) => [
                `p${n}`,
                edge.beside ? { ...ref(`s${i + edge.to}`), title: "beside" } : ref(`s${i + edge.to}`)
              ]))
            },
            $defs: { me: { const: i } }
          })
        )
        const [root = {}] = yield* resolve(schemas, id("s0"))
        assert.notInclude(JSON.stringify(root), "gts.")
        // The value of each schema's own constant tells whether its local references still lead to its own definitions.
        const expected = (i: number): unknown => ({
          me: i,
          ...Object.fromEntries((graph[i] ?? []).map((edge, n) => [`p${n}`, expected(i + edge.to)]))
        })
        const validate = new Ajv2020({ strict: false }).compile(root)
        assert.isTrue(validate(expected(0)), JSON.stringify(validate.errors))
        assert.isFalse(validate({ me: -1 }))
        assert.deepStrictEqual(sample(root), expected(0))
      }),
    { arbitrary: { runs: 60 } }
  )
})

describe("the registry in memory", () => {
  it.effect("refuses schemas without a valid identifier, and two of the same", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(
        Layer.build(layerMemory([schema("a", {}), {}, { $id: "https://x" }, schema("a", {})]))
      )
      assert.strictEqual(error._tag, "InvalidSchemas")
      for (const part of ["schema 1: it has no $id", "schema 2: \"https://x\"", "schema 3: "]) {
        assert.include(error.message, part)
      }
    }))
})
