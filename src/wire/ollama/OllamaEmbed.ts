/**
 * Embeddings on Ollama's wire, both ways: `/api/embed`, and the older `/api/embeddings`, which takes one `prompt` and answers
 * one `embedding` (https://docs.ollama.com/api/embed, `api/types.go`). What only Ollama knows (`truncate`, `options`, `keep_alive`,
 * durations) travels in `extensions.ollama`.
 */
import { Result } from "effect"
import { type EmbeddingRequest, type EmbeddingResponse, inputsOf } from "../../sdk/Embedding.ts"
import { invalid, ValidationError } from "../../sdk/GatewayError.ts"
import { totalInput } from "../../sdk/Usage.ts"
import type { EmbedDialectCodec, EmbedUpstreamCodec, Json } from "../Codec.ts"
import { reportForeignFields } from "../ForeignExtensions.ts"
import { absent, count, filled, isJson, isList, object, string, unknownFields } from "../Json.ts"
import { makeReport } from "../Report.ts"
import { inPieces, readVectors } from "../Vectors.ts"
import { errorText, failureOf, protocolFailure } from "./OllamaError.ts"
import { wire } from "./OllamaExtensions.ts"

const only = (fields: Json | undefined) => fields === undefined ? {} : { extensions: { [wire]: fields } }

const forms = "must be a text or a list of texts, none of them empty"
const maxDimensions = 100_000

// ---------------------------------------------------------------------------------------------------------------------
// The provider's side
// ---------------------------------------------------------------------------------------------------------------------

const encodeRequest: EmbedUpstreamCodec["encodeRequest"] = ({ model, request }) => {
  const inputs = inputsOf(request.input)
  if (inputs.some((input) => typeof input !== "string")) {
    return Result.fail(invalid("input", "Ollama takes no tokens; send text"))
  }
  const report = makeReport()
  if (request.user !== undefined) report.drop("user")
  reportForeignFields(request, wire, report)
  const error = report.error()
  if (error !== undefined) return Result.fail(error)
  return Result.succeed({
    body: {
      ...request.extensions?.[wire],
      model: model.model,
      input: request.input,
      ...(request.dimensions === undefined ? {} : { dimensions: request.dimensions })
    },
    dropped: report.dropped()
  })
}

const responseKeys = new Set(["model", "embeddings", "prompt_eval_count"])

const decodeResponse: EmbedUpstreamCodec["decodeResponse"] = (json, { model, request }) => {
  if (!isJson(json)) return Result.fail(protocolFailure("the provider's answer is no JSON object"))
  const told = errorText(json["error"])
  if (told !== undefined) return Result.fail(failureOf(told))
  const { embeddings } = json
  if (!isList(embeddings)) return Result.fail(protocolFailure("the provider's answer holds no list of vectors"))
  return Result.map(readVectors(embeddings, request), (vectors): EmbeddingResponse => {
    const inputTokens = count(json["prompt_eval_count"])
    return {
      model: string(json["model"]) ?? model.model,
      embeddings: vectors,
      ...(inputTokens === undefined ? {} : { usage: { inputTokens, outputTokens: 0 } }),
      ...only(unknownFields(json, responseKeys))
    }
  })
}

/** The provider's side. */
export const ollamaEmbed: EmbedUpstreamCodec = { encodeRequest, decodeResponse }

// ---------------------------------------------------------------------------------------------------------------------
// The dialect's side
// ---------------------------------------------------------------------------------------------------------------------

/** How long an answer took, ms. */
export interface EmbedTiming {
  readonly total: number
}

/** A dialect of Ollama's for vectors. */
export interface OllamaEmbedDialect {
  /** Whether a request has nothing to embed: it asks to load the model, or is answered without vectors. */
  readonly isEmpty: (json: unknown) => boolean
  readonly decodeRequest: EmbedDialectCodec["decodeRequest"]
  /** The answer under the name by which the model was asked for. */
  readonly encodeResponse: (response: EmbeddingResponse, asked: string, timing: EmbedTiming) => Iterable<string>
}

const reader = (
  field: "input" | "prompt"
): EmbedDialectCodec["decodeRequest"] => {
  const known = new Set(["model", "name", "dimensions", field])
  return (json) => {
    if (!isJson(json)) return Result.fail(new ValidationError({ message: "the body must be a JSON object" }))
    const report = makeReport()
    const model = filled(json["model"]) ?? filled(json["name"]) ?? report.refuse("model", "must name a model")
    const value = json[field]
    const texts = typeof value === "string" ? [value] : field === "input" && isList(value) ? value.map(string) : []
    const given = texts.filter((text) => text !== undefined && text !== "")
    if (given.length === 0 || given.length < texts.length) report.refuse(field, forms)
    const dimensions = absent(json["dimensions"]) || json["dimensions"] === 0 ? undefined : count(json["dimensions"])
    if (!absent(json["dimensions"]) && json["dimensions"] !== 0) {
      if (dimensions === undefined || dimensions === 0 || dimensions > maxDimensions) {
        report.refuse("dimensions", `must be a number from 1 to ${maxDimensions}`)
      }
    }
    const error = report.error()
    if (error !== undefined || model === undefined) {
      return Result.fail(error ?? new ValidationError({ message: "the request names no model" }))
    }
    const input: EmbeddingRequest["input"] = typeof value === "string" ? value : given.flatMap((text) => text ?? [])
    return Result.succeed({
      model,
      input,
      ...(dimensions === undefined ? {} : { dimensions }),
      ...only(unknownFields(json, known))
    })
  }
}

const nanoseconds = (ms: number): number => Math.max(0, Math.round(ms * 1e6))

const isNothing = (value: unknown): boolean => absent(value) || value === "" || (isList(value) && value.length === 0)

/** `POST /api/embed`. */
export const embedDialect: OllamaEmbedDialect = {
  isEmpty: (json) => isNothing(object(json)?.["input"]),
  decodeRequest: reader("input"),
  encodeResponse: (response, asked, { total }) => {
    const rest = JSON.stringify({
      total_duration: nanoseconds(total),
      load_duration: 0,
      prompt_eval_count: response.usage === undefined ? 0 : totalInput(response.usage),
      ...response.extensions?.[wire]
    })
    return inPieces(
      `{"model":${JSON.stringify(asked)},"embeddings":[`,
      response.embeddings,
      (vector) => JSON.stringify(vector),
      `],${rest.slice(1)}`
    )
  }
}

/** `POST /api/embeddings`, which clients of before 2024 call. */
export const embeddingsDialect: OllamaEmbedDialect = {
  isEmpty: (json) => isNothing(object(json)?.["prompt"]),
  decodeRequest: reader("prompt"),
  encodeResponse: ({ embeddings }) => [JSON.stringify({ embedding: embeddings[0] ?? [] })]
}
