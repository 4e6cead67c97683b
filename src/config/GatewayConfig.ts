/**
 * The configuration of a gateway: its schema, which is the one place that says what `gateway.yaml` may hold, and the
 * defaults. The file's keys are snake_case, TypeScript's are camelCase; durations are ms, sizes are bytes, dates Unix ms.
 *
 * Names that refer to each other (a key's tenant, a route's provider) are checked by `CrossReferences.ts`, and what a file
 * holds comes in through `ConfigFile.ts`.
 */
import { Result, Schema, SchemaGetter, SchemaTransformation } from "effect"
import { isTimeZone } from "../sdk/BudgetWindow.ts"
import { headersProblem } from "../plugins/interceptors/headerMetadata/HeaderMetadata.ts"
import * as Patterns from "../plugins/interceptors/Patterns.ts"
import { customPattern } from "../plugins/interceptors/pii/CustomPattern.ts"
import { Capability } from "../sdk/Model.ts"
import {
  absentIfEmpty,
  Amount,
  BaseUrl,
  HttpUrl,
  HttpUrlOrEmpty,
  integer,
  matching,
  Moment,
  oneOf,
  RedisUrlOrEmpty,
  secretAbsentIfEmpty,
  secrets,
  section,
  Share,
  Switch,
  Text
} from "./Fields.ts"
import { Duration, PositiveDuration, Size } from "./Units.ts"

/**
 * A key that may be left out; `value` is what it is then, in the file's own spelling. The key's value is decoded to the end
 * before the default comes in: `Schema.withDecodingDefaultKey` would check the encoded side of a whole section first, and
 * a mistyped word would hide what the section's own checks have to say.
 */
const defaulted = <S extends Schema.ConstraintCodec<unknown, unknown>>(schema: S, value: S["Encoded"]) =>
  Schema.withDecodingDefaultTypeKey<S>(Schema.decodeEffect(schema)(value))(schema)

// ------------------------------------------------------------------------------------------------------------------
// server, auth
// ------------------------------------------------------------------------------------------------------------------

const Server = section({
  host: defaulted(matching(/^[A-Za-z0-9.:_-]{1,253}$/u, "expected a host name or an IP address"), "127.0.0.1"),
  port: defaulted(integer(0, 65535), 8080),
  max_body: defaulted(Size, "25MB"),
  drain_timeout: defaulted(Duration, "30s"),
  concurrency: defaulted(
    section({
      max: Schema.optionalKey(integer(1, 1e6)),
      per_tenant: Schema.optionalKey(integer(1, 1e6)),
      queue: defaulted(integer(0, 1e6), 1000),
      wait: defaulted(PositiveDuration, "5s")
    }),
    {}
  ),
  shed: defaulted(
    section({ event_loop_delay: defaulted(Duration, "500ms"), memory: defaulted(integer(0, 100), 90) }),
    {}
  )
})

const RateLimit = section(
  {
    per: oneOf(["tenant", "user", "key", "model"]),
    requests: Schema.optionalKey(integer(1, 1e12)),
    tokens: Schema.optionalKey(integer(1, 1e12)),
    concurrent: Schema.optionalKey(integer(1, 1e6)),
    window: Schema.optionalKey(PositiveDuration)
  },
  (limit) => {
    const given = [limit.requests, limit.tokens, limit.concurrent].filter((value) => value !== undefined).length
    return given === 1 ? undefined : "needs exactly one of requests, tokens and concurrent"
  },
  (limit) => {
    if (limit.concurrent !== undefined) {
      return limit.window === undefined ? undefined : "a limit of concurrent requests has no window"
    }
    return limit.window === undefined ? "needs a window, such as 1m" : undefined
  }
)

/** Nine million USD is what money as an integer of nano-USD can hold. */
const Budgeted = Amount.check(Schema.isLessThanOrEqualTo(9e6, { message: "expected at most 9000000 USD" }))

const Budget = section({
  per: oneOf(["tenant", "user", "key", "tag", "model"]),
  usd: Budgeted,
  window: oneOf(["hour", "day", "week", "month", "total"])
})

