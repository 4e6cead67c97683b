/**
 * What a configured gateway keeps, and where: the database, Redis, and on them keys, limits, budgets, usage records,
 * audit events and jobs. What nothing in the configuration needs is not opened.
 */
import { NodeRedis } from "@effect/platform-node"
import { Clock, Duration, Effect, Layer, Redacted } from "effect"
import { FetchHttpClient } from "effect/http"
import { SqlClient } from "effect/sql"
import * as Audit from "../gateway/Audit.ts"
import * as BudgetsPostgres from "../modules/budgets/BudgetsPostgres.ts"
import * as BudgetsRedis from "../modules/budgets/BudgetsRedis.ts"
import * as BudgetsSqlite from "../modules/budgets/BudgetsSqlite.ts"
import * as BudgetMigrations from "../modules/budgets/Migrations.ts"
import * as FileStorageDisk from "../modules/fileStorage/FileStorageDisk.ts"
import * as FileStorageS3 from "../modules/fileStorage/FileStorageS3.ts"
import * as IdentityJwt from "../modules/identity/IdentityJwt.ts"
import * as IdentityKeys from "../modules/identity/IdentityKeys.ts"
import * as KeysSql from "../modules/identity/KeysSql.ts"
import * as JobStoreSql from "../modules/jobs/JobStoreSql.ts"
import * as RateLimitsMemory from "../modules/rateLimits/RateLimitsMemory.ts"
import * as RateLimitsRedis from "../modules/rateLimits/RateLimitsRedis.ts"
import * as Sql from "../modules/sql/Sql.ts"
import * as AuditJsonl from "../plugins/audit/jsonl/AuditJsonl.ts"
import * as AuditNoop from "../plugins/audit/noop/AuditNoop.ts"
import * as AuditSql from "../plugins/audit/sql/AuditSql.ts"
import * as UsageLogLines from "../plugins/usage/log/UsageLogLines.ts"
import * as UsageNoop from "../plugins/usage/noop/UsageNoop.ts"
import * as UsageSql from "../plugins/usage/sql/UsageSql.ts"
import { type AuditEventType, AuditSinkRegistry, AuditTrail } from "../sdk/AuditSink.ts"
import { type KeyInfo, Keys } from "../sdk/Identity.ts"
import { type StoreState, StoreStates } from "../sdk/StoreStates.ts"
import { Tenants } from "../sdk/Tenant.ts"
import type { AuthKeyConfig, GatewayConfig } from "./GatewayConfig.ts"
import { policiesOf, restrictionsOf } from "./Policies.ts"

const isSqlite = (config: GatewayConfig): boolean => Redacted.value(config.storage.sql).startsWith("sqlite:")

// ---------------------------------------------------------------------------------------------------------------------
// Databases
// ---------------------------------------------------------------------------------------------------------------------

/** Keys that are made while the gateway runs may carry limits and budgets, so that these are needed wherever keys are kept. */
const keepsKeys = (config: GatewayConfig): boolean => config.auth.mode !== "none"

const hasLimits = (config: GatewayConfig): boolean =>
  keepsKeys(config) || Object.values(config.tenants).some(({ rateLimits }) => rateLimits.length > 0)

const hasBudgets = (config: GatewayConfig): boolean =>
  keepsKeys(config) || Object.values(config.tenants).some(({ budgets }) => budgets.length > 0)

const keepsUsage = (config: GatewayConfig): boolean => config.usage.sinks.some(({ type }) => type === "sql")
const keepsBudgets = (config: GatewayConfig): boolean => hasBudgets(config) && config.storage.redis === undefined

/** All tables, whatever the configuration needs of them today: a later one finds the rest. */
const migrations: Sql.Migrations = {
  ...KeysSql.migrations,
  ...UsageSql.migrations,
  ...AuditSql.migrations,
  ...BudgetMigrations.migrations,
  ...JobStoreSql.migrations,
  ...FileStorageDisk.migrations
}

/** How long audit events gather before they are written, ms: what a process that is killed may lose of them. */
const eventsGather = 50

/** How long a Redis that has fallen silent may hold up the end of the process. */
const redisPatience = "1 second"

/** Closing the client waits for its commands' answers, which a silent server never gives. */
const ends = Layer.effectDiscard(
  Effect.acquireRelease(NodeRedis.NodeRedis, ({ client }) =>
    Effect.ignore(Effect.timeoutOrElse(
      Effect.tryPromise(() => client.close()),
      {
        duration: redisPatience,
        orElse: () => Effect.sync(() => client.destroy())
      }
    )))
)

