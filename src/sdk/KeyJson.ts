/**
 * Keys in JSON, as the admin API and the command line spell them, and as the store keeps what a key may do. Every bound is
 * stated here: a limit that is negative, not finite, or too large to count in is refused by the name of its field.
 *
 * Durations are read as ms or with a unit (`30s`, `1m`, `7d`) and written with one; moments are read as ISO 8601 or Unix ms
 * and written as ISO 8601; money is USD here and integer nano-USD inside.
 */
import { DateTime, Effect, Option, Redacted, Schema, SchemaTransformation } from "effect"
import type { IssuedKey, KeyInfo, NewKey } from "./Identity.ts"
import type { Restrictions } from "./Tenant.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Texts, durations, moments
// ---------------------------------------------------------------------------------------------------------------------

/** A text of some length. PostgreSQL takes no NUL, and a log line or a header none of the other control characters. */
const text = (longest: number) => {
  const message = `expected a text of 1 to ${longest} characters, none of them a control character`
  return Schema.String.annotate({ message }).check(
    Schema.isPattern(new RegExp(`^[^\\p{Cc}\\p{Cs}]{1,${longest}}$`, "u"), { message })
  )
}

const idProblem =
  "expected 1 to 64 of A-Z, a-z, 0-9, \".\", \"_\", \":\" and \"-\", the first of them a letter or a digit"

/** The id of a key. */
export const KeyId = Schema.String.annotate({ message: idProblem }).check(
  Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/u, { message: idProblem })
)

/** The name of a tenant. */
export const TenantName = text(128)

/** The name of a tenant's end user. */
export const UserName = text(256)

/** What records of a request are grouped by. */
export const Tag = text(128)

/** Tags of one caller; at most so many. */
export const maxTags = 32

const units: ReadonlyArray<readonly [string, number]> = [
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
  ["d", 86_400_000]
]
const unitMs = new Map(units)

const msOf = (given: number | string): number => {
  if (typeof given === "number") return given
  const match = /^(\d{1,12}(?:\.\d{1,3})?)(ms|s|m|h|d)$/.exec(given)
  return match === null ? Number.NaN : Number(match[1]) * (unitMs.get(match[2] ?? "") ?? Number.NaN)
}

const durationText = (ms: number): string => {
  let written = `${ms}ms`
  for (const [unit, factor] of units) if (ms !== 0 && ms % factor === 0) written = `${ms / factor}${unit}`
  return written
}

/** A duration of whole ms between two bounds, both included: as JSON has it, and as ms. */
const duration = (minimum: number, maximum: number) => {
  const message = `expected ms, or a duration such as 30s, 1m or 7d, from ${durationText(minimum)} to ${
    durationText(maximum)
  }`
  const ms = Schema.Int.annotate({ message }).check(Schema.isBetween({ minimum, maximum }, { message }))
  const written = Schema.Union([Schema.Finite, Schema.String]).annotate({ message }).check(
    Schema.makeFilter((given) => {
      const value = msOf(given)
      return Number.isInteger(value) && value >= minimum && value <= maximum
    }, { message })
  )
  return { ms, written }
}

const momentProblem = "expected a date such as 2027-01-31 or 2027-01-31T12:00:00Z, or Unix ms"
const momentPattern = /^(\d{4}-\d{2}-\d{2})(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?(?:Z|[+-]\d{2}:\d{2}))?$/
/** The end of the year 9999, after which ISO 8601 needs more digits. */
const lastMoment = 253_402_300_799_999

const momentOf = (given: number | string): number => {
  if (typeof given === "number") return given
  const day = momentPattern.exec(given)?.[1]
  if (day === undefined) return Number.NaN
  // A day that its month does not have would be moved into the next month.
  const start = DateTime.make(`${day}T00:00:00Z`)
  if (Option.isNone(start) || DateTime.formatIso(start.value).slice(0, 10) !== day) return Number.NaN
  const whole = given === day ? start : DateTime.make(given)
  return Option.isNone(whole) ? Number.NaN : DateTime.toEpochMillis(whole.value)
}

const isMoment = (ms: number): boolean => Number.isInteger(ms) && ms >= 0 && ms <= lastMoment

/** A moment; Unix ms in TypeScript. */
const Moment = Schema.Union([Schema.Finite, Schema.String]).annotate({ message: momentProblem }).check(
  Schema.makeFilter((given) => isMoment(momentOf(given)), { message: momentProblem })
).pipe(
  Schema.decodeTo(
    Schema.Finite.annotate({ message: momentProblem }).check(Schema.makeFilter(isMoment, { message: momentProblem })),
    SchemaTransformation.transform<number, number | string>({
      decode: momentOf,
      encode: (ms) => DateTime.formatIso(DateTime.makeUnsafe(ms))
    })
  )
)

