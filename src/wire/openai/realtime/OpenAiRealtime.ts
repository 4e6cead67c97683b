/**
 * OpenAI's realtime protocol, as far as the gateway has to understand what it hands on: what asks for a response, what a
 * response consumed, and where there are texts. Sound is never parsed.
 *
 * Events: https://platform.openai.com/docs/api-reference/realtime-client-events and `…/realtime-server-events`; the names of the
 * protocol's first version (`response.audio_transcript.done`) still occur.
 */
import { Schema } from "effect"
import type { GatewayError } from "../../../sdk/GatewayError.ts"
import type {
  CallerEvent,
  ProviderEvent,
  ProviderTexts,
  RealtimeFrame,
  RealtimeProtocol,
  RealtimeSummary
} from "../../../sdk/Realtime.ts"
import { Usage } from "../../../sdk/Usage.ts"
import type { Json } from "../../Codec.ts"
import { count, filled, isJson, object, parseJson } from "../../Json.ts"
import { errorObject } from "../OpenAiError.ts"
import { textsIn, withTexts } from "./EventTexts.ts"
import { eventType } from "./EventType.ts"
import { responseUsage, transcriptUsage } from "./RealtimeUsage.ts"

const encoder = new TextEncoder()
const decoder = new TextDecoder()

const frameOf = (event: unknown): RealtimeFrame => ({ data: encoder.encode(JSON.stringify(event)), isText: true })

const parse = ({ data }: RealtimeFrame): Json | undefined => object(parseJson(decoder.decode(data)))

/** In the same kind of message as the one that it stands for. */
const likeFrame = ({ isText }: RealtimeFrame, event: unknown): RealtimeFrame => ({ ...frameOf(event), isText })

const eventId = (): string => `event_${crypto.randomUUID().replaceAll("-", "")}`

// ---------------------------------------------------------------------------------------------------------------------
// The caller's events
// ---------------------------------------------------------------------------------------------------------------------

const setups: ReadonlySet<string> = new Set(["session.update", "transcription_session.update"])

/** `inf` is the longest that the model gives. */
const maxTokens = (settings: Json): number | undefined =>
  count(settings["max_output_tokens"] ?? settings["max_response_output_tokens"])

/** Where a session says which model transcribes; the second place is that of the protocol's first version. */
const transcriptionOf = (session: Json): string | undefined => {
  const input = object(object(session["audio"])?.["input"])
  const transcription = object(input?.["transcription"]) ?? object(session["input_audio_transcription"])
  return filled(transcription?.["model"])
}

const withModel = (event: Json, model: string | undefined): Json => {
  const session = object(event["session"])
  return model === undefined || session === undefined ? event : { ...event, session: { ...session, model } }
}

const readCaller = (frame: RealtimeFrame, event: Json): CallerEvent | undefined => {
  const type = event["type"]
  const responds = type === "response.create"
  const setup = typeof type === "string" && setups.has(type) ? object(event["session"]) : undefined
  if (!responds && setup === undefined && type !== "conversation.item.create") return undefined
  const maxOutputTokens = maxTokens((responds ? object(event["response"]) : setup) ?? {})
  const model = filled(setup?.["model"])
  const transcriptionModel = setup === undefined ? undefined : transcriptionOf(setup)
  const id = filled(event["event_id"])
  return {
    responds,
    texts: textsIn(event),
    changed: (texts, model) => {
      const changed = withTexts(event, texts)
      return likeFrame(frame, isJson(changed) ? withModel(changed, model) : changed)
    },
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    ...(model === undefined ? {} : { model }),
    ...(transcriptionModel === undefined ? {} : { transcriptionModel }),
    ...(id === undefined ? {} : { eventId: id })
  }
}

/** What the caller may send without the gateway's looking into it: above all its sound. */
const callerEvent = (frame: RealtimeFrame): CallerEvent | undefined => {
  const type = eventType(frame.data, true)
  const concerns = type === undefined || type === "response.create" || type === "conversation.item.create" ||
    setups.has(type)
  if (!concerns) return undefined
  const event = parse(frame)
  // What is no event is the provider's to refuse.
  return event === undefined ? undefined : readCaller(frame, event)
}

// ---------------------------------------------------------------------------------------------------------------------
// The provider's events
// ---------------------------------------------------------------------------------------------------------------------

const textsOf = (frame: RealtimeFrame, event: Json, whole: boolean): ProviderTexts => ({
  texts: whole ? textsIn(event) : [],
  changed: (texts) => likeFrame(frame, withTexts(event, texts))
})

const finishReasons: Readonly<Record<string, "length" | "content_filter">> = {
  max_output_tokens: "length",
  content_filter: "content_filter"
}

