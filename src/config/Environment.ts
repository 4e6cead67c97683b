/**
 * Zero configuration: what the gateway does where there is no file. Providers appear from the variables that their own SDKs
 * use, a reachable Ollama is taken along, and the sandbox is always there. It listens on loopback without keys.
 */
import { Result, Schema } from "effect"
import type { Finding } from "./ConfigError.ts"
import { GatewayConfig, type ProviderConfig } from "./GatewayConfig.ts"
import type { EnvironmentRecord } from "./Interpolation.ts"
import { findingsOf } from "./SchemaFindings.ts"

export type { EnvironmentRecord } from "./Interpolation.ts"

/** What was found out about the machine. */
export interface Probes {
  /** Whether an Ollama answers at `ollamaUrl(env)`. */
  readonly ollama: boolean
}

const get = (env: EnvironmentRecord, name: string): string | undefined => {
  const value = Object.hasOwn(env, name) ? env[name]?.trim() : undefined
  return value === "" ? undefined : value
}

/**
 * Where Ollama is: `OLLAMA_HOST` as Ollama itself reads it (`host`, `host:port`, `:port`, `http://host`), or
 * `http://127.0.0.1:11434`. An Ollama that listens everywhere (0.0.0.0) is called on loopback.
 */
export const ollamaUrl = (env: EnvironmentRecord): string => {
  const standard = "http://127.0.0.1:11434"
  const host = get(env, "OLLAMA_HOST")
  if (host === undefined) return standard
  const hasScheme = /^https?:\/\//i.test(host)
  const text = hasScheme ? host : `http://${host.startsWith(":") ? `127.0.0.1${host}` : host}`
  if (!URL.canParse(text)) return standard
  const url = new URL(text)
  if (url.hostname === "0.0.0.0" || url.hostname === "[::]") url.hostname = "127.0.0.1"
  // Without a scheme the port is Ollama's own; `URL` hides a port 80 that was written out.
  if (!hasScheme && url.port === "" && !/:80(?:\/|$)/.test(host)) url.port = "11434"
  return url.href.replace(/\/+$/, "")
}

interface Source {
  readonly value: unknown
  readonly variables: ReadonlyMap<string, string>
}

const sourceOf = (env: EnvironmentRecord, probes: Probes): Source => {
  const variables = new Map<string, string>()
  const take = (variable: string, path: string, key: string): Record<string, string> => {
    const value = get(env, variable)
    if (value === undefined) return {}
    variables.set(path, variable)
    return { [key]: value }
  }
  const hosted = (slug: string, prefix: string) => ({
    type: slug,
    ...take(`${prefix}_API_KEY`, `providers.${slug}.api_key`, "api_key"),
    ...take(`${prefix}_BASE_URL`, `providers.${slug}.base_url`, "base_url")
  })
  const providers = {
    ...(get(env, "OPENAI_API_KEY") === undefined ? {} : { openai: hosted("openai", "OPENAI") }),
    ...(get(env, "ANTHROPIC_API_KEY") === undefined ? {} : { anthropic: hosted("anthropic", "ANTHROPIC") }),
    ...(probes.ollama ? { ollama: { type: "ollama", base_url: ollamaUrl(env) } } : {}),
    sandbox: { type: "sandbox" }
  }
  if (probes.ollama) variables.set("providers.ollama.base_url", "OLLAMA_HOST")
  return { value: { server: take("PORT", "server.port", "port"), providers }, variables }
}

const decode = Schema.decodeUnknownResult(GatewayConfig, { errors: "all", onExcessProperty: "error" })

const without = (value: unknown, path: Finding["path"]): unknown => {
  const [key, ...rest] = path
  if (typeof value !== "object" || value === null || key === undefined) return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([name, inner]): ReadonlyArray<[string, unknown]> =>
      name !== String(key) ? [[name, inner]] : rest.length === 0 ? [] : [[name, without(inner, rest)]]
    )
  )
}

const read = (env: EnvironmentRecord, probes: Probes) => {
  const { value, variables } = sourceOf(env, probes)
  const first = decode(value)
  if (Result.isSuccess(first)) return { config: first.success, problems: [] }
  const findings = findingsOf(first.failure.issue, { value, isReplaced: () => true })
  const usable = findings.reduce<unknown>((left, finding) => without(left, finding.path), value)
  return {
    // Every value from the environment is optional in the schema, so without the bad ones it decodes.
    config: Result.getOrElse(
      decode(usable),
      () => Result.getOrThrow(decode({ providers: { sandbox: { type: "sandbox" } } }))
    ),
    problems: findings.map(({ path, message }) => `${variables.get(path.join(".")) ?? path.join(".")}: ${message}`)
  }
}

/**
 * The configuration without a file. Variables whose values cannot be used are passed over; `environmentProblems` tells
 * which they are, and a start-up should refuse them.
 */
export const fromEnvironment = (env: EnvironmentRecord, probes: Probes): GatewayConfig => read(env, probes).config

/** One line for each variable whose value cannot be used, such as `PORT: expected …`. The value is not in it. */
export const environmentProblems = (env: EnvironmentRecord): ReadonlyArray<string> =>
  read(env, { ollama: true }).problems

/** The providers of zero configuration, for a file that names none. An Ollama counts where `OLLAMA_HOST` is set. */
export const providersFromEnvironment = (env: EnvironmentRecord): Readonly<Record<string, ProviderConfig>> =>
  read(env, { ollama: get(env, "OLLAMA_HOST") !== undefined }).config.providers
