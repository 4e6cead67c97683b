/** Realtime sessions with those who do not behave: who read nothing, say nonsense, fall silent, vanish, or never answer. */
import { afterAll, afterEach, assert, beforeAll, describe, it } from "@effect/vitest"
import { connect as open, createServer, type Socket } from "node:net"
import { setTimeout as delay } from "node:timers/promises"
import { WebSocket } from "ws"
import { callRealtime, refusedRealtime } from "../fixtures/RealtimeCaller.ts"
import { type RealtimeUpstream, startRealtimeUpstream } from "../fixtures/RealtimeUpstream.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"

let upstream: RealtimeUpstream
let gateway: RunningGateway

const megabyte = 1024 * 1024

const configuration = (realtime: string): string => `
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", unlisted_models: allow }
models: [{ id: "openai::gpt-realtime", capabilities: [realtime_audio] }]
realtime: ${realtime}
`

beforeAll(async () => {
  upstream = await startRealtimeUpstream()
  gateway = await startGateway(configuration("{ max_frame: 1MB }"))
})
afterEach(() => upstream.refuse(undefined))
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})

const pathOf = (model: string) => `/v1/realtime?model=${encodeURIComponent(model)}`
const connect = async (at = gateway) => {
  const index = upstream.connections.length
  const caller = await callRealtime(at.url + pathOf("openai::gpt-realtime"))
  return { caller, provider: await upstream.connection(index) }
}

/** A frame of 64 KiB that knows its place. */
const frame = (index: number): Buffer => {
  const bytes = Buffer.alloc(64 * 1024, index % 256)
  bytes.writeUInt32BE(index)
  return bytes
}

/** Sends many frames from one socket to another that does not read, and then does. */
const flood = async (from: WebSocket, to: WebSocket): Promise<void> => {
  const frames = 100 * megabyte / (64 * 1024)
  let next = 0
  const whole = new Promise<void>((resolve, reject) => {
    to.on("message", (data: Buffer) => {
      if (data.readUInt32BE(0) !== next++) reject(new Error(`frame ${next - 1} is not in its place`))
      if (next === frames) resolve()
    })
  })
  to.pause()
  for (let at = 0; at < frames; at++) from.send(frame(at))
  // Who sends is stopped as soon as all buffers on the way are full; nothing tells when that is.
  let before = -1
  while (from.bufferedAmount !== before) {
    before = from.bufferedAmount
    await delay(200)
  }
  // The operating system's buffers of two connections hold up to some 20 MB.
  assert.isAbove(from.bufferedAmount, 60 * megabyte)
  to.resume()
  await whole
}

const running = async (): Promise<number> => {
  const text = await (await fetch(`${gateway.url}/metrics`)).text()
  return Number(/llm_gateway_requests_running\{[^}]*realtime[^}]*\} (\d+)/.exec(text)?.[1] ?? "0")
}

describe("who does not read", () => {
  it("stops the provider, and misses nothing", async () => {
    const { caller, provider } = await connect()
    await flood(provider.socket, caller.socket)
    caller.socket.close(1000)
    assert.strictEqual((await provider.closed).code, 1000)
  }, 30_000)

  it("stops the caller, and misses nothing", async () => {
    const { caller, provider } = await connect()
    await flood(caller.socket, provider.socket)
    provider.socket.close(1000)
    assert.strictEqual((await caller.closed).code, 1000)
  }, 30_000)
})

/** Numbers that look like chance, and are the same every time (mulberry32). */
const chance = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

const types = [
  "response.create",
  "session.update",
  "conversation.item.create",
  "input_audio_buffer.append",
  "response.created",
  "response.done",
  "session.created",
  "conversation.item.input_audio_transcription.completed",
  "error",
  "gateway.usage",
  "__proto__"
]