const hashProblem = "expected 64 hexadecimal digits, the SHA-256 of the key"

const AuthKey = section({
  id: Text,
  sha256: matching(/^[0-9A-Fa-f]{64}$/u, hashProblem).pipe(Schema.decode(SchemaTransformation.toLowerCase())),
  tenant: Text,
  user: Schema.optionalKey(Text),
  models: Schema.optionalKey(Schema.Array(Text)),
  tags: defaulted(Schema.Array(Text), []),
  admin: defaulted(Switch, false),
  rate_limits: defaulted(Schema.Array(RateLimit), []),
  budgets: defaulted(Schema.Array(Budget), []),
  expires: Schema.optionalKey(Moment)
})

const Jwt = section({
  jwks_url: HttpUrl,
  issuer: Text,
  audience: Schema.Union([Text, Schema.NonEmptyArray(Text)]),
  tenant_claim: defaulted(Text, "tenant"),
  user_claim: defaulted(Text, "sub"),
  tags_claim: Schema.optionalKey(Text),
  admin_claim: Schema.optionalKey(Text),
  clock_skew: defaulted(Duration, "30s")
})

const Auth = section({
  mode: oneOf(["none", "keys", "jwt"]),
  keys: defaulted(Schema.Array(AuthKey), []),
  jwt: Schema.optionalKey(Jwt),
  cache: defaulted(
    section({ fresh: defaulted(PositiveDuration, "10s"), stale: defaulted(PositiveDuration, "10m") }),
    {}
  )
})

// ------------------------------------------------------------------------------------------------------------------
// tenants
// ------------------------------------------------------------------------------------------------------------------

const WebhookSecret = matching(
  /^(?:whsec_[A-Za-z0-9+/]{32,}={0,2})?$/u,
  "expected whsec_ and the base64 of at least 24 bytes"
)

const Tenant = section({
  parent: Schema.optionalKey(Text),
  models: Schema.optionalKey(Schema.Array(Text)),
  rate_limits: defaulted(Schema.Array(RateLimit), []),
  budgets: defaulted(Schema.Array(Budget), []),
  interceptors: defaulted(Schema.Array(Text), []),
  webhook_secrets: defaulted(secrets(WebhookSecret), []),
  capture_content: defaulted(Switch, false)
})

// ------------------------------------------------------------------------------------------------------------------
// providers, models, routes
// ------------------------------------------------------------------------------------------------------------------

/** The kinds of provider that a configuration can name. */
export const ProviderType = oneOf(["openai", "anthropic", "ollama", "sandbox"])
export type ProviderType = typeof ProviderType.Type

/** Where a provider of each kind is, unless its configuration says otherwise; the sandbox is nowhere. */
export const defaultBaseUrls: { readonly [Type in Exclude<ProviderType, "sandbox">]: string } = {
  openai: "https://api.openai.com/v1",
  anthropic: "https://api.anthropic.com",
  ollama: "http://127.0.0.1:11434"
}

const headerValue = matching(/^[\t\x20-\x7e]{0,8192}$/u, "expected a header value: printable ASCII on one line")

const ApiKey = matching(/^[\x21-\x7e]*$/u, "expected a key: printable ASCII without spaces")

const Provider = section({
  type: ProviderType,
  base_url: absentIfEmpty(BaseUrl),
  api_key: secretAbsentIfEmpty(ApiKey),
  api_keys: defaulted(secrets(ApiKey), []),
  headers: defaulted(Schema.Record(Schema.String, headerValue), {}),
  responses_api: Schema.optionalKey(oneOf(["never", "same_wire", "always"])),
  unlisted_models: Schema.optionalKey(oneOf(["allow", "deny"])),
  discovery: Schema.optionalKey(section({ interval: defaulted(PositiveDuration, "5m") }))
}).pipe(Schema.decode({
  decode: SchemaGetter.transform((provider) =>
    provider.type === "sandbox" || provider.baseUrl !== undefined
      ? provider
      : { ...provider, baseUrl: defaultBaseUrls[provider.type] }
  ),
  encode: SchemaGetter.passthrough()
}))

