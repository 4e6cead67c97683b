/**
 * Reads a chat request as OpenAI documents it (https://platform.openai.com/docs/api-reference/chat/create), open to what
 * compatible servers add: a field that the sdk has no word for travels in `extensions.openai` at the level where it
 * stood, so that `encodeRequest` writes it back.
 *
 * Checked by hand rather than by a schema, because requests can be large and the errors must be located in OpenAI's
 * spelling: one pass, at most 16 problems, and no path is written for what is well formed beyond its message's.
 *
 * Some fields are kept twice, as a canonical field and in the extensions, where the canonical one cannot say how the
 * caller put it: `max_tokens` (not `max_completion_tokens`), a `stop` that is a string, `cache_control`, `top_k`, `min_p`,
 * `repetition_penalty`, and `safety_identifier`, OpenAI's newer word for `user`. `OpenAiExtensions` lists them for the
 * other wires. Null stands for absent in every documented field.
 */
import { Array as Arr, Result } from "effect"
import type { ChatRequest, ResponseSchema } from "../../sdk/Chat.ts"
import { invalid, ValidationError } from "../../sdk/GatewayError.ts"
import type { Tool, ToolChoice, UnifiedTool } from "../../sdk/Tool.ts"
import type { Json } from "../Codec.ts"
import { absent, type Draft, filled, isJson, object, unknownFields } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { readMessages } from "./OpenAiDecodeMessages.ts"
import { extended, unknownWithin, wire } from "./OpenAiExtensions.ts"
import {
  cached,
  isEffort,
  isString,
  keys,
  readBoolean,
  readInteger,
  readName,
  readNumber,
  readRecord,
  readString
} from "./OpenAiFields.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Tools and the answer's form
// ---------------------------------------------------------------------------------------------------------------------

const functionToolKeys = keys("type", "function")
const functionToolInside = keys("name", "description", "parameters", "strict")

const readTool = (value: unknown, at: string, report: Report): Tool | undefined => {
  if (!isJson(value)) return report.refuse(at, "must be an object")
  if (value["type"] !== "function") {
    return typeof value["type"] === "string"
      ? { type: "opaque", wire, value }
      : report.refuse(`${at}.type`, "must be a string")
  }
  const json = object(value["function"])
  if (json === undefined) return report.refuse(`${at}.function`, "must be an object")
  const name = readName(json, "name", `${at}.function.`, report)
  if (name === undefined) return undefined
  const tool: Draft<UnifiedTool> = {
    type: "unified",
    name,
    ...cached(value),
    ...extended(unknownWithin(value, functionToolKeys, "function", functionToolInside))
  }
  const description = readString(json, "description", `${at}.function.`, report)
  if (description !== undefined) tool.description = description
  const strict = readBoolean(json, "strict", `${at}.function.`, report)
  if (strict !== undefined) tool.strict = strict
  const parameters = json["parameters"]
  if (isJson(parameters)) tool.parameters = parameters
  else if (!absent(parameters)) report.refuse(`${at}.function.parameters`, "must be a JSON Schema object")
  return tool
}

const readTools = (value: unknown, report: Report): ReadonlyArray<Tool> | undefined => {
  if (absent(value)) return undefined
  if (!Array.isArray(value)) return report.refuse("tools", "must be an array")
  const tools: Array<Tool> = []
  for (let index = 0; index < value.length && !report.isFull(); index++) {
    const tool = readTool(value[index], `tools[${index}]`, report)
    if (tool !== undefined) tools.push(tool)
  }
  return tools
}

const functionName = (value: unknown): string | undefined =>
  isJson(value) && value["type"] === "function" ? filled(object(value["function"])?.["name"]) : undefined

