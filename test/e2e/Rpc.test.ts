/**
 * The typed client against the running gateway: over HTTP, over a WebSocket and in process, with real upstreams behind it. What
 * holds over HTTP holds here: keys, limits, records, cancellation; and errors arrive as what they are.
 */
import { NodeHttpServer, NodeServices } from "@effect/platform-node"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Redacted, Result, Schedule, Schema, Stream } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { RpcSerialization, RpcServer } from "effect/rpc"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import path from "node:path"
import { GatewayClient } from "../../src/client/index.ts"
import * as ConfigFile from "../../src/config/ConfigFile.ts"
import * as GatewayLayer from "../../src/config/GatewayLayer.ts"
import * as InProcess from "../../src/gateway/InProcess.ts"
import { type Caller, CurrentCaller, CurrentRequest } from "../../src/sdk/Caller.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { text, textOf } from "../../src/sdk/Content.ts"
import { fail, GatewayError, GatewayErrorReason, InternalError } from "../../src/sdk/GatewayError.ts"
import type { NewJob } from "../../src/sdk/Job.ts"
import { ModelRegistry } from "../../src/sdk/ModelRegistry.ts"
import { GatewayCaller, GatewayRpc } from "../../src/sdk/GatewayRpc.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { serve } from "../fixtures/ServedGateway.ts"
import { stream } from "../fixtures/Script.ts"

let upstream: FakeUpstream
let gateway: RunningGateway
let yaml: string
let folder: string

const secret = "sk-test-0123456789abcdef"
const key = Redacted.make(secret)

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "llm-gateway-"))
  upstream = await startFakeUpstream()
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(secret))
  yaml = `
auth:
  mode: keys
  keys: [{ id: k1, sha256: ${Buffer.from(digest).toString("hex")}, tenant: acme, admin: true }]
tenants:
  acme: { budgets: [{ per: tenant, usd: 100, window: total }] }
providers:
  it: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
  sandbox: { type: sandbox }
models:
  - { id: "it::m", prices: { input_mtok: 1, output_mtok: 2 } }
routes:
  quick: { models: ["sandbox::echo", "it::m"] }
usage: { sinks: [{ type: sql }], durability: strict }
storage: { sql: "sqlite::memory:", files: { dir: "${folder}" } }
`
  gateway = await startGateway(yaml)
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
  rmSync(folder, { recursive: true, force: true })
})

const question = (model: string, says = "Hello, gateway!"): ChatRequest => ({
  model,
  messages: [{ role: "user", content: [text(says)] }]
})

/** The gateway in this process, as an app composes it. */
const inProcess = () =>
  GatewayClient.layerInProcess.pipe(
    Layer.provide(InProcess.layer),
    Layer.provideMerge(Layer.effectDiscard(Effect.flatMap(ModelRegistry, ({ refresh }) => refresh))),
    Layer.provide(GatewayLayer.layer(Result.getOrThrow(ConfigFile.parse(yaml, "gateway.yaml", {})))),
    Layer.provide(NodeServices.layer),
    Layer.orDie
  )

/** A while in which a stream that is not held back would send megabytes. */
const quiet = () =>
  new Promise<void>((resolve) => {
    setTimeout(resolve, 200)
  })

/** The bytes that the upstream has sent when it could send no more. */
const sentUntilItStops = async (): Promise<number> => {
  await upstream.waitForEvents(0, 1)
  for (let before = -1;;) {
    await quiet()
    const { bytesSent } = upstream.request(0)
    if (bytesSent === before) return bytesSent
    before = bytesSent
  }
}

const ways = {
  "over HTTP": () => GatewayClient.layerHttp({ url: gateway.url, key }),
  "over a WebSocket": () => GatewayClient.layerWebSocket({ url: gateway.url, key }),
  "in process": inProcess
}

/** Over a network the key says who calls; in process the app does. */
const acme: Caller = { tenant: "acme", tags: [], admin: true }

