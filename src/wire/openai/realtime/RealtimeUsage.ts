/**
 * What realtime responses and transcripts consumed. OpenAI counts cached tokens within the input, in total and for each kind;
 * the gateway's buckets are disjoint. (https://platform.openai.com/docs/api-reference/realtime-server-events/response/done)
 */
import type { Usage } from "../../../sdk/Usage.ts"
import { count, finite, isJson } from "../../Json.ts"

const difference = (whole: number, part: number): number => Math.max(0, whole - part)

const filledOnly = (
  name: "inputAudioTokens" | "inputImageTokens" | "cacheReadTokens" | "outputAudioTokens",
  value: number
) => value === 0 ? {} : { [name]: value }

/** The usage of a response, by its `usage` member; undefined where it holds none. */
export const responseUsage = (usage: unknown): Usage | undefined => {
  if (!isJson(usage)) return undefined
  const input = count(usage["input_tokens"])
  const output = count(usage["output_tokens"])
  if (input === undefined && output === undefined) return undefined
  const details = isJson(usage["input_token_details"]) ? usage["input_token_details"] : {}
  const cachedDetails = isJson(details["cached_tokens_details"]) ? details["cached_tokens_details"] : {}
  const outputDetails = isJson(usage["output_token_details"]) ? usage["output_token_details"] : {}
  const cached = Math.min(count(details["cached_tokens"]) ?? 0, input ?? 0)
  const audio = difference(count(details["audio_tokens"]) ?? 0, count(cachedDetails["audio_tokens"]) ?? 0)
  const image = difference(count(details["image_tokens"]) ?? 0, count(cachedDetails["image_tokens"]) ?? 0)
  const audioOut = Math.min(count(outputDetails["audio_tokens"]) ?? 0, output ?? 0)
  return {
    // What is neither cached nor of another kind is text, also where the details do not add up.
    inputTokens: difference(input ?? 0, cached + audio + image),
    outputTokens: difference(output ?? 0, audioOut),
    ...filledOnly("cacheReadTokens", cached),
    ...filledOnly("inputAudioTokens", audio),
    ...filledOnly("inputImageTokens", image),
    ...filledOnly("outputAudioTokens", audioOut)
  }
}

/** The usage of a transcript: tokens, or the length of the sound. */
export const transcriptUsage = (usage: unknown): Usage | undefined => {
  if (!isJson(usage)) return undefined
  const seconds = finite(usage["seconds"])
  if (usage["type"] === "duration" && seconds !== undefined && seconds >= 0) {
    return { inputTokens: 0, outputTokens: 0, inputAudioMs: Math.round(seconds * 1000) }
  }
  return responseUsage(usage)
}
