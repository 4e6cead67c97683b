/**
 * Sessions, their responses and their transcripts, as the stages see them. A session holds a place and costs nothing itself;
 * each response in it is a request of its own, with the whole conversation as its prompt; a transcript is charged apart.
 */
import { Result } from "effect"
import { invalid } from "../../sdk/GatewayError.ts"
import type { ModelInfo, Prices } from "../../sdk/Model.ts"
import { costNanoUsd } from "../../sdk/Pricing.ts"
import type { RealtimeRequest } from "../../sdk/Realtime.ts"
import { type Usage, zero } from "../../sdk/Usage.ts"
import type { Asked, Operation } from "../Operation.ts"
import type { PreparedOperation } from "../Preparation.ts"

/** The longest response of a model that does not say, tokens; it is that of OpenAI's models. */
const longestResponse = 4_096

/** The dearer of two ways in which the same tokens may turn out: as text, and as sound. */
const dearer = (prices: Prices, input: number, output: number): Usage => {
  const text: Usage = { inputTokens: input, outputTokens: output }
  const sound: Usage = { inputTokens: 0, outputTokens: 0, inputAudioTokens: input, outputAudioTokens: output }
  return costNanoUsd(sound, prices) > costNanoUsd(text, prices) ? sound : text
}

/** A session. `lastsMs` is how long it may last. */
export const sessionOperation = (lastsMs: number): PreparedOperation<RealtimeRequest> => ({
  name: "realtime",
  lastsMs,
  requirements: () => ["realtime_audio"],
  lacks: (provider) => provider.realtime === undefined ? "realtime_audio" : undefined,
  inputTokens: () => 0,
  mostInputTokens: () => 0,
  outputTokens: () => 0,
  longestAnswer: () => 0,
  expected: (_request, prices) => dearer(prices, 1, 1),
  dearest: () => ({ read: zero, whole: zero }),
  givenUp: () => zero,
  validate: ({ model }) => model === "" ? Result.fail(invalid("model", "name a model")) : Result.void,
  userOf: ({ user }) => user,
  // There is no text yet; interceptors may refuse the caller as such.
  shown: ({ model }) => ({ model, messages: [{ role: "user", content: [] }] }),
  changed: (request) => request
})

/** One response, or one transcript. */
export interface ResponseAsked extends Asked {
  /** About how long the conversation is, tokens. */
  readonly inputTokens: number
  readonly maxOutputTokens?: number
  /** What was made of it until now, tokens; for one that is cut off. */
  readonly made: () => number
}

const longest = ({ maxOutputTokens }: ResponseAsked, model: ModelInfo): number =>
  Math.min(maxOutputTokens ?? Infinity, model.maxOutputTokens ?? longestResponse)

/** A response within a session. */
export const responseOperation: Operation<ResponseAsked> = {
  name: "realtime",
  isPart: true,
  requirements: () => [],
  lacks: () => undefined,
  inputTokens: ({ inputTokens }) => inputTokens,
  mostInputTokens: ({ inputTokens }) => inputTokens,
  outputTokens: ({ maxOutputTokens }) => maxOutputTokens,
  longestAnswer: longest,
  expected: (_asked, prices, input, output) => dearer(prices, input, output),
  dearest: (_asked, prices, input, output) => {
    const whole = dearer(prices, input, output)
    return { read: whole, whole }
  },
  givenUp: ({ inputTokens, made }) => ({
    inputTokens,
    outputTokens: 0,
    outputAudioTokens: Math.ceil(made()),
    estimated: true
  })
}

/** A transcript within a session: its usage is known before it is charged. */
export interface TranscriptAsked extends Asked {
  readonly usage: Usage
}

/** A transcript of what the caller said. */
export const transcriptOperation: Operation<TranscriptAsked> = {
  name: "realtime",
  isPart: true,
  requirements: () => [],
  lacks: () => undefined,
  inputTokens: ({ usage }) => usage.inputTokens + (usage.inputAudioTokens ?? 0),
  mostInputTokens: ({ usage }) => usage.inputTokens + (usage.inputAudioTokens ?? 0),
  outputTokens: ({ usage }) => usage.outputTokens,
  longestAnswer: ({ usage }) => usage.outputTokens,
  expected: ({ usage }) => usage,
  dearest: ({ usage }) => ({ read: usage, whole: usage }),
  givenUp: ({ usage }) => usage
}
