/**
 * Traces: one span for each request, and below it one for each call to a provider. They are made through any Effect
 * `Tracer`, but by hand: a tracer that is in the context of a request's fibers would be asked at each of their steps.
 *
 * Names and attributes are those of OpenTelemetry's semantic conventions for generative AI
 * (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/). They tell figures and names, never content, except for
 * tenants of whom the operator has said so.
 */
import { Context, Effect, Exit, Layer, Option, Tracer } from "effect"
import type { TraceParent } from "../sdk/Caller.ts"
import type { InterceptorContext } from "../sdk/Interceptor.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { totalCacheWrite, totalInput, totalOutput } from "../sdk/Usage.ts"
import type { UsageRecord } from "../sdk/UsageSink.ts"
import type { AttemptReport, Exchange } from "./Exchange.ts"
import { operationNames } from "./RequestMetrics.ts"

/** The span of one call to a provider. */
export interface AttemptTrace {
  /** The value of the `traceparent` header for the provider; undefined where providers are not told. */
  readonly traceparent: string | undefined
  readonly end: (report: AttemptReport) => void
}

/** The span of one request. */
export interface RequestTrace {
  /** 32 hex digits. */
  readonly traceId: string
  /** Whether the content of the request and of its answer belong into the span. */
  readonly takesContent: boolean
  /** Begins a call to a provider. */
  readonly attempt: (model: ModelInfo) => AttemptTrace
  /** Something happened on the way of the request. */
  readonly event: (name: string, attributes: Readonly<Record<string, string | number | boolean>>) => void
  /** What was asked or answered; goes into the span as JSON, or not at all where it is longer than 64 KB. */
  readonly content: (which: "input" | "output", content: unknown) => void
  /** The request is over, and this is its record. */
  readonly end: (record: UsageRecord) => void
}

/** What is traced, and how. */
export interface RequestTracesOptions {
  /** The share of requests that get a span where the caller does not say, 0 to 1; default 1: the tracer chooses. */
  readonly sampling?: number
  /** Whether providers get a `traceparent` header; default false: what they do with it is not known. */
  readonly tellsProviders?: boolean
  /** Whether a tenant's content belongs into its spans; absent: nobody's does. */
  readonly takesContentOf?: (tenant: string) => boolean
  /** The caller's span as the tracer knows those of others; by default as Effect does, without its `tracestate`. */
  readonly foreign?: (parent: TraceParent) => Tracer.AnySpan
}

/** Begins the traces of requests. */
export class RequestTraces extends Context.Service<RequestTraces, {
  /** The trace of a request; undefined for one that is not traced, which then costs nothing. */
  readonly began: (exchange: Exchange) => RequestTrace | undefined
}>()("llm-gateway/gateway/RequestTraces") {
  /** Traces by the `Tracer` that is in the context. */
  static readonly layer = (options: RequestTracesOptions = {}): Layer.Layer<RequestTraces> =>
    Layer.effect(
      RequestTraces,
      Effect.map(Tracer.Tracer, (tracer) => {
        const { sampling = 1, tellsProviders = false } = options
        return {
          began: (exchange) =>
            // Providers are told of a trace also where its spans are nobody's concern.
            tellsProviders || (exchange.traceParent?.sampled ?? Math.random() < sampling)
              ? new Request(tracer, exchange, options)
              : undefined
        }
      })
    )
}

/** Characters of content that a span takes: collectors refuse what is too long, and with it the whole batch. */
export const maxContent = 65_536
const nanosPerMs = 1_000_000n
const none: Context.Context<never> = Context.empty()

const nanos = (ms: number): bigint => BigInt(Math.round(ms * 1000)) * 1000n

const foreignSpan = ({ sampled, spanId, traceId }: TraceParent): Tracer.AnySpan =>
  Tracer.externalSpan({ traceId, spanId, sampled })

/** A failure as a span shows it: its code alone, since messages may hold words of providers. */
class Failed {
  readonly _tag = "Failed"
  readonly name: string
  readonly message: string

  constructor(code: string) {
    this.name = code
    this.message = code
  }
}

const failures = new Map<string, Exit.Exit<never, Failed>>()

/** Codes are a closed set, so that there is a bound to how many are kept. */
const failureOf = (code: string): Exit.Exit<never, Failed> => {
  const known = failures.get(code)
  if (known !== undefined) return known
  const made = Exit.fail(new Failed(code))
  failures.set(code, made)
  return made
}

class Request implements RequestTrace {
  readonly #tracer: Tracer.Tracer
  readonly #exchange: Exchange
  readonly #options: RequestTracesOptions
  readonly #span: Tracer.Span
  readonly #parent: Option.Option<Tracer.AnySpan>
  readonly takesContent: boolean

