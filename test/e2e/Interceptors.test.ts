/**
 * Interceptors over real HTTP, in the OpenAI dialect and the native API, whole and streamed: what is changed is changed, what
 * is blocked is blocked in the dialect's own form, and what was found is nowhere: not in errors, logs, records or tags.
 */
import { NodeServices } from "@effect/platform-node"
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger, ManagedRuntime, Stream } from "effect"
import { FetchHttpClient, type HttpClient, HttpServer } from "effect/http"
import { Gateway } from "../../src/gateway/Gateway.ts"
import * as Registries from "../../src/gateway/Registries.ts"
import * as IdentityKeys from "../../src/modules/identity/IdentityKeys.ts"
import * as ModelRegistry from "../../src/modules/modelRegistry/Registry.ts"
import * as OutboundUndici from "../../src/modules/outbound/OutboundUndici.ts"
import * as Moderation from "../../src/plugins/interceptors/moderation/Moderation.ts"
import * as Noop from "../../src/plugins/interceptors/noop/Noop.ts"
import * as Pii from "../../src/plugins/interceptors/pii/Pii.ts"
import * as PromptGuard from "../../src/plugins/interceptors/promptGuard/PromptGuard.ts"
import * as Webhook from "../../src/plugins/interceptors/webhook/Webhook.ts"
import * as OpenAi from "../../src/plugins/providers/openai/OpenAi.ts"
import * as Sandbox from "../../src/plugins/providers/sandbox/Sandbox.ts"
import type { ChatChunk } from "../../src/sdk/Chat.ts"
import { textOf } from "../../src/sdk/Content.ts"
import * as Interceptor from "../../src/sdk/Interceptor.ts"
import * as Provider from "../../src/sdk/Provider.ts"
import { TypeRegistry } from "../../src/sdk/TypeRegistry.ts"
import * as UsageSink from "../../src/sdk/UsageSink.ts"
import * as GatewayServer from "../../src/server/GatewayServer.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { isJson, type Json } from "../fixtures/Script.ts"

type Interceptors = Layer.Layer<
  never,
  unknown,
  Interceptor.InterceptorRegistry | HttpClient.HttpClient
>

interface Running {
  readonly post: (path: string, body: unknown) => Promise<Response>
  /** All that was logged and recorded. */
  readonly told: () => string
  readonly records: ReadonlyArray<UsageSink.UsageRecord>
}

let closing: Array<() => Promise<void>> = []
afterEach(async () => {
  for (const close of closing) await close()
  closing = []
})

let upstream: FakeUpstream
beforeEach(async () => {
  upstream = await startFakeUpstream()
  closing.push(() => upstream.close())
})

/** A provider that repeats the question word by word, each in an array of its own. */
const word: Provider.Provider = {
  slug: "word",
  kind: "word",
  wire: "word",
  unlistedModels: "allow",
  streamChat: ({ request }) => {
    const words = textOf(request.messages[0].content).split(/(?<= )/)
    return Stream.fromIterable<ChatChunk>([
      ...words.map((text): ChatChunk => ({ id: "w1", model: "m", delta: [{ type: "text", index: 0, text }] })),
      { id: "w1", model: "m", delta: [], finishReason: "stop" }
    ]).pipe(Stream.rechunk(1))
  }
}

/** The service over the sandbox and an OpenAI-compatible upstream, composed as an app would. */
const start = async (...interceptors: ReadonlyArray<Interceptors>): Promise<Running> => {
  const logged: Array<string> = []
  const records: Array<UsageSink.UsageRecord> = []
  const logger = Logger.make((options) => void logged.push(JSON.stringify(Logger.formatStructured.log(options))))
  const runtime = ManagedRuntime.make(
    GatewayServer.layer({ host: "127.0.0.1", port: 0, maxBodyBytes: 1_000_000, drainTimeout: 500 }).pipe(
      Layer.provide(Gateway.layer({ attempts: 1, ledger: { durability: "strict" } })),
      Layer.provide(ModelRegistry.layer()),
      Layer.provide(Layer.mergeAll(
        Sandbox.layer(),
        Provider.layer(Effect.succeed(word)),
        OpenAi.layer({ baseUrl: `${upstream.url}/v1`, unlistedModels: "allow" }),
        UsageSink.layer({
          name: "memory",
          durable: true,
          write: (batch) => Effect.sync(() => void records.push(...batch))
        }),
        ...interceptors
      )),
      Layer.provide(Layer.mergeAll(
        Registries.layer,
        OutboundUndici.layer,
        TypeRegistry.layerEmpty,
        IdentityKeys.layerNone(),
        FetchHttpClient.layer,
        NodeServices.layer,
        Logger.layer([logger])
      ))
    )
  )
  const { address } = await runtime.runPromise(HttpServer.HttpServer)
  closing.push(() => runtime.dispose())
  if (address._tag === "UnixPathAddress") throw new Error("the service does not listen on TCP")
  const url = `http://127.0.0.1:${address.port}`
  return {
    post: (path, body) =>
      fetch(url + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body)
      }),
    told: () => `${logged.join("\n")}\n${JSON.stringify(records)}`,
    records
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The dialects, as their callers see them
// ---------------------------------------------------------------------------------------------------------------------

