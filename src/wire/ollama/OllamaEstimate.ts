/**
 * Token estimates by the characters-over-four rule, for the two places where Ollama leaves a number open:
 *
 * - `num_ctx`: a server's context defaults to as little as 4096 tokens whatever the model can do, and it cuts longer
 *   conversations silently. So a request that may not fit is given a `num_ctx` that it fits into.
 * - `prompt_eval_count`: left out of an answer whose whole prompt was cached (Go's `omitempty`).
 *
 * The rule needs no tokenizer (each model family has its own) and is within about a third for prose and code.
 */
import type { Part } from "../../sdk/Content.ts"
import type { ChatCall } from "../../sdk/Provider.ts"

const charsPerToken = 4
/** What chat templates put around each message. */
const tokensPerMessage = 4
/** What one image costs, roughly: LLaVA takes 576 tokens, newer vision models up to a few thousand. */
const tokensPerImage = 1024
/** Room for an answer whose length the caller left open. */
const defaultOutput = 2048
/** Ollama's smallest default context (`OLLAMA_CONTEXT_LENGTH`: 4k, 32k or 256k by the machine's memory). */
const defaultContext = 4096

/** Tokens in so many characters; at least one where there are any. */
export const tokensOfChars = (chars: number): number => Math.ceil(chars / charsPerToken)

const tokensOfPart = (part: Part): number => {
  switch (part.type) {
    case "text":
    case "refusal":
      return tokensOfChars(part.text.length)
    case "reasoning":
      return tokensOfChars(part.text?.length ?? 0)
    case "image":
      return tokensPerImage
    case "document":
      if (part.source.type === "text") return tokensOfChars(part.source.text.length)
      return part.source.type === "base64" ? tokensOfChars(part.source.data.length * 0.75) : 0
    case "tool_call":
      return tokensOfChars(part.name.length + part.arguments.length)
    case "tool_result": {
      let total = 0
      for (const inner of part.content) total += tokensOfPart(inner)
      return total
    }
    default:
      return 0
  }
}

/** Tokens that the prompt of a call will take, roughly: messages, images, tools and the response schema. */
export const estimatePrompt = (request: ChatCall["request"]): number => {
  let total = 0
  for (const message of request.messages) {
    total += tokensPerMessage
    for (const part of message.content) total += tokensOfPart(part)
  }
  if (request.tools !== undefined && request.toolChoice?.type !== "none") {
    total += tokensOfChars(JSON.stringify(request.tools).length)
  }
  return total
}

/**
 * The `num_ctx` for a call, or `undefined` where Ollama's default is enough: prompt and answer (2048 tokens where the
 * caller set no limit), rounded up to a power of two and capped by the model's context window. Powers of two keep
 * the number of different values small, because Ollama reloads a model whenever its `num_ctx` changes.
 */
export const contextFor = (call: ChatCall): number | undefined => {
  const needed = estimatePrompt(call.request) + (call.request.maxOutputTokens ?? defaultOutput)
  const window = call.model.contextWindow
  if (needed <= defaultContext || (window !== undefined && window <= defaultContext)) return undefined
  let size = defaultContext * 2
  while (size < needed) size *= 2
  return window === undefined ? size : Math.min(size, window)
}
