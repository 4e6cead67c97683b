/**
 * Reads a request of OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses/create). Checked by
 * hand, as chat requests are: one pass, at most 16 problems, each located in the caller's spelling.
 *
 * The gateway keeps no responses. `store` and `previous_response_id` are for providers that do, and `store` that is left out
 * counts as false, although OpenAI's default is true, and the answer says so. Other kept state is refused and told what to do instead. Tools that OpenAI itself runs go to
 * providers that speak this protocol, and every other codec refuses them by name.
 *
 * Fields that OpenAI's chat has under the same name go to its extensions, so that an OpenAI-compatible provider gets them.
 * Fields of the Responses API alone go to those of `openai-responses`, which no provider gets and every one reports.
 */
import { Array as Arr, Result } from "effect"
import type { ChatRequest, Message, ResponseSchema } from "../../../sdk/Chat.ts"
import { invalid, ValidationError } from "../../../sdk/GatewayError.ts"
import type { Tool, ToolChoice, UnifiedTool } from "../../../sdk/Tool.ts"
import type { Json } from "../../Codec.ts"
import { absent, type Draft, filled, isJson, isList, unknownFields } from "../../Json.ts"
import { makeReport, type Report } from "../../Report.ts"
import { wire as openAi } from "../OpenAiExtensions.ts"
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
} from "../OpenAiFields.ts"
import { readInput } from "./ResponsesDecodeInput.ts"
import { extended, instructionsMark, wire } from "./ResponsesExtensions.ts"

// ---------------------------------------------------------------------------------------------------------------------
// State
// ---------------------------------------------------------------------------------------------------------------------

