/**
 * The figures of requests, as metrics: how many there were and how they ended, how long they took, what they consumed and
 * cost. They are kept in a registry of the gateway's own, which `/metrics` and an OpenTelemetry exporter read; another
 * gateway in the same process has others. A request costs some additions when it ends, and nothing is put together
 * before somebody reads.
 *
 * Names, units and boundaries of `gen_ai.*` are those of OpenTelemetry's semantic conventions for generative AI
 * (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/).
 */
import { Context, Effect, Layer, Metric, type Scope } from "effect"
import type { GatewayErrorCode } from "../sdk/GatewayError.ts"
import type { Operation } from "../sdk/Operation.ts"
import type { RateLevel } from "../sdk/RateLimits.ts"
import { Routes } from "../sdk/Routes.ts"
import { totalCacheWrite, totalOutput, type Usage } from "../sdk/Usage.ts"
import type { UsageRecord } from "../sdk/UsageSink.ts"
import type { AttemptReport, Exchange } from "./Exchange.ts"
import { RealtimeMetrics } from "./realtime/RealtimeMetrics.ts"
import type { RecordQueueStats } from "./RecordQueue.ts"
import { type ModelLabel, ModelLabels, otherName } from "./SeriesLabels.ts"

/** What operations are called in `gen_ai.operation.name`; the conventions have no names for the last ones. */
export const operationNames: { readonly [Name in Operation]: string } = {
  chat: "chat",
  embed: "embeddings",
  image: "image_generation",
  transcribe: "transcription",
  speak: "speech",
  video: "video_generation",
  realtime: "realtime",
  batch: "batch"
}

/** The figures of one gateway's requests. Writing is synchronous and cheap enough for the way of every request. */
export class RequestMetrics extends Context.Service<RequestMetrics, {
  /** A request has begun. Each one needs its `ended`. */
  readonly began: (exchange: Exchange) => void
  /** A request is over, and this is what is written down of it; the first record is the request's own. */
  readonly ended: (exchange: Exchange, records: ReadonlyArray<UsageRecord>) => void
  /** A request was refused before it was known what it asks for: for its key, its form or its path. */
  readonly refused: (code: GatewayErrorCode) => void
  /**
   * Shows the figures of a queue for as long as the scope lives; they are read when somebody asks. Queues of one name, as two
   * configurations have them while one takes the place of the other, are shown as one.
   */
  readonly queue: (name: string, stats: RecordQueueStats) => Effect.Effect<void, never, Scope.Scope>
  /** From now on these models, by canonical or bare id, are told apart, too. */
  readonly tellApart: (models: Iterable<string>) => void
  /** The figures of realtime sessions. */
  readonly realtime: RealtimeMetrics
  /** The context whose `Metric.MetricRegistry` holds them. */
  readonly registry: Context.Context<never>
}>()("llm-gateway/gateway/RequestMetrics") {
  /** All at zero. Models told apart are these, by canonical or bare id, and those of the routes. */
  static readonly layer = (models: ReadonlyArray<string> = []): Layer.Layer<RequestMetrics, never, Routes> =>
    Layer.effect(RequestMetrics, Routes.useSync((routes) => make(new ModelLabels(models, routes))))
}

/** Tenants that are told apart; the figures of all others are one tenant's, `other`. */
const maxTenants = 200
/** Pairs of a tenant and a model that are told apart, likewise. */
const maxPairs = 5_000

const durations = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
const firstTokens = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
const tokenTimes = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]
const tokenCounts = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
const overheads = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1]

type Attributes = Readonly<Record<string, string>>

const histogram = (name: string, description: string, boundaries: ReadonlyArray<number>, attributes: Attributes) =>
  Metric.histogram(name, { description, boundaries, attributes })

const counter = (name: string, description: string, attributes: Attributes) =>
  Metric.counter(name, { description, attributes, incremental: true })

const runningOf = (operation: Operation) =>
  Metric.gauge("llm_gateway_requests_running", {
    description: "Requests that are on their way through the gateway.",
    attributes: { operation: operationNames[operation] }
  })

