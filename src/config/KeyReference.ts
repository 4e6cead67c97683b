/**
 * Every key of the configuration file in one table: its type, default, meaning, and whether it acts in this version. The
 * JSON Schema takes its descriptions from here, and docs/CONFIGURATION.md its tables; tests keep all three equal.
 * In paths, `<name>` stands for a name of the user's own and `[]` for any item of a list.
 */
import type { LogModule } from "../sdk/Log.ts"

/** One key. */
export interface KeyEntry {
  readonly path: string
  readonly type: string
  /** As the file would have it; `required` where it must be given; empty where there is none. */
  readonly default: string
  readonly meaning: string
  /** Whether it acts in this version. */
  readonly active: boolean
}

const on = (path: string, type: string, standard: string, meaning: string): KeyEntry => ({
  path,
  type,
  default: standard,
  meaning,
  active: true
})
/** The modules that a log level can be set for, and what they tell of. */
const logModules: ReadonlyArray<readonly [LogModule, string]> = [
  ["access", "The line for each request."],
  ["budgets", "The store of budgets."],
  ["files", "The storage of files."],
  ["identity", "Keys and tokens."],
  ["interceptors", "Interceptors that fail."],
  ["jobs", "Jobs and their store."],
  ["limits", "The store of rate limits."],
  ["models", "What providers say that they have."],
  ["outbound", "Connections to providers, their breakers and keys."],
  ["records", "Usage records and audit events."],
  ["requests", "Requests that fail by a fault in the gateway or a plugin."],
  ["sql", "The database."]
]

