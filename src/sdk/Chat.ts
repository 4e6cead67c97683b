/**
 * Chat: the provider-neutral request, response and stream.
 *
 * These are the values that flow through the gateway. Dialects and providers translate to and from them with the codecs
 * under `wire/`; the native API, RPC and in-process callers use them as they are. The schemas encode to snake_case JSON.
 */
import { Schema, SchemaGetter } from "effect"
import { Extensions, type OpaquePart, Part, text } from "./Content.ts"
import { JsonSchema, Tool, ToolChoice } from "./Tool.ts"
import { Usage } from "./Usage.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Request
// ---------------------------------------------------------------------------------------------------------------------

/** Who speaks. Tool results have a role of their own. */
export const Role = Schema.Literals(["system", "developer", "user", "assistant", "tool"])
export type Role = typeof Role.Type

/** A list of parts; a bare string is read as one text part. */
export const Content = Schema.Union([Schema.String, Schema.Array(Part)]).pipe(
  Schema.decodeTo(Schema.toType(Schema.Array(Part)), {
    decode: SchemaGetter.transform((value) => typeof value === "string" ? [text(value)] : value),
    encode: SchemaGetter.transform((parts) => parts)
  })
)

/** One turn of the conversation. `name` tells participants of the same role apart, where the provider can say it. */
export const Message = Schema.Struct({
  role: Role,
  content: Content,
  name: Schema.optionalKey(Schema.String),
  extensions: Schema.optionalKey(Extensions)
})
export interface Message extends Schema.Schema.Type<typeof Message> {}

/** How hard the model shall think: an effort in words, or a budget in tokens. */
export const Reasoning = Schema.Struct({
  effort: Schema.optionalKey(Schema.Literals(["none", "minimal", "low", "medium", "high", "xhigh", "max"])),
  budgetTokens: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
  enabled: Schema.optionalKey(Schema.Boolean)
}).pipe(Schema.encodeKeys({ budgetTokens: "budget_tokens" }))
export interface Reasoning extends Schema.Schema.Type<typeof Reasoning> {}

/**
 * The form that the answer must have: any JSON object, or JSON that fits a schema (JSON Schema 2020-12). The gateway
 * checks the answer against the schema whatever the provider promised.
 */
export const ResponseSchema = Schema.Union([
  Schema.Struct({ type: Schema.Literal("json_object") }),
  Schema.Struct({
    type: Schema.Literal("json_schema"),
    name: Schema.optionalKey(Schema.NonEmptyString),
    description: Schema.optionalKey(Schema.String),
    schema: JsonSchema,
    strict: Schema.optionalKey(Schema.Boolean)
  })
])
export type ResponseSchema = typeof ResponseSchema.Type

/** Other models to try: one after another, or in parallel after a delay. */
export const Fallback = Schema.Struct({
  models: Schema.Array(Schema.NonEmptyString),
  strategy: Schema.optionalKey(Schema.Literals(["sequential", "parallel"]))
})
export interface Fallback extends Schema.Schema.Type<typeof Fallback> {}

const Probability = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
const PositiveInt = Schema.Int.check(Schema.isGreaterThan(0))

const requestFields = {
  /** `slug::model`, a bare model id, or the name of a route. */
  model: Schema.NonEmptyString,
  messages: Schema.NonEmptyArray(Message),
  tools: Schema.optionalKey(Schema.Array(Tool)),
  toolChoice: Schema.optionalKey(ToolChoice),
  parallelToolCalls: Schema.optionalKey(Schema.Boolean),
  responseSchema: Schema.optionalKey(ResponseSchema),
  stream: Schema.optionalKey(Schema.Boolean),
  async: Schema.optionalKey(Schema.Boolean),
  fallback: Schema.optionalKey(Fallback),
  maxOutputTokens: Schema.optionalKey(PositiveInt),
  temperature: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 2 }))),
  topP: Schema.optionalKey(Probability),
  topK: Schema.optionalKey(PositiveInt),
  minP: Schema.optionalKey(Probability),
  frequencyPenalty: Schema.optionalKey(Schema.Finite),
  presencePenalty: Schema.optionalKey(Schema.Finite),
  repeatPenalty: Schema.optionalKey(Schema.Finite),
  seed: Schema.optionalKey(Schema.Int),
  stop: Schema.optionalKey(Schema.Array(Schema.String)),
  n: Schema.optionalKey(PositiveInt),
  logprobs: Schema.optionalKey(Schema.Boolean),
  topLogprobs: Schema.optionalKey(Schema.Int),
  logitBias: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)),
  reasoning: Schema.optionalKey(Reasoning),
  /** Names the end user to the provider's abuse monitoring. */
  user: Schema.optionalKey(Schema.String),
  metadata: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  serviceTier: Schema.optionalKey(Schema.String),
  /** Asks the provider to keep the answer and the conversation before it, where it can; the gateway keeps neither. */
  store: Schema.optionalKey(Schema.Boolean),
  /** An answer that the provider keeps (`store`): its conversation stands before the messages. */
  previousResponseId: Schema.optionalKey(Schema.NonEmptyString),
  extensions: Schema.optionalKey(Extensions)
}
const requestKeys = {
  toolChoice: "tool_choice",
  parallelToolCalls: "parallel_tool_calls",
  responseSchema: "response_schema",
  maxOutputTokens: "max_output_tokens",
  topP: "top_p",
  topK: "top_k",
  minP: "min_p",
  frequencyPenalty: "frequency_penalty",
  presencePenalty: "presence_penalty",
  repeatPenalty: "repeat_penalty",
  topLogprobs: "top_logprobs",
  logitBias: "logit_bias",
  serviceTier: "service_tier",
  previousResponseId: "previous_response_id"
} as const

