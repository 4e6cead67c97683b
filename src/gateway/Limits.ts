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
interface Owner {
  /** Unique among all owners. */
  readonly id: string
  /** As callers read it: `tenant acme`, `key k1`. */
  readonly label: string
  readonly restrictions: Restrictions
}

/** All that declare limits for a caller, the caller's own tenant first. */
const ownersOf = (lineage: ReadonlyArray<TenantPolicy>, caller: Caller): ReadonlyArray<Owner> => {
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
const joined = (...names: ReadonlyArray<string>): string => {
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

/** Demands of no limits. */
const none: ReadonlyArray<never> = []

/** The buckets of some limits; those of a model's own for one model, all others for none. */
const rateDemands = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  model: string | undefined,
  kind: "requests" | "tokens",
  amount: number
): ReadonlyArray<RateDemand> => {
  const demands: Array<RateDemand> = []
  for (const { id, label, restrictions } of owners) {
    for (const rule of restrictions.rateLimits) {
      if (rule.kind !== kind || (rule.per === "model") !== (model !== undefined)) continue
      put(demands, {
        key: `${joined(id)}|${rule.per}|${kind}|${rule.windowMs}|${subjectOf(rule.per, caller, model ?? "")}`,
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

const placeDemands = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  model: string | undefined
): ReadonlyArray<ConcurrencyDemand> => {
  const demands: Array<ConcurrencyDemand> = []
  for (const { id, label, restrictions } of owners) {
    for (const rule of restrictions.rateLimits) {
      if (rule.kind !== "concurrent" || (rule.per === "model") !== (model !== undefined)) continue
      put(demands, {
        key: `${joined(id)}|${rule.per}|concurrent|${subjectOf(rule.per, caller, model ?? "")}`,
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

/** Accounts, and for how long their windows are those of now, Unix ms. */
interface Accounts {
  readonly accounts: ReadonlyArray<BudgetAccount>
  readonly since: number
  readonly until: number
}

const noAccounts: Accounts = { accounts: [], since: Infinity, until: -Infinity }

/**
 * What binds one caller: the limits and budgets of all owners as the stores know them. It is put together once for all
 * requests of that caller, as far as it is the same for all of them.
 */
export class Bindings {
  readonly #owners: ReadonlyArray<Owner>
  readonly #caller: Caller
  /** Whether nothing is limited at all. */
  readonly isEmpty: boolean
  /** Whether any limit counts tokens. */
  readonly countsTokens: boolean
  readonly hasBudgets: boolean
  /** Whether there are limits of single models. */
  readonly hasModelLimits: boolean
  readonly #hasModelBudgets: boolean
  readonly #hasTagBudgets: boolean
  /** The buckets from which each request takes one, whatever its model. */
  readonly requests: ReadonlyArray<RateDemand>
  readonly #tokens: ReadonlyArray<RateDemand>
  readonly #places: ReadonlyArray<ConcurrencyDemand>
  #accounts = noAccounts

  constructor(owners: ReadonlyArray<Owner>, caller: Caller) {
    this.#owners = owners
    this.#caller = caller
    this.isEmpty = owners.length === 0
    const limits = owners.flatMap(({ restrictions }) => restrictions.rateLimits)
    const budgets = owners.flatMap(({ restrictions }) => restrictions.budgets)
    this.countsTokens = limits.some(({ kind }) => kind === "tokens")
    this.hasModelLimits = limits.some(({ per }) => per === "model")
    this.hasBudgets = budgets.length > 0
    this.#hasModelBudgets = budgets.some(({ per }) => per === "model")
    this.#hasTagBudgets = budgets.some(({ per }) => per === "tag")
    this.requests = rateDemands(owners, caller, undefined, "requests", 1)
    this.#tokens = rateDemands(owners, caller, undefined, "tokens", 0)
    this.#places = placeDemands(owners, caller, undefined)
  }

  /** The buckets that tokens come from, whatever the model. */
  tokens(amount: number): ReadonlyArray<RateDemand> {
    return this.#tokens.map(({ key, kind, limit, name, windowMs }) => ({ key, name, kind, limit, windowMs, amount }))
  }

  /** The buckets of one model that requests or tokens come from. */
  ofModel(model: string, kind: "requests" | "tokens", amount: number): ReadonlyArray<RateDemand> {
    return this.hasModelLimits ? rateDemands(this.#owners, this.#caller, model, kind, amount) : none
  }

  /** The groups among which a request runs, whatever its model. */
  get places(): ReadonlyArray<ConcurrencyDemand> {
    return this.#places
  }

  /** The groups of one model among which a request runs. */
  placesOfModel(model: string): ReadonlyArray<ConcurrencyDemand> {
    return this.hasModelLimits ? placeDemands(this.#owners, this.#caller, model) : none
  }

  /** The accounts that pay for a request, those of single models apart. */
  accounts(tags: ReadonlyArray<string>, windows: Windows, now: number): ReadonlyArray<BudgetAccount> {
    const known = this.#accounts
    // A clock that jumps back finds the windows of then.
    if (!(now >= known.since && now < known.until)) {
      const accounts = budgetAccounts(this.#owners, this.#caller, windows, now)
      const until = accounts.reduce((first, { resetsAt = Infinity }) => Math.min(first, resetsAt), Infinity)
      this.#accounts = { accounts, since: now, until }
    }
    return this.#hasTagBudgets
      ? [...this.#accounts.accounts, ...tagAccounts(this.#owners, tags, windows, now)]
      : this.#accounts.accounts
  }

  /** The accounts that pay for requests to one model. */
  accountsOfModel(model: string, windows: Windows, now: number): ReadonlyArray<BudgetAccount> {
    if (!this.#hasModelBudgets) return none
    const accounts: Array<BudgetAccount> = []
    for (const owner of this.#owners) {
      for (const rule of owner.restrictions.budgets) {
        if (rule.per === "model") accounts.push(accountOf(owner, rule, joined(model), model, windows, now))
      }
    }
    return accounts
  }
}

const tagAccounts = (
  owners: ReadonlyArray<Owner>,
  tags: ReadonlyArray<string>,
  windows: Windows,
  now: number
): ReadonlyArray<BudgetAccount> => {
  const accounts: Array<BudgetAccount> = []
  for (const owner of owners) {
    for (const rule of owner.restrictions.budgets) {
      if (rule.per !== "tag") continue
      for (const tag of new Set(tags)) {
        accounts.push(accountOf(owner, rule, joined(tag), `tag ${tag}`, windows, now))
      }
    }
  }
  return accounts
}

const budgetAccounts = (
  owners: ReadonlyArray<Owner>,
  caller: Caller,
  windows: Windows,
  now: number
): ReadonlyArray<BudgetAccount> => {
  const accounts: Array<BudgetAccount> = []
  for (const owner of owners) {
    for (const rule of owner.restrictions.budgets) {
      if (rule.per === "model" || rule.per === "tag") continue
      const whose = rule.per === "user"
        ? caller.user === undefined ? "requests without a user" : `user ${caller.user}`
        : rule.per === "key" && caller.keyId !== undefined
        ? `key ${caller.keyId}`
        : ""
      accounts.push(accountOf(owner, rule, subjectOf(rule.per, caller, ""), whose, windows, now))
    }
  }
  return accounts
}

/** What binds callers of a gateway: as many as are active, and those for whom nothing has changed meanwhile. */
export class BindingsCache {
  readonly #known = new Map<string, {
    readonly lineage: ReadonlyArray<TenantPolicy>
    readonly restrictions: Restrictions | undefined
    readonly bindings: Bindings
  }>()

  /** The bindings of a caller under the policies of its tenant and that tenant's ancestors. */
  of(lineage: ReadonlyArray<TenantPolicy>, caller: Caller): Bindings {
    const { keyId = "", restrictions, tenant, user = "" } = caller
    // No header and no configuration holds a NUL.
    const key = `${tenant}\0${keyId}\0${user}`
    const known = this.#known.get(key)
    if (known !== undefined && known.lineage === lineage && known.restrictions === restrictions) return known.bindings
    const bindings = new Bindings(ownersOf(lineage, caller), caller)
    if (this.#known.size >= maxCallers) {
      const [oldest] = this.#known.keys()
      if (oldest !== undefined) this.#known.delete(oldest)
    }
    this.#known.set(key, { lineage, restrictions, bindings })
    return bindings
  }
}

/** Callers whose bindings are kept, some KB each at most. */
const maxCallers = 5_000
