/**
 * `llm-gateway keys create | list | revoke | rotate`. A new secret is the only thing on standard output, so that
 * `KEY=$(llm-gateway keys create --tenant acme)` works; with `--json` the whole answer is, as the admin API gives it.
 */
import { Console, Effect, type Layer, Option, Redacted, Result, Schema } from "effect"
import { Argument, CliError, Command, Flag } from "effect/cli"
import { fail, type GatewayError, invalid } from "../sdk/GatewayError.ts"
import { type IssuedKey, type KeyInfo, Keys } from "../sdk/Identity.ts"
import { validationError } from "../sdk/Issues.ts"
import {
  Grace,
  IssuedKeyJson,
  issuedKeyJson,
  KeyJson,
  keyJson,
  KeyListJson,
  NewKeyJson,
  newKeyOf
} from "../sdk/KeyJson.ts"

const decodeNewKey = Schema.decodeUnknownResult(NewKeyJson, { errors: "all", onExcessProperty: "error" })
const decodeGrace = Schema.decodeUnknownResult(Grace)
const encodeIssued = Schema.encodeSync(IssuedKeyJson)
const encodeKey = Schema.encodeSync(KeyJson)
const encodeList = Schema.encodeSync(KeyListJson)

/** What the command line says of a new key; rules are JSON, as in the admin API. */
export interface NewKeyFlags {
  readonly id: Option.Option<string>
  readonly tenant: string
  readonly user: Option.Option<string>
  readonly name: Option.Option<string>
  readonly tags: ReadonlyArray<string>
  readonly models: ReadonlyArray<string>
  readonly rateLimits: ReadonlyArray<string>
  readonly budgets: ReadonlyArray<string>
  readonly admin: boolean
  /** A date, or Unix ms. */
  readonly expires: Option.Option<string>
}

const given = <A>(name: string, value: Option.Option<A>): Readonly<Record<string, A>> =>
  Option.match(value, { onNone: () => ({}), onSome: (some) => ({ [name]: some }) })

const rules = (flag: string, texts: ReadonlyArray<string>): Result.Result<ReadonlyArray<unknown>, GatewayError> =>
  Result.mapError(
    Result.try(() => texts.map((text): unknown => JSON.parse(text))),
    () => fail(invalid(flag, "expected JSON, such as {\"per\": \"key\", …}"))
  )

const printIssued = (issued: IssuedKey, asJson: boolean) =>
  asJson
    ? Console.log(JSON.stringify(encodeIssued(issuedKeyJson(issued))))
    : Effect.andThen(
      Console.error(`key ${issued.key.id} of tenant ${issued.key.tenant}; its secret is shown this once:`),
      Console.log(Redacted.value(issued.secret))
    )

/** Makes a key and prints its secret. Fails as `Keys.create`. */
export const create = Effect.fnUntraced(function*(flags: NewKeyFlags, asJson: boolean) {
  const keys = yield* Keys
  const rateLimits = yield* Effect.fromResult(rules("rate-limit", flags.rateLimits))
  const budgets = yield* Effect.fromResult(rules("budget", flags.budgets))
  const expires = Option.map(flags.expires, (text) => /^\d+$/.test(text) ? Number(text) : text)
  const asked = yield* Effect.fromResult(Result.mapError(
    decodeNewKey({
      tenant: flags.tenant,
      tags: flags.tags,
      admin: flags.admin,
      rate_limits: rateLimits,
      budgets,
      ...(flags.models.length === 0 ? {} : { models: flags.models }),
      ...given("id", flags.id),
      ...given("user", flags.user),
      ...given("name", flags.name),
      ...given("expires_at", expires)
    }),
    (error) => fail(validationError(error))
  ))
  yield* printIssued(yield* keys.create(newKeyOf(asked)), asJson)
})

const pageSize = 1000

/** All keys, of one tenant where it is given. Fails as `Keys.list`. */
const allKeys = Effect.fnUntraced(function*(tenant: Option.Option<string>) {
  const keys = yield* Keys
  const tenants = Option.match(tenant, { onNone: () => ({}), onSome: (some) => ({ tenants: [some] }) })
  const all: Array<KeyInfo> = []
  for (;;) {
    const after = all.at(-1)?.id
    const page = yield* keys.list({ limit: pageSize, ...tenants, ...(after === undefined ? {} : { after }) })
    all.push(...page)
    if (page.length < pageSize) return all
  }
})

const stateOf = (key: typeof KeyJson.Encoded): string => {
  if (key.revoked_at !== undefined) return `revoked ${key.revoked_at}`
  return key.expires_at === undefined ? "good" : `until ${key.expires_at}`
}

