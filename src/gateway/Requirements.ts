/** What a request needs from a model, found before a provider is called. */
import type { ChatRequest } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"
import { can, type Capability, type ModelInfo } from "../sdk/Model.ts"

const partCapability = (part: Part): Capability | undefined => {
  switch (part.type) {
    case "image":
      return "image_input"
    case "audio":
      return "audio_input"
    case "video":
      return "video_input"
    case "document":
      return "document_input"
    default:
      return undefined
  }
}

/** The capabilities that a chat request needs, each once. */
export const requirements = (request: ChatRequest): ReadonlyArray<Capability> => {
  const needed = new Set<Capability>(["text_output"])
  for (const message of request.messages) {
    for (const part of message.content) {
      const capability = partCapability(part)
      // Sound in the model's own earlier turns refers to what it said itself.
      if (capability !== undefined && !(message.role === "assistant" && part.type === "audio")) needed.add(capability)
      // What a model cannot see inside a tool's result, the codec can move to a place where it could; it still must see.
      if (part.type === "tool_result") {
        for (const inner of part.content) {
          const innerCapability = partCapability(inner)
          if (innerCapability !== undefined) needed.add(innerCapability)
        }
      }
    }
  }
  if (request.tools !== undefined && request.tools.length > 0) needed.add("tools")
  if (request.responseSchema?.type === "json_schema") needed.add("structured_output")
  return Array.from(needed)
}

/** Whether a model can do what is needed; a schema can also be had from a model that calls tools. */
export const satisfies = (model: ModelInfo, capability: Capability): boolean =>
  can(model, capability) || (capability === "structured_output" && can(model, "tools"))
