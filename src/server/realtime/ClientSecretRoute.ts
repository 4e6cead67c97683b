/**
 * `POST /v1/realtime/client_secrets`, in OpenAI's form
 * (https://platform.openai.com/docs/api-reference/realtime-sessions/create-realtime-client-secret): an app's own server asks for a
 * client secret with its key, and hands it to a browser.
 */
import { Clock, Effect, Result } from "effect"
import { Gateway } from "../../gateway/Gateway.ts"
import { CurrentCaller } from "../../sdk/Caller.ts"
import { fail, type GatewayError, invalid } from "../../sdk/GatewayError.ts"
import { count, filled, isJson, object } from "../../wire/Json.ts"
import { type Door, json, readJson, visit } from "../Door.ts"
import type { ClientSecrets } from "./ClientSecrets.ts"

const defaultSeconds = 600
const minSeconds = 10
const maxSeconds = 7_200

const secondsOf = (body: Readonly<Record<string, unknown>>): Result.Result<number, GatewayError> => {
  const after = object(body["expires_after"])
  if (after?.["seconds"] === undefined) return Result.succeed(defaultSeconds)
  const seconds = count(after["seconds"])
  return seconds === undefined || seconds < minSeconds || seconds > maxSeconds
    ? Result.fail(fail(invalid("expires_after.seconds", `expected ${minSeconds} to ${maxSeconds} seconds`)))
    : Result.succeed(seconds)
}

/** The caller may use the model, or a model of the route. */
const checkModel = Effect.fnUntraced(function*(model: string): Effect.fn.Return<void, GatewayError, Gateway> {
  const gateway = yield* Gateway
  if ((yield* gateway.routes).some(({ name }) => name === model)) return
  yield* gateway.model(model)
})

/** The route's handler. `maxBodyBytes` bounds the body. */
export const mint = (door: Door, secrets: ClientSecrets, maxBodyBytes: number) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const body = yield* readJson(request, maxBodyBytes)
      if (!isJson(body)) return yield* fail(invalid("", "expected a JSON object"))
      const session = object(body["session"]) ?? {}
      const { model: named, ...setup } = session
      const model = filled(named)
      if (model === undefined) return yield* fail(invalid("session.model", "name the model of the session"))
      yield* checkModel(model)
      const seconds = yield* Effect.fromResult(secondsOf(body))
      const expiresAt = (yield* Clock.currentTimeMillis) + seconds * 1000
      const isPlain = Object.keys(setup).every((name) => name === "type")
      const value = yield* Effect.fromResult(secrets.seal({
        caller: yield* CurrentCaller,
        model,
        expiresAt,
        ...(isPlain ? {} : { session: JSON.stringify(setup) })
      }))
      return json({
        value,
        expires_at: Math.floor(expiresAt / 1000),
        session: { type: "realtime", object: "realtime.session", ...session }
      }, { "x-request-id": requestId, "cache-control": "no-store" })
    })
  )

/** The event that sets a session up as its client secret says. */
export const setupEvent = (session: string): Uint8Array =>
  new TextEncoder().encode(`{"type":"session.update","session":${session}}`)
