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
 * `repetition_penalty`. Null stands for absent in every documented field.
 */
import { Array as Arr, Result } from "effect"
import type { ChatRequest, Message, Reasoning, ResponseSchema, Role } from "../../sdk/Chat.ts"
import type { AudioPart, CacheControl, DocumentPart, ImagePart, Part, ToolResultContent } from "../../sdk/Content.ts"
import { type Issue, ValidationError } from "../../sdk/GatewayError.ts"
import type { Tool, ToolChoice, UnifiedTool } from "../../sdk/Tool.ts"
import type { Json } from "../Codec.ts"
import { type Draft, extended, filled, isJson, object, rest, restWithin, wire } from "./OpenAiJson.ts"
import { audioMediaType, isBase64, isDataUrl, parseDataUrl } from "./OpenAiMedia.ts"
import { decodeReasoning, reasoningFields } from "./OpenAiReasoning.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Problems
// ---------------------------------------------------------------------------------------------------------------------

const maxProblems = 16

/** What is wrong with one request. */
class Problems {
  readonly issues: Array<Issue> = []
  add(path: string, message: string): undefined {
    if (this.issues.length < maxProblems) this.issues.push({ path, message })
    return undefined
  }
  get full(): boolean {
    return this.issues.length >= maxProblems
  }
  error(first: Issue): ValidationError {
    const more = this.issues.length > 1 ? ` (and ${this.issues.length - 1} more)` : ""
    return new ValidationError({
      message: `${first.path}: ${first.message}${more}`,
      field: first.path,
      issues: this.issues
    })
  }
}

const absent = (value: unknown): value is null | undefined => value === undefined || value === null

const readString = (json: Json, key: string, at: string, problems: Problems): string | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  return typeof value === "string" ? value : problems.add(`${at}${key}`, "must be a string")
}

const readName = (json: Json, key: string, at: string, problems: Problems): string | undefined => {
  const value = json[key]
  return typeof value === "string" && value !== "" ? value : problems.add(`${at}${key}`, "must be a non-empty string")
}

const readBoolean = (json: Json, key: string, at: string, problems: Problems): boolean | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  return typeof value === "boolean" ? value : problems.add(`${at}${key}`, "must be a boolean")
}

const readNumber = (
  json: Json,
  key: string,
  problems: Problems,
  minimum = -Infinity,
  maximum = Infinity
): number | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  if (typeof value !== "number" || !Number.isFinite(value)) return problems.add(key, "must be a number")
  if (value >= minimum && value <= maximum) return value
  return problems.add(
    key,
    maximum === Infinity ? `must be at least ${minimum}` : `must be between ${minimum} and ${maximum}`
  )
}

const readInteger = (json: Json, key: string, problems: Problems, minimum = -Infinity): number | undefined => {
  const value = readNumber(json, key, problems, minimum)
  return value === undefined || Number.isSafeInteger(value) ? value : problems.add(key, "must be an integer")
}

/** Marks a prompt-cache breakpoint, by the convention of OpenRouter and LiteLLM; anything else stays an extension. */
const readCacheControl = (json: Json): CacheControl | undefined => {
  const value = json["cache_control"]
  if (!isJson(value) || value["type"] !== "ephemeral") return undefined
  const ttl = value["ttl"]
  if (absent(ttl)) return { type: "ephemeral" }
  return ttl === "5m" || ttl === "1h" ? { type: "ephemeral", ttl } : undefined
}

const cached = (json: Json): { readonly cacheControl?: CacheControl } => {
  const cacheControl = readCacheControl(json)
  return cacheControl === undefined ? {} : { cacheControl }
}

// ---------------------------------------------------------------------------------------------------------------------
// Parts
// ---------------------------------------------------------------------------------------------------------------------

const keys = (...names: ReadonlyArray<string>): ReadonlySet<string> => new Set(names)

const textKeys = keys("type", "text")
const refusalKeys = keys("type", "refusal")
const imageKeys = keys("type", "image_url")
const imageInside = keys("url", "detail")
const imageInsideOddDetail = keys("url")
const videoKeys = keys("type", "video_url")
const urlInside = keys("url")
const audioKeys = keys("type", "input_audio")
const audioInside = keys("data", "format")
const audioInsideOddFormat = keys("data")
const fileKeys = keys("type", "file")
const fileInside = keys("file_data", "file_id", "filename")
const fileInsideUrl = keys("filename")

