/**
 * A conversation as Claude Code sends it (its shape as seen on the wire, its contents made up): instructions in blocks with
 * cache breakpoints, many tools, thinking, a user's id, betas, `?beta=true`. Behind the gateway stands no Claude: a server
 * that speaks OpenAI's protocol, and Ollama with a model that is known not to think.
 */
import Anthropic from "@anthropic-ai/sdk"
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { at, list, type Speaker, speakers } from "../fixtures/Speakers.ts"

let upstream: FakeUpstream
let gateway: RunningGateway
let client: Anthropic

beforeAll(async () => {
  upstream = await startFakeUpstream()
  upstream.models([{ id: "llama3.2:3b", contextLength: 131_072, capabilities: ["completion", "tools"] }])
  gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", unlisted_models: allow }
`)
  await gateway.discover()
  client = new Anthropic({ baseURL: gateway.url, authToken: "any", apiKey: null, maxRetries: 0 })
})
afterAll(async () => {
  await gateway.close()
  await upstream.close()
})
beforeEach(() => upstream.reset())
afterEach(() => {
  assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [], "scripts fit the requests")
})

type Content = Anthropic.Beta.BetaContentBlockParam

const cached = { cache_control: { type: "ephemeral" as const } }

const tool = (name: string, properties: Record<string, unknown>): Anthropic.Beta.BetaTool => ({
  name,
  description: `${name} does something.\n\nUsage notes:\n- Say what is needed.`,
  input_schema: {
    $schema: "http://json-schema.org/draft-07/schema#",
    type: "object",
    properties,
    required: Object.keys(properties),
    additionalProperties: false
  }
})

const tools = [
  ..."Task Glob Grep LS ExitPlanMode Edit MultiEdit Write NotebookEdit WebFetch TodoWrite WebSearch BashOutput KillShell"
    .split(" ").map((name) => tool(name, { input: { type: "string" } })),
  tool("Bash", { command: { type: "string" }, timeout: { type: "number" } }),
  { ...tool("Read", { file_path: { type: "string", description: "An absolute path" } }), ...cached }
]

const question = {
  role: "user" as const,
  content: [
    { type: "text" as const, text: "<system-reminder>\nRead CLAUDE.md first.\n</system-reminder>\n" },
    { type: "text" as const, text: "What is in the folder?", ...cached }
  ]
}

const ask = (model: string, messages: Array<Anthropic.Beta.BetaMessageParam>) => ({
  model,
  max_tokens: 32_000,
  system: [
    { type: "text" as const, text: "You are Claude Code, Anthropic's official CLI for Claude.", ...cached },
    { type: "text" as const, text: "You are an interactive CLI tool.", ...cached }
  ],
  tools,
  metadata: { user_id: "user_0123_account_4567_session_89ab" },
  thinking: { type: "enabled" as const, budget_tokens: 31_999 },
  betas: ["claude-code-20250219", "interleaved-thinking-2025-05-14", "fine-grained-tool-streaming-2025-05-14"],
  messages
})

const calls = [
  { id: "toolu_01A", name: "Bash", input: { command: "ls -la", timeout: 1000 } },
  { id: "toolu_01B", name: "Read", input: { file_path: "/work/a b/\"c\".ts" } }
]

const names = (sent: unknown): ReadonlyArray<unknown> => list(sent).map((one) => Array.isArray(one) ? one[0] : one)

const others: Readonly<Record<string, Speaker>> = { openai: speakers.openai, ollama: speakers.ollama }

describe.each(Object.entries(others))("over %s", (slug, speaker) => {
  const { model } = speaker

  it("looks around with two tools at once, and answers", async () => {
    upstream.reply(
      speaker.say({ text: ["I look."], toolCalls: calls }),
      speaker.say({ text: ["There is ", "one file."] })
    )
    const first = await client.beta.messages.stream(ask(model, [question])).finalMessage()
    assert.strictEqual(first.stop_reason, "tool_use")
    assert.deepStrictEqual(
      first.content.flatMap((block) => block.type === "tool_use" ? [[block.id, block.name, block.input]] : []),
      calls.map(({ id, input, name }) => [id, name, input])
    )

    const sent = upstream.request(0)
    assert.deepStrictEqual(speaker.instructions(sent.json), [
      "You are Claude Code, Anthropic's official CLI for Claude.",
      "You are an interactive CLI tool."
    ])
    assert.deepStrictEqual(names(speaker.tools(sent.json)), tools.map(({ name }) => name))
    assert.deepStrictEqual(speaker.tools(sent.json).at(-1), ["Read", tools.at(-1)?.input_schema])
    assert.notInclude(JSON.stringify(sent.headers), "claude-code")

    const results: Array<Content> = [
      { type: "tool_result", tool_use_id: "toolu_01A", content: "total 4\na.ts", is_error: false },
      { type: "tool_result", tool_use_id: "toolu_01B", content: [{ type: "text", text: "1→x" }], ...cached }
    ]
    const second = await client.beta.messages.stream(ask(model, [
      question,
      { role: "assistant", content: first.content },
      { role: "user", content: results }
    ])).finalMessage()
    assert.strictEqual(second.stop_reason, "end_turn")
    assert.deepStrictEqual(second.content.map((block) => block.type === "text" ? block.text : block.type), [
      "There is one file."
    ])
    assert.deepStrictEqual(speaker.results(upstream.request(1).json), [
      ["toolu_01A", "total 4\na.ts"],
      ["toolu_01B", "1→x"]
    ])
  })

  it("is told what the model did not get", async () => {
    upstream.reply(speaker.say({ text: ["ok"] }))
    const { response } = await client.beta.messages.create({ ...ask(model, [question]), stream: true })
      .withResponse()
    const dropped = (response.headers.get("x-gateway-dropped-params") ?? "").split(", ")
    assert.includeMembers(dropped, ["messages[].content[].cache_control", "tools[].cache_control"])
    assert.include(dropped.join(), "reasoning")
    if (slug === "ollama") assert.notProperty(upstream.request(0).json, "think", "Ollama would fail for this model")
  })

  it("asks how full its context is", async () => {
    const { max_tokens: _, metadata: _metadata, ...counted } = ask(model, [question])
    const { data, response } = await client.beta.messages.countTokens(counted).withResponse()
    assert.isAbove(data.input_tokens, 500)
    assert.strictEqual(response.headers.get("x-gateway-estimated"), "true")
    assert.lengthOf(upstream.requests, 0)
  })
})

it("over Anthropic everything arrives as it was sent, but for the user's id", async () => {
  const { model, say } = speakers.anthropic
  upstream.reply(say({ text: ["ok"] }))
  const { betas, metadata: _, ...asked } = ask(model, [question])
  const { response } = await client.beta.messages.create({ ...ask(model, [question]), stream: true }).withResponse()
  assert.isNull(response.headers.get("x-gateway-dropped-params"))
  const { headers, json } = upstream.request(0)
  const { metadata, ...rest } = json
  assert.deepStrictEqual(rest, { ...asked, model: "claude-sonnet-4-5", stream: true })
  assert.match(String(at(metadata, "user_id")), /^[0-9a-f]{64}$/)
  assert.strictEqual(headers["anthropic-beta"], betas.join(","))
})
