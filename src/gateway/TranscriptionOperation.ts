/** Speech to text, as the stages see it: whole, and in a stream. */
import { Effect, Result, Stream } from "effect"
import { text } from "../sdk/Content.ts"
import { invalid } from "../sdk/GatewayError.ts"
import type { Recording, Transcription, TranscriptionChunk, TranscriptionResponse } from "../sdk/Transcription.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { PreparedOperation } from "./Preparation.ts"
import type { Meter, StreamOperation } from "./StreamOperation.ts"
import { estimateText, mostOfText } from "./TokenEstimate.ts"
import type { WholeOperation } from "./WholeOperation.ts"

// ---------------------------------------------------------------------------------------------------------------------
// How much sound comes to
// ---------------------------------------------------------------------------------------------------------------------

/** Bytes that a millisecond of compressed sound has: usually (64 kbit/s), and at least (16 kbit/s). */
const usualBytesPerMs = 8
const leastBytesPerMs = 2
/** OpenAI counts ten tokens a second of sound. Nobody says more than forty tokens a second; five are usual. */
const inputTokensPerMs = 0.01
const usualTokensPerMs = 0.005
const mostTokensPerMs = 0.04
/** What a transcript has of its form alone. */
const formTokens = 64

const lengthOf = ({ bytes, durationMs }: Recording, bytesPerMs: number): number => durationMs ?? bytes / bytesPerMs

const heardFor = (ms: number, inputTokens: number, outputTokens: number): Usage => ({
  inputTokens,
  inputAudioTokens: Math.ceil(ms * inputTokensPerMs),
  outputTokens: Math.ceil(outputTokens),
  inputAudioMs: Math.ceil(ms)
})

const usual = (request: Transcription, inputTokens: number): Usage => {
  const ms = lengthOf(request.audio, usualBytesPerMs)
  return heardFor(ms, inputTokens, ms * usualTokensPerMs)
}

const estimatePrompt = ({ prompt = "" }: Transcription): number => estimateText(prompt)

const estimated = (request: Transcription): Usage => ({ ...usual(request, estimatePrompt(request)), estimated: true })

/** What was heard, where the provider does not tell: by the length that it found, or that of the recording. */
const heard = (request: Transcription, said: string, seconds: number | undefined): Usage => {
  // Longer than its bytes allow is no length of this recording's.
  const told = seconds !== undefined && seconds >= 0 && seconds * 1000 <= request.audio.bytes
    ? seconds * 1000
    : undefined
  const ms = told ?? lengthOf(request.audio, usualBytesPerMs)
  return { ...heardFor(ms, estimatePrompt(request), estimateText(said)), estimated: true }
}

// ---------------------------------------------------------------------------------------------------------------------
// The operation
// ---------------------------------------------------------------------------------------------------------------------

const prepared: PreparedOperation<Transcription> = {
  name: "transcribe",
  requirements: () => ["transcription"],
  lacks: (provider, streamed) =>
    (streamed ? provider.streamTranscribe : provider.transcribe) === undefined ? "transcription" : undefined,
  inputTokens: estimatePrompt,
  mostInputTokens: ({ prompt = "" }) => mostOfText(prompt),
  outputTokens: () => 0,
  longestAnswer: () => 0,
  expected: (request, _, inputTokens) => usual(request, inputTokens),
  dearest: (request, _, inputTokens) => {
    const ms = lengthOf(request.audio, leastBytesPerMs)
    return {
      read: { inputTokens, outputTokens: 0 },
      whole: heardFor(ms, inputTokens, ms * mostTokensPerMs + formTokens)
    }
  },
  givenUp: estimated,
  validate: ({ audio }) =>
    audio.bytes === 0 ? Result.fail(invalid("file", "holds no sound: it is empty")) : Result.void,
  userOf: ({ user }) => user,
  shown: ({ model, prompt = "" }) => ({ model, messages: [{ role: "user", content: [text(prompt)] }] }),
  changed: (request, [prompt = ""]) => ({ ...request, prompt })
}

type Passages = NonNullable<TranscriptionResponse["segments"]>

