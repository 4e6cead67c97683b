/** The options of a request as the headers that the gateway reads them from. */
import { Headers } from "effect/http"
import type { RequestOptions, Timeouts } from "../sdk/Caller.ts"

const timeoutHeaders: ReadonlyArray<readonly [keyof Timeouts, string]> = [
  ["connect", "x-gateway-timeout-connect"],
  ["firstToken", "x-gateway-timeout-first-token"],
  ["idle", "x-gateway-timeout-idle"],
  ["answer", "x-gateway-timeout-answer"],
  ["total", "x-gateway-timeout-total"]
]

/** The headers of a request under these options. They travel within the call's own message, so any text may stand in them. */
export const headersOf = (options: RequestOptions, authorization: string | undefined): Headers.Headers => {
  const headers: Record<string, string> = {}
  if (authorization !== undefined) headers["authorization"] = authorization
  const { conversationId, fallback, requestId, routePolicy, stickyKey, tags, timeouts, user } = options
  if (requestId !== undefined) headers["x-request-id"] = requestId
  for (const [key, header] of timeoutHeaders) {
    const limit = timeouts?.[key]
    if (limit !== undefined) headers[header] = `${Math.max(0.001, limit).toFixed(3)}ms`
  }
  if (fallback !== undefined) {
    const strategy = fallback.strategy === undefined ? "" : `; strategy=${fallback.strategy}`
    headers["x-gateway-fallback"] = `${fallback.models.join(", ")}${strategy}`
  }
  if (routePolicy !== undefined) headers["x-gateway-route-policy"] = routePolicy
  if (stickyKey !== undefined) headers["x-gateway-sticky-key"] = stickyKey
  if (user !== undefined) headers["x-gateway-user"] = user
  if (tags !== undefined && tags.length > 0) headers["x-gateway-tags"] = tags.join(",")
  if (conversationId !== undefined) headers["x-gateway-conversation"] = conversationId
  return Headers.fromInput(headers)
}
