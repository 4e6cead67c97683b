/** The gateway's faces on a router that an app serves already, beside the app's own routes. */
import { NodeHttpServer, NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"
import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import OpenAI from "openai"
import { GatewayClient } from "../../src/client/index.ts"
import { GatewayConfig, GatewayServer } from "../../src/index.ts"
import { text, textOf } from "../../src/sdk/Content.ts"

const file = path.join(mkdtempSync(path.join(tmpdir(), "llm-gateway-mount-")), "gateway.yaml")
writeFileSync(
  file,
  "providers: { sandbox: { type: sandbox } }\nusage: { sinks: [{ type: noop }] }\nstorage: { sql: \"${WHERE}\" }\n"
)

const configured = GatewayConfig.layer(file, { environment: { WHERE: "sqlite::memory:" } })

/** An app with a route of its own, and an answer of its own for what it does not have. */
const app = (options: Partial<GatewayServer.MountOptions>) =>
  HttpRouter.serve(
    Layer.mergeAll(
      HttpRouter.add("GET", "/hello", Effect.succeed(HttpServerResponse.text("hello from the app"))),
      HttpRouter.add("GET", "/*", Effect.succeed(HttpServerResponse.text("not the app's", { status: 404 }))),
      GatewayServer.mount({ maxBodyBytes: 1_000_000, ...options })
    ),
    { disableLogger: true, disableListenLog: true }
  ).pipe(
    Layer.provide(configured),
    Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" })),
    Layer.provide(NodeServices.layer)
  )

const withApp = (
  options: Partial<GatewayServer.MountOptions>,
  test: (url: string) => Effect.Effect<void, unknown>
): Effect.Effect<void, unknown> =>
  Effect.gen(function*() {
    const { address } = yield* HttpServer.HttpServer
    yield* test(address._tag === "UnixPathAddress" ? "" : `http://127.0.0.1:${address.port}`)
  }).pipe(Effect.provide(app(options)))

const answerOf = async (url: string) => {
  const response = await fetch(url)
  return [response.status, await response.text()] as const
}
const statusOf = async (url: string, body: string) =>
  (await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body })).status
const get = (url: string) => Effect.promise(() => answerOf(url))

const question = { model: "sandbox::echo", messages: [{ role: "user" as const, content: [text("Hello!")] }] as const }

describe("mounted on an app's router", () => {
  it.live("below a prefix: SDKs, RPC and the documentation work there, and the app's routes stay its own", () =>
    withApp({ prefix: "/ai" }, (url) =>
      Effect.gen(function*() {
        const openai = new OpenAI({ baseURL: `${url}/ai/v1`, apiKey: "none" })
        const answer = yield* Effect.promise(() =>
          openai.chat.completions.create({ model: "sandbox::echo", messages: [{ role: "user", content: "Hello!" }] })
        )
        assert.strictEqual(answer.choices[0]?.message.content, "Hello!")
        for (const layer of [GatewayClient.layerHttp, GatewayClient.layerWebSocket]) {
          const response = yield* Effect.gen(function*() {
            return yield* (yield* GatewayClient).chat(question)
          }).pipe(Effect.provide(layer({ url: `${url}/ai` })))
          assert.strictEqual(textOf(response.content), "Hello!")
        }
        assert.deepStrictEqual(yield* get(`${url}/hello`), [200, "hello from the app"])
        assert.deepStrictEqual(yield* get(`${url}/nothing`), [404, "not the app's"])
        const [status, body] = yield* get(`${url}/ai/nothing`)
        assert.strictEqual(status, 404)
        assert.include(body, "not_found")
        assert.strictEqual((yield* get(`${url}/ai/health/ready`))[0], 200)
        assert.strictEqual((yield* get(`${url}/v1/models`))[0], 404)
        const [found, model] = yield* get(`${url}/ai/v1/models/sandbox::echo`)
        assert.strictEqual(found, 200, model)
      })))

  it.live("bounds the bodies of each of them, whatever the app's server takes", () =>
    withApp({ prefix: "/ai", maxBodyBytes: 1_000 }, (url) =>
      Effect.gen(function*() {
        const short = `${JSON.stringify({ _tag: "Ping" })}\n`
        for (
          const [path, body] of [
            ["/ai/v1/chat/completions", JSON.stringify({ model: "x".repeat(5_000) })],
            ["/ai/rpc", `${JSON.stringify({ _tag: "Ping", more: "x".repeat(5_000) })}\n`],
            ["/ai/rpc", short.repeat(500)]
          ] as const
        ) {
          assert.strictEqual(yield* Effect.promise(() => statusOf(url + path, body)), 413, path)
        }
      })))

  it.live("some of them, without a prefix", () =>
    withApp({ faces: ["openai", "native"] }, (url) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* get(`${url}/v1/models`))[0], 200)
        assert.strictEqual((yield* get(`${url}/llm-gateway/v1/models`))[0], 200)
        assert.deepStrictEqual(yield* get(`${url}/hello`), [200, "hello from the app"])
        assert.deepStrictEqual(yield* get(`${url}/nothing`), [404, "not the app's"])
        assert.deepStrictEqual(yield* get(`${url}/api/tags`), [404, "not the app's"])
        assert.deepStrictEqual(yield* get(`${url}/metrics`), [404, "not the app's"])
      })))

  it.live("a file that is wrong is a typed error, with the place of each problem", () =>
    Effect.gen(function*() {
      writeFileSync(file.replace(".yaml", "-wrong.yaml"), "providers: { it: { type: nothing } }\n")
      const error = yield* Effect.flip(
        Effect.scoped(Layer.build(GatewayConfig.layer(file.replace(".yaml", "-wrong.yaml"), { environment: {} })))
      )
      assert.strictEqual(error._tag, "ConfigError")
      assert.include(error.message, "providers.it.type")
    }).pipe(Effect.provide(NodeServices.layer)))
})
