/**
 * Content blocks, both ways: canonical parts written as Anthropic's blocks for a request or a built response, and blocks
 * of responses and requests read as parts. A block that the sdk has no part for travels as an opaque part of this wire.
 */
import { Result } from "effect"
import type {
  CacheControl,
  DocumentPart,
  Extensions,
  ImagePart,
  OpaquePart,
  Part,
  ReasoningPart,
  TextPart,
  ToolCallPart,
  ToolResultContent,
  ToolResultPart
} from "../../sdk/Content.ts"
import type { Json } from "../Codec.ts"
import { foreignBlock } from "../Foreign.ts"
import { extensions, wire } from "./AnthropicExtensions.ts"
import { bounded, filled, isJson, isList, parseJson, unknownFields } from "../Json.ts"
import type { Report } from "../Report.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Parts to blocks
// ---------------------------------------------------------------------------------------------------------------------

interface Extended {
  readonly cacheControl?: CacheControl
  readonly extensions?: Extensions
}

/** Puts a part's cache breakpoint and its fields for this wire around a block, without touching what the block has. */
export const extended = (part: Extended, block: Json): Json => {
  const own = part.extensions?.[wire]
  if (own === undefined && part.cacheControl === undefined) return block
  return { ...own, ...(part.cacheControl === undefined ? {} : { cache_control: part.cacheControl }), ...block }
}

/** Blank text blocks are refused ("text content blocks must contain non-whitespace text"), so they are not sent. */
const isBlank = (text: string): boolean => text.trim() === ""

// The citation types of Anthropic's API; another provider's annotations have no form here.
const citationTypes = new Set<unknown>([
  "char_location",
  "page_location",
  "content_block_location",
  "web_search_result_location",
  "search_result_location"
])

/** A text block, or nothing where the text is blank. */
export const encodeText = (part: TextPart, report: Report): Json | undefined => {
  if (isBlank(part.text)) {
    if (part.cacheControl !== undefined) report.drop("messages[].content[].cache_control")
    return undefined
  }
  const citations = part.citations?.filter((citation) => isJson(citation) && citationTypes.has(citation["type"])) ??
    []
  if (citations.length < (part.citations?.length ?? 0)) report.drop("messages[].content[].citations")
  return extended(part, {
    type: "text",
    text: part.text,
    ...(citations.length === 0 ? {} : { citations })
  })
}

const imageTypes = new Set(["image/jpeg", "image/png", "image/gif", "image/webp"])
const webUrl = /^https?:\/\//i

const encodeUrl = (url: string, path: string, report: Report): Json | undefined =>
  webUrl.test(url)
    ? { type: "url", url }
    : report.refuse(`${path}.source.url`, "only http and https addresses can be sent to this provider")

const encodeFile = (source: { readonly wire: string; readonly id: string }, path: string, report: Report) =>
  source.wire === wire
    ? { type: "file", file_id: source.id }
    : report.refuse(`${path}.source`, `the file is held by another provider ("${bounded(source.wire, 50)}")`)

const unresolved = "the file must be read from the gateway's storage before it can be sent"

/** An image block. */
export const encodeImage = (part: ImagePart, path: string, report: Report): Json | undefined => {
  if (part.detail !== undefined && part.detail !== "auto") report.drop("messages[].content[].detail")
  let source: Json | undefined
  switch (part.source.type) {
    case "base64": {
      const named = part.source.mediaType.toLowerCase()
      const mediaType = named === "image/jpg" ? "image/jpeg" : named
      source = imageTypes.has(mediaType)
        ? { type: "base64", media_type: mediaType, data: part.source.data }
        : report.refuse(
          `${path}.source.media_type`,
          `"${bounded(part.source.mediaType, 60)}" is not supported; use image/jpeg, image/png, image/gif or image/webp`
        )
      break
    }
    case "url":
      source = encodeUrl(part.source.url, path, report)
      break
    case "provider_file":
      source = encodeFile(part.source, path, report)
      break
    case "file":
      source = report.refuse(`${path}.source`, unresolved)
  }
  return source === undefined ? undefined : extended(part, { type: "image", source })
}

