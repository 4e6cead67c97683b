/**
 * Images on OpenAI's wire, both ways (https://platform.openai.com/docs/api-reference/images). A field that the sdk has no word
 * for travels in `extensions.openai`.
 */
import { Result } from "effect"
import {
  type GeneratedImage,
  type ImageChunk,
  type ImageRequest,
  type ImageResponse,
  maxImages
} from "../../sdk/Image.ts"
import { ValidationError } from "../../sdk/GatewayError.ts"
import type { Failure } from "../../sdk/Provider.ts"
import { totalInput, totalOutput, type Usage } from "../../sdk/Usage.ts"
import type { ImageDialectCodec, ImageUpstreamCodec, Json, StreamDecoder } from "../Codec.ts"
import { encodedBody } from "./OpenAiBody.ts"
import {
  absent,
  count,
  type Draft,
  filled,
  finite,
  isJson,
  isList,
  object,
  parseJson,
  string,
  unknownFields
} from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { inPieces } from "../Vectors.ts"
import { errorWithin, inbandFailure, protocolFailure } from "./OpenAiError.ts"
import { extended, merge, ownExtensions } from "./OpenAiExtensions.ts"
import { keys, readBoolean, readInteger, readName, readString } from "./OpenAiFields.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

/** Fields whose words are the provider's own, by the sdk's names for them. */
const words = [
  ["size", "size"],
  ["quality", "quality"],
  ["background", "background"],
  ["output_format", "outputFormat"],
  ["style", "style"],
  ["moderation", "moderation"]
] as const

const requestKeys = keys(
  "model",
  "prompt",
  "n",
  "response_format",
  "output_compression",
  "stream",
  "partial_images",
  "user",
  ...words.map(([name]) => name)
)

const maxWord = 64

const readBounded = (json: Json, key: string, report: Report, minimum: number, maximum: number): number | undefined => {
  const value = readInteger(json, key, report, minimum)
  return value !== undefined && value > maximum ? report.refuse(key, `must be at most ${maximum}`) : value
}

const decodeRequest: ImageDialectCodec["decodeRequest"] = (json) => {
  if (!isJson(json)) return Result.fail(new ValidationError({ message: "the body must be a JSON object" }))
  const report = makeReport()
  const model = readName(json, "model", "", report)
  const prompt = readName(json, "prompt", "", report)
  const optional: Draft<Omit<ImageRequest, "model" | "prompt">> = {}
  const n = readBounded(json, "n", report, 1, maxImages)
  if (n !== undefined) optional.n = n
  for (const [key, name] of words) {
    const value = readString(json, key, "", report)
    if (value === undefined) continue
    if (value === "" || value.length > maxWord) report.refuse(key, `must have 1 to ${maxWord} characters`)
    else optional[name] = value
  }
  const compression = readBounded(json, "output_compression", report, 0, 100)
  if (compression !== undefined) optional.outputCompression = compression
  const { response_format: format } = json
  if (format === "url" || format === "b64_json") optional.responseFormat = format
  else if (!absent(format)) report.refuse("response_format", "must be url or b64_json")
  const stream = readBoolean(json, "stream", "", report)
  if (stream !== undefined) optional.stream = stream
  const partial = readBounded(json, "partial_images", report, 0, 3)
  if (partial !== undefined) optional.partialImages = partial
  const user = readString(json, "user", "", report)
  if (user !== undefined) optional.user = user
  const error = report.error()
  if (error !== undefined || model === undefined || prompt === undefined) {
    return Result.fail(error ?? new ValidationError({ message: "the request names no model or no prompt" }))
  }
  return Result.succeed({ model, prompt, ...optional, ...extended(unknownFields(json, requestKeys)) })
}

