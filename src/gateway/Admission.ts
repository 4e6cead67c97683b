/**
 * Whether a request may go to a provider: rate limits, and the money for its worst case. Everything that is taken here is
 * noted in the exchange, and given back or put right by accounting, on every exit.
 *
 * All stores are asked at once, so that with remote ones a request waits for one round trip. Where interceptors look at
 * the request first, which may cost more than the request itself, its own limit comes before them.
 */
import { Clock, Effect } from "effect"
import type { AuditTrail } from "../sdk/AuditSink.ts"
import type { Balance, BudgetAccount, Budgets, Settlement } from "../sdk/Budgets.ts"
import type { Windows } from "../sdk/BudgetWindow.ts"
import { BudgetExceeded, fail, type GatewayError } from "../sdk/GatewayError.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import { isPriced, usd } from "../sdk/Pricing.ts"
import { ProviderError } from "../sdk/Provider.ts"
import type { ConcurrencyDemand, RateDemand, RateLevel, RateLimits } from "../sdk/RateLimits.ts"
import type { TenantPolicy, Tenants } from "../sdk/Tenant.ts"
import { eventOf } from "./AuditEvents.ts"
import type { Exchange } from "./Exchange.ts"
import * as Limits from "./Limits.ts"
import type { Asked, Operation } from "./Operation.ts"
import type { Candidate, Plan } from "./Plan.ts"
import type { Hold } from "./Taken.ts"
import { type Prompt, worstCase } from "./WorstCase.ts"

/** What a request to a model without a known price counts as against budgets. */
export type UnknownPrice =
  /** It is refused where a budget would have to pay for it. */
  | "deny_if_budgeted"
  | "free"
  /** Each request costs this much, integer nano-USD. */
  | { readonly flatNanoUsd: number }

/** What admission is built on; a store that is not there limits nothing. */
export interface AdmissionOptions {
  readonly tenants: Tenants["Service"] | undefined
  readonly limits: RateLimits["Service"] | undefined
  readonly budgets: Budgets["Service"] | undefined
  readonly audit: AuditTrail["Service"] | undefined
  readonly windows: Windows
  readonly unknownPrice: UnknownPrice
  /** Shares of a budget at whose spending a warning is given, 0 to 1. */
  readonly warnAt: ReadonlyArray<number>
  /** Whether stores are asked over a network, and so better at the same time than one after another. */
  readonly isRemote: boolean
  /** Places and reservations outlive a request's own deadline by this much, ms: it may be late in noticing. */
  readonly graceMs: number
}

/** What the limits and budgets of one gateway say. */
export interface Admission {
  /** What binds the exchange's caller. */
  readonly bindings: (exchange: Exchange) => Limits.Bindings
  /** Takes the request itself from its limits. Fails with `rate_limited` and `store_unavailable`. */
  readonly countRequest: (
    exchange: Exchange,
    bindings: Limits.Bindings
  ) => Effect.Effect<void, GatewayError>
  /**
   * Takes what the request may need at most, and the request itself where that has not been done. Gives the plan without
   * the candidates that no budget may pay for. The request's tools have their schemas. Fails with `rate_limited`, `budget_exceeded` and `store_unavailable`.
   */
  readonly admit: <Request extends Asked>(
    exchange: Exchange,
    operation: Operation<Request>,
    bindings: Limits.Bindings,
    plan: Plan,
    request: Request
  ) => Effect.Effect<Plan, GatewayError>
  /**
   * Takes what the limits of a candidate's own model ask for, where that is not the one that was admitted. Fails as a target
   * does that was not asked, so that the next one has its turn.
   */
  readonly admitCandidate: <Request extends Asked>(
    exchange: Exchange,
    operation: Operation<Request>,
    bindings: Limits.Bindings,
    plan: Plan,
    request: Request,
    candidate: Candidate
  ) => Effect.Effect<void, ProviderError>
  /** Puts the limits right after the request; `tokens` is what it consumed. Gives what is left to settle. */
  readonly finish: (
    exchange: Exchange,
    tokens: number,
    costs: ReadonlyArray<ModelCost>
  ) => Effect.Effect<ReadonlyArray<Settlement>>
  /** How the budgets of a caller stand. Fails with `store_unavailable`. */
  readonly balances: (exchange: Exchange) => Effect.Effect<ReadonlyArray<Balance>, GatewayError>
}

