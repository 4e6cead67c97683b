/** A wall clock that does not go back: what has expired stays so, even where the machine's clock is set to yesterday. */
import { Clock, Effect } from "effect"

/** Unix ms. Never behind the moment at which it was made plus the time that has really passed since. */
export type SteadyTime = () => number

const nanosPerMilli = 1e6

/**
 * Starts with the wall clock and goes on with the monotonic one. Where the wall clock is ahead of that, it counts: the
 * monotonic clock may stand still while a machine sleeps.
 */
export const make: Effect.Effect<SteadyTime> = Effect.map(Clock.Clock, (clock) => {
  const origin = clock.currentTimeMillisUnsafe() - Number(clock.monotonicTimeNanosUnsafe()) / nanosPerMilli
  return () =>
    Math.max(clock.currentTimeMillisUnsafe(), origin + Number(clock.monotonicTimeNanosUnsafe()) / nanosPerMilli)
})