/** A chat request in the gateway's own words. Optional fields that are absent leave the provider's default in place. */
export const ChatRequest = Schema.Struct(requestFields).pipe(Schema.encodeKeys(requestKeys))
export interface ChatRequest extends Schema.Schema.Type<typeof ChatRequest> {}

/** A chat request whose model is known from elsewhere, such as the route in an address; a model in it counts for nothing. */
export const RoutedRequest = Schema.Struct({ ...requestFields, model: Schema.optionalKey(Schema.String) }).pipe(
  Schema.encodeKeys(requestKeys)
)
export interface RoutedRequest extends Schema.Schema.Type<typeof RoutedRequest> {}

// ---------------------------------------------------------------------------------------------------------------------
// Response
// ---------------------------------------------------------------------------------------------------------------------

/** Why the answer ended. `tool_calls` wins over `stop` wherever the answer holds tool calls. */
export const FinishReason = Schema.Literals(["stop", "length", "tool_calls", "content_filter", "other"])
export type FinishReason = typeof FinishReason.Type

const choiceFields = {
  /** Every part in the order in which the model made it, tool calls included: append it to the conversation as it is. */
  content: Schema.Array(Part),
  finishReason: FinishReason,
  /** The provider's own word for it. */
  nativeFinishReason: Schema.optionalKey(Schema.String),
  /** The stop sequence that ended the answer, where the provider says which. */
  stopSequence: Schema.optionalKey(Schema.String),
  extensions: Schema.optionalKey(Extensions)
}
const choiceKeys = {
  finishReason: "finish_reason",
  nativeFinishReason: "native_finish_reason",
  stopSequence: "stop_sequence"
} as const

/** A further answer to the same request, where `n` asked for several. */
export const Alternative = Schema.Struct(choiceFields).pipe(Schema.encodeKeys(choiceKeys))
export interface Alternative extends Schema.Schema.Type<typeof Alternative> {}

const responseFields = {
  id: Schema.String,
  /** The model as the provider names the one that served. */
  model: Schema.String,
  /** Unix seconds. */
  created: Schema.optionalKey(Schema.Finite),
  ...choiceFields,
  /** Second and later choices. */
  alternatives: Schema.optionalKey(Schema.Array(Alternative)),
  usage: Schema.optionalKey(Usage),
  /** Parameters of the request that the provider had no form for and did not get, in the native spelling. */
  droppedParams: Schema.optionalKey(Schema.Array(Schema.String)),
  /** The canonical id (`slug::model`) of the model that served; set by the pipeline. */
  modelUsed: Schema.optionalKey(Schema.String),
  /** Whether a candidate other than the first one served; set by the pipeline. */
  fallbackUsed: Schema.optionalKey(Schema.Boolean)
}
const responseKeys = {
  ...choiceKeys,
  droppedParams: "dropped_params",
  modelUsed: "model_used",
  fallbackUsed: "fallback_used"
} as const

/** A whole answer. */
export const ChatResponse = Schema.Struct(responseFields).pipe(Schema.encodeKeys(responseKeys))
export interface ChatResponse extends Schema.Schema.Type<typeof ChatResponse> {}

/** One of an answer's tool calls, without the rest of the answer around it. */
export const ToolCall = Schema.Struct({ id: Schema.String, name: Schema.String, arguments: Schema.String })
export interface ToolCall extends Schema.Schema.Type<typeof ToolCall> {}