/** What a request cost with one model, nano-USD. */
export interface ModelCost {
  readonly model: string
  readonly costNanoUsd: number
}

/** Answers whose length the request does not bound are taken for this long by the limits of tokens. */
const usualAnswer = 1_000
/** Warnings that are remembered; beyond that some may come twice. */
const maxWarned = 10_000

const noDemands: ReadonlyArray<RateDemand> = []
const noPlaces: ReadonlyArray<ConcurrencyDemand> = []
const noLineage: ReadonlyArray<TenantPolicy> = []

/** Nano-USD as the stores take them: one figure that is none would keep back all that is settled with it, for good. */
const addMoney = (one: number, other: number): number => Math.min(Number.MAX_SAFE_INTEGER, one + other)

/** Whether the model's prices say what the request will cost. */
const hasPrice = <Request extends Asked>(
  { expected }: Operation<Request>,
  request: Request,
  { prices }: ModelInfo
): boolean => prices !== undefined && (expected === undefined || isPriced(expected(request, prices, 1, 1), prices))

/** The plan without the models whose price nobody knows. */
const pricedOnly = <Request extends Asked>(
  operation: Operation<Request>,
  request: Request,
  plan: Plan
): Plan | undefined => {
  const isKnown = ({ model }: Candidate): boolean => hasPrice(operation, request, model)
  if (plan.candidates.every(isKnown)) return plan
  const [first, ...others] = plan.candidates.filter(isKnown)
  if (first === undefined) return undefined
  const left = plan.candidates.filter((candidate) => !isKnown(candidate))
  return {
    ...plan,
    candidates: [first, ...others],
    skipped: [...plan.skipped, ...left.map(({ model }) => ({ model: model.id, reason: "no known price" }))],
    strategy: others.length === 0 ? "sequential" : plan.strategy
  }
}

const noPrice = ({ candidates: [{ model }] }: Plan): GatewayError =>
  fail(
    new BudgetExceeded({
      message: `no price is known for ${model.id}, so that no budget can pay for it; ` +
        "the operator can set one under models, or let such models pass by defaults.unknown_price",
      budget: "unknown price"
    })
  )

/** What the limits of tokens take before anything is known of the answer. */
const expectedTokens = <Request extends Asked>(
  operation: Operation<Request>,
  request: Request,
  model: ModelInfo,
  inputTokens: number
): number => {
  const longest = operation.longestAnswer(request, model)
  return inputTokens + (operation.outputTokens(request) === undefined ? Math.min(longest, usualAnswer) : longest)
}

/** Candidates by model, each once: retries may go to any of them. */
const modelsOf = (plan: Plan): ReadonlyArray<string> =>
  Array.from(new Set(plan.candidates.map(({ model }) => model.id)))

