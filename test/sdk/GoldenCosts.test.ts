/**
 * What answers cost, from the provider's bytes to the nano-USD. Every cost here was worked out by hand from the
 * providers' own rules, as the comment beside it shows, and every price was typed in; nothing comes from the code under
 * test.
 *
 * nano-USD: a price of 1 USD per million tokens is 1,000 nano-USD a token.
 */
import { assert, describe, it } from "@effect/vitest"
import { lookup } from "../../src/modules/modelRegistry/Catalogue.ts"
import type { ChatChunk } from "../../src/sdk/Chat.ts"
import type { Prices } from "../../src/sdk/Model.ts"
import { batchFactor, costNanoUsd } from "../../src/sdk/Pricing.ts"
import type { Usage } from "../../src/sdk/Usage.ts"
import type { Json } from "../../src/wire/Codec.ts"
import { hasRecordings, isStream, type RecordedProvider, recording, wireOf } from "../fixtures/Recordings.ts"
import { callOf, codecs, ok, plain, read, type WireName } from "../wire/Wires.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Prices, USD per million tokens
// ---------------------------------------------------------------------------------------------------------------------

/** As of 4 May 2026, by the provider and the model's id. */
const prices = {
  "openai gpt-4o": { inputMtok: 2.5, cacheReadMtok: 1.25, outputMtok: 10 },
  "openai gpt-4.1": { inputMtok: 2, cacheReadMtok: 0.5, outputMtok: 8 },
  "openai gpt-5": { inputMtok: 1.25, cacheReadMtok: 0.125, outputMtok: 10 },
  "openai gpt-5-nano": { inputMtok: 0.05, cacheReadMtok: 0.005, outputMtok: 0.4 },
  "openai o4-mini": { inputMtok: 1.1, cacheReadMtok: 0.275, outputMtok: 4.4 },
  "openai gpt-audio": { inputMtok: 2.5, outputMtok: 10, inputAudioMtok: 32, outputAudioMtok: 64 },
  "openai gpt-image-1.5": {
    inputMtok: 5,
    cacheReadMtok: 1.25,
    outputMtok: 10,
    inputImageMtok: 8,
    outputImageMtok: 32
  },
  "openai gpt-5.4": {
    inputMtok: { base: 2.5, tiers: [{ start: 271_999, price: 5 }] },
    cacheReadMtok: { base: 0.25, tiers: [{ start: 271_999, price: 0.5 }] },
    outputMtok: { base: 15, tiers: [{ start: 271_999, price: 22.5 }] }
  },
  "perplexity sonar": { inputMtok: 1, outputMtok: 1, requestsKcount: 12 },
  "anthropic claude-sonnet-4-0": {
    inputMtok: 3,
    cacheReadMtok: 0.3,
    cacheWriteMtok: 3.75,
    cacheWrite1hMtok: 6,
    outputMtok: 15
  },
  "anthropic claude-haiku-4-5": {
    inputMtok: 1,
    cacheReadMtok: 0.1,
    cacheWriteMtok: 1.25,
    cacheWrite1hMtok: 2,
    outputMtok: 5
  },
  "anthropic claude-sonnet-4-5": {
    inputMtok: { base: 3, tiers: [{ start: 200_000, price: 6 }] },
    cacheReadMtok: { base: 0.3, tiers: [{ start: 200_000, price: 0.6 }] },
    cacheWriteMtok: { base: 3.75, tiers: [{ start: 200_000, price: 7.5 }] },
    cacheWrite1hMtok: { base: 6, tiers: [{ start: 200_000, price: 12 }] },
    outputMtok: { base: 15, tiers: [{ start: 200_000, price: 22.5 }] }
  }
} as const satisfies Readonly<Record<string, Prices>>
type Priced = keyof typeof prices

/** What one's own machine charges. */
const nothing: Prices = { inputMtok: 0, outputMtok: 0 }

