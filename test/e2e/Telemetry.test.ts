/** What a gateway tells of its requests: spans to a collector, figures to Prometheus, a line in the log. */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { type CollectedSpan, type OtlpCollector, startCollector } from "../fixtures/OtlpCollector.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { parseScrape, type Scrape } from "../fixtures/Prometheus.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"

const canary = "Xk9-canary-content"
const silent = withFault(openAi.answer({}), fault.hang)

let upstream: FakeUpstream
let collector: OtlpCollector
let gateway: RunningGateway | undefined

const started = (): RunningGateway => gateway ?? assert.fail("no gateway")

const start = async (observability: string, more = "") => {
  gateway = await startGateway(`
providers:
  far: { type: openai, base_url: "${upstream.url}/v1", api_key: "sk-secret-of-the-provider", unlisted_models: allow }
  near: { type: openai, base_url: "${upstream.url}/near/v1", unlisted_models: allow }
models:
  - { id: "far::one", prices: { input_mtok: 1, output_mtok: 2 }, max_output_tokens: 100 }
  - { id: "near::two", prices: { input_mtok: 1, output_mtok: 2 }, max_output_tokens: 100 }
defaults: { attempts: 3, retry: { base: 1ms, max: 2ms }, timeouts: { first_token: 2s } }
observability: ${observability}
${more}`)
}

const traced = (more = "") => start(`{ otlp: "${collector.url}" ${more} }`)

const ask = async (body: Readonly<Record<string, unknown>> = {}, headers: Readonly<Record<string, string>> = {}) => {
  const response = await started().post(
    "/v1/chat/completions",
    { model: "far::one", messages: [{ role: "user", content: canary }], ...body },
    headers
  )
  return { status: response.status, text: await response.text() }
}

/** Ends the gateway, which sends what it holds, and gives the spans: the request's, and those of its attempts. */
const finished = async () => {
  await started().close()
  gateway = undefined
  const spans = collector.spans()
  const [root, ...others] = spans.filter(({ kind }) => kind === "server")
  if (root === undefined) return assert.fail("no span of the request")
  assert.lengthOf(others, 0)
  const attempts = spans.filter(({ kind }) => kind === "client")
  for (const attempt of attempts) {
    assert.strictEqual(attempt.traceId, root.traceId)
    assert.strictEqual(attempt.parentId, root.spanId)
  }
  return { root, attempts }
}

const outcomes = (attempts: ReadonlyArray<CollectedSpan>) =>
  attempts.map((
    { attributes, isError }
  ) => [attributes["gen_ai.provider.name"], attributes["llm_gateway.outcome"], isError])

const scrape = async (): Promise<Scrape> => parseScrape(await (await fetch(`${started().url}/metrics`)).text())

beforeEach(async () => {
  upstream = await startFakeUpstream()
  collector = await startCollector()
})
afterEach(async () => {
  await gateway?.close()
  gateway = undefined
  await upstream.close()
  await collector.close()
})

