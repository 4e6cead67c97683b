/** Embeddings, as the stages see them. */
import { Effect, Result } from "effect"
import type { ChatRequest } from "../sdk/Chat.ts"
import { text } from "../sdk/Content.ts"
import { type EmbeddingRequest, type EmbeddingResponse, inputFrom, inputsOf } from "../sdk/Embedding.ts"
import { invalid, type ValidationError } from "../sdk/GatewayError.ts"
import type { EmbedCall, ProviderError } from "../sdk/Provider.ts"
import type { EmbedBatching } from "../sdk/Routes.ts"
import type { Usage } from "../sdk/Usage.ts"
import { EmbeddingCalls, estimateEmbedding, type SendEmbed } from "./EmbeddingCalls.ts"
import type { Candidate } from "./Plan.ts"
import { mostOfText } from "./TokenEstimate.ts"
import { withEncoding } from "./VectorEncoding.ts"
import type { WholeOperation } from "./WholeOperation.ts"

/** Inputs of one request at most. OpenAI takes 2,048; the gateway sends more of them in several calls. */
const maxInputs = 10_000
/** Numbers of one answer at most: 10,000 of the longest vectors that are sold. All of them are in memory before they go out. */
const maxNumbers = 40_000_000

/** The most tokens that some inputs come to. */
const most = (request: EmbeddingRequest): number =>
  inputsOf(request.input).reduce<number>(
    (sum, input) => sum + (typeof input === "string" ? mostOfText(input) : input.length),
    0
  )

const estimate = (request: EmbeddingRequest): number =>
  inputsOf(request.input).reduce<number>((sum, input) => sum + estimateEmbedding(input), 0)

const validate = ({ dimensions = 0, input }: EmbeddingRequest): Result.Result<void, ValidationError> => {
  const { length } = inputsOf(input)
  if (length > maxInputs) {
    return Result.fail(invalid("input", `holds more than ${maxInputs} inputs; send them in several requests`))
  }
  return length * dimensions > maxNumbers
    ? Result.fail(
      invalid("dimensions", `makes an answer of more than ${maxNumbers} numbers; send the inputs in several requests`)
    )
    : Result.void
}

/** Texts as the parts of one message. Tokens nobody but the model can read. */
const shown = (request: EmbeddingRequest): ChatRequest | undefined => {
  const inputs = inputsOf(request.input)
  const texts = inputs.filter((input) => typeof input === "string")
  return texts.length < inputs.length
    ? undefined
    : { model: request.model, messages: [{ role: "user", content: texts.map(text) }] }
}

const changed = (request: EmbeddingRequest, texts: ReadonlyArray<string>): EmbeddingRequest => {
  const [first] = texts
  return { ...request, input: typeof request.input === "string" && first !== undefined ? first : inputFrom(texts) }
}

/** Takes one call to its provider, with others where that is allowed. */
type Send = (
  candidate: Candidate,
  call: EmbedCall,
  batching: EmbedBatching | undefined
) => Effect.Effect<EmbeddingResponse, ProviderError>

/** Makes the operation; `send` takes each call to its provider, `batching` is what holds where a route says nothing of it. */
export const make = (
  send: Send,
  batching?: EmbedBatching
): WholeOperation<EmbeddingRequest, EmbeddingResponse> => ({
  name: "embed",
  keepsModel: true,
  requirements: () => ["embeddings"],
  lacks: (provider) => provider.embed === undefined ? "embeddings" : undefined,
  inputTokens: estimate,
  mostInputTokens: most,
  outputTokens: () => 0,
  longestAnswer: () => 0,
  dearest: (_, __, inputTokens) => {
    const read: Usage = { inputTokens, outputTokens: 0 }
    return { read, whole: read }
  },
  givenUp: (request) => ({ inputTokens: estimate(request), outputTokens: 0, estimated: true }),
  validate,
  shown,
  changed,
  userOf: ({ user }) => user,
  calls: (request, { route }) => {
    const together = route?.embedBatching ?? batching
    return new EmbeddingCalls(request, (candidate, call, again) => send(candidate, call, again ? undefined : together))
  },
  finished: (response, request) => withEncoding(response, request.encoding ?? "float"),
  accounted: (response, findings) => ({ ...response, ...findings }),
  droppedOf: ({ droppedParams }) => droppedParams
})

/** Sends each call to its provider by itself. */
export const sendAlone: SendEmbed = ({ provider }, call: EmbedCall) =>
  provider.embed === undefined
    ? Effect.die(new Error("a provider without embeddings was a candidate"))
    : provider.embed(call)
