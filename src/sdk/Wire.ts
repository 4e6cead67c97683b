/**
 * What a value was before it was decoded. A codec's decoder makes its chunks and responses with `sourced…`, and an
 * encoder of the same wire can then hand the original on instead of writing it anew: lossless and cheap.
 *
 * The source sits in a private field, which a copy (`{ ...chunk, delta }`) does not take along. So whoever changes a
 * value gets one without a source, and a stale original can never be sent.
 */
import type { ChatChunk, ChatResponse } from "./Chat.ts"

/** The original of a decoded value. */
export interface Source {
  /** The wire that it was read from. */
  readonly wire: string
  /** The event's data or the body as it stood in the wire. */
  readonly text: string
  /** The same, parsed. Never changed by anyone. */
  readonly json: unknown
  /** Set where later events of the stream say again what this one does, so that they are handed on all together or not at all. */
  readonly repeated?: true
}

class Sourced {
  readonly #source: Source
  constructor(source: Source) {
    this.#source = source
  }
  static read(value: object): Source | undefined {
    return #source in value ? value.#source : undefined
  }
}

/** A chunk that remembers the wire event that it was read from. */
export const sourcedChunk = (chunk: ChatChunk, source: Source): ChatChunk => Object.assign(new Sourced(source), chunk)

/** A response that remembers the body that it was read from. */
export const sourcedResponse = (response: ChatResponse, source: Source): ChatResponse =>
  Object.assign(new Sourced(source), response)

/** The original of a value, if it was read from `wire` and has not been changed since. */
export const sourceOf = (value: ChatChunk | ChatResponse, wire: string): Source | undefined => {
  const source = Sourced.read(value)
  return source !== undefined && source.wire === wire ? source : undefined
}

/**
 * Adds the gateway's own findings (a cost, dropped parameters, the model that served) to a value and keeps its source: no
 * wire says these things, so the original is still what the provider said. A value with a source was made for this request
 * and is changed in place; any other may be held by the provider that gave it, and is copied.
 */
export const annotate = <A extends ChatChunk | ChatResponse>(value: A, findings: Partial<A>): A =>
  Sourced.read(value) === undefined ? { ...value, ...findings } : Object.assign(value, findings)

/**
 * A chunk as whoever may change any chunk of its stream has to hand it on: without its original, where later events of the
 * stream would still say what was changed.
 */
export const withoutRepeated = (chunk: ChatChunk): ChatChunk =>
  Sourced.read(chunk)?.repeated === true ? { ...chunk } : chunk
