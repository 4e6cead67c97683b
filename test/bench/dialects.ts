/**
 * `npm run bench:dialects`: what a chunk of a stream costs from each provider's protocol to each dialect, CPU µs, and how much more
 * than one of the same dialect from its own protocol. A round measures every pair; the cheapest of the rounds counts.
 */
import { fileURLToPath } from "node:url"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { run, type Target } from "./Load.ts"

const quick = process.argv.includes("--quick")
const rounds = quick ? 1 : 4
const chunks = 100
const rate = 200
const requests = quick ? 40 : 160

const file = (name: string) => fileURLToPath(new URL(name, import.meta.url))
const upstream = await startChildServer([file("../fixtures/BenchUpstream.ts")])
const gateway = await startChildServer([
  "--import",
  "effect/schema/SchemaJITCompiler/enable",
  file("GatewayProcess.ts"),
  "--upstream",
  upstream.url
])

const question = "What is the capital of France, and since when has it been the capital?"
const messages = [{ role: "user", content: question }]

/** Dialects by name, each with the provider that speaks it, and a request to a model. */
const dialects: Readonly<Record<string, { readonly path: string; readonly provider: string; readonly body: object }>> =
  {
    Chat: { path: "/v1/chat/completions", provider: "openai", body: { messages, stream: true } },
    Messages: { path: "/v1/messages", provider: "anthropic", body: { messages, max_tokens: 100, stream: true } },
    Responses: { path: "/v1/responses", provider: "responses", body: { input: question, stream: true } },
    Ollama: { path: "/api/chat", provider: "ollama", body: { messages } },
    native: { path: "/llm-gateway/v1/chat/completions", provider: "openai", body: { messages, stream: true } }
  }
const providers = ["openai", "anthropic", "responses", "ollama"]

interface Pair {
  readonly dialect: string
  readonly provider: string
  readonly target: Target
}

const pairs = Object.entries(dialects).flatMap(([dialect, { body, path }]) =>
  providers.map((provider): Pair => ({
    dialect,
    provider,
    target: {
      url: gateway.url,
      path,
      headers: { "content-type": "application/json", authorization: "Bearer bench-secret" },
      body: JSON.stringify({ model: `${provider}::stream-${chunks}-at-${rate}`, ...body })
    }
  }))
)

const costs = new Map<Pair, number>()
for (const { target } of pairs) await run(gateway.pid, target, { requests: quick ? 40 : 120, concurrency: 40 })
for (let round = 0; round < rounds; round++) {
  for (const pair of pairs) {
    const { cpuPerRequest } = await run(gateway.pid, pair.target, { requests, concurrency: 40 })
    costs.set(pair, Math.min(costs.get(pair) ?? Infinity, cpuPerRequest / chunks))
  }
}

const costOf = (dialect: string, provider: string): number =>
  Array.from(costs).find(([pair]) => pair.dialect === dialect && pair.provider === provider)?.[1] ?? NaN

process.stdout.write(
  `Node ${process.version}; CPU µs a chunk, ${chunks} chunks a stream at ${rate}/s, 40 streams at once\n\n`
)
process.stdout.write(`${"".padEnd(11)}${providers.map((name) => name.padEnd(16)).join("")}\n`)
for (const [dialect, { provider: own }] of Object.entries(dialects)) {
  const base = costOf(dialect, own)
  const cells = providers.map((provider) => {
    const cost = costOf(dialect, provider)
    return `${cost.toFixed(1).padStart(5)} (${(cost / base).toFixed(2)}x)`.padEnd(16)
  })
  process.stdout.write(`${dialect.padEnd(11)}${cells.join("")}\n`)
}

await Promise.all([gateway.stop(), upstream.stop()])
