/** What must hold for any chat request, whoever made it: checked once, after its dialect has decoded it. */
import { Result } from "effect"
import type { ChatRequest } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"
import { invalid, type ValidationError } from "../sdk/GatewayError.ts"

/** Refuses what no provider could answer, naming the field in the native spelling. */
export const validateChat = (request: ChatRequest): Result.Result<void, ValidationError> => {
  if (request.async === true) {
    return Result.fail(invalid("async", "jobs are not available in this version; leave the field out"))
  }
  const calls = new Set<string>()
  for (const [at, message] of request.messages.entries()) {
    for (const [index, part] of message.content.entries()) {
      const path = `messages[${at}].content[${index}]`
      const broken = brokenMedia(part, path)
      if (broken !== undefined) return Result.fail(invalid(broken, "must be standard base64, padded"))
      if (part.type === "tool_call") {
        if (message.role !== "assistant") return Result.fail(invalid(path, "only an assistant message can call a tool"))
        calls.add(part.id)
      } else if (part.type === "tool_result") {
        if (message.role !== "tool") {
          return Result.fail(invalid(path, "a tool's result belongs in a message of role tool"))
        }
        if (!calls.has(part.toolCallId)) {
          return Result.fail(invalid(`${path}.tool_call_id`, "there is no tool call of this id before its result"))
        }
      } else if (part.type === "opaque") {
        // A wire's own block may be a call (OpenAI's custom tools, Anthropic's server tools) or the result of one.
        const id = part.value["id"]
        if (message.role === "assistant" && typeof id === "string") calls.add(id)
      } else if (message.role === "tool") {
        return Result.fail(invalid(path, "a message of role tool holds only tool results"))
      }
    }
    if (message.role === "tool" && message.content.length === 0) {
      return Result.fail(invalid(`messages[${at}].content`, "a message of role tool needs a tool result"))
    }
  }
  return toolChoiceFits(request)
}

const notBase64 = /[^A-Za-z0-9+/]/
const isPadding = /^={1,2}$/

/** One forward scan without backtracking, about a millisecond per megabyte. */
const isBase64 = (text: string): boolean => {
  if (text.length === 0 || text.length % 4 !== 0) return false
  const at = text.search(notBase64)
  return at < 0 || (at >= text.length - 2 && isPadding.test(text.slice(at)))
}

/** Where a part holds inline media that is no base64. */
const brokenMedia = (part: Part, path: string): string | undefined => {
  switch (part.type) {
    case "image":
    case "audio":
    case "video":
    case "document":
      return part.source.type === "base64" && !isBase64(part.source.data) ? `${path}.source.data` : undefined
    case "tool_result":
      for (const [index, inner] of part.content.entries()) {
        const broken = brokenMedia(inner, `${path}.content[${index}]`)
        if (broken !== undefined) return broken
      }
      return undefined
    default:
      return undefined
  }
}

const toolChoiceFits = (request: ChatRequest): Result.Result<void, ValidationError> => {
  const choice = request.toolChoice
  if (choice === undefined || choice.type === "auto" || choice.type === "none") return Result.void
  if ((request.tools?.length ?? 0) === 0) {
    return Result.fail(invalid("tool_choice", "a tool can only be asked for where tools are given"))
  }
  return Result.void
}
