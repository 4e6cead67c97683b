/**
 * What messages are made of: content parts, and where their media comes from.
 *
 * One vocabulary for every provider and dialect. A wire codec maps its own parts onto these; what a part cannot say
 * in these words travels in its `extensions`, keyed by the wire that understands it.
 */
import { Schema } from "effect"

/**
 * Fields that only one wire understands, kept so that same-wire traffic is lossless: `{ anthropic: { container: … } }`.
 * The outer key is the wire's name (`openai`, `anthropic`, `ollama`), the inner object is in that wire's own spelling.
 */
export const Extensions = Schema.Record(Schema.String, Schema.Record(Schema.String, Schema.Unknown))
export type Extensions = typeof Extensions.Type

/** A prompt-cache breakpoint, as Anthropic defines it; `ttl` defaults to five minutes there. */
export const CacheControl = Schema.Struct({
  type: Schema.Literal("ephemeral"),
  ttl: Schema.optionalKey(Schema.Literals(["5m", "1h"]))
})
export interface CacheControl extends Schema.Schema.Type<typeof CacheControl> {}

/** Media at a public address. */
export const UrlSource = Schema.Struct({ type: Schema.Literal("url"), url: Schema.NonEmptyString })

/** Media inline, as standard base64 without a `data:` prefix. */
export const Base64Source = Schema.Struct({
  type: Schema.Literal("base64"),
  mediaType: Schema.NonEmptyString,
  data: Schema.String
}).pipe(Schema.encodeKeys({ mediaType: "media_type" }))

/** Media in the gateway's own FileStorage, by its id. */
export const FileSource = Schema.Struct({ type: Schema.Literal("file"), id: Schema.NonEmptyString })

/** Media that one provider already holds under an id of its own; no other provider can read it. */
export const ProviderFileSource = Schema.Struct({
  type: Schema.Literal("provider_file"),
  wire: Schema.NonEmptyString,
  id: Schema.NonEmptyString
})

/** A document given as plain text. */
export const TextSource = Schema.Struct({ type: Schema.Literal("text"), text: Schema.String })

/** Where media comes from. */
export const MediaSource = Schema.Union([UrlSource, Base64Source, FileSource, ProviderFileSource])
export type MediaSource = typeof MediaSource.Type

/** Where a document comes from. */
export const DocumentSource = Schema.Union([UrlSource, Base64Source, FileSource, ProviderFileSource, TextSource])
export type DocumentSource = typeof DocumentSource.Type

const partFields = {
  cacheControl: Schema.optionalKey(CacheControl),
  extensions: Schema.optionalKey(Extensions)
}

/** Text; `citations` are the provider's own citation objects, passed through. */
export const TextPart = Schema.Struct({
  type: Schema.Literal("text"),
  text: Schema.String,
  citations: Schema.optionalKey(Schema.Array(Schema.Unknown)),
  ...partFields
}).pipe(Schema.encodeKeys({ cacheControl: "cache_control" }))
export interface TextPart extends Schema.Schema.Type<typeof TextPart> {}

/** An image to look at, or one that a model made. `detail` is a hint for how closely to look. */
export const ImagePart = Schema.Struct({
  type: Schema.Literal("image"),
  source: MediaSource,
  detail: Schema.optionalKey(Schema.Literals(["auto", "low", "high", "original"])),
  ...partFields
}).pipe(Schema.encodeKeys({ cacheControl: "cache_control" }))
export interface ImagePart extends Schema.Schema.Type<typeof ImagePart> {}

/** Sound. `id` and `transcript` are set on audio that a model spoke. */
export const AudioPart = Schema.Struct({
  type: Schema.Literal("audio"),
  source: MediaSource,
  id: Schema.optionalKey(Schema.String),
  transcript: Schema.optionalKey(Schema.String),
  expiresAt: Schema.optionalKey(Schema.Finite),
  ...partFields
}).pipe(Schema.encodeKeys({ cacheControl: "cache_control", expiresAt: "expires_at" }))
export interface AudioPart extends Schema.Schema.Type<typeof AudioPart> {}

/** A moving picture. */
export const VideoPart = Schema.Struct({
  type: Schema.Literal("video"),
  source: MediaSource,
  ...partFields
}).pipe(Schema.encodeKeys({ cacheControl: "cache_control" }))
export interface VideoPart extends Schema.Schema.Type<typeof VideoPart> {}

