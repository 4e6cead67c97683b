/**
 * Small guards for JSON that comes from outside, and the two operations that keep unknown fields: `rest` takes them off
 * a decoded object, `merge` puts them back. Both skip `__proto__`, so a hostile key never reaches a prototype.
 */
import type { Extensions } from "../../sdk/Content.ts"
import type { Json } from "../Codec.ts"

/** An object under construction. */
export type Draft<T> = { -readonly [K in keyof T]: T[K] }

/** This wire's name. */
export const wire = "openai"

/** Whether a value is a JSON object. */
export const isJson = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The value if it is a JSON object. */
export const object = (value: unknown): Json | undefined => isJson(value) ? value : undefined

/** The value if it is an array, otherwise an empty one. */
export const array = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []

/** The value if it is a string. */
export const string = (value: unknown): string | undefined => typeof value === "string" ? value : undefined

/** The value if it is a string with something in it. */
export const filled = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "" ? value : undefined

/** The value if it is a finite number. */
export const finite = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isFinite(value) ? value : undefined

/** A count of tokens: a number that is not negative, cut to an integer. */
export const count = (value: unknown): number | undefined =>
  typeof value === "number" && value >= 0 && Number.isFinite(value) ? Math.trunc(value) : undefined

/** The fields of an object that are not among the known ones; `undefined` where there are none. */
export const rest = (json: Json, known: ReadonlySet<string>): Record<string, unknown> | undefined => {
  let unknown: Record<string, unknown> | undefined
  for (const key of Object.keys(json)) {
    if (known.has(key) || key === "__proto__") continue
    unknown ??= {}
    unknown[key] = json[key]
  }
  return unknown
}

/** Like `rest`, with the unknown fields of a member object kept under the member's name. */
export const restWithin = (
  json: Json,
  known: ReadonlySet<string>,
  member: string,
  knownInside: ReadonlySet<string>
): Record<string, unknown> | undefined => {
  const outer = rest(json, known)
  const value = json[member]
  const inner = isJson(value) ? rest(value, knownInside) : undefined
  return inner === undefined ? outer : { ...outer, [member]: inner }
}

/** Adds fields that an object does not have yet, member objects included; what it has is never overridden. */
export const merge = (
  target: Record<string, unknown>,
  fields: Json | undefined,
  except?: ReadonlySet<string>
): Record<string, unknown> => {
  if (fields === undefined) return target
  for (const key of Object.keys(fields)) {
    if (key === "__proto__" || except?.has(key) === true) continue
    const own = Object.hasOwn(target, key) ? target[key] : undefined
    if (own === undefined) target[key] = fields[key]
    else {
      const added = fields[key]
      if (isJson(own) && isJson(added)) target[key] = merge({ ...own }, added)
    }
  }
  return target
}

/** What a value carries for this wire alone. */
export const ownExtensions = (value: { readonly extensions?: Extensions }): Json | undefined => value.extensions?.[wire]

/** The `extensions` member for fields of this wire; nothing where there are none. */
export const extended = (fields: Json | undefined): { readonly extensions?: Extensions } =>
  fields === undefined ? {} : { extensions: { [wire]: fields } }
