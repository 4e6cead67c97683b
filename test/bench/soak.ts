/**
 * `npm run soak [-- --minutes 60]`: a gateway with everything on under an even, mixed load for a long time, and whether
 * anything in it grows: memory, open files and sockets, waiting records. Ends with 1 where something does.
 */
import { hash } from "node:crypto"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { Effect, Exit, Scope } from "effect"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { parseScrape, type Scrape } from "../fixtures/Prometheus.ts"
import { serve } from "../fixtures/ServedGateway.ts"
import { residentMiB } from "./Load.ts"

const { values } = parseArgs({ options: { minutes: { type: "string", default: "60" } } })
const minutes = Number(values.minutes)
const samples = 30
const callers = 12

/** Growth over the second half of the time that is still called flat. */
const allowed = { residentMiB: 24, descriptors: 16, heapMiB: 16 }

const folder = mkdtempSync(path.join(tmpdir(), "llm-gateway-soak-"))
const scope = Scope.makeUnsafe()
const upstream = await startChildServer([fileURLToPath(new URL("../fixtures/BenchUpstream.ts", import.meta.url))])

const gateway = await Effect.runPromise(Scope.provide(
  serve(
    `
server: { port: 0 }
auth:
  mode: keys
  keys: [{ id: soak, sha256: ${hash("sha256", "soak", "hex")}, tenant: soak, user: u, admin: true }]
tenants:
  soak:
    rate_limits: [{ per: tenant, requests: 100000000, window: 1m }, { per: user, concurrent: 10000 }]
    budgets: [{ per: tenant, usd: 1000000, window: month }]
providers:
  p: { type: openai, base_url: "${upstream.url}/v1", api_key: secret, unlisted_models: allow }
  sandbox: { type: sandbox }
  dead: { type: openai, base_url: "http://127.0.0.1:1/v1", unlisted_models: allow }
models:
  - { id: "p::m", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
  - { id: "dead::m", max_output_tokens: 100, prices: { input_mtok: 1, output_mtok: 2 } }
interceptors: { pii: { type: pii, redact: [email], on: [request, response] } }
usage: { sinks: [{ type: sql }] }
audit: { sinks: [{ type: jsonl, path: ./audit.jsonl }] }
storage: { sql: "sqlite:./gateway.db" }
jobs: { ttl: 1m }
`,
    { folder }
  ),
  scope
))

// ---------------------------------------------------------------------------------------------------------------------
// Load
// ---------------------------------------------------------------------------------------------------------------------

const headers = { authorization: "Bearer soak", "content-type": "application/json" }
const messages = [{ role: "user", content: "Write to somebody@example.org" }]
const load = new AbortController()
let asked = 0
/** Answers that were others than they should have been, by the kind of request. */
const wrong = new Map<number, number>()

const post = async (at: string, body: unknown, signal?: AbortSignal): Promise<number> => {
  asked += 1
  const response = await fetch(gateway.url + at, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal })
  })
  await response.text()
  return response.status
}

/** What callers do, in turn; each says what it should have been answered. */
const kinds: ReadonlyArray<() => Promise<boolean>> = [
  async () => await post("/v1/chat/completions", { model: "p::m", messages }) === 200,
  async () => await post("/v1/chat/completions", { model: "p::m", messages, stream: true }) === 200,
  async () => await post("/v1/messages", { model: "p::m", messages, max_tokens: 50, stream: true }) === 200,
  async () => await post("/v1/responses", { model: "p::m", input: "Hi", stream: true }) === 200,
  async () => await post("/api/chat", { model: "p::m", messages }) === 200,
  async () => await post("/llm-gateway/v1/chat/completions", { model: "p::m", messages }) === 200,
  async () => await post("/v1/embeddings", { model: "sandbox::embed", input: ["a", "b"] }) === 200,
  async () => await post("/v1/chat/completions", { model: "p::m" }) === 400,
  async () => await post("/v1/chat/completions", { model: "nobody::m", messages }) === 404,
  async () => await post("/v1/chat/completions", { model: "dead::m", messages }) >= 500,
  async () => await post("/llm-gateway/v1/jobs", { operation: "chat", request: { model: "p::m", messages } }) === 202,
  async () => {
    const left = new AbortController()
    const answer = post("/v1/chat/completions", { model: "p::m", messages, stream: true }, left.signal)
    setTimeout(() => left.abort(), 2)
    return answer.then(() => true, () => true)
  }
]

