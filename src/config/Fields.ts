/**
 * What the configuration's schema is built of. Every field says in its own words what it expects, and no message holds the
 * value that it complains about, since that may be a secret from the environment.
 *
 * Numbers and switches may come as text as well, because `port: ${PORT:-8080}` is text once the variable is put in.
 * `section` turns the file's snake_case keys into camelCase ones *after* all fields are decoded, so that every problem of
 * a section is found in one go and is located in the file's own spelling.
 */
import { DateTime, Option, Redacted, Result, Schema, SchemaGetter, SchemaTransformation } from "effect"

/** `max_body` as `maxBody`. */
type Camel<K extends string> = K extends `${infer Head}_${infer Rest}` ? `${Head}${Capitalize<Camel<Rest>>}` : K

/** The same record with its own keys in camelCase; what is inside the values stays as it is. */
export type CamelKeys<T> = { readonly [K in keyof T as K extends string ? Camel<K> : K]: T[K] }

const camel = (key: string): string => key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

/** A mapping of the file: its fields under the file's names, decoded to a record with camelCase keys. */
export const section = <const F extends Schema.Struct.Fields>(
  fields: F,
  ...checks: ReadonlyArray<(value: Schema.Struct.Type<F>) => string | undefined>
): Schema.Codec<CamelKeys<Schema.Struct.Type<F>>, Schema.Struct.Encoded<F>> => {
  const names = Object.keys(fields).map((name) => [name, camel(name)] as const)
  const rename = (from: 0 | 1, to: 0 | 1) => (value: unknown): unknown => {
    const renamed: Record<string, unknown> = {}
    for (const pair of names) {
      const entry = Object.getOwnPropertyDescriptor(value, pair[from])
      if (entry !== undefined) renamed[pair[to]] = entry.value
    }
    return renamed
  }
  const struct = Schema.Struct(fields).check(
    Schema.makeFilter((value) => checks.map((check) => check(value)).find((problem) => problem !== undefined))
  )
  const renamed = struct.pipe(Schema.decodeTo(Schema.Unknown, {
    decode: SchemaGetter.transform(rename(0, 1)),
    encode: SchemaGetter.transform<Schema.Struct.Type<F>, unknown>(
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- `rename` gives back the keys that the struct has
      (value) => rename(1, 0)(value) as Schema.Struct.Type<F>
    )
  }))
  // `rename` moves each value from its file name to the camelCase name; TypeScript cannot follow computed keys.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- see above
  return renamed as unknown as Schema.Codec<CamelKeys<Schema.Struct.Type<F>>, Schema.Struct.Encoded<F>>
}

// ------------------------------------------------------------------------------------------------------------------
// Texts
// ------------------------------------------------------------------------------------------------------------------

/** A text that is not empty. */
export const Text = Schema.String.check(Schema.isMinLength(1, { message: "must not be empty" }))

/** One of a few words. */
export const oneOf = <const L extends ReadonlyArray<string>>(words: L) => Schema.Literals(words)

/** A text that must match; `problem` says what was expected. */
export const matching = (pattern: RegExp, problem: string) =>
  Schema.String.annotate({ message: problem }).check(Schema.isPattern(pattern, { message: problem }))

/** An optional key whose empty text means that it is not there, as in `${NAME:-}`. */
export const absentIfEmpty = <S extends Schema.Codec<string, string>>(text: S) =>
  Schema.optionalKey(text).pipe(Schema.decodeTo(
    Schema.optionalKey(Schema.String),
    SchemaTransformation.transformOptional<string, string>({
      decode: Option.filter((value) => value !== ""),
      encode: (value) => value
    })
  ))

/** Like `absentIfEmpty`, for a secret. */
export const secretAbsentIfEmpty = <S extends Schema.Codec<string, string>>(text: S) =>
  Schema.optionalKey(text).pipe(Schema.decodeTo(
    Schema.optionalKey(Schema.Redacted(Schema.String)),
    SchemaTransformation.transformOptional<Redacted.Redacted, string>({
      decode: (value) => Option.map(Option.filter(value, (text) => text !== ""), (text) => Redacted.make(text)),
      encode: Option.map(Redacted.value)
    })
  ))

/** A list of secrets, in which an empty text stands for none. */
export const secrets = <S extends Schema.Codec<string, string>>(text: S) =>
  Schema.Array(text).pipe(Schema.decodeTo(
    Schema.Array(Schema.Redacted(Schema.String)),
    SchemaTransformation.transform<ReadonlyArray<Redacted.Redacted>, ReadonlyArray<string>>({
      decode: (texts) => texts.filter((text) => text !== "").map((text) => Redacted.make(text)),
      encode: (values) => values.map((value) => Redacted.value(value))
    })
  ))

const httpProblem = "expected an http or https URL"

