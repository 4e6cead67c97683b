/**
 * What a configured gateway keeps, and where: the database, Redis, and on them keys, limits, budgets, usage records and
 * audit events. What nothing in the configuration needs is not opened.
 */
import { NodeRedis } from "@effect/platform-node"
import { Layer, Redacted } from "effect"
import { FetchHttpClient } from "effect/http"
import * as Audit from "../gateway/Audit.ts"
import * as BudgetsPostgres from "../modules/budgets/BudgetsPostgres.ts"
import * as BudgetsRedis from "../modules/budgets/BudgetsRedis.ts"
import * as BudgetsSqlite from "../modules/budgets/BudgetsSqlite.ts"
import * as BudgetMigrations from "../modules/budgets/Migrations.ts"
import * as IdentityJwt from "../modules/identity/IdentityJwt.ts"
import * as IdentityKeys from "../modules/identity/IdentityKeys.ts"
import * as KeysSql from "../modules/identity/KeysSql.ts"
import * as RateLimitsMemory from "../modules/rateLimits/RateLimitsMemory.ts"
import * as RateLimitsRedis from "../modules/rateLimits/RateLimitsRedis.ts"
import * as Sql from "../modules/sql/Sql.ts"
import * as AuditJsonl from "../plugins/audit/jsonl/AuditJsonl.ts"
import * as AuditNoop from "../plugins/audit/noop/AuditNoop.ts"
import * as AuditSql from "../plugins/audit/sql/AuditSql.ts"
import * as UsageLogLines from "../plugins/usage/log/UsageLogLines.ts"
import * as UsageNoop from "../plugins/usage/noop/UsageNoop.ts"
import * as UsageSql from "../plugins/usage/sql/UsageSql.ts"
import { AuditSinkRegistry } from "../sdk/AuditSink.ts"
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
  ...BudgetMigrations.migrations
}

/** What the stores live in. One Layer is built once, however many stores stand on it, and not at all where none does. */
const connections = ({ storage }: GatewayConfig) => ({
  sql: Sql.migrate(migrations).pipe(Layer.provideMerge(Sql.layer(storage.sql))),
  redis: NodeRedis.layer({
    url: storage.redis === undefined ? "" : Redacted.value(storage.redis),
    // What cannot be sent fails at once: in the client's own queue it would wait until long after its request.
    disableOfflineQueue: true,
    socket: { connectTimeout: 5_000 }
  })
})

type Connections = ReturnType<typeof connections>

// ---------------------------------------------------------------------------------------------------------------------
// What is kept in them
// ---------------------------------------------------------------------------------------------------------------------

const apiKey = (key: AuthKeyConfig): IdentityKeys.ApiKey => ({
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

/** Whether budgets and usage records are in one database, so that both can be written in one transaction. */
const isOneLedger = (config: GatewayConfig): boolean => keepsBudgets(config) && keepsUsage(config)

/** Whether limits or budgets are asked for over a network. */
export const areRemote = (config: GatewayConfig): boolean =>
  config.storage.redis !== undefined || (keepsBudgets(config) && !isSqlite(config))

/** What the gateway is governed by: callers, limits, budgets, records. Needs the registry that usage sinks put themselves into. */
export const layer = (config: GatewayConfig) => {
  const to = connections(config)
  return Layer.mergeAll(
    identity(config, to),
    Audit.layer,
    hasLimits(config) ? rateLimits(config, to) : Layer.empty,
    isOneLedger(config) ? UsageSql.ledgerTransaction.pipe(Layer.provide(to.sql)) : Layer.empty,
    hasBudgets(config) ? budgets(config, to) : Layer.empty
  ).pipe(
    Layer.provideMerge(Layer.mergeAll(Layer.empty, ...config.usage.sinks.map((sink) => usageSink(sink, to)))),
    Layer.provideMerge(Layer.mergeAll(Layer.empty, ...config.audit.sinks.map((sink) => auditSink(sink, to)))),
    Layer.provideMerge(Layer.mergeAll(AuditSinkRegistry.layer, Tenants.layer(policiesOf(config))))
  )
}
