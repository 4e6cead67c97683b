/** What every shipped interceptor can be told, and how it becomes an `Interceptor`. */
import { Effect, Layer, Schema } from "effect"
import type { Caller } from "../../sdk/Caller.ts"
import * as Interceptor from "../../sdk/Interceptor.ts"

/** What an interceptor looks at: what callers send, or what models answer. */
export type Side = "request" | "response"

/** Options that all interceptors share. */
export interface InterceptorOptions {
  /** Its name in errors and logs; default: what it is (`pii`, `webhook`, …). */
  readonly name?: string
  /** Its place among the others, lowest first; default 0. */
  readonly order?: number
  /** Whose requests it sees; absent: everyone's. */
  readonly appliesTo?: (caller: Caller) => boolean
  /** What follows where it fails or is too slow: `closed` (the default) blocks, `open` goes on without it. */
  readonly failure?: "open" | "closed"
  /** How long it may take for a request, and again for its answer, ms. */
  readonly timeoutMs?: number
  /** What it looks at; default both, as far as the interceptor has something to say on it. */
  readonly on?: ReadonlyArray<Side>
}

/** An interceptor cannot be made of its options. The message names the option, and never holds its value. */
export class InvalidInterceptor extends Schema.TaggedError<InvalidInterceptor>()("InvalidInterceptor", {
  name: Schema.String,
  /** The option that is wrong. */
  option: Schema.String,
  /** What is wrong with it. */
  problem: Schema.String
}) {
  override get message() {
    return `the interceptor "${this.name}" cannot be made: ${this.option}: ${this.problem}`
  }
}

/** What building an interceptor's Layer can fail with. */
export type LayerError = InvalidInterceptor | Interceptor.DuplicateInterceptor

/** Whether an interceptor looks at this side. */
export const looksAt = (options: InterceptorOptions, side: Side): boolean => options.on?.includes(side) ?? true

/** The interceptor with these hooks, as its options say. Which sides the hooks are for, their maker has heeded. */
export const assemble = (
  kind: string,
  options: InterceptorOptions,
  hooks: Pick<Interceptor.Interceptor, "pre" | "post" | "stream">
): Interceptor.Interceptor => ({
  name: options.name ?? kind,
  order: options.order ?? 0,
  ...(options.appliesTo === undefined ? {} : { appliesTo: options.appliesTo }),
  ...(options.failure === undefined ? {} : { failure: options.failure }),
  ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
  ...hooks
})

/** The Layer that makes an interceptor and registers it. */
export const layerOf = <R>(
  made: Effect.Effect<Interceptor.Interceptor, InvalidInterceptor, R>
): Layer.Layer<never, LayerError, R | Interceptor.InterceptorRegistry> =>
  Layer.unwrap(Effect.map(made, Interceptor.layer))