const encodeRequest: ImageUpstreamCodec["encodeRequest"] = ({ model, request }) => {
  const report = makeReport()
  const body: Record<string, unknown> = { model: model.model, prompt: request.prompt }
  if (request.n !== undefined) body["n"] = request.n
  for (const [key, name] of words) if (request[name] !== undefined) body[key] = request[name]
  if (request.outputCompression !== undefined) body["output_compression"] = request.outputCompression
  if (request.responseFormat !== undefined) body["response_format"] = request.responseFormat
  if (request.stream === true) {
    body["stream"] = true
    if (request.partialImages !== undefined) body["partial_images"] = request.partialImages
  }
  if (request.user !== undefined) body["user"] = request.user
  return encodedBody(body, request, report)
}

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const readUsage = (value: unknown): Usage | undefined => {
  const usage = object(value)
  const output = count(usage?.["output_tokens"])
  const input = count(usage?.["input_tokens"])
  if (input === undefined && output === undefined) return undefined
  const image = Math.min(count(object(usage?.["input_tokens_details"])?.["image_tokens"]) ?? 0, input ?? 0)
  const said = Math.min(count(object(usage?.["output_tokens_details"])?.["text_tokens"]) ?? 0, output ?? 0)
  return {
    inputTokens: (input ?? 0) - image,
    outputTokens: said,
    outputImageTokens: (output ?? 0) - said,
    ...(image === 0 ? {} : { inputImageTokens: image })
  }
}

const writeUsage = (usage: Usage): Json => {
  const input = totalInput(usage)
  const output = totalOutput(usage)
  const image = usage.inputImageTokens ?? 0
  return {
    input_tokens: input,
    output_tokens: output,
    total_tokens: input + output,
    input_tokens_details: { text_tokens: input - image, image_tokens: image }
  }
}

/** Whether the provider told tokens: a model that is sold by the picture has none. */
const hasTokens = (usage: Usage | undefined): usage is Usage =>
  usage !== undefined && usage.estimated !== true && totalInput(usage) + totalOutput(usage) > 0

const described = ["size", "quality", "background"] as const

const readDescription = (json: Json): Pick<Draft<ImageResponse>, typeof described[number] | "outputFormat"> => {
  const description: Pick<Draft<ImageResponse>, typeof described[number] | "outputFormat"> = {}
  for (const key of described) {
    const value = filled(json[key])
    if (value !== undefined) description[key] = value
  }
  const format = filled(json["output_format"])
  if (format !== undefined) description.outputFormat = format
  return description
}

const writeDescription = (
  { background, outputFormat, quality, size }: Pick<ImageResponse, typeof described[number] | "outputFormat">
): Json => ({
  ...(background === undefined ? {} : { background }),
  ...(outputFormat === undefined ? {} : { output_format: outputFormat }),
  ...(quality === undefined ? {} : { quality }),
  ...(size === undefined ? {} : { size })
})

const imageKeys = keys("b64_json", "url", "revised_prompt")

const readImage = (value: unknown): GeneratedImage | undefined => {
  const image = object(value)
  if (image === undefined) return undefined
  const data = filled(image["b64_json"])
  const url = filled(image["url"])
  if (data === undefined && url === undefined) return undefined
  const revisedPrompt = filled(image["revised_prompt"])
  return {
    ...(data === undefined ? {} : { data }),
    ...(url === undefined ? {} : { url }),
    ...(revisedPrompt === undefined ? {} : { revisedPrompt }),
    ...extended(unknownFields(image, imageKeys))
  }
}

const responseKeys = keys("created", "data", "usage", "output_format", ...described)

const decodeResponse: ImageUpstreamCodec["decodeResponse"] = (json, { model }) => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's answer is no JSON object"))
  const told = errorWithin(json)
  if (told !== undefined) return Result.fail(inbandFailure(told))
  const { data } = json
  if (!isList(data) || data.length === 0) return Result.fail(protocolFailure("the provider's answer holds no images"))
  const images: Array<GeneratedImage> = []
  for (const entry of data) {
    const image = readImage(entry)
    if (image === undefined) return Result.fail(protocolFailure("the provider's answer holds an image without data"))
    images.push(image)
  }
  const usage = readUsage(json["usage"])
  const created = finite(json["created"])
  return Result.succeed({
    model: model.model,
    ...(created === undefined ? {} : { created }),
    images,
    ...readDescription(json),
    ...(usage === undefined ? {} : { usage }),
    ...extended(unknownFields(json, responseKeys))
  })
}