/** All keys, in the order of the page. */
export const keyReference: ReadonlyArray<KeyEntry> = [
  on("server", "mapping", "{}", "The HTTP server."),
  on("server.host", "host or IP", "127.0.0.1", "Where to listen. Beyond loopback only with authentication."),
  on("server.port", "0 to 65535", "8080", "The port to listen on; 0 takes a free one."),
  on("server.max_body", "size", "25MB", "The largest JSON body of a request."),
  on("server.drain_timeout", "duration", "30s", "How long SIGTERM waits for running requests."),
  on(
    "server.concurrency",
    "mapping",
    "{}",
    "How many requests run at the same time in one process; tenants take turns at free places."
  ),
  on("server.concurrency.max", "1 to 1000000", "", "In all; absent: any number."),
  on("server.concurrency.per_tenant", "1 to 1000000", "", "Of one tenant; absent: as many as there are places."),
  on(
    "server.concurrency.queue",
    "0 to 1000000",
    "1000",
    "Requests that wait for a place; half of them may be one tenant's. Others get overloaded."
  ),
  on("server.concurrency.wait", "duration", "5s", "How long a request waits for a place, before it gets overloaded."),
  on(
    "server.shed",
    "mapping",
    "{}",
    "When new requests are turned away with overloaded, to get those done that run. Health, metrics and administration are always answered."
  ),
  on(
    "server.shed.event_loop_delay",
    "duration",
    "500ms",
    "How late the event loop is, three times in a row; 0s: no reason."
  ),
  on(
    "server.shed.memory",
    "0 to 100",
    "90",
    "Percent of the heap, or of the memory that a container may have; 0: no reason."
  ),

  on("auth", "mapping", "{ mode: none }", "Who may call."),
  on(
    "auth.mode",
    "none, keys, jwt",
    "required",
    "How callers show who they are. none lets everybody in as an administrator of the tenant default, on loopback only; jwt takes tokens, and keys as well."
  ),
  on(
    "auth.keys",
    "list",
    "[]",
    "Keys, by the hashes of their secrets. More live in the database, made by llm-gateway keys or the admin API."
  ),
  on("auth.keys[].id", "text", "required", "The key's name in records; each once."),
  on("auth.keys[].sha256", "64 hex digits", "required", "SHA-256 of the key: printf %s \"$KEY\" | sha256sum."),
  on(
    "auth.keys[].tenant",
    "text",
    "required",
    "On whose account requests run. Must be one of tenants, if that section is there."
  ),
  on(
    "auth.keys[].user",
    "text",
    "",
    "The end user, where the key stands for one; what requests say of their user does not count then."
  ),
  on("auth.keys[].models", "list of patterns", "", "The models that this key may use, within what its tenant may use."),
  on("auth.keys[].tags", "list of texts", "[]", "Tags for records."),
  on(
    "auth.keys[].admin",
    "true, false",
    "false",
    "Whether the key may administrate: make and revoke keys, see /metrics and the details of /health/ready."
  ),
  on(
    "auth.keys[].rate_limits",
    "list",
    "[]",
    "Limits on top of the tenant's; each has exactly one of requests, tokens and concurrent."
  ),
  on(
    "auth.keys[].rate_limits[].per",
    "tenant, user, key, model",
    "required",
    "What is counted for itself: all of the tenant's requests together, or those of each user, key or model."
  ),
  on("auth.keys[].rate_limits[].requests", "number", "", "Requests in a window."),
  on(
    "auth.keys[].rate_limits[].tokens",
    "number",
    "",
    "Tokens in a window, prompt and answer together, cached ones included."
  ),
  on("auth.keys[].rate_limits[].concurrent", "number", "", "Requests at the same time; has no window."),
  on(
    "auth.keys[].rate_limits[].window",
    "duration",
    "",
    "How long the whole limit takes to be there again, at an even rate; needed for requests and tokens."
  ),
  on("auth.keys[].budgets", "list", "[]", "What may be spent, on top of the tenant's budgets."),
  on(
    "auth.keys[].budgets[].per",
    "tenant, user, key, tag, model",
    "required",
    "Who has such a budget for itself: the tenant, or each user, key, tag or model."
  ),
  on("auth.keys[].budgets[].usd", "number", "required", "US dollars in a window, at most 9,000,000."),
  on(
    "auth.keys[].budgets[].window",
    "hour, day, week, month, total",
    "required",
    "When the budget starts anew, by the calendar of defaults.time_zone; total never does."
  ),
  on(
    "auth.keys[].expires",
    "date",
    "",
    "From then on the key is refused: 2027-01-31 (its begin, UTC) or 2027-01-31T12:00:00Z."
  ),
  on("auth.jwt", "mapping", "", "How JSON Web Tokens are checked; needed for the mode jwt."),
  on("auth.jwt.jwks_url", "URL", "required", "Where the issuer's keys are."),
  on("auth.jwt.issuer", "text", "required", "The iss claim that tokens must have."),
  on("auth.jwt.audience", "text or list", "required", "The aud claim that tokens must have."),
  on("auth.jwt.tenant_claim", "text", "tenant", "The claim that names the tenant."),
  on("auth.jwt.user_claim", "text", "sub", "The claim that names the user."),
  on("auth.jwt.tags_claim", "text", "", "The claim that lists tags; none are taken without it."),
  on("auth.jwt.admin_claim", "text", "", "The claim that makes an admin where it is true; nobody is one without it."),
  on("auth.jwt.clock_skew", "duration", "30s", "By how much the issuer's clock may differ, for exp and nbf."),
  on("auth.cache", "mapping", "{}", "How long what is known of a stored key is used."),
  on(
    "auth.cache.fresh",
    "duration",
    "10s",
    "For so long the database is not asked again; so long a revoked key may work on other replicas."
  ),
  on("auth.cache.stale", "duration", "10m", "For so long it is used while the database does not answer."),

  on("tenants", "mapping by name", "{}", "Tenants form a tree; children inherit, and may only restrict."),
  on("tenants.<name>.parent", "a tenant", "", "The tenant that it belongs to."),
  on(
    "tenants.<name>.models",
    "list of patterns",
    "",
    "The models that it may use, with * for anything: openai::*, anthropic::claude-*. Left out: all that its parent may use."
  ),
  on(
    "tenants.<name>.rate_limits",
    "list",
    "[]",
    "Limits, shared with the tenants below it; each has exactly one of requests, tokens and concurrent."
  ),
  on(
    "tenants.<name>.rate_limits[].per",
    "tenant, user, key, model",
    "required",
    "What is counted for itself: all of the tenant's requests together, or those of each user, key or model."
  ),
  on("tenants.<name>.rate_limits[].requests", "number", "", "Requests in a window."),
  on(
    "tenants.<name>.rate_limits[].tokens",
    "number",
    "",
    "Tokens in a window, prompt and answer together, cached ones included."
  ),
  on("tenants.<name>.rate_limits[].concurrent", "number", "", "Requests at the same time; has no window."),
  on(
    "tenants.<name>.rate_limits[].window",
    "duration",
    "",
    "How long the whole limit takes to be there again, at an even rate; needed for requests and tokens."
  ),
  on("tenants.<name>.budgets", "list", "[]", "What may be spent, shared with the tenants below it."),
  on(
    "tenants.<name>.budgets[].per",
    "tenant, user, key, tag, model",
    "required",
    "Who has such a budget for itself: the tenant, or each user, key, tag or model."
  ),
  on("tenants.<name>.budgets[].usd", "number", "required", "US dollars in a window, at most 9,000,000."),
  on(
    "tenants.<name>.budgets[].window",
    "hour, day, week, month, total",
    "required",
    "When the budget starts anew, by the calendar of defaults.time_zone; total never does."
  ),
  on(
    "tenants.<name>.interceptors",
    "list of names",
    "[]",
    "Interceptors that its requests, and those of the tenants below it, go through."
  ),
  on(
    "tenants.<name>.webhook_secrets",
    "list of secrets",
    "[]",
    "What calls to the webhooks of its jobs, and of those of the tenants below it, are signed with: `whsec_` and base64. Each of them signs."
  ),
  on(
    "tenants.<name>.capture_content",
    "true, false",
    "false",
    "Whether traces of its requests, and of those of the tenants below it, hold what was asked and answered."
  ),

  on(
    "providers",
    "mapping by slug",
    "from the environment",
    "The providers. A slug is made of a-z, 0-9, ., _ and -; models are called slug::model. Left out: those that the environment gives, as without a file."
  ),
  on(
    "providers.<name>.type",
    "openai, anthropic, ollama, sandbox",
    "required",
    "The kind of provider. openai is any server that is compatible with OpenAI's API."
  ),
  on(
    "providers.<name>.base_url",
    "URL",
    "the provider's own",
    "Where it is, without query. Default https://api.openai.com/v1, https://api.anthropic.com or http://127.0.0.1:11434, by type."
  ),
  on("providers.<name>.api_key", "text", "", "Its key; an empty text means none. Take it from the environment."),
  on(
    "providers.<name>.api_keys",
    "list of text",
    "[]",
    "More keys, used in turn; one that is refused or limited is passed over."
  ),
  on("providers.<name>.headers", "mapping", "{}", "Headers to send with every request."),
  on(
    "providers.<name>.responses_api",
    "never, same_wire, always",
    "same_wire at OpenAI itself",
    "Of type openai: which chats go to the server's Responses API instead of its chat completions. same_wire: those whose callers speak that API themselves. Left out elsewhere: never."
  ),
  on(
    "providers.<name>.unlisted_models",
    "allow, deny",
    "",
    "Whether models may be called that neither catalogue, configuration nor discovery knows. Left out: only until discovery has answered."
  ),
  on("providers.<name>.discovery", "mapping", "", "How the provider is asked for its models."),
  on("providers.<name>.discovery.interval", "duration", "5m", "How often."),

  on("models", "list", "[]", "Adds to, or overrides, what the catalogue and discovery know of a model."),
  on("models[].id", "provider::model", "required", "The model; its provider must exist."),
  on("models[].display_name", "text", "", "Its name for people."),
  on("models[].capabilities", "list", "", "What it can take, make and do."),
  on("models[].context_window", "number", "", "Tokens, prompt and answer together."),
  on("models[].max_output_tokens", "number", "", "Tokens."),
  on(
    "models[].prices",
    "mapping",
    "",
    "Those of tokens in USD per million: a number, or { base, tiers: [{ start, price }] } where it rises with the size of the prompt."
  ),
  on(
    "models[].prices.input_mtok",
    "price",
    "required",
    "Input. Where the model has one of the prices that are not of tokens, 0 unless said."
  ),
  on("models[].prices.output_mtok", "price", "required", "Output. As input."),
  on("models[].prices.cache_read_mtok", "price", "as input", "Input read from a cache."),
  on("models[].prices.cache_write_mtok", "price", "as input", "Input written to a cache."),
  on("models[].prices.cache_write_1h_mtok", "price", "as input", "Input written to a cache for an hour."),
  on("models[].prices.input_audio_mtok", "price", "as input", "Audio input."),
  on("models[].prices.input_image_mtok", "price", "as input", "Image input."),
  on("models[].prices.output_audio_mtok", "price", "as output", "Audio output."),
  on("models[].prices.output_image_mtok", "price", "as output", "Image output."),
  on(
    "models[].prices.image",
    "number",
    "",
    "USD an image that is made: a number, or { base, variants: { 1024x1024/high: 0.167 } } by size/quality, size or quality."
  ),
  on("models[].prices.character_mchar", "number", "", "USD per million characters that are spoken."),
  on("models[].prices.input_audio_second", "number", "", "USD a second of sound that is heard."),
  on("models[].prices.output_audio_second", "number", "", "USD a second of sound that is made."),
  on("models[].prices.input_video_second", "number", "", "USD a second of video that is seen."),
  on("models[].prices.output_video_second", "number", "", "USD a second of video that is made; as image, by size."),
  on("models[].prices.requests_kcount", "number", "", "USD per thousand requests, on top."),
  on("models[].status", "active, deprecated", "", "A deprecated model is refused."),

  on(
    "routes",
    "mapping by name",
    "{}",
    "Names for several models and a policy; requests name a route where they would name a model. A name must not hold ::."
  ),
  on(
    "routes.<name>.policy",
    "priority, cheapest, fastest, weighted, least_busy",
    "priority",
    "Which model comes first: the first one listed, the cheapest or the fastest for this request, one by weight, or the one with the fewest calls running. Models that failed lately come last."
  ),
  on("routes.<name>.models", "list", "required", "The models, at least one: ids, or { model, weight }."),
  on("routes.<name>.models[].model", "provider::model", "required", "A model."),
  on(
    "routes.<name>.models[].weight",
    "number",
    "1",
    "Its share of the requests under the policy weighted; with 0 it only serves when the others fail."
  ),
  on(
    "routes.<name>.hedge_after",
    "duration",
    "",
    "After how long without content the next model is started beside the first."
  ),
  on("routes.<name>.timeouts", "mapping", "", "Timers of this route; what is left out comes from defaults.timeouts."),
  on("routes.<name>.timeouts.connect", "duration", "", "As defaults.timeouts.connect."),
  on("routes.<name>.timeouts.first_token", "duration", "", "As defaults.timeouts.first_token."),
  on("routes.<name>.timeouts.idle", "duration", "", "As defaults.timeouts.idle."),
  on("routes.<name>.timeouts.answer", "duration", "", "As defaults.timeouts.answer."),
  on("routes.<name>.timeouts.total", "duration", "", "As defaults.timeouts.total."),
  on("routes.<name>.attempts", "1 to 20", "", "As defaults.attempts."),
  on("routes.<name>.retry", "mapping", "", "As defaults.retry."),
  on("routes.<name>.retry.base", "duration", "250ms", "As defaults.retry.base."),
  on("routes.<name>.retry.max", "duration", "8s", "As defaults.retry.max."),
  on(
    "routes.<name>.on_failure",
    "mapping",
    "",
    "What follows on which failure, over the gateway's own table: the same model again, the next one, or the error."
  ),
  on("routes.<name>.on_failure.caller", "retry, next, final", "final", "The provider finds the request wrong."),
  on("routes.<name>.on_failure.credential", "retry, next, final", "next", "The provider refuses the gateway's key."),
  on("routes.<name>.on_failure.quota", "retry, next, final", "retry", "A limit of the gateway's account is used up."),
  on(
    "routes.<name>.on_failure.transient",
    "retry, next, final",
    "retry",
    "Overload, a broken connection, a server error."
  ),
  on("routes.<name>.on_failure.protocol", "retry, next, final", "next", "The provider broke its own protocol."),
  on(
    "routes.<name>.on_failure.content_policy",
    "retry, next, final",
    "final",
    "The provider's safety system refused the content."
  ),
  on(
    "routes.<name>.on_failure.context_length",
    "retry, next, final",
    "next",
    "The conversation does not fit the model's context window."
  ),
  on("routes.<name>.on_failure.timeout_connect", "retry, next, final", "retry", "timeouts.connect ran out."),
  on("routes.<name>.on_failure.timeout_first_token", "retry, next, final", "next", "timeouts.first_token ran out."),
  on(
    "routes.<name>.on_failure.timeout_idle",
    "retry, next, final",
    "next",
    "timeouts.idle ran out, before any content was sent."
  ),
  on(
    "routes.<name>.on_failure.timeout_answer",
    "retry, next, final",
    "next",
    "timeouts.answer, or an attempt's share of timeouts.total, ran out."
  ),
  on("routes.<name>.on_failure.timeout_total", "retry, next, final", "final", "timeouts.total ran out."),
  on(
    "routes.<name>.min_tokens_per_second",
    "number above 0",
    "",
    "A stream that comes slower than this while another model can still take over is given up."
  ),
  on("routes.<name>.embed_batching", "mapping", "", "As defaults.embed_batching, for requests to this route."),
  on(
    "routes.<name>.embed_batching.window",
    "duration",
    "required",
    "How long the first waits for others; 0 is not at all."
  ),
  on("routes.<name>.embed_batching.max_inputs", "2 to 2048", "256", "Inputs of one call at most."),

  on("defaults", "mapping", "{}", "What holds for every request."),
  on("defaults.timeouts", "mapping", "{}", "The five timers."),
  on("defaults.timeouts.connect", "duration", "5s", "Until the request is on its way over an open connection."),
  on("defaults.timeouts.first_token", "duration", "30s", "From there until the first content."),
  on("defaults.timeouts.idle", "duration", "30s", "Between two pieces of content."),
  on(
    "defaults.timeouts.answer",
    "duration",
    "",
    "One attempt at a whole answer. Left out: half of what is left of the total while another model could still answer."
  ),
  on("defaults.timeouts.total", "duration", "10m", "The whole request, over all attempts."),
  on("defaults.breaker", "mapping", "{}", "When a provider that fails is left alone for a while."),
  on("defaults.breaker.failures", "1 to 1000", "5", "So many failures in a row; half of the last 20 calls do so, too."),
  on("defaults.breaker.open", "duration", "1s", "How long at first; doubled each time that it fails again."),
  on("defaults.breaker.max_open", "duration", "30s", "How long at most."),
  on("defaults.attempts", "1 to 20", "4", "Calls in all for one request: retries and fallbacks together."),
  on("defaults.retry", "mapping", "{}", "How long to wait before a retry."),
  on("defaults.retry.base", "duration", "250ms", "Before the first; doubled for each that follows."),
  on("defaults.retry.max", "duration", "8s", "The longest wait."),
  on(
    "defaults.unknown_price",
    "deny_if_budgeted, free, { flat_usd }",
    "deny_if_budgeted",
    "What a request to a model without a known price costs: it is refused where a budget would have to pay, or it is free, or it costs so much."
  ),
  on("defaults.unknown_price.flat_usd", "number", "required", "USD a request."),
  on("defaults.time_zone", "IANA time zone", "UTC", "By whose calendar the windows of budgets begin."),
  on(
    "defaults.budget_warnings",
    "list of percents",
    "[80, 95]",
    "Shares of a budget, in percent; when so much is spent, the audit trail gets a warning."
  ),
  on(
    "defaults.embed_batching",
    "mapping",
    "",
    "Requests for vectors that come at about the same time share a call. Left out: none do."
  ),
  on("defaults.embed_batching.window", "duration", "required", "How long the first waits for others; 0 is not at all."),
  on("defaults.embed_batching.max_inputs", "2 to 2048", "256", "Inputs of one call at most."),

  on(
    "interceptors",
    "mapping by name",
    "{}",
    "Interceptors, to be named by tenants; where no tenants are configured, all requests go through all of them."
  ),
  on(
    "interceptors.<name>.type",
    "noop, pii, moderation, webhook, prompt-guard, header-metadata",
    "required",
    "The kind."
  ),
  on("interceptors.<name>.on", "list of request, response", "[request, response]", "What it looks at."),
  on("interceptors.<name>.order", "-1000 to 1000", "", "Its place among the others, lowest first."),
  on("interceptors.<name>.failure", "open, closed", "closed", "Whether requests go on when it fails."),
  on("interceptors.<name>.redact", "list of email, phone, credit_card, iban, ip", "all", "pii: what it looks for."),
  on(
    "interceptors.<name>.patterns",
    "mapping",
    "{}",
    "pii: patterns of your own (RE2) by the name of what they find; a match has at most 256 characters."
  ),
  on(
    "interceptors.<name>.action",
    "redact, pseudonymise, block",
    "redact",
    "pii: what happens to a finding; pseudonymise restores the values in the answer."
  ),
  on(
    "interceptors.<name>.model",
    "provider::model",
    "",
    "moderation: the model that is asked; with a url, the name of the endpoint's model."
  ),
  on(
    "interceptors.<name>.url",
    "URL",
    "",
    "webhook: where the call goes (required). moderation: an endpoint in the manner of OpenAI's, in place of a model."
  ),
  on("interceptors.<name>.api_key", "text", "", "moderation: the endpoint's key."),
  on("interceptors.<name>.categories", "list of text", "", "moderation: what counts. Left out: whatever is flagged."),
  on(
    "interceptors.<name>.threshold",
    "0 to 1",
    "",
    "moderation: the score from which on a category counts. Left out: what the endpoint itself flags."
  ),
  on(
    "interceptors.<name>.secret",
    "text",
    "",
    "webhook: signs the call, as Standard Webhooks says; whsec_ and base64, or any text."
  ),
  on("interceptors.<name>.timeout", "duration", "5s", "moderation, webhook: how long it may take."),
  on(
    "interceptors.<name>.max_chars",
    "number",
    "",
    "prompt-guard: the most characters of text in all messages together."
  ),
  on("interceptors.<name>.max_messages", "number", "", "prompt-guard: the most messages."),
  on(
    "interceptors.<name>.deny",
    "list",
    "[]",
    "prompt-guard: what a prompt must not hold: patterns (RE2), or { name, pattern }."
  ),
  on("interceptors.<name>.deny[].name", "text", "required", "What the caller reads when it is found."),
  on("interceptors.<name>.deny[].pattern", "pattern", "required", "The pattern."),
  on(
    "interceptors.<name>.case_sensitive",
    "true, false",
    "false",
    "prompt-guard: whether patterns tell upper case from lower case."
  ),
  on(
    "interceptors.<name>.headers",
    "mapping",
    "required",
    "header-metadata: the tag's key by the header that its value is taken from; at most 16."
  ),
  on(
    "interceptors.<name>.forward",
    "true, false",
    "false",
    "header-metadata: whether the provider gets them, too, in the request's metadata."
  ),

  on("usage", "mapping", "{}", "Usage records."),
  on(
    "usage.sinks",
    "list",
    "[{ type: sql }]",
    "Where they go; sql keeps them in storage.sql, for GET /llm-gateway/v1/usage."
  ),
  on("usage.sinks[].type", "noop, log, sql", "required", "Nowhere; JSON lines on standard output; the database."),
  on(
    "usage.durability",
    "batched, strict",
    "batched",
    "strict: an answer ends only after its record is committed by the sink sql."
  ),

  on("audit", "mapping", "{}", "Audit events."),
  on("audit.sinks", "list", "[]", "Where they go."),
  on("audit.sinks[].type", "noop, jsonl, sql", "required", "Nowhere; a file whose lines are chained; the database."),
  on("audit.sinks[].path", "path", "required", "jsonl: the file; each process needs one of its own."),

  on("realtime", "mapping", "{}", "Realtime sessions over WebSockets."),
  on("realtime.max_session", "duration", "1h", "The longest session."),
  on(
    "realtime.idle_timeout",
    "duration",
    "5m",
    "How long both sides of a session may keep silent, or one may not read."
  ),
  on(
    "realtime.ping_interval",
    "duration",
    "20s",
    "How often both sides are asked whether they are there; one that has not answered by the next time is gone."
  ),
  on("realtime.max_frame", "size", "16MB", "The largest frame that either side may send."),
  on(
    "realtime.secret",
    "text",
    "",
    "What client secrets are sealed with, at least 32 characters, the same on all replicas. Absent: each process has its own, and takes only what it has made."
  ),

  on("jobs", "mapping", "{}", "Jobs: requests whose answers are fetched later."),
  on("jobs.concurrency", "whole number", "16", "Jobs that run at the same time in this process; 0: it runs none."),
  on("jobs.ttl", "duration", "1d", "How long results are kept."),
  on("jobs.lease", "duration", "30s", "How long the job of a replica that has died waits for another one."),
  on("jobs.max_unfinished", "whole number", "10000", "Jobs of one tenant that have not ended."),

  on("storage", "mapping", "{}", "What survives a restart, and what replicas share."),
  on(
    "storage.sql",
    "sqlite:PATH or postgres://...",
    "sqlite:./data/gateway.db",
    "The database: of keys, usage records, audit events, jobs, and of budgets where there is no Redis."
  ),
  on(
    "storage.redis",
    "redis://... or rediss://...",
    "",
    "Rate limits and budgets that replicas share; an empty text means none: limits are in memory then, and budgets in storage.sql."
  ),
  on(
    "storage.redis_prefix",
    "text",
    "llm-gateway:",
    "What the gateway's keys in Redis begin with; gateways with the same share their limits and budgets."
  ),
  on(
    "storage.redis_failure",
    "open, closed",
    "closed",
    "While Redis does not answer, rate limits let requests pass (open) or refuse them (closed). Budgets always refuse."
  ),
  on(
    "storage.files",
    "mapping",
    "{}",
    "Files that callers upload and models make; what is known of them is in storage.sql."
  ),
  on("storage.files.dir", "path", "./data/files", "The folder that they are in."),
  on("storage.files.s3", "mapping", "", "The S3 bucket that they are in, instead of a folder."),
  on("storage.files.s3.bucket", "text", "required", "The bucket's name."),
  on("storage.files.s3.prefix", "text", "", "What the names of objects begin with, such as gateway/."),
  on("storage.files.s3.region", "text", "us-east-1", "Where the bucket is."),
  on("storage.files.s3.endpoint", "URL", "", "A server that is not Amazon's, such as http://minio:9000."),
  on(
    "storage.files.s3.access_key_id",
    "text",
    "",
    "Without it the AWS SDK looks in the environment, its files, and at the machine."
  ),
  on("storage.files.s3.secret_access_key", "secret", "", "Belongs to access_key_id."),
  on("storage.files.max_size", "size", "200MB", "The largest file."),
  on("storage.files.ttl", "duration", "7d", "How long files are kept; their maker may ask for less."),
  on("storage.files.quota", "size", "10GB", "All files of one tenant together."),
  on(
    "storage.files.url_secret",
    "secret",
    "",
    "What signed addresses of files are signed with. Without it the gateway makes one and keeps it in storage.sql."
  ),
  on(
    "storage.fetch",
    "mapping",
    "{}",
    "Requests to addresses that callers give: webhooks, and media named by URL. Public https addresses alone are asked."
  ),
  on(
    "storage.fetch.allow",
    "list of hosts or CIDRs",
    "[]",
    "What may be asked beyond them, over plain http, too: names, each for itself, and ranges such as 10.0.0.0/8."
  ),
  on("storage.fetch.max_size", "size", "50MB", "The largest answer."),

  on("type_registry", "mapping", "", "Where the schemas of referenced tools come from: a folder or a url, not both."),
  on("type_registry.folder", "path", "", "A folder of JSON Schema files."),
  on("type_registry.url", "URL", "", "A remote registry."),
  on("type_registry.ttl", "duration", "5m", "How long a schema of a remote registry is kept."),

  on("observability", "mapping", "{}", "What the gateway tells about itself."),
  on(
    "observability.otlp",
    "URL",
    "",
    "An OpenTelemetry collector that takes OTLP over HTTP; traces go to /v1/traces below it, metrics to /v1/metrics. An empty text means none."
  ),
  on("observability.otlp_headers", "mapping", "{}", "Headers of each export, such as an authorization. Secret."),
  on("observability.traces", "mapping", "{}", "What is traced, where there is a collector."),
  on(
    "observability.traces.sampling",
    "number from 0 to 1",
    "1",
    "The share of requests that are traced. A request that comes with a traceparent is traced if its caller traces it."
  ),
  on(
    "observability.traces.tell_providers",
    "true, false",
    "false",
    "Whether providers get a traceparent header with each call."
  ),
  on("observability.metrics", "true, false", "true", "Whether /metrics is served."),
  on("observability.access_log", "true, false", "false", "Whether each request leaves a line in the log."),
  on("observability.log_level", "trace, debug, info, warn, error", "info", "What is logged: this, and what is worse."),
  on("observability.log_levels", "mapping", "{}", "Another level for one module of the gateway."),
  ...logModules.map(([module, meaning]) =>
    on(`observability.log_levels.${module}`, "trace, debug, info, warn, error", "", meaning)
  )
]

/** The row of a key in the tables of docs/CONFIGURATION.md. */
export const referenceRow = (entry: KeyEntry): string => {
  const cell = (text: string): string => text.replaceAll("|", "\\|")
  const standard = entry.default === "" ? "" : entry.default === "required" ? "required" : `\`${cell(entry.default)}\``
  return `| \`${entry.path}\` | ${cell(entry.type)} | ${standard} | ${cell(entry.meaning)} | ${
    entry.active ? "yes" : "not yet"
  } |`
}
