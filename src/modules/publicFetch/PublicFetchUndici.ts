/**
 * Requests to addresses that callers give, over undici. A name is looked up when a connection is opened, what the policy
 * does not allow is left out, and the connection goes to one of the addresses that are left: so nobody can answer with
 * another address between the check and the dial. Each request has a connection of its own, which ends with it.
 */
import { NodeStream } from "@effect/platform-node"
import { Effect, Fiber, Layer, type Scope, Stream } from "effect"
import { lookup as systemLookup } from "node:dns/promises"
import { isIP, type LookupFunction } from "node:net"
import type { Readable } from "node:stream"
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib"
import { Agent, errors } from "undici"
import {
  type FetchAnswer,
  FetchError,
  type FetchFailure,
  type FetchRequest,
  PublicFetch
} from "../../sdk/PublicFetch.ts"
import * as AddressPolicy from "./AddressPolicy.ts"

/** How requests go out. */
export interface Options {
  /** Names, and ranges of addresses, that may be asked although they are not public, and over plain HTTP, too. */
  readonly allow?: ReadonlyArray<string>
  /** The largest answer, bytes; default 50 MB. */
  readonly maxBytes?: number
  /** Finds the addresses of a name; default: as the system does. */
  readonly lookup?: (name: string) => Promise<ReadonlyArray<string>>
}

const defaultMaxBytes = 50_000_000
const defaultTimeout = 30_000
const defaultRedirects = 3
const maxRedirects = 10
const connectTimeout = 10_000
/** A URL is shown, stored and sent, and no longer one is needed. */
const longestUrl = 8_192

const failed = (failure: FetchFailure, message: string): FetchError => new FetchError({ failure, message })

const notAllowed = failed("not_allowed", "the address is not one that may be asked: only public https addresses are")

/** What a look-up gives to a connection that must not be. */
class NotAllowed extends Error {}

const systemAddresses = async (name: string): Promise<ReadonlyArray<string>> =>
  (await systemLookup(name, { all: true })).map(({ address }) => address)

/** The look-up of a connection: the addresses that may be dialled, and an error where there is none. */
const checkedLookup = (
  find: (name: string) => Promise<ReadonlyArray<string>>,
  isAllowed: (name: string, address: string) => boolean
): LookupFunction =>
(name, options, done) => {
  find(name).then(
    (found) => {
      const addresses = found.filter((address) => isIP(address) !== 0 && isAllowed(name, address))
        .map((address) => ({ address, family: isIP(address) }))
      const [first] = addresses
      if (first === undefined) done(found.length === 0 ? new Error("the name has no address") : new NotAllowed(), "")
      else if (options.all === true) done(null, addresses)
      else done(null, first.address, first.family)
    },
    (error: unknown) => done(error instanceof Error ? error : new Error("the name was not found"), "")
  )
}

const parse = (text: string): URL | FetchError => {
  let url: URL
  try {
    url = new URL(text)
  } catch {
    return failed("invalid_url", "the URL cannot be read")
  }
  if (url.href.length > longestUrl) return failed("invalid_url", `the URL is longer than ${longestUrl} characters`)
  if (url.username !== "" || url.password !== "") {
    return failed("invalid_url", "the URL must not hold a name or a password")
  }
  return url.protocol === "https:" || url.protocol === "http:" ? url : notAllowed
}

/** `1.2.3.4` or `::1` in a URL's host, without brackets; `undefined` for a name. */
const literalIn = ({ hostname }: URL): string | undefined => {
  const bare = hostname.startsWith("[") ? hostname.slice(1, -1) : hostname
  return isIP(bare) === 0 ? undefined : bare
}

const isRedirect = (status: number): boolean => [301, 302, 303, 307, 308].includes(status)

/** Headers that are for one host alone. */
const personal: ReadonlySet<string> = new Set(["authorization", "cookie", "proxy-authorization"])

