/**
 * Canonical request to Anthropic's Messages request. What the wire cannot say is refused with the field's name or named
 * in `dropped`; nothing is lost without a word. Documented normalisations: text is always sent as blocks, neighbouring
 * turns of one role become one turn, blank text blocks are left out, tool results lead their turn, `user` is hashed.
 *
 * A conversation may begin with the assistant: Anthropic takes it today (recorded with Claude Sonnet 4.6), so it is sent
 * as it stands and an older model's refusal reaches the caller.
 */
import { Result } from "effect"
import { createHash } from "node:crypto"
import type { Message } from "../../sdk/Chat.ts"
import type { Part, ToolResultPart } from "../../sdk/Content.ts"
import type { ValidationError } from "../../sdk/GatewayError.ts"
import type { ChatCall } from "../../sdk/Provider.ts"
import type { ResolvedTool } from "../../sdk/Tool.ts"
import type { EncodedRequest, Json } from "../Codec.ts"
import { foreignTool } from "../Foreign.ts"
import { reportForeign } from "../ForeignExtensions.ts"
import {
  encodeDocument,
  encodeImage,
  encodeOpaque,
  encodeReasoning,
  encodeResult,
  encodeText,
  encodeToolCall,
  extended
} from "./AnthropicBlocks.ts"
import { decideThinking } from "./AnthropicThinking.ts"
import { wire } from "./AnthropicExtensions.ts"
import { isJson, isList } from "../Json.ts"
import { makeReport, type Report } from "../Report.ts"
import { type ModelTraits, traitsOf } from "./ModelTraits.ts"
import { type AnswerTool, answerTool, forcesTools } from "./StructuredOutput.ts"

/** The version of the API that the codec writes. `extensions.anthropic.anthropic_version` names another one. */
export const defaultVersion = "2023-06-01"

/** `max_tokens` where neither the request nor the catalogue tells one; every model since Claude 3.5 can answer as much. */
export const defaultMaxTokens = 8192

/** Anthropic takes this many cache breakpoints in a request. */
const maxBreakpoints = 4

const hash = (text: string): string => createHash("sha256").update(text).digest("hex")

// ---------------------------------------------------------------------------------------------------------------------
// State of one encoding
// ---------------------------------------------------------------------------------------------------------------------

interface Encoding {
  readonly call: ChatCall
  readonly report: Report
  readonly traits: ModelTraits
  /** Counts a block that ends a cached prefix. */
  readonly breakpoint: (block: Json, path: string) => void
  readonly toolId: (id: string) => string
}

const legalId = /^[a-zA-Z0-9_-]+$/

/**
 * Rewrites tool call ids that Anthropic would refuse. The new id depends on the old one alone, so that a conversation's
 * prefix stays the same from turn to turn (and stays cached), and never meets another id of the request.
 */
const idRewriter = (messages: ReadonlyArray<Message>): (id: string) => string => {
  const rewritten = new Map<string, string>()
  let taken: Set<string> | undefined
  return (id) => {
    if (legalId.test(id)) return id
    const known = rewritten.get(id)
    if (known !== undefined) return known
    if (taken === undefined) {
      taken = new Set()
      for (const message of messages) {
        for (const part of message.content) {
          if (part.type === "tool_call") taken.add(part.id)
          if (part.type === "tool_result") taken.add(part.toolCallId)
        }
      }
    }
    const readable = id.replaceAll(/[^a-zA-Z0-9_-]/g, "_").slice(0, 32)
    let candidate = `${readable}_${hash(id).slice(0, 16)}`
    for (let turn = 1; taken.has(candidate); turn += 1) candidate = `${readable}_${hash(`${id}#${turn}`).slice(0, 16)}`
    taken.add(candidate)
    rewritten.set(id, candidate)
    return candidate
  }
}

