/** The headers in which every dialect's answers tell what the gateway did. */
import type { Exchange } from "../gateway/Exchange.ts"
import { usd } from "../sdk/Pricing.ts"
import type { RateLevel } from "../sdk/RateLimits.ts"

/** Header values hold visible ASCII alone; a provider's or a caller's text may hold anything. */
const headerSafe = (value: string): string => value.replace(/[^\x20-\x7e]/g, "?").slice(0, 1024)

/**
 * `x-request-id`, `x-gateway-model` (canonical id), `x-gateway-provider` (slug), `x-gateway-attempts` (each one's model,
 * outcome and time), `x-gateway-fallback-used`, `x-gateway-overhead-ms` (the gateway's own time until now), and where there is something to
 * tell `x-gateway-cost` (USD; of a stream it is known only at its end), `x-gateway-dropped-params`, `x-gateway-held-back`
 * (interceptors that a stream had to pass as a whole), and of the caller's limits
 * `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, of those that bind it the one that is nearest to its end.
 */
export const exchangeHeaders = (exchange: Exchange): Record<string, string> => {
  const headers: Record<string, string> = {
    "x-request-id": exchange.requestId,
    "x-gateway-attempts": attemptsOf(exchange),
    "x-gateway-fallback-used": String(exchange.fallbackUsed),
    "x-gateway-overhead-ms": Math.max(0, exchange.elapsed() - exchange.upstreamMs).toFixed(2)
  }
  if (exchange.model !== undefined) {
    headers["x-gateway-model"] = headerSafe(exchange.model.id)
    headers["x-gateway-provider"] = headerSafe(exchange.model.provider)
  }
  if (exchange.costNanoUsd !== undefined) headers["x-gateway-cost"] = formatUsd(exchange.costNanoUsd)
  if (exchange.rateLevels.length > 0) {
    putLevel(headers, "requests", exchange.rateLevels)
    putLevel(headers, "tokens", exchange.rateLevels)
  }
  if (exchange.heldBackFor.length > 0) headers["x-gateway-held-back"] = headerSafe(exchange.heldBackFor.join(", "))
  if (exchange.dropped.length > 0) headers["x-gateway-dropped-params"] = headerSafe(exchange.dropped.join(", "))
  return headers
}

/** Of the limits that bind a request, the one that is nearest to its end. */
const nearestLevel = (levels: ReadonlyArray<RateLevel>, kind: RateLevel["kind"]): RateLevel | undefined => {
  let nearest: RateLevel | undefined
  for (const level of levels) {
    if (level.kind !== kind) continue
    if (nearest === undefined || level.remaining / level.limit < nearest.remaining / nearest.limit) nearest = level
  }
  return nearest
}

/**
 * The same in Anthropic's names and forms: `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`, the last one as
 * the time (RFC 3339) at which all is there again. https://docs.claude.com/en/api/rate-limits#response-headers
 */
export const anthropicRateHeaders = (exchange: Exchange): Record<string, string> => {
  const headers: Record<string, string> = {}
  if (exchange.rateLevels.length === 0) return headers
  for (const kind of ["requests", "tokens"] as const) {
    const nearest = nearestLevel(exchange.rateLevels, kind)
    if (nearest === undefined) continue
    headers[`anthropic-ratelimit-${kind}-limit`] = String(nearest.limit)
    headers[`anthropic-ratelimit-${kind}-remaining`] = String(Math.max(0, Math.floor(nearest.remaining)))
    headers[`anthropic-ratelimit-${kind}-reset`] = new Date(exchange.now() + nearest.resetMs).toISOString()
  }
  return headers
}

/** The same names and forms as OpenAI's, which SDKs read: counts, and a duration such as `6.123s` until all is there again. */
const putLevel = (headers: Record<string, string>, kind: RateLevel["kind"], levels: ReadonlyArray<RateLevel>): void => {
  const nearest = nearestLevel(levels, kind)
  if (nearest === undefined) return
  headers[`x-ratelimit-limit-${kind}`] = String(nearest.limit)
  headers[`x-ratelimit-remaining-${kind}`] = String(Math.max(0, Math.floor(nearest.remaining)))
  headers[`x-ratelimit-reset-${kind}`] = `${(nearest.resetMs / 1000).toFixed(3).replace(/\.?0+$/, "")}s`
}

/** One field of an attempt. A model that was left out is named as the caller named it, which may be in any words. */
const field = (value: string): string => value.replace(/[,;]/g, "").slice(0, 200)

/** Attempts that are told at most. */
const maxAttempts = 20

/**
 * Each attempt in the order of its end, then the models that were left out: `openai::a;transient;412ms,
 * azure::a;ok;803ms, anthropic::b;skipped;capability_not_supported: tools`.
 */
const attemptsOf = (exchange: Exchange): string =>
  headerSafe(
    [
      ...exchange.attempts.map(({ durationMs, model, outcome }) => `${model};${outcome};${Math.round(durationMs)}ms`),
      ...exchange.skipped.map(({ model, reason }) => `${field(model)};skipped;${field(reason)}`)
    ].slice(0, maxAttempts).join(", ")
  )

/** Nano-USD as a plain decimal, never in exponent form. */
const formatUsd = (nanoUsd: number): string => usd(nanoUsd).toFixed(9).replace(/0{1,8}$/, "")
