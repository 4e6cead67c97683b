/** What the readers of OpenAI's requests share: optional fields with a located complaint, and cache breakpoints. */
import type { Reasoning } from "../../sdk/Chat.ts"
import type { CacheControl } from "../../sdk/Content.ts"
import type { Json } from "../Codec.ts"
import { absent, isJson } from "../Json.ts"
import type { Report } from "../Report.ts"

/** The names of the fields that a reader knows. */
export const keys = (...names: ReadonlyArray<string>): ReadonlySet<string> => new Set(names)

/** An optional string. */
export const readString = (json: Json, key: string, at: string, report: Report): string | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  return typeof value === "string" ? value : report.refuse(`${at}${key}`, "must be a string")
}

/** A string that must be there and not empty. */
export const readName = (json: Json, key: string, at: string, report: Report): string | undefined => {
  const value = json[key]
  return typeof value === "string" && value !== "" ? value : report.refuse(`${at}${key}`, "must be a non-empty string")
}

/** An optional boolean. */
export const readBoolean = (json: Json, key: string, at: string, report: Report): boolean | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  return typeof value === "boolean" ? value : report.refuse(`${at}${key}`, "must be a boolean")
}

/** An optional number between two bounds. */
export const readNumber = (
  json: Json,
  key: string,
  report: Report,
  minimum = -Infinity,
  maximum = Infinity
): number | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  if (typeof value !== "number" || !Number.isFinite(value)) return report.refuse(key, "must be a number")
  if (value >= minimum && value <= maximum) return value
  return report.refuse(
    key,
    maximum === Infinity ? `must be at least ${minimum}` : `must be between ${minimum} and ${maximum}`
  )
}

/** An optional integer. */
export const readInteger = (json: Json, key: string, report: Report, minimum = -Infinity): number | undefined => {
  const value = readNumber(json, key, report, minimum)
  return value === undefined || Number.isSafeInteger(value) ? value : report.refuse(key, "must be an integer")
}

/** An optional object whose values are all of one kind. */
export const readRecord = <A>(
  value: unknown,
  key: string,
  is: (item: unknown) => item is A,
  what: string,
  report: Report
): Readonly<Record<string, A>> | undefined => {
  if (absent(value)) return undefined
  if (!isJson(value)) return report.refuse(key, "must be an object")
  const read: Record<string, A> = {}
  for (const name of Object.keys(value)) {
    if (name === "__proto__") continue
    const item = value[name]
    if (is(item)) read[name] = item
    else report.refuse(`${key}.${name.slice(0, 64)}`, `must be ${what}`)
  }
  return read
}

/** Whether a value is a string. */
export const isString = (value: unknown): value is string => typeof value === "string"

type Effort = NonNullable<Reasoning["effort"]>
const efforts: ReadonlySet<unknown> = new Set<Effort>(["none", "minimal", "low", "medium", "high", "xhigh", "max"])

/** Whether the sdk has this word for how hard a model shall think. */
export const isEffort = (value: unknown): value is Effort => efforts.has(value)

/** Marks a prompt-cache breakpoint, by the convention of OpenRouter and LiteLLM; anything else stays an extension. */
export const readCacheControl = (json: Json): CacheControl | undefined => {
  const value = json["cache_control"]
  if (!isJson(value) || value["type"] !== "ephemeral") return undefined
  const ttl = value["ttl"]
  if (absent(ttl)) return { type: "ephemeral" }
  return ttl === "5m" || ttl === "1h" ? { type: "ephemeral", ttl } : undefined
}

/** The part or tool key for a breakpoint; no key where there is none. */
export const cached = (json: Json): { readonly cacheControl?: CacheControl } => {
  const cacheControl = readCacheControl(json)
  return cacheControl === undefined ? {} : { cacheControl }
}
