/**
 * The body of Ollama's `POST /api/chat` as the sdk's chat request.
 *
 * Nothing that the body says is lost: fields and options without a canonical counterpart, and options outside the
 * canonical range (`num_predict: -1`, `top_k: 0`), travel in `extensions.ollama` and are written back by
 * `encodeRequest`. Nulls and `format: ""` count as absent, as they do for the server.
 *
 * Ollama's clients may send tool calls without ids. They get `call_<message>_<position>`, and tool messages are matched to
 * them by `tool_call_id`, else by `tool_name`, else in order. The ids come from positions, not from chance, so that the same
 * conversation always reads the same, which prompt caches need.
 */
import { Result } from "effect"
import type { ChatRequest, Message, Reasoning, ResponseSchema } from "../../sdk/Chat.ts"
import { type ImagePart, type Part, text, type ToolResultContent, type ToolResultPart } from "../../sdk/Content.ts"
import { invalid, type ValidationError } from "../../sdk/GatewayError.ts"
import type { Tool } from "../../sdk/Tool.ts"
import type { Json } from "../Codec.ts"
import { imagePart } from "./OllamaImage.ts"
import { isJson, isList, type Problems, problems, rest, wire } from "./OllamaJson.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Fields
// ---------------------------------------------------------------------------------------------------------------------

const requestFields = new Set([
  "model",
  "messages",
  "stream",
  "format",
  "tools",
  "think",
  "logprobs",
  "top_logprobs",
  "options"
])
const messageFields = new Set(["role", "content", "thinking", "images", "tool_calls"])
const toolMessageFields = new Set(["role", "content", "images", "tool_name", "tool_call_id"])
// `type` and `index` say nothing: every call is a function's, and its position is its index.
const callFields = new Set(["id", "type", "function"])
const callFunctionFields = new Set(["name", "arguments", "index"])
const toolFields = new Set(["type", "function"])
const toolFunctionFields = new Set(["name", "description", "parameters"])

const absent = (value: unknown): value is null | undefined => value === undefined || value === null

const readString = (value: unknown, path: string, found: Problems): string | undefined => {
  if (absent(value)) return undefined
  if (typeof value === "string") return value
  found.add(path, "must be a string")
  return undefined
}

const readBoolean = (value: unknown, path: string, found: Problems): boolean | undefined => {
  if (absent(value)) return undefined
  if (typeof value === "boolean") return value
  found.add(path, "must be a boolean")
  return undefined
}

const readList = (value: unknown, path: string, found: Problems): ReadonlyArray<unknown> => {
  if (absent(value)) return []
  if (isList(value)) return value
  found.add(path, "must be an array")
  return []
}

/** Fields of this wire alone, where there are any. */
const own = (json: Json | undefined): { readonly extensions?: { readonly [wire]: Json } } =>
  json === undefined ? {} : { extensions: { [wire]: json } }

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

/** The tool calls of a conversation as it is read from top to bottom. */
interface Calls {
  /** Names by id. */
  readonly names: Map<string, string>
  /** Ids in the order of their calls, as long as no result has answered them. */
  readonly open: Set<string>
}

const freshId = (base: string, calls: Calls): string => {
  let id = base
  while (calls.names.has(id)) id += "_"
  return id
}

