/**
 * The sandbox's voice: a tone for each word, in a WAV file or as plain samples, or silence in an MP3 file; the same for the same
 * text.
 */
import { Effect, Stream } from "effect"
import { crc32 } from "node:zlib"
import { ProviderError, type SpeechCall } from "../../../sdk/Provider.ts"
import { type SpeechChunk, type SpeechRequest, speechType } from "../../../sdk/Speech.ts"

/** 24 kHz, 16 bits, one channel: what OpenAI's models speak. */
const rate = 24_000
const bytesPerMs = rate / 1000 * 2
/** How long a character is said, and everything together at most, ms. */
const characterMs = 50
const maxMs = 10_000
/** How much is sent together, ms. */
const pieceMs = 100

/** https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html */
const wavHead = (bytes: number): Buffer => {
  const head = Buffer.alloc(44)
  head.write("RIFF", 0, "latin1")
  head.writeUInt32LE(36 + bytes, 4)
  head.write("WAVEfmt ", 8, "latin1")
  head.writeUInt32LE(16, 16)
  head.writeUInt16LE(1, 20)
  head.writeUInt16LE(1, 22)
  head.writeUInt32LE(rate, 24)
  head.writeUInt32LE(rate * 2, 28)
  head.writeUInt16LE(2, 32)
  head.writeUInt16LE(16, 34)
  head.write("data", 36, "latin1")
  head.writeUInt32LE(bytes, 40)
  return head
}

const samples = (seed: number, at: number, ms: number): Buffer => {
  const piece = Buffer.alloc(ms * bytesPerMs)
  const hertz = 200 + (seed + at) % 12 * 50
  for (let index = 0; index < piece.length / 2; index++) {
    piece.writeInt16LE(Math.round(8_000 * Math.sin(2 * Math.PI * hertz * index / rate)), index * 2)
  }
  return piece
}

/** A frame of MPEG-1 layer III, 128 kbit/s, 44.1 kHz, one channel: 417 bytes, some 26 ms. Zeros in it are silence. */
const mp3Frame = (): Buffer => {
  const frame = Buffer.alloc(417)
  frame.set([0xff, 0xfb, 0x90, 0xc4])
  return frame
}
const mp3FrameMs = 26

const lengthOf = ({ input, speed = 1 }: SpeechRequest): number =>
  Math.min(maxMs, Math.max(pieceMs, Math.round(input.length * characterMs / speed / pieceMs) * pieceMs))

const piecesOf = function*(request: SpeechRequest, format: string, ms: number): Generator<SpeechChunk> {
  const contentType = speechType(format)
  const seed = crc32(request.input)
  if (format === "wav") yield { type: "audio", audio: wavHead(ms * bytesPerMs), contentType }
  for (let at = 0; at < ms; at += pieceMs) {
    const audio = format === "mp3"
      ? Buffer.concat(Array.from({ length: Math.ceil(pieceMs / mp3FrameMs) }, mp3Frame))
      : samples(seed, at / pieceMs, pieceMs)
    yield { type: "audio", audio, ...(at === 0 && format !== "wav" ? { contentType } : {}) }
  }
  yield {
    type: "done",
    usage: {
      inputTokens: request.input.trim().split(/\s+/).length,
      outputTokens: 0,
      outputAudioTokens: ms / 50,
      outputAudioMs: ms
    }
  }
}

/** Says a text, in as much time as the machine takes; a word counts as a token, and each 50 ms of sound as another. */
export const speak = ({ request }: SpeechCall, provider: string): Stream.Stream<SpeechChunk, ProviderError> => {
  const format = request.responseFormat ?? "mp3"
  if (format !== "wav" && format !== "pcm" && format !== "mp3") {
    return Stream.fromEffect(Effect.fail(
      new ProviderError({
        provider,
        kind: "caller",
        refused: true,
        field: "response_format",
        message: "the sandbox speaks mp3, wav and pcm alone"
      })
    ))
  }
  return Stream.fromIterable(piecesOf(request, format, lengthOf(request)))
}