const Price = Schema.Union([
  Amount,
  section({ base: Amount, tiers: Schema.Array(section({ start: Amount, price: Amount })) })
])

const VariantPrice = Schema.Union([
  Amount,
  section({ base: Amount, variants: Schema.Record(Schema.String, Amount) })
])

const ModelPrices = section({
  input_mtok: Schema.optionalKey(Price),
  output_mtok: Schema.optionalKey(Price),
  cache_read_mtok: Schema.optionalKey(Price),
  cache_write_mtok: Schema.optionalKey(Price),
  cache_write_1h_mtok: Schema.optionalKey(Price),
  input_audio_mtok: Schema.optionalKey(Price),
  input_image_mtok: Schema.optionalKey(Price),
  output_audio_mtok: Schema.optionalKey(Price),
  output_image_mtok: Schema.optionalKey(Price),
  image: Schema.optionalKey(VariantPrice),
  character_mchar: Schema.optionalKey(Amount),
  input_audio_second: Schema.optionalKey(Amount),
  output_audio_second: Schema.optionalKey(Amount),
  input_video_second: Schema.optionalKey(Amount),
  output_video_second: Schema.optionalKey(VariantPrice),
  requests_kcount: Schema.optionalKey(Amount)
})

const ModelEntry = section({
  id: Text,
  display_name: Schema.optionalKey(Text),
  capabilities: Schema.optionalKey(Schema.Array(Capability)),
  context_window: Schema.optionalKey(integer(1, 1e9)),
  max_output_tokens: Schema.optionalKey(integer(1, 1e9)),
  prices: Schema.optionalKey(ModelPrices),
  status: Schema.optionalKey(oneOf(["active", "deprecated"]))
})

const Retry = section(
  {
    base: defaulted(PositiveDuration, "250ms"),
    max: defaulted(PositiveDuration, "8s")
  },
  (retry) => retry.base <= retry.max ? undefined : "base must not be longer than max"
)

const RouteModel = Schema.Union([Text, section({ model: Text, weight: defaulted(Amount, 1) })])

/** What a route may say of what follows on which failure; the kinds are those of `FailureKind`. */
const failureAction = Schema.optionalKey(oneOf(["retry", "next", "final"]))

const OnFailure = section({
  caller: failureAction,
  credential: failureAction,
  quota: failureAction,
  transient: failureAction,
  protocol: failureAction,
  content_policy: failureAction,
  context_length: failureAction,
  timeout_connect: failureAction,
  timeout_first_token: failureAction,
  timeout_idle: failureAction,
  timeout_answer: failureAction,
  timeout_total: failureAction
})

const Rate = Amount.check(Schema.isGreaterThan(0, { message: "expected a number above 0" }))

const EmbedBatching = section({
  window: Duration,
  max_inputs: defaulted(integer(2, 2048), 256)
})

const Route = section({
  policy: defaulted(oneOf(["priority", "cheapest", "fastest", "weighted", "least_busy"]), "priority"),
  models: Schema.Array(RouteModel).check(Schema.isMinLength(1, { message: "needs at least one model" })),
  hedge_after: Schema.optionalKey(Duration),
  timeouts: Schema.optionalKey(section({
    connect: Schema.optionalKey(PositiveDuration),
    first_token: Schema.optionalKey(PositiveDuration),
    idle: Schema.optionalKey(PositiveDuration),
    answer: Schema.optionalKey(PositiveDuration),
    total: Schema.optionalKey(PositiveDuration)
  })),
  attempts: Schema.optionalKey(integer(1, 20)),
  retry: Schema.optionalKey(Retry),
  on_failure: Schema.optionalKey(OnFailure),
  min_tokens_per_second: Schema.optionalKey(Rate),
  embed_batching: Schema.optionalKey(EmbedBatching)
})

const Timeouts = section({
  connect: defaulted(PositiveDuration, "5s"),
  first_token: defaulted(PositiveDuration, "30s"),
  idle: defaulted(PositiveDuration, "30s"),
  answer: Schema.optionalKey(PositiveDuration),
  total: defaulted(PositiveDuration, "10m")
})

