/**
 * Reading a request's body into memory. Node's own message is read directly: the generic way waits for the stream's close
 * and copies the bytes, which costs about 7 µs of CPU on a small request.
 */
import { Effect } from "effect"
import type { HttpServerError, HttpServerRequest } from "effect/http"
import { IncomingMessage } from "node:http"
import { fail, type GatewayError, PayloadTooLarge, ValidationError } from "../sdk/GatewayError.ts"

const tooLarge = (maxBytes: number): GatewayError =>
  fail(new PayloadTooLarge({ message: `the body is larger than ${maxBytes} bytes`, maxBytes }))

const unreadable = (): GatewayError => fail(new ValidationError({ message: "the body could not be read" }))

/** The whole body. Fails with `payload_too_large`, or with `validation_error` where the caller broke it off. */
export const readBody = (
  request: HttpServerRequest.HttpServerRequest,
  maxBytes: number
): Effect.Effect<Buffer, GatewayError> =>
  request.source instanceof IncomingMessage
    ? readMessage(request.source, maxBytes)
    : request.arrayBuffer.pipe(
      Effect.mapError((error) => isTooLarge(error) ? tooLarge(maxBytes) : unreadable()),
      Effect.map((buffer) => Buffer.from(buffer))
    )

const isTooLarge = ({ reason }: HttpServerError.HttpServerError): boolean =>
  reason._tag === "RequestParseError" && reason.reason === "BodyTooLarge"

const readMessage = (message: IncomingMessage, maxBytes: number): Effect.Effect<Buffer, GatewayError> =>
  Effect.callback<Buffer, GatewayError>((resume) => {
    // What is announced to be too large is not read at all; the server closes such a connection after its answer.
    if (Number(message.headers["content-length"]) > maxBytes) return resume(Effect.fail(tooLarge(maxBytes)))
    const chunks: Array<Buffer> = []
    let size = 0
    const onData = (chunk: Buffer): void => {
      size += chunk.length
      if (size > maxBytes) settle(Effect.fail(tooLarge(maxBytes)))
      else chunks.push(chunk)
    }
    const onEnd = (): void => {
      const [first, ...rest] = chunks
      settle(Effect.succeed(first !== undefined && rest.length === 0 ? first : Buffer.concat(chunks)))
    }
    const onBroken = (): void => settle(Effect.fail(unreadable()))
    const stop = (): void => {
      message.off("data", onData)
      message.off("end", onEnd)
      message.off("close", onBroken)
      message.off("error", onBroken)
    }
    const settle = (outcome: Effect.Effect<Buffer, GatewayError>): void => {
      stop()
      resume(outcome)
    }
    message.on("data", onData)
    message.on("end", onEnd)
    message.on("close", onBroken)
    message.on("error", onBroken)
    return Effect.sync(stop)
  })
