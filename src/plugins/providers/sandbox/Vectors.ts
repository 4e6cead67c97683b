/**
 * The sandbox's vectors: the words of a text, each hashed to some dimensions and summed up, to the length of one. The same text
 * has always the same vector, and texts that share words lie close to each other, so that a search over them finds something.
 */
import { Effect } from "effect"
import { type EmbeddingRequest, type EmbeddingResponse, inputsOf } from "../../../sdk/Embedding.ts"
import { ProviderError } from "../../../sdk/Provider.ts"

const defaultDimensions = 256
/** The work of longer ones would hold up other requests. */
const maxDimensions = 4_096

/** FNV-1a, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv/). */
const hash = (text: string): number => {
  let value = 0x811c9dc5
  for (let at = 0; at < text.length; at++) {
    value ^= text.charCodeAt(at)
    value = Math.imul(value, 0x01000193)
  }
  return value >>> 0
}

/** Dimensions that each word adds to: several, so that two words seldom look alike. */
const spread = 4

const wordsOf = (text: string): ReadonlyArray<string> => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [text]

const vectorOf = (words: ReadonlyArray<string>, dimensions: number): ReadonlyArray<number> => {
  const sums = Array.from({ length: dimensions }, () => 0)
  for (const word of words) {
    for (let part = 0; part < spread; part++) {
      const mixed = hash(`${part}:${word}`)
      const at = mixed % dimensions
      sums[at] = (sums[at] ?? 0) + ((mixed & 0x10000) === 0 ? 1 : -1)
    }
  }
  const length = Math.hypot(...sums)
  if (length === 0) sums[0] = 1
  return length === 0 ? sums : sums.map((sum) => Math.fround(sum / length))
}

/** Answers with vectors; a token counts as a word. */
export const embed = (
  request: EmbeddingRequest,
  model: string,
  provider: string
): Effect.Effect<EmbeddingResponse, ProviderError> =>
  Effect.suspend(() => {
    const dimensions = request.dimensions ?? defaultDimensions
    if (dimensions > maxDimensions) {
      return Effect.fail(
        new ProviderError({
          provider,
          kind: "caller",
          status: 400,
          field: "dimensions",
          message: `the sandbox makes vectors of at most ${maxDimensions} dimensions`
        })
      )
    }
    let inputTokens = 0
    const embeddings = inputsOf(request.input).map((input) => {
      const words = typeof input === "string" ? wordsOf(input) : input.map(String)
      inputTokens += words.length
      return vectorOf(words, dimensions)
    })
    return Effect.succeed({ model, embeddings, usage: { inputTokens, outputTokens: 0 } })
  })
