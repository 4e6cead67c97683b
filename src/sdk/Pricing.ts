/**
 * What a usage costs. Pure integer arithmetic: money is an integer of nano-USD inside the gateway, and USD only at its
 * edges, so that budgets add up to the last digit.
 *
 * Prices are read as integers of pico-USD a token, character, image or millisecond. That is exact for every price with up
 * to six decimals (per million tokens or characters), nine (a second) or twelve (an image); a finer one is rounded to the
 * nearest such unit first. Products and the sum are exact, and the sum is rounded to nano-USD once, half up.
 *
 * Bounds: a total beyond `Number.MAX_SAFE_INTEGER` nano-USD (about nine million USD) saturates there. Whatever comes in,
 * the result is a non-negative safe integer: counts and prices that are negative or not numbers count as zero.
 */
import type { Price, Prices, VariantPrice } from "./Model.ts"
import { totalInput, totalOutput, type Usage } from "./Usage.ts"

const maxSafe = Number.MAX_SAFE_INTEGER
const picoPerNano = 1000
const usdPerMtokInPico = 1e6
const usdPerKcountInPico = 1e9
const usdPerSecondInPicoPerMs = 1e9
const usdInPico = 1e12

/** A non-negative safe integer from any number; NaN gives 0. */
const bounded = (value: number): number => value > 0 ? Math.min(value, maxSafe) : 0

/** A count as it may be multiplied. */
const count = (counted: number | undefined): number => counted === undefined ? 0 : Math.floor(bounded(counted))

/**
 * The price that holds for a prompt of `input` tokens: of the tiers whose `start` it exceeds, the highest one's, else the
 * base. It is charged for every token of the request, not only for those beyond `start`; so do the providers (Anthropic
 * and Google above 200,000 tokens, OpenAI above 272,000), and so does `@pydantic/genai-prices`, whose data this is.
 */
const priceAt = (price: Price, input: number): number => {
  if (typeof price === "number") return price
  let usd = price.base
  let start = -Infinity
  for (const tier of price.tiers) {
    if (input > tier.start && tier.start >= start) {
      start = tier.start
      usd = tier.price
    }
  }
  return usd
}

// ---------------------------------------------------------------------------------------------------------------------
// What is not sold by the token
// ---------------------------------------------------------------------------------------------------------------------

/** The price of one size and quality. The names may be a caller's own. */
const variantAt = (price: VariantPrice, variant: string | undefined): number => {
  if (typeof price === "number") return price
  const { base, variants } = price
  if (variant === undefined) return base
  for (const name of [variant, ...variant.split("/")]) {
    if (Object.hasOwn(variants, name)) return variants[name] ?? base
  }
  return base
}

/** The dearest size and quality of a price; undefined where that is the base. */
export const dearestVariant = (price: VariantPrice | undefined): string | undefined => {
  if (price === undefined || typeof price === "number") return undefined
  let dearest: string | undefined
  let most = price.base
  for (const [variant, usd] of Object.entries(price.variants)) {
    if (usd > most) [dearest, most] = [variant, usd]
  }
  return dearest
}

/** The buckets beside the tokens, each with its price in pico-USD a unit; undefined where it has none. */
const mediaOf = (usage: Usage, prices: Prices): ReadonlyArray<readonly [count: number, unit: number | undefined]> => {
  const unit = (price: number | undefined, inPico: number): number | undefined =>
    price === undefined ? undefined : Math.round(bounded(price * inPico))
  const image = prices.image === undefined ? undefined : variantAt(prices.image, usage.variant)
  const video = prices.outputVideoSecond === undefined ? undefined : variantAt(prices.outputVideoSecond, usage.variant)
  return [
    [count(usage.images), unit(image, usdInPico)],
    [count(usage.characters), unit(prices.characterMchar, usdPerMtokInPico)],
    [count(usage.inputAudioMs), unit(prices.inputAudioSecond, usdPerSecondInPicoPerMs)],
    [count(usage.outputAudioMs), unit(prices.outputAudioSecond, usdPerSecondInPicoPerMs)],
    [count(usage.inputVideoMs), unit(prices.inputVideoSecond, usdPerSecondInPicoPerMs)],
    [count(usage.outputVideoMs), unit(video, usdPerSecondInPicoPerMs)]
  ]
}

const hasMedia = (usage: Usage): boolean =>
  usage.images !== undefined || usage.characters !== undefined || usage.inputAudioMs !== undefined ||
  usage.outputAudioMs !== undefined || usage.inputVideoMs !== undefined || usage.outputVideoMs !== undefined