/** Makes the admission over the given stores. */
export const make = (options: AdmissionOptions): Admission => {
  const { audit, budgets, graceMs, isRemote, limits, tenants, unknownPrice, warnAt, windows } = options
  /** Warnings that were given, by account and share. */
  const warned = new Set<string>()

  const known = new Limits.BindingsCache()
  const bindingsOf = ({ caller }: Exchange): Limits.Bindings =>
    known.of(tenants?.lineage(caller.tenant) ?? noLineage, caller)

  const hit = (exchange: Exchange) => (error: GatewayError): Effect.Effect<void> =>
    Effect.sync(() => {
      if (audit === undefined || (error.code !== "rate_limited" && error.code !== "budget_exceeded")) return
      audit.emit(eventOf(exchange, "limit_hit", {
        code: error.code,
        model: exchange.modelAsked,
        ...(error.reason._tag === "BudgetExceeded" ? { budget: error.reason.budget } : {})
      }))
    })

  /** A refused caller, too, reads of the limit that it has used up. */
  const shows = (exchange: Exchange) => ({ reason }: GatewayError): Effect.Effect<void> =>
    Effect.sync(() => {
      if (reason._tag !== "RateLimited" || reason.limit === undefined) return
      exchange.rateLevels = [...exchange.rateLevels, reason.limit]
    })

  /** Warns once for each share of an account that is spent. */
  const warn = (exchange: Exchange, balances: ReadonlyArray<Balance>): void => {
    if (audit === undefined || !audit.isActive()) return
    for (const { account, spentNanoUsd } of balances) {
      for (const share of warnAt) {
        if (account.limitNanoUsd <= 0 || spentNanoUsd < account.limitNanoUsd * share) continue
        const warning = `${share}|${account.key}`
        if (warned.has(warning)) continue
        if (warned.size >= maxWarned) warned.clear()
        warned.add(warning)
        audit.emit(eventOf(exchange, "budget_warning", {
          budget: account.name,
          share,
          spent_usd: usd(spentNanoUsd),
          limit_usd: usd(account.limitNanoUsd)
        }))
      }
    }
  }

  const take = (
    store: RateLimits["Service"],
    exchange: Exchange,
    demands: ReadonlyArray<RateDemand>
  ): Effect.Effect<ReadonlyArray<RateLevel>, GatewayError> =>
    Effect.map(Effect.tapError(store.take(demands), shows(exchange)), (levels) => {
      exchange.rateLevels = exchange.rateLevels.length === 0 ? levels : [...exchange.rateLevels, ...levels]
      return levels
    })

  /** As `take`, with the estimates of tokens noted, to be put right. */
  const takeNoted = (
    store: RateLimits["Service"],
    exchange: Exchange,
    demands: ReadonlyArray<RateDemand>
  ): Effect.Effect<void, GatewayError> =>
    Effect.map(take(store, exchange, demands), (levels) => {
      const tokens = demands.filter(({ kind }) => kind === "tokens")
      if (tokens.length === 0) return
      const { taken } = exchange
      // A store that lets requests pass while it is away has taken nothing.
      const noted = levels.length === 0 ? tokens.map((demand) => ({ ...demand, amount: 0 })) : tokens
      taken.tokens = taken.tokens.length === 0 ? noted : [...taken.tokens, ...noted]
    })

  const enter = (
    store: RateLimits["Service"],
    exchange: Exchange,
    demands: ReadonlyArray<ConcurrencyDemand>,
    lastsMs: number
  ): Effect.Effect<void, GatewayError> | undefined => {
    if (demands.length === 0) return undefined
    return store.occupy(demands, lastsMs + graceMs, (leave) => {
      exchange.taken.places.push(leave)
    })
  }

  const reserve = <Request extends Asked>(
    store: Budgets["Service"],
    exchange: Exchange,
    operation: Operation<Request>,
    bindings: Limits.Bindings,
    plan: Plan,
    request: Request,
    prompt: Prompt,
    now: number
  ): ReadonlyArray<Effect.Effect<void, GatewayError>> => {
    const flat = typeof unknownPrice === "object" ? unknownPrice.flatNanoUsd * plan.attempts : 0
    const holds: Array<Hold & { readonly amountNanoUsd: number }> = []
    const hold = (
      id: string,
      accounts: ReadonlyArray<BudgetAccount>,
      candidates: ReadonlyArray<Candidate>,
      model?: string
    ) => {
      if (accounts.length === 0) return
      holds.push({
        id,
        accounts,
        amountNanoUsd: addMoney(worstCase(operation, request, plan, candidates, prompt), flat),
        ...(model === undefined ? {} : { model })
      })
    }
    hold(exchange.recordId, bindings.accounts(exchange.tags, windows, now), plan.candidates)
    for (const model of modelsOf(plan)) {
      hold(
        `${exchange.recordId}#${Limits.fitForKey(model)}`,
        bindings.accountsOfModel(model, windows, now),
        plan.candidates.filter((candidate) => candidate.model.id === model),
        model
      )
    }
    // Noted before the store is asked: where its answer gets lost, the hold is given back all the same.
    exchange.taken.holds = holds
    const expiresAt = now + (operation.lastsMs ?? plan.timeouts.total) + graceMs
    return holds.map(({ accounts, amountNanoUsd, id }) =>
      Effect.map(store.reserve({ id, accounts, amountNanoUsd, expiresAt }), (balances) => warn(exchange, balances))
    )
  }

  const countRequest = (
    exchange: Exchange,
    bindings: Limits.Bindings
  ): Effect.Effect<void, GatewayError> => {
    if (limits === undefined || bindings.isEmpty) return Effect.void
    const demands = bindings.requests
    exchange.taken.isCounted = true
    return demands.length === 0
      ? Effect.void
      : Effect.asVoid(Effect.tapError(take(limits, exchange, demands), hit(exchange)))
  }

  const admit = Effect.fnUntraced(function*<Request extends Asked>(
    exchange: Exchange,
    operation: Operation<Request>,
    bindings: Limits.Bindings,
    planned: Plan,
    request: Request
  ): Effect.fn.Return<Plan, GatewayError> {
    if (bindings.isEmpty) return planned
    const budgeted = budgets !== undefined && bindings.hasBudgets
    const plan = budgeted && unknownPrice === "deny_if_budgeted" ? pricedOnly(operation, request, planned) : planned
    if (plan === undefined) {
      const error = noPrice(planned)
      yield* hit(exchange)(error)
      return yield* error
    }
    const counted = bindings.countsTokens
    const inputTokens = counted || budgeted ? operation.inputTokens(request) : 0
    const { model } = plan.candidates[0]
    const asked: Array<Effect.Effect<void, GatewayError>> = []
    if (limits !== undefined) {
      const { taken } = exchange
      const tokens = counted ? expectedTokens(operation, request, model, inputTokens) : 0
      const demands = [
        ...(taken.isCounted ? noDemands : bindings.requests),
        ...bindings.ofModel(model.id, "requests", 1),
        ...bindings.tokens(tokens),
        ...bindings.ofModel(model.id, "tokens", tokens)
      ]
      taken.isCounted = true
      taken.models.add(model.id)
      if (demands.length > 0) asked.push(takeNoted(limits, exchange, demands))
      const places = operation.isPart === true
        ? noPlaces
        : bindings.hasModelLimits
        ? [...bindings.places, ...bindings.placesOfModel(model.id)]
        : bindings.places
      const entered = enter(limits, exchange, places, operation.lastsMs ?? plan.timeouts.total)
      if (entered !== undefined) asked.push(entered)
    }
    if (budgeted) {
      const now = (yield* Clock.Clock).currentTimeMillisUnsafe()
      const prompt = { estimated: inputTokens, most: operation.mostInputTokens(request) }
      asked.push(...reserve(budgets, exchange, operation, bindings, plan, request, prompt, now))
    }
    const [only] = asked
    if (only === undefined) return plan
    yield* Effect.tapError(
      asked.length === 1
        ? only
        : Effect.all(asked, isRemote ? { concurrency: "unbounded", discard: true } : { discard: true }),
      hit(exchange)
    )
    return plan
  })

  const admitModel = Effect.fnUntraced(function*<Request extends Asked>(
    store: RateLimits["Service"],
    exchange: Exchange,
    operation: Operation<Request>,
    bindings: Limits.Bindings,
    plan: Plan,
    request: Request,
    { model, provider }: Candidate
  ): Effect.fn.Return<void, ProviderError> {
    const tokens = bindings.countsTokens
      ? expectedTokens(operation, request, model, operation.inputTokens(request))
      : 0
    const demands = [...bindings.ofModel(model.id, "requests", 1), ...bindings.ofModel(model.id, "tokens", tokens)]
    const places = bindings.placesOfModel(model.id)
    const asked = demands.length === 0 ? Effect.void : takeNoted(store, exchange, demands)
    const entered = enter(store, exchange, places, operation.lastsMs ?? plan.timeouts.total)
    yield* (entered === undefined ? asked : Effect.andThen(asked, entered)).pipe(
      Effect.tapError(hit(exchange)),
      Effect.mapError(({ code, message }) => {
        exchange.skipped = [...exchange.skipped, { model: model.id, reason: code }]
        return new ProviderError({ provider: provider.slug, kind: "quota", message, code, refused: true })
      })
    )
    exchange.taken.models.add(model.id)
  })

  const admitCandidate: Admission["admitCandidate"] = (exchange, operation, bindings, plan, request, candidate) =>
    limits === undefined || exchange.taken.models.has(candidate.model.id) || !bindings.hasModelLimits
      ? Effect.void
      : admitModel(limits, exchange, operation, bindings, plan, request, candidate)

  const finish = (
    exchange: Exchange,
    tokens: number,
    costs: ReadonlyArray<ModelCost>
  ): Effect.Effect<ReadonlyArray<Settlement>> => {
    const { taken } = exchange
    const settlements = taken.holds.map(({ accounts, id, model }): Settlement => ({
      id,
      accounts,
      actualNanoUsd: costs.reduce(
        (sum, cost) => model === undefined || cost.model === model ? addMoney(sum, cost.costNanoUsd) : sum,
        0
      )
    }))
    return taken.places.length === 0 && taken.tokens.length === 0 && taken.isCounted
      ? Effect.succeed(settlements)
      : Effect.as(putRight(limits, exchange, bindingsOf(exchange), tokens), settlements)
  }

  const balances = (exchange: Exchange): Effect.Effect<ReadonlyArray<Balance>, GatewayError> =>
    budgets === undefined
      ? Effect.succeed([])
      : Effect.clockWith((clock) =>
        budgets.balances(bindingsOf(exchange).accounts(exchange.tags, windows, clock.currentTimeMillisUnsafe()))
      )

  return { bindings: bindingsOf, countRequest, admit, admitCandidate, finish, balances }
}

