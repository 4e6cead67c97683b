/**
 * Works out docs/PROVIDERS.md: what each provider takes is found by asking its codec. A request with one thing more than
 * a plain one is encoded; a cell says where the thing stands in the body, or that the codec refused it, or what it named
 * as dropped. A thing that makes no difference and is not named would be lost silently: then the page cannot be written.
 */
import { Effect, Layer, Result } from "effect"
import * as Registries from "../../src/gateway/Registries.ts"
import { lookup } from "../../src/modules/modelRegistry/Catalogue.ts"
import * as OutboundUndici from "../../src/modules/outbound/OutboundUndici.ts"
import * as Anthropic from "../../src/plugins/providers/anthropic/Anthropic.ts"
import * as Ollama from "../../src/plugins/providers/ollama/Ollama.ts"
import * as OpenAi from "../../src/plugins/providers/openai/OpenAi.ts"
import * as Sandbox from "../../src/plugins/providers/sandbox/Sandbox.ts"
import { decide, type Outcome } from "../../src/plugins/providers/sandbox/Script.ts"
import type { Message } from "../../src/sdk/Chat.ts"
import { type Part, text } from "../../src/sdk/Content.ts"
import { type ChatCall, type Provider, ProviderRegistry } from "../../src/sdk/Provider.ts"
import type { ResolvedTool, UnifiedTool } from "../../src/sdk/Tool.ts"
import { anthropicMessages } from "../../src/wire/anthropic/AnthropicMessages.ts"
import type { ChatUpstreamCodec, EncodedRequest, Json } from "../../src/wire/Codec.ts"
import { ollamaChat } from "../../src/wire/ollama/OllamaChat.ts"
import { openAiChat } from "../../src/wire/openai/OpenAiChat.ts"
import { openAiResponses } from "../../src/wire/openai/responses/OpenAiResponses.ts"
import { dialectMatrix } from "./DialectMatrix.ts"
import { notes, sandboxNotes, servers } from "./ProviderNotes.ts"

type Request = ChatCall["request"]

// ---------------------------------------------------------------------------------------------------------------------
// Targets
// ---------------------------------------------------------------------------------------------------------------------

interface Target {
  readonly title: string
  readonly wire: string
  readonly codec: ChatUpstreamCodec
  readonly model: string
}

/** Anthropic's models differ in what their requests may hold, so three generations stand for them. */
const targets: ReadonlyArray<Target> = [
  { title: "`openai`", wire: "openai", codec: openAiChat, model: "gpt-5" },
  { title: "`openai`, Responses API", wire: "openai-responses", codec: openAiResponses, model: "gpt-5" },
  {
    title: "`anthropic`, claude-sonnet-4",
    wire: "anthropic",
    codec: anthropicMessages,
    model: "claude-sonnet-4-20250514"
  },
  { title: "`anthropic`, claude-sonnet-4-5", wire: "anthropic", codec: anthropicMessages, model: "claude-sonnet-4-5" },
  { title: "`anthropic`, claude-opus-5", wire: "anthropic", codec: anthropicMessages, model: "claude-opus-5" },
  { title: "`ollama`", wire: "ollama", codec: ollamaChat, model: "llama3.2:3b" }
]

const callOf = (target: Target, request: Request): ChatCall => ({
  request,
  model: { id: `p::${target.model}`, provider: "p", model: target.model, status: "active" },
  connectTimeout: 1000
})

// ---------------------------------------------------------------------------------------------------------------------
// Probing
// ---------------------------------------------------------------------------------------------------------------------

/** One thing to try: the request with it, and the same request without it. */
interface Probe {
  readonly name: string
  readonly with: (target: Target) => Request
  readonly without: (target: Target) => Request
  /** Streamed, for the request with it. */
  readonly stream?: boolean
}

const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

/** Objects of parameters: what changes inside them is told by its own name. */
const groups: ReadonlySet<string> = new Set(["options", "output_config", "stream_options"])

/** The keys that a body has anew or otherwise. */
const changes = (before: Json, after: Json): ReadonlyArray<string> =>
  Object.keys({ ...before, ...after }).flatMap((key) => {
    const [was, is] = [before[key], after[key]]
    if (JSON.stringify(was) === JSON.stringify(is)) return []
    if (!groups.has(key) || !isObject(is)) return [key]
    const inner = isObject(was) ? was : {}
    return Object.keys({ ...inner, ...is }).filter((name) => JSON.stringify(inner[name]) !== JSON.stringify(is[name]))
      .map((name) => `${key}.${name}`)
  })