const decodeCalls = (json: unknown, at: string, message: number, calls: Calls, found: Problems): Array<Part> => {
  const parts: Array<Part> = []
  for (const [index, call] of readList(json, `${at}.tool_calls`, found).entries()) {
    const path = `${at}.tool_calls[${index}]`
    if (!isJson(call)) {
      found.add(path, "must be an object")
      continue
    }
    const details = call["function"]
    if (!isJson(details)) {
      found.add(`${path}.function`, "must be an object")
      continue
    }
    const name = readString(details["name"], `${path}.function.name`, found)
    if (name === undefined || name === "") {
      if (name === "" || absent(details["name"])) found.add(`${path}.function.name`, "must name the tool")
      continue
    }
    const given = details["arguments"]
    if (!absent(given) && !isJson(given)) {
      found.add(`${path}.function.arguments`, "must be an object")
      continue
    }
    const id = readString(call["id"], `${path}.id`, found)
    const called = id === undefined || id === "" ? freshId(`call_${message}_${index}`, calls) : id
    calls.names.set(called, name)
    calls.open.add(called)
    const extra = rest(details, callFunctionFields)
    const around = rest(call, callFields)
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

const decodeImages = (json: unknown, at: string, found: Problems): ReadonlyArray<ImagePart> => {
  const images: Array<ImagePart> = []
  for (const [index, image] of readList(json, `${at}.images`, found).entries()) {
    if (typeof image !== "string") found.add(`${at}.images[${index}]`, "must be a base64 string")
    else if (image.startsWith("data:") || image.startsWith("http:") || image.startsWith("https:")) {
      found.add(`${at}.images[${index}]`, "must be bare base64, without a data: prefix and not a URL")
    } else images.push(imagePart(image))
  }
  return images
}

/** The call that a tool message answers: by its id, else by the tool's name, else the oldest open one. */
const answeredCall = (id: string | undefined, name: string | undefined, calls: Calls): string | undefined => {
  if (id !== undefined && id !== "") return id
  for (const open of calls.open) if (name === undefined || calls.names.get(open) === name) return open
  return undefined
}

const decodeToolMessage = (json: Json, at: string, message: number, calls: Calls, found: Problems): Message => {
  const content = readString(json["content"], `${at}.content`, found) ?? ""
  const name = readString(json["tool_name"], `${at}.tool_name`, found)
  const id = readString(json["tool_call_id"], `${at}.tool_call_id`, found)
  const answered = answeredCall(id, name, calls) ?? freshId(`call_${message}`, calls)
  calls.open.delete(answered)
  const parts: Array<ToolResultContent> = content === "" ? [] : [text(content)]
  parts.push(...decodeImages(json["images"], at, found))
  const result: ToolResultPart = {
    type: "tool_result",
    toolCallId: answered,
    content: parts,
    // The encoder finds the name by the call's id; where it could not, the name has to come along.
    ...own(name === undefined || calls.names.get(answered) === name ? undefined : { tool_name: name })
  }
  return { role: "tool", content: [result], ...own(rest(json, toolMessageFields)) }
}

const decodeRole = (value: unknown, path: string, found: Problems): Message["role"] | undefined => {
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
      found.add(path, "must be system, user, assistant or tool")
      return undefined
  }
}

const decodeMessage = (json: unknown, index: number, calls: Calls, found: Problems): Message | undefined => {
  const at = `messages[${index}]`
  if (!isJson(json)) {
    found.add(at, "must be an object")
    return undefined
  }
  const role = decodeRole(json["role"], `${at}.role`, found)
  if (role === undefined) return undefined
  if (role === "tool") return decodeToolMessage(json, at, index, calls, found)
  const content: Array<Part> = []
  const thinking = readString(json["thinking"], `${at}.thinking`, found) ?? ""
  const said = readString(json["content"], `${at}.content`, found) ?? ""
  if (thinking !== "") content.push({ type: "reasoning", text: thinking, wire })
  if (said !== "") content.push(text(said))
  content.push(...decodeImages(json["images"], at, found), ...decodeCalls(json["tool_calls"], at, index, calls, found))
  return { role, content, ...own(rest(json, messageFields)) }
}

const decodeMessages = (json: unknown, found: Problems): ReadonlyArray<Message> => {
  const messages: Array<Message> = []
  const calls: Calls = { names: new Map(), open: new Set() }
  for (const [index, item] of readList(json, "messages", found).entries()) {
    const message = decodeMessage(item, index, calls, found)
    if (message !== undefined) messages.push(message)
  }
  return messages
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools and parameters
// ---------------------------------------------------------------------------------------------------------------------

const decodeTool = (json: unknown, path: string, found: Problems): Tool | undefined => {
  if (!isJson(json)) {
    found.add(path, "must be an object")
    return undefined
  }
  if (!absent(json["type"]) && json["type"] !== "function") return { type: "opaque", wire, value: json }
  const details = json["function"]
  if (!isJson(details)) {
    found.add(`${path}.function`, "must be an object")
    return undefined
  }
  const name = readString(details["name"], `${path}.function.name`, found)
  if (name === undefined || name === "") {
    if (name === "" || absent(details["name"])) found.add(`${path}.function.name`, "must name the tool")
    return undefined
  }
  const description = readString(details["description"], `${path}.function.description`, found)
  const parameters = details["parameters"]
  if (!absent(parameters) && !isJson(parameters)) {
    found.add(`${path}.function.parameters`, "must be a JSON Schema object")
    return undefined
  }
  const extra = rest(details, toolFunctionFields)
  const around = rest(json, toolFields)
  return {
    type: "unified",
    name,
    ...(description === undefined ? {} : { description }),
    ...(absent(parameters) ? {} : { parameters }),
    ...own(extra === undefined ? around : { ...around, function: extra })
  }
}

const decodeFormat = (json: unknown, found: Problems): ResponseSchema | undefined => {
  if (absent(json) || json === "") return undefined
  if (json === "json") return { type: "json_object" }
  if (isJson(json)) return { type: "json_schema", schema: json }
  found.add("format", "must be \"json\" or a JSON Schema object")
  return undefined
}

const decodeThink = (json: unknown, found: Problems): Reasoning | undefined => {
  if (absent(json)) return undefined
  if (typeof json === "boolean") return { enabled: json }
  if (json === "low" || json === "medium" || json === "high" || json === "max") return { effort: json }
  found.add("think", "must be true, false, \"low\", \"medium\", \"high\" or \"max\"")
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
  ["top_k", ["topK", (value: number) => Number.isInteger(value) && value > 0]],
  ["min_p", ["minP", (value: number) => value >= 0 && value <= 1]],
  ["seed", ["seed", Number.isSafeInteger]],
  ["repeat_penalty", ["repeatPenalty", () => true]],
  ["presence_penalty", ["presencePenalty", () => true]],
  ["frequency_penalty", ["frequencyPenalty", () => true]],
  ["num_predict", ["maxOutputTokens", (value: number) => Number.isSafeInteger(value) && value > 0]]
])

const decodeOptions = (json: unknown, found: Problems): { readonly sampling: Sampling; readonly extra?: Json } => {
  if (absent(json)) return { sampling: {} }
  if (!isJson(json)) {
    found.add("options", "must be an object")
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
      if (typeof value !== "number") found.add(`options.${key}`, "must be a number")
      else if (fits(value)) sampling[name] = value
      else extra.push([key, value])
    } else if (key === "stop") {
      if (isList(value) && value.every((item) => typeof item === "string")) sampling.stop = value
      else found.add("options.stop", "must be an array of strings")
    } else extra.push([key, value])
  }
  return extra.length === 0 ? { sampling } : { sampling, extra: Object.fromEntries(extra) }
}

