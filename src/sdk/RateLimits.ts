/**
 * The state behind rate limits, in memory or shared by many replicas. Which limits hold for a request is decided by the
 * pipeline; a store knows buckets by their keys alone.
 */
import { Context, Effect, Scope } from "effect"
import type { GatewayError } from "./GatewayError.ts"

/** Some of what a bucket holds: requests, or tokens. */
export interface RateDemand {
  /** Names the bucket among all that the gateway has. */
  readonly key: string
  /** What the bucket is to callers, such as `requests per user`. */
  readonly name: string
  readonly kind: "requests" | "tokens"
  /** What the bucket holds when it is full; it refills at an even rate over the window. */
  readonly limit: number
  readonly windowMs: number
  readonly amount: number
}

/** A place among those that may run at the same time. */
export interface ConcurrencyDemand {
  readonly key: string
  readonly name: string
  readonly limit: number
}

/** How full a bucket is. */
export interface RateLevel {
  readonly name: string
  readonly kind: "requests" | "tokens"
  readonly limit: number
  readonly remaining: number
  /** Until the bucket is full again, ms. */
  readonly resetMs: number
}

/** The buckets. */
export class RateLimits extends Context.Service<RateLimits, {
  /**
   * Takes from all of the buckets, or from none, as where it is interrupted. Gives the levels in the order of the demands;
   * none where the store does not answer and the operator lets requests pass, of which nothing is taken then. Fails with
   * `rate_limited`, whose `retryAfterMs` is when the emptiest of them will have enough, with `store_unavailable` where the
   * store does not answer and the operator wants no request to pass uncounted, and with `overloaded` where a store in
   * memory has no room for another key.
   */
  readonly take: (demands: ReadonlyArray<RateDemand>) => Effect.Effect<ReadonlyArray<RateLevel>, GatewayError>
  /**
   * Puts an estimate right: a negative amount gives back, a positive one takes more, also of what is not there. Never
   * fails a request, and keeps none waiting.
   */
  readonly correct: (demands: ReadonlyArray<RateDemand>) => Effect.Effect<void>
  /**
   * Takes a place in each of the groups, or in none, and tells `entered` at that very moment how they are left, so that
   * no interruption loses them. A place that is not left within `leaseMs`, because its replica died, is free again. Fails as
   * `take`. `enter` does the same for a scope.
   */
  readonly occupy: (
    demands: ReadonlyArray<ConcurrencyDemand>,
    leaseMs: number,
    entered: (leave: Effect.Effect<void>) => void
  ) => Effect.Effect<void, GatewayError>
}>()("llm-gateway/sdk/RateLimits") {}

/** Takes a place in each of the groups for as long as the scope lives, or in none. Fails as `take`. */
export const enter = (
  limits: RateLimits["Service"],
  demands: ReadonlyArray<ConcurrencyDemand>,
  leaseMs: number
): Effect.Effect<void, GatewayError, Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) => {
    let leave = Effect.void
    return Effect.onExit(
      limits.occupy(demands, leaseMs, (left) => {
        leave = left
      }),
      () => Scope.addFinalizer(scope, Effect.suspend(() => leave))
    )
  })
