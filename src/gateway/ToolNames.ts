/**
 * Between the GTS identifiers by which a caller knows its tools and the names by which a provider does. Providers allow
 * few characters in a name, so a tool with a GTS schema goes out under a derived one; callers write and read identifiers,
 * in their tool choice, in the calls of earlier turns and in the answer.
 */
import type { ChatChunk, ChatRequest, ChatResponse, Message, PartDelta } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"
import type { ToolChoice } from "../sdk/Tool.ts"
import { withoutRepeated } from "../sdk/Wire.ts"

/** The GTS identifier behind each name that was derived from one. */
export type ToolNames = ReadonlyMap<string, string>

/** The request with identifiers replaced by the names that the provider knows. */
export const toProviderNames = <R extends Pick<ChatRequest, "messages" | "toolChoice">>(
  request: R,
  names: ToolNames
): R => {
  if (names.size === 0) return request
  const byId = new Map(Array.from(names, ([name, id]) => [id, name]))
  const nameOf = (id: string): string => byId.get(id.replace(/^gts:\/\//, "")) ?? id
  const [first, ...rest] = request.messages
  const messages: ChatRequest["messages"] = [
    callsRenamed(first, nameOf),
    ...rest.map((message) => callsRenamed(message, nameOf))
  ]
  return request.toolChoice === undefined
    ? { ...request, messages }
    : { ...request, messages, toolChoice: choiceRenamed(request.toolChoice, nameOf) }
}

const callsRenamed = (message: Message, nameOf: (id: string) => string): Message =>
  message.content.some((part) => part.type === "tool_call")
    ? { ...message, content: partsRenamed(message.content, nameOf) }
    : message

const partsRenamed = (content: ReadonlyArray<Part>, nameOf: (id: string) => string): ReadonlyArray<Part> =>
  content.map((part) => part.type === "tool_call" ? { ...part, name: nameOf(part.name) } : part)

const choiceRenamed = (choice: ToolChoice, nameOf: (id: string) => string): ToolChoice => {
  switch (choice.type) {
    case "tool":
      return { ...choice, name: nameOf(choice.name) }
    case "allowed":
      return { ...choice, names: choice.names.map(nameOf) }
    default:
      return choice
  }
}

/** The answer with the caller's identifiers. */
export const toCallerNames = (response: ChatResponse, names: ToolNames): ChatResponse => {
  if (names.size === 0) return response
  const idOf = (name: string): string => names.get(name) ?? name
  return {
    ...response,
    content: partsRenamed(response.content, idOf),
    ...(response.alternatives === undefined ? {} : {
      alternatives: response.alternatives.map((answer) => ({ ...answer, content: partsRenamed(answer.content, idOf) }))
    })
  }
}

/** A chunk of the answer with the caller's identifiers. */
export const chunkToCallerNames = (chunk: ChatChunk, names: ToolNames): ChatChunk =>
  names.size === 0
    ? chunk
    : !chunk.delta.some((delta) => delta.type === "tool_call" && delta.name !== undefined)
    ? withoutRepeated(chunk)
    : {
      ...chunk,
      delta: chunk.delta.map((delta): PartDelta =>
        delta.type === "tool_call" && delta.name !== undefined
          ? { ...delta, name: names.get(delta.name) ?? delta.name }
          : delta
      )
    }
