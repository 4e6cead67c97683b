/**
 * `GET /metrics`: the gateway's figures as Prometheus reads them. They are put together when they are asked for, from what
 * the pipeline counts anyway; whatever else in the process records Effect metrics comes along.
 *
 * They name providers and models and tell how much all tenants use them, so they are for administrators.
 */
import { Context, Effect, Metric, Option } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
// The module itself: its barrel loads all of OpenTelemetry with it, which the first requests of a process then wait for.
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { AttemptCounts } from "../../gateway/AttemptCounts.ts"
import { type JobCounts, Jobs } from "../../gateway/Jobs.ts"
import { Breakers, type BreakerState } from "../../sdk/Breakers.ts"
import { CurrentCaller } from "../../sdk/Caller.ts"
import { fail, Forbidden } from "../../sdk/GatewayError.ts"
import { type Door, visit } from "../Door.ts"

const stateValue: { readonly [State in BreakerState["state"]]: number } = { closed: 0, half_open: 1, open: 2 }

const breakerGauge = ({ endpoint, provider }: BreakerState) =>
  Metric.gauge("llm_gateway_breaker_state", {
    description: "A provider's circuit breaker: 0 closed, 1 half open, 2 open.",
    attributes: { provider, endpoint }
  })

const attemptsCounter = (attributes: { readonly provider: string; readonly model: string; readonly outcome: string }) =>
  Metric.counter("llm_gateway_attempts_total", {
    description: "Calls to providers, retries and fallbacks included, and calls that a breaker held back.",
    attributes
  })

const fallbacksCounter = (attributes: { readonly provider: string; readonly model: string }) =>
  Metric.counter("llm_gateway_fallbacks_total", {
    description: "Attempts that served a request whose first candidate was another model.",
    attributes
  })

const jobsGauge = Metric.gauge("llm_gateway_jobs_running", { description: "Jobs that run in this process." })

const jobsCounter = (status: string) =>
  Metric.counter("llm_gateway_jobs_ended_total", {
    description: "Jobs that this process has run to their end.",
    attributes: { status }
  })

/** The gateway's own figures, in a registry of their own: another gateway in this process has others. */
const ownFigures = (
  counts: AttemptCounts["Service"],
  breakers: ReadonlyArray<BreakerState>,
  jobs?: JobCounts
): string => {
  const registry = Context.make(Metric.MetricRegistry, new Map())
  for (const breaker of breakers) breakerGauge(breaker).updateUnsafe(stateValue[breaker.state], registry)
  for (const { byOutcome, fallbacks, model, provider } of counts.all()) {
    for (const [outcome, count] of byOutcome) {
      attemptsCounter({ provider, model, outcome }).updateUnsafe(count, registry)
    }
    if (fallbacks > 0) fallbacksCounter({ provider, model }).updateUnsafe(fallbacks, registry)
  }
  if (jobs !== undefined) {
    jobsGauge.updateUnsafe(jobs.running, registry)
    for (const [status, count] of jobs.ended) jobsCounter(status).updateUnsafe(count, registry)
  }
  return PrometheusMetrics.formatUnsafe(registry)
}

const metrics = Effect.fnUntraced(function*() {
  const caller = yield* CurrentCaller
  if (caller.admin !== true) {
    return yield* fail(new Forbidden({ message: "metrics are for keys with the admin right" }))
  }
  const counts = yield* AttemptCounts
  const breakers = yield* Effect.serviceOption(Breakers)
  const states = Option.isNone(breakers) ? [] : yield* breakers.value.states
  const jobs = yield* Effect.serviceOption(Jobs)
  const jobCounts = Option.isNone(jobs) ? undefined : jobs.value.counts()
  return HttpServerResponse.text(ownFigures(counts, states, jobCounts) + (yield* PrometheusMetrics.format()), {
    contentType: "text/plain; version=0.0.4; charset=utf-8"
  })
})

/** Mounts `/metrics`; errors have the door's form. */
export const layer = (door: Door) => HttpRouter.add("GET", "/metrics", visit(door, metrics))