const Breaker = section(
  {
    failures: defaulted(integer(1, 1000), 5),
    open: defaulted(PositiveDuration, "1s"),
    max_open: defaulted(PositiveDuration, "30s")
  },
  (breaker) => breaker.open <= breaker.max_open ? undefined : "open must not be longer than max_open"
)

const TimeZone = Text.check(
  Schema.makeFilter((name: string) => isTimeZone(name) ? undefined : "expected a time zone such as Europe/Berlin")
)

const Percent = integer(1, 100)

const Defaults = section({
  timeouts: defaulted(Timeouts, {}),
  breaker: defaulted(Breaker, {}),
  attempts: defaulted(integer(1, 20), 4),
  retry: defaulted(Retry, {}),
  unknown_price: defaulted(
    Schema.Union([oneOf(["deny_if_budgeted", "free"]), section({ flat_usd: Amount })]),
    "deny_if_budgeted"
  ),
  time_zone: defaulted(TimeZone, "UTC"),
  budget_warnings: defaulted(Schema.Array(Percent), [80, 95]),
  embed_batching: Schema.optionalKey(EmbedBatching)
})

// ------------------------------------------------------------------------------------------------------------------
// interceptors, usage, audit
// ------------------------------------------------------------------------------------------------------------------

const interceptor = {
  on: defaulted(Schema.Array(oneOf(["request", "response"])), ["request", "response"]),
  order: Schema.optionalKey(integer(-1000, 1000)),
  failure: defaulted(oneOf(["open", "closed"]), "closed")
}

const problemOf = (compiled: Result.Result<unknown, string>): string | undefined =>
  Result.isFailure(compiled) ? compiled.failure : undefined

/** A pattern in RE2's syntax. */
const Pattern = Text.check(Schema.makeFilter((source: string) => problemOf(Patterns.compile(source))))

const NamedPatterns = Schema.Record(
  Schema.String,
  Pattern
).check(Schema.makeFilter((patterns: Readonly<Record<string, string>>) => {
  for (const name of Object.keys(patterns)) {
    const problem = problemOf(customPattern(name, "x"))
    if (problem !== undefined) return problem
  }
  return undefined
}))

const DenyRule = Schema.Union([Pattern, section({ name: Text, pattern: Pattern })])

const TagHeaders = Schema.Record(Schema.String, Text).check(Schema.makeFilter(headersProblem))

const Score = Amount.check(Schema.isLessThanOrEqualTo(1, { message: "expected a number from 0 to 1" }))

const Interceptor = Schema.Union([
  section({ type: Schema.Literal("noop"), ...interceptor }),
  section(
    {
      type: Schema.Literal("pii"),
      ...interceptor,
      redact: defaulted(Schema.Array(oneOf(["email", "phone", "credit_card", "iban", "ip"])), [
        "email",
        "phone",
        "credit_card",
        "iban",
        "ip"
      ]),
      patterns: defaulted(NamedPatterns, {}),
      action: defaulted(oneOf(["redact", "pseudonymise", "block"]), "redact")
    },
    ({ patterns, redact }) =>
      redact.length === 0 && Object.keys(patterns).length === 0 ? "needs something to look for" : undefined,
    ({ action, on }) =>
      action === "pseudonymise" && !on.includes("request")
        ? "pseudonyms are made of requests, so `on` needs request"
        : undefined
  ),
  section(
    {
      type: Schema.Literal("moderation"),
      ...interceptor,
      model: Schema.optionalKey(Text),
      url: absentIfEmpty(HttpUrlOrEmpty),
      api_key: secretAbsentIfEmpty(ApiKey),
      categories: Schema.optionalKey(Schema.Array(Text)),
      threshold: Schema.optionalKey(Score),
      timeout: defaulted(PositiveDuration, "5s")
    },
    ({ model, url }) => model === undefined && url === undefined ? "needs a model or a url" : undefined,
    ({ threshold, url }) =>
      threshold !== undefined && url === undefined ? "a threshold needs an endpoint's scores, and so a url" : undefined
  ),
  section({
    type: Schema.Literal("webhook"),
    ...interceptor,
    url: HttpUrl,
    secret: secretAbsentIfEmpty(
      matching(/^(?!whsec_)|^whsec_[A-Za-z0-9+/]+={0,2}$/u, "expected whsec_ and base64, or a text without whsec_")
    ),
    timeout: defaulted(PositiveDuration, "5s")
  }),
  section({
    type: Schema.Literal("prompt-guard"),
    ...interceptor,
    max_chars: Schema.optionalKey(integer(1, 1e9)),
    max_messages: Schema.optionalKey(integer(1, 1e6)),
    deny: defaulted(Schema.Array(DenyRule), []),
    case_sensitive: defaulted(Switch, false)
  }),
  section({
    type: Schema.Literal("header-metadata"),
    ...interceptor,
    headers: TagHeaders,
    forward: defaulted(Switch, false)
  })
])

