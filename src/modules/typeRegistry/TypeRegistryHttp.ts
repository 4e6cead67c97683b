/**
 * A TypeRegistry behind HTTP. The protocol is one call:
 *
 * ```
 * POST {url}/resolve
 * {"ids": ["gts.x.core.faas.func.v1~acme.crm._.find.v1~", …]}
 *
 * 200
 * {"schemas": {"gts.x.core.faas.func.v1~acme.crm._.find.v1~": {…JSON Schema…}, …}, "missing": ["gts.…", …]}
 * ```
 *
 * Identifiers travel without `gts://`. `schemas` is keyed by the identifiers as they were asked for; choosing the highest
 * minor version for one without is the registry's part. What is in neither list counts as missing. References inside
 * the schemas are resolved here, level by level, each level one further call.
 */
import { Clock, Duration, Effect, Layer, Redacted, Result, Stream } from "effect"
import { HttpClient, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { fail, type GatewayError, StoreUnavailable } from "../../sdk/GatewayError.ts"
import type { GtsId } from "../../sdk/Gts.ts"
import { isJsonObject } from "../../sdk/SchemaPosition.ts"
import { TypeRegistry } from "../../sdk/TypeRegistry.ts"
import { fromLookup, type Lookup, parseOwnId, type StoredSchema } from "./References.ts"

/** Where the remote registry is, and how much is asked of it. */
export interface HttpOptions {
  /** The registry's base address; `/resolve` is added to it. */
  readonly url: string
  /** How long an answer is good for; default 5 minutes. */
  readonly ttl?: Duration.Input
  /** How long a "missing" is good for; default 5 seconds, and never longer than `ttl`. */
  readonly missingTtl?: Duration.Input
  /** How long one call may take; default 5 seconds. */
  readonly timeout?: Duration.Input
  /** How many answers are kept; default 1,024. */
  readonly capacity?: number
  /** Sent with every call; wrap what is secret. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>>
}

/** The largest answer, in UTF-16 units. */
const maxAnswer = 16 * 1024 * 1024

const unavailable = (what: string): GatewayError =>
  fail(new StoreUnavailable({ message: `the type registry ${what}`, store: "type registry" }))

const parseJson = (text: string) => Result.try((): unknown => JSON.parse(text))

/**
 * Holds what a remote registry holds. Answers are cached, the least recently used go first. A registry that does not
 * answer, or not in the protocol's form, is `store_unavailable`.
 */
export const layerHttp = (options: HttpOptions): Layer.Layer<TypeRegistry, never, HttpClient.HttpClient> =>
  Layer.effect(
    TypeRegistry,
    Effect.map(HttpClient.HttpClient, (client) => fromLookup(makeLookup(client, options)))
  )

/** The body's text; gives up as soon as it is too large. */
const readText = (response: HttpClientResponse.HttpClientResponse) =>
  response.stream.pipe(
    Stream.decodeText,
    Stream.runFoldEffect(() => "", (text, piece) =>
      text.length + piece.length > maxAnswer
        ? Effect.fail(unavailable("sent an answer that is too large"))
        : Effect.succeed(text + piece))
  )

const makeLookup = (client: HttpClient.HttpClient, options: HttpOptions): Lookup => {
  const ttl = Duration.toMillis(options.ttl ?? "5 minutes")
  const missingTtl = Math.min(ttl, Duration.toMillis(options.missingTtl ?? "5 seconds"))
  const timeout = Duration.toMillis(options.timeout ?? "5 seconds")
  const capacity = options.capacity ?? 1024
  const request = HttpClientRequest.post(`${options.url.replace(/\/+$/, "")}/resolve`).pipe(
    HttpClientRequest.setHeaders(Object.fromEntries(
      Object.entries(options.headers ?? {}).map((
        [key, value]
      ) => [key, Redacted.isRedacted(value) ? Redacted.value(value) : value])
    )),
    HttpClientRequest.acceptJson
  )

  // In order of use: a Map keeps the order of insertion, and every hit inserts anew.
  const cache = new Map<string, { readonly schema: StoredSchema | undefined; readonly expiresAt: number }>()
  const remember = (id: string, schema: StoredSchema | undefined, now: number): void => {
    cache.delete(id)
    const oldest = cache.size >= capacity ? cache.keys().next().value : undefined
    if (oldest !== undefined) cache.delete(oldest)
    cache.set(id, { schema, expiresAt: now + (schema === undefined ? missingTtl : ttl) })
  }

  const call = (ids: ReadonlyArray<string>) =>
    HttpClientRequest.bodyJsonUnsafe(request, { ids }).pipe(
      client.execute,
      // The body is read whatever the status: an unread one would keep its connection.
      Effect.flatMap((response) => Effect.map(readText(response), (text) => ({ status: response.status, text }))),
      Effect.catchTag(
        "HttpClientError",
        (error) => Effect.fail(unavailable(`cannot be reached (${error.reason._tag})`))
      ),
      Effect.timeoutOrElse({
        duration: timeout,
        orElse: () => Effect.fail(unavailable(`did not answer within ${timeout} ms`))
      }),
      Effect.flatMap(({ status, text }) => {
        if (status !== 200) return Effect.fail(unavailable(`answered with status ${status}`))
        const body = parseJson(text)
        const schemas = Result.isSuccess(body) && isJsonObject(body.success) ? body.success["schemas"] : undefined
        return isJsonObject(schemas)
          ? Effect.succeed(schemas)
          : Effect.fail(unavailable(`sent an answer without "schemas"`))
      })
    )

  return Effect.fnUntraced(function*(ids: ReadonlyArray<GtsId>) {
    const now = yield* Clock.currentTimeMillis
    const found = new Map<string, StoredSchema>()
    const wanted: Array<string> = []
    for (const { id } of ids) {
      const hit = cache.get(id)
      if (hit === undefined || hit.expiresAt <= now) {
        wanted.push(id)
        continue
      }
      cache.delete(id)
      cache.set(id, hit)
      if (hit.schema !== undefined) found.set(id, hit.schema)
    }
    if (wanted.length === 0) return found
    const schemas = yield* call(wanted)
    for (const id of wanted) {
      const schema = Object.hasOwn(schemas, id) ? schemas[id] : undefined
      if (schema !== undefined && !isJsonObject(schema)) {
        return yield* unavailable(`sent something else than a schema for ${id}`)
      }
      // The schema's own identifier has the minor version that the registry chose.
      const own = parseOwnId(schema)
      const stored = schema === undefined ? undefined : { id: Result.isSuccess(own) ? own.success.id : id, schema }
      remember(id, stored, now)
      if (stored !== undefined) found.set(id, stored)
    }
    return found
  })
}
