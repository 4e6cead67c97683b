/** The native API's routes: which there are, and how one of them would serve a request. */
import { Effect, Result, Schema } from "effect"
import { Gateway } from "../../gateway/Gateway.ts"
import { ChatRequest } from "../../sdk/Chat.ts"
import { Explanation, RouteList } from "../../sdk/GatewayApi.ts"
import { fail, NotFound } from "../../sdk/GatewayError.ts"
import { validationError } from "../../sdk/Issues.ts"
import { type Door, json, readJson, visit } from "../Door.ts"

const decodeRequest = Schema.decodeUnknownResult(ChatRequest, { errors: "all", onExcessProperty: "error" })
const encodeExplanation = Schema.encodeSync(Explanation)
const encodeRoutes = Schema.encodeSync(RouteList)

const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** `/llm-gateway/v1/routes/NAME/explain`, the name percent-encoded. */
const explainPath = /\/routes\/([^/?]+)\/explain(?:$|\?)/

const noRoute = (name: string) => fail(new NotFound({ message: `there is no route "${name.slice(0, 100)}"` }))

/** Lists the routes. */
export const list = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ requestId }) {
      const gateway = yield* Gateway
      return json(encodeRoutes({ routes: yield* gateway.routes }), { "x-request-id": requestId })
    })
  )

/** Explains how a route would serve the request in the body, whose model is the route whatever it says. */
export const explain = (door: Door, maxBodyBytes: number) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const encoded = explainPath.exec(request.url)?.[1] ?? ""
      const name = yield* Effect.try({ try: () => decodeURIComponent(encoded), catch: () => noRoute(encoded) })
      const body = yield* readJson(request, maxBodyBytes)
      const asked = yield* Effect.fromResult(
        Result.mapError(
          decodeRequest(isObject(body) ? { ...body, model: name } : body),
          (error) => fail(validationError(error))
        )
      )
      const gateway = yield* Gateway
      const explanation = yield* gateway.explain(asked)
      // A model is not a route, although it can be asked for in the same place.
      return explanation.route === undefined
        ? yield* noRoute(name)
        : json(encodeExplanation(explanation), { "x-request-id": requestId })
    })
  )
