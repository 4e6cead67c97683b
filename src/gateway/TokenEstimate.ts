/**
 * Token counts where no provider tells any: for records of cancelled requests and of servers that report no usage. A rule
 * of thumb in linear time, not a tokenizer: about four ASCII characters to a token in English text, and about one other
 * character to a token in scripts that byte-pair encodings know less well. Always marked as estimated.
 *
 * Beside it the most that a prompt can come to, which is what budgets set aside.
 */
import { Buffer } from "node:buffer"
import type { ChatRequest } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"

/** An image costs between 85 and a few thousand tokens, by provider and size; this is a middle. */
const tokensPerImage = 800
/** Of a PDF's base64: three pages of 2,000 tokens are some 100 KB. */
const base64PerDocumentToken = 40
/** Of sound's base64: between 10 and 32 tokens a second, of some 32 KB. */
const base64PerAudioToken = 1500
/** What each message costs beside its text: role and separators. */
const tokensPerMessage = 4

/** Estimates the tokens of a text. */
export const estimateText = (text: string): number => {
  let ascii = 0
  for (let at = 0; at < text.length; at++) if (text.charCodeAt(at) < 128) ascii++
  return Math.ceil(ascii / 4 + (text.length - ascii))
}

const estimatePart = (part: Part): number => {
  switch (part.type) {
    case "text":
    case "refusal":
      return estimateText(part.text)
    case "reasoning":
      return estimateText(part.text ?? "")
    case "tool_call":
      return estimateText(part.name) + estimateText(part.arguments)
    case "tool_result":
      return part.content.reduce((sum, inner) => sum + estimatePart(inner), 0)
    case "image":
      return tokensPerImage
    case "document":
      if (part.source.type === "text") return estimateText(part.source.text)
      return part.source.type === "base64"
        ? Math.max(tokensPerImage, Math.ceil(part.source.data.length / base64PerDocumentToken))
        : tokensPerImage
    case "audio":
    case "video":
      return part.source.type === "base64"
        ? Math.ceil(part.source.data.length / base64PerAudioToken)
        : tokensPerImage
    case "opaque":
      return estimateText(JSON.stringify(part.value))
  }
}

/** Estimates the tokens of some content. */
export const estimateContent = (content: ReadonlyArray<Part>): number =>
  content.reduce((sum, part) => sum + estimatePart(part), 0)

/** Estimates the prompt's tokens, tools and the answer's schema included. */
export const estimateInput = (request: ChatRequest): number => {
  let tokens = 0
  for (const message of request.messages) tokens += tokensPerMessage + estimateContent(message.content)
  for (const tool of request.tools ?? []) tokens += estimateText(JSON.stringify(tool))
  if (request.responseSchema?.type === "json_schema") tokens += estimateText(JSON.stringify(request.responseSchema))
  return tokens
}

// ---------------------------------------------------------------------------------------------------------------------
// Upper bounds
// ---------------------------------------------------------------------------------------------------------------------

/** The most that an image costs with today's large models: Anthropic takes 4,784 tokens, OpenAI in full detail 10,000. */
const mostPerImage = 5_000
const mostPerOriginal = 10_000
/** Media that somebody else holds may fill the window of most models. */
const mostPerUnseen = 200_000
/** 32 tokens a second at 6 kbit/s, the least that speech is encoded with, are a token for 31 characters of base64. */
const leastBase64PerAudioToken = 16
/** What a provider writes around each message, in tokens, and into a prompt with tools or a schema (530 by Anthropic). */
const aroundMessage = 8
const aroundTools = 1_000
/** The longest number in JSON, and what is around a value, in tokens. */
const mostPerNumber = 24
const aroundValue = 4

/** The most tokens that a text comes to. */
export const mostOfText = (text: string): number => Buffer.byteLength(text)

/** The most that some JSON comes to: byte-pair encodings make no more tokens of a text than it has bytes of UTF-8. */
const mostOf = (value: unknown): number => {
  if (typeof value === "string") return Buffer.byteLength(value)
  if (typeof value !== "object" || value === null) return mostPerNumber
  let tokens = aroundValue
  if (Array.isArray(value)) { for (const element of value) tokens += mostOf(element) }
  else for (const [name, member] of Object.entries(value)) tokens += Buffer.byteLength(name) + mostOf(member)
  return tokens
}

const mostOfPart = (part: Part): number => {
  switch (part.type) {
    case "text":
      return part.citations === undefined && part.extensions === undefined ? mostOf(part.text) : mostOf(part)
    case "tool_result": {
      const { content, ...rest } = part
      return content.reduce((sum, inner) => sum + mostOfPart(inner), mostOf(rest))
    }
    case "image":
    case "audio":
    case "video":
    case "document": {
      const { source, ...rest } = part
      const told = mostOf(rest)
      if (part.type === "image") return told + (part.detail === "original" ? mostPerOriginal : mostPerImage)
      if (source.type === "text") return told + mostOf(source.text)
      if (source.type !== "base64") return told + mostPerUnseen
      const { length } = source.data
      return told +
        (part.type === "audio" ? Math.ceil(length / leastBase64PerAudioToken) : Math.max(mostPerImage, length))
    }
    default:
      return mostOf(part)
  }
}

/**
 * The most tokens that a prompt can come to, tools, schema and the fields of single wires included. Their schemas have to
 * be in the tools: a reference says nothing of its length.
 */
export const mostInput = ({ extensions, messages, responseSchema, tools }: ChatRequest): number => {
  let tokens = 0
  for (const { content, extensions: own, name } of messages) {
    tokens += aroundMessage
    if (name !== undefined) tokens += mostOf(name)
    if (own !== undefined) tokens += mostOf(own)
    for (const part of content) tokens += mostOfPart(part)
  }
  if (tools !== undefined && tools.length > 0) tokens += aroundTools + mostOf(tools)
  if (responseSchema !== undefined) tokens += aroundTools + mostOf(responseSchema)
  return extensions === undefined ? tokens : tokens + mostOf(extensions)
}
