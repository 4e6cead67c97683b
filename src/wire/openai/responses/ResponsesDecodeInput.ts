/**
 * Reads the input of a Responses request: a text, or a list of items. What one turn of the model made stands there as
 * several items (thinking, messages, calls); those that follow each other become one message again, as every other wire
 * has it. Tool results are matched with the calls before them, because no provider takes a result that answers nothing.
 */
import type { Message, Role } from "../../../sdk/Chat.ts"
import type { DocumentPart, ImagePart, Part, TextPart } from "../../../sdk/Content.ts"
import type { Json } from "../../Codec.ts"
import { absent, bounded, filled, isJson, isList, unknownFields } from "../../Json.ts"
import type { Report } from "../../Report.ts"
import { isDetail, isResultContent, readAudio, readUrl } from "../OpenAiDecodeMessages.ts"
import { wire as openAi } from "../OpenAiExtensions.ts"
import { cached, keys, readName, readString } from "../OpenAiFields.ts"
import { isDataUrl, parseDataUrl } from "../OpenAiMedia.ts"
import { readCitations } from "./ResponsesCitations.ts"
import { extended, ownExtensions, wire } from "./ResponsesExtensions.ts"
import { decodeImageItem } from "./ResponsesItems.ts"
import { readReasoningItem } from "./ResponsesReasoning.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Parts
// ---------------------------------------------------------------------------------------------------------------------

const textKeys = keys("type", "text", "annotations", "citations", "logprobs")
const refusalKeys = keys("type", "refusal")
const imageKeys = keys("type", "image_url", "file_id", "detail")
const imageKeysOddDetail = keys("type", "image_url", "file_id")
const fileKeys = keys("type", "file_data", "file_id", "file_url", "filename")

const readText = (part: Json, at: string, report: Report): TextPart | undefined => {
  const text = part["text"]
  if (typeof text !== "string") return report.refuse(`${at}.text`, "must be a string")
  const citations = readCitations(part)
  return {
    type: "text",
    text,
    ...(citations.length === 0 ? {} : { citations }),
    ...cached(part),
    ...extended(unknownFields(part, textKeys))
  }
}

const readImage = (part: Json, at: string, report: Report): ImagePart | undefined => {
  const { detail } = part
  const plain = absent(detail) || isDetail(detail)
  const extras = {
    ...(isDetail(detail) ? { detail } : {}),
    ...cached(part),
    ...extended(unknownFields(part, plain ? imageKeys : imageKeysOddDetail))
  }
  const id = filled(part["file_id"])
  if (id !== undefined) return { type: "image", source: { type: "provider_file", wire: openAi, id }, ...extras }
  if (absent(part["image_url"])) return report.refuse(at, "must hold image_url or file_id")
  const source = readUrl(part["image_url"], `${at}.image_url`, report)
  return source === undefined ? undefined : { type: "image", source, ...extras }
}

const readFile = (part: Json, at: string, report: Report): DocumentPart | undefined => {
  const filename = readString(part, "filename", `${at}.`, report)
  const extras = {
    ...(filename === undefined ? {} : { filename }),
    ...cached(part),
    ...extended(unknownFields(part, fileKeys))
  }
  const id = filled(part["file_id"])
  if (id !== undefined) return { type: "document", source: { type: "provider_file", wire: openAi, id }, ...extras }
  const url = filled(part["file_url"])
  if (url !== undefined) return { type: "document", source: { type: "url", url }, ...extras }
  const data = part["file_data"]
  if (typeof data !== "string") return report.refuse(at, "must hold file_data, file_url or file_id")
  if (!isDataUrl(data)) return report.refuse(`${at}.file_data`, "must be a data: URL")
  const parsed = parseDataUrl(data)
  if (typeof parsed === "string") return report.refuse(`${at}.file_data`, parsed)
  return { type: "document", source: { type: "base64", ...parsed }, ...extras }
}

const readPart = (value: unknown, at: string, report: Report): Part | undefined => {
  if (!isJson(value)) return report.refuse(at, "must be an object")
  const { type } = value
  switch (type) {
    case "input_text":
    case "output_text":
      return readText(value, at, report)
    case "input_image":
      return readImage(value, at, report)
    case "input_file":
      return readFile(value, at, report)
    case "input_audio":
      return readAudio(value, at, report)
    case "refusal": {
      const { refusal } = value
      if (typeof refusal !== "string") return report.refuse(`${at}.refusal`, "must be a string")
      return { type: "refusal", text: refusal, ...extended(unknownFields(value, refusalKeys)) }
    }
    default:
      return report.refuse(
        `${at}.type`,
        typeof type === "string"
          ? `"${
            bounded(type, 60)
          }" is no content part; use input_text, input_image, input_file, input_audio, output_text or refusal`
          : "must be a string"
      )
  }
}

