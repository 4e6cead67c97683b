/**
 * What every dialect's routes do alike: find out who is calling, read the request's options and body, run the handler,
 * and render whatever fails in the dialect's own error body. A dialect is a codec and a list of paths on top of this.
 */
import { Cause, Effect, Exit, Layer, Option, Result, Stream } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { isUtf8 } from "node:buffer"
import { type Caller, CurrentCaller, CurrentRequest } from "../sdk/Caller.ts"
import { fail, type GatewayError, InternalError, invalid, MethodNotAllowed, NotFound } from "../sdk/GatewayError.ts"
import { Identity, PresentedSecret } from "../sdk/Identity.ts"
import { logOf } from "../sdk/Log.ts"
import { type Exchange, newRequestId } from "../gateway/Exchange.ts"
import { describeDefect } from "../gateway/Defect.ts"
import { RequestMetrics } from "../gateway/RequestMetrics.ts"
import type { RealtimeRouteOptions } from "./realtime/RealtimeRoutes.ts"
import { readBody } from "./RequestBody.ts"
import { requestOptions } from "./RequestHeaders.ts"
import { exchangeHeaders } from "./ResponseHeaders.ts"
import { Load } from "./Shedding.ts"

const log = logOf("requests")

/** Options of every dialect's routes. */
export interface RouteOptions {
  /** The largest JSON body, bytes. */
  readonly maxBodyBytes: number
  /** Whether `/metrics` is served; default true. */
  readonly metrics?: boolean
  readonly realtime?: RealtimeRouteOptions
}

/** How a dialect tells its callers what went wrong. */
export interface Door {
  readonly encodeError: (error: GatewayError, requestId: string) => {
    readonly status: number
    readonly body: Readonly<Record<string, unknown>>
  }
  /** Of error bodies; default `application/json`. */
  readonly errorType?: string
  /** The headers of an error, where the dialect has more than `exchangeHeaders`. An exchange may not have begun. */
  readonly headers?: (requestId: string, exchange: Exchange | undefined) => Record<string, string>
}

/** What a handler knows of its request. */
export interface Visit {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly requestId: string
  /** Tells that the request's exchange has begun: from then on its headers go with an error, too. */
  readonly began: (exchange: Exchange) => Exchange
}

/** The caller's own id for a request is taken over if it is fit for a header and a log line. */
const requestIdPattern = /^[A-Za-z0-9._:-]{1,128}$/

type Headers = Readonly<Record<string, string | undefined>>

/** The id of a request with these headers. */
export const requestIdIn = (headers: Headers): string => {
  const given = headers["x-request-id"]
  return given !== undefined && requestIdPattern.test(given) ? given : newRequestId()
}

/** The secret that a request shows: `authorization: Bearer …`, or `x-api-key` as Anthropic's SDKs send it. */
export const secretIn = (headers: Headers): PresentedSecret | undefined => {
  const authorization = headers["authorization"]
  if (authorization !== undefined && /^bearer /i.test(authorization)) {
    return new PresentedSecret(authorization.slice(7).trim())
  }
  const apiKey = headers["x-api-key"]
  return apiKey === undefined ? undefined : new PresentedSecret(apiKey)
}

/** Finds out who is calling. */
export type Who = (headers: Headers, identity: Identity["Service"]) => Effect.Effect<Caller, GatewayError>

const bySecret: Who = (headers, identity) => identity.authenticate(secretIn(headers))

const plainHeaders = (requestId: string, exchange: Exchange | undefined): Record<string, string> =>
  exchange === undefined ? { "x-request-id": requestId } : exchangeHeaders(exchange)

const errorResponse = (
  door: Door,
  error: GatewayError,
  requestId: string,
  exchange?: Exchange
): HttpServerResponse.HttpServerResponse => {
  const { body, status } = door.encodeError(error, requestId)
  const headers = (door.headers ?? plainHeaders)(requestId, exchange)
  // The gateway has spent its own attempts: a client that tries again by itself would multiply them.
  if (exchange !== undefined && exchange.attempts.length > 0) headers["x-should-retry"] = "false"
  if (error.retryAfterMs !== undefined) {
    headers["retry-after"] = String(Math.max(1, Math.ceil(error.retryAfterMs / 1000)))
  }
  // RFC 9110 section 15.5.6 asks for the methods that would do.
  if (error.reason._tag === "MethodNotAllowed" && error.reason.allow !== undefined) {
    headers["allow"] = error.reason.allow
  }
  // What is left of a body that is too large is not worth reading, and without reading it the connection is of no more use.
  if (error.reason._tag === "PayloadTooLarge") headers["connection"] = "close"
  return HttpServerResponse.text(JSON.stringify(body), {
    status,
    headers,
    contentType: door.errorType ?? "application/json"
  })
}

