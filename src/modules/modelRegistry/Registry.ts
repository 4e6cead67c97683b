/**
 * The model registry: what models there are, from three sources, each over the one before, field by field: the catalogue
 * that ships with the gateway, discovery, and configuration.
 *
 * All that can be worked out once is kept in a snapshot, which lives until a provider comes or goes, discovery answers,
 * or a price changes at its date. Resolving a model that was asked for before is one `Map` access.
 */
import { Clock, Effect, Layer } from "effect"
import type { Caller } from "../../sdk/Caller.ts"
import { fail, type GatewayError, ModelDeprecated, ModelNotApproved, ModelNotFound } from "../../sdk/GatewayError.ts"
import { logOf } from "../../sdk/Log.ts"
import {
  type Capability,
  modelId,
  type ModelInfo,
  type ModelStatus,
  type Prices,
  separator,
  splitModelId
} from "../../sdk/Model.ts"
import { ModelRegistry } from "../../sdk/ModelRegistry.ts"
import { type DiscoveredModel, type Provider, ProviderRegistry } from "../../sdk/Provider.ts"
import * as Catalogue from "./Catalogue.ts"
import * as Discovery from "./Discovery.ts"
import { canonicalName, isApproved } from "./ModelName.ts"

const log = logOf("models")

/** What configuration says of a model; each field that is there wins over discovery and the catalogue. */
export interface ModelOverride {
  /** Canonical: `slug::model`. */
  readonly id: string
  readonly displayName?: string
  readonly capabilities?: ReadonlyArray<Capability>
  /** Tokens, prompt and answer together. */
  readonly contextWindow?: number
  /** Tokens. */
  readonly maxOutputTokens?: number
  readonly prices?: Prices
  /** `deprecated` makes the gateway refuse the model. What vendors announce of their models never does. */
  readonly status?: ModelStatus
}

/** How the registry is set up. */
export interface ModelRegistryOptions {
  /** What configuration adds or overrides. Of two entries for one model the later one counts. */
  readonly models?: ReadonlyArray<ModelOverride>
  /** Which canonical ids a caller may use; `undefined` allows all. `compilePatterns` makes such predicates. */
  readonly approvals?: (caller: Caller) => ((modelId: string) => boolean) | undefined
  readonly discovery?: Discovery.DiscoveryOptions
}

const maxIdLength = 512
const maxShownId = 100
const maxNamed = 20
const maxHints = 5
const maxHintScan = 5000
const maxKept = 16_384

const shown = (id: string): string => id.length > maxShownId ? `${id.slice(0, maxShownId)}…` : id

const named = (names: ReadonlyArray<string>): string =>
  names.length > maxNamed
    ? `${names.slice(0, maxNamed).join(", ")} and ${names.length - maxNamed} more`
    : names.join(", ")

// ---------------------------------------------------------------------------------------------------------------------
// Building
// ---------------------------------------------------------------------------------------------------------------------

/** A model that exists, and the kind of its provider. */
interface Found {
  readonly info: ModelInfo
  readonly kind: string
}

/** The configured models of one provider, by their name there. */
type Configured = ReadonlyMap<string, ModelOverride>

const none: Configured = new Map()

/** The overrides by slug; those whose id has no slug are given apart. */
const bySlug = (
  models: ReadonlyArray<ModelOverride>
): { readonly slugs: ReadonlyMap<string, Configured>; readonly bare: ReadonlyArray<string> } => {
  const slugs = new Map<string, Map<string, ModelOverride>>()
  const bare: Array<string> = []
  for (const override of models) {
    const split = splitModelId(override.id)
    if (split === undefined || split.slug === "" || split.model === "") {
      bare.push(override.id)
      continue
    }
    const configured = slugs.get(split.slug) ?? new Map<string, ModelOverride>()
    configured.set(split.model, override)
    slugs.set(split.slug, configured)
  }
  return { slugs, bare }
}

