/** All the text of requests and answers, for interceptors that read and do not change it. */
import type { ChatRequest, ChatResponse } from "../../sdk/Chat.ts"
import type { Part } from "../../sdk/Content.ts"

const add = (part: Part, texts: Array<string>): void => {
  switch (part.type) {
    case "text":
    case "refusal":
      texts.push(part.text)
      break
    case "reasoning":
      if (part.text !== undefined) texts.push(part.text)
      break
    case "tool_call":
      texts.push(part.arguments)
      break
    case "tool_result":
      for (const inner of part.content) add(inner, texts)
      break
    case "document":
      if (part.title !== undefined) texts.push(part.title)
      if (part.context !== undefined) texts.push(part.context)
      if (part.source.type === "text") texts.push(part.source.text)
      break
    case "audio":
      if (part.transcript !== undefined) texts.push(part.transcript)
      break
    default:
  }
}

/** The texts of some content, in its order: also those within tool calls, their results and text documents. */
export const textsOf = (content: ReadonlyArray<Part>): ReadonlyArray<string> => {
  const texts: Array<string> = []
  for (const part of content) add(part, texts)
  return texts
}

/** The texts of each of a request's messages. */
export const requestTexts = (request: ChatRequest): ReadonlyArray<ReadonlyArray<string>> =>
  request.messages.map(({ content }) => textsOf(content))

/** The texts of an answer with all its alternatives. */
export const responseTexts = (response: ChatResponse): ReadonlyArray<string> =>
  [response, ...(response.alternatives ?? [])].flatMap(({ content }) => textsOf(content))
