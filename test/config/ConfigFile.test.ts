/** Reading a configuration: the defaults, the shape in TypeScript, and every kind of problem with its exact line and text. */
import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Redacted, Result, Schema } from "effect"
import { existsSync, readFileSync } from "node:fs"
import { ConfigError, load, parse } from "../../src/config/ConfigFile.ts"

const example = new URL("../../../shared/gateway.example.yaml", import.meta.url)

const problemsOf = (text: string, env: Record<string, string> = {}): string => {
  const result = parse(text, "g.yaml", env)
  return Result.isFailure(result) ? result.failure.message : "no problem"
}

describe("defaults", () => {
  for (const text of ["", "# nothing but a comment\n", "{}", "---\n"]) {
    it(`an empty file (${JSON.stringify(text)}) has all defaults`, () => {
      const result = parse(text, "g.yaml", {})
      assert.isTrue(Result.isSuccess(result))
      if (Result.isFailure(result)) return
      const { auth, defaults, providers, server } = result.success
      assert.deepStrictEqual(server, {
        host: "127.0.0.1",
        port: 8080,
        maxBody: 25_000_000,
        drainTimeout: 30_000,
        concurrency: { queue: 1000, wait: 5000 },
        shed: { eventLoopDelay: 500, memory: 90 }
      })
      assert.deepStrictEqual(auth, { mode: "none", keys: [], cache: { fresh: 10_000, stale: 600_000 } })
      assert.deepStrictEqual(defaults, {
        timeouts: { connect: 5000, firstToken: 30_000, idle: 30_000, total: 600_000 },
        breaker: { failures: 5, open: 1000, maxOpen: 30_000 },
        attempts: 4,
        retry: { base: 250, max: 8000 },
        unknownPrice: "deny_if_budgeted",
        timeZone: "UTC",
        budgetWarnings: [80, 95]
      })
      assert.deepStrictEqual(Object.keys(providers), ["sandbox"])
    })
  }

  it("each kind of provider knows where it is, and slashes at the end of a base_url are dropped", () => {
    const result = parse(
      "providers: { o: { type: openai }, a: { type: anthropic }, l: { type: ollama }, s: { type: sandbox }, e: { type: openai, base_url: \"\" }, x: { type: openai, base_url: \"http://h/v1//\" } }",
      "g.yaml",
      {}
    )
    assert.deepStrictEqual(
      Result.isSuccess(result) ? Object.values(result.success.providers).map(({ baseUrl }) => baseUrl) : [],
      [
        "https://api.openai.com/v1",
        "https://api.anthropic.com",
        "http://127.0.0.1:11434",
        undefined,
        "https://api.openai.com/v1",
        "http://h/v1"
      ]
    )
  })

  it("a file without providers takes those of the environment, and its routes may name them", () => {
    const text = "routes: { r: { models: [openai::gpt-4o] } }"
    const result = parse(text, "g.yaml", { OPENAI_API_KEY: "k", OLLAMA_HOST: "box" })
    assert.deepStrictEqual(
      Result.isSuccess(result) ? Object.keys(result.success.providers) : [],
      ["openai", "ollama", "sandbox"]
    )
    assert.strictEqual(problemsOf(text), "g.yaml:1: routes.r.models[0]: there is no provider \"openai\"")
  })
})