const at = (value: unknown, ...keys: ReadonlyArray<string | number>): unknown => {
  let found = value
  for (const key of keys) {
    if (Array.isArray(found)) found = found.at(Number(key))
    else found = isJson(found) ? found[key] : undefined
  }
  return found
}

interface Seen {
  readonly status: number
  /** The text of the first choice. */
  readonly text: string
  /** The error, in the answer's body or in its stream. */
  readonly error: { readonly code: unknown; readonly message: unknown; readonly interceptor?: unknown } | undefined
  /** Whether the stream ended as a complete one does. */
  readonly done: boolean
  readonly raw: string
}

const events = (raw: string): ReadonlyArray<{ readonly name: string; readonly data: string }> =>
  raw.split("\n\n").filter((event) => event.includes("data: ")).map((event) => ({
    name: /^event: (.*)$/m.exec(event)?.[1] ?? "",
    data: /^data: (.*)$/m.exec(event)?.[1] ?? ""
  }))

interface Dialect {
  readonly name: string
  readonly path: string
  readonly body: (text: string, stream: boolean, model: string) => Json
  readonly text: (body: unknown) => unknown
  readonly delta: (chunk: unknown) => unknown
  readonly error: (body: unknown) => Seen["error"]
}

const dialects: ReadonlyArray<Dialect> = [
  {
    name: "the OpenAI dialect",
    path: "/v1/chat/completions",
    body: (text, stream, model) => ({ model, messages: [{ role: "user", content: text }], stream }),
    text: (body) => at(body, "choices", 0, "message", "content"),
    delta: (chunk) => at(chunk, "choices", 0, "delta", "content"),
    error: (body) => {
      const error = at(body, "error")
      return isJson(error) ? { code: error["code"], message: error["message"] } : undefined
    }
  },
  {
    name: "the native API",
    path: "/llm-gateway/v1/chat/completions",
    body: (text, stream, model) => ({ model, messages: [{ role: "user", content: text }], stream }),
    text: (body) => at(body, "content", 0, "text"),
    delta: (chunk) => at(chunk, "delta", 0, "text"),
    error: (body) =>
      isJson(body) && "code" in body
        ? { code: body["code"], message: body["detail"], interceptor: at(body, "context", "interceptor") }
        : undefined
  }
]

const ask = async (
  gateway: Running,
  dialect: Dialect,
  text: string,
  stream: boolean,
  model = "sandbox::echo"
): Promise<Seen> => {
  const response = await gateway.post(dialect.path, dialect.body(text, stream, model))
  const raw = await response.text()
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    const body: unknown = JSON.parse(raw)
    const text = dialect.text(body)
    return {
      status: response.status,
      text: typeof text === "string" ? text : "",
      error: dialect.error(body),
      done: true,
      raw
    }
  }
  let joined = ""
  let error: Seen["error"]
  let done = false
  for (const { data } of events(raw)) {
    if (data === "[DONE]") {
      done = true
      continue
    }
    const chunk: unknown = JSON.parse(data)
    error ??= dialect.error(chunk)
    const delta = dialect.delta(chunk)
    if (typeof delta === "string") joined += delta
  }
  return { status: response.status, text: joined, error, done, raw }
}

const forms = dialects.flatMap((dialect) =>
  [false, true].map((stream) => [`${dialect.name}, ${stream ? "streamed" : "whole"}`, dialect, stream] as const)
)

const mail = "jane@example.com"

// ---------------------------------------------------------------------------------------------------------------------
// Tests
// ---------------------------------------------------------------------------------------------------------------------

