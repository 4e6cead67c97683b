/** Text to speech, as the stages see it: a stream of sound, whatever becomes of it afterwards. */
import { Effect, Option, Result, type Scope, Stream } from "effect"
import { text } from "../sdk/Content.ts"
import { FileStorage, fileUrl, noFiles } from "../sdk/FileStorage.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import { type SpeechChunk, type SpeechRequest, type SpeechResponse, speechType } from "../sdk/Speech.ts"
import type { Usage } from "../sdk/Usage.ts"
import { type Exchange, start } from "./Exchange.ts"
import type { Meter, Open, StreamOperation } from "./StreamOperation.ts"
import { estimateText, mostOfText } from "./TokenEstimate.ts"

// ---------------------------------------------------------------------------------------------------------------------
// How much a text comes to
// ---------------------------------------------------------------------------------------------------------------------

/** How long a character takes to say: usually, and at most (one of Chinese, or a digit), ms. */
const usualMs = 100
const mostMs = 300
/** Silence around the words, ms. */
const aroundMs = 1_000
/** OpenAI charges 12 USD a million audio tokens and gives 0.015 USD a minute for that: 1,250 tokens a minute. */
const tokensPerMs = 1_250 / 60_000
/** Sound without compression: 24 kHz, 16 bits, one channel (https://platform.openai.com/docs/guides/text-to-speech). */
const plainBytesPerMs = 48

/** Unicode code points. */
const charactersOf = (input: string): number => {
  let count = 0
  for (const _ of input) count++
  return count
}

const usageOf = (request: SpeechRequest, inputTokens: number, ms: number): Usage => ({
  inputTokens,
  outputTokens: 0,
  outputAudioTokens: Math.ceil(ms * tokensPerMs),
  characters: charactersOf(request.input),
  outputAudioMs: Math.ceil(ms)
})

const lengthOf = (request: SpeechRequest, each: number): number =>
  charactersOf(request.input) * each / (request.speed ?? 1)

const readOf = ({ input, instructions = "" }: SpeechRequest): string => `${input}${instructions}`

const estimated = (request: SpeechRequest): Usage => ({
  ...usageOf(request, estimateText(readOf(request)), lengthOf(request, usualMs)),
  estimated: true
})

/** Measures the sound where its bytes tell how long it is. */
class SpeechMeter implements Meter<SpeechChunk> {
  readonly #request: SpeechRequest
  #bytes = 0

  constructor(request: SpeechRequest) {
    this.#request = request
  }

  observe({ audio }: SpeechChunk): void {
    if (audio !== undefined) this.#bytes += audio.length
  }

  usage(): Usage {
    const { responseFormat: format } = this.#request
    if (format !== "pcm" && format !== "wav") return estimated(this.#request)
    return {
      ...usageOf(this.#request, estimateText(readOf(this.#request)), this.#bytes / plainBytesPerMs),
      estimated: true
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The operation
// ---------------------------------------------------------------------------------------------------------------------

/** Streamed sound. */
export const streamedSpeech: StreamOperation<SpeechRequest, SpeechChunk> = {
  name: "speak",
  requirements: () => ["speech"],
  lacks: (provider) => provider.speak === undefined ? "speech" : undefined,
  inputTokens: (request) => estimateText(readOf(request)),
  mostInputTokens: (request) => mostOfText(readOf(request)),
  outputTokens: () => 0,
  longestAnswer: () => 0,
  expected: (request, _, inputTokens) => usageOf(request, inputTokens, lengthOf(request, usualMs)),
  dearest: (request, _, inputTokens) => ({
    read: { inputTokens, outputTokens: 0 },
    whole: usageOf(request, inputTokens, lengthOf(request, mostMs) + aroundMs)
  }),
  givenUp: estimated,
  validate: () => Result.void,
  userOf: ({ user }) => user,
  shown: ({ input, instructions, model }) => ({
    model,
    messages: [{
      role: "user",
      content: instructions === undefined ? [text(input)] : [text(input), text(instructions)]
    }]
  }),
  changed: (request, [input = "", instructions]) => ({
    ...request,
    input,
    ...(instructions === undefined ? {} : { instructions })
  }),
  chunks: {
    hasContent: ({ audio }) => audio !== undefined && audio.length > 0,
    ends: ({ type }) => type === "done",
    usage: ({ usage }) => usage
  },
  stream: (request, candidate, { connectTimeout, force }) => {
    const { speak } = candidate.provider
    if (speak === undefined) return Stream.die(new Error("a provider without speech was a candidate"))
    const meter = new SpeechMeter(request)
    const characters = charactersOf(request.input)
    return Stream.map(speak({ request, model: candidate.model, connectTimeout, force }), (chunk): SpeechChunk => {
      if (chunk.type === "audio") {
        meter.observe(chunk)
        return chunk
      }
      return { ...chunk, usage: chunk.usage === undefined ? meter.usage() : { ...chunk.usage, characters } }
    })
  },
  meter: (request) => new SpeechMeter(request),
  accounted: (chunk, usage) => ({ ...chunk, usage })
}

// ---------------------------------------------------------------------------------------------------------------------
// Speech that is kept
// ---------------------------------------------------------------------------------------------------------------------

/** Asks for speech that is kept as a file; the exchange is made where the caller brings none. */
export type Keep = (request: SpeechRequest, exchange?: Exchange) => Effect.Effect<SpeechResponse, GatewayError>

const extension = /^[a-z0-9]{1,8}$/

/** Makes speech that is kept in the gateway's files, where it has some. What is interrupted or fails leaves nothing there. */
export const keeping = (open: Open<SpeechRequest, SpeechChunk>): Effect.Effect<Keep> =>
  Effect.map(Effect.serviceOption(FileStorage), (storage): Keep => {
    const kept = Effect.fnUntraced(function*(
      request: SpeechRequest,
      exchange: Exchange,
      files: FileStorage["Service"]
    ): Effect.fn.Return<SpeechResponse, GatewayError, Scope.Scope> {
      const chunks = yield* open(request, exchange)
      let contentType: string | undefined
      let usage: Usage | undefined
      const content = Stream.transformPull(chunks, (pull) =>
        Effect.succeed(
          Effect.map(pull, (together) => {
            const bytes: Array<Uint8Array> = []
            for (const chunk of together) {
              if (chunk.audio !== undefined) bytes.push(chunk.audio)
              contentType ??= chunk.contentType
              usage = chunk.usage ?? usage
            }
            return [bytes.length === 1 && bytes[0] !== undefined ? bytes[0] : Buffer.concat(bytes)] as const
          })
        ))
      const format = request.responseFormat ?? "mp3"
      const file = yield* files.put({
        tenant: exchange.caller.tenant,
        purpose: "output",
        ...(extension.test(format) ? { filename: `speech.${format}` } : {}),
        content
      })
      return {
        url: fileUrl(file.id),
        fileId: file.id,
        contentType: contentType ?? speechType(format),
        bytes: file.bytes,
        ...(usage === undefined ? {} : { usage }),
        ...(exchange.model === undefined ? {} : { modelUsed: exchange.model.id }),
        fallbackUsed: exchange.fallbackUsed
      }
    })
    return (request, exchange) =>
      Option.isNone(storage)
        ? Effect.fail(noFiles)
        : Effect.scoped(Effect.flatMap(
          exchange === undefined ? start(request.model, false, request.user, "speak") : Effect.succeed(exchange),
          (started) => kept(request, started, storage.value)
        ))
  })
