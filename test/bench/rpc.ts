/**
 * `npm run bench:rpc`: what a token of a streamed answer costs over RPC, by HTTP, by WebSocket and in process, beside the native API's
 * server-sent events in the same run. CPU is each process's own: the gateway's, and that of the client here; in process they are
 * one.
 */
import { NodeServices } from "@effect/platform-node"
import { Effect, Layer, ManagedRuntime, Redacted, Result, Stream } from "effect"
import { fileURLToPath } from "node:url"
import { GatewayClient } from "../../src/client/index.ts"
import * as ConfigFile from "../../src/config/ConfigFile.ts"
import * as GatewayLayer from "../../src/config/GatewayLayer.ts"
import * as InProcess from "../../src/gateway/InProcess.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { text } from "../../src/sdk/Content.ts"
import { startChildServer } from "../fixtures/ChildServer.ts"
import { cpuMicros, run } from "./Load.ts"

const scale = process.argv.includes("--quick") ? 0.1 : 1
const chunks = 100
const streams = Math.ceil(240 * scale)
const warmUp = Math.ceil(80 * scale)
const concurrency = 40
const model = `openai::stream-${chunks}-at-200`

const upstream = await startChildServer([fileURLToPath(new URL("../fixtures/BenchUpstream.ts", import.meta.url))])
const gateway = await startChildServer([
  "--import",
  "effect/schema/SchemaJITCompiler/enable",
  fileURLToPath(new URL("GatewayProcess.ts", import.meta.url)),
  "--upstream",
  upstream.url
])
const key = Redacted.make("bench-secret")

const request: ChatRequest = { model, messages: [{ role: "user", content: [text("Say something wonderful.")] }] }

const inProcess = GatewayClient.layerInProcess.pipe(
  Layer.provide(InProcess.layer),
  Layer.provide(GatewayLayer.layer(Result.getOrThrow(ConfigFile.parse(
    `providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-secret, unlisted_models: allow }
usage: { sinks: [{ type: noop }] }
storage: { sql: "sqlite::memory:" }
`,
    "bench.yaml",
    {}
  )))),
  Layer.provide(NodeServices.layer),
  Layer.orDie
)

/** CPU for each chunk, µs. */
interface Cost {
  readonly gateway: number | undefined
  readonly client: number
}

const read = (count: number) =>
  Effect.gen(function*() {
    const client = yield* GatewayClient
    yield* Effect.forEach(
      Array.from({ length: count }),
      () => Stream.runDrain(client.streamChat(request)),
      { concurrency, discard: true }
    )
  })

const overClient = async (layer: Layer.Layer<GatewayClient>, isRemote: boolean): Promise<Cost> => {
  const runtime = ManagedRuntime.make(layer)
  await runtime.runPromise(read(warmUp))
  const gatewayBefore = cpuMicros(gateway.pid)
  const own = process.cpuUsage()
  await runtime.runPromise(read(streams))
  const used = process.cpuUsage(own)
  const cost = {
    gateway: isRemote ? (cpuMicros(gateway.pid) - gatewayBefore) / streams / chunks : undefined,
    client: (used.user + used.system) / streams / chunks
  }
  await runtime.dispose()
  return cost
}

const overSse = async (): Promise<Cost> => {
  const target = {
    url: gateway.url,
    path: "/llm-gateway/v1/chat/completions",
    headers: { "content-type": "application/json", authorization: "Bearer bench-secret" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "Say something wonderful." }], stream: true })
  }
  await run(gateway.pid, target, { requests: warmUp, concurrency })
  const own = process.cpuUsage()
  const { cpuPerRequest } = await run(gateway.pid, target, { requests: streams, concurrency })
  const used = process.cpuUsage(own)
  return { gateway: cpuPerRequest / chunks, client: (used.user + used.system) / streams / chunks }
}

const ways: ReadonlyArray<readonly [string, () => Promise<Cost>]> = [
  ["native API, server-sent events (bytes alone)", overSse],
  ["RPC over HTTP", () => overClient(GatewayClient.layerHttp({ url: gateway.url, key }), true)],
  ["RPC over a WebSocket", () => overClient(GatewayClient.layerWebSocket({ url: gateway.url, key }), true)],
  ["in process", () => overClient(inProcess, false)]
]

const rounds = scale < 1 ? 1 : 3
const best = new Map<string, Cost>()
const total = ({ client, gateway = 0 }: Cost) => client + gateway
for (let round = 0; round < rounds; round++) {
  for (const [name, measure] of ways) {
    const cost = await measure()
    const before = best.get(name)
    // A busy machine only ever adds.
    if (before === undefined || total(cost) < total(before)) best.set(name, cost)
  }
}

process.stdout.write(
  `Node ${process.version}; ${chunks} chunks a stream at 200/s, ${concurrency} streams at once; CPU µs a chunk\n`
)
for (const [name, { client, gateway: served }] of best) {
  const parts = served === undefined
    ? `${client.toFixed(1)} in one`
    : `${served.toFixed(1)} gateway, ${client.toFixed(1)} client`
  process.stdout.write(`  ${name.padEnd(46)} ${parts}\n`)
}
await Promise.all([gateway.stop(), upstream.stop()])
