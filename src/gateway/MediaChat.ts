/**
 * Chats with models that do not chat: one that makes pictures, speech or video is given the last message's text, and one that
 * writes sound down its sound. The answer's parts hold the addresses of files of the gateway's.
 */
import { Effect, Stream } from "effect"
import type { ChatRequest, ChatResponse, Message } from "../sdk/Chat.ts"
import type { Part } from "../sdk/Content.ts"
import { type FileStorage, fileStorage, fileUrl } from "../sdk/FileStorage.ts"
import { fail, type GatewayError, invalid } from "../sdk/GatewayError.ts"
import type { GeneratedImage } from "../sdk/Image.ts"
import type { Capability, ModelInfo } from "../sdk/Model.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { Exchange } from "./Exchange.ts"
import type { Gateway } from "./Gateway.ts"

/** What such a chat comes to. */
export type MediaOperation = "image" | "speak" | "transcribe" | "video"

/** What a model is for that is known not to chat; undefined for one that chats, and for one of which nobody knows. */
export const operationOf = ({ capabilities }: ModelInfo): MediaOperation | undefined => {
  if (capabilities === undefined) return undefined
  const can = (capability: Capability): boolean => capabilities.includes(capability)
  if (can("transcription") && !can("text_input")) return "transcribe"
  if (can("text_output")) return undefined
  if (can("speech")) return "speak"
  if (can("video_output")) return "video"
  return can("image_output") ? "image" : undefined
}

/** What a chat's model is for. A route, and a model that is not there, are the chat's own to tell. */
export const operationFor = (
  gateway: Gateway["Service"],
  model: string
): Effect.Effect<MediaOperation | undefined> =>
  Effect.match(gateway.model(model), { onFailure: () => undefined, onSuccess: operationOf })

const lastOf = ({ messages }: ChatRequest): Message | undefined => messages.findLast(({ role }) => role === "user")

const promptOf = (request: ChatRequest): Effect.Effect<string, GatewayError> =>
  Effect.suspend(() => {
    const texts = lastOf(request)?.content.flatMap((part) => part.type === "text" ? [part.text] : []) ?? []
    const prompt = texts.join("\n")
    return prompt === ""
      ? Effect.fail(fail(invalid("messages", "this model needs a text in the last user message")))
      : Effect.succeed(prompt)
  })

const noSound = fail(
  invalid("messages", "this model needs an audio part in the last user message, inline or as a file of this gateway")
)

const soundOf = (request: ChatRequest): Effect.Effect<string, GatewayError> =>
  Effect.suspend(() => {
    const source = lastOf(request)?.content.find((part) => part.type === "audio")?.source
    switch (source?.type) {
      case "base64":
        return Effect.succeed(`data:${source.mediaType};base64,${source.data}`)
      case "file":
        return Effect.succeed(source.id)
      case "url":
        return Effect.succeed(source.url)
      default:
        return Effect.fail(noSound)
    }
  })

/** Keeps a picture; one that its provider keeps stays there. */
const kept = Effect.fnUntraced(function*(
  { data, url }: GeneratedImage,
  files: FileStorage["Service"],
  tenant: string
): Effect.fn.Return<Part, GatewayError> {
  if (data === undefined) return { type: "image", source: { type: "url", url: url ?? "" } }
  const { id } = yield* files.put({
    tenant,
    purpose: "output",
    content: Stream.sync(() => Buffer.from(data, "base64"))
  })
  return { type: "image", source: { type: "url", url: fileUrl(id) } }
})

interface Made {
  readonly content: ReadonlyArray<Part>
  readonly usage?: Usage | undefined
}

const make = Effect.fnUntraced(function*(
  gateway: Gateway["Service"],
  operation: MediaOperation,
  request: ChatRequest,
  exchange: Exchange
): Effect.fn.Return<Made, GatewayError> {
  const { fallback, model, user } = request
  const asked = { model, ...(user === undefined ? {} : { user }), ...(fallback === undefined ? {} : { fallback }) }
  switch (operation) {
    case "transcribe": {
      const { text, usage } = yield* gateway.transcribe({ ...asked, audio: yield* soundOf(request) }, exchange)
      return { content: [{ type: "text", text }], usage }
    }
    case "speak": {
      const input = yield* promptOf(request)
      const { url, usage } = yield* gateway.speak({ ...asked, input, voice: "alloy" }, exchange)
      return { content: [{ type: "audio", source: { type: "url", url }, transcript: input }], usage }
    }
    case "video": {
      const { files, usage } = yield* gateway.video({ ...asked, prompt: yield* promptOf(request) }, exchange)
      return { content: files.slice(0, 1).map(({ url }) => ({ type: "video", source: { type: "url", url } })), usage }
    }
    case "image": {
      // Where there is no place for a picture, none is to be paid for.
      const files = yield* fileStorage
      const { images, usage } = yield* gateway.image({ ...asked, prompt: yield* promptOf(request) }, exchange)
      return { content: yield* Effect.forEach(images, (image) => kept(image, files, exchange.caller.tenant)), usage }
    }
  }
})

/** Answers a chat by what its model is for. */
export const answer = (
  gateway: Gateway["Service"],
  operation: MediaOperation,
  request: ChatRequest,
  exchange: Exchange
): Effect.Effect<ChatResponse, GatewayError> =>
  Effect.map(make(gateway, operation, request, exchange), ({ content, usage }) => ({
    id: exchange.requestId,
    model: exchange.model?.model ?? request.model,
    content,
    finishReason: "stop",
    ...(usage === undefined ? {} : { usage }),
    ...(exchange.model === undefined ? {} : { modelUsed: exchange.model.id }),
    fallbackUsed: exchange.fallbackUsed
  }))
