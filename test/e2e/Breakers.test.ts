/** Breakers through the whole service: a provider that is down gets hardly more calls than there are requests. */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"

let upstream: FakeUpstream
let gateway: RunningGateway

beforeEach(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway([
    "defaults: { retry: { base: 1ms, max: 2ms }, breaker: { failures: 3, open: 100ms, max_open: 200ms } }",
    "providers:",
    `  far: { type: openai, base_url: "${upstream.url}/v1", unlisted_models: allow }`,
    "  sandbox: { type: sandbox }"
  ].join("\n"))
})
afterEach(async () => {
  await gateway.close()
  await upstream.close()
})

const jsonBody = { "content-type": "application/json" }

const ask = (stream: boolean, init: Pick<RequestInit, "signal" | "headers"> = {}) =>
  fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: jsonBody,
    body: JSON.stringify({ model: "far::model-1", stream, messages: [{ role: "user", content: "Say something." }] }),
    ...init
  })

describe.each([["whole", false], ["streamed", true]] as const)("%s answers", (_, stream) => {
  it("with the upstream down, calls stay within 1.1 times the requests, and answers are errors", async () => {
    upstream.always(openAi.error(503, { message: "down" }))
    const requests = 100
    for (let i = 0; i < requests; i++) {
      const answer = await ask(stream)
      assert.isAtLeast(answer.status, 500)
      await answer.arrayBuffer()
    }
    assert.isAtMost(upstream.requests.length, 1.1 * requests)
    const listed = await (await fetch(`${gateway.url}/llm-gateway/v1/models`)).text()
    assert.match(listed, /"breaker":"(?:open|half_open)"/)
  })

  it("tell that an open breaker kept the provider from being called", async () => {
    upstream.always(openAi.error(503, { message: "down" }))
    for (let i = 0; i < 3; i++) await (await ask(stream)).arrayBuffer()
    const before = upstream.requests.length
    const answer = await ask(stream, { headers: { ...jsonBody, "x-gateway-fallback": "sandbox::echo" } })
    assert.strictEqual(answer.status, 200)
    assert.match(
      answer.headers.get("x-gateway-attempts") ?? "",
      /^far::model-1;breaker_open;\d+ms, sandbox::echo;ok;\d+ms$/
    )
    assert.lengthOf(upstream.requests, before)
    await answer.arrayBuffer()
  })

  it("come again as soon as the upstream is back", async () => {
    upstream.always(openAi.error(500, { message: "down" }))
    for (let i = 0; i < 10; i++) await (await ask(stream)).arrayBuffer()
    upstream.always(openAi.answer({ text: "yes" }))
    await new Promise((resolve) => setTimeout(resolve, 220))
    for (let i = 0; i < 3; i++) {
      const answer = await ask(stream)
      assert.strictEqual(answer.status, 200)
      assert.include(await answer.text(), "yes")
    }
  })

  it("are not in the way of others when their callers leave", async () => {
    upstream.always(withFault(openAi.answer({ text: "yes" }), fault.hang))
    for (let i = 0; i < 8; i++) {
      const leave = new AbortController()
      const asked = ask(stream, { signal: leave.signal }).catch(() => undefined)
      await upstream.waitForRequest(i)
      leave.abort()
      await asked
      await upstream.waitForClose(i)
    }
    upstream.always(openAi.answer({ text: "yes" }))
    assert.strictEqual((await ask(stream)).status, 200)
    assert.lengthOf(upstream.requests, 9)
  })
})
