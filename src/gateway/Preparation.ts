/**
 * What comes before the attempts, for all operations but chat, which has tools and schemas beside it: validation, the
 * interceptors' look at the request's texts, the choice of models, and admission.
 */
import { Effect, Result } from "effect"
import { CurrentRequest } from "../sdk/Caller.ts"
import type { ChatRequest } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"
import { fail, type GatewayError, RequestBlocked, ResponseBlocked, type ValidationError } from "../sdk/GatewayError.ts"
import type { Interceptor, InterceptorContext } from "../sdk/Interceptor.ts"
import type { Exchange } from "./Exchange.ts"
import { interceptorsOf, interceptRequest } from "./Interception.ts"
import type { Bindings } from "./Limits.ts"
import type { Asked, Operation } from "./Operation.ts"
import type { Pipeline } from "./Pipeline.ts"
import type { Plan } from "./Plan.ts"

/** An operation whose requests are prepared here. */
export interface PreparedOperation<Request extends Asked> extends Operation<Request> {
  readonly validate: (request: Request) => Result.Result<void, ValidationError>
  /** The user that the request's body names. */
  readonly userOf: (request: Request) => string | undefined
  /** The request's texts as one message with a part for each; undefined where it has some that nobody can read. */
  readonly shown: (request: Request) => ChatRequest | undefined
  /** The request with other texts, as many as were shown. */
  readonly changed: (request: Request, texts: ReadonlyArray<string>) => Request
}

/** A request that is ready for its attempts. */
export interface Prepared<Request> {
  /** As the interceptors left it. */
  readonly request: Request
  /** The interceptors that see it. */
  readonly active: ReadonlyArray<Interceptor>
  readonly context: InterceptorContext
  readonly bindings: Bindings
  readonly plan: Plan
}

const unreadable = ({ name }: Interceptor): GatewayError =>
  fail(
    new RequestBlocked({
      message: `the request was blocked by ${name}: it cannot read tokens; send text instead`,
      interceptor: name
    })
  )

/** The failure of an answer whose texts an interceptor gave back in another number, so that nobody knows which is which. */
export const miscounted = ({ name }: Interceptor): GatewayError =>
  fail(
    new ResponseBlocked({
      message: `the answer was blocked by ${name}: its texts came back in another number`,
      interceptor: name
    })
  )

/** The texts among some parts, one for each. */
export const textsOf = (content: ReadonlyArray<Part>): ReadonlyArray<string> =>
  content.flatMap((part) => part.type === "text" ? [part.text] : [])

const textsOfRequest = ({ messages }: ChatRequest): ReadonlyArray<string> =>
  messages.flatMap(({ content }) => textsOf(content))

/** The request as it is shown beside its answer. */
export const shownOrNothing = <Request extends Asked>(
  { shown }: PreparedOperation<Request>,
  request: Request
): ChatRequest => shown(request) ?? { model: request.model, messages: [{ role: "user", content: [] }] }

/** The request as the interceptors leave it. */
const intercepted = Effect.fnUntraced(function*<Request extends Asked>(
  operation: PreparedOperation<Request>,
  active: ReadonlyArray<Interceptor>,
  asked: Request,
  context: InterceptorContext
): Effect.fn.Return<Request, GatewayError> {
  const first = active.find(({ pre }) => pre !== undefined)
  if (first === undefined) return asked
  const shown = operation.shown(asked)
  if (shown === undefined) return yield* unreadable(first)
  const passed = yield* interceptRequest(active, shown, context)
  if (passed === shown) return asked
  const before = textsOfRequest(shown)
  const texts = textsOfRequest(passed)
  if (texts.length !== before.length) {
    return yield* fail(
      new RequestBlocked({
        message: `the request was blocked by ${first.name}: its texts came back in another number`,
        interceptor: first.name
      })
    )
  }
  return texts.every((changed, at) => changed === before[at]) ? asked : operation.changed(asked, texts)
})

/** Makes the preparation of one operation's requests. */
export const make = <Request extends Asked>(
  { admission, contextOf, counted, interceptors, ledger, resolve }: Pipeline,
  operation: PreparedOperation<Request>
): (exchange: Exchange, asked: Request) => Effect.Effect<Prepared<Request>, GatewayError> => {
  const prepared = Effect.fnUntraced(function*(
    exchange: Exchange,
    asked: Request
  ): Effect.fn.Return<Prepared<Request>, GatewayError> {
    yield* Effect.fromResult(Result.mapError(operation.validate(asked), fail))
    const active = interceptorsOf(interceptors.ordered(), exchange.caller)
    const context = yield* contextOf(exchange, active)
    const bindings = admission.bindings(exchange)
    // Interceptors may cost more than the request itself, so they get no request beyond the limits.
    if (active.some(({ pre }) => pre !== undefined)) yield* admission.countRequest(exchange, bindings)
    const request = yield* intercepted(operation, active, asked, context)
    const planned = yield* resolve(exchange, operation, request, yield* CurrentRequest)
    exchange.preferred = planned.candidates[0].model
    yield* ledger.open
    const plan = yield* admission.admit(exchange, operation, bindings, planned, request)
    exchange.skipped = plan.skipped
    return { request, active, context, bindings, plan }
  })
  return (exchange, asked) => counted(exchange, prepared(exchange, asked))
}
