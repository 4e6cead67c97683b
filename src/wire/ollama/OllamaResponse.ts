/**
 * Ollama's whole answers, both ways, and what they share with streams: how a message's fields are read as parts, how
 * counts become usage, how done reasons map (`api/types.go`, `ChatResponse`). The form of an answer, a chat's or that of
 * `/api/generate`, is the caller's to say.
 *
 * An answer is `{model, created_at, message, done, done_reason}` with counts and durations (ns) beside it. It has no
 * id, so one is made up. Everything without a canonical word (durations, `logprobs`, `remote_model`, …) is kept in
 * `extensions.ollama`.
 */
import { Result } from "effect"
import type { ChatRequest, ChatResponse, FinishReason } from "../../sdk/Chat.ts"
import type { Extensions, Part } from "../../sdk/Content.ts"
import type { ChatCall, Failure } from "../../sdk/Provider.ts"
import { totalInput, totalOutput, type Usage } from "../../sdk/Usage.ts"
import { sourcedResponse, sourceOf } from "../../sdk/Wire.ts"
import type { Json } from "../Codec.ts"
import { errorText, failureOf, protocolFailure } from "./OllamaError.ts"
import { estimatePrompt, tokensOfChars } from "./OllamaEstimate.ts"
import { imagePart } from "./OllamaImage.ts"
import { argumentsObject, count, isJson, isList, unknownFields } from "../Json.ts"
import { wire } from "./OllamaExtensions.ts"
import type { AnswerForm, Said } from "./OllamaForm.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Reading messages
// ---------------------------------------------------------------------------------------------------------------------

/** A message of an answer, or what one line of a stream holds of it. */
export interface ReadMessage {
  readonly thinking: string
  readonly content: string
  readonly images: ReadonlyArray<string>
  readonly calls: ReadonlyArray<{ readonly id: string; readonly name: string; readonly arguments: string }>
}

const noImages: ReadonlyArray<string> = []

/** `arguments` is an object in Ollama; servers that imitate it send JSON text, which is kept as it came. */
const argumentsText = (value: unknown): string => {
  if (typeof value === "string") return value
  return value === undefined || value === null ? "{}" : JSON.stringify(value)
}

