/**
 * What callers and providers say stays between them: no prompt, no answer and no secret reaches a log, a trace, an audit
 * event, a usage record or, as far as secrets go, anybody's answer. The whole service runs here with all of those captured,
 * and is sent requests that succeed, fail in every phase, are blocked, time out and are left; what they are made of are
 * strings that can be told from anything else.
 */
import { NodeServices } from "@effect/platform-node"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Logger, ManagedRuntime, References, Result, Stream, Tracer } from "effect"
import { HttpServer } from "effect/http"
import { createHash } from "node:crypto"
import { inspect } from "node:util"
import * as ConfigFile from "../../src/config/ConfigFile.ts"
import * as GatewayLayer from "../../src/config/GatewayLayer.ts"
import * as Audit from "../../src/gateway/Audit.ts"
import { Gateway } from "../../src/gateway/Gateway.ts"
import * as AuditSink from "../../src/sdk/AuditSink.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { text } from "../../src/sdk/Content.ts"
import * as Interceptor from "../../src/sdk/Interceptor.ts"
import { ModelRegistry } from "../../src/sdk/ModelRegistry.ts"
import * as Provider from "../../src/sdk/Provider.ts"
import * as UsageSink from "../../src/sdk/UsageSink.ts"
import * as GatewayServer from "../../src/server/GatewayServer.ts"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type OtlpCollector, startCollector } from "../fixtures/OtlpCollector.ts"
import { type Asked, type Json, type Script, sseEvent } from "../fixtures/Script.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Canaries
// ---------------------------------------------------------------------------------------------------------------------

/** What callers and models say: for the other side, and nobody else. */
const content = {
  prompt: "canaryPromptUser",
  system: "canaryPromptSystem",
  earlier: "canaryEarlierAnswer",
  toolArguments: "canaryToolArguments",
  toolResult: "canaryToolResult",
  toolDescription: "canaryToolDescription",
  stop: "canaryStopSequence",
  answer: "canaryAnswerText",
  answerArguments: "canaryAnswerArguments",
  reasoning: "canaryReasoning"
}

/** What proves who somebody is: for nobody at all. */
const secrets = {
  callerKey: "canary-caller-key-0123456789",
  wrongKey: "canary-wrong-key-0123456789",
  openAiKey: "canary-openai-key-0123456789",
  spareKey: "canary-spare-key-0123456789",
  anthropicKey: "canary-anthropic-key-0123456789",
  providerHeader: "canary-provider-header-0123456789",
  // In JSON it looks different.
  quotedHeader: "canary-quoted-\"header\\-0123456789",
  requestHeader: "canary-request-header-0123456789",
  cookie: "canary-cookie-0123456789",
  query: "canary-query-0123456789"
}

/** A secret as it is, and as it stands in a JSON string, once and twice encoded, and in an address. */
const shapesOf = (canary: string): ReadonlyArray<string> => {
  const quoted = JSON.stringify(canary).slice(1, -1)
  return [canary, quoted, JSON.stringify(quoted).slice(1, -1), encodeURIComponent(canary)]
}

const secretShapes = Object.values(secrets).flatMap(shapesOf)
const allShapes = [...Object.values(content), ...secretShapes]

