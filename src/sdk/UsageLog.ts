/** What usage records add up to, for those who may see them. A sink that keeps its records offers it. */
import { Context, type Effect, Schema } from "effect"
import type { GatewayError } from "./GatewayError.ts"
import type { Operation } from "./Operation.ts"

/** What records can be grouped by; a record with several tags counts under each of them. */
export const UsageGroup = Schema.Literals([
  "tenant",
  "user",
  "key",
  "tag",
  "model",
  "provider",
  "operation",
  "outcome",
  "conversation",
  "hour",
  "day",
  "month"
])
export type UsageGroup = typeof UsageGroup.Type

/** Which records, and how they are added up. */
export interface UsageQuery {
  /** Unix ms, inclusive. */
  readonly from: number
  /** Unix ms, exclusive. */
  readonly to: number
  /** The tenants whose records count; `undefined` counts all. */
  readonly tenants?: ReadonlyArray<string>
  readonly user?: string
  readonly keyId?: string
  readonly tag?: string
  /** Canonical id of the model that served, or was last tried. */
  readonly model?: string
  readonly operation?: Operation
  readonly groupBy: ReadonlyArray<UsageGroup>
  /** Rows at most. */
  readonly limit: number
}

/**
 * The sum of a group, in the disjoint buckets of `Usage`. A sum beyond `Number.MAX_SAFE_INTEGER` stays there.
 */
export interface UsageRow {
  /**
   * The group's value under each of the query's `groupBy`; `null` where records have none. Times are ISO 8601 in UTC:
   * `2026-05-01T13:00:00Z`, `2026-05-01`, `2026-05`.
   */
  readonly group: Readonly<Partial<Record<UsageGroup, string | null>>>
  /** Requests; records of single attempts add tokens and cost, but no request. */
  readonly requests: number
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cacheReadTokens: number
  /** Of both lifetimes. */
  readonly cacheWriteTokens: number
  readonly inputAudioTokens: number
  readonly inputImageTokens: number
  readonly outputAudioTokens: number
  readonly outputImageTokens: number
  /** A part of `outputTokens`. */
  readonly reasoningTokens: number
  readonly images: number
  readonly characters: number
  readonly inputAudioMs: number
  readonly outputAudioMs: number
  readonly inputVideoMs: number
  readonly outputVideoMs: number
  readonly costNanoUsd: number
  /** Records that consumed something whose price is not known, so that the cost lacks them. */
  readonly unpriced: number
  /** Records whose figures are estimates. */
  readonly estimated: number
}

/** The records as they are kept. */
export class UsageLog extends Context.Service<UsageLog, {
  /**
   * What happened first comes first, and within that what cost most. Without any `groupBy` there is one row, of all that
   * was found. Fails with `store_unavailable`.
   */
  readonly aggregate: (query: UsageQuery) => Effect.Effect<ReadonlyArray<UsageRow>, GatewayError>
  /**
   * What the requests cost whose budgets were reserved under these ids, in nano-USD, records of their single attempts
   * included; one that left no record is absent. An id is a record's `id`, or `ID#MODEL` for what that model cost of it.
   * Fails with `store_unavailable`.
   */
  readonly costs: (ids: ReadonlyArray<string>) => Effect.Effect<ReadonlyMap<string, number>, GatewayError>
}>()("llm-gateway/sdk/UsageLog") {}
