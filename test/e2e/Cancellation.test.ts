/**
 * How an exchange ends before its answer does, by its caller or by a timer. Interruption is cancellation: when the caller goes away, in whichever phase, the upstream's socket closes within
 * 100 ms and nothing is left behind. For each provider, whole and streamed, over HTTP and in process; and backpressure,
 * without which a caller that reads slowly would fill the gateway's memory.
 */
import { NodeServices } from "@effect/platform-node"
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, ManagedRuntime, Result, Stream } from "effect"
import * as Http from "node:http"
import * as ConfigFile from "../../src/config/ConfigFile.ts"
import * as GatewayLayer from "../../src/config/GatewayLayer.ts"
import { Gateway } from "../../src/gateway/Gateway.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { text } from "../../src/sdk/Content.ts"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { type Fault, fault, withFault } from "../fixtures/Fault.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { endless, type Script, sseEvent, stream as scripted } from "../fixtures/Script.ts"

interface Wire {
  readonly path: string
  readonly answer: Script
  /** Never ends by itself. */
  readonly endless: Script
  /** Events of the stream before its first word is over. */
  readonly lead: number
}

const words = "One two three four"
const paragraph = "x".repeat(4096)

const wires: Readonly<Record<"openai" | "anthropic" | "ollama", Wire>> = {
  openai: {
    path: "/v1",
    answer: openAi.answer({ text: words }),
    endless: openAi.stream({ text: endless(paragraph) }),
    lead: 2
  },
  anthropic: {
    path: "",
    answer: anthropic.answer({ text: words }),
    endless: anthropic.stream({ text: endless(paragraph) }),
    lead: 4
  },
  ollama: {
    path: "",
    answer: ollama.answer({ text: words }),
    endless: ollama.stream({ text: endless(paragraph) }),
    lead: 1
  }
}

const isWire = (name: string): name is keyof typeof wires => Object.hasOwn(wires, name)

/** Where in an exchange the caller leaves: how the upstream behaves, and what shows that the point has been reached. */
interface Phase {
  readonly faults: (wire: Wire) => ReadonlyArray<Fault>
  /** Events of the answer that have to be on their way before the caller leaves. */
  readonly events: (wire: Wire) => number
  /** Whether the caller has got its first content by then. */
  readonly committed?: true
}

const none = () => 0

const phases: Readonly<Record<"whole" | "streamed", Readonly<Record<string, Phase>>>> = {
  whole: {
    "before the headers": { faults: () => [fault.hang], events: none },
    "while the headers trickle in": { faults: () => [fault.endlessHeaders(5)], events: none },
    "with the headers there and no byte of the body": { faults: () => [fault.slowFirstByte(60_000)], events: none },
    "while the body is read": { faults: () => [fault.contentLength(100), fault.stall(1)], events: () => 1 }
  },
  streamed: {
    "before the headers": { faults: () => [fault.hang], events: none },
    "with the headers there and no byte of the body": { faults: () => [fault.slowFirstByte(60_000)], events: none },
    "while the first token is waited for": {
      faults: ({ lead }) => [fault.stall(lead - 1)],
      events: ({ lead }) => lead - 1
    },
    "mid-stream": { faults: ({ lead }) => [fault.stall(lead)], events: ({ lead }) => lead, committed: true }
  }
}

const yaml = (url: string) =>
  Object.entries(wires).reduce(
    (config, [type, { path }]) =>
      `${config}  ${type}: { type: ${type}, base_url: "${url}${path}", api_key: secret, unlisted_models: allow }\n`,
    "providers:\n"
  )

const ask = (type: string, stream: boolean) => ({
  model: `${type}::model-1`,
  stream,
  messages: [{ role: "user", content: "Say something." }]
})

let upstream: FakeUpstream
let gateway: RunningGateway
let runtime: ManagedRuntime.ManagedRuntime<Gateway, unknown>

beforeAll(async () => {
  upstream = await startFakeUpstream()
  const config = yaml(upstream.url)
  gateway = await startGateway(config)
  runtime = ManagedRuntime.make(
    GatewayLayer.layer(Result.getOrThrow(ConfigFile.parse(config, "gateway.yaml", {}))).pipe(
      Layer.provide(NodeServices.layer)
    )
  )
  await runtime.runPromise(Effect.void)
  await gateway.discover()
})
afterEach(() => upstream.reset())
afterAll(async () => {
  await gateway.close()
  await runtime.dispose()
  await upstream.close()
})

/** Nothing in flight, and the exchange closed by the caller within 100 ms. */
const closesAtOnce = async (index: number, left: number) => {
  const closed = await upstream.waitForClose(index, 1000)
  assert.isUndefined(closed.problem)
  assert.isTrue(closed.aborted, "the upstream saw its caller leave")
  assert.isBelow((closed.closedAt ?? Infinity) - left, 100)
  assert.strictEqual(upstream.inFlight(), 0)
}

/**
 * Resolves as soon as the caller may leave: the upstream has done what it does in this phase, and the gateway, whose sockets
 * are served in order, has had a whole other request since.
 */
