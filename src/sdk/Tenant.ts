/**
 * Tenants: who pays, what they may use and how much of it. They form a tree. A tenant is bound by its own policy and by
 * that of each of its ancestors, so a child can only ever restrict what it inherits.
 */
import { Context, Layer, type Redacted } from "effect"

/** What a limit counts by: all of the tenant's traffic together, or each of its users, keys or models for itself. */
export type LimitScope = "tenant" | "user" | "key" | "model"

/** So many requests or tokens in a window of time. Tokens are those of prompt and answer together. */
export interface RateRule {
  readonly kind: "requests" | "tokens"
  readonly per: LimitScope
  readonly limit: number
  readonly windowMs: number
}

/** So many requests at the same time. */
export interface ConcurrencyRule {
  readonly kind: "concurrent"
  readonly per: LimitScope
  readonly limit: number
}

/** A limit of how much is asked. */
export type RateLimitRule = RateRule | ConcurrencyRule

/** When a budget starts anew, by the calendar of the configured time zone; weeks start on Monday. */
export type BudgetWindow = "hour" | "day" | "week" | "month" | "total"

/** A limit of what is spent. */
export interface BudgetRule {
  readonly per: LimitScope | "tag"
  /** Integer nano-USD. */
  readonly limitNanoUsd: number
  readonly window: BudgetWindow
}

/** What a key may do beyond, or rather short of, what its tenant may. */
export interface Restrictions {
  /** Patterns of the canonical model ids that it may use, such as `openai::*`; absent: all of the tenant's. */
  readonly models?: ReadonlyArray<string>
  readonly rateLimits: ReadonlyArray<RateLimitRule>
  readonly budgets: ReadonlyArray<BudgetRule>
}

/** A tenant's policy. */
export interface TenantPolicy extends Restrictions {
  readonly name: string
  readonly parent?: string
  /** Names of the interceptors that its requests go through, beside those of its ancestors. */
  readonly interceptors: ReadonlyArray<string>
  /** What calls to its jobs' webhooks are signed with, each of them: the new one and the old while they are changed. */
  readonly webhookSecrets?: ReadonlyArray<Redacted.Redacted>
}

/** The configured tenants. */
export class Tenants extends Context.Service<Tenants, {
  /**
   * The policies that bind a tenant: its own, then its parent's, up to the root. Empty where no tenants are configured;
   * `undefined` for a tenant that is not among those that are.
   */
  readonly lineage: (tenant: string) => ReadonlyArray<TenantPolicy> | undefined
  /** Whether `tenant` is `ancestor` or below it. */
  readonly isWithin: (tenant: string, ancestor: string) => boolean
  /** `tenant` and all those below it, in no particular order. */
  readonly family: (tenant: string) => ReadonlyArray<string>
  readonly all: () => ReadonlyArray<TenantPolicy>
}>()("llm-gateway/sdk/Tenants") {
  /** The given tenants. A parent that does not exist or that leads back to its child ends the line: configuration refuses both. */
  static readonly layer = (policies: ReadonlyArray<TenantPolicy> = []): Layer.Layer<Tenants> =>
    Layer.sync(Tenants, () => tenantsOf(policies))
}

/** The given tenants, as the Layer has them. */
export const tenantsOf = (policies: ReadonlyArray<TenantPolicy>): Tenants["Service"] => {
  const byName = new Map(policies.map((policy) => [policy.name, policy]))
  const lineages = new Map<string, ReadonlyArray<TenantPolicy>>()
  const families = new Map<string, Array<string>>()
  for (const policy of policies) {
    const line = new Set<TenantPolicy>()
    let at: TenantPolicy | undefined = policy
    while (at !== undefined && !line.has(at)) {
      line.add(at)
      const members = families.get(at.name) ?? []
      members.push(policy.name)
      families.set(at.name, members)
      at = at.parent === undefined ? undefined : byName.get(at.parent)
    }
    lineages.set(policy.name, Array.from(line))
  }
  const none: ReadonlyArray<TenantPolicy> = []
  return Tenants.of({
    lineage: (tenant) => policies.length === 0 ? none : lineages.get(tenant),
    isWithin: (tenant, ancestor) =>
      tenant === ancestor || lineages.get(tenant)?.some(({ name }) => name === ancestor) === true,
    family: (tenant) => families.get(tenant) ?? [tenant],
    all: () => policies
  })
}
