/**
 * The sdk's chat request as the body of Ollama's `POST /api/chat` (https://docs.ollama.com/api/chat, `api/types.go`).
 *
 * Ollama's messages are flat: one string of content, images beside it as bare base64, tool calls with their arguments as
 * an object, and one message for each tool result. What has no such form is refused with its path where the
 * conversation would lose content, and named in `dropped` where it is a parameter or a hint.
 *
 * Normalised on the way: text parts are joined (an assistant's as they are, others with a line break), `developer`
 * becomes `system`, refusals and text documents become text, tool results come before what else stands in their message.
 */
import { Result } from "effect"
import { Base64 } from "effect/encoding"
import type { Message } from "../../sdk/Chat.ts"
import type { DocumentPart, ImagePart, Part, ToolResultPart } from "../../sdk/Content.ts"
import { invalid, type ValidationError } from "../../sdk/GatewayError.ts"
import { can } from "../../sdk/Model.ts"
import type { ChatCall } from "../../sdk/Provider.ts"
import type { ResolvedTool } from "../../sdk/Tool.ts"
import type { EncodedRequest, Json } from "../Codec.ts"
import { foreignBlock, foreignTool } from "../Foreign.ts"
import { reportForeign } from "../ForeignExtensions.ts"
import { contextFor } from "./OllamaEstimate.ts"
import { isJson, parseJson } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { wire } from "./OllamaExtensions.ts"

// ---------------------------------------------------------------------------------------------------------------------
// State of one encoding
// ---------------------------------------------------------------------------------------------------------------------

/** What one encoding knows. */
export interface Context {
  readonly report: Report
  /** Names of the tools called so far, by the call's id: Ollama's tool messages name the tool. */
  readonly calls: Map<string, string>
}

/** Fields that decide what is called and how the answer comes; extensions may not replace them. */
const ownFields = new Set(["model", "messages", "stream", "tools", "prompt", "system", "images", "suffix"])

// ---------------------------------------------------------------------------------------------------------------------
// Content
// ---------------------------------------------------------------------------------------------------------------------

const textual = /^(?:text\/|application\/(?:json|xml)\b)/i

const documentText = (part: DocumentPart, path: string, context: Context): string => {
  if (part.title !== undefined) context.report.drop("messages[].content[].title")
  if (part.context !== undefined) context.report.drop("messages[].content[].context")
  if (part.filename !== undefined) context.report.drop("messages[].content[].filename")
  if (part.citations === true) context.report.drop("messages[].content[].citations")
  if (part.source.type === "text") return part.source.text
  if (part.source.type === "base64" && textual.test(part.source.mediaType)) {
    const bytes = Base64.decode(part.source.data)
    if (Result.isSuccess(bytes)) return new TextDecoder().decode(bytes.success)
  }
  context.report.refuse(path, "Ollama takes documents as plain text only")
  return ""
}

const imageData = (part: ImagePart, path: string, context: Context): string => {
  if (part.detail !== undefined && part.detail !== "auto") context.report.drop("messages[].content[].detail")
  if (part.source.type === "base64") return part.source.data
  context.report.refuse(
    `${path}.source`,
    part.source.type === "url"
      ? "this provider takes no URLs, only images given inline as base64"
      : "this provider takes images only inline as base64"
  )
  return ""
}

/** What the parts of one message come to. */
export interface Flat {
  readonly texts: Array<string>
  readonly images: Array<string>
  readonly thinking: Array<string>
  readonly calls: Array<Json>
}

/** Nothing yet. */
export const flat = (): Flat => ({ texts: [], images: [], thinking: [], calls: [] })

/** Adds a part to what its message comes to. */
export const addPart = (into: Flat, part: Exclude<Part, ToolResultPart>, path: string, context: Context): void => {
  if ("cacheControl" in part) context.report.drop("messages[].content[].cache_control")
  switch (part.type) {
    case "text":
      if (part.citations !== undefined) context.report.drop("messages[].content[].citations")
      into.texts.push(part.text)
      break
    case "refusal":
      into.texts.push(part.text)
      break
    case "image":
      into.images.push(imageData(part, path, context))
      break
    case "document":
      into.texts.push(documentText(part, path, context))
      break
    case "reasoning":
      if (part.text === undefined) context.report.drop("messages[].content[].reasoning")
      else {
        if (part.signature !== undefined) context.report.drop("messages[].content[].signature")
        if (part.data !== undefined) context.report.drop("messages[].content[].data")
        into.thinking.push(part.text)
      }
      break
    case "tool_call": {
      context.calls.set(part.id, part.name)
      const parsed: unknown = part.arguments.trim() === "" ? {} : parseJson(part.arguments)
      if (!isJson(parsed)) context.report.refuse(`${path}.arguments`, "must be the JSON text of an object")
      const { function: details, ...own } = part.extensions?.[wire] ?? {}
      into.calls.push({
        ...own,
        id: part.id,
        function: { ...(isJson(details) ? details : {}), name: part.name, arguments: parsed }
      })
      break
    }
    case "audio":
    case "video":
      context.report.refuse(path, `Ollama takes no ${part.type}`)
      break
    case "opaque":
      context.report.refuse(
        path,
        part.wire === wire
          ? "Ollama has no parts of its own"
          : `${foreignBlock(part.value)} belongs to another provider's protocol`
      )
      break
  }
}

