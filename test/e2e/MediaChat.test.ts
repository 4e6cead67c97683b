/** Native chats with models that make pictures, speech and video, or write sound down. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson } from "../fixtures/Script.ts"

let gateway: RunningGateway
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "media-chat-"))
  gateway = await startGateway(`
providers: { sandbox: { type: sandbox } }
storage: { files: { dir: "${folder}" } }
usage: { sinks: [{ type: sql }], durability: strict }`)
  await gateway.discover()
})
afterAll(async () => {
  await gateway.close()
  await rm(folder, { recursive: true, force: true })
})

const ask = async (model: string, content: unknown, more: object = {}) => {
  const response = await gateway.post("/llm-gateway/v1/chat/completions", {
    model: `sandbox::${model}`,
    messages: [{ role: "user", content }],
    ...more
  })
  return { status: response.status, text: await response.text(), model: response.headers.get("x-gateway-model") }
}

const partOf = (text: string): Readonly<Record<string, unknown>> => {
  const body: unknown = JSON.parse(text)
  const content: unknown = isJson(body) ? body["content"] : undefined
  const [part]: ReadonlyArray<unknown> = Array.isArray(content) ? content : []
  return isJson(part) ? part : assert.fail(text)
}

const stored = /^\/llm-gateway\/v1\/files\/file-[0-9a-f]{32}$/

describe("a native chat", () => {
  it.each([["image", "image"], ["speak", "audio"]])("with %s answers with a file", async (model, type) => {
    const { model: used, status, text } = await ask(model, "a red circle")
    assert.strictEqual(status, 200, text)
    assert.strictEqual(used, `sandbox::${model}`)
    const part = partOf(text)
    assert.strictEqual(part["type"], type)
    assert.match(String(isJson(part["source"]) ? part["source"]["url"] : undefined), stored)
  })

  it("writes down what was spoken before", async () => {
    const spoken = partOf((await ask("speak", "Hello")).text)
    const { status, text } = await ask("transcribe", [{ type: "audio", source: spoken["source"] }])
    assert.strictEqual(status, 200, text)
    assert.deepInclude(partOf(text), { type: "text", text: "The quick brown fox jumps over the lazy dog." })
  })

  it("streams the part as a whole", async () => {
    const { text } = await ask("speak", "Hello", { stream: true })
    assert.include(text, "\"type\":\"audio\"")
    assert.include(text, "/llm-gateway/v1/files/file-")
    assert.include(text, "\"finish_reason\":\"stop\"")
    assert.isTrue(text.endsWith("data: [DONE]\n\n"))
  })

  it("is recorded as what it was", async () => {
    await ask("speak", "Hello")
    const usage: unknown = await (await fetch(`${gateway.url}/llm-gateway/v1/usage?operation=speak`)).json()
    const rows = isJson(usage) && Array.isArray(usage["rows"]) ? usage["rows"] : []
    assert.isAbove(rows.length, 0)
  })

  it.each([["speak", []], ["image", [{ type: "text", text: "" }]], ["transcribe", "no sound"]])(
    "with %s refuses %j",
    async (model, content) => {
      const { status, text } = await ask(model, content)
      assert.strictEqual(status, 400, text)
    }
  )

  it("with a model that chats stays one", async () => {
    const { text } = await ask("echo", "Hello")
    assert.deepInclude(partOf(text), { type: "text", text: "Hello" })
  })
})