describe.each(Object.entries(ways))("%s", (way, layer) => {
  const it_ = (name: string, test: () => Effect.Effect<void, unknown, GatewayClient>) =>
    it.live(name, () => test().pipe(Effect.provide(layer()), Effect.provideService(CurrentCaller, acme)))

  it_("answers, streams, embeds and counts", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      const answer = yield* client.chat(question("sandbox::echo"))
      assert.strictEqual(textOf(answer.content), "Hello, gateway!")
      assert.strictEqual(answer.modelUsed, "sandbox::echo")
      const chunks = yield* Stream.runCollect(client.streamChat(question("sandbox::echo")))
      const said = chunks.flatMap(({ delta }) => delta).map((delta) => delta.type === "text" ? delta.text : "").join("")
      assert.strictEqual(said, "Hello, gateway!")
      assert.strictEqual(chunks.findLast(({ usage }) => usage !== undefined)?.usage?.outputTokens, 2)
      const vectors = yield* client.embed({ model: "sandbox::embed", input: ["a", "b"], dimensions: 8 })
      assert.deepStrictEqual(vectors.embeddings.map(({ length }) => length), [8, 8])
      assert.isAbove((yield* client.countTokens(question("sandbox::echo"))).inputTokens, 0)
      const video = yield* client.video({ model: "sandbox::video", prompt: "a cat", seconds: 1 })
      assert.deepStrictEqual(video.files.map(({ contentType }) => contentType), ["video/mp4"])
    }))

  it_("tells of models, routes, usage and budgets", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      assert.include((yield* client.models).map(({ id }) => id), "sandbox::echo")
      assert.strictEqual((yield* client.model("sandbox::echo")).provider, "sandbox")
      assert.deepStrictEqual((yield* client.routes).map(({ name }) => name), ["quick"])
      const explained = yield* client.explain(question("quick"))
      assert.deepStrictEqual(explained.candidates.map(({ model }) => model), ["sandbox::echo", "it::m"])
      yield* client.chat(question("sandbox::echo")).pipe(
        Effect.provideService(CurrentRequest, { tags: [`tag-${way.replaceAll(" ", "-")}`], user: "ann" })
      )
      const report = yield* client.usage({ groupBy: ["tag", "user"], tag: `tag-${way.replaceAll(" ", "-")}` })
      assert.deepStrictEqual(
        report.rows.map(({ group, requests }) => [group["user"], requests]),
        [["ann", 1]]
      )
      const budgets = yield* client.budgets
      assert.deepStrictEqual(budgets.map(({ limitUsd }) => limitUsd), [100])
    }))

  it_("makes a job, watches it, fetches its answer and finds it in the list", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      upstream.reset()
      upstream.always(openAi.chat({ text: "done" }))
      const job: NewJob = {
        operation: "chat",
        request: { model: "it::m", messages: [{ role: "user", content: "hello" }] }
      }
      const idempotencyKey = `rpc-${way.replaceAll(" ", "-")}`
      const { id, status } = yield* client.createJob(job, { idempotencyKey })
      assert.strictEqual(status, "pending")
      assert.strictEqual((yield* client.createJob(job, { idempotencyKey })).id, id)
      const seen = yield* Stream.runCollect(client.watchJob(id))
      assert.strictEqual(seen.at(-1)?.status, "completed")
      const ended = yield* client.job(id, { waitMs: 30_000 })
      assert.deepInclude(ended.result, { content: [{ type: "text", text: "done" }] })
      assert.strictEqual(upstream.requests.length, 1)
      const page = yield* client.jobs({ operation: "chat", status: "completed", limit: 1 })
      assert.deepStrictEqual(page.jobs.map((job) => [job.id, job.result]), [[id, undefined]])
      const missing = yield* Effect.flip(client.job("job_0"))
      assert.strictEqual(missing instanceof GatewayError && missing.code, "job_not_found")
      const unseen = yield* Effect.flip(Stream.runDrain(client.watchJob("job_0")))
      assert.strictEqual(unseen instanceof GatewayError && unseen.code, "job_not_found")
    }))

  it_(
    "cancels a job, whose provider's connection closes, and goes on with one that nobody watches any more",
    () =>
      Effect.gen(function*() {
        const client = yield* GatewayClient
        upstream.reset()
        upstream.always(withFault(openAi.chat({ text: "late" }), fault.hang))
        const { id } = yield* client.createJob({
          operation: "chat",
          request: { model: "it::m", messages: [{ role: "user", content: "hello" }] }
        })
        yield* Stream.runDrain(Stream.takeUntil(client.watchJob(id), ({ status }) => status === "running"))
        yield* Effect.promise(() => upstream.waitForRequest(0))
        assert.strictEqual((yield* client.job(id)).status, "running")
        assert.strictEqual((yield* client.cancelJob(id)).status, "cancelled")
        assert.isTrue((yield* Effect.promise(() => upstream.waitForClose(0, 2_000))).aborted)
        assert.strictEqual((yield* client.cancelJob(id)).status, "cancelled")
      })
  )

  it_("fails with the gateway's own errors, which can be matched by their reasons", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      const found = yield* client.chat(question("nowhere::m")).pipe(
        Effect.catchReason("GatewayError", "ModelNotFound", ({ model }) => Effect.succeed(model))
      )
      assert.strictEqual(found, "nowhere::m")
      upstream.reset()
      upstream.always(openAi.error(401, { message: "no such key" }))
      const error = yield* Effect.flip(client.chat(question("it::m")))
      assert.instanceOf(error, GatewayError)
      assert.strictEqual(error instanceof GatewayError && error.code, "provider_error")
    }))

  it_("a stream that breaks off ends in that error, after what came before it", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      upstream.reset()
      upstream.always(withFault(openAi.answer({ text: ["One ", "two ", "three"] }), fault.cut(4)))
      const seen: Array<string> = []
      const exit = yield* Effect.exit(Stream.runForEach(client.streamChat(question("it::m")), ({ delta }) =>
        Effect.sync(() => {
          for (const piece of delta) if (piece.type === "text") seen.push(piece.text)
        })))
      assert.include(seen.join(""), "One ")
      const error = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined
      assert.instanceOf(error, GatewayError)
    }))

  it_(
    "a stream that is left, a call that takes too long and one that is interrupted close the upstream at once",
    () =>
      Effect.gen(function*() {
        const client = yield* GatewayClient
        upstream.reset()
        const endless = function*() {
          for (;;) {
            yield `data: ${
              JSON.stringify({ id: "1", model: "m", choices: [{ index: 0, delta: { content: "word " } }] })
            }\n\n`
          }
        }
        upstream.always(withFault(stream("sse", { [Symbol.iterator]: endless }), fault.trickle(5)))
        const closed = (index: number, since: number) =>
          Effect.promise(async () => {
            const { aborted, closedAt = Infinity } = await upstream.waitForClose(index, 2_000)
            assert.isTrue(aborted)
            assert.isBelow(closedAt - since, 100)
          })
        const two = yield* Stream.runCollect(Stream.take(client.streamChat(question("it::m")), 2))
        assert.lengthOf(two, 2)
        yield* closed(0, performance.now())

        const first = yield* Deferred.make<void>()
        const reading = yield* Effect.forkChild(
          Stream.runForEach(client.streamChat(question("it::m")), () => Deferred.succeed(first, undefined))
        )
        yield* Deferred.await(first)
        const left = performance.now()
        yield* Fiber.interrupt(reading)
        yield* closed(1, left)

        upstream.reset()
        upstream.always(withFault(openAi.answer({ text: ["late"] }), fault.hang))
        yield* Effect.timeoutOption(client.chat(question("it::m")), 300)
        yield* closed(0, performance.now())
      })
  )

  it_("a program that reads slowly slows the upstream, and is not paid for in memory", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      upstream.reset()
      const word = "wonderful ".repeat(200)
      const endless = function*() {
        for (;;) {
          yield `data: ${
            JSON.stringify({ id: "1", model: "m", choices: [{ index: 0, delta: { content: word } }] })
          }\n\n`
        }
      }
      upstream.always(stream("sse", { [Symbol.iterator]: endless }))
      const go = yield* Deferred.make<void>()
      let seen = 0
      const reading = yield* Effect.forkChild(
        Stream.runForEach(client.streamChat(question("it::m")), () => {
          seen++
          return seen === 1 ? Deferred.await(go) : Effect.void
        })
      )
      const settled = yield* Effect.promise(sentUntilItStops)
      assert.isBelow(settled, 48 * 1024 * 1024)
      yield* Effect.promise(quiet)
      assert.strictEqual(upstream.request(0).bytesSent, settled, "nothing more is sent while nobody reads")
      yield* Deferred.succeed(go, undefined)
      while (upstream.request(0).bytesSent <= settled) yield* Effect.promise(quiet)
      yield* Fiber.interrupt(reading)
      const { aborted } = yield* Effect.promise(() => upstream.waitForClose(0, 2_000))
      assert.isTrue(aborted)
    }))

  it_("many at the same time do not get into each other's way", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      const answers = yield* Effect.forEach(
        Array.from({ length: 60 }, (_, at) => at),
        (at) =>
          Stream.runFold(client.streamChat(question("sandbox::echo", `number ${at}`)), () =>
            "", (said, { delta }) =>
            said + delta.map((piece) => piece.type === "text" ? piece.text : "").join("")),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        answers,
        answers.map((_, at) =>
          `number ${at}`
        )
      )
    }))
})

