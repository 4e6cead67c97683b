/**
 * The sandbox's videos: MP4 files of a picture a second, in the colours that the prompt decides. What a video is stands in its
 * id, so that a gateway that starts anew can go on with it. ISO/IEC 14496-12; the frames are PNG, as QuickTime has them.
 */
import { Clock, Effect, Schema, Stream } from "effect"
import { type Provider, ProviderError } from "../../../sdk/Provider.ts"
import { picture, side } from "./Pictures.ts"

type Films = Required<Pick<Provider, "submitVideo" | "pollVideo" | "fetchVideo" | "cancelVideo">>

const usualSeconds = 4
/** How long a video takes, ms; `video-slow-2000` says it itself. */
const usualTime = 100

const u32 = (...values: ReadonlyArray<number>): Buffer => {
  const bytes = Buffer.alloc(values.length * 4)
  values.forEach((value, at) => bytes.writeUInt32BE(value, at * 4))
  return bytes
}
const u16 = (...values: ReadonlyArray<number>): Buffer => {
  const bytes = Buffer.alloc(values.length * 2)
  values.forEach((value, at) => bytes.writeUInt16BE(value, at * 2))
  return bytes
}
const ascii = (text: string): Buffer => Buffer.from(text, "latin1")

const box = (type: string, ...content: ReadonlyArray<Buffer>): Buffer => {
  const body = Buffer.concat(content)
  return Buffer.concat([u32(body.length + 8), ascii(type), body])
}

const matrix = u32(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
const scale = 1_000

const sampleEntry = box(
  "png ",
  u32(0),
  u16(0, 1, 0, 0),
  u32(0, 0, 0),
  u16(side, side),
  u32(0x480000, 0x480000, 0),
  u16(1),
  Buffer.alloc(32),
  u16(24, 0xffff)
)

/** A film of so many frames, one a second. */
const filmOf = (prompt: string, seconds: number): Buffer => {
  const frames = Array.from({ length: seconds }, (_, at) => picture(`${at}:${prompt}`))
  const duration = seconds * scale
  const type = box("ftyp", ascii("isom"), u32(0x200), ascii("isommp41"))
  const table = box(
    "stbl",
    box("stsd", u32(0, 1), sampleEntry),
    box("stts", u32(0, 1, seconds, scale)),
    box("stsc", u32(0, 1, 1, seconds, 1)),
    box("stsz", u32(0, 0, seconds, ...frames.map(({ length }) => length))),
    box("stco", u32(0, 1, type.length + 8))
  )
  const media = box(
    "mdia",
    box("mdhd", u32(0, 0, 0, scale, duration), u16(0x55c4, 0)),
    box("hdlr", u32(0, 0), ascii("vide"), u32(0, 0, 0), ascii("sandbox\0")),
    box("minf", box("vmhd", u32(1), u16(0, 0, 0, 0)), box("dinf", box("dref", u32(0, 1), box("url ", u32(1)))), table)
  )
  const track = box(
    "trak",
    box("tkhd", u32(3, 0, 0, 1, 0, duration, 0, 0), u16(0, 0, 0, 0), matrix, u32(side << 16, side << 16)),
    media
  )
  const head = box(
    "mvhd",
    u32(0, 0, 0, scale, duration, 0x10000),
    u16(0x100, 0),
    u32(0, 0),
    matrix,
    Buffer.alloc(24),
    u32(2)
  )
  return Buffer.concat([type, box("mdat", ...frames), box("moov", head, track)])
}

const Film = Schema.fromJsonString(Schema.Struct({
  prompt: Schema.String,
  seconds: Schema.Int,
  size: Schema.optionalKey(Schema.String),
  /** Unix ms. */
  readyAt: Schema.Finite
}))
const encodeFilm = Schema.encodeSync(Film)
const decodeFilm = Schema.decodeEffect(Film)

/** A prompt is cut at this length: it stands in the id. */
const maxPrompt = 200

/** The sandbox's calls for videos. */
export const make = (slug: string): Films => {
  const read = (id: string) =>
    Effect.mapError(
      decodeFilm(Buffer.from(id, "base64url").toString()),
      () => new ProviderError({ provider: slug, kind: "caller", status: 404, message: "there is no such video" })
    )
  return {
    submitVideo: ({ model, request }) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const time = Number(/^video-slow-(\d{1,7})$/.exec(model.model)?.[1] ?? usualTime)
        return {
          id: Buffer.from(encodeFilm({
            prompt: request.prompt.slice(0, maxPrompt).toWellFormed(),
            seconds: request.seconds ?? usualSeconds,
            ...(request.size === undefined ? {} : { size: request.size }),
            readyAt: now + time
          })).toString("base64url")
        }
      }),
    pollVideo: ({ id }) =>
      Effect.zipWith(read(id), Clock.currentTimeMillis, ({ readyAt, seconds, size }, now) => ({
        status: now >= readyAt ? "completed" as const : "in_progress" as const,
        seconds,
        ...(size === undefined ? {} : { size })
      })),
    fetchVideo: ({ id }) =>
      Stream.unwrap(Effect.map(read(id), ({ prompt, seconds }) => Stream.make(filmOf(prompt, seconds)))),
    cancelVideo: () => Effect.void
  }
}
