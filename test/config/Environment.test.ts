/** Zero configuration: which providers appear from which variables, and where they are. */
import { assert, describe, it } from "@effect/vitest"
import { Redacted } from "effect"
import { environmentProblems, fromEnvironment, ollamaUrl } from "../../src/config/Environment.ts"

describe("fromEnvironment", () => {
  it("with nothing, there is the sandbox, on loopback, without keys", () => {
    const config = fromEnvironment({}, { ollama: false })
    assert.deepStrictEqual(Object.keys(config.providers), ["sandbox"])
    assert.strictEqual(config.server.host, "127.0.0.1")
    assert.strictEqual(config.server.port, 8080)
    assert.strictEqual(config.auth.mode, "none")
    assert.deepStrictEqual(config.tenants, {})
  })

  it("finds all of them", () => {
    const env = { OPENAI_API_KEY: " sk-1\n", ANTHROPIC_API_KEY: "sk-2", PORT: "9000", HOST: "0.0.0.0" }
    const { providers, server } = fromEnvironment(env, { ollama: true })
    assert.deepStrictEqual(Object.keys(providers), ["openai", "anthropic", "ollama", "sandbox"])
    assert.strictEqual(providers["openai"]?.baseUrl, "https://api.openai.com/v1")
    assert.strictEqual(providers["openai"]?.apiKey && Redacted.value(providers["openai"].apiKey), "sk-1")
    assert.strictEqual(providers["anthropic"]?.baseUrl, "https://api.anthropic.com")
    assert.strictEqual(providers["ollama"]?.baseUrl, "http://127.0.0.1:11434")
    assert.strictEqual(server.port, 9000)
    assert.strictEqual(server.host, "127.0.0.1")
  })

  it("takes the SDKs' base URLs, and an empty variable as none", () => {
    const { providers } = fromEnvironment(
      { OPENAI_API_KEY: "a", OPENAI_BASE_URL: "http://x/v1/", ANTHROPIC_API_KEY: "", ANTHROPIC_BASE_URL: "http://y" },
      { ollama: false }
    )
    assert.deepStrictEqual(Object.keys(providers), ["openai", "sandbox"])
    assert.strictEqual(providers["openai"]?.baseUrl, "http://x/v1")
  })

  it("passes over what cannot be used, and tells of it without its value", () => {
    const env = { PORT: "eighty", OPENAI_API_KEY: "sk 1", OPENAI_BASE_URL: "secret-host" }
    const config = fromEnvironment(env, { ollama: false })
    assert.strictEqual(config.server.port, 8080)
    assert.strictEqual(config.providers["openai"]?.baseUrl, "https://api.openai.com/v1")
    assert.deepStrictEqual([...environmentProblems(env)].sort(), [
      "OPENAI_API_KEY: expected a key: printable ASCII without spaces",
      "OPENAI_BASE_URL: expected an http or https URL",
      "PORT: expected a whole number from 0 to 65535"
    ])
    assert.deepStrictEqual(environmentProblems({ PORT: "1", OPENAI_API_KEY: "k" }), [])
  })

  const hosts: ReadonlyArray<readonly [string, string]> = [
    ["", "http://127.0.0.1:11434"],
    ["box", "http://box:11434"],
    ["box:1234", "http://box:1234"],
    ["box:80", "http://box"],
    [":1234", "http://127.0.0.1:1234"],
    ["0.0.0.0", "http://127.0.0.1:11434"],
    ["0.0.0.0:99", "http://127.0.0.1:99"],
    ["[::1]:99", "http://[::1]:99"],
    ["http://box", "http://box"],
    ["https://box/ollama/", "https://box/ollama"],
    ["no host", "http://127.0.0.1:11434"]
  ]
  it.each(hosts)("OLLAMA_HOST=%s is %s", (host, url) => {
    assert.strictEqual(ollamaUrl({ OLLAMA_HOST: host }), url)
  })
})