const genAi = (operation: Operation, { model, provider }: ModelLabel): Attributes => ({
  "gen_ai.operation.name": operationNames[operation],
  "gen_ai.provider.name": provider,
  "gen_ai.request.model": model
})

/** How a request ended, in one word. */
const endOf = ({ errorCode, outcome }: UsageRecord): string =>
  outcome === "completed" ? "ok" : outcome === "cancelled" ? "cancelled" : errorCode ?? "internal_error"

/** The figures of an operation with a model that have ended in one way. */
class EndSeries {
  readonly requests
  readonly duration

  constructor(operation: Operation, label: ModelLabel, end: string) {
    this.requests = counter("llm_gateway_requests_total", "Requests that have ended, by how they did.", {
      operation: operationNames[operation],
      provider: label.provider,
      model: label.model,
      code: end
    })
    this.duration = histogram("gen_ai.server.request.duration", "Time from a request to its whole answer.", durations, {
      unit: "s",
      ...genAi(operation, label),
      ...(end === "ok" ? {} : { "error.type": end })
    })
  }
}

/** The figures of one operation with one model. */
class OperationSeries {
  readonly #operation: Operation
  readonly #label: ModelLabel
  readonly #ends = new Map<string, EndSeries>()
  readonly firstToken
  readonly perToken
  readonly overhead
  readonly inputTokens
  readonly outputTokens

  constructor(operation: Operation, label: ModelLabel) {
    this.#operation = operation
    this.#label = label
    const attributes = { unit: "s", ...genAi(operation, label) }
    this.firstToken = histogram(
      "gen_ai.server.time_to_first_token",
      "Time from a streamed request to its first content.",
      firstTokens,
      attributes
    )
    this.perToken = histogram(
      "gen_ai.server.time_per_output_token",
      "Time of a streamed token after the first one.",
      tokenTimes,
      attributes
    )
    this.overhead = histogram(
      "llm_gateway_overhead_seconds",
      "The gateway's own share of a request's time.",
      overheads,
      {
        operation: operationNames[operation],
        provider: label.provider,
        model: label.model
      }
    )
    const tokens = (type: "input" | "output") =>
      histogram("gen_ai.client.token.usage", "Tokens of a request.", tokenCounts, {
        unit: "{token}",
        ...genAi(operation, label),
        "gen_ai.token.type": type
      })
    this.inputTokens = tokens("input")
    this.outputTokens = tokens("output")
  }

  ended(end: string): EndSeries {
    const known = this.#ends.get(end)
    if (known !== undefined) return known
    const made = new EndSeries(this.#operation, this.#label, end)
    this.#ends.set(end, made)
    return made
  }
}

const tokenTypes = [
  ["input", ({ inputTokens }: Usage) => inputTokens],
  ["cache_read", ({ cacheReadTokens = 0 }: Usage) => cacheReadTokens],
  ["cache_write", totalCacheWrite],
  ["input_audio", ({ inputAudioTokens = 0 }: Usage) => inputAudioTokens],
  ["input_image", ({ inputImageTokens = 0 }: Usage) => inputImageTokens],
  ["output", ({ outputTokens }: Usage) => outputTokens],
  ["output_audio", ({ outputAudioTokens = 0 }: Usage) => outputAudioTokens],
  ["output_image", ({ outputImageTokens = 0 }: Usage) => outputImageTokens],
  ["reasoning", ({ reasoningTokens = 0 }: Usage) => reasoningTokens]
] as const

/** What one tenant has consumed with one model. */
class TenantSeries {
  readonly #tenant: string
  readonly #label: ModelLabel
  readonly #tokens = new Map<string, ReturnType<typeof counter>>()
  readonly cost

  constructor(tenant: string, label: ModelLabel) {
    this.#tenant = tenant
    this.#label = label
    this.cost = counter("llm_gateway_cost_usd_total", "Cost by the gateway's own prices, USD.", {
      tenant,
      provider: label.provider,
      model: label.model
    })
  }

