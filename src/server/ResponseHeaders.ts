/** The headers in which every dialect's answers tell what the gateway did. */
import type { Exchange } from "../gateway/Exchange.ts"
import { usd } from "../sdk/Pricing.ts"

/** Header values hold visible ASCII alone; a provider's or a caller's text may hold anything. */
const headerSafe = (value: string): string => value.replace(/[^\x20-\x7e]/g, "?").slice(0, 1024)

/**
 * `x-request-id`, `x-gateway-model` (canonical id), `x-gateway-provider` (slug), `x-gateway-attempts`,
 * `x-gateway-fallback-used`, `x-gateway-overhead-ms` (the gateway's own time until now), and where there is something to
 * tell `x-gateway-cost` (USD; of a stream it is known only at its end) and `x-gateway-dropped-params`.
 */
export const exchangeHeaders = (exchange: Exchange): Record<string, string> => {
  const headers: Record<string, string> = {
    "x-request-id": exchange.requestId,
    "x-gateway-attempts": String(exchange.attempts.length),
    "x-gateway-fallback-used": String(exchange.fallbackUsed),
    "x-gateway-overhead-ms": Math.max(0, exchange.elapsed() - exchange.upstreamMs).toFixed(2)
  }
  if (exchange.model !== undefined) {
    headers["x-gateway-model"] = headerSafe(exchange.model.id)
    headers["x-gateway-provider"] = headerSafe(exchange.model.provider)
  }
  if (exchange.costNanoUsd !== undefined) headers["x-gateway-cost"] = formatUsd(exchange.costNanoUsd)
  if (exchange.dropped.length > 0) headers["x-gateway-dropped-params"] = headerSafe(exchange.dropped.join(", "))
  return headers
}

/** Nano-USD as a plain decimal, never in exponent form. */
const formatUsd = (nanoUsd: number): string => usd(nanoUsd).toFixed(9).replace(/0{1,8}$/, "")
