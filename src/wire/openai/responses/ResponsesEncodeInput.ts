/**
 * Writes a conversation as the items of a Responses request. A turn of the model's becomes several items: its thinking, its
 * messages and its calls, in their order. Media that it made, and media that stand where this API takes none, are shown to
 * it in the next message of a user's.
 */
import type { Message } from "../../../sdk/Chat.ts"
import type { DocumentPart, ImagePart, Part, ReasoningPart, ToolResultPart } from "../../../sdk/Content.ts"
import type { Json } from "../../Codec.ts"
import { foreignBlock } from "../../Foreign.ts"
import { isJson } from "../../Json.ts"
import type { Report } from "../../Report.ts"
import { merge, wire as openAi } from "../OpenAiExtensions.ts"
import { audioFormat, dataUrl, madeName } from "../OpenAiMedia.ts"
import { encodeCitations } from "./ResponsesCitations.ts"
import { ownExtensions, wire } from "./ResponsesExtensions.ts"

const unresolved = "is in the gateway's file storage and must be resolved before it is sent"

/** Files are an account's, whichever of OpenAI's APIs names them. */
const isOpenAi = (of: string): boolean => of === openAi || of === wire

const foreignFile = (of: string): string => `is a file of the ${of} wire, which the ${wire} wire cannot read`

// ---------------------------------------------------------------------------------------------------------------------
// Parts
// ---------------------------------------------------------------------------------------------------------------------

const encodeImage = (part: ImagePart, path: string, report: Report): Json | undefined => {
  const { source } = part
  const detail = part.detail === undefined ? {} : { detail: part.detail }
  switch (source.type) {
    case "url":
      return { type: "input_image", image_url: source.url, ...detail }
    case "base64":
      return { type: "input_image", image_url: dataUrl(source.mediaType, source.data), ...detail }
    case "provider_file":
      return isOpenAi(source.wire)
        ? { type: "input_image", file_id: source.id, ...detail }
        : report.refuse(path, foreignFile(source.wire))
    default:
      return report.refuse(path, unresolved)
  }
}

const encodeDocument = (part: DocumentPart, path: string, report: Report): Json | undefined => {
  const { source } = part
  if (part.citations === true) report.drop("messages[].content[].citations")
  if (part.context !== undefined) report.drop("messages[].content[].context")
  if (part.title !== undefined && part.filename !== undefined) report.drop("messages[].content[].title")
  const name = part.filename ?? part.title
  const named = name === undefined ? {} : { filename: name }
  switch (source.type) {
    case "text":
      return { type: "input_text", text: source.text }
    case "base64":
      // OpenAI wants a name with inline data.
      return {
        type: "input_file",
        filename: name ?? madeName(source.mediaType),
        file_data: dataUrl(source.mediaType, source.data)
      }
    case "url":
      return { type: "input_file", file_url: source.url, ...named }
    case "provider_file":
      return isOpenAi(source.wire)
        ? { type: "input_file", file_id: source.id, ...named }
        : report.refuse(path, foreignFile(source.wire))
    default:
      return report.refuse(path, unresolved)
  }
}

/** A part of what a user, a system or a tool says. */
const encodeBarePart = (part: Part, path: string, report: Report): Json | undefined => {
  switch (part.type) {
    case "text":
      if ((part.citations?.length ?? 0) > 0) report.drop("messages[].content[].citations")
      return { type: "input_text", text: part.text }
    case "refusal":
      return { type: "input_text", text: part.text }
    case "image":
      return encodeImage(part, path, report)
    case "document":
      return encodeDocument(part, path, report)
    case "audio": {
      const { source } = part
      const format = source.type === "base64" ? audioFormat(source.mediaType) : undefined
      return source.type !== "base64" || format === undefined
        ? report.refuse(path, "this API takes audio inline, as wav or mp3")
        : { type: "input_audio", input_audio: { data: source.data, format } }
    }
    case "video":
      return report.refuse(path, "this API takes no video")
    case "reasoning":
      report.drop("messages[].content[].reasoning")
      return undefined
    case "opaque":
      return report.refuse(path, `${foreignBlock(part.value)} has no place in this message`)
    case "tool_call":
      return report.refuse(path, "a tool call can stand in an assistant message only")
    default:
      return report.refuse(path, "a tool result can stand in a tool or user message only")
  }
}