describe("the prices", () => {
  it.each(Object.entries(prices))("of %s are the catalogue's", (name, pinned) => {
    const [provider = "", model = ""] = name.split(" ")
    assert.deepStrictEqual(lookup(provider, undefined, model, Date.UTC(2026, 4, 4))?.prices, pinned)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Answers in the shapes of the wires, whole and streamed
// ---------------------------------------------------------------------------------------------------------------------

const sse = (events: ReadonlyArray<Json>, named: boolean): string =>
  events.map((event) => `${named ? `event: ${String(event["type"])}\n` : ""}data: ${JSON.stringify(event)}\n\n`).join(
    ""
  )

/** How each wire tells a usage object: in a whole answer, and in a stream. */
const shapes: Readonly<
  Record<WireName, (usage: Json) => { readonly whole: Json; readonly streamed: string }>
> = {
  openai: (usage) => {
    const chunk = (choices: ReadonlyArray<Json>, usage: Json | null): Json => ({
      id: "chatcmpl-1",
      object: "chat.completion.chunk",
      created: 1_777_852_800,
      model: "gpt",
      choices,
      usage
    })
    const choice = (delta: Json, finish: string | null): Json => ({
      index: 0,
      delta,
      logprobs: null,
      finish_reason: finish
    })
    return {
      whole: {
        id: "chatcmpl-1",
        object: "chat.completion",
        created: 1_777_852_800,
        model: "gpt",
        choices: [{ index: 0, message: { role: "assistant", content: "Hi", refusal: null }, finish_reason: "stop" }],
        usage
      },
      streamed: sse([
        chunk([choice({ role: "assistant", content: "" }, null)], null),
        chunk([choice({ content: "Hi" }, null)], null),
        chunk([choice({}, "stop")], null),
        chunk([], usage)
      ], false) + "data: [DONE]\n\n"
    }
  },
  anthropic: (usage) => {
    const { output_tokens: output, ...input } = usage
    const message = { id: "msg_1", type: "message", role: "assistant", model: "claude" }
    return {
      whole: {
        ...message,
        content: [{ type: "text", text: "Hi" }],
        stop_reason: "end_turn",
        stop_sequence: null,
        usage
      },
      // `message_delta` tells the input again, cumulative and without the split of what was written to the cache.
      streamed: sse([
        {
          type: "message_start",
          message: {
            ...message,
            content: [],
            stop_reason: null,
            stop_sequence: null,
            usage: { ...input, output_tokens: 1 }
          }
        },
        { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
        { type: "ping" },
        { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Hi" } },
        { type: "content_block_stop", index: 0 },
        {
          type: "message_delta",
          delta: { stop_reason: "end_turn", stop_sequence: null },
          usage: {
            input_tokens: input["input_tokens"],
            cache_creation_input_tokens: input["cache_creation_input_tokens"],
            cache_read_input_tokens: input["cache_read_input_tokens"],
            output_tokens: output
          }
        },
        { type: "message_stop" }
      ], true)
    }
  },
  ollama: (usage) => {
    const line = (content: string, more: Json): Json => ({
      model: "llama3",
      created_at: "2026-05-04T00:00:00Z",
      message: { role: "assistant", content },
      ...more
    })
    const done = { done_reason: "stop", done: true, total_duration: 5, ...usage }
    return {
      whole: line("Hi", done),
      streamed: [line("H", { done: false }), line("i", { done: false }), line("", done)]
        .map((json) => `${JSON.stringify(json)}\n`).join("")
    }
  }
}

const usageOfWhole = (wire: WireName, whole: Json): Usage => {
  const { usage } = ok(codecs[wire].decodeResponse(JSON.stringify(whole), whole, callOf(plain, wire)))
  return usage ?? assert.fail("the answer tells no usage")
}

/** The last usage counts. */
const usageOfStream = (wire: WireName, streamed: string): Usage => {
  const { chunks, failure } = read(wire, streamed, 7)
  assert.isUndefined(failure)
  const told = chunks.filter((chunk: ChatChunk) => chunk.usage !== undefined)
  return told.at(-1)?.usage ?? assert.fail("the stream tells no usage")
}

interface Golden {
  readonly name: string
  readonly wire: WireName
  readonly prices: Priced | "nothing"
  /** As the provider tells it. */
  readonly usage: Json
  /** nano-USD. */
  readonly cost: number
  /** nano-USD through the provider's batch API. */
  readonly batch: number
}

const goldens: ReadonlyArray<Golden> = [
  {
    name: "cached reads are a part of the prompt, at their own price",
    wire: "openai",
    prices: "openai gpt-4o",
    usage: {
      prompt_tokens: 2006,
      completion_tokens: 300,
      total_tokens: 2306,
      prompt_tokens_details: { cached_tokens: 1920, audio_tokens: 0 },
      completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
    },
    // 86 × 2,500 + 1,920 × 1,250 + 300 × 10,000 = 215,000 + 2,400,000 + 3,000,000
    cost: 5_615_000,
    batch: 2_807_500
  },
  {
    name: "reasoning is a part of the answer, charged once",
    wire: "openai",
    prices: "openai o4-mini",
    usage: {
      prompt_tokens: 75,
      completion_tokens: 1186,
      total_tokens: 1261,
      prompt_tokens_details: { cached_tokens: 0 },
      completion_tokens_details: { reasoning_tokens: 1024 }
    },
    // 75 × 1,100 + 1,186 × 4,400 = 82,500 + 5,218,400
    cost: 5_300_900,
    batch: 2_650_450
  },
  {
    name: "audio in and out have prices of their own",
    wire: "openai",
    prices: "openai gpt-audio",
    usage: {
      prompt_tokens: 120,
      completion_tokens: 260,
      total_tokens: 380,
      prompt_tokens_details: { cached_tokens: 0, audio_tokens: 100, text_tokens: 20 },
      completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 200, text_tokens: 60 }
    },
    // 20 × 2,500 + 100 × 32,000 + 60 × 10,000 + 200 × 64,000 = 50,000 + 3,200,000 + 600,000 + 12,800,000
    cost: 16_650_000,
    batch: 8_325_000
  },
  {
    name: "images in and out have prices of their own",
    wire: "openai",
    prices: "openai gpt-image-1.5",
    usage: {
      prompt_tokens: 350,
      completion_tokens: 1600,
      total_tokens: 1950,
      prompt_tokens_details: { cached_tokens: 0, image_tokens: 323 },
      completion_tokens_details: { image_tokens: 1568 }
    },
    // 27 × 5,000 + 323 × 8,000 + 32 × 10,000 + 1,568 × 32,000 = 135,000 + 2,584,000 + 320,000 + 50,176,000
    cost: 53_215_000,
    batch: 26_607_500
  },
  {
    name: "below 272,000 tokens of input the base price holds",
    wire: "openai",
    prices: "openai gpt-5.4",
    usage: {
      prompt_tokens: 271_000,
      completion_tokens: 1000,
      total_tokens: 272_000,
      prompt_tokens_details: { cached_tokens: 200_000 }
    },
    // 71,000 × 2,500 + 200,000 × 250 + 1,000 × 15,000 = 177,500,000 + 50,000,000 + 15,000,000
    cost: 242_500_000,
    batch: 121_250_000
  },
  {
    name: "above 272,000 tokens of input every token costs more, cached ones and the answer's too",
    wire: "openai",
    prices: "openai gpt-5.4",
    usage: {
      prompt_tokens: 273_000,
      completion_tokens: 1000,
      total_tokens: 274_000,
      prompt_tokens_details: { cached_tokens: 200_000 }
    },
    // 73,000 × 5,000 + 200,000 × 500 + 1,000 × 22,500 = 365,000,000 + 100,000,000 + 22,500,000
    cost: 487_500_000,
    batch: 243_750_000
  },
  {
    name: "a price for each request comes on top",
    wire: "openai",
    prices: "perplexity sonar",
    usage: { prompt_tokens: 14, completion_tokens: 294, total_tokens: 308 },
    // 308 × 1,000 + 12,000,000
    cost: 12_308_000,
    batch: 6_154_000
  },
  {
    name: "a cost that the provider tells is not believed",
    wire: "openai",
    prices: "openai gpt-4o",
    usage: { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15, cost: 3_100_000, cost_details: { total: 1 } },
    // 10 × 2,500 + 5 × 10,000
    cost: 75_000,
    batch: 37_500
  },
  {
    name: "an unset price of a bucket is the price of input, never nothing",
    wire: "openai",
    prices: "openai gpt-5",
    usage: {
      prompt_tokens: 1000,
      completion_tokens: 0,
      total_tokens: 1000,
      prompt_tokens_details: { cached_tokens: 100, cache_write_tokens: 200, audio_tokens: 300, image_tokens: 400 }
    },
    // 100 × 125 + 900 × 1,250
    cost: 1_137_500,
    batch: 568_750
  },
  {
    name: "fractions of a nano-USD are rounded once, half up",
    wire: "openai",
    prices: "openai gpt-4.1",
    usage: {
      prompt_tokens: 3,
      completion_tokens: 0,
      total_tokens: 3,
      prompt_tokens_details: { cached_tokens: 3 }
    },
    // 3 × 500; half of it is 750
    cost: 1500,
    batch: 750
  },
  {
    name: "odd sums of a batch are rounded up at the half",
    wire: "openai",
    prices: "openai gpt-5-nano",
    usage: { prompt_tokens: 1, completion_tokens: 0, total_tokens: 1, prompt_tokens_details: { cached_tokens: 1 } },
    // 1 × 5; half of it is 2.5
    cost: 5,
    batch: 3
  },
  {
    name: "cache reads and writes of both lifetimes stand beside the input",
    wire: "anthropic",
    prices: "anthropic claude-sonnet-4-5",
    usage: {
      input_tokens: 2095,
      cache_creation_input_tokens: 1400,
      cache_read_input_tokens: 12_800,
      cache_creation: { ephemeral_5m_input_tokens: 1000, ephemeral_1h_input_tokens: 400 },
      output_tokens: 503
    },
    // 2,095 × 3,000 + 12,800 × 300 + 1,000 × 3,750 + 400 × 6,000 + 503 × 15,000
    // = 6,285,000 + 3,840,000 + 3,750,000 + 2,400,000 + 7,545,000
    cost: 23_820_000,
    batch: 11_910_000
  },
  {
    name: "a cache write that does not tell its lifetime is one of five minutes",
    wire: "anthropic",
    prices: "anthropic claude-haiku-4-5",
    usage: {
      input_tokens: 10,
      cache_creation_input_tokens: 1000,
      cache_read_input_tokens: 0,
      output_tokens: 20
    },
    // 10 × 1,000 + 1,000 × 1,250 + 20 × 5,000
    cost: 1_360_000,
    batch: 680_000
  },
  {
    name: "above 200,000 tokens of input, cached ones included, every token costs more",
    wire: "anthropic",
    prices: "anthropic claude-sonnet-4-5",
    usage: {
      input_tokens: 1,
      cache_creation_input_tokens: 50_000,
      cache_read_input_tokens: 150_000,
      cache_creation: { ephemeral_5m_input_tokens: 30_000, ephemeral_1h_input_tokens: 20_000 },
      output_tokens: 100
    },
    // 1 × 6,000 + 150,000 × 600 + 30,000 × 7,500 + 20,000 × 12,000 + 100 × 22,500
    // = 6,000 + 90,000,000 + 225,000,000 + 240,000,000 + 2,250,000
    cost: 557_256_000,
    batch: 278_628_000
  },
  {
    name: "at 200,000 tokens of input the base price holds",
    wire: "anthropic",
    prices: "anthropic claude-sonnet-4-5",
    usage: {
      input_tokens: 0,
      cache_creation_input_tokens: 50_000,
      cache_read_input_tokens: 150_000,
      cache_creation: { ephemeral_5m_input_tokens: 30_000, ephemeral_1h_input_tokens: 20_000 },
      output_tokens: 100
    },
    // 150,000 × 300 + 30,000 × 3,750 + 20,000 × 6,000 + 100 × 15,000
    // = 45,000,000 + 112,500,000 + 120,000,000 + 1,500,000
    cost: 279_000_000,
    batch: 139_500_000
  },
  {
    name: "thinking is a part of the output, charged once",
    wire: "anthropic",
    prices: "anthropic claude-sonnet-4-5",
    usage: {
      input_tokens: 43,
      cache_creation_input_tokens: 0,
      cache_read_input_tokens: 0,
      output_tokens: 900,
      output_tokens_details: { thinking_tokens: 800 }
    },
    // 43 × 3,000 + 900 × 15,000
    cost: 13_629_000,
    batch: 6_814_500
  },
  {
    name: "one's own machine charges nothing",
    wire: "ollama",
    prices: "nothing",
    usage: { prompt_eval_count: 26, eval_count: 298, prompt_eval_duration: 1, eval_duration: 2 },
    cost: 0,
    batch: 0
  },
  {
    name: "what runs on Ollama's side of a paid model is charged by its own counts",
    wire: "ollama",
    prices: "openai gpt-4o",
    usage: { prompt_eval_count: 26, eval_count: 298 },
    // 26 × 2,500 + 298 × 10,000
    cost: 3_045_000,
    batch: 1_522_500
  }
]

describe.each(goldens)("$wire: $name", (golden) => {
  const charged: Prices = golden.prices === "nothing" ? nothing : prices[golden.prices]
  const { streamed, whole } = shapes[golden.wire](golden.usage)

  it("a whole answer", () => {
    assert.strictEqual(costNanoUsd(usageOfWhole(golden.wire, whole), charged), golden.cost)
  })

  it("a streamed answer", () => {
    assert.strictEqual(costNanoUsd(usageOfStream(golden.wire, streamed), charged), golden.cost)
    // The same, bucket by bucket.
    assert.deepStrictEqual(usageOfStream(golden.wire, streamed), usageOfWhole(golden.wire, whole))
  })

  it("an answer of a batch", () => {
    assert.strictEqual(costNanoUsd(usageOfWhole(golden.wire, whole), charged, { factor: batchFactor }), golden.batch)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Real traffic
// ---------------------------------------------------------------------------------------------------------------------

interface Recorded {
  readonly provider: RecordedProvider
  readonly name: string
  readonly prices: Priced | "nothing"
  /** nano-USD. */
  readonly cost: number
}

const recorded: ReadonlyArray<Recorded> = [
  // 120 × 2,000 + 1,024 × 500 + 2 × 8,000 = 240,000 + 512,000 + 16,000
  { provider: "openai", name: "chat-cached-1-write", prices: "openai gpt-4.1", cost: 768_000 },
  // 120 × 2,000 + 1,024 × 500 + 3 × 8,000
  { provider: "openai", name: "chat-cached-stream", prices: "openai gpt-4.1", cost: 776_000 },
  // 1,144 × 2,000 + 3 × 8,000
  { provider: "openai", name: "chat-cached-2-read", prices: "openai gpt-4.1", cost: 2_312_000 },
  // 12 × 50 + 100 × 400, all of it reasoning
  { provider: "openai", name: "chat-stream-usage-length", prices: "openai gpt-5-nano", cost: 40_600 },
  // 190 × 1,250 + 379 × 10,000, of which 320 are reasoning
  { provider: "openai", name: "tools-parallel-stream-gpt5", prices: "openai gpt-5", cost: 4_027_500 },
  // 17 × 3,000 + 2,056 × 6,000 + 100 × 15,000 = 51,000 + 12,336,000 + 1,500,000
  { provider: "anthropic", name: "cache-write-1h", prices: "anthropic claude-sonnet-4-0", cost: 13_887_000 },
  // 11 × 3,000 + 1,031 × 300 + 100 × 15,000 = 33,000 + 309,300 + 1,500,000; the 1 of message_start is not added
  { provider: "anthropic", name: "cache-read-stream", prices: "anthropic claude-sonnet-4-0", cost: 1_842_300 },
  // 46 × 1,000 + 133 × 5,000
  { provider: "anthropic", name: "thinking-stream", prices: "anthropic claude-haiku-4-5", cost: 711_000 },
  // 43 × 3,000 + 36 × 15,000
  { provider: "anthropic", name: "thinking", prices: "anthropic claude-sonnet-4-5", cost: 669_000 },
  { provider: "ollama", name: "chat", prices: "nothing", cost: 0 },
  { provider: "ollama", name: "chat-stream", prices: "nothing", cost: 0 },
  // 77 × 2,500 + 146 × 10,000, had it been sold at the price of gpt-4o
  { provider: "ollama", name: "oai-chat-reasoning", prices: "openai gpt-4o", cost: 1_652_500 },
  // 67 × 2,500 + 65 × 10,000, likewise
  { provider: "ollama", name: "thinking-stream", prices: "openai gpt-4o", cost: 817_500 }
]

describe.skipIf(!hasRecordings)("recorded answers", () => {
  it.each(recorded)("$provider $name costs $cost", ({ cost, name, prices: priced, provider }) => {
    const found = recording(provider, name)
    const wire = wireOf(found)
    const { body, framing, lines = [] } = found.response
    const usage = isStream(found)
      ? usageOfStream(wire, lines.map((line) => `${line}\n`).join("") + (framing === "sse" ? "\n" : ""))
      : usageOfWhole(wire, Object(body))
    assert.strictEqual(costNanoUsd(usage, priced === "nothing" ? nothing : prices[priced]), cost)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Factors
// ---------------------------------------------------------------------------------------------------------------------

describe("a factor of the price", () => {
  const one: Usage = { inputTokens: 1, outputTokens: 0 }

  it("applies to the exact sum, which is rounded once", () => {
    // 3 × 0.3 nano-USD = 0.9; half of it is 0.45, which is no nano-USD, while half of the rounded 1 would have been one.
    assert.strictEqual(costNanoUsd({ inputTokens: 3, outputTokens: 0 }, { inputMtok: 0.0003, outputMtok: 0 }), 1)
    assert.strictEqual(
      costNanoUsd({ inputTokens: 3, outputTokens: 0 }, { inputMtok: 0.0003, outputMtok: 0 }, { factor: batchFactor }),
      0
    )
  })

  it("may be any fraction", () => {
    const charge = (numerator: number, denominator: number) =>
      costNanoUsd(one, { inputMtok: 10, outputMtok: 0 }, { factor: { numerator, denominator } })
    // 10,000 nano-USD
    assert.strictEqual(charge(1, 3), 3333)
    assert.strictEqual(charge(2, 3), 6667)
    assert.strictEqual(charge(11, 10), 11_000)
    assert.strictEqual(charge(0, 1), 0)
    assert.strictEqual(charge(1, 1), 10_000)
    assert.strictEqual(charge(Number.MAX_SAFE_INTEGER, 1), Number.MAX_SAFE_INTEGER)
    assert.strictEqual(charge(1, Number.MAX_SAFE_INTEGER), 0)
  })

  it("that is none leaves the whole price", () => {
    for (
      const [numerator, denominator] of [[1, 0], [-1, 2], [1, -2], [0.5, 1], [Number.NaN, 1], [1, Infinity]] as const
    ) {
      assert.strictEqual(
        costNanoUsd(one, { inputMtok: 10, outputMtok: 0 }, { factor: { numerator, denominator } }),
        10_000
      )
    }
  })
})
