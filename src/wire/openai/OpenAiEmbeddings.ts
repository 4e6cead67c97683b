/**
 * Embeddings on OpenAI's wire, both ways (https://platform.openai.com/docs/api-reference/embeddings). A field that the sdk has no
 * word for travels in `extensions.openai`.
 */
import { Result } from "effect"
import type { EmbeddingInput, EmbeddingRequest, EmbeddingResponse } from "../../sdk/Embedding.ts"
import { ValidationError } from "../../sdk/GatewayError.ts"
import type { Failure } from "../../sdk/Provider.ts"
import { totalInput } from "../../sdk/Usage.ts"
import type { EmbedDialectCodec, EmbedUpstreamCodec } from "../Codec.ts"
import { encodedBody } from "./OpenAiBody.ts"
import { absent, count, type Draft, isJson, isList, object, string, unknownFields } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { inPieces, readVectors } from "../Vectors.ts"
import { errorWithin, inbandFailure, protocolFailure } from "./OpenAiError.ts"
import { extended, ownExtensions } from "./OpenAiExtensions.ts"
import { keys, readInteger, readName, readString } from "./OpenAiFields.ts"

const requestKeys = keys("model", "input", "dimensions", "encoding_format", "user")

const isText = (value: unknown): value is string => typeof value === "string" && value !== ""
const isToken = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0
const isTokens = (value: unknown): value is ReadonlyArray<number> =>
  isList(value) && value.length > 0 && value.every(isToken)

const forms = "must be a text, a list of texts, a list of tokens or a list of lists of tokens, none of them empty"

/** Reads an input; the first item says what all of them have to be. Also Ollama's, which has the same forms of text. */
export const readInput = (value: unknown, at: string, report: Report): EmbeddingInput | undefined => {
  if (isText(value)) return value
  if (!isList(value) || value.length === 0) return report.refuse(at, forms)
  const [first] = value
  if (isToken(first)) return isTokens(value) ? value : report.refuse(at, forms)
  const is: (item: unknown) => boolean = typeof first === "string" ? isText : isTokens
  const wrong = value.findIndex((item) => !is(item))
  if (wrong >= 0) {
    return report.refuse(`${at}[${wrong}]`, typeof first === "string" ? "must be a text with something in it" : forms)
  }
  const texts = value.filter(isText)
  return texts.length > 0 ? texts : value.filter(isTokens)
}

/** Longer vectors do not exist. */
const maxDimensions = 100_000

const decodeRequest: EmbedDialectCodec["decodeRequest"] = (json) => {
  if (!isJson(json)) return Result.fail(new ValidationError({ message: "the body must be a JSON object" }))
  const report = makeReport()
  const model = readName(json, "model", "", report)
  const input = readInput(json["input"], "input", report)
  const optional: Draft<Omit<EmbeddingRequest, "model" | "input">> = {}
  const dimensions = readInteger(json, "dimensions", report, 1)
  if (dimensions !== undefined && dimensions > maxDimensions) {
    report.refuse("dimensions", `must be at most ${maxDimensions}`)
  } else if (dimensions !== undefined) optional.dimensions = dimensions
  const { encoding_format: encoding } = json
  if (encoding === "float" || encoding === "base64") optional.encoding = encoding
  else if (!absent(encoding)) report.refuse("encoding_format", "must be float or base64")
  const user = readString(json, "user", "", report)
  if (user !== undefined) optional.user = user
  const error = report.error()
  if (error !== undefined || model === undefined || input === undefined) {
    return Result.fail(error ?? new ValidationError({ message: "the request names no model or no input" }))
  }
  return Result.succeed({ model, input, ...optional, ...extended(unknownFields(json, requestKeys)) })
}

const encodeRequest: EmbedUpstreamCodec["encodeRequest"] = ({ model, request }) => {
  const report = makeReport()
  const body: Record<string, unknown> = { model: model.model, input: request.input }
  if (request.dimensions !== undefined) body["dimensions"] = request.dimensions
  if (request.encoding !== undefined) body["encoding_format"] = request.encoding
  if (request.user !== undefined) body["user"] = request.user
  return encodedBody(body, request, report)
}

const responseKeys = keys("object", "data", "model", "usage")

/** The vectors in the order of their inputs, which is that of `index` where the server tells one. */
const inOrder = (data: ReadonlyArray<unknown>): Result.Result<ReadonlyArray<unknown>, Failure> => {
  const vectors: Array<unknown> = Array.from({ length: data.length })
  const seen = new Set<number>()
  for (const [at, entry] of data.entries()) {
    const item = object(entry)
    const index = item === undefined || absent(item["index"]) ? at : count(item["index"])
    if (item === undefined || index === undefined || index >= data.length || seen.has(index)) {
      return Result.fail(protocolFailure("the provider's vectors cannot be told apart by their indices"))
    }
    seen.add(index)
    vectors[index] = item["embedding"]
  }
  return Result.succeed(vectors)
}

const decodeResponse: EmbedUpstreamCodec["decodeResponse"] = (json, { model, request }) => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's answer is no JSON object"))
  const told = errorWithin(json)
  if (told !== undefined) return Result.fail(inbandFailure(told))
  const { data, usage } = json
  if (!isList(data)) return Result.fail(protocolFailure("the provider's answer holds no list of vectors"))
  return Result.map(
    Result.flatMap(inOrder(data), (vectors) => readVectors(vectors, request)),
    (embeddings): EmbeddingResponse => {
      const read = object(usage)
      const inputTokens = count(read?.["prompt_tokens"]) ?? count(read?.["total_tokens"])
      return {
        model: string(json["model"]) ?? model.model,
        embeddings,
        ...(inputTokens === undefined ? {} : { usage: { inputTokens, outputTokens: 0 } }),
        ...extended(unknownFields(json, responseKeys))
      }
    }
  )
}

const encodeResponse: EmbedDialectCodec["encodeResponse"] = (response) => {
  const tokens = response.usage === undefined ? 0 : totalInput(response.usage)
  const rest = JSON.stringify({
    ...ownExtensions(response),
    model: response.model,
    usage: { prompt_tokens: tokens, total_tokens: tokens }
  })
  return inPieces(
    "{\"object\":\"list\",\"data\":[",
    response.embeddings,
    (embedding, index) => JSON.stringify({ object: "embedding", index, embedding }),
    `],${rest.slice(1)}`
  )
}

/** The codec. */
export const openAiEmbeddings: EmbedUpstreamCodec & EmbedDialectCodec = {
  decodeRequest,
  encodeRequest,
  decodeResponse,
  encodeResponse
}
