/** Where the sound of a request in JSON comes from: a file of the gateway's, a `data:` URL, or base64. */
import { Effect, Option, Stream } from "effect"
import { CurrentCaller } from "../sdk/Caller.ts"
import { fileIdOf, FileStorage, noFiles } from "../sdk/FileStorage.ts"
import { fail, type GatewayError, invalid } from "../sdk/GatewayError.ts"
import {
  headBytes,
  type Recording,
  type Transcription,
  type TranscriptionRequest,
  wavDuration
} from "../sdk/Transcription.ts"

const noSound = fail(
  invalid("audio", "expected the id or the address of a file of this gateway, a data: URL in base64, or base64")
)

const dataUrl = /^data:([\w.+-]+\/[\w.+-]+)?(?:;[\w.+-]+=[\w.+"-]+)*;base64,/

const base64Only = /^[A-Za-z0-9+/]+={0,2}$/

/** Endings by which servers tell what a sound is, where its sender names none. */
const endings: ReadonlyMap<string, string> = new Map([
  ["audio/mpeg", "mp3"],
  ["audio/wav", "wav"],
  ["audio/x-wav", "wav"],
  ["audio/ogg", "ogg"],
  ["audio/flac", "flac"],
  ["audio/mp4", "m4a"],
  ["audio/webm", "webm"],
  ["video/mp4", "mp4"],
  ["video/webm", "webm"]
])

const isWav = (head: Uint8Array): boolean => Buffer.from(head).subarray(0, 4).toString("latin1") === "RIFF"

const inline = (audio: string, filename: string | undefined): Effect.Effect<Recording, GatewayError> =>
  Effect.suspend(() => {
    const [head, type] = dataUrl.exec(audio) ?? []
    const base64 = head === undefined ? audio : audio.slice(head.length)
    if (!base64Only.test(base64)) return Effect.fail(noSound)
    const bytes = Buffer.from(base64, "base64")
    const contentType = type ?? (isWav(bytes) ? "audio/wav" : "application/octet-stream")
    const durationMs = wavDuration(bytes, bytes.length)
    return Effect.succeed({
      filename: filename ?? `audio.${endings.get(contentType) ?? "mp3"}`,
      contentType,
      bytes: bytes.length,
      ...(durationMs === undefined ? {} : { durationMs }),
      content: Stream.succeed(bytes)
    })
  })

const stored = Effect.fnUntraced(function*(
  id: string,
  filename: string | undefined,
  files: FileStorage["Service"]
): Effect.fn.Return<Recording, GatewayError> {
  const { tenant } = yield* CurrentCaller
  const { content, info } = yield* files.get(tenant, id)
  const head = info.bytes === 0
    ? new Uint8Array()
    : Buffer.concat(
      yield* Stream.runCollect(
        (yield* files.get(tenant, id, { start: 0, end: Math.min(info.bytes, headBytes) - 1 })).content
      )
    )
  const durationMs = wavDuration(head, info.bytes)
  return {
    filename: filename ?? info.filename,
    contentType: info.contentType,
    bytes: info.bytes,
    ...(durationMs === undefined ? {} : { durationMs }),
    content
  }
})

/** Finds a request's sound; another tenant's file is `file_not_found`. */
export type Find = (request: TranscriptionRequest | Transcription) => Effect.Effect<Transcription, GatewayError>

/** Finds sound in the gateway's files, where it has some, and in the request itself. */
export const finding: Effect.Effect<Find> = Effect.map(
  Effect.serviceOption(FileStorage),
  (storage): Find => (request) => {
    const { audio } = request
    if (typeof audio !== "string") return Effect.succeed({ ...request, audio })
    const { filename, ...rest } = { filename: undefined, ...request }
    const id = fileIdOf(audio)
    const found = id === undefined
      ? inline(audio, filename)
      : Option.isNone(storage)
      ? Effect.fail(noFiles)
      : stored(id, filename, storage.value)
    return Effect.map(found, (recording) => ({ ...rest, audio: recording }))
  }
)
