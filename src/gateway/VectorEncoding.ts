/**
 * Vectors in the encoding that their caller asked for, whatever the provider can write. OpenAI's SDKs ask for base64 unless
 * they are told otherwise, and read it as little-endian 32-bit floats.
 */
import { Effect } from "effect"
import { Buffer } from "node:buffer"
import { endianness } from "node:os"
import type { Embedding, EmbeddingEncoding, EmbeddingResponse } from "../sdk/Embedding.ts"

const isLittle = endianness() === "LE"

/** Numbers as base64 of little-endian 32-bit floats. */
export const toBase64 = (vector: ReadonlyArray<number>): string => {
  const floats = Float32Array.from(vector)
  const bytes = Buffer.from(floats.buffer)
  return (isLittle ? bytes : bytes.swap32()).toString("base64")
}

/** Base64 of little-endian 32-bit floats as numbers. */
export const toNumbers = (base64: string): ReadonlyArray<number> => {
  const bytes = Buffer.from(base64, "base64")
  const numbers: Array<number> = []
  for (let at = 0; at + 4 <= bytes.length; at += 4) numbers.push(bytes.readFloatLE(at))
  return numbers
}

const encoded = (vector: Embedding, encoding: EmbeddingEncoding): Embedding => {
  if (typeof vector === "string") return encoding === "base64" ? vector : toNumbers(vector)
  return encoding === "float" ? vector : toBase64(vector)
}

const isEncoded = (vector: Embedding, encoding: EmbeddingEncoding): boolean =>
  (typeof vector === "string") === (encoding === "base64")

/** Numbers that are converted before others have their turn: some milliseconds of work. */
const turn = 200_000

/** An answer with its vectors in one encoding; a large one is converted in turns. */
export const withEncoding = (
  response: EmbeddingResponse,
  encoding: EmbeddingEncoding
): Effect.Effect<EmbeddingResponse> =>
  response.embeddings.every((vector) => isEncoded(vector, encoding))
    ? Effect.succeed(response)
    : converted(response, encoding)

const converted = Effect.fnUntraced(function*(
  response: EmbeddingResponse,
  encoding: EmbeddingEncoding
): Effect.fn.Return<EmbeddingResponse> {
  const embeddings: Array<Embedding> = []
  let done = 0
  for (const vector of response.embeddings) {
    embeddings.push(encoded(vector, encoding))
    done += typeof vector === "string" ? vector.length / 5 : vector.length
    if (done < turn) continue
    done = 0
    yield* Effect.yieldNow
  }
  return { ...response, embeddings }
})
