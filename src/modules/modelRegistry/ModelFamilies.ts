/**
 * What the models of OpenAI and Anthropic can do, by family. The price package tells prices and context windows only, so
 * capabilities and output limits are kept here by hand, from the providers' public model pages. A wrong "no" turns a
 * good request away, so a family says only what is certain for all of its models; what it leaves out is not known.
 *
 * Keeping it: the first pattern that matches decides, so the special stands before the general. A new generation goes in
 * only when its limits are published; until then its models have no family, which makes them usable without checks.
 */
import type { Capability } from "../../sdk/Model.ts"

/** What all models of a family have in common. */
export interface ModelFamily {
  /** Matches the provider's own model ids, dated ones and fine-tunes included. */
  readonly pattern: RegExp
  readonly capabilities: ReadonlyArray<Capability>
  /** Tokens, prompt and answer together. Given only where the price package does not know it, or rounds it. */
  readonly contextWindow?: number
  /** Tokens. */
  readonly maxOutputTokens?: number
  /** True where a match alone proves that the model exists, because the price package has no entry for its kind. */
  readonly known?: boolean
}

/** A provider's families, the special before the general. */
export type ModelFamilies = ReadonlyArray<ModelFamily>

// ---------------------------------------------------------------------------------------------------------------------
// OpenAI
// ---------------------------------------------------------------------------------------------------------------------

const text: ReadonlyArray<Capability> = ["text_input", "text_output", "streaming", "batch"]
const toolText: ReadonlyArray<Capability> = [...text, "tools", "parallel_tools"]
const vision: ReadonlyArray<Capability> = [
  ...toolText,
  "image_input",
  "document_input",
  "structured_output",
  "prompt_caching"
]
const reasoner: ReadonlyArray<Capability> = [...vision, "reasoning"]
/** OpenAI's o-series calls one tool at a time. */
const oSeries: ReadonlyArray<Capability> = reasoner.filter((capability) => capability !== "parallel_tools")
const oSeriesText: ReadonlyArray<Capability> = oSeries.filter((capability) =>
  capability !== "image_input" && capability !== "document_input"
)
const audioChat: ReadonlyArray<Capability> = [
  "text_input",
  "audio_input",
  "text_output",
  "audio_output",
  "streaming",
  "tools",
  "parallel_tools"
]

/** https://platform.openai.com/docs/models */
export const openAi: ModelFamilies = [
  { pattern: /^text-embedding-/, capabilities: ["text_input", "embeddings", "batch"] },
  { pattern: /^whisper-1$/, capabilities: ["audio_input", "text_output", "transcription"], known: true },
  {
    pattern: /^gpt-(?:4o-(?:mini-)?)?transcribe/,
    capabilities: ["audio_input", "text_output", "transcription", "streaming"],
    known: true
  },
  { pattern: /^tts-1(?:-hd)?(?:-\d+)?$/, capabilities: ["text_input", "audio_output", "speech"], known: true },
  { pattern: /^gpt-4o-mini-tts/, capabilities: ["text_input", "audio_output", "speech", "streaming"], known: true },
  { pattern: /^dall-e-2$/, capabilities: ["text_input", "image_input", "image_output"], known: true },
  { pattern: /^dall-e-3$/, capabilities: ["text_input", "image_output"], known: true },
  {
    pattern: /^(?:gpt-image-|chatgpt-image-)/,
    capabilities: ["text_input", "image_input", "image_output", "streaming"]
  },
  {
    pattern: /^sora-2(?:-pro)?(?:-\d{4}-\d{2}-\d{2})?$/,
    capabilities: ["text_input", "image_input", "video_output", "audio_output"],
    known: true
  },
  {
    pattern: /^gpt-(?:4o-(?:mini-)?)?realtime/,
    capabilities: ["text_input", "audio_input", "text_output", "audio_output", "realtime_audio", "tools"]
  },
  { pattern: /^gpt-(?:4o-)?(?:mini-)?audio/, capabilities: audioChat, maxOutputTokens: 16384 },
  {
    pattern: /^gpt-4o-(?:mini-)?search/,
    capabilities: ["text_input", "text_output", "streaming", "structured_output"],
    maxOutputTokens: 16384
  },
  {
    pattern: /^gpt-3\.?5-turbo-instruct/,
    capabilities: ["text_input", "text_output", "streaming"],
    contextWindow: 4096,
    maxOutputTokens: 4096
  },
  { pattern: /^(?:ft:)?gpt-3\.?5-turbo/, capabilities: toolText, contextWindow: 16385, maxOutputTokens: 4096 },
  { pattern: /^gpt-4-32k/, capabilities: text, contextWindow: 32768 },
  { pattern: /^gpt-4-(?:turbo-)?(?:0125|1106|turbo)-?preview/, capabilities: toolText, maxOutputTokens: 4096 },
  { pattern: /^gpt-4-(?:1106-)?vision/, capabilities: [...text, "image_input"], maxOutputTokens: 4096 },
  { pattern: /^gpt-4-turbo/, capabilities: [...toolText, "image_input"], maxOutputTokens: 4096 },
  { pattern: /^(?:ft:)?gpt-4(?:-0\d{3})?(?::|$)/, capabilities: toolText, contextWindow: 8192, maxOutputTokens: 8192 },
  {
    pattern: /^(?:ft:)?gpt-4o-2024-05-13/,
    capabilities: [...toolText, "image_input"],
    contextWindow: 128_000,
    maxOutputTokens: 4096
  },
  {
    pattern: /^chatgpt-4o-latest/,
    capabilities: [...text, "image_input"],
    contextWindow: 128_000,
    maxOutputTokens: 16384
  },
  {
    pattern: /^(?:ft:)?gpt-4o(?:-mini)?(?:-\d{4}-\d{2}-\d{2})?(?::|$)/,
    capabilities: vision,
    contextWindow: 128_000,
    maxOutputTokens: 16384
  },
  { pattern: /^(?:ft:)?gpt-4\.1(?:-|:|$)/, capabilities: vision, contextWindow: 1_047_576, maxOutputTokens: 32768 },
  { pattern: /^gpt-4\.5-preview/, capabilities: vision, contextWindow: 128_000, maxOutputTokens: 16384 },
  { pattern: /^o1-mini/, capabilities: [...text, "reasoning"], maxOutputTokens: 65536 },
  { pattern: /^o1-preview/, capabilities: [...text, "reasoning"], maxOutputTokens: 32768 },
  { pattern: /^o3-mini/, capabilities: oSeriesText, maxOutputTokens: 100_000 },
  { pattern: /^(?:ft:)?(?:o[134]|codex-mini)(?:-|:|$)/, capabilities: oSeries, maxOutputTokens: 100_000 },
  { pattern: /^gpt-5(?:[.-]\d)?-chat/, capabilities: vision, contextWindow: 128_000, maxOutputTokens: 16384 },
  { pattern: /^gpt-5[\w.]*-image/, capabilities: [...reasoner, "image_output"] },
  { pattern: /^gpt-5(?:[.-]|$)/, capabilities: reasoner, maxOutputTokens: 128_000 }
]