describe("values", () => {
  it("api_keys are redacted, and empty ones are none", () => {
    const result = parse(
      "providers: { a: { type: openai, api_keys: [sk-1, \"${NONE:-}\", \"${TWO}\"] }, b: { type: openai } }",
      "g.yaml",
      { TWO: "sk-2" }
    )
    assert.isTrue(Result.isSuccess(result))
    if (Result.isFailure(result)) return
    assert.deepStrictEqual(result.success.providers["a"]?.apiKeys.map((key) => Redacted.value(key)), ["sk-1", "sk-2"])
    assert.deepStrictEqual(result.success.providers["b"]?.apiKeys, [])
    assert.notInclude(JSON.stringify(result.success), "sk-")
  })

  it("an api_key is redacted, and an empty one is none", () => {
    const result = parse(
      "providers: { a: { type: openai, api_key: sk-1 }, b: { type: openai, api_key: \"\" } }",
      "g",
      {}
    )
    assert.isTrue(Result.isSuccess(result))
    if (Result.isFailure(result)) return
    const { a, b } = result.success.providers
    assert.strictEqual(a?.apiKey === undefined ? "" : Redacted.value(a.apiKey), "sk-1")
    assert.isFalse(b !== undefined && "apiKey" in b)
    assert.isFalse(JSON.stringify(result.success).includes("sk-1"))
  })

  it("a hash is lower-case and a date is Unix ms", () => {
    const key = (expires: string) => {
      const result = parse(
        `auth: { mode: keys, keys: [{ id: k, sha256: ${"Ab".repeat(32)}, tenant: t, expires: ${expires} }] }`,
        "g",
        {}
      )
      return Result.isSuccess(result) ? result.success.auth.keys[0] : undefined
    }
    assert.strictEqual(key("2027-01-31")?.sha256, "ab".repeat(32))
    assert.strictEqual(key("2027-01-31")?.expires, Date.UTC(2027, 0, 31))
    assert.strictEqual(key("2027-01-31T12:30:00Z")?.expires, Date.UTC(2027, 0, 31, 12, 30))
    assert.strictEqual(key("\"2027-01-31T12:30:00+02:00\"")?.expires, Date.UTC(2027, 0, 31, 10, 30))
    assert.isUndefined(key("2027-02-30"))
  })

  it("an alias stands for what its anchor holds", () => {
    const result = parse(
      "providers:\n  a: &base { type: openai, headers: { x: y } }\n  b: *base\n  c: { type: openai, headers: { x: y } }",
      "g",
      {}
    )
    assert.isTrue(Result.isSuccess(result))
    if (Result.isFailure(result)) return
    assert.deepStrictEqual(result.success.providers["b"], result.success.providers["c"])
  })

  it("the lines of the file's keys are kept", () => {
    const result = parse("server:\n  port: 1\n\nmodels:\n  - id: sandbox::a\n", "g.yaml", {})
    const source = Result.isSuccess(result) ? result.success.source : undefined
    assert.strictEqual(source?.file, "g.yaml")
    assert.deepStrictEqual(Array.from(source?.lines ?? []), [
      ["server", 1],
      ["server.port", 2],
      ["models", 4],
      ["models[0]", 5],
      ["models[0].id", 5]
    ])
  })
})

const hash = "0".repeat(64)
const durationProblem = "expected a duration with its unit, such as 250ms, 30s, 10m, 1h or 7d"
const sizeProblem = "expected a size with its unit, such as 64KB, 25MB or 1GiB"