const Usage = section({
  sinks: defaulted(Schema.Array(section({ type: oneOf(["noop", "log", "sql"]) })), [{ type: "sql" }]),
  durability: defaulted(oneOf(["batched", "strict"]), "batched")
})

const AuditSink = Schema.Union([
  section({ type: Schema.Literal("noop") }),
  section({ type: Schema.Literal("jsonl"), path: Text }),
  section({ type: Schema.Literal("sql") })
])

const Jobs = section({
  concurrency: defaulted(integer(0, 10_000), 16),
  ttl: defaulted(PositiveDuration, "1d"),
  lease: defaulted(PositiveDuration, "30s"),
  max_unfinished: defaulted(integer(1, 1e6), 10_000)
})

const Audit = section({ sinks: defaulted(Schema.Array(AuditSink), []) })

// ------------------------------------------------------------------------------------------------------------------
// storage, type_registry, observability
// ------------------------------------------------------------------------------------------------------------------

const Storage = section({
  sql: defaulted(
    Schema.RedactedFromValue(
      matching(
        /^(?:sqlite:.+|postgres(?:ql)?:\/\/.+)$/u,
        "expected sqlite:PATH or postgres://user:password@host/database"
      )
    ),
    "sqlite:./data/gateway.db"
  ),
  redis: secretAbsentIfEmpty(RedisUrlOrEmpty),
  redis_prefix: defaulted(
    matching(/^[A-Za-z0-9:._-]{1,64}$/u, "expected up to 64 of A-Z, a-z, 0-9 and :._-"),
    "llm-gateway:"
  ),
  redis_failure: defaulted(oneOf(["open", "closed"]), "closed"),
  files: defaulted(
    section({
      dir: defaulted(Text, "./data/files"),
      s3: Schema.optionalKey(section(
        {
          bucket: Text,
          prefix: absentIfEmpty(Schema.String),
          region: absentIfEmpty(Schema.String),
          endpoint: absentIfEmpty(HttpUrlOrEmpty),
          access_key_id: absentIfEmpty(Schema.String),
          secret_access_key: secretAbsentIfEmpty(Schema.String)
        },
        (s3) =>
          (s3.access_key_id === undefined) === (s3.secret_access_key === undefined)
            ? undefined
            : "access_key_id and secret_access_key belong together: give both or neither"
      )),
      max_size: defaulted(Size, "200MB"),
      ttl: defaulted(PositiveDuration, "7d"),
      quota: defaulted(Size, "10GB"),
      url_secret: secretAbsentIfEmpty(Schema.String)
    }),
    {}
  ),
  fetch: defaulted(
    section({
      allow: defaulted(
        Schema.Array(matching(
          /^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]{2,45}\/\d{1,3})$/u,
          "expected a host name or a range of addresses such as 10.0.0.0/8"
        )),
        []
      ),
      max_size: defaulted(Size, "50MB")
    }),
    {}
  )
})

const Realtime = section({
  max_session: defaulted(PositiveDuration, "1h"),
  idle_timeout: defaulted(PositiveDuration, "5m"),
  ping_interval: defaulted(PositiveDuration, "20s"),
  max_frame: defaulted(Size, "16MB"),
  secret: secretAbsentIfEmpty(
    matching(/^(?:.{32,1024})?$/u, "expected at least 32 characters, such as those of: openssl rand -base64 32")
  )
})