const encoded = (target: Target, request: Request, stream: boolean): Result.Result<EncodedRequest, string> =>
  Result.mapError(target.codec.encodeRequest(callOf(target, request), stream), (error) => error.field ?? error.message)

const bare = (name: string) => name.replace(/ \(.*$/, "")

/** What a codec does with a thing. */
const cell = (probe: Probe, target: Target): string => {
  const plain = Result.getOrThrowWith(
    encoded(target, probe.without(target), false),
    (field) => new Error(`${target.title} refuses the plain request of "${probe.name}" (${field})`)
  )
  const result = encoded(target, probe.with(target), probe.stream ?? false)
  if (Result.isFailure(result)) {
    return result.failure.startsWith("messages[")
      ? "refused"
      : `refused: \`${result.failure}\``
  }
  const changed = changes(plain.body, result.success.body)
  const known = new Set(plain.dropped)
  const dropped = result.success.dropped.filter((name) => !known.has(name))
  if (changed.length === 0 && dropped.length === 0) {
    throw new Error(`${target.title} loses "${probe.name}" silently`)
  }
  const sent = changed.every((key) => key === "messages" || key === "input") && changed.length > 0
    ? ["yes"]
    : changed.map((key) => `\`${key}\``)
  const named = dropped.map((name) => `\`${bare(name)}\`${name.slice(bare(name).length)}`)
  return [...sent, ...(named.length === 0 ? [] : [`dropped: ${named.join(", ")}`])].join(", ")
}

const table = (first: string, probes: ReadonlyArray<Probe>): string =>
  rows(
    [first, ...targets.map(({ title }) => title)],
    probes.map((probe) => [probe.name, ...targets.map((target) => cell(probe, target))])
  )

const rows = (head: ReadonlyArray<string>, body: ReadonlyArray<ReadonlyArray<string>>): string =>
  [head, head.map(() => "---"), ...body].map((row) =>
    `| ${row.map((entry) => entry.replaceAll("|", "\\|")).join(" | ")} |`
  ).join("\n")

// ---------------------------------------------------------------------------------------------------------------------
// Things to try
// ---------------------------------------------------------------------------------------------------------------------

const user = (...content: ReadonlyArray<Part>): Message => ({ role: "user", content })
const question = user(text("Hi"))
const plain: Request = { model: "m", messages: [question] }

const parameter = (name: string, fields: Partial<Request>, from: Partial<Request> = {}): Probe => ({
  name: `\`${name}\``,
  with: () => ({ ...plain, ...from, ...fields }),
  without: () => ({ ...plain, ...from })
})

const part = (name: string, made: (target: Target) => Part): Probe => ({
  name,
  with: (target) => ({ ...plain, messages: [user(text("Hi"), made(target))] }),
  without: () => plain
})

const png = "iVBORw0KGgo="
const inline = (mediaType: string) => ({ type: "base64" as const, mediaType, data: png })
const byUrl = { type: "url" as const, url: "https://example.com/media" }
const held = (target: Target) => ({ type: "provider_file" as const, wire: target.wire, id: "file-1" })

const parts: ReadonlyArray<Probe> = [
  { name: "text", with: () => ({ ...plain, messages: [user(text("Hi"), text("there"))] }), without: () => plain },
  part("text with `cache_control`", () => ({ type: "text", text: "there", cacheControl: { type: "ephemeral" } })),
  part("image, inline", () => ({ type: "image", source: inline("image/png") })),
  part("image, by URL", () => ({ type: "image", source: byUrl })),
  part("image, by the provider's file id", (target) => ({ type: "image", source: held(target) })),
  part("image with `detail`", () => ({ type: "image", source: inline("image/png"), detail: "low" })),
  part("audio, wav inline", () => ({ type: "audio", source: inline("audio/wav") })),
  part("audio, by URL", () => ({ type: "audio", source: byUrl })),
  part("video, inline", () => ({ type: "video", source: inline("video/mp4") })),
  part("video, by URL", () => ({ type: "video", source: byUrl })),
  part("document, PDF inline", () => ({ type: "document", source: inline("application/pdf") })),
  part("document, plain text", () => ({ type: "document", source: { type: "text", text: "A text." } })),
  part("document, by URL", () => ({ type: "document", source: byUrl })),
  part("document, by the provider's file id", (target) => ({ type: "document", source: held(target) })),
  part("document with `title` and `citations`", () => ({
    type: "document",
    source: { type: "text", text: "A text." },
    title: "T",
    citations: true
  })),
  part(
    "a block of the same wire (`opaque`)",
    (target) => ({ type: "opaque", wire: target.wire, value: { type: "x" } })
  ),
  part("a block of another wire (`opaque`)", () => ({ type: "opaque", wire: "other", value: { type: "x" } }))
]

const weather: UnifiedTool = {
  type: "unified",
  name: "get_weather",
  parameters: { type: "object", properties: { city: { type: "string" } } }
}
const clockWith = (more: Omit<Partial<UnifiedTool>, "type" | "name">): UnifiedTool => ({
  type: "unified",
  name: "get_time",
  parameters: { type: "object" },
  ...more
})
const clock = clockWith({})
const asked: Message = {
  role: "assistant",
  content: [{ type: "tool_call", id: "call_1", name: "get_weather", arguments: "{\"city\":\"Paris\"}" }]
}
type Result1 = Extract<Part, { type: "tool_result" }>
const answered = (fields: Partial<Result1>): Message => ({
  role: "tool",
  content: [{ type: "tool_result", toolCallId: "call_1", content: [text("Rain")], ...fields }]
})
const turn = (last: Message): Request => ({ ...plain, messages: [question, asked, last], tools: [weather] })
const result = (name: string, fields: Partial<Result1>): Probe => ({
  name,
  with: () => turn(answered(fields)),
  without: () => turn(answered({}))
})
const tool = (name: string, made: (target: Target) => ResolvedTool): Probe => ({
  name,
  with: (target) => ({ ...plain, tools: [weather, made(target)] }),
  without: () => ({ ...plain, tools: [weather] })
})
const withTools: Partial<Request> = { tools: [weather, clock] }

const tools: ReadonlyArray<Probe> = [
  parameter("tools", { tools: [weather] }),
  tool("tool with `strict`", () => clockWith({ strict: true })),
  tool("tool with `cache_control`", () => clockWith({ cacheControl: { type: "ephemeral" } })),
  tool("a tool of the same wire (`opaque`)", ({ wire }) => ({
    type: "opaque",
    wire,
    value: { type: "web_search", name: "web_search" }
  })),
  tool("a tool of another wire (`opaque`)", () => ({ type: "opaque", wire: "other", value: { type: "x", name: "x" } })),
  parameter("tool_choice: none", { toolChoice: { type: "none" } }, withTools),
  parameter("tool_choice: required", { toolChoice: { type: "required" } }, withTools),
  parameter("tool_choice: tool", { toolChoice: { type: "tool", name: "get_time" } }, withTools),
  parameter(
    "tool_choice: allowed",
    { toolChoice: { type: "allowed", mode: "auto", names: ["get_time"] } },
    withTools
  ),
  parameter("parallel_tool_calls: false", { parallelToolCalls: false }, withTools),
  { name: "a call and its result", with: () => turn(answered({})), without: () => ({ ...plain, tools: [weather] }) },
  result("result with an image", { content: [text("Rain"), { type: "image", source: inline("image/png") }] }),
  result("result with a PDF", { content: [text("Rain"), { type: "document", source: inline("application/pdf") }] }),
  result("result with `is_error`", { isError: true })
]

const schema = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false
}

