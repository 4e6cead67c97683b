import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import type { Price, Prices } from "../../src/sdk/Model.ts"
import { costNanoUsd, dearestVariant, isPriced, usd } from "../../src/sdk/Pricing.ts"
import { totalInput, type Usage, zero } from "../../src/sdk/Usage.ts"

/** Claude Sonnet 4, USD per million tokens. */
const sonnet: Prices = {
  inputMtok: 3,
  outputMtok: 15,
  cacheReadMtok: 0.3,
  cacheWriteMtok: 3.75,
  cacheWrite1hMtok: 6
}

describe("costNanoUsd", () => {
  describe("golden values, computed by hand", () => {
    it("charges plain input and output", () => {
      // 1000 × 2,500 nano + 200 × 10,000 nano
      assert.strictEqual(
        costNanoUsd({ inputTokens: 1000, outputTokens: 200 }, { inputMtok: 2.5, outputMtok: 10 }),
        4_500_000
      )
    })
    it("charges each cache bucket once, at its own price", () => {
      const usage: Usage = {
        inputTokens: 100,
        cacheReadTokens: 10_000,
        cacheWrite5mTokens: 2000,
        cacheWrite1hTokens: 500,
        outputTokens: 50
      }
      // 300,000 + 3,000,000 + 7,500,000 + 3,000,000 + 750,000
      assert.strictEqual(costNanoUsd(usage, sonnet), 14_550_000)
    })
    it("charges audio and images at their own prices", () => {
      const prices: Prices = {
        inputMtok: 2.5,
        outputMtok: 10,
        inputAudioMtok: 32,
        inputImageMtok: 8,
        outputAudioMtok: 64,
        outputImageMtok: 40
      }
      const usage: Usage = {
        inputTokens: 10,
        inputAudioTokens: 100,
        inputImageTokens: 50,
        outputTokens: 20,
        outputAudioTokens: 30,
        outputImageTokens: 5
      }
      // 25,000 + 3,200,000 + 400,000 + 200,000 + 1,920,000 + 200,000
      assert.strictEqual(costNanoUsd(usage, prices), 5_945_000)
    })
    it("does not charge reasoning a second time", () => {
      const prices: Prices = { inputMtok: 1.1, outputMtok: 4.4 }
      assert.strictEqual(costNanoUsd({ inputTokens: 0, outputTokens: 1000, reasoningTokens: 900 }, prices), 4_400_000)
    })
    it("adds the price per request once", () => {
      // Perplexity Sonar: 12 USD per thousand requests are 12,000,000 nano each.
      assert.strictEqual(
        costNanoUsd({ inputTokens: 10, outputTokens: 10 }, { inputMtok: 1, outputMtok: 1, requestsKcount: 12 }),
        12_020_000
      )
    })
    it("is zero for no tokens and for free models", () => {
      assert.strictEqual(costNanoUsd(zero, sonnet), 0)
      assert.strictEqual(
        costNanoUsd({ inputTokens: 5000, outputTokens: 5000, cacheReadTokens: 5 }, { inputMtok: 0, outputMtok: 0 }),
        0
      )
    })
    it("keeps prices below one nano a token and rounds the sum once, half up", () => {
      // DeepSeek: 0.0028 USD per million tokens are 2.8 nano a token.
      const prices: Prices = { inputMtok: 0.0028, outputMtok: 0.0001 }
      assert.strictEqual(costNanoUsd({ inputTokens: 1, outputTokens: 0 }, prices), 3)
      assert.strictEqual(costNanoUsd({ inputTokens: 10, outputTokens: 0 }, prices), 28)
      // 0.1 nano a token: four are 0.4, five are 0.5.
      assert.strictEqual(costNanoUsd({ inputTokens: 0, outputTokens: 4 }, prices), 0)
      assert.strictEqual(costNanoUsd({ inputTokens: 0, outputTokens: 5 }, prices), 1)
      // 2.8 + 0.6 = 3.4 gives 3; rounded each for itself it would be 3 + 1.
      assert.strictEqual(costNanoUsd({ inputTokens: 1, outputTokens: 6 }, prices), 3)
    })
  })

  describe("buckets without a price of their own", () => {
    const plain: Prices = { inputMtok: 3, outputMtok: 15 }
    const cases: ReadonlyArray<readonly [keyof Usage, number]> = [
      ["cacheReadTokens", 3000],
      ["cacheWrite5mTokens", 3000],
      ["cacheWrite1hTokens", 3000],
      ["inputAudioTokens", 3000],
      ["inputImageTokens", 3000],
      ["outputAudioTokens", 15_000],
      ["outputImageTokens", 15_000]
    ]
    for (const [bucket, nano] of cases) {
      it(`charges ${bucket} as plain tokens`, () => {
        assert.strictEqual(costNanoUsd({ inputTokens: 0, outputTokens: 0, [bucket]: 1 }, plain), nano)
      })
    }
    it("charges a one-hour write as a cache write where only that has a price", () => {
      assert.strictEqual(
        costNanoUsd(
          { inputTokens: 0, outputTokens: 0, cacheWrite1hTokens: 2 },
          { inputMtok: 3, outputMtok: 15, cacheWriteMtok: 3.75 }
        ),
        7500
      )
    })
  })

  describe("what is not sold by the token", () => {
    const media: Prices = {
      inputMtok: 0,
      outputMtok: 0,
      image: { base: 0.04, variants: { "1024x1024/hd": 0.08, "1792x1024": 0.08, hd: 0.12 } },
      characterMchar: 15,
      inputAudioSecond: 0.0001,
      outputAudioSecond: 0.015,
      inputVideoSecond: 0.002,
      outputVideoSecond: { base: 0.3, variants: { "1792x1024": 0.5 } }
    }
    const none: Usage = { inputTokens: 0, outputTokens: 0 }
    it.each<readonly [keyof Usage, number, number]>([
      ["images", 3, 120_000_000],
      ["characters", 1234, 18_510_000],
      // 12.345 s at 100,000 nano
      ["inputAudioMs", 12_345, 1_234_500],
      ["outputAudioMs", 1, 15_000],
      ["inputVideoMs", 60_000, 120_000_000],
      ["outputVideoMs", 8_000, 2_400_000_000]
    ])("charges %s: %d cost %d nano-USD", (bucket, count, nano) => {
      assert.strictEqual(costNanoUsd({ ...none, [bucket]: count }, media), nano)
    })
    it.each<readonly [string | undefined, number]>([
      [undefined, 40_000_000],
      ["1024x1024/hd", 80_000_000],
      ["1792x1024/hd", 80_000_000],
      ["512x512/hd", 120_000_000],
      ["512x512/standard", 40_000_000],
      ["toString", 40_000_000],
      ["", 40_000_000]
    ])("an image of %s costs %d: by both, by its size, by its quality, else the base", (variant, nano) => {
      assert.strictEqual(
        costNanoUsd({ ...none, images: 1, ...(variant === undefined ? {} : { variant }) }, media),
        nano
      )
    })
    it("knows the dearest variant", () => {
      assert.strictEqual(dearestVariant(media.image), "hd")
      assert.isUndefined(dearestVariant({ base: 1, variants: { small: 0.5 } }))
      assert.isUndefined(dearestVariant(0.04))
    })
    it("is charged beside the tokens, and for nothing where it has no price", () => {
      const usage: Usage = { inputTokens: 10, outputTokens: 1000, images: 1 }
      assert.strictEqual(costNanoUsd(usage, { inputMtok: 5, outputMtok: 40 }), 40_050_000)
      assert.strictEqual(costNanoUsd(usage, { inputMtok: 5, outputMtok: 40, image: 0.01 }), 50_050_000)
    })
    it("counts that are none cost nothing", () => {
      for (const count of [NaN, -1, -Infinity, 0.9]) {
        assert.strictEqual(costNanoUsd({ ...none, outputAudioMs: count, images: count }, media), 0)
      }
      assert.strictEqual(costNanoUsd({ ...none, images: Infinity }, media), Number.MAX_SAFE_INTEGER)
    })
    it.each<readonly [string, Usage, Prices, boolean]>([
      ["tokens always are", { inputTokens: 1, outputTokens: 0, images: 1 }, { inputMtok: 0, outputMtok: 0 }, true],
      ["nothing is", zero, { inputMtok: 1, outputMtok: 1 }, true],
      ["no images are", { ...none, images: 0 }, { inputMtok: 1, outputMtok: 1 }, true],
      ["images without a price are not", { ...none, images: 1 }, { inputMtok: 1, outputMtok: 1 }, false],
      ["images for nothing are", { ...none, images: 1 }, { inputMtok: 1, outputMtok: 1, image: 0 }, true],
      ["one of several kinds is enough", { ...none, characters: 9, outputAudioMs: 1 }, media, true],
      [
        "another kind's price is not",
        { ...none, images: 1 },
        { inputMtok: 0, outputMtok: 0, characterMchar: 1 },
        false
      ],
      ["requests are", { ...none, images: 1 }, { inputMtok: 0, outputMtok: 0, requestsKcount: 40 }, true]
    ])("%s priced", (_, usage, prices, known) => {
      assert.strictEqual(isPriced(usage, prices), known)
    })
  })

  describe("tiers", () => {
    const tiered: Prices = {
      inputMtok: { base: 3, tiers: [{ start: 200_000, price: 6 }] },
      outputMtok: { base: 15, tiers: [{ start: 200_000, price: 22.5 }] },
      cacheReadMtok: { base: 0.3, tiers: [{ start: 200_000, price: 0.6 }] }
    }
    it("charges the base price up to the start, the start included", () => {
      assert.strictEqual(costNanoUsd({ inputTokens: 200_000, outputTokens: 100 }, tiered), 601_500_000)
    })
    it("charges all tokens at the tier's price beyond it, output too", () => {
      // 200,001 × 6,000 + 100 × 22,500
      assert.strictEqual(costNanoUsd({ inputTokens: 200_001, outputTokens: 100 }, tiered), 1_202_256_000)
    })
    it("counts cached and media tokens towards the tier", () => {
      const usage: Usage = { inputTokens: 1, cacheReadTokens: 199_999, inputImageTokens: 1, outputTokens: 0 }
      // 6,000 + 199,999 × 600 + 6,000
      assert.strictEqual(costNanoUsd(usage, tiered), 120_011_400)
    })
    it("takes the highest tier that applies, in whatever order they are written", () => {
      const inputMtok: Price = { base: 1, tiers: [{ start: 1000, price: 3 }, { start: 100, price: 2 }] }
      const prices: Prices = { inputMtok, outputMtok: 0 }
      assert.strictEqual(costNanoUsd({ inputTokens: 100, outputTokens: 0 }, prices), 100_000)
      assert.strictEqual(costNanoUsd({ inputTokens: 500, outputTokens: 0 }, prices), 1_000_000)
      assert.strictEqual(costNanoUsd({ inputTokens: 2000, outputTokens: 0 }, prices), 6_000_000)
    })
  })

  describe("bounds", () => {
    it("stays exact beyond what a floating sum can hold, and saturates at the largest safe integer", () => {
      // 9,007,199,254,741 tokens × 1,000 nano = 9,007,199,254,741,000 nano: more than 2^53 in pico-USD.
      const prices: Prices = { inputMtok: 1, outputMtok: 0.001 }
      assert.strictEqual(
        costNanoUsd({ inputTokens: 9_007_199_254_739, outputTokens: 3 }, prices),
        9_007_199_254_739_003
      )
      assert.strictEqual(
        costNanoUsd({ inputTokens: Number.MAX_SAFE_INTEGER, outputTokens: 0 }, { inputMtok: 1e300, outputMtok: 1 }),
        Number.MAX_SAFE_INTEGER
      )
    })
    it("counts what is no number, or negative, as nothing", () => {
      const prices: Prices = { inputMtok: 1, outputMtok: { base: -5, tiers: [] }, requestsKcount: -1 }
      assert.strictEqual(costNanoUsd({ inputTokens: Number.NaN, outputTokens: 10 }, prices), 0)
      assert.strictEqual(costNanoUsd({ inputTokens: -10, outputTokens: 0, cacheReadTokens: 2 }, prices), 2000)
    })
  })

  describe("laws", () => {
    const Tokens = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10_000_000 }))
    const AnyUsage = Schema.Struct({
      inputTokens: Tokens,
      outputTokens: Tokens,
      cacheReadTokens: Tokens,
      cacheWrite5mTokens: Tokens,
      cacheWrite1hTokens: Tokens,
      inputAudioTokens: Tokens,
      inputImageTokens: Tokens,
      outputAudioTokens: Tokens,
      outputImageTokens: Tokens
    })
    type AnyUsage = typeof AnyUsage.Type
    /** Thousandths of a USD per million tokens: whole nano-USD a token, so that nothing is rounded. */
    const Milli = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 600_000 }))
    const AnyPrices = Schema.Struct({
      input: Milli,
      rise: Milli,
      start: Tokens,
      output: Milli,
      read: Schema.optionalKey(Milli),
      write: Schema.optionalKey(Milli),
      write1h: Schema.optionalKey(Milli),
      audio: Schema.optionalKey(Milli),
      image: Schema.optionalKey(Milli),
      outAudio: Schema.optionalKey(Milli),
      outImage: Schema.optionalKey(Milli)
    })
    type AnyPrices = typeof AnyPrices.Type
    const pricesOf = (any: AnyPrices, tiered: boolean): Prices => ({
      inputMtok: tiered
        ? { base: any.input / 1000, tiers: [{ start: any.start, price: (any.input + any.rise) / 1000 }] }
        : any.input / 1000,
      outputMtok: any.output / 1000,
      ...(any.read === undefined ? {} : { cacheReadMtok: any.read / 1000 }),
      ...(any.write === undefined ? {} : { cacheWriteMtok: any.write / 1000 }),
      ...(any.write1h === undefined ? {} : { cacheWrite1hMtok: any.write1h / 1000 }),
      ...(any.audio === undefined ? {} : { inputAudioMtok: any.audio / 1000 }),
      ...(any.image === undefined ? {} : { inputImageMtok: any.image / 1000 }),
      ...(any.outAudio === undefined ? {} : { outputAudioMtok: any.outAudio / 1000 }),
      ...(any.outImage === undefined ? {} : { outputImageMtok: any.outImage / 1000 })
    })
    const buckets: ReadonlyArray<keyof AnyUsage> = [
      "inputTokens",
      "outputTokens",
      "cacheReadTokens",
      "cacheWrite5mTokens",
      "cacheWrite1hTokens",
      "inputAudioTokens",
      "inputImageTokens",
      "outputAudioTokens",
      "outputImageTokens"
    ]

    it.effect.prop(
      "equals the sum of bucket times price in big integers",
      [AnyUsage, AnyPrices],
      ([usage, any]) =>
        Effect.sync(() => {
          const input = totalInput(usage) > any.start ? any.input + any.rise : any.input
          const write = any.write ?? input
          const expected = BigInt(usage.inputTokens) * BigInt(input) +
            BigInt(usage.outputTokens) * BigInt(any.output) +
            BigInt(usage.cacheReadTokens) * BigInt(any.read ?? input) +
            BigInt(usage.cacheWrite5mTokens) * BigInt(write) +
            BigInt(usage.cacheWrite1hTokens) * BigInt(any.write1h ?? write) +
            BigInt(usage.inputAudioTokens) * BigInt(any.audio ?? input) +
            BigInt(usage.inputImageTokens) * BigInt(any.image ?? input) +
            BigInt(usage.outputAudioTokens) * BigInt(any.outAudio ?? any.output) +
            BigInt(usage.outputImageTokens) * BigInt(any.outImage ?? any.output)
          assert.strictEqual(BigInt(costNanoUsd(usage, pricesOf(any, true))), expected)
        })
    )

    it.effect.prop(
      "is additive where there are no tiers",
      [AnyUsage, AnyUsage, AnyPrices],
      ([a, b, any]) =>
        Effect.sync(() => {
          const prices = pricesOf(any, false)
          const both: Usage = {
            inputTokens: a.inputTokens + b.inputTokens,
            outputTokens: a.outputTokens + b.outputTokens,
            cacheReadTokens: a.cacheReadTokens + b.cacheReadTokens,
            cacheWrite5mTokens: a.cacheWrite5mTokens + b.cacheWrite5mTokens,
            cacheWrite1hTokens: a.cacheWrite1hTokens + b.cacheWrite1hTokens,
            inputAudioTokens: a.inputAudioTokens + b.inputAudioTokens,
            inputImageTokens: a.inputImageTokens + b.inputImageTokens,
            outputAudioTokens: a.outputAudioTokens + b.outputAudioTokens,
            outputImageTokens: a.outputImageTokens + b.outputImageTokens
          }
          assert.strictEqual(costNanoUsd(both, prices), costNanoUsd(a, prices) + costNanoUsd(b, prices))
        })
    )

    it.effect.prop(
      "never falls when a bucket grows",
      [AnyUsage, AnyPrices, Schema.Literals(buckets), Tokens],
      ([usage, any, bucket, more]) =>
        Effect.sync(() => {
          const prices = pricesOf(any, true)
          assert.isAtLeast(
            costNanoUsd({ ...usage, [bucket]: usage[bucket] + more }, prices),
            costNanoUsd(usage, prices)
          )
        })
    )

    // NaN and the infinities are the point here.
    // @effect-diagnostics schemaNumber:off
    const AnyNumber = Schema.Number
    it.effect.prop(
      "is a non-negative safe integer for any numbers at all",
      [AnyNumber, AnyNumber, AnyNumber, AnyNumber],
      ([input, output, cached, price]) =>
        Effect.sync(() => {
          const cost = costNanoUsd(
            { inputTokens: input, outputTokens: output, cacheReadTokens: cached },
            {
              inputMtok: price,
              outputMtok: { base: price, tiers: [{ start: output, price: input }] },
              requestsKcount: price
            }
          )
          assert.isTrue(Number.isSafeInteger(cost) && cost >= 0, String(cost))
        })
    )
  })
})

describe("usd", () => {
  it("turns nano-USD into USD", () => {
    assert.strictEqual(usd(4_500_000), 0.0045)
    assert.strictEqual(usd(0), 0)
  })
})
