/**
 * The names under which figures are told apart. Which models and tenants there are beside the configured ones is for
 * callers to say, and metrics whose number callers decide would be a way to fill the memory of whatever collects them. So
 * only models that the operator has named are told apart, and only so many tenants.
 */
import type { ModelInfo } from "../sdk/Model.ts"
import type { Routes } from "../sdk/Routes.ts"

/** A model in figures. The same object for the same model, so that it serves as the key of a `Map`. */
export interface ModelLabel {
  /** The provider's slug; `none` where no model was found. */
  readonly provider: string
  /** Canonical id; `other` for all models of that provider that are not configured, `none` where no model was found. */
  readonly model: string
}

const noModel: ModelLabel = { provider: "none", model: "none" }

/** Names models in figures. */
export class ModelLabels {
  readonly #configured: Set<string>
  /** By canonical id, and for all others of a provider by its slug, which has no `::`. */
  readonly #labels = new Map<string, ModelLabel>()

  /** Told apart are these models, by canonical or bare id, and those of the routes. */
  constructor(models: ReadonlyArray<string>, routes: Routes["Service"]) {
    this.#configured = new Set(models)
    for (const route of routes.all()) for (const { model } of route.models) this.#configured.add(model)
  }

  /** From now on these models, by canonical or bare id, are told apart, too. */
  tellApart(models: Iterable<string>): void {
    for (const model of models) this.#configured.add(model)
  }

  of(info: ModelInfo | undefined): ModelLabel {
    return info === undefined ? noModel : this.#label(info.id, info.model, info.provider)
  }

  /** As `of`, for a model that is known by its canonical id and its provider's slug. */
  named(id: string | undefined, provider: string | undefined): ModelLabel {
    if (id === undefined || provider === undefined) return noModel
    return this.#label(id, id.slice(provider.length + 2), provider)
  }

  #label(id: string, model: string, provider: string): ModelLabel {
    const known = this.#labels.get(id)
    if (known !== undefined) return known
    const isConfigured = this.#configured.has(id) || this.#configured.has(model)
    const key = isConfigured ? id : provider
    const found = this.#labels.get(key)
    if (found !== undefined) return found
    const made: ModelLabel = { provider, model: isConfigured ? id : "other" }
    this.#labels.set(key, made)
    return made
  }
}

/** What stands for all names beyond those that are told apart. */
export const otherName = "other"