/** A text, and what is said about it: without `g.yaml:` at the begin of each line. */
const table: ReadonlyArray<readonly [string, ...ReadonlyArray<string>]> = [
  // Shapes
  ["5", "1: expected a mapping (key: value)"],
  ["- a", "1: expected a mapping (key: value)"],
  ["server:", "1: server: has no value; give it one, or leave the key out"],
  ["server:\n  - 1", "1: server: expected a mapping (key: value)"],
  ["models: { a: 1 }", "1: models: expected a list"],
  [
    "a: 1\nserver:\n  hots: x",
    "1: a: unknown key; known here: server, auth, tenants, providers, models, routes, defaults, interceptors, usage, audit, jobs, realtime, storage, type_registry, observability",
    "3: server.hots: unknown key; did you mean host?"
  ],
  ["server: { maxBody: 1MB }", "1: server.maxBody: unknown key; did you mean max_body?"],
  [
    "server:\n  constructor: 1",
    "2: server.constructor: unknown key; known here: host, port, max_body, drain_timeout, concurrency, shed"
  ],
  // server
  ["server:\n  port: 65536", "2: server.port: expected a whole number from 0 to 65535"],
  ["server:\n  port: -1", "2: server.port: expected a whole number from 0 to 65535"],
  ["server:\n  port: 80.5", "2: server.port: expected a whole number from 0 to 65535"],
  ["server:\n  port: http", "2: server.port: expected a whole number from 0 to 65535"],
  ["server:\n  host: a b", "2: server.host: expected a host name or an IP address"],
  ["server:\n  host: 127", "2: server.host: expected a host name or an IP address"],
  ["server:\n  max_body: 25", `2: server.max_body: ${sizeProblem}`],
  ["server:\n  max_body: 25 MB", `2: server.max_body: ${sizeProblem}`],
  ["server:\n  max_body: 0MB", "2: server.max_body: must be more than 0 bytes"],
  ["server:\n  drain_timeout: 30", `2: server.drain_timeout: ${durationProblem}`],
  ["server:\n  drain_timeout: 30 s", `2: server.drain_timeout: ${durationProblem}`],
  // auth
  ["auth: {}", "1: auth.mode: is required"],
  ["auth:\n  mode: key", "2: auth.mode: expected one of none, keys, jwt; did you mean keys?"],
  ["auth:\n  mode: jwt", "2: auth.mode: the mode jwt needs the section auth.jwt"],
  ["auth:\n  mode: keys\n  keys:\n    - id: a\n      tenant: t", "4: auth.keys[0].sha256: is required"],
  [
    `auth:\n  mode: keys\n  keys:\n    - { id: a, tenant: t, sha256: ${"0".repeat(63)} }`,
    "4: auth.keys[0].sha256: expected 64 hexadecimal digits, the SHA-256 of the key"
  ],
  [
    `auth:\n  mode: keys\n  keys:\n    - { id: a, tenant: t, sha256: ${"0".repeat(63)}g }`,
    "4: auth.keys[0].sha256: expected 64 hexadecimal digits, the SHA-256 of the key"
  ],
  [
    `tenants: { acme: {} }\nauth:\n  mode: keys\n  keys:\n    - id: a\n      sha256: ${
      "a".repeat(64)
    }\n      tenant: acmee`,
    "7: auth.keys[0].tenant: there is no tenant \"acmee\"; did you mean acme?"
  ],
  [
    `auth:\n  mode: keys\n  keys:\n    - { id: a, tenant: t, sha256: ${
      "a".repeat(64)
    } }\n    - { id: a, tenant: t, sha256: ${"A".repeat(64)} }`,
    "5: auth.keys[1].id: this id is used twice",
    "5: auth.keys[1].sha256: this hash is used twice"
  ],
  [
    `auth: { mode: keys, keys: [{ id: a, tenant: t, sha256: ${hash}, admin: yes }] }`,
    "1: auth.keys[0].sha256: expected 64 hexadecimal digits, the SHA-256 of the key",
    "1: auth.keys[0].admin: expected true or false"
  ],
  [
    `auth: { mode: keys, keys: [{ id: 7, tenant: "", sha256: "${hash}", expires: tomorrow }] }`,
    "1: auth.keys[0].id: expected a text; put it in quotes",
    "1: auth.keys[0].tenant: must not be empty",
    "1: auth.keys[0].expires: expected a date such as 2027-01-31 or 2027-01-31T12:00:00Z"
  ],
  // tenants
  ["tenants:\n  a:\n    parent: b", "3: tenants.a.parent: there is no tenant \"b\"; did you mean a?"],
  ["tenants:\n  a:\n    parent: a", "3: tenants.a.parent: the parents form a circle: a -> a"],
  [
    "tenants:\n  x: { parent: a }\n  a: { parent: b }\n  b: { parent: c }\n  c: { parent: a }",
    "3: tenants.a.parent: the parents form a circle: a -> b -> c -> a"
  ],
  ["tenants:\n  a:\n    interceptors: [pii]", "3: tenants.a.interceptors[0]: there is no interceptor \"pii\""],
  [
    "tenants:\n  a:\n    rate_limits:\n      - { per: user }\n      - { per: user, requests: 1, tokens: 1, window: 1m }\n      - { per: user, requests: 1 }\n      - { per: user, concurrent: 1, window: 1m }\n      - { per: users, requests: 0, window: 1m }",
    "4: tenants.a.rate_limits[0]: needs exactly one of requests, tokens and concurrent",
    "5: tenants.a.rate_limits[1]: needs exactly one of requests, tokens and concurrent",
    "6: tenants.a.rate_limits[2]: needs a window, such as 1m",
    "7: tenants.a.rate_limits[3]: a limit of concurrent requests has no window",
    "8: tenants.a.rate_limits[4].per: expected one of tenant, user, key, model; did you mean user?",
    "8: tenants.a.rate_limits[4].requests: expected a whole number from 1 to 1000000000000"
  ],
  [
    "tenants: { a: { budgets: [{ per: tag, usd: -1, window: year }] } }",
    "1: tenants.a.budgets[0].usd: expected a number from 0 to 1e12",
    "1: tenants.a.budgets[0].window: expected one of hour, day, week, month, total"
  ],
  // providers
  ["providers: {}", "1: providers: needs at least one provider; leave the key out to take them from the environment"],
  ["providers:\n  openai:\n    base_url: https://x", "2: providers.openai.type: is required"],
  [
    "providers:\n  openai:\n    type: opnai",
    "3: providers.openai.type: expected one of openai, anthropic, ollama, sandbox; did you mean openai?"
  ],
  ["providers:\n  a:\n    type: gemini", "3: providers.a.type: expected one of openai, anthropic, ollama, sandbox"],
  [
    "providers:\n  openai:\n    type: openai\n    base_url: ftp://x",
    "4: providers.openai.base_url: expected an http or https URL"
  ],
  [
    "providers:\n  openai:\n    type: openai\n    base_url: api.openai.com",
    "4: providers.openai.base_url: expected an http or https URL"
  ],
  [
    "providers:\n  openai:\n    type: openai\n    base_url: https://me:pw@x",
    "4: providers.openai.base_url: must hold no user name or password"
  ],
  [
    "providers:\n  openai:\n    type: openai\n    base_url: https://x?a=b",
    "4: providers.openai.base_url: must have no query (?...) and no fragment (#...)"
  ],
  [
    "providers:\n  openai:\n    type: openai\n    base_ur: https://x",
    "4: providers.openai.base_ur: unknown key; did you mean base_url?"
  ],
  [
    "providers:\n  OpenAI: { type: openai }",
    "2: providers.OpenAI: a provider's name has 1 to 64 of a-z, 0-9, ., _ and -, and starts with a letter or digit"
  ],
  [
    "providers:\n  a::b: { type: openai }",
    "2: providers.a::b: a provider's name has 1 to 64 of a-z, 0-9, ., _ and -, and starts with a letter or digit"
  ],
  [
    "providers:\n  a:\n    type: openai\n    headers: { \"x y\": b, c: \"d\\ne\" }",
    "4: providers.a.headers.x y: this is not a header name",
    "4: providers.a.headers.c: expected a header value: printable ASCII on one line"
  ],
  [
    "providers:\n  s:\n    type: sandbox\n    base_url: http://x",
    "4: providers.s.base_url: the sandbox calls nobody; leave this out"
  ],
  [
    "providers:\n  a: { type: ollama, discovery: { interval: 0s } }",
    "2: providers.a.discovery.interval: must be longer than 0"
  ],
  // models, routes
  ["models:\n  - id: gpt", "2: models[0].id: expected provider::model"],
  ["models:\n  - id: sandbx::a", "2: models[0].id: there is no provider \"sandbx\"; did you mean sandbox?"],
  ["models:\n  - id: sandbox::a\n  - id: sandbox::a", "3: models[1].id: this model is used twice"],
  [
    "models:\n  - id: sandbox::a\n    capabilities: [tool]\n    prices: { input_mtok: -1 }",
    "3: models[0].capabilities[0]: expected one of text_input, image_input, audio_input, video_input, document_input, text_output, image_output, audio_output, video_output, embeddings, transcription, speech, realtime_audio, tools, parallel_tools, structured_output, reasoning, prompt_caching, streaming, batch; did you mean tools?",
    "4: models[0].prices.output_mtok: is required",
    "4: models[0].prices.input_mtok: expected a number from 0 to 1e12"
  ],
  [
    "models:\n  - id: sandbox::a\n    prices: {}",
    "3: models[0].prices.input_mtok: is required",
    "3: models[0].prices.output_mtok: is required"
  ],
  [
    "models:\n  - id: sandbox::a\n    prices: { image: { base: 1, variants: { hd: -2 } }, character_mchar: x }",
    "3: models[0].prices.image.variants.hd: expected a number from 0 to 1e12",
    "3: models[0].prices.character_mchar: expected a number from 0 to 1e12"
  ],
  [
    "routes:\n  a::b: { models: [x] }",
    "2: routes.a::b: a route's name must not hold ::, which stands for a provider's model"
  ],
  ["routes:\n  a:\n    models: []", "3: routes.a.models: needs at least one model"],
  ["routes:\n  a: {}", "2: routes.a.models: is required"],
  [
    "routes:\n  a:\n    policy: cheap\n    models: [x]",
    "3: routes.a.policy: expected one of priority, cheapest, fastest, weighted, least_busy; did you mean cheapest?"
  ],
  [
    "routes:\n  a:\n    models:\n      - sandbox::*\n      - { model: nope::x, weigth: 1 }\n      - 5",
    "4: routes.a.models[0]: a route names its models one by one, without *",
    "5: routes.a.models[1].model: there is no provider \"nope\"",
    "5: routes.a.models[1].weigth: unknown key; did you mean weight?",
    "6: routes.a.models[2]: expected a text or a mapping"
  ],
  // defaults
  [
    "defaults: { timeouts: { first_token: 0ms, idle: 5 } }",
    "1: defaults.timeouts.first_token: must be longer than 0",
    `1: defaults.timeouts.idle: ${durationProblem}`
  ],
  [
    "defaults: { attempts: 0, retry: { base: 9s, max: 8s } }",
    "1: defaults.attempts: expected a whole number from 1 to 20",
    "1: defaults.retry: base must not be longer than max"
  ],
  [
    "defaults: { unknown_price: frei }",
    "1: defaults.unknown_price: expected one of deny_if_budgeted, free; did you mean free?"
  ],
  [
    "defaults: { unknown_price: { flat_usd: x } }",
    "1: defaults.unknown_price.flat_usd: expected a number from 0 to 1e12"
  ],
  // interceptors, sinks, storage, ...
  [
    "interceptors:\n  p:\n    type: pi",
    "3: interceptors.p.type: expected one of noop, pii, moderation, webhook, prompt-guard, header-metadata; did you mean pii?"
  ],
  ["interceptors:\n  p:\n    redact: [email]", "2: interceptors.p.type: is required"],
  [
    "interceptors:\n  p: { type: pii, redact: [mail], on: [requests], max_chars: 1 }",
    "2: interceptors.p.max_chars: unknown key; known here: type, on, order, failure, redact, patterns, action",
    "2: interceptors.p.redact[0]: expected one of email, phone, credit_card, iban, ip; did you mean email?",
    "2: interceptors.p.on[0]: expected one of request, response; did you mean request?"
  ],
  [
    "interceptors:\n  p: { type: pii, patterns: { a: \"(x)\\\\1\", \"?\": x } }",
    "2: interceptors.p.patterns.a: RE2 does not take the pattern: invalid escape sequence; RE2 has neither look-around nor back references"
  ],
  [
    "interceptors:\n  p: { type: pii, patterns: { \"?\": x } }\n  q: { type: pii, redact: [] }\n  r: { type: pii, action: pseudonymise, on: [response] }",
    "2: interceptors.p.patterns: a pattern's name has 1 to 64 of A-Z, a-z, 0-9, space, _, . and -, and starts with a letter or digit",
    "3: interceptors.q: needs something to look for",
    "4: interceptors.r: pseudonyms are made of requests, so `on` needs request"
  ],
  [
    "interceptors:\n  m: { type: moderation }\n  n: { type: moderation, model: a::b, threshold: 0.5 }\n  o: { type: moderation, url: \"http://x\", threshold: 2 }",
    "2: interceptors.m: needs a model or a url",
    "3: interceptors.n: a threshold needs an endpoint's scores, and so a url",
    "4: interceptors.o.threshold: expected a number from 0 to 1"
  ],
  [
    "interceptors:\n  g: { type: prompt-guard, deny: [\"[\", { name: a, pattern: \"(?=a)\" }, { pattern: x }] }",
    "2: interceptors.g.deny[0]: RE2 does not take the pattern: missing closing ]",
    "2: interceptors.g.deny[1].pattern: RE2 does not take the pattern: invalid or unsupported Perl syntax; RE2 has neither look-around nor back references",
    "2: interceptors.g.deny[2].name: is required"
  ],
  [
    "interceptors:\n  h: { type: header-metadata, headers: { Authorization: who } }\n  w: { type: webhook, url: \"http://x\", secret: \"whsec_*\" }",
    "2: interceptors.h.headers: a header with credentials must not become a tag",
    "3: interceptors.w.secret: expected whsec_ and base64, or a text without whsec_"
  ],
  [
    "usage: { sinks: [{ type: sqll }], durability: none }",
    "1: usage.sinks[0].type: expected one of noop, log, sql; did you mean sql?",
    "1: usage.durability: expected one of batched, strict"
  ],
  [
    "audit: { sinks: [{ type: jsonl }, { type: file }, jsonl] }",
    "1: audit.sinks[0].path: is required",
    "1: audit.sinks[1].type: expected one of noop, jsonl, sql",
    "1: audit.sinks[2]: expected a mapping (key: value)"
  ],
  [
    "storage: { sql: mysql://x, redis: http://x, fetch: { allow: [\"https://x\"] } }",
    "1: storage.sql: expected sqlite:PATH or postgres://user:password@host/database",
    "1: storage.redis: expected redis://host:port or rediss://host:port",
    "1: storage.fetch.allow[0]: expected a host name or a range of addresses such as 10.0.0.0/8"
  ],
  [
    "storage: { redis: \"redis://:s3cr#et@host:6379\" }",
    "1: storage.redis: cannot be read; it has the form redis://user:password@host:6379/0, with characters such as / ? # @ % in the password percent-encoded"
  ],
  [
    "storage: { redis: \"redis://:s3cr%et@host:6379\" }",
    "1: storage.redis: cannot be read; it has the form redis://user:password@host:6379/0, with characters such as / ? # @ % in the password percent-encoded"
  ],
  [
    "storage: { redis: \"redis://host:99999\" }",
    "1: storage.redis: cannot be read; it has the form redis://user:password@host:6379/0, with characters such as / ? # @ % in the password percent-encoded"
  ],
  [
    "storage: { redis: \"redis://host:6379/x\" }",
    "1: storage.redis: cannot be read; it has the form redis://user:password@host:6379/0, with characters such as / ? # @ % in the password percent-encoded"
  ],
  ["type_registry: { ttl: 1m }", "1: type_registry: needs either a folder or a url"],
  ["type_registry: { folder: a, url: https://b }", "1: type_registry: needs either a folder or a url"],
  [
    "observability: { log_level: warning, metrics: 1 }",
    "1: observability.log_level: expected one of trace, debug, info, warn, error; did you mean warn?",
    "1: observability.metrics: expected true or false"
  ],
  // YAML
  ["server:\n  port: 1\n  port: 2", "3: server.port: this key is given twice, first in line 2"],
  ["server:\n  __proto__: { port: 1 }", "2: server.__proto__: this key is not allowed"],
  ["__proto__: { server: 1 }", "1: __proto__: this key is not allowed"],
  [
    "a: &a { port: 1 }\nserver:\n  <<: *a",
    "1: a: unknown key; known here: server, auth, tenants, providers, models, routes, defaults, interceptors, usage, audit, jobs, realtime, storage, type_registry, observability",
    "3: server.<<: merge keys are not supported; write the keys out, or use an alias for a whole value"
  ],
  ["providers: &a\n  b: *a", "2: providers.b: an alias inside its own anchor"],
  [
    "server: { host: ${HOST",
    "1: YAML: Unexpected flow-map-start at node end; inside { } and [ ] a ${NAME} needs quotes around it"
  ]
]

