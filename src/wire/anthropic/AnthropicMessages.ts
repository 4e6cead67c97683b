/**
 * Anthropic's Messages API (https://docs.claude.com/en/api/messages), both ways: the codec of the provider that calls it
 * and of the dialect that serves it. What the wire does with each field is documented where the field is handled:
 * requests in `AnthropicRequest` and `AnthropicRequestDecode`, answers in `AnthropicResponse`, streams in
 * `AnthropicStream` and `AnthropicStreamEncoder`, errors in `AnthropicError`.
 */
import type { ChatDialectCodec, ChatUpstreamCodec } from "../Codec.ts"
import { decodeError, encodeError } from "./AnthropicError.ts"
import { encodeRequest } from "./AnthropicRequest.ts"
import { decodeRequest } from "./AnthropicRequestDecode.ts"
import { decodeResponse, encodeResponse } from "./AnthropicResponse.ts"
import { streamDecoder } from "./AnthropicStream.ts"
import { streamEncoder } from "./AnthropicStreamEncoder.ts"

export { decodeModels } from "./AnthropicModels.ts"

/** The codec of Anthropic's Messages API. */
export const anthropicMessages: ChatUpstreamCodec & ChatDialectCodec = {
  encodeRequest,
  decodeResponse,
  streamDecoder,
  decodeError,
  decodeRequest,
  encodeResponse,
  streamEncoder,
  encodeError
}