/** Whether a request asks for work. What administrators and those who look after the gateway ask for is always answered. */
const isWork = ({ headers, method, url }: HttpServerRequest.HttpServerRequest): boolean =>
  headers["upgrade"]?.toLowerCase() === "websocket" || (method === "POST" && !url.startsWith("/llm-gateway/v1/admin/"))

/** What was refused before there was an exchange is in no other figure. */
const countRefusal = (error: GatewayError): Effect.Effect<void> =>
  Effect.map(Effect.serviceOption(RequestMetrics), (metrics) => {
    if (Option.isSome(metrics)) metrics.value.refused(error.code)
  })

/**
 * Runs a handler for an authenticated caller, as `who` tells them apart. Failures and defects become the dialect's error; an interruption (the
 * caller has gone) stays one, so that everything below is released.
 *
 * Here as everywhere on the way of a request, generator functions are made once and take what they need as arguments. One
 * that is made for each request costs V8 a hidden class each time, which keeps all that the function refers to alive
 * until a full garbage collection: measured, that was a third of the CPU of a request.
 */
export const visit = <R>(
  door: Door,
  handle: (visit: Visit) => Effect.Effect<HttpServerResponse.HttpServerResponse, GatewayError, R>,
  who: Who = bySecret
): Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  never,
  R | HttpServerRequest.HttpServerRequest | Identity
> => {
  const admitted = Effect.fnUntraced(function*(visit: Visit) {
    const identity = yield* Identity
    const caller: Caller = yield* who(visit.request.headers, identity)
    const options = yield* Effect.fromResult(
      Result.mapError(requestOptions(visit.request.headers, visit.requestId), fail)
    )
    return yield* handle(visit).pipe(
      Effect.provideService(CurrentCaller, caller),
      Effect.provideService(CurrentRequest, { ...options, headers: visit.request.headers })
    )
  })
  return Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    const requestId = requestIdIn(request.headers)
    let exchange: Exchange | undefined
    const began = (started: Exchange): Exchange => exchange = started
    const load = yield* Load
    if (load.overload !== undefined && isWork(request)) {
      load.refused++
      return errorResponse(door, load.overload, requestId)
    }
    const exit = yield* Effect.exit(admitted({ request, requestId, began }))
    if (Exit.isSuccess(exit)) return exit.value
    const failure = exit.cause.reasons.find(Cause.isFailReason)
    if (failure !== undefined) {
      if (exchange === undefined) yield* countRefusal(failure.error)
      return errorResponse(door, failure.error, requestId, exchange)
    }
    const defect = exit.cause.reasons.find(Cause.isDieReason)
    if (defect === undefined) return yield* Effect.interrupt
    yield* log.error("a request failed with a defect", { requestId, ...describeDefect(defect.defect) })
    return errorResponse(door, internal(requestId), requestId, exchange)
  })
}

/** A whole answer in JSON. */
export const json = (body: unknown, headers: Readonly<Record<string, string>>): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(JSON.stringify(body), { contentType: "application/json", headers })

/**
 * A whole answer whose JSON text comes in pieces, as one body. Other requests have their turn between two pieces of a large one.
 */
export const jsonPieces = (
  pieces: Iterable<string>,
  headers: Readonly<Record<string, string>>
): HttpServerResponse.HttpServerResponse => {
  const iterator = pieces[Symbol.iterator]()
  const first = iterator.next()
  const second = first.done === true ? first : iterator.next()
  if (first.done === true || second.done === true) {
    return HttpServerResponse.text(first.done === true ? "" : first.value, { contentType: "application/json", headers })
  }
  const rest = Stream.unfold(iterator, (left) =>
    Effect.map(Effect.yieldNow, () => {
      const next = left.next()
      return next.done === true ? undefined : [next.value, left] as const
    }))
  const body = Stream.concat(Stream.make(first.value, second.value), rest).pipe(Stream.encodeText)
  return HttpServerResponse.stream(body, { contentType: "application/json", headers })
}

