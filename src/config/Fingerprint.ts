/** Whether two pieces of a configuration are the same, secrets included, without keeping the secrets. */
import { Redacted } from "effect"
import { hash } from "node:crypto"

/** The value with its secrets told; only ever hashed. */
const revealed = (value: unknown): unknown => {
  if (Redacted.isRedacted(value)) return { secret: revealed(Redacted.value(value)) }
  if (Array.isArray(value)) return value.map(revealed)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, revealed(member)]))
}

/** A hash of the value and its secrets. */
export const fingerprint = (value: unknown): string => hash("sha256", JSON.stringify(revealed(value)) ?? "", "hex")
