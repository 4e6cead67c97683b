/**
 * The sandbox: a provider that needs no network and no key and answers the same call always in the same way. It is for
 * trying the gateway out and for testing applications behind it: what a real upstream does once a month (a 429, a cut
 * stream, a slow first token) it does when told, by the model's name or by directives in the prompt (`Directives.ts`).
 *
 * Models: `echo`, `lorem`, `tools`, `json`, `vision`, `slow-<ms>`, `fail-<status>`, `fail-context_length`,
 * `fail-content_policy`, `cut-<n>`, `stall-<n>`, `tokens-<n>`, `tokens-<n>-at-<per second>`, `embed`, `image`, `speak`, `transcribe`,
 * `realtime`.
 */
import { Cause, Clock, Effect, type Layer, type Pull, Stream } from "effect"
import type { Alternative, ChatChunk, ChatResponse, PartDelta } from "../../../sdk/Chat.ts"
import type { Part } from "../../../sdk/Content.ts"
import type { Capability, Prices } from "../../../sdk/Model.ts"
import * as Provider from "../../../sdk/Provider.ts"
import * as Films from "./Films.ts"
import * as Pictures from "./Pictures.ts"
import * as Realtime from "./Realtime.ts"
import * as Transcripts from "./Transcripts.ts"
import { embed } from "./Vectors.ts"
import { speak } from "./Voices.ts"
import { contextWindow, decide, type Outcome, type Script, type ScriptChoice, type ScriptPart } from "./Script.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Models
// ---------------------------------------------------------------------------------------------------------------------

const capabilities: ReadonlyArray<Capability> = [
  "text_input",
  "text_output",
  "tools",
  "parallel_tools",
  "structured_output",
  "reasoning",
  "streaming"
]

const mediaCapabilities: ReadonlyArray<Capability> = [
  ...capabilities,
  "image_input",
  "audio_input",
  "video_input",
  "document_input"
]

const realtimeCapabilities: ReadonlyArray<Capability> = [
  "text_input",
  "audio_input",
  "audio_output",
  "realtime_audio"
]

/** Invented, and easy to reckon with: a dollar a million tokens in, two out. */
const prices: Prices = { inputMtok: 1, outputMtok: 2 }

const model = (model: string, displayName: string, can = capabilities): Provider.DiscoveredModel => ({
  model,
  displayName,
  capabilities: can,
  contextWindow,
  maxOutputTokens: contextWindow,
  prices
})

/** What discovery tells: the plain models, and one example of each family; the others of a family work as well. */
const models: ReadonlyArray<Provider.DiscoveredModel> = [
  model("echo", "Sandbox: repeats the last user message"),
  model("lorem", "Sandbox: fixed prose"),
  model("tools", "Sandbox: calls the tools it is given"),
  model("json", "Sandbox: JSON that fits the response schema"),
  model("vision", "Sandbox: describes the media it is given", mediaCapabilities),
  model("slow-1000", "Sandbox: echo, first token after 1000 ms"),
  model("fail-429", "Sandbox: always fails with status 429"),
  model("fail-503", "Sandbox: always fails with status 503"),
  model("cut-3", "Sandbox: the connection breaks after 3 tokens"),
  model("stall-3", "Sandbox: goes silent after 3 tokens"),
  model("tokens-100", "Sandbox: 100 tokens"),
  model("tokens-100-at-50", "Sandbox: 100 tokens, 50 a second"),
  model("embed", "Sandbox: vectors by the words of a text", ["text_input", "embeddings"]),
  model("image", "Sandbox: small pictures by the prompt", ["text_input", "image_output"]),
  model("speak", "Sandbox: a tone for the words of a text", ["text_input", "audio_output", "speech"]),
  model("transcribe", "Sandbox: hears one sentence in every sound", [
    "audio_input",
    "text_output",
    "transcription",
    "streaming"
  ]),
  {
    ...model("video", "Sandbox: films of a picture a second by the prompt", ["text_input", "video_output"]),
    prices: { ...prices, outputVideoSecond: { base: 0.1, variants: { "1792x1024": 0.5 } } }
  },
  {
    ...model("realtime", "Sandbox: says back what it hears", realtimeCapabilities),
    prices: { ...prices, inputAudioMtok: 10, outputAudioMtok: 20 }
  }
]

