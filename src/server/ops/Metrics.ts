/**
 * `GET /metrics`: the gateway's figures as Prometheus reads them. They are put together when they are asked for, from what
 * the pipeline counts anyway; whatever else in the process records Effect metrics comes along.
 *
 * They name providers, models, tenants and budgets and tell how much all of them are used, so they are for administrators.
 */
import { Context, Effect, Layer, Metric, Option } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
// The module itself: its barrel loads all of OpenTelemetry with it, which the first requests of a process then wait for.
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { AttemptCounts } from "../../gateway/AttemptCounts.ts"
import { AuditQueues } from "../../gateway/Audit.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import { Health } from "../../gateway/Health.ts"
import { Jobs } from "../../gateway/Jobs.ts"
import { Places } from "../../gateway/Places.ts"
import { RequestMetrics } from "../../gateway/RequestMetrics.ts"
import { Breakers, type BreakerState } from "../../sdk/Breakers.ts"
import { ConnectionPools } from "../../sdk/Outbound.ts"
import type { Balance } from "../../sdk/Budgets.ts"
import { CurrentCaller } from "../../sdk/Caller.ts"
import { fail, Forbidden } from "../../sdk/GatewayError.ts"
import { Tenants } from "../../sdk/Tenant.ts"
import { type Door, visit } from "../Door.ts"
import { Load } from "../Shedding.ts"
import { merged, MetricsPeers } from "./MetricsPeers.ts"
import * as ProcessFigures from "./ProcessFigures.ts"

/** The figures of one scrape. */
export type Figures = Context.Context<never>

const gauge = (into: Figures, name: string, description: string, attributes: Record<string, string>, value: number) =>
  Metric.gauge(name, { description, attributes }).updateUnsafe(value, into)

const counter = (into: Figures, name: string, description: string, attributes: Record<string, string>, value: number) =>
  Metric.counter(name, { description, attributes, incremental: true }).updateUnsafe(value, into)

// ---------------------------------------------------------------------------------------------------------------------
// What the parts of the gateway know
// ---------------------------------------------------------------------------------------------------------------------

const stateValue: { readonly [State in BreakerState["state"]]: number } = { closed: 0, half_open: 1, open: 2 }

const breakers = Effect.fnUntraced(function*(into: Figures) {
  const known = yield* Effect.serviceOption(Breakers)
  if (Option.isNone(known)) return
  for (const { endpoint, provider, state } of yield* known.value.states) {
    gauge(
      into,
      "llm_gateway_breaker_state",
      "A provider's circuit breaker: 0 closed, 1 half open, 2 open.",
      { provider, endpoint },
      stateValue[state]
    )
  }
})

const connections = Effect.fnUntraced(function*(into: Figures) {
  const known = yield* Effect.serviceOption(ConnectionPools)
  if (Option.isNone(known)) return
  for (const { idle, open, provider, waiting } of known.value.pools()) {
    const told = (state: string, count: number) =>
      gauge(into, "llm_gateway_upstream_connections", "Connections to a provider.", { provider, state }, count)
    told("idle", idle)
    told("busy", open - idle)
    gauge(
      into,
      "llm_gateway_upstream_requests_waiting",
      "Requests that wait for a connection to their provider.",
      { provider },
      waiting
    )
  }
})

const attempts = Effect.fnUntraced(function*(into: Figures) {
  const counts = yield* AttemptCounts
  const health = yield* Effect.serviceOption(Health)
  for (const { byOutcome, fallbacks, model, provider } of counts.all()) {
    for (const [outcome, count] of byOutcome) {
      counter(
        into,
        "llm_gateway_attempts_total",
        "Calls to providers, retries and fallbacks included, and calls that a breaker held back.",
        { provider, model, outcome },
        count
      )
    }
    if (fallbacks > 0) {
      counter(
        into,
        "llm_gateway_fallbacks_total",
        "Attempts that served a request whose first candidate was another model.",
        { provider, model },
        fallbacks
      )
    }
    if (Option.isNone(health) || model === "other") continue
    const { errorRate, inFlight } = health.value.of(model)
    gauge(
      into,
      "llm_gateway_model_error_ratio",
      "Share of a model's calls of the last five minutes that its provider spoiled.",
      { provider, model },
      errorRate
    )
    gauge(into, "llm_gateway_model_calls_running", "Calls to a model that run now.", { provider, model }, inFlight)
  }
})

const jobs = Effect.fnUntraced(function*(into: Figures) {
  const known = yield* Effect.serviceOption(Jobs)
  if (Option.isNone(known)) return
  const { ended, running } = known.value.counts()
  gauge(into, "llm_gateway_jobs_running", "Jobs that run in this process.", {}, running)
  for (const [status, count] of ended) {
    counter(into, "llm_gateway_jobs_ended_total", "Jobs that this process has run to their end.", { status }, count)
  }
})

/** The ledger's own queues are in `RequestMetrics`; these are named alike. */
const auditQueues = Effect.fnUntraced(function*(into: Figures) {
  const known = yield* Effect.serviceOption(AuditQueues)
  if (Option.isNone(known)) return
  for (const { sink, stats } of known.value.stats()) {
    const queue = { queue: `audit_${sink}` }
    gauge(into, "llm_gateway_queue_length", "Records that wait to be written.", queue, stats.queued)
    gauge(into, "llm_gateway_queue_written", "Records that a queue has written.", queue, stats.written)
    gauge(into, "llm_gateway_queue_dropped", "Records that a queue has lost.", queue, stats.dropped)
    gauge(
      into,
      "llm_gateway_queue_retries",
      "Writes of a queue that failed and were tried again.",
      queue,
      stats.retries
    )
  }
})

