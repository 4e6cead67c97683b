/**
 * What is known of models without asking anyone: prices and context windows from `@pydantic/genai-prices`, capabilities
 * and output limits from `ModelFamilies.ts`.
 *
 * A price belongs to a server, not to a name. Which of the package's providers a gateway provider is, is read from its
 * base URL; a server that the package does not know has no catalogue, however familiar its models' names sound. Azure's
 * hosts fall back to the vendors' own prices, which is the package's rule for them.
 *
 * Each model is looked up in the package and compiled once; later look-ups are one `Map` access. A price that changes at
 * a date or by the hour carries the time for which it holds.
 */
import { calcPrice, findProvider, type ModelInfo, type ModelPrice, type Provider } from "@pydantic/genai-prices"
import { Result } from "effect"
import type { Capability, Price, Prices } from "../../sdk/Model.ts"
import { anthropic, familyOf, type ModelFamilies, openAi } from "./ModelFamilies.ts"

/** What the catalogue knows of one model. An absent field is not known. */
export interface CatalogueEntry {
  /** Whether it knows this very model, not only the family to which its name belongs. */
  readonly known: boolean
  readonly capabilities?: ReadonlyArray<Capability>
  /** Tokens. */
  readonly contextWindow?: number
  /** Tokens. */
  readonly maxOutputTokens?: number
  readonly prices?: Prices
  /** Whose prices they are: the package's ids of provider and model. */
  readonly priceId?: string
  /** The entry holds from here, Unix ms; `-Infinity` where nothing in it changes. */
  readonly validFrom: number
  /** The entry holds until here, Unix ms, exclusively; `Infinity` where nothing in it changes. */
  readonly validUntil: number
}

/** Kinds of provider whose models nobody sells by the token: what runs on one's own machine has no public price. */
const withoutCatalogue: ReadonlySet<string> = new Set(["ollama", "sandbox"])

/** Families by the package's provider. Azure serves both vendors' models under their own names. */
const familiesOf = new Map<string, ModelFamilies>([
  ["openai", openAi],
  ["anthropic", anthropic],
  ["azure", [...openAi, ...anthropic]]
])

/** Longer ids are not in the catalogue, and not worth remembering. */
const maxIdLength = 256
const maxEntries = 8192
const maxProviders = 256
const dayMs = 86_400_000

/** Adds to a map and drops its oldest entry when it is full. */
const remember = <V>(map: Map<string, V>, key: string, value: V, max: number): V => {
  if (map.size >= max && !map.has(key)) {
    for (const oldest of map.keys()) {
      map.delete(oldest)
      break
    }
  }
  map.set(key, value)
  return value
}

// ---------------------------------------------------------------------------------------------------------------------
// Provider
// ---------------------------------------------------------------------------------------------------------------------

const providers = new Map<string, Provider | undefined>()

const byId = (id: string): Provider | undefined => {
  // The package also matches parts of names ("my-openai-proxy"); only the very name is meant here.
  const found = findProvider({ providerId: id })
  return found?.id === id ? found : undefined
}

/** The package's patterns are open at their end; a host that merely begins like a known one is another server. */
const endsThere = (pattern: string, url: string): boolean =>
  pattern.endsWith("\\.") || new RegExp(`^(?:${pattern})(?:$|[/:?]|(?<=/))`).test(url)

const byUrl = (url: string): Provider | undefined => {
  if (!URL.canParse(url)) return undefined
  const { href } = new URL(url)
  const found = findProvider({ providerApiUrl: href })
  return found !== undefined && endsThere(found.api_pattern, href) ? found : undefined
}

const providerOf = (kind: string, hint: string | undefined): Provider | undefined => {
  if (withoutCatalogue.has(kind)) return undefined
  const key = `${kind} ${hint ?? ""}`
  if (providers.has(key)) return providers.get(key)
  const found = hint === undefined ? byId(kind) : hint.includes("://") ? byUrl(hint) : byId(hint)
  return remember(providers, key, found, maxProviders)
}

// ---------------------------------------------------------------------------------------------------------------------
// Prices
// ---------------------------------------------------------------------------------------------------------------------

const isPrice = (value: number): boolean => Number.isFinite(value) && value >= 0

const priceOf = (price: ModelPrice[string]): Price | undefined => {
  if (price === undefined) return undefined
  if (typeof price === "number") return isPrice(price) ? price : undefined
  if (!isPrice(price.base) || !price.tiers.every((tier) => isPrice(tier.price) && isPrice(tier.start))) return undefined
  return { base: price.base, tiers: price.tiers.map(({ price, start }) => ({ price, start })) }
}

const times = (price: Price, factor: number): Price =>
  typeof price === "number"
    ? price * factor
    : {
      base: price.base * factor,
      tiers: price.tiers.map((tier) => ({ start: tier.start, price: tier.price * factor }))
    }

/** What is sold by the hour of sound. */
const byTheHour = (prices: ModelPrice): Prices | undefined => {
  const hour = priceOf(prices["input_audio_hours"])
  if (typeof hour !== "number") return undefined
  // 0.36 USD an hour is 0.0001 USD a second, and not 0.00009999999999999999.
  return { inputMtok: 0, outputMtok: 0, inputAudioSecond: Number((hour / 3600).toPrecision(12)) }
}