// ---------------------------------------------------------------------------------------------------------------------
// Anthropic
// ---------------------------------------------------------------------------------------------------------------------

const claude3: ReadonlyArray<Capability> = [...toolText, "image_input", "prompt_caching"]
const claude35: ReadonlyArray<Capability> = [...claude3, "document_input"]
const claude37: ReadonlyArray<Capability> = [...claude35, "reasoning"]
/** Structured outputs came with Opus 4.1, Sonnet 4.5 and Haiku 4.5. */
const claude45: ReadonlyArray<Capability> = [...claude37, "structured_output"]

/** https://docs.claude.com/en/docs/about-claude/models/overview */
export const anthropic: ModelFamilies = [
  {
    pattern: /^claude-(?:v1|v2|2|instant)/,
    capabilities: ["text_input", "text_output", "streaming"],
    maxOutputTokens: 4096
  },
  { pattern: /^claude-3-(?:opus|sonnet|haiku)/, capabilities: claude3, maxOutputTokens: 4096 },
  { pattern: /^claude-3[.-]5-/, capabilities: claude35, maxOutputTokens: 8192 },
  { pattern: /^claude-(?:3[.-]7-sonnet|sonnet-3[.-]7)/, capabilities: claude37, maxOutputTokens: 64_000 },
  { pattern: /^claude-opus-4[.-]1(?!\d)/, capabilities: claude45, maxOutputTokens: 32_000 },
  { pattern: /^claude-(?:opus-4(?:-0|[@-]\d{8}|$)|4-opus)/, capabilities: claude37, maxOutputTokens: 32_000 },
  { pattern: /^claude-(?:sonnet-4(?:-0|[@-]\d{8}|$)|4-sonnet)/, capabilities: claude37, maxOutputTokens: 64_000 },
  {
    pattern: /^claude-(?:(?:opus|sonnet|haiku)-4[.-]5|4[.-]5-(?:opus|sonnet|haiku))(?!\d)/,
    capabilities: claude45,
    maxOutputTokens: 64_000
  },
  {
    pattern: /^claude-(?:(?:opus|sonnet)-4[.-][6-8]|4[.-][6-8]-(?:opus|sonnet))(?!\d)/,
    capabilities: claude45,
    maxOutputTokens: 128_000
  },
  {
    pattern: /^claude-(?:(?:opus|sonnet|fable)-5|5(?:[.-]\d)?-(?:opus|sonnet|fable))(?!\d)/,
    capabilities: claude45,
    maxOutputTokens: 128_000
  }
]

/** The family of a model, if it has one. */
export const familyOf = (families: ModelFamilies, model: string): ModelFamily | undefined =>
  families.find((family) => family.pattern.test(model))