/** Gives places back, and to each bucket of tokens the difference between what was taken and what was consumed. */
const putRight = Effect.fnUntraced(function*(
  limits: RateLimits["Service"] | undefined,
  exchange: Exchange,
  bindings: Limits.Bindings,
  consumed: number
): Effect.fn.Return<void> {
  const { taken } = exchange
  for (const leave of taken.places) yield* leave
  if (limits === undefined || bindings.isEmpty) return
  // A request that was refused before its limits were asked is a request all the same.
  if (!taken.isCounted) {
    return bindings.requests.length === 0 ? undefined : yield* limits.correct(bindings.requests)
  }
  if (taken.tokens.length === 0) return
  const needed = corrections(taken.tokens, bindings, exchange.model?.id ?? "", consumed)
  if (needed.length > 0) yield* limits.correct(needed)
})

/** What is to be put right in each bucket of tokens, after a request that `served` has served. */
const corrections = (
  taken: ReadonlyArray<RateDemand>,
  bindings: Limits.Bindings,
  served: string,
  consumed: number
): ReadonlyArray<RateDemand> => {
  if (!bindings.hasModelLimits) {
    const found: Array<RateDemand> = []
    // Estimates were taken from the very buckets that the truth comes from.
    for (const { amount, key, kind, limit, name, windowMs } of taken) {
      if (amount !== consumed) found.push({ key, name, kind, limit, windowMs, amount: consumed - amount })
    }
    return found
  }
  const byKey = new Map(taken.map((demand) => [demand.key, { ...demand, amount: -demand.amount }]))
  // A limit by model is the limit of the model that served, which need not be the one that was planned.
  for (const demand of [...bindings.tokens(consumed), ...bindings.ofModel(served, "tokens", consumed)]) {
    const known = byKey.get(demand.key)
    byKey.set(demand.key, known === undefined ? demand : { ...known, amount: known.amount + consumed })
  }
  return Array.from(byKey.values()).filter(({ amount }) => amount !== 0)
}
