/**
 * How an interceptor asks something over HTTP: one POST of JSON, one answer of JSON, both bounded, no redirects followed. Its
 * failures tell what went wrong, and neither what was sent nor what came back.
 */
import { Effect, Result, Schema, Stream } from "effect"
import { FetchHttpClient, HttpClient, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { InterceptorError } from "../../sdk/Interceptor.ts"

/** The largest answer, bytes. */
const maxAnswer = 1_000_000

const failed = (message: string) => new InterceptorError({ message })

const readAnswer = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<string, InterceptorError> =>
  Effect.suspend(() => {
    const decoder = new TextDecoder()
    let bytes = 0
    return response.stream.pipe(
      // An answer without a body is an empty one.
      Stream.catchIf(({ reason }) => reason._tag === "EmptyBodyError", () => Stream.empty),
      Stream.mapError(() => failed("its answer broke off")),
      Stream.runFoldEffect(() => "", (text, piece) => {
        bytes += piece.length
        return bytes > maxAnswer
          ? Effect.fail(failed(`its answer is larger than ${maxAnswer} bytes`))
          : Effect.succeed(text + decoder.decode(piece, { stream: true }))
      }),
      Effect.map((text) => text + decoder.decode())
    )
  })

const parseJson = (text: string) =>
  Result.try({ try: (): unknown => JSON.parse(text), catch: () => failed("its answer is not JSON") })

/** Fetch must not follow redirects either: what is sent is for the configured address alone. */
const noRedirects: RequestInit = { redirect: "manual" }

/** Posts a JSON text and reads the answer, which must have a status of 2xx and fit the schema. */
export const postJson = <A>(
  client: HttpClient.HttpClient,
  answer: Schema.Codec<A, unknown>
): (url: string, body: string, headers: Readonly<Record<string, string>>) => Effect.Effect<A, InterceptorError> => {
  const decode = Schema.decodeUnknownResult(answer)
  const call = Effect.fnUntraced(function*(
    url: string,
    body: string,
    headers: Readonly<Record<string, string>>
  ): Effect.fn.Return<A, InterceptorError> {
    const request = HttpClientRequest.post(url).pipe(
      HttpClientRequest.bodyText(body, "application/json"),
      HttpClientRequest.setHeaders(headers),
      HttpClientRequest.acceptJson
    )
    const response = yield* Effect.mapError(
      client.execute(request),
      (error) => failed(`it cannot be reached (${error.reason._tag})`)
    )
    // The body is read whatever the status: an unread one would keep its connection.
    const text = yield* readAnswer(response)
    if (response.status < 200 || response.status > 299) {
      return yield* failed(`it answered with status ${response.status}`)
    }
    const json = yield* Effect.fromResult(parseJson(text))
    return yield* Effect.fromResult(
      Result.mapError(decode(json), () => failed("its answer does not have the form that it must have"))
    )
  })
  return (url, body, headers) =>
    call(url, body, headers).pipe(
      Effect.provideService(FetchHttpClient.RequestInit, noRedirects),
      Effect.provideService(HttpClient.TracerPropagationEnabled, false)
    )
}
