/** What the interceptors' tests share: requests, answers, and an interceptor's hooks as the gateway calls them. */
import { Effect, Stream } from "effect"
import type { Caller } from "../../../src/sdk/Caller.ts"
import type { ChatChunk, ChatRequest, ChatResponse, PartDelta } from "../../../src/sdk/Chat.ts"
import { type Part, text } from "../../../src/sdk/Content.ts"
import type { GatewayError } from "../../../src/sdk/GatewayError.ts"
import type { Interceptor, InterceptorContext } from "../../../src/sdk/Interceptor.ts"

/** A request with these parts in one user message. */
export const asking = (...parts: ReadonlyArray<Part | string>): ChatRequest => ({
  model: "plain::m",
  messages: [{ role: "user", content: parts.map((part) => typeof part === "string" ? text(part) : part) }]
})

const head = { id: "a1", model: "m" }

/** An answer with these parts. */
export const answering = (...parts: ReadonlyArray<Part | string>): ChatResponse => ({
  ...head,
  content: parts.map((part) => typeof part === "string" ? text(part) : part),
  finishReason: "stop"
})

/** A chunk with these deltas. */
export const chunk = (...delta: ReadonlyArray<PartDelta>): ChatChunk => ({ ...head, delta })
/** A chunk with a piece of the first text. */
export const says = (value: string, index = 0): ChatChunk => chunk({ type: "text", index, text: value })
/** The end of the answer, and its figures. */
export const ending: ReadonlyArray<ChatChunk> = [
  { ...head, delta: [], finishReason: "stop" },
  { ...head, delta: [], usage: { inputTokens: 1, outputTokens: 1 } }
]

/** A request's context for an interceptor, and the tags that it was given. */
export const contextOf = (
  headers: InterceptorContext["headers"] = {},
  caller: Caller = { tenant: "acme", user: "ann", tags: [] }
) => {
  const tags: Array<string> = []
  const context: InterceptorContext = {
    requestId: "req_1",
    caller,
    operation: "chat",
    headers,
    tag: (tag) => void tags.push(tag)
  }
  return { context, tags }
}

/** What the interceptor makes of a request; a block is a failure with its reason. */
export const intercepted = Effect.fnUntraced(function*(
  interceptor: Interceptor,
  request: ChatRequest,
  context: InterceptorContext = contextOf().context
) {
  const verdict = interceptor.pre === undefined
    ? { type: "allow" as const }
    : yield* interceptor.pre(request, context)
  if (verdict.type === "block") return yield* Effect.fail(verdict.reason)
  return verdict.type === "modify" ? verdict.value : request
})

/** What it makes of a whole answer. */
export const answered = Effect.fnUntraced(function*(
  interceptor: Interceptor,
  response: ChatResponse,
  request: ChatRequest = asking("?"),
  context: InterceptorContext = contextOf().context
) {
  const verdict = interceptor.post === undefined
    ? { type: "allow" as const }
    : yield* interceptor.post(response, request, context)
  if (verdict.type === "block") return yield* Effect.fail(verdict.reason)
  return verdict.type === "modify" ? verdict.value : response
})

/** What it makes of a streamed answer. */
export const streamed = (
  interceptor: Interceptor,
  chunks: Stream.Stream<ChatChunk, GatewayError> | ReadonlyArray<ChatChunk>,
  request: ChatRequest = asking("?"),
  context: InterceptorContext = contextOf().context
) => {
  const stream = Stream.isStream(chunks) ? chunks : Stream.fromIterable(chunks)
  return interceptor.stream === undefined ? stream : interceptor.stream(stream, request, context)
}