/** Paths, and the methods that each one takes as an `allow` header lists them. A segment such as `:id` stands for any one. */
export type ServedPaths = Readonly<Record<string, string>>

const fits = (pattern: ReadonlyArray<string>, segments: ReadonlyArray<string>): boolean =>
  pattern.length === segments.length &&
  pattern.every((segment, at) => segment.startsWith(":") ? segments[at] !== "" : segment === segments[at])

const methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] as const

/**
 * The routes for what no other route at `path` takes: the wrong method of a path that is served, or nothing at all. It is
 * one route for each method, since one for all of them would take HEAD, too, which the router otherwise answers as GET.
 */
export const otherwise = (door: Door, path: `/${string}`, served: ServedPaths) => {
  const patterns = Object.entries(served).map(([pattern, allow]) => ({ segments: pattern.split("/"), allow }))
  const refuse = visit(door, ({ request }) => {
    const asked = request.url.split("?", 1)[0] ?? ""
    const segments = asked.split("/")
    const allow = patterns.find((pattern) => fits(pattern.segments, segments))?.allow
    return Effect.fail(fail(
      // A path that is served with this method, and yet came here, holds a segment that the router does not take.
      allow === undefined || allow.split(", ").includes(request.method)
        ? new NotFound({ message: `there is nothing at ${request.method} ${asked.slice(0, 200)}` })
        : new MethodNotAllowed({ message: `${asked} takes ${allow}, not ${request.method}`, allow })
    ))
  })
  const taken = served[path]?.split(", ") ?? []
  const others = methods.filter((method) => !taken.includes(method))
  return Layer.mergeAll(Layer.empty, ...others.map((method) => HttpRouter.add(method, path, refuse)))
}

/** The answer to what no route can take: an address with broken percent-encoding, or a method that no route is for. */
export const unroutable = (
  door: Door,
  request: HttpServerRequest.HttpServerRequest
): HttpServerResponse.HttpServerResponse =>
  errorResponse(door, fail(new NotFound({ message: "there is nothing at this address" })), requestIdIn(request.headers))

/** What a caller is told of a defect. */
export const internal = (requestId: string): GatewayError =>
  fail(new InternalError({ message: `the gateway failed; ask its operator about request ${requestId}` }))

/**
 * Levels that a body may nest. Far beyond what a request needs (a deep tool schema takes some thirty), and far below what
 * overflows the stack of whatever walks or writes the value later.
 */
const maxNesting = 256

const nests = (value: unknown, levels: number): boolean => {
  if (typeof value !== "object" || value === null) return false
  if (levels === 0) return true
  if (Array.isArray(value)) {
    for (const element of value) if (nests(element, levels - 1)) return true
    return false
  }
  for (const member of Object.values(value)) if (nests(member, levels - 1)) return true
  return false
}

const maxFieldName = 100

/** Refuses a body that nests too deep, naming its top-level field. */
const notTooDeep = (body: unknown): Effect.Effect<unknown, GatewayError> => {
  const problem = `nests deeper than ${maxNesting} levels`
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    return nests(body, maxNesting) ? Effect.fail(fail(invalid("", `the body ${problem}`))) : Effect.succeed(body)
  }
  for (const [field, value] of Object.entries(body)) {
    if (nests(value, maxNesting - 1)) return Effect.fail(fail(invalid(field.slice(0, maxFieldName), problem)))
  }
  return Effect.succeed(body)
}

/**
 * Reads the body as JSON. Fails with `payload_too_large`, or with `validation_error` for what is not UTF-8, not JSON, or
 * nests deeper than 256 levels.
 */
export const readJson = (
  request: HttpServerRequest.HttpServerRequest,
  maxBytes: number
): Effect.Effect<unknown, GatewayError> =>
  Effect.flatMap(readBody(request, maxBytes), (bytes) => {
    if (bytes.length === 0) return Effect.fail(fail(invalid("", "the body is empty; expected a JSON object")))
    if (!isUtf8(bytes)) return Effect.fail(fail(invalid("", "the body is not valid UTF-8")))
    return parse(bytes.toString("utf8"))
  })

const parse = (text: string): Effect.Effect<unknown, GatewayError> => {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    // The parser's own message quotes the text.
    return Effect.fail(fail(invalid("", "the body is not valid JSON")))
  }
  // What is shorter than this has not the room to nest too deep.
  return text.length > maxNesting ? notTooDeep(body) : Effect.succeed(body)
}
