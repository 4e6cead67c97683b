/**
 * A realtime channel over a WebSocket, on either side of the gateway: back-pressure by how much waits to be sent, pings, and
 * an end that comes even where the other side does not answer. It knows of the socket what the package `ws` offers, and
 * imports nothing of it.
 */
import type { RealtimeChannel, RealtimeClose, RealtimeFrame, RealtimeListener } from "./Realtime.ts"

/** An open socket of the package `ws`, as far as it is used. */
export interface WebSocketLike {
  readonly bufferedAmount: number
  readonly readyState: number
  readonly send: (data: Uint8Array, options: { readonly binary: boolean }, done: (error?: Error) => void) => void
  readonly pause: () => void
  readonly resume: () => void
  readonly ping: () => void
  readonly close: (code?: number, reason?: string) => void
  readonly terminate: () => void
  readonly on: {
    (event: "message", listener: (data: Uint8Array, isBinary: boolean) => void): unknown
    (event: "close", listener: (code: number, reason: Uint8Array) => void): unknown
    (event: "error", listener: (error: Error) => void): unknown
    (event: "pong", listener: () => void): unknown
  }
}

const open = 1

/** Bytes that may wait to be sent before the sender is asked to stop. */
const highWaterMark = 256 * 1024
/** And as few must be left before it goes on. */
const lowWaterMark = 64 * 1024

const decoder = new TextDecoder()

/** The channel of an open socket. The socket is paused until somebody listens. */
export class RealtimeSocket implements RealtimeChannel {
  readonly #socket: WebSocketLike
  #listener: RealtimeListener | undefined
  #isPaused = true
  #isFull = false
  #answered = true
  #close: RealtimeClose | undefined
  /** Frames that came in spite of the pause. */
  #early: Array<RealtimeFrame> = []

  constructor(socket: WebSocketLike) {
    this.#socket = socket
    socket.pause()
    socket.on("message", (data, isBinary) => {
      const frame = { data, isText: !isBinary }
      if (this.#listener === undefined) this.#early.push(frame)
      else this.#listener.frame(frame)
    })
    socket.on("pong", () => {
      this.#answered = true
    })
    // What is wrong is told again by the close that follows it.
    socket.on("error", () => undefined)
    socket.on("close", (code, reason) => {
      this.#close = { code, reason: decoder.decode(reason) }
      this.#listener?.closed(this.#close)
    })
  }

  listen(listener: RealtimeListener): void {
    this.#listener = listener
    for (const frame of this.#early) listener.frame(frame)
    this.#early = []
    if (this.#close === undefined) this.resume()
    else listener.closed(this.#close)
  }

  send({ data, isText }: RealtimeFrame): boolean {
    const socket = this.#socket
    if (socket.readyState !== open) return true
    socket.send(data, { binary: !isText }, this.#sent)
    if (socket.bufferedAmount > highWaterMark) this.#isFull = true
    return !this.#isFull
  }

  /** One function for all frames: a closure for each would be the dearest part of it. */
  readonly #sent = (): void => {
    if (!this.#isFull || this.#socket.bufferedAmount > lowWaterMark) return
    this.#isFull = false
    this.#listener?.drained()
  }

  pause(): void {
    if (this.#isPaused) return
    this.#isPaused = true
    this.#socket.pause()
  }

  resume(): void {
    if (!this.#isPaused) return
    this.#isPaused = false
    this.#socket.resume()
  }

  ping(): boolean {
    if (this.#socket.readyState !== open) return true
    // Who is not read from cannot be heard to answer.
    if (this.#isPaused) return true
    if (!this.#answered) return false
    this.#answered = false
    this.#socket.ping()
    return true
  }

  close({ code, reason }: RealtimeClose): void {
    const socket = this.#socket
    // A paused socket would never see the other side's close frame.
    this.resume()
    if (code === 1006) socket.terminate()
    else if (code === 1005) socket.close()
    else socket.close(code, reason)
  }
}
