/**
 * Reads the messages of a chat request and their parts. Tool results are matched with the calls before them, because no
 * provider takes a result that answers nothing.
 */
import type { Message, Role } from "../../sdk/Chat.ts"
import type { AudioPart, DocumentPart, ImagePart, Part, ToolResultContent } from "../../sdk/Content.ts"
import type { Json } from "../Codec.ts"
import { absent, type Draft, filled, isJson, object, unknownFields } from "../Json.ts"
import type { Report } from "../Report.ts"
import { extended, unknownWithin, wire } from "./OpenAiExtensions.ts"
import { cached, keys, readBoolean, readCacheControl, readName, readString } from "./OpenAiFields.ts"
import { audioMediaType, isBase64, isDataUrl, parseDataUrl } from "./OpenAiMedia.ts"
import { decodeReasoning, reasoningFields } from "./OpenAiReasoning.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Parts
// ---------------------------------------------------------------------------------------------------------------------

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

/** Whether the sdk has this word for how closely to look at an image. */
export const isDetail = (value: unknown): value is Detail =>
  value === "auto" || value === "low" || value === "high" || value === "original"

/** An image's or video's address: a `data:` URL becomes inline media. */
export const readUrl = (
  value: unknown,
  at: string,
  report: Report
): Extract<ImagePart["source"], { type: "url" | "base64" }> | undefined => {
  if (typeof value !== "string" || value === "") return report.refuse(at, "must be a URL")
  if (!isDataUrl(value)) return { type: "url", url: value }
  const parsed = parseDataUrl(value)
  return typeof parsed === "string" ? report.refuse(at, parsed) : { type: "base64", ...parsed }
}

/** An `input_audio` part. */
export const readAudio = (part: Json, at: string, report: Report): AudioPart | undefined => {
  const audio = object(part["input_audio"])
  if (audio === undefined) return report.refuse(`${at}.input_audio`, "must be an object")
  const data = audio["data"]
  const format = readName(audio, "format", `${at}.input_audio.`, report)
  if (typeof data !== "string" || !isBase64(data)) return report.refuse(`${at}.input_audio.data`, "must be base64")
  if (format === undefined) return undefined
  const known = format === "wav" || format === "mp3"
  return {
    type: "audio",
    source: { type: "base64", mediaType: audioMediaType(format), data },
    ...cached(part),
    ...extended(unknownWithin(part, audioKeys, "input_audio", known ? audioInside : audioInsideOddFormat))
  }
}

const readFile = (part: Json, at: string, report: Report): DocumentPart | undefined => {
  const file = object(part["file"])
  if (file === undefined) return report.refuse(`${at}.file`, "must be an object")
  const filename = readString(file, "filename", `${at}.file.`, report)
  const named = filename === undefined ? {} : { filename }
  const extras = { ...cached(part), ...extended(unknownWithin(part, fileKeys, "file", fileInside)) }
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
      ...extended(unknownWithin(part, fileKeys, "file", fileInsideUrl))
    }
  }
  if (typeof data !== "string") return report.refuse(`${at}.file`, "must hold file_data or file_id")
  if (!isDataUrl(data)) return report.refuse(`${at}.file.file_data`, "must be a data: URL")
  const parsed = parseDataUrl(data)
  if (typeof parsed === "string") return report.refuse(`${at}.file.file_data`, parsed)
  return { type: "document", source: { type: "base64", ...parsed }, ...named, ...extras }
}

const readPart = (value: unknown, at: string, report: Report): Part | undefined => {
  if (!isJson(value)) return report.refuse(at, "must be an object")
  switch (value["type"]) {
    case "text": {
      const text = value["text"]
      if (typeof text !== "string") return report.refuse(`${at}.text`, "must be a string")
      return { type: "text", text, ...cached(value), ...extended(unknownFields(value, textKeys)) }
    }
    case "image_url": {
      const image = object(value["image_url"])
      if (image === undefined) return report.refuse(`${at}.image_url`, "must be an object")
      const source = readUrl(image["url"], `${at}.image_url.url`, report)
      if (source === undefined) return undefined
      const detail = image["detail"]
      const plain = isDetail(detail)
      return {
        type: "image",
        source,
        ...(plain ? { detail } : {}),
        ...cached(value),
        ...extended(unknownWithin(value, imageKeys, "image_url", plain ? imageInside : imageInsideOddDetail))
      }
    }
    case "video_url": {
      const source = readUrl(object(value["video_url"])?.["url"], `${at}.video_url.url`, report)
      if (source === undefined) return undefined
      return {
        type: "video",
        source,
        ...cached(value),
        ...extended(unknownWithin(value, videoKeys, "video_url", urlInside))
      }
    }
    case "input_audio":
      return readAudio(value, at, report)
    case "file":
      return readFile(value, at, report)
    case "refusal": {
      const refusal = value["refusal"]
      if (typeof refusal !== "string") return report.refuse(`${at}.refusal`, "must be a string")
      return { type: "refusal", text: refusal, ...extended(unknownFields(value, refusalKeys)) }
    }
    default:
      return typeof value["type"] === "string"
        ? { type: "opaque", wire, value }
        : report.refuse(`${at}.type`, "must be a string")
  }
}

