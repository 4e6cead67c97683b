/** A chat stream in its pulled form, which the stages of the pipeline wrap: one pull gives what one network read held. */
import type { Cause, Effect } from "effect"
import type { ChatChunk } from "../sdk/Chat.ts"

/** Chunks that arrived together. */
export type Chunks = readonly [ChatChunk, ...Array<ChatChunk>]

/** Gives the next chunks, ends with `Done`, or fails. */
export type ChunkPull<E> = Effect.Effect<Chunks, E | Cause.Done>
