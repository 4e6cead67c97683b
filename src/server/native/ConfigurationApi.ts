/** The configuration read anew, for administrators of the whole gateway. */
import { Effect, Option, Schema } from "effect"
import { HttpServerResponse } from "effect/http"
import { type Caller, CurrentCaller } from "../../sdk/Caller.ts"
import { Configuration, ConfigurationStatus } from "../../sdk/Configuration.ts"
import { fail, Forbidden, type GatewayError, NotFound } from "../../sdk/GatewayError.ts"
import { Tenants } from "../../sdk/Tenant.ts"
import { type Door, visit } from "../Door.ts"

const encodeStatus = Schema.encodeSync(ConfigurationStatus)

const mayNot = fail(
  new Forbidden({ message: "this takes a key with the right to administrate (admin), of a tenant without a parent" })
)
const notThere = fail(new NotFound({ message: "this gateway has no configuration that it could read anew" }))

/** An administrator below another one answers for its own tenants, and the configuration is everybody's. */
const isEverybodys = Effect.fnUntraced(function*(caller: Caller): Effect.fn.Return<boolean> {
  if (caller.admin !== true) return false
  const tenants = yield* Effect.serviceOption(Tenants)
  return Option.isNone(tenants) || (tenants.value.lineage(caller.tenant) ?? []).length <= 1
})

/** The handler of the reload. */
export const reload = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ requestId }): Effect.fn.Return<HttpServerResponse.HttpServerResponse, GatewayError> {
      if (!(yield* isEverybodys(yield* CurrentCaller))) return yield* mayNot
      const configuration = yield* Effect.serviceOption(Configuration)
      if (Option.isNone(configuration)) return yield* notThere
      return HttpServerResponse.text(JSON.stringify(encodeStatus(yield* configuration.value.reload)), {
        contentType: "application/json",
        headers: { "x-request-id": requestId, "cache-control": "no-store" }
      })
    })
  )
