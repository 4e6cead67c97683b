/**
 * Personal data: finds e-mail addresses, phone numbers, credit card numbers, IBANs, IP addresses and what patterns of one's
 * own describe, and redacts it, puts pseudonyms in its place that the answer gets its values back for, or blocks.
 */
import { Effect, type Layer, Result, type Stream } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse, Message } from "../../../sdk/Chat.ts"
import type { GatewayError } from "../../../sdk/GatewayError.ts"
import {
  allow,
  block,
  blocked,
  type Interceptor,
  type InterceptorContext,
  type InterceptorRegistry,
  modify,
  type Verdict
} from "../../../sdk/Interceptor.ts"
import {
  assemble,
  type InterceptorOptions,
  InvalidInterceptor,
  type LayerError,
  layerOf,
  looksAt
} from "../InterceptorOptions.ts"
import { rewriteStream, type StreamRewriting } from "./AnswerStream.ts"
import { creditCard, email, iban, ip, phone } from "./BuiltIn.ts"
import { customPattern } from "./CustomPattern.ts"
import type { Detector } from "./Detector.ts"
import { DetectorTable } from "./Finder.ts"
import { mapMessage, mapResponse, type Texts, withMessages } from "./Parts.ts"
import { Pseudonyms } from "./Pseudonyms.ts"
import { jsonRewriter, type Replace, rewriteJson, rewriteText, type Rewriting, textRewriter } from "./Rewriter.ts"

/** The kinds of personal data that have a detector of their own. */
export type PiiKind = "email" | "phone" | "credit_card" | "iban" | "ip"

/** What happens to a finding. */
export type PiiAction = "redact" | "pseudonymise" | "block"

/** What the interceptor looks for, and what it does about it. */
export interface PiiOptions extends InterceptorOptions {
  /** The built-in kinds to look for; default all. */
  readonly detect?: ReadonlyArray<PiiKind>
  /** Patterns of one's own by the name of what they find, in RE2's syntax; a match has at most 256 characters. */
  readonly patterns?: Readonly<Record<string, string>>
  /**
   * `redact` (the default) puts `[EMAIL]` in the place of an address; `pseudonymise` puts `<EMAIL_1>` there and the address
   * back into the answer; `block` refuses.
   */
  readonly action?: PiiAction
}

/** In the order in which they are asked at each place: what is checked best comes first. */
const builtIn: ReadonlyArray<readonly [PiiKind, Detector]> = [
  ["iban", iban],
  ["credit_card", creditCard],
  ["email", email],
  ["ip", ip],
  ["phone", phone]
]

/** How much text is looked through without a pause for others, in UTF-16 units. */
const stretch = 32 * 1024

/**
 * What becomes of texts by a rewriting, when the large ones among those that `visit` names have been looked through already,
 * with pauses for other requests.
 */
const textsFor = Effect.fnUntraced(function*(
  rewriting: Rewriting,
  visit: (texts: Texts) => void
): Effect.fn.Return<Texts> {
  const large: Array<readonly [string, "text" | "json"]> = []
  const note = (kind: "text" | "json") => (value: string): string => {
    if (value.length > stretch) large.push([value, kind])
    return value
  }
  visit({ text: note("text"), json: note("json") })
  const done = { text: new Map<string, string>(), json: new Map<string, string>() }
  for (const [value, kind] of large) {
    if (done[kind].has(value)) continue
    const rewriter = kind === "text" ? textRewriter(rewriting) : jsonRewriter(rewriting)
    let rewritten = ""
    for (let at = 0; at < value.length; at += stretch) {
      rewritten += rewriter.push(value.slice(at, at + stretch))
      yield* Effect.yieldNow
    }
    done[kind].set(value, rewritten + rewriter.end())
  }
  return {
    text: (value) => done.text.get(value) ?? rewriteText(rewriting, value),
    json: (value) => done.json.get(value) ?? rewriteJson(rewriting, value)
  }
})

const sizeOf = (message: Message): number => {
  let size = 0
  const count = (value: string): string => {
    size += value.length
    return value
  }
  mapMessage(message, { text: count, json: count })
  return size
}

/** The request with its texts rewritten; the same request where nothing changed. */
const rewriteRequest = Effect.fnUntraced(function*(
  request: ChatRequest,
  rewriting: Rewriting
): Effect.fn.Return<ChatRequest> {
  const messages: Array<Message> = []
  let changed = false
  let since = 0
  for (const message of request.messages) {
    const size = sizeOf(message)
    if ((since += size) > stretch) {
      yield* Effect.yieldNow
      since = 0
    }
    const texts = yield* textsFor(rewriting, (texts) => mapMessage(message, texts))
    const mapped = mapMessage(message, texts)
    changed ||= mapped !== message
    messages.push(mapped)
  }
  return changed ? withMessages(request, messages) : request
})

/** The answer with its texts rewritten; one that has to fit a schema is JSON. */
const rewriteResponse = Effect.fnUntraced(function*(
  response: ChatResponse,
  request: ChatRequest,
  rewriting: Rewriting
): Effect.fn.Return<ChatResponse> {
  const as = (texts: Texts): Texts => isJson(request) ? { text: texts.json, json: texts.json } : texts
  const texts = yield* textsFor(rewriting, (texts) => mapResponse(response, as(texts)))
  return mapResponse(response, as(texts))
})

const isJson = (request: ChatRequest): boolean => request.responseSchema !== undefined

const nothingFound = (): undefined => undefined