/** Reads `message`; a tool call without a name, or a field of the wrong type, is a broken protocol. */
export const readMessage = (json: unknown): Result.Result<ReadMessage, Failure> => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider sent an answer without a message"))
  const { content, images, thinking, tool_calls: calls } = json
  const read: Array<ReadMessage["calls"][number]> = []
  if (isList(calls)) {
    for (const call of calls) {
      const details = isJson(call) ? call["function"] : undefined
      const name = isJson(details) ? details["name"] : undefined
      if (!isJson(call) || !isJson(details) || typeof name !== "string" || name === "") {
        return Result.fail(protocolFailure("the provider sent a tool call without a name"))
      }
      const id = call["id"]
      read.push({
        // Servers before ids existed send none; `index` is 0 in every one of their streamed calls, so it is not used.
        id: typeof id === "string" && id !== "" ? id : `call_${crypto.randomUUID()}`,
        name,
        arguments: argumentsText(details["arguments"])
      })
    }
  }
  return Result.succeed({
    thinking: typeof thinking === "string" ? thinking : "",
    content: typeof content === "string" ? content : "",
    images: isList(images)
      ? images.filter((image): image is string => typeof image === "string" && image !== "")
      : noImages,
    calls: read
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Counts, reasons, moments
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Usage of an answer. Counts that are zero are left out by the server, and the prompt's is zero where all of it was
 * cached, although a prompt is never empty: it is estimated then. The same holds for the answer's, if it has content.
 */
export const readUsage = (json: Json, outputChars: number, call: ChatCall): Usage => {
  const prompt = count(json["prompt_eval_count"])
  const answer = count(json["eval_count"])
  const guessPrompt = prompt === undefined || prompt === 0
  const guessAnswer = answer === undefined && outputChars > 0
  return {
    inputTokens: guessPrompt ? estimatePrompt(call.request) : prompt,
    outputTokens: answer ?? tokensOfChars(outputChars),
    ...(guessPrompt || guessAnswer ? { estimated: true } : {})
  }
}

/** Why an answer ended, by Ollama's word and by whether it holds tool calls. Very old servers have no word: `stop`. */
export const finishReasonOf = (reason: string | undefined, called: boolean): FinishReason => {
  switch (reason) {
    case undefined:
    case "stop":
      // Ollama says `stop` for turns that end in tool calls.
      return called ? "tool_calls" : "stop"
    case "length":
    case "content_filter":
      return reason
    default:
      return "other"
  }
}

/** Ollama's word for a finish reason. `content_filter` is not one of its own, but its field is a free text. */
export const doneReasonOf = (reason: FinishReason, native: string | undefined): string => {
  switch (reason) {
    case "stop":
    case "tool_calls":
      return "stop"
    case "other":
      return native ?? "other"
    default:
      return reason
  }
}

/** Unix seconds of `created_at`, RFC 3339 with up to nanoseconds; `undefined` for anything else and for Go's year 1. */
export const readCreated = (value: unknown): number | undefined => {
  const at = typeof value === "string" && value.length <= 64 ? Date.parse(value) : Number.NaN
  return at >= 0 ? Math.floor(at / 1000) : undefined
}

/** `created_at` for Unix seconds. Clients require the field, so an answer without a moment gets the present one. */
export const writeCreated = (created: number | undefined): string => {
  const at = created === undefined ? new Date() : new Date(created * 1000)
  return Number.isNaN(at.getTime()) ? new Date(0).toISOString() : at.toISOString()
}

/** What an answer says beside the canonical fields. */
export const readExtensions = (
  json: Json,
  { fields }: AnswerForm
): { readonly extensions?: { readonly [wire]: Json } } => {
  const extra = unknownFields(json, fields)
  return extra === undefined ? {} : { extensions: { [wire]: extra } }
}

/** An id for an answer: Ollama gives none. */
export const makeId = (): string => `ollama-${crypto.randomUUID()}`

/** The failure that a body or a line with `error` in it tells of, whatever the status was. */
export const readError = (json: Json): Failure | undefined => {
  const error = json["error"]
  if (error === undefined || error === null) return undefined
  const status = count(json["status"])
  return failureOf(
    errorText(error) ?? "the provider failed without saying why",
    status !== undefined && status >= 400 ? status : undefined
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Decoding
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Reads a whole answer. Its parts stand in the order reasoning, text, images, tool calls, which is the only order that
 * Ollama's message can say. Fails with the upstream's error where the body holds one, and with `protocol` where it is
 * no answer of Ollama's, or one that is not done.
 */
export const decodeResponse = (
  text: string,
  json: unknown,
  call: ChatCall,
  form: AnswerForm
): Result.Result<ChatResponse, Failure> => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's answer is not a JSON object"))
  const error = readError(json)
  if (error !== undefined) return Result.fail(error)
  const read = readMessage(form.read(json))
  if (Result.isFailure(read)) return Result.fail(read.failure)
  if (json["done"] === false) return Result.fail(protocolFailure("the provider's answer is not complete"))
  const message = read.success
  const content: Array<Part> = []
  let outputChars = message.thinking.length + message.content.length
  if (message.thinking !== "") content.push({ type: "reasoning", text: message.thinking, wire })
  if (message.content !== "") content.push({ type: "text", text: message.content })
  for (const image of message.images) content.push(imagePart(image))
  for (const toolCall of message.calls) {
    content.push({ type: "tool_call", ...toolCall })
    outputChars += toolCall.name.length + toolCall.arguments.length
  }
  const { done_reason: reason, model } = json
  const native = typeof reason === "string" && reason !== "" ? reason : undefined
  const created = readCreated(json["created_at"])
  return Result.succeed(sourcedResponse({
    id: makeId(),
    model: typeof model === "string" && model !== "" ? model : call.model.model,
    ...(created === undefined ? {} : { created }),
    content,
    finishReason: finishReasonOf(native, message.calls.length > 0),
    ...(native === undefined ? {} : { nativeFinishReason: native }),
    usage: readUsage(json, outputChars, call),
    ...readExtensions(json, form)
  }, { wire: form.source, text, json }))
}

// ---------------------------------------------------------------------------------------------------------------------
// Encoding
// ---------------------------------------------------------------------------------------------------------------------

/** The text that stands for a part in `content`: also what Ollama has no field for but a reader can use. */
export const contentText = (part: Part): string => {
  switch (part.type) {
    case "text":
    case "refusal":
      return part.text
    case "audio":
      return part.transcript ?? ""
    case "image":
      return part.source.type === "url" ? part.source.url : ""
    default:
      return ""
  }
}

/** Counts for the last line of an answer; none where nothing is known. */
export const writeUsage = (usage: Usage | undefined): Json =>
  usage === undefined ? {} : { prompt_eval_count: totalInput(usage), eval_count: totalOutput(usage) }

/**
 * The log probabilities of an answer that came over OpenAI's protocol, where they are token for token in the form that Ollama
 * took over (`api/types.go`, `Logprob`).
 */
export const openAiLogprobs = (extensions: Extensions | undefined): ReadonlyArray<unknown> | undefined => {
  const choice = extensions?.["openai"]?.["choice"]
  const logprobs = isJson(choice) ? choice["logprobs"] : undefined
  return isJson(logprobs) && isList(logprobs["content"]) ? logprobs["content"] : undefined
}

/** How long an answer took as the gateway saw it, ms. Providers other than Ollama tell no durations. */
export interface Timing {
  readonly total: number
  /** Until the first content, where that is known. */
  readonly firstContent?: number | undefined
}

const nanoseconds = (ms: number): number => Math.max(0, Math.round(ms * 1e6))

/**
 * Durations in ns. Clients require them, and reckon tokens a second with `eval_duration`. Nothing is loaded; reading the prompt
 * lasts until the first content, and where that is not known it counts as nothing.
 */
export const writeDurations = (timing: Timing | undefined): Json => {
  const total = timing?.total ?? 0
  const first = Math.min(total, timing?.firstContent ?? 0)
  return {
    total_duration: nanoseconds(total),
    load_duration: 0,
    prompt_eval_duration: nanoseconds(first),
    eval_duration: nanoseconds(total - first)
  }
}

/**
 * Writes a whole answer in one of the two forms. One that came from Ollama in the same form and was not changed is handed on as
 * it stood, but for `model`, which in Ollama's answers is what was asked for (`server/routes.go`). Ollama has one answer to a
 * request, so `alternatives` are left out, and so are documents, videos and blocks of other wires.
 */
export const encodeResponse = (
  response: ChatResponse,
  { model }: ChatRequest,
  form: AnswerForm,
  timing?: Timing
): Json => {
  const source = sourceOf(response, form.source)
  if (source !== undefined && isJson(source.json)) {
    return source.json["model"] === model ? source.json : { ...source.json, model }
  }
  let content = ""
  let thinking = ""
  const images: Array<string> = []
  const calls: Array<Json> = []
  for (const part of response.content) {
    if (part.type === "reasoning") thinking += part.text ?? ""
    else if (part.type === "image" && part.source.type === "base64") images.push(part.source.data)
    else if (part.type === "tool_call") {
      calls.push({
        id: part.id,
        function: { index: calls.length, name: part.name, arguments: argumentsObject(part.arguments) }
      })
    } else content += contentText(part)
  }
  const said: Said = {
    content,
    ...(thinking === "" ? {} : { thinking }),
    ...(images.length === 0 ? {} : { images }),
    ...(calls.length === 0 ? {} : { tool_calls: calls })
  }
  const logprobs = openAiLogprobs(response.extensions)
  return {
    model,
    created_at: writeCreated(response.created),
    ...form.write(said),
    ...(logprobs === undefined ? {} : { logprobs }),
    done: true,
    done_reason: doneReasonOf(response.finishReason, response.nativeFinishReason),
    ...writeDurations(timing),
    ...writeUsage(response.usage),
    ...response.extensions?.[wire]
  }
}

/**
 * The answer to a request without a prompt, which asks Ollama to load a model, or with `keep_alive: 0` to unload it
 * (`docs/api.md`). A gateway has nothing to load, so it is done at once.
 */
export const encodeLoaded = (model: string, form: AnswerForm, unload: boolean): Json => ({
  model,
  created_at: writeCreated(undefined),
  ...form.write({ content: "" }),
  done: true,
  done_reason: unload ? "unload" : "load"
})