  constructor(tracer: Tracer.Tracer, exchange: Exchange, options: RequestTracesOptions) {
    this.#tracer = tracer
    this.#exchange = exchange
    this.#options = options
    const { caller, modelAsked, operation, startedAt, traceParent } = exchange
    this.#span = tracer.span({
      name: `${operationNames[operation]} ${modelAsked}`,
      parent: traceParent === undefined ? Option.none() : Option.some((options.foreign ?? foreignSpan)(traceParent)),
      annotations: none,
      links: [],
      startTime: BigInt(startedAt) * nanosPerMs,
      kind: "server",
      root: traceParent === undefined,
      sampled: true
    })
    this.#parent = Option.some(this.#span)
    this.takesContent = this.#span.sampled && options.takesContentOf?.(caller.tenant) === true
  }

  get traceId(): string {
    return this.#span.traceId
  }

  attempt(model: ModelInfo): AttemptTrace {
    const { operation } = this.#exchange
    const span = this.#tracer.span({
      name: `${operationNames[operation]} ${model.model}`,
      parent: this.#parent,
      annotations: none,
      links: [],
      startTime: this.#now(),
      kind: "client",
      root: false,
      sampled: this.#span.sampled
    })
    return {
      traceparent: this.#options.tellsProviders === true
        ? `00-${span.traceId}-${span.spanId}-${span.sampled ? "01" : "00"}`
        : undefined,
      end: (report) => {
        if (span.sampled) {
          span.attribute("gen_ai.operation.name", operationNames[operation])
          span.attribute("gen_ai.provider.name", model.provider)
          span.attribute("gen_ai.request.model", model.model)
          span.attribute("llm_gateway.outcome", report.outcome)
          if (report.givenUp !== undefined) span.attribute("llm_gateway.given_up", report.givenUp)
          if (report.outcome !== "ok") span.attribute("error.type", report.outcome)
        }
        span.end(this.#now(), report.outcome === "ok" ? Exit.void : failureOf(report.outcome))
      }
    }
  }

  event(name: string, attributes: Readonly<Record<string, string | number | boolean>>): void {
    if (this.#span.sampled) this.#span.event(name, this.#now(), { ...attributes })
  }

  content(which: "input" | "output", content: unknown): void {
    if (!this.takesContent) return
    const json = JSON.stringify(content)
    this.#span.attribute(
      `gen_ai.${which}.messages`,
      json.length > maxContent ? `[left out: ${json.length} characters]` : json
    )
  }

  end(record: UsageRecord): void {
    const { errorCode, outcome } = record
    if (this.#span.sampled) this.#tell(record)
    // A caller that leaves is no failure of the gateway's.
    const isFailed = outcome === "failed" || outcome === "blocked"
    this.#span.end(this.#now(), isFailed ? failureOf(errorCode ?? "internal_error") : Exit.void)
  }

  #tell(record: UsageRecord): void {
    const span = this.#span
    const exchange = this.#exchange
    const { attempts, dropped, heldBackFor, skipped } = exchange
    if (exchange.fallbackUsed) {
      this.event("llm_gateway.fallback", {
        "llm_gateway.model.preferred": exchange.preferred?.id ?? "",
        "gen_ai.response.model": exchange.model?.id ?? ""
      })
    }
    if (heldBackFor.length > 0) {
      this.event("llm_gateway.hold_back", { "llm_gateway.interceptors": heldBackFor.join(",") })
    }
    const { usage } = record
    const attributes: ReadonlyArray<readonly [string, string | number | boolean | undefined]> = [
      ["gen_ai.operation.name", operationNames[exchange.operation]],
      ["gen_ai.provider.name", record.provider],
      ["gen_ai.request.model", record.modelAsked],
      ["gen_ai.response.model", record.modelUsed],
      ["gen_ai.response.finish_reasons", record.finishReason],
      ["gen_ai.conversation.id", record.conversationId],
      ["gen_ai.usage.input_tokens", totalInput(usage)],
      ["gen_ai.usage.output_tokens", totalOutput(usage)],
      ["gen_ai.usage.cache_read.input_tokens", usage.cacheReadTokens],
      ["gen_ai.usage.cache_creation.input_tokens", totalCacheWrite(usage) === 0 ? undefined : totalCacheWrite(usage)],
      ["gen_ai.usage.reasoning.output_tokens", usage.reasoningTokens],
      ["gen_ai.server.time_to_first_token", record.firstTokenMs === undefined ? undefined : record.firstTokenMs / 1000],
      ["error.type", record.errorCode],
      ["llm_gateway.request_id", record.requestId],
      ["llm_gateway.tenant", record.tenant],
      ["llm_gateway.user", record.user],
      ["llm_gateway.key_id", record.keyId],
      ["llm_gateway.streamed", record.streamed],
      ["llm_gateway.outcome", record.outcome],
      ["llm_gateway.attempts", attempts.length],
      ["llm_gateway.cost_usd", usage.costEstimate],
      ["llm_gateway.usage_estimated", record.estimatedBecause],
      ["llm_gateway.overhead_ms", record.overheadMs],
      ["llm_gateway.dropped_params", dropped.length === 0 ? undefined : dropped.join(",")],
      ["llm_gateway.skipped_models", skipped.length === 0 ? undefined : skipped.length]
    ]
    for (const [name, value] of attributes) if (value !== undefined) span.attribute(name, value)
  }

  /** Unix ns, by the exchange's clocks: the wall's when it began, and the monotonic one since. */
  #now(): bigint {
    return nanos(this.#exchange.startedAt + this.#exchange.elapsed())
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Interceptors' verdicts
// ---------------------------------------------------------------------------------------------------------------------

const traced = new WeakMap<InterceptorContext, RequestTrace>()

/** From now on, the verdicts of interceptors in this context are events of the trace. */
export const followVerdicts = (context: InterceptorContext, trace: RequestTrace): void => {
  traced.set(context, trace)
}

/** An interceptor has changed or stopped something; `reason` stays out, since it may quote what was asked. */
export const tellVerdict = (context: InterceptorContext, interceptor: string, verdict: "modify" | "block"): void =>
  traced.get(context)?.event("llm_gateway.interceptor", { "llm_gateway.interceptor": interceptor, verdict })
