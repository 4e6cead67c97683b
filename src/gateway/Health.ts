/**
 * How the models have been doing: rolling figures of the last five minutes, in memory, by canonical model id. Ranking
 * reads them before a call is wasted on a sick model, and hedging takes its pause from them; circuit breakers remain the
 * last line.
 *
 * A window is five buckets of a minute. Whatever falls out of it is forgotten, so that a model that had a slow hour, or
 * that failed until nobody tried it any more, gets its next chance after five minutes. Writing is a few additions on typed
 * arrays; reading divides running totals, which are summed up anew only when a minute has passed.
 */
import { Clock, Context, Effect, Layer } from "effect"

/** What `finished` is told of one call. */
export interface Finished {
  /** `upstream` is the provider's fault; `other` is what tells nothing of the model: caller errors, cancellations. */
  readonly outcome: "ok" | "upstream" | "other"
  /** From the start of the call to its end, ms. */
  readonly durationMs: number
  /** From the start of the call to its first content, ms; absent for an answer that came as a whole. */
  readonly firstTokenMs?: number
  readonly outputTokens?: number
}

/** The figures of one model in the current window. */
export interface ModelHealth {
  /** Calls that count: those that went well, and those that the provider spoiled. */
  readonly samples: number
  /** The spoiled ones' share, 0 to 1; 0 without samples. */
  readonly errorRate: number
  /** Average over streamed answers, ms; absent where there were none. */
  readonly firstTokenMs?: number
  /** Nineteen of twenty first tokens came within this time, ms, rounded up by at most a fifth; absent as above. */
  readonly p95FirstTokenMs?: number
  /** Average time of a token after the first one, ms; absent where no answer told its tokens. */
  readonly msPerToken?: number
  /** Average length of the calls that went well, ms; absent where there were none. */
  readonly durationMs?: number
  /** Calls that run now. */
  readonly inFlight: number
}

/** Rolling figures of the models. All of it is synchronous and cheap enough for the way of every request. */
export class Health extends Context.Service<Health, {
  /** A call to the model begins. Each `started` needs its `finished`. */
  readonly started: (modelId: string) => void
  /** A call to the model is over, however it ended. */
  readonly finished: (modelId: string, call: Finished) => void
  /** The figures of a model; those of one that was never called are zero or absent. */
  readonly of: (modelId: string) => ModelHealth
}>()("llm-gateway/gateway/Health") {
  /** Empty at first; kept by this process alone. */
  static readonly layer: Layer.Layer<Health> = Layer.effect(Health, Effect.map(Clock.Clock, (clock) => make(clock)))
}

const buckets = 5
const bucketMs = 60_000
/** Models beyond this many push out those that are not in use. Ids can come from callers, so there must be a bound. */
const maxModels = 1000

// ---------------------------------------------------------------------------------------------------------------------
// One model
// ---------------------------------------------------------------------------------------------------------------------

// The fields of a bucket, and of the totals.
const ok = 0
const spoiled = 1
const okMs = 2
const firstTokens = 3
const firstTokensMs = 4
const tokens = 5
const tokensMs = 6
/** From here on: how many first tokens fell into each range of times. */
const histogram = 7
/** Four ranges to each doubling, up to almost 15 minutes. */
const ranges = 80
const rangesPerDoubling = 4
const width = histogram + ranges

const rangeOf = (ms: number): number => ms <= 1 ? 0 : Math.min(ranges - 1, Math.ceil(Math.log2(ms) * rangesPerDoubling))

/** A call's time or count as it may be added up. */
const usable = (value: number | undefined): value is number =>
  value !== undefined && Number.isFinite(value) && value >= 0

class ModelWindow {
  inFlight = 0
  /** Whether it was used since it was last considered for removal. */
  used = true
  #minute: number
  readonly #buckets = new Float64Array(buckets * width)
  readonly #totals = new Float64Array(width)

  constructor(minute: number) {
    this.#minute = minute
  }