/** Tenants whose budgets are shown: each one is a question to the store. */
const maxTenants = 200
const nanoPerUsd = 1e9

const budgets = Effect.fnUntraced(function*(into: Figures) {
  const gateway = yield* Gateway
  const tenants = yield* Effect.serviceOption(Tenants)
  if (Option.isNone(tenants)) return
  const known = new Map<string, Balance>()
  for (const { budgets: rules, name } of tenants.value.all().slice(0, maxTenants)) {
    if (!rules.some(({ per }) => per === "tenant")) continue
    // A store that does not answer is told of elsewhere, and the other figures are wanted all the more then.
    const balances = yield* gateway.budgets.pipe(
      Effect.provideService(CurrentCaller, { tenant: name, tags: [] }),
      Effect.orElseSucceed((): ReadonlyArray<Balance> => [])
    )
    // What is per user or key has as many accounts as there are of them.
    for (const balance of balances) {
      if (balance.account.key.includes("|tenant|")) known.set(balance.account.key, balance)
    }
  }
  for (const { account: { limitNanoUsd, name }, reservedNanoUsd, spentNanoUsd } of known.values()) {
    const budget = { budget: name }
    gauge(into, "llm_gateway_budget_limit_usd", "Limit of a budget.", budget, limitNanoUsd / nanoPerUsd)
    gauge(into, "llm_gateway_budget_spent_usd", "Spent of a budget in its window.", budget, spentNanoUsd / nanoPerUsd)
    gauge(into, "llm_gateway_budget_reserved_usd", "Reserved of a budget.", budget, reservedNanoUsd / nanoPerUsd)
  }
})

const load = Effect.fnUntraced(function*(into: Figures) {
  const places = yield* Effect.serviceOption(Places)
  const { overload, refused } = yield* Load
  gauge(
    into,
    "llm_gateway_overloaded",
    "1 while new requests are turned away because the process has too much to do or too little memory.",
    {},
    overload === undefined ? 0 : 1
  )
  const turnedAway = (reason: string, count: number) =>
    counter(
      into,
      "llm_gateway_overload_refusals_total",
      "Requests that were turned away as overload.",
      { reason },
      count
    )
  turnedAway("process", refused)
  if (Option.isNone(places)) return
  const figures = places.value.figures()
  turnedAway("places", figures.refused)
  gauge(into, "llm_gateway_places_taken", "Requests that have a place among those that run.", {}, figures.running)
  gauge(into, "llm_gateway_places_waiting", "Requests that wait for a place.", {}, figures.waiting)
})

// ---------------------------------------------------------------------------------------------------------------------
// The page
// ---------------------------------------------------------------------------------------------------------------------

const seconds = /^gen_ai\..*(?:duration|first_token|output_token)$/

/** Prometheus wants units at the end of names, OpenTelemetry beside them: https://prometheus.io/docs/practices/naming/. */
const metricNameMapper = (name: string): string => {
  if (seconds.test(name)) return `${name}_seconds`
  return name === "gen_ai.client.token.usage" ? `${name}_tokens` : name
}

/** This process's figures, as Prometheus reads them. */
const render = Effect.fnUntraced(function*() {
  // A registry of this answer's own: another gateway in this process has other figures.
  const now: Figures = Context.make(Metric.MetricRegistry, new Map())
  yield* attempts(now)
  yield* breakers(now)
  yield* connections(now)
  yield* jobs(now)
  yield* auditQueues(now)
  yield* budgets(now)
  yield* load(now)
  yield* ProcessFigures.into(now)
  const requests = yield* Effect.serviceOption(RequestMetrics)
  // One family in two registries would be told twice, which Prometheus refuses.
  if (Option.isSome(requests)) {
    const from = Context.get(requests.value.registry, Metric.MetricRegistry)
    const to = Context.get(now, Metric.MetricRegistry)
    for (const [key, series] of from) if (!to.has(key)) to.set(key, series)
  }
  const options = { metricNameMapper }
  return PrometheusMetrics.formatUnsafe(now, options) + (yield* PrometheusMetrics.format(options))
})

const metrics = Effect.fnUntraced(function*() {
  const caller = yield* CurrentCaller
  if (caller.admin !== true) {
    return yield* fail(new Forbidden({ message: "metrics are for keys with the admin right" }))
  }
  const own = yield* render()
  const { collect } = yield* MetricsPeers
  const all = yield* collect(own)
  return HttpServerResponse.text(all === undefined ? own : merged(all), {
    contentType: "text/plain; version=0.0.4; charset=utf-8"
  })
})

/** Tells the other processes this one's figures when one of them is asked. */
const answering = Layer.effectDiscard(Effect.gen(function*() {
  const { answer } = yield* MetricsPeers
  const services = yield* Effect.context<Effect.Services<ReturnType<typeof render>>>()
  yield* answer(Effect.provideContext(render(), services))
}))

/** Mounts `/metrics`; errors have the door's form. */
export const layer = (door: Door) => Layer.mergeAll(HttpRouter.add("GET", "/metrics", visit(door, metrics)), answering)
