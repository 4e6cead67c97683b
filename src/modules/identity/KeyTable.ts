/**
 * The tables of keys. A key has one secret, and after a rotation for a while several; of secrets only their SHA-256 is kept.
 * All that callers wrote goes in as parameters.
 */
import { Effect, Result, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { fail, type GatewayError, invalid, NotFound } from "../../sdk/GatewayError.ts"
import type { KeyInfo } from "../../sdk/Identity.ts"
import { RestrictionsJson, restrictionsOf } from "../../sdk/KeyJson.ts"

/** The steps that make the tables. */
export const migrations: Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>> = {
  "0001_api_keys": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    // Ids are listed in the order of their bytes, which is SQLite's own and in PostgreSQL that of the collation "C".
    const id = sql.literal(sql.onDialectOrElse({ pg: () => `TEXT COLLATE "C"`, orElse: () => "TEXT" }))
    yield* sql`
      CREATE TABLE api_keys (
        id ${id} PRIMARY KEY,
        name TEXT,
        tenant TEXT NOT NULL,
        end_user TEXT,
        tags TEXT NOT NULL,
        admin SMALLINT NOT NULL,
        restrictions TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        expires_at BIGINT,
        revoked_at BIGINT,
        rotated_at BIGINT
      )`
    yield* sql`CREATE INDEX api_keys_tenant ON api_keys (tenant, id)`
    yield* sql`
      CREATE TABLE api_key_secrets (
        sha256 TEXT PRIMARY KEY,
        key_id ${id} NOT NULL REFERENCES api_keys (id),
        good_until BIGINT
      )`
    yield* sql`CREATE INDEX api_key_secrets_key ON api_key_secrets (key_id)`
  })
}

/** Unix ms: PostgreSQL's driver gives a bigint. */
const Millis = Schema.Union([Schema.Finite, Schema.BigInt])
const MillisOrNull = Schema.NullOr(Millis)

const keyColumns = {
  id: Schema.String,
  name: Schema.NullOr(Schema.String),
  tenant: Schema.String,
  end_user: Schema.NullOr(Schema.String),
  tags: Schema.fromJsonString(Schema.Array(Schema.String)),
  admin: Millis,
  restrictions: Schema.fromJsonString(RestrictionsJson),
  created_at: Millis,
  expires_at: MillisOrNull,
  revoked_at: MillisOrNull
}
const KeyRow = Schema.Struct(keyColumns)
const SecretRow = Schema.Struct({ ...keyColumns, sha256: Schema.String, good_until: MillisOrNull })

const decodeKeys = Schema.decodeUnknownResult(Schema.Array(KeyRow))
const decodeSecret = Schema.decodeUnknownResult(SecretRow)
const encodeRestrictions = Schema.encodeSync(Schema.fromJsonString(RestrictionsJson))
const digestOf = Schema.decodeUnknownResult(Schema.Struct({ sha256: Schema.String }))

const keyOf = (row: typeof KeyRow.Type): KeyInfo => ({
  id: row.id,
  ...(row.name === null ? {} : { name: row.name }),
  tenant: row.tenant,
  ...(row.end_user === null ? {} : { user: row.end_user }),
  tags: row.tags,
  admin: Number(row.admin) === 1,
  restrictions: restrictionsOf(row.restrictions),
  source: "store",
  createdAt: Number(row.created_at),
  ...(row.expires_at === null ? {} : { expiresAt: Number(row.expires_at) }),
  ...(row.revoked_at === null ? {} : { revokedAt: Number(row.revoked_at) })
})

/** A secret's key. */
export interface SecretRecord {
  readonly digest: string
  /** `undefined` for a row that cannot be read. */
  readonly key: KeyInfo | undefined
  /** Unix ms until which the secret is good; Infinity for the key's present one. */
  readonly goodUntil: number
}

const secretOf = (row: unknown): ReadonlyArray<SecretRecord> => {
  const whole = decodeSecret(row)
  if (Result.isSuccess(whole)) {
    const { good_until: goodUntil, sha256, ...key } = whole.success
    return [{ digest: sha256, key: keyOf(key), goodUntil: goodUntil === null ? Infinity : Number(goodUntil) }]
  }
  const digest = digestOf(row)
  return Result.isSuccess(digest) ? [{ digest: digest.success.sha256, key: undefined, goodUntil: 0 }] : []
}

/** There is no such key. */
export const noKey = (id: string): GatewayError =>
  fail(new NotFound({ message: `there is no key "${id.slice(0, 100)}"` }))

