/**
 * A form with a file, as callers upload it. The file waits on the disk, so that memory stays flat whatever its size, fields may
 * follow it, and it can be sent to one provider after the other. It has no name there: it is gone with its request, and with its process.
 */
import { Cause, Effect, type Scope, Stream } from "effect"
import { type HttpServerRequest, MultipartParser } from "effect/http"
import { randomUUID } from "node:crypto"
import { type FileHandle, open, unlink } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  fail,
  type GatewayError,
  invalid,
  PayloadTooLarge,
  StoreUnavailable,
  ValidationError
} from "../sdk/GatewayError.ts"
import { headBytes, type Recording, wavDuration } from "../sdk/Transcription.ts"

/** A form whose file is on the disk. */
export interface SpooledForm {
  readonly fields: ReadonlyArray<readonly [name: string, value: string]>
  /** The file of the part `file`, for as long as the scope lives. */
  readonly file: Recording
}

const maxParts = 100
/** The largest field, bytes. */
const maxField = 256 * 1024
/** How much is read from the disk together, bytes. */
const readSize = 64 * 1024

const diskFailed = fail(
  new StoreUnavailable({ store: "files", message: "the upload could not be kept on the disk; try again later" })
)

const onDisk = <A>(work: () => Promise<A>): Effect.Effect<A, GatewayError> =>
  Effect.mapError(Effect.tryPromise(work), () => diskFailed)

/** A file without a name. */
const nameless = Effect.acquireRelease(
  Effect.uninterruptible(onDisk(async () => {
    const path = join(tmpdir(), `llm-gateway-${randomUUID()}`)
    const handle = await open(path, "wx+", 0o600)
    try {
      await unlink(path)
    } catch (error) {
      await handle.close()
      throw error
    }
    return handle
  })),
  (handle) => Effect.ignore(Effect.tryPromise(() => handle.close()))
)

const contentOf = (handle: FileHandle, bytes: number): Stream.Stream<Uint8Array, GatewayError> =>
  Stream.suspend(() => {
    let at = 0
    const next = Effect.suspend((): Effect.Effect<readonly [Uint8Array], GatewayError | Cause.Done> =>
      at >= bytes ? Cause.done() : Effect.flatMap(
        onDisk(() => handle.read(Buffer.allocUnsafe(Math.min(readSize, bytes - at)), { position: at })),
        ({ buffer, bytesRead }) => {
          at += bytesRead
          return bytesRead === 0 ? Effect.fail(diskFailed) : Effect.succeed([buffer.subarray(0, bytesRead)] as const)
        }
      )
    )
    return Stream.fromPull(Effect.succeed(next))
  })

const problemOf = (error: MultipartParser.MultipartError, maxBytes: number): GatewayError => {
  switch (error._tag) {
    case "ReachedLimit":
      return error.limit === "MaxTotalSize" || error.limit === "MaxPartSize"
        ? fail(new PayloadTooLarge({ message: `the body is larger than ${maxBytes} bytes`, maxBytes }))
        : fail(
          new ValidationError({
            message: `the form has more than ${maxParts} parts, or a field of more than ${maxField} bytes`
          })
        )
    case "EndNotReached":
      return fail(new ValidationError({ message: "the form ends before its last boundary" }))
    default:
      return fail(new ValidationError({ message: "the body is no multipart form (RFC 7578)" }))
  }
}

/** A name without folders and control characters. */
const plainName = (name: string): string => {
  const last = name.split(/[\\/]/).at(-1) ?? ""
  const printable = last.replaceAll(/\p{Cc}/gu, "").slice(0, 255)
  return printable === "" || printable === "." || printable === ".." ? "audio" : printable
}

const mediaType = /^(?:audio|video)\/[\w.+-]{1,64}$/

/** What has been read of a form, and what of its file is to be written. */
class Reading {
  readonly fields: Array<readonly [string, string]> = []
  readonly pending: Array<Uint8Array> = []
  file: MultipartParser.PartInfo | undefined
  problem: GatewayError | undefined
  isDone = false
  readonly parser: MultipartParser.Parser

  constructor(headers: Readonly<Record<string, string>>, maxBytes: number) {
    this.parser = MultipartParser.make({
      headers,
      maxParts,
      maxFieldSize: maxField,
      maxTotalSize: maxBytes,
      isFile: ({ filename, name }) => name === "file" || filename !== undefined,
      onField: (info, value) => void this.fields.push([info.name, MultipartParser.decodeField(info, value)]),
      onFile: (info) => {
        if (info.name !== "file" || this.file !== undefined) {
          this.problem ??= fail(invalid(info.name.slice(0, 64), "the form takes one file, in the part named file"))
          return () => undefined
        }
        this.file = info
        return (chunk) => chunk === null ? undefined : void this.pending.push(chunk)
      },
      onError: (error) => {
        this.problem ??= problemOf(error, maxBytes)
      },
      onDone: () => {
        this.isDone = true
      }
    })
  }
}

/** Reads a request's form. What is refused, interrupted or over leaves nothing on the disk. */
export const readForm = Effect.fnUntraced(function*(
  request: HttpServerRequest.HttpServerRequest,
  maxBytes: number
): Effect.fn.Return<SpooledForm, GatewayError, Scope.Scope> {
  const { headers } = request
  const encoding = headers["content-encoding"]
  if (encoding !== undefined && encoding.trim().toLowerCase() !== "identity") {
    return yield* fail(invalid("content-encoding", "compressed bodies are not read; send the form as it is"))
  }
  if (headers["content-type"]?.toLowerCase().startsWith("multipart/form-data") !== true) {
    return yield* fail(invalid("content-type", "expected multipart/form-data with a part named file"))
  }
  if (Number(headers["content-length"]) > maxBytes) {
    return yield* fail(new PayloadTooLarge({ message: `the body is larger than ${maxBytes} bytes`, maxBytes }))
  }
  const handle = yield* nameless
  const reading = new Reading({ ...headers }, maxBytes)
  let bytes = 0
  let head = Buffer.alloc(0)
  yield* request.stream.pipe(
    Stream.mapError(() => fail(new ValidationError({ message: "the body could not be read" }))),
    Stream.runForEachArray((together) =>
      Effect.suspend(() => {
        for (const chunk of together) reading.parser.write(chunk)
        if (reading.problem !== undefined) return Effect.fail(reading.problem)
        if (reading.pending.length === 0) return Effect.void
        const pieces = reading.pending.splice(0)
        if (head.length < headBytes) head = Buffer.concat([head, ...pieces]).subarray(0, headBytes)
        const at = bytes
        const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
        bytes += length
        return Effect.flatMap(
          onDisk(() => handle.writev(pieces, at)),
          // A disk that is nearly full takes a part.
          ({ bytesWritten }) => bytesWritten === length ? Effect.void : Effect.fail(diskFailed)
        )
      })
    )
  )
  if (!reading.isDone) reading.parser.end()
  if (reading.problem !== undefined) return yield* reading.problem
  const { file } = reading
  if (file === undefined) return yield* fail(invalid("file", "the form has no part named file"))
  const durationMs = wavDuration(head, bytes)
  return {
    fields: reading.fields,
    file: {
      filename: plainName(file.filename ?? ""),
      contentType: mediaType.test(file.contentType) ? file.contentType : "application/octet-stream",
      bytes,
      ...(durationMs === undefined ? {} : { durationMs }),
      content: contentOf(handle, bytes)
    }
  }
})
