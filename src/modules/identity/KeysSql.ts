/**
 * Keys that are kept in the database, beside those of the configuration. They are shown once and kept as hashes; requests
 * with a key that was used lately do not reach the database.
 */
import { Context, Effect, Layer, Redacted, Result, Schema } from "effect"
import type { SqlClient, SqlError } from "effect/sql"
import { randomBytes } from "node:crypto"
import { fail, type GatewayError, invalid, StoreUnavailable } from "../../sdk/GatewayError.ts"
import { Identity, type IssuedKey, type KeyInfo, Keys, type NewKey } from "../../sdk/Identity.ts"
import { validationError } from "../../sdk/Issues.ts"
import { KeyId, maxGraceMs, NewKeyJson, newKeyJson, newKeyOf } from "../../sdk/KeyJson.ts"
import { logOf } from "../../sdk/Log.ts"
import { Admission, admit, type Answer, configuredTenants, noKey, revokedKey, unknownKey } from "./Admission.ts"
import { admissions, type ApiKey, callerOf, keyInfo } from "./IdentityKeys.ts"
import * as KeyCache from "./KeyCache.ts"
import * as KeySecret from "./KeySecret.ts"
import * as KeyTable from "./KeyTable.ts"
import * as SteadyTime from "./SteadyTime.ts"

const log = logOf("identity")

/** The steps that make the tables of keys. */
export const migrations = KeyTable.migrations

/** The keys of the configuration, and how long those of the database are kept in memory. */
export interface KeysSqlOptions extends KeyCache.KeyCacheOptions {
  /** Keys that the configuration lists; they come first, and cannot be changed here. */
  readonly keys?: ReadonlyArray<ApiKey>
}

/** How long an operation on the database may take, ms; requests that are authenticated have less patience. */
const operationTimeout = 10_000

const newId = (): string => `key_${randomBytes(12).toString("hex")}`

const encodeNew = Schema.encodeResult(NewKeyJson, { errors: "all" })
const decodeNew = Schema.decodeUnknownResult(NewKeyJson, { errors: "all" })

/** A key is checked as if it had come in as JSON: what is stored must be readable again. */
const checked = (key: NewKey): Effect.Effect<NewKey, GatewayError> =>
  Effect.fromResult(
    Result.flatMap(encodeNew(newKeyJson(key)), decodeNew).pipe(
      Result.mapBoth({ onFailure: (error) => fail(validationError(error)), onSuccess: newKeyOf })
    )
  )

const unreadable: Answer = Effect.fail(fail(
  new StoreUnavailable({ message: "this API key's record cannot be read; ask the gateway's operator", store: "keys" })
))

const ofConfiguration = (id: string): GatewayError =>
  fail(invalid("id", `the key "${id}" is in the configuration; change it there`))

/** What the database could not do is told the caller without its reason, which goes to the log, there without any values. */
const orUnavailable = <A, R>(
  operation: Effect.Effect<A, GatewayError | SqlError.SqlError, R>
): Effect.Effect<A, GatewayError, R> =>
  operation.pipe(
    Effect.timeout(operationTimeout),
    Effect.catchTags({
      SqlError: ({ reason }) => failedBecause(reason._tag),
      TimeoutError: () => failedBecause(`no answer within ${operationTimeout} ms`)
    })
  )

const failedBecause = (reason: string) =>
  Effect.andThen(
    log.warning(`an operation on the key store failed: ${reason}`),
    Effect.fail(KeyCache.unavailable)
  )

const isKeyId = Schema.is(KeyId)

const inOrder = (a: KeyInfo, b: KeyInfo): number => a.id < b.id ? -1 : 1

/** The keys of the configuration, which may be replaced by others while requests come in. */
export class ConfiguredKeys extends Context.Service<ConfiguredKeys, {
  /** From now on these are the configuration's; the tenants of all keys are looked up anew. */
  readonly replace: (keys: ReadonlyArray<ApiKey>) => void
}>()("llm-gateway/modules/identity/ConfiguredKeys") {}

const infosOf = (keys: ReadonlyArray<ApiKey>): ReadonlyMap<string, KeyInfo> =>
  new Map(keys.map((key) => [key.id, keyInfo(key)]))

/**
 * `Keys`, and the `Identity` that knows them and those of the configuration. Needs the tables that `migrations` make, but
 * asks nothing of the database when it is built. Where the context of this Layer has `Tenants`, a key's tenant must be one
 * of them.
 */
