/** What Ollama's protocol keeps beside the sdk's words, under its own name. */
import type { ExtensionReading } from "../ForeignExtensions.ts"

/** The wire's name, as in `extensions.ollama`. */
export const wire = "ollama"

/**
 * The name of what belongs to `/api/generate` alone. It is in the extensions of every request that came there, and says to
 * the encoder that it goes there again. A name apart from the wire's, since `extensions.ollama` holds whatever a caller
 * writes into a body.
 */
export const generateWire = "ollama-generate"

/** How other wires read those fields. The one mark is the name of a tool that no call in the conversation names. */
export const ollamaExtensions: ExtensionReading = {
  marks: { request: new Map(), message: new Map(), part: new Map([["tool_name", true]]), tool: new Map() },
  members: new Set(["options", "function"])
}

const onlyGenerate = "only Ollama's own /api/generate takes it, and this request goes elsewhere"

/**
 * How other wires, and Ollama's chat, read what belongs to `/api/generate`: each decides what the model reads, so an answer
 * without it would be one to another question.
 */
export const generateExtensions: ExtensionReading = {
  marks: { request: new Map(), message: new Map(), part: new Map(), tool: new Map() },
  members: new Set(),
  refused: new Map([["raw", onlyGenerate], ["template", onlyGenerate], ["context", onlyGenerate]])
}