describe("problems", () => {
  for (const [text, ...expected] of table) {
    it(JSON.stringify(text), () => {
      const found = problemsOf(text).split("\n").map((line) => line.replace(/^g\.yaml:/, ""))
      assert.sameMembers(found, expected)
    })
  }

  it("come sorted by line, all at once, schema and names together", () => {
    const text =
      "tenants:\n  a: { parent: b }\nserver:\n  port: x\nmodels:\n  - id: no\nauth:\n  mode: none\n  kees: []"
    assert.deepStrictEqual(problemsOf(text).split("\n"), [
      "g.yaml:2: tenants.a.parent: there is no tenant \"b\"; did you mean a?",
      "g.yaml:4: server.port: expected a whole number from 0 to 65535",
      "g.yaml:6: models[0].id: expected provider::model",
      "g.yaml:9: auth.kees: unknown key; did you mean keys?"
    ])
  })

  it("have the column, also with CRLF", () => {
    const result = parse("server:\r\n  port:   x\r\n", "g.yaml", {})
    assert.deepStrictEqual(Result.isFailure(result) ? result.failure.problems : [], [
      { line: 2, column: 11, path: "server.port", message: "expected a whole number from 0 to 65535" }
    ])
  })

  it("are bounded to 50", () => {
    const text = Array.from({ length: 70 }, (_, index) => `k${index}: 1`).join("\n")
    const result = parse(text, "g.yaml", {})
    assert.isTrue(Result.isFailure(result))
    if (Result.isSuccess(result)) return
    assert.lengthOf(result.failure.problems, 50)
    assert.isTrue(result.failure.message.endsWith("g.yaml: and 20 more"))
  })

  it("are fit for a terminal", () => {
    const message = problemsOf(`"a\\e[31m\\u2028${"x".repeat(1000)}": 1`)
    // oxlint-disable-next-line no-control-regex -- control characters are what must be missing
    assert.isFalse(/[\u0000-\u001f\u2028]/.test(message))
    assert.isBelow(message.length, 800)
  })
})

