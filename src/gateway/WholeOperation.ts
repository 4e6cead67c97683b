/**
 * Operations that answer as a whole: the way of their requests through the stages, which is the same for all of them.
 *
 * ```
 * validate -> interceptors (pre) -> resolve -> admission -> attempts -> account -> finish -> interceptors (post)
 * ```
 */
import { Effect, Exit } from "effect"
import type { ChatResponse } from "../sdk/Chat.ts"
import { text } from "../sdk/Content.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import type { Interceptor, InterceptorContext } from "../sdk/Interceptor.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import type { ProviderError } from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"
import { accountAnswer } from "./Accounting.ts"
import { attemptAnswer } from "./Attempt.ts"
import { runAttempts, type Turn } from "./Attempts.ts"
import { type Exchange, start } from "./Exchange.ts"
import type { AttemptError } from "./Failure.ts"
import { interceptResponse } from "./Interception.ts"
import type { Asked } from "./Operation.ts"
import { after, type Pipeline, settled, waited } from "./Pipeline.ts"
import type { Candidate, Plan } from "./Plan.ts"
import * as Preparation from "./Preparation.ts"
import { miscounted, type PreparedOperation, shownOrNothing, textsOf } from "./Preparation.ts"

/** What the gateway adds to an answer. */
export interface Findings {
  readonly usage: Usage
  readonly modelUsed?: string
  readonly fallbackUsed: boolean
}

/** What a model has been paid for, and nobody got. */
export interface Wasted {
  readonly model: ModelInfo
  readonly usage: Usage
}

/** The calls of one request to its candidates. Holds what is worth keeping between attempts. */
export interface Calls<Response> {
  readonly call: (
    candidate: Candidate,
    turn: Turn & { readonly connectTimeout: number }
  ) => Effect.Effect<Response, ProviderError>
  /** What models other than the one that served have answered to a part of the request. */
  readonly wasted: (served: string | undefined) => ReadonlyArray<Wasted>
}

/** An answer with what the provider says of its consumption. */
export interface Consumed {
  readonly usage?: Usage
}

/** An operation that answers as a whole. */
export interface WholeOperation<Request extends Asked, Response extends Consumed> extends PreparedOperation<Request> {
  readonly calls: (request: Request, plan: Plan) => Calls<Response>
  /** The answer as it goes out, such as in another encoding. */
  readonly finished?: (response: Response, request: Request) => Effect.Effect<Response, GatewayError>
  readonly accounted: (response: Response, findings: Findings) => Response
  readonly droppedOf: (response: Response) => ReadonlyArray<string> | undefined
  /** The answer's texts, where it has any, and the answer with others in their place. */
  readonly answered?: {
    readonly texts: (response: Response) => ReadonlyArray<string>
    readonly changed: (response: Response, texts: ReadonlyArray<string>) => Response
  }
}

/** Answers a request of one operation; the exchange is made where the caller brings none. */
export type Complete<Request, Response> = (
  request: Request,
  exchange?: Exchange
) => Effect.Effect<Response, GatewayError>

/** The answer as the interceptors leave it, where it has texts. */
const passed = Effect.fnUntraced(function*<Request extends Asked, Response extends Consumed>(
  operation: WholeOperation<Request, Response>,
  active: ReadonlyArray<Interceptor>,
  request: Request,
  response: Response,
  context: InterceptorContext
): Effect.fn.Return<Response, GatewayError> {
  const first = active.find(({ post }) => post !== undefined)
  if (operation.answered === undefined || first === undefined) return response
  const before = operation.answered.texts(response)
  const shown: ChatResponse = {
    id: context.requestId,
    model: request.model,
    content: before.map(text),
    finishReason: "stop"
  }
  const judged = yield* interceptResponse(active, shown, shownOrNothing(operation, request), context)
  if (judged === shown) return response
  const texts = textsOf(judged.content)
  if (texts.length !== before.length) return yield* miscounted(first)
  return operation.answered.changed(response, texts)
})

/** An operation that lasts longer than others has that time, unless its caller said otherwise. */
const patient = <Request extends Asked>(
  { lastsMs }: PreparedOperation<Request>,
  exchange: Exchange,
  plan: Plan
): Plan => {
  if (lastsMs === undefined) return plan
  const { answer = lastsMs, total = lastsMs } = exchange.timeouts
  return { ...plan, timeouts: { ...plan.timeouts, answer, total } }
}

/** Makes the way of one operation's requests through the stages of a gateway. */
export const make = <Request extends Asked, Response extends Consumed>(
  pipeline: Pipeline,
  operation: WholeOperation<Request, Response>
): Complete<Request, Response> => {
  const { admission, began, finish, health, watched } = pipeline
  const prepare = Preparation.make(pipeline, operation)

  const answer = Effect.fnUntraced(function*(
    asked: Request,
    exchange: Exchange
  ): Effect.fn.Return<Response, GatewayError | AttemptError> {
    const { active, context, bindings, plan: planned, request } = yield* prepare(exchange, asked)
    const plan = patient(operation, exchange, planned)
    const calls = operation.calls(request, plan)
    const { connect: connectTimeout } = plan.timeouts
    const answered = yield* waited(
      exchange,
      runAttempts(exchange, plan, (candidate, turn) =>
        after(
          admission.admitCandidate(exchange, operation, bindings, plan, request, candidate),
          attemptAnswer(
            exchange,
            candidate,
            calls.call(candidate, { ...turn, connectTimeout }),
            plan.timeouts,
            watched,
            !turn.last && plan.route?.onFailure?.timeout_answer !== "final"
          )
        ), health.of)
    ).pipe(Effect.onExit((exit) =>
      Effect.sync(() => {
        const wasted = calls.wasted(Exit.isSuccess(exit) ? exchange.model?.id : undefined)
        // What was given up is charged as a whole.
        const charged = new Set(exchange.attempts.flatMap(({ givenUp, model }) => givenUp === undefined ? [] : [model]))
        exchange.wasted = wasted.filter(({ model }) => !charged.has(model.id))
      })
    ))
    exchange.dropped = operation.droppedOf(answered) ?? exchange.dropped
    const usage = accountAnswer(exchange, answered.usage ?? operation.givenUp(request))
    const response = operation.accounted(answered, {
      usage,
      ...(exchange.model === undefined ? {} : { modelUsed: exchange.model.id }),
      fallbackUsed: exchange.fallbackUsed
    })
    const finished = operation.finished === undefined ? response : yield* operation.finished(response, request)
    return yield* passed(operation, active, request, finished, context)
  })

  const complete = (asked: Request, exchange: Exchange): Effect.Effect<Response, GatewayError> =>
    Effect.suspend(() => {
      began(exchange)
      return Effect.exit(answer(asked, exchange))
    }).pipe(
      Effect.flatMap((exit) => settled(exchange, exit)),
      Effect.onExit((exit) => finish(exchange, operation, asked, exit))
    )

  return (asked, exchange) =>
    exchange === undefined
      ? Effect.flatMap(
        start(asked.model, false, operation.userOf(asked), operation.name),
        (started) => complete(asked, started)
      )
      : complete(asked, exchange)
}
