/** What Ollama's protocol keeps beside the sdk's words, under its own name. */
import type { ExtensionReading } from "../ForeignExtensions.ts"

/** The wire's name, as in `extensions.ollama`. */
export const wire = "ollama"

/** How other wires read those fields. The one mark is the name of a tool that no call in the conversation names. */
export const ollamaExtensions: ExtensionReading = {
  marks: { request: new Map(), message: new Map(), part: new Map([["tool_name", true]]), tool: new Map() },
  members: new Set(["options", "function"])
}
