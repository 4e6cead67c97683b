/** What the readers of OpenAI's requests share: optional fields with a located complaint, and cache breakpoints. */
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
