/**
 * An issuer's public keys (RFC 7517) by URL. They are fetched when they are first needed, again in the background before
 * they get old, and at once when a token names a key that is not among them, though not more often than the cooldown
 * allows. An issuer that does not answer is not noticed for as long as what it said last may be used.
 */
import { Deferred, Effect, Exit, Result, Scope, Stream } from "effect"
import { FetchHttpClient, HttpClient, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { createLocalJWKSet, type JSONWebKeySet } from "jose"
import { fail, type GatewayError, StoreUnavailable } from "../../sdk/GatewayError.ts"
import { logOf } from "../../sdk/Log.ts"
import type { SteadyTime } from "./SteadyTime.ts"

const log = logOf("identity")

/** Where the keys are, and how often they are fetched. */
export interface JwksOptions {
  readonly jwksUrl: string
  /** How long keys are good after they were fetched, ms; default 10 minutes. */
  readonly jwksMaxAgeMs?: number
  /** How long they are good where the issuer does not answer, ms; default 24 hours. */
  readonly jwksStaleMs?: number
  /** How long after a fetch no unknown key causes another one, ms; default 30 s. */
  readonly jwksCooldownMs?: number
  /** How long a fetch may take, ms; default 5 s. */
  readonly jwksTimeoutMs?: number
}

/** The keys that were fetched at one time. */
export interface KeySet {
  readonly keys: ReturnType<typeof createLocalJWKSet>
  /** When the fetch began, in steady ms. */
  readonly askedAt: number
}

/** The issuer's keys. */
export interface Jwks {
  /** The present ones. Fails with `store_unavailable` where there are none that may be used. */
  readonly present: Effect.Effect<KeySet, GatewayError>
  /**
   * Those after `known`, which lacks a key; the same ones where it is too early to ask again. Fails with
   * `store_unavailable` where the issuer did not answer, since then nobody knows whether it has the key.
   */
  readonly after: (known: KeySet) => Effect.Effect<KeySet, GatewayError>
}

/** The largest answer, in UTF-16 units. */
const maxAnswer = 1024 * 1024
/** After a fetch that failed the issuer is left alone for so long, ms. */
const retryMs = 1000

const unavailable = fail(
  new StoreUnavailable({
    message: "the issuer's keys cannot be fetched, so tokens cannot be checked; try again in a moment",
    store: "jwks",
    retryAfterMs: retryMs
  })
)

/** The body's text; gives up as soon as it is too large. */
const readText = (response: HttpClientResponse.HttpClientResponse) =>
  response.stream.pipe(
    Stream.decodeText,
    Stream.runFoldEffect(() => "", (text, piece) =>
      text.length + piece.length > maxAnswer
        ? Effect.fail("the answer is too large")
        : Effect.succeed(text + piece))
  )

const keySet = (text: string) =>
  // jose checks the form itself, and refuses what is none of a key set.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- see above
  Result.try(() => createLocalJWKSet(JSON.parse(text) as JSONWebKeySet))

/** Makes the keys of one issuer; fetches run in the scope, whoever asks for them. */
export const make = Effect.fnUntraced(function*(
  time: SteadyTime,
  options: JwksOptions
): Effect.fn.Return<Jwks, never, HttpClient.HttpClient | Scope.Scope> {
  const {
    jwksCooldownMs: cooldownMs = 30_000,
    jwksMaxAgeMs: maxAgeMs = 600_000,
    jwksStaleMs: staleMs = 86_400_000,
    jwksTimeoutMs: timeoutMs = 5000,
    jwksUrl
  } = options
  const client = yield* HttpClient.HttpClient
  const scope = yield* Scope.Scope
  const request = HttpClientRequest.get(jwksUrl).pipe(HttpClientRequest.acceptJson)

  let current: KeySet | undefined
  let attemptedAt = -Infinity
  let failed = false
  let flight: Deferred.Deferred<KeySet, GatewayError> | undefined

  const fetched = client.execute(request).pipe(
    // The body is read whatever the status: an unread one would keep its connection.
    Effect.flatMap((response) => Effect.map(readText(response), (text) => ({ status: response.status, text }))),
    // Keys count from their own address alone, as in jose's own fetching.
    Effect.provideService(FetchHttpClient.RequestInit, { redirect: "manual" }),
    Effect.timeoutOrElse({ duration: timeoutMs, orElse: () => Effect.fail(`no answer within ${timeoutMs} ms`) }),
    Effect.mapError((error) => typeof error === "string" ? error : error.reason._tag),
    Effect.flatMap(({ status, text }) => {
      if (status !== 200) return Effect.fail(`status ${status}`)
      return Effect.mapError(Effect.fromResult(keySet(text)), () => "the answer is no key set")
    })
  )

  const tell = (problem: string | undefined) => {
    if (failed === (problem !== undefined)) return Effect.void
    failed = problem !== undefined
    return problem === undefined
      ? log.info("the issuer's keys can be fetched again")
      : log.warning(`the issuer's keys cannot be fetched: ${problem}`)
  }

  const fly = Effect.fnUntraced(function*(landing: Deferred.Deferred<KeySet, GatewayError>, askedAt: number) {
    const exit = yield* Effect.exit(fetched)
    if (Exit.isSuccess(exit)) {
      current = { keys: exit.value, askedAt }
      yield* tell(undefined)
      yield* Deferred.succeed(landing, current)
    } else {
      const reason = exit.cause.reasons.find((found) => found._tag === "Fail")
      yield* tell(reason === undefined ? "the request failed" : reason.error)
      yield* Deferred.fail(landing, unavailable)
    }
  })

  /** Starts a fetch, or joins the one that runs. */
  const start: Effect.Effect<Deferred.Deferred<KeySet, GatewayError>> = Effect.suspend(() => {
    if (flight !== undefined) return Effect.succeed(flight)
    const landing = Deferred.makeUnsafe<KeySet, GatewayError>()
    flight = landing
    attemptedAt = time()
    return fly(landing, attemptedAt).pipe(
      Effect.ensuring(Effect.suspend(() => {
        flight = undefined
        return Deferred.fail(landing, unavailable)
      })),
      Effect.forkIn(scope, { startImmediately: true }),
      Effect.as(landing)
    )
  })

  const fetch = Effect.flatMap(start, Deferred.await)
  const mayRetry = (now: number): boolean => !failed || now >= attemptedAt + retryMs

  return {
    present: Effect.suspend(() => {
      const now = time()
      const set = current
      const age = set === undefined ? Infinity : now - set.askedAt
      if (set === undefined || age >= staleMs) return mayRetry(now) ? fetch : Effect.fail(unavailable)
      if (age < maxAgeMs / 2) return Effect.succeed(set)
      if (!mayRetry(now)) return Effect.succeed(set)
      // While the issuer is known not to answer, nobody waits to be told so again.
      if (age < maxAgeMs || failed) return Effect.as(start, set)
      return Effect.orElseSucceed(fetch, () => set)
    }),
    after: (known) =>
      Effect.suspend(() => {
        if (current !== undefined && current !== known) return Effect.succeed(current)
        if (flight !== undefined || time() >= attemptedAt + (failed ? retryMs : cooldownMs)) return fetch
        return failed ? Effect.fail(unavailable) : Effect.succeed(known)
      })
  }
})
