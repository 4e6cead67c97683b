/**
 * Anthropic's Messages API (https://docs.claude.com/en/api/messages), both ways: the codec of the provider that calls it
 * and of the dialect that serves it. What the wire does with each field is documented where the field is handled:
 * requests in `AnthropicRequest` and `AnthropicRequestDecode`, answers in `AnthropicResponse`, streams in
 * `AnthropicStream` and `AnthropicStreamEncoder`, errors in `AnthropicError`, counting in `AnthropicTokenCount`.
 */
import type { ChatRequest } from "../../sdk/Chat.ts"
import type { ChatDialectCodec, ChatStreamEncoder, ChatUpstreamCodec } from "../Codec.ts"
import { decodeError, encodeError } from "./AnthropicError.ts"
import { encodeRequest } from "./AnthropicRequest.ts"
import { decodeRequest } from "./AnthropicRequestDecode.ts"
import { decodeResponse, encodeResponse } from "./AnthropicResponse.ts"
import { streamDecoder } from "./AnthropicStream.ts"
import { streamEncoder, type StreamOptions } from "./AnthropicStreamEncoder.ts"

export { withVersion } from "./AnthropicExtensions.ts"
export { decodeModels } from "./AnthropicModels.ts"
export { decodeCountRequest } from "./AnthropicRequestDecode.ts"
export { ping } from "./AnthropicStreamEncoder.ts"
export { decodeTokenCount, encodeCountRequest, encodeTokenCount } from "./AnthropicTokenCount.ts"

/** The dialect's side, whose streams can be told what only the server knows. */
interface MessagesDialect extends ChatDialectCodec {
  readonly streamEncoder: (request: ChatRequest, options?: StreamOptions) => ChatStreamEncoder
}

/** The codec of Anthropic's Messages API. */
export const anthropicMessages: ChatUpstreamCodec & MessagesDialect = {
  encodeRequest,
  decodeResponse,
  streamDecoder,
  decodeError,
  decodeRequest,
  encodeResponse,
  streamEncoder,
  encodeError
}
