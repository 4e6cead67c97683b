/** Configured prices, as a running gateway has them. */
import { assert, describe, it } from "@effect/vitest"
import { startGateway } from "../fixtures/RunningGateway.ts"
import { isJson } from "../fixtures/Script.ts"

describe("prices of a model", () => {
  it("that is sold by the image, the character or the second need none of tokens", async () => {
    const gateway = await startGateway(`
providers:
  sandbox: { type: sandbox }
models:
  - { id: "sandbox::painter", prices: { image: { base: 0.04, variants: { 1024x1024/hd: 0.08 } } } }
  - { id: "sandbox::speaker", prices: { character_mchar: "15", input_mtok: 0.6 } }
  - { id: "sandbox::hearer", prices: { input_audio_second: 0.0001 } }
  - { id: "sandbox::filmer", prices: { output_video_second: { base: 0.3, variants: {} }, input_video_second: 0 } }
`)
    try {
      const response = await fetch(`${gateway.url}/llm-gateway/v1/models`)
      const body: unknown = await response.json()
      const list = isJson(body) && Array.isArray(body["models"]) ? body["models"] : []
      const priced = Object.fromEntries(
        list.flatMap((model: unknown) => isJson(model) ? [[String(model["id"]), model["prices"]]] : [])
      )
      const free = { input_mtok: 0, output_mtok: 0 }
      assert.deepStrictEqual(priced["sandbox::painter"], {
        ...free,
        image: { base: 0.04, variants: { "1024x1024/hd": 0.08 } }
      })
      assert.deepStrictEqual(priced["sandbox::speaker"], { ...free, input_mtok: 0.6, character_mchar: 15 })
      assert.deepStrictEqual(priced["sandbox::hearer"], { ...free, input_audio_second: 0.0001 })
      assert.deepStrictEqual(priced["sandbox::filmer"], {
        ...free,
        output_video_second: { base: 0.3, variants: {} },
        input_video_second: 0
      })
    } finally {
      await gateway.close()
    }
  })
})
