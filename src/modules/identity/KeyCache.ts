/**
 * What is known of stored keys, kept close: a request with a known key costs no question to the store, and a store that
 * does not answer for a while is not noticed.
 *
 * - What the store said is good for `freshMs`. From the half of that on it is asked for again in the background; after it,
 *   an answer waits for the store. So a revocation on another replica acts here within `freshMs`.
 * - Where the store does not answer, what it said last is good for `staleMs`.
 * - All questions go through one fiber, which puts up to 64 of them into one query and has one query running at a time. A
 *   flood of invented keys costs the store no more than that, and each key is asked for once however many wait for it.
 * - Known and unknown keys and open questions are bounded. Nothing is logged of a bad key; a store that stops answering,
 *   or starts again, is one line.
 */
import { Deferred, Effect, Exit, Latch, type Scope } from "effect"
import { fail, type GatewayError, Overloaded, StoreUnavailable } from "../../sdk/GatewayError.ts"
import { logOf } from "../../sdk/Log.ts"
import { type Admission, type Answer, unknownKey } from "./Admission.ts"
import { put } from "./BoundedMap.ts"
import type { SteadyTime } from "./SteadyTime.ts"

const log = logOf("identity")

/** How long things are kept, and how many. */
export interface KeyCacheOptions {
  /** How long what the store said is good, ms; default 10 s. */
  readonly freshMs?: number
  /** How long it is good where the store does not answer, ms; default 10 minutes. */
  readonly staleMs?: number
  /** How long a key that the store does not have is refused without asking again, ms; default 5 s. */
  readonly unknownMs?: number
  /** How many known keys are kept; default 10,000. */
  readonly maxKnown?: number
  /** How many unknown ones; default 4,096. */
  readonly maxUnknown?: number
  /** How many keys may be asked for at the same time, before requests are `overloaded`; default 4,096. */
  readonly maxAsked?: number
  /** How long the store has to answer, ms; default 2 s. */
  readonly patienceMs?: number
}

/** What the store has for a secret. */
export interface StoredAdmission {
  readonly id: string
  readonly admission: Admission
}

/** Asks the store for the secrets with these digests; what is not in the answer does not exist. Any failure counts as no answer. */
export type Load = (digests: ReadonlyArray<string>) => Effect.Effect<ReadonlyMap<string, StoredAdmission>, unknown>

/** The cache. */
export interface KeyCache {
  /** What who shows the secret of this digest is answered. */
  readonly answer: (digest: string) => Answer
  /** Forgets a key that has changed, also what the store is saying about it right now. */
  readonly forget: (id: string) => void
  /** Has all keys asked for again before they are let in; where the store does not answer, what it said last is still good. */
  readonly renew: () => void
}

interface Known extends StoredAdmission {
  /** When the question was asked to which this is the answer. */
  readonly askedAt: number
}

type Flight = Deferred.Deferred<Admission | undefined, GatewayError>

const batchSize = 64
/** After a failed question the store is left alone for so long, ms. */
const retryMs = 500
/** What callers are told to wait while the store does not answer, ms. */
const retryAfterMs = 1000

const storeName = "keys"

/** What operations on keys fail with while the database does not answer. */
export const unavailable: GatewayError = fail(
  new StoreUnavailable({
    message: "the key store does not answer; try again in a moment",
    store: storeName,
    retryAfterMs
  })
)
const overloaded = fail(
  new Overloaded({ message: "too many unknown API keys are being looked up; try again in a moment", retryAfterMs })
)

const noAnswer: Answer = Effect.fail(unavailable)
const tooMany: Answer = Effect.fail(overloaded)