const caller = async (first: number): Promise<void> => {
  for (let turn = first; !load.signal.aborted; turn++) {
    const kind = turn % kinds.length
    const isRight = await kinds[kind]?.().catch(() => false)
    if (isRight !== true) wrong.set(kind, (wrong.get(kind) ?? 0) + 1)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const failures = (): string =>
  wrong.size === 0 ? "none" : Array.from(wrong, ([kind, count]) => `${count} of kind ${kind}`).join(", ")

// ---------------------------------------------------------------------------------------------------------------------
// Figures
// ---------------------------------------------------------------------------------------------------------------------

interface Sample {
  readonly minute: number
  readonly residentMiB: number
  readonly heapMiB: number
  /** Open files and sockets. */
  readonly descriptors: number
  /** Records that wait. */
  readonly queued: number
  readonly dropped: number
}

const scrape = async (): Promise<Scrape> =>
  parseScrape(await (await fetch(`${gateway.url}/metrics`, { headers })).text())

const sampled = async (minute: number): Promise<Sample> => {
  const told = await scrape()
  return {
    minute,
    residentMiB: residentMiB(gateway.pid),
    heapMiB: told.sum("nodejs_heap_size_used_bytes") / 2 ** 20,
    descriptors: readdirSync(`/proc/${gateway.pid}/fd`).length,
    queued: told.sum("llm_gateway_queue_length"),
    dropped: told.sum("llm_gateway_queue_dropped")
  }
}

/** Growth an hour, by least squares. */
const slope = (taken: ReadonlyArray<Sample>, of: (sample: Sample) => number): number => {
  const mean = (figures: ReadonlyArray<number>) => figures.reduce((sum, figure) => sum + figure, 0) / figures.length
  const [x, y] = [mean(taken.map(({ minute }) => minute)), mean(taken.map(of))]
  const over = taken.reduce((sum, sample) => sum + (sample.minute - x) * (of(sample) - y), 0)
  return over / taken.reduce((sum, { minute }) => sum + (minute - x) ** 2, 0)
}

const started = performance.now()
const running = Array.from({ length: callers }, (_, index) => caller(index))
const taken: Array<Sample> = []
for (let sample = 1; sample <= samples; sample++) {
  await new Promise((resolve) => setTimeout(resolve, minutes * 60_000 / samples))
  const now = await sampled((performance.now() - started) / 60_000)
  taken.push(now)
  const { descriptors, dropped, heapMiB, minute, queued } = now
  process.stdout.write(
    `${minute.toFixed(1).padStart(6)} min  RSS ${now.residentMiB.toFixed(0)} MiB  heap ${heapMiB.toFixed(0)} MiB  ` +
      `files ${descriptors}  queued ${queued}  dropped ${dropped}  asked ${asked}  wrong ${failures()}\n`
  )
}
load.abort()
await Promise.all(running)
const idle = await sampled((performance.now() - started) / 60_000)
const half = taken.slice(samples / 2)
const span = minutes / 2
const grown = {
  residentMiB: slope(half, (sample) => sample.residentMiB) * span,
  heapMiB: slope(half, (sample) => sample.heapMiB) * span,
  descriptors: slope(half, (sample) => sample.descriptors) * span
}
const code = await gateway.end("SIGTERM")
await Effect.runPromise(Scope.close(scope, Exit.void))
await upstream.stop()
rmSync(folder, { recursive: true, force: true })

process.stdout.write(
  `\nsecond half: RSS ${grown.residentMiB.toFixed(1)} MiB, heap ${grown.heapMiB.toFixed(1)} MiB, files ${
    grown.descriptors.toFixed(1)
  }; ` +
    `${(asked / (minutes * 60)).toFixed(0)} requests/s, answered otherwise than they should: ${failures()}; ` +
    `${idle.queued} records wait, ${idle.dropped} lost; exit code ${code}\n`
)
const isFlat = grown.residentMiB <= allowed.residentMiB && grown.heapMiB <= allowed.heapMiB &&
  grown.descriptors <= allowed.descriptors && idle.dropped === 0 && idle.queued < 100 && wrong.size === 0 && code === 0
process.exit(isFlat ? 0 : 1)
