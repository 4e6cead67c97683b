/**
 * How long an upstream asks its clients to wait, read from the head of its answer. Providers say it in half a dozen
 * forms: `retry-after-ms` (Azure, OpenAI), `retry-after` in seconds or as an HTTP date (RFC 9110 section 10.2.3), and the
 * reset times of whatever limit is used up (`x-ratelimit-reset-*`, `anthropic-ratelimit-*-reset`).
 *
 * Pure: dates are measured against the answer's own `date` header, which also makes them safe against a clock that is
 * wrong on either side.
 */

/** Lower-case header names. */
type Headers = Readonly<Record<string, string>>

const decimal = /^\d+(?:\.\d+)?$/
const durationPiece = /(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s|d)/g
const wholeDuration = /^(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|h|m|s|d))+$/
const unitMs: ReadonlyMap<string, number> = new Map([
  ["ns", 1e-6],
  ["us", 1e-3],
  ["µs", 1e-3],
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
  ["d", 86_400_000]
])

const number = (text: string | undefined): number | undefined => {
  const trimmed = text?.trim()
  return trimmed !== undefined && trimmed.length <= 20 && decimal.test(trimmed) ? Number(trimmed) : undefined
}

/** Reads a duration in Go's spelling (`6m0s`, `1m0.198s`, `12ms`) or as bare seconds; ms, or `undefined` for anything else. */
export const parseDurationMs = (text: string): number | undefined => {
  const trimmed = text.trim()
  const seconds = number(trimmed)
  if (seconds !== undefined) return seconds * 1000
  if (trimmed.length > 40 || !wholeDuration.test(trimmed)) return undefined
  let total = 0
  for (const [, amount, unit] of trimmed.matchAll(durationPiece)) {
    total += Number(amount) * (unitMs.get(unit ?? "") ?? 0)
  }
  return total
}

const parseDateMs = (text: string, now: number | undefined): number | undefined => {
  if (now === undefined || text.length > 64) return undefined
  const at = Date.parse(text)
  return Number.isNaN(at) ? undefined : at - now
}

/** `retry-after`: seconds (fractions occur) or a date. */
const fromRetryAfter = (text: string | undefined, now: number | undefined): number | undefined => {
  if (text === undefined) return undefined
  const seconds = number(text)
  return seconds === undefined ? parseDateMs(text, now) : seconds * 1000
}

/** OpenRouter's `x-ratelimit-reset` is Unix milliseconds, other servers use Unix seconds or a duration. */
const fromReset = (text: string, now: number | undefined): number | undefined => {
  const value = number(text)
  if (value === undefined || value < 1e9) return parseDurationMs(text) ?? parseDateMs(text, now)
  if (now === undefined) return undefined
  return (value >= 1e12 ? value : value * 1000) - now
}

/** Where limits are told: the remaining amount, and when it is full again. */
const limits: ReadonlyArray<readonly [remaining: string, reset: string]> = [
  ["x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
  ["x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
  ["x-ratelimit-remaining", "x-ratelimit-reset"],
  ["anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"],
  ["anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"],
  ["anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"],
  ["anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"]
]

const positive = (ms: number | undefined): ms is number => ms !== undefined && Number.isFinite(ms) && ms > 0

/**
 * The wait that an upstream asks for, in whole ms and above zero; `undefined` where it says nothing usable.
 *
 * `retry-after-ms` wins over `retry-after`, both win over the reset of a limit whose remaining amount is zero. A zero
 * or a moment in the past counts as nothing said, so that nobody spins: a real Azure 429 carries `retry-after: 1` with
 * `retry-after-ms: 0`. Header names are lower-case. `now` is Unix ms; by default the answer's own `date`, and without
 * either a wait that is told as a date is not known.
 */
export const retryAfterMs = (headers: Headers, now?: number): number | undefined => {
  const dated = now ?? Date.parse(headers["date"] ?? "")
  const at = Number.isNaN(dated) ? undefined : dated
  const precise = number(headers["retry-after-ms"])
  if (positive(precise)) return Math.ceil(precise)
  const coarse = fromRetryAfter(headers["retry-after"], at)
  if (positive(coarse)) return Math.ceil(coarse)
  let longest: number | undefined
  for (const [remaining, reset] of limits) {
    const when = headers[reset]
    if (when === undefined || number(headers[remaining]) !== 0) continue
    const wait = fromReset(when, at)
    if (positive(wait) && wait > (longest ?? 0)) longest = wait
  }
  return longest === undefined ? undefined : Math.ceil(longest)
}
