/** Keys in a database: what they open, when they stop to, and what happens without the database. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, Redacted, type Scope, Tracer } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { createHash, randomBytes } from "node:crypto"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as KeysSql from "../../../src/modules/identity/KeysSql.ts"
import * as Sql from "../../../src/modules/sql/Sql.ts"
import { type GatewayError } from "../../../src/sdk/GatewayError.ts"
import { Identity, Keys, type NewKey, PresentedSecret } from "../../../src/sdk/Identity.ts"
import { Tenants } from "../../../src/sdk/Tenant.ts"
import { isolated, postgresUrl } from "../../fixtures/Stores.ts"

const stores: ReadonlyArray<readonly [string, Effect.Effect<string | undefined, never, Scope.Scope>]> = [
  ["SQLite", Effect.succeed("sqlite::memory:")],
  ["PostgreSQL", postgresUrl === undefined ? Effect.undefined : Effect.orDie(isolated(postgresUrl))]
]

const noRestrictions = { rateLimits: [], budgets: [] }
const newKey: NewKey = { tenant: "acme", tags: [], admin: false, restrictions: noRestrictions }

const secretOf = (value: string | Redacted.Redacted) =>
  new PresentedSecret(typeof value === "string" ? value : Redacted.value(value))

const policy = (name: string, parent?: string) => ({
  name,
  ...(parent === undefined ? {} : { parent }),
  rateLimits: [],
  budgets: [],
  interceptors: []
})

/** Well-formed, and nobody's. */
const randomSecret = () => `lg_${randomBytes(32).toString("base64url")}`

setFlagsFromString("--expose-gc")
const collectGarbage: () => void = runInNewContext("gc")

interface World {
  readonly keys: Keys["Service"]
  readonly authenticate: (secret: string | Redacted.Redacted) => ReturnType<Identity["Service"]["authenticate"]>
  readonly sql: SqlClient.SqlClient
  /** Another gateway on the same database. */
  readonly replica: (options?: KeysSql.KeysSqlOptions) => Effect.Effect<Omit<World, "replica">, never, Scope.Scope>
  readonly queries: () => number
  readonly logged: ReadonlyArray<string>
}

interface Setting extends KeysSql.KeysSqlOptions {
  readonly tenants?: Parameters<typeof Tenants.layer>[0]
}

/** Runs with keys in a database of its own. */
const withKeys = <A, E>(
  store: Effect.Effect<string | undefined, never, Scope.Scope>,
  use: (world: World) => Effect.Effect<A, E, Scope.Scope>,
  { tenants, ...options }: Setting = {}
) =>
  Effect.gen(function*() {
    const url = yield* store
    let queries = 0
    const logged: Array<string> = []
    const tracer = Tracer.make({
      span: (spanOptions) => {
        if (spanOptions.kind === "client" && spanOptions.name !== "sql.transaction") queries++
        return new Tracer.NativeSpan(spanOptions)
      }
    })
    const logger = Logger.layer([Logger.make(({ message }) => logged.push(JSON.stringify(message)))])
    const database = Layer.build(
      Sql.migrate(KeysSql.migrations).pipe(
        Layer.provideMerge(Sql.layer(Redacted.make(url ?? "")))
      )
    )
    const gateway = Effect.fnUntraced(
      function*(context: Context.Context<SqlClient.SqlClient>, own: KeysSql.KeysSqlOptions = options) {
        const services = yield* Layer.build(
          KeysSql.layer(own).pipe(
            Layer.provide(Layer.succeedContext(context)),
            Layer.provide(tenants === undefined ? Layer.empty : Tenants.layer(tenants))
          )
        )
        const identity = Context.get(services, Identity)
        return {
          keys: Context.get(services, Keys),
          authenticate: (secret: string | Redacted.Redacted) => identity.authenticate(secretOf(secret)),
          sql: Context.get(context, SqlClient.SqlClient),
          queries: () => queries,
          logged
        }
      }
    )
    yield* Effect.gen(function*() {
      const context = yield* database
      queries = 0
      const first = yield* gateway(context)
      yield* use({ ...first, replica: (own) => gateway(context, own) })
    }).pipe(Effect.provideService(Tracer.Tracer, tracer), Effect.provide(logger))
  })

