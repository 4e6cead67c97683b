/** More than a gateway can do: who waits, who is turned away and in which words, and who never is. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, ManagedRuntime } from "effect"
import { hash } from "node:crypto"
import { connect } from "node:net"
import { layer as shedding, Load } from "../../src/server/Shedding.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { serve } from "../fixtures/ServedGateway.ts"

const sha256 = (secret: string): string => hash("sha256", secret, "hex")

const auth = `auth:
  mode: keys
  keys:
    - { id: a, sha256: ${sha256("a")}, tenant: a, admin: true }
    - { id: b, sha256: ${sha256("b")}, tenant: b }
`

const messages = [{ role: "user", content: "hello" }]

/** The dialects, and where each of them says what went wrong. */
const dialects = [
  { path: "/v1/chat/completions", body: { messages }, code: /"code":"overloaded"/ },
  { path: "/v1/responses", body: { input: "hello" }, code: /"code":"overloaded"/ },
  { path: "/v1/messages", body: { messages, max_tokens: 10 }, status: 529, code: /"type":"overloaded_error"/ },
  { path: "/api/chat", body: { messages }, code: /"error":/ },
  {
    path: "/llm-gateway/v1/chat/completions",
    body: { messages: [{ role: "user", content: [{ type: "text", text: "hello" }] }] },
    code: /"code":"overloaded"/
  },
  { path: "/v1/embeddings", body: { input: "hello" }, code: /"code":"overloaded"/ }
]

