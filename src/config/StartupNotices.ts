/** What has to be said, or refused, before a configured gateway starts to listen. */
import type { GatewayConfig } from "./GatewayConfig.ts"

/** A part of the configuration that is understood but does not act beside what else is there. */
export interface InactiveSection {
  /** Its path in the file's spelling. */
  readonly section: string
  /** Its line, where the configuration came from a file. */
  readonly line?: number
  readonly reason: string
}

/** The tenant on whose account everybody's requests run where nobody is asked for a key. */
const everybody = "default"

/** What another part of the configuration keeps from acting. */
const overruled = (config: GatewayConfig): ReadonlyArray<readonly [string, string]> => {
  const { audit, auth, interceptors, observability, storage, tenants, usage } = config
  const found: Array<readonly [string, string]> = []
  if (auth.mode === "none") {
    const nobody = "auth.mode is none, so that nobody is asked who is calling"
    found.push(["auth.keys", nobody], ["auth.jwt", nobody], ["auth.cache", nobody])
    if (tenants[everybody] === undefined) {
      found.push([
        "tenants",
        `auth.mode is none, so that all requests run as the tenant "${everybody}", which is none of these`
      ])
    }
  }
  if (auth.mode === "keys") found.push(["auth.jwt", "auth.mode is keys, so that no tokens are taken"])
  if (Object.keys(tenants).length > 0) {
    const named = new Set(Object.values(tenants).flatMap((tenant) => tenant.interceptors))
    for (const name of Object.keys(interceptors)) {
      if (!named.has(name)) {
        found.push([`interceptors.${name}`, "no tenant names it under interceptors, so that it sees no request"])
      }
    }
  }
  if (storage.redis === undefined) {
    const noRedis = "there is no storage.redis"
    found.push(["storage.redis_failure", noRedis], ["storage.redis_prefix", noRedis])
  }
  if (storage.files.s3 !== undefined) {
    found.push(["storage.files.dir", "files are in storage.files.s3"])
  }
  if (usage.durability === "strict" && !usage.sinks.some(({ type }) => type === "sql")) {
    found.push([
      "usage.durability",
      "no sink of usage.sinks keeps records, so that there is nothing that strict could wait for"
    ])
  }
  if (observability.otlp === undefined) {
    const noCollector = "there is no observability.otlp to send traces to"
    found.push(["observability.traces", noCollector], ["observability.otlp_headers", noCollector])
  }
  if (audit.sinks.every(({ type }) => type === "noop")) {
    found.push(["defaults.budget_warnings", "warnings are audit events, and audit.sinks has no sink for them"])
  }
  return found
}

/** The parts that the file writes out and that do not act, sorted by line; each makes one line of the start-up notice. */
export const inactiveSections = (config: GatewayConfig): ReadonlyArray<InactiveSection> => {
  const lines = config.source?.lines
  return overruled(config).flatMap(([section, reason]) => {
    const line = lines?.get(section)
    return line === undefined ? [] : [{ section, reason, line }]
  }).sort((a, b) => a.line - b.line)
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
  if (auth.mode === "none" && !isLoopback(server.host)) {
    return `server.host: ${server.host} can be reached from other machines, but auth.mode is none; ` +
      "set auth.mode to keys and add a key under auth.keys, or set server.host to 127.0.0.1"
  }
  return undefined
}
