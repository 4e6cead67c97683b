/**
 * A caller's Messages request to the canonical one. Reads with guards rather than a schema: conversations are long, and
 * every block may carry fields that have to survive. What is wrong is told with its place in the caller's own spelling
 * (`messages[0].content[1].source`); what the sdk has no word for is kept in `extensions.anthropic` at its own level.
 *
 * Threads, which Anthropic holds for a caller (`thread: {type: "create" | "continue"}`, beta of August 2026), are refused.
 * `top_k: -1` and `top_p: -1`, which several clients send for "unset" and Anthropic accepts, are read as absent.
 */
import { Result } from "effect"
import type { ChatRequest, Message, Reasoning, ResponseSchema } from "../../sdk/Chat.ts"
import type { DocumentPart, ImagePart, Part, ToolResultContent } from "../../sdk/Content.ts"
import { ValidationError } from "../../sdk/GatewayError.ts"
import type { Tool, ToolChoice } from "../../sdk/Tool.ts"
import type { Json } from "../Codec.ts"
import { decodeText, decodeThinking, decodeToolUse, keyed, opaque } from "./AnthropicBlocks.ts"
import { extensions, wire } from "./AnthropicExtensions.ts"
import { absent, bounded, filled, isJson, isList, unknownFields } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Fields
// ---------------------------------------------------------------------------------------------------------------------

const optionalString = (json: Json, key: string, at: string, report: Report): string | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  return typeof value === "string" ? value : report.refuse(`${at}${key}`, "a string is required")
}