/** A whole answer as the native API gives it: the tool calls among `content` are listed once more by themselves. */
export const ChatAnswer = Schema.Struct({ ...responseFields, toolCalls: Schema.Array(ToolCall) }).pipe(
  Schema.encodeKeys({ ...responseKeys, toolCalls: "tool_calls" })
)
export interface ChatAnswer extends Schema.Schema.Type<typeof ChatAnswer> {}

/** The native API's view of a response. */
export const toAnswer = (response: ChatResponse): ChatAnswer => ({
  ...response,
  toolCalls: response.content.flatMap((part) =>
    part.type === "tool_call" ? [{ id: part.id, name: part.name, arguments: part.arguments }] : []
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Stream
// ---------------------------------------------------------------------------------------------------------------------

const deltaIndex = {
  /** The part's position in the answer's content. */
  index: Schema.Int
}

/**
 * A piece of the answer. `index` is the part's position in the content of the whole answer; deltas of one part follow
 * each other, and joining them by index gives the parts of `ChatResponse.content`.
 */
export const PartDelta = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("text"),
    ...deltaIndex,
    text: Schema.String,
    citations: Schema.optionalKey(Schema.Array(Schema.Unknown))
  }),
  Schema.Struct({
    type: Schema.Literal("reasoning"),
    ...deltaIndex,
    text: Schema.optionalKey(Schema.String),
    signature: Schema.optionalKey(Schema.String),
    data: Schema.optionalKey(Schema.String),
    wire: Schema.optionalKey(Schema.String)
  }),
  Schema.Struct({ type: Schema.Literal("refusal"), ...deltaIndex, text: Schema.String }),
  /** `id` and `name` come with the first delta of a call, `arguments` in fragments of JSON text. */
  Schema.Struct({
    type: Schema.Literal("tool_call"),
    ...deltaIndex,
    id: Schema.optionalKey(Schema.String),
    name: Schema.optionalKey(Schema.String),
    arguments: Schema.optionalKey(Schema.String)
  }),
  /** Base64 of whole bytes in each delta, and the transcript as it grows. */
  Schema.Struct({
    type: Schema.Literal("audio"),
    ...deltaIndex,
    id: Schema.optionalKey(Schema.String),
    mediaType: Schema.optionalKey(Schema.String),
    data: Schema.optionalKey(Schema.String),
    transcript: Schema.optionalKey(Schema.String),
    expiresAt: Schema.optionalKey(Schema.Finite)
  }).pipe(Schema.encodeKeys({ mediaType: "media_type", expiresAt: "expires_at" })),
  /** A whole part at once: an image, or a block of one wire alone. */
  Schema.Struct({ type: Schema.Literal("part"), ...deltaIndex, part: Part })
])
export type PartDelta = typeof PartDelta.Type

/**
 * One step of a streamed answer. A stream is: chunks with deltas, one chunk with `finishReason` for each choice, and a
 * chunk with `usage` (the final, cumulative figures). A chunk without delta, finish reason and usage carries only
 * metadata (`id`, `model`). A stream that fails ends in its error channel, never in a finish reason.
 */
export const ChatChunk = Schema.Struct({
  id: Schema.String,
  model: Schema.String,
  created: Schema.optionalKey(Schema.Finite),
  /** The choice that this chunk belongs to; absent is 0. */
  choice: Schema.optionalKey(Schema.Int),
  delta: Schema.Array(PartDelta),
  finishReason: Schema.optionalKey(FinishReason),
  nativeFinishReason: Schema.optionalKey(Schema.String),
  stopSequence: Schema.optionalKey(Schema.String),
  usage: Schema.optionalKey(Usage),
  droppedParams: Schema.optionalKey(Schema.Array(Schema.String)),
  extensions: Schema.optionalKey(Extensions)
}).pipe(Schema.encodeKeys({ ...choiceKeys, droppedParams: "dropped_params" }))
export interface ChatChunk extends Schema.Schema.Type<typeof ChatChunk> {}

/** Whether a chunk holds something that the caller would see as content. Such a chunk commits the request. */
export const hasContent = (chunk: ChatChunk): boolean => {
  for (const delta of chunk.delta) {
    switch (delta.type) {
      case "text":
      case "refusal":
        if (delta.text !== "" || ("citations" in delta && delta.citations !== undefined)) return true
        break
      default:
        return true
    }
  }
  return false
}

/** The opaque parts of some content that `wire` cannot read; a codec refuses a request that holds any. */
export const foreignParts = (content: ReadonlyArray<Part>, wire: string): ReadonlyArray<OpaquePart> =>
  content.filter((part): part is OpaquePart => part.type === "opaque" && part.wire !== wire)
