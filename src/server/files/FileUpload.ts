/**
 * Takes in a file that comes as `multipart/form-data` (RFC 7578): its content goes to the storage as it arrives. Fields may stand
 * before or behind the file, as SDKs have them in any order.
 */
import { ByteSize, Deferred, Effect, Fiber, Result, type Scope, Stream } from "effect"
import { type HttpServerRequest, Multipart } from "effect/http"
import { CurrentCaller } from "../../sdk/Caller.ts"
import { type FileInfo, fileStorage } from "../../sdk/FileStorage.ts"
import { fail, type GatewayError, invalid, PayloadTooLarge } from "../../sdk/GatewayError.ts"

/** Parts of a form at most. */
const maxParts = 16
const maxField = 4_096
/** Of a form beside its file, bytes. */
const formBytes = 256 * 1024
/** OpenAI's bounds of `expires_after`, s: https://platform.openai.com/docs/api-reference/files/create. */
const shortestTtl = 3_600
const longestTtl = 2_592_000

const unreadable = (maxBytes: number) => ({ reason }: Multipart.MultipartError): GatewayError => {
  switch (reason._tag) {
    case "FileTooLarge":
    case "BodyTooLarge":
      return fail(new PayloadTooLarge({ message: `the file is larger than ${maxBytes} bytes`, maxBytes }))
    case "FieldTooLarge":
      return fail(invalid("", `a field of the form is longer than ${maxField} bytes`))
    case "TooManyParts":
      return fail(invalid("", `the form has more than ${maxParts} parts`))
    default:
      return fail(invalid("", "the body is no form with a file (multipart/form-data), or breaks off"))
  }
}

/** What a file may be for: a word. */
export const purposePattern = /^[a-z][a-z0-9_-]{0,63}$/

interface Described {
  readonly purpose: string
  readonly ttlMs?: number
}

const readFields = (fields: ReadonlyMap<string, string>): Result.Result<Described, GatewayError> => {
  const purpose = fields.get("purpose") ?? "user_data"
  if (!purposePattern.test(purpose)) {
    return Result.fail(fail(invalid("purpose", "expected a word such as user_data, vision or batch")))
  }
  const anchor = fields.get("expires_after[anchor]")
  if (anchor !== undefined && anchor !== "created_at") {
    return Result.fail(fail(invalid("expires_after.anchor", "must be created_at")))
  }
  const given = fields.get("expires_after[seconds]") ?? fields.get("expires_after")
  if (given === undefined) return Result.succeed({ purpose })
  const seconds = Number(given)
  return Number.isInteger(seconds) && seconds >= shortestTtl && seconds <= longestTtl
    ? Result.succeed({ purpose, ttlMs: seconds * 1000 })
    : Result.fail(fail(invalid("expires_after", `expected whole seconds from ${shortestTtl} to ${longestTtl}`)))
}

/** The upload that a request's form is. Fails with `validation_error`, and as the storage's `put` does. */
export const upload = Effect.fnUntraced(
  function*(request: HttpServerRequest.HttpServerRequest): Effect.fn.Return<FileInfo, GatewayError, Scope.Scope> {
    const storage = yield* fileStorage
    const problemOf = unreadable(storage.maxBytes)
    const { tenant } = yield* CurrentCaller
    if (!/^multipart\/form-data\b/i.test(request.headers["content-type"] ?? "")) {
      return yield* fail(invalid("content-type", "must be multipart/form-data, with the content in its field \"file\""))
    }
    const fields = new Map<string, string>()
    const described = yield* Deferred.make<Described, GatewayError>()
    let kept: Fiber.Fiber<FileInfo, GatewayError> | undefined

    const take = Effect.fnUntraced(function*(part: Multipart.Part) {
      if (Multipart.isField(part)) {
        fields.set(part.key, part.value)
        return
      }
      if (part.key !== "file" || kept !== undefined) {
        return yield* fail(invalid(part.key.slice(0, 100), "the form takes one file, in its field \"file\""))
      }
      const read = yield* Deferred.make<void>()
      kept = yield* Effect.forkScoped(storage.put({
        tenant,
        purpose: "",
        filename: part.name,
        content: part.content.pipe(
          Stream.mapError(problemOf),
          Stream.onEnd(Deferred.succeed(read, undefined))
        ),
        described: Deferred.await(described)
      }))
      // What comes behind the file is read only once the file has been.
      yield* Effect.raceFirst(Deferred.await(read), Fiber.join(kept))
    })

    const parts = request.multipartStream.pipe(
      Stream.mapError(problemOf),
      Stream.runForEach(take),
      Effect.provideContext(Multipart.limitsServices({
        maxParts,
        maxFieldSize: ByteSize.bytes(maxField),
        maxFileSize: ByteSize.bytes(storage.maxBytes + 1),
        // Otherwise that of bodies in JSON holds, which are kept whole in memory.
        maxTotalSize: ByteSize.bytes(storage.maxBytes + formBytes),
        fieldMimeTypes: []
      }))
    )
    yield* parts
    if (kept === undefined) return yield* fail(invalid("file", "the form has no file"))
    yield* Deferred.complete(described, Effect.fromResult(readFields(fields)))
    return yield* Fiber.join(kept)
  },
  Effect.scoped
)
