/**
 * `npm run bench:realtime`: realtime sessions that send 20 ms of sound at a time and get it back, through the gateway, through a
 * bare WebSocket proxy, and without either, in the same run. Tells whether a frame was lost or came out of order, how long
 * frames were under way, and what they cost. `--sessions`, `--rate` (frames a second) and `--seconds` set the load.
 */
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { WebSocket } from "ws"
import { type ChildServer, startChildServer } from "../fixtures/ChildServer.ts"
import { cpuMicros, residentMiB } from "./Load.ts"

const { values } = parseArgs({
  options: {
    sessions: { type: "string", default: "500" },
    rate: { type: "string", default: "50" },
    seconds: { type: "string", default: "60" },
    quick: { type: "boolean", default: false }
  }
})
const sessions = values.quick ? 50 : Number(values.sessions)
const rate = Number(values.rate)
const seconds = values.quick ? 10 : Number(values.seconds)
const warmUp = 3

const server = fileURLToPath(new URL("../fixtures/RealtimeBenchServer.ts", import.meta.url))
const echo = await startChildServer([server])
const proxy = await startChildServer([server, "--role", "proxy", "--upstream", echo.url])
const gateway = await startChildServer([
  "--import",
  "effect/schema/SchemaJITCompiler/enable",
  fileURLToPath(new URL("GatewayProcess.ts", import.meta.url)),
  "--upstream",
  echo.url
])

/** 20 ms of 24 kHz, 16 bit sound. */
const sound = Buffer.alloc(960, 7).toString("base64")

interface Line {
  readonly socket: WebSocket
  sent: number
  received: number
  outOfOrder: number
}

const open = (url: string): Promise<Line> =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(url, {
      perMessageDeflate: false,
      headers: { authorization: "Bearer bench-secret" }
    })
    const line: Line = { socket, sent: 0, received: 0, outOfOrder: 0 }
    socket.on("error", reject)
    socket.on("open", () => resolve(line))
  })

interface Figures {
  readonly frames: number
  readonly lost: number
  readonly outOfOrder: number
  readonly p50: number
  readonly p99: number
  readonly cpuPerFrame: number | undefined
  readonly memory: readonly [number, number] | undefined
}

const at = (sorted: Float64Array, share: number): number => sorted[Math.floor(sorted.length * share)] ?? NaN

/** `through` is what stands between, whose cost is told. */
const measure = async (url: string, through: ChildServer | undefined): Promise<Figures> => {
  const lines: Array<Line> = []
  // Connecting is not what is measured: a few at a time.
  while (lines.length < sessions) {
    lines.push(...await Promise.all(Array.from({ length: Math.min(10, sessions - lines.length) }, () => open(url))))
  }
  let isMeasured = false
  const times: Array<number> = []
  for (const line of lines) {
    line.socket.on("message", (data: Buffer) => {
      const text = data.toString("latin1", 0, 120)
      const [, sequence = "", sentAt = ""] = /"event_id":"(\d+):([\d.]+)"/.exec(text) ?? []
      if (Number(sequence) !== line.received) line.outOfOrder++
      line.received++
      if (isMeasured) times.push(performance.now() - Number(sentAt))
    })
  }
  const send = (line: Line): void => {
    line.socket.send(
      `{"type":"input_audio_buffer.append","event_id":"${line.sent++}:${performance.now()}","audio":"${sound}"}`
    )
  }
  const frames = (duration: number) => Math.floor(duration * rate)
  const speak = async (duration: number): Promise<void> => {
    const total = frames(duration)
    const started = performance.now()
    const interval = 1000 / rate
    // Each session has its own moment within the interval.
    let next = 0
    while (next < total * sessions) {
      const due = Math.min(total * sessions, Math.floor((performance.now() - started) / interval * sessions))
      while (next < due) {
        const line = lines[next % sessions]
        if (line !== undefined) send(line)
        next++
      }
      await delay(1)
    }
  }
  await speak(warmUp)
  isMeasured = true
  const before = through === undefined ? 0 : cpuMicros(through.pid)
  const memoryBefore = through === undefined ? 0 : residentMiB(through.pid)
  await speak(seconds)
  const used = through === undefined ? 0 : cpuMicros(through.pid) - before
  const memoryAfter = through === undefined ? 0 : residentMiB(through.pid)
  const sent = () => lines.reduce((sum, line) => sum + line.sent, 0)
  const received = () => lines.reduce((sum, line) => sum + line.received, 0)
  for (let turn = 0; turn < 200 && received() < sent(); turn++) await delay(50)
  const lost = sent() - received()
  const outOfOrder = lines.reduce((sum, line) => sum + line.outOfOrder, 0)
  for (const { socket } of lines) socket.close(1000)
  const sorted = Float64Array.from(times).sort()
  const measured = frames(seconds) * sessions
  return {
    frames: measured,
    lost,
    outOfOrder,
    p50: at(sorted, 0.5),
    p99: at(sorted, 0.99),
    cpuPerFrame: through === undefined ? undefined : used / (2 * measured),
    memory: through === undefined ? undefined : [memoryBefore, memoryAfter]
  }
}

const tell = (name: string, { cpuPerFrame, frames, lost, memory, outOfOrder, p50, p99 }: Figures): void => {
  const cost = cpuPerFrame === undefined ? "" : `, ${cpuPerFrame.toFixed(1)} µs CPU a frame and direction`
  const kept = memory === undefined ? "" : `, ${memory[0].toFixed(0)} to ${memory[1].toFixed(0)} MiB`
  process.stdout.write(
    `${name}: ${frames} frames there and back, ${lost} lost, ${outOfOrder} out of order, ` +
      `p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms${cost}${kept}\n`
  )
}

process.stdout.write(`${sessions} sessions, ${rate} frames a second each way, ${seconds} s\n`)
const path = "/v1/realtime?model=openai::gpt-realtime"
try {
  tell("direct", await measure(echo.url.replace("http", "ws") + path, undefined))
  const bare = await measure(proxy.url.replace("http", "ws") + path, proxy)
  tell("bare proxy", bare)
  const own = await measure(gateway.url.replace("http", "ws") + path, gateway)
  tell("gateway", own)
  process.stdout.write(
    `ratio of CPU: ${((own.cpuPerFrame ?? NaN) / (bare.cpuPerFrame ?? NaN)).toFixed(2)}; ` +
      `added to the bare proxy: p50 ${(own.p50 - bare.p50).toFixed(1)} ms, p99 ${(own.p99 - bare.p99).toFixed(1)} ms\n`
  )
} finally {
  await Promise.all([gateway.stop(), proxy.stop(), echo.stop()])
}