const codeOf = (effect: Effect.Effect<unknown, GatewayError>) => Effect.map(Effect.flip(effect), ({ code }) => code)
const refusalOf = (effect: Effect.Effect<unknown, GatewayError>) =>
  Effect.map(Effect.flip(effect), ({ code, message }) => `${code}: ${message}`)

/** The database is there, but what the gateway asks of it fails. */
const breakDown = (sql: SqlClient.SqlClient) => sql`ALTER TABLE api_key_secrets RENAME TO hidden`
const mend = (sql: SqlClient.SqlClient) => sql`ALTER TABLE hidden RENAME TO api_key_secrets`

describe.each(stores)("keys in %s", (name, store) => {
  const on = it.effect.skipIf(name === "PostgreSQL" && postgresUrl === undefined)

  on(
    "open the door for their tenant, user, tags, limits and rights",
    () =>
      withKeys(store, ({ authenticate, keys }) =>
        Effect.gen(function*() {
          const restrictions = {
            models: ["openai::*"],
            rateLimits: [
              { kind: "requests", per: "user", limit: 60, windowMs: 60_000 },
              { kind: "tokens", per: "key", limit: 1e12, windowMs: 1500 },
              { kind: "concurrent", per: "tenant", limit: 3 }
            ],
            budgets: [{ per: "tag", limitNanoUsd: 12_345_678_901, window: "month" }]
          } as const
          const { key, secret } = yield* keys.create({
            ...newKey,
            name: "backend",
            user: "ada",
            tags: ["a", "b"],
            admin: true,
            restrictions,
            expiresAt: 1_000_000
          })
          assert.match(Redacted.value(secret), /^lg_[A-Za-z0-9_-]{43}$/)
          assert.deepStrictEqual(yield* authenticate(secret), {
            tenant: "acme",
            user: "ada",
            keyId: key.id,
            tags: ["a", "b"],
            admin: true,
            restrictions
          })
          assert.deepStrictEqual(yield* keys.get(key.id), key)
          assert.strictEqual(key.source, "store")
          assert.strictEqual(key.createdAt, 0)
          assert.strictEqual(key.expiresAt, 1_000_000)
        }))
  )

  on("are kept as hashes alone", () =>
    withKeys(store, ({ keys, sql }) =>
      Effect.gen(function*() {
        const { key, secret } = yield* keys.create(newKey)
        const kept = JSON.stringify(
          [yield* sql`SELECT * FROM api_keys`, yield* sql`SELECT * FROM api_key_secrets`],
          (_, value: unknown) => typeof value === "bigint" ? String(value) : value
        )
        assert.include(kept, createHash("sha256").update(Redacted.value(secret)).digest("hex"))
        assert.notInclude(kept, Redacted.value(secret))
        assert.notInclude(JSON.stringify([key, secret]), Redacted.value(secret))
      })))

  on(
    "are refused from the revocation on, here at once and on other replicas within ten seconds",
    () =>
      withKeys(store, ({ authenticate, keys, replica }) =>
        Effect.gen(function*() {
          const other = yield* replica()
          const { key, secret } = yield* keys.create(newKey)
          yield* authenticate(secret)
          yield* other.authenticate(secret)
          yield* TestClock.adjust("1 second")
          const revoked = yield* keys.revoke(key.id)
          assert.strictEqual(revoked.revokedAt, 1000)
          assert.strictEqual(yield* refusalOf(authenticate(secret)), "unauthorized: this API key has been revoked")
          // What the replica read is at most ten seconds old.
          yield* TestClock.adjust("9 seconds")
          assert.strictEqual(yield* codeOf(other.authenticate(secret)), "unauthorized")
          const again = yield* keys.revoke(key.id)
          assert.strictEqual(again.revokedAt, 1000)
        }))
  )

  on(
    "get a new secret, beside which the old one is good for a while",
    () =>
      withKeys(store, ({ authenticate, keys, replica }) =>
        Effect.gen(function*() {
          const other = yield* replica()
          const first = yield* keys.create(newKey)
          yield* authenticate(first.secret)
          yield* other.authenticate(first.secret)
          const second = yield* keys.rotate(first.key.id, 60_000)
          assert.notStrictEqual(Redacted.value(second.secret), Redacted.value(first.secret))
          assert.deepStrictEqual(second.key, first.key)
          yield* TestClock.adjust("59 seconds")
          for (const gateway of [{ authenticate }, other]) {
            assert.strictEqual((yield* gateway.authenticate(first.secret)).keyId, first.key.id)
            assert.strictEqual((yield* gateway.authenticate(second.secret)).keyId, first.key.id)
          }
          yield* TestClock.adjust("1 second")
          for (const gateway of [{ authenticate }, other]) {
            assert.include(
              yield* refusalOf(gateway.authenticate(first.secret)),
              "unauthorized: this API key has been rotated"
            )
            yield* gateway.authenticate(second.secret)
          }
          const third = yield* keys.rotate(first.key.id, 0)
          assert.strictEqual(yield* codeOf(authenticate(second.secret)), "unauthorized")
          yield* authenticate(third.secret)
        }))
  )

  on(
    "have one lasting secret, however many rotations run at once",
    () =>
      withKeys(store, ({ authenticate, keys }) =>
        Effect.gen(function*() {
          const { key } = yield* keys.create(newKey)
          const issued = yield* Effect.all(Array.from({ length: 12 }, () => keys.rotate(key.id, 1000)), {
            concurrency: "unbounded"
          })
          yield* TestClock.adjust("1 second")
          const good = yield* Effect.filter(
            issued,
            ({ secret }) => Effect.match(authenticate(secret), { onFailure: () => false, onSuccess: () => true })
          )
          assert.strictEqual(good.length, 1)
        }))
  )

  on(
    "cannot be rotated once they are revoked or have expired, nor found where there are none",
    () =>
      withKeys(store, ({ keys }) =>
        Effect.gen(function*() {
          const revoked = yield* keys.create({ ...newKey, id: "revoked" })
          yield* keys.revoke(revoked.key.id)
          assert.strictEqual(yield* codeOf(keys.rotate("revoked", 0)), "validation_error")
          yield* keys.create({ ...newKey, id: "short", expiresAt: 1000 })
          yield* TestClock.adjust("1 second")
          assert.strictEqual(yield* codeOf(keys.rotate("short", 0)), "validation_error")
          for (const id of ["none", "", "\u0000", "a' OR '1'='1", "ä".repeat(10_000)]) {
            assert.strictEqual(yield* codeOf(keys.rotate(id, 0)), "not_found")
            assert.strictEqual(yield* codeOf(keys.revoke(id)), "not_found")
            assert.strictEqual(yield* codeOf(keys.get(id)), "not_found")
          }
          for (const grace of [-1, Number.NaN, Infinity, 1e12, 0.5]) {
            assert.strictEqual((yield* Effect.flip(keys.rotate("short", grace))).field, "grace")
          }
        }))
  )

  on(
    "expire, and stay so when the clock is set back",
    () =>
      withKeys(store, ({ authenticate, keys, replica }) =>
        Effect.gen(function*() {
          const { secret } = yield* keys.create({ ...newKey, expiresAt: 60_000 })
          yield* TestClock.adjust("59999 millis")
          yield* authenticate(secret)
          yield* TestClock.adjust("1 millis")
          const expired = "unauthorized: this API key has expired; ask for a new one"
          assert.strictEqual(yield* refusalOf(authenticate(secret)), expired)
          yield* TestClock.setTime(0)
          assert.strictEqual(yield* refusalOf(authenticate(secret)), expired)
          // Nor does what is known stay fresh for longer.
          const other = yield* replica()
          const lasting = yield* other.keys.create(newKey)
          yield* TestClock.adjust("30 seconds")
          yield* authenticate(lasting.secret)
          yield* TestClock.setTime(0)
          yield* other.keys.revoke(lasting.key.id)
          yield* TestClock.adjust("10 seconds")
          assert.strictEqual(yield* codeOf(authenticate(lasting.secret)), "unauthorized")
        }))
  )

  on(
    "that were used stay good without the database; others are store_unavailable, never unauthorized",
    () =>
      withKeys(store, ({ authenticate, keys, logged, sql }) =>
        Effect.gen(function*() {
          const used = yield* keys.create(newKey)
          const unused = yield* keys.create(newKey)
          yield* authenticate(used.secret)
          yield* breakDown(sql)
          for (let minute = 1; minute < 10; minute++) {
            yield* TestClock.adjust("1 minute")
            assert.strictEqual((yield* authenticate(used.secret)).keyId, used.key.id)
            const error = yield* Effect.flip(authenticate(unused.secret))
            assert.strictEqual(error.code, "store_unavailable")
            assert.strictEqual(error.status, 503)
            assert.strictEqual(error.retryAfterMs, 1000)
            assert.strictEqual(yield* codeOf(authenticate(randomSecret())), "store_unavailable")
          }
          assert.strictEqual(yield* codeOf(authenticate("not a key")), "unauthorized")
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(yield* codeOf(authenticate(used.secret)), "store_unavailable")
          assert.strictEqual(yield* codeOf(keys.create(newKey)), "store_unavailable")
          yield* mend(sql)
          yield* TestClock.adjust("1 second")
          yield* authenticate(used.secret)
          yield* authenticate(unused.secret)
          const told = logged.filter((line) => line.includes("answer"))
          assert.strictEqual(told.length, 2, told.join("\n"))
        }))
  )

  on(
    "are asked for once, however many requests come with them",
    () =>
      withKeys(store, ({ authenticate, keys, queries }) =>
        Effect.gen(function*() {
          const { key, secret } = yield* keys.create(newKey)
          const before = queries()
          const callers = yield* Effect.all(Array.from({ length: 1000 }, () => authenticate(secret)), {
            concurrency: "unbounded"
          })
          for (const { keyId } of callers) assert.strictEqual(keyId, key.id)
          assert.strictEqual(queries() - before, 1)
          for (let i = 0; i < 1000; i++) yield* authenticate(secret)
          assert.strictEqual(queries() - before, 1)
        }))
  )

  on(
    "are not asked for where they cannot be any of the gateway's",
    () =>
      withKeys(store, ({ authenticate, queries }) =>
        Effect.gen(function*() {
          const good = randomSecret()
          const malformed = [
            "",
            "lg_",
            good.slice(3),
            good.slice(0, -1),
            `${good}x`,
            `${good}\n`,
            ` ${good}`,
            good.replace("lg_", "LG_"),
            `${good.slice(0, -1)}'`,
            `${good.slice(0, -1)}\u0000`,
            `lg_${"ä".repeat(43)}`,
            "lg_' OR '1'='1' -- aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "x".repeat(1_000_000)
          ]
          for (const secret of malformed) {
            assert.strictEqual(
              yield* refusalOf(authenticate(secret)),
              "unauthorized: this API key is not known to the gateway"
            )
          }
          assert.strictEqual(queries(), 0)
        }))
  )

  on(
    "that are SQL are texts like others",
    () =>
      withKeys(store, ({ authenticate, keys, sql }) =>
        Effect.gen(function*() {
          const evil = "x'); DROP TABLE api_keys; -- \" $1 ? %s \\ ${1}"
          const { key, secret } = yield* keys.create({
            ...newKey,
            tenant: evil,
            user: evil,
            name: evil,
            tags: [evil],
            restrictions: { ...noRestrictions, models: [evil] }
          })
          assert.deepStrictEqual(yield* authenticate(secret), {
            tenant: evil,
            user: evil,
            keyId: key.id,
            tags: [evil],
            restrictions: { ...noRestrictions, models: [evil] }
          })
          assert.deepStrictEqual(yield* keys.list({ limit: 10, tenants: [evil] }), [key])
          assert.deepStrictEqual(yield* keys.list({ limit: 10, tenants: ["' OR 1=1 --"], after: evil }), [])
          assert.strictEqual((yield* Effect.flip(keys.create({ ...newKey, id: evil }))).field, "id")
          assert.strictEqual((yield* sql`SELECT * FROM api_keys`).length, 1)
        }))
  )

  on(
    "are refused where a limit is negative, no number, or too large, or a text holds control characters",
    () =>
      withKeys(store, ({ keys, sql }) =>
        Effect.gen(function*() {
          const rate = { kind: "requests", per: "key", limit: 1, windowMs: 1000 } as const
          const budget = { per: "key", limitNanoUsd: 1, window: "day" } as const
          const wrong: ReadonlyArray<readonly [field: string, Partial<NewKey>]> = [
            ...[-1, 0, 0.5, Number.NaN, Infinity, 1e15].flatMap((limit) =>
              [
                ["rateLimits[0].limit", { restrictions: { rateLimits: [{ ...rate, limit }], budgets: [] } }],
                [
                  "rateLimits[0].limit",
                  { restrictions: { rateLimits: [{ kind: "concurrent", per: "key", limit }], budgets: [] } }
                ]
              ] as const
            ),
            ...[-1, 0, Number.NaN, Infinity, 1e15].map((windowMs) =>
              ["rateLimits[0].windowMs", {
                restrictions: { rateLimits: [{ ...rate, windowMs }], budgets: [] }
              }] as const
            ),
            ...[-1, 0.5, Number.NaN, Infinity, 1e18, 2 ** 63].map((limitNanoUsd) =>
              [
                "budgets[0].limitNanoUsd",
                { restrictions: { rateLimits: [], budgets: [{ ...budget, limitNanoUsd }] } }
              ] as const
            ),
            ...["", "a\u0000b", "a\nb", "\ud800", "x".repeat(129)].flatMap((text) =>
              [
                ["tenant", { tenant: text }],
                ["name", { name: text }],
                ["tags[1]", { tags: ["fine", text] }]
              ] as const
            ),
            ["user", { user: "x".repeat(257) }],
            ["models[0]", { restrictions: { ...noRestrictions, models: [""] } }],
            ["tags", { tags: Array.from({ length: 33 }, String) }],
            ["id", { id: "a/b" }],
            ["expiresAt", { expiresAt: -1 }],
            ["expiresAt", { expiresAt: Number.NaN }],
            ["expires_at", { expiresAt: 0 }]
          ]
          for (const [field, part] of wrong) {
            const error = yield* Effect.flip(keys.create({ ...newKey, ...part }))
            assert.strictEqual(error.code, "validation_error")
            assert.strictEqual(error.field, field, JSON.stringify(part))
          }
          assert.strictEqual((yield* sql`SELECT id FROM api_keys`).length, 0)
        }))
  )

  on("have ids of their own choice, each once", () =>
    withKeys(store, ({ keys }) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* keys.create({ ...newKey, id: "backend" })).key.id, "backend")
        const error = yield* Effect.flip(keys.create({ ...newKey, id: "backend" }))
        assert.deepStrictEqual([error.code, error.field], ["validation_error", "id"])
        const outcomes = yield* Effect.all(
          Array.from({ length: 10 }, () => Effect.exit(keys.create({ ...newKey, id: "race" }))),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(outcomes.filter(({ _tag }) => _tag === "Success").length, 1)
      })))

  const sha256 = (secret: string) => createHash("sha256").update(secret).digest("hex")

  on(
    "stand beside those of the configuration, which cannot be changed",
    () =>
      withKeys(store, ({ authenticate, keys, queries }) =>
        Effect.gen(function*() {
          const before = queries()
          assert.deepStrictEqual(yield* authenticate("any secret at all"), {
            tenant: "acme",
            keyId: "m-configured",
            tags: [],
            restrictions: { ...noRestrictions, models: ["a::*"] }
          })
          assert.strictEqual(queries(), before)
          for (const id of ["a", "z", "n", "Z", "m"]) yield* keys.create({ ...newKey, id })
          yield* keys.create({ ...newKey, id: "o", tenant: "other" })
          const ids = (query: Parameters<typeof keys.list>[0]) =>
            Effect.map(keys.list(query), (list) => list.map(({ id }) => id).join(" "))
          assert.strictEqual(yield* ids({ limit: 100 }), "Z a m m-configured n o z")
          assert.strictEqual(yield* ids({ limit: 3 }), "Z a m")
          assert.strictEqual(yield* ids({ limit: 2, after: "m" }), "m-configured n")
          assert.strictEqual(yield* ids({ limit: 2, after: "m-configured" }), "n o")
          assert.strictEqual(yield* ids({ limit: 9, tenants: ["other"] }), "o")
          assert.strictEqual(yield* ids({ limit: 9, tenants: ["other", "acme"], after: "n" }), "o z")
          assert.strictEqual(yield* ids({ limit: 9, tenants: [] }), "")
          for (const change of [keys.revoke("m-configured"), keys.rotate("m-configured", 0)]) {
            assert.include(
              yield* refusalOf(change),
              "validation_error: id: the key \"m-configured\" is in the configuration"
            )
          }
          assert.strictEqual(yield* codeOf(keys.create({ ...newKey, id: "m-configured" })), "validation_error")
          assert.strictEqual((yield* keys.get("m-configured")).source, "configuration")
        }), {
        keys: [{
          id: "m-configured",
          sha256: sha256("any secret at all").toUpperCase(),
          tenant: "acme",
          models: ["a::*"]
        }]
      })
  )

  on("belong to tenants that exist", () =>
    withKeys(store, ({ authenticate, keys, sql }) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(keys.create({ ...newKey, tenant: "nobody" }))
        assert.deepStrictEqual([error.code, error.field], ["validation_error", "tenant"])
        const { key, secret } = yield* keys.create({ ...newKey, tenant: "child" })
        yield* authenticate(secret)
        // As when the tenant has gone from the configuration.
        yield* sql`UPDATE api_keys SET tenant = 'gone' WHERE id = ${key.id}`
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(
          yield* refusalOf(authenticate(secret)),
          "forbidden: the tenant \"gone\" is not one of this gateway's"
        )
        assert.strictEqual(yield* codeOf(authenticate("configured")), "forbidden")
      }), {
      tenants: [policy("acme"), policy("child", "acme")],
      keys: [{ id: "lost", sha256: sha256("configured"), tenant: "lost" }]
    }))

  on(
    "whose record is broken are refused without harm to others",
    () =>
      withKeys(store, ({ authenticate, keys, sql }) =>
        Effect.gen(function*() {
          const broken = yield* keys.create(newKey)
          const whole = yield* keys.create(newKey)
          yield* sql`UPDATE api_keys SET restrictions = '{"rate_limits":[{"per":"key","requests":-1,"window":"1m"}]}'
          WHERE id = ${broken.key.id}`
          const [first, second] = yield* Effect.all(
            [Effect.flip(authenticate(broken.secret)), authenticate(whole.secret)],
            { concurrency: "unbounded" }
          )
          assert.strictEqual(first.code, "store_unavailable")
          assert.strictEqual(second.keyId, whole.key.id)
        }))
  )

  on(
    "that are invented cost no memory, no log line, and few queries",
    () =>
      withKeys(store, ({ authenticate, keys, logged, queries }) =>
        Effect.gen(function*() {
          const { key, secret } = yield* keys.create(newKey)
          const flood = (count: number) =>
            Effect.forEach(
              Array.from({ length: count }, randomSecret),
              (invented) => Effect.map(Effect.flip(authenticate(invented)), (error) => error.code),
              { concurrency: 500 }
            ).pipe(Effect.map((codes) => new Set(codes)))
          const settled = () => {
            collectGarbage()
            return process.memoryUsage().heapUsed
          }
          // Caches are full after this, and code is compiled.
          const codes = yield* flood(50_000)
          assert.deepStrictEqual(Array.from(codes), ["unauthorized"])
          const before = settled()
          const asked = queries()
          yield* flood(50_000)
          assert.isBelow(queries() - asked, 2000)
          // Without bounds 50,000 digests alone would be 4 MB.
          assert.isBelow(settled() - before, 1_500_000)
          assert.deepStrictEqual(logged, [])
          assert.strictEqual((yield* authenticate(secret)).keyId, key.id)
        })),
    60_000
  )
})
