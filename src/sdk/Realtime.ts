/**
 * Realtime: a conversation in sound and text over one connection that goes both ways and stays open.
 *
 * A connection is told of by calls and not by a stream: 50 frames a second go through each session in each direction, and most
 * of them go on as the very bytes that came. Waking a fiber for each would cost more than all else that is done to it.
 */
import type { GatewayError } from "./GatewayError.ts"
import type { Usage } from "./Usage.ts"

/** One message, as it came. */
export interface RealtimeFrame {
  /** Its bytes; those of a text message are UTF-8. Nobody changes them. */
  readonly data: Uint8Array
  readonly isText: boolean
}

/** How a connection ended, in the words of RFC 6455, section 7.4: 1005 stands for no code, 1006 for a broken connection. */
export interface RealtimeClose {
  readonly code: number
  readonly reason: string
}

/** Who is told what comes over a connection. */
export interface RealtimeListener {
  readonly frame: (frame: RealtimeFrame) => void
  /** What was sent is on its way: there is room for more. */
  readonly drained: () => void
  /** The connection is over; nothing comes after it. */
  readonly closed: (close: RealtimeClose) => void
}

/** One end of an open connection. */
export interface RealtimeChannel {
  /** Tells one listener of what comes, what has come until now included. */
  readonly listen: (listener: RealtimeListener) => void
  /** Sends a frame. False where so much waits to be sent that nothing should follow until the listener's `drained`. */
  readonly send: (frame: RealtimeFrame) => boolean
  /** Has the other end wait with its frames; some that are under way may come all the same. */
  readonly pause: () => void
  readonly resume: () => void
  /** Asks the other end whether it is there. False where it has not answered the last time. */
  readonly ping: () => boolean
  /** Ends the connection, after what was sent. 1005 sends no code, 1006 breaks the connection off. */
  readonly close: (close: RealtimeClose) => void
}

/** What the gateway has to know of a frame of the caller's; of most there is nothing. */
export interface CallerEvent {
  /** Whether it asks for a response. */
  readonly responds: boolean
  /** The longest response that it asks for, tokens. */
  readonly maxOutputTokens?: number
  /** The model that it names. */
  readonly model?: string
  /** The model that it has transcribe what the caller says. */
  readonly transcriptionModel?: string
  /** The texts in it, those of instructions and tools included. */
  readonly texts: ReadonlyArray<string>
  /** The event with other texts in place of these, as many of them, and with another model where one is given. */
  readonly changed: (texts: ReadonlyArray<string>, model?: string) => RealtimeFrame
  /** The caller's name for the event. */
  readonly eventId?: string
}

/** What the gateway has to know of a frame of the provider's; of most there is nothing. */
export type ProviderEvent =
  /** A response has begun. */
  | { readonly type: "started"; readonly responseId: string }
  /** A response is over. Without `usage` the provider told none. */
  | {
    readonly type: "ended"
    readonly responseId: string
    readonly status: "completed" | "cancelled" | "incomplete" | "failed"
    readonly finishReason?: "stop" | "length" | "content_filter"
    /** The provider's words for why it failed. */
    readonly problem?: string
    readonly usage?: Usage
    readonly texts: ProviderTexts
  }
  /** What the caller said is a text now; it is charged apart from the responses. */
  | { readonly type: "transcribed"; readonly usage?: Usage; readonly texts: ProviderTexts }
  /** How the session is set up. */
  | { readonly type: "session"; readonly transcriptionModel?: string; readonly maxOutputTokens?: number }
  /** A piece of a text of which the whole follows in a frame of the type `texts`. */
  | { readonly type: "piece"; readonly of: string }
  /** Whole texts; `of` names the one whose pieces came before. */
  | { readonly type: "texts"; readonly of?: string; readonly texts: ProviderTexts }

/** The texts in a frame of the provider's. */
export interface ProviderTexts {
  readonly texts: ReadonlyArray<string>
  /** The frame with others in their place, as many of them. */
  readonly changed: (texts: ReadonlyArray<string>) => RealtimeFrame
}

/** What a session has consumed until its end. */
export interface RealtimeSummary {
  /** The id under which the session's records are kept. */
  readonly sessionId: string
  readonly responses: number
  readonly transcriptions: number
  /** All of it together; without `costEstimate` where no price is known. */
  readonly usage: Usage
  readonly durationMs: number
}

/** What a protocol's frames mean. Pure, and cheap for those that are sound. */
export interface RealtimeProtocol {
  /** Reads a frame of the caller's. Nothing where it is none of the gateway's business. */
  readonly callerEvent: (frame: RealtimeFrame) => CallerEvent | undefined
  /** Reads a frame of the provider's; `whole` asks for texts, too. */
  readonly providerEvent: (frame: RealtimeFrame, whole: boolean) => ProviderEvent | undefined
  /** About how many tokens of sound a frame without an event adds to the conversation, by its size alone. */
  readonly weight: (frame: RealtimeFrame) => number
  /** Tells the caller what went wrong. */
  readonly error: (error: GatewayError, eventId?: string) => RealtimeFrame
  /** Has the provider end a response. */
  readonly cancel: (responseId: string) => RealtimeFrame
  /** Tells the caller what the session has consumed. */
  readonly summary: (summary: RealtimeSummary) => RealtimeFrame
}

/** A provider's end of a session. */
export interface RealtimeUpstream {
  readonly channel: RealtimeChannel
  /** The protocol that it speaks, and the caller has to. */
  readonly protocol: RealtimeProtocol
}

/** A request for a session. */
export interface RealtimeRequest {
  /** A model or a route. */
  readonly model: string
  /** The end user. */
  readonly user?: string
  /** Of the caller's headers those that the protocol means for the provider, by their lower-case names. */
  readonly headers?: Readonly<Record<string, string>>
}

/** Codes that may be sent: RFC 6455, section 7.4.1, the IANA registry, and those for applications. */
const isSendable = (code: number): boolean =>
  (code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005 && code !== 1006) || (code >= 3000 && code <= 4999)

/** Bytes of a reason at most (RFC 6455, section 5.5). */
const maxReason = 123

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** A reason cut to what fits a close frame. */
export const shortReason = (reason: string): string => {
  const bytes = encoder.encode(reason)
  if (bytes.length <= maxReason) return reason
  // A character that is cut in two is left out as a whole.
  return decoder.decode(bytes.subarray(0, maxReason - 3)).replace(/\uFFFD+$/, "") + "…"
}

/**
 * What the other side is told of an end. The same code and reason where they can be sent; no code stays none. `broken` stands for
 * a connection that broke, and for codes that nobody may send.
 */
export const mirrored = ({ code, reason }: RealtimeClose, broken: RealtimeClose): RealtimeClose =>
  code === 1005 ? { code, reason: "" } : isSendable(code) ? { code, reason: shortReason(reason) } : broken
