/** What an orchestrator asks: whether the process lives, and whether it will serve. */
import { Effect, Layer } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { ProviderRegistry } from "../../sdk/Provider.ts"

const live = Effect.succeed(HttpServerResponse.jsonUnsafe({ status: "ok" }))

const ready = Effect.gen(function*() {
  const providers = yield* ProviderRegistry
  const count = providers.all().length
  return HttpServerResponse.jsonUnsafe(
    { status: count > 0 ? "ok" : "no providers" },
    { status: count > 0 ? 200 : 503 }
  )
})

/** Mounts `/health/live` and `/health/ready`. They tell nothing about providers or callers, and so ask for no key. */
export const layer = Layer.mergeAll(
  HttpRouter.add("GET", "/health/live", live),
  HttpRouter.add("GET", "/health/ready", ready)
)
