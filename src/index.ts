/**
 * The public surface: what an app needs to build its own gateway out of Layers.
 *
 * ```ts
 * const AppGateway = Gateway.layer().pipe(
 *   Layer.provideMerge(ModelRegistryLayer.layer()),
 *   Layer.provideMerge(Layer.mergeAll(OpenAi.layer({ apiKey }), Sandbox.layer())),
 *   Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
 * )
 * ```
 *
 * What is not among the Layers beneath `Gateway.layer` does not act: limits need `Tenants` and one of the `RateLimits*`,
 * budgets one of the `Budgets*`, audit events `Audit.layer` over `AuditSinkRegistry.layer` and its sinks. `GatewayLayer`
 * puts all of it together from a configuration.
 */
export * from "./client/index.ts"
export * as ConfigFile from "./config/ConfigFile.ts"
export * as GatewayConfig from "./config/ConfiguredGateway.ts"
export * as GatewayLayer from "./config/GatewayLayer.ts"
export * as Stores from "./config/Stores.ts"
export { AccessLog } from "./gateway/AccessLog.ts"
export * as Audit from "./gateway/Audit.ts"
export { type BudgetOptions, Gateway, type GatewayOptions } from "./gateway/Gateway.ts"
export * as InProcess from "./gateway/InProcess.ts"
export { type JobCounts, Jobs, type JobsOptions } from "./gateway/Jobs.ts"
export * as Registries from "./gateway/Registries.ts"
export { RequestMetrics } from "./gateway/RequestMetrics.ts"
export { type RequestTrace, RequestTraces, type RequestTracesOptions } from "./gateway/RequestTraces.ts"
export * as BudgetsMemory from "./modules/budgets/BudgetsMemory.ts"
export * as BudgetsPostgres from "./modules/budgets/BudgetsPostgres.ts"
export * as BudgetsRedis from "./modules/budgets/BudgetsRedis.ts"
export * as BudgetsSqlite from "./modules/budgets/BudgetsSqlite.ts"
export * as BudgetMigrations from "./modules/budgets/Migrations.ts"
export * as FileStorageDisk from "./modules/fileStorage/FileStorageDisk.ts"
export * as FileStorageMemory from "./modules/fileStorage/FileStorageMemory.ts"
export * as FileStorageS3 from "./modules/fileStorage/FileStorageS3.ts"
export * as IdentityJwt from "./modules/identity/IdentityJwt.ts"
export * as IdentityKeys from "./modules/identity/IdentityKeys.ts"
export * as KeysSql from "./modules/identity/KeysSql.ts"
export * as JobStoreSql from "./modules/jobs/JobStoreSql.ts"
export * as ModelRegistryLayer from "./modules/modelRegistry/Registry.ts"
export * as OutboundUndici from "./modules/outbound/OutboundUndici.ts"
export * as ToldHeaders from "./modules/outbound/ToldHeaders.ts"
export * as PublicFetchUndici from "./modules/publicFetch/PublicFetchUndici.ts"
export * as RateLimitsMemory from "./modules/rateLimits/RateLimitsMemory.ts"
export * as RateLimitsRedis from "./modules/rateLimits/RateLimitsRedis.ts"
export * as Sql from "./modules/sql/Sql.ts"
export { OpenTelemetry, type OpenTelemetryOptions } from "./modules/telemetry/OpenTelemetry.ts"
export * as TypeRegistryFolder from "./modules/typeRegistry/TypeRegistryFolder.ts"
export * as TypeRegistryHttp from "./modules/typeRegistry/TypeRegistryHttp.ts"
export * as TypeRegistryMemory from "./modules/typeRegistry/TypeRegistryMemory.ts"
export * as AuditJsonl from "./plugins/audit/jsonl/AuditJsonl.ts"
export * as AuditVerify from "./plugins/audit/jsonl/Verify.ts"
export * as AuditNoop from "./plugins/audit/noop/AuditNoop.ts"
export * as AuditSql from "./plugins/audit/sql/AuditSql.ts"
export * as HeaderMetadata from "./plugins/interceptors/headerMetadata/HeaderMetadata.ts"
export * as Moderation from "./plugins/interceptors/moderation/Moderation.ts"
export * as NoopInterceptor from "./plugins/interceptors/noop/Noop.ts"
export * as Pii from "./plugins/interceptors/pii/Pii.ts"
export * as PromptGuard from "./plugins/interceptors/promptGuard/PromptGuard.ts"
export * as Webhook from "./plugins/interceptors/webhook/Webhook.ts"
export * as Anthropic from "./plugins/providers/anthropic/Anthropic.ts"
export * as Ollama from "./plugins/providers/ollama/Ollama.ts"
export * as OpenAi from "./plugins/providers/openai/OpenAi.ts"
export * as Sandbox from "./plugins/providers/sandbox/Sandbox.ts"
export * as UsageLogLines from "./plugins/usage/log/UsageLogLines.ts"
export * as UsageNoop from "./plugins/usage/noop/UsageNoop.ts"
export * as UsageSql from "./plugins/usage/sql/UsageSql.ts"
export * from "./sdk/index.ts"
export * as GatewayServer from "./server/GatewayServer.ts"
