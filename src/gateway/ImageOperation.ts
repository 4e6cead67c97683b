/** Image generation, as the stages see it: whole, and in a stream that may hold unfinished pictures. */
import { Effect, Result, Stream } from "effect"
import { text } from "../sdk/Content.ts"
import type { ImageChunk, ImageRequest, ImageResponse } from "../sdk/Image.ts"
import type { Prices } from "../sdk/Model.ts"
import { dearestVariant } from "../sdk/Pricing.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { PreparedOperation } from "./Preparation.ts"
import type { Meter, StreamOperation } from "./StreamOperation.ts"
import { estimateText, mostOfText } from "./TokenEstimate.ts"
import type { WholeOperation } from "./WholeOperation.ts"

/**
 * Tokens of the largest picture of the best quality, and of an unfinished one
 * (https://platform.openai.com/docs/guides/image-generation#cost-and-latency).
 */
const maxImageTokens = 6_240
const partialTokens = 100

const countOf = ({ n = 1 }: ImageRequest): number => n

/** Size and quality as prices name them; undefined where the request leaves them to the model. */
const variantOf = ({ quality, size }: ImageRequest): string | undefined => {
  const named = [size, quality].filter((name) => name !== undefined && name !== "auto" && name !== "standard")
  return named.length === 0 ? undefined : named.join("/")
}

/** What a request comes to, in all the ways in which images are sold. */
const drawn = (request: ImageRequest, inputTokens: number, prices?: Prices): Usage => {
  const variant = variantOf(request) ?? dearestVariant(prices?.image)
  const each = maxImageTokens + (request.partialImages ?? 0) * partialTokens
  return {
    inputTokens,
    outputTokens: 0,
    outputImageTokens: countOf(request) * each,
    images: countOf(request),
    ...(variant === undefined ? {} : { variant })
  }
}

const estimate = (request: ImageRequest): number => estimateText(request.prompt)

const prepared: PreparedOperation<ImageRequest> = {
  name: "image",
  requirements: () => ["image_output"],
  lacks: (provider, streamed) =>
    (streamed ? provider.streamImage : provider.generateImage) === undefined ? "image_output" : undefined,
  inputTokens: estimate,
  mostInputTokens: ({ prompt }) => mostOfText(prompt),
  outputTokens: () => 0,
  longestAnswer: () => 0,
  expected: (request, prices, inputTokens) => drawn(request, inputTokens, prices),
  dearest: (request, prices, inputTokens) => ({
    read: { inputTokens, outputTokens: 0 },
    whole: drawn(request, inputTokens, prices)
  }),
  givenUp: (request) => ({ ...drawn(request, estimate(request)), estimated: true }),
  validate: () => Result.void,
  userOf: ({ user }) => user,
  shown: ({ model, prompt }) => ({ model, messages: [{ role: "user", content: [text(prompt)] }] }),
  changed: (request, [prompt = ""]) => ({ ...request, prompt })
}

/** What was made, where the provider tells no tokens or tells them alone. */
const counted = (request: ImageRequest, images: number, usage: Usage | undefined): Usage => {
  const variant = variantOf(request)
  return {
    ...(usage ?? { inputTokens: 0, outputTokens: 0 }),
    images,
    ...(variant === undefined ? {} : { variant })
  }
}

/** Whole answers. */
export const imageOperation: WholeOperation<ImageRequest, ImageResponse> = {
  ...prepared,
  calls: (request) => ({
    call: (candidate, { connectTimeout, force }) => {
      const { generateImage } = candidate.provider
      return generateImage === undefined
        ? Effect.die(new Error("a provider without images was a candidate"))
        : Effect.map(
          generateImage({ request, model: candidate.model, connectTimeout, force }),
          (response) => ({ ...response, usage: counted(request, response.images.length, response.usage) })
        )
    },
    wasted: () => []
  }),
  accounted: (response, findings) => ({ ...response, ...findings }),
  droppedOf: ({ droppedParams }) => droppedParams
}

/** Counts the pictures of a stream, finished or not. */
class ImageMeter implements Meter<ImageChunk> {
  readonly #request: ImageRequest
  #finished = 0

  constructor(request: ImageRequest) {
    this.#request = request
  }

  observe({ type }: ImageChunk): void {
    if (type === "completed") this.#finished++
  }

  usage(): Usage {
    return this.#finished === 0
      ? { ...drawn(this.#request, estimate(this.#request)), estimated: true }
      : { ...counted(this.#request, this.#finished, undefined), estimated: true }
  }
}

/** Streamed answers. */
export const streamedImages: StreamOperation<ImageRequest, ImageChunk> = {
  ...prepared,
  chunks: {
    hasContent: () => true,
    ends: ({ type }) => type === "completed",
    usage: ({ usage }) => usage
  },
  stream: (request, candidate, { connectTimeout, force }) => {
    const { streamImage } = candidate.provider
    if (streamImage === undefined) return Stream.die(new Error("a provider without streamed images was a candidate"))
    let finished = 0
    return Stream.map(
      streamImage({ request, model: candidate.model, connectTimeout, force }),
      (chunk) => chunk.type === "completed" ? { ...chunk, usage: counted(request, ++finished, chunk.usage) } : chunk
    )
  },
  meter: (request) => new ImageMeter(request),
  accounted: (chunk, usage) => ({ ...chunk, usage })
}
