/**
 * Realtime sessions over WebSockets, at `/v1/realtime` with errors in OpenAI's form, and at `/llm-gateway/v1/realtime` with the
 * native ones. What goes over the connection is the same at both: OpenAI's events.
 *
 * A request is answered when the provider is connected: until then a failure is an ordinary HTTP error, which WebSocket clients
 * show with its status.
 */
import { Clock, Effect, Layer, Option, type Redacted, Result } from "effect"
import { HttpRouter, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { start } from "../../gateway/Exchange.ts"
import { Gateway } from "../../gateway/Gateway.ts"
import { fail, Forbidden, type GatewayError, invalid } from "../../sdk/GatewayError.ts"
import { PresentedSecret } from "../../sdk/Identity.ts"
import type { RealtimeChannel, RealtimeFrame, RealtimeRequest } from "../../sdk/Realtime.ts"
import { Tenants } from "../../sdk/Tenant.ts"
import { type Door, type RouteOptions, secretIn, visit, type Who } from "../Door.ts"
import { Draining } from "../Draining.ts"
import { exchangeHeaders } from "../ResponseHeaders.ts"
import { mint, setupEvent } from "./ClientSecretRoute.ts"
import { ClientSecrets, type Grant, isClientSecret } from "./ClientSecrets.ts"
import { betaOf, checkHandshake, keyInProtocols, Upgrades } from "./Upgrade.ts"

/** What of a service's routes concerns sessions. */
export interface RealtimeRouteOptions {
  /** The largest frame that a caller may send, bytes; default 16 MiB. */
  readonly maxFrameBytes?: number
  /** What client secrets are sealed with; default: made anew by each process, which takes only its own then. */
  readonly secret?: Redacted.Redacted
}

const defaultMaxFrame = 16 * 1024 * 1024

type Headers = Readonly<Record<string, string | undefined>>

/** The client secret that a request shows: in a header, or in a subprotocol as browsers have to. */
const clientSecretIn = (headers: Headers): string | undefined => {
  const key = secretIn(headers)?.reveal() ?? keyInProtocols(headers)
  return key === undefined || !isClientSecret(key) ? undefined : key
}

const grantOf = (secrets: ClientSecrets, secret: string): Effect.Effect<Grant, GatewayError> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.fromResult(secrets.open(secret, now))).pipe(
    Effect.tap(({ caller: { tenant } }) =>
      Effect.flatMap(Effect.serviceOption(Tenants), (tenants) =>
        // A tenant that was removed since has no callers any more.
        Option.isSome(tenants) && tenants.value.lineage(tenant) === undefined ? Effect.fail(noTenant) : Effect.void)
    )
  )

/** Callers show a key as everywhere, or in a subprotocol; or a client secret. */
const whoWith = (secrets: ClientSecrets): Who => (headers, identity) => {
  const secret = clientSecretIn(headers)
  if (secret !== undefined) return Effect.map(grantOf(secrets, secret), ({ caller }) => caller)
  const key = secretIn(headers)
  const inProtocols = key === undefined ? keyInProtocols(headers) : undefined
  return identity.authenticate(inProtocols === undefined ? key : new PresentedSecret(inProtocols))
}

const noTenant = fail(new Forbidden({ message: "the tenant of this client secret is not one of this gateway's" }))
const otherModel = fail(
  new Forbidden({ message: "the client secret is for another model; ask for one for this model" })
)
const noModel = fail(invalid("model", "name a model in the address, such as /v1/realtime?model=gpt-realtime"))

/** What a request asks for, by its query. A client secret names its model itself. */
const requestOf = (
  { headers, url }: HttpServerRequest.HttpServerRequest,
  grant: Grant | undefined
): Effect.Effect<RealtimeRequest, GatewayError> => {
  const named = new URLSearchParams(url.split("?", 2)[1] ?? "").get("model")
  const model = named === null || named === "" ? grant?.model : named
  if (model === undefined) return Effect.fail(noModel)
  if (grant !== undefined && grant.model !== model) return Effect.fail(otherModel)
  const beta = betaOf(headers)
  return Effect.succeed({ model, ...(beta === undefined ? {} : { headers: { "openai-beta": beta } }) })
}

/** A channel over which one frame comes before all others. */
const preceded = (channel: RealtimeChannel, first: RealtimeFrame): RealtimeChannel => ({
  listen: (listener) => {
    listener.frame(first)
    channel.listen(listener)
  },
  send: (frame) => channel.send(frame),
  pause: () => channel.pause(),
  resume: () => channel.resume(),
  ping: () => channel.ping(),
  close: (close) => channel.close(close)
})

const connect = (door: Door, upgrades: Upgrades, secrets: ClientSecrets) =>
  visit(
    door,
    Effect.fnUntraced(function*({ began, request }) {
      yield* Effect.fromResult(Result.mapError(checkHandshake(request), fail))
      const secret = clientSecretIn(request.headers)
      const grant = secret === undefined ? undefined : yield* grantOf(secrets, secret)
      const asked = yield* requestOf(request, grant)
      const exchange = began(yield* start(asked.model, true, undefined, "realtime"))
      const gateway = yield* Gateway
      yield* upgrades.watch(request)
      const session = yield* gateway.openRealtime(asked, exchange)
      const channel = yield* upgrades.accept(request, exchangeHeaders(exchange))
      const draining = yield* Draining
      const over = draining.onCut(session.cut)
      yield* Effect.forkScoped(Effect.andThen(draining.begun, Effect.sync(session.stop)))
      const caller = grant?.session === undefined
        ? channel
        : preceded(channel, { data: setupEvent(grant.session), isText: true })
      yield* Effect.ensuring(session.run(caller), Effect.sync(over))
      return HttpServerResponse.empty()
    }, Effect.scoped),
    whoWith(secrets)
  )

/** Where sessions are, and with which errors. */
export interface RealtimeFace {
  readonly door: Door
  readonly path: `/${string}`
  /** Where client secrets are made, if anywhere. */
  readonly secretsPath?: `/${string}`
}

/** Mounts the routes of one face. */
export const layer = ({ door, path, secretsPath }: RealtimeFace, { maxBodyBytes, realtime = {} }: RouteOptions) =>
  Layer.unwrap(Effect.map(Draining, (draining) => {
    const secrets = new ClientSecrets(realtime.secret)
    const sessions = connect(door, new Upgrades(realtime.maxFrameBytes ?? defaultMaxFrame), secrets)
    return Layer.merge(
      HttpRouter.add("GET", path, Effect.provideService(sessions, Draining, draining)),
      secretsPath === undefined
        ? Layer.empty
        : HttpRouter.add("POST", secretsPath, mint(door, secrets, maxBodyBytes))
    )
  }))
