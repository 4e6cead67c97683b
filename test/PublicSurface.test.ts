/** The names that an embedding app may build on: one that goes, or comes without being meant to, is seen here. */
import { assert, describe, it } from "@effect/vitest"
import * as Surface from "../src/index.ts"
import * as Sdk from "../src/sdk/index.ts"

const names = (text: string): ReadonlyArray<string> => text.trim().split(/\s+/)

/** Plugins, modules and what puts them together. */
const own = names(`
  AccessLog Anthropic Audit AuditJsonl AuditNoop AuditSql AuditVerify BudgetMigrations BudgetsMemory
  BudgetsPostgres BudgetsRedis BudgetsSqlite ConfigFile ConnectionFailed Gateway GatewayClient GatewayConfig
  FileStorageDisk FileStorageMemory FileStorageS3 GatewayEmbeddingModel GatewayLanguageModel GatewayLayer GatewayServer InProcess
  HeaderMetadata IdentityJwt IdentityKeys Jobs JobStoreSql KeysSql ModelRegistryLayer Moderation NoopInterceptor Ollama
  OpenAi OpenTelemetry OutboundUndici PublicFetchUndici Pii PromptGuard RateLimitsMemory RateLimitsRedis Registries RequestMetrics RequestTraces Sandbox Sql Stores
  ToldHeaders TypeRegistryFolder TypeRegistryHttp TypeRegistryMemory UsageLogLines UsageNoop UsageSql Webhook
`)

/** Of `llm-gateway/sdk`: what plugins and callers share. */
const shared = names(`
  AuditSink AuditSinkRegistry AuditTrail Breakers BudgetExceeded RefusedConfiguration tenantsOf BudgetInfo BudgetList Budgets
  CandidateInfo CapabilityNotSupported Chat ChatEvent ChatStream Configuration ConfigurationStatus ConnectionPools Content CurrentCaller CurrentRequest
  Embedding Explanation FileNotFound Forbidden GatewayApi GatewayCaller GatewayError GatewayErrorReason
  GatewayInProcess GatewayRpc Gts HealthInfo
  Identity Image Interceptor InterceptorRegistry InternalError InvalidSchemaId Issue Job JobExpired JobNotFound JobStore
  KeyJson Keys MethodNotAllowed Model ModelDeprecated ModelList ModelNotApproved ModelNotFound
  ModelRegistry NotFound Operation Outbound OutboundHeaders Overloaded PayloadTooLarge PresentedSecret Pricing Problem Provider
  ProviderError ProviderErrorKind ProviderFailed ProviderRegistry ProviderTimeout RateLimited
  RateLimits Realtime RealtimeSocket RequestBlocked ResponseBlocked RouteInfo RouteList RoutePolicy Routes SchemaNotFound Speech
  StoreStates StoreUnavailable Tenants TimeoutPhase TokenCount Tool Transcription TypeRegistry Unauthorized Usage UsageGroup UsageLog UsageQuestion
  UsageReport Video UsageReportRow UsageSink UsageSinkRegistry ValidationError Windows credentialsExhausted
  FetchError FetchFailure FileStorage PublicFetch
  fail fileIdOf fileNotFound filesPath fileStorage fileUrl invalid isFileId isTimeZone noFiles openFile signedUrl timeoutOf windowAt
`)

describe("the public surface", () => {
  it("src/sdk/index.ts has these names", () => {
    assert.deepStrictEqual(Object.keys(Sdk).toSorted(), shared.toSorted())
  })

  it("src/index.ts has these, and all of the sdk's", () => {
    assert.deepStrictEqual(Object.keys(Surface).toSorted(), [...own, ...shared].toSorted())
  })
})
