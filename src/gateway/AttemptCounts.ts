/**
 * How many attempts there have been, by model and outcome, since this process began: what `/metrics` tells. Counting is an
 * addition in a `Map`, so that it costs the way of a request next to nothing; they become metrics when somebody asks.
 */
import { Context, Layer } from "effect"
import type { ModelInfo } from "../sdk/Model.ts"
import { Routes } from "../sdk/Routes.ts"
import type { AttemptReport } from "./Exchange.ts"
import { type ModelLabel, ModelLabels } from "./SeriesLabels.ts"

/** The attempts of one provider with one model. */
export interface AttemptCount {
  /** The provider's slug. */
  readonly provider: string
  /** Canonical id; `other` for all models of that provider that are not configured. */
  readonly model: string
  readonly byOutcome: ReadonlyMap<AttemptReport["outcome"], number>
  /** Attempts that went well although the request's first candidate was another one. */
  readonly fallbacks: number
}

/** The counts. All of it is synchronous and cheap enough for the way of every request. */
export class AttemptCounts extends Context.Service<AttemptCounts, {
  /** An attempt is over; `isFallback` where the request's first candidate was another model. */
  readonly add: (model: ModelInfo, outcome: AttemptReport["outcome"], isFallback: boolean) => void
  /** From now on these models, by canonical or bare id, are told apart, too. */
  readonly tellApart: (models: Iterable<string>) => void
  /** What has been counted, in the order of first attempts. */
  readonly all: () => ReadonlyArray<AttemptCount>
}>()("llm-gateway/gateway/AttemptCounts") {
  /** Empty at first. Told apart are these models, by canonical or bare id, and those of the routes. */
  static readonly layer = (models: ReadonlyArray<string> = []): Layer.Layer<AttemptCounts, never, Routes> =>
    Layer.effect(AttemptCounts, Routes.useSync((routes) => make(models, routes)))
}

class Count implements AttemptCount {
  readonly provider: string
  readonly model: string
  readonly byOutcome = new Map<AttemptReport["outcome"], number>()
  fallbacks = 0

  constructor({ model, provider }: ModelLabel) {
    this.provider = provider
    this.model = model
  }
}

const make = (models: ReadonlyArray<string>, routes: Routes["Service"]): AttemptCounts["Service"] => {
  const labels = new ModelLabels(models, routes)
  const counts = new Map<ModelLabel, Count>()
  const countOf = (model: ModelInfo): Count => {
    const label = labels.of(model)
    const known = counts.get(label)
    if (known !== undefined) return known
    const made = new Count(label)
    counts.set(label, made)
    return made
  }
  return {
    add: (model, outcome, isFallback) => {
      const count = countOf(model)
      count.byOutcome.set(outcome, (count.byOutcome.get(outcome) ?? 0) + 1)
      if (isFallback && outcome === "ok") count.fallbacks++
    },
    tellApart: (models) => labels.tellApart(models),
    all: () => Array.from(counts.values())
  }
}
