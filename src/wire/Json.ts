/**
 * Guarded reads of JSON that somebody else wrote, shared by all codecs. Nothing here throws, and an object is only ever
 * built by spreading or `fromEntries`, which define a key such as `__proto__` as a plain field instead of setting it.
 */
import type { Json } from "./Codec.ts"

/** An object under construction. */
export type Draft<T> = { -readonly [K in keyof T]: T[K] }

/** Whether a value is a JSON object. */
export const isJson = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Whether a value is a JSON array. `Array.isArray` alone would make its items `any`. */
export const isList = (value: unknown): value is ReadonlyArray<unknown> => Array.isArray(value)

/** Whether an optional field was left out; null stands for that on every wire. */
export const absent = (value: unknown): value is null | undefined => value === undefined || value === null

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

/** No answer has so many tokens: a greater number is a fault, and sums of such would leave the safe integers. */
const maxCount = 1e12

/** A count of tokens: a number that is not negative, cut to an integer. */
export const count = (value: unknown): number | undefined =>
  typeof value === "number" && value >= 0 && value <= maxCount ? Math.trunc(value) : undefined

/** Parses JSON text; what is not JSON gives `undefined`, which JSON itself cannot say. */
export const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/**
 * A tool call's arguments for a wire that has them as an object. No text is the empty object. Text that is not the JSON of
 * an object (cut off when the answer ended by length, say) is handed on unread as `{"_raw": "…"}`, so that nobody takes it
 * for a call without arguments.
 */
export const argumentsObject = (text: string): Json => {
  if (text.trim() === "") return {}
  const parsed = parseJson(text)
  return isJson(parsed) ? parsed : { _raw: text }
}

/** The fields of an object that are not among the known ones; `undefined` where there are none. */
export const unknownFields = (json: Json, known: ReadonlySet<string>): Json | undefined => {
  let unknown: Array<[string, unknown]> | undefined
  for (const key of Object.keys(json)) {
    if (!known.has(key)) (unknown ??= []).push([key, json[key]])
  }
  return unknown === undefined ? undefined : Object.fromEntries(unknown)
}

/** Cuts a text that goes into an error to `limit` UTF-16 units. */
export const bounded = (text: string, limit = 300): string => text.length > limit ? `${text.slice(0, limit)}…` : text
