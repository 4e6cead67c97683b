/**
 * Load that the process cannot carry is turned away at the door, before anything is read or asked: a 503 in no time serves a caller
 * better than an answer that comes too late, and the requests that run get done.
 *
 * Two signs count: timers that come late one after the other, since then the event loop has more to do than it can, and memory
 * that is nearly used up. Both are looked at ten times a second; a request pays for a field read.
 */
import { Context, Effect, Layer } from "effect"
import { getHeapStatistics } from "node:v8"
import { fail, type GatewayError, Overloaded } from "../sdk/GatewayError.ts"

/** When load is turned away. */
export interface SheddingOptions {
  /** How late the event loop may be, several times in a row, ms; 0: that is no reason. */
  readonly eventLoopDelay: number
  /** Percent of the heap, and of the memory that the system gives the process, that may be used; 0: that is no reason. */
  readonly memory: number
}

/** The state of the process. */
export interface LoadState {
  /** Why new requests are turned away; absent while they are not. */
  overload: GatewayError | undefined
  /** Requests that were turned away. */
  refused: number
}

/** The load of the process that serves here; where nobody watches it, nothing is turned away. */
export const Load: Context.Reference<LoadState> = Context.Reference<LoadState>("llm-gateway/server/Load", {
  defaultValue: () => ({ overload: undefined, refused: 0 })
})

/** Between two looks, ms. */
const interval = 100
/** So many late looks in a row: one long piece of work, such as a huge body, is no overload. */
const inARow = 3
/** Memory changes more slowly, and looking at it costs more: every so many looks. */
const memoryEvery = 5
const retryAfterMs = 1000

const busy = fail(
  new Overloaded({ message: "the gateway has more to do than it can; try again in a moment", retryAfterMs })
)
const full = fail(new Overloaded({ message: "the gateway is short of memory; try again in a moment", retryAfterMs }))

/** The memory that the process may have, bytes, where the system says so (a container's limit). */
const allowed = (): number | undefined => {
  const constrained = process.constrainedMemory()
  // Without a limit some systems answer with 0, others with a number beyond any memory.
  return constrained > 0 && constrained < 2 ** 50 ? constrained : undefined
}

/** Whether the memory is used up to that share. */
const isShort = (share: number): boolean => {
  const { heap_size_limit: heapLimit, used_heap_size: heap } = getHeapStatistics()
  if (heap > heapLimit * share) return true
  const limit = allowed()
  return limit !== undefined && process.memoryUsage.rss() > limit * share
}

/** Watches the process for as long as the scope lives. */
export const layer = ({ eventLoopDelay, memory }: SheddingOptions): Layer.Layer<never> =>
  Layer.effect(
    Load,
    Effect.acquireRelease(
      Effect.sync(() => {
        const state: LoadState = { overload: undefined, refused: 0 }
        let expected = performance.now() + interval
        let late = 0
        let looks = 0
        let shortOfMemory = false
        // Late timers are what is looked for, and Effect's own would add what fibers that wait for their turn add to them.
        // @effect-diagnostics-next-line globalTimersInEffect:off
        const timer = setInterval(() => {
          const now = performance.now()
          late = now - expected > eventLoopDelay ? late + 1 : 0
          expected = now + interval
          if (memory > 0 && looks++ % memoryEvery === 0) shortOfMemory = isShort(memory / 100)
          state.overload = shortOfMemory ? full : eventLoopDelay > 0 && late >= inARow ? busy : undefined
        }, interval)
        timer.unref()
        return { state, timer }
      }),
      ({ timer }) => Effect.sync(() => clearInterval(timer))
    ).pipe(Effect.map(({ state }) => state))
  )
