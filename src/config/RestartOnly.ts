/** What of a configuration is fixed when the gateway starts: where it listens, and what it keeps and where. */
import { fingerprint } from "./Fingerprint.ts"
import type { GatewayConfig } from "./GatewayConfig.ts"

/** Sections that a reload takes over as a whole. */
const reloaded: ReadonlySet<string> = new Set([
  "source",
  "providers",
  "models",
  "routes",
  "tenants",
  "interceptors",
  "typeRegistry"
])
/** Of the other sections, the keys that it takes over, too. */
const reloadedKeys: ReadonlySet<string> = new Set([
  "auth.keys",
  "defaults.attempts",
  "defaults.budgetWarnings",
  "defaults.embedBatching",
  "defaults.retry",
  "defaults.timeZone",
  "defaults.timeouts",
  "defaults.unknownPrice"
])

const inFile = (path: string): string => path.replaceAll(/[A-Z]/gu, (letter) => `_${letter.toLowerCase()}`)

const membersOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null ? { ...value } : {}

/** The paths, in the file's spelling, at which two configurations differ in a way that takes a restart. */
export const restartOnly = (running: GatewayConfig, next: GatewayConfig): ReadonlyArray<string> => {
  const [before, after] = [membersOf(running), membersOf(next)]
  const changed: Array<string> = []
  for (const section of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (reloaded.has(section)) continue
    const [old, own] = [membersOf(before[section]), membersOf(after[section])]
    for (const key of new Set([...Object.keys(old), ...Object.keys(own)])) {
      const path = `${section}.${key}`
      if (!reloadedKeys.has(path) && fingerprint(old[key]) !== fingerprint(own[key])) changed.push(inFile(path))
    }
  }
  return changed
}
