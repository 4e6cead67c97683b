/**
 * The sandbox's pictures: PNG files of a few pixels, in colours that the prompt decides, so that the same prompt has always
 * the same picture. https://www.w3.org/TR/png-3/
 */
import { Effect, Stream } from "effect"
import { crc32, deflateSync } from "node:zlib"
import type { ImageChunk, ImageRequest, ImageResponse } from "../../../sdk/Image.ts"

/** Width and height, pixels. */
export const side = 16
const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])

const chunkOf = (type: string, data: Buffer): Buffer => {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data])
  const framed = Buffer.alloc(body.length + 8)
  framed.writeUInt32BE(data.length, 0)
  body.copy(framed, 4)
  framed.writeUInt32BE(crc32(body), body.length + 4)
  return framed
}

/** A picture in two colours: 8 bits a channel, RGB, no interlace; each row begins with the filter 0, none. */
export const picture = (seed: string): Buffer => {
  const value = crc32(seed)
  const header = Buffer.alloc(13)
  header.writeUInt32BE(side, 0)
  header.writeUInt32BE(side, 4)
  header.set([8, 2, 0, 0, 0], 8)
  const rows = Buffer.alloc(side * (1 + side * 3))
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const isOn = ((value >>> ((x ^ y) & 31)) & 1) === 1
      const at = y * (1 + side * 3) + 1 + x * 3
      rows[at] = isOn ? value & 0xff : 255
      rows[at + 1] = isOn ? (value >>> 8) & 0xff : 255
      rows[at + 2] = isOn ? (value >>> 16) & 0xff : 255
    }
  }
  return Buffer.concat([
    signature,
    chunkOf("IHDR", header),
    chunkOf("IDAT", deflateSync(rows)),
    chunkOf("IEND", Buffer.alloc(0))
  ])
}

/** Unix seconds; the same for every answer. */
const created = 1_790_000_000
const description = { size: `${side}x${side}`, outputFormat: "png" } as const

const dataOf = (prompt: string, index: number): string => picture(`${index}:${prompt}`).toString("base64")

const wordsOf = (prompt: string): number => prompt.trim().split(/\s+/).length

/** Answers with pictures; a word counts as a token, and each picture as a hundred. */
export const generate = (request: ImageRequest, model: string): Effect.Effect<ImageResponse> =>
  Effect.sync(() => {
    const { n = 1, prompt } = request
    return {
      model,
      created,
      images: Array.from({ length: n }, (_, index) => ({ data: dataOf(prompt, index) })),
      ...description,
      usage: { inputTokens: wordsOf(prompt), outputTokens: 0, outputImageTokens: 100 * n }
    }
  })

/** The same one by one, with unfinished pictures before each of them where they are asked for. */
export const stream = (request: ImageRequest): Stream.Stream<ImageChunk> => {
  const { n = 1, partialImages = 0, prompt } = request
  const chunks: Array<ImageChunk> = []
  for (let index = 0; index < n; index++) {
    for (let partialIndex = 0; partialIndex < partialImages; partialIndex++) {
      chunks.push({
        type: "partial_image",
        data: dataOf(`unfinished ${prompt}`, partialIndex),
        partialIndex,
        created,
        ...description
      })
    }
    chunks.push({
      type: "completed",
      data: dataOf(prompt, index),
      created,
      ...description,
      usage: { inputTokens: wordsOf(prompt), outputTokens: 0, outputImageTokens: 100 * (index + 1) }
    })
  }
  return Stream.fromIterable(chunks)
}