const urlProblem = (text: string): string | undefined => {
  if (text === "") return undefined
  if (!URL.canParse(text) || !/^https?:\/\//i.test(text)) return httpProblem
  const url = new URL(text)
  if (url.username !== "" || url.password !== "") return "must hold no user name or password"
  return undefined
}

/** An http or https URL without credentials; an empty text is let through for `absentIfEmpty`. */
export const HttpUrlOrEmpty = Schema.String.annotate({ message: httpProblem }).check(Schema.makeFilter(urlProblem))

/** An http or https URL without credentials. */
export const HttpUrl = HttpUrlOrEmpty.check(Schema.isMinLength(1, { message: httpProblem }))

const redisProblem = "expected redis://host:port or rediss://host:port"
const redisUnreadable = "cannot be read; it has the form redis://user:password@host:6379/0, with characters such as " +
  "/ ? # @ % in the password percent-encoded"

const isDecodable = (text: string): boolean => Result.isSuccess(Result.try(() => decodeURIComponent(text)))

/** What the client would die of when it is made, and then with a stack instead of a line. */
const redisUrlProblem = (text: string): string | undefined => {
  // Another check tells of it, or it is none.
  if (!/^rediss?:\/\/./.test(text)) return undefined
  if (!URL.canParse(text)) return redisUnreadable
  const { hostname, password, pathname, username } = new URL(text)
  return hostname !== "" && isDecodable(username) && isDecodable(password) && /^(?:\/\d{0,9})?$/.test(pathname)
    ? undefined
    : redisUnreadable
}

/** The address of a Redis, with a number of a database if any; an empty text is let through for `secretAbsentIfEmpty`. */
export const RedisUrlOrEmpty = matching(/^(?:|rediss?:\/\/.+)$/u, redisProblem).check(
  Schema.makeFilter(redisUrlProblem)
)

/** A URL that paths are appended to, without query and fragment; decoded without slashes at its end. */
export const BaseUrl = HttpUrlOrEmpty.check(
  Schema.makeFilter((text: string) => !/[?#]/.test(text), {
    message: "must have no query (?...) and no fragment (#...)"
  })
).pipe(Schema.decode(SchemaTransformation.transform({
  decode: (text) => text.replace(/\/+$/, ""),
  encode: (text) => text
})))

const dateProblem = "expected a date such as 2027-01-31 or 2027-01-31T12:00:00Z"
const datePattern =
  /^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?(?:Z|[+-]\d{2}:\d{2}))?$/u

const instant = (text: string): number | undefined => {
  if (!datePattern.test(text)) return undefined
  // A day that its month does not have would be moved into the next month.
  const day = DateTime.make(`${text.slice(0, 10)}T00:00:00Z`)
  if (Option.isNone(day) || DateTime.formatIso(day.value).slice(0, 10) !== text.slice(0, 10)) return undefined
  const whole = DateTime.make(text.length === 10 ? `${text}T00:00:00Z` : text)
  return Option.isNone(whole) ? undefined : DateTime.toEpochMillis(whole.value)
}

/** A day (its begin in UTC) or a moment; Unix ms in TypeScript. */
export const Moment = Schema.String.annotate({ message: dateProblem }).check(
  Schema.isPattern(datePattern, { message: dateProblem }),
  Schema.makeFilter((text: string) => instant(text) !== undefined, { message: dateProblem })
).pipe(Schema.decodeTo(
  Schema.Finite,
  SchemaTransformation.transform({
    decode: (text) => instant(text) ?? 0,
    encode: (ms) => DateTime.formatIso(DateTime.makeUnsafe(ms))
  })
))

// ------------------------------------------------------------------------------------------------------------------
// Numbers and switches
// ------------------------------------------------------------------------------------------------------------------

/** A whole number between two bounds, both included. */
export const integer = (minimum: number, maximum: number) =>
  Schema.Union([
    Schema.Int.check(Schema.isBetween({ minimum, maximum })),
    Schema.String.check(Schema.makeFilter((text: string) => {
      const value = /^-?\d{1,15}$/.test(text) ? Number(text) : Number.NaN
      return value >= minimum && value <= maximum
    }))
  ]).annotate({ message: `expected a whole number from ${minimum} to ${maximum}` }).pipe(Schema.decodeTo(
    Schema.Finite,
    SchemaTransformation.transform<number, number | string>({ decode: Number, encode: (value) => value })
  ))

/** A number that is not negative. */
export const Amount = Schema.Union([
  Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1e12 })),
  Schema.String.check(Schema.makeFilter((text: string) => /^\d{1,12}(?:\.\d{1,9})?$/.test(text)))
]).annotate({ message: "expected a number from 0 to 1e12" }).pipe(Schema.decodeTo(
  Schema.Finite,
  SchemaTransformation.transform<number, number | string>({ decode: Number, encode: (value) => value })
))

const shareProblem = "expected a number from 0 to 1"

/** A share of the whole, 0 to 1. */
export const Share = Schema.Union([
  Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })),
  Schema.String.check(Schema.makeFilter((text: string) => /^(?:0(?:\.\d{1,9})?|1(?:\.0{1,9})?)$/.test(text)))
]).annotate({ message: shareProblem }).pipe(Schema.decodeTo(
  Schema.Finite,
  SchemaTransformation.transform<number, number | string>({ decode: Number, encode: (value) => value })
))

/** `true` or `false`. */
export const Switch = Schema.Union([Schema.Boolean, Schema.Literals(["true", "false"])]).annotate({
  message: "expected true or false"
}).pipe(Schema.decodeTo(
  Schema.Boolean,
  SchemaTransformation.transform<boolean, boolean | "true" | "false">({
    decode: (value) => value === true || value === "true",
    encode: (value) => value
  })
))
