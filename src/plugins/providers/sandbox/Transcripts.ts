/** The sandbox's ear: it hears the same sentence in every sound, in whichever form is asked for. */
import { Effect, Stream } from "effect"
import type { Transcription, TranscriptionChunk, TranscriptionResponse } from "../../../sdk/Transcription.ts"
import type { Usage } from "../../../sdk/Usage.ts"

const words = ["The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog."]
const sentence = words.join("")
/** Of what is no WAV file, seconds. */
const usualSeconds = 2

const secondsOf = ({ audio: { durationMs } }: Transcription): number =>
  durationMs === undefined ? usualSeconds : durationMs / 1000

/** A second of sound counts as ten tokens, a word as one. */
const usageOf = (request: Transcription): Usage => ({
  inputTokens: 0,
  inputAudioTokens: Math.ceil(secondsOf(request) * 10),
  outputTokens: words.length
})

/** A moment as subtitles have it: `00:00:02,000`. */
const momentOf = (seconds: number, point: string): string => {
  const two = (value: number): string => String(value).padStart(2, "0")
  const whole = Math.floor(seconds)
  const rest = String(Math.round((seconds - whole) * 1000)).padStart(3, "0")
  return `${two(Math.floor(whole / 3600))}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}${point}${rest}`
}

/** The transcript. */
export const transcribe = (request: Transcription, model: string): Effect.Effect<TranscriptionResponse> =>
  Effect.sync(() => {
    const end = secondsOf(request)
    const usage = usageOf(request)
    const times = (point: string): string => `${momentOf(0, point)} --> ${momentOf(end, point)}`
    switch (request.responseFormat) {
      case "text":
        return { model, text: `${sentence}\n`, usage }
      case "srt":
        return { model, text: `1\n${times(",")}\n${sentence}\n\n`, usage }
      case "vtt":
        return { model, text: `WEBVTT\n\n${times(".")}\n${sentence}\n\n`, usage }
      case "verbose_json":
        return {
          model,
          text: sentence,
          language: "english",
          duration: end,
          segments: [{ id: 0, start: 0, end, text: sentence }],
          usage
        }
      case "diarized_json":
        return {
          model,
          text: sentence,
          duration: end,
          segments: [{ id: "0", speaker: "A", start: 0, end, text: sentence }],
          usage
        }
      default:
        return { model, text: sentence, usage }
    }
  })

/** The same word by word. */
export const stream = (request: Transcription): Stream.Stream<TranscriptionChunk> =>
  Stream.fromIterable<TranscriptionChunk>([
    ...words.map((text) => ({ type: "delta", text }) as const),
    { type: "done", text: sentence, usage: usageOf(request) }
  ])