// ---------------------------------------------------------------------------------------------------------------------
// Sending
// ---------------------------------------------------------------------------------------------------------------------

/** How many tokens without delay are sent in one array: enough to be cheap, few enough to keep memory flat. */
const batch = 64

/** When token `i` is due, ms after the start. */
const dueAt = (script: Script, i: number): number => script.delay + (i + 1) * script.pace

const ticksOf = (script: Script): number =>
  Math.max(
    0,
    ...script.choices.map((choice) => choice.parts.reduce((sum, part) => sum + Math.max(1, part.tokens.length), 0))
  )

const joined = (part: ScriptPart): Part => {
  const text = part.tokens.join("")
  switch (part.type) {
    case "tool_call":
      return { type: "tool_call", id: part.id, name: part.name, arguments: text }
    default:
      return { type: part.type, text }
  }
}

const whole = (choice: ScriptChoice): Alternative => ({
  content: choice.parts.map(joined),
  finishReason: choice.finishReason,
  ...(choice.stopSequence === undefined ? {} : { stopSequence: choice.stopSequence })
})

const responseOf = (script: Script, model: string): ChatResponse => {
  const [first, ...others] = script.choices.map(whole)
  return {
    id: script.id,
    model,
    content: first?.content ?? [],
    finishReason: first?.finishReason ?? "stop",
    ...(first?.stopSequence === undefined ? {} : { stopSequence: first.stopSequence }),
    ...(others.length === 0 ? {} : { alternatives: others }),
    usage: script.usage
  }
}

/** The deltas of one choice, a token each; a call without arguments still has the one that names it. */
const deltasOf = function*(choice: ScriptChoice): Generator<PartDelta> {
  for (const [index, part] of choice.parts.entries()) {
    if (part.type === "tool_call") {
      const { id, name, tokens } = part
      yield { type: "tool_call", index, id, name, arguments: tokens[0] ?? "" }
      for (let i = 1; i < tokens.length; i++) yield { type: "tool_call", index, arguments: tokens[i] ?? "" }
    } else {
      for (const text of part.tokens) yield { type: part.type, index, text }
    }
  }
}

const choiceKey = (choice: number): { readonly choice?: number } => choice === 0 ? {} : { choice }

/** Sends a script as a stream: at every tick one token of each choice, then the ends, then the usage. */
const streamOf = (
  script: Script,
  model: string,
  broken: (tokens: number) => Provider.ProviderError
): Stream.Stream<ChatChunk, Provider.ProviderError> =>
  Stream.fromPull(Effect.map(Clock.currentTimeMillis, (start) => {
    const { id } = script
    const open = script.choices.map(deltasOf)
    const ticks = ticksOf(script)
    let tick = 0
    let finished = false

    /** The chunks up to tick `until`. */
    const advance = (until: number): ReadonlyArray<ChatChunk> => {
      const chunks: Array<ChatChunk> = []
      for (let i = tick; i < until; i++) {
        for (const [choice, deltas] of open.entries()) {
          const next = deltas.next()
          if (next.done !== true) chunks.push({ id, model, ...choiceKey(choice), delta: [next.value] })
        }
      }
      tick = until
      return chunks
    }

    const ends = (): [ChatChunk, ...Array<ChatChunk>] => {
      finished = true
      const last: ChatChunk = { id, model, delta: [], usage: script.usage }
      const [first, ...others] = script.choices.map((choice, i): ChatChunk => ({
        id,
        model,
        ...choiceKey(i),
        delta: [],
        finishReason: choice.finishReason,
        ...(choice.stopSequence === undefined ? {} : { stopSequence: choice.stopSequence })
      }))
      return first === undefined ? [last] : [first, ...others, last]
    }

    type Next = Pull.Pull<readonly [ChatChunk, ...Array<ChatChunk>], Provider.ProviderError>
    return Effect.flatMap(Clock.currentTimeMillis, (now): Next => {
      if (finished) return Cause.done()
      const after = script.fault?.after ?? Infinity
      if (tick >= after || (tick >= ticks && script.fault !== undefined)) {
        const fault = script.fault?.type === "stall" ? Effect.never : Effect.fail(broken(tick))
        return tick === 0 ? Effect.delay(fault, script.delay) : fault
      }
      const send = Effect.sync(() => {
        if (tick >= ticks) return ends()
        const [first, ...others] = advance(script.pace === 0 ? Math.min(ticks, after, tick + batch) : tick + 1)
        return first === undefined ? ends() : [first, ...others] as const
      })
      // Due times are counted from the start, so that a rate holds although every timer is a little late.
      const wait = start + dueAt(script, Math.min(tick, Math.max(0, ticks - 1))) - now
      return wait > 0 ? Effect.delay(send, wait) : send
    })
  }))

