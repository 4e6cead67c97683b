/** Several keys for one provider, through the whole service: callers notice nothing until all keys are gone. */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { type Answer, answerOf, type Asked } from "../fixtures/Script.ts"

const keys = ["sk-pool-first-0001", "sk-pool-second-0002", "sk-pool-third-0003"]

let upstream: FakeUpstream
let gateway: RunningGateway

beforeEach(async () => {
  upstream = await startFakeUpstream()
  gateway = await startGateway(
    [
      "defaults: { retry: { base: 1ms, max: 10ms } }",
      "providers:",
      "  far:",
      "    type: openai",
      `    base_url: "${upstream.url}/v1"`,
      "    api_key: ${FIRST}",
      "    api_keys: [\"${SECOND}\", \"${THIRD}\"]",
      "    unlisted_models: allow"
    ].join("\n"),
    { FIRST: keys[0] ?? "", SECOND: keys[1] ?? "", THIRD: keys[2] ?? "" }
  )
})
afterEach(async () => {
  await gateway.close()
  await upstream.close()
})

const bearerOf = (headers: Readonly<Record<string, string>>) => String(headers["authorization"]).replace("Bearer ", "")
const used = () => upstream.requests.map(({ headers }) => keys.indexOf(bearerOf(headers)) + 1)
const refusal = (key: string): Answer =>
  answerOf(openAi.error(401, { message: `Incorrect API key provided: ${key}`, code: "invalid_api_key" }))
const yes = ({ json }: Asked): Answer => answerOf(openAi.answer({ text: "yes" }), json)

const ask = (stream: boolean) =>
  gateway.post("/v1/chat/completions", {
    model: "far::model-1",
    stream,
    messages: [{ role: "user", content: "Say something." }]
  })

const noKeyIn = (text: string) => {
  for (const key of keys) assert.notInclude(text, key)
}

describe.each([["whole", false], ["streamed", true]] as const)("%s answers", (_, stream) => {
  it("come although one key is refused, and that key is not used again", async () => {
    upstream.always((asked) => bearerOf(asked.headers) === keys[1] ? refusal(keys[1] ?? "") : yes(asked))
    for (let i = 0; i < 6; i++) {
      const answer = await ask(stream)
      assert.strictEqual(answer.status, 200)
      assert.include(await answer.text(), "yes")
    }
    assert.lengthOf(used().filter((key) => key === 2), 1)
    assert.lengthOf(used(), 7)
  })

  it("are 502 with upstream_credentials_exhausted when all keys are gone", async () => {
    upstream.always(({ headers }) => refusal(bearerOf(headers)))
    for (let i = 0; i < 3; i++) {
      const answer = await ask(stream)
      const text = await answer.text()
      assert.strictEqual(answer.status, 502, text)
      assert.include(text, "upstream_credentials_exhausted")
      noKeyIn(text + JSON.stringify(Array.from(answer.headers)))
    }
    assert.sameMembers(used(), [1, 2, 3])
  })

  it("come from the keys that have not reached their limit", async () => {
    const limited = answerOf(openAi.error(429, { message: "slow down" }, { "retry-after": "30" }))
    upstream.always((asked) => bearerOf(asked.headers) === keys[0] ? limited : yes(asked))
    for (let i = 0; i < 6; i++) assert.strictEqual((await ask(stream)).status, 200)
    assert.lengthOf(used().filter((key) => key === 1), 1)
    assert.lengthOf(used(), 7)
  })
})
