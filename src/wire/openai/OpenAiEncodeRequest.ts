/**
 * Writes a chat request for an upstream that speaks OpenAI's chat wire. What `OpenAiDecodeRequest` kept in
 * `extensions.openai` goes back to the level where it stood. What the wire has no form for is refused with its path,
 * where leaving it out would change what the model is asked, or named in `dropped`, where it would not.
 *
 * Normalisations, all of them equal to OpenAI: content of one plain text part is written as a string; `null` for an
 * optional field is left out; `max_tokens` beside `max_completion_tokens` is left out; a streamed request always asks
 * for usage.
 */
import { Result } from "effect"
import type { ChatRequest, Message } from "../../sdk/Chat.ts"
import type {
  CacheControl,
  DocumentPart,
  Extensions,
  MediaSource,
  Part,
  ReasoningPart,
  ToolResultPart
} from "../../sdk/Content.ts"
import type { ValidationError } from "../../sdk/GatewayError.ts"
import { can } from "../../sdk/Model.ts"
import type { ChatCall } from "../../sdk/Provider.ts"
import type { ResolvedTool } from "../../sdk/Tool.ts"
import type { EncodedRequest, Json } from "../Codec.ts"
import { foreignBlock, foreignTool } from "../Foreign.ts"
import { reportForeign } from "../ForeignExtensions.ts"
import { isJson, object } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { merge, ownExtensions, wire } from "./OpenAiExtensions.ts"
import { audioFormat, dataUrl, madeName } from "./OpenAiMedia.ts"
import { effortOf } from "./OpenAiReasoning.ts"

/**
 * OpenAI caches by itself and knows no breakpoints, and may refuse the field; so it is sent only where the caller
 * put it in this wire's own form, which the extensions tell (compatible servers do read it).
 */
const noteCacheControl = (
  value: { readonly cacheControl?: CacheControl; readonly extensions?: Extensions },
  message: Message | undefined,
  report: Report,
  name: string
): void => {
  if (
    value.cacheControl !== undefined && ownExtensions(value)?.["cache_control"] === undefined &&
    (message === undefined || ownExtensions(message)?.["cache_control"] === undefined)
  ) report.drop(name)
}

// ---------------------------------------------------------------------------------------------------------------------
// Parts
// ---------------------------------------------------------------------------------------------------------------------

const unresolved = "is in the gateway's file storage and must be resolved before it is sent"

/** The URL for media that the wire takes by address or inline. */
const urlOf = (source: MediaSource, path: string, report: Report): string | undefined => {
  switch (source.type) {
    case "url":
      return source.url
    case "base64":
      return dataUrl(source.mediaType, source.data)
    case "file":
      return report.refuse(path, unresolved)
    default:
      return report.refuse(
        path,
        source.wire === wire
          ? "OpenAI chat takes this kind of media by URL or inline, not by file id"
          : `is a file of the ${source.wire} wire, which the ${wire} wire cannot read`
      )
  }
}

const encodeDocument = (part: DocumentPart, path: string, report: Report): Record<string, unknown> | undefined => {
  const { source } = part
  if (part.citations === true) report.drop("messages[].content[].citations")
  if (part.context !== undefined) report.drop("messages[].content[].context")
  const named = source.type !== "text" && part.filename === undefined
  if (part.title !== undefined && !named) report.drop("messages[].content[].title")
  const name = part.filename ?? part.title
  switch (source.type) {
    case "text":
      return { type: "text", text: source.text }
    case "base64": {
      // OpenAI wants a name with inline data.
      const filename = name ?? madeName(source.mediaType)
      return { type: "file", file: { filename, file_data: dataUrl(source.mediaType, source.data) } }
    }
    case "url": {
      const kept = ownExtensions(part)?.["file"]
      return isJson(kept) && (kept["file_url"] === source.url || kept["file_data"] === source.url)
        ? { type: "file", file: name === undefined ? {} : { filename: name } }
        : report.refuse(path, "OpenAI chat takes documents inline or by file id, not by URL")
    }
    case "provider_file":
      return source.wire === wire
        ? { type: "file", file: { file_id: source.id, ...(name === undefined ? {} : { filename: name }) } }
        : report.refuse(path, `is a file of the ${source.wire} wire, which the ${wire} wire cannot read`)
    default:
      return report.refuse(path, unresolved)
  }
}

