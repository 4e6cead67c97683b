/**
 * Makes the smallest JSON value that fits a JSON Schema, always the same one. It knows what structured output and tool
 * schemas use; what it cannot meet (`pattern`, `not`, `if`) it passes over. Depth and size are bounded, whatever the
 * schema: a recursive one gets its shortest way out where it offers one.
 */
import { atPointer, isJsonArray, isJsonObject } from "../../../sdk/SchemaPosition.ts"

type Json = Readonly<Record<string, unknown>>

const maxDepth = 24
const maxValues = 2_000
const maxRepeats = 100
/** From this depth on, alternatives that end are preferred to those that lead on. */
const settleDepth = 4

const formats: ReadonlyMap<string, string> = new Map([
  ["date-time", "2025-01-01T00:00:00Z"],
  ["date", "2025-01-01"],
  ["time", "00:00:00Z"],
  ["duration", "P1D"],
  ["email", "user@example.com"],
  ["hostname", "example.com"],
  ["ipv4", "192.0.2.1"],
  ["ipv6", "2001:db8::1"],
  ["uri", "https://example.com/"],
  ["uri-reference", "/"],
  ["uuid", "00000000-0000-4000-8000-000000000000"]
])

const numberAt = (schema: Json, key: string): number | undefined => {
  const value = schema[key]
  return typeof value === "number" ? value : undefined
}

const stringsAt = (schema: Json, key: string): ReadonlyArray<string> => {
  const value = schema[key]
  return isJsonArray(value) ? value.filter((item) => typeof item === "string") : []
}

/** The type that a schema is about, by what it says or else by the keywords that it uses. */
const typeOf = (schema: Json, depth: number): string => {
  const declared = schema["type"]
  if (typeof declared === "string") return declared
  if (isJsonArray(declared)) {
    const types = stringsAt(schema, "type")
    return depth >= settleDepth && types.includes("null") ? "null" : types.find((type) => type !== "null") ?? "null"
  }
  if ("properties" in schema || "required" in schema || "additionalProperties" in schema) return "object"
  if ("items" in schema || "prefixItems" in schema || "minItems" in schema) return "array"
  if ("minimum" in schema || "maximum" in schema || "exclusiveMinimum" in schema || "multipleOf" in schema) {
    return "number"
  }
  return "string"
}

/** Folds the members of an `allOf` into one schema: enough for objects that are put together of parts. */
const merge = (into: Json, from: Json): Json => {
  const merged: Record<string, unknown> = { ...into, ...from }
  if (isJsonObject(into["properties"]) && isJsonObject(from["properties"])) {
    merged["properties"] = { ...into["properties"], ...from["properties"] }
  }
  const required = [...stringsAt(into, "required"), ...stringsAt(from, "required")]
  if (required.length > 0) merged["required"] = Array.from(new Set(required))
  return merged
}

/** A value that fits `schema`, at most some 2,000 values large; `null` stands where that or the depth is used up. */
export const sample = (schema: unknown): unknown => {
  let values = 0

  const flatten = (schema: Json, depth: number): Json => {
    let flat = schema
    for (let hops = 0; hops < maxDepth; hops++) {
      const { $ref, allOf, ...own } = flat
      if (typeof $ref === "string") {
        const target = atPointer(root, $ref)
        flat = isJsonObject(target) ? merge(target, allOf === undefined ? own : { ...own, allOf }) : own
      } else if (isJsonArray(allOf)) {
        flat = allOf.filter(isJsonObject).reduce<Json>(
          (merged, member) => merge(merged, depth < maxDepth ? flatten(member, depth + 1) : {}),
          own
        )
      } else break
    }
    return flat
  }

  const alternative = (options: ReadonlyArray<unknown>, depth: number): unknown =>
    depth < settleDepth
      ? options[0]
      : options.find((option) => isJsonObject(option) && option["type"] === "null") ??
        options.find((option) => isJsonObject(option) && !("$ref" in option)) ?? options[0]

  /** `variant` tells apart the elements of a list that must not repeat. */
  const make = (schema: unknown, depth: number, variant: number): unknown => {
    values++
    if (depth > maxDepth || values > maxValues) return null
    if (!isJsonObject(schema)) return string({}, variant)
    const flat = flatten(schema, depth)
    if ("const" in flat) return flat["const"]
    const choices = flat["enum"]
    if (isJsonArray(choices) && choices.length > 0) return choices[variant % choices.length]
    const options = flat["anyOf"] ?? flat["oneOf"]
    if (isJsonArray(options) && options.length > 0) {
      const { anyOf: _, oneOf: __, ...own } = flat
      const chosen = alternative(options, depth)
      return make(isJsonObject(chosen) ? merge(own, chosen) : own, depth + 1, variant)
    }
    switch (typeOf(flat, depth)) {
      case "object":
        return object(flat, depth)
      case "array":
        return array(flat, depth)
      case "integer":
        return number(flat, true, variant)
      case "number":
        return number(flat, false, variant)
      case "boolean":
        return variant % 2 === 0
      case "null":
        return null
      default:
        return string(flat, variant)
    }
  }

  const object = (schema: Json, depth: number): unknown => {
    const properties = isJsonObject(schema["properties"]) ? schema["properties"] : {}
    const keys = new Set(stringsAt(schema, "required"))
    for (const key of Object.keys(properties)) {
      if (keys.size >= Math.min(numberAt(schema, "minProperties") ?? 0, maxRepeats)) break
      keys.add(key)
    }
    return Object.fromEntries(
      Array.from(keys, (key) => [
        key,
        make(Object.hasOwn(properties, key) ? properties[key] : schema["additionalProperties"], depth + 1, 0)
      ])
    )
  }

  const array = (schema: Json, depth: number): unknown => {
    const prefix = isJsonArray(schema["prefixItems"]) ? schema["prefixItems"] : []
    const count = Math.min(numberAt(schema, "minItems") ?? 0, maxRepeats)
    const distinct = schema["uniqueItems"] === true
    return Array.from({ length: count }, (_, i) => make(prefix[i] ?? schema["items"], depth + 1, distinct ? i : 0))
  }

  const root = schema
  return make(schema, 0, 0)
}

const number = (schema: Json, integer: boolean, variant: number): number => {
  const step = numberAt(schema, "multipleOf") ?? (integer ? 1 : undefined)
  const above = numberAt(schema, "exclusiveMinimum")
  const below = numberAt(schema, "exclusiveMaximum")
  const least = numberAt(schema, "minimum") ?? above
  const most = numberAt(schema, "maximum") ?? below
  let value = least ?? (most !== undefined && most < 0 ? most : 0)
  if (step !== undefined && step > 0) {
    value = least === undefined && most !== undefined ? Math.floor(value / step) * step : Math.ceil(value / step) * step
    if (value === above) value += step
    if (value === below) value -= step
    return value + variant * step
  }
  if (value === above) value = below === undefined ? value + 1 : (value + below) / 2
  else if (value === below) value -= 1
  return value + variant
}

const string = (schema: Json, variant: number): string => {
  const format = schema["format"]
  const known = typeof format === "string" ? formats.get(format) : undefined
  if (known !== undefined) return known
  const base = variant === 0 ? "text" : `text${variant}`
  const least = Math.min(numberAt(schema, "minLength") ?? 0, 10_000)
  const most = numberAt(schema, "maxLength") ?? base.length
  return base.padEnd(least, "x").slice(0, Math.max(least, most))
}
