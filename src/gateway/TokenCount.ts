/**
 * How many tokens a request's prompt has, without an answer: the provider's own count where it offers one, else an
 * estimate. The prompt goes out as that of a chat would, so it goes through the same interceptors and takes from the same
 * limit of requests; nothing is consumed, so there is no budget, no usage record and no retry.
 */
import { Effect, Result } from "effect"
import { CurrentRequest } from "../sdk/Caller.ts"
import type { ChatRequest } from "../sdk/Chat.ts"
import { fail, type GatewayError } from "../sdk/GatewayError.ts"
import type { ChatCall } from "../sdk/Provider.ts"
import { TypeRegistry } from "../sdk/TypeRegistry.ts"
import { chatOperation } from "./ChatOperation.ts"
import type { Exchange } from "./Exchange.ts"
import { type AttemptError, gatewayError } from "./Failure.ts"
import { interceptorsOf, interceptRequest } from "./Interception.ts"
import type { Pipeline } from "./Pipeline.ts"
import type { Plan } from "./Plan.ts"
import { within } from "./TimeLimit.ts"
import { timedOut } from "./Timers.ts"
import { estimateInput } from "./TokenEstimate.ts"
import { toProviderNames } from "./ToolNames.ts"
import { resolveTools } from "./ToolResolution.ts"
import { validateChat } from "./Validation.ts"

/** The tokens of a prompt. */
export interface TokenCount {
  readonly inputTokens: number
  /** Whether the gateway estimated the figure: its provider counts for nobody, or could not be asked. */
  readonly isEstimated: boolean
}

/** Counts a request's tokens with the first model that could serve it. Fails as the request itself would before its first attempt. */
export type CountTokens = (request: ChatRequest, exchange: Exchange) => Effect.Effect<TokenCount, GatewayError>

/** What counting is made over. */
export interface TokenCountOptions {
  readonly pipeline: Pipeline
  readonly types: TypeRegistry["Service"]
}

const estimated = (request: ChatRequest): TokenCount => ({ inputTokens: estimateInput(request), isEstimated: true })

/** Statuses of a server that speaks the protocol without this endpoint. */
const notOffered: ReadonlySet<number | undefined> = new Set([404, 405, 501])

/** Whether the provider has found something wrong with the request, which the caller is to know. */
const isCallers = (error: AttemptError): boolean =>
  error._tag === "ProviderError" && (error.kind === "caller" || error.kind === "contextLength") &&
  !notOffered.has(error.status)

/** Asks the plan's first provider. A count is of use even where it is rough, so a provider that fails gives way to an estimate. */
const ask = (plan: Plan, request: ChatRequest, call: ChatCall): Effect.Effect<TokenCount, GatewayError> => {
  const [{ provider }] = plan.candidates
  if (provider.countTokens === undefined) return Effect.succeed(estimated(request))
  const limit = plan.timeouts.firstToken
  const counted: Effect.Effect<number, AttemptError> = within(
    provider.countTokens(call),
    limit,
    () => timedOut(provider.slug, "answer", limit)
  )
  return counted.pipe(
    Effect.map((inputTokens): TokenCount => ({ inputTokens, isEstimated: false })),
    Effect.catch((error) => isCallers(error) ? Effect.fail(gatewayError(error)) : Effect.succeed(estimated(request)))
  )
}

/** Makes the operation over the parts that it shares with chat. */
export const make = (
  { pipeline: { admission, contextOf, interceptors, resolve }, types }: TokenCountOptions
): CountTokens =>
  Effect.fnUntraced(function*(asked, exchange): Effect.fn.Return<TokenCount, GatewayError> {
    yield* Effect.fromResult(Result.mapError(validateChat(asked), fail))
    yield* admission.countRequest(exchange, admission.bindings(exchange))
    const options = yield* CurrentRequest
    const active = interceptorsOf(interceptors.ordered(), exchange.caller)
    const request = active.some(({ pre }) => pre !== undefined)
      ? yield* interceptRequest(active, asked, yield* contextOf(exchange, active))
      : asked
    const plan = yield* resolve(exchange, chatOperation, request, options)
    const [{ model }] = plan.candidates
    const { tools, ...rest } = request
    const resolved = tools === undefined
      ? undefined
      : yield* Effect.provideService(resolveTools(tools), TypeRegistry, types)
    const named = resolved === undefined
      ? rest
      : { ...toProviderNames(rest, resolved.nameToId), tools: resolved.tools }
    return yield* ask(plan, request, { request: named, model, connectTimeout: plan.timeouts.connect })
  })
