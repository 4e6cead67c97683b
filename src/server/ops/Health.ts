/**
 * What an orchestrator asks: whether the process lives, and whether it will serve. To anybody both tell that and no more.
 * Who may administrate the gateway is also told of its providers, their breakers and the stores. A store that does not answer does
 * not make a gateway less ready: it goes on with what it can do without, and so do its replicas, which have the same store.
 */
import { Effect, Layer, Option, Schema } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Breakers } from "../../sdk/Breakers.ts"
import { Configuration, ConfigurationStatus } from "../../sdk/Configuration.ts"
import { Identity } from "../../sdk/Identity.ts"
import { ProviderRegistry } from "../../sdk/Provider.ts"
import { StoreStates } from "../../sdk/StoreStates.ts"
import { secretIn } from "../Door.ts"
import { Draining } from "../Draining.ts"

const live = Effect.succeed(HttpServerResponse.jsonUnsafe({ status: "ok" }))

/** Whether the request's key may administrate. A key that is not known is no reason not to answer at all. */
const isAdmin = Effect.gen(function*() {
  const request = yield* HttpServerRequest.HttpServerRequest
  const identity = yield* Identity
  return yield* identity.authenticate(secretIn(request.headers)).pipe(
    Effect.map((caller) => caller.admin === true),
    Effect.orElseSucceed(() => false)
  )
})

const encodeConfiguration = Schema.encodeSync(ConfigurationStatus)

const details = Effect.fnUntraced(function*(providers: ReadonlyArray<string>) {
  const breakers = yield* Effect.serviceOption(Breakers)
  const configuration = yield* Effect.serviceOption(Configuration)
  const stores = yield* Effect.serviceOption(StoreStates)
  return {
    providers,
    breakers: Option.isNone(breakers) ? [] : yield* breakers.value.states,
    ...(Option.isNone(stores) ? {} : { stores: yield* stores.value.states }),
    ...(Option.isNone(configuration) ? {} : { configuration: encodeConfiguration(configuration.value.status()) })
  }
})

const ready = Effect.gen(function*() {
  const registry = yield* ProviderRegistry
  const providers = registry.all().map(({ slug }) => slug)
  const { isBegun } = yield* Draining
  const status = isBegun() ? "stopping" : providers.length > 0 ? "ok" : "no providers"
  return HttpServerResponse.jsonUnsafe(
    { status, ...((yield* isAdmin) ? yield* details(providers) : {}) },
    { status: status === "ok" ? 200 : 503 }
  )
})

/** Mounts `/health/live` and `/health/ready`, which ask for no key. */
export const layer = Layer.mergeAll(
  HttpRouter.add("GET", "/health/live", live),
  HttpRouter.add("GET", "/health/ready", ready)
)
