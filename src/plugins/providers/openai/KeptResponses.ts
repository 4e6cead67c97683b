/**
 * Answers that OpenAI keeps (`store`, `previous_response_id`). All tenants of a provider share one account there, so an
 * answer's id leaves the gateway with a mark of the tenant that had it kept, and comes back for that tenant alone: as
 * `ID.MARK`, where the mark is an HMAC under a secret made from the provider's key. Every replica with the same key agrees.
 */
import { Redacted, Result } from "effect"
import { createHmac, timingSafeEqual } from "node:crypto"
import { invalid } from "../../../sdk/GatewayError.ts"
import type { ChatCall } from "../../../sdk/Provider.ts"
import type { ChatUpstreamCodec, Json } from "../../../wire/Codec.ts"
import { isJson, parseJson } from "../../../wire/Json.ts"

/** Whether a call needs what OpenAI keeps, or has it keep something. */
export const isKept = ({ request }: ChatCall): boolean =>
  request.store === true || request.previousResponseId !== undefined

const foreign = invalid(
  "previous_response_id",
  "names no answer that this provider keeps for you; send the conversation in input, or the id of an answer that was asked with store: true"
)

const keyless = invalid(
  "store",
  "this provider has no key by which the answers that it keeps could be told apart by tenant; leave store out"
)

/** The codec of a tenant's calls: ids go out as that tenant may use them, and come back checked. */
export const codecFor = (
  codec: ChatUpstreamCodec,
  provider: string,
  key: Redacted.Redacted | undefined,
  tenant: string
): ChatUpstreamCodec => {
  const markOf = (id: string): string =>
    createHmac("sha256", `llm-gateway kept responses:${key === undefined ? "" : Redacted.value(key)}`)
      .update(JSON.stringify([provider, tenant, id])).digest("base64url").slice(0, 27)

  const opened = (given: string): string | undefined => {
    const at = given.lastIndexOf(".")
    const id = given.slice(0, Math.max(0, at))
    const [mark, expected] = [Buffer.from(given.slice(at + 1)), Buffer.from(markOf(id))]
    return mark.length === expected.length && timingSafeEqual(mark, expected) ? id : undefined
  }

  /** A response with the ids that the caller knows. */
  const shown = (response: Json, { request }: ChatCall): Json => ({
    ...response,
    ...(request.store === true && typeof response["id"] === "string"
      ? { id: `${response["id"]}.${markOf(response["id"])}` }
      : {}),
    ...(request.previousResponseId === undefined ? {} : { previous_response_id: request.previousResponseId })
  })

  return {
    ...codec,
    encodeRequest: (call, stream) => {
      if (key === undefined) return Result.fail(keyless)
      const { previousResponseId } = call.request
      if (previousResponseId === undefined) return codec.encodeRequest(call, stream)
      const id = opened(previousResponseId)
      return id === undefined
        ? Result.fail(foreign)
        : codec.encodeRequest({ ...call, request: { ...call.request, previousResponseId: id } }, stream)
    },
    decodeResponse: (text, json, call) => {
      if (!isJson(json)) return codec.decodeResponse(text, json, call)
      const response = shown(json, call)
      return codec.decodeResponse(JSON.stringify(response), response, call)
    },
    streamDecoder: (call) => {
      const decoder = codec.streamDecoder(call)
      return {
        ...decoder,
        push: (data, event) => {
          // Deltas, which are most events, hold no response.
          const json = data.includes("\"response\"") ? parseJson(data) : undefined
          const response = isJson(json) ? json["response"] : undefined
          return isJson(json) && isJson(response)
            ? decoder.push(JSON.stringify({ ...json, response: shown(response, call) }), event)
            : decoder.push(data, event)
        }
      }
    }
  }
}
