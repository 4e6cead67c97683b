/** Headers of a request as tags of its usage record, and, where asked for, as metadata that the provider gets. */
import { Effect, type Layer } from "effect"
import type { ChatRequest } from "../../../sdk/Chat.ts"
import { allow, type Interceptor, type InterceptorRegistry, modify } from "../../../sdk/Interceptor.ts"
import {
  assemble,
  type InterceptorOptions,
  InvalidInterceptor,
  type LayerError,
  layerOf
} from "../InterceptorOptions.ts"
import { oneLine } from "../Sayable.ts"

/** Which headers are taken over, and how far they go. */
export interface HeaderMetadataOptions extends InterceptorOptions {
  /** The tag's key by the header's name: `{ "x-team": "team" }` makes `team=search` of `x-team: search`. */
  readonly headers: Readonly<Record<string, string>>
  /** Whether the provider gets them, too, in the request's `metadata`; what the caller put there itself stays. */
  readonly forward?: boolean
}

/** Headers that may be named: what can be tags, and what OpenAI takes as metadata. */
const maxHeaders = 16
/** The longest value, in UTF-16 units. */
const maxValue = 128

const headerPattern = /^[!#$%&'*+.^_`|~0-9a-z-]{1,256}$/
const keyPattern = /^[A-Za-z0-9_.-]{1,64}$/

/** Headers in which callers show who they are; they are no tags. */
const credentials = /^(?:authorization|proxy-authorization|cookie|x-api-key)$/

const lowered = (headers: Readonly<Record<string, string>>): ReadonlyArray<readonly [string, string]> =>
  Object.entries(headers).map(([header, key]) => [header.toLowerCase(), key])

/** What is wrong with a mapping of headers, if anything. */
export const headersProblem = (mapping: Readonly<Record<string, string>>): string | undefined => {
  const headers = lowered(mapping)
  if (headers.length > maxHeaders) return `more than ${maxHeaders} headers`
  if (headers.some(([header]) => !headerPattern.test(header))) return "one of them is no header name"
  if (headers.some(([header]) => credentials.test(header))) return "a header with credentials must not become a tag"
  if (headers.some(([, key]) => !keyPattern.test(key))) return "a tag's key has 1 to 64 of A-Z, a-z, 0-9, ., _ and -"
  return undefined
}

/** Makes the interceptor, without registering it. It sees requests alone, whatever `on` says. */
export const make = (options: HeaderMetadataOptions): Effect.Effect<Interceptor, InvalidInterceptor> => {
  const headers = lowered(options.headers)
  const problem = headersProblem(options.headers)
  if (problem !== undefined) {
    return Effect.fail(new InvalidInterceptor({ name: options.name ?? "header-metadata", option: "headers", problem }))
  }
  const pre: Interceptor["pre"] = (request, context) =>
    Effect.sync(() => {
      const found: Record<string, string> = {}
      for (const [header, key] of headers) {
        const given = context.headers[header]
        const value = given === undefined ? "" : oneLine(given, maxValue)
        if (value === "") continue
        found[key] = value
        context.tag(`${key}=${value}`)
      }
      if (options.forward !== true || Object.keys(found).length === 0) return allow
      return modify<ChatRequest>({ ...request, metadata: { ...found, ...request.metadata } })
    })
  return Effect.succeed(assemble("header-metadata", options, { pre }))
}

/** Registers the interceptor. */
export const layer = (options: HeaderMetadataOptions): Layer.Layer<never, LayerError, InterceptorRegistry> =>
  layerOf(make(options))
