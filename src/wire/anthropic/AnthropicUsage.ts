/**
 * Anthropic's way of counting, both ways. Its buckets are disjoint already: `input_tokens` leaves out what was read from
 * or written to the cache. In a stream `message_start` tells first figures and `message_delta` replaces them field by
 * field; its figures are cumulative, so nothing is ever added up.
 */
import type { Usage } from "../../sdk/Usage.ts"
import type { Json } from "../Codec.ts"
import { count, isJson } from "../Json.ts"

/** What the wire has told so far. */
interface Counted {
  input?: number
  output?: number
  cacheRead?: number
  cacheWrite?: number
  cacheWrite5m?: number
  cacheWrite1h?: number
  thinking?: number
}

/** Reads the usage objects of one answer. */
export interface UsageReader {
  /** Takes one usage object; fields that are absent or null leave what is known. */
  readonly read: (usage: unknown) => void
  /** The usage as known now; nothing where the wire has told nothing. */
  readonly usage: () => Usage | undefined
}

/** Starts reading the usage of one answer. */
export const usageReader = (): UsageReader => {
  const counted: Counted = {}
  let told = false
  return {
    read: (usage) => {
      if (!isJson(usage)) return
      const input = count(usage["input_tokens"])
      const output = count(usage["output_tokens"])
      const cacheRead = count(usage["cache_read_input_tokens"])
      const cacheWrite = count(usage["cache_creation_input_tokens"])
      if (input !== undefined) counted.input = input
      if (output !== undefined) counted.output = output
      if (cacheRead !== undefined) counted.cacheRead = cacheRead
      if (cacheWrite !== undefined) counted.cacheWrite = cacheWrite
      const split = usage["cache_creation"]
      if (isJson(split)) {
        const short = count(split["ephemeral_5m_input_tokens"])
        const long = count(split["ephemeral_1h_input_tokens"])
        if (short !== undefined) counted.cacheWrite5m = short
        if (long !== undefined) counted.cacheWrite1h = long
      }
      const details = usage["output_tokens_details"]
      const thinking = isJson(details) ? count(details["thinking_tokens"]) : undefined
      if (thinking !== undefined) counted.thinking = thinking
      told ||= input !== undefined || output !== undefined
    },
    usage: () => {
      if (!told) return undefined
      const cacheRead = counted.cacheRead ?? 0
      // The total is the newer figure (`message_delta` has no split); what the split does not cover is a five-minute
      // write, Anthropic's default.
      const total = counted.cacheWrite ?? (counted.cacheWrite5m ?? 0) + (counted.cacheWrite1h ?? 0)
      const long = Math.min(counted.cacheWrite1h ?? 0, total)
      const output = counted.output ?? 0
      const thinking = Math.min(counted.thinking ?? 0, output)
      return {
        inputTokens: counted.input ?? 0,
        outputTokens: output,
        ...(cacheRead > 0 ? { cacheReadTokens: cacheRead } : {}),
        ...(total - long > 0 ? { cacheWrite5mTokens: total - long } : {}),
        ...(long > 0 ? { cacheWrite1hTokens: long } : {}),
        ...(thinking > 0 ? { reasoningTokens: thinking } : {})
      }
    }
  }
}

/** The canonical usage of a whole answer. */
export const decodeUsage = (usage: unknown): Usage | undefined => {
  const reader = usageReader()
  reader.read(usage)
  return reader.usage()
}

const knownUsage = new Set([
  "input_tokens",
  "output_tokens",
  "cache_read_input_tokens",
  "cache_creation_input_tokens",
  "cache_creation",
  "output_tokens_details"
])

/** What a usage object tells beyond tokens: service tier, server tools used. */
export const usageExtras = (usage: unknown): Json | undefined => {
  if (!isJson(usage)) return undefined
  const extras = Object.entries(usage).filter(([key, value]) => value !== null && !knownUsage.has(key))
  return extras.length === 0 ? undefined : Object.fromEntries(extras)
}

/**
 * A usage object in Anthropic's form. Media input counts as plain input and media output as plain output, which have no
 * buckets of their own here.
 */
export const encodeUsage = (usage: Usage | undefined, extras?: unknown): Json => {
  const short = usage?.cacheWrite5mTokens ?? 0
  const long = usage?.cacheWrite1hTokens ?? 0
  const thinking = usage?.reasoningTokens ?? 0
  return {
    ...(isJson(extras) ? extras : {}),
    input_tokens: (usage?.inputTokens ?? 0) + (usage?.inputAudioTokens ?? 0) + (usage?.inputImageTokens ?? 0),
    cache_creation_input_tokens: short + long,
    cache_read_input_tokens: usage?.cacheReadTokens ?? 0,
    cache_creation: { ephemeral_5m_input_tokens: short, ephemeral_1h_input_tokens: long },
    output_tokens: (usage?.outputTokens ?? 0) + (usage?.outputAudioTokens ?? 0) + (usage?.outputImageTokens ?? 0),
    ...(thinking > 0 ? { output_tokens_details: { thinking_tokens: thinking } } : {})
  }
}
