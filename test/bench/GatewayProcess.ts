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

const { values } = parseArgs({
  options: {
    upstream: { type: "string", default: "" },
    /**
     * `off`: nobody is told apart, nothing is counted. `plain`: keys alone. `limits`: with limits and budgets. `usage`: with
     * usage records, too. `sqlite`, `redis`: everything is on.
     */
    governance: { type: "string", default: "plain" },
    /** `off`: nothing is told. `metrics`: figures for /metrics. `traces`: a tenth of the requests is traced, too. */
    telemetry: { type: "string", default: "off" },
    /** Where a collector listens. */
    collector: { type: "string", default: "" },
    /** A folder for the databases. */
    data: { type: "string", default: "" },
    redis: { type: "string", default: "" }
  }
})

const keys = `auth:
  mode: keys
  keys: [{ id: bench, sha256: ${hash("sha256", "bench-secret", "hex")}, tenant: bench, user: u }]`

const limits = `tenants:
  bench:
    rate_limits:
      - { per: tenant, requests: 1000000000, window: 1m }
      - { per: user, requests: 1000000000, window: 1m }
      - { per: tenant, tokens: 1000000000000, window: 1m }
      - { per: user, concurrent: 100000 }
    budgets:
      - { per: tenant, usd: 1000000, window: month }
      - { per: user, usd: 1000000, window: day }`

const none = "usage: { sinks: [{ type: noop }] }\nstorage: { sql: \"sqlite::memory:\" }"
const recorded = `usage: { sinks: [{ type: sql }], durability: batched }
storage: { sql: "sqlite:${values.data}/usage.db" }`
const all = `usage: { sinks: [{ type: sql }], durability: batched }
audit: { sinks: [{ type: jsonl, path: "${values.data}/audit.jsonl" }] }
storage: { sql: "sqlite:${values.data}/gateway.db", redis: "${values.redis}", redis_prefix: "bench:" }`

const sections: Readonly<Record<string, ReadonlyArray<string>>> = {
  off: ["auth: { mode: none }", none],
  plain: [keys, none],
  limits: [keys, limits, none],
  usage: [keys, limits, recorded],
  sqlite: [keys, limits, all],
  redis: [keys, limits, all]
}

const telemetry: Readonly<Record<string, string>> = {
  off: "observability: { metrics: false }",
  metrics: "observability: { metrics: true }",
  traces: `observability: { metrics: true, otlp: "${values.collector}", traces: { sampling: 0.1 } }`
}

const config = Result.getOrThrow(ConfigFile.parse(
  `
${telemetry[values.telemetry] ?? ""}
${(sections[values.governance] ?? []).join("\n")}
providers:
  openai: { type: openai, base_url: "${values.upstream}/v1", api_key: upstream-secret, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${values.upstream}", api_key: upstream-secret, unlisted_models: allow }
  responses: { type: openai, base_url: "${values.upstream}/v1", api_key: upstream-secret, unlisted_models: allow, responses_api: always }
  ollama: { type: ollama, base_url: "${values.upstream}", unlisted_models: allow }
models:
  - { id: "openai::bench", max_output_tokens: 1000, prices: { input_mtok: 1, output_mtok: 2 } }
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