/** OpenAI caches by itself; the field goes out only where the caller put it in this wire's own form. */
const noteCacheControl = (part: Part, report: Report): void => {
  if (
    "cacheControl" in part && part.cacheControl !== undefined && ownExtensions(part)?.["cache_control"] === undefined
  ) report.drop("messages[].content[].cache_control")
}

const encodePart = (part: Part, path: string, report: Report): Json | undefined => {
  noteCacheControl(part, report)
  const bare = encodeBarePart(part, path, report)
  return bare === undefined || part.type === "opaque" ? bare : merge({ ...bare }, ownExtensions(part))
}

/** A list of parts as content: a string where it is one plain text. */
const contentOf = (parts: ReadonlyArray<Json>): string | ReadonlyArray<Json> => {
  const only = parts[0]
  if (only === undefined) return ""
  const text = only["text"]
  return parts.length === 1 && only["type"] === "input_text" && Object.keys(only).length === 2 &&
      typeof text === "string"
    ? text
    : parts
}

// ---------------------------------------------------------------------------------------------------------------------
// Items
// ---------------------------------------------------------------------------------------------------------------------

/** The items so far, and what waits for the next message of a user's. */
interface Writing {
  readonly items: Array<Json>
  moved: Array<Json>
  readonly report: Report
}

const messageFields: ReadonlySet<string> = new Set(["type", "role", "content", "instructions"])

const flush = (writing: Writing): void => {
  if (writing.moved.length > 0) writing.items.push({ type: "message", role: "user", content: writing.moved })
  writing.moved = []
}

/**
 * Only thinking that this API itself has encrypted goes back to it, or that one of its compatible servers told in words.
 * Another provider's means nothing to it.
 */
const encodeReasoning = (part: ReasoningPart, report: Report): Json | undefined => {
  const own = ownExtensions(part)
  if (part.wire !== wire || (part.data === undefined && part.text === undefined)) {
    report.drop("messages[].content[].reasoning")
    return undefined
  }
  const { id, summary, ...others } = own ?? {}
  const text = part.text === undefined || part.text === "" ? [] : [part.text]
  const told = part.data === undefined
    ? { summary: [], content: text.map((words) => ({ type: "reasoning_text", text: words })) }
    : {
      summary: Array.isArray(summary) ? summary : text.map((words) => ({ type: "summary_text", text: words })),
      encrypted_content: part.data
    }
  return merge({ type: "reasoning", ...(typeof id === "string" ? { id } : {}), ...told }, others)
}

/** The parts of one message of the model's, as an answer has them. */
const outputPart = (part: Part, report: Report): Json | undefined => {
  switch (part.type) {
    case "text": {
      const { annotations, foreign } = encodeCitations(part.citations)
      if (foreign.length > 0) report.drop("messages[].content[].citations")
      return { type: "output_text", text: part.text, annotations }
    }
    case "refusal":
      return { type: "refusal", refusal: part.text }
    case "audio":
      // What it said it is told in words; its own sound it cannot hear again.
      return part.transcript === undefined ? undefined : { type: "output_text", text: part.transcript, annotations: [] }
    default:
      return undefined
  }
}

/** An image that this API made, as the item that it was. */
const madeImage = (part: Part): Json | undefined => {
  if (part.type !== "image" || part.source.type !== "base64") return undefined
  const item = ownExtensions(part)?.["item"]
  return isJson(item) ? { ...item, type: "image_generation_call", result: part.source.data } : undefined
}

