/** Interceptors: one of the four kinds of plugin. They see a request before it is routed and an answer before it is given. */
import { Context, Effect, Layer, Schema, type Scope, type Stream } from "effect"
import type { Caller } from "./Caller.ts"
import type { ChatChunk, ChatRequest, ChatResponse } from "./Chat.ts"
import { fail, type GatewayError, ResponseBlocked } from "./GatewayError.ts"
import type { Operation } from "./Operation.ts"

/** An interceptor's word on a value: let it pass, stop it, or put another in its place. */
export type Verdict<A> =
  | { readonly type: "allow" }
  | { readonly type: "block"; readonly reason: string }
  | { readonly type: "modify"; readonly value: A }

/** Lets the value pass unchanged. */
export const allow: Verdict<never> = { type: "allow" }
/** Stops the request or the answer; the caller reads the reason. */
export const block = (reason: string): Verdict<never> => ({ type: "block", reason })
/** Replaces the value. */
export const modify = <A>(value: A): Verdict<A> => ({ type: "modify", value })

/** An interceptor could not do its work: what it asked did not answer, or answered nonsense. */
export class InterceptorError extends Schema.TaggedError<InterceptorError>()("InterceptorError", {
  /** What went wrong, without content and secrets. */
  message: Schema.String
}) {}

/**
 * The request that an interceptor works for. The object is the same one in all of the interceptor's calls for a request, so
 * that a `WeakMap` can carry what `pre` learned to `post` and `stream`.
 */
export interface InterceptorContext {
  readonly requestId: string
  readonly caller: Caller
  /** Requests other than chats are shown as chats: one message of the user, with a text part for each of their texts. */
  readonly operation: Operation
  /** The HTTP request's headers in lower case, without credentials; empty in process. */
  readonly headers: Readonly<Record<string, string | undefined>>
  /** Adds a tag to the request's usage record; budgets per tag count it. Only `pre` can. */
  readonly tag: (tag: string) => void
}

/**
 * An interceptor. They run by `order` (lower first; on the way back, reversed), never by the order in which Layers were
 * built. One with `post` but without `stream` makes the gateway hold a streamed answer back until it is complete.
 */
export interface Interceptor {
  readonly name: string
  readonly order: number
  /** Whose requests it sees; absent: everyone's. */
  readonly appliesTo?: (caller: Caller) => boolean
  /** What follows where it fails, dies or is too slow: `closed` (the default) blocks, `open` goes on without it. */
  readonly failure?: "open" | "closed"
  /** How long `pre` and `post` may take, ms; absent: as long as the request. */
  readonly timeoutMs?: number
  readonly pre?: (
    request: ChatRequest,
    context: InterceptorContext
  ) => Effect.Effect<Verdict<ChatRequest>, InterceptorError>
  readonly post?: (
    response: ChatResponse,
    request: ChatRequest,
    context: InterceptorContext
  ) => Effect.Effect<Verdict<ChatResponse>, InterceptorError>
  /**
   * The answer's chunks on their way to the caller. To block, fail with `blocked`. What it holds back, it gives out at the
   * end at the latest.
   */
  readonly stream?: (
    chunks: Stream.Stream<ChatChunk, GatewayError>,
    request: ChatRequest,
    context: InterceptorContext
  ) => Stream.Stream<ChatChunk, GatewayError | InterceptorError>
}

/** The error with which an interceptor ends a stream. */
export const blocked = (interceptor: string, reason: string): GatewayError =>
  fail(
    new ResponseBlocked({ message: `the answer was blocked by ${interceptor}: ${reason}`, interceptor })
  )

/** Two interceptors want the same name. */
export class DuplicateInterceptor extends Schema.TaggedError<DuplicateInterceptor>()("DuplicateInterceptor", {
  name: Schema.String
}) {
  override get message() {
    return `an interceptor named "${this.name}" is registered already; give one of them another name`
  }
}

/** The registered interceptors. */
export class InterceptorRegistry extends Context.Service<InterceptorRegistry, {
  /** Adds an interceptor for as long as the scope lives. */
  readonly register: (interceptor: Interceptor) => Effect.Effect<void, DuplicateInterceptor, Scope.Scope>
  /** All of them, by their order and then their name. */
  readonly ordered: () => ReadonlyArray<Interceptor>
}>()("llm-gateway/sdk/InterceptorRegistry") {
  static readonly layer: Layer.Layer<InterceptorRegistry> = Layer.sync(InterceptorRegistry, () => {
    let ordered: ReadonlyArray<Interceptor> = []
    return InterceptorRegistry.of({
      register: (interceptor) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            if (ordered.some((other) => other.name === interceptor.name)) {
              return Effect.fail(new DuplicateInterceptor({ name: interceptor.name }))
            }
            ordered = [...ordered, interceptor].sort((a, b) => a.order - b.order || (a.name < b.name ? -1 : 1))
            return Effect.void
          }),
          () =>
            Effect.sync(() => {
              ordered = ordered.filter((other) => other !== interceptor)
            })
        ),
      ordered: () => ordered
    })
  })
}

/** Makes the Layer that registers an interceptor. */
export const layer = (interceptor: Interceptor): Layer.Layer<never, DuplicateInterceptor, InterceptorRegistry> =>
  Layer.effectDiscard(Effect.flatMap(InterceptorRegistry, (registry) => registry.register(interceptor)))
