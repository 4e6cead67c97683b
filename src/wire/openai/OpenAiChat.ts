/**
 * The codec of OpenAI's chat completions wire, for the provider that speaks it upstream and for the dialect that speaks it
 * to callers. The parts: `OpenAiDecodeRequest` (with `OpenAiDecodeMessages`) and `OpenAiEncodeRequest`, `OpenAiResponse`,
 * `OpenAiStreamDecoder` and `OpenAiStreamEncoder`, `OpenAiUsage`, `OpenAiReasoning`, `OpenAiError`, `OpenAiModels`.
 */
import type { ChatDialectCodec, ChatUpstreamCodec } from "../Codec.ts"
import { decodeRequest } from "./OpenAiDecodeRequest.ts"
import { encodeRequest } from "./OpenAiEncodeRequest.ts"
import { decodeError, encodeError } from "./OpenAiError.ts"
import { decodeResponse, encodeResponse } from "./OpenAiResponse.ts"
import { streamDecoder } from "./OpenAiStreamDecoder.ts"
import { streamEncoder } from "./OpenAiStreamEncoder.ts"

export { wire } from "./OpenAiExtensions.ts"
export { decodeModels, encodeModel, encodeModels } from "./OpenAiModels.ts"

/**
 * Makes the codec. `now` is Unix seconds; it is read only where an answer must carry a time that its provider did not
 * tell (Anthropic tells none, OpenAI's SDK types require one).
 */
export const makeOpenAiChat = (now: () => number): ChatUpstreamCodec & ChatDialectCodec => ({
  decodeRequest,
  encodeRequest,
  decodeResponse,
  encodeResponse: (response) => encodeResponse(response, now()),
  streamDecoder,
  streamEncoder: (request) => streamEncoder(request, now),
  decodeError,
  encodeError
})

/** The codec, with the machine's clock. */
export const openAiChat: ChatUpstreamCodec & ChatDialectCodec = makeOpenAiChat(() => Math.floor(Date.now() / 1000))
