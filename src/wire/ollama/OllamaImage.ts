/**
 * Images in Ollama messages. The wire carries bare base64 without a media type, so a decoder has to look at the first
 * bytes to say what an image is.
 */
import { Result } from "effect"
import { Base64 } from "effect/encoding"
import type { ImagePart } from "../../sdk/Content.ts"

/** The type of an image whose first bytes are none of the known ones. Ollama itself may still read it. */
export const unknownImage = "application/octet-stream"

/**
 * The media type of a base64 image by its magic bytes: PNG, JPEG, GIF or WebP, otherwise `application/octet-stream`.
 * Looks at the first 12 bytes only.
 */
export const sniffImage = (base64: string): string => {
  const head = Base64.decode(base64.slice(0, 16))
  if (Result.isFailure(head)) return unknownImage
  let ascii = ""
  for (const byte of head.success) ascii += String.fromCharCode(byte)
  if (ascii.startsWith("\x89PNG")) return "image/png"
  if (ascii.startsWith("\xff\xd8\xff")) return "image/jpeg"
  if (ascii.startsWith("GIF8")) return "image/gif"
  if (ascii.startsWith("RIFF") && ascii.startsWith("WEBP", 8)) return "image/webp"
  return unknownImage
}

/** Makes an image part of bare base64. */
export const imagePart = (data: string): ImagePart => ({
  type: "image",
  source: { type: "base64", mediaType: sniffImage(data), data }
})