describe("hostile files", () => {
  const laughs = `a: &a [x,x,x,x,x,x,x,x,x]\n${
    Array.from("bcdefghi", (name, index) => `${name}: &${name} [${Array(9).fill(`*${"abcdefgh"[index]}`).join(",")}]`)
      .join("\n")
  }`
  const cases: ReadonlyArray<readonly [string, string, string]> = [
    ["aliases of aliases", laughs, "more than 100 aliases"],
    ["deep nesting", `a: ${"[".repeat(200)}${"]".repeat(200)}`, "nested too deeply"],
    ["very deep nesting", "[".repeat(200_000), "nested"],
    ["too many values", `a: [${"1,".repeat(60_000)}1]`, "the file holds too many values"],
    ["more than 1 MiB", `# ${"x".repeat(1024 * 1024)}`, "the file is larger than 1 MiB"],
    ["a second document", "server: {}\n---\nserver: {}", "YAML: "],
    ["a custom tag", "server: !!js/function x", "YAML: "],
    ["an alias without anchor", "server: *x", "server: an alias without its anchor"],
    ["a mapping as a key", "{ a: 1 }: 2", "YAML: "],
    ["a tab as indentation", "server:\n\tport: 1", "YAML: "]
  ]
  it.each(cases)("%s is refused", (_, text, expected) => {
    const result = parse(text, "g.yaml", {})
    assert.include(Result.isFailure(result) ? result.failure.message : "no problem", expected)
  })

  it("a long chain of tenants is followed, and its circle found", () => {
    const chain = (last: string) =>
      `tenants:\n${
        Array.from(
          { length: 5000 },
          (_, index) => `  t${index}: { parent: ${index === 4999 ? last : `t${index + 1}`} }`
        )
          .join("\n")
      }`
    assert.strictEqual(problemsOf(chain("no")), "g.yaml:5001: tenants.t4999.parent: there is no tenant \"no\"")
    assert.include(problemsOf(chain("t0")), "g.yaml:2: tenants.t0.parent: the parents form a circle: t0 -> t1 -> ")
  })

  it("does not pollute prototypes", () => {
    problemsOf("__proto__: { polluted: 1 }\nproviders: { constructor: { prototype: { polluted: 1 } } }")
    assert.isFalse("polluted" in {})
  })

  it("takes provider and tenant names that every object has", () => {
    const result = parse(
      "providers: { constructor: { type: sandbox } }\ntenants: { toString: { parent: valueOf }, valueOf: {} }",
      "g",
      {}
    )
    assert.isTrue(Result.isSuccess(result), Result.isFailure(result) ? result.failure.message : "")
    assert.include(problemsOf("tenants: { a: { parent: toString } }"), "there is no tenant")
  })

  it.effect.prop("no text makes it throw", [Schema.String], ([text]) =>
    Effect.sync(() => {
      for (const file of [text, `server: ${text}`, `providers:\n  a:\n    type: ${text}\n    ${text}: "${text}"`]) {
        const result = parse(file, "g.yaml", {})
        assert.isTrue(Result.isSuccess(result) || result.failure.problems.length > 0)
      }
    }))
})

