/**
 * The codec of OpenAI's Responses protocol, for the dialect that speaks it to callers. The parts: `ResponsesDecodeRequest`
 * (with `ResponsesDecodeInput`), `ResponsesResponse` and `ResponsesStreamEncoder` (over `ResponsesOutput`),
 * `ResponsesReasoning`, `ResponsesCitations`. Errors are those of OpenAI's chat.
 */
import type { ChatDialectCodec } from "../../Codec.ts"
import { encodeError } from "../OpenAiError.ts"
import { decodeRequest } from "./ResponsesDecodeRequest.ts"
import { encodeResponse } from "./ResponsesResponse.ts"
import { streamEncoder } from "./ResponsesStreamEncoder.ts"

/** Makes the codec. `now` is Unix seconds; it is read only where an answer must carry a time that its provider did not tell. */
export const makeOpenAiResponses = (now: () => number): ChatDialectCodec => ({
  decodeRequest,
  encodeResponse: (response, request) => encodeResponse(response, request, now()),
  streamEncoder: (request) => streamEncoder(request, now),
  encodeError
})

/** The codec, with the machine's clock. */
export const openAiResponses: ChatDialectCodec = makeOpenAiResponses(() => Math.floor(Date.now() / 1000))
