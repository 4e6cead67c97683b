/** What several processes that share one address may not keep in each one's own memory or file. */
import { Redacted } from "effect"
import type { GatewayConfig } from "./GatewayConfig.ts"
import * as Stores from "./Stores.ts"

/** Why this configuration cannot be served by several workers, each with what to do about it; empty where it can. */
export const workerProblems = (config: GatewayConfig): ReadonlyArray<string> => {
  const { audit, storage } = config
  const problems: Array<string> = []
  if (Stores.countsInMemory(config)) {
    problems.push(
      "storage.redis: each worker would count rate limits and budgets for itself, and tenants would get a multiple of them; set it"
    )
  }
  if (Redacted.value(storage.sql).startsWith("sqlite::memory:")) {
    problems.push("storage.sql: each worker would have a database of its own in memory; name a file or PostgreSQL")
  }
  if (audit.sinks.some(({ type }) => type === "jsonl")) {
    problems.push("audit.sinks: a jsonl file has one writer, because its lines are chained; use the type sql")
  }
  return problems
}