describe.skipIf(!existsSync(example))("the example file", () => {
  const text = existsSync(example) ? readFileSync(example, "utf8") : ""

  it("decodes as it stands, with an empty environment", () => {
    const result = parse(text, "gateway.yaml", {})
    assert.isTrue(Result.isSuccess(result), Result.isFailure(result) ? result.failure.message : "")
    if (Result.isFailure(result)) return
    const { auth, models, providers, routes, storage, tenants } = result.success
    assert.strictEqual(auth.keys[0]?.sha256, "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b")
    assert.deepStrictEqual(Object.keys(providers), ["openai", "azure-eu", "anthropic", "ollama-local", "sandbox"])
    assert.strictEqual(providers["ollama-local"]?.discovery?.interval, 300_000)
    assert.deepStrictEqual(providers["azure-eu"]?.headers, { "api-version": "preview" })
    assert.deepStrictEqual(models[0]?.prices, { inputMtok: 2.5, cacheReadMtok: 1.25, outputMtok: 10 })
    assert.strictEqual(routes["best"]?.hedgeAfter, 800)
    assert.strictEqual(tenants["acme-eu"]?.parent, "acme")
    assert.strictEqual(storage.files.ttl, 604_800_000)
  })

  it("takes what the environment gives", () => {
    const result = parse(text, "gateway.yaml", { OPENAI_API_KEY: "sk", OLLAMA_BASE_URL: "http://box:1" })
    assert.isTrue(Result.isSuccess(result) && result.success.providers["openai"]?.apiKey !== undefined)
    assert.strictEqual(
      Result.isSuccess(result) ? result.success.providers["ollama-local"]?.baseUrl : "",
      "http://box:1"
    )
  })
})

