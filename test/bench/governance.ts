/**
 * `npm run bench:governance`: what authentication, limits, budgets, usage records and audit cost together, in CPU of the
 * gateway's process for each request, against the same gateway with all of them off. Rounds alternate and the cheapest of
 * each counts, since a busy machine only ever adds. With `--redis URL` the stores are shared ones.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { quantile, type Run, run, type Target } from "./Load.ts"

const { values } = parseArgs({
  options: { redis: { type: "string", default: "" }, requests: { type: "string", default: "8000" } }
})
const rounds = 4
const requests = Number(values.requests)

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
const data = mkdtempSync(path.join(tmpdir(), "bench-governance-"))
const upstream = await startChildServer([fixture("BenchUpstream.ts")])
const start = (governance: string) =>
  startChildServer([
    "--import",
    "effect/schema/SchemaJITCompiler/enable",
    fileURLToPath(new URL("GatewayProcess.ts", import.meta.url)),
    "--upstream",
    upstream.url,
    "--governance",
    governance,
    "--data",
    data,
    "--redis",
    values.redis
  ])

const subjects = [
  { name: "off", server: await start("off") },
  { name: "keys alone", server: await start("plain") },
  { name: "limits and budgets", server: await start("limits") },
  { name: "usage in SQLite", server: await start("usage") },
  {
    name: values.redis === "" ? "all on, SQLite" : "all on, Redis",
    server: await start(values.redis === "" ? "sqlite" : "redis")
  }
]
const target = (url: string): Target => ({
  url,
  path: "/v1/chat/completions",
  headers: { "content-type": "application/json", authorization: "Bearer bench-secret" },
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
for (let round = 0; round < rounds; round++) {
  for (const { name, server } of subjects) {
    const measured = await run(server.pid, target(server.url), { requests, concurrency: 16 })
    const known = best.get(name)
    if (known === undefined || measured.cpuPerRequest < known.cpuPerRequest) best.set(name, measured)
  }
}
const base = best.get("off")?.cpuPerRequest ?? NaN
const loopBase = best.get("off")?.loopPerRequest ?? NaN
for (const [name, { cpuPerRequest, loopPerRequest, seconds, timings }] of best) {
  const totals = timings.map(({ total }) => total)
  process.stdout.write(
    `${name.padEnd(20)} ${cpuPerRequest.toFixed(1)} µs/request  +${(cpuPerRequest - base).toFixed(1)} µs  ` +
      `(event loop ${loopPerRequest.toFixed(1)}, +${(loopPerRequest - loopBase).toFixed(1)})  ` +
      `${(timings.length / seconds).toFixed(0)} requests/s  p50 ${quantile(totals, 0.5).toFixed(2)} ms  ` +
      `p99 ${quantile(totals, 0.99).toFixed(2)} ms\n`
  )
}
await Promise.all([...subjects.map(({ server }) => server.stop()), upstream.stop()])
rmSync(data, { recursive: true, force: true })
