/** A resolution over plain providers, models and routes, for the tests of planning. */
import { Effect, Layer, Stream } from "effect"
import { chatOperation } from "../../src/gateway/ChatOperation.ts"
import { start } from "../../src/gateway/Exchange.ts"
import { Health } from "../../src/gateway/Health.ts"
import * as Resolution from "../../src/gateway/Resolution.ts"
import * as ModelRegistry from "../../src/modules/modelRegistry/Registry.ts"
import { type Caller, CurrentCaller, CurrentRequest, type RequestOptions } from "../../src/sdk/Caller.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import * as Provider from "../../src/sdk/Provider.ts"
import { type Route, Routes } from "../../src/sdk/Routes.ts"
import { answers, finish, plain, request } from "./PlainProvider.ts"

/** What there is to choose from: the providers `plain`, and `mute`, which cannot stream; both take any model. */
export interface World {
  readonly models?: ReadonlyArray<ModelRegistry.ModelOverride>
  readonly routes?: ReadonlyArray<Route>
  /** What the tenant `narrow` may use; all others may use any model. */
  readonly approved?: (id: string) => boolean
}

/** A caller of the tenant whose models are approved one by one. */
export const narrow: Caller = { tenant: "narrow", tags: [] }

/** The gateway's own limits in these tests. */
export const limits: Resolution.ResolutionOptions = {
  timeouts: { connect: 10, firstToken: 20, idle: 30, total: 40 },
  attempts: 4,
  retry: { baseMs: 1, maxMs: 2 }
}

const chat = () => Effect.succeed(answers("Hello"))

/** The services that planning is built on. */
export const world = ({ approved, models = [], routes = [] }: World) =>
  ModelRegistry.layer({
    models,
    approvals: (caller) => caller.tenant === "narrow" ? approved ?? (() => false) : undefined
  }).pipe(
    Layer.provideMerge(Layer.mergeAll(
      Provider.layer(Effect.succeed(plain({ chat, streamChat: () => Stream.make(finish) }))),
      Provider.layer(Effect.succeed(plain({ slug: "mute", chat })))
    )),
    Layer.provideMerge(Layer.mergeAll(Provider.ProviderRegistry.layer, Routes.layer(routes), Health.layer)),
    Layer.orDie
  )

/** A priority route over models of weight 1. */
export const route = (name: string, models: ReadonlyArray<string>, more: Partial<Route> = {}): Route => ({
  name,
  policy: "priority",
  models: models.map((model) => ({ model, weight: 1 })),
  ...more
})

/** What may differ from an ordinary question to `plain::m`. */
export interface Asked {
  readonly request?: Partial<ChatRequest>
  readonly options?: RequestOptions
  readonly caller?: Caller
}

/** Resolves one request, with its exchange. */
export const resolved = Effect.fnUntraced(function*(asked: Asked = {}) {
  const whole: ChatRequest = { ...request, ...asked.request }
  const resolve = yield* Resolution.make(limits)
  const options = asked.options ?? {}
  const exchange = yield* start(whole.model, whole.stream === true).pipe(
    Effect.provideService(CurrentCaller, asked.caller ?? { tenant: "default", tags: [] }),
    Effect.provideService(CurrentRequest, options)
  )
  return { exchange, plan: yield* resolve(exchange, chatOperation, whole, options) }
})