const unpackers = {
  gzip: createGunzip,
  "x-gzip": createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress
} as const

const isUnpackable = (encoding: string): encoding is keyof typeof unpackers => encoding in unpackers

const make = ({ allow = [], lookup = systemAddresses, maxBytes = defaultMaxBytes }: Options) =>
  Effect.gen(function*() {
    const policy = AddressPolicy.make(allow)
    const agentOf = (isAllowed: (name: string, address: string) => boolean) =>
      Effect.acquireRelease(
        Effect.sync(() =>
          new Agent({
            pipelining: 0,
            headersTimeout: 0,
            bodyTimeout: 0,
            maxHeaderSize: 16_384,
            connect: { timeout: connectTimeout, lookup: checkedLookup(lookup, isAllowed) }
          })
        ),
        (agent) => Effect.promise(() => agent.destroy())
      )
    const isListed = (name: string, address: string): boolean =>
      policy.allowsHost(name) || policy.allowsAddress(address)
    const plain = yield* agentOf(isListed)
    const secure = yield* agentOf((name, address) => isListed(name, address) || policy.isPublic(address))

    /** What can be said of a URL before names are looked up. */
    const refusalOf = (url: URL): FetchError | undefined => {
      const literal = literalIn(url)
      if (literal !== undefined) {
        return isListed(url.hostname, literal) || (url.protocol === "https:" && policy.isPublic(literal))
          ? undefined
          : notAllowed
      }
      // A name of a range's may be asked over plain HTTP, and only the look-up knows whether it is one.
      const mayBeListed = policy.allowsHost(url.hostname) || allow.some((entry) => entry.includes("/"))
      return url.protocol === "https:" || mayBeListed ? undefined : notAllowed
    }

    const checked = (text: string): Effect.Effect<URL, FetchError> =>
      Effect.suspend(() => {
        const url = parse(text)
        if (!(url instanceof URL)) return Effect.fail(url)
        const refusal = refusalOf(url)
        return refusal === undefined ? Effect.succeed(url) : Effect.fail(refusal)
      })

    const reasonOf = (error: unknown, limit: number): FetchError => {
      if (error instanceof FetchError) return error
      if (error instanceof NotAllowed) return notAllowed
      const code = error instanceof Error && "code" in error ? String(error.code) : ""
      if (
        code.startsWith("Z_") || code.startsWith("ERR__ERROR") || code.startsWith("ERR_BROTLI") ||
        code === "ERR_BUFFER_TOO_LARGE"
      ) {
        return failed("bad_answer", "the answer's compression is broken")
      }
      if (error instanceof errors.HTTPParserError || code === "UND_ERR_HEADERS_OVERFLOW") {
        return failed("bad_answer", "the server's answer is no HTTP")
      }
      if (code === "UND_ERR_RES_EXCEEDED_MAX_SIZE") return tooLarge(limit)
      return code === "UND_ERR_CONNECT_TIMEOUT"
        ? failed("too_slow", "the server could not be reached in time")
        : failed("unreachable", "the server could not be reached, or broke off")
    }

    const tooLarge = (limit: number): FetchError => failed("too_large", `the answer is larger than ${limit} bytes`)

    /** A body's bytes, counted; more of them than the limit are a failure. */
    const limited = (limit: number) => {
      let seen = 0
      return (bytes: Uint8Array): Effect.Effect<Uint8Array, FetchError> => {
        seen += bytes.length
        return seen > limit ? Effect.fail(tooLarge(limit)) : Effect.succeed(bytes)
      }
    }

    const bodyOf = (
      body: Readable,
      encoding: string,
      limit: number,
      late: Fiber.Fiber<never, FetchError>
    ): Stream.Stream<Uint8Array, FetchError> => {
      const read = (from: Readable) =>
        NodeStream.fromReadable<Uint8Array, FetchError>({
          evaluate: () => from,
          onError: (error) => reasonOf(error, limit)
        })
      const raw = Stream.mapEffect(read(body), limited(limit))
      const unpacked = isUnpackable(encoding)
        ? raw.pipe(
          NodeStream.pipeThroughDuplex({
            evaluate: () => unpackers[encoding](),
            onError: (error) => reasonOf(error, limit)
          }),
          Stream.mapEffect(limited(limit))
        )
        : raw
      return Stream.interruptWhen(unpacked, Fiber.join(late))
    }

    const ask = Effect.fnUntraced(function*(
      url: URL,
      request: FetchRequest,
      headers: Readonly<Record<string, string>>,
      limit: number
    ) {
      const agent = url.protocol === "https:" ? secure : plain
      const controller = yield* Effect.acquireRelease(
        Effect.sync(() => new AbortController()),
        (controller) => Effect.sync(() => controller.abort())
      )
      const answer = yield* Effect.tryPromise({
        try: () =>
          agent.request({
            origin: url.origin,
            path: `${url.pathname}${url.search}`,
            method: request.method ?? "GET",
            headers: { "accept-encoding": "identity", "user-agent": "llm-gateway", ...headers },
            body: request.body ?? null,
            reset: true,
            signal: controller.signal
          }),
        catch: (error) => reasonOf(error, limit)
      })
      // What nobody reads any more must not end the process when it breaks off.
      answer.body.on("error", () => {})
      return answer
    })

    const request = Effect.fnUntraced(function*(
      asked: FetchRequest
    ): Effect.fn.Return<FetchAnswer, FetchError, Scope.Scope> {
      const limit = Math.min(maxBytes, asked.maxBytes ?? maxBytes)
      const timeout = asked.timeoutMs ?? defaultTimeout
      const late = yield* Effect.forkScoped(Effect.andThen(
        Effect.sleep(timeout),
        Effect.fail(failed("too_slow", `there was no whole answer within ${timeout} ms`))
      ))
      const follows = asked.method === undefined || asked.method === "GET" || asked.method === "HEAD"
      const redirects = follows ? Math.min(maxRedirects, asked.maxRedirects ?? defaultRedirects) : 0
      let url = yield* checked(asked.url)
      let headers = asked.headers ?? {}
      for (let followed = 0;; followed++) {
        const answer = yield* Effect.raceFirst(ask(url, asked, headers, limit), Fiber.join(late))
        const told = answer.headers
        const location = told["location"]
        if (redirects === 0 || !isRedirect(answer.statusCode) || typeof location !== "string") {
          const head = Object.fromEntries(
            Object.entries(told).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : value ?? ""])
          )
          const length = Number(head["content-length"] ?? 0)
          if (asked.method !== "HEAD" && length > limit) return yield* tooLarge(limit)
          const encoding = (head["content-encoding"] ?? "identity").trim().toLowerCase()
          if (encoding !== "identity" && encoding !== "" && !isUnpackable(encoding)) {
            return yield* failed("bad_answer", "the answer is packed in a way that is not known here")
          }
          return { status: answer.statusCode, headers: head, body: bodyOf(answer.body, encoding, limit, late) }
        }
        if (followed === redirects) {
          return yield* failed("too_many_redirects", `there are more than ${redirects} redirects`)
        }
        answer.body.destroy()
        const next = URL.canParse(location, url.href)
          ? yield* checked(new URL(location, url.href).href)
          : yield* failed("bad_answer", "the server redirects to a URL that cannot be read")
        if (next.origin !== url.origin) {
          headers = Object.fromEntries(
            Object.entries(headers).filter(([name]) => !personal.has(name.toLowerCase()))
          )
        }
        url = next
      }
    })

    return PublicFetch.of({
      request,
      check: (text) => Effect.asVoid(checked(text)),
      maxBytes
    })
  })

/** Requests under the address policy. */
export const layer = (options: Options = {}): Layer.Layer<PublicFetch> => Layer.effect(PublicFetch, make(options))