/** A tool choice in the sdk's words; `undefined` for a form that only OpenAI has, which stays an extension. */
const readToolChoice = (value: unknown, report: Report): ToolChoice | undefined => {
  if (value === "auto" || value === "none" || value === "required") return { type: value }
  if (!isJson(value)) return report.refuse("tool_choice", "must be none, auto, required or an object")
  if (value["type"] === "function") {
    const name = functionName(value)
    return name === undefined
      ? report.refuse("tool_choice.function.name", "must be a non-empty string")
      : { type: "tool", name }
  }
  const allowed = object(value["allowed_tools"])
  if (value["type"] !== "allowed_tools" || allowed === undefined) return undefined
  const mode = allowed["mode"]
  const tools = allowed["tools"]
  if (mode !== "auto" && mode !== "required") {
    return report.refuse("tool_choice.allowed_tools.mode", "must be auto or required")
  }
  if (!Array.isArray(tools)) return report.refuse("tool_choice.allowed_tools.tools", "must be an array")
  const names = tools.map(functionName).filter((name) => name !== undefined)
  return names.length === tools.length ? { type: "allowed", mode, names } : undefined
}

const formatInside = keys("name", "description", "schema", "strict")
const formatKeys = keys("type", "json_schema")

/** The form of the answer; what it holds beyond the sdk's words goes to the request's extensions. */
const readResponseFormat = (
  value: unknown,
  extensions: Record<string, unknown>,
  report: Report
): ResponseSchema | undefined => {
  const at = "response_format"
  if (!isJson(value)) return report.refuse(at, "must be an object")
  if (value["type"] === "json_object") {
    const extra = unknownFields(value, formatKeys)
    if (extra !== undefined) extensions[at] = extra
    return { type: "json_object" }
  }
  const json = object(value["json_schema"])
  if (value["type"] !== "json_schema") {
    extensions[at] = value
    return undefined
  }
  if (json === undefined) return report.refuse(`${at}.json_schema`, "must be an object")
  const schema = json["schema"]
  if (absent(schema)) {
    extensions[at] = value
    return undefined
  }
  if (!isJson(schema)) return report.refuse(`${at}.json_schema.schema`, "must be a JSON Schema object")
  const extra = unknownWithin(value, formatKeys, "json_schema", formatInside)
  if (extra !== undefined) extensions[at] = extra
  const name = readName(json, "name", `${at}.json_schema.`, report)
  const description = readString(json, "description", `${at}.json_schema.`, report)
  const strict = readBoolean(json, "strict", `${at}.json_schema.`, report)
  return {
    type: "json_schema",
    schema,
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
    ...(strict === undefined ? {} : { strict })
  }
}

const readStop = (
  value: unknown,
  extensions: Record<string, unknown>,
  report: Report
): ReadonlyArray<string> | undefined => {
  if (absent(value)) return undefined
  if (typeof value === "string") {
    extensions["stop"] = value
    return [value]
  }
  const isText = (item: unknown): item is string => typeof item === "string"
  return Array.isArray(value) && value.every(isText)
    ? value
    : report.refuse("stop", "must be a string or an array of strings")
}

const isFinite = (value: unknown): value is number => Number.isFinite(value)

// ---------------------------------------------------------------------------------------------------------------------
// Request
// ---------------------------------------------------------------------------------------------------------------------

const requestKeys = keys(
  "model",
  "messages",
  "tools",
  "tool_choice",
  "parallel_tool_calls",
  "response_format",
  "stream",
  "max_tokens",
  "max_completion_tokens",
  "temperature",
  "top_p",
  "frequency_penalty",
  "presence_penalty",
  "seed",
  "stop",
  "n",
  "logprobs",
  "top_logprobs",
  "logit_bias",
  "reasoning_effort",
  "user",
  "metadata",
  "service_tier"
)

/**
 * Parameters that OpenAI does not document but most compatible servers take. They are read for providers of other wires
 * and stay in the extensions, so that one of this wire gets them only where the caller sent them.
 */
const readConventions = (json: Json, request: Draft<ChatRequest>): void => {
  const topK = json["top_k"]
  if (typeof topK === "number" && Number.isSafeInteger(topK) && topK > 0) request.topK = topK
  const minP = json["min_p"]
  if (typeof minP === "number" && minP >= 0 && minP <= 1) request.minP = minP
  const repeat = json["repetition_penalty"]
  if (typeof repeat === "number" && Number.isFinite(repeat)) request.repeatPenalty = repeat
  const identifier = filled(json["safety_identifier"])
  if (identifier !== undefined) request.user ??= identifier
}

