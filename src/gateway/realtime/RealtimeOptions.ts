/** How realtime sessions are bounded. */

/** How long sessions may last, and what they may send. */
export interface RealtimeOptions {
  /** The longest session, ms; default 3,600,000. */
  readonly maxSessionMs?: number
  /** How long both sides may keep silent, ms; default 300,000. */
  readonly idleMs?: number
  /** How often both sides are asked whether they are there, ms; default 20,000. One that has not answered by the next time is gone. */
  readonly pingMs?: number
  /** The largest frame that is taken of either side, bytes; default 16 MiB. */
  readonly maxFrameBytes?: number
}

/** The largest frame where nothing else is configured, bytes: OpenAI takes 15 MiB of sound in one event. */
export const defaultMaxFrameBytes = 16 * 1024 * 1024