describe.each(["layerHttp", "layerWebSocket"] as const)("%s", (name) => {
  it.live("without a key, or with a wrong one, no call is answered", () =>
    Effect.gen(function*() {
      for (const options of [{ url: gateway.url }, { url: gateway.url, key: Redacted.make("wrong") }]) {
        const exit = yield* Effect.gen(function*() {
          const client = yield* GatewayClient
          return [
            yield* Effect.flip(client.models),
            yield* Effect.flip(Stream.runDrain(client.streamChat(question("sandbox::echo"))))
          ]
        }).pipe(Effect.provide(GatewayClient[name](options)))
        for (const error of exit) assert.strictEqual(error instanceof GatewayError && error.code, "unauthorized")
      }
    }))

  it.live("a gateway that is not there is told as that", () =>
    Effect.gen(function*() {
      const client = yield* GatewayClient
      const error = yield* Effect.flip(client.models)
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.notInclude(JSON.stringify(error), secret)
    }).pipe(Effect.provide(GatewayClient[name]({ url: "http://127.0.0.1:1", key }))))

  it.live("what no gateway would say is told as that", () =>
    Effect.gen(function*() {
      const other = yield* Effect.acquireRelease(
        Effect.promise(() =>
          new Promise<ReturnType<typeof createServer>>((resolve) => {
            const server = createServer((_, response) => response.end("<html>hello</html>"))
            server.listen(0, "127.0.0.1", () => resolve(server))
          })
        ),
        (server) => Effect.sync(() => server.close())
      )
      const address = other.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      const error = yield* Effect.gen(function*() {
        return yield* Effect.flip((yield* GatewayClient).models)
      }).pipe(Effect.provide(GatewayClient[name]({ url: `http://127.0.0.1:${port}` })))
      assert.strictEqual(error._tag, "ConnectionFailed")
    }))
})

