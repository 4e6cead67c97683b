/**
 * Whether the service is about to stop: it takes no new connections any more, and waits for what runs. Requests end by
 * themselves; connections that stay open, such as WebSockets, have to be told.
 */
import { Context, Effect } from "effect"

/** The drain of the service that runs here; where there is none, as on an app's own router, it never begins. */
export const Draining: Context.Reference<{
  /** Waits until the drain begins. */
  readonly begun: Effect.Effect<void>
}> = Context.Reference<{ readonly begun: Effect.Effect<void> }>("llm-gateway/server/Draining", {
  defaultValue: () => ({ begun: Effect.never })
})
