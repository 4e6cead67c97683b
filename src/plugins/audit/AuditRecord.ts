/** An audit event as it is written: names in snake_case, details included, in one fixed order. */
import type { AuditEvent } from "../../sdk/AuditSink.ts"

/** Details come from the gateway's own code, which has few names for them. */
const names = new Map<string, string>()
const maxNames = 1000

const snakeCase = (name: string): string => {
  let written = names.get(name)
  if (written === undefined) {
    written = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
    if (names.size < maxNames) names.set(name, written)
  }
  return written
}

/** The details with their names in snake_case. */
export const encodeDetails = (details: AuditEvent["details"]): Readonly<Record<string, string | number | boolean>> => {
  // Without a prototype a detail of any name is kept, even one named `__proto__`.
  const encoded: Record<string, string | number | boolean> = Object.create(null)
  for (const name in details) {
    const value = details[name]
    if (value !== undefined) encoded[snakeCase(name)] = value
  }
  return encoded
}
