/**
 * The body of Ollama's `POST /api/chat` as the sdk's chat request.
 *
 * Nothing that the body says is lost: fields and options without a canonical counterpart, and options outside the
 * canonical range (`num_predict: -1`, `top_k: 0`), travel in `extensions.ollama` and are written back by
 * `encodeRequest`. Nulls and `format: ""` count as absent, as they do for the server.
 *
 * Ollama's clients may send tool calls without ids. They get `call_<message>_<position>`, and tool messages are matched to
 * them by `tool_call_id`, else by `tool_name`, else in order; one that answers no call is refused. The ids come from positions, not from chance, so that the same
 * conversation always reads the same, which prompt caches need.
 */
import { Result } from "effect"
import type { ChatRequest, Message } from "../../sdk/Chat.ts"
import { type ImagePart, type Part, text, type ToolResultContent, type ToolResultPart } from "../../sdk/Content.ts"
import { invalid, type ValidationError } from "../../sdk/GatewayError.ts"
import type { Tool } from "../../sdk/Tool.ts"
import type { Json } from "../Codec.ts"
import { imagePart } from "./OllamaImage.ts"
import { absent, isJson, isList, unknownFields } from "../Json.ts"
import { isBase64 } from "../openai/OpenAiMedia.ts"
import { makeReport, type Report } from "../Report.ts"
import { wire } from "./OllamaExtensions.ts"
import { decodeParameters, own, readList, readString } from "./OllamaParameters.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Fields
// ---------------------------------------------------------------------------------------------------------------------

const requestFields = new Set(["messages", "tools"])
const messageFields = new Set(["role", "content", "thinking", "images", "tool_calls"])
const toolMessageFields = new Set(["role", "content", "images", "tool_name", "tool_call_id"])
// `type` and `index` say nothing: every call is a function's, and its position is its index. Open WebUI puts the index beside
// the function, Ollama into it.
const callFields = new Set(["id", "type", "index", "function"])
const callFunctionFields = new Set(["name", "arguments", "index"])
const toolFields = new Set(["type", "function"])
const toolFunctionFields = new Set(["name", "description", "parameters"])

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

/** The tool calls of a conversation as it is read from top to bottom. */
interface Calls {
  /** Names by id. */
  readonly names: Map<string, string>
  /** Ids in the order of their calls, as long as no result has answered them. */
  readonly open: Set<string>
  /** The same by the tool's name: a hostile conversation must not make each result look at every call. */
  readonly openByName: Map<string, Set<string>>
  /** Ids that were made up. */
  readonly unnamed: Set<string>
}

const openCall = (id: string, name: string, calls: Calls): void => {
  closeCall(id, calls)
  calls.names.set(id, name)
  calls.open.add(id)
  const named = calls.openByName.get(name)
  if (named === undefined) calls.openByName.set(name, new Set([id]))
  else named.add(id)
}

const closeCall = (id: string, calls: Calls): void => {
  calls.open.delete(id)
  calls.openByName.get(calls.names.get(id) ?? "")?.delete(id)
}

const freshId = (base: string, calls: Calls): string => {
  let id = base
  while (calls.names.has(id)) id += "_"
  return id
}

const decodeCalls = (json: unknown, at: string, message: number, calls: Calls, report: Report): Array<Part> => {
  const parts: Array<Part> = []
  for (const [index, call] of readList(json, `${at}.tool_calls`, report).entries()) {
    const path = `${at}.tool_calls[${index}]`
    if (!isJson(call)) {
      report.refuse(path, "must be an object")
      continue
    }
    const details = call["function"]
    if (!isJson(details)) {
      report.refuse(`${path}.function`, "must be an object")
      continue
    }
    const name = readString(details["name"], `${path}.function.name`, report)
    if (name === undefined || name === "") {
      if (name === "" || absent(details["name"])) report.refuse(`${path}.function.name`, "must name the tool")
      continue
    }
    const given = details["arguments"]
    if (!absent(given) && !isJson(given)) {
      report.refuse(`${path}.function.arguments`, "must be an object")
      continue
    }
    const id = readString(call["id"], `${path}.id`, report)
    const hasId = id !== undefined && id !== ""
    const called = hasId ? id : freshId(`call_${message}_${index}`, calls)
    openCall(called, name, calls)
    if (!hasId) calls.unnamed.add(called)
    const extra = unknownFields(details, callFunctionFields)
    const around = unknownFields(call, callFields)
    parts.push({
      type: "tool_call",
      id: called,
      name,
      arguments: JSON.stringify(given ?? {}),
      ...own(extra === undefined ? around : { ...around, function: extra })
    })
  }
  return parts
}

/** The bare base64 images of a message or a prompt. */
export const decodeImages = (json: unknown, path: string, report: Report): ReadonlyArray<ImagePart> => {
  const images: Array<ImagePart> = []
  for (const [index, image] of readList(json, path, report).entries()) {
    if (typeof image !== "string") report.refuse(`${path}[${index}]`, "must be a base64 string")
    else if (image.startsWith("data:") || image.startsWith("http:") || image.startsWith("https:")) {
      report.refuse(`${path}[${index}]`, "must be bare base64, without a data: prefix and not a URL")
    } else if (!isBase64(image)) report.refuse(`${path}[${index}]`, "must be standard base64, padded")
    else images.push(imagePart(image))
  }
  return images
}

/** The call that a tool message answers: by its id, else by the tool's name, else the oldest open one. */
const answeredCall = (id: string | undefined, name: string | undefined, calls: Calls): string | undefined => {
  if (id !== undefined && calls.names.has(id)) return id
  const oldest = (name === undefined ? calls.open : calls.openByName.get(name))?.values().next().value
  // An id that no call has can only mean a call that came without one.
  return id === undefined || id === "" || (oldest !== undefined && calls.unnamed.has(oldest)) ? oldest : undefined
}

