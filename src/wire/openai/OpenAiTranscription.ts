/**
 * Speech to text on OpenAI's wire, both ways (https://platform.openai.com/docs/api-reference/audio/createTranscription): a form with
 * a file in, JSON, text or events out. A field that the sdk has no word for travels in `extensions.openai`.
 */
import { Result } from "effect"
import { ValidationError } from "../../sdk/GatewayError.ts"
import type { Failure } from "../../sdk/Provider.ts"
import {
  TranscriptFormat,
  type Transcription,
  type TranscriptionChunk,
  type TranscriptionResponse
} from "../../sdk/Transcription.ts"
import { totalInput, totalOutput, type Usage } from "../../sdk/Usage.ts"
import type { FormField, Json, StreamDecoder, TranscriptionDialectCodec, TranscriptionUpstreamCodec } from "../Codec.ts"
import { reportForeignFields } from "../ForeignExtensions.ts"
import { count, type Draft, filled, finite, isJson, isList, object, parseJson, string, unknownFields } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { errorWithin, inbandFailure, protocolFailure } from "./OpenAiError.ts"
import { extended, merge, ownExtensions, wire } from "./OpenAiExtensions.ts"
import { keys } from "./OpenAiFields.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const maxWord = 64

const granularityKey = "timestamp_granularities[]"

const known = keys(
  "model",
  "language",
  "prompt",
  "response_format",
  "temperature",
  "stream",
  "user",
  granularityKey,
  "timestamp_granularities"
)

type Fields = Omit<Transcription, "audio">

/** A number as a form has it: as text. */
const readTemperature = (value: string, report: Report): number | undefined => {
  const number = value.trim() === "" ? Number.NaN : Number(value)
  return number >= 0 && number <= 2 ? number : report.refuse("temperature", "must be a number between 0 and 2")
}

const decodeFields: TranscriptionDialectCodec["decodeFields"] = (fields, task) => {
  const report = makeReport()
  const first = new Map<string, string>()
  const others = new Map<string, string | Array<string>>()
  const granularities: Array<"word" | "segment"> = []
  for (const [name, value] of fields) {
    if (name === granularityKey || name === "timestamp_granularities") {
      if (value === "word" || value === "segment") granularities.push(value)
      else report.refuse(granularityKey, "must be word or segment")
    } else if (known.has(name)) first.set(name, value)
    else {
      const before = others.get(name)
      others.set(name, before === undefined ? value : [...(typeof before === "string" ? [before] : before), value])
    }
  }
  const model = filled(first.get("model")) ?? report.refuse("model", "must be a non-empty string")
  const optional: Draft<Omit<Fields, "model">> = {}
  if (task === "translate") optional.task = task
  const language = filled(first.get("language"))
  if (language !== undefined) {
    if (language.length > maxWord) report.refuse("language", `must have 1 to ${maxWord} characters`)
    else optional.language = language
  }
  const prompt = first.get("prompt")
  if (prompt !== undefined) optional.prompt = prompt
  const format = filled(first.get("response_format"))
  if (format !== undefined) {
    const one = TranscriptFormat.literals.find((literal) => literal === format)
    if (one === undefined) report.refuse("response_format", `must be one of ${TranscriptFormat.literals.join(", ")}`)
    else optional.responseFormat = one
  }
  const temperature = first.get("temperature")
  if (temperature !== undefined) {
    const read = readTemperature(temperature, report)
    if (read !== undefined) optional.temperature = read
  }
  if (granularities.length > 0) optional.timestampGranularities = granularities
  const stream = filled(first.get("stream"))?.toLowerCase()
  if (stream === "true" || stream === "1") optional.stream = true
  else if (stream !== undefined && stream !== "false" && stream !== "0") {
    report.refuse("stream", "must be true or false")
  }
  const user = filled(first.get("user"))
  if (user !== undefined) optional.user = user
  const error = report.error()
  if (error !== undefined || model === undefined) {
    return Result.fail(error ?? new ValidationError({ message: "the request names no model" }))
  }
  return Result.succeed({
    model,
    ...optional,
    ...extended(others.size === 0 ? undefined : Object.fromEntries(others))
  })
}

/** A value of another field, as the parts of a form that it stands in. */
const partsOf = (name: string, value: unknown): ReadonlyArray<FormField> =>
  isList(value)
    ? value.flatMap((one) => partsOf(name, one))
    : value === undefined || value === null
    ? []
    : [[name, typeof value === "string" ? value : JSON.stringify(value)]]

const encodeRequest: TranscriptionUpstreamCodec["encodeRequest"] = ({ model, request }, stream) => {
  const report = makeReport()
  reportForeignFields(request, wire, report)
  const error = report.error()
  if (error !== undefined) return Result.fail(error)
  const fields: Array<FormField> = [["model", model.model]]
  if (request.language !== undefined) fields.push(["language", request.language])
  if (request.prompt !== undefined) fields.push(["prompt", request.prompt])
  if (request.responseFormat !== undefined) fields.push(["response_format", request.responseFormat])
  if (request.temperature !== undefined) fields.push(["temperature", String(request.temperature)])
  for (const granularity of request.timestampGranularities ?? []) fields.push([granularityKey, granularity])
  if (stream) fields.push(["stream", "true"])
  if (request.user !== undefined) fields.push(["user", request.user])
  for (const [name, value] of Object.entries(ownExtensions(request) ?? {})) {
    if (!known.has(name) && name !== "file") fields.push(...partsOf(name, value))
  }
  return Result.succeed(fields)
}

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

/** Longer than that is no length of a recording: ten years, in seconds. */
const maxSeconds = 315_360_000

const secondsIn = (value: unknown): number | undefined => {
  const seconds = finite(value)
  return seconds === undefined || seconds < 0 || seconds > maxSeconds ? undefined : seconds
}

