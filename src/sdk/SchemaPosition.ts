/**
 * Where schemas stand inside a JSON Schema document (draft 6 to 2020-12), so that a walk through one can tell a keyword
 * from a property that happens to be called `$ref`, and a schema from a literal value in `enum`.
 */

/** What a value in a schema document is: a schema, a map from names to schemas, or plain data that nobody interprets. */
export type SchemaPosition = "schema" | "map" | "literal"

const literals = new Set(["const", "enum", "default", "example", "examples"])
const maps = new Set(["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"])

/**
 * The position of the value under `key` of an object at `position`. Unknown keywords count as schemas, because a JSON
 * pointer may lead into them. Elements of an array are at their array's own position.
 */
export const positionOf = (position: SchemaPosition, key: string): SchemaPosition => {
  if (position === "map") return "schema"
  if (position === "literal" || literals.has(key)) return "literal"
  return maps.has(key) ? "map" : "schema"
}

/** Whether a value is a JSON object. */
export const isJsonObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Whether a value is a JSON array. `Array.isArray` alone would make its elements `any`. */
export const isJsonArray = (value: unknown): value is ReadonlyArray<unknown> => Array.isArray(value)

/** Writes a JSON pointer's token as it stands in a URI fragment (RFC 6901, sections 3 and 6). */
export const pointerToken = (key: string): string =>
  // Half a surrogate pair cannot be percent-encoded.
  encodeURIComponent(key.toWellFormed().replaceAll("~", "~0").replaceAll("/", "~1")).replaceAll("%24", "$")

/** The value at a local reference (`#`, `#/$defs/a`) of a document; `undefined` where it leads nowhere. */
export const atPointer = (document: unknown, reference: string): unknown => {
  if (reference === "#") return document
  if (!reference.startsWith("#/")) return undefined
  let value = document
  for (const token of reference.slice(2).split("/")) {
    const key = decodePart(token).replaceAll("~1", "/").replaceAll("~0", "~")
    if (isJsonArray(value)) value = /^\d+$/.test(key) ? value[Number(key)] : undefined
    else if (isJsonObject(value)) value = Object.hasOwn(value, key) ? value[key] : undefined
    else return undefined
  }
  return value
}

const decodePart = (token: string): string => {
  if (!token.includes("%")) return token
  try {
    return decodeURIComponent(token)
  } catch {
    return token
  }
}