/** What the stores live in. One Layer is built once, however many stores stand on it, and not at all where none does. */
const connections = ({ storage }: GatewayConfig) => ({
  sql: Sql.migrate(migrations).pipe(Layer.provideMerge(Sql.layer(storage.sql))),
  redis: ends.pipe(Layer.provideMerge(NodeRedis.layer({
    url: storage.redis === undefined ? "" : Redacted.value(storage.redis),
    // What cannot be sent fails at once: in the client's own queue it would wait until long after its request.
    disableOfflineQueue: true,
    // The stores limit their waiting themselves; the client's own way costs an AbortSignal for each command.
    commandOptions: { timeout: 0 },
    socket: { connectTimeout: 5_000 }
  })))
})

type Connections = ReturnType<typeof connections>

// ---------------------------------------------------------------------------------------------------------------------
// What is kept in them
// ---------------------------------------------------------------------------------------------------------------------

/** A key of the configuration as identity takes it. */
export const apiKey = (key: AuthKeyConfig): IdentityKeys.ApiKey => ({
  ...restrictionsOf(key),
  id: key.id,
  sha256: key.sha256,
  tenant: key.tenant,
  tags: key.tags,
  admin: key.admin,
  ...(key.user === undefined ? {} : { user: key.user }),
  ...(key.expires === undefined ? {} : { expiresAt: key.expires })
})

const keys = ({ auth }: GatewayConfig, { sql }: Connections) =>
  KeysSql.layer({ keys: auth.keys.map(apiKey), freshMs: auth.cache.fresh, staleMs: auth.cache.stale }).pipe(
    Layer.provide(sql)
  )

const identity = (config: GatewayConfig, to: Connections) => {
  const { jwt, mode } = config.auth
  if (mode === "none") return IdentityKeys.layerNone()
  if (mode === "keys" || jwt === undefined) return keys(config, to)
  return IdentityJwt.layerWithKeys({
    jwksUrl: jwt.jwksUrl,
    issuer: jwt.issuer,
    audience: jwt.audience,
    tenantClaim: jwt.tenantClaim,
    userClaim: jwt.userClaim,
    clockSkewMs: jwt.clockSkew,
    ...(jwt.tagsClaim === undefined ? {} : { tagsClaim: jwt.tagsClaim }),
    ...(jwt.adminClaim === undefined ? {} : { adminClaim: jwt.adminClaim })
  }).pipe(Layer.provideMerge(keys(config, to)), Layer.provide(FetchHttpClient.layer))
}

const rateLimits = ({ storage }: GatewayConfig, { redis }: Connections) =>
  storage.redis === undefined
    ? RateLimitsMemory.layer()
    : RateLimitsRedis.layer({ prefix: storage.redisPrefix, onFailure: storage.redisFailure }).pipe(Layer.provide(redis))

const budgets = (config: GatewayConfig, { redis, sql }: Connections) => {
  if (config.storage.redis !== undefined) {
    return BudgetsRedis.layer({ prefix: `${config.storage.redisPrefix}budgets` }).pipe(Layer.provide(redis))
  }
  return (isSqlite(config) ? BudgetsSqlite.layer() : BudgetsPostgres.layer()).pipe(Layer.provide(sql))
}

const files = ({ storage }: GatewayConfig, { sql }: Connections) => {
  const { dir, maxSize, quota, s3, ttl, urlSecret } = storage.files
  const options = {
    maxBytes: maxSize,
    ttlMs: ttl,
    quotaBytes: quota,
    ...(urlSecret === undefined ? {} : { urlSecret })
  }
  if (s3 === undefined) return FileStorageDisk.layer({ dir, ...options }).pipe(Layer.provide(sql))
  const { accessKeyId, bucket, endpoint, prefix, region, secretAccessKey } = s3
  return FileStorageS3.layer({
    bucket,
    ...options,
    ...(prefix === undefined ? {} : { prefix }),
    ...(region === undefined ? {} : { region }),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(accessKeyId === undefined || secretAccessKey === undefined
      ? {}
      : { credentials: { accessKeyId, secretAccessKey } })
  }).pipe(Layer.provide(sql))
}

const usageSink = (sink: GatewayConfig["usage"]["sinks"][number], { sql }: Connections) => {
  switch (sink.type) {
    case "noop":
      return UsageNoop.layer
    case "log":
      return UsageLogLines.layer()
    case "sql":
      return UsageSql.layer().pipe(Layer.provide(sql))
  }
}

const auditSink = (sink: GatewayConfig["audit"]["sinks"][number], { sql }: Connections) => {
  switch (sink.type) {
    case "noop":
      return AuditNoop.layer
    case "jsonl":
      return AuditJsonl.layer({ path: sink.path })
    case "sql":
      return AuditSql.layer().pipe(Layer.provide(sql))
  }
}

/** Longest wait for a store that is asked whether it answers. */
const patience = "1 second"

/** Asks a store something small. */
const asked = <E>(store: StoreState["store"], question: Effect.Effect<unknown, E>): Effect.Effect<StoreState> =>
  Effect.timed(Effect.isSuccess(Effect.timeout(question, patience))).pipe(
    Effect.map(([took, answers]) => ({ store, answers, ms: Math.round(Duration.toMillis(took)) }))
  )

