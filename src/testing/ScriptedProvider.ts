/**
 * A provider that answers by a script, for the tests of an app: whole and streamed, with tool calls, failures, silence and streams
 * that break. It keeps what it was asked.
 *
 * ```ts
 * const scripted = ScriptedProvider.make()
 * scripted.reply(fails("transient"), says("Hello"))
 * const AppGateway = Gateway.layer().pipe(Layer.provideMerge(scripted.layer), ...)
 * ```
 */
import { Effect, type Layer, Stream } from "effect"
import type { ChatChunk, ChatResponse, FinishReason } from "../sdk/Chat.ts"
import { chunksOf } from "../sdk/ChatStream.ts"
import { type Part, text } from "../sdk/Content.ts"
import type { EmbeddingResponse } from "../sdk/Embedding.ts"
import { inputsOf } from "../sdk/Embedding.ts"
import type { ProviderErrorKind } from "../sdk/GatewayError.ts"
import * as Provider from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"

/** What a provider says to one call. */
export type Reply =
  | {
    readonly type: "answer"
    readonly content: ReadonlyArray<Part>
    readonly finishReason: FinishReason
    readonly usage: Usage
    /** Breaks off after so many chunks; a whole answer then fails. */
    readonly breaksAfter?: number
  }
  | { readonly type: "failure"; readonly failure: Provider.Failure }
  | { readonly type: "silence" }

/** What an answer may have beside its words. */
export interface AnswerOptions {
  /** Default `stop`, or `tool_calls` where there are any. */
  readonly finishReason?: FinishReason
  /** Default 10 tokens in, 5 out. */
  readonly usage?: Usage
  /** A stream breaks off after so many chunks, before its end. */
  readonly breaksAfter?: number
}

const usage: Usage = { inputTokens: 10, outputTokens: 5 }

/** An answer in words. */
export const says = (words: string, options: AnswerOptions = {}): Reply => ({
  type: "answer",
  content: [text(words)],
  finishReason: "stop",
  usage,
  ...options
})

/** An answer that calls tools: their names, each with its arguments. */
export const calls = (
  tools: Readonly<Record<string, unknown>>,
  options: AnswerOptions = {}
): Reply => ({
  type: "answer",
  content: Object.entries(tools).map(([name, input], at): Part => ({
    type: "tool_call",
    id: `call_${at}`,
    name,
    arguments: JSON.stringify(input)
  })),
  finishReason: "tool_calls",
  usage,
  ...options
})

/** A failure of a kind; `transient` is tried again, `caller` is final, and so on, as in docs/RESILIENCE.md. */
export const fails = (kind: ProviderErrorKind, more: Omit<Partial<Provider.Failure>, "kind"> = {}): Reply => ({
  type: "failure",
  failure: { message: `scripted: ${kind}`, ...more, kind }
})

/** No answer at all, until the gateway's patience ends. */
export const silence: Reply = { type: "silence" }

/** A scripted provider. */
export interface ScriptedProvider {
  /** Registers it for as long as the Layer lives. */
  readonly layer: Layer.Layer<never, Provider.DuplicateProvider, Provider.ProviderRegistry>
  /** Answers the next calls with these, in this order; after them comes `always`, or a failure that says that the script is over. */
  readonly reply: (...replies: ReadonlyArray<Reply>) => void
  /** Answers each call that finds no reply waiting. */
  readonly always: (reply: Reply) => void
  /** The chats that it was asked for, in their order. */
  readonly asked: ReadonlyArray<Provider.ChatCall>
  /** The vectors that it was asked for. */
  readonly embedded: ReadonlyArray<Provider.EmbedCall>
  /** Calls whose callers have left before the end. */
  readonly left: () => number
}

const over: Reply = { type: "failure", failure: { kind: "caller", message: "the script has no more replies" } }

/** Makes a provider; `slug` defaults to `scripted`, so that its models are `scripted::anything`. */
export const make = (slug = "scripted"): ScriptedProvider => {
  const waiting: Array<Reply> = []
  const asked: Array<Provider.ChatCall> = []
  const embedded: Array<Provider.EmbedCall> = []
  let otherwise: Reply = over
  let left = 0

  const next = (): Reply => waiting.shift() ?? otherwise
  const failed = (failure: Provider.Failure) => Effect.fail(new Provider.ProviderError({ provider: slug, ...failure }))
  const broken = failed({ kind: "transient", message: "scripted: the stream broke" })
  const noted = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.onInterrupt(self, () => Effect.sync(() => left++))

  const answerOf = (
    { content, finishReason, usage }: Extract<Reply, { readonly type: "answer" }>,
    { model }: Provider.ChatCall
  ): ChatResponse => ({ id: `scripted-${asked.length}`, model: model.model, content, finishReason, usage })

  const chat: NonNullable<Provider.Provider["chat"]> = (call) =>
    noted(Effect.suspend((): Effect.Effect<ChatResponse, Provider.ProviderError> => {
      asked.push(call)
      const reply = next()
      switch (reply.type) {
        case "answer":
          return reply.breaksAfter === undefined ? Effect.succeed(answerOf(reply, call)) : broken
        case "failure":
          return failed(reply.failure)
        case "silence":
          return Effect.never
      }
    }))

  const streamChat: NonNullable<Provider.Provider["streamChat"]> = (call) =>
    Stream.suspend((): Stream.Stream<ChatChunk, Provider.ProviderError> => {
      asked.push(call)
      const reply = next()
      switch (reply.type) {
        case "answer": {
          const chunks = Stream.fromIterable(chunksOf(answerOf(reply, call)))
          return reply.breaksAfter === undefined
            ? chunks
            : Stream.concat(Stream.take(chunks, reply.breaksAfter), Stream.fromEffect(broken))
        }
        case "failure":
          return Stream.fromEffect(failed(reply.failure))
        case "silence":
          return Stream.fromEffect(noted(Effect.never))
      }
    })

  const embed: NonNullable<Provider.Provider["embed"]> = (call) =>
    Effect.suspend((): Effect.Effect<EmbeddingResponse, Provider.ProviderError> => {
      embedded.push(call)
      const inputs = inputsOf(call.request.input)
      const dimensions = call.request.dimensions ?? 3
      return Effect.succeed({
        model: call.model.model,
        // The first number tells inputs apart by their length.
        embeddings: inputs.map(({ length }) => Array.from({ length: dimensions }, (_, at) => at === 0 ? length : 0)),
        usage: { inputTokens: inputs.length, outputTokens: 0 }
      })
    })

  return {
    layer: Provider.layer(
      Effect.succeed({ slug, kind: "scripted", wire: "scripted", unlistedModels: "allow", chat, streamChat, embed })
    ),
    reply: (...replies) => void waiting.push(...replies),
    always: (reply) => {
      otherwise = reply
    },
    asked,
    embedded,
    left: () => left
  }
}
