/**
 * Which limits bind a caller: those of its tenant, of each of the tenant's ancestors, and of its key. Here policies become
 * the buckets and accounts that the stores know by name. Pure.
 *
 * A limit is counted where it is declared: a tenant's limit `per: tenant` is shared with all tenants below it, and one
 * `per: user` holds for each user of each of them. Requests that name no user share one user, so that leaving the name out
 * is no way around the limit.
 */
import { hash } from "node:crypto"
import type { Caller } from "../sdk/Caller.ts"
import type { BudgetAccount } from "../sdk/Budgets.ts"
import type { Windows } from "../sdk/BudgetWindow.ts"
import type { ConcurrencyDemand, RateDemand } from "../sdk/RateLimits.ts"
import type { BudgetRule, LimitScope, Restrictions, TenantPolicy } from "../sdk/Tenant.ts"

/** Who declared some limits. */
export interface Owner {
  /** Unique among all owners. */
  readonly id: string
  /** As callers read it: `tenant acme`, `key k1`. */
  readonly label: string
  readonly restrictions: Restrictions
}

/** All that declare limits for a caller, the caller's own tenant first. */
export const ownersOf = (lineage: ReadonlyArray<TenantPolicy>, caller: Caller): ReadonlyArray<Owner> => {
  const owners: Array<Owner> = []
  for (const policy of lineage) {
    if (policy.rateLimits.length === 0 && policy.budgets.length === 0) continue
    owners.push({ id: `tenant:${policy.name}`, label: `tenant ${policy.name}`, restrictions: policy })
  }
  const { keyId, restrictions } = caller
  if (keyId !== undefined && restrictions !== undefined) {
    if (restrictions.rateLimits.length > 0 || restrictions.budgets.length > 0) {
      owners.push({ id: `key:${keyId}`, label: `key ${keyId}`, restrictions })
    }
  }
  return owners
}

const isPlain = /^[\x20-\x7e]{0,150}$/

/**
 * A name as it may stand in a key: as it is, where it is short and of common characters, so that a usage log can tell from
 * a reservation's id which model it is for; else as its hash.
 */
export const fitForKey = (name: string): string => isPlain.test(name) ? name : joined(name)

/**
 * Names of any characters, put together so that no two lists of names look the same. Stores take keys of some length and of
 * characters that every database knows, so that long and unusual names stand in them as their hashes.
 */
export const joined = (...names: ReadonlyArray<string>): string => {
  const together = names.map((name) => `${name.length}:${name}`).join("")
  return isPlain.test(together) ? together : `#${hash("sha256", together, "base64url")}`
}

/** Whose share of a limit a request takes from. */
const subjectOf = (per: LimitScope, caller: Caller, model: string): string => {
  switch (per) {
    case "tenant":
      return ""
    case "user":
      return joined(caller.tenant, caller.user ?? "")
    case "key":
      return joined(caller.tenant, caller.keyId ?? "")
    case "model":
      return joined(model)
  }
}

/** One rule for the same bucket counts: the lower. Together they would take from it twice, and two of one is too many. */
const put = <D extends { readonly key: string; readonly limit: number }>(demands: Array<D>, demand: D): void => {
  const at = demands.findIndex(({ key }) => key === demand.key)
  const known = demands[at]
  if (known === undefined) demands.push(demand)
  else if (demand.limit < known.limit) demands[at] = demand
}

/** Whether any limit of the owners counts tokens. */
export const countTokens = (owners: ReadonlyArray<Owner>): boolean =>
  owners.some(({ restrictions }) => restrictions.rateLimits.some(({ kind }) => kind === "tokens"))

/** Whether the owners have budgets. */
export const haveBudgets = (owners: ReadonlyArray<Owner>): boolean =>
  owners.some(({ restrictions }) => restrictions.budgets.length > 0)

/** The buckets that `amount` requests or tokens of this caller come from, whatever their model. */
export const sharedDemands = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  kind: "requests" | "tokens",
  amount: number
): ReadonlyArray<RateDemand> => rateDemands(owners, caller, "", kind, amount, (per) => per !== "model")