const nonsense = (random: () => number): string | Buffer => {
  const any = <A>(values: ReadonlyArray<A>): A | undefined => values[Math.floor(random() * values.length)]
  const value = (depth: number): unknown =>
    any([
      () => null,
      () => random() * 1e9,
      () => "\ud83d\ude00\"\\".repeat(Math.floor(random() * 5)),
      () => depth === 0 ? [] : [value(depth - 1), value(depth - 1)],
      () =>
        depth === 0 ? {} : {
          session: value(depth - 1),
          response: value(depth - 1),
          item: value(depth - 1),
          usage: value(depth - 1),
          id: value(0)
        }
    ])?.()
  const text = JSON.stringify({ type: any(types), a: value(3), response: value(3), session: value(3), item: value(3) })
  switch (Math.floor(random() * 5)) {
    case 0:
      return Buffer.from(Array.from({ length: Math.floor(random() * 300) }, () => Math.floor(random() * 256)))
    case 1:
      return text.slice(0, Math.floor(random() * text.length))
    case 2:
      return `{"type":"${any(types)}","type":${JSON.stringify(value(2))}`
    case 3:
      return "[".repeat(Math.floor(random() * 5_000))
    default:
      return text
  }
}

describe("who says nonsense", () => {
  it.each([1, 2, 3, 4])("gets it through as it is, both ways (%i)", async (seed) => {
    const { caller, provider } = await connect()
    const random = chance(seed)
    const said = Array.from({ length: 400 }, () => nonsense(random))
    // Who asks for too much while nothing is answered would be another test.
    const toProvider = said.filter((one) => !String(one).includes("session.update"))
    for (const one of toProvider) caller.socket.send(one)
    caller.say({ type: "last" })
    await provider.heard("last")
    const bytes = (one: string | Buffer) => Buffer.from(one).toString("base64")
    assert.deepStrictEqual(
      provider.received.slice(0, -1).map(({ data }) => data.toString("base64")),
      toProvider.map(bytes)
    )
    for (const one of said) provider.socket.send(one)
    provider.say({ type: "last" })
    await caller.heard("last")
    assert.strictEqual(caller.socket.readyState, WebSocket.OPEN)
    caller.socket.close(1000)
    await provider.closed
  })

  it("is cut off where a frame is too large, from either side", async () => {
    const first = await connect()
    first.caller.socket.send(Buffer.alloc(megabyte + 1))
    assert.strictEqual((await first.caller.closed).code, 1009)
    assert.strictEqual((await first.provider.closed).code, 1001)
    const second = await connect()
    second.provider.socket.send(Buffer.alloc(megabyte + 1))
    assert.strictEqual((await second.provider.closed).code, 1009)
    assert.strictEqual((await second.caller.closed).code, 1011)
  })

  it("is refused where it is no handshake", async () => {
    for (const header of ["sec-websocket-version: 8", "sec-websocket-version: 13\r\nsec-websocket-key: short"]) {
      const before = upstream.connections.length
      const lines = [`GET ${pathOf("openai::gpt-realtime")} HTTP/1.1`, "host: x", "connection: upgrade", header]
      const answer = await said(`${lines.join("\r\n")}\r\nupgrade: websocket\r\n\r\n`)
      assert.match(answer, /^HTTP\/1\.1 400 /)
      assert.lengthOf(upstream.connections, before)
    }
  })
})

/** What the gateway answers to bytes that no WebSocket client would send. */
const said = (text: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = open(Number(new URL(gateway.url).port), "127.0.0.1", () => socket.write(text))
    let answer = ""
    socket.on("data", (bytes) => (answer += bytes.toString()))
    socket.on("end", () => resolve(answer))
    socket.on("error", reject)
  })

