/** What callers can ask models for. Every operation goes the same way through the gateway. */
import { Schema } from "effect"

/** The operations, as usage records, audit events, interceptors and metrics name them. */
export const Operation = Schema.Literals([
  "chat",
  "embed",
  "image",
  "transcribe",
  "speak",
  "video",
  "realtime",
  "batch"
])
export type Operation = typeof Operation.Type
