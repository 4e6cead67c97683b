/**
 * `npm run bench`: what the gateway costs, side by side in one run with a bare Node proxy in front of the same upstream.
 * CPU is read from each process's own account, so the numbers hold on a machine that is busy; latencies are taken at low
 * load, against the upstream called directly. Results are ratios first: machines differ, ratios travel.
 */
import { fileURLToPath } from "node:url"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { quantile, type Run, run, type Target } from "./Load.ts"

const quick = process.argv.includes("--quick")
const scale = quick ? 0.1 : 1

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
const jit = ["--import", "effect/schema/SchemaJITCompiler/enable"]

const upstream = await startChildServer([fixture("BenchUpstream.ts")])
const bare = await startChildServer([fixture("BareProxy.ts"), "--upstream", upstream.url])
const gateway = await startChildServer([
  ...jit,
  fileURLToPath(new URL("GatewayProcess.ts", import.meta.url)),
  "--upstream",
  upstream.url
])

const messages = [
  { role: "system", content: "You are a helpful assistant that answers in one short sentence." },
  { role: "user", content: "What is the capital of France, and since when has it been the capital?" }
]
const headers = { "content-type": "application/json", authorization: "Bearer bench-secret" }
const target = (url: string, model: string, stream: boolean): Target => ({
  url,
  path: "/v1/chat/completions",
  headers,
  body: JSON.stringify({ model, messages, max_tokens: 100, temperature: 0.5, ...(stream ? { stream: true } : {}) })
})

const chunks = 100
const rate = 200
const streamModel = `stream-${chunks}-at-${rate}`

interface Subject {
  readonly name: string
  readonly pid: number
  readonly sync: Target
  readonly stream: Target
}

const subjects: ReadonlyArray<Subject> = [
  {
    name: "upstream itself",
    pid: upstream.pid,
    sync: target(upstream.url, "bench", false),
    stream: target(upstream.url, streamModel, true)
  },
  {
    name: "bare proxy",
    pid: bare.pid,
    sync: target(bare.url, "bench", false),
    stream: target(bare.url, streamModel, true)
  },
  {
    name: "gateway to OpenAI",
    pid: gateway.pid,
    sync: target(gateway.url, "openai::bench", false),
    stream: target(gateway.url, `openai::${streamModel}`, true)
  },
  {
    name: "gateway to Anthropic",
    pid: gateway.pid,
    sync: target(gateway.url, "anthropic::bench", false),
    stream: target(gateway.url, `anthropic::${streamModel}`, true)
  }
]

interface Measured {
  readonly load: Run
  readonly calm: Run
  readonly streams: Run
}

/** Rounds in which every subject is measured; the cheapest one counts, since a busy machine only ever adds. */
const rounds = quick ? 1 : 3

const cheaper = (a: Run | undefined, b: Run): Run => a !== undefined && a.cpuPerRequest < b.cpuPerRequest ? a : b

const measured = new Map<string, Measured>()
for (const subject of subjects) {
  // A process that has just started spends its time on compiling.
  await run(subject.pid, subject.sync, { requests: Math.ceil(15_000 * scale), concurrency: 16 })
  await run(subject.pid, subject.stream, { requests: Math.ceil(200 * scale), concurrency: 40 })
}
for (let round = 0; round < rounds; round++) {
  for (const subject of subjects) {
    const before = measured.get(subject.name)
    const load = await run(subject.pid, subject.sync, { requests: Math.ceil(8_000 * scale), concurrency: 16 })
    const calm = await run(subject.pid, subject.sync, { requests: Math.ceil(2_000 * scale), concurrency: 1 })
    const streams = await run(subject.pid, subject.stream, {
      requests: Math.ceil(240 * scale),
      concurrency: 40,
      find: "wonderful"
    })
    measured.set(subject.name, {
      load: cheaper(before?.load, load),
      calm: cheaper(before?.calm, calm),
      streams: cheaper(before?.streams, streams)
    })
  }
}

const of = (name: string): Measured => {
  const found = measured.get(name)
  if (found === undefined) throw new Error(`nothing was measured for ${name}`)
  return found
}
const direct = of("upstream itself")
const yardstick = of("bare proxy")
const totals = (run: Run) => run.timings.map((timing) => timing.total)
const firsts = (run: Run) => run.timings.map((timing) => timing.firstByte)
const added = (run: Run, base: Run, q: number) => quantile(totals(run), q) - quantile(totals(base), q)

const rows = subjects.slice(1).map(({ name }) => {
  const { calm, load, streams } = of(name)
  return {
    subject: name,
    "CPU µs/request": load.cpuPerRequest.toFixed(1),
    ratio: (load.cpuPerRequest / yardstick.load.cpuPerRequest).toFixed(2),
    "requests/s": (load.requests / load.seconds).toFixed(0),
    "added p50 ms": added(calm, direct.calm, 0.5).toFixed(3),
    "added p99 ms": added(calm, direct.calm, 0.99).toFixed(3),
    "CPU µs/chunk": (streams.cpuPerRequest / chunks).toFixed(2),
    "chunk ratio": (streams.cpuPerRequest / yardstick.streams.cpuPerRequest).toFixed(2),
    "added first token p50 ms": (quantile(firsts(streams), 0.5) - quantile(firsts(direct.streams), 0.5)).toFixed(2),
    "RSS MiB": streams.residentMiB.toFixed(0)
  }
})

process.stdout.write(
  `Node ${process.version}; small chat request, ${chunks} chunks a stream at ${rate}/s, 40 streams at once\n`
)
for (const row of rows) {
  process.stdout.write(`\n${row.subject}\n`)
  for (const [key, value] of Object.entries(row)) {
    if (key !== "subject") process.stdout.write(`  ${key.padEnd(26)} ${value}\n`)
  }
}

await Promise.all([gateway.stop(), bare.stop(), upstream.stop()])