/** The buckets of one model that requests or tokens of this caller come from. */
export const modelDemands = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  model: string,
  kind: "requests" | "tokens",
  amount: number
): ReadonlyArray<RateDemand> => rateDemands(owners, caller, model, kind, amount, (per) => per === "model")

const rateDemands = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  model: string,
  kind: "requests" | "tokens",
  amount: number,
  isMeant: (per: LimitScope) => boolean
): ReadonlyArray<RateDemand> => {
  const demands: Array<RateDemand> = []
  for (const { id, label, restrictions } of owners) {
    for (const rule of restrictions.rateLimits) {
      if (rule.kind !== kind || !isMeant(rule.per)) continue
      put(demands, {
        key: `${joined(id)}|${rule.per}|${kind}|${rule.windowMs}|${subjectOf(rule.per, caller, model)}`,
        name: rule.per === "tenant" ? `${kind} of ${label}` : `${kind} per ${rule.per} of ${label}`,
        kind,
        limit: rule.limit,
        windowMs: rule.windowMs,
        amount
      })
    }
  }
  return demands
}

/** Whether the owners have limits of single models. */
export const haveModelLimits = (owners: ReadonlyArray<Owner>): boolean =>
  owners.some(({ restrictions }) => restrictions.rateLimits.some(({ per }) => per === "model"))

/** The groups among which a request of this caller with this model runs; `only` the model's own. */
export const concurrencyDemands = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  model: string,
  only?: "model"
): ReadonlyArray<ConcurrencyDemand> => {
  const demands: Array<ConcurrencyDemand> = []
  for (const { id, label, restrictions } of owners) {
    for (const rule of restrictions.rateLimits) {
      if (rule.kind !== "concurrent" || (only !== undefined && rule.per !== only)) continue
      put(demands, {
        key: `${joined(id)}|${rule.per}|concurrent|${subjectOf(rule.per, caller, model)}`,
        name: rule.per === "tenant"
          ? `concurrent requests of ${label}`
          : `concurrent requests per ${rule.per} of ${label}`,
        limit: rule.limit
      })
    }
  }
  return demands
}

const accountOf = (
  { id, label }: Owner,
  rule: BudgetRule,
  subject: string,
  whose: string,
  windows: Windows,
  now: number
): BudgetAccount => {
  const window = windows.at(rule.window, now)
  return {
    key: `${joined(id)}|${rule.per}|${rule.window}|${window.id}|${subject}`,
    name: `${rule.window} budget of ${whose === "" ? label : `${whose} (${label})`}`,
    limitNanoUsd: rule.limitNanoUsd,
    ...(window.end === undefined ? {} : { resetsAt: window.end })
  }
}

/** The accounts that pay for a request, those of single models apart. */
export const budgetAccounts = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  tags: ReadonlyArray<string>,
  windows: Windows,
  now: number
): ReadonlyArray<BudgetAccount> => {
  const accounts: Array<BudgetAccount> = []
  for (const owner of owners) {
    for (const rule of owner.restrictions.budgets) {
      switch (rule.per) {
        case "model":
          break
        case "tag":
          for (const tag of new Set(tags)) {
            accounts.push(accountOf(owner, rule, joined(tag), `tag ${tag}`, windows, now))
          }
          break
        default: {
          const whose = rule.per === "user"
            ? caller.user === undefined ? "requests without a user" : `user ${caller.user}`
            : rule.per === "key" && caller.keyId !== undefined
            ? `key ${caller.keyId}`
            : ""
          accounts.push(accountOf(owner, rule, subjectOf(rule.per, caller, ""), whose, windows, now))
        }
      }
    }
  }
  return accounts
}

/** The accounts that pay for requests to one model. */
export const modelAccounts = (
  owners: ReadonlyArray<Owner>,
  model: string,
  windows: Windows,
  now: number
): ReadonlyArray<BudgetAccount> => {
  const accounts: Array<BudgetAccount> = []
  for (const owner of owners) {
    for (const rule of owner.restrictions.budgets) {
      if (rule.per === "model") accounts.push(accountOf(owner, rule, joined(model), model, windows, now))
    }
  }
  return accounts
}