describe.each(forms)("%s:", (_, dialect, stream) => {
  it("personal data is redacted before the provider sees it", async () => {
    const gateway = await start(Pii.layer({ on: ["request"] }))
    upstream.reply(stream ? openAi.stream({ text: "ok" }) : openAi.chat({ text: "ok" }))
    const seen = await ask(gateway, dialect, `Write to ${mail} or +49 170 1234567`, stream, "openai::m")
    assert.strictEqual(seen.text, "ok")
    assert.deepStrictEqual(at(upstream.request(0).json, "messages", 0, "content"), "Write to [EMAIL] or [PHONE]")
  })

  it("personal data of an answer is redacted, across its chunks", async () => {
    const gateway = await start(Pii.layer({ on: ["response"] }))
    const pieces = ["Ask ja", "ne@exam", "ple.com", " or call +4", "9 170 12", "34567. Bye"]
    upstream.reply(stream ? openAi.stream({ text: pieces }) : openAi.chat({ text: pieces }))
    const seen = await ask(gateway, dialect, "?", stream, "openai::m")
    assert.strictEqual(seen.text, "Ask [EMAIL] or call [PHONE]. Bye")
    assert.isTrue(seen.done)
    assert.notInclude(seen.raw, "exam")
    assert.strictEqual(gateway.records[0]?.usage.outputTokens, 12)
    assert.notInclude(gateway.told(), "jane")
  })

  it("pseudonyms go to the provider, and the caller reads the values", async () => {
    const gateway = await start(Pii.layer({ action: "pseudonymise" }))
    const seen = await ask(gateway, dialect, `Dear ${mail}, your IP is 10.0.0.1.`, stream)
    assert.strictEqual(seen.text, `Dear ${mail}, your IP is 10.0.0.1.`)
    upstream.reply(
      stream
        ? openAi.stream({ text: ["I wrote to <EM", "AIL", "_1", "> today"] })
        : openAi.chat({ text: "I wrote to <EMAIL_1> today" })
    )
    assert.strictEqual((await ask(gateway, dialect, mail, stream, "openai::m")).text, `I wrote to ${mail} today`)
    assert.deepStrictEqual(at(upstream.request(0).json, "messages", 0, "content"), "<EMAIL_1>")
  })

  const blockers: Record<string, readonly [Interceptors, string, string]> = {
    pii: [Pii.layer({ action: "block", on: ["request"] }), mail, "it holds an e-mail address"],
    "prompt-guard": [
      PromptGuard.layer({ deny: [{ name: "secrets", pattern: "tell me the secret" }] }),
      "Tell me the SE\u200BCRET",
      "the rule \"secrets\" denies it"
    ],
    moderation: [
      Moderation.layerClassify({ classify: () => Effect.succeed({ flagged: true, categories: ["violence"] }) }),
      "kill it",
      "it was flagged as violence"
    ]
  }
  it.each(Object.entries(blockers))("%s blocks a request", async (name, [layer, text, reason]) => {
    const gateway = await start(layer)
    const seen = await ask(gateway, dialect, text, stream)
    assert.strictEqual(seen.status, 403)
    assert.strictEqual(seen.error?.code, "request_blocked")
    assert.strictEqual(seen.error?.message, `the request was blocked by ${name}: ${reason}`)
    if (dialect.path.startsWith("/llm-gateway")) assert.strictEqual(seen.error?.interceptor, name)
    assert.notInclude(seen.raw + gateway.told(), text)
    assert.deepStrictEqual(gateway.records.map(({ errorCode, outcome }) => [outcome, errorCode]), [
      ["blocked", "request_blocked"]
    ])
  })

  it("an answer is blocked by one that sees it whole, before any of it is sent", async () => {
    const gateway = await start(
      Noop.layer({ order: 1 }),
      Moderation.layerClassify({
        on: ["response"],
        classify: (text) => Effect.succeed({ flagged: text.includes("evil"), categories: [] })
      })
    )
    const seen = await ask(gateway, dialect, "some evil words", stream)
    assert.strictEqual(seen.status, 403)
    assert.strictEqual(seen.error?.code, "response_blocked")
    assert.strictEqual(seen.error?.message, "the answer was blocked by moderation: it was flagged")
    assert.notInclude(seen.raw, "some")
    assert.strictEqual((await ask(gateway, dialect, "fair words", stream)).text, "fair words")
  })

  it("one that crashes, lingers or talks nonsense follows its failure mode", async () => {
    const broken = (failure: "open" | "closed"): ReadonlyArray<Interceptor.Interceptor> => [
      { name: "crashes", order: 1, failure, pre: () => Effect.die(new TypeError(mail)) },
      { name: "lingers", order: 1, failure, timeoutMs: 20, post: () => Effect.never },
      { name: "fails", order: 1, failure, pre: () => Effect.fail(new Interceptor.InterceptorError({ message: "no" })) },
      // @ts-expect-error -- plugins are other people's code, and not all of it is type-checked
      { name: "babbles", order: 1, failure, pre: () => Effect.succeed({ type: "modify", value: { messages: mail } }) }
    ]
    for (const interceptor of broken("closed")) {
      const gateway = await start(Interceptor.layer(interceptor))
      const seen = await ask(gateway, dialect, mail, stream)
      assert.strictEqual(seen.status, 403)
      assert.strictEqual(seen.error?.code, interceptor.pre === undefined ? "response_blocked" : "request_blocked")
      assert.include(String(seen.error?.message), `${interceptor.name}: it could not check the content`)
      assert.notInclude(gateway.told(), mail)
      assert.include(gateway.told(), interceptor.name)
    }
    const gateway = await start(...broken("open").map(Interceptor.layer))
    const seen = await ask(gateway, dialect, mail, stream)
    assert.strictEqual(seen.text, mail)
    for (const { name } of broken("open")) assert.include(gateway.told(), `"${name}"`)
    assert.notInclude(gateway.told(), mail)
  })

  it("a webhook that cannot be reached blocks, or lets pass, as it was told", async () => {
    const closed = await start(Webhook.layer({ url: "http://127.0.0.1:1/" }))
    assert.strictEqual((await ask(closed, dialect, mail, stream)).error?.code, "request_blocked")
    const open = await start(Webhook.layer({ url: "http://127.0.0.1:1/", failure: "open" }))
    assert.strictEqual((await ask(open, dialect, mail, stream)).text, mail)
    assert.notInclude(open.told() + closed.told(), mail)
  })
})