const TypeRegistry = section(
  {
    folder: Schema.optionalKey(Text),
    url: absentIfEmpty(HttpUrlOrEmpty),
    ttl: defaulted(PositiveDuration, "5m")
  },
  (registry) =>
    (registry.folder === undefined) === (registry.url === undefined) ? "needs either a folder or a url" : undefined
)

const LogLevel = oneOf(["trace", "debug", "info", "warn", "error"])

/** By the names of `LogModule`. */
const LogLevels = section({
  access: Schema.optionalKey(LogLevel),
  budgets: Schema.optionalKey(LogLevel),
  files: Schema.optionalKey(LogLevel),
  identity: Schema.optionalKey(LogLevel),
  interceptors: Schema.optionalKey(LogLevel),
  jobs: Schema.optionalKey(LogLevel),
  limits: Schema.optionalKey(LogLevel),
  models: Schema.optionalKey(LogLevel),
  outbound: Schema.optionalKey(LogLevel),
  records: Schema.optionalKey(LogLevel),
  requests: Schema.optionalKey(LogLevel),
  sql: Schema.optionalKey(LogLevel)
})

const Traces = section({
  sampling: defaulted(Share, 1),
  tell_providers: defaulted(Switch, false)
})

const Observability = section({
  otlp: absentIfEmpty(HttpUrlOrEmpty),
  otlp_headers: defaulted(Schema.Record(Schema.String, Schema.RedactedFromValue(Text)), {}),
  traces: defaulted(Traces, {}),
  metrics: defaulted(Switch, true),
  access_log: defaulted(Switch, false),
  log_level: defaulted(LogLevel, "info"),
  log_levels: defaulted(LogLevels, {})
})

// ------------------------------------------------------------------------------------------------------------------
// The whole
// ------------------------------------------------------------------------------------------------------------------

const fields = {
  server: defaulted(Server, {}),
  auth: defaulted(Auth, { mode: "none" }),
  tenants: defaulted(Schema.Record(Schema.String, Tenant), {}),
  providers: defaulted(Schema.Record(Schema.String, Provider), {}),
  models: defaulted(Schema.Array(ModelEntry), []),
  routes: defaulted(Schema.Record(Schema.String, Route), {}),
  defaults: defaulted(Defaults, {}),
  interceptors: defaulted(Schema.Record(Schema.String, Interceptor), {}),
  usage: defaulted(Usage, {}),
  audit: defaulted(Audit, {}),
  jobs: defaulted(Jobs, {}),
  realtime: defaulted(Realtime, {}),
  storage: defaulted(Storage, {}),
  type_registry: Schema.optionalKey(TypeRegistry),
  observability: defaulted(Observability, {})
}

/** The schema of a configuration: decoded from the file's own spelling, all defaults filled in. */
export const GatewayConfig = section(fields)

/** Where a configuration came from. */
export interface ConfigSource {
  /** The file's name as it was given. */
  readonly file: string
  /** The line of each key that the file holds, by its path in the file's spelling (`defaults.retry`), from 1. */
  readonly lines: ReadonlyMap<string, number>
}

/** A decoded configuration. */
export interface GatewayConfig extends Schema.Schema.Type<typeof GatewayConfig> {
  /** Absent for a configuration that was not read from a file. */
  readonly source?: ConfigSource
}

/** One configured key. Its `sha256` is lower-case. */
export interface AuthKeyConfig extends Schema.Schema.Type<typeof AuthKey> {}
/** One configured tenant. */
export interface TenantConfig extends Schema.Schema.Type<typeof Tenant> {}
/** One configured provider. */
export interface ProviderConfig extends Schema.Schema.Type<typeof Provider> {}
/** What the configuration says about one model. */
export interface ModelConfig extends Schema.Schema.Type<typeof ModelEntry> {}
/** One configured route. */
export interface RouteConfig extends Schema.Schema.Type<typeof Route> {}
/** One configured interceptor. */
export type InterceptorConfig = typeof Interceptor.Type
/** Where tool schemas come from: a folder or a remote registry. */
export interface TypeRegistryConfig extends Schema.Schema.Type<typeof TypeRegistry> {}