const ended = (frame: RealtimeFrame, event: Json, whole: boolean): ProviderEvent => {
  const response = object(event["response"]) ?? {}
  const details = object(response["status_details"])
  const told = response["status"]
  const status = told === "cancelled" || told === "incomplete" || told === "failed" ? told : "completed"
  const reason = filled(details?.["reason"])
  const finishReason = status === "completed" ? "stop" : finishReasons[reason ?? ""]
  const problem = filled(object(details?.["error"])?.["code"]) ?? filled(object(details?.["error"])?.["type"])
  const usage = responseUsage(response["usage"])
  return {
    type: "ended",
    responseId: filled(response["id"]) ?? "",
    status,
    texts: textsOf(frame, event, whole),
    ...(finishReason === undefined ? {} : { finishReason }),
    ...(problem === undefined ? {} : { problem }),
    ...(usage === undefined ? {} : { usage })
  }
}

const transcriptEnd = "conversation.item.input_audio_transcription.completed"

const transcribed = (frame: RealtimeFrame, event: Json, whole: boolean): ProviderEvent => {
  const usage = transcriptUsage(event["usage"])
  return { type: "transcribed", texts: textsOf(frame, event, whole), ...(usage === undefined ? {} : { usage }) }
}

const sessionOf = (event: Json): ProviderEvent => {
  const session = object(event["session"]) ?? {}
  const transcriptionModel = transcriptionOf(session)
  const maxOutputTokens = maxTokens(session)
  return {
    type: "session",
    ...(transcriptionModel === undefined ? {} : { transcriptionModel }),
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens })
  }
}

/** Pieces of texts, and what ends each; in both versions of the protocol. */
const pieces: ReadonlySet<string> = new Set([
  "response.output_text.delta",
  "response.text.delta",
  "response.output_audio_transcript.delta",
  "response.audio_transcript.delta"
])
const wholes: ReadonlySet<string> = new Set([
  "response.output_text.done",
  "response.text.done",
  "response.output_audio_transcript.done",
  "response.audio_transcript.done"
])
/** Events that tell a text once more. */
const repetitions: ReadonlySet<string> = new Set([
  "response.content_part.done",
  "response.output_item.done",
  "conversation.item.created",
  "conversation.item.added",
  "conversation.item.done",
  "conversation.item.retrieved"
])

/** Which text it is of which a piece has come. */
const placeOf = (event: Json): string => `${String(event["item_id"])}/${String(event["content_index"])}`

/** What the caller said itself is not the model's to answer for. */
const isCallers = (event: Json): boolean => object(event["item"])?.["role"] === "user"

const textEvent = (frame: RealtimeFrame, type: string): ProviderEvent | undefined => {
  const isPiece = pieces.has(type)
  const isWhole = wholes.has(type)
  if (!isPiece && !isWhole && !repetitions.has(type)) return undefined
  const event = parse(frame)
  if (event === undefined || isCallers(event)) return undefined
  if (isPiece) return { type: "piece", of: placeOf(event) }
  const texts = textsOf(frame, event, true)
  return isWhole ? { type: "texts", of: placeOf(event), texts } : { type: "texts", texts }
}

const providerEvent = (frame: RealtimeFrame, whole: boolean): ProviderEvent | undefined => {
  const type = eventType(frame.data, false)
  if (type === undefined) return undefined
  switch (type) {
    case "response.created": {
      const id = filled(object(parse(frame)?.["response"])?.["id"])
      return { type: "started", responseId: id ?? "" }
    }
    case "response.done":
      return ended(frame, parse(frame) ?? {}, whole)
    case transcriptEnd:
      return transcribed(frame, parse(frame) ?? {}, whole)
    case "session.created":
    case "session.updated":
    case "transcription_session.created":
    case "transcription_session.updated":
      return sessionOf(parse(frame) ?? {})
    default:
      return whole ? textEvent(frame, type) : undefined
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The gateway's own events
// ---------------------------------------------------------------------------------------------------------------------

const error = (failure: GatewayError, about?: string): RealtimeFrame =>
  frameOf({
    type: "error",
    event_id: eventId(),
    error: { ...errorObject(failure), event_id: about ?? null }
  })

const encodeUsage = Schema.encodeSync(Usage)

const summary = ({ durationMs, responses, sessionId, transcriptions, usage }: RealtimeSummary): RealtimeFrame =>
  frameOf({
    type: "gateway.usage",
    event_id: eventId(),
    session_id: sessionId,
    responses,
    transcriptions,
    duration_ms: Math.round(durationMs),
    usage: encodeUsage(usage)
  })

/** Ten tokens a second of sound, in 8,000 bytes a second or more, and a third more of these in base64. */
const bytesToken = 1_000

/** The protocol. */
export const openAiRealtime: RealtimeProtocol = {
  callerEvent,
  providerEvent,
  weight: ({ data }) => data.length / bytesToken,
  error,
  cancel: (responseId) =>
    frameOf({
      type: "response.cancel",
      event_id: eventId(),
      ...(responseId === "" ? {} : { response_id: responseId })
    }),
  summary
}
