/**
 * The gateway as the benchmarks run it: in a process of its own, with authentication by keys, in front of the upstreams
 * given. `node … test/bench/GatewayProcess.ts --upstream URL` prints `{"port":N}` when it listens.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Layer, Result } from "effect"
import { HttpServer } from "effect/http"
import { hash } from "node:crypto"
import { parseArgs } from "node:util"
import * as ConfigFile from "../../src/config/ConfigFile.ts"
import * as GatewayLayer from "../../src/config/GatewayLayer.ts"
import * as GatewayServer from "../../src/server/GatewayServer.ts"

const { values } = parseArgs({ options: { upstream: { type: "string", default: "" } } })

const config = Result.getOrThrow(ConfigFile.parse(
  `
auth:
  mode: keys
  keys: [{ id: bench, sha256: ${hash("sha256", "bench-secret", "hex")}, tenant: bench }]
providers:
  openai: { type: openai, base_url: "${values.upstream}/v1", api_key: upstream-secret, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${values.upstream}", api_key: upstream-secret, unlisted_models: allow }
models:
  - { id: "openai::bench", prices: { input_mtok: 1, output_mtok: 2 } }
  - { id: "anthropic::bench", max_output_tokens: 1000, prices: { input_mtok: 1, output_mtok: 2 } }
`,
  "bench.yaml",
  {}
))

const announce = Effect.flatMap(
  HttpServer.HttpServer,
  (server) => Console.log(JSON.stringify({ port: server.address._tag === "UnixPathAddress" ? 0 : server.address.port }))
)

NodeRuntime.runMain(Layer.launch(
  Layer.effectDiscard(announce).pipe(
    Layer.provideMerge(GatewayServer.layer({
      host: "127.0.0.1",
      port: 0,
      maxBodyBytes: config.server.maxBody,
      drainTimeout: 1000
    })),
    Layer.provide(GatewayLayer.layer(config)),
    Layer.provide(NodeServices.layer)
  )
))
