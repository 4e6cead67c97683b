/**
 * Names of models as Ollama's clients write them, and what they stand for. Clients add `:latest` to a name without a colon,
 * by themselves or because the list has it so; routes and models of other providers have no such tag.
 */
import { Effect } from "effect"
import type { Gateway } from "../../gateway/Gateway.ts"
import type { RouteInfo } from "../../sdk/GatewayApi.ts"
import { fail, type GatewayError, invalid } from "../../sdk/GatewayError.ts"
import { type ModelInfo, separator } from "../../sdk/Model.ts"
import { filled, isJson } from "../../wire/Json.ts"
import type { ListedModel } from "../../wire/ollama/OllamaChat.ts"

type Service = Gateway["Service"]

const latest = ":latest"

/** The model that a body names: in `model`, or in `name` as clients of before 2024 have it. */
export const nameIn = (body: unknown): Effect.Effect<string, GatewayError> => {
  const name = isJson(body) ? filled(body["model"]) ?? filled(body["name"]) : undefined
  return name === undefined ? Effect.fail(fail(invalid("model", "must name a model"))) : Effect.succeed(name)
}

/**
 * The name to look for: without `:latest`, where only without it there is something of that name. A canonical id has a colon,
 * so no client adds anything to it.
 */
export const named = (gateway: Service, asked: string): Effect.Effect<string> =>
  asked.endsWith(latest) && !asked.includes(separator)
    ? untagged(gateway, asked, asked.slice(0, -latest.length))
    : Effect.succeed(asked)

const untagged = Effect.fnUntraced(function*(gateway: Service, asked: string, bare: string): Effect.fn.Return<string> {
  const routes = yield* gateway.routes
  if (routes.some(({ name }) => name === asked)) return asked
  if (routes.some(({ name }) => name === bare)) return bare
  if ((yield* Effect.result(gateway.model(asked)))._tag === "Success") return asked
  return (yield* Effect.result(gateway.model(bare)))._tag === "Success" ? bare : asked
})

const ofModel = (name: string, model: ModelInfo): ListedModel => ({
  name,
  providers: [model.provider],
  displayName: model.displayName,
  capabilities: model.capabilities,
  contextWindow: model.contextWindow,
  created: model.created
})

/** What every model of a route can do, whichever serves; a model of which nothing is known says nothing. */
const ofRoute = (name: string, models: ReadonlyArray<ModelInfo>): ListedModel => {
  const known = models.flatMap(({ capabilities }) => capabilities === undefined ? [] : [capabilities])
  const windows = models.flatMap(({ contextWindow }) => contextWindow ?? [])
  const [first, ...others] = known
  return {
    name,
    providers: Array.from(new Set(models.map(({ provider }) => provider))),
    capabilities: first?.filter((capability) => others.every((other) => other.includes(capability))),
    contextWindow: windows.length === 0 ? undefined : Math.min(...windows)
  }
}

const routeModels = (gateway: Service, route: RouteInfo): Effect.Effect<ReadonlyArray<ModelInfo>> =>
  Effect.map(
    Effect.forEach(route.models, ({ model }) => Effect.option(gateway.model(model))),
    (found) => found.flatMap((model) => model._tag === "Some" ? [model.value] : [])
  )

/** The model or route of a name that a client wrote. Fails with what the registry says of the model. */
export const modelNamed = Effect.fnUntraced(function*(
  gateway: Service,
  asked: string
): Effect.fn.Return<ListedModel, GatewayError> {
  const name = yield* named(gateway, asked)
  const route = (yield* gateway.routes).find((route) => route.name === name)
  return route === undefined
    ? ofModel(asked, yield* gateway.model(name))
    : ofRoute(asked, yield* routeModels(gateway, route))
})

/** The caller's routes and models, without those that are out of service: to Ollama's clients what is listed is there. */
export const listed = Effect.fnUntraced(function*(gateway: Service): Effect.fn.Return<ReadonlyArray<ListedModel>> {
  const routes = yield* Effect.forEach(
    yield* gateway.routes,
    (route) => Effect.map(routeModels(gateway, route), (models) => ofRoute(route.name, models))
  )
  const active = (yield* gateway.models).filter(({ status }) => status === "active")
  return [...routes, ...active.map((model) => ofModel(model.id, model))]
})