const onlyOne = (id: string, rows: ReadonlyArray<KeyInfo>): Effect.Effect<KeyInfo, GatewayError> => {
  const [key] = rows
  return key === undefined ? Effect.fail(noKey(id)) : Effect.succeed(key)
}

/** The operations on the tables, none of which retries or waits. */
export const make = Effect.map(SqlClient.SqlClient, (sql) => {
  const columns = sql.literal(
    "k.id, k.name, k.tenant, k.end_user, k.tags, k.admin, k.restrictions, k.created_at, k.expires_at, k.revoked_at"
  )
  // A row that cannot be read was not written by this program: a defect, whose cause is for the operator alone.
  const read = (rows: ReadonlyArray<unknown>) =>
    Effect.orDie(Effect.map(Effect.fromResult(decodeKeys(rows)), (decoded) => decoded.map(keyOf)))

  const insertSecret = (id: string, digest: string) =>
    sql`INSERT INTO api_key_secrets ${sql.insert({ sha256: digest, key_id: id, good_until: null })}`

  const get = (id: string) =>
    sql`SELECT ${columns} FROM api_keys k WHERE k.id = ${id}`.pipe(
      Effect.flatMap(read),
      Effect.flatMap((rows) => onlyOne(id, rows))
    )

  return {
    /** The keys that these digests belong to. */
    find: (digests: ReadonlyArray<string>) =>
      Effect.map(
        sql`SELECT s.sha256, s.good_until, ${columns}
          FROM api_key_secrets s JOIN api_keys k ON k.id = s.key_id WHERE ${sql.in("sha256", digests)}`,
        (rows) => rows.flatMap(secretOf)
      ),

    /** Fails with `validation_error` where the id is taken. */
    insert: (key: KeyInfo, digest: string) =>
      sql.withTransaction(Effect.gen(function*() {
        const inserted = yield* sql`INSERT INTO api_keys ${
          sql.insert({
            id: key.id,
            name: key.name ?? null,
            tenant: key.tenant,
            end_user: key.user ?? null,
            tags: JSON.stringify(key.tags),
            admin: key.admin ? 1 : 0,
            restrictions: encodeRestrictions(key.restrictions),
            created_at: key.createdAt ?? 0,
            expires_at: key.expiresAt ?? null,
            revoked_at: null
          })
        } ON CONFLICT (id) DO NOTHING RETURNING id`
        if (inserted.length === 0) return yield* fail(invalid("id", `there is a key "${key.id}" already`))
        yield* insertSecret(key.id, digest)
      })),

    /** Fails with `not_found`. */
    get,

    /** In the order of ids. */
    list: (query: {
      readonly tenants: ReadonlyArray<string> | undefined
      readonly after: string
      readonly limit: number
    }) =>
      Effect.flatMap(
        query.tenants === undefined
          ? sql`SELECT ${columns} FROM api_keys k WHERE k.id > ${query.after} ORDER BY k.id LIMIT ${query.limit}`
          : sql`SELECT ${columns} FROM api_keys k WHERE k.id > ${query.after} AND ${
            sql.in("tenant", query.tenants)
          } ORDER BY k.id LIMIT ${query.limit}`,
        read
      ),

    /** Keeps the moment of the first revocation. Fails with `not_found`. */
    revoke: (id: string, now: number) =>
      sql`UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ${now}) WHERE id = ${id}`.pipe(
        Effect.andThen(get(id))
      ),

    /** Fails with `not_found`, and with `validation_error` for a key that is no longer good. */
    rotate: (id: string, digest: string, now: number, graceMs: number) =>
      sql.withTransaction(Effect.gen(function*() {
        // The row stays locked until the end, so that of two rotations at once the later one ends the other's secret.
        yield* sql`UPDATE api_keys SET rotated_at = ${now} WHERE id = ${id}`
        const key = yield* get(id)
        if (key.revokedAt !== undefined) return yield* fail(invalid("id", `the key "${id}" has been revoked`))
        if (key.expiresAt !== undefined && key.expiresAt <= now) {
          return yield* fail(invalid("id", `the key "${id}" has expired`))
        }
        const until = now + graceMs
        yield* sql`DELETE FROM api_key_secrets WHERE key_id = ${id} AND good_until <= ${now}`
        yield* sql`UPDATE api_key_secrets SET good_until = ${until}
          WHERE key_id = ${id} AND (good_until IS NULL OR good_until > ${until})`
        yield* insertSecret(id, digest)
        return key
      }))
  }
})
