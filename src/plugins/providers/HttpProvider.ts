/** What the providers that are reached over HTTP have in common beside their chat: options, credentials, discovery. */
import { Effect, Redacted, Result } from "effect"
import type { Credential, UpstreamOptions, UpstreamRequest, UpstreamResponse } from "../../sdk/Outbound.ts"
import { type Failure, type Provider, ProviderError } from "../../sdk/Provider.ts"
import { retryAfterMs } from "../../wire/RetryAfter.ts"
import { answerError, type HttpChatEndpoint, parseJson } from "./HttpChat.ts"

/** Options that every HTTP provider has. */
export interface HttpProviderOptions {
  /** The provider's name in model ids; each plugin has a default. */
  readonly slug?: string
  /** The upstream's key; none for servers that ask for none. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** More keys. All are used in turn; one that the upstream refuses or limits is passed over. */
  readonly apiKeys?: ReadonlyArray<Redacted.Redacted> | undefined
  /** Sent with every request. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Whether models that nobody knows may be called; by default until discovery has answered. */
  readonly unlistedModels?: "allow" | "deny" | undefined
  /** How often to ask for the models, ms. */
  readonly discoveryInterval?: number | undefined
}

/** The keys in `authorization: Bearer …`, or in a header of their own where it is named, and how limits are told. */
export const access = (
  { apiKey, apiKeys = [] }: HttpProviderOptions,
  header?: string
): Pick<UpstreamOptions, "credential" | "retryAfter"> => {
  const secret = apiKey === undefined ? apiKeys : [apiKey, ...apiKeys]
  if (secret.length === 0) return { retryAfter: retryAfterMs }
  const credential: Credential = header === undefined
    ? { type: "bearer", secret }
    : { type: "header", name: header, secret }
  return { credential, retryAfter: retryAfterMs }
}

/** The parts of a provider's record that its options decide. */
export const registration = (
  options: HttpProviderOptions
): Pick<Provider, "unlistedModels" | "discoveryInterval"> => ({
  ...(options.unlistedModels === undefined ? {} : { unlistedModels: options.unlistedModels }),
  ...(options.discoveryInterval === undefined ? {} : { discoveryInterval: options.discoveryInterval })
})

/** What is shorter is no secret but a version or a flag, and hiding it would only garble messages. */
const minSecretLength = 12
/** The beginning of a secret that is as long as this gives some of it away. */
const minCutLength = 8

/** A secret as it stands in plain text, in JSON, in JSON that a JSON string holds, and in an address. */
const shapesOf = (secret: string): ReadonlyArray<string> => {
  const quoted = JSON.stringify(secret).slice(1, -1)
  return [secret, quoted, JSON.stringify(quoted).slice(1, -1), encodeURIComponent(secret)]
}

const hidden = "[hidden]"

/** Hides the beginning of a secret at the end of a text: upstreams' words are cut where they are long. */
const withoutCut = (text: string, shape: string): string => {
  const mark = text.endsWith("…") ? 1 : 0
  for (let length = Math.min(shape.length, text.length) - 1; length >= minCutLength; length--) {
    if (text.endsWith(shape.slice(0, length), text.length - mark)) return text.slice(0, -length - mark) + hidden
  }
  return text
}

/**
 * Makes errors of what an upstream tells. Some servers quote the key that they refuse, or all headers of the request; the
 * caller, who reads these words, may see neither the key nor the configured headers.
 */
export const errorOf = (
  provider: string,
  { apiKey, apiKeys = [], headers = {} }: HttpProviderOptions
): (failure: Failure) => ProviderError => {
  const keys = apiKey === undefined ? apiKeys : [apiKey, ...apiKeys]
  const secrets = [...keys.map(Redacted.value), ...Object.values(headers)]
  const shapes = Array.from(new Set(secrets.filter(({ length }) => length >= minSecretLength).flatMap(shapesOf)))
  const concealed = (told: string): string => {
    const whole = shapes.reduce((text, shape) => text.replaceAll(shape, hidden), told)
    return shapes.reduce(withoutCut, whole)
  }
  return (failure) =>
    new ProviderError({
      provider,
      ...failure,
      message: concealed(failure.message),
      ...(failure.code === undefined ? {} : { code: concealed(failure.code) }),
      ...(failure.type === undefined ? {} : { type: concealed(failure.type) }),
      ...(failure.field === undefined ? {} : { field: concealed(failure.field) })
    })
}

/** Reads an answer that is JSON with `decode`; errors are read by the chat codec. */
export const decodeJson = Effect.fnUntraced(function*<A>(
  { codec, errorOf }: Pick<HttpChatEndpoint, "codec" | "errorOf">,
  answer: UpstreamResponse,
  decode: (json: unknown) => Result.Result<A, Failure>
): Effect.fn.Return<A, ProviderError> {
  if (answer.status < 200 || answer.status >= 300) {
    return yield* answerError({ codec, errorOf }, answer, answer.body)
  }
  const decoded = Result.flatMap(
    Result.mapError(parseJson(answer.body), (): Failure => ({
      kind: "protocol",
      message: "the provider answered with malformed JSON"
    })),
    decode
  )
  if (Result.isFailure(decoded)) return yield* errorOf(decoded.failure)
  return decoded.success
})

/** Sends a request whose answer is JSON, and reads it with `decode`; errors are read by the chat codec. */
export const requestJson = <A>(
  endpoint: HttpChatEndpoint,
  request: UpstreamRequest,
  decode: (json: unknown) => Result.Result<A, Failure>
): Effect.Effect<A, ProviderError> =>
  Effect.flatMap(endpoint.upstream.request(request), (answer) => decodeJson(endpoint, answer, decode))
