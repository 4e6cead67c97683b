/**
 * What the routes are, and how a request would be served if it came now: which models would be tried, in which order, and
 * why the others would not. Nothing is sent to a provider.
 */
import { Effect, Result } from "effect"
import type { BreakerState } from "../sdk/Breakers.ts"
import { CurrentCaller, CurrentRequest } from "../sdk/Caller.ts"
import type { ChatRequest } from "../sdk/Chat.ts"
import type { CandidateInfo, Explanation, RouteInfo } from "../sdk/GatewayApi.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import { ModelRegistry } from "../sdk/ModelRegistry.ts"
import { usd } from "../sdk/Pricing.ts"
import { type Route, Routes } from "../sdk/Routes.ts"
import { chatOperation } from "./ChatOperation.ts"
import { start } from "./Exchange.ts"
import { Health } from "./Health.ts"
import type { Candidate, Plan } from "./Plan.ts"
import { estimatedNanoUsd, expectedOutput, isSick } from "./Ranking.ts"
import type { Resolve } from "./Resolution.ts"
import { estimateInput } from "./TokenEstimate.ts"

/** Answers questions about routes. Runs as the `CurrentCaller`, under the `CurrentRequest`'s options. */
export interface Explain {
  /** How a request for a route, or for a model, would be served. Fails as the request itself would before its first attempt. */
  readonly explain: (request: ChatRequest) => Effect.Effect<Explanation, GatewayError>
  /** The routes that have a model which the caller may use, with those models alone. */
  readonly routes: Effect.Effect<ReadonlyArray<RouteInfo>>
}

/** Options of `make`. */
export interface ExplainOptions {
  /** The circuit breakers as they stand, where there are any. */
  readonly breakers?: Effect.Effect<ReadonlyArray<BreakerState>>
}

/** Answers by the resolution that the requests themselves go through. */
export const make = Effect.fnUntraced(function*(
  resolve: Resolve,
  options: ExplainOptions = {}
): Effect.fn.Return<Explain, never, ModelRegistry | Routes | Health> {
  const models = yield* ModelRegistry
  const configured = yield* Routes
  const health = yield* Health

  const candidateInfo = (
    { model }: Candidate,
    breakers: ReadonlyArray<BreakerState>,
    inputTokens: number,
    outputTokens: number
  ): CandidateInfo => {
    const known = health.of(model.id)
    const cost = estimatedNanoUsd(model, inputTokens, outputTokens)
    const breaker = breakers.find(({ endpoint, provider }) => provider === model.provider && endpoint === "chat")
    return {
      model: model.id,
      provider: model.provider,
      ...(cost === undefined ? {} : { estimatedCost: usd(cost) }),
      health: {
        samples: known.samples,
        errorRate: known.errorRate,
        ...(known.firstTokenMs === undefined ? {} : { firstTokenMs: known.firstTokenMs }),
        ...(known.msPerToken === undefined ? {} : { msPerToken: known.msPerToken }),
        inFlight: known.inFlight,
        failing: isSick(known)
      },
      ...(breaker === undefined ? {} : { breaker: breaker.state })
    }
  }

  const explanation = (plan: Plan, breakers: ReadonlyArray<BreakerState>, request: ChatRequest): Explanation => {
    const inputTokens = estimateInput(request)
    const outputTokens = expectedOutput(request.maxOutputTokens)
    return {
      ...(plan.route === undefined ? {} : { route: plan.route.name }),
      ...(plan.policy === undefined ? {} : { policy: plan.policy }),
      strategy: plan.strategy,
      ...(plan.hedgeAfterMs === undefined ? {} : { hedgeAfterMs: plan.hedgeAfterMs }),
      attempts: plan.attempts,
      candidates: plan.candidates.map((candidate) => candidateInfo(candidate, breakers, inputTokens, outputTokens)),
      skipped: plan.skipped
    }
  }

  const usable = Effect.fnUntraced(function*(route: Route): Effect.fn.Return<RouteInfo> {
    const caller = yield* CurrentCaller
    const found: Array<RouteInfo["models"][number]> = []
    for (const { model, weight } of route.models) {
      const resolved = yield* Effect.result(models.resolve(model, caller))
      if (Result.isSuccess(resolved)) found.push({ model: resolved.success.id, weight })
    }
    return {
      name: route.name,
      policy: route.policy,
      models: found,
      ...(route.hedgeAfterMs === undefined ? {} : { hedgeAfterMs: route.hedgeAfterMs }),
      ...(route.attempts === undefined ? {} : { attempts: route.attempts })
    }
  })

  return {
    explain: Effect.fnUntraced(function*(request) {
      const exchange = yield* start(request.model, request.stream === true)
      const plan = yield* resolve(exchange, chatOperation, request, yield* CurrentRequest)
      return explanation(plan, options.breakers === undefined ? [] : yield* options.breakers, request)
    }),
    routes: Effect.suspend(() => Effect.forEach(configured.all(), usable)).pipe(
      Effect.map((routes) => routes.filter((route) => route.models.length > 0))
    )
  }
})