describe("places among the requests that run", () => {
  let upstream: FakeUpstream
  let gateway: RunningGateway
  beforeAll(async () => {
    upstream = await startFakeUpstream()
    gateway = await startGateway(`
${auth}
server: { concurrency: { max: 2, queue: 2, wait: 60s } }
providers:
  p: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
`)
  })
  afterAll(() => gateway.close())
  afterAll(() => upstream.close())

  const ask = (secret: string, more: Readonly<Record<string, unknown>> = {}, signal?: AbortSignal) =>
    fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${secret}` },
      body: JSON.stringify({ model: "p::m", messages, ...more }),
      ...(signal === undefined ? {} : { signal })
    })

  const figure = async (name: string): Promise<number> => {
    const response = await fetch(`${gateway.url}/metrics`, { headers: { authorization: "Bearer a" } })
    return Number(new RegExp(`^${name} (\\d+)`, "m").exec(await response.text())?.[1])
  }

  const until = async (name: string, value: number): Promise<void> => {
    const deadline = performance.now() + 20_000
    while ((await figure(name)) !== value) {
      assert.isBelow(performance.now(), deadline, `${name} is ${await figure(name)} and not ${value}`)
    }
  }

  it("beyond them requests wait; beyond the queue they are overloaded, in each dialect's words, and soon welcome again", async () => {
    upstream.reset()
    let release = (): void => {}
    const released = new Promise<void>((resolve) => {
      release = resolve
    })
    upstream.reply(withFault(openAi.stream(), fault.hold(2, released)))
    upstream.reply(withFault(openAi.answer(), fault.holdHeaders(released)))
    upstream.always(openAi.answer())
    // A stream has its place until its last byte.
    const streamed = await ask("a", { stream: true })
    const whole = ask("a")
    await until("llm_gateway_places_taken", 2)
    const waiting = [ask("a"), ask("b")]
    await until("llm_gateway_places_waiting", 2)
    assert.strictEqual(upstream.requests.length, 2)
    for (const { body, code, path, status = 503 } of dialects) {
      const response = await gateway.post(path, { model: "p::m", ...body }, { authorization: "Bearer b" })
      assert.strictEqual(response.status, status, path)
      assert.strictEqual(response.headers.get("retry-after"), "1", path)
      assert.match(await response.text(), code, path)
    }
    assert.strictEqual((await fetch(`${gateway.url}/health/ready`)).status, 200)
    release()
    assert.include(await streamed.text(), "[DONE]")
    for (const response of await Promise.all([whole, ...waiting])) {
      assert.strictEqual(response.status, 200)
      await response.text()
    }
    await until("llm_gateway_places_taken", 0)
  })

  it("who goes away gives up a place, and one in the queue", async () => {
    upstream.reset()
    upstream.always(withFault(openAi.answer(), fault.hang))
    const gone = new AbortController()
    const asked = Array.from({ length: 3 }, () => ask("a", {}, gone.signal).catch(() => undefined))
    await until("llm_gateway_places_taken", 2)
    await until("llm_gateway_places_waiting", 1)
    gone.abort()
    await Promise.all(asked)
    await until("llm_gateway_places_taken", 0)
    await until("llm_gateway_places_waiting", 0)
    upstream.always(openAi.answer())
    assert.strictEqual((await ask("a")).status, 200)
  })
})

describe("a process that has too much to do", () => {
  it.live("turns work away at once, and never those who look after it", () =>
    Effect.gen(function*() {
      const gateway = yield* serve(
        `${auth}server: { port: 0, shed: { memory: 1 } }\nproviders:\n  s: { type: sandbox }\n`,
        { environment: { NODE_OPTIONS: "--max-old-space-size=256" } }
      )
      yield* Effect.promise(async () => {
        const send = (method: string, path: string, body?: unknown) =>
          fetch(`${gateway.url}${path}`, {
            method,
            headers: { "content-type": "application/json", authorization: "Bearer a" },
            ...(body === undefined ? {} : { body: JSON.stringify(body) })
          })
        const chat = () => send("POST", "/v1/chat/completions", { model: "s::echo", messages })
        const deadline = performance.now() + 20_000
        while ((await chat()).status !== 503) assert.isBelow(performance.now(), deadline)
        for (const { body, code, path, status = 503 } of dialects) {
          const response = await send("POST", path, { model: "s::echo", ...body })
          assert.strictEqual(response.status, status, path)
          assert.strictEqual(response.headers.get("retry-after"), "1", path)
          assert.match(await response.text(), code, path)
        }
        for (const path of ["/health/live", "/health/ready", "/v1/models", "/llm-gateway/v1/budgets"]) {
          assert.strictEqual((await send("GET", path)).status, 200, path)
        }
        assert.strictEqual((await send("POST", "/llm-gateway/v1/admin/keys", { tenant: "a" })).status, 201)
        assert.strictEqual((await send("POST", "/llm-gateway/v1/admin/reload")).status, 200)
        const metrics = await (await send("GET", "/metrics")).text()
        assert.match(metrics, /^llm_gateway_overloaded 1$/m)
        assert.match(metrics, /^llm_gateway_overload_refusals_total\{reason="process"\} [1-9]/m)
      })
    }))

  it("is one whose event loop is late again and again, and not one with a single long piece of work", async () => {
    const runtime = ManagedRuntime.make(shedding({ eventLoopDelay: 50, memory: 0 }))
    const load = await runtime.runPromise(Effect.service(Load))
    const codeNow = (): string | undefined => load.overload?.code
    const block = (): void => {
      const end = performance.now() + 400
      while (performance.now() < end);
    }
    const turn = () => new Promise((resolve) => setImmediate(resolve))
    block()
    await turn()
    await turn()
    assert.isUndefined(codeNow())
    for (let times = 0; times < 4; times++) {
      block()
      await turn()
      await turn()
    }
    assert.strictEqual(codeNow(), "overloaded")
    const deadline = performance.now() + 20_000
    while (codeNow() !== undefined) {
      assert.isBelow(performance.now(), deadline)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    await runtime.dispose()
  })
})

describe("connections that are too slow", () => {
  it("headers that do not come to their end in 20 s: told so, and closed", async () => {
    const gateway = await startGateway("providers:\n  s: { type: sandbox }\n")
    const { hostname, port } = new URL(gateway.url)
    const said = await new Promise<string>((resolve) => {
      let text = ""
      const socket = connect(Number(port), hostname)
      const drip = setInterval(() => socket.write("x-slow: 1\r\n"), 500)
      socket.on("connect", () => socket.write("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"))
      socket.on("data", (bytes) => {
        text += bytes.toString("utf8")
      })
      socket.on("error", () => undefined)
      socket.on("close", () => {
        clearInterval(drip)
        resolve(text)
      })
    })
    assert.match(said, /^HTTP\/1\.1 408 /)
    await gateway.close()
  }, 60_000)
})