// ---------------------------------------------------------------------------------------------------------------------
// The request
// ---------------------------------------------------------------------------------------------------------------------

/** The fields of the request that only Ollama knows, nulls left out. */
const decodeExtensions = (json: Json, options: Json | undefined): Json | undefined => {
  const entries: Array<[string, unknown]> = []
  for (const key of Object.keys(json)) {
    if (!requestFields.has(key) && !absent(json[key])) entries.push([key, json[key]])
  }
  if (options !== undefined) entries.push(["options", options])
  return entries.length === 0 ? undefined : Object.fromEntries(entries)
}

/**
 * Reads the body of `POST /api/chat`. `stream` is true where the body does not say. Fails with all that is wrong, each
 * problem at its path (`messages[0].images[1]`). A body without messages asks Ollama to load or unload a model; the gateway
 * manages no models, so it is refused.
 */
export const decodeRequest = (json: unknown): Result.Result<ChatRequest, ValidationError> => {
  const found = problems()
  const body: Json = isJson(json) ? json : {}
  if (!isJson(json)) found.add("", "the body must be a JSON object")
  const model = readString(body["model"], "model", found)
  if (model === "" || absent(body["model"])) found.add("model", "must name a model")
  const [first, ...others] = decodeMessages(body["messages"], found)
  const tools: Array<Tool> = []
  for (const [index, item] of readList(body["tools"], "tools", found).entries()) {
    const tool = decodeTool(item, `tools[${index}]`, found)
    if (tool !== undefined) tools.push(tool)
  }
  const responseSchema = decodeFormat(body["format"], found)
  const reasoning = decodeThink(body["think"], found)
  const stream = readBoolean(body["stream"], "stream", found) ?? true
  const logprobs = readBoolean(body["logprobs"], "logprobs", found)
  const topLogprobs = body["top_logprobs"]
  if (!absent(topLogprobs) && !Number.isSafeInteger(topLogprobs)) found.add("top_logprobs", "must be an integer")
  const { extra, sampling } = decodeOptions(body["options"], found)
  if (first === undefined && (absent(body["messages"]) || isList(body["messages"]))) {
    found.add("messages", "must hold at least one message")
  }
  const error = found.error()
  if (error !== undefined || model === undefined || first === undefined) {
    return Result.fail(error ?? invalid("model", "must name a model"))
  }
  return Result.succeed({
    model,
    messages: [first, ...others],
    ...(tools.length === 0 ? {} : { tools }),
    ...(responseSchema === undefined ? {} : { responseSchema }),
    stream,
    ...sampling,
    ...(logprobs === undefined ? {} : { logprobs }),
    ...(typeof topLogprobs === "number" ? { topLogprobs } : {}),
    ...(reasoning === undefined ? {} : { reasoning }),
    ...own(decodeExtensions(body, extra))
  })
}