const readContent = (value: unknown, at: string, report: Report): ReadonlyArray<Part> => {
  if (typeof value === "string") return [{ type: "text", text: value }]
  if (!isList(value)) {
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
// Items
// ---------------------------------------------------------------------------------------------------------------------

const messageKeys = keys("type", "id", "status", "role", "content")
const callKeys = keys("type", "id", "status", "call_id", "name", "arguments")
const outputKeys = keys("type", "id", "status", "call_id", "output")

const isRole = (value: unknown): value is Exclude<Role, "tool"> =>
  value === "user" || value === "assistant" || value === "system" || value === "developer"

/** The conversation so far. */
interface Reading {
  readonly messages: Array<Message>
  /** The parts of the model's turn that is its last message; nothing where somebody else spoke last. */
  turn: Array<Part> | undefined
  /** Ids of the calls that a result may answer. */
  readonly calls: Set<string>
  readonly report: Report
}

/** Adds what the model made to its turn. The turn's list of parts grows in place: a turn can have thousands of calls. */
const addAnswer = (reading: Reading, parts: ReadonlyArray<Part>, unknown?: Json): void => {
  const { messages } = reading
  if (reading.turn === undefined) {
    reading.turn = []
    messages.push({ role: "assistant", content: reading.turn, ...extended(unknown) })
  } else if (unknown !== undefined) {
    const extensions = extended({ ...ownExtensions(messages.at(-1) ?? {}), ...unknown })
    messages[messages.length - 1] = { role: "assistant", content: reading.turn, ...extensions }
  }
  for (const part of parts) reading.turn.push(part)
}

/** Items that answer a call of a tool that only this protocol has; every other item of one is the model's. */
const isAnswer = (type: string): boolean => type.endsWith("_output") || type === "mcp_approval_response"

/** Adds what somebody else said, which ends the model's turn. */
const addMessage = (reading: Reading, message: Message): void => {
  reading.turn = undefined
  reading.messages.push(message)
}

const readMessage = (item: Json, at: string, reading: Reading): void => {
  const { report } = reading
  const { role } = item
  if (!isRole(role)) return report.refuse(`${at}.role`, "must be user, assistant, system or developer")
  const content = readContent(item["content"], `${at}.content`, report)
  const unknown = unknownFields(item, messageKeys)
  if (role === "assistant") addAnswer(reading, content, unknown)
  else addMessage(reading, { role, content, ...extended(unknown) })
}

const readCall = (item: Json, at: string, reading: Reading): void => {
  const { calls, report } = reading
  const id = readName(item, "call_id", `${at}.`, report)
  const name = readName(item, "name", `${at}.`, report)
  const text = item["arguments"]
  if (typeof text !== "string") return report.refuse(`${at}.arguments`, "must be a string of JSON")
  if (id === undefined || name === undefined) return
  calls.add(id)
  addAnswer(reading, [{
    type: "tool_call",
    id,
    name,
    arguments: text,
    ...cached(item),
    ...extended(unknownFields(item, callKeys))
  }])
}

const readCallOutput = (item: Json, at: string, reading: Reading): void => {
  const { calls, report } = reading
  const toolCallId = readName(item, "call_id", `${at}.`, report)
  const parts = readContent(item["output"], `${at}.output`, report)
  if (toolCallId === undefined) return
  if (!calls.has(toolCallId)) return report.refuse(`${at}.call_id`, "no function_call with this id precedes the item")
  const content = parts.filter(isResultContent)
  if (content.length < parts.length) return report.refuse(`${at}.output`, "may hold text, images, files and audio only")
  addMessage(reading, {
    role: "tool",
    content: [{
      type: "tool_result",
      toolCallId,
      content,
      ...cached(item),
      ...extended(unknownFields(item, outputKeys))
    }]
  })
}

const readMadeImage = (item: Json, at: string, reading: Reading): void => {
  const image = decodeImageItem(item)
  if (image === undefined) return reading.report.refuse(`${at}.result`, "must be base64")
  addAnswer(reading, [image])
}

const readItem = (item: unknown, at: string, reading: Reading): void => {
  const { report } = reading
  if (!isJson(item)) return report.refuse(at, "must be an object")
  const type = absent(item["type"]) ? "message" : item["type"]
  switch (type) {
    case "message":
      return readMessage(item, at, reading)
    case "function_call":
      return readCall(item, at, reading)
    case "function_call_output":
      return readCallOutput(item, at, reading)
    case "reasoning": {
      const part = readReasoningItem(item, at, report)
      if (part !== undefined) addAnswer(reading, [part])
      return
    }
    case "image_generation_call":
      return readMadeImage(item, at, reading)
    case "item_reference":
      return report.refuse(
        `${at}.type`,
        "refers to a stored item, and the gateway stores none; send the item itself (SDKs do with store: false)"
      )
    default: {
      if (typeof type !== "string" || type === "") return report.refuse(`${at}.type`, "must be a string")
      const part: Part = { type: "opaque", wire, value: item }
      return isAnswer(type) ? addMessage(reading, { role: "user", content: [part] }) : addAnswer(reading, [part])
    }
  }
}

/** Reads the input; what is wrong goes into the report. `instructions` lead the conversation. */
export const readInput = (value: unknown, instructions: Message | undefined, report: Report): Array<Message> => {
  const messages: Array<Message> = instructions === undefined ? [] : [instructions]
  if (typeof value === "string") {
    messages.push({ role: "user", content: [{ type: "text", text: value }] })
    return messages
  }
  if (!isList(value) || value.length === 0) {
    report.refuse("input", "must be a text or a non-empty array of items")
    return messages
  }
  const reading: Reading = { messages, turn: undefined, calls: new Set(), report }
  for (let index = 0; index < value.length && !report.isFull(); index++) {
    readItem(value[index], `input[${index}]`, reading)
  }
  return messages
}
