/** Requests for transcripts that come as forms, in OpenAI's fields, which the native API takes as well. */
import { Effect, Option, Result, type Scope } from "effect"
import type { HttpServerRequest } from "effect/http"
import { FileStorage } from "../sdk/FileStorage.ts"
import { fail, type GatewayError } from "../sdk/GatewayError.ts"
import type { Transcription } from "../sdk/Transcription.ts"
import { openAiTranscription } from "../wire/openai/OpenAiTranscription.ts"
import { readForm } from "./Spool.ts"

/** The largest form where the gateway keeps no files, whose own bound holds otherwise: what OpenAI takes, bytes. */
const maxBytes = 25 * 1024 * 1024

/** Beside the file itself, bytes. */
const fieldsBytes = 1024 * 1024

/** Reads a form; its file is there for as long as the request's scope. `task` is what the path says, or else the form. */
export const readTranscription = Effect.fnUntraced(function*(
  request: HttpServerRequest.HttpServerRequest,
  task?: "transcribe" | "translate"
): Effect.fn.Return<Transcription, GatewayError, Scope.Scope> {
  const storage = yield* Effect.serviceOption(FileStorage)
  const largest = Option.isSome(storage) ? storage.value.maxBytes : maxBytes
  const { fields, file } = yield* readForm(request, largest + fieldsBytes)
  const said = fields.find(([name]) => name === "task")?.[1] === "translate" ? "translate" : "transcribe"
  const known = task === undefined ? fields.filter(([name]) => name !== "task") : fields
  const decoded = openAiTranscription.decodeFields(known, task ?? said)
  return { ...yield* Effect.fromResult(Result.mapError(decoded, fail)), audio: file }
})
