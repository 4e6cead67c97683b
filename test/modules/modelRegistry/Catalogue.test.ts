import { assert, describe, it } from "@effect/vitest"
import * as Catalogue from "../../../src/modules/modelRegistry/Catalogue.ts"

const at = (date: string): number => Date.parse(date)
const now = at("2026-11-22T12:00:00Z")
const openai = "https://api.openai.com/v1"
const anthropic = "https://api.anthropic.com"

const pricesOf = (kind: string, hint: string | undefined, model: string, when = now) =>
  Catalogue.lookup(kind, hint, model, when)?.prices

describe("lookup", () => {
  describe("prices", () => {
    it("knows a dated id of OpenAI", () => {
      assert.deepStrictEqual(pricesOf("openai", openai, "gpt-4o-2024-11-20"), {
        inputMtok: 2.5,
        outputMtok: 10,
        cacheReadMtok: 1.25
      })
    })
    it("knows a dated id of Anthropic, with both cache writes and the tier of long prompts", () => {
      assert.deepStrictEqual(pricesOf("anthropic", anthropic, "claude-sonnet-4-5-20250929"), {
        inputMtok: { base: 3, tiers: [{ start: 200_000, price: 6 }] },
        outputMtok: { base: 15, tiers: [{ start: 200_000, price: 22.5 }] },
        cacheReadMtok: { base: 0.3, tiers: [{ start: 200_000, price: 0.6 }] },
        cacheWriteMtok: { base: 3.75, tiers: [{ start: 200_000, price: 7.5 }] },
        cacheWrite1hMtok: { base: 6, tiers: [{ start: 200_000, price: 12 }] }
      })
    })
    it("charges an hour-long cache write of every Anthropic model that caches at twice its input", () => {
      for (const model of ["claude-3-haiku-20240307", "claude-opus-4-1-20250805", "claude-haiku-4-5"]) {
        const prices = pricesOf("anthropic", anthropic, model)
        assert.isDefined(prices)
        assert.isNumber(prices?.inputMtok)
        assert.strictEqual(prices?.cacheWrite1hMtok, Number(prices?.inputMtok) * 2)
      }
    })
    it("reads audio and image prices", () => {
      const prices = pricesOf("openai", openai, "gpt-audio")
      assert.strictEqual(prices?.inputAudioMtok, 32)
      assert.strictEqual(prices?.outputAudioMtok, 64)
      assert.strictEqual(pricesOf("openai", openai, "gpt-image-1")?.inputImageMtok, 10)
    })
    it("gives models that have no output an output price of zero", () => {
      assert.deepStrictEqual(pricesOf("openai", openai, "text-embedding-3-small"), { inputMtok: 0.02, outputMtok: 0 })
    })
    it("has a price a second, and none of tokens, for what is sold by the hour", () => {
      const entry = Catalogue.lookup("openai", openai, "whisper-1", now)
      assert.isTrue(entry?.known)
      assert.deepStrictEqual(entry?.prices, { inputMtok: 0, outputMtok: 0, inputAudioSecond: 0.0001 })
    })
    it("takes the price of the day, and says until when it holds", () => {
      const before = Catalogue.lookup("openai", openai, "o3", at("2025-06-09T23:59:59Z"))
      const after = Catalogue.lookup("openai", openai, "o3", at("2025-06-10T00:00:00Z"))
      assert.strictEqual(before?.prices?.inputMtok, 10)
      assert.strictEqual(before?.validUntil, at("2025-06-10"))
      assert.strictEqual(after?.prices?.inputMtok, 2)
      assert.strictEqual(after?.validFrom, at("2025-06-10"))
      assert.strictEqual(after?.validUntil, Infinity)
      // The first answer is not remembered beyond its time, in either direction.
      assert.strictEqual(pricesOf("openai", openai, "o3", at("2025-06-09"))?.inputMtok, 10)
    })
    it("takes the price of the hour, and says until when it holds", () => {
      const url = "https://api.deepseek.com/v1"
      const night = Catalogue.lookup("openai", url, "deepseek-chat", at("2026-11-22T00:29:59Z"))
      const day = Catalogue.lookup("openai", url, "deepseek-chat", at("2026-11-22T00:30:00Z"))
      const evening = Catalogue.lookup("openai", url, "deepseek-chat", at("2026-11-22T16:30:00Z"))
      assert.strictEqual(night?.prices?.inputMtok, 0.135)
      assert.strictEqual(night?.validUntil, at("2026-11-22T00:30:00Z"))
      assert.strictEqual(day?.prices?.inputMtok, 0.27)
      assert.strictEqual(day?.validUntil, at("2026-11-22T16:30:00Z"))
      assert.strictEqual(evening?.prices?.inputMtok, 0.135)
      assert.strictEqual(evening?.validUntil, at("2026-11-23T00:30:00Z"))
    })
    it("compiles a model once", () => {
      const first = Catalogue.lookup("openai", openai, "gpt-4.1-mini", now)
      assert.isDefined(first)
      assert.strictEqual(Catalogue.lookup("openai", openai, "gpt-4.1-mini", now + 1), first)
    })
  })

  describe("servers", () => {
    it("prices a known compatible server with its own prices", () => {
      assert.isDefined(pricesOf("openai", "https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"))
      assert.isDefined(pricesOf("openai", "https://openrouter.ai/api/v1", "openai/gpt-4o"))
      assert.isDefined(pricesOf("openai", "https://api.mistral.ai/v1", "mistral-small-latest"))
      assert.isUndefined(Catalogue.lookup("openai", "https://api.groq.com/openai/v1", "gpt-4o", now))
    })
    it("prices Azure's hosts with the vendors' prices", () => {
      const url = "https://my-resource.openai.azure.com/openai/v1"
      assert.strictEqual(pricesOf("openai", url, "gpt-4o")?.inputMtok, 2.5)
      assert.isDefined(Catalogue.lookup("openai", url, "gpt-4o", now)?.capabilities)
    })
    it("never takes an unknown server for OpenAI, whatever its models or its slug are called", () => {
      for (
        const hint of [
          "http://127.0.0.1:8000/v1",
          "https://llm.example.com/v1",
          "https://api.openai.com.example.net/v1",
          "my-openai-proxy",
          "not a url"
        ]
      ) {
        assert.isUndefined(Catalogue.lookup("openai", hint, "gpt-4o", now), hint)
      }
    })
    it("takes a slug for a vendor only where it is the vendor's very name", () => {
      assert.isDefined(pricesOf("openai", "openai", "gpt-4o"))
      assert.isUndefined(pricesOf("openai", "groq", "gpt-4o"))
    })
    it("takes the vendor of the kind where there is no hint", () => {
      assert.strictEqual(pricesOf("anthropic", undefined, "claude-haiku-4-5")?.inputMtok, 1)
    })
    it("has nothing on local and made-up models", () => {
      assert.isUndefined(Catalogue.lookup("ollama", "http://127.0.0.1:11434", "llama3.2:3b", now))
      assert.isUndefined(Catalogue.lookup("sandbox", undefined, "gpt-4o", now))
    })
    it("knows Google's models under their resource names", () => {
      const url = "https://generativelanguage.googleapis.com/v1beta/openai"
      assert.deepStrictEqual(
        pricesOf("openai", url, "models/gemini-2.5-flash"),
        pricesOf("openai", url, "gemini-2.5-flash")
      )
      assert.isDefined(pricesOf("openai", url, "gemini-2.5-flash"))
    })
  })

  describe("limits and capabilities", () => {
    const limits: ReadonlyArray<readonly [string, string, number | undefined, number | undefined]> = [
      [openai, "gpt-3.5-turbo", 16385, 4096],
      [openai, "gpt-4", 8192, 8192],
      [openai, "gpt-4-turbo-2024-04-09", 128_000, 4096],
      [openai, "gpt-4-0125-preview", 128_000, 4096],
      [openai, "gpt-4o", 128_000, 16384],
      [openai, "gpt-4o-2024-05-13", 128_000, 4096],
      [openai, "gpt-4o-mini-2024-07-18", 128_000, 16384],
      [openai, "gpt-4.1-nano", 1_047_576, 32768],
      [openai, "o1-mini", 128_000, 65536],
      [openai, "o3-mini-2025-01-31", 200_000, 100_000],
      [openai, "o4-mini", 200_000, 100_000],
      [openai, "gpt-5", 400_000, 128_000],
      [openai, "gpt-5-chat-latest", 128_000, 16384],
      [openai, "gpt-5.4", 1_050_000, 128_000],
      [anthropic, "claude-3-haiku-20240307", 200_000, 4096],
      [anthropic, "claude-3-5-sonnet-20241022", 200_000, 8192],
      [anthropic, "claude-3-7-sonnet-20250219", 200_000, 64_000],
      [anthropic, "claude-opus-4-20250514", 200_000, 32_000],
      [anthropic, "claude-opus-4-1-20250805", 200_000, 32_000],
      [anthropic, "claude-sonnet-4-20250514", 200_000, 64_000],
      [anthropic, "claude-sonnet-4-5-20250929", 200_000, 64_000],
      [anthropic, "claude-opus-4-5-20251101", 200_000, 64_000],
      [anthropic, "claude-haiku-4-5-20251001", 200_000, 64_000],
      [anthropic, "claude-opus-4-6", 1_000_000, 128_000],
      [anthropic, "claude-sonnet-5", 1_000_000, 128_000]
    ]
    for (const [url, model, contextWindow, maxOutputTokens] of limits) {
      it(`knows the limits of ${model}`, () => {
        const entry = Catalogue.lookup("any", url, model, now)
        assert.isTrue(entry?.known)
        assert.strictEqual(entry?.contextWindow, contextWindow)
        assert.strictEqual(entry?.maxOutputTokens, maxOutputTokens)
      })
    }
    it("tells what models can do", () => {
      const can = (model: string, url = openai) => Catalogue.lookup("any", url, model, now)?.capabilities ?? []
      assert.includeMembers([...can("gpt-4o")], ["image_input", "tools", "structured_output", "streaming"])
      assert.notInclude(can("gpt-4o"), "reasoning")
      assert.includeMembers([...can("gpt-5-mini")], ["reasoning", "image_input"])
      assert.notInclude(can("gpt-3.5-turbo"), "image_input")
      assert.deepStrictEqual([...can("text-embedding-3-large")], ["text_input", "embeddings", "batch"])
      assert.include(can("whisper-1"), "transcription")
      assert.include(can("tts-1-hd"), "speech")
      assert.include(can("dall-e-3"), "image_output")
      assert.include(can("sora-2"), "video_output")
      assert.include(can("gpt-realtime"), "realtime_audio")
      assert.includeMembers([...can("gpt-4o-audio-preview")], ["audio_input", "audio_output"])
      assert.notInclude(can("claude-3-5-sonnet-20241022", anthropic), "reasoning")
      assert.include(can("claude-3-7-sonnet-20250219", anthropic), "reasoning")
    })
    it("knows the family of a new model without claiming that it exists", () => {
      const entry = Catalogue.lookup("openai", openai, "gpt-5-something-new", now)
      assert.isFalse(entry?.known)
      assert.isDefined(entry?.capabilities)
      assert.isUndefined(entry?.prices)
    })
    it("knows nothing of a model that it does not know", () => {
      assert.isUndefined(Catalogue.lookup("openai", openai, "no-such-model", now))
      assert.isUndefined(Catalogue.lookup("openai", openai, "", now))
      assert.isUndefined(Catalogue.lookup("openai", openai, "g".repeat(100_000), now))
      assert.isUndefined(Catalogue.lookup("openai", openai, "__proto__", now))
    })
  })
})