const parameters: ReadonlyArray<Probe> = [
  { name: "`stream`", with: () => ({ ...plain, stream: true }), without: () => plain, stream: true },
  parameter("max_output_tokens", { maxOutputTokens: 100 }),
  parameter("temperature", { temperature: 0.5 }),
  parameter("top_p", { topP: 0.5 }),
  parameter("top_k", { topK: 5 }),
  parameter("min_p", { minP: 0.1 }),
  parameter("frequency_penalty", { frequencyPenalty: 0.5 }),
  parameter("presence_penalty", { presencePenalty: 0.5 }),
  parameter("repeat_penalty", { repeatPenalty: 1.1 }),
  parameter("seed", { seed: 1 }),
  parameter("stop", { stop: ["END"] }),
  parameter("n: 2", { n: 2 }),
  parameter("logprobs", { logprobs: true }),
  parameter("top_logprobs", { topLogprobs: 2 }, { logprobs: true }),
  parameter("logit_bias", { logitBias: { "1": -100 } }),
  parameter("user", { user: "someone" }),
  parameter("metadata", { metadata: { a: "b" } }),
  parameter("service_tier: default", { serviceTier: "default" }),
  parameter("service_tier: flex", { serviceTier: "flex" }),
  parameter("store: true", { store: true }),
  parameter("previous_response_id", { previousResponseId: "resp_1" }),
  parameter("response_schema: json_object", { responseSchema: { type: "json_object" } }),
  parameter("response_schema: json_schema", { responseSchema: { type: "json_schema", name: "answer", schema } }),
  parameter(
    "response_schema: json_schema, beside tools",
    { responseSchema: { type: "json_schema", name: "answer", schema } },
    { tools: [weather] }
  ),
  {
    name: "`extensions.<wire>.x`",
    with: ({ wire }) => ({ ...plain, extensions: { [wire]: { x: 1 } } }),
    without: () => plain
  },
  {
    name: "a field of another protocol (`extensions`)",
    with: () => ({ ...plain, extensions: { other: { x: 1 } } }),
    without: () => plain
  },
  {
    name: "name of a participant",
    with: () => ({ ...plain, messages: [{ role: "user", name: "ada", content: [text("Hi")] }] }),
    without: () => plain
  },
  {
    name: "system message",
    with: () => ({ ...plain, messages: [{ role: "system", content: [text("Be brief.")] }, question] }),
    without: () => plain
  },
  {
    name: "developer message",
    with: () => ({ ...plain, messages: [{ role: "developer", content: [text("Be brief.")] }, question] }),
    without: () => plain
  }
]