const encodeBarePart = (part: Part, path: string, report: Report): Record<string, unknown> | undefined => {
  switch (part.type) {
    case "text":
      if (part.citations !== undefined && part.citations.length > 0) {
        report.drop("messages[].content[].citations")
      }
      return { type: "text", text: part.text }
    case "image": {
      const url = urlOf(part.source, path, report)
      return url === undefined
        ? undefined
        : { type: "image_url", image_url: { url, ...(part.detail === undefined ? {} : { detail: part.detail }) } }
    }
    case "video": {
      const url = urlOf(part.source, path, report)
      return url === undefined ? undefined : { type: "video_url", video_url: { url } }
    }
    case "audio": {
      const { source } = part
      if (source.type !== "base64") {
        if (source.type === "url") return report.refuse(path, "OpenAI chat takes audio inline, not by URL")
        urlOf(source, path, report)
        return undefined
      }
      const kept = ownExtensions(part)?.["input_audio"]
      const format = audioFormat(source.mediaType) ?? (isJson(kept) ? kept["format"] : undefined)
      return format === undefined
        ? report.refuse(path, `OpenAI chat takes wav and mp3 audio, not ${source.mediaType.slice(0, 64)}`)
        : { type: "input_audio", input_audio: { data: source.data, format } }
    }
    case "document":
      return encodeDocument(part, path, report)
    case "refusal":
      return { type: "refusal", refusal: part.text }
    case "opaque":
      return part.wire === wire
        ? { ...part.value }
        : report.refuse(
          path,
          `${foreignBlock(part.value)} is of the ${part.wire} wire, which the ${wire} wire cannot express`
        )
    case "reasoning":
      report.drop("messages[].content[].reasoning")
      return undefined
    case "tool_call":
      return report.refuse(path, "a tool call can stand in an assistant message only")
    default:
      return report.refuse(path, "a tool result can stand in a tool or user message only")
  }
}

const encodePart = (
  part: Part,
  message: Message,
  path: string,
  report: Report
): Record<string, unknown> | undefined => {
  if ("cacheControl" in part) noteCacheControl(part, message, report, "messages[].content[].cache_control")
  const bare = encodeBarePart(part, path, report)
  if (bare === undefined || part.type === "opaque") return bare
  return merge(bare, ownExtensions(part))
}

/** A list of parts as content: a string where it is one plain text. */
const contentOf = (parts: ReadonlyArray<Json>): string | ReadonlyArray<Json> => {
  const only = parts[0]
  if (parts.length === 0) return ""
  if (parts.length === 1 && only !== undefined && only["type"] === "text" && Object.keys(only).length === 2) {
    const { text } = only
    if (typeof text === "string") return text
  }
  return parts
}

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

const messageFields: ReadonlySet<string> = new Set(["role", "content"])

const withMessage = (bare: Record<string, unknown>, message: Message): Json => {
  if (message.name !== undefined) bare["name"] = message.name
  return merge(bare, ownExtensions(message), messageFields)
}

/**
 * Only thinking that this wire's upstreams made themselves goes back to them: text as the field it came in, and details
 * exactly as they came. Another provider's signed thinking means nothing to them.
 */
