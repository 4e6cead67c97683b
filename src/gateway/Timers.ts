/**
 * The timers of an attempt, for every transport alike: first token, idle and total. (The fourth, connect, is Outbound's,
 * since only it knows when a connection stands.) They count content: what the provider sends to keep a line open, such
 * as pings and comments, resets nothing.
 */
import { Clock, Effect } from "effect"
import { type ChatChunk, hasContent } from "../sdk/Chat.ts"
import { ProviderTimeout, type TimeoutPhase } from "../sdk/GatewayError.ts"
import type { Timeouts } from "../sdk/Caller.ts"
import type { ChunkPull } from "./ChunkPull.ts"

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
    Effect.timeoutOrElse(self, {
      duration: Math.max(0, timeouts.total - elapsed),
      orElse: () => Effect.fail(timedOut(provider, "total", timeouts.total))
    })

/** Ends a stream that is slow to start, goes silent or runs too long. `elapsed` is the request's age now, ms. */
export const limitStream = <E>(
  provider: string,
  timeouts: Timeouts,
  elapsed: number,
  clock: Clock.Clock,
  pull: ChunkPull<E>
): ChunkPull<E | ProviderTimeout> => {
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const totalAt = now() + timeouts.total - elapsed
  let phase: "first_token" | "idle" = "first_token"
  // Only what is spent waiting for the provider counts: a reader that takes its time must not make it look idle.
  let left = timeouts.firstToken
  return Effect.suspend(() => {
    const started = now()
    const total = totalAt - started <= left
    return Effect.timeoutOrElse(pull, {
      duration: Math.max(0, Math.min(totalAt - started, left)),
      orElse: () =>
        Effect.fail(
          total
            ? timedOut(provider, "total", timeouts.total)
            : timedOut(provider, phase, phase === "idle" ? timeouts.idle : timeouts.firstToken)
        )
    }).pipe(Effect.map((chunks) => {
      if (chunks.some(progresses)) {
        phase = "idle"
        left = timeouts.idle
      } else left -= now() - started
      return chunks
    }))
  })
}

const progresses = (chunk: ChatChunk): boolean => hasContent(chunk) || chunk.finishReason !== undefined
