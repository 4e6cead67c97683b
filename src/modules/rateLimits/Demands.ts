/** What both stores say of demands: whether they make sense, how full a bucket is, and refusals in words. */
import { hash } from "node:crypto"
import { fail, type GatewayError, RateLimited } from "../../sdk/GatewayError.ts"
import type { ConcurrencyDemand, RateDemand, RateLevel } from "../../sdk/RateLimits.ts"

/** Keys that are longer are known by their SHA-256: they hold names from request headers, and are kept. */
const maxKeyLength = 256
/** The most that one correction changes. Beyond it numbers of tokens are no longer exact, and debts no longer end. */
const maxCorrection = 1e15
/** When who found no place may try again, ms: nobody knows when one comes free. */
const retryPlaceMs = 1000

/** The key that a bucket or a group of places is kept under. */
export const keptKey = (key: string): string =>
  // No header value holds a NUL, so that no name can be made to look like another's hash.
  key.length <= maxKeyLength ? key : `\0sha256:${hash("sha256", key)}`

/** How long a bucket takes to get one back, ms. */
export const refillMs = (demand: RateDemand): number => demand.windowMs / demand.limit

/** Whether a demand's bucket is one that can be. */
const isSound = ({ limit, windowMs }: RateDemand): boolean =>
  limit >= 0 && limit < Infinity && windowMs >= 1 && windowMs < Infinity

const count = (value: number): string => String(Math.round(value * 100) / 100)

const units = [["day", 86_400_000], ["hour", 3_600_000], ["minute", 60_000], ["second", 1000]] as const

const windowInWords = (ms: number): string => {
  for (const [unit, length] of units) {
    if (ms % length === 0) return ms === length ? unit : `${ms / length} ${unit}s`
  }
  return `${count(ms)} ms`
}

const waitInWords = (ms: number): string => {
  if (ms < 1000) return `${ms} ms`
  if (ms <= 120_000) return `${Math.ceil(ms / 1000)} s`
  return ms <= 7_200_000 ? `${Math.ceil(ms / 60_000)} min` : `${Math.ceil(ms / 3_600_000)} h`
}

/** A limit in words: `60 requests per minute per user`. */
const inWords = ({ kind, limit, name, windowMs }: RateDemand): string => {
  const rate = `${count(limit)} ${kind} per ${windowInWords(windowMs)}`
  if (name === kind) return rate
  return name.startsWith(`${kind} `) ? `${rate}${name.slice(kind.length)}` : `${rate} (${name})`
}

/**
 * What is to be said before a store is asked: a `rate_limited` that time will not mend, where a demand is larger than its
 * bucket; a RangeError, where demands are none that a pipeline makes; or nothing.
 */
export const refusedAtOnce = (demands: ReadonlyArray<RateDemand>): GatewayError | RangeError | undefined => {
  for (const demand of demands) {
    if (!isSound(demand) || !(demand.amount >= 0)) {
      return new RangeError(`no bucket can be asked for ${demand.amount} of ${demand.limit} per ${demand.windowMs} ms`)
    }
    if (demand.amount > demand.limit) {
      return fail(
        new RateLimited({
          message: `${inWords(demand)}: this request counts as ${count(demand.amount)} ${demand.kind}, ` +
            "which is more than the limit, so that it will never pass",
          retryAfterMs: demand.windowMs
        })
      )
    }
  }
  return undefined
}

/** By how much a correction changes its bucket; 0 where it makes no sense, because corrections fail nobody. */
export const correction = (demand: RateDemand): number =>
  isSound(demand) && Number.isFinite(demand.amount)
    ? Math.max(-maxCorrection, Math.min(maxCorrection, demand.amount))
    : 0

/** Takes back what a product is too large through rounding alone, which would make a whole ms of it. */
const exactly = 1 - 1e-15

/**
 * How long until a bucket holds `wanted`, ms, when it holds `tokens` and the next one has been on its way for
 * `elapsedMs`. Tokens come whole.
 */
const msUntil = (demand: RateDemand, wanted: number, tokens: number, elapsedMs: number): number =>
  tokens >= wanted
    ? 0
    : Math.max(1, Math.ceil(Math.ceil(wanted - tokens) * refillMs(demand) * exactly - elapsedMs))

/** How full a bucket is. */
export const level = (demand: RateDemand, tokens: number, elapsedMs: number): RateLevel => ({
  name: demand.name,
  kind: demand.kind,
  limit: demand.limit,
  remaining: Math.max(0, Math.floor(tokens)),
  resetMs: msUntil(demand, demand.limit, tokens, elapsedMs)
})

/** Buckets that hold too little, and how long the emptiest of them needs. */
export class Shortage {
  #demand: RateDemand | undefined
  #level: RateLevel | undefined
  #waitMs = 0

  /** Notes a bucket that holds too few `tokens` for the demand. */
  note(demand: RateDemand, tokens: number, elapsedMs: number): void {
    const wait = msUntil(demand, demand.amount, tokens, elapsedMs)
    if (wait <= this.#waitMs) return
    this.#waitMs = wait
    this.#demand = demand
    this.#level = level(demand, tokens, elapsedMs)
  }

  /** The refusal, where a bucket was noted. */
  get error(): GatewayError | undefined {
    return this.#demand === undefined ? undefined : fail(
      new RateLimited({
        message: `${inWords(this.#demand)}: try again in ${waitInWords(this.#waitMs)}`,
        retryAfterMs: this.#waitMs,
        ...(this.#level === undefined ? {} : { limit: this.#level })
      })
    )
  }
}

/** No place is free. */
export const noPlace = ({ limit, name }: ConcurrencyDemand): GatewayError =>
  fail(
    new RateLimited({
      message: `${count(limit)} ${name}: all places are taken; try again when one of these requests has ended`,
      retryAfterMs: retryPlaceMs
    })
  )