// ---------------------------------------------------------------------------------------------------------------------
// The three actions
// ---------------------------------------------------------------------------------------------------------------------

type Hooks = Pick<Interceptor, "pre" | "post" | "stream">

const verdictOn = <A>(before: A, after: A): Verdict<A> => after === before ? allow : modify(after)

const redacting = (table: DetectorTable): Required<Hooks> => {
  const rewriting: Rewriting = { table, replace: (_, { kind }) => `[${kind}]` }
  return {
    pre: (request) => Effect.map(rewriteRequest(request, rewriting), (after) => verdictOn(request, after)),
    post: (response, request) =>
      Effect.map(rewriteResponse(response, request, rewriting), (after) => verdictOn(response, after)),
    stream: (chunks, request) =>
      rewriteStream(chunks, {
        ...rewriting,
        isJson: isJson(request),
        withoutLogprobs: true,
        stopped: nothingFound
      })
  }
}

const blocking = (table: DetectorTable, name: string): Required<Hooks> => {
  const watching = () => {
    let first: Detector | undefined
    const replace: Replace = (found, detector) => {
      first ??= detector
      return found
    }
    return { rewriting: { table, replace }, reason: () => first === undefined ? undefined : `it holds ${first.noun}` }
  }
  const verdict = (reason: string | undefined): Verdict<never> => reason === undefined ? allow : block(reason)
  return {
    pre: (request) =>
      Effect.suspend(() => {
        const { reason, rewriting } = watching()
        return Effect.map(rewriteRequest(request, rewriting), () => verdict(reason()))
      }),
    post: (response, request) =>
      Effect.suspend(() => {
        const { reason, rewriting } = watching()
        return Effect.map(rewriteResponse(response, request, rewriting), () => verdict(reason()))
      }),
    stream: (chunks, request) => {
      const { reason, rewriting } = watching()
      const stopped = (): GatewayError | undefined => {
        const why = reason()
        return why === undefined ? undefined : blocked(name, why)
      }
      return rewriteStream(chunks, { ...rewriting, isJson: isJson(request), withoutLogprobs: false, stopped })
    }
  }
}

const pseudonymising = (table: DetectorTable): Required<Hooks> => {
  const byRequest = new WeakMap<InterceptorContext, Pseudonyms>()
  const restored = (
    chunks: Stream.Stream<ChatChunk, GatewayError>,
    request: ChatRequest,
    pseudonyms: Pseudonyms
  ) => {
    const rewriting: StreamRewriting = {
      ...pseudonyms.restoring(),
      isJson: isJson(request),
      withoutLogprobs: false,
      stopped: nothingFound
    }
    return rewriteStream(chunks, rewriting)
  }
  return {
    pre: (request, context) =>
      Effect.suspend(() => {
        const pseudonyms = new Pseudonyms()
        const reserve = (value: string): string => {
          pseudonyms.reserve(value)
          return value
        }
        for (const message of request.messages) mapMessage(message, { text: reserve, json: reserve })
        const replace: Replace = (found, { kind }) => pseudonyms.placeholder(kind, found)
        return Effect.map(rewriteRequest(request, { table, replace }), (after) => {
          if (!pseudonyms.isEmpty) byRequest.set(context, pseudonyms)
          return verdictOn(request, after)
        })
      }),
    post: (response, request, context) => {
      const pseudonyms = byRequest.get(context)
      return pseudonyms === undefined
        ? Effect.succeed(allow)
        : Effect.map(
          rewriteResponse(response, request, pseudonyms.restoring()),
          (after) => verdictOn(response, after)
        )
    },
    stream: (chunks, request, context) => {
      const pseudonyms = byRequest.get(context)
      return pseudonyms === undefined ? chunks : restored(chunks, request, pseudonyms)
    }
  }
}

/** Makes the interceptor, without registering it; fails where a pattern cannot be used. */
export const make = (options: PiiOptions): Effect.Effect<Interceptor, InvalidInterceptor> =>
  Effect.suspend(() => {
    const name = options.name ?? "pii"
    const invalid = (option: string, problem: string) => Effect.fail(new InvalidInterceptor({ name, option, problem }))
    const detectors: Array<Detector> = []
    for (const [pattern, source] of Object.entries(options.patterns ?? {})) {
      const detector = customPattern(pattern, source)
      if (Result.isFailure(detector)) return invalid(`patterns.${pattern}`, detector.failure)
      detectors.push(detector.success)
    }
    for (const [kind, detector] of builtIn) {
      if (options.detect === undefined || options.detect.includes(kind)) detectors.push(detector)
    }
    if (detectors.length === 0) return invalid("detect", "there is nothing to look for")
    const table = new DetectorTable(detectors)
    if (options.action === "pseudonymise") {
      // The way back belongs to the way there, whatever `on` says.
      if (!looksAt(options, "request")) return invalid("on", "pseudonyms are made of requests, so it needs `request`")
      return Effect.succeed(assemble("pii", options, pseudonymising(table)))
    }
    const hooks = options.action === "block" ? blocking(table, name) : redacting(table)
    return Effect.succeed(assemble("pii", options, {
      ...(looksAt(options, "request") ? { pre: hooks.pre } : {}),
      ...(looksAt(options, "response") ? { post: hooks.post, stream: hooks.stream } : {})
    }))
  })

/** Registers the interceptor. */
export const layer = (options: PiiOptions = {}): Layer.Layer<never, LayerError, InterceptorRegistry> =>
  layerOf(make(options))
