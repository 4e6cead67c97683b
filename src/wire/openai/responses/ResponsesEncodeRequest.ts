/**
 * Writes a chat request for an upstream that speaks OpenAI's Responses API. What `ResponsesDecodeRequest` kept in
 * `extensions["openai-responses"]` goes back to where it stood, and the fields that both of OpenAI's APIs have are written
 * in this one's form. What the wire has no form for is refused with its path, or named in `dropped`.
 *
 * Normalisations, all of them equal to OpenAI: an input text is one message; a message of one plain text has it as a
 * string; ids and states of earlier items are left out. `store` is false unless the caller asked for it, and a model that
 * thinks is asked for its encrypted thinking, without which a conversation that nobody stores could not go on.
 */
import { Result } from "effect"
import type { Message } from "../../../sdk/Chat.ts"
import type { ValidationError } from "../../../sdk/GatewayError.ts"
import { can } from "../../../sdk/Model.ts"
import type { ChatCall } from "../../../sdk/Provider.ts"
import type { ResolvedTool } from "../../../sdk/Tool.ts"
import type { EncodedRequest, Json } from "../../Codec.ts"
import { foreignTool } from "../../Foreign.ts"
import { reportForeign } from "../../ForeignExtensions.ts"
import { array, object } from "../../Json.ts"
import { makeReport, type Report } from "../../Report.ts"
import { merge, ownExtensions as chatExtensions, wire as openAi } from "../OpenAiExtensions.ts"
import { effortOf } from "../OpenAiReasoning.ts"
import { encodeInput } from "./ResponsesEncodeInput.ts"
import { echoOf, isInstructions, ownExtensions, wire } from "./ResponsesExtensions.ts"
import { encodeToolChoice } from "./ResponsesResponse.ts"

const encrypted = "reasoning.encrypted_content"
const logprobs = "message.output_text.logprobs"

// ---------------------------------------------------------------------------------------------------------------------
// Tools
// ---------------------------------------------------------------------------------------------------------------------

const encodeTool = (
  tool: ResolvedTool,
  index: number,
  strict: boolean | undefined,
  report: Report
): Json | undefined => {
  if (tool.type === "opaque") {
    return tool.wire === wire
      ? tool.value
      : report.refuse(
        `tools[${index}]`,
        `${foreignTool(tool.value)} is of the ${tool.wire} wire, which the ${wire} wire cannot express`
      )
  }
  const own = ownExtensions(tool)
  if (tool.cacheControl !== undefined && own?.["cache_control"] === undefined) report.drop("tools[].cache_control")
  const written = tool.strict ?? strict
  return merge({
    type: "function",
    name: tool.name,
    ...(tool.description === undefined ? {} : { description: tool.description }),
    parameters: tool.parameters ?? null,
    ...(written === undefined ? {} : { strict: written })
  }, own)
}

const encodeTools = (call: ChatCall, byDefault: boolean, report: Report): ReadonlyArray<Json> | undefined => {
  const { tools } = call.request
  if (tools === undefined) return undefined
  // A function is strict here unless it says otherwise; everywhere else it is not.
  const strict = byDefault ? undefined : false
  const written: Array<Json> = []
  for (let index = 0; index < tools.length; index++) {
    const tool = tools[index]
    const encoded = tool === undefined ? undefined : encodeTool(tool, index, strict, report)
    if (encoded !== undefined) written.push(encoded)
  }
  return written
}

// ---------------------------------------------------------------------------------------------------------------------
// Settings
// ---------------------------------------------------------------------------------------------------------------------

/** Fields of OpenAI's chat that this API has as well, some of them elsewhere; the rest are chat's alone. */
const shared = new Set([
  "prompt_cache_key",
  "prompt_cache_retention",
  "safety_identifier",
  "reasoning_effort",
  "verbosity",
  "user"
])

/** The request without the chat fields that are written in this API's form, so that what is left counts as foreign. */
const withoutShared = (request: ChatCall["request"]): ChatCall["request"] => {
  const chat = chatExtensions(request)
  if (chat === undefined) return request
  const others = Object.fromEntries(Object.entries(chat).filter(([key]) => !shared.has(key)))
  return { ...request, extensions: { ...request.extensions, [openAi]: others } }
}

const encodeReasoning = (call: ChatCall, able: boolean, report: Report): Json | undefined => {
  const { reasoning } = call.request
  const own = object(ownExtensions(call.request)?.["reasoning"])
  const { summary } = echoOf(call.request)
  const written: Record<string, unknown> = {}
  const kept = chatExtensions(call.request)?.["reasoning_effort"]
  if (kept !== undefined) written["effort"] = kept
  if (reasoning !== undefined) {
    if (reasoning.effort !== undefined) {
      written["effort"] = reasoning.effort
      if (reasoning.budgetTokens !== undefined) report.drop("reasoning.budget_tokens")
    } else if (reasoning.budgetTokens !== undefined && reasoning.enabled !== false) {
      report.drop("reasoning.budget_tokens")
      if (able) written["effort"] = effortOf(reasoning.budgetTokens)
    } else if (reasoning.enabled === false) {
      if (able && call.model.capabilities !== undefined) written["effort"] = "none"
      else if (able) report.drop("reasoning.enabled")
    } else if (reasoning.enabled === true && able) written["summary"] = "auto"
  }
  if (typeof summary === "string") written["summary"] = summary
  merge(written, own)
  return Object.keys(written).length === 0 ? undefined : written
}