// ---------------------------------------------------------------------------------------------------------------------
// Errors
// ---------------------------------------------------------------------------------------------------------------------

/** One error of each reason, with all that it can hold. */
const reasons = GatewayErrorReason.members.map((member) => {
  const decode = Schema.decodeUnknownSync(member)
  const base = {
    _tag: member.fields._tag.schema.literal,
    message: "it went wrong",
    field: "messages[0]",
    issues: [{ path: "messages[0]", message: "is wrong" }],
    id: "the-id",
    ids: ["the-id"],
    budget: "month budget",
    resetsAt: 1_800_000_000_000,
    model: "p::m",
    models: ["p::n"],
    candidates: ["p::n"],
    interceptor: "guard",
    maxBytes: 10,
    allow: "POST",
    capability: "tools",
    retryAfterMs: 1_500,
    limit: { name: "acme", kind: "requests", limit: 10, remaining: 0, resetMs: 20 },
    kind: "quota",
    provider: "p",
    upstreamStatus: 429,
    upstreamCode: "slow_down",
    upstreamType: "rate",
    phase: "idle",
    limitMs: 100,
    attempt: 2,
    store: "budgets"
  }
  return decode(base)
})

describe.each(["http", "websocket"] as const)("every reason of an error, over %s", (protocol) => {
  it.live("arrives as it was, before and within a stream", () =>
    Effect.gen(function*() {
      let at = 0
      const next = () => fail(reasons[at] ?? new InternalError({ message: "there is no such reason" }))
      const refused = () => Effect.fail(next())
      const handlers = GatewayRpc.toLayer({
        chat: refused,
        streamChat: () =>
          Stream.concat(
            Stream.succeed({ id: "1", model: "m", delta: [{ type: "text", index: 0, text: "One " } as const] }),
            Stream.suspend(() => Stream.fail(next()))
          ),
        countTokens: refused,
        embed: refused,
        image: refused,
        streamImage: () => Stream.fromEffect(refused()),
        speak: refused,
        streamSpeech: () => Stream.fromEffect(refused()),
        video: refused,
        transcribe: refused,
        streamTranscribe: () => Stream.fromEffect(refused()),
        models: refused,
        model: refused,
        routes: refused,
        explain: refused,
        usage: refused,
        budgets: refused,
        createJob: refused,
        job: refused,
        watchJob: () => Stream.fromEffect(refused()),
        jobs: refused,
        cancelJob: refused,
        redeliverWebhook: refused
      })
      const served = HttpRouter.serve(
        RpcServer.layerHttp({ group: GatewayRpc, path: protocol === "http" ? "/rpc" : "/rpc/ws", protocol }).pipe(
          Layer.provide([handlers, Layer.succeed(GatewayCaller, (handled) => handled)])
        ),
        { disableLogger: true, disableListenLog: true }
      ).pipe(
        Layer.provide(RpcSerialization.layerNdjson),
        Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" }))
      )
      yield* Effect.gen(function*() {
        const { address } = yield* HttpServer.HttpServer
        const url = address._tag === "UnixPathAddress" ? "" : `http://127.0.0.1:${address.port}`
        const way = protocol === "http" ? GatewayClient.layerHttp({ url }) : GatewayClient.layerWebSocket({ url })
        yield* Effect.gen(function*() {
          const client = yield* GatewayClient
          for (at = 0; at < reasons.length; at++) {
            const error = yield* Effect.flip(client.chat(question("m")))
            assert.deepStrictEqual(error, next())
            const chunks: Array<string> = []
            const within = yield* Effect.flip(
              Stream.runForEach(client.streamChat(question("m")), ({ id }) => Effect.sync(() => chunks.push(id)))
            )
            assert.deepStrictEqual([chunks, within], [["1"], next()])
          }
        }).pipe(Effect.provide(way))
      }).pipe(Effect.provide(served))
      assert.isAbove(reasons.length, 20)
    }))
})

