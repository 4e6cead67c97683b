/** The examples in scratchpad/ run, offline, each with one command, and print what they should. */
// @effect-diagnostics processEnv:off
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { readdirSync } from "node:fs"
import path from "node:path"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { root } from "./Examples.ts"

const expected: Readonly<Record<string, ReadonlyArray<string>>> = {
  "01-chat-in-process.ts": ["Hello, gateway!", "sandbox::echo used 2 + 2 tokens"],
  "02-stream-in-process.ts": [
    "reasoning: Let ",
    "reasoning: me ",
    "reasoning: think.",
    "text: One ",
    "text: word ",
    "text: after ",
    "text: the ",
    "text: other.",
    "the end: stop",
    "8 tokens"
  ],
  "03-own-provider.ts": ["!yawetag ,olleH", "400 provider_error: there is nothing to reverse"],
  "04-openai-sdk.ts": ["Hello, gateway!", "Lorem ipsum dolor sit amet,", "get_weather {\"city\":\"Paris\"}"],
  "05-own-interceptor.ts": [
    "403 request_blocked: the request was blocked by polite: say please",
    "Please write to jane@example.com (made by a model)",
    "Please write to jane@example.com (made by a model)"
  ],
  "06-governed-gateway.ts": [
    "usage: acme/ann sandbox::echo completed 6000 nano-USD",
    "Hello, gateway!",
    "usage: acme/ann sandbox::echo failed 0 nano-USD",
    "budget_exceeded: the day budget of user ann (tenant acme) cannot pay for this request",
    "usage: acme/ann sandbox::echo completed 6000 nano-USD",
    "Hello, gateway!",
    "usage: acme/ann sandbox::echo failed 0 nano-USD",
    "rate_limited: 3 requests per user of tenant acme",
    "day budget of user ann (tenant acme): 12000 nano-USD spent, 0 reserved",
    "audit: request_started",
    "audit: request_completed",
    "audit: request_started",
    "audit: limit_hit budget_exceeded",
    "audit: request_failed budget_exceeded",
    "audit: request_started",
    "audit: request_completed",
    "audit: request_started",
    "audit: limit_hit rate_limited",
    "audit: request_failed rate_limited"
  ],
  "07-own-usage-sink.ts": ["acme sandbox::echo: 9000 nano-USD", "umbrella sandbox::echo: 12000 nano-USD"],
  "08-own-audit-sink.ts": [
    "acme: request started sandbox::echo",
    "acme: request completed sandbox::echo",
    "acme: request started sandbox::fail-503",
    "acme: request failed sandbox::fail-503"
  ],
  "09-chat-engine.ts": [
    "> How is the weather in Paris?",
    "< The tool answered: It is sunny (asked with {\"city\":\"text\"}). (in 10 pieces)",
    "> Thank you!",
    "< The tool answered: It is sunny (asked with {\"city\":\"text\"}). (in 10 pieces)",
    "user: text",
    "assistant: tool_call",
    "tool: tool_result",
    "assistant: text",
    "user: text",
    "assistant: tool_call",
    "tool: tool_result",
    "assistant: text"
  ],
  "10-rag.ts": [
    "Q: When does a circuit breaker open?",
    "A: [1] A circuit breaker opens after five failures in a row, and lets one call through after a second.",
    "   source: A circuit breaker opens after five failures in a row, and lets one call through after a second.",
    "   source: Budgets are set aside before a provider is called, for the worst case of the request.",
    "Q: What is set aside for a request?",
    "A: [1] Budgets are set aside before a provider is called, for the worst case of the request.",
    "   source: Budgets are set aside before a provider is called, for the worst case of the request.",
    "   source: A circuit breaker opens after five failures in a row, and lets one call through after a second."
  ],
  "11-rpc-client.ts": [
    "Hello, gateway!",
    "[\"text\"]",
    "[\"text\"]",
    "no such model: there is no provider \"nowhere\" (there are: sandbox)"
  ],
  "12-realtime.ts": [
    "you: Hello, sandbox.",
    "sandbox: Hello, sandbox.",
    "0.5 s of sound, 19 tokens",
    "closed with 1000"
  ]
}

/** Those that have no gateway of their own. */
const needGateway: ReadonlySet<string> = new Set(["11-rpc-client.ts", "12-realtime.ts"])

const run = (name: string, variables: Readonly<Record<string, string>> = {}) =>
  new Promise<ReadonlyArray<string>>((resolve, reject) => {
    const kept = Object.entries(process.env).filter(([key]) => !key.startsWith("GATEWAY_"))
    const env = { ...Object.fromEntries(kept), ...variables }
    execFile(process.execPath, [path.join("scratchpad", name)], { cwd: root, env }, (error, stdout, stderr) => {
      if (error === null && stderr === "") resolve(stdout.trimEnd().split("\n"))
      else reject(new Error(`${error?.message ?? "it complains"}\n${stdout}\n${stderr}`))
    })
  })

describe("scratchpad", () => {
  const names = readdirSync(path.join(root, "scratchpad")).filter((name) => name.endsWith(".ts"))
  it.each(names.filter((name) => !needGateway.has(name)))("%s prints what it should", async (name) => {
    assert.deepStrictEqual(await run(name), expected[name])
  })

  it("has all the examples that this test knows", () => {
    assert.deepStrictEqual(names.toSorted(), Object.keys(expected))
  })

  describe("with a gateway that runs", () => {
    let gateway: RunningGateway
    const key = "the-key-of-this-test"
    beforeAll(async () => {
      gateway = await startGateway(
        `
auth:
  mode: keys
  keys:
    - id: test
      sha256: \${HASH}
      tenant: acme
providers:
  sandbox: { type: sandbox }
tenants:
  acme: {}
`,
        { HASH: await sha256(key) }
      )
    })
    afterAll(() => gateway.close())

    it.each(["09-chat-engine.ts", "11-rpc-client.ts"])("%s talks to that one", async (name) => {
      assert.deepStrictEqual(await run(name, { GATEWAY_URL: gateway.url, GATEWAY_KEY: key }), expected[name])
      const refused = await run(name, { GATEWAY_URL: gateway.url, GATEWAY_KEY: "wrong" }).then(() => "", String)
      assert.include(refused, "Unauthorized")
    })

    it("12-realtime.ts talks to that one", async () => {
      const name = "12-realtime.ts"
      assert.deepStrictEqual(await run(name, { GATEWAY_URL: gateway.url, GATEWAY_KEY: key }), expected[name])
    })

    it("04-openai-sdk.ts talks to that one", async () => {
      assert.deepStrictEqual(
        await run("04-openai-sdk.ts", { GATEWAY_URL: gateway.url, GATEWAY_KEY: key }),
        expected["04-openai-sdk.ts"]
      )
      // It does not talk to one of its own, which asks for no key.
      const refused = await run("04-openai-sdk.ts", { GATEWAY_URL: gateway.url, GATEWAY_KEY: "wrong" })
        .then(() => "", String)
      assert.include(refused, "401")
    })
  })
})

const sha256 = async (text: string) =>
  Buffer.from(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))).toString("hex")
