/**
 * Decides what the sandbox answers: from a call to a script of tokens, delays and a fault. The script is a pure function
 * of the call; sending it, whole or streamed, is `Sandbox.ts`, and both ways send the same.
 *
 * A token is a word of at most 16 characters together with the white space behind it.
 */
import { Result } from "effect"
import { hash } from "node:crypto"
import type { FinishReason } from "../../../sdk/Chat.ts"
import { type Part, textOf } from "../../../sdk/Content.ts"
import type { ChatCall, Failure } from "../../../sdk/Provider.ts"
import type { UnifiedTool } from "../../../sdk/Tool.ts"
import type { Usage } from "../../../sdk/Usage.ts"
import { reportForeign } from "../../../wire/ForeignExtensions.ts"
import { makeReport } from "../../../wire/Report.ts"
import { type Behaviour, behaviourOf, type FailureName, readDirectives } from "./Directives.ts"
import { sample } from "./JsonSample.ts"

/** A part of the answer, cut into tokens. */
export type ScriptPart =
  | { readonly type: "text" | "reasoning"; readonly tokens: ReadonlyArray<string> }
  | { readonly type: "tool_call"; readonly id: string; readonly name: string; readonly tokens: ReadonlyArray<string> }

/** One choice of the answer. */
export interface ScriptChoice {
  readonly parts: ReadonlyArray<ScriptPart>
  readonly finishReason: FinishReason
  readonly stopSequence?: string
}

/** A whole answer, and how it is sent. */
export interface Script {
  readonly id: string
  readonly choices: ReadonlyArray<ScriptChoice>
  readonly usage: Usage
  /** Before the first token, ms. */
  readonly delay: number
  /** Between the tokens, ms. */
  readonly pace: number
  /** What breaks the answer after so many tokens of each choice, and keeps it from ever finishing. */
  readonly fault?: { readonly type: "cut" | "stall"; readonly after: number }
}

/** A script, or a failure that comes after a delay in ms. */
export type Outcome = { readonly script: Script } | { readonly failure: Failure; readonly delay: number }

/** Tokens that the prompt may have. */
export const contextWindow = 128_000
const maxChoices = 128
const maxQuote = 20_000

const lorem =
  "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna " +
  "aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat. " +
  "Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur. Excepteur " +
  "sint occaecat cupidatat non proident, sunt in culpa qui officia deserunt mollit anim id est laborum."

const loremWords = lorem.split(" ")

/** Cuts a text into tokens; joined they are the text again. */
export const tokenize = (text: string): ReadonlyArray<string> => text.match(/\S{1,16}\s*|\s+/gu) ?? []

// ---------------------------------------------------------------------------------------------------------------------
// Failures
// ---------------------------------------------------------------------------------------------------------------------

const caller = (message: string, field: string, code = "invalid_request"): Failure => ({
  kind: "caller",
  status: 400,
  code,
  type: "invalid_request_error",
  field,
  message
})