/** Makes the cache in front of a store; its fiber lives as long as the scope. */
export const make = Effect.fnUntraced(function*(
  load: Load,
  time: SteadyTime,
  options: KeyCacheOptions = {}
): Effect.fn.Return<KeyCache, never, Scope.Scope> {
  const {
    freshMs = 10_000,
    maxAsked = 4096,
    maxKnown = 10_000,
    maxUnknown = 4096,
    patienceMs = 2000,
    staleMs = 600_000,
    unknownMs = 5000
  } = options

  const known = new Map<string, Known>()
  /** Until when each is known not to exist. */
  const unknown = new Map<string, number>()
  const flights = new Map<string, Flight>()
  /** Those of `flights` that wait for the next query. */
  let waiting: Array<string> = []
  /** Counts what was forgotten: an answer to a question from before is asked for again. */
  let forgotten = 0
  let failing = false
  let retryAt = 0
  const work = Latch.makeUnsafe()

  /** Has the store asked, unless it was asked in vain a moment ago, or is asked for too much. */
  const ask = (digest: string, now: number): Flight | undefined => {
    const running = flights.get(digest)
    if (running !== undefined) return running
    if ((failing && now < retryAt) || flights.size >= maxAsked) return undefined
    const flight: Flight = Deferred.makeUnsafe()
    flights.set(digest, flight)
    waiting.push(digest)
    work.openUnsafe()
    return flight
  }

  const land = (digest: string, exit: Exit.Exit<Admission | undefined, GatewayError>): void => {
    const flight = flights.get(digest)
    flights.delete(digest)
    if (flight !== undefined) Deferred.doneUnsafe(flight, exit)
  }

  const landAll = (): void => {
    waiting = []
    for (const digest of Array.from(flights.keys())) land(digest, Exit.fail(unavailable))
  }

  const remember = (digest: string, found: StoredAdmission | undefined, askedAt: number): void => {
    if (found === undefined) {
      known.delete(digest)
      put(unknown, digest, askedAt + unknownMs, maxUnknown)
    } else {
      unknown.delete(digest)
      put(known, digest, { ...found, askedAt }, maxKnown)
    }
  }

  const patiently = (digests: ReadonlyArray<string>) => Effect.exit(Effect.timeout(load(digests), patienceMs))

  const fly = Effect.fnUntraced(function*() {
    const digests = waiting.slice(0, batchSize)
    waiting = waiting.slice(batchSize)
    let askedAt: number
    let before: number
    let exit: Effect.Success<ReturnType<typeof patiently>>
    do {
      askedAt = time()
      before = forgotten
      exit = yield* patiently(digests)
    } while (before !== forgotten)
    if (Exit.isSuccess(exit)) {
      for (const digest of digests) {
        const found = exit.value.get(digest)
        remember(digest, found, askedAt)
        land(digest, Exit.succeed(found?.admission))
      }
    } else {
      // Who waits for the next query would wait for as long again.
      landAll()
      retryAt = time() + retryMs
    }
    if (failing !== Exit.isSuccess(exit)) return
    failing = !failing
    yield* failing
      ? log.warning(
        `the key store does not answer; keys are good for ${staleMs / 1000} s after they were last read`
      )
      : log.info("the key store answers again")
  })

  // The fiber itself may not have begun yet when it is ended, and so cannot see to this.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      failing = true
      retryAt = Infinity
      landAll()
    })
  )
  yield* Effect.gen(function*() {
    for (;;) {
      yield* work.await
      yield* waiting.length > 0 ? fly() : work.close
    }
  }).pipe(Effect.forkScoped)

  /** Waits for what the store says; where it says nothing, `otherwise`. */
  const asked = (digest: string, now: number, otherwise: Answer): Answer => {
    const flight = ask(digest, now)
    if (flight === undefined) return otherwise === noAnswer && !failing ? tooMany : otherwise
    return Effect.matchEffect(Deferred.await(flight), {
      onFailure: () => otherwise,
      onSuccess: (admission) => admission === undefined ? unknownKey : admission.answer(digest, time())
    })
  }

  return {
    answer: (digest) => {
      const now = time()
      const hit = known.get(digest)
      if (hit === undefined) {
        return (unknown.get(digest) ?? 0) > now ? unknownKey : asked(digest, now, noAnswer)
      }
      const age = now - hit.askedAt
      if (age >= staleMs) return asked(digest, now, noAnswer)
      const answer = hit.admission.answer(digest, now)
      if (age < freshMs / 2) return answer
      // While the store is known not to answer, nobody waits to be told so again.
      if (age >= freshMs && !failing) return asked(digest, now, answer)
      ask(digest, now)
      return answer
    },
    forget: (id) => {
      forgotten++
      for (const [digest, key] of known) if (key.id === id) known.delete(digest)
    },
    renew: () => {
      forgotten++
      unknown.clear()
      const askedBefore = time() - freshMs
      for (const [digest, key] of known) {
        if (key.askedAt > askedBefore) known.set(digest, { ...key, askedAt: askedBefore })
      }
    }
  }
})
