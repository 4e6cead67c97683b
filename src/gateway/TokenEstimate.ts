/**
 * Token counts where no provider tells any: for records of cancelled requests and of servers that report no usage. A rule
 * of thumb in linear time, not a tokenizer: about four ASCII characters to a token in English text, and about one other
 * character to a token in scripts that byte-pair encodings know less well. Always marked as estimated.
 */
import type { ChatRequest } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"

/** An image costs between 85 and a few thousand tokens, by provider and size; this is a middle. */
const tokensPerImage = 800
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
      return part.source.type === "text" ? estimateText(part.source.text) : tokensPerImage
    default:
      return 0
  }
}

/** Estimates the tokens of some content. */
export const estimateContent = (content: ReadonlyArray<Part>): number =>
  content.reduce((sum, part) => sum + estimatePart(part), 0)

/** Estimates the prompt's tokens, tools included. */
export const estimateInput = (request: ChatRequest): number => {
  let tokens = 0
  for (const message of request.messages) tokens += tokensPerMessage + estimateContent(message.content)
  for (const tool of request.tools ?? []) tokens += estimateText(JSON.stringify(tool))
  return tokens
}