const encodeReasoningParts = (
  parts: ReadonlyArray<ReasoningPart>,
  bare: Record<string, unknown>,
  report: Report
): void => {
  const details: Array<Json> = []
  let text = ""
  let field = "reasoning_content"
  for (const part of parts) {
    const own = ownExtensions(part)
    const detail = own?.["detail"]
    if (isJson(detail)) details.push(detail)
    else if (part.wire === wire && part.text !== undefined && part.data === undefined) {
      text += part.text
      if (part.signature !== undefined) report.drop("messages[].content[].signature")
      if (own?.["field"] === "reasoning") field = "reasoning"
    } else report.drop("messages[].content[].reasoning")
  }
  if (text !== "") bare[field] = text
  if (details.length > 0) bare["reasoning_details"] = details
  // A turn of which nothing can be told is a silent one: OpenAI refuses null where no call stands in its place.
  else if (text === "" && parts.length > 0 && Object.keys(bare).length === 2 && bare["content"] === null) {
    bare["content"] = ""
  }
}

const encodeAssistant = (message: Message, at: string, moved: Array<Json>, report: Report): Json => {
  const content: Array<Record<string, unknown>> = []
  const calls: Array<Json> = []
  const reasoning: Array<ReasoningPart> = []
  const bare: Record<string, unknown> = { role: "assistant", content: null }
  let refusals = 0
  for (let index = 0; index < message.content.length; index++) {
    const part = message.content[index]
    if (part === undefined) continue
    const path = `${at}.content[${index}]`
    switch (part.type) {
      case "reasoning":
        reasoning.push(part)
        continue
      case "tool_call":
        noteCacheControl(part, message, report, "messages[].content[].cache_control")
        calls.push(
          merge(
            { id: part.id, type: "function", function: { name: part.name, arguments: part.arguments } },
            ownExtensions(part)
          )
        )
        continue
      case "opaque":
        if (part.wire === wire && part.value["type"] === "custom") {
          calls.push(part.value)
          continue
        }
        break
      case "audio": {
        // Audio that the model spoke goes back by its id alone.
        const { id, source } = part
        const known = source.type === "provider_file" && source.wire === wire ? source.id : id
        if (known !== undefined && source.type !== "file") {
          bare["audio"] = merge({ id: known }, object(ownExtensions(part)?.["audio"]))
          continue
        }
        break
      }
      case "refusal":
        refusals++
        break
      default:
    }
    const encoded = encodePart(part, message, path, report)
    if (encoded === undefined) continue
    // An assistant message holds text only; what the model made otherwise is shown to it in the next user message.
    if (part.type === "image" || part.type === "video" || part.type === "document" || part.type === "audio") {
      moved.push({ type: "text", text: "The assistant's answer included:" }, encoded)
    } else content.push(encoded)
  }
  if (refusals === 1 && content.length === 1) bare["refusal"] = content[0]?.["refusal"]
  else if (content.length > 0) bare["content"] = contentOf(content)
  if (calls.length > 0) bare["tool_calls"] = calls
  encodeReasoningParts(reasoning, bare, report)
  return withMessage(bare, message)
}

/** One tool message for one result. Its media, which OpenAI takes in user messages only, are moved to the next of those. */
const encodeToolResult = (
  part: ToolResultPart,
  message: Message,
  path: string,
  moved: Array<Json>,
  report: Report
): Record<string, unknown> => {
  if (part.isError === true) report.drop("messages[].content[].is_error")
  noteCacheControl(part, message, report, "messages[].content[].cache_control")
  const content: Array<Json> = []
  const media: Array<Json> = []
  for (let index = 0; index < part.content.length; index++) {
    const inner = part.content[index]
    if (inner === undefined) continue
    const encoded = encodePart(inner, message, `${path}.content[${index}]`, report)
    if (encoded === undefined) continue
    if (encoded["type"] === "text") content.push(encoded)
    else media.push(encoded)
  }
  if (media.length > 0) {
    moved.push({ type: "text", text: `Output of tool call ${part.toolCallId}:` }, ...media)
    if (content.length === 0) content.push({ type: "text", text: "The output follows in the next user message." })
  }
  return merge(
    { role: "tool", tool_call_id: part.toolCallId, content: contentOf(content) },
    ownExtensions(part)
  )
}