const encodeText = (call: ChatCall): Json | undefined => {
  const { responseSchema } = call.request
  const written: Record<string, unknown> = {}
  if (responseSchema?.type === "json_object") written["format"] = { type: "json_object" }
  else if (responseSchema !== undefined) {
    written["format"] = {
      type: "json_schema",
      name: responseSchema.name ?? "response",
      ...(responseSchema.description === undefined ? {} : { description: responseSchema.description }),
      schema: responseSchema.schema,
      ...(responseSchema.strict === undefined ? {} : { strict: responseSchema.strict })
    }
  }
  const verbosity = chatExtensions(call.request)?.["verbosity"]
  if (verbosity !== undefined) written["verbosity"] = verbosity
  merge(written, object(ownExtensions(call.request)?.["text"]))
  return Object.keys(written).length === 0 ? undefined : written
}

/** What the answer shall hold beside what it always does. */
const encodeInclude = (call: ChatCall, able: boolean): ReadonlyArray<unknown> => {
  const include = new Set([
    ...array(echoOf(call.request)["include"]),
    ...array(ownExtensions(call.request)?.["include"])
  ])
  if (call.request.logprobs === true && call.request.topLogprobs === undefined) include.add(logprobs)
  // A model that does not think refuses the word.
  if (able && call.model.capabilities !== undefined) include.add(encrypted)
  return Array.from(include)
}

/** Reports what no request of this API can say. */
const reportMissing = (call: ChatCall, report: Report): void => {
  const { request } = call
  if (request.n !== undefined && request.n > 1) report.refuse("n", "this API gives one answer to a request")
  if ((request.stop?.length ?? 0) > 0) report.refuse("stop", "this API knows no stop sequences")
  if (request.logitBias !== undefined && Object.keys(request.logitBias).length > 0) report.drop("logit_bias")
  if (request.presencePenalty !== undefined && request.presencePenalty !== 0) report.drop("presence_penalty")
  if (request.frequencyPenalty !== undefined && request.frequencyPenalty !== 0) report.drop("frequency_penalty")
  if (request.repeatPenalty !== undefined && request.repeatPenalty !== 1) report.drop("repeat_penalty")
  if (request.seed !== undefined) report.drop("seed")
  if (request.topK !== undefined) report.drop("top_k")
  if (request.minP !== undefined && request.minP !== 0) report.drop("min_p")
}

/** Fields that extensions never set: what the gateway decides, what it counts with, and its own notes. */
const reserved: ReadonlySet<string> = new Set([
  "model",
  "input",
  "instructions",
  "stream",
  "max_output_tokens",
  "background",
  "store",
  "previous_response_id",
  "echo",
  "include",
  "reasoning",
  "text"
])

const instructionsOf = (message: Message | undefined): string | undefined => {
  const [only, second] = message?.content ?? []
  return message !== undefined && isInstructions(message) && only?.type === "text" && second === undefined
    ? only.text
    : undefined
}

/** Writes the body of a request; fails with what this wire cannot say, located in the request's own spelling. */
export const encodeRequest = (call: ChatCall, stream: boolean): Result.Result<EncodedRequest, ValidationError> => {
  const { request } = call
  const own = ownExtensions(request)
  const chat = chatExtensions(request)
  const echo = echoOf(request)
  const report = makeReport()
  const able = can(call.model, "reasoning")
  const instructions = instructionsOf(request.messages[0])
  const body: Record<string, unknown> = {
    model: call.model.model,
    ...(instructions === undefined ? {} : { instructions }),
    input: encodeInput(request.messages, instructions === undefined ? 0 : 1, report)
  }
  const set = (key: string, value: unknown): void => {
    if (value !== undefined) body[key] = value
  }
  set("tools", encodeTools(call, echo["strict_by_default"] === true, report))
  set("tool_choice", request.toolChoice === undefined ? echo["tool_choice"] : encodeToolChoice(request.toolChoice))
  set("parallel_tool_calls", request.parallelToolCalls ?? echo["parallel_tool_calls"])
  set("max_tool_calls", echo["max_tool_calls"])
  set("max_output_tokens", request.maxOutputTokens)
  set("temperature", request.temperature)
  set("top_p", request.topP)
  set("top_logprobs", request.topLogprobs)
  set("reasoning", encodeReasoning(call, able, report))
  set("text", encodeText(call))
  const include = encodeInclude(call, able)
  if (include.length > 0) body["include"] = include
  set("prompt_cache_key", chat?.["prompt_cache_key"])
  set("prompt_cache_retention", chat?.["prompt_cache_retention"])
  set("safety_identifier", chat?.["safety_identifier"])
  // A safety identifier was read as the user, and goes back as what it was, or as both where both were told.
  if (request.user !== chat?.["safety_identifier"] || chat?.["user"] !== undefined) set("user", request.user)
  set("metadata", request.metadata)
  set("service_tier", request.serviceTier)
  if (stream) body["stream"] = true
  else if (request.stream !== undefined) body["stream"] = false
  body["store"] = request.store === true
  set("previous_response_id", request.previousResponseId)
  merge(body, own, reserved)
  reportMissing(call, report)
  reportForeign(withoutShared(request), wire, report)
  const error = report.error()
  return error === undefined ? Result.succeed({ body, dropped: report.dropped() }) : Result.fail(error)
}