const line = (key: typeof KeyJson.Encoded): string =>
  [key.id, key.tenant, key.user ?? "-", key.admin ? "admin" : "-", key.source, stateOf(key), key.name ?? ""].join("\t")

/** Prints the keys, one on each line with tabs between what is known of it. Fails as `Keys.list`. */
export const list = Effect.fnUntraced(function*(tenant: Option.Option<string>, asJson: boolean) {
  const all = yield* allKeys(tenant)
  if (asJson) return yield* Console.log(JSON.stringify(encodeList({ keys: all.map(keyJson) })))
  for (const key of all) yield* Console.log(line(encodeKey(keyJson(key))))
})

/** Revokes a key. Fails as `Keys.revoke`. */
export const revoke = Effect.fnUntraced(function*(id: string, asJson: boolean) {
  const keys = yield* Keys
  const key = yield* keys.revoke(id)
  yield* Console.log(asJson ? JSON.stringify(encodeKey(keyJson(key))) : `key ${key.id} is revoked`)
})

/** Gives a key a new secret and prints it; `grace` is a duration. Fails as `Keys.rotate`. */
export const rotate = Effect.fnUntraced(function*(id: string, grace: string, asJson: boolean) {
  const keys = yield* Keys
  const graceMs = yield* Effect.fromResult(
    Result.mapError(decodeGrace(grace), (error) => fail(invalid("grace", validationError(error).message)))
  )
  yield* printIssued(yield* keys.rotate(id, graceMs), asJson)
})

const asJson = Flag.Boolean("json").pipe(Flag.withDescription("Print JSON"), Flag.withDefault(false))
const id = Argument.String("id").pipe(Argument.withDescription("The key's id"))

const texts = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(`${description}; may be given several times`), Flag.atLeast(0))
const text = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.optional)

/**
 * The command `keys`. `config` is the flag that names the configuration's file, and `keysOf` the keys that the
 * configuration describes; whatever fails ends the command with a message for its user.
 */
export const make = <E, R>(
  config: Flag.Flag<Option.Option<string>>,
  keysOf: (file: Option.Option<string>) => Layer.Layer<Keys, E, R>
) => {
  const withKeys = <A>(file: Option.Option<string>, work: Effect.Effect<A, GatewayError, Keys>) =>
    work.pipe(
      Effect.catchTag("GatewayError", ({ code, message }) =>
        Effect.fail(new CliError.UserError({ cause: code, userMessage: `${code}: ${message}` }))),
      Effect.provide(keysOf(file))
    )

  const createCommand = Command.make("create", {
    config,
    json: asJson,
    tenant: Flag.String("tenant").pipe(Flag.withDescription("On whose account requests run")),
    id: text("id", "An id of your own; made up otherwise"),
    user: text("user", "The end user that the key stands for"),
    name: text("name", "What you call it"),
    tags: texts("tag", "A tag for records"),
    models: texts("model", "A pattern of the models that it may use, such as openai::*"),
    rateLimits: texts("rate-limit", "A limit, such as {\"per\": \"key\", \"requests\": 60, \"window\": \"1m\"}"),
    budgets: texts("budget", "A budget, such as {\"per\": \"key\", \"usd\": 20, \"window\": \"month\"}"),
    admin: Flag.Boolean("admin").pipe(
      Flag.withDescription("The key may administrate the gateway"),
      Flag.withDefault(false)
    ),
    expires: text("expires", "When it is no longer good, such as 2027-01-31")
  }, ({ config: file, json, ...flags }) => withKeys(file, create(flags, json))).pipe(
    Command.withDescription("Makes a key and prints its secret, once")
  )

  const listCommand = Command.make("list", {
    config,
    json: asJson,
    tenant: text("tenant", "The keys of this tenant alone")
  }, ({ config: file, json, tenant }) => withKeys(file, list(tenant, json))).pipe(
    Command.withDescription("Lists the keys: id, tenant, user, right, source, state, name")
  )

  const revokeCommand = Command.make(
    "revoke",
    { config, json: asJson, id },
    ({ config: file, id, json }) => withKeys(file, revoke(id, json))
  ).pipe(Command.withDescription("Makes a key useless, for good"))

  const rotateCommand = Command.make("rotate", {
    config,
    json: asJson,
    id,
    grace: Flag.String("grace").pipe(
      Flag.withDescription("How long the old secret stays good, such as 1h; default not at all"),
      Flag.withDefault("0ms")
    )
  }, ({ config: file, grace, id, json }) => withKeys(file, rotate(id, grace, json))).pipe(
    Command.withDescription("Gives a key a new secret and prints it, once")
  )

  return Command.make("keys").pipe(
    Command.withDescription("Makes, lists, revokes and rotates keys"),
    Command.withSubcommands([createCommand, listCommand, revokeCommand, rotateCommand])
  )
}
