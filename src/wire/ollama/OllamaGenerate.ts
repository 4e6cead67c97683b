/**
 * The body of Ollama's `POST /api/generate` (https://docs.ollama.com/api/generate), both ways. To the sdk it is a chat of one
 * turn: `system` and `prompt` are its messages. `raw`, `template` and `context`, which decide how a prompt becomes what the
 * model reads, have no counterpart; they travel in the extensions under a name of their own (`OllamaExtensions.ts`), go on
 * to Ollama, and are refused by name where the request goes elsewhere.
 *
 * A request that came as one goes to Ollama's `/api/generate` again, as long as it still is one turn: only there are `raw`,
 * `template` and `context` understood, and only from there comes an answer with a `context`.
 */
import { Result } from "effect"
import type { ChatRequest, Message } from "../../sdk/Chat.ts"
import { type Part, text } from "../../sdk/Content.ts"
import type { ValidationError } from "../../sdk/GatewayError.ts"
import type { ChatCall } from "../../sdk/Provider.ts"
import type { EncodedRequest, Json } from "../Codec.ts"
import { reportForeign } from "../ForeignExtensions.ts"
import { absent, isJson, isList } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { decodeImages } from "./OllamaDecodeRequest.ts"
import { addPart, type Context, encodeParameters, flat } from "./OllamaEncodeRequest.ts"
import { generateWire, wire } from "./OllamaExtensions.ts"
import { decodeParameters, readBoolean, readString } from "./OllamaParameters.ts"

/** Where it is served, below the base URL. */
export const generatePath = "/api/generate"

// ---------------------------------------------------------------------------------------------------------------------
// Decoding
// ---------------------------------------------------------------------------------------------------------------------

const requestFields = new Set(["prompt", "suffix", "system", "template", "context", "raw", "images"])

/** What belongs to this operation alone. Go's empty values say the same as no value. */
const decodeOwn = (body: Json, report: Report): Json => {
  const raw = readBoolean(body["raw"], "raw", report)
  const template = readString(body["template"], "template", report)
  const { context } = body
  if (!absent(context) && !(isList(context) && context.every(Number.isSafeInteger))) {
    report.refuse("context", "must be an array of integers")
  }
  return {
    ...(raw === true ? { raw } : {}),
    ...(template === undefined || template === "" ? {} : { template }),
    ...(isList(context) && context.length > 0 ? { context } : {})
  }
}

/**
 * Reads the body. `stream` is true where it does not say. Fails with all that is wrong, each problem at its path; a `suffix` is
 * refused, since a chat model fills no gaps. A body without a prompt asks Ollama to load a model, and is not for here:
 * `OllamaLoad.ts` knows it.
 */
export const decodeGenerate = (json: unknown): Result.Result<ChatRequest, ValidationError> => {
  const report = makeReport()
  const body: Json = isJson(json) ? json : {}
  if (!isJson(json)) report.refuse("", "the body must be a JSON object")
  const parameters = decodeParameters(body, requestFields, report)
  const prompt = readString(body["prompt"], "prompt", report) ?? ""
  const system = readString(body["system"], "system", report) ?? ""
  const suffix = readString(body["suffix"], "suffix", report) ?? ""
  if (suffix !== "") report.refuse("suffix", "text to fill in before is not supported; put all of it into prompt")
  const content: ReadonlyArray<Part> = [
    ...(prompt === "" ? [] : [text(prompt)]),
    ...decodeImages(body["images"], "images", report)
  ]
  const extension = decodeOwn(body, report)
  const error = report.error()
  if (error !== undefined) return Result.fail(error)
  const asked: Message = { role: "user", content }
  return Result.succeed({
    ...parameters,
    messages: system === "" ? [asked] : [{ role: "system", content: [text(system)] }, asked],
    extensions: { ...parameters.extensions, [generateWire]: extension }
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Encoding
// ---------------------------------------------------------------------------------------------------------------------

const isText = (part: Part): boolean => part.type === "text"
const isTextOrImage = (part: Part): boolean => part.type === "text" || part.type === "image"

/** Whether a call goes to `/api/generate`: it came there, and is still instructions and one question. */
export const isGenerate = ({ request }: ChatCall): boolean => {
  if (request.extensions?.[generateWire] === undefined) return false
  if (request.tools !== undefined && request.tools.length > 0) return false
  const { messages } = request
  return messages.every(({ content, role }, index) =>
    index === messages.length - 1
      ? role === "user" && content.every(isTextOrImage)
      : (role === "system" || role === "developer") && content.every(isText)
  )
}

/**
 * Writes the body for a call that `isGenerate` holds for. Several instructions are joined with a line break. Drops and refuses
 * what `encodeRequest` does.
 */
export const encodeGenerate = (call: ChatCall, stream: boolean): Result.Result<EncodedRequest, ValidationError> => {
  const { [generateWire]: extension, ...extensions } = call.request.extensions ?? {}
  const request: ChatCall["request"] = { ...call.request, extensions }
  const context: Context = { report: makeReport(), calls: new Map() }
  const system = flat()
  const asked = flat()
  for (const [index, { content, role }] of request.messages.entries()) {
    for (const [at, part] of content.entries()) {
      if (part.type === "tool_result") continue
      addPart(role === "user" ? asked : system, part, `messages[${index}].content[${at}]`, context)
    }
  }
  const body: Json = {
    ...extension,
    model: call.model.model,
    prompt: asked.texts.join("\n"),
    ...(system.texts.length === 0 ? {} : { system: system.texts.join("\n") }),
    ...(asked.images.length === 0 ? {} : { images: asked.images }),
    stream,
    ...encodeParameters({ ...call, request }, context)
  }
  reportForeign(request, wire, context.report)
  const error = context.report.error()
  return error === undefined
    ? Result.succeed({ body, dropped: context.report.dropped(), path: generatePath })
    : Result.fail(error)
}
