/**
 * The codec of Ollama's native protocol (https://docs.ollama.com/api), for both sides: the provider that speaks it upstream
 * and the dialect that speaks it to callers. Streams are newline-delimited JSON. Two of its operations answer in text:
 * `/api/chat`, and `/api/generate`, which asks for one turn and answers in a form of its own.
 *
 * A chat's requests are in `OllamaEncodeRequest.ts` and `OllamaDecodeRequest.ts`, those of `/api/generate` in
 * `OllamaGenerate.ts`; answers are in `OllamaResponse.ts` and `OllamaStream.ts`, their two forms in `OllamaForm.ts`, errors in
 * `OllamaError.ts`, models in `OllamaModels.ts`.
 */
import type { ChatRequest, ChatResponse } from "../../sdk/Chat.ts"
import type { ChatCall } from "../../sdk/Provider.ts"
import type { ChatDialectCodec, ChatStreamEncoder, ChatUpstreamCodec, Json } from "../Codec.ts"
import { decodeRequest } from "./OllamaDecodeRequest.ts"
import { encodeRequest } from "./OllamaEncodeRequest.ts"
import { decodeError, encodeError } from "./OllamaError.ts"
import { type AnswerForm, chatForm, generateForm } from "./OllamaForm.ts"
import { decodeGenerate, encodeGenerate, isGenerate } from "./OllamaGenerate.ts"
import { chatLoad, generateLoad, type LoadRequest } from "./OllamaLoad.ts"
import { decodeResponse, encodeLoaded, encodeResponse, type Timing } from "./OllamaResponse.ts"
import { keepAliveLine, streamDecoder, streamEncoder } from "./OllamaStream.ts"

export type { LoadRequest } from "./OllamaLoad.ts"
export { decodeShow, decodeTags, encodeShow, encodeTags, type ListedModel } from "./OllamaModels.ts"
export type { Timing } from "./OllamaResponse.ts"

/** A dialect that can say how long its answers took, and what Ollama's operations have beside. */
export interface OllamaDialectCodec extends ChatDialectCodec {
  readonly encodeResponse: (response: ChatResponse, request: ChatRequest, timing?: Timing) => Json
  readonly streamEncoder: (request: ChatRequest, timing?: () => Timing) => ChatStreamEncoder
  /** Reads a body that asks to load a model instead of for an answer; `undefined` for any other. */
  readonly decodeLoad: (json: unknown) => LoadRequest | undefined
  readonly encodeLoaded: (load: LoadRequest) => Json
  /** A line without content, which keeps a silent connection open. */
  readonly keepAlive: (model: string) => string
}

const formOf = (call: ChatCall): AnswerForm => isGenerate(call) ? generateForm : chatForm

const upstream: ChatUpstreamCodec = {
  encodeRequest: (call, stream) => isGenerate(call) ? encodeGenerate(call, stream) : encodeRequest(call, stream),
  decodeResponse: (text, json, call) => decodeResponse(text, json, call, formOf(call)),
  streamDecoder: (call) => streamDecoder(call, formOf(call)),
  decodeError
}

const dialect = (
  form: AnswerForm,
  decode: OllamaDialectCodec["decodeRequest"],
  decodeLoad: OllamaDialectCodec["decodeLoad"]
): OllamaDialectCodec => ({
  decodeRequest: decode,
  encodeResponse: (response, request, timing) => encodeResponse(response, request, form, timing),
  streamEncoder: (request, timing) => streamEncoder(request, form, timing),
  encodeError,
  decodeLoad,
  encodeLoaded: ({ model, unload }) => encodeLoaded(model, form, unload),
  keepAlive: (model) => keepAliveLine(model, form)
})

/** Ollama's `/api/chat`, wire name `ollama`. Each direction tells in its own file what it normalises and drops. */
export const ollamaChat: ChatUpstreamCodec & OllamaDialectCodec = {
  ...upstream,
  ...dialect(chatForm, decodeRequest, chatLoad)
}

/** Ollama's `/api/generate` as callers speak it. Upstream it is a way of `ollamaChat`, which knows its requests by a mark. */
export const ollamaGenerate: OllamaDialectCodec = dialect(generateForm, decodeGenerate, generateLoad)
