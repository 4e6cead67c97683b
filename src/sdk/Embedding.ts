/** Embeddings: texts in, vectors out. */
import { Schema } from "effect"
import { Fallback } from "./Chat.ts"
import { Extensions } from "./Content.ts"
import { Usage } from "./Usage.ts"

const Token = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Tokens = Schema.Array(Token).check(Schema.isMinLength(1))

/** What to embed: one text, several, one text as tokens, or several such. Tokens are the numbers of the model's own tokenizer. */
export const EmbeddingInput = Schema.Union([
  Schema.NonEmptyString,
  Schema.Array(Schema.NonEmptyString).check(Schema.isMinLength(1)),
  Tokens,
  Schema.Array(Tokens).check(Schema.isMinLength(1))
])
export type EmbeddingInput = typeof EmbeddingInput.Type

/** How vectors are written: `float` as numbers, `base64` as little-endian 32-bit floats in standard base64. */
export const EmbeddingEncoding = Schema.Literals(["float", "base64"])
export type EmbeddingEncoding = typeof EmbeddingEncoding.Type

/** A request for vectors. */
export const EmbeddingRequest = Schema.Struct({
  /** A model or a route. */
  model: Schema.NonEmptyString,
  input: EmbeddingInput,
  /** The length of the vectors, for models that can shorten theirs. */
  dimensions: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThan(0), Schema.isLessThanOrEqualTo(100_000))),
  /** Default `float`. */
  encoding: Schema.optionalKey(EmbeddingEncoding),
  user: Schema.optionalKey(Schema.String),
  /** Other models to try. Vectors of different models cannot be compared: name only what your index can do with. */
  fallback: Schema.optionalKey(Fallback),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ encoding: "encoding_format" }))
export interface EmbeddingRequest extends Schema.Schema.Type<typeof EmbeddingRequest> {}

/** One vector in the encoding that was asked for. */
export const Embedding = Schema.Union([Schema.Array(Schema.Finite), Schema.String])
export type Embedding = typeof Embedding.Type

/** Vectors, one for each input and in the same order. */
export const EmbeddingResponse = Schema.Struct({
  /** The model as the provider names the one that served. */
  model: Schema.String,
  embeddings: Schema.Array(Embedding),
  usage: Schema.optionalKey(Usage),
  /** Parameters of the request that the provider had no form for and did not get, in the native spelling. */
  droppedParams: Schema.optionalKey(Schema.Array(Schema.String)),
  /** The canonical id (`slug::model`) of the model that served; set by the pipeline. */
  modelUsed: Schema.optionalKey(Schema.String),
  /** Whether a candidate other than the first one served; set by the pipeline. */
  fallbackUsed: Schema.optionalKey(Schema.Boolean),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ droppedParams: "dropped_params", modelUsed: "model_used", fallbackUsed: "fallback_used" }))
export interface EmbeddingResponse extends Schema.Schema.Type<typeof EmbeddingResponse> {}

const isNumbers = (input: ReadonlyArray<unknown>): input is ReadonlyArray<number> => typeof input[0] === "number"

/** A request's inputs, one by one: texts, or lists of tokens. */
export const inputsOf = (input: EmbeddingInput): ReadonlyArray<string | ReadonlyArray<number>> => {
  if (typeof input === "string") return [input]
  return isNumbers(input) ? [input] : input
}

/** The inputs as a request has them, of one kind: the inverse of `inputsOf`. */
export const inputFrom = (inputs: ReadonlyArray<string | ReadonlyArray<number>>): EmbeddingInput => {
  const texts = inputs.filter((input) => typeof input === "string")
  return texts.length > 0 ? texts : inputs.filter((input) => typeof input !== "string")
}