const encodeMessages = (messages: ReadonlyArray<Message>, report: Report): ReadonlyArray<Json> => {
  const written: Array<Json> = []
  // Media waiting for the next user message: between parallel tool messages there must be no other message.
  let moved: Array<Json> = []
  const flush = () => {
    if (moved.length > 0) written.push({ role: "user", content: moved })
    moved = []
  }
  for (let index = 0; index < messages.length && !report.isFull(); index++) {
    const message = messages[index]
    if (message === undefined) continue
    const at = `messages[${index}]`
    const answers = message.role === "tool" || message.content.some((part) => part.type === "tool_result")
    if (message.role === "assistant") {
      flush()
      written.push(encodeAssistant(message, at, moved, report))
      continue
    }
    if (!answers) flush()
    const others: Array<Json> = []
    let results = 0
    for (const part of message.content) if (part.type === "tool_result") results++
    for (let inner = 0; inner < message.content.length; inner++) {
      const part = message.content[inner]
      if (part === undefined) continue
      const path = `${at}.content[${inner}]`
      if (part.type === "tool_result") {
        const bare = encodeToolResult(part, message, path, moved, report)
        written.push(results === 1 && message.role === "tool" ? withMessage(bare, message) : bare)
      } else if (message.role === "tool" && part.type === "opaque" && part.wire === wire && "role" in part.value) {
        written.push(part.value)
      } else {
        const encoded = encodePart(part, message, path, report)
        if (encoded !== undefined) others.push(encoded)
      }
    }
    if (answers && others.length > 0) flush()
    if (!answers || others.length > 0) {
      const role = message.role === "tool" ? "user" : message.role
      written.push(withMessage({ role, content: contentOf(others) }, message))
    }
  }
  flush()
  return written
}

// ---------------------------------------------------------------------------------------------------------------------
// Request
// ---------------------------------------------------------------------------------------------------------------------

const encodeTool = (tool: ResolvedTool, index: number, report: Report): Json | undefined => {
  if (tool.type === "opaque") {
    return tool.wire === wire
      ? tool.value
      : report.refuse(
        `tools[${index}]`,
        `${foreignTool(tool.value)} is of the ${tool.wire} wire, which the ${wire} wire cannot express`
      )
  }
  noteCacheControl(tool, undefined, report, "tools[].cache_control")
  return merge({
    type: "function",
    function: {
      name: tool.name,
      ...(tool.description === undefined ? {} : { description: tool.description }),
      ...(tool.parameters === undefined ? {} : { parameters: tool.parameters }),
      ...(tool.strict === undefined ? {} : { strict: tool.strict })
    }
  }, ownExtensions(tool))
}

const encodeToolChoice = (choice: NonNullable<ChatRequest["toolChoice"]>): unknown => {
  switch (choice.type) {
    case "tool":
      return { type: "function", function: { name: choice.name } }
    case "allowed":
      return {
        type: "allowed_tools",
        allowed_tools: {
          mode: choice.mode,
          tools: choice.names.map((name) => ({ type: "function", function: { name } }))
        }
      }
    default:
      return choice.type
  }
}

const encodeResponseSchema = (schema: NonNullable<ChatRequest["responseSchema"]>): Json =>
  schema.type === "json_object" ? { type: "json_object" } : {
    type: "json_schema",
    json_schema: {
      name: schema.name ?? "response",
      ...(schema.description === undefined ? {} : { description: schema.description }),
      schema: schema.schema,
      ...(schema.strict === undefined ? {} : { strict: schema.strict })
    }
  }

