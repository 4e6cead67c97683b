/**
 * The two forms of Ollama's answers. `/api/chat` answers with a message, `/api/generate` with `response` and `thinking` beside
 * each other; model, moment, reason, counts and durations are the same in both (`api/types.go`, `ChatResponse` and
 * `GenerateResponse`). Everything that reads or writes an answer does so through one of them.
 */
import type { Json } from "../Codec.ts"
import { absent, array, isJson } from "../Json.ts"
import { generateWire, wire } from "./OllamaExtensions.ts"

/** What an answer, or one line of a stream, says. Tool calls are in the wire's own form. */
export interface Said {
  readonly content: string
  readonly thinking?: string
  readonly images?: ReadonlyArray<string>
  readonly tool_calls?: ReadonlyArray<Json>
}

/** One form of answers. */
export interface AnswerForm {
  /** The name under which a decoded value remembers its original: an original is handed on in its own form alone. */
  readonly source: string
  /** The members that have a canonical meaning. */
  readonly fields: ReadonlySet<string>
  /** What an answer or a line says, as a chat's message; `undefined` where it is not of this form. */
  readonly read: (json: Json) => Json | undefined
  readonly write: (said: Said) => Json
  /** JSON members, without the braces, that say one thing. */
  readonly line: <Key extends keyof Said>(key: Key, value: Said[Key]) => string
}

const common = ["model", "created_at", "done", "done_reason", "prompt_eval_count", "eval_count"]

/** Answers of `/api/chat`. */
export const chatForm: AnswerForm = {
  source: wire,
  fields: new Set([...common, "message"]),
  read: (json) => isJson(json["message"]) ? json["message"] : undefined,
  write: (said) => ({ message: { role: "assistant", ...said } }),
  line: (key, value) => {
    const content = key === "content" ? "" : `"content":"",`
    return `"message":{"role":"assistant",${content}"${key}":${JSON.stringify(value)}}`
  }
}

/** Answers of `/api/generate`. It has room for one image, so of several the first is told. */
export const generateForm: AnswerForm = {
  source: generateWire,
  fields: new Set([...common, "response", "thinking", "tool_calls", "image"]),
  read: (json) => {
    const { image, response, thinking, tool_calls: calls } = json
    if (typeof response !== "string") return undefined
    return { content: response, thinking, tool_calls: calls, ...(absent(image) ? {} : { images: [image] }) }
  },
  write: ({ content, images, ...said }) => ({
    response: content,
    ...said,
    ...(images?.[0] === undefined ? {} : { image: images[0] })
  }),
  line: (key, value) => {
    if (key === "content") return `"response":${JSON.stringify(value)}`
    return key === "images"
      ? `"response":"","image":${JSON.stringify(array(value)[0] ?? "")}`
      : `"response":"","${key}":${JSON.stringify(value)}`
  }
}
