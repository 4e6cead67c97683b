import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Redacted, Ref, Schema } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { type HttpOptions, layerHttp } from "../../../src/modules/typeRegistry/TypeRegistryHttp.ts"
import type { JsonSchema } from "../../../src/sdk/Tool.ts"
import { TypeRegistry } from "../../../src/sdk/TypeRegistry.ts"

const base = "gts.x.core.faas.func.v1~"
const id = (name: string) => `${base}acme.app._.${name}.v1~`

const Body = Schema.Struct({ ids: Schema.Array(Schema.String) })

interface Call {
  readonly ids: ReadonlyArray<string>
  readonly key: string | undefined
}

/** A TypeRegistry in front of a real server that speaks the protocol, or answers something else. */
const setup = Effect.fnUntraced(function*(
  schemas: Record<string, JsonSchema>,
  options: Partial<HttpOptions> = {},
  answer?: Effect.Effect<HttpServerResponse.HttpServerResponse>
) {
  const calls = yield* Ref.make<ReadonlyArray<Call>>([])
  const called = yield* Deferred.make<void>()
  const route = HttpRouter.add(
    "POST",
    "/types/resolve",
    Effect.gen(function*() {
      const { ids } = yield* HttpServerRequest.schemaBodyJson(Body)
      const { headers } = yield* HttpServerRequest.HttpServerRequest
      yield* Ref.update(calls, (seen) => [...seen, { ids, key: headers["x-key"] }])
      yield* Deferred.succeed(called, undefined)
      if (answer !== undefined) return yield* answer
      return HttpServerResponse.jsonUnsafe({
        schemas: Object.fromEntries(ids.filter((id) => id in schemas).map((id) => [id, schemas[id]])),
        missing: ids.filter((id) => !(id in schemas))
      })
    })
  )
  const context = yield* Layer.build(
    layerHttp({ url: "/types/", ...options }).pipe(
      Layer.merge(HttpRouter.serve(route, { disableLogger: true, disableListenLog: true })),
      Layer.provide(NodeHttpServer.layerTest)
    )
  )
  return { registry: Context.get(context, TypeRegistry), calls: Ref.get(calls), called: Deferred.await(called) }
})

describe("the registry behind HTTP", () => {
  it.effect("asks for all schemas in one call, and for what they refer to in one more", () =>
    Effect.gen(function*() {
      const { calls, registry } = yield* setup({
        [id("a")]: { $id: `gts://${id("a")}`, items: { $ref: `gts://${id("c")}` } },
        [id("b")]: {
          $id: `gts://${id("b")}`,
          items: { $ref: `gts://${id("d")}` },
          allOf: [{ $ref: `gts://${id("a")}` }]
        },
        [id("c")]: { type: "string" },
        [id("d")]: { type: "number" }
      }, { headers: { "x-key": Redacted.make("secret") } })
      assert.deepStrictEqual(yield* registry.resolve([id("b"), id("a"), id("b")]), [
        { items: { type: "number" }, allOf: [{ items: { type: "string" } }] },
        { items: { type: "string" } },
        { items: { type: "number" }, allOf: [{ items: { type: "string" } }] }
      ])
      assert.deepStrictEqual(yield* calls, [
        { ids: [id("b"), id("a")], key: "secret" },
        { ids: [id("d"), id("c")], key: "secret" }
      ])
    }))

  it.effect("remembers answers for their time, and missing ones for a short time", () =>
    Effect.gen(function*() {
      const { calls, registry } = yield* setup({ [id("a")]: { type: "string" } }, {
        ttl: "1 minute",
        missingTtl: "2 seconds"
      })
      const count = Effect.map(calls, (calls) => calls.length)
      const missing = Effect.map(Effect.flip(registry.resolve([id("a"), id("gone")])), (error) => error.code)
      assert.strictEqual(yield* missing, "schema_not_found")
      assert.strictEqual(yield* missing, "schema_not_found")
      yield* registry.resolve([id("a")])
      assert.strictEqual(yield* count, 1)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* missing, "schema_not_found")
      assert.deepStrictEqual((yield* calls)[1]?.ids, [id("gone")])
      yield* TestClock.adjust("57 seconds")
      yield* registry.resolve([id("a")])
      assert.strictEqual(yield* count, 2)
      yield* TestClock.adjust("1 second")
      yield* registry.resolve([id("a")])
      assert.strictEqual(yield* count, 3)
    }))

  it.effect("keeps no more answers than it may, those in use longest", () =>
    Effect.gen(function*() {
      const { calls, registry } = yield* setup(
        Object.fromEntries(["a", "b", "c"].map((name) => [id(name), { title: name }])),
        { capacity: 2 }
      )
      for (const name of ["a", "b", "a", "c", "a", "b"]) yield* registry.resolve([id(name)])
      assert.deepStrictEqual((yield* calls).map((call) => call.ids), [[id("a")], [id("b")], [id("c")], [id("b")]])
    }))

  it.effect("is unavailable while the registry fails or breaks the protocol, and asks again", () =>
    Effect.gen(function*() {
      const answers = [
        HttpServerResponse.text("secret words", { status: 500 }),
        HttpServerResponse.text("<html>"),
        HttpServerResponse.text(`{"schemas":{},"padding":"${"x".repeat(16 * 1024 * 1024)}"}`),
        HttpServerResponse.jsonUnsafe({ missing: [] }),
        HttpServerResponse.jsonUnsafe({ schemas: { [id("a")]: 1 } })
      ]
      for (const answer of answers) {
        const { calls, registry } = yield* setup({}, {}, Effect.succeed(answer))
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(registry.resolve([id("a")]))
          assert.strictEqual(error.code, "store_unavailable")
          assert.strictEqual("store" in error.reason ? error.reason.store : "", "type registry")
          assert.notInclude(error.message, "secret words")
        }
        assert.lengthOf(yield* calls, 2)
      }
    }))

  it.effect("is unavailable when the registry does not answer in time", () =>
    Effect.gen(function*() {
      const { called, registry } = yield* setup({}, { timeout: "3 seconds" }, Effect.never)
      const fiber = yield* Effect.forkChild(Effect.flip(registry.resolve([id("a")])))
      yield* called
      yield* TestClock.adjust("3 seconds")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.code, "store_unavailable")
      assert.include(error.message, "3000 ms")
    }))
})
