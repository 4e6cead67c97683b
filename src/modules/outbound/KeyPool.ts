/**
 * Several keys of one provider's, used in turn. A key that the upstream refuses (401, 402) is kept out, one that has used up
 * its share (429) rests for as long as the upstream says, and the request goes on with the next one at once: nothing of the
 * answer has been given out by then. Each key is tried once for a request.
 *
 * A 403 may be about the key or about the request (a model that no key may use, a text that a filter stopped). It counts
 * against the key only when another key then gets an answer to the same request; otherwise one caller's request could take
 * all keys from everybody.
 */
import { Clock, Effect, Redacted } from "effect"
import { createHash } from "node:crypto"
import { logOf } from "../../sdk/Log.ts"
import { credentialsExhausted, type UpstreamHead } from "../../sdk/Outbound.ts"
import { ProviderError } from "../../sdk/Provider.ts"

const log = logOf("outbound")

/** How long a refused key is kept out before it is tried again, ms. */
const deadFor = 10 * 60_000
/** How long a key rests after a 429 that does not say, ms. */
const defaultRest = 30_000
/** The longest rest that an upstream's word is taken for, ms. */
const maxRest = 60 * 60_000
/** While a refused key is tried again, other requests leave it alone for so long, ms. */
const retrialFor = 30_000

interface Key {
  readonly secret: Redacted.Redacted
  /** What the log calls it: its place in the list, and the start of its SHA-256. */
  readonly name: string
  /** Unix ms. */
  restsUntil: number
  dead: boolean
}

/**
 * Sends one request with a key; `discard` gets rid of an answer that nobody will read. Where a request can be sent `once`
 * only, the first key's answer stands; it counts for its key all the same.
 */
export interface Sending<A extends UpstreamHead, R> {
  readonly once?: boolean
  /** The fingerprint of the only key to use, as long as it is among them. */
  readonly key?: string
  readonly send: (secret: Redacted.Redacted) => Effect.Effect<A, ProviderError, R>
  readonly discard: (answer: A) => void
}

/** A pool of keys. */
export interface KeyPool {
  /**
   * Sends a request with one key after the other, until one gets an answer that is not about the key. Fails with kind
   * `credential` where all keys are refused, and with kind `quota` and the shortest rest where at least one only rests.
   */
  readonly send: <A extends UpstreamHead, R>(sending: Sending<A, R>) => Effect.Effect<A, ProviderError, R>
}

const fingerprint = (secret: Redacted.Redacted): string =>
  createHash("sha256").update(Redacted.value(secret)).digest("hex").slice(0, 8)

/** Makes a pool; `retryAfter` reads from an answer's head how long to wait, ms. */
export const make = (
  provider: string,
  secrets: ReadonlyArray<Redacted.Redacted>,
  retryAfter: (headers: UpstreamHead["headers"]) => number | undefined
): KeyPool => {
  const keys = secrets.map((secret, index): Key => ({
    secret,
    name: `key ${index + 1} of ${secrets.length} (sha256 ${fingerprint(secret)})`,
    restsUntil: 0,
    dead: false
  }))
  let turn = 0

  /** The next key in turn that does not rest. */
  const take = (now: number, tried: ReadonlySet<Key>): Key | undefined => {
    for (let step = 0; step < keys.length; step++) {
      const at = (turn + step) % keys.length
      const key = keys[at]
      if (key === undefined || key.restsUntil > now || tried.has(key)) continue
      turn = at + 1
      if (key.dead) key.restsUntil = now + retrialFor
      return key
    }
    return undefined
  }

  const refuse = (key: Key, status: number, now: number): Effect.Effect<void> => {
    const known = key.dead
    key.dead = true
    key.restsUntil = Math.max(key.restsUntil, now + deadFor)
    return known ? Effect.void : log.warning(
      `the provider refused ${key.name} with ${status}; it is left out, and tried again every ${
        deadFor / 60_000
      } minutes`
    ).pipe(Effect.annotateLogs({ provider }))
  }

  const rest = (key: Key, head: UpstreamHead, now: number): void => {
    const wait = Math.min(maxRest, retryAfter(head.headers) ?? defaultRest)
    // Answers overtake each other: the longest rest holds.
    key.restsUntil = Math.max(key.restsUntil, now + wait)
  }

  const works = (key: Key): void => {
    if (!key.dead) return
    key.dead = false
    key.restsUntil = 0
  }

  /** The shortest rest among the keys that are not refused, ms. */
  const shortestRest = (now: number): number | undefined => {
    let shortest: number | undefined
    for (const { dead, restsUntil } of keys) {
      if (!dead && restsUntil > now) shortest = Math.min(shortest ?? Infinity, restsUntil - now)
    }
    return shortest
  }

  const noneLeft = (wait: number | undefined): ProviderError =>
    wait === undefined
      ? new ProviderError({
        provider,
        kind: "credential",
        code: credentialsExhausted,
        message: `the provider refused all ${keys.length} keys`
      })
      : new ProviderError({
        provider,
        kind: "quota",
        code: "upstream_keys_limited",
        retryAfterMs: Math.ceil(wait),
        message: "every usable key of the provider has reached its limit"
      })

  return {
    send: Effect.fnUntraced(function*<A extends UpstreamHead, R>(
      { discard, key: only, once, send }: Sending<A, R>
    ): Effect.fn.Return<A, ProviderError, R> {
      const own = only === undefined ? undefined : keys.find(({ secret }) => fingerprint(secret) === only)
      // What belongs to one key is not there for the others.
      if (own !== undefined) return yield* send(own.secret)
      const clock = yield* Clock.Clock
      const tried = new Set<Key>()
      const suspects: Array<Key> = []
      /** The last 403, in case that all keys get one. */
      let forbidden: A | undefined
      for (;;) {
        const key = take(clock.currentTimeMillisUnsafe(), tried)
        if (key === undefined) break
        tried.add(key)
        const answer: A = yield* send(key.secret)
        const now = clock.currentTimeMillisUnsafe()
        if (once === true) {
          if (answer.status === 401 || answer.status === 402) yield* refuse(key, answer.status, now)
          else if (answer.status === 429) rest(key, answer, now)
          else if (answer.status < 300) works(key)
          return answer
        }
        switch (answer.status) {
          case 401:
          case 402:
            discard(answer)
            yield* refuse(key, answer.status, now)
            break
          case 403:
            if (forbidden !== undefined) discard(forbidden)
            forbidden = answer
            suspects.push(key)
            break
          case 429:
            discard(answer)
            works(key)
            rest(key, answer, now)
            break
          default:
            if (forbidden !== undefined) discard(forbidden)
            if (answer.status < 300) {
              works(key)
              for (const suspect of suspects) yield* refuse(suspect, 403, now)
            }
            return { ...answer, key: fingerprint(key.secret) }
        }
      }
      const wait = shortestRest(clock.currentTimeMillisUnsafe())
      if (forbidden === undefined) return yield* noneLeft(wait)
      return wait === undefined ? { ...forbidden, keysRefused: true } : forbidden
    })
  }
}