const reached = async (index: number, phase: Phase, wire: Wire) => {
  await upstream.waitForRequest(index)
  await upstream.waitForEvents(index, phase.events(wire))
  const health = await fetch(`${gateway.url}/health/live`)
  await health.arrayBuffer()
}

describe.each(Object.keys(wires).filter(isWire))("%s", (type) => {
  const wire = wires[type]
  for (const kind of ["whole", "streamed"] as const) {
    for (const [name, phase] of Object.entries(phases[kind])) {
      it(`${kind}: a caller that leaves ${name}`, async () => {
        upstream.reply(withFault(wire.answer, ...phase.faults(wire)))
        const controller = new AbortController()
        const answer = fetch(`${gateway.url}/v1/chat/completions`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(ask(type, kind === "streamed")),
          signal: controller.signal
        }).then(async (response) => {
          const reader = response.body?.getReader()
          await reader?.read()
          first.resolve()
          return reader?.read()
        })
        const first = Promise.withResolvers<void>()
        const outcome = answer.then(() => "answered", () => "left")
        await reached(0, phase, wire)
        if (phase.committed === true) await first.promise
        const left = performance.now()
        controller.abort()
        assert.strictEqual(await outcome, "left")
        await closesAtOnce(0, left)
      })

      it(`${kind}, in process: an interruption ${name}`, async () => {
        upstream.reply(withFault(wire.answer, ...phase.faults(wire)))
        const request: ChatRequest = {
          model: `${type}::model-1`,
          messages: [{ role: "user", content: [text("Say something.")] }]
        }
        const first = Promise.withResolvers<void>()
        const program = Effect.flatMap(Gateway, (gateway) =>
          kind === "whole"
            ? Effect.asVoid(gateway.chat(request))
            : Stream.runForEach(gateway.streamChat(request), () => Effect.sync(() => first.resolve())))
        const fiber = runtime.runFork(program)
        await reached(0, phase, wire)
        if (phase.committed === true) await first.promise
        const left = performance.now()
        const exit = await Effect.runPromise(Effect.andThen(Fiber.interrupt(fiber), Fiber.await(fiber)))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        await closesAtOnce(0, left)
      })
    }
  }

  it("in process: leaving a stream after two chunks closes the upstream", async () => {
    upstream.reply(wire.endless)
    const taken = await runtime.runPromise(Effect.flatMap(Gateway, (gateway) =>
      Stream.runCollect(Stream.take(
        gateway.streamChat({ model: `${type}::model-1`, messages: [{ role: "user", content: [text("Go on.")] }] }),
        2
      ))))
    const left = performance.now()
    assert.lengthOf(taken, 2)
    await closesAtOnce(0, left)
  })

  it("fifty streams that are left at once leave nothing behind", async () => {
    upstream.always(withFault(wire.answer, fault.stall(wire.lead)))
    const controllers = Array.from({ length: 50 }, () => new AbortController())
    const open = controllers.map(async ({ signal }) => {
      const response = await fetch(`${gateway.url}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(ask(type, true)),
        signal
      })
      await response.body?.getReader().read()
    })
    await Promise.all(open)
    assert.strictEqual(upstream.inFlight(), 50)
    const before = upstream.openSockets()
    assert.isAtLeast(before, 50)
    const idle = before - 50
    for (const controller of controllers) controller.abort()
    for (let index = 0; index < 50; index++) assert.isTrue((await upstream.waitForClose(index)).aborted)
    assert.strictEqual(upstream.inFlight(), 0)
    await upstream.waitForSockets(idle)
  })

  it("a caller that reads slowly slows the upstream, and memory stays flat", async () => {
    upstream.reply(wire.endless)
    const request = Http.request(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" }
    })
    request.on("error", () => {})
    request.end(JSON.stringify(ask(type, true)))
    const response = await new Promise<Http.IncomingMessage>((resolve) => request.on("response", resolve))
    response.on("error", () => {})
    response.pause()
    const settled = await sentUntilItStops(0)
    assert.isBelow(settled, 32 * 1024 * 1024)
    // The gateway holds 64 KiB a stream; the rest of what was sent lies in the sockets' own buffers.
    const heap = process.memoryUsage().heapUsed
    await quiet()
    assert.strictEqual(upstream.request(0).bytesSent, settled, "nothing more is sent while nobody reads")
    assert.isBelow(process.memoryUsage().heapUsed - heap, 16 * 1024 * 1024)

    // It is only paused: reading on lets it go on.
    const more = Promise.withResolvers<void>()
    let read = 0
    response.on("data", (bytes: Buffer) => {
      read += bytes.length
      if (read > 2 * settled) more.resolve()
    })
    response.resume()
    await more.promise
    const left = performance.now()
    request.destroy()
    await closesAtOnce(0, left)
  })
})

/** A while in which a stream that is not held back would send megabytes. */
const quiet = () =>
  new Promise<void>((resolve) => {
    setTimeout(resolve, 150)
  })

/** The bytes that the upstream has sent when it could send no more. */
const sentUntilItStops = async (index: number): Promise<number> => {
  await upstream.waitForEvents(index, 1)
  for (let before = -1;;) {
    await quiet()
    const { bytesSent } = upstream.request(index)
    if (bytesSent === before) return bytesSent
    before = bytesSent
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Timers
// ---------------------------------------------------------------------------------------------------------------------

const sseEvents = (text: string) => text.split("\n").filter((line) => line.startsWith("data: "))

describe.each(Object.keys(wires).filter(isWire))("%s: timers", (type) => {
  const wire = wires[type]
  const asking = (stream: boolean, headers: Readonly<Record<string, string>>) =>
    gateway.post("/v1/chat/completions", ask(type, stream), headers)

  const timesOut = async (response: Response, phase: string) => {
    const body = await response.text()
    assert.strictEqual(response.status, 504, body)
    assert.include(body, "\"provider_timeout\"")
    assert.include(body, `timeout: ${phase}`)
    assert.isTrue((await upstream.waitForClose(0, 1000)).aborted, "the upstream is left")
  }

  it("total: a whole answer that does not come is 504", async () => {
    upstream.reply(withFault(wire.answer, fault.hang))
    await timesOut(await asking(false, { "x-gateway-timeout-total": "80ms" }), "total")
  })

  it("total: a whole answer whose body stops is 504", async () => {
    upstream.reply(withFault(wire.answer, fault.contentLength(100), fault.stall(1)))
    await timesOut(await asking(false, { "x-gateway-timeout-total": "0.08s" }), "total")
  })

  it("first token: a stream whose headers do not come is 504", async () => {
    upstream.reply(withFault(wire.answer, fault.hang))
    await timesOut(await asking(true, { "x-gateway-timeout-first-token": "80" }), "first_token")
  })

  it("first token: an opening, a role or a ping is no content", async () => {
    upstream.reply(withFault(wire.answer, fault.stall(wire.lead - 1)))
    await timesOut(await asking(true, { "x-gateway-timeout-first-token": "80" }), "first_token")
  })

  it("idle: a stream that goes silent ends in an error that names the phase, and without its end", async () => {
    upstream.reply(withFault(wire.answer, fault.stall(wire.lead)))
    const response = await asking(true, { "x-gateway-timeout-idle": "80" })
    assert.strictEqual(response.status, 200)
    const events = sseEvents(await response.text())
    assert.include(events.at(-1), "provider_timeout")
    assert.include(events.at(-1), "timeout: idle")
    assert.isTrue((await upstream.waitForClose(0, 1000)).aborted)
  })

  it("total: a stream that goes on for too long ends in an error that names the phase", async () => {
    upstream.reply(withFault(wire.endless, fault.trickle(5)))
    const response = await asking(true, { "x-gateway-timeout-total": "150" })
    const events = sseEvents(await response.text())
    assert.include(events.at(-1), "timeout: total")
    assert.isTrue((await upstream.waitForClose(0, 1000)).aborted)
  })
})

/** Comments for ever after these events. */
const commentsAfter = (...events: ReadonlyArray<string>): Iterable<string> => ({
  *[Symbol.iterator]() {
    yield* events
    for (;;) yield ": still here\n\n"
  }
})

describe("comments", () => {
  const opening = sseEvent({
    id: "c",
    object: "chat.completion.chunk",
    model: "m",
    choices: [{ index: 0, delta: { role: "assistant" } }]
  })
  const word = sseEvent({
    id: "c",
    object: "chat.completion.chunk",
    model: "m",
    choices: [{ index: 0, delta: { content: "One" } }]
  })

  it("do not count as a first token", async () => {
    upstream.reply(withFault(scripted("sse", commentsAfter(opening)), fault.trickle(5)))
    const response = await gateway.post("/v1/chat/completions", ask("openai", true), {
      "x-gateway-timeout-first-token": "100"
    })
    assert.strictEqual(response.status, 504)
    assert.include(await response.text(), "timeout: first_token")
  })

  it("do not keep a stream from being idle", async () => {
    upstream.reply(withFault(scripted("sse", commentsAfter(opening, word)), fault.trickle(5)))
    const response = await gateway.post("/v1/chat/completions", ask("openai", true), {
      "x-gateway-timeout-idle": "100"
    })
    assert.strictEqual(response.status, 200)
    assert.include(sseEvents(await response.text()).at(-1), "timeout: idle")
  })
})

it("a caller that leaves while its own body is still on the way reaches no provider", async () => {
  const request = Http.request(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "content-length": "100000" }
  })
  const gone = new Promise<void>((resolve) => request.on("close", resolve))
  request.on("error", () => {})
  request.write("{\"model\":")
  await new Promise<void>((resolve) => request.on("socket", (socket) => socket.on("connect", resolve)))
  request.destroy()
  await gone
  // The gateway goes on serving, and this is the first request that the upstream sees.
  upstream.reply(wires.openai.answer)
  const response = await gateway.post("/v1/chat/completions", ask("openai", false))
  assert.strictEqual(response.status, 200)
  assert.lengthOf(upstream.requests, 1)
})