/** A document: a PDF or plain text. `citations` asks the model to cite it, where it can. */
export const DocumentPart = Schema.Struct({
  type: Schema.Literal("document"),
  source: DocumentSource,
  filename: Schema.optionalKey(Schema.String),
  title: Schema.optionalKey(Schema.String),
  context: Schema.optionalKey(Schema.String),
  citations: Schema.optionalKey(Schema.Boolean),
  ...partFields
}).pipe(Schema.encodeKeys({ cacheControl: "cache_control" }))
export interface DocumentPart extends Schema.Schema.Type<typeof DocumentPart> {}

/**
 * The model's wish to have a tool called. `arguments` is the JSON text exactly as the model wrote it: it may be cut off
 * when the answer ended by length, so it is not parsed here.
 */
export const ToolCallPart = Schema.Struct({
  type: Schema.Literal("tool_call"),
  id: Schema.NonEmptyString,
  name: Schema.NonEmptyString,
  arguments: Schema.String,
  ...partFields
}).pipe(Schema.encodeKeys({ cacheControl: "cache_control" }))
export interface ToolCallPart extends Schema.Schema.Type<typeof ToolCallPart> {}

/** What may stand inside a tool's result. */
export const ToolResultContent = Schema.Union([TextPart, ImagePart, DocumentPart, AudioPart])
export type ToolResultContent = typeof ToolResultContent.Type

/** What a tool answered to the call `toolCallId`. */
export const ToolResultPart = Schema.Struct({
  type: Schema.Literal("tool_result"),
  toolCallId: Schema.NonEmptyString,
  content: Schema.Array(ToolResultContent),
  isError: Schema.optionalKey(Schema.Boolean),
  ...partFields
}).pipe(Schema.encodeKeys({ toolCallId: "tool_call_id", isError: "is_error", cacheControl: "cache_control" }))
export interface ToolResultPart extends Schema.Schema.Type<typeof ToolResultPart> {}

/**
 * The model's thinking. `signature` proves to the provider that `text` is its own; `data` is thinking that only the
 * provider can read (redacted or encrypted). Both must come back unchanged in the next turn, so they are never edited.
 * `wire` names the protocol that can read `signature` and `data`.
 */
export const ReasoningPart = Schema.Struct({
  type: Schema.Literal("reasoning"),
  text: Schema.optionalKey(Schema.String),
  signature: Schema.optionalKey(Schema.String),
  data: Schema.optionalKey(Schema.String),
  wire: Schema.optionalKey(Schema.String),
  extensions: Schema.optionalKey(Extensions)
})
export interface ReasoningPart extends Schema.Schema.Type<typeof ReasoningPart> {}

/** The model's refusal, where the provider tells it apart from ordinary text. */
export const RefusalPart = Schema.Struct({
  type: Schema.Literal("refusal"),
  text: Schema.String,
  extensions: Schema.optionalKey(Extensions)
})
export interface RefusalPart extends Schema.Schema.Type<typeof RefusalPart> {}

/** A block that only one wire knows (a server tool's use or result, say): handed through to that wire, refused elsewhere. */
export const OpaquePart = Schema.Struct({
  type: Schema.Literal("opaque"),
  wire: Schema.NonEmptyString,
  value: Schema.Record(Schema.String, Schema.Unknown)
})
export interface OpaquePart extends Schema.Schema.Type<typeof OpaquePart> {}

/** Anything that a message can hold. */
export const Part = Schema.Union([
  TextPart,
  ImagePart,
  AudioPart,
  VideoPart,
  DocumentPart,
  ToolCallPart,
  ToolResultPart,
  ReasoningPart,
  RefusalPart,
  OpaquePart
])
export type Part = typeof Part.Type

/** Makes a text part. */
export const text = (value: string): TextPart => ({ type: "text", text: value })

/** Joins the text parts of some content; other parts are passed over. */
export const textOf = (content: ReadonlyArray<Part>): string => {
  let joined = ""
  for (const part of content) if (part.type === "text") joined += part.text
  return joined
}

/**
 * Whether a part can be read by the account alone that made it, such as thinking that OpenAI has encrypted for one
 * organisation (https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items).
 */
export const isAccountBound = (part: Part): boolean => part.type === "reasoning" && part.data !== undefined
