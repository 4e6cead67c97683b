/** What an `effect/ai` program asks, as the gateway's chat request. */
import { Effect } from "effect"
import { AiError, type LanguageModel, type Prompt, Tool } from "effect/ai"
import { Base64 } from "effect/encoding"
import type { ChatRequest, Message } from "../../sdk/Chat.ts"
import { type DocumentSource, type MediaSource, type Part, type ReasoningPart, text } from "../../sdk/Content.ts"
import type { ToolChoice, UnifiedTool } from "../../sdk/Tool.ts"

/** What a program may set for all of its requests beside what each of them says. */
export type ChatDefaults = Partial<
  Omit<ChatRequest, "model" | "messages" | "tools" | "toolChoice" | "responseSchema" | "stream" | "async">
>

/** The key under which parts keep what only the gateway understands. */
export const metadataKey = "llm-gateway"

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const textIn = (value: unknown, key: string): { readonly [Key in string]?: string } => {
  const found = isObject(value) ? value[key] : undefined
  return typeof found === "string" ? { [key]: found } : {}
}

/** Thinking goes back as it came: its signature stands in the part's options. */
const reasoning = ({ options, text }: Prompt.ReasoningPart): ReasoningPart => {
  const own = options[metadataKey]
  return {
    type: "reasoning",
    ...(text === "" ? {} : { text }),
    ...textIn(own, "signature"),
    ...textIn(own, "data"),
    ...textIn(own, "wire")
  }
}

const sourceOf = ({ data, mediaType }: Prompt.FilePart): MediaSource => {
  if (data instanceof URL) return { type: "url", url: data.href }
  if (typeof data !== "string") return { type: "base64", mediaType, data: Base64.encode(data) }
  if (/^https?:\/\//i.test(data)) return { type: "url", url: data }
  const inline = /^data:([^;,]+);base64,/i.exec(data)
  return inline === null
    ? { type: "base64", mediaType, data }
    : { type: "base64", mediaType: inline[1] ?? mediaType, data: data.slice(inline[0].length) }
}

const file = (part: Prompt.FilePart): Part => {
  const source = sourceOf(part)
  const [kind] = part.mediaType.split("/", 1)
  if (kind === "image" || kind === "audio" || kind === "video") return { type: kind, source }
  const document: DocumentSource = source
  return { type: "document", source: document, ...(part.fileName === undefined ? {} : { filename: part.fileName }) }
}

const resultText = (result: unknown): string => typeof result === "string" ? result : JSON.stringify(result) ?? ""

const toolResult = ({ id, isFailure, modelOutput, result }: Prompt.ToolResultPart): Part => ({
  type: "tool_result",
  toolCallId: id,
  content: modelOutput === undefined
    ? [text(resultText(result))]
    : modelOutput.flatMap((part) => {
      const made = part.type === "text" ? text(part.text) : file(part)
      return made.type === "text" || made.type === "image" || made.type === "document" || made.type === "audio"
        ? [made]
        : []
    }),
  ...(isFailure ? { isError: true } : {})
})

const assistantPart = (part: Prompt.AssistantMessagePart): ReadonlyArray<Part> => {
  switch (part.type) {
    case "text":
      return [text(part.text)]
    case "reasoning":
      return [reasoning(part)]
    case "file":
      return [file(part)]
    case "tool-call":
      return [{ type: "tool_call", id: part.id, name: part.name, arguments: JSON.stringify(part.params) }]
    default:
      // What the provider has run by itself, and approvals, are between it and its own toolkit.
      return []
  }
}

const messageOf = (message: Prompt.Message): Message => {
  switch (message.role) {
    case "system":
      return { role: "system", content: [text(message.content)] }
    case "user":
      return {
        role: "user",
        content: message.content.map((part) => part.type === "text" ? text(part.text) : file(part))
      }
    case "assistant":
      return { role: "assistant", content: message.content.flatMap(assistantPart) }
    case "tool":
      return {
        role: "tool",
        content: message.content.flatMap((part) => part.type === "tool-result" ? [toolResult(part)] : [])
      }
  }
}

const toolOf = (tool: Tool.Any): UnifiedTool => {
  const description = Tool.getDescription(tool)
  const strict = Tool.getStrictMode(tool)
  return {
    type: "unified",
    name: tool.name,
    ...(description === undefined ? {} : { description }),
    ...(strict === undefined ? {} : { strict }),
    parameters: { ...Tool.getJsonSchema(tool) }
  }
}

const choiceOf = (choice: LanguageModel.ToolChoice<string>): ToolChoice => {
  if (typeof choice === "string") return { type: choice }
  return "tool" in choice
    ? { type: "tool", name: choice.tool }
    : { type: "allowed", mode: choice.mode ?? "auto", names: [...choice.oneOf] }
}

const nothingAsked = AiError.make({
  module: "GatewayLanguageModel",
  method: "request",
  reason: new AiError.InvalidRequestError({ description: "the prompt holds no message" })
})

/** The request of a program; fails where there is nothing in it to answer. */
export const requestOf = (
  model: string,
  { prompt, responseFormat, toolChoice, tools }: LanguageModel.ProviderOptions,
  defaults: ChatDefaults
): Effect.Effect<ChatRequest, AiError.AiError> => {
  const [first, ...others] = prompt.content.map(messageOf).filter(({ content }) => content.length > 0)
  if (first === undefined) return Effect.fail(nothingAsked)
  return Effect.succeed({
    ...defaults,
    model,
    messages: [first, ...others],
    ...(tools.length === 0 ? {} : { tools: tools.map(toolOf), toolChoice: choiceOf(toolChoice) }),
    ...(responseFormat.type === "text" ? {} : {
      responseSchema: {
        type: "json_schema",
        name: responseFormat.objectName,
        schema: { ...Tool.getJsonSchemaFromSchema(responseFormat.schema) }
      }
    })
  })
}
