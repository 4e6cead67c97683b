/**
 * A call-out: each request, each answer, or both go to an HTTP service of one's own, which lets them pass, blocks them or
 * puts something else in their place. The calls are signed as Standard Webhooks says (https://www.standardwebhooks.com).
 *
 * ```
 * POST url
 * webhook-id: msg_…    webhook-timestamp: 1767225600    webhook-signature: v1,base64(HMAC-SHA256(id.timestamp.body))
 * {"phase": "request", "request_id": "req_…", "tenant": "acme", "user": "ann", "operation": "chat", "request": {…}}
 *
 * 200
 * {"action": "allow"} or {"action": "block", "reason": "…"} or {"action": "modify", "request": {…}}
 * ```
 *
 * For answers `phase` is `response`, and `response` stands in the place of `request`, both in the native API's form. A
 * streamed answer is held back until it is complete, since the service sees answers as a whole.
 */
import { Clock, Effect, type Layer, Redacted, Result, Schema } from "effect"
import { HttpClient } from "effect/http"
import { createHmac } from "node:crypto"
import { ChatRequest, ChatResponse } from "../../../sdk/Chat.ts"
import {
  allow,
  block,
  type Interceptor,
  type InterceptorContext,
  InterceptorError,
  type InterceptorRegistry,
  modify,
  type Verdict
} from "../../../sdk/Interceptor.ts"
import { postJson } from "../HttpCall.ts"
import {
  assemble,
  type InterceptorOptions,
  InvalidInterceptor,
  type LayerError,
  layerOf,
  looksAt
} from "../InterceptorOptions.ts"
import { sayable } from "../Sayable.ts"

/** Where the calls go, and how they are signed. */
export interface WebhookOptions extends InterceptorOptions {
  /** An http or https URL. */
  readonly url: string
  /** Signs the calls: `whsec_` and base64, or any text. Without it they are not signed. */
  readonly secret?: Redacted.Redacted
}

/** How long a call may take where the options do not say, ms. */
const defaultTimeout = 5_000

const strict = { onExcessProperty: "error" } as const
const Answer = Schema.Struct({
  action: Schema.Literals(["allow", "block", "modify"]),
  reason: Schema.optionalKey(Schema.String),
  request: Schema.optionalKey(Schema.Unknown),
  response: Schema.optionalKey(Schema.Unknown)
})
type Answer = typeof Answer.Type

const encodeRequest = Schema.encodeUnknownResult(ChatRequest)
const encodeResponse = Schema.encodeUnknownResult(ChatResponse)
const decodeRequest = Schema.decodeUnknownResult(ChatRequest, strict)
const decodeResponse = Schema.decodeUnknownResult(ChatResponse, strict)

const keyOf = (secret: string): Buffer | undefined => {
  if (!secret.startsWith("whsec_")) return secret === "" ? undefined : Buffer.from(secret)
  const encoded = secret.slice("whsec_".length)
  return /^[A-Za-z0-9+/]+={0,2}$/.test(encoded) ? Buffer.from(encoded, "base64") : undefined
}

const written = (body: Readonly<Record<string, unknown>>) =>
  Result.try({
    try: () => JSON.stringify(body),
    catch: () => new InterceptorError({ message: "the content cannot be written as JSON" })
  })

const notNative = new InterceptorError({ message: "the content does not have the native form" })
const garbage = new InterceptorError({ message: "what it put in the content's place does not have the native form" })

/** Makes the interceptor, without registering it; fails where its secret or URL cannot be used. */
export const make = Effect.fnUntraced(function*(
  options: WebhookOptions
): Effect.fn.Return<Interceptor, InvalidInterceptor, HttpClient.HttpClient> {
  const name = options.name ?? "webhook"
  const key = options.secret === undefined ? undefined : keyOf(Redacted.value(options.secret))
  if (options.secret !== undefined && key === undefined) {
    return yield* new InvalidInterceptor({ name, option: "secret", problem: "expected whsec_ and base64, or a text" })
  }
  if (!/^https?:\/\//i.test(options.url) || !URL.canParse(options.url)) {
    return yield* new InvalidInterceptor({ name, option: "url", problem: "expected an http or https URL" })
  }
  const call = postJson(yield* HttpClient.HttpClient, Answer)

  const ask = Effect.fnUntraced(function*(
    phase: "request" | "response",
    content: Result.Result<unknown, unknown>,
    { caller, operation, requestId }: InterceptorContext
  ): Effect.fn.Return<Answer, InterceptorError> {
    if (Result.isFailure(content)) return yield* notNative
    const body = yield* Effect.fromResult(written({
      phase,
      request_id: requestId,
      tenant: caller.tenant,
      ...(caller.user === undefined ? {} : { user: caller.user }),
      operation,
      [phase]: content.success
    }))
    // Receivers know a repeated call by its id, and a caller may choose the request's.
    const id = `msg_${crypto.randomUUID().replaceAll("-", "")}`
    const timestamp = String(Math.floor((yield* Clock.currentTimeMillis) / 1000))
    return yield* call(options.url, body, {
      "webhook-id": id,
      "webhook-timestamp": timestamp,
      ...(key === undefined ? {} : {
        "webhook-signature": `v1,${createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest("base64")}`
      })
    })
  })

  const pre = Effect.fnUntraced(function*(
    request: ChatRequest,
    context: InterceptorContext
  ): Effect.fn.Return<Verdict<ChatRequest>, InterceptorError> {
    const answer = yield* ask("request", encodeRequest(request), context)
    if (answer.action === "allow") return allow
    if (answer.action === "block") return block(sayable(answer.reason))
    const decoded = decodeRequest(answer.request)
    if (Result.isFailure(decoded)) return yield* garbage
    const { stream: _, ...changed } = decoded.success
    // Whether the answer is streamed was the caller's choice, who is waiting for it in that form.
    return modify({ ...changed, ...(request.stream === undefined ? {} : { stream: request.stream }) })
  })

  const post = Effect.fnUntraced(function*(
    response: ChatResponse,
    _request: ChatRequest,
    context: InterceptorContext
  ): Effect.fn.Return<Verdict<ChatResponse>, InterceptorError> {
    const answer = yield* ask("response", encodeResponse(response), context)
    if (answer.action === "allow") return allow
    if (answer.action === "block") return block(sayable(answer.reason))
    const decoded = decodeResponse(answer.response)
    if (Result.isFailure(decoded)) return yield* garbage
    const { fallbackUsed: _used, modelUsed: _model, usage: _usage, ...changed } = decoded.success
    // What was used and what it cost is on record already, and stays what it was.
    return modify({
      ...changed,
      ...(response.usage === undefined ? {} : { usage: response.usage }),
      ...(response.modelUsed === undefined ? {} : { modelUsed: response.modelUsed }),
      ...(response.fallbackUsed === undefined ? {} : { fallbackUsed: response.fallbackUsed })
    })
  })

  return assemble("webhook", { timeoutMs: defaultTimeout, ...options }, {
    ...(looksAt(options, "request") ? { pre } : {}),
    ...(looksAt(options, "response") ? { post } : {})
  })
})

/** Registers the interceptor. The client keeps connections for calls to come, as each of Effect's does. */
export const layer = (
  options: WebhookOptions
): Layer.Layer<never, LayerError, InterceptorRegistry | HttpClient.HttpClient> => layerOf(make(options))