const textsIn = (passages: Passages | undefined, key: string): ReadonlyArray<string> =>
  (passages ?? []).map((passage) => {
    const said = passage[key]
    return typeof said === "string" ? said : ""
  })

/** Passages with other texts; what else a provider says of them may quote the old ones. */
const rewritten = (passages: Passages, key: string, texts: ReadonlyArray<string>): Passages =>
  passages.map((passage, at) => {
    const { end, id, speaker, start, type } = passage
    const kept = Object.entries({ type, id, speaker, start, end }).filter(([, value]) => value !== undefined)
    return { ...Object.fromEntries(kept), [key]: texts[at] ?? "" }
  })

const withTexts = (response: TranscriptionResponse, texts: ReadonlyArray<string>): TranscriptionResponse => {
  const { extensions: _, segments, words, ...rest } = response
  const [said = "", ...others] = texts
  const afterSegments = segments?.length ?? 0
  return {
    ...rest,
    text: said,
    ...(segments === undefined ? {} : { segments: rewritten(segments, "text", others.slice(0, afterSegments)) }),
    ...(words === undefined ? {} : { words: rewritten(words, "word", others.slice(afterSegments)) })
  }
}

/** Whole transcripts. */
export const transcriptions: WholeOperation<Transcription, TranscriptionResponse> = {
  ...prepared,
  calls: (request) => ({
    call: (candidate, { connectTimeout, force }) => {
      const { transcribe } = candidate.provider
      return transcribe === undefined
        ? Effect.die(new Error("a provider without transcription was a candidate"))
        : Effect.map(
          transcribe({ request, model: candidate.model, connectTimeout, force }),
          (response) => ({ ...response, usage: response.usage ?? heard(request, response.text, response.duration) })
        )
    },
    wasted: () => []
  }),
  accounted: (response, findings) => ({ ...response, ...findings }),
  droppedOf: ({ droppedParams }) => droppedParams,
  answered: {
    texts: ({ segments, text: said, words }) => [said, ...textsIn(segments, "text"), ...textsIn(words, "word")],
    changed: withTexts
  }
}

/** Follows what has been said so far. */
class TranscriptMeter implements Meter<TranscriptionChunk> {
  readonly #request: Transcription
  #said = ""

  constructor(request: Transcription) {
    this.#request = request
  }

  observe({ text: said, type }: TranscriptionChunk): void {
    if (type === "done") this.#said = said
    else if (type === "delta") this.#said += said
  }

  usage(): Usage {
    return heard(this.#request, this.#said, undefined)
  }
}

const wholeText = (chunks: ReadonlyArray<TranscriptionChunk>): string =>
  chunks.find(({ type }) => type === "done")?.text ??
    chunks.flatMap(({ text: said, type }) => type === "delta" ? [said] : []).join("")

/** Streamed transcripts. */
export const streamedTranscriptions: StreamOperation<Transcription, TranscriptionChunk> = {
  ...prepared,
  chunks: {
    hasContent: () => true,
    ends: ({ type }) => type === "done",
    usage: ({ usage }) => usage
  },
  stream: (request, candidate, { connectTimeout, force }) => {
    const { streamTranscribe } = candidate.provider
    if (streamTranscribe === undefined) {
      return Stream.die(new Error("a provider without streamed transcription was a candidate"))
    }
    return Stream.map(
      streamTranscribe({ request, model: candidate.model, connectTimeout, force }),
      (chunk) =>
        chunk.type === "done" ? { ...chunk, usage: chunk.usage ?? heard(request, chunk.text, undefined) } : chunk
    )
  },
  meter: (request) => new TranscriptMeter(request),
  accounted: (chunk, usage) => ({ ...chunk, usage }),
  answered: {
    // A word may be cut by two pieces, and segments say the same once more: what is looked at is the whole.
    texts: (chunks) => [wholeText(chunks)],
    changed: (chunks, [said = ""]) =>
      chunks.flatMap(({ type, usage }): ReadonlyArray<TranscriptionChunk> =>
        type === "done"
          ? [{ type: "delta", text: said }, { type, text: said, ...(usage === undefined ? {} : { usage }) }]
          : []
      )
  }
}
