/**
 * Token counts between OpenAI's nested totals and the sdk's disjoint buckets. OpenAI counts everything into
 * `prompt_tokens` and `completion_tokens` and tells subsets beside it; the buckets are cut out of the total one after
 * the other, so they always add up to it and none is ever negative, whatever a server reports.
 */
import { totalCacheWrite, totalInput, totalOutput, type Usage } from "../../sdk/Usage.ts"
import type { Json } from "../Codec.ts"
import { count, type Draft, isJson, object } from "../Json.ts"

/**
 * Reads a usage object; `undefined` where there is none. Beside OpenAI's fields it knows DeepSeek's
 * `prompt_cache_hit_tokens`, Moonshot's `cached_tokens` and OpenRouter's `image_tokens`.
 */
export const decodeUsage = (json: unknown): Usage | undefined => {
  if (!isJson(json)) return undefined
  const prompt = count(json["prompt_tokens"])
  const completion = count(json["completion_tokens"])
  if (prompt === undefined && completion === undefined) return undefined
  const input = object(json["prompt_tokens_details"]) ?? {}
  const output = object(json["completion_tokens_details"]) ?? {}

  let left = prompt ?? 0
  const cut = (amount: number | undefined): number => {
    const taken = Math.min(amount ?? 0, left)
    left -= taken
    return taken
  }
  const cacheRead = cut(
    count(input["cached_tokens"]) ?? count(json["prompt_cache_hit_tokens"]) ?? count(json["cached_tokens"])
  )
  const cacheWrite = cut(count(input["cache_write_tokens"]))
  const inputAudio = cut(count(input["audio_tokens"]))
  const inputImage = cut(count(input["image_tokens"]))
  const inputTokens = left

  const reasoning = count(output["reasoning_tokens"]) ?? 0
  left = completion ?? 0
  // xAI counts reasoning beside the completion, not within it; its total tells.
  if (reasoning > 0 && count(json["total_tokens"]) === (prompt ?? 0) + left + reasoning) left += reasoning
  const outputAudio = cut(count(output["audio_tokens"]))
  const outputImage = cut(count(output["image_tokens"]))

  const usage: Draft<Usage> = { inputTokens, outputTokens: left }
  if (cacheRead > 0) usage.cacheReadTokens = cacheRead
  if (cacheWrite > 0) usage.cacheWrite5mTokens = cacheWrite
  if (inputAudio > 0) usage.inputAudioTokens = inputAudio
  if (inputImage > 0) usage.inputImageTokens = inputImage
  if (outputAudio > 0) usage.outputAudioTokens = outputAudio
  if (outputImage > 0) usage.outputImageTokens = outputImage
  if (reasoning > 0 && left > 0) usage.reasoningTokens = Math.min(reasoning, left)
  return usage
}

/** Writes a usage object: all input as `prompt_tokens`, all output as `completion_tokens`, the subsets beside them. */
export const encodeUsage = (usage: Usage): Json => {
  const prompt = totalInput(usage)
  const completion = totalOutput(usage)
  const written = totalCacheWrite(usage)
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: {
      cached_tokens: usage.cacheReadTokens ?? 0,
      ...(written > 0 ? { cache_write_tokens: written } : {}),
      audio_tokens: usage.inputAudioTokens ?? 0,
      ...(usage.inputImageTokens === undefined ? {} : { image_tokens: usage.inputImageTokens })
    },
    completion_tokens_details: {
      reasoning_tokens: usage.reasoningTokens ?? 0,
      audio_tokens: usage.outputAudioTokens ?? 0,
      ...(usage.outputImageTokens === undefined ? {} : { image_tokens: usage.outputImageTokens })
    }
  }
}