/** Sends a script as a whole answer, after the time that streaming it would have taken. */
const sendWhole = (
  script: Script,
  model: string,
  broken: (tokens: number) => Provider.ProviderError
): Effect.Effect<ChatResponse, Provider.ProviderError> => {
  const ticks = Math.min(ticksOf(script), script.fault?.after ?? Infinity)
  const time = ticks === 0 ? script.delay : dueAt(script, ticks - 1)
  const sent = script.fault === undefined
    ? Effect.sync(() => responseOf(script, model))
    : script.fault.type === "stall"
    ? Effect.never
    : Effect.fail(broken(ticks))
  return time > 0 ? Effect.delay(sent, time) : sent
}

// ---------------------------------------------------------------------------------------------------------------------
// The provider
// ---------------------------------------------------------------------------------------------------------------------

/** The sandbox under a slug, without registering it. */
export const make = (slug: string): Provider.Provider => {
  const failed = (outcome: Extract<Outcome, { readonly failure: Provider.Failure }>) => {
    const failure = Effect.fail(new Provider.ProviderError({ ...outcome.failure, provider: slug }))
    return outcome.delay > 0 ? Effect.delay(failure, outcome.delay) : failure
  }
  const broken = (tokens: number) =>
    new Provider.ProviderError({
      provider: slug,
      kind: "transient",
      message: `the sandbox broke the connection after ${tokens} tokens, as it was told`
    })
  return {
    slug,
    kind: "sandbox",
    wire: "sandbox",
    unlistedModels: "allow",
    defaultCapabilities: [
      ...capabilities,
      "embeddings",
      "image_output",
      "video_output",
      "speech",
      "transcription",
      "realtime_audio"
    ],
    discover: Effect.succeed(models),
    chat: (call) =>
      Effect.suspend(() => {
        const outcome = decide(call)
        return "failure" in outcome ? failed(outcome) : sendWhole(outcome.script, call.model.model, broken)
      }),
    streamChat: (call) =>
      Stream.suspend(() => {
        const outcome = decide(call)
        return "failure" in outcome
          ? Stream.fromEffect(failed(outcome))
          : streamOf(outcome.script, call.model.model, broken)
      }),
    embed: ({ model, request }) => embed(request, model.model, slug),
    generateImage: ({ model, request }) => Pictures.generate(request, model.model),
    streamImage: ({ request }) => Pictures.stream(request),
    ...Films.make(slug),
    speak: (call) => speak(call, slug),
    transcribe: ({ model, request }) => Transcripts.transcribe(request, model.model),
    streamTranscribe: ({ request }) => Transcripts.stream(request),
    realtime: ({ model }) => Realtime.open(model.model)
  }
}

/** Registers the sandbox; `slug` defaults to `sandbox`. */
export const layer = (
  options?: { readonly slug?: string }
): Layer.Layer<never, Provider.DuplicateProvider, Provider.ProviderRegistry> =>
  Provider.layer(Effect.sync(() => make(options?.slug ?? "sandbox")))