describe("who vanishes", () => {
  it("is noticed by its silence to pings, on either side", async () => {
    const pinging = await startGateway(configuration("{ ping_interval: 100ms }"))
    try {
      const index = upstream.connections.length
      const url = pinging.url.replace("http", "ws") + pathOf("openai::gpt-realtime")
      const deaf = new WebSocket(url, { autoPong: false })
      const gone = new Promise<number>((resolve) => {
        deaf.on("close", resolve)
      })
      const provider = await upstream.connection(index)
      assert.strictEqual((await provider.closed).code, 1001)
      assert.strictEqual(await gone, 1006)
      // Those who answer stay.
      const { caller, provider: second } = await connect(pinging)
      await delay(500)
      assert.strictEqual(caller.socket.readyState, WebSocket.OPEN)
      caller.socket.close()
      await second.closed
    } finally {
      await pinging.close()
    }
  })

  it("leaves nothing behind", async () => {
    const handles = () => process.getActiveResourcesInfo().filter((name) => name.startsWith("TCPSocket")).length
    const first = await connect()
    first.caller.socket.terminate()
    await first.provider.closed
    const before = handles()
    const many = await Promise.all(Array.from({ length: 50 }, async (_, at) => {
      const caller = await callRealtime(gateway.url + pathOf("openai::gpt-realtime"))
      for (let sent = 0; sent < 20; sent++) caller.socket.send(frame(sent))
      if (at % 2 === 0) caller.socket.terminate()
      return caller
    }))
    for (const { socket } of upstream.connections) socket.terminate()
    await Promise.all(many.map(({ closed }) => closed))
    // The gateway's own ends close a moment after those of the test.
    for (let turn = 0; turn < 100 && (handles() > before || await running() > 0); turn++) await delay(20)
    assert.isAtMost(handles(), before + 1)
    assert.strictEqual(await running(), 0)
    const figures = await (await fetch(`${gateway.url}/metrics`)).text()
    assert.match(figures, /^llm_gateway_realtime_sessions 0$/m)
    assert.match(figures, /^llm_gateway_realtime_frames_total\{from="caller"\} [1-9]/m)
  })
})

describe("who never answers", () => {
  it("is given up after the connect timer; a caller that leaves before takes the connection with it", async () => {
    const sockets = new Set<Socket>()
    /** Resolve with the next handshake, and when its connection is closed. */
    let came = (_closed: Promise<void>): void => undefined
    const silent = createServer((socket) => {
      sockets.add(socket)
      socket.on("error", () => undefined)
      const closed = new Promise<void>((resolve) => {
        socket.on("close", () => resolve())
      })
      socket.on("data", (bytes) => {
        if (bytes.toString().includes("websocket")) came(closed)
      })
    })
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve))
    const address = silent.address()
    if (address === null || typeof address === "string") throw new Error("the server has no port")
    const at = await startGateway(`
providers: { openai: { type: openai, base_url: "http://127.0.0.1:${address.port}/v1", unlisted_models: allow } }
models: [{ id: "openai::gpt-realtime", capabilities: [realtime_audio] }]
defaults: { attempts: 1, timeouts: { connect: 1s } }
`)
    try {
      const refusal = await refusedRealtime(at.url + pathOf("openai::gpt-realtime"))
      assert.strictEqual(refusal.status, 504)
      assert.include(refusal.body, "timeout: connect")
      const handshake = new Promise<{ readonly closed: Promise<void> }>((resolve) => {
        came = (closed) => resolve({ closed })
      })
      const left = new WebSocket(at.url.replace("http", "ws") + pathOf("openai::gpt-realtime"))
      left.on("error", () => undefined)
      const { closed } = await handshake
      const since = performance.now()
      left.terminate()
      await closed
      assert.isBelow(performance.now() - since, 500)
    } finally {
      await at.close()
      for (const socket of sockets) socket.destroy()
      silent.close()
    }
  })
})

describe("who falls silent", () => {
  it.each([["{ idle_timeout: 400ms }", "idle"], ["{ max_session: 400ms }", "total"]])(
    "is told why the session is over: %s",
    async (realtime, phase) => {
      const at = await startGateway(configuration(realtime))
      try {
        const { caller, provider } = await connect(at)
        const { error } = await caller.heard("error")
        assert.deepInclude(error, { code: "provider_timeout" })
        assert.include(JSON.stringify(error), `timeout: ${phase}`)
        await caller.heard("gateway.usage")
        assert.strictEqual((await caller.closed).code, 1001)
        assert.strictEqual((await provider.closed).code, 1000)
      } finally {
        await at.close()
      }
    }
  )
})