/** Reads a chat request; fails with what is wrong, each problem located in OpenAI's spelling (`messages[2].content`). */
export const decodeRequest = (json: unknown): Result.Result<ChatRequest, ValidationError> => {
  if (!isJson(json)) return Result.fail(new ValidationError({ message: "the body must be a JSON object" }))
  const report = makeReport()
  const model = readName(json, "model", "", report) ?? ""
  const messages = readMessages(json["messages"], report)
  const extensions: Record<string, unknown> = { ...unknownFields(json, requestKeys) }

  const optional: Draft<Omit<ChatRequest, "model" | "messages">> = {}
  const tools = readTools(json["tools"], report)
  if (tools !== undefined) optional.tools = tools
  const toolChoice = absent(json["tool_choice"]) ? undefined : readToolChoice(json["tool_choice"], report)
  if (toolChoice !== undefined) optional.toolChoice = toolChoice
  else if (!absent(json["tool_choice"])) extensions["tool_choice"] = json["tool_choice"]
  const parallel = readBoolean(json, "parallel_tool_calls", "", report)
  if (parallel !== undefined) optional.parallelToolCalls = parallel
  if (!absent(json["response_format"])) {
    const responseSchema = readResponseFormat(json["response_format"], extensions, report)
    if (responseSchema !== undefined) optional.responseSchema = responseSchema
  }
  const stream = readBoolean(json, "stream", "", report)
  if (stream !== undefined) optional.stream = stream
  const maxCompletionTokens = readInteger(json, "max_completion_tokens", report, 1)
  const maxTokens = readInteger(json, "max_tokens", report, 1)
  if (maxCompletionTokens !== undefined) optional.maxOutputTokens = maxCompletionTokens
  else if (maxTokens !== undefined) {
    optional.maxOutputTokens = maxTokens
    extensions["max_tokens"] = maxTokens
  }
  const temperature = readNumber(json, "temperature", report, 0, 2)
  if (temperature !== undefined) optional.temperature = temperature
  const topP = readNumber(json, "top_p", report, 0, 1)
  if (topP !== undefined) optional.topP = topP
  const frequencyPenalty = readNumber(json, "frequency_penalty", report)
  if (frequencyPenalty !== undefined) optional.frequencyPenalty = frequencyPenalty
  const presencePenalty = readNumber(json, "presence_penalty", report)
  if (presencePenalty !== undefined) optional.presencePenalty = presencePenalty
  const seed = readInteger(json, "seed", report)
  if (seed !== undefined) optional.seed = seed
  const stop = readStop(json["stop"], extensions, report)
  if (stop !== undefined) optional.stop = stop
  const n = readInteger(json, "n", report, 1)
  if (n !== undefined) optional.n = n
  const logprobs = readBoolean(json, "logprobs", "", report)
  if (logprobs !== undefined) optional.logprobs = logprobs
  const topLogprobs = readInteger(json, "top_logprobs", report)
  if (topLogprobs !== undefined) optional.topLogprobs = topLogprobs
  const logitBias = readRecord(json["logit_bias"], "logit_bias", isFinite, "a number", report)
  if (logitBias !== undefined) optional.logitBias = logitBias
  const effort = json["reasoning_effort"]
  if (isEffort(effort)) optional.reasoning = { effort }
  else if (typeof effort === "string") extensions["reasoning_effort"] = effort
  else if (!absent(effort)) report.refuse("reasoning_effort", "must be a string")
  const user = readString(json, "user", "", report)
  if (user !== undefined) {
    optional.user = user
    // Told twice, it is to be written twice.
    if (user === json["safety_identifier"]) extensions["user"] = user
  }
  const metadata = readRecord(json["metadata"], "metadata", isString, "a string", report)
  if (metadata !== undefined) optional.metadata = metadata
  const serviceTier = readString(json, "service_tier", "", report)
  if (serviceTier !== undefined) optional.serviceTier = serviceTier

  const error = report.error()
  if (error !== undefined || !Arr.isReadonlyArrayNonEmpty(messages)) {
    return Result.fail(error ?? invalid("messages", "must be a non-empty array"))
  }
  const request: Draft<ChatRequest> = { model, messages, ...optional }
  readConventions(json, request)
  if (Object.keys(extensions).length > 0) request.extensions = { [wire]: extensions }
  return Result.succeed(request)
}