const encodeReasoning = (call: ChatCall, body: Record<string, unknown>, report: Report): void => {
  const { reasoning } = call.request
  if (reasoning === undefined) return
  if (reasoning.effort !== undefined) {
    body["reasoning_effort"] = reasoning.effort
    if (reasoning.budgetTokens !== undefined) report.drop("reasoning.budget_tokens")
    return
  }
  // An effort that was only derived must not make a model fail that knows none.
  const able = can(call.model, "reasoning")
  if (reasoning.budgetTokens !== undefined && reasoning.enabled !== false) {
    report.drop("reasoning.budget_tokens")
    if (able) body["reasoning_effort"] = effortOf(reasoning.budgetTokens)
  } else if (reasoning.enabled === false) {
    if (able && call.model.capabilities !== undefined) body["reasoning_effort"] = "none"
    else if (able) report.drop("reasoning.enabled")
  } else if (reasoning.enabled === true) report.drop("reasoning.enabled")
}

/** Fields that extensions never set: what the gateway decides, and what it counts with. */
const reserved: ReadonlySet<string> = new Set([
  "model",
  "messages",
  "stream",
  "stream_options",
  "n",
  "stop",
  "max_tokens",
  "max_completion_tokens",
  "top_k",
  "min_p",
  "repetition_penalty"
])

/** Writes the body of a request; fails with what this wire cannot say, located in the request's own spelling. */
export const encodeRequest = (call: ChatCall, stream: boolean): Result.Result<EncodedRequest, ValidationError> => {
  const { request } = call
  const extensions = ownExtensions(request)
  const report = makeReport()
  const body: Record<string, unknown> = {
    model: call.model.model,
    messages: encodeMessages(request.messages, report)
  }
  const set = (key: string, value: unknown): void => {
    if (value !== undefined) body[key] = value
  }
  if (request.tools !== undefined) {
    const tools: Array<Json> = []
    for (let index = 0; index < request.tools.length; index++) {
      const tool = request.tools[index]
      const encoded = tool === undefined ? undefined : encodeTool(tool, index, report)
      if (encoded !== undefined) tools.push(encoded)
    }
    body["tools"] = tools
  }
  if (request.toolChoice !== undefined) body["tool_choice"] = encodeToolChoice(request.toolChoice)
  set("parallel_tool_calls", request.parallelToolCalls)
  if (request.responseSchema !== undefined) body["response_format"] = encodeResponseSchema(request.responseSchema)
  set(extensions?.["max_tokens"] === undefined ? "max_completion_tokens" : "max_tokens", request.maxOutputTokens)
  set("temperature", request.temperature)
  set("top_p", request.topP)
  set("frequency_penalty", request.frequencyPenalty)
  set("presence_penalty", request.presencePenalty)
  set("seed", request.seed)
  if (request.stop !== undefined) {
    const single = request.stop.length === 1 && typeof extensions?.["stop"] === "string"
    body["stop"] = single ? request.stop[0] : request.stop
  }
  set("n", request.n)
  set("logprobs", request.logprobs)
  set("top_logprobs", request.topLogprobs)
  set("logit_bias", request.logitBias)
  // A safety identifier was read as the user, and goes back as what it was.
  if (request.user !== extensions?.["safety_identifier"]) set("user", request.user)
  set("metadata", request.metadata)
  set("service_tier", request.serviceTier)
  encodeReasoning(call, body, report)

  // Not documented by OpenAI: written only where the caller used this wire's own spelling of them.
  const convention = (key: string, value: number | undefined, name: string): void => {
    if (extensions !== undefined && extensions[key] !== undefined) set(key, value ?? extensions[key])
    else if (value !== undefined) report.drop(name)
  }
  convention("top_k", request.topK, "top_k")
  convention("min_p", request.minP, "min_p")
  convention("repetition_penalty", request.repeatPenalty, "repeat_penalty")

  if (stream) {
    const options = extensions?.["stream_options"]
    body["stream"] = true
    // Usage is always asked for, since the accounting needs it; the stream encoder keeps it from callers who did not ask.
    body["stream_options"] = { ...(isJson(options) ? options : {}), include_usage: true }
  } else if (request.stream !== undefined) body["stream"] = false
  merge(body, extensions, reserved)
  reportForeign(request, wire, report)
  const error = report.error()
  return error === undefined ? Result.succeed({ body, dropped: report.dropped() }) : Result.fail(error)
}
