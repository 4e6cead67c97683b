/**
 * `npm run bench:embeddings`: requests for one vector each, all at the same time, through a gateway over HTTP with and without
 * micro-batching: how many calls they make upstream, and how long they take. Fails where batching makes more calls than
 * the requests need. The upstream takes as long for a call as a provider does, whatever is in it.
 */
import { createServer } from "node:http"
import { parseArgs } from "node:util"
import { Agent } from "undici"
import { startGateway } from "../fixtures/RunningGateway.ts"
import { isJson } from "../fixtures/Script.ts"
import { once, quantile } from "./Load.ts"

const { values } = parseArgs({
  options: {
    requests: { type: "string", default: "1000" },
    batch: { type: "string", default: "50" },
    latency: { type: "string", default: "50" }
  }
})
const requests = Number(values.requests)
const batch = Number(values.batch)
const latency = Number(values.latency)

const vector = JSON.stringify(Array.from({ length: 256 }, (_, at) => at / 256))

let calls = 0
const upstream = createServer((request, response) => {
  if (request.method !== "POST") {
    response.writeHead(404).end()
    return
  }
  const pieces: Array<Buffer> = []
  request.on("data", (piece: Buffer) => pieces.push(piece)).on("end", () => {
    const asked: unknown = JSON.parse(Buffer.concat(pieces).toString("utf8"))
    const inputs = isJson(asked) && Array.isArray(asked["input"]) ? asked["input"].length : 1
    calls++
    const data = Array.from({ length: inputs }, (_, index) => `{"index":${index},"embedding":${vector}}`)
    const answer = `{"data":[${data.join(",")}],"model":"m","usage":{"prompt_tokens":${inputs * 4},"total_tokens":${
      inputs * 4
    }}}`
    setTimeout(() => response.writeHead(200, { "content-type": "application/json" }).end(answer), latency)
  })
})
const port = await new Promise<number>((resolve) =>
  upstream.listen(0, "127.0.0.1", () => {
    const address = upstream.address()
    resolve(typeof address === "object" && address !== null ? address.port : 0)
  })
)

const gateway = await startGateway(`
providers:
  p: { type: openai, base_url: "http://127.0.0.1:${port}/v1", api_key: secret, unlisted_models: allow }
models:
  - { id: "p::m", capabilities: [text_input, embeddings] }
routes:
  together: { models: ["p::m"], embed_batching: { window: 2s, max_inputs: ${batch} } }
`)
const agent = new Agent({ connections: requests, pipelining: 1 })

const measure = async (model: string): Promise<number> => {
  calls = 0
  const started = performance.now()
  const timings = await Promise.all(
    Array.from({ length: requests }, (_, at) =>
      once(agent, {
        url: gateway.url,
        path: "/v1/embeddings",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model, input: `text number ${at}`, encoding_format: "float" })
      }))
  )
  const took = performance.now() - started
  const totals = timings.map(({ total }) => total)
  console.log(
    `${model.padEnd(10)} ${requests} requests, ${String(calls).padStart(5)} calls, ${took.toFixed(0)} ms in all, ` +
      `p50 ${quantile(totals, 0.5).toFixed(0)} ms, p99 ${quantile(totals, 0.99).toFixed(0)} ms`
  )
  return calls
}

await measure("p::m")
await measure("together")
await measure("p::m")
const made = await measure("together")
await agent.close()
await gateway.close()
upstream.close()
const needed = Math.ceil(requests / batch)
if (made > needed) {
  console.error(`batching made ${made} calls where ${needed} are enough`)
  process.exitCode = 1
}