/** Where the prices of a model come from. */
const priceIdOf = (
  id: string,
  catalogue: Catalogue.CatalogueEntry | undefined,
  discovered: DiscoveredModel | undefined,
  override: ModelOverride | undefined
): string => {
  if (override?.prices !== undefined) return `configuration:${id}`
  return discovered?.prices === undefined ? catalogue?.priceId ?? `catalogue:${id}` : `discovery:${id}`
}

const infoOf = (
  provider: Provider,
  model: string,
  catalogue: Catalogue.CatalogueEntry | undefined,
  discovered: DiscoveredModel | undefined,
  override: ModelOverride | undefined
): ModelInfo => {
  const displayName = override?.displayName ?? discovered?.displayName
  const capabilities = override?.capabilities ?? discovered?.capabilities ?? catalogue?.capabilities ??
    provider.defaultCapabilities
  const contextWindow = override?.contextWindow ?? discovered?.contextWindow ?? catalogue?.contextWindow
  const maxOutputTokens = override?.maxOutputTokens ?? discovered?.maxOutputTokens ?? catalogue?.maxOutputTokens
  const prices = override?.prices ?? discovered?.prices ?? catalogue?.prices
  return {
    id: modelId(provider.slug, model),
    provider: provider.slug,
    model,
    ...(displayName === undefined ? {} : { displayName }),
    ...(capabilities === undefined ? {} : { capabilities }),
    ...(contextWindow === undefined ? {} : { contextWindow }),
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    ...(prices === undefined
      ? {}
      : { prices, priceId: priceIdOf(modelId(provider.slug, model), catalogue, discovered, override) }),
    status: override?.status ?? "active",
    ...(discovered?.created === undefined ? {} : { created: discovered.created })
  }
}

/** Whether a model that nobody knows may be called all the same. */
const allowsUnlisted = (provider: Provider, answer: Discovery.Answer | undefined): boolean =>
  provider.unlistedModels === undefined ? answer === undefined : provider.unlistedModels === "allow"

// ---------------------------------------------------------------------------------------------------------------------
// Snapshot
// ---------------------------------------------------------------------------------------------------------------------

/** What was worked out since something last changed. */
class Snapshot {
  readonly providers: ReadonlyArray<Provider>
  readonly version: number
  /** The time for which the prices in it hold, Unix ms. */
  validFrom = -Infinity
  validUntil = Infinity
  readonly #discovery: Discovery.Discovery
  readonly #slugs = new Map<string, Provider>()
  readonly #configured = new Map<string, Configured>()
  readonly #canonical = new Map<string, Found | undefined>()
  readonly #bare = new Map<string, ReadonlyArray<Found>>()
  #listed: ReadonlyArray<Found> | undefined

