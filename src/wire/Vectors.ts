/** What all wires ask of the vectors that a provider answered with, and how they are written piece by piece. */
import { Result } from "effect"
import type { Embedding, EmbeddingRequest } from "../sdk/Embedding.ts"
import { inputsOf } from "../sdk/Embedding.ts"
import type { Failure } from "../sdk/Provider.ts"
import { isList } from "./Json.ts"

const broken = (message: string): Result.Result<never, Failure> => Result.fail({ kind: "protocol", message })

const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value)
const isVector = (value: unknown): value is ReadonlyArray<number> =>
  isList(value) && value.length > 0 && value.every(isNumber)

const base64 = /^[A-Za-z0-9+/]+={0,2}$/

/** The 32-bit floats that some base64 holds; undefined where it is none. */
const floatsIn = (text: string): number | undefined => {
  if (text.length === 0 || text.length % 4 !== 0 || !base64.test(text)) return undefined
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0
  const bytes = text.length / 4 * 3 - padding
  return bytes % 4 === 0 ? bytes / 4 : undefined
}

/**
 * The vectors of an answer, one for each input, all of one length, and of the length that was asked for. Anything else would
 * be stored and only found out much later.
 */
export const readVectors = (
  values: ReadonlyArray<unknown>,
  { dimensions, input }: EmbeddingRequest
): Result.Result<ReadonlyArray<Embedding>, Failure> => {
  const expected = inputsOf(input).length
  if (values.length !== expected) {
    return broken(`the provider answered with ${values.length} vectors to ${expected} inputs`)
  }
  const vectors: Array<Embedding> = []
  let length = dimensions
  for (const value of values) {
    const own = typeof value === "string" ? floatsIn(value) : isVector(value) ? value.length : undefined
    if (own === undefined) return broken("the provider answered with something that is no vector")
    length ??= own
    if (own !== length) {
      return broken(
        dimensions === undefined
          ? "the provider answered with vectors of several lengths"
          : `the provider answered with a vector of ${own} dimensions where ${dimensions} were asked for`
      )
    }
    if (typeof value === "string" || isVector(value)) vectors.push(value)
  }
  return Result.succeed(vectors)
}

/** Characters of a piece, about: a millisecond's work. */
const pieceLength = 256 * 1024

/** Some JSON around a list, with the list written in pieces. */
export const inPieces = function*<A>(
  before: string,
  items: ReadonlyArray<A>,
  write: (item: A, index: number) => string,
  after: string
): Generator<string> {
  let piece = before
  for (const [index, item] of items.entries()) {
    piece += (index === 0 ? "" : ",") + write(item, index)
    if (piece.length < pieceLength) continue
    yield piece
    piece = ""
  }
  yield piece + after
}