export const layer = (
  options: KeysSqlOptions = {}
): Layer.Layer<Identity | Keys | ConfiguredKeys, never, SqlClient.SqlClient> =>
  Layer.effectContext(Effect.gen(function*() {
    const tenants = yield* configuredTenants
    const time = yield* SteadyTime.make
    const table = yield* KeyTable.make
    let configured = infosOf(options.keys ?? [])
    let configuredAdmissions = admissions(options.keys ?? [], tenants)

    const admissionOf = ({ digest, goodUntil, key }: KeyTable.SecretRecord): KeyCache.StoredAdmission => {
      if (key === undefined) return { id: "", admission: new Admission(digest, unreadable, Infinity, Infinity) }
      const revoked = key.revokedAt !== undefined
      const answer = revoked ? revokedKey : admit(callerOf(key), tenants)
      const until = revoked ? Infinity : key.expiresAt ?? Infinity
      return { id: key.id, admission: new Admission(digest, answer, until, goodUntil) }
    }

    const cache = yield* KeyCache.make(
      (digests) =>
        table.find(digests).pipe(
          Effect.tap((records) =>
            records.some(({ key }) => key === undefined)
              ? log.warning("a key's record in the database cannot be read; the key is refused")
              : Effect.void
          ),
          Effect.map((records) => new Map(records.map((record) => [record.digest, admissionOf(record)])))
        ),
      time,
      options
    )

    const identity = Identity.of({
      authenticate: (secret) =>
        Effect.suspend(() => {
          if (secret === undefined) return noKey
          const value = secret.reveal()
          const digest = KeySecret.digest(value)
          const own = KeySecret.isTooLong(value) ? undefined : configuredAdmissions.get(digest)
          if (own !== undefined) return own.answer(digest, time())
          return KeySecret.isWellFormed(value) ? cache.answer(digest) : unknownKey
        })
    })

    /** The database is not asked for what no stored key can be called, such as what PostgreSQL takes for no text. */
    const onStored = <A, R>(id: string, operation: Effect.Effect<A, GatewayError | SqlError.SqlError, R>) =>
      isKeyId(id) ? orUnavailable(operation) : Effect.fail(KeyTable.noKey(id))

    /** Whatever becomes of the change, the database is asked for the key anew. */
    const changing = <A, R>(id: string, change: Effect.Effect<A, GatewayError | SqlError.SqlError, R>) =>
      configured.has(id)
        ? Effect.fail(ofConfiguration(id))
        : Effect.ensuring(onStored(id, change), Effect.sync(() => cache.forget(id)))

    const issued = (key: KeyInfo, secret: string): IssuedKey => ({ key, secret: Redacted.make(secret) })

    const keys = Keys.of({
      create: Effect.fn("Keys.create")(function*(asked) {
        const { id = newId(), ...rest } = yield* checked(asked)
        const now = Math.floor(time())
        if (configured.has(id)) return yield* fail(invalid("id", `there is a key "${id}" already`))
        if (tenants !== undefined && tenants.lineage(rest.tenant) === undefined) {
          return yield* fail(invalid("tenant", `there is no tenant "${rest.tenant}"`))
        }
        if (rest.expiresAt !== undefined && rest.expiresAt <= now) {
          return yield* fail(invalid("expires_at", "is in the past"))
        }
        const key: KeyInfo = { id, ...rest, source: "store", createdAt: now }
        const secret = KeySecret.make()
        yield* orUnavailable(table.insert(key, KeySecret.digest(secret)))
        return issued(key, secret)
      }),

      get: Effect.fn("Keys.get")(function*(id) {
        return configured.get(id) ?? (yield* onStored(id, table.get(id)))
      }),

      list: Effect.fn("Keys.list")(function*({ after = "", limit, tenants: some }) {
        const wanted = some === undefined ? undefined : new Set(some)
        const own = Array.from(configured.values()).filter(({ id, tenant }) =>
          id > after && wanted?.has(tenant) !== false
        )
        const stored = some?.length === 0
          ? []
          : yield* orUnavailable(table.list({ tenants: some, after, limit }))
        return [...own, ...stored].sort(inOrder).slice(0, limit)
      }),

      revoke: Effect.fn("Keys.revoke")(function*(id) {
        return yield* changing(id, table.revoke(id, Math.floor(time())))
      }),

      rotate: Effect.fn("Keys.rotate")(function*(id, graceMs) {
        if (!Number.isInteger(graceMs) || graceMs < 0 || graceMs > maxGraceMs) {
          return yield* fail(invalid("grace", `expected ms from 0 to ${maxGraceMs}`))
        }
        const secret = KeySecret.make()
        const rotation = table.rotate(id, KeySecret.digest(secret), Math.floor(time()), graceMs)
        return issued(yield* changing(id, rotation), secret)
      })
    })

    const replace = (replacements: ReadonlyArray<ApiKey>): void => {
      configured = infosOf(replacements)
      configuredAdmissions = admissions(replacements, tenants)
      cache.renew()
    }
    return Context.make(Identity, identity).pipe(
      Context.add(Keys, keys),
      Context.add(ConfiguredKeys, { replace })
    )
  }))
