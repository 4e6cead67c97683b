/**
 * What the bodies of Ollama's `/api/chat` and `/api/generate` have in common, read as the sdk's: the model, the form of the
 * answer, thinking, sampling. See `OllamaDecodeRequest.ts` for what becomes of the rest.
 */
import type { ChatRequest, Reasoning, ResponseSchema } from "../../sdk/Chat.ts"
import type { Json } from "../Codec.ts"
import { absent, isJson, isList } from "../Json.ts"
import type { Report } from "../Report.ts"
import { wire } from "./OllamaExtensions.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Fields
// ---------------------------------------------------------------------------------------------------------------------

/** A text; `undefined` where there is none, or where it is refused. */
export const readString = (value: unknown, path: string, report: Report): string | undefined => {
  if (absent(value)) return undefined
  if (typeof value === "string") return value
  report.refuse(path, "must be a string")
  return undefined
}

/** A truth value; `undefined` where there is none, or where it is refused. */
export const readBoolean = (value: unknown, path: string, report: Report): boolean | undefined => {
  if (absent(value)) return undefined
  if (typeof value === "boolean") return value
  report.refuse(path, "must be a boolean")
  return undefined
}

/** A list; empty where there is none, or where it is refused. */
export const readList = (value: unknown, path: string, report: Report): ReadonlyArray<unknown> => {
  if (absent(value)) return []
  if (isList(value)) return value
  report.refuse(path, "must be an array")
  return []
}

/** Fields of this wire alone, where there are any. */
export const own = (json: Json | undefined): { readonly extensions?: { readonly [wire]: Json } } =>
  json === undefined ? {} : { extensions: { [wire]: json } }

// ---------------------------------------------------------------------------------------------------------------------
// Parameters
// ---------------------------------------------------------------------------------------------------------------------

const decodeFormat = (json: unknown, report: Report): ResponseSchema | undefined => {
  if (absent(json) || json === "") return undefined
  if (json === "json") return { type: "json_object" }
  if (isJson(json)) return { type: "json_schema", schema: json }
  report.refuse("format", "must be \"json\" or a JSON Schema object")
  return undefined
}

const decodeThink = (json: unknown, report: Report): Reasoning | undefined => {
  if (absent(json)) return undefined
  if (typeof json === "boolean") return { enabled: json }
  if (json === "low" || json === "medium" || json === "high" || json === "max") return { effort: json }
  report.refuse("think", "must be true, false, \"low\", \"medium\", \"high\" or \"max\"")
  return undefined
}

/** The canonical parameters that stand in `options`. */
type Sampling = {
  -readonly [
    Key in
      | "temperature"
      | "topP"
      | "topK"
      | "minP"
      | "seed"
      | "stop"
      | "repeatPenalty"
      | "presencePenalty"
      | "frequencyPenalty"
      | "maxOutputTokens"
  ]?: ChatRequest[Key]
}

/** An option in numbers: its canonical name, and the values that the canonical parameter can take. */
const numbers: ReadonlyMap<
  string,
  readonly [name: Exclude<keyof Sampling, "stop">, fits: (value: number) => boolean]
> = new Map([
  ["temperature", ["temperature", (value: number) => value >= 0 && value <= 2]],
  ["top_p", ["topP", (value: number) => value >= 0 && value <= 1]],
  ["top_k", ["topK", (value: number) => Number.isSafeInteger(value) && value > 0]],
  ["min_p", ["minP", (value: number) => value >= 0 && value <= 1]],
  ["seed", ["seed", Number.isSafeInteger]],
  ["repeat_penalty", ["repeatPenalty", () => true]],
  ["presence_penalty", ["presencePenalty", () => true]],
  ["frequency_penalty", ["frequencyPenalty", () => true]],
  ["num_predict", ["maxOutputTokens", (value: number) => Number.isSafeInteger(value) && value > 0]]
])

const decodeOptions = (json: unknown, report: Report): { readonly sampling: Sampling; readonly extra?: Json } => {
  if (absent(json)) return { sampling: {} }
  if (!isJson(json)) {
    report.refuse("options", "must be an object")
    return { sampling: {} }
  }
  const sampling: Sampling = {}
  const extra: Array<[string, unknown]> = []
  for (const key of Object.keys(json)) {
    const value = json[key]
    if (absent(value)) continue
    const number = numbers.get(key)
    if (number !== undefined) {
      const [name, fits] = number
      if (typeof value !== "number") report.refuse(`options.${key}`, "must be a number")
      else if (fits(value)) sampling[name] = value
      else extra.push([key, value])
    } else if (key === "stop") {
      if (isList(value) && value.every((item) => typeof item === "string")) sampling.stop = value
      else report.refuse("options.stop", "must be an array of strings")
    } else extra.push([key, value])
  }
  return extra.length === 0 ? { sampling } : { sampling, extra: Object.fromEntries(extra) }
}

/** The fields of the request that only Ollama knows, nulls left out. */
const decodeExtensions = (json: Json, known: ReadonlySet<string>, options: Json | undefined): Json | undefined => {
  const entries: Array<[string, unknown]> = []
  for (const key of Object.keys(json)) {
    if (!commonFields.has(key) && !known.has(key) && !absent(json[key])) entries.push([key, json[key]])
  }
  if (options !== undefined) entries.push(["options", options])
  return entries.length === 0 ? undefined : Object.fromEntries(entries)
}

const commonFields = new Set(["model", "stream", "format", "think", "logprobs", "top_logprobs", "options"])

/** A request without what is asked in it. */
export type Parameters = Omit<ChatRequest, "messages" | "tools">

/**
 * Reads all but the conversation. `known` are the operation's further fields; what is in neither is Ollama's own. `stream` is true
 * where the body does not say. The model is empty where there is none, which the report says then.
 */
export const decodeParameters = (body: Json, known: ReadonlySet<string>, report: Report): Parameters => {
  const model = readString(body["model"], "model", report)
  if (model === "" || absent(body["model"])) report.refuse("model", "must name a model")
  const responseSchema = decodeFormat(body["format"], report)
  const reasoning = decodeThink(body["think"], report)
  const stream = readBoolean(body["stream"], "stream", report) ?? true
  const logprobs = readBoolean(body["logprobs"], "logprobs", report)
  const topLogprobs = body["top_logprobs"]
  if (!absent(topLogprobs) && !Number.isSafeInteger(topLogprobs)) report.refuse("top_logprobs", "must be an integer")
  const { extra, sampling } = decodeOptions(body["options"], report)
  return {
    model: model ?? "",
    ...(responseSchema === undefined ? {} : { responseSchema }),
    stream,
    ...sampling,
    ...(logprobs === undefined ? {} : { logprobs }),
    ...(typeof topLogprobs === "number" ? { topLogprobs } : {}),
    ...(reasoning === undefined ? {} : { reasoning }),
    ...own(decodeExtensions(body, known, extra))
  }
}
