/**
 * Reasoning items (https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items). The readable text stands
 * in `summary`. What the provider must get back unchanged stands in `encrypted_content`, which callers hand back as it
 * is: the whole part, with its signature and the name of the wire that can read it. So thinking of any provider survives
 * an agent's loop, whatever the caller does to the summary, and another provider is never given a signature that is not its own.
 * Content in any other form is what OpenAI itself encrypted, handed through by the gateway, and goes back to such a provider alone.
 *
 * The content is `llmgw1.CHECKSUM.PAYLOAD`: base64url of JSON, and the head of its SHA-256. The checksum finds what was cut
 * or changed on its way. It proves nothing: whether thinking is genuine is the provider's to say, by its own signature.
 */
import { createHash } from "node:crypto"
import type { ChatChunk } from "../../../sdk/Chat.ts"
import type { Extensions, ReasoningPart } from "../../../sdk/Content.ts"
import { sourceOf } from "../../../sdk/Wire.ts"
import type { Json } from "../../Codec.ts"
import { absent, array, type Draft, isJson, object, parseJson, string } from "../../Json.ts"
import type { Report } from "../../Report.ts"
import { wire as openAi } from "../OpenAiExtensions.ts"
import { readExtensions } from "./ResponsesExtensions.ts"
import { decodeReasoningItem, thoughtOf } from "./ResponsesItems.ts"

const ours = "llmgw1."
const form = /^llmgw1\.([0-9a-f]{12})\.([A-Za-z0-9_-]+)$/

const checksum = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex").slice(0, 12)

/** The `encrypted_content` of a part; `undefined` where its summary says all of it. */
export const seal = (part: ReasoningPart): string | undefined => {
  const { data, extensions, signature, text, wire } = part
  if (data === undefined && extensions === undefined && signature === undefined && wire === undefined) return undefined
  // Always in this order, so that a stream seals to the same letters as the whole answer.
  const bytes = Buffer.from(JSON.stringify({ wire, text, signature, data, extensions }), "utf8")
  return `llmgw1.${checksum(bytes)}.${bytes.toString("base64url")}`
}

const optionalString = (value: unknown): boolean => value === undefined || typeof value === "string"

/** The part that was sealed; a text says what is wrong with the content. */
const unseal = (content: string): ReasoningPart | string => {
  const [, sum = "", encoded = ""] = form.exec(content) ?? []
  const bytes = Buffer.from(encoded, "base64url")
  const payload = checksum(bytes) === sum ? parseJson(bytes.toString("utf8")) : undefined
  const changed = "was changed or cut since the gateway made it; send it back exactly as it came, or leave the item out"
  if (!isJson(payload)) return changed
  const { data, extensions, signature, text, wire } = payload
  if (![data, signature, text, wire].every(optionalString)) return changed
  const part: Draft<ReasoningPart> = { type: "reasoning" }
  if (typeof text === "string") part.text = text
  if (typeof signature === "string") part.signature = signature
  if (typeof data === "string") part.data = data
  if (typeof wire === "string") part.wire = wire
  if (extensions !== undefined) {
    const read = readExtensions(extensions)
    if (read === undefined) return changed
    part.extensions = read
  }
  return part
}

/**
 * What a streamed piece of thinking carries for OpenAI-compatible servers: the detail of its event (OpenRouter's form), with
 * the text that the part has by now. A whole answer's decoder keeps each detail with its part; the pieces of a stream have
 * no place for one, so it is looked up in the event that the chunk was read from. An event with Anthropic's blocks was
 * read by those.
 */
export const detailOf = (
  chunk: ChatChunk,
  piece: Pick<ReasoningPart, "data" | "signature" | "text">,
  text: string | undefined
): Extensions | undefined => {
  const source = sourceOf(chunk, openAi)
  const choice = array(object(source?.json)?.["choices"]).find((choice) =>
    isJson(choice) && (choice["index"] ?? 0) === 0
  )
  const delta = object(object(choice)?.["delta"])
  if (delta === undefined || array(delta["thinking_blocks"]).length > 0) return undefined
  for (const detail of array(delta["reasoning_details"])) {
    if (!isJson(detail)) continue
    const key = typeof detail["summary"] === "string" && typeof detail["text"] !== "string" ? "summary" : "text"
    const isOf = piece.data !== undefined
      ? detail["data"] === piece.data
      : piece.signature !== undefined
      ? detail["signature"] === piece.signature
      : detail[key] === piece.text
    if (isOf) return { [openAi]: { detail: text === undefined ? detail : { ...detail, [key]: text } } }
  }
  return undefined
}

/** The item for a part that says anything. */
export const reasoningItem = (part: ReasoningPart, id: string): Json => {
  const sealed = seal(part)
  return {
    id,
    type: "reasoning",
    summary: part.text === undefined || part.text === "" ? [] : [{ type: "summary_text", text: part.text }],
    ...(sealed === undefined ? {} : { encrypted_content: sealed })
  }
}

/** The part of an item that a caller brings back; `undefined` where it says nothing, or cannot be read. */
export const readReasoningItem = (item: Json, at: string, report: Report): ReasoningPart | undefined => {
  const content = item["encrypted_content"]
  if (!absent(content)) {
    const sealed = string(content)
    if (sealed === undefined) return report.refuse(`${at}.encrypted_content`, "must be a string")
    if (!sealed.startsWith(ours)) return decodeReasoningItem(item)
    const part = unseal(sealed)
    return typeof part === "string" ? report.refuse(`${at}.encrypted_content`, part) : part
  }
  const text = thoughtOf(item)
  return text === "" ? undefined : { type: "reasoning", text }
}