const start = (call: ChatCall): Encoding => {
  const report = makeReport()
  let breakpoints = 0
  return {
    call,
    report,
    traits: traitsOf(call.model.model),
    breakpoint: (block, path) => {
      if (!isJson(block["cache_control"])) return
      breakpoints += 1
      if (breakpoints === maxBreakpoints + 1) {
        report.refuse(`${path}.cache_control`, `a request can have at most ${maxBreakpoints} cache breakpoints`)
      }
    },
    toolId: idRewriter(call.request.messages)
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tools
// ---------------------------------------------------------------------------------------------------------------------

const encodeTool = (tool: ResolvedTool, path: string, { breakpoint, report }: Encoding): Json | undefined => {
  if (tool.type === "opaque") {
    if (tool.wire === wire) {
      breakpoint(tool.value, path)
      return tool.value
    }
    return report.refuse(path, `${foreignTool(tool.value)} has no form in Anthropic's protocol`)
  }
  const encoded = extended(tool, {
    name: tool.name,
    ...(tool.description === undefined ? {} : { description: tool.description }),
    input_schema: tool.parameters ?? { type: "object", properties: {} },
    ...(tool.strict === undefined ? {} : { strict: tool.strict })
  })
  breakpoint(encoded, path)
  return encoded
}

const nameOf = (tool: ResolvedTool): unknown => tool.type === "unified" ? tool.name : tool.value["name"]

/** The tool that stands for the response schema. Its schema must describe an object, as every tool's input does. */
const encodeAnswerTool = (answer: AnswerTool, { call, report }: Encoding): Json | undefined => {
  const form = call.request.responseSchema
  if (form?.type !== "json_schema") return undefined
  if (form.schema["type"] !== "object") {
    return report.refuse("response_schema.schema", "the schema must be of type \"object\" for this model")
  }
  return {
    name: answer.name,
    description: form.description ??
      "Gives the final answer. Call it exactly once, with the whole answer as its input.",
    input_schema: form.schema
  }
}

interface Tools {
  readonly tools?: ReadonlyArray<Json>
  readonly toolChoice?: Json
}

const encodeChoice = ({ call, report }: Encoding, tools: ReadonlyArray<Json>): Json | undefined => {
  const { parallelToolCalls, toolChoice } = call.request
  if (tools.length === 0) {
    return forcesTools(call)
      ? report.refuse("tool_choice", "the request forces a tool call but has no tools")
      : undefined
  }
  const parallel = parallelToolCalls === undefined ? {} : { disable_parallel_tool_use: !parallelToolCalls }
  // Parallel calls are the default, so only their refusal is worth a choice of its own.
  if (toolChoice === undefined) return parallelToolCalls === false ? { type: "auto", ...parallel } : undefined
  switch (toolChoice.type) {
    case "none":
      return { type: "none" }
    case "tool":
      return { type: "tool", name: toolChoice.name, ...parallel }
    case "allowed":
      return { type: toolChoice.mode === "required" ? "any" : "auto", ...parallel }
    default:
      return { type: toolChoice.type === "required" ? "any" : "auto", ...parallel }
  }
}

const encodeTools = (encoding: Encoding, answer: AnswerTool | undefined): Tools => {
  const { toolChoice, tools: given = [] } = encoding.call.request
  const allowed = toolChoice?.type === "allowed" ? new Set<unknown>(toolChoice.names) : undefined
  const tools: Array<Json> = []
  for (const [at, tool] of given.entries()) {
    if (allowed !== undefined && !allowed.has(nameOf(tool))) continue
    const encoded = encodeTool(tool, `tools[${at}]`, encoding)
    if (encoded !== undefined) tools.push(encoded)
  }
  if (answer === undefined) {
    const choice = encodeChoice(encoding, tools)
    return { ...(tools.length === 0 ? {} : { tools }), ...(choice === undefined ? {} : { toolChoice: choice }) }
  }
  const own = encodeAnswerTool(answer, encoding)
  return {
    tools: own === undefined ? tools : [...tools, own],
    toolChoice: answer.amongOthers
      ? {
        type: "any",
        ...(encoding.call.request.parallelToolCalls === false ? { disable_parallel_tool_use: true } : {})
      }
      : { type: "tool", name: answer.name, disable_parallel_tool_use: true }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Conversation
// ---------------------------------------------------------------------------------------------------------------------

type MutableJson = { -readonly [Key in keyof Json]: Json[Key] }

interface Turn {
  readonly role: "user" | "assistant" | "system"
  /** Tool results, which must lead their turn. */
  readonly results: Array<MutableJson>
  /** The results by the call that they answer; absent as long as there are none. */
  answered: Map<string, MutableJson> | undefined
  readonly content: Array<Json>
  extra: Json | undefined
}

/** Whether a system message stands inside an Anthropic conversation and shall stay there, instead of going to the top. */
const staysInPlace = (message: Message): boolean => message.extensions?.[wire]?.["mid_conversation"] === true

const encodeSystem = (message: Message, path: string, encoding: Encoding): Array<Json> => {
  const blocks: Array<Json> = []
  for (const [at, part] of message.content.entries()) {
    const partPath = `${path}.content[${at}]`
    if (part.type !== "text") {
      encoding.report.refuse(partPath, `a ${message.role} message takes only text`)
      continue
    }
    const block = encodeText(part, encoding.report)
    if (block === undefined) continue
    encoding.breakpoint(block, partPath)
    blocks.push(block)
  }
  return blocks
}

/** Adds a tool's result; a second result for the same call joins the first, since Anthropic takes one for each call. */
const addResult = (turn: Turn, part: ToolResultPart, path: string, encoding: Encoding): void => {
  const id = encoding.toolId(part.toolCallId)
  const content = encodeResult(part, path, encoding.report, encoding.breakpoint)
  const earlier = turn.answered?.get(id)
  if (earlier === undefined) {
    const block = extended(part, {
      type: "tool_result",
      tool_use_id: id,
      ...(content.length === 0 ? {} : { content }),
      ...(part.isError === undefined ? {} : { is_error: part.isError })
    })
    encoding.breakpoint(block, path)
    const result = { ...block }
    turn.results.push(result)
    turn.answered ??= new Map()
    turn.answered.set(id, result)
    return
  }
  const first = earlier["content"]
  earlier["content"] = isList(first) ? [...first, ...content] : content
  if (part.isError === true) earlier["is_error"] = true
  if (part.cacheControl !== undefined && earlier["cache_control"] === undefined) {
    earlier["cache_control"] = part.cacheControl
    encoding.breakpoint(earlier, path)
  }
}

const encodeUserPart = (part: Part, message: Message, path: string, { report }: Encoding): Json | undefined => {
  switch (part.type) {
    case "text":
      return encodeText(part, report)
    case "image":
      return encodeImage(part, path, report)
    case "document":
      return encodeDocument(part, path, report)
    case "opaque":
      return encodeOpaque(part, path, report)
    case "audio":
    case "video":
      return report.refuse(path, `this provider takes no ${part.type}`)
    default:
      return report.refuse(path, `a ${message.role} message cannot hold a part of type "${part.type}"`)
  }
}

const addUser = (turn: Turn, message: Message, path: string, encoding: Encoding): void => {
  for (const [at, part] of message.content.entries()) {
    const partPath = `${path}.content[${at}]`
    if (part.type === "tool_result") {
      addResult(turn, part, partPath, encoding)
      continue
    }
    const isResult = part.type === "opaque" && part.value["type"] === "tool_result"
    if (message.role === "tool" && !isResult) {
      encoding.report.refuse(partPath, "a tool message holds tool results only")
      continue
    }
    const block = encodeUserPart(part, message, partPath, encoding)
    if (block === undefined) continue
    encoding.breakpoint(block, partPath)
    if (isResult) turn.results.push({ ...block })
    else turn.content.push(block)
  }
}

const isThinking = (block: Json | undefined): boolean =>
  block?.["type"] === "thinking" || block?.["type"] === "redacted_thinking"

const addAssistant = (turn: Turn, message: Message, path: string, encoding: Encoding): void => {
  const { report } = encoding
  const blocks: Array<Json> = []
  let opaque = false
  let calls = 0
  for (const [at, part] of message.content.entries()) {
    const partPath = `${path}.content[${at}]`
    let block: Json | undefined
    switch (part.type) {
      case "text":
        block = encodeText(part, report)
        break
      case "refusal":
        block = encodeText({ type: "text", text: part.text }, report)
        break
      case "reasoning":
        block = encodeReasoning(part)
        if (block === undefined) report.drop("messages[].content[].reasoning")
        break
      case "tool_call":
        block = encodeToolCall(part, encoding.toolId(part.id), `${path}.tool_calls[${calls}]`, report)
        calls += 1
        break
      case "opaque":
        opaque = true
        block = encodeOpaque(part, partPath, report)
        break
      default:
        report.refuse(partPath, `an assistant message cannot hold a part of type "${part.type}" for this provider`)
    }
    if (block === undefined) continue
    encoding.breakpoint(block, partPath)
    blocks.push(block)
  }
  // Thinking leads its turn. Anthropic itself puts thinking between the blocks of server tools, and that order stays.
  if (opaque || isThinking(blocks[0])) turn.content.push(...blocks)
  else turn.content.push(...blocks.filter(isThinking), ...blocks.filter((block) => !isThinking(block)))
}

interface Conversation {
  readonly system: ReadonlyArray<Json>
  readonly turns: ReadonlyArray<Turn>
}

const roleOf = (message: Message): Turn["role"] =>
  message.role === "assistant" || message.role === "system" ? message.role : "user"

const encodeConversation = (encoding: Encoding): Conversation => {
  const { messages } = encoding.call.request
  const system: Array<Json> = []
  // Before the messages, because that is the order in which Anthropic counts and caches.
  for (const [at, message] of messages.entries()) {
    if ((message.role !== "system" && message.role !== "developer") || staysInPlace(message)) continue
    system.push(...encodeSystem(message, `messages[${at}]`, encoding))
  }
  const turns: Array<Turn> = []
  for (const [at, message] of messages.entries()) {
    const path = `messages[${at}]`
    if (message.name !== undefined) encoding.report.drop("messages[].name")
    const inPlace = staysInPlace(message)
    if ((message.role === "system" || message.role === "developer") && !inPlace) continue
    const role = message.role === "developer" ? "system" : roleOf(message)
    const last = turns.at(-1)
    const turn: Turn = last?.role === role ? last : {
      role,
      results: [],
      answered: undefined,
      content: [],
      extra: undefined
    }
    if (role === "system") turn.content.push(...encodeSystem(message, path, encoding))
    else if (role === "assistant") addAssistant(turn, message, path, encoding)
    else addUser(turn, message, path, encoding)
    const own = message.extensions?.[wire]
    if (own !== undefined) {
      turn.extra = Object.fromEntries(
        Object.entries({ ...turn.extra, ...own }).filter(([key]) => key !== "mid_conversation")
      )
    }
    if (turn !== last && turn.results.length + turn.content.length > 0) turns.push(turn)
  }
  trimPrefill(turns)
  return { system, turns }
}

/** Anthropic refuses a final assistant turn that ends in white space. */
const trimPrefill = (turns: ReadonlyArray<Turn>): void => {
  const last = turns.at(-1)
  const block = last?.content.at(-1)
  if (last?.role !== "assistant" || block?.["type"] !== "text" || typeof block["text"] !== "string") return
  last.content[last.content.length - 1] = { ...block, text: block["text"].trimEnd() }
}

const encodeTurn = (turn: Turn): Json => {
  const content = turn.results.length === 0 ? turn.content : [...turn.results, ...turn.content]
  return turn.extra === undefined ? { role: turn.role, content } : { ...turn.extra, role: turn.role, content }
}

const holdsToolUse = (block: Json): boolean => block["type"] === "tool_use"

/**
 * Whether the conversation ends in a tool turn that came back without its thinking. A tool turn reaches from the last
 * user's own words to the end; it needs one assistant message with thinking blocks in it.
 */
const isChainBroken = (turns: ReadonlyArray<Turn>): boolean => {
  let calls = false
  for (let at = turns.length - 1; at >= 0; at -= 1) {
    const turn = turns[at]
    if (turn === undefined || (turn.role === "user" && turn.results.length === 0)) break
    if (turn.role !== "assistant") continue
    if (turn.content.some(isThinking)) return false
    calls ||= turn.content.some(holdsToolUse)
  }
  return calls
}

// ---------------------------------------------------------------------------------------------------------------------
// Parameters
// ---------------------------------------------------------------------------------------------------------------------

const jsonInstruction = "Answer with one JSON object and nothing else."

/** Names the parameters that have no form here. Values that ask for nothing are passed over. */
const reportFormless = ({ call: { request }, report }: Encoding): void => {
  if (request.n !== undefined && request.n > 1) report.refuse("n", "this provider gives one answer to a request")
  if (request.logitBias !== undefined && Object.keys(request.logitBias).length > 0) report.drop("logit_bias")
  if (request.logprobs === true) report.drop("logprobs")
  if (request.topLogprobs !== undefined && request.topLogprobs > 0) report.drop("top_logprobs")
  if (request.presencePenalty !== undefined && request.presencePenalty !== 0) report.drop("presence_penalty")
  if (request.frequencyPenalty !== undefined && request.frequencyPenalty !== 0) report.drop("frequency_penalty")
  if (request.repeatPenalty !== undefined && request.repeatPenalty !== 1) report.drop("repeat_penalty")
  if (request.minP !== undefined && request.minP !== 0) report.drop("min_p")
  if (request.seed !== undefined) report.drop("seed")
  if (request.metadata !== undefined && Object.keys(request.metadata).length > 0) report.drop("metadata")
}

/** `temperature`, `top_p` and `top_k`, as far as the model and thinking allow them. */
const encodeSampling = ({ call: { request }, report, traits }: Encoding, thinking: boolean): MutableJson => {
  const sampling: MutableJson = {}
  const { temperature, topK, topP } = request
  if (temperature !== undefined) {
    if ((traits.sampling && !thinking) || temperature === 1) {
      if (temperature > 1) report.drop("temperature (clamped to 1)")
      if (traits.sampling) sampling["temperature"] = Math.min(temperature, 1)
    } else report.drop("temperature")
  }
  if (topP !== undefined) {
    const crowded = !traits.temperatureWithTopP && sampling["temperature"] !== undefined
    // Thinking takes a top_p from 0.95 on.
    if (traits.sampling && !crowded && (!thinking || topP >= 0.95)) sampling["top_p"] = topP
    else if (topP !== 1) report.drop("top_p")
  }
  if (topK !== undefined) {
    if (traits.sampling && !thinking) sampling["top_k"] = topK
    else report.drop("top_k")
  }
  return sampling
}

const serviceTiers: ReadonlyMap<string, string> = new Map([
  ["auto", "auto"],
  ["default", "standard_only"],
  ["standard_only", "standard_only"]
])

const betaName = /^[\w.-]{1,128}$/

/** The headers of the request; a caller's betas ride in `extensions.anthropic.anthropic_beta`, as on Bedrock and Vertex. */
const encodeHeaders = (own: Json, report: Report): Readonly<Record<string, string>> => {
  const version = own["anthropic_version"]
  const betas = own["anthropic_beta"]
  const names: Array<string> = []
  for (const name of isList(betas) ? betas : betas === undefined ? [] : [betas]) {
    if (typeof name === "string" && betaName.test(name)) names.push(name)
    else report.refuse("anthropic_beta", "a beta must be named by letters, digits, \".\", \"_\" and \"-\"")
  }
  return {
    "anthropic-version": typeof version === "string" && betaName.test(version) ? version : defaultVersion,
    ...(names.length === 0 ? {} : { "anthropic-beta": names.join(",") })
  }
}

/** Extensions that are not the body's, or that only the gateway may set. */
const reserved = new Set(["anthropic_beta", "anthropic_version", "stream", "thinking", "output_config", "metadata"])

const encodeStop = ({ call: { request }, report }: Encoding): ReadonlyArray<string> => {
  const stop = request.stop?.filter((sequence) => sequence.trim() !== "") ?? []
  if (stop.length < (request.stop?.length ?? 0)) report.drop("stop (blank members)")
  return stop
}

const encodeServiceTier = ({ call: { request }, report }: Encoding): string | undefined => {
  if (request.serviceTier === undefined) return undefined
  const tier = serviceTiers.get(request.serviceTier)
  if (tier === undefined) report.drop("service_tier")
  return tier
}

/** `output_config`: the caller's own fields, the effort, and the response schema on models that take it there. */
const encodeOutputConfig = (encoding: Encoding, own: Json, effort: string | undefined): Json | undefined => {
  const form = encoding.call.request.responseSchema
  const native = form?.type === "json_schema" && encoding.traits.structuredOutput
  if (form?.type === "json_schema" && form.description !== undefined && native) {
    encoding.report.drop("response_schema.description")
  }
  const config: Json = {
    ...(isJson(own["output_config"]) ? own["output_config"] : {}),
    ...(effort === undefined ? {} : { effort }),
    ...(native ? { format: { type: "json_schema", schema: form.schema } } : {})
  }
  return Object.keys(config).length === 0 ? undefined : config
}

// ---------------------------------------------------------------------------------------------------------------------
// Request
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Writes a chat call as a Messages request. Fails with `ValidationError` naming the fields that Anthropic has no form
 * for and that cannot be left out; what is left out is named in `dropped`.
 */
export const encodeRequest = (call: ChatCall, stream: boolean): Result.Result<EncodedRequest, ValidationError> => {
  const encoding = start(call)
  const { report, traits } = encoding
  const { request } = call
  const own: Json = request.extensions?.[wire] ?? {}
  const answer = answerTool(call)
  encoding.breakpoint(own, "")
  const { toolChoice, tools } = encodeTools(encoding, answer)
  const { system, turns } = encodeConversation(encoding)
  if (turns.length === 0) {
    report.refuse("messages", "the conversation needs at least one message of a user or assistant that is not empty")
  }
  if (request.responseSchema?.type === "json_object") report.drop("response_schema (by instruction)")
  if (request.responseSchema?.type === "json_schema" && answer === undefined && !traits.structuredOutput) {
    report.drop("response_schema")
  }
  const maxTokens = request.maxOutputTokens ?? call.model.maxOutputTokens ?? defaultMaxTokens
  const thinking = decideThinking(request.reasoning, {
    traits,
    maxTokens,
    forced: answer !== undefined || forcesTools(call),
    brokenChain: isChainBroken(turns),
    native: own["thinking"]
  }, report)
  reportFormless(encoding)
  const instructed = request.responseSchema?.type === "json_object"
    ? [...system, { type: "text", text: jsonInstruction }]
    : system
  const stop = encodeStop(encoding)
  const tier = encodeServiceTier(encoding)
  const outputConfig = encodeOutputConfig(encoding, own, thinking.effort)
  const metadata: Json = {
    ...(isJson(own["metadata"]) ? own["metadata"] : {}),
    ...(request.user === undefined ? {} : { user_id: hash(request.user) })
  }
  const headers = encodeHeaders(own, report)
  const body: Json = {
    ...Object.fromEntries(Object.entries(own).filter(([key]) => !reserved.has(key))),
    model: call.model.model,
    max_tokens: maxTokens,
    ...(instructed.length === 0 ? {} : { system: instructed }),
    messages: turns.map(encodeTurn),
    ...(tools === undefined ? {} : { tools }),
    ...(toolChoice === undefined ? {} : { tool_choice: toolChoice }),
    ...encodeSampling(encoding, thinking.on),
    ...(stop.length === 0 ? {} : { stop_sequences: stop }),
    ...(thinking.thinking === undefined ? {} : { thinking: thinking.thinking }),
    ...(outputConfig === undefined ? {} : { output_config: outputConfig }),
    ...(Object.keys(metadata).length === 0 ? {} : { metadata }),
    ...(tier === undefined ? {} : { service_tier: tier }),
    ...(stream ? { stream: true } : {})
  }
  reportForeign(request, wire, report)
  const error = report.error()
  return error === undefined ? Result.succeed({ body, dropped: report.dropped(), headers }) : Result.fail(error)
}
