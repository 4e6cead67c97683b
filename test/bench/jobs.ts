/**
 * `npm run bench:jobs`: many jobs that wait, on one node with its jobs in a SQLite file. Told are the memory with none and with all
 * of them waiting, and how long after the end of one call the next one reaches the provider, as the provider sees it.
 */
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import path from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { startChildServer } from "../fixtures/ChildServer.ts"

const jobs = process.argv.includes("--quick") ? 500 : 10_000
/** As `jobs.concurrency` is by default. */
const slots = 16
const creators = 16

const begun: Array<number> = []
const over: Array<number> = []
/** Calls are held until all jobs have been made. */
let isOpen = false
const waiting: Array<() => void> = []

const answer = JSON.stringify({
  id: "c",
  object: "chat.completion",
  created: 1,
  model: "bench",
  choices: [{ index: 0, message: { role: "assistant", content: "done" }, finish_reason: "stop" }],
  usage: { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 }
})

const upstream = createServer((request, response) => {
  if (request.method === "GET") return void response.writeHead(404).end()
  begun.push(performance.now())
  request.resume()
  const reply = () => {
    response.writeHead(200, { "content-type": "application/json" }).end(answer)
    over.push(performance.now())
  }
  if (isOpen) setTimeout(reply, 20)
  else waiting.push(reply)
})
upstream.listen(0, "127.0.0.1")
await once(upstream, "listening")
const address = upstream.address()
if (address === null || typeof address === "string") throw new Error("the upstream does not listen on TCP")

const folder = mkdtempSync(path.join(tmpdir(), "llm-gateway-jobs-"))
const gateway = await startChildServer([
  "--import",
  "effect/schema/SchemaJITCompiler/enable",
  fileURLToPath(new URL("GatewayProcess.ts", import.meta.url)),
  "--upstream",
  `http://127.0.0.1:${address.port}`,
  "--governance",
  "usage",
  "--data",
  folder
])

const residentMb = (): number =>
  Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${gateway.pid}/status`, "utf8"))?.[1]) / 1024)

const create = async () => {
  const response = await fetch(`${gateway.url}/llm-gateway/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: "Bearer bench-secret", "content-type": "application/json" },
    body: JSON.stringify({ model: "openai::bench", messages: [{ role: "user", content: "hello" }], async: true })
  })
  const text = await response.text()
  if (response.status !== 202) throw new Error(text)
}

const share = async (count: number) => {
  for (let made = 0; made < count; made++) await create()
}

const atRest = residentMb()
const since = performance.now()
await Promise.all(Array.from({ length: creators }, () => share(Math.ceil(jobs / creators))))
const made = performance.now()
const queued = residentMb()
isOpen = true
for (const reply of waiting) reply()
let most = queued
const total = Math.ceil(jobs / creators) * creators
while (over.length < total) {
  await delay(100)
  most = Math.max(most, residentMb())
}
const done = performance.now()

/** The next call that reaches the provider after the end of one, while all slots were taken. */
const latencies = begun.slice(slots).map((at, index) => at - (over[index] ?? at)).toSorted((a, b) => a - b)
const quantile = (share: number): string => `${latencies[Math.floor((latencies.length - 1) * share)]?.toFixed(1)} ms`

process.stdout.write(`${
  JSON.stringify(
    {
      jobs: total,
      made: `${Math.round(total / ((made - since) / 1000))} a second`,
      run: `${Math.round(total / ((done - made) / 1000))} a second`,
      memory: `${atRest} MB at rest, ${queued} MB with all waiting, ${most} MB at most`,
      start: { p50: quantile(0.5), p99: quantile(0.99), most: quantile(1) }
    },
    null,
    2
  )
}\n`)
await gateway.stop()
upstream.closeAllConnections()
upstream.close()
rmSync(folder, { recursive: true, force: true })