const optionalBoolean = (json: Json, key: string, at: string, report: Report): boolean | undefined => {
  const value = json[key]
  if (absent(value)) return undefined
  return typeof value === "boolean" ? value : report.refuse(`${at}${key}`, "a boolean is required")
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks
// ---------------------------------------------------------------------------------------------------------------------

const imageKeys = new Set(["type", "source", "cache_control"])
const documentKeys = new Set(["type", "source", "title", "context", "citations", "cache_control"])
const resultKeys = new Set(["type", "tool_use_id", "content", "is_error", "cache_control"])

const decodeImage = (block: Json, path: string, report: Report): ImagePart | undefined => {
  const source = block["source"]
  if (!isJson(source)) return report.refuse(`${path}.source`, "an object is required")
  const rest = keyed(block, imageKeys)
  switch (source["type"]) {
    case "base64": {
      const mediaType = filled(source["media_type"])
      const data = source["data"]
      if (mediaType === undefined) return report.refuse(`${path}.source.media_type`, "a string is required")
      if (typeof data !== "string") return report.refuse(`${path}.source.data`, "a string is required")
      return { type: "image", source: { type: "base64", mediaType, data }, ...rest }
    }
    case "url": {
      const url = filled(source["url"])
      if (url === undefined) return report.refuse(`${path}.source.url`, "a string is required")
      return { type: "image", source: { type: "url", url }, ...rest }
    }
    case "file": {
      const id = filled(source["file_id"])
      if (id === undefined) return report.refuse(`${path}.source.file_id`, "a string is required")
      return { type: "image", source: { type: "provider_file", wire, id }, ...rest }
    }
    default:
      return report.refuse(`${path}.source`, "its type must be \"base64\", \"url\" or \"file\"")
  }
}

const decodeDocumentSource = (source: Json, path: string, report: Report): DocumentPart["source"] | undefined => {
  switch (source["type"]) {
    case "base64": {
      const mediaType = filled(source["media_type"])
      const data = source["data"]
      if (mediaType === undefined) return report.refuse(`${path}.source.media_type`, "a string is required")
      if (typeof data !== "string") return report.refuse(`${path}.source.data`, "a string is required")
      return { type: "base64", mediaType, data }
    }
    case "text": {
      const data = source["data"]
      if (typeof data !== "string") return report.refuse(`${path}.source.data`, "a string is required")
      return { type: "text", text: data }
    }
    case "url": {
      const url = filled(source["url"])
      return url === undefined ? report.refuse(`${path}.source.url`, "a string is required") : { type: "url", url }
    }
    case "file": {
      const id = filled(source["file_id"])
      if (id === undefined) return report.refuse(`${path}.source.file_id`, "a string is required")
      return { type: "provider_file", wire, id }
    }
    default:
      return report.refuse(`${path}.source`, "its type must be \"base64\", \"text\", \"url\", \"file\" or \"content\"")
  }
}

/** A document, or an opaque part where its source is made of further blocks, which the sdk has no form for. */
const decodeDocument = (block: Json, path: string, report: Report): DocumentPart | "opaque" | undefined => {
  const given = block["source"]
  if (!isJson(given)) return report.refuse(`${path}.source`, "an object is required")
  if (given["type"] === "content") return "opaque"
  const source = decodeDocumentSource(given, path, report)
  if (source === undefined) return undefined
  const title = optionalString(block, "title", `${path}.`, report)
  const context = optionalString(block, "context", `${path}.`, report)
  const citations = block["citations"]
  const enabled = isJson(citations) ? optionalBoolean(citations, "enabled", `${path}.citations.`, report) : undefined
  return {
    type: "document",
    source,
    ...(title === undefined ? {} : { title }),
    ...(context === undefined ? {} : { context }),
    ...(enabled === undefined ? {} : { citations: enabled }),
    ...keyed(block, documentKeys)
  }
}

/** The content of a tool's result, or "opaque" where it holds blocks that no other wire could read. */
const decodeResultContent = (
  content: unknown,
  path: string,
  report: Report
): ReadonlyArray<ToolResultContent> | "opaque" => {
  if (content === undefined || content === null) return []
  if (typeof content === "string") return [{ type: "text", text: content }]
  if (!isList(content)) {
    report.refuse(`${path}.content`, "a string or an array of blocks is required")
    return []
  }
  const parts: Array<ToolResultContent> = []
  for (const [at, block] of content.entries()) {
    const blockPath = `${path}.content[${at}]`
    if (!isJson(block)) {
      report.refuse(blockPath, "an object is required")
      continue
    }
    let part: ToolResultContent | "opaque" | undefined
    switch (block["type"]) {
      case "text":
        part = requireText(block, blockPath, report) ? decodeText(block) : undefined
        break
      case "image":
        part = decodeImage(block, blockPath, report)
        break
      case "document":
        part = decodeDocument(block, blockPath, report)
        break
      default:
        part = "opaque"
    }
    if (part === "opaque") return part
    if (part !== undefined) parts.push(part)
  }
  return parts
}

const requireText = (block: Json, path: string, report: Report): boolean => {
  if (typeof block["text"] === "string") return true
  report.refuse(`${path}.text`, "a string is required")
  return false
}

const decodeResult = (block: Json, path: string, called: ReadonlySet<string>, report: Report): Part | undefined => {
  const toolCallId = filled(block["tool_use_id"])
  if (toolCallId === undefined) return report.refuse(`${path}.tool_use_id`, "a string is required")
  if (!called.has(toolCallId)) {
    return report.refuse(`${path}.tool_use_id`, `no tool_use before it has the id "${bounded(toolCallId, 80)}"`)
  }
  const content = decodeResultContent(block["content"], path, report)
  if (content === "opaque") return opaque(block)
  const isError = optionalBoolean(block, "is_error", `${path}.`, report)
  return {
    type: "tool_result",
    toolCallId,
    content,
    ...(isError === undefined ? {} : { isError }),
    ...keyed(block, resultKeys)
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

/** The blocks of a message; a bare string is one text block. */
const blocksOf = (content: unknown, path: string, report: Report): ReadonlyArray<Json> => {
  if (typeof content === "string") return [{ type: "text", text: content }]
  if (!isList(content)) {
    report.refuse(path, "a string or an array of blocks is required")
    return []
  }
  const blocks: Array<Json> = []
  for (const [at, block] of content.entries()) {
    if (isJson(block) && typeof block["type"] === "string") blocks.push(block)
    else {
      report.refuse(`${path}[${at}]`, "an object with a \"type\" is required")
      // Keeps the later blocks' places right.
      blocks.push({ type: "" })
    }
  }
  return blocks
}

const decodeAssistant = (
  blocks: ReadonlyArray<Json>,
  path: string,
  called: Set<string>,
  report: Report
): Array<Part> => {
  const parts: Array<Part> = []
  for (const [at, block] of blocks.entries()) {
    const blockPath = `${path}[${at}]`
    switch (block["type"]) {
      case "text":
        if (requireText(block, blockPath, report)) parts.push(decodeText(block))
        break
      case "thinking":
      case "redacted_thinking":
        parts.push(decodeThinking(block))
        break
      case "tool_use": {
        const part = decodeToolUse(block)
        if (part === undefined) report.refuse(blockPath, "a tool_use needs an \"id\" and a \"name\"")
        else if (!isJson(block["input"])) report.refuse(`${blockPath}.input`, "an object is required")
        else {
          called.add(part.id)
          parts.push(part)
        }
        break
      }
      default:
        parts.push(opaque(block))
    }
  }
  return parts
}

interface UserParts {
  readonly results: Array<Part>
  readonly rest: Array<Part>
}

const decodeUser = (
  blocks: ReadonlyArray<Json>,
  path: string,
  called: ReadonlySet<string>,
  report: Report
): UserParts => {
  const results: Array<Part> = []
  const rest: Array<Part> = []
  for (const [at, block] of blocks.entries()) {
    const blockPath = `${path}[${at}]`
    let part: Part | "opaque" | undefined
    switch (block["type"]) {
      case "text":
        part = requireText(block, blockPath, report) ? decodeText(block) : undefined
        break
      case "image":
        part = decodeImage(block, blockPath, report)
        break
      case "document":
        part = decodeDocument(block, blockPath, report)
        break
      case "tool_result":
        part = decodeResult(block, blockPath, called, report)
        if (part !== undefined) results.push(part)
        continue
      case "tool_use":
        part = report.refuse(blockPath, "a user message cannot hold a tool_use")
        break
      default:
        part = "opaque"
    }
    if (part !== undefined) rest.push(part === "opaque" ? opaque(block) : part)
  }
  return { results, rest }
}

const messageKeys = new Set(["role", "content"])

const decodeMessage = (
  message: unknown,
  at: number,
  called: Set<string>,
  messages: Array<Message>,
  report: Report
): void => {
  const path = `messages[${at}]`
  if (!isJson(message)) {
    report.refuse(path, "an object is required")
    return
  }
  const contentPath = `${path}.content`
  const own = unknownFields(message, messageKeys)
  switch (message["role"]) {
    case "user": {
      const { rest, results } = decodeUser(
        blocksOf(message["content"], contentPath, report),
        contentPath,
        called,
        report
      )
      const both = results.length > 0 && rest.length > 0
      if (results.length > 0) messages.push({ role: "tool", content: results, ...(both ? {} : extensions(own)) })
      if (rest.length > 0 || results.length === 0) messages.push({ role: "user", content: rest, ...extensions(own) })
      return
    }
    case "assistant":
      messages.push({
        role: "assistant",
        content: decodeAssistant(blocksOf(message["content"], contentPath, report), contentPath, called, report),
        ...extensions(own)
      })
      return
    case "system":
      // The 2026-10-21 version of the API has system messages inside the conversation.
      messages.push({
        role: "system",
        content: decodeSystem(message["content"], contentPath, report),
        ...extensions({ ...own, mid_conversation: true })
      })
      return
    default:
      report.refuse(`${path}.role`, "must be \"user\" or \"assistant\"")
  }
}

const decodeSystem = (system: unknown, path: string, report: Report): Array<Part> => {
  const parts: Array<Part> = []
  for (const [at, block] of blocksOf(system, path, report).entries()) {
    const blockPath = `${path}[${at}]`
    if (block["type"] !== "text") report.refuse(blockPath, "only text blocks are possible here")
    else if (requireText(block, blockPath, report)) parts.push(decodeText(block))
  }
  return parts
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools
// ---------------------------------------------------------------------------------------------------------------------

const toolKeys = new Set(["type", "name", "description", "input_schema", "strict", "cache_control"])

const decodeTool = (tool: unknown, path: string, report: Report): Tool | undefined => {
  if (!isJson(tool)) return report.refuse(path, "an object is required")
  const type = tool["type"]
  if (type !== undefined && type !== null && type !== "custom") return { type: "opaque", wire, value: tool }
  const name = filled(tool["name"])
  const schema = tool["input_schema"]
  if (name === undefined) return report.refuse(`${path}.name`, "a string is required")
  if (!isJson(schema)) return report.refuse(`${path}.input_schema`, "an object is required")
  const description = optionalString(tool, "description", `${path}.`, report)
  const strict = optionalBoolean(tool, "strict", `${path}.`, report)
  return {
    type: "unified",
    name,
    parameters: schema,
    ...(description === undefined ? {} : { description }),
    ...(strict === undefined ? {} : { strict }),
    ...keyed(tool, toolKeys)
  }
}

const decodeTools = (tools: unknown, report: Report): ReadonlyArray<Tool> => {
  if (!isList(tools)) {
    report.refuse("tools", "an array is required")
    return []
  }
  const decoded: Array<Tool> = []
  for (const [at, tool] of tools.entries()) {
    const one = decodeTool(tool, `tools[${at}]`, report)
    if (one !== undefined) decoded.push(one)
  }
  return decoded
}

const decodeToolChoice = (choice: unknown, report: Report): ToolChoice | undefined => {
  if (!isJson(choice)) return report.refuse("tool_choice", "an object is required")
  switch (choice["type"]) {
    case "auto":
    case "none":
      return { type: choice["type"] }
    case "any":
      return { type: "required" }
    case "tool": {
      const name = filled(choice["name"])
      return name === undefined ? report.refuse("tool_choice.name", "a string is required") : { type: "tool", name }
    }
    default:
      return report.refuse("tool_choice.type", "must be \"auto\", \"any\", \"tool\" or \"none\"")
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Parameters
// ---------------------------------------------------------------------------------------------------------------------

const efforts = ["low", "medium", "high", "xhigh", "max"] as const

const effortOf = (value: unknown): (typeof efforts)[number] | undefined => efforts.find((effort) => effort === value)

interface Wish {
  readonly reasoning?: Reasoning
  /** What stays of `thinking` for this wire; null where an effort came without any `thinking`. */
  readonly native?: Json | null
}

const thinkingKeys = new Set(["type", "budget_tokens"])

const decodeThinkingConfig = (
  thinking: unknown,
  effort: (typeof efforts)[number] | undefined,
  report: Report
): Wish => {
  const worded = effort === undefined ? {} : { effort }
  if (thinking === undefined || thinking === null) {
    return effort === undefined ? {} : { reasoning: { effort }, native: null }
  }
  if (!isJson(thinking)) {
    report.refuse("thinking", "an object is required")
    return {}
  }
  const fields = unknownFields(thinking, thinkingKeys)
  const native = fields === undefined ? {} : { native: fields }
  switch (thinking["type"]) {
    case "enabled": {
      const budgetTokens = thinking["budget_tokens"]
      if (typeof budgetTokens !== "number" || !Number.isSafeInteger(budgetTokens) || budgetTokens < 1024) {
        report.refuse("thinking.budget_tokens", "a whole number of at least 1024 is required")
        return {}
      }
      return { reasoning: { enabled: true, budgetTokens, ...worded }, ...native }
    }
    case "adaptive":
      return { reasoning: { enabled: true, ...worded }, ...native }
    case "disabled":
      return { reasoning: { enabled: false, ...worded }, ...native }
    default:
      if (typeof thinking["type"] !== "string") report.refuse("thinking.type", "a string is required")
      return { native: thinking, ...(effort === undefined ? {} : { reasoning: { effort } }) }
  }
}

const numberIn = (json: Json, key: string, minimum: number, maximum: number, report: Report): number | undefined => {
  const value = json[key]
  if (value === undefined || value === null) return undefined
  if (typeof value === "number" && value >= minimum && value <= maximum) return value
  return report.refuse(key, `a number from ${minimum} to ${maximum} is required`)
}

const unset = (json: Json, key: string): boolean => json[key] === -1

const decodeTopK = (json: Json, report: Report): number | undefined => {
  if (json["top_k"] === 0) return undefined
  const topK = unset(json, "top_k") ? undefined : numberIn(json, "top_k", 1, Number.MAX_SAFE_INTEGER, report)
  return topK !== undefined && !Number.isInteger(topK) ? report.refuse("top_k", "a whole number is required") : topK
}

const decodeStop = (stop: unknown, report: Report): ReadonlyArray<string> | undefined => {
  if (stop === undefined || stop === null) return undefined
  if (!isList(stop)) return report.refuse("stop_sequences", "an array of strings is required")
  const sequences: Array<string> = []
  for (const [at, sequence] of stop.entries()) {
    if (typeof sequence === "string") sequences.push(sequence)
    else report.refuse(`stop_sequences[${at}]`, "a string is required")
  }
  return sequences.length === 0 ? undefined : sequences
}

const decodeFormat = (config: Json | undefined, report: Report): ResponseSchema | undefined => {
  const format = config?.["format"]
  if (format === undefined || format === null) return undefined
  if (!isJson(format) || format["type"] !== "json_schema" || !isJson(format["schema"])) {
    return report.refuse("output_config.format", "must be {\"type\": \"json_schema\", \"schema\": {…}}")
  }
  return { type: "json_schema", schema: format["schema"] }
}

const bodyKeys = new Set([
  "model",
  "messages",
  "system",
  "max_tokens",
  "tools",
  "tool_choice",
  "stop_sequences",
  "stream",
  "temperature",
  "top_p",
  "top_k",
  "metadata",
  "thinking",
  "output_config",
  "service_tier"
])
const configKeys = new Set(["effort", "format"])
const metadataKeys = new Set(["user_id"])

/** The fields of a body that stay with this wire: the unknown ones, and what known objects hold beside known fields. */
const remaining = (json: Json, config: Json | undefined, native: Json | null | undefined): Json | undefined => {
  const fields = unknownFields(json, bodyKeys)
  const metadata = isJson(json["metadata"]) ? unknownFields(json["metadata"], metadataKeys) : undefined
  let configRest = config === undefined ? undefined : unknownFields(config, configKeys)
  // An effort that the sdk does not know is still Anthropic's to judge.
  if (typeof config?.["effort"] === "string" && effortOf(config["effort"]) === undefined) {
    configRest = { ...configRest, effort: config["effort"] }
  }
  if (fields === undefined && metadata === undefined && configRest === undefined && native === undefined) {
    return undefined
  }
  return {
    ...fields,
    ...(metadata === undefined ? {} : { metadata }),
    ...(configRest === undefined ? {} : { output_config: configRest }),
    ...(native === undefined ? {} : { thinking: native })
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Request
// ---------------------------------------------------------------------------------------------------------------------

const decodeMessages = (json: Json, report: Report): ReadonlyArray<Message> => {
  const messages: Array<Message> = []
  if (json["system"] !== undefined && json["system"] !== null) {
    messages.push({ role: "system", content: decodeSystem(json["system"], "system", report) })
  }
  const given = json["messages"]
  if (!isList(given) || given.length === 0) {
    report.refuse("messages", "an array of at least one message is required")
    return messages
  }
  const called = new Set<string>()
  for (const [at, message] of given.entries()) decodeMessage(message, at, called, messages, report)
  return messages
}

const decodeMaxTokens = (json: Json, isRequired: boolean, report: Report): number | undefined => {
  const value = json["max_tokens"]
  if (!isRequired && absent(value)) return undefined
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0
    ? value
    : report.refuse("max_tokens", "a whole number of at least 1 is required")
}

const decodeUserId = (json: Json, report: Report): string | undefined => {
  const metadata = json["metadata"]
  if (metadata === undefined || metadata === null) return undefined
  if (!isJson(metadata)) return report.refuse("metadata", "an object is required")
  const user = optionalString(metadata, "user_id", "metadata.", report)
  return user === "" ? undefined : user
}

const unreadable = new ValidationError({ message: "the request is not valid" })

/** Reads a Messages request. Fails with a `ValidationError` that holds up to 16 located problems. */
export const decodeRequest = (json: unknown): Result.Result<ChatRequest, ValidationError> => decode(json, true)

/** Reads a request to count tokens: a Messages request that has no answer, and so needs no `max_tokens`. */
export const decodeCountRequest = (json: unknown): Result.Result<ChatRequest, ValidationError> => decode(json, false)

const decode = (json: unknown, hasAnswer: boolean): Result.Result<ChatRequest, ValidationError> => {
  const report = makeReport()
  if (!isJson(json)) {
    report.refuse("", "the body must be a JSON object")
    return Result.fail(report.error() ?? unreadable)
  }
  // The interceptors, limits and estimates see what the request holds, and a fallback could not know the rest.
  if (!absent(json["thread"])) {
    report.refuse("thread", "the gateway keeps no conversations; send all messages with every request")
  }
  const model = filled(json["model"]) ?? report.refuse("model", "a string is required")
  const [first, ...following] = decodeMessages(json, report)
  const maxOutputTokens = decodeMaxTokens(json, hasAnswer, report)
  const tools = json["tools"] === undefined || json["tools"] === null ? undefined : decodeTools(json["tools"], report)
  const givenChoice = json["tool_choice"] ?? undefined
  const toolChoice = givenChoice === undefined ? undefined : decodeToolChoice(givenChoice, report)
  const serial = isJson(givenChoice)
    ? optionalBoolean(givenChoice, "disable_parallel_tool_use", "tool_choice.", report)
    : undefined
  const givenConfig = json["output_config"] ?? undefined
  if (givenConfig !== undefined && !isJson(givenConfig)) report.refuse("output_config", "an object is required")
  const config = isJson(givenConfig) ? givenConfig : undefined
  const responseSchema = decodeFormat(config, report)
  const { native, reasoning } = decodeThinkingConfig(json["thinking"], effortOf(config?.["effort"]), report)
  const temperature = numberIn(json, "temperature", 0, 1, report)
  const topP = unset(json, "top_p") ? undefined : numberIn(json, "top_p", 0, 1, report)
  const topK = decodeTopK(json, report)
  const stop = decodeStop(json["stop_sequences"], report)
  const user = decodeUserId(json, report)
  const tier = optionalString(json, "service_tier", "", report)
  const stream = optionalBoolean(json, "stream", "", report)
  const error = report.error()
  if (error !== undefined || model === undefined || first === undefined) return Result.fail(error ?? unreadable)
  return Result.succeed({
    model,
    messages: [first, ...following],
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    ...(tools === undefined ? {} : { tools }),
    ...(toolChoice === undefined ? {} : { toolChoice }),
    ...(serial === undefined ? {} : { parallelToolCalls: !serial }),
    ...(responseSchema === undefined ? {} : { responseSchema }),
    ...(reasoning === undefined ? {} : { reasoning }),
    ...(temperature === undefined ? {} : { temperature }),
    ...(topP === undefined ? {} : { topP }),
    ...(topK === undefined ? {} : { topK }),
    ...(stop === undefined ? {} : { stop }),
    ...(user === undefined ? {} : { user }),
    ...(tier === undefined ? {} : { serviceTier: tier === "standard_only" ? "default" : tier }),
    ...(stream === undefined ? {} : { stream }),
    ...extensions(remaining(json, config, native))
  })
}