const thought = (name: string, made: (target: Target) => Part): Probe => ({
  name,
  with: (target) => ({
    ...plain,
    messages: [question, { role: "assistant", content: [made(target), text("Hello")] }, question]
  }),
  without: () => ({ ...plain, messages: [question, { role: "assistant", content: [text("Hello")] }, question] })
})

const reasoning: ReadonlyArray<Probe> = [
  parameter("reasoning.effort: high", { reasoning: { effort: "high" } }),
  parameter("reasoning.effort: none", { reasoning: { effort: "none" } }),
  parameter("reasoning.budget_tokens: 4096", { reasoning: { budgetTokens: 4096 } }),
  parameter("reasoning.enabled: true", { reasoning: { enabled: true } }),
  thought("thinking of the same wire, signed where it signs", ({ wire }) => ({
    type: "reasoning",
    text: "Hm.",
    wire,
    ...(wire === "anthropic" ? { signature: "c2ln" } : {})
  })),
  thought("thinking of another wire, signed", () => ({
    type: "reasoning",
    text: "Hm.",
    signature: "c2ln",
    wire: "other"
  }))
]

// ---------------------------------------------------------------------------------------------------------------------
// Providers
// ---------------------------------------------------------------------------------------------------------------------

const registered = Effect.map(ProviderRegistry, (registry) => registry.all()).pipe(
  Effect.provide(
    Layer.mergeAll(OpenAi.layer(), Anthropic.layer(), Ollama.layer(), Sandbox.layer()).pipe(
      Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer))
    )
  )
)

const operations = [
  "discover",
  "chat",
  "streamChat",
  "countTokens",
  "embed",
  "generateImage",
  "speak",
  "transcribe"
] as const

const providerRows = (providers: ReadonlyArray<Provider>): string =>
  rows(
    ["Kind", "Wire", "Default base URL", ...operations.map((operation) => `\`${operation}\``)],
    providers.map((provider) => [
      `\`${provider.kind}\``,
      provider.wire,
      provider.baseUrl ?? "none",
      ...operations.map((operation) => provider[operation] === undefined ? "no" : "yes")
    ])
  )

const serverRows = rows(
  ["Server", "`base_url`", "Prices from the catalogue"],
  servers.map(({ baseUrl, example, name }) => [
    name,
    `\`${baseUrl}\``,
    lookup("openai", baseUrl, example ?? "", Date.UTC(2026, 10, 1))?.prices === undefined
      ? "no"
      : `yes (\`${example}\`, say)`
  ])
)

// ---------------------------------------------------------------------------------------------------------------------
// The sandbox
// ---------------------------------------------------------------------------------------------------------------------