const utf8 = new TextDecoder("utf-8", { fatal: true })

const encodeBase64Document = (mediaType: string, data: string, path: string, report: Report): Json | undefined => {
  const essence = (mediaType.split(";")[0] ?? "").trim().toLowerCase()
  if (essence === "application/pdf") return { type: "base64", media_type: essence, data }
  if (!essence.startsWith("text/")) {
    return report.refuse(
      `${path}.source.media_type`,
      `"${bounded(mediaType, 60)}" is not supported; use application/pdf or plain text`
    )
  }
  const decoded = Result.try(() => utf8.decode(Buffer.from(data, "base64")))
  return Result.isSuccess(decoded)
    ? { type: "text", media_type: "text/plain", data: decoded.success }
    : report.refuse(`${path}.source.data`, "the text is not valid UTF-8")
}

/** A document block. `filename` stands in for a missing title. */
export const encodeDocument = (part: DocumentPart, path: string, report: Report): Json | undefined => {
  let source: Json | undefined
  switch (part.source.type) {
    case "base64":
      source = encodeBase64Document(part.source.mediaType, part.source.data, path, report)
      break
    case "url":
      source = encodeUrl(part.source.url, path, report)
      break
    case "text":
      source = { type: "text", media_type: "text/plain", data: part.source.text }
      break
    case "provider_file":
      source = encodeFile(part.source, path, report)
      break
    case "file":
      source = report.refuse(`${path}.source`, unresolved)
  }
  if (source === undefined) return undefined
  const title = part.title ?? part.filename
  return extended(part, {
    type: "document",
    source,
    ...(title === undefined ? {} : { title }),
    ...(part.context === undefined ? {} : { context: part.context }),
    ...(part.citations === undefined ? {} : { citations: { enabled: part.citations } })
  })
}

/** A block of this wire as it was; another wire's is refused. */
export const encodeOpaque = (part: OpaquePart, path: string, report: Report): Json | undefined =>
  part.wire === wire
    ? part.value
    : report.refuse(path, `${foreignBlock(part.value)} only exists in the protocol "${bounded(part.wire, 50)}"`)

/**
 * A `tool_use` block. The arguments are JSON text here and an object there: no text at all is the empty object, and
 * anything but an object is refused, never replaced.
 */
export const encodeToolCall = (part: ToolCallPart, id: string, path: string, report: Report): Json | undefined => {
  const text = part.arguments.trim()
  const parsed = text === "" ? {} : parseJson(text)
  return isJson(parsed)
    ? extended(part, { type: "tool_use", id, name: part.name, input: parsed })
    : report.refuse(`${path}.arguments`, "the arguments of a tool call must be the JSON text of an object")
}

const encodeResultContent = (part: ToolResultContent, path: string, report: Report): Json | undefined => {
  switch (part.type) {
    case "text":
      return encodeText(part, report)
    case "image":
      return encodeImage(part, path, report)
    case "document":
      return encodeDocument(part, path, report)
    default:
      return report.refuse(path, "this provider takes no audio")
  }
}

/** The content blocks of a tool's result. */
export const encodeResult = (
  part: ToolResultPart,
  path: string,
  report: Report,
  breakpoint: (block: Json, path: string) => void
): ReadonlyArray<Json> => {
  const content: Array<Json> = []
  for (const [at, inner] of part.content.entries()) {
    const innerPath = `${path}.content[${at}]`
    const block = encodeResultContent(inner, innerPath, report)
    if (block === undefined) continue
    breakpoint(block, innerPath)
    content.push(block)
  }
  return content
}

/**
 * A `thinking` or `redacted_thinking` block, unmodified, or nothing where Anthropic could not verify it: thinking without
 * its signature, or another provider's.
 */