const sqlState = Effect.map(SqlClient.SqlClient, (sql) => asked("sql", sql`SELECT 1`))

const redisState = Effect.map(
  NodeRedis.NodeRedis,
  ({ client }) => asked("redis", Effect.tryPromise(() => client.ping()))
)

const storeStates = ({ storage }: GatewayConfig, { redis, sql }: Connections) => {
  const states = (questions: ReadonlyArray<Effect.Effect<StoreState>>): StoreStates["Service"] => ({
    states: Effect.all(questions, { concurrency: "unbounded" })
  })
  return storage.redis === undefined
    ? Layer.effect(StoreStates, Effect.map(sqlState, (state) => states([state]))).pipe(Layer.provide(sql))
    : Layer.effect(StoreStates, Effect.map(Effect.all([sqlState, redisState]), states)).pipe(
      Layer.provide(sql),
      Layer.provide(redis)
    )
}

/** Whether budgets and usage records are in one database, so that both can be written in one transaction. */
const isOneLedger = (config: GatewayConfig): boolean => keepsBudgets(config) && keepsUsage(config)

/** Whether limits or budgets are asked for over a network. */
export const areRemote = (config: GatewayConfig): boolean =>
  config.storage.redis !== undefined || (keepsBudgets(config) && !isSqlite(config))

/** Whether limits or budgets are counted in the memory of each process. */
export const countsInMemory = (config: GatewayConfig): boolean =>
  config.storage.redis === undefined && (hasLimits(config) || (hasBudgets(config) && isSqlite(config)))

/**
 * What the gateway is governed by: callers, limits, budgets, records. Needs the tenants, and the registry that usage sinks put
 * themselves into.
 */
export const layer = (config: GatewayConfig) => {
  const to = connections(config)
  return Layer.mergeAll(
    identity(config, to),
    Audit.layerWith({ lingerMs: eventsGather }),
    JobStoreSql.layer.pipe(Layer.provide(to.sql)),
    files(config, to),
    storeStates(config, to),
    hasLimits(config) ? rateLimits(config, to) : Layer.empty,
    isOneLedger(config) ? UsageSql.ledgerTransaction.pipe(Layer.provide(to.sql)) : Layer.empty,
    hasBudgets(config) ? budgets(config, to) : Layer.empty
  ).pipe(
    Layer.provideMerge(Layer.mergeAll(Layer.empty, ...config.usage.sinks.map((sink) => usageSink(sink, to)))),
    Layer.provideMerge(Layer.mergeAll(Layer.empty, ...config.audit.sinks.map((sink) => auditSink(sink, to)))),
    Layer.provideMerge(AuditSinkRegistry.layer)
  )
}

/** Sections of a new configuration that need a store which the running one did without. */
export const unkept = (running: GatewayConfig, next: GatewayConfig): ReadonlyArray<string> =>
  (hasLimits(next) && !hasLimits(running)) || (hasBudgets(next) && !hasBudgets(running)) ? ["tenants"] : []

// ---------------------------------------------------------------------------------------------------------------------
// The command line's
// ---------------------------------------------------------------------------------------------------------------------

/** Tells the audit trail of what the command line does to keys. */
const audited = Layer.effect(
  Keys,
  Effect.gen(function*() {
    const keys = yield* Keys
    const audit = yield* AuditTrail
    const tell = (type: AuditEventType, { id, tenant }: KeyInfo) =>
      Effect.map(
        Clock.currentTimeMillis,
        (at) => audit.emit({ type, at, tenant, details: { key: id, key_tenant: tenant, by: "command line" } })
      )
    return Keys.of({
      ...keys,
      create: (key) => Effect.tap(keys.create(key), (issued) => tell("key_created", issued.key)),
      revoke: (id) => Effect.tap(keys.revoke(id), (key) => tell("key_revoked", key)),
      rotate: (id, graceMs) => Effect.tap(keys.rotate(id, graceMs), (issued) => tell("key_rotated", issued.key))
    })
  })
)

/**
 * The keys for the command line, whatever `auth.mode` is. Its changes are told to audit sinks in the database; a file
 * belongs to the process that serves.
 */
export const keyStore = (config: GatewayConfig) => {
  const to = connections(config)
  const sinks = config.audit.sinks.filter(({ type }) => type === "sql")
  return audited.pipe(
    Layer.provide(keys(config, to)),
    Layer.provide(Audit.layer),
    Layer.provide(Layer.mergeAll(Layer.empty, ...sinks.map((sink) => auditSink(sink, to)))),
    Layer.provide(Layer.mergeAll(AuditSinkRegistry.layer, Tenants.layer(policiesOf(config))))
  )
}
