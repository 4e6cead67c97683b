/**
 * The response object (https://platform.openai.com/docs/api-reference/responses/object): whole, and as the snapshots that
 * a stream begins and ends with. It repeats the request's settings, as OpenAI's does; a setting that the caller left to
 * the provider is null where OpenAI would tell its own default. `store` is false unless a provider was asked to keep it.
 */
import type { ChatRequest, ChatResponse, FinishReason } from "../../../sdk/Chat.ts"
import { textOf } from "../../../sdk/Content.ts"
import type { GatewayError } from "../../../sdk/GatewayError.ts"
import type { ResponseSchema } from "../../../sdk/Chat.ts"
import type { ToolChoice } from "../../../sdk/Tool.ts"
import type { Usage } from "../../../sdk/Usage.ts"
import { sourceOf } from "../../../sdk/Wire.ts"
import type { Json } from "../../Codec.ts"
import { array, isJson, object } from "../../Json.ts"
import { errorObject } from "../OpenAiError.ts"
import { ownExtensions as chatExtensions } from "../OpenAiExtensions.ts"
import { echoOf, isInstructions, wire } from "./ResponsesExtensions.ts"
import { encodeUsage, idBase, outputOf } from "./ResponsesOutput.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The request's settings
// ---------------------------------------------------------------------------------------------------------------------

const functionOf = (name: string): Json => ({ type: "function", name })

/** A choice of tools in this API's form. */
export const encodeToolChoice = (choice: ToolChoice): unknown => {
  switch (choice.type) {
    case "tool":
      return functionOf(choice.name)
    case "allowed":
      return { type: "allowed_tools", mode: choice.mode, tools: choice.names.map(functionOf) }
    default:
      return choice.type
  }
}

const encodeFormat = (schema: ResponseSchema | undefined): Json => {
  if (schema === undefined) return { type: "text" }
  if (schema.type === "json_object") return { type: "json_object" }
  return {
    type: "json_schema",
    name: schema.name ?? "response",
    description: schema.description ?? null,
    schema: schema.schema,
    strict: schema.strict ?? false
  }
}

/** The settings of a request, as every snapshot of its answer repeats them. */
export const settingsOf = (request: ChatRequest): Json => {
  const chat = chatExtensions(request) ?? {}
  const echo = echoOf(request)
  const first = request.messages[0]
  return {
    background: false,
    instructions: isInstructions(first) ? textOf(first.content) : null,
    max_output_tokens: request.maxOutputTokens ?? null,
    max_tool_calls: echo["max_tool_calls"] ?? null,
    metadata: request.metadata ?? {},
    parallel_tool_calls: request.parallelToolCalls ?? echo["parallel_tool_calls"] ?? true,
    previous_response_id: request.previousResponseId ?? null,
    prompt_cache_key: chat["prompt_cache_key"] ?? null,
    reasoning: {
      effort: request.reasoning?.effort ?? chat["reasoning_effort"] ?? null,
      summary: echo["summary"] ?? null
    },
    safety_identifier: chat["safety_identifier"] ?? null,
    service_tier: request.serviceTier ?? null,
    store: request.store === true,
    temperature: request.temperature ?? null,
    text: {
      format: encodeFormat(request.responseSchema),
      ...(chat["verbosity"] === undefined ? {} : { verbosity: chat["verbosity"] })
    },
    tool_choice: request.toolChoice === undefined
      ? echo["tool_choice"] ?? "auto"
      : encodeToolChoice(request.toolChoice),
    tools: (request.tools ?? []).flatMap((tool) =>
      tool.type === "unified"
        ? [{
          type: "function",
          name: tool.name,
          description: tool.description ?? null,
          parameters: tool.parameters ?? null,
          strict: tool.strict ?? null
        }]
        : []
    ),
    top_logprobs: request.topLogprobs ?? 0,
    top_p: request.topP ?? null,
    truncation: "disabled",
    ...(request.user === undefined || request.user === chat["safety_identifier"] ? {} : { user: request.user })
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Snapshots
// ---------------------------------------------------------------------------------------------------------------------

/** What a snapshot tells beside the settings. */
export interface Snapshot {
  /** Made by `idBase`. */
  readonly base: string
  readonly model: string
  /** Unix seconds. */
  readonly created: number
  readonly output: ReadonlyArray<Json>
  readonly usage?: Usage | undefined
}

const why: ReadonlyMap<FinishReason, string> = new Map([
  ["length", "max_output_tokens"],
  ["content_filter", "content_filter"]
])

const written = (
  { base, created, model, output, usage }: Snapshot,
  settings: Json,
  status: string,
  error: Json | null,
  incomplete: Json | null
): Json => ({
  id: `resp_${base}`,
  object: "response",
  created_at: created,
  status,
  error,
  incomplete_details: incomplete,
  model,
  output,
  usage: usage === undefined ? null : encodeUsage(usage),
  ...settings
})

/** An answer that is under way. */
export const inProgress = (snapshot: Snapshot, settings: Json): Json =>
  written(snapshot, settings, "in_progress", null, null)

/** An answer that has ended, whole or cut; `status` says which. */
export const ended = (snapshot: Snapshot, settings: Json, reason: FinishReason): Json & { readonly status: string } => {
  const cut = why.get(reason)
  const status = cut === undefined ? "completed" : "incomplete"
  return { ...written(snapshot, settings, status, null, cut === undefined ? null : { reason: cut }), status }
}

/**
 * An answer that failed. The codes of this object are few: a failure that none of them names keeps the code that an error
 * body would have.
 */
export const failed = (snapshot: Snapshot, settings: Json, error: GatewayError): Json => {
  const { code, message } = errorObject(error)
  const word = error.status === 429 ? "rate_limit_exceeded" : error.status >= 500 ? "server_error" : code
  return written(snapshot, settings, "failed", { code: word, message }, null)
}

// ---------------------------------------------------------------------------------------------------------------------
// Whole answers
// ---------------------------------------------------------------------------------------------------------------------

/** The log probabilities of an answer's tokens, as OpenAI's chat tells them; both of its APIs have one form for them. */
export const logprobsOf = (value: Parameters<typeof chatExtensions>[0]): ReadonlyArray<unknown> =>
  array(object(object(chatExtensions(value)?.["choice"])?.["logprobs"])?.["content"])

/**
 * Writes a whole answer: as it came, where it came in this form. `now` is Unix seconds, for providers that tell no time.
 * Choices after the first have no form here.
 */
export const encodeResponse = (response: ChatResponse, request: ChatRequest, now: number): Json => {
  const original = sourceOf(response, wire)?.json
  if (isJson(original)) return original
  const { content, created, finishReason, id, model, usage } = response
  const base = idBase(id)
  const output = outputOf(content, base, finishReason, logprobsOf(response))
  return ended({ base, model, created: created ?? now, output, usage }, settingsOf(request), finishReason)
}