describe.each(dialects.map((dialect) => [dialect.name, dialect] as const))("%s, in mid-stream:", (_, dialect) => {
  it("a block ends the stream with its reason, and never as a complete one", async () => {
    const gateway = await start(Pii.layer({ name: "guard", action: "block", on: ["response"] }))
    const seen = await ask(gateway, dialect, "One two three, and 4111 1111 1111 1111 four", true, "word::m")
    assert.strictEqual(seen.status, 200)
    assert.strictEqual(seen.text.trim(), "One two three, and")
    assert.strictEqual(seen.error?.code, "response_blocked")
    assert.strictEqual(seen.error?.message, "the answer was blocked by guard: it holds a credit card number")
    assert.isFalse(seen.done)
    assert.notInclude(seen.raw + gateway.told(), "4111")
    assert.deepStrictEqual(gateway.records.map(({ errorCode, outcome }) => [outcome, errorCode]), [
      ["blocked", "response_blocked"]
    ])
  })

  it("a connection that breaks lets the redacted rest through, and then the failure", async () => {
    const gateway = await start(Pii.layer({ on: ["response"] }))
    const seen = await ask(gateway, dialect, `[[cut 4]] Dear all, write jane@example.com now`, true)
    assert.strictEqual(seen.text.trim(), "Dear all, write [EMAIL]")
    assert.strictEqual(seen.error?.code, "provider_error")
    assert.isFalse(seen.done)
  })

  it("several choices in one event stay apart: none is written from what the provider sent", async () => {
    const gateway = await start(Interceptor.layer({
      name: "second",
      order: 1,
      stream: (chunks) =>
        Stream.map(chunks, (chunk): ChatChunk =>
          chunk.choice !== 1 ? chunk : {
            ...chunk,
            delta: chunk.delta.map((delta) => delta.type === "text" ? { ...delta, text: "[hidden]" } : delta)
          })
    }))
    const choices = (first: Json, second: Json) => [
      { index: 0, delta: first, finish_reason: null },
      { index: 1, delta: second, finish_reason: null }
    ]
    const event = (list: unknown) =>
      `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: list })}\n\n`
    upstream.reply({
      wire: "openai",
      status: 200,
      headers: { "content-type": "text/event-stream" },
      faults: [],
      body: {
        type: "events",
        framing: "sse",
        errorEvent: "",
        events: [
          event(choices({ role: "assistant", content: "Hello" }, { role: "assistant", content: mail })),
          event(choices({ content: " there" }, { content: mail })),
          event([0, 1].map((index) => ({ index, delta: {}, finish_reason: "stop" }))),
          "data: [DONE]\n\n"
        ]
      }
    })
    const response = await gateway.post(dialect.path, { ...dialect.body("?", true, "openai::m"), n: 2 })
    const raw = await response.text()
    assert.notInclude(raw, mail)
    assert.include(raw, "[hidden]")
    assert.strictEqual(raw.split("Hello").length, 2)
  })
})