describe("traces", () => {
  it("have a span for the request and one for its attempt, with the figures and without the content", async () => {
    await traced(`, otlp_headers: { authorization: "Bearer of-the-collector" }`)
    upstream.always(openAi.answer({ text: `answer ${canary}`, usage: { prompt_tokens: 12, completion_tokens: 3 } }))
    const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert.strictEqual((await ask({}, { traceparent: parent, tracestate: "vendor=value" })).status, 200)
    const { attempts, root } = await finished()
    assert.strictEqual(root.name, "chat far::one")
    assert.strictEqual(root.traceId, "0af7651916cd43dd8448eb211c80319c")
    assert.strictEqual(root.parentId, "b7ad6b7169203331")
    assert.strictEqual(root.traceState, "vendor=value")
    assert.isFalse(root.isError)
    assert.include(root.attributes, {
      "gen_ai.operation.name": "chat",
      "gen_ai.provider.name": "far",
      "gen_ai.request.model": "far::one",
      "gen_ai.response.model": "far::one",
      "gen_ai.response.finish_reasons": "stop",
      "gen_ai.usage.input_tokens": 12,
      "gen_ai.usage.output_tokens": 3,
      "llm_gateway.tenant": "default",
      "llm_gateway.outcome": "completed",
      "llm_gateway.attempts": 1
    })
    assert.deepStrictEqual(outcomes(attempts), [["far", "ok", false]])
    assert.isAtMost(attempts[0]?.duration ?? NaN, root.duration + 1)
    assert.strictEqual(collector.headers()["authorization"], "Bearer of-the-collector")
    assert.notInclude(collector.raw(), canary)
    assert.notInclude(collector.raw(), "sk-secret")
    assert.isUndefined(upstream.request(0).headers["traceparent"])
  })

  it("show retries and the fallback, and what it was a fallback for", async () => {
    await traced()
    upstream.reply(openAi.error(503), openAi.error(503), openAi.answer({ text: "yes" }))
    assert.strictEqual((await ask({}, { "x-gateway-fallback": "near::two" })).status, 200)
    const { attempts, root } = await finished()
    assert.deepStrictEqual(outcomes(attempts), [
      ["far", "transient", true],
      ["far", "transient", true],
      ["near", "ok", false]
    ])
    assert.deepStrictEqual(root.events, [{
      name: "llm_gateway.fallback",
      attributes: { "llm_gateway.model.preferred": "far::one", "gen_ai.response.model": "near::two" }
    }])
  })

  it("show a hedge: the loser's span ends as given up", async () => {
    await traced()
    upstream.route("POST", "/near/v1/chat/completions", openAi.answer({ text: "fast" }))
    upstream.always(silent)
    const asked = await ask({}, { "x-gateway-fallback": "near::two; strategy=parallel" })
    assert.strictEqual(asked.status, 200)
    const { attempts } = await finished()
    assert.sameDeepMembers(outcomes(attempts), [["far", "cancelled", true], ["near", "ok", false]])
    const lost = attempts.find(({ attributes }) => attributes["gen_ai.provider.name"] === "far")
    assert.strictEqual(lost?.attributes["llm_gateway.given_up"], "hedge_lost")
  })

  it("show a stream that breaks: the attempt served, the request failed", async () => {
    await traced()
    upstream.always(withFault(openAi.stream({ text: ["one ", "two ", "three"] }), fault.cut(2)))
    const { text } = await ask({ stream: true })
    assert.include(text, "\"error\"")
    const { attempts, root } = await finished()
    assert.deepStrictEqual(outcomes(attempts), [["far", "ok", false]])
    assert.isTrue(root.isError)
    assert.strictEqual(root.attributes["error.type"], "provider_error")
    assert.strictEqual(root.statusMessage, "provider_error")
    assert.isNumber(root.attributes["gen_ai.server.time_to_first_token"])
  })

  it("show a caller that left, which is nobody's failure", async () => {
    await traced()
    upstream.always(silent)
    const controller = new AbortController()
    const asked = fetch(`${started().url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "far::one", messages: [{ role: "user", content: canary }] }),
      signal: controller.signal
    }).catch(() => undefined)
    await upstream.waitForRequest(0)
    controller.abort()
    await asked
    await upstream.waitForClose(0)
    const { attempts, root } = await finished()
    assert.isFalse(root.isError)
    assert.strictEqual(root.attributes["llm_gateway.outcome"], "cancelled")
    assert.deepStrictEqual(outcomes(attempts), [["far", "cancelled", true]])
  })

  it("tell what interceptors decided, and not why", async () => {
    await start(
      `{ otlp: "${collector.url}" }`,
      `interceptors: { guard: { type: prompt-guard, deny: ["${canary}"] } }`
    )
    assert.strictEqual((await ask()).status, 403)
    const { attempts, root } = await finished()
    assert.lengthOf(attempts, 0)
    assert.isTrue(root.isError)
    assert.deepStrictEqual(root.events.filter(({ name }) => name === "llm_gateway.interceptor"), [{
      name: "llm_gateway.interceptor",
      attributes: { "llm_gateway.interceptor": "guard", verdict: "block" }
    }])
    assert.notInclude(collector.raw(), canary)
  })

  it("show a job: its request and the call to its provider, as of any other", async () => {
    await traced()
    upstream.reply(openAi.answer({ text: "yes" }))
    const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    const made = await started().post(
      "/llm-gateway/v1/jobs",
      { operation: "chat", request: { model: "far::one", messages: [{ role: "user", content: canary }] } },
      { traceparent: parent }
    )
    assert.strictEqual(made.status, 202)
    const { id } = JSON.parse(await made.text())
    const job = await (await fetch(`${started().url}/llm-gateway/v1/jobs/${id}?wait=30s`)).text()
    assert.include(job, "\"completed\"")
    const { attempts, root } = await finished()
    assert.strictEqual(root.traceId, "0af7651916cd43dd8448eb211c80319c")
    assert.strictEqual(root.attributes["llm_gateway.outcome"], "completed")
    assert.deepStrictEqual(outcomes(attempts), [["far", "ok", false]])
    assert.notInclude(collector.raw(), canary)
  })

  it("hold content where a tenant's operator has said so", async () => {
    await start(`{ otlp: "${collector.url}" }`, "tenants: { default: { capture_content: true } }")
    upstream.reply(openAi.answer({ text: "whole" }))
    await ask()
    const { root } = await finished()
    assert.include(String(root.attributes["gen_ai.input.messages"]), canary)
    assert.include(String(root.attributes["gen_ai.output.messages"]), "whole")
  })

  it("go on to providers where that is wanted", async () => {
    await traced(", traces: { tell_providers: true }")
    upstream.always(openAi.stream({ text: "yes" }))
    await ask({ stream: true })
    const { attempts: [attempt], root } = await finished()
    assert.strictEqual(upstream.request(0).headers["traceparent"], `00-${root.traceId}-${attempt?.spanId}-01`)
  })

  it("are sampled, unless the caller traces; a broken traceparent counts for nothing", async () => {
    await traced(", traces: { sampling: 0 }")
    upstream.always(openAi.answer({ text: "yes" }))
    await ask()
    await ask({}, { traceparent: "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01" })
    await ask({}, { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00" })
    await ask({}, { traceparent: "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-01" })
    const { root } = await finished()
    assert.strictEqual(root.traceId, "0af7651916cd43dd8448eb211c80319d")
  })

  it.each(["refuses", "silent"] as const)("slow nothing down where the collector %s", async (mood) => {
    const broken = await startCollector(mood)
    try {
      await start(`{ otlp: "${broken.url}" }`)
      upstream.always(openAi.answer({ text: "yes" }))
      const statuses = await Promise.all(Array.from({ length: 50 }, () => ask()))
      assert.isTrue(statuses.every(({ status }) => status === 200))
    } finally {
      await started().close()
      gateway = undefined
      await broken.close()
    }
    assert.isAbove(broken.exports(), 0)
  }, 30_000)

  it("come with the metrics of the same requests", async () => {
    await traced()
    upstream.always(openAi.stream({ text: "one two three", usage: { prompt_tokens: 5, completion_tokens: 3 } }))
    await ask({ stream: true })
    await finished()
    const metrics = collector.metrics()
    for (
      const [name, unit] of [
        ["gen_ai.server.request.duration", "s"],
        ["gen_ai.server.time_to_first_token", "s"],
        ["gen_ai.server.time_per_output_token", "s"],
        ["gen_ai.client.operation.duration", "s"],
        ["gen_ai.client.token.usage", "{token}"]
      ] as const
    ) assert.strictEqual(metrics.get(name), unit, name)
    assert.isTrue(metrics.has("llm_gateway_requests_total"))
  })
})

describe("metrics", () => {
  it("add up what requests were, took, consumed and cost", async () => {
    await start("{}", "tenants: { default: { budgets: [{ per: tenant, usd: 2, window: total }] } }")
    upstream.reply(
      openAi.answer({ text: "yes", usage: { prompt_tokens: 1_000, completion_tokens: 500 } }),
      openAi.stream({ text: "one two three", usage: { prompt_tokens: 10, completion_tokens: 3 } }),
      openAi.error(401)
    )
    await ask()
    await ask({ stream: true })
    await ask()
    await ask({ model: "nobody::nothing" })
    await started().post("/v1/chat/completions", "{").then((response) => response.text())
    const told = await scrape()
    const one = { provider: "far", model: "far::one" }
    assert.deepStrictEqual(told.values("llm_gateway_requests_total", { ...one, operation: "chat", code: "ok" }), [2])
    assert.deepStrictEqual(told.values("llm_gateway_requests_total", { ...one, code: "provider_error" }), [1])
    assert.deepStrictEqual(told.values("llm_gateway_requests_total", { model: "none", code: "model_not_found" }), [1])
    assert.deepStrictEqual(told.values("llm_gateway_refusals_total", { code: "validation_error" }), [1])
    assert.deepStrictEqual(told.values("llm_gateway_requests_running", { operation: "chat" }), [0])
    const tenant = { ...one, tenant: "default" }
    assert.deepStrictEqual(told.values("llm_gateway_tokens_total", { ...tenant, type: "input" }), [1_010])
    assert.deepStrictEqual(told.values("llm_gateway_tokens_total", { ...tenant, type: "output" }), [503])
    assert.closeTo(told.sum("llm_gateway_cost_usd_total", tenant), (1_010 + 2 * 503) / 1e6, 1e-12)
    assert.deepStrictEqual(told.values("gen_ai_server_time_to_first_token_seconds_count"), [1])
    assert.strictEqual(told.sum("gen_ai_server_request_duration_seconds_count"), 4)
    assert.deepStrictEqual(
      told.values("gen_ai_client_operation_duration_seconds_count", { error_type: "credential" }),
      [1]
    )
    assert.strictEqual(told.sum("llm_gateway_overhead_seconds_count"), 4)
    const buckets = told.samples.filter(({ labels, name }) =>
      name === "gen_ai_server_request_duration_seconds_bucket" && !("error_type" in labels)
    )
    assert.strictEqual(buckets.at(-1)?.labels["le"], "+Inf")
    assert.strictEqual(buckets.at(-1)?.value, 2)
    for (const [at, { value }] of buckets.entries()) assert.isAtLeast(value, buckets[at - 1]?.value ?? 0)
  })

  it("tell how budgets, limits, queues and the process are", async () => {
    await start(
      "{}",
      `tenants: { default: { budgets: [{ per: tenant, usd: 2, window: total }], rate_limits: [{ per: tenant, requests: 10, window: 1h }] } }
audit: { sinks: [{ type: noop }] }`
    )
    upstream.always(openAi.answer({ text: "yes", usage: { prompt_tokens: 1_000_000, completion_tokens: 0 } }))
    await ask()
    const budget = { budget: "total budget of tenant default" }
    // Budgets are settled once their records are written.
    let told = await scrape()
    while (told.sum("llm_gateway_budget_spent_usd", budget) === 0) told = await scrape()
    assert.deepStrictEqual(told.values("llm_gateway_budget_limit_usd", budget), [2])
    assert.deepStrictEqual(told.values("llm_gateway_budget_spent_usd", budget), [1])
    assert.deepStrictEqual(told.values("llm_gateway_budget_reserved_usd", budget), [0])
    assert.deepStrictEqual(told.values("llm_gateway_rate_limit_remaining", { limit: "requests of tenant default" }), [
      9
    ])
    assert.deepStrictEqual(told.values("llm_gateway_queue_length", { queue: "ledger" }), [0])
    assert.deepStrictEqual(told.values("llm_gateway_queue_dropped", { queue: "ledger" }), [0])
    assert.deepStrictEqual(told.values("llm_gateway_queue_written", { queue: "ledger" }), [1])
    assert.isAtLeast(told.sum("llm_gateway_upstream_connections", { provider: "far", state: "idle" }), 1)
    assert.deepStrictEqual(told.values("llm_gateway_upstream_connections", { provider: "far", state: "busy" }), [0])
    assert.deepStrictEqual(told.values("llm_gateway_upstream_requests_waiting", { provider: "far" }), [0])
    assert.isAbove(told.sum("process_resident_memory_bytes"), 1e6)
    assert.isAbove(told.sum("process_cpu_seconds_total"), 0)
    assert.isAbove(told.sum("nodejs_active_resources"), 0)
  })

  it("do not grow with the names of models that callers make up", async () => {
    await start("{}")
    upstream.always(openAi.answer({ text: "yes" }))
    for (const model of ["far::made-up", "far::another", "far::\"\n}"]) await ask({ model })
    const told = await scrape()
    assert.deepStrictEqual(
      told.samples.filter(({ name }) => name === "llm_gateway_requests_total").map(({ labels }) => labels["model"]),
      ["other"]
    )
  })
})

describe("the dashboard and the alerts", () => {
  const files = [["grafana.json", 5], ["alerts.yaml", 5], ["kubernetes/autoscaler.yaml", 0]] as const

  it.each(files)("%s asks for figures that the gateway has", async (file, least) => {
    await start(
      "{}",
      `tenants: { default: { budgets: [{ per: tenant, usd: 2, window: total }], rate_limits: [{ per: tenant, requests: 10, window: 1h }] } }
jobs: {}
server: { concurrency: { max: 100 } }`
    )
    upstream.reply(
      openAi.stream({ text: "one two three" }),
      openAi.error(401),
      openAi.error(503),
      openAi.answer({ text: "x" })
    )
    await ask({ stream: true })
    await ask({}, { "x-gateway-fallback": "near::two" })
    await ask({}, { "x-gateway-fallback": "near::two" })
    await started().post("/v1/chat/completions", "{").then((response) => response.text())
    const job = await started().post("/llm-gateway/v1/chat/completions", {
      model: "near::two",
      messages: [{ role: "user", content: "x" }],
      async: true
    })
    assert.strictEqual(job.status, 202)
    const told = await scrape()
    const names = new Set(told.samples.flatMap(({ labels, name }) => [name].concat(Object.keys(labels))))
    const text = readFileSync(new URL(`../../docs/operations/${file}`, import.meta.url), "utf8")
    const asked = new Set(text.match(/\b(?:llm_gateway|gen_ai|nodejs|process)_[a-z0-9_]+\b/g))
    assert.isAbove(asked.size, least)
    assert.deepStrictEqual(Array.from(asked).filter((name) => !names.has(name)), [])
  })
})
