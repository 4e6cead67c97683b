/** From the configuration's limits and budgets to those of the sdk: USD become nano-USD, one rule becomes one kind of limit. */
import type { BudgetRule, RateLimitRule, Restrictions, TenantPolicy } from "../sdk/Tenant.ts"
import type { AuthKeyConfig, GatewayConfig, TenantConfig } from "./GatewayConfig.ts"

const nanoPerUsd = 1e9

/** USD as nano-USD, to the nearest. */
export const nanoUsd = (usd: number): number => Math.min(Number.MAX_SAFE_INTEGER, Math.round(usd * nanoPerUsd))

const rateLimitRule = (limit: TenantConfig["rateLimits"][number]): RateLimitRule => {
  const { concurrent, per, requests, tokens, window = 0 } = limit
  if (concurrent !== undefined) return { kind: "concurrent", per, limit: concurrent }
  return requests === undefined
    ? { kind: "tokens", per, limit: tokens ?? 0, windowMs: window }
    : { kind: "requests", per, limit: requests, windowMs: window }
}

const budgetRule = ({ per, usd, window }: TenantConfig["budgets"][number]): BudgetRule => ({
  per,
  limitNanoUsd: nanoUsd(usd),
  window
})

/** What a configured tenant or key may do. */
export const restrictionsOf = (
  { budgets, models, rateLimits }: Pick<AuthKeyConfig, "budgets" | "models" | "rateLimits">
): Restrictions => ({
  ...(models === undefined ? {} : { models }),
  rateLimits: rateLimits.map(rateLimitRule),
  budgets: budgets.map(budgetRule)
})

const policyOf = (name: string, tenant: TenantConfig): TenantPolicy => ({
  ...restrictionsOf(tenant),
  name,
  interceptors: tenant.interceptors,
  webhookSecrets: tenant.webhookSecrets,
  ...(tenant.parent === undefined ? {} : { parent: tenant.parent })
})

/** The configured tenants. */
export const policiesOf = (config: GatewayConfig): ReadonlyArray<TenantPolicy> =>
  Object.entries(config.tenants).map(([name, tenant]) => policyOf(name, tenant))