describe("load", () => {
  const failure = (path: string) => load(path, {}).pipe(Effect.flip, Effect.map(({ message }) => message))

  it.layer(NodeFileSystem.layer)((it) => {
    it.effect("reads a file and names it as it was given", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = `${yield* fs.makeTempDirectoryScoped()}/my.yaml`
        yield* fs.writeFileString(path, "server:\n  port: ${PORT}")
        assert.strictEqual((yield* load(path, { PORT: "81" })).server.port, 81)
        const error = yield* Effect.flip(load(path, {}))
        assert.instanceOf(error, ConfigError)
        assert.isTrue(error.message.startsWith(`${path}:2: server.port: the environment variable PORT is not set`))
      }))

    it.effect("tells why a file cannot be read", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const folder = yield* fs.makeTempDirectoryScoped()
        assert.strictEqual(yield* failure(`${folder}/no.yaml`), `${folder}/no.yaml:1: there is no such file`)
        assert.strictEqual(yield* failure(folder), `${folder}:1: is not a file`)
        yield* fs.writeFile(`${folder}/bad.yaml`, new Uint8Array([0x61, 0x3a, 0x20, 0xff]))
        assert.strictEqual(yield* failure(`${folder}/bad.yaml`), `${folder}/bad.yaml:1: the file is not valid UTF-8`)
        yield* fs.writeFile(`${folder}/big.yaml`, new Uint8Array(1024 * 1024 + 1).fill(35))
        assert.strictEqual(yield* failure(`${folder}/big.yaml`), `${folder}/big.yaml:1: the file is larger than 1 MiB`)
      }))
  })
})
