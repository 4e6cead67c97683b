/**
 * The codec of OpenAI's Responses protocol, both ways. The parts: `ResponsesDecodeRequest` (with `ResponsesDecodeInput`),
 * `ResponsesResponse` and `ResponsesStreamEncoder` (over `ResponsesOutput`) for the dialect; `ResponsesEncodeRequest` (with
 * `ResponsesEncodeInput`), `ResponsesDecodeResponse` and `ResponsesStreamDecoder` (over `ResponsesItems`) for providers;
 * `ResponsesReasoning` and `ResponsesCitations` for both. Errors are those of OpenAI's chat.
 */
import type { ChatDialectCodec, ChatUpstreamCodec } from "../../Codec.ts"
import { decodeError, encodeError } from "../OpenAiError.ts"
import { decodeRequest } from "./ResponsesDecodeRequest.ts"
import { decodeResponse } from "./ResponsesDecodeResponse.ts"
import { encodeRequest } from "./ResponsesEncodeRequest.ts"
import { encodeResponse } from "./ResponsesResponse.ts"
import { streamDecoder } from "./ResponsesStreamDecoder.ts"
import { streamEncoder } from "./ResponsesStreamEncoder.ts"

export { wire } from "./ResponsesExtensions.ts"

/** Makes the codec. `now` is Unix seconds; it is read only where an answer must carry a time that its provider did not tell. */
export const makeOpenAiResponses = (now: () => number): ChatDialectCodec & ChatUpstreamCodec => ({
  decodeRequest,
  encodeResponse: (response, request) => encodeResponse(response, request, now()),
  streamEncoder: (request) => streamEncoder(request, now),
  encodeError,
  encodeRequest,
  decodeResponse,
  streamDecoder,
  decodeError
})

/** The codec, with the machine's clock. */
export const openAiResponses: ChatDialectCodec & ChatUpstreamCodec = makeOpenAiResponses(() =>
  Math.floor(Date.now() / 1000)
)