/**
 * Whether these prices say what some usage costs. Tokens always have a price; where there are none, one of the other
 * buckets that hold something needs one, or the request as such.
 */
export const isPriced = (usage: Usage, prices: Prices): boolean => {
  if (!hasMedia(usage) || totalInput(usage) + totalOutput(usage) > 0 || prices.requestsKcount !== undefined) return true
  const consumed = mediaOf(usage, prices).filter(([counted]) => counted > 0)
  return consumed.length === 0 || consumed.some(([, unit]) => unit !== undefined)
}

// ---------------------------------------------------------------------------------------------------------------------
// The cost of a request
// ---------------------------------------------------------------------------------------------------------------------

/** What part of the price is charged, as a fraction of integers, so that nothing is lost: 1/2, or 11/10 for a surcharge. */
export interface PriceFactor {
  readonly numerator: number
  readonly denominator: number
}

/** OpenAI and Anthropic both charge half for what comes through their batch APIs. */
export const batchFactor: PriceFactor = { numerator: 1, denominator: 2 }

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

/** Anything but a fraction counts as the whole price, never as nothing. */
const isFraction = ({ denominator, numerator }: PriceFactor): boolean =>
  isCount(numerator) && isCount(denominator) && denominator > 0

/**
 * The cost of one request in nano-USD, an integer.
 *
 * Each bucket is charged at its own price. A bucket of tokens without one is charged as plain input or output, a one-hour
 * cache write as a cache write first; never at zero. Images, characters and time are charged where they have a price
 * (`isPriced` tells where nothing has). Reasoning is part of `outputTokens` and not charged again. The tier is
 * chosen by the total input, cached and media tokens included. A price per request is added once, whatever the tokens:
 * do not ask for the cost of a request that never reached its provider. `factor` applies to the exact sum of it all,
 * before that is rounded.
 */
export const costNanoUsd = (
  usage: Usage,
  prices: Prices,
  options: { readonly factor?: PriceFactor } = {}
): number => {
  const input = totalInput(usage)
  const cacheWrite = prices.cacheWriteMtok ?? prices.inputMtok
  const counts = [
    count(usage.inputTokens),
    count(usage.cacheReadTokens),
    count(usage.cacheWrite5mTokens),
    count(usage.cacheWrite1hTokens),
    count(usage.inputAudioTokens),
    count(usage.inputImageTokens),
    count(usage.outputTokens),
    count(usage.outputAudioTokens),
    count(usage.outputImageTokens)
  ]
  const units = [
    prices.inputMtok,
    prices.cacheReadMtok ?? prices.inputMtok,
    cacheWrite,
    prices.cacheWrite1hMtok ?? cacheWrite,
    prices.inputAudioMtok ?? prices.inputMtok,
    prices.inputImageMtok ?? prices.inputMtok,
    prices.outputMtok,
    prices.outputAudioMtok ?? prices.outputMtok,
    prices.outputImageMtok ?? prices.outputMtok
  ].map((price) => Math.round(bounded(priceAt(price, input) * usdPerMtokInPico)))
  if (hasMedia(usage)) {
    for (const [counted, unit] of mediaOf(usage, prices)) {
      counts.push(counted)
      units.push(unit ?? 0)
    }
  }
  const request = Math.round(bounded((prices.requestsKcount ?? 0) * usdPerKcountInPico))

  // All terms are non-negative integers, so a floating sum that stays within the safe integers was exact all the way.
  let pico = request
  for (let index = 0; index < counts.length; index++) pico += (counts[index] ?? 0) * (units[index] ?? 0)
  const factor = options.factor !== undefined && isFraction(options.factor) ? options.factor : undefined
  if (factor === undefined && pico <= maxSafe - picoPerNano) {
    const rounded = pico + picoPerNano / 2
    return (rounded - rounded % picoPerNano) / picoPerNano
  }

  let exact = BigInt(request)
  for (let index = 0; index < counts.length; index++) {
    exact += BigInt(counts[index] ?? 0) * BigInt(units[index] ?? 0)
  }
  const unit = BigInt(picoPerNano) * BigInt(factor?.denominator ?? 1)
  const nano = (exact * BigInt(factor?.numerator ?? 1) + unit / 2n) / unit
  return nano > BigInt(maxSafe) ? maxSafe : Number(nano)
}

/** Nano-USD in USD, for the edges: headers, answers, reports. */
export const usd = (nano: number): number => nano / 1e9
