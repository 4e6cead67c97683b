/**
 * Operations that answer as a whole: the way of their requests through the stages, which is the same for all of them.
 *
 * ```
 * validate -> interceptors (pre) -> resolve -> admission -> attempts -> account -> finish -> interceptors (post)
 * ```
 */
import { Effect, Exit, Result } from "effect"
import { CurrentRequest } from "../sdk/Caller.ts"
import type { ChatRequest, ChatResponse } from "../sdk/Chat.ts"
import { text, textOf } from "../sdk/Content.ts"
import { fail, type GatewayError, RequestBlocked, ResponseBlocked, type ValidationError } from "../sdk/GatewayError.ts"
import type { Interceptor, InterceptorContext } from "../sdk/Interceptor.ts"
import type { ModelInfo } from "../sdk/Model.ts"
import type { ProviderError } from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"
import { accountAnswer } from "./Accounting.ts"
import { attemptAnswer } from "./Attempt.ts"
import { runAttempts, type Turn } from "./Attempts.ts"
import { type Exchange, start } from "./Exchange.ts"
import type { AttemptError } from "./Failure.ts"
import { interceptorsOf, interceptRequest, interceptResponse } from "./Interception.ts"
import type { Asked, Operation } from "./Operation.ts"
import { after, type Pipeline, settled, waited } from "./Pipeline.ts"
import type { Candidate, Plan } from "./Plan.ts"

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
export interface WholeOperation<Request extends Asked, Response extends Consumed> extends Operation<Request> {
  readonly validate: (request: Request) => Result.Result<void, ValidationError>
  /** The user that the request's body names. */
  readonly userOf: (request: Request) => string | undefined
  /** The request's texts as one message with a part for each; undefined where it has some that nobody can read. */
  readonly shown: (request: Request) => ChatRequest | undefined
  /** The request with other texts, as many as were shown. */
  readonly changed: (request: Request, texts: ReadonlyArray<string>) => Request
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

const unreadable = ({ name }: Interceptor): GatewayError =>
  fail(
    new RequestBlocked({
      message: `the request was blocked by ${name}: it cannot read tokens; send text instead`,
      interceptor: name
    })
  )

const partsOf = ({ messages }: ChatRequest): ReadonlyArray<string> =>
  messages.flatMap(({ content }) => content.flatMap((part) => part.type === "text" ? [part.text] : []))

/** The request as the interceptors leave it. */
const intercepted = Effect.fnUntraced(function*<Request extends Asked, Response extends Consumed>(
  operation: WholeOperation<Request, Response>,
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
  const before = partsOf(shown)
  const texts = partsOf(passed)
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
  const asked = operation.shown(request) ?? { model: request.model, messages: [{ role: "user", content: [] }] }
  const judged = yield* interceptResponse(active, shown, asked, context)
  if (judged === shown) return response
  const texts = judged.content.flatMap((part) => part.type === "text" ? [textOf([part])] : [])
  if (texts.length !== before.length) {
    return yield* fail(
      new ResponseBlocked({
        message: `the answer was blocked by ${first.name}: its texts came back in another number`,
        interceptor: first.name
      })
    )
  }
  return operation.answered.changed(response, texts)
})

/** Makes the way of one operation's requests through the stages of a gateway. */
export const make = <Request extends Asked, Response extends Consumed>(
  pipeline: Pipeline,
  operation: WholeOperation<Request, Response>
): Complete<Request, Response> => {
  const { admission, began, contextOf, counted, finish, health, interceptors, ledger, resolve, watched } = pipeline

  const prepared = Effect.fnUntraced(function*(exchange: Exchange, asked: Request) {
    yield* Effect.fromResult(Result.mapError(operation.validate(asked), fail))
    const active = interceptorsOf(interceptors.ordered(), exchange.caller)
    const context = yield* contextOf(exchange, active)
    const owners = admission.owners(exchange)
    // Interceptors may cost more than the request itself, so they get no request beyond the limits.
    if (active.some(({ pre }) => pre !== undefined)) yield* admission.countRequest(exchange, owners)
    const request = yield* intercepted(operation, active, asked, context)
    const planned = yield* resolve(exchange, operation, request, yield* CurrentRequest)
    exchange.preferred = planned.candidates[0].model
    yield* ledger.open
    const plan = yield* admission.admit(exchange, operation, owners, planned, request)
    exchange.skipped = plan.skipped
    return { request, active, context, owners, plan }
  })

  const answer = Effect.fnUntraced(function*(
    asked: Request,
    exchange: Exchange
  ): Effect.fn.Return<Response, GatewayError | AttemptError> {
    const { active, context, owners, plan, request } = yield* counted(exchange, prepared(exchange, asked))
    const calls = operation.calls(request, plan)
    const { connect: connectTimeout } = plan.timeouts
    const answered = yield* waited(
      exchange,
      runAttempts(exchange, plan, (candidate, turn) =>
        after(
          admission.admitCandidate(exchange, operation, owners, plan, request, candidate),
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
