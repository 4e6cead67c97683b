/** What has to be said, or refused, before a configured gateway starts to listen. */
import type { GatewayConfig } from "./GatewayConfig.ts"

/** A part of the configuration that is understood but does not act in this version. */
export interface InactiveSection {
  /** Its path in the file's spelling. */
  readonly section: string
  /** Its line, where the configuration came from a file. */
  readonly line?: number
  readonly reason: string
}

const later = (what: string): string => `${what} not active yet in this version`

/** Sections with defaults: only those that the file writes out are worth a notice. */
const writtenOut: ReadonlyArray<readonly [string, string]> = [
  ["defaults.unknown_price", later("budgets are")],
  ["interceptors", later("interceptors are")],
  ["usage", later("usage records are")],
  ["audit", later("audit events are")],
  ["storage", later("stores (SQL, Redis, files, fetched media) are")],
  ["observability.otlp", later("traces are")],
  ["observability.log_level", later("log levels are")]
]

/** The parts of a configuration that do not act yet, sorted by line; each makes one line of the start-up notice. */
export const inactiveSections = (config: GatewayConfig): ReadonlyArray<InactiveSection> => {
  const lines = config.source?.lines
  const found: Array<InactiveSection> = []
  const add = (section: string, reason: string): void => {
    const line = lines?.get(section)
    found.push({ section, reason, ...(line === undefined ? {} : { line }) })
  }
  if (config.auth.jwt !== undefined) add("auth.jwt", later("JWTs are"))
  for (const [name, tenant] of Object.entries(config.tenants)) {
    if (tenant.rateLimits.length > 0) add(`tenants.${name}.rate_limits`, later("rate limits are"))
    if (tenant.budgets.length > 0) add(`tenants.${name}.budgets`, later("budgets are"))
    if (tenant.interceptors.length > 0) add(`tenants.${name}.interceptors`, later("interceptors are"))
  }
  for (const [section, reason] of writtenOut) if (lines?.has(section) === true) add(section, reason)
  return found.sort((a, b) => (a.line ?? 0) - (b.line ?? 0))
}

const octet = "(?:25[0-5]|2[0-4]\\d|1?\\d?\\d)"
const loopback = new RegExp(
  `^(?:127\\.${octet}\\.${octet}\\.${octet}|\\[?::1\\]?|\\[?::ffff:127\\.${octet}\\.${octet}\\.${octet}\\]?|localhost)$`,
  "i"
)

/** Whether a host to listen on can be reached from this machine alone: 127.0.0.0/8, ::1 and localhost. */
export const isLoopback = (host: string): boolean => loopback.test(host)

/** Why the gateway must not listen as it is configured, and what to do about it; `undefined` where it may. */
export const listenProblem = (config: GatewayConfig): string | undefined => {
  const { auth, server } = config
  if (auth.mode === "jwt") {
    return "auth.mode: JWTs are not active yet in this version, so nobody could be told apart; set auth.mode to keys"
  }
  if (auth.mode === "none" && !isLoopback(server.host)) {
    return `server.host: ${server.host} can be reached from other machines, but auth.mode is none; ` +
      "set auth.mode to keys and add a key under auth.keys, or set server.host to 127.0.0.1"
  }
  return undefined
}