  /** Forgets what has fallen out of the window. */
  #advance(minute: number): void {
    const passed = minute - this.#minute
    // A clock that was set back a little goes on in the newest bucket; a larger leap starts afresh.
    if (passed === 0 || (passed < 0 && passed > -buckets)) return
    if (passed < 0 || passed >= buckets) {
      this.#buckets.fill(0)
      this.#totals.fill(0)
    } else {
      for (let at = this.#minute + 1; at <= minute; at++) {
        const from = at % buckets * width
        this.#buckets.fill(0, from, from + width)
      }
      // Summed up anew rather than subtracted, so that no rounding errors pile up.
      this.#totals.fill(0)
      for (let at = 0; at < this.#buckets.length; at++) {
        const field = at % width
        this.#totals[field] = (this.#totals[field] ?? 0) + (this.#buckets[at] ?? 0)
      }
    }
    this.#minute = minute
  }

  #add(field: number, amount: number): void {
    const at = this.#minute % buckets * width + field
    this.#buckets[at] = (this.#buckets[at] ?? 0) + amount
    this.#totals[field] = (this.#totals[field] ?? 0) + amount
  }

  record(call: Finished, minute: number): void {
    if (call.outcome === "other") return
    this.#advance(minute)
    if (call.outcome === "upstream") {
      this.#add(spoiled, 1)
      return
    }
    const durationMs = usable(call.durationMs) ? call.durationMs : 0
    this.#add(ok, 1)
    this.#add(okMs, durationMs)
    const { firstTokenMs, outputTokens } = call
    if (usable(firstTokenMs)) {
      this.#add(firstTokens, 1)
      this.#add(firstTokensMs, firstTokenMs)
      this.#add(histogram + rangeOf(firstTokenMs), 1)
    }
    if (usable(outputTokens) && outputTokens > 0) {
      this.#add(tokens, outputTokens)
      this.#add(tokensMs, Math.max(0, durationMs - (usable(firstTokenMs) ? firstTokenMs : 0)))
    }
  }

  /** The upper end of the range in which the 95th percentile of first tokens lies, ms. */
  #p95(count: number): number {
    let beyond = Math.floor(count * 0.05)
    for (let range = ranges - 1; range > 0; range--) {
      beyond -= this.#totals[histogram + range] ?? 0
      if (beyond < 0) return 2 ** (range / rangesPerDoubling)
    }
    return 1
  }

  read(minute: number): ModelHealth {
    this.#advance(minute)
    const totals = this.#totals
    const good = totals[ok] ?? 0
    const bad = totals[spoiled] ?? 0
    const first = totals[firstTokens] ?? 0
    const counted = totals[tokens] ?? 0
    return {
      samples: good + bad,
      errorRate: bad === 0 ? 0 : bad / (good + bad),
      ...(first === 0 ? {} : { firstTokenMs: (totals[firstTokensMs] ?? 0) / first, p95FirstTokenMs: this.#p95(first) }),
      ...(counted === 0 ? {} : { msPerToken: (totals[tokensMs] ?? 0) / counted }),
      ...(good === 0 ? {} : { durationMs: (totals[okMs] ?? 0) / good }),
      inFlight: this.inFlight
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// All models
// ---------------------------------------------------------------------------------------------------------------------

const unknown: ModelHealth = { samples: 0, errorRate: 0, inFlight: 0 }

const make = (clock: Clock.Clock): Health["Service"] => {
  const models = new Map<string, ModelWindow>()
  const minuteNow = (): number => Math.floor(clock.currentTimeMillisUnsafe() / bucketMs)

  /** Makes room for one more: the first model, oldest first, that has not been used since the last time. */
  const makeRoom = (): void => {
    // Twice around: the first time takes the marks away. Models that are in use all stay.
    for (let left = 2 * models.size; left > 0; left--) {
      for (const [id, window] of models) {
        models.delete(id)
        if (window.inFlight === 0 && !window.used) return
        window.used = false
        models.set(id, window)
        break
      }
    }
  }

  const windowOf = (id: string): ModelWindow => {
    const found = models.get(id)
    if (found !== undefined) {
      found.used = true
      return found
    }
    if (models.size >= maxModels) makeRoom()
    const made = new ModelWindow(minuteNow())
    models.set(id, made)
    return made
  }

  return {
    started: (id) => {
      windowOf(id).inFlight++
    },
    finished: (id, call) => {
      const window = windowOf(id)
      if (window.inFlight > 0) window.inFlight--
      window.record(call, minuteNow())
    },
    of: (id) => models.get(id)?.read(minuteNow()) ?? unknown
  }
}
