/** The figures of realtime sessions. Their responses are requests, and in the figures of those. */
import { type Context, Metric } from "effect"

/** Counts the sessions of one gateway. */
export class RealtimeMetrics {
  readonly #registry: Context.Context<never>
  readonly #sessions = Metric.gauge("llm_gateway_realtime_sessions", {
    description: "Realtime sessions that are open."
  })
  readonly #frames = {
    caller: framesOf("caller"),
    provider: framesOf("provider")
  }

  constructor(registry: Context.Context<never>) {
    this.#registry = registry
  }

  opened(): void {
    this.#sessions.modifyUnsafe(1, this.#registry)
  }

  closed(): void {
    this.#sessions.modifyUnsafe(-1, this.#registry)
  }

  /** So many frames more have come from a side. */
  came(side: "caller" | "provider", frames: number): void {
    if (frames > 0) this.#frames[side].updateUnsafe(frames, this.#registry)
  }
}

const framesOf = (side: string) =>
  Metric.counter("llm_gateway_realtime_frames_total", {
    description: "Frames that have come over realtime sessions, by who sent them.",
    attributes: { from: side },
    incremental: true
  })