const refuseState = (json: Json, report: Report): void => {
  const refuse = (key: string, problem: string): void => {
    if (!absent(json[key])) report.refuse(key, problem)
  }
  refuse("conversation", "the gateway keeps no conversations; send the whole conversation in input")
  refuse("prompt", "prompt templates live in an account of OpenAI's; send instructions and input instead")
  readBoolean(json, "background", "", report)
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools and the answer's form
// ---------------------------------------------------------------------------------------------------------------------

const toolKeys = keys("type", "name", "description", "parameters", "strict")

const readTool = (value: unknown, at: string, report: Report): Tool | undefined => {
  if (!isJson(value)) return report.refuse(at, "must be an object")
  const { parameters, type } = value
  if (typeof type !== "string" || type === "") return report.refuse(`${at}.type`, "must be a string")
  if (type !== "function") return { type: "opaque", wire, value }
  const name = readName(value, "name", `${at}.`, report)
  if (name === undefined) return undefined
  const tool: Draft<UnifiedTool> = {
    type: "unified",
    name,
    ...cached(value),
    ...extended(unknownFields(value, toolKeys))
  }
  const description = readString(value, "description", `${at}.`, report)
  if (description !== undefined) tool.description = description
  const strict = readBoolean(value, "strict", `${at}.`, report)
  if (strict !== undefined) tool.strict = strict
  if (isJson(parameters)) tool.parameters = parameters
  else if (!absent(parameters)) report.refuse(`${at}.parameters`, "must be a JSON Schema object")
  return tool
}

const readTools = (value: unknown, report: Report): ReadonlyArray<Tool> => {
  if (absent(value)) return []
  if (!isList(value)) {
    report.refuse("tools", "must be an array")
    return []
  }
  const tools: Array<Tool> = []
  for (let index = 0; index < value.length && !report.isFull(); index++) {
    const tool = readTool(value[index], `tools[${index}]`, report)
    if (tool !== undefined) tools.push(tool)
  }
  return tools
}

/** A choice among tools that only this protocol has goes to `own` as it stands. */
const readToolChoice = (value: unknown, own: Fields, report: Report): ToolChoice | undefined => {
  if (absent(value)) return undefined
  if (value === "auto" || value === "none" || value === "required") return { type: value }
  if (!isJson(value)) return report.refuse("tool_choice", "must be none, auto, required or an object")
  const { mode, tools, type } = value
  if (type === "function") {
    const name = readName(value, "name", "tool_choice.", report)
    return name === undefined ? undefined : { type: "tool", name }
  }
  if (typeof type !== "string") return report.refuse("tool_choice.type", "must be a string")
  if (type !== "allowed_tools") {
    own["tool_choice"] = value
    return undefined
  }
  if (mode !== "auto" && mode !== "required") return report.refuse("tool_choice.mode", "must be auto or required")
  if (!isList(tools)) return report.refuse("tool_choice.tools", "must be an array")
  const names: Array<string> = []
  for (let index = 0; index < tools.length; index++) {
    const tool = tools[index]
    const at = `tool_choice.tools[${index}]`
    if (!isJson(tool)) return report.refuse(at, "must be an object")
    if (typeof tool["type"] !== "string") return report.refuse(`${at}.type`, "must be a string")
    if (tool["type"] !== "function") {
      own["tool_choice"] = value
      return undefined
    }
    const name = readName(tool, "name", `${at}.`, report)
    if (name !== undefined) names.push(name)
  }
  return { type: "allowed", mode, names }
}

const readFormat = (value: unknown, report: Report): ResponseSchema | undefined => {
  const at = "text.format"
  if (absent(value)) return undefined
  if (!isJson(value)) return report.refuse(at, "must be an object")
  const { schema, type } = value
  switch (type) {
    case "text":
      return undefined
    case "json_object":
      return { type }
    case "json_schema": {
      if (!isJson(schema)) return report.refuse(`${at}.schema`, "must be a JSON Schema object")
      const name = readName(value, "name", `${at}.`, report)
      const description = readString(value, "description", `${at}.`, report)
      const strict = readBoolean(value, "strict", `${at}.`, report)
      return {
        type,
        schema,
        ...(name === undefined ? {} : { name }),
        ...(description === undefined ? {} : { description }),
        ...(strict === undefined ? {} : { strict })
      }
    }
    default:
      return report.refuse(`${at}.type`, "must be text, json_object or json_schema")
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Request
// ---------------------------------------------------------------------------------------------------------------------

const requestKeys = keys(
  "model",
  "input",
  "instructions",
  "tools",
  "tool_choice",
  "parallel_tool_calls",
  "text",
  "reasoning",
  "max_output_tokens",
  "max_tool_calls",
  "temperature",
  "top_p",
  "top_logprobs",
  "user",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_retention",
  "metadata",
  "service_tier",
  "include",
  "truncation",
  "stream",
  "stream_options",
  "store",
  "background",
  "previous_response_id",
  "conversation",
  "prompt"
)
const textKeys = keys("format", "verbosity")
const reasoningKeys = keys("effort", "summary", "generate_summary")
const streamOptionKeys = keys("include_obfuscation")

/** Fields for the extensions of a request. */
type Fields = Record<string, unknown>

/** What a caller may ask to have included. All but the last concern tools that OpenAI runs, or are always there. */
const includable: ReadonlySet<unknown> = new Set([
  "file_search_call.results",
  "web_search_call.results",
  "web_search_call.action.sources",
  "message.input_image.image_url",
  "computer_call_output.output.image_url",
  "code_interpreter_call.outputs",
  "reasoning.encrypted_content",
  "message.output_text.logprobs"
])

/** Whether the answer's log probabilities are asked for. */
const readInclude = (value: unknown, own: Fields, echo: Fields, report: Report): boolean => {
  if (absent(value)) return false
  if (!isList(value) || !value.every(isString)) {
    report.refuse("include", "must be an array of strings")
    return false
  }
  const known = value.filter((item) => includable.has(item))
  if (known.length > 0) echo["include"] = known
  const unknown = value.filter((item) => !includable.has(item))
  if (unknown.length > 0) own["include"] = unknown
  return value.includes("message.output_text.logprobs")
}

const readReasoning = (
  value: unknown,
  own: Fields,
  chat: Fields,
  echo: Fields,
  report: Report
): ChatRequest["reasoning"] => {
  if (absent(value)) return undefined
  if (!isJson(value)) return report.refuse("reasoning", "must be an object")
  const summary = readString(value, "summary", "reasoning.", report) ??
    readString(value, "generate_summary", "reasoning.", report)
  const fields: Fields = { ...unknownFields(value, reasoningKeys) }
  if (summary !== undefined) {
    echo["summary"] = summary
    // Thinking is shown as the provider shows it, which is what `auto` asks for.
    if (summary !== "auto") fields["summary"] = summary
  }
  if (Object.keys(fields).length > 0) own["reasoning"] = fields
  const { effort } = value
  if (isEffort(effort)) return { effort }
  if (typeof effort === "string") chat["reasoning_effort"] = effort
  else if (!absent(effort)) report.refuse("reasoning.effort", "must be a string")
  return undefined
}

const readText = (value: unknown, own: Fields, chat: Fields, report: Report): ResponseSchema | undefined => {
  if (absent(value)) return undefined
  if (!isJson(value)) return report.refuse("text", "must be an object")
  const unknown = unknownFields(value, textKeys)
  if (unknown !== undefined) own["text"] = unknown
  const verbosity = readString(value, "verbosity", "text.", report)
  if (verbosity !== undefined) chat["verbosity"] = verbosity
  return readFormat(value["format"], report)
}

const readStreamOptions = (value: unknown, own: Fields, report: Report): void => {
  if (absent(value)) return
  if (!isJson(value)) return report.refuse("stream_options", "must be an object")
  const unknown: Fields = { ...unknownFields(value, streamOptionKeys) }
  // The gateway pads no events; only who asks for it misses something.
  if (value["include_obfuscation"] === true) unknown["include_obfuscation"] = true
  if (Object.keys(unknown).length > 0) own["stream_options"] = unknown
}

/** OpenAI's chat has these under the same names. */
const readShared = (json: Json, chat: Fields, report: Report): void => {
  for (const key of ["prompt_cache_key", "prompt_cache_retention", "safety_identifier"]) {
    const value = readString(json, key, "", report)
    if (value !== undefined) chat[key] = value
  }
}

const readInstructions = (json: Json, report: Report): Message | undefined => {
  const text = readString(json, "instructions", "", report)
  return text === undefined || text === ""
    ? undefined
    : { role: "system", content: [{ type: "text", text }], extensions: instructionsMark }
}

/** Reads a request; fails with what is wrong, each problem located in the caller's spelling (`input[2].content`). */
export const decodeRequest = (json: unknown): Result.Result<ChatRequest, ValidationError> => {
  if (!isJson(json)) return Result.fail(new ValidationError({ message: "the body must be a JSON object" }))
  const report = makeReport()
  refuseState(json, report)
  const model = readName(json, "model", "", report) ?? ""
  const messages = readInput(json["input"], readInstructions(json, report), report)
  const own: Fields = { ...unknownFields(json, requestKeys) }
  const chat: Fields = {}
  const echo: Fields = {}

  const optional: Draft<Omit<ChatRequest, "model" | "messages">> = {}
  const tools = readTools(json["tools"], report)
  const toolChoice = readToolChoice(json["tool_choice"], own, report)
  const parallel = readBoolean(json, "parallel_tool_calls", "", report)
  if (tools.length > 0) {
    optional.tools = tools
    if (tools.some((tool) => tool.type === "unified" && tool.strict === undefined)) echo["strict_by_default"] = true
    if (toolChoice !== undefined) optional.toolChoice = toolChoice
    if (parallel !== undefined) optional.parallelToolCalls = parallel
  } else {
    // Without tools both say nothing, and OpenAI's chat refuses them there; SDKs of this API send them all the same.
    if (toolChoice !== undefined) echo["tool_choice"] = json["tool_choice"]
    if (parallel !== undefined) echo["parallel_tool_calls"] = parallel
  }
  const responseSchema = readText(json["text"], own, chat, report)
  if (responseSchema !== undefined) optional.responseSchema = responseSchema
  const stream = readBoolean(json, "stream", "", report)
  if (stream !== undefined) optional.stream = stream
  const maxOutputTokens = readInteger(json, "max_output_tokens", report, 1)
  if (maxOutputTokens !== undefined) optional.maxOutputTokens = maxOutputTokens
  const temperature = readNumber(json, "temperature", report, 0, 2)
  if (temperature !== undefined) optional.temperature = temperature
  const topP = readNumber(json, "top_p", report, 0, 1)
  if (topP !== undefined) optional.topP = topP
  const topLogprobs = readInteger(json, "top_logprobs", report, 0)
  if (topLogprobs !== undefined && topLogprobs > 0) optional.topLogprobs = topLogprobs
  if (readInclude(json["include"], own, echo, report) || optional.topLogprobs !== undefined) optional.logprobs = true
  const reasoning = readReasoning(json["reasoning"], own, chat, echo, report)
  if (reasoning !== undefined) optional.reasoning = reasoning
  readShared(json, chat, report)
  const user = readString(json, "user", "", report) ?? filled(json["safety_identifier"])
  if (user !== undefined) {
    optional.user = user
    // Told twice, it is to be written twice.
    if (json["user"] === json["safety_identifier"]) chat["user"] = user
  }
  const metadata = readRecord(json["metadata"], "metadata", isString, "a string", report)
  if (metadata !== undefined) optional.metadata = metadata
  const serviceTier = readString(json, "service_tier", "", report)
  if (serviceTier !== undefined) optional.serviceTier = serviceTier
  if (readBoolean(json, "store", "", report) === true) optional.store = true
  if (!absent(json["previous_response_id"])) {
    const previousResponseId = readName(json, "previous_response_id", "", report)
    if (previousResponseId !== undefined) optional.previousResponseId = previousResponseId
  }
  readStreamOptions(json["stream_options"], own, report)
  const truncation = readString(json, "truncation", "", report)
  if (truncation !== undefined && truncation !== "disabled") own["truncation"] = truncation
  const maxToolCalls = readInteger(json, "max_tool_calls", report, 1)
  // Calls of OpenAI's own tools are counted by it, and there are none.
  if (maxToolCalls !== undefined) echo["max_tool_calls"] = maxToolCalls

  const error = report.error()
  if (error !== undefined || !Arr.isReadonlyArrayNonEmpty(messages)) {
    return Result.fail(error ?? invalid("input", "must hold a message"))
  }
  const request: Draft<ChatRequest> = { model, messages, ...optional }
  if (Object.keys(echo).length > 0) own["echo"] = echo
  const extensions: Record<string, Json> = {}
  if (Object.keys(own).length > 0) extensions[wire] = own
  if (Object.keys(chat).length > 0) extensions[openAi] = chat
  if (Object.keys(extensions).length > 0) request.extensions = extensions
  return Result.succeed(request)
}