const holdsNone = (shapes: ReadonlyArray<string>, where: string, told: string) => {
  for (const shape of shapes) {
    const at = told.indexOf(shape)
    if (at >= 0) assert.fail(`${where} holds ${shape}: …${told.slice(Math.max(0, at - 600), at + shape.length + 100)}…`)
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is captured
// ---------------------------------------------------------------------------------------------------------------------

/** Everything of a value that any formatter could get out of it. */
const everything = (value: unknown): string =>
  inspect(value, { depth: 12, maxArrayLength: 1_000, maxStringLength: null, getters: false })
  + (typeof value === "string" ?
    value :
    JSON.stringify(
      value,
      (_, part: unknown) => typeof part === "bigint" || typeof part === "function" ? String(part) : part
    ))

const captured = {
  logs: new Array<string>(),
  spans: new Array<string>(),
  usage: new Array<string>(),
  audit: new Array<string>()
}

const logger = Logger.make(({ cause, fiber, message }) => {
  captured.logs.push(
    [
      everything(message),
      Cause.pretty(cause),
      ...cause.reasons.map((reason) => inspect(reason, { depth: 12 })),
      everything(fiber.getRef(References.CurrentLogAnnotations)),
      everything(fiber.getRef(References.CurrentLogSpans))
    ].join("\n")
  )
})

/** A tracer as an exporter sees it: names, attributes, events, and the cause of a failure. */
class CapturingSpan extends Tracer.NativeSpan {
  override end(endTime: bigint, exit: Exit.Exit<unknown, unknown>): void {
    super.end(endTime, exit)
    captured.spans.push(
      [
        this.name,
        everything(Array.from(this.attributes)),
        everything(this.events),
        Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "",
        ...Exit.isFailure(exit)
          ? Cause.prettyErrors(exit.cause).map(({ message, name, stack }) => `${name}\n${message}\n${stack}`)
          : []
      ].join("\n")
    )
  }
}

const tracer = Tracer.make({ span: (options) => new CapturingSpan(options) })

const usageSink: UsageSink.UsageSink = {
  name: "recorder",
  write: (records) => Effect.sync(() => void captured.usage.push(...records.map(everything)))
}
const auditSink: AuditSink.AuditSink = {
  name: "recorder",
  write: (events) => Effect.sync(() => void captured.audit.push(...events.map(everything)))
}

/** How much of each has been looked through. */
const seen = new Map<string, number>()

/** Looks through what has come since the last time, so that a leak is the fault of the test that finds it. */
const nothingHasLeaked = () => {
  for (const [where, told] of Object.entries(captured)) {
    const news = told.slice(seen.get(where) ?? 0)
    seen.set(where, told.length)
    for (const line of news) holdsNone(allShapes, where, line)
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The service
// ---------------------------------------------------------------------------------------------------------------------

const yaml = (url: string, otlp: string) => `
observability: { otlp: "${otlp}", access_log: true }
auth:
  mode: keys
  keys: [{ id: the-key, sha256: ${createHash("sha256").update(secrets.callerKey).digest("hex")}, tenant: acme }]
tenants: { acme: {} }
defaults:
  retry: { base: 1ms, max: 2ms }
  timeouts: { connect: 2s, first_token: 2s, idle: 2s, total: 10s }
  breaker: { failures: 1000 }
providers:
  openai:
    type: openai
    base_url: "${url}/v1"
    api_key: \${OPENAI_KEY}
    headers: { x-organisation: "\${HEADER}", x-quoted: '\${QUOTED}' }
    unlisted_models: allow
  pool:
    type: openai
    base_url: "${url}/v1"
    api_keys: ["\${OPENAI_KEY}", "\${SPARE_KEY}"]
    unlisted_models: allow
  anthropic: { type: anthropic, base_url: "${url}", api_key: "\${ANTHROPIC_KEY}", unlisted_models: allow }
  ollama: { type: ollama, base_url: "${url}", api_key: "\${OPENAI_KEY}", unlisted_models: allow }
routes:
  both: { policy: priority, models: [openai::m, anthropic::m] }
  hedged: { policy: priority, models: [openai::m, anthropic::m], hedge_after: 1ms }
`

const environment = {
  OPENAI_KEY: secrets.openAiKey,
  SPARE_KEY: secrets.spareKey,
  ANTHROPIC_KEY: secrets.anthropicKey,
  HEADER: secrets.providerHeader,
  QUOTED: secrets.quotedHeader
}

const asks = (request: ChatRequest, what: string) => JSON.stringify(request).includes(`do: ${what}.`)
const tellsAll = (value: unknown) => new Error(`it failed on ${JSON.stringify(value)}`)

/** Plugins of other people's that do what they should not, when a prompt tells them to. */
const interceptor: Interceptor.Interceptor = {
  name: "moody",
  order: 1,
  failure: "closed",
  pre: (request) => {
    if (asks(request, "pre throws")) throw tellsAll(request)
    if (asks(request, "pre dies")) return Effect.die(tellsAll(request))
    if (asks(request, "pre blocks")) return Effect.succeed(Interceptor.block("of its own reasons"))
    return Effect.succeed(Interceptor.allow)
  },
  post: (response, request) => {
    if (asks(request, "post dies")) return Effect.die(tellsAll([response, request]))
    if (asks(request, "post blocks")) return Effect.succeed(Interceptor.block("of its own reasons"))
    return Effect.succeed(Interceptor.allow)
  },
  stream: (chunks, request) => {
    if (asks(request, "post dies")) return Stream.mapEffect(chunks, (chunk) => Effect.die(tellsAll([chunk, request])))
    if (asks(request, "post blocks")) {
      return Stream.mapEffect(chunks, () => Effect.fail(Interceptor.blocked("moody", "of its own reasons")))
    }
    return chunks
  }
}

const moodyProvider: Provider.Provider = {
  slug: "moody",
  kind: "moody",
  wire: "moody",
  unlistedModels: "allow",
  chat: (call) =>
    asks({ ...call.request, model: "" }, "throws") ? throws(call.request) : Effect.die(tellsAll(call.request)),
  streamChat: (call) =>
    Stream.concat(
      Stream.succeed({ id: "1", model: "m", delta: [{ type: "text", index: 0, text: content.answer } as const] }),
      Stream.die(tellsAll(call.request))
    )
}
const throws = (value: unknown): never => {
  throw tellsAll(value)
}

const service = (url: string, otlp: string) => {
  const config = Result.getOrThrow(ConfigFile.parse(yaml(url, otlp), "gateway.yaml", environment))
  const plugins = Layer.mergeAll(
    UsageSink.layer(usageSink),
    Interceptor.layer(interceptor),
    Provider.layer(Effect.succeed(moodyProvider))
  )
  const audit = Audit.layer.pipe(
    Layer.provideMerge(AuditSink.layer(auditSink)),
    Layer.provideMerge(AuditSink.AuditSinkRegistry.layer)
  )
  return GatewayServer.layer({ host: "127.0.0.1", port: 0, maxBodyBytes: 100_000, drainTimeout: 1_000 }).pipe(
    Layer.provideMerge(plugins),
    Layer.provideMerge(GatewayLayer.layer(config)),
    Layer.provideMerge(audit),
    Layer.provide(NodeServices.layer),
    Layer.provideMerge(Layer.mergeAll(
      Logger.layer([logger]),
      Layer.succeed(References.MinimumLogLevel, "All"),
      Layer.succeed(Tracer.Tracer, tracer)
    ))
  )
}

const makeRuntime = (url: string, otlp: string) => ManagedRuntime.make(service(url, otlp))

let upstream: FakeUpstream
let collector: OtlpCollector
let runtime: ReturnType<typeof makeRuntime>
let url: string

beforeAll(async () => {
  upstream = await startFakeUpstream()
  collector = await startCollector()
  runtime = makeRuntime(upstream.url, collector.url)
  const { address } = await runtime.runPromise(HttpServer.HttpServer)
  if (address._tag === "UnixPathAddress") throw new Error("the service does not listen on TCP")
  url = `http://127.0.0.1:${address.port}`
})
afterAll(async () => {
  // The last spans are sent when the service ends.
  await runtime.dispose()
  await upstream.close()
  await collector.close()
  assert.isAbove(collector.spans().length, 100)
  holdsNone(allShapes, "what the collector got", collector.raw())
})

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const headers = {
  "content-type": "application/json",
  authorization: `Bearer ${secrets.callerKey}`,
  cookie: `session=${secrets.cookie}`,
  "x-forwarded-authorization": secrets.requestHeader,
  "user-agent": "canary-free"
}

/** One conversation with something of everything in it, for either door. */
const bodies: Readonly<Record<"openai" | "native", (model: string, doing: string, stream: boolean) => Json>> = {
  openai: (model, doing, stream) => ({
    model,
    stream,
    user: "the-end-user",
    stop: [content.stop],
    messages: [
      { role: "system", content: content.system },
      { role: "assistant", content: content.earlier, tool_calls: [toolCall(content.toolArguments)] },
      { role: "tool", tool_call_id: "call_1", content: content.toolResult },
      { role: "user", content: `${content.prompt} do: ${doing}.` }
    ],
    tools: [{ type: "function", function: { name: "find", description: content.toolDescription, parameters } }]
  }),
  native: (model, doing, stream) => ({
    model,
    stream,
    stop: [content.stop],
    messages: [
      { role: "system", content: content.system },
      {
        role: "assistant",
        content: [
          { type: "text", text: content.earlier },
          { type: "tool_call", id: "call_1", name: "find", arguments: `{"q":"${content.toolArguments}"}` }
        ]
      },
      {
        role: "tool",
        content: [{
          type: "tool_result",
          tool_call_id: "call_1",
          content: [{ type: "text", text: content.toolResult }]
        }]
      },
      { role: "user", content: `${content.prompt} do: ${doing}.` }
    ],
    tools: [{ type: "unified", name: "find", description: content.toolDescription, parameters }]
  })
}
const toolCall = (query: string) => ({
  id: "call_1",
  type: "function",
  function: { name: "find", arguments: JSON.stringify({ q: query }) }
})
const parameters = { type: "object", properties: { q: { type: "string" } } }

const paths = { openai: "/v1/chat/completions", native: "/llm-gateway/v1/chat/completions" }

interface Sent {
  readonly body: Json | string
  readonly headers?: Readonly<Record<string, string>>
  readonly path?: string
}

/** Sends a request and reads its answer; no answer may hold a secret. */
const send = async (door: "openai" | "native", { body, headers: more = {}, path = paths[door] }: Sent) => {
  const answer = await fetch(url + path, {
    method: "POST",
    headers: { ...headers, ...more },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })
  const said = await answer.text()
  holdsNone(secretShapes, `the answer with status ${answer.status}`, said)
  holdsNone(secretShapes, "the answer's headers", JSON.stringify(Array.from(answer.headers)))
  nothingHasLeaked()
  return { status: answer.status, said }
}

// ---------------------------------------------------------------------------------------------------------------------
// Upstreams that tell what they should not
// ---------------------------------------------------------------------------------------------------------------------

/** All that an upstream knows of a request, as some print it into their errors. */
const echo = (asked: Asked): string =>
  `cannot do this: ${JSON.stringify(asked.json)} with ${JSON.stringify(asked.headers)}`
/** Secrets stand in words, too. */
const plainEcho = (asked: Asked): string =>
  Object.entries(asked.headers).map(([name, value]) => `${name}: ${value}`).join("; ")

const answering = {
  text: content.answer,
  reasoning: content.reasoning,
  toolCalls: [{ name: "find", arguments: `{"q":"${content.answerArguments}"}` }]
}

const telling = (status: number): Script => (asked) =>
  openAi.error(status, {
    message: `${echo(asked)} ${plainEcho(asked)}`,
    code: plainEcho(asked),
    type: echo(asked),
    param: echo(asked)
  })

const doors = ["openai", "native"] as const
const ways = doors.flatMap((door) => [[door, false], [door, true]] as const)

describe.each(ways)("through the %s door, streamed: %s, nothing leaks of a request that", (door, stream) => {
  const request = (doing = "nothing", model = "openai::m") => bodies[door](model, doing, stream)

  const serves = async (expected: number, sent: Sent, ...scripts: ReadonlyArray<Script>) => {
    upstream.reset()
    upstream.reply(...scripts)
    const answer = await send(door, sent)
    assert.strictEqual(answer.status, expected, answer.said)
    return answer
  }

  for (
    const [model, script] of [
      ["openai::m", openAi.answer(answering)],
      [
        "anthropic::m",
        anthropic.answer({
          text: content.answer,
          thinking: content.reasoning,
          toolCalls: [{ name: "find", input: { q: content.answerArguments } }]
        })
      ],
      ["ollama::m", ollama.answer({ text: content.answer })]
    ] as const
  ) {
    it(`succeeds on ${model}`, async () => {
      // What one wire alone can say is no matter here.
      const { user: _, stop: __, ...plain } = request("nothing", model)
      const { said } = await serves(200, { body: plain }, script)
      assert.include(said, content.answer)
      const [asked] = upstream.requests
      for (const canary of [content.prompt, content.system, content.toolResult]) {
        assert.include(JSON.stringify(asked?.json), canary, "the provider is told all of it")
      }
    })
  }

  for (const status of [400, 401, 403, 404, 413, 422, 429, 500, 503, 529]) {
    it(`is refused with ${status} by an upstream that repeats all it was told`, async () => {
      upstream.reset()
      upstream.always(telling(status))
      const answer = await send(door, { body: request() })
      assert.isAtLeast(answer.status, 400)
    })
  }

  it("is refused in words that are cut within a key", async () => {
    const key = secrets.openAiKey
    for (const [field, cutAt] of [["message", 400], ["code", 100], ["type", 100], ["param", 100]] as const) {
      for (let shown = 1; shown < key.length; shown++) {
        upstream.reset()
        upstream.always(openAi.error(400, { message: "no", [field]: "x".repeat(cutAt - shown) + key }))
        const { said } = await send(door, { body: request() })
        assert.notInclude(said, key.slice(0, 12), `${field}, ${shown}`)
      }
    }
  })

  it("is refused by all keys of a pool", async () => {
    upstream.reset()
    upstream.always(telling(401))
    assert.strictEqual((await send(door, { body: request("nothing", "pool::m") })).status, 502)
  })

  for (
    const [what, body] of [
      ["a page of HTML", (asked: Asked) => `<html><body>${echo(asked)}</body></html>`],
      ["JSON of a form of its own", (asked: Asked) => JSON.stringify({ detail: { echo: echo(asked), asked } })],
      ["text", (asked: Asked) => `${plainEcho(asked)}\n${echo(asked)}`],
      ["JSON that is cut", (asked: Asked) => JSON.stringify({ error: { message: echo(asked) } }).slice(0, -3)]
    ] as const
  ) {
    for (const status of [200, 400, 500]) {
      it(`is answered ${status} with ${what}`, async () => {
        upstream.reset()
        upstream.always((asked) => ({
          status,
          headers: { "content-type": what.includes("JSON") ? "application/json" : "text/html" },
          body: { type: "whole", content: body(asked) },
          faults: []
        }))
        assert.isAtLeast((await send(door, { body: request() })).status, 400)
      })
    }
  }

  if (stream) {
    for (
      const [what, event] of [
        ["an error", (asked: Asked) => sseEvent({ error: { message: echo(asked), code: plainEcho(asked) } })],
        ["no JSON", (asked: Asked) => sseEvent(`{"broken": ${echo(asked)}`)],
        ["JSON of the wrong form", ({ json }: Asked) => sseEvent({ choices: JSON.stringify(json), content: json })]
      ] as const
    ) {
      for (const after of [0, 1, 3]) {
        it(`gets ${what} after ${after} events of a stream`, async () => {
          upstream.reset()
          const broken: Script = (asked) => {
            const script = withFault(openAi.stream(answering), fault.errorAfter(after, event(asked)))
            return typeof script === "function" ? script(asked) : script
          }
          upstream.always(broken)
          await send(door, { body: request() })
        })
      }
    }

    it("loses its stream in the middle", async () => {
      await serves(200, { body: request() }, withFault(openAi.stream(answering), fault.cut(4)))
    })
  }

  for (const doing of ["pre throws", "pre dies", "pre blocks", "post dies", "post blocks"]) {
    it(`is blocked: ${doing}`, async () => {
      upstream.reset()
      upstream.reply(openAi.answer(answering))
      const { said, status } = await send(door, { body: request(doing) })
      assert.include(said, "blocked by moody")
      if (!stream || doing.startsWith("pre")) assert.strictEqual(status, 403)
    })
  }

  for (const doing of ["dies", "throws"]) {
    it(`meets a provider that ${doing}`, async () => {
      const { said } = await send(door, { body: request(doing, "moody::m") })
      // An interceptor of streams is blamed for what comes through it.
      assert.match(said, /the gateway failed|could not check/)
    })
  }

  for (
    const [phase, script] of [
      ["first-token", withFault(openAi.answer(answering), fault.hang)],
      ["total", withFault(openAi.answer(answering), fault.hang)],
      ["idle", withFault(openAi.stream(answering), fault.stall(3))]
    ] as const
  ) {
    // An answer that comes as a whole has no other timer.
    if (!stream && phase !== "total") continue
    it(`runs out of its ${phase} time`, async () => {
      upstream.reset()
      upstream.always(script)
      const { said } = await send(door, { body: request(), headers: { [`x-gateway-timeout-${phase}`]: "40ms" } })
      assert.include(said, "provider_timeout")
    })
  }

  it("is left by its caller, before and in the middle of the answer", async () => {
    for (
      const script of [
        withFault(openAi.answer(answering), fault.hang),
        withFault(openAi.stream(answering), fault.stall(4))
      ]
    ) {
      upstream.reset()
      upstream.reply(script)
      const leaving = new AbortController()
      const answer = fetch(url + paths[door], {
        method: "POST",
        headers,
        body: JSON.stringify(request()),
        signal: leaving.signal
      }).then((response) => response.text())
      await upstream.waitForRequest(0)
      leaving.abort()
      const left = await answer.then(() => false, () => true)
      assert.isTrue(left)
      await upstream.waitForClose(0)
      nothingHasLeaked()
    }
  })

  it("falls back, is hedged, and fails on all candidates", async () => {
    upstream.reset()
    upstream.route("POST", "/chat/completions", telling(503))
    upstream.route("POST", "/messages", anthropic.answer({ text: content.answer }))
    const { user: _, stop: __, ...plain } = request("nothing", "both")
    assert.include((await send(door, { body: plain })).said, content.answer)
    await send(door, { body: { ...plain, model: "hedged" } })
    upstream.route("POST", "/messages", (asked) => anthropic.error(500, { message: echo(asked) }))
    assert.isAtLeast((await send(door, { body: plain })).status, 400)
  })

  it("is wrong in itself", async () => {
    const good = request()
    const wrong: ReadonlyArray<Json | string> = [
      JSON.stringify(good).slice(0, -5),
      { ...good, messages: [{ role: content.prompt, content: content.prompt }] },
      { ...good, messages: content.prompt },
      { ...good, temperature: content.prompt },
      { ...good, [content.prompt]: content.prompt },
      { ...good, model: "nobody::has-this" },
      {
        ...good,
        tools: [{ type: "reference", schema_id: `gts.x.core.faas.func.v1~${content.prompt.toLowerCase()}.a.b.c.v1~` }]
      },
      { ...good, messages: [{ role: "user", content: content.prompt.repeat(10_000) }] },
      { ...good, response_schema: { type: "json_schema", schema: { type: content.prompt } } },
      {
        ...good,
        response_format: { type: "json_schema", json_schema: { name: "n", schema: { type: content.prompt } } }
      }
    ]
    for (const body of wrong) {
      upstream.reset()
      upstream.always(openAi.answer(answering))
      await send(door, { body })
    }
  })

  it("wants a form that the answer does not have", async () => {
    upstream.reset()
    upstream.always(openAi.answer({ text: JSON.stringify({ name: content.answer, age: content.answer }) }))
    const schema = { type: "object", properties: { age: { type: "number" } }, required: ["age"] }
    const { said } = await send(door, {
      body: door === "openai"
        ? { ...request(), response_format: { type: "json_schema", json_schema: { name: "person", schema } } }
        : { ...request(), response_schema: { type: "json_schema", schema } }
    })
    assert.include(said, "validation_error")
  })

  it("shows a wrong key, none, or one in its address", async () => {
    for (
      const authorization of [`Bearer ${secrets.wrongKey}`, secrets.wrongKey, `Basic ${secrets.wrongKey}`, ""]
    ) {
      assert.strictEqual((await send(door, { body: request(), headers: { authorization } })).status, 401)
    }
    const xApiKey = { authorization: "", "x-api-key": secrets.wrongKey }
    assert.strictEqual((await send(door, { body: request(), headers: xApiKey })).status, 401)
    upstream.reset()
    upstream.always(openAi.answer(answering))
    for (const name of ["key", "api_key", "token", "code", "q"]) {
      await send(door, { body: request(), path: `${paths[door]}?${name}=${secrets.query}` })
      await send(door, { body: request(), path: `${paths[door]}/nowhere?${name}=${secrets.query}` })
    }
  })

  it("names impossible options in its headers", async () => {
    for (
      const name of [
        "x-gateway-timeout-total",
        "x-gateway-fallback",
        "x-gateway-route-policy",
        "x-gateway-sticky-key",
        "x-request-id",
        "traceparent"
      ]
    ) {
      upstream.reset()
      upstream.always(openAi.answer(answering))
      await send(door, { body: request(), headers: { [name]: `;${secrets.requestHeader};` } })
    }
  })
})

describe("in process nothing leaks, and no error holds a secret", () => {
  const request: ChatRequest = {
    model: "openai::m",
    messages: [{ role: "user", content: [text(content.prompt)] }]
  }
  for (const status of [400, 401, 429, 500]) {
    it(`of a request that is refused with ${status}`, async () => {
      upstream.reset()
      upstream.always(telling(status))
      const failing = Effect.gen(function*() {
        const gateway = yield* Gateway
        return [
          yield* Effect.flip(gateway.chat(request)),
          yield* Effect.flip(Stream.runDrain(gateway.streamChat(request)))
        ]
      })
      for (const error of await runtime.runPromise(failing)) {
        holdsNone(secretShapes, "the error", Cause.pretty(Cause.fail(error)) + everything(error))
      }
      nothingHasLeaked()
    })
  }
})

describe("of discovery", () => {
  it("that is refused with all it told, nothing leaks", async () => {
    upstream.reset()
    for (const path of ["/models", "/api/tags"]) upstream.route("GET", path, telling(401))
    await runtime.runPromise(Effect.flatMap(ModelRegistry, (models) => models.refresh))
    nothingHasLeaked()
    upstream.reset()
  })
})

describe("when all is over", () => {
  it("every sink has been told something, and nothing of it that it should not know", async () => {
    await runtime.dispose()
    nothingHasLeaked()
    assert.isAbove(captured.usage.length, 100)
    assert.isAbove(captured.spans.length, 100)
    assert.isAbove(captured.logs.length, 20)
    assert.include(captured.logs.join("\n"), "defect")
    assert.isAbove(captured.audit.length, 100)
    assert.include(captured.usage.join("\n"), "the-key")
    // Whom a request is for is what records are for.
    assert.include(captured.audit.join("\n"), "the-end-user")
  })
})