export const encodeReasoning = (part: ReasoningPart): Json | undefined => {
  const own = part.extensions?.[wire]
  if (part.wire === wire && part.data !== undefined) return { ...own, type: "redacted_thinking", data: part.data }
  if (part.wire !== undefined && part.wire !== wire) return undefined
  return part.signature === undefined || part.signature === ""
    ? undefined
    : { ...own, type: "thinking", thinking: part.text ?? "", signature: part.signature }
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks to parts
// ---------------------------------------------------------------------------------------------------------------------

const textKeys = new Set(["type", "text", "citations", "cache_control"])
const toolUseKeys = new Set(["type", "id", "name", "input", "cache_control"])
const thinkingKeys = new Set(["type", "thinking", "signature", "data"])

/** Reads `cache_control`; a form that the sdk does not know is kept among the part's extensions by `keyed`. */
const readCacheControl = (value: unknown): CacheControl | undefined => {
  if (!isJson(value) || value["type"] !== "ephemeral") return undefined
  const ttl = value["ttl"]
  const size = Object.keys(value).length
  if (ttl === undefined) return size === 1 ? { type: "ephemeral" } : undefined
  return (ttl === "5m" || ttl === "1h") && size === 2 ? { type: "ephemeral", ttl } : undefined
}

/** The cache breakpoint and the unknown fields of a block, in the form that canonical parts have them. */
export const keyed = (
  block: Json,
  known: ReadonlySet<string>
): { readonly cacheControl?: CacheControl; readonly extensions?: { readonly anthropic: Json } } => {
  const given = block["cache_control"]
  const cacheControl = readCacheControl(given)
  let fields = unknownFields(block, known)
  if (cacheControl === undefined && isJson(given)) fields = { ...fields, cache_control: given }
  return { ...(cacheControl === undefined ? {} : { cacheControl }), ...extensions(fields) }
}

/** Reads a text block. */
export const decodeText = (block: Json): TextPart => {
  const citations = block["citations"]
  return {
    type: "text",
    text: typeof block["text"] === "string" ? block["text"] : "",
    ...(isList(citations) && citations.length > 0 ? { citations } : {}),
    ...keyed(block, textKeys)
  }
}

/** Reads a `tool_use` block, or nothing where it lacks id or name. */
export const decodeToolUse = (block: Json): ToolCallPart | undefined => {
  const id = filled(block["id"])
  const name = filled(block["name"])
  if (id === undefined || name === undefined) return undefined
  return { type: "tool_call", id, name, arguments: JSON.stringify(block["input"] ?? {}), ...keyed(block, toolUseKeys) }
}

/** Reads a `thinking` or `redacted_thinking` block. Without a signature it is nobody's: it must not go back upstream. */
export const decodeThinking = (block: Json): ReasoningPart => {
  const text = filled(block["thinking"])
  const signature = filled(block["signature"])
  const data = block["type"] === "redacted_thinking" && typeof block["data"] === "string" ? block["data"] : undefined
  return {
    type: "reasoning",
    ...(text === undefined ? {} : { text }),
    ...(signature === undefined ? {} : { signature }),
    ...(data === undefined ? {} : { data }),
    ...(signature === undefined && data === undefined ? {} : { wire }),
    ...extensions(unknownFields(block, thinkingKeys))
  }
}

/** A block that the sdk has no part for. */
export const opaque = (block: Json): Part => ({ type: "opaque", wire, value: block })

/** Reads a block that the model made. `undefined` for one that breaks the protocol. */
export const decodeAnswerBlock = (block: Json): Part | undefined => {
  switch (block["type"]) {
    case "text":
      return decodeText(block)
    case "tool_use":
      return decodeToolUse(block)
    case "thinking":
    case "redacted_thinking":
      return decodeThinking(block)
    default:
      return typeof block["type"] === "string" ? opaque(block) : undefined
  }
}
