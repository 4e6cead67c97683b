/** A stream in its pulled form, which the stages of the pipeline wrap: one pull gives what one network read held. */
import type { Cause, Effect } from "effect"
import type { ChatChunk } from "../sdk/Chat.ts"
import type { Usage } from "../sdk/Usage.ts"

/** Chunks that arrived together. */
export type Chunks<Chunk = ChatChunk> = readonly [Chunk, ...Array<Chunk>]

/** Gives the next chunks, ends with `Done`, or fails. */
export type ChunkPull<E, Chunk = ChatChunk> = Effect.Effect<Chunks<Chunk>, E | Cause.Done>

/** What the stages have to know of an operation's chunks. */
export interface ChunkKind<Chunk> {
  /** Whether it holds content: the first such chunk commits, and each one fills up the time that the provider may be silent. */
  readonly hasContent: (chunk: Chunk) => boolean
  /**
   * Whether it says that the answer is complete; a stream that ends without is cut short. Absent: the stream's own end says
   * so, as where bytes come whose number the transport knows.
   */
  readonly ends?: (chunk: Chunk) => boolean
  /** What the provider says of its consumption; the last word counts. */
  readonly usage: (chunk: Chunk) => Usage | undefined
  /** Native names of the parameters that the provider did not get. */
  readonly dropped?: (chunk: Chunk) => ReadonlyArray<string> | undefined
  /** Whether the chunk is for the gateway alone, and not for the caller. */
  readonly isOurs?: (chunk: Chunk) => boolean
}
