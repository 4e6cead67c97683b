/**
 * Framings: how a byte stream is cut into events. Both are fed bytes as they come, whatever the network did to them:
 * events and multi-byte characters may be split anywhere.
 */
import { Result } from "effect"
import { Sse } from "effect/encoding"
import type { Failure } from "../sdk/Provider.ts"

/** One event of a stream. */
export interface WireEvent {
  readonly event: string
  readonly data: string
}

/** Cuts one stream into events. */
export interface Framing {
  /** The events that are complete with these bytes. */
  readonly push: (bytes: Uint8Array) => Result.Result<ReadonlyArray<WireEvent>, Failure>
  /** What is left when the stream ends. */
  readonly end: () => Result.Result<ReadonlyArray<WireEvent>, Failure>
}

/** The largest single event; a generated image is sent as one. In UTF-16 units. */
const maxEventSize = 64 * 1024 * 1024

const tooLarge: Failure = { kind: "protocol", message: "the provider sent a stream event of more than 64 MiB" }

/**
 * Server-sent events, by the WHATWG grammar (https://html.spec.whatwg.org/multipage/server-sent-events.html): comments,
 * CRLF, lone CR, multi-line data and a byte-order mark are all legal. One deviation: an event that lacks its final blank
 * line counts, because several servers omit it after the last one.
 */
export const sse = (): Framing => {
  const utf8 = new TextDecoder()
  let events: Array<WireEvent> = []
  const parser = Sse.makeParser((event) => {
    if (event._tag === "Event") events.push(event)
  }, { maxEventSize })
  const feed = (text: string): Result.Result<ReadonlyArray<WireEvent>, Failure> => {
    events = []
    return parser.feed(text) === undefined ? Result.succeed(events) : Result.fail(tooLarge)
  }
  return {
    push: (bytes) => feed(utf8.decode(bytes, { stream: true })),
    end: () => feed(`${utf8.decode()}\n\n`)
  }
}

/** Newline-delimited JSON: one event a line, blank lines ignored. Events have no name. */
export const ndjson = (): Framing => {
  const utf8 = new TextDecoder()
  // Pieces of the unfinished line, joined once when it ends: a line of many megabytes costs its length, not its square.
  let pending: Array<string> = []
  let pendingLength = 0
  const cut = (text: string, last: boolean): Result.Result<ReadonlyArray<WireEvent>, Failure> => {
    if (!last && !text.includes("\n")) {
      pendingLength += text.length
      if (pendingLength > maxEventSize) return Result.fail(tooLarge)
      pending.push(text)
      return Result.succeed([])
    }
    pending.push(text)
    const lines = pending.join("").split("\n")
    // The limit is a line's and not a push's: many small lines may come at once.
    if (lines.some((line) => line.length > maxEventSize)) return Result.fail(tooLarge)
    const rest = last ? "" : lines.pop() ?? ""
    pending = [rest]
    pendingLength = rest.length
    const events: Array<WireEvent> = []
    for (const line of lines) {
      const data = line.trim()
      if (data !== "") events.push({ event: "", data })
    }
    return Result.succeed(events)
  }
  return {
    push: (bytes) => cut(utf8.decode(bytes, { stream: true }), false),
    end: () => cut(utf8.decode(), true)
  }
}