const writeImage = ({ data, revisedPrompt, url, ...image }: GeneratedImage): string =>
  JSON.stringify(merge({
    ...(data === undefined ? {} : { b64_json: data }),
    ...(url === undefined ? {} : { url }),
    ...(revisedPrompt === undefined ? {} : { revised_prompt: revisedPrompt })
  }, ownExtensions(image)))

const encodeResponse: ImageDialectCodec["encodeResponse"] = (response) => {
  const rest = JSON.stringify(merge({
    ...writeDescription(response),
    ...(hasTokens(response.usage) ? { usage: writeUsage(response.usage) } : {})
  }, ownExtensions(response)))
  const head = `{"created":${response.created ?? 0},"data":[`
  return inPieces(head, response.images, writeImage, rest === "{}" ? "]}" : `],${rest.slice(1)}`)
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

const eventKeys = keys(
  "type",
  "b64_json",
  "created_at",
  "partial_image_index",
  "usage",
  "output_format",
  ...described
)

const kinds: ReadonlyMap<string, ImageChunk["type"]> = new Map([
  ["image_generation.partial_image", "partial_image"],
  ["image_generation.completed", "completed"]
])

const readEvent = (json: Json): ImageChunk | undefined => {
  const type = kinds.get(string(json["type"]) ?? "")
  const data = filled(json["b64_json"])
  if (type === undefined || data === undefined) return undefined
  const created = finite(json["created_at"])
  const partialIndex = finite(json["partial_image_index"])
  const usage = readUsage(json["usage"])
  return {
    type,
    data,
    ...(created === undefined ? {} : { created }),
    ...(partialIndex === undefined ? {} : { partialIndex }),
    ...readDescription(json),
    ...(usage === undefined ? {} : { usage }),
    ...extended(unknownFields(json, eventKeys))
  }
}

/** Reads a stream, which ends with as many finished pictures as were asked for, or where the server ends it after one. */
class Decoder implements StreamDecoder<ImageChunk> {
  readonly #wanted: number
  #finished = 0

  constructor(wanted: number) {
    this.#wanted = wanted
  }

  push(data: string): Result.Result<ReadonlyArray<ImageChunk>, Failure> {
    if (data === "[DONE]") return Result.succeed([])
    const json = parseJson(data)
    if (!isJson(json)) {
      return Result.fail(protocolFailure("the provider's stream holds an event that is no JSON object"))
    }
    const told = errorWithin(json)
    if (told !== undefined) return Result.fail(inbandFailure(told))
    const chunk = readEvent(json)
    if (chunk === undefined) return Result.succeed([])
    if (chunk.type === "completed") this.#finished++
    return Result.succeed([chunk])
  }

  isDone(): boolean {
    return this.#finished >= this.#wanted
  }

  end(): Result.Result<ReadonlyArray<ImageChunk>, Failure> {
    return this.#finished > 0
      ? Result.succeed([])
      : Result.fail(protocolFailure("the provider's stream ended without an image"))
  }
}

const encodeEvent = (chunk: ImageChunk): string => {
  const type = `image_generation.${chunk.type}`
  const event = merge({
    type,
    b64_json: chunk.data,
    ...(chunk.created === undefined ? {} : { created_at: chunk.created }),
    ...(chunk.partialIndex === undefined ? {} : { partial_image_index: chunk.partialIndex }),
    ...writeDescription(chunk),
    ...(hasTokens(chunk.usage) ? { usage: writeUsage(chunk.usage) } : {})
  }, ownExtensions(chunk))
  return `event: ${type}\ndata: ${JSON.stringify(event)}\n\n`
}

/** The codec. */
export const openAiImages: ImageUpstreamCodec & ImageDialectCodec = {
  decodeRequest,
  encodeRequest,
  decodeResponse,
  encodeResponse,
  streamDecoder: ({ request }) => new Decoder(request.n ?? 1),
  encodeEvent
}