/** A message's content. `nullable` for the roles whose content may be left out. */
const readContent = (value: unknown, nullable: boolean, at: string, report: Report): Array<Part> => {
  if (typeof value === "string") return [{ type: "text", text: value }]
  if (absent(value) && nullable) return []
  if (!Array.isArray(value)) {
    report.refuse(at, "must be a string or an array of parts")
    return []
  }
  const parts: Array<Part> = []
  for (let index = 0; index < value.length && !report.isFull(); index++) {
    const part = readPart(value[index], `${at}[${index}]`, report)
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

const readToolCall = (value: unknown, at: string, calls: Set<string>, report: Report): Part | undefined => {
  if (!isJson(value)) return report.refuse(at, "must be an object")
  const id = readName(value, "id", `${at}.`, report)
  if (id === undefined) return undefined
  calls.add(id)
  if (value["type"] === "custom") return { type: "opaque", wire, value }
  const call = object(value["function"])
  if (call === undefined || (!absent(value["type"]) && value["type"] !== "function")) {
    return report.refuse(`${at}.type`, "must be function or custom")
  }
  const name = readName(call, "name", `${at}.function.`, report)
  const text = call["arguments"]
  if (typeof text !== "string") return report.refuse(`${at}.function.arguments`, "must be a string of JSON")
  if (name === undefined) return undefined
  return {
    type: "tool_call",
    id,
    name,
    arguments: text,
    ...cached(value),
    ...extended(unknownWithin(value, callKeys, "function", callInside))
  }
}

const readAssistant = (json: Json, at: string, calls: Set<string>, report: Report): Array<Part> => {
  const parts: Array<Part> = [...decodeReasoning(json)]
  for (const part of readContent(json["content"], true, `${at}.content`, report)) parts.push(part)
  const refusal = readString(json, "refusal", `${at}.`, report)
  if (refusal !== undefined) parts.push({ type: "refusal", text: refusal })
  const audio = json["audio"]
  if (!absent(audio)) {
    const id = filled(object(audio)?.["id"])
    if (id === undefined) report.refuse(`${at}.audio.id`, "must be a non-empty string")
    else {
      const extra = unknownFields(object(audio) ?? {}, audioRefKeys)
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
    for (let index = 0; index < toolCalls.length && !report.isFull(); index++) {
      const part = readToolCall(toolCalls[index], `${at}.tool_calls[${index}]`, calls, report)
      if (part !== undefined) parts.push(part)
    }
  } else if (!absent(toolCalls)) report.refuse(`${at}.tool_calls`, "must be an array")
  return parts
}

/** Whether a part may stand inside a tool's result. */
export const isResultContent = (part: Part): part is ToolResultContent =>
  part.type === "text" || part.type === "image" || part.type === "document" || part.type === "audio"

const readToolResult = (json: Json, at: string, calls: ReadonlySet<string>, report: Report): Array<Part> => {
  const toolCallId = readName(json, "tool_call_id", `${at}.`, report)
  const parts = readContent(json["content"], true, `${at}.content`, report)
  const isError = readBoolean(json, "is_error", `${at}.`, report)
  if (toolCallId === undefined) return []
  if (!calls.has(toolCallId)) {
    report.refuse(`${at}.tool_call_id`, "no tool call with this id precedes the message")
    return []
  }
  const content = parts.filter(isResultContent)
  if (content.length < parts.length) {
    report.refuse(`${at}.content`, "may hold text, images, files and audio only")
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

const readMessage = (value: unknown, at: string, calls: Set<string>, report: Report): Message | undefined => {
  if (!isJson(value)) return report.refuse(at, "must be an object")
  const role = value["role"]
  // The deprecated result of a `function_call` has no tool call to belong to; it is kept whole.
  if (role === "function") return { role: "tool", content: [{ type: "opaque", wire, value }] }
  if (!isRole(role)) return report.refuse(`${at}.role`, "must be developer, system, user, assistant or tool")
  let content: Array<Part>
  let known: ReadonlySet<string>
  switch (role) {
    case "assistant":
      content = readAssistant(value, at, calls, report)
      known = assistantKeys
      break
    case "tool":
      content = readToolResult(value, at, calls, report)
      known = toolKeys
      break
    default:
      content = readContent(value["content"], false, `${at}.content`, report)
      known = messageKeys
  }
  if (value["cache_control"] !== undefined) cacheLast(content, value)
  const message: Draft<Message> = { role, content, ...extended(unknownFields(value, known)) }
  const name = readString(value, "name", `${at}.`, report)
  if (name !== undefined) message.name = name
  return message
}

/** Reads the list of messages; what is wrong goes into the report. */
export const readMessages = (value: unknown, report: Report): ReadonlyArray<Message> => {
  const messages: Array<Message> = []
  if (!Array.isArray(value) || value.length === 0) {
    report.refuse("messages", "must be a non-empty array")
    return messages
  }
  const calls = new Set<string>()
  for (let index = 0; index < value.length && !report.isFull(); index++) {
    const message = readMessage(value[index], `messages[${index}]`, calls, report)
    if (message !== undefined) messages.push(message)
  }
  return messages
}