  /** The counter of one kind of tokens, made when there are some. */
  tokens(type: string): ReturnType<typeof counter> {
    const known = this.#tokens.get(type)
    if (known !== undefined) return known
    const made = counter(
      "llm_gateway_tokens_total",
      "Tokens; output counts reasoning, which is told apart as well, and the other kinds do not overlap.",
      { tenant: this.#tenant, provider: this.#label.provider, model: this.#label.model, type }
    )
    this.#tokens.set(type, made)
    return made
  }
}

const nanoPerUsd = 1e9

const queueGauge = (queue: string) =>
  Metric.gauge("llm_gateway_queue_length", {
    description: "Records that wait to be written.",
    attributes: { queue }
  })

/** A gauge, because it is read from the queue's own count; it only ever grows. */
const queueTotal = (what: string, description: string, queue: string) =>
  Metric.gauge(`llm_gateway_queue_${what}`, { description, attributes: { queue } })

/** The figures of all queues of one name; what those that are gone have counted stays counted. */
class QueueFigures {
  readonly #live = new Set<RecordQueueStats>()
  readonly #past = { written: 0, dropped: 0, retries: 0 }

  add(stats: RecordQueueStats): void {
    this.#live.add(stats)
  }

  remove(stats: RecordQueueStats): void {
    if (!this.#live.delete(stats)) return
    this.#past.written += stats.written
    this.#past.dropped += stats.dropped
    this.#past.retries += stats.retries
  }

  sum(figure: "queued" | "written" | "dropped" | "retries"): number {
    let sum = figure === "queued" ? 0 : this.#past[figure]
    for (const stats of this.#live) sum += stats[figure]
    return sum
  }
}

/** A gauge that is read where its figure is kept. */
const read = (
  gauge: Metric.Gauge<number>,
  registry: Context.Context<never>,
  value: () => number
): Metric.Registration =>
  Metric.registerUnsafe(gauge, registry, { get: () => ({ value: value() }), update: () => {}, modify: () => {} })

const make = (labels: ModelLabels): RequestMetrics["Service"] => {
  const registry = Context.make(Metric.MetricRegistry, new Map())
  const running = new Map<Operation, ReturnType<typeof runningOf>>()
  const operations = new Map<Operation, Map<ModelLabel, OperationSeries>>()
  const tenants = new Map<string, Map<ModelLabel, TenantSeries>>()
  let pairs = 0
  const attempts = new Map<ModelLabel, Map<AttemptReport["outcome"], ReturnType<typeof histogram>>>()
  const limits = new Map<string, Metric.Gauge<number>>()
  const refusals = new Map<GatewayErrorCode, ReturnType<typeof counter>>()

  const move = (operation: Operation, by: number): void => {
    let gauge = running.get(operation)
    if (gauge === undefined) {
      gauge = runningOf(operation)
      running.set(operation, gauge)
    }
    gauge.modifyUnsafe(by, registry)
  }

  const seriesOf = (operation: Operation, label: ModelLabel): OperationSeries => {
    let byModel = operations.get(operation)
    if (byModel === undefined) operations.set(operation, byModel = new Map())
    let series = byModel.get(label)
    if (series === undefined) byModel.set(label, series = new OperationSeries(operation, label))
    return series
  }

  const tenantOf = (name: string, label: ModelLabel): TenantSeries => {
    const known = tenants.get(name)
    const series = known?.get(label)
    if (series !== undefined) return series
    const isRoom = pairs < maxPairs && (known !== undefined || tenants.size < maxTenants)
    if (!isRoom && name !== otherName) return tenantOf(otherName, label)
    const made = new TenantSeries(name, label)
    pairs++
    if (known === undefined) tenants.set(name, new Map([[label, made]]))
    else known.set(label, made)
    return made
  }

  const consumed = (tenant: string, label: ModelLabel, { costNanoUsd, usage }: UsageRecord): void => {
    const series = tenantOf(tenant, label)
    for (const [type, count] of tokenTypes) {
      const tokens = count(usage)
      if (tokens > 0) series.tokens(type).updateUnsafe(tokens, registry)
    }
    if (costNanoUsd !== undefined && costNanoUsd > 0) series.cost.updateUnsafe(costNanoUsd / nanoPerUsd, registry)
  }

  /** How full a tenant's own limits were when a request was last counted by them; those per user or key are too many. */
  const counted = ({ name, remaining }: RateLevel): void => {
    let gauge = limits.get(name)
    if (gauge === undefined) {
      if (limits.size >= maxTenants || name.includes(" per ")) return
      gauge = Metric.gauge("llm_gateway_rate_limit_remaining", {
        description: "What was left of a tenant's limit when a request was last counted by it.",
        attributes: { limit: name }
      })
      limits.set(name, gauge)
    }
    gauge.updateUnsafe(remaining, registry)
  }

  const attempted = (operation: Operation, { durationMs, info, outcome }: AttemptReport): void => {
    const label = labels.of(info)
    let byOutcome = attempts.get(label)
    if (byOutcome === undefined) attempts.set(label, byOutcome = new Map())
    let series = byOutcome.get(outcome)
    if (series === undefined) {
      series = histogram("gen_ai.client.operation.duration", "Time of one call to a provider.", durations, {
        unit: "s",
        ...genAi(operation, label),
        ...(outcome === "ok" ? {} : { "error.type": outcome })
      })
      byOutcome.set(outcome, series)
    }
    series.updateUnsafe(durationMs / 1000, registry)
  }

  const queues = new Map<string, QueueFigures>()
  const shownQueue = (name: string): QueueFigures => {
    const known = queues.get(name)
    if (known !== undefined) return known
    const figures = new QueueFigures()
    queues.set(name, figures)
    read(queueGauge(name), registry, () => figures.sum("queued"))
    read(queueTotal("written", "Records that a queue has written.", name), registry, () => figures.sum("written"))
    read(queueTotal("dropped", "Records that a queue has lost.", name), registry, () => figures.sum("dropped"))
    read(
      queueTotal("retries", "Writes of a queue that failed and were tried again.", name),
      registry,
      () => figures.sum("retries")
    )
    return figures
  }
  const queue: RequestMetrics["Service"]["queue"] = (name, stats) =>
    Effect.asVoid(Effect.acquireRelease(
      Effect.sync(() => {
        const figures = shownQueue(name)
        figures.add(stats)
        return figures
      }),
      (figures) => Effect.sync(() => figures.remove(stats))
    ))

  return {
    registry,
    realtime: new RealtimeMetrics(registry),
    queue,
    tellApart: (models) => labels.tellApart(models),
    began: ({ operation }) => move(operation, 1),
    ended: (exchange, records) => {
      const { attempts: made, operation } = exchange
      move(operation, -1)
      const [own] = records
      if (own === undefined) return
      const label = labels.of(exchange.model)
      const series = seriesOf(operation, label)
      const end = series.ended(endOf(own))
      end.requests.updateUnsafe(1, registry)
      end.duration.updateUnsafe(own.durationMs / 1000, registry)
      series.overhead.updateUnsafe(own.overheadMs / 1000, registry)
      const { firstTokenMs, usage } = own
      if (own.outcome === "completed") {
        const input = usage.inputTokens + (usage.cacheReadTokens ?? 0) + totalCacheWrite(usage)
        const output = totalOutput(usage)
        series.inputTokens.updateUnsafe(input, registry)
        if (output > 0) series.outputTokens.updateUnsafe(output, registry)
        if (firstTokenMs !== undefined && output > 1) {
          series.perToken.updateUnsafe((own.durationMs - firstTokenMs) / 1000 / (output - 1), registry)
        }
      }
      if (firstTokenMs !== undefined) series.firstToken.updateUnsafe(firstTokenMs / 1000, registry)
      for (const record of records) {
        consumed(record.tenant, record === own ? label : labels.named(record.modelUsed, record.provider), record)
      }
      for (const attempt of made) attempted(operation, attempt)
      for (const level of exchange.rateLevels) counted(level)
    },
    refused: (code) => {
      let series = refusals.get(code)
      if (series === undefined) {
        series = counter(
          "llm_gateway_refusals_total",
          "Requests refused before it was known what they ask for: for their key, their form or their path.",
          { code }
        )
        refusals.set(code, series)
      }
      series.updateUnsafe(1, registry)
    }
  }
}
