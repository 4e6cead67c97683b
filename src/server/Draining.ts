/**
 * The end of the service: it takes no new connections any more, waits for what runs, and at last cuts off what does not end.
 * Requests end by themselves; connections that stay open, such as WebSockets, have to be told. What is cut off gets an explicit
 * error in its dialect's own form.
 */
import { Context, Effect, Latch } from "effect"

/** The drain of one service. */
export interface Drain {
  /** Waits until the drain begins. */
  readonly begun: Effect.Effect<void>
  readonly isBegun: () => boolean
  /** Has something done when the time for what runs is up. Gives back how to have it not done any more. */
  readonly onCut: (cut: () => void) => () => void
}

const nothing = (): void => undefined

/** The drain of the service that runs here; where there is none, as on an app's own router, it never begins. */
export const Draining: Context.Reference<Drain> = Context.Reference<Drain>("llm-gateway/server/Draining", {
  defaultValue: () => ({ begun: Effect.never, isBegun: () => false, onCut: () => nothing })
})

/** Between the cut and the moment at which connections are closed, for the last words to get out: ms, at most. */
const lastWords = 500

/** A drain, with what makes it begin. */
export interface BeginningDrain extends Drain {
  readonly begin: () => void
}

/** Makes a drain that lasts `timeout` ms from its beginning. */
export const make = (timeout: number): BeginningDrain => {
  const begun = Latch.makeUnsafe(false)
  const cuts = new Set<() => void>()
  let isBegun = false
  return {
    begun: begun.await,
    isBegun: () => isBegun,
    onCut: (cut) => {
      cuts.add(cut)
      return () => void cuts.delete(cut)
    },
    begin: () => {
      isBegun = true
      begun.openUnsafe()
      // The listener that this belongs to is outside of any fiber, and the end of the process does not wait for it.
      setTimeout(() => {
        for (const cut of cuts) cut()
      }, timeout - Math.min(lastWords, timeout / 4)).unref()
    }
  }
}