const oneOf = <const Words extends ReadonlyArray<string>>(words: Words) =>
  Schema.Literals(words).annotate({ message: `expected one of ${words.join(", ")}` })

// ---------------------------------------------------------------------------------------------------------------------
// Restrictions
// ---------------------------------------------------------------------------------------------------------------------

const count = (maximum: number) => {
  const message = `expected a whole number from 1 to ${maximum}`
  return Schema.Int.annotate({ message }).check(Schema.isBetween({ minimum: 1, maximum }, { message }))
}

const RateCount = count(1e12)
const ConcurrencyCount = count(1e6)
const RateWindow = duration(1, 366 * 86_400_000)
const Scope = oneOf(["tenant", "user", "key", "model"])

const rateFields = { per: Scope, limit: RateCount, windowMs: RateWindow.ms }

// One literal for each, or a problem would be told of the first one's kind.
const RuleOfRateLimit = Schema.Union([
  Schema.Struct({ kind: Schema.Literal("requests"), ...rateFields }),
  Schema.Struct({ kind: Schema.Literal("tokens"), ...rateFields }),
  Schema.Struct({ kind: Schema.Literal("concurrent"), per: Scope, limit: ConcurrencyCount })
])

// A check of the whole is located in the caller's spelling only where no field of it is transformed: so its window is not.
const RateLimitFields = Schema.Struct({
  per: Scope,
  requests: Schema.optionalKey(RateCount),
  tokens: Schema.optionalKey(RateCount),
  concurrent: Schema.optionalKey(ConcurrencyCount),
  window: Schema.optionalKey(RateWindow.written)
}).check(Schema.makeFilter(({ concurrent, requests, tokens, window }) => {
  const given = [requests, tokens, concurrent].filter((value) => value !== undefined).length
  if (given !== 1) return "needs exactly one of requests, tokens and concurrent"
  if (concurrent !== undefined) {
    return window === undefined ? undefined : "a limit of concurrent requests has no window"
  }
  return window === undefined ? "needs a window, such as 1m" : undefined
}))

/** A limit: `{"per": "user", "requests": 60, "window": "1m"}`, or with `tokens`, or `concurrent` without a window. */
export const RateLimitRuleJson = RateLimitFields.pipe(Schema.decodeTo(
  RuleOfRateLimit,
  SchemaTransformation.transform<typeof RuleOfRateLimit.Encoded, typeof RateLimitFields.Type>({
    decode: ({ concurrent, per, requests, tokens, window }) =>
      concurrent === undefined
        ? {
          kind: requests === undefined ? "tokens" : "requests",
          per,
          limit: requests ?? tokens ?? 0,
          windowMs: msOf(window ?? 0)
        }
        : { kind: "concurrent", per, limit: concurrent },
    encode: (rule) =>
      rule.kind === "concurrent"
        ? { per: rule.per, concurrent: rule.limit }
        : { per: rule.per, [rule.kind]: rule.limit, window: durationText(rule.windowMs) }
  })
))

const nanoPerUsd = 1e9
/** Beyond some nine million USD, nano-USD are no longer exact in a double. */
const maxUsd = 9_000_000
const usdProblem = `expected US dollars from 0 to ${maxUsd}`

const Usd = Schema.Finite.annotate({ message: usdProblem }).check(
  Schema.isBetween({ minimum: 0, maximum: maxUsd }, { message: usdProblem })
).pipe(Schema.decodeTo(
  Schema.Int.annotate({ message: usdProblem }).check(
    Schema.isBetween({ minimum: 0, maximum: maxUsd * nanoPerUsd }, { message: usdProblem })
  ),
  SchemaTransformation.transform<number, number>({
    decode: (usd) => Math.round(usd * nanoPerUsd),
    encode: (nano) => nano / nanoPerUsd
  })
))

/** A budget: `{"per": "user", "usd": 20, "window": "day"}`. */
export const BudgetRuleJson = Schema.Struct({
  per: oneOf(["tenant", "user", "key", "model", "tag"]),
  limitNanoUsd: Usd,
  window: oneOf(["hour", "day", "week", "month", "total"])
}).pipe(Schema.encodeKeys({ limitNanoUsd: "usd" }))

const list = <S extends Schema.Constraint>(item: S, longest: number) => {
  const message = `expected a list of at most ${longest}`
  return Schema.Array(item).annotate({ message }).check(Schema.isMaxLength(longest, { message }))
}

const none = Effect.succeed([])