const encodeTurn = (message: Message, at: string, writing: Writing): void => {
  const { items, report } = writing
  let said: Array<Json> = []
  const fields = ownExtensions(message)
  const close = (): void => {
    if (said.length > 0) {
      items.push(merge({ type: "message", role: "assistant", content: said }, fields, messageFields))
    }
    said = []
  }
  for (let index = 0; index < message.content.length; index++) {
    const part = message.content[index]
    if (part === undefined) continue
    const path = `${at}.content[${index}]`
    noteCacheControl(part, report)
    const output = outputPart(part, report)
    if (output !== undefined) {
      said.push(part.type === "text" || part.type === "refusal" ? merge({ ...output }, ownExtensions(part)) : output)
      continue
    }
    switch (part.type) {
      case "reasoning": {
        close()
        const item = encodeReasoning(part, report)
        if (item !== undefined) items.push(item)
        break
      }
      case "tool_call":
        close()
        items.push(merge(
          { type: "function_call", call_id: part.id, name: part.name, arguments: part.arguments },
          ownExtensions(part)
        ))
        break
      case "opaque":
        close()
        if (part.wire === wire) items.push(part.value)
        else {
          report.refuse(
            path,
            `${foreignBlock(part.value)} is of the ${part.wire} wire, which the ${wire} wire cannot express`
          )
        }
        break
      default: {
        const made = madeImage(part)
        if (made !== undefined) {
          close()
          items.push(made)
          break
        }
        const shown = encodePart(part, path, report)
        if (shown !== undefined) {
          writing.moved.push({ type: "input_text", text: "The assistant's answer included:" }, shown)
        }
      }
    }
  }
  close()
}

const encodeResult = (part: ToolResultPart, path: string, writing: Writing): void => {
  const { items, report } = writing
  if (part.isError === true) report.drop("messages[].content[].is_error")
  noteCacheControl(part, report)
  const content: Array<Json> = []
  for (let index = 0; index < part.content.length; index++) {
    const inner = part.content[index]
    const encoded = inner === undefined ? undefined : encodePart(inner, `${path}.content[${index}]`, report)
    if (encoded !== undefined) content.push(encoded)
  }
  items.push(merge(
    { type: "function_call_output", call_id: part.toolCallId, output: contentOf(content) },
    ownExtensions(part)
  ))
}

const encodeMessage = (message: Message, at: string, writing: Writing): void => {
  const { items, report } = writing
  const others: Array<Json> = []
  for (let index = 0; index < message.content.length; index++) {
    const part = message.content[index]
    if (part === undefined) continue
    const path = `${at}.content[${index}]`
    if (part.type === "tool_result") encodeResult(part, path, writing)
    // What a caller answered to a tool of this API's own, such as the picture of a screen.
    else if (part.type === "opaque" && part.wire === wire) items.push(part.value)
    else {
      const encoded = encodePart(part, path, report)
      if (encoded !== undefined) others.push(encoded)
    }
  }
  if (others.length === 0) return
  if (writing.moved.length > 0) flush(writing)
  const role = message.role === "tool" ? "user" : message.role
  items.push(merge({ type: "message", role, content: contentOf(others) }, ownExtensions(message), messageFields))
}

/** Writes the messages from one of them on; what is wrong goes into the report. */
export const encodeInput = (messages: ReadonlyArray<Message>, from: number, report: Report): ReadonlyArray<Json> => {
  const writing: Writing = { items: [], moved: [], report }
  for (let index = from; index < messages.length && !report.isFull(); index++) {
    const message = messages[index]
    if (message === undefined) continue
    if (message.name !== undefined) report.drop("messages[].name")
    const at = `messages[${index}]`
    if (message.role !== "assistant") encodeMessage(message, at, writing)
    else {
      flush(writing)
      encodeTurn(message, at, writing)
    }
  }
  flush(writing)
  return writing.items
}