/** What an upstream that answered with this status would have failed with. */
const failureOf = (name: FailureName): Failure => {
  if (name === "context_length") {
    return {
      kind: "contextLength",
      status: 400,
      code: "context_length_exceeded",
      type: "invalid_request_error",
      message: "the sandbox was told to find the prompt too long"
    }
  }
  if (name === "content_policy") {
    return {
      kind: "contentPolicy",
      status: 400,
      code: "content_filter",
      type: "invalid_request_error",
      message: "the sandbox was told to refuse the content"
    }
  }
  const told = { status: name, message: `the sandbox was told to fail with status ${name}` }
  switch (name) {
    case 401:
    case 403:
      return { ...told, kind: "credential", code: "invalid_api_key", type: "authentication_error" }
    case 402:
      return { ...told, kind: "quota", code: "insufficient_quota", type: "billing_error" }
    case 429:
      return { ...told, kind: "quota", code: "rate_limit_exceeded", type: "rate_limit_error", retryAfterMs: 1_000 }
    case 404:
      return { ...told, kind: "caller", code: "model_not_found", type: "invalid_request_error", field: "model" }
    case 408:
    case 409:
    case 425:
      return { ...told, kind: "transient", code: "try_again", type: "api_error" }
    case 503:
    case 529:
      return { ...told, kind: "transient", code: "overloaded", type: "overloaded_error" }
    default:
      return name >= 500
        ? { ...told, kind: "transient", code: "server_error", type: "api_error" }
        : { ...told, kind: "caller", code: "invalid_request", type: "invalid_request_error" }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading the request
// ---------------------------------------------------------------------------------------------------------------------

type Request = ChatCall["request"]

/** The text of the last user message, or of the last message where there is none. */
const promptOf = (request: Request): string => {
  const last = request.messages.findLast((message) => message.role === "user") ??
    request.messages[request.messages.length - 1]
  return last === undefined ? "" : textOf(last.content)
}

/** The tools' answers that end the conversation; `undefined` where it does not end in any. */
const toolResults = (request: Request): string | undefined => {
  const texts: Array<string> = []
  let found = false
  for (let i = request.messages.length - 1; i >= 0; i--) {
    const results = (request.messages[i]?.content ?? []).filter((part) => part.type === "tool_result")
    if (results.length === 0) break
    found = true
    texts.unshift(...results.map((part) => textOf(part.content)))
  }
  return found ? texts.join("\n").slice(0, maxQuote) : undefined
}

/** Counts the input: every text of every message, tool calls and results included. */
const countInput = (request: Request): number => {
  let tokens = 0
  const count = (parts: ReadonlyArray<Part>): void => {
    for (const part of parts) {
      if (part.type === "text" || part.type === "refusal") tokens += tokenize(part.text).length
      else if (part.type === "reasoning") tokens += tokenize(part.text ?? "").length
      else if (part.type === "tool_call") tokens += tokenize(part.arguments).length
      else if (part.type === "tool_result") count(part.content)
      else if (part.type === "document" && part.source.type === "text") tokens += tokenize(part.source.text).length
    }
  }
  for (const message of request.messages) count(message.content)
  return tokens
}

/** The bytes that base64 text stands for. */
const bytesOf = (base64: string): number =>
  Math.floor(base64.length * 3 / 4) - (base64.endsWith("==") ? 2 : base64.endsWith("=") ? 1 : 0)

/** Says what media a request holds, one line each. */
const describeMedia = (request: Request): string => {
  const lines: Array<string> = []
  const look = (parts: ReadonlyArray<Part>): void => {
    for (const part of parts) {
      if (part.type === "tool_result") look(part.content)
      else if (part.type === "image" || part.type === "audio" || part.type === "video" || part.type === "document") {
        const source = part.source
        switch (source.type) {
          case "base64":
            lines.push(`${part.type}: ${source.mediaType}, ${bytesOf(source.data)} bytes`)
            break
          case "text":
            lines.push(`${part.type}: text, ${new TextEncoder().encode(source.text).length} bytes`)
            break
          case "url":
            lines.push(`${part.type}: by URL, not fetched`)
            break
          default:
            lines.push(`${part.type}: ${source.type} ${source.id.slice(0, 100)}`)
        }
      }
    }
  }
  for (const message of request.messages) look(message.content)
  const count = `I was given ${lines.length} media ${lines.length === 1 ? "part" : "parts"}`
  return lines.length === 0 ? `${count}.` : `${count}:\n${lines.join("\n")}`
}

/** What the sandbox cannot read: tools, blocks and ways of asking of one wire alone. */
const foreign = (request: Request): Failure | undefined => {
  const report = makeReport()
  reportForeign(request, "sandbox", report)
  const error = report.error()
  if (error !== undefined) return { ...caller(error.message, error.field ?? ""), refused: true }
  for (const [i, tool] of (request.tools ?? []).entries()) {
    if (tool.type === "opaque" && tool.wire !== "sandbox") {
      return {
        ...caller(`a tool of ${tool.wire.slice(0, 60)} alone cannot be called here`, `tools[${i}]`),
        refused: true
      }
    }
  }
  for (const [i, message] of request.messages.entries()) {
    const at = message.content.findIndex((part) => part.type === "opaque" && part.wire !== "sandbox")
    if (at >= 0) {
      return {
        ...caller("a block of another provider alone cannot be read here", `messages[${i}].content[${at}]`),
        refused: true
      }
    }
  }
  return undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Deciding
// ---------------------------------------------------------------------------------------------------------------------

type Content =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "tools"; readonly calls: ReadonlyArray<{ readonly name: string; readonly arguments: string }> }

const isUnified = (tool: { readonly type: string }): tool is UnifiedTool => tool.type === "unified"

const callOf = (tool: UnifiedTool) => ({
  name: tool.name,
  arguments: JSON.stringify(sample({ type: "object", ...tool.parameters }))
})

/** Which tools the request makes the model call; `undefined` where it need not call any. */
const forcedCalls = (request: Request, behaviour: Behaviour): Result.Result<Content | undefined, Failure> => {
  const choice = request.toolChoice
  if (choice?.type === "none") return Result.succeed(undefined)
  const tools = (request.tools ?? []).filter(isUnified)
  if (choice?.type === "tool") {
    const named = tools.find((tool) => tool.name === choice.name)
    return named === undefined
      ? Result.fail(caller(`there is no tool "${choice.name.slice(0, 100)}" to choose`, "tool_choice"))
      : Result.succeed({ type: "tools", calls: [callOf(named)] })
  }
  const allowed = choice?.type === "allowed" ? tools.filter((tool) => choice.names.includes(tool.name)) : tools
  const required = choice?.type === "required" || (choice?.type === "allowed" && choice.mode === "required")
  const [first] = allowed
  if (first === undefined) {
    return required ? Result.fail(caller("there is no tool to call", "tool_choice")) : Result.succeed(undefined)
  }
  if (behaviour.style === "tools") {
    const called = request.parallelToolCalls === false ? [first] : allowed
    return Result.succeed({ type: "tools", calls: called.map(callOf) })
  }
  return Result.succeed(required ? { type: "tools", calls: [callOf(first)] } : undefined)
}

const jsonAnswer = (request: Request, prompt: string): string | undefined => {
  if (request.responseSchema === undefined) return undefined
  return JSON.stringify(
    request.responseSchema.type === "json_schema" ? sample(request.responseSchema.schema) : { text: prompt }
  )
}

const loremTokens = (count: number): string => {
  const words: Array<string> = []
  for (let i = 0; i < count; i++) words.push(loremWords[i % loremWords.length] ?? "")
  return words.join(" ")
}

/** What the model says: directives first, then the tools' answers, forced tools, the schema, and the model's own way. */
const contentOf = (request: Request, behaviour: Behaviour, prompt: string): Result.Result<Content, Failure> => {
  const say = (text: string): Result.Result<Content, Failure> => Result.succeed({ type: "text", text })
  const results = toolResults(request)
  if (behaviour.json !== undefined) return say(behaviour.json)
  // Once a tool has answered, a directive to call it has done its work: otherwise an agent's loop would never end.
  if (results === undefined) {
    if (behaviour.tools.length > 0) {
      const tools = (request.tools ?? []).filter(isUnified)
      return Result.succeed({
        type: "tools",
        calls: behaviour.tools.map((call) => {
          const tool = tools.find((tool) => tool.name === call.name)
          return { name: call.name, arguments: call.arguments ?? (tool === undefined ? "{}" : callOf(tool).arguments) }
        })
      })
    }
    const forced = forcedCalls(request, behaviour)
    if (Result.isFailure(forced)) return Result.fail(forced.failure)
    if (forced.success !== undefined) return Result.succeed(forced.success)
  }
  if (behaviour.tokens !== undefined) return say(loremTokens(behaviour.tokens))
  const json = jsonAnswer(request, prompt)
  if (json !== undefined) return say(json)
  if (results !== undefined) return say(`The tool answered: ${results}`)
  switch (behaviour.style) {
    case "lorem":
      return say(lorem)
    case "json":
      return say(JSON.stringify({ text: prompt }))
    case "vision":
      return say(describeMedia(request))
    default:
      return say(prompt)
  }
}

/** Ends a text before the first stop sequence in it. */
const stopAt = (
  text: string,
  stop: ReadonlyArray<string>
): { readonly text: string; readonly stopSequence?: string } => {
  let at = text.length
  let stopSequence: string | undefined
  for (const sequence of stop) {
    const found = sequence === "" ? -1 : text.indexOf(sequence)
    if (found >= 0 && found < at) {
      at = found
      stopSequence = sequence
    }
  }
  return stopSequence === undefined ? { text } : { text: text.slice(0, at), stopSequence }
}

/** Puts one choice together: reasoning, text or calls, cut at the stop sequences and the token limit. */
const choiceOf = (request: Request, behaviour: Behaviour, content: Content, id: string): ScriptChoice => {
  const whole: Array<ScriptPart> = []
  if (behaviour.reason !== undefined) whole.push({ type: "reasoning", tokens: tokenize(behaviour.reason) })
  let stopSequence: string | undefined
  if (content.type === "text") {
    const stopped = stopAt(content.text, request.stop ?? [])
    stopSequence = stopped.stopSequence
    whole.push({ type: "text", tokens: tokenize(stopped.text) })
  } else {
    for (const [i, call] of content.calls.entries()) {
      whole.push({ type: "tool_call", id: `${id}-${i}`, name: call.name, tokens: tokenize(call.arguments) })
    }
  }
  const parts: Array<ScriptPart> = []
  let left = request.maxOutputTokens ?? Infinity
  let cut = false
  for (const part of whole) {
    cut = part.tokens.length > left
    // An empty text is no part: a stream has no delta for it either. A call is one even without arguments.
    if (part.type === "tool_call" ? left > 0 : part.tokens.length > 0 && left > 0) {
      parts.push(cut ? { ...part, tokens: part.tokens.slice(0, left) } : part)
    }
    left -= Math.min(left, part.tokens.length)
    if (cut) break
  }
  if (cut) return { parts, finishReason: "length" }
  const finishReason = behaviour.finish ?? (content.type === "tools" ? "tool_calls" : "stop")
  return { parts, finishReason, ...(stopSequence === undefined ? {} : { stopSequence }) }
}

/** The same call gives the same id, streamed or not. */
const idOf = (call: ChatCall): string => {
  const { stream: _, ...request } = call.request
  return `sandbox-${hash("sha256", JSON.stringify([call.model.model, request]), "hex").slice(0, 16)}`
}

const count = (choices: ReadonlyArray<ScriptChoice>, type?: ScriptPart["type"]): number => {
  let tokens = 0
  for (const choice of choices) {
    for (const part of choice.parts) if (type === undefined || part.type === type) tokens += part.tokens.length
  }
  return tokens
}

/** Decides what a call gets. */
export const decide = (call: ChatCall): Outcome => {
  const { model: { model }, request } = call
  const behaviour = behaviourOf(model)
  if (behaviour === undefined) {
    const message = `the sandbox has no model "${model.slice(0, 100)}"`
    return { failure: { ...caller(message, "model", "model_not_found"), status: 404 }, delay: 0 }
  }
  const prompt = readDirectives(promptOf(request), behaviour)
  if (Result.isFailure(prompt)) return { failure: prompt.failure, delay: 0 }
  const refuse = (failure: Failure): Outcome => ({ failure, delay: behaviour.slow })
  if (behaviour.fail !== undefined) return refuse(failureOf(behaviour.fail))
  const unreadable = foreign(request)
  if (unreadable !== undefined) return refuse(unreadable)
  const inputTokens = countInput(request)
  if (inputTokens > contextWindow) {
    return refuse({
      kind: "contextLength",
      status: 400,
      code: "context_length_exceeded",
      type: "invalid_request_error",
      field: "messages",
      message: `the prompt has ${inputTokens} tokens; the sandbox takes ${contextWindow}`
    })
  }
  const n = request.n ?? 1
  if (n > maxChoices) return refuse(caller(`at most ${maxChoices} choices can be had`, "n"))
  const content = contentOf(request, behaviour, prompt.success)
  if (Result.isFailure(content)) return refuse(content.failure)

  const id = idOf(call)
  const choices = Array.from({ length: n }, (_, i) => choiceOf(request, behaviour, content.success, `call-${id}-${i}`))
  const reasoning = count(choices, "reasoning")
  const fault = behaviour.cut !== undefined
    ? { type: "cut" as const, after: behaviour.cut }
    : behaviour.stall !== undefined
    ? { type: "stall" as const, after: behaviour.stall }
    : undefined
  return {
    script: {
      id,
      choices,
      usage: { inputTokens, outputTokens: count(choices), ...(reasoning === 0 ? {} : { reasoningTokens: reasoning }) },
      delay: behaviour.slow,
      pace: behaviour.rate === undefined ? 0 : 1000 / behaviour.rate,
      ...(fault === undefined ? {} : { fault })
    }
  }
}
