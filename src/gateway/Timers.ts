/**
 * The timers of an attempt, for every transport alike: first token and idle for streams, answer for whole answers, total
 * for both. (The fifth, connect, is Outbound's, since only it knows when a connection stands.) They count content: what
 * the provider sends to keep a line open, such as pings and comments, resets nothing.
 */
import type { Effect } from "effect"
import { ProviderTimeout, type TimeoutPhase } from "../sdk/GatewayError.ts"
import type { Timeouts } from "../sdk/Caller.ts"
import { within } from "./TimeLimit.ts"

/** The limits that hold for a request: those configured, narrowed by those asked for. */
export const effectiveTimeouts = (configured: Timeouts, asked: Partial<Timeouts>): Timeouts => {
  const narrower = (key: Exclude<keyof Timeouts, "answer">) =>
    Math.max(1, Math.min(configured[key], asked[key] ?? configured[key]))
  const answer = Math.max(1, Math.min(configured.answer ?? Infinity, asked.answer ?? Infinity))
  return {
    connect: narrower("connect"),
    firstToken: narrower("firstToken"),
    idle: narrower("idle"),
    ...(answer === Infinity ? {} : { answer }),
    total: narrower("total")
  }
}

const words: { readonly [Phase in TimeoutPhase]: string } = {
  connect: "did not accept a connection",
  first_token: "sent no content",
  idle: "went silent",
  answer: "did not give its whole answer",
  total: "did not finish"
}

/** The error of a timer that ran out. */
export const timedOut = (provider: string, phase: TimeoutPhase, limitMs: number): ProviderTimeout =>
  new ProviderTimeout({
    message: `the provider "${provider}" ${words[phase]} within ${limitMs} ms (timeout: ${phase})`,
    provider,
    phase,
    limitMs
  })

/**
 * Whether the limit of whole answers is the caller's own: its header, or, where none is set, its share of a total that the
 * caller narrowed. `effective` is what holds for the request, `asked` what the caller asked for.
 */
export const isOwnAnswerLimit = (effective: Timeouts, asked: Partial<Timeouts>): boolean =>
  effective.answer === undefined
    ? asked.total !== undefined && asked.total <= effective.total
    : asked.answer !== undefined && asked.answer <= effective.answer

/** An attempt at a whole answer, as far as its time depends on it. */
export interface AnswerTurn {
  /** The request's age, ms. */
  readonly elapsed: number
  /** Whether another attempt could follow if this one took too long: then it must leave time for that. */
  readonly followed: boolean
}

/** Ends an attempt that makes one answer when its own time, or the request's, is used up. */
export const limitAnswer =
  (provider: string, timeouts: Timeouts, { elapsed, followed }: AnswerTurn) =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | ProviderTimeout, R> => {
    const left = timeouts.total - elapsed
    const own = timeouts.answer ?? (followed ? Math.max(1, Math.round(left / 2)) : Infinity)
    return own < left
      ? within(self, own, () => timedOut(provider, "answer", own))
      : within(self, left, () => timedOut(provider, "total", timeouts.total))
  }