type Detail = NonNullable<ImagePart["detail"]>
const isDetail = (value: unknown): value is Detail =>
  value === "auto" || value === "low" || value === "high" || value === "original"

/** An image's or video's address: a `data:` URL becomes inline media. */
const readUrl = (
  value: unknown,
  at: string,
  problems: Problems
): Extract<ImagePart["source"], { type: "url" | "base64" }> | undefined => {
  if (typeof value !== "string" || value === "") return problems.add(at, "must be a URL")
  if (!isDataUrl(value)) return { type: "url", url: value }
  const parsed = parseDataUrl(value)
  return typeof parsed === "string" ? problems.add(at, parsed) : { type: "base64", ...parsed }
}

const readAudio = (part: Json, at: string, problems: Problems): AudioPart | undefined => {
  const audio = object(part["input_audio"])
  if (audio === undefined) return problems.add(`${at}.input_audio`, "must be an object")
  const data = audio["data"]
  const format = readName(audio, "format", `${at}.input_audio.`, problems)
  if (typeof data !== "string" || !isBase64(data)) return problems.add(`${at}.input_audio.data`, "must be base64")
  if (format === undefined) return undefined
  const known = format === "wav" || format === "mp3"
  return {
    type: "audio",
    source: { type: "base64", mediaType: audioMediaType(format), data },
    ...cached(part),
    ...extended(restWithin(part, audioKeys, "input_audio", known ? audioInside : audioInsideOddFormat))
  }
}

