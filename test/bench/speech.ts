/**
 * `npm run bench:speech`: how fast streamed speech goes through the gateway beside a bare pipe, and what a transcription of 25 MB
 * does to the gateway's memory and to a small chat stream beside it.
 */
import { spawn } from "node:child_process"
import { once as event } from "node:events"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { cpuMicros, quantile, residentMiB } from "./Load.ts"

const quick = process.argv.includes("--quick")
const rounds = quick ? 2 : 5
const mib = quick ? 64 : 256
const uploads = quick ? 4 : 20

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url))
const upstream = await startChildServer([here("SpeechUpstream.ts")])
const pipe = await startChildServer([here("SpeechUpstream.ts"), "--pipe", upstream.url])
const gateway = await startChildServer([
  "--import",
  "effect/schema/SchemaJITCompiler/enable",
  here("GatewayProcess.ts"),
  "--upstream",
  upstream.url
])
const folder = await mkdtemp(join(tmpdir(), "bench-speech-"))
const headers = { "content-type": "application/json", authorization: "Bearer bench-secret" }

/** MiB a second, and CPU ms a MiB of the process in between. */
const speech = async (url: string, pid: number): Promise<readonly [number, number]> => {
  const cpu = cpuMicros(pid)
  const started = performance.now()
  const response = await fetch(`${url}/v1/audio/speech`, {
    method: "POST",
    headers,
    body: JSON.stringify({ model: `openai::speak-${mib}`, input: "Hello", voice: "any", response_format: "pcm" })
  })
  let bytes = 0
  for await (const chunk of response.body ?? []) bytes += chunk.length
  if (bytes !== mib * 1024 * 1024) throw new Error(`${bytes} bytes, status ${response.status}`)
  return [mib * 1000 / (performance.now() - started), (cpuMicros(pid) - cpu) / 1000 / mib]
}

/** A chat beside it all: the times between its chunks, ms. */
const chat = async () => {
  const leave = new AbortController()
  const response = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers,
    body: JSON.stringify({ model: "openai::chat", messages: [{ role: "user", content: "Hi" }], stream: true }),
    signal: leave.signal
  })
  let gaps: Array<number> = []
  let last = performance.now()
  const reading = (async () => {
    for await (const _ of response.body ?? []) {
      const now = performance.now()
      gaps.push(now - last)
      last = now
    }
  })().catch(() => undefined)
  return {
    taken: () => {
      const before = gaps
      gaps = []
      return before
    },
    end: () => {
      leave.abort()
      return reading
    }
  }
}

const file = join(folder, "sound.mp3")
await writeFile(file, Buffer.alloc(25 * 1000 * 1000, 1))

/** Uploads one after the other, by a process of their own: their work, and its start, are not the reader's of the chat. */
const upload = async (count: number): Promise<void> => {
  const command =
    `curl -sf -o /dev/null -H "authorization: Bearer bench-secret" -F model=openai::listen -F "file=@$1" "$2"`
  const child = spawn("sh", [
    "-c",
    `at=0; while [ $at -lt ${count} ]; do ${command} || exit 1; at=$((at + 1)); done`,
    "sh",
    file,
    `${gateway.url}/v1/audio/transcriptions`
  ])
  const [code]: ReadonlyArray<unknown> = await event(child, "exit")
  if (code !== 0) throw new Error(`the uploads ended with ${String(code)}`)
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

process.stdout.write(`Node ${process.version}\n`)
for (const [name, url, pid] of [["bare pipe", pipe.url, pipe.pid], ["gateway", gateway.url, gateway.pid]] as const) {
  const runs: Array<readonly [number, number]> = []
  for (let round = 0; round <= rounds; round++) runs.push(await speech(url, pid))
  const best = runs.slice(1).toSorted(([a], [b]) => b - a)[0] ?? [Number.NaN, Number.NaN]
  process.stdout.write(
    `  streamed speech, ${name.padEnd(10)} ${best[0].toFixed(0)} MiB/s, ${best[1].toFixed(2)} ms CPU a MiB\n`
  )
}

await upload(2)
const beside = await chat()
await pause(2_000)
beside.taken()
await pause(quick ? 2_000 : 10_000)
const idle = beside.taken()
const before = residentMiB(gateway.pid)
let most = before
const watch = setInterval(() => {
  most = Math.max(most, residentMiB(gateway.pid))
}, 5)
const started = performance.now()
await upload(uploads)
const each = (performance.now() - started) / uploads
clearInterval(watch)
const busy = beside.taken()
await beside.end()
const [quiet, loaded] = [quantile(idle, 0.99), quantile(busy, 0.99)]
process.stdout.write(
  `  transcriptions of 25 MB, ${uploads} one after the other: ${each.toFixed(0)} ms each; resident memory ${
    before.toFixed(0)
  } MiB before, ` +
    `${most.toFixed(0)} MiB at most (+${(most - before).toFixed(0)})\n` +
    `  a chunk every 5 ms beside it: p99 ${quiet.toFixed(1)} ms apart alone, ${loaded.toFixed(1)} ms with uploads (+${
      (loaded - quiet).toFixed(1)
    })\n`
)
await rm(folder, { recursive: true, force: true })
await Promise.all([gateway.stop(), pipe.stop(), upstream.stop()])
