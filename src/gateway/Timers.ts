/**
 * The timers of an attempt, for every transport alike: first token, idle and total. (The fourth, connect, is Outbound's,
 * since only it knows when a connection stands.) They count content: what the provider sends to keep a line open, such
 * as pings and comments, resets nothing.
 */
import type { Effect } from "effect"
import { ProviderTimeout, type TimeoutPhase } from "../sdk/GatewayError.ts"
import type { Timeouts } from "../sdk/Caller.ts"
import { within } from "./TimeLimit.ts"

/** The limits that hold for a request: those configured, narrowed by those asked for. */
export const effectiveTimeouts = (configured: Timeouts, asked: Partial<Timeouts>): Timeouts => {
  const narrower = (key: keyof Timeouts) => Math.max(1, Math.min(configured[key], asked[key] ?? configured[key]))
  return {
    connect: narrower("connect"),
    firstToken: narrower("firstToken"),
    idle: narrower("idle"),
    total: narrower("total")
  }
}

const words: { readonly [Phase in TimeoutPhase]: string } = {
  connect: "did not accept a connection",
  first_token: "sent no content",
  idle: "went silent",
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

/** Ends an attempt that makes one answer when the request's total time is used up; `elapsed` is its age, ms. */
export const limitTotal =
  (provider: string, timeouts: Timeouts, elapsed: number) =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | ProviderTimeout, R> =>
    within(self, timeouts.total - elapsed, () => timedOut(provider, "total", timeouts.total))