const readFile = (part: Json, at: string, problems: Problems): DocumentPart | undefined => {
  const file = object(part["file"])
  if (file === undefined) return problems.add(`${at}.file`, "must be an object")
  const filename = readString(file, "filename", `${at}.file.`, problems)
  const named = filename === undefined ? {} : { filename }
  const extras = { ...cached(part), ...extended(restWithin(part, fileKeys, "file", fileInside)) }
  const id = filled(file["file_id"])
  if (id !== undefined) {
    return { type: "document", source: { type: "provider_file", wire, id }, ...named, ...extras }
  }
  const data = file["file_data"]
  // Compatible servers take an address, as `file_url` or in place of the data (OpenRouter); the extension keeps which.
  const url = filled(file["file_url"]) ?? (typeof data === "string" && /^https?:\/\//i.test(data) ? data : undefined)
  if (url !== undefined) {
    return {
      type: "document",
      source: { type: "url", url },
      ...named,
      ...cached(part),
      ...extended(restWithin(part, fileKeys, "file", fileInsideUrl))
    }
  }
  if (typeof data !== "string") return problems.add(`${at}.file`, "must hold file_data or file_id")
  if (!isDataUrl(data)) return problems.add(`${at}.file.file_data`, "must be a data: URL")
  const parsed = parseDataUrl(data)
  if (typeof parsed === "string") return problems.add(`${at}.file.file_data`, parsed)
  return { type: "document", source: { type: "base64", ...parsed }, ...named, ...extras }
}

const readPart = (value: unknown, at: string, problems: Problems): Part | undefined => {
  if (!isJson(value)) return problems.add(at, "must be an object")
  switch (value["type"]) {
    case "text": {
      const text = value["text"]
      if (typeof text !== "string") return problems.add(`${at}.text`, "must be a string")
      return { type: "text", text, ...cached(value), ...extended(rest(value, textKeys)) }
    }
    case "image_url": {
      const image = object(value["image_url"])
      if (image === undefined) return problems.add(`${at}.image_url`, "must be an object")
      const source = readUrl(image["url"], `${at}.image_url.url`, problems)
      if (source === undefined) return undefined
      const detail = image["detail"]
      const plain = isDetail(detail)
      return {
        type: "image",
        source,
        ...(plain ? { detail } : {}),
        ...cached(value),
        ...extended(restWithin(value, imageKeys, "image_url", plain ? imageInside : imageInsideOddDetail))
      }
    }
    case "video_url": {
      const source = readUrl(object(value["video_url"])?.["url"], `${at}.video_url.url`, problems)
      if (source === undefined) return undefined
      return {
        type: "video",
        source,
        ...cached(value),
        ...extended(restWithin(value, videoKeys, "video_url", urlInside))
      }
    }
    case "input_audio":
      return readAudio(value, at, problems)
    case "file":
      return readFile(value, at, problems)
    case "refusal": {
      const refusal = value["refusal"]
      if (typeof refusal !== "string") return problems.add(`${at}.refusal`, "must be a string")
      return { type: "refusal", text: refusal, ...extended(rest(value, refusalKeys)) }
    }
    default:
      return typeof value["type"] === "string"
        ? { type: "opaque", wire, value }
        : problems.add(`${at}.type`, "must be a string")
  }
}

/** A message's content. `nullable` for the roles whose content may be left out. */
const readContent = (value: unknown, nullable: boolean, at: string, problems: Problems): Array<Part> => {
  if (typeof value === "string") return [{ type: "text", text: value }]
  if (absent(value) && nullable) return []
  if (!Array.isArray(value)) {
    problems.add(at, "must be a string or an array of parts")
    return []
  }
  const parts: Array<Part> = []
  for (let index = 0; index < value.length && !problems.full; index++) {
    const part = readPart(value[index], `${at}[${index}]`, problems)
    if (part !== undefined) parts.push(part)
  }
  return parts
}

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

const messageKeys = keys("role", "content", "name")
const assistantKeys = keys("role", "content", "name", "refusal", "audio", "tool_calls", ...reasoningFields)
const toolKeys = keys("role", "content", "name", "tool_call_id", "is_error")
const callKeys = keys("id", "type", "function")
const callInside = keys("name", "arguments")
const audioRefKeys = keys("id")

const readToolCall = (value: unknown, at: string, calls: Set<string>, problems: Problems): Part | undefined => {
  if (!isJson(value)) return problems.add(at, "must be an object")
  const id = readName(value, "id", `${at}.`, problems)
  if (id === undefined) return undefined
  calls.add(id)
  if (value["type"] === "custom") return { type: "opaque", wire, value }
  const call = object(value["function"])
  if (call === undefined || (!absent(value["type"]) && value["type"] !== "function")) {
    return problems.add(`${at}.type`, "must be function or custom")
  }
  const name = readName(call, "name", `${at}.function.`, problems)
  const text = call["arguments"]
  if (typeof text !== "string") return problems.add(`${at}.function.arguments`, "must be a string of JSON")
  if (name === undefined) return undefined
  return {
    type: "tool_call",
    id,
    name,
    arguments: text,
    ...cached(value),
    ...extended(restWithin(value, callKeys, "function", callInside))
  }
}

const readAssistant = (json: Json, at: string, calls: Set<string>, problems: Problems): Array<Part> => {
  const parts: Array<Part> = [...decodeReasoning(json)]
  for (const part of readContent(json["content"], true, `${at}.content`, problems)) parts.push(part)
  const refusal = readString(json, "refusal", `${at}.`, problems)
  if (refusal !== undefined) parts.push({ type: "refusal", text: refusal })
  const audio = json["audio"]
  if (!absent(audio)) {
    const id = filled(object(audio)?.["id"])
    if (id === undefined) problems.add(`${at}.audio.id`, "must be a non-empty string")
    else {
      const extra = rest(object(audio) ?? {}, audioRefKeys)
      parts.push({
        type: "audio",
        id,
        source: { type: "provider_file", wire, id },
        ...extended(extra === undefined ? undefined : { audio: extra })
      })
    }
  }
  const toolCalls = json["tool_calls"]
  if (Array.isArray(toolCalls)) {
    for (let index = 0; index < toolCalls.length && !problems.full; index++) {
      const part = readToolCall(toolCalls[index], `${at}.tool_calls[${index}]`, calls, problems)
      if (part !== undefined) parts.push(part)
    }
  } else if (!absent(toolCalls)) problems.add(`${at}.tool_calls`, "must be an array")
  return parts
}

const isResultContent = (part: Part): part is ToolResultContent =>
  part.type === "text" || part.type === "image" || part.type === "document" || part.type === "audio"

const readToolResult = (json: Json, at: string, calls: ReadonlySet<string>, problems: Problems): Array<Part> => {
  const toolCallId = readName(json, "tool_call_id", `${at}.`, problems)
  const parts = readContent(json["content"], true, `${at}.content`, problems)
  const isError = readBoolean(json, "is_error", `${at}.`, problems)
  if (toolCallId === undefined) return []
  if (!calls.has(toolCallId)) {
    problems.add(`${at}.tool_call_id`, "no tool call with this id precedes the message")
    return []
  }
  const content = parts.filter(isResultContent)
  if (content.length < parts.length) {
    problems.add(`${at}.content`, "may hold text, images, files and audio only")
    return []
  }
  return [{ type: "tool_result", toolCallId, content, ...(isError === undefined ? {} : { isError }) }]
}

/** LiteLLM allows `cache_control` on the message: it then stands for its last part that can hold one. */
const cacheLast = (parts: Array<Part>, json: Json): void => {
  const cacheControl = readCacheControl(json)
  if (cacheControl === undefined) return
  const index = parts.findLastIndex((part) =>
    part.type !== "opaque" && part.type !== "reasoning" && part.type !== "refusal"
  )
  const part = parts[index]
  if (part === undefined || part.type === "opaque" || part.type === "reasoning" || part.type === "refusal") return
  parts[index] = { ...part, cacheControl }
}

const isRole = (value: unknown): value is Role =>
  value === "user" || value === "assistant" || value === "system" || value === "developer" || value === "tool"

const readMessage = (value: unknown, at: string, calls: Set<string>, problems: Problems): Message | undefined => {
  if (!isJson(value)) return problems.add(at, "must be an object")
  const role = value["role"]
  // The deprecated result of a `function_call` has no tool call to belong to; it is kept whole.
  if (role === "function") return { role: "tool", content: [{ type: "opaque", wire, value }] }
  if (!isRole(role)) return problems.add(`${at}.role`, "must be developer, system, user, assistant or tool")
  let content: Array<Part>
  let known: ReadonlySet<string>
  switch (role) {
    case "assistant":
      content = readAssistant(value, at, calls, problems)
      known = assistantKeys
      break
    case "tool":
      content = readToolResult(value, at, calls, problems)
      known = toolKeys
      break
    default:
      content = readContent(value["content"], false, `${at}.content`, problems)
      known = messageKeys
  }
  if (value["cache_control"] !== undefined) cacheLast(content, value)
  const message: Draft<Message> = { role, content, ...extended(rest(value, known)) }
  const name = readString(value, "name", `${at}.`, problems)
  if (name !== undefined) message.name = name
  return message
}

const readMessages = (value: unknown, problems: Problems): ReadonlyArray<Message> => {
  const messages: Array<Message> = []
  if (!Array.isArray(value) || value.length === 0) {
    problems.add("messages", "must be a non-empty array")
    return messages
  }
  const calls = new Set<string>()
  for (let index = 0; index < value.length && !problems.full; index++) {
    const message = readMessage(value[index], `messages[${index}]`, calls, problems)
    if (message !== undefined) messages.push(message)
  }
  return messages
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools and the answer's form
// ---------------------------------------------------------------------------------------------------------------------

const functionToolKeys = keys("type", "function")
const functionToolInside = keys("name", "description", "parameters", "strict")

const readTool = (value: unknown, at: string, problems: Problems): Tool | undefined => {
  if (!isJson(value)) return problems.add(at, "must be an object")
  if (value["type"] !== "function") {
    return typeof value["type"] === "string"
      ? { type: "opaque", wire, value }
      : problems.add(`${at}.type`, "must be a string")
  }
  const json = object(value["function"])
  if (json === undefined) return problems.add(`${at}.function`, "must be an object")
  const name = readName(json, "name", `${at}.function.`, problems)
  if (name === undefined) return undefined
  const tool: Draft<UnifiedTool> = {
    type: "unified",
    name,
    ...cached(value),
    ...extended(restWithin(value, functionToolKeys, "function", functionToolInside))
  }
  const description = readString(json, "description", `${at}.function.`, problems)
  if (description !== undefined) tool.description = description
  const strict = readBoolean(json, "strict", `${at}.function.`, problems)
  if (strict !== undefined) tool.strict = strict
  const parameters = json["parameters"]
  if (isJson(parameters)) tool.parameters = parameters
  else if (!absent(parameters)) problems.add(`${at}.function.parameters`, "must be a JSON Schema object")
  return tool
}

const readTools = (value: unknown, problems: Problems): ReadonlyArray<Tool> | undefined => {
  if (absent(value)) return undefined
  if (!Array.isArray(value)) return problems.add("tools", "must be an array")
  const tools: Array<Tool> = []
  for (let index = 0; index < value.length && !problems.full; index++) {
    const tool = readTool(value[index], `tools[${index}]`, problems)
    if (tool !== undefined) tools.push(tool)
  }
  return tools
}

const functionName = (value: unknown): string | undefined =>
  isJson(value) && value["type"] === "function" ? filled(object(value["function"])?.["name"]) : undefined

/** A tool choice in the sdk's words; `undefined` for a form that only OpenAI has, which stays an extension. */
const readToolChoice = (value: unknown, problems: Problems): ToolChoice | undefined => {
  if (value === "auto" || value === "none" || value === "required") return { type: value }
  if (!isJson(value)) return problems.add("tool_choice", "must be none, auto, required or an object")
  if (value["type"] === "function") {
    const name = functionName(value)
    return name === undefined
      ? problems.add("tool_choice.function.name", "must be a non-empty string")
      : { type: "tool", name }
  }
  const allowed = object(value["allowed_tools"])
  if (value["type"] !== "allowed_tools" || allowed === undefined) return undefined
  const mode = allowed["mode"]
  const tools = allowed["tools"]
  if (mode !== "auto" && mode !== "required") {
    return problems.add("tool_choice.allowed_tools.mode", "must be auto or required")
  }
  if (!Array.isArray(tools)) return problems.add("tool_choice.allowed_tools.tools", "must be an array")
  const names = tools.map(functionName).filter((name) => name !== undefined)
  return names.length === tools.length ? { type: "allowed", mode, names } : undefined
}

const formatInside = keys("name", "description", "schema", "strict")
const formatKeys = keys("type", "json_schema")

/** The form of the answer; what it holds beyond the sdk's words goes to the request's extensions. */
const readResponseFormat = (
  value: unknown,
  extensions: Record<string, unknown>,
  problems: Problems
): ResponseSchema | undefined => {
  const at = "response_format"
  if (!isJson(value)) return problems.add(at, "must be an object")
  if (value["type"] === "json_object") {
    const extra = rest(value, formatKeys)
    if (extra !== undefined) extensions[at] = extra
    return { type: "json_object" }
  }
  const json = object(value["json_schema"])
  if (value["type"] !== "json_schema") {
    extensions[at] = value
    return undefined
  }
  if (json === undefined) return problems.add(`${at}.json_schema`, "must be an object")
  const schema = json["schema"]
  if (absent(schema)) {
    extensions[at] = value
    return undefined
  }
  if (!isJson(schema)) return problems.add(`${at}.json_schema.schema`, "must be a JSON Schema object")
  const extra = restWithin(value, formatKeys, "json_schema", formatInside)
  if (extra !== undefined) extensions[at] = extra
  const name = readName(json, "name", `${at}.json_schema.`, problems)
  const description = readString(json, "description", `${at}.json_schema.`, problems)
  const strict = readBoolean(json, "strict", `${at}.json_schema.`, problems)
  return {
    type: "json_schema",
    schema,
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
    ...(strict === undefined ? {} : { strict })
  }
}

type Effort = NonNullable<Reasoning["effort"]>
const efforts: ReadonlySet<unknown> = new Set<Effort>(["none", "minimal", "low", "medium", "high", "xhigh", "max"])
const isEffort = (value: unknown): value is Effort => efforts.has(value)

const readStop = (
  value: unknown,
  extensions: Record<string, unknown>,
  problems: Problems
): ReadonlyArray<string> | undefined => {
  if (absent(value)) return undefined
  if (typeof value === "string") {
    extensions["stop"] = value
    return [value]
  }
  const isText = (item: unknown): item is string => typeof item === "string"
  return Array.isArray(value) && value.every(isText)
    ? value
    : problems.add("stop", "must be a string or an array of strings")
}

const readRecord = <A>(
  value: unknown,
  key: string,
  is: (item: unknown) => item is A,
  what: string,
  problems: Problems
): Readonly<Record<string, A>> | undefined => {
  if (absent(value)) return undefined
  if (!isJson(value)) return problems.add(key, "must be an object")
  const read: Record<string, A> = {}
  for (const name of Object.keys(value)) {
    if (name === "__proto__") continue
    const item = value[name]
    if (is(item)) read[name] = item
    else problems.add(`${key}.${name.slice(0, 64)}`, `must be ${what}`)
  }
  return read
}
const isString = (value: unknown): value is string => typeof value === "string"
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
}

/** Reads a chat request; fails with what is wrong, each problem located in OpenAI's spelling (`messages[2].content`). */
export const decodeRequest = (json: unknown): Result.Result<ChatRequest, ValidationError> => {
  if (!isJson(json)) return Result.fail(new ValidationError({ message: "the body must be a JSON object" }))
  const problems = new Problems()
  const model = readName(json, "model", "", problems) ?? ""
  const messages = readMessages(json["messages"], problems)
  const extensions: Record<string, unknown> = rest(json, requestKeys) ?? {}

  const optional: Draft<Omit<ChatRequest, "model" | "messages">> = {}
  const tools = readTools(json["tools"], problems)
  if (tools !== undefined) optional.tools = tools
  const toolChoice = absent(json["tool_choice"]) ? undefined : readToolChoice(json["tool_choice"], problems)
  if (toolChoice !== undefined) optional.toolChoice = toolChoice
  else if (!absent(json["tool_choice"])) extensions["tool_choice"] = json["tool_choice"]
  const parallel = readBoolean(json, "parallel_tool_calls", "", problems)
  if (parallel !== undefined) optional.parallelToolCalls = parallel
  if (!absent(json["response_format"])) {
    const responseSchema = readResponseFormat(json["response_format"], extensions, problems)
    if (responseSchema !== undefined) optional.responseSchema = responseSchema
  }
  const stream = readBoolean(json, "stream", "", problems)
  if (stream !== undefined) optional.stream = stream
  const maxCompletionTokens = readInteger(json, "max_completion_tokens", problems, 1)
  const maxTokens = readInteger(json, "max_tokens", problems, 1)
  if (maxCompletionTokens !== undefined) optional.maxOutputTokens = maxCompletionTokens
  else if (maxTokens !== undefined) {
    optional.maxOutputTokens = maxTokens
    extensions["max_tokens"] = maxTokens
  }
  const temperature = readNumber(json, "temperature", problems, 0, 2)
  if (temperature !== undefined) optional.temperature = temperature
  const topP = readNumber(json, "top_p", problems, 0, 1)
  if (topP !== undefined) optional.topP = topP
  const frequencyPenalty = readNumber(json, "frequency_penalty", problems)
  if (frequencyPenalty !== undefined) optional.frequencyPenalty = frequencyPenalty
  const presencePenalty = readNumber(json, "presence_penalty", problems)
  if (presencePenalty !== undefined) optional.presencePenalty = presencePenalty
  const seed = readInteger(json, "seed", problems)
  if (seed !== undefined) optional.seed = seed
  const stop = readStop(json["stop"], extensions, problems)
  if (stop !== undefined) optional.stop = stop
  const n = readInteger(json, "n", problems, 1)
  if (n !== undefined) optional.n = n
  const logprobs = readBoolean(json, "logprobs", "", problems)
  if (logprobs !== undefined) optional.logprobs = logprobs
  const topLogprobs = readInteger(json, "top_logprobs", problems)
  if (topLogprobs !== undefined) optional.topLogprobs = topLogprobs
  const logitBias = readRecord(json["logit_bias"], "logit_bias", isFinite, "a number", problems)
  if (logitBias !== undefined) optional.logitBias = logitBias
  const effort = json["reasoning_effort"]
  if (isEffort(effort)) optional.reasoning = { effort }
  else if (typeof effort === "string") extensions["reasoning_effort"] = effort
  else if (!absent(effort)) problems.add("reasoning_effort", "must be a string")
  const user = readString(json, "user", "", problems)
  if (user !== undefined) optional.user = user
  const metadata = readRecord(json["metadata"], "metadata", isString, "a string", problems)
  if (metadata !== undefined) optional.metadata = metadata
  const serviceTier = readString(json, "service_tier", "", problems)
  if (serviceTier !== undefined) optional.serviceTier = serviceTier

  const first = problems.issues[0]
  if (first !== undefined || !Arr.isReadonlyArrayNonEmpty(messages)) {
    return Result.fail(problems.error(first ?? { path: "messages", message: "must be a non-empty array" }))
  }
  const request: Draft<ChatRequest> = { model, messages, ...optional }
  readConventions(json, request)
  if (Object.keys(extensions).length > 0) request.extensions = { [wire]: extensions }
  return Result.succeed(request)
}