/** An assistant's text parts are pieces of one text; those of others are separate things (a question, a document). */
const joinerOf = (role: Message["role"]): string => role === "assistant" ? "" : "\n"

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

const toolMessage = (part: ToolResultPart, own: Json | undefined, path: string, context: Context): Json => {
  if (part.isError === true) context.report.drop("messages[].content[].is_error")
  if (part.cacheControl !== undefined) context.report.drop("messages[].content[].cache_control")
  const content = flat()
  for (const [index, inner] of part.content.entries()) addPart(content, inner, `${path}.content[${index}]`, context)
  const name = context.calls.get(part.toolCallId)
  return {
    ...own,
    ...(name === undefined ? {} : { tool_name: name }),
    ...part.extensions?.[wire],
    role: "tool",
    content: content.texts.join(joinerOf("tool")),
    ...(content.images.length === 0 ? {} : { images: content.images }),
    tool_call_id: part.toolCallId
  }
}

const addMessage = (into: Array<Json>, message: Message, path: string, context: Context): void => {
  if (message.name !== undefined) context.report.drop("messages[].name")
  const own = message.extensions?.[wire]
  const content = flat()
  let results = 0
  let others = 0
  for (const [index, part] of message.content.entries()) {
    const at = `${path}.content[${index}]`
    if (part.type === "tool_result") {
      results++
      into.push(toolMessage(part, own, at, context))
    } else {
      others++
      addPart(content, part, at, context)
    }
  }
  if (results > 0 && others === 0) return
  into.push({
    ...own,
    role: message.role === "developer" ? "system" : message.role,
    content: content.texts.join(joinerOf(message.role)),
    ...(content.thinking.length === 0 ? {} : { thinking: content.thinking.join("") }),
    ...(content.images.length === 0 ? {} : { images: content.images }),
    ...(content.calls.length === 0 ? {} : { tool_calls: content.calls })
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools and parameters
// ---------------------------------------------------------------------------------------------------------------------

const encodeTool = (tool: ResolvedTool, path: string, context: Context): Json => {
  if (tool.type === "opaque") {
    if (tool.wire !== wire) {
      context.report.refuse(path, `${foreignTool(tool.value)} belongs to another provider's protocol`)
    }
    return tool.value
  }
  if (tool.cacheControl !== undefined) context.report.drop("tools[].cache_control")
  if (tool.strict !== undefined) context.report.drop("tools[].strict")
  const { function: details, ...own } = tool.extensions?.[wire] ?? {}
  return {
    ...own,
    type: "function",
    function: {
      ...(isJson(details) ? details : {}),
      name: tool.name,
      ...(tool.description === undefined ? {} : { description: tool.description }),
      parameters: tool.parameters ?? { type: "object", properties: {} }
    }
  }
}

/** The tools to send. Ollama has no `tool_choice`: `none` and `allowed` are done by leaving tools out. */
const encodeTools = (request: ChatCall["request"], context: Context): ReadonlyArray<Json> => {
  const choice = request.toolChoice
  if (choice?.type === "none") return []
  let tools = request.tools ?? []
  if (choice?.type === "allowed") {
    tools = tools.filter((tool) => tool.type === "unified" && choice.names.includes(tool.name))
  }
  if (
    choice?.type === "required" || choice?.type === "tool" || (choice?.type === "allowed" && choice.mode === "required")
  ) {
    context.report.drop("tool_choice")
  }
  return tools.map((tool, index) => encodeTool(tool, `tools[${index}]`, context))
}

/**
 * `think`: true, false, or one of the levels low, medium, high and max. Efforts between the levels take the nearest
 * one, a token budget becomes on or off; both are reported. A model that is known not to think is not asked to.
 */
const encodeThink = (
  { budgetTokens, effort, enabled }: NonNullable<ChatCall["request"]["reasoning"]>,
  model: ChatCall["model"],
  context: Context
): Json => {
  const isOff = enabled === false || effort === "none"
  const isAsked = effort !== undefined || enabled === true || (budgetTokens !== undefined && budgetTokens > 0)
  // Ollama fails a request to think that goes to a model without that ability; clients such as Claude Code always ask.
  if (isAsked && !isOff && !can(model, "reasoning")) {
    context.report.drop("reasoning")
    return {}
  }
  if (budgetTokens !== undefined && budgetTokens > 0) context.report.drop("reasoning.budget_tokens")
  if (isOff) return { think: false }
  switch (effort) {
    case undefined:
      if (enabled === true) return { think: true }
      return budgetTokens === undefined ? {} : { think: budgetTokens > 0 }
    case "minimal":
      context.report.drop("reasoning.effort")
      return { think: "low" }
    case "xhigh":
      context.report.drop("reasoning.effort")
      return { think: "high" }
    default:
      return { think: effort }
  }
}

const encodeFormat = (schema: NonNullable<ChatCall["request"]["responseSchema"]>, context: Context): unknown => {
  if (schema.type === "json_object") return "json"
  // Its name is a label and strictness is what Ollama always does: it constrains sampling by the schema's grammar.
  if (schema.description !== undefined) context.report.drop("response_schema.description")
  return schema.schema
}

const encodeOptions = (call: ChatCall): Json => {
  const { request } = call
  const given = request.extensions?.[wire]?.["options"]
  const own = isJson(given) ? given : {}
  const context = Object.hasOwn(own, "num_ctx") ? undefined : contextFor(call)
  return {
    ...(request.temperature === undefined ? {} : { temperature: request.temperature }),
    ...(request.topP === undefined ? {} : { top_p: request.topP }),
    ...(request.topK === undefined ? {} : { top_k: request.topK }),
    ...(request.minP === undefined ? {} : { min_p: request.minP }),
    ...(request.seed === undefined ? {} : { seed: request.seed }),
    ...(request.stop === undefined ? {} : { stop: request.stop }),
    ...(request.repeatPenalty === undefined ? {} : { repeat_penalty: request.repeatPenalty }),
    ...(request.presencePenalty === undefined ? {} : { presence_penalty: request.presencePenalty }),
    ...(request.frequencyPenalty === undefined ? {} : { frequency_penalty: request.frequencyPenalty }),
    ...(context === undefined ? {} : { num_ctx: context }),
    ...own,
    // Budgets count on this limit, so that no other word for it may lift it.
    ...(request.maxOutputTokens === undefined ? {} : { num_predict: request.maxOutputTokens })
  }
}

/** Reports the parameters that Ollama has no word for. */
const dropParameters = (request: ChatCall["request"], report: Report): void => {
  // Several calls in one turn are what Ollama does anyway, so only the wish for one call is lost.
  if (request.parallelToolCalls === false) report.drop("parallel_tool_calls")
  if (request.logitBias !== undefined) report.drop("logit_bias")
  if (request.user !== undefined) report.drop("user")
  if (request.metadata !== undefined) report.drop("metadata")
  if (request.serviceTier !== undefined) report.drop("service_tier")
}

/** The caller's Ollama fields beside `options`, without those that decide what is called. */
const encodeExtensions = (request: ChatCall["request"], report: Report): Json => {
  const given = request.extensions?.[wire]
  if (given === undefined) return {}
  const entries: Array<[string, unknown]> = []
  for (const key of Object.keys(given)) {
    if (ownFields.has(key)) report.drop(`extensions.${wire}.${key}`)
    else if (key !== "options" || !isJson(given[key])) entries.push([key, given[key]])
  }
  return Object.fromEntries(entries)
}

/** All but the conversation, its tools and how it is answered: the form of the answer, thinking, sampling, Ollama's own fields. */
export const encodeParameters = (call: ChatCall, context: Context): Json => {
  const { request } = call
  const options = encodeOptions(call)
  dropParameters(request, context.report)
  return {
    ...(request.responseSchema === undefined ? {} : { format: encodeFormat(request.responseSchema, context) }),
    ...(request.reasoning === undefined ? {} : encodeThink(request.reasoning, call.model, context)),
    ...(request.logprobs === undefined ? {} : { logprobs: request.logprobs }),
    ...(request.topLogprobs === undefined ? {} : { top_logprobs: request.topLogprobs }),
    ...(Object.keys(options).length === 0 ? {} : { options }),
    ...encodeExtensions(request, context.report)
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The request
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Writes the body of `POST /api/chat`; `stream` always stands in it, because Ollama streams unless told not to.
 *
 * Dropped with report: `tool_choice` where it forces a call, `parallel_tool_calls: false`, `logit_bias`, `user`,
 * `metadata`, `service_tier`, `cache_control`, `is_error`, `strict`, participants' `name`, image `detail`, a document's
 * `title`, `context`, `filename` and `citations`, what only another provider can read in its reasoning, and the fields of
 * other wires.
 * `extensions.ollama` is merged in: its `options` key by key, everything else as it is (`keep_alive`, `truncate`, …).
 * `options.num_ctx` is set where the request may not fit into Ollama's default context; see `contextFor`.
 *
 * Fails with the paths of media that is not inline, of parts and tools of other wires, of tool-call arguments that are
 * not a JSON object, and of `n` above 1.
 */
export const encodeRequest = (call: ChatCall, stream: boolean): Result.Result<EncodedRequest, ValidationError> => {
  const { request } = call
  if (request.n !== undefined && request.n > 1) return Result.fail(invalid("n", "Ollama gives one answer to a request"))
  const context: Context = { report: makeReport(), calls: new Map() }
  const messages: Array<Json> = []
  for (const [index, message] of request.messages.entries()) {
    addMessage(messages, message, `messages[${index}]`, context)
  }
  const tools = encodeTools(request, context)
  const body: Json = {
    model: call.model.model,
    messages,
    stream,
    ...(tools.length === 0 ? {} : { tools }),
    ...encodeParameters(call, context)
  }
  reportForeign(request, wire, context.report)
  const error = context.report.error()
  return error === undefined ? Result.succeed({ body, dropped: context.report.dropped() }) : Result.fail(error)
}
