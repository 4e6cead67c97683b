/**
 * `npm run bench:telemetry`: what metrics, and metrics with a tenth of the requests traced, cost in CPU of the gateway's
 * process for each request, against the same gateway that tells nothing. Rounds alternate and the cheapest of each counts,
 * since a busy machine only ever adds.
 */
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { startCollector } from "../fixtures/OtlpCollector.ts"
import { quantile, type Run, run, type Target } from "./Load.ts"

const { values } = parseArgs({
  options: { requests: { type: "string", default: "8000" }, rounds: { type: "string", default: "5" } }
})
const requests = Number(values.requests)

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
const collector = await startCollector()
const upstream = await startChildServer([fixture("BenchUpstream.ts")])
const start = (telemetry: string) =>
  startChildServer([
    "--import",
    "effect/schema/SchemaJITCompiler/enable",
    fileURLToPath(new URL("GatewayProcess.ts", import.meta.url)),
    "--upstream",
    upstream.url,
    "--governance",
    "off",
    "--telemetry",
    telemetry,
    "--collector",
    collector.url
  ])

const subjects = [
  { name: "off", server: await start("off") },
  { name: "metrics", server: await start("metrics") },
  { name: "metrics, 10 % traced", server: await start("traces") }
]
const target = (url: string): Target => ({
  url,
  path: "/v1/chat/completions",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({
    model: "openai::bench",
    messages: [{ role: "user", content: "What is the capital of France, and since when has it been the capital?" }],
    max_tokens: 100
  })
})

const best = new Map<string, Run>()
for (const { server } of subjects) {
  await run(server.pid, target(server.url), { requests: requests * 2, concurrency: 16 })
}
for (let round = 0; round < Number(values.rounds); round++) {
  for (const { name, server } of subjects) {
    const measured = await run(server.pid, target(server.url), { requests, concurrency: 16 })
    const known = best.get(name)
    if (known === undefined || measured.cpuPerRequest < known.cpuPerRequest) best.set(name, measured)
  }
}
const base = best.get("off")?.cpuPerRequest ?? NaN
for (const [name, { cpuPerRequest, timings }] of best) {
  const totals = timings.map(({ total }) => total)
  process.stdout.write(
    `${name.padEnd(22)} ${cpuPerRequest.toFixed(1)} µs/request  +${(cpuPerRequest - base).toFixed(1)} µs  ` +
      `p50 ${quantile(totals, 0.5).toFixed(2)} ms  p99 ${quantile(totals, 0.99).toFixed(2)} ms\n`
  )
}
process.stdout.write(`${collector.spans().length} spans came in ${collector.exports()} exports\n`)
await Promise.all([...subjects.map(({ server }) => server.stop()), upstream.stop(), collector.close()])