  constructor(
    providers: ReadonlyArray<Provider>,
    discovery: Discovery.Discovery,
    overrides: ReadonlyMap<string, Configured>
  ) {
    this.providers = providers
    this.version = discovery.version()
    this.#discovery = discovery
    for (const provider of providers) {
      this.#slugs.set(provider.slug, provider)
      const configured = overrides.get(provider.slug) ?? none
      this.#configured.set(
        provider.slug,
        new Map(Array.from(configured, ([model, override]) => [canonicalName(provider.kind, model), override]))
      )
    }
  }

  isCurrent(providers: ReadonlyArray<Provider>, version: number, now: number): boolean {
    if (version !== this.version || now < this.validFrom || now >= this.validUntil) return false
    if (providers.length !== this.providers.length) return false
    for (let index = 0; index < providers.length; index++) {
      if (providers[index] !== this.providers[index]) return false
    }
    return true
  }

  hasProvider(slug: string): boolean {
    return this.#slugs.has(slug)
  }

  /** The model of that name at that provider, if it is known, or if unlisted ones count and the provider takes them. */
  #find(provider: Provider, asked: string, unlisted: boolean, now: number): Found | undefined {
    const model = canonicalName(provider.kind, asked)
    const answer = this.#discovery.answerOf(provider)
    const override = this.#configured.get(provider.slug)?.get(model)
    const discovered = answer?.get(model)
    const catalogue = Catalogue.lookup(provider.kind, provider.baseUrl ?? provider.slug, model, now)
    const known = override !== undefined || discovered !== undefined || catalogue?.known === true
    if (!known && !(unlisted && allowsUnlisted(provider, answer))) return undefined
    if (catalogue !== undefined) {
      this.validFrom = Math.max(this.validFrom, catalogue.validFrom)
      this.validUntil = Math.min(this.validUntil, catalogue.validUntil)
    }
    return { info: infoOf(provider, model, catalogue, discovered, override), kind: provider.kind }
  }

  /** What a canonical id means. */
  canonical(id: string, slug: string, model: string, now: number): Found | undefined {
    const kept = this.#canonical.get(id)
    if (kept !== undefined) return kept
    const provider = this.#slugs.get(slug)
    if (provider === undefined || model === "") return undefined
    const found = this.#find(provider, model, true, now)
    if (found === undefined) return undefined
    // Ids come from callers; forgetting all of them now and then is cheaper than keeping count of each.
    if (this.#canonical.size >= maxKept) this.#canonical.clear()
    this.#canonical.set(id, found)
    return found
  }

  /** What a bare id can mean: the models of that name which a provider is known to have. */
  bare(id: string, now: number): ReadonlyArray<Found> {
    const kept = this.#bare.get(id)
    if (kept !== undefined) return kept
    const candidates: Array<Found> = []
    for (const provider of this.providers) {
      const found = this.#find(provider, id, false, now)
      if (found !== undefined) candidates.push(found)
    }
    if (this.#bare.size >= maxKept) this.#bare.clear()
    this.#bare.set(id, candidates)
    return candidates
  }

  /** All configured and discovered models, sorted by id. */
  listed(now: number): ReadonlyArray<Found> {
    if (this.#listed !== undefined) return this.#listed
    const listed: Array<Found> = []
    for (const provider of this.providers) {
      const names = new Set(this.#configured.get(provider.slug)?.keys())
      for (const model of this.#discovery.answerOf(provider)?.keys() ?? []) names.add(model)
      for (const name of names) {
        const found = this.#find(provider, name, false, now)
        if (found !== undefined) listed.push(found)
      }
    }
    this.#listed = listed.sort((a, b) => a.info.id < b.info.id ? -1 : a.info.id > b.info.id ? 1 : 0)
    return this.#listed
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Refusals
// ---------------------------------------------------------------------------------------------------------------------

/** A few listed ids that resemble `id`: one name contains the other. Looks at a bounded number of models. */
const resembling = (id: string, listed: ReadonlyArray<Found>, allows: (found: Found) => boolean): Array<string> => {
  const model = (splitModelId(id)?.model ?? id).toLowerCase()
  const wanted = model.slice(model.lastIndexOf("/") + 1)
  if (wanted.length < 2) return []
  const stem = wanted.slice(0, Math.max(4, Math.ceil(wanted.length / 2)))
  const close: Array<string> = []
  const far: Array<string> = []
  const end = Math.min(listed.length, maxHintScan)
  for (let index = 0; index < end && close.length < maxHints; index++) {
    const found = listed[index]
    if (found === undefined || !allows(found)) continue
    const name = found.info.model.toLowerCase()
    if (name.includes(wanted) || wanted.includes(name)) close.push(found.info.id)
    else if (far.length < maxHints && name.includes(stem)) far.push(found.info.id)
  }
  return [...close, ...far].slice(0, maxHints)
}

const notFound = (model: string, problem: string, candidates: ReadonlyArray<string>): GatewayError =>
  fail(
    new ModelNotFound({
      message: problem,
      model: shown(model),
      ...(candidates.length === 0 ? {} : { candidates })
    })
  )

const notApproved = (id: string): GatewayError =>
  fail(new ModelNotApproved({ message: `the model ${shown(id)} is not approved for this tenant`, model: shown(id) }))

// ---------------------------------------------------------------------------------------------------------------------
// Layer
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The model registry over the registered providers. Discovery runs in the background for as long as the Layer's scope
 * lives, and does not delay its start; providers that are registered later are picked up within a second.
 *
 * A bare id means a model of that name among those that the caller may use: a tenant that is approved for one of two
 * providers need not say which. A refusal never names models that the caller may not use.
 */
export const layer = (
  options: ModelRegistryOptions = {}
): Layer.Layer<ModelRegistry, never, ProviderRegistry> =>
  Layer.effect(
    ModelRegistry,
    Effect.gen(function*() {
      const registry = yield* ProviderRegistry
      const discovery = Discovery.make(registry, options.discovery)
      const { bare, slugs } = bySlug(options.models ?? [])
      if (bare.length > 0) {
        yield* log.warning("configured models without a provider in their id (slug::model) are ignored", {
          models: bare.slice(0, maxNamed).map(shown)
        })
      }

      let kept: Snapshot | undefined
      const snapshot = (now: number): Snapshot => {
        const providers = registry.all()
        if (kept === undefined || !kept.isCurrent(providers, discovery.version(), now)) {
          kept = new Snapshot(providers, discovery, slugs)
        }
        return kept
      }

      const finish = (
        found: Found,
        allows: ((id: string) => boolean) | undefined
      ): Effect.Effect<ModelInfo, GatewayError> => {
        const { info } = found
        if (allows !== undefined && !isApproved(allows, found.kind, info.id)) return Effect.fail(notApproved(info.id))
        return info.status === "deprecated"
          ? Effect.fail(
            fail(
              new ModelDeprecated({ message: `the model ${shown(info.id)} is out of service`, model: shown(info.id) })
            )
          )
          : Effect.succeed(info)
      }

      const resolveAt = (id: string, caller: Caller, now: number): Effect.Effect<ModelInfo, GatewayError> => {
        if (id.length > maxIdLength) return Effect.fail(notFound(id, `there is no model ${shown(id)}`, []))
        const current = snapshot(now)
        const allows = options.approvals?.(caller)
        const split = splitModelId(id)
        if (split !== undefined) {
          const found = current.canonical(id, split.slug, split.model, now)
          if (found !== undefined) return finish(found, allows)
        }
        const usable = (found: Found) => allows === undefined || isApproved(allows, found.kind, found.info.id)
        if (split === undefined || !current.hasProvider(split.slug)) {
          // Fine-tuned models have `::` in their names (`ft:gpt-4o:org::id`), so an unknown slug may be none.
          const candidates = current.bare(id, now)
          const mine = candidates.filter(usable)
          const only = mine[0] ?? (candidates.length === 1 ? candidates[0] : undefined)
          if (mine.length > 1) {
            const ids = mine.map((found) => found.info.id)
            return Effect.fail(
              notFound(id, `${shown(id)} is offered by several providers; say which: ${named(ids)}`, ids)
            )
          }
          if (only !== undefined) return finish(only, allows)
          if (candidates.length > 0) return Effect.fail(notApproved(id))
        }
        if (split !== undefined && !current.hasProvider(split.slug)) {
          const providers = current.providers.map((provider) => provider.slug)
          const there = providers.length === 0 ? "none is registered" : `there are: ${named(providers)}`
          return Effect.fail(notFound(id, `there is no provider "${shown(split.slug)}" (${there})`, []))
        }
        const hints = resembling(id, current.listed(now), usable)
        const hint = hints.length === 0
          ? split === undefined && current.providers.length > 0
            ? `; write it as provider${separator}model to say whose it is`
            : ""
          : `; did you mean ${hints.join(", ")}?`
        return Effect.fail(notFound(id, `there is no model ${shown(id)}${hint}`, []))
      }

      yield* Effect.forkScoped(discovery.run)

      return ModelRegistry.of({
        resolve: (id, caller) => Clock.clockWith((clock) => resolveAt(id, caller, clock.currentTimeMillisUnsafe())),
        list: (caller) =>
          Clock.clockWith((clock) =>
            Effect.sync(() => {
              const now = clock.currentTimeMillisUnsafe()
              const allows = options.approvals?.(caller)
              const models: Array<ModelInfo> = []
              for (const found of snapshot(now).listed(now)) {
                if (allows === undefined || isApproved(allows, found.kind, found.info.id)) models.push(found.info)
              }
              return models
            })
          ),
        refresh: discovery.refresh
      })
    })
  )