const summary = (outcome: Outcome): string => {
  if ("failure" in outcome) {
    const { kind, status } = outcome.failure
    return `fails: kind \`${kind}\`${status === undefined ? "" : `, status ${status}`}${later(outcome.delay)}`
  }
  const { choices, delay, fault, pace } = outcome.script
  const said = (choices[0]?.parts ?? []).map((part) => {
    const tokens = part.tokens.join("").trim().replaceAll("\n", " ")
    const shown = tokens.length > 40 ? `${tokens.slice(0, 40).trimEnd()}…` : tokens
    return part.type === "tool_call" ? `calls \`${part.name}\` with \`${shown}\`` : `${part.type} \`${shown}\``
  })
  const broken = fault === undefined
    ? `, finish reason \`${choices[0]?.finishReason ?? ""}\``
    : fault.type === "cut"
    ? `; the connection breaks after ${fault.after} tokens`
    : `; goes silent after ${fault.after} tokens`
  return `${said.join(", ")}${broken}${later(delay)}${pace === 0 ? "" : `, a token each ${pace} ms`}`
}

const later = (delay: number): string => delay === 0 ? "" : `, after ${delay} ms`

const sandboxCall = (model: string, request: Request): ChatCall => ({
  request,
  model: { id: `sandbox::${model}`, provider: "sandbox", model, status: "active" },
  connectTimeout: 1000
})

const sandboxModels = [
  "echo",
  "lorem",
  "tools",
  "json",
  "vision",
  "slow-1000",
  "fail-429",
  "fail-401",
  "fail-500",
  "fail-529",
  "fail-context_length",
  "fail-content_policy",
  "cut-3",
  "stall-3",
  "tokens-3",
  "tokens-3-at-50"
]

const directives = [
  "[[slow 500]]",
  "[[fail 429]]",
  "[[fail context_length]]",
  "[[fail content_policy]]",
  "[[cut 3]]",
  "[[stall 3]]",
  "[[tokens 3]]",
  "[[tokens 3 at 50]]",
  "[[tool get_weather {\"city\":\"Paris\"}]]",
  "[[tool get_weather]]",
  "[[json {\"a\":1}]]",
  "[[json]]",
  "[[reason some thinking]]",
  "[[finish length]]",
  "[[unknown]]"
]

const sandboxRequest = (prompt: string): Request => ({
  ...plain,
  messages: [user(text(prompt), { type: "image", source: inline("image/png") })],
  tools: [weather]
})

const modelRows = rows(
  ["Model", "To \"Hi\" with an image and a tool `get_weather`"],
  sandboxModels.map((model) => [`\`${model}\``, summary(decide(sandboxCall(model, sandboxRequest("Hi"))))])
)

const directiveRows = rows(
  ["In the last user message", "What `echo` does with it, and \"One two three four.\" behind it"],
  directives.map((directive) => [
    `\`${directive}\``,
    summary(decide(sandboxCall("echo", sandboxRequest(`${directive} One two three four.`))))
  ])
)

// ---------------------------------------------------------------------------------------------------------------------
// The page
// ---------------------------------------------------------------------------------------------------------------------

/** The whole text of docs/PROVIDERS.md. */
export const providersPage: Effect.Effect<string> = Effect.zipWith(
  Effect.orDie(registered),
  Effect.promise(dialectMatrix),
  (providers, matrix) =>
    `# Providers

<!-- Written by \`node test/docs/write.ts\`; a test fails where it is not what the code does. Notes: test/docs/ProviderNotes.ts. -->

${notes.head}

## Operations

${providerRows(providers)}

## What works through which dialect

Each cell is asked of a running gateway, whole or streamed as it says, with an upstream that speaks the provider's protocol: \`yes\` means
that the thing arrived there and came back whole.

${matrix}

## How to read the tables

${notes.reading}

## Content parts of a user message

${table("Part", parts)}

## Tools

${table("Thing", tools)}

## Parameters and messages

${table("Parameter", parameters)}

## Reasoning

${table("Parameter", reasoning)}

## OpenAI and compatible servers

${notes.openai}

${serverRows}

## Anthropic

${notes.anthropic}

## Ollama

${notes.ollama}

## Sandbox

${sandboxNotes.head}

### Models

${modelRows}

### Directives

${directiveRows}

${sandboxNotes.tail}
`
)
