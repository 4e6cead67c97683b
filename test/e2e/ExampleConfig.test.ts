/** The example configuration as it stands, started by the command line in an empty folder. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { existsSync, readFileSync } from "node:fs"
import path from "node:path"
import { ask, codeOf, native } from "../fixtures/ChatClient.ts"
import * as FakeUpstream from "../fixtures/FakeUpstream.ts"
import { ollama } from "../fixtures/OllamaWire.ts"
import { serve } from "../fixtures/ServedGateway.ts"

const example = new URL("../../../shared/gateway.example.yaml", import.meta.url)

describe.skipIf(!existsSync(example))("the example configuration", () => {
  it.live(
    "starts, serves its key, keeps addresses from providers, and writes its records and its trail",
    () =>
      Effect.gen(function*() {
        const upstream = yield* FakeUpstream.make
        upstream.models(["llama3.2:3b"])
        upstream.always(ollama.answer({ text: "Write to bob@example.org about it." }))
        // The port alone is another one: 8080 may be in use.
        const yaml = readFileSync(example, "utf8").replace("port: 8080", "port: 0")
        const gateway = yield* serve(yaml, {
          environment: {
            OPENAI_BASE_URL: `${upstream.url}/v1`,
            ANTHROPIC_BASE_URL: upstream.url,
            OLLAMA_BASE_URL: upstream.url
          }
        })
        const question = {
          model: "ollama-local::llama3.2:3b",
          messages: [{ role: "user", content: "I am ann@example.com, my card is 4111 1111 1111 1111" }]
        }
        const chat = (id: string, secret: string, more = {}) =>
          Effect.promise(() => ask({ url: gateway.url, secret, id, body: { ...question, ...more } }))

        const whole = yield* chat("whole", "secret")
        assert.strictEqual(whole.status, 200, JSON.stringify(whole.body))
        assert.notInclude(JSON.stringify(whole.body), "bob@example.org")
        assert.strictEqual(whole.headers.get("x-ratelimit-limit-requests"), "60")
        const streamed = yield* chat("streamed", "secret", { stream: true })
        assert.isTrue(streamed.isComplete)
        for (const { body } of upstream.requests) {
          assert.notInclude(JSON.stringify(body), "ann@example.com")
          assert.notInclude(JSON.stringify(body), "4111 1111")
          assert.include(JSON.stringify(body), "I am ")
        }
        assert.lengthOf(upstream.requests, 2)

        const wrong = yield* chat("wrong", "not the secret")
        assert.deepStrictEqual([wrong.status, codeOf(wrong)], [401, "unauthorized"])
        // A server that is not the vendor's own has no price that anyone knows, and acme has a budget.
        const unpriced = yield* chat("unpriced", "secret", { model: "openai::gpt-4o-mini" })
        assert.deepStrictEqual([unpriced.status, codeOf(unpriced)], [402, "budget_exceeded"])
        const other = yield* chat("other", "secret", { model: "sandbox::echo" })
        assert.notStrictEqual(other.status, 200, "acme has no approval for the sandbox")
        const budgets = yield* Effect.promise(() =>
          native(gateway, "/budgets", "secret").then((response) => response.text())
        )
        assert.include(budgets, "\"limit_usd\":500")
        assert.include(budgets, "\"limit_usd\":20")

        assert.strictEqual(yield* Effect.promise(() => gateway.end("SIGTERM")), 0)
        const trail = readFileSync(path.join(gateway.folder, "data", "audit.jsonl"), "utf8")
        assert.include(trail, "request_completed")
        for (const text of [trail, gateway.said()]) {
          for (const hidden of ["ann@example.com", "bob@example.org", "4111 1111"]) assert.notInclude(text, hidden)
        }
        // The log is one of the example's two sinks of usage records.
        for (const id of ["whole", "streamed"]) assert.include(gateway.said(), `"${id}"`)
        assert.isTrue(existsSync(path.join(gateway.folder, "data", "gateway.db")))
      }),
    60_000
  )
})
