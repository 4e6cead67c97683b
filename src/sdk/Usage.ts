/** What a request consumed, in buckets that no provider's way of counting can make overlap, and what it cost. */
import { Schema } from "effect"

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const optionalCount = Schema.optionalKey(Count)

/**
 * Token counts in disjoint buckets: the total input is the sum of `inputTokens` (uncached text), the cache buckets and
 * the media buckets; the total output is the sum of `outputTokens` (text, reasoning included), `outputAudioTokens` and
 * `outputImageTokens`. `reasoningTokens` alone is a subset, of `outputTokens`. An absent bucket is zero.
 *
 * Beside them stands what is not sold by the token: images, characters, and the length of sound and video, in whole
 * milliseconds, so that sums are exact. Some models are sold by both; each bucket is charged for which there is a price.
 */
export const Usage = Schema.Struct({
  inputTokens: Count,
  outputTokens: Count,
  cacheReadTokens: optionalCount,
  cacheWrite5mTokens: optionalCount,
  cacheWrite1hTokens: optionalCount,
  inputAudioTokens: optionalCount,
  inputImageTokens: optionalCount,
  outputAudioTokens: optionalCount,
  outputImageTokens: optionalCount,
  reasoningTokens: optionalCount,
  /** Images that were made. */
  images: optionalCount,
  /** Characters (Unicode code points) of text to be spoken. */
  characters: optionalCount,
  /** How long the sound is that was heard, ms. */
  inputAudioMs: optionalCount,
  /** How long the sound is that was made, ms. */
  outputAudioMs: optionalCount,
  /** How long the video is that was seen, ms. */
  inputVideoMs: optionalCount,
  /** How long the video is that was made, ms. */
  outputVideoMs: optionalCount,
  /** Size, and quality where it has one, of the images or the video that were made, such as `1024x1024/high`. */
  variant: Schema.optionalKey(Schema.String),
  /** True where the provider told nothing and the gateway counted for itself. */
  estimated: Schema.optionalKey(Schema.Boolean),
  /** Cost in USD by the gateway's own prices; absent where no price is known. */
  costEstimate: Schema.optionalKey(Schema.Finite)
}).pipe(Schema.encodeKeys({
  inputTokens: "input_tokens",
  outputTokens: "output_tokens",
  cacheReadTokens: "cache_read_tokens",
  cacheWrite5mTokens: "cache_write_5m_tokens",
  cacheWrite1hTokens: "cache_write_1h_tokens",
  inputAudioTokens: "input_audio_tokens",
  inputImageTokens: "input_image_tokens",
  outputAudioTokens: "output_audio_tokens",
  outputImageTokens: "output_image_tokens",
  reasoningTokens: "reasoning_tokens",
  inputAudioMs: "input_audio_ms",
  outputAudioMs: "output_audio_ms",
  inputVideoMs: "input_video_ms",
  outputVideoMs: "output_video_ms",
  costEstimate: "cost_estimate"
}))
export interface Usage extends Schema.Schema.Type<typeof Usage> {}

/** Nothing consumed. */
export const zero: Usage = { inputTokens: 0, outputTokens: 0 }

/** All input tokens, cached and media ones included. */
export const totalInput = (usage: Usage): number =>
  usage.inputTokens + (usage.cacheReadTokens ?? 0) + (usage.cacheWrite5mTokens ?? 0) +
  (usage.cacheWrite1hTokens ?? 0) + (usage.inputAudioTokens ?? 0) + (usage.inputImageTokens ?? 0)

/** All output tokens, reasoning and media ones included. */
export const totalOutput = (usage: Usage): number =>
  usage.outputTokens + (usage.outputAudioTokens ?? 0) + (usage.outputImageTokens ?? 0)

/** Tokens written to a provider's prompt cache, whatever their lifetime. */
export const totalCacheWrite = (usage: Usage): number =>
  (usage.cacheWrite5mTokens ?? 0) + (usage.cacheWrite1hTokens ?? 0)
