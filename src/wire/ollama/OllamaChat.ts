/**
 * The codec of Ollama's native chat protocol (`POST /api/chat`, https://docs.ollama.com/api/chat), for both sides: the
 * provider that speaks it upstream and the dialect that speaks it to callers. Streams are newline-delimited JSON.
 *
 * The requests are in `OllamaEncodeRequest.ts` and `OllamaDecodeRequest.ts`, answers in `OllamaResponse.ts` and
 * `OllamaStream.ts`, errors in `OllamaError.ts`, discovery in `OllamaModels.ts`.
 */
import type { ChatDialectCodec, ChatUpstreamCodec } from "../Codec.ts"
import { decodeRequest } from "./OllamaDecodeRequest.ts"
import { encodeRequest } from "./OllamaEncodeRequest.ts"
import { decodeError, encodeError } from "./OllamaError.ts"
import { decodeResponse, encodeResponse } from "./OllamaResponse.ts"
import { streamDecoder, streamEncoder } from "./OllamaStream.ts"

export { decodeShow, decodeTags } from "./OllamaModels.ts"

/** Ollama's native chat, wire name `ollama`. Each direction tells in its own file what it normalises and drops. */
export const ollamaChat: ChatUpstreamCodec & ChatDialectCodec = {
  encodeRequest,
  decodeResponse,
  streamDecoder,
  decodeError,
  decodeRequest,
  encodeResponse,
  streamEncoder,
  encodeError
}
