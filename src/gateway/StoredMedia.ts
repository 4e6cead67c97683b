/**
 * Media that a request names by a file of the gateway's own (`{"type": "file", "id"}`, the file's address, or the id in the
 * place where OpenAI's SDKs have one of OpenAI's): read from the storage and put in the place of their names, so that every
 * provider gets them inline. What a file is comes from its content. Only the caller's own tenant's files are found.
 */
import { Effect, Stream } from "effect"
import type { ChatRequest, Message } from "../sdk/Chat.ts"
import type { DocumentSource, Part, ToolResultContent } from "../sdk/Content.ts"
import { fileIdOf, isFileId, type OpenFile, openFile } from "../sdk/FileStorage.ts"
import { fail, FileNotFound, type GatewayError, invalid, PayloadTooLarge } from "../sdk/GatewayError.ts"

/** Files that one request may name. */
const maxFiles = 100
/** Bytes of all of them; as base64 they are a third more, in memory. */
const maxBytes = 50_000_000
/** Files that are read at the same time. */
const concurrency = 4

/** The gateway's file that a source names. */
const idOf = (source: DocumentSource): string | undefined => {
  switch (source.type) {
    case "file":
      return source.id
    case "url":
      return source.url.startsWith("/") ? fileIdOf(source.url) : undefined
    case "provider_file":
      // OpenAI's own ids are shorter.
      return isFileId(source.id) ? source.id : undefined
    default:
      return undefined
  }
}

const idIn = (part: Part): string | undefined => "source" in part ? idOf(part.source) : undefined

/** Base64 as it is read: groups of three bytes become four letters, and what is left over waits for the next chunk. */
const base64Of = (content: OpenFile["content"]): Effect.Effect<string, GatewayError> =>
  Stream.runFold(content, () => ({ text: "", left: Buffer.alloc(0) }), ({ left, text }, chunk) => {
    const bytes = left.length === 0 ? Buffer.from(chunk) : Buffer.concat([left, chunk])
    const whole = bytes.length - bytes.length % 3
    return { text: text + bytes.toString("base64", 0, whole), left: Buffer.from(bytes.subarray(whole)) }
  }).pipe(Effect.map(({ left, text }) => text + left.toString("base64")))

/** What a request's files have come to, by their ids: each is read once, however often it is named. */
type Read = ReadonlyMap<string, { readonly mediaType: string; readonly data: string }>

const inline = <P extends Part | ToolResultContent>(part: P, read: Read): P => {
  const id = idIn(part)
  const found = id === undefined ? undefined : read.get(id)
  return found === undefined ? part : { ...part, source: { type: "base64", ...found } }
}

const inlined = (message: Message, read: Read): Message => ({
  ...message,
  content: message.content.map((part) =>
    part.type === "tool_result"
      ? { ...part, content: part.content.map((inner) => inline(inner, read)) }
      : inline(part, read)
  )
})

/** Where each file is named first. */
const namedIn = (request: ChatRequest): ReadonlyMap<string, string> => {
  const named = new Map<string, string>()
  const look = (part: Part, path: string): void => {
    const id = idIn(part)
    if (id !== undefined && !named.has(id)) named.set(id, path)
    if (part.type === "tool_result") {
      for (const [at, inner] of part.content.entries()) look(inner, `${path}.content[${at}]`)
    }
  }
  for (const [index, { content }] of request.messages.entries()) {
    for (const [at, part] of content.entries()) look(part, `messages[${index}].content[${at}]`)
  }
  return named
}

const namesFile = (part: Part): boolean =>
  idIn(part) !== undefined || (part.type === "tool_result" && part.content.some((inner) => idIn(inner) !== undefined))

const located = (path: string, id: string) => (error: GatewayError): GatewayError =>
  error.code === "file_not_found" || error.code === "not_found"
    ? fail(new FileNotFound({ message: `${path}: ${error.message}`, id }))
    : error

/** Whether a request names any. */
export const namesFiles = ({ messages }: ChatRequest): boolean =>
  messages.some(({ content }) => content.some(namesFile))

/**
 * The request with its files inline. Fails with `file_not_found`, naming the part, and with `payload_too_large` where the
 * files are too much together.
 */
export const withStoredMedia: (request: ChatRequest) => Effect.Effect<ChatRequest, GatewayError> = Effect.fnUntraced(
  function*(request: ChatRequest) {
    const named = namedIn(request)
    if (named.size > maxFiles) {
      return yield* fail(invalid("messages", `name more than ${maxFiles} files`))
    }
    const files = yield* Effect.forEach(
      named,
      ([id, path]) => Effect.map(Effect.mapError(openFile(id), located(path, id)), (file) => ({ id, file })),
      { concurrency }
    )
    const size = files.reduce((sum, { file }) => sum + file.info.bytes, 0)
    if (size > maxBytes) {
      return yield* fail(
        new PayloadTooLarge({ message: `the request's files are larger than ${maxBytes} bytes together`, maxBytes })
      )
    }
    const read: Read = new Map(
      yield* Effect.forEach(
        files,
        ({ file, id }) =>
          Effect.map(base64Of(file.content), (data) => [id, { mediaType: file.info.contentType, data }] as const),
        { concurrency }
      )
    )
    const [first, ...rest] = request.messages
    return { ...request, messages: [inlined(first, read), ...rest.map((message) => inlined(message, read))] }
  }
)