const decodeToolMessage = (json: Json, at: string, message: number, calls: Calls, report: Report): Message => {
  const content = readString(json["content"], `${at}.content`, report) ?? ""
  const name = readString(json["tool_name"], `${at}.tool_name`, report)
  const id = readString(json["tool_call_id"], `${at}.tool_call_id`, report)
  const found = answeredCall(id, name, calls)
  if (found === undefined) {
    report.refuse(id === undefined ? at : `${at}.tool_call_id`, "answers no tool call of the messages before it")
  }
  const answered = found ?? `call_${message}`
  closeCall(answered, calls)
  const parts: Array<ToolResultContent> = content === "" ? [] : [text(content)]
  parts.push(...decodeImages(json["images"], `${at}.images`, report))
  const result: ToolResultPart = {
    type: "tool_result",
    toolCallId: answered,
    content: parts,
    // The encoder finds the name by the call's id; where it could not, the name has to come along.
    ...own(name === undefined || calls.names.get(answered) === name ? undefined : { tool_name: name })
  }
  return { role: "tool", content: [result], ...own(unknownFields(json, toolMessageFields)) }
}

const decodeRole = (value: unknown, path: string, report: Report): Message["role"] | undefined => {
  // The server lower-cases roles too.
  const role = typeof value === "string" ? value.toLowerCase() : undefined
  switch (role) {
    case "system":
    case "developer":
    case "user":
    case "assistant":
    case "tool":
      return role
    default:
      report.refuse(path, "must be system, user, assistant or tool")
      return undefined
  }
}

const decodeMessage = (json: unknown, index: number, calls: Calls, report: Report): Message | undefined => {
  const at = `messages[${index}]`
  if (!isJson(json)) {
    report.refuse(at, "must be an object")
    return undefined
  }
  const role = decodeRole(json["role"], `${at}.role`, report)
  if (role === undefined) return undefined
  if (role === "tool") return decodeToolMessage(json, at, index, calls, report)
  const content: Array<Part> = []
  const thinking = readString(json["thinking"], `${at}.thinking`, report) ?? ""
  const said = readString(json["content"], `${at}.content`, report) ?? ""
  if (thinking !== "") content.push({ type: "reasoning", text: thinking, wire })
  if (said !== "") content.push(text(said))
  content.push(
    ...decodeImages(json["images"], `${at}.images`, report),
    ...decodeCalls(json["tool_calls"], at, index, calls, report)
  )
  return { role, content, ...own(unknownFields(json, messageFields)) }
}

const decodeMessages = (json: unknown, report: Report): ReadonlyArray<Message> => {
  const messages: Array<Message> = []
  const calls: Calls = { names: new Map(), open: new Set(), openByName: new Map(), unnamed: new Set() }
  for (const [index, item] of readList(json, "messages", report).entries()) {
    const message = decodeMessage(item, index, calls, report)
    if (message !== undefined) messages.push(message)
  }
  return messages
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools
// ---------------------------------------------------------------------------------------------------------------------

const decodeTool = (json: unknown, path: string, report: Report): Tool | undefined => {
  if (!isJson(json)) {
    report.refuse(path, "must be an object")
    return undefined
  }
  if (!absent(json["type"]) && json["type"] !== "function") return { type: "opaque", wire, value: json }
  const details = json["function"]
  if (!isJson(details)) {
    report.refuse(`${path}.function`, "must be an object")
    return undefined
  }
  const name = readString(details["name"], `${path}.function.name`, report)
  if (name === undefined || name === "") {
    if (name === "" || absent(details["name"])) report.refuse(`${path}.function.name`, "must name the tool")
    return undefined
  }
  const description = readString(details["description"], `${path}.function.description`, report)
  const parameters = details["parameters"]
  if (!absent(parameters) && !isJson(parameters)) {
    report.refuse(`${path}.function.parameters`, "must be a JSON Schema object")
    return undefined
  }
  const extra = unknownFields(details, toolFunctionFields)
  const around = unknownFields(json, toolFields)
  return {
    type: "unified",
    name,
    ...(description === undefined ? {} : { description }),
    ...(absent(parameters) ? {} : { parameters }),
    ...own(extra === undefined ? around : { ...around, function: extra })
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The request
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Reads the body of `POST /api/chat`. `stream` is true where the body does not say. Fails with all that is wrong, each
 * problem at its path (`messages[0].images[1]`). A body without messages asks Ollama to load or unload a model, and is no
 * chat: `OllamaLoad.ts` knows it.
 */
export const decodeRequest = (json: unknown): Result.Result<ChatRequest, ValidationError> => {
  const report = makeReport()
  const body: Json = isJson(json) ? json : {}
  if (!isJson(json)) report.refuse("", "the body must be a JSON object")
  const parameters = decodeParameters(body, requestFields, report)
  const [first, ...others] = decodeMessages(body["messages"], report)
  const tools: Array<Tool> = []
  for (const [index, item] of readList(body["tools"], "tools", report).entries()) {
    const tool = decodeTool(item, `tools[${index}]`, report)
    if (tool !== undefined) tools.push(tool)
  }
  if (first === undefined && (absent(body["messages"]) || isList(body["messages"]))) {
    report.refuse("messages", "must hold at least one message")
  }
  const error = report.error()
  if (error !== undefined || first === undefined) {
    return Result.fail(error ?? invalid("messages", "must hold at least one message"))
  }
  return Result.succeed({
    ...parameters,
    messages: [first, ...others],
    ...(tools.length === 0 ? {} : { tools })
  })
}