/**
 * The package's prices as ours. Without a price for input, tokens or hours, there is none: an empty record says nothing. A
 * model without a price for output is one that has none (embeddings).
 */
const compile = (prices: ModelPrice, provider: string): Prices | undefined => {
  const inputMtok = priceOf(prices["input_mtok"])
  if (inputMtok === undefined) return byTheHour(prices)
  const cacheRead = priceOf(prices["cache_read_mtok"])
  const cacheWrite = priceOf(prices["cache_write_mtok"])
  // Anthropic charges a write that lives for an hour at twice the input price:
  // https://docs.claude.com/en/docs/build-with-claude/prompt-caching
  const cacheWrite1h = priceOf(prices["cache_write_1h_mtok"]) ??
    (provider === "anthropic" && cacheWrite !== undefined ? times(inputMtok, 2) : undefined)
  const inputAudio = priceOf(prices["input_audio_mtok"])
  const inputImage = priceOf(prices["input_image_mtok"])
  const outputAudio = priceOf(prices["output_audio_mtok"])
  const outputImage = priceOf(prices["output_image_mtok"])
  const requests = priceOf(prices["requests_kcount"])
  return {
    inputMtok,
    outputMtok: priceOf(prices["output_mtok"]) ?? 0,
    ...(cacheRead === undefined ? {} : { cacheReadMtok: cacheRead }),
    ...(cacheWrite === undefined ? {} : { cacheWriteMtok: cacheWrite }),
    ...(cacheWrite1h === undefined ? {} : { cacheWrite1hMtok: cacheWrite1h }),
    ...(inputAudio === undefined ? {} : { inputAudioMtok: inputAudio }),
    ...(inputImage === undefined ? {} : { inputImageMtok: inputImage }),
    ...(outputAudio === undefined ? {} : { outputAudioMtok: outputAudio }),
    ...(outputImage === undefined ? {} : { outputImageMtok: outputImage }),
    ...(typeof requests === "number" ? { requestsKcount: requests } : {})
  }
}

/** For how long around `now` the prices that hold now will hold. */
const validity = (model: ModelInfo, now: number): { readonly validFrom: number; readonly validUntil: number } => {
  let validFrom = -Infinity
  let validUntil = Infinity
  const boundary = (at: number) => {
    if (at <= now) validFrom = Math.max(validFrom, at)
    else validUntil = Math.min(validUntil, at)
  }
  if (!Array.isArray(model.prices)) return { validFrom, validUntil }
  for (const { constraint } of model.prices) {
    if (constraint === undefined) continue
    if (constraint.type === "start_date") {
      boundary(Date.parse(constraint.start_date))
    } else {
      for (const time of [constraint.start_time, constraint.end_time]) {
        const today = Math.floor(now / dayMs) * dayMs + (Date.parse(`1970-01-01T${time}`) + dayMs) % dayMs
        boundary(today)
        boundary(today <= now ? today + dayMs : today - dayMs)
      }
    }
  }
  return { validFrom, validUntil }
}

// ---------------------------------------------------------------------------------------------------------------------
// Look-up
// ---------------------------------------------------------------------------------------------------------------------

const entries = new Map<string, CatalogueEntry | undefined>()

const build = (provider: Provider, model: string, now: number): CatalogueEntry | undefined => {
  // Google's OpenAI-compatible endpoint lists its models as resource names.
  const id = provider.id === "google" && model.startsWith("models/") ? model.slice("models/".length) : model
  // The package throws on data that it finds inconsistent; such a model has no price.
  const found = Result.getOrElse(
    Result.try(() => calcPrice({}, id, { providerId: provider.id, timestamp: new Date(now) })),
    () => null
  )
  const families = familiesOf.get(provider.id)
  const family = families === undefined ? undefined : familyOf(families, id)
  if (found === null && family === undefined) return undefined
  const prices = found === null ? undefined : compile(found.model_price, found.provider.id)
  const contextWindow = family?.contextWindow ?? found?.model.context_window
  return {
    known: found !== null || family?.known === true,
    ...(family === undefined ? {} : { capabilities: family.capabilities }),
    ...(contextWindow === undefined ? {} : { contextWindow }),
    ...(family?.maxOutputTokens === undefined ? {} : { maxOutputTokens: family.maxOutputTokens }),
    ...(prices === undefined || found === null
      ? {}
      : { prices, priceId: `catalogue:${found.provider.id}/${found.model.id}` }),
    ...(found === null ? { validFrom: -Infinity, validUntil: Infinity } : validity(found.model, now))
  }
}

/**
 * What the catalogue knows of `model` at the time `now` (Unix ms), or `undefined`.
 *
 * `hint` says which server it is: its base URL (anything with `://`), else a slug, which counts only where it is the
 * very name of one of the package's providers (`groq`, `mistral`); without a hint, the vendor that `kind` is named after.
 */
export const lookup = (
  kind: string,
  hint: string | undefined,
  model: string,
  now: number
): CatalogueEntry | undefined => {
  if (model.length > maxIdLength) return undefined
  const provider = providerOf(kind, hint)
  if (provider === undefined) return undefined
  const key = `${provider.id} ${model}`
  const cached = entries.get(key)
  if (cached === undefined ? entries.has(key) : now >= cached.validFrom && now < cached.validUntil) return cached
  return remember(entries, key, build(provider, model, now), maxEntries)
}
