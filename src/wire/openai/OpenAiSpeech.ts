/**
 * Text to speech on OpenAI's wire, both ways (https://platform.openai.com/docs/api-reference/audio/createSpeech). The answer is
 * the sound itself, or events that hold it in base64. A field that the sdk has no word for travels in `extensions.openai`.
 */
import { Result } from "effect"
import { ValidationError } from "../../sdk/GatewayError.ts"
import type { Failure } from "../../sdk/Provider.ts"
import { type SpeechChunk, type SpeechRequest, speechType, type Voice } from "../../sdk/Speech.ts"
import { totalInput, totalOutput, type Usage } from "../../sdk/Usage.ts"
import type { Json, SpeechDialectCodec, SpeechUpstreamCodec, StreamDecoder } from "../Codec.ts"
import { encodedBody } from "./OpenAiBody.ts"
import { absent, count, type Draft, filled, isJson, object, parseJson, unknownFields } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { errorWithin, inbandFailure, protocolFailure } from "./OpenAiError.ts"
import { extended, merge, ownExtensions } from "./OpenAiExtensions.ts"
import { keys, readName, readNumber, readString } from "./OpenAiFields.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const requestKeys = keys(
  "model",
  "input",
  "voice",
  "instructions",
  "response_format",
  "speed",
  "stream_format",
  "user"
)

const maxWord = 64

const readVoice = (json: Json, report: Report): Voice | undefined => {
  const { voice } = json
  if (typeof voice === "string" && voice !== "" && voice.length <= maxWord) return voice
  const id = filled(object(voice)?.["id"])
  if (id !== undefined) return { id }
  return report.refuse("voice", `must be the name of a voice, of 1 to ${maxWord} characters, or an object with an id`)
}

const decodeRequest: SpeechDialectCodec["decodeRequest"] = (json) => {
  if (!isJson(json)) return Result.fail(new ValidationError({ message: "the body must be a JSON object" }))
  const report = makeReport()
  const model = readName(json, "model", "", report)
  const input = readName(json, "input", "", report)
  const voice = readVoice(json, report)
  const optional: Draft<Omit<SpeechRequest, "model" | "input" | "voice">> = {}
  const instructions = readString(json, "instructions", "", report)
  if (instructions !== undefined) optional.instructions = instructions
  const format = readString(json, "response_format", "", report)
  if (format === "" || (format?.length ?? 0) > maxWord) {
    report.refuse("response_format", `must have 1 to ${maxWord} characters`)
  } else if (format !== undefined) optional.responseFormat = format
  const speed = readNumber(json, "speed", report, 0.25, 4)
  if (speed !== undefined) optional.speed = speed
  const { stream_format: streamFormat } = json
  if (streamFormat === "audio" || streamFormat === "sse") optional.streamFormat = streamFormat
  else if (!absent(streamFormat)) report.refuse("stream_format", "must be audio or sse")
  const user = readString(json, "user", "", report)
  if (user !== undefined) optional.user = user
  const error = report.error()
  if (error !== undefined || model === undefined || input === undefined || voice === undefined) {
    return Result.fail(error ?? new ValidationError({ message: "the request names no model, no input or no voice" }))
  }
  return Result.succeed({ model, input, voice, ...optional, ...extended(unknownFields(json, requestKeys)) })
}

const encodeRequest: SpeechUpstreamCodec["encodeRequest"] = ({ model, request }) => {
  const report = makeReport()
  const body: Record<string, unknown> = { model: model.model, input: request.input, voice: request.voice }
  if (request.instructions !== undefined) body["instructions"] = request.instructions
  if (request.responseFormat !== undefined) body["response_format"] = request.responseFormat
  if (request.speed !== undefined) body["speed"] = request.speed
  if (request.streamFormat !== undefined) body["stream_format"] = request.streamFormat
  if (request.user !== undefined) body["user"] = request.user
  return encodedBody(body, request, report)
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

const readUsage = (value: unknown): Usage | undefined => {
  const usage = object(value)
  const input = count(usage?.["input_tokens"])
  const output = count(usage?.["output_tokens"])
  if (input === undefined && output === undefined) return undefined
  return { inputTokens: input ?? 0, outputTokens: 0, outputAudioTokens: output ?? 0 }
}

const writeUsage = (usage: Usage): Json => {
  const input = totalInput(usage)
  const output = totalOutput(usage)
  return { input_tokens: input, output_tokens: output, total_tokens: input + output }
}

const deltaKeys = keys("type", "audio")
const doneKeys = keys("type", "usage")

/** Reads a stream of events, which ends with the one that says so. */
class Decoder implements StreamDecoder<SpeechChunk> {
  #contentType: string | undefined
  #done = false

  constructor(contentType: string) {
    this.#contentType = contentType
  }

  push(data: string): Result.Result<ReadonlyArray<SpeechChunk>, Failure> {
    if (data === "[DONE]") return Result.succeed([])
    const json = parseJson(data)
    if (!isJson(json)) {
      return Result.fail(protocolFailure("the provider's stream holds an event that is no JSON object"))
    }
    const told = errorWithin(json)
    if (told !== undefined) return Result.fail(inbandFailure(told))
    switch (json["type"]) {
      case "speech.audio.delta": {
        const audio = filled(json["audio"])
        if (audio === undefined) return Result.succeed([])
        const contentType = this.#contentType
        this.#contentType = undefined
        return Result.succeed([{
          type: "audio",
          audio: Buffer.from(audio, "base64"),
          ...(contentType === undefined ? {} : { contentType }),
          ...extended(unknownFields(json, deltaKeys))
        }])
      }
      case "speech.audio.done": {
        this.#done = true
        const usage = readUsage(json["usage"])
        return Result.succeed([{
          type: "done",
          ...(usage === undefined ? {} : { usage }),
          ...extended(unknownFields(json, doneKeys))
        }])
      }
      default:
        return Result.succeed([])
    }
  }

  isDone(): boolean {
    return this.#done
  }

  end(): Result.Result<ReadonlyArray<SpeechChunk>, Failure> {
    return Result.fail(protocolFailure("the provider's stream ended before its end was told"))
  }
}

const base64Of = ({ buffer, byteLength, byteOffset }: Uint8Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString("base64")

const encodeEvent = (chunk: SpeechChunk): string => {
  const event: Record<string, unknown> = chunk.type === "audio"
    ? { type: "speech.audio.delta", audio: chunk.audio === undefined ? "" : base64Of(chunk.audio) }
    : {
      type: "speech.audio.done",
      ...(chunk.usage === undefined || chunk.usage.estimated === true ? {} : { usage: writeUsage(chunk.usage) })
    }
  return `data: ${JSON.stringify(merge(event, ownExtensions(chunk)))}\n\n`
}

/** The codec. */
export const openAiSpeech: SpeechUpstreamCodec & SpeechDialectCodec = {
  decodeRequest,
  encodeRequest,
  streamDecoder: ({ request }) => new Decoder(speechType(request.responseFormat)),
  encodeEvent
}