// ---------------------------------------------------------------------------------------------------------------------
// Gateways that go away
// ---------------------------------------------------------------------------------------------------------------------

describe("a gateway that is killed", () => {
  const config = (port: number) => `
server: { port: ${port} }
providers: { sandbox: { type: sandbox } }
usage: { sinks: [{ type: noop }] }
storage: { sql: "sqlite::memory:" }
`
  it.live(
    "ends what runs with a connection error; the WebSocket comes back with the next gateway",
    () =>
      Effect.gen(function*() {
        const first = yield* serve(config(0))
        const { port } = new URL(first.url)
        const error = yield* Effect.gen(function*() {
          const client = yield* GatewayClient
          const begun = yield* Deferred.make<void>()
          const running = yield* Effect.forkChild(Effect.flip(
            Stream.runForEach(
              client.streamChat(question("sandbox::tokens-1000-at-50")),
              () => Deferred.succeed(begun, undefined)
            )
          ))
          yield* Deferred.await(begun)
          yield* Effect.promise(() => first.end("SIGKILL"))
          const broken = yield* Fiber.join(running)
          const second = yield* serve(config(Number(port)))
          assert.strictEqual(second.url, first.url)
          const answer = yield* Effect.retry(client.chat(question("sandbox::echo")), {
            while: ({ _tag }) => _tag === "ConnectionFailed",
            schedule: Schedule.spaced(50)
          })
          assert.strictEqual(textOf(answer.content), "Hello, gateway!")
          return broken
        }).pipe(Effect.provide(GatewayClient.layerWebSocket({ url: first.url })))
        assert.strictEqual(error._tag, "ConnectionFailed")
      }),
    60_000
  )

  it.live("ends a call over HTTP with a connection error", () =>
    Effect.gen(function*() {
      const first = yield* serve(config(0))
      const error = yield* Effect.gen(function*() {
        const client = yield* GatewayClient
        const begun = yield* Deferred.make<void>()
        const running = yield* Effect.forkChild(Effect.flip(
          Stream.runForEach(client.streamChat(question("sandbox::tokens-1000-at-50")), () =>
            Deferred.succeed(begun, undefined))
        ))
        yield* Deferred.await(begun)
        yield* Effect.promise(() =>
          first.end("SIGKILL")
        )
        return yield* Fiber.join(running)
      }).pipe(Effect.provide(GatewayClient.layerHttp({ url: first.url })))
      assert.strictEqual(error._tag, "ConnectionFailed")
    }), 60_000)

  it.live(
    "told to stop: what runs over the WebSocket is finished, and an idle one holds nothing up",
    () =>
      Effect.gen(function*() {
        const served = yield* serve(config(0))
        const said = yield* Effect.gen(function*() {
          const client = yield* GatewayClient
          const begun = yield* Deferred.make<void>()
          const running = yield* Effect.forkChild(
            Stream.runFold(
              client.streamChat(question("sandbox::tokens-30-at-50")).pipe(
                Stream.tap(() => Deferred.succeed(begun, undefined))
              ),
              () => 0,
              (chunks) => chunks + 1
            )
          )
          yield* Deferred.await(begun)
          const ended = yield* Effect.forkChild(Effect.promise(() => served.end("SIGTERM")))
          const chunks = yield* Fiber.join(running)
          const since = performance.now()
          assert.strictEqual(yield* Fiber.join(ended), 0)
          assert.isBelow(performance.now() - since, 10_000)
          return chunks
        }).pipe(Effect.provide(GatewayClient.layerWebSocket({ url: served.url })))
        assert.isAtLeast(said, 30)
      }),
    60_000
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Hostile input
// ---------------------------------------------------------------------------------------------------------------------

describe("what is no call", () => {
  const headers = { authorization: `Bearer ${secret}`, "content-type": "application/x-ndjson" }
  const message = (fields: object) => `${JSON.stringify({ _tag: "Request", id: "1", headers: [], ...fields })}\n`

  it.each<readonly [string, string]>([
    ["no JSON", "hello\n"],
    ["an array", "[1,2,3]\n"],
    ["a number", "7\n"],
    ["null", "null\n"],
    ["an unknown procedure", message({ tag: "nothing", payload: {} })],
    ["a procedure of every object", message({ tag: "constructor", payload: {} })],
    ["a payload of another shape", message({ tag: "chat", payload: { model: 7 } })],
    ["no payload", message({ tag: "chat" })],
    ["an id that is none", message({ id: { a: 1 }, tag: "models", payload: null })],
    ["nothing", ""],
    ["half a message", "{\"_tag\":\"Requ"]
  ])("%s over HTTP is answered, and the gateway goes on", async (_, body) => {
    const response = await fetch(`${gateway.url}/rpc`, {
      method: "POST",
      headers,
      body,
      signal: AbortSignal.timeout(5_000)
    })
    const said = await response.text()
    assert.notInclude(said, "at Object.")
    assert.notInclude(said, "/src/")
    const health = await fetch(`${gateway.url}/health/live`)
    assert.strictEqual(health.status, 200)
  })

  it("a body that is too large is refused", async () => {
    const response = await fetch(`${gateway.url}/rpc`, { method: "POST", headers, body: "x".repeat(30_000_000) })
    assert.strictEqual(response.status, 413)
  })

  it("no more calls are taken at once than can be served", async () => {
    const body = Array.from({ length: 5_000 }, (_, id) => message({ id: String(id), tag: "models", payload: null }))
      .join("")
    const response = await fetch(`${gateway.url}/rpc`, { method: "POST", headers, body })
    const said = await response.text()
    assert.include(said, "more than 1000 messages at once")
    assert.isBelow(said.split("\n").length, 5)
  })

  it("an address for WebSockets asked for without one says so", async () => {
    const response = await fetch(`${gateway.url}/rpc/ws`, { headers })
    assert.strictEqual(response.status, 400)
    assert.include(await response.text(), "/rpc")
  })

  it.each([["text", "hello\n"], ["half", "{\"_tag\""], ["bytes", new Uint8Array([0, 1, 2, 255])], [
    "much",
    "x".repeat(200_000)
  ]])(
    "%s over a WebSocket does no harm",
    async (_, frame) => {
      const socket = new WebSocket(`${gateway.url.replace("http", "ws")}/rpc/ws`)
      await new Promise((resolve) => socket.addEventListener("open", resolve))
      socket.send(frame)
      socket.send(message({ tag: "models", payload: null, headers: [["authorization", `Bearer ${secret}`]] }))
      await new Promise((resolve) => {
        socket.addEventListener("message", resolve, { once: true })
        socket.addEventListener("close", resolve, { once: true })
        setTimeout(resolve, 500)
      })
      socket.close()
      const health = await fetch(`${gateway.url}/health/live`)
      assert.strictEqual(health.status, 200)
    }
  )
})