/** `models` are patterns of canonical model ids, such as `openai::*`. */
const restrictionFields = {
  models: Schema.optionalKey(list(text(256), 256)),
  rateLimits: list(RateLimitRuleJson, 32).pipe(Schema.withDecodingDefaultKey(none)),
  budgets: list(BudgetRuleJson, 32).pipe(Schema.withDecodingDefaultKey(none))
}

/** What a key may do: `{"models": […], "rate_limits": […], "budgets": […]}`. */
export const RestrictionsJson = Schema.Struct(restrictionFields).pipe(Schema.encodeKeys({ rateLimits: "rate_limits" }))

/** The restrictions by themselves, without what else is in the value. */
export const restrictionsOf = ({ budgets, models, rateLimits }: Restrictions): Restrictions => ({
  ...(models === undefined ? {} : { models }),
  rateLimits,
  budgets
})

// ---------------------------------------------------------------------------------------------------------------------
// Keys
// ---------------------------------------------------------------------------------------------------------------------

const ownerFields = {
  name: Schema.optionalKey(text(128)),
  tenant: TenantName,
  user: Schema.optionalKey(UserName)
}

/** What a new key is made of. */
export const NewKeyJson = Schema.Struct({
  id: Schema.optionalKey(KeyId),
  ...ownerFields,
  tags: list(Tag, maxTags).pipe(Schema.withDecodingDefaultKey(none)),
  admin: Schema.Boolean.annotate({ message: "expected true or false" }).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed(false))
  ),
  ...restrictionFields,
  expiresAt: Schema.optionalKey(Moment)
}).pipe(Schema.encodeKeys({ rateLimits: "rate_limits", expiresAt: "expires_at" }))
export interface NewKeyJson extends Schema.Schema.Type<typeof NewKeyJson> {}

/** The new key that the JSON describes. */
export const newKeyOf = ({ budgets, models, rateLimits, ...key }: NewKeyJson): NewKey => ({
  ...key,
  restrictions: { ...(models === undefined ? {} : { models }), rateLimits, budgets }
})

/** What JSON has for a new key. */
export const newKeyJson = ({ restrictions, ...key }: NewKey): NewKeyJson => ({
  ...key,
  ...restrictionsOf(restrictions)
})

/** What is known of a key. Its texts were checked when it was made, or are the configuration's own. */
export const KeyJson = Schema.Struct({
  id: Schema.String,
  name: Schema.optionalKey(Schema.String),
  tenant: Schema.String,
  user: Schema.optionalKey(Schema.String),
  tags: Schema.Array(Schema.String),
  admin: Schema.Boolean,
  ...restrictionFields,
  models: Schema.optionalKey(Schema.Array(Schema.String)),
  source: Schema.Literals(["configuration", "store"]),
  createdAt: Schema.optionalKey(Moment),
  expiresAt: Schema.optionalKey(Moment),
  revokedAt: Schema.optionalKey(Moment)
}).pipe(Schema.encodeKeys({
  rateLimits: "rate_limits",
  createdAt: "created_at",
  expiresAt: "expires_at",
  revokedAt: "revoked_at"
}))
export interface KeyJson extends Schema.Schema.Type<typeof KeyJson> {}

/** What JSON has for a key. */
export const keyJson = ({ restrictions, ...key }: KeyInfo): KeyJson => ({ ...key, ...restrictionsOf(restrictions) })

/** A key that was just made, with its secret, which is shown this once. */
export const IssuedKeyJson = Schema.Struct({ key: KeyJson, secret: Schema.String })
export interface IssuedKeyJson extends Schema.Schema.Type<typeof IssuedKeyJson> {}

/** What JSON has for a key that was just made: the one place where its secret is written out. */
export const issuedKeyJson = ({ key, secret }: IssuedKey): IssuedKeyJson => ({
  key: keyJson(key),
  secret: Redacted.value(secret)
})

/** Some keys; `next` is what `after` must be for those behind them, and absent where there are none. */
export const KeyListJson = Schema.Struct({ keys: Schema.Array(KeyJson), next: Schema.optionalKey(Schema.String) })

/** The longest that old secrets may stay good after a rotation, ms: 30 days. */
export const maxGraceMs = 30 * 86_400_000
const graceBounds = duration(0, maxGraceMs)

/** How long old secrets stay good after a rotation, ms. */
export const Grace = graceBounds.written.pipe(Schema.decodeTo(
  graceBounds.ms,
  SchemaTransformation.transform<number, number | string>({ decode: msOf, encode: durationText })
))

/** How a key is rotated: `{"grace": "1h"}`; without it the old secret is refused from now on. */
export const RotationJson = Schema.Struct({
  grace: Grace.pipe(Schema.withDecodingDefaultKey(Effect.succeed(0)))
})
