/**
 * `multipart/form-data` (RFC 7578) as it goes to a provider: small fields as they are, files as streams that are never held.
 */
import { Stream } from "effect"
import { randomUUID } from "node:crypto"
import type { StreamedBody } from "../sdk/Outbound.ts"
import type { ProviderError } from "../sdk/Provider.ts"

/** One part of a form. */
export type Part =
  | { readonly name: string; readonly value: string }
  | {
    readonly name: string
    readonly filename: string
    readonly contentType: string
    readonly content: Stream.Stream<Uint8Array, ProviderError>
    /** All bytes of the content, where they are known. */
    readonly bytes?: number
  }

/** A form, ready to be sent. */
export interface Form {
  /** The content type, with the boundary. */
  readonly contentType: string
  readonly body: StreamedBody
}

const encoder = new TextEncoder()

/** As browsers write them, so that no name breaks out of its quotes (HTML, multipart/form-data encoding algorithm). */
const quoted = (text: string): string =>
  `"${text.replaceAll("\r", "%0D").replaceAll("\n", "%0A").replaceAll("\"", "%22")}"`

const headOf = (boundary: string, part: Part): Uint8Array =>
  encoder.encode(
    `--${boundary}\r\ncontent-disposition: form-data; name=${quoted(part.name)}${
      "value" in part ? "" : `; filename=${quoted(part.filename)}\r\ncontent-type: ${oneLine(part.contentType)}`
    }\r\n\r\n`
  )

const oneLine = (text: string): string => text.replaceAll(/[\r\n]+/g, " ")

const lineEnd = encoder.encode("\r\n")

/**
 * A form of these parts, in their order. Its size is known where that of each file is; `once` says that a file's content can
 * be read once only.
 */
export const encode = (parts: ReadonlyArray<Part>, options: { readonly once?: boolean } = {}): Form => {
  // Random, so that no content can hold it.
  const boundary = `gateway-${randomUUID()}`
  const pieces: Array<Stream.Stream<Uint8Array, ProviderError>> = []
  let bytes: number | undefined = 0
  const add = (piece: Uint8Array): void => {
    pieces.push(Stream.succeed(piece))
    if (bytes !== undefined) bytes += piece.length
  }
  for (const part of parts) {
    add(headOf(boundary, part))
    if ("value" in part) add(encoder.encode(part.value))
    else {
      pieces.push(part.content)
      bytes = bytes === undefined || part.bytes === undefined ? undefined : bytes + part.bytes
    }
    add(lineEnd)
  }
  add(encoder.encode(`--${boundary}--\r\n`))
  return {
    contentType: `multipart/form-data; boundary=${boundary}`,
    body: {
      stream: Stream.flatten(Stream.fromIterable(pieces)),
      ...(bytes === undefined ? {} : { bytes }),
      ...(options.once === true ? { once: true } : {})
    }
  }
}
