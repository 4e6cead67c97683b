/**
 * What a Claude model's version decides about the request's form. Anthropic's wire changed between generations, and a
 * field that one generation needs the next one answers with a 400.
 *
 * The facts are those of `GET /v1/models` (`capabilities` of each model, August 2026) and of Anthropic's migration guides
 * for Opus 4.7, 5 and 5.5. A model that is not recognised, such as another vendor's behind a compatible endpoint, is
 * taken for an early Claude 4: manual thinking, sampling parameters, no structured output of its own.
 */

/** Words for `output_config.effort`, weakest first. */
export type Effort = "low" | "medium" | "high" | "xhigh" | "max"

/** What a model takes. */
export interface ModelTraits {
  /** `thinking: {type: "adaptive"}`. */
  readonly adaptiveThinking: boolean
  /** `thinking: {type: "enabled", budget_tokens}`. */
  readonly manualThinking: boolean
  /** Thinks where the request does not say otherwise (Opus 5). */
  readonly thinksByDefault: boolean
  /** Refuses `thinking: {type: "disabled"}` (Opus 5.5, Fable 5.1). */
  readonly alwaysThinks: boolean
  /** The words it takes for `output_config.effort`. */
  readonly efforts: ReadonlyArray<Effort>
  /** `output_config.format`. */
  readonly structuredOutput: boolean
  /** `temperature`, `top_p` and `top_k`, gone since 4.7. */
  readonly sampling: boolean
  /** `temperature` together with `top_p`, refused since Opus 4.1. */
  readonly temperatureWithTopP: boolean
}

// Also matches Bedrock's `us.anthropic.claude-opus-4-1-20250805-v1:0`, Vertex's `claude-opus-4-1@20250805` and
// `anthropic/claude-opus-4.1`. A date after the major version is not a minor one.
const versioned = /claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)/

const early: ModelTraits = {
  adaptiveThinking: false,
  manualThinking: true,
  thinksByDefault: false,
  alwaysThinks: false,
  efforts: [],
  structuredOutput: false,
  sampling: true,
  temperatureWithTopP: true
}

const effortsOf = (family: string, version: number): ReadonlyArray<Effort> => {
  if (version >= 407) return ["low", "medium", "high", "xhigh", "max"]
  if (version >= 406) return ["low", "medium", "high", "max"]
  return family === "opus" && version === 405 ? ["low", "medium", "high"] : []
}

const derive = (model: string): ModelTraits => {
  const match = versioned.exec(model)
  // The preview of Mythos carries no number; it is of the generation of Opus 4.8.
  const family = match?.[1] ?? (model.includes("claude-mythos") ? "mythos" : "")
  if (family === "") return early
  const version = match === null ? 408 : Number(match[2]) * 100 + Number(match[3] ?? 0)
  const since41 = version >= 405 || (family === "opus" && version >= 401)
  return {
    adaptiveThinking: version >= 406,
    manualThinking: version < 407,
    thinksByDefault: version >= 500,
    alwaysThinks: version >= 505 && family === "opus" || version >= 501 && (family === "fable" || family === "mythos"),
    efforts: effortsOf(family, version),
    structuredOutput: since41,
    sampling: version < 407,
    temperatureWithTopP: !since41
  }
}

// Model ids come from configuration and discovery, but a provider may allow unlisted ones, so the memory is bounded.
const known = new Map<string, ModelTraits>()
const maxKnown = 500

/** The traits of the model that the provider calls `model`. */
export const traitsOf = (model: string): ModelTraits => {
  const found = known.get(model)
  if (found !== undefined) return found
  const traits = derive(model)
  if (known.size >= maxKnown) known.clear()
  known.set(model, traits)
  return traits
}
