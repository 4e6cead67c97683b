/**
 * Where text stands in requests and answers. A value in which nothing changes is given back itself, so that nobody pays for
 * a copy and an answer keeps its source.
 *
 * Not looked into: images, sound, video, documents that are not plain text, parts and fields of one wire alone (`opaque`,
 * `extensions`), names and ids, tools and schemas, and reasoning that is signed, since its signature is for the text as it is.
 */
import type { Alternative, ChatRequest, ChatResponse, Message } from "../../../sdk/Chat.ts"
import type { DocumentPart, Extensions, Part, ToolResultContent } from "../../../sdk/Content.ts"

/** What becomes of texts. */
export interface Texts {
  readonly text: (value: string) => string
  /** JSON text, as a tool call's arguments are. */
  readonly json: (value: string) => string
}

/** The list with each item mapped, or the same list where none changed. */
const mapped = <A>(items: ReadonlyArray<A>, map: (item: A) => A): ReadonlyArray<A> => {
  let changed: Array<A> | undefined
  for (const [index, item] of items.entries()) {
    const next = map(item)
    if (next === item) continue
    changed ??= Array.from(items)
    changed[index] = next
  }
  return changed ?? items
}

/** How deep a citation is looked into. */
const maxDepth = 8

/** A provider's own object with the texts in it mapped; what is encrypted, an id or a type is no text. */
const json = (value: unknown, texts: Texts, depth = 0): unknown => {
  if (typeof value === "string") return texts.text(value)
  if (depth === maxDepth || typeof value !== "object" || value === null) return value
  if (Array.isArray(value)) {
    const list: ReadonlyArray<unknown> = value
    return mapped(list, (item) => json(item, texts, depth + 1))
  }
  let changed: Record<string, unknown> | undefined
  for (const [key, item] of Object.entries(value)) {
    if (key === "type" || key === "id" || key.endsWith("_id") || key.startsWith("encrypted")) continue
    const next = json(item, texts, depth + 1)
    if (next === item) continue
    changed ??= { ...value }
    changed[key] = next
  }
  return changed ?? value
}

/** Citations with the texts in them mapped. */
export const mapCitations = (citations: ReadonlyArray<unknown>, texts: Texts): ReadonlyArray<unknown> =>
  mapped(citations, (citation) => json(citation, texts))

const mapDocument = (part: DocumentPart, texts: Texts): DocumentPart => {
  const source = part.source.type === "text" ? texts.text(part.source.text) : undefined
  const title = part.title === undefined ? undefined : texts.text(part.title)
  const context = part.context === undefined ? undefined : texts.text(part.context)
  const filename = part.filename === undefined ? undefined : texts.text(part.filename)
  const sourceChanged = part.source.type === "text" && source !== undefined && source !== part.source.text
  if (!sourceChanged && title === part.title && context === part.context && filename === part.filename) return part
  return {
    ...part,
    ...(sourceChanged ? { source: { type: "text", text: source } } : {}),
    ...(title === undefined ? {} : { title }),
    ...(context === undefined ? {} : { context }),
    ...(filename === undefined ? {} : { filename })
  }
}

function mapOf(part: ToolResultContent, texts: Texts): ToolResultContent
function mapOf(part: Part, texts: Texts): Part
function mapOf(part: Part, texts: Texts): Part {
  switch (part.type) {
    case "text": {
      const text = texts.text(part.text)
      const citations = part.citations === undefined ? undefined : mapCitations(part.citations, texts)
      if (text === part.text && citations === part.citations) return part
      return { ...part, text, ...(citations === undefined ? {} : { citations }) }
    }
    case "refusal": {
      const text = texts.text(part.text)
      return text === part.text ? part : { ...part, text }
    }
    case "reasoning": {
      if (part.text === undefined || part.signature !== undefined) return part
      const text = texts.text(part.text)
      return text === part.text ? part : { ...part, text }
    }
    case "tool_call": {
      const args = texts.json(part.arguments)
      return args === part.arguments ? part : { ...part, arguments: args }
    }
    case "tool_result": {
      const content = mapped(part.content, (item) => mapOf(item, texts))
      return content === part.content ? part : { ...part, content }
    }
    case "document":
      return mapDocument(part, texts)
    case "audio": {
      if (part.transcript === undefined) return part
      const transcript = texts.text(part.transcript)
      return transcript === part.transcript ? part : { ...part, transcript }
    }
    default:
      return part
  }
}

/** A part with its texts mapped. */
export const mapPart = (part: Part, texts: Texts): Part => mapOf(part, texts)

/** A message with its texts mapped. */
export const mapMessage = (message: Message, texts: Texts): Message => {
  const content = mapped(message.content, (part) => mapPart(part, texts))
  return content === message.content ? message : { ...message, content }
}

/** A request with these messages. */
export const withMessages = (request: ChatRequest, messages: ReadonlyArray<Message>): ChatRequest => {
  const [first, ...others] = messages
  return first === undefined ? request : { ...request, messages: [first, ...others] }
}

const isFields = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** A wire's own fields without log probabilities, which name each token of the text as it was. */
export const withoutLogprobs = (extensions: Extensions): Extensions => {
  let changed: Record<string, Record<string, unknown>> | undefined
  for (const [wire, fields] of Object.entries(extensions)) {
    const { choice } = fields
    const within = isFields(choice) && "logprobs" in choice
    if (!within && !("logprobs" in fields)) continue
    const { logprobs: _fields, ...kept } = fields
    const { logprobs: _choice, ...others } = within ? choice : {}
    changed ??= { ...extensions }
    changed[wire] = within ? { ...kept, choice: others } : kept
  }
  return changed ?? extensions
}

const mapChoice = <A extends Alternative>(choice: A, texts: Texts): A => {
  const content = mapped(choice.content, (part) => mapPart(part, texts))
  if (content === choice.content) return choice
  return {
    ...choice,
    content,
    ...(choice.extensions === undefined ? {} : { extensions: withoutLogprobs(choice.extensions) })
  }
}

/** An answer with its texts mapped. */
export const mapResponse = (response: ChatResponse, texts: Texts): ChatResponse => {
  const first = mapChoice(response, texts)
  if (first.alternatives === undefined) return first
  const alternatives = mapped(first.alternatives, (choice) => mapChoice(choice, texts))
  return alternatives === first.alternatives ? first : { ...first, alternatives }
}