const readUsage = (value: unknown): Usage | undefined => {
  const usage = object(value)
  if (usage?.["type"] === "duration") {
    const seconds = secondsIn(usage["seconds"])
    return seconds === undefined
      ? undefined
      : { inputTokens: 0, outputTokens: 0, inputAudioMs: Math.round(seconds * 1000) }
  }
  const input = count(usage?.["input_tokens"])
  const output = count(usage?.["output_tokens"])
  if (input === undefined && output === undefined) return undefined
  const said = object(usage?.["input_token_details"]) ?? {}
  const audio = Math.min(count(said["audio_tokens"]) ?? 0, input ?? 0)
  return { inputTokens: (input ?? 0) - audio, inputAudioTokens: audio, outputTokens: output ?? 0 }
}

/** The usage as this wire tells it; nothing of what the gateway has estimated. */
const writeUsage = (usage: Usage | undefined): { readonly usage?: Json } => {
  if (usage === undefined || usage.estimated === true) return {}
  const input = totalInput(usage)
  const output = totalOutput(usage)
  if (input + output === 0) {
    return usage.inputAudioMs === undefined
      ? {}
      : { usage: { type: "duration", seconds: usage.inputAudioMs / 1000 } }
  }
  const audio = usage.inputAudioTokens ?? 0
  return {
    usage: {
      type: "tokens",
      input_tokens: input,
      input_token_details: { text_tokens: input - audio, audio_tokens: audio },
      output_tokens: output,
      total_tokens: input + output
    }
  }
}

const responseKeys = keys("text", "language", "duration", "segments", "words", "usage")

const passages = (value: unknown): ReadonlyArray<Json> | undefined => isList(value) ? value.filter(isJson) : undefined

const decodeResponse: TranscriptionUpstreamCodec["decodeResponse"] = (json, { model }) => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's answer is no JSON object"))
  const told = errorWithin(json)
  if (told !== undefined) return Result.fail(inbandFailure(told))
  const text = string(json["text"])
  if (text === undefined) return Result.fail(protocolFailure("the provider's answer holds no text"))
  const language = filled(json["language"])
  // Some servers write it as text.
  const duration = secondsIn(typeof json["duration"] === "string" ? Number(json["duration"]) : json["duration"])
  const segments = passages(json["segments"])
  const words = passages(json["words"])
  const usage = readUsage(json["usage"])
  return Result.succeed({
    model: model.model,
    text,
    ...(language === undefined ? {} : { language }),
    ...(duration === undefined ? {} : { duration }),
    ...(segments === undefined ? {} : { segments }),
    ...(words === undefined ? {} : { words }),
    ...(usage === undefined ? {} : { usage }),
    ...extended(unknownFields(json, responseKeys))
  })
}

const asText: ReadonlySet<unknown> = new Set<TranscriptFormat>(["text", "srt", "vtt"])

const encodeResponse: TranscriptionDialectCodec["encodeResponse"] = (response: TranscriptionResponse, format) => {
  // OpenAI answers with plain text for subtitles, too.
  if (asText.has(format)) return { contentType: "text/plain; charset=utf-8", body: response.text }
  const { duration, language, segments, text, usage, words } = response
  const body = merge({
    text,
    ...(language === undefined ? {} : { language }),
    ...(duration === undefined ? {} : { duration }),
    ...(segments === undefined ? {} : { segments }),
    ...(words === undefined ? {} : { words }),
    ...writeUsage(usage)
  }, ownExtensions(response))
  return { contentType: "application/json", body: JSON.stringify(body) }
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

const kinds: ReadonlyMap<string, TranscriptionChunk["type"]> = new Map([
  ["transcript.text.delta", "delta"],
  ["transcript.text.segment", "segment"],
  ["transcript.text.done", "done"]
])

const deltaKeys = keys("type", "delta")
const wholeKeys = keys("type", "text", "usage")

/** Reads a stream of events, which ends with the one that has the whole text. */
class Decoder implements StreamDecoder<TranscriptionChunk> {
  #done = false

  push(data: string): Result.Result<ReadonlyArray<TranscriptionChunk>, Failure> {
    if (data === "[DONE]") return Result.succeed([])
    const json = parseJson(data)
    if (!isJson(json)) {
      return Result.fail(protocolFailure("the provider's stream holds an event that is no JSON object"))
    }
    const told = errorWithin(json)
    if (told !== undefined) return Result.fail(inbandFailure(told))
    const type = kinds.get(string(json["type"]) ?? "")
    if (type === undefined) return Result.succeed([])
    if (type === "done") this.#done = true
    const usage = readUsage(json["usage"])
    return Result.succeed([{
      type,
      text: string(json[type === "delta" ? "delta" : "text"]) ?? "",
      ...(usage === undefined ? {} : { usage }),
      ...extended(unknownFields(json, type === "delta" ? deltaKeys : wholeKeys))
    }])
  }

  isDone(): boolean {
    return this.#done
  }

  end(): Result.Result<ReadonlyArray<TranscriptionChunk>, Failure> {
    return Result.fail(protocolFailure("the provider's stream ended before its end was told"))
  }
}

const encodeEvent = (chunk: TranscriptionChunk): string => {
  const event = merge({
    type: `transcript.text.${chunk.type}`,
    [chunk.type === "delta" ? "delta" : "text"]: chunk.text,
    ...writeUsage(chunk.usage)
  }, ownExtensions(chunk))
  return `data: ${JSON.stringify(event)}\n\n`
}

/** The codec. */
export const openAiTranscription: TranscriptionUpstreamCodec & TranscriptionDialectCodec = {
  decodeFields,
  encodeRequest,
  decodeResponse,
  encodeResponse,
  streamDecoder: () => new Decoder(),
  encodeEvent
}
